/* tokenizer.json: vocabulary, model, added tokens, post-processor. Its normalisers, pre-tokenizers and decoders
 * are read in json_steps.c. See pipe.h for what they become.
 */
#include "tok/json.h"

#include "base/mem.h"
#include "tok/utf8.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { GAP_MAX = 1 << 16 };

static void clear_added(tok_added *a) {
    tok_match_clear(&a->match);
    tok_table_clear(&a->texts);
    base_free(a->ones);
    base_free(a->ids);
    base_free(a->flags);
}

void tok_pipe_close(tok_pipe *p) {
    if (!p) return;
    for (uint32_t i = 0; i < p->n_norms; i++) {
        base_free(p->norms[i].from);
        base_free(p->norms[i].to);
        tok_charsmap_close(p->norms[i].map);
    }
    for (uint32_t i = 0; i < p->n_decs; i++) {
        base_free(p->decs[i].from);
        base_free(p->decs[i].to);
    }
    clear_added(&p->raw);
    clear_added(&p->normal);
    tok_match_clear(&p->trie);
    tok_map_clear(&p->map);
    tok_table_clear(&p->names);
    tok_table_clear(&p->shown);
    base_free(p->known);
    base_free(p->scores);
    base_free(p->prefix);
    base_free(p->suffix);
    tok_ids_clear(&p->before);
    tok_ids_clear(&p->after);
    base_free(p);
}

const char *tok_json_string(const tok_node *o, const char *key) { return tok_node_chars(tok_node_get(o, key)); }

bool tok_json_bool(const tok_node *o, const char *key, bool otherwise) {
    const tok_node *v = tok_node_get(o, key);
    return tok_node_is_bool(v) ? tok_node_is(v, TOK_NODE_TRUE) : otherwise;
}

static fl_status no_memory(fl_err *err) { return fl_fail(err, FL_ENOMEM, "tokenizer.json"); }

/* ---- vocabulary ---- */

/* Checks an id; *n_vocab grows to hold it. Gaps are legal, but not a vocabulary of gaps. */
static fl_status take_id(const tok_node *v, size_t n_tokens, uint32_t *n_vocab, fl_err *err) {
    int64_t id = tok_node_is(v, TOK_NODE_INT) ? tok_node_int(v) : -1;
    if (id < 0 || id >= TOK_VOCAB_MAX || (uint64_t)id > 2 * (uint64_t)n_tokens + GAP_MAX)
        return fl_fail(err, FL_EFORMAT, "a token has the id %lld among %zu tokens", (long long)id, n_tokens);
    if (id >= *n_vocab) *n_vocab = (uint32_t)id + 1;
    return FL_OK;
}

static fl_status count_tokens(tok_builder *b, uint32_t *n_vocab, fl_err *err) {
    const tok_node *vocab = tok_node_get(b->model, "vocab");
    size_t n = tok_node_is(vocab, TOK_NODE_OBJECT) ? vocab->n : tok_node_count(vocab),
           n_added = tok_node_count(b->added), i = 0;
    fl_status st = FL_OK;
    *n_vocab = tok_node_is(vocab, TOK_NODE_LIST) ? (uint32_t)n : 0;
    if (n > TOK_VOCAB_MAX) return fl_fail(err, FL_EFORMAT, "a vocabulary of %zu tokens", n);
    for (const tok_node *k = tok_node_first_key(vocab); k; k = tok_node_next(vocab, k + 1)) {
        st = take_id(k + 1, n + n_added, n_vocab, err);
        if (st != FL_OK) return st;
    }
    for (const tok_node *v = tok_node_first(b->added); v; v = tok_node_next(b->added, v), i++) {
        st = take_id(tok_node_get(v, "id"), n + n_added, n_vocab, err);
        if (st != FL_OK) return st;
        if (!tok_node_is(tok_node_get(v, "content"), TOK_NODE_STRING))
            return fl_fail(err, FL_EFORMAT, "added token %zu has no content", i);
    }
    return *n_vocab ? FL_OK : fl_fail(err, FL_EFORMAT, "the model of tokenizer.json has no vocabulary");
}

static fl_status put_text(tok_builder *b, uint32_t id, tok_text s, bool added, fl_err *err) {
    tok_text *x = &b->texts[id];
    uint8_t *known = &b->p->known[id];
    bool same = x->bytes && x->n == s.n && memcmp(x->bytes, s.bytes, s.n) == 0;
    if (x->bytes && !(added && same && *known < 2))
        return fl_fail(err, FL_EFORMAT, "id %u is given twice: to \"%.60s\" and \"%.60s\"", id, x->bytes, s.bytes);
    *x = s;
    *known = added ? *known | 2 : 1;
    return FL_OK;
}

