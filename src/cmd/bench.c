/* flambeau bench - speed of reading and of writing, through the public API only.
 *
 * A case is (prompt p, batch 1) or (generate n, batch b), each at a depth d of tokens that are in the cache before.
 * Both use random token ids and never end early. Steps are run here, one by one, so that the clock covers exactly the
 * tokens of the case:
 *   ppN   a prompt of d + p tokens; the clock starts at the step that ends the first d and stops with the first drawn
 *         token. The first d are cut so that a step ends there.
 *   tgN   b prompts of max(d, 1) tokens; the clock starts when all of them have drawn a token and stops n steps later,
 *         so that each step timed has b tokens; it is these b * n tokens that are counted.
 * Every case runs once unmeasured, then -r times; the median is what the table shows.
 */
#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/input.h"
#include "cmd/json.h"
#include "cmd/model.h"
#include "cmd/out.h"
#include "cmd/signal.h"
#include "cmd/term.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { LIST_MAX = 64, CASES_MAX = 512, STEP_TOKENS = 512, BATCH_MAX = 256, REPEATS_MAX = 100 };

typedef struct {
    uint32_t prompt, generate; /* one of them is 0 */
    uint32_t batch, depth;
    double samples[REPEATS_MAX];
    uint32_t n_samples;
} bench_case;

typedef struct {
    const cmd_options *o;
    fl_model *model;
    fl_engine *engine;
    fl_model_info model_info;
    bench_case *cases;
    size_t n_cases;
    uint64_t random;
    uint32_t *prompt; /* the longest prompt */
    fl_request *requests[BATCH_MAX];
    uint32_t n_requests;
} bench;

/* ---- lists ----- */

typedef struct {
    uint32_t v[LIST_MAX];
    uint32_t n;
} list;

static fl_status list_push(list *l, const char *option, double v, double high, fl_err *err) {
    if (v < 0 || v > high || v != nearbyint(v))
        return fl_fail(err, FL_EINVAL, "%s wants whole numbers from 0 to %.0f, found %g", option, high, v);
    if (l->n == LIST_MAX) return fl_fail(err, FL_EINVAL, "%s takes %d numbers, found more", option, LIST_MAX);
    l->v[l->n++] = (uint32_t)v;
    return FL_OK;
}

/* One part between commas: N, FIRST-LAST, FIRST-LAST+STEP, FIRST-LAST*FACTOR. */
static fl_status list_part(list *l, const char *option, char *part, double high, fl_err *err) {
    double first, last, step = 1;
    char *dash = strchr(part, '-'), *operator= dash ? strpbrk(dash, "+*") : NULL;
    char kind = operator? *operator: '+';
    if (operator) *operator= '\0';
    if (dash) *dash = '\0';
    if (!cmd_options_number(part, &first) || (dash && !cmd_options_number(dash + 1, &last)) ||
        (operator&& !cmd_options_number(operator+ 1, &step)))
        return fl_fail(err, FL_EINVAL, "%s wants a list like 1,8,32 or 1-32*2, found '%.40s'", option, part);
    if (!dash) return list_push(l, option, first, high, err);
    if (kind == '*' ? step < 2 || first < 1 : step < 1)
        return fl_fail(err, FL_EINVAL, "%s wants a range that grows, found '%.40s'", option, part);
    fl_status st = FL_OK;
    for (double v = first; st == FL_OK && v <= last; v = kind == '*' ? v * step : v + step) /* list_push bounds it */
        st = list_push(l, option, v, high, err);
    return st;
}

static fl_status list_parse(list *l, const char *option, const char *text, double high, fl_err *err) {
    l->n = 0;
    char *copy = base_strdup(text), *rest = copy, *part;
    if (!copy) return fl_fail(err, FL_ENOMEM, "no memory");
    fl_status st = FL_OK;
    while (st == FL_OK && (part = strsep(&rest, ",")) != NULL) st = list_part(l, option, part, high, err);
    base_free(copy);
    if (st == FL_OK && l->n == 0)
        st = fl_fail(err, FL_EINVAL, "%s wants a list like 1,8,32, found '%.40s'", option, text);
    return st;
}

