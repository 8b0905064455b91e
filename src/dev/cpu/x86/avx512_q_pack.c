/* dev/cpu/x86/avx512_q_pack.c - rows of the file to the tiles of avx512_q.h.
 *
 * The common types are moved by hand, the others go through the reference's integer form.
 */
#include "dev/cpu/x86/avx512_q.h"
#include "dev/cpu/x86/q_rows.h"

/* Where the pieces of a super lie; n groups. */
typedef struct {
    uint32_t n;
    uint8_t *codes, *head, *meta;
} super;

avx512_form_id avx512_form_find(dtype type) {
    switch (type) {
        case DTYPE_Q4_0: return FORM_Q4_0;
        case DTYPE_Q4_1: return FORM_Q4_1;
        case DTYPE_Q5_0: return FORM_Q5_0;
        case DTYPE_Q5_1: return FORM_Q5_1;
        case DTYPE_Q8_0: return FORM_Q8_0;
        case DTYPE_Q2_K: return FORM_Q2_K;
        case DTYPE_Q4_K: return FORM_Q4_K;
        case DTYPE_Q5_K: return FORM_Q5_K;
        case DTYPE_Q6_K: return FORM_Q6_K;
        case DTYPE_IQ4_NL:
        case DTYPE_MXFP4:
        case DTYPE_Q1_0:
        case DTYPE_TQ1_0:
        case DTYPE_TQ2_0: return FORM_BOOK;
        case DTYPE_IQ4_XS:
        case DTYPE_IQ3_XXS:
        case DTYPE_IQ3_S:
        case DTYPE_IQ2_XXS:
        case DTYPE_IQ1_S: return FORM_BOOK_SUBS;
        case DTYPE_Q3_K:
        case DTYPE_IQ2_XS:
        case DTYPE_IQ2_S:
        case DTYPE_IQ1_M: return FORM_BOOK_HALVES;
        case DTYPE_NVFP4:
        case DTYPE_F32:
        case DTYPE_F16:
        case DTYPE_BF16: break;
    }
    return FORM_NONE;
}

size_t avx512_q_tile_bytes(dtype type, compute c, uint32_t k) {
    const avx512_form_id id = avx512_form_find(type);
    const bool wide = c == COMPUTE_Q12; /* only Q8_0 has kernels for it: 12 bits take two passes */
    if (id == FORM_NONE || dtype_row_bytes(type, k) == 0 || (!wide && c != COMPUTE_Q8) || (wide && id != FORM_Q8_0))
        return 0;
    const avx512_form *f = &avx512_forms[id];
    const uint32_t n = avx512_groups(k), rest = n % AVX512_SUPER;
    const size_t bytes = (size_t)(n / AVX512_SUPER) * avx512_super_bytes(f) + rest * (f->code_bytes + f->meta_bytes) +
                         (rest ? f->head_bytes : 0);
    return (bytes + 63) & ~(size_t)63;
}

/* ---- one row's part of a super, from the row's blocks ----- */

static void q4_0_put(const super *s, uint32_t r, const uint8_t *b) {
    for (uint32_t i = 0; i < s->n; i++, b += 18) {
        nibbles_put(s->codes + 256 * i, r, b + 2);
        half_put(s->meta + 32 * i, r, b);
    }
}

static void q4_1_put(const super *s, uint32_t r, const uint8_t *b) {
    for (uint32_t i = 0; i < s->n; i++, b += 20) {
        nibbles_put(s->codes + 256 * i, r, b + 4);
        half_put(s->meta + 64 * i, r, b);
        half_put(s->meta + 64 * i + 32, r, b + 2);
    }
}

static uint32_t u32_at(const uint8_t *p) {
    uint32_t u;
    memcpy(&u, p, sizeof u);
    return u;
}

static void q5_0_put(const super *s, uint32_t r, const uint8_t *b) {
    for (uint32_t i = 0; i < s->n; i++, b += 22) {
        nibbles_put(s->codes + 320 * i, r, b + 6);
        plane5_put(s->codes + 320 * i + 256, r, u32_at(b + 2));
        half_put(s->meta + 32 * i, r, b);
    }
}

static void q5_1_put(const super *s, uint32_t r, const uint8_t *b) {
    for (uint32_t i = 0; i < s->n; i++, b += 24) {
        nibbles_put(s->codes + 320 * i, r, b + 8);
        plane5_put(s->codes + 320 * i + 256, r, u32_at(b + 4));
        half_put(s->meta + 64 * i, r, b);
        half_put(s->meta + 64 * i + 32, r, b + 2);
    }
}

static void q8_0_put(const super *s, uint32_t r, const uint8_t *b) {
    for (uint32_t i = 0; i < s->n; i++, b += 34) {
        for (uint32_t j = 0; j < 8; j++) {
            const uint32_t codes = u32_at(b + 2 + 4 * j) ^ 0x80808080;
            memcpy(s->codes + 512 * i + 64 * j + 4 * r, &codes, sizeof codes);
        }
        half_put(s->meta + 32 * i, r, b);
    }
}

/* d and -dmin. */
static void k_head_put(const super *s, uint32_t r, const uint8_t *d) {
    const uint8_t min[2] = {d[2], d[3] ^ 0x80};
    half_put(s->head, r, d);
    half_put(s->head + 32, r, min);
}

