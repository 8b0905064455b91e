/* Byte-level BPE. The file spells every byte as one printable character; that spelling is undone
 * once at open, so that text is merged as the bytes it is.
 *
 * A merge is a pair of ids -> (rank, id of the joined piece), in one open-addressing table. Words
 * are short: up to SMALL symbols the lowest rank is found by scanning, which is faster than the
 * heap; longer ones go through merge.c. A byte that has no token of its own is dropped, as the
 * reference does it in vocabularies without an unknown token.
 * Source: Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016;
 * the byte spelling after GPT-2.
 */
#include "tok/tok_int.h"

#include "base/mem.h"
#include "tok/utf8.h"

#include <stdio.h>
#include <string.h>

#define BPE_FREE UINT64_MAX

enum { SMALL = 32, LEVEL_NONE = 256, LEVEL_N = 324 };

/* Bytes that print stand for themselves, the other 68 for U+0100 and on, in rising order. */
void tok_bpe_level(tok *t) {
    uint16_t *level = t->level;
    uint32_t next = 256;
    for (int i = 0; i < LEVEL_N; i++) level[i] = LEVEL_NONE;
    for (uint32_t b = 0; b < 256; b++) {
        bool prints = (b >= 33 && b <= 126) || (b >= 161 && b != 173);
        level[prints ? b : next++] = (uint16_t)b;
    }
}

size_t tok_bpe_bytes(const tok *t, tok_text text, char *out) {
    size_t n = 0;
    for (size_t i = 0; i < text.n;) {
        int len = tok_utf8_char((const uint8_t *)text.bytes + i, text.n - i);
        uint32_t cp = len > 0 ? tok_utf8_get((const uint8_t *)text.bytes + i, &len) : LEVEL_N;
        if (cp >= LEVEL_N || t->level[cp] == LEVEL_NONE) {
            if (text.n) memcpy(out, text.bytes, text.n);
            return text.n;
        }
        out[n++] = (char)t->level[cp];
        i += (size_t)len;
    }
    return n;
}

static tok_bpe_slot *probe(const tok_bpe *b, uint32_t left, uint32_t right) {
    uint64_t key = (uint64_t)left << 32 | right;
    uint32_t mask = b->n_slots - 1;
    uint64_t h = (key ^ b->seed) * 0x9e3779b97f4a7c15u;
    for (uint32_t i = (uint32_t)((h ^ h >> 29) * 0xbf58476d1ce4e5b9u >> b->shift);; i = (i + 1) & mask)
        if (b->slots[i].key == key || b->slots[i].key == BPE_FREE) return &b->slots[i];
}

bool tok_bpe_init(tok_bpe *b, uint32_t n_merges) {
    uint32_t bits = 4;
    while ((uint64_t)1 << bits < 2 * (uint64_t)n_merges) bits++;
    b->n_slots = 1u << bits;
    b->shift = 64 - bits;
    b->seed = tok_seed();
    b->slots = base_malloc(b->n_slots * sizeof *b->slots);
    if (!b->slots) return false;
    for (uint32_t i = 0; i < b->n_slots; i++) b->slots[i] = (tok_bpe_slot){.key = BPE_FREE};
    return true;
}

void tok_bpe_clear(tok_bpe *b) {
    base_free(b->slots);
    *b = (tok_bpe){0};
}

fl_status tok_bpe_add(tok_bpe *b, const tok_table *names, const tok_map *map, uint32_t i, tok_text left, tok_text right,
                      size_t skip, base_buf *joined, fl_err *err) {
    if (right.n < skip) skip = 0;
    joined->len = 0;
    if (!base_buf_append(joined, left.bytes, left.n) || !base_buf_append(joined, right.bytes + skip, right.n - skip))
        return fl_fail(err, FL_ENOMEM, "merges");
    uint32_t l = tok_map_find(map, names, left.bytes, left.n);
    uint32_t r = tok_map_find(map, names, right.bytes, right.n);
    uint32_t id = tok_map_find(map, names, joined->data, joined->len);
    if (l == TOK_NONE || r == TOK_NONE || id == TOK_NONE)
        return fl_fail(err, FL_EFORMAT, "merge %u \"%.*s %.*s\": its %s piece is not in the vocabulary", i,
                       left.n < 50 ? (int)left.n : 50, left.bytes, right.n < 50 ? (int)right.n : 50, right.bytes,
                       l == TOK_NONE   ? "left"
                       : r == TOK_NONE ? "right"
                                       : "joined");
    *probe(b, l, r) = (tok_bpe_slot){(uint64_t)l << 32 | r, i, id}; /* the last of equal merges counts */
    return FL_OK;
}

