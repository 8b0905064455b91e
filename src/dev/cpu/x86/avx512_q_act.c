/* dev/cpu/x86/avx512_q_act.c - activations to int8 or 12 bits per 32, in the blocks of avx512_q.h. */
#include "dev/cpu/x86/avx512_q.h"

#include <string.h>

static bool is_wide(const cpu_act *a) { return a->compute == COMPUTE_Q12; }

size_t avx512_q_act_bytes(compute c, uint32_t k, uint32_t n_tokens) {
    const uint32_t width = avx512_width(n_tokens);
    const size_t columns = n_tokens == 0 ? 0 : (size_t)(n_tokens + width - 1) / width * width;
    return columns * avx512_groups(k) * avx512_token_group(c == COMPUTE_Q12);
}

/* q and dx of 32 floats, |q| <= most. False when one is not finite. No clamp: |x * (most / a)| rounds to at most
 * `most`. */
static bool group_quantize(__m512 x0, __m512 x1, float most, __m512i q[2], float *dx) {
    const __m512i mask = _mm512_set1_epi32(0x7fffffff);
    const __m512i a0 = _mm512_and_si512(_mm512_castps_si512(x0), mask);
    const __m512i a1 = _mm512_and_si512(_mm512_castps_si512(x1), mask);
    const int bits = _mm512_reduce_max_epi32(_mm512_max_epi32(a0, a1));
    q[0] = q[1] = _mm512_setzero_si512();
    *dx = 0;
    if (bits >= 0x7f800000) return false;
    if (bits < 0x0d800000) return true; /* 2^-100 */
    const float a = _mm_cvtss_f32(_mm_castsi128_ps(_mm_cvtsi32_si128(bits)));
    const __m512 inverse = _mm512_set1_ps(most / a);
    q[0] = _mm512_cvtps_epi32(_mm512_mul_ps(x0, inverse));
    q[1] = _mm512_cvtps_epi32(_mm512_mul_ps(x1, inverse));
    *dx = a / most;
    return true;
}

static __m256i narrow(const __m512i q[2]) {
    return _mm256_set_m128i(_mm512_cvtepi32_epi8(q[1]), _mm512_cvtepi32_epi8(q[0]));
}

static void bytes_put(uint8_t *at, __m256i q) { _mm256_storeu_si256((__m256i *)(void *)at, q); }

/* Row i of the block's W values of 4 bytes behind its q. */
static void value_put(uint8_t *values, size_t W, uint32_t i, int value) { memcpy(values + 4 * W * i, &value, 4); }

static int bits_of_float(float f) {
    int i;
    memcpy(&i, &f, sizeof i);
    return i;
}

/* Sums of q: over all 32, over the first 16, over the last 16; 0. */
static __m128i sums_of(__m256i q) {
    __m256i s = _mm256_dpbusd_epi32(_mm256_setzero_si256(), _mm256_set1_epi8(1), q);
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0x4e));
    s = _mm256_add_epi32(s, _mm256_shuffle_epi32(s, 0xb1));
    const __m128i low = _mm256_castsi256_si128(s), high = _mm256_extracti128_si256(s, 1);
    return _mm_blend_epi32(_mm_blend_epi32(_mm_add_epi32(low, high), low, 2), high, 4);
}

static __m128i times_minus_128(__m128i v) { return _mm_slli_epi32(_mm_sub_epi32(_mm_setzero_si128(), v), 7); }

/* Writes column c of a group. */
static void group_put(uint8_t *group, uint32_t c, size_t W, const __m512i q[2], float dx) {
    const __m256i bytes = narrow(q);
    const __m128i sums = sums_of(bytes), n = times_minus_128(sums), f = _mm_castps_si128(_mm_cvtepi32_ps(sums));
    uint8_t *values = group + 32 * W + 4 * c;
    bytes_put(group + 32 * c, bytes);
    value_put(values, W, 0, bits_of_float(dx));
    value_put(values, W, 1, _mm_cvtsi128_si32(n));
    value_put(values, W, 2, _mm_extract_epi32(n, 1));
    value_put(values, W, 3, _mm_extract_epi32(n, 2));
    value_put(values, W, 4, _mm_cvtsi128_si32(f));
    value_put(values, W, 5, _mm_extract_epi32(f, 1));
    value_put(values, W, 6, _mm_extract_epi32(f, 2));
}

/* 12 bits: q = 128 high + low, -64 <= low < 64. */
static void wide_group_put(uint8_t *group, uint32_t c, size_t W, const __m512i q[2], float dx) {
    __m512i high[2], low[2];
    for (int i = 0; i < 2; i++) {
        high[i] = _mm512_srai_epi32(_mm512_add_epi32(q[i], _mm512_set1_epi32(64)), 7);
        low[i] = _mm512_sub_epi32(q[i], _mm512_slli_epi32(high[i], 7));
    }
    const __m256i bytes[2] = {narrow(high), narrow(low)};
    uint8_t *values = group + 64 * W + 4 * c;
    value_put(values, W, 0, bits_of_float(dx));
    value_put(values, W, 1, 0);
    for (uint32_t i = 0; i < 2; i++) {
        bytes_put(group + 32 * W * i + 32 * c, bytes[i]);
        value_put(values, W, 2 + i, _mm_cvtsi128_si32(times_minus_128(sums_of(bytes[i]))));
    }
}

/* Column c as zeros. */
static void column_clear(uint8_t *block, uint32_t c, size_t W, uint32_t n_groups, bool wide) {
    const __m512i q[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
    for (uint32_t g = 0; g < n_groups; g++, block += W * avx512_token_group(wide))
        (wide ? wide_group_put : group_put)(block, c, W, q, 0);
}

/* The first n of 16 lanes. */
static __mmask16 first_lanes(uint32_t n) { return (__mmask16)(n >= 16 ? 0xffff : (1u << n) - 1); }

bool avx512_q_act_put(cpu_act *a, uint32_t t, const float *x) {
    const uint32_t W = avx512_width(a->n_tokens), c = t % W;
    const bool wide = is_wide(a);
    uint8_t *block = avx512_block(a, t), *group = block;
    for (uint32_t i = 0; i < a->k; i += AVX512_GROUP, group += (size_t)W * avx512_token_group(wide)) {
        const uint32_t left = a->k - i;
        const __m512 x0 = _mm512_maskz_loadu_ps(first_lanes(left), x + i);
        const __m512 x1 = _mm512_maskz_loadu_ps(first_lanes(left > 16 ? left - 16 : 0), x + i + 16);
        __m512i q[2];
        float dx;
        if (!group_quantize(x0, x1, wide ? 2047.0f : 127.0f, q, &dx)) {
            column_clear(block, c, W, avx512_groups(a->k), wide);
            return false;
        }
        (wide ? wide_group_put : group_put)(group, c, W, q, dx);
    }
    return true;
}

void avx512_q_act_pad(cpu_act *a) {
    const uint32_t W = avx512_width(a->n_tokens);
    if (a->n_tokens == 0 || a->n_tokens % W == 0) return;
    for (uint32_t c = a->n_tokens % W; c < W; c++)
        column_clear(avx512_block(a, a->n_tokens), c, W, avx512_groups(a->k), is_wide(a));
}
