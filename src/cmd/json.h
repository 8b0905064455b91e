/* cmd/json.h - writes JSON into a base_buf, with commas and escapes in the right places.
 *
 *     cmd_json_open(b, '{');  cmd_json_key(b, "ids");  cmd_json_ids(b, ids, n);  cmd_json_close(b, '}');
 *
 * A comma is put before a value or key unless the buffer ends with '{', '[', ':' or ',' or is empty.
 * Failures stick to the buffer (base/buf.h): check b->failed once, at the end.
 */
#ifndef CMD_JSON_H
#define CMD_JSON_H

#include "base/buf.h"

#include <stdint.h>

/* Whether bytes are UTF-8; otherwise *at is where not (at may be NULL). */
bool cmd_json_is_utf8(const char *bytes, size_t n, size_t *at);

void cmd_json_open(base_buf *b, char bracket);                /* '{' or '[', as a value */
void cmd_json_close(base_buf *b, char bracket);               /* '}' or ']' */
void cmd_json_key(base_buf *b, const char *key);              /* key must need no escapes */
void cmd_json_text(base_buf *b, const char *bytes, size_t n); /* bytes that are no UTF-8 become U+FFFD */
void cmd_json_string(base_buf *b, const char *s);             /* NULL: null */
void cmd_json_count(base_buf *b, uint64_t v);
void cmd_json_float(base_buf *b, float v);   /* 9 digits: reads back as the same float; not finite: null */
void cmd_json_ms(base_buf *b, double v);     /* milliseconds, rates: 3 decimals */
void cmd_json_double(base_buf *b, double v); /* 17 digits */
void cmd_json_bool(base_buf *b, bool v);
void cmd_json_ids(base_buf *b, const uint32_t *ids, size_t n); /* a list */

#endif
