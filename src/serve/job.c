/* Jobs on their way: from the loop to a worker, back, through the engine, to the end. */
#include "serve/serve_int.h"

#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

void job_fail(job *j, int status, const char *param, const char *fmt, ...) {
    va_list args;
    if (j->status) return; /* the first reason counts */
    j->status = status;
    j->param = param;
    va_start(args, fmt);
    vsnprintf(j->err.msg, sizeof j->err.msg, fmt, args);
    va_end(args);
}

void job_fail_err(job *j, fl_status st, const char *param) {
    if (j->status) return;
    j->status = st == FL_EINVAL || st == FL_EUNSUPPORTED ? 400 : st == FL_ENOMEM ? 503 : 500;
    j->param = param;
    if (j->status == 500) snprintf(j->err.msg, sizeof j->err.msg, "The server failed to read the prompt.");
}

/* ---- by workers ---- */

/* The nesting and the number of values of a JSON text, roughly, before anything recursive or hungry reads it: a value takes
 * a byte or two of text and fifty of memory. False with the job failed. */
static bool check_shape(job *j) {
    uint32_t depth = 0, deepest = 0, n_values = 0;
    bool in_text = false;
    for (size_t i = 0; i < j->n_bytes; i++) {
        char c = j->bytes[i];
        if (in_text) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_text = false;
        } else if (c == '"') {
            in_text = true;
        } else if (c == '{' || c == '[') {
            if (++depth > deepest) deepest = depth;
            n_values++;
        } else if (c == '}' || c == ']') {
            depth -= depth > 0;
        } else if (c == ',') {
            n_values++;
        }
    }
    if (deepest > JSON_DEPTH_MAX) job_fail(j, 400, NULL, "The body is nested deeper than %d.", JSON_DEPTH_MAX);
    if (n_values > JSON_VALUES_MAX) job_fail(j, 400, NULL, "The body has more than %d values.", JSON_VALUES_MAX);
    return j->status == 0;
}

