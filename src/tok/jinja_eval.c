/* Expressions. The walk over the tree is recursive; r->frames bounds it (JINJA_FRAMES_MAX), so
 * that neither a long chain of operators nor macros that call each other can use up the stack.
 */
#include "tok/jinja_int.h"

#include "tok/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { FUNCTION_RAISE = 1, FUNCTION_STRFTIME, FUNCTION_RANGE, FUNCTION_NAMESPACE, FUNCTION_DICT, FUNCTION_REFUSED };

jinja_value jinja_global(const char *name) {
    static const struct {
        const char *name;
        int function;
    } globals[] = {{"raise_exception", FUNCTION_RAISE},
                   {"strftime_now", FUNCTION_STRFTIME},
                   {"range", FUNCTION_RANGE},
                   {"namespace", FUNCTION_NAMESPACE},
                   {"dict", FUNCTION_DICT},
                   {"cycler", FUNCTION_REFUSED},
                   {"joiner", FUNCTION_REFUSED},
                   {"lipsum", FUNCTION_REFUSED},
                   {"self", FUNCTION_REFUSED}};
    for (size_t i = 0; i < sizeof globals / sizeof *globals; i++)
        if (strcmp(name, globals[i].name) == 0)
            return (jinja_value){.type = JINJA_FUNCTION, .function = globals[i].function};
    return jinja_undefined(name);
}

/* ------------------------------------------------------------------ access */

static jinja_value loop_attr(jinja_run *r, jinja_value v, const char *name) {
    const jinja_loop *l = v.loop;
    uint32_t i = l->index, n = l->items->n;
    if (strcmp(name, "index0") == 0) return jinja_int(i);
    if (strcmp(name, "index") == 0) return jinja_int(i + 1);
    if (strcmp(name, "first") == 0) return jinja_bool(i == 0);
    if (strcmp(name, "last") == 0) return jinja_bool(i + 1 == n);
    if (strcmp(name, "length") == 0) return jinja_int(n);
    if (strcmp(name, "revindex") == 0) return jinja_int(n - i);
    if (strcmp(name, "revindex0") == 0) return jinja_int(n - i - 1);
    if (strcmp(name, "depth") == 0) return jinja_int(1);
    if (strcmp(name, "depth0") == 0) return jinja_int(0);
    if (strcmp(name, "previtem") == 0) return i > 0 ? l->items->v[i - 1] : jinja_undefined("there is no previous item");
    if (strcmp(name, "nextitem") == 0) return i + 1 < n ? l->items->v[i + 1] : jinja_undefined("there is no next item");
    if (strcmp(name, "cycle") != 0 && strcmp(name, "changed") != 0) return jinja_undefined(name);
    jinja_method *m = jinja_alloc(r, sizeof *m);
    if (!m) return JINJA_UNDEFINED_VALUE;
    *m = (jinja_method){v, name};
    return (jinja_value){.type = JINJA_METHOD, .method = m};
}

/* What fails when one goes on with something undefined. */
static jinja_value missing(jinja_run *r, jinja_value v) {
    return jinja_fail(r, FL_EINVAL, "%.100s is undefined", v.hint ? v.hint : "the value");
}

/* Methods hide the entries of a dict, as attributes do in Python. */
jinja_value jinja_get_attr(jinja_run *r, jinja_value v, const char *name) {
    if (v.type == JINJA_UNDEFINED) return missing(r, v);
    if (v.type == JINJA_LOOP) return loop_attr(r, v, name);
    if (jinja_has_method(v, name)) {
        jinja_method *m = jinja_alloc(r, sizeof *m);
        if (!m) return JINJA_UNDEFINED_VALUE;
        *m = (jinja_method){v, name};
        return (jinja_value){.type = JINJA_METHOD, .method = m};
    }
    if (v.type == JINJA_DICT || v.type == JINJA_NAMESPACE) {
        const jinja_entry *e = jinja_dict_find_name(v.d, name);
        if (e) return e->value;
    }
    return jinja_undefined(name);
}

/* Byte offset of code point i, which exists. */
static size_t char_offset(const jinja_string *s, int64_t i) {
    size_t at = 0;
    for (; i > 0; i--)
        for (at++; at < s->n && ((uint8_t)s->p[at] & 0xc0) == 0x80;) at++;
    return at;
}

