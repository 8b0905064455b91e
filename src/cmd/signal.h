/* cmd/signal.h - Ctrl-C and SIGTERM: the answer first, the program second.
 *
 * While a request is watched, the first signal cancels it, the command prints what it has and ends with 128 + signal.
 * Without one, or at the second signal, the process ends at once with that code, after the file it was writing is gone.
 * SIGPIPE is ignored: a closed stdout is an error of the write that meets it.
 *
 * The state is global because a handler has no argument. One thread calls these functions.
 */
#ifndef CMD_SIGNAL_H
#define CMD_SIGNAL_H

#include "flambeau.h"

#include <termios.h>

void cmd_signal_init(void);

/* Requests that the next signal cancels; up to CMD_SIGNAL_REQUESTS_MAX at once, further ones are only stopped by
 * cmd_signal_caught() at the next event. Forget a request before closing it. */
enum { CMD_SIGNAL_REQUESTS_MAX = 64 };
void cmd_signal_watch(fl_request *r);
void cmd_signal_forget(fl_request *r);

/* While on, the first signal is only remembered (a request watched later is canceled at once): for work that looks at
 * cmd_signal_caught() often. */
void cmd_signal_hold(bool on);

/* The signal that came, or 0. clear: an interactive chat goes on after Ctrl-C. */
int cmd_signal_caught(void);
void cmd_signal_clear(void);

/* A file to remove if the process is ended at once; NULL: none. path must stay valid. */
void cmd_signal_remove(const char *path);

/* How the terminal of stdin is put back (bracketed paste off, too) if the process is ended at once; NULL: it is as it
 * should be. t must stay valid. */
void cmd_signal_restore(const struct termios *t);

#endif
