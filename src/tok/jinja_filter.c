/* Filters. Those that give a generator in Python (map, select, ...) do their work at once here,
 * and give a value that can be walked once and has no length, index or JSON form.
 */
#include "tok/jinja_int.h"

#include "tok/utf8.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef jinja_value filter(jinja_run *r, jinja_value v, const jinja_args *a);

static jinja_value string_value(const jinja_string *s) { return (jinja_value){.type = JINJA_STRING, .s = s}; }
static bool arg_bool(const jinja_args *a, uint32_t i, const char *name, bool fallback) {
    return jinja_truth(jinja_arg(a, i, name, jinja_bool(fallback)));
}

/* ------------------------------------------------------------------ one value */

static jinja_value f_tojson(jinja_run *r, jinja_value v, const jinja_args *a) {
    static const char blanks[] = "                                ";
    jinja_json_options o = {.comma = ", ",
                            .colon = ": ",
                            .ascii = arg_bool(a, 0, "ensure_ascii", false),
                            .sort = arg_bool(a, 3, "sort_keys", false)};
    jinja_value indent = jinja_arg(a, 1, "indent", JINJA_NONE_VALUE),
                separators = jinja_arg(a, 2, "separators", JINJA_NONE_VALUE);
    if (indent.type == JINJA_INT) {
        if (indent.i > 32) return jinja_fail(r, FL_EINVAL, "tojson: an indent of more than 32");
        o.indent = blanks + 32 - (indent.i < 0 ? 0 : indent.i);
    } else if (indent.type == JINJA_STRING) {
        o.indent = base_arena_strndup(&r->arena, indent.s->p, indent.s->n);
        if (!o.indent) return jinja_fail(r, FL_ENOMEM, "values take too much memory");
    } else if (indent.type != JINJA_NONE) {
        return jinja_fail(r, FL_EINVAL, "tojson: the indent is %s", jinja_type_name(indent));
    }
    if (o.indent) o.comma = ",";
    if (separators.type == JINJA_TUPLE || separators.type == JINJA_LIST) {
        if (separators.l->n != 2 || separators.l->v[0].type != JINJA_STRING || separators.l->v[1].type != JINJA_STRING)
            return jinja_fail(r, FL_EINVAL, "tojson: separators are two strings");
        o.comma = base_arena_strndup(&r->arena, separators.l->v[0].s->p, separators.l->v[0].s->n);
        o.colon = base_arena_strndup(&r->arena, separators.l->v[1].s->p, separators.l->v[1].s->n);
        if (!o.comma || !o.colon) return jinja_fail(r, FL_ENOMEM, "values take too much memory");
    }
    return jinja_to_json(r, v, &o);
}

static jinja_value f_length(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    if (v.type == JINJA_STRING) jinja_burn(r, v.s->n / 64);
    switch (v.type) {
        case JINJA_STRING: return jinja_int((int64_t)tok_utf8_count(v.s->p, v.s->n));
        case JINJA_LIST:
        case JINJA_TUPLE:
        case JINJA_VIEW: return jinja_int(v.l->n);
        case JINJA_DICT: return jinja_int(v.d->n);
        case JINJA_UNDEFINED: return jinja_int(0);
        default: return jinja_fail(r, FL_EINVAL, "%s has no length", jinja_type_name(v));
    }
}

static jinja_value f_string(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return string_value(jinja_str(r, v));
}
static jinja_value f_trim(jinja_run *r, jinja_value v, const jinja_args *a) {
    return jinja_strip(r, jinja_str(r, v), jinja_arg(a, 0, "chars", JINJA_NONE_VALUE), true, true);
}
static jinja_value f_upper(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return jinja_recase(r, jinja_str(r, v), JINJA_CASE_UPPER);
}
static jinja_value f_lower(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return jinja_recase(r, jinja_str(r, v), JINJA_CASE_LOWER);
}
static jinja_value f_title(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return jinja_recase(r, jinja_str(r, v), JINJA_CASE_TITLE);
}
static jinja_value f_capitalize(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return jinja_recase(r, jinja_str(r, v), JINJA_CASE_CAPITAL);
}

static jinja_value f_default(jinja_run *r, jinja_value v, const jinja_args *a) {
    bool falsy = arg_bool(a, 1, "boolean", false);
    if (v.type != JINJA_UNDEFINED && !(falsy && !jinja_truth(v))) return v;
    return jinja_arg(a, 0, "default_value", jinja_string_new(r, "", 0));
}

