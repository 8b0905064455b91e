#include "base/buf.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool base_buf_reserve(base_buf *b, size_t more) {
    size_t need;
    if (b->failed) return false;
    if (__builtin_add_overflow(b->len, more, &need) || need == SIZE_MAX) goto no_memory;
    if (b->data && need <= b->cap) return true;
    size_t cap = b->cap < 64 ? 64 : b->cap;
    while (cap < need)
        if (__builtin_mul_overflow(cap, (size_t)2, &cap)) goto no_memory;
    char *data = base_realloc(b->data, cap + 1);
    if (!data) goto no_memory;
    b->data = data;
    b->cap = cap;
    b->data[b->len] = '\0';
    return true;

no_memory:
    b->failed = true;
    return false;
}

bool base_buf_append(base_buf *b, const void *bytes, size_t n) {
    if (!base_buf_reserve(b, n)) return false;
    if (n) memcpy(b->data + b->len, bytes, n);
    b->len += n;
    b->data[b->len] = '\0';
    return true;
}

bool base_buf_puts(base_buf *b, const char *s) { return base_buf_append(b, s, strlen(s)); }

bool base_buf_putc(base_buf *b, char c) { return base_buf_append(b, &c, 1); }

bool base_buf_printf(base_buf *b, const char *fmt, ...) {
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0 || !base_buf_reserve(b, (size_t)n)) return false;
    va_start(ap, fmt);
    vsnprintf(b->data + b->len, (size_t)n + 1, fmt, ap);
    va_end(ap);
    b->len += (size_t)n;
    return true;
}

char *base_buf_take(base_buf *b) {
    if (!base_buf_reserve(b, 0)) return NULL;
    char *data = b->data;
    *b = (base_buf){0};
    return data;
}

void base_buf_clear(base_buf *b) {
    base_free(b->data);
    *b = (base_buf){0};
}
