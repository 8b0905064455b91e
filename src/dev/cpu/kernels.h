/* dev/cpu/kernels.h - what one instruction set provides: the inner loops that all rows of the CPU's table share.
 *
 * A kernel works on plain pointers, knows nothing of graphs, threads or requests, and
 * computes exactly what docs/numerics.md says: for the same input every set gives the
 * same bits as ref/, which states the rules in plain loops. Which layouts a set uses
 * for packed weights and converted activations is its own business: only the
 * functions of the same set read them.
 *
 * Letters: T tokens, N rows of a weight (outputs), K columns (summed), D head width.
 * Threads: every function may run on many threads at once on disjoint outputs. The
 *          caller has set FTZ, DAZ and round-to-nearest.
 * Memory:  no function allocates; scratch comes from the caller, 64-byte aligned.
 */
#ifndef DEV_CPU_KERNELS_H
#define DEV_CPU_KERNELS_H

#include "tensor/compute.h"
#include "tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    CPU_TILE_ROWS = 16,   /* weight rows of a tile: the unit of work */
    CPU_FEW_TOKENS = 12,  /* up to here a product reads packed weights directly, without a panel */
    CPU_PAGE_TOKENS = 32, /* positions of a cache page: one block of the bf16 rule */
    CPU_CHUNK_KEYS = 256, /* positions of an attention chunk */
    CPU_ATTN_ROWS = 16,   /* most query rows of one attention tile */
    CPU_HEAD_MAX = 576,   /* widest head */
};

/* A weight [n, k] packed by weight_pack() of one kernel set. */
typedef struct {
    dtype type;      /* as in the file */
    compute compute; /* never COMPUTE_AUTO */
    uint32_t n, k;
    uint32_t n_tiles; /* ceil(n / CPU_TILE_ROWS); rows beyond n in the last tile compute 0 */
    size_t tile_bytes;
    uint8_t *data; /* [n_tiles][tile_bytes], 64-byte aligned */
} cpu_weight;

/* The input of products, converted for one compute type: [n_tokens, k]. */
typedef struct {
    compute compute;
    uint32_t k;
    uint32_t n_tokens; /* of this step; known before the first act_put */
    uint8_t *data;     /* act_bytes() of it, 64-byte aligned */
} cpu_act;

typedef struct {
    /* Bytes of one packed tile of 16 rows; 0 when the set has no packed form for this pair. k need not be a
     * multiple of 32 except where the file type's blocks ask for it: the tail is padded with zeros. */
    size_t (*tile_bytes)(dtype type, compute c, uint32_t k);
    /* Packs rows [row, row + n_rows) given in the file's layout; rows not yet written are 0. Any order, any ranges;
     * different tiles may be packed by different threads. */
    void (*weight_pack)(cpu_weight *w, uint32_t row, uint32_t n_rows, const void *rows);

    size_t (*act_bytes)(compute c, uint32_t k, uint32_t n_tokens);
    /* Converts row x [k] as token t. Tokens may be put by different threads. False when a value is not finite
     * (q8 only: the row is then put as zeros, and the caller fails the token's sequence). */
    bool (*act_put)(cpu_act *a, uint32_t t, const float *x);
    /* Zeroes what the layout pads beyond n_tokens; called once per step by one thread, before or after the puts. */
    void (*act_pad)(cpu_act *a);

    /* y[t - t0][0..16) for tokens [t0, t0 + n_tokens) = x[t] . w[16 tile + 0..16), rows y_stride floats apart.
     * panel: NULL when a->n_tokens <= CPU_FEW_TOKENS, else what panel() made of the same tile (the unpacked tile, reused
     * for all tokens). t0 is a multiple of panel_tokens when panels are used. */
    size_t (*panel_bytes)(const cpu_weight *w);
    void (*panel)(const cpu_weight *w, uint32_t tile, void *panel);
    void (*product)(const cpu_weight *w, uint32_t tile, const void *panel, const cpu_act *a, uint32_t t0,
                    uint32_t n_tokens, float *y, size_t y_stride);
    uint32_t panel_tokens;
    /* Two tiles at once, of one weight or of two with the same k: as product() of tile[i] of w[i] into y[i], without panels.
     * NULL: the set gains nothing by it. */
    void (*product_two)(const cpu_weight *const w[2], const uint32_t tile[2], const cpu_act *a, uint32_t t0,
                        uint32_t n_tokens, float *const y[2], size_t y_stride);
} cpu_matmul_kernels;

/* Functions of one row of n floats. y may equal an input. */
typedef struct {
    void (*rmsnorm)(float *y, const float *x, const float *w, uint32_t n, float eps); /* w NULL: no weight */
    void (*add)(float *y, const float *a, const float *b, uint32_t n);
    void (*scale)(float *y, const float *x, float s, uint32_t n);
    void (*silu_mul)(float *y, const float *gate, const float *up, uint32_t n); /* silu(gate) * up */
    void (*gelu_tanh_mul)(float *y, const float *gate, const float *up, uint32_t n);
    void (*softcap)(float *y, const float *x, float cap, uint32_t n); /* cap * tanh(x / cap) */
    void (*layernorm)(float *y, const float *x, const float *w, uint32_t n, float eps);
    /* g = min(gate, limit), u = clamp(up, -limit, limit): (g * sigmoid(alpha * g)) * (u + 1). */
    void (*swiglu_clamp)(float *y, const float *gate, const float *up, float alpha, float limit, uint32_t n);
    void (*sigmoid)(float *y, const float *x, uint32_t n);
    void (*mul)(float *y, const float *a, const float *b, uint32_t n);
    void (*add_scaled)(float *y, const float *x, float s, uint32_t n); /* y = fma(s, x, y) */
    /* cos and sin of (float)pos * inv_freq[i], i < n, with double-precision range reduction. */
    void (*rope_table)(float *cos, float *sin, uint32_t pos, const float *inv_freq, uint32_t n);
    /* Rotates the first d of x in place; half: pairs (i, i + d/2), else neighbours (2i, 2i+1). cos, sin [d/2]. */
    void (*rope)(float *x, const float *cos, const float *sin, uint32_t d, bool half);
    /* Index of the largest value, the lowest among equals; *finite false if any is NaN or +inf, or none is finite. */
    uint32_t (*argmax)(const float *x, uint32_t n, bool *finite);
    void (*exp_sub)(float *y, const float *x, float sub, uint32_t n); /* exp(x - sub) */
    /* Log of the sum of exp over the row: chunks of 1,024, 16 lanes each, folded left to right. */
    float (*logsumexp)(const float *x, uint32_t n);
} cpu_row_kernels;

