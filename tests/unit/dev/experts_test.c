/* Products with stacks of matrices, routing, and the masks of attention, each against plain loops written here.
 *
 * A graph of one op runs on every set with several threads and token counts; what comes out as logits is compared bit
 * for bit where the loops do the same operations, within a bound where they compute in double. */
#include "base/mem.h"
#include "dev/cpu/cpu.h"
#include "dev/cpu/cpu_int.h"
#include "test.h"
#include "unit/engine/tiny.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { TOKENS_MAX = 61, WEIGHTS_MAX = 12 };

/* A graph with its weights' bytes; x [TOKENS_MAX, k] are the rows of the embedding, token t is row t. */
typedef struct {
    graph *g;
    uint8_t *data[WEIGHTS_MAX];
    uint32_t n_tokens;
    graph_value x;
    uint64_t seed;
} bench;

static size_t weight_bytes(const graph_weight *w) {
    return (size_t)(w->n_stack ? w->n_stack : 1) * w->n * dtype_row_bytes(w->type, w->k);
}

static uint32_t add(bench *b, const char *name, dtype type, compute c, uint32_t n_stack, uint32_t n, uint32_t k,
                    unsigned use) {
    uint32_t i = graph_add_weight(
        b->g,
        &(graph_weight){.name = name, .type = type, .compute = c, .n = n, .k = k, .n_stack = n_stack, .uses = use});
    const size_t block = dtype_find(type)->block_bytes, bytes = weight_bytes(&b->g->weights[i]);
    b->data[i] = malloc(bytes);
    if (!b->data[i]) abort();
    for (size_t at = 0; at < bytes; at += block) tiny_block(type, b->data[i] + at, &b->seed);
    return i;
}

static const float *floats(const bench *b, uint32_t weight) { return (const float *)(const void *)b->data[weight]; }

static void open_bench(bench *b, uint32_t k, uint64_t seed) {
    *b = (bench){.seed = seed};
    CHECK(graph_open(&b->g, 40, WEIGHTS_MAX, NULL) == FL_OK);
    b->x = graph_embed(b->g, add(b, "x", DTYPE_F32, COMPUTE_F32, 0, TOKENS_MAX, k, GRAPH_USE_EMBED), "x");
}

static void close_bench(bench *b) {
    for (uint32_t i = 0; i < b->g->n_weights; i++) free(b->data[i]);
    graph_close(b->g);
}

/* One step of `n` tokens of one sequence at positions from `first`; y [n, cols of the graph's logits]. */
static void run_step(const dev_vtable *vt, dev *d, dev_program *p, uint32_t first, uint32_t n, float *y) {
    static uint32_t token[TOKENS_MAX], position[TOKENS_MAX], token_seq[TOKENS_MAX], row_token[TOKENS_MAX];
    static sample_params draw[TOKENS_MAX];
    static sample_result rows[TOKENS_MAX];
    static const uint32_t page[] = {1, 3, 0, 2};
    const uint32_t *tables[1] = {page}, begin[2] = {0, n};
    for (uint32_t i = 0; i < n; i++) {
        token[i] = position[i] = first + i;
        row_token[i] = i;
        draw[i] = (sample_params){.top_p = 1, .repetition_penalty = 1, .target = SAMPLE_NO_TARGET};
    }
    step_tables t = {n, 1, n, token, position, token_seq, begin, row_token, {tables, tables}, draw};
    uint8_t bad[1];
    step_outputs out = {rows, bad, y};
    dev_ticket ticket;
    CHECK(vt->run(d, p, &t, &out, &ticket, NULL) == FL_OK && vt->wait(d, ticket, NULL) == FL_OK);
}

