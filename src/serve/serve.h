/* serve/serve.h - an HTTP server in OpenAI's protocol over an opened engine (docs/serving.md).
 *
 * Threads: serve_run() is the loop; two workers parse bodies, render templates and tokenise; the engine's own thread runs
 * the steps. The loop never waits for anything but the network.
 */
#ifndef SERVE_SERVE_H
#define SERVE_SERVE_H

#include "flambeau.h"

enum { SERVE_NAMES_MAX = 8, SERVE_KEYS_MAX = 64 };

typedef struct serve serve;

typedef struct {
    const char *host, *uds; /* uds NULL: TCP */
    uint16_t port;
    const char *names[SERVE_NAMES_MAX]; /* the model's names for clients, at least one */
    uint32_t n_names;
    const char *keys[SERVE_KEYS_MAX]; /* API keys; none: everybody may ask */
    uint32_t n_keys;
    const char *origins;      /* "https://a.example,https://b.example" may ask from a browser; NULL: none */
    bool any_host;            /* answer to every Host: who may ask is settled otherwise */
    bool log_json, quiet;     /* quiet: no line for each call */
    uint32_t max_connections; /* 0: what the descriptors allow, at most 10,000 */
    uint32_t max_queue;       /* calls in work at once; more are answered with 429 */
    uint32_t shutdown_ms;     /* for answers that run when SIGTERM comes */
} serve_options;

/* Listens at once, so that a port that is taken is said before the weights are read; clients wait until serve_run(). The caller owns *out: serve_close().
 * Errors: FL_EIO for an address that cannot be had; FL_EINVAL, FL_ENOMEM. */
FL_CHECKED fl_status serve_open(serve **out, const serve_options *o, fl_err *err);
void serve_close(serve *s); /* after the engine was closed; accepts NULL */

/* For fl_engine_options: on_step with the server as its user. */
void serve_on_step(void *server);

/* Serves until SIGINT or SIGTERM: then running answers may take shutdown_ms more. The model and the engine, whose thread
 * this starts and stops, outlive the call. *number: the signal that ended it at once (a second one), 0 after a drained
 * end. Errors: FL_EIO, FL_ENOMEM. */
FL_CHECKED fl_status serve_run(serve *s, fl_model *m, fl_engine *e, int *number, fl_err *err);

/* "http://127.0.0.1:8000", or "unix:PATH"; belongs to the server. */
const char *serve_url(const serve *s);

#endif
