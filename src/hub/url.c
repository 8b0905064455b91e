/* A .gguf file from a URL, into models/NAME/ of our own cache, NAME being the file's name in small letters.
 *
 * URLs of the hub itself, ENDPOINT/ORG/NAME[/resolve/REVISION/FILE], mean the repository. Any other server is asked
 * for one byte first: its answer says how long the file is. The parts come as in hub/blob.h. A checksum may follow the
 * URL as "#sha256=..."; without one only the length and the first bytes can be checked. */
#include "base/mem.h"
#include "hub/blob.h"
#include "hub/repo.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { WAIT_MS = 100, SLACK_BYTES = 4 << 20 };

typedef struct {
    const hub *h;
    const hub_watch *watch;
    hub_site site;
    hub_net *net;
    char *url;          /* without its fragment */
    const char *sha256; /* or NULL */
    char name[HUB_NAME_MAX + 1], file[HUB_NAME_MAX + 8];
    char etag[128];
    uint64_t bytes;
    base_buf folder, path, stem;
    hub_progress shown;
    hub_phase phase;
} source;

static bool cancelled(void *user) {
    source *s = user;
    return s->watch->cancelled && s->watch->cancelled(s->watch->user);
}

static bool tick(void *user, uint64_t done) {
    source *s = user;
    if (s->shown.phase == s->phase && done < s->shown.done) done = s->shown.done;
    s->shown = (hub_progress){s->phase, done, s->bytes};
    if (s->watch->progress) s->watch->progress(s->watch->user, &s->shown);
    return !cancelled(s);
}

/* ORG/NAME[@REVISION][:FILE] of a URL of the hub; false if it is none. */
static bool repo_of_url(const char *endpoint, const char *url, hub_repo *r) {
    size_t n = strlen(endpoint);
    char text[HUB_REPO_PATH_MAX + 512];
    if (strncmp(url, endpoint, n) != 0 || url[n] != '/') return false;
    const char *org = url + n + 1, *name = strchr(org, '/');
    if (!name || strncmp(org, "api/", 4) == 0) return false;
    size_t n_id = (size_t)(name - org) + 1 + strcspn(name + 1, "/?#");
    const char *rest = org + n_id;
    int n_text = 0;
    if (strncmp(rest, "/resolve/", 9) == 0 || strncmp(rest, "/blob/", 6) == 0) {
        const char *rev = strchr(rest + 1, '/') + 1, *file = strchr(rev, '/');
        if (!file) return false;
        n_text = snprintf(text, sizeof text, "%.*s@%.*s:%.*s", (int)n_id, org, (int)(file - rev), rev,
                          (int)strcspn(file + 1, "?#"), file + 1);
    } else if ((*rest == '\0' || strcmp(rest, "/") == 0) && (n_id < 5 || strncmp(rest - 5, ".gguf", 5) != 0)) {
        n_text = snprintf(text, sizeof text, "%.*s", (int)n_id, org);
    }
    return n_text > 0 && (size_t)n_text < sizeof text && hub_repo_parse(r, text, NULL) == FL_OK;
}

/* The name of the file is the end of the URL's path; the model is called after it. */
static FL_CHECKED fl_status name_it(source *s, fl_err *err) {
    size_t n = strcspn(s->url, "?"), from = n;
    while (from > 0 && s->url[from - 1] != '/') from--;
    n -= from;
    bool ok = n > 5 && n - 5 <= HUB_NAME_MAX && strncmp(s->url + from + n - 5, ".gguf", 5) == 0;
    if (ok) {
        memcpy(s->file, s->url + from, n);
        memcpy(s->name, s->url + from, n - 5);
    }
    for (char *c = s->name; *c; c++) {
        if (*c >= 'A' && *c <= 'Z') *c = (char)(*c - 'A' + 'a');
        if (*c == '+' || *c == '%') ok = false;
    }
    if (!ok || !hub_name_valid(s->name))
        return fl_fail(err, FL_EINVAL, "wanted the URL of a .gguf file with a plain name (letters, digits, . _ -)");
    if (hub_catalogue_find(s->h, s->name))
        return fl_fail(err, FL_EINVAL, "the catalogue has a model named %s; rename the file", s->name);
    return FL_OK;
}

