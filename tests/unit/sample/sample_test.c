/* The sampler against its definition: every filter and every draw recomputed in the plainest way.
 *
 * expected_token() sorts all candidates, keeps what the filters keep, evaluates the noise of each kept
 * one and takes the largest, in fp32 as docs/numerics.md says; sample_row() must give the same
 * token. That the definition itself is right is checked against double precision: kept sets up
 * to rounding at their edge, and the frequencies of 200,000 draws by chi-square. */
#include "base/mem.h"
#include "dev/cpu/kernels.h"
#include "sample/sample.h"
#include "tensor/vmath_scalar.h"
#include "test.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { VOCAB_MAX = 5000 };

static const sample_params greedy = {.top_p = 1, .repetition_penalty = 1, .target = SAMPLE_NO_TARGET};
static float logits[VOCAB_MAX], changed[VOCAB_MAX], scratch[4 * VOCAB_MAX];

static sample_row_math row_math(uint32_t set) {
    uint32_t n;
    const cpu_kernels *const *all = cpu_kernels_all(&n);
    const cpu_kernels *k = set < n && all[set]->supported() ? all[set] : all[n - 1];
    return (sample_row_math){k->row->argmax, k->row->logsumexp, k->row->exp_sub};
}

/* Samples a copy of `logits`. */
static sample_result sample(const sample_params *s, uint32_t n_vocab) {
    static uint32_t calls;
    sample_row_math math = row_math(calls++ % 2);
    sample_result out;
    memcpy(changed, logits, n_vocab * sizeof *logits);
    sample_row(s, &math, changed, n_vocab, scratch, &out);
    return out;
}

/* ---- the definition ---- */

typedef struct {
    float x;
    uint32_t id;
} candidate;

static int by_rank(const void *pa, const void *pb) {
    const candidate *a = pa, *b = pb;
    if (a->x != b->x) return a->x > b->x ? -1 : 1;
    return a->id < b->id ? -1 : a->id > b->id;
}

static float noise_of(const sample_params *s, uint32_t id) {
    const uint32_t counter[4] = {id, s->position, s->choice, 0};
    uint32_t r[4];
    sample_philox(s->seed, counter, r);
    float v = (float)r[0] * 0x1p-32f + 0x1p-33f;
    if (v > 1 - 0x1p-24f) v = 1 - 0x1p-24f;
    return -vm_log(-vm_log1p(-v));
}

/* Z of top_p: absolute chunks of 1,024 ids, 16 lanes, halves folded, chunks in order. */
static float mass(const candidate *c, uint32_t n, float max, uint32_t n_vocab) {
    static bool here[VOCAB_MAX];
    static float x[VOCAB_MAX];
    float total = 0;
    memset(here, 0, n_vocab * sizeof *here);
    for (uint32_t i = 0; i < n; i++) {
        here[c[i].id] = true;
        x[c[i].id] = c[i].x;
    }
    for (uint32_t base = 0; base < n_vocab; base += 1024) {
        float lane[16] = {0};
        bool any = false;
        for (uint32_t id = base; id < base + 1024 && id < n_vocab; id++) {
            if (here[id]) lane[id % 16] += vm_exp(x[id] - max);
            any |= here[id];
        }
        for (int half = 8; half > 0; half /= 2)
            for (int j = 0; j < half; j++) lane[j] += lane[j + half];
        if (any) total += lane[0];
    }
    return total;
}

/* The candidates that the filters keep, best first. */
static uint32_t kept(const sample_params *s, const float *row, uint32_t n_vocab, candidate *c) {
    uint32_t n = 0;
    float max = -INFINITY;
    for (uint32_t id = 0; id < n_vocab; id++) max = fmaxf(max, row[id] / s->temperature);
    for (uint32_t id = 0; id < n_vocab; id++) {
        float x = row[id] / s->temperature;
        if (x > -INFINITY && (s->min_p <= 0 || vm_exp(x - max) >= s->min_p)) c[n++] = (candidate){x, id};
    }
    qsort(c, n, sizeof *c, by_rank);
    if (s->top_k && s->top_k < n) {
        uint32_t k = s->top_k;
        while (k < n && c[k].x == c[s->top_k - 1].x) k++;
        n = k;
    }
    if (s->top_p >= 1) return n;
    float goal = s->top_p * mass(c, n, max, n_vocab), sum = 0;
    for (uint32_t i = 0; i < n; i++) {
        sum += vm_exp(c[i].x - max);
        if (sum >= goal) return i + 1;
    }
    return n;
}

