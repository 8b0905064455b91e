/* Attention kernels: every set against the reference bit for bit, the reference against softmax in double.
 *
 * A sequence's keys lie in shuffled pages of a pool whose every other byte is 0xff (NaN in bf16 and fp32); page numbers
 * that a kernel must not use are far outside the pool.
 */
#include "test.h"

#include "base/mem.h"
#include "dev/cpu/kernels.h"
#include "dev/cpu/ref/ref_num.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { CONTEXT_MAX = 1100, PAGES_MAX = CONTEXT_MAX / CPU_PAGE_TOKENS + 2, OFFSET = 64 };

typedef struct {
    uint32_t n_rows, d_k, d_v, context;
    bool f32;
    float scale, softcap, sinks[CPU_ATTN_ROWS], spread;
    bool has_sink[CPU_ATTN_ROWS];
    uint32_t first[CPU_ATTN_ROWS], last[CPU_ATTN_ROWS];
    uint32_t pages[PAGES_MAX];
    float *q, *k, *v; /* [rows][d_k], [context][d_k], [context][d_v] */
} problem;

typedef struct {
    float lse[CPU_ATTN_ROWS], *out;
} answer;

static uint64_t seed = 7;

static float *random_floats(size_t n, float spread) {
    float *x = base_malloc(n * sizeof *x);
    for (size_t i = 0; i < n; i++) x[i] = spread * test_random_float(&seed);
    return x;
}

static void problem_init(problem *p) {
    p->q = random_floats((size_t)p->n_rows * p->d_k, p->spread);
    p->k = random_floats((size_t)p->context * p->d_k, p->spread);
    p->v = random_floats((size_t)p->context * p->d_v, 1.0f);
    for (uint32_t i = 0; i < PAGES_MAX; i++) p->pages[i] = i;
    for (uint32_t i = PAGES_MAX - 1; i > 0; i--) {
        uint32_t j = test_random_below(&seed, i + 1), page = p->pages[i];
        p->pages[i] = p->pages[j];
        p->pages[j] = page;
    }
}

static void problem_clear(problem *p) {
    base_free(p->q);
    base_free(p->k);
    base_free(p->v);
}

static void run(const problem *p, const cpu_attn_kernels *kernels, answer *got) {
    size_t head = kernels->kv_bytes(p->d_k, p->d_v, p->f32), page_bytes = head + 2 * OFFSET;
    uint8_t *pool = base_alloc_aligned(PAGES_MAX * page_bytes);
    void *scratch = base_alloc_aligned(kernels->attn_scratch(p->d_k, p->d_v));
    uint32_t first = UINT32_MAX, pages[PAGES_MAX];
    memset(pool, 0xff, PAGES_MAX * page_bytes);
    memset(scratch, 0xff, kernels->attn_scratch(p->d_k, p->d_v));
    for (uint32_t i = 0; i < p->context; i++)
        kernels->kv_write(pool + p->pages[i / CPU_PAGE_TOKENS] * page_bytes + OFFSET, i % CPU_PAGE_TOKENS,
                          p->k + (size_t)i * p->d_k, p->v + (size_t)i * p->d_v, p->d_k, p->d_v, p->f32);

    cpu_attn a = {.n_rows = p->n_rows,
                  .d_k = p->d_k,
                  .d_v = p->d_v,
                  .f32 = p->f32,
                  .scale = p->scale,
                  .softcap = p->softcap,
                  .pool = pool,
                  .pages = pages,
                  .page_bytes = page_bytes,
                  .offset = OFFSET};
    for (uint32_t r = 0; r < p->n_rows; r++) {
        a.q[r] = p->q + (size_t)r * p->d_k;
        a.out[r] = got->out + (size_t)r * p->d_v;
        a.first[r] = p->first[r];
        a.last[r] = p->last[r];
        a.sink[r] = p->has_sink[r] ? &p->sinks[r] : NULL;
        if (p->first[r] <= p->last[r] && p->first[r] < first) first = p->first[r];
    }
    for (uint32_t i = 0; i < PAGES_MAX; i++) {
        bool used = i >= first / CPU_PAGE_TOKENS && i <= (p->context - 1) / CPU_PAGE_TOKENS;
        pages[i] = used ? p->pages[i] : 0xfffffff0u;
    }
    memset(got->out, 0xff, (size_t)p->n_rows * p->d_v * sizeof(float));
    kernels->attn(&a, scratch);
    memcpy(got->lse, a.lse, sizeof got->lse);
    base_free(scratch);
    base_free(pool);
}

