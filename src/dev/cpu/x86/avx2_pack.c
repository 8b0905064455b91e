/* dev/cpu/x86/avx2_pack.c - the packed q8 formats: from the file's rows to tiles, and from tiles to panels.
 *
 * Packing goes row by row, with the pieces of q_rows.h.
 */
#include "dev/cpu/x86/avx2_matmul.h"
#include "dev/cpu/x86/q_rows.h"

#include <immintrin.h>
#include <string.h>

static __m128i load16(const uint8_t *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }
static __m256i load32(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
static void store32(uint8_t *p, __m256i v) { _mm256_store_si256((__m256i *)(void *)p, v); }

static void q4_0_pack(uint8_t *tile, uint32_t r, const uint8_t *row, uint32_t n_groups) {
    for (uint32_t g = 0; g < n_groups; g++, tile += 288, row += 18) {
        nibbles_put(tile, r, row + 2);
        half_put(tile + 256, r, row);
    }
}

static void q4_1_pack(uint8_t *tile, uint32_t r, const uint8_t *row, uint32_t n_groups) {
    for (uint32_t g = 0; g < n_groups; g++, tile += 320, row += 20) {
        nibbles_put(tile, r, row + 4);
        half_put(tile + 256, r, row);
        half_put(tile + 288, r, row + 2);
    }
}

static void q5_0_pack(uint8_t *tile, uint32_t r, const uint8_t *row, uint32_t n_groups) {
    for (uint32_t g = 0; g < n_groups; g++, tile += 352, row += 22) {
        uint32_t high;
        memcpy(&high, row + 2, sizeof high);
        nibbles_put(tile, r, row + 6);
        plane5_put(tile + 256, r, high);
        half_put(tile + 320, r, row);
    }
}

static void q5_1_pack(uint8_t *tile, uint32_t r, const uint8_t *row, uint32_t n_groups) {
    for (uint32_t g = 0; g < n_groups; g++, tile += 384, row += 24) {
        uint32_t high;
        memcpy(&high, row + 4, sizeof high);
        nibbles_put(tile, r, row + 8);
        plane5_put(tile + 256, r, high);
        half_put(tile + 320, r, row);
        half_put(tile + 352, r, row + 2);
    }
}

static void q8_0_pack(uint8_t *tile, uint32_t r, const uint8_t *row, uint32_t n_groups) {
    for (uint32_t g = 0; g < n_groups; g++, tile += 544, row += 34) {
        for (uint32_t j = 0; j < 16; j++) memcpy(tile + 32 * j + 2 * r, row + 2 + 2 * j, 2);
        half_put(tile + 512, r, row);
    }
}

static void q4_k_pack(uint8_t *tile, uint32_t r, const uint8_t *row, uint32_t n_groups) {
    for (uint32_t g = 0; g < n_groups; g += AVX2_SUPER, row += 144) {
        half_put(tile, r, row);
        half_put(tile + 32, r, row + 2);
        tile += 64;
        for (uint32_t t = 0; t < AVX2_SUPER; t++, tile += 288) {
            nibbles_put_k(tile, r, row + 16 + 32 * (t / 2), t % 2 != 0);
            k_scale_put(tile + 256, r, row + 4, t);
        }
    }
}

static void q5_k_pack(uint8_t *tile, uint32_t r, const uint8_t *row, uint32_t n_groups) {
    for (uint32_t g = 0; g < n_groups; g += AVX2_SUPER, row += 176) {
        half_put(tile, r, row);
        half_put(tile + 32, r, row + 2);
        tile += 64;
        for (uint32_t t = 0; t < AVX2_SUPER; t++, tile += 352) {
            nibbles_put_k(tile, r, row + 48 + 32 * (t / 2), t % 2 != 0);
            plane5_put(tile + 256, r, bits_of(row + 16, t));
            k_scale_put(tile + 320, r, row + 4, t);
        }
    }
}

static void q6_k_pack(uint8_t *tile, uint32_t r, const uint8_t *row, uint32_t n_groups) {
    for (uint32_t g = 0; g < n_groups; g += AVX2_SUPER, row += 210) {
        half_put(tile, r, row + 208);
        tile += 32;
        for (uint32_t t = 0; t < AVX2_SUPER; t++, tile += 416) {
            const uint32_t n = t / 4, j = t % 4;
            nibbles_put_k(tile, r, row + 64 * n + 32 * (j & 1), j >= 2);
            plane6_put(tile + 256, r, row + 128 + 32 * n, j);
            for (uint32_t c = 0; c < 2; c++) tile[384 + 16 * c + r] = row[192 + 2 * t + c];
        }
    }
}

static void q4_codes(const uint8_t *group, uint8_t *codes) {
    const __m256i mask = _mm256_set1_epi8(15);
    for (uint32_t i = 0; i < 256; i += 32) {
        const __m256i q = load32(group + i);
        store32(codes + i, _mm256_and_si256(q, mask));
        store32(codes + 256 + i, _mm256_and_si256(_mm256_srli_epi16(q, 4), mask));
    }
}

/* ORs bits `width` j.. of the plane's bytes, j < n, into the codes of n steps, above the nibble. */
static void plane_or(const uint8_t *plane, uint8_t *codes, int n, int width) {
    const __m256i mask = _mm256_set1_epi8((char)((1 << width) - 1));
    for (uint32_t h = 0; h < 64; h += 32) {
        const __m256i p = load32(plane + h);
        for (int j = 0; j < n; j++) {
            uint8_t *c = codes + 64 * j + h;
            const __m256i bits = _mm256_and_si256(_mm256_srl_epi16(p, _mm_cvtsi32_si128(width * j)), mask);
            store32(c, _mm256_or_si256(load32(c), _mm256_slli_epi16(bits, 4)));
        }
    }
}

static void q5_0_codes(const uint8_t *group, uint8_t *codes) {
    q4_codes(group, codes);
    plane_or(group + 256, codes, 8, 1);
}

static void q6_k_codes(const uint8_t *group, uint8_t *codes) {
    q4_codes(group, codes);
    plane_or(group + 256, codes, 4, 2);
    plane_or(group + 320, codes + 256, 4, 2);
}

static void q8_0_codes(const uint8_t *group, uint8_t *codes) {
    for (uint32_t i = 0; i < 512; i += 16) store32(codes + 2 * i, _mm256_cvtepi8_epi16(load16(group + i)));
}

/* 16 fp16 to floats; the instruction knows subnormal halves in every mode. */
static void halves_get(const uint8_t *halves, uint8_t *meta, bool negate) {
    const __m256i sign = _mm256_set1_epi32(negate ? INT32_MIN : 0);
    for (uint32_t h = 0; h < 2; h++) {
        const __m256 f = _mm256_cvtph_ps(load16(halves + 16 * h));
        store32(meta + 32 * h, _mm256_xor_si256(_mm256_castps_si256(f), sign));
    }
}

/* 16 integers of a byte each to pairs of equal int16. */
static void pairs_put(uint8_t *meta, const uint8_t *s) {
    for (uint32_t h = 0; h < 2; h++) {
        const __m256i v = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)(s + 8 * h)));
        const __m256i low = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
        store32(meta + 32 * h, _mm256_or_si256(low, _mm256_slli_epi32(v, 16)));
    }
}

