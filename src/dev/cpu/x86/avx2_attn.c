/* dev/cpu/x86/avx2_attn.c - attention of a tile of rows over a paged cache: the bits of dev/cpu/ref/ref_attn.c.
 *
 * No axis that is summed is vectorised: scores run eight keys wide, p V eight columns wide. So both are one
 * product, y[r][c] += sum over i of a[r][i] * b[i][c], with a broadcast: a = q, i = d, c = key for
 * scores, a = p, i = key, c = column of V for p V. Page piece of one KV head:
 *     bf16   K words [d_k / 2][32 keys], the even d in the low half of a word, the odd one in the high half
 *            V words [16 pairs of keys][d_v], the even key in the low half
 *     f32    K [d_k][32 keys], V [32 keys][d_v]
 * A word shifted left by 16 is the even element in fp32, masked by 0xffff0000 the odd one: the two chains of a
 * block of 32 come from one load and need no shuffle. Two or three rows by two vectors by two chains are 8 or 12
 * accumulators; four rows take the even chains of a block first, then the odd ones, again with 8 accumulators.
 *
 * Per chunk of 256 keys: scores page by page for all rows of the tile, then softmax row by row, then p V page by
 * page, then the fold. Rows that do not see a page still get its scores (unused); p V touches visible keys only,
 * for rows that see the same keys of a page together. In an edge pair with one visible key the other half is cleared in
 * a copy, because 0 * garbage may be NaN. Why zeros and absent keys are the same is proved in ref_attn.c.
 */
#include "dev/cpu/kernels.h"
#include "dev/cpu/x86/avx2_vec.h"

#include <math.h>
#include <string.h>

enum { LANES = VMATH_LANES, PAGE = CPU_PAGE_TOKENS, BLOCK_PAIRS = 16, ROWS = 4, TILE = 8, VECS = 4, FAR_KEYS = 4096 };

#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL
#else
#define UNROLL _Pragma("GCC unroll 8")
#endif
/* Makes the compiler load a word a second time rather than keep it: 12 accumulators leave four registers. */
#define RELOAD __asm__ volatile("" ::: "memory")

/* y[r][0 .. 8 n_vec) (+)= sum over i < n of a[r][i] * b[i][.]; strides in elements of the pointer's type. */
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

static inline vi word_at(const uint32_t *p) { return (vi)_mm256_loadu_si256((const __m256i *)p); }
static inline vf even_half(vi word) { return vi_bits(word << 16); }
static inline vf odd_half(vi word) { return vi_bits(word & vi_of(0xffff0000u)); }

