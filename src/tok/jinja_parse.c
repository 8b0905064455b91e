/* Tokens to a tree, by recursive descent. The recursion is bounded: every level that input can
 * nest (brackets, unary operators, blocks, inline conditions) goes through enter(), which
 * refuses more than JINJA_DEPTH_MAX; operators of one precedence are loops. Such loops make
 * trees that lean to the left, whose depth the evaluator bounds when it walks them.
 */
#include "tok/jinja_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    base_arena *arena;
    const jinja_token *t; /* the token looked at */
    uint32_t depth, loops;
    uint32_t conditions; /* open branches: what is in them may never run */
    bool failed;
    fl_status status;
    fl_err *err;
} parser;

static jinja_node *parse_expression(parser *p);
static jinja_node *parse_tuple(parser *p, bool conditions);
static jinja_node *parse_unary(parser *p, bool filters);
static jinja_node *parse_body(parser *p, const char *const *ends);

__attribute__((format(printf, 2, 3))) static void *fail(parser *p, const char *fmt, ...) {
    char what[200];
    va_list ap;
    if (p->failed) return NULL;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    p->failed = true;
    p->status = fl_fail(p->err, FL_EINVAL, "line %u: %s", p->t->line, what);
    return NULL;
}

static void *no_memory(parser *p) {
    if (!p->failed) p->status = fl_fail(p->err, FL_ENOMEM, "tree of a template");
    p->failed = true;
    return NULL;
}

static bool enter(parser *p) {
    if (++p->depth > JINJA_DEPTH_MAX) fail(p, "nested deeper than %d", JINJA_DEPTH_MAX);
    return !p->failed;
}

static void *leave(parser *p, jinja_node *n) {
    p->depth--;
    return p->failed ? NULL : n;
}

static void next(parser *p) {
    if (p->t->type != TOKEN_EOF) p->t++;
}

static bool is_op(const parser *p, int op) { return p->t->type == TOKEN_OP && p->t->op == op; }
static bool is_word(const jinja_token *t, const char *word) {
    return t->type == TOKEN_NAME && t->n == strlen(word) && memcmp(t->p, word, t->n) == 0;
}
static bool is_name(const parser *p, const char *word) { return is_word(p->t, word); }

static bool take_op(parser *p, int op) {
    if (!is_op(p, op)) return false;
    next(p);
    return true;
}

static bool take_name(parser *p, const char *word) {
    if (!is_name(p, word)) return false;
    next(p);
    return true;
}

static const char *shown(const parser *p) {
    switch (p->t->type) {
        case TOKEN_EOF:
        case TOKEN_DATA:
        case TOKEN_PRINT:
        case TOKEN_BLOCK: return "end of code";
        case TOKEN_PRINT_END: return "}}";
        case TOKEN_BLOCK_END: return "%}";
        default: return NULL;
    }
}

static void *unexpected(parser *p, const char *wanted) {
    const char *s = shown(p);
    int n = p->t->n < 40 ? (int)p->t->n : 40;
    return s ? fail(p, "wanted %s, found %s", wanted, s) : fail(p, "wanted %s, found \"%.*s\"", wanted, n, p->t->p);
}

static bool want_op(parser *p, int op) {
    char text[4] = {'"', (char)op, '"', '\0'};
    if (!p->failed && take_op(p, op)) return true;
    unexpected(p, text);
    return false;
}

static void want_block_end(parser *p) {
    if (p->failed) return;
    if (p->t->type != TOKEN_BLOCK_END)
        unexpected(p, "%}");
    else
        next(p);
}

static jinja_node *make(parser *p, jinja_node_type type, jinja_node *a, jinja_node *b) {
    jinja_node *n = p->failed ? NULL : base_arena_calloc(p->arena, 1, sizeof *n);
    if (!n) return p->failed ? NULL : no_memory(p);
    n->type = type;
    n->line = p->t->line;
    n->a = a;
    n->b = b;
    return n;
}