/* The value `out` for n tokens, in steps of `step` tokens. */
static void run(const bench *b, const dev_options *o, uint32_t n, uint32_t step, float *y) {
    const dev_vtable *vt = &dev_cpu;
    dev *d;
    dev_weight *w[WEIGHTS_MAX];
    dev_span kv[GRAPH_GROUPS_MAX];
    graph_plan *plan;
    dev_program *p;
    fl_err err;
    CHECK(vt->open(&d, o, &err) == FL_OK);
    for (uint32_t i = 0; i < b->g->n_weights; i++) {
        const graph_weight *g = &b->g->weights[i];
        dev_weight_desc desc = {g->name, g->type, g->compute, g->uses, g->n, g->k, g->n_stack, g->k, 0};
        CHECKF(vt->weight_open(d, &desc, &w[i], &err) == FL_OK, "%s", err.msg);
        CHECK(vt->weight_adopt(d, w[i], b->data[i], &err) == FL_OK);
    }
    for (uint32_t i = 0; i < b->g->n_kv; i++)
        CHECK(vt->alloc(d, 4 * vt->kv_page_bytes(d, &b->g->kv[i]), &kv[i], &err) == FL_OK);
    CHECK(graph_plan_open(&plan, b->g, (graph_ranges){TOKENS_MAX, 1, TOKENS_MAX}, 2, &err) == FL_OK);
    CHECKF(vt->compile(d, plan, w, kv, &p, &err) == FL_OK, "%s", err.msg);
    for (uint32_t t = 0; t < n; t += step) run_step(vt, d, p, t, n - t < step ? n - t : step, y + t * b->g->n_vocab);
    vt->program_close(d, p);
    graph_plan_close(plan);
    for (uint32_t i = 0; i < b->g->n_kv; i++) vt->release(d, kv[i]);
    for (uint32_t i = 0; i < b->g->n_weights; i++) vt->weight_close(d, w[i]);
    vt->close(d);
}

/* Makes `v` what a run gives out. */
static void finish(bench *b, graph_value v) {
    fl_err err;
    graph_sample(b->g, graph_rows_wanted(b->g, v, "rows"), "sample");
    CHECKF(graph_failed(b->g, &err) == FL_OK, "%s", err.msg);
}

/* Runs on every set, with one and three threads, at once and in smaller steps: all must give want [n, cols]. */
static void check_runs(const bench *b, uint32_t n, const float *want, const char *what) {
    static const uint32_t steps[] = {TOKENS_MAX, 1, 17};
    const size_t bytes = (size_t)n * b->g->n_vocab * sizeof *want;
    uint32_t n_sets;
    const cpu_kernels *const *sets = cpu_kernels_all(&n_sets);
    float *got = malloc(bytes);
    if (!got) abort();
    for (uint32_t i = 0; i < n_sets; i++) {
        if (!sets[i]->supported()) continue;
        for (uint32_t k = 0; k < 3; k++) {
            dev_options o = {.isa = sets[i]->isa, .n_threads = k == 1 ? 1 : 3, .kv_f32 = true};
            run(b, &o, n, steps[k], got);
            CHECKF(memcmp(want, got, bytes) == 0, "%s: other bits on %s, %u tokens in steps of %u", what, sets[i]->isa,
                   n, steps[k]);
        }
    }
    free(got);
}

/* ---- plain loops ---- */

/* y [n] = row x [k] times slice `slice` of a weight, by the reference's ordinary product. */
static void slice_product(const bench *b, uint32_t weight, uint32_t slice, const float *x, float *y) {
    const graph_weight *g = &b->g->weights[weight];
    const cpu_matmul_kernels *m = &cpu_ref_matmul;
    const uint32_t tiles = (g->n + CPU_TILE_ROWS - 1) / CPU_TILE_ROWS;
    cpu_weight w = {g->type, g->compute, g->n, g->k, tiles, m->tile_bytes(g->type, g->compute, g->k), NULL};
    w.data = calloc(tiles, w.tile_bytes);
    cpu_act a = {g->compute, g->k, 1, calloc(1, m->act_bytes(g->compute, g->k, 1) + 64)};
    if (!w.data || !a.data) abort();
    m->weight_pack(&w, 0, g->n, b->data[weight] + (size_t)slice * g->n * dtype_row_bytes(g->type, g->k));
    CHECK(m->act_put(&a, 0, x));
    for (uint32_t tile = 0; tile < tiles; tile++) {
        float out[CPU_TILE_ROWS];
        m->product(&w, tile, NULL, &a, 0, 1, out, CPU_TILE_ROWS);
        for (uint32_t i = 0; i < CPU_TILE_ROWS && tile * CPU_TILE_ROWS + i < g->n; i++)
            y[tile * CPU_TILE_ROWS + i] = out[i];
    }
    free(w.data);
    free(a.data);
}

