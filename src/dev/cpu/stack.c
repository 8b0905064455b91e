/* Products with a stack of matrices: one slice per expert, or per head.
 *
 * A slice that has rows to compute, with these rows, is a segment: an expert with the routes
 * that lead to it (in the order of tokens), or a head with all tokens. Each segment's rows
 * are converted as activations of their own, so that a kernel sees what it sees in an
 * ordinary product, and experts that nobody chose are not read.
 *
 * Work is cut by tiles of 16 weight rows, weighed by the rows they meet: a static cut that
 * every thread computes for itself from the routes. With one token each thread converts the
 * rows of its own segments; else rows are shared out and a barrier follows. A row's result
 * depends on neither: each output is its own sum.
 */
#include "dev/cpu/cpu_int.h"

#include "base/assert.h"

#include <string.h>

enum {
    BLOCK_TOKENS = 48, /* rows of a block: 3 KB of results per tile */
    TILE_COST = 8,     /* of reading and unpacking a tile, in rows of computing with it */
};

typedef struct {
    uint32_t slice, n_rows;
    uint32_t first; /* of its rows in job.order */
    size_t act;     /* offset of its converted rows */
    uint64_t cost;  /* of all segments before it */
} segment;

typedef struct {
    const cpu_group *g;
    const cpu_step *s;
    const dev_weight *w[GROUP_MAIN_MAX];
    uint32_t n_main;  /* tiles of so many mains are work of their own: 1 where they are paired */
    uint32_t n_tiles; /* of a segment, all mains together */
    segment *segments;
    uint32_t n_segments;
    uint32_t *order; /* rows of TK, sorted by expert; NULL: segments have all tokens */
    uint64_t cost;   /* of everything */
    float *chain;
    uint8_t *act; /* of one row, where a thread converts for itself */
    uint8_t *panel[2];
    float *block[2];
} job;

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

static const dev_weight *weight_of(const cpu_group *g, uint32_t m) {
    return g->weights[cpu_node(g, g->g->mains[m])->weight];
}

static bool is_experts(const cpu_group *g) { return g->g->main == OP_EXPERT_MATMUL; }

static const char *refuses(const cpu_group *g) {
    for (uint32_t m = 0; m < g->g->n_main; m++) {
        if (weight_of(g, m)->set != g->set) return "a weight is packed for another set";
        if (cpu_weight_slices(weight_of(g, m)) != cpu_weight_slices(weight_of(g, 0))) return "stacks differ in depth";
    }
    return NULL;
}

static const cpu_matmul_kernels *kernels_of(const cpu_group *g) {
    return cpu_kernels_matmul(g->set, weight_of(g, 0)->packed.compute);
}

static size_t panel_bytes(const cpu_group *g) {
    size_t most = 0;
    for (uint32_t m = 0; m < g->g->n_main; m++) {
        size_t bytes = align64(kernels_of(g)->panel_bytes(&weight_of(g, m)->packed));
        if (bytes > most) most = bytes;
    }
    return most;
}

static size_t act_bytes(const cpu_group *g, uint32_t n_rows) {
    const cpu_weight *w = &weight_of(g, 0)->packed;
    return align64(kernels_of(g)->act_bytes(w->compute, w->k, n_rows));
}

static const size_t block_bytes = (size_t)BLOCK_TOKENS * CPU_TILE_ROWS * sizeof(float);

/* In this order: chain buffers, one converted row, segments, sorted rows, two panels, two blocks. */
static size_t stack_scratch(const cpu_group *g) {
    size_t order = is_experts(g) ? graph_plan_rows_max(g->plan, GRAPH_ROWS_TK) : 0;
    return align64(cpu_chain_scratch(g)) + act_bytes(g, 1) +
           align64(cpu_weight_slices(weight_of(g, 0)) * sizeof(segment)) + align64(order * sizeof(uint32_t)) +
           2 * panel_bytes(g) + 2 * block_bytes;
}

/* All segments' rows, each segment padded as its set likes: at most by a panel's tokens. */
static size_t stack_shared(const cpu_group *g) {
    uint32_t slices = cpu_weight_slices(weight_of(g, 0)), rows = graph_plan_rows_max(g->plan, g->g->rows);
    if (!is_experts(g)) return slices * act_bytes(g, rows);
    uint32_t used = slices < rows ? slices : rows;
    return act_bytes(g, rows + used * kernels_of(g)->panel_tokens) + used * 64u;
}

