/* flambeau run - one answer, or a chat on a terminal.
 *
 * A prompt becomes token ids in one of three ways: --tokens as they are, --raw (or a model without chat template) as
 * plain text with the model's start token, else as the user message of a chat. The answer streams to stdout, figures
 * go to stderr. The chat is cmd/chat.c.
 */
#include "base/mem.h"
#include "cmd/chat.h"
#include "cmd/cmd_int.h"
#include "cmd/input.h"
#include "cmd/json.h"
#include "cmd/model.h"
#include "cmd/out.h"
#include "cmd/session.h"
#include "cmd/term.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void print_figures(const cmd_session *s, const cmd_answer *a) {
    const fl_request_stats *t = &a->stats;
    fprintf(stderr,
            "%sload %.0f ms, first token after %.0f ms; prompt %u tokens, %.1f tok/s; answer %u tokens, %.1f tok/s%s\n",
            cmd_term_dim(), s->load_ms, a->first_ms, t->n_prompt, cmd_answer_prefill_rate(a), t->n_output,
            cmd_answer_decode_rate(a), cmd_term_plain());
}

static const char *finish_name(fl_finish finish) {
    return finish == FL_FINISH_STOP ? "stop" : finish == FL_FINISH_LENGTH ? "length" : "canceled";
}

static fl_status print_json(const cmd_session *s, const cmd_answer *a, const uint32_t *prompt, size_t n_prompt,
                            fl_err *err) {
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
    } timings[] = {{"load_ms", s->load_ms},
                   {"prefill_ms", t->prefill_ms},
                   {"prefill_tps", cmd_answer_prefill_rate(a)},
                   {"decode_ms", t->decode_ms},
                   {"decode_tps", cmd_answer_decode_rate(a)},
                   {"start_to_first_token_ms", a->first_ms}};
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

/* The prompt's ids. For text one newline at the end of piped input is the shell's, unless --raw asks for every byte. */
static fl_status prompt_ids(const cmd_session *s, const char *text, size_t n, uint32_t **ids, size_t *n_ids,
                            fl_err *err) {
    fl_status st = cmd_session_check_text("prompt", text, n, err);
    if (st == FL_OK && s->o->system)
        st = cmd_session_check_text("system message", s->o->system, strlen(s->o->system), err);
    if (st != FL_OK) return st;
    if (s->plain) return cmd_model_tokenize(s->model, text, n, false, ids, n_ids, err);
    base_buf messages = {0};
    if (s->o->system) cmd_session_message(&messages, "system", s->o->system, strlen(s->o->system));
    cmd_session_message(&messages, "user", text, n);
    st = cmd_session_render(s, &messages, ids, n_ids, err);
    base_buf_clear(&messages);
    return st;
}

static fl_status answer_once(const cmd_session *s, const uint32_t *ids, size_t n_ids, fl_err *err) {
    cmd_answer a = {.finish = FL_FINISH_NONE};
    fl_status st = cmd_session_ask(s, ids, n_ids, !s->o->json, &a, err);
    if (st == FL_OK && s->o->json) {
        st = print_json(s, &a, ids, n_ids, err);
    } else if (st == FL_OK) {
        if (a.text.len == 0 || a.text.data[a.text.len - 1] != '\n') st = cmd_out_write("\n", 1, true, err);
        print_figures(s, &a);
    }
    if (st == FL_OK && a.finish == FL_FINISH_CANCELED) st = fl_fail(err, FL_ECANCELED, "the answer was stopped");
    cmd_answer_clear(&a);
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
    if (o->chat_template && (o->raw || o->tokens))
        return cmd_usage(err, "--chat-template has no effect with --raw and --tokens; leave one out");
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

static fl_status run_session(const cmd_session *s, const char *text, size_t n, fl_err *err) {
    if (s->plain && s->o->system)
        return fl_fail(err, FL_EUNSUPPORTED,
                       "--system needs a chat template, %s has none; put the text into the prompt", s->o->args[0]);
    if (!text) return cmd_chat_talk(s, err);
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
    cmd_session s;
    if (code == CMD_OK) code = cmd_session_open(&s, o, err);
    if (code == CMD_OK) {
        code = cmd_exit(ids ? answer_once(&s, ids, n_ids, err) : run_session(&s, text, n, err));
        cmd_session_close(&s);
    }
    base_free(ids);
    base_buf_clear(&piped);
    return code;
}
