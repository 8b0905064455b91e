/* base/arena.h - memory for things that die together: a graph, a parsed template, a file's names.
 *
 * Blocks are never moved or freed one by one. An arena may have a limit in bytes,
 * for arenas filled from outside data. Memory is 16-byte aligned and zeroed.
 *
 * Memory: zero-initialise (`base_arena a = {.limit = ...}`, 0 = none), end with base_arena_clear().
 */
#ifndef BASE_ARENA_H
#define BASE_ARENA_H

#include <stddef.h>

typedef struct base_arena_chunk base_arena_chunk;

typedef struct {
    base_arena_chunk *chunks;
    size_t used;  /* bytes handed out */
    size_t limit; /* 0: none */
} base_arena;

/* NULL without memory or beyond the limit. */
void *base_arena_alloc(base_arena *a, size_t bytes);
void *base_arena_calloc(base_arena *a, size_t count, size_t size);
/* A NUL-terminated copy of n bytes. */
char *base_arena_strndup(base_arena *a, const char *s, size_t n);
void base_arena_clear(base_arena *a);

#endif
