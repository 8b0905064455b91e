/* The background thread: many callers adding, reading, cancelling and closing at once, the engine stopped and
 * started in between, weights written by another thread. Meant to run under a thread sanitizer too. */
#include "base/mem.h"
#include "base/thread.h"
#include "unit/engine/run.h"

#include <stdatomic.h>

enum { CALLERS = 4, ROUNDS = 30, KINDS = 5 };

static const tiny_model tiny = {.arch = "gemma3", .window = 40, .types = {DTYPE_Q8_0}, .embed = DTYPE_F32, .seed = 5};
static transcript want[KINDS];
static uint32_t prompts[KINDS][80];

static fl_request_options request(uint32_t kind) {
    fl_request_options o = run_options(prompts[kind], 4 + kind * 17, 5 + kind * 5);
    o.prompt_logprobs = kind == 1;
    o.frequency_penalty = kind == 2 ? 0.3f : 0;
    o.prefill_chunk = kind == 3 ? 9 : 0;
    return o;
}

static void prepare(fl_engine *e) {
    for (uint32_t k = 0; k < KINDS; k++) {
        run_prompt(prompts[k], 80, 96, k + 1);
        fl_request_options o = request(k);
        CHECK(run_one(&want[k], e, &o));
    }
}

typedef struct {
    fl_engine *e;
    uint64_t seed;
    pthread_t thread;
    transcript t;
    uint32_t n_wrong, n_finished;
    atomic_bool done;
} caller;

/* One request in a random manner. */
static void call_once(caller *c) {
    uint32_t kind = test_random_below(&c->seed, KINDS), manner = test_random_below(&c->seed, 6);
    if (!run_add(&c->t, c->e, request(kind))) {
        c->n_wrong++;
        return;
    }
    fl_event ev;
    fl_event_init(&ev);
    uint32_t n_before = manner < 2 ? test_random_below(&c->seed, 12) : 0;
    for (uint32_t i = 0; i < n_before && ev.kind != FL_EVENT_DONE; i++) {
        c->t.status = fl_request_next(c->t.r, &ev, manner ? 1 : -1, &c->t.err);
        run_note(&c->t, &ev);
    }
    if (manner == 0) fl_request_cancel(c->t.r);
    if (manner == 1) {
        fl_request_close(c->t.r); /* not read to the end */
        return;
    }
    if (ev.kind == FL_EVENT_DONE)
        fl_request_close(c->t.r);
    else
        run_read(&c->t);
    if (manner == 0) return;
    c->n_finished++;
    if (run_differ(&want[kind], &c->t)) c->n_wrong++;
}

static void *call_many(void *arg) {
    caller *c = arg;
    for (int i = 0; i < ROUNDS; i++) call_once(c);
    atomic_store(&c->done, true);
    return NULL;
}

static void serve_callers(const char *device, uint32_t in_flight) {
    static caller callers[CALLERS];
    fl_model *m = tiny_open(&tiny);
    fl_engine_options o = {.size = sizeof o,
                           .device = device,
                           .n_threads = 2,
                           .steps_in_flight = in_flight,
                           .max_num_seqs = 3,
                           .max_model_len = 128,
                           .opt_level = -1};
    fl_engine *e = run_engine(m, &o);
    prepare(e);
    CHECK(fl_engine_start(e, NULL) == FL_OK && fl_engine_start(e, NULL) == FL_OK);
    bool busy;
    CHECK(fl_engine_step(e, &busy, NULL) == FL_EINVAL);
    for (uint32_t i = 0; i < CALLERS; i++) {
        callers[i].e = e;
        callers[i].seed = i + 1;
        callers[i].n_wrong = callers[i].n_finished = 0;
        atomic_store(&callers[i].done, false);
        CHECK(pthread_create(&callers[i].thread, NULL, call_many, &callers[i]) == 0);
    }
    for (bool all = false; !all;) {
        fl_engine_stop(e);
        (void)usleep(300); /* the callers run steps themselves meanwhile */
        CHECK(fl_engine_start(e, NULL) == FL_OK);
        (void)usleep(2000);
        fl_engine_info info;
        fl_engine_info_init(&info);
        fl_engine_get_info(e, &info);
        CHECK(info.n_step_allocations == 0);
        all = true;
        for (uint32_t i = 0; i < CALLERS; i++) all &= atomic_load(&callers[i].done);
    }
    for (uint32_t i = 0; i < CALLERS; i++) {
        pthread_join(callers[i].thread, NULL);
        CHECK(callers[i].n_wrong == 0 && callers[i].n_finished > 5);
    }
    fl_engine_close(e); /* with its thread running */
    fl_model_close(m);
}

TEST(many_callers_on_cpu) { serve_callers("cpu", 1); }
TEST(many_callers_on_sim) { serve_callers("sim", 4); }

static void *read_all(void *arg) {
    run_read(arg);
    return NULL;
}

/* A reader that waits for the background thread takes over soon when that is stopped. */
TEST(readers_go_on_after_a_stop) {
    fl_model *m = tiny_open(&tiny);
    fl_engine *e = run_engine(m, NULL);
    prepare(e);
    for (int i = 0; i < 5; i++) {
        pthread_t thread;
        transcript *t = malloc(sizeof *t);
        if (!t) abort();
        t->logits = NULL;
        CHECK(fl_engine_start(e, NULL) == FL_OK);
        run_prompt(prompts[0], 4, 96, 1);
        fl_request_options o = run_options(prompts[0], 4, 600);
        CHECK(run_add(t, e, o));
        double start = base_now();
        CHECK(pthread_create(&thread, NULL, read_all, t) == 0);
        (void)usleep(1000);
        fl_engine_stop(e);
        pthread_join(thread, NULL);
        CHECKF(base_now() - start < 30, "the reader slept %.0f seconds", base_now() - start);
        CHECK(t->status == FL_OK && t->n_tokens == 600);
        free(t);
    }
    fl_engine_close(e);
    fl_model_close(m);
}

/* A weight is written between two steps of a long answer, not after its end. */
TEST(writers_get_between_steps) {
    fl_model *m = tiny_open(&tiny);
    fl_engine *e = run_engine(m, NULL);
    float ones[64];
    for (int i = 0; i < 64; i++) ones[i] = 1;
    CHECK(fl_engine_write_weight(e, "output_norm.weight", 0, 1, ones, sizeof ones, NULL) == FL_OK);
    prepare(e);
    CHECK(fl_engine_start(e, NULL) == FL_OK);
    uint32_t n_late = 0;
    for (int i = 0; i < 10; i++) {
        static transcript t;
        fl_request_options o = run_options(prompts[0], 4, 900);
        CHECK(run_add(&t, e, o));
        fl_event ev;
        fl_event_init(&ev);
        while (ev.kind != FL_EVENT_TOKEN) CHECK(fl_request_next(t.r, &ev, -1, NULL) == FL_OK);
        CHECK(fl_engine_write_weight(e, "output_norm.weight", 0, 1, ones, sizeof ones, NULL) == FL_OK);
        fl_request_stats s;
        fl_request_stats_init(&s);
        fl_request_get_stats(t.r, &s);
        n_late += s.n_output > 100;
        fl_request_close(t.r);
    }
    CHECKF(n_late < 8, "%u of 10 writes waited for more than 100 tokens", n_late); /* a busy machine may delay a few */
    fl_engine_close(e);
    fl_model_close(m);
}
