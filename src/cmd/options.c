/* The table says of each option: its names, the commands that take it, where its value goes, of what kind it is,
 * and its line of help. Everything else here is generic; adding an option is adding a row and a field. */
#include "cmd/cmd_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

typedef enum {
    KIND_FLAG,  /* bool */
    KIND_TEXT,  /* const char * */
    KIND_COUNT, /* uint32_t in [low, high] */
    KIND_REAL,  /* float in [low, high] */
    KIND_LEVEL, /* int in [low, high] */
    KIND_SEED,  /* uint64_t; sets has_seed */
    KIND_STOP,  /* appended to stop[] */
    KIND_NAME,  /* appended to names[] */
} option_kind;

typedef struct {
    const char *name; /* without "--"; NULL: a letter only */
    char letter;      /* 0: none */
    option_kind kind;
    unsigned commands;
    size_t offset; /* in cmd_options */
    double low, high;
    const char *value; /* as the help shows it */
    const char *help;
} option;

enum {
    ENGINE = CMD_RUN | CMD_CHAT | CMD_SCORE | CMD_BENCH | CMD_SERVE,
    SAMPLING = CMD_RUN | CMD_CHAT,
    SETTING = SAMPLING | CMD_SETTING,
    ALL = CMD_RUN | CMD_SCORE | CMD_TOKENIZE | CMD_DETOKENIZE | CMD_TEMPLATE | CMD_BENCH | CMD_SHOW | CMD_PULL |
          CMD_LIST | CMD_RM | CMD_CHAT | CMD_DOCTOR | CMD_SERVE,
};

#define AT(field) offsetof(cmd_options, field)
#define U32_MAX   4294967295.0

