/* dev/cpu/x86/q_rows.h - pieces of a file's rows as they go into "16 rows x 4 k" tiles, for every set that packs so.
 *
 * A row's 4-byte pieces land 64 bytes apart, and the 16 rows of a tile meet in the first-level cache, so that any
 * range of rows costs the same. Only integers are moved: rounding and flush modes do not matter.
 */
#ifndef DEV_CPU_X86_Q_ROWS_H
#define DEV_CPU_X86_Q_ROWS_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* 16 bytes whose low nibbles are codes 0..15 and high nibbles codes 16..31, as row r. */
static inline void nibbles_put(uint8_t *group, uint32_t r, const uint8_t *q) {
    for (uint32_t j = 0; j < 4; j++) memcpy(group + 64 * j + 4 * r, q + 4 * j, 4);
}

/* K-quants keep 64 codes in 32 bytes; this gathers the 32 of the low or of the high nibbles. */
static inline void nibbles_put_k(uint8_t *group, uint32_t r, const uint8_t *q, bool high) {
    const __m128i mask = _mm_set1_epi8(15);
    __m128i a = _mm_loadu_si128((const __m128i *)(const void *)q);
    __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(q + 16));
    if (high) a = _mm_srli_epi16(a, 4), b = _mm_srli_epi16(b, 4);
    a = _mm_or_si128(_mm_and_si128(a, mask), _mm_slli_epi16(_mm_and_si128(b, mask), 4));
    uint8_t out[16];
    _mm_storeu_si128((__m128i *)(void *)out, a);
    nibbles_put(group, r, out);
}

static inline void half_put(uint8_t *halves, uint32_t r, const uint8_t *h) { memcpy(halves + 2 * r, h, 2); }

/* Byte i of the result: bits i, i + 4, i + 8 .. of h. */
static inline uint32_t bits_by_4(uint32_t h) {
    uint32_t out = 0;
    for (uint32_t i = 0; i < 4; i++) {
        uint32_t b = (h >> i) & 0x11111111;
        b = (b | b >> 3) & 0x03030303;
        b = (b | b >> 6) & 0x000f000f;
        out |= ((b | b >> 12) & 0xff) << (8 * i);
    }
    return out;
}

/* bits: bit 4 of codes 0..31. */
static inline void plane5_put(uint8_t *plane, uint32_t r, uint32_t bits) {
    bits = bits_by_4(bits);
    memcpy(plane + 4 * r, &bits, sizeof bits);
}

/* Bits 4 and 5 of the 32 codes of quarter j of a Q6_K half block, from its 32 bytes of pairs. */
static inline void plane6_put(uint8_t *plane, uint32_t r, const uint8_t *pairs, uint32_t j) {
    uint32_t d[8];
    memcpy(d, pairs, sizeof d);
    for (uint32_t i = 0; i < 8; i++) d[i] = (d[i] >> (2 * j)) & 0x03030303;
    for (uint32_t c = 0; c < 2; c++) {
        const uint32_t out = d[4 * c] | d[4 * c + 1] << 2 | d[4 * c + 2] << 4 | d[4 * c + 3] << 6;
        memcpy(plane + 64 * c + 4 * r, &out, sizeof out);
    }
}

/* Bit t of 32 bytes. */
static inline uint32_t bits_of(const uint8_t *bytes, uint32_t t) {
    uint32_t out = 0;
    for (uint32_t h = 0; h < 2; h++) {
        const __m128i b = _mm_loadu_si128((const __m128i *)(const void *)(bytes + 16 * h));
        out |= (uint32_t)_mm_movemask_epi8(_mm_sll_epi16(b, _mm_cvtsi32_si128((int)(7 - t)))) << 16 * h;
    }
    return out;
}

/* Sub-scale and minimum t of Q4_K and Q5_K from their 12 bytes: 16 sub-scales, then 16 minima. */
static inline void k_scale_put(uint8_t *scales, uint32_t r, const uint8_t *s, uint32_t t) {
    scales[r] = (uint8_t)(t < 4 ? s[t] & 63 : (s[t + 4] & 15) | (s[t - 4] >> 6) << 4);
    scales[16 + r] = (uint8_t)(t < 4 ? s[t + 4] & 63 : (s[t + 4] >> 4) | (s[t] >> 6) << 4);
}

#endif
