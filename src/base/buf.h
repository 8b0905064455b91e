/* base/buf.h - a growing byte buffer.
 *
 * Appends fail without memory and then leave the buffer as it was; a chain of
 * appends may be checked once at the end, because a failed buffer refuses all
 * further appends (failed is sticky until base_buf_clear).
 *
 * Memory: zero-initialise (`base_buf b = {0}`), end with base_buf_clear().
 */
#ifndef BASE_BUF_H
#define BASE_BUF_H

#include "fl_err.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    char *data; /* owned; followed by a NUL that len does not count; NULL while nothing was appended */
    size_t len, cap;
    bool failed; /* an append found no memory */
} base_buf;

bool base_buf_reserve(base_buf *b, size_t more); /* room for more bytes beyond len */
bool base_buf_append(base_buf *b, const void *bytes, size_t n);
bool base_buf_puts(base_buf *b, const char *s);
bool base_buf_putc(base_buf *b, char c);
bool base_buf_printf(base_buf *b, const char *fmt, ...) FL_PRINTF(2, 3);

/* Gives the bytes (never NULL, NUL-terminated) to the caller, who frees them with
 * base_free(); the buffer is empty afterwards. NULL if the buffer has failed. */
char *base_buf_take(base_buf *b);
void base_buf_clear(base_buf *b);

#endif
