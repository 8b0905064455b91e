/* Connections without an engine: deadlines that bytes do not put off, caps, calls that outlive their client, memory that
 * runs out. The requests that a strict parser must refuse are tests/e2e/test_serve.py's. */
#include "serve/http.h"

#include "base/mem.h"
#include "base/thread.h"
#include "test.h"

#include <arpa/inet.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* An owner that answers everything but /wait, and counts. */
typedef struct {
    http *h;
    pthread_t thread;
    atomic_uint n_calls, n_gone;
    http_call *waiting;
    atomic_bool stop;
} owner;

static bool on_head(void *user, http_call *c) {
    (void)user;
    (void)c;
    return true;
}

static void on_call(void *user, http_call *c) {
    owner *o = user;
    atomic_fetch_add(&o->n_calls, 1);
    if (strcmp(c->head->path, "/wait") == 0)
        o->waiting = c;
    else
        http_reply(c, 200, "text/plain", c->body, c->body_length);
}

static void on_gone(void *user, http_call *c) {
    owner *o = user;
    if (o->waiting == c) o->waiting = NULL;
    atomic_fetch_add(&o->n_gone, 1);
}

static void on_wake(void *user) {
    owner *o = user;
    if (atomic_load(&o->stop)) http_stop(o->h);
}

static void on_tick(void *user) { (void)user; }

static void on_signal(void *user, int number) {
    (void)user;
    (void)number;
}

static void on_refuse(void *user, http_call *c, int status, const char *why) {
    (void)user;
    http_reply(c, status, "text/plain", why, strlen(why));
}

static http_options options(owner *o) {
    return (http_options){.user = o,
                          .on_head = on_head,
                          .on_call = on_call,
                          .on_gone = on_gone,
                          .on_wake = on_wake,
                          .on_tick = on_tick,
                          .on_signal = on_signal,
                          .on_refuse = on_refuse,
                          .host = "127.0.0.1",
                          .connections_max = 8,
                          .connections_per_address = 5,
                          .body_max = 100000,
                          .bodies_max = 150000,
                          .unread_max = 1000,
                          .head_ms = 300,
                          .body_ms = 300,
                          .idle_ms = 600,
                          .write_ms = 1000};
}

static void *run_loop(void *arg) {
    owner *o = arg;
    http_run(o->h);
    return NULL;
}

static bool begin(owner *o) {
    http_options h = options(o);
    fl_err err;
    if (http_open(&o->h, &h, &err) != FL_OK) {
        test_fail(__FILE__, __LINE__, "%s", err.msg);
        return false;
    }
    return pthread_create(&o->thread, NULL, run_loop, o) == 0;
}

static void end(owner *o) {
    atomic_store(&o->stop, true);
    http_wake(o->h);
    pthread_join(o->thread, NULL);
    http_close(o->h);
}

static int dial(const owner *o) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(http_port(o->h))};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(connect(fd, (struct sockaddr *)(void *)&a, sizeof a) == 0);
    return fd;
}

static void say(int fd, const char *s) { CHECK(send(fd, s, strlen(s), MSG_NOSIGNAL) == (ssize_t)strlen(s)); }

/* What comes until the other side closes, or for ms. */
static const char *hear(int fd, int ms) {
    static char got[4096];
    size_t n = 0;
    double stop = base_now() + ms * 1e-3;
    while (n < sizeof got - 1 && base_now() < stop) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, 10) <= 0) continue;
        ssize_t k = recv(fd, got + n, sizeof got - 1 - n, 0);
        if (k <= 0) break;
        n += (size_t)k;
    }
    got[n] = '\0';
    return got;
}

static bool counts_to(atomic_uint *n, unsigned want) {
    double stop = base_now() + 5;
    while (atomic_load(n) != want && base_now() < stop) usleep(1000);
    return atomic_load(n) == want;
}

