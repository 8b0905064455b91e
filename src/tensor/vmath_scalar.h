/* tensor/vmath_scalar.h - tensor/vmath.h one lane wide: vm_exp(x), vm_log(x), ... of a float.
 *
 * For the reference kernels and the sampler. Where the target has no fma instruction,
 * __builtin_fmaf is a call of the C library, which rounds once just the same.
 * Not to be included together with another width.
 */
#ifndef TENSOR_VMATH_SCALAR_H
#define TENSOR_VMATH_SCALAR_H

#include <stdint.h>
#include <string.h>

#define VMATH_LANES 1

typedef float vf;
typedef uint32_t vi;
typedef uint32_t vb;

static inline vf vf_of(float f) { return f; }
static inline vi vi_of(uint32_t u) { return u; }
static inline vf vf_fma(vf a, vf b, vf c) { return __builtin_fmaf(a, b, c); }
static inline vf vf_max(vf a, vf b) { return a > b ? a : b; }
static inline vf vf_min(vf a, vf b) { return a < b ? a : b; }

static inline vi vf_bits(vf x) {
    vi i;
    memcpy(&i, &x, sizeof i);
    return i;
}

static inline vf vi_bits(vi i) {
    vf x;
    memcpy(&x, &i, sizeof x);
    return x;
}

static inline vi vi_sra(vi i, int n) { return (vi)((int32_t)i >> n); }
static inline vf vi_float(vi i) { return (float)(int32_t)i; }
static inline vb vf_less(vf a, vf b) { return a < b ? 0xffffffffu : 0; }
static inline vf vf_pick(vb m, vf a, vf b) { return m ? a : b; }

#include "tensor/vmath.h"

#endif
