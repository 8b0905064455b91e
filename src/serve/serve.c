/* The server: its routes, who may ask, errors, the log, and its life from listening to the drained end. */
#include "serve/serve_int.h"

#include "base/mem.h"
#include "base/sha256.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <time.h>

enum {
    DESCRIPTORS_KEPT = 32, /* for files, the loop and the listener */
    CONNECTIONS_MAX = 10000,
    TICK_MS = 50, /* while draining */
    FLUSH_MS = 1000,
};

/* ---- routes ---- */

static void reply_json(serve *s, http_call *c, json_t *o) {
    base_buf b = {0};
    if (text_dump(&b, o)) {
        serve_begin_reply(s, c);
        serve_log(s, c, 200, NULL);
        http_reply(c, 200, "application/json", b.data, b.len);
    } else {
        serve_error(s, c, 503, NULL, "The server has no memory for the reply.");
    }
    json_decref(o);
    base_buf_clear(&b);
}

static void get_health(serve *s, http_call *c) {
    if (s->draining) {
        serve_error(s, c, 503, NULL, "The server is ending.");
        return;
    }
    serve_begin_reply(s, c);
    serve_log(s, c, 200, NULL);
    http_reply(c, 200, NULL, "", 0);
}

static json_t *model_json(const serve *s, const char *name) {
    return json_pack("{s:s,s:s,s:I,s:s,s:s,s:n,s:i,s:[]}", "id", name, "object", "model", "created",
                     (json_int_t)s->created, "owned_by", "flambeau", "root", s->o.names[0], "parent", "max_model_len",
                     (int)s->max_len, "permission");
}

static void get_models(serve *s, http_call *c) {
    json_t *data = json_array();
    for (uint32_t i = 0; i < s->o.n_names; i++) json_array_append_new(data, model_json(s, s->o.names[i]));
    reply_json(s, c, json_pack("{s:s,s:o}", "object", "list", "data", data));
}

static void get_model(serve *s, http_call *c) {
    const char *name = c->head->path + strlen("/v1/models/");
    for (uint32_t i = 0; i < s->o.n_names; i++) {
        if (strcmp(s->o.names[i], name) != 0) continue;
        reply_json(s, c, model_json(s, name));
        return;
    }
    char message[160];
    snprintf(message, sizeof message, "The model `%.100s` does not exist.", name);
    serve_error(s, c, 404, "model", message);
}

/* What evaluators ask before they tokenise through the server. The start token is what an empty text begins with. */
static void get_tokenizer_info(serve *s, http_call *c) {
    fl_model_info m;
    fl_model_info_init(&m);
    fl_model_get_info(s->model, &m);
    uint32_t *ids;
    size_t n = 0, n_bos = 0, n_eos = 0;
    if (fl_tokenize(s->model, "", 0, FL_TOKENIZE_ADD_SPECIAL, &ids, &n, NULL) != FL_OK) ids = NULL;
    const char *bos = ids && n > 0 ? fl_token_piece(s->model, ids[0], &n_bos) : NULL;
    const char *eos = m.n_stop ? fl_token_piece(s->model, m.stop[0], &n_eos) : NULL;
    reply_json(s, c,
               json_pack("{s:s,s:b,s:o,s:o,s:n,s:i}", "tokenizer_class", m.tokenizer, "add_bos_token", m.add_bos,
                         "bos_token", bos ? text_json(bos, n_bos) : json_null(), "eos_token",
                         eos ? text_json(eos, n_eos) : json_null(), "pad_token", "model_max_length", (int)s->max_len));
    fl_free(ids);
}

static void get_version(serve *s, http_call *c) { reply_json(s, c, json_pack("{s:s}", "version", fl_version())); }
static void get_openapi(serve *s, http_call *c) { reply_json(s, c, openapi_document()); }

static void get_metrics(serve *s, http_call *c) {
    const char *handlers[METRICS_HANDLERS_MAX];
    uint32_t n = 0;
    base_buf b = {0};
    for (const route *r = serve_routes; r->path; r++) handlers[n++] = r->path;
    handlers[n++] = "other";
    metrics_print(&s->metrics, s->engine, s->o.names[0], handlers, n, http_n_connections(s->http), &b);
    if (b.failed) {
        serve_error(s, c, 503, NULL, "The server has no memory for the reply.");
    } else {
        serve_begin_reply(s, c);
        serve_log(s, c, 200, NULL);
        http_reply(c, 200, "text/plain; version=0.0.4; charset=utf-8", b.data, b.len);
    }
    base_buf_clear(&b);
}

