/* Decoders for one row of each type, written from the block layouts.
 *
 * All arithmetic is fp32. The scale of a block is a half (11 significant bits), so
 * d * code is exact up to 24 bits: only Q6_K (11 + 8 + 6 bits) and the subtraction of a
 * minimum round, and they round once, because the product before them is exact. The
 * results are therefore the same whichever order a SIMD version multiplies in, as
 * long as it forms d * scale first. The types that follow Q6_K here are decoded from
 * their integer form (dtype_group.c), in that order. */
#include "tensor/dtype_int.h"

#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "model files are read in place, little-endian");

static float bits_to_f32(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static uint32_t f32_to_bits(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

float dtype_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, mantissa = h & 0x3ff;
    if (exponent == 0) {
        float magnitude = (float)mantissa * 0x1p-24f; /* zero and subnormals: exact */
        return sign ? -magnitude : magnitude;
    }
    if (exponent == 31) return bits_to_f32(sign | 0x7f800000 | mantissa << 13);
    return bits_to_f32(sign | (exponent + 112) << 23 | mantissa << 13);
}

uint16_t dtype_f32_to_f16(float f) {
    uint32_t bits = f32_to_bits(f), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return (uint16_t)(sign | 0x7e00 | (magnitude >> 13 & 0x1ff)); /* quiet NaN */
    if (magnitude >= 0x477ff000) return (uint16_t)(sign | 0x7c00);                            /* 65520 and up */
    if (magnitude < 0x38800000) {
        /* Below the smallest normal 2^-14: adding 0.5 puts the unit of the sum's last bit at 2^-24,
         * the half's subnormal unit, and the addition itself rounds to nearest even. */
        return (uint16_t)(sign | (f32_to_bits(bits_to_f32(magnitude) + 0.5f) - f32_to_bits(0.5f)));
    }
    uint32_t odd = magnitude >> 13 & 1;
    return (uint16_t)(sign | ((magnitude - 0x38000000 + 0xfff + odd) >> 13));
}

float dtype_bf16_to_f32(uint16_t h) { return bits_to_f32((uint32_t)h << 16); }

uint16_t dtype_f32_to_bf16(float f) {
    uint32_t bits = f32_to_bits(f);
    if ((bits & 0x7fffffff) > 0x7f800000) return (uint16_t)(bits >> 16 | 0x40); /* quiet, or the payload could vanish */
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float load_f16(const uint8_t *p) {
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return dtype_f16_to_f32(h);
}

static void decode_f32(const void *blocks, float *out, int64_t n) { memcpy(out, blocks, (size_t)n * sizeof *out); }

static void decode_f16(const void *blocks, float *out, int64_t n) {
    const uint8_t *p = blocks;
    for (int64_t i = 0; i < n; i++) out[i] = load_f16(p + 2 * i);
}

static void decode_bf16(const void *blocks, float *out, int64_t n) {
    const uint8_t *p = blocks;
    for (int64_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, p + 2 * i, sizeof h);
        out[i] = dtype_bf16_to_f32(h);
    }
}

/* d@0, codes@2[16]: element i is the low nibble of byte i, element 16 + i the high one. */
static void decode_q4_0(const void *blocks, float *out, int64_t n) {
    const uint8_t *b = blocks;
    for (int64_t at = 0; at < n; at += 32, b += 18) {
        float d = load_f16(b);
        for (int i = 0; i < 16; i++) {
            out[at + i] = d * (float)((b[2 + i] & 15) - 8);
            out[at + 16 + i] = d * (float)((b[2 + i] >> 4) - 8);
        }
    }
}

/* d@0, minimum@2, codes@4[16]. */
static void decode_q4_1(const void *blocks, float *out, int64_t n) {
    const uint8_t *b = blocks;
    for (int64_t at = 0; at < n; at += 32, b += 20) {
        float d = load_f16(b), m = load_f16(b + 2);
        for (int i = 0; i < 16; i++) {
            out[at + i] = d * (float)(b[4 + i] & 15) + m;
            out[at + 16 + i] = d * (float)(b[4 + i] >> 4) + m;
        }
    }
}

/* d@0, fifth bits@2 (u32, bit i for element i), codes@6[16]. */
static void decode_q5_0(const void *blocks, float *out, int64_t n) {
    const uint8_t *b = blocks;
    for (int64_t at = 0; at < n; at += 32, b += 22) {
        float d = load_f16(b);
        uint32_t high;
        memcpy(&high, b + 2, sizeof high);
        for (int i = 0; i < 16; i++) {
            int lo = (b[6 + i] & 15) | (int)(high >> i & 1) << 4;
            int hi = b[6 + i] >> 4 | (int)(high >> (i + 16) & 1) << 4;
            out[at + i] = d * (float)(lo - 16);
            out[at + 16 + i] = d * (float)(hi - 16);
        }
    }
}

/* d@0, codes@2 (i8[32]). */
static void decode_q8_0(const void *blocks, float *out, int64_t n) {
    const uint8_t *b = blocks;
    for (int64_t at = 0; at < n; at += 32, b += 34) {
        float d = load_f16(b);
        for (int i = 0; i < 32; i++) out[at + i] = d * (float)(int8_t)b[2 + i];
    }
}

/* The packed 6-bit scale and minimum of sub-block t in [0, 8) of Q4_K. */
static void unpack_scale_min(const uint8_t *s, int t, int *scale, int *min) {
    if (t < 4) {
        *scale = s[t] & 63;
        *min = s[t + 4] & 63;
    } else {
        *scale = (s[t + 4] & 15) | s[t - 4] >> 6 << 4;
        *min = s[t + 4] >> 4 | s[t] >> 6 << 4;
    }
}

/* d@0, dmin@2, scales@4[12], codes@16[128]: 64 elements share 32 bytes, low nibbles first. */
static void decode_q4_k(const void *blocks, float *out, int64_t n) {
    const uint8_t *b = blocks;
    for (int64_t at = 0; at < n; at += 256, b += 144) {
        float d = load_f16(b), dmin = load_f16(b + 2);
        for (int t = 0; t < 8; t++) {
            int scale, min;
            unpack_scale_min(b + 4, t, &scale, &min);
            float ds = d * (float)scale, m = dmin * (float)min;
            const uint8_t *codes = b + 16 + t / 2 * 32;
            int shift = t % 2 * 4;
            for (int i = 0; i < 32; i++) out[at + t * 32 + i] = ds * (float)(codes[i] >> shift & 15) - m;
        }
    }
}

/* low nibbles@0[128], high bit pairs@128[64], scales@192 (i8[16]), d@208. */
static void decode_q6_k(const void *blocks, float *out, int64_t n) {
    const uint8_t *b = blocks;
    for (int64_t at = 0; at < n; at += 256, b += 210) {
        float d = load_f16(b + 208);
        for (int i = 0; i < 256; i++) {
            int half = i / 128, quarter = i % 128 / 32, l = i % 32;
            int lo = b[64 * half + 32 * (quarter & 1) + l] >> (quarter >> 1) * 4 & 15;
            int hi = b[128 + 32 * half + l] >> 2 * quarter & 3;
            float ds = d * (float)(int8_t)b[192 + i / 16];
            out[at + i] = ds * (float)((lo | hi << 4) - 32);
        }
    }
}

/* ue4m3 scales@0[4], codes@4[32]: 16 elements share 8 bytes, low nibbles first. Scales are decoded at half their value,
 * because the codes are doubled; 0x7f counts as 0. The tensor's own scale is not part of the blocks. */
static float nvfp4_half_scale(uint8_t s) {
    const int exponent = s >> 3 & 15, mantissa = s & 7;
    if (s == 0x7f) return 0;
    return exponent ? bits_to_f32((uint32_t)(exponent + 119) << 23 | (uint32_t)mantissa << 20)
                    : (float)mantissa * 0x1p-10f;
}

void dtype_nvfp4_group(const uint8_t *block, uint32_t t, float dw[2], int8_t code[DTYPE_GROUP]) {
    for (uint32_t i = 0; i < DTYPE_GROUP; i++) {
        const uint8_t byte = block[4 + (2 * t + i / 16) * 8 + i % 8];
        code[i] = dtype_book_fp4[i % 16 < 8 ? byte & 15 : byte >> 4];
    }
    for (uint32_t h = 0; h < 2; h++) dw[h] = nvfp4_half_scale(block[2 * t + h]);
}

static void decode_nvfp4(const void *blocks, float *out, int64_t n) {
    const uint8_t *b = blocks;
    for (int64_t at = 0; at < n; at += 64, b += 36)
        for (uint32_t t = 0; t < 2; t++) {
            float dw[2];
            int8_t code[DTYPE_GROUP];
            dtype_nvfp4_group(b, t, dw, code);
            for (uint32_t i = 0; i < DTYPE_GROUP; i++) out[at + t * DTYPE_GROUP + i] = dw[i / 16] * (float)code[i];
        }
}

/* From the integer form: dw * scale is exact, and so is its product with a code except in types whose figures together
 * exceed 24 bits; then that rounds, once. */
static void decode_groups(dtype_group_get *get, uint32_t elems, uint32_t bytes, const uint8_t *b, float *out,
                          int64_t n) {
    dtype_group g;
    for (int64_t at = 0; at < n; at += elems, b += bytes)
        for (uint32_t t = 0; t < elems / DTYPE_GROUP; t++) {
            get(b, t, &g);
            for (uint32_t i = 0; i < DTYPE_GROUP; i++)
                out[at + t * DTYPE_GROUP + i] =
                    (g.dw * (float)g.scale[i / 16]) * (float)g.code[i] + g.m * (float)g.min[i / 16];
        }
}

/* clang-format off */
#define DECODE(t, elems, bytes)                                                                                        \
    static void decode_##t(const void *blocks, float *out, int64_t n) {                                                \
        decode_groups(dtype_group_##t, elems, bytes, blocks, out, n);                                                  \
    }
DECODE(q5_1, 32, 24)
DECODE(q2_k, 256, 84)
DECODE(q3_k, 256, 110)
DECODE(q5_k, 256, 176)
DECODE(iq4_nl, 32, 18)
DECODE(iq4_xs, 256, 136)
DECODE(mxfp4, 32, 17)
DECODE(iq3_xxs, 256, 98)
DECODE(iq3_s, 256, 110)
DECODE(iq2_xxs, 256, 66)
DECODE(iq2_xs, 256, 74)
DECODE(iq2_s, 256, 82)
DECODE(iq1_s, 256, 50)
DECODE(iq1_m, 256, 56)
DECODE(tq1_0, 256, 54)
DECODE(tq2_0, 256, 66)
DECODE(q1_0, 128, 18)

static const dtype_info table[] = {
    {DTYPE_F32, "F32", 1, 4, false, decode_f32, false, NULL, NULL},
    {DTYPE_F16, "F16", 1, 2, false, decode_f16, false, NULL, NULL},
    {DTYPE_BF16, "BF16", 1, 2, false, decode_bf16, false, NULL, NULL},
    {DTYPE_Q4_0, "Q4_0", 32, 18, true, decode_q4_0, false, dtype_group_q4_0, NULL},
    {DTYPE_Q4_1, "Q4_1", 32, 20, true, decode_q4_1, true, dtype_group_q4_1, NULL},
    {DTYPE_Q5_0, "Q5_0", 32, 22, true, decode_q5_0, false, dtype_group_q5_0, NULL},
    {DTYPE_Q5_1, "Q5_1", 32, 24, true, decode_q5_1, true, dtype_group_q5_1, NULL},
    {DTYPE_Q8_0, "Q8_0", 32, 34, true, decode_q8_0, false, dtype_group_q8_0, NULL},
    {DTYPE_Q2_K, "Q2_K", 256, 84, true, decode_q2_k, true, dtype_group_q2_k, dtype_book_small},
    {DTYPE_Q3_K, "Q3_K", 256, 110, true, decode_q3_k, false, dtype_group_q3_k, dtype_book_small},
    {DTYPE_Q4_K, "Q4_K", 256, 144, true, decode_q4_k, true, dtype_group_q4_k, NULL},
    {DTYPE_Q5_K, "Q5_K", 256, 176, true, decode_q5_k, true, dtype_group_q5_k, NULL},
    {DTYPE_Q6_K, "Q6_K", 256, 210, true, decode_q6_k, false, dtype_group_q6_k, NULL},
    {DTYPE_IQ4_NL, "IQ4_NL", 32, 18, true, decode_iq4_nl, false, dtype_group_iq4_nl, dtype_book_iq4},
    {DTYPE_IQ4_XS, "IQ4_XS", 256, 136, true, decode_iq4_xs, false, dtype_group_iq4_xs, dtype_book_iq4},
    {DTYPE_MXFP4, "MXFP4", 32, 17, true, decode_mxfp4, false, dtype_group_mxfp4, dtype_book_fp4},
    {DTYPE_NVFP4, "NVFP4", 64, 36, true, decode_nvfp4, false, NULL, NULL},
    {DTYPE_IQ3_XXS, "IQ3_XXS", 256, 98, true, decode_iq3_xxs, false, dtype_group_iq3_xxs, dtype_book_iq3_xxs},
    {DTYPE_IQ3_S, "IQ3_S", 256, 110, true, decode_iq3_s, false, dtype_group_iq3_s, dtype_book_iq3_s},
    {DTYPE_IQ2_XXS, "IQ2_XXS", 256, 66, true, decode_iq2_xxs, false, dtype_group_iq2_xxs, dtype_book_iq2},
    {DTYPE_IQ2_XS, "IQ2_XS", 256, 74, true, decode_iq2_xs, false, dtype_group_iq2_xs, dtype_book_iq2},
    {DTYPE_IQ2_S, "IQ2_S", 256, 82, true, decode_iq2_s, false, dtype_group_iq2_s, dtype_book_iq2},
    {DTYPE_IQ1_S, "IQ1_S", 256, 50, true, decode_iq1_s, false, dtype_group_iq1_s, dtype_book_iq1},
    {DTYPE_IQ1_M, "IQ1_M", 256, 56, true, decode_iq1_m, false, dtype_group_iq1_m, dtype_book_iq1},
    {DTYPE_TQ1_0, "TQ1_0", 256, 54, true, decode_tq1_0, false, dtype_group_tq1_0, dtype_book_small},
    {DTYPE_TQ2_0, "TQ2_0", 256, 66, true, decode_tq2_0, false, dtype_group_tq2_0, dtype_book_small},
    {DTYPE_Q1_0, "Q1_0", 128, 18, true, decode_q1_0, false, dtype_group_q1_0, dtype_book_small},
};
/* clang-format on */

/* Every id of the format; gaps are retired ids. */
static const char *const names[] = {
    [0] = "F32",     [1] = "F16",    [2] = "Q4_0",     [3] = "Q4_1",    [6] = "Q5_0",     [7] = "Q5_1",
    [8] = "Q8_0",    [9] = "Q8_1",   [10] = "Q2_K",    [11] = "Q3_K",   [12] = "Q4_K",    [13] = "Q5_K",
    [14] = "Q6_K",   [15] = "Q8_K",  [16] = "IQ2_XXS", [17] = "IQ2_XS", [18] = "IQ3_XXS", [19] = "IQ1_S",
    [20] = "IQ4_NL", [21] = "IQ3_S", [22] = "IQ2_S",   [23] = "IQ4_XS", [24] = "I8",      [25] = "I16",
    [26] = "I32",    [27] = "I64",   [28] = "F64",     [29] = "IQ1_M",  [30] = "BF16",    [34] = "TQ1_0",
    [35] = "TQ2_0",  [39] = "MXFP4", [40] = "NVFP4",   [41] = "Q1_0",   [42] = "Q2_0",
};

const dtype_info *dtype_find(uint32_t id) {
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if ((uint32_t)table[i].type == id) return &table[i];
    return NULL;
}

const char *dtype_name_of_id(uint32_t id) { return id < sizeof names / sizeof *names ? names[id] : NULL; }

const dtype_info *dtype_all(size_t *n) {
    *n = sizeof table / sizeof *table;
    return table;
}

size_t dtype_row_bytes(dtype type, int64_t n) {
    const dtype_info *t = dtype_find(type);
    if (!t || n <= 0 || n % t->block_elems != 0) return 0;
    size_t bytes;
    if (__builtin_mul_overflow((size_t)(n / t->block_elems), (size_t)t->block_bytes, &bytes)) return 0;
    return bytes;
}
