/* Rank files: one token a line, base64, a blank, its rank. Byte-level BPE as in tekken.json (neighbours merge when their
 * joint bytes have a rank, the lowest first; ids are ranks). Ranks may leave gaps, into which special tokens fall.
 *
 * The file says neither how text is cut into words nor what its special tokens are. The pattern follows from the
 * tokenizer_config.json beside it (QWenTokenizer; the module tokenization_kimi) or else from the name that the file is
 * published under; any other file is refused. Special tokens are those of added_tokens_decoder in the configuration, or
 * without one those published with the name.
 */
#include "tok/json.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GAP_MAX = 1 << 16 };

typedef struct {
    uint32_t id;
    const char *text;
} special;

#define CL100K "llama3" /* the splitter in family.c */

static const struct family {
    const char *file, *class, *module; /* the name of the file; tokenizer_class, a module of auto_map; or NULL */
    const char *splitter, *pattern;    /* one of family.c, or in Oniguruma's language */
    bool nfc;
    const char *eos;
    special specials[6];
} families[] = {
    {.file = "cl100k_base.tiktoken",
     .splitter = CL100K,
     .eos = "<|endoftext|>",
     .specials = {{100257, "<|endoftext|>"},
                  {100258, "<|fim_prefix|>"},
                  {100259, "<|fim_middle|>"},
                  {100260, "<|fim_suffix|>"},
                  {100276, "<|endofprompt|>"}}},
    {.file = "o200k_base.tiktoken",
     .splitter = "gpt-4o",
     .eos = "<|endoftext|>",
     .specials = {{199999, "<|endoftext|>"}, {200018, "<|endofprompt|>"}}},
    {.file = "qwen.tiktoken",
     .class = "QWenTokenizer",
     .splitter = "qwen2",
     .nfc = true,
     .eos = "<|endoftext|>",
     .specials = {{151643, "<|endoftext|>"}, {151644, "<|im_start|>"}, {151645, "<|im_end|>"}}},
    {.module = "tokenization_kimi.",
     .pattern = "[\\p{Han}]+"
                "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*"
                "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
                "|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]+"
                "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}&&[^\\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
                "|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"},
};

enum { N_FAMILIES = sizeof families / sizeof *families };

/* Bytes of one id. */
typedef struct {
    size_t start;
    uint32_t n; /* 0: none */
} place;

typedef struct {
    tok *t;
    tok_pipe *p;
    const tok_node *config;
    const struct family *family;
    base_buf all;
    place *places; /* [n_vocab] */
    uint32_t n_ranks, n_special;
} reader;

static fl_status no_memory(fl_err *err) { return fl_fail(err, FL_ENOMEM, "rank file"); }

static fl_status find_family(reader *r, const char *name, fl_err *err) {
    const char *class = tok_json_string(r->config, "tokenizer_class"), *key;
    const tok_node *modules = tok_node_get(tok_node_get(r->config, "auto_map"), "AutoTokenizer");
    for (int k = 0; k < N_FAMILIES && !r->family; k++) {
        const struct family *f = &families[k];
        if (f->class && class && strcmp(f->class, class) == 0) r->family = f;
        if (!f->module) continue;
        key = tok_node_chars(modules);
        if (key && strncmp(key, f->module, strlen(f->module)) == 0) r->family = f;
        for (const tok_node *v = tok_node_first(modules); v; v = tok_node_next(modules, v)) {
            key = tok_node_chars(v);
            if (key && strncmp(key, f->module, strlen(f->module)) == 0) r->family = f;
        }
    }
    for (int k = 0; k < N_FAMILIES && !r->family; k++)
        if (families[k].file && strcmp(families[k].file, name) == 0) r->family = &families[k];
    if (r->family) return FL_OK;
    return fl_fail(err, FL_EUNSUPPORTED,
                   "the rank file %.60s does not say how text is cut into words, and nothing beside it does; known are "
                   "cl100k_base.tiktoken, o200k_base.tiktoken, qwen.tiktoken, and folders whose tokenizer_config.json "
                   "names QWenTokenizer or tokenization_kimi",
                   name);
}

/* One line: where its base64 ends and its rank; false for anything else. at goes behind the line. */
static bool next_line(const char *s, size_t n, size_t *at, size_t *begin, size_t *end, uint64_t *rank) {
    *begin = *at;
    while (*at < n && s[*at] != ' ' && s[*at] != '\n') ++*at;
    *end = *at;
    if (*at == n || s[*at] != ' ' || *end == *begin) return false;
    size_t digits = ++*at;
    for (*rank = 0; *at < n && s[*at] >= '0' && s[*at] <= '9' && *at - digits < 9; ++*at)
        *rank = *rank * 10 + (uint64_t)(s[*at] - '0');
    if (*at == digits) return false;
    if (*at < n && s[*at] == '\r') ++*at;
    if (*at < n && s[*at] != '\n') return false;
    *at += *at < n;
    return true;
}

