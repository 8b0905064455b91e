/* flambeau serve - options to the server of serve/, and what is said when it is ready. */
#include "serve/serve.h"

#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/input.h"
#include "cmd/model.h"
#include "cmd/term.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    serve_options server;
    base_buf keys; /* the file of --api-key-file, its lines ended by NUL */
    fl_model *model;
    fl_engine *engine;
    serve *serve;
} session;

static bool is_loopback(const char *host) {
    return strncmp(host, "127.", 4) == 0 || strcmp(host, "localhost") == 0 || strcmp(host, "::1") == 0;
}

/* A key a line. */
static fl_status read_keys(session *s, const cmd_options *o, fl_err *err) {
    if (o->api_key) s->server.keys[s->server.n_keys++] = o->api_key;
    if (!o->api_key_file) return FL_OK;
    fl_status st = cmd_input_read(o->api_key_file, &s->keys, err);
    if (st == FL_OK && !base_buf_putc(&s->keys, '\n')) st = fl_fail(err, FL_ENOMEM, "no memory for the keys");
    uint32_t before = s->server.n_keys;
    for (char *at = s->keys.data; st == FL_OK && at < s->keys.data + s->keys.len;) {
        size_t n = strcspn(at, "\r\n");
        char *next = at + n + 1;
        at[n] = '\0';
        if (n > 0 && s->server.n_keys == SERVE_KEYS_MAX)
            st = fl_fail(err, FL_EINVAL, "--api-key-file may hold %d keys, found more", SERVE_KEYS_MAX);
        else if (n > 0)
            s->server.keys[s->server.n_keys++] = at;
        at = next;
    }
    if (st == FL_OK && s->server.n_keys == before)
        st = fl_fail(err, FL_EINVAL, "--api-key-file %s: wanted a key a line, found none", o->api_key_file);
    return st;
}

static int read_options(session *s, const cmd_options *o, fl_err *err) {
    const char *slash = strrchr(o->args[0], '/');
    s->server = (serve_options){.host = o->host ? o->host : "127.0.0.1",
                                .uds = o->uds,
                                .port = (uint16_t)o->port,
                                .origins = o->origins,
                                .log_json = o->log_json,
                                .quiet = o->quiet,
                                .max_connections = o->max_connections,
                                .max_queue = o->max_queue,
                                .shutdown_ms = o->shutdown_timeout * 1000};
    if (o->tls) {
        (void)fl_fail(err, FL_EUNSUPPORTED,
                      "--ssl-keyfile and --ssl-certfile: this server speaks no TLS yet; put a proxy in front of it");
        return CMD_FAILED;
    }
    if (o->uds && o->host) return cmd_usage(err, "--uds and --host exclude each other; leave one out");
    if (o->api_key && !*o->api_key) return cmd_usage(err, "--api-key wants a key, found an empty one");
    for (uint32_t i = 0; i < o->n_names; i++) s->server.names[s->server.n_names++] = o->names[i];
    if (!o->n_names) s->server.names[s->server.n_names++] = slash && slash[1] ? slash + 1 : o->args[0];
    if (strpbrk(s->server.names[0], "\"\\\n"))
        return cmd_usage(err, "the name '%.40s' has quotes; give another with --served-model-name", s->server.names[0]);
    fl_status st = read_keys(s, o, err);
    if (st != FL_OK) return st == FL_EINVAL ? CMD_USAGE : CMD_FAILED;
    if (!o->uds && !is_loopback(s->server.host) && s->server.n_keys == 0 && !o->insecure)
        return cmd_usage(err,
                         "--host %s lets everybody on the network ask; give --api-key-file, or --insecure to allow it",
                         s->server.host);
    s->server.any_host = o->uds || s->server.n_keys > 0 || o->insecure;
    return CMD_OK;
}

static fl_status open_all(session *s, const cmd_options *o, fl_err *err) {
    fl_status st = cmd_model_open_chat(&s->model, o, err);
    if (st == FL_OK) st = serve_open(&s->serve, &s->server, err);
    if (st != FL_OK) return st;
    fl_engine_options e;
    cmd_model_engine_options(o, &e);
    e.max_num_seqs = o->max_num_seqs;
    e.max_num_batched_tokens = o->max_num_batched_tokens;
    e.kv_cache_tokens = o->kv_cache_tokens;
    e.no_prefix_caching = o->no_prefix_caching;
    e.on_step = serve_on_step;
    e.user = s->serve;
    return cmd_model_engine(&s->engine, s->model, &e, o->print_plan, err);
}

static void announce(const session *s, const cmd_options *o) {
    fl_engine_info e;
    fl_model_info m;
    fl_engine_info_init(&e);
    fl_model_info_init(&m);
    fl_engine_get_info(s->engine, &e);
    fl_model_get_info(s->model, &m);
    const char *curl = o->uds ? "curl --unix-socket " : "curl ";
    fprintf(stderr, "serving %s at %s\n", s->server.names[0], serve_url(s->serve));
    fprintf(stderr, "  model    %s, %.0f million parameters, %s; profile %s on %s, %u threads\n", m.architecture,
            (double)m.n_params / 1e6, m.weight_types, e.profile, e.device, e.n_threads);
    fprintf(stderr, "  context  %u tokens a request; cache for %llu tokens, %.1f requests of that length at once\n",
            e.max_model_len, (unsigned long long)e.kv_cache_tokens,
            (double)e.kv_cache_tokens / (e.max_model_len ? e.max_model_len : 1));
    fprintf(stderr, "  keys     %s\n",
            s->server.n_keys ? "every path but /health wants one" : "none: everybody may ask");
    fprintf(stderr,
            "  try      %s%s%s/v1/chat/completions -H 'Content-Type: application/json' -d '{\"messages\": "
            "[{\"role\": \"user\", \"content\": \"Hello\"}]}'\n",
            curl, o->uds ? o->uds : "", o->uds ? " http://localhost" : serve_url(s->serve));
    fprintf(stderr, "ready after %.0f ms\n", cmd_term_since_start_ms());
}

int cmd_serve(const cmd_options *o, fl_err *err) {
    session s = {.model = NULL};
    int code = read_options(&s, o, err), number = 0;
    if (code == CMD_OK) {
        fl_status st = open_all(&s, o, err);
        if (st == FL_OK) {
            announce(&s, o);
            st = serve_run(s.serve, s.model, s.engine, &number, err);
        }
        code = st == FL_OK ? (number ? CMD_SIGNAL + number : CMD_OK) : st == FL_EINVAL ? CMD_USAGE : CMD_FAILED;
    }
    fl_engine_close(s.engine);
    serve_close(s.serve);
    fl_model_close(s.model);
    base_buf_clear(&s.keys);
    return code;
}
