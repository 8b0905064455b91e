/* serve/http.h - HTTP/1.1 connections on one event loop. No libevent type is seen outside of http.c.
 *
 * A connection carries one call at a time: head, body, reply. The owner is told of a head (and may answer before the body
 * is read), then of the whole call, and answers now or later: with one reply, or with a stream of chunks. When the client
 * leaves before the end of the reply, the owner is told at once, whether the reply has begun or not: reading never stops.
 *
 * Guards: absolute deadlines for head and body, a cap on connections in total and for each address, on the body, on all
 * bodies together, and on what a slow reader may leave unread; bytes behind a call wait, up to 64 KB.
 *
 * Threads: all of it belongs to the thread of http_run(), but http_wake(), which any thread may call.
 * Memory: a call is the connection's and is gone after its reply has ended or on_gone() has returned.
 */
#ifndef SERVE_HTTP_H
#define SERVE_HTTP_H

#include "fl_err.h"
#include "serve/head.h"

typedef struct http http;
typedef struct http_call http_call;

typedef struct {
    void *user;
    /* A head has been read. False: the call has been answered with http_reply(). */
    bool (*on_head)(void *user, http_call *c);
    void (*on_call)(void *user, http_call *c); /* head and body are there */
    void (*on_gone)(void *user, http_call *c); /* the client has left, or reads too slowly */
    void (*on_wake)(void *user);               /* http_wake() was called, once or more */
    void (*on_tick)(void *user);               /* see http_tick() */
    void (*on_signal)(void *user, int number); /* SIGINT or SIGTERM */
    /* A refusal of this file, before on_head or instead of on_call: the owner writes the body. */
    void (*on_refuse)(void *user, http_call *c, int status, const char *why);

    const char *host, *uds; /* uds: a path, instead of host and port */
    uint16_t port;          /* 0: any */
    uint32_t connections_max, connections_per_address;
    uint64_t body_max, bodies_max; /* bytes of one body, and of all at once */
    uint64_t unread_max;           /* bytes of a stream that wait for the client */
    uint32_t head_ms, body_ms, idle_ms, write_ms;
} http_options;

/* Listens. The caller owns *out: http_close(). Errors: FL_EIO (an address that cannot be had, no descriptors), FL_ENOMEM. */
FL_CHECKED fl_status http_open(http **out, const http_options *o, fl_err *err);
void http_close(http *h);
uint16_t http_port(const http *h);
uint32_t http_n_connections(const http *h);

void http_run(http *h);              /* until http_stop() */
void http_stop(http *h);             /* ends http_run() */
void http_stop_listening(http *h);   /* connections go on */
bool http_is_flushed(const http *h); /* nothing waits to be written */
void http_wake(http *h);
void http_tick(http *h, uint32_t ms); /* on_tick() once, in ms from now; an earlier wish is forgotten */

struct http_call {
    const http_head *head;
    const char *body; /* body_length bytes and a NUL */
    size_t body_length;
    void *user; /* the owner's; NULL at first */
};

/* Takes the body away from the call: n bytes and a NUL, the caller's (base_free). NULL: no memory. */
char *http_take_body(http_call *c, size_t *n);

/* A further header of the reply, before it begins; false when they do not fit. Values must be printable. */
bool http_reply_header(http_call *c, const char *name, const char *value);

/* The whole reply; the call is over. type NULL: no body. */
void http_reply(http_call *c, int status, const char *type, const char *body, size_t n);

/* A stream of chunks, one for each send. After false the call is gone (on_gone was not called). */
void http_stream_begin(http_call *c, const char *type);
FL_CHECKED bool http_stream_send(http_call *c, const char *bytes, size_t n);
void http_stream_end(http_call *c);

#endif