static void q4_0_meta(const uint8_t *head, const uint8_t *group, uint8_t *meta) {
    (void)head;
    halves_get(group + 256, meta, false);
}

static void q4_1_meta(const uint8_t *head, const uint8_t *group, uint8_t *meta) {
    (void)head;
    halves_get(group + 256, meta, false);
    halves_get(group + 288, meta + 64, false);
}

static void q5_0_meta(const uint8_t *head, const uint8_t *group, uint8_t *meta) {
    (void)head;
    halves_get(group + 320, meta, false);
}

static void q8_0_meta(const uint8_t *head, const uint8_t *group, uint8_t *meta) {
    (void)head;
    halves_get(group + 512, meta, false);
}

static void q5_1_meta(const uint8_t *head, const uint8_t *group, uint8_t *meta) {
    (void)head;
    halves_get(group + 320, meta, false);
    halves_get(group + 352, meta + 64, false);
}

/* scales: 16 sub-scales, then 16 minima. */
static void k_meta(const uint8_t *head, const uint8_t *scales, uint8_t *meta) {
    halves_get(head, meta, false);
    halves_get(head + 32, meta + 64, true);
    pairs_put(meta + 128, scales);
    for (uint32_t h = 0; h < 2; h++) {
        const __m128i m = _mm_loadl_epi64((const __m128i *)(const void *)(scales + 16 + 8 * h));
        store32(meta + 192 + 32 * h, _mm256_castps_si256(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(m))));
    }
}

