#include "graph/weight.h"

#include "base/assert.h"

#include <math.h>
#include <string.h>

const graph_layout graph_layout_random = {.kind = GRAPH_LAYOUT_RANDOM};

static void read_strides(const graph_weight *w, uint32_t row, uint32_t n_rows, uint8_t *out) {
    const graph_layout *l = w->layout;
    const size_t size = dtype_find(w->type)->block_bytes;
    for (uint32_t k = 0; k < w->k; k++) /* rows inside: of a transposed matrix they are neighbours */
        for (uint32_t i = 0; i < n_rows; i++) {
            const uint64_t s = (row + i) / w->n, r = (row + i) % w->n;
            const uint64_t at = l->first + s * l->slice + r * l->row + k * l->col;
            memcpy(out + ((size_t)i * w->k + k) * size, (const uint8_t *)w->data + at * size, size);
        }
}

/* A block of 32 in one tensor: its scale, then the codes of k and k + 16 in the halves of byte k. */
static void read_mxfp4(const graph_weight *w, uint32_t row, uint32_t n_rows, uint8_t *out) {
    const graph_layout *l = w->layout;
    const uint32_t n_blocks = w->k / 32;
    for (uint32_t i = 0; i < n_rows; i++) {
        const uint64_t at = l->first + (row + i) / w->n * l->slice + (row + i) % w->n * l->row;
        const uint8_t *codes = (const uint8_t *)w->data + at * n_blocks * 16, *scales = l->scales + at * n_blocks;
        for (uint32_t b = 0; b < n_blocks; b++, codes += 16, out += 17) {
            out[0] = scales[b];
            for (uint32_t k = 0; k < 16; k++) {
                const uint32_t low = codes[k / 2] >> 4 * (k % 2) & 15, high = codes[8 + k / 2] >> 4 * (k % 2) & 15;
                out[1 + k] = (uint8_t)(low | high << 4);
            }
        }
    }
}

static void read_parts(const graph_weight *w, uint32_t row, uint32_t n_rows, uint8_t *out) {
    const size_t row_bytes = dtype_row_bytes(w->type, w->k);
    for (uint32_t i = 0; i < n_rows; i++, out += row_bytes)
        memcpy(out, w->layout->parts[(row + i) / w->n] + (row + i) % w->n * row_bytes, row_bytes);
}

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void put_half(uint8_t *p, float f) {
    uint16_t h = dtype_f32_to_f16(f);
    memcpy(p, &h, sizeof h);
}

/* Scales of a block of random codes that give it values of standard deviation s. */
static void put_scales(dtype type, uint8_t *p, float s) {
    switch (type) {
        case DTYPE_Q4_0: put_half(p, s / 4.6f); return;
        case DTYPE_Q8_0: put_half(p, s / 74); return;
        case DTYPE_Q4_K: /* sub-scales and minima of 6 bits, codes around 7.5 */
            put_half(p, s / 258);
            put_half(p + 2, s / 34.4f);
            return;
        case DTYPE_Q6_K: put_half(p + dtype_find(type)->block_bytes - 2, s / 1300); return;
        case DTYPE_MXFP4: p[0] = (uint8_t)(127 + lrintf(log2f(s / 3))); return;
        default: fl_assert(0 && "a type that random weights can have");
    }
}

static void random_plain(dtype type, uint8_t *p, float x) {
    uint16_t h = type == DTYPE_F16 ? dtype_f32_to_f16(x) : dtype_f32_to_bf16(x);
    if (type == DTYPE_F32)
        memcpy(p, &x, sizeof x);
    else
        memcpy(p, &h, sizeof h);
}

static void read_random(const graph_weight *w, uint32_t row, uint32_t n_rows, uint8_t *out) {
    const dtype_info *t = dtype_find(w->type);
    const size_t n_blocks = w->k / t->block_elems;
    const float s = 1 / sqrtf((float)w->k);
    uint64_t name = 0;
    for (const char *c = w->name; *c; c++) name = name * 31 + (uint8_t)*c;
    for (uint32_t i = 0; i < n_rows; i++) {
        uint64_t state = name + ((uint64_t)(row + i) << 32);
        for (size_t b = 0; b < n_blocks; b++, out += t->block_bytes) {
            if (t->block_elems == 1) {
                float x = (float)(next_random(&state) >> 40) * 0x1p-23f - 1;
                random_plain(w->type, out, w->uses & GRAPH_USE_VECTOR ? 1 + 0.1f * x : x * s * 1.7f);
                continue;
            }
            for (size_t at = 0; at < t->block_bytes; at += 8) {
                const uint64_t r = next_random(&state);
                memcpy(out + at, &r, t->block_bytes - at < 8 ? t->block_bytes - at : 8);
            }
            put_scales(w->type, out, s);
        }
    }
}

void graph_weight_read(const graph_weight *w, uint32_t row, uint32_t n_rows, void *out) {
    switch (w->layout->kind) {
        case GRAPH_LAYOUT_PARTS: read_parts(w, row, n_rows, out); return;
        case GRAPH_LAYOUT_STRIDES: read_strides(w, row, n_rows, out); return;
        case GRAPH_LAYOUT_MXFP4: read_mxfp4(w, row, n_rows, out); return;
        case GRAPH_LAYOUT_RANDOM: read_random(w, row, n_rows, out); return;
    }
    fl_assert(0 && "a layout");
}
