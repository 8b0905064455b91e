/* Values of a rendering: making, comparing, walking. See jinja_int.h. */
#include "tok/jinja_int.h"

#include "base/map.h"

#include <math.h>
#include <string.h>

enum { DICT_SMALL = 8 };

void *jinja_alloc(jinja_run *r, size_t bytes) {
    void *p = base_arena_alloc(&r->arena, bytes);
    if (!p) jinja_fail(r, FL_ENOMEM, "values take too much memory");
    return p;
}

jinja_value jinja_bool(bool b) { return (jinja_value){.type = JINJA_BOOL, .b = b}; }
jinja_value jinja_int(int64_t i) { return (jinja_value){.type = JINJA_INT, .i = i}; }
jinja_value jinja_float(double f) { return (jinja_value){.type = JINJA_FLOAT, .f = f}; }
jinja_value jinja_undefined(const char *hint) { return (jinja_value){.type = JINJA_UNDEFINED, .hint = hint}; }

bool jinja_is_list(jinja_value v) { return v.type >= JINJA_LIST && v.type <= JINJA_GENERATOR; }
bool jinja_is_number(jinja_value v) { return v.type == JINJA_BOOL || v.type == JINJA_INT || v.type == JINJA_FLOAT; }
double jinja_number(jinja_value v) {
    return v.type == JINJA_FLOAT ? v.f : v.type == JINJA_BOOL ? (double)v.b : (double)v.i;
}

const char *jinja_type_name(jinja_value v) {
    static const char *const names[] = {"undefined", "None",     "bool",   "int",       "float", "str",
                                        "list",      "tuple",    "view",   "generator", "dict",  "namespace",
                                        "macro",     "function", "method", "loop"};
    return names[v.type];
}

/* ------------------------------------------------------------------ lists */

jinja_value jinja_list_new(jinja_run *r, jinja_type type, uint32_t cap) {
    jinja_list *l = jinja_alloc(r, sizeof *l);
    jinja_value *v = cap ? jinja_alloc(r, cap * sizeof *v) : NULL;
    if (!l || (cap && !v)) return JINJA_UNDEFINED_VALUE;
    *l = (jinja_list){.v = v, .cap = cap};
    return (jinja_value){.type = type, .l = l};
}

bool jinja_list_push(jinja_run *r, jinja_list *l, jinja_value v) {
    if (!jinja_burn(r, 1)) return false;
    if (l->n == l->cap) {
        uint32_t cap = l->cap ? 2 * l->cap : 8;
        jinja_value *p = jinja_alloc(r, cap * sizeof *p);
        if (!p) return false;
        if (l->n) memcpy(p, l->v, l->n * sizeof *p);
        l->v = p;
        l->cap = cap;
    }
    l->v[l->n++] = v;
    return true;
}

/* ------------------------------------------------------------------ dicts */

jinja_value jinja_dict_new(jinja_run *r) {
    jinja_dict *d = jinja_alloc(r, sizeof *d);
    return d ? (jinja_value){.type = JINJA_DICT, .d = d} : JINJA_UNDEFINED_VALUE;
}

/* Equal keys hash equally: 1, 1.0 and true are one key. */
static uint32_t hash_key(jinja_value k) {
    double f;
    switch (k.type) {
        case JINJA_STRING: return (uint32_t)base_hash(1, k.s->p, k.s->n);
        case JINJA_BOOL:
        case JINJA_INT:
        case JINJA_FLOAT: f = jinja_number(k) + 0.0; return (uint32_t)base_hash(2, &f, sizeof f);
        default: return (uint32_t)k.type;
    }
}

static bool same_key(jinja_value a, jinja_value b) {
    if (a.type == JINJA_STRING && b.type == JINJA_STRING)
        return a.s->n == b.s->n && memcmp(a.s->p, b.s->p, a.s->n) == 0;
    if (a.type == JINJA_INT && b.type == JINJA_INT) return a.i == b.i;
    if (jinja_is_number(a) && jinja_is_number(b)) return jinja_number(a) == jinja_number(b);
    return a.type == b.type && a.type == JINJA_NONE;
}