static const option options[] = {
    {"max-tokens", 'n', KIND_COUNT, SETTING, AT(max_tokens), 1, U32_MAX - 1, "N",
     "tokens of the answer (until the context is full)"},
    {"temperature", 0, KIND_REAL, SETTING, AT(temperature), 0, 100, "T", "0 is greedy (0.8)"},
    {"top-p", 0, KIND_REAL, SETTING, AT(top_p), 0, 1, "P", "the likeliest tokens with this share of the probability"},
    {"top-k", 0, KIND_COUNT, SETTING, AT(top_k), 0, U32_MAX - 1, "K", "the K likeliest tokens; 0 is all"},
    {"min-p", 0, KIND_REAL, SETTING, AT(min_p), 0, 1, "P", "tokens at least P times as likely as the likeliest"},
    {"repetition-penalty", 0, KIND_REAL, SETTING, AT(repetition_penalty), 0.01, 100, "X",
     "divides the logits of tokens seen (1: off)"},
    {"presence-penalty", 0, KIND_REAL, SETTING, AT(presence_penalty), -100, 100, "X",
     "taken from tokens already drawn (0: off)"},
    {"frequency-penalty", 0, KIND_REAL, SETTING, AT(frequency_penalty), -100, 100, "X",
     "the same, per time drawn (0: off)"},
    {"seed", 0, KIND_SEED, SETTING, AT(seed), 0, 0, "N", "draws the same answer again"},
    {"stop", 0, KIND_STOP, SAMPLING, AT(stop), 0, 0, "TEXT", "ends the answer before TEXT; up to 16 times"},
    {"ignore-eos", 0, KIND_FLAG, SAMPLING, AT(ignore_eos), 0, 0, NULL, "go on after the model's end token"},
    {"system", 0, KIND_TEXT, SAMPLING, AT(system), 0, 0, "TEXT", "a system message before the prompt"},
    {"chat-template", 0, KIND_TEXT, SAMPLING | CMD_TEMPLATE | CMD_SERVE, AT(chat_template), 0, 0, "FILE",
     "a Jinja template instead of the model's own"},
    {"raw", 0, KIND_FLAG, SAMPLING, AT(raw), 0, 0, NULL, "the prompt as plain text, without the chat template"},
    {"tokens", 0, KIND_TEXT, CMD_RUN | CMD_SCORE, AT(tokens), 0, 0, "IDS",
     "token ids 1,2,3 instead of text; nothing is added"},
    {"text", 0, KIND_TEXT, CMD_SCORE, AT(text), 0, 0, "TEXT", "the text to score"},
    {"file", 0, KIND_TEXT, CMD_SCORE, AT(file), 0, 0, "FILE", "a file with the text to score"},
    {"top", 0, KIND_COUNT, CMD_SCORE, AT(top), 0, 64, "K", "candidates shown for the position after the end (20)"},
    {"logits", 0, KIND_TEXT, CMD_SCORE, AT(logits), 0, 0, "FILE", "write float32 little-endian [n_tokens, vocabulary]"},
    {"chunk", 0, KIND_COUNT, CMD_SCORE, AT(chunk), 1, 65536, "N", "tokens fed in one step"},
    {"batch-with", 0, KIND_TEXT, CMD_SCORE, AT(batch_with), 0, 0, "FILE", "score each line of FILE in the same steps"},
    {"no-bos", 0, KIND_FLAG, CMD_SCORE | CMD_TOKENIZE, AT(no_bos), 0, 0, NULL, "add no start token"},
    {"hex", 0, KIND_FLAG, CMD_TOKENIZE | CMD_DETOKENIZE, AT(hex), 0, 0, NULL, "the text is written in hexadecimal"},
    {"parse-special", 0, KIND_FLAG, CMD_TOKENIZE, AT(parse_special), 0, 0, NULL,
     "the text of special tokens becomes those tokens"},
    {"skip-special", 0, KIND_FLAG, CMD_DETOKENIZE, AT(skip_special), 0, 0, NULL, "leave special tokens out"},
    {"lines", 0, KIND_FLAG, CMD_TOKENIZE | CMD_DETOKENIZE, AT(lines), 0, 0, NULL, "each line of stdin by itself"},
    {"messages", 0, KIND_TEXT, CMD_TEMPLATE, AT(messages), 0, 0, "FILE", "JSON: {\"messages\": [..]} or a list"},
    {"tools", 0, KIND_TEXT, CMD_TEMPLATE, AT(tools), 0, 0, "FILE", "JSON: a list of tools"},
    {"kwargs", 0, KIND_TEXT, CMD_TEMPLATE, AT(kwargs), 0, 0, "JSON", "an object of further template variables"},
    {"no-generation-prompt", 0, KIND_FLAG, CMD_TEMPLATE, AT(no_generation_prompt), 0, 0, NULL,
     "do not begin the answer"},
    {"now", 0, KIND_TEXT, CMD_TEMPLATE, AT(now), 0, 0, "TIME", "2026-01-31T12:00:00 instead of the clock"},
    {NULL, 'p', KIND_TEXT, CMD_BENCH, AT(bench_prompt), 0, 0, "LIST", "prompt lengths (512); 0 is none"},
    {NULL, 'n', KIND_TEXT, CMD_BENCH, AT(bench_generate), 0, 0, "LIST", "tokens to generate (128); 0 is none"},
    {NULL, 'b', KIND_TEXT, CMD_BENCH, AT(bench_batch), 0, 0, "LIST", "requests that generate at once (1)"},
    {NULL, 'd', KIND_TEXT, CMD_BENCH, AT(bench_depth), 0, 0, "LIST", "tokens in the cache before (0)"},
    {NULL, 'r', KIND_COUNT, CMD_BENCH, AT(repeats), 1, 100, "N", "repeats (5), after one that warms up"},
    {NULL, 'o', KIND_TEXT, CMD_BENCH, AT(bench_format), 0, 0, "FORMAT", "table, csv or md"},
    {"load-format", 0, KIND_TEXT, CMD_BENCH, AT(load_format), 0, 0, "FORMAT",
     "auto: what MODEL is; dummy: random weights of a --shape"},
    {"shape", 0, KIND_TEXT, CMD_BENCH, AT(shape), 0, 0, "NAME",
     "sizes of a published model instead of MODEL (qwen3-4b ...), or its config.json"},
    {"quant", 0, KIND_TEXT, CMD_BENCH, AT(quant), 0, 0, "TYPE", "of random weights: bf16, q8_0, q4_0, q4_k ... (bf16)"},
    {"host", 0, KIND_TEXT, CMD_SERVE, AT(host), 0, 0, "ADDRESS", "where to listen (127.0.0.1)"},
    {"port", 0, KIND_COUNT, CMD_SERVE, AT(port), 0, 65535, "N", "the port (8000); 0 is any that is free"},
    {"uds", 0, KIND_TEXT, CMD_SERVE, AT(uds), 0, 0, "PATH", "a Unix socket instead, for this user alone"},
    {"api-key", 0, KIND_TEXT, CMD_SERVE, AT(api_key), 0, 0, "KEY", "asked for on every path but /health"},
    {"api-key-file", 0, KIND_TEXT, CMD_SERVE, AT(api_key_file), 0, 0, "FILE",
     "keys, one a line; ps does not show them"},
    {"insecure", 0, KIND_FLAG, CMD_SERVE, AT(insecure), 0, 0, NULL, "listen to the network without a key"},
    {"allowed-origins", 0, KIND_TEXT, CMD_SERVE, AT(origins), 0, 0, "LIST", "web pages that may ask (none); * is all"},
    {"served-model-name", 0, KIND_NAME, CMD_SERVE, AT(names), 0, 0, "NAME",
     "the model's name (MODEL's); up to 8 times"},
    {"max-num-seqs", 0, KIND_COUNT, CMD_SERVE, AT(max_num_seqs), 1, 512, "N", "requests that run at once (32)"},
    {"max-num-batched-tokens", 0, KIND_COUNT, CMD_SERVE, AT(max_num_batched_tokens), 1, 65536, "N",
     "tokens of one step (512)"},
    {"kv-cache-tokens", 0, KIND_COUNT, CMD_SERVE, AT(kv_cache_tokens), 1, U32_MAX - 1, "N",
     "room of the cache (a third of memory at most)"},
    {"no-prefix-caching", 0, KIND_FLAG, CMD_SERVE, AT(no_prefix_caching), 0, 0, NULL,
     "compute each prompt from its start"},
    {"max-queue", 0, KIND_COUNT, CMD_SERVE, AT(max_queue), 1, 100000, "N", "calls in work, further ones get 429 (512)"},
    {"max-connections", 0, KIND_COUNT, CMD_SERVE, AT(max_connections), 1, 100000, "N",
     "open connections (10000, or what the descriptors allow)"},
    {"shutdown-timeout", 0, KIND_COUNT, CMD_SERVE, AT(shutdown_timeout), 0, 86400, "S",
     "seconds that answers may take more after SIGTERM (5)"},
    {"log-json", 0, KIND_FLAG, CMD_SERVE, AT(log_json), 0, 0, NULL, "a JSON object for each call on stderr"},
    {"quiet", 0, KIND_FLAG, CMD_SERVE, AT(quiet), 0, 0, NULL, "no line for each call"},
    {"ssl-keyfile", 0, KIND_TEXT, CMD_SERVE, AT(tls), 0, 0, "FILE", "refused: there is no TLS yet"},
    {"ssl-certfile", 0, KIND_TEXT, CMD_SERVE, AT(tls), 0, 0, "FILE", "refused, too"},
    {"threads", 't', KIND_COUNT, ENGINE, AT(threads), 1, CMD_THREADS_MAX, "N",
     "CPU threads (all that the process may use)"},
    {"cpu-isa", 0, KIND_TEXT, ENGINE, AT(cpu_isa), 0, 0, "NAME", "set: amx, avx512vnni, avx2 or scalar (the best)"},
    {"compute", 0, KIND_TEXT, ENGINE, AT(compute), 0, 0, "NAME", "auto, q8, bf16 or f32: how matmuls compute"},
    {"kv-cache-dtype", 0, KIND_TEXT, ENGINE, AT(kv_cache_dtype), 0, 0, "NAME", "auto, bf16 or f32"},
    {"device", 0, KIND_TEXT, ENGINE, AT(device), 0, 0, "NAME", "cpu or sim"},
    {"max-model-len", 0, KIND_COUNT, ENGINE, AT(max_model_len), 1, 1 << 30, "N",
     "positions a request may have (the model's context)"},
    {NULL, 'O', KIND_LEVEL, ENGINE, AT(opt_level), 0, 2, "LEVEL", "0: each operation by itself, 1 and 2: fused (2)"},
    {"enforce-eager", 0, KIND_FLAG, ENGINE, AT(enforce_eager), 0, 0, NULL, "the same as -O0"},
    {"print-plan", 0, KIND_FLAG, ENGINE, AT(print_plan), 0, 0, NULL, "show the compiled plan on stderr first"},
    {"offline", 0, KIND_FLAG, ALL & ~(CMD_LIST | CMD_RM), AT(offline), 0, 0, NULL,
     "fetch nothing: only what is in the caches (or HF_HUB_OFFLINE=1)"},
    {"yes", 'y', KIND_FLAG, CMD_RM, AT(yes), 0, 0, NULL, "do not ask"},
    {"json", 0, KIND_FLAG, ALL & ~(CMD_RM | CMD_CHAT | CMD_SERVE), AT(json), 0, 0, NULL, "one JSON object on stdout"},
    {"help", 'h', KIND_FLAG, ALL, AT(help), 0, 0, NULL, "this text"},
};
enum { N_OPTIONS = sizeof options / sizeof *options };

