/* Fetching a repository, step by step:
 *     ask the hub which commit the revision is, and for its files
 *     choose the files that a model needs; if all are there, done
 *     lock the repository (wait for another pull of it, which leaves less to do)
 *     check the free space
 *     download what is missing, file by file, each in parts side by side
 *     hash what came, give it its name under blobs/
 *     link it into the snapshot, then write the ref
 * Every failure leaves what is complete, and the parts of what is not; the next pull goes on there. */
#include "base/mem.h"
#include "hub/blob.h"
#include "hub/repo.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum {
    LISTING_MAX = 32 << 20, /* bytes of one page */
    PAGES_MAX = 1000,
    SLACK_BYTES = 4 << 20,
    WAIT_MS = 100,
};

typedef struct {
    const hub_repo *r;
    const hub_watch *watch;
    hub_site site;
    hub_net *net;
    hub_files files;
    const hub_file *first;
    char commit[41];
    char *folder;         /* models--ORG--NAME */
    base_buf path, url;   /* scratch */
    uint64_t base, total; /* of the current phase */
    hub_phase phase;
    hub_progress shown;
} fetch;

static bool cancelled(void *user) {
    fetch *f = user;
    return f->watch->cancelled && f->watch->cancelled(f->watch->user);
}

/* Counts never fall within a phase, whatever is fetched again. */
static void report(fetch *f, hub_phase phase, uint64_t done, uint64_t total) {
    if (f->shown.phase == phase && done < f->shown.done) done = f->shown.done;
    f->shown = (hub_progress){phase, done > total ? total : done, total};
    if (f->watch->progress) f->watch->progress(f->watch->user, &f->shown);
}

static bool tick(void *user, uint64_t done) {
    fetch *f = user;
    report(f, f->phase, f->base + done, f->total);
    return !cancelled(f);
}

/* The path FOLDER/a/b in f->path; NULL without memory. */
static const char *in_folder(fetch *f, const char *a, const char *b) {
    f->path.len = 0;
    return base_buf_printf(&f->path, "%s/%s/%s", f->folder, a, b) ? f->path.data : NULL;
}

/* ---- what the hub says ------------------------------------------------------------------ */

static void put_encoded(base_buf *b, const char *text, const char *kept) {
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || strchr(kept, c);
        (void)base_buf_printf(b, plain ? "%c" : "%%%02X", c);
    }
}

static FL_CHECKED fl_status get_json(fetch *f, const char *url, char *next, json_t **out, fl_err *err) {
    base_buf text = {0};
    json_error_t why;
    *out = NULL;
    fl_status st = hub_net_get(f->net, url, LISTING_MAX, &text, next, cancelled, f, err);
    if (st == FL_OK) {
        *out = json_loadb(text.data ? text.data : "", text.len, JSON_REJECT_DUPLICATES, &why);
        if (!*out) st = fl_fail(err, FL_EFORMAT, "the hub's answer is no JSON (line %d)", why.line);
    }
    base_buf_clear(&text);
    return st;
}

static FL_CHECKED fl_status ask_commit(fetch *f, fl_err *err) {
    json_t *o;
    f->url.len = 0;
    (void)base_buf_printf(&f->url, "%s/api/models/%s/%s/revision/", f->site.endpoint, f->r->org, f->r->name);
    put_encoded(&f->url, f->r->revision, "-_.~");
    if (f->url.failed) return fl_fail(err, FL_ENOMEM, "a URL");
    fl_status st = get_json(f, f->url.data, NULL, &o, err);
    const char *sha = st == FL_OK ? json_string_value(json_object_get(o, "sha")) : NULL;
    if (st == FL_OK && (!sha || strlen(sha) != 40 || !hub_repo_oid_valid(sha)))
        st = fl_fail(err, FL_EFORMAT, "the hub gives no commit for revision %s", f->r->revision);
    if (st == FL_OK) snprintf(f->commit, sizeof f->commit, "%s", sha);
    json_decref(o);
    return st;
}

/* Texts of a server reach a terminal only without control characters. */
static fl_status bad_entry(const char *path, const char *what, fl_err *err) {
    char shown[80];
    snprintf(shown, sizeof shown, "%.79s", path);
    for (char *c = shown; *c; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f) *c = '?';
    return fl_fail(err, FL_EFORMAT, "the hub lists a file with %s, '%s'; nothing was fetched", what, shown);
}

