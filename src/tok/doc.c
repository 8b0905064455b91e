/* Reading JSON into nodes: one pass over the bytes with a stack of open containers, then for each object that closes
 * a look for equal keys. See doc.h.
 *
 * The block for strings is as large as the text: a string loses its two quotes and gains a NUL, and no escape is shorter
 * than what it stands for. A number that is no integer is copied behind the last string for strtod(), which wants a NUL
 * as well; the byte for it is the one beyond.
 */
#include "tok/doc.h"

#include "base/map.h"
#include "base/mem.h"
#include "tok/tok_int.h"
#include "tok/utf8.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FEW_KEYS = 8 }; /* compared one with another */

typedef struct {
    tok_doc *d;
    const uint8_t *at, *begin, *end;
    char *text; /* where the next string goes */
    uint64_t seed;
    uint32_t *slots; /* scratch for looking for equal keys */
    size_t slots_cap;
    uint32_t depth;
    size_t open[TOK_DOC_DEPTH]; /* containers that have not ended, by node */
    const char *what;
    fl_err *err;
} reader;

/* ---- messages ---- */

static fl_status fail_at(const reader *r, const uint8_t *at, const char *why) {
    size_t line = 1, column = 1;
    for (const uint8_t *p = r->begin; p < at; p++) {
        column = *p == '\n' ? 1 : column + 1;
        line += *p == '\n';
    }
    return fl_fail(r->err, FL_EFORMAT, "%s: %s (line %zu, column %zu)", r->what, why, line, column);
}

static fl_status fail(const reader *r, const char *why) {
    return fail_at(r, r->at, r->at == r->end ? "the text ends too early" : why);
}

static fl_status no_memory(const reader *r) {
    return fl_fail(r->err, FL_ENOMEM, "%s: no memory for %zu bytes", r->what, (size_t)(r->end - r->begin));
}

/* ---- values ---- */

/* A new node; the ones before may move. NULL without memory. */
static tok_node *add(reader *r, tok_node_kind kind) {
    tok_doc *d = r->d;
    if (d->n_nodes == d->cap) {
        size_t cap = d->cap * 2; /* at most one node a byte: no overflow */
        tok_node *nodes = base_realloc(d->nodes, cap * sizeof *nodes);
        if (!nodes) return NULL;
        d->nodes = nodes;
        d->cap = cap;
    }
    tok_node *v = &d->nodes[d->n_nodes++];
    *v = (tok_node){.kind = kind};
    return v;
}

static void skip_blanks(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\r' || *r->at == '\t')) r->at++;
}