static jinja_value f_replace(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value old = jinja_arg(a, 0, "old", JINJA_UNDEFINED_VALUE),
                with = jinja_arg(a, 1, "new", JINJA_UNDEFINED_VALUE);
    jinja_value count = jinja_arg(a, 2, "count", JINJA_NONE_VALUE);
    return jinja_replace(r, jinja_str(r, v), jinja_str(r, old), jinja_str(r, with),
                         count.type == JINJA_INT ? count.i : -1);
}

static jinja_value f_format(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value all = jinja_list_new(r, JINJA_TUPLE, a->n);
    if (a->n_names) return jinja_fail(r, FL_EUNSUPPORTED, "format: names are not supported");
    for (uint32_t i = 0; i < a->n && !r->status; i++) jinja_list_push(r, all.l, a->v[i]);
    return r->status ? all : jinja_format(r, jinja_str(r, v), all);
}

static jinja_value f_int(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value fallback = jinja_arg(a, 0, "default", jinja_int(0)), base = jinja_arg(a, 1, "base", jinja_int(10));
    if (v.type == JINJA_INT) return v;
    if (v.type == JINJA_BOOL) return jinja_int(v.b);
    if (v.type == JINJA_FLOAT) return fabs(v.f) < 9e18 ? jinja_int((int64_t)v.f) : fallback;
    if (v.type != JINJA_STRING) return fallback;
    v = jinja_strip(r, v.s, JINJA_NONE_VALUE, true, true);
    char text[64], *end;
    if (r->status || !v.s->n || v.s->n >= sizeof text || base.type != JINJA_INT || base.i < 2 || base.i > 36)
        return fallback;
    memcpy(text, v.s->p, v.s->n);
    text[v.s->n] = '\0';
    long long i = strtoll(text, &end, (int)base.i);
    if (*end == '\0') return jinja_int(i);
    double f = strtod(text, &end);
    return *end == '\0' && base.i == 10 && fabs(f) < 9e18 ? jinja_int((int64_t)f) : fallback;
}

static jinja_value f_float(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value fallback = jinja_arg(a, 0, "default", jinja_float(0));
    if (jinja_is_number(v)) return jinja_float(jinja_number(v));
    if (v.type != JINJA_STRING) return fallback;
    v = jinja_strip(r, v.s, JINJA_NONE_VALUE, true, true);
    char text[64], *end;
    if (r->status || !v.s->n || v.s->n >= sizeof text) return fallback;
    memcpy(text, v.s->p, v.s->n);
    text[v.s->n] = '\0';
    double f = strtod(text, &end);
    return *end == '\0' ? jinja_float(f) : fallback;
}

static jinja_value f_abs(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    if (v.type == JINJA_FLOAT) return jinja_float(fabs(v.f));
    if (v.type == JINJA_BOOL) return jinja_int(v.b);
    if (v.type != JINJA_INT || v.i == INT64_MIN) return jinja_fail(r, FL_EINVAL, "abs of %s", jinja_type_name(v));
    return jinja_int(v.i < 0 ? -v.i : v.i);
}

static jinja_value f_round(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value digits = jinja_arg(a, 0, "precision", jinja_int(0)), how = jinja_arg(a, 1, "method", JINJA_NONE_VALUE);
    if (!jinja_is_number(v) || digits.type != JINJA_INT || llabs(digits.i) > 15)
        return jinja_fail(r, FL_EINVAL, "round needs a number");
    double scale = pow(10, (double)digits.i), x = jinja_number(v) * scale;
    char kind = how.type == JINJA_STRING && how.s->n ? how.s->p[0] : 'c';
    x = kind == 'f' ? floor(x) : how.type == JINJA_STRING && how.s->n == 4 ? ceil(x) : rint(x);
    return jinja_float(x / scale);
}

static jinja_value f_safe(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return jinja_markup(r, jinja_str(r, v), true);
}
static jinja_value f_escape(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    return jinja_markup(r, jinja_str(r, v), false);
}

