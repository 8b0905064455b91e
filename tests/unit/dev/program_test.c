/* Programs of the CPU and the sim device from random graphs: fused or not, with any number of threads and on any
 * instruction set, the logits have the same bits; slices of weights compute the product of the sliced matrix. */
#include "base/mem.h"
#include "dev/cpu/cpu.h"
#include "dev/cpu/kernels.h"
#include "dev/sim/sim.h"
#include "test.h"
#include "unit/engine/tiny.h"
#include "unit/graph/random.h"

#include <stdlib.h>
#include <string.h>

enum { TOKENS = 23, SEQS = 3, ROWS = 4, VOCAB = 50, WEIGHTS_MAX = 800 };

static const uint32_t tokens_of[SEQS] = {12, 1, 10};

typedef struct {
    const dev_vtable *vt;
    dev_options options;
    int opt_level;
} setting;

typedef struct {
    const dev_vtable *vt;
    dev *d;
    graph_plan *plan;
    dev_weight *weights[WEIGHTS_MAX];
    dev_span kv[GRAPH_GROUPS_MAX];
    dev_program *program;
} loaded;

/* Weight i is the same for every device: its values come from its name and size. */
static float *weight_data(const graph_weight *w, uint32_t i) {
    uint64_t seed = i + 1;
    const size_t n = (size_t)(w->n_stack ? w->n_stack : 1) * w->n * w->k;
    float *data = malloc(n * sizeof *data);
    if (!data) abort();
    for (size_t k = 0; k < n; k++) data[k] = test_random_float(&seed) * 0.3f + (w->n == 1 ? 0.7f : 0);
    return data;
}

static void load(loaded *l, const graph *g, const setting *s, float **data) {
    fl_err err;
    memset(l, 0, sizeof *l);
    l->vt = s->vt;
    CHECK(s->vt->open(&l->d, &s->options, &err) == FL_OK);
    for (uint32_t i = 0; i < g->n_weights; i++) {
        const graph_weight *w = &g->weights[i];
        dev_weight_desc d = {.name = w->name,
                             .type = w->type,
                             .compute = w->compute,
                             .uses = w->uses,
                             .n = w->n,
                             .k = w->k,
                             .n_stack = w->n_stack,
                             .k_file = w->k};
        const uint32_t rows = w->n * (w->n_stack ? w->n_stack : 1);
        CHECK(l->vt->weight_open(l->d, &d, &l->weights[i], &err) == FL_OK);
        if (i % 2)
            CHECK(l->vt->weight_adopt(l->d, l->weights[i], data[i], &err) == FL_OK);
        else
            for (uint32_t row = 0; row < rows; row += 7) /* in pieces */
                CHECK(l->vt->weight_write(l->d, l->weights[i], row, rows - row < 7 ? rows - row : 7,
                                          data[i] + (size_t)row * w->k, &err) == FL_OK);
    }
    for (uint32_t i = 0; i < g->n_kv; i++)
        CHECK(l->vt->alloc(l->d, SEQS * l->vt->kv_page_bytes(l->d, &g->kv[i]), &l->kv[i], &err) == FL_OK);
    CHECK(graph_plan_open(&l->plan, g, (graph_ranges){TOKENS, SEQS, ROWS}, s->opt_level, &err) == FL_OK);
    fl_status st = l->vt->compile(l->d, l->plan, l->weights, l->kv, &l->program, &err);
    CHECKF(st == FL_OK, "%s", err.msg);
    if (st == FL_OK) graph_plan_check(l->plan);
}

static void unload(loaded *l, const graph *g) {
    l->vt->program_close(l->d, l->program);
    for (uint32_t i = 0; i < g->n_kv; i++) l->vt->release(l->d, l->kv[i]);
    for (uint32_t i = 0; i < g->n_weights; i++) l->vt->weight_close(l->d, l->weights[i]);
    graph_plan_close(l->plan);
    l->vt->close(l->d);
}

static const uint32_t row_token[ROWS] = {3, 11, 12, 22}, page[SEQS][1] = {{2}, {0}, {1}};

static void run_tables(loaded *l, const step_tables *t, float *logits) {
    sample_result rows[ROWS];
    uint8_t bad[SEQS];
    step_outputs out = {rows, bad, logits};
    dev_ticket ticket;
    CHECK(l->vt->run(l->d, l->program, t, &out, &ticket, NULL) == FL_OK);
    CHECK(l->vt->wait(l->d, ticket, NULL) == FL_OK);
}

