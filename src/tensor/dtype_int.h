/* tensor/dtype_int.h - what the files of the types share: dtype.c has the table, dtype_group.c the integer forms. */
#ifndef TENSOR_DTYPE_INT_H
#define TENSOR_DTYPE_INT_H

#include "tensor/dtype.h"

typedef void dtype_group_get(const uint8_t *block, uint32_t t, dtype_group *g);

dtype_group_get dtype_group_q4_0, dtype_group_q4_1, dtype_group_q5_0, dtype_group_q5_1, dtype_group_q8_0;
dtype_group_get dtype_group_q2_k, dtype_group_q3_k, dtype_group_q4_k, dtype_group_q5_k, dtype_group_q6_k;
dtype_group_get dtype_group_iq4_nl, dtype_group_iq4_xs, dtype_group_mxfp4, dtype_group_tq1_0, dtype_group_tq2_0;
dtype_group_get dtype_group_iq2_xxs, dtype_group_iq2_xs, dtype_group_iq2_s, dtype_group_iq3_xxs, dtype_group_iq3_s;
dtype_group_get dtype_group_iq1_s, dtype_group_iq1_m, dtype_group_q1_0;

/* Values of codes: see dtype_info.book. */
extern const int8_t dtype_book_small[16], dtype_book_iq4[16], dtype_book_fp4[16];
extern const int8_t dtype_book_iq1[16], dtype_book_iq2[16], dtype_book_iq3_xxs[16], dtype_book_iq3_s[16];

#endif
