/* cmd/out.h - results on stdout, where a full disk and a closed pipe are noticed.
 *
 * A pipe whose reader has gone ends the command with exit code 1 and no words: `flambeau run m | head -1` is no
 * mistake to complain about. Any other failure (a full disk) is said.
 */
#ifndef CMD_OUT_H
#define CMD_OUT_H

#include "base/buf.h"

/* Writes n bytes; now: at once, for streamed answers. Errors: FL_EIO. */
FL_CHECKED fl_status cmd_out_write(const void *bytes, size_t n, bool now, fl_err *err);

/* Writes text of a model at once. On a terminal control characters are shown instead of obeyed: a model must not move
 * the cursor, change the title or fill the clipboard. Elsewhere the bytes stay as they are. Errors: FL_EIO, FL_ENOMEM. */
FL_CHECKED fl_status cmd_out_stream(const char *text, size_t n, fl_err *err);

/* Appends text with its control characters (C0 but newline and tab, DEL, C1) written as \x1b. */
void cmd_out_escape(base_buf *b, const char *text, size_t n);

/* Writes what a buffer holds, as it is, and empties it. Errors: FL_ENOMEM if the buffer has failed, FL_EIO. */
FL_CHECKED fl_status cmd_out_flush(base_buf *b, fl_err *err);

/* Ends stdout: what is still buffered may fail here. */
FL_CHECKED fl_status cmd_out_close(fl_err *err);

#endif
