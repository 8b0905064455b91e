/* Patterns of tokenizer files are written for Oniguruma with Ruby's syntax; we run PCRE2. The two agree on most of what
 * tokenizers use; this rewrites the rest, in one pass over the pattern:
 *   \s \w \h and their opposites    classes spelled out (PCRE2's \s has U+180E; its \w other marks)
 *   \p{Han} and other scripts       \p{sc:Han}: PCRE2 would take script extensions
 *   ^ $                             match at line ends
 *   (?m...)                         Ruby's m is PCRE2's s
 *   \uHHHH                          \x{HHHH}
 *   [a[bc]]                         (?:[a]|[bc]): PCRE2 has no classes inside classes
 *   [a&&b&&c]                       (?:(?=[a])(?=[b])[c])
 *   X{n,m}+                         (?:X{n,m})+: intervals are not possessive in Ruby
 *   X{n}?                           (?:X{n})?: nor is one number lazy
 *   X{,n}                           X{0,n}
 * A class is a union of characters (flat), of patterns for one character (alts), and before it the unions that && sets
 * against it (conj, as look-aheads). Classes inside classes are kept on a stack.
 */
#include "tok/pipe.h"

#include <ctype.h>
#include <string.h>

#define WORD                                                                                                           \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{"    \
    "1F189}"

enum { PATTERN_MAX = 65536, CLASSES_MAX = 16, GROUPS_MAX = 200 };

typedef struct {
    base_buf flat, alts, conj;
    bool negated;
} class;

typedef struct {
    const char *s;
    size_t n, at;
    base_buf *out;
    class classes[CLASSES_MAX];
    uint32_t depth;            /* of classes; 0: outside */
    size_t groups[GROUPS_MAX]; /* where the open groups begin in out */
    uint32_t n_groups;
    size_t atom; /* where what a quantifier repeats begins in out */
} reader;

