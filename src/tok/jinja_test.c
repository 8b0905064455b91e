/* Tests: what may stand behind `is`, and by name in select() and its relatives. */
#include "tok/jinja_int.h"

#include <string.h>

typedef enum {
    IS_DEFINED,
    IS_UNDEFINED,
    IS_NONE,
    IS_STRING,
    IS_MAPPING,
    IS_ITERABLE,
    IS_SEQUENCE,
    IS_NUMBER,
    IS_INTEGER,
    IS_FLOAT,
    IS_BOOLEAN,
    IS_TRUE,
    IS_FALSE,
    IS_CALLABLE,
    IS_ODD,
    IS_EVEN,
    IS_DIVISIBLE,
    IS_EQ,
    IS_NE,
    IS_LT,
    IS_LE,
    IS_GT,
    IS_GE,
    IS_IN,
    IS_SAME,
    IS_UPPER,
    IS_LOWER,
    IS_FILTER,
    IS_TEST,
} kind;

static const struct {
    const char *name;
    kind kind;
} tests[] = {
    {"defined", IS_DEFINED},
    {"undefined", IS_UNDEFINED},
    {"none", IS_NONE},
    {"string", IS_STRING},
    {"mapping", IS_MAPPING},
    {"iterable", IS_ITERABLE},
    {"sequence", IS_SEQUENCE},
    {"number", IS_NUMBER},
    {"integer", IS_INTEGER},
    {"float", IS_FLOAT},
    {"boolean", IS_BOOLEAN},
    {"true", IS_TRUE},
    {"false", IS_FALSE},
    {"callable", IS_CALLABLE},
    {"odd", IS_ODD},
    {"even", IS_EVEN},
    {"divisibleby", IS_DIVISIBLE},
    {"eq", IS_EQ},
    {"equalto", IS_EQ},
    {"==", IS_EQ},
    {"ne", IS_NE},
    {"!=", IS_NE},
    {"lt", IS_LT},
    {"lessthan", IS_LT},
    {"<", IS_LT},
    {"le", IS_LE},
    {"<=", IS_LE},
    {"gt", IS_GT},
    {"greaterthan", IS_GT},
    {">", IS_GT},
    {"ge", IS_GE},
    {">=", IS_GE},
    {"in", IS_IN},
    {"sameas", IS_SAME},
    {"upper", IS_UPPER},
    {"lower", IS_LOWER},
    {"filter", IS_FILTER},
    {"test", IS_TEST},
};

int jinja_test_find(const char *name) {
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (strcmp(tests[i].name, name) == 0) return (int)i;
    return -1;
}

static bool of_integer(jinja_run *r, jinja_value v, int64_t divisor, int64_t rest) {
    if (v.type != JINJA_INT || !divisor) {
        jinja_fail(r, FL_EINVAL, "a test of divisibility needs integers");
        return false;
    }
    return divisor == -1 || (v.i % divisor != 0) == (rest != 0);
}

static bool compared(jinja_run *r, kind k, jinja_value a, jinja_value b) {
    int c;
    switch (k) {
        case IS_EQ: return jinja_equal(r, a, b);
        case IS_NE: return !jinja_equal(r, a, b);
        case IS_IN: return jinja_contains(r, a, b);
        case IS_SAME: return a.type == b.type && jinja_equal(r, a, b);
        case IS_DIVISIBLE: return of_integer(r, a, b.type == JINJA_INT ? b.i : 0, 0);
        default: break;
    }
    c = jinja_order(r, a, b);
    return k == IS_LT ? c < 0 : k == IS_LE ? c <= 0 : k == IS_GT ? c > 0 : c >= 0;
}

static bool cased(jinja_run *r, jinja_value v, jinja_case how) {
    const jinja_string *s = jinja_str(r, v);
    jinja_value same = jinja_recase(r, s, how);
    jinja_value other = jinja_recase(r, s, how == JINJA_CASE_UPPER ? JINJA_CASE_LOWER : JINJA_CASE_UPPER);
    const jinja_value self = {.type = JINJA_STRING, .s = s};
    return !r->status && jinja_equal(r, self, same) && !jinja_equal(r, self, other);
}

static bool is_name_of(jinja_value v, int (*find)(const char *name)) {
    char name[32];
    if (v.type != JINJA_STRING || v.s->n >= sizeof name) return false;
    memcpy(name, v.s->p, v.s->n);
    name[v.s->n] = '\0';
    return find(name) >= 0;
}

bool jinja_test_apply(jinja_run *r, int test, jinja_value v, const jinja_args *a) {
    kind k = tests[test].kind;
    switch (k) {
        case IS_DEFINED: return v.type != JINJA_UNDEFINED;
        case IS_UNDEFINED: return v.type == JINJA_UNDEFINED;
        case IS_NONE: return v.type == JINJA_NONE;
        case IS_STRING: return v.type == JINJA_STRING;
        case IS_MAPPING: return v.type == JINJA_DICT;
        case IS_ITERABLE:
            return v.type == JINJA_STRING || jinja_is_list(v) || v.type == JINJA_DICT || v.type == JINJA_UNDEFINED;
        case IS_SEQUENCE:
            return v.type == JINJA_STRING || v.type == JINJA_LIST || v.type == JINJA_TUPLE || v.type == JINJA_DICT ||
                   v.type == JINJA_UNDEFINED || (v.type == JINJA_VIEW && !v.l->label);
        case IS_NUMBER: return jinja_is_number(v);
        case IS_INTEGER: return v.type == JINJA_INT;
        case IS_FLOAT: return v.type == JINJA_FLOAT;
        case IS_BOOLEAN: return v.type == JINJA_BOOL;
        case IS_TRUE: return v.type == JINJA_BOOL && v.b;
        case IS_FALSE: return v.type == JINJA_BOOL && !v.b;
        case IS_CALLABLE: return v.type == JINJA_MACRO || v.type == JINJA_FUNCTION || v.type == JINJA_METHOD;
        case IS_ODD: return of_integer(r, v, 2, 1);
        case IS_EVEN: return of_integer(r, v, 2, 0);
        case IS_UPPER: return cased(r, v, JINJA_CASE_UPPER);
        case IS_LOWER: return cased(r, v, JINJA_CASE_LOWER);
        case IS_FILTER: return is_name_of(v, jinja_filter_find);
        case IS_TEST: return is_name_of(v, jinja_test_find);
        default: break;
    }
    if (!a->n) {
        jinja_fail(r, FL_EINVAL, "test \"%s\" needs a value to compare with", tests[test].name);
        return false;
    }
    return compared(r, k, v, a->v[0]);
}
