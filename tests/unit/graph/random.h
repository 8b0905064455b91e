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
    uint32_t n_named, top_k;
    uint32_t rope, rope_tail; /* of whole heads of 8, and of their last two columns */
} maker;

static inline uint32_t below(maker *m, uint32_t n) { return test_random_below(&m->seed, n); }

static inline uint32_t add_stack(maker *m, uint32_t n_stack, uint32_t n, uint32_t k, unsigned use) {
    char name[32];
    (void)snprintf(name, sizeof name, "w%u", m->n_named++);
    compute c = below(m, 4) ? COMPUTE_F32 : COMPUTE_BF16;
    return graph_add_weight(
        m->g, &(graph_weight){
                  .name = name, .type = DTYPE_F32, .compute = c, .n = n, .k = k, .n_stack = n_stack, .uses = use});
}

static inline uint32_t add_weight(maker *m, uint32_t n, uint32_t k, unsigned use) { return add_stack(m, 0, n, k, use); }

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

static inline graph_value attend(maker *m, graph_value x) {
    graph *g = m->g;
    const uint32_t rope = m->rope;
    graph_value q = linear(m, x), k = linear(m, x), v = linear(m, x);
    q = below(m, 2) ? graph_rope_heads(g, q, rope, 8, "q") : q;
    k = below(m, 2) ? graph_rmsnorm(g, k, add_weight(m, 1, 8, GRAPH_USE_VECTOR), 8, 0, "kn") : k;
    k = graph_rope_heads(g, k, rope, 8, "k");
    if (below(m, 4) == 0) m->values[m->n_values++] = below(m, 2) ? q : k; /* somebody else reads it, too */
    graph_kv_group kv = {.window = below(m, 2) * 32, .n_kv_heads = m->width / 8, .d_k = 8, .d_v = 8};
    kv.chunked = kv.window && below(m, 2);
    if (kv.chunked) kv.window = 5;
    graph_value written = graph_kv_write(g, k, v, graph_add_kv_layer(g, &kv), "kv");
    graph_value o = graph_attention(g, q, written, 1, 0, "attention");
    if (below(m, 2)) graph_attention_sinks(g, o, add_weight(m, 1, m->width / 8, GRAPH_USE_VECTOR));
    return o;
}

/* Absorbed MLA: heads of 6 + 2 columns over a latent of 6. */
static inline graph_value attend_latent(maker *m, graph_value x) {
    graph *g = m->g;
    const uint32_t heads = m->width / 8;
    graph_value k = graph_matmul(g, x, add_weight(m, 8, m->width, GRAPH_USE_MATMUL), "kv_a");
    k = graph_rmsnorm_first(g, k, add_weight(m, 1, 6, GRAPH_USE_VECTOR), 8, 1e-5f, "kv_norm");
    k = graph_rope_heads(g, k, m->rope_tail, 8, "k_rope");
    graph_value q = graph_rope_heads(g, linear(m, x), m->rope_tail, 8, "q_rope");
    if (below(m, 4) == 0) m->values[m->n_values++] = q;
    q = graph_head_matmul(g, q, add_stack(m, heads, 6, 6, GRAPH_USE_MATMUL), 8, "absorb");
    graph_kv_group kv = {.n_kv_heads = 1, .d_k = 8, .d_v = 6, .v_in_k = true};
    graph_value written = graph_kv_write(g, k, k, graph_add_kv_layer(g, &kv), "kv");
    graph_value o = graph_attention(g, q, written, 0.5f, 0, "attention");
    return graph_head_matmul(g, o, add_stack(m, heads, 8, 6, GRAPH_USE_MATMUL), 6, "expand");
}

