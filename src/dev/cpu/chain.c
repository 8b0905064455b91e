/* Row-wise ops: as prologue of a product, as a group of their own, and the embedding.
 *
 * A prologue is computed row by row into a few buffers of scratch. A value that a later
 * group reads is computed straight into its place (by one thread, when several compute
 * the same row redundantly). */
#include "dev/cpu/cpu_int.h"

#include "base/assert.h"
#include "tensor/vmath_scalar.h"

#include <string.h>

void cpu_mark_bad(const cpu_step *s, graph_rows rows, uint32_t row) {
    uint32_t token = rows == GRAPH_ROWS_R    ? s->t->row_token[row]
                     : rows == GRAPH_ROWS_TK ? row / s->p->plan->g->top_k
                                             : row;
    __atomic_store_n(&s->out->seq_bad[s->t->token_seq[token]], (uint8_t)1, __ATOMIC_RELAXED);
}

static const float *weight_vector(const cpu_group *g, graph_value v) {
    return g->weights[cpu_node(g, v)->weight]->vector;
}

/* The other input of an op of two, as a block that lies like b. */
static const float *other_input(const cpu_group *g, const cpu_step *s, const graph_node *node, graph_value x_of,
                                const cpu_block *b, size_t *stride) {
    graph_value other = node->in[0] == x_of ? node->in[1] : node->in[0];
    *stride = node->cols;
    return cpu_value_row(g, s, other, b->row) + b->col;
}

void cpu_binary(const cpu_group *g, const graph_node *n, float *y, const float *a, const float *b, uint32_t cols) {
    const cpu_row_kernels *k = g->set->row;
    switch (n->op) {
        case OP_ADD: k->add(y, a, b, cols); return;
        case OP_SILU_MUL: k->silu_mul(y, a, b, cols); return;
        case OP_GELU_TANH_MUL: k->gelu_tanh_mul(y, a, b, cols); return;
        case OP_SWIGLU_CLAMP: k->swiglu_clamp(y, a, b, n->factor, n->softcap, cols); return;
        default: fl_assert(0 && "an element-wise op of two inputs");
    }
}

uint32_t cpu_route_expert(const cpu_group *g, const cpu_step *s, graph_value routes, uint32_t row) {
    uint32_t top_k = g->plan->g->top_k;
    return (uint32_t)cpu_value_row(g, s, routes, row / top_k)[row % top_k];
}

static void expert_bias(const cpu_group *g, const cpu_step *s, graph_value v, const cpu_block *b) {
    const graph_node *n = cpu_node(g, v);
    for (uint32_t r = 0; r < b->n_rows; r++) {
        size_t expert = cpu_route_expert(g, s, n->in[1], b->row + r);
        float *y = b->y + r * b->stride;
        g->set->row->add(y, y, weight_vector(g, v) + expert * n->cols + b->col, b->n);
    }
}

void cpu_elem(const cpu_group *g, const cpu_step *s, graph_value v, graph_value x_of, const cpu_block *b) {
    const graph_node *node = cpu_node(g, v);
    const cpu_row_kernels *k = g->set->row;
    const bool gate = node->in[0] == x_of; /* x is the gate of a gated op; addition does not mind the side */
    size_t stride = 0;
    const float *o = NULL;
    if (node->op == OP_EXPERT_BIAS) {
        expert_bias(g, s, v, b);
        return;
    }
    if (op_get(node->op)->n_inputs == 2) o = other_input(g, s, node, x_of, b, &stride);
    float *y = b->y;
    for (uint32_t r = 0; r < b->n_rows; r++, y += b->stride, o = o ? o + stride : NULL) {
        switch (node->op) {
            case OP_BIAS: k->add(y, y, weight_vector(g, v) + b->col, b->n); break;
            case OP_SCALE: k->scale(y, y, node->factor, b->n); break;
            case OP_SOFTCAP: k->softcap(y, y, node->factor, b->n); break;
            default: cpu_binary(g, node, y, gate ? y : o, gate ? o : y, b->n);
        }
    }
}

static void rope_row(const cpu_group *g, const cpu_step *s, const graph_node *n, uint32_t row, const float *x,
                     float *y) {
    const graph_rope *r = &g->plan->g->ropes[n->rope];
    size_t at = s->p->rope_offset[n->rope] + (size_t)row * (r->d / 2);
    if (y != x) memcpy(y, x, n->cols * sizeof *y);
    for (uint32_t h = 0; h < n->cols; h += n->width)
        g->set->row->rope(y + h + r->first, s->p->cos + at, s->p->sin + at, r->d, r->half);
}