/* The routes of one token: experts rising, then weights, in double; the margin of the choice by keys comes back. */
static double plain_routes(const graph_routing *r, const float *z, const float *bias, uint32_t *experts,
                           double *weights) {
    double score[64], key[64], margin = INFINITY, top = -INFINITY, sum = 0;
    bool open[64], chosen[64] = {false};
    const uint32_t n = r->n_experts;
    for (uint32_t i = 0; i < n; i++) top = fmax(top, (double)z[i]);
    for (uint32_t i = 0; i < n; i++) sum += exp((double)z[i] - top);
    for (uint32_t i = 0; i < n; i++) {
        score[i] = r->score == GRAPH_SCORE_SIGMOID   ? 1 / (1 + exp(-(double)z[i]))
                   : r->score == GRAPH_SCORE_SOFTMAX ? exp((double)z[i] - top) / sum
                                                     : (double)z[i];
        key[i] = bias ? score[i] + (double)bias[i] : score[i];
        open[i] = true;
    }
    if (r->n_groups > 1) {
        const uint32_t size = n / r->n_groups;
        double of_group[64];
        bool taken[64] = {false};
        for (uint32_t i = 0; i < r->n_groups; i++) {
            double a = -INFINITY, second = -INFINITY;
            for (uint32_t k = i * size; k < (i + 1) * size; k++) {
                second = fmax(second, fmin(a, key[k]));
                a = fmax(a, key[k]);
            }
            of_group[i] = r->group_by_two ? a + second : a;
        }
        memset(open, 0, sizeof open);
        for (uint32_t used = 0; used < r->n_groups_used; used++) {
            uint32_t best = 0;
            while (taken[best]) best++;
            for (uint32_t i = 0; i < r->n_groups; i++)
                if (!taken[i] && of_group[i] > of_group[best]) best = i;
            for (uint32_t i = 0; i < r->n_groups; i++)
                if (!taken[i] && i != best) margin = fmin(margin, fabs(of_group[best] - of_group[i]));
            taken[best] = true;
            for (uint32_t k = best * size; k < (best + 1) * size; k++) open[k] = true;
        }
    }
    for (uint32_t j = 0; j < r->top_k; j++) {
        uint32_t best = n;
        for (uint32_t i = 0; i < n; i++)
            if (open[i] && !chosen[i] && (best == n || key[i] > key[best])) best = i;
        for (uint32_t i = 0; i < n; i++)
            if (open[i] && !chosen[i] && i != best) margin = fmin(margin, fabs(key[best] - key[i]));
        chosen[best] = true;
    }
    uint32_t k = 0;
    for (uint32_t i = 0; i < n; i++)
        if (chosen[i]) experts[k] = i, weights[k++] = score[i];
    double total = 0;
    for (uint32_t j = 0; j < k && r->score == GRAPH_SCORE_CHOSEN; j++) weights[j] = exp(weights[j] - top);
    for (uint32_t j = 0; j < k; j++) total += weights[j];
    for (uint32_t j = 0; j < k; j++) {
        if (r->renormalise || r->score == GRAPH_SCORE_CHOSEN) weights[j] /= total;
        weights[j] *= (double)r->scale;
    }
    return margin;
}

/* ---- routing ---- */

/* All kinds of routing on random logits; a choice whose margin is below the rounding of scores is not compared. */
TEST(routes_are_the_formula) {
    uint64_t seed = 5;
    uint32_t compared = 0;
    for (int round = 0; round < 4000; round++) {
        graph_routing r = {.score = (graph_score)(round % 3),
                           .n_experts = 24,
                           .top_k = 1 + test_random_below(&seed, 6),
                           .n_groups = round / 3 % 2 ? 4 : 0,
                           .n_groups_used = 1 + test_random_below(&seed, 4),
                           .group_by_two = round / 6 % 2,
                           .renormalise = round / 12 % 2,
                           .scale = round / 24 % 2 ? 2.5f : 1.0f};
        float z[24], bias[24], y[12];
        uint32_t experts[6];
        double weights[6];
        for (int i = 0; i < 24; i++) z[i] = 4 * test_random_float(&seed), bias[i] = test_random_float(&seed);
        const float *with = round / 48 % 2 ? bias : NULL;
        double margin = plain_routes(&r, z, with, experts, weights);
        cpu_route_row(&r, &cpu_ref_row, z, with, y);
        if (margin < 1e-6) continue;
        compared++;
        for (uint32_t j = 0; j < r.top_k; j++) {
            CHECK((uint32_t)y[j] == experts[j]);
            /* exp, a sum of 24, two divisions and a product: less than 40 roundings of numbers of one sign. */
            CHECKF(fabs((double)y[r.top_k + j] - weights[j]) <= 40 * 0x1p-24 * fabs(weights[j]), "weight %g, not %g",
                   (double)y[r.top_k + j], weights[j]);
        }
    }
    CHECK(compared > 3900);
}

