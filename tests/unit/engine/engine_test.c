/* Models, engines and requests through flambeau.h: options and their errors, text and stop texts,
 * log-probabilities, seeds, penalties, weights written while serving, weights that are broken. */
#include "base/mem.h"
#include "unit/engine/run.h"

#include <stdatomic.h>

static const tiny_model llama = {.arch = "llama", .types = {DTYPE_Q8_0, DTYPE_F32}, .n_types = 2};
static const tiny_model gemma = {.arch = "gemma3", .window = 40, .types = {DTYPE_Q4_0}};
static transcript a, b, c;
static uint32_t prompt[RUN_POSITIONS_MAX];

static fl_engine_options sim_options(void) {
    fl_engine_options o;
    fl_engine_options_init(&o);
    o.device = "sim";
    o.n_threads = 2;
    return o;
}

/* ---- models and options ---- */

TEST(model_says_what_the_file_says) {
    fl_model *m = tiny_open(&gemma);
    fl_model_info i;
    fl_model_info_init(&i);
    fl_model_get_info(m, &i);
    CHECK(strcmp(i.architecture, "gemma3") == 0 && strcmp(i.name, "tiny") == 0 && strcmp(i.license, "") == 0);
    CHECK(i.n_vocab == 96 && i.n_layers == 2 && i.d_model == 64 && i.n_heads == 4 && i.n_kv_heads == 2 &&
          i.head_dim == 16);
    CHECK(i.context_length == 1024 && i.has_tokenizer && !i.has_chat_template && !i.add_bos);
    CHECK(i.n_stop == 2 && i.stop[0] == TINY_EOS && i.stop[1] == 2);
    CHECK(strcmp(i.weight_types, "Q4_0, F32") == 0 && i.n_params > 50000 && i.file_bytes > 40000);
    uint32_t *ids;
    size_t n;
    char *text;
    CHECK(fl_tokenize(m, "ab c", 4, 0, &ids, &n, NULL) == FL_OK && n >= 2);
    CHECK(fl_detokenize(m, ids, n, 0, &text, &n, NULL) == FL_OK && n == 4 && memcmp(text, "ab c", 4) == 0);
    fl_free(ids);
    fl_free(text);
    CHECK(fl_detokenize(m, &(uint32_t){96}, 1, 0, &text, &n, NULL) == FL_EINVAL && !text);
    CHECK(!fl_token_piece(m, 96, &n) && fl_token_piece(m, 3, &n) && n == 1);
    fl_model_close(m);
}

TEST(engine_options_out_of_range_are_named) {
    static const struct {
        fl_engine_options o;
        fl_status want;
        const char *text;
    } cases[] = {
        {{.device = "gpu"}, FL_EUNSUPPORTED, "gpu"},
        {{.cpu_isa = "mmx"}, FL_EINVAL, "mmx"},
        {{.compute = "fp64"}, FL_EINVAL, "fp64"},
        {{.kv_cache_dtype = "q8"}, FL_EUNSUPPORTED, "q8"},
        {{.kv_cache_dtype = "f32"}, FL_EUNSUPPORTED, "f32"},
        {{.kv_cache_dtype = "int3"}, FL_EINVAL, "int3"},
        {{.n_threads = 100000}, FL_EINVAL, "100000"},
        {{.max_model_len = 2048}, FL_EINVAL, "2048"},
        {{.max_num_seqs = 100000}, FL_EINVAL, "100000"},
        {{.max_num_batched_tokens = 1 << 20}, FL_EINVAL, "1048576"},
        {{.steps_in_flight = 5}, FL_EINVAL, "5"},
        {{.kv_cache_tokens = UINT64_MAX}, FL_EINVAL, ""},
        {{.kv_cache_tokens = UINT64_MAX / 2}, FL_EINVAL, ""},
        {{.kv_cache_tokens = (uint64_t)1 << 36}, FL_ENOMEM, "--max-model-len"},
    };
    fl_model *m = tiny_open(&llama);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fl_engine_options o = cases[i].o;
        o.size = sizeof o;
        fl_engine *e;
        fl_err err = {0};
        fl_status st = fl_engine_open(&e, m, &o, &err);
        CHECKF(st == cases[i].want && !e && strstr(err.msg, cases[i].text), "case %zu: %s: %s", i, fl_status_name(st),
               err.msg);
        if (st == FL_OK) fl_engine_close(e);
    }
    fl_engine *e = run_engine(m, NULL);
    char *plan;
    CHECK(fl_engine_print_plan(e, &plan, NULL) == FL_OK && strstr(plan, "0.attn_q") &&
          strstr(plan, "rmsnorm > matmul"));
    fl_free(plan);
    fl_engine_close(e);
    fl_model_close(m);
}

/* A file may claim any context; positions beyond what can be counted are refused, not run into. */
TEST(absurd_context_is_refused) {
    fl_model *m = tiny_open(&(tiny_model){.arch = "llama", .context_is_huge = true});
    fl_engine *e;
    fl_err err;
    fl_engine_options o = {.size = sizeof o, .kv_cache_tokens = 64};
    fl_status st = fl_engine_open(&e, m, &o, &err);
    CHECK(st == FL_EFORMAT && !e);
    if (st == FL_OK) {
        fl_request_options r = run_options(prompt, 3, 2);
        CHECK(run_one(&a, e, &r));
        fl_engine_close(e);
    }
    fl_model_close(m);
}

