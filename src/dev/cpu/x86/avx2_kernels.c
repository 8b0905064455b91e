/* dev/cpu/x86/avx2_kernels.c - micro-kernels: 16 rows x C columns x 32 k per turn, AVX2.
 *
 * Inline assembly written by macros, because gcc keeps the 12 accumulators of
 * intrinsics in memory and loses half the speed. ref/ref_matmul.c is the plain form.
 *
 * Registers: ymm0..11 accumulators, two per column (rows 0..7, rows 8..15), ymm12, 13 the
 * weights of a step, ymm14, 15 scratch. Constants are memory operands: loads have ports of
 * their own. The float accumulators live in memory at acc, spills at acc + 384.
 *
 * Integers stay exact although vpmaddubsw (u8 code x s8 q) saturates at 16 bits and
 * vpaddw wraps (|q| <= 127):
 *     pair of products   at most 63 * 127 * 2 = 16,002: no saturation, any format
 *     Q4_1, Q4_K         8 steps: 8 * 2 * 15 * 127 = 30,480 fits 16 bits
 *     Q4_0, Q5_0         8 steps may wrap, but less 8 or 16 times the lane's sum of q (also
 *                        modulo 2^16) it is a sum of 16 products of -16..15 and q:
 *                        at most 16 * 16 * 127 = 32,512, so the wrapped value is right
 *     Q5_1, Q5_K         the same with 16 taken from the codes, and given back when 32 bits hold the sum
 *     Q6_K               likewise per half of 16 k: 8 * 32 * 127 = 32,512; drained twice
 *     Q8_0               widened to 16 bits, vpmaddwd, 32-bit sums
 *     scaled             likewise; code * sub-scale is at most 32 * 127 = 4,064 (IQ4_XS) in size
 * The drain vpmaddwd multiplies by ones, or by the K-quant's sub-scale at no cost. All sums
 * and minimum * sum of q stay below 2^24, so that working on them as floats is exact.
 */
#include "dev/cpu/x86/avx2_matmul.h"

/* A line is a few instructions that belong together. */
/* clang-format off */

/* Constants at [k]: nibble mask, bit 4, bits 4 and 5, int16 ones, the upper halves of dwords. */
#define X8(x) x, x, x, x, x, x, x, x
static const uint32_t constants[5][8] __attribute__((aligned(32))) = {
    {X8(0x0f0f0f0f)}, {X8(0x10101010)}, {X8(0x30303030)}, {X8(0x00010001)}, {X8(0xffff0000)},
};

/* M(c, a, b, ...) for each column c with its accumulators a and b. */
#define COLS_1(M, ...) M(0, 0, 1, __VA_ARGS__)
#define COLS_2(M, ...) COLS_1(M, __VA_ARGS__) M(1, 2, 3, __VA_ARGS__)
#define COLS_3(M, ...) COLS_2(M, __VA_ARGS__) M(2, 4, 5, __VA_ARGS__)
#define COLS_4(M, ...) COLS_3(M, __VA_ARGS__) M(3, 6, 7, __VA_ARGS__)
#define COLS_5(M, ...) COLS_4(M, __VA_ARGS__) M(4, 8, 9, __VA_ARGS__)
#define COLS_6(M, ...) COLS_5(M, __VA_ARGS__) M(5, 10, 11, __VA_ARGS__)

/* Weights of step j into ymm12, 13. */
#define PANEL(j) "vmovdqa 64*" #j "(%[w]), %%ymm12\n\tvmovdqa 64*" #j "+32(%[w]), %%ymm13\n\t"
#define LOW(j)  PANEL(j) MASK
#define HIGH(j)                                                                                                        \
    "vmovdqa 64*" #j "-256(%[w]), %%ymm12\n\tvmovdqa 64*" #j "-224(%[w]), %%ymm13\n\t"                                 \
    "vpsrlw $4, %%ymm12, %%ymm12\n\tvpsrlw $4, %%ymm13, %%ymm13\n\t" MASK
#define MASK "vpand (%[k]), %%ymm12, %%ymm12\n\tvpand (%[k]), %%ymm13, %%ymm13\n\t"
/* ORs the plane at byte `at`, shifted into place and masked, into them. */
#define PLANE(at, mask, shift)                                                                                         \
    "vmovdqa " #at "(%[w]), %%ymm14\n\tvmovdqa " #at "+32(%[w]), %%ymm15\n\t" shift(14) shift(15)                      \
    "vpand " #mask "(%[k]), %%ymm14, %%ymm14\n\tvpand " #mask "(%[k]), %%ymm15, %%ymm15\n\t"                           \
    "vpor %%ymm14, %%ymm12, %%ymm12\n\tvpor %%ymm15, %%ymm13, %%ymm13\n\t"
#define LEFT4(r) "vpsllw $4, %%ymm" #r ", %%ymm" #r "\n\t"
#define LEFT3(r) "vpsllw $3, %%ymm" #r ", %%ymm" #r "\n\t"
#define LEFT2(r) "vpsllw $2, %%ymm" #r ", %%ymm" #r "\n\t"
#define LEFT1(r) "vpsllw $1, %%ymm" #r ", %%ymm" #r "\n\t"
#define STAY(r)  ""
#define RIGHT1(r) "vpsrlw $1, %%ymm" #r ", %%ymm" #r "\n\t"
#define RIGHT2(r) "vpsrlw $2, %%ymm" #r ", %%ymm" #r "\n\t"
#define RIGHT3(r) "vpsrlw $3, %%ymm" #r ", %%ymm" #r "\n\t"

