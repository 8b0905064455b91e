/* sample/sample.h - from a row of logits to a token and its log-probability.
 *
 * Pure functions over one row: no state, no clock. A draw is the largest l / T + Gumbel
 * noise among the kept candidates, where the noise of a token depends only on (seed,
 * position in the output, choice, token id). So a draw does not depend on the batch,
 * the order of candidates or the device, and a continuation elsewhere draws the same.
 *
 * Order (as vLLM): raw log-probabilities are taken first; then repetition, frequency and
 * presence penalties; greedy if temperature is 0; temperature; min_p; top_k; top_p; draw.
 * Source of the generator: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
 */
#ifndef SAMPLE_SAMPLE_H
#define SAMPLE_SAMPLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SAMPLE_NO_TARGET = 0xffffffff, SAMPLE_TOP_MAX = 64 };

typedef struct {
    uint32_t id;
    uint32_t count; /* times in the output; 0: only in the prompt */
} sample_seen;

typedef struct {
    float temperature;                                             /* 0: greedy */
    float top_p, min_p;                                            /* 1, 0: off */
    uint32_t top_k;                                                /* 0: off */
    float repetition_penalty, frequency_penalty, presence_penalty; /* 1, 0, 0: off */
    uint64_t seed;
    uint32_t position;       /* of the drawn token in the output, from 0 */
    uint32_t choice;         /* which of n answers to one prompt */
    uint32_t n_ids;          /* only ids below are drawn, where rows beyond pad the embedding; 0: all are */
    uint32_t target;         /* a token to score instead of drawing one, or SAMPLE_NO_TARGET */
    uint32_t n_top;          /* best tokens to report, <= SAMPLE_TOP_MAX */
    bool logprobs;           /* the token's log-probability is wanted (implied by target and n_top) */
    const sample_seen *seen; /* each id once; needed when a penalty is on */
    uint32_t n_seen;
} sample_params;

typedef struct {
    uint32_t id;
    float logprob;
} sample_top;

typedef struct {
    uint32_t token; /* drawn, or the target */
    float logprob;  /* of the token under the raw logits; 0 when not wanted */
    uint32_t n_top;
    bool bad;                       /* a NaN or +inf logit, or none finite: nothing was drawn */
    sample_top top[SAMPLE_TOP_MAX]; /* best first, ties by id */
} sample_result;

/* Functions over a whole row that a back end has faster. */
typedef struct {
    uint32_t (*argmax)(const float *x, uint32_t n, bool *finite);
    float (*logsumexp)(const float *x, uint32_t n);
    void (*exp_sub)(float *y, const float *x, float sub, uint32_t n); /* exp(x - sub) */
} sample_row_math;

/* Bytes of scratch for one row. */
size_t sample_scratch_bytes(uint32_t n_vocab);

/* Draws or scores one row. logits [n_vocab] are changed by penalties. */
void sample_row(const sample_params *s, const sample_row_math *math, float *logits, uint32_t n_vocab, void *scratch,
                sample_result *out);

/* Whether a draw depends on tokens drawn before (then its step cannot start before they are known). */
bool sample_needs_history(const sample_params *s);

/* Philox4x32-10: four words from a key and a counter. */
void sample_philox(uint64_t key, const uint32_t counter[4], uint32_t out[4]);

#endif
