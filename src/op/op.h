/* op/op.h - the operations of ops.def as a C enum and a table of facts. */
#ifndef OP_OP_H
#define OP_OP_H

#include <stdint.h>

typedef enum {
#define OP(NAME, text, inputs, weights, kind, doc) OP_##NAME,
#include "op/ops.def"
#undef OP
    OP_COUNT
} op;

typedef enum { OP_KIND_ROW, OP_KIND_ELEM, OP_KIND_MAIN } op_kind;

typedef struct {
    const char *name; /* "matmul" */
    uint8_t n_inputs;
    uint8_t n_weights;
    op_kind kind;
    const char *doc;
} op_info;

const op_info *op_get(op o);

#endif