/* Files that say something else than a model: the engine names what is wrong. */
TEST(files_that_make_no_model) {
    static const struct {
        tiny_model m;
        fl_status want;
        const char *text;
    } cases[] = {
        {{.arch = "gpt9"}, FL_EUNSUPPORTED, "gpt9"},
        {{.arch = "llama", .n_heads = 4, .n_kv_heads = 3}, FL_EFORMAT, "3 KV heads"},
        {{.arch = "llama", .d_k = 12}, FL_OK, ""},
        {{.arch = "llama", .d_k = 13}, FL_EUNSUPPORTED, "13"},
        {{.arch = "llama", .d_k = 584}, FL_EUNSUPPORTED, "584"},
        {{.arch = "llama", .types = {DTYPE_NVFP4}, .d_ff = 128, .scale = NAN}, FL_EFORMAT, "blk.0.attn_q.scale"},
        {{.arch = "gemma3", .d_model = 96, .d_ff = 64, .n_layers = 1}, FL_OK, ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        fl_model *m = tiny_open(&cases[i].m);
        fl_engine *e;
        fl_err err = {0};
        fl_status st = fl_engine_open(&e, m, NULL, &err);
        CHECKF(st == cases[i].want && strstr(err.msg, cases[i].text), "case %zu: %s: %s", i, fl_status_name(st),
               err.msg);
        fl_engine_close(e);
        fl_model_close(m);
    }
}

/* Tensor scales: a model of NVFP4 whose block scales are halved and whose tensors have the scale 2 is the same model to the
 * bit; without the scales it is another. Every op by itself gives the same as groups. */
TEST(tensor_scales) {
    tiny_model plain = {.arch = "llama", .types = {DTYPE_NVFP4}, .d_ff = 128, .head = true}, halved = plain,
               other = plain;
    halved.scale = 2;
    halved.block_scale = -8; /* one less in the exponent of ue4m3 */
    other.block_scale = -8;
    const tiny_model models[] = {plain, halved, other};
    static transcript runs[4];
    run_prompt(prompt, 20, 96, 3);
    fl_request_options o = run_options(prompt, 20, 20);
    for (int i = 0; i < 4; i++) {
        fl_engine_options eo;
        fl_engine_options_init(&eo);
        eo.opt_level = i == 3 ? 0 : -1;
        fl_model *m = tiny_open(&models[i == 3 ? 1 : i]);
        fl_engine *e = run_engine(m, &eo);
        CHECK(run_one(&runs[i], e, &o));
        fl_engine_close(e);
        fl_model_close(m);
    }
    const char *differs = run_differ(&runs[0], &runs[1]);
    CHECKF(differs == NULL, "a scale of 2: %s", differs);
    differs = run_differ(&runs[1], &runs[3]);
    CHECKF(differs == NULL, "every op by itself: %s", differs);
    CHECK(run_differ(&runs[0], &runs[2]) != NULL);
}

TEST(two_engines_share_a_model) {
    fl_model *m = tiny_open(&gemma);
    fl_engine_options so = sim_options();
    fl_engine *x = run_engine(m, NULL), *y = run_engine(m, &so);
    run_prompt(prompt, 50, 96, 1);
    fl_request_options o = run_options(prompt, 50, 20);
    CHECK(run_add(&a, x, o) && run_add(&b, y, o));
    run_read(&a);
    run_read(&b);
    CHECK(run_differ(&a, &b) == NULL);
    fl_engine_close(x);
    CHECK(run_one(&c, y, &o) && run_differ(&a, &c) == NULL);
    fl_engine_close(y);
    fl_model_close(m);
}

/* ---- requests ---- */

static void refused(fl_engine *e, fl_request_options o, fl_status want, const char *x, const char *y) {
    fl_request *r;
    fl_err err = {0};
    CHECKF(fl_request_add(&r, e, &o, &err) == want && !r && strstr(err.msg, x) && strstr(err.msg, y),
           "\"%s\" lacks \"%s\" or \"%s\"", err.msg, x, y);
}

TEST(requests_out_of_range_are_named) {
    fl_model *m = tiny_open(&llama);
    fl_engine_options eo = {.size = sizeof eo, .max_model_len = 100, .kv_cache_tokens = 64, .max_num_seqs = 1};
    fl_engine *e = run_engine(m, &eo);
    const fl_request_options good = run_options(prompt, 5, 4);
    run_prompt(prompt, 200, 96, 1);
    fl_request_options o = good;
    o.n_prompt = 0;
    refused(e, o, FL_EINVAL, "empty", "");
    o = good;
    o.prompt = NULL;
    refused(e, o, FL_EINVAL, "empty", "");
    o.prompt = prompt;
    o.n_prompt = 101;
    refused(e, o, FL_EINVAL, "101", "100");
    o.n_prompt = 100;
    refused(e, o, FL_EINVAL, "100", "room");
    o.n_prompt = 99;
    o.max_tokens = UINT32_MAX;
    refused(e, o, FL_EINVAL, "99", "96"); /* positions needed, positions the cache holds */
    o = good;
    uint32_t bad[3] = {1, 96, 2};
    o.prompt = bad;
    o.n_prompt = 3;
    refused(e, o, FL_EINVAL, "token 96 at position 1", "95");
    o = good;
    o.max_tokens = 0;
    refused(e, o, FL_EINVAL, "scoring", "");
#define REFUSED(field, value, x) (o = good, o.field = value, refused(e, o, FL_EINVAL, #field, x))
    REFUSED(temperature, -1, "-1");
    REFUSED(temperature, NAN, "nan");
    REFUSED(top_p, 0, "0");
    REFUSED(top_p, 1.5f, "1.5");
    REFUSED(min_p, -0.5f, "-0.5");
    REFUSED(repetition_penalty, 0, "0");
    REFUSED(presence_penalty, INFINITY, "inf");
    REFUSED(frequency_penalty, NAN, "nan");
    REFUSED(n_logprobs, 65, "65");
    const char *stops[] = {"x", ""};
    o = good;
    o.stop = stops;
    o.n_stop = 2;
    refused(e, o, FL_EINVAL, "stop", "empty");
    o.n_stop = 65;
    refused(e, o, FL_EINVAL, "65", "64");
    o = good;
    CHECK(run_one(&a, e, &o) && a.n_tokens == 4 && a.finish == FL_FINISH_LENGTH);
    fl_engine_close(e);
    fl_model_close(m);
}

TEST(lengths_and_the_context) {
    fl_model *m = tiny_open(&gemma);
    fl_engine_options eo = {.size = sizeof eo, .max_model_len = 50};
    fl_engine *e = run_engine(m, &eo);
    run_prompt(prompt, 50, 96, 1);
    for (uint32_t n = 1; n < 50; n += 8) {
        fl_request_options o = run_options(prompt, n, UINT32_MAX);
        CHECK(run_one(&a, e, &o) && a.n_tokens == 50 - n && a.finish == FL_FINISH_LENGTH && a.n_rows == a.n_tokens);
        o.max_tokens = 1;
        CHECK(run_one(&b, e, &o) && b.n_tokens == 1 && b.tokens[0] == a.tokens[0]);
    }
    fl_request_options o = run_options(prompt, 50, 0);
    o.n_logprobs = 3;
    CHECK(run_one(&a, e, &o) && a.n_tokens == 0 && a.n_last_top == 3 && a.finish == FL_FINISH_LENGTH);
    fl_engine_close(e);
    fl_model_close(m);
}

/* Numbers told by events against the logits themselves. */
TEST(logprobs_follow_from_the_logits) {
    enum { N = 60, DRAWS = 20, V = 96 };
    static float kept[(N + DRAWS) * V];
    fl_model *m = tiny_open(&gemma);
    fl_engine *e = run_engine(m, NULL);
    run_prompt(prompt, N, V, 5);
    fl_request_options o = run_options(prompt, N, DRAWS);
    o.prompt_logprobs = true;
    o.n_logprobs = 1;
    o.presence_penalty = 0.7f; /* must not show in the numbers */
    a.logits = kept;
    CHECK(run_one(&a, e, &o) && a.n_rows == N + DRAWS - 1 && a.n_prompt == N && isnan(a.prompt_logprobs[0]));
    for (uint32_t p = 0; p + 1 < N + DRAWS; p++) {
        const float *row = kept + (size_t)p * V;
        uint32_t token = p + 1 < N ? prompt[p + 1] : a.tokens[p + 1 - N], best = 0;
        float told = p + 1 < N ? a.prompt_logprobs[p + 1] : a.logprobs[p + 1 - N];
        fl_top top = p + 1 < N ? a.prompt_top[p + 1] : a.top[p + 1 - N];
        double max = -INFINITY, sum = 0;
        for (uint32_t i = 0; i < V; i++) max = fmax(max, (double)row[i]);
        for (uint32_t i = 0; i < V; i++) sum += exp((double)row[i] - max);
        for (uint32_t i = 1; i < V; i++) best = row[i] > row[best] ? i : best;
        CHECK(fabs((double)row[token] - max - log(sum) - (double)told) < 1e-5);
        CHECK(top.id == best && fabs((double)row[best] - max - log(sum) - (double)top.logprob) < 1e-5);
        if (p + 1 < N) CHECK(a.prompt[p + 1] == token);
    }
    a.logits = NULL;
    o = run_options(prompt, N, 0); /* only scoring: the same numbers */
    o.prompt_logprobs = true;
    o.n_logprobs = 64;
    CHECK(run_one(&b, e, &o) && b.n_prompt == N &&
          memcmp(a.prompt_logprobs + 1, b.prompt_logprobs + 1, (N - 1) * sizeof(float)) == 0);
    CHECK(b.n_last_top == 64 && b.last_top[0].id == a.top[0].id && b.last_top[0].logprob == a.top[0].logprob);
    fl_engine_close(e);
    fl_model_close(m);
}

/* More best tokens than the vocabulary has: all of them, and nothing else. */
TEST(top_lists_end_with_the_vocabulary) {
    fl_model *m = tiny_open(&(tiny_model){.arch = "llama", .n_vocab = 40});
    fl_engine *e = run_engine(m, NULL);
    fl_request_options o = run_options(prompt, 1, 0);
    o.n_logprobs = 64;
    prompt[0] = 3;
    CHECK(run_one(&a, e, &o) && a.n_last_top == 40);
    double sum = 0;
    for (uint32_t i = 0; i < a.n_last_top; i++) sum += exp((double)a.last_top[i].logprob);
    CHECK(fabs(sum - 1) < 1e-4);
    fl_engine_close(e);
    fl_model_close(m);
}

TEST(seeds_reproduce_and_differ) {
    fl_model *m = tiny_open(&llama);
    fl_engine *e = run_engine(m, NULL);
    run_prompt(prompt, 20, 96, 2);
    fl_request_options o = run_options(prompt, 20, 30);
    CHECK(run_one(&a, e, &o) && run_one(&b, e, &o) && run_differ(&a, &b) == NULL);
    o.seed = 8;
    CHECK(run_one(&b, e, &o) && memcmp(a.tokens, b.tokens, 30 * sizeof *a.tokens) != 0);
    o.has_seed = false;
    CHECK(run_add(&a, e, o));
    fl_request_stats s;
    fl_request_stats_init(&s);
    fl_request_get_stats(a.r, &s);
    run_read(&a);
    o.has_seed = true;
    o.seed = s.seed; /* the drawn seed was told */
    CHECK(run_one(&b, e, &o) && memcmp(a.tokens, b.tokens, 30 * sizeof *a.tokens) == 0);
    o.temperature = 0;
    CHECK(run_one(&a, e, &o));
    o.seed++;
    CHECK(run_one(&b, e, &o) && memcmp(a.tokens, b.tokens, 30 * sizeof *a.tokens) == 0);
    o.presence_penalty = 100; /* no token comes twice */
    o.frequency_penalty = 0;
    CHECK(run_one(&a, e, &o));
    for (int i = 0; i < 30; i++)
        for (int k = 0; k < i; k++) CHECK(a.tokens[i] != a.tokens[k]);
    o.presence_penalty = 0;
    o.repetition_penalty = 100; /* counts the prompt as well */
    CHECK(run_one(&a, e, &o));
    for (int k = 0; k < 20; k++) CHECK(a.tokens[0] != prompt[k]);
    fl_engine_close(e);
    fl_model_close(m);
}

/* ---- text ---- */

/* The whole answer of a request that nothing stops. */
static void run_unstopped(fl_engine *e, uint64_t seed, transcript *t, uint32_t n) {
    run_prompt(prompt, 10, 96, seed);
    fl_request_options o = run_options(prompt, 10, n);
    o.seed = seed;
    CHECK(run_one(t, e, &o) && t->n_tokens == n && t->finish == FL_FINISH_LENGTH);
}

/* What this vocabulary can spell, with U+FFFD for each half of an accented letter that stands alone. */
static size_t whole_characters(const char *raw, size_t n_raw, char *text) {
    size_t n = 0;
    for (size_t i = 0; i < n_raw; i++) {
        const char *whole = raw[i] >= 0 ? (char[]){raw[i], '\0'} : "\xef\xbf\xbd";
        if (i + 1 < n_raw && raw[i] == '\xc3' && raw[i + 1] == '\xa9') whole = "\xc3\xa9", i++;
        memcpy(text + n, whole, strlen(whole));
        n += strlen(whole);
    }
    return n;
}

TEST(texts_are_whole_characters) {
    fl_model *m = tiny_open(&llama);
    fl_engine *e = run_engine(m, NULL);
    for (uint64_t seed = 1; seed <= 20; seed++) {
        run_unstopped(e, seed, &a, 60);
        char *raw, text[RUN_TEXT_MAX];
        size_t n_raw, n;
        CHECK(fl_detokenize(m, a.tokens, a.n_tokens, FL_DETOKENIZE_SKIP_SPECIAL, &raw, &n_raw, NULL) == FL_OK);
        n = whole_characters(raw, n_raw, text);
        CHECK(n == a.n_text && memcmp(text, a.text, n) == 0);
        for (uint32_t i = 0; i < a.n_tokens; i++) /* no piece ends in the middle of a character */
            CHECK(a.text_at[i] == a.n_text || ((unsigned char)a.text[a.text_at[i]] & 0xc0) != 0x80);
        fl_free(raw);
    }
    fl_engine_close(e);
    fl_model_close(m);
}

TEST(stop_tokens_end_the_answer) {
    fl_model *m = tiny_open(&llama);
    fl_engine_options eo = sim_options();
    fl_engine *e = run_engine(m, &eo);
    uint32_t n_stopped = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        run_unstopped(e, seed, &a, 60);
        uint32_t at = 0;
        while (at < 60 && a.tokens[at] != 1 && a.tokens[at] != 2) at++;
        fl_request_options o = run_options(prompt, 10, 60);
        o.seed = seed;
        o.ignore_eos = false;
        CHECK(run_add(&b, e, o));
        fl_request *r = b.r;
        fl_event ev;
        fl_event_init(&ev);
        while (ev.kind != FL_EVENT_DONE) {
            CHECK(fl_request_next(r, &ev, -1, NULL) == FL_OK);
            run_note(&b, &ev);
        }
        fl_request_stats s;
        fl_request_stats_init(&s);
        fl_request_get_stats(r, &s);
        CHECK(s.n_prompt == 10 && s.n_output == b.n_tokens && s.queue_ms >= 0 && s.prefill_ms >= 0 &&
              s.decode_ms >= 0 && s.seed == seed);
        CHECK(fl_request_next(r, &ev, 0, NULL) == FL_OK && ev.kind == FL_EVENT_DONE && ev.finish == b.finish &&
              ev.n_text == 0);
        fl_request_close(r);
        CHECK(b.n_tokens == at && memcmp(a.tokens, b.tokens, at * sizeof *a.tokens) == 0);
        CHECK(b.finish == (at < 60 ? FL_FINISH_STOP : FL_FINISH_LENGTH));
        n_stopped += at < 60;
    }
    CHECK(n_stopped > 5);
    fl_engine_close(e);
    fl_model_close(m);
}

