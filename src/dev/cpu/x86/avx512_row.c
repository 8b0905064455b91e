/* dev/cpu/x86/avx512_row.c - the row kernels sixteen lanes at a time: the bits of dev/cpu/ref/ref_row.c.
 *
 * Where an element depends on its own inputs only, a lane does what the reference does. Sums
 * take the 16-lane rule, which is one register. Lanes behind the end of a row hold zeros (or -infinity
 * before exp), which adds +0 to sums that are never -0.
 */
#include "dev/cpu/kernels.h"
#include "dev/cpu/x86/avx512_vec.h"
#include "tensor/vmath_sincos.h"

#include <math.h>

enum { LANES = VMATH_LANES, LSE_CHUNK = 1024 };

/* Up to 16 elements at p, of left that remain; 0 in the lanes behind. */
static inline vf take(const float *p, uint32_t left) { return vf_load_first(p, left, vf_of(0.0f)); }
static inline void give(float *p, uint32_t left, vf x) { vf_store_first(p, left, x); }

static void rmsnorm(float *y, const float *x, const float *w, uint32_t n, float eps) {
    vf ss = vf_of(0.0f);
    for (uint32_t k = 0; k < n; k += LANES) {
        vf a = take(x + k, n - k);
        ss = vf_fma(a, a, ss);
    }
    vf r = vf_of(1.0f / sqrtf(vf_sum16(ss) / (float)n + eps));
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

static void layernorm(float *y, const float *x, const float *w, uint32_t n, float eps) {
    vf sum = vf_of(0.0f), square = sum;
    for (uint32_t k = 0; k < n; k += LANES) sum = sum + take(x + k, n - k);
    const vf mean = vf_of(vf_sum16(sum) / (float)n);
    for (uint32_t k = 0; k < n; k += LANES) {
        vf d = vf_load_first(x + k, n - k, mean) - mean; /* 0 behind the end */
        square = vf_fma(d, d, square);
    }
    const vf r = vf_of(1.0f / sqrtf(vf_sum16(square) / (float)n + eps));
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

/* Eight pairs a, b, a, b, ... in a vector: fmaddsub subtracts in the even lanes and adds in the odd ones. */
static void rope_neighbours(float *x, const float *cos, const float *sin, uint32_t pairs) {
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    for (uint32_t i = 0; i < pairs; i += LANES / 2) {
        const uint32_t left = pairs - i < LANES / 2 ? pairs - i : LANES / 2;
        vf c = _mm512_permutexvar_ps(twice, take(cos + i, left)), s = _mm512_permutexvar_ps(twice, take(sin + i, left));
        vf ab = take(x + 2 * i, 2 * left), ba = _mm512_permute_ps(ab, 0xb1);
        give(x + 2 * i, 2 * left, _mm512_fmaddsub_ps(ab, c, ba * s));
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
    const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    vf best = -inf;
    __m512i at = _mm512_setzero_si512(), here = lanes;
    vb good = 0xffff;
    for (uint32_t k = 0; k < n; k += LANES) {
        vf v = vf_load_first(x + k, n - k, -inf);
        const vb more = vf_less(best, v);
        good &= vf_less(v, inf);
        best = vf_pick(more, v, best);
        at = _mm512_mask_mov_epi32(at, more, here);
        here = _mm512_add_epi32(here, _mm512_set1_epi32(LANES));
    }
    /* Each lane holds its first largest; the first of those is the lowest index among equal lanes. */
    const float top = vf_top(best);
    const vb equal = _mm512_cmp_ps_mask(best, vf_of(top), _CMP_EQ_OQ);
    *finite = good == 0xffff && top > -INFINITY;
    return *finite ? _mm512_mask_reduce_min_epu32(equal, at) : 0;
}

/* The largest of x [n] and the sum of exp(x - it) in 16 lanes; -infinity and 0 where there is none. */
static float chunk_sum(const float *x, uint32_t n, float *top) {
    const vf none = vf_of(-INFINITY);
    vf m = none, sum = vf_of(0.0f);
    for (uint32_t k = 0; k < n; k += LANES) m = vf_max(vf_load_first(x + k, n - k, none), m);
    *top = vf_top(m);
    if (!(*top > -INFINITY)) return 0.0f;
    m = vf_of(*top);
    for (uint32_t k = 0; k < n; k += LANES) sum = sum + vm_exp(vf_load_first(x + k, n - k, none) - m);
    return vf_sum16(sum);
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

const cpu_row_kernels cpu_avx512_row = {
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
