/* flock() locks end with the process that holds them, whatever ends it, so no lock is ever stale. */
#include "hub/hub_int.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

fl_status hub_lock_try(const char *path, bool folder, int *fd, fl_err *err) {
    int flags = folder ? O_RDONLY | O_DIRECTORY | O_NOFOLLOW : O_RDWR | O_CREAT | O_NOFOLLOW;
    *fd = open(path, flags | O_CLOEXEC, 0666);
    if (*fd < 0) return fl_fail(err, FL_EIO, "%s cannot be opened for locking: %s", path, strerror(errno));
    int r;
    do r = flock(*fd, LOCK_EX | LOCK_NB);
    while (r != 0 && errno == EINTR);
    if (r == 0) return FL_OK;
    int why = errno;
    (void)close(*fd);
    *fd = -1;
    return why == EWOULDBLOCK ? FL_OK : fl_fail(err, FL_EIO, "%s cannot be locked: %s", path, strerror(why));
}

void hub_lock_drop(int fd) {
    if (fd >= 0) (void)close(fd);
}

fl_status hub_lock_model(const hub *h, const char *name, int *fd, fl_err *err) {
    static const char *const folders[] = {"models", "tmp", "locks"};
    base_buf path = {0};
    fl_status st = FL_OK;
    *fd = -1;
    for (size_t i = 0; st == FL_OK && i < sizeof folders / sizeof *folders; i++) {
        path.len = 0;
        if (base_buf_printf(&path, "%s/%s", h->cache, folders[i]))
            st = hub_tree_make(path.data, err);
        else
            st = fl_fail(err, FL_ENOMEM, "the path of the cache");
    }
    if (st == FL_OK) {
        if (base_buf_printf(&path, "/%s", name))
            st = hub_lock_try(path.data, false, fd, err);
        else
            st = fl_fail(err, FL_ENOMEM, "the path of a lock");
    }
    base_buf_clear(&path);
    return st;
}