/* Segments of experts: a counting sort of the routes. */
static void sort_routes(job *j, uint32_t rows) {
    const cpu_group *g = j->g;
    const graph_value routes = cpu_node(g, g->g->mains[0])->in[1];
    const uint32_t slices = cpu_weight_slices(j->w[0]);
    uint32_t count[GRAPH_EXPERTS_MAX] = {0}, next = 0;
    for (uint32_t r = 0; r < rows; r++) count[cpu_route_expert(g, j->s, routes, r)]++;
    for (uint32_t e = 0; e < slices; e++) {
        uint32_t n = count[e];
        if (n > 0) j->segments[j->n_segments++] = (segment){.slice = e, .n_rows = n, .first = next};
        count[e] = next; /* where its next route goes */
        next += n;
    }
    for (uint32_t r = 0; r < rows; r++) j->order[count[cpu_route_expert(g, j->s, routes, r)]++] = r;
}

static uint64_t tile_cost(const segment *s) { return s->n_rows + TILE_COST; }

static void open_job(job *j, const cpu_group *g, const cpu_step *s, uint32_t thread, uint32_t rows) {
    uint8_t *scratch = cpu_scratch(s, thread);
    const uint32_t slices = cpu_weight_slices(weight_of(g, 0));
    *j = (job){.g = g, .s = s, .n_main = g->g->paired ? 1 : g->g->n_main, .chain = (float *)scratch};
    for (uint32_t m = 0; m < g->g->n_main; m++) j->w[m] = weight_of(g, m);
    for (uint32_t m = 0; m < j->n_main; m++) j->n_tiles += j->w[m]->packed.n_tiles;
    scratch += align64(cpu_chain_scratch(g));
    j->act = scratch;
    scratch += act_bytes(g, 1);
    j->segments = (segment *)(void *)scratch;
    scratch += align64(slices * sizeof(segment));
    if (is_experts(g)) {
        j->order = (uint32_t *)(void *)scratch;
        scratch += align64(graph_plan_rows_max(g->plan, GRAPH_ROWS_TK) * sizeof(uint32_t));
        sort_routes(j, rows);
    } else {
        for (uint32_t h = 0; h < slices; h++) j->segments[j->n_segments++] = (segment){.slice = h, .n_rows = rows};
    }
    for (uint32_t i = 0; i < 2; i++, scratch += panel_bytes(g)) j->panel[i] = scratch;
    for (uint32_t i = 0; i < 2; i++, scratch += block_bytes) j->block[i] = (float *)(void *)scratch;
    size_t act = 0;
    for (uint32_t i = 0; i < j->n_segments; i++) {
        segment *x = &j->segments[i];
        x->act = act;
        x->cost = j->cost;
        act += act_bytes(g, x->n_rows);
        j->cost += j->n_tiles * tile_cost(x);
    }
    fl_assert(act <= stack_shared(g));
}

/* Row i of a segment as a row of the group. */
static uint32_t row_of(const job *j, const segment *x, uint32_t i) { return j->order ? j->order[x->first + i] : i; }

static cpu_act act_of(const job *j, const segment *x, uint8_t *data) {
    const cpu_weight *w = &j->w[0]->packed;
    return (cpu_act){w->compute, w->k, x->n_rows, data};
}

static void convert(const job *j, const segment *x, cpu_act *a, uint32_t i, bool store) {
    const graph_node *main = cpu_node(j->g, j->g->g->mains[0]);
    const uint32_t row = row_of(j, x, i);
    const float *in = cpu_chain_row(j->g, j->s, row, j->chain, store);
    if (!j->order) in += (size_t)x->slice * main->width;
    if (!kernels_of(j->g)->act_put(a, i, in)) cpu_mark_bad(j->s, main->rows, row);
}

/* Rows [begin, end) of all segments' rows one after the other; a head's rows are those of its tokens. */
static void convert_part(const job *j, uint32_t begin, uint32_t end) {
    uint32_t first = 0;
    for (uint32_t k = 0; k < j->n_segments; first += j->segments[k++].n_rows) {
        const segment *x = &j->segments[k];
        cpu_act a = act_of(j, x, j->s->p->shared + x->act);
        for (uint32_t i = begin > first ? begin - first : 0; i < x->n_rows && first + i < end; i++)
            convert(j, x, &a, i, true);
        if (begin <= first && first < end) kernels_of(j->g)->act_pad(&a);
    }
}

/* Where a segment's results of a tile go: row i of them, column `col` of the slice. */
static float *result(const job *j, const segment *x, graph_value out, uint32_t i, uint32_t col) {
    float *y = cpu_value_row(j->g, j->s, out, row_of(j, x, i)) + col;
    if (!j->order) y += (size_t)x->slice * (cpu_node(j->g, out)->cols / cpu_weight_slices(j->w[0]));
    return y;
}

