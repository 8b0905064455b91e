#include "base/arena.h"

#include "base/mem.h"

#include <string.h>

enum { CHUNK_BYTES = 64 * 1024 };

struct base_arena_chunk {
    base_arena_chunk *next;
    size_t used, cap;
    _Alignas(16) char data[];
};

void *base_arena_alloc(base_arena *a, size_t bytes) {
    if (bytes > SIZE_MAX - CHUNK_BYTES) return NULL;
    bytes = (bytes + 15) & ~(size_t)15;
    if (a->limit && bytes > a->limit - a->used) return NULL;
    base_arena_chunk *c = a->chunks;
    if (!c || bytes > c->cap - c->used) {
        size_t cap = bytes > CHUNK_BYTES ? bytes : CHUNK_BYTES;
        c = base_malloc(sizeof *c + cap);
        if (!c) return NULL;
        c->next = a->chunks;
        c->used = 0;
        c->cap = cap;
        a->chunks = c;
    }
    void *p = c->data + c->used;
    c->used += bytes;
    a->used += bytes;
    memset(p, 0, bytes);
    return p;
}

void *base_arena_calloc(base_arena *a, size_t count, size_t size) {
    size_t bytes;
    return __builtin_mul_overflow(count, size, &bytes) ? NULL : base_arena_alloc(a, bytes);
}

char *base_arena_strndup(base_arena *a, const char *s, size_t n) {
    char *p = n < SIZE_MAX ? base_arena_alloc(a, n + 1) : NULL;
    if (!p) return NULL;
    if (n) memcpy(p, s, n);
    return p;
}

void base_arena_clear(base_arena *a) {
    for (base_arena_chunk *c = a->chunks; c;) {
        base_arena_chunk *next = c->next;
        base_free(c);
        c = next;
    }
    a->chunks = NULL;
    a->used = 0;
}
