/* tokenizer.json: normalisers, pre-tokenizers and decoders. Most pre-tokenizers are a pattern and a behaviour; all
 * patterns of a file are stages of one splitter. A component that is not known is refused by its name.
 */
#include "tok/json.h"

#include "base/mem.h"

#include <ctype.h>
#include <string.h>

#define PUNCTUATION "[!-/:-@\\[-`{-~\\p{P}]"
#define WORD        "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{200C}\\x{200D}"

static const char *type_of(const tok_node *o) {
    const char *type = tok_json_string(o, "type");
    return type ? type : "";
}

static bool is(const tok_node *o, const char *type) { return strcmp(type_of(o), type) == 0; }

static fl_status unknown(const char *what, const tok_node *o, fl_err *err) {
    return fl_fail(err, FL_EUNSUPPORTED, "%s \"%.60s\" of tokenizer.json is not known", what, type_of(o));
}

static fl_status no_memory(fl_err *err) { return fl_fail(err, FL_ENOMEM, "tokenizer.json"); }

static fl_status copy_text(const tok_node *v, const char *what, char **out, size_t *n, fl_err *err) {
    if (!tok_node_is(v, TOK_NODE_STRING)) return fl_fail(err, FL_EFORMAT, "%s of tokenizer.json has no text", what);
    *n = v->n;
    *out = base_malloc(*n + 1);
    if (!*out) return no_memory(err);
    memcpy(*out, tok_node_chars(v), *n + 1);
    return FL_OK;
}

/* ---- patterns ---- */

static fl_status add_stage(tok_builder *b, const char *pattern, tok_behaviour how, bool invert, fl_err *err) {
    if (b->n_stages == TOK_STAGES_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "tokenizer.json has more than %d patterns", TOK_STAGES_MAX);
    char *copy = base_strdup(pattern);
    if (!copy) return no_memory(err);
    b->patterns[b->n_stages] = copy;
    b->stages[b->n_stages++] = (tok_stage){copy, how, invert};
    return FL_OK;
}

/* A string as a pattern. */
static bool quote(const char *s, base_buf *out) {
    for (; *s; s++) {
        if ((uint8_t)*s < 0x80 && !isalnum((uint8_t)*s) && !base_buf_putc(out, '\\')) return false;
        if (!base_buf_putc(out, *s)) return false;
    }
    return base_buf_puts(out, "");
}

/* {"String": ...} or {"Regex": ...}. */
static fl_status add_pattern(tok_builder *b, const tok_node *pattern, const char *what, tok_behaviour how, bool invert,
                             fl_err *err) {
    const tok_node *regex = tok_node_get(pattern, "Regex");
    const char *string =
        tok_node_is(pattern, TOK_NODE_STRING) ? tok_node_chars(pattern) : tok_json_string(pattern, "String");
    base_buf made = {0};
    fl_status st;
    if (tok_node_is(regex, TOK_NODE_STRING))
        st = tok_onig_translate(regex->as.bytes, regex->n, &made, err);
    else if (string)
        st = quote(string, &made) ? FL_OK : no_memory(err);
    else
        st = fl_fail(err, FL_EFORMAT, "there is no pattern");
    if (st == FL_OK) st = add_stage(b, made.data, how, invert, err);
    base_buf_clear(&made);
    return st == FL_OK ? st : fl_wrap(err, st, "%s of tokenizer.json", what);
}

/* ---- normalisers ---- */

static fl_status next_norm(tok_builder *b, tok_norm_kind kind, tok_norm **out, fl_err *err) {
    tok_pipe *p = b->p;
    *out = NULL;
    if (p->n_norms == TOK_NORMS_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "tokenizer.json has more than %d normalizers", TOK_NORMS_MAX);
    *out = &p->norms[p->n_norms++];
    **out = (tok_norm){.kind = kind, .stage = TOK_NONE};
    return FL_OK;
}

static fl_status read_replace(tok_builder *b, const tok_node *o, fl_err *err) {
    tok_norm *s;
    fl_status st = next_norm(b, TOK_NORM_REPLACE, &s, err);
    const tok_node *pattern = tok_node_get(o, "pattern");
    if (st == FL_OK) st = copy_text(tok_node_get(o, "content"), "normalizer Replace", &s->to, &s->n_to, err);
    if (st != FL_OK) return st;
    if (tok_node_get(pattern, "String"))
        return copy_text(tok_node_get(pattern, "String"), "normalizer Replace", &s->from, &s->n_from, err);
    s->stage = b->n_stages;
    return add_pattern(b, pattern, "normalizer Replace", TOK_ISOLATED, false, err);
}