static void add_case(bench *b, uint32_t prompt, uint32_t generate, uint32_t batch, uint32_t depth) {
    if ((prompt == 0 && generate == 0) || batch == 0) return;
    b->cases[b->n_cases++] = (bench_case){.prompt = prompt, .generate = generate, .batch = batch, .depth = depth};
}

static fl_status make_cases(bench *b, fl_err *err) {
    const cmd_options *o = b->o;
    list p, n, batch, depth;
    fl_status st = list_parse(&p, "-p", o->bench_prompt, 1 << 20, err);
    if (st == FL_OK) st = list_parse(&n, "-n", o->bench_generate, 1 << 20, err);
    if (st == FL_OK) st = list_parse(&batch, "-b", o->bench_batch, BATCH_MAX, err);
    if (st == FL_OK) st = list_parse(&depth, "-d", o->bench_depth, 1 << 20, err);
    if (st != FL_OK) return st;
    size_t n_cases = (size_t)depth.n * (p.n + (size_t)n.n * batch.n);
    if (n_cases > CASES_MAX) return fl_fail(err, FL_EINVAL, "bench takes %d cases, found %zu", CASES_MAX, n_cases);
    b->cases = base_calloc(n_cases, sizeof *b->cases);
    if (!b->cases) return fl_fail(err, FL_ENOMEM, "no memory for the cases");
    for (uint32_t d = 0; d < depth.n; d++) {
        for (uint32_t i = 0; i < p.n; i++) add_case(b, p.v[i], 0, 1, depth.v[d]);
        for (uint32_t i = 0; i < n.n; i++)
            for (uint32_t k = 0; k < batch.n; k++) add_case(b, 0, n.v[i], batch.v[k], depth.v[d]);
    }
    return b->n_cases ? FL_OK : fl_fail(err, FL_EINVAL, "bench has nothing to measure: -p and -n are 0");
}

static void case_name(const bench_case *c, char name[32]) {
    if (c->prompt)
        snprintf(name, 32, "pp%u", c->prompt);
    else if (c->batch == 1)
        snprintf(name, 32, "tg%u", c->generate);
    else
        snprintf(name, 32, "tg%uxb%u", c->generate, c->batch);
}

/* ---- measuring ----- */

/* Tokens drawn while the prompts of a batch are still being read, at most. */
static uint32_t head_start(const bench_case *c) { return c->batch * (c->depth / STEP_TOKENS + 2); }

static uint32_t positions(const bench_case *c) {
    return c->prompt ? c->depth + c->prompt + 1 : (c->depth ? c->depth : 1) + c->generate + head_start(c) + 2;
}

/* The largest step that ends a prompt's part exactly at depth. */
static uint32_t chunk_at(uint32_t depth) {
    if (depth == 0 || depth % STEP_TOKENS == 0) return STEP_TOKENS;
    uint32_t chunk = depth < STEP_TOKENS ? depth : STEP_TOKENS;
    while (depth % chunk != 0) chunk--;
    return chunk;
}

