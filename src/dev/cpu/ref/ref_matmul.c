/* dev/cpu/ref/ref_matmul.c - the rules of docs/numerics.md for matmul, in plain loops.
 *
 * This file is the definition the faster sets are tested against, so it repeats the
 * formulas and nothing else:
 *
 *   q12   as q8 with 2047 in place of 127.
 *   q8    activations as int8 per group of 32 with an fp32 scale dx. A group of a
 *         weight row is integer codes, integer sub-scales and a scale dw (dtype_group); its
 *         integer sum is exact, then acc = fma((float)isum, dw * dx, acc), and for
 *         formats with a minimum m acc = fma((float)msum, m * dx, acc). NVFP4: a sum and a scale for each 16.
 *   bf16  both sides rounded to bf16; per block of 32 one fma chain over even k, one
 *         over odd k, then acc = acc + (even + odd). The last block is padded with 0.
 *   f32   one fma chain over ascending k, without padding.
 *
 * A packed tile is 16 rows in the file's own bytes; rows never written are zero bytes,
 * which decode to zeros in every format. There is no panel: the product decodes a piece
 * of one row at a time and keeps its accumulators in y, one per token.
 */
#include "dev/cpu/kernels.h"

#include <math.h>
#include <string.h>

enum {
    GROUP = DTYPE_GROUP, /* elements that share an activation scale, and a block of the bf16 rule */
    PIECE = 256,         /* elements decoded at a time: whole blocks of every format */
};

/* 32 activations of one token in the q8 profile: x is about q * dx, |q| <= 127, or 2047 for q12. */
typedef struct {
    float dx;
    int16_t q[GROUP];
} act_group;

static float q8_add(float acc, const dtype_group *w, const act_group *x, bool with_min) {
    int32_t isum = 0, msum = 0;
    for (int h = 0; h < 2; h++) {
        int32_t codes = 0, ones = 0;
        for (int i = 16 * h; i < 16 * h + 16; i++) {
            codes += w->code[i] * x->q[i];
            ones += x->q[i];
        }
        isum += w->scale[h] * codes;
        msum += w->min[h] * ones;
    }
    acc = fmaf((float)isum, w->dw * x->dx, acc);
    return with_min ? fmaf((float)msum, w->m * x->dx, acc) : acc;
}

/* Subnormals become zeros of their sign first, whatever the mode of the thread. */
static float bf16_round(float f) {
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    if ((u & 0x7f800000) == 0) u &= 0x80000000;
    memcpy(&f, &u, sizeof f);
    return dtype_bf16_to_f32(dtype_f32_to_bf16(f));
}

static float bf16_add(float acc, const float *w, const float *x) {
    float even = 0, odd = 0;
    for (int i = 0; i < GROUP; i += 2) {
        even = fmaf(x[i], w[i], even);
        odd = fmaf(x[i + 1], w[i + 1], odd);
    }
    return acc + (even + odd);
}

static uint32_t n_groups(uint32_t k) { return k / GROUP + (k % GROUP != 0); }

static bool is_q(compute c) { return c == COMPUTE_Q8 || c == COMPUTE_Q12; }

static size_t token_bytes(compute c, uint32_t k) {
    if (is_q(c)) return n_groups(k) * sizeof(act_group);
    return n_groups(k) * GROUP * sizeof(float);
}

static size_t ref_tile_bytes(dtype type, compute c, uint32_t k) {
    const dtype_info *info = dtype_find((uint32_t)type);
    if (!info || c == COMPUTE_AUTO || (is_q(c) && !info->group && type != DTYPE_NVFP4)) return 0;
    return CPU_TILE_ROWS * dtype_row_bytes(type, k);
}

static void ref_weight_pack(cpu_weight *w, uint32_t row, uint32_t n_rows, const void *rows) {
    const size_t row_bytes = w->tile_bytes / CPU_TILE_ROWS;
    memcpy(w->data + row * row_bytes, rows, n_rows * row_bytes);
}

static size_t ref_act_bytes(compute c, uint32_t k, uint32_t n_tokens) { return n_tokens * token_bytes(c, k); }

/* q = clamp(RN(x * (most / a)), -most, most), dx = a / most, with a the largest |x| of the group; most is 127 or 2047. */
static bool act_group_put(act_group *g, const float *x, uint32_t n, int16_t most) {
    uint32_t bits_max = 0;
    memset(g, 0, sizeof *g);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        if ((u & 0x7fffffff) > bits_max) bits_max = u & 0x7fffffff;
    }
    float a;
    memcpy(&a, &bits_max, sizeof a);
    if (bits_max >= 0x7f800000) return false;
    if (bits_max < 0x0d800000) return true; /* a < 2^-100 */
    const float inverse = (float)most / a;
    g->dx = a / (float)most;
    for (uint32_t i = 0; i < n; i++) {
        long q = lrintf(x[i] * inverse);
        q = q > most ? most : q < -most ? -most : q;
        g->q[i] = (int16_t)q;
    }
    return true;
}

static bool ref_act_put(cpu_act *a, uint32_t t, const float *x) {
    const size_t bytes = token_bytes(a->compute, a->k);
    uint8_t *out = a->data + t * bytes;
    if (!is_q(a->compute)) {
        float *f = (float *)(void *)out;
        memset(f, 0, bytes);
        for (uint32_t i = 0; i < a->k; i++) f[i] = a->compute == COMPUTE_BF16 ? bf16_round(x[i]) : x[i];
        return true;
    }
    act_group *g = (act_group *)(void *)out;
    for (uint32_t i = 0; i < a->k; i += GROUP)
        if (!act_group_put(&g[i / GROUP], x + i, a->k - i < GROUP ? a->k - i : GROUP,
                           a->compute == COMPUTE_Q12 ? 2047 : 127)) {
            memset(out, 0, bytes);
            return false;
        }
    return true;
}

