/* A connection is a state machine that only advance() moves: HEAD -> BODY -> CALL -> (STREAM ->) HEAD again, or FLUSH ->
 * LINGER -> gone. Whoever replies from inside a callback of the owner only changes the state; advance() goes on when the
 * callback has returned. Dropping marks the connection; it is freed where nobody is inside it.
 *
 * Why not evhttp (2.1.12): it takes several of the malformed heads of docs/serving.md, its timeouts restart with every byte,
 * and it stops reading while a reply is computed, so that it does not see a client leave. */
#include "serve/http.h"

#include "base/buf.h"
#include "base/mem.h"

#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/event.h>
#include <event2/listener.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

enum { PIPELINED_MAX = 64 << 10, LINGER_MS = 1000, ACCEPT_PAUSE_MS = 100, BACKLOG = 4096, BODY_RATE = 64 << 10 };

typedef enum { HEAD, BODY, CALL, STREAM, FLUSH, LINGER } state;

typedef struct connection connection;
struct connection {
    http_call call; /* first: a call is its connection */
    http *h;
    connection *next, **at; /* in the list of all */
    struct bufferevent *bev;
    struct event *deadline;
    state state;
    bool inside, dead; /* advance() runs; to be freed */
    bool failed;       /* the head of the stream found no memory */
    bool owned;        /* the owner has been told of the call */
    bool close, begun; /* after this reply; a head is on its way */
    http_head head;
    base_buf head_bytes, body, fields; /* what head points into; fields: further header lines of the reply */
    struct sockaddr_storage address;
};

struct http {
    http_options o;
    struct event_base *base;
    struct evconnlistener *listener;
    struct event *wake, *tick, *resume, *signals[2];
    int wake_fd;
    char uds[sizeof((struct sockaddr_un *)NULL)->sun_path];
    connection *first;
    uint32_t n_connections;
    uint64_t bodies; /* bytes that the calls in work have announced */
};

static struct timeval after(uint32_t ms) {
    return (struct timeval){.tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000};
}

static void set_deadline(connection *c, uint64_t ms) {
    struct timeval t = after(ms < 86400000 ? (uint32_t)ms : 86400000);
    event_del(c->deadline);
    if (ms) event_add(c->deadline, &t);
}

static struct evbuffer *input(connection *c) { return bufferevent_get_input(c->bev); }
static struct evbuffer *output(connection *c) { return bufferevent_get_output(c->bev); }

static void free_connection(connection *c) {
    if (c->bev) bufferevent_free(c->bev); /* closes the socket */
    if (c->deadline) event_free(c->deadline);
    if (c->at) {
        *c->at = c->next;
        if (c->next) c->next->at = c->at;
        c->h->n_connections--;
    }
    base_buf_clear(&c->head_bytes);
    base_buf_clear(&c->body);
    base_buf_clear(&c->fields);
    base_free(c);
}

static void forget_head(connection *c) {
    c->head = (http_head){.method = "", .path = "", .keep_alive = false};
    base_buf_clear(&c->head_bytes);
}

static void end_call(connection *c) {
    if (c->state != HEAD && c->head.has_length) c->h->bodies -= c->head.content_length;
    forget_head(c);
    c->owned = false;
    c->call.user = NULL;
    base_buf_clear(&c->body);
    base_buf_clear(&c->fields);
}

/* The connection ends now, whatever was to be written. */
static void drop(connection *c, bool tell) {
    if (c->dead) return;
    c->dead = true;
    if (c->owned && tell) c->h->o.on_gone(c->h->o.user, &c->call);
    end_call(c);
    if (!c->inside) free_connection(c);
}

/* ---- replies ---- */

static const char *status_text(int status) {
    static const struct {
        int status;
        const char *text;
    } texts[] = {{200, "OK"},
                 {204, "No Content"},
                 {400, "Bad Request"},
                 {401, "Unauthorized"},
                 {403, "Forbidden"},
                 {404, "Not Found"},
                 {405, "Method Not Allowed"},
                 {408, "Request Timeout"},
                 {411, "Length Required"},
                 {413, "Content Too Large"},
                 {415, "Unsupported Media Type"},
                 {417, "Expectation Failed"},
                 {429, "Too Many Requests"},
                 {431, "Request Header Fields Too Large"},
                 {500, "Internal Server Error"},
                 {501, "Not Implemented"},
                 {503, "Service Unavailable"}};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        if (texts[i].status == status) return texts[i].text;
    return "Unknown";
}

