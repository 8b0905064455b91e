/* Requests: what the caller wants, what the engine has published, and the reader's view of
 * it as events with text. The engine only appends to arrays that were allocated when the
 * request was added; turning tokens into text and looking for stop texts is the reader's work. */
#include "engine/engine_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <math.h>
#include <string.h>
#include <sys/random.h>

void fl_request_options_init(fl_request_options *o) {
    *o = (fl_request_options){
        .size = sizeof *o, .max_tokens = UINT32_MAX, .top_p = 1, .repetition_penalty = 1, .n_logprobs = -1};
}

void fl_event_init(fl_event *event) { *event = (fl_event){.size = sizeof *event}; }
void fl_request_stats_init(fl_request_stats *s) { *s = (fl_request_stats){.size = sizeof *s}; }

/* ---- adding ---- */

static fl_status check_sampling(const fl_request_options *o, fl_err *err) {
    if (!(o->temperature >= 0 && o->temperature <= 100))
        return fl_fail(err, FL_EINVAL, "temperature %g: from 0 to 100 is wanted", (double)o->temperature);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return fl_fail(err, FL_EINVAL, "top_p %g: more than 0, at most 1 is wanted", (double)o->top_p);
    if (!(o->min_p >= 0 && o->min_p <= 1))
        return fl_fail(err, FL_EINVAL, "min_p %g: from 0 to 1 is wanted", (double)o->min_p);
    if (!(o->repetition_penalty >= 0.01f && o->repetition_penalty <= 100))
        return fl_fail(err, FL_EINVAL, "repetition_penalty %g: from 0.01 to 100 is wanted",
                       (double)o->repetition_penalty);
    if (!(fabsf(o->presence_penalty) <= 100) || !(fabsf(o->frequency_penalty) <= 100))
        return fl_fail(err, FL_EINVAL, "presence_penalty %g, frequency_penalty %g: from -100 to 100 is wanted",
                       (double)o->presence_penalty, (double)o->frequency_penalty);
    if (o->n_logprobs > SAMPLE_TOP_MAX)
        return fl_fail(err, FL_EINVAL, "n_logprobs %d: at most %d is possible", o->n_logprobs, SAMPLE_TOP_MAX);
    return FL_OK;
}

static fl_status check_prompt(const fl_engine *e, const fl_request_options *o, fl_err *err) {
    if (o->n_prompt == 0 || !o->prompt)
        return fl_fail(err, FL_EINVAL, "the prompt is empty; at least one token is wanted");
    if (o->n_prompt > e->max_len)
        return fl_fail(err, FL_EINVAL,
                       "the prompt has %zu tokens, the context holds %u; shorten it or raise --max-model-len",
                       o->n_prompt, e->max_len);
    if (o->n_prompt == e->max_len && o->max_tokens > 0)
        return fl_fail(err, FL_EINVAL,
                       "the prompt has %zu tokens and fills the context of %u; there is no room for an answer",
                       o->n_prompt, e->max_len);
    for (size_t i = 0; i < o->n_prompt; i++)
        if (o->prompt[i] >= e->g->n_vocab)
            return fl_fail(err, FL_EINVAL, "token %u at position %zu of the prompt: the vocabulary ends at %u",
                           o->prompt[i], i, e->g->n_vocab - 1);
    if (o->max_tokens == 0 && !o->prompt_logprobs && o->n_logprobs < 0 && !o->on_logits)
        return fl_fail(err, FL_EINVAL, "max_tokens 0 is for scoring: ask for logprobs or logits as well");
    return check_sampling(o, err);
}

static fl_status check_room(const fl_engine *e, const fl_request *r, fl_err *err) {
    uint32_t positions = r->n_prompt + (r->max_draws ? r->max_draws - 1 : 0);
    for (uint32_t g = 0; g < e->g->n_kv; g++)
        if (kv_cache_pages_needed(e->g->kv[g].window, positions, e->max_tokens) > e->kv_pages[g])
            return fl_fail(err, FL_EINVAL,
                           "the request may need %u positions, the cache holds %u; ask for fewer tokens or more cache",
                           positions, e->kv_pages[g] * KV_PAGE_TOKENS);
    return FL_OK;
}