static void ref_act_pad(cpu_act *a) { (void)a; }

static size_t ref_panel_bytes(const cpu_weight *w) {
    (void)w;
    return 0;
}

static void ref_panel(const cpu_weight *w, uint32_t tile, void *panel) {
    (void)w;
    (void)tile;
    (void)panel;
}

static void q8_row(const cpu_weight *w, const uint8_t *row, const cpu_act *a, uint32_t t0, uint32_t n_tokens, float *y,
                   size_t y_stride) {
    const dtype_info *info = dtype_find((uint32_t)w->type);
    const size_t bytes = token_bytes(COMPUTE_Q8, w->k);
    const uint32_t per_block = info->block_elems / GROUP;
    for (uint32_t i = 0; i < n_groups(w->k); i++) {
        dtype_group g;
        info->group(row + (size_t)(i / per_block) * info->block_bytes, i % per_block, &g);
        for (uint32_t t = 0; t < n_tokens; t++) {
            const act_group *x = (const act_group *)(const void *)(a->data + (t0 + t) * bytes) + i;
            y[t * y_stride] = q8_add(y[t * y_stride], &g, x, info->has_min);
        }
    }
}

/* NVFP4: each half of a group has a scale of its own, so it is a sum of its own. */
static void nvfp4_row(const cpu_weight *w, const uint8_t *row, const cpu_act *a, uint32_t t0, uint32_t n_tokens,
                      float *y, size_t y_stride) {
    const dtype_info *info = dtype_find(DTYPE_NVFP4);
    const size_t bytes = token_bytes(w->compute, w->k);
    const uint32_t per_block = info->block_elems / GROUP;
    for (uint32_t i = 0; i < n_groups(w->k); i++) {
        float dw[2];
        int8_t code[GROUP];
        dtype_nvfp4_group(row + (size_t)(i / per_block) * info->block_bytes, i % per_block, dw, code);
        for (uint32_t t = 0; t < n_tokens; t++) {
            const act_group *x = (const act_group *)(const void *)(a->data + (t0 + t) * bytes) + i;
            for (int h = 0; h < 2; h++) {
                int32_t isum = 0;
                for (int j = 16 * h; j < 16 * h + 16; j++) isum += code[j] * x->q[j];
                y[t * y_stride] = fmaf((float)isum, dw[h] * x->dx, y[t * y_stride]);
            }
        }
    }
}

static void float_row(const cpu_weight *w, const uint8_t *row, const cpu_act *a, uint32_t t0, uint32_t n_tokens,
                      float *y, size_t y_stride) {
    const dtype_info *info = dtype_find((uint32_t)w->type);
    const size_t bytes = token_bytes(w->compute, w->k);
    for (uint32_t i = 0; i < w->k; i += PIECE) {
        const uint32_t n = w->k - i < PIECE ? w->k - i : PIECE;
        float d[PIECE] = {0};
        info->decode(row + (size_t)(i / info->block_elems) * info->block_bytes, d, n);
        for (uint32_t j = 0; j < n && w->compute == COMPUTE_BF16; j++) d[j] = bf16_round(d[j]);
        for (uint32_t t = 0; t < n_tokens; t++) {
            const float *x = (const float *)(const void *)(a->data + (t0 + t) * bytes) + i;
            float acc = y[t * y_stride];
            if (w->compute == COMPUTE_BF16)
                for (uint32_t j = 0; j < n; j += GROUP) acc = bf16_add(acc, d + j, x + j);
            else
                for (uint32_t j = 0; j < n; j++) acc = fmaf(x[j], d[j], acc);
            y[t * y_stride] = acc;
        }
    }
}

static void ref_product(const cpu_weight *w, uint32_t tile, const void *panel, const cpu_act *a, uint32_t t0,
                        uint32_t n_tokens, float *y, size_t y_stride) {
    (void)panel;
    for (uint32_t t = 0; t < n_tokens; t++) memset(y + t * y_stride, 0, CPU_TILE_ROWS * sizeof *y);
    const size_t row_bytes = w->tile_bytes / CPU_TILE_ROWS;
    for (uint32_t r = 0; r < CPU_TILE_ROWS; r++) {
        const uint8_t *row = w->data + tile * w->tile_bytes + r * row_bytes;
        if (is_q(w->compute) && w->type == DTYPE_NVFP4)
            nvfp4_row(w, row, a, t0, n_tokens, y + r, y_stride);
        else if (is_q(w->compute))
            q8_row(w, row, a, t0, n_tokens, y + r, y_stride);
        else
            float_row(w, row, a, t0, n_tokens, y + r, y_stride);
    }
}

const cpu_matmul_kernels cpu_ref_matmul = {
    .tile_bytes = ref_tile_bytes,
    .weight_pack = ref_weight_pack,
    .act_bytes = ref_act_bytes,
    .act_put = ref_act_put,
    .act_pad = ref_act_pad,
    .panel_bytes = ref_panel_bytes,
    .panel = ref_panel,
    .product = ref_product,
    .panel_tokens = 1,
};
