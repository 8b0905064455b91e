/* The elementary functions against double-precision libm over the whole range, and eight lanes against one, bit for bit.
 *
 * Both widths live in one program here, so the names of the wide one are renamed around its inclusion. Points are every
 * STEP-th bit pattern of a float: all exponents, both signs, subnormals, infinities and NaNs, 10.7 million points.
 */
#include "test.h"

#include "tensor/vmath_scalar.h"
#include "tensor/vmath_sincos.h"

#include <math.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { STEP = 401, STEP_FLUSH = 4001, N_FUNCTIONS = 6 };
static const float ULP_MAX = 2.0f; /* the promise of tensor/vmath.h */

static float scalar_exp(float x) { return vm_exp(x); }
static float scalar_log(float x) { return vm_log(x); }
static float scalar_log1p(float x) { return vm_log1p(x); }
static float scalar_tanh(float x) { return vm_tanh(x); }
static float scalar_sigmoid(float x) { return vm_sigmoid(x); }
static float scalar_exp_near(float x) { return fabsf(x) <= 87.0f || isnan(x) ? vm_exp_near(x) : 0.0f; }

static double double_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

static const struct {
    const char *name;
    float (*f)(float);
    double (*g)(double);
} functions[N_FUNCTIONS] = {
    {"exp", scalar_exp, exp},
    {"log", scalar_log, log},
    {"log1p", scalar_log1p, log1p},
    {"tanh", scalar_tanh, tanh},
    {"sigmoid", scalar_sigmoid, double_sigmoid},
    {"exp_near", scalar_exp_near, exp},
};

/* Error of y in units of the last place of the exact value r. */
static double ulps(float y, double r) {
    if (isnan(r) || isnan(y)) return isnan(r) && isnan(y) ? 0 : INFINITY;
    if (isinf(r) || isinf(y))
        return (double)y == r || fabs(r) > 0x1.ffffffp127 || (isinf(y) && fabs(r) > 0x1.fffffcp127) ? 0 : INFINITY;
    int e = r == 0 ? -126 : ilogb(r);
    return fabs((double)y - r) / ldexp(1.0, (e < -126 ? -126 : e) - 23);
}

static void check_ulps(int i) {
    double worst = 0;
    float at = 0;
    for (uint64_t b = 0; b < UINT64_C(1) << 32; b += STEP) {
        float x = vi_bits((uint32_t)b);
        if (functions[i].f == scalar_exp_near && !(fabsf(x) <= 87.0f)) continue;
        double u = ulps(functions[i].f(x), functions[i].g((double)x));
        if (u > worst) {
            worst = u;
            at = x;
        }
    }
    CHECKF(worst <= (double)ULP_MAX, "%s: %.3f ulp at %a", functions[i].name, worst, (double)at);
}

TEST(exp_within_two_ulp) { check_ulps(0); }
TEST(log_within_two_ulp) { check_ulps(1); }
TEST(log1p_within_two_ulp) { check_ulps(2); }
TEST(tanh_within_two_ulp) { check_ulps(3); }
TEST(sigmoid_within_two_ulp) { check_ulps(4); }
TEST(exp_near_within_two_ulp) { check_ulps(5); }

TEST(edges) {
    const float inf = INFINITY;
    CHECK(vm_exp(0.0f) == 1.0f && vm_exp(-0.0f) == 1.0f && vm_exp_near(0.0f) == 1.0f);
    CHECK(vm_exp(inf) == inf && vm_exp(-inf) == 0.0f && vm_exp(88.8f) == inf && vm_exp(-103.0f) > 0.0f);
    CHECK(isnan(vm_exp(NAN)) && isnan(vm_log(NAN)) && isnan(vm_log1p(NAN)) && isnan(vm_tanh(NAN)) &&
          isnan(vm_sigmoid(NAN)));
    CHECK(vm_log(0.0f) == -inf && vm_log(-0.0f) == -inf && vm_log(inf) == inf && isnan(vm_log(-1.0f)));
    CHECK(vm_log(1.0f) == 0.0f && !signbit(vm_log(1.0f)));
    CHECK(vm_log1p(-1.0f) == -inf && isnan(vm_log1p(-1.5f)) && vm_log1p(inf) == inf);
    CHECK(vf_bits(vm_log1p(-0.0f)) == 0x80000000u && vf_bits(vm_log1p(0.0f)) == 0);
    CHECK(vf_bits(vm_tanh(-0.0f)) == 0x80000000u && vm_tanh(inf) == 1.0f && vm_tanh(-inf) == -1.0f);
    CHECK(vm_sigmoid(0.0f) == 0.5f && vm_sigmoid(inf) == 1.0f && vm_sigmoid(-inf) == 0.0f);
}