const route serve_routes[] = {
    {"GET", "/health", get_health, .summary = "200 while calls are taken; needs no key"},
    {"GET", "/v1/models", get_models, .summary = "the model's names"},
    {"GET", "/v1/models/{id}", get_model, .summary = "one of them"},
    {"GET", "/version", get_version, .summary = "the version"},
    {"POST", "/v1/completions", .prepare = prompt_prepare_completion, .body = FIELD_COMPLETION,
     .form = &completion_form, .summary = "goes on with a text"},
    {"POST", "/v1/chat/completions", .prepare = prompt_prepare_chat, .body = FIELD_CHAT, .form = &chat_form,
     .summary = "answers a conversation"},
    {"POST", "/tokenize", .prepare = prompt_tokenize, .body = FIELD_TOKENIZE, .summary = "text or messages to ids"},
    {"POST", "/detokenize", .prepare = prompt_detokenize, .body = FIELD_DETOKENIZE, .summary = "ids to text"},
    {"GET", "/tokenizer_info", get_tokenizer_info, .summary = "the tokenizer's kind and its special tokens"},
    {"POST", "/v1/chat/completions/render", .prepare = prompt_render_chat, .body = FIELD_CHAT,
     .summary = "the text and ids that the model would be given"},
    {"POST", "/v1/completions/render", .prepare = prompt_render_completion, .body = FIELD_COMPLETION,
     .summary = "the same for completions"},
    {"GET", "/metrics", get_metrics, .summary = "figures for Prometheus"},
    {"GET", "/openapi.json", get_openapi, .summary = "this document"},
    {.path = NULL},
};

static bool path_fits(const char *pattern, const char *path) {
    size_t n = strcspn(pattern, "{");
    return pattern[n] ? strncmp(pattern, path, n) == 0 && path[n] != '\0' : strcmp(pattern, path) == 0;
}

/* The route of a call; NULL with *known whether the path has another method. */
static const route *find_route(const http_head *h, bool *known) {
    *known = false;
    for (const route *r = serve_routes; r->path; r++) {
        if (!path_fits(r->path, h->path)) continue;
        if (strcmp(r->method, h->method) == 0) return r;
        *known = true;
    }
    return NULL;
}

/* ---- the log: a line for each call, never with what was asked or answered ---- */

static void log_line(const serve *s, const http_call *c, int status, const job *j) {
    char when[32] = "";
    time_t now = time(NULL);
    struct tm t;
    if (gmtime_r(&now, &t)) strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", &t);
    double ms = j ? 1e3 * (base_now() - j->start) : 0;
    size_t n_prompt = 0, n_output = 0;
    for (uint32_t i = 0; j && i < j->n_prompts; i++) n_prompt += j->prompts[i].n_ids;
    for (uint32_t i = 0; j && i < j->n_choices; i++) n_output += j->choices[i].n_output;
    json_t *path = text_json(c->head->path, strnlen(c->head->path, 120));
    if (s->o.log_json) {
        json_t *o = json_pack("{s:s,s:s,s:O,s:i,s:f,s:s,s:I,s:I}", "time", when, "method", c->head->method, "path",
                              path, "status", status, "ms", ms, "id", j ? j->id : "", "prompt_tokens",
                              (json_int_t)n_prompt, "output_tokens", (json_int_t)n_output);
        base_buf b = {0};
        if (text_dump(&b, o)) fprintf(stderr, "%s\n", b.data);
        base_buf_clear(&b);
        json_decref(o);
    } else {
        fprintf(stderr, "%s %s %s %d %.1f ms %s prompt=%zu output=%zu\n", when, c->head->method,
                json_string_value(path), status, ms, j ? j->id : "-", n_prompt, n_output);
    }
    json_decref(path);
}

