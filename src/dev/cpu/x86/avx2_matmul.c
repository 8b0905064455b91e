/* dev/cpu/x86/avx2_matmul.c - the AVX2 matmul: activations, packing, and products made of micro-kernels.
 *
 * Layouts are described in avx2_matmul.h, the exact integer arithmetic in
 * avx2_kernels.c. Products run over blocks of 6 tokens; the last block is as wide as the
 * tokens that remain, nothing is padded. Up to CPU_FEW_TOKENS tokens they read packed
 * weights, which is as fast as memory for a few and cheaper than a panel for two blocks;
 * above, panel() unpacks a tile once for all blocks. The float types need no panel: their
 * packed tile is what the micro-kernels read.
 */
#include "dev/cpu/x86/avx2_matmul.h"

#include <immintrin.h>
#include <string.h>

enum { PIECE = 256 /* elements decoded at a time: whole blocks of every format */ };

static bool is_q(compute c) { return c == COMPUTE_Q8 || c == COMPUTE_Q12; }

static uint32_t n_groups(uint32_t k) { return k / AVX2_GROUP + (k % AVX2_GROUP != 0); }

/* Floats of a column or row: bf16 computes in whole blocks. */
static size_t k_padded(compute c, uint32_t k) { return c == COMPUTE_BF16 ? (size_t)n_groups(k) * AVX2_GROUP : k; }

static size_t avx2_tile_bytes(dtype type, compute c, uint32_t k) {
    const size_t row_bytes = dtype_row_bytes(type, k);
    if (row_bytes == 0 || c == COMPUTE_AUTO) return 0;
    if (!is_q(c)) return CPU_TILE_ROWS * k_padded(c, k) * (c == COMPUTE_BF16 ? 2 : 4);
    /* Only the Q8_0 kernels take their activations as int16, where 12 bits cost nothing. */
    const avx2_form *f = c == COMPUTE_Q8 || type == DTYPE_Q8_0 ? avx2_form_find(type) : NULL;
    return f ? (size_t)n_groups(k) * f->group_bytes + (size_t)(n_groups(k) / AVX2_SUPER) * f->head_bytes : 0;
}

/* Round to nearest even on integers, whatever the thread's mode: subnormals become zeros of their sign, NaN stays. */
static __m256i bf16_round8(const float *x) {
    const __m256i u = _mm256_loadu_si256((const __m256i *)(const void *)x), exponent = _mm256_set1_epi32(0x7f800000);
    const __m256i top = _mm256_set1_epi32(-65536), one = _mm256_set1_epi32(1);
    const __m256i magnitude = _mm256_and_si256(u, _mm256_set1_epi32(0x7fffffff));
    const __m256i tie = _mm256_and_si256(_mm256_srli_epi32(u, 16), one);
    const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), tie);
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x00400000));
    const __m256i is_nan = _mm256_cmpgt_epi32(magnitude, exponent);
    const __m256i is_tiny = _mm256_cmpgt_epi32(_mm256_set1_epi32(0x00800000), magnitude);
    __m256i r = _mm256_blendv_epi8(rounded, quiet, is_nan);
    r = _mm256_blendv_epi8(r, _mm256_and_si256(u, _mm256_set1_epi32(INT32_MIN)), is_tiny);
    return _mm256_and_si256(r, top);
}

/* One piece of a row of n decoded elements (zeros beyond) as row r: bf16 pairs or floats, 64 bytes a step. */
static void float_piece_put(uint8_t *out, uint32_t r, compute c, const float *d, uint32_t n) {
    if (c == COMPUTE_F32) {
        for (uint32_t i = 0; i < n; i++) memcpy(out + (size_t)64 * i + 4 * r, d + i, sizeof *d);
        return;
    }
    uint32_t bits[8];
    for (uint32_t i = 0; i < n; i += 8) {
        _mm256_storeu_si256((__m256i *)(void *)bits, bf16_round8(d + i));
        for (uint32_t j = 0; j < 8; j += 2) {
            const uint32_t pair = bits[j] >> 16 | bits[j + 1];
            memcpy(out + (size_t)32 * (i + j) + 4 * r, &pair, sizeof pair);
        }
    }
}

static void float_row_pack(const cpu_weight *w, uint8_t *tile, uint32_t r, const uint8_t *row) {
    const dtype_info *info = dtype_find((uint32_t)w->type);
    for (uint32_t i = 0; i < w->k; i += PIECE) {
        const uint32_t n = w->k - i < PIECE ? w->k - i : PIECE;
        float d[PIECE];
        info->decode(row + (size_t)(i / info->block_elems) * info->block_bytes, d, n);
        for (uint32_t j = n; j < PIECE && j % 8 != 0; j++) d[j] = 0;
        float_piece_put(tile + (size_t)i * (w->compute == COMPUTE_BF16 ? 32 : 64), r, w->compute, d, n);
    }
}