bool cmd_options_number(const char *text, double *value) {
    static const struct {
        char suffix;
        double factor;
    } suffixes[] = {{'k', 1e3}, {'m', 1e6}, {'g', 1e9}, {'K', 1024.0}, {'M', 1048576.0}, {'G', 1073741824.0}};
    if (!strchr("+-.0123456789", *text) || *text == '\0') return false;
    if (text[1] == 'x' || text[1] == 'X') return false;
    char *end;
    double v = strtod(text, &end);
    if (end == text || !isfinite(v)) return false;
    if (*end != '\0') {
        size_t i = 0;
        while (i < sizeof suffixes / sizeof *suffixes && suffixes[i].suffix != *end) i++;
        if (i == sizeof suffixes / sizeof *suffixes || end[1] != '\0') return false;
        v *= suffixes[i].factor;
    }
    *value = v;
    return true;
}

enum { NAME_MAX_BYTES = 32 };

/* Edit distance (insert, delete, replace), for short names. */
static unsigned distance(const char *a, const char *b) {
    size_t na = strlen(a), nb = strlen(b);
    if (na > NAME_MAX_BYTES || nb > NAME_MAX_BYTES) return NAME_MAX_BYTES;
    unsigned row[NAME_MAX_BYTES + 1];
    for (size_t j = 0; j <= nb; j++) row[j] = (unsigned)j;
    for (size_t i = 1; i <= na; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= nb; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[nb];
}

const char *cmd_options_nearest(const char *text, const char *const *names) {
    const char *best = NULL;
    unsigned least = 4;
    for (; *names; names++) {
        unsigned d = distance(text, *names);
        if (strncmp(text, *names, strlen(text)) == 0 && *text) d = 1; /* a beginning counts as near */
        if (d < least && d < strlen(*names)) {
            least = d;
            best = *names;
        }
    }
    return best;
}

static fl_status unknown_option(const char *name, const cmd_command *command, fl_err *err) {
    const char *names[N_OPTIONS + 1];
    size_t n = 0;
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (options[i].name && (options[i].commands & command->bit)) names[n++] = options[i].name;
    names[n] = NULL;
    const char *near = strncmp(name, "--", 2) == 0 ? cmd_options_nearest(name + 2, names) : NULL;
    if (near)
        return fl_fail(err, FL_EINVAL, "flambeau %s has no option %.60s; did you mean --%s?", command->name, name,
                       near);
    return fl_fail(err, FL_EINVAL, "flambeau %s has no option %.60s; see 'flambeau help %s'", command->name, name,
                   command->name);
}

/* The row for an option of this command: by letter, or by the first n bytes of name. */
static const option *find(unsigned command, char letter, const char *name, size_t n) {
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const option *o = &options[i];
        if (!(o->commands & command)) continue;
        if (letter && o->letter == letter) return o;
        if (!letter && o->name && strlen(o->name) == n && memcmp(o->name, name, n) == 0) return o;
    }
    return NULL;
}

