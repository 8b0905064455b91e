/* dev/cpu/x86/avx512_attn.c - attention of a tile of rows on AVX-512: the bits of dev/cpu/ref/ref_attn.c.
 *
 * No axis that is summed is vectorised: scores run 16 keys wide, p V 16 columns wide. So both are one product,
 * y[r][c] += sum over i of a[r][i] * b[i][c], with a broadcast: a = q, i = d, c = key for scores, a = p, i = key,
 * c = column of V for p V. A word of the cache (avx512_attn.h) shifted left by 16 is the even element in fp32,
 * masked by 0xffff0000 the odd one: the two chains of a block of 32 come from one load and need no shuffle. Six rows by two
 * vectors by two chains are 24 accumulators of 32 registers; a comes from memory as the fma's operand.
 *
 * Per chunk of 256 keys: scores page by page for all rows of the tile, then softmax row by row, then p V page by
 * page, then the fold. Rows that do not see a page still get its scores (unused); p V touches visible keys only,
 * for rows that see the same keys of a page together. In an edge pair with one visible key the other half is cleared in
 * a copy, because 0 * garbage may be NaN. Why zeros and absent keys are the same is proved in ref_attn.c.
 */
#include "dev/cpu/x86/avx512_attn.h"

enum { ROWS = 6, VECS = 2 };

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif

/* y[r][0 .. 16 n_vec) (+)= sum over i < n of a[r][i] * b[i][.]; strides in elements of the pointer's type. */
typedef struct {
    const float *a;
    size_t a_stride;
    const void *b;
    size_t b_stride;
    uint32_t n; /* of pairs, or of single elements in the f32 profile */
    float *y;
    size_t y_stride;
    uint32_t n_vec;
    bool add; /* to what y holds; otherwise y is only written */
} product;

typedef struct {
    float *q;       /* [rows][d_k], rounded to bf16 in that profile */
    uint32_t *edge; /* [16][dv]: V of a page with an edge pair */
    attn_tile t;
} work;

/* The bf16 rule: blocks of up to 16 pairs, two chains from 0 in each, y = y + (even + odd). */
INLINE void pair_tile(const product *g, uint32_t col, const int rows, const int vecs) {
    const uint32_t *b = (const uint32_t *)g->b + col;
    const size_t b_stride = g->b_stride, a_stride = g->a_stride, y_stride = g->y_stride;
    const vi top = vi_of(0xffff0000u);
    const float *a = g->a;
    float *y = g->y + col;
    bool add = g->add;
    for (uint32_t left = g->n, n; left > 0; left -= n, add = true) {
        vf even[ROWS][VECS], odd[ROWS][VECS];
        n = left < BLOCK_PAIRS ? left : BLOCK_PAIRS;
        UNROLL for (int r = 0; r < rows; r++) {
            UNROLL for (int c = 0; c < vecs; c++) even[r][c] = odd[r][c] = vf_of(0.0f);
        }
        for (uint32_t i = 0; i < n; i++, b += b_stride, a += 2) {
            vf low[VECS], high[VECS];
            UNROLL for (int c = 0; c < vecs; c++) {
                const vi word = (vi)_mm512_loadu_si512(b + LANES * c);
                low[c] = vi_bits(word << 16);
                high[c] = vi_bits(word & top);
            }
            UNROLL for (int r = 0; r < rows; r++) {
                const vf q0 = vf_of(a[(size_t)r * a_stride]), q1 = vf_of(a[(size_t)r * a_stride + 1]);
                UNROLL for (int c = 0; c < vecs; c++) {
                    even[r][c] = vf_fma(q0, low[c], even[r][c]);
                    odd[r][c] = vf_fma(q1, high[c], odd[r][c]);
                }
            }
        }
        UNROLL for (int r = 0; r < rows; r++) {
            UNROLL for (int c = 0; c < vecs; c++) {
                float *p = y + (size_t)r * y_stride + LANES * c;
                vf sum = even[r][c] + odd[r][c];
                vf_store(p, add ? vf_load(p) + sum : sum);
            }
        }
    }
}