/* Four hexadecimal digits, or -1. */
static int32_t read_hex(const reader *r, const uint8_t *p) {
    int32_t value = 0;
    if (r->end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        int c = p[i], digit = c >= '0' && c <= '9'                 ? c - '0'
                              : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                                   : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

/* Behind a backslash. */
static fl_status read_escape(reader *r) {
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (r->at == r->end) return fail(r, "");
    const char *name = *r->at ? strchr(names, *r->at) : NULL;
    if (name) {
        *r->text++ = values[name - names];
        r->at++;
        return FL_OK;
    }
    if (*r->at != 'u') return fail(r, "an escape that is not known");
    int32_t cp = read_hex(r, r->at + 1);
    const uint8_t *after = r->at + 5;
    if (cp >= 0xd800 && cp <= 0xdbff) { /* the first of two */
        bool second = r->end - after >= 2 && after[0] == '\\' && after[1] == 'u';
        int32_t low = second ? read_hex(r, after + 2) : -1;
        cp = low >= 0xdc00 && low <= 0xdfff ? 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00) : -1;
        after += 6;
    } else if (cp >= 0xdc00 && cp <= 0xdfff) {
        cp = -1;
    }
    if (cp < 0) return fail(r, "\\u is not followed by a character");
    r->text += tok_utf8_put((uint8_t *)r->text, (uint32_t)cp);
    r->at = after;
    return FL_OK;
}

/* Copies characters that stand for themselves. */
static void copy_plain(reader *r) {
    const uint8_t *p = r->at;
    while (p < r->end) {
        if (*p < 0x80) {
            if (*p < 0x20 || *p == '"' || *p == '\\') break;
            p++;
            continue;
        }
        int len = tok_utf8_char(p, (size_t)(r->end - p));
        if (len <= 0) break;
        p += len;
    }
    size_t n = (size_t)(p - r->at);
    memcpy(r->text, r->at, n);
    r->text += n;
    r->at = p;
}

static fl_status read_string(reader *r) {
    const uint8_t *quote = r->at++;
    const char *bytes = r->text;
    for (;;) {
        copy_plain(r);
        if (r->at == r->end) return fail_at(r, quote, "a string does not end");
        if (*r->at == '"') break;
        if (*r->at != '\\') return fail(r, *r->at < 0x20 ? "a control character in a string" : "not UTF-8");
        r->at++;
        fl_status st = read_escape(r);
        if (st != FL_OK) return st;
    }
    r->at++;
    tok_node *v = add(r, TOK_NODE_STRING);
    if (!v) return no_memory(r);
    v->n = (uint32_t)(r->text - bytes);
    v->as.bytes = bytes;
    *r->text++ = '\0';
    return FL_OK;
}

static size_t skip_digits(reader *r) {
    const uint8_t *from = r->at;
    while (r->at < r->end && *r->at >= '0' && *r->at <= '9') r->at++;
    return (size_t)(r->at - from);
}

static fl_status read_real(reader *r, const uint8_t *from) {
    if (r->at < r->end && *r->at == '.') {
        r->at++;
        if (!skip_digits(r)) return fail(r, "a number without digits behind its point");
    }
    if (r->at < r->end && (*r->at | 32) == 'e') {
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-')) r->at++;
        if (!skip_digits(r)) return fail(r, "a number without digits in its exponent");
    }
    size_t n = (size_t)(r->at - from);
    memcpy(r->text, from, n);
    r->text[n] = '\0';
    char *point = memchr(r->text, '.', n), *stop;
    if (point) *point = *localeconv()->decimal_point; /* what strtod() takes for one */
    double real = strtod(r->text, &stop);
    if (stop != r->text + n || !isfinite(real)) return fail_at(r, from, "a number that is too large");
    tok_node *v = add(r, TOK_NODE_REAL);
    if (!v) return no_memory(r);
    v->as.real = real;
    return FL_OK;
}

static fl_status read_number(reader *r) {
    const uint8_t *from = r->at;
    bool negative = *r->at == '-', zero, fits = true;
    r->at += negative;
    const uint8_t *digits = r->at;
    zero = r->at < r->end && *r->at == '0';
    size_t n = zero ? (size_t)(r->at++, 1) : skip_digits(r);
    if (!n) return fail(r, "a minus without digits");
    if (r->at < r->end && (*r->at == '.' || (*r->at | 32) == 'e')) return read_real(r, from);
    int64_t value = 0;
    for (const uint8_t *p = digits; p < r->at; p++) /* downwards: there is one more below zero */
        fits = fits && !__builtin_mul_overflow(value, 10, &value) && !__builtin_sub_overflow(value, *p - '0', &value);
    if (!fits || (!negative && value == INT64_MIN)) return fail_at(r, from, "an integer beyond 64 bits");
    tok_node *v = add(r, TOK_NODE_INT);
    if (!v) return no_memory(r);
    v->as.integer = negative ? value : -value;
    return FL_OK;
}

static fl_status read_word(reader *r) {
    static const struct {
        const char *text;
        tok_node_kind kind;
    } words[] = {{"null", TOK_NODE_NULL}, {"false", TOK_NODE_FALSE}, {"true", TOK_NODE_TRUE}};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        size_t n = strlen(words[i].text);
        if ((size_t)(r->end - r->at) < n || memcmp(r->at, words[i].text, n) != 0) continue;
        r->at += n;
        return add(r, words[i].kind) ? FL_OK : no_memory(r);
    }
    return fail(r, "a value is missing");
}

/* ---- containers ---- */

static fl_status open_container(reader *r) {
    if (r->depth == TOK_DOC_DEPTH) return fail(r, "nested beyond a depth of 2048");
    tok_node_kind kind = *r->at++ == '[' ? TOK_NODE_LIST : TOK_NODE_OBJECT;
    r->open[r->depth++] = r->d->n_nodes;
    return add(r, kind) ? FL_OK : no_memory(r);
}

