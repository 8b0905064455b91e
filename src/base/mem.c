/* Each block carries a 64-byte or 16-byte header with its size and the pointer to
 * give back, so that freeing needs no size and the counters stay exact. Blocks of
 * MMAP_BYTES or more come from mmap: they are zero without being touched, and
 * freeing them returns the memory to the system at once. */
#include "base/mem.h"

#include "base/assert.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HEADER_BYTES = 16, ALIGN_BYTES = 64, MMAP_BYTES = 1 << 20, HUGE_BYTES = 2 << 20 };

typedef struct {
    size_t bytes;    /* asked for by the caller */
    uint32_t offset; /* from the start of the system's block to the caller's pointer */
    uint32_t mapped; /* 1: the system's block is a mapping */
} mem_header;

_Static_assert(sizeof(mem_header) == HEADER_BYTES, "the header must keep 16-byte alignment");

static atomic_uint_fast64_t n_allocs;
static atomic_size_t n_bytes;
static _Thread_local uint64_t n_allocs_here, n_refused_here;
static atomic_int_fast64_t fail_in; /* fault switch: 1 means the next allocation fails */
static atomic_int failed;

static bool must_fail(void) {
    if (atomic_load_explicit(&fail_in, memory_order_relaxed) == 0) return false;
    if (atomic_fetch_sub(&fail_in, 1) != 1) return false;
    atomic_store(&fail_in, 0);
    atomic_store(&failed, 1);
    return true;
}

static void *finish(char *block, size_t bytes, uint32_t offset, bool mapped) {
    mem_header h = {bytes, offset, mapped};
    memcpy(block + offset - HEADER_BYTES, &h, sizeof h);
    n_allocs_here++;
    atomic_fetch_add_explicit(&n_allocs, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&n_bytes, bytes, memory_order_relaxed);
    return block + offset;
}

static mem_header header_of(void *p) {
    mem_header h;
    memcpy(&h, (char *)p - HEADER_BYTES, sizeof h);
    return h;
}

void *base_malloc(size_t bytes) {
    size_t total;
    char *block = NULL;
    if (!must_fail() && !__builtin_add_overflow(bytes, (size_t)HEADER_BYTES, &total))
        block = malloc(bytes ? total : total + 1); /* a pointer into the block, not past it: leak checkers follow it */
    if (block) return finish(block, bytes, HEADER_BYTES, false);
    n_refused_here++;
    return NULL;
}

void *base_calloc(size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) return NULL;
    if (bytes >= MMAP_BYTES) return base_alloc_aligned(bytes);
    void *p = base_malloc(bytes);
    if (p) memset(p, 0, bytes);
    return p;
}

void *base_realloc(void *p, size_t bytes) {
    if (!p) return base_malloc(bytes);
    mem_header h = header_of(p);
    void *q = base_malloc(bytes);
    if (!q) return NULL;
    memcpy(q, p, h.bytes < bytes ? h.bytes : bytes);
    base_free(p);
    return q;
}

static void *alloc_mapped(size_t bytes) {
    size_t total;
    if (__builtin_add_overflow(bytes, (size_t)ALIGN_BYTES, &total)) return NULL;
    char *block = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (block == MAP_FAILED) return NULL;
    if (total >= HUGE_BYTES) (void)madvise(block, total, MADV_HUGEPAGE);
    return finish(block, bytes, ALIGN_BYTES, true);
}

void *base_alloc_aligned(size_t bytes) {
    if (must_fail()) return NULL;
    if (bytes >= MMAP_BYTES) return alloc_mapped(bytes);
    size_t rounded = (bytes + 2 * ALIGN_BYTES - 1) / ALIGN_BYTES * ALIGN_BYTES + ALIGN_BYTES;
    char *block = aligned_alloc(ALIGN_BYTES, rounded);
    if (!block) return NULL;
    memset(block, 0, rounded);
    return finish(block, bytes, ALIGN_BYTES, false);
}

void base_free(void *p) {
    if (!p) return;
    mem_header h = header_of(p);
    char *block = (char *)p - h.offset;
    atomic_fetch_sub_explicit(&n_bytes, h.bytes, memory_order_relaxed);
    if (h.mapped)
        fl_assert(munmap(block, h.bytes + ALIGN_BYTES) == 0);
    else
        free(block);
}

char *base_strndup(const char *s, size_t n) {
    char *p = base_malloc(n + 1);
    if (!p) return NULL;
    memcpy(p, s, n);
    p[n] = '\0';
    return p;
}

char *base_strdup(const char *s) { return base_strndup(s, strlen(s)); }

uint64_t base_mem_refused_here(void) { return n_refused_here; }
uint64_t base_mem_count_here(void) { return n_allocs_here; }
uint64_t base_mem_count(void) { return atomic_load(&n_allocs); }
size_t base_mem_bytes(void) { return atomic_load(&n_bytes); }

void base_mem_fail_at(uint64_t n) {
    atomic_store(&failed, 0);
    atomic_store(&fail_in, (int_fast64_t)n);
}

int base_mem_failed(void) { return atomic_load(&failed); }