static void q4_k_put(const super *s, uint32_t r, const uint8_t *b) {
    k_head_put(s, r, b);
    for (uint32_t t = 0; t < s->n; t++) {
        nibbles_put_k(s->codes + 256 * t, r, b + 16 + 32 * (t / 2), t % 2 != 0);
        k_scale_put(s->meta + 32 * t, r, b + 4, t);
    }
}

static void q5_k_put(const super *s, uint32_t r, const uint8_t *b) {
    k_head_put(s, r, b);
    for (uint32_t t = 0; t < s->n; t++) {
        nibbles_put_k(s->codes + 320 * t, r, b + 48 + 32 * (t / 2), t % 2 != 0);
        plane5_put(s->codes + 320 * t + 256, r, bits_of(b + 16, t));
        k_scale_put(s->meta + 32 * t, r, b + 4, t);
    }
}

static void q6_k_put(const super *s, uint32_t r, const uint8_t *b) {
    half_put(s->head, r, b + 208);
    for (uint32_t t = 0; t < s->n; t++) {
        nibbles_put_k(s->codes + 384 * t, r, b + 64 * (t / 4) + 32 * (t % 4 & 1), t % 4 >= 2);
        plane6_put(s->codes + 384 * t + 256, r, b + 128 + 32 * (t / 4), t % 4);
        for (uint32_t h = 0; h < 2; h++) s->meta[32 * t + 16 * h + r] = b[192 + 2 * t + h];
    }
}

/* ---- the other types: indices into their codebook ----- */

/* Codes of one group as row r; index: the codebook's inverse, by code as a byte. */
static void indices_put(uint8_t *codes, uint32_t r, const int8_t *code, const uint8_t *index) {
    uint8_t q[16];
    for (uint32_t i = 0; i < 16; i++) q[i] = (uint8_t)(index[(uint8_t)code[i]] | index[(uint8_t)code[i + 16]] << 4);
    nibbles_put(codes, r, q);
}

static void book_put(const avx512_form *f, const dtype_info *info, const super *s, uint32_t r, const uint8_t *row,
                     uint32_t first, const uint8_t *index) {
    const uint32_t per_block = info->block_elems / AVX512_GROUP;
    for (uint32_t i = 0; i < s->n; i++) {
        const uint32_t at = first + i;
        dtype_group g;
        info->group(row + (size_t)(at / per_block) * info->block_bytes, at % per_block, &g);
        indices_put(s->codes + f->code_bytes * i, r, g.code, index);
        uint8_t *meta = s->meta + f->meta_bytes * i, *floats = f->head_bytes ? s->head : meta;
        memcpy(floats + 4 * r, &g.dw, sizeof g.dw);
        if (f->has_min) memcpy(floats + 64 + 4 * r, &g.m, sizeof g.m);
        for (uint32_t h = 0; h < f->n_subs; h++) {
            meta[16 * h + r] = (uint8_t)g.scale[h];
            if (f->has_min) meta[16 * (f->n_subs + h) + r] = (uint8_t)g.min[h];
        }
    }
}

static void row_put(const cpu_weight *w, uint8_t *tile, uint32_t r, const uint8_t *row, const uint8_t *index) {
    typedef void put(const super *s, uint32_t r, const uint8_t *blocks);
    static put *const by_hand[AVX512_FORMS] = {
        [FORM_Q4_0] = q4_0_put, [FORM_Q4_1] = q4_1_put, [FORM_Q5_0] = q5_0_put, [FORM_Q5_1] = q5_1_put,
        [FORM_Q8_0] = q8_0_put, [FORM_Q4_K] = q4_k_put, [FORM_Q5_K] = q5_k_put, [FORM_Q6_K] = q6_k_put,
    };
    const avx512_form_id id = avx512_form_find(w->type);
    const avx512_form *f = &avx512_forms[id];
    const dtype_info *info = dtype_find((uint32_t)w->type);
    const uint32_t groups = avx512_groups(w->k), per_block = info->block_elems / AVX512_GROUP;
    for (uint32_t g = 0; g < groups; g += AVX512_SUPER, tile += avx512_super_bytes(f)) {
        super s = {.n = groups - g < AVX512_SUPER ? groups - g : AVX512_SUPER, .codes = tile};
        s.head = tile + s.n * f->code_bytes;
        s.meta = s.head + f->head_bytes;
        if (by_hand[id])
            by_hand[id](&s, r, row + (size_t)(g / per_block) * info->block_bytes);
        else
            book_put(f, info, &s, r, row, g, index);
    }
}

void avx512_q_weight_pack(cpu_weight *w, uint32_t row, uint32_t n_rows, const void *rows) {
    const dtype_info *info = dtype_find((uint32_t)w->type);
    const size_t row_bytes = dtype_row_bytes(w->type, w->k);
    const uint8_t *from = rows;
    uint8_t index[256] = {0};
    for (int i = 15; i >= 0 && info->book; i--) index[(uint8_t)info->book[i]] = (uint8_t)i;
    for (uint32_t i = row; i < row + n_rows; i++, from += row_bytes)
        row_put(w, w->data + i / CPU_TILE_ROWS * w->tile_bytes, i % CPU_TILE_ROWS, from, index);
}
