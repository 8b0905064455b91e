/* unit/engine/run.h - requests of tests and what came out of them. */
#ifndef UNIT_ENGINE_RUN_H
#define UNIT_ENGINE_RUN_H

#include "base/map.h"
#include "unit/engine/tiny.h"

#include <math.h>

enum { RUN_POSITIONS_MAX = 1200, RUN_TEXT_MAX = 8192 };

/* Everything a request told. */
typedef struct {
    fl_request *r;
    uint64_t row_hash[RUN_POSITIONS_MAX]; /* of the logits after each position; 0: none */
    float *logits;                        /* [.., n_vocab] kept when not NULL */
    uint32_t n_rows, n_tokens, n_prompt, n_texts;
    bool twice; /* some position had logits twice */
    uint32_t tokens[RUN_POSITIONS_MAX], prompt[RUN_POSITIONS_MAX];
    float logprobs[RUN_POSITIONS_MAX], prompt_logprobs[RUN_POSITIONS_MAX];
    fl_top top[RUN_POSITIONS_MAX], prompt_top[RUN_POSITIONS_MAX]; /* the best of each position */
    fl_top last_top[64];
    uint32_t n_last_top;
    char text[RUN_TEXT_MAX];
    size_t n_text;
    size_t text_at[RUN_POSITIONS_MAX]; /* length of the text after each token */
    fl_finish finish;
    fl_status status;
    fl_err err;
} transcript;

static inline void run_logits(void *user, uint32_t position, const float *logits, uint32_t n_vocab) {
    transcript *t = user;
    t->twice |= position >= RUN_POSITIONS_MAX || t->row_hash[position] != 0;
    if (position >= RUN_POSITIONS_MAX) return;
    t->row_hash[position] = base_hash(1, logits, n_vocab * sizeof *logits) | 1;
    if (t->logits) memcpy(t->logits + (size_t)position * n_vocab, logits, n_vocab * sizeof *logits);
    t->n_rows++;
}

static inline fl_request_options run_options(const uint32_t *prompt, size_t n_prompt, uint32_t max_tokens) {
    fl_request_options o;
    fl_request_options_init(&o);
    o.prompt = prompt;
    o.n_prompt = n_prompt;
    o.max_tokens = max_tokens;
    o.temperature = 1;
    o.has_seed = true;
    o.seed = 7;
    o.ignore_eos = true;
    return o;
}

static inline void run_prompt(uint32_t *prompt, uint32_t n, uint32_t n_vocab, uint64_t seed) {
    for (uint32_t i = 0; i < n; i++) prompt[i] = test_random_below(&seed, n_vocab);
}

/* Adds a request whose logits go into the transcript. */
static inline bool run_add(transcript *t, fl_engine *e, fl_request_options o) {
    float *keep = t->logits;
    memset(t, 0, sizeof *t);
    t->logits = keep;
    o.on_logits = run_logits;
    o.user = t;
    t->status = fl_request_add(&t->r, e, &o, &t->err);
    return t->status == FL_OK;
}

static inline void run_note(transcript *t, const fl_event *ev) {
    if (ev->kind == FL_EVENT_PROMPT) {
        t->prompt[t->n_prompt] = ev->token;
        if (ev->n_top) t->prompt_top[t->n_prompt] = ev->top[0];
        t->prompt_logprobs[t->n_prompt++] = ev->logprob;
    }
    if (ev->n_text && t->n_text + ev->n_text < RUN_TEXT_MAX) {
        memcpy(t->text + t->n_text, ev->text, ev->n_text);
        t->n_text += ev->n_text;
        t->n_texts++;
    }
    if (ev->kind == FL_EVENT_TOKEN) {
        t->tokens[t->n_tokens] = ev->token;
        t->text_at[t->n_tokens] = t->n_text;
        if (ev->n_top) t->top[t->n_tokens] = ev->top[0];
        t->logprobs[t->n_tokens++] = ev->logprob;
    }
    if (ev->kind != FL_EVENT_DONE) return;
    t->finish = ev->finish;
    t->n_last_top = ev->n_top;
    if (ev->n_top && ev->n_top <= 64) memcpy(t->last_top, ev->top, ev->n_top * sizeof *ev->top);
}

/* Reads to the end and closes. */
static inline void run_read(transcript *t) {
    fl_event ev;
    fl_event_init(&ev);
    do {
        t->status = fl_request_next(t->r, &ev, -1, &t->err);
        run_note(t, &ev);
    } while (ev.kind != FL_EVENT_DONE);
    fl_request_close(t->r);
    t->r = NULL;
}

static inline bool run_one(transcript *t, fl_engine *e, const fl_request_options *o) {
    if (!run_add(t, e, *o)) return false;
    run_read(t);
    return t->status == FL_OK;
}

/* options NULL: the defaults, but for one thread (spinning teams are slow on a busy machine). */
static inline fl_engine *run_engine(const fl_model *m, const fl_engine_options *o) {
    fl_engine *e;
    fl_err err;
    fl_engine_options one;
    fl_engine_options_init(&one);
    one.n_threads = 1;
    if (!o) o = &one;
    if (fl_engine_open(&e, m, o, &err) == FL_OK) return e;
    printf("cannot open an engine: %s\n", err.msg);
    abort();
}

/* NULL when both have the same logits, draws, log-probabilities and text, else what differs. */
static inline const char *run_differ(const transcript *a, const transcript *b) {
    if (a->twice || b->twice) return "logits came twice";
    if (a->status != b->status || a->finish != b->finish) return "another end";
    if (memcmp(a->row_hash, b->row_hash, sizeof a->row_hash) != 0) return "other logits";
    if (a->n_tokens != b->n_tokens || memcmp(a->tokens, b->tokens, sizeof a->tokens) != 0) return "other tokens";
    if (memcmp(a->logprobs, b->logprobs, sizeof a->logprobs) != 0) return "other logprobs";
    if (a->n_prompt != b->n_prompt || memcmp(a->prompt_logprobs, b->prompt_logprobs, sizeof a->prompt_logprobs) != 0)
        return "other prompt logprobs";
    if (a->n_text != b->n_text || memcmp(a->text, b->text, a->n_text) != 0) return "another text";
    return NULL;
}

#endif
