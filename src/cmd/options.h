/* cmd/options.h - the command line: one table of options drives parsing, checking and the help text.
 *
 * Values are checked here as far as the command line alone allows (a number, its range); which devices, instruction
 * sets or types exist is known to the engine, which names them in its errors. An option that is not in the table does
 * not exist: a name without effect is worse than an error.
 *
 * Memory: a cmd_options owns nothing; texts point into argv.
 */
#ifndef CMD_OPTIONS_H
#define CMD_OPTIONS_H

#include "fl_err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct cmd_command cmd_command;

/* Which commands take an option. */
enum {
    CMD_RUN = 1 << 0,
    CMD_SCORE = 1 << 1,
    CMD_TOKENIZE = 1 << 2,
    CMD_DETOKENIZE = 1 << 3,
    CMD_TEMPLATE = 1 << 4,
    CMD_BENCH = 1 << 5,
    CMD_SHOW = 1 << 6,
    CMD_PULL = 1 << 7,
    CMD_LIST = 1 << 8,
    CMD_RM = 1 << 9,
    CMD_CHAT = 1 << 10,
    CMD_DOCTOR = 1 << 11,
    CMD_SERVE = 1 << 12,
    CMD_SETTING = 1 << 30, /* no command: a chat may change it */
};

enum { CMD_ARGS_MAX = 2, CMD_STOP_MAX = 16, CMD_NAMES_MAX = 8, CMD_THREADS_MAX = 512 };

typedef struct {
    const char *args[CMD_ARGS_MAX]; /* what is not an option: MODEL, PROMPT ... */
    uint32_t n_args;
    bool help, json, offline;

    uint32_t threads, max_model_len; /* 0: not given */
    const char *cpu_isa, *compute, *kv_cache_dtype, *device;
    int opt_level; /* -1: not given */
    bool enforce_eager, print_plan;

    uint32_t max_tokens;             /* UINT32_MAX: not given */
    float temperature, top_p, min_p; /* NAN: not given */
    uint32_t top_k;                  /* UINT32_MAX: not given */
    float repetition_penalty, presence_penalty, frequency_penalty;
    uint64_t seed;
    bool has_seed, ignore_eos, raw;
    const char *stop[CMD_STOP_MAX];
    uint32_t n_stop;
    const char *system, *tokens, *chat_template;

    const char *text, *file, *logits, *batch_with;
    uint32_t top, chunk; /* chunk 0: not given */
    bool no_bos;

    bool hex, parse_special, lines, skip_special, yes;

    const char *messages, *tools, *kwargs, *now;
    bool no_generation_prompt;

    const char *bench_prompt, *bench_generate, *bench_batch, *bench_depth, *bench_format;
    const char *load_format, *shape, *quant; /* bench: random weights */
    uint32_t repeats;

    const char *host, *uds, *api_key, *api_key_file, *origins, *tls;
    const char *names[CMD_NAMES_MAX];
    uint32_t n_names, port, max_connections, max_queue, shutdown_timeout; /* seconds */
    bool insecure, log_json, quiet, no_prefix_caching;
    uint32_t max_num_seqs, max_num_batched_tokens, kv_cache_tokens;
} cmd_options;

/* Parses argv[0 .. argc) (what follows the command's name) for a command; an option may stand anywhere, "--" ends
 * them. With --help in argv the rest is not looked at. Errors: FL_EINVAL, naming the argument. */
FL_CHECKED fl_status cmd_options_parse(cmd_options *o, const cmd_command *command, int argc, char **argv, fl_err *err);

/* Changes a setting of a chat by its long name ("temperature", "0.7"). Errors: FL_EINVAL; then nothing changed. */
FL_CHECKED fl_status cmd_options_change(cmd_options *o, const char *name, const char *value, fl_err *err);

/* A line on stderr for each setting of a chat: its name and value. */
void cmd_options_settings(const cmd_options *o);

/* What the help says of an option. */
typedef struct {
    const char *name;         /* without "--"; NULL: a letter only */
    char letter;              /* 0: none */
    const char *value, *help; /* value NULL: a flag */
} cmd_option_view;

/* The options of a command (its bit), one a call, from *at = 0 on; false after the last. */
bool cmd_options_next(unsigned command, uint32_t *at, cmd_option_view *out);

/* Prints the help text of a command on stdout. */
void cmd_options_help(const cmd_command *command);

/* A number with an optional suffix: 1k is 1000, 25.6k is 25600, 1K is 1024 (k m g, K M G). False if it is none. */
bool cmd_options_number(const char *text, double *value);

/* The name among names (ended by NULL) that resembles text the most; NULL if none is near. */
const char *cmd_options_nearest(const char *text, const char *const *names);

#endif