static fl_status copy_stops(fl_request *r, const fl_request_options *o, fl_err *err) {
    if (o->n_stop > 64) return fl_fail(err, FL_EINVAL, "%zu stop texts were given, at most 64 are possible", o->n_stop);
    if (o->n_stop && !r->has_text)
        return fl_fail(err, FL_EUNSUPPORTED, "stop texts need a tokenizer, this model has none");
    r->stop = base_calloc(o->n_stop + 1, sizeof *r->stop);
    if (!r->stop) return fl_fail(err, FL_ENOMEM, "a request: no memory");
    for (; r->n_stop < o->n_stop; r->n_stop++) {
        if (!o->stop[r->n_stop] || !*o->stop[r->n_stop]) return fl_fail(err, FL_EINVAL, "a stop text is empty");
        r->stop[r->n_stop] = base_strdup(o->stop[r->n_stop]);
        if (!r->stop[r->n_stop]) return fl_fail(err, FL_ENOMEM, "a request: no memory");
    }
    return FL_OK;
}

/* Counts a token for the penalties; ids of the prompt come with count 0. */
static void note_seen(fl_request *r, uint32_t id, bool output) {
    if (!r->seen) return;
    if (!r->seen_at[id]) {
        r->seen[r->params.n_seen] = (sample_seen){id, 0};
        r->seen_at[id] = ++r->params.n_seen;
    }
    r->seen[r->seen_at[id] - 1].count += output;
}

static fl_status open_history(fl_request *r, fl_err *err) {
    if (!sample_needs_history(&r->params)) return FL_OK;
    uint32_t n_vocab = r->e->g->n_vocab, most = r->n_prompt + r->max_draws;
    r->seen = base_calloc(most < n_vocab ? most : n_vocab, sizeof *r->seen);
    r->seen_at = base_calloc(n_vocab, sizeof *r->seen_at);
    if (!r->seen || !r->seen_at) return fl_fail(err, FL_ENOMEM, "a request with penalties: no memory");
    r->params.seen = r->seen;
    for (uint32_t i = 0; i < r->n_prompt; i++) note_seen(r, r->tokens[i], false);
    return FL_OK;
}

static fl_status open_arrays(fl_request *r, const fl_request_options *o, fl_err *err) {
    r->tokens = base_calloc((size_t)r->n_prompt + r->max_draws, sizeof *r->tokens);
    bool ok = r->tokens != NULL;
    if (r->any_logprobs) ok = ok && (r->logprobs = base_calloc(r->max_draws + 1, sizeof *r->logprobs)) != NULL;
    if (r->score_prompt) ok = ok && (r->prompt_logprobs = base_calloc(r->n_prompt, sizeof *r->prompt_logprobs)) != NULL;
    if (r->n_top) {
        r->top = base_calloc((size_t)(r->max_draws + 1) * r->n_top, sizeof *r->top);
        r->last_top = base_calloc(r->n_top, sizeof *r->last_top);
        ok = ok && r->top && r->last_top;
    }
    if (r->n_top && r->score_prompt)
        ok = ok && (r->prompt_top = base_calloc((size_t)r->n_prompt * r->n_top, sizeof *r->prompt_top)) != NULL;
    if (!ok) return fl_fail(err, FL_ENOMEM, "a request of %u + %u tokens: no memory", r->n_prompt, r->max_draws);
    memcpy(r->tokens, o->prompt, r->n_prompt * sizeof *r->tokens);
    if (r->prompt_logprobs) r->prompt_logprobs[0] = NAN;
    return FL_OK;
}

