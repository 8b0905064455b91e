/* dev/cpu/ref/ref_num.h - the two small rules of docs/numerics.md that several reference files share. */
#ifndef DEV_CPU_REF_NUM_H
#define DEV_CPU_REF_NUM_H

#include <stdint.h>
#include <string.h>

/* Adds lanes j and j + 8, then j + 4, j + 2, j + 1. */
static inline float ref_sum16(const float lane[16]) {
    float s[16];
    memcpy(s, lane, sizeof s);
    for (uint32_t half = 8; half > 0; half /= 2)
        for (uint32_t j = 0; j < half; j++) s[j] = s[j] + s[j + half];
    return s[0];
}

/* RN to bf16: |x| < 2^-126 becomes a zero of its sign, a NaN stays one. */
static inline uint16_t ref_bf16(float x) {
    uint32_t b;
    memcpy(&b, &x, sizeof b);
    uint32_t a = b & 0x7fffffff;
    if (a > 0x7f800000) return (uint16_t)((b | 0x00400000) >> 16);
    if (a < 0x00800000) return (uint16_t)(b >> 16 & 0x8000);
    return (uint16_t)((b + 0x7fff + (b >> 16 & 1)) >> 16);
}

static inline float ref_bf16_float(uint16_t h) {
    uint32_t b = (uint32_t)h << 16;
    float x;
    memcpy(&x, &b, sizeof x);
    return x;
}

#endif
