/* dev/cpu/ref/ref_attn.c - attention over a paged cache, stated as plain loops: the bits every other set must give.
 *
 * For one query row, with visible keys first <= key <= last:
 *     s = dot(q, K) * scale, then cap * tanh(s / cap)
 *     per absolute chunk of 256 keys, over its visible keys:
 *         m = max s (a NaN is not a maximum); base = m, or 0 where m is -infinity
 *         p = exp(s - base), +0 where s - base < -60
 *         l = sum p in 16 lanes by key mod 16; o = sum p V, + 0 at the end
 *     fold left to right: M = max(m1, m2), base as above, a = exp(m1 - base), b = exp(m2 - base),
 *         o = ((o1 * a) + (o2 * b)) + 0, l = (l1 * a) + (l2 * b); the first chunk is taken as it is
 *     out = o / l, lse = M + log(l); with a sink z: M' = max(M, z), a = exp(M - M'),
 *         out = (o * a) / ((l * a) + exp(z - M')); l = 0: out = 0, lse = -infinity.
 * bf16 profile: q, K, V and p rounded to bf16; products in blocks of 32 (of d for q.K; a page's keys for p V): one fma
 * chain over the even, one over the odd places, acc = acc + (even + odd). f32 profile: one fma chain over d, one over
 * the keys of the chunk.
 *
 * Keys that are masked or not written are not there: nothing of them is read, whatever the page holds. That is
 * the same as p = +0 against K = V = +0. A zero product changes at most the sign of a zero in a chain that starts
 * at +0 (underflow makes -0 there, and -0 + +0 = +0), and the sign of a zero never changes a sum that is not zero. In
 * o the final + 0 erases it; in s it disappears in s - base, tanh and lse. So a set may skip pages and chunks without a
 * visible key, or compute them with zeros, as it likes. For the fold: where all of a chunk is absent, m = -infinity
 * gives b = +0, l2 * b = +0 and o2 * b = +0, and a = 1 multiplies exactly; o1 * 1 + +0 is o1, but for -0, so the
 * fold erases that sign too (+ 0).
 *
 * Page piece of one KV head: K [32][d_k], then V [32][d_v]; uint16_t bf16 or float.
 */
#include "dev/cpu/kernels.h"
#include "dev/cpu/ref/ref_num.h"
#include "tensor/vmath_scalar.h"

#include <math.h>

enum { BLOCK = 32 };

/* K and V of one KV head in one page. */
typedef struct {
    const uint8_t *k, *v;
    uint32_t d_k, d_v;
    bool f32;
} page_view;

/* What one row has seen so far of the keys, o in the row's out. */
typedef struct {
    float m, l;
} row_state;

static float element(const uint8_t *base, size_t i, bool f32) {
    float x;
    uint16_t h;
    if (f32) memcpy(&x, base + i * sizeof x, sizeof x);
    if (f32) return x;
    memcpy(&h, base + i * sizeof h, sizeof h);
    return ref_bf16_float(h);
}

static size_t kv_bytes(uint32_t d_k, uint32_t d_v, bool f32) {
    return (size_t)CPU_PAGE_TOKENS * (d_k + d_v) * (f32 ? sizeof(float) : sizeof(uint16_t));
}

static void put(uint8_t *base, const float *x, uint32_t n, bool f32) {
    for (uint32_t i = 0; i < n; i++) {
        uint16_t h = ref_bf16(x[i]);
        if (f32)
            memcpy(base + i * sizeof *x, &x[i], sizeof *x);
        else
            memcpy(base + i * sizeof h, &h, sizeof h);
    }
}

static void kv_write(uint8_t *page_head, uint32_t slot, const float *k, const float *v, uint32_t d_k, uint32_t d_v,
                     bool f32) {
    size_t bytes = f32 ? sizeof(float) : sizeof(uint16_t);
    put(page_head + (size_t)slot * d_k * bytes, k, d_k, f32);
    put(page_head + ((size_t)CPU_PAGE_TOKENS * d_k + (size_t)slot * d_v) * bytes, v, d_v, f32);
}

static page_view view(const cpu_attn *a, uint32_t page) {
    const uint8_t *k = a->pool + a->pages[page] * a->page_bytes + a->offset;
    size_t k_bytes = (size_t)CPU_PAGE_TOKENS * a->d_k * (a->f32 ? sizeof(float) : sizeof(uint16_t));
    return (page_view){k, k + k_bytes, a->d_k, a->d_v, a->f32};
}

/* q is already rounded to bf16 in that profile. */
static float dot(const page_view *g, uint32_t slot, const float *q) {
    size_t row = (size_t)slot * g->d_k;
    float acc = 0.0f;
    if (g->f32) {
        for (uint32_t i = 0; i < g->d_k; i++) acc = vf_fma(q[i], element(g->k, row + i, true), acc);
        return acc;
    }
    for (uint32_t i0 = 0; i0 < g->d_k; i0 += BLOCK) {
        uint32_t end = i0 + BLOCK < g->d_k ? i0 + BLOCK : g->d_k;
        float chain[2] = {0.0f, 0.0f};
        for (uint32_t i = i0; i < end; i++) chain[i % 2] = vf_fma(q[i], element(g->k, row + i, false), chain[i % 2]);
        acc = acc + (chain[0] + chain[1]);
    }
    return acc;
}

