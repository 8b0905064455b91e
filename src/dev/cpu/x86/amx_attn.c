/* dev/cpu/x86/amx_attn.c - attention of a tile of up to 16 rows on AMX: the bits of dev/cpu/ref/ref_attn.c.
 *
 * tdpbf16ps computes the bf16 rule (docs/numerics.md), one block of 32 for 16 rows by 16 columns, so both products are a
 * few tiles each: S = Q K^T over blocks of d, o = P V over the chunk's pages, the sums kept in tiles throughout. Cache
 * layout, softmax and fold are those of avx512_attn.h; the f32 profile is avx512_attn.c's.
 *
 * Per chunk of 256 keys: scores two pages at a time (four sums, more than the latency of the instruction), softmax row by
 * row into P in bf16, then p V for 64 columns at a time over all pages. Where a row sees no key of a page its p is 0. That
 * is the same as an absent key unless V is not finite there, so pages that are not seen whole by every row are copied first:
 * keys that no row sees become 0, and if a value is not finite that some rows see and others do not, the chunk's p V is
 * done row by row without tiles.
 */
#include "dev/cpu/x86/amx_tile.h"
#include "dev/cpu/x86/avx512_attn.h"

enum { COLUMNS = 64 /* of o, in four tiles */ };

typedef struct {
    attn_tile t;
    uint16_t *q;    /* [rows][dk] bf16 */
    uint16_t *p;    /* [rows][256] bf16 */
    uint32_t *edge; /* [16 pairs][64]: part of a page's V, without what no row sees */
    uint32_t dk;
    size_t k_bytes, v_bytes;           /* of a page's piece */
    bool far;                          /* the cache has outgrown the first levels: pages are asked for ahead */
    uint32_t whole_lo, whole_hi;       /* the chunk's keys that every row sees */
    const uint8_t *later[CHUNK_PAGES]; /* the next chunk's pieces; NULL where there is none, or the cache is near */
} amx_work;

/* Dots of all rows with the keys of one page, or of two when k1 is given, to s and s + 32 of each row. */
static void page_dots(const amx_work *w, const uint8_t *k0, const uint8_t *k1, float *s0, float *s1) {
    const size_t q_stride = w->dk * sizeof *w->q, k_stride = PAGE * sizeof(uint32_t),
                 s_stride = CPU_CHUNK_KEYS * sizeof(float), half = LANES * sizeof(uint32_t);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t i = 0; i < w->dk; i += PAGE) {
        const size_t at = (size_t)i * PAGE * sizeof(uint16_t);
        _tile_loadd(6, w->q + i, q_stride);
        _tile_loadd(4, k0 + at, k_stride);
        _tile_dpbf16ps(0, 6, 4);
        _tile_loadd(5, k0 + at + half, k_stride);
        _tile_dpbf16ps(1, 6, 5);
        if (!k1) continue;
        _tile_loadd(4, k1 + at, k_stride);
        _tile_dpbf16ps(2, 6, 4);
        _tile_loadd(5, k1 + at + half, k_stride);
        _tile_dpbf16ps(3, 6, 5);
    }
    _tile_stored(0, s0, s_stride);
    _tile_stored(1, s0 + LANES, s_stride);
    if (!k1) return;
    _tile_stored(2, s1, s_stride);
    _tile_stored(3, s1 + LANES, s_stride);
}

static void chunk_dots(const amx_work *w) {
    const attn_tile *t = &w->t;
    for (uint32_t i = 0, next; i < CHUNK_PAGES; i = next) {
        next = i + 1;
        if (!t->page[i]) continue;
        while (next < CHUNK_PAGES && !t->page[next]) next++;
        const bool two = next < CHUNK_PAGES;
        if (w->far) fetch_ahead(t->page[i] + w->k_bytes, w->v_bytes);
        if (w->far && two) fetch_ahead(t->page[next] + w->k_bytes, w->v_bytes);
        page_dots(w, t->page[i], two ? t->page[next] : NULL, t->s + i * PAGE, t->s + next * PAGE);
        next += two;
    }
}