static void index_entry(jinja_dict *d, uint32_t i) {
    uint32_t mask = d->n_index - 1, at = hash_key(d->e[i].key) & mask;
    while (d->index[at]) at = (at + 1) & mask;
    d->index[at] = i + 1;
}

const jinja_entry *jinja_dict_find(const jinja_dict *d, jinja_value key) {
    if (!d->index) {
        for (uint32_t i = 0; i < d->n; i++)
            if (same_key(d->e[i].key, key)) return &d->e[i];
        return NULL;
    }
    uint32_t mask = d->n_index - 1;
    for (uint32_t at = hash_key(key) & mask; d->index[at]; at = (at + 1) & mask)
        if (same_key(d->e[d->index[at] - 1].key, key)) return &d->e[d->index[at] - 1];
    return NULL;
}

/* Operations that comparing or hashing a value takes beyond one. */
static uint64_t weight(jinja_value v) { return v.type == JINJA_STRING ? v.s->n / 64 : 0; }

const jinja_entry *jinja_dict_get(jinja_run *r, const jinja_dict *d, jinja_value key) {
    return jinja_burn(r, weight(key)) ? jinja_dict_find(d, key) : NULL;
}

const jinja_entry *jinja_dict_find_name(const jinja_dict *d, const char *name) {
    const jinja_string s = {.p = name, .n = (uint32_t)strlen(name)};
    return jinja_dict_find(d, (jinja_value){.type = JINJA_STRING, .s = &s});
}

static bool dict_grow(jinja_run *r, jinja_dict *d) {
    uint32_t cap = d->cap ? 2 * d->cap : DICT_SMALL;
    jinja_entry *e = jinja_alloc(r, cap * sizeof *e);
    if (!e) return false;
    if (d->n) memcpy(e, d->e, d->n * sizeof *e);
    d->e = e;
    d->cap = cap;
    if (cap <= DICT_SMALL) return true;
    uint32_t *index = jinja_alloc(r, 2 * cap * sizeof *index);
    if (!index) return false;
    d->index = index;
    d->n_index = 2 * cap;
    for (uint32_t i = 0; i < d->n; i++) index_entry(d, i);
    return true;
}

bool jinja_dict_set(jinja_run *r, jinja_dict *d, jinja_value key, jinja_value value) {
    if (!jinja_burn(r, 1 + weight(key))) return false;
    if (key.type != JINJA_STRING && key.type != JINJA_NONE && !jinja_is_number(key)) {
        jinja_fail(r, FL_EINVAL, "%s cannot be the key of a dict", jinja_type_name(key));
        return false;
    }
    const jinja_entry *old = jinja_dict_find(d, key);
    if (old) {
        d->e[old - d->e].value = value;
        return true;
    }
    if (d->n == d->cap && !dict_grow(r, d)) return false;
    d->e[d->n] = (jinja_entry){key, value};
    if (d->index) index_entry(d, d->n);
    d->n++;
    return true;
}

/* ------------------------------------------------------------------ comparing */

bool jinja_truth(jinja_value v) {
    switch (v.type) {
        case JINJA_UNDEFINED:
        case JINJA_NONE: return false;
        case JINJA_BOOL: return v.b;
        case JINJA_INT: return v.i != 0;
        case JINJA_FLOAT: return v.f != 0;
        case JINJA_STRING: return v.s->n > 0;
        case JINJA_LIST:
        case JINJA_TUPLE:
        case JINJA_VIEW: return v.l->n > 0;
        case JINJA_DICT: return v.d->n > 0;
        default: return true;
    }
}

