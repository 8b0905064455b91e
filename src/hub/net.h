/* hub/net.h - requests over HTTPS, many at a time, by the system's libcurl.
 *
 * libcurl is opened when the first request is wanted (net.c is the only file that knows it), so nothing links
 * against it and a machine without it still runs models. Redirects are followed here and not by libcurl: each hop
 * is checked, and the token goes to the origin (scheme, host and port) of the hub and to no other, whatever the
 * version of libcurl. Plain http is spoken to loopback addresses only, and never after a hop of https.
 *
 * A transfer that brings less than a kilobyte in stall_s seconds is ended as stalled. Whether to try again is the
 * caller's decision: hub_net_transient() says whether that makes sense.
 *
 * Threads: one at a time. Memory: a request is the caller's and must stay where it is while it runs.
 */
#ifndef HUB_NET_H
#define HUB_NET_H

#include "base/buf.h"
#include "fl_err.h"

#include <stdbool.h>
#include <stdint.h>

enum { HUB_NET_MAX = 16, HUB_NET_URL_MAX = 4096, HUB_NET_TRIES = 5 };
#define HUB_NET_UNKNOWN UINT64_MAX

typedef struct hub_net hub_net;
typedef struct hub_net_request hub_net_request;

struct hub_net_request {
    /* what is wanted */
    char url[HUB_NET_URL_MAX];
    bool ranged; /* the bytes first..last, both included */
    uint64_t first, last;
    /* Takes the body of an answer 200 or 206, whose headers are known by then. False ends the transfer. */
    bool (*sink)(hub_net_request *r, const char *bytes, size_t n);
    void *user;

    /* what came */
    long status;     /* 0: no answer */
    bool whole;      /* the body ended where it should */
    uint64_t length; /* Content-Length or HUB_NET_UNKNOWN */
    bool has_range;  /* Content-Range was there and well-formed */
    uint64_t range_first, range_last, range_total;
    uint32_t retry_after_s;     /* 0: not said */
    char next[HUB_NET_URL_MAX]; /* the next page of a listing, or "" */
    char etag[128];             /* or "" */
    bool final;                 /* trying again is no use: refused redirect, bad certificate */
    char why[160];              /* what went wrong on the way, or "" */

    /* net.c */
    void *easy, *fields;
    uint32_t n_hops;
    double window_s; /* when the current stall window began */
    uint64_t window_bytes;
};

/* What libcurl calls itself ("libcurl/7.88.1 OpenSSL/3.0.15 ..."), loaded until the process ends. Errors: as hub_net_open(). */
FL_CHECKED fl_status hub_net_library(const char **version, fl_err *err);

/* endpoint: the hub's URL; token: sent to its origin, or NULL. Both are copied. The caller owns *out.
 * Errors: FL_EUNSUPPORTED without libcurl (the text names the package), FL_EINVAL (endpoint), FL_ENOMEM. */
FL_CHECKED fl_status hub_net_open(hub_net **out, const char *endpoint, const char *token, uint32_t stall_s,
                                  fl_err *err);
void hub_net_close(hub_net *n);

/* Whether a URL may be asked for at all: https, or http to this machine; host and port well-formed; no user names. */
bool hub_net_url_valid(const char *url);

/* Begins a request whose first part is filled in. Errors: FL_EINVAL (URL), FL_ENOMEM. */
FL_CHECKED fl_status hub_net_start(hub_net *n, hub_net_request *r, fl_err *err);
/* Ends a request early; it is not reported any more. Fine for one that does not run. */
void hub_net_stop(hub_net *n, hub_net_request *r);
/* Moves bytes for up to wait_ms; returns a request that ended, or NULL. */
hub_net_request *hub_net_step(hub_net *n, int wait_ms);

/* Whether what came of r may be better next time, and how long to wait before the given try (0 the first). */
bool hub_net_transient(const hub_net_request *r);
double hub_net_backoff_s(const hub_net_request *r, uint32_t failures);
/* Says what came of r. Returns an error always. */
FL_CHECKED fl_status hub_net_failed(const hub_net_request *r, fl_err *err);

/* A document of up to max bytes into *out, with retries; next (HUB_NET_URL_MAX bytes, may be NULL) gets the next page.
 * cancelled is asked several times a second. Errors: as hub_net_failed, FL_ECANCELED, FL_ENOMEM. */
FL_CHECKED fl_status hub_net_get(hub_net *n, const char *url, size_t max, base_buf *out, char *next,
                                 bool (*cancelled)(void *user), void *user, fl_err *err);

#endif
