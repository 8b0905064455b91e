/* flambeau chat - a conversation on a terminal.
 *
 * The chat is a list of messages, rendered as a whole for each answer; nothing is ever left out of it but by the user: a
 * conversation that no longer fits is said to be too long, with what can be done. The list ends with an answer, or with a
 * question that has none yet (it did not fit, or its answer was taken back): the next question replaces that one.
 *
 * What the model writes goes to stdout; the prompt, figures and words of the chat itself go to stderr.
 */
#include "cmd/chat.h"

#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/input.h"
#include "cmd/json.h"
#include "cmd/line.h"
#include "cmd/model.h"
#include "cmd/out.h"
#include "cmd/signal.h"
#include "cmd/term.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

typedef struct {
    bool of_user; /* else the model's */
    char *text;   /* owned */
    size_t n;
} message;

typedef struct {
    cmd_session s; /* with o below instead of the command's options */
    cmd_options o;
    cmd_line *line;
    char *system; /* owned; NULL: none */
    message *messages;
    size_t n, cap;
    uint32_t context_max;
    cmd_answer last; /* figures of the last answer; its text has moved on */
    bool over;
} chat;

typedef struct {
    const char *name;      /* with its slash */
    const char *arguments; /* as /help shows them */
    const char *help;
    fl_status (*run)(chat *c, const char *argument, fl_err *err); /* FL_EINVAL, FL_EFORMAT: the chat goes on */
} verb;

/* ---- messages ----- */

static const char *role(const message *m) { return m->of_user ? "user" : "assistant"; }

static void drop(chat *c, size_t first, size_t end) {
    if (first == end) return;
    for (size_t i = first; i < end; i++) base_free(c->messages[i].text);
    memmove(c->messages + first, c->messages + end, (c->n - end) * sizeof *c->messages);
    c->n -= end - first;
}

static fl_status add(chat *c, bool of_user, const char *text, size_t n, fl_err *err) {
    if (c->n == c->cap) {
        size_t cap = c->cap ? 2 * c->cap : 16;
        message *more = base_realloc(c->messages, cap * sizeof *more);
        if (!more) return fl_fail(err, FL_ENOMEM, "no memory for the messages");
        c->messages = more;
        c->cap = cap;
    }
    char *copy = base_strndup(text, n);
    if (!copy) return fl_fail(err, FL_ENOMEM, "no memory for the messages");
    c->messages[c->n++] = (message){of_user, copy, n};
    return FL_OK;
}

static bool has_question(const chat *c) { return c->n > 0 && c->messages[c->n - 1].of_user; }

/* Where the second turn begins: the oldest question and its answer lie before. */
static size_t first_turn_end(const chat *c) {
    size_t i = 1;
    while (i < c->n && !c->messages[i].of_user) i++;
    return i < c->n ? i : c->n;
}

/* The inside of the JSON list. */
static void as_json(const chat *c, base_buf *b) {
    if (c->system) cmd_session_message(b, "system", c->system, strlen(c->system));
    for (size_t i = 0; i < c->n; i++)
        cmd_session_message(b, role(&c->messages[i]), c->messages[i].text, c->messages[i].n);
}

/* ---- answers ----- */

/* The ids of the conversation so far. */
static fl_status prompt_ids(const chat *c, uint32_t **ids, size_t *n_ids, fl_err *err) {
    const message *question = &c->messages[c->n - 1];
    if (c->s.plain) return cmd_model_tokenize(c->s.model, question->text, question->n, false, ids, n_ids, err);
    base_buf messages = {0};
    as_json(c, &messages);
    fl_status st = cmd_session_render(&c->s, &messages, ids, n_ids, err);
    base_buf_clear(&messages);
    return st;
}

static fl_status too_long(chat *c, size_t n_ids, fl_err *err) {
    if (c->n > 1 && !c->s.plain)
        return fl_fail(err, FL_EINVAL,
                       "the chat is %zu tokens, the context holds %u; /drop forgets the oldest turns and asks again, "
                       "/clear forgets all",
                       n_ids, c->context_max);
    drop(c, c->n - 1, c->n);
    return fl_fail(err, FL_EINVAL, "the question is %zu tokens, the context holds %u; ask a shorter one", n_ids,
                   c->context_max);
}

