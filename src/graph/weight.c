#include "graph/weight.h"

#include "base/assert.h"

#include <string.h>

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

void graph_weight_read(const graph_weight *w, uint32_t row, uint32_t n_rows, void *out) {
    switch (w->layout->kind) {
        case GRAPH_LAYOUT_PARTS: read_parts(w, row, n_rows, out); return;
        case GRAPH_LAYOUT_STRIDES: read_strides(w, row, n_rows, out); return;
        case GRAPH_LAYOUT_MXFP4: read_mxfp4(w, row, n_rows, out); return;
    }
    fl_assert(0 && "a layout");
}
