/* tok/jinja_int.h - what the files of the template engine share.
 *
 *   jinja_lex.c     text -> tokens, with the white-space rules
 *   jinja_parse.c   tokens -> tree
 *   jinja_value.c   lists, dicts, comparing; jinja_text.c strings with origins, printing, JSON
 *   jinja_eval.c    expressions; jinja_exec.c statements, scopes, rendering
 *   jinja_method.c  methods of strings, lists and dicts; jinja_filter.c filters and tests
 *
 * Memory: the tree lives in the arena of the jinja, all values of a rendering in the arena of
 * the run; nothing is freed one by one.
 * Errors: a run keeps its first error (jinja_fail()); functions that make values go on with
 * JINJA_UNDEFINED then, and loops stop on r->status.
 */
#ifndef TOK_JINJA_INT_H
#define TOK_JINJA_INT_H

#include "base/arena.h"
#include "tok/jinja.h"

#include <stdint.h>

/* ------------------------------------------------------------------ values */

typedef enum {
    JINJA_UNDEFINED,
    JINJA_NONE,
    JINJA_BOOL,
    JINJA_INT,
    JINJA_FLOAT,
    JINJA_STRING,
    JINJA_LIST,
    JINJA_TUPLE,
    JINJA_VIEW,      /* range(), dict.items() and the like: a list without JSON form */
    JINJA_GENERATOR, /* result of map, select, ...: can be walked once */
    JINJA_DICT,
    JINJA_NAMESPACE,
    JINJA_MACRO,
    JINJA_FUNCTION,
    JINJA_METHOD,
    JINJA_LOOP,
} jinja_type;

typedef struct {
    uint32_t begin, end;
} jinja_mark;

/* Valid UTF-8. Marks are the ranges of bytes that came from the caller: rising, disjoint, not adjacent. */
typedef struct {
    const char *p;
    uint32_t n, n_marks;
    const jinja_mark *marks;
    bool markup; /* result of safe or escape: `+` escapes what is joined to it, as the reference does */
} jinja_string;

typedef struct jinja_list jinja_list;
typedef struct jinja_dict jinja_dict;
typedef struct jinja_macro jinja_macro;
typedef struct jinja_method jinja_method;
typedef struct jinja_loop jinja_loop;

typedef struct {
    jinja_type type;
    union {
        bool b;
        int64_t i;
        double f;
        const jinja_string *s;
        jinja_list *l;
        jinja_dict *d;
        const jinja_macro *m;
        const jinja_method *method;
        jinja_loop *loop;
        int function;
        const char *hint; /* undefined: what is missing, or NULL */
    };
} jinja_value;

struct jinja_list {
    jinja_value *v;
    uint32_t n, cap;
    const char *label; /* views of dicts: their name when printed; NULL for others */
    const char *range; /* range(): its printed form; NULL for others */
};

typedef struct {
    jinja_value key, value;
} jinja_entry;

struct jinja_dict {
    jinja_entry *e; /* in order of insertion */
    uint32_t n, cap;
    uint32_t *index; /* open addressing, entry + 1; NULL for a few entries */
    uint32_t n_index;
};

/* ------------------------------------------------------------------ tokens and tree */

typedef enum {
    TOKEN_EOF,
    TOKEN_DATA,
    TOKEN_PRINT,
    TOKEN_PRINT_END,
    TOKEN_BLOCK,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_STRING,
    TOKEN_INT,
    TOKEN_FLOAT,
    TOKEN_OP
} jinja_token_type;

/* Operators are their characters: '+', or '/' << 8 | '/'. */
#define JINJA_OP2(a, b) ((a) << 8 | (b))

typedef struct {
    jinja_token_type type;
    int op;
    uint32_t line;
    const char *p;
    size_t n;
} jinja_token;

typedef enum {
    /* expressions */
    NODE_CONST,
    NODE_NAME,
    NODE_TUPLE,
    NODE_LIST,
    NODE_DICT,
    NODE_ATTR,
    NODE_ITEM,
    NODE_SLICE,
    NODE_CALL,
    NODE_FILTER,
    NODE_TEST,
    NODE_UNARY,
    NODE_BINARY,
    NODE_AND,
    NODE_OR,
    NODE_NOT,
    NODE_COMPARE,
    NODE_CONCAT,
    NODE_COND,
    NODE_KEYWORD,
    NODE_STAR,
    NODE_STAR2,
    /* statements */
    NODE_BODY,
    NODE_DATA,
    NODE_PRINT,
    NODE_IF,
    NODE_FOR,
    NODE_SET,
    NODE_SET_BLOCK,
    NODE_MACRO,
    NODE_CALL_BLOCK,
    NODE_FILTER_BLOCK,
    NODE_SCOPE,
    NODE_BREAK,
    NODE_CONTINUE,
} jinja_node_type;

