/* dev/cpu/x86/amx_q.c - q8 and q12 products of many tokens by AMX int8: 16 tokens x 16 rows x 32 k per turn.
 *
 * A turn loads 16 tokens' q (A, 16 x 32 bytes) and a panel's codes (B, 8 x 64 bytes), both signed, multiplies them into
 * 16 x 16 int32, stores these, and scales them into 16 accumulators in vector registers: acc = fma((float)isum, dw * dx,
 * acc), the one form that docs/numerics.md allows. Types with sub-scales for 16 k multiply their halves apart, 12 bits
 * high and low. Scaling takes 3 to 9 vector operations for each of 16 tokens, two a cycle, storing a tile blocks them for
 * 16 cycles, and so both take more time than the product. A turn stores the sums of the turn before it and scales those
 * before these, which hides the latencies of the product and of the store.
 *
 * Tiles are configured by the function that uses them and given back at its end, or every task switch would save 8 KiB.
 * Few tokens go to AVX-512 VNNI, which reads packed weights at the speed of memory.
 */
#include "dev/cpu/x86/avx512_q.h"

#include <string.h>

enum { SUMS = 256 /* int32 of a tile */ };

/* The operand of ldtilecfg: tiles 0..3 hold sums, 4 and 5 q, 6 and 7 codes. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

static const tile_config whole = {1, 0, {0}, {64, 64, 64, 64, 32, 32, 64, 64}, {16, 16, 16, 16, 16, 16, 8, 8}};
static const tile_config halved = {1, 0, {0}, {64, 64, 64, 64, 16, 16, 64, 64}, {16, 16, 16, 16, 16, 16, 4, 4}};

/* Tiles are named by number, so what alternates is written out: even groups sum in tiles 0 and 1, odd ones in 2 and 3. */
#define MULTIPLY(c, a, b, x, w)                                                                                        \
    do {                                                                                                               \
        _tile_loadd(a, x, 32);                                                                                         \
        _tile_loadd(b, w, 64);                                                                                         \
        _tile_zero(c);                                                                                                 \
        _tile_dpbssd(c, a, b);                                                                                         \
    } while (0)

/* The products of one group, q at x and codes at w: one, or that of the second half of k (of the low bits) too. */
INLINE void group_multiply(const int odd, const uint32_t n_subs, const bool wide, const uint8_t *x, const uint8_t *w) {
    const uint8_t *x2 = wide ? x + 32 * AVX512_WIDTH : x + 16, *w2 = wide ? w : w + 256;
    if (odd) {
        MULTIPLY(2, 5, 7, x, w);
        if (n_subs == 2 || wide) MULTIPLY(3, 5, 7, x2, w2);
    } else {
        MULTIPLY(0, 4, 6, x, w);
        if (n_subs == 2 || wide) MULTIPLY(1, 4, 6, x2, w2);
    }
}

INLINE void group_store(const int odd, const bool two, int32_t *out) {
    if (odd) {
        _tile_stored(2, out, 64);
        if (two) _tile_stored(3, out + SUMS, 64);
    } else {
        _tile_stored(0, out, 64);
        if (two) _tile_stored(1, out + SUMS, 64);
    }
}

/* One block of 16 columns at x times a panel of n groups. */
typedef struct {
    const uint8_t *panel, *x;
    uint32_t n;
    int32_t sums[2][2 * SUMS] __attribute__((aligned(64)));
} block_job;

