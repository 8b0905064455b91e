/* The matmul of each instruction set against the reference, bit for bit, and the reference against its rules.
 *
 * A case packs the same rows with both sets in random ranges, converts the same tokens in
 * random order, and compares all outputs for many token counts with one run of the
 * reference over all tokens: so it also shows that a token's result does not depend on
 * its neighbours. Everything runs in the mode of the compute threads (FTZ, DAZ) and
 * in the default mode. */
#include "base/mem.h"
#include "dev/cpu/kernels.h"
#include "test.h"

#include <math.h>
#include <string.h>
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

enum { TOKENS_MAX = 65, GUARD = 3 };

static const dtype types[] = {
    DTYPE_Q4_0,   DTYPE_Q4_1,    DTYPE_Q5_0,  DTYPE_Q8_0,  DTYPE_Q4_K,    DTYPE_Q6_K,  DTYPE_F32,
    DTYPE_F16,    DTYPE_BF16,    DTYPE_Q5_1,  DTYPE_Q2_K,  DTYPE_Q3_K,    DTYPE_Q5_K,  DTYPE_IQ4_NL,
    DTYPE_IQ4_XS, DTYPE_MXFP4,   DTYPE_NVFP4, DTYPE_IQ3_S, DTYPE_IQ3_XXS, DTYPE_IQ2_S, DTYPE_IQ2_XS,
    DTYPE_IQ1_S,  DTYPE_IQ2_XXS, DTYPE_IQ1_M, DTYPE_TQ1_0, DTYPE_TQ2_0,   DTYPE_Q1_0,
};
enum { N_TYPES = sizeof types / sizeof types[0] };

static const compute computes[] = {COMPUTE_Q8, COMPUTE_BF16, COMPUTE_F32, COMPUTE_Q12};

static bool flushing; /* the mode of the compute threads, which kernels are promised */

static void mode_set(bool flush) {
    flushing = flush;
#if defined(__x86_64__)
    _mm_setcsr(flush ? 0x1f80 | 0x8040 : 0x1f80);
#else
    (void)flush;
#endif
}

/* Set i of those that this machine runs, the reference last; NULL behind it. */
static const cpu_kernels *set_get(uint32_t i) {
    enum { MOST = 16 };
    static const cpu_kernels *sets[MOST + 1]; /* asking the CPU is slow in a virtual machine */
    uint32_t n, found = 0;
    const cpu_kernels *const *all = cpu_kernels_all(&n);
    for (uint32_t j = 0; j < n && j < MOST && (found > 0 || !sets[0]); j++)
        if (all[j]->supported()) sets[found++] = all[j];
    return sets[i];
}

static bool has_set(const char *isa) {
    for (uint32_t i = 0; set_get(i); i++)
        if (strcmp(set_get(i)->isa, isa) == 0) return true;
    return false;
}

/* How the bytes of weights and the values of activations are drawn. */
typedef enum { DRAW_RANDOM, DRAW_HIGH, DRAW_LOW, DRAW_WILD } draw;

static void half_put(uint8_t *p, float f) {
    const uint16_t h = dtype_f32_to_f16(f);
    memcpy(p, &h, sizeof h);
}

static float scale_draw(draw how, uint64_t *seed) {
    if (how == DRAW_HIGH) return 0.03f;
    if (how == DRAW_LOW) return -0.03f;
    if (how == DRAW_WILD) {
        const uint32_t kind = test_random_below(seed, 4);
        if (kind == 0) return 0;
        if (kind == 1) return 0x1p-24f * (float)(1 + test_random_below(seed, 900)); /* a subnormal half */
        if (kind == 2) return 60000.0f * test_random_float(seed);
    }
    return 0.03f * test_random_float(seed);
}

/* IQ1_M keeps a half in the top nibbles of four u16. */
static void spread_put(uint8_t *block, float f) {
    const uint16_t h = dtype_f32_to_f16(f);
    for (uint32_t i = 0; i < 4; i++) block[49 + 2 * i] = (uint8_t)((block[49 + 2 * i] & 15) | (h >> 4 * i & 15) << 4);
}