static size_t char_end(const jinja_string *s, size_t at) {
    for (at++; at < s->n && ((uint8_t)s->p[at] & 0xc0) == 0x80;) at++;
    return at;
}

static jinja_value item_at(jinja_run *r, jinja_value v, int64_t i) {
    if (v.type == JINJA_STRING && !jinja_burn(r, v.s->n / 32)) return JINJA_UNDEFINED_VALUE;
    int64_t n = v.type == JINJA_STRING ? (int64_t)tok_utf8_count(v.s->p, v.s->n) : v.l->n;
    if (i < 0) i += n;
    if (i < 0 || i >= n) return jinja_undefined("an element beyond the end");
    if (v.type != JINJA_STRING) return v.l->v[i];
    size_t at = char_offset(v.s, i);
    return jinja_string_slice(r, v.s, at, char_end(v.s, at));
}

jinja_value jinja_get_item(jinja_run *r, jinja_value v, jinja_value key) {
    if (v.type == JINJA_UNDEFINED) return missing(r, v);
    if (v.type == JINJA_DICT) {
        const jinja_entry *e = jinja_dict_get(r, v.d, key);
        if (e) return e->value;
    }
    bool indexed = v.type == JINJA_STRING || v.type == JINJA_LIST || v.type == JINJA_TUPLE ||
                   (v.type == JINJA_VIEW && !v.l->label);
    if (indexed && (key.type == JINJA_INT || key.type == JINJA_BOOL))
        return item_at(r, v, key.type == JINJA_INT ? key.i : key.b);
    if (key.type != JINJA_STRING) return jinja_undefined("an element");
    char *name = base_arena_strndup(&r->arena, key.s->p, key.s->n);
    if (!name) return jinja_fail(r, FL_ENOMEM, "values take too much memory");
    return jinja_get_attr(r, v, name);
}

/* Puts a slice bound into [low, high]; absent: fallback. */
static int64_t slice_bound(jinja_run *r, jinja_value v, int64_t n, int64_t low, int64_t high, int64_t fallback) {
    if (v.type == JINJA_NONE) return fallback;
    if (v.type != JINJA_INT && v.type != JINJA_BOOL) {
        jinja_fail(r, FL_EINVAL, "a slice needs integers, not %s", jinja_type_name(v));
        return 0;
    }
    int64_t i = v.type == JINJA_INT ? v.i : v.b;
    if (i < 0) i = i < -n ? low : i + n;
    return i < low ? low : i > high ? high : i;
}

static jinja_value slice_string(jinja_run *r, const jinja_string *s, int64_t begin, int64_t end, int64_t step,
                                int64_t n) {
    if (step == 1) {
        if (begin >= end) return jinja_string_new(r, "", 0);
        bool ascii = (size_t)n == s->n;
        return jinja_string_slice(r, s, ascii ? (size_t)begin : char_offset(s, begin),
                                  ascii ? (size_t)end : char_offset(s, end));
    }
    jinja_value chars = {.type = JINJA_STRING, .s = s};
    const jinja_list *l = jinja_items(r, chars);
    jinja_text t = {0};
    for (int64_t i = begin; l && !r->status && (step > 0 ? i < end : i > end); i += step)
        jinja_text_string(r, &t, l->v[i].s);
    return jinja_text_end(r, &t);
}

