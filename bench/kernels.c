/* Speed of the matmul kernels: GMAC/s, and GB/s of packed weights, by type, shape, threads and tokens.
 *
 *   make build/libflambeau.a
 *   gcc -O2 -D_GNU_SOURCE -Iinclude -Isrc -o build/bench-kernels bench/kernels.c build/libflambeau.a -lm -lpthread
 *   build/bench-kernels SET [type [threads [k n]]]      SET: avx2, avx512vnni, amx ..; type: Q4_0 .. IQ1_S, BF16, F32, all
 *
 * Everything a step does is counted: converting activations, a barrier, panels, products. Weights
 * are copied until they fill 96 MiB and used in turn, so few tokens are measured against
 * memory and not against a cache. The best of many rounds of a few milliseconds is printed. */
#include "base/mem.h"
#include "dev/cpu/kernels.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <xmmintrin.h>

enum { TOKENS_MAX = 512, COPIES_MAX = 4096, THREADS_MAX = 2 };

static const cpu_matmul_kernels *kernels; /* of the set and the compute type that are measured */

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct {
    cpu_weight w[COPIES_MAX];
    uint32_t n_copies, n_used, n_rounds; /* a round takes the next n_used copies */
    cpu_act act;
    float *x, *y;
    uint32_t n_threads;
    _Atomic uint32_t arrived, turn;
    double best;
} work;

static work job;

static void barrier(void) {
    const uint32_t turn = atomic_load(&job.turn);
    if (atomic_fetch_add(&job.arrived, 1) == job.n_threads - 1) {
        atomic_store(&job.arrived, 0);
        atomic_store(&job.turn, turn + 1);
        return;
    }
    while (atomic_load_explicit(&job.turn, memory_order_acquire) == turn) _mm_pause();
}

static void step(const cpu_weight *w, uint32_t id, void *panel) {
    const uint32_t T = job.act.n_tokens;
    for (uint32_t t = T * id / job.n_threads; t < T * (id + 1) / job.n_threads; t++)
        if (!kernels->act_put(&job.act, t, job.x + (size_t)t * w->k)) abort();
    barrier();
    const size_t stride = (size_t)w->n_tiles * CPU_TILE_ROWS;
    const uint32_t end = w->n_tiles * (id + 1) / job.n_threads;
    for (uint32_t i = w->n_tiles * id / job.n_threads; i < end; i++) {
        float *y = job.y + (size_t)i * CPU_TILE_ROWS;
        if (kernels->product_two && i + 1 < end) {
            kernels->product_two((const cpu_weight *[]){w, w}, (uint32_t[]){i, i + 1}, &job.act, 0, T,
                                 (float *[]){y, y + CPU_TILE_ROWS}, stride);
            i++;
            continue;
        }
        if (T > CPU_FEW_TOKENS) kernels->panel(w, i, panel);
        kernels->product(w, i, T > CPU_FEW_TOKENS ? panel : NULL, &job.act, 0, T, y, stride);
    }
    barrier();
}

static void *worker(void *arg) {
    const uint32_t id = (uint32_t)(uintptr_t)arg;
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(id, &set);
    sched_setaffinity(0, sizeof set, &set);
    _mm_setcsr(0x1f80 | 0x8040);
    void *panel = base_alloc_aligned(kernels->panel_bytes(&job.w[0]) + 64);
    for (uint32_t round = 0; round < job.n_rounds; round++) {
        barrier();
        const double start = now();
        for (uint32_t i = 0; i < job.n_used; i++) step(&job.w[(round * job.n_used + i) % job.n_copies], id, panel);
        if (id == 0 && now() - start < job.best) job.best = now() - start;
    }
    base_free(panel);
    return NULL;
}

