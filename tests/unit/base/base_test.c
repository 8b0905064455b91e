/* Memory and its counters, buffers, arenas, maps, errors, fault switches, and the ranks of mutexes. */
#include "base/arena.h"
#include "base/buf.h"
#include "base/fault.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/thread.h"
#include "test.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* ---- mem ---- */

TEST(mem_counts_every_block) {
    static const size_t sizes[] = {0, 1, 15, 16, 63, 64, 4096, (1 << 20) - 1, 1 << 20, (2 << 20) + 5};
    size_t held = base_mem_bytes();
    uint64_t count = base_mem_count(), here = base_mem_count_here();
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t n = sizes[i];
        unsigned char *p[3] = {base_malloc(n), base_calloc(n, 1), base_alloc_aligned(n)};
        for (int k = 0; k < 3; k++) {
            CHECK(p[k] && (uintptr_t)p[k] % (k == 2 ? 64 : 16) == 0);
            for (size_t b = 0; b < n && k > 0; b += 97) CHECK(p[k][b] == 0);
            if (n) memset(p[k], 0xee, n);
        }
        CHECK(base_mem_bytes() == held + 3 * n);
        for (int k = 0; k < 3; k++) base_free(p[k]);
        CHECK(base_mem_bytes() == held);
    }
    CHECK(base_mem_count() == count + 3 * sizeof sizes / sizeof sizes[0] &&
          base_mem_count_here() - here == base_mem_count() - count);
    base_free(NULL);
}

TEST(mem_refuses_sizes_that_overflow) {
    volatile size_t most = SIZE_MAX;
    CHECK(!base_malloc(most));
    CHECK(!base_calloc(most / 2, 3));
    CHECK(!base_alloc_aligned(most - 10));
    CHECK(!base_realloc(NULL, most));
    char *p = base_strdup("kept");
    CHECK(!base_realloc(p, most - 3) && strcmp(p, "kept") == 0);
    base_free(p);
}

TEST(mem_realloc_keeps_bytes) {
    size_t held = base_mem_bytes();
    char *p = NULL;
    for (size_t n = 1; n < 5 << 20; n = n * 3 + 1) {
        char *q = base_realloc(p, n);
        CHECK(q != NULL);
        for (size_t i = 0; p && i < n / 3; i += 101) CHECK(q[i] == (char)(i % 120));
        for (size_t i = 0; i < n; i++) q[i] = (char)(i % 120);
        p = q;
    }
    char *q = base_realloc(p, 5);
    CHECK(q && memcmp(q, "\0\1\2\3\4", 5) == 0 && base_mem_bytes() == held + 5);
    base_free(q);
    q = base_strndup("abcdef", 3);
    CHECK(strcmp(q, "abc") == 0);
    base_free(q);
}

TEST(mem_fails_the_nth_call_once) {
    base_mem_fail_at(3);
    void *p[4];
    for (int i = 0; i < 4; i++) p[i] = i % 2 ? base_calloc(3, 4) : base_malloc(7);
    CHECK(p[0] && p[1] && !p[2] && p[3] && base_mem_failed());
    for (int i = 0; i < 4; i++) base_free(p[i]);
    base_mem_fail_at(1);
    CHECK(!base_alloc_aligned(1 << 21));
    base_mem_fail_at(5);
    base_mem_fail_at(0);
    CHECK(!base_mem_failed());
}

/* ---- buf ---- */

TEST(buf_appends_and_gives_its_bytes) {
    base_buf b = {0};
    CHECK(base_buf_puts(&b, "") && b.data && b.len == 0 && b.data[0] == '\0');
    for (int i = 0; i < 1000; i++)
        CHECK(base_buf_printf(&b, "%d,", i) && base_buf_putc(&b, '\0') && base_buf_append(&b, NULL, 0));
    CHECK(b.len == 4890 && memcmp(b.data, "0,\0001,\0", 6) == 0 && b.data[b.len] == '\0');
    char *s = base_buf_take(&b);
    CHECK(s && !b.data && b.len == 0);
    base_free(s);
    s = base_buf_take(&b);
    CHECK(s && *s == '\0');
    base_free(s);
    base_buf_clear(&b);
}

TEST(buf_failure_is_sticky_and_leaves_the_bytes) {
    base_buf b = {0};
    CHECK(base_buf_puts(&b, "before"));
    base_mem_fail_at(1);
    char big[200] = {0};
    CHECK(!base_buf_append(&b, big, sizeof big));
    base_mem_fail_at(0);
    CHECK(b.failed && b.len == 6 && strcmp(b.data, "before") == 0);
    CHECK(!base_buf_putc(&b, 'x') && !base_buf_printf(&b, "y") && !base_buf_take(&b) && b.len == 6);
    base_buf_clear(&b);
    CHECK(base_buf_puts(&b, "after"));
    volatile size_t most = SIZE_MAX;
    CHECK(!base_buf_reserve(&b, most) && b.failed);
    base_buf_clear(&b);
}

