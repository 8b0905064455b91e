/* dev/cpu/x86/avx512_float.c - products in bf16 and f32 on AVX-512: the bits of dev/cpu/ref/ref_matmul.c.
 *
 * A register holds one step of all 16 rows of a tile (avx512_float.h), so each lane sums one output by the rule. A word
 * of two bf16 shifted left by 16 is the even k in fp32, masked by 0xffff0000 the odd one. Tokens are columns, in blocks of
 * up to 12: two chains each are 24 accumulators, and the value of a token comes from memory as the fma's operand.
 * Activations: fp32, k-major within a block: column c of k at C k + c, C columns in the block, 12 in all but the last.
 */
#include "dev/cpu/x86/avx512_float.h"

#include "dev/cpu/x86/avx512_vec.h"

#include <string.h>

enum { COLUMNS = 12, PIECE = 256 /* elements decoded at a time: whole blocks of every format */, AHEAD = 2048 };

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 12")
#endif

size_t avx512_float_tile_bytes(dtype type, compute c, uint32_t k) {
    if (dtype_row_bytes(type, k) == 0 || (c != COMPUTE_BF16 && c != COMPUTE_F32)) return 0;
    return CPU_TILE_ROWS * float_k_padded(c, k) * (c == COMPUTE_BF16 ? sizeof(uint16_t) : sizeof(float));
}

/* n decoded elements as row r, from k on: bf16 in pairs, the last one filled up with zeros. */
static void piece_put(uint8_t *tile, uint32_t r, compute c, uint32_t k, const float *d, uint32_t n) {
    uint32_t *out = (uint32_t *)(void *)tile + r;
    if (c == COMPUTE_F32) {
        for (uint32_t i = 0; i < n; i++) memcpy(out + (size_t)(k + i) * CPU_TILE_ROWS, d + i, sizeof *d);
        return;
    }
    for (uint32_t i = 0; i < n; i += VMATH_LANES) {
        uint32_t pair[VMATH_LANES / 2];
        _mm256_storeu_si256((__m256i *)(void *)pair, bf16_bits(vf_load_first(d + i, n - i, vf_of(0.0f))));
        for (uint32_t j = 0; j < VMATH_LANES / 2; j++) out[(size_t)((k + i) / 2 + j) * CPU_TILE_ROWS] = pair[j];
    }
}

void avx512_float_pack(cpu_weight *w, uint32_t row, uint32_t n_rows, const void *rows) {
    const dtype_info *info = dtype_find((uint32_t)w->type);
    const size_t row_bytes = dtype_row_bytes(w->type, w->k);
    const uint8_t *from = rows;
    for (uint32_t i = row; i < row + n_rows; i++, from += row_bytes) {
        uint8_t *tile = w->data + i / CPU_TILE_ROWS * w->tile_bytes;
        for (uint32_t k = 0; k < w->k; k += PIECE) {
            const uint32_t n = w->k - k < PIECE ? w->k - k : PIECE;
            float d[PIECE];
            info->decode(from + (size_t)(k / info->block_elems) * info->block_bytes, d, n);
            piece_put(tile, i % CPU_TILE_ROWS, w->compute, k, d, n);
        }
    }
}

size_t avx512_float_act_bytes(compute c, uint32_t k, uint32_t n_tokens) {
    return n_tokens * float_k_padded(c, k) * sizeof(float);
}

/* The block of token t: its first token, its columns, its data. */
typedef struct {
    uint32_t first, n_columns;
    float *data;
} block;

static block block_get(const cpu_act *a, uint32_t t) {
    const uint32_t first = t - t % COLUMNS, rest = a->n_tokens - first;
    return (block){first, rest < COLUMNS ? rest : COLUMNS,
                   (float *)(void *)a->data + first * float_k_padded(a->compute, a->k)};
}

bool avx512_float_act_put(cpu_act *a, uint32_t t, const float *x) {
    const block b = block_get(a, t);
    const size_t k_padded = float_k_padded(a->compute, a->k);
    float *out = b.data + (t - b.first);
    for (uint32_t k = 0; k < k_padded; k += VMATH_LANES) {
        float f[VMATH_LANES];
        const uint32_t left = k < a->k ? a->k - k : 0, n = k_padded - k < VMATH_LANES ? (uint32_t)(k_padded - k) : 16;
        const vf v = left > 0 ? vf_load_first(x + k, left, vf_of(0.0f)) : vf_of(0.0f);
        vf_store(f, a->compute == COMPUTE_BF16 ? vi_bits(vi_round_bf16(v)) : v);
        for (uint32_t j = 0; j < n; j++, out += b.n_columns) *out = f[j];
    }
    return true;
}

void avx512_float_act_pad(cpu_act *a) { (void)a; }

