/* Shapes of published models: each makes a graph of about as many parameters as its name says; random weights of each type
 * have about the standard deviation they should. */
#include "graph/plan.h"
#include "graph/weight.h"
#include "model/model.h"
#include "model/shape.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double parameters(const graph *g) {
    double n = 0;
    for (uint32_t i = 0; i < g->n_weights; i++) n += (double)graph_weight_rows(&g->weights[i]) * g->weights[i].k;
    return n;
}

/* Published totals, in billions. */
static const struct {
    const char *name;
    double billions;
} sizes[] = {{"smollm2-135m", 0.1345},    {"llama-3.2-1b", 1.236}, {"llama-3.2-3b", 3.213}, {"llama-3.1-8b", 8.030},
             {"llama-3.3-70b", 70.55},    {"qwen3-0.6b", 0.596},   {"qwen3-4b", 4.022},     {"qwen3-8b", 8.191},
             {"qwen3-30b-a3b", 30.53},    {"mixtral-8x7b", 46.70}, {"gpt-oss-20b", 20.91},  {"gpt-oss-120b", 116.8},
             {"deepseek-v2-lite", 15.71}, {"deepseek-v3", 671.0},  {"llama-4-scout", 107.8}};
enum { N_SIZES = sizeof sizes / sizeof sizes[0] };

TEST(shapes_have_their_sizes) {
    size_t listed = 1;
    for (const char *c = model_shape_names(); *c; c++) listed += *c == ',';
    CHECK(listed == N_SIZES);
    for (size_t i = 0; i < N_SIZES; i++) {
        model_source *s;
        static model_config c;
        graph *g;
        graph_plan *p;
        fl_err err = {0};
        CHECK(strstr(model_shape_names(), sizes[i].name));
        CHECK(model_source_open_shape(&s, model_shape_find(sizes[i].name), model_shape_type("q4_0"), &err) == FL_OK);
        CHECKF(model_configure(&c, s, &err) == FL_OK, "%s: %s", sizes[i].name, err.msg);
        CHECKF(model_build(&g, &c, s, 4096, COMPUTE_AUTO, &err) == FL_OK, "%s: %s", sizes[i].name, err.msg);
        double n = parameters(g) / 1e9;
        CHECKF(fabs(n / sizes[i].billions - 1) < 0.005, "%s has %g billion parameters, not %g", sizes[i].name, n,
               sizes[i].billions);
        CHECK(graph_plan_open(&p, g, (graph_ranges){512, 8, 8}, 2, &err) == FL_OK);
        graph_plan_close(p);
        graph_close(g);
        model_source_close(s);
    }
    CHECK(!model_shape_find("qwen3") && !model_shape_type("q9_9") && !model_shape_type("IQ1_S"));
}

TEST(random_weights) {
    static const char *const names[] = {"f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q6_k", "mxfp4"};
    enum { N = 40, K = 512 };
    static float x[N * K];
    for (int i = 0; i < 8; i++) {
        const dtype_info *t = model_shape_type(names[i]);
        const size_t row = dtype_row_bytes(t->type, K);
        uint8_t *all = malloc(N * row), *again = malloc(N * row);
        if (!all || !again) abort();
        graph_weight w = {
            .name = "w", .type = t->type, .n = N / 2, .n_stack = 2, .k = K, .layout = &graph_layout_random};
        graph_weight_read(&w, 0, N, all);
        for (uint32_t r = 0; r < N; r += 8) graph_weight_read(&w, r, 8, again + r * row);
        CHECK(memcmp(all, again, N * row) == 0);
        double sum = 0, squares = 0;
        for (uint32_t r = 0; r < N; r++) t->decode(all + r * row, x + r * K, K);
        for (uint32_t k = 0; k < N * K; k++) sum += (double)x[k], squares += (double)x[k] * (double)x[k];
        double deviation = sqrt(squares / (N * K)), wanted = 1 / sqrt(K);
        CHECKF(deviation > 0.6 * wanted && deviation < 1.6 * wanted && fabs(sum / (N * K)) < 0.3 * wanted,
               "%s: deviation %g, mean %g, wanted %g", names[i], deviation, sum / (N * K), wanted);
        w.name = "other";
        graph_weight_read(&w, 0, N, again);
        CHECK(memcmp(all, again, N * row) != 0);
        free(all);
        free(again);
    }
}
