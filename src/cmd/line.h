/* cmd/line.h - lines from a person: editing and history where the machine has libedit, plain lines elsewhere.
 *
 * libedit is opened at run time, so that the program needs no library to start. It is used when stdin and stderr are a
 * terminal that can move its cursor; its settings are libedit's own (~/.editrc, arrows, Emacs or vi keys). On top:
 *
 *     Tab      completes the words given at open, at the start of a line
 *     Ctrl-C   discards what was typed; on an empty line it ends the program with 130, like a signal
 *     paste    what is pasted, newlines included, becomes part of the line (bracketed paste)
 *
 * The terminal is put back whatever ends the process (cmd_signal_restore).
 *
 * History is $XDG_STATE_HOME/flambeau/history (~/.local/state without it), readable by its owner alone, written after
 * every line. Without such a folder there is no history, and no complaint.
 *
 * Threads: one. Memory: a line is valid until the next call.
 */
#ifndef CMD_LINE_H
#define CMD_LINE_H

#include "fl_err.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct cmd_line cmd_line;

typedef enum {
    CMD_LINE_TEXT, /* a line, perhaps empty */
    CMD_LINE_END,  /* Ctrl-D, or the end of stdin */
    CMD_LINE_STOP, /* Ctrl-C on an empty line */
} cmd_line_kind;

/* words: what Tab completes, ended by NULL; borrowed. Errors: FL_ENOMEM. */
FL_CHECKED fl_status cmd_line_open(cmd_line **out, const char *const *words, fl_err *err);
void cmd_line_close(cmd_line *l); /* accepts NULL */

/* Shows the prompt on stderr (on a terminal) and waits for a line, given without its last newline. A line longer than
 * 16 MiB is FL_EINVAL. Errors: FL_ENOMEM, FL_EINVAL. */
FL_CHECKED fl_status cmd_line_read(cmd_line *l, const char *prompt, cmd_line_kind *kind, const char **text, size_t *n,
                                   fl_err *err);

/* The library that edits and its name, loaded until the process ends; NULL if the machine has none. */
void *cmd_line_library(const char **name);

/* Adds an entry to the history: a question, which may be several lines. */
void cmd_line_remember(cmd_line *l, const char *text);

#endif
