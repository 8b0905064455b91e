/* Strings: building them with the marks of where bytes came from, printing values the way Python
 * does, and JSON the way json.dumps does.
 *
 * A mark is a range of bytes that came from the caller. Cutting and joining keep marks exactly;
 * what a function derives from a value (a number printed, an escape) carries the mark of the
 * string it was derived from.
 */
#include "tok/jinja_int.h"

#include "tok/utf8.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool grow(jinja_run *r, jinja_text *t, size_t more) {
    if (more > JINJA_OUTPUT_MAX || t->n + more > JINJA_OUTPUT_MAX) {
        jinja_fail(r, FL_ENOMEM, "a text is longer than %d bytes", JINJA_OUTPUT_MAX);
        return false;
    }
    if (t->n + more <= t->cap) return true;
    uint32_t cap = t->cap ? t->cap : 32;
    while (cap < t->n + more) cap *= 2;
    char *p = jinja_alloc(r, cap);
    if (!p) return false;
    if (t->n) memcpy(p, t->p, t->n);
    t->p = p;
    t->cap = cap;
    return true;
}

static bool mark(jinja_run *r, jinja_text *t, uint32_t begin, uint32_t end) {
    if (begin == end) return true;
    if (t->n_marks && t->marks[t->n_marks - 1].end == begin) {
        t->marks[t->n_marks - 1].end = end;
        return true;
    }
    if (t->n_marks == t->marks_cap) {
        uint32_t cap = t->marks_cap ? 2 * t->marks_cap : 4;
        jinja_mark *m = jinja_alloc(r, cap * sizeof *m);
        if (!m) return false;
        if (t->n_marks) memcpy(m, t->marks, t->n_marks * sizeof *m);
        t->marks = m;
        t->marks_cap = cap;
    }
    t->marks[t->n_marks++] = (jinja_mark){begin, end};
    return true;
}

bool jinja_text_put(jinja_run *r, jinja_text *t, const char *p, size_t n, bool input) {
    if (!jinja_burn(r, 1 + n / 64) || !grow(r, t, n)) return false;
    if (n) memcpy(t->p + t->n, p, n);
    uint32_t begin = t->n;
    t->n += (uint32_t)n;
    return !input || mark(r, t, begin, t->n);
}

bool jinja_text_puts(jinja_run *r, jinja_text *t, const char *s) { return jinja_text_put(r, t, s, strlen(s), false); }

