/* dev/cpu/x86/amx_float.c - products in bf16 on AMX tiles: the bits of dev/cpu/ref/ref_matmul.c.
 *
 * tdpbf16ps computes one block of the bf16 rule (docs/numerics.md) for 16 tokens by 16 rows; the sums stay in tiles over
 * all of k. One instruction takes as long for one token as for 16. Up to three tokens, vector registers keep up with
 * memory and draw a little more from it (docs/PERF.md): there the input is avx512_float.c's. Weights as in avx512_float.h, a B tile of 1 KiB per block.
 * Activations in bf16, blocks of R = up to 16 tokens (all 16 but the last): row r of k block i is 64 bytes at 64 (R i + r)
 * of the block: an A tile is one piece of memory too.
 * f32 is avx512_float.c's.
 */
#include "dev/cpu/x86/amx_tile.h"
#include "dev/cpu/x86/avx512_float.h"
#include "dev/cpu/x86/avx512_vec.h"

#include <string.h>

enum { ROWS = 16, MOST_TILES = 4, B_BYTES = 1024, A_ROW_BYTES = 64, AHEAD = 4096, VECTOR_TOKENS = 3 };

/* Whether a step of n tokens is left to avx512_float.c. */
static bool by_vectors(compute c, uint32_t n_tokens) { return c != COMPUTE_BF16 || n_tokens <= VECTOR_TOKENS; }

/* Room for steps of up to n_tokens, in either form. */
static size_t act_bytes(compute c, uint32_t k, uint32_t n_tokens) {
    const size_t tiles = n_tokens * float_k_padded(c, k) * sizeof(uint16_t);
    const size_t vectors = avx512_float_act_bytes(c, k, by_vectors(c, n_tokens) ? n_tokens : VECTOR_TOKENS);
    return tiles > vectors ? tiles : vectors;
}

/* The block of token t. */
typedef struct {
    uint32_t first, n_rows;
    uint8_t *data;
} block;

static block block_get(const cpu_act *a, uint32_t t) {
    const uint32_t first = t - t % ROWS, rest = a->n_tokens - first;
    return (block){first, rest < ROWS ? rest : ROWS, a->data + first * float_k_padded(COMPUTE_BF16, a->k) * 2};
}

static bool act_put(cpu_act *a, uint32_t t, const float *x) {
    if (by_vectors(a->compute, a->n_tokens)) return avx512_float_act_put(a, t, x);
    const block b = block_get(a, t);
    uint8_t *out = b.data + (size_t)(t - b.first) * A_ROW_BYTES;
    for (uint32_t k = 0; k < a->k; k += FLOAT_BLOCK, out += (size_t)b.n_rows * A_ROW_BYTES) {
        const uint32_t left = a->k - k;
        const vf low = vf_load_first(x + k, left, vf_of(0.0f)),
                 high = left > VMATH_LANES ? vf_load_first(x + k + VMATH_LANES, left - VMATH_LANES, vf_of(0.0f))
                                           : vf_of(0.0f);
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
    return true;
}

static void fetch_ahead(const uint8_t *w) {
    for (int i = 0; i < B_BYTES; i += 64) _mm_prefetch((const char *)w + AHEAD + i, _MM_HINT_T0);
}

/* y of one block of tokens by 16 rows, over n blocks of k; rows y_stride floats apart. */
static void one_tile(const uint8_t *w, uint32_t n, const block *b, float *y, size_t y_stride) {
    const size_t step = (size_t)b->n_rows * A_ROW_BYTES;
    const uint8_t *x = b->data;
    _tile_zero(0);
    for (uint32_t i = 0; i < n; i++, w += B_BYTES, x += step) {
        fetch_ahead(w);
        _tile_loadd(4, w, 64);
        _tile_loadd(6, x, A_ROW_BYTES);
        _tile_dpbf16ps(0, 6, 4);
    }
    _tile_stored(0, y, y_stride * sizeof *y);
}

/* The same for n_tiles = 2 to 4 whole blocks of tokens, x_bytes apart: each B tile is loaded once for all of them. */
static void more_tiles(const uint8_t *w, uint32_t n, const uint8_t *x, size_t x_bytes, uint32_t n_tiles, float *y,
                       size_t y_stride) {
    const size_t stride = y_stride * sizeof *y;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t i = 0; i < n; i++, w += B_BYTES, x += ROWS * A_ROW_BYTES) {
        _tile_loadd(4, w, 64);
        _tile_loadd(6, x, A_ROW_BYTES);
        _tile_dpbf16ps(0, 6, 4);
        _tile_loadd(7, x + x_bytes, A_ROW_BYTES);
        _tile_dpbf16ps(1, 7, 4);
        if (n_tiles < 3) continue;
        _tile_loadd(6, x + 2 * x_bytes, A_ROW_BYTES);
        _tile_dpbf16ps(2, 6, 4);
        if (n_tiles < 4) continue;
        _tile_loadd(7, x + 3 * x_bytes, A_ROW_BYTES);
        _tile_dpbf16ps(3, 7, 4);
    }
    _tile_stored(0, y, stride);
    _tile_stored(1, y + ROWS * y_stride, stride);
    if (n_tiles > 2) _tile_stored(2, y + 2 * ROWS * y_stride, stride);
    if (n_tiles > 3) _tile_stored(3, y + 3 * ROWS * y_stride, stride);
}

