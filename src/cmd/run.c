/* flambeau run - one answer, or a chat on a terminal.
 *
 * A prompt becomes token ids in one of three ways: --tokens as they are, --raw (or a model without chat template) as
 * plain text with the model's start token, else as the user message of a chat. The answer streams to stdout, figures
 * go to stderr. A chat keeps its messages as JSON text and renders all of them for each turn.
 */
#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/input.h"
#include "cmd/json.h"
#include "cmd/model.h"
#include "cmd/out.h"
#include "cmd/signal.h"
#include "cmd/term.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const cmd_options *o;
    fl_model *model;
    fl_engine *engine;
    double load_ms; /* opening the model and the engine */
    bool plain;     /* prompts are plain text */
} session;

typedef struct {
    base_buf text;
    base_buf tokens; /* uint32_t each */
    fl_finish finish;
    fl_request_stats stats;
    double first_ms; /* process start to first token; 0: none came */
} answer;

static void answer_clear(answer *a) {
    base_buf_clear(&a->text);
    base_buf_clear(&a->tokens);
    *a = (answer){.finish = FL_FINISH_NONE};
}

static void session_close(session *s) {
    fl_engine_close(s->engine);
    fl_model_close(s->model);
}

/* Returns the exit code; on CMD_OK the session is to be closed. */
static int session_open(session *s, const cmd_options *o, fl_err *err) {
    double start = cmd_term_now_ms();
    *s = (session){.o = o};
    if (cmd_model_open(&s->model, o->args[0], err) != FL_OK) return cmd_exit(err->code);
    fl_engine_options options;
    cmd_model_engine_options(o, &options);
    options.max_num_seqs = 1;
    fl_status st = cmd_model_engine(&s->engine, s->model, &options, o->print_plan, err);
    if (st != FL_OK) {
        session_close(s);
        return st == FL_EINVAL ? CMD_USAGE : CMD_FAILED;
    }
    s->load_ms = cmd_term_now_ms() - start;

    fl_model_info info;
    fl_model_info_init(&info);
    fl_model_get_info(s->model, &info);
    s->plain = o->raw || !info.has_chat_template;
    if (s->plain && !o->raw && !o->tokens)
        fprintf(stderr, "note: %s has no chat template; the prompt is taken as plain text\n", o->args[0]);
    return CMD_OK;
}

static void sampling(const cmd_options *o, fl_request_options *r) {
    bool plain = isnan(o->temperature) && isnan(o->top_p) && isnan(o->min_p) && o->top_k == UINT32_MAX;
    r->max_tokens = o->max_tokens;
    r->temperature = isnan(o->temperature) ? 0.8f : o->temperature;
    r->top_p = plain ? 0.95f : isnan(o->top_p) ? 1.0f : o->top_p;
    r->top_k = plain ? 40 : o->top_k == UINT32_MAX ? 0 : o->top_k;
    r->min_p = isnan(o->min_p) ? 0.0f : o->min_p;
    r->repetition_penalty = o->repetition_penalty;
    r->presence_penalty = o->presence_penalty;
    r->frequency_penalty = o->frequency_penalty;
    r->seed = o->seed;
    r->has_seed = o->has_seed;
    r->ignore_eos = o->ignore_eos;
    r->stop = o->stop;
    r->n_stop = o->n_stop;
}

/* Reads the events of a request up to the last; text goes to stdout at once when stream is set. */
static fl_status follow(fl_request *r, answer *a, bool stream, fl_err *err) {
    fl_event event;
    fl_event_init(&event);
    do {
        fl_status st = fl_request_next(r, &event, -1, err);
        if (st != FL_OK) return st;
        if (event.kind == FL_EVENT_TOKEN) {
            if (a->first_ms <= 0) a->first_ms = cmd_term_since_start_ms();
            base_buf_append(&a->tokens, &event.token, sizeof event.token);
        }
        if (event.n_text == 0) continue;
        base_buf_append(&a->text, event.text, event.n_text);
        if (stream) st = cmd_out_write(event.text, event.n_text, true, err);
        if (st != FL_OK) return st;
    } while (event.kind != FL_EVENT_DONE);
    a->finish = event.finish;
    if (a->first_ms <= 0) a->first_ms = cmd_term_since_start_ms(); /* the first token was a stop token */
    return a->text.failed || a->tokens.failed ? fl_fail(err, FL_ENOMEM, "no memory for the answer") : FL_OK;
}

