/* tok/utf8.h - UTF-8 as Unicode defines it: no surrogates, no overlong forms, at most U+10FFFF. */
#ifndef TOK_UTF8_H
#define TOK_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { TOK_UTF8_INVALID = 0, TOK_UTF8_PARTIAL = -1 };

/* Length 1..4 of the character that begins at p, TOK_UTF8_PARTIAL when the n bytes are a proper prefix of
 * a character, else TOK_UTF8_INVALID. n >= 1. */
int tok_utf8_char(const uint8_t *p, size_t n);

/* Offset of the first byte that is not part of valid UTF-8; n when all is valid. */
size_t tok_utf8_check(const char *s, size_t n);

/* Code point of the valid character at p; *len gets its length. */
uint32_t tok_utf8_get(const uint8_t *p, int *len);
/* Writes 1..4 bytes of a code point up to U+10FFFF; the count. */
int tok_utf8_put(uint8_t out[4], uint32_t cp);

/* Length in code points of valid UTF-8. */
size_t tok_utf8_count(const char *s, size_t n);

#endif
