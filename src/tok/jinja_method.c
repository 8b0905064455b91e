/* Methods of strings, lists and dicts, the part that templates use, and % formatting. Positions
 * and lengths are code points, as in Python; white space is Unicode's.
 */
#include "tok/jinja_int.h"

#include "tok/utf8.h"

#include <stdio.h>
#include <string.h>

typedef jinja_value method(jinja_run *r, jinja_value self, const jinja_args *a);

/* ------------------------------------------------------------------ helpers */

static const jinja_string *want_string(jinja_run *r, const jinja_args *a, uint32_t i) {
    static const jinja_string empty = {.p = ""};
    jinja_value v = jinja_arg(a, i, NULL, JINJA_NONE_VALUE);
    if (v.type == JINJA_STRING) return v.s;
    jinja_fail(r, FL_EINVAL, "a method of a string needs a string, not %s", jinja_type_name(v));
    return &empty;
}

static int64_t arg_int(jinja_run *r, const jinja_args *a, uint32_t i, const char *name, int64_t fallback) {
    jinja_value v = jinja_arg(a, i, name, jinja_int(fallback));
    if (v.type == JINJA_INT) return v.i;
    if (v.type == JINJA_BOOL) return v.b;
    jinja_fail(r, FL_EINVAL, "a method needs an integer, not %s", jinja_type_name(v));
    return 0;
}

static bool at(const jinja_string *s, size_t i, const jinja_string *what) {
    return s->n - i >= what->n && memcmp(s->p + i, what->p, what->n) == 0;
}

/* Offset of what in s from i on; s->n + 1 when it is not there. */
static size_t find(jinja_run *r, const jinja_string *s, size_t i, const jinja_string *what) {
    const char *p = what->n ? memmem(s->p + i, s->n - i, what->p, what->n) : s->p + i;
    jinja_burn(r, 1 + (p ? (size_t)(p - s->p) - i : s->n - i) / 64);
    return p ? (size_t)(p - s->p) : s->n + 1;
}

static size_t find_last(jinja_run *r, const jinja_string *s, size_t end, const jinja_string *what) {
    for (size_t i = end >= what->n ? end - what->n + 1 : 0; i-- > 0;)
        if (!jinja_burn(r, 1 + what->n / 64) || at(s, i, what)) return i;
    return s->n + 1;
}

static jinja_value list_of(jinja_run *r) { return jinja_list_new(r, JINJA_LIST, 0); }

static void push_slice(jinja_run *r, jinja_value list, const jinja_string *s, size_t begin, size_t end) {
    jinja_value v = jinja_string_slice(r, s, begin, end);
    if (!r->status) jinja_list_push(r, list.l, v);
}

/* ------------------------------------------------------------------ strings */

static bool strips(const jinja_string *chars, const uint8_t *p, int len, uint32_t c) {
    if (!chars) return jinja_is_space(c);
    for (size_t i = 0; i + (size_t)len <= chars->n; i++)
        if (memcmp(chars->p + i, p, (size_t)len) == 0) return true;
    return false;
}

jinja_value jinja_strip(jinja_run *r, const jinja_string *s, jinja_value chars, bool left, bool right) {
    size_t begin = 0, end = s->n;
    const uint8_t *p = (const uint8_t *)s->p;
    int len;
    if (chars.type != JINJA_NONE && chars.type != JINJA_STRING)
        return jinja_fail(r, FL_EINVAL, "strip needs a string, not %s", jinja_type_name(chars));
    const jinja_string *set = chars.type == JINJA_STRING ? chars.s : NULL;
    uint64_t cost = 1 + (set ? set->n / 16 : 0);
    while (left && begin < end && jinja_burn(r, cost)) {
        uint32_t c = tok_utf8_get(p + begin, &len);
        if (!strips(set, p + begin, len, c)) break;
        begin += (size_t)len;
    }
    while (right && end > begin && jinja_burn(r, cost)) {
        size_t i = end - 1;
        while (i > begin && (p[i] & 0xc0) == 0x80) i--;
        uint32_t c = tok_utf8_get(p + i, &len);
        if (!strips(set, p + i, len, c)) break;
        end = i;
    }
    return jinja_string_slice(r, s, begin, end);
}

