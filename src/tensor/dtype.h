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
    DTYPE_Q8_0 = 8,
    DTYPE_Q4_K = 12,
    DTYPE_Q6_K = 14,
    DTYPE_BF16 = 30,
} dtype;

typedef struct {
    dtype type;
    const char *name;     /* "Q4_0" */
    uint32_t block_elems; /* elements a block; 1 for plain types */
    uint32_t block_bytes;
    bool quantized;                                            /* a GGUF block type: the q8 profile is its default */
    void (*decode)(const void *blocks, float *out, int64_t n); /* n a multiple of block_elems */
} dtype_info;

/* NULL when the id is unknown or not supported. */
const dtype_info *dtype_find(uint32_t id);
/* The name of any GGUF type id, read here or not ("IQ2_XS"); NULL for ids that the format does not define. */
const char *dtype_name_of_id(uint32_t id);
/* All supported types, count in *n: for error texts and tests. */
const dtype_info *dtype_all(size_t *n);

/* Bytes of a row of n elements; 0 when n is not whole blocks or the size overflows. */
size_t dtype_row_bytes(dtype type, int64_t n);

/* IEEE half and bfloat16; round to nearest even, NaN stays NaN, subnormals kept. */
float dtype_f16_to_f32(uint16_t h);
uint16_t dtype_f32_to_f16(float f);
float dtype_bf16_to_f32(uint16_t h);
uint16_t dtype_f32_to_bf16(float f);

#endif
