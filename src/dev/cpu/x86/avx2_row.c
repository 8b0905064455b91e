/* dev/cpu/x86/avx2_row.c - the row kernels eight lanes at a time: the bits of dev/cpu/ref/ref_row.c.
 *
 * Where an element depends on its own inputs only, a lane does what the reference does. Sums
 * take the 16-lane rule: elements 16 i + 0..7 go to one accumulator, 8..15 to another. Lanes behind the
 * end of a row hold zeros (or -infinity before exp), which adds +0 to sums that are never -0.
 */
#include "dev/cpu/kernels.h"
#include "dev/cpu/x86/avx2_vec.h"
#include "tensor/vmath_sincos.h"

#include <math.h>

enum { LANES = VMATH_LANES, LSE_CHUNK = 1024 };

/* Up to eight elements at p, of left that remain; 0 in the lanes behind. */
static inline vf take(const float *p, uint32_t left) { return left >= LANES ? vf_load(p) : vf_load_first(p, left); }

static inline void give(float *p, uint32_t left, vf x) {
    if (left >= LANES)
        vf_store(p, x);
    else
        vf_store_first(p, left, x);
}

/* As take(), with fill in the lanes behind. */
static inline vf take_or(const float *p, uint32_t left, vf fill) {
    return left >= LANES ? vf_load(p) : vf_pick(vi_first(left), vf_load_first(p, left), fill);
}

static inline float lane_max(vf x) {
    float m = x[0];
    for (int j = 1; j < LANES; j++) m = x[j] > m ? x[j] : m;
    return m;
}

static void rmsnorm(float *y, const float *x, const float *w, uint32_t n, float eps) {
    vf lo = vf_of(0.0f), hi = lo;
    for (uint32_t k = 0; k < n; k += 2 * LANES) {
        vf a = take(x + k, n - k);
        lo = vf_fma(a, a, lo);
        if (n - k <= LANES) break;
        vf b = take(x + k + LANES, n - k - LANES);
        hi = vf_fma(b, b, hi);
    }
    vf r = vf_of(1.0f / sqrtf(vf_sum16(lo, hi) / (float)n + eps));
    for (uint32_t k = 0; k < n; k += LANES) {
        vf v = take(x + k, n - k) * r;
        if (w) v = v * take(w + k, n - k);
        give(y + k, n - k, v);
    }
}

static void add(float *y, const float *a, const float *b, uint32_t n) {
    for (uint32_t k = 0; k < n; k += LANES) give(y + k, n - k, take(a + k, n - k) + take(b + k, n - k));
}

static void scale(float *y, const float *x, float s, uint32_t n) {
    for (uint32_t k = 0; k < n; k += LANES) give(y + k, n - k, take(x + k, n - k) * vf_of(s));
}

static void silu_mul(float *y, const float *gate, const float *up, uint32_t n) {
    for (uint32_t k = 0; k < n; k += LANES) {
        vf g = take(gate + k, n - k);
        give(y + k, n - k, (g * vm_sigmoid(g)) * take(up + k, n - k));
    }
}

static void gelu_tanh_mul(float *y, const float *gate, const float *up, uint32_t n) {
    for (uint32_t k = 0; k < n; k += LANES) {
        vf g = take(gate + k, n - k);
        vf t = vm_tanh(vf_of(0x1.988454p-1f) * vf_fma(vf_of(0.044715f), (g * g) * g, g));
        give(y + k, n - k, ((vf_of(0.5f) * g) * (vf_of(1.0f) + t)) * take(up + k, n - k));
    }
}

static void softcap(float *y, const float *x, float cap, uint32_t n) {
    const vf c = vf_of(cap);
    for (uint32_t k = 0; k < n; k += LANES) give(y + k, n - k, c * vm_tanh(take(x + k, n - k) / c));
}

/* Lanes behind the end of the row must stay 0 in the sum of squares: they would add the mean's. */
static void layernorm(float *y, const float *x, const float *w, uint32_t n, float eps) {
    vf sum[2] = {vf_of(0.0f), vf_of(0.0f)}, square[2] = {vf_of(0.0f), vf_of(0.0f)};
    for (uint32_t k = 0, i = 0; k < n; k += LANES, i ^= 1) sum[i] = sum[i] + take(x + k, n - k);
    const vf mean = vf_of(vf_sum16(sum[0], sum[1]) / (float)n);
    for (uint32_t k = 0, i = 0; k < n; k += LANES, i ^= 1) {
        vf d = take(x + k, n - k) - mean;
        if (n - k < LANES) d = vf_pick(vi_first(n - k), d, vf_of(0.0f));
        square[i] = vf_fma(d, d, square[i]);
    }
    const vf r = vf_of(1.0f / sqrtf(vf_sum16(square[0], square[1]) / (float)n + eps));
    for (uint32_t k = 0; k < n; k += LANES) give(y + k, n - k, ((take(x + k, n - k) - mean) * r) * take(w + k, n - k));
}

static void swiglu_clamp(float *y, const float *gate, const float *up, float alpha, float limit, uint32_t n) {
    const vf high = vf_of(limit), low = -high;
    for (uint32_t k = 0; k < n; k += LANES) {
        vf g = take(gate + k, n - k), u = take(up + k, n - k);
        g = vf_pick(vf_less(high, g), high, g);
        u = vf_pick(vf_less(u, low), low, u);
        u = vf_pick(vf_less(high, u), high, u);
        give(y + k, n - k, (g * vm_sigmoid(vf_of(alpha) * g)) * (u + vf_of(1.0f)));
    }
}

static void sigmoid(float *y, const float *x, uint32_t n) {
    for (uint32_t k = 0; k < n; k += LANES) give(y + k, n - k, vm_sigmoid(take(x + k, n - k)));
}