TEST(ties_go_to_the_lower_expert) {
    const float equal[8] = {1, 2, 2, 2, 0, 2, 2, -1};
    float y[8];
    graph_routing r = {.score = GRAPH_SCORE_SOFTMAX, .n_experts = 8, .top_k = 3, .renormalise = true, .scale = 1};
    cpu_route_row(&r, &cpu_ref_row, equal, NULL, y);
    CHECK(y[0] == 1 && y[1] == 2 && y[2] == 3 && y[3] == y[4] && y[4] == y[5]);
    r = (graph_routing){
        .score = GRAPH_SCORE_SIGMOID, .n_experts = 8, .top_k = 2, .n_groups = 4, .n_groups_used = 1, .scale = 1};
    cpu_route_row(&r, &cpu_ref_row, equal, NULL, y); /* groups 0, 1 and 2 have a 2 */
    CHECK(y[0] == 0 && y[1] == 1);
    r.group_by_two = true; /* groups 1 and 3: 2 + 2 against 2 - 1 */
    cpu_route_row(&r, &cpu_ref_row, equal, NULL, y);
    CHECK(y[0] == 2 && y[1] == 3);
}

/* Logits that are not numbers still choose experts that exist, and the weights say that something is wrong. */
TEST(routes_of_nan_are_routes) {
    float z[6] = {NAN, NAN, NAN, NAN, NAN, NAN}, y[4];
    for (int score = 0; score < 3; score++) {
        graph_routing r = {.score = (graph_score)score, .n_experts = 6, .top_k = 2, .scale = 1};
        cpu_route_row(&r, &cpu_ref_row, z, NULL, y);
        CHECK(y[0] == 0 && y[1] == 1 && isnan(y[2]) && isnan(y[3]));
        r.n_groups = 3, r.n_groups_used = 1;
        cpu_route_row(&r, &cpu_ref_row, z, NULL, y);
        CHECK(y[0] == 0 && y[1] == 1 && isnan(y[2]) && isnan(y[3]));
    }
}

/* ---- experts ---- */

enum { E = 7, K = 256, FF = 37, TOP = 3 };

static const struct {
    dtype type;
    compute c;
} kinds[] = {{DTYPE_F32, COMPUTE_F32},  {DTYPE_BF16, COMPUTE_BF16},  {DTYPE_Q4_0, COMPUTE_Q8}, {DTYPE_Q6_K, COMPUTE_Q8},
             {DTYPE_MXFP4, COMPUTE_Q8}, {DTYPE_MXFP4, COMPUTE_BF16}, {DTYPE_Q8_0, COMPUTE_F32}};

static const graph_routing softmax_top = {
    .score = GRAPH_SCORE_SOFTMAX, .n_experts = E, .top_k = TOP, .renormalise = true, .scale = 1};

/* The routes of token t, as cpu_route_row() has them, from logits by the f32 rule. */
static void routes_of(const bench *b, uint32_t router, uint32_t t, float *y) {
    float z[E];
    slice_product(b, router, 0, floats(b, 0) + (size_t)t * K, z);
    cpu_route_row(&softmax_top, &cpu_ref_row, z, NULL, y);
}

/* weight * product + bias, summed over the token's experts. */
static void plain_experts(const bench *b, uint32_t router, uint32_t stack, uint32_t bias, bool scaled, float *want) {
    for (uint32_t t = 0; t < TOKENS_MAX; t++) {
        float route[2 * TOP], x[K], y[FF] = {0};
        routes_of(b, router, t, route);
        for (uint32_t n = 0; n < FF; n++) want[t * FF + n] = 0;
        for (uint32_t j = 0; j < TOP; j++) {
            const uint32_t e = (uint32_t)route[j];
            const float w = route[TOP + j];
            for (uint32_t k = 0; k < K; k++) x[k] = floats(b, 0)[(size_t)t * K + k] * (scaled ? w : 1);
            slice_product(b, stack, e, x, y);
            for (uint32_t n = 0; n < FF; n++) {
                float v = y[n] + floats(b, bias)[e * FF + n];
                want[t * FF + n] = fmaf(scaled ? 1 : w, v, want[t * FF + n]);
            }
        }
    }
}

