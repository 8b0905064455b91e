/* kv/key.h - names for what a cache page holds.
 *
 * A page's content is decided by all tokens up to its end and by the salt of its request. Its key is a hash
 * chained from page to page, so equal keys mean equal prefixes: SHA-256, cut to 128 bits, because whoever could
 * construct two prefixes with one key could read another request's cache.
 *
 * Pure functions, no memory.
 */
#ifndef KV_KEY_H
#define KV_KEY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { KV_PAGE_TOKENS = 32 }; /* positions of a page */

typedef struct {
    uint64_t a, b;
} kv_key;

/* The key before the first page. Requests with different salts (n bytes) share nothing. */
kv_key kv_key_root(const void *salt, size_t n);
/* The key of the page that holds `tokens`, after the page named `before`. */
kv_key kv_key_next(kv_key before, const uint32_t tokens[KV_PAGE_TOKENS]);

static inline bool kv_key_equal(kv_key x, kv_key y) { return x.a == y.a && x.b == y.b; }

#endif
