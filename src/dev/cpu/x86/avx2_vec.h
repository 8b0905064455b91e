/* dev/cpu/x86/avx2_vec.h - tensor/vmath.h eight lanes wide, and the small change of the AVX2 row and attention files.
 *
 * Only for files compiled with -mavx2 -mfma (the Makefile does so by their name).
 */
#ifndef DEV_CPU_X86_AVX2_VEC_H
#define DEV_CPU_X86_AVX2_VEC_H

#include <immintrin.h>
#include <stdint.h>

#define VMATH_LANES 8

typedef float vf __attribute__((vector_size(32)));
typedef uint32_t vi __attribute__((vector_size(32)));
typedef vi vb; /* all ones or 0 */

static inline vf vf_of(float f) { return _mm256_set1_ps(f); }
static inline vi vi_of(uint32_t u) { return (vi)_mm256_set1_epi32((int)u); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm256_min_ps(a, b); }
static inline vi vf_bits(vf x) { return (vi)x; }
static inline vf vi_bits(vi i) { return (vf)i; }
static inline vi vi_sra(vi i, int n) { return (vi)_mm256_srai_epi32((__m256i)i, n); }
static inline vf vi_float(vi i) { return _mm256_cvtepi32_ps((__m256i)i); }
static inline vb vf_less(vf a, vf b) { return (vi)_mm256_cmp_ps(a, b, _CMP_LT_OQ); }
static inline vf vf_pick(vb m, vf a, vf b) { return _mm256_blendv_ps(b, a, (vf)m); }

#include "tensor/vmath.h"

static inline vf vf_load(const float *p) { return _mm256_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm256_storeu_ps(p, x); }

/* The lanes below n, 0 <= n: of 0 to 7 elements at the end of a row. */
static inline vb vi_first(uint32_t n) {
    const vi lane = {0, 1, 2, 3, 4, 5, 6, 7};
    return (vi)_mm256_cmpgt_epi32((__m256i)vi_of(n), (__m256i)lane);
}
/* The first n lanes from memory, 0 in the others, which are not touched. */
static inline vf vf_load_first(const float *p, uint32_t n) { return _mm256_maskload_ps(p, (__m256i)vi_first(n)); }
static inline void vf_store_first(float *p, uint32_t n, vf x) { _mm256_maskstore_ps(p, (__m256i)vi_first(n), x); }

/* The 16-lane rule of docs/numerics.md: lanes 0-7 in lo, 8-15 in hi; j and j + 8, then j + 4, j + 2, j + 1. */
static inline float vf_sum16(vf lo, vf hi) {
    vf s = lo + hi;
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    x = _mm_add_ss(x, _mm_shuffle_ps(x, x, 1));
    return _mm_cvtss_f32(x);
}

/* RN to bf16 as fp32, |x| < 2^-126 to a signed zero, NaN kept a NaN. */
static inline vf vf_round_bf16(vf x) {
    const vi sign = vi_of(0x80000000u);
    vi b = vf_bits(x), a = b & ~sign;
    vi r = (b + vi_of(0x7fff) + ((b >> 16) & vi_of(1))) & vi_of(0xffff0000u);
    vi tiny = (vi)_mm256_cmpgt_epi32((__m256i)vi_of(0x00800000), (__m256i)a);
    vi nan = (vi)_mm256_cmpgt_epi32((__m256i)a, (__m256i)vi_of(0x7f800000));
    r = (r & ~tiny & ~nan) | (b & sign & tiny) | ((b | vi_of(0x00400000)) & vi_of(0xffff0000u) & nan);
    return vi_bits(r);
}

#endif
