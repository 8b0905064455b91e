#include "dev/cpu/kernels.h"

static bool always(void) { return true; }

static const cpu_kernels ref = {"scalar", always, &cpu_ref_matmul, &cpu_ref_row, &cpu_ref_attn};

#if defined(__x86_64__)
static bool has_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
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
