/* tokenizer.json: decoders. Most lists can run on one token after the other (decode.c); some need all tokens at once
 * (decode_list.c): they are told apart when the list has been read. A component that is not known is refused by its name.
 */
#include "tok/json.h"

#include "base/mem.h"

#include <string.h>

static bool is(const tok_node *o, const char *type) { return strcmp(tok_json_type(o), type) == 0; }

static fl_status next_dec(tok_builder *b, tok_dec_kind kind, tok_dec **out, fl_err *err) {
    tok_pipe *p = b->p;
    *out = NULL;
    if (p->n_decs == TOK_DECS_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "tokenizer.json has more than %d decoders", TOK_DECS_MAX);
    *out = &p->decs[p->n_decs++];
    **out = (tok_dec){.kind = kind, .stage = TOK_NONE};
    return FL_OK;
}

static uint32_t count_of(const tok_node *o, const char *key) {
    int64_t n = tok_node_int(tok_node_get(o, key));
    return n < 0 ? 0 : n > 1000 ? 1000 : (uint32_t)n;
}

static fl_status read_strip(const tok_node *o, tok_dec *d, fl_err *err) {
    const char *content = tok_json_string(o, "content");
    if (!content || !*content || strlen(content) > 4)
        return fl_fail(err, FL_EFORMAT, "content of decoder Strip is not one character");
    d->start = count_of(o, "start");
    d->stop = count_of(o, "stop");
    return tok_json_copy(tok_node_get(o, "content"), "decoder Strip", &d->from, &d->n_from, err);
}

static fl_status read_replace(tok_builder *b, const tok_node *o, tok_dec *d, fl_err *err) {
    const tok_node *pattern = tok_node_get(o, "pattern"), *from = tok_node_get(pattern, "String");
    fl_status st = tok_json_copy(tok_node_get(o, "content"), "decoder Replace", &d->to, &d->n_to, err);
    if (st == FL_OK && from) return tok_json_copy(from, "decoder Replace", &d->from, &d->n_from, err);
    d->stage = b->n_stages;
    return st == FL_OK ? tok_json_pattern(b, pattern, "decoder Replace", TOK_ISOLATED, false, err) : st;
}

static fl_status read_metaspace(const tok_node *o, tok_dec *d, fl_err *err) {
    tok_prepend prepend;
    fl_status st = tok_json_prepend(o, &prepend, err);
    if (st != FL_OK) return st;
    d->prepends = prepend != TOK_PREPEND_NEVER;
    return tok_json_copy(tok_node_get(o, "replacement"), "decoder Metaspace", &d->from, &d->n_from, err);
}

/* The text at key, or what the library takes without one. */
static fl_status text_or(const tok_node *o, const char *key, const char *otherwise, char **out, size_t *n,
                         fl_err *err) {
    const tok_node *v = tok_node_get(o, key);
    if (v) return tok_json_copy(v, key, out, n, err);
    *n = strlen(otherwise);
    *out = base_strdup(otherwise);
    return *out ? FL_OK : fl_fail(err, FL_ENOMEM, "tokenizer.json");
}

static fl_status read_ctc(const tok_node *o, tok_dec *d, fl_err *err) {
    fl_status st = text_or(o, "pad_token", "<pad>", &d->from, &d->n_from, err);
    return st == FL_OK ? text_or(o, "word_delimiter_token", "|", &d->to, &d->n_to, err) : st;
}

static fl_status read_step(tok_builder *b, const tok_node *o, fl_err *err) {
    static const struct {
        const char *name;
        tok_dec_kind kind;
    } kinds[] = {{"ByteFallback", TOK_DEC_FALLBACK}, {"Fuse", TOK_DEC_FUSE},         {"ByteLevel", TOK_DEC_LEVEL},
                 {"Strip", TOK_DEC_STRIP},           {"Replace", TOK_DEC_REPLACE},   {"Metaspace", TOK_DEC_METASPACE},
                 {"WordPiece", TOK_DEC_WORDPIECE},   {"BPEDecoder", TOK_DEC_SUFFIX}, {"CTC", TOK_DEC_CTC}};
    size_t k = 0;
    while (k < sizeof kinds / sizeof *kinds && !is(o, kinds[k].name)) k++;
    if (k == sizeof kinds / sizeof *kinds) return tok_json_unknown("decoder", o, err);
    tok_dec *d;
    fl_status st = next_dec(b, kinds[k].kind, &d, err);
    if (st != FL_OK) return st;
    d->cleanup = tok_json_bool(o, "cleanup", true);
    switch (d->kind) {
        case TOK_DEC_STRIP: return read_strip(o, d, err);
        case TOK_DEC_REPLACE: return read_replace(b, o, d, err);
        case TOK_DEC_METASPACE: return read_metaspace(o, d, err);
        case TOK_DEC_WORDPIECE: return text_or(o, "prefix", "##", &d->from, &d->n_from, err);
        case TOK_DEC_SUFFIX: return text_or(o, "suffix", "</w>", &d->from, &d->n_from, err);
        case TOK_DEC_CTC: return read_ctc(o, d, err);
        default: return FL_OK;
    }
}

static fl_status read_dec(tok_builder *b, const tok_node *o, int depth, fl_err *err) {
    const tok_node *item;
    if (!is(o, "Sequence") || depth >= TOK_JSON_DEPTH) return read_step(b, o, err);
    const tok_node *list = tok_node_get(o, "decoders");
    for (item = tok_node_first(list); item; item = tok_node_next(list, item)) {
        fl_status st = read_dec(b, item, depth + 1, err);
        if (st != FL_OK) return st;
    }
    return FL_OK;
}

static void drop_dec(tok_pipe *p) {
    tok_dec *d = &p->decs[--p->n_decs];
    base_free(d->from);
    base_free(d->to);
}

/* How the list can run. */
static void classify(tok_pipe *p) {
    uint32_t n = 0;
    if (p->n_decs == 1 && p->decs[0].kind == TOK_DEC_LEVEL) {
        p->dec_bytes = true;
        drop_dec(p);
        return;
    }
    while (n < p->n_decs && p->decs[n].kind <= TOK_DEC_BLANKS && p->decs[n].stage == TOK_NONE) n++;
    const tok_dec *strip = n + 2 == p->n_decs ? &p->decs[n + 1] : NULL;
    bool fused = n < p->n_decs && p->decs[n].kind == TOK_DEC_FUSE &&
                 (n + 1 == p->n_decs || (strip && strip->kind == TOK_DEC_STRIP && !strip->stop));
    p->dec_whole = n < p->n_decs && !fused;
    if (!fused) return;
    if (strip) {
        memcpy(p->strip, strip->from, strip->n_from + 1);
        p->strip_max = strip->start;
    }
    while (p->n_decs > n) drop_dec(p);
}

fl_status tok_json_decoder(tok_builder *b, fl_err *err) {
    const tok_node *decoder = tok_node_get(b->root, "decoder");
    tok_dec *d;
    if (!decoder || tok_node_is(decoder, TOK_NODE_NULL)) return next_dec(b, TOK_DEC_BLANKS, &d, err);
    fl_status st = read_dec(b, decoder, 0, err);
    if (st == FL_OK) classify(b->p);
    return st;
}
