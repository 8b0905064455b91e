/* The step loop: take what has arrived, plan and enqueue up to n_slots steps, wait for the
 * oldest and give out its results. Allocates nothing; the counter says so. */
#include "engine/engine_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

void engine_lock_for_step(fl_engine *e) {
    base_mutex_lock(&e->queue_lock);
    while (e->n_between) base_cond_wait(&e->queue_cond, &e->queue_lock, -1);
    base_mutex_unlock(&e->queue_lock);
    base_mutex_lock(&e->step_lock);
}

void engine_lock_between_steps(fl_engine *e) {
    base_mutex_lock(&e->queue_lock);
    e->n_between++;
    base_mutex_unlock(&e->queue_lock);
    base_mutex_lock(&e->step_lock);
    base_mutex_lock(&e->queue_lock);
    e->n_between--;
    base_cond_wake(&e->queue_cond);
    base_mutex_unlock(&e->queue_lock);
}

/* A request that arrived earlier with the same prompt, whose pages this one can use once they are filled. */
static uint32_t same_prompt(const fl_engine *e, const fl_request *r) {
    for (uint32_t h = 0; r->keys && h < ENGINE_REQUESTS_MAX; h++) {
        const fl_request *o = e->running[h];
        if (o && o->keys && o->n_prompt == r->n_prompt && kv_key_equal(o->root, r->root) &&
            memcmp(o->tokens, r->tokens, r->n_prompt * sizeof *r->tokens) == 0)
            return h;
    }
    return SCHED_NONE;
}

static void take_arrived(fl_engine *e) {
    base_mutex_lock(&e->queue_lock);
    while (e->arrived) {
        fl_request *r = e->arrived;
        sched_request s = {.n_prompt = r->n_prompt,
                           .max_draws = r->max_draws,
                           .score_prompt = r->score_prompt,
                           .needs_history = sample_needs_history(&r->params),
                           .chunk = r->chunk,
                           .priority = r->priority,
                           .after = same_prompt(e, r),
                           .tokens = r->keys ? r->tokens : NULL,
                           .keys = r->keys,
                           .root = r->root};
        if (!sched_add(e->sched, &s, &r->handle)) break;
        e->arrived = r->next;
        if (!e->arrived) e->arrived_end = &e->arrived;
        r->queued = false;
        e->running[r->handle] = r;
    }
    base_mutex_unlock(&e->queue_lock);
}

static void let_go(fl_engine *e, uint32_t handle) {
    fl_request *r = e->running[handle];
    if (!r || !sched_gone(e->sched, handle)) return;
    e->running[handle] = NULL;
    engine_request_released(r);
}

static void end_request(fl_engine *e, fl_request *r, fl_finish finish, const fl_err *why) {
    engine_request_finish(r, finish, why);
    sched_end(e->sched, r->handle, finish != FL_FINISH_ERROR);
    let_go(e, r->handle);
}

static void end_canceled(fl_engine *e) {
    for (uint32_t h = 0; h < ENGINE_REQUESTS_MAX; h++) {
        fl_request *r = e->running[h];
        if (r && r->finish == FL_FINISH_NONE && atomic_load(&r->cancel)) end_request(e, r, FL_FINISH_CANCELED, NULL);
    }
}

/* What is wanted of the row after position p of a request; `draws`: the piece's last row draws. */
static sample_params row_params(const fl_request *r, uint32_t p, bool draws, uint32_t draw) {
    sample_params s = r->params;
    s.position = draw;
    if (draws) return s;
    s.temperature = 0;
    s.repetition_penalty = 1;
    s.frequency_penalty = s.presence_penalty = 0;
    if (p + 1 < r->n_prompt) s.target = r->tokens[p + 1];
    return s;
}

static void fill_piece(fl_engine *e, engine_slot *s, uint32_t i, uint32_t *n_tokens, uint32_t *n_rows) {
    const sched_piece *p = &s->step.pieces[i];
    fl_request *r = e->running[p->request];
    s->seq_begin[i] = *n_tokens;
    for (uint32_t t = 0; t < p->n_tokens; t++, (*n_tokens)++) {
        uint32_t pos = p->first + t;
        s->token[*n_tokens] = p->drawn_row != SCHED_NONE ? DEV_DRAWN | p->drawn_row : r->tokens[pos];
        s->position[*n_tokens] = pos;
        s->token_seq[*n_tokens] = i;
        if (t + p->n_rows < p->n_tokens) continue;
        bool last = t + 1 == p->n_tokens;
        s->row_token[*n_rows] = *n_tokens;
        s->draw[(*n_rows)++] = row_params(r, pos, p->draws && last, p->draw);
    }
    for (uint32_t g = 0; g < e->g->n_kv; g++) s->pages[g][i] = kv_cache_table(e->kv, p->seq, g);
    if (r->on_logits && p->n_rows) s->outputs.logits = s->logits;
    if (p->begins) engine_request_started(r, p->first);
}

