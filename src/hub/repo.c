/* Names, the environment, and the cache as it is found on the disk. */
#include "hub/repo.h"

#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define HUB_PUBLIC "https://huggingface.co"

enum { TOKEN_MAX = 1024, STALL_S = 30, SCAN_DEPTH = 4, COMMIT_CHARS = 40 };

/* ---- the environment -------------------------------------------------------------------- */

static const char *variable(const char *name) {
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

bool hub_offline(void) {
    const char *v = variable("HF_HUB_OFFLINE");
    return v && strcmp(v, "0") != 0 && strcasecmp(v, "false") != 0 && strcasecmp(v, "no") != 0;
}

/* Where the hub's client keeps `name`: in $HF_HOME or the user's cache; nothing when there is neither. */
static bool find_home(base_buf *b, const char *name) {
    const char *v;
    if ((v = variable("HF_HOME"))) return base_buf_printf(b, "%s/%s", v, name);
    if ((v = variable("XDG_CACHE_HOME"))) return base_buf_printf(b, "%s/huggingface/%s", v, name);
    if ((v = variable("HOME"))) return base_buf_printf(b, "%s/.cache/huggingface/%s", v, name);
    return true;
}

static bool find_cache(base_buf *b) {
    const char *v = variable("HF_HUB_CACHE");
    return v ? base_buf_puts(b, v) : find_home(b, "hub");
}

/* Visible ASCII: what may stand in a header. */
static bool is_plain(const char *s) {
    for (; *s; s++)
        if ((unsigned char)*s <= ' ' || (unsigned char)*s >= 0x7f) return false;
    return true;
}

fl_status hub_site_open(hub_site *s, fl_err *err) {
    *s = (hub_site){.stall_s = STALL_S};
    const char *stall = variable("HF_HUB_DOWNLOAD_TIMEOUT");
    base_buf cache = {0};
    const char *endpoint = variable("HF_ENDPOINT");
    if (stall) {
        char *end;
        unsigned long v = strtoul(stall, &end, 10);
        if (*end || *stall == '-' || v < 1 || v > 3600)
            return fl_fail(err, FL_EINVAL, "HF_HUB_DOWNLOAD_TIMEOUT wants 1 to 3600 seconds, found '%.40s'", stall);
        s->stall_s = (uint32_t)v;
    }
    s->endpoint = base_strdup(endpoint ? endpoint : HUB_PUBLIC);
    bool ok = find_cache(&cache);
    s->cache = cache.len ? base_buf_take(&cache) : NULL;
    base_buf_clear(&cache);
    if (!ok || !s->endpoint) {
        hub_site_clear(s);
        return fl_fail(err, FL_ENOMEM, "what the environment says of the hub");
    }
    for (size_t n = strlen(s->endpoint); n > 0 && s->endpoint[n - 1] == '/'; n--) s->endpoint[n - 1] = '\0';
    return FL_OK;
}

/* Blanks around a token do not count: files end with a newline. from: what is named when it is none; the token never is. */
static FL_CHECKED fl_status take_token(hub_site *s, const char *text, const char *from, fl_err *err) {
    static const char blanks[] = " \t\r\n";
    text += strspn(text, blanks);
    size_t n = strlen(text);
    while (n > 0 && strchr(blanks, text[n - 1])) n--;
    if (n == 0) return FL_OK;
    char *token = base_strndup(text, n);
    if (!token) return fl_fail(err, FL_ENOMEM, "a token");
    if (n > TOKEN_MAX || !is_plain(token)) {
        base_free(token);
        return fl_fail(err, FL_EINVAL, "%s is no token: it has blanks or control characters, or is too long", from);
    }
    s->token = token;
    return FL_OK;
}

static FL_CHECKED fl_status read_token(hub_site *s, const char *path, fl_err *err) {
    char text[TOKEN_MAX + 64] = "";
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR)) return FL_OK;
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : -1;
    int why = errno;
    if (fd >= 0) (void)close(fd);
    if (n < 0) return fl_fail(err, FL_EIO, "the token in %s cannot be read: %s", path, strerror(why));
    text[n] = '\0';
    return take_token(s, strlen(text) == (size_t)n ? text : "\x01", path, err);
}