void serve_log(serve *s, const http_call *c, int status, const job *j) {
    bool known;
    const route *r = find_route(c->head, &known);
    uint32_t n = sizeof serve_routes / sizeof *serve_routes - 1;
    metrics_call(&s->metrics, r ? (uint32_t)(r - serve_routes) : n, status);
    if (!s->o.quiet && (r == NULL || r->answer != get_health)) log_line(s, c, status, j);
}

/* ---- replies ---- */

static bool is_printable(const char *s, size_t max) {
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++)
        if (s[i] <= ' ' || s[i] > '~') return false;
    return n > 0 && n <= max;
}

/* Whether the origin stands in the list of --allowed-origins. */
static bool is_allowed(const serve *s, const char *origin) {
    size_t n = strlen(origin);
    for (const char *at = s->o.origins; at && *at; at += strspn(at, ", ")) {
        size_t len = strcspn(at, ", ");
        if ((len == n && memcmp(at, origin, n) == 0) || (len == 1 && *at == '*')) return true;
        at += len;
    }
    return false;
}

void serve_begin_reply(serve *s, http_call *c) {
    const char *id = http_head_find(c->head, "x-request-id"), *origin = http_head_find(c->head, "origin");
    char own[48];
    const job *j = c->user;
    snprintf(own, sizeof own, "req-%016llx%08llx", (unsigned long long)s->id_base,
             (unsigned long long)atomic_fetch_add(&s->n_ids, 1));
    http_reply_header(c, "X-Request-Id", id && is_printable(id, 128) ? id : j ? j->id : own);
    if (origin && is_printable(origin, 256) && is_allowed(s, origin)) {
        http_reply_header(c, "Access-Control-Allow-Origin", origin);
        http_reply_header(c, "Vary", "Origin");
    }
}

void serve_error(serve *s, http_call *c, int status, const char *param, const char *message) {
    static const struct {
        int status;
        const char *type;
    } types[] = {{401, "authentication_error"}, {403, "permission_error"}, {404, "not_found_error"},
                 {408, "timeout_error"},        {429, "rate_limit_error"}, {500, "server_error"},
                 {501, "not_supported_error"},  {503, "unavailable_error"}};
    const char *type = "invalid_request_error";
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (types[i].status == status) type = types[i].type;
    json_t *o = json_pack("{s:{s:o,s:s,s:s?,s:i}}", "error", "message", text_json(message, strlen(message)), "type",
                          type, "param", param, "code", status);
    base_buf b = {0};
    if (!text_dump(&b, o)) base_buf_clear(&b);
    serve_begin_reply(s, c);
    serve_log(s, c, status, c->user);
    http_reply(c, status, b.len ? "application/json" : NULL, b.data, b.len);
    base_buf_clear(&b);
    json_decref(o);
}

/* ---- who may ask ---- */

/* Compares in a time that does not depend on where keys differ: digests, all of them, all bytes. */
static bool key_is_good(const serve *s, const char *key) {
    base_sha256 h;
    uint8_t digest[BASE_SHA256_BYTES];
    unsigned good = 0;
    base_sha256_begin(&h);
    base_sha256_add(&h, key, strlen(key));
    base_sha256_digest(&h, digest);
    for (uint32_t k = 0; k < s->o.n_keys; k++) {
        unsigned differ = 0;
        for (size_t i = 0; i < sizeof digest; i++) differ |= (unsigned)(digest[i] ^ s->key_digests[k][i]);
        good |= differ == 0;
    }
    return good != 0;
}

static bool has_key(const serve *s, const http_head *h) {
    const char *v = http_head_find(h, "authorization");
    if (s->o.n_keys == 0) return true;
    if (v && strncasecmp(v, "bearer ", 7) == 0) return key_is_good(s, v + 7 + strspn(v + 7, " "));
    v = http_head_find(h, "x-api-key");
    return v && key_is_good(s, v);
}

/* Without a key a page of the browser must not reach a local server under a name of its own (DNS rebinding): the host is an
 * address or localhost. */
static bool host_is_local(const serve *s, const char *host) {
    char name[64];
    size_t n = strcspn(host, ":");
    if (s->o.any_host || host[0] == '[') return true;
    if (n >= sizeof name) return false;
    snprintf(name, sizeof name, "%.*s", (int)n, host);
    struct in_addr a;
    return strcasecmp(name, "localhost") == 0 || inet_pton(AF_INET, name, &a) == 1;
}