size_t tok_unbase64(char *s, size_t n) {
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    size_t k = 0;
    uint32_t bits = 0, n_bits = 0;
    while (n && s[n - 1] == '=') n--;
    for (size_t i = 0; i < n; i++) {
        const char *d = s[i] ? strchr(digits, s[i]) : NULL;
        if (!d) return SIZE_MAX;
        bits = bits << 6 | (uint32_t)(d - digits);
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        s[k++] = (char)(bits >> n_bits);
        bits &= (1u << n_bits) - 1;
    }
    return k;
}

static fl_status read_precompiled(tok_builder *b, const tok_node *o, fl_err *err) {
    char *blob = NULL;
    size_t n;
    tok_norm *s;
    fl_status st = copy_text(tok_node_get(o, "precompiled_charsmap"), "normalizer Precompiled", &blob, &n, err);
    if (st == FL_OK && (n = tok_unbase64(blob, n)) == SIZE_MAX)
        st = fl_fail(err, FL_EFORMAT, "normalizer Precompiled of tokenizer.json is no base64");
    if (st == FL_OK && n) {
        st = next_norm(b, TOK_NORM_CHARSMAP, &s, err);
        if (st == FL_OK) st = tok_charsmap_open(&s->map, blob, n, err);
    }
    base_free(blob);
    return st;
}

static fl_status read_bert(tok_builder *b, const tok_node *o, fl_err *err) {
    tok_norm *s;
    bool lower = tok_json_bool(o, "lowercase", true);
    fl_status st = FL_OK;
    if (tok_json_bool(o, "clean_text", true)) st = next_norm(b, TOK_NORM_CLEAN, &s, err);
    if (st == FL_OK && tok_json_bool(o, "handle_chinese_chars", true)) st = next_norm(b, TOK_NORM_CHINESE, &s, err);
    if (st == FL_OK && tok_json_bool(o, "strip_accents", lower)) {
        st = next_norm(b, TOK_NORM_FORM, &s, err);
        if (st == FL_OK) {
            s->form = TOK_FORM_NFD;
            st = next_norm(b, TOK_NORM_UNMARK, &s, err);
            if (st == FL_OK) s->left = true;
        }
    }
    if (st == FL_OK && lower) st = next_norm(b, TOK_NORM_LOWER, &s, err);
    return st;
}

static fl_status read_norm(tok_builder *b, const tok_node *o, int depth, fl_err *err) {
    static const struct {
        const char *name;
        tok_norm_kind kind;
        tok_form form;
    } plain[] = {{"NFC", TOK_NORM_FORM, TOK_FORM_NFC},   {"NFD", TOK_NORM_FORM, TOK_FORM_NFD},
                 {"NFKC", TOK_NORM_FORM, TOK_FORM_NFKC}, {"NFKD", TOK_NORM_FORM, TOK_FORM_NFKD},
                 {"Lowercase", TOK_NORM_LOWER, 0},       {"StripAccents", TOK_NORM_UNMARK, 0},
                 {"Strip", TOK_NORM_STRIP, 0},           {"Prepend", TOK_NORM_PREPEND, 0}};
    if (!o || tok_node_is(o, TOK_NODE_NULL)) return FL_OK;
    const tok_node *item;
    tok_norm *s;
    fl_status st = FL_OK;
    if (is(o, "Sequence") && depth < TOK_JSON_DEPTH) {
        const tok_node *list = tok_node_get(o, "normalizers");
        for (item = tok_node_first(list); item; item = tok_node_next(list, item)) {
            st = read_norm(b, item, depth + 1, err);
            if (st != FL_OK) return st;
        }
        return FL_OK;
    }
    if (is(o, "Replace")) return read_replace(b, o, err);
    if (is(o, "Precompiled")) return read_precompiled(b, o, err);
    if (is(o, "BertNormalizer")) return read_bert(b, o, err);
    for (size_t k = 0; k < sizeof plain / sizeof *plain; k++) {
        if (!is(o, plain[k].name)) continue;
        st = next_norm(b, plain[k].kind, &s, err);
        if (st != FL_OK) return st;
        s->form = plain[k].form;
        s->left = s->kind == TOK_NORM_STRIP && tok_json_bool(o, "strip_left", true);
        s->right = tok_json_bool(o, "strip_right", true);
        if (s->kind != TOK_NORM_PREPEND) return FL_OK;
        return copy_text(tok_node_get(o, "prepend"), "normalizer Prepend", &s->to, &s->n_to, err);
    }
    return unknown("normalizer", o, err);
}