static jinja_value f_indent(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value width = jinja_arg(a, 0, "width", jinja_int(4));
    bool first = arg_bool(a, 1, "first", false), blank = arg_bool(a, 2, "blank", false);
    if (width.type == JINJA_INT && (width.i < 0 || width.i > 1000))
        return jinja_fail(r, FL_EINVAL, "indent: a width of %lld", (long long)width.i);
    const jinja_string *s = jinja_str(r, v);
    jinja_text t = {0};
    for (size_t begin = 0, line = 0; begin <= s->n && !r->status; line++) {
        const char *p = begin < s->n ? memchr(s->p + begin, '\n', s->n - begin) : NULL;
        size_t end = p ? (size_t)(p - s->p) : s->n;
        bool put = line == 0 ? first : end > begin || blank;
        for (int64_t k = 0; put && width.type == JINJA_INT && k < width.i; k++) jinja_text_puts(r, &t, " ");
        if (put && width.type == JINJA_STRING) jinja_text_string(r, &t, width.s);
        jinja_text_slice(r, &t, s, begin, end + (p ? 1 : 0));
        if (!p) break;
        begin = end + 1;
    }
    return jinja_text_end(r, &t);
}

/* ------------------------------------------------------------------ lists */

/* v.a.b for "a.b"; numbers are indices; a missing step gives undefined. */
static jinja_value get_path(jinja_run *r, jinja_value v, jinja_value path) {
    if (path.type == JINJA_INT) return jinja_get_item(r, v, path);
    if (path.type != JINJA_STRING) return v;
    for (size_t begin = 0; begin <= path.s->n && !r->status;) {
        const char *dot = begin < path.s->n ? memchr(path.s->p + begin, '.', path.s->n - begin) : NULL;
        size_t end = dot ? (size_t)(dot - path.s->p) : path.s->n;
        jinja_value key = jinja_string_slice(r, path.s, begin, end);
        if (r->status) break;
        bool number = key.s->n > 0 && key.s->n < 9 && strspn(key.s->p, "0123456789") >= key.s->n;
        int64_t index = 0;
        for (size_t i = 0; number && i < key.s->n; i++) index = index * 10 + (key.s->p[i] - '0');
        v = jinja_get_item(r, v, number ? jinja_int(index) : key);
        begin = end + 1;
    }
    return v;
}

static jinja_value f_list(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    const jinja_list *l = jinja_items(r, v);
    jinja_value out = jinja_list_new(r, JINJA_LIST, l ? l->n : 0);
    for (uint32_t i = 0; l && i < l->n && !r->status; i++) jinja_list_push(r, out.l, l->v[i]);
    return out;
}

static jinja_value f_items(jinja_run *r, jinja_value v, const jinja_args *a) {
    if (v.type == JINJA_UNDEFINED) return jinja_list_new(r, JINJA_GENERATOR, 0);
    if (v.type != JINJA_DICT) return jinja_fail(r, FL_EINVAL, "items needs a dict, not %s", jinja_type_name(v));
    jinja_value out = jinja_call_method(r, v, "items", a);
    if (!r->status) out.type = JINJA_GENERATOR;
    return out;
}

static jinja_value f_join(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value by = jinja_arg(a, 0, "d", JINJA_UNDEFINED_VALUE),
                attribute = jinja_arg(a, 1, "attribute", JINJA_NONE_VALUE);
    const jinja_string *between = jinja_str(r, by);
    const jinja_list *l = jinja_items(r, v);
    jinja_text t = {0};
    for (uint32_t i = 0; l && i < l->n && !r->status; i++) {
        if (i) jinja_text_string(r, &t, between);
        jinja_value x = get_path(r, l->v[i], attribute);
        if (!r->status) jinja_text_value(r, &t, x);
    }
    return jinja_text_end(r, &t);
}

static jinja_value f_first(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    const jinja_list *l = jinja_items(r, v);
    return l && l->n ? l->v[0] : jinja_undefined("the first of nothing");
}

static jinja_value f_last(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    if (v.type == JINJA_GENERATOR) return jinja_fail(r, FL_EINVAL, "a generator has no last element");
    const jinja_list *l = jinja_items(r, v);
    return l && l->n ? l->v[l->n - 1] : jinja_undefined("the last of nothing");
}

static jinja_value f_reverse(jinja_run *r, jinja_value v, const jinja_args *a) {
    (void)a;
    const jinja_list *l = jinja_items(r, v);
    if (v.type == JINJA_STRING) {
        jinja_text t = {0};
        for (uint32_t i = l ? l->n : 0; i-- > 0 && !r->status;) jinja_text_string(r, &t, l->v[i].s);
        return jinja_text_end(r, &t);
    }
    jinja_value out = jinja_list_new(r, JINJA_GENERATOR, l ? l->n : 0);
    for (uint32_t i = l ? l->n : 0; i-- > 0 && !r->status;) jinja_list_push(r, out.l, l->v[i]);
    return out;
}

