/* dev/cpu/x86/avx2_matmul.h - what the AVX2 matmul's files share: the layouts, and the micro-kernels.
 *
 * Weights, q8. A tile is 16 rows; its groups of 32 k follow each other, each with all
 * it needs, at the density of the file. Codes lie "16 rows x 4 k": step j (0..7) is 64
 * bytes, byte 4r + i belongs to row r and k = 4j + i. On disk and in memory:
 *     nibbles  [256]  step j in the low halves of bytes 64j.., step j + 4 in the high halves
 *     plane5   [64]   bit j of byte 4r + i: bit 4 of the code at step j       (Q5_0, Q5_1, Q5_K)
 *     plane6   [128]  bits 2(j % 4).. of byte 64(j / 4) + 4r + i: bits 4, 5 of the code   (Q6_K)
 *     bytes    [512]  "16 rows x 2 k": byte 32j + 2r + i of step j (0..15), signed        (Q8_0)
 * then 16 fp16 scales, 16 fp16 minima or 16 integer sub-scales as the type has them; the
 * fp16 scales of a K-quant's 256 stand before its 8 groups (the head).
 *
 * The types whose codes take at most 16 values (the codebook, dtype_info.book) and that have no form of their own
 * share the scaled form:
 *     indices  [256]  "16 rows x 2 k": step j (0..7) in the low halves of bytes 32j + 2r + i, step j + 8 in the high ones
 * then int8 sub-scales [2][16] of k < 16 and k >= 16, with a minimum also int8 minima [2][16]; fp32 dw [16] and,
 * with a minimum, m [16] stand in the head for types of 256 elements a block, else at the group's end.
 * Unpacked: int16 code * sub-scale, and meta data dw@0, sub-scales@64 and @128, the codebook twice@192, and
 * with a minimum m@224, minima@288 and @352. The product of a code and its sub-scale fits int16 in every type.
 *
 * Activations, q8. Columns are tokens, in blocks of up to 6: all blocks have 6 columns
 * but the last, which has what remains (C). Per group of 32 k, in bytes:
 *     0     q int8, step j (0..7), column c: 4 bytes at 4Cj + 4c
 *     32C   dx float [C]; 36C sum of q, as float [C]
 *     40C   8 s, 44C 16 s, 48C 32 s of k < 16, 52C 32 s of k >= 16: pairs of int16 [C]
 *     56C   q int16, step j (0..15), column c: 2 values at 4Cj + 4c
 * where s is the pair (sum of q over k = 0, 1 mod 4; over k = 2, 3 mod 4): what a 16-bit
 * lane of products has to lose for codes stored with an offset of 8, 16 or 32.
 *
 * bf16 and f32: weights 16 rows x 2 k of bf16, or 16 rows x 1 k of fp32; activations
 * fp32, k-major: column c of k at 4Ck + 4c. bf16 pads k to a multiple of 32 with zeros.
 */
#ifndef DEV_CPU_X86_AVX2_MATMUL_H
#define DEV_CPU_X86_AVX2_MATMUL_H

#include "dev/cpu/kernels.h"

enum {
    AVX2_COLUMNS = 6,    /* tokens of a block */
    AVX2_GROUP = 32,     /* k of a group (q8) or block (bf16) */
    AVX2_SUPER = 8,      /* groups of a K-quant's block of 256, and of one call of a direct kernel */
    AVX2_GROUP_X = 120,  /* bytes of a group's activations, per token */
    AVX2_META_MAX = 416, /* bytes of a group's unpacked meta data */
    AVX2_ACC = AVX2_COLUMNS * CPU_TILE_ROWS,
    AVX2_ACC_SCRATCH = 2 * AVX2_ACC, /* floats: [column][row] accumulators, then as much for spills */
};

/* acc[c][r] += rows . column c over n >= 1 groups (f32: n single k), starting from what acc holds. w: codes, or the
 * packed tile itself for the direct kernels; meta: n groups of unpacked meta data (not read by the direct kernels of types
 * without a head); x: the block's activations. 32-byte
 * aligned, acc with AVX2_ACC_SCRATCH floats. */