static jinja_node *make_name(parser *p, jinja_node_type type, const jinja_token *t) {
    jinja_node *n = make(p, type, NULL, NULL);
    if (!n) return NULL;
    n->name = base_arena_strndup(p->arena, t->p, t->n);
    return n->name ? n : no_memory(p);
}

static void append(parser *p, jinja_node *to, jinja_node *item) {
    if (p->failed || !to) return;
    if ((to->n & (to->n - 1)) == 0) { /* the room doubles at powers of two */
        jinja_node **list = base_arena_calloc(p->arena, to->n ? 2 * to->n : 1, sizeof *list);
        if (!list) {
            no_memory(p);
            return;
        }
        if (to->n) memcpy(list, to->list, to->n * sizeof *list);
        to->list = list;
    }
    to->list[to->n++] = item;
}

/* ------------------------------------------------------------------ expressions */

static jinja_node *parse_number(parser *p) {
    jinja_node *n = make(p, NODE_CONST, NULL, NULL);
    char digits[64];
    size_t k = 0;
    for (size_t i = 0; i < p->t->n && k + 1 < sizeof digits; i++)
        if (p->t->p[i] != '_') digits[k++] = p->t->p[i];
    digits[k] = '\0';
    if (p->failed) return NULL;
    if (p->t->n >= sizeof digits) return fail(p, "a number of more than %zu digits", sizeof digits - 1);
    if (p->t->type == TOKEN_FLOAT) {
        n->value = (jinja_value){.type = JINJA_FLOAT, .f = strtod(digits, NULL)};
    } else {
        char kind = k > 1 ? (char)(digits[1] | 32) : '0';
        int base = kind == 'x' ? 16 : kind == 'o' ? 8 : kind == 'b' ? 2 : 10;
        unsigned long long v = strtoull(base == 10 ? digits : digits + 2, NULL, base);
        if (v > INT64_MAX || k > 40) return fail(p, "number beyond 64 bits");
        n->value = (jinja_value){.type = JINJA_INT, .i = (int64_t)v};
    }
    next(p);
    return n;
}

/* Adjacent strings are one. value: the string. */
static jinja_node *parse_string(parser *p) {
    jinja_node *n = make(p, NODE_CONST, NULL, NULL);
    size_t bytes = 0, at = 0;
    if (!n) return NULL;
    for (const jinja_token *t = p->t; t->type == TOKEN_STRING; t++) bytes += t->n;
    jinja_string *s = base_arena_calloc(p->arena, 1, sizeof *s);
    char *text = base_arena_alloc(p->arena, bytes + 1);
    if (!s || !text) return no_memory(p);
    for (; p->t->type == TOKEN_STRING; next(p)) {
        memcpy(text + at, p->t->p, p->t->n);
        at += p->t->n;
    }
    *s = (jinja_string){.p = text, .n = (uint32_t)bytes};
    n->value = (jinja_value){.type = JINJA_STRING, .s = s};
    return n;
}

/* list: the items, alternating keys and values in a dict. */
static jinja_node *parse_items(parser *p, jinja_node_type type, int end) {
    jinja_node *n = make(p, type, NULL, NULL);
    next(p);
    while (!p->failed && !is_op(p, end)) {
        append(p, n, parse_expression(p));
        if (type == NODE_DICT) {
            want_op(p, ':');
            append(p, n, parse_expression(p));
        }
        if (!is_op(p, end)) want_op(p, ',');
    }
    next(p);
    return n;
}

