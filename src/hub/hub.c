/* The cache: where it is, what is in it. */
#include "hub/hub.h"

#include "base/buf.h"
#include "base/mem.h"
#include "hub/hub_int.h"
#include "hub/repo.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *default_cache(fl_err *err) {
    base_buf b = {0};
    const char *env = getenv("FLAMBEAU_CACHE"), *home = getenv("HOME");
    if (env && *env) {
        (void)base_buf_puts(&b, env);
    } else if (home && *home) {
        (void)base_buf_printf(&b, "%s/.cache/flambeau", home);
    } else {
        (void)fl_fail(err, FL_EINVAL, "no place for the model cache: set FLAMBEAU_CACHE to a folder, or HOME");
        return NULL;
    }
    char *path = base_buf_take(&b);
    if (!path) (void)fl_fail(err, FL_ENOMEM, "the path of the cache");
    return path;
}

/* Children run in other folders, so a relative cache would mean something else to them. */
static char *absolute(const char *path) {
    base_buf b = {0};
    if (path[0] != '/') {
        char cwd[PATH_MAX];
        (void)base_buf_printf(&b, "%s/", getcwd(cwd, sizeof cwd) ? cwd : ".");
    }
    (void)base_buf_puts(&b, path);
    while (b.len > 1 && b.data[b.len - 1] == '/') b.data[--b.len] = '\0';
    char *whole = base_buf_take(&b);
    base_buf_clear(&b);
    return whole;
}

fl_status hub_open(hub **out, const hub_options *opt, fl_err *err) {
    static const hub_options none = {0};
    if (!opt) opt = &none;
    *out = NULL;
    char *chosen = opt->cache ? base_strdup(opt->cache) : default_cache(err);
    if (!chosen && opt->cache) (void)fl_fail(err, FL_ENOMEM, "the path of the cache");
    if (!chosen) return err ? err->code : FL_EINVAL;
    hub *h = base_calloc(1, sizeof *h);
    if (h) {
        h->catalogue = opt->catalogue ? opt->catalogue : hub_catalogue_models;
        h->n_models = opt->catalogue ? opt->n_models : hub_catalogue_n_models;
        h->cache = absolute(chosen);
        h->python = base_strdup(opt->python ? opt->python : "python3");
    }
    base_free(chosen);
    if (!h || !h->cache || !h->python) {
        hub_close(h);
        return fl_fail(err, FL_ENOMEM, "opening the model cache");
    }
    *out = h;
    return FL_OK;
}

void hub_close(hub *h) {
    if (!h) return;
    base_free(h->python);
    base_free(h->cache);
    base_free(h);
}

const char *hub_cache(const hub *h) { return h->cache; }

const hub_model *hub_catalogue(const hub *h, size_t *n) {
    *n = h->n_models;
    return h->catalogue;
}

const hub_model *hub_catalogue_find(const hub *h, const char *name) {
    for (size_t i = 0; i < h->n_models; i++)
        if (strcmp(h->catalogue[i].name, name) == 0) return &h->catalogue[i];
    return NULL;
}

static bool is_alnum(char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); }

bool hub_name_valid(const char *name) {
    size_t n = strnlen(name, HUB_NAME_MAX + 1);
    if (n == 0 || n > HUB_NAME_MAX || !is_alnum(name[0])) return false;
    for (size_t i = 0; i < n; i++)
        if (!is_alnum(name[i]) && !strchr("._-", name[i])) return false;
    return true;
}

fl_status hub_check_name(const char *name, fl_err *err) {
    if (hub_name_valid(name)) return FL_OK;
    return fl_fail(err, FL_EINVAL,
                   "not a model name; wanted up to %d of a-z 0-9 . _ - beginning with a letter or digit", HUB_NAME_MAX);
}

static bool is_gguf(const char *file) {
    size_t n = strlen(file);
    return n > 5 && strcmp(file + n - 5, ".gguf") == 0;
}

/* The first .gguf of a folder by name (a split model's first part), their bytes together, and its times. Links are not
 * followed: they would lead out of the cache. */
static FL_CHECKED fl_status scan_folder(const char *folder, base_buf *file, hub_entry *e, fl_err *err) {
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (fd >= 0 && !d) (void)close(fd);
    if (!d) return FL_OK;
    bool ok = true;
    for (struct dirent *x = readdir(d); x && ok; x = readdir(d)) {
        struct stat st;
        if (!is_gguf(x->d_name) || fstatat(dirfd(d), x->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISREG(st.st_mode))
            continue;
        e->bytes += (uint64_t)st.st_size;
        if (file->len && strcmp(file->data, x->d_name) <= 0) continue;
        file->len = 0;
        ok = base_buf_puts(file, x->d_name);
        e->modified_s = st.st_mtime;
        e->used_s = st.st_atime;
    }
    (void)closedir(d);
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "listing %s", folder);
}

