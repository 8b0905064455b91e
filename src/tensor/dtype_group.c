/* tensor/dtype_group.c - the integer form of 32 weights of every GGUF block type: codes, sub-scales and minima.
 *
 * This is what products of the q8 profile compute with (docs/numerics.md), and what dtype.c
 * decodes most types from. Where a layout gives fractions they are moved into dw, which
 * stays a power of two times the block's half: IQ2 d / 8 * (2 s + 1) * grid, IQ1
 * d / 8 * (2 s + 1) * (8 grid +- 1), MXFP4 2^(e - 128) * (twice the e2m1 value).
 * Layouts: field offsets stand at each function. Sources: ggml-org/llama.cpp
 * ggml/src/ggml-common.h, gguf-py; checked against recorded vectors.
 */
#include "tensor/dtype_int.h"
#include "tensor/grids.h"

#include <string.h>

/* Codes -8..7: what the types with few codes draw from (Q2_K 0..3, Q3_K -4..3, TQ and Q1_0 -1..1). */
const int8_t dtype_book_small[16] = {-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7};
const int8_t dtype_book_iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
const int8_t dtype_book_fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
const int8_t dtype_book_iq1[16] = {-9, -7, -1, 1, 7, 9};
const int8_t dtype_book_iq2[16] = {8, 25, 43, -8, -25, -43};
const int8_t dtype_book_iq3_xxs[16] = {4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62};
const int8_t dtype_book_iq3_s[16] = {1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15};

static float half_at(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return dtype_f16_to_f32(h);
}

static uint32_t u16_at(const uint8_t *p) { return (uint32_t)(p[0] | p[1] << 8); }
static uint32_t u32_at(const uint8_t *p) { return u16_at(p) | u16_at(p + 2) << 16; }

static void scales_put(dtype_group *g, int32_t low, int32_t high) {
    g->scale[0] = low;
    g->scale[1] = high;
}

/* A group with one scale of 1, without a minimum. */
static void plain_put(dtype_group *g, float dw) {
    g->dw = dw;
    g->m = 0;
    scales_put(g, 1, 1);
    g->min[0] = g->min[1] = 0;
}

static void min_put(dtype_group *g, float m, int32_t low, int32_t high) {
    g->m = m;
    g->min[0] = low;
    g->min[1] = high;
}

static int nibble(uint8_t b, bool high) { return b >> 4 * high & 15; }

/* Codes of a 16-byte run: element i is the low (i < 16) or high nibble of byte i % 16. */
static int nibble_of(const uint8_t *q, int i) { return nibble(q[i % 16], i >= 16); }

/* d@0, q@2[16]. */
void dtype_group_q4_0(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    (void)t;
    plain_put(g, half_at(b));
    for (int i = 0; i < DTYPE_GROUP; i++) g->code[i] = (int8_t)(nibble_of(b + 2, i) - 8);
}

/* d@0, minimum@2, q@4[16]. */
void dtype_group_q4_1(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    (void)t;
    plain_put(g, half_at(b));
    min_put(g, half_at(b + 2), 1, 1);
    for (int i = 0; i < DTYPE_GROUP; i++) g->code[i] = (int8_t)nibble_of(b + 4, i);
}

/* d@0, fifth bits@2 (u32), q@6[16]. */
void dtype_group_q5_0(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    (void)t;
    const uint32_t high = u32_at(b + 2);
    plain_put(g, half_at(b));
    for (int i = 0; i < DTYPE_GROUP; i++) g->code[i] = (int8_t)((nibble_of(b + 6, i) | (int)(high >> i & 1) << 4) - 16);
}

/* d@0, minimum@2, fifth bits@4 (u32), q@8[16]. */
void dtype_group_q5_1(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    (void)t;
    const uint32_t high = u32_at(b + 4);
    plain_put(g, half_at(b));
    min_put(g, half_at(b + 2), 1, 1);
    for (int i = 0; i < DTYPE_GROUP; i++) g->code[i] = (int8_t)(nibble_of(b + 8, i) | (int)(high >> i & 1) << 4);
}