static void q4_k_meta(const uint8_t *head, const uint8_t *group, uint8_t *meta) { k_meta(head, group + 256, meta); }
static void q5_k_meta(const uint8_t *head, const uint8_t *group, uint8_t *meta) { k_meta(head, group + 320, meta); }

static void q6_k_meta(const uint8_t *head, const uint8_t *group, uint8_t *meta) {
    halves_get(head, meta, false);
    pairs_put(meta + 64, group + 384);
    pairs_put(meta + 128, group + 400);
}

enum { SCALED_CODES = 256 }; /* bytes of the scaled form's indices */

static uint32_t scaled_float_bytes(const dtype_info *info) { return info->has_min ? 128 : 64; }

/* dw [16], then m [16]. */
static size_t scaled_floats_at(const avx2_form *f, const dtype_info *info) {
    return f->head_bytes ? 0 : f->group_bytes - scaled_float_bytes(info);
}

/* Codes of one group as row r; index: the codebook's inverse, by code as a byte. */
static void scaled_indices_put(uint8_t *group, uint32_t r, const int8_t *code, const uint8_t *index) {
    uint8_t q[16];
    for (uint32_t i = 0; i < 16; i++) q[i] = (uint8_t)(index[(uint8_t)code[i]] | index[(uint8_t)code[i + 16]] << 4);
    for (uint32_t j = 0; j < 8; j++) memcpy(group + 32 * j + 2 * r, q + 2 * j, 2);
}

static void scaled_pack(const avx2_form *f, const dtype_info *info, uint8_t *tile, uint32_t r, const uint8_t *row,
                        uint32_t n_groups) {
    const uint32_t per_block = info->block_elems / AVX2_GROUP;
    uint8_t *head = tile;
    uint8_t index[256] = {0};
    for (int i = 15; i >= 0; i--) index[(uint8_t)info->book[i]] = (uint8_t)i;
    for (uint32_t i = 0; i < n_groups; i++, tile += f->group_bytes) {
        dtype_group g;
        info->group(row + (size_t)(i / per_block) * info->block_bytes, i % per_block, &g);
        if (f->head_bytes && i % AVX2_SUPER == 0) {
            head = tile;
            tile += f->head_bytes;
        }
        uint8_t *sub = tile + SCALED_CODES;
        uint8_t *floats = (f->head_bytes ? head : tile) + scaled_floats_at(f, info);
        scaled_indices_put(tile, r, g.code, index);
        for (uint32_t h = 0; h < 2; h++) {
            sub[16 * h + r] = (uint8_t)g.scale[h];
            if (info->has_min) sub[32 + 16 * h + r] = (uint8_t)g.min[h];
        }
        memcpy(floats + 4 * r, &g.dw, sizeof g.dw);
        if (info->has_min) memcpy(floats + 64 + 4 * r, &g.m, sizeof g.m);
    }
}

/* 32 int8 codes, 16 rows x 2 k, times their rows' sub-scales (pairs). */
static void scaled_step_put(uint8_t *codes, __m256i c, const uint8_t *pairs) {
    const __m256i low = _mm256_cvtepi8_epi16(_mm256_castsi256_si128(c));
    const __m256i high = _mm256_cvtepi8_epi16(_mm256_extracti128_si256(c, 1));
    store32(codes, _mm256_mullo_epi16(low, load32(pairs)));
    store32(codes + 32, _mm256_mullo_epi16(high, load32(pairs + 32)));
}

static void scaled_codes(const dtype_info *info, const uint8_t *group, uint8_t *codes) {
    uint8_t pairs[128] __attribute__((aligned(32)));
    const uint8_t *sub = group + SCALED_CODES;
    pairs_put(pairs, sub);
    pairs_put(pairs + 64, sub + 16);
    const __m256i book = _mm256_broadcastsi128_si256(load16((const uint8_t *)info->book));
    const __m256i mask = _mm256_set1_epi8(15);
    for (uint32_t j = 0; j < 8; j++) {
        const __m256i q = load32(group + 32 * j), high = _mm256_and_si256(_mm256_srli_epi16(q, 4), mask);
        scaled_step_put(codes + 64 * j, _mm256_shuffle_epi8(book, _mm256_and_si256(q, mask)), pairs);
        scaled_step_put(codes + 64 * j + 512, _mm256_shuffle_epi8(book, high), pairs + 64);
    }
}

