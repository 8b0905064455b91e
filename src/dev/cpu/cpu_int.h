/* dev/cpu/cpu_int.h - what the files of the CPU back end share. */
#ifndef DEV_CPU_CPU_INT_H
#define DEV_CPU_CPU_INT_H

#include "dev/cpu/cpu.h"
#include "dev/cpu/kernels.h"
#include "dev/cpu/pool.h"

typedef struct {
    dev base;
    cpu_pool *pool;
    const cpu_kernels *const *sets; /* usable sets, best first; the last one is the reference */
    uint32_t n_sets;
    bool kv_f32;
    dev_ticket ticket;
    struct cpu_slab *slabs; /* memory of packed weights, newest first; freed when the device is closed */
} cpu_dev;

struct dev_weight {
    dev_weight_desc desc;
    char *name;             /* owned copy behind desc.name */
    const cpu_kernels *set; /* whose layout `packed` has */
    cpu_weight packed;      /* MATMUL use; of a stack, its first slice: cpu_weight_slice() */
    size_t slice_bytes;     /* from a packed slice to the next */
    float *vector;          /* VECTOR use: [n, k] fp32, owned */
    const uint8_t *rows;    /* EMBED use: rows in the file's layout */
    uint8_t *own_rows;      /* what `rows` points to unless it was adopted */
    size_t row_bytes;       /* of a row of the slice in the file's layout */
    size_t file_row_bytes;
    size_t file_offset; /* of the slice within a file's row */
};

typedef struct cpu_group cpu_group;
typedef struct cpu_step cpu_step;

/* A row of the table: which groups it takes and how it runs them. The first row that does not refuse is used. */
typedef struct {
    const char *name;
    op main; /* OP_COUNT: chains of row-wise ops */
    /* NULL when it may run the group with this kernel set, else why not, in a few words. */
    const char *(*refuses)(const cpu_group *g);
    size_t (*scratch)(const cpu_group *g); /* bytes a thread */
    size_t (*shared)(const cpu_group *g);  /* bytes shared by the team; NULL: none */
    void (*launch)(const cpu_group *g, const cpu_step *s, uint32_t thread, uint32_t n_threads);
} cpu_row;

/* A group bound to weights and memory. */
struct cpu_group {
    const cpu_row *row;
    const cpu_kernels *set;
    const graph_plan *plan;
    const graph_group *g;
    dev_weight *const *weights; /* by graph weight index */
    const dev_span *kv;         /* by cache group */
    size_t page_bytes[GRAPH_GROUPS_MAX];
    bool kv_f32;
    uint32_t pre_cols; /* widest value of the prologue */
    char why[96];      /* for people: why faster sets refused */
};

struct dev_program {
    cpu_dev *d;
    graph_plan *plan;
    cpu_group *groups;
    uint32_t n_groups;
    uint8_t *arena;   /* the plan's stored values */
    uint8_t *shared;  /* converted activations of the group that runs */
    uint8_t *scratch; /* [n_threads][scratch_bytes] */
    size_t scratch_bytes, shared_bytes;
    float *cos, *sin; /* per RoPE variant [tokens, d/2], one after the other */
    size_t rope_offset[8];
    uint32_t *drawn; /* [rows] tokens of the previous step */
    const cpu_kernels *best;
};

/* One run: what changes from step to step. */
struct cpu_step {
    dev_program *p;
    const step_tables *t;
    step_outputs *out;
};

extern const cpu_row cpu_row_matmul, cpu_row_embed, cpu_row_chain, cpu_row_kv_write, cpu_row_attention, cpu_row_sample,
    cpu_row_experts, cpu_row_heads;