char *http_take_body(http_call *call, size_t *n) {
    connection *c = (connection *)call;
    *n = c->body.len;
    call->body = "";
    call->body_length = 0;
    return base_buf_take(&c->body);
}

bool http_reply_header(http_call *call, const char *name, const char *value) {
    connection *c = (connection *)call;
    return base_buf_printf(&c->fields, "%s: %s\r\n", name, value);
}

static bool write_head(connection *c, int status, const char *type, const char *framing) {
    struct evbuffer *out = output(c);
    return evbuffer_add_printf(out, "HTTP/1.1 %d %s\r\n", status, status_text(status)) > 0 &&
           (!type || evbuffer_add_printf(out, "Content-Type: %s\r\n", type) > 0) && !c->fields.failed &&
           (c->fields.len == 0 || evbuffer_add(out, c->fields.data, c->fields.len) == 0) &&
           evbuffer_add_printf(out, "%s%s\r\n", framing, c->close ? "Connection: close\r\n" : "") > 0;
}

static void advance(connection *c);

/* The reply is written: the next call, or the end. */
static void reply_ended(connection *c) {
    end_call(c);
    c->state = c->close ? FLUSH : HEAD;
    c->begun = false;
    set_deadline(c, c->close ? c->h->o.write_ms : c->h->o.idle_ms);
    if (!c->inside) advance(c);
}

void http_reply(http_call *call, int status, const char *type, const char *body, size_t n) {
    connection *c = (connection *)call;
    char framing[64];
    if (!c->head.keep_alive || c->state < CALL || status == 408) c->close = true;
    snprintf(framing, sizeof framing, "Content-Length: %zu\r\n", n);
    bool ok = write_head(c, status, type, status == 204 ? "" : framing);
    if (n > 0 && strcmp(c->head.method, "HEAD") != 0) ok = ok && evbuffer_add(output(c), body, n) == 0;
    if (ok)
        reply_ended(c);
    else
        drop(c, false); /* no memory: the end without a reply says so */
}

void http_stream_begin(http_call *call, const char *type) {
    connection *c = (connection *)call;
    if (!c->head.keep_alive) c->close = true;
    c->state = STREAM;
    c->failed = !write_head(c, 200, type, c->head.is_1_0 ? "" : "Transfer-Encoding: chunked\r\n");
}

bool http_stream_send(http_call *call, const char *bytes, size_t n) {
    connection *c = (connection *)call;
    struct evbuffer *out = output(c);
    if (n == 0) return true;
    bool ok = !c->failed && evbuffer_get_length(out) + n <= c->h->o.unread_max, chunks = !c->head.is_1_0;
    if (chunks) ok = ok && evbuffer_add_printf(out, "%zx\r\n", n) > 0;
    ok = ok && evbuffer_add(out, bytes, n) == 0 && (!chunks || evbuffer_add(out, "\r\n", 2) == 0);
    if (ok) return true;
    drop(c, false);
    return false;
}

void http_stream_end(http_call *call) {
    connection *c = (connection *)call;
    if (c->head.is_1_0 || evbuffer_add(output(c), "0\r\n\r\n", 5) == 0)
        reply_ended(c);
    else
        drop(c, false);
}

static void refuse(connection *c, int status, const char *why) {
    c->close = true;
    c->h->o.on_refuse(c->h->o.user, &c->call, status, why);
}

/* ---- reading ---- */

/* Length of the head with its empty line; 0: not all of it is there. */
static size_t find_head(connection *c) {
    struct evbuffer_ptr p = evbuffer_search(input(c), "\n\r\n", 3, NULL),
                        q = evbuffer_search(input(c), "\n\n", 2, NULL);
    size_t n = p.pos < 0 ? 0 : (size_t)p.pos + 3, m = q.pos < 0 ? 0 : (size_t)q.pos + 2;
    return n == 0 || (m > 0 && m < n) ? m : n;
}