/* Where a block keeps its scales. */
static void scales_put(dtype type, uint8_t *block, draw how, uint64_t *seed) {
    const float f = scale_draw(how, seed);
    switch (type) {
        case DTYPE_Q2_K: half_put(block + 80, f), half_put(block + 82, scale_draw(how, seed)); return;
        case DTYPE_Q3_K: half_put(block + 108, f); return;
        case DTYPE_Q6_K: half_put(block + 208, f); return;
        case DTYPE_TQ1_0: half_put(block + 52, f); return;
        case DTYPE_TQ2_0: half_put(block + 64, f); return;
        case DTYPE_IQ1_M: spread_put(block, f); return;
        case DTYPE_MXFP4: block[0] = (uint8_t)(how == DRAW_WILD ? test_random_below(seed, 160) : 120); return;
        case DTYPE_NVFP4: memset(block, 0x1c, 4); return;
        case DTYPE_Q4_1:
        case DTYPE_Q5_1:
        case DTYPE_Q4_K:
        case DTYPE_Q5_K: half_put(block + 2, scale_draw(how, seed)); /* fall through */
        default: half_put(block, f);
    }
}

static float plain_draw(draw how, uint64_t *seed) {
    const float f = test_random_float(seed);
    if (how == DRAW_HIGH) return 1;
    if (how == DRAW_LOW) return -1;
    if (how == DRAW_WILD) return ldexpf(f, (int)test_random_below(seed, 180) - 150); /* into the subnormals */
    return f;
}

/* n rows of k in the file's layout; the caller ends them with base_free(). */
static uint8_t *rows_draw(dtype type, uint32_t n, uint32_t k, draw how, uint64_t *seed) {
    const dtype_info *info = dtype_find((uint32_t)type);
    const size_t bytes = n * dtype_row_bytes(type, k);
    uint8_t *rows = base_alloc_aligned(bytes);
    for (size_t i = 0; i < bytes; i += info->block_bytes) {
        uint8_t *b = rows + i;
        if (info->quantized) {
            for (uint32_t j = 0; j < info->block_bytes; j++)
                b[j] = (uint8_t)(how == DRAW_HIGH  ? type == DTYPE_Q8_0 ? 0x7f : 0xff
                                 : how == DRAW_LOW ? type == DTYPE_Q8_0 ? 0x80 : 0
                                                   : test_random_below(seed, 256));
            if (type == DTYPE_Q6_K && how != DRAW_RANDOM && how != DRAW_WILD) memset(b + 192, 0x80, 16);
            scales_put(type, b, how, seed);
            continue;
        }
        const float f = plain_draw(how, seed);
        const uint16_t h = type == DTYPE_F16 ? dtype_f32_to_f16(f) : dtype_f32_to_bf16(f);
        memcpy(b, type == DTYPE_F32 ? (const void *)&f : (const void *)&h, info->block_bytes);
    }
    return rows;
}

static void tokens_draw(float *x, uint32_t n_tokens, uint32_t k, draw how, uint64_t *seed) {
    for (uint32_t t = 0; t < n_tokens; t++)
        for (uint32_t i = 0; i < k; i++) {
            float f = plain_draw(how, seed);
            if (how == DRAW_WILD && i / 32 % 3 == t % 3) f = 0;                    /* whole groups of zeros */
            if (how == DRAW_WILD && i / 32 % 3 == (t + 1) % 3) f = ldexpf(f, -60); /* and around 2^-100 */
            if ((how == DRAW_HIGH || how == DRAW_LOW) && t % 3 == 1) f = -f;
            x[(size_t)t * k + i] = f;
        }
}

static cpu_weight weight_pack(const cpu_matmul_kernels *m, dtype type, compute c, uint32_t n, uint32_t k,
                              const uint8_t *rows, uint64_t *seed) {
    cpu_weight w = {.type = type, .compute = c, .n = n, .k = k, .n_tiles = (n + CPU_TILE_ROWS - 1) / CPU_TILE_ROWS};
    w.tile_bytes = m->tile_bytes(type, c, k);
    w.data = base_alloc_aligned(w.n_tiles * w.tile_bytes);
    for (uint32_t end = n; end > 0;) { /* from the last row down, in uneven ranges */
        const uint32_t count = 1 + test_random_below(seed, end < 20 ? end : 20);
        end -= count;
        m->weight_pack(&w, end, count, rows + end * dtype_row_bytes(type, k));
    }
    return w;
}