static uint32_t draw(bench *b) { /* splitmix64 */
    uint64_t z = b->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static fl_status start(bench *b, const bench_case *c, fl_err *err) {
    fl_request_options r;
    fl_request_options_init(&r);
    r.n_prompt = c->prompt ? c->depth + c->prompt : c->depth ? c->depth : 1;
    r.prompt = b->prompt;
    r.max_tokens = c->prompt ? 1 : c->generate + head_start(c) + 1;
    r.temperature = 0;
    r.ignore_eos = true;
    r.prefill_chunk = c->prompt ? chunk_at(c->depth) : 0;
    for (b->n_requests = 0; b->n_requests < c->batch; b->n_requests++) {
        for (size_t i = 0; i < r.n_prompt; i++)
            b->prompt[i] = (uint32_t)((uint64_t)draw(b) * b->model_info.n_vocab >> 32);
        fl_status st = fl_request_add(&b->requests[b->n_requests], b->engine, &r, err);
        if (st != FL_OK) return st;
        cmd_signal_watch(b->requests[b->n_requests]);
    }
    return FL_OK;
}

static void stop(bench *b) {
    for (uint32_t i = 0; i < b->n_requests; i++) {
        cmd_signal_forget(b->requests[i]);
        fl_request_close(b->requests[i]);
    }
    b->n_requests = 0;
}

/* Reads the events that are there; counts[i] grows by the tokens request i has drawn. */
static fl_status drain(bench *b, uint32_t counts[], fl_err *err) {
    fl_event event;
    fl_event_init(&event);
    for (uint32_t i = 0; i < b->n_requests; i++) {
        do {
            fl_status st = fl_request_next(b->requests[i], &event, 0, err);
            if (st != FL_OK) return st;
            if (event.kind == FL_EVENT_TOKEN) counts[i]++;
        } while (event.kind != FL_EVENT_NONE && event.kind != FL_EVENT_DONE);
        if (cmd_signal_caught()) return fl_fail(err, FL_ECANCELED, "the benchmark was stopped");
    }
    return FL_OK;
}

static uint32_t least(const uint32_t counts[], uint32_t n) {
    uint32_t v = UINT32_MAX;
    for (uint32_t i = 0; i < n; i++) v = counts[i] < v ? counts[i] : v;
    return v;
}

/* Runs the requests of a case to the end of what is timed; tokens per second in *speed. */
static fl_status measure(bench *b, const bench_case *c, double *speed, fl_err *err) {
    uint32_t counts[BATCH_MAX] = {0}, target = 0;
    fl_engine_info info;
    fl_engine_info_init(&info);
    fl_engine_get_info(b->engine, &info);
    uint64_t n_prompt = info.n_prompt_tokens, n_output = info.n_output_tokens;
    double begin = c->prompt && c->depth == 0 ? cmd_term_now_ms() : 0;
    for (;;) {
        bool busy;
        fl_status st = fl_engine_step(b->engine, &busy, err);
        double now = cmd_term_now_ms();
        if (st == FL_OK) st = drain(b, counts, err);
        if (st != FL_OK) return st;
        uint32_t drawn = least(counts, b->n_requests);
        fl_engine_get_info(b->engine, &info);
        if (c->prompt && drawn > 0) {
            *speed = c->prompt / (now - begin) * 1e3;
            return FL_OK;
        }
        if (c->prompt && begin <= 0 && info.n_prompt_tokens - n_prompt >= c->depth) begin = now;
        if (c->generate && begin <= 0 && drawn > 0) {
            begin = now;
            target = drawn + c->generate;
            n_output = info.n_output_tokens;
        }
        if (c->generate && target && drawn >= target) {
            *speed = (double)(info.n_output_tokens - n_output) / (now - begin) * 1e3;
            return FL_OK;
        }
        if (!busy) return fl_fail(err, FL_EDEVICE, "the engine stopped before the benchmark was done");
    }
}

static fl_status run_case(bench *b, bench_case *c, fl_err *err) {
    char name[32];
    case_name(c, name);
    for (uint32_t i = 0; i <= b->o->repeats; i++) {
        double speed = 0;
        fl_status st = start(b, c, err);
        if (st == FL_OK) st = measure(b, c, &speed, err);
        stop(b);
        if (st != FL_OK) return fl_wrap(err, st, "%s at depth %u", name, c->depth);
        if (i > 0) c->samples[c->n_samples++] = speed; /* the first warms up */
    }
    return FL_OK;
}

/* ---- results ----- */

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

typedef struct {
    double min, median, max;
} summary;

static summary summarise(const bench_case *c) {
    double v[REPEATS_MAX];
    uint32_t n = c->n_samples;
    memcpy(v, c->samples, n * sizeof *v);
    qsort(v, n, sizeof *v, compare);
    return (summary){v[0], (v[(n - 1) / 2] + v[n / 2]) / 2, v[n - 1]};
}

/* "model name : X" of /proc/cpuinfo. */
static void cpu_model(char *name, size_t size) {
    snprintf(name, size, "unknown");
    FILE *f = fopen("/proc/cpuinfo", "r");
    char line[512];
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon || colon[1] == '\0') continue;
        snprintf(name, size, "%s", colon + 2);
        name[strcspn(name, "\n")] = '\0';
        break;
    }
    if (f) fclose(f);
}

