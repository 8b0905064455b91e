/* The only file that knows libcurl: its few functions and numbers are declared here, and it is opened by name. */
#include "hub/net.h"

#include "base/mem.h"
#include "base/thread.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* ---- libcurl: names and numbers are its ABI, stable since 7.16 (curl_multi_poll: 7.66) ------ */

enum {
    OPT_URL = 10002,
    OPT_PROXY = 10004,
    OPT_RANGE = 10007,
    OPT_WRITEDATA = 10001,
    OPT_WRITEFUNCTION = 20011,
    OPT_USERAGENT = 10018,
    OPT_HTTPHEADER = 10023,
    OPT_HEADERDATA = 10029,
    OPT_HEADERFUNCTION = 20079,
    OPT_FOLLOWLOCATION = 52,
    OPT_HTTP_VERSION = 84,
    OPT_NOSIGNAL = 99,
    OPT_CONNECTTIMEOUT = 78,
    OPT_PRIVATE = 10103,
    OPT_PROTOCOLS = 181,
    INFO_REDIRECT_URL = 0x100000 + 31,
    INFO_PRIVATE = 0x100000 + 21,
    PROTOCOL_HTTP = 1,
    PROTOCOL_HTTPS = 2,
    HTTP_VERSION_1_1 = 2, /* one connection for each part: HTTP/2 would put them all on one */
    MESSAGE_DONE = 1,
    E_OK = 0,
    E_UNSUPPORTED_PROTOCOL = 1,
    E_CERTIFICATE = 60,
    E_CA_FILE = 77,
    GLOBAL_DEFAULT = 3,
};

typedef struct {
    int message;
    void *easy;
    union {
        void *whatever;
        int result;
    } data;
} curl_message;

typedef struct {
    int (*global_init)(long flags);
    void *(*easy_init)(void);
    void (*easy_cleanup)(void *easy);
    int (*easy_setopt)(void *easy, int option, ...);
    int (*easy_getinfo)(void *easy, int info, ...);
    const char *(*easy_strerror)(int code);
    const char *(*version)(void);
    void *(*slist_append)(void *list, const char *text);
    void (*slist_free_all)(void *list);
    void *(*multi_init)(void);
    int (*multi_cleanup)(void *multi);
    int (*multi_add_handle)(void *multi, void *easy);
    int (*multi_remove_handle)(void *multi, void *easy);
    int (*multi_perform)(void *multi, int *running);
    int (*multi_poll)(void *multi, void *extra, unsigned n_extra, int timeout_ms, int *n);
    curl_message *(*multi_info_read)(void *multi, int *left);
} curl_api;

static FL_CHECKED fl_status load(curl_api *c, fl_err *err) {
    const struct {
        const char *name;
        void *to;
    } names[] = {{"curl_global_init", &c->global_init},
                 {"curl_easy_init", &c->easy_init},
                 {"curl_easy_cleanup", &c->easy_cleanup},
                 {"curl_easy_setopt", &c->easy_setopt},
                 {"curl_easy_getinfo", &c->easy_getinfo},
                 {"curl_easy_strerror", &c->easy_strerror},
                 {"curl_version", &c->version},
                 {"curl_slist_append", &c->slist_append},
                 {"curl_slist_free_all", &c->slist_free_all},
                 {"curl_multi_init", &c->multi_init},
                 {"curl_multi_cleanup", &c->multi_cleanup},
                 {"curl_multi_add_handle", &c->multi_add_handle},
                 {"curl_multi_remove_handle", &c->multi_remove_handle},
                 {"curl_multi_perform", &c->multi_perform},
                 {"curl_multi_poll", &c->multi_poll},
                 {"curl_multi_info_read", &c->multi_info_read}};
    void *lib = dlopen("libcurl.so.4", RTLD_NOW | RTLD_LOCAL); /* stays open: TLS libraries do not unload cleanly */
    if (!lib) lib = dlopen("libcurl-gnutls.so.4", RTLD_NOW | RTLD_LOCAL);
    if (!lib)
        return fl_fail(err, FL_EUNSUPPORTED,
                       "downloads need libcurl.so.4, which is not installed; install the package libcurl4");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *f = dlsym(lib, names[i].name);
        if (!f)
            return fl_fail(err, FL_EUNSUPPORTED, "downloads need libcurl 7.66 or newer; this one has no %s",
                           names[i].name);
        memcpy(names[i].to, &f, sizeof f);
    }
    if (c->global_init(GLOBAL_DEFAULT) != E_OK) return fl_fail(err, FL_EIO, "libcurl did not start");
    return FL_OK;
}

