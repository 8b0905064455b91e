/* Every allocation and every device call fails in turn: an error, nothing leaks, the unharmed get the same bits, and
 * what comes next works. Requests that end in the middle, and long runs without an allocation. */
#include "base/fault.h"
#include "base/mem.h"
#include "base/thread.h"
#include "unit/engine/run.h"

enum { REQUESTS = 4 };

static transcript want[REQUESTS], got[REQUESTS];
static uint32_t prompts[REQUESTS][100];
static const tiny_model gemma = {.arch = "gemma3", .window = 40, .types = {DTYPE_Q8_0}};
static const tiny_model llama = {.arch = "llama", .types = {DTYPE_Q4_0}, .n_layers = 1};

static fl_engine_options sim_options(uint32_t in_flight) {
    fl_engine_options o;
    fl_engine_options_init(&o);
    o.device = "sim";
    o.n_threads = 1;
    o.steps_in_flight = in_flight;
    o.max_num_seqs = 3;
    o.max_num_batched_tokens = 40;
    o.max_model_len = 128;
    return o;
}

static fl_request_options request(uint32_t i) {
    run_prompt(prompts[i], 100, 96, i + 1);
    fl_request_options o = run_options(prompts[i], 5 + 30 * (i % 3), 6 + i);
    o.n_logprobs = i % 2 ? 3 : -1;
    o.prompt_logprobs = i == 1;
    o.presence_penalty = i == 2 ? 0.5f : 0;
    return o;
}

/* ---- memory ---- */

TEST(model_open_survives_each_failing_allocation) {
    char path[TINY_PATH_MAX];
    tiny_write(&gemma, path);
    size_t bytes = base_mem_bytes();
    for (uint64_t n = 1;; n++) {
        fl_model *m;
        fl_err err = {0};
        base_mem_fail_at(n);
        fl_status st = fl_model_open(&m, path, &err);
        bool failed = base_mem_failed();
        base_mem_fail_at(0);
        /* Some words of the tokenizer's patterns may be slower for want of memory; then it must still work. */
        uint32_t *ids = NULL;
        size_t n_ids;
        CHECKF(st == FL_OK || (failed && st == FL_ENOMEM && !m && err.msg[0]), "allocation %u: %s", (unsigned)n,
               err.msg);
        CHECK(st != FL_OK || (fl_tokenize(m, "abc d", 5, 0, &ids, &n_ids, NULL) == FL_OK && n_ids > 1));
        fl_free(ids);
        fl_model_close(m);
        CHECK(base_mem_bytes() == bytes);
        if (!failed) break;
    }
    (void)remove(path);
}

TEST(engine_open_survives_each_failing_allocation) {
    fl_model *m = tiny_open(&gemma);
    size_t bytes = base_mem_bytes();
    for (int device = 0; device < 2; device++)
        for (uint64_t n = 1;; n++) {
            fl_engine_options o = sim_options(2);
            if (!device) o.device = "cpu";
            fl_engine *e;
            fl_err err = {0};
            base_mem_fail_at(n);
            fl_status st = fl_engine_open(&e, m, &o, &err);
            bool failed = base_mem_failed();
            base_mem_fail_at(0);
            CHECKF(failed ? st == FL_ENOMEM && !e && err.msg[0] : st == FL_OK, "allocation %u: %s", (unsigned)n,
                   err.msg);
            if (!failed) {
                fl_request_options r = request(0);
                CHECK(run_one(&got[0], e, &r));
            }
            fl_engine_close(e);
            CHECK(base_mem_bytes() == bytes);
            if (!failed) break;
        }
    fl_model_close(m);
}

TEST(request_add_survives_each_failing_allocation) {
    fl_model *m = tiny_open(&gemma);
    fl_engine_options o = sim_options(3);
    const char *stops[] = {"abc", "xyz"};
    size_t held = base_mem_bytes();
    for (uint64_t n = 1;; n++) {
        fl_engine *e = run_engine(m, &o);
        fl_request_options r = request(1);
        r.presence_penalty = 1;
        r.stop = stops;
        r.n_stop = 2;
        base_mem_fail_at(n);
        bool added = run_add(&got[0], e, r), failed = base_mem_failed();
        base_mem_fail_at(0);
        CHECK(failed ? !added && got[0].status == FL_ENOMEM && !got[0].r : added);
        if (!added) added = run_add(&got[0], e, r);
        CHECK(added);
        run_read(&got[0]);
        CHECK(got[0].status == FL_OK);
        fl_engine_close(e);
        CHECK(base_mem_bytes() == held);
        if (!failed) break;
    }
    fl_model_close(m);
}