static jinja_value eval_slice(jinja_run *r, const jinja_node *node) {
    jinja_value v = jinja_eval(r, node->a), part[3];
    for (int i = 0; i < 3; i++) part[i] = node->list[i] ? jinja_eval(r, node->list[i]) : JINJA_NONE_VALUE;
    if (r->status) return JINJA_UNDEFINED_VALUE;
    if (v.type == JINJA_UNDEFINED) return missing(r, v);
    if (v.type != JINJA_STRING && v.type != JINJA_LIST && v.type != JINJA_TUPLE && v.type != JINJA_VIEW)
        return jinja_undefined("a slice");
    if (v.type == JINJA_STRING && !jinja_burn(r, v.s->n / 32)) return JINJA_UNDEFINED_VALUE;
    int64_t n = v.type == JINJA_STRING ? (int64_t)tok_utf8_count(v.s->p, v.s->n) : v.l->n;
    int64_t step = part[2].type == JINJA_NONE ? 1 : part[2].type == JINJA_INT ? part[2].i : 0;
    if (step == 0)
        return jinja_fail(r, FL_EINVAL, "the step of a slice cannot be %s",
                          part[2].type == JINJA_INT ? "zero" : jinja_type_name(part[2]));
    if (step > n + 1) step = n + 1;
    if (step < -n - 1) step = -n - 1;
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    int64_t begin = slice_bound(r, part[0], n, low, high, step > 0 ? low : high);
    int64_t end = slice_bound(r, part[1], n, low, high, step > 0 ? high : low);
    if (r->status) return JINJA_UNDEFINED_VALUE;
    if (v.type == JINJA_STRING) return slice_string(r, v.s, begin, end, step, n);
    jinja_value out = jinja_list_new(r, v.type, 0);
    for (int64_t i = begin; !r->status && (step > 0 ? i < end : i > end); i += step)
        jinja_list_push(r, out.l, v.l->v[i]);
    return out;
}

/* ------------------------------------------------------------------ arithmetic */

static int64_t whole(jinja_value v) { return v.type == JINJA_BOOL ? v.b : v.i; }

static jinja_value bad_operands(jinja_run *r, const char *op, jinja_value a, jinja_value b) {
    if (a.type == JINJA_UNDEFINED) return missing(r, a);
    if (b.type == JINJA_UNDEFINED) return missing(r, b);
    return jinja_fail(r, FL_EINVAL, "%s does not work for %s and %s", op, jinja_type_name(a), jinja_type_name(b));
}

jinja_value jinja_add(jinja_run *r, jinja_value a, jinja_value b) {
    if (a.type == JINJA_STRING && b.type == JINJA_STRING) {
        bool markup = a.s->markup || b.s->markup;
        jinja_text t = {0};
        if (markup) {
            a = jinja_markup(r, a.s, false);
            b = jinja_markup(r, b.s, false);
        }
        if (r->status) return JINJA_UNDEFINED_VALUE;
        jinja_text_string(r, &t, a.s);
        jinja_text_string(r, &t, b.s);
        jinja_value sum = jinja_text_end(r, &t);
        return markup && !r->status ? jinja_markup(r, sum.s, true) : sum;
    }
    if (a.type == b.type && (a.type == JINJA_LIST || a.type == JINJA_TUPLE)) {
        jinja_value out = jinja_list_new(r, a.type, 0);
        for (uint32_t i = 0; i < a.l->n && !r->status; i++) jinja_list_push(r, out.l, a.l->v[i]);
        for (uint32_t i = 0; i < b.l->n && !r->status; i++) jinja_list_push(r, out.l, b.l->v[i]);
        return out;
    }
    if (!jinja_is_number(a) || !jinja_is_number(b)) return bad_operands(r, "+", a, b);
    if (a.type == JINJA_FLOAT || b.type == JINJA_FLOAT) return jinja_float(jinja_number(a) + jinja_number(b));
    int64_t sum;
    if (__builtin_add_overflow(whole(a), whole(b), &sum)) return jinja_fail(r, FL_EINVAL, "a number beyond 64 bits");
    return jinja_int(sum);
}

static jinja_value repeat(jinja_run *r, jinja_value v, int64_t count) {
    if (count < 0) count = 0;
    uint64_t size = v.type == JINJA_STRING ? v.s->n : v.l->n;
    if (size && (uint64_t)count > JINJA_OUTPUT_MAX / size)
        return jinja_fail(r, FL_ENOMEM, "a value repeated %lld times is too long", (long long)count);
    if (!size) count = 0;
    if (v.type == JINJA_STRING) {
        jinja_text t = {0};
        for (int64_t i = 0; i < count && jinja_burn(r, 1); i++) jinja_text_string(r, &t, v.s);
        return jinja_text_end(r, &t);
    }
    jinja_value out = jinja_list_new(r, v.type, 0);
    for (int64_t i = 0; i < count && !r->status; i++)
        for (uint32_t k = 0; k < v.l->n && !r->status; k++) jinja_list_push(r, out.l, v.l->v[k]);
    return out;
}