/* The same as run_step(), a step for each token. */
static void run_tokens(loaded *l, const graph *g, float *logits) {
    static const uint32_t one[2] = {0, 1};
    const sample_params draw = {.top_p = 1, .repetition_penalty = 1, .target = SAMPLE_NO_TARGET};
    uint32_t n = 0, r = 0;
    for (uint32_t s = 0; s < SEQS; s++)
        for (uint32_t i = 0; i < tokens_of[s]; i++, n++) {
            const uint32_t token = (n * 7) % VOCAB, *tables[1] = {page[s]};
            step_tables t = {1, 1, 1, &token, &i, one, one, one, {NULL}, &draw};
            for (uint32_t k = 0; k < g->n_kv; k++) t.pages[k] = tables;
            run_tables(l, &t, logits + (size_t)r * g->n_vocab);
            r += r + 1 < ROWS && row_token[r] == n;
        }
}

/* One step of three sequences; logits [ROWS, VOCAB of the graph]. */
static void run_step(loaded *l, const graph *g, float *logits) {
    uint32_t token[TOKENS], position[TOKENS], token_seq[TOKENS], begin[SEQS + 1] = {0}, n = 0;
    const uint32_t *tables[SEQS] = {page[0], page[1], page[2]};
    for (uint32_t s = 0; s < SEQS; s++) {
        for (uint32_t i = 0; i < tokens_of[s]; i++, n++) {
            token[n] = (n * 7) % VOCAB;
            position[n] = i;
            token_seq[n] = s;
        }
        begin[s + 1] = n;
    }
    sample_params draw[ROWS];
    for (uint32_t r = 0; r < ROWS; r++)
        draw[r] = (sample_params){.top_p = 1, .repetition_penalty = 1, .target = SAMPLE_NO_TARGET};
    step_tables t = {.n_tokens = n,
                     .n_seqs = SEQS,
                     .n_rows = ROWS,
                     .token = token,
                     .position = position,
                     .token_seq = token_seq,
                     .seq_begin = begin,
                     .row_token = row_token,
                     .draw = draw};
    for (uint32_t i = 0; i < g->n_kv; i++) t.pages[i] = tables;
    run_tables(l, &t, logits);
}

static void run_setting(const graph *g, const setting *s, bool by_token, float **data, float *logits) {
    loaded l;
    load(&l, g, s, data);
    (by_token ? run_tokens : run_step)(&l, g, logits);
    unload(&l, g);
}

TEST(fusing_changes_no_bit) {
    size_t bytes = base_mem_bytes();
    uint32_t n_sets;
    const cpu_kernels *const *sets = cpu_kernels_all(&n_sets);
    for (uint64_t seed = 1; seed <= 100; seed++) {
        graph *g = random_graph(seed);
        CHECK(g->n_weights <= WEIGHTS_MAX && g->n_vocab <= VOCAB);
        float *data[WEIGHTS_MAX], want[ROWS * VOCAB], got[ROWS * VOCAB];
        for (uint32_t i = 0; i < g->n_weights; i++) data[i] = weight_data(&g->weights[i], i);
        setting s = {&dev_cpu, {.isa = "scalar", .n_threads = 1, .kv_f32 = seed % 2}, 0};
        run_setting(g, &s, false, data, want);
        for (int i = 0; i < 5; i++) {
            static const uint32_t threads[] = {1, 2, 3, 7, 3};
            const cpu_kernels *set = sets[(uint32_t)i % n_sets];
            s.vt = i == 3 ? &dev_sim : &dev_cpu;
            s.options.isa = set->supported() ? set->isa : "scalar";
            s.options.n_threads = threads[i];
            s.opt_level = i == 2 ? 0 : 2;
            run_setting(g, &s, i == 4, data, got);
            CHECKF(memcmp(want, got, ROWS * g->n_vocab * sizeof *got) == 0, "other bits: seed %llu, variant %d, %s",
                   (unsigned long long)seed, i, s.options.isa);
        }
        for (uint32_t i = 0; i < g->n_weights; i++) free(data[i]);
        graph_close(g);
    }
    CHECK(base_mem_bytes() == bytes);
}

/* ---- slices ---- */

