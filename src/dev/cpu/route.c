/* The router: from the logits of one token to its experts and their weights (docs/numerics.md, "Experts").
 *
 * One thread per token, plain loops over at most GRAPH_EXPERTS_MAX numbers; only exp and
 * sigmoid go through the kernel set. Logits that are not numbers choose some experts all the
 * same (the lowest that are left) and give weights that are not numbers, so that the
 * sequence fails as it does for any other op. */
#include "dev/cpu/cpu_int.h"

#include "dev/cpu/ref/ref_num.h"

#include <math.h>
#include <string.h>

/* The index of the largest of x [n] that is still open, the lowest among equals; it is closed. */
static uint32_t take_best(const float *x, uint32_t n, bool *open) {
    uint32_t best = n;
    for (uint32_t i = 0; i < n; i++)
        if (open[i] && (best == n || x[i] > x[best])) best = i;
    open[best] = false;
    return best;
}

static float largest(const float *x, uint32_t n) {
    float m = -INFINITY;
    for (uint32_t i = 0; i < n; i++) m = x[i] > m ? x[i] : m;
    return m;
}

static float sum16(const float *x, uint32_t n) {
    float lane[16] = {0};
    for (uint32_t i = 0; i < n; i++) lane[i % 16] = lane[i % 16] + x[i];
    return ref_sum16(lane);
}

/* The score of a group of n experts: its best, or the sum of its two best. */
static float group_score(const float *key, uint32_t n, bool by_two) {
    float first = -INFINITY, second = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        if (key[i] > first) {
            second = first;
            first = key[i];
        } else if (key[i] > second) {
            second = key[i];
        }
    }
    return by_two && n > 1 ? first + second : first;
}

/* Which experts may be chosen: those of the best groups. */
static void open_groups(const graph_routing *r, const float *key, bool *open) {
    float score[GRAPH_EXPERTS_MAX];
    bool group_open[GRAPH_EXPERTS_MAX];
    uint32_t size = r->n_experts / r->n_groups;
    memset(open, 0, r->n_experts);
    for (uint32_t i = 0; i < r->n_groups; i++) {
        score[i] = group_score(key + (size_t)i * size, size, r->group_by_two);
        group_open[i] = true;
    }
    for (uint32_t i = 0; i < r->n_groups_used; i++)
        memset(open + take_best(score, r->n_groups, group_open) * size, 1, size);
}

/* score [n_experts]: of the experts, before choosing. */
static void scores(const graph_routing *r, const cpu_row_kernels *k, const float *z, float *score) {
    if (r->score == GRAPH_SCORE_SIGMOID) {
        k->sigmoid(score, z, r->n_experts);
    } else if (r->score == GRAPH_SCORE_SOFTMAX) {
        k->exp_sub(score, z, largest(z, r->n_experts), r->n_experts);
        float sum = sum16(score, r->n_experts);
        for (uint32_t i = 0; i < r->n_experts; i++) score[i] = score[i] / sum;
    } else {
        memcpy(score, z, r->n_experts * sizeof *score);
    }
}

/* Softmax over the chosen: w [top_k] logits to weights. */
static void softmax_chosen(const graph_routing *r, const cpu_row_kernels *k, float *w) {
    float sum = 0.0f;
    k->exp_sub(w, w, largest(w, r->top_k), r->top_k);
    for (uint32_t j = 0; j < r->top_k; j++) sum = sum + w[j];
    for (uint32_t j = 0; j < r->top_k; j++) w[j] = w[j] / sum;
}

void cpu_route_row(const graph_routing *r, const cpu_row_kernels *k, const float *logits, const float *bias, float *y) {
    float score[GRAPH_EXPERTS_MAX], biased[GRAPH_EXPERTS_MAX];
    bool open[GRAPH_EXPERTS_MAX], chosen[GRAPH_EXPERTS_MAX] = {false};
    float *w = y + r->top_k;
    scores(r, k, logits, score);
    const float *key = logits; /* without a bias the order of scores is that of logits */
    if (bias) {
        k->add(biased, score, bias, r->n_experts);
        key = biased;
    } else if (r->group_by_two) {
        key = score;
    }
    memset(open, 1, r->n_experts);
    if (r->n_groups > 1) open_groups(r, key, open);
    for (uint32_t j = 0; j < r->top_k; j++) chosen[take_best(key, r->n_experts, open)] = true;
    for (uint32_t i = 0, j = 0; i < r->n_experts; i++) {
        if (!chosen[i]) continue;
        y[j] = (float)i;
        w[j++] = score[i];
    }
    if (r->score == GRAPH_SCORE_CHOSEN) softmax_chosen(r, k, w);
    if (r->renormalise) {
        float sum = 0.0f;
        for (uint32_t j = 0; j < r->top_k; j++) sum = sum + w[j];
        sum = sum + 1e-20f;
        for (uint32_t j = 0; j < r->top_k; j++) w[j] = w[j] / sum;
    }
    if (r->scale != 1.0f) k->scale(w, w, r->scale, r->top_k);
}
