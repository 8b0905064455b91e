/* Texts and numbers as JSON values. */
#include "serve/serve_int.h"

#include <math.h>
#include <string.h>

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

json_t *text_json(const char *bytes, size_t n) {
    size_t good = 0;
    for (size_t len = 1; good < n && len; good += len) len = character((const unsigned char *)bytes + good, n - good);
    if (good == n) return json_stringn_nocheck(bytes, n);
    base_buf b = {0};
    for (size_t i = 0; i < n;) {
        size_t len = character((const unsigned char *)bytes + i, n - i);
        base_buf_append(&b, len ? bytes + i : "\xef\xbf\xbd", len ? len : 3);
        i += len ? len : 1;
    }
    json_t *v = b.failed ? NULL : json_stringn_nocheck(b.data, b.len);
    base_buf_clear(&b);
    return v;
}

size_t text_characters(const char *bytes, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; count++) {
        size_t len = character((const unsigned char *)bytes + i, n - i);
        i += len ? len : 1;
    }
    return count;
}

json_t *text_token(const job *j, uint32_t id) {
    size_t n = 0;
    if (j->v.tokens_as_ids) return json_sprintf("token_id:%u", id);
    const char *piece = fl_token_piece(j->s->model, id, &n);
    return text_json(piece ? piece : "", n);
}

json_t *text_bytes(const job *j, uint32_t id) {
    size_t n = 0;
    const char *piece = fl_token_piece(j->s->model, id, &n);
    json_t *list = json_array();
    for (size_t i = 0; piece && i < n; i++) json_array_append_new(list, json_integer((unsigned char)piece[i]));
    return list;
}

json_t *text_logprob(float x) { return json_real(isfinite(x) ? (double)x : -9999.0); }

static int append(const char *bytes, size_t n, void *to) { return base_buf_append(to, bytes, n) ? 0 : -1; }

/* Nine digits read back as the same float. */
bool text_dump(base_buf *b, const json_t *v) {
    return v && json_dump_callback(v, append, b, JSON_COMPACT | JSON_REAL_PRECISION(9)) == 0;
}
