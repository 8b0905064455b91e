/* graph/weight.h - how the rows of a weight lie in the files of a model.
 *
 * Most weights are a block of rows in the file's own layout (graph_weight.data). A stack of
 * experts or heads may be put together from several places, or lie with other axes in
 * front: then the weight has a layout, and its rows are produced in pieces while they
 * are loaded, so that no second copy of a large model is ever in memory.
 */
#ifndef GRAPH_WEIGHT_H
#define GRAPH_WEIGHT_H

#include "graph/graph.h"

typedef enum {
    GRAPH_LAYOUT_PARTS,   /* each slice a block of rows of its own */
    GRAPH_LAYOUT_STRIDES, /* single elements of a plain type (F32, F16, BF16), anywhere */
    GRAPH_LAYOUT_MXFP4,   /* codes and scales in two tensors; the weight's type is MXFP4 */
    GRAPH_LAYOUT_RANDOM,  /* nowhere: random values of about 1 / sqrt(k), about 1 in vectors; the same each time */
} graph_layout_kind;

struct graph_layout {
    graph_layout_kind kind;
    const uint8_t *const *parts; /* PARTS: [n_stack] */
    /* STRIDES: element k of row r of slice s is element first + s * slice + r * row + k * col of data.
     * MXFP4: row r of slice s is row first + s * slice + r * row of data [.., k / 32, 16 bytes: even codes low] and of
     * scales [.., k / 32]. */
    uint64_t first, slice, row, col;
    const uint8_t *scales;
};

extern const graph_layout graph_layout_random;

/* Rows of all slices together. */
static inline uint32_t graph_weight_rows(const graph_weight *w) { return w->n * (w->n_stack ? w->n_stack : 1); }

/* Rows [row, row + n_rows) of a weight with a layout, counted through its slices, as its type has them, to out. */
void graph_weight_read(const graph_weight *w, uint32_t row, uint32_t n_rows, void *out);

#endif
