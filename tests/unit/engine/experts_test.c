/* Models with experts and latent attention, from the folders of tests/golden/tiny: every allocation of opening fails in
 * turn (bits_test.c has the same models). */
#include "base/mem.h"
#include "unit/engine/run.h"

static const char *const folders[] = {"mixtral", "qwen3-moe-bf16", "gpt-oss", "llama4", "deepseek-v2", "deepseek-v3"};
enum { FOLDERS = sizeof folders / sizeof folders[0] };

static fl_model *open_folder(const char *name) {
    char path[256];
    fl_model *m;
    fl_err err;
    (void)snprintf(path, sizeof path, "tests/golden/tiny/%s", name);
    CHECKF(fl_model_open(&m, path, &err) == FL_OK, "%s", err.msg);
    return m;
}

static fl_engine_options options(const char *device, uint32_t n_threads) {
    fl_engine_options o;
    fl_engine_options_init(&o);
    o.device = device;
    o.n_threads = n_threads;
    o.max_num_seqs = 4;
    o.max_num_batched_tokens = 48;
    o.max_model_len = 200;
    return o;
}

TEST(open_shape_survives_each_failing_allocation) {
    size_t bytes = base_mem_bytes();
    for (uint64_t n = 1;; n++) {
        fl_model *m;
        fl_err err = {0};
        base_mem_fail_at(n);
        fl_status st = fl_model_open_shape(&m, "qwen3-30b-a3b", "q4_0", &err);
        bool failed = base_mem_failed();
        base_mem_fail_at(0);
        CHECKF(failed ? st == FL_ENOMEM && !m && err.msg[0] : st == FL_OK, "allocation %u: %s", (unsigned)n, err.msg);
        fl_model_close(m);
        CHECK(base_mem_bytes() == bytes);
        if (!failed) break;
    }
}

TEST(engine_open_survives_each_failing_allocation) {
    for (int i = 0; i < FOLDERS; i++) {
        fl_model *m = open_folder(folders[i]);
        size_t bytes = base_mem_bytes();
        for (uint64_t n = 1;; n++) {
            fl_engine_options o = options("cpu", 1);
            fl_engine *e;
            fl_err err = {0};
            base_mem_fail_at(n);
            fl_status st = fl_engine_open(&e, m, &o, &err);
            bool failed = base_mem_failed();
            base_mem_fail_at(0);
            CHECKF(failed ? st == FL_ENOMEM && !e && err.msg[0] : st == FL_OK, "%s, allocation %u: %s", folders[i],
                   (unsigned)n, err.msg);
            fl_engine_close(e);
            CHECK(base_mem_bytes() == bytes);
            if (!failed) break;
        }
        fl_model_close(m);
    }
}