bool tok_bpe_split(tok_text m, tok_text *left, tok_text *right) {
    const char *space = m.n > 1 ? memchr(m.bytes + 1, ' ', m.n - 1) : NULL;
    if (!space) return false;
    *left = (tok_text){m.bytes, (size_t)(space - m.bytes)};
    *right = (tok_text){space + 1, m.n - left->n - 1};
    return true;
}

/* Reads merge i: "left right", both and their joint text being tokens. joined is scratch. */
static fl_status add_merge(tok *t, const tok_table *names, const tok_map *map, tok_text m, uint32_t i, base_buf *joined,
                           fl_err *err) {
    tok_text left, right;
    if (!tok_bpe_split(m, &left, &right))
        return fl_fail(err, FL_EFORMAT, "merge %u \"%.*s\" is not two pieces with a blank between", i,
                       m.n < 100 ? (int)m.n : 100, m.bytes);
    return tok_bpe_add(&t->bpe, names, map, i, left, right, 0, joined, err);
}

/* The tokens of the single bytes, by their names. */
void tok_bpe_bytes_find(tok *t, const tok_table *names, const tok_map *map) {
    for (uint32_t cp = 0; cp < LEVEL_N; cp++) {
        uint8_t name[4];
        if (t->level[cp] == LEVEL_NONE) continue;
        size_t n = (size_t)tok_utf8_put(name, cp);
        t->byte_id[t->level[cp]] = tok_map_find(map, names, (const char *)name, n);
    }
}

/* The names as the file spells them, for looking up merges and bytes. */
static fl_status read_merges(tok *t, const tok_source *src, const tok_table *names, const tok_map *map, fl_err *err) {
    base_buf joined = {0};
    fl_status st = FL_OK;
    for (uint32_t i = 0; i < src->n_merges && st == FL_OK; i++)
        st = add_merge(t, names, map, src->merges[i], i, &joined, err);
    base_buf_clear(&joined);
    tok_bpe_bytes_find(t, names, map);
    return st;
}

static fl_status open_family(tok *t, const char *name, fl_err *err) {
    if (!name)
        return fl_fail(err, FL_EUNSUPPORTED, "the vocabulary names no splitter; known are %s", tok_split_names());
    const tok_family *f = tok_family_find(name);
    if (!f)
        return fl_fail(err, FL_EUNSUPPORTED, "splitter \"%.100s\" is not known; known are %s", name, tok_split_names());
    tok_stage stages[sizeof f->stages / sizeof *f->stages];
    while (t->n_stages < sizeof stages / sizeof *stages && f->stages[t->n_stages]) {
        stages[t->n_stages] = (tok_stage){.pattern = f->stages[t->n_stages]};
        t->n_stages++;
    }
    t->form = f->rules & TOK_NFC ? TOK_FORM_NFC : TOK_FORM_NONE;
    t->whole_first = f->rules & TOK_WHOLE_FIRST;
    return tok_split_open(&t->split, stages, t->n_stages, err);
}

fl_status tok_bpe_open(tok *t, const tok_source *src, fl_err *err) {
    if (src->n_merges > 1u << 28) return fl_fail(err, FL_EFORMAT, "%u merges", src->n_merges);
    fl_status st = open_family(t, src->pre, err);
    if (st != FL_OK) return st;
    tok_bpe_level(t);
    tok_table names = {0};
    tok_map map = {0};
    if (!tok_table_init(&names, src->n_vocab, t->table.cap) || !tok_map_init(&map, src->n_vocab) ||
        !tok_bpe_init(&t->bpe, src->n_merges)) {
        st = fl_fail(err, FL_ENOMEM, "vocabulary of %u tokens and %u merges", src->n_vocab, src->n_merges);
        goto done;
    }
    for (uint32_t i = 0; i < src->n_vocab; i++) {
        tok_text x = src->texts[i];
        if (x.n) memcpy(tok_table_next(&names), x.bytes, x.n);
        tok_table_end(&names, x.n);
        tok_table_end(&t->table, tok_bpe_bytes(t, x, tok_table_next(&t->table)));
    }
    tok_map_fill(&map, &names, NULL, 0);
    st = read_merges(t, src, &names, &map, err);
    if (st == FL_OK && t->whole_first) {
        if (tok_map_init(&t->map, src->n_vocab))
            tok_map_fill(&t->map, &t->table, t->types, 1u << TOK_NORMAL);
        else
            st = fl_fail(err, FL_ENOMEM, "vocabulary of %u tokens", src->n_vocab);
    }

done:
    tok_table_clear(&names);
    tok_map_clear(&map);
    return st;
}

bool tok_bpe_find(const tok_bpe *b, uint32_t left, uint32_t right, uint32_t *rank, uint32_t *id) {
    const tok_bpe_slot *s = probe(b, left, right);
    if (s->key == BPE_FREE) return false;
    *rank = s->rank;
    *id = s->id;
    return true;
}