/* Products of step j: the first of a sum, and the following ones. */
#define FIRST(c, a, b, C, j)                                                                                           \
    "vpbroadcastd 4*" #C "*" #j "+4*" #c "(%[x]), %%ymm14\n\t"                                                         \
    "vpmaddubsw %%ymm14, %%ymm12, %%ymm" #a "\n\tvpmaddubsw %%ymm14, %%ymm13, %%ymm" #b "\n\t"
#define NEXT(c, a, b, C, j)                                                                                            \
    "vpbroadcastd 4*" #C "*" #j "+4*" #c "(%[x]), %%ymm14\n\t"                                                         \
    "vpmaddubsw %%ymm14, %%ymm12, %%ymm15\n\tvpmaddubsw %%ymm14, %%ymm13, %%ymm14\n\t"                                 \
    "vpaddw %%ymm15, %%ymm" #a ", %%ymm" #a "\n\tvpaddw %%ymm14, %%ymm" #b ", %%ymm" #b "\n\t"

#define STEPS_PANEL_LOW(C)                                                                                             \
    PANEL(0) COLS_##C(FIRST, C, 0) PANEL(1) COLS_##C(NEXT, C, 1) PANEL(2) COLS_##C(NEXT, C, 2)                         \
    PANEL(3) COLS_##C(NEXT, C, 3)
#define STEPS_PANEL_HIGH(C, FIFTH)                                                                                     \
    PANEL(4) COLS_##C(FIFTH, C, 4) PANEL(5) COLS_##C(NEXT, C, 5) PANEL(6) COLS_##C(NEXT, C, 6)                         \
    PANEL(7) COLS_##C(NEXT, C, 7)
#define STEPS_PANEL(C) STEPS_PANEL_LOW(C) STEPS_PANEL_HIGH(C, NEXT)
#define STEPS_4(C)                                                                                                     \
    LOW(0) COLS_##C(FIRST, C, 0) LOW(1) COLS_##C(NEXT, C, 1) LOW(2) COLS_##C(NEXT, C, 2)                               \
    LOW(3) COLS_##C(NEXT, C, 3) HIGH(4) COLS_##C(NEXT, C, 4) HIGH(5) COLS_##C(NEXT, C, 5)                              \
    HIGH(6) COLS_##C(NEXT, C, 6) HIGH(7) COLS_##C(NEXT, C, 7)
#define STEPS_5(C)                                                                                                     \
    LOW(0) PLANE(256, 32, LEFT4) COLS_##C(FIRST, C, 0) LOW(1) PLANE(256, 32, LEFT3) COLS_##C(NEXT, C, 1)               \
    LOW(2) PLANE(256, 32, LEFT2) COLS_##C(NEXT, C, 2) LOW(3) PLANE(256, 32, LEFT1) COLS_##C(NEXT, C, 3)                \
    HIGH(4) PLANE(256, 32, STAY) COLS_##C(NEXT, C, 4) HIGH(5) PLANE(256, 32, RIGHT1) COLS_##C(NEXT, C, 5)              \
    HIGH(6) PLANE(256, 32, RIGHT2) COLS_##C(NEXT, C, 6) HIGH(7) PLANE(256, 32, RIGHT3) COLS_##C(NEXT, C, 7)
#define STEPS_6_LOW(C)                                                                                                 \
    LOW(0) PLANE(256, 64, LEFT4) COLS_##C(FIRST, C, 0) LOW(1) PLANE(256, 64, LEFT2) COLS_##C(NEXT, C, 1)               \
    LOW(2) PLANE(256, 64, STAY) COLS_##C(NEXT, C, 2) LOW(3) PLANE(256, 64, RIGHT2) COLS_##C(NEXT, C, 3)
#define STEPS_6_HIGH(C)                                                                                                \
    HIGH(4) PLANE(320, 64, LEFT4) COLS_##C(FIRST, C, 4) HIGH(5) PLANE(320, 64, LEFT2) COLS_##C(NEXT, C, 5)             \
    HIGH(6) PLANE(320, 64, STAY) COLS_##C(NEXT, C, 6) HIGH(7) PLANE(320, 64, RIGHT2) COLS_##C(NEXT, C, 7)

/* Drains the 16-bit sums to 32 bits by the weights in ymm12, 13, less the pairs at `at` * C. */
#define OFFSET(c, a, b, C, at)                                                                                         \
    "vpbroadcastd " #at "*" #C "+4*" #c "(%[x]), %%ymm15\n\t"                                                          \
    "vpsubw %%ymm15, %%ymm" #a ", %%ymm" #a "\n\tvpsubw %%ymm15, %%ymm" #b ", %%ymm" #b "\n\t"