/* Rows [t0, t0 + n) of a segment, from block 0 to their places, n columns of a tile. */
static void finish_block(const job *j, const segment *x, uint32_t m, uint32_t t0, uint32_t nt, uint32_t col,
                         uint32_t n) {
    const cpu_group *g = j->g;
    const graph_value out = cpu_tail_of(g, m);
    for (uint32_t t = 0; t < nt; t++) {
        float *y = j->block[0] + t * CPU_TILE_ROWS;
        if (g->g->paired) cpu_binary(g, cpu_node(g, g->g->post[0]), y, y, j->block[1] + t * CPU_TILE_ROWS, n);
        if (g->g->n_post > g->g->paired)
            cpu_post_ops(g, j->s, m, &(cpu_block){row_of(j, x, t0 + t), 1, col, n, y, CPU_TILE_ROWS});
        memcpy(result(j, x, out, t0 + t, col), y, n * sizeof *y);
    }
}

static void run_tile(const job *j, const segment *x, const cpu_act *a, uint32_t m, uint32_t tile) {
    const cpu_matmul_kernels *k = kernels_of(j->g);
    const cpu_weight w[2] = {cpu_weight_slice(j->w[m], x->slice),
                             cpu_weight_slice(j->w[j->g->g->paired ? 1 : m], x->slice)};
    const uint32_t sides = j->g->g->paired ? 2 : 1, col = tile * CPU_TILE_ROWS;
    const uint32_t n = w[0].n - col < CPU_TILE_ROWS ? w[0].n - col : CPU_TILE_ROWS;
    const bool panels = x->n_rows > CPU_FEW_TOKENS;
    for (uint32_t side = 0; side < sides && panels; side++) k->panel(&w[side], tile, j->panel[side]);
    for (uint32_t t0 = 0; t0 < x->n_rows; t0 += BLOCK_TOKENS) {
        uint32_t nt = x->n_rows - t0 < BLOCK_TOKENS ? x->n_rows - t0 : BLOCK_TOKENS;
        for (uint32_t side = 0; side < sides; side++)
            k->product(&w[side], tile, panels ? j->panel[side] : NULL, a, t0, nt, j->block[side], CPU_TILE_ROWS);
        finish_block(j, x, m, t0, nt, col, n);
    }
}

/* The columns of a head that no product touches. */
static void keep_rest(const job *j, const segment *x) {
    const graph_node *main = cpu_node(j->g, j->g->g->mains[0]);
    const uint32_t k = j->w[0]->packed.k, n = j->w[0]->packed.n;
    for (uint32_t i = 0; i < x->n_rows && main->width > k; i++)
        memcpy(result(j, x, j->g->g->mains[0], i, n),
               cpu_value_row(j->g, j->s, main->in[0], i) + (size_t)x->slice * main->width + k,
               (main->width - k) * sizeof(float));
}

/* First tile of a segment whose work begins at or after `at`. */
static uint32_t tile_at(const job *j, const segment *x, uint64_t at) {
    if (at <= x->cost) return 0;
    uint64_t tile = (at - x->cost + tile_cost(x) - 1) / tile_cost(x);
    return tile < j->n_tiles ? (uint32_t)tile : j->n_tiles;
}

static void run_segment(const job *j, const segment *x, const cpu_act *a, uint32_t begin, uint32_t end) {
    for (uint32_t m = 0, first = 0; m < j->n_main; first += j->w[m]->packed.n_tiles, m++) {
        uint32_t last = first + j->w[m]->packed.n_tiles;
        for (uint32_t i = begin < first ? first : begin; i < end && i < last; i++) run_tile(j, x, a, m, i - first);
    }
    if (!j->order && begin == 0) keep_rest(j, x);
}

static void stack_launch(const cpu_group *g, const cpu_step *s, uint32_t thread, uint32_t n_threads) {
    const uint32_t rows = cpu_step_rows(s, g->g->rows);
    uint32_t begin, end;
    if (rows == 0) return;
    job j;
    open_job(&j, g, s, thread, rows);
    const bool alone = s->t->n_tokens == 1; /* then every segment has one row */
    if (!alone) {
        cpu_pool_part(is_experts(g) ? rows : rows * j.n_segments, thread, n_threads, &begin, &end);
        convert_part(&j, begin, end);
        cpu_pool_barrier(s->p->d->pool);
    }
    const uint64_t from = j.cost * thread / n_threads, to = j.cost * (thread + 1) / n_threads;
    for (uint32_t i = 0; i < j.n_segments; i++) {
        const segment *x = &j.segments[i];
        const uint32_t first = tile_at(&j, x, from), last = tile_at(&j, x, to);
        if (first >= last) continue;
        cpu_act a = act_of(&j, x, alone ? j.act : s->p->shared + x->act);
        if (alone) {
            convert(&j, x, &a, 0, first == 0);
            kernels_of(g)->act_pad(&a);
        }
        run_segment(&j, x, &a, first, last);
    }
}

const cpu_row cpu_row_experts = {"experts", OP_EXPERT_MATMUL, refuses, stack_scratch, stack_shared, stack_launch};
const cpu_row cpu_row_heads = {"heads", OP_HEAD_MATMUL, refuses, stack_scratch, stack_shared, stack_launch};
