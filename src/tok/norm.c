/* Normal forms of Unicode (UAX #15) over utf8proc's tables. Two loops are ours: characters are
 * decomposed one by one, and the marks behind a starter are put in order by a stable merge sort,
 * so that a megabyte of marks takes n log n and not n squared steps, and all memory is counted.
 * Text whose characters all lie below U+0300 is in both composed forms or (NFD, NFKD, ASCII only)
 * in all forms, and is copied.
 */
#include "tok/tok_int.h"

#include "base/mem.h"
#include "tok/utf8.h"

#include <string.h>
#include <utf8proc.h>

typedef struct {
    int32_t *at;
    size_t n, cap;
} chars;

static bool reserve(chars *c, size_t more) {
    if (c->n + more <= c->cap) return true;
    size_t cap = c->cap ? c->cap : 256;
    while (cap < c->n + more) cap *= 2; /* text is at most TOK_TEXT_MAX bytes, a character at most 18 others */
    int32_t *at = base_realloc(c->at, cap * sizeof *at);
    if (!at) return false;
    c->at = at;
    c->cap = cap;
    return true;
}

static bool decompose(chars *c, const char *text, size_t n, int options) {
    int boundary = 0;
    for (size_t i = 0; i < n;) {
        int len;
        int32_t cp = (int32_t)tok_utf8_get((const uint8_t *)text + i, &len);
        i += (size_t)len;
        if (!reserve(c, 32)) return false;
        c->n += (size_t)utf8proc_decompose_char(cp, c->at + c->n, 32, (utf8proc_option_t)options, &boundary);
    }
    return true;
}

static int class_of(int32_t cp) { return cp < 0x300 ? 0 : utf8proc_get_property(cp)->combining_class; }

/* Sorts at[n] by combining class, stable; spare has room for n. */
static void sort_marks(int32_t *at, int32_t *spare, size_t n) {
    int32_t *from = at, *to = spare;
    for (size_t width = 1; width < n; width *= 2) {
        for (size_t lo = 0; lo < n; lo += 2 * width) {
            size_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n;
            size_t i = lo, j = mid, k = lo;
            while (i < mid && j < hi) to[k++] = class_of(from[i]) <= class_of(from[j]) ? from[i++] : from[j++];
            while (i < mid) to[k++] = from[i++];
            while (j < hi) to[k++] = from[j++];
        }
        int32_t *swap = from;
        from = to;
        to = swap;
    }
    if (from != at) memcpy(at, from, n * sizeof *at);
}

static bool order_marks(chars *c) {
    int32_t *spare = NULL;
    size_t spare_cap = 0;
    for (size_t i = 0; i < c->n;) {
        size_t begin = i;
        bool sorted = true;
        int last = 0;
        for (int k; i < c->n && (k = class_of(c->at[i])) != 0; i++) {
            sorted = sorted && last <= k;
            last = k;
        }
        if (!sorted) {
            if (i - begin > spare_cap) {
                base_free(spare);
                spare_cap = i - begin;
                spare = base_malloc(spare_cap * sizeof *spare);
                if (!spare) return false;
            }
            sort_marks(c->at + begin, spare, i - begin);
        }
        if (i == begin) i++;
    }
    base_free(spare);
    return true;
}

/* Whether the text is in the form already, by looking at single bytes. */
static bool is_simple(const char *text, size_t n, tok_form form) {
    /* U+0300 is 0xcc 0x80; below it NFC knows no change. The other forms change some characters from U+00A0 on. */
    uint8_t limit = form == TOK_FORM_NFC ? 0xcc : 0x80;
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)text[i] >= limit) return false;
    return true;
}

bool tok_normalize(tok_form form, const char *text, size_t n, base_buf *out) {
    if (is_simple(text, n, form)) return base_buf_append(out, text, n);
    bool composed = form == TOK_FORM_NFC || form == TOK_FORM_NFKC,
         compat = form == TOK_FORM_NFKC || form == TOK_FORM_NFKD;
    int options = UTF8PROC_STABLE | (composed ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) | (compat ? UTF8PROC_COMPAT : 0);
    chars c = {0};
    bool ok = decompose(&c, text, n, options) && order_marks(&c);
    if (ok && composed) c.n = (size_t)utf8proc_normalize_utf32(c.at, (utf8proc_ssize_t)c.n, (utf8proc_option_t)options);
    ok = ok && base_buf_reserve(out, 4 * c.n);
    for (size_t i = 0; ok && i < c.n; i++)
        out->len += (size_t)tok_utf8_put((uint8_t *)out->data + out->len, (uint32_t)c.at[i]);
    base_free(c.at);
    return ok;
}
