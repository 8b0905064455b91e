#include "cmd/input.h"

#include "base/mem.h"

#include <errno.h>
#include <string.h>

fl_status cmd_input_read(const char *path, base_buf *b, fl_err *err) {
    bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? "stdin" : path;
    FILE *f = is_stdin ? stdin : fopen(path, "rb");
    if (!f) return fl_fail(err, FL_EIO, "cannot open %s: %s", name, strerror(errno));
    char block[65536];
    size_t n = 0;
    fl_status st = FL_OK;
    do {
        errno = 0;
        n = fread(block, 1, sizeof block, f);
        if (b->len + n > CMD_INPUT_BYTES_MAX)
            st = fl_fail(err, FL_EIO, "%s holds more than %d MiB", name, CMD_INPUT_BYTES_MAX >> 20);
        else if (!base_buf_append(b, block, n))
            st = fl_fail(err, FL_ENOMEM, "no memory to read %s", name);
        else if (n == 0 && ferror(f))
            st = fl_fail(err, FL_EIO, "cannot read %s: %s", name, strerror(errno));
    } while (st == FL_OK && n > 0);
    if (!is_stdin) fclose(f);
    return st;
}

static int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

fl_status cmd_input_unhex(base_buf *b, fl_err *err) {
    size_t out = 0;
    int high = -1;
    for (size_t i = 0; i < b->len; i++) {
        char c = b->data[i];
        if (c == ' ' || c == '\n' || c == '\r' || c == '\t') continue;
        int v = digit(c);
        if (v < 0)
            return fl_fail(err, FL_EINVAL, "--hex wants pairs of 0-9a-f, found another character at byte %zu", i);
        if (high >= 0) b->data[out++] = (char)(high * 16 + v);
        high = high >= 0 ? -1 : v;
    }
    if (high >= 0) return fl_fail(err, FL_EINVAL, "--hex wants pairs of 0-9a-f, found an odd number of digits");
    b->len = out;
    if (b->data) b->data[out] = '\0';
    return FL_OK;
}

void cmd_input_hex(base_buf *b, const char *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) base_buf_printf(b, "%02x", (unsigned char)bytes[i]);
}

fl_status cmd_input_ids(const char *text, uint32_t **ids, size_t *n_ids, fl_err *err) {
    *ids = base_malloc((strlen(text) / 2 + 1) * sizeof **ids); /* an id and its comma take two bytes at least */
    *n_ids = 0;
    if (!*ids) return fl_fail(err, FL_ENOMEM, "no memory for the ids");
    for (const char *s = text; *s;) {
        if (strchr(", []\n\r\t", *s)) {
            s++;
            continue;
        }
        uint64_t v = 0;
        size_t digits = strspn(s, "0123456789");
        for (size_t i = 0; i < digits && v <= UINT32_MAX; i++) v = v * 10 + (uint64_t)(s[i] - '0');
        if (digits == 0 || v > UINT32_MAX || !strchr(", []\n\r\t", s[digits])) {
            base_free(*ids);
            *ids = NULL;
            return fl_fail(err, FL_EINVAL, "wanted token ids like 1,2,3, found '%.20s'", s);
        }
        (*ids)[(*n_ids)++] = (uint32_t)v;
        s += digits;
    }
    return FL_OK;
}

bool cmd_input_line(const base_buf *b, size_t *at, const char **line, size_t *n) {
    if (*at >= b->len) return false;
    *line = b->data + *at;
    const char *end = memchr(*line, '\n', b->len - *at);
    *n = end ? (size_t)(end - *line) : b->len - *at;
    *at += *n + (end != NULL);
    return true;
}