static void json_machine(base_buf *out, const fl_engine_info *e) {
    char name[256];
    cpu_model(name, sizeof name);
    cmd_json_key(out, "machine");
    cmd_json_open(out, '{');
    cmd_json_key(out, "cpu");
    cmd_json_string(out, name);
    cmd_json_key(out, "device");
    cmd_json_string(out, e->device);
    cmd_json_key(out, "isa");
    cmd_json_string(out, e->cpu_isa);
    cmd_json_key(out, "threads");
    cmd_json_count(out, e->n_threads);
    cmd_json_close(out, '}');
}

static const char *model_name(const bench *b) { return b->o->shape ? b->o->shape : b->o->args[0]; }

static void json_model(base_buf *out, const bench *b) {
    const fl_model_info *m = &b->model_info;
    cmd_json_key(out, "model");
    cmd_json_open(out, '{');
    cmd_json_key(out, "model");
    cmd_json_string(out, model_name(b));
    cmd_json_key(out, "name");
    cmd_json_string(out, m->name);
    cmd_json_key(out, "architecture");
    cmd_json_string(out, m->architecture);
    cmd_json_key(out, "weight_types");
    cmd_json_string(out, m->weight_types);
    cmd_json_key(out, "parameters");
    cmd_json_count(out, m->n_params);
    cmd_json_key(out, "file_bytes");
    cmd_json_count(out, m->file_bytes);
    cmd_json_close(out, '}');
}

static void json_case(base_buf *out, const bench_case *c) {
    char name[32];
    case_name(c, name);
    summary s = summarise(c);
    cmd_json_open(out, '{');
    cmd_json_key(out, "test");
    cmd_json_string(out, name);
    cmd_json_key(out, "depth");
    cmd_json_count(out, c->depth);
    cmd_json_key(out, "tokens_per_s");
    cmd_json_open(out, '{');
    cmd_json_key(out, "min");
    cmd_json_ms(out, s.min);
    cmd_json_key(out, "median");
    cmd_json_ms(out, s.median);
    cmd_json_key(out, "max");
    cmd_json_ms(out, s.max);
    cmd_json_close(out, '}');
    cmd_json_key(out, "samples");
    cmd_json_open(out, '[');
    for (uint32_t i = 0; i < c->n_samples; i++) cmd_json_ms(out, c->samples[i]);
    cmd_json_close(out, ']');
    cmd_json_close(out, '}');
}

static void as_json(const bench *b, const fl_engine_info *e, base_buf *out) {
    cmd_json_open(out, '{');
    json_machine(out, e);
    json_model(out, b);
    cmd_json_key(out, "profile");
    cmd_json_string(out, e->profile);
    cmd_json_key(out, "weight_bytes");
    cmd_json_count(out, e->weight_bytes);
    cmd_json_key(out, "weight_bytes_per_token");
    cmd_json_count(out, e->token_bytes);
    cmd_json_key(out, "results");
    cmd_json_open(out, '[');
    for (size_t i = 0; i < b->n_cases; i++) json_case(out, &b->cases[i]);
    cmd_json_close(out, ']');
    cmd_json_key(out, "rss_peak_bytes");
    cmd_json_count(out, cmd_term_rss_peak());
    cmd_json_close(out, '}');
    base_buf_putc(out, '\n');
}

/* A table is rows of cells; the three formats only differ in what stands between them. */
enum { COLUMNS = 12, CELL_BYTES = 64 };
typedef char row[COLUMNS][CELL_BYTES];
static const char *const heads[COLUMNS] = {"model", "types", "device", "isa", "threads", "profile",
                                           "test",  "depth", "tok/s",  "min", "max",     "MB/tok"};