/* Every part of an answer as stop text: the text is cut exactly before it, on each device. */
TEST(stop_texts_cut_across_tokens) {
    fl_model *m = tiny_open(&llama);
    fl_engine_options so = sim_options();
    so.steps_in_flight = 4;
    so.n_threads = 1;
    fl_engine *cpu = run_engine(m, NULL), *sim = run_engine(m, &so);
    for (uint64_t seed = 1; seed <= 60; seed++) {
        run_unstopped(cpu, seed % 5 + 1, &a, 40);
        uint64_t s = seed;
        char text[2][20] = {"", ""};
        const char *stops[] = {text[0], "zzzzqqq", text[1]};
        size_t cut = a.n_text, end = SIZE_MAX;
        for (int i = 0; i < 2; i++) {
            size_t len = 1 + test_random_below(&s, 9), at = test_random_below(&s, (uint32_t)(a.n_text - len));
            memcpy(text[i], a.text + at, len);
            if (strlen(text[i]) != len) text[i][0] = 'a', text[i][1] = '\0', len = 1;
            for (size_t k = 0; k + len <= a.n_text; k++)
                if (memcmp(a.text + k, text[i], len) == 0) {
                    if (k + len < end) cut = k, end = k + len;
                    break;
                }
        }
        fl_request_options o = run_options(prompt, 10, 40);
        o.seed = seed % 5 + 1;
        o.stop = stops;
        o.n_stop = 3;
        CHECK(run_one(&b, cpu, &o) && run_one(&c, sim, &o));
        CHECKF(b.n_text == cut && memcmp(a.text, b.text, cut) == 0, "\"%s\" or \"%s\": %zu bytes, not %zu", text[0],
               text[1], b.n_text, cut);
        CHECK(b.finish == (end == SIZE_MAX ? FL_FINISH_LENGTH : FL_FINISH_STOP));
        CHECK(c.n_text == b.n_text && memcmp(c.text, b.text, cut) == 0 && c.finish == b.finish &&
              c.n_tokens == b.n_tokens);
    }
    fl_engine_close(sim);
    fl_engine_close(cpu);
    fl_model_close(m);
}

