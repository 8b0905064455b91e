/* tensor/vmath.h - exp, log, log1p, tanh and sigmoid, written once for every vector width.
 *
 * The text below knows only a vector vf of fp32 lanes, a vector vi of 32-bit unsigned lanes
 * and vb, which says yes or no for each lane. tensor/vmath_scalar.h makes them one lane wide,
 * dev/cpu/x86/avx2_vec.h eight, avx512_vec.h sixteen.
 * Both provide operators on vf and vi (+ - * / and, for vi, & | << lane by lane), and
 *     vf_of(f), vi_of(u)     the same number in every lane
 *     vf_fma(a, b, c)        a * b + c rounded once
 *     vf_max(a, b)           a > b ? a : b   (so b where either is NaN)
 *     vf_min(a, b)           a < b ? a : b
 *     vf_bits(x), vi_bits(i) the same bits as the other type
 *     vi_sra(i, n)           arithmetic shift right
 *     vi_float(i)            the signed number i as fp32
 *     vf_less(a, b)          yes where a < b (vb)
 *     vf_pick(m, a, b)       a where m says yes, else b
 * Every lane goes through the same IEEE operations in the same order, so every width gives
 * the same bits, with subnormals kept as well as under FTZ and DAZ (a subnormal then counts
 * as zero of its sign, wherever it comes up). Nothing here branches on a value.
 *
 * Error: at most 2 ulp over the whole range, measured in tests/unit/tensor/vmath_test.c;
 * NaN gives NaN, and the limits at 0 and infinity are exact.
 * Polynomials: interpolation at Chebyshev nodes, coefficients rounded to fp32.
 * Reduction by n * ln 2 in two parts after Cody and Waite, "Software Manual for the
 * Elementary Functions", 1980.
 */
#ifndef VMATH_LANES
#include "tensor/vmath_scalar.h"
#else
#ifndef TENSOR_VMATH_H
#define TENSOR_VMATH_H

/* e^x = e^r * 2^n with |r| <= ln 2 / 2: returns e^r. Adding 1.5 * 2^23 + 127 rounds to an integer and leaves
 * n + 127, the exponent field of 2^n, in the low bits of *biased. */
static inline vf vm_exp_parts(vf x, vi *biased) {
    const vf magic = vf_of(0x1.8p23f + 127.0f);
    vf t = vf_fma(x, vf_of(0x1.715476p+0f), magic);
    vf n = t - magic;
    vf r = vf_fma(n, vf_of(-0x1.62e430p-1f), x);
    r = vf_fma(n, vf_of(0x1.05c610p-29f), r);
    vf q = vf_of(0x1.6d150ap-10f);
    q = vf_fma(q, r, vf_of(0x1.120bf6p-7f));
    q = vf_fma(q, r, vf_of(0x1.555516p-5f));
    q = vf_fma(q, r, vf_of(0x1.5554dcp-3f));
    q = vf_fma(q, r, vf_of(0.5f));
    *biased = vf_bits(t);
    return vf_of(1.0f) + vf_fma(r * r, q, r);
}

/* e^x for |x| <= 87 or NaN: the bits of vm_exp() with one scaling less. */
static inline vf vm_exp_near(vf x) {
    vi biased;
    vf y = vm_exp_parts(x, &biased);
    return y * vi_bits(biased << 23);
}

/* e^x. exp(0) is 1 exactly; subnormal results are rounded once more; infinity from 88.73 on. */
static inline vf vm_exp(vf x) {
    vi biased;
    vf y = vm_exp_parts(vf_min(vf_of(89.0f), vf_max(vf_of(-104.0f), x)), &biased);
    /* 2^n is outside the normal numbers at both ends: two factors. */
    vi n = biased - vi_of(0x4b400000u + 127);
    vi half = vi_sra(n, 1);
    y = y * vi_bits((half + vi_of(127)) << 23);
    return y * vi_bits((n - half + vi_of(127)) << 23);
}

/* u = m * 2^e, sqrt(1/2) <= m < sqrt(2), for normal u > 0. */
static inline vf vm_log_parts(vf u, vf *e) {
    vi i = vf_bits(u) - vi_of(0x3f3504f3);
    *e = vi_float(vi_sra(i, 23));
    return vi_bits((i & vi_of(0x007fffff)) + vi_of(0x3f3504f3));
}