static jinja_value m_strip(jinja_run *r, jinja_value v, const jinja_args *a) {
    return jinja_strip(r, v.s, jinja_arg(a, 0, NULL, JINJA_NONE_VALUE), true, true);
}
static jinja_value m_lstrip(jinja_run *r, jinja_value v, const jinja_args *a) {
    return jinja_strip(r, v.s, jinja_arg(a, 0, NULL, JINJA_NONE_VALUE), true, false);
}
static jinja_value m_rstrip(jinja_run *r, jinja_value v, const jinja_args *a) {
    return jinja_strip(r, v.s, jinja_arg(a, 0, NULL, JINJA_NONE_VALUE), false, true);
}

jinja_value jinja_recase(jinja_run *r, const jinja_string *s, jinja_case how) {
    jinja_text t = {0};
    bool word = false; /* the character before is a letter */
    for (size_t i = 0; i < s->n && !r->status;) {
        int len;
        uint8_t out[4];
        uint32_t c = tok_utf8_get((const uint8_t *)s->p + i, &len), lower = jinja_lower(c), upper = jinja_upper(c);
        bool first = how == JINJA_CASE_TITLE ? !word : i == 0;
        bool up = how == JINJA_CASE_UPPER || (how >= JINJA_CASE_TITLE && first);
        int n = tok_utf8_put(out, up ? upper : lower);
        jinja_text_put(r, &t, (const char *)out, (size_t)n, jinja_marked(s, i));
        word = lower != upper || c >= 0x80;
        i += (size_t)len;
        jinja_burn(r, 1);
    }
    return jinja_text_end(r, &t);
}

static jinja_value m_upper(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return jinja_recase(r, v.s, JINJA_CASE_UPPER);
}
static jinja_value m_lower(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return jinja_recase(r, v.s, JINJA_CASE_LOWER);
}
static jinja_value m_title(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return jinja_recase(r, v.s, JINJA_CASE_TITLE);
}
static jinja_value m_capitalize(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return jinja_recase(r, v.s, JINJA_CASE_CAPITAL);
}

/* At white space: runs of it separate, none at the ends. */
static jinja_value split_space(jinja_run *r, const jinja_string *s, int64_t max) {
    jinja_value out = list_of(r);
    size_t begin = 0, i = 0;
    bool word = false;
    while (i < s->n && jinja_burn(r, 1)) {
        int len;
        bool space = jinja_is_space(tok_utf8_get((const uint8_t *)s->p + i, &len));
        if (space && word) {
            push_slice(r, out, s, begin, i);
            word = false;
        } else if (!space && !word) {
            begin = i;
            word = true;
            if (max >= 0 && out.l->n == max) {
                jinja_value rest = jinja_string_slice(r, s, begin, s->n);
                if (!r->status) jinja_list_push(r, out.l, jinja_strip(r, rest.s, JINJA_NONE_VALUE, false, true));
                return out;
            }
        }
        i += (size_t)len;
    }
    if (word && !r->status) push_slice(r, out, s, begin, s->n);
    return out;
}

static jinja_value m_split(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value sep = jinja_arg(a, 0, "sep", JINJA_NONE_VALUE);
    int64_t max = arg_int(r, a, 1, "maxsplit", -1);
    if (sep.type == JINJA_NONE) return split_space(r, v.s, max);
    if (sep.type != JINJA_STRING || !sep.s->n)
        return jinja_fail(r, FL_EINVAL, "split needs a separator that is not empty");
    jinja_value out = list_of(r);
    size_t begin = 0, i;
    while (!r->status && (max < 0 || out.l->n < max) && (i = find(r, v.s, begin, sep.s)) <= v.s->n) {
        push_slice(r, out, v.s, begin, i);
        begin = i + sep.s->n;
    }
    if (!r->status) push_slice(r, out, v.s, begin, v.s->n);
    return out;
}

static void reverse(jinja_list *l) {
    for (uint32_t i = 0; i < l->n / 2; i++) {
        jinja_value x = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = x;
    }
}

static jinja_value m_rsplit(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value sep = jinja_arg(a, 0, "sep", JINJA_NONE_VALUE);
    int64_t max = arg_int(r, a, 1, "maxsplit", -1);
    if (sep.type == JINJA_NONE && max < 0) return split_space(r, v.s, max);
    if (sep.type != JINJA_STRING || !sep.s->n)
        return jinja_fail(r, FL_EINVAL, "rsplit needs a separator that is not empty");
    jinja_value out = list_of(r);
    size_t end = v.s->n, i;
    while (jinja_burn(r, 1 + v.s->n / 64) && (max < 0 || out.l->n < max) &&
           (i = find_last(r, v.s, end, sep.s)) <= v.s->n) {
        push_slice(r, out, v.s, i + sep.s->n, end);
        end = i;
    }
    if (r->status) return out;
    push_slice(r, out, v.s, 0, end);
    if (!r->status) reverse(out.l);
    return out;
}