static bool launch(fl_engine *e) {
    engine_slot *s = &e->slots[(e->first_slot + e->n_in_flight) % e->n_slots];
    sched_plan(e->sched, &s->step);
    if (s->step.n_pieces == 0) return false;
    uint32_t n_tokens = 0, n_rows = 0;
    s->outputs.logits = NULL;
    for (uint32_t i = 0; i < s->step.n_pieces; i++) fill_piece(e, s, i, &n_tokens, &n_rows);
    s->seq_begin[s->step.n_pieces] = n_tokens;
    fl_assert(n_tokens == s->step.n_tokens && n_rows == s->step.n_rows);
    s->tables.n_tokens = n_tokens;
    s->tables.n_seqs = s->step.n_pieces;
    s->tables.n_rows = n_rows;
    s->launched = e->vt->run(e->dev, e->program, &s->tables, &s->outputs, &s->ticket, &s->refusal) == FL_OK;
    e->n_in_flight++;
    return true;
}

/* Gives the results of one piece to its request, unless that has ended meanwhile. */
static void finish_piece(fl_engine *e, engine_slot *s, uint32_t i, uint32_t first_row, const fl_err *failure) {
    const sched_piece *p = &s->step.pieces[i];
    fl_request *r = e->running[p->request];
    if (!r || r->finish != FL_FINISH_NONE) return;
    fl_err bad;
    if (!failure && s->outputs.seq_bad[i]) {
        fl_fail(&bad, FL_EFORMAT,
                "the model computed numbers that are not finite at position %u; its weights may be damaged",
                p->first + p->n_tokens - 1);
        failure = &bad;
    }
    if (failure) {
        end_request(e, r, FL_FINISH_ERROR, failure);
        return;
    }
    bool goes_on = true;
    for (uint32_t k = 0; k < p->n_rows; k++) {
        uint32_t row = first_row + k, pos = p->first + p->n_tokens - p->n_rows + k;
        if (r->on_logits) r->on_logits(r->user, pos, s->logits + (size_t)row * e->g->n_vocab, e->g->n_vocab);
        if (pos + 1 < r->n_prompt || r->max_draws == 0)
            engine_request_scored(r, pos, &s->outputs.rows[row]);
        else
            goes_on = engine_request_drawn(r, &s->outputs.rows[row]);
    }
    uint32_t prompt = p->first >= r->n_prompt                ? 0
                      : p->first + p->n_tokens > r->n_prompt ? r->n_prompt - p->first
                                                             : p->n_tokens;
    atomic_fetch_add(&e->n_prompt_tokens, prompt);
    if (p->draws) atomic_fetch_add(&e->n_output_tokens, 1);
    bool scored = r->max_draws == 0 && p->first + p->n_tokens == r->n_prompt;
    if (!goes_on || scored) {
        sched_end(e->sched, p->request, true);
        if (scored) engine_request_finish(r, FL_FINISH_LENGTH, NULL);
        let_go(e, p->request);
    }
}

static fl_status finish(fl_engine *e, fl_err *err) {
    engine_slot *s = &e->slots[e->first_slot];
    fl_err failure;
    fl_status st = s->launched ? e->vt->wait(e->dev, s->ticket, &failure) : s->refusal.code;
    if (!s->launched) failure = s->refusal;
    uint32_t row = 0;
    for (uint32_t i = 0; i < s->step.n_pieces; row += s->step.pieces[i].n_rows, i++)
        finish_piece(e, s, i, row, st == FL_OK ? NULL : &failure);
    sched_done(e->sched, &s->step, st == FL_OK);
    for (uint32_t i = 0; i < s->step.n_pieces; i++) let_go(e, s->step.pieces[i].request);
    e->first_slot = (e->first_slot + 1) % e->n_slots;
    e->n_in_flight--;
    atomic_fetch_add(&e->n_steps, 1);
    if (st != FL_OK && err) *err = failure;
    return st;
}

static void publish_stats(fl_engine *e) {
    sched_stats s;
    sched_get_stats(e->sched, &s);
    atomic_store(&e->n_cached_tokens, s.n_matched);
    atomic_store(&e->n_preemptions, s.n_preempted);
    atomic_store(&e->n_running, s.n_running);
    atomic_store(&e->n_waiting, s.n_waiting);
    uint32_t used = 0;
    for (uint32_t g = 0; g < e->g->n_kv; g++) used += e->kv_pages[g] - kv_cache_room(e->kv, g);
    atomic_store(&e->n_kv_used, used);
}

fl_status engine_step(fl_engine *e, bool *busy, fl_err *err) {
    uint64_t allocations = base_mem_count_here();
    fl_status st = FL_OK;
    take_arrived(e);
    end_canceled(e);
    while (e->n_in_flight < e->n_slots && launch(e)) {
    }
    if (e->n_in_flight) st = finish(e, err);
#ifdef FL_DEBUG
    sched_check(e->sched);
#endif
    atomic_fetch_add(&e->n_step_allocations, base_mem_count_here() - allocations);
    base_mutex_lock(&e->queue_lock);
    *busy = e->arrived || sched_count(e->sched) > 0;
    base_mutex_unlock(&e->queue_lock);
    publish_stats(e);
    return st;
}

void engine_drain(fl_engine *e) {
    while (e->n_in_flight) {
        if (finish(e, NULL) != FL_OK) continue; /* its requests have the error */
    }
}