fl_status hub_site_find_token(hub_site *s, fl_err *err) {
    const char *token = variable("HF_TOKEN"), *file = variable("HF_TOKEN_PATH"), *off;
    base_buf path = {0};
    fl_status st = token ? take_token(s, token, "HF_TOKEN", err) : FL_OK;
    off = variable("HF_HUB_DISABLE_IMPLICIT_TOKEN"); /* the client's switch: only what is said counts */
    if (st != FL_OK || s->token || (off && strcmp(off, "0") != 0)) return st;
    if (!(file ? base_buf_puts(&path, file) : find_home(&path, "token"))) st = fl_fail(err, FL_ENOMEM, "a path");
    if (st == FL_OK && path.len) st = read_token(s, path.data, err);
    base_buf_clear(&path);
    return st;
}

void hub_site_clear(hub_site *s) {
    base_free(s->cache);
    base_free(s->endpoint);
    base_free(s->token);
    *s = (hub_site){0};
}

/* ---- names ------------------------------------------------------------------------------ */

static bool is_name_char(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
}

/* The hub's own rule: no "--" (it separates in the cache) and no "..", and neither end is '-' or '.'. */
static bool part_valid(const char *s, size_t n) {
    if (n == 0 || n > HUB_REPO_NAME_MAX || strchr("-.", s[0]) || strchr("-.", s[n - 1])) return false;
    for (size_t i = 0; i < n; i++)
        if (!is_name_char(s[i]) || (i + 1 < n && s[i] == s[i + 1] && (s[i] == '-' || s[i] == '.'))) return false;
    return true;
}

bool hub_repo_path_valid(const char *path) {
    size_t n = strnlen(path, HUB_REPO_PATH_MAX + 1);
    if (n == 0 || n > HUB_REPO_PATH_MAX) return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)path[i] < ' ' || path[i] == 0x7f || path[i] == '\\') return false;
    for (const char *at = path;;) {
        size_t part = strcspn(at, "/");
        if (part == 0 || (part == 1 && at[0] == '.') || (part == 2 && at[0] == '.' && at[1] == '.')) return false;
        if (at[part] == '\0') return true;
        at += part + 1;
    }
}

bool hub_repo_oid_valid(const char *oid) {
    size_t n = strspn(oid, "0123456789abcdef");
    return oid[n] == '\0' && (n == 40 || n == 64);
}

fl_status hub_repo_parse(hub_repo *r, const char *text, fl_err *err) {
    *r = (hub_repo){.revision = "main"};
    size_t n_org = strcspn(text, "/"), n_name = 0, n_rev = 0;
    const char *name = text[n_org] == '/' ? text + n_org + 1 : "", *p;
    n_name = strcspn(name, "/@:");
    p = name + n_name;
    bool ok = part_valid(text, n_org) && part_valid(name, n_name);
    if (ok) {
        memcpy(r->org, text, n_org);
        memcpy(r->name, name, n_name);
    }
    if (ok && *p == '@') {
        n_rev = strcspn(++p, ":");
        ok = n_rev > 0 && n_rev <= HUB_REPO_REV_MAX;
        if (ok) {
            memcpy(r->revision, p, n_rev);
            r->revision[n_rev] = '\0';
            ok = hub_repo_path_valid(r->revision) && is_plain(r->revision);
        }
        p += n_rev;
    }
    if (ok && *p == ':') {
        ok = hub_repo_path_valid(++p);
        if (ok) snprintf(r->choice, sizeof r->choice, "%s", p);
        p += strlen(p);
    }
    if (ok && *p == '\0') return FL_OK;
    return fl_fail(err, FL_EINVAL, "not the name of a repository; wanted ORG/NAME[@REVISION][:FILE]");
}

bool hub_repo_valid(const char *name) {
    hub_repo r;
    return hub_repo_parse(&r, name, NULL) == FL_OK;
}

char *hub_repo_folder(const hub_site *s, const hub_repo *r) {
    base_buf b = {0};
    (void)base_buf_printf(&b, "%s/models--%s--%s", s->cache, r->org, r->name);
    return base_buf_take(&b);
}

/* ---- files and the choice among them ---------------------------------------------------- */

