/* Statements, scopes, and the life of a template.
 *
 * A scope is a short list of names. A loop makes one per round, a macro one per call below the
 * scope it was defined in; `set` always assigns in the innermost one, and a namespace is the
 * way to carry a value out. Text goes to r->out, which blocks that capture replace for a while.
 */
#include "tok/jinja_int.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

typedef enum { FLOW_ON, FLOW_BREAK, FLOW_CONTINUE } flow;

static flow exec(jinja_run *r, const jinja_node *n);

jinja_value jinja_fail(jinja_run *r, fl_status status, const char *fmt, ...) {
    if (r->status) return JINJA_UNDEFINED_VALUE;
    char what[440];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    r->status = r->line ? fl_fail(r->err, status, "line %u: %s", r->line, what) : fl_fail(r->err, status, "%s", what);
    return JINJA_UNDEFINED_VALUE;
}

bool jinja_burn(jinja_run *r, uint64_t n) {
    if (r->status) return false;
    if (n > r->fuel) {
        jinja_fail(r, FL_ENOMEM, "the template takes more than %d operations", JINJA_FUEL);
        return false;
    }
    r->fuel -= n;
    return true;
}

/* ------------------------------------------------------------------ names */

jinja_value jinja_lookup(jinja_run *r, const char *name) {
    for (const jinja_scope *s = r->scope; s; s = s->parent) {
        if (!jinja_burn(r, 1 + s->n / 8)) return JINJA_UNDEFINED_VALUE;
        for (uint32_t i = 0; i < s->n; i++)
            if (strcmp(s->v[i].name, name) == 0) return s->v[i].value;
    }
    return jinja_global(name);
}

bool jinja_assign(jinja_run *r, const char *name, jinja_value v) {
    jinja_scope *s = r->scope;
    if (!jinja_burn(r, s->n / 8)) return false;
    for (uint32_t i = 0; i < s->n; i++)
        if (strcmp(s->v[i].name, name) == 0) {
            s->v[i].value = v;
            return true;
        }
    if (s->n == s->cap) {
        uint32_t cap = s->cap ? 2 * s->cap : 4;
        struct jinja_variable *p = jinja_alloc(r, cap * sizeof *p);
        if (!p) return false;
        if (s->n) memcpy(p, s->v, s->n * sizeof *p);
        s->v = p;
        s->cap = cap;
    }
    s->v[s->n++] = (struct jinja_variable){name, v};
    return true;
}

static bool push_scope(jinja_run *r, jinja_scope *parent) {
    jinja_scope *s = jinja_alloc(r, sizeof *s);
    if (!s) return false;
    s->parent = parent;
    r->scope = s;
    return true;
}

/* A fresh scope in place of the innermost one, which is used again where nobody can tell. */
static bool renew_scope(jinja_run *r, jinja_scope *parent) {
    if (r->scope == parent || r->scope->kept) return push_scope(r, parent);
    r->scope->n = 0;
    return true;
}

static void assign_target(jinja_run *r, const jinja_node *target, jinja_value v) {
    if (r->status) return;
    if (target->type == NODE_NAME) {
        jinja_assign(r, target->name, v);
    } else if (target->type == NODE_ATTR) {
        jinja_value space = jinja_eval(r, target->a);
        if (r->status) return;
        if (space.type != JINJA_NAMESPACE)
            jinja_fail(r, FL_EINVAL, "only attributes of a namespace can be set");
        else if (target->name[0] == '_')
            jinja_fail(r, FL_EINVAL, "a namespace cannot store \"%.60s\"", target->name);
        else
            jinja_dict_set(r, space.d, jinja_string_new(r, target->name, strlen(target->name)), v);
    } else {
        const jinja_list *l = jinja_items(r, v);
        if (!r->status && l->n != target->n) jinja_fail(r, FL_EINVAL, "%u values for %u names", l->n, target->n);
        for (uint32_t i = 0; i < target->n && !r->status; i++) assign_target(r, target->list[i], l->v[i]);
    }
}

/* ------------------------------------------------------------------ statements */

/* Runs the body in a scope of its own and gives what it prints. */
static jinja_value capture(jinja_run *r, const jinja_node *body) {
    jinja_text text = {0}, *out = r->out;
    jinja_scope *scope = r->scope;
    r->out = &text;
    if (push_scope(r, scope)) exec(r, body);
    r->out = out;
    r->scope = scope;
    return jinja_text_end(r, &text);
}