static jinja_value multiply(jinja_run *r, jinja_value a, jinja_value b) {
    bool a_many = a.type == JINJA_STRING || a.type == JINJA_LIST || a.type == JINJA_TUPLE;
    bool b_many = b.type == JINJA_STRING || b.type == JINJA_LIST || b.type == JINJA_TUPLE;
    if (a_many && (b.type == JINJA_INT || b.type == JINJA_BOOL)) return repeat(r, a, whole(b));
    if (b_many && (a.type == JINJA_INT || a.type == JINJA_BOOL)) return repeat(r, b, whole(a));
    if (!jinja_is_number(a) || !jinja_is_number(b)) return bad_operands(r, "*", a, b);
    if (a.type == JINJA_FLOAT || b.type == JINJA_FLOAT) return jinja_float(jinja_number(a) * jinja_number(b));
    int64_t product;
    if (__builtin_mul_overflow(whole(a), whole(b), &product))
        return jinja_fail(r, FL_EINVAL, "a number beyond 64 bits");
    return jinja_int(product);
}

/* / // % ; the quotient of // rounds down, the remainder has the sign of the divisor. */
static jinja_value divide(jinja_run *r, int op, jinja_value a, jinja_value b) {
    if (op == '%' && a.type == JINJA_STRING) return jinja_format(r, a.s, b);
    if (!jinja_is_number(a) || !jinja_is_number(b)) return bad_operands(r, op == '%' ? "%" : "/", a, b);
    if (jinja_number(b) == 0) return jinja_fail(r, FL_EINVAL, "division by zero");
    if (op == '/') return jinja_float(jinja_number(a) / jinja_number(b));
    if (a.type == JINJA_FLOAT || b.type == JINJA_FLOAT) {
        double x = jinja_number(a), y = jinja_number(b), rest = fmod(x, y);
        if (rest != 0 && (rest < 0) != (y < 0)) rest += y;
        return jinja_float(op == '%' ? rest : floor((x - rest) / y + 0.5));
    }
    int64_t x = whole(a), y = whole(b);
    if (y == -1) return op == '%' ? jinja_int(0) : multiply(r, jinja_int(x), jinja_int(-1));
    int64_t quotient = x / y, rest = x % y;
    if (rest && (rest < 0) != (y < 0)) {
        rest += y;
        quotient--;
    }
    return jinja_int(op == '%' ? rest : quotient);
}

static jinja_value power(jinja_run *r, jinja_value a, jinja_value b) {
    if (!jinja_is_number(a) || !jinja_is_number(b)) return bad_operands(r, "**", a, b);
    if (a.type == JINJA_FLOAT || b.type == JINJA_FLOAT || whole(b) < 0)
        return jinja_float(pow(jinja_number(a), jinja_number(b)));
    int64_t base = whole(a), result = 1;
    int64_t exponent = whole(b);
    if (base == 0 || base == 1) return jinja_int(exponent ? base : 1);
    if (exponent > 64) return jinja_fail(r, FL_EINVAL, "a number beyond 64 bits");
    for (; exponent > 0; exponent--)
        if (__builtin_mul_overflow(result, base, &result)) return jinja_fail(r, FL_EINVAL, "a number beyond 64 bits");
    return jinja_int(result);
}

static jinja_value eval_binary(jinja_run *r, const jinja_node *n) {
    jinja_value a = jinja_eval(r, n->a), b = jinja_eval(r, n->b);
    if (r->status) return JINJA_UNDEFINED_VALUE;
    switch (n->op) {
        case '+': return jinja_add(r, a, b);
        case '*': return multiply(r, a, b);
        case JINJA_OP2('*', '*'): return power(r, a, b);
        case '-': break;
        default: return divide(r, n->op, a, b);
    }
    if (!jinja_is_number(a) || !jinja_is_number(b)) return bad_operands(r, "-", a, b);
    if (a.type == JINJA_FLOAT || b.type == JINJA_FLOAT) return jinja_float(jinja_number(a) - jinja_number(b));
    int64_t difference;
    if (__builtin_sub_overflow(whole(a), whole(b), &difference))
        return jinja_fail(r, FL_EINVAL, "a number beyond 64 bits");
    return jinja_int(difference);
}

