#include "graph/graph.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

enum { ROPES_MAX = 8 };

fl_status graph_open(graph **out, uint32_t nodes_max, uint32_t weights_max, fl_err *err) {
    *out = NULL;
    graph *g = base_calloc(1, sizeof *g);
    if (!g) return fl_fail(err, FL_ENOMEM, "a graph: no memory");
    g->cap_nodes = nodes_max;
    g->cap_weights = weights_max;
    g->nodes = base_arena_calloc(&g->arena, nodes_max, sizeof *g->nodes);
    g->weights = base_arena_calloc(&g->arena, weights_max, sizeof *g->weights);
    g->ropes = base_arena_calloc(&g->arena, ROPES_MAX, sizeof *g->ropes);
    if (!g->nodes || !g->weights || !g->ropes) {
        graph_close(g);
        return fl_fail(err, FL_ENOMEM, "a graph of %u nodes: no memory", nodes_max);
    }
    *out = g;
    return FL_OK;
}

void graph_close(graph *g) {
    if (!g) return;
    base_arena_clear(&g->arena);
    base_free(g);
}

static void mistake(graph *g, const char *what) {
    if (!g->mistake) g->mistake = what;
}

fl_status graph_failed(const graph *g, fl_err *err) {
    if (g->no_memory) return fl_fail(err, FL_ENOMEM, "a graph: no memory");
    if (g->mistake) return fl_fail(err, FL_EFORMAT, "the model's sizes do not fit together: %s", g->mistake);
    return FL_OK;
}

uint32_t graph_add_weight(graph *g, const graph_weight *w) {
    for (uint32_t i = 0; i < g->n_weights; i++)
        if (strcmp(g->weights[i].name, w->name) == 0) {
            g->weights[i].uses |= w->uses;
            return i;
        }
    char *name = base_arena_strndup(&g->arena, w->name, strlen(w->name));
    if (!name || g->n_weights == g->cap_weights) {
        g->no_memory = true;
        return 0;
    }
    g->weights[g->n_weights] = *w;
    g->weights[g->n_weights].name = name;
    return g->n_weights++;
}

uint32_t graph_add_rope(graph *g, const graph_rope *r) {
    for (uint32_t i = 0; i < g->n_ropes; i++)
        if (g->ropes[i].d == r->d && g->ropes[i].half == r->half && g->ropes[i].scale == r->scale &&
            g->ropes[i].first == r->first && memcmp(g->ropes[i].inv_freq, r->inv_freq, r->d / 2 * sizeof(float)) == 0)
            return i;
    float *copy = base_arena_calloc(&g->arena, r->d / 2, sizeof *copy);
    if (!copy || g->n_ropes == ROPES_MAX) {
        g->no_memory = true;
        return 0;
    }
    memcpy(copy, r->inv_freq, r->d / 2 * sizeof *copy);
    g->ropes[g->n_ropes] = (graph_rope){r->d, r->half, r->scale, copy, r->first};
    return g->n_ropes++;
}

uint32_t graph_add_kv_layer(graph *g, const graph_kv_group *like) {
    uint32_t i = 0;
    for (; i < g->n_kv; i++)
        if (g->kv[i].window == like->window && g->kv[i].n_kv_heads == like->n_kv_heads && g->kv[i].d_k == like->d_k &&
            g->kv[i].d_v == like->d_v && g->kv[i].chunked == like->chunked && g->kv[i].v_in_k == like->v_in_k)
            break;
    if (i == GRAPH_GROUPS_MAX) {
        mistake(g, "more than 8 kinds of cache layers");
        return 0;
    }
    if (i == g->n_kv) {
        g->kv[g->n_kv] = *like;
        g->kv[g->n_kv++].n_layers = 0;
    }
    return i << 16 | g->kv[i].n_layers++;
}

const char *graph_label(graph *g, int layer, const char *what) {
    char text[64];
    int n = layer < 0 ? snprintf(text, sizeof text, "%s", what) : snprintf(text, sizeof text, "%d.%s", layer, what);
    const char *label = base_arena_strndup(&g->arena, text,
                                           n < 0                     ? 0
                                           : (size_t)n < sizeof text ? (size_t)n
                                                                     : sizeof text - 1);
    if (!label) g->no_memory = true;
    return label ? label : "";
}

/* Appends a node; after a failure nothing is appended and value 0 is returned, which always exists as a number. */
static graph_value append(graph *g, graph_node n) {
    if (g->no_memory || g->mistake) return 0;
    if (g->n_nodes == g->cap_nodes) {
        g->no_memory = true;
        return 0;
    }
    for (int i = 0; i < op_get(n.op)->n_inputs; i++) {
        fl_assert(n.in[i] < g->n_nodes);
        g->nodes[n.in[i]].n_users += i == 0 || n.in[i] != n.in[0];
    }
    g->nodes[g->n_nodes] = n;
    return g->n_nodes++;
}

