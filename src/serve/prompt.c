/* What workers do: from a body to prompts, and to requests or a reply. */
#include "serve/serve_int.h"

#include "base/mem.h"

#include <string.h>

/* ---- prompts ---- */

static prompt *add_prompt(job *j) {
    if (j->n_prompts == FIELD_CHOICES_MAX) {
        job_fail(j, 400, "prompt", "There are more than %d prompts.", FIELD_CHOICES_MAX);
        return NULL;
    }
    return &j->prompts[j->n_prompts++];
}

/* Before a long text costs time: it cannot fit. */
static bool check_length(job *j, const char *param, size_t n) {
    if (n <= j->s->text_max) return true;
    job_fail(j, 400, param, "The prompt has %zu bytes; the context of %u tokens holds at most %zu.", n, j->s->max_len,
             j->s->text_max);
    return false;
}

static bool tokenize(job *j, prompt *p, const char *text, size_t n, bool add_special) {
    if (!check_length(j, "prompt", n)) return false;
    unsigned flags = FL_TOKENIZE_PARSE_SPECIAL | (add_special ? FL_TOKENIZE_ADD_SPECIAL : 0);
    fl_status st = fl_tokenize(j->s->model, text, n, flags, &p->ids, &p->n_ids, &j->err);
    if (st != FL_OK) job_fail_err(j, st, "prompt");
    return st == FL_OK;
}

static bool add_text(job *j, const json_t *v) {
    prompt *p = add_prompt(j);
    if (!p || !tokenize(j, p, json_string_value(v), json_string_length(v), j->v.add_special_tokens)) return false;
    p->n_text = json_string_length(v);
    p->text = base_strndup(json_string_value(v), p->n_text);
    if (!p->text) job_fail(j, 503, NULL, "The server has no memory for the prompt.");
    return p->text != NULL;
}

/* A list of ids of the vocabulary into memory of its own. */
static bool read_ids(job *j, const char *param, const json_t *list, uint32_t **ids, size_t *n) {
    *n = 0;
    *ids = base_calloc(json_array_size(list) + 1, sizeof **ids);
    if (!*ids) {
        job_fail(j, 503, NULL, "The server has no memory for the prompt.");
        return false;
    }
    for (; *n < json_array_size(list); ++*n) {
        const json_t *v = json_array_get(list, *n);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= (json_int_t)j->s->n_vocab) {
            job_fail(j, 400, param, "%s must hold ids from 0 to %u; item %zu is none.", param, j->s->n_vocab - 1, *n);
            return false;
        }
        (*ids)[*n] = (uint32_t)json_integer_value(v);
    }
    return true;
}

static bool add_ids(job *j, const json_t *list) {
    prompt *p = add_prompt(j);
    if (!p || !read_ids(j, "prompt", list, &p->ids, &p->n_ids)) return false;
    if (!j->v.echo) return true;
    fl_status st = fl_detokenize(j->s->model, p->ids, p->n_ids, 0, &p->text, &p->n_text, &j->err);
    if (st != FL_OK) job_fail_err(j, st, "prompt");
    return st == FL_OK;
}

static bool read_prompts(job *j) {
    const json_t *v = j->v.prompt, *first = json_array_get(v, 0);
    if (json_is_string(v)) return add_text(j, v);
    if (json_is_integer(first)) return add_ids(j, v);
    if (!json_is_string(first) && !json_is_array(first)) {
        job_fail(j, 400, "prompt", "prompt must be a text, a list of ids, or a list of those, and not empty.");
        return false;
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *item = json_array_get(v, i);
        if (json_is_string(item) ? !add_text(j, item) : json_is_array(item) && !add_ids(j, item)) return false;
        if (json_is_string(item) || json_is_array(item)) continue;
        job_fail(j, 400, "prompt", "prompt must hold texts or lists of ids; item %zu is neither.", i);
        return false;
    }
    return true;
}

/* ---- messages ---- */

/* The content of a message as one text: its text parts, a newline between them. NULL with the job failed. */
static json_t *join_parts(job *j, const json_t *parts, size_t at) {
    base_buf b = {0};
    for (size_t i = 0; i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i), *text = json_object_get(part, "text");
        const char *type = json_string_value(json_object_get(part, "type"));
        if (!json_is_string(text) || !type || strcmp(type, "text") != 0) {
            job_fail(j, 400, "messages",
                     "messages[%zu].content[%zu] must be of type text; this model takes only texts.", at, i);
            base_buf_clear(&b);
            return NULL;
        }
        if (i) base_buf_putc(&b, '\n');
        base_buf_append(&b, json_string_value(text), json_string_length(text));
    }
    json_t *joined = b.failed ? NULL : json_stringn_nocheck(b.data ? b.data : "", b.len);
    base_buf_clear(&b);
    if (!joined) job_fail(j, 503, NULL, "The server has no memory for the messages.");
    return joined;
}