/* Scores to P over the places [j0, j1), 0 in the rest of [0, 256); returns the 16-lane sum of the unrounded p. */
static float row_weights(const float *s, uint16_t *p, uint32_t j0, uint32_t j1, float m) {
    const vf base = vf_of(m == -INFINITY ? 0.0f : m);
    vf sum = vf_of(0.0f);
    memset(p, 0, j0 * sizeof *p);
    for (uint32_t j = j0; j < j1; j += 2 * LANES) {
        const vf x = score_weight(vf_load(s + j), base), y = score_weight(vf_load(s + j + LANES), base);
        sum = sum + x;
        sum = sum + y;
        _mm512_storeu_si512(p + j, (__m512i)_mm512_cvtne2ps_pbh(y, x));
    }
    memset(p + j1, 0, (CPU_CHUNK_KEYS - j1) * sizeof *p);
    return vf_sum16(sum);
}

/* What any row sees of the page at place j; true when all rows see the same of it. */
static bool page_edges(const cpu_attn *a, const attn_tile *t, uint32_t j, uint32_t *lo, uint32_t *hi) {
    const uint32_t lo0 = page_place(t->lo[0], j), hi0 = page_place(t->hi[0], j);
    bool same = true;
    *lo = PAGE;
    *hi = 0;
    for (uint32_t r = 0; r < a->n_rows; r++) {
        const uint32_t l = page_place(t->lo[r], j), h = page_place(t->hi[r], j);
        same &= l == lo0 && h == hi0;
        if (l >= h) continue;
        *lo = l < *lo ? l : *lo;
        *hi = h > *hi ? h : *hi;
    }
    return same;
}

/* Copies 16 n columns of a page's V, 0 for keys outside [lo, hi). True when all of the copy is finite. */
static bool edge_copy(uint32_t *edge, const uint32_t *v, uint32_t dv, uint32_t n, uint32_t lo, uint32_t hi) {
    const __m512i exponent = _mm512_set1_epi16(0x7f80);
    __mmask32 bad = 0;
    for (uint32_t i = 0; i < BLOCK_PAIRS; i++) {
        const uint32_t even = 2 * i >= lo && 2 * i < hi ? 0xffffu : 0, odd = 2 * i + 1 >= lo && 2 * i + 1 < hi;
        const __m512i keep = _mm512_set1_epi32((int)(even | (odd ? 0xffff0000u : 0)));
        for (uint32_t c = 0; c < n; c++) {
            const __m512i x = _mm512_and_si512(_mm512_loadu_si512(v + (size_t)i * dv + c * LANES), keep);
            bad |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(x, exponent), exponent);
            _mm512_store_si512(edge + i * COLUMNS + c * LANES, x);
        }
    }
    amx_stored();
    return bad == 0;
}

/* p V of 16 n columns of a page; b is their V. */
static void page_values(const uint16_t *p, const uint32_t *b, size_t stride, uint32_t n) {
    _tile_loadd(6, p, CPU_CHUNK_KEYS * sizeof *p);
    _tile_loadd(4, b, stride);
    _tile_dpbf16ps(0, 6, 4);
    if (n < 2) return;
    _tile_loadd(5, b + LANES, stride);
    _tile_dpbf16ps(1, 6, 5);
    if (n < 3) return;
    _tile_loadd(4, b + 2 * LANES, stride);
    _tile_dpbf16ps(2, 6, 4);
    if (n < 4) return;
    _tile_loadd(5, b + 3 * LANES, stride);
    _tile_dpbf16ps(3, 6, 5);
}