fl_status hub_net_library(const char **version, fl_err *err) {
    curl_api c;
    *version = NULL;
    fl_status st = load(&c, err);
    if (st == FL_OK) *version = c.version();
    return st;
}

/* ---- URLs ------------------------------------------------------------------------------- */

enum { ORIGIN_MAX = 300, HOPS_MAX = 8, STALL_BYTES = 1024 };

/* "https://host:443" in lower case. False unless the URL has exactly the form that we and libcurl read alike. */
static bool origin_of(const char *url, char origin[ORIGIN_MAX], bool *https, bool *loopback) {
    size_t n = strlen(url);
    if (n >= HUB_NET_URL_MAX) return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)url[i] <= ' ' || (unsigned char)url[i] >= 0x7f || url[i] == '\\') return false;
    *https = strncasecmp(url, "https://", 8) == 0;
    if (!*https && strncasecmp(url, "http://", 7) != 0) return false;
    const char *host = url + (*https ? 8 : 7), *end = host;
    size_t brackets = *host == '[' ? strspn(host + 1, "0123456789abcdefABCDEF:.") : 0;
    if (*host == '[') {
        if (brackets == 0 || host[1 + brackets] != ']') return false;
        end = host + 2 + brackets;
    } else {
        while (isalnum((unsigned char)*end) || *end == '.' || *end == '-') end++;
    }
    size_t n_host = (size_t)(end - host), digits = *end == ':' ? strspn(end + 1, "0123456789") : 0;
    if (n_host == 0 || n_host > 255 || digits > 5 || (*end == ':' && digits == 0)) return false;
    const char *rest = *end == ':' ? end + 1 + digits : end;
    if (*rest != '\0' && !strchr("/?#", *rest)) return false;
    long port = digits ? strtol(end + 1, NULL, 10) : *https ? 443 : 80;
    snprintf(origin, ORIGIN_MAX, "%s://%.*s:%ld", *https ? "https" : "http", (int)n_host, host, port);
    for (char *c = origin; *c; c++) *c = (char)tolower((unsigned char)*c);

    char name[256];
    struct in_addr v4;
    snprintf(name, sizeof name, "%.*s", (int)n_host, host);
    *loopback = strcasecmp(name, "localhost") == 0 || strcmp(name, "[::1]") == 0 ||
                (inet_pton(AF_INET, name, &v4) == 1 && (ntohl(v4.s_addr) >> 24) == 127);
    return true;
}

bool hub_net_url_valid(const char *url) {
    char origin[ORIGIN_MAX];
    bool https, loopback;
    return origin_of(url, origin, &https, &loopback) && (https || loopback);
}

/* ---- requests --------------------------------------------------------------------------- */

struct hub_net {
    curl_api curl;
    void *multi;
    char origin[ORIGIN_MAX];
    char *authorization; /* header, or NULL */
    double stall_s;
    hub_net_request *running[HUB_NET_MAX];
};