static bool check_message(job *j, json_t *m, size_t at) {
    static const char *const roles[] = {"system", "developer", "user", "assistant", "tool"};
    const char *role = json_string_value(json_object_get(m, "role"));
    json_t *content = json_object_get(m, "content");
    size_t i = 0;
    while (role && i < 5 && strcmp(role, roles[i]) != 0) i++;
    if (!role || i == 5) {
        job_fail(j, 400, "messages",
                 "messages[%zu] must be an object with a role: system, developer, user, assistant or "
                 "tool.",
                 at);
        return false;
    }
    if (json_object_size(json_object_get(m, "tool_calls")) || json_array_size(json_object_get(m, "tool_calls"))) {
        job_fail(j, 400, "messages", "messages[%zu].tool_calls is not supported by this server.", at);
        return false;
    }
    if (json_is_string(content)) return true;
    if (json_is_array(content)) {
        json_t *joined = join_parts(j, content, at);
        return joined && json_object_set_new(m, "content", joined) == 0;
    }
    if (!content || json_is_null(content)) return json_object_set_new(m, "content", json_string("")) == 0;
    job_fail(j, 400, "messages", "messages[%zu].content must be a text, a list of parts, or null.", at);
    return false;
}

/* The variables of the template: what the body gives, and what the call says itself. */
static json_t *template_context(job *j) {
    const json_t *more = j->v.template_kwargs;
    if (more && (!json_is_object(more) || json_object_get(more, "messages"))) {
        job_fail(j, 400, "chat_template_kwargs", "chat_template_kwargs must be an object without messages.");
        return NULL;
    }
    json_t *context = more ? json_copy(j->v.template_kwargs) : json_object();
    json_object_set(context, "messages", j->v.messages);
    json_object_set_new(context, "add_generation_prompt", json_boolean(j->v.add_generation_prompt));
    return context;
}

static bool render_messages(job *j) {
    const json_t *list = j->v.messages;
    if (!json_is_array(list) || json_array_size(list) == 0) {
        job_fail(j, 400, "messages", "messages must be a list of at least one message.");
        return false;
    }
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!check_message(j, json_array_get(list, i), i)) return false;
    size_t n_text = 0;
    for (size_t i = 0; i < json_array_size(list); i++)
        n_text += json_string_length(json_object_get(json_array_get(list, i), "content"));
    if (!check_length(j, "messages", n_text)) return false;
    json_t *context = template_context(j);
    if (!context) return false;
    base_buf b = {0};
    fl_status st = text_dump(&b, context) ? FL_OK : fl_fail(&j->err, FL_ENOMEM, "no memory for the messages");
    json_decref(context);
    prompt *p = st == FL_OK ? add_prompt(j) : NULL;
    if (p) st = fl_template_render(j->s->model, b.data, NULL, &p->text, &p->n_text, &p->ids, &p->n_ids, &j->err);
    base_buf_clear(&b);
    if (st == FL_EFORMAT) st = FL_EINVAL; /* what the template raised about these messages */
    if (st != FL_OK) job_fail_err(j, st, "messages");
    return st == FL_OK;
}

/* ---- requests ---- */

static int wanted_logprobs(const job *j) {
    if (j->route->body == FIELD_CHAT) return j->v.want_logprobs ? (int)j->v.top_logprobs : -1;
    return j->v.logprobs < 0 && j->v.max_tokens == 0 ? 0 : j->v.logprobs;
}

/* What logprobs of all choices may take in the reply and in the engine. */
static bool check_budget(job *j) {
    uint64_t tokens = 0;
    int n_logprobs = wanted_logprobs(j);
    for (uint32_t i = 0; i < j->n_prompts && n_logprobs >= 0; i++) {
        uint64_t room = j->s->max_len > j->prompts[i].n_ids ? j->s->max_len - j->prompts[i].n_ids : 0;
        uint64_t draws = j->v.max_tokens < room ? j->v.max_tokens : room;
        tokens += (draws + (j->v.echo ? j->prompts[i].n_ids : 0)) * j->v.n;
    }
    if (tokens * (uint64_t)(n_logprobs + 1) * 64 <= LOGPROB_BYTES_MAX) return true;
    job_fail(j, 400, "logprobs",
             "The logprobs of up to %llu tokens would be more than %d MB; ask for fewer tokens or logprobs.",
             (unsigned long long)tokens, LOGPROB_BYTES_MAX >> 20);
    return false;
}

