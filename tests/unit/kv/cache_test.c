/* The cache's bookkeeping against a model that only remembers who owns what.
 *
 * A seeded walk takes, extends, slides and drops sequences the way the scheduler does (each
 * position once, at most `step` at a time). The model knows which pages a sequence can see; no
 * page may have two owners that see it, and what one sequence alone needs must always fit. What is shared through names is
 * tested with the scheduler (sched/sched_test.c), by content. */
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
    uint32_t length[SEQS], query[SEQS]; /* positions that exist; the first position of the last step */
} walk;

/* Every page that a sequence may still read or write has one owner. */
static bool pages_are_distinct(const walk *w) {
    for (uint32_t g = 0; g < w->o.n_groups; g++) {
        bool owned[PAGES_MAX] = {false};
        uint32_t n = 0;
        for (uint32_t s = 0; s < SEQS; s++) {
            if (!w->taken[s]) continue;
            const uint32_t *table = kv_cache_table(w->c, s, g);
            uint32_t first = kv_first_visible(w->o.kind[g], w->query[s]) / KV_PAGE_TOKENS;
            for (uint32_t p = first; p * KV_PAGE_TOKENS < w->length[s]; p++, n++) {
                if (table[p] >= w->o.n_pages[g] || owned[table[p]]) return false;
                owned[table[p]] = true;
            }
        }
        if (n + kv_cache_room(w->c, g) > w->o.n_pages[g]) return false;
    }
    return true;
}

static void walk_take(walk *w) {
    uint32_t seq = kv_cache_take_seq(w->c), n = 0;
    for (uint32_t s = 0; s < SEQS; s++) n += w->taken[s];
    CHECK((seq != KV_NONE) == (n < SEQS));
    if (seq == KV_NONE) return;
    CHECK(!w->taken[seq]);
    w->taken[seq] = true;
    w->length[seq] = w->query[seq] = 0;
}

