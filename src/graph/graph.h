/* graph/graph.h - the step of a model as a graph over symbolic sizes.
 *
 * A node is one op; its value is a matrix [rows, cols] fp32, where rows is symbolic:
 * T packed tokens or R rows whose logits are wanted. Nodes are numbered in an order
 * in which every input comes before its user. A value is named by its node's number.
 *
 * Weights, RoPE variants and caches are listed beside the nodes: a graph says what it
 * needs of them; the engine opens them on a device and hands the handles to compile().
 *
 * The builder functions check shapes. The first mistake is kept (graph_failed()), so
 * that a family file reads as a list of calls and checks once at its end.
 *
 * Memory: everything lives in the graph's arena. Threads: one builder; constant afterwards.
 */
#ifndef GRAPH_GRAPH_H
#define GRAPH_GRAPH_H

#include "base/arena.h"
#include "fl_err.h"
#include "op/op.h"
#include "tensor/compute.h"
#include "tensor/dtype.h"

#include <stdbool.h>
#include <stdint.h>

enum {
    GRAPH_INPUTS_MAX = 2,
    GRAPH_NONE = 0xffffffff,
    GRAPH_GROUPS_MAX = 8, /* cache groups */
};

typedef uint32_t graph_value; /* a node's number */

typedef enum { GRAPH_ROWS_T, GRAPH_ROWS_R } graph_rows;

/* How a weight is used: several bits when one tensor has several uses (a tied embedding). */
enum { GRAPH_USE_EMBED = 1, GRAPH_USE_MATMUL = 2, GRAPH_USE_VECTOR = 4 };

typedef struct {
    const char *name; /* in the file */
    dtype type;       /* in the file */
    compute compute;  /* of its products; never AUTO */
    uint32_t n, k;    /* [n, k]; a vector is [1, k] */
    unsigned uses;
    const void *data; /* the file's bytes, mapped for as long as the model is open */
} graph_weight;

typedef struct {
    uint32_t d;            /* rotary width */
    bool half;             /* pairs (i, i + d/2), else (2i, 2i+1) */
    float scale;           /* multiplies cos and sin; 1: none */
    const float *inv_freq; /* [d/2], scaling applied */
} graph_rope;

/* A cache group: layers whose keys stay visible equally long. */
typedef struct {
    uint32_t window; /* 0: every earlier position; W: keys with q - k < W */
    uint32_t n_layers;
    uint32_t n_kv_heads, d_k, d_v;
} graph_kv_group;

typedef struct {
    op op;
    graph_rows rows;
    uint32_t cols;
    graph_value in[GRAPH_INPUTS_MAX];
    uint32_t weight;   /* index, or GRAPH_NONE */
    uint32_t n_users;  /* nodes that read the value */
    uint32_t width;    /* RMSNORM, ROPE: columns of a head; ATTENTION: d_k */
    uint32_t rope;     /* ROPE: variant */
    uint32_t kv_group; /* KV_WRITE, ATTENTION */
    uint32_t kv_layer; /*   layer within the group */
    float factor;      /* SCALE, SOFTCAP; RMSNORM: eps; ATTENTION: scale */
    float softcap;     /* ATTENTION, 0: none */
    const char *label; /* for people: "3.ffn_norm" */
} graph_node;

typedef struct {
    base_arena arena;
    graph_node *nodes;
    uint32_t n_nodes, cap_nodes;
    graph_weight *weights;
    uint32_t n_weights, cap_weights;
    graph_rope *ropes;
    uint32_t n_ropes;
    graph_kv_group kv[GRAPH_GROUPS_MAX];
    uint32_t n_kv;
    uint32_t n_vocab;
    bool no_memory;
    const char *mistake; /* of the builder, first one */
} graph;

/* The caller owns *out: graph_close(). Errors: FL_ENOMEM. */
FL_CHECKED fl_status graph_open(graph **out, uint32_t nodes_max, uint32_t weights_max, fl_err *err);
void graph_close(graph *g);

/* Lists, each returning an index. A weight named again only gains uses. name is copied. */
uint32_t graph_add_weight(graph *g, const graph_weight *w);
uint32_t graph_add_rope(graph *g, const graph_rope *r); /* inv_freq is copied */
uint32_t
graph_add_kv_layer(graph *g,
                   const graph_kv_group *like); /* finds or opens the group, adds a layer: group << 16 | layer */

/* Ops. A `label` is borrowed until the graph is closed (use graph_label()). */
const char *graph_label(graph *g, int layer, const char *what);
graph_value graph_embed(graph *g, uint32_t weight, const char *label);
graph_value graph_rmsnorm(graph *g, graph_value x, uint32_t weight, uint32_t width, float eps, const char *label);
graph_value graph_matmul(graph *g, graph_value x, uint32_t weight, const char *label);
graph_value graph_bias(graph *g, graph_value x, uint32_t weight, const char *label);
graph_value graph_unary(graph *g, op o, graph_value x, float factor, const char *label);   /* SCALE, SOFTCAP */
graph_value graph_binary(graph *g, op o, graph_value a, graph_value b, const char *label); /* ADD, *_MUL */
graph_value graph_rope_heads(graph *g, graph_value x, uint32_t rope, uint32_t width, const char *label);
graph_value graph_kv_write(graph *g, graph_value k, graph_value v, uint32_t kv_layer, const char *label);
graph_value graph_attention(graph *g, graph_value q, graph_value written, float scale, float softcap,
                            const char *label);
graph_value graph_rows_wanted(graph *g, graph_value x, const char *label);
graph_value graph_sample(graph *g, graph_value logits, const char *label);

/* FL_OK, or what went wrong while building: FL_ENOMEM, FL_EFORMAT with the mistake. */
FL_CHECKED fl_status graph_failed(const graph *g, fl_err *err);

#endif
