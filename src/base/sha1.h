/* base/sha1.h - SHA-1, for the names that git gives to contents. It says whether bytes came over whole, not who wrote
 * them: collisions can be made.
 *
 * Memory: zero heap; the state is the caller's.
 * Source: FIPS 180-4.
 */
#ifndef BASE_SHA1_H
#define BASE_SHA1_H

#include <stddef.h>
#include <stdint.h>

enum { BASE_SHA1_HEX_BYTES = 41 }; /* 40 digits and a NUL */

typedef struct {
    uint32_t h[5];
    uint64_t n_bytes;
    uint8_t block[64]; /* the n_bytes % 64 bytes not hashed yet */
} base_sha1;

void base_sha1_begin(base_sha1 *s);
void base_sha1_add(base_sha1 *s, const void *bytes, size_t n);
/* Writes the digest in lower-case hex; begin again before any further use. */
void base_sha1_end(base_sha1 *s, char hex[BASE_SHA1_HEX_BYTES]);

#endif