fl_status hub_files_add(hub_files *f, hub_file file, fl_err *err) {
    if (f->n == HUB_REPO_FILES_MAX)
        return fl_fail(err, FL_EFORMAT, "the repository has more than %d files", HUB_REPO_FILES_MAX);
    if (f->n == f->cap) {
        size_t cap = f->cap ? 2 * f->cap : 64;
        hub_file *more = base_realloc(f->files, cap * sizeof *more);
        if (!more) return fl_fail(err, FL_ENOMEM, "a listing of %zu files", cap);
        f->files = more;
        f->cap = cap;
    }
    file.path = base_arena_strndup(&f->arena, file.path, strlen(file.path));
    bool has_oid = file.oid != NULL;
    if (has_oid) file.oid = base_arena_strndup(&f->arena, file.oid, strlen(file.oid));
    if (!file.path || (has_oid && !file.oid)) return fl_fail(err, FL_ENOMEM, "a listing of %zu files", f->n);
    f->files[f->n++] = file;
    return FL_OK;
}

void hub_files_clear(hub_files *f) {
    base_free(f->files);
    base_arena_clear(&f->arena);
    *f = (hub_files){0};
}

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool ends(const char *s, const char *tail) {
    size_t n = strlen(s), k = strlen(tail);
    return n > k && strcasecmp(s + n - k, tail) == 0;
}

/* NAME-00001-of-00003.gguf: the length of NAME, and the two numbers. */
static bool split_of(const char *path, size_t *stem, unsigned *index, unsigned *count) {
    size_t n = strlen(path);
    enum { TAIL = sizeof "-00001-of-00003.gguf" - 1 };
    if (n <= TAIL) return false;
    const char *t = path + n - TAIL;
    if (t[0] != '-' || strspn(t + 1, "0123456789") != 5 || strncmp(t + 6, "-of-", 4) != 0 ||
        strspn(t + 10, "0123456789") != 5)
        return false;
    *stem = n - TAIL;
    *index = (unsigned)strtoul(t + 1, NULL, 10);
    *count = (unsigned)strtoul(t + 10, NULL, 10);
    return true;
}

/* A model by itself, or the first part of one. */
static bool is_model(const char *path) {
    size_t stem;
    unsigned index, count;
    return ends(path, ".gguf") && strncasecmp(base_name(path), "mmproj", 6) != 0 &&
           (!split_of(path, &stem, &index, &count) || index == 1);
}

static bool is_word_char(char c) { return is_name_char(c) && c != '-' && c != '.'; }

/* The choice stands in the file's name as a word of its own: Q4_K is not in Q4_K_M. */
static bool mentions(const char *path, const char *choice) {
    const char *name = base_name(path);
    size_t n = strlen(choice);
    if (strcmp(path, choice) == 0 || strcmp(name, choice) == 0) return true;
    for (const char *at = name; (at = strcasestr(at, choice)); at++)
        if ((at == name || !is_word_char(at[-1])) && !is_word_char(at[n])) return true;
    return false;
}

static fl_status list_choices(const hub_files *f, const char *choice, fl_err *err) {
    base_buf list = {0};
    for (size_t i = 0; i < f->n && list.len < 300; i++)
        if (is_model(f->files[i].path)) (void)base_buf_printf(&list, " %.100s", f->files[i].path);
    fl_status st = *choice ? fl_fail(err, FL_EINVAL, "wanted one file for ':%.60s'; there are%.320s", choice,
                                     list.data ? list.data : " none")
                           : fl_fail(err, FL_EINVAL, "it has several models; add one of them as ':FILE':%.320s",
                                     list.data ? list.data : " none");
    base_buf_clear(&list);
    return st;
}

/* Marks the model and, if it is split, all its parts, which must all be there. */
static FL_CHECKED fl_status want_gguf(hub_files *f, hub_file *first, fl_err *err) {
    size_t stem, other;
    unsigned index, count, i, n, found = 0;
    first->wanted = true;
    if (!split_of(first->path, &stem, &index, &count)) return FL_OK;
    for (size_t k = 0; k < f->n; k++) {
        hub_file *x = &f->files[k];
        if (!split_of(x->path, &other, &i, &n) || other != stem || n != count || i < 1 || i > n ||
            memcmp(x->path, first->path, stem) != 0)
            continue;
        x->wanted = true;
        found++;
    }
    return found == count ? FL_OK
                          : fl_fail(err, FL_EFORMAT, "%.100s has %u of its %u parts", first->path, found, count);
}