/* What could have begun a stop text is held back, and given when the answer ends otherwise. */
TEST(held_back_text_comes_at_the_end) {
    fl_model *m = tiny_open(&llama);
    fl_engine *e = run_engine(m, NULL);
    for (uint64_t seed = 1; seed <= 10; seed++) {
        run_unstopped(e, seed, &a, 40);
        for (size_t k = 1; k < 8; k++) {
            char stop[32] = "";
            memcpy(stop, a.text + a.n_text - k, k);
            if (strlen(stop) != k) continue;
            memcpy(stop + k, "QQQ", 4);
            const char *stops[] = {stop};
            fl_request_options o = run_options(prompt, 10, 40);
            o.seed = seed;
            o.stop = stops;
            o.n_stop = 1;
            CHECK(run_one(&b, e, &o) && b.finish == FL_FINISH_LENGTH && b.n_text == a.n_text &&
                  memcmp(a.text, b.text, a.n_text) == 0);
            CHECK(b.text_at[b.n_tokens - 1] <= a.n_text - k);
        }
    }
    fl_engine_close(e);
    fl_model_close(m);
}

/* Tokens counted in the statistics are those that the reader was given, however many steps were under way. */
TEST(statistics_after_a_stop_text) {
    fl_model *m = tiny_open(&llama);
    fl_engine_options so = sim_options();
    so.steps_in_flight = 4;
    fl_engine *e = run_engine(m, &so);
    run_unstopped(e, 3, &a, 40);
    char stop[3] = {a.text[8], a.text[9], '\0'};
    const char *stops[] = {stop};
    fl_request_options o = run_options(prompt, 10, 40);
    o.seed = 3;
    o.stop = stops;
    o.n_stop = 1;
    CHECK(run_add(&b, e, o));
    for (bool busy = true; busy;)
        CHECK(fl_engine_step(e, &busy, NULL) == FL_OK); /* all 40 are drawn before the first is read */
    fl_event ev;
    fl_event_init(&ev);
    while (ev.kind != FL_EVENT_DONE) {
        CHECK(fl_request_next(b.r, &ev, -1, NULL) == FL_OK);
        run_note(&b, &ev);
    }
    fl_request_stats s;
    fl_request_stats_init(&s);
    fl_request_get_stats(b.r, &s);
    CHECK(ev.finish == FL_FINISH_STOP && b.n_tokens < 20 && s.n_output == b.n_tokens);
    fl_request_close(b.r);
    fl_engine_close(e);
    fl_model_close(m);
}