fl_status hub_net_open(hub_net **out, const char *endpoint, const char *token, uint32_t stall_s, fl_err *err) {
    bool https, loopback;
    *out = NULL;
    hub_net *n = base_calloc(1, sizeof *n);
    if (!n) return fl_fail(err, FL_ENOMEM, "opening the network");
    fl_status st = FL_OK;
    n->stall_s = stall_s;
    if (!origin_of(endpoint, n->origin, &https, &loopback))
        st = fl_fail(err, FL_EINVAL, "HF_ENDPOINT is no URL; wanted https://HOST[:PORT], found '%.80s'", endpoint);
    else if (!https && !loopback)
        st = fl_fail(err, FL_EINVAL, "HF_ENDPOINT must be https (http is for this machine only), found '%.80s'",
                     endpoint);
    if (st == FL_OK && token) {
        base_buf b = {0};
        (void)base_buf_printf(&b, "Authorization: Bearer %s", token);
        n->authorization = base_buf_take(&b);
        if (!n->authorization) st = fl_fail(err, FL_ENOMEM, "the token");
    }
    if (st == FL_OK) st = load(&n->curl, err);
    if (st == FL_OK) {
        n->multi = n->curl.multi_init();
        if (!n->multi) st = fl_fail(err, FL_ENOMEM, "opening the network");
    }
    if (st == FL_OK)
        *out = n;
    else
        hub_net_close(n);
    return st;
}

void hub_net_close(hub_net *n) {
    if (!n) return;
    for (size_t i = 0; i < HUB_NET_MAX; i++)
        if (n->running[i]) hub_net_stop(n, n->running[i]);
    if (n->multi) (void)n->curl.multi_cleanup(n->multi);
    base_free(n->authorization);
    base_free(n);
}

static size_t on_body(char *bytes, size_t size, size_t count, void *user) {
    hub_net_request *r = user;
    size_t n = size * count;
    r->window_bytes += n;
    if (r->status != 200 && r->status != 206) return n; /* pages of errors are of no interest */
    return r->sink && !r->sink(r, bytes, n) ? 0 : n;
}

/* Digits alone, below 2^63; *end is what follows them. */
static bool digits(const char *s, uint64_t *v, const char **end) {
    size_t n = strspn(s, "0123456789");
    *end = s + n;
    *v = n && n <= 18 ? strtoull(s, NULL, 10) : 0;
    return n && n <= 18;
}

static void read_range(hub_net_request *r, const char *value) {
    const char *p;
    r->has_range = strncasecmp(value, "bytes ", 6) == 0 && digits(value + 6, &r->range_first, &p) && *p == '-' &&
                   digits(p + 1, &r->range_last, &p) && *p == '/' && digits(p + 1, &r->range_total, &p) && *p == '\0';
}

/* Link: <URL>; rel="next" */
static void read_link(hub_net_request *r, const char *value) {
    const char *end = strchr(value, '>');
    if (*value != '<' || !end || !strstr(end, "rel=\"next\"") || (size_t)(end - value) >= sizeof r->next) return;
    snprintf(r->next, sizeof r->next, "%.*s", (int)(end - value - 1), value + 1);
}

static void begin_answer(hub_net_request *r, long status) {
    r->status = status;
    r->length = HUB_NET_UNKNOWN;
    r->has_range = false;
    r->retry_after_s = 0;
    r->next[0] = r->etag[0] = '\0';
}

static size_t on_header(char *bytes, size_t size, size_t count, void *user) {
    hub_net_request *r = user;
    size_t n = size * count, k = n;
    char line[HUB_NET_URL_MAX + 64];
    const char *end;
    uint64_t v;
    while (k > 0 && strchr("\r\n ", bytes[k - 1]) && bytes[k - 1]) k--;
    if (k >= sizeof line) return n; /* no header that matters is that long */
    memcpy(line, bytes, k);
    line[k] = '\0';
    if (strncmp(line, "HTTP/", 5) == 0) {
        const char *blank = strchr(line, ' ');
        begin_answer(r, blank && digits(blank + 1, &v, &end) && v < 1000 ? (long)v : 0);
        return n;
    }
    char *value = strchr(line, ':');
    if (!value) return n;
    *value++ = '\0';
    value += strspn(value, " \t");
    if (strcasecmp(line, "content-length") == 0 && digits(value, &v, &end) && !*end) r->length = v;
    if (strcasecmp(line, "content-range") == 0) read_range(r, value);
    if (strcasecmp(line, "retry-after") == 0 && digits(value, &v, &end) && !*end)
        r->retry_after_s = v < 1000000 ? (uint32_t)v : 1000000;
    if (strcasecmp(line, "link") == 0) read_link(r, value);
    if (strcasecmp(line, "etag") == 0) snprintf(r->etag, sizeof r->etag, "%.127s", value);
    return n;
}

