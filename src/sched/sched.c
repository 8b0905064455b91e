#include "sched/sched.h"

#include "base/assert.h"
#include "base/mem.h"

enum { LEAST_PIECE = 8 }; /* tokens that the first prompt in line gets, whatever else runs */

typedef enum { GONE, WAITING, RUNNING, ENDED } state;

typedef struct {
    state state;
    bool wrong;       /* its numbers are not to be found by others */
    bool all_planned; /* nothing is left to compute */
    sched_request r;
    uint64_t arrival, after_arrival;
    uint32_t seq;       /* RUNNING, ENDED with steps in flight; else KV_NONE */
    uint32_t life;      /* preemptions so far */
    bool begins;        /* its next piece is the first of this life */
    uint32_t n_fill;    /* positions to compute before draws go on: the prompt, after a preemption all there were */
    uint32_t n_planned; /* positions planned so far in this life */
    uint32_t n_known;   /* tokens known: the prompt and the draws told as done */
    uint32_t n_draws;   /* draws planned */
    uint32_t n_scored;  /* prompt positions whose rows are planned */
    uint32_t n_keys;    /* keys filled */
    uint32_t n_named;   /* pages named in this life */
    uint64_t last_step; /* of the last planned draw */
    uint32_t last_row;
    uint64_t planned_in;  /* the last step with a piece of it */
    uint32_t n_in_flight; /* steps planned and not done */
} entry;

struct sched {
    sched_options o;
    entry *entries;
    uint32_t *order; /* [max_requests] handles of requests that are not gone, as they stand in line */
    uint32_t n_order, span;
    uint64_t arrivals, steps, units_left;
    sched_stats stats;
};