static void walk_grow(walk *w, uint32_t s, uint64_t *seed) {
    uint32_t left = POSITIONS - w->length[s], n = 1 + test_random_below(seed, w->step);
    if (n > left) n = left;
    w->query[s] = w->length[s];
    kv_cache_slide(w->c, s, w->length[s]);
    uint32_t reach = kv_cache_reach(w->c, s, w->length[s] + n);
    CHECK(reach <= w->length[s] + n);
    if (reach < w->length[s] + n) /* what it lacks is what hinders it */
        for (uint32_t g = 0, hinders = 0; g < w->o.n_groups; g++) {
            uint32_t pages = (w->length[s] + n + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
            uint32_t have = (w->length[s] + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
            hinders += pages - have > kv_cache_room(w->c, g);
            CHECK(hinders || g + 1 < w->o.n_groups);
        }
    if (reach <= w->length[s]) return;
    kv_cache_extend(w->c, s, reach);
    w->length[s] = reach;
}

static void walk_drop(walk *w, uint32_t s) {
    kv_cache_drop_seq(w->c, s);
    w->taken[s] = false;
}

static void run_walk(uint64_t seed, uint32_t n_steps) {
    const uint64_t named = seed;
    walk w = {.o = {.n_groups = 1 + test_random_below(&seed, 3), .n_seqs = SEQS, .positions_max = POSITIONS}};
    w.step = 1 + test_random_below(&seed, 100);
    if (test_random_below(&seed, 2)) w.o.shuffle_seed = seed | 1;
    for (uint32_t g = 0; g < w.o.n_groups; g++) {
        w.o.kind[g].window = test_random_below(&seed, 2) ? 1 + test_random_below(&seed, 200) : 0;
        w.o.kind[g].chunked = test_random_below(&seed, 2);
        w.o.n_pages[g] = test_random_below(&seed, PAGES_MAX);
    }
    CHECK(kv_cache_open(&w.c, &w.o, NULL) == FL_OK);
    for (uint32_t i = 0; i < n_steps; i++) {
        uint32_t what = test_random_below(&seed, 16), s = test_random_below(&seed, SEQS);
        if (what == 0)
            walk_take(&w);
        else if (what == 1 && w.taken[s])
            walk_drop(&w, s);
        else if (w.taken[s])
            walk_grow(&w, s, &seed);
        kv_cache_check(w.c);
        if (i % 16 == 0) CHECKF(pages_are_distinct(&w), "two owners of a page, seed %llu", (unsigned long long)named);
    }
    for (uint32_t s = 0; s < SEQS; s++)
        if (w.taken[s]) walk_drop(&w, s);
    for (uint32_t g = 0; g < w.o.n_groups; g++) CHECK(kv_cache_room(w.c, g) == w.o.n_pages[g]);
    kv_cache_check(w.c);
    kv_cache_close(w.c);
}

TEST(random_walks) {
    size_t bytes = base_mem_bytes();
    for (uint64_t seed = 1; seed <= 200; seed++) run_walk(seed, 2000);
    CHECK(base_mem_bytes() == bytes);
}

/* A sequence that slides through many windows or chunks needs only what kv_pages_needed() says, at every alignment. */
TEST(windows_fit_in_what_is_needed) {
    for (uint32_t window = 1; window < 140; window++)
        for (uint32_t step = 1; step < 80; step += window % 7 + 1)
            for (int chunked = 0; chunked < 2; chunked++) {
                kv_options o = {.n_groups = 1, .kind = {{window, chunked}}, .n_seqs = 1, .positions_max = 500};
                o.n_pages[0] = kv_pages_needed(o.kind[0], 500, step);
                kv_cache *c;
                CHECK(kv_cache_open(&c, &o, NULL) == FL_OK);
                uint32_t s = kv_cache_take_seq(c);
                CHECK(s == 0);
                for (uint32_t at = 0; at < 500; at += step) {
                    uint32_t end = at + step < 500 ? at + step : 500;
                    kv_cache_slide(c, s, at);
                    CHECK(kv_cache_reach(c, s, end) == end);
                    kv_cache_extend(c, s, end);
                }
                kv_cache_check(c);
                kv_cache_close(c);
            }
}

TEST(pages_needed) {
    const kv_kind all = {0};
    CHECK(kv_pages_needed(all, 0, 8) == 0);
    CHECK(kv_pages_needed(all, 1, 8) == 1);
    CHECK(kv_pages_needed(all, 33, 8) == 2);
    CHECK(kv_pages_needed(all, UINT32_MAX, 8) == 1u << 27);
    CHECK(kv_pages_needed((kv_kind){.window = 64}, 64, 8) == 2);
    CHECK(kv_pages_needed((kv_kind){.window = 64}, 100000, 32) == 4);
    CHECK(kv_pages_needed((kv_kind){.window = UINT32_MAX}, 320, UINT32_MAX) == 10);
}

/* ---- prefixes ---- */

enum { N_KEYS = 10 };

static void make_keys(kv_key keys[N_KEYS], const char *salt) {
    uint32_t tokens[KV_PAGE_TOKENS];
    for (uint32_t i = 0; i < KV_PAGE_TOKENS; i++) tokens[i] = i;
    for (uint32_t i = 0; i < N_KEYS; i++)
        keys[i] = kv_key_next(i ? keys[i - 1] : kv_key_root(salt, strlen(salt)), tokens);
}

/* Computes a sequence of N_KEYS pages step by step, names what is complete, and drops it. */
static void fill_and_drop(kv_cache *c, const kv_key keys[N_KEYS]) {
    uint32_t s = kv_cache_take_seq(c);
    for (uint32_t i = 0; i < N_KEYS; i++) {
        kv_cache_slide(c, s, i * KV_PAGE_TOKENS);
        kv_cache_extend(c, s, (i + 1) * KV_PAGE_TOKENS);
        kv_cache_name(c, s, i, keys[i]);
    }
    kv_cache_drop_seq(c, s);
}

static uint32_t hit(kv_cache *c, const kv_key *keys, uint32_t n) {
    uint32_t s = kv_cache_take_seq(c), positions = kv_cache_match(c, s, keys, n);
    kv_cache_check(c);
    kv_cache_drop_seq(c, s);
    return positions / KV_PAGE_TOKENS;
}

TEST(prefixes_are_found) {
    kv_key keys[N_KEYS], salted[N_KEYS];
    make_keys(keys, "");
    make_keys(salted, "other");
    kv_options o = {.n_groups = 1, .n_pages = {N_KEYS}, .n_seqs = 2, .positions_max = 32 * N_KEYS};
    kv_cache *c;
    CHECK(kv_cache_open(&c, &o, NULL) == FL_OK);
    CHECK(hit(c, keys, N_KEYS) == 0);
    fill_and_drop(c, keys);
    CHECK(kv_cache_cached(c, 0) == N_KEYS && kv_cache_room(c, 0) == N_KEYS);
    CHECK(hit(c, keys, N_KEYS) == N_KEYS && hit(c, keys, 4) == 4 && hit(c, salted, N_KEYS) == 0);
    /* The deepest pages go first. */
    uint32_t s = kv_cache_take_seq(c);
    kv_cache_extend(c, s, 3 * KV_PAGE_TOKENS);
    CHECK(hit(c, keys, N_KEYS) == N_KEYS - 3);
    kv_cache_drop_seq(c, s);
    kv_cache_forget(c);
    CHECK(hit(c, keys, N_KEYS) == 0 && kv_cache_cached(c, 0) == 0);
    kv_cache_check(c);
    kv_cache_close(c);
}

/* The second turn of a chat in a model with full and sliding layers: of the latter only the window is needed. */
TEST(sliding_layers_need_their_window_only) {
    kv_key keys[N_KEYS];
    make_keys(keys, "");
    kv_options o = {.n_groups = 2,
                    .kind = {{0}, {.window = 64}},
                    .n_pages = {2 * N_KEYS, 5},
                    .n_seqs = 2,
                    .positions_max = 32 * N_KEYS};
    kv_cache *c;
    CHECK(kv_cache_open(&c, &o, NULL) == FL_OK);
    fill_and_drop(c, keys);
    CHECK(kv_cache_cached(c, 1) == 5);
    CHECK(hit(c, keys, N_KEYS) == N_KEYS);
    CHECK(hit(c, keys, 6) == 0); /* pages 4 and 5 of the sliding group have been taken since */
    CHECK(hit(c, keys, 9) == 9);
    uint32_t s = kv_cache_take_seq(c);
    CHECK(kv_cache_match(c, s, keys, N_KEYS) == 32 * N_KEYS);
    CHECK(kv_cache_room(c, 0) == N_KEYS && kv_cache_room(c, 1) == 3);
    kv_cache_drop_seq(c, s);
    kv_cache_close(c);
}

/* Pages that slid out keep their number in the table: a step launched before may still read them. */
TEST(numbers_stay_after_sliding) {
    kv_options o = {.n_groups = 1, .kind = {{.window = 32}}, .n_pages = {8}, .n_seqs = 2, .positions_max = 256};
    kv_cache *c;
    CHECK(kv_cache_open(&c, &o, NULL) == FL_OK);
    uint32_t s = kv_cache_take_seq(c);
    kv_cache_extend(c, s, 64);
    uint32_t first = kv_cache_table(c, s, 0)[0];
    kv_cache_slide(c, s, 64);
    CHECK(kv_cache_room(c, 0) == 7);
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
        kv_cache_extend(c, kv_cache_take_seq(c), 64 * 32);
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
    kv_options o = {
        .n_groups = 3, .n_pages = {4, 5, 6}, .kind = {{0}, {32, false}, {64, true}}, .n_seqs = 2, .positions_max = 100};
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
