#include "graph/plan.h"

#include "base/assert.h"
#include "base/mem.h"
#include "graph/plan_int.h"

#include <string.h>

uint32_t graph_plan_rows_max(const graph_plan *p, graph_rows rows) {
    return rows == GRAPH_ROWS_R    ? p->ranges.rows
           : rows == GRAPH_ROWS_TK ? p->ranges.tokens * p->g->top_k
                                   : p->ranges.tokens;
}

size_t graph_plan_value_bytes(const graph_plan *p, graph_value v) {
    const graph_node *n = &p->g->nodes[v];
    size_t bytes = (size_t)graph_plan_rows_max(p, n->rows) * n->cols * sizeof(float);
    return (bytes + 63) & ~(size_t)63;
}

/* The groups in which v must keep its place: from its own to its last reader's. */
static uint32_t last_use(const graph_plan *p, graph_value v) {
    uint32_t last = p->group_of[v];
    for (uint32_t u = v + 1; u < p->g->n_nodes; u++) {
        const graph_node *n = &p->g->nodes[u];
        for (int i = 0; i < op_get(n->op)->n_inputs; i++)
            if (n->in[i] == v && p->group_of[u] != GRAPH_NONE && p->group_of[u] > last) last = p->group_of[u];
    }
    return last;
}

static bool is_read(const graph_plan *p, graph_value v) {
    for (uint32_t u = v + 1; u < p->g->n_nodes; u++) {
        const graph_node *n = &p->g->nodes[u];
        for (int i = 0; i < op_get(n->op)->n_inputs; i++)
            if (n->in[i] == v && p->group_of[u] != GRAPH_NONE) return true;
    }
    return false;
}

typedef struct {
    graph_value v;
    uint32_t first, last;
    size_t bytes;
} lifetime;

/* The lowest offset where `l` fits beside all placed values that live at the same time. */
static size_t first_fit(const graph_plan *p, const lifetime *placed, uint32_t n, const lifetime *l) {
    size_t at = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (uint32_t i = 0; i < n; i++) {
            const lifetime *o = &placed[i];
            size_t begin = p->offset[o->v];
            if (o->last < l->first || l->last < o->first || begin + o->bytes <= at || at + l->bytes <= begin) continue;
            at = begin + o->bytes;
            moved = true;
        }
    }
    return at;
}

/* Larger values first: they leave fewer holes. Equal sizes keep the order of the graph. */
static void sort_by_size(lifetime *l, uint32_t n) {
    for (uint32_t i = 1; i < n; i++) {
        lifetime x = l[i];
        uint32_t j = i;
        for (; j > 0 && l[j - 1].bytes < x.bytes; j--) l[j] = l[j - 1];
        l[j] = x;
    }
}

static fl_status place_values(graph_plan *p, fl_err *err) {
    const graph *g = p->g;
    lifetime *l = base_calloc(g->n_nodes + 1, sizeof *l);
    if (!l) return fl_fail(err, FL_ENOMEM, "a memory plan: no memory");
    uint32_t n = 0;
    for (graph_value v = 0; v < g->n_nodes; v++) {
        p->stored[v] = false;
        if (p->group_of[v] == GRAPH_NONE || g->nodes[v].cols == 0) continue;
        uint32_t last = last_use(p, v);
        p->stored[v] = last > p->group_of[v] || !is_read(p, v);
        if (p->stored[v]) l[n++] = (lifetime){v, p->group_of[v], last, graph_plan_value_bytes(p, v)};
    }
    sort_by_size(l, n);
    p->arena_bytes = 0;
    for (uint32_t i = 0; i < n; i++) {
        p->offset[l[i].v] = first_fit(p, l, i, &l[i]);
        size_t end = p->offset[l[i].v] + l[i].bytes;
        if (end > p->arena_bytes) p->arena_bytes = end;
    }
    base_free(l);
    return FL_OK;
}

fl_status graph_plan_open(graph_plan **out, const graph *g, graph_ranges ranges, int opt_level, fl_err *err) {
    *out = NULL;
    graph_plan *p = base_calloc(1, sizeof *p);
    if (!p) return fl_fail(err, FL_ENOMEM, "a plan: no memory");
    p->g = g;
    p->ranges = ranges;
    p->opt_level = opt_level;
    fl_status st = FL_OK;
    p->groups = base_arena_calloc(&p->memory, g->n_nodes + 1, sizeof *p->groups);
    p->group_of = base_arena_calloc(&p->memory, g->n_nodes + 1, sizeof *p->group_of);
    p->stored = base_arena_calloc(&p->memory, g->n_nodes + 1, sizeof *p->stored);
    p->offset = base_arena_calloc(&p->memory, g->n_nodes + 1, sizeof *p->offset);
    if (!p->groups || !p->group_of || !p->stored || !p->offset) {
        st = fl_fail(err, FL_ENOMEM, "a plan of %u ops: no memory", g->n_nodes);
        goto fail;
    }
    graph_group_all(p);
    st = place_values(p, err);
    if (st != FL_OK) goto fail;
    *out = p;
    return FL_OK;

fail:
    graph_plan_close(p);
    return st;
}

void graph_plan_close(graph_plan *p) {
    if (!p) return;
    base_arena_clear(&p->memory);
    base_free(p);
}

fl_status graph_plan_split(graph_plan *p, uint32_t i, fl_err *err) {
    graph_group_split(p, i);
    return place_values(p, err);
}

static bool print_ops(const graph_plan *p, const graph_value *v, uint32_t n, const char *before, base_buf *out) {
    for (uint32_t i = 0; i < n; i++) {
        const graph_node *node = &p->g->nodes[v[i]];
        if (!base_buf_printf(out, "%s%s%s", i ? " " : before, op_get(node->op)->name, p->stored[v[i]] ? "*" : ""))
            return false;
    }
    return true;
}

bool graph_plan_print_group(const graph_plan *p, uint32_t i, base_buf *out) {
    const graph_group *g = &p->groups[i];
    return print_ops(p, g->pre, g->n_pre, "", out) && print_ops(p, g->mains, g->n_main, g->n_pre ? " > " : "", out) &&
           print_ops(p, g->post, g->n_post, " > ", out);
}

void graph_plan_check(const graph_plan *p) {
    for (graph_value a = 0; a < p->g->n_nodes; a++) {
        if (p->group_of[a] == GRAPH_NONE) continue;
        for (int i = 0; i < op_get(p->g->nodes[a].op)->n_inputs; i++)
            fl_assert(p->group_of[p->g->nodes[a].in[i]] <= p->group_of[a]);
        if (!p->stored[a]) continue;
        size_t a_bytes = graph_plan_value_bytes(p, a);
        uint32_t a_last = last_use(p, a);
        fl_assert(p->offset[a] + a_bytes <= p->arena_bytes);
        for (graph_value b = a + 1; b < p->g->n_nodes; b++) {
            if (p->group_of[b] == GRAPH_NONE || !p->stored[b]) continue;
            if (a_last < p->group_of[b] || last_use(p, b) < p->group_of[a]) continue;
            fl_assert(p->offset[a] + a_bytes <= p->offset[b] ||
                      p->offset[b] + graph_plan_value_bytes(p, b) <= p->offset[a]);
        }
    }
}