static const int widths[COLUMNS] = {-20, -14, -6, -8, 7, -7, -11, 6, 9, 9, 9, 9}; /* below 0: to the left */

static void print_row(base_buf *out, const char *format, const char *const cells[COLUMNS]) {
    bool csv = strcmp(format, "csv") == 0, md = strcmp(format, "md") == 0;
    for (int i = 0; i < COLUMNS; i++) {
        if (csv)
            base_buf_printf(out, strchr(cells[i], ',') ? "%s\"%s\"" : "%s%s", i ? "," : "", cells[i]);
        else if (md)
            base_buf_printf(out, "| %s%s", cells[i], i + 1 < COLUMNS ? " " : " |");
        else
            base_buf_printf(out, "%*s%s", widths[i], cells[i], i + 1 < COLUMNS ? " " : "");
    }
    base_buf_putc(out, '\n');
}

static void fill_row(row r, const bench *b, const fl_engine_info *e, const bench_case *c) {
    const char *name = model_name(b), *slash = strrchr(name, '/');
    summary s = summarise(c);
    snprintf(r[0], CELL_BYTES, "%s", slash ? slash + 1 : name);
    snprintf(r[1], CELL_BYTES, "%s", b->model_info.weight_types);
    snprintf(r[2], CELL_BYTES, "%s", e->device);
    snprintf(r[3], CELL_BYTES, "%s", e->cpu_isa);
    snprintf(r[4], CELL_BYTES, "%u", e->n_threads);
    snprintf(r[5], CELL_BYTES, "%s", e->profile);
    case_name(c, r[6]);
    snprintf(r[7], CELL_BYTES, "%u", c->depth);
    snprintf(r[8], CELL_BYTES, "%.2f", s.median);
    snprintf(r[9], CELL_BYTES, "%.2f", s.min);
    snprintf(r[10], CELL_BYTES, "%.2f", s.max);
    snprintf(r[11], CELL_BYTES, "%.1f", (double)e->token_bytes / 1e6); /* of weights, where a token is alone */
}

static void as_table(const bench *b, const fl_engine_info *e, const char *format, base_buf *out) {
    print_row(out, format, heads);
    if (strcmp(format, "md") == 0) {
        for (int i = 0; i < COLUMNS; i++) base_buf_puts(out, widths[i] < 0 ? "| --- " : "| ---: ");
        base_buf_puts(out, "|\n");
    }
    for (size_t i = 0; i < b->n_cases; i++) {
        row r;
        const char *cells[COLUMNS];
        fill_row(r, b, e, &b->cases[i]);
        for (int k = 0; k < COLUMNS; k++) cells[k] = r[k];
        print_row(out, format, cells);
    }
}

/* ---- the command ----- */

static fl_status open_engine(bench *b, fl_err *err) {
    fl_engine_options options;
    cmd_model_engine_options(b->o, &options);
    uint32_t longest = 0;
    uint64_t room = 0;
    options.max_num_seqs = 1;
    for (size_t i = 0; i < b->n_cases; i++) {
        const bench_case *c = &b->cases[i];
        uint64_t need = (uint64_t)c->batch * (positions(c) + 64);
        if (need > room) room = need;
        if (positions(c) > longest) longest = positions(c);
        if (c->batch > options.max_num_seqs) options.max_num_seqs = c->batch;
    }
    if (!options.max_model_len) options.max_model_len = longest;
    options.kv_cache_tokens = room > options.max_model_len ? room : options.max_model_len;
    options.max_num_batched_tokens = STEP_TOKENS;
    b->prompt = base_calloc(longest, sizeof *b->prompt);
    if (!b->prompt) return fl_fail(err, FL_ENOMEM, "no memory for the prompts");
    return cmd_model_engine(&b->engine, b->model, &options, b->o->print_plan, err);
}