static fl_status set_number(void *field, const option *row, const char *shown, const char *value, fl_err *err) {
    double v;
    if (!cmd_options_number(value, &v))
        return fl_fail(err, FL_EINVAL, "%s wants a number, found '%.40s'; write it as 12, 0.5 or 25.6k", shown, value);
    bool whole = row->kind != KIND_REAL;
    if (whole && fabs(v - nearbyint(v)) > 1e-9 * fabs(v))
        return fl_fail(err, FL_EINVAL, "%s wants a whole number, found '%.40s'", shown, value);
    if (whole) v = nearbyint(v);
    if (v < row->low || v > row->high)
        return fl_fail(err, FL_EINVAL, "%s wants a number from %.10g to %.10g, found %.40s", shown, row->low, row->high,
                       value);
    if (row->kind == KIND_COUNT) *(uint32_t *)field = (uint32_t)v;
    if (row->kind == KIND_LEVEL) *(int *)field = (int)v;
    if (row->kind == KIND_REAL) *(float *)field = (float)v;
    return FL_OK;
}

static fl_status set_seed(cmd_options *o, const char *shown, const char *value, fl_err *err) {
    size_t n = strspn(value, "0123456789");
    if (n == 0 || value[n] != '\0' || n > 20 || (n == 20 && strcmp(value, "18446744073709551615") > 0))
        return fl_fail(err, FL_EINVAL, "%s wants a whole number below 2^64, found '%.40s'", shown, value);
    o->seed = strtoull(value, NULL, 10);
    o->has_seed = true;
    return FL_OK;
}