static answer answer_new(const problem *p) {
    return (answer){.out = base_malloc((size_t)p->n_rows * p->d_v * sizeof(float))};
}

static bool same(const problem *p, const answer *a, const answer *b) {
    return memcmp(a->out, b->out, (size_t)p->n_rows * p->d_v * sizeof(float)) == 0 &&
           memcmp(a->lse, b->lse, p->n_rows * sizeof(float)) == 0;
}

static void random_problem(problem *p) {
    static const uint32_t widths[] = {8, 16, 24, 40, 64, 80, 128, 256};
    *p = (problem){.n_rows = 1 + test_random_below(&seed, CPU_ATTN_ROWS),
                   .d_k = widths[test_random_below(&seed, 8)],
                   .context = 1 + test_random_below(&seed, test_random_below(&seed, 3) ? 300 : 700),
                   .f32 = test_random_below(&seed, 3) == 0};
    p->d_v = test_random_below(&seed, 3) ? p->d_k : widths[test_random_below(&seed, 8)];
    p->scale = 1.0f / sqrtf((float)p->d_k);
    p->spread = test_random_below(&seed, 4) ? 2.0f : 12.0f; /* large: many p below the cut */
    if (test_random_below(&seed, 4) == 0) p->softcap = 5.0f;
    uint32_t window = test_random_below(&seed, 2) ? 1 + test_random_below(&seed, p->context) : p->context;
    uint32_t heads = 1 + test_random_below(&seed, 4); /* rows of one token */
    for (uint32_t r = 0; r < p->n_rows; r++) {
        uint32_t back = (p->n_rows - 1 - r) / heads;
        p->last[r] = p->context - 1 - (back < p->context ? back : 0);
        p->first[r] = p->last[r] + 1 > window ? p->last[r] + 1 - window : 0;
        p->has_sink[r] = test_random_below(&seed, 4) == 0;
        p->sinks[r] = 3.0f * test_random_float(&seed);
    }
    if (test_random_below(&seed, 4) == 0) /* rows that have nothing to do with each other */
        for (uint32_t r = 0; r < p->n_rows; r++) {
            p->last[r] = test_random_below(&seed, p->context);
            p->first[r] = test_random_below(&seed, p->last[r] + 2);
        }
    problem_init(p);
}

static void check_random(const cpu_kernels *set, uint32_t n_cases) {
    for (uint32_t i = 0; i < n_cases; i++) {
        problem p;
        random_problem(&p);
        answer want = answer_new(&p), got = answer_new(&p);
        run(&p, &cpu_ref_attn, &want);
        run(&p, set->attn, &got);
        CHECKF(same(&p, &want, &got), "%s case %u: rows %u d %u %u context %u f32 %d softcap %g", set->isa, i, p.n_rows,
               p.d_k, p.d_v, p.context, p.f32, (double)p.softcap);
        base_free(want.out);
        base_free(got.out);
        problem_clear(&p);
    }
}

/* Runs check for every set but the reference that this machine has. */
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

static void check_plain(const cpu_kernels *set) { check_random(set, 400); }

TEST(sets_give_the_reference_bits) {
    if (!each_set(check_plain)) SKIP("this CPU has no instruction set but the reference's");
}

#if defined(__x86_64__)
static void check_flush(const cpu_kernels *set) {
    unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040); /* FTZ, DAZ: what the computing threads set */
    check_random(set, 400);
    _mm_setcsr(saved);
}

TEST(sets_give_the_reference_bits_with_ftz_and_daz) {
    if (!each_set(check_flush)) SKIP("this CPU has no instruction set but the reference's");
}
#endif