static uint32_t used(const chat *c) { return c->last.stats.n_prompt + c->last.stats.n_output; }

static void print_figures(const chat *c) {
    const cmd_answer *a = &c->last;
    fprintf(stderr, "%sfirst token after %.0f ms; %u tokens, %.1f tok/s; context %u of %u%s\n", cmd_term_dim(),
            a->wait_ms, a->stats.n_output, cmd_answer_decode_rate(a), used(c), c->context_max, cmd_term_plain());
    if (a->finish == FL_FINISH_CANCELED) fprintf(stderr, "note: the answer was stopped\n");
    if (a->finish == FL_FINISH_LENGTH && used(c) >= c->context_max)
        fprintf(stderr, "note: the context is full, the answer ends here; /drop forgets the oldest turn, /clear all\n");
    else if (a->finish == FL_FINISH_LENGTH)
        fprintf(stderr, "note: the answer ends at max-tokens; /set max-tokens N changes it\n");
}

/* Answers the question at the end of the chat. On failure it stays only if it could be asked again. */
static fl_status answer(chat *c, fl_err *err) {
    uint32_t *ids = NULL;
    size_t n_ids;
    fl_status st = prompt_ids(c, &ids, &n_ids, err);
    if (st == FL_OK && n_ids >= c->context_max) {
        fl_free(ids);
        return too_long(c, n_ids, err);
    }
    cmd_answer_clear(&c->last);
    if (st == FL_OK) st = cmd_session_ask(&c->s, ids, n_ids, true, &c->last, err);
    fl_free(ids);
    const base_buf *text = &c->last.text;
    if (st == FL_OK) st = add(c, false, text->data ? text->data : "", text->len, err);
    if (st == FL_OK && (text->len == 0 || text->data[text->len - 1] != '\n')) st = cmd_out_write("\n", 1, true, err);
    if (st == FL_OK) print_figures(c);
    if (st != FL_OK && has_question(c)) drop(c, c->n - 1, c->n);
    base_buf_clear(&c->last.text);
    base_buf_clear(&c->last.tokens);
    return st;
}

static fl_status ask(chat *c, const char *text, size_t n, fl_err *err) {
    fl_status st = cmd_session_check_text("question", text, n, err);
    if (st == FL_OK && has_question(c)) drop(c, c->n - 1, c->n);
    if (st == FL_OK) st = add(c, true, text, n, err);
    return st == FL_OK ? answer(c, err) : st;
}

/* ---- commands ----- */

static fl_status on_help(chat *c, const char *argument, fl_err *err);

static fl_status on_system(chat *c, const char *argument, fl_err *err) {
    if (c->s.plain) return fl_fail(err, FL_EINVAL, "a system message needs a chat template, %s has none", c->o.args[0]);
    if (*argument == '\0') {
        fprintf(stderr, "%s\n", c->system ? c->system : "no system message");
        return FL_OK;
    }
    fl_status st = cmd_session_check_text("system message", argument, strlen(argument), err);
    if (st != FL_OK) return st;
    char *copy = base_strdup(argument);
    if (!copy) return fl_fail(err, FL_ENOMEM, "no memory for the system message");
    base_free(c->system);
    c->system = copy;
    return FL_OK;
}

static fl_status on_set(chat *c, const char *argument, fl_err *err) {
    if (*argument == '\0') {
        cmd_options_settings(&c->o);
        return FL_OK;
    }
    char name[40];
    size_t n = strcspn(argument, " \t=");
    if (argument[n] == '\0' || n >= sizeof name)
        return fl_fail(err, FL_EINVAL, "/set wants NAME VALUE, found '%.60s'; /set alone shows the settings", argument);
    memcpy(name, argument, n);
    name[n] = '\0';
    const char *value = argument + n + strspn(argument + n, " \t=");
    return cmd_options_change(&c->o, name, value, err);
}

