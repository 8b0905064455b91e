/* Finding added tokens: the texts sorted by bytes, narrowed one byte at a time by binary search.
 * All texts with a common prefix are neighbours and the prefix itself, if it is a token, comes
 * first, so that the longest match falls out of the walk. A step costs O(log n), a position as
 * many steps as bytes agree. That is less code than an automaton and faster to build; texts of
 * added tokens are short, so that the bound O(bytes x longest token) is near the former.
 */
#include "tok/tok_int.h"

#include "base/mem.h"
#include "tok/utf8.h"

#include <stdlib.h>
#include <string.h>

static int compare(const void *a, const void *b, void *table) {
    uint32_t i = *(const uint32_t *)a, j = *(const uint32_t *)b;
    tok_text x = tok_table_get(table, i), y = tok_table_get(table, j);
    int c = memcmp(x.bytes, y.bytes, x.n < y.n ? x.n : y.n);
    if (c) return c;
    if (x.n != y.n) return x.n < y.n ? -1 : 1;
    return i < j ? -1 : i > j;
}

/* Whether token i is looked for: a match of half a character would leave the other half behind. */
static bool wanted(const tok_table *table, const uint8_t *types, unsigned set, uint32_t i) {
    if (!(set >> types[i] & 1)) return false;
    tok_text x = tok_table_get(table, i);
    return x.n && tok_utf8_check(x.bytes, x.n) == x.n;
}

bool tok_match_init(tok_match *m, const tok_table *table, const uint8_t *types, unsigned set) {
    *m = (tok_match){.table = table};
    uint32_t n = 0;
    for (uint32_t i = 0; i < table->n; i++) n += wanted(table, types, set, i);
    m->ids = base_malloc(n * sizeof *m->ids);
    if (!m->ids) return false;
    for (uint32_t i = 0; i < table->n; i++)
        if (wanted(table, types, set, i)) m->ids[m->n++] = i;
    qsort_r(m->ids, m->n, sizeof *m->ids, compare, (void *)(uintptr_t)table);
    uint32_t at = 0;
    for (uint32_t b = 0; b < 256; b++) {
        m->first[b] = at;
        while (at < m->n && (uint8_t)table->bytes[table->start[m->ids[at]]] == b) at++;
    }
    m->first[256] = at;
    return true;
}

void tok_match_clear(tok_match *m) {
    base_free(m->ids);
    *m = (tok_match){0};
}

/* Byte d of token k, or -1 at its end. */
static int byte_at(const tok_match *m, uint32_t k, size_t d) {
    tok_text x = tok_table_get(m->table, m->ids[k]);
    return d < x.n ? (uint8_t)x.bytes[d] : -1;
}

/* The first token in [lo, hi) whose byte d is at least b. */
static uint32_t lower(const tok_match *m, uint32_t lo, uint32_t hi, size_t d, int b) {
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (byte_at(m, mid, d) < b)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool tok_match_next(const tok_match *m, tok_match_walk *w, uint32_t *id, size_t *len) {
    if (!m->n || !w->n) return false;
    if (!w->d) {
        w->lo = m->first[(uint8_t)w->p[0]];
        w->hi = m->first[(uint8_t)w->p[0] + 1];
        w->d = 1;
    }
    while (w->lo < w->hi) {
        bool found = byte_at(m, w->lo, w->d) < 0;
        if (found) {
            *id = m->ids[w->lo];
            *len = w->d;
        }
        if (w->d == w->n) {
            w->lo = w->hi;
        } else {
            int b = (uint8_t)w->p[w->d];
            w->lo = lower(m, w->lo, w->hi, w->d, b);
            w->hi = lower(m, w->lo, w->hi, w->d, b + 1);
            w->d++;
        }
        if (found) return true;
    }
    return false;
}

uint32_t tok_match_at(const tok_match *m, const char *p, size_t n, size_t *len) {
    tok_match_walk w = {.p = p, .n = n};
    uint32_t best = TOK_NONE;
    while (tok_match_next(m, &w, &best, len)) {
    }
    return best;
}

uint32_t tok_match_find(const tok_match *m, const char *p, size_t n) {
    size_t len = 0;
    uint32_t id = tok_match_at(m, p, n, &len);
    return id != TOK_NONE && len == n ? id : (uint32_t)TOK_NONE;
}
