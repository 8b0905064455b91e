/* Cache writes and attention.
 *
 * A cache write takes K and V of each token and KV head, with the norm and RoPE that
 * lead to K, and puts them into the page of the token's position. Attention then reads
 * everything through the cache, the step's own keys included.
 *
 * Work of attention: query rows of one sequence that share a KV head (token-major, then
 * the heads of the group) are cut into tiles of the kernels' size; tiles are dealt to
 * the threads in turn, so that the longer ones at the end of a prompt are shared evenly.
 * Tiles get smaller when there would be fewer than threads. Neither changes a bit.
 */
#include "dev/cpu/cpu_int.h"

#include "base/assert.h"

#include <string.h>

static const graph_kv_group *kv_of(const cpu_group *g) {
    return &g->plan->g->kv[cpu_node(g, g->g->mains[0])->kv_group];
}

/* Offset of a head's piece within a page of the group. */
static size_t head_offset(const cpu_group *g, uint32_t head) {
    const graph_kv_group *kv = kv_of(g);
    uint32_t layer = cpu_node(g, g->g->mains[0])->kv_layer;
    return ((size_t)layer * kv->n_kv_heads + head) *
           g->set->attn->kv_bytes(cpu_head_width(kv->d_k), cpu_head_width(kv->d_v), g->kv_f32);
}

static const char *head_refuses(const cpu_group *g) {
    const graph_kv_group *kv = kv_of(g);
    return kv->d_k > CPU_HEAD_MAX || kv->d_v > CPU_HEAD_MAX ? "heads are wider than 576" : NULL;
}

/* The head's ops of the prologue on one head: norm and RoPE of `width` columns starting at x. */
static const float *head_chain(const cpu_group *g, const cpu_step *s, const float *x, uint32_t row, float *y) {
    for (uint32_t i = 0; i < g->g->n_pre; i++) {
        const graph_node *n = cpu_node(g, g->g->pre[i]);
        if (n->op == OP_RMSNORM) {
            cpu_norm_head(g, g->g->pre[i], x, y);
        } else {
            const graph_rope *r = &g->plan->g->ropes[n->rope];
            size_t at = s->p->rope_offset[n->rope] + (size_t)row * (r->d / 2);
            if (y != x) memcpy(y, x, n->width * sizeof *y);
            g->set->row->rope(y + r->first, s->p->cos + at, s->p->sin + at, r->d, r->half);
        }
        x = y;
    }
    return x;
}

/* x [d] as a kernel wants it: itself, or at y with zeros behind. */
static const float *padded(const float *x, uint32_t d, float *y) {
    uint32_t width = cpu_head_width(d);
    if (width == d) return x;
    if (x != y) memcpy(y, x, d * sizeof *y);
    memset(y + d, 0, (width - d) * sizeof *y);
    return y;
}

/* The stored value that the prologue begins with. */
static graph_value chain_input(const cpu_group *g) {
    return cpu_node(g, g->g->n_pre ? g->g->pre[0] : g->g->mains[0])->in[0];
}

static size_t kv_write_scratch(const cpu_group *g) {
    return (cpu_head_width(kv_of(g)->d_k) + cpu_head_width(kv_of(g)->d_v)) * sizeof(float);
}

static void kv_write_launch(const cpu_group *g, const cpu_step *s, uint32_t thread, uint32_t n_threads) {
    const graph_kv_group *kv = kv_of(g);
    const graph_node *main = cpu_node(g, g->g->mains[0]);
    const uint32_t d_k = cpu_head_width(kv->d_k), d_v = cpu_head_width(kv->d_v);
    uint8_t *pool = (uint8_t *)(uintptr_t)g->kv[main->kv_group].handle;
    float *k_row = (float *)cpu_scratch(s, thread), *v_row = k_row + d_k;
    uint32_t begin, end;
    cpu_pool_part(s->t->n_tokens * kv->n_kv_heads, thread, n_threads, &begin, &end);
    for (uint32_t i = begin; i < end; i++) {
        uint32_t token = i / kv->n_kv_heads, head = i % kv->n_kv_heads, pos = s->t->position[token];
        const uint32_t *pages = s->t->pages[main->kv_group][s->t->token_seq[token]];
        const float *k = cpu_value_row(g, s, chain_input(g), token) + (size_t)head * kv->d_k;
        k = padded(head_chain(g, s, k, token, k_row), kv->d_k, k_row);
        const float *v = kv->v_in_k ? k : cpu_value_row(g, s, main->in[1], token) + (size_t)head * kv->d_v;
        v = padded(v, kv->d_v, v_row);
        uint8_t *page =
            pool + (size_t)pages[pos / CPU_PAGE_TOKENS] * g->page_bytes[main->kv_group] + head_offset(g, head);
        g->set->attn->kv_write(page, pos % CPU_PAGE_TOKENS, k, v, d_k, d_v, g->kv_f32);
    }
}

