#include "tensor/dtype.h"

#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t bits_of(float f) {
    uint32_t b;
    memcpy(&b, &f, sizeof b);
    return b;
}

static bool same(float a, float b) { return a == b || (isnan(a) && isnan(b)); }

static void check_type(const dtype_info *t) {
    char path[128];
    size_t n_bytes, n_want;
    snprintf(path, sizeof path, "tests/golden/quant/gguf/%s.bin", t->name);
    char *blocks = test_read_file(path, &n_bytes);
    snprintf(path, sizeof path, "tests/golden/quant/gguf/%s.f32", t->name);
    char *want = test_read_file(path, &n_want);
    CHECKF(blocks && want, "%s: no vectors", t->name);
    if (blocks && want) {
        int64_t n = (int64_t)(n_want / sizeof(float));
        CHECKF(n_bytes == dtype_row_bytes(t->type, n), "%s: %zu bytes for %lld values", t->name, n_bytes, (long long)n);
        float *got = malloc(n_want);
        t->decode(blocks, got, n);
        for (int64_t i = 0; i < n; i++) {
            float w;
            memcpy(&w, want + i * 4, 4);
            CHECKF(same(got[i], w), "%s[%lld]: %a, wanted %a", t->name, (long long)i, (double)got[i], (double)w);
        }
        free(got);
    }
    free(blocks);
    free(want);
}

TEST(decode_equals_the_recorded_values) {
    size_t n;
    const dtype_info *all = dtype_all(&n);
    CHECK(n == 27);
    for (size_t i = 0; i < n; i++)
        if (all[i].type != DTYPE_F32) check_type(&all[i]);
}

static bool in_book(const int8_t *book, int8_t code) {
    for (int i = 0; i < 16; i++)
        if (book[i] == code) return true;
    return false;
}

/* The integer form says the same as the decoder, its figures fit the bytes that kernels keep them in, and its codes are
 * in the codebook. */
static void check_groups(const dtype_info *t) {
    char path[128];
    size_t n_bytes;
    snprintf(path, sizeof path, "tests/golden/quant/gguf/%s.bin", t->name);
    char *blocks = test_read_file(path, &n_bytes);
    CHECKF(blocks, "%s: no vectors", t->name);
    for (size_t at = 0; blocks && at < n_bytes; at += t->block_bytes) {
        float want[256];
        t->decode(blocks + at, want, t->block_elems);
        for (uint32_t g = 0; g < t->block_elems / DTYPE_GROUP; g++) {
            dtype_group w;
            t->group((const uint8_t *)blocks + at, g, &w);
            for (uint32_t i = 0; i < DTYPE_GROUP; i++) {
                const int32_t scale = w.scale[i / 16], min = w.min[i / 16];
                const float product = (w.dw * (float)scale) * (float)w.code[i];
                const float v = t->has_min ? product + w.m * (float)min : product;
                CHECKF(same(v, want[g * DTYPE_GROUP + i]), "%s: %a, decoded %a", t->name, (double)v,
                       (double)want[g * DTYPE_GROUP + i]);
                CHECK(scale == (int8_t)scale && min >= 0 && min < 64 && (t->has_min || min == 0));
                CHECK(!t->book || in_book(t->book, w.code[i]));
                CHECK(!t->book || abs(scale * w.code[i]) <= INT16_MAX);
            }
        }
    }
    free(blocks);
}

TEST(groups_are_the_decoded_values) {
    size_t n, n_checked = 0;
    const dtype_info *all = dtype_all(&n);
    for (size_t i = 0; i < n; i++)
        if (all[i].group) check_groups(&all[i]), n_checked++;
    CHECK(n_checked == 23);
}

TEST(decode_f32_copies) {
    const float in[3] = {1.5f, -0.0f, 0x1p-149f};
    float out[3];
    dtype_find(DTYPE_F32)->decode(in, out, 3);
    CHECK(memcmp(in, out, sizeof in) == 0);
}

TEST(conversions_equal_the_recorded_codes) {
    size_t n_in, n_f16, n_bf16;
    char *in = test_read_file("tests/golden/quant/formats/inputs_4096.f32", &n_in);
    char *f16 = test_read_file("tests/golden/quant/formats/f16.from_f32.u16", &n_f16);
    char *bf16 = test_read_file("tests/golden/quant/formats/bf16.from_f32.u16", &n_bf16);
    CHECK(in && f16 && bf16 && n_f16 == n_in / 2 && n_bf16 == n_in / 2);
    for (size_t i = 0; in && f16 && bf16 && i < n_in / 4; i++) {
        float f;
        uint16_t h, b;
        memcpy(&f, in + 4 * i, 4);
        memcpy(&h, f16 + 2 * i, 2);
        memcpy(&b, bf16 + 2 * i, 2);
        uint16_t got_h = dtype_f32_to_f16(f), got_b = dtype_f32_to_bf16(f);
        if (isnan(f)) {
            CHECK(isnan(dtype_f16_to_f32(got_h)) && isnan(dtype_bf16_to_f32(got_b)));
            continue;
        }
        CHECKF(got_h == h, "f16 of %a: %04x, wanted %04x", (double)f, got_h, h);
        CHECKF(got_b == b, "bf16 of %a: %04x, wanted %04x", (double)f, got_b, b);
    }
    free(in);
    free(f16);
    free(bf16);
}