fl_status sched_open(sched **out, const sched_options *o, fl_err *err) {
    *out = NULL;
    sched *s = base_calloc(1, sizeof *s);
    if (s) {
        s->o = *o;
        s->span = sched_span(o->max_tokens, o->max_in_flight);
        if (s->o.max_units == 0) s->o.max_units = o->max_tokens;
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

/* ---- coming and going ---- */

static void stand_in_line(sched *s, uint32_t handle) {
    uint32_t i = s->n_order++;
    for (; i > 0 && s->entries[s->order[i - 1]].r.priority > s->entries[handle].r.priority; i--)
        s->order[i] = s->order[i - 1];
    s->order[i] = handle;
}

bool sched_add(sched *s, const sched_request *r, uint32_t *handle) {
    fl_assert(r->n_prompt >= 1 && !r->tokens == !r->keys);
    for (uint32_t h = 0; h < s->o.max_requests; h++) {
        if (s->entries[h].state != GONE) continue;
        s->entries[h] = (entry){.state = WAITING,
                                .r = *r,
                                .arrival = s->arrivals++,
                                .seq = KV_NONE,
                                .n_known = r->n_prompt,
                                .n_fill = r->n_prompt};
        if (r->after != SCHED_NONE) s->entries[h].after_arrival = s->entries[r->after].arrival;
        stand_in_line(s, h);
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

void sched_end(sched *s, uint32_t handle, bool ok) {
    entry *e = &s->entries[handle];
    fl_assert(e->state != GONE);
    e->state = ENDED;
    e->wrong = e->wrong || !ok;
    if (e->n_in_flight == 0) release(s, handle);
}

/* ---- the cache ---- */

/* Fills the keys of the first n pages; their tokens are known. */
static void fill_keys(entry *e, uint32_t n) {
    for (; e->n_keys < n; e->n_keys++) {
        kv_key before = e->n_keys ? e->r.keys[e->n_keys - 1] : e->r.root;
        e->r.keys[e->n_keys] = kv_key_next(before, e->r.tokens + (size_t)e->n_keys * KV_PAGE_TOKENS);
    }
}

/* Tokens that are known and lie within what is to be filled. */
static uint32_t n_fillable(const entry *e) { return e->n_known < e->n_fill ? e->n_known : e->n_fill; }

/* Starts the sequence behind what the cache has of it, before the first position whose row is wanted. */
static void match(sched *s, entry *e) {
    if (!e->r.keys) return;
    uint32_t most = n_fillable(e) - 1;
    if (e->r.score_prompt && e->n_scored < e->r.n_prompt && e->n_scored < most) most = e->n_scored;
    fill_keys(e, most / KV_PAGE_TOKENS);
    e->n_planned = kv_cache_match(s->o.kv, e->seq, e->r.keys, most / KV_PAGE_TOKENS);
    e->n_named = e->n_planned / KV_PAGE_TOKENS;
}

/* Whether the known tokens fit beside what the running requests still need, a page of growth for each. */
static bool fits(const sched *s, const entry *e) {
    for (uint32_t g = 0; g < kv_cache_n_groups(s->o.kv); g++) {
        uint64_t need = kv_cache_lacks(s->o.kv, e->seq, g, n_fillable(e), s->span);
        for (uint32_t i = 0; i < s->n_order; i++) {
            const entry *r = &s->entries[s->order[i]];
            if (r->state != RUNNING) continue;
            bool filled = r->n_planned >= r->n_fill;
            need += 1 + (filled ? 0 : kv_cache_lacks(s->o.kv, r->seq, g, n_fillable(r), s->span));
        }
        if (need > kv_cache_room(s->o.kv, g)) return false;
    }
    return true;
}

static void leave_cache(sched *s, entry *e) {
    kv_cache_drop_seq(s->o.kv, e->seq);
    e->seq = KV_NONE;
    e->n_planned = e->n_named = 0;
}

static bool admit(sched *s, entry *e) {
    e->seq = kv_cache_take_seq(s->o.kv);
    if (e->seq == KV_NONE) return false;
    match(s, e);
    if (!fits(s, e)) {
        leave_cache(s, e);
        return false;
    }
    e->state = RUNNING;
    e->begins = true;
    s->stats.n_prompt_tokens += n_fillable(e);
    s->stats.n_matched += e->n_planned;
    return true;
}

/* Draws in flight stay good: their tokens become known, and are computed again with the rest. */
static void preempt(sched *s, entry *e) {
    leave_cache(s, e);
    e->state = WAITING;
    e->life++;
    e->n_fill = e->r.n_prompt + e->n_draws;
    s->stats.n_preempted++;
}

/* Gives back what the next piece does not see, but no page that will still get a name. */
static void slide(sched *s, const entry *e) {
    bool names = e->r.keys && !e->wrong;
    kv_cache_slide(s->o.kv, e->seq, names ? e->n_named * KV_PAGE_TOKENS : e->n_planned);
}

/* The most positions, at most n, that the request at place `at` of the line can hold now: those behind it and not in this
 * step give way, the last one first. */
static uint32_t make_room(sched *s, const sched_step *step, uint32_t at, uint32_t n) {
    uint32_t seq = s->entries[s->order[at]].seq, reach = kv_cache_reach(s->o.kv, seq, n);
    for (uint32_t i = s->n_order; reach < n && i-- > at + 1;) {
        entry *v = &s->entries[s->order[i]];
        if (v->state != RUNNING || v->planned_in == step->number) continue;
        preempt(s, v);
        reach = kv_cache_reach(s->o.kv, seq, n);
    }
    return reach;
}

/* ---- planning ---- */

static uint64_t units(const sched *s, uint32_t first, uint32_t n) {
    uint64_t depth = (uint64_t)n * first + (uint64_t)n * n / 2;
    return n + (s->o.depth_unit ? depth / s->o.depth_unit : 0);
}

static bool full(const sched *s, const sched_step *step) {
    return step->n_tokens == s->o.max_tokens || step->n_rows == s->o.max_rows || step->n_pieces == s->o.max_seqs;
}

static bool fills(const entry *e) { return e->state == RUNNING && e->n_planned < n_fillable(e); }

/* Whether the request's next token may run in step `number`: it is known, or the step just before draws it. */
static bool decodes(const entry *e, uint64_t number) {
    if (e->state != RUNNING || e->n_planned < e->n_fill || e->all_planned) return false;
    if (e->n_planned < e->n_known) return true;
    return !e->r.needs_history && e->n_draws > 0 && e->last_step + 1 == number &&
           e->n_planned == e->r.n_prompt + e->n_draws - 1;
}

/* The prompt positions of a piece that ends at `end` whose rows nobody has seen. */
static uint32_t rows_of(const entry *e, uint32_t end) {
    if (e->r.score_prompt && e->n_scored < e->r.n_prompt) return end > e->n_scored ? end - e->n_scored : 0;
    return end >= e->n_fill;
}

static void add_piece(sched *s, sched_step *step, uint32_t handle, uint32_t n_tokens) {
    entry *e = &s->entries[handle];
    uint32_t end = e->n_planned + n_tokens;
    sched_piece p = {.request = handle,
                     .seq = e->seq,
                     .life = e->life,
                     .begins = e->begins,
                     .first = e->n_planned,
                     .n_tokens = n_tokens,
                     .n_rows = rows_of(e, end),
                     .draws = end >= e->n_fill && e->n_draws < e->r.max_draws,
                     .draw = e->n_draws,
                     .drawn_row = e->n_planned < e->n_known ? SCHED_NONE : e->last_row};
    kv_cache_extend(s->o.kv, e->seq, end);
    uint64_t cost = units(s, p.first, n_tokens);
    s->units_left -= cost < s->units_left ? cost : s->units_left;
    step->n_rows += p.n_rows;
    step->n_tokens += n_tokens;
    step->pieces[step->n_pieces++] = p;
    e->n_planned = end;
    e->begins = false;
    if (e->r.score_prompt && end > e->n_scored) e->n_scored = end < e->r.n_prompt ? end : e->r.n_prompt;
    e->planned_in = step->number;
    e->n_in_flight++;
    e->n_draws += p.draws;
    e->all_planned = end >= e->n_fill && e->n_draws == e->r.max_draws;
    if (p.draws) {
        e->last_step = step->number;
        e->last_row = step->n_rows - 1;
    }
}

static void plan_decodes(sched *s, sched_step *step) {
    for (uint32_t i = 0; i < s->n_order && !full(s, step); i++) {
        entry *e = &s->entries[s->order[i]];
        if (!decodes(e, step->number)) continue;
        slide(s, e);
        if (make_room(s, step, i, e->n_planned + 1) > e->n_planned) add_piece(s, step, s->order[i], 1);
    }
}

/* Whether it waits for the pages of another request's prompt; never for one that stands behind it. */
static bool waits_for_pages(const sched *s, const entry *e) {
    if (e->r.after == SCHED_NONE || !e->r.keys) return false;
    const entry *a = &s->entries[e->r.after];
    bool in_front = a->arrival == e->after_arrival && a->r.priority <= e->r.priority;
    return in_front && (a->state == WAITING || a->state == RUNNING) && a->r.keys &&
           a->n_named < (a->r.n_prompt - 1) / KV_PAGE_TOKENS;
}

static void admit_those_in_front(sched *s) {
    for (uint32_t i = 0; i < s->n_order; i++) {
        entry *e = &s->entries[s->order[i]];
        if (e->state != WAITING || e->all_planned || waits_for_pages(s, e)) continue;
        if (!admit(s, e)) return;
    }
}

/* The largest n that costs at most `most` units. */
static uint32_t affordable(const sched *s, uint32_t first, uint32_t n, uint64_t most) {
    uint32_t low = 0;
    while (low < n) {
        uint32_t middle = low + (n - low + 1) / 2;
        if (units(s, first, middle) <= most)
            low = middle;
        else
            n = middle - 1;
    }
    return n;
}

/* How many tokens of a prompt may run, within `most` units but `least` in any case. */
static uint32_t piece_size(const sched *s, const sched_step *step, const entry *e, uint64_t most, uint32_t least) {
    uint32_t n = n_fillable(e) - e->n_planned, tokens_left = s->o.max_tokens - step->n_tokens;
    if (e->r.chunk && n > e->r.chunk) n = e->r.chunk;
    if (n > tokens_left) n = tokens_left;
    uint32_t cheap = affordable(s, e->n_planned, n, most);
    if (n > least) n = cheap > least ? cheap : least;
    if (e->r.score_prompt && e->n_scored < e->r.n_prompt) {
        uint32_t known = e->n_scored > e->n_planned ? e->n_scored - e->n_planned : 0; /* rows that were seen before */
        uint32_t rows_left = s->o.max_rows - step->n_rows;
        if (n > known + rows_left) n = known + rows_left;
    }
    return n;
}

/* A piece of the prompt of the request at place `at` of the line. */
static void plan_prompt(sched *s, sched_step *step, uint32_t at, uint64_t most, uint32_t least) {
    entry *e = &s->entries[s->order[at]];
    uint32_t n = piece_size(s, step, e, most, least);
    if (n == 0) return;
    slide(s, e);
    uint32_t reach = make_room(s, step, at, e->n_planned + n);
    if (reach > e->n_planned) add_piece(s, step, s->order[at], reach - e->n_planned);
}

/* The place in line, not before `from`, of the request that lacks the least of its prompt; n_order: none is left. */
static uint32_t shortest(const sched *s, const sched_step *step, uint32_t from) {
    uint32_t best = s->n_order, least = UINT32_MAX;
    for (uint32_t i = from; i < s->n_order; i++) {
        const entry *e = &s->entries[s->order[i]];
        if (!fills(e) || e->planned_in == step->number || n_fillable(e) - e->n_planned >= least) continue;
        least = n_fillable(e) - e->n_planned;
        best = i;
    }
    return best;
}

/* What the requests behind place `first` would take, at most `most` units. */
static uint64_t others_want(const sched *s, uint32_t first, uint64_t most) {
    uint64_t want = 0;
    for (uint32_t i = first + 1; i < s->n_order && want < most; i++) {
        const entry *e = &s->entries[s->order[i]];
        if (fills(e)) want += units(s, e->n_planned, n_fillable(e) - e->n_planned);
    }
    return want < most ? want : most;
}

static void plan_prompts(sched *s, sched_step *step) {
    uint32_t first = 0;
    while (first < s->n_order && !fills(&s->entries[s->order[first]])) first++;
    if (first == s->n_order || full(s, step)) return;
    plan_prompt(s, step, first, s->units_left - others_want(s, first, s->units_left / 2), LEAST_PIECE);
    while (!full(s, step) && s->units_left > 0) {
        uint32_t i = shortest(s, step, first + 1), before = step->n_pieces;
        if (i == s->n_order) return;
        plan_prompt(s, step, i, s->units_left, 0);
        if (step->n_pieces == before) return;
    }
}

void sched_plan(sched *s, sched_step *step) {
    step->number = s->steps + 1;
    step->n_pieces = step->n_tokens = step->n_rows = 0;
    s->units_left = s->o.max_units;
    plan_decodes(s, step);
    if (s->units_left < s->o.max_units / 8) s->units_left = s->o.max_units / 8; /* many streams do not stop prompts */
    admit_those_in_front(s);
    plan_prompts(s, step);
    if (step->n_pieces) s->steps++;
}

/* ---- after the step ---- */

/* Names the pages that a piece completed; their tokens are known. */
static void name_pages(sched *s, entry *e, const sched_piece *p) {
    if (!e->r.keys || e->wrong || e->seq == KV_NONE || e->life != p->life) return;
    uint32_t end = p->first + p->n_tokens;
    if (end > e->n_known) end = e->n_known;
    fill_keys(e, end / KV_PAGE_TOKENS);
    for (; e->n_named < end / KV_PAGE_TOKENS; e->n_named++)
        kv_cache_name(s->o.kv, e->seq, e->n_named, e->r.keys[e->n_named]);
}

void sched_done(sched *s, const sched_step *step, bool ok) {
    for (uint32_t i = 0; i < step->n_pieces; i++) {
        const sched_piece *p = &step->pieces[i];
        entry *e = &s->entries[p->request];
        fl_assert(e->state != GONE && e->n_in_flight > 0);
        e->n_in_flight--;
        e->wrong = e->wrong || !ok; /* also when it had ended before: later steps in flight stand on this one */
        name_pages(s, e, p);
        if (p->draws && e->state != ENDED) e->n_known++;
        if (e->state == ENDED && e->n_in_flight == 0) release(s, p->request);
    }
}

void sched_forget(sched *s) {
    kv_cache_forget(s->o.kv);
    for (uint32_t i = 0; i < s->n_order; i++)
        if (s->entries[s->order[i]].state != WAITING) s->entries[s->order[i]].wrong = true;
}

void sched_get_stats(const sched *s, sched_stats *out) {
    *out = s->stats;
    for (uint32_t i = 0; i < s->n_order; i++) {
        out->n_waiting += s->entries[s->order[i]].state == WAITING;
        out->n_running += s->entries[s->order[i]].state == RUNNING;
    }
}

void sched_check(const sched *s) {
    for (uint32_t i = 0; i < s->n_order; i++) {
        const entry *e = &s->entries[s->order[i]], *before = i ? &s->entries[s->order[i - 1]] : e;
        fl_assert(e->state != GONE);
        fl_assert(before->r.priority < e->r.priority ||
                  (before->r.priority == e->r.priority && before->arrival <= e->arrival));
        fl_assert((e->state == RUNNING) <= (e->seq != KV_NONE));
        fl_assert((e->state == WAITING) <= (e->seq == KV_NONE && e->n_planned == 0));
        fl_assert(e->n_known <= e->r.n_prompt + e->n_draws && e->n_draws <= e->r.max_draws);
        fl_assert(e->n_planned <= e->r.n_prompt + e->n_draws && e->n_scored <= e->r.n_prompt);
        fl_assert(e->n_named * KV_PAGE_TOKENS <= e->n_planned);
        fl_assert(e->state != ENDED || e->n_in_flight > 0);
    }
    kv_cache_check(s->o.kv);
}