static void avx2_weight_pack(cpu_weight *w, uint32_t row, uint32_t n_rows, const void *rows) {
    const avx2_form *f = is_q(w->compute) ? avx2_form_find(w->type) : NULL;
    const dtype_info *info = dtype_find((uint32_t)w->type);
    const size_t row_bytes = dtype_row_bytes(w->type, w->k);
    const uint8_t *from = rows;
    for (uint32_t i = row; i < row + n_rows; i++, from += row_bytes) {
        uint8_t *tile = w->data + i / CPU_TILE_ROWS * w->tile_bytes;
        if (f)
            avx2_form_pack(f, info, tile, i % CPU_TILE_ROWS, from, n_groups(w->k));
        else
            float_row_pack(w, tile, i % CPU_TILE_ROWS, from);
    }
}

/* Bytes of one token; a block's tokens lie interleaved in as many times that. */
static size_t token_bytes(compute c, uint32_t k) {
    return is_q(c) ? (size_t)n_groups(k) * AVX2_GROUP_X : k_padded(c, k) * sizeof(float);
}

static size_t avx2_act_bytes(compute c, uint32_t k, uint32_t n_tokens) { return n_tokens * token_bytes(c, k); }

/* The block of token t: its first token, its columns, its data. */
typedef struct {
    uint32_t first, n_columns;
    uint8_t *data;
} block;

static block block_get(const cpu_act *a, uint32_t t) {
    const uint32_t first = t - t % AVX2_COLUMNS, rest = a->n_tokens - first;
    return (block){first, rest < AVX2_COLUMNS ? rest : AVX2_COLUMNS, a->data + first * token_bytes(a->compute, a->k)};
}

static void dwords_put(uint8_t *at, size_t stride, __m256i v) {
    uint32_t d[8];
    _mm256_storeu_si256((__m256i *)(void *)d, v);
    for (uint32_t i = 0; i < 8; i++) memcpy(at + i * stride, &d[i], sizeof d[i]);
}

static void pair_put(uint8_t *at, __m128i v) {
    const int d = _mm_cvtsi128_si32(v);
    memcpy(at, &d, sizeof d);
}

/* Writes column c of a group of C columns: q [32] int8, dx and the sums that avx2_matmul.h lists. */
static void group_put(uint8_t *group, uint32_t c, uint32_t C, __m256i q, float dx) {
    const size_t stride = (size_t)4 * C;
    group += (size_t)4 * c;
    dwords_put(group, stride, q);
    dwords_put(group + 56 * C, stride, _mm256_cvtepi8_epi16(_mm256_castsi256_si128(q)));
    dwords_put(group + 56 * C + 8 * stride, stride, _mm256_cvtepi8_epi16(_mm256_extracti128_si256(q, 1)));
    /* Each 128-bit half holds 16 k as 4 pairs of sums of two neighbours; fold the 4 pairs. */
    __m256i s = _mm256_maddubs_epi16(_mm256_set1_epi8(1), q);
    s = _mm256_add_epi16(s, _mm256_shuffle_epi32(s, 0x4e));
    s = _mm256_add_epi16(s, _mm256_shuffle_epi32(s, 0xb1));
    const __m128i low = _mm256_castsi256_si128(s), high = _mm256_extracti128_si256(s, 1),
                  all = _mm_add_epi16(low, high);
    const float sum = (float)_mm_cvtsi128_si32(_mm_madd_epi16(all, _mm_set1_epi16(1)));
    memcpy(group + 32 * C, &dx, sizeof dx);
    memcpy(group + 36 * C, &sum, sizeof sum);
    pair_put(group + 40 * C, _mm_slli_epi16(all, 3));
    pair_put(group + 44 * C, _mm_slli_epi16(all, 4));
    pair_put(group + 48 * C, _mm_slli_epi16(low, 5));
    pair_put(group + 52 * C, _mm_slli_epi16(high, 5));
}

/* The same for 12-bit activations, which only the kernels on int16 read. */
static void wide_group_put(uint8_t *group, uint32_t c, uint32_t C, const __m256i q[2], float dx) {
    const size_t stride = (size_t)4 * C;
    group += (size_t)4 * c;
    dwords_put(group + 56 * C, stride, q[0]);
    dwords_put(group + 56 * C + 8 * stride, stride, q[1]);
    memcpy(group + 32 * C, &dx, sizeof dx);
}

/* q as int16 and dx of 32 floats, |q| <= most. False when one is not finite. No clamp: |x * (most / a)| rounds to at
 * most `most`. */