static bool is_hex(char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

static char char_at(const reader *r, size_t i) { return r->at + i < r->n ? r->s[r->at + i] : '\0'; }

/* Where the pattern goes on: the pattern itself, or the characters of the class at hand. */
static base_buf *to(reader *r) { return r->depth ? &r->classes[r->depth - 1].flat : r->out; }

static bool copy(reader *r, size_t n) {
    bool ok = base_buf_append(to(r), r->s + r->at, n);
    r->at += n;
    return ok;
}

/* ---- classes ---- */

static bool add_alt(class *c, const char *pattern) {
    return (!c->alts.len || base_buf_putc(&c->alts, '|')) && base_buf_puts(&c->alts, pattern);
}

/* A pattern for one character of the union. */
static bool put_union(const class *c, base_buf *b) {
    bool flat = c->flat.len, alts = c->alts.len;
    if (!flat && !alts) return base_buf_puts(b, "(?!)");
    return (!alts || base_buf_puts(b, "(?:")) &&
           (!flat || (base_buf_putc(b, '[') && base_buf_puts(b, c->flat.data) && base_buf_putc(b, ']'))) &&
           (!(flat && alts) || base_buf_putc(b, '|')) &&
           (!alts || (base_buf_puts(b, c->alts.data) && base_buf_putc(b, ')')));
}

static bool put_class(const class *c, base_buf *b) {
    if (!c->alts.len && !c->conj.len && c->flat.len)
        return base_buf_puts(b, c->negated ? "[^" : "[") && base_buf_puts(b, c->flat.data) && base_buf_putc(b, ']');
    return base_buf_puts(b, c->negated ? "(?:(?!" : "(?:") && (!c->conj.len || base_buf_puts(b, c->conj.data)) &&
           put_union(c, b) && base_buf_puts(b, c->negated ? ")(?s:.))" : ")");
}

static fl_status begin_class(reader *r, fl_err *err) {
    if (r->depth == CLASSES_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "a pattern with classes %d deep at byte %zu", CLASSES_MAX + 1, r->at);
    if (!r->depth) r->atom = r->out->len;
    class *c = &r->classes[r->depth++];
    c->flat.len = c->alts.len = c->conj.len = 0;
    r->at++;
    c->negated = char_at(r, 0) == '^';
    r->at += c->negated;
    if (char_at(r, 0) != ']') return FL_OK;
    r->at++; /* the first one is a character */
    return base_buf_puts(&c->flat, "\\]") ? FL_OK : fl_fail(err, FL_ENOMEM, "a pattern");
}

static bool end_class(reader *r) {
    class *c = &r->classes[--r->depth];
    base_buf made = {0};
    r->at++;
    bool ok = put_class(c, r->depth ? &made : r->out) && (!r->depth || add_alt(&r->classes[r->depth - 1], made.data));
    base_buf_clear(&made);
    return ok;
}

/* What stands before && becomes a look-ahead. */
static bool put_and(reader *r) {
    class *c = &r->classes[r->depth - 1];
    bool ok = base_buf_puts(&c->conj, "(?=") && put_union(c, &c->conj) && base_buf_putc(&c->conj, ')');
    c->flat.len = c->alts.len = 0;
    r->at += 2;
    return ok;
}

static bool put_class_char(reader *r) {
    char c = char_at(r, 0);
    const char *posix = c == '[' ? memmem(r->s + r->at, r->n - r->at, ":]", 2) : NULL;
    if (posix) return copy(r, (size_t)(posix - r->s) - r->at + 2);
    /* What PCRE2 would take for more than a character where it stands now. */
    bool quote = strchr("[^.:=", c) || (c == '-' && (char_at(r, 1) == '[' || r->s[r->at - 1] == ']'));
    return (!quote || base_buf_putc(to(r), '\\')) && copy(r, 1);
}

/* ---- escapes ---- */

/* A class by its escape, whose characters are inside. */
static bool put_known(reader *r, bool negated, const char *inside) {
    base_buf made = {0};
    r->at += 2;
    bool dash = r->depth && char_at(r, 0) == '-' && char_at(r, 1) != ']'; /* no range begins with a class */
    bool ok = true;
    if (r->depth && !negated) {
        ok = base_buf_puts(to(r), inside);
    } else {
        ok = base_buf_puts(&made, negated ? "[^" : "[") && base_buf_puts(&made, inside) && base_buf_putc(&made, ']') &&
             (r->depth ? add_alt(&r->classes[r->depth - 1], made.data) : base_buf_puts(r->out, made.data));
        base_buf_clear(&made);
    }
    if (!dash) return ok;
    r->at++;
    return ok && base_buf_puts(to(r), "\\-");
}

/* \p{Name}: names longer than a category's are scripts. */
static bool put_property(reader *r) {
    const char *begin = r->s + r->at + 3, *close = memchr(begin, '}', r->n - r->at - 3);
    if (!close) return copy(r, 3);
    size_t n = (size_t)(close - begin), caret = n && *begin == '^';
    if (!copy(r, 3 + caret)) return false;
    if (n - caret > 2 && !memchr(begin, ':', n) && !base_buf_puts(to(r), "sc:")) return false;
    return copy(r, n - caret + 1);
}

static bool put_escape(reader *r) {
    char c = char_at(r, 1);
    if (!r->depth) r->atom = r->out->len;
    if (c == 's' || c == 'S') return put_known(r, c == 'S', TOK_WHITE);
    if (c == 'w' || c == 'W') return put_known(r, c == 'W', WORD);
    if (c == 'h' || c == 'H') return put_known(r, c == 'H', "0-9a-fA-F");
    if ((c == 'p' || c == 'P') && char_at(r, 2) == '{') return put_property(r);
    const char *d = r->s + r->at + 2;
    if (c == 'u' && r->n - r->at >= 6 && is_hex(d[0]) && is_hex(d[1]) && is_hex(d[2]) && is_hex(d[3])) {
        r->at += 2;
        return base_buf_puts(to(r), "\\x{") && copy(r, 4) && base_buf_putc(to(r), '}');
    }
    const char *close = c == 'x' && char_at(r, 2) == '{' ? memchr(d, '}', r->n - r->at - 2) : NULL;
    return copy(r, close ? (size_t)(close - r->s) - r->at + 1 : c ? 2 : 1);
}

/* ---- groups and quantifiers ---- */

/* ( and the flags of (?imx-imx: or ). */
static fl_status begin_group(reader *r, fl_err *err) {
    if (r->n_groups == GROUPS_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "a pattern with groups %d deep at byte %zu", GROUPS_MAX + 1, r->at);
    r->groups[r->n_groups++] = r->out->len;
    bool ok = copy(r, char_at(r, 1) == '?' ? 2 : 1);
    size_t i = r->at;
    if (r->s[r->at - 1] == '?')
        while (i < r->n && r->s[i] && strchr("imx-", r->s[i])) i++;
    bool flags = i > r->at && i < r->n && (r->s[i] == ':' || r->s[i] == ')');
    for (; ok && flags && r->at < i; r->at++) ok = base_buf_putc(r->out, r->s[r->at] == 'm' ? 's' : r->s[r->at]);
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "a pattern");
}

