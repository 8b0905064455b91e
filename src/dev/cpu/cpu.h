/* dev/cpu/cpu.h - the CPU back end: a program of groups run in order by a team of threads.
 *
 * Its own words: a *row* of its table says which group it takes and how it runs it
 * (row.h); a *kernel set* holds the inner loops of one instruction set (kernels.h).
 * Steps run in the caller's thread when run() is called, so a ticket is always done.
 */
#ifndef DEV_CPU_CPU_H
#define DEV_CPU_CPU_H

#include "dev/dev.h"

extern const dev_vtable dev_cpu;

#endif