/* The first mark that ends behind at. */
static uint32_t mark_from(const jinja_string *s, size_t at) {
    uint32_t lo = 0, hi = s->n_marks;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (s->marks[mid].end <= at)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

bool jinja_marked(const jinja_string *s, size_t at) {
    uint32_t i = mark_from(s, at);
    return i < s->n_marks && s->marks[i].begin <= at;
}

bool jinja_text_slice(jinja_run *r, jinja_text *t, const jinja_string *s, size_t begin, size_t end) {
    uint32_t base = t->n;
    if (!jinja_text_put(r, t, s->p + begin, end - begin, false)) return false;
    for (uint32_t i = mark_from(s, begin); i < s->n_marks && s->marks[i].begin < end; i++) {
        size_t b = s->marks[i].begin > begin ? s->marks[i].begin : begin,
               e = s->marks[i].end < end ? s->marks[i].end : end;
        if (!mark(r, t, base + (uint32_t)(b - begin), base + (uint32_t)(e - begin))) return false;
    }
    return true;
}

bool jinja_text_string(jinja_run *r, jinja_text *t, const jinja_string *s) {
    return jinja_text_slice(r, t, s, 0, s->n);
}

jinja_value jinja_text_end(jinja_run *r, jinja_text *t) {
    jinja_string *s = jinja_alloc(r, sizeof *s);
    if (!s || r->status) return JINJA_UNDEFINED_VALUE;
    *s = (jinja_string){.p = t->p ? t->p : "", .n = t->n, .n_marks = t->n_marks, .marks = t->marks};
    return (jinja_value){.type = JINJA_STRING, .s = s};
}

jinja_value jinja_string_new(jinja_run *r, const char *p, size_t n) {
    jinja_text t = {0};
    jinja_text_put(r, &t, p, n, false);
    return jinja_text_end(r, &t);
}

jinja_value jinja_string_slice(jinja_run *r, const jinja_string *s, size_t begin, size_t end) {
    jinja_text t = {0};
    jinja_text_slice(r, &t, s, begin, end);
    return jinja_text_end(r, &t);
}

jinja_value jinja_markup(jinja_run *r, const jinja_string *s, bool safe) {
    static const char from[] = "&<>'\"";
    static const char *const to[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    jinja_text t = {0};
    size_t plain = 0; /* where the bytes not yet copied begin */
    for (size_t i = 0; !safe && !s->markup && i < s->n && !r->status; i++) {
        const char *p = s->p[i] ? strchr(from, s->p[i]) : NULL;
        if (!p) continue;
        jinja_text_slice(r, &t, s, plain, i);
        jinja_text_put(r, &t, to[p - from], strlen(to[p - from]), jinja_marked(s, i));
        plain = i + 1;
    }
    jinja_text_slice(r, &t, s, plain, s->n);
    jinja_string *out = jinja_alloc(r, sizeof *out);
    if (!out || r->status) return JINJA_UNDEFINED_VALUE;
    *out = (jinja_string){.p = t.p ? t.p : "", .n = t.n, .n_marks = t.n_marks, .marks = t.marks, .markup = true};
    return (jinja_value){.type = JINJA_STRING, .s = out};
}

const jinja_string *jinja_str(jinja_run *r, jinja_value v) {
    static const jinja_string empty = {.p = ""};
    if (v.type == JINJA_STRING) return v.s;
    jinja_text t = {0};
    jinja_text_value(r, &t, v);
    v = jinja_text_end(r, &t);
    return v.type == JINJA_STRING ? v.s : &empty;
}

/* ------------------------------------------------------------------ characters */

bool jinja_is_space(uint32_t c) {
    return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
           (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/* Case of Latin, Greek and Cyrillic letters that have exactly one partner; others stay as they are. */
uint32_t jinja_upper(uint32_t c) {
    if (c < 0x80) return c >= 'a' && c <= 'z' ? c - 32 : c;
    if (c >= 0xe0 && c <= 0xfe && c != 0xf7) return c - 32;
    if (c == 0xff) return 0x178;
    if ((c >= 0x100 && c <= 0x137 && c != 0x131) || (c >= 0x14a && c <= 0x177)) return c & ~1u;
    if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17e)) return c & 1 ? c : c - 1;
    if ((c >= 0x3b1 && c <= 0x3c9 && c != 0x3c2) || (c >= 0x430 && c <= 0x44f)) return c - 32;
    if (c >= 0x450 && c <= 0x45f) return c - 80;
    return c;
}

uint32_t jinja_lower(uint32_t c) {
    if (c < 0x80) return c >= 'A' && c <= 'Z' ? c + 32 : c;
    if (c >= 0xc0 && c <= 0xde && c != 0xd7) return c + 32;
    if (c == 0x178) return 0xff;
    if ((c >= 0x100 && c <= 0x137 && c != 0x130) || (c >= 0x14a && c <= 0x177)) return c | 1;
    if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17e)) return c & 1 ? c + 1 : c;
    if ((c >= 0x391 && c <= 0x3a9 && c != 0x3a2) || (c >= 0x410 && c <= 0x42f)) return c + 32;
    if (c >= 0x400 && c <= 0x40f) return c + 80;
    return c;
}

/* Whether repr() shows the character itself. Covers controls, separators and the usual format characters. */
static bool prints(uint32_t c) {
    return !(c < 0x20 || (c >= 0x7f && c <= 0xa0) || c == 0xad || (jinja_is_space(c) && c != ' ') ||
             (c >= 0x200b && c <= 0x200f) || (c >= 0x202a && c <= 0x202e) || (c >= 0x2060 && c <= 0x206f) ||
             c == 0xfeff || (c >= 0xe000 && c <= 0xf8ff) || (c >= 0xfff0 && c <= 0xfffb) || c >= 0xe0000);
}

/* ------------------------------------------------------------------ printing */

/* The shortest digits that read back as the same number, written as Python writes them. */
void jinja_float_text(double f, char out[40]) {
    if (isnan(f) || isinf(f)) {
        snprintf(out, 40, "%s", isnan(f) ? "nan" : f < 0 ? "-inf" : "inf");
        return;
    }
    char digits[40];
    int precision = 1;
    do snprintf(digits, sizeof digits, "%.*e", precision - 1, f);
    while (strtod(digits, NULL) != f && precision++ < 17);
    int exponent = (int)strtol(strchr(digits, 'e') + 1, NULL, 10);
    if (exponent < -4 || exponent >= 16) {
        snprintf(out, 40, "%s", digits); /* C writes the exponent as Python does: a sign and at least two digits */
    } else {
        int decimals = precision - 1 - exponent;
        snprintf(out, 40, "%.*f", decimals > 1 ? decimals : 1, f);
    }
}