static fl_status set(cmd_options *o, const option *row, const char *shown, const char *value, fl_err *err) {
    void *field = (char *)o + row->offset;
    switch (row->kind) {
        case KIND_FLAG: *(bool *)field = true; return FL_OK;
        case KIND_TEXT: *(const char **)field = value; return FL_OK;
        case KIND_SEED: return set_seed(o, shown, value, err);
        case KIND_STOP:
            if (o->n_stop == CMD_STOP_MAX)
                return fl_fail(err, FL_EINVAL, "%s may be given %d times, found more", shown, CMD_STOP_MAX);
            if (*value == '\0') return fl_fail(err, FL_EINVAL, "%s wants a text, found an empty one", shown);
            o->stop[o->n_stop++] = value;
            return FL_OK;
        case KIND_NAME:
            if (o->n_names == CMD_NAMES_MAX)
                return fl_fail(err, FL_EINVAL, "%s may be given %d times, found more", shown, CMD_NAMES_MAX);
            if (*value == '\0' || strpbrk(value, "\"\\\n"))
                return fl_fail(err, FL_EINVAL, "%s wants a name without quotes, found '%.40s'", shown, value);
            o->names[o->n_names++] = value;
            return FL_OK;
        default: return set_number(field, row, shown, value, err);
    }
}

fl_status cmd_options_change(cmd_options *o, const char *name, const char *value, fl_err *err) {
    const option *row = find(CMD_SETTING, 0, name, strlen(name));
    if (row) return set(o, row, row->name, value, err);
    const char *names[N_OPTIONS + 1];
    size_t n = 0;
    for (size_t i = 0; i < N_OPTIONS; i++)
        if (options[i].commands & CMD_SETTING) names[n++] = options[i].name;
    names[n] = NULL;
    const char *near = cmd_options_nearest(name, names);
    if (near) return fl_fail(err, FL_EINVAL, "there is no setting '%.40s'; did you mean %s?", name, near);
    return fl_fail(err, FL_EINVAL, "there is no setting '%.40s'; /set shows them", name);
}

/* A setting's value, "-" for one that was not given. */
static void show_value(const cmd_options *o, const option *row, char text[32]) {
    const void *field = (const char *)o + row->offset;
    snprintf(text, 32, "-");
    if (row->kind == KIND_REAL && !isnan(*(const float *)field))
        snprintf(text, 32, "%.6g", (double)*(const float *)field);
    if (row->kind == KIND_COUNT && *(const uint32_t *)field != UINT32_MAX)
        snprintf(text, 32, "%u", *(const uint32_t *)field);
    if (row->kind == KIND_SEED && o->has_seed) snprintf(text, 32, "%llu", (unsigned long long)o->seed);
}

void cmd_options_settings(const cmd_options *o) {
    for (size_t i = 0; i < N_OPTIONS; i++) {
        char value[32];
        if (!(options[i].commands & CMD_SETTING)) continue;
        show_value(o, &options[i], value);
        fprintf(stderr, "  %-20s %s\n", options[i].name, value);
    }
}

/* Handles the option at argv[*i] and moves *i to its last argument. */
static fl_status parse_option(cmd_options *o, const cmd_command *command, int argc, char **argv, int *i, fl_err *err) {
    const char *arg = argv[*i], *value = NULL;
    bool is_long = arg[1] == '-';
    size_t n = is_long ? strcspn(arg + 2, "=") : 1;
    const option *row = is_long ? find(command->bit, 0, arg + 2, n) : find(command->bit, arg[1], NULL, 0);
    if (!row) {
        char shown[64];
        snprintf(shown, sizeof shown, "%.*s", (int)(is_long ? n + 2 : 2), arg);
        return unknown_option(shown, command, err);
    }
    char shown[NAME_MAX_BYTES + 8];
    if (is_long)
        snprintf(shown, sizeof shown, "--%s", row->name);
    else
        snprintf(shown, sizeof shown, "-%c", row->letter);

    if (is_long && arg[2 + n] == '=') value = arg + 2 + n + 1;
    if (!is_long && arg[2] != '\0') value = arg + 2;
    if (row->kind == KIND_FLAG && value)
        return fl_fail(err, FL_EINVAL, "%s takes no value, found '%.40s'", shown, value);
    if (row->kind != KIND_FLAG && !value) {
        if (*i + 1 >= argc)
            return fl_fail(err, FL_EINVAL, "%s wants a value, found the end of the line; write %s %s", shown, shown,
                           row->value);
        value = argv[++*i];
    }
    return set(o, row, shown, value, err);
}

