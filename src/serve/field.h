/* serve/field.h - the fields of request bodies: one table drives reading, checking, and the OpenAPI document.
 *
 * A field is taken (with its range), ignored (it cannot change the answer here), or refused by name when it asks for
 * something (null, false, 0, "", [] and what is listed as neutral ask for nothing). Fields that are not in the table are
 * ignored, because clients send extras. null always means that the field is absent. Numbers given as texts are refused.
 */
#ifndef SERVE_FIELD_H
#define SERVE_FIELD_H

#include "fl_err.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Which bodies have a field. */
enum { FIELD_COMPLETION = 1, FIELD_CHAT = 2, FIELD_TOKENIZE = 4, FIELD_DETOKENIZE = 8 };

enum { FIELD_STOP_MAX = 4, FIELD_LOGPROBS_MAX = 20, FIELD_CHOICES_MAX = 128 };

/* What a body says. JSON values and texts are borrowed from the body. */
typedef struct {
    const char *model;
    json_t *prompt, *messages, *tokens, *template_kwargs;
    uint32_t max_tokens, max_completion_tokens; /* UINT32_MAX: absent */
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    int32_t top_k;       /* 0 and -1: off */
    uint32_t n, best_of; /* best_of 0: absent */
    int64_t seed;
    bool has_seed;
    int32_t logprobs;      /* completions: -1 absent, else how many of the best */
    bool want_logprobs;    /* chat */
    uint32_t top_logprobs; /* chat */
    bool stream, include_usage, continuous_usage, has_stream_options;
    bool echo, ignore_eos, add_generation_prompt, add_special_tokens, has_add_special, return_token_strs;
    bool tokens_as_ids, return_token_ids;
    const char *stop[FIELD_STOP_MAX];
    uint32_t n_stop;
    int32_t priority;
    const char *cache_salt;
} field_values;

/* Reads the object body. Errors: FL_EINVAL; *param is the field's name then. */
FL_CHECKED fl_status field_read(field_values *v, const json_t *body, unsigned kind, const char **param, fl_err *err);

/* The JSON schema of a body, for the OpenAPI document; the caller owns it. NULL: no memory. */
json_t *field_schema(unsigned kind);

#endif
