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
            memcmp(g->ropes[i].inv_freq, r->inv_freq, r->d / 2 * sizeof(float)) == 0)
            return i;
    float *copy = base_arena_calloc(&g->arena, r->d / 2, sizeof *copy);
    if (!copy || g->n_ropes == ROPES_MAX) {
        g->no_memory = true;
        return 0;
    }
    memcpy(copy, r->inv_freq, r->d / 2 * sizeof *copy);
    g->ropes[g->n_ropes] = (graph_rope){r->d, r->half, r->scale, copy};
    return g->n_ropes++;
}

uint32_t graph_add_kv_layer(graph *g, const graph_kv_group *like) {
    uint32_t i = 0;
    for (; i < g->n_kv; i++)
        if (g->kv[i].window == like->window && g->kv[i].n_kv_heads == like->n_kv_heads && g->kv[i].d_k == like->d_k &&
            g->kv[i].d_v == like->d_v)
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
        g->nodes[n.in[i]].n_users++;
    }
    g->nodes[g->n_nodes] = n;
    return g->n_nodes++;
}

static const graph_node *node(const graph *g, graph_value v) { return &g->nodes[v]; }

static void want_rows(graph *g, graph_value x, graph_rows rows) {
    if (node(g, x)->rows != rows)
        mistake(g, rows == GRAPH_ROWS_T ? "wanted rows stand where all tokens are needed"
                                        : "all tokens stand where wanted rows are needed");
}

graph_value graph_embed(graph *g, uint32_t weight, const char *label) {
    return append(
        g, (graph_node){
               .op = OP_EMBED, .rows = GRAPH_ROWS_T, .cols = g->weights[weight].k, .weight = weight, .label = label});
}

graph_value graph_rmsnorm(graph *g, graph_value x, uint32_t weight, uint32_t width, float eps, const char *label) {
    if (width == 0 || node(g, x)->cols % width || g->weights[weight].k != width)
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
    if (node(g, x)->cols != g->weights[weight].k) mistake(g, "a weight matrix has another width than its input");
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

graph_value graph_rope_heads(graph *g, graph_value x, uint32_t rope, uint32_t width, const char *label) {
    if (width == 0 || node(g, x)->cols % width || g->ropes[rope].d > width) mistake(g, "RoPE is wider than a head");
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
    if (node(g, k)->cols != kv->n_kv_heads * kv->d_k || node(g, v)->cols != kv->n_kv_heads * kv->d_v)
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