/* Files of a model in safetensors form: all in the top folder. */
static bool belongs(const char *path, bool numbered) {
    static const char *const names[] = {"config.json",
                                        "generation_config.json",
                                        "model.safetensors.index.json",
                                        "tokenizer.json",
                                        "tokenizer.model",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "vocab.json",
                                        "vocab.txt",
                                        "merges.txt",
                                        "tekken.json",
                                        "chat_template.jinja",
                                        "chat_template.json"};
    if (strncmp(path, "additional_chat_templates/", 26) == 0) return ends(path, ".jinja") && !strchr(path + 26, '/');
    if (strchr(path, '/')) return false;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(path, names[i]) == 0) return true;
    if (ends(path, ".tiktoken")) return true;
    return ends(path, ".safetensors") && (!numbered || strncmp(path, "model", 5) == 0);
}

fl_status hub_files_choose(hub_files *f, const char *choice, const hub_file **first, fl_err *err) {
    hub_file *model = NULL;
    size_t n_models = 0, n_exact = 0;
    bool safetensors = false, named_model = false;
    *first = NULL;
    for (size_t i = 0; i < f->n; i++) {
        hub_file *x = &f->files[i];
        x->wanted = false;
        bool weights = ends(x->path, ".safetensors") && !strchr(x->path, '/');
        safetensors = safetensors || weights;
        named_model = named_model || (weights && strncmp(x->path, "model", 5) == 0);
        bool exact = *choice && (strcmp(x->path, choice) == 0 || strcmp(base_name(x->path), choice) == 0);
        if (!is_model(x->path) && !(exact && ends(x->path, ".gguf"))) continue;
        if (n_exact || (*choice && !exact && !mentions(x->path, choice))) continue;
        if (exact) n_exact++;
        n_models = exact ? 1 : n_models + 1;
        model = x;
    }
    if (!*choice && safetensors) {
        for (size_t i = 0; i < f->n; i++) f->files[i].wanted = belongs(f->files[i].path, named_model);
        return FL_OK;
    }
    if (n_models == 0 && !*choice)
        return fl_fail(err, FL_EFORMAT, "it has no model: neither a .gguf nor a .safetensors file");
    if (n_models != 1) return list_choices(f, choice, err);
    *first = model;
    return want_gguf(f, model, err);
}

/* ---- the cache -------------------------------------------------------------------------- */

/* A file of a snapshot at this depth (1: the top): itself, or a link into the blobs of its repository and to no other
 * place; a blob is a file itself. Whatever leads out of the cache is as good as absent: pull puts the right link there. */
static bool stat_entry(int folder, const char *name, int depth, struct stat *s) {
    char target[HUB_REPO_PATH_MAX];
    if (fstatat(folder, name, s, AT_SYMLINK_NOFOLLOW) != 0) return false;
    if (!S_ISLNK(s->st_mode)) return true;
    ssize_t n = readlinkat(folder, name, target, sizeof target - 1);
    if (n <= 0) return false;
    target[n] = '\0';
    const char *at = target;
    for (int i = 0; i <= depth; i++, at += 3)
        if (strncmp(at, "../", 3) != 0) return false;
    if (strncmp(at, "blobs/", 6) != 0 || !hub_repo_path_valid(at + 6) || strchr(at + 6, '/')) return false;
    return fstatat(folder, target, s, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(s->st_mode);
}

/* Calls itself up to SCAN_DEPTH deep; takes over fd. Links that point to no file are left out. */
static FL_CHECKED fl_status scan(int fd, base_buf *path, int depth, hub_files *f, fl_err *err) {
    DIR *d = fdopendir(fd);
    if (!d) {
        (void)close(fd);
        return fl_fail(err, FL_EIO, "a folder of the cache cannot be read: %s", strerror(errno));
    }
    fl_status st = FL_OK;
    size_t n = path->len;
    for (struct dirent *e = readdir(d); e && st == FL_OK; e = readdir(d)) {
        struct stat s;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (!stat_entry(dirfd(d), e->d_name, depth, &s)) continue;
        path->len = n;
        if (!base_buf_printf(path, "%s%s", n ? "/" : "", e->d_name)) st = fl_fail(err, FL_ENOMEM, "a path");
        if (st != FL_OK) break;
        if (S_ISREG(s.st_mode) && hub_repo_path_valid(path->data))
            st = hub_files_add(f, (hub_file){.path = path->data, .bytes = (uint64_t)s.st_size}, err);
        int sub = S_ISDIR(s.st_mode) && depth < SCAN_DEPTH
                      ? openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                      : -1;
        if (sub >= 0) st = scan(sub, path, depth + 1, f, err);
    }
    path->len = n;
    if (path->data) path->data[n] = '\0';
    (void)closedir(d);
    return st;
}

static int by_path(const void *a, const void *b) {
    return strcmp(((const hub_file *)a)->path, ((const hub_file *)b)->path);
}

static FL_CHECKED fl_status scan_snapshot(const char *folder, hub_files *f, fl_err *err) {
    base_buf path = {0};
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) return FL_OK;
    fl_status st = scan(fd, &path, 1, f, err);
    base_buf_clear(&path);
    if (st == FL_OK && f->n) qsort(f->files, f->n, sizeof *f->files, by_path);
    return st;
}