static fl_status count_ranks(reader *r, const char *s, size_t n, fl_err *err) {
    size_t at = 0, begin, end;
    uint64_t rank, top = 0;
    while (at < n) {
        if (!next_line(s, n, &at, &begin, &end, &rank))
            return fl_fail(err, FL_EFORMAT, "rank file: line %u is not base64, a blank and a rank", r->n_ranks + 1);
        if (rank > top) top = rank;
        r->n_ranks++;
    }
    if (!r->n_ranks || top >= TOK_VOCAB_MAX || top > 2 * (uint64_t)r->n_ranks + GAP_MAX)
        return fl_fail(err, FL_EFORMAT, "rank file: %u tokens, the highest rank is %llu", r->n_ranks,
                       (unsigned long long)top);
    r->t->n_vocab = (uint32_t)top + 1;
    return FL_OK;
}

/* Calls each on the special tokens: id, text, whether it is a control token. */
typedef fl_status each_fn(reader *r, uint32_t id, tok_text text, bool control, fl_err *err);

static fl_status for_specials(reader *r, each_fn *each, fl_err *err) {
    const tok_node *added = tok_node_get(r->config, "added_tokens_decoder"), *v;
    fl_status st = FL_OK;
    for (size_t k = 0; !added && k < 6 && r->family->specials[k].text && st == FL_OK; k++) {
        const special *s = &r->family->specials[k];
        st = each(r, s->id, (tok_text){s->text, strlen(s->text)}, true, err);
    }
    for (const tok_node *k = tok_node_first_key(added); k; k = tok_node_next(added, v)) {
        const char *key = tok_node_chars(k);
        char *end;
        v = k + 1;
        unsigned long id = strtoul(key, &end, 10);
        const tok_text text = tok_node_text(tok_node_get(v, "content"));
        if (*end || end == key || id > 2 * (unsigned long)r->n_ranks + GAP_MAX || !text.n)
            return fl_fail(err, FL_EFORMAT, "tokenizer_config.json: added token \"%.40s\" has no id or no content",
                           key);
        if (st == FL_OK) st = each(r, (uint32_t)id, text, tok_json_bool(v, "special", false), err);
    }
    return st;
}

static fl_status count_special(reader *r, uint32_t id, tok_text text, bool control, fl_err *err) {
    (void)text, (void)control, (void)err;
    if (id >= r->t->n_vocab) r->t->n_vocab = id + 1;
    r->n_special++;
    return FL_OK;
}

static fl_status put(reader *r, uint32_t id, const char *s, size_t n, bool base64, fl_err *err) {
    size_t begin = r->all.len;
    if (r->places[id].n) return fl_fail(err, FL_EFORMAT, "rank file: id %u is given twice", id);
    if (!base_buf_append(&r->all, s, n)) return no_memory(err);
    if (base64) {
        n = tok_unbase64(r->all.data + begin, n);
        if (n == SIZE_MAX || !n) return fl_fail(err, FL_EFORMAT, "rank file: the bytes of rank %u are no base64", id);
        r->all.len = begin + n;
    }
    if (r->all.len >= UINT32_MAX) return fl_fail(err, FL_EFORMAT, "rank file: more than 4 GiB of tokens");
    r->places[id] = (place){begin, (uint32_t)n};
    return FL_OK;
}

static fl_status read_ranks(reader *r, const char *s, size_t n, fl_err *err) {
    tok *t = r->t;
    size_t at = 0, begin, end;
    uint64_t rank;
    while (at < n && next_line(s, n, &at, &begin, &end, &rank)) {
        uint32_t id = (uint32_t)rank;
        fl_status st = put(r, id, s + begin, end - begin, true, err);
        if (st != FL_OK) return st;
        t->types[id] = TOK_NORMAL;
        const place *x = &r->places[id];
        if (x->n > t->piece_bytes_max) t->piece_bytes_max = x->n;
        if (x->n == 1) t->byte_id[(uint8_t)r->all.data[x->start]] = id;
    }
    for (int b = 0; b < 256; b++)
        if (t->byte_id[b] == TOK_NONE) return fl_fail(err, FL_EFORMAT, "rank file: byte %d has no rank", b);
    return FL_OK;
}

static fl_status add_special(reader *r, uint32_t id, tok_text text, bool control, fl_err *err) {
    tok_added *a = &r->p->raw;
    fl_status st = put(r, id, text.bytes, text.n, false, err);
    if (st != FL_OK) return st;
    r->t->types[id] = control ? TOK_CONTROL : TOK_USER_DEFINED;
    a->ids[r->n_special] = id;
    a->ones[r->n_special++] = 1;
    return FL_OK;
}

/* The table of all tokens, and the special ones to be found in text. */
static fl_status fill_tables(reader *r, fl_err *err) {
    tok *t = r->t;
    tok_added *a = &r->p->raw;
    if (!tok_table_init(&t->table, t->n_vocab, r->all.len + 1) || !tok_map_init(&t->map, t->n_vocab) ||
        !tok_table_init(&a->texts, r->n_special, r->all.len + 1))
        return no_memory(err);
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        if (r->places[i].n) memcpy(tok_table_next(&t->table), r->all.data + r->places[i].start, r->places[i].n);
        tok_table_end(&t->table, r->places[i].n);
    }
    for (uint32_t k = 0; k < r->n_special; k++) {
        tok_text x = tok_table_get(&t->table, a->ids[k]);
        memcpy(tok_table_next(&a->texts), x.bytes, x.n);
        tok_table_end(&a->texts, x.n);
    }
    tok_map_fill(&t->map, &t->table, t->types, 1u << TOK_NORMAL);
    return tok_match_init(&a->match, &a->texts, a->ones, 1u << 1) &&
                   tok_match_init(&t->added, &t->table, t->types, 1u << TOK_CONTROL | 1u << TOK_USER_DEFINED)
               ? FL_OK
               : no_memory(err);
}

