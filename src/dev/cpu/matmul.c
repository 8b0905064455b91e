/* Products with what was fused around them.
 *
 * 1. The prologue is computed and converted for the products' compute type (q8: int8
 *    per 32). With few rows every thread does all of them for itself, which is cheaper
 *    than a barrier; else rows are shared out and a barrier follows. Both give the same bits.
 * 2. Tiles of 16 weight rows, all mains together, are cut statically. A tile is unpacked
 *    once into a panel and used for all tokens, in blocks that stay in the first cache.
 *    A set that is faster with two tiles at once gets two of one weight, or gate and up together.
 * 3. Post ops run on each finished block while it is there: in place in the output, or for
 *    gate and up from two blocks of scratch into it.
 */
#include "dev/cpu/cpu_int.h"

#include "base/assert.h"

#include <string.h>

enum {
    REDUNDANT_ROWS = 2, /* up to here every thread converts all rows for itself */
    BLOCK_TOKENS = 48,  /* tokens of a block: 3 KB of results per tile */
};

static size_t align64(size_t n) { return (n + 63) & ~(size_t)63; }

static const cpu_weight *weight_of(const cpu_group *g, uint32_t m) {
    return &g->weights[cpu_node(g, g->g->mains[m])->weight]->packed;
}

static uint32_t rows_max(const cpu_group *g) { return graph_plan_rows_max(g->plan, g->g->rows); }

/* All products of a group take the same converted input, so they compute alike. */
static const cpu_matmul_kernels *kernels_of(const cpu_group *g) {
    return cpu_kernels_matmul(g->set, weight_of(g, 0)->compute);
}

static size_t act_bytes_few(const cpu_group *g) {
    const cpu_weight *w = weight_of(g, 0);
    return align64(kernels_of(g)->act_bytes(w->compute, w->k, REDUNDANT_ROWS));
}

static size_t panel_bytes(const cpu_group *g) {
    size_t most = 0;
    for (uint32_t m = 0; m < g->g->n_main; m++) {
        size_t bytes = align64(kernels_of(g)->panel_bytes(weight_of(g, m)));
        if (bytes > most) most = bytes;
    }
    return most;
}

static const size_t block_bytes = (size_t)BLOCK_TOKENS * CPU_TILE_ROWS * sizeof(float);

/* A thread's scratch, in this order: chain buffers, its own converted rows, two panels, two blocks. */
static size_t matmul_scratch(const cpu_group *g) {
    return align64(cpu_chain_scratch(g)) + act_bytes_few(g) + 2 * panel_bytes(g) + 2 * block_bytes;
}

static size_t matmul_shared(const cpu_group *g) {
    const cpu_weight *w = weight_of(g, 0);
    return kernels_of(g)->act_bytes(w->compute, w->k, rows_max(g));
}

static const char *matmul_refuses(const cpu_group *g) {
    for (uint32_t m = 0; m < g->g->n_main; m++)
        if (g->weights[cpu_node(g, g->g->mains[m])->weight]->set != g->set) return "a weight is packed for another set";
    return NULL;
}

static void convert_row(const cpu_group *g, const cpu_step *s, cpu_act *a, uint32_t row, float *scratch, bool store) {
    const float *x = cpu_chain_row(g, s, row, scratch, store);
    if (!kernels_of(g)->act_put(a, row, x)) cpu_mark_bad(s, g->g->rows, row);
}

static cpu_act convert(const cpu_group *g, const cpu_step *s, uint32_t rows, uint8_t *scratch, uint32_t thread,
                       uint32_t n_threads) {
    const cpu_weight *w = weight_of(g, 0);
    cpu_act a = {w->compute, w->k, rows, s->p->shared};
    if (rows <= REDUNDANT_ROWS) {
        a.data = scratch + align64(cpu_chain_scratch(g));
        for (uint32_t row = 0; row < rows; row++) convert_row(g, s, &a, row, (float *)scratch, thread == 0);
        kernels_of(g)->act_pad(&a);
        return a;
    }
    uint32_t begin, end;
    cpu_pool_part(rows, thread, n_threads, &begin, &end);
    for (uint32_t row = begin; row < end; row++) convert_row(g, s, &a, row, (float *)scratch, true);
    if (thread == 0) kernels_of(g)->act_pad(&a);
    cpu_pool_barrier(s->p->d->pool);
    return a;
}

/* The value that main m's tiles end in: its last post op, or itself. */
graph_value cpu_tail_of(const cpu_group *g, uint32_t m) {
    graph_value v = g->g->mains[m];
    for (uint32_t i = 0; i < g->g->n_post; i++)
        if (g->g->post_main[i] == m) v = g->g->post[i];
    return v;
}

void cpu_post_ops(const cpu_group *g, const cpu_step *s, uint32_t m, const cpu_block *b) {
    graph_value x = g->g->paired ? g->g->post[0] : g->g->mains[m];
    for (uint32_t i = g->g->paired; i < g->g->n_post; i++) {
        if (g->g->post_main[i] != m) continue;
        cpu_elem(g, s, g->g->post[i], x, b);
        x = g->g->post[i];
    }
}

/* Asks for what the post ops of a block will read beside it: a line per row, too far apart for the hardware to guess. */
static void prefetch_posts(const cpu_group *g, const cpu_step *s, uint32_t m, uint32_t row, uint32_t n_rows,
                           uint32_t col) {
    graph_value x = g->g->mains[m];
    for (uint32_t i = 0; i < g->g->n_post; i++) {
        const graph_node *node = cpu_node(g, g->g->post[i]);
        if (g->g->post_main[i] != m || node->op != OP_ADD || g->g->paired) continue;
        const float *o = cpu_value_row(g, s, node->in[0] == x ? node->in[1] : node->in[0], row) + col;
        for (uint32_t r = 0; r < n_rows; r++, o += node->cols) __builtin_prefetch(o);
        x = g->g->post[i];
    }
}

