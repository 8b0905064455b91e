/* tensor/grids.h - the codebooks of GGUF's IQ1, IQ2 and IQ3 types.
 *
 * An entry of 16 bits is a point of the grid. IQ1, IQ2: 8 coordinates of 2 bits, the first
 * in the lowest bits, which stand for -1, 0, 1 (IQ1) or 8, 25, 43 (IQ2). IQ3: 4 coordinates
 * of 4 bits, which stand for 4, 12, 20, 28, 36, 44, 52, 62 (XXS) or 1, 3, .., 15 (S).
 */
#ifndef TENSOR_GRIDS_H
#define TENSOR_GRIDS_H

#include <stdint.h>

extern const uint16_t grid_iq1[2048];
extern const uint16_t grid_iq2_xxs[256], grid_iq2_xs[512], grid_iq2_s[1024];
extern const uint16_t grid_iq3_xxs[256], grid_iq3_s[512];

#endif