static double seconds(uint32_t n_threads) {
    pthread_t threads[THREADS_MAX];
    job.n_threads = n_threads;
    job.best = 1e9;
    for (uintptr_t i = 1; i < n_threads; i++) pthread_create(&threads[i], NULL, worker, (void *)i);
    worker(NULL);
    for (uint32_t i = 1; i < n_threads; i++) pthread_join(threads[i], NULL);
    return job.best;
}

/* Random blocks; an fp16 exponent below that of infinity keeps every value finite. */
static uint8_t *rows_random(dtype type, uint32_t n, uint32_t k) {
    const dtype_info *info = dtype_find((uint32_t)type);
    const size_t bytes = n * dtype_row_bytes(type, k);
    uint8_t *rows = base_alloc_aligned(bytes);
    uint32_t r = 1;
    for (size_t i = 0; i < bytes; i++) {
        r = r * 1664525u + 1013904223u;
        rows[i] = (uint8_t)(r >> 24);
    }
    for (size_t i = 0; i < bytes; i += info->block_bytes) {
        const uint16_t half = 0x2000;
        if (type == DTYPE_F32 || type == DTYPE_BF16) rows[i + info->block_bytes - 1] = 0x3c;
        uint32_t at = 0;
        if (type == DTYPE_Q6_K) at = 208;
        if (type == DTYPE_Q3_K) at = 108;
        if (type == DTYPE_Q2_K) at = 80;
        if (type == DTYPE_TQ2_0) at = 64;
        if (info->quantized) memcpy(rows + i + at, &half, 2);
        if (info->has_min) memcpy(rows + i + at + 2, &half, 2);
    }
    return rows;
}

static void weights_open(dtype type, compute c, uint32_t k, uint32_t n, double *pack_seconds) {
    uint8_t *rows = rows_random(type, n, k);
    const size_t tile_bytes = kernels->tile_bytes(type, c, k), bytes = tile_bytes * ((n + 15) / 16);
    job.n_copies = (uint32_t)(((size_t)96 << 20) / bytes) + 1;
    if (job.n_copies > COPIES_MAX) job.n_copies = COPIES_MAX;
    for (uint32_t i = 0; i < job.n_copies; i++) {
        job.w[i] = (cpu_weight){
            .type = type, .compute = c, .n = n, .k = k, .n_tiles = (n + 15) / 16, .tile_bytes = tile_bytes};
        job.w[i].data = base_alloc_aligned(bytes);
        const double start = now();
        kernels->weight_pack(&job.w[i], 0, n, rows);
        *pack_seconds += now() - start;
    }
    base_free(rows);
}

static void weights_close(void) {
    for (uint32_t i = 0; i < job.n_copies; i++) base_free(job.w[i].data);
}

static void measure(dtype type, compute c, uint32_t k, uint32_t n, uint32_t threads_only) {
    static const uint32_t tokens[] = {1, 2, 3, 4, 5, 6, 8, 12, 16, 32, 64, 512};
    double pack = 0;
    weights_open(type, c, k, n, &pack);
    const double bytes = (double)job.w[0].tile_bytes * job.w[0].n_tiles, macs = (double)k * n;
    const char *name = dtype_find((uint32_t)type)->name;
    printf("%-5s%s %5ux%-6u pack %.2f GB/s of file, one thread\n", name, c == COMPUTE_Q12 ? " q12" : "", k, n,
           (double)(n * dtype_row_bytes(type, k)) * job.n_copies / pack / 1e9);
    for (uint32_t n_threads = 1; n_threads <= THREADS_MAX; n_threads++) {
        if (threads_only && threads_only != n_threads) continue;
        printf("  %u thread%s  ", n_threads, n_threads > 1 ? "s" : " ");
        for (uint32_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
            job.act = (cpu_act){.compute = c, .k = k, .n_tokens = tokens[i]};
            job.act.data = base_alloc_aligned(kernels->act_bytes(c, k, tokens[i]));
            job.n_used = 1 + (uint32_t)(5e7 / (macs * tokens[i]));
            const double rounds = 5e9 / (macs * tokens[i] * job.n_used);
            job.n_rounds = rounds > 100 ? 100 : rounds < 5 ? 5 : (uint32_t)rounds;
            const double s = seconds(n_threads) / job.n_used;
            printf(" %u: %.0f", tokens[i], macs * tokens[i] / s / 1e9);
            if (tokens[i] <= 4) printf(" (%.1f GB/s)", bytes / s / 1e9);
            fflush(stdout);
            base_free(job.act.data);
        }
        printf("\n");
    }
    weights_close();
}