typedef struct {
    const cpu_group *g;
    const cpu_step *s;
    const cpu_act *a;
    uint8_t *panel[2];
    float *block[2];
} tile_job;

/* One tile of main m, or of mains 0 and 1 together. */
static void run_tile(const tile_job *j, uint32_t m, uint32_t tile) {
    const cpu_group *g = j->g;
    const cpu_matmul_kernels *k = kernels_of(g);
    const cpu_weight *const w[2] = {weight_of(g, m), g->g->paired ? weight_of(g, 1) : NULL};
    const graph_value out = cpu_tail_of(g, m);
    const uint32_t rows = j->a->n_tokens, col = tile * CPU_TILE_ROWS, width = cpu_node(g, out)->cols;
    const uint32_t n = width - col < CPU_TILE_ROWS ? width - col : CPU_TILE_ROWS;
    const bool panels = rows > CPU_FEW_TOKENS, direct = n == CPU_TILE_ROWS && !g->g->paired;
    const bool two = w[1] && k->product_two;
    for (int side = 0; side < 2 && panels && !two && w[side]; side++) k->panel(w[side], tile, j->panel[side]);
    for (uint32_t t0 = 0; t0 < rows; t0 += BLOCK_TOKENS) {
        uint32_t nt = rows - t0 < BLOCK_TOKENS ? rows - t0 : BLOCK_TOKENS;
        float *y = direct ? cpu_value_row(g, j->s, out, t0) + col : j->block[0];
        size_t stride = direct ? width : CPU_TILE_ROWS;
        prefetch_posts(g, j->s, m, t0, nt, col);
        if (two) k->product_two(w, (uint32_t[]){tile, tile}, j->a, t0, nt, (float *[]){y, j->block[1]}, stride);
        for (int side = 0; side < 2 && w[side] && !two; side++)
            k->product(w[side], tile, panels ? j->panel[side] : NULL, j->a, t0, nt, side ? j->block[1] : y, stride);
        for (uint32_t t = 0; t < nt && g->g->paired; t++)
            cpu_binary(g, cpu_node(g, g->g->post[0]), y + t * stride, y + t * stride, j->block[1] + t * CPU_TILE_ROWS,
                       n);
        cpu_post_ops(g, j->s, m, &(cpu_block){t0, nt, col, n, y, stride});
        for (uint32_t t = 0; t < nt && !direct; t++)
            memcpy(cpu_value_row(g, j->s, out, t0 + t) + col, y + t * stride, n * sizeof *y);
    }
}

/* Tiles `tile` and the next of main m at once, where the set can; false when they are not two whole ones. */
static bool run_two(const tile_job *j, uint32_t m, uint32_t tile) {
    const cpu_group *g = j->g;
    const cpu_matmul_kernels *k = kernels_of(g);
    const cpu_weight *w = weight_of(g, m);
    const graph_value out = cpu_tail_of(g, m);
    const uint32_t rows = j->a->n_tokens, col = tile * CPU_TILE_ROWS, width = cpu_node(g, out)->cols;
    if (!k->product_two || g->g->paired || width - col < 2 * CPU_TILE_ROWS) return false;
    for (uint32_t t0 = 0; t0 < rows; t0 += BLOCK_TOKENS) {
        const uint32_t nt = rows - t0 < BLOCK_TOKENS ? rows - t0 : BLOCK_TOKENS;
        float *y = cpu_value_row(g, j->s, out, t0) + col;
        prefetch_posts(g, j->s, m, t0, nt, col);
        prefetch_posts(g, j->s, m, t0, nt, col + CPU_TILE_ROWS);
        k->product_two((const cpu_weight *[]){w, w}, (uint32_t[]){tile, tile + 1}, j->a, t0, nt,
                       (float *[]){y, y + CPU_TILE_ROWS}, width);
        cpu_post_ops(g, j->s, m, &(cpu_block){t0, nt, col, 2 * CPU_TILE_ROWS, y, width});
    }
    return true;
}

static void matmul_launch(const cpu_group *g, const cpu_step *s, uint32_t thread, uint32_t n_threads) {
    uint32_t rows = cpu_step_rows(s, g->g->rows), n_tiles = 0, begin, end;
    if (rows == 0) return;
    uint8_t *scratch = cpu_scratch(s, thread);
    cpu_act a = convert(g, s, rows, scratch, thread, n_threads);
    scratch += align64(cpu_chain_scratch(g)) + act_bytes_few(g);
    size_t panel = panel_bytes(g);
    tile_job j = {g,
                  s,
                  &a,
                  {scratch, scratch + panel},
                  {(float *)(scratch + 2 * panel), (float *)(scratch + 2 * panel + block_bytes)}};
    uint32_t n_main = g->g->paired ? 1 : g->g->n_main;
    for (uint32_t m = 0; m < n_main; m++) n_tiles += weight_of(g, m)->n_tiles;
    cpu_pool_part(n_tiles, thread, n_threads, &begin, &end);
    for (uint32_t m = 0, first = 0; m < n_main; first += weight_of(g, m)->n_tiles, m++) {
        uint32_t last = first + weight_of(g, m)->n_tiles;
        for (uint32_t i = begin < first ? first : begin; i < end && i < last; i++)
            if (i + 1 < end && i + 1 < last && run_two(&j, m, i - first))
                i++;
            else
                run_tile(&j, m, i - first);
    }
}

const cpu_row cpu_row_matmul = {"matmul", OP_MATMUL, matmul_refuses, matmul_scratch, matmul_shared, matmul_launch};