static FL_CHECKED fl_status take_apart(source *s, const char *url, fl_err *err) {
    const char *hash = strchr(url, '#');
    s->url = base_strndup(url, hash ? (size_t)(hash - url) : strlen(url));
    if (!s->url) return fl_fail(err, FL_ENOMEM, "a URL");
    if (hash && strncmp(hash, "#sha256=", 8) == 0) s->sha256 = hash + 8;
    if (s->sha256 && (strlen(s->sha256) != 64 || !hub_repo_oid_valid(s->sha256)))
        return fl_fail(err, FL_EINVAL, "wanted #sha256= and 64 lower-case hexadecimal digits");
    if (!hub_net_url_valid(s->url))
        return fl_fail(err, FL_EINVAL, "not a URL to download from; wanted https:// (http is for this machine only)");
    return name_it(s, err);
}

static bool enough(hub_net_request *r, const char *bytes, size_t n) {
    (void)bytes;
    return r->status == 206 && n <= 1;
}

/* How long the file is: one byte of it tells. */
static FL_CHECKED fl_status ask_length(source *s, fl_err *err) {
    hub_net_request *r = base_calloc(1, sizeof *r);
    fl_status st = r ? FL_OK : fl_fail(err, FL_ENOMEM, "a request");
    for (uint32_t failures = 0; st == FL_OK && s->bytes == 0;) {
        snprintf(r->url, sizeof r->url, "%s", s->url);
        r->ranged = true;
        r->sink = enough;
        st = hub_net_start(s->net, r, err);
        while (st == FL_OK && hub_net_step(s->net, WAIT_MS) != r)
            if (cancelled(s)) {
                hub_net_stop(s->net, r);
                st = fl_fail(err, FL_ECANCELED, "interrupted");
            }
        if (st != FL_OK) break;
        if (r->status == 206 && r->has_range) s->bytes = r->range_total;
        if (r->status == 200 && r->length != HUB_NET_UNKNOWN) s->bytes = r->length;
        if (s->bytes > 0) break;
        if (r->status == 200 || r->status == 206)
            st = fl_fail(err, FL_EFORMAT, "the server does not say how long the file is");
        else if (!hub_net_transient(r) || ++failures == HUB_NET_TRIES)
            st = hub_net_failed(r, err);
        double wait = hub_net_backoff_s(r, failures);
        for (; st == FL_OK && wait > 0; wait -= WAIT_MS / 1e3) {
            if (cancelled(s)) st = fl_fail(err, FL_ECANCELED, "interrupted");
            (void)nanosleep(&(struct timespec){0, WAIT_MS * 1000000L}, NULL);
        }
    }
    if (st == FL_OK && s->bytes > HUB_BLOB_BYTES_MAX) st = fl_fail(err, FL_EFORMAT, "the file is impossibly long");
    if (st == FL_OK) snprintf(s->etag, sizeof s->etag, "%s", r->etag);
    base_free(r);
    return st;
}

/* Parts are kept under a name made of all that identifies them: another file under the same URL begins anew. */
static FL_CHECKED fl_status name_paths(source *s, fl_err *err) {
    char hex[BASE_SHA256_HEX_BYTES];
    base_sha256 sha;
    base_sha256_begin(&sha);
    base_sha256_add(&sha, s->url, strlen(s->url) + 1);
    base_sha256_add(&sha, s->etag, strlen(s->etag) + 1);
    base_sha256_add(&sha, &s->bytes, sizeof s->bytes);
    base_sha256_end(&sha, hex);
    bool ok = base_buf_printf(&s->folder, "%s/models/%s", s->h->cache, s->name) &&
              base_buf_printf(&s->path, "%s/%s", s->folder.data, s->file) &&
              base_buf_printf(&s->stem, "%s/tmp/url-%s", s->h->cache, hex);
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "a path");
}

static FL_CHECKED fl_status check_room(source *s, fl_err *err) {
    struct statvfs v;
    uint64_t has = hub_blob_allocated(s->stem.data), need = s->bytes > has ? s->bytes - has : 0;
    if (statvfs(s->h->cache, &v) != 0) return fl_fail(err, FL_EIO, "%s: %s", s->h->cache, strerror(errno));
    uint64_t have = (uint64_t)v.f_bavail * v.f_frsize;
    if (have >= need + SLACK_BYTES) return FL_OK;
    return fl_fail(err, FL_EIO, "needs %llu MB of disk in %s, %llu MB are free; free some, or set FLAMBEAU_CACHE",
                   (unsigned long long)(need + SLACK_BYTES + 999999) / 1000000, s->h->cache,
                   (unsigned long long)have / 1000000);
}

