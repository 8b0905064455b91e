/* cmd_int.h - what the commands of the program share: exit codes, the command table, the end of a command.
 *
 * A command is a function that gets the parsed options and returns the exit code. When it returns CMD_FAILED or
 * CMD_USAGE it has left one line in err, which main prints as "error: ..." on stderr; an empty line means that there
 * is nobody to tell (stdout was closed). Commands print results on stdout through cmd_out, all else on stderr.
 *
 *     0    done
 *     1    failed: the file, the model, the prompt, the machine
 *     2    wrong usage: what the command line alone shows to be wrong
 *     130  ended by Ctrl-C, 143 by SIGTERM
 */
#ifndef CMD_INT_H
#define CMD_INT_H

#include "cmd/options.h"
#include "flambeau.h"

enum { CMD_OK = 0, CMD_FAILED = 1, CMD_USAGE = 2, CMD_SIGNAL = 128 };

struct cmd_command {
    const char *name;
    unsigned bit; /* one of CMD_RUN ..., as in the option table */
    int (*run)(const cmd_options *o, fl_err *err);
    const char *arguments; /* "MODEL [PROMPT]" */
    uint32_t n_args_min, n_args_max;
    const char *summary; /* one line of `flambeau help` */
    const char *text;    /* paragraphs of `flambeau help COMMAND`, or NULL */
};

/* All commands, ended by one without a name. */
extern const cmd_command cmd_commands[];

/* Records a usage error; returns CMD_USAGE. */
#define cmd_usage(err, ...) ((void)fl_fail((err), FL_EINVAL, __VA_ARGS__), CMD_USAGE)

/* The exit code for st: FL_ECANCELED means that a signal ended the command. */
int cmd_exit(fl_status st);

int cmd_run(const cmd_options *o, fl_err *err);
int cmd_chat(const cmd_options *o, fl_err *err);
int cmd_score(const cmd_options *o, fl_err *err);
int cmd_tokenize(const cmd_options *o, fl_err *err);
int cmd_detokenize(const cmd_options *o, fl_err *err);
int cmd_template(const cmd_options *o, fl_err *err);
int cmd_bench(const cmd_options *o, fl_err *err);
int cmd_startup(const cmd_options *o, fl_err *err);
int cmd_serve(const cmd_options *o, fl_err *err);
int cmd_show(const cmd_options *o, fl_err *err);
int cmd_doctor(const cmd_options *o, fl_err *err);
int cmd_pull(const cmd_options *o, fl_err *err);
int cmd_list(const cmd_options *o, fl_err *err);
int cmd_rm(const cmd_options *o, fl_err *err);

#endif
