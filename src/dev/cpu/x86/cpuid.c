/* dev/cpu/x86/cpuid.c - which instruction sets this CPU has and this operating system keeps the registers of.
 *
 * A CPU's flag alone is not enough: wider registers are lost in a task switch unless the system has turned them on in
 * XCR0, and Linux allows tile registers only to processes that ask once (the memory of a thread's saved state grows by
 * 8 KiB). Leave holds for all threads of the process and those made later; asking again is harmless.
 * Sources: Intel SDM volume 1, chapters 13 and 18; Linux Documentation/arch/x86/xstate.rst.
 */
#include "dev/cpu/kernels.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    XCR0_AVX = 1 << 1 | 1 << 2,             /* xmm, ymm */
    XCR0_AVX512 = 1 << 5 | 1 << 6 | 1 << 7, /* masks, upper halves of zmm0..15, zmm16..31 */
    XCR0_TILES = 1 << 17 | 1 << 18,         /* configuration, data */
    ASK_FOR_STATE = 0x1023,
    TILE_STATE = 18, /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILE_DATA */
};

/* Flags of leaves 1 and 7, a71 of its part 1, and XCR0; zeros for what is not there. */
typedef struct {
    unsigned c1, b7, c7, d7, a71, xcr0;
} features;

static features features_get(void) {
    features f = {0};
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d)) return f;
    f.c1 = c;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) f.b7 = b, f.c7 = c, f.d7 = d;
    if (__get_cpuid_count(7, 1, &a, &b, &c, &d)) f.a71 = a;
    if (f.c1 & bit_OSXSAVE) __asm__ volatile("xgetbv" : "=a"(f.xcr0), "=d"(d) : "c"(0));
    return f;
}

static bool has(unsigned flags, unsigned wanted) { return (flags & wanted) == wanted; }

bool cpu_x86_has_avx2(void) {
    const features f = features_get();
    return has(f.c1, bit_AVX | bit_FMA | bit_F16C) && has(f.b7, bit_AVX2) && has(f.xcr0, XCR0_AVX);
}

bool cpu_x86_has_avx512vnni(void) {
    const features f = features_get();
    const unsigned wanted = bit_AVX512F | bit_AVX512DQ | bit_AVX512BW | bit_AVX512VL;
    return cpu_x86_has_avx2() && has(f.b7, wanted) && has(f.c7, bit_AVX512VNNI) && has(f.xcr0, XCR0_AVX512);
}

bool cpu_x86_has_amx(void) {
    const features f = features_get();
    return cpu_x86_has_avx512vnni() && has(f.d7, 1u << 24 | 1u << 25 | 1u << 22) /* tiles, int8, bf16 */
           && has(f.a71, bit_AVX512BF16) && has(f.xcr0, XCR0_TILES) &&
           syscall(SYS_arch_prctl, ASK_FOR_STATE, TILE_STATE) == 0 && cpu_amx_bf16_passes();
}