static bool preflight(serve *s, http_call *c) {
    serve_begin_reply(s, c);
    http_reply_header(c, "Access-Control-Allow-Methods", "GET, POST");
    http_reply_header(c, "Access-Control-Allow-Headers", "Authorization, Content-Type, X-Request-Id");
    http_reply_header(c, "Access-Control-Max-Age", "600");
    serve_log(s, c, 204, NULL);
    http_reply(c, 204, NULL, "", 0);
    return false;
}

static bool on_head(void *user, http_call *c) {
    serve *s = user;
    const char *origin = http_head_find(c->head, "origin");
    bool known, health = strcmp(c->head->path, "/health") == 0;
    const route *r = find_route(c->head, &known);
    int status = 0;
    const char *why = "";
    if (origin && !is_allowed(s, origin)) {
        status = 403;
        why = "This origin may not ask; see --allowed-origins.";
    } else if (!host_is_local(s, c->head->host)) {
        status = 403;
        why = "Without an API key this server answers only to an address or localhost as Host.";
    } else if (origin && strcmp(c->head->method, "OPTIONS") == 0) {
        return preflight(s, c);
    } else if (!health && !has_key(s, c->head)) {
        status = 401;
        why = "The API key is missing or wrong; send Authorization: Bearer KEY.";
        http_reply_header(c, "WWW-Authenticate", "Bearer");
    } else if (!r) {
        status = known ? 405 : 404;
        why = known ? "This path does not take this method." : "There is no such path; see /openapi.json.";
    } else if (s->draining && r->prepare) {
        status = 503;
        why = "The server is ending.";
        http_reply_header(c, "Retry-After", "1");
    }
    if (status) serve_error(s, c, status, NULL, why);
    return status == 0;
}

static void on_call(void *user, http_call *c) {
    serve *s = user;
    bool known;
    const route *r = find_route(c->head, &known);
    const char *type = http_head_find(c->head, "content-type");
    if (r->answer)
        r->answer(s, c);
    else if (type && !strcasestr(type, "json"))
        serve_error(s, c, 415, NULL, "The body must be application/json.");
    else
        job_start(s, c, r);
}

static void on_gone(void *user, http_call *c) {
    serve *s = user;
    if (!c->user) return;
    job *j = c->user;
    serve_log(s, c, 499, j->with_worker ? NULL : j);
    job_on_gone(s, j);
}

static void on_refuse(void *user, http_call *c, int status, const char *why) {
    serve_error(user, c, status, NULL, why);
}

/* ---- life ---- */

static void on_wake(void *user) { job_on_wake(user); }

/* While draining: ends when nothing runs and nothing waits to be written; aborts what takes too long. */
static void on_tick(void *user) {
    serve *s = user;
    double now = base_now();
    if (!s->aborting && now >= s->drain_until) {
        job_abort_all(s);
        s->drain_until = now + FLUSH_MS / 1e3;
    }
    bool over = s->n_jobs == 0 && http_is_flushed(s->http);
    if (over || (s->aborting && now >= s->drain_until))
        http_stop(s->http);
    else
        http_tick(s->http, TICK_MS);
}

static void on_signal(void *user, int number) {
    serve *s = user;
    if (s->draining) {
        s->number = number;
        http_stop(s->http);
        return;
    }
    s->draining = true;
    s->drain_until = base_now() + s->o.shutdown_ms / 1e3;
    if (s->n_jobs) fprintf(stderr, "ending: %u calls are in work; a second signal ends at once\n", s->n_jobs);
    http_stop_listening(s->http);
    http_tick(s->http, 1);
}

void serve_on_step(void *server) {
    serve *s = server;
    http_wake(s->http);
}