const cpu_row cpu_row_kv_write = {"kv_write", OP_KV_WRITE, head_refuses, kv_write_scratch, NULL, kv_write_launch};

static uint32_t row_floats(uint32_t d) { return (d + 15) & ~15u; }

/* Scratch: CPU_ATTN_ROWS query heads, as many outputs, then the kernel's. */
static size_t attention_scratch(const cpu_group *g) {
    const graph_kv_group *kv = kv_of(g);
    return (size_t)CPU_ATTN_ROWS * (row_floats(kv->d_k) + row_floats(kv->d_v)) * sizeof(float) +
           g->set->attn->attn_scratch(cpu_head_width(kv->d_k), cpu_head_width(kv->d_v));
}

/* The oldest key that a query at pos sees. */
static uint32_t first_key(const graph_kv_group *kv, uint32_t pos) {
    if (kv->window == 0) return 0;
    if (kv->chunked) return pos / kv->window * kv->window;
    return pos + 1 > kv->window ? pos + 1 - kv->window : 0;
}

/* Rows [r0, r0 + n) of a sequence's rows for one KV head; `per` query heads share it. */
static void run_tile(const cpu_group *g, const cpu_step *s, uint32_t thread, uint32_t seq, uint32_t head, uint32_t per,
                     uint32_t r0, uint32_t n) {
    const graph_kv_group *kv = kv_of(g);
    const graph_node *main = cpu_node(g, g->g->mains[0]);
    const uint32_t d_v = cpu_head_width(kv->d_v);
    const float *sinks = main->weight == GRAPH_NONE ? NULL : g->weights[main->weight]->vector;
    float *q_rows = (float *)cpu_scratch(s, thread), *out_rows = q_rows + CPU_ATTN_ROWS * row_floats(kv->d_k);
    float *out[CPU_ATTN_ROWS];
    cpu_attn a = {.n_rows = n,
                  .d_k = cpu_head_width(kv->d_k),
                  .d_v = d_v,
                  .f32 = g->kv_f32,
                  .scale = main->factor,
                  .softcap = main->softcap,
                  .pool = (const uint8_t *)(uintptr_t)g->kv[main->kv_group].handle,
                  .pages = s->t->pages[main->kv_group][seq],
                  .page_bytes = g->page_bytes[main->kv_group],
                  .offset = head_offset(g, head)};
    for (uint32_t i = 0; i < n; i++) {
        uint32_t token = s->t->seq_begin[seq] + (r0 + i) / per, q_head = head * per + (r0 + i) % per,
                 pos = s->t->position[token];
        const float *q = cpu_value_row(g, s, chain_input(g), token) + (size_t)q_head * kv->d_k;
        float *q_row = q_rows + i * row_floats(kv->d_k);
        a.q[i] = padded(head_chain(g, s, q, token, q_row), kv->d_k, q_row);
        out[i] = cpu_value_row(g, s, g->g->mains[0], token) + (size_t)q_head * kv->d_v;
        a.out[i] = d_v == kv->d_v ? out[i] : out_rows + i * row_floats(kv->d_v);
        a.last[i] = pos;
        a.first[i] = first_key(kv, pos);
        a.sink[i] = sinks ? &sinks[q_head] : NULL;
    }
    g->set->attn->attn(&a, out_rows + CPU_ATTN_ROWS * row_floats(kv->d_v));
    for (uint32_t i = 0; i < n && d_v != kv->d_v; i++) memcpy(out[i], a.out[i], kv->d_v * sizeof *out[i]);
}

static void attention_launch(const cpu_group *g, const cpu_step *s, uint32_t thread, uint32_t n_threads) {
    const graph_kv_group *kv = kv_of(g);
    uint32_t per = cpu_node(g, g->g->mains[0])->cols / kv->d_v / kv->n_kv_heads, item = 0;
    uint64_t rows_all = (uint64_t)s->t->n_tokens * per * kv->n_kv_heads;
    uint32_t tile = g->set->attn->rows;
    while (tile > 1 && rows_all / tile < n_threads) tile--;
    for (uint32_t seq = 0; seq < s->t->n_seqs; seq++) {
        uint32_t rows = (s->t->seq_begin[seq + 1] - s->t->seq_begin[seq]) * per;
        for (uint32_t head = 0; head < kv->n_kv_heads; head++)
            for (uint32_t r0 = 0; r0 < rows; r0 += tile)
                if (item++ % n_threads == thread)
                    run_tile(g, s, thread, seq, head, per, r0, rows - r0 < tile ? rows - r0 : tile);
    }
}

const cpu_row cpu_row_attention = {"attention", OP_ATTENTION, head_refuses, attention_scratch, NULL, attention_launch};
