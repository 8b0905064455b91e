/* dev/cpu/x86/avx512_q.h - the layouts of the q8 and q12 products for AVX-512 VNNI and AMX, and how they are read.
 *
 * Weights. A tile is 16 rows; its groups of 32 k lie in supers of 8 (the last may have fewer, n):
 *     codes  [n][code_bytes]   "16 rows x 4 k": step j (0..7) is 64 bytes, byte 4r + i belongs to row r and k = 4j + i
 *     head   [head_bytes]      what the n groups share
 *     meta   [n][meta_bytes]
 * so codes start on a cache line, one step is one register of vpdpbusd and one row of an AMX B tile. Codes as stored:
 *     nibbles  256  step j in the low halves of bytes 64j.., step j + 4 in the high halves
 *     fives    320  then bit j of byte 4r + i: bit 4 of the code at step j
 *     sixes    384  then bits 2(j % 4).. of byte 64(j / 4) + 4r + i: bits 4, 5 of the code
 *     bytes    512
 *     book     256  nibbles that index the codebook (dtype_info.book)
 * All are unsigned, the code plus the form's offset. Floats are dw [16] and, with a minimum, m [16], in the head where a
 * form has one, else first in the meta; then the meta has int8 sub-scales [n_subs][16] and, with a minimum, int8 minima
 * [n_subs][16]: for all 32 k, or for k < 16 and k >= 16.
 *
 * Panel, per group: codes [8][64] with another offset (vpdpbusd wants unsigned weights: 128; AMX takes them signed: 0), then
 * vectors of floats: dw, sub-scales, m, minima, as far as the form has them.
 *
 * Activations. Columns are tokens, in blocks of W: all of them when they are few, else 16, the last block filled with
 * zeros. Per group, in bytes:
 *     0    q int8 [W][32]; with 12 bits high [W][32] and low [W][32], q = 128 high + low
 *     Q    dx float [W], Q = 32 W or 64 W
 *     then int32 [3][W]: -128 times the sum of q over all k, over k < 16, over k >= 16 (12 bits: -, of high, of low)
 *     then float [3][W]: the same sums of q themselves (12 bits: none)
 */
#ifndef DEV_CPU_X86_AVX512_Q_H
#define DEV_CPU_X86_AVX512_Q_H

#include "dev/cpu/kernels.h"

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

enum {
    AVX512_GROUP = 32,
    AVX512_SUPER = 8,  /* groups that share a head */
    AVX512_WIDTH = 16, /* tokens of a block when they are many */
    AVX512_PANEL_CODES = 512,
    AVX512_META_MAX = 6, /* vectors of a panel's group after its codes */
    AVX512_FORMS = 12,
};

typedef enum { CODES_NIBBLES, CODES_FIVES, CODES_SIXES, CODES_BYTES, CODES_BOOK } avx512_codes;

typedef struct {
    avx512_codes codes;
    uint32_t offset_log; /* codes are stored plus 2^offset_log; 0: as they are */
    uint32_t n_subs;     /* 0: no sub-scales; 1: one for 32 k; 2: one for 16 k */
    bool has_min;
    bool halves; /* floats are fp16 */
    uint32_t head_bytes, code_bytes, meta_bytes;
} avx512_form;

/* Where a form's number is a table's index. */
typedef enum {
    FORM_Q4_0,
    FORM_Q4_1,
    FORM_Q5_0,
    FORM_Q5_1,
    FORM_Q8_0,
    FORM_Q4_K,
    FORM_Q5_K,
    FORM_Q6_K,
    FORM_Q2_K,
    FORM_BOOK,        /* no sub-scales: blocks of 32 or 128 */
    FORM_BOOK_SUBS,   /* a sub-scale for 32 */
    FORM_BOOK_HALVES, /* sub-scales for 16 */
    FORM_NONE,
} avx512_form_id;