static uint32_t connections_max(const serve_options *o) {
    struct rlimit r;
    uint32_t most = o->max_connections ? o->max_connections : CONNECTIONS_MAX;
    if (getrlimit(RLIMIT_NOFILE, &r) != 0) return most;
    if (r.rlim_cur < r.rlim_max) {
        r.rlim_cur = r.rlim_max < most + DESCRIPTORS_KEPT ? r.rlim_max : most + DESCRIPTORS_KEPT;
        if (setrlimit(RLIMIT_NOFILE, &r) != 0) r.rlim_cur = 256;
    }
    uint64_t room = r.rlim_cur > DESCRIPTORS_KEPT ? r.rlim_cur - DESCRIPTORS_KEPT : 1;
    return room < most ? (uint32_t)room : most;
}

static void set_keys(serve *s) {
    for (uint32_t i = 0; i < s->o.n_keys; i++) {
        base_sha256 h;
        base_sha256_begin(&h);
        base_sha256_add(&h, s->o.keys[i], strlen(s->o.keys[i]));
        base_sha256_digest(&h, s->key_digests[i]);
    }
}

static fl_status open_http(serve *s, fl_err *err) {
    http_options h = {.user = s,
                      .on_head = on_head,
                      .on_call = on_call,
                      .on_gone = on_gone,
                      .on_wake = on_wake,
                      .on_tick = on_tick,
                      .on_signal = on_signal,
                      .on_refuse = on_refuse,
                      .host = s->o.host,
                      .uds = s->o.uds,
                      .port = s->o.port,
                      .connections_max = connections_max(&s->o),
                      .connections_per_address = 1000,
                      .body_max = 32 << 20,
                      .bodies_max = 512 << 20,
                      .unread_max = 1 << 20,
                      .head_ms = 10000,
                      .body_ms = 60000,
                      .idle_ms = 75000,
                      .write_ms = 60000};
    fl_status st = http_open(&s->http, &h, err);
    if (st != FL_OK) return st;
    if (s->o.uds)
        snprintf(s->url, sizeof s->url, "unix:%.140s", s->o.uds);
    else
        snprintf(s->url, sizeof s->url, strchr(s->o.host, ':') ? "http://[%.128s]:%u" : "http://%.128s:%u", s->o.host,
                 http_port(s->http));
    return FL_OK;
}

fl_status serve_open(serve **out, const serve_options *o, fl_err *err) {
    *out = NULL;
    serve *s = base_calloc(1, sizeof *s);
    if (!s) return fl_fail(err, FL_ENOMEM, "a server: no memory");
    s->o = *o;
    s->todo_end = &s->todo;
    s->created = (int64_t)time(NULL);
    if (getrandom(&s->id_base, sizeof s->id_base, 0) != (ssize_t)sizeof s->id_base)
        s->id_base = (uint64_t)(base_now() * 1e9);
    base_mutex_init(&s->lock, BASE_RANK_QUEUE);
    base_cond_init(&s->changed);
    metrics_init(&s->metrics);
    set_keys(s);
    fl_status st = open_http(s, err);
    if (st != FL_OK) {
        serve_close(s);
        return st;
    }
    *out = s;
    return FL_OK;
}

void serve_close(serve *s) {
    if (!s) return;
    http_close(s->http);
    base_cond_clear(&s->changed);
    base_mutex_clear(&s->lock);
    base_free(s);
}

const char *serve_url(const serve *s) { return s->url; }

static size_t longest_token(const fl_model *m, uint32_t n_vocab) {
    size_t longest = 1, n;
    for (uint32_t i = 0; i < n_vocab; i++)
        if (fl_token_piece(m, i, &n) && n > longest) longest = n;
    return longest;
}

fl_status serve_run(serve *s, fl_model *m, fl_engine *e, int *number, fl_err *err) {
    fl_model_info model;
    fl_engine_info engine;
    fl_model_info_init(&model);
    fl_engine_info_init(&engine);
    fl_model_get_info(m, &model);
    fl_engine_get_info(e, &engine);
    s->model = m;
    s->engine = e;
    s->max_len = engine.max_model_len;
    s->n_vocab = model.n_vocab;
    s->text_max = longest_token(m, model.n_vocab) * s->max_len;
    fl_status st = fl_engine_start(e, err);
    if (st == FL_OK) st = job_open_workers(s, err);
    if (st == FL_OK) http_run(s->http);
    job_close_workers(s);
    fl_engine_stop(e);
    job_close_all(s);
    *number = s->number;
    return st;
}