enum { N = 70, K = 128, K_FIRST = 32, K_SLICE = 64, ROW_FIRST = 19, N_SLICE = 37 };

/* embed [VOCAB, K_SLICE] -> wanted rows -> product with the given weight. */
static graph *slice_graph(uint32_t n, dtype type, compute c) {
    graph *g;
    CHECK(graph_open(&g, 8, 4, NULL) == FL_OK);
    uint32_t embed = graph_add_weight(
        g, &(graph_weight){
               .name = "e", .type = DTYPE_F32, .compute = c, .n = VOCAB, .k = K_SLICE, .uses = GRAPH_USE_EMBED});
    uint32_t w = graph_add_weight(
        g, &(graph_weight){.name = "w", .type = type, .compute = c, .n = n, .k = K_SLICE, .uses = GRAPH_USE_MATMUL});
    graph_value x = graph_rows_wanted(g, graph_embed(g, embed, "e"), "rows");
    graph_sample(g, graph_matmul(g, x, w, "w"), "sample");
    CHECK(graph_failed(g, NULL) == FL_OK);
    return g;
}

/* Logits of the product with a weight described by `d`, filled from `rows` (whole rows of the file). */
static void product_of(const graph *g, const dev_weight_desc *d, const void *rows, uint32_t n_pieces,
                       const float *embed, float *logits) {
    loaded l = {.vt = &dev_cpu};
    size_t row_bytes = dtype_row_bytes(d->type, d->k_file);
    CHECK(l.vt->open(&l.d, &(dev_options){.n_threads = 2}, NULL) == FL_OK);
    dev_weight_desc e = {.name = "e",
                         .type = DTYPE_F32,
                         .compute = d->compute,
                         .uses = GRAPH_USE_EMBED,
                         .n = VOCAB,
                         .k = K_SLICE,
                         .k_file = K_SLICE};
    CHECK(l.vt->weight_open(l.d, &e, &l.weights[0], NULL) == FL_OK &&
          l.vt->weight_adopt(l.d, l.weights[0], embed, NULL) == FL_OK);
    CHECK(l.vt->weight_open(l.d, d, &l.weights[1], NULL) == FL_OK);
    if (n_pieces == 0) CHECK(l.vt->weight_adopt(l.d, l.weights[1], rows, NULL) == FL_OK);
    for (uint32_t i = 0; i < n_pieces; i++) {
        uint32_t from = d->n * i / n_pieces, to = d->n * (i + 1) / n_pieces;
        CHECK(l.vt->weight_write(l.d, l.weights[1], from, to - from, (const uint8_t *)rows + from * row_bytes, NULL) ==
              FL_OK);
    }
    CHECK(graph_plan_open(&l.plan, g, (graph_ranges){TOKENS, SEQS, ROWS}, 2, NULL) == FL_OK);
    CHECK(l.vt->compile(l.d, l.plan, l.weights, l.kv, &l.program, NULL) == FL_OK);
    run_step(&l, g, logits);
    unload(&l, g);
}

TEST(slices_are_parts_of_the_matrix) {
    static const struct {
        dtype type;
        compute c;
    } kinds[] = {
        {DTYPE_F32, COMPUTE_F32}, {DTYPE_BF16, COMPUTE_BF16}, {DTYPE_Q4_0, COMPUTE_Q8}, {DTYPE_Q8_0, COMPUTE_Q8}};
    uint64_t seed = 9;
    static float embed[VOCAB * K_SLICE];
    for (size_t i = 0; i < VOCAB * K_SLICE; i++) embed[i] = test_random_float(&seed);
    for (size_t kind = 0; kind < sizeof kinds / sizeof kinds[0]; kind++) {
        dtype type = kinds[kind].type;
        size_t row = dtype_row_bytes(type, K), cut = dtype_row_bytes(type, K_SLICE),
               first = dtype_row_bytes(type, K_FIRST);
        size_t n_blocks = N * row / dtype_find(type)->block_bytes;
        uint8_t *file = malloc(N * row), *sliced = malloc(N_SLICE * cut);
        if (!file || !sliced) abort();
        for (size_t i = 0; i < n_blocks; i++) tiny_block(type, file + i * dtype_find(type)->block_bytes, &seed);
        for (uint32_t r = 0; r < N_SLICE; r++) memcpy(sliced + r * cut, file + (ROW_FIRST + r) * row + first, cut);
        graph *g = slice_graph(N_SLICE, type, kinds[kind].c);
        dev_weight_desc whole = {.name = "w",
                                 .type = type,
                                 .compute = kinds[kind].c,
                                 .uses = GRAPH_USE_MATMUL,
                                 .n = N_SLICE,
                                 .k = K_SLICE,
                                 .k_file = K_SLICE};
        dev_weight_desc part = whole;
        part.k_file = K;
        part.k_first = K_FIRST;
        float want[ROWS * N_SLICE], got[ROWS * N_SLICE];
        product_of(g, &whole, sliced, 0, embed, want);
        for (uint32_t pieces = 0; pieces < 6; pieces++) {
            product_of(g, &part, file + ROW_FIRST * row, pieces, embed, got);
            CHECKF(memcmp(want, got, sizeof got) == 0, "type %s in %u pieces", dtype_find(type)->name, pieces);
        }
        graph_close(g);
        free(file);
        free(sliced);
    }
}

