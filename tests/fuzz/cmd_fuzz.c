/* Any bytes as what the command line reads: numbers, settings, lists of ids, hexadecimal; and as what it writes: JSON text
 * reads back, UTF-8 unchanged, and nothing that is shown on a terminal controls it. */
#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/input.h"
#include "cmd/json.h"
#include "cmd/out.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_json(const char *text, size_t n) {
    base_buf b = {0};
    cmd_json_open(&b, '[');
    cmd_json_text(&b, text, n);
    cmd_json_close(&b, ']');
    json_t *v = json_loadb(b.data, b.len, JSON_ALLOW_NUL, NULL), *s = json_array_get(v, 0);
    if (!json_is_string(s)) abort();
    if (cmd_json_is_utf8(text, n, NULL) && (json_string_length(s) != n || memcmp(json_string_value(s), text, n) != 0))
        abort();
    json_decref(v);
    base_buf_clear(&b);
}

static void check_shown(const char *text, size_t n) {
    base_buf b = {0};
    cmd_out_escape(&b, text, n);
    for (size_t i = 0; i < b.len; i++) {
        unsigned char c = (unsigned char)b.data[i], before = i ? (unsigned char)b.data[i - 1] : 0;
        if ((c < 0x20 && c != '\n' && c != '\t') || c == 0x7f) abort();
        if (before == 0xc2 && c >= 0x80 && c <= 0x9f) abort();
    }
    base_buf_clear(&b);
}

static void check_options(char *text) {
    static const cmd_command run = {
        .name = "run", .bit = CMD_RUN, .arguments = "MODEL [PROMPT]", .n_args_min = 1, .n_args_max = 2};
    enum { ARGS_MAX = 8 };
    char *argv[ARGS_MAX];
    int argc = 0;
    cmd_options o;
    fl_err err;
    for (char *s = text; argc < ARGS_MAX; s++) { /* arguments end in newlines */
        argv[argc++] = s;
        s = strchr(s, '\n');
        if (!s) break;
        *s = '\0';
    }
    if (cmd_options_parse(&o, &run, argc, argv, &err) == FL_OK && argc > 1)
        (void)!cmd_options_change(&o, argv[0], argv[1], &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    base_buf b = {0};
    base_buf_append(&b, data, size);
    check_json(b.data, size);
    check_shown(b.data, size);
    double number;
    (void)cmd_options_number(b.data, &number);
    uint32_t *ids;
    size_t n;
    if (cmd_input_ids(b.data, &ids, &n, NULL) == FL_OK) base_free(ids);
    check_options(b.data);
    base_buf_clear(&b);
    base_buf_append(&b, data, size);
    (void)!cmd_input_unhex(&b, NULL);
    base_buf_clear(&b);
    return 0;
}