/* What the fields mean is said where the parser makes the node. */
typedef struct jinja_node jinja_node;
struct jinja_node {
    jinja_node_type type;
    int op;
    uint32_t line, n;
    jinja_node *a, *b, *c;
    jinja_node **list;
    const char *name; /* ends with NUL */
    jinja_value value;
    int function; /* index of a filter or test */
    bool flag;
};

/* op of a MACRO: its body looks at arguments beyond its parameters. */
enum { JINJA_MACRO_VARARGS = 1, JINJA_MACRO_KWARGS = 2 };

struct jinja {
    base_arena arena;
    jinja_node *body;
};

/* Tokens of text into the arena. */
FL_CHECKED fl_status jinja_lex(base_arena *arena, const char *text, size_t n, jinja_token **tokens, size_t *n_tokens,
                               fl_err *err);
FL_CHECKED fl_status jinja_parse(jinja *j, const jinja_token *tokens, fl_err *err);

/* ------------------------------------------------------------------ a rendering */

typedef struct jinja_scope jinja_scope;
struct jinja_scope {
    jinja_scope *parent;
    struct jinja_variable {
        const char *name;
        jinja_value value;
    } * v;
    uint32_t n, cap;
    bool kept; /* a macro may look into it later: it is not used again */
};

/* A string under construction, with its marks. */
typedef struct {
    char *p;
    uint32_t n, cap;
    jinja_mark *marks;
    uint32_t n_marks, marks_cap;
} jinja_text;

typedef struct {
    const jinja *template;
    base_arena arena;
    const jinja_clock *clock;
    jinja_scope *scope;
    jinja_text *out;
    uint64_t fuel;
    uint32_t line;
    uint32_t depth;  /* of calls of macros */
    uint32_t frames; /* of the evaluator's own recursion */
    fl_status status;
    fl_err *err;
} jinja_run;

enum { JINJA_FRAMES_MAX = 1200 };

typedef struct {
    jinja_value *v; /* positional, then keywords */
    uint32_t n;     /* positional */
    uint32_t n_names;
    const char **names; /* [n_names] of v[n ..] */
} jinja_args;

struct jinja_macro {
    const jinja_node *node;
    jinja_scope *scope; /* where it was defined */
};

struct jinja_method {
    jinja_value self;
    const char *name;
};

struct jinja_loop {
    const jinja_list *items;
    uint32_t index;
    jinja_value changed;
};

/* The first error counts; gives undefined. Messages begin with the line. */
jinja_value jinja_fail(jinja_run *r, fl_status status, const char *fmt, ...) FL_PRINTF(3, 4);
/* Takes fuel; false (and failed) when it is used up. */
bool jinja_burn(jinja_run *r, uint64_t n);
void *jinja_alloc(jinja_run *r, size_t bytes);

/* ---- jinja_value.c */
#define JINJA_NONE_VALUE      ((jinja_value){.type = JINJA_NONE})
#define JINJA_UNDEFINED_VALUE ((jinja_value){.type = JINJA_UNDEFINED})
jinja_value jinja_bool(bool b);
jinja_value jinja_int(int64_t i);
jinja_value jinja_float(double f);
jinja_value jinja_undefined(const char *hint);
jinja_value jinja_list_new(jinja_run *r, jinja_type type, uint32_t cap);
bool jinja_list_push(jinja_run *r, jinja_list *l, jinja_value v);
jinja_value jinja_dict_new(jinja_run *r);
bool jinja_dict_set(jinja_run *r, jinja_dict *d, jinja_value key, jinja_value value);
const jinja_entry *jinja_dict_find(const jinja_dict *d, jinja_value key);
/* As jinja_dict_find(), and pays for hashing a long key. */
const jinja_entry *jinja_dict_get(jinja_run *r, const jinja_dict *d, jinja_value key);
const jinja_entry *jinja_dict_find_name(const jinja_dict *d, const char *name);
bool jinja_is_list(jinja_value v);   /* list, tuple, view or generator */
bool jinja_is_number(jinja_value v); /* bool, int, float */
bool jinja_truth(jinja_value v);
const char *jinja_type_name(jinja_value v);
bool jinja_equal(jinja_run *r, jinja_value a, jinja_value b);
/* -1, 0, 1; fails for values that have no order. */
int jinja_order(jinja_run *r, jinja_value a, jinja_value b);
bool jinja_contains(jinja_run *r, jinja_value item, jinja_value in);
/* The items of anything that can be walked, as a list; a generator is empty afterwards. */
jinja_list *jinja_items(jinja_run *r, jinja_value v);
jinja_value jinja_from_json(jinja_run *r, const json_t *j, bool trusted);
double jinja_number(jinja_value v);