size_t avx512_float_panel_bytes(const cpu_weight *w) {
    (void)w;
    return 0;
}

void avx512_float_panel(const cpu_weight *w, uint32_t tile, void *panel) {
    (void)w;
    (void)tile;
    (void)panel;
}

/* acc[c] += column c over n blocks of 32 k, by the bf16 rule. */
INLINE void bf16_columns(size_t n, const uint32_t *w, const float *x, vf *acc, const int columns) {
    const vi top = vi_of(0xffff0000u);
    for (; n > 0; n--) {
        vf even[COLUMNS], odd[COLUMNS];
        UNROLL for (int c = 0; c < columns; c++) even[c] = odd[c] = vf_of(0.0f);
        for (int i = 0; i < FLOAT_BLOCK / 2; i++, w += CPU_TILE_ROWS, x += 2 * columns) {
            const vi word = (vi)_mm512_load_si512(w);
            const vf low = vi_bits(word << 16), high = vi_bits(word & top);
            _mm_prefetch((const char *)w + AHEAD, _MM_HINT_T0);
            UNROLL for (int c = 0; c < columns; c++) {
                even[c] = vf_fma(vf_of(x[c]), low, even[c]);
                odd[c] = vf_fma(vf_of(x[columns + c]), high, odd[c]);
            }
        }
        UNROLL for (int c = 0; c < columns; c++) acc[c] = acc[c] + (even[c] + odd[c]);
    }
}

/* acc[c] = column c over n single k, one fma chain each. */
INLINE void f32_columns(size_t n, const float *w, const float *x, vf *acc, const int columns) {
    vf sum[COLUMNS];
    UNROLL for (int c = 0; c < columns; c++) sum[c] = vf_of(0.0f);
    for (; n > 0; n--, w += CPU_TILE_ROWS, x += columns) {
        const vf v = vf_load(w);
        _mm_prefetch((const char *)w + AHEAD, _MM_HINT_T0);
        UNROLL for (int c = 0; c < columns; c++) sum[c] = vf_fma(vf_of(x[c]), v, sum[c]);
    }
    UNROLL for (int c = 0; c < columns; c++) acc[c] = sum[c];
}

typedef void columns_kernel(size_t n, const void *w, const float *x, vf *acc);

#define KERNELS(C)                                                                                                     \
    static void bf16_##C(size_t n, const void *w, const float *x, vf *acc) { bf16_columns(n, w, x, acc, C); }          \
    static void f32_##C(size_t n, const void *w, const float *x, vf *acc) { f32_columns(n, w, x, acc, C); }
KERNELS(1)
KERNELS(2)
KERNELS(3)
KERNELS(4)
KERNELS(5)
KERNELS(6)
KERNELS(7)
KERNELS(8)
KERNELS(9)
KERNELS(10)
KERNELS(11)
KERNELS(12)
#define TABLE(name)                                                                                                    \
    {                                                                                                                  \
        name##_1, name##_2, name##_3, name##_4, name##_5, name##_6, name##_7, name##_8, name##_9, name##_10,           \
            name##_11, name##_12                                                                                       \
    }
static columns_kernel *const bf16_kernels[COLUMNS] = TABLE(bf16), *const f32_kernels[COLUMNS] = TABLE(f32);

void avx512_float_product(const cpu_weight *w, uint32_t tile, const void *panel, const cpu_act *a, uint32_t t0,
                          uint32_t n_tokens, float *y, size_t y_stride) {
    (void)panel;
    const uint8_t *rows = w->data + tile * w->tile_bytes;
    vf acc[COLUMNS];
    for (uint32_t t = t0; t < t0 + n_tokens;) {
        const block b = block_get(a, t);
        if (w->compute == COMPUTE_BF16) {
            for (uint32_t c = 0; c < b.n_columns; c++) acc[c] = vf_of(0.0f);
            bf16_kernels[b.n_columns - 1](float_k_padded(w->compute, w->k) / FLOAT_BLOCK, rows, b.data, acc);
        } else {
            f32_kernels[b.n_columns - 1](w->k, rows, b.data, acc);
        }
        for (; t < b.first + b.n_columns && t < t0 + n_tokens; t++, y += y_stride) vf_store(y, acc[t - b.first]);
    }
}

const cpu_matmul_kernels cpu_avx512_plain = {
    .tile_bytes = avx512_float_tile_bytes,
    .weight_pack = avx512_float_pack,
    .act_bytes = avx512_float_act_bytes,
    .act_put = avx512_float_act_put,
    .act_pad = avx512_float_act_pad,
    .panel_bytes = avx512_float_panel_bytes,
    .panel = avx512_float_panel,
    .product = avx512_float_product,
    .panel_tokens = COLUMNS,
};
