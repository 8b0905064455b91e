#include "dev/cpu/pool.h"

#include "base/assert.h"
#include "base/mem.h"
#include "base/thread.h"

#include <sched.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { SPIN_ROUNDS = 1500 }; /* about 50 us of pause instructions */

/* A counter that others wait on to move: each on its own cache line. */
typedef struct {
    _Alignas(64) atomic_uint word;
} line;

typedef struct {
    cpu_pool *pool;
    uint32_t index;
    pthread_t thread;
} member;

struct cpu_pool {
    line job;     /* rises with each run; workers wait on it */
    line arrived; /* threads at the current barrier */
    line passed;  /* rises when a barrier opens */
    atomic_uint job_sleepers, barrier_sleepers;
    uint32_t n_threads, n_started;
    uint32_t spin_rounds;
    bool quit;
    bool pinned; /* as many threads as CPUs: thread i runs on cpus[i] */
    size_t cpus[CPU_THREADS_MAX];
    void (*fn)(void *arg, uint32_t thread, uint32_t n_threads);
    void *arg;
    member members[CPU_THREADS_MAX];
};

#if defined(__x86_64__)
/* MXCSR: flush to zero, denormals are zero, round to nearest, exceptions masked. */
static unsigned fp_enter(void) {
    unsigned old = _mm_getcsr();
    _mm_setcsr(0x9fc0);
    return old;
}
static void fp_leave(unsigned old) { _mm_setcsr(old); }
static void pause_cpu(void) { _mm_pause(); }
#elif defined(__aarch64__)
static unsigned fp_enter(void) {
    uint64_t old;
    __asm__ volatile("mrs %0, fpcr" : "=r"(old));
    __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)1 << 24));
    return (unsigned)old;
}
static void fp_leave(unsigned old) { __asm__ volatile("msr fpcr, %0" ::"r"((uint64_t)old)); }
static void pause_cpu(void) { __asm__ volatile("yield"); }
#else
#error "the computing threads need flush-to-zero on this architecture"
#endif

static void wait_for_change(atomic_uint *word, unsigned seen, atomic_uint *sleepers, uint32_t spin_rounds) {
    for (uint32_t i = 0; i < spin_rounds; i++) {
        if (atomic_load_explicit(word, memory_order_acquire) != seen) return;
        pause_cpu();
    }
    atomic_fetch_add(sleepers, 1);
    while (atomic_load(word) == seen) base_futex_wait(word, seen);
    atomic_fetch_sub(sleepers, 1);
}

static void change(atomic_uint *word, atomic_uint *sleepers) {
    atomic_fetch_add(word, 1);
    if (atomic_load(sleepers)) base_futex_wake(word);
}

void cpu_pool_barrier(cpu_pool *p) {
    if (p->n_threads == 1) return;
    unsigned seen = atomic_load_explicit(&p->passed.word, memory_order_relaxed);
    if (atomic_fetch_add(&p->arrived.word, 1) + 1 == p->n_threads) {
        atomic_store_explicit(&p->arrived.word, 0, memory_order_relaxed);
        change(&p->passed.word, &p->barrier_sleepers);
    } else {
        wait_for_change(&p->passed.word, seen, &p->barrier_sleepers, p->spin_rounds);
    }
}

/* Which CPUs the team runs on, when it has one thread for each. A smaller team is left to the system, or two of them would
 * meet on the first CPUs while the others idle. */
static void choose_cpus(cpu_pool *p) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0 || (uint32_t)CPU_COUNT(&set) != p->n_threads || p->n_threads == 1)
        return;
    for (uint32_t cpu = 0, i = 0; cpu < CPU_SETSIZE && i < p->n_threads; cpu++)
        if (CPU_ISSET(cpu, &set)) p->cpus[i++] = cpu;
    p->pinned = true;
}

/* Moves the calling thread to the CPU of thread i; only a matter of speed, so a refusal is no error. */
static void pin(const cpu_pool *p, uint32_t i) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(p->cpus[i], &set);
    (void)sched_setaffinity(0, sizeof set, &set);
}

static void *worker(void *arg) {
    member *m = arg;
    cpu_pool *p = m->pool;
    if (p->pinned) pin(p, m->index);
    (void)fp_enter();
    for (unsigned seen = 0;; seen++) {
        wait_for_change(&p->job.word, seen, &p->job_sleepers, p->spin_rounds);
        if (p->quit) return NULL;
        p->fn(p->arg, m->index, p->n_threads);
        cpu_pool_barrier(p);
    }
}

void cpu_pool_run(cpu_pool *p, void (*fn)(void *, uint32_t, uint32_t), void *arg) {
    cpu_set_t callers;
    bool pinned = p->pinned && sched_getaffinity(0, sizeof callers, &callers) == 0;
    if (pinned) pin(p, 0);
    unsigned old = fp_enter();
    p->fn = fn;
    p->arg = arg;
    if (p->n_threads > 1) change(&p->job.word, &p->job_sleepers);
    fn(arg, 0, p->n_threads);
    cpu_pool_barrier(p);
    fp_leave(old);
    if (pinned) (void)sched_setaffinity(0, sizeof callers, &callers);
}

uint32_t cpu_pool_threads(const cpu_pool *p) { return p->n_threads; }

fl_status cpu_pool_open(cpu_pool **out, uint32_t n_threads, fl_err *err) {
    *out = NULL;
    uint32_t cpus = base_cpu_count();
    if (n_threads == 0) n_threads = cpus < CPU_THREADS_MAX ? cpus : CPU_THREADS_MAX;
    if (n_threads > CPU_THREADS_MAX)
        return fl_fail(err, FL_EINVAL,
                       "%u threads were asked for, at most %d are possible; this process may use %u CPUs", n_threads,
                       CPU_THREADS_MAX, cpus);
    cpu_pool *p = base_alloc_aligned(sizeof *p);
    if (!p) return fl_fail(err, FL_ENOMEM, "a pool of %u threads: no memory", n_threads);
    p->n_threads = n_threads;
    choose_cpus(p);
    p->spin_rounds = n_threads <= cpus ? SPIN_ROUNDS : 0;
    for (p->n_started = 1; p->n_started < n_threads; p->n_started++) {
        member *m = &p->members[p->n_started];
        m->pool = p;
        m->index = p->n_started;
        if (pthread_create(&m->thread, NULL, worker, m) != 0) {
            fl_status st = fl_fail(err, FL_EIO, "the system refuses thread %u of %u; ask for fewer threads",
                                   p->n_started + 1, n_threads);
            cpu_pool_close(p);
            return st;
        }
    }
    *out = p;
    return FL_OK;
}

void cpu_pool_close(cpu_pool *p) {
    if (!p) return;
    p->quit = true;
    change(&p->job.word, &p->job_sleepers);
    for (uint32_t i = 1; i < p->n_started; i++) pthread_join(p->members[i].thread, NULL);
    base_free(p);
}
