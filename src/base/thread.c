#include "base/thread.h"

#include "base/assert.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Ranks held by this thread, as a bit set: a mutex may be taken only above all of them. */
static _Thread_local unsigned held;

void base_mutex_init(base_mutex *m, base_rank rank) {
    fl_assert(pthread_mutex_init(&m->m, NULL) == 0);
    m->rank = rank;
}

void base_mutex_clear(base_mutex *m) { pthread_mutex_destroy(&m->m); }

void base_mutex_lock(base_mutex *m) {
    fl_assert(held < 1u << m->rank);
    fl_assert(pthread_mutex_lock(&m->m) == 0);
    held |= 1u << m->rank;
}

void base_mutex_unlock(base_mutex *m) {
    held &= ~(1u << m->rank);
    fl_assert(pthread_mutex_unlock(&m->m) == 0);
}

void base_cond_init(base_cond *c) {
    pthread_condattr_t a;
    fl_assert(pthread_condattr_init(&a) == 0);
    fl_assert(pthread_condattr_setclock(&a, CLOCK_MONOTONIC) == 0);
    fl_assert(pthread_cond_init(&c->c, &a) == 0);
    pthread_condattr_destroy(&a);
}

void base_cond_clear(base_cond *c) { pthread_cond_destroy(&c->c); }

bool base_cond_wait(base_cond *c, base_mutex *m, int timeout_ms) {
    int rc;
    held &= ~(1u << m->rank);
    if (timeout_ms < 0) {
        rc = pthread_cond_wait(&c->c, &m->m);
    } else {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        t.tv_sec += timeout_ms / 1000;
        t.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
        if (t.tv_nsec >= 1000000000) {
            t.tv_sec++;
            t.tv_nsec -= 1000000000;
        }
        rc = pthread_cond_timedwait(&c->c, &m->m, &t);
    }
    held |= 1u << m->rank;
    fl_assert(rc == 0 || rc == ETIMEDOUT);
    return rc == 0;
}

void base_cond_wake(base_cond *c) { pthread_cond_broadcast(&c->c); }

void base_futex_wait(atomic_uint *word, unsigned seen) {
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

void base_futex_wake(atomic_uint *word) { (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0); }

/* CPUs of the cgroup's quota, rounded up; 0 when there is none. */
static uint32_t cgroup_cpus(void) {
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!f) return 0;
    long long quota = 0, period = 0;
    int n = fscanf(f, "%lld %lld", &quota, &period); /* "max 100000" gives n == 0 */
    fclose(f);
    return n == 2 && quota > 0 && period > 0 ? (uint32_t)((quota + period - 1) / period) : 0;
}

uint32_t base_cpu_count(void) {
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t cpus = n < 1 ? 1 : (uint32_t)n, quota = cgroup_cpus();
    return quota && quota < cpus ? quota : cpus;
}

double base_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