/* What a value is ordered or compared by: its attribute, in lower case unless case counts. */
static jinja_value sort_key(jinja_run *r, jinja_value v, jinja_value attribute, bool cased) {
    v = get_path(r, v, attribute);
    return v.type == JINJA_STRING && !cased && !r->status ? jinja_recase(r, v.s, JINJA_CASE_LOWER) : v;
}

/* As sort_key(), for several attributes separated by commas: a tuple. */
static jinja_value sort_keys(jinja_run *r, jinja_value v, jinja_value attribute, bool cased) {
    if (attribute.type != JINJA_STRING || !memchr(attribute.s->p, ',', attribute.s->n))
        return sort_key(r, v, attribute, cased);
    jinja_value out = jinja_list_new(r, JINJA_TUPLE, 0);
    for (size_t begin = 0; begin <= attribute.s->n && !r->status;) {
        const char *comma = begin < attribute.s->n ? memchr(attribute.s->p + begin, ',', attribute.s->n - begin) : NULL;
        size_t end = comma ? (size_t)(comma - attribute.s->p) : attribute.s->n;
        jinja_value part = jinja_string_slice(r, attribute.s, begin, end);
        if (!r->status) jinja_list_push(r, out.l, sort_key(r, v, part, cased));
        begin = end + 1;
    }
    return out;
}

/* Stable merge sort of keyed entries: key orders, value follows. */
static void sort_entries(jinja_run *r, jinja_entry *e, uint32_t n, bool down) {
    jinja_entry *other = jinja_alloc(r, n * sizeof *other);
    for (uint32_t width = 1; other && width < n && !r->status; width *= 2) {
        for (uint32_t lo = 0; lo < n; lo += 2 * width) {
            uint32_t mid = lo + width < n ? lo + width : n, hi = lo + 2 * width < n ? lo + 2 * width : n, i = lo,
                     k = mid;
            for (uint32_t to = lo; to < hi; to++) {
                int c = i < mid && k < hi ? jinja_order(r, e[i].key, e[k].key) : 0;
                bool left = k == hi || (i < mid && (down ? c >= 0 : c <= 0));
                other[to] = left ? e[i++] : e[k++];
            }
        }
        memcpy(e, other, n * sizeof *e);
    }
}

static jinja_value f_sort(jinja_run *r, jinja_value v, const jinja_args *a) {
    bool down = arg_bool(a, 0, "reverse", false), cased = arg_bool(a, 1, "case_sensitive", false);
    jinja_value attribute = jinja_arg(a, 2, "attribute", JINJA_NONE_VALUE);
    const jinja_list *l = jinja_items(r, v);
    jinja_value out = jinja_list_new(r, JINJA_LIST, l ? l->n : 0);
    jinja_entry *e = l ? jinja_alloc(r, l->n * sizeof *e) : NULL;
    for (uint32_t i = 0; e && i < l->n && !r->status; i++)
        e[i] = (jinja_entry){sort_keys(r, l->v[i], attribute, cased), l->v[i]};
    if (e && !r->status) sort_entries(r, e, l->n, down);
    for (uint32_t i = 0; e && i < l->n && !r->status; i++) jinja_list_push(r, out.l, e[i].value);
    return out;
}

static jinja_value f_dictsort(jinja_run *r, jinja_value v, const jinja_args *a) {
    bool cased = arg_bool(a, 0, "case_sensitive", false), down = arg_bool(a, 2, "reverse", false);
    jinja_value by = jinja_arg(a, 1, "by", JINJA_NONE_VALUE);
    bool by_value = by.type == JINJA_STRING && by.s->n == 5;
    if (v.type != JINJA_DICT) return jinja_fail(r, FL_EINVAL, "dictsort needs a dict, not %s", jinja_type_name(v));
    jinja_value out = jinja_list_new(r, JINJA_LIST, v.d->n);
    jinja_entry *e = jinja_alloc(r, v.d->n * sizeof *e);
    for (uint32_t i = 0; e && i < v.d->n && !r->status; i++) {
        jinja_value pair = jinja_list_new(r, JINJA_TUPLE, 2);
        if (r->status || !jinja_list_push(r, pair.l, v.d->e[i].key) || !jinja_list_push(r, pair.l, v.d->e[i].value))
            break;
        e[i] = (jinja_entry){sort_key(r, pair.l->v[by_value], JINJA_NONE_VALUE, cased), pair};
    }
    if (e && !r->status) sort_entries(r, e, v.d->n, down);
    for (uint32_t i = 0; e && i < v.d->n && !r->status; i++) jinja_list_push(r, out.l, e[i].value);
    return out;
}