static fl_status on_show(chat *c, const char *argument, fl_err *err) {
    (void)argument, (void)err;
    fl_model_info m;
    fl_model_info_init(&m);
    fl_model_get_info(c->s.model, &m);
    fl_engine_info e;
    fl_engine_info_init(&e);
    fl_engine_get_info(c->s.engine, &e);
    char size[16], weights[16], cache[16];
    cmd_term_size(m.file_bytes, size);
    cmd_term_size(e.weight_bytes, weights);
    cmd_term_size(e.kv_bytes, cache);
    fprintf(stderr, "  %-14s %s (%s), %.1f M parameters\n", "model", *m.name ? m.name : c->o.args[0], m.architecture,
            (double)m.n_params / 1e6);
    fprintf(stderr, "  %-14s %s, %s\n", "file", size, m.weight_types);
    fprintf(stderr, "  %-14s %s, %s, %u threads, profile %s\n", "device", e.device, e.cpu_isa, e.n_threads, e.profile);
    fprintf(stderr, "  %-14s weights %s, cache %s (%s)\n", "memory", weights, cache, e.kv_cache_dtype);
    fprintf(stderr, "  %-14s %u tokens, %u used\n", "context", c->context_max, used(c));
    fprintf(stderr, "  %-14s %zu messages\n", "chat", c->n);
    fprintf(stderr, "  %-14s %s\n", "system", c->system ? c->system : "-");
    return FL_OK;
}

static fl_status on_save(chat *c, const char *argument, fl_err *err) {
    if (*argument == '\0') return fl_fail(err, FL_EINVAL, "/save wants a file, found none");
    base_buf b = {0}, list = {0};
    as_json(c, &list);
    base_buf_printf(&b, "{\"messages\":[%s]}\n", list.data ? list.data : "");
    bool failed = b.failed || list.failed;
    fl_status st = failed ? fl_fail(err, FL_ENOMEM, "no memory for the messages") : FL_OK;
    FILE *f = st == FL_OK ? fopen(argument, "w") : NULL;
    if (st == FL_OK && !f) st = fl_fail(err, FL_EINVAL, "cannot write %.200s: %s", argument, strerror(errno));
    if (f) {
        bool ok = fwrite(b.data, 1, b.len, f) == b.len;
        ok = fclose(f) == 0 && ok;
        if (!ok) st = fl_fail(err, FL_EINVAL, "cannot write %.200s: %s", argument, strerror(errno));
    }
    if (st == FL_OK) fprintf(stderr, "%zu messages saved\n", c->n + (c->system != NULL));
    base_buf_clear(&b);
    base_buf_clear(&list);
    return st;
}

/* Adds what a saved chat holds to an empty one. */
static fl_status load_messages(chat *c, const json_t *list, fl_err *err) {
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i), *content = json_object_get(m, "content");
        const char *who = json_string_value(json_object_get(m, "role"));
        if (!who || !json_is_string(content))
            return fl_fail(err, FL_EFORMAT, "message %zu wants a role and a content of text", i + 1);
        const char *text = json_string_value(content);
        size_t n = json_string_length(content);
        bool of_user = strcmp(who, "user") == 0;
        fl_status st = FL_OK;
        if (strcmp(who, "system") == 0 && i == 0 && !c->s.plain)
            st = (c->system = base_strndup(text, n)) ? FL_OK : fl_fail(err, FL_ENOMEM, "no memory for the messages");
        else if (of_user || strcmp(who, "assistant") == 0)
            st = add(c, of_user, text, n, err);
        else
            st = fl_fail(err, FL_EFORMAT, "message %zu wants the role user or assistant, found '%.20s'", i + 1, who);
        if (st != FL_OK) return st;
    }
    return FL_OK;
}

