/* The network path of a pull against a hub of a few lines in this process: every allocation of it may fail. */
#include "base/mem.h"
#include "base/sha256.h"
#include "hub/net.h"
#include "hub/repo.h"
#include "test.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define COMMIT "0123456789abcdef0123456789abcdef01234567"
enum { MODEL_BYTES = 3000 };

static char model[MODEL_BYTES], oid[BASE_SHA256_HEX_BYTES], root[300], url[64];
static int listening;
static atomic_uint n_requests;

static void answer(int fd, const char *status, const char *more, const char *body, size_t n) {
    char head[400];
    int k = snprintf(head, sizeof head, "HTTP/1.1 %s\r\n%sContent-Length: %zu\r\nConnection: close\r\n\r\n", status,
                     more, n);
    if (send(fd, head, (size_t)k, MSG_NOSIGNAL) < 0 || send(fd, body, n, MSG_NOSIGNAL) < 0) return;
}

static void serve(int fd) {
    char request[4096] = "", text[400];
    size_t n = 0;
    while (n + 1 < sizeof request && !strstr(request, "\r\n\r\n")) {
        ssize_t k = recv(fd, request + n, sizeof request - 1 - n, 0);
        if (k <= 0) return;
        n += (size_t)k;
        request[n] = '\0';
    }
    atomic_fetch_add(&n_requests, 1);
    const char *range = strstr(request, "Range: bytes=");
    unsigned first = 0, last = MODEL_BYTES - 1;
    if (strstr(request, "/revision/")) {
        answer(fd, "200 OK", "", "{\"sha\":\"" COMMIT "\"}", strlen("{\"sha\":\"" COMMIT "\"}"));
    } else if (strstr(request, "/tree/")) {
        snprintf(text, sizeof text,
                 "[{\"type\":\"file\",\"path\":\"m.gguf\",\"oid\":\"" COMMIT
                 "\",\"size\":%d,\"lfs\":{\"oid\":\"%s\",\"size\":%d}}]",
                 MODEL_BYTES, oid, MODEL_BYTES);
        answer(fd, "200 OK", "", text, strlen(text));
    } else if (range && sscanf(range, "Range: bytes=%u-%u", &first, &last) == 2 && last < MODEL_BYTES) {
        snprintf(text, sizeof text, "Content-Range: bytes %u-%u/%d\r\n", first, last, MODEL_BYTES);
        answer(fd, "206 Partial Content", text, model + first, last - first + 1);
    } else {
        answer(fd, "200 OK", "", model, MODEL_BYTES);
    }
}

static void *hub_thread(void *unused) {
    (void)unused;
    for (;;) {
        int fd = accept(listening, NULL, NULL);
        if (fd < 0) return NULL;
        serve(fd);
        (void)shutdown(fd, SHUT_WR);
        (void)close(fd);
    }
}

static void open_hub(void) {
    pthread_t thread;
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof at;
    for (int i = 0; i < MODEL_BYTES; i++) model[i] = (char)("GGUF"[i % 4] + (i > 3 ? i % 7 : 0));
    base_sha256 sha;
    base_sha256_begin(&sha);
    base_sha256_add(&sha, model, MODEL_BYTES);
    base_sha256_end(&sha, oid);
    listening = socket(AF_INET, SOCK_STREAM, 0);
    CHECK(listening >= 0 && bind(listening, (struct sockaddr *)&at, sizeof at) == 0 && listen(listening, 16) == 0);
    CHECK(getsockname(listening, (struct sockaddr *)&at, &n) == 0);
    CHECK(pthread_create(&thread, NULL, hub_thread, NULL) == 0 && pthread_detach(thread) == 0);
    snprintf(root, sizeof root, "%s/flambeau-net-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    CHECK(mkdtemp(root) != NULL);
    snprintf(url, sizeof url, "http://127.0.0.1:%u", ntohs(at.sin_port));
    setenv("HF_ENDPOINT", url, 1);
    setenv("HF_HUB_CACHE", root, 1);
    setenv("HF_TOKEN", "hf_of_test", 1);
    unsetenv("HF_HUB_OFFLINE");
}

/* Pulls name with the n-th allocation failing, into an empty cache; whether the failure was reached. */
static bool pull_failing_at(const char *name, uint64_t n) {
    size_t held = base_mem_bytes();
    char *path = NULL;
    fl_err err = {0};
    hub *h;
    hub_options opt = {.cache = root};
    CHECK(hub_tree_remove(root, NULL) == FL_OK);
    base_mem_fail_at(n);
    fl_status st = hub_open(&h, &opt, &err);
    if (st == FL_OK) st = hub_pull(h, name, NULL, &path, &err);
    bool hit = base_mem_failed();
    base_mem_fail_at(0);
    CHECKF(st == FL_OK || (hit && st == FL_ENOMEM), "allocation %llu of %s: %s", (unsigned long long)n, name, err.msg);
    CHECK((st == FL_OK) == (path != NULL));
    base_free(path);
    hub_close(h);
    CHECKF(base_mem_bytes() == held, "allocation %llu of %s leaks", (unsigned long long)n, name);
    return hit;
}

static bool have_library(void) {
    const char *version;
    fl_err err;
    return hub_net_library(&version, &err) == FL_OK;
}

TEST(every_allocation_of_a_pull_may_fail) {
    if (!have_library()) SKIP("libcurl is not installed");
    open_hub();
    char file[200];
    snprintf(file, sizeof file, "%s/x/y/m.gguf", url);
    const char *const names[] = {"a/b", file};
    for (size_t i = 0; i < 2; i++) {
        uint64_t n = 1;
        while (n < 500 && pull_failing_at(names[i], n)) n++;
        CHECKF(n > 10 && n < 500, "%s: %llu allocations", names[i], (unsigned long long)n);
    }
    CHECK(atomic_load(&n_requests) > 50);
    CHECK(hub_tree_remove(root, NULL) == FL_OK);
}
