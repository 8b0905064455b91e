#include "cmd/session.h"

#include "cmd/cmd_int.h"
#include "cmd/json.h"
#include "cmd/model.h"
#include "cmd/out.h"
#include "cmd/signal.h"
#include "cmd/term.h"

#include <math.h>
#include <stdio.h>

void cmd_answer_clear(cmd_answer *a) {
    base_buf_clear(&a->text);
    base_buf_clear(&a->tokens);
    *a = (cmd_answer){.finish = FL_FINISH_NONE};
}

void cmd_session_close(cmd_session *s) {
    fl_engine_close(s->engine);
    fl_model_close(s->model);
}

int cmd_session_open(cmd_session *s, const cmd_options *o, fl_err *err) {
    double start = cmd_term_now_ms();
    *s = (cmd_session){.o = o};
    if (cmd_model_open_chat(&s->model, o, err) != FL_OK) return cmd_exit(err->code);
    fl_engine_options options;
    cmd_model_engine_options(o, &options);
    options.max_num_seqs = 1;
    fl_status st = cmd_model_engine(&s->engine, s->model, &options, o->print_plan, err);
    if (st != FL_OK) {
        cmd_session_close(s);
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

/* Reads the events of a request up to the last. */
static fl_status follow(fl_request *r, cmd_answer *a, bool stream, fl_err *err) {
    double start = cmd_term_now_ms();
    fl_event event;
    fl_event_init(&event);
    do {
        fl_status st = fl_request_next(r, &event, -1, err);
        if (st != FL_OK) return st;
        /* A stop token right away is the first token, too, and is not reported as one. */
        if (a->first_ms <= 0 && (event.kind == FL_EVENT_TOKEN || event.kind == FL_EVENT_DONE)) {
            a->first_ms = cmd_term_since_start_ms();
            a->wait_ms = cmd_term_now_ms() - start;
        }
        if (event.kind == FL_EVENT_TOKEN) base_buf_append(&a->tokens, &event.token, sizeof event.token);
        if (event.n_text == 0) continue;
        base_buf_append(&a->text, event.text, event.n_text);
        if (stream) st = cmd_out_stream(event.text, event.n_text, err);
        if (st != FL_OK) return st;
    } while (event.kind != FL_EVENT_DONE);
    a->finish = event.finish;
    return a->text.failed || a->tokens.failed ? fl_fail(err, FL_ENOMEM, "no memory for the answer") : FL_OK;
}

fl_status cmd_session_ask(const cmd_session *s, const uint32_t *prompt, size_t n_prompt, bool stream, cmd_answer *a,
                          fl_err *err) {
    fl_request_options options;
    fl_request_options_init(&options);
    sampling(s->o, &options);
    options.prompt = prompt;
    options.n_prompt = n_prompt;
    fl_request *r;
    fl_status st = fl_request_add(&r, s->engine, &options, err);
    if (st != FL_OK) return st;
    cmd_signal_watch(r);
    st = follow(r, a, stream, err);
    fl_request_stats_init(&a->stats);
    fl_request_get_stats(r, &a->stats);
    cmd_signal_forget(r);
    fl_request_close(r);
    return st;
}

static double rate(double n, double ms) { return ms > 0 ? n / ms * 1e3 : 0; }

double cmd_answer_prefill_rate(const cmd_answer *a) { return rate(a->stats.n_prompt, a->stats.prefill_ms); }

/* The first token belongs to the prompt's time; the rest is drawn in decode_ms. */
double cmd_answer_decode_rate(const cmd_answer *a) {
    return a->stats.n_output > 1 ? rate(a->stats.n_output - 1.0, a->stats.decode_ms) : 0;
}

void cmd_session_message(base_buf *messages, const char *role, const char *text, size_t n) {
    cmd_json_open(messages, '{');
    cmd_json_key(messages, "role");
    cmd_json_string(messages, role);
    cmd_json_key(messages, "content");
    cmd_json_text(messages, text, n);
    cmd_json_close(messages, '}');
}

fl_status cmd_session_render(const cmd_session *s, const base_buf *messages, uint32_t **ids, size_t *n_ids,
                             fl_err *err) {
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

fl_status cmd_session_check_text(const char *what, const char *text, size_t n, fl_err *err) {
    size_t at;
    if (!cmd_json_is_utf8(text, n, &at))
        return fl_fail(err, FL_EFORMAT, "the %s must be UTF-8, found byte 0x%02x at offset %zu; convert it first", what,
                       (unsigned char)text[at], at);
    return FL_OK;
}
