/* Prefix caching and preemption: what an answer is never depends on them, only what it costs.
 *
 * Requests that share prefixes run one by one on an engine without prefix caching, then all together on one whose
 * cache is so small that requests are preempted, with steps in flight. Logits, draws and texts must be equal. */
#include "base/mem.h"
#include "unit/engine/run.h"

enum { N = 24, PROMPT_MAX = 120 };

static const tiny_model models[] = {
    {.arch = "llama", .types = {DTYPE_Q8_0, DTYPE_F32}, .n_types = 2},
    {.arch = "gemma3", .window = 40, .types = {DTYPE_Q4_0}, .n_layers = 3},
};

static fl_engine_info info_of(fl_engine *e) {
    fl_engine_info i;
    fl_engine_info_init(&i);
    fl_engine_get_info(e, &i);
    return i;
}

static fl_engine_options options(const char *device, uint64_t cache_tokens) {
    fl_engine_options o;
    fl_engine_options_init(&o);
    o.device = device;
    o.n_threads = 1;
    o.max_model_len = 384;
    o.max_num_seqs = 8;
    o.max_num_batched_tokens = 64;
    o.max_logit_rows = 64;
    o.kv_cache_tokens = cache_tokens;
    o.steps_in_flight = 3;
    return o;
}

/* The first tokens are those of one of three families, the rest the request's own. */
static fl_request_options make(uint32_t index, uint32_t *prompt) {
    uint64_t seed = index + 1;
    uint32_t n = 30 + test_random_below(&seed, PROMPT_MAX - 30), shared = test_random_below(&seed, n);
    run_prompt(prompt, n, 96, seed);
    run_prompt(prompt, shared, 96, 1000 + index % 3);
    fl_request_options o = run_options(prompt, n, 60 + test_random_below(&seed, 150));
    o.seed = seed;
    o.prompt_logprobs = index % 5 == 0;
    o.frequency_penalty = index % 4 == 1 ? 0.5f : 0;
    o.priority = index % 7 == 0 ? -1 : 0;
    return o;
}

static void check_together(const tiny_model *tiny, const char *device) {
    static transcript alone[N], together[N];
    static uint32_t prompts[N][PROMPT_MAX];
    fl_model *m = tiny_open(tiny);
    fl_engine_options o = options("cpu", 0);
    o.no_prefix_caching = true;
    fl_engine *e = run_engine(m, &o);
    for (uint32_t i = 0; i < N; i++) {
        fl_request_options r = make(i, prompts[i]);
        CHECK(run_one(&alone[i], e, &r));
    }
    CHECK(info_of(e).n_cached_tokens == 0);
    fl_engine_close(e);
    o = options(device, 500);
    o.page_shuffle_seed = 3;
    e = run_engine(m, &o);
    for (int round = 0; round < 2; round++) {
        for (uint32_t i = 0; i < N; i++) CHECK(run_add(&together[i], e, make(i, prompts[i])));
        for (uint32_t i = 0; i < N; i++) {
            run_read(&together[i]);
            const char *what = run_differ(&alone[i], &together[i]);
            CHECKF(!what, "%s: %s on %s, request %u, round %d", what, tiny->arch, device, i, round);
        }
    }
    fl_engine_info info = info_of(e);
    CHECKF(info.n_cached_tokens > 500 && info.n_preemptions > 5, "%llu cached, %llu preempted",
           (unsigned long long)info.n_cached_tokens, (unsigned long long)info.n_preemptions);
    CHECK(info.n_running == 0 && info.n_waiting == 0 && info.n_step_allocations == 0);
    fl_engine_close(e);
    fl_model_close(m);
}

TEST(answers_do_not_depend_on_the_cache) {
    size_t bytes = base_mem_bytes();
    for (int i = 0; i < 2; i++) {
        check_together(&models[i], "cpu");
        check_together(&models[i], "sim");
    }
    CHECK(base_mem_bytes() == bytes);
}

