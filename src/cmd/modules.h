/* cmd/modules.h - the tensors of a model by what they are: "attn_q" of all layers is one module. */
#ifndef CMD_MODULES_H
#define CMD_MODULES_H

#include "flambeau.h"

enum { CMD_MODULES_MAX = 256, CMD_TYPES_MAX = 48 };

typedef struct {
    const char *type; /* "Q4_K" */
    uint32_t n_tensors;
    uint64_t n_elems, n_bytes;
} cmd_type_share;

typedef struct {
    char name[96];
    cmd_type_share types[CMD_TYPES_MAX]; /* most elements first */
    uint32_t n_types, n_tensors;
    uint64_t n_elems, n_bytes;
} cmd_module;

typedef struct {
    cmd_module all; /* the whole model; no name */
    cmd_module modules[CMD_MODULES_MAX];
    uint32_t n; /* in the order of the file; what is beyond the last goes into that one, named "others" */
} cmd_modules;

/* The caller frees *out (base_free). Errors: FL_ENOMEM. */
FL_CHECKED fl_status cmd_modules_open(cmd_modules **out, const fl_model *m, fl_err *err);

/* "blk.12.attn_q.weight" gives "attn_q"; numbers further on become "*", biases keep their ".bias". */
void cmd_modules_name(char out[96], const char *tensor);

#endif