/* One fma chain, from 0 or on from y. */
INLINE void chain_tile(const product *g, uint32_t col, const int rows, const int vecs) {
    vf acc[ROWS][VECS];
    const float *b = (const float *)g->b + col;
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int c = 0; c < vecs; c++) acc[r][c] =
            g->add ? vf_load(g->y + (size_t)r * g->y_stride + col + LANES * c) : vf_of(0.0f);
    }
    for (uint32_t i = 0; i < g->n; i++, b += g->b_stride) {
        vf v[VECS];
        UNROLL for (int c = 0; c < vecs; c++) v[c] = vf_load(b + LANES * c);
        UNROLL for (int r = 0; r < rows; r++) {
            const vf a = vf_of(g->a[(size_t)r * g->a_stride + i]);
            UNROLL for (int c = 0; c < vecs; c++) acc[r][c] = vf_fma(a, v[c], acc[r][c]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int c = 0; c < vecs; c++) vf_store(g->y + (size_t)r * g->y_stride + col + LANES * c, acc[r][c]);
    }
}

#define KERNELS(R)                                                                                                     \
    static void pairs_##R(const product *g) {                                                                          \
        uint32_t c = 0;                                                                                                \
        for (; c + 2 <= g->n_vec; c += 2) pair_tile(g, c *LANES, R, 2);                                                \
        if (c < g->n_vec) pair_tile(g, c *LANES, R, 1);                                                                \
    }                                                                                                                  \
    static void chain_##R(const product *g) {                                                                          \
        uint32_t c = 0;                                                                                                \
        for (; c + 2 <= g->n_vec; c += 2) chain_tile(g, c *LANES, R, 2);                                               \
        if (c < g->n_vec) chain_tile(g, c *LANES, R, 1);                                                               \
    }
KERNELS(1)
KERNELS(2)
KERNELS(3)
KERNELS(4)
KERNELS(5)
KERNELS(6)

/* The product for n_rows rows, in groups of up to six. */
static void product_rows(product g, uint32_t n_rows, bool f32) {
    static void (*const kernel[2][ROWS])(const product *) = {{pairs_1, pairs_2, pairs_3, pairs_4, pairs_5, pairs_6},
                                                             {chain_1, chain_2, chain_3, chain_4, chain_5, chain_6}};
    while (n_rows > 0) {
        const uint32_t n = n_rows <= ROWS ? n_rows : n_rows < 2 * ROWS ? (n_rows + 1) / 2 : ROWS;
        kernel[f32][n - 1](&g);
        g.a += n * g.a_stride;
        g.y += n * g.y_stride;
        n_rows -= n;
    }
}

static size_t kv_bytes(uint32_t d_k, uint32_t d_v, bool f32) {
    return page_k_bytes(d_k, f32) + (size_t)PAGE * d_v_padded(d_v) * (f32 ? sizeof(float) : sizeof(uint16_t));
}

/* Slots of one word of V may be written by different threads: stores there are of single elements. */
static void kv_write(uint8_t *page_head, uint32_t slot, const float *k, const float *v, uint32_t d_k, uint32_t d_v,
                     bool f32) {
    const uint32_t dv = d_v_padded(d_v);
    if (f32) {
        float *pk = (float *)page_head, *pv = pk + (size_t)PAGE * d_k;
        for (uint32_t i = 0; i < d_k; i++) pk[(size_t)PAGE * i + slot] = k[i];
        memcpy(pv + (size_t)slot * dv, v, d_v * sizeof *v);
        return;
    }
    uint32_t *pk = (uint32_t *)page_head + slot;
    uint16_t h[LANES],
        *pv = (uint16_t *)(page_head + page_k_bytes(d_k, false)) + (size_t)(slot / 2) * 2 * dv + slot % 2;
    for (uint32_t i = 0; i < d_k_padded(d_k, false); i += LANES) {
        uint32_t pair[LANES / 2];
        const vf x = i < d_k ? vf_load_first(k + i, d_k - i, vf_of(0.0f)) : vf_of(0.0f);
        _mm256_storeu_si256((__m256i *)(void *)pair, bf16_bits(x));
        for (uint32_t j = 0; j < LANES / 2; j++) pk[(size_t)(i / 2 + j) * PAGE] = pair[j];
    }
    for (uint32_t i = 0; i < d_v; i += LANES) {
        _mm256_storeu_si256((__m256i *)(void *)h, bf16_bits(vf_load_first(v + i, d_v - i, vf_of(0.0f))));
        for (uint32_t j = 0; j < LANES; j++) pv[2 * (size_t)(i + j)] = h[j];
    }
}