static jinja_value m_splitlines(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    jinja_value out = list_of(r);
    size_t begin = 0;
    jinja_burn(r, v.s->n / 16);
    for (size_t i = 0; i < v.s->n && !r->status; i++) {
        if (v.s->p[i] != '\n' && v.s->p[i] != '\r') continue;
        push_slice(r, out, v.s, begin, i);
        if (v.s->p[i] == '\r' && i + 1 < v.s->n && v.s->p[i + 1] == '\n') i++;
        begin = i + 1;
    }
    if (begin < v.s->n && !r->status) push_slice(r, out, v.s, begin, v.s->n);
    return out;
}

static jinja_value partition(jinja_run *r, const jinja_string *s, const jinja_string *sep, bool last) {
    jinja_value out = jinja_list_new(r, JINJA_TUPLE, 3);
    if (!sep->n) return jinja_fail(r, FL_EINVAL, "partition needs a separator that is not empty");
    size_t i = last ? find_last(r, s, s->n, sep) : find(r, s, 0, sep);
    if (r->status) return out;
    bool found = i <= s->n;
    size_t cut = found ? i : last ? 0 : s->n, after = found ? i + sep->n : cut;
    push_slice(r, out, s, 0, cut);
    push_slice(r, out, s, cut, after);
    if (!r->status) push_slice(r, out, s, after, s->n);
    return out;
}

static jinja_value m_partition(jinja_run *r, jinja_value v, const jinja_args *a) {
    return partition(r, v.s, want_string(r, a, 0), false);
}
static jinja_value m_rpartition(jinja_run *r, jinja_value v, const jinja_args *a) {
    return partition(r, v.s, want_string(r, a, 0), true);
}

static jinja_value affix(jinja_run *r, jinja_value v, const jinja_args *a, bool end) {
    jinja_value what = jinja_arg(a, 0, NULL, JINJA_NONE_VALUE);
    const jinja_list *l = what.type == JINJA_TUPLE ? what.l : NULL;
    for (uint32_t i = 0; i < (l ? l->n : 1) && !r->status; i++) {
        jinja_value x = l ? l->v[i] : what;
        if (x.type != JINJA_STRING)
            return jinja_fail(r, FL_EINVAL, "startswith and endswith need a string, not %s", jinja_type_name(x));
        if (x.s->n <= v.s->n && at(v.s, end ? v.s->n - x.s->n : 0, x.s)) return jinja_bool(true);
    }
    return jinja_bool(false);
}

static jinja_value m_startswith(jinja_run *r, jinja_value v, const jinja_args *a) { return affix(r, v, a, false); }
static jinja_value m_endswith(jinja_run *r, jinja_value v, const jinja_args *a) { return affix(r, v, a, true); }

static jinja_value m_removeprefix(jinja_run *r, jinja_value v, const jinja_args *a) {
    const jinja_string *s = want_string(r, a, 0);
    return jinja_string_slice(r, v.s, s->n <= v.s->n && at(v.s, 0, s) ? s->n : 0, v.s->n);
}

static jinja_value m_removesuffix(jinja_run *r, jinja_value v, const jinja_args *a) {
    const jinja_string *s = want_string(r, a, 0);
    return jinja_string_slice(r, v.s, 0, s->n <= v.s->n && at(v.s, v.s->n - s->n, s) ? v.s->n - s->n : v.s->n);
}

jinja_value jinja_replace(jinja_run *r, const jinja_string *s, const jinja_string *old, const jinja_string *with,
                          int64_t count) {
    jinja_text t = {0};
    size_t begin = 0, from = 0;
    for (int64_t k = 0; !r->status && (count < 0 || k < count); k++) {
        size_t i = find(r, s, from, old);
        if (i > s->n) break;
        jinja_text_slice(r, &t, s, begin, i);
        jinja_text_string(r, &t, with);
        begin = i + old->n;
        from = begin;
        if (old->n) continue;
        if (i == s->n) break; /* an empty string is found before every character and at the end */
        for (from++; from < s->n && ((uint8_t)s->p[from] & 0xc0) == 0x80;) from++;
    }
    jinja_text_slice(r, &t, s, begin, s->n);
    return jinja_text_end(r, &t);
}

