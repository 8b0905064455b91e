/* Merging by priority in O(n log n): symbols in a linked list, neighbouring pairs in a binary
 * heap ordered by (priority, position).
 *
 * A pair is not removed from the heap when one of its symbols is merged away or grows; it is
 * recognised as stale when taken: its left symbol is dead, or the two symbols no longer have
 * its joint length. Boundaries between symbols only disappear, so that a pair at the same
 * place with the same length is the same pair.
 *
 * Long texts are merged in windows, so that a text of one word takes neither the memory nor the cache misses of a
 * heap over all of it. That is exact. Tokens t1 .. tk are what merging makes of a text if and only if each two neighbours
 * are what it makes of their joint text: the merges inside a stretch that no merge leaves happen in the same order,
 * whatever is around it. So the tokens of one window may be followed by those of the next, which begins at a
 * token in the last quarter of the one before, from any token on that both have at the same place. Where there is no such
 * token the whole is done again with windows of twice the size; that takes texts made for the purpose.
 */
#include "tok/tok_int.h"

#include "base/mem.h"

enum { WINDOW = 1 << 14 }; /* symbols: with the heap about a megabyte */

/* Room for one more pair. */
static bool heap_reserve(tok_merge *m, size_t n) {
    if (n <= m->heap_cap) return true;
    size_t cap = m->heap_cap ? m->heap_cap : 64;
    while (cap < n) cap *= 2; /* n <= 3 * TOK_TEXT_MAX */
    tok_pair *heap = base_realloc(m->heap, cap * sizeof *heap);
    if (!heap) return false;
    m->heap = heap;
    m->heap_cap = cap;
    return true;
}

static void sift_down(tok_pair *heap, size_t n, size_t i) {
    tok_pair x = heap[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= n) break;
        if (child + 1 < n && heap[child + 1].order < heap[child].order) child++;
        if (heap[child].order >= x.order) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = x;
}

static void sift_up(tok_pair *heap, size_t i) {
    tok_pair x = heap[i];
    while (i > 0) {
        size_t parent = (i - 1) / 2;
        if (heap[parent].order <= x.order) break;
        heap[i] = heap[parent];
        i = parent;
    }
    heap[i] = x;
}

/* Room for the symbols of a window. */
static bool reserve(tok_merge *m, size_t n_symbols) {
    m->n_symbols = 0;
    m->n_heap = 0;
    if (n_symbols <= m->symbols_cap) return true;
    base_free(m->symbols);
    m->symbols = base_malloc(n_symbols * sizeof *m->symbols);
    m->symbols_cap = m->symbols ? n_symbols : 0;
    return m->symbols != NULL;
}

void tok_merge_push(tok_merge *m, uint32_t id, uint32_t start, uint32_t len, bool frozen) {
    uint32_t i = m->n_symbols++;
    m->symbols[i] = (tok_symbol){id, start, len, i ? i - 1 : (uint32_t)TOK_NONE, TOK_NONE, frozen};
    if (i) m->symbols[i - 1].next = i;
}

/* Puts the pair that begins at symbol a at the end of the heap array, if it merges. */
static bool add_pair(tok_merge *m, const tok_merge_kind *kind, uint32_t a) {
    uint32_t b = m->symbols[a].next, priority, id;
    if (b == TOK_NONE || m->symbols[a].frozen || m->symbols[b].frozen) return true;
    if (!kind->find(m, &m->symbols[a], &m->symbols[b], &priority, &id)) return true;
    if (!heap_reserve(m, m->n_heap + 1)) return false;
    m->heap[m->n_heap++] = (tok_pair){(uint64_t)priority << 32 | a, id, m->symbols[a].len + m->symbols[b].len};
    return true;
}

