/* Patterns of tokenizer files are written for Oniguruma with Ruby's syntax; we run PCRE2. The two agree on most of what
 * tokenizers use; this rewrites the rest, in one pass over the pattern:
 *   \s \w \h and their opposites    classes spelled out (PCRE2's \s has U+180E; its \w other marks)
 *   \p{Han} and other scripts       \p{sc:Han}: PCRE2 would take script extensions
 *   ^ $                             match at line ends
 *   (?m...)                         Ruby's m is PCRE2's s
 *   \uHHHH                          \x{HHHH}
 * Refused by name: && and classes inside classes, {n,m}+ (no possessive quantifier in Ruby).
 */
#include "tok/pipe.h"

#include <string.h>

#define WORD                                                                                                           \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{"    \
    "1F189}"

enum { PATTERN_MAX = 65536 };

typedef struct {
    const char *s;
    size_t n, at;
    bool in_class;
    base_buf *out;
} reader;

static bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

static bool put_class(reader *r, bool negated, const char *inside) {
    if (r->in_class && !negated) return base_buf_puts(r->out, inside);
    return base_buf_puts(r->out, negated ? "[^" : "[") && base_buf_puts(r->out, inside) && base_buf_putc(r->out, ']');
}

/* \p{Name}: names longer than a category's are scripts. */
static bool put_property(reader *r) {
    const char *begin = r->s + r->at + 3, *close = memchr(begin, '}', r->n - r->at - 3);
    if (!close) return base_buf_append(r->out, r->s + r->at, 3) && (r->at += 3, true);
    size_t n = (size_t)(close - begin), caret = n && *begin == '^';
    if (!base_buf_append(r->out, r->s + r->at, 3) || !base_buf_append(r->out, begin, caret)) return false;
    if (n - caret > 2 && !memchr(begin, ':', n) && !base_buf_puts(r->out, "sc:")) return false;
    r->at += 3 + n + 1;
    return base_buf_append(r->out, begin + caret, n - caret + 1);
}

static bool put_escape(reader *r) {
    char c = r->at + 1 < r->n ? r->s[r->at + 1] : '\0';
    bool known = true, ok = true;
    /* The opposites cannot be spelled inside a class: there PCRE2's own stand, which differ in rare characters. */
    if (c == 's' || (c == 'S' && !r->in_class))
        ok = put_class(r, c == 'S', TOK_WHITE);
    else if (c == 'w' || (c == 'W' && !r->in_class))
        ok = put_class(r, c == 'W', WORD);
    else if (c == 'h' || (c == 'H' && !r->in_class))
        ok = put_class(r, c == 'H', "0-9a-fA-F");
    else
        known = false;
    if (known) {
        r->at += 2;
        return ok;
    }
    if ((c == 'p' || c == 'P') && r->at + 2 < r->n && r->s[r->at + 2] == '{') return put_property(r);
    const char *d = r->s + r->at + 2;
    if (c == 'u' && r->n - r->at >= 6 && is_hex(d[0]) && is_hex(d[1]) && is_hex(d[2]) && is_hex(d[3])) {
        r->at += 6;
        return base_buf_puts(r->out, "\\x{") && base_buf_append(r->out, d, 4) && base_buf_putc(r->out, '}');
    }
    size_t n = c ? 2 : 1;
    const char *close = c == 'x' && r->n - r->at > 2 && d[0] == '{' ? memchr(d, '}', r->n - r->at - 2) : NULL;
    if (close) n = (size_t)(close - r->s) - r->at + 1;
    ok = base_buf_append(r->out, r->s + r->at, n);
    r->at += n;
    return ok;
}

/* The flags of (?imx-imx: or ). */
static bool put_group(reader *r) {
    size_t i = r->at + 2;
    while (i < r->n && r->s[i] && strchr("imx-", r->s[i])) i++;
    bool flags = i > r->at + 2 && i < r->n && (r->s[i] == ':' || r->s[i] == ')');
    if (!base_buf_puts(r->out, "(?")) return false;
    r->at += 2;
    for (; flags && r->at < i; r->at++)
        if (!base_buf_putc(r->out, r->s[r->at] == 'm' ? 's' : r->s[r->at])) return false;
    return true;
}

fl_status tok_onig_translate(const char *pattern, size_t n, base_buf *out, fl_err *err) {
    if (n > PATTERN_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "a pattern of %zu bytes; at most %d are possible", n, PATTERN_MAX);
    if (memchr(pattern, '\0', n)) return fl_fail(err, FL_EUNSUPPORTED, "a pattern with a NUL");
    reader r = {.s = pattern, .n = n, .out = out};
    bool ok = base_buf_puts(out, ""), interval = false;
    size_t class_begin = 0;
    while (ok && r.at < n) {
        char c = pattern[r.at], next = r.at + 1 < n ? pattern[r.at + 1] : '\0';
        if (interval && c == '+') return fl_fail(err, FL_EUNSUPPORTED, "a pattern with {n,m}+ at byte %zu", r.at);
        interval = !r.in_class && c == '}' && r.at && out->len && pattern[r.at - 1] >= '0' && pattern[r.at - 1] <= '9';
        if (c == '\\') {
            ok = put_escape(&r);
            continue;
        }
        if (r.in_class) {
            if (c == '&' && next == '&')
                return fl_fail(err, FL_EUNSUPPORTED, "a pattern with && in a class at byte %zu", r.at);
            if (c == '[' && next != ':')
                return fl_fail(err, FL_EUNSUPPORTED, "a pattern with a class in a class at byte %zu", r.at);
            const char *posix = c == '[' ? memmem(pattern + r.at, n - r.at, ":]", 2) : NULL;
            size_t len = posix ? (size_t)(posix - pattern) - r.at + 2 : 1;
            if (c == ']' && r.at > class_begin) r.in_class = false;
            ok = base_buf_append(out, pattern + r.at, len);
            r.at += len;
            continue;
        }
        if (c == '(' && next == '?') {
            ok = put_group(&r);
            continue;
        }
        if (c == '[') {
            r.in_class = true;
            class_begin = r.at + 1 + (next == '^');
        }
        ok = c == '^' ? base_buf_puts(out, "(?m:^)") : c == '$' ? base_buf_puts(out, "(?m:$)") : base_buf_putc(out, c);
        r.at++;
        if (r.in_class && next == '^' && ok) {
            ok = base_buf_putc(out, '^');
            r.at++;
        }
    }
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "a pattern");
}
