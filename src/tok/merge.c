/* Merging by priority in O(n log n): symbols in a linked list, neighbouring pairs in a binary
 * heap ordered by (priority, position).
 *
 * A pair is not removed from the heap when one of its symbols is merged away or grows; it is
 * recognised as stale when taken: its left symbol is dead, or the two symbols no longer have
 * its joint length. Boundaries between symbols only disappear, so that a pair at the same
 * place with the same length is the same pair.
 */
#include "tok/tok_int.h"

#include "base/mem.h"

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

bool tok_merge_reserve(tok_merge *m, size_t n_symbols) {
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
static bool add_pair(tok_merge *m, uint32_t a, tok_pair_find *find) {
    uint32_t b = m->symbols[a].next, priority, id;
    if (b == TOK_NONE || m->symbols[a].frozen || m->symbols[b].frozen) return true;
    if (!find(m, &m->symbols[a], &m->symbols[b], &priority, &id)) return true;
    if (!heap_reserve(m, m->n_heap + 1)) return false;
    m->heap[m->n_heap++] = (tok_pair){(uint64_t)priority << 32 | a, id, m->symbols[a].len + m->symbols[b].len};
    return true;
}

bool tok_merge_run(tok_merge *m, tok_pair_find *find) {
    for (uint32_t i = 0; i + 1 < m->n_symbols; i++)
        if (!add_pair(m, i, find)) return false;
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
            if (!add_pair(m, from[k], find)) return false;
            if (m->n_heap > before) sift_up(m->heap, before);
        }
    }
    return true;
}

void tok_merge_clear(tok_merge *m) {
    base_free(m->symbols);
    base_free(m->heap);
    base_free(m->unused_left);
    tok_pieces_clear(&m->pieces);
    *m = (tok_merge){0};
}