/* ---- pre-tokenizers ---- */

static fl_status next_pre(tok_builder *b, tok_pre_kind kind, tok_pre **out, fl_err *err) {
    tok_pipe *p = b->p;
    *out = NULL;
    if (p->n_pres == TOK_PRES_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "tokenizer.json has more than %d pre-tokenizers", TOK_PRES_MAX);
    *out = &p->pres[p->n_pres++];
    **out = (tok_pre){.kind = kind};
    return FL_OK;
}

/* The last stage added is run behind what there is. */
static fl_status run_last(tok_builder *b, fl_err *err) {
    tok_pipe *p = b->p;
    tok_pre *s = p->n_pres ? &p->pres[p->n_pres - 1] : NULL;
    if (s && s->kind == TOK_PRE_SPLIT && s->end == b->n_stages - 1) {
        s->end++;
        return FL_OK;
    }
    fl_status st = next_pre(b, TOK_PRE_SPLIT, &s, err);
    if (st != FL_OK) return st;
    s->first = b->n_stages - 1;
    s->end = b->n_stages;
    return FL_OK;
}

static fl_status put_split(tok_builder *b, const char *pattern, tok_behaviour how, bool invert, fl_err *err) {
    fl_status st = add_stage(b, pattern, how, invert, err);
    return st == FL_OK ? run_last(b, err) : st;
}

static fl_status read_behaviour(const tok_node *o, tok_behaviour *out, fl_err *err) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name = tok_json_string(o, "behavior");
    *out = TOK_ISOLATED;
    if (!name) return FL_OK;
    for (int k = 0; k < 5; k++)
        if (strcmp(name, names[k]) == 0) {
            *out = (tok_behaviour)k;
            return FL_OK;
        }
    return fl_fail(err, FL_EUNSUPPORTED, "behavior \"%.60s\" of pre-tokenizer %s is not known", name, type_of(o));
}

/* Which of the three; old files have add_prefix_space instead. */
static fl_status read_prepend(const tok_node *o, tok_prepend *out, fl_err *err) {
    const char *scheme = tok_json_string(o, "prepend_scheme");
    *out = tok_json_bool(o, "add_prefix_space", true) ? TOK_PREPEND_ALWAYS : TOK_PREPEND_NEVER;
    if (!scheme) return FL_OK;
    if (strcmp(scheme, "always") == 0)
        *out = TOK_PREPEND_ALWAYS;
    else if (strcmp(scheme, "first") == 0)
        *out = TOK_PREPEND_FIRST;
    else if (strcmp(scheme, "never") == 0)
        *out = TOK_PREPEND_NEVER;
    else
        return fl_fail(err, FL_EUNSUPPORTED, "prepend_scheme \"%.60s\" of Metaspace is not known", scheme);
    return FL_OK;
}

static fl_status read_metaspace(tok_builder *b, const tok_node *o, fl_err *err) {
    tok_pre *s;
    const char *sign = tok_json_string(o, "replacement");
    if (!sign) sign = "\xe2\x96\x81";
    fl_status st = next_pre(b, TOK_PRE_METASPACE, &s, err);
    if (st == FL_OK) st = read_prepend(o, &s->prepend, err);
    if (st != FL_OK) return st;
    if (!*sign || strlen(sign) > 4) return fl_fail(err, FL_EFORMAT, "replacement of Metaspace is not one character");
    memcpy(s->sign, sign, strlen(sign) + 1);
    if (!tok_json_bool(o, "split", true)) return FL_OK;
    base_buf pattern = {0};
    st = quote(sign, &pattern) ? put_split(b, pattern.data, TOK_WITH_NEXT, false, err) : no_memory(err);
    base_buf_clear(&pattern);
    return st;
}