TEST(experts_are_products_with_their_slices) {
    static float want[TOKENS_MAX * FF];
    size_t bytes = base_mem_bytes();
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        bench b;
        open_bench(&b, K, i + 3);
        const bool scaled = i % 2;
        uint32_t router = add(&b, "router", DTYPE_F32, COMPUTE_F32, 0, E, K, GRAPH_USE_MATMUL);
        uint32_t stack = add(&b, "stack", kinds[i].type, kinds[i].c, E, FF, K, GRAPH_USE_MATMUL);
        uint32_t bias = add(&b, "bias", DTYPE_F32, COMPUTE_F32, 0, E, FF, GRAPH_USE_VECTOR);
        graph_value routes = graph_route(b.g, graph_matmul(b.g, b.x, router, "z"), &softmax_top, GRAPH_NONE, "routes");
        graph_value x = scaled ? graph_expert_scale(b.g, b.x, routes, "scaled") : b.x;
        graph_value y = graph_expert_bias(b.g, graph_expert_matmul(b.g, x, routes, stack, "y"), routes, bias, "biased");
        finish(&b, graph_expert_sum(b.g, y, routes, scaled, "sum"));
        plain_experts(&b, router, stack, bias, scaled, want);
        for (uint32_t n = TOKENS_MAX; n > 0; n /= 4) check_runs(&b, n, want, dtype_find(kinds[i].type)->name);
        close_bench(&b);
    }
    CHECK(base_mem_bytes() == bytes);
}

/* A slice holds what was written into its rows, in whatever pieces. */
TEST(stacks_are_written_in_pieces) {
    dev *d;
    dev_weight *w;
    uint64_t seed = 8;
    static uint8_t rows[5 * 70 * 18 * 2];
    for (size_t i = 0; i < sizeof rows; i += 18) tiny_block(DTYPE_Q4_0, rows + i, &seed);
    dev_weight_desc desc = {"w", DTYPE_Q4_0, COMPUTE_Q8, GRAPH_USE_MATMUL, 70, 64, 5, 64, 0};
    CHECK(dev_cpu.open(&d, &(dev_options){.n_threads = 2}, NULL) == FL_OK);
    CHECK(dev_cpu.weight_open(d, &desc, &w, NULL) == FL_OK);
    CHECK(dev_cpu.weight_write(d, w, 1, 5 * 70, rows, NULL) == FL_EINVAL);
    for (uint32_t row = 0, n; row < 5 * 70; row += n) {
        n = 1 + test_random_below(&seed, 100);
        n = n < 5 * 70 - row ? n : 5 * 70 - row;
        CHECK(dev_cpu.weight_write(d, w, row, n, rows + (size_t)row * 36, NULL) == FL_OK);
    }
    for (uint32_t slice = 0; slice < 5; slice++) {
        cpu_weight got = cpu_weight_slice(w, slice), want = got;
        want.data = base_alloc_aligned(want.n_tiles * want.tile_bytes);
        cpu_kernels_matmul(w->set, COMPUTE_Q8)->weight_pack(&want, 0, 70, rows + (size_t)slice * 70 * 36);
        CHECK(memcmp(got.data, want.data, want.n_tiles * want.tile_bytes) == 0);
        base_free(want.data);
    }
    dev_cpu.weight_close(d, w);
    dev_cpu.close(d);
}

TEST(heads_are_products_with_their_slices) {
    enum { HEADS = 5, IN = 32, REST = 6, OUT = 21, WIDTH = IN + REST };
    static float want[TOKENS_MAX * HEADS * (OUT + REST)];
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (dtype_find(kinds[i].type)->block_elems > IN) continue;
        bench b;
        open_bench(&b, HEADS * WIDTH, i + 20);
        uint32_t stack = add(&b, "stack", kinds[i].type, kinds[i].c, HEADS, OUT, IN, GRAPH_USE_MATMUL);
        finish(&b, graph_head_matmul(b.g, b.x, stack, WIDTH, "heads"));
        for (uint32_t t = 0; t < TOKENS_MAX; t++)
            for (uint32_t h = 0; h < HEADS; h++) {
                const float *x = floats(&b, 0) + ((size_t)t * HEADS + h) * WIDTH;
                float *y = want + ((size_t)t * HEADS + h) * (OUT + REST);
                slice_product(&b, stack, h, x, y);
                memcpy(y + OUT, x + IN, REST * sizeof *y);
            }
        for (uint32_t n = TOKENS_MAX; n > 0; n /= 4) check_runs(&b, n, want, dtype_find(kinds[i].type)->name);
        close_bench(&b);
    }
}

