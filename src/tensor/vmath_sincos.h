/* tensor/vmath_sincos.h - sine and cosine of an fp32 angle of any size that positions reach.
 *
 * Computed in double: angle = n * pi/2 + r with pi/2 in two parts. The first fma is exact
 * (n times a multiple of 2^-52, the difference below 1), the second leaves a relative error near
 * 2^-52 of r, and the nearest an fp32 angle below 2^48 comes to a multiple of pi/2 is far above that.
 * Rounding to fp32 at the end dominates: the error is below 0.51 ulp. Angles of 2^48 and beyond,
 * infinity and NaN give NaN. Plain scalar text: one bit pattern whichever compiler flags are set.
 */
#ifndef TENSOR_VMATH_SINCOS_H
#define TENSOR_VMATH_SINCOS_H

#include <stdint.h>
#include <string.h>

static inline void vm_sincos(float angle, float *sin_out, float *cos_out) {
    const double magic = 0x1.8p52, x = (double)angle;
    double t = __builtin_fma(x, 0x1.45f306dc9c883p-1, magic);
    double n = t - magic;
    double r = __builtin_fma(n, -0x1.921fb54442d18p+0, x);
    r = __builtin_fma(n, -0x1.1a62633145c07p-54, r);
    double z = r * r;

    double s = 0x1.6dbcfb4dee3dcp-19;
    s = __builtin_fma(s, z, -0x1.a013a455bd211p-13);
    s = __builtin_fma(s, z, 0x1.11110decc73fdp-7);
    s = __builtin_fma(s, z, -0x1.555555545d0dap-3);
    s = __builtin_fma(r * z, s, r);

    double c = -0x1.25239a954ec5cp-22;
    c = __builtin_fma(c, z, 0x1.a015c253668aep-16);
    c = __builtin_fma(c, z, -0x1.6c16bf534c9eap-10);
    c = __builtin_fma(c, z, 0x1.55555555027adp-5);
    c = __builtin_fma(c, z, -0.5);
    c = __builtin_fma(c, z, 1.0);

    uint64_t quadrant; /* n mod 4 in the two low bits */
    memcpy(&quadrant, &t, sizeof quadrant);
    double sine = quadrant & 1 ? c : s, cosine = quadrant & 1 ? s : c;
    sine = quadrant & 2 ? -sine : sine;
    cosine = (quadrant + 1) & 2 ? -cosine : cosine;
    if (!(x < 0x1p48 && x > -0x1p48)) sine = cosine = (double)__builtin_nanf("");
    *sin_out = (float)sine;
    *cos_out = (float)cosine;
}

#endif
