#include "sched/sched.h"

#include "base/assert.h"
#include "base/mem.h"

typedef enum { GONE, WAITING, RUNNING, ENDED } state;

typedef struct {
    state state;
    sched_request r;
    uint64_t arrival;
    uint32_t seq;       /* RUNNING, ENDED with steps in flight; else KV_NONE */
    uint32_t n_planned; /* positions planned so far */
    uint32_t n_known;   /* tokens known: the prompt and the draws told as done */
    uint32_t n_draws;   /* draws planned */
    uint64_t last_step; /* of the last planned draw */
    uint32_t last_row;
    uint32_t n_in_flight; /* steps planned and not done */
} entry;

struct sched {
    sched_options o;
    entry *entries;
    uint32_t *order; /* [max_requests] handles of requests that are not gone, by arrival */
    uint32_t n_order;
    uint64_t arrivals, steps;
};

fl_status sched_open(sched **out, const sched_options *o, fl_err *err) {
    *out = NULL;
    sched *s = base_calloc(1, sizeof *s);
    if (s) {
        s->o = *o;
        s->entries = base_calloc(o->max_requests, sizeof *s->entries);
        s->order = base_calloc(o->max_requests, sizeof *s->order);
    }
    if (!s || !s->entries || !s->order) {
        sched_close(s);
        return fl_fail(err, FL_ENOMEM, "a scheduler for %u requests: no memory", o->max_requests);
    }
    *out = s;
    return FL_OK;
}

void sched_close(sched *s) {
    if (!s) return;
    base_free(s->order);
    base_free(s->entries);
    base_free(s);
}

bool sched_add(sched *s, const sched_request *r, uint32_t *handle) {
    fl_assert(r->n_prompt >= 1);
    for (uint32_t h = 0; h < s->o.max_requests; h++) {
        if (s->entries[h].state != GONE) continue;
        s->entries[h] =
            (entry){.state = WAITING, .r = *r, .arrival = s->arrivals++, .seq = KV_NONE, .n_known = r->n_prompt};
        s->order[s->n_order++] = h;
        *handle = h;
        return true;
    }
    return false;
}

uint32_t sched_count(const sched *s) { return s->n_order; }
bool sched_gone(const sched *s, uint32_t handle) { return s->entries[handle].state == GONE; }

static void release(sched *s, uint32_t handle) {
    entry *e = &s->entries[handle];
    if (e->seq != KV_NONE) kv_cache_drop_seq(s->o.kv, e->seq);
    e->seq = KV_NONE;
    e->state = GONE;
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_order; i++)
        if (s->order[i] != handle) s->order[n++] = s->order[i];
    s->n_order = n;
}

void sched_end(sched *s, uint32_t handle) {
    entry *e = &s->entries[handle];
    fl_assert(e->state != GONE);
    e->state = ENDED;
    if (e->n_in_flight == 0) release(s, handle);
}

/* All positions a request may ever hold: the last drawn token is never fed back. */
static uint32_t positions_max(const entry *e) { return e->r.n_prompt + (e->r.max_draws ? e->r.max_draws - 1 : 0); }

static bool admit(sched *s, entry *e) {
    uint32_t seq = kv_cache_take_seq(s->o.kv, positions_max(e), s->o.max_tokens);
    if (seq == KV_NONE) return false;
    e->seq = seq;
    e->state = RUNNING;
    return true;
}

/* Whether the request's next token may run in step `number`: it is known, or the step just before draws it. */
static bool decodes(const entry *e, uint64_t number) {
    if (e->n_planned < e->r.n_prompt || e->n_draws == e->r.max_draws) return false;
    if (e->n_planned < e->n_known) return true;
    return !e->r.needs_history && e->n_draws > 0 && e->last_step + 1 == number &&
           e->n_planned == e->r.n_prompt + e->n_draws - 1;
}

