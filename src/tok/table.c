/* Byte strings in one block, and the map over them. See tok_int.h. */
#include "tok/tok_int.h"

#include "base/map.h"
#include "base/mem.h"

#include <string.h>
#include <sys/random.h>

bool tok_table_init(tok_table *t, uint32_t n_max, size_t bytes_max) {
    *t = (tok_table){.n_max = n_max, .cap = bytes_max};
    if (bytes_max >= UINT32_MAX) return false;
    t->start = base_malloc(((size_t)n_max + 1) * sizeof *t->start);
    t->bytes = base_malloc(bytes_max);
    if (!t->start || !t->bytes) return false;
    t->start[0] = 0;
    return true;
}

void tok_table_clear(tok_table *t) {
    base_free(t->bytes);
    base_free(t->start);
    *t = (tok_table){0};
}

char *tok_table_next(tok_table *t) { return t->bytes + t->start[t->n]; }

void tok_table_end(tok_table *t, size_t n) {
    t->start[t->n + 1] = t->start[t->n] + (uint32_t)n;
    t->n++;
}

tok_text tok_table_get(const tok_table *t, uint32_t i) {
    return (tok_text){t->bytes + t->start[i], t->start[i + 1] - t->start[i]};
}

uint64_t tok_seed(void) {
    uint64_t seed;
    /* Without entropy a fixed seed only loses the protection against prepared collisions. */
    if (getrandom(&seed, sizeof seed, GRND_NONBLOCK) != (ssize_t)sizeof seed) seed = 1;
    return seed;
}

bool tok_map_init(tok_map *m, uint32_t n_keys) {
    uint32_t n = 16;
    while (n < 2 * n_keys) n *= 2; /* n_keys <= TOK_VOCAB_MAX: no overflow */
    m->seed = tok_seed();
    m->mask = n - 1;
    m->slots = base_calloc(n, sizeof *m->slots);
    return m->slots != NULL;
}

void tok_map_clear(tok_map *m) {
    base_free(m->slots);
    *m = (tok_map){0};
}

/* The slot of the string, or the free one where it belongs. */
static uint32_t *probe(const tok_map *m, const tok_table *t, const char *bytes, size_t n, uint64_t hash,
                       uint32_t *tag) {
    *tag = (uint32_t)(hash >> 56) << 24;
    for (uint32_t i = (uint32_t)hash & m->mask;; i = (i + 1) & m->mask) {
        uint32_t slot = m->slots[i];
        if (!slot) return &m->slots[i];
        if ((slot & 0xff000000u) != *tag) continue;
        tok_text x = tok_table_get(t, (slot & 0xffffffu) - 1);
        if (x.n == n && memcmp(x.bytes, bytes, n) == 0) return &m->slots[i];
    }
}

/* Hashes run ahead of the entries that are added, so that their slots are on the way from memory. */
void tok_map_fill(tok_map *m, const tok_table *t, const uint8_t *types, unsigned set) {
    enum { AHEAD = 16 };
    uint64_t hashes[AHEAD];
    for (uint32_t i = 0; i < t->n + AHEAD; i++) {
        if (i >= AHEAD && (!types || set >> types[i - AHEAD] & 1)) {
            tok_text x = tok_table_get(t, i - AHEAD);
            uint32_t tag, *slot = probe(m, t, x.bytes, x.n, hashes[i % AHEAD], &tag);
            if (!*slot) *slot = tag | (i - AHEAD + 1);
        }
        if (i >= t->n) continue;
        tok_text x = tok_table_get(t, i);
        hashes[i % AHEAD] = base_hash(m->seed, x.bytes, x.n);
        __builtin_prefetch(&m->slots[(uint32_t)hashes[i % AHEAD] & m->mask], 1);
    }
}

uint32_t tok_map_find(const tok_map *m, const tok_table *t, const char *bytes, size_t n) {
    uint32_t tag;
    const uint32_t *slot = probe(m, t, bytes, n, base_hash(m->seed, bytes, n), &tag);
    return *slot ? (*slot & 0xffffffu) - 1 : (uint32_t)TOK_NONE;
}