static bool group_quantize(const float *x, float most, __m256i q[2], float *dx) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    const __m256 f[4] = {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8), _mm256_loadu_ps(x + 16), _mm256_loadu_ps(x + 24)};
    __m256i m = _mm256_setzero_si256();
    for (int i = 0; i < 4; i++) m = _mm256_max_epi32(m, _mm256_and_si256(_mm256_castps_si256(f[i]), mask));
    __m128i h = _mm_max_epi32(_mm256_castsi256_si128(m), _mm256_extracti128_si256(m, 1));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    h = _mm_max_epi32(h, _mm_shuffle_epi32(h, 0xb1));
    const int bits = _mm_cvtsi128_si32(h);
    q[0] = q[1] = _mm256_setzero_si256();
    *dx = 0;
    if (bits >= 0x7f800000) return false;
    if (bits < 0x0d800000) return true; /* 2^-100 */
    const float a = _mm_cvtss_f32(_mm_castsi128_ps(h));
    const __m256 inverse = _mm256_set1_ps(most / a);
    __m256i v[4];
    for (int i = 0; i < 4; i++) v[i] = _mm256_cvtps_epi32(_mm256_mul_ps(f[i], inverse));
    for (int i = 0; i < 2; i++) q[i] = _mm256_permute4x64_epi64(_mm256_packs_epi32(v[2 * i], v[2 * i + 1]), 0xd8);
    *dx = a / most;
    return true;
}

static __m256i narrow(const __m256i q[2]) { return _mm256_permute4x64_epi64(_mm256_packs_epi16(q[0], q[1]), 0xd8); }

static bool q_put(const block *b, uint32_t c, compute how, uint32_t k, const float *x) {
    const size_t group_bytes = (size_t)AVX2_GROUP_X * b->n_columns;
    const bool wide = how == COMPUTE_Q12;
    uint8_t *group = b->data;
    __m256i q[2];
    bool finite = true;
    for (uint32_t i = 0; i < k && finite; i += AVX2_GROUP, group += group_bytes) {
        float tail[AVX2_GROUP] = {0}, dx;
        if (k - i < AVX2_GROUP) memcpy(tail, x + i, (k - i) * sizeof *x);
        finite = group_quantize(k - i < AVX2_GROUP ? tail : x + i, wide ? 2047.0f : 127.0f, q, &dx);
        if (wide)
            wide_group_put(group, c, b->n_columns, q, dx);
        else
            group_put(group, c, b->n_columns, narrow(q), dx);
    }
    if (finite) return true;
    q[0] = q[1] = _mm256_setzero_si256();
    for (uint32_t g = 0; g < n_groups(k); g++) {
        group_put(b->data + g * group_bytes, c, b->n_columns, narrow(q), 0);
        wide_group_put(b->data + g * group_bytes, c, b->n_columns, q, 0);
    }
    return false;
}

static void bf16_put(float *out, uint32_t n_columns, uint32_t k, const float *x) {
    for (uint32_t i = 0; i < k; i += 8) {
        float r[8] = {0};
        if (k - i < 8) memcpy(r, x + i, (k - i) * sizeof *x);
        _mm256_storeu_si256((__m256i *)(void *)r, bf16_round8(k - i < 8 ? r : x + i));
        for (uint32_t j = 0; j < 8; j++) out[(size_t)(i + j) * n_columns] = r[j];
    }
    for (size_t i = (k + 7u) / 8 * 8; i < k_padded(COMPUTE_BF16, k); i++) out[i * n_columns] = 0;
}

static bool avx2_act_put(cpu_act *a, uint32_t t, const float *x) {
    const block b = block_get(a, t);
    const uint32_t c = t - b.first;
    if (is_q(a->compute)) return q_put(&b, c, a->compute, a->k, x);
    float *out = (float *)(void *)b.data + c;
    if (a->compute == COMPUTE_BF16)
        bf16_put(out, b.n_columns, a->k, x);
    else
        for (size_t i = 0; i < a->k; i++) out[i * b.n_columns] = x[i];
    return true;
}

static void avx2_act_pad(cpu_act *a) { (void)a; }

/* Packed group g of a tile; its head, if the form has one, stands at the start of its AVX2_SUPER groups. */
static const uint8_t *super_at(const avx2_form *f, const uint8_t *tile, uint32_t g) {
    return tile + g / AVX2_SUPER * (f->head_bytes + (size_t)AVX2_SUPER * f->group_bytes);
}

static const uint8_t *group_at(const avx2_form *f, const uint8_t *tile, uint32_t g) {
    return super_at(f, tile, g) + f->head_bytes + (size_t)(g % AVX2_SUPER) * f->group_bytes;
}