static jinja_value f_unique(jinja_run *r, jinja_value v, const jinja_args *a) {
    bool cased = arg_bool(a, 0, "case_sensitive", false);
    jinja_value attribute = jinja_arg(a, 1, "attribute", JINJA_NONE_VALUE);
    const jinja_list *l = jinja_items(r, v);
    jinja_value out = jinja_list_new(r, JINJA_GENERATOR, 0), seen = jinja_dict_new(r);
    for (uint32_t i = 0; l && i < l->n && !r->status; i++) {
        jinja_value key = sort_key(r, l->v[i], attribute, cased);
        if (r->status || jinja_dict_find(seen.d, key)) continue;
        if (jinja_dict_set(r, seen.d, key, JINJA_NONE_VALUE)) jinja_list_push(r, out.l, l->v[i]);
    }
    return out;
}

static jinja_value f_sum(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value attribute = jinja_arg(a, 0, "attribute", JINJA_NONE_VALUE),
                sum = jinja_arg(a, 1, "start", jinja_int(0));
    const jinja_list *l = jinja_items(r, v);
    for (uint32_t i = 0; l && i < l->n && !r->status; i++) sum = jinja_add(r, sum, get_path(r, l->v[i], attribute));
    return sum;
}

static jinja_value extreme(jinja_run *r, jinja_value v, const jinja_args *a, int sign) {
    bool cased = arg_bool(a, 0, "case_sensitive", false);
    jinja_value attribute = jinja_arg(a, 1, "attribute", JINJA_NONE_VALUE),
                best = jinja_undefined("the extreme of nothing"), best_key = best;
    const jinja_list *l = jinja_items(r, v);
    for (uint32_t i = 0; l && i < l->n && !r->status; i++) {
        jinja_value key = sort_key(r, l->v[i], attribute, cased);
        if (i && jinja_order(r, key, best_key) * sign <= 0) continue;
        best = l->v[i];
        best_key = key;
    }
    return best;
}

static jinja_value f_max(jinja_run *r, jinja_value v, const jinja_args *a) { return extreme(r, v, a, 1); }
static jinja_value f_min(jinja_run *r, jinja_value v, const jinja_args *a) { return extreme(r, v, a, -1); }

static jinja_value f_batch(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value size = jinja_arg(a, 0, "linecount", JINJA_NONE_VALUE),
                fill = jinja_arg(a, 1, "fill_with", JINJA_NONE_VALUE);
    const jinja_list *l = jinja_items(r, v);
    if (size.type != JINJA_INT || size.i < 1 || size.i > JINJA_RANGE_MAX)
        return jinja_fail(r, FL_EINVAL, "batch needs a size");
    jinja_value out = jinja_list_new(r, JINJA_GENERATOR, 0);
    for (uint32_t i = 0; l && i < l->n && !r->status; i += (uint32_t)size.i) {
        jinja_value part = jinja_list_new(r, JINJA_LIST, 0);
        for (uint32_t k = i; k < i + (uint32_t)size.i && !r->status; k++) {
            if (k < l->n)
                jinja_list_push(r, part.l, l->v[k]);
            else if (fill.type != JINJA_NONE)
                jinja_list_push(r, part.l, fill);
        }
        if (!r->status) jinja_list_push(r, out.l, part);
    }
    return out;
}

/* The name of a filter or test given as a value. */
static int by_name(jinja_run *r, jinja_value name, int (*find)(const char *), const char *what) {
    char text[32] = "";
    if (name.type == JINJA_STRING && name.s->n < sizeof text) memcpy(text, name.s->p, name.s->n);
    int i = find(text);
    if (i < 0) jinja_fail(r, FL_EINVAL, "no %s named \"%s\"", what, text);
    return i;
}

/* map, select and their relatives take anything false for an empty list. */
static const jinja_list *items_or_none(jinja_run *r, jinja_value v) {
    return jinja_truth(v) ? jinja_items(r, v) : NULL;
}

static jinja_args rest_of(const jinja_args *a, uint32_t skip) {
    jinja_args rest = *a;
    rest.v += skip;
    rest.n -= skip;
    return rest;
}

