/* From events of requests to replies: chunks as they come, or one object at the end. */
#include "serve/serve_int.h"

#include <stdio.h>

static const char *finish_name(fl_finish f) {
    return f == FL_FINISH_STOP ? "stop" : f == FL_FINISH_LENGTH ? "length" : "abort";
}

static json_t *usage(const job *j) {
    size_t n_prompt = 0, n_output = 0;
    for (uint32_t i = 0; i < j->n_prompts; i++) n_prompt += j->prompts[i].n_ids;
    for (uint32_t i = 0; i < j->n_choices; i++) n_output += j->choices[i].n_output;
    return json_pack("{s:I,s:I,s:I}", "prompt_tokens", (json_int_t)n_prompt, "completion_tokens", (json_int_t)n_output,
                     "total_tokens", (json_int_t)(n_prompt + n_output));
}

static json_t *envelope(const job *j, const char *object, json_t *choices) {
    return json_pack("{s:s,s:s,s:I,s:s,s:o}", "id", j->id, "object", object, "created", (json_int_t)j->created, "model",
                     j->v.model, "choices", choices);
}

static json_t *ids_json(const prompt *p) {
    json_t *list = json_array();
    for (size_t i = 0; i < p->n_ids; i++) json_array_append_new(list, json_integer(p->ids[i]));
    return list;
}

/* ---- streams ---- */

/* Sends one event and frees it. False: the client is gone, and the call with it. */
static bool send_event(job *j, json_t *event) {
    base_buf b = {0};
    base_buf_puts(&b, "data: ");
    bool ok = text_dump(&b, event) && base_buf_puts(&b, "\n\n");
    json_decref(event);
    if (!j->streaming) {
        j->streaming = true;
        serve_begin_reply(j->s, j->call);
        http_reply_header(j->call, "Cache-Control", "no-cache");
        http_reply_header(j->call, "X-Accel-Buffering", "no");
        http_stream_begin(j->call, "text/event-stream; charset=utf-8");
    }
    if (!ok) {
        http_stream_end(j->call); /* no memory: the stream ends without [DONE] */
        j->call = NULL;
    } else if (!http_stream_send(j->call, b.data, b.len)) {
        j->s->metrics.n_dropped++;
        j->call = NULL;
    }
    base_buf_clear(&b);
    return j->call != NULL;
}

static bool send_chunk(job *j, choice *c, const char *text, size_t n) {
    json_t *o = j->route->form->delta(j, c, text, n);
    if (c->token_ids) json_object_set_new(o, "token_ids", c->token_ids);
    if (j->v.return_token_ids && !c->begun) {
        json_object_set_new(o, "prompt_token_ids", ids_json(&j->prompts[c->prompt]));
    }
    c->token_ids = NULL;
    c->begun = true;
    json_t *event = envelope(j, j->route->form->chunk, json_pack("[o]", o));
    if (j->v.include_usage || j->v.continuous_usage)
        json_object_set_new(event, "usage", j->v.continuous_usage ? usage(j) : json_null());
    return send_event(j, event);
}

static bool stream_event(job *j, choice *c, const fl_event *e) {
    if (j->route->form->role_first && !c->begun && !send_chunk(j, c, "", 0)) return false;
    bool echo = j->v.echo && !c->begun;
    if (e->kind == FL_EVENT_TOKEN && (e->n_text || echo || c->logprobs || c->token_ids))
        return send_chunk(j, c, e->text, e->n_text);
    if (e->kind != FL_EVENT_DONE) return true;
    return send_chunk(j, c, e->text, e->n_text);
}

static void end_stream(job *j) {
    if (j->v.include_usage) {
        json_t *event = envelope(j, j->route->form->chunk, json_array());
        json_object_set_new(event, "usage", usage(j));
        if (!send_event(j, event)) return;
    }
    if (!http_stream_send(j->call, "data: [DONE]\n\n", 14)) {
        j->call = NULL;
        return;
    }
    serve_log(j->s, j->call, 200, j);
    http_stream_end(j->call);
    j->call = NULL;
}

/* An error after the stream has begun is an event; clients raise on its name. */
static void fail_stream(job *j) {
    json_t *event = json_pack("{s:{s:s,s:s,s:n,s:i}}", "error", "message", "The engine failed while it was answering.",
                              "type", "server_error", "param", "code", 500);
    if (!send_event(j, event)) return;
    j->v.include_usage = false;
    end_stream(j);
}

