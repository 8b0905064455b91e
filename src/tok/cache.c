/* The ids of short words met before: most words of a text are few. One place for each word, the last comer keeps it, so
 * that memory and time are bounded whatever the text. A cache belongs to one call: nothing is shared between threads, and
 * one text cannot show by its timing what another held.
 *
 * A word of up to 16 bytes is kept as two loads that together cover it (for 8 to 16 bytes the first and the last eight);
 * with the length they tell all words apart.
 */
#include "tok/tok_int.h"

#include "base/mem.h"

#include <string.h>

enum { TEXT_MIN = 2048, BITS_MIN = 7, BITS_MAX = 14 }; /* 4 KiB to 512 KiB: a part of a second-level cache */

bool tok_cache_init(tok_cache *c, size_t n) {
    uint32_t bits = BITS_MIN;
    if (n < TEXT_MIN || c->at) return true;
    while (bits < BITS_MAX && n >> (bits + 4)) bits++;
    c->at = base_calloc((size_t)1 << bits, sizeof *c->at);
    c->shift = 64 - bits;
    return c->at != NULL;
}

void tok_cache_clear(tok_cache *c) {
    base_free(c->at);
    *c = (tok_cache){0};
}

static uint64_t load8(const char *p) {
    uint64_t x;
    memcpy(&x, p, 8);
    return x;
}

static uint64_t load4(const char *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}

static void load(const char *p, size_t n, uint64_t word[2]) {
    if (n >= 8) {
        word[0] = load8(p);
        word[1] = load8(p + n - 8);
    } else if (n >= 4) {
        word[0] = load4(p);
        word[1] = load4(p + n - 4);
    } else {
        word[0] = (uint8_t)p[0] | (uint64_t)(uint8_t)p[n / 2] << 8;
        word[1] = (uint8_t)p[n - 1];
    }
}

tok_cache_entry *tok_cache_find(const tok_cache *c, const char *word, size_t n, bool *found) {
    uint64_t w[2];
    *found = false;
    if (!c->at || !n || n > TOK_CACHE_WORD) return NULL;
    load(word, n, w);
    uint64_t h = (w[0] ^ (w[1] << 29 | w[1] >> 35) ^ n << 56) * 0x9e3779b97f4a7c15u;
    tok_cache_entry *e = &c->at[(h ^ h >> 32) * 0xbf58476d1ce4e5b9u >> c->shift];
    *found = e->n_bytes == n && e->word[0] == w[0] && e->word[1] == w[1];
    return e;
}

bool tok_cache_take(const tok_cache_entry *e, tok_ids *out) {
    for (uint32_t i = 0; i < e->n_ids; i++)
        if (!tok_ids_push(out, e->ids[i])) return false;
    return true;
}

void tok_cache_put(tok_cache_entry *e, const char *word, size_t n, const uint32_t *ids, size_t n_ids) {
    if (n_ids > TOK_CACHE_IDS) return;
    load(word, n, e->word);
    e->n_bytes = (uint16_t)n;
    e->n_ids = (uint16_t)n_ids;
    for (size_t i = 0; i < n_ids; i++) e->ids[i] = ids[i];
}