static bool same(const tok_node *a, const tok_node *b) {
    return a->n == b->n && memcmp(a->as.bytes, b->as.bytes, a->n) == 0;
}

/* Marks the slots of the keys of o, whose hashes run ahead of them; the first key that is there already, or NULL. */
static const tok_node *find_equal(reader *r, const tok_node *o, uint32_t mask) {
    enum { AHEAD = 16 };
    const tok_node *nodes = r->d->nodes, *keys[AHEAD] = {0}, *next = tok_node_first_key(o);
    uint32_t at[AHEAD] = {0};
    for (uint32_t i = 0; i < o->n + AHEAD; i++) {
        const tok_node *k = keys[i % AHEAD];
        for (uint32_t s = at[i % AHEAD] & mask; k; s = (s + 1) & mask) {
            if (!r->slots[s]) {
                r->slots[s] = (uint32_t)(k - nodes); /* never 0: that is the root */
                break;
            }
            if (same(&nodes[r->slots[s]], k)) return k;
        }
        keys[i % AHEAD] = next;
        if (!next) continue;
        at[i % AHEAD] = (uint32_t)base_hash(r->seed, next->as.bytes, next->n);
        __builtin_prefetch(&r->slots[at[i % AHEAD] & mask], 1);
        next = tok_node_next(o, next + 1);
    }
    return NULL;
}

static fl_status check_keys(reader *r, const tok_node *o) {
    const tok_node *equal = NULL;
    char why[80];
    if (o->n <= FEW_KEYS) {
        for (const tok_node *k = tok_node_first_key(o); k && !equal; k = tok_node_next(o, k + 1))
            for (const tok_node *j = tok_node_first_key(o); j != k && !equal; j = tok_node_next(o, j + 1))
                if (same(j, k)) equal = k;
    } else {
        size_t n = 16;
        while (n < 2 * (size_t)o->n) n *= 2;
        if (n > r->slots_cap) {
            base_free(r->slots);
            r->slots = base_malloc(n * sizeof *r->slots);
            r->slots_cap = r->slots ? n : 0;
            if (!r->slots) return no_memory(r);
        }
        memset(r->slots, 0, n * sizeof *r->slots);
        equal = find_equal(r, o, (uint32_t)n - 1);
    }
    if (!equal) return FL_OK;
    (void)snprintf(why, sizeof why, "an object has the key \"%.40s\" twice", equal->as.bytes);
    return fail_at(r, r->at, why);
}

static fl_status close_container(reader *r) {
    tok_node *v = &r->d->nodes[r->open[--r->depth]];
    r->at++;
    v->as.inside = (uint64_t)(&r->d->nodes[r->d->n_nodes] - v) - 1;
    return v->kind == TOK_NODE_OBJECT ? check_keys(r, v) : FL_OK;
}

/* The key of the next member and its colon. */
static fl_status read_key(reader *r) {
    if (r->at == r->end || *r->at != '"') return fail(r, "a key is missing");
    const uint8_t *quote = r->at;
    fl_status st = read_string(r);
    if (st != FL_OK) return st;
    const tok_node *key = &r->d->nodes[r->d->n_nodes - 1];
    if (memchr(key->as.bytes, 0, key->n)) return fail_at(r, quote, "NUL in a key");
    skip_blanks(r);
    if (r->at == r->end || *r->at != ':') return fail(r, "a colon is missing");
    r->at++;
    skip_blanks(r);
    return FL_OK;
}

/* One value, or the beginning of a container. */
static fl_status read_value(reader *r) {
    if (r->at == r->end) return fail(r, "");
    if (*r->at == '"') return read_string(r);
    if (*r->at == '-' || (*r->at >= '0' && *r->at <= '9')) return read_number(r);
    return *r->at == '[' || *r->at == '{' ? open_container(r) : read_word(r);
}