/* Pairs [text, score]; the id is the place in the list. */
static fl_status read_scored(tok_builder *b, const tok_node *vocab, fl_err *err) {
    tok_pipe *p = b->p;
    uint32_t i = 0;
    for (const tok_node *v = tok_node_first(vocab); v; v = tok_node_next(vocab, v), i++) {
        const tok_node *s = tok_node_at(v, 0), *score = tok_node_at(v, 1);
        if (!tok_node_is(s, TOK_NODE_STRING) || !tok_node_is_number(score))
            return fl_fail(err, FL_EFORMAT, "entry %u of the vocabulary is not [text, score]", i);
        fl_status st = put_text(b, i, tok_node_text(s), false, err);
        if (st != FL_OK) return st;
        p->scores[i] = tok_node_number(score);
        if (p->scores[i] - 10 < p->unk_score) p->unk_score = p->scores[i] - 10;
    }
    return FL_OK;
}

static fl_status read_vocab(tok_builder *b, fl_err *err) {
    const tok_node *vocab = tok_node_get(b->model, "vocab");
    fl_status st = read_scored(b, vocab, err);
    for (const tok_node *k = tok_node_first_key(vocab); st == FL_OK && k; k = tok_node_next(vocab, k + 1))
        st = put_text(b, (uint32_t)tok_node_int(k + 1), tok_node_text(k), false, err);
    for (const tok_node *v = tok_node_first(b->added); st == FL_OK && v; v = tok_node_next(b->added, v))
        st = put_text(b, (uint32_t)tok_node_int(tok_node_get(v, "id")), tok_node_text(tok_node_get(v, "content")), true,
                      err);
    return st;
}

/* Names, map and types. */
static fl_status fill_names(tok_builder *b, fl_err *err) {
    tok *t = b->t;
    tok_pipe *p = b->p;
    size_t bytes = 0;
    for (uint32_t i = 0; i < t->n_vocab; i++) bytes += b->texts[i].n; /* the file's own bytes: no overflow */
    if (!tok_table_init(&p->names, t->n_vocab, bytes + 1) || !tok_map_init(&p->map, t->n_vocab)) return no_memory(err);
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        if (b->texts[i].n) memcpy(tok_table_next(&p->names), b->texts[i].bytes, b->texts[i].n);
        tok_table_end(&p->names, b->texts[i].n);
        t->types[i] = p->known[i] ? TOK_NORMAL : TOK_UNUSED;
        p->known[i] &= 1;
    }
    for (const tok_node *v = tok_node_first(b->added); v; v = tok_node_next(b->added, v))
        t->types[tok_node_int(tok_node_get(v, "id"))] =
            tok_json_bool(v, "special", false) ? TOK_CONTROL : TOK_USER_DEFINED;
    tok_map_fill(&p->map, &p->names, p->known, 1u << 1);
    return FL_OK;
}

static fl_status open_vocab(tok_builder *b, fl_err *err) {
    tok *t = b->t;
    tok_pipe *p = b->p;
    fl_status st = count_tokens(b, &t->n_vocab, err);
    if (st != FL_OK) return st;
    b->texts = base_calloc(t->n_vocab, sizeof *b->texts);
    p->known = base_calloc(t->n_vocab, 1);
    t->types = base_calloc(t->n_vocab, 1);
    p->scores = base_calloc(p->model == TOK_MODEL_UNIGRAM ? t->n_vocab : 1, sizeof *p->scores);
    if (!b->texts || !p->known || !t->types || !p->scores) return no_memory(err);
    p->unk_score = DBL_MAX;
    st = read_vocab(b, err);
    return st == FL_OK ? fill_names(b, err) : st;
}

/* ---- models ---- */

static fl_status read_merge(tok_builder *b, const tok_node *v, uint32_t i, size_t skip, base_buf *joined, fl_err *err) {
    const tok_pipe *p = b->p;
    tok_text left, right;
    if (tok_node_is(v, TOK_NODE_STRING)) {
        tok_text whole = tok_node_text(v);
        if (!tok_bpe_split(whole, &left, &right))
            return fl_fail(err, FL_EFORMAT, "merge %u \"%.60s\" is not two pieces with a blank between", i,
                           whole.bytes);
    } else {
        const tok_node *l = tok_node_at(v, 0), *r = tok_node_at(v, 1);
        if (!tok_node_is(l, TOK_NODE_STRING) || !tok_node_is(r, TOK_NODE_STRING) || tok_node_count(v) != 2)
            return fl_fail(err, FL_EFORMAT, "merge %u is no pair of pieces", i);
        left = tok_node_text(l);
        right = tok_node_text(r);
    }
    return tok_bpe_add(&b->t->bpe, &p->names, &p->map, i, left, right, skip, joined, err);
}

