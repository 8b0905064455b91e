/* flambeau bench startup - from the start of a process to its first token, with the file out of and in the page cache.
 *
 * Each sample is a process of its own: this program runs itself, as `run MODEL --tokens 1 -n 1 --json`, and takes the
 * times that it reports: start (until the model is opened), load (opening model and engine), first token (one position).
 * For a cold sample the kernel is asked to forget the file's pages first; how much of it stayed is shown, because other
 * processes that have it mapped keep it.
 */
#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/json.h"
#include "cmd/model.h"
#include "cmd/out.h"
#include "cmd/signal.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_PHASES = 4, SAMPLES_MAX = 100, ARGS_MAX = 32 };

static const char *const phases[N_PHASES] = {"start_ms", "load_ms", "first_token_ms", "total_ms"};

typedef struct {
    double ms[N_PHASES][SAMPLES_MAX];
    double resident; /* share of the file in the page cache before the first sample */
} series;

/* Drops the file from the page cache if drop is set; the share of its pages that are there afterwards, -1: unknown. */
static double page_cache(const char *path, bool drop) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    if (fd < 0) return -1;
    if (drop) (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    size_t bytes = fstat(fd, &info) == 0 && info.st_size > 0 ? (size_t)info.st_size : 0;
    size_t page = (size_t)sysconf(_SC_PAGESIZE), n = (bytes + page - 1) / page, here = 0;
    void *map = bytes ? mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;
    unsigned char *pages = map != MAP_FAILED ? base_malloc(n) : NULL;
    bool known = pages && mincore(map, bytes, pages) == 0;
    for (size_t i = 0; known && i < n; i++) here += pages[i] & 1;
    base_free(pages);
    if (map != MAP_FAILED) munmap(map, bytes);
    close(fd);
    return known ? (double)here / (double)n : -1;
}

/* The child's command line; texts of numbers go to room. A seed is given because one that is drawn may exceed the integers
 * that this end's JSON reader takes. */
static void arguments(const cmd_options *o, const char *path, const char **argv, char room[2][16]) {
    const char *const fixed[] = {"flambeau", "run",           path, "--tokens",     "1",      "-n", "1",
                                 "--json",   "--temperature", "0",  "--ignore-eos", "--seed", "1"};
    size_t n = 0;
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) argv[n++] = fixed[i];
    snprintf(room[0], sizeof room[0], "%u", o->threads);
    snprintf(room[1], sizeof room[1], "%u", o->max_model_len);
    const struct {
        const char *name, *value;
    } given[] = {{"--threads", o->threads ? room[0] : NULL},
                 {"--max-model-len", o->max_model_len ? room[1] : NULL},
                 {"--cpu-isa", o->cpu_isa},
                 {"--compute", o->compute},
                 {"--kv-cache-dtype", o->kv_cache_dtype},
                 {"--device", o->device}};
    for (size_t i = 0; i < sizeof given / sizeof *given; i++) {
        if (!given[i].value) continue;
        argv[n++] = given[i].name;
        argv[n++] = given[i].value;
    }
    if (o->enforce_eager || o->opt_level == 0) argv[n++] = "--enforce-eager";
    argv[n] = NULL;
}