/* d@0, codes@2 (i8[32]). */
void dtype_group_q8_0(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    (void)t;
    plain_put(g, half_at(b));
    memcpy(g->code, b + 2, DTYPE_GROUP);
}

/* The bit pair of element i of group t where 128 elements share 32 bytes. */
static int pair_of(const uint8_t *q, uint32_t t, int i) { return q[32 * (t / 4) + (uint32_t)i] >> 2 * (t % 4) & 3; }

/* scales and minima@0[16], 4 bits each; q@16[64], d@80, dmin@82. */
void dtype_group_q2_k(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    const uint8_t *s = b + 2 * t;
    g->dw = half_at(b + 80);
    scales_put(g, s[0] & 15, s[1] & 15);
    min_put(g, -half_at(b + 82), s[0] >> 4, s[1] >> 4);
    for (int i = 0; i < DTYPE_GROUP; i++) g->code[i] = (int8_t)pair_of(b + 16, t, i);
}

/* high bits@0[32], q@32[64], scales@96[12], d@108; a high bit of 0 takes 4 from the code. */
void dtype_group_q3_k(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    const uint8_t *s = b + 96;
    plain_put(g, half_at(b + 108));
    for (uint32_t h = 0; h < 2; h++) {
        const uint32_t j = 2 * t + h;
        g->scale[h] = (nibble(s[j % 8], j >= 8) | (s[8 + j % 4] >> 2 * (j / 4) & 3) << 4) - 32;
    }
    for (int i = 0; i < DTYPE_GROUP; i++) g->code[i] = (int8_t)(pair_of(b + 32, t, i) - (b[i] >> t & 1 ? 0 : 4));
}

/* The packed 6-bit scales and minima of Q4_K and Q5_K, at s[12]. */
static void k_scale_get(dtype_group *g, const uint8_t *s, uint32_t t) {
    const int scale = t < 4 ? s[t] & 63 : (s[t + 4] & 15) | (s[t - 4] >> 6) << 4;
    const int min = t < 4 ? s[t + 4] & 63 : (s[t + 4] >> 4) | (s[t] >> 6) << 4;
    scales_put(g, scale, scale);
    g->min[0] = g->min[1] = min;
}

/* d@0, dmin@2, scales@4[12], q@16[128]: 64 elements share 32 bytes, low nibbles first. */
void dtype_group_q4_k(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    g->dw = half_at(b);
    g->m = -half_at(b + 2);
    k_scale_get(g, b + 4, t);
    for (uint32_t i = 0; i < DTYPE_GROUP; i++) g->code[i] = (int8_t)nibble(b[16 + 32 * (t / 2) + i], t % 2 != 0);
}

/* d@0, dmin@2, scales@4[12], fifth bits@16[32] (bit t of byte i), q@48[128] as in Q4_K. */
void dtype_group_q5_k(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    g->dw = half_at(b);
    g->m = -half_at(b + 2);
    k_scale_get(g, b + 4, t);
    for (uint32_t i = 0; i < DTYPE_GROUP; i++)
        g->code[i] = (int8_t)(nibble(b[48 + 32 * (t / 2) + i], t % 2 != 0) | (b[16 + i] >> t & 1) << 4);
}

/* low nibbles@0[128], high bit pairs@128[64], scales@192 (i8[16]), d@208. */
void dtype_group_q6_k(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    const uint8_t *low = b + 64 * (t / 4) + 32 * (t % 4 & 1);
    plain_put(g, half_at(b + 208));
    scales_put(g, (int8_t)b[192 + 2 * t], (int8_t)b[193 + 2 * t]);
    for (int i = 0; i < DTYPE_GROUP; i++)
        g->code[i] = (int8_t)((nibble(low[i], t % 4 >= 2) | pair_of(b + 128, t, i) << 4) - 32);
}

/* d@0, q@2[16]. */
void dtype_group_iq4_nl(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    (void)t;
    plain_put(g, half_at(b));
    for (int i = 0; i < DTYPE_GROUP; i++) g->code[i] = dtype_book_iq4[nibble_of(b + 2, i)];
}

