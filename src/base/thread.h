/* base/thread.h - ranked mutexes, condition variables, futexes and what the process may use of the machine.
 *
 * A mutex has a rank; a thread that takes a mutex must hold only mutexes of lower rank
 * (asserted), so that no cycle of waiting can form. Nothing calls back under a lock.
 */
#ifndef BASE_THREAD_H
#define BASE_THREAD_H

#include "fl_err.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* Lowest first: a thread may take these in rising order. */
typedef enum { BASE_RANK_STEP = 1, BASE_RANK_QUEUE, BASE_RANK_REQUEST, BASE_RANK_DEVICE } base_rank;

typedef struct {
    pthread_mutex_t m;
    base_rank rank;
} base_mutex;

void base_mutex_init(base_mutex *m, base_rank rank);
void base_mutex_clear(base_mutex *m);
void base_mutex_lock(base_mutex *m);
void base_mutex_unlock(base_mutex *m);

typedef struct {
    pthread_cond_t c;
} base_cond;

void base_cond_init(base_cond *c); /* on the monotonic clock */
void base_cond_clear(base_cond *c);
/* Waits with m held; timeout_ms < 0: for ever. False when the time is over. May wake early. */
bool base_cond_wait(base_cond *c, base_mutex *m, int timeout_ms);
void base_cond_wake(base_cond *c); /* all waiters */

/* Sleeps while *word == seen (may return early), and wakes all sleepers of *word. */
void base_futex_wait(atomic_uint *word, unsigned seen);
void base_futex_wake(atomic_uint *word);

/* CPUs the process may use: its affinity, cut by the cgroup's quota; at least 1. */
uint32_t base_cpu_count(void);

double base_now(void); /* seconds on the monotonic clock */

#endif
