/* tok/json.h - what the two readers of tokenizer.json share: the state of one opening. */
#ifndef TOK_JSON_H
#define TOK_JSON_H

#include "tok/doc.h"
#include "tok/pipe.h"

enum { TOK_JSON_DEPTH = 8 }; /* Sequences inside Sequences */

typedef struct {
    tok *t;
    tok_pipe *p; /* t->pipe */
    tok_doc doc;
    const tok_node *root, *model, *added; /* of doc; the last is added_tokens */
    tok_text *texts;                      /* [n_vocab] as the file spells them, borrowed from doc; owned array */
    tok_stage stages[TOK_STAGES_MAX];
    char *patterns[TOK_STAGES_MAX]; /* owned */
    uint32_t n_stages;
} tok_builder;

const char *tok_json_string(const tok_node *o, const char *key); /* NULL unless a string */
bool tok_json_bool(const tok_node *o, const char *key, bool otherwise);

/* json_steps.c: decodes base64 in place; the count, SIZE_MAX if it is none. */
size_t tok_unbase64(char *s, size_t n);
const char *tok_json_type(const tok_node *o);
/* The error for a component that is not known. */
FL_CHECKED fl_status tok_json_unknown(const char *what, const tok_node *o, fl_err *err);
/* A string; the caller owns it. Errors: FL_EFORMAT for anything else, FL_ENOMEM. */
FL_CHECKED fl_status tok_json_copy(const tok_node *v, const char *what, char **out, size_t *n, fl_err *err);
/* Adds {"String": ...} or {"Regex": ...} as a stage of the splitter. */
FL_CHECKED fl_status tok_json_pattern(tok_builder *b, const tok_node *pattern, const char *what, tok_behaviour how,
                                      bool invert, fl_err *err);
/* Metaspace's prepend_scheme; old files have add_prefix_space instead. */
FL_CHECKED fl_status tok_json_prepend(const tok_node *o, tok_prepend *out, fl_err *err);
/* json_dec.c */
FL_CHECKED fl_status tok_json_decoder(tok_builder *b, fl_err *err);

/* json_steps.c: normalisers, pre-tokenizers, decoder, and the patterns of all of them (t->split). Turns a BPE model over
 * characters into one over bytes where pre-tokenizer and decoder allow it. */
FL_CHECKED fl_status tok_json_steps(tok_builder *b, fl_err *err);

#endif