fl_status hub_find_complete(const hub *h, const hub_model *m, char **path, fl_err *err) {
    base_buf b = {0};
    struct stat st;
    *path = NULL;
    if (!base_buf_printf(&b, "%s/models/%s/%s", h->cache, m->name, m->file)) {
        base_buf_clear(&b);
        return fl_fail(err, FL_ENOMEM, "the path of %s", m->name);
    }
    if (lstat(b.data, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size == m->bytes) *path = base_buf_take(&b);
    base_buf_clear(&b);
    return FL_OK;
}

static fl_status unknown_name(const hub *h, const char *name, fl_err *err) {
    base_buf list = {0};
    for (size_t i = 0; i < h->n_models; i++) (void)base_buf_printf(&list, " %s", h->catalogue[i].name);
    fl_status st = fl_fail(err, FL_EINVAL,
                           "there is no file %.100s and no model of that name in the cache; the catalogue has%.200s",
                           name, list.data ? list.data : " nothing");
    base_buf_clear(&list);
    return st;
}

bool hub_is_remote(const char *name) {
    return strncasecmp(name, "https://", 8) == 0 || strncasecmp(name, "http://", 7) == 0 || hub_repo_valid(name);
}

static FL_CHECKED fl_status find_remote(const char *name, char **path, fl_err *err) {
    hub_repo r;
    hub_site site;
    fl_status st = hub_repo_parse(&r, name, err);
    if (st != FL_OK) return st;
    st = hub_site_open(&site, err);
    if (st != FL_OK) return st;
    st = hub_repo_find(&site, &r, path, err);
    hub_site_clear(&site);
    return st == FL_OK ? FL_OK : fl_wrap(err, st, "%.100s", name);
}

fl_status hub_find(const hub *h, const char *name, char **path, fl_err *err) {
    *path = NULL;
    if (hub_is_remote(name)) return find_remote(name, path, err);
    fl_status st = hub_check_name(name, err);
    if (st != FL_OK) return fl_wrap(err, st, "%.100s", name);
    const hub_model *m = hub_catalogue_find(h, name);
    if (m) return hub_find_complete(h, m, path, err);
    base_buf folder = {0}, file = {0};
    hub_entry e = {0};
    st = base_buf_printf(&folder, "%s/models/%s", h->cache, name) ? FL_OK
                                                                  : fl_fail(err, FL_ENOMEM, "the path of %s", name);
    if (st == FL_OK) st = scan_folder(folder.data, &file, &e, err);
    if (st == FL_OK && file.len == 0) st = unknown_name(h, name, err);
    if (st == FL_OK) {
        (void)base_buf_printf(&folder, "/%s", file.data);
        *path = base_buf_take(&folder);
        if (!*path) st = fl_fail(err, FL_ENOMEM, "the path of %s", name);
    }
    base_buf_clear(&file);
    base_buf_clear(&folder);
    return st;
}

/* ---- listing --------------------------------------------------------------------------- */

enum { ENTRIES_MAX = 10000 };

static int by_name(const void *a, const void *b) {
    return strcmp(((const hub_entry *)a)->name, ((const hub_entry *)b)->name);
}

static FL_CHECKED fl_status add_entry(const hub *h, hub_listing *l, const char *name, fl_err *err) {
    base_buf folder = {0}, file = {0};
    hub_entry e = {0};
    fl_status st =
        base_buf_printf(&folder, "%s/models/%s", h->cache, name) ? FL_OK : fl_fail(err, FL_ENOMEM, "%s", name);
    if (st == FL_OK) st = scan_folder(folder.data, &file, &e, err);
    if (st == FL_OK && file.len) {
        const hub_model *m = hub_catalogue_find(h, name);
        bool ok = base_buf_printf(&folder, "/%s", file.data);
        e.name = base_arena_strndup(&l->arena, name, strlen(name));
        e.file = base_arena_strndup(&l->arena, file.data, file.len);
        e.path = ok ? base_arena_strndup(&l->arena, folder.data, folder.len) : NULL;
        e.licence = m ? m->licence : NULL;
        if (e.name && e.file && e.path)
            l->entries[l->n++] = e;
        else
            st = fl_fail(err, FL_ENOMEM, "listing %s", name);
    }
    base_buf_clear(&file);
    base_buf_clear(&folder);
    return st;
}

/* Room for one more; an arena moves nothing, so the entries move to a block twice as large. */
static FL_CHECKED fl_status grow(hub_listing *l, size_t *cap, fl_err *err) {
    if (l->n < *cap) return FL_OK;
    size_t more = *cap ? 2 * *cap : 16;
    hub_entry *entries = base_arena_calloc(&l->arena, more, sizeof *entries);
    if (!entries) return fl_fail(err, FL_ENOMEM, "listing %zu models", more);
    if (l->n) memcpy(entries, l->entries, l->n * sizeof *entries);
    l->entries = entries;
    *cap = more;
    return FL_OK;
}

typedef struct {
    hub_listing *out;
    size_t cap;
} listing;

static FL_CHECKED fl_status list_folder(const hub *h, DIR *d, listing *l, fl_err *err) {
    fl_status st = FL_OK;
    for (struct dirent *x = readdir(d); x && st == FL_OK && l->out->n < ENTRIES_MAX; x = readdir(d)) {
        if (!hub_name_valid(x->d_name)) continue;
        st = grow(l->out, &l->cap, err);
        if (st == FL_OK) st = add_entry(h, l->out, x->d_name, err);
    }
    return st;
}

static char *copy_of(hub_listing *l, const char *text) { return base_arena_strndup(&l->arena, text, strlen(text)); }

static FL_CHECKED fl_status add_repo_entry(void *user, const hub_entry *e, fl_err *err) {
    listing *l = user;
    if (l->out->n == ENTRIES_MAX) return FL_OK;
    fl_status st = grow(l->out, &l->cap, err);
    if (st != FL_OK) return st;
    hub_entry own = *e;
    own.name = copy_of(l->out, e->name);
    own.file = copy_of(l->out, e->file);
    own.path = copy_of(l->out, e->path);
    own.revision = copy_of(l->out, e->revision);
    if (!own.name || !own.file || !own.path || !own.revision) return fl_fail(err, FL_ENOMEM, "listing %s", e->name);
    l->out->entries[l->out->n++] = own;
    return FL_OK;
}

static FL_CHECKED fl_status list_repos(listing *l, fl_err *err) {
    hub_site site;
    fl_status st = hub_site_open(&site, err);
    if (st != FL_OK) return st;
    st = hub_repo_each(&site, add_repo_entry, l, err);
    hub_site_clear(&site);
    return st;
}

fl_status hub_list(const hub *h, hub_listing *out, fl_err *err) {
    *out = (hub_listing){0};
    listing l = {.out = out};
    base_buf folder = {0};
    if (!base_buf_printf(&folder, "%s/models", h->cache)) {
        base_buf_clear(&folder);
        return fl_fail(err, FL_ENOMEM, "the path of the cache");
    }
    DIR *d = opendir(folder.data);
    fl_status st = FL_OK;
    if (d)
        st = list_folder(h, d, &l, err);
    else if (errno != ENOENT)
        st = fl_fail(err, FL_EIO, "%s cannot be read: %s", folder.data, strerror(errno));
    if (d) (void)closedir(d);
    base_buf_clear(&folder);
    if (st == FL_OK) st = list_repos(&l, err);
    if (st == FL_OK && out->n) qsort(out->entries, out->n, sizeof *out->entries, by_name);
    if (st != FL_OK) hub_listing_clear(out);
    return st;
}

fl_status hub_repositories(char **folder, fl_err *err) {
    hub_site site;
    *folder = NULL;
    fl_status st = hub_site_open(&site, err);
    if (st != FL_OK) return st;
    if (site.cache && !(*folder = base_strdup(site.cache))) st = fl_fail(err, FL_ENOMEM, "the path of the cache");
    hub_site_clear(&site);
    return st;
}

void hub_listing_clear(hub_listing *l) {
    base_arena_clear(&l->arena);
    *l = (hub_listing){0};
}

/* ---- removing -------------------------------------------------------------------------- */

/* The folder of a model in one of the caches, by its name. */
static FL_CHECKED fl_status folder_of(const hub *h, const char *name, base_buf *folder, fl_err *err) {
    hub_repo r;
    hub_site site;
    if (!hub_repo_valid(name)) {
        fl_status st = hub_check_name(name, err);
        if (st != FL_OK) return st;
        return base_buf_printf(folder, "%s/models/%s", h->cache, name) ? FL_OK : fl_fail(err, FL_ENOMEM, "a path");
    }
    fl_status st = hub_repo_parse(&r, name, err);
    if (st == FL_OK && (*r.choice || strchr(name, '@')))
        st = fl_fail(err, FL_EINVAL, "a repository is removed as a whole: %s/%s", r.org, r.name);
    if (st == FL_OK) st = hub_site_open(&site, err);
    if (st != FL_OK) return st;
    char *path = site.cache ? hub_repo_folder(&site, &r) : NULL;
    if (!site.cache)
        st = fl_fail(err, FL_EINVAL, "there is no cache");
    else if (!path || !base_buf_puts(folder, path))
        st = fl_fail(err, FL_ENOMEM, "a path");
    base_free(path);
    hub_site_clear(&site);
    return st;
}

fl_status hub_removable(const hub *h, const char *name, char **path, uint64_t *bytes, fl_err *err) {
    base_buf folder = {0};
    struct stat s;
    *path = NULL;
    *bytes = 0;
    fl_status st = folder_of(h, name, &folder, err);
    if (st == FL_OK && lstat(folder.data, &s) != 0)
        st = fl_fail(err, FL_EINVAL, "there is no such model in the cache (%s)", folder.data);
    if (st == FL_OK && !S_ISDIR(s.st_mode))
        st = fl_fail(err, FL_EINVAL, "%s is no folder but a link or file, which pull did not make; remove it by hand",
                     folder.data);
    if (st == FL_OK) *bytes = hub_tree_bytes(folder.data);
    if (st == FL_OK && !(*path = base_buf_take(&folder))) st = fl_fail(err, FL_ENOMEM, "a path");
    base_buf_clear(&folder);
    return st == FL_OK ? FL_OK : fl_wrap(err, st, "%.100s", name);
}

/* The folder leaves the cache by one rename before its files go, so that no half-removed model is ever found. */
static FL_CHECKED fl_status remove_locked(const char *folder, const char *doomed, fl_err *err) {
    fl_status st = hub_tree_remove(doomed, err);
    if (st == FL_OK && rename(folder, doomed) != 0)
        st = fl_fail(err, FL_EIO, "%s cannot be removed: %s", folder, strerror(errno));
    return st == FL_OK ? hub_tree_remove(doomed, err) : st;
}

/* The lock of a name's pulls, and where its folder goes while it is removed. */
static FL_CHECKED fl_status lock_name(const hub *h, const char *name, int *lock, base_buf *doomed, fl_err *err) {
    hub_repo r;
    hub_site site = {0};
    fl_status st;
    if (hub_repo_valid(name)) {
        st = hub_repo_parse(&r, name, err);
        if (st == FL_OK) st = hub_site_open(&site, err);
        if (st == FL_OK && !site.cache) st = fl_fail(err, FL_EINVAL, "there is no cache");
        if (st == FL_OK) st = hub_repo_lock(&site, &r, lock, err);
        (void)base_buf_printf(doomed, "%s/.removed--%s--%s", site.cache ? site.cache : "", r.org, r.name);
        hub_site_clear(&site);
    } else {
        st = hub_check_name(name, err);
        if (st == FL_OK) st = hub_lock_model(h, name, lock, err);
        (void)base_buf_printf(doomed, "%s/tmp/%.*s-removed", h->cache, HUB_NAME_MAX, name);
    }
    if (st == FL_OK && *lock < 0)
        st = fl_fail(err, FL_EINVAL, "it is being pulled right now; try again when that is done");
    if (st == FL_OK && doomed->failed) st = fl_fail(err, FL_ENOMEM, "a path");
    return st == FL_OK ? FL_OK : fl_wrap(err, st, "%.100s", name);
}

fl_status hub_remove(const hub *h, const char *name, fl_err *err) {
    char *folder = NULL;
    uint64_t bytes;
    int lock = -1;
    base_buf doomed = {0};
    fl_status st = lock_name(h, name, &lock, &doomed, err);
    if (st == FL_OK) st = hub_removable(h, name, &folder, &bytes, err);
    if (st == FL_OK) {
        st = remove_locked(folder, doomed.data, err);
        if (st != FL_OK) fl_wrap(err, st, "%.100s", name);
    }
    hub_lock_drop(lock);
    base_buf_clear(&doomed);
    base_free(folder);
    return st;
}