/* o of the columns [c, c + 16 n), n <= 4. False, with o undefined, when V is not finite where rows see different keys. */
static bool column_values(const cpu_attn *a, const amx_work *w, uint32_t c, uint32_t n) {
    const attn_tile *t = &w->t;
    const size_t stride = t->dv * sizeof(float);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (uint32_t i = 0; i < CHUNK_PAGES; i++) {
        if (!t->page[i]) continue;
        const uint32_t *v = (const uint32_t *)(const void *)(t->page[i] + w->k_bytes) + c;
        size_t v_stride = stride;
        if (c == 0 && w->later[i]) fetch_ahead(w->later[i], w->k_bytes);
        if (i * PAGE < w->whole_lo || (i + 1) * PAGE > w->whole_hi) {
            uint32_t lo, hi;
            const bool same = page_edges(a, t, i * PAGE, &lo, &hi), finite = edge_copy(w->edge, v, t->dv, n, lo, hi);
            if (!same && !finite) return false;
            v = w->edge;
            v_stride = COLUMNS * sizeof *v;
        }
        page_values(w->p + i * PAGE, v, v_stride, n);
    }
    float *o = t->o + c;
    _tile_stored(0, o, stride);
    if (n > 1) _tile_stored(1, o + LANES, stride);
    if (n > 2) _tile_stored(2, o + 2 * LANES, stride);
    if (n > 3) _tile_stored(3, o + 3 * LANES, stride);
    return true;
}

/* One row's o without tiles: keys that it does not see are not there. */
static void row_values(const amx_work *w, uint32_t r) {
    const attn_tile *t = &w->t;
    for (uint32_t c = 0; c < t->dv; c += LANES) {
        vf sum = vf_of(0.0f);
        for (uint32_t j = 0; j < CPU_CHUNK_KEYS; j += PAGE) {
            if (!page_seen(t, r, j)) continue;
            const uint32_t *v = (const uint32_t *)(const void *)(t->page[j / PAGE] + w->k_bytes) + c;
            vf chain[2] = {vf_of(0.0f), vf_of(0.0f)};
            for (uint32_t k = page_place(t->lo[r], j); k < page_place(t->hi[r], j); k++) {
                const vi pair = (vi)_mm512_loadu_si512(v + (size_t)(k / 2) * t->dv);
                const vf p = vi_bits(vi_of((uint32_t)w->p[(size_t)r * CPU_CHUNK_KEYS + j + k] << 16));
                chain[k % 2] = vf_fma(p, vi_bits(k % 2 ? pair & vi_of(0xffff0000u) : pair << 16), chain[k % 2]);
            }
            sum = sum + (chain[0] + chain[1]);
        }
        vf_store(t->o + (size_t)r * t->dv + c, sum);
    }
}

static void chunk_values(const cpu_attn *a, const amx_work *w) {
    bool done = true;
    for (uint32_t c = 0; c < w->t.dv && done; c += COLUMNS) {
        const uint32_t n = (w->t.dv - c) / LANES;
        done = column_values(a, w, c, n < 4 ? n : 4);
    }
    for (uint32_t r = 0; r < a->n_rows && !done; r++) row_values(w, r);
}

/* What the rows see of the chunk at key0, and where the next one lies. */
static void work_begin(const cpu_attn *a, amx_work *w, uint64_t key0) {
    attn_tile *t = &w->t;
    chunk_begin(a, t, key0);
    w->whole_lo = 0;
    w->whole_hi = CPU_CHUNK_KEYS;
    for (uint32_t r = 0; r < a->n_rows; r++) {
        w->whole_lo = t->lo[r] > w->whole_lo ? t->lo[r] : w->whole_lo;
        w->whole_hi = t->hi[r] < w->whole_hi ? t->hi[r] : w->whole_hi;
    }
    w->far = key0 >= FAR_KEYS;
    for (uint32_t i = 0; i < CHUNK_PAGES; i++) {
        const uint64_t key = key0 + CPU_CHUNK_KEYS + i * PAGE;
        /* A row that sees the end of this chunk sees the next one to its last key. */
        const bool known = w->far && t->lo[0] < t->hi[0] && t->hi[0] == CPU_CHUNK_KEYS && key <= a->last[0];
        w->later[i] = known ? a->pool + (size_t)a->pages[key / PAGE] * a->page_bytes + a->offset : NULL;
    }
}