static jinja_value eval_unary(jinja_run *r, const jinja_node *n) {
    jinja_value v = jinja_eval(r, n->a);
    if (r->status) return JINJA_UNDEFINED_VALUE;
    if (!jinja_is_number(v))
        return v.type == JINJA_UNDEFINED ? missing(r, v)
                                         : jinja_fail(r, FL_EINVAL, "%s has no sign", jinja_type_name(v));
    if (n->op == '+') return v.type == JINJA_BOOL ? jinja_int(v.b) : v;
    if (v.type == JINJA_FLOAT) return jinja_float(-v.f);
    return multiply(r, jinja_int(whole(v)), jinja_int(-1));
}

static bool compare(jinja_run *r, int op, jinja_value a, jinja_value b) {
    switch (op) {
        case JINJA_OP2('=', '='): return jinja_equal(r, a, b);
        case JINJA_OP2('!', '='): return !jinja_equal(r, a, b);
        case 1: return jinja_contains(r, a, b);
        case 2: return !jinja_contains(r, a, b);
        default: break;
    }
    if (a.type == JINJA_UNDEFINED || b.type == JINJA_UNDEFINED) bad_operands(r, "<", a, b);
    int c = r->status ? 0 : jinja_order(r, a, b);
    switch (op) {
        case '<': return c < 0;
        case '>': return c > 0;
        case JINJA_OP2('<', '='): return c <= 0;
        default: return c >= 0;
    }
}

static jinja_value eval_compare(jinja_run *r, const jinja_node *n) {
    jinja_value left = jinja_eval(r, n->a);
    for (uint32_t i = 0; i < n->n && !r->status; i++) {
        jinja_value right = jinja_eval(r, n->list[i]->a);
        if (r->status || !compare(r, n->list[i]->op, left, right)) return jinja_bool(false);
        left = right;
    }
    return jinja_bool(true);
}

/* ------------------------------------------------------------------ calls */

jinja_value jinja_arg(const jinja_args *a, uint32_t i, const char *name, jinja_value fallback) {
    if (i < a->n) return a->v[i];
    for (uint32_t k = 0; name && k < a->n_names; k++)
        if (strcmp(a->names[k], name) == 0) return a->v[a->n + k];
    return fallback;
}

static bool push_keyword(jinja_run *r, jinja_list *l, jinja_list *names, const char *name, jinja_value v) {
    return jinja_list_push(r, l, v) && jinja_list_push(r, names, jinja_undefined(name));
}

/* Keywords and ** behind the positional ones. */
static bool eval_keywords(jinja_run *r, const jinja_node *call, jinja_list *l, jinja_list *names) {
    for (uint32_t i = 0; i < call->n && !r->status; i++) {
        const jinja_node *n = call->list[i];
        if (n->type == NODE_KEYWORD) {
            push_keyword(r, l, names, n->name, jinja_eval(r, n->a));
        } else if (n->type == NODE_STAR2) {
            jinja_value d = jinja_eval(r, n->a);
            if (!r->status && d.type != JINJA_DICT)
                jinja_fail(r, FL_EINVAL, "** needs a dict, not %s", jinja_type_name(d));
            for (uint32_t k = 0; !r->status && k < d.d->n; k++) {
                const jinja_string *s = jinja_str(r, d.d->e[k].key);
                char *name = base_arena_strndup(&r->arena, s->p, s->n);
                if (!name)
                    jinja_fail(r, FL_ENOMEM, "values take too much memory");
                else
                    push_keyword(r, l, names, name, d.d->e[k].value);
            }
        }
    }
    return !r->status;
}