/* Raw logits need a buffer per step in flight, which nobody else does. */
static fl_status open_logits(fl_engine *e, fl_err *err) {
    fl_status st = FL_OK;
    engine_lock_between_steps(e);
    for (uint32_t i = 0; i < e->n_slots && st == FL_OK; i++) {
        if (!e->slots[i].logits) e->slots[i].logits = base_calloc(e->max_rows, (size_t)e->g->n_vocab * sizeof(float));
        if (!e->slots[i].logits) st = fl_fail(err, FL_ENOMEM, "logits of %u rows: no memory", e->max_rows);
    }
    base_mutex_unlock(&e->step_lock);
    return st;
}

static void set_params(fl_request *r, const fl_request_options *o) {
    uint32_t room = r->e->max_len - r->n_prompt;
    r->max_draws = o->max_tokens < room ? o->max_tokens : room;
    r->ignore_eos = o->ignore_eos;
    r->score_prompt = o->prompt_logprobs;
    r->any_logprobs = o->n_logprobs >= 0;
    r->n_top = o->n_logprobs > 0 ? (uint32_t)o->n_logprobs : 0;
    if (r->n_top > r->e->g->n_vocab) r->n_top = r->e->g->n_vocab;
    r->chunk = o->prefill_chunk;
    r->on_logits = o->on_logits;
    r->user = o->user;
    r->params = (sample_params){.temperature = o->temperature,
                                .top_p = o->top_p,
                                .min_p = o->min_p,
                                .top_k = o->top_k,
                                .repetition_penalty = o->repetition_penalty,
                                .frequency_penalty = o->frequency_penalty,
                                .presence_penalty = o->presence_penalty,
                                .seed = o->seed,
                                .n_ids = r->e->model->tok ? tok_n_vocab(r->e->model->tok) : 0,
                                .target = SAMPLE_NO_TARGET,
                                .n_top = r->n_top,
                                .logprobs = r->any_logprobs};
    if (!o->has_seed && getrandom(&r->params.seed, sizeof r->params.seed, 0) != (ssize_t)sizeof r->params.seed)
        r->params.seed = (uint64_t)(base_now() * 1e9);
}

static void free_request(fl_request *r) {
    if (!r) return;
    for (uint32_t i = 0; r->stop && i < r->n_stop; i++) base_free(r->stop[i]);
    base_free(r->stop);
    tok_stream_clear(&r->stream);
    base_buf_clear(&r->text);
    base_free(r->tokens);
    base_free(r->seen);
    base_free(r->seen_at);
    base_free(r->prompt_logprobs);
    base_free(r->logprobs);
    base_free(r->prompt_top);
    base_free(r->top);
    base_free(r->last_top);
    base_cond_clear(&r->changed);
    base_mutex_clear(&r->lock);
    base_free(r);
}

static fl_status build_request(fl_request *r, const fl_request_options *o, fl_err *err) {
    fl_engine *e = r->e;
    r->n_prompt = (uint32_t)o->n_prompt;
    r->has_text = e->model->tok != NULL;
    set_params(r, o);
    fl_status st = check_room(e, r, err);
    if (st == FL_OK) st = open_arrays(r, o, err);
    if (st == FL_OK) st = open_history(r, err);
    if (st == FL_OK) st = copy_stops(r, o, err);
    if (st == FL_OK && r->on_logits) st = open_logits(e, err);
    /* The text of one token must always fit: what was read stays in the buffer only while it may begin a stop text. */
    if (st == FL_OK && !base_buf_reserve(&r->text, 256)) st = fl_fail(err, FL_ENOMEM, "a request: no memory");
    if (r->has_text) tok_stream_init(&r->stream, e->model->tok, TOK_SKIP_SPECIAL);
    return st;
}

fl_status fl_request_add(fl_request **out, fl_engine *e, const fl_request_options *options, fl_err *err) {
    *out = NULL;
    fl_request_options o;
    fl_request_options_init(&o);
    memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    fl_status st = check_prompt(e, &o, err);
    if (st != FL_OK) return st;
    fl_request *r = base_calloc(1, sizeof *r);
    if (!r) return fl_fail(err, FL_ENOMEM, "a request: no memory");
    r->e = e;
    base_mutex_init(&r->lock, BASE_RANK_REQUEST);
    base_cond_init(&r->changed);
    st = build_request(r, &o, err);
    if (st != FL_OK) {
        free_request(r);
        return st;
    }
    r->t_added = base_now();
    base_mutex_lock(&e->queue_lock);
    r->queued = true;
    *e->arrived_end = r;
    e->arrived_end = &r->next;
    e->n_requests++;
    base_cond_wake(&e->queue_cond);
    base_mutex_unlock(&e->queue_lock);
    *out = r;
    return FL_OK;
}