void cpu_norm_head(const cpu_group *g, graph_value v, const float *x, float *y) {
    const graph_node *n = cpu_node(g, v);
    const float *w = n->weight == GRAPH_NONE ? NULL : weight_vector(g, v);
    uint32_t width = w ? g->weights[n->weight]->desc.k : n->width;
    g->set->row->rmsnorm(y, x, w, width, n->factor);
    if (y != x) memcpy(y + width, x + width, (n->width - width) * sizeof *y);
}

static void pos_scale(const cpu_group *g, const cpu_step *s, const graph_node *n, uint32_t row, const float *x,
                      float *y) {
    uint64_t steps = ((uint64_t)s->t->position[row] + n->first) / n->width;
    g->set->row->scale(y, x, 1.0f + n->factor * vm_log1p((float)steps), n->cols);
}

/* b: the gate, as wide as x, or of one column. */
static void gate(const cpu_group *g, const graph_node *n, const float *x, const float *b, float *y) {
    const cpu_row_kernels *k = g->set->row;
    if (cpu_node(g, n->in[1])->cols == 1) {
        float factor;
        k->sigmoid(&factor, b, 1);
        k->scale(y, x, factor, n->cols);
        return;
    }
    k->sigmoid(y, b, n->cols);
    k->mul(y, y, x, n->cols);
}

/* a: the rows of x of all the token's routes, one after the other; b: its routes. */
static void expert_sum(const cpu_group *g, const graph_node *n, const float *a, const float *b, float *y) {
    uint32_t top_k = g->plan->g->top_k;
    memset(y, 0, n->cols * sizeof *y);
    for (uint32_t j = 0; j < top_k; j++)
        g->set->row->add_scaled(y, a + (size_t)j * n->cols, n->plain ? 1.0f : b[top_k + j], n->cols);
}

/* One op on a whole row; a and b are its inputs' rows, y is none of them. */
static void row_op(const cpu_group *g, const cpu_step *s, graph_value v, uint32_t row, const float *a, const float *b,
                   float *y) {
    const graph_node *n = cpu_node(g, v);
    const cpu_row_kernels *k = g->set->row;
    switch (n->op) {
        case OP_RMSNORM:
            for (uint32_t c = 0; c < n->cols; c += n->width) cpu_norm_head(g, v, a + c, y + c);
            return;
        case OP_LAYERNORM: k->layernorm(y, a, weight_vector(g, v), n->cols, n->factor); return;
        case OP_ROPE: rope_row(g, s, n, row, a, y); return;
        case OP_ROWS: memcpy(y, a, n->cols * sizeof *y); return;
        case OP_POS_SCALE: pos_scale(g, s, n, row, a, y); return;
        case OP_GATE: gate(g, n, a, b, y); return;
        case OP_ROUTE: cpu_route_row(n->routing, k, a, n->weight == GRAPH_NONE ? NULL : weight_vector(g, v), y); return;
        case OP_EXPERT_SCALE: k->scale(y, a, b[g->plan->g->top_k + row % g->plan->g->top_k], n->cols); return;
        case OP_EXPERT_SUM: expert_sum(g, n, a, b, y); return;
        case OP_ADD:
        case OP_SILU_MUL:
        case OP_GELU_TANH_MUL:
        case OP_SWIGLU_CLAMP: cpu_binary(g, n, y, a, b, n->cols); return;
        default:
            if (y != a) memcpy(y, a, n->cols * sizeof *y);
            cpu_elem(g, s, v, n->in[0], &(cpu_block){row, 1, 0, n->cols, y, n->cols});
            return;
    }
}

size_t cpu_chain_scratch(const cpu_group *g) { return ((size_t)g->g->n_pre + 1) * g->pre_cols * sizeof(float) + 64; }