static bool repr_string(jinja_run *r, jinja_text *t, const jinja_string *s) {
    bool single = memchr(s->p, '\'', s->n) && !memchr(s->p, '"', s->n);
    const char *quote = single ? "\"" : "'";
    jinja_text_puts(r, t, quote);
    for (size_t i = 0; i < s->n && !r->status;) {
        int len;
        char esc[16] = "";
        uint32_t c = tok_utf8_get((const uint8_t *)s->p + i, &len);
        if (c == '\\' || c == (uint32_t)*quote)
            snprintf(esc, sizeof esc, "\\%c", (int)c);
        else if (c == '\n')
            memcpy(esc, "\\n", 3);
        else if (c == '\r')
            memcpy(esc, "\\r", 3);
        else if (c == '\t')
            memcpy(esc, "\\t", 3);
        else if (!prints(c))
            snprintf(esc, sizeof esc, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
        if (*esc)
            jinja_text_put(r, t, esc, strlen(esc), jinja_marked(s, i));
        else
            jinja_text_slice(r, t, s, i, i + (size_t)len);
        i += (size_t)len;
    }
    return jinja_text_puts(r, t, quote);
}

static bool repr_list(jinja_run *r, jinja_text *t, jinja_value v) {
    bool tuple = v.type == JINJA_TUPLE;
    if (v.type == JINJA_GENERATOR) return jinja_text_puts(r, t, "<generator>");
    if (v.l->range) return jinja_text_puts(r, t, v.l->range);
    if (v.l->label) jinja_text_puts(r, t, v.l->label);
    if (v.l->label) jinja_text_puts(r, t, "(");
    jinja_text_puts(r, t, tuple ? "(" : "[");
    for (uint32_t i = 0; i < v.l->n && !r->status; i++) {
        if (i) jinja_text_puts(r, t, ", ");
        jinja_text_repr(r, t, v.l->v[i]);
    }
    if (tuple && v.l->n == 1) jinja_text_puts(r, t, ",");
    if (v.l->label) jinja_text_puts(r, t, tuple ? ")" : "]");
    return jinja_text_puts(r, t, tuple || v.l->label ? ")" : "]");
}

static bool repr_dict(jinja_run *r, jinja_text *t, const jinja_dict *d) {
    jinja_text_puts(r, t, "{");
    for (uint32_t i = 0; i < d->n && !r->status; i++) {
        if (i) jinja_text_puts(r, t, ", ");
        jinja_text_repr(r, t, d->e[i].key);
        jinja_text_puts(r, t, ": ");
        jinja_text_repr(r, t, d->e[i].value);
    }
    return jinja_text_puts(r, t, "}");
}

bool jinja_text_repr(jinja_run *r, jinja_text *t, jinja_value v) {
    if (!jinja_burn(r, 1)) return false;
    if (r->frames >= JINJA_FRAMES_MAX) {
        jinja_fail(r, FL_ENOMEM, "values are nested too deep");
        return false;
    }
    r->frames++;
    switch (v.type) {
        case JINJA_UNDEFINED: jinja_text_puts(r, t, "Undefined"); break;
        case JINJA_STRING: repr_string(r, t, v.s); break;
        case JINJA_LIST:
        case JINJA_TUPLE:
        case JINJA_VIEW:
        case JINJA_GENERATOR: repr_list(r, t, v); break;
        case JINJA_DICT: repr_dict(r, t, v.d); break;
        default: jinja_text_value(r, t, v);
    }
    r->frames--;
    return !r->status;
}

bool jinja_text_value(jinja_run *r, jinja_text *t, jinja_value v) {
    char number[40];
    switch (v.type) {
        case JINJA_UNDEFINED: return true;
        case JINJA_NONE: return jinja_text_puts(r, t, "None");
        case JINJA_BOOL: return jinja_text_puts(r, t, v.b ? "True" : "False");
        case JINJA_INT: snprintf(number, sizeof number, "%lld", (long long)v.i); return jinja_text_puts(r, t, number);
        case JINJA_FLOAT: jinja_float_text(v.f, number); return jinja_text_puts(r, t, number);
        case JINJA_STRING: return jinja_text_string(r, t, v.s);
        case JINJA_LIST:
        case JINJA_TUPLE:
        case JINJA_VIEW:
        case JINJA_GENERATOR:
        case JINJA_DICT: return jinja_text_repr(r, t, v);
        default: snprintf(number, sizeof number, "<%s>", jinja_type_name(v)); return jinja_text_puts(r, t, number);
    }
}

/* ------------------------------------------------------------------ JSON */

static void put_string(jinja_run *r, jinja_text *t, const jinja_string *s, bool ascii) {
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    jinja_text_puts(r, t, "\"");
    size_t plain = 0; /* where the bytes not yet copied begin */
    for (size_t i = 0; i < s->n && !r->status;) {
        int len;
        char esc[16] = "";
        uint32_t c = tok_utf8_get((const uint8_t *)s->p + i, &len);
        const char *known = c && c < 0x80 ? strchr(from, (int)c) : NULL;
        if (known)
            snprintf(esc, sizeof esc, "\\%c", to[known - from]);
        else if (c < 0x20 || (ascii && c >= 0x7f && c < 0x10000 && c != 0x7f))
            snprintf(esc, sizeof esc, "\\u%04x", c);
        else if (ascii && c >= 0x10000)
            snprintf(esc, sizeof esc, "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10),
                     0xdc00 + ((c - 0x10000) & 0x3ff));
        if (*esc) {
            jinja_text_slice(r, t, s, plain, i);
            jinja_text_put(r, t, esc, strlen(esc), jinja_marked(s, i));
            plain = i + (size_t)len;
        }
        i += (size_t)len;
    }
    jinja_text_slice(r, t, s, plain, s->n);
    jinja_text_puts(r, t, "\"");
}

static void put_value(jinja_run *r, jinja_text *t, jinja_value v, const jinja_json_options *o, uint32_t level);

static void put_newline(jinja_run *r, jinja_text *t, const jinja_json_options *o, uint32_t level) {
    if (!o->indent) return;
    jinja_text_puts(r, t, "\n");
    for (uint32_t i = 0; i < level && !r->status; i++) jinja_text_puts(r, t, o->indent);
}

static void put_list(jinja_run *r, jinja_text *t, const jinja_list *l, const jinja_json_options *o, uint32_t level) {
    jinja_text_puts(r, t, "[");
    for (uint32_t i = 0; i < l->n && !r->status; i++) {
        if (i) jinja_text_puts(r, t, o->comma);
        put_newline(r, t, o, level + 1);
        put_value(r, t, l->v[i], o, level + 1);
    }
    if (l->n) put_newline(r, t, o, level);
    jinja_text_puts(r, t, "]");
}

/* Keys are strings in JSON; numbers and the like are written as their JSON form in quotes. */
static void put_key(jinja_run *r, jinja_text *t, jinja_value key, const jinja_json_options *o) {
    if (key.type == JINJA_STRING) {
        put_string(r, t, key.s, o->ascii);
        return;
    }
    jinja_text_puts(r, t, "\"");
    put_value(r, t, key, o, 0);
    jinja_text_puts(r, t, "\"");
}

static void put_dict(jinja_run *r, jinja_text *t, const jinja_dict *d, const jinja_json_options *o, uint32_t level) {
    const jinja_entry **order = jinja_alloc(r, d->n * sizeof *order);
    jinja_text_puts(r, t, "{");
    for (uint32_t i = 0; order && i < d->n && !r->status; i++) {
        uint32_t k = i;
        for (; o->sort && k > 0 && jinja_burn(r, 1) && jinja_order(r, order[k - 1]->key, d->e[i].key) > 0; k--)
            order[k] = order[k - 1];
        order[k] = &d->e[i];
    }
    for (uint32_t i = 0; order && i < d->n && !r->status; i++) {
        if (i) jinja_text_puts(r, t, o->comma);
        put_newline(r, t, o, level + 1);
        put_key(r, t, order[i]->key, o);
        jinja_text_puts(r, t, o->colon);
        put_value(r, t, order[i]->value, o, level + 1);
    }
    if (d->n) put_newline(r, t, o, level);
    jinja_text_puts(r, t, "}");
}

static void put_value(jinja_run *r, jinja_text *t, jinja_value v, const jinja_json_options *o, uint32_t level) {
    if (level > 2 * JINJA_NESTING_MAX) {
        jinja_fail(r, FL_ENOMEM, "values are nested too deep");
        return;
    }
    if (r->status || !jinja_burn(r, 1)) return;
    switch (v.type) {
        case JINJA_NONE: jinja_text_puts(r, t, "null"); break;
        case JINJA_BOOL: jinja_text_puts(r, t, v.b ? "true" : "false"); break;
        case JINJA_FLOAT:
            if (isnan(v.f) || isinf(v.f))
                jinja_text_puts(r, t, isnan(v.f) ? "NaN" : v.f < 0 ? "-Infinity" : "Infinity");
            else
                jinja_text_value(r, t, v);
            break;
        case JINJA_INT: jinja_text_value(r, t, v); break;
        case JINJA_STRING: put_string(r, t, v.s, o->ascii); break;
        case JINJA_LIST:
        case JINJA_TUPLE: put_list(r, t, v.l, o, level); break;
        case JINJA_DICT: put_dict(r, t, v.d, o, level); break;
        default: jinja_fail(r, FL_EINVAL, "%s has no JSON form", jinja_type_name(v));
    }
}

jinja_value jinja_to_json(jinja_run *r, jinja_value v, const jinja_json_options *o) {
    jinja_text t = {0};
    put_value(r, &t, v, o, 0);
    return jinja_text_end(r, &t);
}
