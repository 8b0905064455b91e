/* dev/cpu/x86/amx_tile.h - tiles for the bf16 products: tdpbf16ps on 16 x 32 by 32 x 16.
 *
 *     tiles 0-3   C: fp32 sums, `rows` rows of 16
 *     tiles 4, 5  B: 16 pairs of k by 16 columns
 *     tiles 6, 7  A: `rows` rows of 32 k
 * A kernel configures the tiles when it begins and releases them when it ends: none keeps state in between, and a thread
 * that computes nothing has no tile data to save. Fewer rows do not make a product faster, only loads and stores.
 */
#ifndef DEV_CPU_X86_AMX_TILE_H
#define DEV_CPU_X86_AMX_TILE_H

#include <immintrin.h>
#include <stdint.h>

/* The instruction's operand, 64 bytes. */
typedef struct {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} amx_config;

static inline void amx_begin(uint32_t rows) {
    amx_config c = {.palette = 1};
    for (int i = 0; i < 8; i++) {
        c.row_bytes[i] = 64;
        c.rows[i] = (uint8_t)(i == 4 || i == 5 ? 16 : rows);
    }
    _tile_loadconfig(&c);
}

static inline void amx_end(void) { _tile_release(); }

/* Tile loads are not known to the compiler as reads: what they read must be stored before. */
static inline void amx_stored(void) { __asm__ volatile("" ::: "memory"); }

#endif
