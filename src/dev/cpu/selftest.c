#include "dev/cpu/selftest.h"

#include "base/mem.h"
#include "dev/cpu/kernels.h"

#include <stdio.h>
#include <string.h>

enum { K = 256, TOKENS = CPU_FEW_TOKENS + 4, HEAD = 64, CONTEXT = 70, ROWS = 4, WIDTH = 77 };
enum { PAGES = (CONTEXT + CPU_PAGE_TOKENS - 1) / CPU_PAGE_TOKENS };

static uint32_t next(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static void fill(float *x, size_t n, uint32_t *seed) {
    for (size_t i = 0; i < n; i++) x[i] = (float)(int32_t)(next(seed) % 2001) / 500.0f - 2.0f;
}

static void note(cpu_selftest_result *r, const char *what, const char *which, const void *a, const void *b, size_t n) {
    r->n_checked++;
    if (memcmp(a, b, n) == 0) return;
    if (r->passed) snprintf(r->wrong, sizeof r->wrong, "%s %s", what, which);
    r->passed = false;
}

/* ---- products ----- */

/* y [n_tokens][16] of one tile; false without memory. */
static bool product(const cpu_matmul_kernels *m, dtype type, compute c, const uint8_t *rows, const float *x,
                    uint32_t n_tokens, float *y) {
    cpu_weight w = {.type = type, .compute = c, .n = CPU_TILE_ROWS, .k = K, .n_tiles = 1};
    w.tile_bytes = m->tile_bytes(type, c, K);
    cpu_act a = {.compute = c, .k = K, .n_tokens = n_tokens};
    w.data = base_alloc_aligned(w.tile_bytes);
    a.data = base_alloc_aligned(m->act_bytes(c, K, n_tokens));
    void *panel = n_tokens > CPU_FEW_TOKENS && w.data ? base_alloc_aligned(m->panel_bytes(&w) + 64) : NULL;
    bool ok = w.data && a.data && (panel || n_tokens <= CPU_FEW_TOKENS);
    if (ok) {
        m->weight_pack(&w, 0, CPU_TILE_ROWS, rows);
        for (uint32_t t = 0; t < n_tokens; t++) (void)m->act_put(&a, t, x + (size_t)t * K);
        m->act_pad(&a);
        if (panel) m->panel(&w, 0, panel);
        m->product(&w, 0, panel, &a, 0, n_tokens, y, CPU_TILE_ROWS);
    }
    base_free(panel);
    base_free(a.data);
    base_free(w.data);
    return ok;
}

static bool check_products(const cpu_kernels *set, cpu_selftest_result *r) {
    static const compute computes[] = {COMPUTE_Q8, COMPUTE_Q12, COMPUTE_BF16, COMPUTE_F32};
    enum { BYTES = CPU_TILE_ROWS * K * 4 };
    uint32_t seed = 1;
    uint8_t *rows = base_malloc(BYTES);
    float *x = base_malloc(sizeof(float) * TOKENS * K), *y = base_malloc(sizeof(float) * 2 * TOKENS * CPU_TILE_ROWS);
    bool ok = rows && x && y;
    if (ok) fill(x, (size_t)TOKENS * K, &seed);
    /* Of bytes made so, every half, bfloat16 and float is finite and below 1, wherever a type keeps its scales. */
    for (size_t i = 0; ok && i < BYTES; i++) rows[i] = (uint8_t)(next(&seed) & 0x3b);
    size_t n_types;
    const dtype_info *types = dtype_all(&n_types);
    for (size_t i = 0; ok && i < n_types; i++) {
        for (size_t c = 0; ok && c < sizeof computes / sizeof *computes; c++) {
            const cpu_matmul_kernels *m = cpu_kernels_matmul(set, computes[c]);
            bool has = m->tile_bytes(types[i].type, computes[c], K) > 0 &&
                       cpu_ref_matmul.tile_bytes(types[i].type, computes[c], K) > 0;
            for (uint32_t n = 3; ok && has && n <= TOKENS; n += TOKENS - 3) { /* without and with a panel */
                float *mine = y, *wanted = y + (size_t)TOKENS * CPU_TILE_ROWS;
                ok = product(m, types[i].type, computes[c], rows, x, n, mine) &&
                     product(&cpu_ref_matmul, types[i].type, computes[c], rows, x, n, wanted);
                if (ok) note(r, "matmul", types[i].name, mine, wanted, sizeof(float) * n * CPU_TILE_ROWS);
            }
        }
    }
    base_free(rows);
    base_free(x);
    base_free(y);
    return ok;
}

/* ---- rows and attention ----- */

static void check_rows(const cpu_kernels *set, cpu_selftest_result *r) {
    const cpu_row_kernels *k[2] = {set->row, &cpu_ref_row};
    float a[WIDTH], b[WIDTH], w[WIDTH], y[8][2][WIDTH];
    uint32_t seed = 2;
    fill(a, WIDTH, &seed);
    fill(b, WIDTH, &seed);
    fill(w, WIDTH, &seed);
    memset(y, 0, sizeof y);
    for (int i = 0; i < 2; i++) {
        bool finite = false;
        k[i]->rmsnorm(y[0][i], a, w, WIDTH, 1e-5f);
        k[i]->add(y[1][i], a, b, WIDTH);
        k[i]->silu_mul(y[2][i], a, b, WIDTH);
        k[i]->gelu_tanh_mul(y[3][i], a, b, WIDTH);
        k[i]->softcap(y[4][i], a, 30.0f, WIDTH);
        k[i]->rope_table(y[5][i], y[5][i] + WIDTH / 2, 12345, w, WIDTH / 2);
        memcpy(y[6][i], a, sizeof a);
        k[i]->rope(y[6][i], y[5][i], y[5][i] + WIDTH / 2, WIDTH / 2 * 2, true);
        y[7][i][0] = (float)k[i]->argmax(a, WIDTH, &finite);
        y[7][i][1] = k[i]->logsumexp(a, WIDTH);
    }
    static const char *const names[] = {"rmsnorm", "add", "silu", "gelu", "softcap", "rope table", "rope", "argmax"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        note(r, "row", names[i], y[i][0], y[i][1], sizeof y[i][0]);
}

/* out [ROWS][HEAD]; false without memory. */
static bool attend(const cpu_attn_kernels *k, bool f32, float out[ROWS][HEAD]) {
    uint32_t seed = 3, pages[PAGES];
    float q[ROWS][HEAD], key[HEAD], value[HEAD];
    size_t page_bytes = k->kv_bytes(HEAD, HEAD, f32);
    uint8_t *pool = base_alloc_aligned(PAGES * page_bytes);
    void *scratch = base_alloc_aligned(k->attn_scratch(HEAD, HEAD));
    bool ok = pool && scratch;
    for (uint32_t i = 0; i < PAGES; i++) pages[i] = PAGES - 1 - i;
    for (uint32_t i = 0; ok && i < CONTEXT; i++) {
        fill(key, HEAD, &seed);
        fill(value, HEAD, &seed);
        k->kv_write(pool + pages[i / CPU_PAGE_TOKENS] * page_bytes, i % CPU_PAGE_TOKENS, key, value, HEAD, HEAD, f32);
    }
    cpu_attn a = {.n_rows = ROWS, .d_k = HEAD, .d_v = HEAD, .f32 = f32, .scale = 0.125f};
    a.pool = pool;
    a.pages = pages;
    a.page_bytes = page_bytes;
    for (uint32_t i = 0; i < ROWS; i++) {
        fill(q[i], HEAD, &seed);
        a.q[i] = q[i];
        a.out[i] = out[i];
        a.last[i] = CONTEXT - 1 - i;
    }
    if (ok) k->attn(&a, scratch);
    base_free(pool);
    base_free(scratch);
    return ok;
}

static bool check_attention(const cpu_kernels *set, cpu_selftest_result *r) {
    float mine[ROWS][HEAD], wanted[ROWS][HEAD];
    for (int f32 = 0; f32 < 2; f32++) {
        if (!attend(set->attn, f32, mine) || !attend(&cpu_ref_attn, f32, wanted)) return false;
        note(r, "attention", f32 ? "f32" : "bf16", mine, wanted, sizeof mine);
    }
    return true;
}

bool cpu_selftest(uint32_t index, cpu_selftest_result *out, fl_status *st, fl_err *err) {
    uint32_t n;
    const cpu_kernels *const *all = cpu_kernels_all(&n);
    *st = FL_OK;
    if (index >= n) return false;
    const cpu_kernels *set = all[index];
    *out = (cpu_selftest_result){.isa = set->isa, .supported = set->supported(), .passed = true};
    if (!out->supported) return true;
    check_rows(set, out);
    if (!check_products(set, out) || !check_attention(set, out))
        *st = fl_fail(err, FL_ENOMEM, "no memory for the self-test of %s", set->isa);
    return true;
}