static uint32_t expected_token(const sample_params *s, const float *row, uint32_t n_vocab) {
    static candidate c[VOCAB_MAX];
    uint32_t n = kept(s, row, n_vocab, c), best_id = UINT32_MAX;
    float best = -INFINITY;
    for (uint32_t i = 0; i < n; i++) {
        float y = c[i].x + noise_of(s, c[i].id);
        if (y < best || (y == best && c[i].id > best_id)) continue;
        best = y;
        best_id = c[i].id;
    }
    return best_id;
}

/* Rows of several kinds: flat, peaked, with ties, with impossible tokens. */
static void fill_row(uint32_t kind, uint32_t n_vocab, uint64_t *seed) {
    static const float widths[] = {0.01f, 1, 8, 40};
    for (uint32_t i = 0; i < n_vocab; i++) {
        logits[i] = test_random_float(seed) * widths[kind % 4];
        if (kind % 3 == 1) logits[i] = roundf(logits[i]);
        if (kind % 5 == 2 && test_random_below(seed, 3) == 0) logits[i] = -INFINITY;
    }
    if (kind % 4 == 1) logits[test_random_below(seed, n_vocab)] = 15;
    if (kind % 5 == 2) logits[test_random_below(seed, n_vocab)] = 3;
}

static sample_params random_params(uint64_t *seed, uint32_t n_vocab) {
    static const float temperatures[] = {1, 0.7f, 1.5f, 0.05f, 5};
    sample_params s = greedy;
    s.temperature = temperatures[test_random_below(seed, 5)];
    if (test_random_below(seed, 2)) s.top_k = 1 + test_random_below(seed, n_vocab + 3);
    if (test_random_below(seed, 2)) s.top_p = 0.05f + 0.95f * (float)test_random_below(seed, 1000) / 1000;
    if (test_random_below(seed, 3) == 0) s.min_p = (float)(1 + test_random_below(seed, 1000)) / 1000;
    s.seed = (uint64_t)test_random_below(seed, UINT32_MAX) << 32 | test_random_below(seed, UINT32_MAX);
    s.position = test_random_below(seed, 4000);
    s.choice = test_random_below(seed, 3);
    return s;
}

/* ---- tests ---- */

