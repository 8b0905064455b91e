/* graph/graph.h - the step of a model as a graph over symbolic sizes.
 *
 * A node is one op; its value is a matrix [rows, cols] fp32, where rows is symbolic:
 * T packed tokens, R rows whose logits are wanted, or TK: top_k rows per token, one per
 * expert it was sent to. Nodes are numbered in an order in which every input comes before
 * its user. A value is named by its node's number.
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

typedef uint32_t graph_value;             /* a node's number */
typedef struct graph_layout graph_layout; /* graph/weight.h */

typedef enum { GRAPH_ROWS_T, GRAPH_ROWS_R, GRAPH_ROWS_TK } graph_rows;

/* How a weight is used: several bits when one tensor has several uses (a tied embedding). */
enum { GRAPH_USE_EMBED = 1, GRAPH_USE_MATMUL = 2, GRAPH_USE_VECTOR = 4 };

typedef struct {
    const char *name; /* in the file */
    dtype type;       /* in the file */
    compute compute;  /* of its products; never AUTO */
    uint32_t n, k;    /* [n, k]; a vector is [1, k] */
    uint32_t n_stack; /* of a stack [n_stack, n, k], one slice per expert or head; 0: a plain matrix */
    unsigned uses;
    const void *data;           /* the file's bytes, mapped for as long as the model is open */
    const graph_layout *layout; /* NULL: data is the rows, one after the other */
} graph_weight;

typedef struct {
    uint32_t d;            /* rotary width */
    bool half;             /* pairs (i, i + d/2), else (2i, 2i+1) */
    float scale;           /* multiplies cos and sin; 1: none */
    const float *inv_freq; /* [d/2], scaling applied */
    uint32_t first;        /* column of a head where the rotary part begins */
} graph_rope;

/* A cache group: layers whose keys stay visible equally long. */
typedef struct {
    uint32_t window; /* 0: every earlier position; W: keys with q - k < W */
    uint32_t n_layers;
    uint32_t n_kv_heads, d_k, d_v;
    bool chunked; /* with a window: keys of the same window of positions only, q / W == k / W */
    bool v_in_k;  /* V is the first d_v columns of K (MLA): both inputs of the cache write are the same value */
} graph_kv_group;

/* How experts are chosen and weighted; docs/numerics.md, "Experts". */
typedef enum { GRAPH_SCORE_SOFTMAX, GRAPH_SCORE_SIGMOID, GRAPH_SCORE_CHOSEN } graph_score;
typedef struct {
    graph_score score;         /* softmax or sigmoid over all, or softmax over the chosen logits */
    uint32_t n_experts, top_k; /* n_experts columns of logits */
    uint32_t n_groups;         /* 0, 1: none; groups of consecutive experts of which only the best are looked at */
    uint32_t n_groups_used;    /*   so many */
    bool group_by_two;         /*   by the sum of their two best, else by their best */
    bool renormalise;          /* weights are divided by their sum */
    float scale;               /* ... and multiplied by this */
} graph_routing;

enum { GRAPH_EXPERTS_MAX = 1024, GRAPH_TOP_K_MAX = 64 };

typedef struct {
    op op;
    graph_rows rows;
    uint32_t cols;
    graph_value in[GRAPH_INPUTS_MAX];
    uint32_t weight;   /* index, or GRAPH_NONE */
    uint32_t n_users;  /* nodes that read the value */
    uint32_t width;    /* RMSNORM, ROPE, HEAD_MATMUL (input): columns of a head; ATTENTION: d_k; POS_SCALE: every */
    uint32_t first;    /* POS_SCALE */
    uint32_t rope;     /* ROPE: variant */
    uint32_t kv_group; /* KV_WRITE, ATTENTION */
    uint32_t kv_layer; /*   layer within the group */
    float factor;      /* SCALE, SOFTCAP, POS_SCALE; norms: eps; ATTENTION: scale; SWIGLU_CLAMP: alpha */
    float softcap;     /* ATTENTION, 0: none; SWIGLU_CLAMP: limit */
    bool plain;        /* EXPERT_SUM: every weight is 1 */
    const graph_routing *routing; /* ROUTE */
    const char *label;            /* for people: "3.ffn_norm" */
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
    uint32_t top_k; /* rows of a token in TK values; 0: there are none */
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
/* weight GRAPH_NONE: the norm alone. */
graph_value graph_rmsnorm(graph *g, graph_value x, uint32_t weight, uint32_t width, float eps, const char *label);
/* Norms the first columns of each `width`, as many as the weight has, and keeps the others. */
graph_value graph_rmsnorm_first(graph *g, graph_value x, uint32_t weight, uint32_t width, float eps, const char *label);
graph_value graph_layernorm(graph *g, graph_value x, uint32_t weight, float eps, const char *label);
graph_value graph_matmul(graph *g, graph_value x, uint32_t weight, const char *label);
graph_value graph_bias(graph *g, graph_value x, uint32_t weight, const char *label);
graph_value graph_unary(graph *g, op o, graph_value x, float factor, const char *label);   /* SCALE, SOFTCAP */
graph_value graph_binary(graph *g, op o, graph_value a, graph_value b, const char *label); /* ADD, *_MUL */
graph_value graph_swiglu_clamp(graph *g, graph_value gate, graph_value up, float alpha, float limit, const char *label);
graph_value graph_gate(graph *g, graph_value x, graph_value gate, const char *label);
graph_value graph_pos_scale(graph *g, graph_value x, float factor, uint32_t first, uint32_t every, const char *label);
graph_value graph_rope_heads(graph *g, graph_value x, uint32_t rope, uint32_t width, const char *label);
graph_value graph_kv_write(graph *g, graph_value k, graph_value v, uint32_t kv_layer, const char *label);
graph_value graph_attention(graph *g, graph_value q, graph_value written, float scale, float softcap,
                            const char *label);
/* Gives an attention a learned sink per query head: a vector [heads]. */
void graph_attention_sinks(graph *g, graph_value attention, uint32_t weight);
/* w [heads, n, k], x [T, heads * width]: of each head the first k columns become n, the width - k others are kept. */
graph_value graph_head_matmul(graph *g, graph_value x, uint32_t weight, uint32_t width, const char *label);
/* Routes [T, 2 top_k] from logits [T, n_experts]; bias: a vector [n_experts] for choosing only, or GRAPH_NONE. */
graph_value graph_route(graph *g, graph_value logits, const graph_routing *r, uint32_t bias, const char *label);
/* w [n_experts, n, k]; x has rows T or TK, the value TK. */
graph_value graph_expert_matmul(graph *g, graph_value x, graph_value routes, uint32_t weight, const char *label);
graph_value graph_expert_bias(graph *g, graph_value x, graph_value routes, uint32_t weight, const char *label);
graph_value graph_expert_scale(graph *g, graph_value x, graph_value routes, const char *label);
/* plain: each route counts once, whatever its weight (which was applied to the input). */
graph_value graph_expert_sum(graph *g, graph_value x, graph_value routes, bool plain, const char *label);
graph_value graph_rows_wanted(graph *g, graph_value x, const char *label);
graph_value graph_sample(graph *g, graph_value logits, const char *label);

/* FL_OK, or what went wrong while building: FL_ENOMEM, FL_EFORMAT with the mistake. */
FL_CHECKED fl_status graph_failed(const graph *g, fl_err *err);

#endif
