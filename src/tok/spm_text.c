/* What SentencePiece does to text before it is cut: the compiled replacements (charsmap.c), blanks dropped at the ends and
 * in runs (remove_extra_whitespaces), one blank in front or behind (add_dummy_prefix, treat_whitespace_as_suffix), and
 * blanks written as U+2581, which here is the other way round (spm.c). User-defined pieces are copied as they are.
 *
 * The rules look at one unit after the other: a user-defined piece, what the longest rule gives, or a character. Their
 * corners are kept: blanks that rules make count as blanks, a U+2581 of the text itself only at the end of the text.
 * Source: google/sentencepiece, src/normalizer.cc.
 */
#include "tok/tok_int.h"

#include "tok/pipe.h"
#include "tok/utf8.h"

#include <string.h>

#define SIGN "\xe2\x96\x81"

/* The unit at text and what it becomes. */
static tok_text next_unit(const tok *t, const char *text, size_t n, size_t *len) {
    tok_text to;
    if (tok_match_at(&t->user_spelled, text, n, len) != TOK_NONE) return (tok_text){text, *len};
    if (t->charsmap && tok_charsmap_find(t->charsmap, text, n, true, len, &to)) return to;
    *len = (size_t)tok_utf8_char((const uint8_t *)text, n);
    return (tok_text){text, *len};
}

static bool put_unit(const tok *t, tok_text x, base_buf *out) {
    if (t->literal_blanks || !memmem(x.bytes, x.n, SIGN, 3)) return base_buf_append(out, x.bytes, x.n);
    if (!base_buf_reserve(out, x.n)) return false;
    out->len += tok_spm_blanks(x.bytes, x.n, out->data + out->len);
    return true;
}

/* Text without rules. */
static bool put_plain(const tok *t, const char *text, size_t n, base_buf *out) {
    if (!base_buf_reserve(out, n + 2)) return false;
    if (t->add_space_prefix && !t->blank_behind) out->data[out->len++] = ' ';
    if (t->literal_blanks) {
        memcpy(out->data + out->len, text, n);
        out->len += n;
    } else {
        out->len += tok_spm_blanks(text, n, out->data + out->len);
    }
    if (t->add_space_prefix && t->blank_behind) out->data[out->len++] = ' ';
    return true;
}

bool tok_spm_text(const tok *t, const char *text, size_t n, base_buf *out) {
    size_t at = 0, len;
    out->len = 0;
    if (!t->charsmap && !t->squeeze_blanks) return put_plain(t, text, n, out);
    for (; t->squeeze_blanks && at < n; at += len) {
        tok_text x = next_unit(t, text + at, n - at, &len);
        if (x.n != 1 || x.bytes[0] != ' ') break;
    }
    if (at == n) return base_buf_puts(out, "");
    bool was_blank = t->squeeze_blanks;
    if (t->add_space_prefix && !t->blank_behind && !base_buf_putc(out, ' ')) return false;
    for (; at < n; at += len) {
        tok_text x = next_unit(t, text + at, n - at, &len);
        for (; was_blank && x.n && x.bytes[0] == ' '; x.n--) x.bytes++;
        if (!x.n) continue;
        if (!put_unit(t, x, out) || out->len > TOK_TEXT_MAX) return false;
        was_blank = t->squeeze_blanks && x.bytes[x.n - 1] == ' ';
    }
    while (t->squeeze_blanks && out->len && out->data[out->len - 1] == ' ') out->len--;
    return !t->add_space_prefix || !t->blank_behind || base_buf_putc(out, ' ');
}
