/* serve/head.h - the head of an HTTP/1.1 request: request line and header fields, read strictly.
 *
 * What could be read in two ways is refused, because a proxy in front may read it the other way (request smuggling): a
 * line that does not end in CR LF, blanks before a colon, folded lines, control characters, several Content-Length or
 * Host, a Content-Length that is not digits only, any Transfer-Encoding.
 *
 * Memory: a head points into the bytes it was read from, which it cuts into strings.
 * Source: RFC 9112; the list of what servers got wrong is in docs/serving.md.
 */
#ifndef SERVE_HEAD_H
#define SERVE_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HEAD_BYTES_MAX = 16 << 10, HEAD_FIELDS_MAX = 100 };

typedef struct {
    const char *name, *value;
} head_field;

typedef struct {
    const char *method, *path; /* the path without its query */
    const char *host;
    bool keep_alive, expects_continue, has_length, is_1_0;
    uint64_t content_length;
    uint32_t n_fields;
    head_field fields[HEAD_FIELDS_MAX];
} http_head;

/* Reads the head in bytes[0..n), n <= HEAD_BYTES_MAX, that ends with its empty line. 0, or the status that refuses it with
 * *why a sentence. */
int http_head_read(http_head *h, char *bytes, size_t n, const char **why);

/* The value of a field by its lower-case name; NULL: there is none. */
const char *http_head_find(const http_head *h, const char *name);

#endif