TEST(models_without_a_tokenizer_draw_ids) {
    fl_model *m = tiny_open(&(tiny_model){.arch = "llama", .no_tokenizer = true});
    fl_engine *e = run_engine(m, NULL);
    uint32_t *ids;
    size_t n;
    const char *stops[] = {"x"};
    CHECK(fl_tokenize(m, "a", 1, 0, &ids, &n, NULL) == FL_EUNSUPPORTED);
    run_prompt(prompt, 10, 96, 1);
    fl_request_options o = run_options(prompt, 10, 5);
    CHECK(run_one(&a, e, &o) && a.n_tokens == 5 && a.n_text == 0);
    o.stop = stops;
    o.n_stop = 1;
    refused(e, o, FL_EUNSUPPORTED, "tokenizer", "");
    fl_engine_close(e);
    fl_model_close(m);
}

/* ---- weights ---- */

/* A weight replaced by random rows changes the logits, and written back restores them to the bit. */
static void replace(fl_engine *e, const char *name, dtype type, uint32_t n, uint32_t k, const uint8_t *old,
                    bool vector) {
    size_t row = dtype_row_bytes(type, k), n_blocks = n * row / dtype_find(type)->block_bytes;
    uint8_t *fresh = malloc(n * row);
    uint64_t seed = 99;
    if (!fresh) abort();
    for (size_t i = 0; i < n_blocks; i++) tiny_block(type, fresh + i * dtype_find(type)->block_bytes, &seed);
    run_prompt(prompt, 30, 96, 1);
    fl_request_options o = run_options(prompt, 30, 10);
    CHECK(run_one(&a, e, &o));
    CHECK(fl_engine_write_weight(e, name, 0, n, fresh, n * row, NULL) == FL_OK);
    CHECK(run_one(&b, e, &o) && a.row_hash[29] != b.row_hash[29]);
    for (uint32_t from = 0; from < n; from += 5) { /* back in pieces */
        uint32_t count = n - from < 5 ? n - from : 5;
        CHECK(fl_engine_write_weight(e, name, from, count, old + from * row, count * row, NULL) == FL_OK);
    }
    CHECK(run_one(&b, e, &o));
    CHECKF(run_differ(&a, &b) == NULL, "%s is not restored", name);
    fl_err err;
    CHECK(fl_engine_write_weight(e, name, 0, n + 1, fresh, (n + 1) * row, &err) == FL_EINVAL);
    CHECK(fl_engine_write_weight(e, name, n, 1, fresh, row, &err) == FL_EINVAL);
    CHECK(fl_engine_write_weight(e, name, UINT64_MAX, 1, fresh, row, &err) == FL_EINVAL);
    CHECK(fl_engine_write_weight(e, name, 1, UINT64_MAX, fresh, row, &err) == FL_EINVAL);
    if (!vector)
        CHECK(fl_engine_write_weight(e, name, 0, 1, fresh, row - 1, &err) == FL_EINVAL && strstr(err.msg, name));
    CHECK(fl_engine_write_weight(e, name, 0, 0, fresh, 0, &err) == FL_OK);
    free(fresh);
}

