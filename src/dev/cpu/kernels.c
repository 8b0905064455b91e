#include "dev/cpu/kernels.h"

static bool always(void) { return true; }

static const cpu_kernels ref = {"scalar", always, &cpu_ref_matmul, &cpu_ref_matmul, &cpu_ref_row, &cpu_ref_attn};

#if defined(__x86_64__)
static const cpu_kernels avx2 = {"avx2",           cpu_x86_has_avx2, &cpu_avx2_matmul,
                                 &cpu_avx2_matmul, &cpu_avx2_row,    &cpu_avx2_attn};
static const cpu_kernels avx512vnni = {
    .isa = "avx512vnni",
    .supported = cpu_x86_has_avx512vnni,
    .integer = &cpu_avx512vnni_integer,
    .plain = &cpu_avx512_plain,
    .row = &cpu_avx512_row,
    .attn = &cpu_avx512_attn,
};
static const cpu_kernels amx = {
    .isa = "amx",
    .supported = cpu_x86_has_amx,
    .integer = &cpu_amx_integer,
    .plain = &cpu_amx_plain,
    .row = &cpu_avx512_row,
    .attn = &cpu_amx_attn,
};
#endif

static const cpu_kernels *const all[] = {
#if defined(__x86_64__)
    &amx,
    &avx512vnni,
    &avx2,
#endif
    &ref,
};

const cpu_kernels *const *cpu_kernels_all(uint32_t *n) {
    *n = sizeof all / sizeof all[0];
    return all;
}
