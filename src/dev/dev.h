/* dev/dev.h - what a back end must provide: memory, weights, and programs compiled from a plan.
 *
 * The engine hands a back end the whole step once (compile) and then runs it many
 * times with different step tables (run). A back end decides by itself what a program
 * is: phases of pinned threads (cpu), a captured graph of kernels (cuda, hip), one
 * executable per bucket (pjrt).
 *
 * Memory of a back end is not host memory: nobody but the back end dereferences a
 * dev_span. That the CPU's happens to be addressable is its own secret; dev/sim hands
 * out addresses that fault.
 *
 * Asynchrony: run() returns at once with a ticket; wait(ticket) returns when the work is
 * done. Work is done in the order of the calls. Tables and outputs of a run stay in use,
 * unchanged, until its ticket has been waited for. A token of a step may be "what row i
 * of the step before drew" (DEV_DRAWN), so that a step can be enqueued before the tokens
 * of the one before are known.
 *
 * Errors: calls return a status; a sequence whose numbers are not finite gets a status of
 * its own in step_outputs, and the other sequences of the step are unharmed.
 *
 * Threads: one thread at a time per device, except that nothing runs beside wait().
 *
 * Adding a back end:  one folder src/dev/<name>/, one line in dev/registry.c's list (engine).
 * Adding a kernel:    one row of that back end's table (dev/cpu/row.h).
 */
#ifndef DEV_DEV_H
#define DEV_DEV_H

#include "fl_err.h"
#include "graph/plan.h"
#include "sample/sample.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct dev dev;                 /* one opened device; begins with its vtable */
typedef struct dev_weight dev_weight;   /* one weight in the back end's own packed layout, shared by all programs */
typedef struct dev_program dev_program; /* one compiled step */
typedef uint64_t dev_ticket;            /* rises by one per run; 0: nothing to wait for */

typedef struct {
    uint64_t handle;
    size_t bytes;
} dev_span;

enum {
    DEV_DRAWN = 0x80000000, /* token: low bits are a row of the previous step, its drawn token is meant */
};

/* Which part of a file's tensor a weight is: rows and columns of it (tensor and expert parallel cut here). */
typedef struct {
    const char *name;
    dtype type;
    compute compute;
    unsigned uses;            /* GRAPH_USE_* */
    uint32_t n, k;            /* of the slice: [n, k] */
    uint32_t n_stack;         /* of a stack [n_stack, n, k] of matrices, rows counted through; 0: one matrix */
    uint32_t k_file, k_first; /* columns of a row in the file, and where the slice begins; whole blocks */
} dev_weight_desc;

typedef struct {
    const char *isa;    /* NULL: the best */
    uint32_t n_threads; /* 0: as many as the process may use */
    bool kv_f32;        /* cache type: fp32, else bf16 */
} dev_options;

/* Host memory of fixed capacity, filled by the engine for each step. Tokens of a sequence lie together, in rising
 * positions. */
typedef struct {
    uint32_t n_tokens, n_seqs, n_rows;
    const uint32_t *token;     /* [n_tokens] id, or DEV_DRAWN | row */
    const uint32_t *position;  /* [n_tokens] */
    const uint32_t *token_seq; /* [n_tokens] its sequence in this step */
    const uint32_t *seq_begin; /* [n_seqs + 1] first token of each sequence */
    const uint32_t *row_token; /* [n_rows] the token whose logits are wanted */
    const uint32_t *const
        *pages[GRAPH_GROUPS_MAX]; /* per cache group: [n_seqs] page tables; entry p: positions 32 p .. */
    const sample_params *draw;    /* [n_rows] */
} step_tables;

typedef struct {
    sample_result *rows; /* [n_rows] */
    uint8_t *seq_bad;    /* [n_seqs] 1: its numbers are not finite */
    float *logits;       /* [n_rows, n_vocab] raw logits, or NULL: not wanted */
} step_outputs;

typedef struct dev_vtable {
    const char *name; /* "cpu", "sim" */

    fl_status (*open)(dev **out, const dev_options *o, fl_err *err);
    void (*close)(dev *d);
    /* What was chosen: instruction set and threads. */
    void (*describe)(const dev *d, const char **isa, uint32_t *n_threads);
    uint32_t steps_in_flight; /* what suits it */

    fl_status (*alloc)(dev *d, size_t bytes, dev_span *out, fl_err *err); /* zeroed; FL_ENOMEM */
    void (*release)(dev *d, dev_span span);

    /* A weight is described once, then written in ranges of rows, now or later in place of older ones (between runs).
     * rows: whole rows of the file's tensor, k_file columns each, from which the slice is cut. adopt: the same for a
     * mapping that stays valid and unchanged as long as the weight, which a back end may use as it lies. */
    fl_status (*weight_open)(dev *d, const dev_weight_desc *desc, dev_weight **out, fl_err *err);
    fl_status (*weight_write)(dev *d, dev_weight *w, uint32_t row, uint32_t n_rows, const void *rows, fl_err *err);
    fl_status (*weight_adopt)(dev *d, dev_weight *w, const void *rows, fl_err *err);
    void (*weight_close)(dev *d, dev_weight *w);
    size_t (*weight_bytes)(const dev_weight *w);

    /* Bytes of one page (32 positions) of a cache group in this back end's layout. */
    size_t (*kv_page_bytes)(const dev *d, const graph_kv_group *group);

    /* Turns a plan into a program; splits groups that no row takes. weights[i] belongs to graph weight i, kv[i] to cache
     * group i; both outlive the program. Never called while serving.
     * Errors: FL_EUNSUPPORTED naming the op and types that no row takes; FL_ENOMEM. */
    fl_status (*compile)(dev *d, graph_plan *plan, dev_weight *const *weights, const dev_span *kv, dev_program **out,
                         fl_err *err);
    void (*program_close)(dev *d, dev_program *p);
    size_t (*program_bytes)(const dev_program *p);
    /* A line per group: its ops, the row chosen, why earlier rows refused. */
    bool (*program_print)(const dev_program *p, base_buf *out);

    /* Enqueues one step. Allocates nothing. Errors: FL_EDEVICE; then nothing of the step has run. */
    fl_status (*run)(dev *d, dev_program *p, const step_tables *tables, step_outputs *outputs, dev_ticket *out,
                     fl_err *err);
    /* Errors: FL_EDEVICE: the step failed as a whole, its outputs mean nothing; later steps may work. */
    fl_status (*wait)(dev *d, dev_ticket ticket, fl_err *err);
} dev_vtable;

struct dev {
    const dev_vtable *vt;
};

#endif