/* Values whose products underflow: signed zeros and flushed sums everywhere. */
static void check_tiny(const cpu_kernels *set) {
    for (uint32_t i = 0; i < 60; i++) {
        problem p;
        random_problem(&p);
        for (size_t j = 0; j < (size_t)p.n_rows * p.d_k; j++) p.q[j] *= j % 3 ? 1e-20f : 1e-38f;
        for (size_t j = 0; j < (size_t)p.context * p.d_k; j++) p.k[j] *= j % 2 ? 1e-19f : 0.0f;
        for (size_t j = 0; j < (size_t)p.context * p.d_v; j++) p.v[j] *= j % 5 ? 1e-37f : j % 2 ? -0.0f : 1e-39f;
        answer want = answer_new(&p), got = answer_new(&p);
        run(&p, &cpu_ref_attn, &want);
        run(&p, set->attn, &got);
        CHECKF(same(&p, &want, &got), "%s case %u", set->isa, i);
        base_free(want.out);
        base_free(got.out);
        problem_clear(&p);
    }
}

/* Kernels are promised FTZ and DAZ. The sets on vector registers give the reference's bits without them too; tiles
 * flush whatever the mode says. */
static void check_tiny_both(const cpu_kernels *set) {
    if (strcmp(set->isa, "amx") != 0) check_tiny(set);
#if defined(__x86_64__)
    unsigned saved = _mm_getcsr();
    _mm_setcsr(saved | 0x8040);
    check_tiny(set);
    _mm_setcsr(saved);
#endif
}

TEST(underflow_gives_the_reference_bits) {
    if (!each_set(check_tiny_both)) SKIP("this CPU has no instruction set but the reference's");
}

/* A row's answer must not depend on the rows beside it, nor on masked keys that are written, even if not finite. */
static void check_alone(const cpu_attn_kernels *kernels) {
    for (uint32_t i = 0; i < 60; i++) {
        problem p;
        random_problem(&p);
        uint32_t r = test_random_below(&seed, p.n_rows);
        for (uint32_t key = 0; key < p.context; key++) {
            if (key >= p.first[r] && key <= p.last[r]) continue;
            p.k[(size_t)key * p.d_k] = NAN;
            p.v[(size_t)key * p.d_v] = INFINITY;
        }
        answer many = answer_new(&p), one = answer_new(&p);
        run(&p, kernels, &many);
        problem alone = p;
        alone.n_rows = 1;
        alone.q = p.q + (size_t)r * p.d_k;
        alone.first[0] = p.first[r];
        alone.last[0] = p.last[r];
        alone.has_sink[0] = p.has_sink[r];
        alone.sinks[0] = p.sinks[r];
        run(&alone, kernels, &one);
        CHECK(memcmp(one.out, many.out + (size_t)r * p.d_v, p.d_v * sizeof(float)) == 0);
        CHECK(memcmp(&one.lse[0], &many.lse[r], sizeof(float)) == 0);
        CHECK(!isnan(one.out[0]) && !isnan(one.lse[0]));
        base_free(many.out);
        base_free(one.out);
        problem_clear(&p);
    }
}

static void check_alone_set(const cpu_kernels *set) { check_alone(set->attn); }

TEST(rows_do_not_see_each_other_or_masked_keys) {
    check_alone(&cpu_ref_attn);
    each_set(check_alone_set);
}

static double as_cached(float x, bool f32) { return (double)(f32 ? x : ref_bf16_float(ref_bf16(x))); }

/* Softmax attention of one row in double, from the rounded inputs. err gets how far scores may be off in fp32. */
static void exact_row(const problem *p, uint32_t r, double *out, double *lse, double *err) {
    double s[CONTEXT_MAX], m = -INFINITY, l = 0;
    *err = 0;
    for (uint32_t key = p->first[r]; key <= p->last[r]; key++) {
        double dot = 0, size = 0;
        for (uint32_t i = 0; i < p->d_k; i++) {
            double t =
                as_cached(p->q[(size_t)r * p->d_k + i], p->f32) * as_cached(p->k[(size_t)key * p->d_k + i], p->f32);
            dot += t;
            size += fabs(t);
        }
        s[key] = dot * (double)p->scale;
        if (p->softcap != 0) s[key] = (double)p->softcap * tanh(s[key] / (double)p->softcap);
        m = fmax(m, s[key]);
        *err = fmax(*err, (p->d_k + 4) * 0x1p-24 * size * (double)p->scale);
    }
    for (uint32_t i = 0; i < p->d_v; i++) out[i] = 0;
    for (uint32_t key = p->first[r]; key <= p->last[r]; key++) {
        double w = exp(s[key] - m);
        l += w;
        for (uint32_t i = 0; i < p->d_v; i++) out[i] += w * as_cached(p->v[(size_t)key * p->d_v + i], p->f32);
    }
    *lse = m + log(l);
    if (p->has_sink[r]) l += exp((double)p->sinks[r] - m);
    for (uint32_t i = 0; i < p->d_v; i++) out[i] /= l;
}