TEST(sincos_within_one_ulp) {
    double worst = 0;
    float at = 0;
    for (uint64_t b = 0; b < UINT64_C(1) << 32; b += 2003) {
        float x = vi_bits((uint32_t)b), s, c;
        if (!(fabsf(x) < 0x1p48f)) continue;
        vm_sincos(x, &s, &c);
        double u = fmax(ulps(s, sin((double)x)), ulps(c, cos((double)x)));
        if (u > worst) {
            worst = u;
            at = x;
        }
    }
    CHECKF(worst <= 0.51, "%.4f ulp at %a", worst, (double)at);
    float s, c;
    vm_sincos(0.0f, &s, &c);
    CHECK(s == 0.0f && c == 1.0f);
    vm_sincos(INFINITY, &s, &c);
    CHECK(isnan(s) && isnan(c));
    vm_sincos(0x1p48f, &s, &c);
    CHECK(isnan(s) && isnan(c));
}

#if defined(__x86_64__)
#undef VMATH_LANES
#undef TENSOR_VMATH_H
#define vf            wide
#define vi            wide_int
#define vb            wide_mask
#define vf_of         wide_of
#define vi_of         wide_int_of
#define vf_fma        wide_fma
#define vf_max        wide_max
#define vf_min        wide_min
#define vf_bits       wide_bits
#define vi_bits       wide_from_bits
#define vi_sra        wide_sra
#define vi_float      wide_float
#define vf_less       wide_less
#define vf_pick       wide_pick
#define vm_exp_parts  wide_exp_parts
#define vm_exp_near   wide_exp_near
#define vm_exp        wide_exp
#define vm_log_parts  wide_log_parts
#define vm_log_sum    wide_log_sum
#define vm_log_limits wide_log_limits
#define vm_log        wide_log
#define vm_log1p      wide_log1p
#define vm_tanh       wide_tanh
#define vm_sigmoid    wide_sigmoid
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#include "dev/cpu/x86/avx2_vec.h"

static void wide_apply(int i, const float *x, float *y) {
    wide v = vf_load(x);
    switch (i) {
        case 0: v = wide_exp(v); break;
        case 1: v = wide_log(v); break;
        case 2: v = wide_log1p(v); break;
        case 3: v = wide_tanh(v); break;
        case 4: v = wide_sigmoid(v); break;
        default: v = wide_exp_near(v); break;
    }
    vf_store(y, v);
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

/* The same bits, where any NaN equals any other: which payload survives is the compiler's choice of operand order. */
static bool same(float a, float b) { return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b)); }

static uint64_t count_differences(int i, uint64_t step) {
    uint64_t different = 0;
    for (uint64_t b = 0; b < UINT64_C(1) << 32; b += 8 * step) {
        float x[8], y[8];
        for (uint32_t j = 0; j < 8; j++) {
            uint32_t bits = (uint32_t)(b + j * step);
            memcpy(&x[j], &bits, sizeof bits);
            if (i == 5 && !(fabsf(x[j]) <= 87.0f)) x[j] = 1.0f;
        }
        wide_apply(i, x, y);
        for (uint32_t j = 0; j < 8; j++) different += !same(y[j], functions[i].f(x[j]));
    }
    return different;
}

static bool have_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

TEST(eight_lanes_give_the_bits_of_one) {
    if (!have_avx2()) SKIP("this CPU has no AVX2");
    for (int i = 0; i < N_FUNCTIONS; i++) {
        uint64_t n = count_differences(i, STEP);
        CHECKF(n == 0, "%s: %llu points differ", functions[i].name, (unsigned long long)n);
    }
}

TEST(eight_lanes_give_the_bits_of_one_with_ftz_and_daz) {
    if (!have_avx2()) SKIP("this CPU has no AVX2");
    unsigned saved = _mm_getcsr();
    uint64_t n[N_FUNCTIONS];
    _mm_setcsr(saved | 0x8040);
    for (int i = 0; i < N_FUNCTIONS; i++) n[i] = count_differences(i, STEP_FLUSH);
    volatile float low = -100.0f, flushed; /* volatile: compilers do not know that setcsr changes arithmetic */
    flushed = functions[0].f(low);
    _mm_setcsr(saved);
    for (int i = 0; i < N_FUNCTIONS; i++)
        CHECKF(n[i] == 0, "%s: %llu points differ", functions[i].name, (unsigned long long)n[i]);
    CHECK(flushed == 0.0f);
}
#endif