static jinja_value m_replace(jinja_run *r, jinja_value v, const jinja_args *a) {
    const jinja_string *old = want_string(r, a, 0), *with = want_string(r, a, 1);
    return jinja_replace(r, v.s, old, with, arg_int(r, a, 2, "count", -1));
}

static jinja_value position(jinja_run *r, const jinja_string *s, size_t i) {
    if (i > s->n) return jinja_int(-1);
    jinja_burn(r, i / 64);
    return jinja_int((int64_t)tok_utf8_count(s->p, i));
}

static jinja_value m_find(jinja_run *r, jinja_value v, const jinja_args *a) {
    return position(r, v.s, find(r, v.s, 0, want_string(r, a, 0)));
}
static jinja_value m_rfind(jinja_run *r, jinja_value v, const jinja_args *a) {
    return position(r, v.s, find_last(r, v.s, v.s->n, want_string(r, a, 0)));
}

static jinja_value m_index(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value i = m_find(r, v, a);
    return i.i < 0 ? jinja_fail(r, FL_EINVAL, "index: the text is not there") : i;
}

static jinja_value m_count(jinja_run *r, jinja_value v, const jinja_args *a) {
    const jinja_string *what = want_string(r, a, 0);
    int64_t count = 0;
    if (!jinja_burn(r, v.s->n / 64)) return JINJA_UNDEFINED_VALUE;
    if (!what->n) return jinja_int((int64_t)tok_utf8_count(v.s->p, v.s->n) + 1);
    for (size_t i = 0; !r->status && (i = find(r, v.s, i, what)) <= v.s->n; i += what->n) count++;
    return jinja_int(count);
}

static jinja_value m_join(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_text t = {0};
    const jinja_list *l = jinja_items(r, jinja_arg(a, 0, NULL, JINJA_NONE_VALUE));
    for (uint32_t i = 0; l && i < l->n && !r->status; i++) {
        if (l->v[i].type != JINJA_STRING)
            return jinja_fail(r, FL_EINVAL, "join needs strings, not %s", jinja_type_name(l->v[i]));
        if (i) jinja_text_string(r, &t, v.s);
        jinja_text_string(r, &t, l->v[i].s);
    }
    return jinja_text_end(r, &t);
}

/* Whether all characters are of a kind and there is one. */
static jinja_value all_chars(jinja_run *r, const jinja_string *s, bool (*is)(uint32_t c)) {
    for (size_t i = 0; i < s->n && jinja_burn(r, 1);) {
        int len;
        if (!is(tok_utf8_get((const uint8_t *)s->p + i, &len))) return jinja_bool(false);
        i += (size_t)len;
    }
    return jinja_bool(s->n > 0);
}

static bool is_digit(uint32_t c) { return c >= '0' && c <= '9'; }
static bool is_alpha(uint32_t c) { return jinja_upper(c) != jinja_lower(c) || c >= 0x370; }
static bool is_alnum(uint32_t c) { return is_digit(c) || is_alpha(c); }
static jinja_value m_isdigit(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return all_chars(r, v.s, is_digit);
}
static jinja_value m_isalpha(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return all_chars(r, v.s, is_alpha);
}
static jinja_value m_isalnum(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return all_chars(r, v.s, is_alnum);
}
static jinja_value m_isspace(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return all_chars(r, v.s, jinja_is_space);
}

/* One field of str.format(): "name!r:spec", the spec being [[fill]align][0][width][.precision][type]. */
typedef struct {
    char name[64];
    char conversion; /* r, s, or NUL */
    char fill[5];
    char align; /* < > ^, or NUL */
    int width, precision;
    char kind; /* one of dfeExXs, or NUL */
} field;

/* A number of at most three digits at *p. */
static int small_number(const char **p) {
    int n = 0;
    for (int i = 0; i < 3 && **p >= '0' && **p <= '9'; i++) n = n * 10 + (*(*p)++ - '0');
    return n;
}