static FL_CHECKED fl_status check_contents(source *s, const hub_blob_job *job, fl_err *err) {
    char hex[BASE_SHA256_HEX_BYTES], magic[4] = "";
    fl_status st = FL_OK;
    base_buf part = {0};
    if (!base_buf_printf(&part, "%s.part", s->stem.data)) return fl_fail(err, FL_ENOMEM, "a path");
    int fd = open(part.data, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    bool gguf = fd >= 0 && read(fd, magic, sizeof magic) == sizeof magic && memcmp(magic, "GGUF", 4) == 0;
    if (fd >= 0) (void)close(fd);
    base_buf_clear(&part);
    if (!gguf) st = fl_fail(err, FL_EFORMAT, "what came is no GGUF file; it was not kept");
    if (st == FL_OK && s->sha256) {
        s->phase = HUB_VERIFYING;
        st = hub_blob_hash(job, false, hex, err);
        if (st == FL_OK && strcmp(hex, s->sha256) != 0)
            st = fl_fail(err, FL_EFORMAT, "%s has the checksum %.16s..., wanted %.16s...; it was not kept", s->file,
                         hex, s->sha256);
    }
    if (st == FL_EFORMAT) hub_blob_discard(s->stem.data);
    return st;
}

static FL_CHECKED fl_status fetch_locked(source *s, fl_err *err) {
    hub_blob_job job = {s->net, s->url, s->stem.data, s->bytes, tick, s};
    fl_status st = check_room(s, err);
    if (st == FL_OK && s->watch->plan)
        s->watch->plan(s->watch->user, &(hub_plan){s->name, s->file, s->h->cache, s->bytes});
    s->phase = HUB_DOWNLOADING;
    if (st == FL_OK) st = hub_blob_fetch(&job, err);
    if (st == FL_OK) st = check_contents(s, &job, err);
    if (st == FL_OK) st = hub_tree_make(s->folder.data, err);
    if (st == FL_OK) st = hub_blob_keep(s->stem.data, s->path.data, err);
    return st == FL_OK ? hub_tree_sync(s->folder.data, err) : st;
}

static bool is_there(const source *s) {
    struct stat st;
    return lstat(s->path.data, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == s->bytes;
}

static FL_CHECKED fl_status fetch(source *s, fl_err *err) {
    int lock = -1;
    fl_status st = hub_site_find_token(&s->site, err);
    if (st == FL_OK) st = hub_net_open(&s->net, s->site.endpoint, s->site.token, s->site.stall_s, err);
    if (st == FL_OK) st = ask_length(s, err);
    if (st == FL_OK) st = name_paths(s, err);
    while (st == FL_OK && !is_there(s) && lock < 0) { /* ends with the other pull, or by the caller's wish */
        st = hub_lock_model(s->h, s->name, &lock, err);
        if (st != FL_OK || lock >= 0) break;
        if (cancelled(s)) st = fl_fail(err, FL_ECANCELED, "interrupted while waiting for another pull");
        if (s->watch->progress) s->watch->progress(s->watch->user, &(hub_progress){.phase = HUB_WAITING});
        (void)nanosleep(&(struct timespec){0, WAIT_MS * 1000000L}, NULL);
    }
    if (st == FL_OK && !is_there(s)) st = fetch_locked(s, err);
    hub_lock_drop(lock);
    return st;
}

fl_status hub_url_pull(const hub *h, const char *url, const hub_watch *watch, char **path, fl_err *err) {
    source s = {.h = h, .watch = watch};
    hub_repo r;
    *path = NULL;
    fl_status st = hub_site_open(&s.site, err);
    if (st == FL_OK && repo_of_url(s.site.endpoint, url, &r)) {
        hub_site_clear(&s.site);
        return hub_repo_pull(&r, watch, path, err);
    }
    if (st == FL_OK) st = take_apart(&s, url, err);
    if (st == FL_OK && hub_offline()) st = fl_fail(err, FL_EIO, "a URL is not fetched offline");
    if (st == FL_OK) st = fetch(&s, err);
    if (st == FL_OK) {
        *path = base_buf_take(&s.path);
        if (!*path) st = fl_fail(err, FL_ENOMEM, "a path");
    }
    hub_net_close(s.net);
    hub_site_clear(&s.site);
    base_free(s.url);
    base_buf_clear(&s.folder);
    base_buf_clear(&s.path);
    base_buf_clear(&s.stem);
    return st;
}