static FL_CHECKED fl_status add_entry(fetch *f, const json_t *o, fl_err *err) {
    const char *path = json_string_value(json_object_get(o, "path")),
               *type = json_string_value(json_object_get(o, "type"));
    if (!path || !type) return fl_fail(err, FL_EFORMAT, "the hub's listing has an entry without path and type");
    if (!hub_repo_path_valid(path)) return bad_entry(path, "an unsafe name", err);
    if (strcmp(type, "file") != 0) return FL_OK;
    const json_t *lfs = json_object_get(o, "lfs"), *from = json_is_object(lfs) ? lfs : o;
    const char *oid = json_string_value(json_object_get(from, "oid"));
    const json_t *size = json_object_get(from, "size");
    size_t digits = from == lfs ? 64 : 40;
    if (!oid || strlen(oid) != digits || !hub_repo_oid_valid(oid)) return bad_entry(path, "a malformed hash", err);
    if (!json_is_integer(size) || json_integer_value(size) < 0 ||
        (uint64_t)json_integer_value(size) > HUB_BLOB_BYTES_MAX)
        return bad_entry(path, "an impossible size", err);
    hub_file file = {.path = path, .oid = oid, .bytes = (uint64_t)json_integer_value(size), .lfs = from == lfs};
    return hub_files_add(&f->files, file, err);
}

static FL_CHECKED fl_status ask_files(fetch *f, fl_err *err) {
    char *next = base_malloc(HUB_NET_URL_MAX);
    if (!next) return fl_fail(err, FL_ENOMEM, "a URL");
    snprintf(next, HUB_NET_URL_MAX, "%s/api/models/%s/%s/tree/%s?recursive=true", f->site.endpoint, f->r->org,
             f->r->name, f->commit);
    fl_status st = FL_OK;
    size_t n_endpoint = strlen(f->site.endpoint);
    for (int page = 0; st == FL_OK && *next; page++) {
        json_t *list, *entry;
        size_t i;
        if (page == PAGES_MAX) st = fl_fail(err, FL_EFORMAT, "the hub's listing does not end");
        if (strncmp(next, f->site.endpoint, n_endpoint) != 0 || next[n_endpoint] != '/')
            st = fl_fail(err, FL_EFORMAT, "the hub's listing goes on at another place");
        if (st != FL_OK) break;
        f->url.len = 0;
        if (!base_buf_puts(&f->url, next)) st = fl_fail(err, FL_ENOMEM, "a URL");
        if (st == FL_OK) st = get_json(f, f->url.data, next, &list, err);
        if (st != FL_OK) break;
        if (!json_is_array(list)) st = fl_fail(err, FL_EFORMAT, "the hub's listing is no list");
        json_array_foreach(list, i, entry) {
            if (st == FL_OK) st = add_entry(f, entry, err);
        }
        json_decref(list);
    }
    base_free(next);
    return st;
}

/* ---- what is there ---------------------------------------------------------------------- */

/* A file itself: a link to one would lead to bytes that nobody has checked. */
static bool is_file(const char *path, uint64_t bytes) {
    struct stat s;
    return path && lstat(path, &s) == 0 && S_ISREG(s.st_mode) && (uint64_t)s.st_size == bytes;
}

static bool have_blob(fetch *f, const hub_file *x) { return is_file(in_folder(f, "blobs", x->oid), x->bytes); }

/* Where a file of the snapshot leads: ../../blobs/OID, with a step up for each folder in its path. */
static bool link_target(const hub_file *x, base_buf *target) {
    (void)base_buf_puts(target, "../../");
    for (const char *c = x->path; *c; c++)
        if (*c == '/') (void)base_buf_puts(target, "../");
    return base_buf_printf(target, "blobs/%s", x->oid);
}

/* The snapshot has x: as the link that belongs there, or (a client without links) as the file. */
static bool have_file(fetch *f, const char *snapshot, const hub_file *x) {
    char found[HUB_REPO_PATH_MAX + 128];
    base_buf target = {0};
    const char *path = in_folder(f, snapshot, x->path);
    if (is_file(path, x->bytes)) return true;
    ssize_t n = path ? readlink(path, found, sizeof found) : -1;
    bool ok =
        n > 0 && link_target(x, &target) && (size_t)n == target.len && memcmp(found, target.data, target.len) == 0;
    base_buf_clear(&target);
    return ok && have_blob(f, x);
}