static bool add_request(job *j, uint32_t prompt_index, uint32_t k) {
    const field_values *v = &j->v;
    const prompt *p = &j->prompts[prompt_index];
    choice *c = &j->choices[j->n_choices];
    fl_request_options o;
    fl_request_options_init(&o);
    o.prompt = p->ids;
    o.n_prompt = p->n_ids;
    o.max_tokens = v->max_tokens;
    o.temperature = v->temperature < 1e-5f ? 0 : v->temperature;
    o.top_p = v->top_p;
    o.min_p = v->min_p;
    o.top_k = v->top_k > 0 ? (uint32_t)v->top_k : 0;
    o.repetition_penalty = v->repetition_penalty;
    o.presence_penalty = v->presence_penalty;
    o.frequency_penalty = v->frequency_penalty;
    o.has_seed = v->has_seed;
    o.seed = (uint64_t)v->seed + k; /* the answers to one prompt differ */
    o.ignore_eos = v->ignore_eos;
    o.stop = v->stop;
    o.n_stop = v->n_stop;
    o.n_logprobs = wanted_logprobs(j);
    o.prompt_logprobs = v->echo && v->logprobs >= 0;
    o.priority = v->priority;
    o.cache_salt = v->cache_salt;
    c->prompt = prompt_index;
    fl_status st = fl_request_add(&c->request, j->s->engine, &o, &j->err);
    j->n_choices++;
    if (st != FL_OK) job_fail_err(j, st, j->route->body == FIELD_CHAT ? "messages" : "prompt");
    return st == FL_OK;
}

static void add_requests(job *j) {
    uint32_t n = j->v.n;
    if (j->n_prompts * n > FIELD_CHOICES_MAX) {
        job_fail(j, 400, "n", "%u prompts with n %u are more than %d answers.", j->n_prompts, n, FIELD_CHOICES_MAX);
        return;
    }
    if (!check_budget(j)) return;
    j->n_counted = j->n_prompts * n;
    if (atomic_fetch_add(&j->s->n_requests, j->n_counted) + j->n_counted > REQUESTS_MAX) {
        job_fail(j, 429, NULL, "Too many answers are in work; try again.");
        return;
    }
    j->choices = base_calloc(j->n_counted, sizeof *j->choices);
    if (!j->choices) {
        job_fail(j, 503, NULL, "The server has no memory for the call.");
        return;
    }
    for (uint32_t i = 0; i < j->n_prompts; i++)
        for (uint32_t k = 0; k < n; k++)
            if (!add_request(j, i, k)) return;
}

void prompt_prepare_completion(job *j) {
    if (read_prompts(j)) add_requests(j);
}

void prompt_prepare_chat(job *j) {
    if (render_messages(j)) add_requests(j);
}

/* ---- calls that draw nothing ---- */

static json_t *ids_json(const uint32_t *ids, size_t n) {
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++) json_array_append_new(list, json_integer(ids[i]));
    return list;
}

/* The reply, which is freed. */
static void reply(job *j, json_t *o) {
    if (!text_dump(&j->reply, o)) job_fail(j, 503, NULL, "The server has no memory for the reply.");
    json_decref(o);
}

static void render(job *j) {
    json_t *data = json_array();
    for (uint32_t i = 0; i < j->n_prompts; i++) {
        const prompt *p = &j->prompts[i];
        json_array_append_new(data, json_pack("{s:o,s:o,s:I}", "prompt", text_json(p->text ? p->text : "", p->n_text),
                                              "token_ids", ids_json(p->ids, p->n_ids), "count", (json_int_t)p->n_ids));
    }
    reply(j, json_pack("{s:s,s:s,s:o,s:i}", "object", "list", "model", j->s->o.names[0], "data", data, "max_model_len",
                       (int)j->s->max_len));
}

void prompt_render_completion(job *j) {
    j->v.echo = true; /* prompts of ids are shown as text, too */
    if (read_prompts(j)) render(j);
}

void prompt_render_chat(job *j) {
    if (render_messages(j)) render(j);
}

void prompt_tokenize(job *j) {
    prompt *p;
    if (j->v.messages) {
        if (!render_messages(j)) return;
        p = &j->prompts[0];
    } else {
        p = add_prompt(j);
        if (!json_is_string(j->v.prompt)) {
            job_fail(j, 400, "prompt", "prompt must be a text, or messages a list.");
            return;
        }
        if (!tokenize(j, p, json_string_value(j->v.prompt), json_string_length(j->v.prompt), j->v.add_special_tokens))
            return;
    }
    json_t *o = json_pack("{s:I,s:i,s:o}", "count", (json_int_t)p->n_ids, "max_model_len", (int)j->s->max_len, "tokens",
                          ids_json(p->ids, p->n_ids));
    if (j->v.return_token_strs) {
        json_t *texts = json_array();
        for (size_t i = 0; i < p->n_ids; i++) json_array_append_new(texts, text_token(j, p->ids[i]));
        json_object_set_new(o, "token_strs", texts);
    }
    reply(j, o);
}

void prompt_detokenize(job *j) {
    prompt *p = add_prompt(j);
    if (!json_is_array(j->v.tokens)) {
        job_fail(j, 400, "tokens", "tokens must be a list of ids.");
        return;
    }
    if (!read_ids(j, "tokens", j->v.tokens, &p->ids, &p->n_ids)) return;
    fl_status st = fl_detokenize(j->s->model, p->ids, p->n_ids, 0, &p->text, &p->n_text, &j->err);
    if (st != FL_OK)
        job_fail_err(j, st, "tokens");
    else
        reply(j, json_pack("{s:o}", "prompt", text_json(p->text, p->n_text)));
}