/* Offset, sub-scales, minimum, halves; head, codes, meta bytes. Static so that each micro-kernel is made for its form. */
static const avx512_form avx512_forms[AVX512_FORMS] = {
    [FORM_Q4_0] = {CODES_NIBBLES, 3, 0, false, true, 0, 256, 32},
    [FORM_Q4_1] = {CODES_NIBBLES, 0, 0, true, true, 0, 256, 64},
    [FORM_Q5_0] = {CODES_FIVES, 4, 0, false, true, 0, 320, 32},
    [FORM_Q5_1] = {CODES_FIVES, 0, 0, true, true, 0, 320, 64},
    [FORM_Q8_0] = {CODES_BYTES, 7, 0, false, true, 0, 512, 32},
    [FORM_Q4_K] = {CODES_NIBBLES, 0, 1, true, true, 64, 256, 32},
    [FORM_Q5_K] = {CODES_FIVES, 0, 1, true, true, 64, 320, 32},
    [FORM_Q6_K] = {CODES_SIXES, 5, 2, false, true, 64, 384, 32},
    [FORM_Q2_K] = {CODES_BOOK, 7, 2, true, false, 128, 256, 64},
    [FORM_BOOK] = {CODES_BOOK, 7, 0, false, false, 0, 256, 64},
    [FORM_BOOK_SUBS] = {CODES_BOOK, 7, 1, false, false, 64, 256, 16},
    [FORM_BOOK_HALVES] = {CODES_BOOK, 7, 2, false, false, 64, 256, 32},
};

/* FORM_NONE for plain types, and NVFP4. */
avx512_form_id avx512_form_find(dtype type);

INLINE uint32_t avx512_groups(uint32_t k) { return k / AVX512_GROUP + (k % AVX512_GROUP != 0); }

INLINE uint32_t avx512_super_bytes(const avx512_form *f) {
    return f->head_bytes + AVX512_SUPER * (f->code_bytes + f->meta_bytes);
}

/* Vectors of floats of a panel's group. */
INLINE uint32_t avx512_meta_count(const avx512_form *f) { return (1 + f->n_subs) * (f->has_min ? 2 : 1); }

INLINE uint32_t avx512_panel_group(const avx512_form *f) { return AVX512_PANEL_CODES + 64 * avx512_meta_count(f); }

/* ---- activations ----- */

INLINE uint32_t avx512_width(uint32_t n_tokens) { return n_tokens <= CPU_FEW_TOKENS ? n_tokens : AVX512_WIDTH; }
/* Bytes of a group of one token: q, then dx and the sums. */
INLINE uint32_t avx512_q_bytes(bool wide) { return wide ? 64 : 32; }
INLINE uint32_t avx512_token_group(bool wide) { return avx512_q_bytes(wide) + (wide ? 16 : 28); }

/* The block of token t, whose columns begin at token t - t % width. */
INLINE uint8_t *avx512_block(const cpu_act *a, uint32_t t) {
    const uint32_t width = avx512_width(a->n_tokens);
    const size_t token = (size_t)avx512_groups(a->k) * avx512_token_group(a->compute == COMPUTE_Q12);
    return a->data + (t - t % width) * token;
}

/* What both sets share (avx512_q_pack.c, avx512_q_act.c). */
size_t avx512_q_tile_bytes(dtype type, compute c, uint32_t k);
void avx512_q_weight_pack(cpu_weight *w, uint32_t row, uint32_t n_rows, const void *rows);
size_t avx512_q_act_bytes(compute c, uint32_t k, uint32_t n_tokens);
bool avx512_q_act_put(cpu_act *a, uint32_t t, const float *x);
void avx512_q_act_pad(cpu_act *a);
size_t avx512_q_panel_bytes(const cpu_weight *w);
/* Unpacks a tile; codes get `offset` (128, or 0: signed). */
void avx512_q_panel(const cpu_weight *w, uint32_t tile, uint8_t *panel, int offset);
/* The product of up to CPU_FEW_TOKENS tokens from packed weights. */
void avx512_q_direct(const cpu_weight *w, uint32_t tile, const cpu_act *a, uint32_t t0, uint32_t n_tokens, float *y,
                     size_t y_stride);

/* ---- reading packed groups ----- */

INLINE __m512i avx512_load(const uint8_t *p) { return _mm512_loadu_si512((const void *)p); }

/* The codebook with 128 added, in each 128-bit lane. */
INLINE __m512i avx512_book(const dtype_info *info) {
    const __m128i codes = _mm_loadu_si128((const __m128i *)(const void *)info->book);
    return _mm512_broadcast_i32x4(_mm_xor_si128(codes, _mm_set1_epi8((char)-128)));
}

/* Bit or bits `at` of each byte of a plane, moved to bit 4. */
INLINE __m512i avx512_plane_bits(__m512i plane, int at, int mask) {
    const __m512i moved =
        at < 4 ? _mm512_slli_epi16(plane, (unsigned)(4 - at) & 15) : _mm512_srli_epi16(plane, (unsigned)(at - 4) & 15);
    return _mm512_and_si512(moved, _mm512_set1_epi8((char)mask));
}