static void read_body(job *j) {
    json_error_t e;
    if (!check_shape(j)) return;
    j->body = json_loadb(j->bytes, j->n_bytes, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (!j->body) {
        bool memory = json_error_code(&e) == json_error_out_of_memory;
        job_fail(j, memory ? 503 : 400, NULL, "The body is no JSON: line %d, column %d.%s", e.line, e.column,
                 json_error_code(&e) == json_error_duplicate_key      ? " A key stands twice."
                 : json_error_code(&e) == json_error_numeric_overflow ? " A number is too large."
                                                                      : "");
        return;
    }
    const char *param = NULL;
    fl_status st = field_read(&j->v, j->body, j->route->body, &param, &j->err);
    if (st != FL_OK) job_fail_err(j, st, param);
}

/* The server's own copy of a name; NULL: there is no such model. */
static const char *find_model(const serve *s, const char *name) {
    for (uint32_t i = 0; i < s->o.n_names; i++)
        if (strcmp(s->o.names[i], name) == 0) return s->o.names[i];
    return NULL;
}

/* Bodies are gone when an answer begins: what outlives them has been copied. */
static void prepare(job *j) {
    read_body(j);
    base_free(j->bytes);
    j->bytes = NULL;
    const char *name = j->status == 0 && j->v.model ? find_model(j->s, j->v.model) : j->s->o.names[0];
    if (!name) job_fail(j, 404, "model", "The model `%.100s` does not exist.", j->v.model);
    if (j->status == 0) j->route->prepare(j);
    json_decref(j->body);
    j->body = NULL;
    j->v.model = name;
    j->v.prompt = j->v.messages = j->v.tokens = j->v.template_kwargs = NULL;
    j->v.cache_salt = NULL;
    j->v.n_stop = 0;
}

static void *work(void *arg) {
    serve *s = arg;
    base_mutex_lock(&s->lock);
    for (;;) {
        while (!s->todo && !s->quit) base_cond_wait(&s->changed, &s->lock, -1);
        if (s->quit) break;
        job *j = s->todo;
        s->todo = j->next;
        if (!s->todo) s->todo_end = &s->todo;
        base_mutex_unlock(&s->lock);
        if (j->ended)
            answer_write(j);
        else
            prepare(j);
        base_mutex_lock(&s->lock);
        j->next = s->prepared;
        s->prepared = j;
        base_mutex_unlock(&s->lock);
        http_wake(s->http);
        base_mutex_lock(&s->lock);
    }
    base_mutex_unlock(&s->lock);
    return NULL;
}

fl_status job_open_workers(serve *s, fl_err *err) {
    for (; s->n_workers < WORKERS; s->n_workers++)
        if (pthread_create(&s->workers[s->n_workers], NULL, work, s) != 0)
            return fl_fail(err, FL_EIO, "the system refuses a thread for the server");
    return FL_OK;
}

void job_close_workers(serve *s) {
    base_mutex_lock(&s->lock);
    s->quit = true;
    base_cond_wake(&s->changed);
    base_mutex_unlock(&s->lock);
    while (s->n_workers > 0) pthread_join(s->workers[--s->n_workers], NULL);
}

/* ---- by the loop ---- */

void job_start(serve *s, http_call *c, const route *r) {
    if (s->n_jobs >= s->o.max_queue) {
        http_reply_header(c, "Retry-After", "1");
        serve_error(s, c, 429, NULL, "Too many calls are in work; try again.");
        return;
    }
    job *j = base_calloc(1, sizeof *j);
    if (j) j->bytes = http_take_body(c, &j->n_bytes);
    if (!j || !j->bytes) {
        base_free(j);
        serve_error(s, c, 503, NULL, "The server has no memory for the call.");
        return;
    }
    j->s = s;
    j->call = c;
    j->route = r;
    j->start = base_now();
    j->created = (int64_t)time(NULL);
    snprintf(j->id, sizeof j->id, "%s-%016llx%08llx", r->form ? r->form->id : "call", (unsigned long long)s->id_base,
             (unsigned long long)atomic_fetch_add(&s->n_ids, 1));
    c->user = j;
    j->with_worker = true;
    s->n_jobs++;
    base_mutex_lock(&s->lock);
    *s->todo_end = j;
    s->todo_end = &j->next;
    base_cond_wake(&s->changed);
    base_mutex_unlock(&s->lock);
}

static void free_job(job *j) {
    atomic_fetch_sub(&j->s->n_requests, j->n_counted);
    for (uint32_t i = 0; i < j->n_choices; i++) {
        choice *c = &j->choices[i];
        base_buf_clear(&c->text);
        json_decref(c->logprobs);
        json_decref(c->token_ids);
    }
    for (uint32_t i = 0; i < j->n_prompts; i++) {
        fl_free(j->prompts[i].ids);
        fl_free(j->prompts[i].text);
    }
    base_free(j->choices);
    json_decref(j->body);
    base_buf_clear(&j->reply);
    base_free(j->bytes);
    base_free(j);
}

/* False while the engine works on one of its requests. */
static bool close_requests(job *j) {
    bool all = true;
    for (uint32_t i = 0; i < j->n_choices; i++) {
        choice *c = &j->choices[i];
        if (c->request && fl_request_try_close(c->request)) c->request = NULL;
        all = all && !c->request;
    }
    return all;
}

/* The job is over for its client. */
static void end_job(job *j) {
    serve *s = j->s;
    s->n_jobs--;
    for (uint32_t i = 0; i < j->n_choices; i++)
        if (j->choices[i].request && !j->choices[i].done) metrics_end(&s->metrics, NULL, FL_FINISH_CANCELED);
    if (close_requests(j)) {
        free_job(j);
        return;
    }
    j->next = s->closing;
    s->closing = j;
}

/* Answers what a worker has prepared. True: it goes on with the engine. */
static bool answer_prepared(job *j) {
    if (!j->call) return false;
    if (j->status) {
        if (j->status == 503 || j->status == 429) http_reply_header(j->call, "Retry-After", "1");
        serve_error(j->s, j->call, j->status, j->param, j->err.msg);
    } else if (!j->route->form || j->ended) {
        serve_begin_reply(j->s, j->call);
        serve_log(j->s, j->call, 200, j);
        http_reply(j->call, 200, "application/json", j->reply.data, j->reply.len);
    } else {
        return true;
    }
    j->call = NULL;
    return false;
}

static void take_prepared(serve *s) {
    base_mutex_lock(&s->lock);
    job *list = s->prepared;
    s->prepared = NULL;
    base_mutex_unlock(&s->lock);
    while (list) {
        job *j = list;
        list = j->next;
        j->with_worker = false;
        if (answer_prepared(j)) {
            j->next = s->active;
            s->active = j;
            if (s->aborting)
                for (uint32_t i = 0; i < j->n_choices; i++) fl_request_cancel(j->choices[i].request);
        } else {
            end_job(j);
        }
    }
}

/* Large replies take a while to write: a worker does it, before it reads other bodies. */
static void write_reply(serve *s, job *j) {
    j->with_worker = true;
    base_mutex_lock(&s->lock);
    j->next = s->todo;
    if (!s->todo) s->todo_end = &j->next;
    s->todo = j;
    base_cond_wake(&s->changed);
    base_mutex_unlock(&s->lock);
}

void job_on_wake(serve *s) {
    take_prepared(s);
    for (job **at = &s->active; *at;) {
        job *j = *at;
        if (j->call && !answer_poll(j)) {
            at = &j->next;
            continue;
        }
        *at = j->next;
        if (j->call && j->ended)
            write_reply(s, j);
        else
            end_job(j);
    }
    for (job **at = &s->closing; *at;) {
        job *j = *at;
        if (close_requests(j)) {
            *at = j->next;
            free_job(j);
        } else {
            at = &j->next;
        }
    }
}

void job_on_gone(serve *s, job *j) {
    j->call = NULL;
    http_wake(s->http); /* it is closed outside of whatever goes on now */
}

void job_abort_all(serve *s) {
    s->aborting = true;
    for (job *j = s->active; j; j = j->next)
        for (uint32_t i = 0; i < j->n_choices; i++)
            if (j->choices[i].request) fl_request_cancel(j->choices[i].request);
}

static void close_list(job *list) {
    while (list) {
        job *j = list;
        list = j->next;
        for (uint32_t i = 0; i < j->n_choices; i++) fl_request_close(j->choices[i].request);
        free_job(j);
    }
}

void job_close_all(serve *s) {
    close_list(s->active);
    close_list(s->closing);
    close_list(s->todo);
    close_list(s->prepared);
    s->active = s->closing = s->todo = s->prepared = NULL;
    s->todo_end = &s->todo;
}