static fl_status read_affix(const tok_node *model, const char *key, char **out, fl_err *err) {
    const char *s = tok_json_string(model, key);
    *out = NULL;
    if (!s || !*s) return FL_OK;
    *out = base_strdup(s);
    return *out ? FL_OK : no_memory(err);
}

static fl_status read_unk(tok_builder *b, fl_err *err) {
    tok_pipe *p = b->p;
    const tok_node *v = tok_node_get(b->model, p->model == TOK_MODEL_UNIGRAM ? "unk_id" : "unk_token");
    p->unk = TOK_NONE;
    if (!v || tok_node_is(v, TOK_NODE_NULL)) return FL_OK;
    if (tok_node_is(v, TOK_NODE_INT)) {
        int64_t id = tok_node_int(v);
        if (id < 0 || id >= b->t->n_vocab)
            return fl_fail(err, FL_EFORMAT, "unk_id %lld is beyond the vocabulary", (long long)id);
        p->unk = (uint32_t)id;
        return FL_OK;
    }
    if (!tok_node_is(v, TOK_NODE_STRING)) return fl_fail(err, FL_EFORMAT, "unk_token is no string");
    p->unk = tok_map_find(&p->map, &p->names, tok_node_chars(v), tok_node_text(v).n);
    if (p->unk == TOK_NONE && p->model != TOK_MODEL_WORDLEVEL)
        return fl_fail(err, FL_EFORMAT, "unk_token \"%.60s\" is not in the vocabulary", tok_node_chars(v));
    return FL_OK;
}

static fl_status open_bpe(tok_builder *b, fl_err *err) {
    tok *t = b->t;
    tok_pipe *p = b->p;
    const tok_node *dropout = tok_node_get(b->model, "dropout"), *merges = tok_node_get(b->model, "merges");
    if (tok_node_is_number(dropout) && tok_node_number(dropout) > 0)
        return fl_fail(err, FL_EUNSUPPORTED, "model BPE with dropout");
    fl_status st = read_affix(b->model, "continuing_subword_prefix", &p->prefix, err);
    if (st == FL_OK) st = read_affix(b->model, "end_of_word_suffix", &p->suffix, err);
    if (st != FL_OK) return st;
    size_t skip = p->prefix ? strlen(p->prefix) : 0;
    uint32_t n = tok_node_count(merges), i = 0;
    if (n > 1u << 28) return fl_fail(err, FL_EFORMAT, "%u merges", n);
    if (!tok_bpe_init(&t->bpe, n)) return no_memory(err);
    base_buf joined = {0};
    for (const tok_node *v = tok_node_first(merges); st == FL_OK && v; v = tok_node_next(merges, v))
        st = read_merge(b, v, i++, skip, &joined, err);
    base_buf_clear(&joined);
    t->whole_first = tok_json_bool(b->model, "ignore_merges", false);
    p->fuse_unk = tok_json_bool(b->model, "fuse_unk", false);
    p->byte_fallback = tok_json_bool(b->model, "byte_fallback", false);
    return st;
}

static fl_status open_model(tok_builder *b, fl_err *err) {
    tok_pipe *p = b->p;
    fl_status st = read_unk(b, err);
    if (st != FL_OK) return st;
    if (p->model == TOK_MODEL_CHARS) return open_bpe(b, err);
    p->byte_fallback = tok_json_bool(b->model, "byte_fallback", false);
    if (p->model == TOK_MODEL_WORDPIECE) {
        const tok_node *max = tok_node_get(b->model, "max_input_chars_per_word");
        int64_t n = tok_node_is(max, TOK_NODE_INT) ? tok_node_int(max) : 100;
        p->word_chars_max = n < 0 ? 0 : n > 100000 ? 100000 : (uint32_t)n;
        if (p->unk == TOK_NONE) return fl_fail(err, FL_EFORMAT, "model WordPiece without unk_token");
        st = read_affix(b->model, "continuing_subword_prefix", &p->prefix, err);
    }
    if (st == FL_OK && !tok_match_init(&p->trie, &p->names, p->known, 1u << 1)) st = no_memory(err);
    return st;
}