/* weight.c */
fl_status cpu_weight_open(dev *d, const dev_weight_desc *desc, dev_weight **out, fl_err *err);
fl_status cpu_weight_write(dev *d, dev_weight *w, uint32_t row, uint32_t n_rows, const void *rows, fl_err *err);
fl_status cpu_weight_adopt(dev *d, dev_weight *w, const void *rows, fl_err *err);
void cpu_weight_close(dev *d, dev_weight *w);
size_t cpu_weight_size(const dev_weight *w);
void cpu_weight_free_slabs(cpu_dev *d);
static inline uint32_t cpu_weight_slices(const dev_weight *w) { return w->desc.n_stack ? w->desc.n_stack : 1; }
static inline cpu_weight cpu_weight_slice(const dev_weight *w, uint32_t slice) {
    cpu_weight s = w->packed;
    s.data += slice * w->slice_bytes;
    return s;
}

/* program.c */
fl_status cpu_program_compile(dev *d, graph_plan *plan, dev_weight *const *weights, const dev_span *kv,
                              dev_program **out, fl_err *err);
void cpu_program_close(dev *d, dev_program *p);
size_t cpu_program_size(const dev_program *p);
bool cpu_program_print(const dev_program *p, base_buf *out);
/* Runs a step on the team and returns when it is done. */
void cpu_program_run(dev_program *p, const step_tables *tables, step_outputs *outputs);

/* chain.c: the row-wise ops. */
static inline const graph_node *cpu_node(const cpu_group *g, graph_value v) { return &g->plan->g->nodes[v]; }
static inline uint32_t cpu_step_rows(const cpu_step *s, graph_rows rows) {
    return rows == GRAPH_ROWS_R    ? s->t->n_rows
           : rows == GRAPH_ROWS_TK ? s->t->n_tokens * s->p->plan->g->top_k
                                   : s->t->n_tokens;
}
/* Row `row` of a stored value. */
static inline float *cpu_value_row(const cpu_group *g, const cpu_step *s, graph_value v, uint32_t row) {
    return (float *)(s->p->arena + g->plan->offset[v]) + (size_t)row * cpu_node(g, v)->cols;
}
static inline uint8_t *cpu_scratch(const cpu_step *s, uint32_t thread) {
    return s->p->scratch + (size_t)thread * s->p->scratch_bytes;
}
/* Bytes of scratch that cpu_chain_row() needs. */
size_t cpu_chain_scratch(const cpu_group *g);
/* Computes the group's prologue for one row and returns the value that leads to the main op's first input. Values that
 * later groups read are written to their places when `store`. */
const float *cpu_chain_row(const cpu_group *g, const cpu_step *s, uint32_t row, float *scratch, bool store);
/* Columns [col, col + n) of rows [row, row + n_rows) of a value, at y, rows `stride` floats apart. */
typedef struct {
    uint32_t row, n_rows, col, n;
    float *y;
    size_t stride;
} cpu_block;
/* Applies an element-wise op in place to a block of the value x_of, one of the op's inputs. */
void cpu_elem(const cpu_group *g, const cpu_step *s, graph_value v, graph_value x_of, const cpu_block *b);
/* Expert of a route (a row of TK) by the stored value of a ROUTE op. */
uint32_t cpu_route_expert(const cpu_group *g, const cpu_step *s, graph_value routes, uint32_t row);
/* route.c: one row of ROUTE. y [2 top_k]. */
void cpu_route_row(const graph_routing *r, const cpu_row_kernels *k, const float *logits, const float *bias, float *y);
/* A norm of one head, n->width columns. */
void cpu_norm_head(const cpu_group *g, graph_value v, const float *x, float *y);
/* The element-wise op of two inputs on `cols` columns. */
void cpu_binary(const cpu_group *g, const graph_node *n, float *y, const float *a, const float *b, uint32_t cols);
/* matmul.c: the value that main m ends in, and the post ops of main m on a block (but the one that makes a pair). */
graph_value cpu_tail_of(const cpu_group *g, uint32_t m);
void cpu_post_ops(const cpu_group *g, const cpu_step *s, uint32_t m, const cpu_block *b);
/* Kernels want head widths that are multiples of 8: a head is stored with zeros behind it, which add nothing. */
static inline uint32_t cpu_head_width(uint32_t d) { return (d + 7) & ~7u; }
/* Marks the sequence of a row as not finite. */
void cpu_mark_bad(const cpu_step *s, graph_rows rows, uint32_t row);

#endif
