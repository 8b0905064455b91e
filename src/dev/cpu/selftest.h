/* dev/cpu/selftest.h - a quick look at whether a kernel set computes what the reference does on this very machine.
 *
 * Not a replacement for the tests: one shape of each product, row function and cache type, in a few milliseconds, so that
 * a broken CPU, hypervisor or build is told apart from a broken model.
 */
#ifndef DEV_CPU_SELFTEST_H
#define DEV_CPU_SELFTEST_H

#include "fl_err.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    const char *isa;
    bool supported;     /* this CPU has it */
    bool passed;        /* all bits were the reference's; true for the reference itself */
    uint32_t n_checked; /* comparisons made */
    char wrong[64];     /* the first that differed: "matmul Q4_0" */
} cpu_selftest_result;

/* Sets by index, best first. False when there is no such set. Errors (in *st): FL_ENOMEM. */
bool cpu_selftest(uint32_t index, cpu_selftest_result *out, fl_status *st, fl_err *err);

#endif