static fl_status read_model_kind(tok_builder *b, fl_err *err) {
    static const char *const names[] = {[TOK_MODEL_CHARS] = "BPE",
                                        [TOK_MODEL_UNIGRAM] = "Unigram",
                                        [TOK_MODEL_WORDPIECE] = "WordPiece",
                                        [TOK_MODEL_WORDLEVEL] = "WordLevel"};
    const char *type = tok_json_string(b->model, "type");
    if (!type && tok_node_get(b->model, "merges")) type = "BPE";
    for (tok_model k = TOK_MODEL_CHARS; type && k <= TOK_MODEL_WORDLEVEL; k++)
        if (strcmp(type, names[k]) == 0) {
            b->p->model = k;
            if (tok_node_is(tok_node_get(b->model, "vocab"), TOK_NODE_LIST) == (k == TOK_MODEL_UNIGRAM)) return FL_OK;
            return fl_fail(err, FL_EFORMAT, "the vocabulary of model %s has the wrong form", type);
        }
    return fl_fail(err, FL_EUNSUPPORTED,
                   "model \"%.60s\" of tokenizer.json is not known; known are BPE, Unigram, WordPiece, WordLevel",
                   type ? type : "");
}

/* ---- added tokens ---- */

static fl_status open_added(tok_builder *b, bool normalized, tok_added *a, fl_err *err) {
    size_t n = tok_node_count(b->added), bytes = 0;
    fl_status st = FL_OK;
    tok_merge merge = {.t = b->t};
    tok_pipe_run r = {.t = b->t, .merge = &merge};
    base_buf texts = {0};
    size_t *ends = base_calloc(n + 1, sizeof *ends);
    a->ids = base_calloc(n + 1, sizeof *a->ids);
    a->flags = base_calloc(n + 1, 1);
    a->ones = base_malloc(n + 1);
    if (!ends || !a->ids || !a->flags || !a->ones) st = no_memory(err);
    if (st == FL_OK) st = tok_words_open(&r.words, b->t->split, err);
    uint32_t k = 0;
    for (const tok_node *v = tok_node_first(b->added); st == FL_OK && v; v = tok_node_next(b->added, v)) {
        if (tok_json_bool(v, "normalized", !tok_json_bool(v, "special", false)) != normalized) continue;
        tok_text x = tok_node_text(tok_node_get(v, "content"));
        if (normalized) st = tok_pipe_normalize(&r, x.bytes, x.n, &x, err);
        if (st == FL_OK && !base_buf_append(&texts, x.bytes, x.n)) st = no_memory(err);
        if (st != FL_OK) break;
        ends[k] = bytes = texts.len;
        a->ones[k] = 1;
        a->flags[k] = (uint8_t)((tok_json_bool(v, "lstrip", false) ? TOK_ADDED_LSTRIP : 0) |
                                (tok_json_bool(v, "rstrip", false) ? TOK_ADDED_RSTRIP : 0) |
                                (tok_json_bool(v, "single_word", false) ? TOK_ADDED_WORD : 0));
        a->ids[k++] = (uint32_t)tok_node_int(tok_node_get(v, "id"));
    }
    if (st == FL_OK && !tok_table_init(&a->texts, k, bytes + 1)) st = no_memory(err);
    for (uint32_t j = 0; st == FL_OK && j < k; j++) {
        size_t begin = j ? ends[j - 1] : 0;
        if (ends[j] > begin) memcpy(tok_table_next(&a->texts), texts.data + begin, ends[j] - begin);
        tok_table_end(&a->texts, ends[j] - begin);
    }
    if (st == FL_OK && !tok_match_init(&a->match, &a->texts, a->ones, 1u << 1)) st = no_memory(err);
    base_free(ends);
    base_buf_clear(&texts);
    tok_pipe_run_clear(&r);
    return st;
}

/* ---- post-processor ---- */

static fl_status put_special(tok_builder *b, const tok_node *id, tok_ids *to, fl_err *err) {
    int64_t k = tok_node_is(id, TOK_NODE_INT) ? tok_node_int(id) : -1;
    if (k < 0 || k >= b->t->n_vocab)
        return fl_fail(err, FL_EFORMAT, "the post-processor names a token that is not in the vocabulary");
    return tok_ids_push(to, (uint32_t)k) ? FL_OK : no_memory(err);
}

