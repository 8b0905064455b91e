/* dev/cpu/pool.h - a team of threads that runs one function together, with barriers in between.
 *
 * The caller is thread 0 of its own team. Work is cut statically by the functions, so
 * results do not depend on timing. A waiting thread spins for about 50 us and then
 * sleeps on a futex; when there are more threads than CPUs it sleeps at once, since
 * spinning would only keep the others from running.
 *
 * A team with a thread for each CPU is pinned, the caller only while it runs. Two such teams then share each CPU
 * evenly instead of waiting for one another's wandering threads (docs/PERF.md).
 *
 * Every computing thread, the caller's included, runs with FTZ, DAZ and round-to-nearest
 * (docs/numerics.md); the caller's state is restored afterwards.
 *
 * Memory: opened once; running allocates nothing.
 */
#ifndef DEV_CPU_POOL_H
#define DEV_CPU_POOL_H

#include "fl_err.h"

#include <stdint.h>

typedef struct cpu_pool cpu_pool;

enum { CPU_THREADS_MAX = 512 };

/* n_threads 0: as many as the process may use. Errors: FL_EINVAL beyond CPU_THREADS_MAX, FL_ENOMEM, FL_EIO. */
FL_CHECKED fl_status cpu_pool_open(cpu_pool **out, uint32_t n_threads, fl_err *err);
void cpu_pool_close(cpu_pool *p);
uint32_t cpu_pool_threads(const cpu_pool *p);

/* Runs fn(arg, thread, n_threads) on all threads; returns when all have returned. */
void cpu_pool_run(cpu_pool *p, void (*fn)(void *arg, uint32_t thread, uint32_t n_threads), void *arg);

/* Inside fn: returns when every thread of the team has called it. */
void cpu_pool_barrier(cpu_pool *p);

/* The part [*begin, *end) of n items that belongs to a thread. */
static inline void cpu_pool_part(uint32_t n, uint32_t thread, uint32_t n_threads, uint32_t *begin, uint32_t *end) {
    *begin = (uint32_t)((uint64_t)n * thread / n_threads);
    *end = (uint32_t)((uint64_t)n * (thread + 1) / n_threads);
}

#endif