static bool parse_field(const char *p, field *f) {
    *f = (field){.fill = " ", .precision = -1};
    size_t n = strcspn(p, "!:");
    if (n >= sizeof f->name) return false;
    memcpy(f->name, p, n);
    p += n;
    if (*p == '!' && (p[1] == 'r' || p[1] == 's')) {
        f->conversion = p[1];
        p += 2;
    }
    if (*p == '\0') return true;
    if (*p++ != ':') return false;
    int len = 1;
    if (*p) tok_utf8_get((const uint8_t *)p, &len);
    if (*p && p[len] && strchr("<>^", p[len])) {
        memcpy(f->fill, p, (size_t)len);
        p += len;
    }
    if (*p && strchr("<>^", *p)) f->align = *p++;
    if (*p == '0' && !f->align) {
        memcpy(f->fill, "0", 2);
        f->align = '=';
        p++;
    }
    f->width = small_number(&p);
    if (*p == '.') {
        p++;
        f->precision = small_number(&p);
    }
    if (*p && strchr("dfeExXs", *p)) f->kind = *p++;
    return *p == '\0';
}

static jinja_value format_number(jinja_run *r, const field *f, jinja_value v) {
    char out[400];
    int precision = f->precision < 0 ? 6 : f->precision;
    if (f->kind == 'd' || f->kind == 'x' || f->kind == 'X') {
        if (v.type == JINJA_FLOAT) return jinja_fail(r, FL_EINVAL, "format: %c needs an integer", f->kind);
        long long i = v.type == JINJA_BOOL ? v.b : v.i;
        snprintf(out, sizeof out, f->kind == 'd' ? "%lld" : f->kind == 'x' ? "%llx" : "%llX", i);
    } else if (f->kind == 'f') {
        snprintf(out, sizeof out, "%.*f", precision > 60 ? 60 : precision, jinja_number(v));
    } else {
        snprintf(out, sizeof out, f->kind == 'e' ? "%.*e" : "%.*E", precision > 60 ? 60 : precision, jinja_number(v));
    }
    return jinja_string_new(r, out, strlen(out));
}

static void format_field(jinja_run *r, jinja_text *t, const field *f, jinja_value v) {
    bool number = jinja_is_number(v) && !f->conversion;
    jinja_text own = {0};
    if (f->kind && f->kind != 's') {
        if (!number)
            jinja_fail(r, FL_EINVAL, "format: %c needs a number, not %s", f->kind, jinja_type_name(v));
        else
            v = format_number(r, f, v);
    } else {
        if (f->conversion == 'r')
            jinja_text_repr(r, &own, v);
        else
            jinja_text_value(r, &own, v);
        v = jinja_text_end(r, &own);
    }
    if (r->status) return;
    int64_t length = (int64_t)tok_utf8_count(v.s->p, v.s->n), pad = length < f->width ? f->width - length : 0;
    char align = f->align ? f->align : number ? '>' : '<';
    size_t sign = align == '=' && v.s->n && v.s->p[0] == '-';
    int64_t before = align == '<' ? 0 : align == '^' ? pad / 2 : pad;
    jinja_text_slice(r, t, v.s, 0, sign);
    for (int64_t i = 0; i < before; i++) jinja_text_puts(r, t, f->fill);
    jinja_text_slice(r, t, v.s, sign, v.s->n);
    for (int64_t i = before; i < pad; i++) jinja_text_puts(r, t, f->fill);
}

/* The argument a field names: the next one, one by number, or a keyword. */
static jinja_value field_value(jinja_run *r, const field *f, uint32_t *next, const jinja_args *a) {
    const char *p = f->name;
    size_t n = strlen(p);
    uint32_t k = n ? (uint32_t)small_number(&p) : (*next)++;
    bool number = !n || *p == '\0';
    if (strpbrk(f->name, ".[")) return jinja_fail(r, FL_EUNSUPPORTED, "format: {%s} is not supported", f->name);
    jinja_value v = number ? (k < a->n ? a->v[k] : jinja_undefined("none"))
                           : jinja_arg(a, UINT32_MAX, f->name, jinja_undefined("none"));
    if (v.type == JINJA_UNDEFINED && v.hint)
        return jinja_fail(r, FL_EINVAL, "format: there is no argument for {%s}", f->name);
    return v;
}