static fl_status ask(const session *s, const uint32_t *prompt, size_t n_prompt, answer *a, fl_err *err) {
    fl_request_options options;
    fl_request_options_init(&options);
    sampling(s->o, &options);
    options.prompt = prompt;
    options.n_prompt = n_prompt;
    fl_request *r;
    fl_status st = fl_request_add(&r, s->engine, &options, err);
    if (st != FL_OK) return st;
    cmd_signal_watch(r);
    st = follow(r, a, !s->o->json, err);
    fl_request_stats_init(&a->stats);
    fl_request_get_stats(r, &a->stats);
    cmd_signal_forget(r);
    fl_request_close(r);
    return st;
}

static double rate(double n, double ms) { return ms > 0 ? n / ms * 1e3 : 0; }

/* The first token belongs to the prompt's time; the rest is drawn in decode_ms. */
static double decode_rate(const fl_request_stats *t) {
    return t->n_output > 1 ? rate(t->n_output - 1.0, t->decode_ms) : 0;
}

static void print_figures(const session *s, const answer *a) {
    const fl_request_stats *t = &a->stats;
    fprintf(stderr,
            "%sload %.0f ms, first token after %.0f ms; prompt %u tokens, %.1f tok/s; answer %u tokens, %.1f tok/s%s\n",
            cmd_term_dim(), s->load_ms, a->first_ms, t->n_prompt, rate(t->n_prompt, t->prefill_ms), t->n_output,
            decode_rate(t), cmd_term_plain());
}

static const char *finish_name(fl_finish finish) {
    return finish == FL_FINISH_STOP ? "stop" : finish == FL_FINISH_LENGTH ? "length" : "canceled";
}

static fl_status print_json(const session *s, const answer *a, const uint32_t *prompt, size_t n_prompt, fl_err *err) {
    const fl_request_stats *t = &a->stats;
    fl_engine_info info;
    fl_engine_info_init(&info);
    fl_engine_get_info(s->engine, &info);
    fl_model_info model;
    fl_model_info_init(&model);
    fl_model_get_info(s->model, &model);
    base_buf b = {0};
    cmd_json_open(&b, '{');
    cmd_json_key(&b, "prompt_tokens");
    cmd_json_ids(&b, prompt, n_prompt);
    cmd_json_key(&b, "tokens");
    cmd_json_ids(&b, (const uint32_t *)(const void *)a->tokens.data, a->tokens.len / sizeof(uint32_t));
    cmd_json_key(&b, "text");
    if (model.has_tokenizer)
        cmd_json_text(&b, a->text.data, a->text.len);
    else
        cmd_json_string(&b, NULL);
    cmd_json_key(&b, "finish_reason");
    cmd_json_string(&b, finish_name(a->finish));
    cmd_json_key(&b, "seed");
    cmd_json_count(&b, t->seed);
    cmd_json_key(&b, "profile");
    cmd_json_string(&b, info.profile);
    const struct {
        const char *name;
        double ms;
    } timings[] = {
        {"load_ms", s->load_ms},     {"prefill_ms", t->prefill_ms},  {"prefill_tps", rate(t->n_prompt, t->prefill_ms)},
        {"decode_ms", t->decode_ms}, {"decode_tps", decode_rate(t)}, {"start_to_first_token_ms", a->first_ms}};
    cmd_json_key(&b, "timings");
    cmd_json_open(&b, '{');
    for (size_t i = 0; i < sizeof timings / sizeof *timings; i++) {
        cmd_json_key(&b, timings[i].name);
        cmd_json_ms(&b, timings[i].ms);
    }
    cmd_json_close(&b, '}');
    cmd_json_key(&b, "rss_peak_bytes");
    cmd_json_count(&b, cmd_term_rss_peak());
    cmd_json_close(&b, '}');
    base_buf_putc(&b, '\n');
    fl_status st = cmd_out_flush(&b, err);
    base_buf_clear(&b);
    return st;
}

static void message(base_buf *messages, const char *role, const char *text, size_t n) {
    cmd_json_open(messages, '{');
    cmd_json_key(messages, "role");
    cmd_json_string(messages, role);
    cmd_json_key(messages, "content");
    cmd_json_text(messages, text, n);
    cmd_json_close(messages, '}');
}