/* Whether the snapshot and the ref are as they will be. */
static bool all_there(fetch *f) {
    char known[41], commit[64];
    if (hub_repo_commit(&f->site, f->r, known, NULL) != FL_OK || strcmp(known, f->commit) != 0) return false;
    snprintf(commit, sizeof commit, "snapshots/%s", f->commit);
    for (size_t i = 0; i < f->files.n; i++) {
        const hub_file *x = &f->files.files[i];
        if (x->wanted && !have_file(f, commit, x)) return false;
    }
    return true;
}

static FL_CHECKED fl_status wait_for_lock(fetch *f, int *lock, fl_err *err) {
    for (;;) { /* ends with the other pull, or by the caller's wish */
        fl_status st = hub_repo_lock(&f->site, f->r, lock, err);
        if (st != FL_OK || *lock >= 0) return st;
        if (cancelled(f)) return fl_fail(err, FL_ECANCELED, "interrupted while waiting for another pull");
        if (f->watch->progress) f->watch->progress(f->watch->user, &(hub_progress){.phase = HUB_WAITING});
        (void)nanosleep(&(struct timespec){0, WAIT_MS * 1000000L}, NULL);
    }
}

static FL_CHECKED fl_status check_room(const char *folder, uint64_t need, const char *variable, fl_err *err) {
    struct statvfs v;
    if (need == 0) return FL_OK;
    if (statvfs(folder, &v) != 0) return fl_fail(err, FL_EIO, "%s: %s", folder, strerror(errno));
    uint64_t have = (uint64_t)v.f_bavail * v.f_frsize;
    if (have >= need + SLACK_BYTES) return FL_OK;
    return fl_fail(err, FL_EIO, "needs %llu MB of disk in %s, %llu MB are free; free some, or set %s",
                   (unsigned long long)(need + SLACK_BYTES + 999999) / 1000000, folder,
                   (unsigned long long)have / 1000000, variable);
}

/* ---- fetching --------------------------------------------------------------------------- */

static FL_CHECKED fl_status fetch_blob(fetch *f, const hub_file *x, fl_err *err) {
    const char *stem = in_folder(f, "blobs", x->oid);
    f->url.len = 0;
    (void)base_buf_printf(&f->url, "%s/%s/%s/resolve/%s/", f->site.endpoint, f->r->org, f->r->name, f->commit);
    put_encoded(&f->url, x->path, "-_.~/");
    if (!stem || f->url.failed) return fl_fail(err, FL_ENOMEM, "a URL");
    hub_blob_job job = {f->net, f->url.data, stem, x->bytes, tick, f};
    fl_status st = hub_blob_fetch(&job, err);
    return st == FL_OK ? FL_OK : fl_wrap(err, st, "%.100s", x->path);
}

static FL_CHECKED fl_status keep_blob(fetch *f, const hub_file *x, fl_err *err) {
    base_buf path = {0};
    char hex[BASE_SHA256_HEX_BYTES];
    const char *stem = in_folder(f, "blobs", x->oid);
    if (!stem || !base_buf_puts(&path, stem)) return fl_fail(err, FL_ENOMEM, "a path");
    hub_blob_job job = {f->net, NULL, stem, x->bytes, tick, f};
    fl_status st = hub_blob_hash(&job, !x->lfs, hex, err);
    if (st == FL_OK && strcmp(hex, x->oid) != 0) {
        hub_blob_discard(stem);
        st = fl_fail(err, FL_EFORMAT, "%.100s has the checksum %.16s..., wanted %.16s...; it was not kept, pull again",
                     x->path, hex, x->oid);
    }
    if (st == FL_OK) st = hub_blob_keep(stem, path.data, err);
    base_buf_clear(&path);
    return st;
}