static void scaled_meta(const avx2_form *f, const dtype_info *info, const uint8_t *head, const uint8_t *group,
                        uint8_t *meta) {
    const uint8_t *sub = group + SCALED_CODES;
    const uint8_t *floats = (f->head_bytes ? head : group) + scaled_floats_at(f, info);
    memcpy(meta, floats, 64);
    pairs_put(meta + 64, sub);
    pairs_put(meta + 128, sub + 16);
    store32(meta + 192, _mm256_broadcastsi128_si256(load16((const uint8_t *)info->book)));
    if (!info->has_min) return;
    memcpy(meta + 224, floats + 64, 64);
    pairs_put(meta + 288, sub + 32);
    pairs_put(meta + 352, sub + 48);
}

void avx2_form_pack(const avx2_form *f, const dtype_info *info, uint8_t *tile, uint32_t r, const uint8_t *row,
                    uint32_t n_groups) {
    if (f->pack)
        f->pack(tile, r, row, n_groups);
    else
        scaled_pack(f, info, tile, r, row, n_groups);
}

void avx2_form_codes(const avx2_form *f, const dtype_info *info, const uint8_t *group, uint8_t *codes) {
    if (f->codes)
        f->codes(group, codes);
    else
        scaled_codes(info, group, codes);
}

void avx2_form_meta(const avx2_form *f, const dtype_info *info, const uint8_t *head, const uint8_t *group,
                    uint8_t *meta) {
    if (f->meta)
        f->meta(head, group, meta);
    else
        scaled_meta(f, info, head, group, meta);
}

#define KERNELS(t) .direct = avx2_##t##_direct, .panel = avx2_##t##_panel, .pack = t##_pack, .meta = t##_meta
static const avx2_form q4_0 = {false, 0, 288, 512, 64, .codes = q4_codes, KERNELS(q4_0)};
static const avx2_form q4_1 = {false, 0, 320, 512, 128, .codes = q4_codes, KERNELS(q4_1)};
static const avx2_form q5_0 = {false, 0, 352, 512, 64, .codes = q5_0_codes, KERNELS(q5_0)};
static const avx2_form q5_1 = {false, 0, 384, 512, 128, .codes = q5_0_codes, KERNELS(q5_1)};
static const avx2_form q8_0 = {false, 0, 544, 1024, 64, .codes = q8_0_codes, KERNELS(q8_0)};
static const avx2_form q4_k = {true, 64, 288, 512, 256, .codes = q4_codes, KERNELS(q4_k)};
static const avx2_form q5_k = {true, 64, 352, 512, 256, .codes = q5_0_codes, KERNELS(q5_k)};
static const avx2_form q6_k = {true, 32, 416, 512, 192, .codes = q6_k_codes, KERNELS(q6_k)};

/* The scaled form of types of 256 elements a block, and of smaller blocks. */
static const avx2_form scaled = {
    true, 64, 288, 1024, 224, .direct = avx2_scaled_288_direct, .panel = avx2_scaled_panel};
static const avx2_form scaled_small = {
    true, 0, 352, 1024, 224, .direct = avx2_scaled_352_direct, .panel = avx2_scaled_panel};
static const avx2_form q2_k = {
    true, 128, 320, 1024, 416, .direct = avx2_scaled_min_direct, .panel = avx2_scaled_min_panel};

const avx2_form *avx2_form_find(dtype type) {
    switch (type) {
        case DTYPE_Q4_0: return &q4_0;
        case DTYPE_Q4_1: return &q4_1;
        case DTYPE_Q5_0: return &q5_0;
        case DTYPE_Q5_1: return &q5_1;
        case DTYPE_Q8_0: return &q8_0;
        case DTYPE_Q2_K: return &q2_k;
        case DTYPE_Q4_K: return &q4_k;
        case DTYPE_Q5_K: return &q5_k;
        case DTYPE_Q6_K: return &q6_k;
        case DTYPE_IQ4_NL:
        case DTYPE_MXFP4:
        case DTYPE_Q1_0: return &scaled_small;
        case DTYPE_Q3_K:
        case DTYPE_IQ4_XS:
        case DTYPE_IQ3_XXS:
        case DTYPE_IQ3_S:
        case DTYPE_IQ2_XXS:
        case DTYPE_IQ2_XS:
        case DTYPE_IQ2_S:
        case DTYPE_IQ1_S:
        case DTYPE_IQ1_M:
        case DTYPE_TQ1_0:
        case DTYPE_TQ2_0: return &scaled;
        case DTYPE_NVFP4:
        case DTYPE_F32:
        case DTYPE_F16:
        case DTYPE_BF16: break;
    }
    return NULL;
}
