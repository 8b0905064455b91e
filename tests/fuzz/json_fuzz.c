/* Any bytes as JSON, read by tok/doc.c and by jansson: both take them or both refuse them, and find the same in them. */
#include "tok/doc.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Walks both at once: a list of what is still to be compared in place of recursion. */
typedef struct {
    const tok_node *node;
    const json_t *json;
} pair;

enum { PAIRS_MAX = 1 << 16 };

static void require(bool ok) {
    if (!ok) abort();
}

static void compare_scalar(const tok_node *v, const json_t *j) {
    switch (v->kind) {
        case TOK_NODE_NULL: require(json_is_null(j)); break;
        case TOK_NODE_FALSE: require(json_is_false(j)); break;
        case TOK_NODE_TRUE: require(json_is_true(j)); break;
        case TOK_NODE_INT: require(json_is_integer(j) && json_integer_value(j) == v->as.integer); break;
        case TOK_NODE_REAL: require(json_is_real(j) && json_real_value(j) == v->as.real); break;
        default:
            require(json_is_string(j) && json_string_length(j) == v->n &&
                    memcmp(json_string_value(j), v->as.bytes, v->n) == 0 && v->as.bytes[v->n] == '\0');
    }
}

static void compare(const tok_doc *d, const json_t *root) {
    static pair rest[PAIRS_MAX];
    size_t n = 1, seen = 0;
    rest[0] = (pair){d->nodes, root};
    while (n) {
        pair p = rest[--n];
        seen++;
        if (p.node->kind == TOK_NODE_LIST) {
            require(json_is_array(p.json) && json_array_size(p.json) == p.node->n);
            size_t i = 0;
            for (const tok_node *v = tok_node_first(p.node); v; v = tok_node_next(p.node, v))
                rest[n++] = (pair){v, json_array_get(p.json, i++)};
        } else if (p.node->kind == TOK_NODE_OBJECT) {
            require(json_is_object(p.json) && json_object_size(p.json) == p.node->n);
            for (const tok_node *k = tok_node_first_key(p.node); k; k = tok_node_next(p.node, k + 1), seen++)
                rest[n++] = (pair){k + 1, json_object_get(p.json, k->as.bytes)};
        } else {
            compare_scalar(p.node, p.json);
        }
    }
    require(seen == d->n_nodes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size > PAIRS_MAX) return 0; /* so is the number of nodes */
    tok_doc d;
    fl_err err;
    fl_status st = tok_doc_open(&d, "text", (const char *)data, size, &err);
    json_t *root = json_loadb((const char *)data, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
    bool nul = size && memchr(data, 0, size); /* jansson passes over one behind a number */
    if (nul) require(st != FL_OK);
    bool deep = st != FL_OK && strstr(err.msg, "depth"); /* jansson counts a scalar as a level */
    require(deep || nul || (st == FL_OK) == json_is_object(root));
    if (st == FL_OK) compare(&d, root);
    json_decref(root);
    tok_doc_clear(&d);
    return 0;
}