static fl_status on_load(chat *c, const char *argument, fl_err *err) {
    if (*argument == '\0') return fl_fail(err, FL_EINVAL, "/load wants a file, found none");
    base_buf b = {0};
    fl_status st = cmd_input_read(argument, &b, err);
    if (st == FL_EIO) st = FL_EINVAL; /* the name is wrong, not the chat */
    json_t *root = NULL;
    json_error_t error;
    json_set_alloc_funcs(base_malloc, base_free);
    if (st == FL_OK) {
        root = json_loadb(b.data ? b.data : "", b.len, 0, &error);
        if (!root) st = fl_fail(err, FL_EFORMAT, "%.200s is no JSON: line %d: %s", argument, error.line, error.text);
    }
    base_buf_clear(&b);
    const json_t *list = json_is_array(root) ? root : json_object_get(root, "messages");
    if (st == FL_OK && !json_is_array(list))
        st = fl_fail(err, FL_EFORMAT, "%.200s wants a list of messages, found none", argument);
    if (st == FL_OK) {
        chat before = *c;
        c->system = NULL;
        c->messages = NULL;
        c->n = c->cap = 0;
        st = load_messages(c, list, err);
        chat *gone = st == FL_OK ? &before : c; /* a file that is wrong leaves the chat as it was */
        drop(gone, 0, gone->n);
        base_free(gone->messages);
        base_free(gone->system);
        if (st != FL_OK) *c = before;
    }
    if (st == FL_OK) fprintf(stderr, "%zu messages loaded\n", c->n + (c->system != NULL));
    json_decref(root);
    return st;
}

static fl_status on_retry(chat *c, const char *argument, fl_err *err) {
    (void)argument;
    while (c->n > 0 && !has_question(c)) drop(c, c->n - 1, c->n);
    return c->n > 0 ? answer(c, err) : fl_fail(err, FL_EINVAL, "there is no question to ask again");
}

static fl_status on_undo(chat *c, const char *argument, fl_err *err) {
    (void)argument;
    if (c->n == 0) return fl_fail(err, FL_EINVAL, "there is nothing to undo");
    while (c->n > 0 && !has_question(c)) drop(c, c->n - 1, c->n);
    if (c->n > 0) drop(c, c->n - 1, c->n);
    fprintf(stderr, "%zu messages left\n", c->n);
    return FL_OK;
}

/* Drops the oldest turn, and with a question waiting as many as it takes to ask it. */
static fl_status on_drop(chat *c, const char *argument, fl_err *err) {
    (void)argument;
    size_t turns = 0, n_ids = 0;
    bool waiting = has_question(c);
    fl_status st = FL_OK;
    if (c->n == 0 || (waiting && c->n == 1)) return fl_fail(err, FL_EINVAL, "there is no older turn to drop");
    do {
        drop(c, 0, first_turn_end(c));
        turns++;
        uint32_t *ids = NULL;
        if (waiting) st = prompt_ids(c, &ids, &n_ids, err);
        if (st == FL_OK) fl_free(ids);
    } while (st == FL_OK && waiting && n_ids >= c->context_max && c->n > 1);
    fprintf(stderr, "%zu oldest turn%s forgotten, %zu messages left\n", turns, turns == 1 ? "" : "s", c->n);
    return st == FL_OK && waiting ? answer(c, err) : st;
}

static fl_status on_clear(chat *c, const char *argument, fl_err *err) {
    (void)argument, (void)err;
    drop(c, 0, c->n);
    cmd_answer_clear(&c->last);
    return FL_OK;
}

static fl_status on_stats(chat *c, const char *argument, fl_err *err) {
    (void)argument, (void)err;
    const cmd_answer *a = &c->last;
    fl_engine_info e;
    fl_engine_info_init(&e);
    fl_engine_get_info(c->s.engine, &e);
    char rss[16];
    cmd_term_size(cmd_term_rss_peak(), rss);
    fprintf(stderr, "  %-14s %u tokens, %.1f tok/s\n", "prompt", a->stats.n_prompt, cmd_answer_prefill_rate(a));
    fprintf(stderr, "  %-14s %u tokens, %.1f tok/s\n", "answer", a->stats.n_output, cmd_answer_decode_rate(a));
    fprintf(stderr, "  %-14s after %.0f ms\n", "first token", a->wait_ms);
    fprintf(stderr, "  %-14s %u of %u tokens\n", "context", used(c), c->context_max);
    fprintf(stderr, "  %-14s %llu prompt, %llu answer tokens\n", "since start", (unsigned long long)e.n_prompt_tokens,
            (unsigned long long)e.n_output_tokens);
    fprintf(stderr, "  %-14s loaded in %.0f ms, at most %s of memory\n", "process", c->s.load_ms, rss);
    return FL_OK;
}