static void begin_messages(base_buf *messages, const cmd_options *o) {
    base_buf_clear(messages);
    if (o->system) message(messages, "system", o->system, strlen(o->system));
}

/* The ids of a chat; messages is the inside of the JSON list. */
static fl_status render(const session *s, const base_buf *messages, uint32_t **ids, size_t *n_ids, fl_err *err) {
    base_buf context = {0};
    base_buf_printf(&context, "{\"messages\":[%s],\"add_generation_prompt\":true}",
                    messages->data ? messages->data : "");
    if (context.failed || messages->failed) {
        base_buf_clear(&context);
        return fl_fail(err, FL_ENOMEM, "no memory for the messages");
    }
    char *text;
    size_t n;
    fl_status st = fl_template_render(s->model, context.data, NULL, &text, &n, ids, n_ids, err);
    base_buf_clear(&context);
    if (st == FL_OK) fl_free(text);
    return st;
}

static fl_status check_text(const char *what, const char *text, size_t n, fl_err *err) {
    size_t at;
    if (!cmd_json_is_utf8(text, n, &at))
        return fl_fail(err, FL_EFORMAT, "the %s must be UTF-8, found byte 0x%02x at offset %zu; convert it first", what,
                       (unsigned char)text[at], at);
    return FL_OK;
}

/* The prompt's ids. For text one newline at the end of piped input is the shell's, unless --raw asks for every byte. */
static fl_status prompt_ids(const session *s, const char *text, size_t n, uint32_t **ids, size_t *n_ids, fl_err *err) {
    fl_status st = check_text("prompt", text, n, err);
    if (st == FL_OK && s->o->system) st = check_text("system message", s->o->system, strlen(s->o->system), err);
    if (st != FL_OK) return st;
    if (s->plain) return cmd_model_tokenize(s->model, text, n, false, ids, n_ids, err);
    base_buf messages = {0};
    begin_messages(&messages, s->o);
    message(&messages, "user", text, n);
    st = render(s, &messages, ids, n_ids, err);
    base_buf_clear(&messages);
    return st;
}

static fl_status answer_once(const session *s, const uint32_t *ids, size_t n_ids, fl_err *err) {
    answer a = {.finish = FL_FINISH_NONE};
    fl_status st = ask(s, ids, n_ids, &a, err);
    if (st == FL_OK && s->o->json) {
        st = print_json(s, &a, ids, n_ids, err);
    } else if (st == FL_OK) {
        if (a.text.len == 0 || a.text.data[a.text.len - 1] != '\n') st = cmd_out_write("\n", 1, true, err);
        print_figures(s, &a);
    }
    if (st == FL_OK && a.finish == FL_FINISH_CANCELED) st = fl_fail(err, FL_ECANCELED, "the answer was stopped");
    answer_clear(&a);
    return st;
}

/* One turn of a chat: on success the question and the answer have been added to messages. */
static fl_status turn(const session *s, base_buf *messages, const char *line, size_t n, fl_err *err) {
    size_t n_before = messages->len, n_ids;
    uint32_t *ids;
    fl_status st = check_text("prompt", line, n, err);
    if (st != FL_OK) return st;
    message(messages, "user", line, n);
    st = s->plain ? cmd_model_tokenize(s->model, line, n, false, &ids, &n_ids, err)
                  : render(s, messages, &ids, &n_ids, err);
    answer a = {.finish = FL_FINISH_NONE};
    if (st == FL_OK) {
        st = ask(s, ids, n_ids, &a, err);
        fl_free(ids);
    }
    if (st == FL_OK) {
        message(messages, "assistant", a.text.data ? a.text.data : "", a.text.len);
        st = cmd_out_write("\n", 1, true, err);
        print_figures(s, &a);
    } else if (messages->data) {
        messages->len = n_before;
        messages->data[n_before] = '\0';
    }
    answer_clear(&a);
    return st;
}

/* The next line of stdin, without its newline; false at the end. */
static bool read_line(base_buf *line) {
    char block[4096];
    base_buf_clear(line);
    while (fgets(block, sizeof block, stdin)) {
        size_t n = strlen(block);
        bool whole = n > 0 && block[n - 1] == '\n';
        if (!base_buf_append(line, block, n - whole)) return false;
        if (whole) return true;
    }
    return line->len > 0;
}

