#include "dev/cpu/kernels.h"

static bool always(void) { return true; }

static const cpu_kernels ref = {"scalar", always, &cpu_ref_matmul, &cpu_ref_row, &cpu_ref_attn};

#if defined(__x86_64__)
#include <cpuid.h>

static bool has_avx2(void) {
    unsigned a, b, c, d; /* clang 14 does not know the name "f16c" */
    const bool f16c = __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
    __builtin_cpu_init();
    return f16c && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static const cpu_kernels avx2 = {"avx2", has_avx2, &cpu_avx2_matmul, &cpu_avx2_row, &cpu_avx2_attn};
#endif

static const cpu_kernels *const all[] = {
#if defined(__x86_64__)
    &avx2,
#endif
    &ref,
};

const cpu_kernels *const *cpu_kernels_all(uint32_t *n) {
    *n = sizeof all / sizeof all[0];
    return all;
}