static fl_status read_bytelevel(tok_builder *b, const tok_node *o, fl_err *err) {
    tok_pre *s;
    fl_status st = FL_OK;
    if (b->p->model != TOK_MODEL_CHARS || b->p->prefix || b->p->suffix || b->p->byte_fallback)
        return fl_fail(err, FL_EUNSUPPORTED, "pre-tokenizer ByteLevel before a model that is not plain BPE");
    b->p->model = TOK_MODEL_BYTES;
    if (tok_json_bool(o, "add_prefix_space", true)) {
        st = next_pre(b, TOK_PRE_BLANK, &s, err);
        if (st == FL_OK) memcpy(s->sign, " ", 2);
    }
    if (st == FL_OK && tok_json_bool(o, "use_regex", true))
        st = put_split(b, TOK_PATTERN_GPT2, TOK_ISOLATED, false, err);
    return st;
}

static fl_status read_pattern_pre(tok_builder *b, const tok_node *o, fl_err *err) {
    tok_behaviour how;
    fl_status st = read_behaviour(o, &how, err);
    if (st != FL_OK) return st;
    if (is(o, "Punctuation")) return put_split(b, PUNCTUATION, how, false, err);
    st = is(o, "Split") ? add_pattern(b, tok_node_get(o, "pattern"), "pre-tokenizer Split", how,
                                      tok_json_bool(o, "invert", false), err)
                        : add_pattern(b, tok_node_get(o, "delimiter"), "pre-tokenizer CharDelimiterSplit", TOK_REMOVED,
                                      false, err);
    return st == FL_OK ? run_last(b, err) : st;
}

static fl_status read_pre(tok_builder *b, const tok_node *o, int depth, fl_err *err) {
    if (!o || tok_node_is(o, TOK_NODE_NULL)) return FL_OK;
    const tok_node *item;
    fl_status st = FL_OK;
    if (is(o, "Sequence") && depth < TOK_JSON_DEPTH) {
        const tok_node *list = tok_node_get(o, "pretokenizers");
        for (item = tok_node_first(list); item; item = tok_node_next(list, item)) {
            st = read_pre(b, item, depth + 1, err);
            if (st != FL_OK) return st;
        }
        return FL_OK;
    }
    if (b->p->model == TOK_MODEL_BYTES)
        return fl_fail(err, FL_EUNSUPPORTED, "pre-tokenizer \"%.60s\" of tokenizer.json behind ByteLevel", type_of(o));
    if (is(o, "ByteLevel")) return read_bytelevel(b, o, err);
    if (is(o, "Metaspace")) return read_metaspace(b, o, err);
    if (is(o, "Split") || is(o, "Punctuation") || is(o, "CharDelimiterSplit")) return read_pattern_pre(b, o, err);
    if (is(o, "Digits"))
        return put_split(b, "\\p{N}", tok_json_bool(o, "individual_digits", false) ? TOK_ISOLATED : TOK_CONTIGUOUS,
                         false, err);
    if (is(o, "WhitespaceSplit")) return put_split(b, "[" TOK_WHITE "]", TOK_REMOVED, false, err);
    if (is(o, "Whitespace")) return put_split(b, "[" WORD "]+|[^" WORD TOK_WHITE "]+", TOK_REMOVED, true, err);
    if (is(o, "BertPreTokenizer")) {
        st = put_split(b, "[" TOK_WHITE "]", TOK_REMOVED, false, err);
        return st == FL_OK ? put_split(b, PUNCTUATION, TOK_ISOLATED, false, err) : st;
    }
    return unknown("pre-tokenizer", o, err);
}

/* ---- decoders ---- */

static fl_status next_dec(tok_builder *b, tok_dec_kind kind, tok_dec **out, fl_err *err) {
    tok_pipe *p = b->p;
    *out = NULL;
    if (p->n_decs == TOK_DECS_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "tokenizer.json has more than %d decoders", TOK_DECS_MAX);
    *out = &p->decs[p->n_decs++];
    **out = (tok_dec){.kind = kind};
    return FL_OK;
}

static uint32_t count_of(const tok_node *o, const char *key) {
    int64_t n = tok_node_int(tok_node_get(o, key));
    return n < 0 ? 0 : n > 1000 ? 1000 : (uint32_t)n;
}

/* Strip: of each token, or behind Fuse of the start of the whole text. */
static fl_status read_strip(tok_builder *b, const tok_node *o, bool fused, fl_err *err) {
    tok_pipe *p = b->p;
    tok_dec *d;
    const char *content = tok_json_string(o, "content");
    if (!content || !*content || strlen(content) > 4)
        return fl_fail(err, FL_EFORMAT, "content of decoder Strip is not one character");
    if (!fused) {
        fl_status st = next_dec(b, TOK_DEC_STRIP, &d, err);
        if (st != FL_OK) return st;
        d->start = count_of(o, "start");
        d->stop = count_of(o, "stop");
        return copy_text(tok_node_get(o, "content"), "decoder Strip", &d->from, &d->n_from, err);
    }
    if (count_of(o, "stop") || p->strip_max)
        return fl_fail(err, FL_EUNSUPPORTED, "decoder Strip behind Fuse, at the end or twice");
    memcpy(p->strip, content, strlen(content) + 1);
    p->strip_max = count_of(o, "start");
    return FL_OK;
}