#define DRAIN(c, a, b, ...)                                                                                            \
    "vpmaddwd %%ymm12, %%ymm" #a ", %%ymm" #a "\n\tvpmaddwd %%ymm13, %%ymm" #b ", %%ymm" #b "\n\t"
#define SPILL(c, a, b, ...)                                                                                            \
    "vmovdqa %%ymm" #a ", 384+64*" #c "(%[acc])\n\tvmovdqa %%ymm" #b ", 416+64*" #c "(%[acc])\n\t"
#define REFILL(c, a, b, ...)                                                                                           \
    "vpaddd 384+64*" #c "(%[acc]), %%ymm" #a ", %%ymm" #a "\n\t"                                                       \
    "vpaddd 416+64*" #c "(%[acc]), %%ymm" #b ", %%ymm" #b "\n\t"
/* Codes without an offset that need 5 bits: OFFSET has kept the sums within 16 bits, this gives it back. */
#define RETURN(c, a, b, C, at)                                                                                         \
    "vpbroadcastd " #at "*" #C "+4*" #c "(%[x]), %%ymm15\n\tvpmaddwd %%ymm12, %%ymm15, %%ymm14\n\t"                    \
    "vpaddd %%ymm14, %%ymm" #a ", %%ymm" #a "\n\tvpmaddwd %%ymm13, %%ymm15, %%ymm14\n\t"                               \
    "vpaddd %%ymm14, %%ymm" #b ", %%ymm" #b "\n\t"
#define ONES "vmovdqa 96(%[k]), %%ymm12\n\tvmovdqa %%ymm12, %%ymm13\n\t"
#define SUBSCALES(at) "vmovdqa " #at "(%[meta]), %%ymm12\n\tvmovdqa " #at "+32(%[meta]), %%ymm13\n\t"

/* acc = fma((float)isum, dw * dx, acc); ymm15 is left as dx. */
#define SCALE(c, a, b, C)                                                                                              \
    "vbroadcastss 32*" #C "+4*" #c "(%[x]), %%ymm15\n\t"                                                               \
    "vcvtdq2ps %%ymm" #a ", %%ymm" #a "\n\tvcvtdq2ps %%ymm" #b ", %%ymm" #b "\n\t"                                     \
    "vmulps (%[meta]), %%ymm15, %%ymm12\n\tvmulps 32(%[meta]), %%ymm15, %%ymm13\n\t"                                   \
    "vfmadd213ps 64*" #c "(%[acc]), %%ymm12, %%ymm" #a "\n\t"                                                          \
    "vfmadd213ps 64*" #c "+32(%[acc]), %%ymm13, %%ymm" #b "\n\t"
#define STORE(c, a, b)                                                                                                 \
    "vmovaps %%ymm" #a ", 64*" #c "(%[acc])\n\tvmovaps %%ymm" #b ", 64*" #c "+32(%[acc])\n\t"
#define FINISH(c, a, b, C, ...) SCALE(c, a, b, C) STORE(c, a, b)
/* ... then acc = fma(sum, m * dx, acc). */
#define FINISH_MIN(c, a, b, C, ...)                                                                                    \
    SCALE(c, a, b, C)                                                                                                  \
    "vbroadcastss 36*" #C "+4*" #c "(%[x]), %%ymm14\n\t"                                                               \
    "vmulps 64(%[meta]), %%ymm15, %%ymm12\n\tvmulps 96(%[meta]), %%ymm15, %%ymm13\n\t"                                 \
    "vfmadd231ps %%ymm12, %%ymm14, %%ymm" #a "\n\tvfmadd231ps %%ymm13, %%ymm14, %%ymm" #b "\n\t" STORE(c, a, b)
/* ... then acc = fma(min * sum, m * dx, acc). */
#define FINISH_SUBMIN(c, a, b, C, ...)                                                                                 \
    SCALE(c, a, b, C)                                                                                                  \
    "vbroadcastss 36*" #C "+4*" #c "(%[x]), %%ymm14\n\t"                                                               \
    "vmulps 64(%[meta]), %%ymm15, %%ymm12\n\tvmulps 96(%[meta]), %%ymm15, %%ymm13\n\t"                                 \
    "vmulps 192(%[meta]), %%ymm14, %%ymm15\n\tvmulps 224(%[meta]), %%ymm14, %%ymm14\n\t"                               \
    "vfmadd231ps %%ymm12, %%ymm15, %%ymm" #a "\n\tvfmadd231ps %%ymm13, %%ymm14, %%ymm" #b "\n\t" STORE(c, a, b)

/* The direct kernels read fp16 scales (and minima 32 bytes on) where they lie, at byte `at` of the packed group. */
#define SCALE_AT(c, a, b, C, at)                                                                                       \
    "vbroadcastss 32*" #C "+4*" #c "(%[x]), %%ymm15\n\t"                                                               \
    "vcvtdq2ps %%ymm" #a ", %%ymm" #a "\n\tvcvtdq2ps %%ymm" #b ", %%ymm" #b "\n\t"                                     \
    "vcvtph2ps " #at "(%[w]), %%ymm12\n\tvcvtph2ps " #at "+16(%[w]), %%ymm13\n\t"                                      \
    "vmulps %%ymm15, %%ymm12, %%ymm12\n\tvmulps %%ymm15, %%ymm13, %%ymm13\n\t"                                         \
    "vfmadd213ps 64*" #c "(%[acc]), %%ymm12, %%ymm" #a "\n\t"                                                          \
    "vfmadd213ps 64*" #c "+32(%[acc]), %%ymm13, %%ymm" #b "\n\t"
