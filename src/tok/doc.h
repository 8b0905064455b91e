/* tok/doc.h - a JSON document as one array of nodes, for vocabulary files: they are megabytes of short strings.
 *
 * Nodes lie in the order of the text, 16 bytes each. A container knows how many nodes are inside it, so that the next
 * sibling is one addition away; the member of an object is two nodes, key and value. Strings are decoded into one block
 * that the document owns, and end in NUL. All functions take NULL for a node and then say "no".
 *
 * Strict (RFC 8259): UTF-8 without mark in front, no lone surrogates, no control characters in strings. Beyond that refused:
 * equal keys in one object, NUL in a key, integers beyond 64 bits, reals beyond a double, nesting deeper than
 * TOK_DOC_DEPTH, texts of 4 GiB.
 *
 * Threads: a document is read-only once open. Memory: owned by the document; nodes and strings are borrowed from it.
 */
#ifndef TOK_DOC_H
#define TOK_DOC_H

#include "tok/tok.h"

enum { TOK_DOC_DEPTH = 2048 };

typedef enum {
    TOK_NODE_NULL,
    TOK_NODE_FALSE,
    TOK_NODE_TRUE,
    TOK_NODE_INT,
    TOK_NODE_REAL,
    TOK_NODE_STRING,
    TOK_NODE_LIST,
    TOK_NODE_OBJECT,
} tok_node_kind;

typedef struct {
    uint32_t kind;
    uint32_t n; /* bytes of a string, items of a list, members of an object */
    union {
        int64_t integer;
        double real;
        const char *bytes;
        uint64_t inside; /* nodes in a container */
    } as;
} tok_node;

typedef struct {
    tok_node *nodes; /* [n_nodes], the root first */
    size_t n_nodes, cap;
    char *text;
} tok_doc;

/* Reads n bytes; *d needs no preparation and is ended by tok_doc_clear() in any case. what names the text in messages.
 * Errors: FL_EFORMAT with line and column (in bytes), also where the root is no object; FL_ENOMEM. */
FL_CHECKED fl_status tok_doc_open(tok_doc *d, const char *what, const char *json, size_t n, fl_err *err);
void tok_doc_clear(tok_doc *d);

bool tok_node_is(const tok_node *v, tok_node_kind kind);
bool tok_node_is_number(const tok_node *v);
bool tok_node_is_bool(const tok_node *v);

/* The member of an object, or NULL; in O(members). */
const tok_node *tok_node_get(const tok_node *o, const char *key);
/* The first item of a list; NULL if there is none, or v is no list. */
const tok_node *tok_node_first(const tok_node *v);
/* The first key of an object in the same way. Its value is key + 1, and the one that tok_node_next() wants. */
const tok_node *tok_node_first_key(const tok_node *v);
/* What follows v, a child of parent; NULL at the end. */
const tok_node *tok_node_next(const tok_node *parent, const tok_node *v);
/* Item i of a list, or NULL; in O(i). */
const tok_node *tok_node_at(const tok_node *list, uint32_t i);
uint32_t tok_node_count(const tok_node *v); /* 0 unless a list */

tok_text tok_node_text(const tok_node *v);     /* NULL, 0 unless a string */
const char *tok_node_chars(const tok_node *v); /* the same as far as its first NUL */
int64_t tok_node_int(const tok_node *v);       /* 0 unless an integer */
double tok_node_number(const tok_node *v);     /* 0 unless a number */

#endif
