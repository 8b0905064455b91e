/* SentencePiece's compiled normalisation rules: u32 size of the trie, a Darts double array, then the
 * replacements, each ended by NUL. The blob is file content: every step of the trie and every offset is checked, and
 * text stays valid UTF-8 whatever the rules.
 * Source: google/sentencepiece, src/normalizer.cc; huggingface/tokenizers, normalizers/precompiled.rs.
 */
#include "tok/pipe.h"

#include "base/mem.h"
#include "tok/utf8.h"

#include <string.h>
#include <utf8proc.h>

enum { CLUSTER_BYTES = 6 };

void tok_charsmap_close(tok_charsmap *m) {
    if (!m) return;
    base_free(m->units);
    base_free(m->texts);
    base_free(m);
}

fl_status tok_charsmap_open(tok_charsmap **out, const char *blob, size_t n, fl_err *err) {
    *out = NULL;
    uint32_t bytes = 0;
    if (n >= 4) memcpy(&bytes, blob, 4); /* little-endian, as this machine */
    if (n < 4 || bytes % 4 || bytes < 4 || bytes > n - 4)
        return fl_fail(err, FL_EFORMAT, "precompiled_charsmap: a trie of %u bytes in %zu bytes", bytes, n);
    tok_charsmap *m = base_calloc(1, sizeof *m);
    if (!m) return fl_fail(err, FL_ENOMEM, "precompiled_charsmap");
    m->n_units = bytes / 4;
    m->n_texts = n - 4 - bytes;
    m->units = base_malloc(bytes);
    m->texts = base_malloc(m->n_texts + 1);
    if (!m->units || !m->texts) {
        tok_charsmap_close(m);
        return fl_fail(err, FL_ENOMEM, "precompiled_charsmap");
    }
    memcpy(m->units, blob + 4, bytes);
    if (m->n_texts) memcpy(m->texts, blob + 4 + bytes, m->n_texts);
    m->texts[m->n_texts] = '\0';
    if (tok_utf8_check(m->texts, m->n_texts) < m->n_texts) {
        tok_charsmap_close(m);
        return fl_fail(err, FL_EFORMAT, "precompiled_charsmap: a replacement is not valid UTF-8");
    }
    *out = m;
    return FL_OK;
}

static uint32_t offset_of(uint32_t unit) { return (unit >> 10) << ((unit & 1u << 9) >> 6); }

static bool is_tail(char c) { return ((uint8_t)c & 0xc0) == 0x80; }

bool tok_charsmap_find(const tok_charsmap *m, const char *text, size_t n, bool longest, size_t *len, tok_text *to) {
    bool found = false;
    uint32_t at = offset_of(m->units[0]);
    for (size_t i = 0; i < n && text[i]; i++) {
        at ^= (uint8_t)text[i];
        if (at >= m->n_units) break;
        uint32_t unit = m->units[at];
        if ((unit & (1u << 31 | 0xff)) != (uint8_t)text[i]) break;
        at ^= offset_of(unit);
        if (at >= m->n_units) break;
        if (!(unit >> 8 & 1)) continue;
        uint32_t value = m->units[at] & 0x7fffffff;
        if (value > m->n_texts) break;
        /* Neither half a character is replaced, nor by half a character. */
        if ((i + 1 < n && is_tail(text[i + 1])) || is_tail(m->texts[value])) continue;
        *to = (tok_text){m->texts + value, strlen(m->texts + value)};
        *len = i + 1;
        found = true;
        if (!longest) break;
    }
    return found;
}

/* Length of the grapheme cluster at text. */
static size_t cluster(const char *text, size_t n) {
    int len, state = 0;
    int32_t a = (int32_t)tok_utf8_get((const uint8_t *)text, &len);
    size_t i = (size_t)len;
    while (i < n) {
        int32_t b = (int32_t)tok_utf8_get((const uint8_t *)text + i, &len);
        if (utf8proc_grapheme_break_stateful(a, b, &state)) break;
        i += (size_t)len;
        a = b;
    }
    return i;
}

bool tok_charsmap_clusters(const tok_charsmap *m, const char *text, size_t n, base_buf *out) {
    for (size_t i = 0; i < n;) {
        size_t whole = cluster(text + i, n - i), key;
        tok_text to;
        if (whole < CLUSTER_BYTES && tok_charsmap_find(m, text + i, whole, false, &key, &to)) {
            if (!base_buf_append(out, to.bytes, to.n) || out->len > TOK_TEXT_MAX) return false;
            i += whole;
            continue;
        }
        for (size_t end = i + whole; i < end;) {
            size_t len = (size_t)tok_utf8_char((const uint8_t *)text + i, n - i);
            if (!tok_charsmap_find(m, text + i, len, false, &key, &to)) to = (tok_text){text + i, len};
            if (!base_buf_append(out, to.bytes, to.n) || out->len > TOK_TEXT_MAX) return false;
            i += len;
        }
    }
    return true;
}