static bool end_group(reader *r) {
    r->atom = r->n_groups ? r->groups[--r->n_groups] : r->out->len;
    return copy(r, 1);
}

/* Length of {n}, {n,}, {n,m} or {,m} at hand, 0 for anything else. */
static size_t interval(const reader *r, bool *fixed) {
    size_t i = 1, digits = 0;
    while (isdigit((unsigned char)char_at(r, i))) i++, digits++;
    *fixed = char_at(r, i) != ',';
    if (!*fixed) i++;
    while (!*fixed && isdigit((unsigned char)char_at(r, i))) i++, digits++;
    return digits && char_at(r, i) == '}' ? i + 1 : 0;
}

static bool put_interval(reader *r, size_t n, bool fixed) {
    size_t begin = r->atom;
    bool ok = char_at(r, 1) != ',' || base_buf_puts(r->out, "{0");
    if (char_at(r, 1) == ',') r->at++, n--;
    ok = ok && copy(r, n);
    char next = char_at(r, 0);
    if (!ok || !(next == '+' || (next == '?' && fixed))) return ok;
    if (!base_buf_puts(r->out, "(?:)")) return false; /* room for what goes around */
    memmove(r->out->data + begin + 3, r->out->data + begin, r->out->len - begin - 4);
    memcpy(r->out->data + begin, "(?:", 3);
    r->out->data[r->out->len - 1] = ')';
    return copy(r, 1);
}

/* ---- all ---- */

static fl_status put_next(reader *r, fl_err *err) {
    char c = char_at(r, 0);
    bool ok = true, fixed;
    if (c == '\\') {
        ok = put_escape(r);
    } else if (r->depth && c == '&' && char_at(r, 1) == '&') {
        ok = put_and(r);
    } else if (c == '[' && !(r->depth && char_at(r, 1) == ':')) {
        return begin_class(r, err);
    } else if (r->depth) {
        ok = c == ']' ? end_class(r) : put_class_char(r);
    } else if (c == '(') {
        return begin_group(r, err);
    } else if (c == ')') {
        ok = end_group(r);
    } else if (c == '{' && interval(r, &fixed)) {
        ok = put_interval(r, interval(r, &fixed), fixed);
    } else if (c == '*' || c == '+' || c == '?') {
        ok = copy(r, 1);
    } else {
        /* The bytes behind the first of a character repeat with it. */
        if (((uint8_t)c & 0xc0) != 0x80) r->atom = r->out->len;
        if (c == '^' || c == '$') {
            ok = base_buf_puts(r->out, c == '^' ? "(?m:^)" : "(?m:$)");
            r->at++;
        } else {
            ok = copy(r, 1);
        }
    }
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "a pattern");
}

fl_status tok_onig_translate(const char *pattern, size_t n, base_buf *out, fl_err *err) {
    if (n > PATTERN_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "a pattern of %zu bytes; at most %d are possible", n, PATTERN_MAX);
    if (memchr(pattern, '\0', n)) return fl_fail(err, FL_EUNSUPPORTED, "a pattern with a NUL");
    reader r = {.s = pattern, .n = n, .out = out};
    fl_status st = base_buf_puts(out, "") ? FL_OK : fl_fail(err, FL_ENOMEM, "a pattern");
    while (st == FL_OK && r.at < n) {
        st = put_next(&r, err);
        if (st == FL_OK && out->len > 16 * PATTERN_MAX)
            st = fl_fail(err, FL_EUNSUPPORTED, "a pattern that becomes longer than %d bytes", 16 * PATTERN_MAX);
    }
    if (st == FL_OK && r.depth) st = fl_fail(err, FL_EFORMAT, "the pattern does not compile: a class has no end");
    for (int i = 0; i < CLASSES_MAX; i++) {
        base_buf_clear(&r.classes[i].flat);
        base_buf_clear(&r.classes[i].alts);
        base_buf_clear(&r.classes[i].conj);
    }
    return st;
}