TEST(philox_known_answers) {
    static const struct {
        uint64_t key;
        uint32_t counter[4], want[4];
    } cases[] = {
        {0, {0, 0, 0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {UINT64_MAX,
         {0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {0x299f31d0a4093822,
         {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t out[4];
        sample_philox(cases[i].key, cases[i].counter, out);
        CHECK(memcmp(out, cases[i].want, sizeof out) == 0);
    }
}

TEST(greedy_takes_the_lowest_of_equals) {
    uint64_t seed = 3;
    for (uint32_t n = 1; n < 70; n++)
        for (int i = 0; i < 20; i++) {
            uint32_t best = 0;
            for (uint32_t k = 0; k < n; k++) {
                logits[k] = (float)test_random_below(&seed, 5);
                if (logits[k] > logits[best]) best = k;
            }
            sample_params s = greedy;
            sample_result r = sample(&s, n);
            CHECK(r.token == best && !r.bad && r.n_top == 0 && r.logprob == 0);
            s.temperature = 0.9e-5f; /* below 1e-5 is greedy */
            CHECK(sample(&s, n).token == best);
        }
}

TEST(padding_rows_are_never_drawn) {
    uint64_t seed = 9;
    for (uint32_t i = 0; i < 300; i++) logits[i] = i < 260 ? test_random_float(&seed) : 50.0f;
    for (uint32_t i = 0; i < 50; i++) {
        sample_params s = greedy;
        s.n_ids = 260;
        s.n_top = 1;
        s.temperature = i ? 1.0f : 0;
        s.position = i;
        sample_result r = sample(&s, 300);
        CHECKF(r.token < 260, "%u was drawn", r.token);
        CHECK(r.top[0].id == 260); /* what the model says is still told */
    }
    for (uint32_t i = 0; i < 260; i++) logits[i] = -__builtin_inff();
    sample_params s = greedy;
    s.n_ids = 260;
    CHECK(sample(&s, 300).bad);
}

TEST(rows_that_are_not_numbers_are_bad) {
    for (uint32_t at = 0; at < 40; at++)
        for (int kind = 0; kind < 4; kind++) {
            for (uint32_t i = 0; i < 40; i++) logits[i] = kind == 2 ? -INFINITY : (float)i;
            if (kind < 2) logits[at] = kind ? INFINITY : NAN;
            if (kind == 3) logits[at] = -INFINITY;
            sample_params s = greedy;
            s.n_top = 3;
            for (int hot = 0; hot < 2; hot++, s.temperature = 1) CHECK(sample(&s, 40).bad == (kind != 3));
        }
}

TEST(targets_and_top_lists_match_log_softmax) {
    uint64_t seed = 5;
    for (uint32_t kind = 0; kind < 60; kind++) {
        uint32_t n = 1 + test_random_below(&seed, kind % 2 ? 3000 : 40);
        fill_row(kind, n, &seed);
        double max = -INFINITY, sum = 0;
        for (uint32_t i = 0; i < n; i++) max = fmax(max, (double)logits[i]);
        for (uint32_t i = 0; i < n; i++) sum += exp((double)logits[i] - max);
        sample_params s = greedy;
        s.target = test_random_below(&seed, n);
        s.n_top = test_random_below(&seed, SAMPLE_TOP_MAX + 1);
        sample_result r = sample(&s, n);
        CHECK(r.token == s.target);
        double want = (double)logits[s.target] - max - log(sum);
        /* fp32 sums of n terms in 16 lanes, and the rounding of logit - lse */
        CHECK(isinf(want) ? (double)r.logprob == want
                          : fabs((double)r.logprob - want) <= 2e-5 + 2e-7 * fabs(want) + 1e-6 * fabs(max));
        static candidate c[VOCAB_MAX];
        for (uint32_t i = 0; i < n; i++) c[i] = (candidate){logits[i], i};
        qsort(c, n, sizeof *c, by_rank);
        CHECK(r.n_top == (s.n_top < n ? s.n_top : n));
        for (uint32_t i = 0; i < r.n_top; i++) CHECK(r.top[i].id == c[i].id);
        for (uint32_t i = 0; i < r.n_top; i++)
            if (r.top[i].id == s.target) CHECK(r.top[i].logprob == r.logprob);
    }
}

TEST(penalties_are_recomputed) {
    uint64_t seed = 7;
    for (int round = 0; round < 300; round++) {
        enum { N = 50 };
        sample_seen seen[N];
        uint32_t n_seen = 0;
        sample_params s = greedy;
        s.repetition_penalty = 0.5f + (float)test_random_below(&seed, 20) / 10;
        s.frequency_penalty = test_random_float(&seed) * 2;
        s.presence_penalty = test_random_float(&seed) * 2;
        s.logprobs = true;
        s.temperature = round % 2 ? 0.8f : 0;
        s.position = (uint32_t)round;
        for (uint32_t i = 0; i < N; i++) logits[i] = test_random_float(&seed) * 4;
        float want[N];
        memcpy(want, logits, sizeof want);
        for (uint32_t i = 0; i < N; i++) {
            if (test_random_below(&seed, 2)) continue;
            seen[n_seen] = (sample_seen){i, test_random_below(&seed, 4)};
            want[i] = want[i] > 0 ? want[i] / s.repetition_penalty : want[i] * s.repetition_penalty;
            if (seen[n_seen].count) want[i] -= s.frequency_penalty * (float)seen[n_seen].count;
            if (seen[n_seen].count) want[i] -= s.presence_penalty;
            n_seen++;
        }
        s.seen = seen;
        s.n_seen = n_seen;
        CHECK(sample_needs_history(&s));
        sample_result r = sample(&s, N);
        CHECK(memcmp(changed, want, sizeof want) == 0);
        uint32_t best = 0;
        for (uint32_t i = 1; i < N; i++)
            if (want[i] > want[best]) best = i;
        CHECK(r.token == (s.temperature > 0 ? expected_token(&s, want, N) : best));
        /* The log-probability is that of the raw logits. */
        s.target = r.token;
        CHECK(sample(&s, N).logprob == r.logprob);
    }
    CHECK(!sample_needs_history(&greedy));
}

TEST(draws_match_the_definition) {
    uint64_t seed = 11;
    for (uint32_t kind = 0; kind < 4000; kind++) {
        uint32_t n = 1 + test_random_below(&seed, kind % 50 ? 60 : 2200);
        fill_row(kind, n, &seed);
        sample_params s = random_params(&seed, n);
        uint32_t want = expected_token(&s, logits, n);
        sample_result r = sample(&s, n);
        CHECKF(r.token == want, "row %u: %u drawn, %u wanted", kind, r.token, want);
    }
}

/* The pruned search for the largest noise against all noises, on long rows without filters. */
TEST(pruning_changes_no_winner) {
    uint64_t seed = 13;
    for (uint32_t kind = 0; kind < 120; kind++) {
        fill_row(kind, VOCAB_MAX, &seed);
        sample_params s = random_params(&seed, VOCAB_MAX);
        s.top_k = 0;
        s.top_p = 1;
        s.min_p = 0;
        for (int i = 0; i < 3; i++, s.position++)
            CHECK(sample(&s, VOCAB_MAX).token == expected_token(&s, logits, VOCAB_MAX));
    }
}

/* What fp32 keeps is what double keeps, up to candidates whose running sum lies within 1e-5 of the goal. */
TEST(filters_keep_what_double_precision_keeps) {
    uint64_t seed = 17;
    static candidate c[VOCAB_MAX];
    for (uint32_t kind = 0; kind < 600; kind++) {
        uint32_t n_vocab = 2 + test_random_below(&seed, 300);
        fill_row(kind, n_vocab, &seed);
        sample_params s = random_params(&seed, n_vocab);
        uint32_t n = kept(&s, logits, n_vocab, c);
        double max = (double)c[0].x, total = 0, before = 0, least = (double)s.min_p;
        sample_params all = s;
        all.top_p = 1;
        static candidate d[VOCAB_MAX];
        uint32_t n_all = kept(&all, logits, n_vocab, d);
        for (uint32_t i = 0; i < n_all; i++) total += exp((double)d[i].x - max);
        for (uint32_t i = 0; i < n; i++) {
            CHECK(before <= (double)s.top_p * total * (1 + 1e-5));
            CHECK(exp((double)c[i].x - max) >= least * (1 - 1e-5));
            before += exp((double)c[i].x - max);
        }
        CHECK(before >= (double)s.top_p * total * (1 - 1e-5));
        if (s.top_k && s.top_k < n_all) CHECK(d[n_all - 1].x == d[s.top_k - 1].x);
    }
}

TEST(top_k_keeps_ties) {
    for (uint32_t i = 0; i < 10; i++) logits[i] = i % 3 == 0 ? 2.0f : i % 3 == 1 ? 1.0f : 0.0f;
    sample_params s = greedy;
    s.temperature = 1;
    s.top_k = 2; /* ids 0, 3, 6, 9 share the first place */
    bool drawn[10] = {false};
    for (s.position = 0; s.position < 500; s.position++) drawn[sample(&s, 10).token] = true;
    for (uint32_t i = 0; i < 10; i++) CHECK(drawn[i] == (i % 3 == 0));
}

/* Equal halves: the first candidate alone reaches p of the whole, so the second is dropped. */
TEST(top_p_keeps_through_the_first_that_reaches_it) {
    sample_params s = greedy;
    s.temperature = 1;
    s.top_p = 0.5f;
    for (uint32_t n = 2; n <= 8; n += 2) {
        bool drawn[8] = {false};
        for (uint32_t i = 0; i < n; i++) logits[i] = 1;
        for (s.position = 0; s.position < 300; s.position++) drawn[sample(&s, n).token] = true;
        for (uint32_t i = 0; i < n; i++) CHECK(drawn[i] == (i < n / 2));
    }
}

/* Rare large noise lets a candidate win from far below: the search must not give it up. */
TEST(large_noise_wins_from_far_below) {
    sample_params s = greedy;
    s.temperature = 1;
    s.seed = 77;
    int n_found = 0;
    float largest = 0;
    for (s.position = 0; s.position < 3000000 && n_found < 8; s.position++) {
        const uint32_t counter[4] = {1, s.position, 0, 0};
        uint32_t r[4];
        sample_philox(s.seed, counter, r);
        if (r[0] >= 8192) continue; /* noise above 13 */
        n_found++;
        float far = noise_of(&s, 1) - noise_of(&s, 0);
        largest = far > largest ? far : largest;
        logits[0] = 0;
        logits[1] = -far + 0.02f;
        CHECK(sample(&s, 2).token == 1 && expected_token(&s, logits, 2) == 1);
        logits[1] = -far - 0.02f;
        CHECK(sample(&s, 2).token == 0);
    }
    CHECK(n_found > 3 && largest > 12);
}

/* Seed, position and choice each change the stream of draws; nothing else does. */
TEST(draws_depend_on_seed_position_and_choice) {
    uint64_t seed = 19;
    fill_row(0, 1000, &seed);
    sample_params s = random_params(&seed, 1000);
    s.temperature = 1;
    s.top_k = 0;
    s.top_p = 1;
    s.min_p = 0;
    int same[3] = {0};
    for (int i = 0; i < 200; i++, s.position += 2) {
        uint32_t token = sample(&s, 1000).token;
        CHECK(sample(&s, 1000).token == token);
        sample_params t = s;
        t.position++;
        same[0] += sample(&t, 1000).token == token;
        t = s;
        t.choice++;
        same[1] += sample(&t, 1000).token == token;
        t = s;
        t.seed ^= 1;
        same[2] += sample(&t, 1000).token == token;
    }
    for (int i = 0; i < 3; i++) CHECK(same[i] < 8);
}

/* Frequencies of many draws against the softmax of the kept candidates. 49.6 is the 1 - 1e-6 quantile of
 * chi-square with 11 degrees of freedom; fewer degrees have smaller ones. */
static void check_distribution(const sample_params *params, int n_draws) {
    enum { N = 12 };
    sample_params s = *params;
    candidate c[N];
    double p[N] = {0}, total = 0, chi = 0;
    int count[N] = {0};
    for (uint32_t i = 0; i < N; i++) logits[i] = 0.35f * (float)((i * 7) % N);
    uint32_t n = kept(&s, logits, N, c);
    for (uint32_t i = 0; i < n; i++) total += p[c[i].id] = exp((double)c[i].x);
    for (int i = 0; i < n_draws; i++) {
        s.position = (uint32_t)i;
        count[sample(&s, N).token]++;
    }
    for (uint32_t i = 0; i < N; i++) {
        double want = p[i] / total * n_draws;
        CHECK(want > 0 || count[i] == 0);
        if (want > 0) chi += (count[i] - want) * (count[i] - want) / want;
    }
    CHECKF(chi < 49.6, "chi-square %g over %u candidates", chi, n);
}

TEST(frequencies_match_softmax) {
    sample_params s = greedy;
    s.temperature = 1;
    s.seed = 42;
    check_distribution(&s, 200000);
    s.temperature = 2.5f;
    check_distribution(&s, 50000);
    s.temperature = 0.4f;
    check_distribution(&s, 50000);
    s.top_k = 5;
    check_distribution(&s, 50000);
    s.top_k = 0;
    s.temperature = 1;
    s.top_p = 0.8f;
    check_distribution(&s, 50000);
    s.top_p = 1;
    s.min_p = 0.1f;
    check_distribution(&s, 50000);
    s.choice = 3;
    s.temperature = 1.3f;
    s.top_k = 8;
    s.top_p = 0.9f;
    check_distribution(&s, 200000);
}

/* Extreme settings stay inside the vocabulary. */
TEST(extremes_draw_something) {
    uint64_t seed = 23;
    for (uint32_t kind = 0; kind < 300; kind++) {
        uint32_t n = 1 + test_random_below(&seed, 100);
        fill_row(kind, n, &seed);
        if (kind % 7 == 0) logits[0] = 3e38f;
        if (kind % 11 == 0) logits[n - 1] = -3e38f;
        sample_seen seen[2] = {{0, 3}, {n - 1, 0}};
        sample_params s = random_params(&seed, n);
        if (kind % 2) s.temperature = 1.1e-5f;
        if (kind % 3 == 0) s.top_p = 1e-30f;
        if (kind % 5 == 0) s.min_p = 1;
        s.repetition_penalty = kind % 4 ? 1 : 100;
        s.frequency_penalty = kind % 6 ? 0 : -100;
        s.seen = seen;
        s.n_seen = n > 1 ? 2 : 1;
        sample_result r = sample(&s, n);
        CHECK(!r.bad && r.token < n);
    }
}

TEST(scratch_is_what_it_says) {
    enum { N = 33 };
    uint64_t seed = 29;
    char *exact = base_malloc(sample_scratch_bytes(N));
    CHECK(exact != NULL);
    sample_row_math math = row_math(1);
    for (uint32_t kind = 0; kind < 100; kind++) {
        fill_row(kind, N, &seed);
        sample_params s = random_params(&seed, N);
        sample_seen seen[N];
        for (uint32_t i = 0; i < N; i++) seen[i] = (sample_seen){i, i % 3};
        s.presence_penalty = 0.5f;
        s.seen = seen;
        s.n_seen = N;
        sample_result out;
        sample_row(&s, &math, logits, N, exact, &out);
        CHECK(out.token < N);
    }
    base_free(exact);
}