static flow exec_if(jinja_run *r, const jinja_node *n) {
    for (uint32_t i = 0; i + 1 < n->n; i += 2) {
        bool yes = jinja_truth(jinja_eval(r, n->list[i]));
        if (r->status) return FLOW_ON;
        if (yes) return exec(r, n->list[i + 1]);
    }
    return n->c ? exec(r, n->c) : FLOW_ON;
}

/* The items a loop walks: those its condition accepts. What the body appends to the list is not among them. */
static jinja_list *loop_items(jinja_run *r, const jinja_node *n) {
    jinja_scope *outer = r->scope;
    jinja_value v = jinja_eval(r, n->b);
    jinja_list *all = r->status ? NULL : jinja_items(r, v);
    if (!all) return NULL;
    jinja_value out = jinja_list_new(r, JINJA_LIST, 0);
    if (!n->list[0] && !r->status) *out.l = *all;
    for (uint32_t i = 0; n->list[0] && i < all->n && renew_scope(r, outer); i++) {
        assign_target(r, n->a, all->v[i]);
        bool keep = jinja_truth(jinja_eval(r, n->list[0]));
        if (keep && !r->status) jinja_list_push(r, out.l, all->v[i]);
    }
    r->scope = outer;
    return r->status ? NULL : out.l;
}

static flow exec_for(jinja_run *r, const jinja_node *n) {
    jinja_scope *outer = r->scope;
    jinja_list *items = loop_items(r, n);
    jinja_loop *loop = items ? jinja_alloc(r, sizeof *loop) : NULL;
    if (!loop) return FLOW_ON;
    loop->items = items;
    for (uint32_t i = 0; i < items->n && jinja_burn(r, 1); i++) {
        loop->index = i;
        if (!renew_scope(r, outer)) break;
        jinja_assign(r, "loop", (jinja_value){.type = JINJA_LOOP, .loop = loop});
        assign_target(r, n->a, items->v[i]);
        if (exec(r, n->c) == FLOW_BREAK) break;
    }
    r->scope = outer;
    return items->n || !n->list[1] ? FLOW_ON : exec(r, n->list[1]);
}

static void define_macro(jinja_run *r, const jinja_node *n, const char *name) {
    jinja_macro *m = jinja_alloc(r, sizeof *m);
    if (!m) return;
    *m = (jinja_macro){n, r->scope};
    for (jinja_scope *s = r->scope; s && !s->kept; s = s->parent) s->kept = true;
    jinja_assign(r, name, (jinja_value){.type = JINJA_MACRO, .m = m});
}

/* Binds the arguments of a call in the scope of the macro. */
static void bind(jinja_run *r, const jinja_node *n, const jinja_args *a) {
    for (uint32_t i = 0; i < n->n && !r->status; i++) {
        const jinja_node *parameter = n->list[i];
        jinja_value none = jinja_undefined(parameter->name), v = jinja_arg(a, i, parameter->name, none);
        bool given = i < a->n;
        for (uint32_t k = 0; k < a->n_names; k++) given = given || strcmp(a->names[k], parameter->name) == 0;
        if (!given && parameter->a) v = jinja_eval(r, parameter->a);
        if (!r->status) jinja_assign(r, parameter->name, v);
    }
    jinja_value rest = jinja_list_new(r, JINJA_TUPLE, 0), named = jinja_dict_new(r);
    for (uint32_t i = n->n; i < a->n && !r->status; i++) jinja_list_push(r, rest.l, a->v[i]);
    for (uint32_t k = 0; k < a->n_names && !r->status; k++) {
        bool known = false;
        for (uint32_t i = 0; i < n->n; i++) known = known || strcmp(n->list[i]->name, a->names[k]) == 0;
        if (strcmp(a->names[k], "caller") == 0)
            jinja_assign(r, "caller", a->v[a->n + k]);
        else if (!known)
            jinja_dict_set(r, named.d, jinja_string_new(r, a->names[k], strlen(a->names[k])), a->v[a->n + k]);
    }
    if (r->status) return;
    jinja_assign(r, "varargs", rest);
    jinja_assign(r, "kwargs", named);
}