static const graph_node *node(const graph *g, graph_value v) { return &g->nodes[v]; }

static void want_rows(graph *g, graph_value x, graph_rows rows) {
    if (node(g, x)->rows != rows)
        mistake(g, rows == GRAPH_ROWS_T   ? "other rows stand where a row per token is needed"
                   : rows == GRAPH_ROWS_R ? "other rows stand where wanted rows are needed"
                                          : "other rows stand where a row per expert is needed");
}

graph_value graph_embed(graph *g, uint32_t weight, const char *label) {
    return append(
        g, (graph_node){
               .op = OP_EMBED, .rows = GRAPH_ROWS_T, .cols = g->weights[weight].k, .weight = weight, .label = label});
}

graph_value graph_rmsnorm(graph *g, graph_value x, uint32_t weight, uint32_t width, float eps, const char *label) {
    if (weight != GRAPH_NONE && g->weights[weight].k != width) mistake(g, "a norm has another width than its weight");
    return graph_rmsnorm_first(g, x, weight, width, eps, label);
}

graph_value graph_rmsnorm_first(graph *g, graph_value x, uint32_t weight, uint32_t width, float eps,
                                const char *label) {
    if (width == 0 || node(g, x)->cols % width || (weight != GRAPH_NONE && g->weights[weight].k > width))
        mistake(g, "a norm has another width than its input");
    return append(g, (graph_node){.op = OP_RMSNORM,
                                  .rows = node(g, x)->rows,
                                  .cols = node(g, x)->cols,
                                  .in = {x},
                                  .weight = weight,
                                  .width = width,
                                  .factor = eps,
                                  .label = label});
}

graph_value graph_matmul(graph *g, graph_value x, uint32_t weight, const char *label) {
    if (node(g, x)->cols != g->weights[weight].k || g->weights[weight].n_stack)
        mistake(g, "a weight matrix has another width than its input");
    return append(g, (graph_node){.op = OP_MATMUL,
                                  .rows = node(g, x)->rows,
                                  .cols = g->weights[weight].n,
                                  .in = {x},
                                  .weight = weight,
                                  .label = label});
}

graph_value graph_bias(graph *g, graph_value x, uint32_t weight, const char *label) {
    if (node(g, x)->cols != g->weights[weight].k) mistake(g, "a bias has another width than its input");
    return append(g, (graph_node){.op = OP_BIAS,
                                  .rows = node(g, x)->rows,
                                  .cols = node(g, x)->cols,
                                  .in = {x},
                                  .weight = weight,
                                  .label = label});
}

graph_value graph_unary(graph *g, op o, graph_value x, float factor, const char *label) {
    return append(g, (graph_node){.op = o,
                                  .rows = node(g, x)->rows,
                                  .cols = node(g, x)->cols,
                                  .in = {x},
                                  .weight = GRAPH_NONE,
                                  .factor = factor,
                                  .label = label});
}

graph_value graph_binary(graph *g, op o, graph_value a, graph_value b, const char *label) {
    if (node(g, a)->cols != node(g, b)->cols || node(g, a)->rows != node(g, b)->rows)
        mistake(g, "two values of different shape are combined");
    return append(g, (graph_node){.op = o,
                                  .rows = node(g, a)->rows,
                                  .cols = node(g, a)->cols,
                                  .in = {a, b},
                                  .weight = GRAPH_NONE,
                                  .label = label});
}

graph_value graph_layernorm(graph *g, graph_value x, uint32_t weight, float eps, const char *label) {
    if (g->weights[weight].k != node(g, x)->cols) mistake(g, "a norm has another width than its input");
    return append(g, (graph_node){.op = OP_LAYERNORM,
                                  .rows = node(g, x)->rows,
                                  .cols = node(g, x)->cols,
                                  .in = {x},
                                  .weight = weight,
                                  .factor = eps,
                                  .label = label});
}

graph_value graph_swiglu_clamp(graph *g, graph_value gate, graph_value up, float alpha, float limit,
                               const char *label) {
    graph_value v = graph_binary(g, OP_SWIGLU_CLAMP, gate, up, label);
    if (g->no_memory || g->mistake) return v;
    g->nodes[v].factor = alpha;
    g->nodes[v].softcap = limit;
    return v;
}

