/* dev/cpu/x86/avx512_q_kernels.c - q8 and q12 products by vpdpbusd: 16 rows x C tokens x 32 k per turn.
 *
 * vpdpbusd adds four products of an unsigned and a signed byte to each of 16 int32, without saturation: one step of a
 * tile for one token. Codes are unsigned, plus an offset; sums start at -offset times the token's sum of q, which
 * avx512_q_act.c stores, so they end as the exact isum of docs/numerics.md. ref/ref_matmul.c is the plain form.
 *
 * Each micro-kernel is one always-inlined function made for a form and a number of tokens; accumulators, eight steps of
 * codes and the scales are registers. Few tokens: codes are unpacked on the way from memory, which is as fast as memory up
 * to about CPU_FEW_TOKENS. Many: the tile is unpacked once into a panel and serves 8 tokens at a time.
 */
#include "dev/cpu/x86/avx512_q.h"

#include <string.h>

enum {
    DIRECT_TOKENS = 8, /* of a pass over packed weights */
    PANEL_TOKENS = 8,
    AHEAD = 4096, /* bytes that packed weights are asked for in advance */
};

/* ---- sums ----- */

INLINE __m512i dword_at(const uint8_t *p) {
    int d;
    memcpy(&d, p, sizeof d);
    return _mm512_set1_epi32(d);
}

/* acc of C tokens from column c on, for one group at x of a block of W columns; w: its 8 steps of codes plus
 * 2^offset_log (0: as they are). */
INLINE void group_add(const uint32_t offset_log, const uint32_t n_subs, const bool has_min, const bool wide,
                      const uint32_t C, const __m512i w[8], const avx512_scales *s, const uint8_t *x, size_t W,
                      uint32_t c, __m512 acc[]) {
    const uint32_t n_sums = n_subs == 2 || wide ? 2 : 1;
    const uint8_t *values = x + avx512_q_bytes(wide) * W;
    __m512i sums[PANEL_TOKENS][2];
    UNROLL for (uint32_t i = 0; i < C; i++) {
        UNROLL for (uint32_t h = 0; h < n_sums; h++) {
            sums[i][h] = _mm512_setzero_si512();
            if (offset_log)
                sums[i][h] = _mm512_srai_epi32(dword_at(values + 4 * ((n_sums + h) * W + c + i)), 7 - offset_log);
        }
    }
    UNROLL for (uint32_t j = 0; j < 8; j++) {
        UNROLL for (uint32_t i = 0; i < C; i++) {
            const uint8_t *q = x + 32 * (c + i) + 4 * j;
            const uint32_t h = n_subs == 2 && j >= 4;
            sums[i][h] = _mm512_dpbusd_epi32(sums[i][h], w[j], dword_at(q));
            if (wide) sums[i][1] = _mm512_dpbusd_epi32(sums[i][1], w[j], dword_at(q + 32 * W));
        }
    }
    UNROLL for (uint32_t i = 0; i < C; i++) {
        const float *at = (const float *)(const void *)values + c + i;
        acc[i] = avx512_scale(n_subs, has_min, wide, sums[i], s, at, W, acc[i]);
    }
}

/* ---- from packed weights ----- */

typedef struct {
    const uint8_t *tile;
    __m512i book;
    const uint8_t *x; /* the block */
    size_t W;
    uint32_t c, n_groups;
    float *y;
    size_t y_stride;
} direct_job;

INLINE void direct(const avx512_form *f, const bool wide, const uint32_t C, const direct_job *j) {
    const size_t x_bytes = j->W * avx512_token_group(wide);
    const uint32_t super_bytes = avx512_super_bytes(f), group_bytes = super_bytes / AVX512_SUPER;
    const uint8_t *tile = j->tile, *x = j->x;
    __m512 acc[DIRECT_TOKENS];
    UNROLL for (uint32_t i = 0; i < C; i++) acc[i] = _mm512_setzero_ps();
    for (uint32_t g = 0; g < j->n_groups; g += AVX512_SUPER, tile += super_bytes) {
        const uint32_t n = j->n_groups - g < AVX512_SUPER ? j->n_groups - g : AVX512_SUPER;
        const uint8_t *codes = tile, *head = tile + n * f->code_bytes, *meta = head + f->head_bytes;
        for (uint32_t i = 0; i < n; i++, codes += f->code_bytes, meta += f->meta_bytes, x += x_bytes) {
            UNROLL for (uint32_t at = 0; at < group_bytes; at += 64)
                _mm_prefetch((const char *)tile + AHEAD + i * group_bytes + at, _MM_HINT_T0);
            __m512i w[8];
            UNROLL for (int step = 0; step < 8; step++) w[step] = avx512_step(f, codes, step, j->book);
            const avx512_scales s = avx512_scales_packed(f, head, meta);
            group_add(f->offset_log, f->n_subs, f->has_min, wide, C, w, &s, x, j->W, j->c, acc);
        }
    }
    UNROLL for (uint32_t i = 0; i < C; i++) _mm512_storeu_ps(j->y + i * j->y_stride, acc[i]);
}

