#include "cmd/json.h"

#include <math.h>
#include <string.h>

/* What stands before a value: nothing after an opening bracket, a colon or at the start, a comma elsewhere. */
static void separate(base_buf *b) {
    if (b->len > 0 && !strchr("{[:,\n", b->data[b->len - 1])) base_buf_putc(b, ',');
}

void cmd_json_open(base_buf *b, char bracket) {
    separate(b);
    base_buf_putc(b, bracket);
}

void cmd_json_close(base_buf *b, char bracket) { base_buf_putc(b, bracket); }

void cmd_json_key(base_buf *b, const char *key) {
    separate(b);
    base_buf_printf(b, "\"%s\":", key);
}

/* The length of the UTF-8 character at s (n bytes left), or 0 if there is none: no overlong forms, no surrogates. */
static size_t character(const unsigned char *s, size_t n) {
    if (s[0] < 0x80) return 1;
    size_t len = s[0] >= 0xc2 && s[0] <= 0xdf ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 : s[0] >= 0xf0 && s[0] <= 0xf4 ? 4 : 0;
    unsigned char low = 0x80, high = 0xbf;
    if (s[0] == 0xe0) low = 0xa0;
    if (s[0] == 0xed) high = 0x9f;
    if (s[0] == 0xf0) low = 0x90;
    if (s[0] == 0xf4) high = 0x8f;
    if (len == 0 || len > n || s[1] < low || s[1] > high) return 0;
    for (size_t i = 2; i < len; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    return len;
}

bool cmd_json_is_utf8(const char *bytes, size_t n, size_t *at) {
    for (size_t i = 0; i < n;) {
        size_t len = character((const unsigned char *)bytes + i, n - i);
        if (len == 0) {
            if (at) *at = i;
            return false;
        }
        i += len;
    }
    return true;
}

void cmd_json_text(base_buf *b, const char *bytes, size_t n) {
    separate(b);
    base_buf_putc(b, '"');
    for (size_t i = 0; i < n;) {
        const unsigned char *s = (const unsigned char *)bytes + i;
        size_t len = character(s, n - i);
        if (len == 0)
            base_buf_puts(b, "\xef\xbf\xbd");
        else if (*s == '"' || *s == '\\')
            base_buf_printf(b, "\\%c", *s);
        else if (*s == '\n')
            base_buf_puts(b, "\\n");
        else if (*s == '\t')
            base_buf_puts(b, "\\t");
        else if (*s == '\r')
            base_buf_puts(b, "\\r");
        else if (*s < 0x20 || *s == 0x7f)
            base_buf_printf(b, "\\u%04x", *s);
        else
            base_buf_append(b, s, len);
        i += len ? len : 1;
    }
    base_buf_putc(b, '"');
}

void cmd_json_string(base_buf *b, const char *s) {
    if (s) {
        cmd_json_text(b, s, strlen(s));
    } else {
        separate(b);
        base_buf_puts(b, "null");
    }
}

void cmd_json_count(base_buf *b, uint64_t v) {
    separate(b);
    base_buf_printf(b, "%llu", (unsigned long long)v);
}

static void number(base_buf *b, char form, int digits, double v) {
    separate(b);
    if (!isfinite(v))
        base_buf_puts(b, "null");
    else if (form == 'f')
        base_buf_printf(b, "%.*f", digits, v);
    else
        base_buf_printf(b, "%.*g", digits, v);
}

void cmd_json_float(base_buf *b, float v) { number(b, 'g', 9, (double)v); }
void cmd_json_double(base_buf *b, double v) { number(b, 'g', 17, v); }
void cmd_json_ms(base_buf *b, double v) { number(b, 'f', 3, v); }

void cmd_json_bool(base_buf *b, bool v) {
    separate(b);
    base_buf_puts(b, v ? "true" : "false");
}

void cmd_json_ids(base_buf *b, const uint32_t *ids, size_t n) {
    cmd_json_open(b, '[');
    for (size_t i = 0; i < n; i++) cmd_json_count(b, ids[i]);
    cmd_json_close(b, ']');
}
