/* O_NONBLOCK keeps a named pipe from hanging the open; fstat then refuses it. */
#include "file/map.h"

#include "base/assert.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static fl_status map_fd(file_map *out, int fd, fl_err *err) {
    struct stat st;
    if (fstat(fd, &st) != 0) return fl_fail(err, FL_EIO, "cannot be examined: %s", strerror(errno));
    if (S_ISDIR(st.st_mode)) return fl_fail(err, FL_EIO, "is a folder, wanted a file");
    if (!S_ISREG(st.st_mode)) return fl_fail(err, FL_EIO, "is not a regular file");
    if (st.st_size == 0) return fl_fail(err, FL_EFORMAT, "the file is empty");
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (p == MAP_FAILED) return fl_fail(err, FL_EIO, "cannot be mapped: %s", strerror(errno));
    *out = (file_map){p, (size_t)st.st_size, true};
    return FL_OK;
}

fl_status file_map_open(file_map *out, const char *path, fl_err *err) {
    *out = (file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) return fl_fail(err, FL_EIO, "cannot be opened: %s", strerror(errno));
    fl_status st = map_fd(out, fd, err);
    (void)close(fd); /* read-only: closing cannot lose anything */
    return st;
}

file_map file_map_memory(const void *data, size_t size) { return (file_map){data, size, false}; }

void file_map_forget(const file_map *m) {
    /* Only advice: when the system refuses it, the pages just stay. */
    if (m->mapped) (void)madvise((void *)(uintptr_t)m->data, m->size, MADV_DONTNEED);
}

void file_map_close(file_map *m) {
    if (m->mapped) fl_assert(munmap((void *)(uintptr_t)m->data, m->size) == 0);
    *m = (file_map){0};
}