/* ---- told by the step loop ---- */

static void copy_top(fl_top *to, const sample_result *row, uint32_t n_top) {
    for (uint32_t i = 0; i < n_top; i++)
        to[i] = i < row->n_top ? (fl_top){row->top[i].id, row->top[i].logprob} : (fl_top){0, -INFINITY};
}

void engine_request_started(fl_request *r) {
    base_mutex_lock(&r->lock);
    r->t_started = base_now();
    base_mutex_unlock(&r->lock);
}

void engine_request_scored(fl_request *r, uint32_t position, const sample_result *row) {
    base_mutex_lock(&r->lock);
    if (position + 1 < r->n_prompt) {
        if (r->prompt_logprobs) r->prompt_logprobs[position + 1] = row->logprob;
        if (r->prompt_top) copy_top(r->prompt_top + (size_t)(position + 1) * r->n_top, row, r->n_top);
    } else if (r->last_top) {
        copy_top(r->last_top, row, r->n_top);
    }
    if (r->score_prompt) r->n_scored = position + 2 < r->n_prompt ? position + 2 : r->n_prompt;
    if (r->t_first == 0 && position + 1 == r->n_prompt) r->t_first = base_now();
    base_cond_wake(&r->changed);
    base_mutex_unlock(&r->lock);
}

static bool is_stop(const fl_request *r, uint32_t id) {
    const fl_model *m = r->e->model;
    for (uint32_t i = 0; i < m->n_stop && !r->ignore_eos; i++)
        if (m->stop[i] == id) return true;
    return false;
}

bool engine_request_drawn(fl_request *r, const sample_result *row) {
    base_mutex_lock(&r->lock);
    double now = base_now();
    if (r->t_first == 0) r->t_first = now;
    if (r->score_prompt) r->n_scored = r->n_prompt;
    if (is_stop(r, row->token)) {
        r->finish = FL_FINISH_STOP;
    } else {
        if (r->logprobs) r->logprobs[r->n_drawn] = row->logprob;
        if (r->top) copy_top(r->top + (size_t)r->n_drawn * r->n_top, row, r->n_top);
        r->tokens[r->n_prompt + r->n_drawn++] = row->token;
        note_seen(r, row->token, true);
        if (r->n_drawn == r->max_draws) r->finish = FL_FINISH_LENGTH;
    }
    bool goes_on = r->finish == FL_FINISH_NONE;
    r->t_done = now;
    base_cond_wake(&r->changed);
    base_mutex_unlock(&r->lock);
    return goes_on;
}

void engine_request_finish(fl_request *r, fl_finish finish, const fl_err *why) {
    base_mutex_lock(&r->lock);
    if (r->finish == FL_FINISH_NONE) {
        r->finish = finish;
        if (why) r->err = *why;
        r->t_done = base_now();
    }
    base_cond_wake(&r->changed);
    base_mutex_unlock(&r->lock);
}

void engine_request_released(fl_request *r) {
    base_mutex_lock(&r->lock);
    r->released = true;
    base_cond_wake(&r->changed);
    base_mutex_unlock(&r->lock);
}

/* ---- reading ---- */

/* Length of the longest end of text that is a proper beginning of a stop text. */
static size_t held_back(const fl_request *r, const char *text, size_t n) {
    size_t most = 0;
    for (uint32_t i = 0; i < r->n_stop; i++) {
        size_t len = strlen(r->stop[i]), k = len - 1 < n ? len - 1 : n;
        while (k > most && memcmp(text + n - k, r->stop[i], k) != 0) k--;
        if (k > most) most = k;
    }
    return most;
}