TEST(steps_allocate_nothing) {
    fl_model *m = tiny_open(&gemma);
    fl_engine_options o = sim_options(4);
    fl_engine *e = run_engine(m, &o);
    uint64_t n_output = 0, seed = 3;
    for (int round = 0; round < 40; round++) {
        for (uint32_t i = 0; i < REQUESTS; i++) CHECK(run_add(&got[i], e, request((i + (uint32_t)round) % REQUESTS)));
        if (test_random_below(&seed, 3) == 0) fl_request_cancel(got[1].r);
        uint64_t count = base_mem_count();
        for (bool busy = true; busy;) CHECK(fl_engine_step(e, &busy, NULL) == FL_OK);
        CHECK(base_mem_count() == count);
        for (uint32_t i = 0; i < REQUESTS; i++) {
            run_read(&got[i]);
            n_output += got[i].n_tokens;
        }
    }
    fl_engine_info info;
    fl_engine_info_init(&info);
    fl_engine_get_info(e, &info);
    CHECK(info.n_step_allocations == 0 && info.n_output_tokens == n_output && info.n_steps > 300);
    CHECK(info.weight_bytes > 50000 && info.kv_bytes > 10000 && info.activation_bytes > 1000 &&
          info.kv_cache_tokens >= 3 * 128);
    fl_engine_close(e);
    fl_model_close(m);
}

/* ---- the device ---- */

/* Opens, serves four requests at once, then one more. Returns how many failed. */
static uint32_t serve(const fl_model *m, const fl_engine_options *o, uint64_t n, bool *happened) {
    fl_engine *e;
    fl_err err = {0};
    uint32_t n_failed = 0;
    base_fault_arm(BASE_FAULT_DEVICE, n);
    fl_status st = fl_engine_open(&e, m, o, &err);
    if (st != FL_OK) {
        CHECKF(st == FL_EDEVICE && !e && base_fault_happened(BASE_FAULT_DEVICE), "call %u: %s", (unsigned)n, err.msg);
        *happened = true;
        return 1;
    }
    for (uint32_t i = 0; i < REQUESTS; i++) CHECK(run_add(&got[i], e, request(i)));
    for (uint32_t i = 0; i < REQUESTS; i++) {
        run_read(&got[i]);
        if (got[i].status == FL_OK) {
            const char *what = run_differ(&want[i], &got[i]);
            CHECKF(!what, "call %u, request %u: %s", (unsigned)n, i, what);
        } else {
            CHECK(got[i].status == FL_EDEVICE && got[i].finish == FL_FINISH_ERROR && got[i].err.msg[0]);
            CHECK(got[i].n_tokens <= want[i].n_tokens &&
                  memcmp(got[i].tokens, want[i].tokens, got[i].n_tokens * sizeof *got[i].tokens) == 0);
            n_failed++;
        }
    }
    *happened = base_fault_happened(BASE_FAULT_DEVICE);
    base_fault_arm(BASE_FAULT_DEVICE, 0);
    CHECK(run_add(&got[0], e, request(0)));
    run_read(&got[0]);
    CHECK(run_differ(&want[0], &got[0]) == NULL);
    fl_engine_close(e);
    return n_failed;
}

TEST(each_failing_device_call) {
    fl_model *m = tiny_open(&gemma);
    size_t bytes = base_mem_bytes();
    for (uint32_t depth = 1; depth <= 4; depth++) {
        fl_engine_options o = sim_options(depth);
        fl_engine *e = run_engine(m, &o);
        for (uint32_t i = 0; i < REQUESTS; i++) CHECK(run_add(&want[i], e, request(i)));
        for (uint32_t i = 0; i < REQUESTS; i++) run_read(&want[i]);
        fl_engine_close(e);
        uint32_t n_failed = 0;
        bool happened = true;
        for (uint64_t n = 1; happened; n++) {
            n_failed += serve(m, &o, n, &happened);
            CHECK(base_mem_bytes() == bytes);
        }
        CHECKF(n_failed > 60, "%u failures", n_failed);
    }
    fl_model_close(m);
}