/* ---- whole replies ---- */

void answer_write(job *j) {
    json_t *choices = json_array();
    for (uint32_t i = 0; i < j->n_choices; i++) {
        choice *c = &j->choices[i];
        if (c->text.failed) job_fail(j, 503, NULL, "The server has no memory for the answer.");
        json_t *o = j->route->form->whole(j, c);
        if (j->v.return_token_ids) {
            json_object_set_new(o, "prompt_token_ids", ids_json(&j->prompts[c->prompt]));
            json_object_set_new(o, "token_ids", c->token_ids ? c->token_ids : json_array());
            c->token_ids = NULL;
        }
        json_array_append_new(choices, o);
    }
    json_t *reply = envelope(j, j->route->form->object, choices);
    json_object_set_new(reply, "usage", usage(j));
    if (!text_dump(&j->reply, reply)) job_fail(j, 503, NULL, "The server has no memory for the answer.");
    json_decref(reply);
}

/* ---- events ---- */

static void note_times(job *j, choice *c) {
    serve_metrics *m = &j->s->metrics;
    double now = base_now();
    if (j->first == 0) {
        j->first = now;
        metrics_observe(&m->first_token, now - j->start);
    } else if (c->last > 0) {
        metrics_observe(&m->between_tokens, now - c->last);
    }
    c->last = now;
}

static void note_end(job *j, choice *c, const fl_event *e) {
    fl_request_stats stats;
    fl_request_stats_init(&stats);
    fl_request_get_stats(c->request, &stats);
    c->done = true;
    c->finish = finish_name(e->finish);
    c->stop_text = e->stop_text;
    c->n_output = stats.n_output;
    j->n_done++;
    metrics_end(&j->s->metrics, &stats, e->finish);
}

static void take_event(job *j, choice *c, const fl_event *e) {
    bool noted = e->kind == FL_EVENT_TOKEN || e->kind == FL_EVENT_PROMPT;
    if (noted || (e->has_stop_token && j->v.echo)) j->route->form->note(j, c, e);
    if (e->kind == FL_EVENT_TOKEN) {
        note_times(j, c);
        c->n_output++;
        if (j->v.return_token_ids) {
            if (!c->token_ids) c->token_ids = json_array();
            json_array_append_new(c->token_ids, json_integer(e->token));
        }
    }
    if (!j->v.stream) base_buf_append(&c->text, e->text, e->n_text);
    if (e->kind == FL_EVENT_DONE) note_end(j, c, e);
}

static void cancel_all(job *j) {
    for (uint32_t i = 0; i < j->n_choices; i++)
        if (j->choices[i].request) fl_request_cancel(j->choices[i].request);
}

/* The engine failed this request: the whole call fails. */
static void fail(job *j, const fl_err *err) {
    cancel_all(j);
    fprintf(stderr, "error: %s: %s\n", j->id, err->msg); /* what clients are not told */
    if (j->streaming)
        fail_stream(j);
    else
        serve_error(j->s, j->call, 500, NULL, "The engine failed while it was answering.");
    j->call = NULL;
}

/* False: the call is over. */
static bool poll_choice(job *j, choice *c) {
    fl_event e;
    fl_event_init(&e);
    while (!c->done) {
        fl_err err;
        fl_status st = fl_request_next(c->request, &e, 0, &err);
        if (st != FL_OK) {
            metrics_end(&j->s->metrics, NULL, FL_FINISH_ERROR);
            c->done = true;
            fail(j, &err);
            return false;
        }
        if (e.kind == FL_EVENT_NONE) return true;
        take_event(j, c, &e);
        if (j->v.stream && !stream_event(j, c, &e)) {
            cancel_all(j);
            return false;
        }
    }
    return true;
}

bool answer_poll(job *j) {
    for (uint32_t i = 0; i < j->n_choices; i++)
        if (!j->choices[i].done && !poll_choice(j, &j->choices[i])) return true;
    if (j->n_done < j->n_choices) return false;
    metrics_observe(&j->s->metrics.whole, base_now() - j->start);
    if (j->v.stream)
        end_stream(j);
    else
        j->ended = true;
    return true;
}
