#include "sample/sample.h"

#include "base/assert.h"
#include "tensor/vmath_scalar.h"

#include <string.h>

enum { CHUNK = 1024, LANES = 16 };

/* Gumbel noise -log(-log1p(-v)) is largest at the smallest v, 2^-33. */
#define NOISE_MAX 22.9f

void sample_philox(uint64_t key, const uint32_t counter[4], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)c0 * 0xD2511F53u, b = (uint64_t)c2 * 0xCD9E8D57u;
        uint32_t n0 = (uint32_t)(b >> 32) ^ c1 ^ k0, n2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)b;
        c3 = (uint32_t)a;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

/* Four arrays of n_vocab: scaled logits, candidate ids, a copy for selecting, logits before penalties. */
size_t sample_scratch_bytes(uint32_t n_vocab) { return (size_t)n_vocab * 4 * sizeof(float); }

bool sample_needs_history(const sample_params *s) {
    return s->repetition_penalty != 1 || s->frequency_penalty != 0 || s->presence_penalty != 0;
}

/* Whether a stands before b: larger, or equal with the lower id. */
static bool before(const float *x, uint32_t a, uint32_t b) { return x[a] > x[b] || (x[a] == x[b] && a < b); }

/* The n_top best of the row, best first: insertion into a short sorted list. */
static void find_top(const sample_params *s, const float *logits, uint32_t n_vocab, float lse, sample_result *out) {
    uint32_t best[SAMPLE_TOP_MAX], n = 0, want = s->n_top < n_vocab ? s->n_top : n_vocab;
    for (uint32_t id = 0; id < n_vocab; id++) {
        if (n == want && (n == 0 || !(logits[id] > logits[best[n - 1]]))) continue;
        uint32_t i = n < want ? n++ : n - 1;
        for (; i > 0 && logits[id] > logits[best[i - 1]]; i--) best[i] = best[i - 1];
        best[i] = id;
    }
    out->n_top = n;
    for (uint32_t i = 0; i < n; i++) out->top[i] = (sample_top){best[i], logits[best[i]] - lse};
}

/* Penalties change the logits in place; raw[i] keeps the value of seen[i]. */
static void penalise(const sample_params *s, float *logits, float *raw) {
    for (uint32_t i = 0; i < s->n_seen; i++) {
        float *l = &logits[s->seen[i].id];
        raw[i] = *l;
        *l = *l > 0 ? *l / s->repetition_penalty : *l * s->repetition_penalty;
        if (s->seen[i].count == 0) continue;
        *l -= s->frequency_penalty * (float)s->seen[i].count;
        *l -= s->presence_penalty;
    }
}

/* The k-th largest (k from 1) of n values, in one pass with a heap of the k largest so far, smallest first. */
static float kth_largest(const float *x, uint32_t n, uint32_t k, float *heap) {
    uint32_t held = 0;
    for (uint32_t id = 0; id < n; id++) {
        uint32_t i = 0;
        if (held < k) { /* grow: the new value rises from the end */
            for (i = held++; i > 0 && heap[(i - 1) / 2] > x[id]; i = (i - 1) / 2) heap[i] = heap[(i - 1) / 2];
        } else if (x[id] > heap[0]) { /* replace the smallest: the new value sinks from the top */
            for (uint32_t child = 1; child < k; child = 2 * i + 1) {
                if (child + 1 < k && heap[child + 1] < heap[child]) child++;
                if (heap[child] >= x[id]) break;
                heap[i] = heap[child];
                i = child;
            }
        } else {
            continue;
        }
        heap[i] = x[id];
    }
    return heap[0];
}

static void sift_down(uint32_t *heap, uint32_t n, uint32_t i, const float *x) {
    for (;;) {
        uint32_t child = 2 * i + 1;
        if (child >= n) return;
        if (child + 1 < n && before(x, heap[child + 1], heap[child])) child++;
        if (!before(x, heap[child], heap[i])) return;
        uint32_t t = heap[i];
        heap[i] = heap[child];
        heap[child] = t;
        i = child;
    }
}

/* p[i] = exp(x - max) of candidate i; returns their sum: chunks of 1,024 ids, 16 lanes each, chunks added in order. */
static float sum_exp(const sample_row_math *math, const uint32_t *ids, uint32_t n, const float *x, float max,
                     float *p) {
    float total = 0;
    for (uint32_t i = 0; i < n; i++) p[i] = x[ids[i]];
    math->exp_sub(p, p, max, n);
    for (uint32_t i = 0; i < n;) {
        float lane[LANES] = {0};
        uint32_t chunk = ids[i] / CHUNK;
        for (; i < n && ids[i] / CHUNK == chunk; i++) lane[ids[i] % LANES] += p[i];
        for (int step = LANES / 2; step > 0; step /= 2)
            for (int j = 0; j < step; j++) lane[j] += lane[j + step];
        total += lane[0];
    }
    return total;
}

/* Keeps candidates in order (larger first, ties by id) through the first whose running sum reaches p of the whole. */
static uint32_t keep_top_p(const sample_params *s, const sample_row_math *math, uint32_t *ids, uint32_t n,
                           const float *x, float max, float *scratch) {
    float goal = s->top_p * sum_exp(math, ids, n, x, max, scratch), sum = 0;
    for (uint32_t i = n / 2; i-- > 0;) sift_down(ids, n, i, x);
    uint32_t left = n;
    while (left > 0) { /* the heap's top goes to the end of the shrinking heap */
        uint32_t top = ids[0];
        ids[0] = ids[--left];
        ids[left] = top;
        sift_down(ids, left, 0, x);
        sum += vm_exp(x[top] - max);
        if (sum >= goal) break;
    }
    memmove(ids, ids + left, (n - left) * sizeof *ids);
    return n - left;
}