graph_value graph_gate(graph *g, graph_value x, graph_value gate, const char *label) {
    const graph_node *n = node(g, gate);
    if (n->rows != node(g, x)->rows || (n->cols != 1 && n->cols != node(g, x)->cols))
        mistake(g, "a gate has another shape than what it gates");
    return append(g, (graph_node){.op = OP_GATE,
                                  .rows = node(g, x)->rows,
                                  .cols = node(g, x)->cols,
                                  .in = {x, gate},
                                  .weight = GRAPH_NONE,
                                  .label = label});
}

graph_value graph_pos_scale(graph *g, graph_value x, float factor, uint32_t first, uint32_t every, const char *label) {
    want_rows(g, x, GRAPH_ROWS_T);
    if (every == 0) mistake(g, "a scale by position has steps of no length");
    return append(g, (graph_node){.op = OP_POS_SCALE,
                                  .rows = GRAPH_ROWS_T,
                                  .cols = node(g, x)->cols,
                                  .in = {x},
                                  .weight = GRAPH_NONE,
                                  .width = every,
                                  .first = first,
                                  .factor = factor,
                                  .label = label});
}

graph_value graph_rope_heads(graph *g, graph_value x, uint32_t rope, uint32_t width, const char *label) {
    if (width == 0 || node(g, x)->cols % width || g->ropes[rope].d > width ||
        g->ropes[rope].first > width - g->ropes[rope].d)
        mistake(g, "RoPE is wider than a head");
    want_rows(g, x, GRAPH_ROWS_T); /* the step has one angle per token */
    return append(g, (graph_node){.op = OP_ROPE,
                                  .rows = node(g, x)->rows,
                                  .cols = node(g, x)->cols,
                                  .in = {x},
                                  .weight = GRAPH_NONE,
                                  .width = width,
                                  .rope = rope,
                                  .label = label});
}

graph_value graph_kv_write(graph *g, graph_value k, graph_value v, uint32_t kv_layer, const char *label) {
    const graph_kv_group *kv = &g->kv[kv_layer >> 16];
    if (node(g, k)->cols != kv->n_kv_heads * kv->d_k ||
        (kv->v_in_k ? k != v || kv->d_v > kv->d_k : node(g, v)->cols != kv->n_kv_heads * kv->d_v))
        mistake(g, "K or V has another width than its cache");
    want_rows(g, k, GRAPH_ROWS_T);
    want_rows(g, v, GRAPH_ROWS_T);
    return append(g, (graph_node){.op = OP_KV_WRITE,
                                  .rows = GRAPH_ROWS_T,
                                  .in = {k, v},
                                  .weight = GRAPH_NONE,
                                  .kv_group = kv_layer >> 16,
                                  .kv_layer = kv_layer & 0xffff,
                                  .width = kv->d_k,
                                  .label = label});
}

graph_value graph_attention(graph *g, graph_value q, graph_value written, float scale, float softcap,
                            const char *label) {
    const graph_node *w = node(g, written);
    const graph_kv_group *kv = &g->kv[w->kv_group];
    if (w->op != OP_KV_WRITE || node(g, q)->cols % kv->d_k || node(g, q)->cols / kv->d_k % kv->n_kv_heads) {
        mistake(g, "the query heads are no multiple of the key heads");
        return 0;
    }
    want_rows(g, q, GRAPH_ROWS_T);
    return append(g, (graph_node){.op = OP_ATTENTION,
                                  .rows = GRAPH_ROWS_T,
                                  .cols = node(g, q)->cols / kv->d_k * kv->d_v,
                                  .in = {q, written},
                                  .weight = GRAPH_NONE,
                                  .kv_group = w->kv_group,
                                  .kv_layer = w->kv_layer,
                                  .width = kv->d_k,
                                  .factor = scale,
                                  .softcap = softcap,
                                  .label = label});
}

void graph_attention_sinks(graph *g, graph_value attention, uint32_t weight) {
    if (g->no_memory || g->mistake) return;
    graph_node *n = &g->nodes[attention];
    if (n->op != OP_ATTENTION || n->cols / g->kv[n->kv_group].d_v != g->weights[weight].k)
        mistake(g, "there is not one sink per query head");
    n->weight = weight;
}

graph_value graph_head_matmul(graph *g, graph_value x, uint32_t weight, uint32_t width, const char *label) {
    const graph_weight *w = &g->weights[weight];
    if (w->n_stack == 0 || w->k > width || node(g, x)->cols != w->n_stack * width)
        mistake(g, "a stack of matrices does not fit the heads of its input");
    return append(g, (graph_node){.op = OP_HEAD_MATMUL,
                                  .rows = node(g, x)->rows,
                                  .cols = w->n_stack * (w->n + width - w->k),
                                  .in = {x},
                                  .weight = weight,
                                  .width = width,
                                  .label = label});
}