TEST(bytes_do_not_put_a_deadline_off) {
    owner o = {.h = NULL};
    if (!begin(&o)) return;
    static const char *const starts[] = {"GET / HTTP/1.1\r\nHost: a\r\nA: ",
                                         "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n"};
    for (int i = 0; i < 2; i++) {
        int fd = dial(&o);
        double start = base_now();
        say(fd, starts[i]);
        bool alive = true;
        while (alive && base_now() < start + 5) {
            usleep(20000);
            struct pollfd p = {.fd = fd, .events = POLLIN};
            alive = poll(&p, 1, 0) == 0 && send(fd, "x", 1, MSG_NOSIGNAL) == 1;
        }
        double took = base_now() - start;
        CHECKF(took > 0.25 && took < 2, "cut after %.2f s", took);
        CHECK(strncmp(hear(fd, 500), "HTTP/1.1 408 ", 13) == 0);
        close(fd);
    }
    int idle = dial(&o);
    say(idle, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    double start = base_now();
    CHECK(strstr(hear(idle, 3000), "200 OK"));
    CHECK(base_now() - start < 2.5); /* kept alive for a while, then ended */
    close(idle);
    end(&o);
}

TEST(a_client_that_leaves_is_noticed_while_it_waits) {
    owner o = {.h = NULL};
    if (!begin(&o)) return;
    for (unsigned i = 1; i <= 3; i++) {
        int fd = dial(&o);
        say(fd, "GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
        CHECK(counts_to(&o.n_calls, i));
        close(fd);
        CHECK(counts_to(&o.n_gone, i));
    }
    end(&o);
}

TEST(caps) {
    owner o = {.h = NULL};
    if (!begin(&o)) return;
    int fds[8];
    for (int i = 0; i < 8; i++) fds[i] = dial(&o);
    for (int i = 0; i < 8; i++) {
        if (i < 5) say(fds[i], "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        CHECKF((strstr(hear(fds[i], 1000), "200 OK") != NULL) == (i < 5), "connection %d", i);
        close(fds[i]);
    }
    usleep(100000);
    /* Two bodies that may come, one that would be too much with them, one that is too large by itself. */
    static const struct {
        const char *length, *status;
    } bodies[] = {{"90000", ""}, {"50000", ""}, {"20000", "503"}, {"100001", "413"}};
    for (int i = 0; i < 4; i++) {
        char head[100], want[20];
        fds[i] = dial(&o);
        snprintf(head, sizeof head, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %s\r\n\r\n", bodies[i].length);
        snprintf(want, sizeof want, "HTTP/1.1 %s", bodies[i].status);
        say(fds[i], head);
        if (*bodies[i].status) CHECK(strncmp(hear(fds[i], 500), want, strlen(want)) == 0);
        usleep(20000);
    }
    for (int i = 0; i < 4; i++) close(fds[i]);
    CHECK(counts_to(&o.n_gone, 2));
    end(&o);
}

TEST(opening_without_memory) {
    size_t before = base_mem_bytes();
    for (uint64_t n = 1; n < 200; n++) {
        owner o = {.h = NULL};
        http_options h = options(&o);
        fl_err err = {.msg = ""};
        base_mem_fail_at(n);
        fl_status st = http_open(&o.h, &h, &err);
        bool failed = base_mem_failed();
        base_mem_fail_at(0);
        CHECKF(st == FL_OK || (!o.h && err.msg[0]), "allocation %llu", (unsigned long long)n);
        http_close(o.h);
        if (!failed) break;
    }
    CHECKF(base_mem_bytes() == before, "%zu bytes are left", base_mem_bytes() - before);
}

TEST(heads) {
    static const struct {
        const char *bytes;
        int status;
    } rows[] = {{"GET /a?b HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n", 0},
                {"GET /a HTTP/1.0\r\nHost:x\r\n\r\n", 0},
                {"GET /a HTTP/1.1\r\n\r\n", 400},
                {"GET /a HTTP/1.1\r\nHost: x\r\nHost: x\r\n\r\n", 400},
                {"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", 400},
                {"GET /a HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", 400},
                {"GET /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: identity\r\n\r\n", 411},
                {"GET  HTTP/1.1\r\nHost: x\r\n\r\n", 400},
                {"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400},
                {"GET /a HTTP/1.1\r\nHost: x\r\nExpect: 200-maybe\r\n\r\n", 417},
                {"GET /a HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400},
                {"GET /a HTTP/1.1\nHost: x\r\n\r\n", 400},
                {"", 400},
                {"\r\n\r\n", 400}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char bytes[200];
        static http_head head;
        const char *why = NULL;
        snprintf(bytes, sizeof bytes, "%s", rows[i].bytes);
        int status = http_head_read(&head, bytes, strlen(bytes), &why);
        CHECKF(status == rows[i].status && why, "row %zu gave %d", i, status);
    }
    char good[] =
        "POST /a?b=c HTTP/1.1\r\nHOST: x:1 \r\nContent-Length: 12\r\nConnection: Close\r\nX-A:  b c\t\r\n\r\n";
    static http_head head;
    const char *why;
    CHECK(http_head_read(&head, good, sizeof good - 1, &why) == 0);
    CHECK(strcmp(head.method, "POST") == 0 && strcmp(head.path, "/a") == 0 && strcmp(head.host, "x:1") == 0);
    CHECK(head.has_length && head.content_length == 12 && !head.keep_alive && head.n_fields == 4);
    CHECK(strcmp(http_head_find(&head, "x-a"), "b c") == 0 && !http_head_find(&head, "b"));
}