static fl_status read_all(reader *r) {
    skip_blanks(r);
    const uint8_t *root = r->at;
    if (r->at == r->end || (*r->at != '{' && *r->at != '[')) return fail_at(r, root, "the text is no JSON object");
    fl_status st = open_container(r);
    while (st == FL_OK && r->depth) {
        tok_node *parent = &r->d->nodes[r->open[r->depth - 1]];
        bool object = parent->kind == TOK_NODE_OBJECT;
        skip_blanks(r);
        if (r->at < r->end && *r->at == (object ? '}' : ']')) {
            st = close_container(r);
            continue;
        }
        if (parent->n++) {
            if (r->at == r->end || *r->at != ',') return fail(r, "a comma is missing");
            r->at++;
            skip_blanks(r);
        }
        if (object) st = read_key(r);
        if (st == FL_OK) st = read_value(r);
    }
    skip_blanks(r);
    if (st != FL_OK) return st;
    if (*root != '{') return fail_at(r, root, "the text is no JSON object");
    return r->at == r->end ? FL_OK : fail(r, "something follows the JSON object");
}

fl_status tok_doc_open(tok_doc *d, const char *what, const char *json, size_t n, fl_err *err) {
    *d = (tok_doc){.cap = n / 16 + 16};
    if (n >= UINT32_MAX) return fl_fail(err, FL_EFORMAT, "%s: %zu bytes; fewer than 4 GiB are possible", what, n);
    reader *r = base_calloc(1, sizeof *r);
    d->nodes = base_malloc(d->cap * sizeof *d->nodes);
    d->text = base_malloc(n + 1);
    fl_status st = r && d->nodes && d->text ? FL_OK : fl_fail(err, FL_ENOMEM, "%s: no memory for %zu bytes", what, n);
    if (st == FL_OK) {
        const uint8_t *begin = (const uint8_t *)json;
        r->d = d;
        r->begin = r->at = begin;
        r->end = begin + n;
        r->text = d->text;
        r->seed = tok_seed();
        r->what = what;
        r->err = err;
        st = read_all(r);
        base_free(r->slots);
    }
    base_free(r);
    return st;
}

void tok_doc_clear(tok_doc *d) {
    base_free(d->nodes);
    base_free(d->text);
    *d = (tok_doc){0};
}

/* ---- nodes ---- */

bool tok_node_is(const tok_node *v, tok_node_kind kind) { return v && v->kind == kind; }

bool tok_node_is_number(const tok_node *v) { return v && (v->kind == TOK_NODE_INT || v->kind == TOK_NODE_REAL); }

bool tok_node_is_bool(const tok_node *v) { return v && (v->kind == TOK_NODE_FALSE || v->kind == TOK_NODE_TRUE); }

const tok_node *tok_node_first(const tok_node *v) { return tok_node_count(v) ? v + 1 : NULL; }

const tok_node *tok_node_first_key(const tok_node *v) { return tok_node_is(v, TOK_NODE_OBJECT) && v->n ? v + 1 : NULL; }

const tok_node *tok_node_next(const tok_node *parent, const tok_node *v) {
    const tok_node *next = v + 1 + (v->kind >= TOK_NODE_LIST ? v->as.inside : 0);
    return next <= parent + parent->as.inside ? next : NULL;
}

const tok_node *tok_node_get(const tok_node *o, const char *key) {
    if (!tok_node_is(o, TOK_NODE_OBJECT)) return NULL;
    size_t n = strlen(key);
    for (const tok_node *k = tok_node_first_key(o); k; k = tok_node_next(o, k + 1))
        if (k->n == n && memcmp(k->as.bytes, key, n) == 0) return k + 1;
    return NULL;
}

const tok_node *tok_node_at(const tok_node *list, uint32_t i) {
    if (!tok_node_is(list, TOK_NODE_LIST) || i >= list->n) return NULL;
    const tok_node *v = list + 1;
    while (i--) v = tok_node_next(list, v);
    return v;
}

uint32_t tok_node_count(const tok_node *v) { return tok_node_is(v, TOK_NODE_LIST) ? v->n : 0; }

tok_text tok_node_text(const tok_node *v) {
    return tok_node_is(v, TOK_NODE_STRING) ? (tok_text){v->as.bytes, v->n} : (tok_text){NULL, 0};
}

const char *tok_node_chars(const tok_node *v) { return tok_node_text(v).bytes; }

int64_t tok_node_int(const tok_node *v) { return tok_node_is(v, TOK_NODE_INT) ? v->as.integer : 0; }

double tok_node_number(const tok_node *v) {
    return tok_node_is(v, TOK_NODE_REAL) ? v->as.real : (double)tok_node_int(v);
}