/* The dot products of all rows with the page's 32 keys, the chunk's at place j. */
static void page_dots(const cpu_attn *a, const work *w, const uint8_t *page, uint32_t j) {
    product g = {.a = w->q,
                 .a_stride = a->d_k,
                 .b = page,
                 .b_stride = PAGE,
                 .n = a->f32 ? a->d_k : a->d_k / 2,
                 .y = w->t.s + j,
                 .y_stride = CPU_CHUNK_KEYS,
                 .n_vec = PAGE / LANES,
                 .add = false};
    product_rows(g, a->n_rows, a->f32);
}

/* The keys [lo, hi) of a page in words of pairs, with the half of a word that is not visible cleared. */
static const uint32_t *edge_pairs(const uint32_t *v, uint32_t d, uint32_t lo, uint32_t hi, uint32_t *edge) {
    uint32_t first = lo / 2, end = (hi + 1) / 2;
    memcpy(edge + (size_t)first * d, v + (size_t)first * d, (size_t)(end - first) * d * sizeof *v);
    if (lo % 2)
        for (uint32_t i = 0; i < d; i++) edge[(size_t)first * d + i] &= 0xffff0000u;
    if (hi % 2)
        for (uint32_t i = 0; i < d; i++) edge[(size_t)(end - 1) * d + i] &= 0x0000ffffu;
    return edge;
}

/* o += p V of the page's keys [lo, hi) for rows [r, r + n_rows). */
static void group_values(const cpu_attn *a, const work *w, const uint8_t *page, uint32_t j, uint32_t lo, uint32_t hi,
                         uint32_t r, uint32_t n_rows) {
    const uint8_t *values = page + page_k_bytes(a->d_k, a->f32);
    const uint32_t dv = w->t.dv;
    product g = {.a = w->t.s + (size_t)r * CPU_CHUNK_KEYS + j + lo,
                 .a_stride = CPU_CHUNK_KEYS,
                 .b = (const float *)(const void *)values + (size_t)lo * dv,
                 .b_stride = dv,
                 .n = hi - lo,
                 .y = w->t.o + (size_t)r * dv,
                 .y_stride = dv,
                 .n_vec = dv / LANES,
                 .add = true};
    if (!a->f32) {
        const uint32_t *v = (const uint32_t *)(const void *)values;
        if (lo % 2 || hi % 2) v = edge_pairs(v, dv, lo, hi, w->edge);
        g.a = w->t.s + (size_t)r * CPU_CHUNK_KEYS + j + lo / 2 * 2;
        g.b = v + (size_t)(lo / 2) * dv;
        g.n = (hi + 1) / 2 - lo / 2;
    }
    product_rows(g, n_rows, a->f32);
}

/* p V of one page: rows next to each other that see the same of it go together. */
static void page_values(const cpu_attn *a, const work *w, const uint8_t *page, uint32_t j) {
    const attn_tile *t = &w->t;
    for (uint32_t r = 0, end; r < a->n_rows; r = end) {
        const uint32_t lo = page_place(t->lo[r], j), hi = page_place(t->hi[r], j);
        for (end = r + 1; end < a->n_rows; end++)
            if (page_place(t->lo[end], j) != lo || page_place(t->hi[end], j) != hi) break;
        if (lo < hi) group_values(a, w, page, j, lo, hi, r, end - r);
    }
}

/* Scores to p, rounded as p V wants it; returns the 16-lane sum of the unrounded p. */
static float row_weights(float *s, uint32_t j0, uint32_t j1, float m, bool f32) {
    const vf base = vf_of(m == -INFINITY ? 0.0f : m);
    vf sum = vf_of(0.0f);
    for (uint32_t j = j0; j < j1; j += LANES) {
        const vf p = score_weight(vf_load(s + j), base);
        sum = sum + p;
        /* p is 0, at least 2^-87, or NaN, which the sum keeps: the plain rounding does. */
        const vi b = vf_bits(p), h = (b + vi_of(0x7fff) + ((b >> 16) & vi_of(1))) & vi_of(0xffff0000u);
        vf_store(s + j, f32 ? p : vi_bits(h));
    }
    return vf_sum16(sum);
}

