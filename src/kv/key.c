#include "kv/key.h"

#include "base/sha256.h"

#include <string.h>

/* The first byte keeps salts and pages apart: no salt can be chosen to equal a prefix. */
static void begin(base_sha256 *s, char kind) {
    base_sha256_begin(s);
    base_sha256_add(s, &kind, 1);
}

static kv_key cut(base_sha256 *s) {
    uint8_t digest[BASE_SHA256_BYTES];
    kv_key k;
    base_sha256_digest(s, digest);
    memcpy(&k, digest, sizeof k);
    return k;
}

kv_key kv_key_root(const void *salt, size_t n) {
    base_sha256 s;
    begin(&s, 'S');
    base_sha256_add(&s, salt, n);
    return cut(&s);
}

kv_key kv_key_next(kv_key before, const uint32_t tokens[KV_PAGE_TOKENS]) {
    base_sha256 s;
    begin(&s, 'P');
    base_sha256_add(&s, &before, sizeof before);
    base_sha256_add(&s, tokens, KV_PAGE_TOKENS * sizeof *tokens);
    return cut(&s);
}