static jinja_node *parse_word(parser *p) {
    static const struct {
        const char *word;
        jinja_value value;
    } words[] = {{"true", {.type = JINJA_BOOL, .b = true}},
                 {"True", {.type = JINJA_BOOL, .b = true}},
                 {"false", {.type = JINJA_BOOL, .b = false}},
                 {"False", {.type = JINJA_BOOL, .b = false}},
                 {"none", {.type = JINJA_NONE}},
                 {"None", {.type = JINJA_NONE}}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (!is_name(p, words[i].word)) continue;
        jinja_node *n = make(p, NODE_CONST, NULL, NULL);
        if (n) n->value = words[i].value;
        next(p);
        return n;
    }
    jinja_node *n = make_name(p, NODE_NAME, p->t);
    next(p);
    return n;
}

static jinja_node *parse_primary(parser *p) {
    jinja_node *n = NULL;
    if (!enter(p)) return NULL;
    switch (p->t->type) {
        case TOKEN_NAME: n = parse_word(p); break;
        case TOKEN_STRING: n = parse_string(p); break;
        case TOKEN_INT:
        case TOKEN_FLOAT: n = parse_number(p); break;
        default:
            if (is_op(p, '[')) {
                n = parse_items(p, NODE_LIST, ']');
            } else if (is_op(p, '{')) {
                n = parse_items(p, NODE_DICT, '}');
            } else if (take_op(p, '(')) {
                n = is_op(p, ')') ? make(p, NODE_TUPLE, NULL, NULL) : parse_tuple(p, true);
                want_op(p, ')');
            } else {
                unexpected(p, "an expression");
            }
    }
    return leave(p, n);
}

/* list: the arguments; keywords, stars as nodes of their own. */
static void parse_arguments(parser *p, jinja_node *call) {
    next(p);
    while (!p->failed && !is_op(p, ')')) {
        jinja_node *arg;
        if (is_op(p, '*') || is_op(p, JINJA_OP2('*', '*'))) {
            jinja_node_type type = is_op(p, '*') ? NODE_STAR : NODE_STAR2;
            next(p);
            arg = make(p, type, parse_expression(p), NULL);
        } else if (p->t->type == TOKEN_NAME && p->t[1].type == TOKEN_OP && p->t[1].op == '=') {
            arg = make_name(p, NODE_KEYWORD, p->t);
            next(p);
            next(p);
            jinja_node *value = parse_expression(p);
            if (arg) arg->a = value;
        } else {
            arg = parse_expression(p);
        }
        append(p, call, arg);
        if (!is_op(p, ')')) want_op(p, ',');
    }
    next(p);
}

/* `[...]` behind an expression. ITEM: a[b]. SLICE: a[list 0 : list 1 : list 2], absent parts NULL. */
static jinja_node *parse_subscript(parser *p, jinja_node *of) {
    jinja_node *part[3] = {NULL, NULL, NULL};
    int k = 0;
    bool slice = false;
    next(p);
    while (!p->failed && !is_op(p, ']')) {
        if (take_op(p, ':')) {
            slice = true;
            if (++k > 2) return fail(p, "a slice has at most three parts");
        } else if (part[k]) {
            return unexpected(p, "\"]\"");
        } else {
            part[k] = parse_expression(p);
        }
    }
    next(p);
    if (!slice && !part[0]) return unexpected(p, "an expression");
    if (!slice) return make(p, NODE_ITEM, of, part[0]);
    jinja_node *n = make(p, NODE_SLICE, of, NULL);
    for (int i = 0; i < 3; i++) append(p, n, part[i]);
    return n;
}

static jinja_node *parse_dot(parser *p, jinja_node *of) {
    next(p);
    if (p->t->type == TOKEN_INT) return make(p, NODE_ITEM, of, parse_number(p));
    if (p->t->type != TOKEN_NAME) return unexpected(p, "a name");
    jinja_node *n = make_name(p, NODE_ATTR, p->t);
    if (n) n->a = of;
    next(p);
    return n;
}

static jinja_node *parse_postfix(parser *p, jinja_node *n) {
    while (!p->failed) {
        if (is_op(p, '.')) {
            n = parse_dot(p, n);
        } else if (is_op(p, '[')) {
            n = parse_subscript(p, n);
        } else if (is_op(p, '(')) {
            n = make(p, NODE_CALL, n, NULL);
            parse_arguments(p, n);
        } else {
            break;
        }
    }
    return n;
}