#define FINISH_AT(c, a, b, C, at) SCALE_AT(c, a, b, C, at) STORE(c, a, b)
#define FINISH_MIN_AT(c, a, b, C, at)                                                                                  \
    SCALE_AT(c, a, b, C, at)                                                                                           \
    "vbroadcastss 36*" #C "+4*" #c "(%[x]), %%ymm14\n\t"                                                               \
    "vcvtph2ps " #at "+32(%[w]), %%ymm12\n\tvcvtph2ps " #at "+48(%[w]), %%ymm13\n\t"                                   \
    "vmulps %%ymm15, %%ymm12, %%ymm12\n\tvmulps %%ymm15, %%ymm13, %%ymm13\n\t"                                         \
    "vfmadd231ps %%ymm12, %%ymm14, %%ymm" #a "\n\tvfmadd231ps %%ymm13, %%ymm14, %%ymm" #b "\n\t" STORE(c, a, b)

#define DIRECT_TAIL_0(C)   ONES COLS_##C(OFFSET, C, 40) COLS_##C(DRAIN, C) COLS_##C(FINISH_AT, C, 256)
#define DIRECT_TAIL_5(C)   ONES COLS_##C(OFFSET, C, 44) COLS_##C(DRAIN, C) COLS_##C(FINISH_AT, C, 320)
#define DIRECT_TAIL_5_MIN(C) ONES DRAIN_5(C) COLS_##C(FINISH_MIN_AT, C, 320)
#define DRAIN_5(C)       COLS_##C(OFFSET, C, 44) COLS_##C(DRAIN, C) COLS_##C(RETURN, C, 44)
#define TAIL_5_MIN(C)    ONES DRAIN_5(C) COLS_##C(FINISH_MIN, C)
#define TAIL_5_SUBMIN(C) SUBSCALES(128) DRAIN_5(C) COLS_##C(FINISH_SUBMIN, C)
#define DIRECT_TAIL_MIN(C) ONES COLS_##C(DRAIN, C) COLS_##C(FINISH_MIN_AT, C, 256)
#define TAIL_0(C)        ONES COLS_##C(OFFSET, C, 40) COLS_##C(DRAIN, C) COLS_##C(FINISH, C)
#define TAIL_5(C)        ONES COLS_##C(OFFSET, C, 44) COLS_##C(DRAIN, C) COLS_##C(FINISH, C)
#define TAIL_MIN(C)      ONES COLS_##C(DRAIN, C) COLS_##C(FINISH_MIN, C)
#define TAIL_SUBMIN(C)   SUBSCALES(128) COLS_##C(DRAIN, C) COLS_##C(FINISH_SUBMIN, C)
#define HALF_6(C)        SUBSCALES(64) COLS_##C(OFFSET, C, 48) COLS_##C(DRAIN, C) COLS_##C(SPILL, C)
#define TAIL_6(C)                                                                                                      \
    SUBSCALES(128) COLS_##C(OFFSET, C, 52) COLS_##C(DRAIN, C) COLS_##C(REFILL, C) COLS_##C(FINISH, C)

/* Q8_0: 16 steps of 2 k. */
#define WIDEN(j) "vpmovsxbw 32*" #j "(%[w]), %%ymm12\n\tvpmovsxbw 32*" #j "+16(%[w]), %%ymm13\n\t"
#define FIRST_8(c, a, b, C, j)                                                                                         \
    "vpbroadcastd 56*" #C "+4*" #C "*" #j "+4*" #c "(%[x]), %%ymm14\n\t"                                               \
    "vpmaddwd %%ymm14, %%ymm12, %%ymm" #a "\n\tvpmaddwd %%ymm14, %%ymm13, %%ymm" #b "\n\t"
#define NEXT_8(c, a, b, C, j)                                                                                          \
    "vpbroadcastd 56*" #C "+4*" #C "*" #j "+4*" #c "(%[x]), %%ymm14\n\t"                                               \
    "vpmaddwd %%ymm14, %%ymm12, %%ymm15\n\tvpmaddwd %%ymm14, %%ymm13, %%ymm14\n\t"                                     \
    "vpaddd %%ymm15, %%ymm" #a ", %%ymm" #a "\n\tvpaddd %%ymm14, %%ymm" #b ", %%ymm" #b "\n\t"
