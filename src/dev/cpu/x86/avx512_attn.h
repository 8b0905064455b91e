/* dev/cpu/x86/avx512_attn.h - what attention on AVX-512 and on AMX share: the cache layout, softmax and fold.
 *
 * Page piece of one KV head, with dk = d_k up to a multiple of 32 and dv = d_v up to one of 16:
 *     bf16   K words [dk / 2][32 keys], the even d in the low half of a word, the odd one in the high half, 0 beyond d_k
 *            V words [16 pairs of keys][dv], the even key in the low half
 *     f32    K [d_k][32 keys], V [32 keys][dv]
 * So 16 rows of 64 bytes of either are a B tile of AMX, and a register holds 16 keys or 16 columns. In bf16 a key's columns
 * beyond d_k and d_v are 0.
 */
#ifndef DEV_CPU_X86_AVX512_ATTN_H
#define DEV_CPU_X86_AVX512_ATTN_H

#include "dev/cpu/kernels.h"
#include "dev/cpu/x86/avx512_vec.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

enum {
    LANES = VMATH_LANES,
    PAGE = CPU_PAGE_TOKENS,
    CHUNK_PAGES = CPU_CHUNK_KEYS / CPU_PAGE_TOKENS,
    BLOCK_PAIRS = 16,
    FAR_KEYS = 4096 /* from here on a page ahead is asked for */
};

static inline uint32_t d_k_padded(uint32_t d_k, bool f32) { return f32 ? d_k : (d_k + 31) & ~31u; }
static inline uint32_t d_v_padded(uint32_t d_v) { return (d_v + LANES - 1) & ~(uint32_t)(LANES - 1); }

/* Bytes of K in a page's piece: V follows. */
static inline size_t page_k_bytes(uint32_t d_k, bool f32) {
    return (size_t)PAGE * d_k_padded(d_k, f32) * (f32 ? sizeof(float) : sizeof(uint16_t));
}

/* A tile of rows at work on one chunk. */
typedef struct {
    float *s; /* [rows][256]: scores, then p */
    float *o; /* [rows][dv]: the chunk's sum p V */
    uint32_t dv;
    float m[CPU_ATTN_ROWS], l[CPU_ATTN_ROWS];      /* so far; o so far is in the row's out */
    uint32_t lo[CPU_ATTN_ROWS], hi[CPU_ATTN_ROWS]; /* the chunk's visible keys, relative to it; lo >= hi: none */
    bool begun[CPU_ATTN_ROWS];
    const uint8_t
        *page[CHUNK_PAGES + 1]; /* the chunk's pieces; NULL where no row sees a key: pages[] is not read there */
} attn_tile;

/* Place of a key in the chunk at key0, held within [0, 256]. */
static inline uint32_t key_place(uint64_t key, uint64_t key0) {
    return key <= key0 ? 0 : key - key0 < CPU_CHUNK_KEYS ? (uint32_t)(key - key0) : CPU_CHUNK_KEYS;
}

/* A place in the chunk as one in the page at place j. */
static inline uint32_t page_place(uint32_t x, uint32_t j) { return x <= j ? 0 : x - j < PAGE ? x - j : PAGE; }

/* Whether row r sees a key of the page at place j. */
static inline bool page_seen(const attn_tile *t, uint32_t r, uint32_t j) {
    return page_place(t->lo[r], j) < page_place(t->hi[r], j);
}

/* What the rows see of the chunk at key0. */
static inline void chunk_begin(const cpu_attn *a, attn_tile *t, uint64_t key0) {
    for (uint32_t r = 0; r < a->n_rows; r++) {
        t->lo[r] = key_place(a->first[r], key0);
        t->hi[r] = key_place((uint64_t)a->last[r] + 1, key0);
    }
    for (uint32_t i = 0; i < CHUNK_PAGES; i++) {
        t->page[i] = NULL;
        for (uint32_t r = 0; r < a->n_rows && !t->page[i]; r++)
            if (page_seen(t, r, i * PAGE))
                t->page[i] = a->pool + (size_t)a->pages[key0 / PAGE + i] * a->page_bytes + a->offset;
    }
    t->page[CHUNK_PAGES] = NULL;
}

