/* The cache's bookkeeping against a model that only remembers who owns what.
 *
 * A seeded walk takes, extends, slides and drops sequences the way the scheduler does (each
 * position once, at most `step` at a time). The model knows which pages a sequence can see; no
 * page may have two owners that see it, and what was set aside must always be there. */
#include "base/mem.h"
#include "kv/cache.h"
#include "test.h"

#include <string.h>

enum { SEQS = 6, PAGES_MAX = 96, POSITIONS = 700 };

typedef struct {
    kv_cache *c;
    kv_options o;
    uint32_t step;
    bool taken[SEQS];
    uint32_t length[SEQS], limit[SEQS]; /* positions that exist, and that were asked for */
    uint32_t query[SEQS];               /* the first position of the last step */
    uint32_t promised[KV_GROUPS_MAX];
} walk;

static uint32_t needed(const walk *w, uint32_t group, uint32_t limit) {
    return kv_cache_pages_needed(w->o.window[group], limit, w->step);
}

/* The first page of a group that the query at `position` sees. */
static uint32_t first_visible(uint32_t window, uint32_t position) {
    return window && position + 1 > window ? (position + 1 - window) / KV_PAGE_TOKENS : 0;
}

/* Every page that a sequence may still read or write has one owner. */
static bool pages_are_distinct(const walk *w) {
    for (uint32_t g = 0; g < w->o.n_groups; g++) {
        bool owned[PAGES_MAX] = {false};
        uint32_t n = 0;
        for (uint32_t s = 0; s < SEQS; s++) {
            if (!w->taken[s]) continue;
            const uint32_t *table = kv_cache_table(w->c, s, g);
            uint32_t first = first_visible(w->o.window[g], w->query[s]);
            for (uint32_t p = first; p * KV_PAGE_TOKENS < w->length[s]; p++, n++) {
                if (table[p] >= w->o.n_pages[g] || owned[table[p]]) return false;
                owned[table[p]] = true;
            }
        }
        if (n + kv_cache_free_pages(w->c, g) > w->o.n_pages[g]) return false;
    }
    return true;
}

static void walk_take(walk *w, uint64_t *seed) {
    uint32_t limit = 1 + test_random_below(seed, POSITIONS), free_seq = SEQS;
    bool room = true;
    for (uint32_t s = SEQS; s-- > 0;)
        if (!w->taken[s]) free_seq = s;
    for (uint32_t g = 0; g < w->o.n_groups; g++) room &= w->promised[g] + needed(w, g, limit) <= w->o.n_pages[g];
    uint32_t seq = kv_cache_take_seq(w->c, limit, w->step);
    CHECK((seq != KV_NONE) == (room && free_seq < SEQS));
    if (seq == KV_NONE) return;
    CHECK(!w->taken[seq]);
    w->taken[seq] = true;
    w->length[seq] = w->query[seq] = 0;
    w->limit[seq] = limit;
    for (uint32_t g = 0; g < w->o.n_groups; g++) w->promised[g] += needed(w, g, limit);
}

static void walk_grow(walk *w, uint32_t s, uint64_t *seed) {
    uint32_t left = w->limit[s] - w->length[s], n = 1 + test_random_below(seed, w->step);
    if (left == 0) return;
    if (n > left) n = left;
    w->query[s] = w->length[s];
    kv_cache_slide(w->c, s, w->length[s]);
    kv_cache_extend(w->c, s, w->length[s] + n);
    w->length[s] += n;
}

static void walk_drop(walk *w, uint32_t s) {
    kv_cache_drop_seq(w->c, s);
    w->taken[s] = false;
    for (uint32_t g = 0; g < w->o.n_groups; g++) w->promised[g] -= needed(w, g, w->limit[s]);
}

static void run_walk(uint64_t seed, uint32_t n_steps) {
    const uint64_t named = seed;
    walk w = {.o = {.n_groups = 1 + test_random_below(&seed, 3), .n_seqs = SEQS, .positions_max = POSITIONS}};
    w.step = 1 + test_random_below(&seed, 100);
    if (test_random_below(&seed, 2)) w.o.shuffle_seed = seed | 1;
    for (uint32_t g = 0; g < w.o.n_groups; g++) {
        w.o.window[g] = test_random_below(&seed, 2) ? 1 + test_random_below(&seed, 200) : 0;
        w.o.n_pages[g] = test_random_below(&seed, PAGES_MAX);
    }
    CHECK(kv_cache_open(&w.c, &w.o, NULL) == FL_OK);
    for (uint32_t i = 0; i < n_steps; i++) {
        uint32_t what = test_random_below(&seed, 16), s = test_random_below(&seed, SEQS);
        if (what == 0)
            walk_take(&w, &seed);
        else if (what == 1 && w.taken[s])
            walk_drop(&w, s);
        else if (w.taken[s])
            walk_grow(&w, s, &seed);
        kv_cache_check(w.c);
        if (i % 16 == 0) CHECKF(pages_are_distinct(&w), "two owners of a page, seed %llu", (unsigned long long)named);
    }
    for (uint32_t s = 0; s < SEQS; s++)
        if (w.taken[s]) walk_drop(&w, s);
    for (uint32_t g = 0; g < w.o.n_groups; g++) CHECK(kv_cache_free_pages(w.c, g) == w.o.n_pages[g]);
    kv_cache_check(w.c);
    kv_cache_close(w.c);
}

