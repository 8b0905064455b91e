/* cmd/chat.h - a conversation with a model on a terminal, or line by line from a pipe. */
#ifndef CMD_CHAT_H
#define CMD_CHAT_H

#include "cmd/session.h"

/* Talks until Ctrl-D, /bye or the end of stdin. Errors: those that end a chat: no memory, a device that failed, a closed
 * stdout, FL_ECANCELED for SIGTERM. */
FL_CHECKED fl_status cmd_chat_talk(const cmd_session *s, fl_err *err);

#endif