/* Pages lie anywhere, and the hardware's prefetch stops at the end of each. */
static inline void fetch_ahead(const uint8_t *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* Dots to scores over the row's pages [j0, j1), -infinity where masked; the largest comes back. */
static inline float row_scores(const cpu_attn *a, float *s, uint32_t lo, uint32_t hi, uint32_t j0, uint32_t j1) {
    const vf none = vf_of(-INFINITY), scale = vf_of(a->scale), cap = vf_of(a->softcap);
    vf top[2] = {none, none};
    for (uint32_t j = j0; j < j1; j += 2 * LANES)
        for (uint32_t i = 0, at = j; i < 2; i++, at += LANES) {
            vf x = vf_load(s + at) * scale;
            if (a->softcap != 0.0f) x = cap * vm_tanh(x / cap);
            if (at < lo) x = vf_pick(vb_first(lo - at), none, x);
            if (at + LANES > hi) x = vf_pick(vb_first(hi > at ? hi - at : 0), x, none);
            top[i] = vf_max(x, top[i]);
            vf_store(s + at, x);
        }
    return vf_top(vf_max(top[0], top[1]));
}

/* p of 16 scores; base is their chunk's maximum, or 0. */
static inline vf score_weight(vf s, vf base) {
    const vf low = vf_of(-60.0f);
    const vf x = s - base;
    return vf_pick(vf_less(x, low), vf_of(0.0f), vm_exp_near(vf_max(low, x)));
}

/* A finished chunk into what the row has so far. */
static inline void row_fold(const cpu_attn *a, attn_tile *t, uint32_t r, float m, float l) {
    const float *o = t->o + (size_t)r * t->dv;
    float *out = a->out[r];
    const vf zero = vf_of(0.0f);
    if (!t->begun[r]) {
        for (uint32_t i = 0; i < a->d_v; i += LANES) vf_store_first(out + i, a->d_v - i, vf_load(o + i) + zero);
        t->m[r] = m;
        t->l[r] = l;
        t->begun[r] = true;
        return;
    }
    const float both = m > t->m[r] ? m : t->m[r], base = both == -INFINITY ? 0.0f : both;
    const vf f1 = vm_exp(vf_of(t->m[r] - base)), f2 = vm_exp(vf_of(m - base));
    for (uint32_t i = 0; i < a->d_v; i += LANES) {
        const vf old = vf_load_first(out + i, a->d_v - i, zero);
        vf_store_first(out + i, a->d_v - i, (old * f1) + ((vf_load(o + i) + zero) * f2) + zero);
    }
    t->m[r] = both;
    t->l[r] = (t->l[r] * f1[0]) + (l * f2[0]);
}

static inline void row_finish(cpu_attn *a, const attn_tile *t, uint32_t r) {
    float *out = a->out[r], m = t->m[r], l = t->l[r], factor = 1.0f;
    a->lse[r] = m + vm_log(vf_of(l))[0];
    if (l == 0.0f) {
        memset(out, 0, a->d_v * sizeof *out);
        return;
    }
    if (a->sink[r]) {
        const float z = *a->sink[r], top = m > z ? m : z;
        factor = vm_exp(vf_of(m - top))[0];
        l = (l * factor) + vm_exp(vf_of(z - top))[0];
    }
    /* Without a sink the factor is 1 and changes nothing. */
    for (uint32_t i = 0; i < a->d_v; i += LANES) {
        const vf o = vf_load_first(out + i, a->d_v - i, vf_of(0.0f));
        vf_store_first(out + i, a->d_v - i, (o * vf_of(factor)) / vf_of(l));
    }
}

/* The keys that any row sees: [*begin, *end), and no row has begun. */
static inline void rows_begin(const cpu_attn *a, attn_tile *t, uint64_t *begin, uint64_t *end) {
    *begin = UINT64_MAX;
    *end = 0;
    for (uint32_t r = 0; r < a->n_rows; r++) {
        t->m[r] = -INFINITY;
        t->l[r] = 0.0f;
        t->begun[r] = false;
        if (a->first[r] > a->last[r]) continue;
        if (a->first[r] < *begin) *begin = a->first[r];
        if ((uint64_t)a->last[r] + 1 > *end) *end = (uint64_t)a->last[r] + 1;
    }
}

#endif