#define DIRECT(name, form, wide, C)                                                                                    \
    static void name##_##C(const direct_job *j) { direct(&avx512_forms[form], wide, C, j); }
#define DIRECTS(name, form, wide)                                                                                      \
    DIRECT(name, form, wide, 1)                                                                                        \
    DIRECT(name, form, wide, 2)                                                                                        \
    DIRECT(name, form, wide, 3)                                                                                        \
    DIRECT(name, form, wide, 4)                                                                                        \
    DIRECT(name, form, wide, 5)                                                                                        \
    DIRECT(name, form, wide, 6)                                                                                        \
    DIRECT(name, form, wide, 7)                                                                                        \
    DIRECT(name, form, wide, 8)
DIRECTS(q4_0, FORM_Q4_0, false)
DIRECTS(q4_1, FORM_Q4_1, false)
DIRECTS(q5_0, FORM_Q5_0, false)
DIRECTS(q5_1, FORM_Q5_1, false)
DIRECTS(q8_0, FORM_Q8_0, false)
DIRECTS(q4_k, FORM_Q4_K, false)
DIRECTS(q5_k, FORM_Q5_K, false)
DIRECTS(q6_k, FORM_Q6_K, false)
DIRECTS(q2_k, FORM_Q2_K, false)
DIRECTS(book, FORM_BOOK, false)
DIRECTS(book_subs, FORM_BOOK_SUBS, false)
DIRECTS(book_halves, FORM_BOOK_HALVES, false)
DIRECTS(wide, FORM_Q8_0, true)