/* A block of which only the tokens [t0, t0 + n) are wanted. */
static void part_tile(const uint8_t *w, uint32_t n_blocks, const block *b, uint32_t t0, uint32_t n, float *y,
                      size_t y_stride) {
    float all[ROWS][CPU_TILE_ROWS];
    one_tile(w, n_blocks, b, all[0], CPU_TILE_ROWS);
    amx_stored();
    for (uint32_t i = 0; i < n; i++) memcpy(y + i * y_stride, all[t0 - b->first + i], sizeof all[0]);
}

static void product(const cpu_weight *w, uint32_t tile, const void *panel, const cpu_act *a, uint32_t t0,
                    uint32_t n_tokens, float *y, size_t y_stride) {
    if (by_vectors(w->compute, a->n_tokens)) {
        avx512_float_product(w, tile, panel, a, t0, n_tokens, y, y_stride);
        return;
    }
    const uint8_t *rows = w->data + tile * w->tile_bytes;
    const size_t k_padded = float_k_padded(COMPUTE_BF16, w->k), x_bytes = ROWS * k_padded * sizeof(uint16_t);
    const uint32_t n_blocks = (uint32_t)(k_padded / FLOAT_BLOCK), end = t0 + n_tokens;
    uint32_t configured = 0;
    for (uint32_t t = t0; t < end;) {
        const block b = block_get(a, t);
        const uint32_t whole = t == b.first ? (end - t) / ROWS : 0, n_tiles = whole < MOST_TILES ? whole : MOST_TILES;
        if (configured != b.n_rows) amx_begin(configured = b.n_rows);
        uint32_t n = b.first + b.n_rows < end ? b.first + b.n_rows - t : end - t;
        if (n_tiles > 1)
            more_tiles(rows, n_blocks, b.data, x_bytes, n_tiles, y, y_stride), n = n_tiles * ROWS;
        else if (n == b.n_rows)
            one_tile(rows, n_blocks, &b, y, y_stride);
        else
            part_tile(rows, n_blocks, &b, t, n, y, y_stride);
        t += n;
        y += n * y_stride;
    }
    amx_end();
}

/* Three whole blocks of tokens by two tiles of rows, all eight tiles at work: A comes from the second-level cache, and is
 * loaded once for both. */
static void six_tiles(const uint8_t *w0, const uint8_t *w1, uint32_t n, const uint8_t *x, size_t x_bytes, float *y0,
                      float *y1, size_t y_stride) {
    const size_t stride = y_stride * sizeof *y0, down = ROWS * y_stride;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    for (uint32_t i = 0; i < n; i++, w0 += B_BYTES, w1 += B_BYTES, x += ROWS * A_ROW_BYTES) {
        _tile_loadd(6, x, A_ROW_BYTES);
        _tile_loadd(7, w0, 64);
        _tile_dpbf16ps(0, 6, 7);
        _tile_loadd(7, w1, 64);
        _tile_dpbf16ps(1, 6, 7);
        _tile_loadd(6, x + x_bytes, A_ROW_BYTES);
        _tile_dpbf16ps(3, 6, 7);
        _tile_loadd(7, w0, 64);
        _tile_dpbf16ps(2, 6, 7);
        _tile_loadd(6, x + 2 * x_bytes, A_ROW_BYTES);
        _tile_dpbf16ps(4, 6, 7);
        _tile_loadd(7, w1, 64);
        _tile_dpbf16ps(5, 6, 7);
    }
    _tile_stored(0, y0, stride);
    _tile_stored(1, y1, stride);
    _tile_stored(2, y0 + down, stride);
    _tile_stored(3, y1 + down, stride);
    _tile_stored(4, y0 + 2 * down, stride);
    _tile_stored(5, y1 + 2 * down, stride);
}