/* y [n_tokens][stride] of all tiles, tokens converted in a scattered order, with and without splits of the tokens. */
static void product_all(const cpu_matmul_kernels *m, const cpu_weight *w, const float *x, uint32_t n_tokens, float *y,
                        size_t stride, uint64_t *seed) {
    cpu_act a = {.compute = w->compute, .k = w->k, .n_tokens = n_tokens};
    const size_t act_bytes = m->act_bytes(a.compute, a.k, n_tokens);
    a.data = base_alloc_aligned(act_bytes);
    memset(a.data, 0xa5, act_bytes);
    uint8_t *panel = n_tokens > CPU_FEW_TOKENS ? base_alloc_aligned(m->panel_bytes(w) + 64) : NULL;
    if (test_random_below(seed, 2)) m->act_pad(&a);
    for (uint32_t i = 0; i < n_tokens; i++) { /* i * 7 mod a count prime to 7 */
        const uint32_t t = n_tokens % 7 ? (uint32_t)((uint64_t)i * 7 % n_tokens) : n_tokens - 1 - i;
        CHECK(m->act_put(&a, t, x + (size_t)t * w->k));
    }
    m->act_pad(&a);
    for (uint32_t tile = 0; tile < w->n_tiles; tile++) {
        const bool two = m->product_two && tile + 1 < w->n_tiles && test_random_below(seed, 2);
        if (panel) m->panel(w, tile, panel);
        const uint32_t unit = panel ? m->panel_tokens : 1;
        for (uint32_t t = 0; t < n_tokens;) {
            uint32_t count = unit * (1 + test_random_below(seed, 12));
            if (count > n_tokens - t) count = n_tokens - t;
            float *at = y + (size_t)t * stride + (size_t)tile * CPU_TILE_ROWS;
            if (two)
                m->product_two((const cpu_weight *[]){w, w}, (uint32_t[]){tile, tile + 1}, &a, t, count,
                               (float *[]){at, at + CPU_TILE_ROWS}, stride);
            else
                m->product(w, tile, panel, &a, t, count, at, stride);
            t += count;
        }
        tile += two;
    }
    base_free(panel);
    base_free(a.data);
}

static bool same(float a, float b) { return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b)); }

typedef struct {
    dtype type;
    compute compute;
    uint32_t n, k;
    draw how;
} matmul_case;

static const char *const compute_names[] = {"auto", "q8", "q12", "bf16", "f32"};

/* Compares one set with what the reference wants of the rows and tokens x, for the given token counts. */
static void set_check(const cpu_kernels *set, const matmul_case *c, const uint8_t *rows, const float *x,
                      const float *want, size_t stride, const uint32_t *counts, uint32_t n_counts, uint64_t seed) {
    /* Tiles flush subnormals whatever the mode says; the other sets give the reference's bits in every mode. */
    if (!flushing && c->how == DRAW_WILD && c->compute == COMPUTE_BF16 && strcmp(set->isa, "amx") == 0) return;
    const cpu_matmul_kernels *m = cpu_kernels_matmul(set, c->compute);
    cpu_weight w = weight_pack(m, c->type, c->compute, c->n, c->k, rows, &seed);
    for (uint32_t i = 0; i < n_counts; i++) {
        float *got = base_alloc_aligned(counts[i] * stride * sizeof *got);
        memset(got, 0xa5, counts[i] * stride * sizeof *got);
        product_all(m, &w, x, counts[i], got, stride, &seed);
        uint32_t bad = 0;
        for (size_t j = 0; j < counts[i] * stride; j++) bad += !same(want[j], got[j]);
        CHECKF(bad == 0, "%s: %s %s n %u k %u draw %d tokens %u: %u of %zu outputs differ", set->isa,
               dtype_find(c->type)->name, compute_names[c->compute], c->n, c->k, (int)c->how, counts[i], bad,
               counts[i] * stride);
        for (uint32_t t = 0; t < counts[i]; t++)
            for (uint32_t r = c->n; r < w.n_tiles * CPU_TILE_ROWS; r++) CHECK(got[t * stride + r] == 0);
        base_free(got);
    }
    base_free(w.data);
}