typedef void avx2_kernel(size_t n, const uint8_t *w, const uint8_t *meta, const uint8_t *x, float *acc);

/* One packed q8 format. pack, codes and meta are NULL in the scaled form: use the functions below. */
typedef struct {
    bool direct_meta;     /* the direct kernels want their meta data unpacked; the others read it in place */
    uint32_t head_bytes;  /* before each AVX2_SUPER groups */
    uint32_t group_bytes; /* of a packed group */
    uint32_t code_bytes;  /* of an unpacked group's codes */
    uint32_t meta_bytes;  /* of an unpacked group's meta data */
    void (*pack)(uint8_t *tile, uint32_t r, const uint8_t *row, uint32_t n_groups); /* one row of the file as row r */
    void (*codes)(const uint8_t *group, uint8_t *codes);
    void (*meta)(const uint8_t *head, const uint8_t *group, uint8_t *meta);
    avx2_kernel *const *direct; /* [AVX2_COLUMNS], by columns - 1: from packed weights */
    avx2_kernel *const *panel;  /* [AVX2_COLUMNS], by columns - 1: from unpacked codes */
} avx2_form;

/* NULL for plain types, and NVFP4. */
const avx2_form *avx2_form_find(dtype type);
/* As the form's functions of these names; info is that of the form's type. */
void avx2_form_pack(const avx2_form *f, const dtype_info *info, uint8_t *tile, uint32_t r, const uint8_t *row,
                    uint32_t n_groups);
void avx2_form_codes(const avx2_form *f, const dtype_info *info, const uint8_t *group, uint8_t *codes);
void avx2_form_meta(const avx2_form *f, const dtype_info *info, const uint8_t *head, const uint8_t *group,
                    uint8_t *meta);

/* The float products: bf16 by blocks of 32, f32 by single k. Direct ones prefetch, the others want a tile in cache. */
extern avx2_kernel *const avx2_bf16_direct[AVX2_COLUMNS], *const avx2_bf16_cached[AVX2_COLUMNS];
extern avx2_kernel *const avx2_f32_direct[AVX2_COLUMNS], *const avx2_f32_cached[AVX2_COLUMNS];

/* Micro-kernels of the q8 forms (avx2_kernels.c). */
extern avx2_kernel *const avx2_q4_0_direct[AVX2_COLUMNS], *const avx2_q4_1_direct[AVX2_COLUMNS],
                                                              *const avx2_q5_0_direct[AVX2_COLUMNS];
extern avx2_kernel *const avx2_q8_0_direct[AVX2_COLUMNS], *const avx2_q4_k_direct[AVX2_COLUMNS],
                                                              *const avx2_q6_k_direct[AVX2_COLUMNS];
extern avx2_kernel *const avx2_q4_0_panel[AVX2_COLUMNS], *const avx2_q4_1_panel[AVX2_COLUMNS],
                                                             *const avx2_q5_0_panel[AVX2_COLUMNS];
extern avx2_kernel *const avx2_q8_0_panel[AVX2_COLUMNS], *const avx2_q4_k_panel[AVX2_COLUMNS],
                                                             *const avx2_q6_k_panel[AVX2_COLUMNS];

extern avx2_kernel *const avx2_q5_1_direct[AVX2_COLUMNS], *const avx2_q5_k_direct[AVX2_COLUMNS];
extern avx2_kernel *const avx2_q5_1_panel[AVX2_COLUMNS], *const avx2_q5_k_panel[AVX2_COLUMNS];

/* The scaled form: dw in the head (groups of 288 bytes) or in the group (352), or with a minimum and a head. */
extern avx2_kernel *const avx2_scaled_288_direct[AVX2_COLUMNS], *const avx2_scaled_352_direct[AVX2_COLUMNS];
extern avx2_kernel *const avx2_scaled_min_direct[AVX2_COLUMNS];
extern avx2_kernel *const avx2_scaled_panel[AVX2_COLUMNS], *const avx2_scaled_min_panel[AVX2_COLUMNS];

#endif
