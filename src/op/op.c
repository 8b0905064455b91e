#include "op/op.h"

#include "base/assert.h"

static const op_info table[OP_COUNT] = {
#define OP(NAME, text, inputs, weights, kind, doc) {text, inputs, weights, OP_KIND_##kind, doc},
#include "op/ops.def"
#undef OP
};

const op_info *op_get(op o) {
    fl_assert((unsigned)o < OP_COUNT);
    return &table[o];
}
