/* Grouping, in one walk over the nodes in their order.
 *
 * A row-wise op is left pending until somebody needs its value: a product or an
 * attention takes all pending ancestors of its input as its prologue; anything else
 * makes them a group of their own first. An element-wise op that is the only reader of
 * a product continues that product's tiles instead (epilogue). Products of one input
 * join the group of the first (merge). So groups come out in an order in which each
 * reads only what earlier ones stored.
 */
#include "graph/plan_int.h"

#include "base/assert.h"

#include <string.h>

enum { PENDING = 0xfffffffe }; /* in group_of: a row-wise op nobody has needed yet */

static const graph_node *node(const graph_plan *p, graph_value v) { return &p->g->nodes[v]; }

static graph_group *add_group(graph_plan *p, graph_value main) {
    graph_group *g = &p->groups[p->n_groups];
    memset(g, 0, sizeof *g);
    g->main = node(p, main)->op;
    g->rows = node(p, main)->rows;
    g->mains[g->n_main++] = main;
    p->group_of[main] = p->n_groups++;
    return g;
}

/* The pending ancestors of v, itself included, in order; 0 when there are none or too many, or when one of them
 * iterates over other rows than `rows` or is refused by `allowed`. */
static uint32_t pending_chain(const graph_plan *p, graph_value v, graph_rows rows,
                              bool (*allowed)(const graph_node *, uint32_t), uint32_t width,
                              graph_value chain[GROUP_PRE_MAX]) {
    uint32_t n = 0;
    if (p->group_of[v] != PENDING) return 0;
    chain[n++] = v;
    for (uint32_t done = 0; done < n; done++) {
        const graph_node *x = node(p, chain[done]);
        if (x->rows != rows || !allowed(x, width)) return 0;
        for (int i = 0; i < op_get(x->op)->n_inputs; i++) {
            bool known = p->group_of[x->in[i]] != PENDING;
            for (uint32_t j = 0; j < n; j++) known |= chain[j] == x->in[i];
            if (known) continue;
            if (n == GROUP_PRE_MAX) return 0;
            chain[n++] = x->in[i];
        }
    }
    for (uint32_t i = 1; i < n; i++) /* numbers rise from inputs to users: sorting gives an order of computation */
        for (uint32_t j = i; j > 0 && chain[j - 1] > chain[j]; j--) {
            graph_value t = chain[j];
            chain[j] = chain[j - 1];
            chain[j - 1] = t;
        }
    return n;
}

static void take_prologue(graph_plan *p, uint32_t group, const graph_value *chain, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        p->groups[group].pre[p->groups[group].n_pre++] = chain[i];
        p->group_of[chain[i]] = group;
    }
}

static bool any_row_op(const graph_node *n, uint32_t width) {
    (void)n, (void)width;
    return true;
}

/* What attention and cache writes can do to a head before they use it: only they may read the value. */
static bool head_op(const graph_node *n, uint32_t width) {
    return n->n_users == 1 && ((n->op == OP_RMSNORM && n->width == width) || (n->op == OP_ROPE && n->width == width));
}

/* Makes sure that v is computed and stored: a pending chain becomes a group of its own, ending in v. */
static void flush(graph_plan *p, graph_value v) {
    if (p->group_of[v] != PENDING) return;
    graph_value chain[GROUP_PRE_MAX];
    uint32_t n = pending_chain(p, v, node(p, v)->rows, any_row_op, 0, chain);
    if (n == 0) { /* longer than a group takes: its inputs first */
        for (int i = 0; i < op_get(node(p, v)->op)->n_inputs; i++) flush(p, node(p, v)->in[i]);
        chain[0] = v;
        n = 1;
    }
    add_group(p, v);
    take_prologue(p, p->n_groups - 1, chain, n - 1);
}

/* Whether two products read the same: x, and where experts compute, the routes. */
static bool same_inputs(const graph_node *a, const graph_node *b) {
    return a->op == b->op && a->in[0] == b->in[0] && (op_get(a->op)->n_inputs < 2 || a->in[1] == b->in[1]);
}

static void group_matmul(graph_plan *p, graph_value v) {
    graph_value x = node(p, v)->in[0];
    compute c = p->g->weights[node(p, v)->weight].compute;
    if (node(p, v)->op == OP_EXPERT_MATMUL) flush(p, node(p, v)->in[1]);
    for (uint32_t i = 0; i < p->n_groups; i++) {
        graph_group *g = &p->groups[i];
        if (!same_inputs(node(p, g->mains[0]), node(p, v)) || g->n_main == GROUP_MAIN_MAX || g->n_post) continue;
        if (p->g->weights[node(p, g->mains[0])->weight].compute != c) continue;
        g->mains[g->n_main++] = v;
        p->group_of[v] = i;
        return;
    }
    graph_value chain[GROUP_PRE_MAX];
    uint32_t n = pending_chain(p, x, node(p, v)->rows, any_row_op, 0, chain);
    if (n == 0) flush(p, x);
    add_group(p, v);
    take_prologue(p, p->n_groups - 1, chain, n);
}