/* 2 to a power not below e^d, d <= 0: a cheap upper bound. */
static float bound_exp(float d) {
    int e = (int)(d * 1.442695f) + 1; /* truncation towards zero, then one more: never too small */
    return e < -120 ? 0x1p-120f : vi_bits((vi)(e + 127) << 23);
}

static float noise(uint32_t r) {
    float v = (float)r * 0x1p-32f + 0x1p-33f;
    if (v > 1 - 0x1p-24f) v = 1 - 0x1p-24f;
    return -vm_log(-vm_log1p(-v));
}

/* The candidate with the largest x + noise. Noise above d needs v < 1 - exp(-exp(-d)) < exp(-d), which the raw number
 * tells without a logarithm for nearly all candidates. */
static uint32_t draw(const sample_params *s, const uint32_t *ids, uint32_t n, const float *x, uint32_t first) {
    uint32_t counter[4] = {first, s->position, s->choice, 0}, r[4], best_id = first;
    sample_philox(s->seed, counter, r);
    float best = x[first] + noise(r[0]);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t id = ids[i];
        float d = x[id] - best; /* noise must reach -d */
        if (id == first || d < -NOISE_MAX) continue;
        counter[0] = id;
        sample_philox(s->seed, counter, r);
        if (d < 0 && (float)r[0] * 0x1p-32f > 1.001f * bound_exp(d)) continue;
        float y = x[id] + noise(r[0]);
        if (y > best || (y == best && id < best_id)) {
            best = y;
            best_id = id;
        }
    }
    return best_id;
}

/* Fills x with scaled logits of the candidates and ids with the candidates, rising. min_p, top_k: each keeps all values
 * from a bound on, so one pass with the higher bound does for both; ties with the k-th stay. */
static uint32_t keep_candidates(const sample_params *s, const float *logits, uint32_t n_vocab, float max, float *x,
                                uint32_t *ids, float *copy) {
    float least = -__builtin_inff();
    if (s->top_k > 0 && s->top_k < n_vocab) least = kth_largest(logits, n_vocab, s->top_k, copy) / s->temperature;
    /* Below this no exp is needed to know that min_p drops it; the margin is far above the error of log. */
    float hopeless = s->min_p > 0 ? max + vm_log(s->min_p) - 0.01f : least;
    uint32_t n = 0;
    for (uint32_t id = 0; id < n_vocab; id++) {
        float v = logits[id] / s->temperature;
        if (v < least || v < hopeless || v == -__builtin_inff()) continue;
        if (s->min_p > 0 && vm_exp(v - max) < s->min_p) continue;
        x[id] = v;
        ids[n++] = id;
    }
    return n;
}

static uint32_t draw_filtered(const sample_params *s, const sample_row_math *math, const float *logits,
                              uint32_t n_vocab, uint32_t top, float *x, uint32_t *ids, float *copy) {
    float max = logits[top] / s->temperature;
    uint32_t n = keep_candidates(s, logits, n_vocab, max, x, ids, copy);
    if (s->top_p < 1) n = keep_top_p(s, math, ids, n, x, max, copy);
    return draw(s, ids, n, x, top);
}

static float raw_logit(const sample_params *s, const float *logits, const float *raw, uint32_t id) {
    for (uint32_t i = 0; i < s->n_seen && sample_needs_history(s); i++)
        if (s->seen[i].id == id) return raw[i];
    return logits[id];
}

void sample_row(const sample_params *s, const sample_row_math *math, float *logits, uint32_t n_vocab, void *scratch,
                sample_result *out) {
    bool finite;
    out->n_top = 0;
    out->logprob = 0;
    out->bad = false;
    uint32_t top = math->argmax(logits, n_vocab, &finite);
    out->token = top;
    if (!finite) {
        out->bad = true;
        return;
    }
    bool scored = s->target != SAMPLE_NO_TARGET;
    float lse = scored || s->logprobs || s->n_top ? math->logsumexp(logits, n_vocab) : 0;
    if (s->n_top) find_top(s, logits, n_vocab, lse, out);
    if (scored) {
        out->token = s->target;
        out->logprob = logits[s->target] - lse;
        return;
    }
    float *x = scratch, *raw = x + 3 * (size_t)n_vocab;
    uint32_t n = s->n_ids && s->n_ids < n_vocab ? s->n_ids : n_vocab;
    if (sample_needs_history(s)) {
        fl_assert(s->n_seen <= n_vocab);
        penalise(s, logits, raw);
    }
    if (sample_needs_history(s) || n < n_vocab) out->token = top = math->argmax(logits, n, &finite);
    if (!finite) {
        out->bad = true;
        return;
    }
    if (s->temperature >= 1e-5f)
        out->token = draw_filtered(s, math, logits, n, top, x, (uint32_t *)scratch + n_vocab, x + 2 * (size_t)n_vocab);
    if (s->logprobs) out->logprob = raw_logit(s, logits, raw, out->token) - lse;
}