/* Where an input of the chain lies: in a buffer of the chain, or stored by an earlier group. */
static const float *input_row(const cpu_group *g, const cpu_step *s, graph_value v, const graph_node *user,
                              uint32_t row, const float *const *slot) {
    for (uint32_t i = 0; i < g->g->n_pre; i++)
        if (g->g->pre[i] == v) return slot[i];
    graph_rows rows = cpu_node(g, v)->rows;
    if (user->op == OP_ROWS) row = s->t->row_token[row];
    if (rows == GRAPH_ROWS_T && user->rows == GRAPH_ROWS_TK) row /= g->plan->g->top_k;
    if (rows == GRAPH_ROWS_TK && user->rows == GRAPH_ROWS_T) row *= g->plan->g->top_k;
    return cpu_value_row(g, s, v, row);
}

static void row_value(const cpu_group *g, const cpu_step *s, graph_value v, uint32_t row, const float *const *slot,
                      float *y) {
    const graph_node *n = cpu_node(g, v);
    const float *a = input_row(g, s, n->in[0], n, row, slot);
    const float *b = op_get(n->op)->n_inputs == 2 ? input_row(g, s, n->in[1], n, row, slot) : NULL;
    row_op(g, s, v, row, a, b, y);
}

/* Computes the prologue of one row; slot[i] gets the place of pre[i]. */
static void run_chain(const cpu_group *g, const cpu_step *s, uint32_t row, float *scratch, bool store,
                      const float **slot) {
    for (uint32_t i = 0; i < g->g->n_pre; i++) {
        graph_value v = g->g->pre[i];
        float *y = store && g->plan->stored[v] ? cpu_value_row(g, s, v, row) : scratch + (size_t)i * g->pre_cols;
        row_value(g, s, v, row, slot, y);
        slot[i] = y;
    }
}

const float *cpu_chain_row(const cpu_group *g, const cpu_step *s, uint32_t row, float *scratch, bool store) {
    const float *slot[GROUP_PRE_MAX] = {0};
    run_chain(g, s, row, scratch, store, slot);
    const graph_node *main = cpu_node(g, g->g->mains[0]);
    return input_row(g, s, main->in[0], main, row, slot);
}

static const char *refuses_nothing(const cpu_group *g) {
    (void)g;
    return NULL;
}

static void chain_launch(const cpu_group *g, const cpu_step *s, uint32_t thread, uint32_t n_threads) {
    uint32_t begin, end;
    graph_value main = g->g->mains[0];
    cpu_pool_part(cpu_step_rows(s, g->g->rows), thread, n_threads, &begin, &end);
    for (uint32_t row = begin; row < end; row++) {
        const float *slot[GROUP_PRE_MAX] = {0};
        run_chain(g, s, row, (float *)cpu_scratch(s, thread), true, slot);
        if (g->plan->stored[main]) row_value(g, s, main, row, slot, cpu_value_row(g, s, main, row));
    }
}

const cpu_row cpu_row_chain = {"chain", OP_COUNT, refuses_nothing, cpu_chain_scratch, NULL, chain_launch};

static const char *embed_refuses(const cpu_group *g) {
    return g->weights[cpu_node(g, g->g->mains[0])->weight]->desc.uses & GRAPH_USE_EMBED
               ? NULL
               : "the weight was not opened for lookup";
}

static size_t no_scratch(const cpu_group *g) {
    (void)g;
    return 0;
}

static void embed_launch(const cpu_group *g, const cpu_step *s, uint32_t thread, uint32_t n_threads) {
    const dev_weight *w = g->weights[cpu_node(g, g->g->mains[0])->weight];
    const dtype_info *t = dtype_find(w->desc.type);
    graph_value out = g->g->n_post ? g->g->post[g->g->n_post - 1] : g->g->mains[0];
    uint32_t begin, end;
    cpu_pool_part(s->t->n_tokens, thread, n_threads, &begin, &end);
    for (uint32_t row = begin; row < end; row++) {
        uint32_t id = s->t->token[row];
        if (id & DEV_DRAWN) id = s->p->drawn[id & ~(uint32_t)DEV_DRAWN];
        float *y = cpu_value_row(g, s, out, row);
        t->decode(w->rows + (size_t)id * w->row_bytes, y, w->desc.k);
        graph_value x = g->g->mains[0];
        for (uint32_t i = 0; i < g->g->n_post; x = g->g->post[i++])
            cpu_elem(g, s, g->g->post[i], x, &(cpu_block){row, 1, 0, w->desc.k, y, w->desc.k});
    }
}

const cpu_row cpu_row_embed = {"embed", OP_EMBED, embed_refuses, no_scratch, NULL, embed_launch};
