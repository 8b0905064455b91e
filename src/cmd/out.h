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

/* Writes what a buffer holds, as it is, and empties it. Errors: FL_ENOMEM if the buffer has failed, FL_EIO. */
FL_CHECKED fl_status cmd_out_flush(base_buf *b, fl_err *err);

/* Ends stdout: what is still buffered may fail here. */
FL_CHECKED fl_status cmd_out_close(fl_err *err);

#endif