/* Marks in wanted what is to be fetched, counts it, checks that there is room. */
static FL_CHECKED fl_status plan(fetch *f, bool *missing, fl_err *err) {
    uint64_t need = 0, all = 0;
    size_t n = 0;
    char what[128];
    for (size_t i = 0; i < f->files.n; i++) {
        const hub_file *x = &f->files.files[i];
        if (!x->wanted) continue;
        n++;
        all += x->bytes;
        missing[i] = !have_blob(f, x);
        for (size_t k = 0; missing[i] && k < i; k++) /* two names of one content */
            if (missing[k] && strcmp(f->files.files[k].oid, x->oid) == 0) missing[i] = false;
        if (!missing[i]) continue;
        const char *stem = in_folder(f, "blobs", x->oid);
        uint64_t has = stem ? hub_blob_allocated(stem) : 0;
        f->total += x->bytes;
        need += x->bytes > has ? x->bytes - has : 0;
    }
    if (f->first && n == 1)
        snprintf(what, sizeof what, "%.100s", f->first->path);
    else
        snprintf(what, sizeof what, "%zu files", n);
    if (f->watch->plan) {
        char name[2 * HUB_REPO_NAME_MAX + 2];
        snprintf(name, sizeof name, "%s/%s", f->r->org, f->r->name);
        f->watch->plan(f->watch->user, &(hub_plan){name, what, f->site.cache, all});
    }
    return check_room(f->folder, need, "HF_HOME", err);
}

static FL_CHECKED fl_status fetch_missing(fetch *f, fl_err *err) {
    bool *missing = base_calloc(f->files.n ? f->files.n : 1, sizeof *missing);
    fl_status st = missing ? FL_OK : fl_fail(err, FL_ENOMEM, "a plan of %zu files", f->files.n);
    if (st == FL_OK) st = plan(f, missing, err);
    for (int pass = 0; pass < 2; pass++) {
        f->phase = pass ? HUB_VERIFYING : HUB_DOWNLOADING;
        f->base = 0;
        for (size_t i = 0; st == FL_OK && i < f->files.n; i++) {
            const hub_file *x = &f->files.files[i];
            if (!missing[i]) continue;
            st = pass ? keep_blob(f, x, err) : fetch_blob(f, x, err);
            f->base += x->bytes;
        }
    }
    base_free(missing);
    return st;
}

/* ---- the snapshot ----------------------------------------------------------------------- */

/* Opens the folder of path's last component below fd, making the ones on the way; links are not followed. The
 * result is the caller's; -1 with errno. */
static int open_beneath(int root, const char *path, const char **last) {
    int at = dup(root);
    *last = path;
    for (const char *slash; at >= 0 && (slash = strchr(*last, '/')); *last = slash + 1) {
        char part[HUB_REPO_PATH_MAX + 1];
        snprintf(part, sizeof part, "%.*s", (int)(slash - *last), *last);
        if (mkdirat(at, part, 0777) != 0 && errno != EEXIST) {
            (void)close(at);
            return -1;
        }
        int next = openat(at, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        int why = errno;
        (void)close(at);
        errno = why;
        at = next;
    }
    return at;
}

/* In place at once, by a rename. */
static FL_CHECKED fl_status link_file(int root, const hub_file *x, fl_err *err) {
    base_buf target = {0};
    const char *last;
    if (!link_target(x, &target)) {
        base_buf_clear(&target);
        return fl_fail(err, FL_ENOMEM, "a link");
    }
    int at = open_beneath(root, x->path, &last);
    bool ok = at >= 0;
    if (ok) {
        (void)unlinkat(at, ".flambeau.link", 0);
        ok = symlinkat(target.data, at, ".flambeau.link") == 0 && renameat(at, ".flambeau.link", at, last) == 0;
    }
    int why = errno;
    if (at >= 0) (void)close(at);
    base_buf_clear(&target);
    return ok ? FL_OK : fl_fail(err, FL_EIO, "%.100s cannot be put into the snapshot: %s", x->path, strerror(why));
}

static FL_CHECKED fl_status link_all(fetch *f, fl_err *err) {
    const char *path = in_folder(f, "snapshots", f->commit);
    fl_status st = path ? hub_tree_make(path, err) : fl_fail(err, FL_ENOMEM, "a path");
    int root = st == FL_OK ? open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
    if (st == FL_OK && root < 0) st = fl_fail(err, FL_EIO, "%s cannot be opened: %s", path, strerror(errno));
    for (size_t i = 0; st == FL_OK && i < f->files.n; i++)
        if (f->files.files[i].wanted) st = link_file(root, &f->files.files[i], err);
    if (root >= 0) (void)close(root);
    path = in_folder(f, "snapshots", f->commit);
    if (st == FL_OK) st = path ? hub_tree_sync(path, err) : fl_fail(err, FL_ENOMEM, "a path");
    return st;
}

static FL_CHECKED fl_status write_ref(fetch *f, fl_err *err) {
    const char *last, *path = f->folder;
    if (strcmp(f->r->revision, f->commit) == 0) return FL_OK; /* a commit stands for itself */
    int root = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), at = -1, fd = -1;
    char ref[HUB_REPO_REV_MAX + 8];
    snprintf(ref, sizeof ref, "refs/%s", f->r->revision);
    if (root >= 0) at = open_beneath(root, ref, &last);
    if (at >= 0) fd = openat(at, ".flambeau.ref", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0666);
    bool ok =
        fd >= 0 && write(fd, f->commit, 40) == 40 && fsync(fd) == 0 && renameat(at, ".flambeau.ref", at, last) == 0;
    int why = errno;
    if (fd >= 0) (void)close(fd);
    if (at >= 0) (void)close(at);
    if (root >= 0) (void)close(root);
    return ok ? FL_OK : fl_fail(err, FL_EIO, "%s/%s cannot be written: %s", path, ref, strerror(why));
}

