/* tekken.json: byte-level BPE by ranks. The file has a pattern and, for each rank, its bytes; there are no merges: two
 * neighbours merge when their joint bytes have a rank, the lowest first. Ids are ranks behind the special tokens; ranks
 * beyond default_vocab_size are not used. Files without special_tokens have the names of the first version.
 */
#include "tok/json.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

static const char *const first_names[] = {"<unk>",
                                          "<s>",
                                          "</s>",
                                          "[INST]",
                                          "[/INST]",
                                          "[AVAILABLE_TOOLS]",
                                          "[/AVAILABLE_TOOLS]",
                                          "[TOOL_RESULTS]",
                                          "[/TOOL_RESULTS]",
                                          "[TOOL_CALLS]",
                                          "[IMG]",
                                          "<pad>",
                                          "[IMG_BREAK]",
                                          "[IMG_END]",
                                          "[PREFIX]",
                                          "[MIDDLE]",
                                          "[SUFFIX]",
                                          "[SYSTEM_PROMPT]",
                                          "[/SYSTEM_PROMPT]",
                                          "[TOOL_CONTENT]"};

enum { N_FIRST = sizeof first_names / sizeof *first_names };

typedef struct {
    tok *t;
    tok_pipe *p;
    const tok_node *root, *vocab, *specials;
    uint32_t n_special, n_ranks;
} reader;

static fl_status no_memory(fl_err *err) { return fl_fail(err, FL_ENOMEM, "tekken.json"); }

static fl_status read_sizes(reader *r, fl_err *err) {
    const tok_node *config = tok_node_get(r->root, "config");
    int64_t all = tok_node_int(tok_node_get(config, "default_vocab_size"));
    int64_t special = tok_node_int(tok_node_get(config, "default_num_special_tokens"));
    size_t n = tok_node_count(r->vocab);
    if (special < 3 || all <= special || all > TOK_VOCAB_MAX || (size_t)(all - special) > n || special > 100000)
        return fl_fail(err, FL_EFORMAT, "tekken.json: a vocabulary of %lld with %lld special tokens and %zu ranks",
                       (long long)all, (long long)special, n);
    r->n_special = (uint32_t)special;
    r->n_ranks = (uint32_t)(all - special);
    r->t->n_vocab = (uint32_t)all;
    return FL_OK;
}

/* The name of special token i; v is its entry, or NULL. */
static tok_text special_name(const reader *r, const tok_node *v, uint32_t i, char spare[32]) {
    const tok_node *s = tok_node_get(v, "token_str");
    if (tok_node_is(s, TOK_NODE_STRING)) return tok_node_text(s);
    if (!r->specials && i < N_FIRST) return (tok_text){first_names[i], strlen(first_names[i])};
    return (tok_text){spare, (size_t)snprintf(spare, 32, "<SPECIAL_%u>", i)};
}

/* Appends the bytes of all tokens; ends gets where each ends. */
static fl_status read_bytes(reader *r, base_buf *all, uint32_t *ends, fl_err *err) {
    char spare[32];
    const tok_node *v = tok_node_first(r->specials);
    for (uint32_t i = 0; i < r->n_special; i++) {
        tok_text x = special_name(r, v, i, spare);
        if (!base_buf_append(all, x.bytes, x.n)) return no_memory(err);
        ends[i] = (uint32_t)all->len;
        if (v) v = tok_node_next(r->specials, v);
    }
    v = tok_node_first(r->vocab);
    for (uint32_t i = 0; i < r->n_ranks; i++, v = tok_node_next(r->vocab, v)) {
        const tok_node *rank = tok_node_get(v, "rank"), *s = tok_node_get(v, "token_bytes");
        size_t begin = all->len;
        if (tok_node_int(rank) != i || !tok_node_is(s, TOK_NODE_STRING))
            return fl_fail(err, FL_EFORMAT, "tekken.json: entry %u has not the rank %u with bytes", i, i);
        if (!base_buf_append(all, s->as.bytes, s->n)) return no_memory(err);
        size_t n = tok_unbase64(all->data + begin, s->n);
        if (n == SIZE_MAX || !n) return fl_fail(err, FL_EFORMAT, "tekken.json: the bytes of rank %u are no base64", i);
        all->len = begin + n;
        ends[r->n_special + i] = (uint32_t)all->len;
        if (n > r->t->piece_bytes_max) r->t->piece_bytes_max = (uint32_t)n;
        if (n == 1) r->t->byte_id[(uint8_t)all->data[begin]] = r->n_special + i;
    }
    return all->len < UINT32_MAX ? FL_OK : fl_fail(err, FL_EFORMAT, "tekken.json: more than 4 GiB of tokens");
}

