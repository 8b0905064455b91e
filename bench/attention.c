/* bench/attention.c - speed of the attention kernels on one core: tiles of prefill and of decode.
 *
 *     make build/libflambeau.a
 *     gcc -O2 -D_GNU_SOURCE -Iinclude -Isrc -o build/bench-attention bench/attention.c build/libflambeau.a -lm -lpthread
 *     build/bench-attention [isa...]
 *
 * A line per shape: rows of the tile, head width, keys, and GMAC/s (2 * d multiply-adds per row and key). The cache
 * holds one sequence; decode with many keys therefore reads K and V from L2, L3 or memory.
 * The roof of the AVX2 set is two eight-lane fma a cycle: 16 GMAC/s per GHz.
 */
#include "base/mem.h"
#include "dev/cpu/kernels.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <xmmintrin.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The best of many short runs, by processor time: calls per second. */
static double rate(const cpu_attn_kernels *kernels, cpu_attn *a, void *scratch) {
    double best = 0;
    for (int i = 0; i < 20; i++) {
        double begin = now(), end;
        uint64_t calls = 0;
        do {
            kernels->attn(a, scratch);
            calls++;
            end = now();
        } while (end - begin < 0.002);
        best = fmax(best, (double)calls / (end - begin));
    }
    return best;
}

static void bench(const cpu_kernels *set, uint32_t rows, uint32_t d, uint32_t context, bool f32) {
    const cpu_attn_kernels *kernels = set->attn;
    uint32_t n_pages = (context + CPU_PAGE_TOKENS - 1) / CPU_PAGE_TOKENS;
    size_t page_bytes = kernels->kv_bytes(d, d, f32);
    uint8_t *pool = base_alloc_aligned(n_pages * page_bytes);
    void *scratch = base_alloc_aligned(kernels->attn_scratch(d, d));
    uint32_t *pages = base_calloc(n_pages, sizeof *pages);
    float *x = base_calloc((size_t)(2 * CPU_ATTN_ROWS + 2) * d, sizeof *x);
    if (!pool || !scratch || !pages || !x) return;
    for (uint32_t i = 0; i < (2 * CPU_ATTN_ROWS + 2) * d; i++) x[i] = (float)(i * 2654435761u >> 8) * 0x1p-23f - 1.0f;
    for (uint32_t i = 0; i < n_pages; i++) pages[i] = (i * 7 + 3) % n_pages;
    if (n_pages % 7 == 0)
        for (uint32_t i = 0; i < n_pages; i++) pages[i] = i;
    for (uint32_t i = 0; i < context; i++)
        kernels->kv_write(pool + pages[i / CPU_PAGE_TOKENS] * page_bytes, i % CPU_PAGE_TOKENS, x + i % d, x + d + i % d,
                          d, d, f32);
    cpu_attn a = {.n_rows = rows,
                  .d_k = d,
                  .d_v = d,
                  .f32 = f32,
                  .scale = 1.0f / sqrtf((float)d),
                  .pool = pool,
                  .pages = pages,
                  .page_bytes = page_bytes};
    for (uint32_t r = 0; r < rows; r++) {
        a.q[r] = x + (size_t)r * d;
        a.out[r] = x + (size_t)(CPU_ATTN_ROWS + 2 + r) * d;
        a.last[r] = context - 1 - (rows > 4 ? (rows - 1 - r) / 3 : 0); /* prefill: three heads a token */
    }
    double gmac = rate(kernels, &a, scratch) * 2.0 * rows * d * context * 1e-9;
    printf("%-10s %-4s rows %2u  d %3u  keys %6u  %7.2f GMAC/s\n", set->isa, f32 ? "f32" : "bf16", rows, d, context,
           gmac);
    base_free(x);
    base_free(pages);
    base_free(scratch);
    base_free(pool);
}

/* The sets named on the command line, shape by shape, so that a busy neighbour slows all of them; else the best one. */
static void compare(int argc, char **argv, uint32_t rows, uint32_t d, uint32_t context, bool f32) {
    uint32_t n;
    const cpu_kernels *const *all = cpu_kernels_all(&n);
    for (uint32_t i = 0; i < n; i++) {
        bool wanted = argc < 2;
        for (int j = 1; j < argc; j++) wanted = wanted || strcmp(argv[j], all[i]->isa) == 0;
        if (!wanted || !all[i]->supported()) continue;
        bench(all[i], rows, d, context, f32);
        if (argc < 2) break;
    }
}

int main(int argc, char **argv) {
    _mm_setcsr(0x9fc0); /* as the computing threads: FTZ, DAZ */
    static const uint32_t rows[] = {1, 3, 4, 8, 12, 16}, widths[] = {64, 128, 256}, contexts[] = {512, 4096, 32768};
    for (int w = 0; w < 3; w++)
        for (int c = 0; c < 3; c++)
            for (int r = 0; r < 6; r++) compare(argc, argv, rows[r], widths[w], contexts[c], false);
    for (int r = 0; r < 6; r++) compare(argc, argv, rows[r], 64, 512, true);
    return 0;
}