/* Merges until no pair is left. Dead symbols keep len 0. */
static bool merge(tok_merge *m, const tok_merge_kind *kind) {
    for (uint32_t i = 0; i + 1 < m->n_symbols; i++)
        if (!add_pair(m, kind, i)) return false;
    for (size_t i = m->n_heap / 2; i-- > 0;) sift_down(m->heap, m->n_heap, i);
    while (m->n_heap) {
        tok_pair top = m->heap[0];
        m->heap[0] = m->heap[--m->n_heap];
        if (m->n_heap) sift_down(m->heap, m->n_heap, 0);
        tok_symbol *a = &m->symbols[(uint32_t)top.order];
        if (!a->len || a->next == TOK_NONE) continue;
        tok_symbol *b = &m->symbols[a->next];
        if (a->len + b->len != top.len) continue;
        a->id = top.id;
        a->len = top.len;
        a->next = b->next;
        b->len = 0;
        if (a->next != TOK_NONE) m->symbols[a->next].prev = (uint32_t)top.order;
        uint32_t from[2] = {a->prev, (uint32_t)top.order};
        for (int k = 0; k < 2; k++) {
            size_t before = m->n_heap;
            if (from[k] == TOK_NONE) continue;
            if (!add_pair(m, kind, from[k])) return false;
            if (m->n_heap > before) sift_up(m->heap, before);
        }
    }
    return true;
}

typedef enum { DONE, TOO_SMALL, NO_MEMORY } result;

/* Puts the tokens of the tail as far as the first that the window has as well; *first gets the symbol behind it. */
static result join(tok_merge *m, const tok_merge_kind *kind, uint32_t *first, tok_ids *out) {
    uint32_t i = 0;
    for (size_t k = 0; k < m->n_tail; k++) {
        const tok_symbol *x = &m->tail[k];
        while (i < m->n_symbols && (!m->symbols[i].len || m->symbols[i].start < x->start)) i++;
        if (i == m->n_symbols) break;
        const tok_symbol *y = &m->symbols[i];
        if (!kind->put(m, x, out)) return NO_MEMORY;
        if (y->start != x->start || y->len != x->len || y->id != x->id) continue;
        *first = i + 1;
        return DONE;
    }
    return TOO_SMALL;
}

/* Puts the tokens up to the last quarter of the window and keeps the others; where they begin in the text, 0 if there is
 * none, TOK_NONE without memory. */
static size_t keep_tail(tok_merge *m, const tok_merge_kind *kind, uint32_t first, tok_ids *out) {
    uint32_t i = first, keep = m->n_symbols - m->n_symbols / 4;
    for (; i < m->n_symbols && (i < keep || !m->symbols[i].len); i++)
        if (m->symbols[i].len && !kind->put(m, &m->symbols[i], out)) return TOK_NONE;
    if (m->n_symbols - i > m->tail_cap) {
        base_free(m->tail);
        m->tail_cap = m->n_symbols - i;
        m->tail = base_malloc(m->tail_cap * sizeof *m->tail);
        if (!m->tail) {
            m->tail_cap = 0;
            return TOK_NONE;
        }
    }
    m->n_tail = 0;
    for (; i < m->n_symbols; i++)
        if (m->symbols[i].len) m->tail[m->n_tail++] = m->symbols[i];
    return m->n_tail ? m->tail[0].start : 0;
}

static result merge_windows(tok_merge *m, const tok_merge_kind *kind, const char *text, size_t n, tok_ids *out) {
    m->text = text;
    m->n_tail = 0;
    for (size_t at = 0;;) {
        uint32_t first = 0;
        if (!reserve(m, (n - at < m->window ? n - at : m->window) + TOK_PUSH_MORE)) return NO_MEMORY;
        size_t end = kind->push(m, text, at, n);
        if (!merge(m, kind)) return NO_MEMORY;
        result met = m->n_tail ? join(m, kind, &first, out) : DONE;
        if (met != DONE) return met;
        if (end == n) {
            for (; first < m->n_symbols; first++)
                if (m->symbols[first].len && !kind->put(m, &m->symbols[first], out)) return NO_MEMORY;
            return DONE;
        }
        size_t next = keep_tail(m, kind, first, out);
        if (next == TOK_NONE) return NO_MEMORY;
        if (next <= at) return TOO_SMALL;
        at = next;
    }
}

bool tok_merge_text(tok_merge *m, const tok_merge_kind *kind, const char *text, size_t n, tok_ids *out) {
    size_t before = out->n;
    result r = TOO_SMALL;
    for (m->window = kind->whole ? UINT32_MAX : WINDOW; r == TOO_SMALL; m->window *= 2) {
        out->n = before;
        r = merge_windows(m, kind, text, n, out);
    }
    return r == DONE;
}

void tok_merge_clear(tok_merge *m) {
    base_free(m->symbols);
    base_free(m->heap);
    base_free(m->tail);
    tok_cache_clear(&m->cache);
    base_free(m->unused_left);
    tok_pieces_clear(&m->pieces);
    *m = (tok_merge){0};
}