static jinja_value m_format(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_text t = {0};
    const jinja_string *s = v.s;
    uint32_t next = 0;
    for (size_t i = 0; i < s->n && !r->status;) {
        size_t plain = i;
        while (i < s->n && s->p[i] != '{' && s->p[i] != '}') i++;
        jinja_text_slice(r, &t, s, plain, i);
        if (i == s->n) break;
        if (i + 1 < s->n && s->p[i + 1] == s->p[i]) {
            jinja_text_slice(r, &t, s, i, i + 1);
            i += 2;
            continue;
        }
        const char *end = s->p[i] == '{' ? memchr(s->p + i, '}', s->n - i) : NULL;
        size_t n = end ? (size_t)(end - s->p) - i - 1 : 0;
        char text[100];
        field f;
        if (!end || n >= sizeof text) return jinja_fail(r, FL_EINVAL, "format: a brace without its partner");
        memcpy(text, s->p + i + 1, n);
        text[n] = '\0';
        if (!parse_field(text, &f)) return jinja_fail(r, FL_EUNSUPPORTED, "format: {%.60s} is not supported", text);
        jinja_value x = field_value(r, &f, &next, a);
        if (!r->status) format_field(r, &t, &f, x);
        i += n + 2;
    }
    return jinja_text_end(r, &t);
}

/* One conversion of %: flags and width from spec, the value v. */
static void format_one(jinja_run *r, jinja_text *t, const char *spec, char kind, jinja_value v) {
    char form[40], out[400];
    if (kind == 's' || kind == 'r') {
        if (spec[1])
            jinja_fail(r, FL_EUNSUPPORTED, "%%: a width for strings is not supported");
        else if (kind == 's')
            jinja_text_value(r, t, v);
        else
            jinja_text_repr(r, t, v);
        return;
    }
    if (!jinja_is_number(v)) {
        jinja_fail(r, FL_EINVAL, "%%%c needs a number, not %s", kind, jinja_type_name(v));
        return;
    }
    bool whole = strchr("dixXo", kind) != NULL;
    snprintf(form, sizeof form, "%s%s%c", spec, whole ? "ll" : "", kind);
    if (whole)
        snprintf(out, sizeof out, form,
                 v.type == JINJA_FLOAT  ? (long long)v.f
                 : v.type == JINJA_BOOL ? (long long)v.b
                                        : (long long)v.i);
    else
        snprintf(out, sizeof out, form, jinja_number(v));
    jinja_text_puts(r, t, out);
}

jinja_value jinja_format(jinja_run *r, const jinja_string *s, jinja_value args) {
    jinja_text t = {0};
    uint32_t next = 0;
    for (size_t i = 0; i < s->n && !r->status;) {
        size_t begin = i;
        while (i < s->n && s->p[i] != '%') i++;
        jinja_text_slice(r, &t, s, begin, i);
        if (i == s->n) break;
        char spec[16] = "%";
        size_t n = 1;
        for (i++; i < s->n && s->p[i] && strchr("-+ #0123456789.", s->p[i]) && n < 8; i++) spec[n++] = s->p[i];
        char kind = i < s->n ? s->p[i++] : '\0';
        if (kind == '%') {
            jinja_text_puts(r, &t, "%");
            continue;
        }
        if (!kind || !strchr("srdixXofeEgGF", kind))
            return jinja_fail(r, FL_EUNSUPPORTED, "%%: this conversion is not supported");
        bool many = args.type == JINJA_TUPLE;
        if (next >= (many ? args.l->n : 1)) return jinja_fail(r, FL_EINVAL, "%%: there are too few values");
        format_one(r, &t, spec, kind, many ? args.l->v[next] : args);
        next++;
    }
    if (args.type == JINJA_TUPLE && next < args.l->n) return jinja_fail(r, FL_EINVAL, "%%: there are too many values");
    return jinja_text_end(r, &t);
}

/* ------------------------------------------------------------------ lists */

static jinja_value l_append(jinja_run *r, jinja_value v, const jinja_args *a) {
    if (a->n != 1) return jinja_fail(r, FL_EINVAL, "append takes one value");
    jinja_list_push(r, v.l, a->v[0]);
    return JINJA_NONE_VALUE;
}

static jinja_value l_extend(jinja_run *r, jinja_value v, const jinja_args *a) {
    const jinja_list *l = jinja_items(r, jinja_arg(a, 0, NULL, JINJA_NONE_VALUE));
    uint32_t n = l ? l->n : 0;
    for (uint32_t i = 0; i < n && !r->status; i++) jinja_list_push(r, v.l, l->v[i]);
    return JINJA_NONE_VALUE;
}