TEST(weights_are_replaced_and_restored) {
    tiny_model tm = {.arch = "gemma3",
                     .window = 40,
                     .types = {DTYPE_Q8_0, DTYPE_Q4_0, DTYPE_F32},
                     .n_types = 3,
                     .embed = DTYPE_Q8_0};
    char path[TINY_PATH_MAX];
    tiny_write(&tm, path);
    fl_model *m;
    file_gguf *f;
    CHECK(fl_model_open(&m, path, NULL) == FL_OK && file_gguf_open(&f, path, NULL) == FL_OK);
    (void)remove(path);
    static const char *const names[] = {"blk.0.attn_q.weight", "blk.1.ffn_down.weight",  "blk.0.attn_v.weight",
                                        "token_embd.weight",   "blk.1.attn_norm.weight", "blk.0.attn_k_norm.weight",
                                        "output_norm.weight"};
    for (int device = 0; device < 2; device++) {
        fl_engine_options so = sim_options();
        fl_engine *e = run_engine(m, device ? &so : NULL);
        for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
            const file_gguf_tensor *t = file_gguf_tensor_find(f, names[i]);
            replace(e, names[i], t->type, (uint32_t)t->dims[1], (uint32_t)t->dims[0], t->data, t->dims[1] == 1);
        }
        fl_err err;
        CHECK(fl_engine_write_weight(e, "blk.7.attn_q.weight", 0, 1, path, 1, &err) == FL_EINVAL &&
              strstr(err.msg, "blk.7.attn_q.weight"));
        fl_engine_close(e);
    }
    /* The file was never written: another engine starts from the old values. */
    fl_engine *e = run_engine(m, NULL);
    fl_request_options o = run_options(prompt, 30, 10);
    CHECK(run_one(&b, e, &o) && run_differ(&a, &b) == NULL);
    fl_engine_close(e);
    file_gguf_close(f);
    fl_model_close(m);
}