static bool check_call(jinja_run *r, const jinja_node *n, const jinja_args *a) {
    if (a->n > n->n && !(n->op & JINJA_MACRO_VARARGS))
        jinja_fail(r, FL_EINVAL, "macro %.60s takes at most %u arguments", n->name, n->n);
    for (uint32_t k = 0; k < a->n_names && !r->status; k++) {
        bool known = strcmp(a->names[k], "caller") == 0;
        for (uint32_t i = 0; i < n->n; i++) known = known || strcmp(n->list[i]->name, a->names[k]) == 0;
        if (!known && !(n->op & JINJA_MACRO_KWARGS))
            jinja_fail(r, FL_EINVAL, "macro %.60s takes no argument \"%.60s\"", n->name, a->names[k]);
    }
    return !r->status;
}

jinja_value jinja_call_macro(jinja_run *r, const jinja_macro *m, const jinja_args *a) {
    if (r->depth >= JINJA_DEPTH_MAX)
        return jinja_fail(r, FL_ENOMEM, "macros call each other deeper than %d", JINJA_DEPTH_MAX);
    if (!jinja_burn(r, ((uint64_t)m->node->n + 1) * (a->n_names + 1) / 8)) return JINJA_UNDEFINED_VALUE;
    if (!check_call(r, m->node, a)) return JINJA_UNDEFINED_VALUE;
    jinja_scope *scope = r->scope;
    jinja_value v = JINJA_UNDEFINED_VALUE;
    r->depth++;
    if (push_scope(r, m->scope)) {
        bind(r, m->node, a);
        if (!r->status) v = capture(r, m->node->b);
    }
    r->depth--;
    r->scope = scope;
    return v;
}

/* The call gets its body as the keyword argument caller. */
static void exec_call_block(jinja_run *r, const jinja_node *n) {
    jinja_scope *outer = r->scope;
    jinja_node call = *n->a, caller = {.type = NODE_NAME, .line = n->line, .name = "caller"};
    jinja_node keyword = {.type = NODE_KEYWORD, .line = n->line, .name = "caller", .a = &caller};
    call.list = jinja_alloc(r, (call.n + 1) * sizeof *call.list);
    if (!call.list || !push_scope(r, outer)) return;
    if (call.n) memcpy(call.list, n->a->list, call.n * sizeof *call.list);
    call.list[call.n++] = &keyword;
    define_macro(r, n->b, "caller");
    jinja_value v = jinja_eval(r, &call);
    if (!r->status) jinja_text_value(r, r->out, v);
    r->scope = outer;
}

static flow exec_scope(jinja_run *r, const jinja_node *n) {
    jinja_scope *outer = r->scope;
    if (!push_scope(r, outer)) return FLOW_ON;
    for (uint32_t i = 0; i < n->n && !r->status; i++) assign_target(r, n->list[i]->a, jinja_eval(r, n->list[i]->b));
    flow f = r->status ? FLOW_ON : exec(r, n->b);
    r->scope = outer;
    return f;
}

static flow exec_body(jinja_run *r, const jinja_node *n) {
    for (uint32_t i = 0; i < n->n && !r->status; i++) {
        flow f = exec(r, n->list[i]);
        if (f != FLOW_ON) return f;
    }
    return FLOW_ON;
}

static flow exec_node(jinja_run *r, const jinja_node *n) {
    jinja_value v;
    switch (n->type) {
        case NODE_BODY: return exec_body(r, n);
        case NODE_DATA: jinja_text_string(r, r->out, n->value.s); break;
        case NODE_PRINT:
            v = jinja_eval(r, n->a);
            if (!r->status) jinja_text_value(r, r->out, v);
            break;
        case NODE_IF: return exec_if(r, n);
        case NODE_FOR: return exec_for(r, n);
        case NODE_SET: assign_target(r, n->a, jinja_eval(r, n->b)); break;
        case NODE_SET_BLOCK:
            v = capture(r, n->b);
            assign_target(r, n->a, jinja_apply_filters(r, n->c, v));
            break;
        case NODE_MACRO: define_macro(r, n, n->name); break;
        case NODE_CALL_BLOCK: exec_call_block(r, n); break;
        case NODE_FILTER_BLOCK:
            v = jinja_apply_filters(r, n->a, capture(r, n->b));
            if (!r->status) jinja_text_value(r, r->out, v);
            break;
        case NODE_SCOPE: return exec_scope(r, n);
        case NODE_BREAK: return FLOW_BREAK;
        case NODE_CONTINUE: return FLOW_CONTINUE;
        default: jinja_fail(r, FL_EINVAL, "this cannot stand here");
    }
    return FLOW_ON;
}