static uint32_t cached(fl_engine *e, const uint32_t *prompt, uint32_t n, uint32_t n_draw, const char *salt,
                       transcript *t) {
    fl_request_options o = run_options(prompt, n, n_draw);
    o.cache_salt = salt;
    CHECK(run_add(t, e, o));
    fl_request *r = t->r;
    fl_event ev;
    fl_event_init(&ev);
    do {
        t->status = fl_request_next(r, &ev, -1, &t->err);
        run_note(t, &ev);
    } while (ev.kind != FL_EVENT_DONE);
    fl_request_stats s;
    fl_request_stats_init(&s);
    fl_request_get_stats(r, &s);
    fl_request_close(r);
    return s.n_cached;
}

/* The second turn of a chat begins behind the first, sliding layers included; another salt finds nothing. */
TEST(a_second_turn_begins_behind_the_first) {
    static transcript t, u;
    static uint32_t prompt[300];
    for (int i = 0; i < 2; i++) {
        fl_model *m = tiny_open(&models[i]);
        fl_engine_options o = options("cpu", 0);
        fl_engine *e = run_engine(m, &o);
        run_prompt(prompt, 150, 96, 9);
        CHECK(cached(e, prompt, 150, 50, "mine", &t) == 0);
        memcpy(prompt + 150, t.tokens, 50 * sizeof *prompt);
        run_prompt(prompt + 200, 20, 96, 10);
        CHECK(cached(e, prompt, 220, 30, "mine", &t) == 192); /* 199 positions are in the cache: 6 full pages */
        CHECK(cached(e, prompt, 220, 30, "others", &u) == 0);
        CHECK(cached(e, prompt, 220, 30, NULL, &u) == 0);
        CHECK(t.n_tokens == 30 && memcmp(t.tokens, u.tokens, sizeof t.tokens) == 0);
        CHECK(cached(e, prompt, 192, 30, NULL, &u) == 160); /* the last token is always computed */
        fl_engine_close(e);
        fl_model_close(m);
    }
}

/* Four answers to one prompt that arrive together compute it once. */
TEST(equal_prompts_are_computed_once) {
    static transcript t[4];
    static uint32_t prompt[200];
    fl_model *m = tiny_open(&models[0]);
    fl_engine_options o = options("cpu", 0);
    fl_engine *e = run_engine(m, &o);
    run_prompt(prompt, 200, 96, 4);
    for (uint32_t i = 0; i < 4; i++) {
        fl_request_options r = run_options(prompt, 200, 10);
        r.seed = i;
        CHECK(run_add(&t[i], e, r));
    }
    for (uint32_t i = 0; i < 4; i++) run_read(&t[i]);
    CHECK(info_of(e).n_cached_tokens == 3 * 192 && info_of(e).n_prompt_tokens == 200 + 3 * 8);
    CHECK(memcmp(t[0].tokens, t[1].tokens, sizeof t[0].tokens) != 0);
    fl_engine_close(e);
    fl_model_close(m);
}

/* New weights: nothing computed with the old ones is found. */
TEST(new_weights_empty_the_cache) {
    static transcript t;
    static uint32_t prompt[100];
    fl_model *m = tiny_open(&models[0]);
    fl_engine_options o = options("cpu", 0);
    fl_engine *e = run_engine(m, &o);
    run_prompt(prompt, 100, 96, 4);
    CHECK(cached(e, prompt, 100, 5, NULL, &t) == 0 && cached(e, prompt, 100, 5, NULL, &t) == 96);
    float ones[64];
    for (int i = 0; i < 64; i++) ones[i] = 1;
    fl_err err;
    fl_status st = fl_engine_write_weight(e, "output_norm.weight", 0, 1, ones, sizeof ones, &err);
    CHECKF(st == FL_OK, "%s", err.msg);
    CHECK(cached(e, prompt, 100, 5, NULL, &t) == 0 && cached(e, prompt, 100, 5, NULL, &t) == 96);
    fl_engine_close(e);
    fl_model_close(m);
}
