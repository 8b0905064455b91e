/* Folders: made, measured, removed. The walks hold their depth to DEPTH_MAX and never follow
 * symbolic links, so they stay inside the folder they were given. */
#include "base/mem.h"
#include "hub/hub_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DEPTH_MAX = 8 };

fl_status hub_tree_make(const char *path, fl_err *err) {
    char *p = base_strdup(path);
    if (!p) return fl_fail(err, FL_ENOMEM, "the path %s", path);
    fl_status st = FL_OK;
    for (char *at = p + 1; st == FL_OK; at++) {
        char c = *at;
        if (c != '/' && c != '\0') continue;
        *at = '\0';
        if (mkdir(p, 0777) != 0 && errno != EEXIST)
            st = fl_fail(err, FL_EIO, "the folder %s cannot be made: %s", p, strerror(errno));
        *at = c;
        if (c == '\0') break;
    }
    base_free(p);
    return st;
}

/* Calls itself up to DEPTH_MAX deep. Takes over fd. False with errno when something stayed. */
static bool empty_folder(int fd, int depth) {
    DIR *d = fdopendir(fd);
    if (!d) {
        (void)close(fd);
        return false;
    }
    int why = 0;
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (unlinkat(dirfd(d), e->d_name, 0) == 0 || errno == ENOENT) continue;
        int sub = depth < DEPTH_MAX ? openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC) : -1;
        bool ok = sub >= 0 && empty_folder(sub, depth + 1) && unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR) == 0;
        if (!ok) why = errno;
    }
    (void)closedir(d);
    errno = why;
    return why == 0;
}

fl_status hub_tree_remove(const char *path, fl_err *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT) return FL_OK;
    if (fd < 0 || !empty_folder(fd, 1) || (rmdir(path) != 0 && errno != ENOENT))
        return fl_fail(err, FL_EIO, "the folder %s cannot be removed: %s", path, strerror(errno));
    return FL_OK;
}

/* As empty_folder(), but adds up sizes. What disappears meanwhile counts as nothing. */
static uint64_t folder_bytes(int fd, int depth) {
    DIR *d = fdopendir(fd);
    if (!d) {
        (void)close(fd);
        return 0;
    }
    uint64_t sum = 0;
    for (struct dirent *e = readdir(d); e; e = readdir(d)) {
        struct stat st;
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0) continue;
        if (fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) != 0) continue;
        if (S_ISREG(st.st_mode)) sum += (uint64_t)st.st_size;
        if (!S_ISDIR(st.st_mode) || depth == DEPTH_MAX) continue;
        int sub = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (sub >= 0) sum += folder_bytes(sub, depth + 1);
    }
    (void)closedir(d);
    return sum;
}

uint64_t hub_tree_bytes(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? 0 : folder_bytes(fd, 1);
}

fl_status hub_tree_sync(const char *path, fl_err *err) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    int why = errno;
    if (fd >= 0) (void)close(fd);
    return ok ? FL_OK : fl_fail(err, FL_EIO, "the folder %s cannot be written: %s", path, strerror(why));
}
