/* A request gives the same bits whatever happens around it.
 *
 * For each model and profile one request runs alone, its whole prompt in one step, on the reference
 * kernels, one thread, no fusing. Then it runs again in seeded settings: chunks, threads, neighbours,
 * shuffled pages, steps in flight, instruction sets, fusing. All logits, draws and texts must be equal. */
#include "base/mem.h"
#include "dev/cpu/kernels.h"
#include "unit/engine/run.h"

enum { NEIGHBOURS = 3, DRAWS = 14 };

static const struct {
    tiny_model m;
    uint32_t n_prompt;  /* 600: beyond the window, two chunks of keys, many pages */
    bool score;         /* logits of every prompt position */
    const char *folder; /* of tests/golden/tiny, instead of m */
} models[] = {
    {{.arch = "llama", .types = {DTYPE_Q4_0, DTYPE_Q8_0, DTYPE_F32}, .n_types = 3, .embed = DTYPE_Q8_0, .d_ff = 96},
     600,
     true,
     NULL},
    {{.arch = "gemma3",
      .window = 40,
      .types = {DTYPE_Q8_0, DTYPE_Q4_1, DTYPE_BF16},
      .n_types = 3,
      .embed = DTYPE_F16,
      .n_layers = 3},
     600,
     true,
     NULL},
    {{.arch = "llama",
      .types = {DTYPE_Q4_K, DTYPE_Q6_K},
      .n_types = 2,
      .embed = DTYPE_Q6_K,
      .d_model = 256,
      .d_ff = 256,
      .n_heads = 4,
      .n_kv_heads = 1,
      .d_k = 64,
      .biases = true,
      .n_layers = 1,
      .n_vocab = 1100,
      .head = true},
     70,
     false,
     NULL},
    {{.arch = "llama",
      .types = {DTYPE_Q5_K, DTYPE_Q2_K, DTYPE_IQ4_NL, DTYPE_Q5_1, DTYPE_IQ3_S, DTYPE_MXFP4, DTYPE_Q3_K},
      .n_types = 7,
      .embed = DTYPE_IQ4_XS,
      .d_model = 256,
      .d_ff = 256,
      .n_heads = 4,
      .n_kv_heads = 1,
      .d_k = 64,
      .n_layers = 1},
     70,
     false,
     NULL},
    {.folder = "mixtral", .n_prompt = 300, .score = true},
    {.folder = "qwen3-moe-bf16", .n_prompt = 300, .score = true},
    {.folder = "gpt-oss", .n_prompt = 300, .score = true},
    {.folder = "llama4", .n_prompt = 300, .score = true},
    {.folder = "deepseek-v2", .n_prompt = 300, .score = true},
    {.folder = "deepseek-v3", .n_prompt = 300, .score = true},
};
enum { N_MODELS = sizeof models / sizeof models[0] };

static const char *isa_of(uint32_t i) {
    uint32_t n;
    const cpu_kernels *const *all = cpu_kernels_all(&n);
    const cpu_kernels *k = all[i % n];
    return k->supported() ? k->isa : "scalar";
}

static fl_request_options subject(uint32_t model, const uint32_t *prompt) {
    fl_request_options o = run_options(prompt, models[model].n_prompt, DRAWS);
    o.prompt_logprobs = models[model].score;
    o.n_logprobs = 2;
    return o;
}

static fl_engine_options random_engine(uint64_t *seed, const char *profile) {
    static const uint32_t threads[] = {1, 2, 3, 8, 64}, batches[] = {40, 64, 512, 1024};
    fl_engine_options o;
    fl_engine_options_init(&o);
    o.device = test_random_below(seed, 2) ? "sim" : "cpu";
    o.cpu_isa = isa_of(test_random_below(seed, 8));
    o.compute = profile;
    o.n_threads = threads[test_random_below(seed, 5)];
    o.max_num_seqs = 4;
    o.max_num_batched_tokens = batches[test_random_below(seed, 4)];
    o.max_logit_rows = test_random_below(seed, 2) ? 30 + test_random_below(seed, 100) : 1024;
    o.steps_in_flight = 1 + test_random_below(seed, 4);
    o.opt_level = (int)test_random_below(seed, 3);
    o.page_shuffle_seed = test_random_below(seed, 1000);
    return o;
}

/* The request beside up to three others, in a random order of arrival. */
static void run_beside(transcript *t, fl_engine *e, fl_request_options o, uint32_t n_vocab, uint64_t *seed) {
    static transcript others[NEIGHBOURS];
    static uint32_t prompts[NEIGHBOURS][200];
    uint32_t n = test_random_below(seed, NEIGHBOURS + 1), at = test_random_below(seed, n + 1);
    for (uint32_t i = 0; i <= n; i++) {
        if (i == at) CHECK(run_add(t, e, o));
        if (i == n) break;
        uint32_t len = 1 + test_random_below(seed, 120);
        run_prompt(prompts[i], len, n_vocab, *seed + i);
        fl_request_options p = run_options(prompts[i], len, 1 + test_random_below(seed, 20));
        p.seed = *seed;
        p.prompt_logprobs = test_random_below(seed, 3) == 0;
        p.presence_penalty = test_random_below(seed, 3) == 0;
        CHECK(run_add(&others[i], e, p));
        if (test_random_below(seed, 4) == 0) fl_request_cancel(others[i].r);
    }
    run_read(t);
    for (uint32_t i = 0; i < n; i++) run_read(&others[i]);
}

