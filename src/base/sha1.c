#include "base/sha1.h"

#include <string.h>

static uint32_t rotl(uint32_t x, int n) { return x << n | x >> (32 - n); }

static void compress(uint32_t h[5], const uint8_t *p) {
    uint32_t w[80], a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
    for (int i = 0; i < 16; i++) {
        memcpy(&w[i], p + 4 * i, 4);
        w[i] = __builtin_bswap32(w[i]);
    }
    for (int i = 16; i < 80; i++) w[i] = rotl(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    for (int i = 0; i < 80; i++) {
        uint32_t f = i < 20 ? d ^ (b & (c ^ d)) : i < 40 || i >= 60 ? b ^ c ^ d : (b & c) | (d & (b | c));
        uint32_t k = i < 20 ? 0x5a827999 : i < 40 ? 0x6ed9eba1 : i < 60 ? 0x8f1bbcdc : 0xca62c1d6;
        uint32_t t = rotl(a, 5) + f + e + k + w[i];
        e = d;
        d = c;
        c = rotl(b, 30);
        b = a;
        a = t;
    }
    h[0] += a;
    h[1] += b;
    h[2] += c;
    h[3] += d;
    h[4] += e;
}

void base_sha1_begin(base_sha1 *s) {
    *s = (base_sha1){.h = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}};
}

void base_sha1_add(base_sha1 *s, const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    while (n > 0) {
        size_t at = s->n_bytes % 64, k = n < 64 - at ? n : 64 - at;
        memcpy(s->block + at, p, k);
        s->n_bytes += k;
        p += k;
        n -= k;
        if (s->n_bytes % 64 == 0) compress(s->h, s->block);
    }
}

void base_sha1_end(base_sha1 *s, char hex[BASE_SHA1_HEX_BYTES]) {
    static const uint8_t padding[64] = {0x80};
    static const char digits[] = "0123456789abcdef";
    uint64_t bits = __builtin_bswap64(s->n_bytes * 8);
    base_sha1_add(s, padding, 1 + (119 - s->n_bytes % 64) % 64); /* up to 56 bytes past a whole block */
    base_sha1_add(s, &bits, sizeof bits);
    for (int i = 0; i < 40; i++) hex[i] = digits[s->h[i / 8] >> (28 - i % 8 * 4) & 15];
    hex[40] = '\0';
}
