/* graph/plan.h - what a back end compiles: the graph cut into groups, and a place in memory for each value between them.
 *
 * A group is one main op with what was fused before and after it:
 *     pre    row-wise ops that lead to the main op's input, computed row by row
 *     mains  the main ops: several products of one input share a group (the merge of Q, K, V; of gate and up; of an
 *            expert's gate and up, if both have the same routes)
 *     post   element-wise ops applied to each finished tile
 * A group without main op is a chain of row-wise ops whose last one stands as main.
 *
 * Legality is decided on the graph, never by names: an op joins a group only if nobody
 * else needs the value in between, or the value is stored as well. Grouping never changes
 * bits, since every op keeps its own rounding.
 *
 * A value is stored when a later group reads it, or when nobody does: a main op writes its
 * result somewhere. Stored values get offsets in one arena
 * by first fit over their lifetimes; two values that live in the same group never overlap
 * (graph_plan_check() proves it).
 */
#ifndef GRAPH_PLAN_H
#define GRAPH_PLAN_H

#include "base/buf.h"
#include "graph/graph.h"

enum { GROUP_PRE_MAX = 8, GROUP_MAIN_MAX = 4, GROUP_POST_MAX = 8 };

typedef struct {
    op main;         /* op of the mains */
    graph_rows rows; /* what the group iterates over */
    uint8_t n_pre, n_main, n_post;
    bool paired;                    /* MATMUL: the first post op combines mains 0 and 1 tile by tile */
    graph_value pre[GROUP_PRE_MAX]; /* in order of computation */
    graph_value mains[GROUP_MAIN_MAX];
    graph_value post[GROUP_POST_MAX];
    uint8_t post_main[GROUP_POST_MAX]; /* the main whose result post[i] continues; 0 when paired */
} graph_group;

/* Most of each symbolic size that a program must take. */
typedef struct {
    uint32_t tokens, seqs, rows;
} graph_ranges;

typedef struct {
    const graph *g; /* borrowed */
    graph_ranges ranges;
    int opt_level; /* 0: every op a group of its own */
    graph_group *groups;
    uint32_t n_groups;
    uint32_t *group_of; /* by node */
    bool *stored;       /* by node */
    size_t *offset;     /* by node, of stored ones, in bytes */
    size_t arena_bytes;
    base_arena memory;
} graph_plan;

/* Groups and places. The caller owns *out: graph_plan_close(); g must outlive it. Errors: FL_ENOMEM. */
FL_CHECKED fl_status graph_plan_open(graph_plan **out, const graph *g, graph_ranges ranges, int opt_level, fl_err *err);
void graph_plan_close(graph_plan *p);

/* Most rows that a value of these rows has in a step. */
uint32_t graph_plan_rows_max(const graph_plan *p, graph_rows rows);

/* Replaces group i by single ops, for a back end that has no row for it. Offsets change. Errors: FL_ENOMEM. */
FL_CHECKED fl_status graph_plan_split(graph_plan *p, uint32_t i, fl_err *err);

/* One group as text: "rmsnorm > matmul matmul > silu_mul". */
bool graph_plan_print_group(const graph_plan *p, uint32_t i, base_buf *out);

/* Asserts the invariants above. */
void graph_plan_check(const graph_plan *p);

#endif