/* FILTER and TEST: a is the value (NULL in a filter block), list the arguments, function the index, or -1 for a
 * name that is not known: an error at once, except in a branch, where it is one when the branch runs. */
static jinja_node *parse_filter(parser *p, jinja_node *of) {
    if (p->t->type != TOKEN_NAME) return unexpected(p, "the name of a filter");
    jinja_node *n = make_name(p, NODE_FILTER, p->t);
    if (!n) return NULL;
    n->a = of;
    n->function = jinja_filter_find(n->name);
    if (n->function < 0 && !p->conditions) return fail(p, "no filter named \"%.60s\"", n->name);
    next(p);
    if (is_op(p, '(')) parse_arguments(p, n);
    return n;
}

static bool begins_argument(const parser *p) {
    switch (p->t->type) {
        case TOKEN_NAME: return !is_name(p, "else") && !is_name(p, "or") && !is_name(p, "and") && !is_name(p, "if");
        case TOKEN_STRING:
        case TOKEN_INT:
        case TOKEN_FLOAT: return true;
        default: return is_op(p, '[') || is_op(p, '{');
    }
}

static jinja_node *parse_test(parser *p, jinja_node *of) {
    next(p);
    bool negated = take_name(p, "not");
    if (p->t->type != TOKEN_NAME) return unexpected(p, "the name of a test");
    jinja_node *n = make_name(p, NODE_TEST, p->t);
    if (!n) return NULL;
    n->a = of;
    n->function = jinja_test_find(n->name);
    if (n->function < 0 && !p->conditions) return fail(p, "no test named \"%.60s\"", n->name);
    next(p);
    if (is_op(p, '(')) {
        parse_arguments(p, n);
    } else if (begins_argument(p)) {
        if (is_name(p, "is")) return fail(p, "tests cannot be chained with is");
        append(p, n, parse_postfix(p, parse_primary(p)));
    }
    return negated ? make(p, NODE_NOT, n, NULL) : n;
}

static jinja_node *parse_filters(parser *p, jinja_node *n) {
    while (!p->failed) {
        if (take_op(p, '|')) {
            n = parse_filter(p, n);
        } else if (is_name(p, "is")) {
            n = parse_test(p, n);
        } else if (is_op(p, '(')) {
            n = make(p, NODE_CALL, n, NULL);
            parse_arguments(p, n);
        } else {
            break;
        }
    }
    return n;
}

static jinja_node *parse_unary(parser *p, bool filters) {
    jinja_node *n;
    if (!enter(p)) return NULL;
    if (is_op(p, '-') || is_op(p, '+')) {
        int op = p->t->op;
        next(p);
        n = make(p, NODE_UNARY, parse_unary(p, false), NULL);
        if (n) n->op = op;
    } else {
        n = parse_primary(p);
    }
    n = parse_postfix(p, n);
    if (filters) n = parse_filters(p, n);
    return leave(p, n);
}

static bool is_any(const parser *p, const int *ops) {
    for (; *ops; ops++)
        if (is_op(p, *ops)) return true;
    return false;
}

/* BINARY: a op b. The levels from the tightest: ** ; * / // % ; ~ ; + - */
static jinja_node *parse_binary(parser *p, int level) {
    static const int ops[3][5] = {{JINJA_OP2('*', '*')}, {'*', '/', JINJA_OP2('/', '/'), '%'}, {'+', '-'}};
    if (level < 0) return parse_unary(p, true);
    if (level == 2) { /* CONCAT: list */
        jinja_node *n = parse_binary(p, 1);
        if (!is_op(p, '~')) return n;
        jinja_node *all = make(p, NODE_CONCAT, NULL, NULL);
        append(p, all, n);
        while (!p->failed && take_op(p, '~')) append(p, all, parse_binary(p, 1));
        return all;
    }
    const int *set = ops[level == 3 ? 2 : level];
    jinja_node *n = parse_binary(p, level - 1);
    while (!p->failed && is_any(p, set)) {
        int op = p->t->op;
        next(p);
        n = make(p, NODE_BINARY, n, parse_binary(p, level - 1));
        if (n) n->op = op;
    }
    return n;
}