/* ---- jinja_text.c */
jinja_value jinja_string_new(jinja_run *r, const char *p, size_t n); /* copies; from the template */
jinja_value jinja_string_slice(jinja_run *r, const jinja_string *s, size_t begin, size_t end);
bool jinja_text_put(jinja_run *r, jinja_text *t, const char *p, size_t n, bool input);
bool jinja_text_puts(jinja_run *r, jinja_text *t, const char *s);
bool jinja_text_slice(jinja_run *r, jinja_text *t, const jinja_string *s, size_t begin, size_t end);
bool jinja_text_string(jinja_run *r, jinja_text *t, const jinja_string *s);
/* str(v) and repr(v). */
bool jinja_text_value(jinja_run *r, jinja_text *t, jinja_value v);
bool jinja_text_repr(jinja_run *r, jinja_text *t, jinja_value v);
jinja_value jinja_text_end(jinja_run *r, jinja_text *t);
const jinja_string *jinja_str(jinja_run *r, jinja_value v); /* never NULL: empty after a failure */
/* The string as markup: escaped for HTML, or as it is when it is trusted (safe). */
jinja_value jinja_markup(jinja_run *r, const jinja_string *s, bool safe);
bool jinja_marked(const jinja_string *s, size_t at);
bool jinja_is_space(uint32_t cp);
uint32_t jinja_upper(uint32_t cp);
uint32_t jinja_lower(uint32_t cp);
void jinja_float_text(double f, char out[40]);

typedef struct {
    const char *indent; /* NULL: one line */
    const char *comma, *colon;
    bool ascii, sort;
} jinja_json_options;
jinja_value jinja_to_json(jinja_run *r, jinja_value v, const jinja_json_options *o);

/* ---- jinja_eval.c */
jinja_value jinja_eval(jinja_run *r, const jinja_node *n);
/* v through the filters of a block or set: a chain of FILTER nodes whose first has no value of its own. */
jinja_value jinja_apply_filters(jinja_run *r, const jinja_node *filters, jinja_value v);
jinja_value jinja_get_attr(jinja_run *r, jinja_value v, const char *name);
jinja_value jinja_get_item(jinja_run *r, jinja_value v, jinja_value key);
jinja_value jinja_call(jinja_run *r, jinja_value callee, const jinja_args *args);
jinja_value jinja_format(jinja_run *r, const jinja_string *format, jinja_value args);
/* Positional argument i, or the keyword; fallback when absent. */
jinja_value jinja_arg(const jinja_args *a, uint32_t i, const char *name, jinja_value fallback);
jinja_value jinja_add(jinja_run *r, jinja_value a, jinja_value b);
jinja_value jinja_global(const char *name); /* undefined when there is none */

/* ---- jinja_exec.c */
jinja_value jinja_lookup(jinja_run *r, const char *name);
bool jinja_assign(jinja_run *r, const char *name, jinja_value v);
jinja_value jinja_call_macro(jinja_run *r, const jinja_macro *m, const jinja_args *args);

/* ---- jinja_method.c */
bool jinja_has_method(jinja_value v, const char *name);
jinja_value jinja_call_method(jinja_run *r, jinja_value self, const char *name, const jinja_args *args);
jinja_value jinja_strip(jinja_run *r, const jinja_string *s, jinja_value chars, bool left, bool right);
jinja_value jinja_replace(jinja_run *r, const jinja_string *s, const jinja_string *old, const jinja_string *with,
                          int64_t count);
typedef enum { JINJA_CASE_UPPER, JINJA_CASE_LOWER, JINJA_CASE_TITLE, JINJA_CASE_CAPITAL } jinja_case;
jinja_value jinja_recase(jinja_run *r, const jinja_string *s, jinja_case how);

/* ---- jinja_filter.c, jinja_test.c: index by name, or -1 */
int jinja_filter_find(const char *name);
int jinja_test_find(const char *name);
jinja_value jinja_filter_apply(jinja_run *r, int filter, jinja_value v, const jinja_args *args);
bool jinja_test_apply(jinja_run *r, int test, jinja_value v, const jinja_args *args);

#endif
