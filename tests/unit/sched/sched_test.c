/* The scheduler and the cache in a simulator: a virtual device with up to four steps in flight, requests that
 * arrive, share prefixes, end early, are cancelled, and steps that fail, all from a seed.
 *
 * The simulator keeps its own record of each request and checks every piece against it: positions in order from what the
 * cache had, draws only where they belong and once each, placeholders only for what the step directly before draws,
 * budgets. The virtual device remembers for each slot of each page the hash of all tokens up to it; a step may see
 * only slots that hold what its own request needs there. So a page shared, given back or preempted wrongly is found at
 * once. A failing seed is printed. */
#include "base/mem.h"
#include "sched/sched.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

enum { HANDLES = 24, FLIGHT_MAX = 4, SEQS_MAX = 9, POSITIONS = 320, DRAWS_MAX = 160, PAGES_MAX = 112, IDLE_MAX = 1000 };

typedef struct {
    bool live, ended, wrong;
    sched_request r;
    uint64_t arrival;
    uint32_t lives;           /* pieces seen so far belong to life `lives` - 1 */
    uint32_t fill;            /* positions before draws go on */
    uint32_t next;            /* position to be planned next */
    uint32_t n_scored;        /* prompt positions whose rows came */
    uint32_t n_draws, n_told; /* draws planned, and told as done */
    uint32_t draws_until;     /* ends early after this many draws */
    uint32_t n_in_flight;
    uint64_t draw_step; /* step of the last draw, and its row */
    uint32_t draw_row;
    uint32_t n_idle; /* steps that left it out though it was first in line */
    bool scheduled;
    uint32_t all_tokens[POSITIONS + DRAWS_MAX], tokens[POSITIONS + DRAWS_MAX]; /* what will be; what is known */
    uint64_t chain[POSITIONS + DRAWS_MAX];
    kv_key keys[(POSITIONS + DRAWS_MAX) / KV_PAGE_TOKENS];
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
    uint64_t content[2][PAGES_MAX][KV_PAGE_TOKENS]; /* of the virtual device */
    uint64_t version;                               /* of the weights */
    uint32_t first, n_flight, depth, n_salts, n_families, long_prompts;
    uint64_t arrivals, seed, named, n_steps, n_finished, n_tokens, n_matched, n_preempted;
    bool quiet;    /* nothing ends early, fails or is cancelled */
    uint32_t calm; /* one step in so many fails, one round in so many cancels */
} sim;