TEST(weights_are_written_while_serving) {
    fl_model *m = tiny_open(&llama);
    fl_engine_options so = sim_options();
    fl_engine *e = run_engine(m, &so);
    float ones[64], zeros[64] = {0};
    for (int i = 0; i < 64; i++) ones[i] = 1;
    run_prompt(prompt, 20, 96, 1);
    fl_request_options o = run_options(prompt, 20, 50);
    CHECK(run_add(&a, e, o));
    bool busy;
    for (int i = 0; i < 5; i++) CHECK(fl_engine_step(e, &busy, NULL) == FL_OK && busy);
    CHECK(fl_engine_write_weight(e, "output_norm.weight", 0, 1, zeros, sizeof zeros, NULL) == FL_OK);
    for (int i = 0; i < 10; i++) CHECK(fl_engine_step(e, &busy, NULL) == FL_OK && busy);
    CHECK(fl_engine_write_weight(e, "output_norm.weight", 0, 1, ones, sizeof ones, NULL) == FL_OK);
    run_read(&a);
    CHECK(a.status == FL_OK && a.n_tokens == 50 && a.n_rows == 50);
    uint32_t n_flat = 0; /* all logits 0 while the norm was */
    static const float flat[96];
    for (uint32_t p = 19; p < 69; p++) n_flat += a.row_hash[p] == (base_hash(1, flat, sizeof flat) | 1);
    CHECKF(n_flat >= 5 && n_flat <= 15, "%u flat rows", n_flat);
    fl_engine_close(e);
    fl_model_close(m);
}

/* ---- broken weights ---- */

/* A NaN in the weights fails the requests that meet it with a clear text. */
static void check_broken(const char *profile, const char *name, const char *device) {
    tiny_model tm = gemma;
    fl_model *whole = tiny_open(&tm);
    tm.broken = name;
    fl_model *m = tiny_open(&tm);
    fl_engine_options o = {.size = sizeof o,
                           .compute = profile,
                           .device = device,
                           .max_num_seqs = 2,
                           .n_threads = 2,
                           .kv_cache_tokens = 256,
                           .max_model_len = 128};
    fl_engine *e = run_engine(whole, &o), *x = run_engine(m, &o);
    run_prompt(prompt, 90, 96, 4);
    fl_request_options r = run_options(prompt, 90, 20);
    r.prefill_chunk = 32;
    CHECK(run_one(&a, e, &r));
    for (int i = 0; i < 3; i++) {
        CHECK(!run_one(&b, x, &r));
        CHECKF(b.status == FL_EFORMAT && b.finish == FL_FINISH_ERROR && strstr(b.err.msg, "not finite"),
               "%s %s: %s, %s", profile, name, fl_status_name(b.status), b.status ? b.err.msg : "");
    }
    fl_engine_close(e);
    fl_engine_close(x);
    fl_model_close(m);
    fl_model_close(whole);
}

TEST(broken_weights_fail_the_request) {
    static const char *const names[] = {"output_norm.weight", "blk.0.attn_norm.weight", "blk.1.attn_k_norm.weight",
                                        "blk.0.post_ffw_norm.weight"};
    static const char *const profiles[] = {"auto", "bf16", "f32"};
    for (int p = 0; p < 3; p++)
        for (int i = 0; i < 4; i++) check_broken(profiles[p], names[i], i % 2 ? "sim" : "cpu");
}

/* A request that leaves NaN in its cache pages harms nobody who gets the pages next, nor its neighbour. */
TEST(broken_requests_harm_no_other) {
    enum { D = 64 };
    static const char *const profiles[] = {"auto", "bf16", "f32"};
    for (int p = 0; p < 3; p++) {
        tiny_model tm = {.arch = "gemma3", .window = 40, .types = {DTYPE_F32}, .embed = DTYPE_F32};
        fl_model *m = tiny_open(&tm);
        fl_engine_options o = {.size = sizeof o,
                               .compute = profiles[p],
                               .device = p % 2 ? "cpu" : "sim",
                               .max_num_seqs = 2,
                               .kv_cache_tokens = 128,
                               .max_model_len = 128,
                               .n_threads = 2,
                               .max_num_batched_tokens = 48};
        fl_engine *e = run_engine(m, &o);
        float nan[D];
        for (int i = 0; i < D; i++) nan[i] = NAN;
        run_prompt(prompt, 40, 90, 6); /* ids below 90 */
        uint32_t poisoned[40];
        memcpy(poisoned, prompt, sizeof poisoned);
        poisoned[30] = 95;
        CHECK(fl_engine_write_weight(e, "token_embd.weight", 95, 1, nan, sizeof nan, NULL) == FL_OK);
        fl_request_options good = run_options(prompt, 40, 20), bad = run_options(poisoned, 40, 20);
        good.top_k = bad.top_k = 5;
        /* The tied head has a NaN row, too: its logit spoils all rows, so good requests need the row back. */
        CHECK(!run_one(&b, e, &bad) && b.status == FL_EFORMAT);
        for (int i = 0; i < D; i++) nan[i] = 0.01f;
        CHECK(fl_engine_write_weight(e, "token_embd.weight", 95, 1, nan, sizeof nan, NULL) == FL_OK);
        CHECK(run_one(&a, e, &good));
        fl_engine_close(e);
        e = run_engine(m, &o);
        CHECK(fl_engine_write_weight(e, "token_embd.weight", 95, 1, nan, sizeof nan, NULL) == FL_OK);
        CHECK(run_one(&b, e, &good)); /* pages that nobody used before */
        CHECKF(run_differ(&a, &b) == NULL, "%s", profiles[p]);
        fl_engine_close(e);
        fl_model_close(m);
    }
}