/* ---- attention ---- */

/* Plain attention in double: q, k, v rows of x, one head; key visible from first(t) on. */
static void plain_attention(const float *q, const float *k, const float *v, uint32_t t, uint32_t stride, uint32_t first,
                            uint32_t d_k, uint32_t d_v, double scale, const float *sink, double *out) {
    double s[TOKENS_MAX], top = sink ? (double)*sink : -INFINITY, sum = 0;
    for (uint32_t j = first; j <= t; j++) {
        s[j] = 0;
        for (uint32_t i = 0; i < d_k; i++) s[j] += (double)q[i] * (double)k[(size_t)j * stride + i];
        s[j] *= scale;
        top = fmax(top, s[j]);
    }
    for (uint32_t j = first; j <= t; j++) sum += exp(s[j] - top);
    if (sink) sum += exp((double)*sink - top);
    for (uint32_t i = 0; i < d_v; i++) {
        out[i] = 0;
        for (uint32_t j = first; j <= t; j++) out[i] += exp(s[j] - top) / sum * (double)v[(size_t)j * stride + i];
    }
}

/* Chunked and sliding masks with sinks: x is q, k and v at once, 2 query heads on 1 KV head. */
TEST(masks_and_sinks) {
    enum { D = 20 };
    static float got[TOKENS_MAX * 2 * D], again[TOKENS_MAX * 2 * D];
    for (int kind = 0; kind < 4; kind++) {
        bench b;
        open_bench(&b, D, 77);
        const graph_kv_group kv = {.window = kind ? 9 : 0, .chunked = kind >= 2, .n_kv_heads = 1, .d_k = D, .d_v = D};
        uint32_t twice = add(&b, "q", DTYPE_F32, COMPUTE_F32, 0, 2 * D, D, GRAPH_USE_MATMUL);
        uint32_t sinks = add(&b, "sinks", DTYPE_F32, COMPUTE_F32, 0, 1, 2, GRAPH_USE_VECTOR);
        for (uint32_t r = 0; r < 2 * D; r++) /* both query heads are x, the second one doubled */
            for (uint32_t c = 0; c < D; c++) {
                float one = r % D == c ? (r < D ? 1 : 2) : 0;
                memcpy(b.data[twice] + 4 * (r * D + c), &one, 4);
            }
        graph_value written = graph_kv_write(b.g, b.x, b.x, graph_add_kv_layer(b.g, &kv), "kv");
        graph_value o = graph_attention(b.g, graph_matmul(b.g, b.x, twice, "q"), written, 3.0f, 0, "attention");
        if (kind % 2) graph_attention_sinks(b.g, o, sinks);
        finish(&b, o);
        run(&b, &(dev_options){.n_threads = 2, .kv_f32 = true}, TOKENS_MAX, TOKENS_MAX, got);
        run(&b, &(dev_options){.n_threads = 3, .kv_f32 = true}, TOKENS_MAX, 7, again);
        CHECK(memcmp(got, again, sizeof got) == 0);
        for (uint32_t t = 0; t < TOKENS_MAX; t++)
            for (uint32_t h = 0; h < 2; h++) {
                const float *x = floats(&b, 0);
                double want[D];
                float q[D];
                uint32_t first = kind == 0 ? 0 : kind >= 2 ? t / 9 * 9 : t < 8 ? 0 : t - 8;
                for (uint32_t i = 0; i < D; i++) q[i] = x[(size_t)t * D + i] * (float)(h + 1);
                plain_attention(q, x, x, t, D, first, D, D, 3, kind % 2 ? floats(&b, sinks) + h : NULL, want);
                for (uint32_t i = 0; i < D; i++) /* values up to 0.2; scores off by at most 20 roundings of 4 */
                    CHECKF(fabs((double)got[((size_t)t * 2 + h) * D + i] - want[i]) < 2e-6,
                           "kind %d token %u: %g, not %g", kind, t, (double)got[((size_t)t * 2 + h) * D + i], want[i]);
            }
        close_bench(&b);
    }
}