/* d@0, high scale pairs@2 (u16), low scale nibbles@4[4], q@8[128]. */
void dtype_group_iq4_xs(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    const int scale = (nibble(b[4 + t / 2], t % 2 != 0) | (int)(u16_at(b + 2) >> 2 * t & 3) << 4) - 32;
    plain_put(g, half_at(b));
    scales_put(g, scale, scale);
    for (int i = 0; i < DTYPE_GROUP; i++) g->code[i] = dtype_book_iq4[nibble_of(b + 8 + 16 * t, i)];
}

/* exponent@0, q@1[16]. 2^(e - 128) is subnormal for e < 2. */
void dtype_group_mxfp4(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    (void)t;
    const uint32_t bits = b[0] < 2 ? 0x00200000u << b[0] : (uint32_t)(b[0] - 1) << 23;
    float dw;
    memcpy(&dw, &bits, sizeof dw);
    plain_put(g, dw);
    for (int i = 0; i < DTYPE_GROUP; i++) g->code[i] = dtype_book_fp4[nibble_of(b + 1, i)];
}

/* Five ternary digits a byte, the first the most significant, as a fraction of 256: 32 bytes for elements 0..159, 16 for
 * 160..239, 4 bytes of four digits for the last 16; d@52. */
void dtype_group_tq1_0(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    static const uint8_t power[5] = {1, 3, 9, 27, 81};
    plain_put(g, half_at(b + 52));
    for (uint32_t i = 0; i < DTYPE_GROUP; i++) {
        const uint32_t at = 32 * t + i;
        const uint32_t byte = at < 160 ? at % 32 : at < 240 ? 32 + (at - 160) % 16 : 48 + (at - 240) % 4;
        const uint32_t digit = at < 160 ? at / 32 : at < 240 ? (at - 160) / 16 : (at - 240) / 4;
        g->code[i] = (int8_t)(((uint8_t)(b[byte] * power[digit]) * 3 >> 8) - 1);
    }
}

/* q@0[64], d@64. */
void dtype_group_tq2_0(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    plain_put(g, half_at(b + 64));
    for (int i = 0; i < DTYPE_GROUP; i++) g->code[i] = (int8_t)(pair_of(b, t, i) - 1);
}

/* d@0, sign bits@2[16], 1 for plus. */
void dtype_group_q1_0(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    plain_put(g, half_at(b));
    for (uint32_t i = 0; i < DTYPE_GROUP; i++) g->code[i] = b[2 + 4 * t + i / 8] >> i % 8 & 1 ? 1 : -1;
}

/* 8 signs of which 7 are stored: the eighth makes the number of minus signs even. */
static uint32_t signs_of(uint32_t seven) {
    seven &= 127;
    return seven | (uint32_t)__builtin_parity(seven) << 7;
}

static void iq2_put(int8_t *code, uint32_t point, uint32_t signs) {
    for (int i = 0; i < 8; i++) {
        const int8_t v = dtype_book_iq2[point >> 2 * i & 3];
        code[i] = (int8_t)(signs >> i & 1 ? -v : v);
    }
}

static void iq3_put(int8_t *code, const int8_t *book, uint32_t point, uint32_t signs) {
    for (int i = 0; i < 4; i++) {
        const int8_t v = book[point >> 4 * i & 7];
        code[i] = (int8_t)(signs >> i & 1 ? -v : v);
    }
}

static int32_t odd(uint32_t s) { return (int32_t)(2 * s + 1); }

/* d@0, then 8 bytes a group: four indices, four times 7 signs and the scale's 4 bits. */
void dtype_group_iq2_xxs(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    const uint8_t *q = b + 2 + 8 * t;
    const uint32_t rest = u32_at(q + 4);
    plain_put(g, half_at(b) * 0.125f);
    scales_put(g, odd(rest >> 28), odd(rest >> 28));
    for (uint32_t i = 0; i < 4; i++) iq2_put(g->code + 8 * i, grid_iq2_xxs[q[i]], signs_of(rest >> 7 * i));
}