fl_status hub_repo_commit(const hub_site *s, const hub_repo *r, char commit[41], fl_err *err) {
    commit[0] = '\0';
    if (strlen(r->revision) == COMMIT_CHARS && hub_repo_oid_valid(r->revision)) {
        snprintf(commit, COMMIT_CHARS + 1, "%.40s", r->revision);
        return FL_OK;
    }
    char *folder = hub_repo_folder(s, r), text[64] = "";
    base_buf path = {0};
    bool ok = folder && base_buf_printf(&path, "%s/refs/%s", folder, r->revision);
    int fd = ok ? open(path.data, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    if (fd >= 0) (void)close(fd);
    base_buf_clear(&path);
    base_free(folder);
    if (!ok) return fl_fail(err, FL_ENOMEM, "the path of %s/%s", r->org, r->name);
    text[n > 0 ? n : 0] = '\0';
    text[strcspn(text, "\r\n")] = '\0';
    if (strlen(text) == COMMIT_CHARS && hub_repo_oid_valid(text)) snprintf(commit, COMMIT_CHARS + 1, "%.40s", text);
    return FL_OK;
}

fl_status hub_repo_find(const hub_site *s, const hub_repo *r, char **path, fl_err *err) {
    char commit[COMMIT_CHARS + 1];
    base_buf folder = {0};
    hub_files f = {0};
    const hub_file *first = NULL;
    *path = NULL;
    if (!s->cache) return FL_OK;
    fl_status st = hub_repo_commit(s, r, commit, err);
    if (st != FL_OK || !*commit) return st;
    char *repo = hub_repo_folder(s, r);
    if (!repo || !base_buf_printf(&folder, "%s/snapshots/%s", repo, commit)) st = fl_fail(err, FL_ENOMEM, "a path");
    if (st == FL_OK) st = scan_snapshot(folder.data, &f, err);
    if (st == FL_OK && f.n) {
        fl_err why;
        fl_status chosen = hub_files_choose(&f, r->choice, &first, &why);
        bool several = chosen == FL_EINVAL && !*r->choice;
        if (several && err) *err = why;
        if (several) st = chosen;
        if (chosen == FL_OK && first) (void)base_buf_printf(&folder, "/%s", first->path);
        if (chosen == FL_OK) *path = base_buf_take(&folder);
        if (chosen == FL_OK && !*path) st = fl_fail(err, FL_ENOMEM, "a path");
    }
    hub_files_clear(&f);
    base_buf_clear(&folder);
    base_free(repo);
    return st;
}

/* ---- listing and removing --------------------------------------------------------------- */

/* One entry for each model file of a snapshot, or one for a folder of safetensors. */
static FL_CHECKED fl_status visit_snapshot(const char *id, const char *commit, const char *folder, hub_files *f,
                                           hub_repo_visit visit, void *user, fl_err *err) {
    size_t n_models = 0;
    uint64_t weights = 0;
    fl_status st = FL_OK;
    for (size_t i = 0; i < f->n; i++) {
        n_models += is_model(f->files[i].path);
        if (ends(f->files[i].path, ".safetensors")) weights += f->files[i].bytes;
    }
    if (n_models == 0 && weights > 0) {
        struct stat s;
        if (stat(folder, &s) != 0) return FL_OK;
        return visit(user,
                     &(hub_entry){.name = id,
                                  .file = "",
                                  .path = folder,
                                  .bytes = weights,
                                  .revision = commit,
                                  .modified_s = s.st_mtime,
                                  .used_s = s.st_atime},
                     err);
    }
    for (size_t i = 0; i < f->n && st == FL_OK; i++) {
        base_buf name = {0}, path = {0};
        struct stat s;
        const hub_file *first;
        const char *file = f->files[i].path;
        uint64_t bytes = 0;
        if (!is_model(file) || hub_files_choose(f, file, &first, NULL) != FL_OK) continue;
        for (size_t k = 0; k < f->n; k++) bytes += f->files[k].wanted ? f->files[k].bytes : 0;
        bool ok = base_buf_printf(&name, n_models > 1 ? "%s:%s" : "%s", id, file) &&
                  base_buf_printf(&path, "%s/%s", folder, file);
        if (!ok) st = fl_fail(err, FL_ENOMEM, "listing %s", id);
        if (ok && stat(path.data, &s) == 0)
            st = visit(user,
                       &(hub_entry){.name = name.data,
                                    .file = file,
                                    .path = path.data,
                                    .bytes = bytes,
                                    .revision = commit,
                                    .modified_s = s.st_mtime,
                                    .used_s = s.st_atime},
                       err);
        base_buf_clear(&name);
        base_buf_clear(&path);
    }
    return st;
}

/* "models--ORG--NAME" */
static bool repo_of_folder(const char *folder, hub_repo *r) {
    char text[2 * HUB_REPO_NAME_MAX + 2];
    const char *name = strncmp(folder, "models--", 8) == 0 ? strstr(folder + 8, "--") : NULL;
    if (!name || strlen(folder) > sizeof text) return false;
    snprintf(text, sizeof text, "%.*s/%s", (int)(name - folder - 8), folder + 8, name + 2);
    return hub_repo_parse(r, text, NULL) == FL_OK;
}

static FL_CHECKED fl_status visit_repo(const hub_site *s, const hub_repo *r, hub_repo_visit visit, void *user,
                                       fl_err *err) {
    char commit[COMMIT_CHARS + 1], id[2 * HUB_REPO_NAME_MAX + 2];
    base_buf folder = {0};
    hub_files f = {0};
    snprintf(id, sizeof id, "%s/%s", r->org, r->name);
    fl_status st = hub_repo_commit(s, r, commit, err);
    if (st != FL_OK || !*commit) return st;
    if (!base_buf_printf(&folder, "%s/models--%s--%s/snapshots/%s", s->cache, r->org, r->name, commit))
        st = fl_fail(err, FL_ENOMEM, "listing %s", id);
    if (st == FL_OK) st = scan_snapshot(folder.data, &f, err);
    if (st == FL_OK) st = visit_snapshot(id, commit, folder.data, &f, visit, user, err);
    hub_files_clear(&f);
    base_buf_clear(&folder);
    return st;
}

fl_status hub_repo_each(const hub_site *s, hub_repo_visit visit, void *user, fl_err *err) {
    hub_repo r;
    fl_status st = FL_OK;
    DIR *d = s->cache ? opendir(s->cache) : NULL;
    if (!d) return FL_OK;
    for (struct dirent *e = readdir(d); e && st == FL_OK; e = readdir(d))
        if (repo_of_folder(e->d_name, &r)) st = visit_repo(s, &r, visit, user, err);
    (void)closedir(d);
    return st;
}

fl_status hub_repo_lock(const hub_site *s, const hub_repo *r, int *fd, fl_err *err) {
    base_buf path = {0};
    *fd = -1;
    bool ok = base_buf_printf(&path, "%s/.locks/models--%s--%s", s->cache, r->org, r->name);
    fl_status st = ok ? hub_tree_make(path.data, err) : fl_fail(err, FL_ENOMEM, "the path of a lock");
    if (st == FL_OK)
        st = base_buf_puts(&path, "/flambeau.lock") ? hub_lock_try(path.data, false, fd, err)
                                                    : fl_fail(err, FL_ENOMEM, "the path of a lock");
    base_buf_clear(&path);
    return st;
}