static bool find_pair(tok_merge *m, const tok_symbol *a, const tok_symbol *b, uint32_t *priority, uint32_t *id) {
    return tok_bpe_find(&m->t->bpe, a->id, b->id, priority, id);
}

static bool find_rank(tok_merge *m, const tok_symbol *a, const tok_symbol *b, uint32_t *priority, uint32_t *id) {
    uint32_t len = a->len + b->len;
    if (len > m->t->piece_bytes_max) return false;
    *priority = *id = tok_map_find(&m->t->map, &m->t->table, m->text + a->start, len);
    return *id != TOK_NONE;
}

/* Merges ids[n], n <= SMALL, in place by scanning for the lowest rank, leftmost first; the new count. */
static uint32_t merge_small(const tok_bpe *b, uint32_t *ids, uint32_t n) {
    const tok_bpe_slot *pairs[SMALL];
    for (uint32_t i = 0; i + 1 < n; i++) pairs[i] = probe(b, ids[i], ids[i + 1]);
    while (n > 1) {
        uint32_t best = n;
        for (uint32_t i = 0; i + 1 < n; i++)
            if (pairs[i]->key != BPE_FREE && (best == n || pairs[i]->rank < pairs[best]->rank)) best = i;
        if (best == n) break;
        ids[best] = pairs[best]->id;
        n--;
        memmove(ids + best + 1, ids + best + 2, (n - best - 1) * sizeof *ids);
        for (uint32_t i = best + 1; i + 1 < n; i++) pairs[i] = pairs[i + 1];
        if (best > 0) pairs[best - 1] = probe(b, ids[best - 1], ids[best]);
        if (best + 1 < n) pairs[best] = probe(b, ids[best], ids[best + 1]);
    }
    return n;
}

static size_t push_bytes(tok_merge *m, const char *text, size_t at, size_t n) {
    for (; at < n && !tok_merge_full(m); at++) {
        uint32_t id = m->t->byte_id[(uint8_t)text[at]];
        if (id != TOK_NONE) tok_merge_push(m, id, (uint32_t)at, 1, false);
    }
    return at;
}

static bool put_id(const tok_merge *m, const tok_symbol *s, tok_ids *out) {
    (void)m;
    return tok_ids_push(out, s->id);
}

static const tok_merge_kind by_pairs = {push_bytes, find_pair, put_id, false};
static const tok_merge_kind by_rank = {push_bytes, find_rank, put_id, false};

static bool encode_word(tok_merge *m, const char *word, size_t n, tok_ids *out) {
    const tok *t = m->t;
    if (t->whole_first && n > 1) {
        uint32_t id = tok_map_find(&t->map, &t->table, word, n);
        if (id != TOK_NONE) return tok_ids_push(out, id);
    }
    if (n <= SMALL && !t->by_rank) {
        uint32_t ids[SMALL], k = 0;
        for (size_t i = 0; i < n; i++) {
            ids[k] = t->byte_id[(uint8_t)word[i]];
            k += ids[k] != TOK_NONE;
        }
        k = merge_small(&t->bpe, ids, k);
        for (uint32_t i = 0; i < k; i++)
            if (!tok_ids_push(out, ids[i])) return false;
        return true;
    }
    return tok_merge_text(m, t->by_rank ? &by_rank : &by_pairs, word, n, out);
}

bool tok_bpe_word(tok_merge *m, const char *word, size_t n, tok_ids *out) {
    bool found;
    tok_cache_entry *e = tok_cache_find(&m->cache, word, n, &found);
    if (found) return tok_cache_take(e, out);
    size_t before = out->n;
    if (!encode_word(m, word, n, out)) return false;
    if (e) tok_cache_put(e, word, n, out->ids + before, out->n - before);
    return true;
}

fl_status tok_bpe_encode(tok_merge *m, tok_words *w, base_buf *scratch, const char *text, size_t n, tok_ids *out,
                         fl_err *err) {
    const tok *t = m->t;
    tok_pieces *whole = &m->pieces;
    const tok_pieces *words;
    if (t->form != TOK_FORM_NONE) {
        scratch->len = 0;
        if (!tok_normalize(t->form, text, n, scratch)) return fl_fail(err, FL_ENOMEM, "text of %zu bytes", n);
        text = scratch->data;
        n = scratch->len;
    }
    whole->n = 0;
    if (!tok_cache_init(&m->cache, n) || !tok_pieces_push(whole, 0, n)) return fl_fail(err, FL_ENOMEM, "words");
    fl_status st = tok_words_cut(w, 0, t->n_stages, text, whole, &words, err);
    for (size_t i = 0; st == FL_OK && i < words->n; i++)
        if (!tok_bpe_word(m, text + words->at[i].begin, words->at[i].end - words->at[i].begin, out))
            st = fl_fail(err, FL_ENOMEM, "ids of %zu bytes", n);
    return st;
}