/* Compares all sets with the reference. */
static void case_check(const matmul_case *c, const uint32_t *counts, uint32_t n_counts, uint64_t seed) {
    uint32_t most = 0;
    for (uint32_t i = 0; i < n_counts; i++) most = counts[i] > most ? counts[i] : most;
    uint8_t *rows = rows_draw(c->type, c->n, c->k, c->how, &seed);
    cpu_weight ref = weight_pack(&cpu_ref_matmul, c->type, c->compute, c->n, c->k, rows, &seed);
    const size_t stride = (size_t)ref.n_tiles * CPU_TILE_ROWS + GUARD, y_bytes = most * stride * sizeof(float);
    float *x = base_alloc_aligned((size_t)most * c->k * sizeof *x), *want = base_alloc_aligned(y_bytes);
    tokens_draw(x, most, c->k, c->how, &seed);
    memset(want, 0xa5, y_bytes);
    product_all(&cpu_ref_matmul, &ref, x, most, want, stride, &seed);
    for (uint32_t i = 0; set_get(i + 1); i++) set_check(set_get(i), c, rows, x, want, stride, counts, n_counts, seed);
    base_free(x);
    base_free(want);
    base_free(rows);
    base_free(ref.data);
}

static bool has_pair(dtype type, compute c) {
    return c == COMPUTE_Q12 ? type == DTYPE_Q8_0 : c != COMPUTE_Q8 || dtype_find(type)->group;
}

static void all_counts(matmul_case c, uint64_t seed) {
    uint32_t counts[22];
    for (uint32_t i = 0; i < 20; i++) counts[i] = i + 1;
    counts[20] = 64;
    counts[21] = TOKENS_MAX;
    case_check(&c, counts, 22, seed);
}

/* Widths that suit the type: block types in whole blocks, plain ones uneven too. */
static uint32_t widths(dtype type, uint32_t k[10]) {
    static const uint32_t by_32[] = {32, 64, 96, 256, 576, 640, 2048}, by_256[] = {256, 512, 2048},
                          by_128[] = {128, 384, 640};
    static const uint32_t any[] = {1, 7, 31, 33, 63, 96, 257, 300, 576};
    const dtype_info *info = dtype_find(type);
    const uint32_t e = info->block_elems, *from = e == 1 ? any : e == 256 ? by_256 : e == 32 ? by_32 : by_128;
    const uint32_t n = e == 1 ? 9 : e == 32 ? 7 : 3;
    memcpy(k, from, n * sizeof *k);
    return n;
}

static void widths_check(compute c, bool flush) {
    mode_set(flush);
    for (uint32_t i = 0; i < N_TYPES; i++) {
        uint32_t k[10];
        const uint32_t n_widths = has_pair(types[i], c) ? widths(types[i], k) : 0;
        for (uint32_t j = 0; j < n_widths; j++)
            all_counts((matmul_case){types[i], c, 5 + 7 * j % 30, k[j], flush && j % 3 == 1 ? DRAW_WILD : DRAW_RANDOM},
                       i * 1000 + j);
    }
    mode_set(false);
}

TEST(q8_widths_and_token_counts) { widths_check(COMPUTE_Q8, true); }
TEST(q12_widths_and_token_counts) { widths_check(COMPUTE_Q12, true); }
TEST(bf16_widths_and_token_counts) { widths_check(COMPUTE_BF16, true); }
TEST(f32_widths_and_token_counts) { widths_check(COMPUTE_F32, true); }
TEST(default_float_mode) {
    const uint32_t counts[] = {1, 3, 7, 12};
    for (uint32_t i = 0; i < N_TYPES; i++)
        for (uint32_t c = 0; c < 4; c++)
            for (draw how = DRAW_RANDOM; has_pair(types[i], computes[c]) && how <= DRAW_WILD; how++)
                case_check(&(matmul_case){types[i], computes[c], 21, 512, how}, counts, 4, i * 10 + c);
}