/* Multiplies group g, stores the sums of g - 1, scales those of g - 2. */
INLINE void turn(const int odd, const uint32_t n_subs, const bool has_min, const bool wide, block_job *j, uint32_t g,
                 __m512 acc[AVX512_WIDTH]) {
    const size_t panel_group = AVX512_PANEL_CODES + 64 * (1 + n_subs) * (has_min ? 2 : 1);
    const size_t x_group = AVX512_WIDTH * avx512_token_group(wide);
    if (g < j->n) group_multiply(odd, n_subs, wide, j->x + g * x_group, j->panel + g * panel_group);
    if (g - 1 < j->n) group_store(!odd, n_subs == 2 || wide, j->sums[!odd]);
    if (g - 2 >= j->n) return;
    const uint8_t *meta = j->panel + (g - 2) * panel_group + AVX512_PANEL_CODES;
    const uint8_t *values = j->x + (g - 2) * x_group + AVX512_WIDTH * avx512_q_bytes(wide);
    const avx512_scales s = avx512_scales_panel(n_subs, has_min, (const float *)(const void *)meta);
    UNROLL for (int i = 0; i < AVX512_WIDTH; i++) {
        const int32_t *from = j->sums[odd] + 16 * i;
        const float *at = (const float *)(const void *)values + i;
        const __m512i pair[2] = {_mm512_load_si512(from), _mm512_load_si512(from + SUMS)};
        acc[i] = avx512_scale(n_subs, has_min, wide, pair, &s, at, AVX512_WIDTH, acc[i]);
    }
}

INLINE void block_product(const uint32_t n_subs, const bool has_min, const bool wide, block_job *j, float *y) {
    __m512 acc[AVX512_WIDTH];
    UNROLL for (int i = 0; i < AVX512_WIDTH; i++) acc[i] = _mm512_setzero_ps();
    for (uint32_t g = 0; g < j->n + 2; g += 2) {
        turn(0, n_subs, has_min, wide, j, g, acc);
        turn(1, n_subs, has_min, wide, j, g + 1, acc);
    }
    UNROLL for (int i = 0; i < AVX512_WIDTH; i++) _mm512_store_ps(y + 16 * i, acc[i]);
}

typedef void block_kernel(block_job *j, float *y);
#define KERNEL(name, n_subs, has_min, wide)                                                                            \
    static void name(block_job *j, float *y) { block_product(n_subs, has_min, wide, j, y); }
KERNEL(block_0, 0, false, false)
KERNEL(block_0_min, 0, true, false)
KERNEL(block_1, 1, false, false)
KERNEL(block_1_min, 1, true, false)
KERNEL(block_2, 2, false, false)
KERNEL(block_2_min, 2, true, false)
KERNEL(block_wide, 0, false, true)
static block_kernel *const blocks[3][2] = {{block_0, block_0_min}, {block_1, block_1_min}, {block_2, block_2_min}};

static void amx_panel(const cpu_weight *w, uint32_t tile, void *panel) { avx512_q_panel(w, tile, panel, 0); }

static void amx_product(const cpu_weight *w, uint32_t tile, const void *panel, const cpu_act *a, uint32_t t0,
                        uint32_t n_tokens, float *y, size_t y_stride) {
    if (a->n_tokens <= CPU_FEW_TOKENS) {
        avx512_q_direct(w, tile, a, t0, n_tokens, y, y_stride);
        return;
    }
    const avx512_form *f = &avx512_forms[avx512_form_find(w->type)];
    block_kernel *const kernel = w->compute == COMPUTE_Q12 ? block_wide : blocks[f->n_subs][f->has_min];
    float acc[AVX512_WIDTH * CPU_TILE_ROWS] __attribute__((aligned(64)));
    block_job j;
    j.panel = panel;
    j.n = avx512_groups(w->k);
    _tile_loadconfig(f->n_subs == 2 ? &halved : &whole);
    for (uint32_t t = t0, end = t0 + n_tokens; t < end; t += AVX512_WIDTH) {
        j.x = avx512_block(a, t);
        kernel(&j, acc);
        for (uint32_t i = 0; i < AVX512_WIDTH && t + i < end; i++, y += y_stride)
            memcpy(y, acc + i * CPU_TILE_ROWS, CPU_TILE_ROWS * sizeof *y);
    }
    _tile_release();
}

const cpu_matmul_kernels cpu_amx_integer = {
    .tile_bytes = avx512_q_tile_bytes,
    .weight_pack = avx512_q_weight_pack,
    .act_bytes = avx512_q_act_bytes,
    .act_put = avx512_q_act_put,
    .act_pad = avx512_q_act_pad,
    .panel_bytes = avx512_q_panel_bytes,
    .panel = amx_panel,
    .product = amx_product,
    .panel_tokens = AVX512_WIDTH,
};