#define SIM_CHECK(m, c)                                                                                                \
    CHECKF(c, "%s (seed %llu, step %llu)", #c, (unsigned long long)(m)->named, (unsigned long long)(m)->n_steps)

static uint32_t below(sim *m, uint32_t n) { return test_random_below(&m->seed, n); }

static uint64_t mix(uint64_t a, uint64_t b) {
    uint64_t x = (a ^ b * 0x9e3779b97f4a7c15u) + 0x632be59bd9b4e019u;
    x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
    return (x ^ x >> 32) * 0x94d049bb133111ebu;
}

static void sim_open(sim *m, uint64_t seed) {
    memset(m, 0, sizeof *m);
    m->seed = m->named = seed;
    m->quiet = below(m, 4) == 0;
    m->calm = below(m, 2) ? 200 : 4 + below(m, 20);
    m->depth = 1 + below(m, FLIGHT_MAX);
    m->n_salts = 1 + below(m, 2);
    m->n_families = 1 + below(m, 4);
    m->long_prompts = below(m, 2) ? 3 : 100;
    m->so = (sched_options){.max_seqs = 1 + below(m, SEQS_MAX), .max_requests = 1 + below(m, HANDLES)};
    bool crowded = below(m, 2); /* long answers in a small cache: many preemptions */
    m->so.max_tokens = m->so.max_seqs + below(m, below(m, 2) ? 4 : 100);
    m->so.max_rows = 1 + below(m, m->so.max_tokens);
    m->so.max_in_flight = m->depth;
    m->so.max_units = below(m, 2) ? 1 + below(m, 2 * m->so.max_tokens) : 0;
    m->so.depth_unit = below(m, 2) ? 1 + below(m, 100) : 0;
    m->ko = (kv_options){.n_groups = 1 + below(m, 2), .n_seqs = m->so.max_seqs, .positions_max = POSITIONS};
    for (uint32_t g = 0; g < m->ko.n_groups; g++) {
        m->ko.kind[g] = (kv_kind){below(m, 2) ? 1 + below(m, 120) : 0, below(m, 2)};
        m->ko.n_pages[g] = kv_pages_needed(m->ko.kind[g], POSITIONS, sched_span(m->so.max_tokens, m->depth)) +
                           below(m, crowded ? 3 : 80);
        CHECK(m->ko.n_pages[g] <= PAGES_MAX);
    }
    CHECK(kv_cache_open(&m->kv, &m->ko, NULL) == FL_OK);
    m->so.kv = m->kv;
    CHECK(sched_open(&m->s, &m->so, NULL) == FL_OK);
}

/* Tokens: those of a family up to some position, then the request's own. */
static void make_tokens(sim *m, record *r, uint64_t salt) {
    uint32_t n = r->r.n_prompt + r->r.max_draws, family = below(m, m->n_families);
    uint32_t shared = below(m, 3) ? below(m, POSITIONS) : 0;
    for (uint32_t i = 0; i < n; i++) {
        r->all_tokens[i] = (uint32_t)(i < shared ? mix(family, i) : mix(m->arrivals + 100, i));
        r->tokens[i] = i < r->r.n_prompt ? r->all_tokens[i] : 0xdeadbeef;
        r->chain[i] = mix(i ? r->chain[i - 1] : salt, r->all_tokens[i]);
    }
}

static void sim_add(sim *m) {
    record new = {.r = {.n_prompt = 1 + below(m, below(m, m->long_prompts) ? 60 : POSITIONS - DRAWS_MAX),
                        .max_draws = below(m, 8) ? 1 + below(m, below(m, 2) ? 40 : DRAWS_MAX) : 0,
                        .after = SCHED_NONE}};
    new.r.score_prompt = below(m, 4) == 0;
    new.r.needs_history = below(m, 3) == 0;
    new.r.chunk = below(m, 3) == 0 ? 1 + below(m, 30) : 0;
    new.r.priority = below(m, 4) == 0 ? (int32_t)below(m, 3) - 1 : 0;
    uint64_t salt = below(m, m->n_salts);
    uint32_t leader = below(m, m->so.max_requests), h = SCHED_NONE;
    make_tokens(m, &new, salt);
    if (m->r[leader].live && below(m, 4) == 0) new.r.after = leader;
    new.r.root = kv_key_root(&salt, sizeof salt);
    uint32_t free = 0;
    while (free < m->so.max_requests && m->r[free].live) free++;
    bool room = sched_count(m->s)<m->so.max_requests, keys = below(m, 8)> 0;
    if (room) m->r[free] = new;
    if (room && keys) {
        m->r[free].r.tokens = m->r[free].tokens;
        m->r[free].r.keys = m->r[free].keys;
    }
    SIM_CHECK(m, sched_add(m->s, room ? &m->r[free].r : &new.r, &h) == room);
    if (!room) return;
    record *r = &m->r[h];
    SIM_CHECK(m, h == free);
    r->live = true;
    r->arrival = m->arrivals++;
    r->fill = r->r.n_prompt;
    r->draws_until = r->r.max_draws;
    if (!m->quiet && below(m, 3) == 0 && r->r.max_draws) r->draws_until = 1 + below(m, r->r.max_draws);
}

/* Every key that was made is that of the tokens that were to come: none was made of tokens that were not known. */
static void check_keys(sim *m, const record *r) {
    kv_key key = r->r.root;
    for (uint32_t i = 0; r->r.keys && i < (r->r.n_prompt + r->r.max_draws) / KV_PAGE_TOKENS; i++) {
        if (r->keys[i].a == 0 && r->keys[i].b == 0) break;
        key = kv_key_next(key, r->all_tokens + (size_t)i * KV_PAGE_TOKENS);
        SIM_CHECK(m, kv_key_equal(key, r->keys[i]));
    }
}

static void sim_end(sim *m, uint32_t h, bool ok) {
    record *r = &m->r[h];
    SIM_CHECK(m, !sched_gone(m->s, h));
    r->ended = true;
    sched_end(m->s, h, ok);
    SIM_CHECK(m, sched_gone(m->s, h) == (r->n_in_flight == 0));
    if (sched_gone(m->s, h)) r->live = false;
    check_keys(m, r);
}

/* A new life starts behind what the cache has, after a preemption with everything that was drawn as its prompt. */
static void check_life(sim *m, record *r, const sched_piece *p) {
    SIM_CHECK(m, p->begins == (p->life + 1 != r->lives));
    if (!p->begins) return;
    SIM_CHECK(m, p->life + 1 > r->lives && p->first % KV_PAGE_TOKENS == 0 && (p->first == 0 || r->r.keys));
    if (p->life > 0) r->fill = r->r.n_prompt + r->n_draws;
    m->n_preempted += p->life + 1 - r->lives - (r->lives == 0);
    m->n_matched += p->first;
    SIM_CHECK(m, p->first < r->fill);
    if (r->r.score_prompt && r->n_scored < r->r.n_prompt) SIM_CHECK(m, p->first <= r->n_scored);
    r->lives = p->life + 1;
    r->next = p->first;
}

/* What numerics.md says of windows and chunks, in other words than the cache's. */
static bool visible(kv_kind kind, uint32_t query, uint32_t key) {
    if (!kind.window) return true;
    return kind.chunked ? query / kind.window == key / kind.window : query - key < kind.window;
}

/* The weights change: what was begun before is of no use to others. */
static void sim_forget(sim *m) {
    sched_forget(m->s);
    m->version++;
    for (uint32_t h = 0; h < HANDLES; h++) m->r[h].wrong |= m->r[h].live;
}

/* One piece against the record of its request. */
static void check_piece(sim *m, const sched_step *step, uint32_t i, uint32_t first_row) {
    const sched_piece *p = &step->pieces[i];
    record *r = &m->r[p->request];
    uint32_t end = p->first + p->n_tokens, n_prompt = r->r.n_prompt;
    SIM_CHECK(m, p->request < m->so.max_requests && r->live && !r->ended && !r->scheduled);
    check_life(m, r, p);
    SIM_CHECK(m, p->first == r->next && p->n_tokens > 0 && p->seq < m->so.max_seqs);
    SIM_CHECK(m, p->first >= r->fill ? p->n_tokens == 1 : end <= r->fill);
    if (r->r.chunk && p->first < r->fill) SIM_CHECK(m, p->n_tokens <= r->r.chunk);
    SIM_CHECK(m, p->draws == (end >= r->fill && r->n_draws < r->r.max_draws));
    if (p->draws) SIM_CHECK(m, p->draw == r->n_draws && p->n_rows >= 1 && end == n_prompt + r->n_draws);
    if (p->first >= r->fill) SIM_CHECK(m, p->draws);
    bool scores = r->r.score_prompt && r->n_scored < n_prompt;
    SIM_CHECK(m, p->n_rows == (!scores ? end >= r->fill : end > r->n_scored ? end - r->n_scored : 0));
    if (scores && end > r->n_scored) r->n_scored = end;
    bool known = end <= n_prompt + r->n_told;
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

/* The virtual device runs a step: pieces write their positions, then see what is visible of theirs. A step that
 * fails leaves rubbish. */
static void device_run(sim *m, const sched_step *step, bool fails) {
    for (uint32_t i = 0; i < step->n_pieces; i++) {
        const sched_piece *p = &step->pieces[i];
        for (uint32_t g = 0; g < m->ko.n_groups; g++)
            for (uint32_t k = p->first; k < p->first + p->n_tokens; k++) {
                uint32_t page = kv_cache_table(m->kv, p->seq, g)[k / KV_PAGE_TOKENS];
                m->content[g][page][k % KV_PAGE_TOKENS] =
                    fails ? m->n_steps + 7 : mix(m->r[p->request].chain[k], m->version);
            }
    }
    for (uint32_t i = 0; i < step->n_pieces && !fails; i++) {
        const sched_piece *p = &step->pieces[i];
        const record *r = &m->r[p->request];
        if (r->wrong) continue; /* a step before has failed, or the weights changed: its pages are right for nobody */
        for (uint32_t g = 0; g < m->ko.n_groups; g++) {
            bool right = true;
            for (uint32_t k = 0; k < p->first + p->n_tokens; k++) {
                if (k < p->first && !visible(m->ko.kind[g], p->first, k)) continue;
                uint32_t page = kv_cache_table(m->kv, p->seq, g)[k / KV_PAGE_TOKENS];
                right &= m->content[g][page][k % KV_PAGE_TOKENS] == mix(r->chain[k], m->version);
            }
            SIM_CHECK(m, right);
        }
    }
    for (uint32_t i = 0; i < step->n_pieces && fails; i++) m->r[step->pieces[i].request].wrong = true;
}

/* Whoever stands first in line is not left out for ever. */
static void check_patience(sim *m) {
    record *first = NULL;
    for (uint32_t h = 0; h < m->so.max_requests; h++) {
        record *r = &m->r[h];
        if (!r->live || r->ended) continue;
        if (!first || r->r.priority < first->r.priority ||
            (r->r.priority == first->r.priority && r->arrival < first->arrival))
            first = r;
    }
    if (!first || first->scheduled || first->next >= first->r.n_prompt + first->n_told) return;
    SIM_CHECK(m, ++first->n_idle < IDLE_MAX);
}

static bool sim_plan(sim *m) {
    uint32_t slot = (m->first + m->n_flight) % FLIGHT_MAX, n_tokens = 0, n_rows = 0;
    sched_step *step = &m->flight[slot];
    step->pieces = m->pieces[slot];
    for (uint32_t h = 0; h < HANDLES; h++) m->r[h].scheduled = false;
    sched_plan(m->s, step);
    if (m->n_steps % 8 == 0) sched_check(m->s);
    for (uint32_t i = 0; i < step->n_pieces; i++) {
        check_piece(m, step, i, n_rows);
        n_tokens += step->pieces[i].n_tokens;
        n_rows += step->pieces[i].n_rows;
        for (uint32_t j = 0; j < i; j++) SIM_CHECK(m, step->pieces[i].seq != step->pieces[j].seq);
    }
    SIM_CHECK(m, n_tokens == step->n_tokens && n_rows == step->n_rows);
    SIM_CHECK(m, n_tokens <= m->so.max_tokens && n_rows <= m->so.max_rows && step->n_pieces <= m->so.max_seqs);
    if (step->n_pieces == 0) return false;
    check_patience(m);
    m->fails[slot] = !m->quiet && below(m, m->calm) == 0;
    device_run(m, step, m->fails[slot]);
    m->n_flight++;
    m->n_steps++;
    m->n_tokens += n_tokens;
    return true;
}

/* One result, as the engine takes it: a token becomes known, the request may end. */
static void sim_result(sim *m, const sched_piece *p, bool fails) {
    record *r = &m->r[p->request];
    SIM_CHECK(m, r->live && r->n_in_flight > 0);
    if (r->ended) return;
    if (p->draws) {
        SIM_CHECK(m, p->draw == r->n_told);
        r->tokens[r->r.n_prompt + r->n_told] = r->all_tokens[r->r.n_prompt + r->n_told];
        r->n_told++;
    }
    bool scored = r->r.max_draws == 0 && p->first + p->n_tokens == r->r.n_prompt;
    if (!fails && !scored && !(p->draws && p->draw + 1 == r->draws_until)) return;
    if (!fails) {
        m->n_finished++;
        SIM_CHECK(m, scored || r->n_told == r->draws_until);
        SIM_CHECK(m, !r->r.score_prompt || r->n_scored == r->r.n_prompt);
    }
    sim_end(m, p->request, !fails);
}

static void sim_finish(sim *m) {
    sched_step *step = &m->flight[m->first];
    for (uint32_t i = 0; i < step->n_pieces; i++) sim_result(m, &step->pieces[i], m->fails[m->first]);
    for (uint32_t i = 0; i < step->n_pieces; i++) m->r[step->pieces[i].request].n_in_flight--;
    sched_done(m->s, step, !m->fails[m->first]);
    for (uint32_t i = 0; i < step->n_pieces; i++) {
        record *r = &m->r[step->pieces[i].request];
        SIM_CHECK(m, sched_gone(m->s, step->pieces[i].request) == (r->ended && r->n_in_flight == 0));
        if (r->live) check_keys(m, r);
        if (sched_gone(m->s, step->pieces[i].request)) r->live = false;
    }
    m->first = (m->first + 1) % FLIGHT_MAX;
    m->n_flight--;
}

static void sim_cancel_one(sim *m) {
    uint32_t h = below(m, m->so.max_requests);
    if (m->r[h].live && !m->r[h].ended) sim_end(m, h, true);
}

/* Fills the pipeline, finishes one step; with nobody new, everything must drain. */
static void sim_run(sim *m, uint32_t n_rounds) {
    for (uint32_t i = 0; i < n_rounds; i++) {
        if (below(m, 4) == 0) sim_add(m);
        if (!m->quiet && below(m, m->calm) == 0) sim_cancel_one(m);
        if (!m->quiet && below(m, 2000) == 0) sim_forget(m);
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
    for (uint32_t g = 0; g < m->ko.n_groups; g++) SIM_CHECK(m, kv_cache_room(m->kv, g) == m->ko.n_pages[g]);
    for (uint32_t h = 0; h < m->so.max_requests; h++) SIM_CHECK(m, sched_gone(m->s, h) && !m->r[h].live);
    sched_check(m->s);
}

/* SCHED_TEST_STEPS in the environment asks for another number of steps, SCHED_TEST_SEED for one seed alone. */
TEST(simulated_serving) {
    static sim m;
    const char *asked = getenv("SCHED_TEST_STEPS"), *named = getenv("SCHED_TEST_SEED");
    uint64_t most = asked ? strtoull(asked, NULL, 10) : 10000000, n_steps = 0, n_finished = 0, n_matched = 0;
    uint64_t n_preempted = 0, seed = named ? strtoull(named, NULL, 10) : 1;
    size_t bytes = base_mem_bytes();
    for (; n_steps < most; seed++) {
        sim_open(&m, seed);
        sim_run(&m, 500);
        sched_close(m.s);
        kv_cache_close(m.kv);
        n_steps += m.n_steps;
        n_finished += m.n_finished;
        n_matched += m.n_matched;
        n_preempted += m.n_preempted;
        if (named) return;
    }
    CHECKF(n_finished > most / 40 && n_matched > n_steps / 4 && n_preempted > 0,
           "%llu finished, %llu positions matched, %llu preempted", (unsigned long long)n_finished,
           (unsigned long long)n_matched, (unsigned long long)n_preempted);
    CHECK(base_mem_bytes() == bytes);
}

/* A placeholder is dropped, not kept for later, when the step directly after has no room for it. */
TEST(placeholder_only_directly_after) {
    kv_cache *kv;
    sched *s;
    kv_options ko = {.n_groups = 1, .n_pages = {20}, .n_seqs = 2, .positions_max = 100};
    CHECK(kv_cache_open(&kv, &ko, NULL) == FL_OK);
    sched_options so = {.max_seqs = 2, .max_tokens = 8, .max_rows = 1, .max_requests = 4, .max_in_flight = 3, .kv = kv};
    CHECK(sched_open(&s, &so, NULL) == FL_OK);
    uint32_t a, b;
    sched_piece pieces[3][2];
    sched_step step[3] = {{.pieces = pieces[0]}, {.pieces = pieces[1]}, {.pieces = pieces[2]}};
    CHECK(sched_add(s, &(sched_request){.n_prompt = 2, .max_draws = 5, .after = SCHED_NONE}, &a));
    CHECK(sched_add(s, &(sched_request){.n_prompt = 2, .max_draws = 5, .after = SCHED_NONE}, &b));
    sched_plan(s, &step[0]);
    CHECK(step[0].n_pieces == 1 && pieces[0][0].request == a && pieces[0][0].draws &&
          pieces[0][0].drawn_row == SCHED_NONE);
    sched_plan(s, &step[1]);
    CHECK(step[1].n_pieces == 1 && pieces[1][0].request == a && pieces[1][0].drawn_row == 0 && pieces[1][0].draw == 1);
    sched_end(s, a, true);
    CHECK(!sched_gone(s, a));
    sched_plan(s, &step[2]);
    CHECK(step[2].n_pieces == 1 && pieces[2][0].request == b);
    for (int i = 0; i < 3; i++) {
        sched_done(s, &step[i], true);
        CHECK(sched_gone(s, a) == (i >= 1));
    }
    sched_end(s, b, true);
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