static inline graph_value experts(maker *m, graph_value x) {
    graph *g = m->g;
    enum { EXPERTS = 6, FF = 21 };
    graph_routing r = {.score = (graph_score)below(m, 3),
                       .n_experts = EXPERTS,
                       .top_k = m->top_k,
                       .n_groups = below(m, 2) * 3,
                       .n_groups_used = 2,
                       .group_by_two = below(m, 2),
                       .renormalise = below(m, 2),
                       .scale = below(m, 2) ? 1 : 2.5f};
    uint32_t bias = below(m, 2) ? add_weight(m, 1, EXPERTS, GRAPH_USE_VECTOR) : GRAPH_NONE;
    graph_value z = graph_matmul(g, x, add_weight(m, EXPERTS, m->width, GRAPH_USE_MATMUL), "router");
    graph_value routes = graph_route(g, z, &r, bias, "routes"), in = x;
    const bool biased = below(m, 2), weighted = below(m, 3) == 0;
    if (weighted) in = graph_expert_scale(g, x, routes, "scaled");
    graph_value gate =
        graph_expert_matmul(g, in, routes, add_stack(m, EXPERTS, FF, m->width, GRAPH_USE_MATMUL), "gate");
    graph_value up = graph_expert_matmul(g, in, routes, add_stack(m, EXPERTS, FF, m->width, GRAPH_USE_MATMUL), "up");
    if (biased) gate = graph_expert_bias(g, gate, routes, add_weight(m, EXPERTS, FF, GRAPH_USE_VECTOR), "gb");
    if (biased) up = graph_expert_bias(g, up, routes, add_weight(m, EXPERTS, FF, GRAPH_USE_VECTOR), "ub");
    graph_value y = below(m, 2) ? graph_binary(g, OP_SILU_MUL, gate, up, "act")
                                : graph_swiglu_clamp(g, gate, up, 1.702f, 0.5f, "act");
    y = graph_expert_matmul(g, y, routes, add_stack(m, EXPERTS, m->width, FF, GRAPH_USE_MATMUL), "down");
    if (biased) y = graph_expert_bias(g, y, routes, add_weight(m, EXPERTS, m->width, GRAPH_USE_VECTOR), "db");
    return graph_expert_sum(g, y, routes, weighted, "sum");
}

/* Ops of a row that few families use. */
static inline graph_value rare_op(maker *m, graph_value x, graph_value y) {
    graph *g = m->g;
    switch (below(m, 5)) {
        case 0: return graph_layernorm(g, x, add_weight(m, 1, m->width, GRAPH_USE_VECTOR), 1e-5f, "ln");
        case 1: return graph_gate(g, x, y, "gate");
        case 2: return graph_gate(g, x, graph_matmul(g, y, add_weight(m, 1, m->width, GRAPH_USE_MATMUL), "g"), "gate");
        case 3: return graph_pos_scale(g, x, 0.1f, 1, 3, "pos");
        default: return graph_swiglu_clamp(g, x, y, 1.702f, 0.5f, "clamp");
    }
}

/* Something that reads earlier values: every pattern that a family uses, and mixtures that none does. */
static inline graph_value random_op(maker *m) {
    graph *g = m->g;
    graph_value x = pick(m), y = pick(m);
    switch (below(m, 16)) {
        case 0: return graph_unary(g, OP_SCALE, x, 2, "scale");
        case 1: return graph_unary(g, OP_SOFTCAP, x, 3, "cap");
        case 2: return graph_bias(g, x, add_weight(m, 1, m->width, GRAPH_USE_VECTOR), "bias");
        case 3: return norm(m, x);
        case 4: return graph_rope_heads(g, x, m->rope, 8, "rope");
        case 5: return graph_binary(g, OP_ADD, x, y, "add");
        case 6: return graph_binary(g, below(m, 2) ? OP_SILU_MUL : OP_GELU_TANH_MUL, x, y, "gate");
        case 7: return attend(m, norm(m, x));
        case 8: {
            graph_value a = linear(m, x), b = linear(m, x);
            return graph_binary(g, below(m, 3) ? OP_SILU_MUL : OP_ADD, below(m, 4) ? a : b, b, "pair");
        }
        case 9: return graph_binary(g, OP_ADD, x, norm(m, linear(m, norm(m, x))), "post");
        case 10: return attend_latent(m, x);
        case 11: return experts(m, norm(m, x));
        case 12: return graph_binary(g, OP_ADD, y, experts(m, x), "residual");
        case 13: return rare_op(m, x, y);
        default: return linear(m, x);
    }
}

static inline graph *random_graph(uint64_t seed) {
    maker m = {.seed = seed, .width = 32};
    static const float freqs[4] = {1, 0.5f, 0.25f, 0.125f};
    uint32_t n = 3 + below(&m, 50);
    CHECK(graph_open(&m.g, n * 14 + 16, n * 10 + 16, NULL) == FL_OK);
    m.top_k = 1 + below(&m, 3);
    m.rope = graph_add_rope(m.g, &(graph_rope){.d = 8, .scale = 1, .inv_freq = freqs});
    m.rope_tail = graph_add_rope(m.g, &(graph_rope){.d = 2, .scale = 1, .inv_freq = freqs, .first = 6});
    m.values[m.n_values++] = graph_embed(m.g, add_weight(&m, 50, m.width, GRAPH_USE_EMBED), "embed");
    for (uint32_t i = 0; i < n; i++) m.values[m.n_values++] = random_op(&m);
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
