/* flambeau - the program: finds the command, parses its options, runs it, prints the one error line. */
#include "cmd/cmd_int.h"
#include "cmd/manual.h"
#include "cmd/out.h"
#include "cmd/signal.h"
#include "cmd/term.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const cmd_command cmd_commands[] = {
    {"run", CMD_RUN, cmd_run, "MODEL [PROMPT]", 1, 2, "answer a prompt, or chat",
     "The prompt is a user message in the model's chat template; piped stdin is the prompt when there is none.\n"
     "On a terminal without a prompt it is the same as chat.\n"
     "Without any sampling option: temperature 0.8, top-k 40, top-p 0.95. As soon as one of --temperature, --top-p,\n"
     "--top-k and --min-p is given, the filters not given are off (the temperature stays 0.8 unless given)."},
    {"chat", CMD_CHAT, cmd_chat, "MODEL", 1, 1, "talk with a model",
     "Lines are edited with libedit where the machine has it; /help inside shows the commands of a chat. Ctrl-C stops\n"
     "an answer, on an empty line it ends the chat; Ctrl-D ends. From a pipe each line is a question."},
    {"score", CMD_SCORE, cmd_score, "MODEL", 1, 1, "log-probability of a text",
     "Takes one of --text, --file and --tokens, or stdin."},
    {"tokenize", CMD_TOKENIZE, cmd_tokenize, "MODEL [TEXT]", 1, 2, "text to token ids",
     "Without TEXT reads stdin, byte for byte."},
    {"detokenize", CMD_DETOKENIZE, cmd_detokenize, "MODEL [IDS]", 1, 2, "token ids to text",
     "Without IDS reads stdin."},
    {"template", CMD_TEMPLATE, cmd_template, "MODEL|FILE.jinja", 1, 1, "render a chat template", NULL},
    {"bench", CMD_BENCH, cmd_bench, "[startup] [MODEL]", 0, 2, "measure speed",
     "bench startup runs the program anew for each sample: process start to first token, with the file out of the "
     "page\n"
     "cache and in it, -r times each.\n\n"
     "LIST is 1,8,32 or ranges: 1-4, 128-1024+128, 1-32*2. pp512 reads a prompt of 512 tokens, tg128 draws 128 "
     "tokens,\n"
     "tg128xb8 draws 128 tokens in each of 8 requests at once and counts all of them.\n\n"
     "--load-format dummy --shape NAME --quant TYPE measures random weights of a published model's sizes."},
    {"serve", CMD_SERVE, cmd_serve, "MODEL", 1, 1, "answer over HTTP, in OpenAI's protocol",
     "Serves /v1/chat/completions, /v1/completions, /v1/models, /tokenize, /detokenize, /metrics, /health and more;\n"
     "/openapi.json lists them with their fields. SIGTERM or Ctrl-C lets running answers end, a second one does not."},
    {"show", CMD_SHOW, cmd_show, "MODEL", 1, 1, "what a model is, and what it needs",
     "From the header alone: sizes, which layers see how far, types and bits of each kind of tensor, tokenizer, what "
     "the\n"
     "chat template takes, whether the model runs and why not, the memory it needs."},
    {"pull", CMD_PULL, cmd_pull, "NAME", 1, 1, "download a model",
     "NAME is one of 'flambeau list', a repository ORG/NAME[@REVISION][:FILE], or the URL of a .gguf file.\n"
     "Of a repository only what a model needs is fetched; :FILE picks one of several .gguf files by its name or a "
     "word\n"
     "of it, such as :Q4_K_M. It goes where the hub's Python client keeps it. \"#sha256=HEX\" after a URL is checked.\n"
     "An interrupted pull goes on where it stopped. Needs libcurl4 for repositories and URLs, python3-pip otherwise.\n"
     "\n"
     "Environment: HF_ENDPOINT (another hub), HF_TOKEN or HF_TOKEN_PATH (sent to the hub alone), HF_HOME or\n"
     "HF_HUB_CACHE (where repositories are kept), HF_HUB_OFFLINE, HF_HUB_DOWNLOAD_TIMEOUT (30: seconds without a byte "
     "before a part is\n"
     "asked for again), FLAMBEAU_CACHE (where everything else is kept), https_proxy."},
    {"list", CMD_LIST, cmd_list, "", 0, 0, "models known and downloaded",
     "FITS says whether the weights and the cache of 4,096 tokens have room in this machine's memory, or in the limit "
     "of\n"
     "the control group, and whether this version can run the model."},
    {"rm", CMD_RM, cmd_rm, "NAME", 1, 1, "remove a downloaded model",
     "Says what it frees. On a terminal it asks first, unless --yes is given. Only what lies in the caches is "
     "removed."},
    {"doctor", CMD_DOCTOR, cmd_doctor, "", 0, 0, "what this machine has, and whether it works",
     "Looks at the CPU and its kernels, which it tests against the reference, at memory, limits, libraries, the cache\n"
     "and the disk: a line each, beginning with ok, note or bad. The exit code is 1 if anything is bad."},
    {.name = NULL},
};