static jinja_value l_insert(jinja_run *r, jinja_value v, const jinja_args *a) {
    int64_t i = arg_int(r, a, 0, NULL, 0), n = v.l->n;
    if (a->n != 2 || !jinja_list_push(r, v.l, JINJA_NONE_VALUE))
        return jinja_fail(r, FL_EINVAL, "insert takes a place and a value");
    if (i < 0) i = i + n < 0 ? 0 : i + n;
    if (i > n) i = n;
    jinja_burn(r, (uint64_t)(n - i) / 4);
    memmove(v.l->v + i + 1, v.l->v + i, (size_t)(n - i) * sizeof *v.l->v);
    v.l->v[i] = a->v[1];
    return JINJA_NONE_VALUE;
}

static jinja_value l_pop(jinja_run *r, jinja_value v, const jinja_args *a) {
    int64_t n = v.l->n, i = arg_int(r, a, 0, NULL, -1);
    if (i < 0) i += n;
    if (i < 0 || i >= n) return jinja_fail(r, FL_EINVAL, "pop: there is no such element");
    jinja_value out = v.l->v[i];
    jinja_burn(r, (uint64_t)(n - i) / 4);
    memmove(v.l->v + i, v.l->v + i + 1, (size_t)(n - i - 1) * sizeof *v.l->v);
    v.l->n--;
    return out;
}

static jinja_value l_index(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value what = jinja_arg(a, 0, NULL, JINJA_NONE_VALUE);
    for (uint32_t i = 0; i < v.l->n && !r->status; i++)
        if (jinja_equal(r, v.l->v[i], what)) return jinja_int(i);
    return jinja_fail(r, FL_EINVAL, "index: the value is not in the list");
}

static jinja_value l_count(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value what = jinja_arg(a, 0, NULL, JINJA_NONE_VALUE);
    int64_t count = 0;
    for (uint32_t i = 0; i < v.l->n && !r->status; i++) count += jinja_equal(r, v.l->v[i], what);
    return jinja_int(count);
}

static jinja_value l_copy(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    jinja_value out = jinja_list_new(r, JINJA_LIST, v.l->n);
    for (uint32_t i = 0; i < v.l->n && !r->status; i++) jinja_list_push(r, out.l, v.l->v[i]);
    return out;
}

/* ------------------------------------------------------------------ dicts */

static jinja_value view(jinja_run *r, const jinja_dict *d, const char *label, bool keys, bool values) {
    jinja_value out = jinja_list_new(r, JINJA_VIEW, d->n);
    for (uint32_t i = 0; i < d->n && !r->status; i++) {
        jinja_value x = keys ? d->e[i].key : d->e[i].value;
        if (keys && values) {
            x = jinja_list_new(r, JINJA_TUPLE, 2);
            if (r->status || !jinja_list_push(r, x.l, d->e[i].key)) break;
            jinja_list_push(r, x.l, d->e[i].value);
        }
        jinja_list_push(r, out.l, x);
    }
    if (!r->status) out.l->label = label;
    return out;
}

static jinja_value d_items(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return view(r, v.d, "dict_items", true, true);
}
static jinja_value d_keys(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return view(r, v.d, "dict_keys", true, false);
}
static jinja_value d_values(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return view(r, v.d, "dict_values", false, true);
}

static jinja_value d_get(jinja_run *r, jinja_value v, const jinja_args *a) {
    if (!a->n) return jinja_fail(r, FL_EINVAL, "get needs a key");
    const jinja_entry *e = jinja_dict_get(r, v.d, a->v[0]);
    return e ? e->value : jinja_arg(a, 1, NULL, JINJA_NONE_VALUE);
}

static jinja_value d_setdefault(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value x = jinja_arg(a, 1, NULL, JINJA_NONE_VALUE);
    if (!a->n) return jinja_fail(r, FL_EINVAL, "setdefault needs a key");
    const jinja_entry *e = jinja_dict_get(r, v.d, a->v[0]);
    if (e) return e->value;
    jinja_dict_set(r, v.d, a->v[0], x);
    return x;
}

static jinja_value d_update(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value with = jinja_arg(a, 0, NULL, JINJA_NONE_VALUE);
    if (a->n && with.type != JINJA_DICT)
        return jinja_fail(r, FL_EINVAL, "update needs a dict, not %s", jinja_type_name(with));
    uint32_t n = a->n ? with.d->n : 0;
    for (uint32_t i = 0; i < n && !r->status; i++) jinja_dict_set(r, v.d, with.d->e[i].key, with.d->e[i].value);
    for (uint32_t i = 0; i < a->n_names && !r->status; i++) {
        jinja_value key = jinja_string_new(r, a->names[i], strlen(a->names[i]));
        if (!r->status) jinja_dict_set(r, v.d, key, a->v[a->n + i]);
    }
    return JINJA_NONE_VALUE;
}

