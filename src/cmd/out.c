#include "cmd/out.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

void cmd_out_escape(base_buf *b, const char *text, size_t n) {
    size_t done = 0; /* what has been appended */
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i], next = i + 1 < n ? (unsigned char)text[i + 1] : 0;
        bool is_c1 = c == 0xc2 && next >= 0x80 && next <= 0x9f; /* U+0080 to U+009F in UTF-8 */
        if (!is_c1 && ((c >= 0x20 && c != 0x7f) || c == '\n' || c == '\t')) continue;
        base_buf_append(b, text + done, i - done);
        base_buf_printf(b, "\\x%02x", is_c1 ? next : c);
        i += is_c1;
        done = i + 1;
    }
    base_buf_append(b, text + done, n - done);
}

fl_status cmd_out_stream(const char *text, size_t n, fl_err *err) {
    if (!isatty(STDOUT_FILENO)) return cmd_out_write(text, n, true, err);
    base_buf b = {0};
    cmd_out_escape(&b, text, n);
    fl_status st =
        b.failed ? fl_fail(err, FL_ENOMEM, "no memory for the output") : cmd_out_write(b.data, b.len, true, err);
    base_buf_clear(&b);
    return st;
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