TEST(every_row_count) {
    mode_set(true);
    const uint32_t counts[] = {2, 9};
    for (uint32_t n = 1; n <= 40; n++)
        for (uint32_t i = 0; i < N_TYPES; i++)
            for (uint32_t c = 0; c < 4; c++)
                if (has_pair(types[i], computes[c]))
                    case_check(&(matmul_case){types[i], computes[c], n, 256, DRAW_RANDOM}, counts, 2, n);
    mode_set(false);
}

/* All codes at an end of their range against activations of +-127: the 16-bit lanes at their limits. */
TEST(extreme_codes) {
    mode_set(true);
    for (uint32_t i = 0; i < N_TYPES; i++)
        for (uint32_t c = 0; c < 4; c++)
            for (draw how = DRAW_HIGH; has_pair(types[i], computes[c]) && how <= DRAW_WILD; how++)
                all_counts((matmul_case){types[i], computes[c], 19, 768, how}, 77 + how);
    mode_set(false);
}

static void not_finite_check(const cpu_matmul_kernels *m) {
    enum { K = 96, TOKENS = 7 };
    uint64_t seed = 5;
    uint8_t *rows = rows_draw(DTYPE_Q4_1, 16, K, DRAW_RANDOM, &seed);
    cpu_weight w = weight_pack(m, DTYPE_Q4_1, COMPUTE_Q8, 16, K, rows, &seed);
    cpu_act a = {.compute = COMPUTE_Q8, .k = K, .n_tokens = TOKENS};
    a.data = base_alloc_aligned(m->act_bytes(COMPUTE_Q8, K, TOKENS));
    float x[K], y[TOKENS * 16];
    for (uint32_t t = 0; t < TOKENS; t++) {
        for (int i = 0; i < K; i++) x[i] = test_random_float(&seed);
        if (t == 3) x[40] = INFINITY;
        if (t == 4) x[95] = NAN;
        if (t == 5) x[0] = -INFINITY;
        CHECK(m->act_put(&a, t, x) == (t < 3 || t > 5));
    }
    m->act_pad(&a);
    uint8_t *panel = base_alloc_aligned(m->panel_bytes(&w) + 64);
    m->panel(&w, 0, panel);
    m->product(&w, 0, panel, &a, 0, TOKENS, y, 16);
    for (uint32_t t = 0; t < TOKENS; t++)
        for (uint32_t r = 0; r < 16; r++) CHECK(isfinite(y[t * 16 + r]) && (y[t * 16 + r] == 0) == (t >= 3 && t <= 5));
    base_free(panel);
    base_free(a.data);
    base_free(w.data);
    base_free(rows);
}

TEST(not_finite_inputs_are_refused_and_zero) {
    for (uint32_t i = 0; set_get(i); i++) not_finite_check(set_get(i)->integer);
}

/* In bf16 and f32 infinities and NaN go through; a weight may be NaN too. */
TEST(not_finite_floats_go_through) {
    enum { K = 40 };
    static const uint32_t specials[] = {0x7f800000, 0xff800000, 0x7fc00000, 0x7f800001,
                                        0x7f7fffff, 0x00000001, 0x807fffff};
    float rows[16 * K], x[K];
    uint64_t seed = 9;
    for (uint32_t i = 0; i < 16 * K; i++) rows[i] = test_random_float(&seed);
    for (uint32_t r = 0; r < 7; r++) memcpy(&rows[r * K + 3 * r], &specials[r], 4);
    for (uint32_t s = 0; s < 7; s++) {
        for (uint32_t i = 0; i < K; i++) x[i] = test_random_float(&seed);
        memcpy(&x[5 * s], &specials[s], 4);
        for (uint32_t c = 1; c < 3; c++) {
            float y[8][16];
            uint32_t n = 0; /* sets; the last is the reference */
            for (; n < 8 && set_get(n); n++) {
                const cpu_matmul_kernels *m = set_get(n)->plain;
                cpu_weight w = weight_pack(m, DTYPE_F32, computes[c], 16, K, (const uint8_t *)rows, &seed);
                product_all(m, &w, x, 1, y[n], 16, &seed);
                base_free(w.data);
            }
            for (uint32_t i = 0; i + 1 < n; i++)
                for (uint32_t r = 0; r < 16; r++) CHECK(same(y[i][r], y[n - 1][r]));
        }
    }
}