enum { OP_IN = 1, OP_NOT_IN = 2 };

static int compare_op(parser *p) {
    static const int ops[] = {
        JINJA_OP2('=', '='), JINJA_OP2('!', '='), JINJA_OP2('<', '='), JINJA_OP2('>', '='), '<', '>', 0};
    int op = 0;
    if (is_any(p, ops))
        op = p->t->op;
    else if (is_name(p, "in"))
        op = OP_IN;
    else if (is_name(p, "not") && is_word(p->t + 1, "in"))
        op = OP_NOT_IN;
    if (op) next(p);
    if (op == OP_NOT_IN) next(p);
    return op;
}

/* COMPARE: a, then each of list compared with what stands before it; op of a list item in its UNARY wrapper. */
static jinja_node *parse_compare(parser *p) {
    jinja_node *first = parse_binary(p, 3), *n = NULL;
    for (int op; !p->failed && (op = compare_op(p)) != 0;) {
        if (!n) n = make(p, NODE_COMPARE, first, NULL);
        jinja_node *item = make(p, NODE_UNARY, parse_binary(p, 3), NULL);
        if (item) item->op = op;
        append(p, n, item);
    }
    return n ? n : first;
}

static jinja_node *parse_not(parser *p) {
    if (!is_name(p, "not")) return parse_compare(p);
    if (!enter(p)) return NULL;
    next(p);
    return leave(p, make(p, NODE_NOT, parse_not(p), NULL));
}

static jinja_node *parse_and(parser *p) {
    jinja_node *n = parse_not(p);
    while (!p->failed && take_name(p, "and")) n = make(p, NODE_AND, n, parse_not(p));
    return n;
}

static jinja_node *parse_or(parser *p) {
    jinja_node *n = parse_and(p);
    while (!p->failed && take_name(p, "or")) n = make(p, NODE_OR, n, parse_and(p));
    return n;
}

/* COND: a if b else c (NULL). */
static jinja_node *parse_expression(parser *p) {
    if (!enter(p)) return NULL;
    jinja_node *n = parse_or(p);
    while (!p->failed && take_name(p, "if")) {
        jinja_node *condition = parse_or(p);
        jinja_node *other = take_name(p, "else") ? parse_expression(p) : NULL;
        n = make(p, NODE_COND, n, condition);
        if (n) n->c = other;
    }
    return leave(p, n);
}

static bool ends_tuple(const parser *p) {
    return p->t->type == TOKEN_PRINT_END || p->t->type == TOKEN_BLOCK_END || is_op(p, ')') || is_name(p, "if") ||
           is_name(p, "recursive");
}

/* One expression, or a tuple of them when there is a comma. */
static jinja_node *parse_tuple(parser *p, bool conditions) {
    jinja_node *first = conditions ? parse_expression(p) : parse_or(p);
    if (p->failed || !is_op(p, ',')) return first;
    jinja_node *n = make(p, NODE_TUPLE, NULL, NULL);
    append(p, n, first);
    while (!p->failed && take_op(p, ',')) {
        if (ends_tuple(p)) break;
        append(p, n, conditions ? parse_expression(p) : parse_or(p));
    }
    return n;
}

/* ------------------------------------------------------------------ statements */