static void drop(hub_net *n, hub_net_request *r) {
    if (r->easy) {
        (void)n->curl.multi_remove_handle(n->multi, r->easy);
        n->curl.easy_cleanup(r->easy);
    }
    if (r->fields) n->curl.slist_free_all(r->fields);
    r->easy = r->fields = NULL;
}

/* A handle for r->url as it is now: the token only for the hub's own origin. */
static bool launch(hub_net *n, hub_net_request *r, const char *origin, bool https) {
    const curl_api *c = &n->curl;
    r->easy = c->easy_init();
    if (!r->easy) return false;
    bool own = n->authorization && strcmp(origin, n->origin) == 0;
    if (own && !(r->fields = c->slist_append(NULL, n->authorization))) return false;
    char range[48];
    snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)r->first, (unsigned long long)r->last);
    int bad = c->easy_setopt(r->easy, OPT_URL, r->url);
    bad |= c->easy_setopt(r->easy, OPT_PROTOCOLS, (long)(https ? PROTOCOL_HTTPS : PROTOCOL_HTTP));
    bad |= c->easy_setopt(r->easy, OPT_FOLLOWLOCATION, 0L);
    bad |= c->easy_setopt(r->easy, OPT_NOSIGNAL, 1L);
    bad |= c->easy_setopt(r->easy, OPT_HTTP_VERSION, (long)HTTP_VERSION_1_1);
    bad |= c->easy_setopt(r->easy, OPT_CONNECTTIMEOUT, (long)n->stall_s);
    bad |= c->easy_setopt(r->easy, OPT_USERAGENT, "flambeau/" FL_VERSION);
    bad |= c->easy_setopt(r->easy, OPT_WRITEFUNCTION, on_body);
    bad |= c->easy_setopt(r->easy, OPT_WRITEDATA, (void *)r);
    bad |= c->easy_setopt(r->easy, OPT_HEADERFUNCTION, on_header);
    bad |= c->easy_setopt(r->easy, OPT_HEADERDATA, (void *)r);
    bad |= c->easy_setopt(r->easy, OPT_PRIVATE, (void *)r);
    if (own) bad |= c->easy_setopt(r->easy, OPT_HTTPHEADER, r->fields);
    if (r->ranged) bad |= c->easy_setopt(r->easy, OPT_RANGE, range);
    if (!https) bad |= c->easy_setopt(r->easy, OPT_PROXY, ""); /* http is this machine: no proxy in between */
    begin_answer(r, 0);
    r->window_s = base_now();
    r->window_bytes = 0;
    return bad == 0 && c->multi_add_handle(n->multi, r->easy) == 0;
}

fl_status hub_net_start(hub_net *n, hub_net_request *r, fl_err *err) {
    char origin[ORIGIN_MAX];
    bool https, loopback;
    size_t slot = 0;
    while (slot < HUB_NET_MAX && n->running[slot]) slot++;
    r->easy = r->fields = NULL;
    r->n_hops = 0;
    r->whole = r->final = false;
    r->why[0] = '\0';
    if (slot == HUB_NET_MAX) return fl_fail(err, FL_ENOMEM, "more than %d requests at once", HUB_NET_MAX);
    if (!origin_of(r->url, origin, &https, &loopback) || (!https && !loopback))
        return fl_fail(err, FL_EINVAL, "not a URL to download from; wanted https://..., found '%.120s'", r->url);
    if (!launch(n, r, origin, https)) {
        drop(n, r);
        return fl_fail(err, FL_ENOMEM, "a request");
    }
    n->running[slot] = r;
    return FL_OK;
}