/* False: more bytes are needed. */
static bool read_head(connection *c) {
    size_t have = evbuffer_get_length(input(c)), n = find_head(c);
    const char *why;
    if (have == 0) return false;
    if (!c->begun) {
        set_deadline(c, c->h->o.head_ms);
        c->begun = true;
    }
    if (n > HEAD_BYTES_MAX || (n == 0 && have > HEAD_BYTES_MAX)) {
        forget_head(c);
        refuse(c, 431, "The head of the request is longer than 16 KB.");
        return true;
    }
    if (n == 0) return false;
    if (!base_buf_reserve(&c->head_bytes, n)) {
        forget_head(c);
        refuse(c, 503, "The server has no memory for this call; try again.");
        return true;
    }
    evbuffer_remove(input(c), c->head_bytes.data, n);
    int status = http_head_read(&c->head, c->head_bytes.data, n, &why);
    uint64_t length = c->head.content_length;
    if (status) {
        c->head.has_length = false;
        refuse(c, status, why);
    } else if (length > c->h->o.body_max) {
        c->head.has_length = false;
        refuse(c, 413, "The body is larger than this server takes.");
    } else if (length > c->h->o.bodies_max - c->h->bodies) {
        c->head.has_length = false;
        refuse(c, 503, "The server is reading too many bodies; try again.");
    } else {
        c->state = BODY;
        c->h->bodies += c->head.has_length ? length : 0;
        set_deadline(c, c->h->o.body_ms + length * 1000 / BODY_RATE);
        c->owned = true;
        if (!c->h->o.on_head(c->h->o.user, &c->call)) return true;
        if (c->head.expects_continue && length) evbuffer_add_printf(output(c), "HTTP/1.1 100 Continue\r\n\r\n");
    }
    return true;
}

static bool read_body(connection *c) {
    size_t want = (size_t)c->head.content_length - c->body.len, have = evbuffer_get_length(input(c));
    size_t n = want < have ? want : have;
    if (n > 0 && base_buf_reserve(&c->body, n)) {
        evbuffer_remove(input(c), c->body.data + c->body.len, n);
        c->body.len += n;
        c->body.data[c->body.len] = '\0';
    } else if (n > 0) {
        refuse(c, 503, "The server has no memory for this body; try again.");
        return true;
    }
    if (n < want) return false;
    set_deadline(c, 0);
    c->state = CALL;
    c->call.body = c->body.data ? c->body.data : "";
    c->call.body_length = c->body.len;
    c->h->o.on_call(c->h->o.user, &c->call);
    return true;
}

static void begin_linger(connection *c) {
    shutdown(bufferevent_getfd(c->bev), SHUT_WR);
    c->state = LINGER;
    set_deadline(c, LINGER_MS);
}

static void advance(connection *c) {
    c->inside = true;
    for (bool more = true; more && !c->dead;) {
        more = false;
        if (c->state == HEAD) {
            more = read_head(c);
        } else if (c->state == BODY) {
            more = read_body(c);
        } else if (c->state == FLUSH || c->state == LINGER) {
            evbuffer_drain(input(c), evbuffer_get_length(input(c)));
            if (c->state == FLUSH && evbuffer_get_length(output(c)) == 0) begin_linger(c);
        } else if (evbuffer_get_length(input(c)) > PIPELINED_MAX) {
            drop(c, true);
        }
    }
    c->inside = false;
    if (c->dead) free_connection(c);
}

static void on_read(struct bufferevent *bev, void *arg) {
    (void)bev;
    advance(arg);
}

static void on_written(struct bufferevent *bev, void *arg) {
    connection *c = arg;
    (void)bev;
    if (c->state == FLUSH) advance(c);
}

static void on_event(struct bufferevent *bev, short what, void *arg) {
    (void)bev;
    (void)what; /* the end, an error or a client that does not read: in all cases nobody is there */
    drop(arg, true);
}

static void on_deadline(evutil_socket_t fd, short what, void *arg) {
    connection *c = arg;
    (void)fd;
    (void)what;
    if ((c->state == HEAD && c->begun) || c->state == BODY) {
        c->inside = true;
        bool is_head = c->state == HEAD;
        if (is_head) forget_head(c);
        refuse(c, 408, is_head ? "The head of the request took too long." : "The body of the request took too long.");
        c->inside = false;
        advance(c);
    } else {
        drop(c, true);
    }
}

/* ---- accepting ---- */

static uint32_t count_address(const http *h, const struct sockaddr *a) {
    uint32_t n = 0;
    for (const connection *c = h->first; c; c = c->next) {
        if (c->address.ss_family != a->sa_family) continue;
        if (a->sa_family == AF_INET)
            n += ((const struct sockaddr_in *)(const void *)&c->address)->sin_addr.s_addr ==
                 ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr;
        else if (a->sa_family == AF_INET6)
            n += memcmp(&((const struct sockaddr_in6 *)(const void *)&c->address)->sin6_addr,
                        &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, 16) == 0;
    }
    return n;
}