/* o[i] gets the visible slots [lo, hi) of one page, on top of the chunk's pages before it. */
static void add_values(const page_view *g, uint32_t lo, uint32_t hi, const float *p, float *o) {
    for (uint32_t i = 0; i < g->d_v; i++) {
        float chain[2] = {0.0f, 0.0f};
        for (uint32_t slot = lo; slot < hi; slot++) {
            float *acc = g->f32 ? &o[i] : &chain[slot % 2];
            *acc = vf_fma(p[slot], element(g->v, (size_t)slot * g->d_v + i, g->f32), *acc);
        }
        if (!g->f32) o[i] = o[i] + (chain[0] + chain[1]);
    }
}

/* The scores of the visible keys [lo, hi) of the chunk at key0, into s[key - key0]; returns their maximum. */
static float chunk_scores(const cpu_attn *a, const float *q, uint32_t key0, uint32_t lo, uint32_t hi, float *s) {
    float m = -INFINITY;
    for (uint32_t j = lo; j < hi; j++) {
        page_view g = view(a, (key0 + j) / CPU_PAGE_TOKENS);
        s[j] = dot(&g, j % CPU_PAGE_TOKENS, q) * a->scale;
        if (a->softcap != 0.0f) s[j] = a->softcap * vm_tanh(s[j] / a->softcap);
        m = vf_max(s[j], m);
    }
    return m;
}

/* Turns s into p, rounded as p V wants it; returns l, the sum of the unrounded p. */
static float chunk_weights(float *s, uint32_t lo, uint32_t hi, float m, bool f32) {
    float lane[16] = {0};
    float base = m == -INFINITY ? 0.0f : m;
    for (uint32_t j = lo; j < hi; j++) {
        float t = s[j] - base;
        float p = t < -60.0f ? 0.0f : vm_exp(t);
        lane[j % 16] = lane[j % 16] + p;
        s[j] = f32 ? p : ref_bf16_float(ref_bf16(p));
    }
    return ref_sum16(lane);
}

static void fold(row_state *r, float *out, float m, float l, const float *o, uint32_t d) {
    float both = vf_max(m, r->m);
    float base = both == -INFINITY ? 0.0f : both;
    float a = vm_exp(r->m - base), b = vm_exp(m - base);
    for (uint32_t i = 0; i < d; i++) out[i] = (out[i] * a) + (o[i] * b) + 0.0f;
    *r = (row_state){both, (r->l * a) + (l * b)};
}

static void finish(const row_state *r, float *out, uint32_t d, const float *sink, float *lse) {
    float top = sink ? vf_max(r->m, *sink) : r->m;
    float a = sink ? vm_exp(r->m - top) : 1.0f;
    float sum = sink ? (r->l * a) + vm_exp(*sink - top) : r->l;
    *lse = r->m + vm_log(r->l);
    for (uint32_t i = 0; i < d; i++) {
        if (r->l == 0.0f)
            out[i] = 0.0f;
        else
            out[i] = sink ? (out[i] * a) / sum : out[i] / sum;
    }
}

static void attend_row(cpu_attn *a, uint32_t row, float *scratch) {
    float *q = scratch, *s = q + a->d_k, *o = s + CPU_CHUNK_KEYS, *out = a->out[row];
    uint32_t first = a->first[row], last = a->last[row];
    row_state state = {-INFINITY, 0.0f};
    bool begun = false;

    for (uint32_t i = 0; i < a->d_k; i++) q[i] = a->f32 ? a->q[row][i] : ref_bf16_float(ref_bf16(a->q[row][i]));
    for (uint64_t key = first; key <= last; key = (key / CPU_CHUNK_KEYS + 1) * CPU_CHUNK_KEYS) {
        uint32_t key0 = (uint32_t)key / CPU_CHUNK_KEYS * CPU_CHUNK_KEYS;
        uint32_t lo = (uint32_t)key - key0;
        uint32_t hi = last - key0 < CPU_CHUNK_KEYS ? last - key0 + 1 : CPU_CHUNK_KEYS;
        float m = chunk_scores(a, q, key0, lo, hi, s);
        float l = chunk_weights(s, lo, hi, m, a->f32);
        float *sum = begun ? o : out;
        for (uint32_t i = 0; i < a->d_v; i++) sum[i] = 0.0f;
        for (uint32_t j = lo; j < hi; j = (j / CPU_PAGE_TOKENS + 1) * CPU_PAGE_TOKENS) {
            uint32_t j0 = j / CPU_PAGE_TOKENS * CPU_PAGE_TOKENS;
            page_view g = view(a, (key0 + j0) / CPU_PAGE_TOKENS);
            add_values(&g, j - j0, hi - j0 < CPU_PAGE_TOKENS ? hi - j0 : CPU_PAGE_TOKENS, s + j0, sum);
        }
        for (uint32_t i = 0; i < a->d_v; i++) sum[i] = sum[i] + 0.0f;
        if (begun)
            fold(&state, out, m, l, o, a->d_v);
        else
            state = (row_state){m, l};
        begun = true;
    }
    if (!begun)
        for (uint32_t i = 0; i < a->d_v; i++) out[i] = 0.0f;
    finish(&state, out, a->d_v, a->sink[row], &a->lse[row]);
}

static size_t attn_scratch(uint32_t d_k, uint32_t d_v) { return (d_k + d_v + CPU_CHUNK_KEYS) * sizeof(float); }

static void attn(cpu_attn *a, void *scratch) {
    for (uint32_t row = 0; row < a->n_rows; row++) attend_row(a, row, scratch);
}

const cpu_attn_kernels cpu_ref_attn = {
    .rows = 8,
    .kv_bytes = kv_bytes,
    .kv_write = kv_write,
    .attn_scratch = attn_scratch,
    .attn = attn,
};