static flow exec(jinja_run *r, const jinja_node *n) {
    if (r->status || !jinja_burn(r, 1)) return FLOW_ON;
    if (r->frames >= JINJA_FRAMES_MAX) {
        jinja_fail(r, FL_ENOMEM, "nested deeper than the budget");
        return FLOW_ON;
    }
    r->line = n->line;
    r->frames++;
    flow f = exec_node(r, n);
    r->frames--;
    return f;
}

/* ------------------------------------------------------------------ open and render */

fl_status jinja_open(jinja **out, const char *text, size_t n, fl_err *err) {
    *out = NULL;
    if (n > JINJA_TEMPLATE_MAX)
        return fl_fail(err, FL_EINVAL, "template of %zu bytes; at most %d are possible", n, JINJA_TEMPLATE_MAX);
    jinja *j = base_calloc(1, sizeof *j);
    if (!j) return fl_fail(err, FL_ENOMEM, "template");
    jinja_token *tokens;
    size_t n_tokens;
    fl_status st = jinja_lex(&j->arena, text, n, &tokens, &n_tokens, err);
    if (st == FL_OK) st = jinja_parse(j, tokens, err);
    if (st != FL_OK) {
        jinja_close(j);
        return fl_wrap(err, st, "template");
    }
    *out = j;
    return FL_OK;
}

void jinja_close(jinja *j) {
    if (!j) return;
    base_arena_clear(&j->arena);
    base_free(j);
}

static bool is_trusted(const char *name) {
    static const char *const names[] = {"bos_token", "eos_token", "pad_token", "unk_token"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0) return true;
    return false;
}

static void set_variables(jinja_run *r, const json_t *context) {
    const char *key;
    json_t *item;
    json_object_foreach((json_t *)(uintptr_t)context, key, item) {
        jinja_value v = jinja_from_json(r, item, is_trusted(key));
        if (r->status) return;
        jinja_assign(r, key, v);
    }
}

/* The text, and the ranges between its marks. */
static fl_status write_output(const jinja_text *t, jinja_output *out, fl_err *err) {
    if (!base_buf_append(&out->text, t->p, t->n)) return fl_fail(err, FL_ENOMEM, "rendered text of %u bytes", t->n);
    out->literal = base_malloc(((size_t)t->n_marks + 1) * sizeof *out->literal);
    if (!out->literal) return fl_fail(err, FL_ENOMEM, "rendered text of %u bytes", t->n);
    size_t at = 0;
    for (uint32_t i = 0; i <= t->n_marks; i++) {
        size_t end = i < t->n_marks ? t->marks[i].begin : t->n;
        if (end > at) out->literal[out->n_literal++] = (tok_range){at, end};
        if (i < t->n_marks) at = t->marks[i].end;
    }
    return FL_OK;
}

fl_status jinja_render(const jinja *j, const json_t *context, const jinja_clock *clock, jinja_output *out,
                       fl_err *err) {
    *out = (jinja_output){0};
    jinja_text text = {0};
    jinja_scope root = {0};
    jinja_run r = {.template = j,
                   .arena = {.limit = JINJA_MEMORY_MAX},
                   .clock = clock,
                   .scope = &root,
                   .out = &text,
                   .fuel = JINJA_FUEL,
                   .err = err};
    if (context && !json_is_object(context))
        return fl_fail(err, FL_EINVAL, "the variables of a template are not a JSON object");
    if (context) set_variables(&r, context);
    if (!r.status) exec(&r, j->body);
    fl_status st = r.status ? r.status : write_output(&text, out, err);
    base_arena_clear(&r.arena);
    return st == FL_OK ? st : fl_wrap(err, st, "template");
}

void jinja_output_clear(jinja_output *out) {
    base_buf_clear(&out->text);
    base_free(out->literal);
    *out = (jinja_output){0};
}