/* log(1 + f) + e * ln 2 + low, for f in [sqrt(1/2) - 1, sqrt(2) - 1] and a small low. */
static inline vf vm_log_sum(vf f, vf e, vf low) {
    vf q = vf_of(0x1.1d8ea6p-4f);
    q = vf_fma(q, f, vf_of(-0x1.d635bcp-4f));
    q = vf_fma(q, f, vf_of(0x1.dea282p-4f));
    q = vf_fma(q, f, vf_of(-0x1.fcf4c6p-4f));
    q = vf_fma(q, f, vf_of(0x1.23d21ap-3f));
    q = vf_fma(q, f, vf_of(-0x1.555b4ap-3f));
    q = vf_fma(q, f, vf_of(0x1.999d5ap-3f));
    q = vf_fma(q, f, vf_of(-0x1.fffffcp-3f));
    q = vf_fma(q, f, vf_of(0x1.555554p-2f));
    q = vf_fma(q, f, vf_of(-0.5f));
    low = vf_fma(e, vf_of(0x1.7f7d1cp-20f), low);
    vf y = f + vf_fma(f * f, q, low);
    return vf_fma(e, vf_of(0x1.62e400p-1f), y); /* e * this constant is exact */
}

/* y where 0 < v < infinity; -infinity at v = 0, NaN below, v at infinity and NaN. */
static inline vf vm_log_limits(vf v, vf y) {
    const vf inf = vi_bits(vi_of(0x7f800000)), zero = vf_of(0.0f);
    y = vf_pick(vf_less(zero, v), y, zero - inf);
    y = vf_pick(vf_less(v, zero), vi_bits(vi_of(0x7fc00000)), y);
    return vf_pick(vf_less(v, inf), y, v + v);
}

/* Natural logarithm. */
static inline vf vm_log(vf x) {
    vb small = vf_less(x, vf_of(0x1p-126f));
    vf e, m = vm_log_parts(vf_pick(small, x * vf_of(0x1p23f), x), &e);
    e = e - vf_pick(small, vf_of(23.0f), vf_of(0.0f));
    return vm_log_limits(x, vm_log_sum(m - vf_of(1.0f), e, vf_of(0.0f)));
}

/* log(1 + x). What 1 + x loses by rounding comes back as low; where 1 + x needs no reduction, x itself is f. */
static inline vf vm_log1p(vf x) {
    const vf one = vf_of(1.0f), zero = vf_of(0.0f);
    vf u = one + x;
    vf e, f = vm_log_parts(u, &e) - one;
    vb whole = vf_less(zero, e * e);
    f = vf_pick(whole, f, x);
    vf low = vf_pick(whole, (x - (u - one)) / u, zero);
    vf y = vm_log_limits(u, vm_log_sum(f, e, low));
    return vf_pick(vf_less(zero, x * x), y, x); /* keeps -0; a tiny x is its own logarithm */
}

/* Hyperbolic tangent: x + x^3 P(x^2) below 0.625, else 1 - 2 / (e^2|x| + 1) with the sign of x. */
static inline vf vm_tanh(vf x) {
    const vi sign = vf_bits(x) & vi_of(0x80000000u);
    vf a = vi_bits(vf_bits(x) & vi_of(0x7fffffff));
    vf z = a * a;
    vf p = vf_of(0x1.2c83c0p-9f);
    p = vf_fma(p, z, vf_of(-0x1.116a16p-7f));
    p = vf_fma(p, z, vf_of(0x1.64a976p-6f));
    p = vf_fma(p, z, vf_of(-0x1.ba08c4p-5f));
    p = vf_fma(p, z, vf_of(0x1.1110eap-3f));
    p = vf_fma(p, z, vf_of(-0x1.555556p-2f));
    vf near = vf_fma(a * z, p, a);
    vf b = vf_min(vf_of(10.0f), a);
    vf far = vf_of(1.0f) - vf_of(2.0f) / (vm_exp_near(b + b) + vf_of(1.0f));
    vf y = vf_pick(vf_less(a, vf_of(0.625f)), near, far);
    return vi_bits(vf_bits(y) | sign);
}

/* 1 / (1 + e^-x), from z = e^-|x| so that neither end overflows: 1 / (1 + z), or z / (1 + z) below 0. What
 * 1 + z loses by rounding, exactly e, is put back: the quotient q changes by -q * e / (1 + z), and 1 / (1 + z) is q or 1 - q. */
static inline vf vm_sigmoid(vf x) {
    const vf one = vf_of(1.0f);
    const vb below = vf_less(x, vf_of(0.0f));
    vf z = vm_exp(vi_bits(vf_bits(x) | vi_of(0x80000000u)));
    vf d = one + z;
    vf e = (one - d) + z;
    vf q = vf_pick(below, z, one) / d;
    return vf_fma(q * e, vf_pick(below, q - one, -q), q);
}

#endif
#endif