static bool open_connection(http *h, evutil_socket_t fd, const struct sockaddr *a, socklen_t n) {
    connection *c = base_calloc(1, sizeof *c);
    if (!c) return false;
    c->h = h;
    c->call.head = &c->head;
    memcpy(&c->address, a, n < sizeof c->address ? n : sizeof c->address);
    c->deadline = evtimer_new(h->base, on_deadline, c);
    c->bev = c->deadline ? bufferevent_socket_new(h->base, fd, BEV_OPT_CLOSE_ON_FREE) : NULL;
    if (!c->bev) {
        free_connection(c);
        return false;
    }
    c->next = h->first;
    if (c->next) c->next->at = &c->next;
    c->at = &h->first;
    h->first = c;
    h->n_connections++;
    struct timeval write = after(h->o.write_ms);
    bufferevent_setcb(c->bev, on_read, on_written, on_event, c);
    bufferevent_set_timeouts(c->bev, NULL, &write);
    bufferevent_enable(c->bev, EV_READ | EV_WRITE);
    set_deadline(c, h->o.head_ms);
    return true;
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *a, int n, void *arg) {
    http *h = arg;
    (void)l;
    int on = 1;
    if (a->sa_family != AF_UNIX) (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    bool full = h->n_connections >= h->o.connections_max ||
                (a->sa_family != AF_UNIX && count_address(h, a) >= h->o.connections_per_address);
    if (full || !open_connection(h, fd, a, (socklen_t)n)) evutil_closesocket(fd);
}

/* No descriptors or no memory: the backlog keeps the others for a moment, instead of a loop that fails at once. */
static void on_accept_error(struct evconnlistener *l, void *arg) {
    http *h = arg;
    struct timeval t = after(ACCEPT_PAUSE_MS);
    evconnlistener_disable(l);
    event_add(h->resume, &t);
}

static void on_resume(evutil_socket_t fd, short what, void *arg) {
    http *h = arg;
    (void)fd;
    (void)what;
    if (h->listener) evconnlistener_enable(h->listener);
}

static fl_status listen_at(http *h, const struct sockaddr *a, socklen_t n, const char *shown, fl_err *err) {
    unsigned flags = LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC | (a->sa_family == AF_UNIX ? 0 : LEV_OPT_REUSEABLE);
    errno = 0;
    h->listener = evconnlistener_new_bind(h->base, on_accept, h, flags, BACKLOG, a, (int)n);
    if (!h->listener && errno == EADDRINUSE)
        return fl_fail(err, FL_EIO, "%s is taken by another program; choose another --port or end that one", shown);
    if (!h->listener) return fl_fail(err, FL_EIO, "cannot listen at %s: %s", shown, strerror(errno));
    evconnlistener_set_error_cb(h->listener, on_accept_error);
    return FL_OK;
}

/* A socket file that nobody listens at is what a killed server left. */
static bool is_stale(const struct sockaddr_un *a) {
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) return false;
    bool stale = connect(fd, (const struct sockaddr *)(const void *)a, sizeof *a) != 0 && errno == ECONNREFUSED;
    close(fd);
    return stale;
}

static fl_status listen_unix(http *h, fl_err *err) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    struct stat s;
    if (strlen(h->o.uds) >= sizeof a.sun_path)
        return fl_fail(err, FL_EINVAL, "--uds %.60s... is longer than %zu bytes", h->o.uds, sizeof a.sun_path - 1);
    snprintf(a.sun_path, sizeof a.sun_path, "%s", h->o.uds);
    if (lstat(a.sun_path, &s) == 0 && !S_ISSOCK(s.st_mode))
        return fl_fail(err, FL_EIO, "--uds %s: is a file and no socket; choose another path", a.sun_path);
    if (is_stale(&a)) unlink(a.sun_path);
    mode_t before = umask(0177);
    fl_status st = listen_at(h, (const struct sockaddr *)(const void *)&a, sizeof a, a.sun_path, err);
    umask(before);
    if (st == FL_OK) snprintf(h->uds, sizeof h->uds, "%s", a.sun_path);
    return st;
}

static fl_status listen_tcp(http *h, fl_err *err) {
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE}, *found = NULL;
    char port[8], shown[320];
    snprintf(port, sizeof port, "%u", h->o.port);
    snprintf(shown, sizeof shown, "%.255s port %s", h->o.host, port);
    int rc = getaddrinfo(h->o.host, port, &hints, &found);
    if (rc != 0) return fl_fail(err, FL_EIO, "--host %.255s: %s", h->o.host, gai_strerror(rc));
    fl_status st = listen_at(h, found->ai_addr, found->ai_addrlen, shown, err);
    freeaddrinfo(found);
    return st;
}

