#include "base/sha256.h"

#include <string.h>

static const uint32_t k[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static uint32_t rotr(uint32_t x, int n) { return x >> n | x << (32 - n); }

static uint32_t sum0(uint32_t x) { return rotr(x, 2) ^ rotr(x, 13) ^ rotr(x, 22); }
static uint32_t sum1(uint32_t x) { return rotr(x, 6) ^ rotr(x, 11) ^ rotr(x, 25); }
static uint32_t choose(uint32_t x, uint32_t y, uint32_t z) { return z ^ (x & (y ^ z)); }
static uint32_t majority(uint32_t x, uint32_t y, uint32_t z) { return (x & y) | (z & (x | y)); }

/* One round. The eight words are not moved: in round i the word a is v[-i mod 8], and so on. */
static inline void step(uint32_t v[8], int i, uint32_t kw) {
    uint32_t *a = &v[-i & 7], *b = &v[(1 - i) & 7], *c = &v[(2 - i) & 7], *d = &v[(3 - i) & 7];
    uint32_t *e = &v[(4 - i) & 7], *f = &v[(5 - i) & 7], *g = &v[(6 - i) & 7], *h = &v[(7 - i) & 7];
    uint32_t t = *h + sum1(*e) + choose(*e, *f, *g) + kw;
    *d += t;
    *h = t + sum0(*a) + majority(*a, *b, *c);
}

static void compress(uint32_t h[8], const uint8_t *p) {
    uint32_t w[64], v[8];
    for (int i = 0; i < 16; i++) {
        memcpy(&w[i], p + 4 * i, 4);
        w[i] = __builtin_bswap32(w[i]);
    }
    for (int i = 16; i < 64; i++) {
        uint32_t s0 = rotr(w[i - 15], 7) ^ rotr(w[i - 15], 18) ^ w[i - 15] >> 3;
        uint32_t s1 = rotr(w[i - 2], 17) ^ rotr(w[i - 2], 19) ^ w[i - 2] >> 10;
        w[i] = w[i - 16] + s0 + w[i - 7] + s1;
    }
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 64; i += 8) { /* written out: the places in v become registers */
        step(v, 0, k[i] + w[i]);
        step(v, 1, k[i + 1] + w[i + 1]);
        step(v, 2, k[i + 2] + w[i + 2]);
        step(v, 3, k[i + 3] + w[i + 3]);
        step(v, 4, k[i + 4] + w[i + 4]);
        step(v, 5, k[i + 5] + w[i + 5]);
        step(v, 6, k[i + 6] + w[i + 6]);
        step(v, 7, k[i + 7] + w[i + 7]);
    }
    for (int i = 0; i < 8; i++) h[i] += v[i];
}

void base_sha256_begin(base_sha256 *s) {
    *s = (base_sha256){
        .h = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19}};
}

void base_sha256_add(base_sha256 *s, const void *bytes, size_t n) {
    const uint8_t *p = bytes;
    size_t held = s->n_bytes % 64;
    s->n_bytes += n;
    if (held) {
        size_t more = n < 64 - held ? n : 64 - held;
        memcpy(s->block + held, p, more);
        if (held + more < 64) return;
        compress(s->h, s->block);
        p += more;
        n -= more;
    }
    for (; n >= 64; p += 64, n -= 64) compress(s->h, p);
    if (n) memcpy(s->block, p, n);
}

void base_sha256_digest(base_sha256 *s, uint8_t digest[BASE_SHA256_BYTES]) {
    static const uint8_t pad[64] = {0x80};
    uint64_t n_bits = __builtin_bswap64(s->n_bytes * 8);
    base_sha256_add(s, pad, 1 + (119 - s->n_bytes % 64) % 64);
    base_sha256_add(s, &n_bits, sizeof n_bits);
    for (int i = 0; i < BASE_SHA256_BYTES; i++) digest[i] = (uint8_t)(s->h[i / 4] >> (24 - i % 4 * 8));
}

void base_sha256_end(base_sha256 *s, char hex[BASE_SHA256_HEX_BYTES]) {
    static const char digits[] = "0123456789abcdef";
    uint8_t digest[BASE_SHA256_BYTES];
    base_sha256_digest(s, digest);
    for (int i = 0; i < 64; i++) hex[i] = digits[digest[i / 2] >> (4 - i % 2 * 4) & 15];
    hex[64] = '\0';
}