/* The chunk that begins at key0. */
static void chunk(const cpu_attn *a, amx_work *w, uint64_t key0) {
    attn_tile *t = &w->t;
    float m[CPU_ATTN_ROWS], l[CPU_ATTN_ROWS];
    work_begin(a, w, key0);
    chunk_dots(w);
    for (uint32_t r = 0; r < a->n_rows; r++) {
        float *s = t->s + (size_t)r * CPU_CHUNK_KEYS;
        const bool seen = t->lo[r] < t->hi[r];
        const uint32_t j0 = seen ? t->lo[r] / PAGE * PAGE : 0, j1 = seen ? (t->hi[r] + PAGE - 1) / PAGE * PAGE : 0;
        m[r] = row_scores(a, s, t->lo[r], t->hi[r], j0, j1);
        l[r] = row_weights(s, w->p + (size_t)r * CPU_CHUNK_KEYS, j0, j1, m[r]);
    }
    amx_stored();
    chunk_values(a, w);
    for (uint32_t r = 0; r < a->n_rows; r++)
        if (t->lo[r] < t->hi[r]) row_fold(a, t, r, m[r], l[r]);
}

/* Scratch: s, o, edge, p, q. */
static size_t amx_scratch(uint32_t d_k, uint32_t d_v) {
    const size_t bytes = (size_t)CPU_ATTN_ROWS * (CPU_CHUNK_KEYS + d_v_padded(d_v)) * sizeof(float) +
                         BLOCK_PAIRS * COLUMNS * sizeof(uint32_t) +
                         (size_t)CPU_ATTN_ROWS * (CPU_CHUNK_KEYS + d_k_padded(d_k, false)) * sizeof(uint16_t);
    const size_t f32 = cpu_avx512_attn.attn_scratch(d_k, d_v);
    return bytes > f32 ? bytes : f32;
}

static void amx_attn(cpu_attn *a, void *scratch) {
    if (a->f32) {
        cpu_avx512_attn.attn(a, scratch);
        return;
    }
    amx_work w = {.t = {.s = scratch, .dv = d_v_padded(a->d_v)}, .dk = d_k_padded(a->d_k, false)};
    w.k_bytes = page_k_bytes(a->d_k, false);
    w.v_bytes = BLOCK_PAIRS * w.t.dv * sizeof(uint32_t);
    w.t.o = w.t.s + (size_t)CPU_ATTN_ROWS * CPU_CHUNK_KEYS;
    w.edge = (uint32_t *)(w.t.o + (size_t)CPU_ATTN_ROWS * w.t.dv);
    w.p = (uint16_t *)(w.edge + BLOCK_PAIRS * COLUMNS);
    w.q = w.p + (size_t)CPU_ATTN_ROWS * CPU_CHUNK_KEYS;
    uint64_t begin, end;
    for (uint32_t r = 0; r < a->n_rows; r++)
        for (uint32_t i = 0; i < w.dk; i += LANES) {
            const vf x = i < a->d_k ? vf_load_first(a->q[r] + i, a->d_k - i, vf_of(0.0f)) : vf_of(0.0f);
            _mm256_storeu_si256((__m256i *)(void *)(w.q + (size_t)r * w.dk + i), bf16_bits(x));
        }
    rows_begin(a, &w.t, &begin, &end);
    amx_begin(a->n_rows);
    amx_stored();
    /* Rows of a tile may lie far apart: chunks between them that no row sees cost a look at 16 pairs of numbers. */
    for (uint64_t key = begin / CPU_CHUNK_KEYS * CPU_CHUNK_KEYS; key < end; key += CPU_CHUNK_KEYS) chunk(a, &w, key);
    amx_end();
    for (uint32_t r = 0; r < a->n_rows; r++) row_finish(a, &w.t, r);
}

static size_t kv_bytes(uint32_t d_k, uint32_t d_v, bool f32) { return cpu_avx512_attn.kv_bytes(d_k, d_v, f32); }

static void kv_write(uint8_t *page_head, uint32_t slot, const float *k, const float *v, uint32_t d_k, uint32_t d_v,
                     bool f32) {
    cpu_avx512_attn.kv_write(page_head, slot, k, v, d_k, d_v, f32);
}

const cpu_attn_kernels cpu_amx_attn = {
    .rows = CPU_ATTN_ROWS,
    .kv_bytes = kv_bytes,
    .kv_write = kv_write,
    .attn_scratch = amx_scratch,
    .attn = amx_attn,
};