static fl_status open_vocab(reader *r, const char *s, size_t n, fl_err *err) {
    tok *t = r->t;
    tok_added *a = &r->p->raw;
    fl_status st = count_ranks(r, s, n, err);
    if (st == FL_OK) st = for_specials(r, count_special, err);
    if (st != FL_OK) return st;
    r->places = base_calloc(t->n_vocab, sizeof *r->places);
    t->types = base_malloc(t->n_vocab);
    a->ids = base_calloc(r->n_special + 1, sizeof *a->ids);
    a->ones = base_calloc(r->n_special + 1, 1);
    a->flags = base_calloc(r->n_special + 1, 1);
    if (!r->places || !t->types || !a->ids || !a->ones || !a->flags) return no_memory(err);
    memset(t->types, TOK_UNUSED, t->n_vocab);
    r->n_special = 0;
    st = read_ranks(r, s, n, err);
    if (st == FL_OK) st = for_specials(r, add_special, err);
    return st == FL_OK ? fill_tables(r, err) : st;
}

static fl_status open_pattern(reader *r, fl_err *err) {
    base_buf made = {0};
    fl_status st = FL_OK;
    const char *pattern = r->family->splitter ? tok_family_find(r->family->splitter)->stages[0] : NULL;
    if (!pattern) st = tok_onig_translate(r->family->pattern, strlen(r->family->pattern), &made, err);
    const tok_stage stage = {.pattern = pattern ? pattern : made.data};
    if (st == FL_OK) st = tok_split_open(&r->t->split, &stage, 1, err);
    base_buf_clear(&made);
    r->p->pres[0] = (tok_pre){.kind = TOK_PRE_SPLIT, .first = 0, .end = 1};
    r->p->n_pres = 1;
    if (r->family->nfc)
        r->p->norms[r->p->n_norms++] = (tok_norm){.kind = TOK_NORM_FORM, .form = TOK_FORM_NFC, .stage = TOK_NONE};
    return st;
}

/* The special token that the configuration names, or the one given. */
static uint32_t named(const reader *r, const char *key, const char *otherwise) {
    const tok_node *v = tok_node_get(r->config, key);
    const char *text = tok_node_is(v, TOK_NODE_OBJECT) ? tok_json_string(v, "content") : tok_node_chars(v);
    if (!text) text = otherwise;
    return text ? tok_match_find(&r->t->added, text, strlen(text)) : (uint32_t)TOK_NONE;
}

static fl_status open_all(reader *r, const char *s, size_t n, const char *name, fl_err *err) {
    tok *t = r->t;
    memset(t->byte_id, 0xff, sizeof t->byte_id);
    r->p->model = TOK_MODEL_BYTES;
    r->p->dec_bytes = true;
    t->whole_first = t->by_rank = true;
    fl_status st = find_family(r, name, err);
    if (st == FL_OK) st = open_vocab(r, s, n, err);
    if (st == FL_OK) st = open_pattern(r, err);
    if (st != FL_OK) return st;
    t->bos = named(r, "bos_token", NULL);
    t->eos = named(r, "eos_token", r->family->eos);
    t->unk = named(r, "unk_token", NULL);
    t->pad = named(r, "pad_token", NULL);
    bool ok =
        t->bos == TOK_NONE || !tok_json_bool(r->config, "add_bos_token", false) || tok_ids_push(&r->p->before, t->bos);
    ok = ok && (t->eos == TOK_NONE || !tok_json_bool(r->config, "add_eos_token", false) ||
                tok_ids_push(&r->p->after, t->eos));
    return ok ? tok_find_stops(t, err) : no_memory(err);
}

fl_status tok_open_tiktoken(tok **out, const char *ranks, size_t n, const char *name, const char *config,
                            size_t n_config, fl_err *err) {
    *out = NULL;
    tok_doc c = {0};
    fl_status st = config ? tok_doc_open(&c, "tokenizer_config.json", config, n_config, err) : FL_OK;
    if (st != FL_OK) {
        tok_doc_clear(&c);
        return st;
    }
    reader r = {.config = c.nodes, .t = base_calloc(1, sizeof *r.t), .p = base_calloc(1, sizeof *r.p)};
    if (r.t && r.p) {
        r.t->pipe = r.p;
        st = open_all(&r, ranks, n, name, err);
    } else {
        base_free(r.p);
        st = no_memory(err);
    }
    base_buf_clear(&r.all);
    base_free(r.places);
    tok_doc_clear(&c);
    if (st == FL_OK)
        *out = r.t;
    else
        tok_close(r.t);
    return st;
}