static fl_status open_table(reader *r, fl_err *err) {
    tok *t = r->t;
    base_buf all = {0};
    uint32_t *ends = base_malloc(t->n_vocab * sizeof *ends);
    fl_status st = ends ? read_bytes(r, &all, ends, err) : no_memory(err);
    t->types = base_malloc(t->n_vocab);
    if (st == FL_OK && (!t->types || !tok_table_init(&t->table, t->n_vocab, all.len + 1))) st = no_memory(err);
    for (uint32_t i = 0; st == FL_OK && i < t->n_vocab; i++) {
        uint32_t begin = i ? ends[i - 1] : 0;
        memcpy(tok_table_next(&t->table), all.data + begin, ends[i] - begin);
        tok_table_end(&t->table, ends[i] - begin);
        t->types[i] = i < r->n_special ? TOK_CONTROL : TOK_NORMAL;
    }
    base_free(ends);
    base_buf_clear(&all);
    for (int b = 0; st == FL_OK && b < 256; b++)
        if (t->byte_id[b] == TOK_NONE) st = fl_fail(err, FL_EFORMAT, "tekken.json: byte %d has no rank", b);
    return st;
}

static fl_status open_pattern(reader *r, fl_err *err) {
    const tok_node *s = tok_node_get(tok_node_get(r->root, "config"), "pattern");
    base_buf pattern = {0};
    if (!tok_node_is(s, TOK_NODE_STRING)) return fl_fail(err, FL_EFORMAT, "tekken.json has no pattern");
    fl_status st = tok_onig_translate(s->as.bytes, s->n, &pattern, err);
    const tok_stage stage = {.pattern = pattern.data};
    if (st == FL_OK) st = tok_split_open(&r->t->split, &stage, 1, err);
    base_buf_clear(&pattern);
    r->p->pres[0] = (tok_pre){.kind = TOK_PRE_SPLIT, .first = 0, .end = 1};
    r->p->n_pres = 1;
    return st;
}

/* The special tokens are looked for in raw text. */
static fl_status open_specials(reader *r, fl_err *err) {
    tok_added *a = &r->p->raw;
    uint32_t n = r->n_special;
    a->ids = base_malloc(n * sizeof *a->ids);
    a->flags = base_calloc(n, 1);
    a->ones = base_malloc(n);
    if (!a->ids || !a->flags || !a->ones || !tok_table_init(&a->texts, n, r->t->table.start[n] + 1))
        return no_memory(err);
    for (uint32_t i = 0; i < n; i++) {
        tok_text x = tok_table_get(&r->t->table, i);
        if (x.n) memcpy(tok_table_next(&a->texts), x.bytes, x.n);
        tok_table_end(&a->texts, x.n);
        a->ids[i] = i;
        a->ones[i] = 1;
    }
    return tok_match_init(&a->match, &a->texts, a->ones, 1u << 1) ? FL_OK : no_memory(err);
}

static fl_status open_all(reader *r, fl_err *err) {
    tok *t = r->t;
    memset(t->byte_id, 0xff, sizeof t->byte_id);
    r->vocab = tok_node_get(r->root, "vocab");
    r->specials = tok_node_get(r->root, "special_tokens");
    if (tok_node_is(r->specials, TOK_NODE_NULL)) r->specials = NULL;
    r->p->model = TOK_MODEL_BYTES;
    r->p->dec_bytes = true;
    t->whole_first = t->by_rank = true;
    t->unk = 0;
    t->bos = 1;
    t->eos = 2;
    t->pad = TOK_NONE;
    fl_status st = read_sizes(r, err);
    if (st == FL_OK) st = open_table(r, err);
    if (st == FL_OK) st = open_pattern(r, err);
    if (st == FL_OK) st = open_specials(r, err);
    if (st != FL_OK) return st;
    if (!tok_map_init(&t->map, t->n_vocab)) return no_memory(err);
    tok_map_fill(&t->map, &t->table, t->types, 1u << TOK_NORMAL);
    if (!tok_match_init(&t->added, &t->table, t->types, 1u << TOK_CONTROL) || !tok_ids_push(&r->p->before, t->bos))
        return no_memory(err);
    return tok_find_stops(t, err);
}

fl_status tok_open_tekken(tok **out, const char *json, size_t n, fl_err *err) {
    *out = NULL;
    tok_doc doc;
    fl_status st = tok_doc_open(&doc, "tekken.json", json, n, err);
    if (st != FL_OK) {
        tok_doc_clear(&doc);
        return st;
    }
    reader r = {.root = doc.nodes, .t = base_calloc(1, sizeof *r.t), .p = base_calloc(1, sizeof *r.p)};
    if (r.t && r.p) {
        r.t->pipe = r.p;
        st = open_all(&r, err);
    } else {
        st = no_memory(err);
        base_free(r.p);
    }
    tok_doc_clear(&doc);
    if (st == FL_OK)
        *out = r.t;
    else
        tok_close(r.t);
    return st;
}