/* A name, or names in a TUPLE, maybe nested in brackets. */
static jinja_node *parse_target(parser *p) {
    jinja_node *n = NULL, *tuple = NULL;
    if (!enter(p)) return NULL;
    do {
        if (tuple && !is_op(p, '(') && p->t->type != TOKEN_NAME) break;
        if (take_op(p, '(')) {
            n = parse_target(p);
            want_op(p, ')');
        } else if (p->t->type == TOKEN_NAME && !is_name(p, "in")) {
            n = parse_word(p);
            if (n && n->type != NODE_NAME) fail(p, "cannot assign to a constant");
        } else {
            unexpected(p, "a name to assign to");
        }
        if (!tuple && is_op(p, ',')) tuple = make(p, NODE_TUPLE, NULL, NULL);
        if (tuple) append(p, tuple, n);
    } while (!p->failed && take_op(p, ','));
    return leave(p, tuple ? tuple : n);
}

static const char *const end_if[] = {"elif", "else", "endif", NULL};
static const char *const end_for[] = {"else", "endfor", NULL};
static const char *const end_set[] = {"endset", NULL};
static const char *const end_macro[] = {"endmacro", NULL};
static const char *const end_call[] = {"endcall", NULL};
static const char *const end_filter[] = {"endfilter", NULL};
static const char *const end_with[] = {"endwith", NULL};
static const char *const end_generation[] = {"endgeneration", NULL};
static const char *const end_block[] = {"endblock", NULL};

/* A body up to its end word, which it takes with the closing. */
static jinja_node *parse_block(parser *p, const char *const *ends) {
    want_block_end(p);
    jinja_node *body = parse_body(p, ends);
    if (!p->failed) next(p);
    return body;
}

/* IF: list of condition, body, condition, body, ...; c is the else body. */
static jinja_node *parse_if(parser *p) {
    jinja_node *n = make(p, NODE_IF, NULL, NULL);
    p->conditions++;
    for (;;) {
        append(p, n, parse_tuple(p, false));
        want_block_end(p);
        append(p, n, parse_body(p, end_if));
        if (p->failed || !take_name(p, "elif")) break;
    }
    if (!p->failed && take_name(p, "else")) {
        static const char *const only_end[] = {"endif", NULL};
        n->c = parse_block(p, only_end);
    } else if (!p->failed) {
        next(p);
    }
    p->conditions--;
    want_block_end(p);
    return n;
}

/* FOR: a target, b what to walk, c body; list 0 the condition, list 1 the else body (NULL). */
static jinja_node *parse_for(parser *p) {
    jinja_node *n = make(p, NODE_FOR, NULL, NULL), *condition = NULL, *other = NULL;
    jinja_node *target = parse_target(p);
    if (!p->failed && !take_name(p, "in")) unexpected(p, "\"in\"");
    jinja_node *walk = parse_tuple(p, false);
    if (!p->failed && take_name(p, "if")) condition = parse_expression(p);
    if (!p->failed && is_name(p, "recursive")) fail(p, "recursive loops are not supported");
    want_block_end(p);
    p->loops++;
    jinja_node *body = parse_body(p, end_for);
    p->loops--;
    if (!p->failed && take_name(p, "else")) {
        static const char *const only_end[] = {"endfor", NULL};
        other = parse_block(p, only_end);
    } else if (!p->failed) {
        next(p);
    }
    want_block_end(p);
    if (p->failed) return NULL;
    n->a = target;
    n->b = walk;
    n->c = body;
    append(p, n, condition);
    append(p, n, other);
    return n;
}

/* SET: a target (NAME, TUPLE, ATTR of a namespace), b the value. SET_BLOCK: a target, b body, c the filters. */
static jinja_node *parse_set(parser *p) {
    jinja_node *target;
    if (p->t->type == TOKEN_NAME && p->t[1].type == TOKEN_OP && p->t[1].op == '.')
        target = parse_dot(p, parse_word(p));
    else
        target = parse_target(p);
    if (!p->failed && take_op(p, '=')) {
        jinja_node *value = parse_tuple(p, true);
        want_block_end(p);
        return make(p, NODE_SET, target, value);
    }
    jinja_node *filters = NULL;
    if (!p->failed && is_op(p, '|')) filters = parse_filters(p, NULL);
    jinja_node *body = parse_block(p, end_set);
    want_block_end(p);
    jinja_node *n = make(p, NODE_SET_BLOCK, target, body);
    if (n) n->c = filters;
    return n;
}