static fl_status on_bye(chat *c, const char *argument, fl_err *err) {
    (void)argument, (void)err;
    c->over = true;
    return FL_OK;
}

static const verb verbs[] = {
    {"/help", "", "this text", on_help},
    {"/system", "[TEXT]", "set the system message, or show it", on_system},
    {"/set", "[NAME VALUE]", "change a sampling setting, or show all", on_set},
    {"/show", "", "the model, its memory, this chat", on_show},
    {"/save", "FILE", "write the chat as JSON", on_save},
    {"/load", "FILE", "go on with a saved chat", on_load},
    {"/retry", "", "ask the last question again", on_retry},
    {"/undo", "", "take the last question and its answer back", on_undo},
    {"/drop", "", "forget the oldest turn, or as many as a question needs", on_drop},
    {"/clear", "", "forget the whole chat; the system message stays", on_clear},
    {"/stats", "", "speed, context and memory", on_stats},
    {"/bye", "", "end", on_bye},
};
enum { N_VERBS = sizeof verbs / sizeof *verbs };

static fl_status on_help(chat *c, const char *argument, fl_err *err) {
    (void)c, (void)argument, (void)err;
    for (size_t i = 0; i < N_VERBS; i++) {
        char left[32];
        snprintf(left, sizeof left, "%s %s", verbs[i].name, verbs[i].arguments);
        fprintf(stderr, "  %-20s %s\n", left, verbs[i].help);
    }
    fprintf(stderr, "  %-20s a question of several lines, up to the next \"\"\"\n", "\"\"\"");
    fprintf(stderr, "  %-20s stops an answer; discards a line; ends on an empty line\n", "Ctrl-C");
    fprintf(stderr, "  %-20s end\n", "Ctrl-D");
    return FL_OK;
}

static fl_status command(chat *c, const char *text, fl_err *err) {
    const char *names[N_VERBS + 1] = {NULL};
    size_t n = strcspn(text, " \t\n");
    for (size_t i = 0; i < N_VERBS; i++) {
        names[i] = verbs[i].name;
        if (strlen(verbs[i].name) == n && memcmp(verbs[i].name, text, n) == 0)
            return verbs[i].run(c, text + n + strspn(text + n, " \t\n"), err);
    }
    char name[40];
    snprintf(name, sizeof name, "%.*s", (int)(n < 39 ? n : 39), text);
    const char *near = cmd_options_nearest(name, names);
    if (near) return fl_fail(err, FL_EINVAL, "there is no %s; did you mean %s?", name, near);
    return fl_fail(err, FL_EINVAL, "there is no %s; /help shows the commands", name);
}

/* ---- the loop ----- */

/* A question of several lines: from the opening """ to the closing one. */
static fl_status read_block(chat *c, base_buf *b, cmd_line_kind *kind, fl_err *err) {
    enum { BLOCK_MAX = 16 << 20 };
    const char *text;
    size_t n;
    for (;;) {
        const char *end = b->data ? strstr(b->data, "\"\"\"") : NULL;
        if (end) {
            b->len = (size_t)(end - b->data);
            b->data[b->len] = '\0';
            return FL_OK;
        }
        fl_status st = cmd_line_read(c->line, "... ", kind, &text, &n, err);
        if (st != FL_OK || *kind != CMD_LINE_TEXT) return st;
        if (b->len + n > BLOCK_MAX) return fl_fail(err, FL_EINVAL, "a question of more than 16 MiB");
        if (b->len > 0) base_buf_putc(b, '\n');
        if (!base_buf_append(b, text, n)) return fl_fail(err, FL_ENOMEM, "no memory for the question");
    }
}

