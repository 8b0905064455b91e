/* Row kernels: every set against the reference bit for bit, the reference against formulas in double. */
#include "test.h"

#include "dev/cpu/kernels.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { N_MAX = 5000, GUARD = 16 };

static const uint32_t lengths[] = {576, 640, 1000, 1023, 1024, 1025, 2064, 4999};
static uint64_t seed = 11;

/* Test rows with room behind them, where nothing may be written. */
static float x[N_MAX + GUARD], w[N_MAX + GUARD], u[N_MAX + GUARD], want[N_MAX + GUARD], got[N_MAX + GUARD];

static void fill(float *p, uint32_t n, float spread) {
    for (uint32_t i = 0; i < n; i++) p[i] = spread * test_random_float(&seed);
}

static void fill_all(uint32_t n) {
    static const float spreads[] = {1.0f, 30.0f, 1e-3f, 100.0f, 1e-38f};
    fill(x, n, spreads[test_random_below(&seed, 5)]);
    fill(w, n, 2.0f);
    fill(u, n, 4.0f);
    memset(want, 0x55, sizeof want);
    memset(got, 0x55, sizeof got);
}

static uint32_t n_lengths(void) { return 70 + sizeof lengths / sizeof lengths[0]; }
static uint32_t length_at(uint32_t i) { return i < 70 ? i + 1 : lengths[i - 70]; }

static void same(const char *what, const cpu_kernels *set, uint32_t n) {
    CHECKF(memcmp(want, got, sizeof want) == 0, "%s %s n %u", set->isa, what, n);
}

static void check_rows(const cpu_kernels *set, uint32_t n) {
    const cpu_row_kernels *a = &cpu_ref_row, *b = set->row;
    fill_all(n);
    a->rmsnorm(want, x, w, n, 1e-5f);
    b->rmsnorm(got, x, w, n, 1e-5f);
    same("rmsnorm", set, n);
    a->rmsnorm(want, x, NULL, n, 1e-6f);
    b->rmsnorm(got, x, NULL, n, 1e-6f);
    same("rmsnorm without weight", set, n);
    a->add(want, x, u, n);
    b->add(got, x, u, n);
    same("add", set, n);
    a->scale(want, x, 0.37f, n);
    b->scale(got, x, 0.37f, n);
    same("scale", set, n);
    a->silu_mul(want, x, u, n);
    b->silu_mul(got, x, u, n);
    same("silu_mul", set, n);
    a->gelu_tanh_mul(want, x, u, n);
    b->gelu_tanh_mul(got, x, u, n);
    same("gelu_tanh_mul", set, n);
    a->softcap(want, x, 30.0f, n);
    b->softcap(got, x, 30.0f, n);
    same("softcap", set, n);
    memcpy(got, x, n * sizeof *x); /* in place */
    b->softcap(got, got, 30.0f, n);
    same("softcap in place", set, n);
    a->layernorm(want, x, w, n, 1e-5f);
    b->layernorm(got, x, w, n, 1e-5f);
    same("layernorm", set, n);
    a->swiglu_clamp(want, x, u, 1.702f, 2.0f, n);
    b->swiglu_clamp(got, x, u, 1.702f, 2.0f, n);
    same("swiglu_clamp", set, n);
    a->sigmoid(want, x, n);
    b->sigmoid(got, x, n);
    same("sigmoid", set, n);
    a->mul(want, x, u, n);
    b->mul(got, x, u, n);
    same("mul", set, n);
    a->add_scaled(want, x, 0.37f, n);
    b->add_scaled(got, x, 0.37f, n);
    same("add_scaled", set, n);
    a->exp_sub(want, x, 1.5f, n);
    b->exp_sub(got, x, 1.5f, n);
    same("exp_sub", set, n);
    float la = a->logsumexp(x, n), lb = b->logsumexp(x, n);
    CHECKF(memcmp(&la, &lb, sizeof la) == 0, "%s logsumexp n %u: %a %a", set->isa, n, (double)la, (double)lb);
}

static void check_rope(const cpu_kernels *set, uint32_t pairs, bool half) {
    float inv[256], ca[256], sa[256], cb[256], sb[256];
    for (uint32_t i = 0; i < pairs; i++) inv[i] = (float)pow(10000.0, -(double)i / pairs);
    uint32_t pos =
        test_random_below(&seed, 2) ? test_random_below(&seed, 131073) : test_random_below(&seed, UINT32_MAX);
    cpu_ref_row.rope_table(ca, sa, pos, inv, pairs);
    set->row->rope_table(cb, sb, pos, inv, pairs);
    CHECK(memcmp(ca, cb, pairs * sizeof *ca) == 0 && memcmp(sa, sb, pairs * sizeof *sa) == 0);
    fill_all(2 * pairs + 3);
    memcpy(want, x, (2 * pairs + 3) * sizeof *x);
    memcpy(got, x, (2 * pairs + 3) * sizeof *x);
    cpu_ref_row.rope(want, ca, sa, 2 * pairs, half);
    set->row->rope(got, ca, sa, 2 * pairs, half);
    same(half ? "rope half" : "rope neighbours", set, 2 * pairs);
}