/* list: parameters as KEYWORD nodes, a their default or NULL. */
static void parse_parameters(parser *p, jinja_node *macro) {
    while (!p->failed && !is_op(p, ')')) {
        if (p->t->type != TOKEN_NAME) {
            unexpected(p, "a parameter");
            return;
        }
        jinja_node *parameter = make_name(p, NODE_KEYWORD, p->t);
        next(p);
        if (take_op(p, '=') && parameter) parameter->a = parse_expression(p);
        append(p, macro, parameter);
        if (!is_op(p, ')')) want_op(p, ',');
    }
    want_op(p, ')');
}

/* A body outside of the loops around it: break and continue do not cross it. */
static jinja_node *parse_closed_block(parser *p, const char *const *ends) {
    uint32_t loops = p->loops;
    p->loops = 0;
    jinja_node *body = parse_block(p, ends);
    p->loops = loops;
    want_block_end(p);
    return body;
}

/* Whether a name is used in the tree; depth is that of the tree. */
static bool uses(const jinja_node *n, const char *name, uint32_t depth) {
    if (!n || depth > JINJA_FRAMES_MAX) return false;
    if (n->type == NODE_NAME && strcmp(n->name, name) == 0) return true;
    for (uint32_t i = 0; i < n->n; i++)
        if (uses(n->list[i], name, depth + 1)) return true;
    return uses(n->a, name, depth + 1) || uses(n->b, name, depth + 1) || uses(n->c, name, depth + 1);
}

static int macro_flags(const jinja_node *body) {
    return (uses(body, "varargs", 0) ? JINJA_MACRO_VARARGS : 0) | (uses(body, "kwargs", 0) ? JINJA_MACRO_KWARGS : 0);
}

/* MACRO: name, parameters in list, b body, op JINJA_MACRO_*. */
static jinja_node *parse_macro(parser *p) {
    if (p->t->type != TOKEN_NAME) return unexpected(p, "the name of a macro");
    jinja_node *n = make_name(p, NODE_MACRO, p->t);
    next(p);
    want_op(p, '(');
    parse_parameters(p, n);
    jinja_node *body = parse_closed_block(p, end_macro);
    if (p->failed) return NULL;
    n->b = body;
    n->op = macro_flags(body);
    return n;
}

/* CALL_BLOCK: a the call, b the body as a MACRO. */
static jinja_node *parse_call_block(parser *p) {
    jinja_node *macro = make(p, NODE_MACRO, NULL, NULL);
    if (macro) macro->name = "caller";
    if (!p->failed && take_op(p, '(')) parse_parameters(p, macro);
    jinja_node *call = parse_expression(p);
    if (!p->failed && call->type != NODE_CALL) return fail(p, "a call block needs a call");
    jinja_node *body = parse_closed_block(p, end_call);
    if (p->failed) return NULL;
    macro->b = body;
    macro->op = macro_flags(body);
    return make(p, NODE_CALL_BLOCK, call, macro);
}

/* FILTER_BLOCK: a the filters, b body. */
static jinja_node *parse_filter_block(parser *p) {
    jinja_node *filters = parse_filters(p, parse_filter(p, NULL));
    jinja_node *body = parse_block(p, end_filter);
    want_block_end(p);
    return make(p, NODE_FILTER_BLOCK, filters, body);
}

