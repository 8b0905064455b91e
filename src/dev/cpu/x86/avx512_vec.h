/* dev/cpu/x86/avx512_vec.h - tensor/vmath.h sixteen lanes wide, and the small change of the AVX-512 files.
 *
 * Only for files compiled with -mavx512f -mavx512bw -mavx512dq -mavx512vl (the Makefile does so by their name). The 16-lane
 * sums of docs/numerics.md are one register here.
 */
#ifndef DEV_CPU_X86_AVX512_VEC_H
#define DEV_CPU_X86_AVX512_VEC_H

#include <immintrin.h>
#include <stdint.h>

#define VMATH_LANES 16

typedef float vf __attribute__((vector_size(64)));
typedef uint32_t vi __attribute__((vector_size(64)));
typedef __mmask16 vb;

static inline vf vf_of(float f) { return _mm512_set1_ps(f); }
static inline vi vi_of(uint32_t u) { return (vi)_mm512_set1_epi32((int)u); }
static inline vf vf_fma(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
static inline vf vf_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vf vf_min(vf a, vf b) { return _mm512_min_ps(a, b); }
static inline vi vf_bits(vf x) { return (vi)x; }
static inline vf vi_bits(vi i) { return (vf)i; }
static inline vi vi_sra(vi i, int n) { return (vi)_mm512_srai_epi32((__m512i)i, (unsigned)n); }
static inline vf vi_float(vi i) { return _mm512_cvtepi32_ps((__m512i)i); }
static inline vb vf_less(vf a, vf b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
static inline vf vf_pick(vb m, vf a, vf b) { return _mm512_mask_blend_ps(m, b, a); }

#include "tensor/vmath.h"

static inline vf vf_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void vf_store(float *p, vf x) { _mm512_storeu_ps(p, x); }

/* The lanes below n. */
static inline vb vb_first(uint32_t n) { return (vb)(n >= VMATH_LANES ? 0xffffu : (1u << n) - 1); }
/* The first n lanes from memory, fill in the others, which are not touched. */
static inline vf vf_load_first(const float *p, uint32_t n, vf fill) {
    return _mm512_mask_loadu_ps(fill, vb_first(n), p);
}
static inline void vf_store_first(float *p, uint32_t n, vf x) { _mm512_mask_storeu_ps(p, vb_first(n), x); }

/* The 16-lane rule of docs/numerics.md: lanes j and j + 8, then j + 4, j + 2, j + 1. */
static inline float vf_sum16(vf x) {
    __m256 s = _mm256_add_ps(_mm512_castps512_ps256(x), _mm512_extractf32x8_ps(x, 1));
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    t = _mm_add_ss(t, _mm_shuffle_ps(t, t, 1));
    return _mm_cvtss_f32(t);
}

/* The largest lane, none of them NaN. */
static inline float vf_top(vf x) { return _mm512_reduce_max_ps(x); }

/* RN to bf16 in the upper half of a word, |x| < 2^-126 to a signed zero, NaN kept a NaN; lower half 0. */
static inline vi vi_round_bf16(vf x) {
    const __m512i b = (__m512i)x, a = _mm512_and_si512(b, _mm512_set1_epi32(0x7fffffff));
    const __m512i tie = _mm512_and_si512(_mm512_srli_epi32(b, 16), _mm512_set1_epi32(1));
    const __mmask16 tiny = _mm512_cmpgt_epi32_mask(_mm512_set1_epi32(0x00800000), a);
    const __mmask16 nan = _mm512_cmpgt_epi32_mask(a, _mm512_set1_epi32(0x7f800000));
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(b, _mm512_set1_epi32(0x7fff)), tie);
    r = _mm512_mask_and_epi32(r, tiny, b, _mm512_set1_epi32(INT32_MIN));
    r = _mm512_mask_or_epi32(r, nan, b, _mm512_set1_epi32(0x00400000));
    return (vi)_mm512_and_si512(r, _mm512_set1_epi32((int)0xffff0000u));
}

/* Its 16-bit form. */
static inline __m256i bf16_bits(vf x) { return _mm512_cvtepi32_epi16((__m512i)(vi_round_bf16(x) >> 16)); }

#endif
