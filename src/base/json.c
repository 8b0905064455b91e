#include "base/json.h"

#include "base/mem.h"

#include <stdio.h>

fl_status base_json_read(json_t **out, const void *data, size_t n, const char *name, size_t flags, fl_err *err) {
    json_error_t e = {0};
    uint64_t refused = base_mem_refused_here();
    *out = json_loadb(data, n, flags | JSON_REJECT_DUPLICATES, &e);
    /* jansson's lexer goes on where it finds no memory and leaves characters out: its word is not taken then. */
    if (base_mem_refused_here() != refused) {
        json_decref(*out);
        *out = NULL;
    } else if (json_is_object(*out))
        return FL_OK;
    if (*out) {
        json_decref(*out);
        *out = NULL;
        return fl_fail(err, FL_EFORMAT, "%s: is no JSON object", name);
    }
    if (base_mem_refused_here() != refused || e.text[0] == '\0' || json_error_code(&e) == json_error_out_of_memory)
        return fl_fail(err, FL_ENOMEM, "%s: no memory for its %zu bytes", name, n);
    return fl_fail(err, FL_EFORMAT, "%s: is no valid JSON: %.120s (line %d, column %d)", name, e.text, e.line,
                   e.column);
}

const char *base_json_describe(const json_t *v, char out[80]) {
    switch (v ? json_typeof(v) : JSON_NULL) {
        case JSON_STRING: (void)snprintf(out, 80, "\"%.60s\"", json_string_value(v)); break;
        case JSON_INTEGER: (void)snprintf(out, 80, "%lld", (long long)json_integer_value(v)); break;
        case JSON_REAL: (void)snprintf(out, 80, "%g", json_real_value(v)); break;
        case JSON_TRUE: (void)snprintf(out, 80, "true"); break;
        case JSON_FALSE: (void)snprintf(out, 80, "false"); break;
        case JSON_ARRAY: (void)snprintf(out, 80, "a list of %zu", json_array_size(v)); break;
        case JSON_OBJECT: (void)snprintf(out, 80, "an object"); break;
        default: (void)snprintf(out, 80, "nothing");
    }
    return out;
}