static bool equal_lists(jinja_run *r, const jinja_list *a, const jinja_list *b) {
    if (a->n != b->n) return false;
    for (uint32_t i = 0; i < a->n; i++)
        if (!jinja_equal(r, a->v[i], b->v[i])) return false;
    return true;
}

static bool equal_dicts(jinja_run *r, const jinja_dict *a, const jinja_dict *b) {
    if (a->n != b->n) return false;
    for (uint32_t i = 0; i < a->n; i++) {
        const jinja_entry *e = jinja_dict_find(b, a->e[i].key);
        if (!e || !jinja_equal(r, a->e[i].value, e->value)) return false;
    }
    return true;
}

bool jinja_equal(jinja_run *r, jinja_value a, jinja_value b) {
    bool same = false;
    if (!jinja_burn(r, 1 + weight(a))) return false;
    if (++r->frames > JINJA_FRAMES_MAX) {
        jinja_fail(r, FL_ENOMEM, "values are nested too deep");
    } else if (jinja_is_number(a) || a.type == JINJA_STRING || a.type == JINJA_NONE) {
        same = same_key(a, b);
    } else if (a.type == b.type) {
        switch (a.type) {
            case JINJA_UNDEFINED: same = true; break;
            case JINJA_LIST:
            case JINJA_TUPLE:
            case JINJA_VIEW: same = equal_lists(r, a.l, b.l); break;
            case JINJA_DICT: same = equal_dicts(r, a.d, b.d); break;
            default: same = a.d == b.d;
        }
    }
    r->frames--;
    return same;
}

static int order_numbers(jinja_value a, jinja_value b) {
    if (a.type != JINJA_FLOAT && b.type != JINJA_FLOAT) {
        int64_t x = a.type == JINJA_BOOL ? a.b : a.i, y = b.type == JINJA_BOOL ? b.b : b.i;
        return (x > y) - (x < y);
    }
    double x = jinja_number(a), y = jinja_number(b);
    return (x > y) - (x < y);
}

int jinja_order(jinja_run *r, jinja_value a, jinja_value b) {
    if (!jinja_burn(r, 1 + weight(a))) return 0;
    if (jinja_is_number(a) && jinja_is_number(b)) return order_numbers(a, b);
    if (a.type == JINJA_STRING && b.type == JINJA_STRING) { /* bytes of UTF-8 order like code points */
        int c = memcmp(a.s->p, b.s->p, a.s->n < b.s->n ? a.s->n : b.s->n);
        return c ? (c > 0) - (c < 0) : (a.s->n > b.s->n) - (a.s->n < b.s->n);
    }
    if (a.type == b.type && (a.type == JINJA_LIST || a.type == JINJA_TUPLE) && ++r->frames <= JINJA_FRAMES_MAX) {
        int c = 0;
        for (uint32_t i = 0; c == 0 && i < a.l->n && i < b.l->n; i++)
            if (!jinja_equal(r, a.l->v[i], b.l->v[i])) c = jinja_order(r, a.l->v[i], b.l->v[i]);
        r->frames--;
        return c ? c : (a.l->n > b.l->n) - (a.l->n < b.l->n);
    }
    jinja_fail(r, FL_EINVAL, "%s and %s have no order", jinja_type_name(a), jinja_type_name(b));
    return 0;
}

bool jinja_contains(jinja_run *r, jinja_value item, jinja_value in) {
    if (in.type == JINJA_STRING) {
        if (item.type != JINJA_STRING) {
            jinja_fail(r, FL_EINVAL, "looking for %s in a string", jinja_type_name(item));
            return false;
        }
        return jinja_burn(r, in.s->n / 64) && (!item.s->n || memmem(in.s->p, in.s->n, item.s->p, item.s->n));
    }
    if (in.type == JINJA_DICT) return jinja_dict_get(r, in.d, item) != NULL;
    const jinja_list *l = jinja_items(r, in);
    for (uint32_t i = 0; l && i < l->n && !r->status; i++)
        if (jinja_equal(r, l->v[i], item)) return true;
    return false;
}