#define TABLE(name)                                                                                                    \
    { name##_1, name##_2, name##_3, name##_4, name##_5, name##_6, name##_7, name##_8 }
typedef void direct_kernel(const direct_job *j);
static direct_kernel *const directs[AVX512_FORMS][DIRECT_TOKENS] = {
    [FORM_Q4_0] = TABLE(q4_0), [FORM_Q4_1] = TABLE(q4_1),           [FORM_Q5_0] = TABLE(q5_0),
    [FORM_Q5_1] = TABLE(q5_1), [FORM_Q8_0] = TABLE(q8_0),           [FORM_Q4_K] = TABLE(q4_k),
    [FORM_Q5_K] = TABLE(q5_k), [FORM_Q6_K] = TABLE(q6_k),           [FORM_Q2_K] = TABLE(q2_k),
    [FORM_BOOK] = TABLE(book), [FORM_BOOK_SUBS] = TABLE(book_subs), [FORM_BOOK_HALVES] = TABLE(book_halves),
};
static direct_kernel *const directs_wide[DIRECT_TOKENS] = TABLE(wide);

void avx512_q_direct(const cpu_weight *w, uint32_t tile, const cpu_act *a, uint32_t t0, uint32_t n_tokens, float *y,
                     size_t y_stride) {
    const avx512_form_id id = avx512_form_find(w->type);
    const dtype_info *info = dtype_find((uint32_t)w->type);
    direct_kernel *const *kernels = w->compute == COMPUTE_Q12 ? directs_wide : directs[id];
    direct_job j = {.tile = w->data + tile * w->tile_bytes,
                    .x = a->data,
                    .W = avx512_width(a->n_tokens),
                    .n_groups = avx512_groups(w->k),
                    .y_stride = y_stride};
    if (avx512_forms[id].codes == CODES_BOOK) j.book = avx512_book(info);
    /* As few passes as possible, of nearly equal width. */
    for (uint32_t done = 0, passes = (n_tokens + DIRECT_TOKENS - 1) / DIRECT_TOKENS; passes > 0; passes--) {
        const uint32_t C = (n_tokens - done + passes - 1) / passes;
        j.c = t0 + done;
        j.y = y + done * y_stride;
        kernels[C - 1](&j);
        done += C;
    }
}

/* ---- panels ----- */

size_t avx512_q_panel_bytes(const cpu_weight *w) {
    return (size_t)avx512_groups(w->k) * avx512_panel_group(&avx512_forms[avx512_form_find(w->type)]);
}

INLINE void unpack(const avx512_form *f, const uint8_t *tile, uint32_t n_groups, __m512i book, int offset,
                   uint8_t *panel) {
    const __m512i move = _mm512_set1_epi8((char)(offset - (f->offset_log ? 1 << f->offset_log : 0)));
    const uint32_t super_bytes = avx512_super_bytes(f), group_bytes = super_bytes / AVX512_SUPER;
    for (uint32_t g = 0; g < n_groups; g += AVX512_SUPER, tile += super_bytes) {
        const uint32_t n = n_groups - g < AVX512_SUPER ? n_groups - g : AVX512_SUPER;
        const uint8_t *codes = tile, *head = tile + n * f->code_bytes, *meta = head + f->head_bytes;
        for (uint32_t i = 0; i < n; i++, codes += f->code_bytes, meta += f->meta_bytes) {
            UNROLL for (uint32_t at = 0; at < group_bytes; at += 64)
                _mm_prefetch((const char *)tile + AHEAD + i * group_bytes + at, _MM_HINT_T0);
            UNROLL for (int j = 0; j < 8; j++)
                _mm512_store_si512((void *)(panel + 64 * j), _mm512_add_epi8(avx512_step(f, codes, j, book), move));
            const avx512_scales s = avx512_scales_packed(f, head, meta);
            float *out = (float *)(void *)(panel + AVX512_PANEL_CODES);
            const uint32_t m = 1 + f->n_subs;
            _mm512_store_ps(out, s.dw);
            if (f->has_min) _mm512_store_ps(out + 16 * m, s.m);
            UNROLL for (uint32_t h = 0; h < f->n_subs; h++) {
                _mm512_store_ps(out + 16 * (1 + h), s.sub[h]);
                if (f->has_min) _mm512_store_ps(out + 16 * (m + 1 + h), s.min[h]);
            }
            panel += avx512_panel_group(f);
        }
    }
}

void avx512_q_panel(const cpu_weight *w, uint32_t tile, uint8_t *panel, int offset) {
    const avx512_form_id id = avx512_form_find(w->type);
    const uint8_t *from = w->data + tile * w->tile_bytes;
    const uint32_t n = avx512_groups(w->k);
    const avx512_form *f = avx512_forms;
    __m512i book = _mm512_setzero_si512();
    if (f[id].codes == CODES_BOOK) book = avx512_book(dtype_find((uint32_t)w->type));
    switch (id) {
        case FORM_Q4_0: unpack(&f[FORM_Q4_0], from, n, book, offset, panel); return;
        case FORM_Q4_1: unpack(&f[FORM_Q4_1], from, n, book, offset, panel); return;
        case FORM_Q5_0: unpack(&f[FORM_Q5_0], from, n, book, offset, panel); return;
        case FORM_Q5_1: unpack(&f[FORM_Q5_1], from, n, book, offset, panel); return;
        case FORM_Q8_0: unpack(&f[FORM_Q8_0], from, n, book, offset, panel); return;
        case FORM_Q4_K: unpack(&f[FORM_Q4_K], from, n, book, offset, panel); return;
        case FORM_Q5_K: unpack(&f[FORM_Q5_K], from, n, book, offset, panel); return;
        case FORM_Q6_K: unpack(&f[FORM_Q6_K], from, n, book, offset, panel); return;
        case FORM_Q2_K: unpack(&f[FORM_Q2_K], from, n, book, offset, panel); return;
        case FORM_BOOK: unpack(&f[FORM_BOOK], from, n, book, offset, panel); return;
        case FORM_BOOK_SUBS: unpack(&f[FORM_BOOK_SUBS], from, n, book, offset, panel); return;
        case FORM_BOOK_HALVES: unpack(&f[FORM_BOOK_HALVES], from, n, book, offset, panel); return;
        case FORM_NONE: return;
    }
}

/* 8 columns from c on of a block, from a panel; acc [8][16]. */
INLINE void panel_product(const uint32_t n_subs, const bool has_min, const bool wide, const uint8_t *panel,
                          uint32_t n_groups, const uint8_t *x, uint32_t c, float *y) {
    const uint32_t group = AVX512_PANEL_CODES + 64 * (1 + n_subs) * (has_min ? 2 : 1);
    __m512 acc[PANEL_TOKENS];
    UNROLL for (uint32_t i = 0; i < PANEL_TOKENS; i++) acc[i] = _mm512_setzero_ps();
    for (uint32_t g = 0; g < n_groups; g++, panel += group, x += AVX512_WIDTH * avx512_token_group(wide)) {
        __m512i w[8];
        UNROLL for (int j = 0; j < 8; j++) w[j] = _mm512_load_si512((const void *)(panel + 64 * j));
        const avx512_scales s =
            avx512_scales_panel(n_subs, has_min, (const float *)(const void *)(panel + AVX512_PANEL_CODES));
        group_add(7, n_subs, has_min, wide, PANEL_TOKENS, w, &s, x, AVX512_WIDTH, c, acc);
    }
    UNROLL for (uint32_t i = 0; i < PANEL_TOKENS; i++) _mm512_store_ps(y + 16 * i, acc[i]);
}

typedef void panel_kernel(const uint8_t *panel, uint32_t n_groups, const uint8_t *x, uint32_t c, float *y);
#define PANEL(name, n_subs, has_min, wide)                                                                             \
    static void name(const uint8_t *panel, uint32_t n_groups, const uint8_t *x, uint32_t c, float *y) {                \
        panel_product(n_subs, has_min, wide, panel, n_groups, x, c, y);                                                \
    }
PANEL(panel_0, 0, false, false)
PANEL(panel_0_min, 0, true, false)
PANEL(panel_1, 1, false, false)
PANEL(panel_1_min, 1, true, false)
PANEL(panel_2, 2, false, false)
PANEL(panel_2_min, 2, true, false)
PANEL(panel_wide, 0, false, true)
static panel_kernel *const panels[3][2] = {{panel_0, panel_0_min}, {panel_1, panel_1_min}, {panel_2, panel_2_min}};

static void vnni_panel(const cpu_weight *w, uint32_t tile, void *panel) { avx512_q_panel(w, tile, panel, 128); }

static void vnni_product(const cpu_weight *w, uint32_t tile, const void *panel, const cpu_act *a, uint32_t t0,
                         uint32_t n_tokens, float *y, size_t y_stride) {
    if (a->n_tokens <= CPU_FEW_TOKENS) {
        avx512_q_direct(w, tile, a, t0, n_tokens, y, y_stride);
        return;
    }
    const avx512_form *f = &avx512_forms[avx512_form_find(w->type)];
    panel_kernel *const kernel = w->compute == COMPUTE_Q12 ? panel_wide : panels[f->n_subs][f->has_min];
    float acc[PANEL_TOKENS * CPU_TILE_ROWS] __attribute__((aligned(64)));
    for (uint32_t t = t0, end = t0 + n_tokens; t < end; t += PANEL_TOKENS) {
        kernel(panel, avx512_groups(w->k), avx512_block(a, t), t % AVX512_WIDTH, acc);
        for (uint32_t i = 0; i < PANEL_TOKENS && t + i < end; i++, y += y_stride)
            memcpy(y, acc + i * CPU_TILE_ROWS, CPU_TILE_ROWS * sizeof *y);
    }
}

const cpu_matmul_kernels cpu_avx512vnni_integer = {
    .tile_bytes = avx512_q_tile_bytes,
    .weight_pack = avx512_q_weight_pack,
    .act_bytes = avx512_q_act_bytes,
    .act_put = avx512_q_act_put,
    .act_pad = avx512_q_act_pad,
    .panel_bytes = avx512_q_panel_bytes,
    .panel = vnni_panel,
    .product = vnni_product,
    .panel_tokens = PANEL_TOKENS,
};