static const cpu_kernels *set_find(const char *isa) {
    uint32_t n;
    const cpu_kernels *const *all = cpu_kernels_all(&n);
    for (uint32_t i = 0; i < n; i++)
        if (strcmp(all[i]->isa, isa) == 0 && all[i]->supported()) return all[i];
    fprintf(stderr, "no set %s on this machine\n", isa);
    exit(2);
}

int main(int argc, char **argv) {
    static const struct {
        dtype type;
        compute c;
    } types[] = {
        {DTYPE_Q4_0, COMPUTE_Q8},   {DTYPE_Q4_1, COMPUTE_Q8},   {DTYPE_Q5_0, COMPUTE_Q8},   {DTYPE_Q8_0, COMPUTE_Q8},
        {DTYPE_Q4_K, COMPUTE_Q8},   {DTYPE_Q6_K, COMPUTE_Q8},   {DTYPE_BF16, COMPUTE_BF16}, {DTYPE_F32, COMPUTE_F32},
        {DTYPE_Q5_1, COMPUTE_Q8},   {DTYPE_Q2_K, COMPUTE_Q8},   {DTYPE_Q3_K, COMPUTE_Q8},   {DTYPE_Q5_K, COMPUTE_Q8},
        {DTYPE_IQ4_NL, COMPUTE_Q8}, {DTYPE_IQ4_XS, COMPUTE_Q8}, {DTYPE_MXFP4, COMPUTE_Q8},  {DTYPE_IQ3_S, COMPUTE_Q8},
        {DTYPE_IQ2_XS, COMPUTE_Q8}, {DTYPE_IQ1_S, COMPUTE_Q8},  {DTYPE_TQ2_0, COMPUTE_Q8},  {DTYPE_Q8_0, COMPUTE_Q12},
    };
    static const uint32_t shapes[][2] = {{576, 1536}, {576, 49152}, {640, 2048}, {2048, 640}, {2048, 8192}};
    const cpu_kernels *set = set_find(argc > 1 ? argv[1] : "scalar");
    const char *only = argc > 2 ? argv[2] : "all";
    const uint32_t threads_only = argc > 3 ? (uint32_t)atoi(argv[3]) : 0;
    job.x = base_alloc_aligned(sizeof(float) * TOKENS_MAX * 8192);
    job.y = base_alloc_aligned(sizeof(float) * TOKENS_MAX * 49152);
    uint32_t r = 1;
    for (size_t i = 0; i < (size_t)TOKENS_MAX * 8192; i++) {
        r = r * 1664525u + 1013904223u;
        job.x[i] = (float)((int32_t)r) * 0x1p-31f;
    }
    for (uint32_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        const dtype_info *info = dtype_find((uint32_t)types[i].type);
        if (strcmp(only, "all") != 0 && strcmp(only, info->name) != 0) continue;
        for (uint32_t j = 0; j < sizeof shapes / sizeof shapes[0]; j++) {
            const uint32_t k = shapes[j][0], n = shapes[j][1];
            if (k % info->block_elems != 0) continue;
            if (argc > 5 && ((uint32_t)atoi(argv[4]) != k || (uint32_t)atoi(argv[5]) != n)) continue;
            kernels = cpu_kernels_matmul(set, types[i].c);
            measure(types[i].type, types[i].c, k, n, threads_only);
        }
    }
    return 0;
}
