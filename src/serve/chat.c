/* The form of /v1/chat/completions. */
#include "serve/serve_int.h"

static json_t *entry(const job *j, uint32_t id, float logprob) {
    return json_pack("{s:o,s:o,s:o}", "token", text_token(j, id), "logprob", text_logprob(logprob), "bytes",
                     text_bytes(j, id));
}

static void note(job *j, choice *c, const fl_event *e) {
    if (!j->v.want_logprobs) return;
    if (!c->logprobs) c->logprobs = json_pack("{s:[]}", "content");
    json_t *top = json_array(), *o = entry(j, e->token, e->logprob);
    for (uint32_t i = 0; i < e->n_top; i++) json_array_append_new(top, entry(j, e->top[i].id, e->top[i].logprob));
    json_object_set_new(o, "top_logprobs", top);
    json_array_append_new(json_object_get(c->logprobs, "content"), o);
}

static json_t *choice_json(job *j, choice *c, const char *name, json_t *message) {
    json_t *o =
        json_pack("{s:i,s:o,s:o,s:s?,s:s?}", "index", (int)(c - j->choices), name, message, "logprobs",
                  c->logprobs ? c->logprobs : json_null(), "finish_reason", c->finish, "stop_reason", c->stop_text);
    c->logprobs = NULL;
    return o;
}

static json_t *whole(job *j, choice *c) {
    json_t *message = json_pack("{s:s,s:o}", "role", "assistant", "content",
                                text_json(c->text.data ? c->text.data : "", c->text.len));
    return choice_json(j, c, "message", message);
}

static json_t *delta(job *j, choice *c, const char *text, size_t n) {
    json_t *d = json_object();
    if (!c->begun) json_object_set_new(d, "role", json_string("assistant"));
    if (!c->begun || n > 0) json_object_set_new(d, "content", text_json(text, n));
    return choice_json(j, c, "delta", d);
}

const form chat_form = {"chatcmpl", "chat.completion", "chat.completion.chunk", note, whole, delta, true};