/* ------------------------------------------------------------------ walking */

static jinja_list *characters(jinja_run *r, const jinja_string *s) {
    jinja_value out = jinja_list_new(r, JINJA_LIST, 0);
    for (size_t i = 0, end; out.type == JINJA_LIST && i < s->n && !r->status; i = end) {
        for (end = i + 1; end < s->n && ((uint8_t)s->p[end] & 0xc0) == 0x80;) end++;
        jinja_list_push(r, out.l, jinja_string_slice(r, s, i, end));
    }
    return out.type == JINJA_LIST ? out.l : NULL;
}

jinja_list *jinja_items(jinja_run *r, jinja_value v) {
    jinja_value out;
    switch (v.type) {
        case JINJA_STRING: return characters(r, v.s);
        case JINJA_LIST:
        case JINJA_TUPLE:
        case JINJA_VIEW: return v.l;
        case JINJA_GENERATOR:
            out = jinja_list_new(r, JINJA_LIST, 0);
            if (out.type != JINJA_LIST) return NULL;
            *out.l = *v.l;
            v.l->n = v.l->cap = 0;
            return out.l;
        case JINJA_DICT:
            out = jinja_list_new(r, JINJA_LIST, v.d->n);
            for (uint32_t i = 0; out.type == JINJA_LIST && i < v.d->n; i++) jinja_list_push(r, out.l, v.d->e[i].key);
            return out.type == JINJA_LIST ? out.l : NULL;
        case JINJA_UNDEFINED: out = jinja_list_new(r, JINJA_LIST, 0); return out.type == JINJA_LIST ? out.l : NULL;
        default: jinja_fail(r, FL_EINVAL, "%s cannot be walked", jinja_type_name(v)); return NULL;
    }
}

/* ------------------------------------------------------------------ from JSON */

static jinja_value string_from_json(jinja_run *r, const char *p, size_t n, bool trusted) {
    jinja_text t = {0};
    jinja_text_put(r, &t, p, n, !trusted);
    return jinja_text_end(r, &t);
}

static jinja_value container_from_json(jinja_run *r, const json_t *j, bool trusted) {
    const char *key;
    const json_t *item;
    size_t n, i;
    if (json_is_array(j)) {
        jinja_value out = jinja_list_new(r, JINJA_LIST, (uint32_t)json_array_size(j));
        json_array_foreach(j, i, item) {
            jinja_value v = jinja_from_json(r, item, trusted);
            if (r->status || !jinja_list_push(r, out.l, v)) break;
        }
        return out;
    }
    jinja_value out = jinja_dict_new(r);
    json_object_keylen_foreach((json_t *)(uintptr_t)j, key, n, item) {
        jinja_value k = string_from_json(r, key, n, trusted), v = jinja_from_json(r, item, trusted);
        if (r->status || !jinja_dict_set(r, out.d, k, v)) break;
    }
    return out;
}

jinja_value jinja_from_json(jinja_run *r, const json_t *j, bool trusted) {
    if (!jinja_burn(r, 1)) return JINJA_UNDEFINED_VALUE;
    switch (json_typeof(j)) {
        case JSON_NULL: return JINJA_NONE_VALUE;
        case JSON_TRUE: return jinja_bool(true);
        case JSON_FALSE: return jinja_bool(false);
        case JSON_INTEGER: return jinja_int(json_integer_value(j));
        case JSON_REAL: return jinja_float(json_real_value(j));
        case JSON_STRING: return string_from_json(r, json_string_value(j), json_string_length(j), trusted);
        default: break;
    }
    if (r->frames >= JINJA_NESTING_MAX)
        return jinja_fail(r, FL_EINVAL, "a value is nested deeper than %d", JINJA_NESTING_MAX);
    r->frames++;
    jinja_value v = container_from_json(r, j, trusted);
    r->frames--;
    return v;
}