/* The next question or command into b. */
static fl_status read_input(chat *c, base_buf *b, cmd_line_kind *kind, fl_err *err) {
    const char *text;
    size_t n;
    base_buf_clear(b);
    fl_status st = cmd_line_read(c->line, ">>> ", kind, &text, &n, err);
    if (st != FL_OK || *kind != CMD_LINE_TEXT) return st;
    bool is_block = strncmp(text, "\"\"\"", 3) == 0;
    size_t skip = is_block ? 3 : 0;
    if (!base_buf_append(b, text + skip, n - skip)) return fl_fail(err, FL_ENOMEM, "no memory for the question");
    if (is_block) st = read_block(c, b, kind, err);
    if (st == FL_OK && *kind == CMD_LINE_TEXT) cmd_line_remember(c->line, b->data);
    return st;
}

/* Reads and does one thing. */
static fl_status step(chat *c, base_buf *input, fl_err *err) {
    cmd_line_kind kind;
    fl_err trouble;
    fl_status st = read_input(c, input, &kind, &trouble);
    if (st == FL_OK && kind == CMD_LINE_STOP) raise(SIGINT);
    if (st == FL_OK && kind != CMD_LINE_TEXT) {
        c->over = true;
        return FL_OK;
    }
    if (st == FL_OK && input->len == 0) return FL_OK;
    cmd_signal_hold(true); /* Ctrl-C before the request exists stops the answer, too */
    if (st == FL_OK)
        st = input->data[0] == '/' ? command(c, input->data, &trouble) : ask(c, input->data, input->len, &trouble);
    cmd_signal_hold(false);
    if (cmd_signal_caught() == SIGTERM) return fl_fail(err, FL_ECANCELED, "the chat was ended");
    cmd_signal_clear();
    bool goes_on = st == FL_EINVAL || st == FL_EFORMAT;
    if (goes_on) fprintf(stderr, "error: %s\n", trouble.msg);
    if (st != FL_OK && !goes_on && err) *err = trouble;
    return goes_on ? FL_OK : st;
}

static void greet(const chat *c) {
    fl_model_info m;
    fl_model_info_init(&m);
    fl_model_get_info(c->s.model, &m);
    fprintf(stderr, "%s%s, %.0f M parameters, context %u, loaded in %.0f ms\n", cmd_term_dim(),
            *m.name ? m.name : c->o.args[0], (double)m.n_params / 1e6, c->context_max, c->s.load_ms);
    if (c->s.plain) fprintf(stderr, "each question stands by itself: there is no chat template\n");
    fprintf(stderr, "/help shows the commands, Ctrl-C stops an answer, Ctrl-D ends%s\n", cmd_term_plain());
}

fl_status cmd_chat_talk(const cmd_session *s, fl_err *err) {
    const char *words[N_VERBS + 1] = {NULL};
    for (size_t i = 0; i < N_VERBS; i++) words[i] = verbs[i].name;
    chat c = {.s = *s, .o = *s->o};
    c.s.o = &c.o;
    fl_engine_info info;
    fl_engine_info_init(&info);
    fl_engine_get_info(s->engine, &info);
    c.context_max = info.max_model_len;
    fl_status st = cmd_line_open(&c.line, words, err);
    if (st == FL_OK && c.o.system) st = on_system(&c, c.o.system, err);
    if (st == FL_OK) greet(&c);
    base_buf input = {0};
    while (st == FL_OK && !c.over) st = step(&c, &input, err);
    if (st == FL_OK) fputc('\n', stderr);
    base_buf_clear(&input);
    drop(&c, 0, c.n);
    base_free(c.messages);
    base_free(c.system);
    cmd_answer_clear(&c.last);
    cmd_line_close(c.line);
    return st;
}

int cmd_chat(const cmd_options *o, fl_err *err) {
    if (o->raw && o->system) return cmd_usage(err, "--system needs a chat, --raw has none; leave one out");
    if (o->raw && o->chat_template) return cmd_usage(err, "--chat-template has no effect with --raw; leave one out");
    cmd_session s;
    int code = cmd_session_open(&s, o, err);
    if (code != CMD_OK) return code;
    code = cmd_exit(cmd_chat_talk(&s, err));
    cmd_session_close(&s);
    return code;
}