static bool routing_fits(const graph_routing *r, uint32_t n_logits) {
    if (r->n_experts != n_logits || r->n_experts > GRAPH_EXPERTS_MAX || r->top_k == 0 || r->top_k > GRAPH_TOP_K_MAX)
        return false;
    if (r->n_groups <= 1) return r->top_k <= r->n_experts;
    return r->n_experts % r->n_groups == 0 && r->n_groups_used > 0 && r->n_groups_used <= r->n_groups &&
           r->top_k <= r->n_experts / r->n_groups * r->n_groups_used;
}

graph_value graph_route(graph *g, graph_value logits, const graph_routing *r, uint32_t bias, const char *label) {
    want_rows(g, logits, GRAPH_ROWS_T);
    if (!routing_fits(r, node(g, logits)->cols) || (bias != GRAPH_NONE && g->weights[bias].k != r->n_experts))
        mistake(g, "a router's sizes do not fit its logits");
    if (g->top_k && g->top_k != r->top_k) mistake(g, "two layers use another number of experts per token");
    graph_routing *copy = base_arena_calloc(&g->arena, 1, sizeof *copy);
    if (!copy) {
        g->no_memory = true;
        return 0;
    }
    *copy = *r;
    g->top_k = r->top_k;
    return append(g, (graph_node){.op = OP_ROUTE,
                                  .rows = GRAPH_ROWS_T,
                                  .cols = 2 * r->top_k,
                                  .in = {logits},
                                  .weight = bias,
                                  .routing = copy,
                                  .label = label});
}

/* An op with a row of output per row of `rows`, which also reads routes; experts: of its weight, 0: it has none. */
static graph_value with_routes(graph *g, graph_node n, graph_value x, graph_value routes, uint32_t experts) {
    const graph_node *r = node(g, routes);
    if (r->op != OP_ROUTE || (experts && r->routing->n_experts != experts)) {
        mistake(g, "an op of experts has no routes to as many");
        return 0;
    }
    if (node(g, x)->rows == GRAPH_ROWS_R) mistake(g, "wanted rows stand where routed rows are needed");
    n.in[0] = x;
    n.in[1] = routes;
    return append(g, n);
}

graph_value graph_expert_matmul(graph *g, graph_value x, graph_value routes, uint32_t weight, const char *label) {
    const graph_weight *w = &g->weights[weight];
    if (w->n_stack == 0 || node(g, x)->cols != w->k) mistake(g, "a stack of experts has another width than its input");
    graph_node n = {.op = OP_EXPERT_MATMUL, .rows = GRAPH_ROWS_TK, .cols = w->n, .weight = weight, .label = label};
    return with_routes(g, n, x, routes, w->n_stack);
}

graph_value graph_expert_bias(graph *g, graph_value x, graph_value routes, uint32_t weight, const char *label) {
    const graph_weight *w = &g->weights[weight];
    want_rows(g, x, GRAPH_ROWS_TK);
    if (node(g, x)->cols != w->k) mistake(g, "a bias of experts has another width than its input");
    graph_node n = {.op = OP_EXPERT_BIAS, .rows = GRAPH_ROWS_TK, .cols = w->k, .weight = weight, .label = label};
    return with_routes(g, n, x, routes, w->n);
}

graph_value graph_expert_scale(graph *g, graph_value x, graph_value routes, const char *label) {
    graph_node n = {
        .op = OP_EXPERT_SCALE, .rows = GRAPH_ROWS_TK, .cols = node(g, x)->cols, .weight = GRAPH_NONE, .label = label};
    return with_routes(g, n, x, routes, 0);
}

graph_value graph_expert_sum(graph *g, graph_value x, graph_value routes, bool plain, const char *label) {
    want_rows(g, x, GRAPH_ROWS_TK);
    graph_node n = {.op = OP_EXPERT_SUM,
                    .rows = GRAPH_ROWS_T,
                    .cols = node(g, x)->cols,
                    .weight = GRAPH_NONE,
                    .plain = plain,
                    .label = label};
    return with_routes(g, n, x, routes, 0);
}

graph_value graph_rows_wanted(graph *g, graph_value x, const char *label) {
    want_rows(g, x, GRAPH_ROWS_T);
    return append(g, (graph_node){.op = OP_ROWS,
                                  .rows = GRAPH_ROWS_R,
                                  .cols = node(g, x)->cols,
                                  .in = {x},
                                  .weight = GRAPH_NONE,
                                  .label = label});
}

graph_value graph_sample(graph *g, graph_value logits, const char *label) {
    want_rows(g, logits, GRAPH_ROWS_R);
    g->n_vocab = node(g, logits)->cols;
    return append(
        g, (graph_node){.op = OP_SAMPLE, .rows = GRAPH_ROWS_R, .in = {logits}, .weight = GRAPH_NONE, .label = label});
}
