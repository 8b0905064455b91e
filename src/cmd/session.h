/* cmd/session.h - a model that answers: what `run` and `chat` share.
 *
 * A session is an opened model with an engine for one request at a time. A conversation is given as the inside of a
 * JSON list of messages and becomes ids through the model's chat template; a model without one (or --raw) takes plain
 * text. Answers stream to stdout; on a terminal what the model writes cannot control it (cmd/out.h).
 *
 * Memory: a session owns its model and engine and borrows the options; an answer owns its text and tokens.
 */
#ifndef CMD_SESSION_H
#define CMD_SESSION_H

#include "base/buf.h"
#include "cmd/options.h"
#include "flambeau.h"

typedef struct {
    const cmd_options *o;
    fl_model *model;
    fl_engine *engine;
    double load_ms; /* opening the model and the engine */
    bool plain;     /* prompts are plain text */
} cmd_session;

typedef struct {
    base_buf text;
    base_buf tokens; /* uint32_t each */
    fl_finish finish;
    fl_request_stats stats;
    double first_ms; /* process start to first token; 0: none came */
    double wait_ms;  /* question to first token */
} cmd_answer;

/* Returns the exit code; on CMD_OK the session is to be closed. */
int cmd_session_open(cmd_session *s, const cmd_options *o, fl_err *err);
void cmd_session_close(cmd_session *s);

/* Appends {"role":..,"content":..} to the inside of a JSON list. */
void cmd_session_message(base_buf *messages, const char *role, const char *text, size_t n);

/* The ids of a conversation that an answer follows. *ids is the caller's (fl_free). */
FL_CHECKED fl_status cmd_session_render(const cmd_session *s, const base_buf *messages, uint32_t **ids, size_t *n_ids,
                                        fl_err *err);

/* Errors: FL_EFORMAT when the text is no UTF-8; `what` names it. */
FL_CHECKED fl_status cmd_session_check_text(const char *what, const char *text, size_t n, fl_err *err);

/* Draws an answer with the sampling options of s->o; stream: its text goes to stdout as it comes. The answer holds what
 * came before an error, too; end with cmd_answer_clear(). Errors: those of requests, FL_EIO of stdout. */
FL_CHECKED fl_status cmd_session_ask(const cmd_session *s, const uint32_t *prompt, size_t n_prompt, bool stream,
                                     cmd_answer *a, fl_err *err);
void cmd_answer_clear(cmd_answer *a);

double cmd_answer_prefill_rate(const cmd_answer *a); /* tokens a second */
double cmd_answer_decode_rate(const cmd_answer *a);

#endif