/* Attention and cache writes take norms and RoPE of their heads with them. */
static void group_head(graph_plan *p, graph_value v) {
    const graph_node *x = node(p, v);
    graph_value chain[GROUP_PRE_MAX];
    uint32_t n = pending_chain(p, x->in[0], x->rows, head_op, x->width, chain);
    if (n == 0) flush(p, x->in[0]);
    if (x->in[1] != x->in[0]) flush(p, x->in[1]);
    add_group(p, v);
    take_prologue(p, p->n_groups - 1, chain, n);
}

/* Index in g's mains of the result that value v continues: v is a main or the last post op of one. */
static int continues(const graph_group *g, graph_value v) {
    for (int m = 0; m < g->n_main; m++) {
        graph_value tail = g->mains[m];
        for (int i = 0; i < g->n_post; i++)
            if (g->post_main[i] == m) tail = g->post[i];
        if (tail == v) return m;
    }
    return -1;
}

/* Whether the element-wise op v may continue the tiles of group i through input `side`. */
static bool join_epilogue(graph_plan *p, graph_value v, uint32_t i, int side) {
    graph_group *g = &p->groups[i];
    const graph_node *x = node(p, v);
    bool takes_posts = g->main == OP_MATMUL || g->main == OP_EXPERT_MATMUL || g->main == OP_EMBED;
    if (!takes_posts || g->n_post == GROUP_POST_MAX) return false;
    if (node(p, x->in[side])->n_users != 1 || x->rows != g->rows) return false;
    int m = continues(g, x->in[side]);
    if (m < 0) return false;
    bool paired = false;
    if (op_get(x->op)->n_inputs == 2) {
        graph_value other = x->in[!side];
        paired = g->n_main == 2 && g->n_post == 0 && x->in[0] == g->mains[0] && x->in[1] == g->mains[1] &&
                 node(p, other)->n_users == 1;
        if (!paired && (p->group_of[other] == PENDING || p->group_of[other] >= i)) return false;
    }
    g->post[g->n_post] = v;
    g->post_main[g->n_post++] = (uint8_t)(paired ? 0 : m);
    g->paired |= paired;
    p->group_of[v] = i;
    return true;
}

static void group_row(graph_plan *p, graph_value v) {
    const graph_node *x = node(p, v);
    for (int i = 0; i < op_get(x->op)->n_inputs; i++) /* a chain has one kind of rows */
        if (node(p, x->in[i])->rows != x->rows) flush(p, x->in[i]);
    if (op_get(x->op)->kind == OP_KIND_ELEM)
        for (int side = 0; side < op_get(x->op)->n_inputs; side++) {
            uint32_t i = p->group_of[x->in[side]];
            if (i != PENDING && i != GRAPH_NONE && join_epilogue(p, v, i, side)) return;
        }
    p->group_of[v] = PENDING;
}

static void group_single(graph_plan *p, graph_value v) { add_group(p, v); }

void graph_group_all(graph_plan *p) {
    p->n_groups = 0;
    for (graph_value v = 0; v < p->g->n_nodes; v++) p->group_of[v] = GRAPH_NONE;
    for (graph_value v = 0; v < p->g->n_nodes; v++) {
        if (p->opt_level == 0) {
            group_single(p, v);
            continue;
        }
        switch (node(p, v)->op) {
            case OP_EMBED: add_group(p, v); break;
            case OP_MATMUL:
            case OP_EXPERT_MATMUL: group_matmul(p, v); break;
            case OP_KV_WRITE:
            case OP_ATTENTION: group_head(p, v); break;
            case OP_HEAD_MATMUL:
            case OP_SAMPLE:
                flush(p, node(p, v)->in[0]);
                add_group(p, v);
                break;
            default: group_row(p, v); break;
        }
    }
    for (graph_value v = 0; v < p->g->n_nodes; v++) /* what nobody needed is not computed */
        if (p->group_of[v] == PENDING) p->group_of[v] = GRAPH_NONE;
}

void graph_group_split(graph_plan *p, uint32_t i) {
    graph_group old = p->groups[i];
    uint32_t n = (uint32_t)old.n_pre + old.n_main + old.n_post;
    graph_value all[GROUP_PRE_MAX + GROUP_MAIN_MAX + GROUP_POST_MAX];
    for (uint32_t k = 0; k < n; k++)
        all[k] = k < old.n_pre                          ? old.pre[k]
                 : k < (uint32_t)old.n_pre + old.n_main ? old.mains[k - old.n_pre]
                                                        : old.post[k - old.n_pre - old.n_main];
    memmove(&p->groups[i + n], &p->groups[i + 1], (p->n_groups - i - 1) * sizeof *p->groups);
    for (graph_value v = 0; v < p->g->n_nodes; v++)
        if (p->group_of[v] != GRAPH_NONE && p->group_of[v] > i) p->group_of[v] += n - 1;
    uint32_t n_groups = p->n_groups + n - 1;
    for (uint32_t k = 0; k < n; k++) {
        p->n_groups = i + k;
        add_group(p, all[k]);
    }
    p->n_groups = n_groups;
    fl_assert(p->n_groups <= p->g->n_nodes);
}
