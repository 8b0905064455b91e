/* base/json.h - JSON from outside as a jansson tree: strict, duplicate keys refused, nesting bounded (2,048, by jansson). */
#ifndef BASE_JSON_H
#define BASE_JSON_H

#include "fl_err.h"

#include <jansson.h>
#include <stddef.h>

/* The object in n bytes; name ("config.json") begins the error's text. flags: jansson's (JSON_ALLOW_NUL), or 0.
 * The caller owns *out: json_decref(). Errors: FL_EFORMAT, FL_ENOMEM. */
FL_CHECKED fl_status base_json_read(json_t **out, const void *data, size_t n, const char *name, size_t flags,
                                    fl_err *err);

/* What a value is, for errors: "\"text\"", "3", "a list of 4". */
const char *base_json_describe(const json_t *v, char out[80]);

#endif