/* ---- all of it -------------------------------------------------------------------------- */

static FL_CHECKED fl_status fetch_locked(fetch *f, fl_err *err) {
    int lock = -1;
    fl_status st = wait_for_lock(f, &lock, err);
    if (st == FL_OK && !all_there(f)) {
        const char *blobs = in_folder(f, "blobs", "");
        st = blobs ? hub_tree_make(blobs, err) : fl_fail(err, FL_ENOMEM, "a path");
        if (st == FL_OK) st = fetch_missing(f, err);
        blobs = in_folder(f, "blobs", "");
        if (st == FL_OK) st = blobs ? hub_tree_sync(blobs, err) : fl_fail(err, FL_ENOMEM, "a path");
        if (st == FL_OK) st = link_all(f, err);
        if (st == FL_OK) st = write_ref(f, err);
    }
    hub_lock_drop(lock);
    return st;
}

static FL_CHECKED fl_status pull_from_hub(fetch *f, char **path, fl_err *err) {
    f->folder = hub_repo_folder(&f->site, f->r);
    fl_status st = f->folder ? FL_OK : fl_fail(err, FL_ENOMEM, "a path");
    if (st == FL_OK) st = hub_site_find_token(&f->site, err);
    if (st == FL_OK) st = hub_net_open(&f->net, f->site.endpoint, f->site.token, f->site.stall_s, err);
    if (st == FL_OK) st = ask_commit(f, err);
    if (st == FL_OK) st = ask_files(f, err);
    if (st == FL_OK) st = hub_files_choose(&f->files, f->r->choice, &f->first, err);
    if (st == FL_OK && !all_there(f)) st = fetch_locked(f, err);
    if (st != FL_OK) return st;
    f->path.len = 0;
    (void)base_buf_printf(&f->path, "%s/snapshots/%s", f->folder, f->commit);
    if (f->first) (void)base_buf_printf(&f->path, "/%s", f->first->path);
    *path = base_buf_take(&f->path);
    return *path ? FL_OK : fl_fail(err, FL_ENOMEM, "a path");
}

fl_status hub_repo_pull(const hub_repo *r, const hub_watch *watch, char **path, fl_err *err) {
    fetch f = {.r = r, .watch = watch};
    *path = NULL;
    fl_status st = hub_site_open(&f.site, err);
    if (st == FL_OK && !f.site.cache)
        st = fl_fail(err, FL_EINVAL, "no place for the cache: set HF_HOME to a folder, or HOME");
    bool offline = hub_offline(), fixed = strlen(r->revision) == 40 && hub_repo_oid_valid(r->revision);
    if (st == FL_OK && (offline || fixed)) st = hub_repo_find(&f.site, r, path, err);
    if (st == FL_OK && !*path && offline)
        st = fl_fail(err, FL_EIO, "it is not in the cache (%s), and this is offline", f.site.cache);
    if (st == FL_OK && !*path) st = pull_from_hub(&f, path, err);
    hub_net_close(f.net);
    hub_files_clear(&f.files);
    base_buf_clear(&f.path);
    base_buf_clear(&f.url);
    base_free(f.folder);
    hub_site_clear(&f.site);
    return st;
}
