#include "cmd/out.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static fl_status failed(int error, fl_err *err) {
    if (error != EPIPE) return fl_fail(err, FL_EIO, "cannot write the result to stdout: %s", strerror(error));
    (void)fl_fail(err, FL_EIO, "stdout is closed");
    err->msg[0] = '\0';
    return FL_EIO;
}

fl_status cmd_out_write(const void *bytes, size_t n, bool now, fl_err *err) {
    errno = 0;
    if (n && fwrite(bytes, 1, n, stdout) != n) return failed(errno, err);
    if (now && fflush(stdout) != 0) return failed(errno, err);
    return FL_OK;
}

fl_status cmd_out_flush(base_buf *b, fl_err *err) {
    if (b->failed) return fl_fail(err, FL_ENOMEM, "no memory for the output");
    fl_status st = cmd_out_write(b->data, b->len, false, err);
    base_buf_clear(b);
    return st;
}

fl_status cmd_out_close(fl_err *err) {
    errno = 0;
    if (ferror(stdout)) return failed(EIO, err);
    if (fflush(stdout) != 0) return failed(errno, err);
    /* Network file systems report a full disk only here. */
    if (fclose(stdout) != 0 && errno != EBADF) return failed(errno, err);
    return FL_OK;
}
