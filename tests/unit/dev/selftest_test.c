/* The self-test passes on what this machine has and survives every allocation failing. */
#include "dev/cpu/selftest.h"

#include "base/mem.h"
#include "dev/cpu/kernels.h"
#include "test.h"

#include <string.h>

TEST(every_set_passes) {
    cpu_selftest_result r;
    fl_err err;
    fl_status st;
    uint32_t n = 0;
    for (; cpu_selftest(n, &r, &st, &err); n++) {
        CHECKF(st == FL_OK && r.passed, "%s: %s", r.isa, r.wrong);
        CHECK(!r.supported || r.n_checked > 20);
    }
    CHECK(n > 0 && strcmp(r.isa, "scalar") == 0); /* the last */
}

TEST(without_memory) {
    size_t before = base_mem_bytes();
    uint64_t n = 0;
    do {
        cpu_selftest_result r;
        fl_status st;
        base_mem_fail_at(++n);
        (void)cpu_selftest(0, &r, &st, NULL);
        CHECK(st == FL_OK || st == FL_ENOMEM);
        CHECK(base_mem_bytes() == before);
    } while (base_mem_failed() && n < 1000);
    base_mem_fail_at(0);
    CHECK(n > 3);
}