static fl_status read_dec_step(tok_builder *b, const tok_node *o, fl_err *err) {
    tok_dec *d;
    fl_status st = FL_OK;
    if (is(o, "ByteFallback")) return next_dec(b, TOK_DEC_FALLBACK, &d, err);
    if (is(o, "Replace")) {
        const tok_node *from = tok_node_get(tok_node_get(o, "pattern"), "String");
        if (!from) return fl_fail(err, FL_EUNSUPPORTED, "decoder Replace with a pattern that is no string");
        st = next_dec(b, TOK_DEC_REPLACE, &d, err);
        if (st == FL_OK) st = copy_text(from, "decoder Replace", &d->from, &d->n_from, err);
        return st == FL_OK ? copy_text(tok_node_get(o, "content"), "decoder Replace", &d->to, &d->n_to, err) : st;
    }
    if (is(o, "Metaspace")) {
        tok_prepend prepend;
        st = next_dec(b, TOK_DEC_METASPACE, &d, err);
        if (st == FL_OK) st = read_prepend(o, &prepend, err);
        if (st != FL_OK) return st;
        d->prepends = prepend != TOK_PREPEND_NEVER;
        return copy_text(tok_node_get(o, "replacement"), "decoder Metaspace", &d->from, &d->n_from, err);
    }
    if (is(o, "WordPiece")) {
        st = next_dec(b, TOK_DEC_WORDPIECE, &d, err);
        if (st != FL_OK) return st;
        d->cleanup = tok_json_bool(o, "cleanup", true);
        return copy_text(tok_node_get(o, "prefix"), "decoder WordPiece", &d->from, &d->n_from, err);
    }
    return unknown("decoder", o, err);
}

static fl_status read_dec(tok_builder *b, const tok_node *o, bool *fused, int depth, fl_err *err) {
    tok_pipe *p = b->p;
    const tok_node *item;
    if (is(o, "Sequence") && depth < TOK_JSON_DEPTH) {
        const tok_node *list = tok_node_get(o, "decoders");
        for (item = tok_node_first(list); item; item = tok_node_next(list, item)) {
            fl_status st = read_dec(b, item, fused, depth + 1, err);
            if (st != FL_OK) return st;
        }
        return FL_OK;
    }
    if (is(o, "Fuse")) {
        *fused = true;
        return FL_OK;
    }
    if (is(o, "Strip") && !p->dec_bytes) return read_strip(b, o, *fused, err);
    if (p->dec_bytes || (*fused && p->n_decs) || (is(o, "ByteLevel") && p->n_decs))
        return fl_fail(err, FL_EUNSUPPORTED, "decoder \"%.60s\" of tokenizer.json behind another that ends the list",
                       type_of(o));
    if (!is(o, "ByteLevel")) return read_dec_step(b, o, err);
    p->dec_bytes = true;
    return FL_OK;
}

fl_status tok_json_steps(tok_builder *b, fl_err *err) {
    const tok_node *decoder = tok_node_get(b->root, "decoder");
    bool fused = false;
    tok_dec *d;
    fl_status st = read_norm(b, tok_node_get(b->root, "normalizer"), 0, err);
    if (st == FL_OK) st = read_pre(b, tok_node_get(b->root, "pre_tokenizer"), 0, err);
    if (st == FL_OK) st = tok_split_open(&b->t->split, b->stages, b->n_stages, err);
    if (st != FL_OK) return st;
    if (!decoder || tok_node_is(decoder, TOK_NODE_NULL))
        st = next_dec(b, TOK_DEC_BLANKS, &d, err);
    else
        st = read_dec(b, decoder, &fused, 0, err);
    if (st == FL_OK && b->p->model == TOK_MODEL_BYTES && !b->p->dec_bytes)
        st = fl_fail(err, FL_EUNSUPPORTED, "pre-tokenizer ByteLevel without decoder ByteLevel");
    return st;
}