/* |v| <= 1, so out is off by at most the relative error of p and of l: twice the error of s, 2^-8 for p to bf16, and
 * per key and fold a rounding of 2^-24 in the sums; p below e^-60 is lost. */
TEST(reference_is_softmax_attention) {
    double *exact = base_malloc(CPU_HEAD_MAX * sizeof *exact);
    for (uint32_t i = 0; i < 100; i++) {
        problem p;
        random_problem(&p);
        answer got = answer_new(&p);
        run(&p, &cpu_ref_attn, &got);
        for (uint32_t r = 0; r < p.n_rows; r++) {
            if (p.first[r] > p.last[r]) continue;
            double lse, err;
            exact_row(&p, r, exact, &lse, &err);
            double sums = (p.context + 8) * 0x1p-24;
            double tolerance = 2 * (2 * err + sums) + (p.f32 ? 0 : 0x1p-8);
            for (uint32_t j = 0; j < p.d_v; j++) {
                double off = fabs((double)got.out[(size_t)r * p.d_v + j] - exact[j]);
                CHECKF(off <= tolerance, "case %u row %u: off by %g, allowed %g", i, r, off, tolerance);
            }
            double off = fabs((double)got.lse[r] - lse), allowed = 2 * err + sums + fabs(lse) * 0x1p-23;
            CHECKF(off <= allowed, "lse off by %g, allowed %g", off, allowed);
        }
        base_free(got.out);
        problem_clear(&p);
    }
    base_free(exact);
}

static void check_nothing_visible(const cpu_attn_kernels *kernels) {
    problem p = {.n_rows = 3,
                 .d_k = 16,
                 .d_v = 16,
                 .context = 40,
                 .scale = 1,
                 .spread = 1,
                 .first = {1, 0, 35},
                 .last = {0, 39, 34},
                 .has_sink = {true, false, false}};
    problem_init(&p);
    answer got = answer_new(&p);
    run(&p, kernels, &got);
    for (uint32_t j = 0; j < 16; j++) CHECK(got.out[j] == 0.0f && got.out[32 + j] == 0.0f);
    CHECK(got.lse[0] == -INFINITY && got.lse[2] == -INFINITY && isfinite(got.lse[1]));
    base_free(got.out);
    problem_clear(&p);
}

static void check_nothing_set(const cpu_kernels *set) { check_nothing_visible(set->attn); }

TEST(nothing_visible_gives_zero_and_minus_infinity) {
    check_nothing_visible(&cpu_ref_attn);
    each_set(check_nothing_set);
}

/* One visible key: p = 1, so out is V as cached, and lse is the score. NaN in q comes out as NaN. */
static void check_one_key(const cpu_attn_kernels *kernels) {
    problem p = {.n_rows = 2,
                 .d_k = 24,
                 .d_v = 40,
                 .context = 300,
                 .scale = 0.5f,
                 .spread = 1,
                 .first = {299, 0},
                 .last = {299, 255}};
    problem_init(&p);
    p.q[24] = NAN;
    answer got = answer_new(&p);
    run(&p, kernels, &got);
    for (uint32_t j = 0; j < 40; j++) {
        CHECK((double)got.out[j] == as_cached(p.v[299 * 40 + j], false));
        CHECK(isnan(got.out[40 + j]));
    }
    CHECK(isfinite(got.lse[0]) && isnan(got.lse[1]));
    base_free(got.out);
    problem_clear(&p);
}

static void check_one_key_set(const cpu_kernels *set) { check_one_key(set->attn); }

TEST(one_key_gives_its_value_and_nan_is_not_hidden) {
    check_one_key(&cpu_ref_attn);
    each_set(check_one_key_set);
}
