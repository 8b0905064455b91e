/* tensor/dtype.h - element types and block-quantised types, and their conversion to fp32 on the host.
 *
 * The numbers are GGUF's type ids, so that a file's id is checked by looking it up.
 * A row of a block type is whole blocks laid end to end. Decoding is exact: every
 * value is a product (or product plus minimum) rounded once, subnormals kept.
 * Sources: ggml-org/ggml ggml-common.h (layouts), checked against recorded vectors in tests/golden/quant.
 */
#ifndef TENSOR_DTYPE_H
#define TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum {
    DTYPE_F32 = 0,
    DTYPE_F16 = 1,
    DTYPE_Q4_0 = 2,
    DTYPE_Q4_1 = 3,
    DTYPE_Q5_0 = 6,
    DTYPE_Q5_1 = 7,
    DTYPE_Q8_0 = 8,
    DTYPE_Q2_K = 10,
    DTYPE_Q3_K = 11,
    DTYPE_Q4_K = 12,
    DTYPE_Q5_K = 13,
    DTYPE_Q6_K = 14,
    DTYPE_IQ2_XXS = 16,
    DTYPE_IQ2_XS = 17,
    DTYPE_IQ3_XXS = 18,
    DTYPE_IQ1_S = 19,
    DTYPE_IQ4_NL = 20,
    DTYPE_IQ3_S = 21,
    DTYPE_IQ2_S = 22,
    DTYPE_IQ4_XS = 23,
    DTYPE_IQ1_M = 29,
    DTYPE_BF16 = 30,
    DTYPE_TQ1_0 = 34,
    DTYPE_TQ2_0 = 35,
    DTYPE_MXFP4 = 39,
    DTYPE_NVFP4 = 40,
    DTYPE_Q1_0 = 41,
} dtype;

enum { DTYPE_GROUP = 32 }; /* elements of a group: what shares an activation scale in the q8 profile */

/* The integers of 32 weights of a row: element i is dw * scale[i / 16] * code[i] + m * min[i / 16]. Whatever an
 * element is, its part that fp32 holds exactly is the product of integers. m is 0 in types without a minimum. */
typedef struct {
    float dw, m;
    int32_t scale[2], min[2];
    int8_t code[DTYPE_GROUP];
} dtype_group;

typedef struct {
    dtype type;
    const char *name;     /* "Q4_0" */
    uint32_t block_elems; /* elements a block; 1 for plain types */
    uint32_t block_bytes;
    bool quantized;                                            /* a GGUF block type: the q8 profile is its default */
    void (*decode)(const void *blocks, float *out, int64_t n); /* n a multiple of block_elems */
    bool has_min;                                              /* its groups have a minimum m */
    /* Group t of one block (32 t < block_elems). NULL for plain types, and for NVFP4, whose scales are not integers
     * (dtype_nvfp4_group). */
    void (*group)(const uint8_t *block, uint32_t t, dtype_group *g);
    /* The values that codes of the type take, 16 of them (some may repeat or be unused); NULL when they are more. */
    const int8_t *book;
} dtype_info;

/* NULL when the id is unknown or not supported. */
const dtype_info *dtype_find(uint32_t id);
/* The name of any GGUF type id, read here or not ("IQ2_XS"); NULL for ids that the format does not define. */
const char *dtype_name_of_id(uint32_t id);
/* All supported types, count in *n: for error texts and tests. */
const dtype_info *dtype_all(size_t *n);

/* Bytes of a row of n elements; 0 when n is not whole blocks or the size overflows. */
size_t dtype_row_bytes(dtype type, int64_t n);

/* Group t of an NVFP4 block (32 t < 64): code[i] are doubled e2m1 values, dw[i / 16] half the scale of each 16. */
void dtype_nvfp4_group(const uint8_t *block, uint32_t t, float dw[2], int8_t code[DTYPE_GROUP]);

/* IEEE half and bfloat16; round to nearest even, NaN stays NaN, subnormals kept. */
float dtype_f16_to_f32(uint16_t h);
uint16_t dtype_f32_to_f16(float f);
float dtype_bf16_to_f32(uint16_t h);
uint16_t dtype_f32_to_bf16(float f);

#endif