static fl_status run_cases(bench *b, fl_err *err) {
    fl_status st = FL_OK;
    for (size_t i = 0; st == FL_OK && i < b->n_cases; i++) {
        char label[64], name[32];
        case_name(&b->cases[i], name);
        snprintf(label, sizeof label, "%s at depth %u", name, b->cases[i].depth);
        if (cmd_term_is_fancy()) fprintf(stderr, "\r\033[K%zu of %zu: %s", i + 1, b->n_cases, label);
        st = run_case(b, &b->cases[i], err);
    }
    if (cmd_term_is_fancy()) fputs("\r\033[K", stderr);
    return st;
}

static fl_status print(const bench *b, const char *format, fl_err *err) {
    fl_engine_info info;
    fl_engine_info_init(&info);
    fl_engine_get_info(b->engine, &info);
    base_buf out = {0};
    if (b->o->json)
        as_json(b, &info, &out);
    else
        as_table(b, &info, format, &out);
    fl_status st = cmd_out_flush(&out, err);
    base_buf_clear(&out);
    return st;
}

/* A shape is a name, or the file of a configuration. */
static fl_status open_shape(fl_model **out, const cmd_options *o, fl_err *err) {
    base_buf config = {0};
    *out = NULL;
    bool file = access(o->shape, R_OK) == 0;
    fl_status st = file ? cmd_input_read(o->shape, &config, err) : FL_OK;
    if (st == FL_OK) st = fl_model_open_shape(out, file ? config.data ? config.data : "{}" : o->shape, o->quant, err);
    base_buf_clear(&config);
    return st;
}

/* Whether the options go together; CMD_OK, or the exit code. */
static int check_model_options(const cmd_options *o, fl_err *err) {
    bool dummy = o->load_format && strcmp(o->load_format, "dummy") == 0;
    if (o->load_format && !dummy && strcmp(o->load_format, "auto") != 0)
        return cmd_usage(err, "--load-format wants auto or dummy, found '%.40s'", o->load_format);
    if (!dummy && (o->shape || o->quant)) return cmd_usage(err, "--shape and --quant want --load-format dummy");
    if (dummy && !o->shape) return cmd_usage(err, "--load-format dummy wants a --shape");
    if (o->n_args != !dummy)
        return cmd_usage(err, dummy ? "--shape stands for MODEL; found '%.60s' as well" : "bench wants MODEL%.0s",
                         dummy ? o->args[0] : "");
    return CMD_OK;
}

int cmd_bench(const cmd_options *o, fl_err *err) {
    if (o->n_args == 2 && strcmp(o->args[0], "startup") == 0) return cmd_startup(o, err);
    if (o->n_args == 2)
        return cmd_usage(err, "bench wants MODEL or startup MODEL, found one more: '%.60s'", o->args[1]);
    const char *format = o->bench_format ? o->bench_format : "table";
    if (strcmp(format, "table") != 0 && strcmp(format, "csv") != 0 && strcmp(format, "md") != 0)
        return cmd_usage(err, "-o wants table, csv or md, found '%.40s'; --json is an option of its own", format);
    bench b = {.o = o, .random = 1};
    int code = check_model_options(o, err);
    if (code == CMD_OK && make_cases(&b, err) != FL_OK) code = CMD_USAGE;
    if (code == CMD_OK) {
        fl_status st = o->shape ? open_shape(&b.model, o, err) : cmd_model_open(&b.model, o->args[0], err);
        if (st == FL_EINVAL && o->shape) code = CMD_USAGE;
        if (st == FL_OK) {
            fl_model_info_init(&b.model_info);
            fl_model_get_info(b.model, &b.model_info);
            st = open_engine(&b, err);
            if (st == FL_EINVAL) code = CMD_USAGE;
        }
        if (st == FL_OK) st = run_cases(&b, err);
        if (st == FL_OK) st = print(&b, format, err);
        if (code == CMD_OK) code = cmd_exit(st);
    }
    fl_engine_close(b.engine);
    fl_model_close(b.model);
    base_free(b.cases);
    base_free(b.prompt);
    return code;
}