static const cmd_command *find_command(const char *name) {
    for (const cmd_command *c = cmd_commands; c->name; c++)
        if (strcmp(c->name, name) == 0) return c;
    return NULL;
}

static int unknown_command(const char *name, fl_err *err) {
    const char *names[sizeof cmd_commands / sizeof *cmd_commands];
    size_t n = 0;
    for (const cmd_command *c = cmd_commands; c->name; c++) names[n++] = c->name;
    names[n] = NULL;
    const char *near = cmd_options_nearest(name, names);
    if (near) return cmd_usage(err, "flambeau has no command '%.40s'; did you mean '%s'?", name, near);
    return cmd_usage(err, "flambeau has no command '%.40s'; see 'flambeau help'", name);
}

static void print_help(FILE *f) {
    fprintf(f, "flambeau %s - runs language models\n\n", fl_version());
    for (const cmd_command *c = cmd_commands; c->name; c++) {
        char left[64];
        snprintf(left, sizeof left, "%s %s", c->name, c->arguments);
        fprintf(f, "  flambeau %-28s %s\n", left, c->summary);
    }
    fprintf(f, "  flambeau %-28s %s\n", "help [COMMAND]", "this text, or that of a command");
    fprintf(
        f,
        "\nMODEL is a .gguf file, a name from 'flambeau list' or a repository ORG/NAME[:FILE]; a name is downloaded\n"
        "when it is missing.\n");
}

/* flambeau help --man [COMMAND], --bash, --zsh: what `make install` installs. */
static int print_manual(int argc, char **argv, fl_err *err) {
    base_buf b = {0};
    const cmd_command *command = argc > 1 ? find_command(argv[1]) : NULL;
    if (argc > 1 && !command) return unknown_command(argv[1], err);
    if (strcmp(argv[0], "--man") == 0)
        cmd_manual_page(&b, command);
    else if (strcmp(argv[0], "--bash") == 0)
        cmd_manual_bash(&b);
    else if (strcmp(argv[0], "--zsh") == 0)
        cmd_manual_zsh(&b);
    else
        return cmd_usage(err, "flambeau help has no option %.40s; there are --man, --bash and --zsh", argv[0]);
    fl_status st = cmd_out_flush(&b, err);
    base_buf_clear(&b);
    return cmd_exit(st);
}

/* flambeau help [COMMAND] */
static int help(int argc, char **argv, fl_err *err) {
    if (argc == 0) {
        print_help(stdout);
        return CMD_OK;
    }
    if (argv[0][0] == '-') return print_manual(argc, argv, err);
    const cmd_command *command = find_command(argv[0]);
    if (!command) return unknown_command(argv[0], err);
    cmd_options_help(command);
    return CMD_OK;
}

static int dispatch(int argc, char **argv, fl_err *err) {
    if (argc < 2) {
        print_help(stderr);
        return cmd_usage(err, "flambeau wants a command, found none; see 'flambeau help'");
    }
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0)
        return help(argc - 2, argv + 2, err);
    if (strcmp(name, "--version") == 0) {
        printf("flambeau %s\n", fl_version());
        return CMD_OK;
    }
    const cmd_command *command = find_command(name);
    if (!command) return unknown_command(name, err);
    cmd_options options;
    if (cmd_options_parse(&options, command, argc - 2, argv + 2, err) != FL_OK) return CMD_USAGE;
    if (options.help) {
        cmd_options_help(command);
        return CMD_OK;
    }
    if (options.offline) setenv("HF_HUB_OFFLINE", "1", 1); /* hub/ looks there: the option is the variable */
    return command->run(&options, err);
}

int cmd_exit(fl_status st) {
    if (st == FL_OK) return CMD_OK;
    return st == FL_ECANCELED && cmd_signal_caught() ? CMD_SIGNAL + cmd_signal_caught() : CMD_FAILED;
}

int main(int argc, char **argv) {
    cmd_term_init();
    cmd_signal_init();
    fl_err err = {.msg = ""};
    int code = dispatch(argc, argv, &err);
    cmd_term_clear();
    fl_err closing = {.msg = ""};
    if (cmd_out_close(&closing) != FL_OK && code == CMD_OK) {
        code = CMD_FAILED;
        err = closing;
    }
    if ((code == CMD_FAILED || code == CMD_USAGE) && err.msg[0]) fprintf(stderr, "error: %s\n", err.msg);
    return code;
}