/* ---- the loop ---- */

static void on_wake(evutil_socket_t fd, short what, void *arg) {
    http *h = arg;
    uint64_t n;
    (void)what;
    if (read(fd, &n, sizeof n) < 0) return;
    h->o.on_wake(h->o.user);
}

static void on_tick(evutil_socket_t fd, short what, void *arg) {
    http *h = arg;
    (void)fd;
    (void)what;
    h->o.on_tick(h->o.user);
}

static void on_signal(evutil_socket_t number, short what, void *arg) {
    http *h = arg;
    (void)what;
    h->o.on_signal(h->o.user, (int)number);
}

static fl_status open_events(http *h, fl_err *err) {
    h->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    h->base = h->wake_fd < 0 ? NULL : event_base_new();
    if (!h->base) return fl_fail(err, FL_EIO, "the system refuses an event loop: %s", strerror(errno));
    h->wake = event_new(h->base, h->wake_fd, EV_READ | EV_PERSIST, on_wake, h);
    h->tick = evtimer_new(h->base, on_tick, h);
    h->resume = evtimer_new(h->base, on_resume, h);
    h->signals[0] = evsignal_new(h->base, SIGINT, on_signal, h);
    h->signals[1] = evsignal_new(h->base, SIGTERM, on_signal, h);
    if (!h->wake || !h->tick || !h->resume || !h->signals[0] || !h->signals[1] || event_add(h->wake, NULL) != 0 ||
        event_add(h->signals[0], NULL) != 0 || event_add(h->signals[1], NULL) != 0)
        return fl_fail(err, FL_ENOMEM, "an event loop: no memory");
    return FL_OK;
}

/* What fails is said by the call that failed. */
static void no_log(int severity, const char *text) {
    (void)severity;
    (void)text;
}

fl_status http_open(http **out, const http_options *o, fl_err *err) {
    *out = NULL;
    event_set_mem_functions(base_malloc, base_realloc, base_free);
    event_set_log_callback(no_log);
    http *h = base_calloc(1, sizeof *h);
    if (!h) return fl_fail(err, FL_ENOMEM, "a server: no memory");
    h->o = *o;
    h->wake_fd = -1;
    fl_status st = open_events(h, err);
    if (st == FL_OK) st = o->uds ? listen_unix(h, err) : listen_tcp(h, err);
    if (st != FL_OK) {
        http_close(h);
        return st;
    }
    *out = h;
    return FL_OK;
}

void http_stop_listening(http *h) {
    if (h->listener) evconnlistener_free(h->listener);
    h->listener = NULL;
    if (h->uds[0]) unlink(h->uds);
    h->uds[0] = '\0';
}

void http_close(http *h) {
    if (!h) return;
    http_stop_listening(h);
    while (h->first) {
        h->first->owned = false;
        drop(h->first, false);
    }
    struct event *all[] = {h->wake, h->tick, h->resume, h->signals[0], h->signals[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i]) event_free(all[i]);
    if (h->base) event_base_free(h->base);
    if (h->wake_fd >= 0) close(h->wake_fd);
    base_free(h);
}

uint16_t http_port(const http *h) {
    struct sockaddr_storage a = {0};
    socklen_t n = sizeof a;
    if (getsockname(evconnlistener_get_fd(h->listener), (struct sockaddr *)(void *)&a, &n) != 0) return h->o.port;
    if (a.ss_family == AF_INET) return ntohs(((struct sockaddr_in *)(void *)&a)->sin_port);
    return a.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)(void *)&a)->sin6_port) : 0;
}

uint32_t http_n_connections(const http *h) { return h->n_connections; }

bool http_is_flushed(const http *h) {
    for (connection *c = h->first; c; c = c->next)
        if (evbuffer_get_length(output(c)) > 0) return false;
    return true;
}

void http_run(http *h) { event_base_dispatch(h->base); }
void http_stop(http *h) { event_base_loopbreak(h->base); }

void http_wake(http *h) {
    uint64_t one = 1;
    if (write(h->wake_fd, &one, sizeof one) < 0) return; /* full: it is awake */
}

void http_tick(http *h, uint32_t ms) {
    struct timeval t = after(ms);
    event_del(h->tick);
    event_add(h->tick, &t);
}
