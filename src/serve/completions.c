/* The form of /v1/completions. Its logprobs are four lists; with echo they begin with the prompt's tokens. */
#include "serve/serve_int.h"

static json_t *new_logprobs(void) {
    return json_pack("{s:[],s:[],s:[],s:[]}", "tokens", "token_logprobs", "top_logprobs", "text_offset");
}

/* The token itself first, then the best by rank; two tokens of the same text fall together, as the protocol has it. */
static json_t *best(const job *j, const fl_event *e, const json_t *token) {
    json_t *o = json_object();
    json_object_set_new_nocheck(o, json_string_value(token), text_logprob(e->logprob));
    for (uint32_t i = 0; i < e->n_top; i++) {
        json_t *t = text_token(j, e->top[i].id);
        if (t && !json_object_get(o, json_string_value(t)))
            json_object_set_new_nocheck(o, json_string_value(t), text_logprob(e->top[i].logprob));
        json_decref(t);
    }
    return o;
}

static void note(job *j, choice *c, const fl_event *e) {
    if (j->v.logprobs < 0) return;
    if (!c->logprobs) c->logprobs = new_logprobs();
    size_t n = 0;
    const char *piece = fl_token_piece(j->s->model, e->token, &n);
    json_t *token = text_token(j, e->token);
    bool first = e->kind == FL_EVENT_PROMPT && !c->in_prompt; /* nothing stands before it */
    if (e->kind == FL_EVENT_PROMPT) c->in_prompt = true;
    json_array_append_new(json_object_get(c->logprobs, "token_logprobs"),
                          first ? json_null() : text_logprob(e->logprob));
    json_array_append_new(json_object_get(c->logprobs, "top_logprobs"), first ? json_null() : best(j, e, token));
    json_array_append_new(json_object_get(c->logprobs, "tokens"), token);
    json_array_append_new(json_object_get(c->logprobs, "text_offset"), json_integer((json_int_t)c->n_characters));
    c->n_characters += piece ? text_characters(piece, n) : 0;
}

static json_t *choice_json(job *j, choice *c, json_t *text) {
    json_t *o =
        json_pack("{s:i,s:o,s:o,s:s?,s:s?}", "index", (int)(c - j->choices), "text", text, "logprobs",
                  c->logprobs ? c->logprobs : json_null(), "finish_reason", c->finish, "stop_reason", c->stop_text);
    c->logprobs = NULL;
    return o;
}

static json_t *with_echo(job *j, choice *c, const char *text, size_t n, bool echo) {
    if (!echo) return text_json(text, n);
    base_buf b = {0};
    base_buf_append(&b, j->prompts[c->prompt].text, j->prompts[c->prompt].n_text);
    base_buf_append(&b, text, n);
    json_t *v = b.failed ? NULL : text_json(b.data ? b.data : "", b.len);
    base_buf_clear(&b);
    return v;
}

static json_t *whole(job *j, choice *c) {
    return choice_json(j, c, with_echo(j, c, c->text.data ? c->text.data : "", c->text.len, j->v.echo));
}

static json_t *delta(job *j, choice *c, const char *text, size_t n) {
    json_t *o = choice_json(j, c, with_echo(j, c, text, n, j->v.echo && !c->begun));
    return o;
}

const form completion_form = {"cmpl", "text_completion", "text_completion", note, whole, delta, false};
