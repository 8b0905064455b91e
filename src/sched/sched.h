/* sched/sched.h - which tokens of which requests run in the next step: continuous batching.
 *
 * Order. Requests stand in line by priority, then arrival. Nobody is admitted before those in front of him. A step
 * takes one token of every admitted request that decodes, then pieces of prompts (chunked prefill): the first in
 * line may have half of what is left and all that nobody else wants, the others come by what they still lack, shortest first.
 * So a long prompt neither holds up running streams for more than a step nor short prompts for more than a few.
 *
 * Budgets of a step: tokens, logit rows, and units, a measure of time: a token at depth d counts 1 + d / depth_unit.
 *
 * Cache. A request is admitted when its known tokens fit beside what the admitted ones still need. It starts behind
 * the longest prefix that the cache holds. When pages run out, the last in line is preempted: it gives its pages back
 * and computes them again later (often they are still there), without losing a token, since bits do not depend on
 * batches. A request that fits the cache alone is always served: whoever stands first can preempt all others.
 *
 * Steps in flight. A step may be planned before the tokens that the one before it draws are known: such a
 * token is a placeholder, "what row i of the step before drew". It is planned only directly after that step and
 * only for requests whose draws do not depend on earlier tokens. When the request turns out to have ended,
 * what was planned beyond is thrown away: sched_end() may come at any time, and the request is gone when its last step
 * in flight has been told as done. Pages given back meanwhile are rewritten only by later steps.
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
    uint32_t max_units;                      /* 0: as many as max_tokens */
    uint32_t depth_unit;                     /* depth at which a token takes twice the time; 0: depth is free */
    uint32_t max_requests;                   /* waiting and running */
    uint32_t max_in_flight;                  /* steps planned and not done */
    kv_cache *kv;                            /* borrowed */
} sched_options;

/* Positions that a sequence may hold beyond what is visible to its oldest step in flight: the `step` of kv_pages_needed(). Pages
 * leave sliding layers only when they have their names, so that others can find them. */
static inline uint32_t sched_span(uint32_t max_tokens, uint32_t max_in_flight) {
    return max_tokens * max_in_flight + KV_PAGE_TOKENS - 1;
}

typedef struct {
    uint32_t n_prompt;  /* >= 1 */
    uint32_t max_draws; /* most tokens to draw; 0: only score */
    bool score_prompt;  /* every prompt position has a logit row */
    bool needs_history; /* a draw depends on the tokens before it */
    uint32_t chunk;     /* most prompt tokens a step, 0: no limit of its own */
    int32_t priority;   /* smaller is served earlier */
    uint32_t after;     /* handle of a request with the same prompt, whose pages it waits for; SCHED_NONE: none */
    /* Prefix caching; all NULL: none. Borrowed until the request is gone. */
    const uint32_t *tokens; /* [n_prompt + max_draws]; those told by sched_done() are there before it is called */
    kv_key *keys;           /* [(n_prompt + max_draws) / KV_PAGE_TOKENS], the scheduler's to fill */
    kv_key root;            /* kv_key_root() of the request's salt */
} sched_request;

/* Part of a step: tokens [first, first + n_tokens) of one request. Its rows follow each other: one for each of its last
 * n_rows positions. */
typedef struct {
    uint32_t request; /* handle */
    uint32_t seq;     /* of the cache */
    uint32_t life;    /* how often the request had been preempted */
    bool begins;      /* the first piece of this life; first > 0: behind what the cache had */
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

typedef struct {
    uint32_t n_waiting, n_running;
    uint64_t n_preempted; /* preemptions so far */
    uint64_t n_prompt_tokens,
        n_matched; /* tokens of requests when they were admitted, and of those found in the cache */
} sched_stats;

/* The caller owns *out: sched_close(). Errors: FL_ENOMEM. */
FL_CHECKED fl_status sched_open(sched **out, const sched_options *o, fl_err *err);
void sched_close(sched *s);

/* Adds a request; *handle names it until it is gone. False when max_requests are there. The cache must have room for all
 * positions it may ever hold (n_prompt + max_draws - 1), sched_span() at a time. */
bool sched_add(sched *s, const sched_request *r, uint32_t *handle);

/* Plans the next step; step->n_pieces 0: nothing can run now. */
void sched_plan(sched *s, sched_step *step);

/* A planned step is over: it has run (`ok`: all its tokens are known), or failed. For each piece that draws and whose request
 * goes on, its output token is now known. Requests that have ended and have nothing in flight are released: sched_gone(). */
void sched_done(sched *s, const sched_step *step, bool ok);

/* The request plans nothing more; it is gone at once or when its last step in flight is done. `ok`: what it computed
 * is right and may be found by others. */
void sched_end(sched *s, uint32_t handle, bool ok);
bool sched_gone(const sched *s, uint32_t handle);

/* What is in the cache and what is being computed is not to be found by others: the weights change. */
void sched_forget(sched *s);

uint32_t sched_count(const sched *s); /* requests not gone */
void sched_get_stats(const sched *s, sched_stats *out);
void sched_check(const sched *s);

#endif