fl_status cmd_options_parse(cmd_options *o, const cmd_command *command, int argc, char **argv, fl_err *err) {
    *o = (cmd_options){.opt_level = -1,
                       .max_tokens = UINT32_MAX,
                       .temperature = NAN,
                       .top_p = NAN,
                       .min_p = NAN,
                       .top_k = UINT32_MAX,
                       .repetition_penalty = 1.0f,
                       .top = 20,
                       .repeats = 5,
                       .port = 8000,
                       .max_num_seqs = 32,
                       .max_queue = 512,
                       .shutdown_timeout = 5,
                       .bench_prompt = "512",
                       .bench_generate = "128",
                       .bench_batch = "1",
                       .bench_depth = "0"};
    bool only_args = false;
    for (int i = 0; i < argc; i++) {
        if (!only_args && strcmp(argv[i], "--") == 0) {
            only_args = true;
            continue;
        }
        if (!only_args && argv[i][0] == '-' && argv[i][1] != '\0') {
            fl_status st = parse_option(o, command, argc, argv, &i, err);
            if (st != FL_OK) return st;
            if (o->help) return FL_OK;
            continue;
        }
        if (o->n_args == command->n_args_max)
            return fl_fail(err, FL_EINVAL, "flambeau %s wants %s, found one more: '%.60s'; put quotes around text",
                           command->name, command->arguments, argv[i]);
        o->args[o->n_args++] = argv[i];
    }
    if (o->n_args < command->n_args_min)
        return fl_fail(err, FL_EINVAL, "flambeau %s wants %s, found %u of them; see 'flambeau help %s'", command->name,
                       command->arguments, o->n_args, command->name);
    return FL_OK;
}

bool cmd_options_next(unsigned command, uint32_t *at, cmd_option_view *out) {
    while (*at < N_OPTIONS) {
        const option *o = &options[(*at)++];
        if (!(o->commands & command)) continue;
        *out = (cmd_option_view){o->name, o->letter, o->value, o->help};
        return true;
    }
    return false;
}

static size_t help_width(void) {
    struct winsize size;
    bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 40;
    return !known ? 80 : size.ws_col > 110 ? 110 : size.ws_col;
}

/* Prints words, broken before the terminal's last column; at: columns already printed of the first line, indent: of the
 * others. A newline in the text is a blank, an empty line a new paragraph. */
static void print_wrapped(const char *text, size_t at, size_t indent) {
    size_t width = help_width();
    for (bool first = true; *text; first = false) {
        bool paragraph = strncmp(text, "\n\n", 2) == 0;
        text += strspn(text, " \n");
        size_t n = strcspn(text, " \n");
        bool breaks = paragraph || (!first && at + 1 + n >= width);
        if (breaks)
            printf("%s%*s", paragraph ? "\n\n" : "\n", (int)indent, "");
        else if (!first)
            printf(" ");
        at = breaks ? indent + n : at + !first + n;
        printf("%.*s", (int)n, text);
        text += n;
    }
    printf("\n");
}

static void print_options(const cmd_command *command, bool of_engine) {
    for (size_t i = 0; i < N_OPTIONS; i++) {
        const option *o = &options[i];
        if (!(o->commands & command->bit) || (o->commands == ENGINE) != of_engine) continue;
        char left[64];
        snprintf(left, sizeof left, "%c%c%s%s%s%s%s", o->letter ? '-' : ' ', o->letter ? o->letter : ' ',
                 o->letter && o->name ? ", " : "  ", o->name ? "--" : "", o->name ? o->name : "", o->value ? " " : "",
                 o->value ? o->value : "");
        int at = printf("  %-28s ", left);
        print_wrapped(o->help, (size_t)at, 31);
    }
}

void cmd_options_help(const cmd_command *command) {
    printf("flambeau %s %s%s[OPTIONS]\n\n%s\n", command->name, command->arguments, *command->arguments ? " " : "",
           command->summary);
    if (command->text) {
        printf("\n");
        print_wrapped(command->text, 0, 0);
    }
    printf("\nOptions:\n");
    print_options(command, false);
    if (command->bit & ENGINE) {
        printf("\nHow the model is run:\n");
        print_options(command, true);
    }
}