#define STEPS_8(C, W)                                                                                                  \
    W(0) COLS_##C(FIRST_8, C, 0) W(1) COLS_##C(NEXT_8, C, 1) W(2) COLS_##C(NEXT_8, C, 2) W(3) COLS_##C(NEXT_8, C, 3)   \
    W(4) COLS_##C(NEXT_8, C, 4) W(5) COLS_##C(NEXT_8, C, 5) W(6) COLS_##C(NEXT_8, C, 6) W(7) COLS_##C(NEXT_8, C, 7)    \
    W(8) COLS_##C(NEXT_8, C, 8) W(9) COLS_##C(NEXT_8, C, 9) W(10) COLS_##C(NEXT_8, C, 10)                              \
    W(11) COLS_##C(NEXT_8, C, 11) W(12) COLS_##C(NEXT_8, C, 12) W(13) COLS_##C(NEXT_8, C, 13)                          \
    W(14) COLS_##C(NEXT_8, C, 14) W(15) COLS_##C(NEXT_8, C, 15)

/* The scaled form: nibbles through the codebook at 192(meta), times their sub-scales. */
#define TIMES(at) "vpmullw " #at "(%[meta]), %%ymm12, %%ymm12\n\tvpmullw " #at "+32(%[meta]), %%ymm13, %%ymm13\n\t"
#define LOOKUP                                                                                                         \
    "vpand (%[k]), %%ymm12, %%ymm12\n\tvmovdqa 192(%[meta]), %%ymm13\n\tvpshufb %%ymm12, %%ymm13, %%ymm12\n\t"         \
    "vextracti128 $1, %%ymm12, %%xmm13\n\tvpmovsxbw %%xmm12, %%ymm12\n\tvpmovsxbw %%xmm13, %%ymm13\n\t"
#define BOOK_LOW(j)   "vmovdqa 32*" #j "(%[w]), %%ymm12\n\t" LOOKUP TIMES(64)
#define BOOK_HIGH(j)  "vmovdqa 32*" #j "-256(%[w]), %%ymm12\n\tvpsrlw $4, %%ymm12, %%ymm12\n\t" LOOKUP TIMES(128)
#define STEPS_BOOK(C)                                                                                                  \
    BOOK_LOW(0) COLS_##C(FIRST_8, C, 0) BOOK_LOW(1) COLS_##C(NEXT_8, C, 1) BOOK_LOW(2) COLS_##C(NEXT_8, C, 2)          \
    BOOK_LOW(3) COLS_##C(NEXT_8, C, 3) BOOK_LOW(4) COLS_##C(NEXT_8, C, 4) BOOK_LOW(5) COLS_##C(NEXT_8, C, 5)           \
    BOOK_LOW(6) COLS_##C(NEXT_8, C, 6) BOOK_LOW(7) COLS_##C(NEXT_8, C, 7) BOOK_HIGH(8) COLS_##C(NEXT_8, C, 8)          \
    BOOK_HIGH(9) COLS_##C(NEXT_8, C, 9) BOOK_HIGH(10) COLS_##C(NEXT_8, C, 10) BOOK_HIGH(11) COLS_##C(NEXT_8, C, 11)    \
    BOOK_HIGH(12) COLS_##C(NEXT_8, C, 12) BOOK_HIGH(13) COLS_##C(NEXT_8, C, 13)                                        \
    BOOK_HIGH(14) COLS_##C(NEXT_8, C, 14) BOOK_HIGH(15) COLS_##C(NEXT_8, C, 15)
/* acc = fma(min0 sum0 + min1 sum1, m * dx, acc) after the codes; the activations hold the sums of the halves 32 times. */
#define ADD_MIN(c, a, C, m, at)                                                                                        \
    "vpbroadcastd 48*" #C "+4*" #c "(%[x]), %%ymm14\n\tvpmaddwd 288+" #at "(%[meta]), %%ymm14, %%ymm14\n\t"            \
    "vpbroadcastd 52*" #C "+4*" #c "(%[x]), %%ymm15\n\tvpmaddwd 352+" #at "(%[meta]), %%ymm15, %%ymm15\n\t"            \
    "vpaddd %%ymm15, %%ymm14, %%ymm14\n\tvpsrad $5, %%ymm14, %%ymm14\n\tvcvtdq2ps %%ymm14, %%ymm14\n\t"               \
    "vfmadd231ps %%ymm" #m ", %%ymm14, %%ymm" #a "\n\t"
#define FINISH_MINS(c, a, b, C, ...)                                                                                   \
    SCALE(c, a, b, C)                                                                                                  \
    "vmulps 224(%[meta]), %%ymm15, %%ymm12\n\tvmulps 256(%[meta]), %%ymm15, %%ymm13\n\t"                               \
    ADD_MIN(c, a, C, 12, 0) ADD_MIN(c, b, C, 13, 32) STORE(c, a, b)

/* The direct kernels ask for lines 4 KiB ahead, across the ends of tiles (a prefetch cannot fault): then one column
 * runs at the speed of memory. Into all levels, because the tile is read again when there are two blocks. */
#define AHEAD(line) "prefetcht0 4096+64*" #line "(%[w])\n\t"
#define AHEAD_288 AHEAD(0) AHEAD(1) AHEAD(2) AHEAD(3) AHEAD(4)
#define AHEAD_352 AHEAD_288 AHEAD(5)
#define AHEAD_416 AHEAD_352 AHEAD(6)
#define AHEAD_544 AHEAD_416 AHEAD(7) AHEAD(8)

#define CLOBBERED                                                                                                      \
    "cc", "memory", "rax", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",    \
    "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