/* ---- arena ---- */

TEST(arena_blocks_stay_and_die_together) {
    size_t held = base_mem_bytes();
    base_arena a = {0};
    uint64_t seed = 1;
    unsigned char *blocks[300];
    size_t sizes[300];
    for (int i = 0; i < 300; i++) {
        sizes[i] = test_random_below(&seed, i % 50 ? 700 : 200000);
        blocks[i] = base_arena_alloc(&a, sizes[i]);
        CHECK(blocks[i] && (uintptr_t)blocks[i] % 16 == 0);
        for (size_t k = 0; k < sizes[i]; k++) CHECK(blocks[i][k] == 0);
        memset(blocks[i], i, sizes[i]);
    }
    for (int i = 0; i < 300; i++)
        for (size_t k = 0; k < sizes[i]; k++) CHECK(blocks[i][k] == (unsigned char)i);
    CHECK(strcmp(base_arena_strndup(&a, "abcdef", 2), "ab") == 0 && *base_arena_strndup(&a, NULL, 0) == '\0');
    base_arena_clear(&a);
    CHECK(base_mem_bytes() == held && a.used == 0);
}

TEST(arena_has_limits) {
    base_arena a = {.limit = 100};
    volatile size_t most = SIZE_MAX;
    CHECK(base_arena_alloc(&a, 64) && !base_arena_alloc(&a, 64) && base_arena_alloc(&a, 30) &&
          !base_arena_alloc(&a, 16));
    base_arena_clear(&a);
    base_arena b = {0};
    CHECK(!base_arena_alloc(&b, most) && !base_arena_alloc(&b, most - 8) && !base_arena_calloc(&b, most / 2, 3) &&
          !base_arena_strndup(&b, "", most));
    base_mem_fail_at(1);
    CHECK(!base_arena_alloc(&b, 8));
    base_mem_fail_at(0);
    CHECK(base_arena_alloc(&b, 8));
    base_arena_clear(&b);
}

/* ---- map ---- */

TEST(map_finds_what_was_put_in) {
    enum { N = 20000 };
    static char keys[N][12];
    base_map m;
    CHECK(base_map_init(&m, 0));
    for (uint32_t i = 0; i < N; i++) {
        int len = snprintf(keys[i], sizeof keys[i], "k%u", i * 7);
        uint32_t found;
        CHECK(base_map_insert(&m, keys[i], (size_t)len, i, &found) && found == i);
    }
    for (uint32_t i = 0; i < N; i++) {
        uint32_t found;
        CHECK(base_map_find(&m, keys[i], strlen(keys[i])) == i);
        CHECK(base_map_insert(&m, keys[i], strlen(keys[i]), 5, &found) && found == i); /* the first one stays */
    }
    CHECK(m.count == N && base_map_find(&m, "k1", 2) == BASE_MAP_NONE &&
          base_map_find(&m, keys[1], 1) == BASE_MAP_NONE);
    CHECK(base_map_insert(&m, "", 0, 77, NULL) && base_map_find(&m, "x", 0) == 77);
    CHECK(base_map_insert(&m, "a\0b", 3, 1, NULL) && base_map_insert(&m, "a\0c", 3, 2, NULL) &&
          base_map_find(&m, "a\0c", 3) == 2);
    base_map_clear(&m);
    CHECK(base_map_find(&m, "k0", 2) == BASE_MAP_NONE);
}

TEST(map_makes_room_ahead_and_survives_failure) {
    size_t held = base_mem_bytes();
    base_map m;
    CHECK(base_map_init(&m, 1000));
    static char keys[3000][8];
    uint64_t count = base_mem_count();
    for (uint32_t i = 0; i < 1000; i++)
        CHECK(base_map_insert(&m, keys[i], (size_t)snprintf(keys[i], 8, "%u", i), i, NULL));
    CHECK(base_mem_count() == count);
    base_mem_fail_at(1);
    uint32_t i = 1000;
    for (; i < 3000; i++)
        if (!base_map_insert(&m, keys[i], (size_t)snprintf(keys[i], 8, "%u", i), i, NULL)) break;
    CHECK(base_mem_failed() && i < 3000 && m.count == i && base_map_find(&m, "999", 3) == 999);
    base_mem_fail_at(0);
    CHECK(base_map_insert(&m, keys[i], strlen(keys[i]), i, NULL) && base_map_find(&m, keys[i], strlen(keys[i])) == i);
    base_map_clear(&m);
    base_mem_fail_at(1);
    CHECK(!base_map_init(&m, 3));
    base_mem_fail_at(0);
    base_map_clear(&m);
    CHECK(base_mem_bytes() == held);
}

TEST(hash_depends_on_every_byte_and_the_seed) {
    char bytes[40] = {0};
    for (size_t n = 1; n < sizeof bytes; n++) {
        uint64_t h = base_hash(1, bytes, n);
        CHECK(h != base_hash(2, bytes, n) && h != base_hash(1, bytes, n - 1));
        for (size_t i = 0; i < n; i++) {
            bytes[i] = 1;
            CHECK(base_hash(1, bytes, n) != h);
            bytes[i] = 0;
        }
    }
}