static jinja_value f_map(jinja_run *r, jinja_value v, const jinja_args *a) {
    jinja_value attribute = jinja_arg(a, UINT32_MAX, "attribute", JINJA_NONE_VALUE),
                fallback = jinja_arg(a, UINT32_MAX, "default", JINJA_UNDEFINED_VALUE);
    bool by_attribute = attribute.type != JINJA_NONE;
    if (!by_attribute && !a->n) return jinja_fail(r, FL_EINVAL, "map needs a filter or an attribute");
    int f = by_attribute ? 0 : by_name(r, a->v[0], jinja_filter_find, "filter");
    const jinja_args rest = by_attribute ? *a : rest_of(a, 1);
    const jinja_list *l = r->status ? NULL : items_or_none(r, v);
    jinja_value out = jinja_list_new(r, JINJA_GENERATOR, l ? l->n : 0);
    for (uint32_t i = 0; l && i < l->n && !r->status; i++) {
        jinja_value x = by_attribute ? get_path(r, l->v[i], attribute) : jinja_filter_apply(r, f, l->v[i], &rest);
        if (by_attribute && x.type == JINJA_UNDEFINED && fallback.type != JINJA_UNDEFINED) x = fallback;
        if (!r->status) jinja_list_push(r, out.l, x);
    }
    return out;
}

/* select and reject; with attribute, of the first argument. */
static jinja_value choose(jinja_run *r, jinja_value v, const jinja_args *a, bool attribute, bool keep) {
    uint32_t skip = attribute ? 1 : 0;
    if (a->n < skip) return jinja_fail(r, FL_EINVAL, "selectattr and rejectattr need an attribute");
    int test = a->n > skip ? by_name(r, a->v[skip], jinja_test_find, "test") : -1;
    const jinja_args rest = test >= 0 ? rest_of(a, skip + 1) : (jinja_args){0};
    const jinja_list *l = r->status ? NULL : items_or_none(r, v);
    jinja_value out = jinja_list_new(r, JINJA_GENERATOR, 0);
    for (uint32_t i = 0; l && i < l->n && !r->status; i++) {
        jinja_value x = attribute ? get_path(r, l->v[i], a->v[0]) : l->v[i];
        bool yes = r->status ? false : test >= 0 ? jinja_test_apply(r, test, x, &rest) : jinja_truth(x);
        if (yes == keep && !r->status) jinja_list_push(r, out.l, l->v[i]);
    }
    return out;
}

static jinja_value f_select(jinja_run *r, jinja_value v, const jinja_args *a) { return choose(r, v, a, false, true); }
static jinja_value f_reject(jinja_run *r, jinja_value v, const jinja_args *a) { return choose(r, v, a, false, false); }
static jinja_value f_selectattr(jinja_run *r, jinja_value v, const jinja_args *a) {
    return choose(r, v, a, true, true);
}
static jinja_value f_rejectattr(jinja_run *r, jinja_value v, const jinja_args *a) {
    return choose(r, v, a, true, false);
}

/* ------------------------------------------------------------------ table */

static const struct {
    const char *name;
    filter *run;
} filters[] = {
    {"tojson", f_tojson},
    {"length", f_length},
    {"count", f_length},
    {"trim", f_trim},
    {"string", f_string},
    {"selectattr", f_selectattr},
    {"rejectattr", f_rejectattr},
    {"select", f_select},
    {"reject", f_reject},
    {"map", f_map},
    {"join", f_join},
    {"list", f_list},
    {"default", f_default},
    {"d", f_default},
    {"items", f_items},
    {"safe", f_safe},
    {"first", f_first},
    {"last", f_last},
    {"reverse", f_reverse},
    {"dictsort", f_dictsort},
    {"sort", f_sort},
    {"unique", f_unique},
    {"upper", f_upper},
    {"lower", f_lower},
    {"title", f_title},
    {"capitalize", f_capitalize},
    {"format", f_format},
    {"replace", f_replace},
    {"int", f_int},
    {"float", f_float},
    {"abs", f_abs},
    {"round", f_round},
    {"sum", f_sum},
    {"max", f_max},
    {"min", f_min},
    {"batch", f_batch},
    {"indent", f_indent},
    {"escape", f_escape},
    {"e", f_escape},
};

int jinja_filter_find(const char *name) {
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (strcmp(filters[i].name, name) == 0) return (int)i;
    return -1;
}

jinja_value jinja_filter_apply(jinja_run *r, int f, jinja_value v, const jinja_args *a) {
    if (!jinja_burn(r, 1)) return JINJA_UNDEFINED_VALUE;
    return filters[f].run(r, v, a);
}
