/* Rows of weights that do not lie as one block: read in any pieces, they are what the layout says. */
#include "graph/weight.h"
#include "test.h"

#include <string.h>

enum { STACK = 3, N = 7, K = 32 };

/* All rows at once, and in pieces of every size. */
static void check(const graph_weight *w, const uint8_t *want) {
    const size_t row = dtype_row_bytes(w->type, w->k);
    static uint8_t got[STACK * N * K * 4];
    const uint32_t all = graph_weight_rows(w);
    for (uint32_t piece = 1; piece <= all; piece++) {
        memset(got, 0, sizeof got);
        for (uint32_t at = 0; at < all; at += piece)
            graph_weight_read(w, at, all - at < piece ? all - at : piece, got + at * row);
        CHECKF(memcmp(got, want, all * row) == 0, "in pieces of %u", piece);
    }
}

/* Gate of interleaved columns [stack, k, 2 n] as [stack, n, k], for elements of two and four bytes. */
TEST(strides) {
    static float all[STACK * K * 2 * N], want[STACK * N * K];
    static uint16_t half[STACK * K * 2 * N], want_half[STACK * N * K];
    for (uint32_t i = 0; i < STACK * K * 2 * N; i++) all[i] = (float)i, half[i] = (uint16_t)i;
    for (uint32_t first = 0; first < 2; first++) {
        for (uint32_t s = 0; s < STACK; s++)
            for (uint32_t n = 0; n < N; n++)
                for (uint32_t k = 0; k < K; k++) {
                    want[(s * N + n) * K + k] = all[(s * K + k) * 2 * N + 2 * n + first];
                    want_half[(s * N + n) * K + k] = half[(s * K + k) * 2 * N + 2 * n + first];
                }
        graph_layout l = {GRAPH_LAYOUT_STRIDES, NULL, first, K * 2 * N, 2, 2 * N, NULL};
        graph_weight w = {.type = DTYPE_F32, .n = N, .k = K, .n_stack = STACK, .data = all, .layout = &l};
        check(&w, (const uint8_t *)want);
        w.type = DTYPE_BF16;
        w.data = half;
        check(&w, (const uint8_t *)want_half);
    }
}

TEST(parts) {
    static uint8_t data[STACK][N * K * 2], want[STACK * N * K * 2];
    const uint8_t *parts[STACK];
    for (uint32_t s = 0; s < STACK; s++) {
        parts[s] = data[STACK - 1 - s];
        for (uint32_t i = 0; i < sizeof data[0]; i++) data[STACK - 1 - s][i] = (uint8_t)(i * 7 + s);
        memcpy(want + s * sizeof data[0], parts[s], sizeof data[0]);
    }
    graph_layout l = {.kind = GRAPH_LAYOUT_PARTS, .parts = parts};
    check(&(graph_weight){.type = DTYPE_BF16, .n = N, .k = K, .n_stack = STACK, .layout = &l}, want);
}

/* Published codes decode as table[code] * 2^(scale - 127), the even one of a byte low; read rows decode to the same. */
TEST(mxfp4_in_two_tensors) {
    static const float table[16] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6, -0.0f, -0.5f, -1, -1.5f, -2, -3, -4, -6};
    enum { WIDE = 96, ROWS = 2 * N };
    static uint8_t codes[STACK * ROWS * WIDE / 2], scales[STACK * ROWS * WIDE / 32], rows[STACK * N * WIDE / 32 * 17];
    uint64_t seed = 3;
    for (size_t i = 0; i < sizeof codes; i++) codes[i] = (uint8_t)test_random_below(&seed, 256);
    for (size_t i = 0; i < sizeof scales; i++) scales[i] = (uint8_t)(120 + test_random_below(&seed, 12));
    graph_layout l = {GRAPH_LAYOUT_MXFP4, NULL, 1, ROWS, 2, 0, scales};
    graph_weight w = {.type = DTYPE_MXFP4, .n = N, .k = WIDE, .n_stack = STACK, .data = codes, .layout = &l};
    graph_weight_read(&w, 0, STACK * N, rows);
    for (uint32_t r = 0; r < STACK * N; r++) {
        float got[WIDE];
        const uint32_t from = r / N * ROWS + 1 + 2 * (r % N);
        dtype_find(DTYPE_MXFP4)->decode(rows + r * dtype_row_bytes(DTYPE_MXFP4, WIDE), got, WIDE);
        for (uint32_t k = 0; k < WIDE; k++) {
            const uint8_t byte = codes[from * WIDE / 2 + k / 2], scale = scales[from * WIDE / 32 + k / 32];
            float want = table[k % 2 ? byte >> 4 : byte & 15];
            for (int e = 127; e < scale; e++) want *= 2;
            for (int e = scale; e < 127; e++) want /= 2;
            CHECK(got[k] == want);
        }
    }
}