void hub_net_stop(hub_net *n, hub_net_request *r) {
    for (size_t i = 0; i < HUB_NET_MAX; i++)
        if (n->running[i] == r) {
            n->running[i] = NULL;
            drop(n, r);
        }
}

/* Goes where an answer 3xx points, if that is a place to go. False: the request ends with this answer. */
static bool follow(hub_net *n, hub_net_request *r) {
    char *to = NULL, origin[ORIGIN_MAX];
    bool https, loopback, was_https = strncasecmp(r->url, "https:", 6) == 0;
    if (r->status < 301 || r->status > 308 || r->status == 304) return false;
    if (n->curl.easy_getinfo(r->easy, INFO_REDIRECT_URL, &to) != E_OK || !to) return false;
    r->final = true;
    if (++r->n_hops > HOPS_MAX) {
        snprintf(r->why, sizeof r->why, "more than %d redirects", HOPS_MAX);
        return false;
    }
    if (!origin_of(to, origin, &https, &loopback) || (!https && (was_https || !loopback))) {
        snprintf(r->why, sizeof r->why, "a redirect to a place that is not https");
        return false;
    }
    char copy[HUB_NET_URL_MAX];
    snprintf(copy, sizeof copy, "%s", to); /* `to` dies with the handle */
    drop(n, r);
    snprintf(r->url, sizeof r->url, "%s", copy);
    r->final = false;
    if (launch(n, r, origin, https)) return true;
    drop(n, r);
    snprintf(r->why, sizeof r->why, "no memory");
    return false;
}

static void finish(hub_net *n, hub_net_request *r, int code) {
    r->whole = code == E_OK;
    if (code != E_OK && !r->why[0]) snprintf(r->why, sizeof r->why, "%.140s", n->curl.easy_strerror(code));
    if (code == E_CERTIFICATE || code == E_UNSUPPORTED_PROTOCOL || code == E_CA_FILE) r->final = true;
    hub_net_stop(n, r);
}

static hub_net_request *find_stalled(hub_net *n) {
    double now = base_now();
    for (size_t i = 0; i < HUB_NET_MAX; i++) {
        hub_net_request *r = n->running[i];
        if (!r || now - r->window_s < n->stall_s) continue;
        if (r->window_bytes < STALL_BYTES) {
            snprintf(r->why, sizeof r->why, "nothing came for %.0f seconds", n->stall_s);
            hub_net_stop(n, r);
            return r;
        }
        r->window_s = now;
        r->window_bytes = 0;
    }
    return NULL;
}

hub_net_request *hub_net_step(hub_net *n, int wait_ms) {
    for (int round = 0; round < 2; round++) {
        int running, left;
        if (round) (void)n->curl.multi_poll(n->multi, NULL, 0, wait_ms, NULL);
        (void)n->curl.multi_perform(n->multi, &running);
        curl_message *m;
        while ((m = n->curl.multi_info_read(n->multi, &left))) {
            if (m->message != MESSAGE_DONE) continue;
            int code = m->data.result; /* the message dies with its handle */
            hub_net_request *r = NULL;
            char *own = NULL;
            (void)n->curl.easy_getinfo(m->easy, INFO_PRIVATE, &own);
            memcpy(&r, &own, sizeof r);
            if (code == E_OK && follow(n, r)) continue;
            finish(n, r, code);
            return r;
        }
        hub_net_request *stalled = find_stalled(n);
        if (stalled) return stalled;
    }
    return NULL;
}

/* ---- what came of it -------------------------------------------------------------------- */

enum { RETRY_AFTER_MAX_S = 60 };