static void check_argmax(const cpu_kernels *set, uint32_t n) {
    const float specials[] = {INFINITY, -INFINITY, NAN, 0.0f, -0.0f, 1e-40f, -1e-40f};
    fill(x, n, 1.0f);
    if (test_random_below(&seed, 2)) /* many equal values */
        for (uint32_t i = 0; i < n; i++) x[i] = (float)(int)(4 * x[i]);
    if (test_random_below(&seed, 2)) x[test_random_below(&seed, n)] = specials[test_random_below(&seed, 7)];
    if (test_random_below(&seed, 8) == 0)
        for (uint32_t i = 0; i < n; i++) x[i] = specials[1 + (test_random_below(&seed, 4) == 0)];
    if (test_random_below(&seed, 8) == 0)
        for (uint32_t i = 0; i < n; i++) x[i] = specials[3 + test_random_below(&seed, 4)];
    bool fa, fb;
    uint32_t ia = cpu_ref_row.argmax(x, n, &fa), ib = set->row->argmax(x, n, &fb);
    CHECKF(ia == ib && fa == fb, "%s argmax n %u: %u %d, got %u %d", set->isa, n, ia, fa, ib, fb);
}

static void check_set(const cpu_kernels *set) {
    for (uint32_t i = 0; i < n_lengths(); i++) {
        for (int k = 0; k < 5; k++) check_rows(set, length_at(i));
        for (int k = 0; k < 20; k++) check_argmax(set, length_at(i));
    }
    for (uint32_t pairs = 1; pairs <= 130; pairs++) {
        check_rope(set, pairs, true);
        check_rope(set, pairs, false);
    }
}

static bool each_set(void (*check)(const cpu_kernels *set)) {
    uint32_t n;
    bool any = false;
    const cpu_kernels *const *all = cpu_kernels_all(&n);
    for (uint32_t i = 0; i + 1 < n; i++) {
        if (!all[i]->supported()) continue;
        check(all[i]);
        any = true;
    }
    return any;
}

TEST(sets_give_the_reference_bits) {
    if (!each_set(check_set)) SKIP("this CPU has no instruction set but the reference's");
}

#if defined(__x86_64__)
static void check_flush(const cpu_kernels *set) {
    unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040);
    check_set(set);
    _mm_setcsr(saved);
}

TEST(sets_give_the_reference_bits_with_ftz_and_daz) {
    if (!each_set(check_flush)) SKIP("this CPU has no instruction set but the reference's");
}
#endif

/* |y| * k * 2^-24: k roundings and function errors of the longest path, the 16-lane sum included. */
static void near(const char *what, float y, double r, double k, double floor) {
    double off = fabs((double)y - r), allowed = fabs(r) * k * 0x1p-24 + floor;
    CHECKF(off <= allowed, "%s: %g, exact %g", what, (double)y, r);
}

TEST(reference_is_the_formula) {
    for (uint32_t i = 0; i < n_lengths(); i++) {
        uint32_t n = length_at(i);
        double ss = 0;
        fill(x, n, 5.0f);
        fill(w, n, 2.0f);
        fill(u, n, 3.0f);
        for (uint32_t k = 0; k < n; k++) ss += (double)x[k] * (double)x[k];
        double r = 1 / sqrt(ss / n + 1e-5f);
        cpu_ref_row.rmsnorm(want, x, w, n, 1e-5f);
        for (uint32_t k = 0; k < n; k++)
            near("rmsnorm", want[k], (double)x[k] * r * (double)w[k], n / 16.0 / 2 + 10, 0);
        cpu_ref_row.silu_mul(want, x, u, n);
        for (uint32_t k = 0; k < n; k++)
            near("silu", want[k], (double)x[k] / (1 + exp(-(double)x[k])) * (double)u[k], 6, 0);
        cpu_ref_row.gelu_tanh_mul(want, x, u, n);
        for (uint32_t k = 0; k < n; k++) { /* 1 + tanh cancels for negative x: its error is one of 1, not of the sum */
            double g = (double)x[k], t = tanh(sqrt(2 / M_PI) * (g + 0.044715 * g * g * g));
            near("gelu", want[k], 0.5 * g * (1 + t) * (double)u[k], 4, fabs(g * (double)u[k]) * 0x1p-22);
        }
        for (uint32_t k = 0; k < n; k++) x[k] *= 3;
        cpu_ref_row.swiglu_clamp(want, x, u, 1.702f, 2.0f, n);
        for (uint32_t k = 0; k < n; k++) {
            double g = fmin((double)x[k], 2), up = fmax(fmin((double)u[k], 2), -2);
            near("swiglu_clamp", want[k], g / (1 + exp(-(double)(1.702f * (float)g))) * (up + 1), 8, 0);
        }
        memcpy(want, u, n * sizeof *u);
        cpu_ref_row.add_scaled(want, x, 1.7f, n);
        for (uint32_t k = 0; k < n; k++) CHECK(want[k] == (float)((double)x[k] * (double)1.7f + (double)u[k]));
        cpu_ref_row.softcap(want, x, 2.5f, n);
        for (uint32_t k = 0; k < n; k++) near("softcap", want[k], 2.5 * tanh((double)x[k] / 2.5), 7, 0);
    }
}