static bool eval_args(jinja_run *r, const jinja_node *call, jinja_args *out) {
    *out = (jinja_args){0};
    if (!call->n) return true;
    jinja_value v = jinja_list_new(r, JINJA_LIST, call->n), names = jinja_list_new(r, JINJA_LIST, 0);
    if (r->status) return false;
    for (uint32_t i = 0; i < call->n && !r->status; i++) {
        const jinja_node *n = call->list[i];
        if (n->type == NODE_KEYWORD || n->type == NODE_STAR2) continue;
        jinja_value x = jinja_eval(r, n->type == NODE_STAR ? n->a : n);
        const jinja_list *l = n->type == NODE_STAR && !r->status ? jinja_items(r, x) : NULL;
        for (uint32_t k = 0; l && k < l->n; k++) jinja_list_push(r, v.l, l->v[k]);
        if (n->type != NODE_STAR) jinja_list_push(r, v.l, x);
    }
    uint32_t n_positional = v.l->n;
    if (r->status || !eval_keywords(r, call, v.l, names.l)) return false;
    out->n = n_positional;
    out->n_names = names.l->n;
    out->v = v.l->v;
    out->names = jinja_alloc(r, names.l->n * sizeof *out->names);
    for (uint32_t i = 0; out->names && i < names.l->n; i++) out->names[i] = names.l->v[i].hint;
    return !r->status;
}

static jinja_value call_strftime(jinja_run *r, const jinja_args *a) {
    jinja_value format = jinja_arg(a, 0, "format", JINJA_NONE_VALUE);
    char out[1024], text[256];
    if (format.type != JINJA_STRING || format.s->n >= sizeof text)
        return jinja_fail(r, FL_EINVAL, "strftime_now needs a short format");
    if (!r->clock) return jinja_fail(r, FL_EINVAL, "strftime_now is used, but no time was given");
    const jinja_clock *c = r->clock;
    struct tm tm = {.tm_year = c->year - 1900,
                    .tm_mon = c->month - 1,
                    .tm_mday = c->day,
                    .tm_hour = c->hour,
                    .tm_min = c->minute,
                    .tm_sec = c->second};
    timegm(&tm); /* fills in the day of the week and of the year */
    memcpy(text, format.s->p, format.s->n);
    text[format.s->n] = '\0';
    size_t n = strftime(out, sizeof out, text, &tm);
    return jinja_string_new(r, out, n);
}

static jinja_value call_range(jinja_run *r, const jinja_args *a) {
    int64_t v[3] = {0, 0, 1};
    for (uint32_t i = 0; i < 3 && i < a->n; i++) {
        if (a->v[i].type != JINJA_INT && a->v[i].type != JINJA_BOOL)
            return jinja_fail(r, FL_EINVAL, "range needs integers, not %s", jinja_type_name(a->v[i]));
        v[i] = whole(a->v[i]);
    }
    if (a->n == 1) {
        v[1] = v[0];
        v[0] = 0;
    }
    if (!a->n || a->n > 3 || a->n_names || !v[2])
        return jinja_fail(r, FL_EINVAL, "range needs 1 to 3 integers, the last not zero");
    uint64_t span = v[2] > 0 ? (v[1] > v[0] ? (uint64_t)v[1] - (uint64_t)v[0] : 0)
                             : (v[0] > v[1] ? (uint64_t)v[0] - (uint64_t)v[1] : 0);
    uint64_t step = v[2] > 0 ? (uint64_t)v[2] : -(uint64_t)v[2], count = span / step + (span % step != 0);
    if (count > JINJA_RANGE_MAX) return jinja_fail(r, FL_ENOMEM, "a range of more than %d numbers", JINJA_RANGE_MAX);
    jinja_value out = jinja_list_new(r, JINJA_VIEW, (uint32_t)count);
    char form[80];
    int n = snprintf(form, sizeof form, v[2] == 1 ? "range(%lld, %lld)" : "range(%lld, %lld, %lld)", (long long)v[0],
                     (long long)v[1], (long long)v[2]);
    const char *range = base_arena_strndup(&r->arena, form, (size_t)n);
    if (!range) return jinja_fail(r, FL_ENOMEM, "values take too much memory");
    for (uint64_t i = 0; i < count && !r->status; i++) jinja_list_push(r, out.l, jinja_int(v[0] + (int64_t)i * v[2]));
    if (!r->status) out.l->range = range;
    return out;
}

static bool set_named(jinja_run *r, jinja_dict *d, const char *name, jinja_value v) {
    jinja_value key = jinja_string_new(r, name, strlen(name));
    return !r->status && jinja_dict_set(r, d, key, v);
}

