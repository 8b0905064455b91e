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
/* json_steps.c: normalisers, pre-tokenizers, decoder, and the patterns of all of them (t->split). Turns a BPE model over
 * characters into one over bytes where the pre-tokenizer and the decoder are ByteLevel. */
FL_CHECKED fl_status tok_json_steps(tok_builder *b, fl_err *err);

#endif
