/* tensor/compute.h - the numerics profiles of docs/numerics.md: how a matmul computes.
 *
 * A weight's compute type is chosen when the model is loaded, by its file type or by
 * --compute, never by the batch or the machine. It decides the rounding of the
 * activations and the order of the sum, so that every row of a profile gives the same bits.
 */
#ifndef TENSOR_COMPUTE_H
#define TENSOR_COMPUTE_H

typedef enum {
    COMPUTE_AUTO, /* by the type of each weight: GGUF-quantised q8, BF16 and F16 bf16, F32 f32 */
    COMPUTE_Q8,   /* int8 activations per 32, exact integer groups, fma over groups */
    COMPUTE_Q12,  /* the same with 12-bit activations: Q8_0 heads of the q8 profile */
    COMPUTE_BF16, /* both sides bf16, blocks of 32: even chain + odd chain, then added */
    COMPUTE_F32,  /* one fma chain over ascending k */
} compute;

#endif