static jinja_value call_dict(jinja_run *r, const jinja_args *a, jinja_type type) {
    jinja_value out = jinja_dict_new(r);
    if (a->n && a->v[0].type != JINJA_DICT)
        return jinja_fail(r, FL_EINVAL, "wanted a dict, not %s", jinja_type_name(a->v[0]));
    for (uint32_t i = 0; a->n && !r->status && i < a->v[0].d->n; i++)
        jinja_dict_set(r, out.d, a->v[0].d->e[i].key, a->v[0].d->e[i].value);
    for (uint32_t i = 0; i < a->n_names && !r->status; i++) set_named(r, out.d, a->names[i], a->v[a->n + i]);
    if (!r->status) out.type = type;
    return out;
}

static jinja_value call_function(jinja_run *r, int function, const jinja_args *a) {
    jinja_value v;
    switch (function) {
        case FUNCTION_RAISE:
            v = jinja_arg(a, 0, "message", JINJA_UNDEFINED_VALUE);
            if (!a->n && !a->n_names) return jinja_fail(r, FL_EINVAL, "raise_exception needs a message");
            const jinja_string *s = jinja_str(r, v);
            return jinja_fail(r, FL_EINVAL, "%.*s", s->n < 400 ? (int)s->n : 400, s->p);
        case FUNCTION_STRFTIME: return call_strftime(r, a);
        case FUNCTION_RANGE: return call_range(r, a);
        case FUNCTION_NAMESPACE: return call_dict(r, a, JINJA_NAMESPACE);
        case FUNCTION_REFUSED: return jinja_fail(r, FL_EUNSUPPORTED, "this function is not supported");
        default: return call_dict(r, a, JINJA_DICT);
    }
}

static jinja_value call_loop(jinja_run *r, jinja_loop *l, const char *name, const jinja_args *a) {
    if (strcmp(name, "cycle") == 0)
        return a->n ? a->v[l->index % a->n] : jinja_fail(r, FL_EINVAL, "cycle needs values");
    jinja_value now = {.type = JINJA_TUPLE}, all = jinja_list_new(r, JINJA_TUPLE, a->n);
    for (uint32_t i = 0; i < a->n && !r->status; i++) jinja_list_push(r, all.l, a->v[i]);
    if (r->status) return JINJA_UNDEFINED_VALUE;
    now.l = all.l;
    bool same = l->changed.type == JINJA_TUPLE && jinja_equal(r, l->changed, now);
    l->changed = now;
    return jinja_bool(!same);
}

jinja_value jinja_call(jinja_run *r, jinja_value callee, const jinja_args *a) {
    switch (callee.type) {
        case JINJA_MACRO: return jinja_call_macro(r, callee.m, a);
        case JINJA_FUNCTION: return call_function(r, callee.function, a);
        case JINJA_METHOD:
            if (callee.method->self.type == JINJA_LOOP)
                return call_loop(r, callee.method->self.loop, callee.method->name, a);
            return jinja_call_method(r, callee.method->self, callee.method->name, a);
        case JINJA_UNDEFINED: return missing(r, callee);
        default: return jinja_fail(r, FL_EINVAL, "%s cannot be called", jinja_type_name(callee));
    }
}

/* ------------------------------------------------------------------ the walk */

static jinja_value eval_list(jinja_run *r, const jinja_node *n, jinja_type type) {
    jinja_value out = jinja_list_new(r, type, n->n);
    for (uint32_t i = 0; i < n->n && !r->status; i++) {
        jinja_value v = jinja_eval(r, n->list[i]);
        if (!r->status) jinja_list_push(r, out.l, v);
    }
    return out;
}

static jinja_value eval_dict(jinja_run *r, const jinja_node *n) {
    jinja_value out = jinja_dict_new(r);
    for (uint32_t i = 0; i + 1 < n->n && !r->status; i += 2) {
        jinja_value key = jinja_eval(r, n->list[i]), value = jinja_eval(r, n->list[i + 1]);
        if (!r->status) jinja_dict_set(r, out.d, key, value);
    }
    return out;
}

