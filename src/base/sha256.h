/* base/sha256.h - SHA-256: checks what was downloaded, names what a cache holds.
 *
 * Memory: zero heap; the state is the caller's.
 * Source: FIPS 180-4.
 */
#ifndef BASE_SHA256_H
#define BASE_SHA256_H

#include <stddef.h>
#include <stdint.h>

enum {
    BASE_SHA256_BYTES = 32,
    BASE_SHA256_HEX_BYTES = 65, /* 64 digits and a NUL */
};

typedef struct {
    uint32_t h[8];
    uint64_t n_bytes;
    uint8_t block[64]; /* the n_bytes % 64 bytes not hashed yet */
} base_sha256;

void base_sha256_begin(base_sha256 *s);
void base_sha256_add(base_sha256 *s, const void *bytes, size_t n);
/* Writes the digest, as bytes or in lower-case hex; begin again before any further use. */
void base_sha256_digest(base_sha256 *s, uint8_t digest[BASE_SHA256_BYTES]);
void base_sha256_end(base_sha256 *s, char hex[BASE_SHA256_HEX_BYTES]);

#endif