static fl_model *open_model(uint32_t index) {
    char path[TINY_PATH_MAX];
    fl_model *m;
    fl_err err = {0};
    if (!models[index].folder) return tiny_open(&models[index].m);
    (void)snprintf(path, sizeof path, "tests/golden/tiny/%s", models[index].folder);
    CHECKF(fl_model_open(&m, path, &err) == FL_OK, "%s", err.msg);
    return m;
}

static void check_model(uint32_t index, const char *profile, uint64_t n_settings) {
    static transcript want, got;
    static uint32_t prompt[RUN_POSITIONS_MAX];
    fl_model *m = open_model(index);
    fl_model_info info;
    fl_model_info_init(&info);
    fl_model_get_info(m, &info);
    run_prompt(prompt, models[index].n_prompt, info.n_vocab, index + 1);
    fl_engine_options plain = {.size = sizeof plain,
                               .cpu_isa = "scalar",
                               .compute = profile,
                               .n_threads = 1,
                               .max_num_batched_tokens = 1024,
                               .max_logit_rows = 1024};
    fl_request_options o = subject(index, prompt);
    fl_engine *e = run_engine(m, &plain);
    CHECK(run_one(&want, e, &o));
    fl_engine_close(e);
    CHECK(want.n_tokens == DRAWS && want.n_rows == DRAWS + (models[index].score ? models[index].n_prompt - 1 : 0));
    for (uint64_t i = 0; i < n_settings; i++) {
        static const uint32_t chunks[] = {0, 1, 7, 64};
        uint64_t seed = i * 1000 + index * 10;
        fl_engine_options eo = random_engine(&seed, profile);
        o.prefill_chunk = chunks[test_random_below(&seed, 4)];
        if (eo.n_threads > 3 && o.prefill_chunk == 1) o.prefill_chunk = 7; /* time */
        e = run_engine(m, &eo);
        run_beside(&got, e, o, info.n_vocab, &seed);
        const char *what = run_differ(&want, &got);
        fl_engine_info ei;
        fl_engine_info_init(&ei);
        fl_engine_get_info(e, &ei);
        CHECKF(!what,
               "%s: model %u %s, setting %u: %s %s, %u threads, chunk %u, batch %u, rows %u, %u in flight, level %d",
               what, index, profile, (unsigned)i, eo.device, ei.cpu_isa, eo.n_threads, o.prefill_chunk,
               eo.max_num_batched_tokens, eo.max_logit_rows, eo.steps_in_flight, eo.opt_level);
        CHECK(ei.n_step_allocations == 0);
        fl_engine_close(e);
    }
    fl_model_close(m);
}

#define BITS(index, profile, n_settings)                                                                               \
    TEST(same_bits_##index##_##profile) {                                                                              \
        size_t bytes = base_mem_bytes();                                                                               \
        check_model(index, #profile, n_settings);                                                                      \
        CHECK(base_mem_bytes() == bytes);                                                                              \
    }

BITS(0, auto, 20)
BITS(0, bf16, 8)
BITS(0, f32, 8)
BITS(1, auto, 20)
BITS(1, bf16, 8)
BITS(1, f32, 8)
BITS(2, auto, 20)
BITS(2, f32, 8)
BITS(4, auto, 8)
BITS(4, bf16, 4)
BITS(5, auto, 8)
BITS(6, auto, 8)
BITS(6, bf16, 4)
BITS(7, auto, 8)
BITS(7, bf16, 4)
BITS(8, auto, 8)
BITS(8, bf16, 4)
BITS(9, auto, 8)
BITS(9, bf16, 4)

/* The f32 profile and the default one compute nearly the same function: a check that profiles are wired up. */
TEST(profiles_are_close) {
    static transcript a, b;
    static float kept[2][80 * 96];
    uint32_t prompt[60];
    run_prompt(prompt, 60, 96, 3);
    fl_model *m = tiny_open(&(tiny_model){.arch = "gemma3", .window = 40, .types = {DTYPE_Q8_0}, .embed = DTYPE_F32});
    fl_request_options o = run_options(prompt, 60, 0);
    o.prompt_logprobs = true;
    for (int i = 0; i < 2; i++) {
        fl_engine_options eo = {.size = sizeof eo, .compute = i ? "f32" : "auto", .opt_level = 2};
        fl_engine *e = run_engine(m, &eo);
        transcript *t = i ? &b : &a;
        t->logits = kept[i];
        CHECK(run_one(t, e, &o) && t->n_rows == 60);
        fl_engine_close(e);
    }
    double worst = 0, largest = 0;
    for (int i = 0; i < 60 * 96; i++) {
        worst = fmax(worst, fabs((double)kept[0][i] - (double)kept[1][i]));
        largest = fmax(largest, fabs((double)kept[1][i]));
    }
    CHECKF(worst < 0.1 * largest && worst > 0, "logits up to %g differ by %g", largest, worst);
    fl_model_close(m);
}