TEST(layernorm_is_the_formula) {
    for (uint32_t i = 0; i < n_lengths(); i++) {
        const uint32_t n = length_at(i);
        double sum = 0, squares = 0;
        fill(x, n, 2.0f);
        fill(w, n, 2.0f);
        for (uint32_t k = 0; k < n; k++) x[k] += 1.0f;
        for (uint32_t k = 0; k < n; k++) sum += (double)x[k];
        for (uint32_t k = 0; k < n; k++) squares += ((double)x[k] - sum / n) * ((double)x[k] - sum / n);
        cpu_ref_row.layernorm(want, x, w, n, 1e-2f);
        double r = 1 / sqrt(squares / n + 1e-2f);
        /* The mean is off by at most (n / 16 + 5) roundings of numbers up to 3, the rest as in rmsnorm. */
        double mean_off = (n / 16.0 + 5) * 3 * 0x1p-24;
        for (uint32_t k = 0; k < n; k++)
            near("layernorm", want[k], ((double)x[k] - sum / n) * r * (double)w[k], n / 16.0 / 2 + 10,
                 2 * r * mean_off * fabs((double)w[k]));
    }
}

TEST(logsumexp_is_the_formula) {
    for (uint32_t i = 0; i < n_lengths(); i++) {
        uint32_t n = length_at(i);
        double m = -INFINITY, sum = 0;
        fill(x, n, i % 2 ? 3.0f : 60.0f);
        if (i % 3 == 0) /* masked ids, whole chunks of them where n is large */
            for (uint32_t k = 0; k + 1 < n; k++)
                if (k < 1500 || k % 5 == 0) x[k] = -INFINITY;
        for (uint32_t k = 0; k < n; k++) m = fmax(m, (double)x[k]);
        for (uint32_t k = 0; k < n; k++) sum += exp((double)x[k] - m);
        near("logsumexp", cpu_ref_row.logsumexp(x, n), m + log(sum), 4, (64 + 8) * 0x1p-24);
    }
    for (uint32_t k = 0; k < 1500; k++) x[k] = -INFINITY;
    CHECK(cpu_ref_row.logsumexp(x, 1500) == -INFINITY);
}

TEST(argmax_takes_the_lowest_of_equals_and_sees_what_is_not_finite) {
    bool finite;
    float a[20] = {0, 1, 5, 2, 5, 5, 0};
    CHECK(cpu_ref_row.argmax(a, 20, &finite) == 2 && finite);
    a[19] = NAN;
    CHECK(cpu_ref_row.argmax(a, 20, &finite) == 0 && !finite);
    CHECK(cpu_ref_row.argmax(a, 19, &finite) == 2 && finite);
    a[7] = INFINITY;
    CHECK(cpu_ref_row.argmax(a, 19, &finite) == 0 && !finite);
    a[7] = -INFINITY;
    CHECK(cpu_ref_row.argmax(a, 19, &finite) == 2 && finite);
    CHECK(cpu_ref_row.argmax(a + 7, 1, &finite) == 0 && !finite);
}

/* The angle is the fp32 product, so libm gets the same one; half an ulp and a little is vmath_sincos.h's promise. */
TEST(rope_table_is_right_far_out) {
    static const uint32_t positions[] = {0, 1, 17, 4095, 32768, 131071, 131072, 1048576, 10000019, 4294967295u};
    float inv[64], c[64], s[64];
    for (int i = 0; i < 64; i++) inv[i] = (float)pow(500000.0, -i / 64.0);
    for (uint32_t p = 0; p < sizeof positions / sizeof positions[0]; p++) {
        cpu_ref_row.rope_table(c, s, positions[p], inv, 64);
        for (int i = 0; i < 64; i++) {
            double angle = (double)((float)positions[p] * inv[i]);
            near("cos", c[i], cos(angle), 1.02, 0);
            near("sin", s[i], sin(angle), 1.02, 0);
        }
    }
}

TEST(rope_turns_pairs) {
    const float c[2] = {0.6f, 0.0f}, s[2] = {0.8f, 1.0f};
    float half[4] = {1, 2, 3, 4}, neighbours[4] = {1, 3, 2, 4};
    cpu_ref_row.rope(half, c, s, 4, true);
    cpu_ref_row.rope(neighbours, c, s, 4, false);
    CHECK(half[0] == neighbours[0] && half[2] == neighbours[1] && half[1] == neighbours[2] && half[3] == neighbours[3]);
    CHECK(half[1] == -4.0f && half[3] == 2.0f);
    near("turned", half[0], 1 * 0.6 - 3 * 0.8, 4, 0);
    near("turned", half[2], 3 * 0.6 + 1 * 0.8, 4, 0);
}