TEST(slices_that_cut_blocks_are_refused) {
    dev *d;
    dev_weight *w;
    fl_err err;
    CHECK(dev_cpu.open(&d, &(dev_options){.n_threads = 1}, &err) == FL_OK);
    dev_weight_desc a = {.name = "w",
                         .type = DTYPE_Q4_0,
                         .compute = COMPUTE_Q8,
                         .uses = GRAPH_USE_MATMUL,
                         .n = 8,
                         .k = 32,
                         .k_file = 128,
                         .k_first = 16};
    CHECK(dev_cpu.weight_open(d, &a, &w, &err) == FL_EFORMAT && !w);
    a.k_first = 128;
    CHECK(dev_cpu.weight_open(d, &a, &w, &err) == FL_EFORMAT && !w);
    a.k_first = 96;
    CHECK(dev_cpu.weight_open(d, &a, &w, &err) == FL_OK);
    uint8_t rows[8 * 72] = {0};
    CHECK(dev_cpu.weight_write(d, w, 0, 8, rows, &err) == FL_OK);
    CHECK(dev_cpu.weight_write(d, w, 8, 0, rows, &err) == FL_OK);
    CHECK(dev_cpu.weight_write(d, w, 1, 8, rows, &err) == FL_EINVAL);
    CHECK(dev_cpu.weight_write(d, w, UINT32_MAX, 2, rows, &err) == FL_EINVAL);
    dev_cpu.weight_close(d, w);
    dev_cpu.close(d);
}

/* Rows that were written into a weight belong to it; a mapping adopted later replaces them, and can be written over again. */
TEST(adopting_after_writing) {
    static float first[VOCAB * K_SLICE], second[VOCAB * K_SLICE], w[N_SLICE * K_SLICE];
    uint64_t seed = 4;
    for (size_t i = 0; i < VOCAB * K_SLICE; i++)
        first[i] = test_random_float(&seed), second[i] = test_random_float(&seed);
    for (size_t i = 0; i < N_SLICE * K_SLICE; i++) w[i] = test_random_float(&seed);
    graph *g = slice_graph(N_SLICE, DTYPE_F32, COMPUTE_F32);
    float want[2][ROWS * N_SLICE], got[ROWS * N_SLICE];
    dev_weight_desc d = {.name = "w",
                         .type = DTYPE_F32,
                         .compute = COMPUTE_F32,
                         .uses = GRAPH_USE_MATMUL,
                         .n = N_SLICE,
                         .k = K_SLICE,
                         .k_file = K_SLICE};
    product_of(g, &d, w, 0, first, want[0]);
    product_of(g, &d, w, 0, second, want[1]);
    loaded l;
    float *data[2] = {first, w};
    load(&l, g, &(setting){&dev_cpu, {.n_threads = 1}, 2}, data); /* weight 0 is written in pieces */
    run_step(&l, g, got);
    CHECK(memcmp(got, want[0], sizeof got) == 0);
    CHECK(l.vt->weight_adopt(l.d, l.weights[0], second, NULL) == FL_OK);
    run_step(&l, g, got);
    CHECK(memcmp(got, want[1], sizeof got) == 0);
    CHECK(l.vt->weight_write(l.d, l.weights[0], 0, VOCAB, first, NULL) == FL_OK);
    run_step(&l, g, got);
    CHECK(memcmp(got, want[0], sizeof got) == 0);
    unload(&l, g);
    graph_close(g);
}