/* The chunk that begins at key0. */
static void chunk(const cpu_attn *a, work *w, uint64_t key0) {
    attn_tile *t = &w->t;
    const bool far = key0 >= FAR_KEYS;
    const size_t k_bytes = page_k_bytes(a->d_k, a->f32), v_bytes = kv_bytes(a->d_k, a->d_v, a->f32) - k_bytes;
    chunk_begin(a, t, key0);
    for (uint32_t i = 0; i < CHUNK_PAGES; i++) {
        if (far && t->page[i + 1]) fetch_ahead(t->page[i + 1], k_bytes);
        if (t->page[i]) page_dots(a, w, t->page[i], i * PAGE);
    }
    float m[CPU_ATTN_ROWS], l[CPU_ATTN_ROWS];
    for (uint32_t r = 0; r < a->n_rows; r++) {
        if (t->lo[r] >= t->hi[r]) continue;
        float *s = t->s + (size_t)r * CPU_CHUNK_KEYS;
        const uint32_t j0 = t->lo[r] / PAGE * PAGE, j1 = (t->hi[r] + PAGE - 1) / PAGE * PAGE;
        m[r] = row_scores(a, s, t->lo[r], t->hi[r], j0, j1);
        l[r] = row_weights(s, j0, j1, m[r], a->f32);
    }
    memset(t->o, 0, (size_t)a->n_rows * t->dv * sizeof *t->o);
    for (uint32_t i = 0; i < CHUNK_PAGES; i++) {
        if (far && t->page[i + 1]) fetch_ahead(t->page[i + 1] + k_bytes, v_bytes);
        if (t->page[i]) page_values(a, w, t->page[i], i * PAGE);
    }
    for (uint32_t r = 0; r < a->n_rows; r++)
        if (t->lo[r] < t->hi[r]) row_fold(a, t, r, m[r], l[r]);
}

/* q, s, o, edge. */
static size_t attn_scratch(uint32_t d_k, uint32_t d_v) {
    const size_t dv = d_v_padded(d_v);
    return (CPU_ATTN_ROWS * ((size_t)d_k + CPU_CHUNK_KEYS + dv) + (size_t)BLOCK_PAIRS * dv) * sizeof(float);
}

static void attn(cpu_attn *a, void *scratch) {
    work w = {.q = scratch, .t = {.dv = d_v_padded(a->d_v)}};
    uint64_t begin, end;
    w.t.s = w.q + (size_t)CPU_ATTN_ROWS * a->d_k;
    w.t.o = w.t.s + (size_t)CPU_ATTN_ROWS * CPU_CHUNK_KEYS;
    w.edge = (uint32_t *)(w.t.o + (size_t)CPU_ATTN_ROWS * w.t.dv);
    for (uint32_t r = 0; r < a->n_rows; r++)
        for (uint32_t i = 0; i < a->d_k; i += LANES) {
            const vf x = vf_load_first(a->q[r] + i, a->d_k - i, vf_of(0.0f));
            vf_store_first(w.q + (size_t)r * a->d_k + i, a->d_k - i, a->f32 ? x : vi_bits(vi_round_bf16(x)));
        }
    rows_begin(a, &w.t, &begin, &end);
    /* Rows of a tile may lie far apart: chunks between them that no row sees cost a look at 16 pairs of numbers. */
    for (uint64_t key = begin / CPU_CHUNK_KEYS * CPU_CHUNK_KEYS; key < end; key += CPU_CHUNK_KEYS) chunk(a, &w, key);
    for (uint32_t r = 0; r < a->n_rows; r++) row_finish(a, &w.t, r);
}

const cpu_attn_kernels cpu_avx512_attn = {
    .rows = 2 * ROWS,
    .kv_bytes = kv_bytes,
    .kv_write = kv_write,
    .attn_scratch = attn_scratch,
    .attn = attn,
};