/* NVFP4 by hand: activations that are their own codes (the largest of each group is 127, so dx = 1), and halves with scales
 * 1, 2, 0.5 and 1.125: every sum is exact. */
TEST(nvfp4_by_hand) {
    static const float e2m1[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    static const float scales[4] = {1, 2, 0.5f, 1.125f};
    const uint8_t bytes[4] = {0x38, 0x40, 0x30, 0x39};
    uint8_t rows[16 * 36];
    float x[64], y[16], w[64];
    uint64_t seed = 7;
    for (uint32_t r = 0; r < 16; r++) {
        memcpy(rows + 36 * r, bytes, 4);
        for (uint32_t i = 4; i < 36; i++) rows[36 * r + i] = (uint8_t)test_random_below(&seed, 256);
    }
    for (uint32_t i = 0; i < 64; i++) x[i] = i % 32 == 5 ? 127 : (float)test_random_below(&seed, 255) - 127;
    cpu_weight p = weight_pack(&cpu_ref_matmul, DTYPE_NVFP4, COMPUTE_Q8, 16, 64, rows, &seed);
    product_all(&cpu_ref_matmul, &p, x, 1, y, 16, &seed);
    for (uint32_t r = 0; r < 16; r++) {
        double sum = 0;
        for (uint32_t i = 0; i < 64; i++) { /* eight bytes hold 16 elements: low nibbles first, then high ones */
            uint8_t byte = rows[36 * r + 4 + i / 16 * 8 + i % 8];
            w[i] = scales[i / 16] * e2m1[i % 16 < 8 ? byte & 15 : byte >> 4];
            sum += (double)w[i] * (double)x[i];
        }
        CHECKF((double)y[r] == sum, "row %u: %.9g, wanted %.9g", r, (double)y[r], sum);
    }
    base_free(p.data);
}

/* The tests above compare what this machine has; these say what it lacks. */
TEST(avx2_was_compared) {
    if (!has_set("avx2")) SKIP("this CPU lacks AVX2, FMA or F16C");
}
TEST(avx512vnni_was_compared) {
    if (!has_set("avx512vnni")) SKIP("this CPU lacks AVX-512 VNNI");
}
TEST(amx_was_compared) {
    if (!has_set("amx")) SKIP("this CPU lacks AMX, or the system does not allow it");
}

/* A set is only offered where all behind it run: weights it has no form for go to those. */
TEST(sets_imply_those_behind_them) {
    uint32_t n;
    const cpu_kernels *const *all = cpu_kernels_all(&n);
    for (uint32_t i = 0; i + 1 < n; i++) CHECKF(!all[i]->supported() || all[i + 1]->supported(), "%s", all[i]->isa);
    CHECK(n > 0 && all[n - 1]->integer == &cpu_ref_matmul);
}

#if defined(__x86_64__)
/* Bits of XCR0 whose registers are not in their first state. */
static unsigned states_in_use(void) {
    unsigned low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
    return low;
}

/* Tiles left configured would cost every later task switch 8 KiB. */
TEST(amx_gives_tiles_back) {
    enum { TILES = 1 << 17 | 1 << 18, K = 512, TOKENS = 40 };
    if (!has_set("amx")) SKIP("this CPU lacks AMX, or the system does not allow it");
    static float x[TOKENS * K], y[TOKENS * 16];
    static const dtype some[] = {DTYPE_Q4_1, DTYPE_Q6_K, DTYPE_Q8_0};
    uint64_t seed = 3;
    for (uint32_t i = 0; i < 3; i++) {
        uint8_t *rows = rows_draw(some[i], 16, K, DRAW_RANDOM, &seed);
        cpu_weight w = weight_pack(&cpu_amx_integer, some[i], COMPUTE_Q8, 16, K, rows, &seed);
        product_all(&cpu_amx_integer, &w, x, TOKENS, y, 16, &seed);
        CHECK((states_in_use() & TILES) == 0);
        base_free(w.data);
        base_free(rows);
    }
}
#endif

TEST(pairs_without_a_packed_form) {
    for (uint32_t s = 0; set_get(s); s++) {
        const cpu_matmul_kernels *m = set_get(s)->integer, *plain = set_get(s)->plain;
        CHECK(m->tile_bytes(DTYPE_F32, COMPUTE_Q8, 64) == 0);
        CHECK(m->tile_bytes(DTYPE_F16, COMPUTE_Q8, 64) == 0);
        CHECK(m->tile_bytes(DTYPE_BF16, COMPUTE_Q8, 64) == 0);
        CHECK(m->tile_bytes(DTYPE_NVFP4, COMPUTE_Q8, 64) == 0 || m == &cpu_ref_matmul);
        CHECK(m->tile_bytes(DTYPE_Q2_K, COMPUTE_Q12, 256) == 0 || m == &cpu_ref_matmul);
        CHECK(m->tile_bytes(DTYPE_Q4_0, COMPUTE_AUTO, 64) == 0);
        CHECK(m->tile_bytes(DTYPE_Q4_0, COMPUTE_Q8, 33) == 0);
        CHECK(m->tile_bytes(DTYPE_Q6_K, COMPUTE_Q8, 128) == 0);
        CHECK(m->tile_bytes(DTYPE_Q5_0, COMPUTE_Q8, 64) == 16 * 44);
        CHECK(plain->tile_bytes(DTYPE_Q5_0, COMPUTE_F32, 33) == 0);
        CHECK(plain->tile_bytes(DTYPE_F32, COMPUTE_F32, 33) > 0);
    }
}

/* The rule of the q8 profile for one output, from decoded weights in double: what the fp32 sum may differ by is
 * bounded by one rounding of each of the at most 3 operations a group (scale product, fma, minimum) plus that of
 * a decoded weight. */
static double q8_exact(const float *w, const float *x, uint32_t k, double *bound) {
    double sum = 0, magnitude = 0;
    for (uint32_t g = 0; g < k; g += 32) {
        float a = 0;
        for (uint32_t i = 0; i < 32; i++) a = fmaxf(a, fabsf(x[g + i]));
        for (uint32_t i = 0; i < 32 && a > 0; i++) {
            const double q = nearbyint((double)(x[g + i] * (127.0f / a))),
                         v = (double)w[g + i] * q * (double)(a / 127.0f);
            sum += v;
            magnitude += fabs(v);
        }
    }
    /* A minimum cancels against the codes: partial sums are at most a few times the terms' size. */
    *bound = 8 * (3.0 * k / 32 + 2) * 0x1p-24 * (magnitude + 1e-30);
    return sum;
}

TEST(reference_q8_is_the_product_of_decoded_weights) {
    enum { N = 16, K = 1024, TOKENS = 3 };
    for (uint32_t i = 0; i < N_TYPES; i++) {
        if (!has_pair(types[i], COMPUTE_Q8)) continue;
        uint64_t seed = 100 + i;
        uint8_t *rows = rows_draw(types[i], N, K, DRAW_RANDOM, &seed);
        cpu_weight w = weight_pack(&cpu_ref_matmul, types[i], COMPUTE_Q8, N, K, rows, &seed);
        static float x[TOKENS * K], d[K], y[TOKENS * N];
        tokens_draw(x, TOKENS, K, DRAW_RANDOM, &seed);
        product_all(&cpu_ref_matmul, &w, x, TOKENS, y, N, &seed);
        double error = 0, size = 0;
        for (uint32_t r = 0; r < N; r++) {
            dtype_find(types[i])->decode(rows + r * dtype_row_bytes(types[i], K), d, K);
            for (uint32_t t = 0; t < TOKENS; t++) {
                double bound, exact = 0, norm = 0;
                const double want = q8_exact(d, x + t * K, K, &bound), got = (double)y[t * N + r];
                CHECKF(fabs(got - want) <= bound, "%s row %u: %.9g, rule %.9g +- %.3g", dtype_find(types[i])->name, r,
                       got, want, bound);
                for (uint32_t j = 0; j < K; j++) {
                    const double v = (double)d[j] * (double)x[t * K + j];
                    exact += v;
                    norm += v * v;
                }
                error += (got - exact) * (got - exact);
                size += norm;
            }
        }
        /* Steps of 2 a / 254, uniform errors: step / sqrt(12) against x of about a / sqrt(3): 0.4 %. */
        CHECKF(sqrt(error / size) < 0.01, "%s: relative error %.4f", dtype_find(types[i])->name, sqrt(error / size));
        base_free(w.data);
        base_free(rows);
    }
}

/* The order of operations, written out for a format with a minimum. */
TEST(reference_q8_order) {
    enum { K = 160 };
    uint64_t seed = 31;
    uint8_t *rows = rows_draw(DTYPE_Q4_1, 16, K, DRAW_RANDOM, &seed);
    cpu_weight w = weight_pack(&cpu_ref_matmul, DTYPE_Q4_1, COMPUTE_Q8, 16, K, rows, &seed);
    float x[K], y[16];
    tokens_draw(x, 1, K, DRAW_RANDOM, &seed);
    product_all(&cpu_ref_matmul, &w, x, 1, y, 16, &seed);
    for (uint32_t r = 0; r < 16; r++) {
        float acc = 0;
        for (uint32_t g = 0; g < K / 32; g++) {
            const uint8_t *b = rows + r * dtype_row_bytes(DTYPE_Q4_1, K) + 20 * g;
            float a = 0;
            for (uint32_t i = 0; i < 32; i++) a = fmaxf(a, fabsf(x[32 * g + i]));
            int isum = 0, msum = 0;
            for (uint32_t i = 0; i < 32; i++) {
                const int q = (int)lrintf(x[32 * g + i] * (127.0f / a));
                isum += q * (b[4 + i % 16] >> (i / 16 * 4) & 15);
                msum += q;
            }
            const float scale = dtype_f16_to_f32((uint16_t)(b[0] | b[1] << 8)) * (a / 127.0f);
            const float min = dtype_f16_to_f32((uint16_t)(b[2] | b[3] << 8)) * (a / 127.0f);
            acc = fmaf((float)msum, min, fmaf((float)isum, scale, acc));
        }
        CHECK(same(acc, y[r]));
    }
    base_free(w.data);
    base_free(rows);
}

/* bf16 and f32 by their rules, on plain weights of an uneven width. */
TEST(reference_float_order) {
    enum { K = 75, PADDED = 96 };
    uint64_t seed = 32;
    float rows[16 * K], x[K], y[2][16];
    for (uint32_t i = 0; i < 16 * K; i++) rows[i] = test_random_float(&seed);
    tokens_draw(x, 1, K, DRAW_RANDOM, &seed);
    for (uint32_t c = 0; c < 2; c++) {
        cpu_weight w = weight_pack(&cpu_ref_matmul, DTYPE_F32, computes[c + 1], 16, K, (const uint8_t *)rows, &seed);
        product_all(&cpu_ref_matmul, &w, x, 1, y[c], 16, &seed);
        base_free(w.data);
    }
    for (uint32_t r = 0; r < 16; r++) {
        float a[PADDED] = {0}, b[PADDED] = {0}, blocks = 0, chain = 0;
        for (uint32_t i = 0; i < K; i++) {
            a[i] = dtype_bf16_to_f32(dtype_f32_to_bf16(x[i]));
            b[i] = dtype_bf16_to_f32(dtype_f32_to_bf16(rows[r * K + i]));
            chain = fmaf(x[i], rows[r * K + i], chain);
        }
        for (uint32_t i = 0; i < PADDED; i += 32) {
            float pair[2] = {0, 0};
            for (uint32_t j = 0; j < 32; j++) pair[j % 2] = fmaf(a[i + j], b[i + j], pair[j % 2]);
            blocks = blocks + (pair[0] + pair[1]);
        }
        CHECK(same(y[0][r], blocks));
        CHECK(same(y[1][r], chain));
    }
}