static fl_status read_template(tok_builder *b, const tok_node *o, fl_err *err) {
    enum { ITEMS_MAX = 64 };
    const tok_node *single = tok_node_get(o, "single"), *specials = tok_node_get(o, "special_tokens");
    tok_ids *to = &b->p->before;
    uint32_t i = 0;
    if (tok_node_count(single) > ITEMS_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "post-processor TemplateProcessing with more than %d items", ITEMS_MAX);
    for (const tok_node *item = tok_node_first(single); item; item = tok_node_next(single, item), i++) {
        const char *name = tok_json_string(tok_node_get(item, "SpecialToken"), "id");
        if (tok_node_get(item, "Sequence")) {
            to = &b->p->after;
            continue;
        }
        const tok_node *special = name ? tok_node_get(specials, name) : NULL, *ids = tok_node_get(special, "ids");
        if (!special) return fl_fail(err, FL_EFORMAT, "post-processor TemplateProcessing: item %u is not known", i);
        for (const tok_node *id = tok_node_first(ids); id; id = tok_node_next(ids, id)) {
            fl_status st = put_special(b, id, to, err);
            if (st != FL_OK) return st;
        }
    }
    return FL_OK;
}

static fl_status read_post(tok_builder *b, const tok_node *o, int depth, fl_err *err) {
    if (!o || tok_node_is(o, TOK_NODE_NULL)) return FL_OK;
    const char *type = tok_json_string(o, "type");
    fl_status st = FL_OK;
    if (type && strcmp(type, "Sequence") == 0 && depth < TOK_JSON_DEPTH) {
        const tok_node *list = tok_node_get(o, "processors");
        for (const tok_node *item = tok_node_first(list); item; item = tok_node_next(list, item)) {
            st = read_post(b, item, depth + 1, err);
            if (st != FL_OK) return st;
        }
        return FL_OK;
    }
    if (type && strcmp(type, "ByteLevel") == 0) return FL_OK; /* offsets only */
    if (type && strcmp(type, "TemplateProcessing") == 0) return read_template(b, o, err);
    if (type && (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0)) {
        st = put_special(b, tok_node_at(tok_node_get(o, "cls"), 1), &b->p->before, err);
        return st == FL_OK ? put_special(b, tok_node_at(tok_node_get(o, "sep"), 1), &b->p->after, err) : st;
    }
    return fl_fail(err, FL_EUNSUPPORTED, "post-processor \"%.60s\" of tokenizer.json is not known", type ? type : "");
}

/* ---- all ---- */

/* The names as the decoder gets them: the reference prints added tokens the way they are matched. */
static fl_status fill_shown(tok_builder *b, fl_err *err) {
    const tok *t = b->t;
    tok_pipe *p = b->p;
    const tok_added *a = &p->normal;
    tok_text *shown = base_malloc(t->n_vocab * sizeof *shown);
    size_t bytes = 0;
    if (!shown) return no_memory(err);
    for (uint32_t i = 0; i < t->n_vocab; i++) shown[i] = tok_table_get(&p->names, i);
    for (uint32_t k = 0; k < a->texts.n; k++) shown[a->ids[k]] = tok_table_get(&a->texts, k);
    for (uint32_t i = 0; i < t->n_vocab; i++) bytes += shown[i].n;
    bool ok = tok_table_init(&p->shown, t->n_vocab, bytes + 1);
    for (uint32_t i = 0; ok && i < t->n_vocab; i++) {
        if (shown[i].n) memcpy(tok_table_next(&p->shown), shown[i].bytes, shown[i].n);
        tok_table_end(&p->shown, shown[i].n);
    }
    base_free(shown);
    return ok ? FL_OK : no_memory(err);
}

/* What each token prints: bytes, or what the decoder makes of it behind another. */
static fl_status fill_pieces(tok_builder *b, fl_err *err) {
    tok *t = b->t;
    const tok_pipe *p = b->p;
    base_buf all = {0};
    uint32_t *ends = base_malloc(t->n_vocab * sizeof *ends);
    bool ok = ends != NULL && base_buf_reserve(&all, p->shown.cap);
    for (uint32_t i = 0; ok && i < t->n_vocab; i++) {
        if (p->dec_bytes) {
            tok_text x = tok_table_get(&p->shown, i);
            ok = base_buf_reserve(&all, x.n);
            if (ok) all.len += tok_bpe_bytes(t, x, all.data + all.len);
        } else {
            ok = tok_pipe_piece(p, i, false, &all);
        }
        if (ok) ends[i] = (uint32_t)all.len;
        ok = ok && all.len < UINT32_MAX;
    }
    ok = ok && tok_table_init(&t->table, t->n_vocab, all.len + 1);
    for (uint32_t i = 0; ok && i < t->n_vocab; i++) {
        uint32_t begin = i ? ends[i - 1] : 0;
        memcpy(tok_table_next(&t->table), all.data + begin, ends[i] - begin);
        tok_table_end(&t->table, ends[i] - begin);
    }
    base_free(ends);
    base_buf_clear(&all);
    return ok ? FL_OK : no_memory(err);
}