static void add_piece(sched *s, sched_step *step, uint32_t handle, uint32_t n_tokens) {
    entry *e = &s->entries[handle];
    sched_piece p = {
        .request = handle, .seq = e->seq, .first = e->n_planned, .n_tokens = n_tokens, .drawn_row = SCHED_NONE};
    uint32_t end = e->n_planned + n_tokens;
    bool last = end >= e->r.n_prompt; /* the piece reaches the position after which a token is drawn or scored */
    p.n_rows = e->r.score_prompt && e->n_planned < e->r.n_prompt ? n_tokens : last;
    p.draws = last && e->n_draws < e->r.max_draws;
    p.draw = e->n_draws;
    kv_cache_slide(s->o.kv, e->seq, p.first);
    kv_cache_extend(s->o.kv, e->seq, end);
    if (e->n_planned >= e->n_known) p.drawn_row = e->last_row;
    step->n_rows += p.n_rows;
    step->n_tokens += n_tokens;
    step->pieces[step->n_pieces++] = p;
    e->n_planned = end;
    e->n_in_flight++;
    if (p.draws) {
        e->n_draws++;
        e->last_step = step->number;
        e->last_row = step->n_rows - 1;
    }
}

static void plan_decodes(sched *s, sched_step *step) {
    for (uint32_t i = 0; i < s->n_order; i++) {
        uint32_t h = s->order[i];
        if (step->n_tokens == s->o.max_tokens || step->n_rows == s->o.max_rows || step->n_pieces == s->o.max_seqs)
            return;
        if (s->entries[h].state == RUNNING && decodes(&s->entries[h], step->number)) add_piece(s, step, h, 1);
    }
}

static uint32_t piece_size(const sched *s, const sched_step *step, const entry *e) {
    uint32_t n = e->r.n_prompt - e->n_planned;
    if (e->r.chunk && n > e->r.chunk) n = e->r.chunk;
    if (n > s->o.max_tokens - step->n_tokens) n = s->o.max_tokens - step->n_tokens;
    if (e->r.score_prompt && n > s->o.max_rows - step->n_rows) n = s->o.max_rows - step->n_rows;
    return n;
}

static void plan_prompts(sched *s, sched_step *step) {
    for (uint32_t i = 0; i < s->n_order; i++) {
        uint32_t h = s->order[i];
        entry *e = &s->entries[h];
        if (step->n_tokens == s->o.max_tokens || step->n_rows == s->o.max_rows || step->n_pieces == s->o.max_seqs)
            return;
        if (e->state == WAITING && !admit(s, e)) return; /* first come: nobody overtakes */
        if (e->state != RUNNING || e->n_planned >= e->r.n_prompt) continue;
        uint32_t n = piece_size(s, step, e);
        if (n > 0) add_piece(s, step, h, n);
    }
}

void sched_plan(sched *s, sched_step *step) {
    step->number = s->steps + 1;
    step->n_pieces = step->n_tokens = step->n_rows = 0;
    plan_decodes(s, step);
    plan_prompts(s, step);
    if (step->n_pieces) s->steps++;
}

void sched_done(sched *s, const sched_step *step) {
    for (uint32_t i = 0; i < step->n_pieces; i++) {
        entry *e = &s->entries[step->pieces[i].request];
        fl_assert(e->state != GONE && e->n_in_flight > 0);
        e->n_in_flight--;
        if (step->pieces[i].draws) e->n_known++;
        if (e->state == ENDED && e->n_in_flight == 0) release(s, step->pieces[i].request);
    }
}

void sched_check(const sched *s) {
    uint64_t before = 0;
    for (uint32_t i = 0; i < s->n_order; i++) {
        const entry *e = &s->entries[s->order[i]];
        fl_assert(e->state != GONE && (i == 0 || e->arrival > before));
        fl_assert((e->state == RUNNING) <= (e->seq != KV_NONE));
        fl_assert(e->n_known <= e->r.n_prompt + e->n_draws && e->n_draws <= e->r.max_draws);
        fl_assert(e->n_planned <= e->r.n_prompt + e->n_draws);
        fl_assert(e->state != ENDED || e->n_in_flight > 0);
        before = e->arrival;
    }
    kv_cache_check(s->o.kv);
}