static size_t avx2_panel_bytes(const cpu_weight *w) {
    const avx2_form *f = is_q(w->compute) ? avx2_form_find(w->type) : NULL;
    return f ? (size_t)n_groups(w->k) * (f->code_bytes + f->meta_bytes) : 0;
}

static void avx2_panel(const cpu_weight *w, uint32_t tile_index, void *panel) {
    if (!is_q(w->compute)) return;
    const avx2_form *f = avx2_form_find(w->type);
    const dtype_info *info = dtype_find((uint32_t)w->type);
    const uint8_t *tile = w->data + tile_index * w->tile_bytes;
    uint8_t *codes = panel, *meta = codes + (size_t)n_groups(w->k) * f->code_bytes;
    for (uint32_t g = 0; g < n_groups(w->k); g++, codes += f->code_bytes, meta += f->meta_bytes) {
        const uint8_t *group = group_at(f, tile, g);
        for (uint32_t i = 0; i < f->group_bytes; i += 64) _mm_prefetch((const char *)group + 4096 + i, _MM_HINT_T0);
        avx2_form_codes(f, info, group, codes);
        avx2_form_meta(f, info, super_at(f, tile, g), group, meta);
    }
}

/* Packed weights times one block. Some kernels want meta data unpacked, AVX2_SUPER groups at a time; the others read
 * theirs in place. */
static void q8_direct(const cpu_weight *w, const uint8_t *tile, uint32_t groups, const block *b, float *acc) {
    const avx2_form *f = avx2_form_find(w->type);
    if (!f->direct_meta) {
        f->direct[b->n_columns - 1](groups, tile, NULL, b->data, acc);
        return;
    }
    const dtype_info *info = dtype_find((uint32_t)w->type);
    uint8_t meta[AVX2_SUPER * AVX2_META_MAX] __attribute__((aligned(64)));
    for (uint32_t g = 0; g < groups; g += AVX2_SUPER) {
        const uint32_t n = groups - g < AVX2_SUPER ? groups - g : AVX2_SUPER;
        const uint8_t *head = super_at(f, tile, g), *group = group_at(f, tile, g);
        for (uint32_t i = 0; i < n; i++)
            avx2_form_meta(f, info, head, group + (size_t)i * f->group_bytes, meta + (size_t)i * f->meta_bytes);
        f->direct[b->n_columns - 1](n, group, meta, b->data + (size_t)g * AVX2_GROUP_X * b->n_columns, acc);
    }
}

static void block_product(const cpu_weight *w, const uint8_t *tile, const void *panel, bool few, const block *b,
                          float *acc) {
    const uint32_t groups = n_groups(w->k), i = b->n_columns - 1;
    if (is_q(w->compute)) {
        const avx2_form *f = avx2_form_find(w->type);
        if (few)
            q8_direct(w, tile, groups, b, acc);
        else
            f->panel[i](groups, panel, (const uint8_t *)panel + (size_t)groups * f->code_bytes, b->data, acc);
    } else if (w->compute == COMPUTE_BF16) {
        (few ? avx2_bf16_direct : avx2_bf16_cached)[i](groups, tile, NULL, b->data, acc);
    } else {
        (few ? avx2_f32_direct : avx2_f32_cached)[i](w->k, tile, NULL, b->data, acc);
    }
}

static void avx2_product(const cpu_weight *w, uint32_t tile, const void *panel, const cpu_act *a, uint32_t t0,
                         uint32_t n_tokens, float *y, size_t y_stride) {
    float acc[AVX2_ACC_SCRATCH] __attribute__((aligned(64)));
    for (uint32_t t = t0; t < t0 + n_tokens;) {
        const block b = block_get(a, t);
        memset(acc, 0, b.n_columns * CPU_TILE_ROWS * sizeof *acc);
        block_product(w, w->data + tile * w->tile_bytes, panel, a->n_tokens <= CPU_FEW_TOKENS, &b, acc);
        for (; t < b.first + b.n_columns && t < t0 + n_tokens; t++, y += y_stride)
            memcpy(y, acc + (t - b.first) * CPU_TILE_ROWS, CPU_TILE_ROWS * sizeof *y);
    }
}

const cpu_matmul_kernels cpu_avx2_matmul = {
    .tile_bytes = avx2_tile_bytes,
    .weight_pack = avx2_weight_pack,
    .act_bytes = avx2_act_bytes,
    .act_put = avx2_act_put,
    .act_pad = avx2_act_pad,
    .panel_bytes = avx2_panel_bytes,
    .panel = avx2_panel,
    .product = avx2_product,
    .panel_tokens = AVX2_COLUMNS,
};