/* Where the stop text that ends earliest begins, or n. */
static size_t find_stop(const fl_request *r, const char *text, size_t n) {
    size_t begin = n, end = SIZE_MAX;
    for (uint32_t i = 0; i < r->n_stop; i++) {
        const char *at = memmem(text, n, r->stop[i], strlen(r->stop[i]));
        if (!at || (size_t)(at - text) + strlen(r->stop[i]) >= end) continue;
        begin = (size_t)(at - text);
        end = begin + strlen(r->stop[i]);
    }
    return begin;
}

/* Adds what the token completes to the text; the event shows what cannot begin a stop text. */
static fl_status add_text(fl_request *r, uint32_t token, bool last, fl_event *event, fl_err *err) {
    fl_status st = FL_OK;
    if (r->has_text)
        st = last ? tok_stream_finish(&r->stream, &r->text, err) : tok_stream_push(&r->stream, token, &r->text, err);
    if (st != FL_OK) return st;
    size_t n = r->text.len, stop = r->n_stop ? find_stop(r, r->text.data, n) : n;
    if (stop < n) {
        r->told = FL_FINISH_STOP;
        fl_request_cancel(r);
    }
    event->text = r->text.data ? r->text.data : "";
    event->n_text = r->n_given = stop < n ? stop : last ? n : n - held_back(r, r->text.data, n);
    return FL_OK;
}

static void forget_given(fl_request *r) {
    if (!r->n_given) return;
    memmove(r->text.data, r->text.data + r->n_given, r->text.len - r->n_given);
    r->text.len -= r->n_given;
    r->n_given = 0;
}

/* The last event, given again on every further call. */
static fl_status take_end(fl_request *r, fl_finish finish, fl_event *event, fl_err *err) {
    fl_status st = FL_OK;
    event->kind = FL_EVENT_DONE;
    if (r->told == FL_FINISH_NONE) {
        if (finish != FL_FINISH_ERROR) st = add_text(r, 0, true, event, err);
        if (r->told == FL_FINISH_NONE) r->told = finish; /* the held back text did not end in a stop text */
    }
    event->finish = r->told;
    if (r->max_draws == 0 && r->told == FL_FINISH_LENGTH) {
        event->n_top = r->n_top;
        event->top = r->last_top;
    }
    if (r->told == FL_FINISH_ERROR) {
        if (err) *err = r->err;
        st = r->err.code;
    }
    return st;
}

/* Fills the next event from what has been published. False: nothing yet. */
static bool take_event(fl_request *r, fl_event *event, fl_status *st, fl_err *err) {
    base_mutex_lock(&r->lock);
    uint32_t n_scored = r->n_scored, n_drawn = r->n_drawn;
    fl_finish finish = r->finish;
    base_mutex_unlock(&r->lock);
    *st = FL_OK;
    if (r->next_prompt < n_scored) {
        uint32_t i = r->next_prompt++;
        event->kind = FL_EVENT_PROMPT;
        event->token = r->tokens[i];
        event->logprob = r->prompt_logprobs[i];
        event->n_top = i ? r->n_top : 0;
        event->top = event->n_top ? r->prompt_top + (size_t)i * r->n_top : NULL;
        return true;
    }
    if (r->next_token < n_drawn && r->told == FL_FINISH_NONE) {
        uint32_t i = r->next_token++;
        event->kind = FL_EVENT_TOKEN;
        event->token = r->tokens[r->n_prompt + i];
        event->logprob = r->logprobs ? r->logprobs[i] : 0;
        event->n_top = r->n_top;
        event->top = r->n_top ? r->top + (size_t)i * r->n_top : NULL;
        *st = add_text(r, event->token, false, event, err);
        return true;
    }
    if (finish == FL_FINISH_NONE && r->told == FL_FINISH_NONE) return false;
    *st = take_end(r, finish, event, err);
    return true;
}

/* Waits for something to be published, or runs a step when no thread of the engine does. False: the time is over. A wait is
 * short, because the thread may be stopped meanwhile: then the steps are the caller's. */