static fl_status chat(const session *s, fl_err *err) {
    base_buf messages = {0};
    base_buf line = {0};
    fl_status st = FL_OK;
    begin_messages(&messages, s->o);
    fprintf(stderr, "%sCtrl-D ends, Ctrl-C stops an answer, /clear forgets the chat%s\n", cmd_term_dim(),
            cmd_term_plain());
    while (st == FL_OK) {
        fputs(">>> ", stderr);
        if (!read_line(&line)) break;
        if (line.len == 0) continue;
        if (strcmp(line.data, "/bye") == 0) break;
        if (strcmp(line.data, "/clear") == 0) {
            begin_messages(&messages, s->o);
            continue;
        }
        fl_err trouble;
        cmd_signal_hold(true); /* Ctrl-C before the request exists stops the answer, too */
        st = turn(s, &messages, line.data, line.len, &trouble);
        cmd_signal_hold(false);
        if (st == FL_EINVAL || st == FL_EFORMAT) { /* this question only: too long for what is left, or not text */
            fprintf(stderr, "error: %s; /clear begins a new chat\n", trouble.msg);
            st = FL_OK;
        } else if (st != FL_OK && err) {
            *err = trouble;
        }
        if (cmd_signal_caught() == SIGTERM)
            st = fl_fail(err, FL_ECANCELED, "the chat was ended");
        else
            cmd_signal_clear();
    }
    fputc('\n', stderr);
    base_buf_clear(&line);
    base_buf_clear(&messages);
    return st;
}

/* Reads stdin when there is no PROMPT. Leaves *text NULL with exit code 0 for a chat. */
static int find_prompt(const cmd_options *o, base_buf *piped, const char **text, size_t *n, fl_err *err) {
    *text = NULL;
    if (o->tokens && o->n_args > 1) return cmd_usage(err, "--tokens is the prompt; found '%.40s' as well", o->args[1]);
    if (o->tokens && o->system)
        return cmd_usage(err, "--system needs a chat, --tokens is taken as it is; leave one out");
    if (o->raw && o->system)
        return cmd_usage(err, "--system needs a chat, --raw has none; put the text into the prompt");
    if (o->tokens) return CMD_OK;
    if (o->n_args > 1) {
        *text = o->args[1];
        *n = strlen(*text);
    } else if (!isatty(STDIN_FILENO)) {
        if (cmd_input_read("-", piped, err) != FL_OK) return CMD_FAILED;
        if (!o->raw && piped->len > 0 && piped->data[piped->len - 1] == '\n') piped->len--;
        *text = piped->data ? piped->data : "";
        *n = piped->len;
    } else if (o->json) {
        return cmd_usage(err, "--json wants a prompt, found none; give it as an argument or through a pipe");
    }
    if (*text && *n == 0) return cmd_usage(err, "run wants a prompt, found an empty one; give some text or --tokens");
    return CMD_OK;
}

static fl_status run_session(const session *s, const char *text, size_t n, fl_err *err) {
    if (s->plain && s->o->system)
        return fl_fail(err, FL_EUNSUPPORTED,
                       "--system needs a chat template, %s has none; put the text into the prompt", s->o->args[0]);
    if (!text) return chat(s, err);
    uint32_t *ids;
    size_t n_ids;
    fl_status st = prompt_ids(s, text, n, &ids, &n_ids, err);
    if (st != FL_OK) return st;
    st = answer_once(s, ids, n_ids, err);
    fl_free(ids);
    return st;
}

int cmd_run(const cmd_options *o, fl_err *err) {
    base_buf piped = {0};
    const char *text;
    size_t n = 0, n_ids = 0;
    uint32_t *ids = NULL;
    int code = find_prompt(o, &piped, &text, &n, err);
    if (code == CMD_OK && o->tokens && (cmd_input_ids(o->tokens, &ids, &n_ids, err) != FL_OK)) code = CMD_USAGE;
    if (code == CMD_OK && o->tokens && n_ids == 0) code = cmd_usage(err, "--tokens wants at least one id, found none");
    session s;
    if (code == CMD_OK) code = session_open(&s, o, err);
    if (code == CMD_OK) {
        code = cmd_exit(ids ? answer_once(&s, ids, n_ids, err) : run_session(&s, text, n, err));
        session_close(&s);
    }
    base_free(ids);
    base_buf_clear(&piped);
    return code;
}