static uint32_t config_token(const tok_builder *b, const tok_node *config, const char *key) {
    const tok_node *v = tok_node_get(config, key);
    if (tok_node_is(v, TOK_NODE_OBJECT)) v = tok_node_get(v, "content");
    if (!tok_node_is(v, TOK_NODE_STRING)) return TOK_NONE;
    for (const tok_node *added = tok_node_first(b->added); added; added = tok_node_next(b->added, added)) {
        tok_text x = tok_node_text(tok_node_get(added, "content"));
        if (x.n == v->n && memcmp(x.bytes, v->as.bytes, v->n) == 0)
            return (uint32_t)tok_node_int(tok_node_get(added, "id"));
    }
    return tok_map_find(&b->p->map, &b->p->names, v->as.bytes, v->n);
}

static fl_status open_all(tok_builder *b, const tok_node *config, fl_err *err) {
    tok *t = b->t;
    tok_pipe *p = b->p;
    tok_bpe_level(t);
    fl_status st = read_model_kind(b, err);
    if (st == FL_OK) st = open_vocab(b, err);
    if (st == FL_OK) st = open_model(b, err);
    if (st == FL_OK) st = tok_json_steps(b, err);
    if (st == FL_OK) st = open_added(b, false, &p->raw, err);
    if (st == FL_OK) st = open_added(b, true, &p->normal, err);
    if (st == FL_OK) st = fill_shown(b, err);
    if (st == FL_OK) st = fill_pieces(b, err);
    if (st == FL_OK) st = read_post(b, tok_node_get(b->root, "post_processor"), 0, err);
    if (st == FL_OK && p->model == TOK_MODEL_CHARS) tok_chars_prepare(t);
    if (st == FL_OK && p->model == TOK_MODEL_BYTES) {
        tok_bpe_bytes_find(t, &p->names, &p->map);
        if (t->whole_first) {
            if (!tok_map_init(&t->map, t->n_vocab)) return no_memory(err);
            tok_map_fill(&t->map, &t->table, p->known, 1u << 1);
        }
    }
    if (st == FL_OK && !tok_match_init(&t->added, &t->table, t->types, 1u << TOK_CONTROL | 1u << TOK_USER_DEFINED))
        st = no_memory(err);
    t->bos = config_token(b, config, "bos_token");
    t->eos = config_token(b, config, "eos_token");
    t->unk = config_token(b, config, "unk_token");
    t->pad = config_token(b, config, "pad_token");
    if (t->bos == TOK_NONE && p->before.n) t->bos = p->before.ids[0];
    return st == FL_OK ? tok_find_stops(t, err) : st;
}

fl_status tok_open_json(tok **out, const char *json, size_t n, const char *config, size_t n_config, fl_err *err) {
    *out = NULL;
    tok_builder *b = base_calloc(1, sizeof *b);
    tok_doc c = {0};
    fl_status st = b ? tok_doc_open(&b->doc, "tokenizer.json", json, n, err) : no_memory(err);
    if (st == FL_OK && config) st = tok_doc_open(&c, "tokenizer_config.json", config, n_config, err);
    if (st == FL_OK) {
        b->root = b->doc.nodes;
        b->model = tok_node_get(b->root, "model");
        b->added = tok_node_get(b->root, "added_tokens");
        b->t = base_calloc(1, sizeof *b->t);
        b->p = base_calloc(1, sizeof *b->p);
        if (b->t) b->t->pipe = b->p;
        st = b->t && b->p ? open_all(b, c.nodes, err) : no_memory(err);
        if (!b->t) base_free(b->p);
    }
    if (b) {
        if (st == FL_OK)
            *out = b->t;
        else
            tok_close(b->t);
        for (uint32_t i = 0; i < b->n_stages; i++) base_free(b->patterns[i]);
        base_free(b->texts);
        tok_doc_clear(&b->doc);
    }
    tok_doc_clear(&c);
    base_free(b);
    return st;
}