TEST(random_walks) {
    size_t bytes = base_mem_bytes();
    for (uint64_t seed = 1; seed <= 200; seed++) run_walk(seed, 2000);
    CHECK(base_mem_bytes() == bytes);
}

/* A sequence that slides through many windows needs only what was set aside, at every alignment of window and step. */
TEST(windows_fit_in_what_is_set_aside) {
    for (uint32_t window = 1; window < 140; window++)
        for (uint32_t step = 1; step < 80; step += window % 7 + 1) {
            kv_options o = {.n_groups = 1, .window = {window}, .n_seqs = 1, .positions_max = 500};
            o.n_pages[0] = kv_cache_pages_needed(window, 500, step);
            kv_cache *c;
            CHECK(kv_cache_open(&c, &o, NULL) == FL_OK);
            uint32_t s = kv_cache_take_seq(c, 500, step);
            CHECK(s == 0);
            for (uint32_t at = 0; at < 500; at += step) {
                kv_cache_slide(c, s, at);
                kv_cache_extend(c, s, at + step < 500 ? at + step : 500);
            }
            kv_cache_check(c);
            kv_cache_close(c);
        }
}

TEST(pages_needed) {
    CHECK(kv_cache_pages_needed(0, 0, 8) == 0);
    CHECK(kv_cache_pages_needed(0, 1, 8) == 1);
    CHECK(kv_cache_pages_needed(0, 33, 8) == 2);
    CHECK(kv_cache_pages_needed(0, UINT32_MAX, 8) == 1u << 27);
    CHECK(kv_cache_pages_needed(64, 64, 8) == 2);
    CHECK(kv_cache_pages_needed(64, 100000, 32) == 4);
    CHECK(kv_cache_pages_needed(UINT32_MAX, 320, UINT32_MAX) == 10);
}

/* Pages that slid out keep their number in the table: a step launched before may still read them. */
TEST(numbers_stay_after_sliding) {
    kv_options o = {.n_groups = 1, .window = {32}, .n_pages = {8}, .n_seqs = 2, .positions_max = 256};
    kv_cache *c;
    CHECK(kv_cache_open(&c, &o, NULL) == FL_OK);
    uint32_t s = kv_cache_take_seq(c, 256, 32);
    kv_cache_extend(c, s, 64);
    uint32_t first = kv_cache_table(c, s, 0)[0];
    kv_cache_slide(c, s, 64);
    CHECK(kv_cache_free_pages(c, 0) == 7);
    kv_cache_extend(c, s, 96);
    CHECK(kv_cache_table(c, s, 0)[0] == first);
    kv_cache_close(c);
}

TEST(shuffle_is_a_permutation) {
    bool differ = false;
    for (uint64_t seed = 0; seed < 20; seed++) {
        kv_options o = {.n_groups = 1, .n_pages = {64}, .n_seqs = 1, .positions_max = 64 * 32, .shuffle_seed = seed};
        bool seen[64] = {false};
        kv_cache *c;
        CHECK(kv_cache_open(&c, &o, NULL) == FL_OK);
        kv_cache_extend(c, kv_cache_take_seq(c, 64 * 32, 1), 64 * 32);
        for (uint32_t p = 0; p < 64; p++) {
            uint32_t page = kv_cache_table(c, 0, 0)[p];
            CHECK(page < 64 && !seen[page]);
            seen[page] = true;
            if (seed == 0)
                CHECK(page == p);
            else
                differ |= page != p;
        }
        kv_cache_close(c);
    }
    CHECK(differ);
}

TEST(open_survives_each_failing_allocation) {
    size_t bytes = base_mem_bytes();
    kv_options o = {.n_groups = 3, .n_pages = {4, 5, 6}, .window = {0, 32, 64}, .n_seqs = 2, .positions_max = 100};
    for (uint64_t n = 1;; n++) {
        kv_cache *c;
        fl_err err;
        base_mem_fail_at(n);
        fl_status st = kv_cache_open(&c, &o, &err);
        bool failed = base_mem_failed();
        base_mem_fail_at(0);
        CHECK(failed ? st == FL_ENOMEM && !c : st == FL_OK);
        kv_cache_close(c);
        CHECK(base_mem_bytes() == bytes);
        if (!failed) break;
    }
}
