/* cmd/input.h - what commands read: files, stdin, hexadecimal text, lists of ids. */
#ifndef CMD_INPUT_H
#define CMD_INPUT_H

#include "base/buf.h"

#include <stdint.h>
#include <stdio.h>

enum { CMD_INPUT_BYTES_MAX = 256 << 20 };

/* Appends a whole file, or stdin for "-", to b. Errors: FL_EIO (a folder, unreadable, too big), FL_ENOMEM. */
FL_CHECKED fl_status cmd_input_read(const char *path, base_buf *b, fl_err *err);

/* Replaces hexadecimal text (spaces allowed) by its bytes. Errors: FL_EINVAL. */
FL_CHECKED fl_status cmd_input_unhex(base_buf *b, fl_err *err);
void cmd_input_hex(base_buf *b, const char *bytes, size_t n); /* appends */

/* Ids from "1,2,3", "[1, 2, 3]" or "1 2 3"; *ids is the caller's (base_free). Errors: FL_EINVAL, FL_ENOMEM. */
FL_CHECKED fl_status cmd_input_ids(const char *text, uint32_t **ids, size_t *n_ids, fl_err *err);

/* The next line of a buffer from *at on, without its newline; false at the end. */
bool cmd_input_line(const base_buf *b, size_t *at, const char **line, size_t *n);

#endif
