/* The scheduler in a simulator: a virtual device with up to four steps in flight, requests that
 * arrive, end early, are cancelled, and steps that fail, all from a seed.
 *
 * The simulator keeps its own record of each request and checks every piece against it: positions
 * once and in order, draws only where they belong, placeholders only for what the step directly
 * before draws, budgets, and first come first served. A failing seed is printed. */
#include "base/mem.h"
#include "sched/sched.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

enum { HANDLES = 24, FLIGHT_MAX = 4, SEQS_MAX = 9 };

typedef struct {
    bool live, ended;
    sched_request r;
    uint64_t arrival;
    uint32_t next;            /* position to be planned next */
    uint32_t n_draws, n_told; /* draws planned, and told as done */
    uint32_t draws_until;     /* ends early after this many draws */
    uint32_t n_in_flight;
    uint64_t draw_step; /* step of the last draw, and its row */
    uint32_t draw_row;
    bool scheduled;
} record;

typedef struct {
    sched *s;
    kv_cache *kv;
    kv_options ko;
    sched_options so;
    record r[HANDLES];
    sched_step flight[FLIGHT_MAX];
    sched_piece pieces[FLIGHT_MAX][SEQS_MAX];
    bool fails[FLIGHT_MAX];
    uint32_t first, n_flight, depth;
    uint64_t arrivals, seed, named, n_steps, n_finished, n_tokens;
    bool quiet; /* nothing ends early, fails or is cancelled */
} sim;