TEST(failing_writes_of_weights) {
    fl_model *m = tiny_open(&gemma);
    fl_engine_options o = sim_options(2);
    fl_engine *e = run_engine(m, &o);
    float row[64] = {0};
    fl_err err;
    base_fault_arm(BASE_FAULT_DEVICE, 1);
    CHECK(fl_engine_write_weight(e, "output_norm.weight", 0, 1, row, sizeof row, &err) == FL_EDEVICE);
    base_fault_arm(BASE_FAULT_DEVICE, 1);
    CHECK(run_add(&got[0], e, request(0)));
    bool busy;
    CHECK(fl_engine_step(e, &busy, &err) == FL_EDEVICE && err.msg[0]);
    run_read(&got[0]);
    CHECK(got[0].status == FL_EDEVICE);
    CHECK(run_add(&got[0], e, request(0)));
    run_read(&got[0]);
    CHECK(got[0].status == FL_OK);
    fl_engine_close(e);
    fl_model_close(m);
}

/* ---- ends in the middle ---- */

TEST(cancel_and_close_at_every_step) {
    fl_model *m = tiny_open(&llama);
    size_t bytes = base_mem_bytes();
    fl_engine_options o = sim_options(3);
    fl_engine *e = run_engine(m, &o);
    fl_request_options r = request(2);
    r.prefill_chunk = 20;
    for (uint32_t i = 0; i < 2; i++) {
        CHECK(run_add(&want[i], e, i ? request(0) : r));
        run_read(&want[i]);
    }
    for (int way = 0; way < 3; way++)
        for (uint32_t n = 0; n < 20; n++) {
            CHECK(run_add(&got[0], e, r) && run_add(&got[1], e, request(0)));
            bool busy;
            for (uint32_t i = 0; i < n; i++) CHECK(fl_engine_step(e, &busy, NULL) == FL_OK);
            if (way == 0) fl_request_cancel(got[0].r);
            if (way < 2)
                run_read(&got[0]); /* way 1: to the end */
            else
                fl_request_close(got[0].r); /* way 2: never read */
            run_read(&got[1]);
            CHECK(run_differ(&want[1], &got[1]) == NULL);
            if (way == 1) CHECK(run_differ(&want[0], &got[0]) == NULL);
            if (way == 0) {
                CHECK(got[0].status == FL_OK && (got[0].finish == FL_FINISH_CANCELED || n > 6) &&
                      got[0].n_tokens <= want[0].n_tokens);
                CHECK(memcmp(got[0].tokens, want[0].tokens, got[0].n_tokens * sizeof *got[0].tokens) == 0);
            }
        }
    fl_engine_close(e);
    CHECK(base_mem_bytes() == bytes);
    fl_model_close(m);
}

TEST(waiting_has_an_end) {
    fl_model *m = tiny_open(&llama);
    fl_engine_options o = sim_options(1);
    fl_engine *e = run_engine(m, &o);
    fl_event ev;
    fl_event_init(&ev);
    CHECK(run_add(&got[0], e, request(0)));
    CHECK(fl_request_next(got[0].r, &ev, 0, NULL) == FL_OK && ev.kind == FL_EVENT_NONE && ev.n_text == 0 && ev.text);
    bool busy;
    CHECK(fl_engine_step(e, &busy, NULL) == FL_OK && busy);
    CHECK(fl_request_next(got[0].r, &ev, 0, NULL) == FL_OK && ev.kind == FL_EVENT_TOKEN);
    fl_request_close(got[0].r);
    /* Closing the engine with steps under way drains them. */
    CHECK(run_add(&got[0], e, request(0)));
    CHECK(fl_engine_step(e, &busy, NULL) == FL_OK);
    fl_request_close(got[0].r);
    fl_engine_close(e);
    fl_model_close(m);
}