/* The value of a half by its definition. */
static double half_value(uint32_t h) {
    int e = (int)(h >> 10 & 31), m = (int)(h & 0x3ff);
    double v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
    return h & 0x8000 ? -v : v;
}

TEST(every_half_round_trips) {
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = dtype_f16_to_f32((uint16_t)h), b = dtype_bf16_to_f32((uint16_t)h);
        CHECK(bits_of(b) == h << 16);
        if ((h & 0x7c00) == 0x7c00)
            CHECKF(h & 0x3ff ? isnan(f) : isinf(f), "half %04x", h);
        else
            CHECKF((double)f == half_value(h) && (signbit(f) != 0) == (h >> 15 != 0), "half %04x: %a", h, (double)f);
        if (isnan(f))
            CHECK(isnan(dtype_f16_to_f32(dtype_f32_to_f16(f))));
        else
            CHECKF(dtype_f32_to_f16(f) == h, "half %04x comes back as %04x", h, dtype_f32_to_f16(f));
        if (isnan(b))
            CHECK(isnan(dtype_bf16_to_f32(dtype_f32_to_bf16(b))));
        else
            CHECKF(dtype_f32_to_bf16(b) == h, "bf16 %04x", h);
    }
}

static float next_to(double x, int ulps) {
    float f = (float)x;
    for (; ulps > 0; ulps--) f = nextafterf(f, INFINITY);
    for (; ulps < 0; ulps++) f = nextafterf(f, -INFINITY);
    return f;
}

/* Midpoints between neighbours go to the even code, one fp32 step aside to the nearer one. */
TEST(f16_rounds_to_nearest_even_everywhere) {
    for (uint32_t h = 0; h < 0x7bff; h++) {
        double mid = (half_value(h) + half_value(h + 1)) / 2;
        CHECKF(dtype_f32_to_f16((float)mid) == h + (h & 1), "midpoint above %04x", h);
        CHECKF(dtype_f32_to_f16(next_to(mid, -1)) == h, "below the midpoint above %04x", h);
        CHECKF(dtype_f32_to_f16(next_to(mid, 1)) == h + 1, "above the midpoint above %04x", h);
        CHECKF(dtype_f32_to_f16((float)-mid) == (0x8000 | (h + (h & 1))), "negative midpoint %04x", h);
    }
    CHECK(dtype_f32_to_f16(65519.996f) == 0x7bff);
    CHECK(dtype_f32_to_f16(65520.0f) == 0x7c00);
    CHECK(dtype_f32_to_f16(3e38f) == 0x7c00);
    CHECK(dtype_f32_to_f16(-INFINITY) == 0xfc00);
}

TEST(bf16_rounds_to_nearest_even_everywhere) {
    for (uint32_t h = 0; h < 0x7f7f; h++) {
        float mid, below, above;
        uint32_t m = h << 16 | 0x8000, lo = m - 1, hi = m + 1;
        memcpy(&mid, &m, 4);
        memcpy(&below, &lo, 4);
        memcpy(&above, &hi, 4);
        CHECK(dtype_f32_to_bf16(mid) == h + (h & 1));
        CHECK(dtype_f32_to_bf16(below) == h);
        CHECK(dtype_f32_to_bf16(above) == h + 1);
    }
    CHECK(dtype_f32_to_bf16(INFINITY) == 0x7f80);
}

TEST(names_and_sizes) {
    CHECK(dtype_find(9) == NULL && dtype_find(42) == NULL && dtype_find(99) == NULL && dtype_find(UINT32_MAX) == NULL);
    CHECK(strcmp(dtype_name_of_id(17), "IQ2_XS") == 0);
    CHECK(dtype_name_of_id(4) == NULL && dtype_name_of_id(31) == NULL && dtype_name_of_id(43) == NULL);
    CHECK(dtype_name_of_id(UINT32_MAX) == NULL);
    size_t n;
    const dtype_info *all = dtype_all(&n);
    for (size_t i = 0; i < n; i++) CHECK(strcmp(dtype_name_of_id(all[i].type), all[i].name) == 0);
    CHECK(dtype_row_bytes(DTYPE_Q6_K, 512) == 420);
    CHECK(dtype_row_bytes(DTYPE_Q6_K, 511) == 0);
    CHECK(dtype_row_bytes(DTYPE_F32, 0) == 0);
    CHECK(dtype_row_bytes(DTYPE_F32, -4) == 0);
    CHECK(dtype_row_bytes(DTYPE_F32, INT64_MAX) == 0);
    CHECK(dtype_row_bytes((dtype)9, 32) == 0);
}