bool hub_net_transient(const hub_net_request *r) {
    if (r->final || r->retry_after_s > RETRY_AFTER_MAX_S) return false;
    switch (r->status) {
        case 0:
        case 200:
        case 206:
        case 408:
        case 429:
        case 500:
        case 502:
        case 503:
        case 504: return true;
        default: return false;
    }
}

double hub_net_backoff_s(const hub_net_request *r, uint32_t failures) {
    double wait = 0.25 * (double)(1u << (failures < 7 ? failures : 7));
    double now = base_now(),
           jitter = (now * 1e6 - (double)(int64_t)(now * 1e6)) * 0.25; /* parts do not march in step */
    wait *= 1 + jitter;
    return r->retry_after_s > wait ? (double)r->retry_after_s : wait;
}

fl_status hub_net_failed(const hub_net_request *r, fl_err *err) {
    if (r->why[0]) return fl_fail(err, FL_EIO, "%s", r->why);
    switch (r->status) {
        case 401: return fl_fail(err, FL_EIO, "the hub answers 401: it does not exist, or needs a token in HF_TOKEN");
        case 403:
            return fl_fail(err, FL_EIO,
                           "the hub answers 403: this token may not have it; accept its terms on the hub's page");
        case 404: return fl_fail(err, FL_EIO, "the hub answers 404: no such repository, revision or file");
        case 429:
        case 503:
            if (r->retry_after_s)
                return fl_fail(err, FL_EIO, "the hub is busy (%ld) and asks to come back in %u seconds", r->status,
                               r->retry_after_s);
            return fl_fail(err, FL_EIO, "the hub is busy (%ld); try again later", r->status);
        default: return fl_fail(err, FL_EIO, "the hub answers %ld", r->status);
    }
}

typedef struct {
    base_buf *out;
    size_t max;
    bool too_long;
} document;

static bool take_document(hub_net_request *r, const char *bytes, size_t n) {
    document *d = r->user;
    d->too_long = n > d->max - d->out->len;
    return !d->too_long && base_buf_append(d->out, bytes, n);
}

/* One try: true when the request ended, false when it was cancelled. */
static bool run_to_end(hub_net *n, hub_net_request *r, bool (*cancelled)(void *user), void *user) {
    while (hub_net_step(n, 100) != r)
        if (cancelled && cancelled(user)) {
            hub_net_stop(n, r);
            return false;
        }
    return true;
}

fl_status hub_net_get(hub_net *n, const char *url, size_t max, base_buf *out, char *next, bool (*cancelled)(void *user),
                      void *user, fl_err *err) {
    hub_net_request *r = base_calloc(1, sizeof *r);
    if (!r) return fl_fail(err, FL_ENOMEM, "a request");
    document d = {.out = out, .max = max};
    fl_status st = FL_OK;
    bool done = false;
    for (uint32_t failures = 0; st == FL_OK && !done;) {
        snprintf(r->url, sizeof r->url, "%s", url);
        r->sink = take_document;
        r->user = &d;
        out->len = 0;
        st = hub_net_start(n, r, err);
        if (st == FL_OK && !run_to_end(n, r, cancelled, user)) st = fl_fail(err, FL_ECANCELED, "interrupted");
        if (st != FL_OK) break;
        done = r->whole && r->status == 200;
        if (done) break;
        if (out->failed) st = fl_fail(err, FL_ENOMEM, "an answer of the hub");
        if (d.too_long) st = fl_fail(err, FL_EFORMAT, "the hub's answer is longer than %zu bytes", max);
        if (st == FL_OK && (!hub_net_transient(r) || ++failures == HUB_NET_TRIES)) st = hub_net_failed(r, err);
        double until = base_now() + hub_net_backoff_s(r, failures);
        while (st == FL_OK && base_now() < until) {
            (void)hub_net_step(n, 100);
            if (cancelled && cancelled(user)) st = fl_fail(err, FL_ECANCELED, "interrupted");
        }
    }
    if (st == FL_OK && next) snprintf(next, HUB_NET_URL_MAX, "%s", r->next);
    base_free(r);
    return st;
}
