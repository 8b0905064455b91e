/* cmd/manual.h - manual pages and shell completion, written from the tables of commands and options. */
#ifndef CMD_MANUAL_H
#define CMD_MANUAL_H

#include "base/buf.h"
#include "cmd/cmd_int.h"

/* A page in roff: flambeau(1) for NULL, else flambeau-COMMAND(1). */
void cmd_manual_page(base_buf *b, const cmd_command *command);

void cmd_manual_bash(base_buf *b); /* for /usr/share/bash-completion/completions/flambeau */
void cmd_manual_zsh(base_buf *b);  /* for site-functions/_flambeau */

#endif