/* Step j of a packed group's codes. */
INLINE __m512i avx512_step(const avx512_form *f, const uint8_t *codes, const int j, __m512i book) {
    if (f->codes == CODES_BYTES) return avx512_load(codes + 64 * j);
    __m512i q = avx512_load(codes + 64 * (j % 4));
    if (j >= 4) q = _mm512_srli_epi16(q, 4);
    q = _mm512_and_si512(q, _mm512_set1_epi8(15));
    if (f->codes == CODES_BOOK) return _mm512_shuffle_epi8(book, q);
    if (f->codes == CODES_FIVES) return _mm512_or_si512(q, avx512_plane_bits(avx512_load(codes + 256), j, 16));
    if (f->codes == CODES_SIXES)
        return _mm512_or_si512(q, avx512_plane_bits(avx512_load(codes + 256 + 64 * (j / 4)), 2 * (j % 4), 48));
    return q;
}

INLINE __m512 avx512_floats(const uint8_t *p, bool halves) {
    return halves ? _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p))
                  : _mm512_loadu_ps((const float *)(const void *)p);
}

INLINE __m512 avx512_bytes(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(const void *)p)));
}

/* What a group is scaled by. */
typedef struct {
    __m512 dw, sub[2], m, min[2];
} avx512_scales;

INLINE avx512_scales avx512_scales_packed(const avx512_form *f, const uint8_t *head, const uint8_t *meta) {
    avx512_scales s = {0};
    const uint32_t float_bytes = f->halves ? 32 : 64;
    const uint8_t *floats = f->head_bytes ? head : meta;
    const uint8_t *subs = meta + (f->head_bytes ? 0 : float_bytes * (f->has_min ? 2 : 1));
    s.dw = avx512_floats(floats, f->halves);
    if (f->has_min) s.m = avx512_floats(floats + float_bytes, f->halves);
    UNROLL for (uint32_t i = 0; i < f->n_subs; i++) {
        s.sub[i] = avx512_bytes(subs + 16 * i);
        if (f->has_min) s.min[i] = avx512_bytes(subs + 16 * (f->n_subs + i));
    }
    return s;
}

INLINE avx512_scales avx512_scales_panel(const uint32_t n_subs, const bool has_min, const float *meta) {
    avx512_scales s = {0};
    s.dw = _mm512_load_ps(meta);
    UNROLL for (uint32_t i = 0; i < n_subs; i++) s.sub[i] = _mm512_load_ps(meta + 16 * (1 + i));
    if (!has_min) return s;
    s.m = _mm512_load_ps(meta + 16 * (1 + n_subs));
    UNROLL for (uint32_t i = 0; i < n_subs; i++) s.min[i] = _mm512_load_ps(meta + 16 * (2 + n_subs + i));
    return s;
}

/* acc = fma((float)isum, dw * dx, acc), and with a minimum acc = fma((float)msum, m * dx, acc), for one token.
 * sums: its integer sums of codes and q, over 32 k or over the two halves (12 bits: of high and low). at: the token's place
 * in the floats dx, W beside each other (W: the block's width); the sums of q lie 4, 5 and 6 rows on.
 * Integers below 2^24 are exact as floats; products are taken as fma(a, b, +0), which is never -0, as no integer is. */
INLINE __m512 avx512_scale(const uint32_t n_subs, const bool has_min, const bool wide, const __m512i sums[2],
                           const avx512_scales *s, const float *at, size_t W, __m512 acc) {
    const __m512 zero = _mm512_setzero_ps(), dx = _mm512_set1_ps(at[0]);
    __m512 isum = _mm512_cvtepi32_ps(sums[0]);
    if (wide) isum = _mm512_fmadd_ps(isum, _mm512_set1_ps(128), _mm512_cvtepi32_ps(sums[1]));
    if (n_subs > 0) isum = _mm512_fmadd_ps(isum, s->sub[0], zero);
    if (n_subs > 1) isum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[1]), s->sub[1], isum);
    acc = _mm512_fmadd_ps(isum, _mm512_mul_ps(s->dw, dx), acc);
    if (!has_min) return acc;
    __m512 msum = _mm512_set1_ps(at[4 * W]);
    if (n_subs == 1) msum = _mm512_fmadd_ps(msum, s->min[0], zero);
    if (n_subs == 2) {
        msum = _mm512_fmadd_ps(_mm512_set1_ps(at[5 * W]), s->min[0], zero);
        msum = _mm512_fmadd_ps(_mm512_set1_ps(at[6 * W]), s->min[1], msum);
    }
    return _mm512_fmadd_ps(msum, _mm512_mul_ps(s->m, dx), acc);
}

#endif
