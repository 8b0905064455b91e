/* cmd/term.h - the terminal: progress bars, dim text, and the time the process began.
 *
 * Bars and colour go to stderr, only when it is a terminal and NO_COLOR is not set (then progress is one line at the
 * start and one at the end). The bar is drawn at most ten times a second and cleared before anything else is printed.
 */
#ifndef CMD_TERM_H
#define CMD_TERM_H

#include <stdbool.h>
#include <stdint.h>

void cmd_term_init(void); /* notes the time; first thing in main */

bool cmd_term_is_fancy(void);   /* colour and bars on stderr */
const char *cmd_term_dim(void); /* escape codes, or "" */
const char *cmd_term_plain(void);

/* Milliseconds of a steady clock. */
double cmd_term_now_ms(void);

/* Milliseconds since the process was started. The kernel tells the start to 10 ms; the processor time used before main
 * narrows that down. */
double cmd_term_since_start_ms(void);

/* Draws "label  ███     62%  167/269 MB  11.2 MB/s  0:09"; total 0: unknown. */
void cmd_term_progress(const char *label, uint64_t done, uint64_t total);
void cmd_term_clear(void); /* wipes the bar, if one is drawn */

/* "98 MB": SI units, three digits. */
void cmd_term_size(uint64_t bytes, char text[16]);

/* The most memory this process has had resident. */
uint64_t cmd_term_rss_peak(void);

#endif
