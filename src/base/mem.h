/* base/mem.h - the only place that asks the system for memory.
 *
 * Every block is counted, so that a test can prove that the step loop allocates
 * nothing (base_mem_count() does not move) and that nothing leaks (base_mem_bytes()
 * returns to where it was). base_mem_fail_at(n) makes the n-th allocation from now
 * fail, for the tests that walk through every failure of an open().
 *
 * Threads: all functions may be called from any thread.
 * Memory:  every pointer returned is owned by the caller and ended by base_free().
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>
#include <stdint.h>

/* NULL when there is no memory; a size of 0 gives a valid unique pointer.
 * base_calloc checks count * size for overflow. Aligned to 16 bytes. */
void *base_malloc(size_t bytes);
void *base_calloc(size_t count, size_t size);

/* As realloc: the old block stays valid when NULL comes back. p may be NULL. */
void *base_realloc(void *p, size_t bytes);

/* Zeroed memory on a 64-byte boundary; big blocks come straight from the system
 * (page-aligned, lazily backed, huge pages advised). */
void *base_alloc_aligned(size_t bytes);

/* Accepts NULL and blocks of all functions above. */
void base_free(void *p);

/* A copy of s ending in NUL, or of the first n bytes. NULL without memory. */
char *base_strdup(const char *s);
char *base_strndup(const char *s, size_t n);

uint64_t base_mem_count(void);        /* allocations made since the process began, by all threads */
uint64_t base_mem_count_here(void);   /* by this thread */
uint64_t base_mem_refused_here(void); /* calls of base_malloc() by this thread that found no memory */
size_t base_mem_bytes(void);          /* bytes held now */

/* The n-th allocation from now fails (n >= 1), every later one works; 0 switches it off. */
void base_mem_fail_at(uint64_t n);
/* Whether the failure set above has happened. */
int base_mem_failed(void);

#endif