/* ---- errors and faults ---- */

TEST(errors_keep_their_code_and_gather_context) {
    fl_err err;
    CHECK(fl_fail(&err, FL_EFORMAT, "value %d", 7) == FL_EFORMAT && err.code == FL_EFORMAT && err.line > 0);
    CHECK(fl_wrap(&err, FL_EFORMAT, "file %s", "a.gguf") == FL_EFORMAT && strcmp(err.msg, "file a.gguf: value 7") == 0);
    CHECK(fl_fail(NULL, FL_EIO, "nobody listens") == FL_EIO && fl_wrap(NULL, FL_EIO, "nor here") == FL_EIO);
    char wide[1000];
    memset(wide, 'w', sizeof wide - 1);
    wide[sizeof wide - 1] = '\0';
    CHECK(fl_fail(&err, FL_EIO, "%s", wide) == FL_EIO && strlen(err.msg) < sizeof err.msg);
    CHECK(fl_wrap(&err, FL_EIO, "%s", wide) == FL_EIO && strlen(err.msg) < sizeof err.msg);
}

TEST(fault_switch_hits_once) {
    base_fault_arm(BASE_FAULT_DEVICE, 3);
    CHECK(!base_fault_hit(BASE_FAULT_DEVICE) && !base_fault_hit(BASE_FAULT_DEVICE) &&
          !base_fault_happened(BASE_FAULT_DEVICE));
    CHECK(base_fault_hit(BASE_FAULT_DEVICE) && base_fault_happened(BASE_FAULT_DEVICE) &&
          !base_fault_hit(BASE_FAULT_DEVICE));
    base_fault_arm(BASE_FAULT_DEVICE, 0);
    CHECK(!base_fault_hit(BASE_FAULT_DEVICE) && !base_fault_happened(BASE_FAULT_DEVICE));
}

/* ---- threads ---- */

TEST(mutexes_rise_in_rank) {
    base_mutex step, queue, request;
    base_mutex_init(&step, BASE_RANK_STEP);
    base_mutex_init(&queue, BASE_RANK_QUEUE);
    base_mutex_init(&request, BASE_RANK_REQUEST);
    base_mutex_lock(&step);
    base_mutex_lock(&request);
    base_mutex_unlock(&request);
    base_mutex_lock(&queue);
    base_mutex_unlock(&step); /* any order of giving back */
    base_mutex_lock(&request);
    base_mutex_unlock(&queue);
    base_mutex_unlock(&request);
    base_mutex_clear(&request);
    base_mutex_clear(&queue);
    base_mutex_clear(&step);
}

/* Whether taking `second` while holding `first` stops the process. */
static bool stops(base_rank first, base_rank second) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        (void)!freopen("/dev/null", "w", stderr);
        signal(SIGABRT, SIG_DFL);
        base_mutex a, b;
        base_mutex_init(&a, first);
        base_mutex_init(&b, second);
        base_mutex_lock(&a);
        base_mutex_lock(&b);
        _exit(0);
    }
    int status = 0;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    return !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

TEST(mutexes_out_of_rank_stop_the_process) {
    CHECK(!stops(BASE_RANK_STEP, BASE_RANK_DEVICE));
    CHECK(stops(BASE_RANK_REQUEST, BASE_RANK_QUEUE));
    CHECK(stops(BASE_RANK_QUEUE, BASE_RANK_QUEUE));
}

typedef struct {
    base_mutex lock;
    base_cond changed;
    int turn, n_rounds;
} ping;

static void *pong(void *arg) {
    ping *p = arg;
    base_mutex_lock(&p->lock);
    for (int i = 0; i < p->n_rounds; i++) {
        while (p->turn != 1) base_cond_wait(&p->changed, &p->lock, -1);
        p->turn = 0;
        base_cond_wake(&p->changed);
    }
    base_mutex_unlock(&p->lock);
    return NULL;
}

TEST(conditions_wake_and_time_out) {
    ping p = {.n_rounds = 500};
    pthread_t thread;
    base_mutex_init(&p.lock, BASE_RANK_QUEUE);
    base_cond_init(&p.changed);
    CHECK(pthread_create(&thread, NULL, pong, &p) == 0);
    base_mutex_lock(&p.lock);
    for (int i = 0; i < p.n_rounds; i++) {
        p.turn = 1;
        base_cond_wake(&p.changed);
        while (p.turn != 0) base_cond_wait(&p.changed, &p.lock, -1);
    }
    double start = base_now();
    while (base_cond_wait(&p.changed, &p.lock, 20)) {
    }
    CHECK(base_now() - start >= 0.019);
    base_mutex_unlock(&p.lock);
    pthread_join(thread, NULL);
    base_cond_clear(&p.changed);
    base_mutex_clear(&p.lock);
    CHECK(base_cpu_count() >= 1);
}