/* SCOPE: list of SET, b body. */
static jinja_node *parse_with(parser *p) {
    jinja_node *n = make(p, NODE_SCOPE, NULL, NULL);
    while (!p->failed && p->t->type != TOKEN_BLOCK_END) {
        jinja_node *target = parse_word(p);
        want_op(p, '=');
        append(p, n, make(p, NODE_SET, target, parse_expression(p)));
        if (p->t->type != TOKEN_BLOCK_END) want_op(p, ',');
    }
    jinja_node *body = parse_block(p, end_with);
    want_block_end(p);
    if (n) n->b = body;
    return n;
}

static jinja_node *parse_scope(parser *p, const char *const *ends) {
    jinja_node *n = make(p, NODE_SCOPE, NULL, NULL);
    if (ends == end_block) next(p);
    jinja_node *body = parse_block(p, ends);
    while (!p->failed && p->t->type == TOKEN_NAME) next(p);
    want_block_end(p);
    if (n) n->b = body;
    return n;
}

static jinja_node *parse_jump(parser *p, jinja_node_type type) {
    if (!p->loops) return fail(p, "break or continue outside of a loop");
    want_block_end(p);
    return make(p, type, NULL, NULL);
}

static jinja_node *parse_statement(parser *p) {
    if (p->t->type != TOKEN_NAME) return unexpected(p, "the name of a tag");
    if (take_name(p, "if")) return parse_if(p);
    if (take_name(p, "for")) return parse_for(p);
    if (take_name(p, "set")) return parse_set(p);
    if (take_name(p, "macro")) return parse_macro(p);
    if (take_name(p, "call")) return parse_call_block(p);
    if (take_name(p, "filter")) return parse_filter_block(p);
    if (take_name(p, "with")) return parse_with(p);
    if (take_name(p, "generation")) return parse_scope(p, end_generation);
    if (take_name(p, "block")) return parse_scope(p, end_block);
    if (take_name(p, "break")) return parse_jump(p, NODE_BREAK);
    if (take_name(p, "continue")) return parse_jump(p, NODE_CONTINUE);
    return fail(p, "unknown tag \"%.*s\"", p->t->n < 40 ? (int)p->t->n : 40, p->t->p);
}

static bool ends_here(const parser *p, const char *const *ends) {
    for (; ends && *ends; ends++)
        if (is_word(p->t + 1, *ends)) return true;
    return false;
}

/* BODY: list of statements. Ends at the word (the token looked at then), or at the end of the template. */
static jinja_node *parse_body(parser *p, const char *const *ends) {
    if (!enter(p)) return NULL;
    jinja_node *body = make(p, NODE_BODY, NULL, NULL), *n;
    while (!p->failed && p->t->type != TOKEN_EOF) {
        if (p->t->type == TOKEN_DATA) { /* DATA: value is the text */
            n = make(p, NODE_DATA, NULL, NULL);
            jinja_string *s = base_arena_calloc(p->arena, 1, sizeof *s);
            if (!s || !n) return no_memory(p);
            *s = (jinja_string){.p = p->t->p, .n = (uint32_t)p->t->n};
            n->value = (jinja_value){.type = JINJA_STRING, .s = s};
            next(p);
        } else if (p->t->type == TOKEN_PRINT) { /* PRINT: a */
            next(p);
            n = make(p, NODE_PRINT, parse_tuple(p, true), NULL);
            if (!p->failed && p->t->type != TOKEN_PRINT_END) unexpected(p, "}}");
            if (!p->failed) next(p);
        } else {
            bool end = ends_here(p, ends);
            next(p);
            if (end) return leave(p, body);
            n = parse_statement(p);
        }
        append(p, body, n);
    }
    if (!p->failed && ends) fail(p, "the template ends before \"%s\"", ends[0]);
    return leave(p, body);
}

fl_status jinja_parse(jinja *j, const jinja_token *tokens, fl_err *err) {
    parser p = {.arena = &j->arena, .t = tokens, .err = err};
    j->body = parse_body(&p, NULL);
    return p.failed ? p.status : FL_OK;
}
