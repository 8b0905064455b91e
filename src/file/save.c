#include "file/save.h"

#include "base/buf.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static FL_CHECKED fl_status write_and_rename(const char *part, const char *path,
                                             bool (*write)(const void *user, FILE *f), const void *user, fl_err *err) {
    FILE *f = fopen(part, "wbe");
    if (!f) return fl_fail(err, FL_EIO, "%s cannot be written: %s", part, strerror(errno));
    bool ok = write(user, f) && fflush(f) == 0 && fsync(fileno(f)) == 0;
    int why = errno;
    if (fclose(f) != 0 && ok) {
        why = errno;
        ok = false;
    }
    if (ok && rename(part, path) == 0) return FL_OK;
    if (ok) why = errno;
    (void)unlink(part);
    return fl_fail(err, FL_EIO, "%s cannot be written: %s", path, strerror(why));
}

fl_status file_save(const char *path, bool (*write)(const void *user, FILE *f), const void *user, fl_err *err) {
    base_buf part = {0};
    fl_status st = base_buf_printf(&part, "%s.part", path) ? write_and_rename(part.data, path, write, user, err)
                                                           : fl_fail(err, FL_ENOMEM, "the path %s", path);
    base_buf_clear(&part);
    return st;
}
