#include "serve/metrics.h"

static const double fast[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                              1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
static const double steps[] = {.01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
static const double slow[] = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                              30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
static const double tokens[] = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                                1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};

static const int statuses[METRICS_STATUSES_MAX] = {200, 204, 400, 401, 403, 404, 405, 408, 411,
                                                   413, 415, 417, 429, 431, 499, 500, 501, 503};

#define BOUNDS(x) .bounds = (x), .n_bounds = sizeof(x) / sizeof *(x)

void metrics_init(serve_metrics *m) {
    *m = (serve_metrics){.first_token = {BOUNDS(fast)},
                         .between_tokens = {BOUNDS(steps)},
                         .whole = {BOUNDS(slow)},
                         .queue = {BOUNDS(slow)},
                         .prefill = {BOUNDS(slow)},
                         .decode = {BOUNDS(slow)},
                         .prompt_tokens = {BOUNDS(tokens)},
                         .output_tokens = {BOUNDS(tokens)}};
}

void metrics_observe(metrics_histogram *h, double x) {
    uint32_t i = 0;
    while (i < h->n_bounds && x > h->bounds[i]) i++;
    h->buckets[i]++;
    h->count++;
    h->sum += x;
}

void metrics_call(serve_metrics *m, uint32_t handler, int status) {
    for (uint32_t i = 0; i < METRICS_STATUSES_MAX; i++)
        if (statuses[i] == status && handler < METRICS_HANDLERS_MAX) m->calls[handler][i]++;
}

void metrics_end(serve_metrics *m, const fl_request_stats *stats, fl_finish finish) {
    m->finished[finish]++;
    if (!stats) return;
    metrics_observe(&m->queue, stats->queue_ms / 1e3);
    metrics_observe(&m->prefill, stats->prefill_ms / 1e3);
    metrics_observe(&m->decode, stats->decode_ms / 1e3);
    metrics_observe(&m->prompt_tokens, stats->n_prompt);
    metrics_observe(&m->output_tokens, stats->n_output);
}

static void print_histogram(base_buf *b, const char *name, const char *help, const char *model,
                            const metrics_histogram *h) {
    uint64_t sum = 0;
    base_buf_printf(b, "# HELP vllm:%s %s\n# TYPE vllm:%s histogram\n", name, help, name);
    for (uint32_t i = 0; i < h->n_bounds; i++) {
        sum += h->buckets[i];
        base_buf_printf(b, "vllm:%s_bucket{model_name=\"%s\",engine=\"0\",le=\"%g\"} %llu\n", name, model, h->bounds[i],
                        (unsigned long long)sum);
    }
    base_buf_printf(b, "vllm:%s_bucket{model_name=\"%s\",engine=\"0\",le=\"+Inf\"} %llu\n", name, model,
                    (unsigned long long)h->count);
    base_buf_printf(b, "vllm:%s_sum{model_name=\"%s\",engine=\"0\"} %.9g\n", name, model, h->sum);
    base_buf_printf(b, "vllm:%s_count{model_name=\"%s\",engine=\"0\"} %llu\n", name, model,
                    (unsigned long long)h->count);
}

static void print_engine(base_buf *b, fl_engine *e, const char *model) {
    fl_engine_info i;
    fl_engine_info_init(&i);
    fl_engine_get_info(e, &i);
    const struct {
        const char *name, *type, *help;
        double value;
    } rows[] = {
        {"num_requests_running", "gauge", "Requests that run.", i.n_running},
        {"num_requests_waiting", "gauge", "Requests that wait.", i.n_waiting},
        {"kv_cache_usage_perc", "gauge", "Share of the cache that requests hold, 0 to 1.",
         i.n_kv_pages ? (double)i.n_kv_pages_used / i.n_kv_pages : 0},
        {"prompt_tokens_total", "counter", "Prompt tokens computed.", (double)i.n_prompt_tokens},
        {"prompt_tokens_cached_total", "counter", "Prompt tokens found in the cache.", (double)i.n_cached_tokens},
        {"generation_tokens_total", "counter", "Tokens drawn.", (double)i.n_output_tokens},
        {"prefix_cache_queries_total", "counter", "Prompt tokens looked for in the cache.",
         (double)(i.n_prompt_tokens + i.n_cached_tokens)},
        {"prefix_cache_hits_total", "counter", "Prompt tokens found in the cache.", (double)i.n_cached_tokens},
        {"num_preemptions_total", "counter", "Requests thrown out of a full cache.", (double)i.n_preemptions},
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++)
        base_buf_printf(b, "# HELP vllm:%s %s\n# TYPE vllm:%s %s\nvllm:%s{model_name=\"%s\",engine=\"0\"} %.17g\n",
                        rows[k].name, rows[k].help, rows[k].name, rows[k].type, rows[k].name, model, rows[k].value);
    base_buf_printf(b,
                    "# HELP vllm:cache_config_info How the cache is made.\n# TYPE vllm:cache_config_info gauge\n"
                    "vllm:cache_config_info{block_size=\"32\",num_gpu_blocks=\"%u\",cache_dtype=\"%s\"} 1\n",
                    i.n_kv_pages, i.kv_cache_dtype);
}

static void print_counts(base_buf *b, const serve_metrics *m, const char *model, const char *const *handlers,
                         uint32_t n) {
    static const char *const reasons[] = {[FL_FINISH_STOP] = "stop",
                                          [FL_FINISH_LENGTH] = "length",
                                          [FL_FINISH_CANCELED] = "abort",
                                          [FL_FINISH_ERROR] = "error"};
    base_buf_puts(b, "# HELP vllm:request_success_total Requests that ended, by reason.\n"
                     "# TYPE vllm:request_success_total counter\n");
    for (int i = FL_FINISH_STOP; i <= FL_FINISH_ERROR; i++)
        base_buf_printf(b, "vllm:request_success_total{model_name=\"%s\",engine=\"0\",finished_reason=\"%s\"} %llu\n",
                        model, reasons[i], (unsigned long long)m->finished[i]);
    base_buf_puts(b, "# HELP http_requests_total Calls answered.\n# TYPE http_requests_total counter\n");
    for (uint32_t h = 0; h < n; h++)
        for (uint32_t i = 0; i < METRICS_STATUSES_MAX; i++)
            if (m->calls[h][i])
                base_buf_printf(b, "http_requests_total{handler=\"%s\",status=\"%d\"} %llu\n", handlers[h], statuses[i],
                                (unsigned long long)m->calls[h][i]);
}

void metrics_print(const serve_metrics *m, fl_engine *e, const char *model, const char *const *handlers, uint32_t n,
                   uint32_t n_connections, base_buf *b) {
    print_engine(b, e, model);
    const struct {
        const char *name, *help;
        const metrics_histogram *h;
    } all[] = {{"time_to_first_token_seconds", "Call to first token.", &m->first_token},
               {"inter_token_latency_seconds", "Token to token.", &m->between_tokens},
               {"e2e_request_latency_seconds", "Call to end of the answer.", &m->whole},
               {"request_queue_time_seconds", "Waiting for the first step.", &m->queue},
               {"request_prefill_time_seconds", "First step to first token.", &m->prefill},
               {"request_decode_time_seconds", "First token to last.", &m->decode},
               {"request_prompt_tokens", "Tokens of prompts.", &m->prompt_tokens},
               {"request_generation_tokens", "Tokens of answers.", &m->output_tokens}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) print_histogram(b, all[i].name, all[i].help, model, all[i].h);
    print_counts(b, m, model, handlers, n);
    base_buf_printf(b,
                    "# HELP http_connections Open connections.\n# TYPE http_connections gauge\nhttp_connections %u\n"
                    "# HELP http_slow_readers_total Streams dropped because the client did not read.\n"
                    "# TYPE http_slow_readers_total counter\nhttp_slow_readers_total %llu\n",
                    n_connections, (unsigned long long)m->n_dropped);
}