#define KERNEL(name, body, w_bytes, meta_bytes, x_bytes)                                                               \
    static void name(size_t n, const uint8_t *w, const uint8_t *meta, const uint8_t *x, float *acc) {                  \
        __asm__ volatile("1:\n\t" body "add $" #w_bytes ", %[w]\n\tadd $" #meta_bytes ", %[meta]\n\t"                  \
                                "add $" #x_bytes ", %[x]\n\tsub $1, %[n]\n\tjnz 1b\n\tvzeroupper"                      \
                         : [n] "+r"(n), [w] "+r"(w), [meta] "+r"(meta), [x] "+r"(x)                                    \
                         : [acc] "r"(acc), [k] "r"(constants)                                                          \
                         : CLOBBERED);                                                                                 \
    }
#define DIRECT(C)                                                                                                      \
    KERNEL(q4_0_direct_##C, AHEAD_288 STEPS_4(C) DIRECT_TAIL_0(C), 288, 0, 120*C)                                         \
    KERNEL(q4_1_direct_##C, AHEAD_288 STEPS_4(C) DIRECT_TAIL_MIN(C), 320, 0, 120*C)                                         \
    KERNEL(q5_0_direct_##C, AHEAD_352 STEPS_5(C) DIRECT_TAIL_5(C), 352, 0, 120*C)                                            \
    KERNEL(q5_1_direct_##C, AHEAD_352 STEPS_5(C) DIRECT_TAIL_5_MIN(C), 384, 0, 120*C)                                    \
    KERNEL(q5_k_direct_##C, AHEAD_352 STEPS_5(C) TAIL_5_SUBMIN(C), 352, 256, 120*C)                                      \
    KERNEL(q8_0_direct_##C, AHEAD_544 STEPS_8(C, WIDEN) COLS_##C(FINISH_AT, C, 512), 544, 0, 120*C)                           \
    KERNEL(q4_k_direct_##C, AHEAD_288 STEPS_4(C) TAIL_SUBMIN(C), 288, 256, 120*C)                                      \
    KERNEL(q6_k_direct_##C, AHEAD_416 STEPS_6_LOW(C) HALF_6(C) STEPS_6_HIGH(C) TAIL_6(C), 416, 192, 120*C)
#define SCALED_DIRECT(C)                                                                                               \
    KERNEL(scaled_288_direct_##C, AHEAD_288 STEPS_BOOK(C) COLS_##C(FINISH, C), 288, 224, 120*C)                        \
    KERNEL(scaled_352_direct_##C, AHEAD_352 STEPS_BOOK(C) COLS_##C(FINISH, C), 352, 224, 120*C)                        \
    KERNEL(scaled_min_direct_##C, AHEAD_288 STEPS_BOOK(C) COLS_##C(FINISH_MINS, C), 320, 416, 120*C)
SCALED_DIRECT(1) SCALED_DIRECT(2) SCALED_DIRECT(3) SCALED_DIRECT(4) SCALED_DIRECT(5) SCALED_DIRECT(6)
DIRECT(1) DIRECT(2) DIRECT(3) DIRECT(4) DIRECT(5) DIRECT(6)

#define PANELS(C)                                                                                                      \
    KERNEL(q4_0_panel_##C, STEPS_PANEL(C) TAIL_0(C), 512, 64, 120*C)                                                   \
    KERNEL(q4_1_panel_##C, STEPS_PANEL(C) TAIL_MIN(C), 512, 128, 120*C)                                                \
    KERNEL(q5_0_panel_##C, STEPS_PANEL(C) TAIL_5(C), 512, 64, 120*C)                                                   \
    KERNEL(q5_1_panel_##C, STEPS_PANEL(C) TAIL_5_MIN(C), 512, 128, 120*C)                                              \
    KERNEL(q5_k_panel_##C, STEPS_PANEL(C) TAIL_5_SUBMIN(C), 512, 256, 120*C)                                           \
    KERNEL(q8_0_panel_##C, STEPS_8(C, PANEL) COLS_##C(FINISH, C), 1024, 64, 120*C)                                     \
    KERNEL(q4_k_panel_##C, STEPS_PANEL(C) TAIL_SUBMIN(C), 512, 256, 120*C)                                             \
    KERNEL(q6_k_panel_##C, STEPS_PANEL_LOW(C) HALF_6(C) STEPS_PANEL_HIGH(C, FIRST) TAIL_6(C), 512, 192, 120*C)
#define SCALED_PANELS(C)                                                                                               \
    KERNEL(scaled_panel_##C, STEPS_8(C, PANEL) COLS_##C(FINISH, C), 1024, 224, 120*C)                                  \
    KERNEL(scaled_min_panel_##C, STEPS_8(C, PANEL) COLS_##C(FINISH_MINS, C), 1024, 416, 120*C)
SCALED_PANELS(1) SCALED_PANELS(2) SCALED_PANELS(3) SCALED_PANELS(4) SCALED_PANELS(5) SCALED_PANELS(6)
PANELS(1) PANELS(2) PANELS(3) PANELS(4) PANELS(5) PANELS(6)

/* bf16: per block of 32, up to 3 columns at a time with both chains of each in registers (even k in a, b, odd k in
 * d, e), then acc = acc + (even + odd). M(c, i, a, b, d, e, ...) for columns c + i. */
#define SIDE_1(M, c, ...) M(c, 0, 0, 1, 2, 3, __VA_ARGS__)
#define SIDE_2(M, c, ...) SIDE_1(M, c, __VA_ARGS__) M(c, 1, 4, 5, 6, 7, __VA_ARGS__)
#define SIDE_3(M, c, ...) SIDE_2(M, c, __VA_ARGS__) M(c, 2, 8, 9, 10, 11, __VA_ARGS__)
#define CLEAR(c, i, a, b, d, e, ...)                                                                                   \
    "vxorps %%ymm" #a ", %%ymm" #a ", %%ymm" #a "\n\tvxorps %%ymm" #b ", %%ymm" #b ", %%ymm" #b "\n\t"                 \
    "vxorps %%ymm" #d ", %%ymm" #d ", %%ymm" #d "\n\tvxorps %%ymm" #e ", %%ymm" #e ", %%ymm" #e "\n\t"
#define FMA_EVEN(c, i, a, b, d, e, C, j)                                                                               \
    "vbroadcastss 8*" #C "*" #j "+4*" #c "+4*" #i "(%[x]), %%ymm14\n\t"                                                \
    "vfmadd231ps %%ymm14, %%ymm12, %%ymm" #a "\n\tvfmadd231ps %%ymm14, %%ymm13, %%ymm" #b "\n\t"
#define FMA_ODD(c, i, a, b, d, e, C, j)                                                                                \
    "vbroadcastss 8*" #C "*" #j "+4*" #C "+4*" #c "+4*" #i "(%[x]), %%ymm14\n\t"                                       \
    "vfmadd231ps %%ymm14, %%ymm12, %%ymm" #d "\n\tvfmadd231ps %%ymm14, %%ymm13, %%ymm" #e "\n\t"
#define TWO_K(C, c, n, j)                                                                                              \
    PANEL(j) "vpslld $16, %%ymm12, %%ymm12\n\tvpslld $16, %%ymm13, %%ymm13\n\t" SIDE_##n(FMA_EVEN, c, C, j)            \
    "vpand 64*" #j "(%[w]), %%ymm15, %%ymm12\n\tvpand 64*" #j "+32(%[w]), %%ymm15, %%ymm13\n\t"                        \
    SIDE_##n(FMA_ODD, c, C, j)
#define ADD_CHAINS(c, i, a, b, d, e, ...)                                                                              \
    "vaddps %%ymm" #a ", %%ymm" #d ", %%ymm" #a "\n\tvaddps %%ymm" #b ", %%ymm" #e ", %%ymm" #b "\n\t"                 \
    "vaddps 64*" #c "+64*" #i "(%[acc]), %%ymm" #a ", %%ymm" #a "\n\t"                                                 \
    "vaddps 64*" #c "+64*" #i "+32(%[acc]), %%ymm" #b ", %%ymm" #b "\n\t"                                              \
    "vmovaps %%ymm" #a ", 64*" #c "+64*" #i "(%[acc])\n\tvmovaps %%ymm" #b ", 64*" #c "+64*" #i "+32(%[acc])\n\t"
#define SIDE(C, c, n)                                                                                                  \
    SIDE_##n(CLEAR, c, C)                                                                                              \
    "mov $4, %%eax\n\t2:\n\t" TWO_K(C, c, n, 0) TWO_K(C, c, n, 1) TWO_K(C, c, n, 2) TWO_K(C, c, n, 3)                  \
    "add $256, %[w]\n\tadd $32*" #C ", %[x]\n\tsub $1, %%eax\n\tjnz 2b\n\t" SIDE_##n(ADD_CHAINS, c, C)
#define AGAIN(C) "sub $1024, %[w]\n\tsub $128*" #C ", %[x]\n\t"
#define BF16_MASK "vmovdqa 128(%[k]), %%ymm15\n\t"
#define BF16_1 BF16_MASK SIDE(1, 0, 1)
#define BF16_2 BF16_MASK SIDE(2, 0, 2)
#define BF16_3 BF16_MASK SIDE(3, 0, 3)
#define BF16_4 BF16_MASK SIDE(4, 0, 2) AGAIN(4) SIDE(4, 2, 2)
#define BF16_5 BF16_MASK SIDE(5, 0, 3) AGAIN(5) SIDE(5, 3, 2)
#define BF16_6 BF16_MASK SIDE(6, 0, 3) AGAIN(6) SIDE(6, 3, 3)
#define AHEAD_1024 AHEAD_544 AHEAD(9) AHEAD(10) AHEAD(11) AHEAD(12) AHEAD(13) AHEAD(14) AHEAD(15)

/* f32: one k a turn, accumulators in registers throughout. */
#define FMA(c, a, b, ...)                                                                                              \
    "vbroadcastss 4*" #c "(%[x]), %%ymm14\n\t"                                                                         \
    "vfmadd231ps %%ymm14, %%ymm12, %%ymm" #a "\n\tvfmadd231ps %%ymm14, %%ymm13, %%ymm" #b "\n\t"
#define FETCH(c, a, b, ...)                                                                                            \
    "vmovaps 64*" #c "(%[acc]), %%ymm" #a "\n\tvmovaps 64*" #c "+32(%[acc]), %%ymm" #b "\n\t"
#define KEEP(c, a, b, ...) STORE(c, a, b)
#define F32_KERNEL(name, C, ahead)                                                                                     \
    static void name(size_t n, const uint8_t *w, const uint8_t *meta, const uint8_t *x, float *acc) {                  \
        (void)meta;                                                                                                    \
        __asm__ volatile(COLS_##C(FETCH, C) "1:\n\t" ahead PANEL(0) COLS_##C(FMA, C)                                   \
                         "add $64, %[w]\n\tadd $4*" #C ", %[x]\n\tsub $1, %[n]\n\tjnz 1b\n\t"                          \
                         COLS_##C(KEEP, C) "vzeroupper"                                                                \
                         : [n] "+r"(n), [w] "+r"(w), [x] "+r"(x)                                                       \
                         : [acc] "r"(acc)                                                                              \
                         : CLOBBERED);                                                                                 \
    }
#define FLOAT_DIRECT(C)                                                                                                \
    KERNEL(bf16_direct_##C, AHEAD_1024 BF16_##C, 0, 0, 0)                                                              \
    F32_KERNEL(f32_direct_##C, C, AHEAD(0))
#define FLOAT_CACHED(C)                                                                                                \
    KERNEL(bf16_cached_##C, BF16_##C, 0, 0, 0)                                                                         \
    F32_KERNEL(f32_cached_##C, C, "")
FLOAT_DIRECT(1) FLOAT_DIRECT(2) FLOAT_DIRECT(3) FLOAT_DIRECT(4) FLOAT_DIRECT(5) FLOAT_DIRECT(6)
FLOAT_CACHED(1) FLOAT_CACHED(2) FLOAT_CACHED(3) FLOAT_CACHED(4) FLOAT_CACHED(5) FLOAT_CACHED(6)

#define TABLE(name) {name##_1, name##_2, name##_3, name##_4, name##_5, name##_6}
avx2_kernel *const avx2_bf16_direct[AVX2_COLUMNS] = TABLE(bf16_direct);
avx2_kernel *const avx2_bf16_cached[AVX2_COLUMNS]   = TABLE(bf16_cached);
avx2_kernel *const avx2_f32_direct[AVX2_COLUMNS]     = TABLE(f32_direct);
avx2_kernel *const avx2_f32_cached[AVX2_COLUMNS]    = TABLE(f32_cached);
avx2_kernel *const avx2_q4_0_direct[AVX2_COLUMNS] = TABLE(q4_0_direct);
avx2_kernel *const avx2_q4_1_direct[AVX2_COLUMNS] = TABLE(q4_1_direct);
avx2_kernel *const avx2_q5_0_direct[AVX2_COLUMNS] = TABLE(q5_0_direct);
avx2_kernel *const avx2_q8_0_direct[AVX2_COLUMNS] = TABLE(q8_0_direct);
avx2_kernel *const avx2_q4_k_direct[AVX2_COLUMNS] = TABLE(q4_k_direct);
avx2_kernel *const avx2_q6_k_direct[AVX2_COLUMNS] = TABLE(q6_k_direct);
avx2_kernel *const avx2_q4_0_panel[AVX2_COLUMNS]    = TABLE(q4_0_panel);
avx2_kernel *const avx2_q4_1_panel[AVX2_COLUMNS]    = TABLE(q4_1_panel);
avx2_kernel *const avx2_q5_0_panel[AVX2_COLUMNS]    = TABLE(q5_0_panel);
avx2_kernel *const avx2_q8_0_panel[AVX2_COLUMNS]    = TABLE(q8_0_panel);
avx2_kernel *const avx2_q4_k_panel[AVX2_COLUMNS]    = TABLE(q4_k_panel);
avx2_kernel *const avx2_q6_k_panel[AVX2_COLUMNS]    = TABLE(q6_k_panel);
avx2_kernel *const avx2_scaled_288_direct[AVX2_COLUMNS] = TABLE(scaled_288_direct);
avx2_kernel *const avx2_scaled_352_direct[AVX2_COLUMNS] = TABLE(scaled_352_direct);
avx2_kernel *const avx2_scaled_min_direct[AVX2_COLUMNS] = TABLE(scaled_min_direct);
avx2_kernel *const avx2_scaled_panel[AVX2_COLUMNS] = TABLE(scaled_panel);
avx2_kernel *const avx2_scaled_min_panel[AVX2_COLUMNS] = TABLE(scaled_min_panel);
avx2_kernel *const avx2_q5_1_direct[AVX2_COLUMNS] = TABLE(q5_1_direct);
avx2_kernel *const avx2_q5_1_panel[AVX2_COLUMNS] = TABLE(q5_1_panel);
avx2_kernel *const avx2_q5_k_direct[AVX2_COLUMNS] = TABLE(q5_k_direct);
avx2_kernel *const avx2_q5_k_panel[AVX2_COLUMNS] = TABLE(q5_k_panel);