static void product_two(const cpu_weight *const w[2], const uint32_t tile[2], const cpu_act *a, uint32_t t0,
                        uint32_t n_tokens, float *const y[2], size_t y_stride) {
    enum { STEP = 3 * ROWS };
    uint32_t done = 0;
    if (w[0]->compute == COMPUTE_BF16 && t0 % ROWS == 0 && n_tokens >= STEP) {
        const size_t k_padded = float_k_padded(COMPUTE_BF16, a->k), x_bytes = ROWS * k_padded * sizeof(uint16_t);
        amx_begin(ROWS);
        for (; n_tokens - done >= STEP; done += STEP)
            six_tiles(w[0]->data + tile[0] * w[0]->tile_bytes, w[1]->data + tile[1] * w[1]->tile_bytes,
                      (uint32_t)(k_padded / FLOAT_BLOCK), block_get(a, t0 + done).data, x_bytes, y[0] + done * y_stride,
                      y[1] + done * y_stride, y_stride);
        amx_end();
    }
    for (int i = 0; i < 2 && done < n_tokens; i++)
        product(w[i], tile[i], NULL, a, t0 + done, n_tokens - done, y[i] + done * y_stride, y_stride);
}

/* ---- does the instruction keep the rule? ----- */

typedef struct {
    _Alignas(64) uint16_t a[ROWS][FLOAT_BLOCK], b[FLOAT_BLOCK / 2][2 * ROWS];
    float c[ROWS][ROWS], got[ROWS][ROWS], want[ROWS][ROWS];
} trial;

/* Exponents of operands, so that products and sums come out normal, near 2^-126, subnormal, or too large. */
static void trial_fill(trial *t, uint32_t kind, uint32_t *seed) {
    static const uint8_t low[] = {110, 61, 1, 62, 0, 186}, spread[] = {32, 8, 3, 3, 2, 8};
    uint16_t *operands[] = {t->a[0], t->b[0]};
    for (uint32_t side = 0; side < 2; side++)
        for (uint32_t i = 0; i < ROWS * FLOAT_BLOCK; i++) {
            *seed = *seed * 1664525u + 1013904223u;
            const uint32_t base = side && kind == 2 ? 125 : side && kind == 4 ? 1 : low[kind];
            const uint32_t exponent = base + (*seed >> 8) % spread[kind], bits = *seed >> 16;
            operands[side][i] = (uint16_t)((bits & 0x807f) | exponent << 7);
        }
    /* Sums so far: of the size of the products, 0, or subnormal. */
    for (uint32_t i = 0; i < ROWS * ROWS; i++) {
        const uint16_t a = t->a[i / ROWS][i % ROWS] ^ 0x8000, b = t->b[i / ROWS][i % ROWS] & 0x80ff;
        const uint32_t bits = (uint32_t)(kind == 0 ? a : i % 3 ? 0 : b) << 16;
        memcpy(&t->c[i / ROWS][i % ROWS], &bits, sizeof bits);
    }
}

static void trial_want(trial *t) {
    for (uint32_t r = 0; r < ROWS; r++) {
        vf even = vf_of(0.0f), odd = vf_of(0.0f);
        for (uint32_t k = 0; k < FLOAT_BLOCK / 2; k++) {
            const vi pair = (vi)_mm512_load_si512(t->b[k]);
            even = vf_fma(vi_bits(vi_of((uint32_t)t->a[r][2 * k] << 16)), vi_bits(pair << 16), even);
            odd = vf_fma(vi_bits(vi_of((uint32_t)t->a[r][2 * k + 1] << 16)), vi_bits(pair & vi_of(0xffff0000u)), odd);
        }
        vf_store(t->want[r], vf_load(t->c[r]) + (even + odd));
    }
}

bool cpu_amx_bf16_passes(void) {
    trial t;
    uint32_t seed = 1;
    __mmask16 differ = 0;
    const unsigned saved = _mm_getcsr();
    _mm_setcsr(0x9fc0); /* FTZ, DAZ, RN */
    amx_begin(ROWS);
    for (uint32_t i = 0; i < 24; i++) {
        trial_fill(&t, i % 6, &seed);
        amx_stored();
        _tile_loadd(0, t.c, 64);
        _tile_loadd(4, t.b, 64);
        _tile_loadd(6, t.a, 64);
        _tile_dpbf16ps(0, 6, 4);
        _tile_stored(0, t.got, 64);
        amx_stored();
        trial_want(&t);
        for (uint32_t r = 0; r < ROWS; r++) {
            const vf x = vf_load(t.got[r]), y = vf_load(t.want[r]);
            const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q) & _mm512_cmp_ps_mask(y, y, _CMP_UNORD_Q);
            differ |= _mm512_cmpneq_epi32_mask((__m512i)x, (__m512i)y) & (__mmask16)~nan;
        }
    }
    amx_end();
    _mm_setcsr(saved);
    return differ == 0;
}

const cpu_matmul_kernels cpu_amx_plain = {
    .tile_bytes = avx512_float_tile_bytes,
    .weight_pack = avx512_float_pack,
    .act_bytes = act_bytes,
    .act_put = act_put,
    .act_pad = avx512_float_act_pad,
    .panel_bytes = avx512_float_panel_bytes,
    .panel = avx512_float_panel,
    .product = product,
    .product_two = product_two,
    .panel_tokens = ROWS,
};