/* What a server's loop needs: to be told of steps, to read and to close without waiting. */
static void count_step(void *user) { atomic_fetch_add((atomic_uint *)user, 1); }

TEST(a_loop_that_never_waits) {
    fl_model *m = tiny_open(&llama);
    atomic_uint n_steps = 0;
    fl_engine_options o = sim_options();
    o.on_step = count_step;
    o.user = &n_steps;
    fl_engine *e = run_engine(m, &o);
    CHECK(fl_engine_start(e, NULL) == FL_OK);
    run_prompt(prompt, 8, 96, 3);
    fl_request_options r = run_options(prompt, 8, 900);
    fl_request *all[8];
    for (int i = 0; i < 8; i++) CHECK(fl_request_add(&all[i], e, &r, NULL) == FL_OK);
    fl_event event;
    fl_event_init(&event);
    uint32_t n_open = 8, n_tokens = 0, seen = 0;
    for (int round = 0; n_open && round < 5000; round++) {
        while (atomic_load(&n_steps) == seen && round < 4000) usleep(100);
        seen = atomic_load(&n_steps);
        if (fl_request_next(all[0], &event, 0, NULL) == FL_OK) n_tokens += event.kind == FL_EVENT_TOKEN;
        /* All but the first are left after a while: no wait, and each is closed after some later step. */
        for (int i = 1; n_tokens > 5 && i < 8; i++) {
            if (!all[i] || !fl_request_try_close(all[i])) continue;
            all[i] = NULL;
            n_open--;
        }
        if (n_open > 1 || !fl_request_try_close(all[0])) continue;
        n_open = 0;
    }
    CHECK(n_open == 0 && n_tokens > 5);
    fl_engine_stop(e);
    fl_engine_info info;
    fl_engine_info_init(&info);
    fl_engine_get_info(e, &info);
    CHECKF(info.n_kv_pages > 0 && info.n_kv_pages_used == 0, "%u of %u pages are held", info.n_kv_pages_used,
           info.n_kv_pages);
    fl_engine_close(e);
    fl_model_close(m);
}

/* The last event says what ended the answer, and for a stop token its log-probability: the one that the same request has
 * for the token when it goes on. */
TEST(what_ended_an_answer) {
    fl_model *m = tiny_open(&llama);
    fl_engine *e = run_engine(m, NULL);
    bool by_token = false;
    for (uint64_t seed = 1; seed < 400 && !by_token; seed++) {
        run_prompt(prompt, 5, 96, seed);
        fl_request_options r = run_options(prompt, 5, 40);
        r.n_logprobs = 1;
        r.seed = seed;
        CHECK(run_one(&a, e, &r));
        r.ignore_eos = false;
        fl_request *q;
        fl_event event;
        fl_event_init(&event);
        CHECK(fl_request_add(&q, e, &r, NULL) == FL_OK);
        uint32_t n = 0;
        while (event.kind != FL_EVENT_DONE && fl_request_next(q, &event, -1, NULL) == FL_OK)
            n += event.kind == FL_EVENT_TOKEN;
        by_token = event.has_stop_token;
        CHECK(by_token == (event.finish == FL_FINISH_STOP) && !event.stop_text);
        if (by_token) CHECK(event.token == a.tokens[n] && event.logprob == a.logprobs[n] && event.n_top == 1);
        fl_request_close(q);
    }
    CHECK(by_token);
    fl_request_options r = run_options(prompt, 5, 200);
    CHECK(run_one(&a, e, &r) && a.n_text > 8);
    char stop[2] = {a.text[6], '\0'};
    const char *stops[] = {"never \x01", stop};
    r.stop = stops;
    r.n_stop = 2;
    fl_request *q;
    fl_event event;
    fl_event_init(&event);
    CHECK(fl_request_add(&q, e, &r, NULL) == FL_OK);
    while (event.kind != FL_EVENT_DONE && fl_request_next(q, &event, -1, NULL) == FL_OK) continue;
    CHECK(event.finish == FL_FINISH_STOP && !event.has_stop_token && event.stop_text &&
          strcmp(event.stop_text, stop) == 0);
    fl_request_close(q);
    fl_engine_close(e);
    fl_model_close(m);
}