/* Takes an entry out by building the dict anew. */
static jinja_value d_pop(jinja_run *r, jinja_value v, const jinja_args *a) {
    if (!a->n) return jinja_fail(r, FL_EINVAL, "pop needs a key");
    const jinja_entry *e = jinja_dict_get(r, v.d, a->v[0]);
    if (!e && a->n < 2) return jinja_fail(r, FL_EINVAL, "pop: there is no such key");
    if (!e) return a->v[1];
    jinja_value out = e->value, rest = jinja_dict_new(r);
    for (uint32_t i = 0; i < v.d->n && !r->status; i++)
        if (&v.d->e[i] != e) jinja_dict_set(r, rest.d, v.d->e[i].key, v.d->e[i].value);
    if (!r->status) *v.d = *rest.d;
    return out;
}

static jinja_value d_copy(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    jinja_value out = jinja_dict_new(r);
    for (uint32_t i = 0; i < v.d->n && !r->status; i++) jinja_dict_set(r, out.d, v.d->e[i].key, v.d->e[i].value);
    return out;
}

static jinja_value refuse(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return jinja_fail(r, FL_EUNSUPPORTED, "this method of %s is not supported", jinja_type_name(v));
}

/* ------------------------------------------------------------------ tables */

typedef struct {
    const char *name;
    method *run;
} entry;

static const entry strings[] = {
    {"strip", m_strip},
    {"lstrip", m_lstrip},
    {"rstrip", m_rstrip},
    {"upper", m_upper},
    {"lower", m_lower},
    {"title", m_title},
    {"capitalize", m_capitalize},
    {"split", m_split},
    {"rsplit", m_rsplit},
    {"splitlines", m_splitlines},
    {"partition", m_partition},
    {"rpartition", m_rpartition},
    {"startswith", m_startswith},
    {"endswith", m_endswith},
    {"removeprefix", m_removeprefix},
    {"removesuffix", m_removesuffix},
    {"replace", m_replace},
    {"find", m_find},
    {"rfind", m_rfind},
    {"index", m_index},
    {"count", m_count},
    {"join", m_join},
    {"isdigit", m_isdigit},
    {"isalpha", m_isalpha},
    {"isalnum", m_isalnum},
    {"isspace", m_isspace},
    {"isnumeric", m_isdigit},
    {"isdecimal", m_isdigit},
    {"format", m_format},
    {"center", refuse},
    {"ljust", refuse},
    {"rjust", refuse},
    {"zfill", refuse},
    {"encode", refuse},
    {"expandtabs", refuse},
    {"swapcase", refuse},
    {"casefold", m_lower},
    {NULL, NULL},
};
static const entry lists[] = {
    {"append", l_append}, {"extend", l_extend}, {"insert", l_insert}, {"pop", l_pop},
    {"index", l_index},   {"count", l_count},   {"copy", l_copy},     {"sort", refuse},
    {"reverse", refuse},  {"clear", refuse},    {"remove", refuse},   {NULL, NULL},
};
static const entry tuples[] = {{"index", l_index}, {"count", l_count}, {NULL, NULL}};
static const entry dicts[] = {
    {"items", d_items},   {"keys", d_keys}, {"values", d_values}, {"get", d_get},    {"setdefault", d_setdefault},
    {"update", d_update}, {"pop", d_pop},   {"copy", d_copy},     {"clear", refuse}, {"popitem", refuse},
    {"fromkeys", refuse}, {NULL, NULL},
};

static method *lookup(jinja_value v, const char *name) {
    const entry *e = v.type == JINJA_STRING  ? strings
                     : v.type == JINJA_LIST  ? lists
                     : v.type == JINJA_TUPLE ? tuples
                     : v.type == JINJA_DICT  ? dicts
                                             : NULL;
    for (; e && e->name; e++)
        if (strcmp(e->name, name) == 0) return e->run;
    return NULL;
}

bool jinja_has_method(jinja_value v, const char *name) { return lookup(v, name) != NULL; }

jinja_value jinja_call_method(jinja_run *r, jinja_value self, const char *name, const jinja_args *a) {
    return lookup(self, name)(r, self, a);
}