#define SIM_CHECK(m, c)                                                                                                \
    CHECKF(c, "%s (seed %llu, step %llu)", #c, (unsigned long long)(m)->named, (unsigned long long)(m)->n_steps)

static uint32_t below(sim *m, uint32_t n) { return test_random_below(&m->seed, n); }

static void sim_open(sim *m, uint64_t seed) {
    memset(m, 0, sizeof *m);
    m->seed = m->named = seed;
    m->quiet = below(m, 4) == 0;
    m->depth = 1 + below(m, FLIGHT_MAX);
    m->so = (sched_options){.max_seqs = 1 + below(m, SEQS_MAX), .max_requests = 1 + below(m, HANDLES)};
    m->so.max_tokens = m->so.max_seqs + below(m, below(m, 2) ? 4 : 100);
    m->so.max_rows = 1 + below(m, m->so.max_tokens);
    m->ko = (kv_options){.n_groups = 1 + below(m, 2), .n_seqs = m->so.max_seqs, .positions_max = 160};
    for (uint32_t g = 0; g < m->ko.n_groups; g++) {
        m->ko.window[g] = below(m, 2) ? 1 + below(m, 80) : 0;
        m->ko.n_pages[g] =
            kv_cache_pages_needed(m->ko.window[g], 160, m->so.max_tokens) + below(m, below(m, 2) ? 3 : 30);
    }
    CHECK(kv_cache_open(&m->kv, &m->ko, NULL) == FL_OK);
    m->so.kv = m->kv;
    CHECK(sched_open(&m->s, &m->so, NULL) == FL_OK);
}

static void sim_add(sim *m) {
    sched_request r = {.n_prompt = 1 + below(m, below(m, 3) ? 20 : 120),
                       .max_draws = below(m, 8) ? 1 + below(m, 40) : 0};
    r.score_prompt = below(m, 4) == 0;
    r.needs_history = below(m, 3) == 0;
    r.chunk = below(m, 3) == 0 ? 1 + below(m, 30) : 0;
    uint32_t h = SCHED_NONE;
    bool room = sched_count(m->s) < m->so.max_requests;
    SIM_CHECK(m, sched_add(m->s, &r, &h) == room);
    if (!room) return;
    SIM_CHECK(m, h < m->so.max_requests && !m->r[h].live);
    m->r[h] = (record){.live = true, .r = r, .arrival = m->arrivals++, .draws_until = r.max_draws};
    if (!m->quiet && below(m, 3) == 0 && r.max_draws) m->r[h].draws_until = 1 + below(m, r.max_draws);
}

static void sim_end(sim *m, uint32_t h) {
    record *r = &m->r[h];
    SIM_CHECK(m, !sched_gone(m->s, h));
    r->ended = true;
    sched_end(m->s, h);
    SIM_CHECK(m, sched_gone(m->s, h) == (r->n_in_flight == 0));
    if (sched_gone(m->s, h)) r->live = false;
}

/* One piece against the record of its request. */
static void check_piece(sim *m, const sched_step *step, uint32_t i, uint32_t first_row) {
    const sched_piece *p = &step->pieces[i];
    record *r = &m->r[p->request];
    uint32_t end = p->first + p->n_tokens, n_prompt = r->r.n_prompt;
    SIM_CHECK(m, p->request < m->so.max_requests && r->live && !r->ended && !r->scheduled);
    SIM_CHECK(m, p->first == r->next && p->n_tokens > 0 && p->seq < m->so.max_seqs);
    SIM_CHECK(m, p->first >= n_prompt ? p->n_tokens == 1 : end <= n_prompt);
    if (r->r.chunk && p->first < n_prompt) SIM_CHECK(m, p->n_tokens <= r->r.chunk);
    SIM_CHECK(m, p->draws == (end >= n_prompt && r->n_draws < r->r.max_draws));
    if (p->draws) SIM_CHECK(m, p->draw == r->n_draws && p->n_rows >= 1);
    if (p->first >= n_prompt) SIM_CHECK(m, p->draws && end == n_prompt + r->n_draws);
    SIM_CHECK(m, p->n_rows == (r->r.score_prompt && p->first < n_prompt ? p->n_tokens : end >= n_prompt));
    bool known = p->first < n_prompt + r->n_told;
    SIM_CHECK(m, known == (p->drawn_row == SCHED_NONE));
    if (!known) {
        SIM_CHECK(m, !r->r.needs_history && r->draw_step + 1 == step->number && r->draw_row == p->drawn_row);
        SIM_CHECK(m, p->first == n_prompt + r->n_draws - 1);
    }
    if (r->r.needs_history && p->draws) SIM_CHECK(m, r->n_told == r->n_draws);
    r->scheduled = true;
    r->next = end;
    r->n_in_flight++;
    if (!p->draws) return;
    r->n_draws++;
    r->draw_step = step->number;
    r->draw_row = first_row + p->n_rows - 1;
}

/* Of two requests with prompt left, the one that came first must not stand still while the later one moves. */
static void check_order(sim *m, const sched_step *step) {
    for (uint32_t a = 0; a < m->so.max_requests; a++) {
        const record *x = &m->r[a];
        if (!x->live || x->ended || x->scheduled || x->next >= x->r.n_prompt) continue;
        for (uint32_t i = 0; i < step->n_pieces; i++) {
            const record *y = &m->r[step->pieces[i].request];
            SIM_CHECK(m, step->pieces[i].first >= y->r.n_prompt || y->arrival < x->arrival);
        }
    }
}

static bool sim_plan(sim *m) {
    uint32_t slot = (m->first + m->n_flight) % FLIGHT_MAX, n_tokens = 0, n_rows = 0;
    sched_step *step = &m->flight[slot];
    step->pieces = m->pieces[slot];
    for (uint32_t h = 0; h < HANDLES; h++) m->r[h].scheduled = false;
    sched_plan(m->s, step);
    sched_check(m->s);
    for (uint32_t i = 0; i < step->n_pieces; i++) {
        check_piece(m, step, i, n_rows);
        n_tokens += step->pieces[i].n_tokens;
        n_rows += step->pieces[i].n_rows;
        for (uint32_t j = 0; j < i; j++) SIM_CHECK(m, step->pieces[i].seq != step->pieces[j].seq);
    }
    check_order(m, step);
    SIM_CHECK(m, n_tokens == step->n_tokens && n_rows == step->n_rows);
    SIM_CHECK(m, n_tokens <= m->so.max_tokens && n_rows <= m->so.max_rows && step->n_pieces <= m->so.max_seqs);
    if (step->n_pieces == 0) return false;
    m->fails[slot] = !m->quiet && below(m, 200) == 0;
    m->n_flight++;
    m->n_steps++;
    m->n_tokens += n_tokens;
    return true;
}

/* The oldest step is over: its results end some requests, as the engine would. */
static void sim_finish(sim *m) {
    sched_step *step = &m->flight[m->first];
    for (uint32_t i = 0; i < step->n_pieces; i++) {
        const sched_piece *p = &step->pieces[i];
        record *r = &m->r[p->request];
        SIM_CHECK(m, r->live && r->n_in_flight > 0);
        if (p->draws) r->n_told++;
        if (r->ended) continue;
        bool scored = r->r.max_draws == 0 && p->first + p->n_tokens == r->r.n_prompt;
        if (m->fails[m->first] || scored || (p->draws && p->draw + 1 == r->draws_until)) {
            if (!m->fails[m->first]) {
                m->n_finished++;
                SIM_CHECK(m, r->next >= r->r.n_prompt && (scored || r->n_told == r->draws_until));
                if (r->draws_until == r->r.max_draws) SIM_CHECK(m, r->next == r->r.n_prompt + r->n_draws - !scored);
            }
            sim_end(m, p->request);
        }
    }
    for (uint32_t i = 0; i < step->n_pieces; i++) m->r[step->pieces[i].request].n_in_flight--;
    sched_done(m->s, step);
    for (uint32_t i = 0; i < step->n_pieces; i++) {
        record *r = &m->r[step->pieces[i].request];
        SIM_CHECK(m, sched_gone(m->s, step->pieces[i].request) == (r->ended && r->n_in_flight == 0));
        if (sched_gone(m->s, step->pieces[i].request)) r->live = false;
    }
    m->first = (m->first + 1) % FLIGHT_MAX;
    m->n_flight--;
    sched_check(m->s);
}

static void sim_cancel_one(sim *m) {
    uint32_t h = below(m, m->so.max_requests);
    if (m->r[h].live && !m->r[h].ended) sim_end(m, h);
}

/* Fills the pipeline, finishes one step; with nobody new, everything must drain. */
static void sim_run(sim *m, uint32_t n_rounds) {
    for (uint32_t i = 0; i < n_rounds; i++) {
        if (below(m, 4) == 0) sim_add(m);
        if (!m->quiet && below(m, 40) == 0) sim_cancel_one(m);
        uint32_t depth = 1 + below(m, m->depth);
        while (m->n_flight < depth && sim_plan(m)) {
        }
        if (m->n_flight) sim_finish(m);
    }
    for (uint32_t left = 100000; sched_count(m->s) && left > 0; left--) {
        while (m->n_flight < m->depth && sim_plan(m)) {
        }
        SIM_CHECK(m, m->n_flight > 0);
        if (m->n_flight == 0) break;
        sim_finish(m);
    }
    while (m->n_flight) sim_finish(m);
    SIM_CHECK(m, sched_count(m->s) == 0);
    for (uint32_t g = 0; g < m->ko.n_groups; g++) SIM_CHECK(m, kv_cache_free_pages(m->kv, g) == m->ko.n_pages[g]);
    for (uint32_t h = 0; h < m->so.max_requests; h++) SIM_CHECK(m, sched_gone(m->s, h) && !m->r[h].live);
}

TEST(simulated_serving) {
    static sim m;
    uint64_t n_steps = 0, n_finished = 0, seed = 1;
    size_t bytes = base_mem_bytes();
    for (; n_steps < 1000000; seed++) {
        sim_open(&m, seed);
        sim_run(&m, 500);
        sched_close(m.s);
        kv_cache_close(m.kv);
        n_steps += m.n_steps;
        n_finished += m.n_finished;
    }
    CHECK(n_finished > 60000);
    CHECK(base_mem_bytes() == bytes);
}

/* A placeholder is dropped, not kept for later, when the step directly after has no room for it. */
TEST(placeholder_only_directly_after) {
    kv_cache *kv;
    sched *s;
    kv_options ko = {.n_groups = 1, .n_pages = {20}, .n_seqs = 2, .positions_max = 100};
    CHECK(kv_cache_open(&kv, &ko, NULL) == FL_OK);
    sched_options so = {.max_seqs = 2, .max_tokens = 8, .max_rows = 1, .max_requests = 4, .kv = kv};
    CHECK(sched_open(&s, &so, NULL) == FL_OK);
    uint32_t a, b;
    sched_piece pieces[3][2];
    sched_step step[3] = {{.pieces = pieces[0]}, {.pieces = pieces[1]}, {.pieces = pieces[2]}};
    CHECK(sched_add(s, &(sched_request){.n_prompt = 2, .max_draws = 5}, &a));
    CHECK(sched_add(s, &(sched_request){.n_prompt = 2, .max_draws = 5}, &b));
    sched_plan(s, &step[0]);
    CHECK(step[0].n_pieces == 1 && pieces[0][0].request == a && pieces[0][0].draws &&
          pieces[0][0].drawn_row == SCHED_NONE);
    sched_plan(s, &step[1]);
    CHECK(step[1].n_pieces == 1 && pieces[1][0].request == a && pieces[1][0].drawn_row == 0 && pieces[1][0].draw == 1);
    sched_end(s, a);
    CHECK(!sched_gone(s, a));
    sched_plan(s, &step[2]);
    CHECK(step[2].n_pieces == 1 && pieces[2][0].request == b);
    for (int i = 0; i < 3; i++) {
        sched_done(s, &step[i]);
        CHECK(sched_gone(s, a) == (i >= 1));
    }
    sched_end(s, b);
    CHECK(sched_count(s) == 0);
    sched_close(s);
    kv_cache_close(kv);
}

TEST(open_survives_each_failing_allocation) {
    size_t bytes = base_mem_bytes();
    for (uint64_t n = 1;; n++) {
        sched *s;
        base_mem_fail_at(n);
        fl_status st =
            sched_open(&s, &(sched_options){.max_seqs = 2, .max_tokens = 8, .max_rows = 2, .max_requests = 4}, NULL);
        bool failed = base_mem_failed();
        base_mem_fail_at(0);
        CHECK(failed ? st == FL_ENOMEM && !s : st == FL_OK);
        sched_close(s);
        CHECK(base_mem_bytes() == bytes);
        if (!failed) break;
    }
}