/* Attention of up to CPU_ATTN_ROWS query rows that share one KV head of one sequence. */
typedef struct {
    uint32_t n_rows;
    uint32_t d_k, d_v; /* widths; multiples of 8, <= CPU_HEAD_MAX */
    bool f32;          /* the f32 profile: plain fma chains, cache in fp32; else q and p to bf16, cache bf16 */
    const float *q[CPU_ATTN_ROWS]; /* [d_k] each, after norm and RoPE, unscaled */
    float *out[CPU_ATTN_ROWS];     /* [d_v] each */
    float lse[CPU_ATTN_ROWS];      /* written: log-sum-exp of the scores, without the sink */
    uint32_t first[CPU_ATTN_ROWS]; /* visible keys are first <= key <= last, absolute positions */
    uint32_t last[CPU_ATTN_ROWS];
    float scale, softcap;             /* softcap 0: none */
    const float *sink[CPU_ATTN_ROWS]; /* NULL: none */
    const uint8_t *pool;              /* keys 32 p .. 32 p + 31 lie at pool + pages[p] * page_bytes + offset, */
    const uint32_t *pages;            /*   as kv_write() put them; pages below first / 32 are never read */
    size_t page_bytes, offset;
} cpu_attn;

typedef struct {
    uint32_t rows; /* of a tile, that attn() is best at; it takes 1 to CPU_ATTN_ROWS */
    /* Bytes of one KV head of one layer in a page: 32 positions of K and V. */
    size_t (*kv_bytes)(uint32_t d_k, uint32_t d_v, bool f32);
    /* Writes K [d_k] and V [d_v] of slot 0..31 into such a piece of a page (bf16: rounded to nearest even). */
    void (*kv_write)(uint8_t *page_head, uint32_t slot, const float *k, const float *v, uint32_t d_k, uint32_t d_v,
                     bool f32);
    size_t (*attn_scratch)(uint32_t d_k, uint32_t d_v);
    void (*attn)(cpu_attn *a, void *scratch);
} cpu_attn_kernels;

typedef struct {
    const char *isa; /* "scalar", "avx2": the names of --cpu-isa */
    /* This CPU and this operating system have it. A set that needs the system's leave (AMX) asks for it here. Where a set is
     * supported, so are those behind it in cpu_kernels_all(). */
    bool (*supported)(void);
    const cpu_matmul_kernels *integer; /* products in q8 and q12 */
    const cpu_matmul_kernels *plain;   /* products in bf16 and f32 */
    const cpu_row_kernels *row;
    const cpu_attn_kernels *attn;
} cpu_kernels;

/* The set's products in c. */
static inline const cpu_matmul_kernels *cpu_kernels_matmul(const cpu_kernels *k, compute c) {
    return c == COMPUTE_Q8 || c == COMPUTE_Q12 ? k->integer : k->plain;
}

/* All sets built in, best first, the reference ("scalar") last; *n gets the count. */
const cpu_kernels *const *cpu_kernels_all(uint32_t *n);

/* The tables of one set, each in its own file. */
extern const cpu_matmul_kernels cpu_ref_matmul;
extern const cpu_row_kernels cpu_ref_row;
extern const cpu_attn_kernels cpu_ref_attn;
#if defined(__x86_64__)
extern const cpu_matmul_kernels cpu_avx2_matmul;
extern const cpu_row_kernels cpu_avx2_row;
extern const cpu_attn_kernels cpu_avx2_attn;
extern const cpu_matmul_kernels cpu_avx512vnni_integer, cpu_amx_integer;
extern const cpu_matmul_kernels cpu_avx512_plain, cpu_amx_plain; /* bf16 and f32 */
extern const cpu_row_kernels cpu_avx512_row;
extern const cpu_attn_kernels cpu_avx512_attn, cpu_amx_attn;

/* dev/cpu/x86/cpuid.c: what cpu_kernels.supported says. */
bool cpu_x86_has_avx2(void);       /* with FMA and F16C */
bool cpu_x86_has_avx512vnni(void); /* AVX2 as above, AVX-512 F, DQ, BW, VL and VNNI */
bool cpu_x86_has_amx(void); /* AVX-512 as above, AVX512_BF16, AMX tiles of int8 and bf16; asks the system for them */
/* Whether tdpbf16ps keeps the bf16 rule of docs/numerics.md on this very machine, subnormal operands and results, cancelling
 * sums and infinities included; a few microseconds, after the system has given tiles. */
bool cpu_amx_bf16_passes(void);
#endif

#endif
