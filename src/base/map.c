#include "base/map.h"

#include "base/mem.h"

#include <string.h>
#include <sys/random.h>

struct base_map_slot {
    const char *key; /* NULL: free */
    uint32_t len;
    uint32_t value;
    uint32_t hash;
};

static uint64_t mix(uint64_t a, uint64_t b) {
    __extension__ unsigned __int128 p = (unsigned __int128)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

/* Folded multiplication, eight bytes a step (the construction of wyhash). */
uint64_t base_hash(uint64_t seed, const void *bytes, size_t n) {
    const unsigned char *p = bytes;
    uint64_t h = seed ^ 0x9e3779b97f4a7c15u, w;
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        memcpy(&w, p + i, 8);
        h = mix(h ^ w, 0xe7037ed1a0b428dbu);
    }
    w = 0;
    if (i < n) memcpy(&w, p + i, n - i);
    h = mix(h ^ w, 0x8ebc6af09c88c6e3u);
    return mix(h ^ n, 0x589965cc75374cc3u);
}

static base_map_slot *probe(const base_map *m, const char *key, size_t len, uint32_t hash) {
    uint32_t mask = m->n_slots - 1;
    for (uint32_t i = hash & mask;; i = (i + 1) & mask) {
        base_map_slot *s = &m->slots[i];
        if (!s->key || (s->hash == hash && s->len == len && memcmp(s->key, key, len) == 0)) return s;
    }
}

static bool grow(base_map *m, uint32_t n_slots) {
    base_map_slot *old = m->slots, *slots = base_calloc(n_slots, sizeof *slots);
    if (!slots) return false;
    uint32_t n_old = m->n_slots;
    m->slots = slots;
    m->n_slots = n_slots;
    for (uint32_t i = 0; i < n_old; i++)
        if (old[i].key) *probe(m, old[i].key, old[i].len, old[i].hash) = old[i];
    base_free(old);
    return true;
}

bool base_map_init(base_map *m, uint32_t n_keys) {
    *m = (base_map){0};
    /* Without entropy the fixed seed only loses the protection against prepared collisions. */
    if (getrandom(&m->seed, sizeof m->seed, GRND_NONBLOCK) != (ssize_t)sizeof m->seed) m->seed = 1;
    if (n_keys >= 1u << 30) return false;
    uint32_t n = 16;
    while (n < 2 * (n_keys + 1)) n *= 2;
    return grow(m, n);
}

void base_map_clear(base_map *m) {
    base_free(m->slots);
    *m = (base_map){0};
}

bool base_map_insert(base_map *m, const char *key, size_t len, uint32_t value, uint32_t *found) {
    if (len > UINT32_MAX) return false;
    if (2 * (m->count + 1) > m->n_slots)
        if (m->n_slots >= 1u << 31 || !grow(m, m->n_slots * 2)) return false;
    uint32_t hash = (uint32_t)base_hash(m->seed, key, len);
    base_map_slot *s = probe(m, key, len, hash);
    if (!s->key) {
        *s = (base_map_slot){key, (uint32_t)len, value, hash};
        m->count++;
    }
    if (found) *found = s->value;
    return true;
}

uint32_t base_map_find(const base_map *m, const char *key, size_t len) {
    if (!m->n_slots) return BASE_MAP_NONE;
    const base_map_slot *s = probe(m, key, len, (uint32_t)base_hash(m->seed, key, len));
    return s->key ? s->value : BASE_MAP_NONE;
}
