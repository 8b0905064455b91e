/* hub/repo.h - repositories of a hub: names, which of their files a model needs, and the local cache.
 *
 * A name is ORG/NAME[@REVISION][:FILE]. The cache is the one of the hub's Python client, so that both share downloads:
 *     models--ORG--NAME/blobs/OID                     contents, named by their hash
 *     models--ORG--NAME/refs/REVISION                 the commit that a branch or tag stood for
 *     models--ORG--NAME/snapshots/COMMIT/PATH         a relative link into blobs/
 *     .locks/models--ORG--NAME/flambeau.lock          one pull of a repository at a time
 * in $HF_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub.
 *
 * Everything that a server or a cache says becomes a path only after hub_repo_path_valid() or hub_repo_oid_valid().
 */
#ifndef HUB_REPO_H
#define HUB_REPO_H

#include "base/arena.h"
#include "hub/hub_int.h"

enum { HUB_REPO_NAME_MAX = 96, HUB_REPO_REV_MAX = 128, HUB_REPO_PATH_MAX = 512, HUB_REPO_FILES_MAX = 100000 };

typedef struct {
    char org[HUB_REPO_NAME_MAX + 1], name[HUB_REPO_NAME_MAX + 1];
    char revision[HUB_REPO_REV_MAX + 1]; /* "main" if not said */
    char choice[HUB_REPO_PATH_MAX + 1];  /* the file or its quantisation, or "" */
} hub_repo;

/* What the environment says. Texts are owned; end with hub_site_clear(). */
typedef struct {
    char *cache;    /* NULL: no place for it */
    char *endpoint; /* without a slash at its end */
    char *token;    /* NULL: none, or not looked for */
    uint32_t stall_s;
} hub_site;

typedef struct {
    const char *path;
    const char *oid; /* name in blobs/; NULL when read from a snapshot */
    uint64_t bytes;
    bool lfs; /* oid is the SHA-256 of the contents; else the SHA-1 that git gives them */
    bool wanted;
} hub_file;

typedef struct {
    hub_file *files;
    size_t n, cap;
    base_arena arena;
} hub_files;

/* Errors: FL_ENOMEM, FL_EINVAL (a time-out that is none). */
FL_CHECKED fl_status hub_site_open(hub_site *s, fl_err *err);
/* Before something is asked of the hub: the token in $HF_TOKEN, or in the file of the hub's client ($HF_TOKEN_PATH, else
 * "token" in $HF_HOME). Errors: FL_EINVAL (something else than a token; it is not repeated), FL_EIO, FL_ENOMEM. */
FL_CHECKED fl_status hub_site_find_token(hub_site *s, fl_err *err);
void hub_site_clear(hub_site *s);

/* Errors: FL_EINVAL. */
FL_CHECKED fl_status hub_repo_parse(hub_repo *r, const char *text, fl_err *err);
bool hub_repo_path_valid(const char *path);
bool hub_repo_oid_valid(const char *oid); /* 40 or 64 lower-case hexadecimal digits */

/* The folder of r in the cache, owned by the caller; NULL without memory. */
char *hub_repo_folder(const hub_site *s, const hub_repo *r);

FL_CHECKED fl_status hub_files_add(hub_files *f, hub_file file, fl_err *err); /* texts are copied */
void hub_files_clear(hub_files *f);
/* Marks the files that a model needs. *first: what is opened, or NULL for a folder of safetensors.
 * Errors: FL_EINVAL (no choice, or none of that name: the text lists them), FL_EFORMAT (no model in it). */
FL_CHECKED fl_status hub_files_choose(hub_files *f, const char *choice, const hub_file **first, fl_err *err);

/* The commit that the cache knows for r's revision; "" if none. */
FL_CHECKED fl_status hub_repo_commit(const hub_site *s, const hub_repo *r, char commit[41], fl_err *err);
/* Where the model is in the cache; *path NULL: not there, or not whole. Errors: FL_EINVAL (choice), FL_ENOMEM. */
FL_CHECKED fl_status hub_repo_find(const hub_site *s, const hub_repo *r, char **path, fl_err *err);

/* Adds the repositories of the cache to a listing's entries: calls add for each model file or folder. */
typedef FL_CHECKED fl_status (*hub_repo_visit)(void *user, const hub_entry *e, fl_err *err);
FL_CHECKED fl_status hub_repo_each(const hub_site *s, hub_repo_visit visit, void *user, fl_err *err);

/* *fd -1: another pull has it. Makes the folders of the lock. */
FL_CHECKED fl_status hub_repo_lock(const hub_site *s, const hub_repo *r, int *fd, fl_err *err);

/* fetch.c: as hub_pull(). */
FL_CHECKED fl_status hub_repo_pull(const hub_repo *r, const hub_watch *watch, char **path, fl_err *err);
/* url.c: a file from a URL into h's own cache. */
FL_CHECKED fl_status hub_url_pull(const hub *h, const char *url, const hub_watch *watch, char **path, fl_err *err);

#endif