static void mul(float *y, const float *a, const float *b, uint32_t n) {
    for (uint32_t k = 0; k < n; k += LANES) give(y + k, n - k, take(a + k, n - k) * take(b + k, n - k));
}

static void add_scaled(float *y, const float *x, float s, uint32_t n) {
    for (uint32_t k = 0; k < n; k += LANES)
        give(y + k, n - k, vf_fma(vf_of(s), take(x + k, n - k), take(y + k, n - k)));
}

static void exp_sub(float *y, const float *x, float sub, uint32_t n) {
    const vf s = vf_of(sub);
    for (uint32_t k = 0; k < n; k += LANES) give(y + k, n - k, vm_exp(take(x + k, n - k) - s));
}

static void rope_table(float *cos, float *sin, uint32_t pos, const float *inv_freq, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) vm_sincos((float)pos * inv_freq[i], &sin[i], &cos[i]);
}

static void rope_half(float *x, const float *cos, const float *sin, uint32_t pairs) {
    for (uint32_t i = 0; i < pairs; i += LANES) {
        uint32_t left = pairs - i;
        vf a = take(x + i, left), b = take(x + pairs + i, left), c = take(cos + i, left), s = take(sin + i, left);
        give(x + i, left, vf_fma(a, c, -(b * s)));
        give(x + pairs + i, left, vf_fma(b, c, a * s));
    }
}

/* Four pairs a, b, a, b, ... in a vector: fmaddsub subtracts in the even lanes and adds in the odd ones. */
static void rope_neighbours(float *x, const float *cos, const float *sin, uint32_t pairs) {
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    uint32_t i = 0;
    for (; i + 4 <= pairs; i += 4) {
        vf c = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(cos + i)), twice);
        vf s = _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(sin + i)), twice);
        vf ab = vf_load(x + 2 * i), ba = _mm256_permute_ps(ab, 0xb1);
        vf_store(x + 2 * i, _mm256_fmaddsub_ps(ab, c, ba * s));
    }
    for (; i < pairs; i++) {
        float a = x[2 * i], b = x[2 * i + 1];
        x[2 * i] = __builtin_fmaf(a, cos[i], -(b * sin[i]));
        x[2 * i + 1] = __builtin_fmaf(b, cos[i], a * sin[i]);
    }
}

static void rope(float *x, const float *cos, const float *sin, uint32_t d, bool half) {
    if (half)
        rope_half(x, cos, sin, d / 2);
    else
        rope_neighbours(x, cos, sin, d / 2);
}

static uint32_t argmax(const float *x, uint32_t n, bool *finite) {
    const vf inf = vf_of(INFINITY);
    vf best = -inf;
    vi at = vi_of(0), here = {0, 1, 2, 3, 4, 5, 6, 7}, good = vi_of(0xffffffffu);
    for (uint32_t k = 0; k < n; k += LANES) {
        vf v = take_or(x + k, n - k, -inf);
        vi more = vf_less(best, v);
        good = good & vf_less(v, inf);
        best = vf_pick(more, v, best);
        at = (at & ~more) | (here & more);
        here = here + vi_of(LANES);
    }
    /* Each lane holds its first largest; the first of those is the lowest index among equal lanes. */
    uint32_t lane = 0;
    for (uint32_t j = 1; j < LANES; j++)
        if (best[j] > best[lane] || (best[j] == best[lane] && at[j] < at[lane])) lane = j;
    *finite = _mm256_movemask_ps((vf)good) == 0xff && best[lane] > -INFINITY;
    return *finite ? at[lane] : 0;
}

/* The largest of x [n] and the sum of exp(x - it) in 16 lanes; -infinity and 0 where there is none. */
static float chunk_sum(const float *x, uint32_t n, float *top) {
    const vf none = vf_of(-INFINITY);
    vf m = none, lo = vf_of(0.0f), hi = lo;
    for (uint32_t k = 0; k < n; k += LANES) m = vf_max(take_or(x + k, n - k, none), m);
    *top = lane_max(m);
    if (!(*top > -INFINITY)) return 0.0f;
    m = vf_of(*top);
    for (uint32_t k = 0; k < n; k += 2 * LANES) {
        lo = lo + vm_exp(take_or(x + k, n - k, none) - m);
        if (n - k <= LANES) break;
        hi = hi + vm_exp(take_or(x + k + LANES, n - k - LANES, none) - m);
    }
    return vf_sum16(lo, hi);
}

static float logsumexp(const float *x, uint32_t n) {
    float m = -INFINITY, l = 0.0f;
    for (uint32_t k = 0; k < n; k += LSE_CHUNK) {
        float top, sum = chunk_sum(x + k, n - k < LSE_CHUNK ? n - k : LSE_CHUNK, &top);
        if (!(top > -INFINITY)) continue;
        float both = top > m ? top : m;
        l = (l * vm_exp(vf_of(m - both))[0]) + (sum * vm_exp(vf_of(top - both))[0]);
        m = both;
    }
    return m + vm_log(vf_of(l))[0];
}

const cpu_row_kernels cpu_avx2_row = {
    .rmsnorm = rmsnorm,
    .add = add,
    .scale = scale,
    .silu_mul = silu_mul,
    .gelu_tanh_mul = gelu_tanh_mul,
    .softcap = softcap,
    .layernorm = layernorm,
    .swiglu_clamp = swiglu_clamp,
    .sigmoid = sigmoid,
    .mul = mul,
    .add_scaled = add_scaled,
    .exp_sub = exp_sub,
    .rope_table = rope_table,
    .rope = rope,
    .argmax = argmax,
    .logsumexp = logsumexp,
};