/* d@0, q@2 (u16[32]: 9 bits of index, 7 signs), scale nibbles@66[8]. */
void dtype_group_iq2_xs(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    plain_put(g, half_at(b) * 0.125f);
    scales_put(g, odd(b[66 + t] & 15), odd(b[66 + t] >> 4));
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t q = u16_at(b + 2 + 8 * t + 2 * i);
        iq2_put(g->code + 8 * i, grid_iq2_xs[q & 511], signs_of(q >> 9));
    }
}

/* d@0, low index bytes@2[32], signs@34[32], high index pairs@66[8], scale nibbles@74[8]. */
void dtype_group_iq2_s(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    plain_put(g, half_at(b) * 0.125f);
    scales_put(g, odd(b[74 + t] & 15), odd(b[74 + t] >> 4));
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t index = b[2 + 4 * t + i] | (uint32_t)(b[66 + t] >> 2 * i & 3) << 8;
        iq2_put(g->code + 8 * i, grid_iq2_s[index], b[34 + 4 * t + i]);
    }
}

/* d@0, indices@2[64], then a u32 a group@66: four times 7 signs and the scale's 4 bits. */
void dtype_group_iq3_xxs(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    const uint32_t rest = u32_at(b + 66 + 4 * t);
    plain_put(g, half_at(b) * 0.25f);
    scales_put(g, odd(rest >> 28), odd(rest >> 28));
    for (uint32_t i = 0; i < 8; i++)
        iq3_put(g->code + 4 * i, dtype_book_iq3_xxs, grid_iq3_xxs[b[2 + 8 * t + i]],
                signs_of(rest >> 7 * (i / 2)) >> 4 * (i % 2));
}

/* d@0, low index bytes@2[64], high index bits@66[8], signs@74[32], scale nibbles@106[4]. */
void dtype_group_iq3_s(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    const int32_t scale = odd((uint32_t)nibble(b[106 + t / 2], t % 2 != 0));
    plain_put(g, half_at(b));
    scales_put(g, scale, scale);
    for (uint32_t i = 0; i < 8; i++) {
        const uint32_t index = b[2 + 8 * t + i] | (uint32_t)(b[66 + t] >> i & 1) << 8;
        iq3_put(g->code + 4 * i, dtype_book_iq3_s, grid_iq3_s[index], (uint32_t)b[74 + 4 * t + i / 2] >> 4 * (i % 2));
    }
}

/* 8 grid +- 1. */
static void iq1_put(int8_t *code, uint32_t point, bool minus) {
    for (int i = 0; i < 8; i++) code[i] = (int8_t)(8 * ((int)(point >> 2 * i & 3) - 1) + (minus ? -1 : 1));
}

/* d@0, low index bytes@2[32], then a u16 a group@34: four times 3 high bits, the scale's 3 bits, the shift's sign. */
void dtype_group_iq1_s(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    const uint32_t h = u16_at(b + 34 + 2 * t);
    plain_put(g, half_at(b) * 0.125f);
    scales_put(g, odd(h >> 12 & 7), odd(h >> 12 & 7));
    for (uint32_t i = 0; i < 4; i++)
        iq1_put(g->code + 8 * i, grid_iq1[b[2 + 4 * t + i] | (h >> 3 * i & 7) << 8], h >> 15 != 0);
}

/* low index bytes@0[32], a nibble for 8 elements@32[16]: 3 high bits and the shift's sign; scales@48 (u16[4]): four
 * times 3 bits each, and above them a nibble of the half d. */
void dtype_group_iq1_m(const uint8_t *restrict b, uint32_t t, dtype_group *restrict g) {
    uint32_t d = 0;
    for (uint32_t i = 0; i < 4; i++) d |= (u16_at(b + 48 + 2 * i) >> 12) << 4 * i;
    const uint32_t s = u16_at(b + 48 + t / 2 * 2) >> 6 * (t % 2);
    plain_put(g, dtype_f16_to_f32((uint16_t)d) * 0.125f);
    scales_put(g, odd(s & 7), odd(s >> 3 & 7));
    for (uint32_t i = 0; i < 4; i++) {
        const uint32_t h = (uint32_t)nibble(b[32 + 2 * t + i / 2], i % 2 != 0);
        iq1_put(g->code + 8 * i, grid_iq1[b[4 * t + i] | (h & 7) << 8], h >> 3 != 0);
    }
}