static jinja_value eval_concat(jinja_run *r, const jinja_node *n) {
    jinja_text t = {0};
    for (uint32_t i = 0; i < n->n && !r->status; i++) {
        jinja_value v = jinja_eval(r, n->list[i]);
        if (!r->status) jinja_text_value(r, &t, v);
    }
    return jinja_text_end(r, &t);
}

static jinja_value eval_applied(jinja_run *r, const jinja_node *n) {
    jinja_args args;
    if (n->type != NODE_CALL && n->function < 0)
        return jinja_fail(r, FL_EINVAL, "no %s named \"%.60s\"", n->type == NODE_FILTER ? "filter" : "test", n->name);
    jinja_value v = jinja_eval(r, n->a);
    if (r->status || !eval_args(r, n, &args)) return JINJA_UNDEFINED_VALUE;
    if (n->type == NODE_CALL) return jinja_call(r, v, &args);
    if (n->type == NODE_FILTER) return jinja_filter_apply(r, n->function, v, &args);
    return jinja_bool(jinja_test_apply(r, n->function, v, &args));
}

jinja_value jinja_apply_filters(jinja_run *r, const jinja_node *filters, jinja_value v) {
    const jinja_node *chain[JINJA_DEPTH_MAX];
    uint32_t n = 0;
    for (const jinja_node *f = filters; f; f = f->a) {
        if (n == JINJA_DEPTH_MAX || f->type != NODE_FILTER)
            return jinja_fail(r, FL_EINVAL, "a block takes a short chain of filters");
        chain[n++] = f;
    }
    while (n-- > 0 && !r->status) {
        jinja_args args;
        if (chain[n]->function < 0) jinja_fail(r, FL_EINVAL, "no filter named \"%.60s\"", chain[n]->name);
        if (eval_args(r, chain[n], &args) && !r->status) v = jinja_filter_apply(r, chain[n]->function, v, &args);
    }
    return v;
}

static jinja_value eval_node(jinja_run *r, const jinja_node *n) {
    jinja_value v;
    switch (n->type) {
        case NODE_CONST: return n->value;
        case NODE_NAME: return jinja_lookup(r, n->name);
        case NODE_TUPLE: return eval_list(r, n, JINJA_TUPLE);
        case NODE_LIST: return eval_list(r, n, JINJA_LIST);
        case NODE_DICT: return eval_dict(r, n);
        case NODE_ATTR: v = jinja_eval(r, n->a); return r->status ? v : jinja_get_attr(r, v, n->name);
        case NODE_ITEM: {
            v = jinja_eval(r, n->a);
            jinja_value key = jinja_eval(r, n->b);
            return r->status ? v : jinja_get_item(r, v, key);
        }
        case NODE_SLICE: return eval_slice(r, n);
        case NODE_CALL:
        case NODE_FILTER:
        case NODE_TEST: return eval_applied(r, n);
        case NODE_UNARY: return eval_unary(r, n);
        case NODE_BINARY: return eval_binary(r, n);
        case NODE_AND: v = jinja_eval(r, n->a); return jinja_truth(v) ? jinja_eval(r, n->b) : v;
        case NODE_OR: v = jinja_eval(r, n->a); return jinja_truth(v) || r->status ? v : jinja_eval(r, n->b);
        case NODE_NOT: return jinja_bool(!jinja_truth(jinja_eval(r, n->a)));
        case NODE_COMPARE: return eval_compare(r, n);
        case NODE_CONCAT: return eval_concat(r, n);
        case NODE_COND:
            if (jinja_truth(jinja_eval(r, n->b))) return jinja_eval(r, n->a);
            return n->c && !r->status ? jinja_eval(r, n->c) : jinja_undefined("an inline if without else");
        default: return jinja_fail(r, FL_EINVAL, "this cannot stand here");
    }
}

jinja_value jinja_eval(jinja_run *r, const jinja_node *n) {
    if (r->status || !jinja_burn(r, 1)) return JINJA_UNDEFINED_VALUE;
    if (r->frames >= JINJA_FRAMES_MAX) return jinja_fail(r, FL_ENOMEM, "nested deeper than the budget");
    r->line = n->line;
    r->frames++;
    jinja_value v = eval_node(r, n);
    r->frames--;
    return r->status ? JINJA_UNDEFINED_VALUE : v;
}
