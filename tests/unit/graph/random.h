/* unit/graph/random.h - seeded random graphs with every pattern that a family uses, and mixtures that none does. */
#ifndef UNIT_GRAPH_RANDOM_H
#define UNIT_GRAPH_RANDOM_H

#include "graph/graph.h"
#include "test.h"

#include <stdio.h>

typedef struct {
    graph *g;
    graph_value values[400]; /* of rows T, to choose inputs from */
    uint32_t n_values, width;
    uint64_t seed;
    uint32_t n_named;
} maker;

static inline uint32_t below(maker *m, uint32_t n) { return test_random_below(&m->seed, n); }

static inline uint32_t add_weight(maker *m, uint32_t n, uint32_t k, unsigned use) {
    char name[32];
    (void)snprintf(name, sizeof name, "w%u", m->n_named++);
    compute c = below(m, 4) ? COMPUTE_F32 : COMPUTE_BF16;
    return graph_add_weight(
        m->g, &(graph_weight){.name = name, .type = DTYPE_F32, .compute = c, .n = n, .k = k, .uses = use});
}

static inline graph_value pick(maker *m) {
    uint32_t recent = m->n_values < 5 || below(m, 4) == 0 ? m->n_values : 5;
    return m->values[m->n_values - 1 - below(m, recent)];
}

static inline graph_value linear(maker *m, graph_value x) {
    return graph_matmul(m->g, x, add_weight(m, m->width, m->width, GRAPH_USE_MATMUL), "m");
}

static inline graph_value norm(maker *m, graph_value x) {
    return graph_rmsnorm(m->g, x, add_weight(m, 1, m->width, GRAPH_USE_VECTOR), m->width, 1e-5f, "n");
}

static inline graph_value attend(maker *m, graph_value x, uint32_t rope) {
    graph *g = m->g;
    graph_value q = linear(m, x), k = linear(m, x), v = linear(m, x);
    q = below(m, 2) ? graph_rope_heads(g, q, rope, 8, "q") : q;
    k = below(m, 2) ? graph_rmsnorm(g, k, add_weight(m, 1, 8, GRAPH_USE_VECTOR), 8, 0, "kn") : k;
    k = graph_rope_heads(g, k, rope, 8, "k");
    if (below(m, 4) == 0) m->values[m->n_values++] = below(m, 2) ? q : k; /* somebody else reads it, too */
    graph_kv_group kv = {.window = below(m, 2) * 32, .n_kv_heads = m->width / 8, .d_k = 8, .d_v = 8};
    graph_value written = graph_kv_write(g, k, v, graph_add_kv_layer(g, &kv), "kv");
    return graph_attention(g, q, written, 1, 0, "attention");
}

/* Something that reads earlier values: every pattern that a family uses, and mixtures that none does. */
static inline graph_value random_op(maker *m, uint32_t rope) {
    graph *g = m->g;
    graph_value x = pick(m), y = pick(m);
    switch (below(m, 12)) {
        case 0: return graph_unary(g, OP_SCALE, x, 2, "scale");
        case 1: return graph_unary(g, OP_SOFTCAP, x, 3, "cap");
        case 2: return graph_bias(g, x, add_weight(m, 1, m->width, GRAPH_USE_VECTOR), "bias");
        case 3: return norm(m, x);
        case 4: return graph_rope_heads(g, x, rope, 8, "rope");
        case 5: return graph_binary(g, OP_ADD, x, y, "add");
        case 6: return graph_binary(g, below(m, 2) ? OP_SILU_MUL : OP_GELU_TANH_MUL, x, y, "gate");
        case 7: return attend(m, norm(m, x), rope);
        case 8: {
            graph_value a = linear(m, x), b = linear(m, x);
            return graph_binary(g, below(m, 3) ? OP_SILU_MUL : OP_ADD, below(m, 4) ? a : b, b, "pair");
        }
        case 9: return graph_binary(g, OP_ADD, x, norm(m, linear(m, norm(m, x))), "post");
        default: return linear(m, x);
    }
}

static inline graph *random_graph(uint64_t seed) {
    maker m = {.seed = seed, .width = 32};
    static const float freqs[4] = {1, 0.5f, 0.25f, 0.125f};
    uint32_t n = 3 + below(&m, 50);
    CHECK(graph_open(&m.g, n * 8 + 16, n * 8 + 16, NULL) == FL_OK);
    uint32_t rope = graph_add_rope(m.g, &(graph_rope){8, false, 1, freqs});
    m.values[m.n_values++] = graph_embed(m.g, add_weight(&m, 50, m.width, GRAPH_USE_EMBED), "embed");
    for (uint32_t i = 0; i < n; i++) m.values[m.n_values++] = random_op(&m, rope);
    graph_value r = graph_rows_wanted(m.g, pick(&m), "rows");
    if (below(&m, 2)) r = norm(&m, r);
    r = linear(&m, r);
    if (below(&m, 2)) r = graph_unary(m.g, OP_SOFTCAP, r, 30, "cap");
    graph_sample(m.g, r, "sample");
    fl_err err;
    CHECKF(graph_failed(m.g, &err) == FL_OK, "seed %llu: %s", (unsigned long long)seed, err.msg);
    return m.g;
}

#endif