/* Runs argv with its stdout into b. */
static fl_status run_child(const char *const *argv, base_buf *b, fl_err *err) {
    extern char **environ;
    int ends[2], code = 0;
    pid_t child;
    posix_spawn_file_actions_t actions;
    if (pipe2(ends, O_CLOEXEC) != 0) return fl_fail(err, FL_EIO, "no pipe: %s", strerror(errno));
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    int failed = posix_spawn(&child, "/proc/self/exe", &actions, NULL, (char *const *)(uintptr_t)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    char block[4096];
    ssize_t n = 0;
    while (!failed && (n = read(ends[0], block, sizeof block)) != 0) {
        if (n < 0 && errno != EINTR) break;
        if (n > 0) base_buf_append(b, block, (size_t)n);
    }
    close(ends[0]);
    if (failed) return fl_fail(err, FL_EIO, "cannot start flambeau again: %s", strerror(failed));
    while (waitpid(child, &code, 0) < 0 && errno == EINTR) continue;
    if (cmd_signal_caught()) return fl_fail(err, FL_ECANCELED, "the benchmark was stopped");
    if (code != 0) return fl_fail(err, FL_EIO, "flambeau run %.200s failed; its error is above", argv[2]);
    return b->failed ? fl_fail(err, FL_ENOMEM, "no memory for a sample") : FL_OK;
}

static fl_status sample(const char *const *argv, series *s, uint32_t i, fl_err *err) {
    base_buf b = {0};
    fl_status st = run_child(argv, &b, err);
    json_t *root = st == FL_OK ? json_loadb(b.data ? b.data : "", b.len, JSON_ALLOW_NUL, NULL) : NULL;
    const json_t *t = json_object_get(root, "timings");
    double load = json_number_value(json_object_get(t, "load_ms"));
    double first = json_number_value(json_object_get(t, "prefill_ms"));
    double total = json_number_value(json_object_get(t, "start_to_first_token_ms"));
    if (st == FL_OK && !(total > 0)) st = fl_fail(err, FL_EFORMAT, "flambeau run gave no times");
    double start = total - load - first;
    const double ms[N_PHASES] = {start > 0 ? start : 0, load, first, total};
    for (int p = 0; p < N_PHASES; p++) s->ms[p][i] = ms[p];
    json_decref(root);
    base_buf_clear(&b);
    return st;
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print(base_buf *b, bool json, const char *cache, series *s, uint32_t n) {
    for (int p = 0; p < N_PHASES; p++) qsort(s->ms[p], n, sizeof(double), by_value);
    if (!json) {
        base_buf_printf(b, "%-6s", cache);
        for (int p = 0; p < N_PHASES; p++) base_buf_printf(b, " %14.1f", s->ms[p][n / 2]);
        base_buf_printf(b, " %8.1f - %.1f %10.0f%%\n", s->ms[N_PHASES - 1][0], s->ms[N_PHASES - 1][n - 1],
                        s->resident * 100);
        return;
    }
    cmd_json_open(b, '{');
    cmd_json_key(b, "cache");
    cmd_json_string(b, cache);
    cmd_json_key(b, "file_in_cache");
    cmd_json_ms(b, s->resident);
    for (int p = 0; p < N_PHASES; p++) {
        cmd_json_key(b, phases[p]);
        cmd_json_open(b, '{');
        cmd_json_key(b, "min");
        cmd_json_ms(b, s->ms[p][0]);
        cmd_json_key(b, "median");
        cmd_json_ms(b, s->ms[p][n / 2]);
        cmd_json_key(b, "max");
        cmd_json_ms(b, s->ms[p][n - 1]);
        cmd_json_close(b, '}');
    }
    cmd_json_close(b, '}');
}

static fl_status measure(const cmd_options *o, const char *path, base_buf *b, fl_err *err) {
    const char *argv[ARGS_MAX];
    char room[2][16];
    series *s = base_calloc(1, sizeof *s);
    if (!s) return fl_fail(err, FL_ENOMEM, "no memory for the samples");
    arguments(o, path, argv, room);
    fl_status st = FL_OK;
    for (int warm = 0; st == FL_OK && warm < 2; warm++) {
        s->resident = page_cache(path, !warm);
        for (uint32_t i = 0; st == FL_OK && i < o->repeats; i++) {
            if (!warm && i > 0) (void)page_cache(path, true);
            st = sample(argv, s, i, err);
        }
        if (st == FL_OK) print(b, o->json, warm ? "warm" : "cold", s, o->repeats);
    }
    base_free(s);
    return st;
}

int cmd_startup(const cmd_options *o, fl_err *err) {
    if (strcmp(o->bench_prompt, "512") != 0 || strcmp(o->bench_generate, "128") != 0 ||
        strcmp(o->bench_batch, "1") != 0 || strcmp(o->bench_depth, "0") != 0 || o->bench_format || o->print_plan)
        return cmd_usage(err, "bench startup takes -r, --json and how the model is run; -p, -n, -b, -d and -o have no "
                              "effect");
    char *path;
    base_buf b = {0};
    fl_status st = cmd_model_path(&path, o->args[1], err);
    json_set_alloc_funcs(base_malloc, base_free);
    if (o->json) {
        cmd_json_open(&b, '{');
        cmd_json_key(&b, "model");
        cmd_json_string(&b, st == FL_OK ? path : NULL);
        cmd_json_key(&b, "results");
        cmd_json_open(&b, '[');
    } else {
        base_buf_printf(&b, "%-6s %14s %14s %14s %14s %17s %11s\n", "cache", "start ms", "load ms", "first token ms",
                        "total ms", "min - max", "file cached");
    }
    if (st == FL_OK) st = measure(o, path, &b, err);
    if (o->json) base_buf_puts(&b, "]}\n");
    if (st == FL_OK) st = cmd_out_flush(&b, err);
    base_buf_clear(&b);
    base_free(path);
    return cmd_exit(st);
}