/* MLA: one cache head whose V is the first columns of K, odd widths, a norm and a rotation of parts of the head. */
TEST(values_inside_keys) {
    enum { LATENT = 20, ROPE = 6, WIDTH = LATENT + ROPE };
    static const float freqs[ROPE / 2] = {1, 0.3f, 0.02f};
    static float got[TOKENS_MAX * LATENT], again[TOKENS_MAX * LATENT], k[TOKENS_MAX * WIDTH];
    bench b;
    open_bench(&b, WIDTH, 5);
    uint32_t norm = add(&b, "norm", DTYPE_F32, COMPUTE_F32, 0, 1, LATENT, GRAPH_USE_VECTOR);
    uint32_t rope = graph_add_rope(b.g, &(graph_rope){.d = ROPE, .scale = 1, .inv_freq = freqs, .first = LATENT});
    graph_value key = graph_rmsnorm_first(b.g, b.x, norm, WIDTH, 1e-3f, "norm");
    key = graph_rope_heads(b.g, key, rope, WIDTH, "rope");
    const graph_kv_group kv = {.n_kv_heads = 1, .d_k = WIDTH, .d_v = LATENT, .v_in_k = true};
    graph_value written = graph_kv_write(b.g, key, key, graph_add_kv_layer(b.g, &kv), "kv");
    finish(&b, graph_attention(b.g, b.x, written, 2.0f, 0, "attention"));
    run(&b, &(dev_options){.n_threads = 3, .kv_f32 = true}, TOKENS_MAX, TOKENS_MAX, got);
    run(&b, &(dev_options){.isa = "scalar", .n_threads = 1, .kv_f32 = true}, TOKENS_MAX, 1, again);
    CHECK(memcmp(got, again, sizeof got) == 0);
    for (uint32_t t = 0; t < TOKENS_MAX; t++) {
        const float *x = floats(&b, 0) + (size_t)t * WIDTH;
        double ss = 0;
        for (uint32_t i = 0; i < LATENT; i++) ss += (double)x[i] * (double)x[i];
        for (uint32_t i = 0; i < LATENT; i++)
            k[t * WIDTH + i] = (float)((double)x[i] / sqrt(ss / LATENT + 1e-3) * (double)floats(&b, norm)[i]);
        for (uint32_t i = 0; i < ROPE / 2; i++) {
            double c = cos((double)((float)t * freqs[i])), s = sin((double)((float)t * freqs[i]));
            double even = (double)x[LATENT + 2 * i], odd = (double)x[LATENT + 2 * i + 1];
            k[t * WIDTH + LATENT + 2 * i] = (float)(even * c - odd * s);
            k[t * WIDTH + LATENT + 2 * i + 1] = (float)(odd * c + even * s);
        }
        double want[LATENT];
        plain_attention(x, k, k, t, WIDTH, 0, WIDTH, LATENT, 2, NULL, want);
        for (uint32_t i = 0; i < LATENT; i++)
            CHECKF(fabs((double)got[t * LATENT + i] - want[i]) < 2e-6, "token %u: %g, not %g", t,
                   (double)got[t * LATENT + i], want[i]);
    }
    close_bench(&b);
}

/* ---- rows ---- */

TEST(scale_by_position_and_gates) {
    enum { D = 19 };
    static float got[TOKENS_MAX * D];
    bench b;
    open_bench(&b, D, 6);
    uint32_t one = add(&b, "one", DTYPE_F32, COMPUTE_F32, 0, 1, D, GRAPH_USE_MATMUL);
    graph_value x = graph_pos_scale(b.g, b.x, 0.1f, 1, 8, "pos");
    x = graph_gate(b.g, x, b.x, "gate");
    finish(&b, graph_gate(b.g, x, graph_matmul(b.g, b.x, one, "one"), "narrow"));
    run(&b, &(dev_options){.n_threads = 2}, TOKENS_MAX, 23, got);
    for (uint32_t t = 0; t < TOKENS_MAX; t++) {
        double narrow = 0;
        const float *row = floats(&b, 0) + (size_t)t * D;
        for (uint32_t i = 0; i < D; i++) narrow += (double)row[i] * (double)floats(&b, one)[i];
        for (uint32_t i = 0; i < D; i++) {
            double want = (double)row[i] * (1 + 0.1 * log1p((t + 1) / 8)); /* whole steps of 8 */
            want *= 1 / (1 + exp(-(double)row[i])) / (1 + exp(-narrow));
            CHECK(fabs((double)got[t * D + i] - want) <= 12 * 0x1p-24 * fabs(want) + 0x1p-40);
        }
    }
    close_bench(&b);
}
