/* dev/cpu/x86/avx512_float.h - what the plain products (bf16, f32) of AVX-512 and AMX share.
 *
 * Weights: a tile of 16 rows, one step after the other, 64 bytes each; all but its input is the same in both sets:
 *     bf16   16 rows x 2 k, k padded to a multiple of 32 with zeros: a block of 32 k is a B tile of AMX
 *     f32    16 rows x 1 k
 */
#ifndef DEV_CPU_X86_AVX512_FLOAT_H
#define DEV_CPU_X86_AVX512_FLOAT_H

#include "dev/cpu/kernels.h"

enum { FLOAT_BLOCK = 32 /* k of a block of the bf16 rule */ };

/* Elements of a row or column: bf16 computes in whole blocks. */
static inline size_t float_k_padded(compute c, uint32_t k) {
    return c == COMPUTE_BF16 ? ((size_t)k + FLOAT_BLOCK - 1) / FLOAT_BLOCK * FLOAT_BLOCK : k;
}

/* These are functions of cpu_avx512_plain (kernels.h). */
size_t avx512_float_tile_bytes(dtype type, compute c, uint32_t k);
void avx512_float_pack(cpu_weight *w, uint32_t row, uint32_t n_rows, const void *rows);
size_t avx512_float_act_bytes(compute c, uint32_t k, uint32_t n_tokens);
bool avx512_float_act_put(cpu_act *a, uint32_t t, const float *x);
void avx512_float_product(const cpu_weight *w, uint32_t tile, const void *panel, const cpu_act *a, uint32_t t0,
                          uint32_t n_tokens, float *y, size_t y_stride);

/* The packed tile is what products read: no panel, and nothing to pad. */
size_t avx512_float_panel_bytes(const cpu_weight *w);
void avx512_float_panel(const cpu_weight *w, uint32_t tile, void *panel);
void avx512_float_act_pad(cpu_act *a);

#endif
