/* sched/sched.h - which tokens of which requests run in the next step.
 *
 * First come, first served: a request is admitted when a sequence is free and the cache has room for
 * all positions it may ever need, so it never has to be thrown out. Of the admitted ones, those that
 * decode come first (one token each), then pieces of prompts in the order of arrival, up to the budgets of
 * tokens and logit rows.
 *
 * Steps in flight. A step may be planned before the tokens that the one before it draws are known: such a
 * token is a placeholder, "what row i of the step before drew". It is planned only directly after that step and
 * only for requests whose draws do not depend on earlier tokens. When the request turns out to have ended,
 * what was planned beyond is thrown away: sched_end() may come at any time, and the request's sequence is
 * given back when its last step in flight has been told as done.
 *
 * Pure decisions: no clock, device or I/O. Threads: the engine's. Memory: all at open.
 */
#ifndef SCHED_SCHED_H
#define SCHED_SCHED_H

#include "fl_err.h"
#include "kv/cache.h"

#include <stdbool.h>
#include <stdint.h>

enum { SCHED_NONE = 0xffffffff };

typedef struct sched sched;

typedef struct {
    uint32_t max_seqs, max_tokens, max_rows; /* of a step */
    uint32_t max_requests;                   /* waiting and running */
    kv_cache *kv;                            /* borrowed */
} sched_options;

typedef struct {
    uint32_t n_prompt;  /* >= 1 */
    uint32_t max_draws; /* most tokens to draw; 0: only score */
    bool score_prompt;  /* every prompt position has a logit row */
    bool needs_history; /* a draw depends on the tokens before it */
    uint32_t chunk;     /* most prompt tokens a step, 0: no limit of its own */
} sched_request;

/* Part of a step: tokens [first, first + n_tokens) of one request. Its rows follow each other: one for each of its last
 * n_rows positions. */
typedef struct {
    uint32_t request; /* handle */
    uint32_t seq;     /* of the cache */
    uint32_t first, n_tokens;
    uint32_t n_rows;
    bool draws; /* the last row draws output number `draw` */
    uint32_t draw;
    uint32_t drawn_row; /* the (only) token is what this row of the step before drew; SCHED_NONE: known */
} sched_piece;

typedef struct {
    uint64_t number; /* rises by one per step */
    uint32_t n_pieces, n_tokens, n_rows;
    sched_piece *pieces; /* [max_seqs], caller's */
} sched_step;

/* The caller owns *out: sched_close(). Errors: FL_ENOMEM. */
FL_CHECKED fl_status sched_open(sched **out, const sched_options *o, fl_err *err);
void sched_close(sched *s);

/* Adds a request; *handle names it until it is gone. False when max_requests are there. */
bool sched_add(sched *s, const sched_request *r, uint32_t *handle);

/* Plans the next step; step->n_pieces 0: nothing can run now. */
void sched_plan(sched *s, sched_step *step);

/* A planned step is over (all its tokens are known, or it failed). For each piece that draws and whose request goes on,
 * its output token is now known. Requests that have ended and have nothing in flight are released: sched_gone(). */
void sched_done(sched *s, const sched_step *step);

/* The request plans nothing more; it is gone at once or when its last step in flight is done. */
void sched_end(sched *s, uint32_t handle);
bool sched_gone(const sched *s, uint32_t handle);

uint32_t sched_count(const sched *s); /* requests not gone */
void sched_check(const sched *s);

#endif