/* The bf16 rule: blocks of up to 16 pairs, two chains from 0 in each, y = y + (even + odd). */
INLINE void pair_tile(const product *g, uint32_t col, const int rows, const int vecs) {
    const uint32_t *b = (const uint32_t *)g->b + col;
    const size_t b_stride = g->b_stride, a_stride = g->a_stride, y_stride = g->y_stride;
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
            vf v[VECS];
            UNROLL for (int c = 0; c < vecs; c++) v[c] = even_half(word_at(b + LANES * c));
            UNROLL for (int r = 0; r < rows; r++) {
                vf q = vf_of(a[(size_t)r * a_stride]);
                UNROLL for (int c = 0; c < vecs; c++) even[r][c] = vf_fma(q, v[c], even[r][c]);
            }
            RELOAD;
            UNROLL for (int c = 0; c < vecs; c++) v[c] = odd_half(word_at(b + LANES * c));
            UNROLL for (int r = 0; r < rows; r++) {
                vf q = vf_of(a[(size_t)r * a_stride + 1]);
                UNROLL for (int c = 0; c < vecs; c++) odd[r][c] = vf_fma(q, v[c], odd[r][c]);
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

/* One chain of a block into acc: the even elements (odd 0) or the odd ones (odd 1). */
INLINE void half_block(vf acc[ROWS][VECS], const product *g, const float *a, const uint32_t *b, uint32_t n,
                       const int odd, const int rows, const int vecs) {
    const size_t a_stride = g->a_stride, b_stride = g->b_stride;
    UNROLL for (int r = 0; r < rows; r++) { UNROLL for (int c = 0; c < vecs; c++) acc[r][c] = vf_of(0.0f); }
    for (a += odd; n > 0; n--, b += b_stride, a += 2) {
        vf v[VECS];
        UNROLL for (int c = 0; c < vecs; c++) v[c] =
            odd ? odd_half(word_at(b + LANES * c)) : even_half(word_at(b + LANES * c));
        UNROLL for (int r = 0; r < rows; r++) {
            vf q = vf_of(a[(size_t)r * a_stride]);
            UNROLL for (int c = 0; c < vecs; c++) acc[r][c] = vf_fma(q, v[c], acc[r][c]);
        }
    }
}

/* The same rule, one chain after the other: four rows by two vectors share each load and keep registers free. */
INLINE void split_tile(const product *g, uint32_t col, const int rows, const int vecs) {
    const uint32_t *b = (const uint32_t *)g->b + col;
    const float *a = g->a;
    float *y = g->y + col;
    bool add = g->add;
    for (uint32_t left = g->n, n; left > 0; left -= n, add = true) {
        vf even[ROWS][VECS], odd[ROWS][VECS];
        n = left < BLOCK_PAIRS ? left : BLOCK_PAIRS;
        half_block(even, g, a, b, n, 0, rows, vecs);
        half_block(odd, g, a, b, n, 1, rows, vecs);
        UNROLL for (int r = 0; r < rows; r++) {
            UNROLL for (int c = 0; c < vecs; c++) {
                float *p = y + (size_t)r * g->y_stride + LANES * c;
                vf sum = even[r][c] + odd[r][c];
                vf_store(p, add ? vf_load(p) + sum : sum);
            }
        }
        a += 2 * (size_t)n;
        b += n * g->b_stride;
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
        vf a[ROWS];
        UNROLL for (int r = 0; r < rows; r++) a[r] = vf_of(g->a[(size_t)r * g->a_stride + i]);
        UNROLL for (int c = 0; c < vecs; c++) {
            vf v = vf_load(b + LANES * c);
            UNROLL for (int r = 0; r < rows; r++) acc[r][c] = vf_fma(a[r], v, acc[r][c]);
        }
    }
    UNROLL for (int r = 0; r < rows; r++) {
        UNROLL for (int c = 0; c < vecs; c++) vf_store(g->y + (size_t)r * g->y_stride + col + LANES * c, acc[r][c]);
    }
}

static void pairs_4(const product *g) {
    uint32_t c = 0;
    for (; c + 2 <= g->n_vec; c += 2) split_tile(g, c * LANES, 4, 2);
    for (; c < g->n_vec; c++) split_tile(g, c * LANES, 4, 1);
}

static void pairs_3(const product *g) {
    uint32_t c = 0;
    for (; c + 2 <= g->n_vec; c += 2) pair_tile(g, c * LANES, 3, 2);
    for (; c < g->n_vec; c++) pair_tile(g, c * LANES, 3, 1);
}

static void pairs_2(const product *g) {
    uint32_t c = 0;
    for (; c + 2 <= g->n_vec; c += 2) pair_tile(g, c * LANES, 2, 2);
    for (; c < g->n_vec; c++) pair_tile(g, c * LANES, 2, 1);
}

static void pairs_1(const product *g) {
    uint32_t c = 0;
    for (; c + 4 <= g->n_vec; c += 4) pair_tile(g, c * LANES, 1, 4);
    for (; c < g->n_vec; c++) pair_tile(g, c * LANES, 1, 1);
}

static void chain_4(const product *g) {
    uint32_t c = 0;
    for (; c + 2 <= g->n_vec; c += 2) chain_tile(g, c * LANES, 4, 2);
    for (; c < g->n_vec; c++) chain_tile(g, c * LANES, 4, 1);
}

static void chain_3(const product *g) {
    uint32_t c = 0;
    for (; c + 4 <= g->n_vec; c += 4) chain_tile(g, c * LANES, 3, 4);
    for (; c < g->n_vec; c++) chain_tile(g, c * LANES, 3, 1);
}

static void chain_2(const product *g) {
    uint32_t c = 0;
    for (; c + 4 <= g->n_vec; c += 4) chain_tile(g, c * LANES, 2, 4);
    for (; c < g->n_vec; c++) chain_tile(g, c * LANES, 2, 1);
}

static void chain_1(const product *g) {
    uint32_t c = 0;
    for (; c + 4 <= g->n_vec; c += 4) chain_tile(g, c * LANES, 1, 4);
    for (; c < g->n_vec; c++) chain_tile(g, c * LANES, 1, 1);
}

/* The product for n_rows rows, in groups of up to four. */
static void product_rows(product g, uint32_t n_rows, bool f32) {
    static void (*const kernel[2][ROWS])(const product *) = {{pairs_1, pairs_2, pairs_3, pairs_4},
                                                             {chain_1, chain_2, chain_3, chain_4}};
    static const uint8_t take[TILE + 1] = {0, 1, 2, 3, 4, 3, 3, 4, 4};
    while (n_rows > 0) {
        uint32_t n = take[n_rows < TILE ? n_rows : TILE];
        kernel[f32][n - 1](&g);
        g.a += n * g.a_stride;
        g.y += n * g.y_stride;
        n_rows -= n;
    }
}

static size_t kv_bytes(uint32_t d_k, uint32_t d_v, bool f32) {
    return (size_t)PAGE * (d_k + d_v) * (f32 ? sizeof(float) : sizeof(uint16_t));
}

/* bf16 bits of 8 floats. */
static inline void bf16_bits(uint16_t out[LANES], const float *x) {
    vi b = vf_bits(vf_round_bf16(vf_load(x))) >> 16;
    __m128i half = _mm_packus_epi32(_mm256_castsi256_si128((__m256i)b), _mm256_extracti128_si256((__m256i)b, 1));
    _mm_storeu_si128((__m128i *)out, half);
}

/* Slots of one word may be written by different threads: stores are of single elements. */
static void kv_write(uint8_t *page_head, uint32_t slot, const float *k, const float *v, uint32_t d_k, uint32_t d_v,
                     bool f32) {
    if (f32) {
        float *pk = (float *)page_head, *pv = pk + (size_t)PAGE * d_k;
        for (uint32_t i = 0; i < d_k; i++) pk[(size_t)PAGE * i + slot] = k[i];
        memcpy(pv + (size_t)slot * d_v, v, d_v * sizeof *v);
        return;
    }
    uint16_t h[LANES], *pk = (uint16_t *)page_head + 2 * slot;
    uint16_t *pv = (uint16_t *)page_head + (size_t)PAGE * d_k + (size_t)(slot / 2) * 2 * d_v + slot % 2;
    for (uint32_t i = 0; i < d_k; i += LANES) {
        bf16_bits(h, k + i);
        for (uint32_t j = 0; j < LANES; j++) pk[(size_t)((i + j) / 2) * 2 * PAGE + j % 2] = h[j];
    }
    for (uint32_t i = 0; i < d_v; i += LANES) {
        bf16_bits(h, v + i);
        for (uint32_t j = 0; j < LANES; j++) pv[2 * (size_t)(i + j)] = h[j];
    }
}

/* The tile's working memory, all of it in the caller's scratch. */
typedef struct {
    float *q;       /* [rows][d_k], rounded to bf16 in that profile */
    float *s;       /* [rows][256]: scores, then p */
    float *o;       /* [rows][d_v]: the chunk's sum p V */
    uint32_t *edge; /* [16][d_v]: V of a page with an edge pair */
    float m[CPU_ATTN_ROWS], l[CPU_ATTN_ROWS];
    uint32_t lo[CPU_ATTN_ROWS], hi[CPU_ATTN_ROWS]; /* the chunk's visible keys, relative to it; lo >= hi: none */
    bool begun[CPU_ATTN_ROWS];
} tile;

/* The dot products of all rows with the page's 32 keys, the chunk's at place j. */
static void page_dots(const cpu_attn *a, const tile *t, const uint8_t *page, uint32_t j) {
    product g = {.a = t->q,
                 .a_stride = a->d_k,
                 .b = page,
                 .b_stride = PAGE,
                 .n = a->f32 ? a->d_k : a->d_k / 2,
                 .y = t->s + j,
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
static void group_values(const cpu_attn *a, const tile *t, const uint8_t *page, uint32_t j, uint32_t lo, uint32_t hi,
                         uint32_t r, uint32_t n_rows) {
    const uint8_t *values = page + (size_t)PAGE * a->d_k * (a->f32 ? sizeof(float) : sizeof(uint16_t));
    product g = {.a = t->s + (size_t)r * CPU_CHUNK_KEYS + j + lo,
                 .a_stride = CPU_CHUNK_KEYS,
                 .b = (const float *)values + (size_t)lo * a->d_v,
                 .b_stride = a->d_v,
                 .n = hi - lo,
                 .y = t->o + (size_t)r * a->d_v,
                 .y_stride = a->d_v,
                 .n_vec = a->d_v / LANES,
                 .add = true};
    if (!a->f32) {
        const uint32_t *v = (const uint32_t *)values;
        if (lo % 2 || hi % 2) v = edge_pairs(v, a->d_v, lo, hi, t->edge);
        g.a = t->s + (size_t)r * CPU_CHUNK_KEYS + j + lo / 2 * 2;
        g.b = v + (size_t)(lo / 2) * a->d_v;
        g.n = (hi + 1) / 2 - lo / 2;
    }
    product_rows(g, n_rows, a->f32);
}

static uint32_t within(uint32_t x, uint32_t j) { return x <= j ? 0 : x - j < PAGE ? x - j : PAGE; }

/* p V of one page: rows next to each other that see the same of it go together. */
static void page_values(const cpu_attn *a, const tile *t, const uint8_t *page, uint32_t j) {
    for (uint32_t r = 0, end; r < a->n_rows; r = end) {
        uint32_t lo = within(t->lo[r], j), hi = within(t->hi[r], j);
        for (end = r + 1; end < a->n_rows; end++)
            if (within(t->lo[end], j) != lo || within(t->hi[end], j) != hi) break;
        if (lo < hi) group_values(a, t, page, j, lo, hi, r, end - r);
    }
}

/* Dots to scores over the row's pages [j0, j1), -infinity where masked; the largest comes back. */
static float row_scores(const cpu_attn *a, float *s, uint32_t lo, uint32_t hi, uint32_t j0, uint32_t j1) {
    const vf none = vf_of(-INFINITY), scale = vf_of(a->scale), cap = vf_of(a->softcap);
    vf top = none;
    for (uint32_t j = j0; j < j1; j += LANES) {
        vf x = vf_load(s + j) * scale;
        if (a->softcap != 0.0f) x = cap * vm_tanh(x / cap);
        if (j < lo) x = vf_pick(vi_first(lo - j), none, x);
        if (j + LANES > hi) x = vf_pick(vi_first(hi > j ? hi - j : 0), x, none);
        top = vf_max(x, top);
        vf_store(s + j, x);
    }
    float m = top[0];
    for (int i = 1; i < LANES; i++) m = top[i] > m ? top[i] : m;
    return m;
}

/* Scores to p, rounded as p V wants it; returns the 16-lane sum of the unrounded p. */
static float row_weights(float *s, uint32_t j0, uint32_t j1, float m, bool f32) {
    const vf base = vf_of(m == -INFINITY ? 0.0f : m), low = vf_of(-60.0f), zero = vf_of(0.0f);
    vf sum[2] = {zero, zero};
    for (uint32_t j = j0; j < j1; j += 2 * LANES) {
        UNROLL for (int i = 0; i < 2; i++) {
            vf x = vf_load(s + j + i * LANES) - base;
            vf p = vf_pick(vf_less(x, low), zero, vm_exp_near(vf_max(low, x)));
            sum[i] = sum[i] + p;
            /* p is 0, at least 2^-87, or NaN, which the sum keeps: the plain rounding does. */
            vi b = vf_bits(p);
            vi h = (b + vi_of(0x7fff) + ((b >> 16) & vi_of(1))) & vi_of(0xffff0000u);
            vf_store(s + j + i * LANES, f32 ? p : vi_bits(h));
        }
    }
    return vf_sum16(sum[0], sum[1]);
}

static void row_fold(const cpu_attn *a, tile *t, uint32_t r, float m, float l) {
    const float *o = t->o + (size_t)r * a->d_v;
    float *out = a->out[r];
    const vf zero = vf_of(0.0f);
    if (!t->begun[r]) {
        for (uint32_t i = 0; i < a->d_v; i += LANES) vf_store(out + i, vf_load(o + i) + zero);
        t->m[r] = m;
        t->l[r] = l;
        t->begun[r] = true;
        return;
    }
    float both = m > t->m[r] ? m : t->m[r];
    float base = both == -INFINITY ? 0.0f : both;
    vf f1 = vm_exp(vf_of(t->m[r] - base)), f2 = vm_exp(vf_of(m - base));
    for (uint32_t i = 0; i < a->d_v; i += LANES)
        vf_store(out + i, (vf_load(out + i) * f1) + ((vf_load(o + i) + zero) * f2) + zero);
    t->m[r] = both;
    t->l[r] = (t->l[r] * f1[0]) + (l * f2[0]);
}

static void row_finish(cpu_attn *a, const tile *t, uint32_t r) {
    float *out = a->out[r], m = t->m[r], l = t->l[r], factor = 1.0f;
    a->lse[r] = m + vm_log(vf_of(l))[0];
    if (l == 0.0f) {
        memset(out, 0, a->d_v * sizeof *out);
        return;
    }
    if (a->sink[r]) {
        float z = *a->sink[r], top = m > z ? m : z;
        factor = vm_exp(vf_of(m - top))[0];
        l = (l * factor) + vm_exp(vf_of(z - top))[0];
    }
    /* Without a sink the factor is 1 and changes nothing. */
    for (uint32_t i = 0; i < a->d_v; i += LANES) vf_store(out + i, (vf_load(out + i) * vf_of(factor)) / vf_of(l));
}

/* Whether any row sees a key of the page at place j: only then may its entry of pages[] be used. */
static bool page_seen(const cpu_attn *a, const tile *t, uint32_t j) {
    for (uint32_t r = 0; r < a->n_rows; r++)
        if (within(t->lo[r], j) < within(t->hi[r], j)) return true;
    return false;
}

/* Place of a key in the chunk at key0, held within [0, 256]. */
static uint32_t place(uint64_t key, uint64_t key0) {
    return key <= key0 ? 0 : key - key0 < CPU_CHUNK_KEYS ? (uint32_t)(key - key0) : CPU_CHUNK_KEYS;
}

/* Pages lie anywhere, and the hardware's prefetch stops at the end of each. Worth it (20 to 40 % at 32k keys) where a
 * sequence has outgrown the second-level cache, 5 % slower before. */
static void prefetch(const uint8_t *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* The chunk that begins at key0. */
static void chunk(const cpu_attn *a, tile *t, uint64_t key0) {
    for (uint32_t r = 0; r < a->n_rows; r++) {
        t->lo[r] = place(a->first[r], key0);
        t->hi[r] = place((uint64_t)a->last[r] + 1, key0);
    }
    const uint8_t *page[CPU_CHUNK_KEYS / PAGE + 1] = {NULL}; /* NULL: no row sees it */
    for (uint32_t i = 0; i < CPU_CHUNK_KEYS / PAGE; i++)
        if (page_seen(a, t, i * PAGE))
            page[i] = a->pool + (size_t)a->pages[key0 / PAGE + i] * a->page_bytes + a->offset;
    const bool far = key0 >= FAR_KEYS;
    const size_t unit = a->f32 ? sizeof(float) : sizeof(uint16_t), k_bytes = PAGE * unit * a->d_k;
    for (uint32_t i = 0; i < CPU_CHUNK_KEYS / PAGE; i++) {
        if (far && page[i + 1]) prefetch(page[i + 1], k_bytes);
        if (page[i]) page_dots(a, t, page[i], i * PAGE);
    }
    float m[CPU_ATTN_ROWS], l[CPU_ATTN_ROWS];
    for (uint32_t r = 0; r < a->n_rows; r++) {
        if (t->lo[r] >= t->hi[r]) continue;
        float *s = t->s + (size_t)r * CPU_CHUNK_KEYS;
        uint32_t j0 = t->lo[r] / PAGE * PAGE, j1 = (t->hi[r] + PAGE - 1) / PAGE * PAGE;
        m[r] = row_scores(a, s, t->lo[r], t->hi[r], j0, j1);
        l[r] = row_weights(s, j0, j1, m[r], a->f32);
    }
    memset(t->o, 0, (size_t)a->n_rows * a->d_v * sizeof *t->o);
    for (uint32_t i = 0; i < CPU_CHUNK_KEYS / PAGE; i++) {
        if (far && page[i + 1]) prefetch(page[i + 1] + k_bytes, PAGE * unit * a->d_v);
        if (page[i]) page_values(a, t, page[i], i * PAGE);
    }
    for (uint32_t r = 0; r < a->n_rows; r++)
        if (t->lo[r] < t->hi[r]) row_fold(a, t, r, m[r], l[r]);
}

static size_t attn_scratch(uint32_t d_k, uint32_t d_v) {
    return (CPU_ATTN_ROWS * ((size_t)d_k + CPU_CHUNK_KEYS + d_v) + (size_t)BLOCK_PAIRS * d_v) * sizeof(float);
}

static void attn(cpu_attn *a, void *scratch) {
    tile t = {.q = scratch};
    uint64_t begin = UINT64_MAX, end = 0;
    t.s = t.q + (size_t)CPU_ATTN_ROWS * a->d_k;
    t.o = t.s + (size_t)CPU_ATTN_ROWS * CPU_CHUNK_KEYS;
    t.edge = (uint32_t *)(t.o + (size_t)CPU_ATTN_ROWS * a->d_v);
    for (uint32_t r = 0; r < a->n_rows; r++) {
        float *q = t.q + (size_t)r * a->d_k;
        for (uint32_t i = 0; i < a->d_k; i += LANES)
            vf_store(q + i, a->f32 ? vf_load(a->q[r] + i) : vf_round_bf16(vf_load(a->q[r] + i)));
        t.m[r] = -INFINITY;
        if (a->first[r] > a->last[r]) continue;
        begin = a->first[r] < begin ? a->first[r] : begin;
        end = (uint64_t)a->last[r] + 1 > end ? (uint64_t)a->last[r] + 1 : end;
    }
    /* Rows of a tile may lie far apart: chunks between them that no row sees cost a look at eight pairs of numbers. */
    for (uint64_t key = begin / CPU_CHUNK_KEYS * CPU_CHUNK_KEYS; key < end; key += CPU_CHUNK_KEYS) chunk(a, &t, key);
    for (uint32_t r = 0; r < a->n_rows; r++) row_finish(a, &t, r);
}

const cpu_attn_kernels cpu_avx2_attn = {
    .rows = TILE,
    .kv_bytes = kv_bytes,
    .kv_write = kv_write,
    .attn_scratch = attn_scratch,
    .attn = attn,
};