static bool wait_or_step(fl_request *r, double deadline) {
    fl_engine *e = r->e;
    base_mutex_lock(&e->queue_lock);
    bool threaded = e->threaded, busy;
    base_mutex_unlock(&e->queue_lock);
    double left = deadline - base_now();
    if (left <= 0) return false;
    if (!threaded) {
        engine_lock_for_step(e);
        fl_status st = engine_step(e, &busy, NULL);
        (void)st; /* a failed step has failed its requests */
        base_mutex_unlock(&e->step_lock);
        return true;
    }
    base_mutex_lock(&r->lock);
    if (r->next_prompt >= r->n_scored && r->next_token >= r->n_drawn && r->finish == FL_FINISH_NONE)
        base_cond_wait(&r->changed, &r->lock, left > 0.1 ? 100 : (int)(left * 1e3) + 1);
    base_mutex_unlock(&r->lock);
    return true;
}

fl_status fl_request_next(fl_request *r, fl_event *event, int timeout_ms, fl_err *err) {
    size_t size = event->size < sizeof *event ? event->size : sizeof *event;
    fl_event now = {.size = event->size, .text = ""};
    fl_status st = FL_OK;
    double deadline = timeout_ms < 0 ? INFINITY : base_now() + timeout_ms * 1e-3;
    forget_given(r);
    while (!take_event(r, &now, &st, err))
        if (!wait_or_step(r, deadline)) break;
    memcpy(event, &now, size);
    return st;
}

void fl_request_cancel(fl_request *r) { atomic_store(&r->cancel, true); }

/* Takes the request out of the list of arrivals. False when the engine has it already. */
static bool withdraw(fl_request *r) {
    fl_engine *e = r->e;
    base_mutex_lock(&e->queue_lock);
    bool found = r->queued;
    if (found) {
        fl_request **p = &e->arrived;
        while (*p != r) p = &(*p)->next;
        *p = r->next;
        if (!*p) e->arrived_end = p;
    }
    base_mutex_unlock(&e->queue_lock);
    return found;
}

void fl_request_close(fl_request *r) {
    if (!r) return;
    fl_engine *e = r->e;
    fl_request_cancel(r);
    for (bool gone = withdraw(r); !gone;) {
        base_mutex_lock(&r->lock);
        gone = r->released;
        base_mutex_unlock(&r->lock);
        if (gone) break;
        base_mutex_lock(&e->queue_lock);
        bool threaded = e->threaded, busy;
        base_mutex_unlock(&e->queue_lock);
        if (threaded) {
            base_mutex_lock(&r->lock);
            if (!r->released) base_cond_wait(&r->changed, &r->lock, 100);
            base_mutex_unlock(&r->lock);
        } else {
            engine_lock_for_step(e);
            fl_status st = engine_step(e, &busy, NULL);
            (void)st;
            base_mutex_unlock(&e->step_lock);
        }
    }
    base_mutex_lock(&e->queue_lock);
    e->n_requests--;
    base_mutex_unlock(&e->queue_lock);
    free_request(r);
}

void fl_request_get_stats(const fl_request *r, fl_request_stats *s) {
    fl_request *w = (fl_request *)(uintptr_t)r; /* the lock is not part of what the caller sees as constant */
    base_mutex_lock(&w->lock);
    double started = r->t_started > 0 ? r->t_started : r->t_added, first = r->t_first > 0 ? r->t_first : started;
    uint32_t n_output =
        r->told == FL_FINISH_NONE ? r->n_drawn : r->next_token; /* what was drawn behind a stop text does not count */
    fl_request_stats all = {.size = s->size,
                            .seed = r->params.seed,
                            .n_prompt = r->n_prompt,
                            .n_output = n_output,
                            .queue_ms = 1e3 * (started - r->t_added),
                            .prefill_ms = 1e3 * (first - started),
                            .decode_ms = r->t_done > first ? 1e3 * (r->t_done - first) : 0};
    base_mutex_unlock(&w->lock);
    memcpy(s, &all, s->size < sizeof all ? s->size : sizeof all);
}
