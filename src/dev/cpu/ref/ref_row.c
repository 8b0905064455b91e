/* dev/cpu/ref/ref_row.c - the row kernels stated as plain loops: what every other set must give to the bit.
 *
 * Each result element is one expression whose order is the rule; sums over a row take 16
 * lanes (docs/numerics.md, "Reductions over one token"). A lane starts at +0 and only ever
 * adds terms that are not negative, so a vector set may add zeros for what is missing.
 *
 *     rmsnorm        (x * (1 / sqrt(ss / n + eps))) * w
 *     silu_mul       (g * sigmoid(g)) * u
 *     gelu_tanh_mul  ((0.5 g) * (1 + tanh(sqrt(2/pi) * fma(0.044715, (g * g) * g, g)))) * u
 *     softcap        cap * tanh(x / cap)
 *     layernorm      mean = sum / n, v = sum of (x - mean)^2 by fma: ((x - mean) * (1 / sqrt(v / n + eps))) * w
 *     swiglu_clamp   g = min(g, limit), u = min(max(u, -limit), limit): (g * sigmoid(alpha * g)) * (u + 1)
 *     add_scaled     fma(s, x, y)
 *     exp_sub        exp(x - sub)
 *     logsumexp      per chunk of 1,024: m = max, l = 16-lane sum of exp(x - m);
 *                    fold M = max(m1, m2), l = (l1 * exp(m1 - M)) + (l2 * exp(m2 - M)); M + log(l)
 * The gate at -infinity gives NaN in the two activations, as infinity times 0 does.
 */
#include "dev/cpu/kernels.h"
#include "dev/cpu/ref/ref_num.h"
#include "tensor/vmath_scalar.h"
#include "tensor/vmath_sincos.h"

#include <math.h>

enum { LSE_CHUNK = 1024 };

static void rmsnorm(float *y, const float *x, const float *w, uint32_t n, float eps) {
    float lane[16] = {0};
    for (uint32_t k = 0; k < n; k++) lane[k % 16] = vf_fma(x[k], x[k], lane[k % 16]);
    float r = 1.0f / sqrtf(ref_sum16(lane) / (float)n + eps);
    for (uint32_t k = 0; k < n; k++) y[k] = w ? (x[k] * r) * w[k] : x[k] * r;
}

static void add(float *y, const float *a, const float *b, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) y[k] = a[k] + b[k];
}

static void scale(float *y, const float *x, float s, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) y[k] = x[k] * s;
}

static void silu_mul(float *y, const float *gate, const float *up, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) y[k] = (gate[k] * vm_sigmoid(gate[k])) * up[k];
}

static void gelu_tanh_mul(float *y, const float *gate, const float *up, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) {
        float g = gate[k];
        float t = vm_tanh(0x1.988454p-1f * vf_fma(0.044715f, (g * g) * g, g));
        y[k] = ((0.5f * g) * (1.0f + t)) * up[k];
    }
}

static void softcap(float *y, const float *x, float cap, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) y[k] = cap * vm_tanh(x[k] / cap);
}

static void layernorm(float *y, const float *x, const float *w, uint32_t n, float eps) {
    float lane[16] = {0}, square[16] = {0};
    for (uint32_t k = 0; k < n; k++) lane[k % 16] = lane[k % 16] + x[k];
    float mean = ref_sum16(lane) / (float)n;
    for (uint32_t k = 0; k < n; k++) square[k % 16] = vf_fma(x[k] - mean, x[k] - mean, square[k % 16]);
    float r = 1.0f / sqrtf(ref_sum16(square) / (float)n + eps);
    for (uint32_t k = 0; k < n; k++) y[k] = ((x[k] - mean) * r) * w[k];
}

/* A NaN stays one: it is not less than the limit, nor more. */
static void swiglu_clamp(float *y, const float *gate, const float *up, float alpha, float limit, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) {
        float g = limit < gate[k] ? limit : gate[k], u = up[k] < -limit ? -limit : up[k];
        u = limit < u ? limit : u;
        y[k] = (g * vm_sigmoid(alpha * g)) * (u + 1.0f);
    }
}

static void sigmoid(float *y, const float *x, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) y[k] = vm_sigmoid(x[k]);
}

static void mul(float *y, const float *a, const float *b, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) y[k] = a[k] * b[k];
}

static void add_scaled(float *y, const float *x, float s, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) y[k] = vf_fma(s, x[k], y[k]);
}

static void exp_sub(float *y, const float *x, float sub, uint32_t n) {
    for (uint32_t k = 0; k < n; k++) y[k] = vm_exp(x[k] - sub);
}

static void rope_table(float *cos, float *sin, uint32_t pos, const float *inv_freq, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) vm_sincos((float)pos * inv_freq[i], &sin[i], &cos[i]);
}

static void rope(float *x, const float *cos, const float *sin, uint32_t d, bool half) {
    uint32_t pairs = d / 2;
    for (uint32_t i = 0; i < pairs; i++) {
        float *pa = half ? x + i : x + 2 * i, *pb = half ? x + i + pairs : x + 2 * i + 1;
        float a = *pa, b = *pb, c = cos[i], s = sin[i];
        *pa = vf_fma(a, c, -(b * s));
        *pb = vf_fma(b, c, a * s);
    }
}

static uint32_t argmax(const float *x, uint32_t n, bool *finite) {
    const float inf = INFINITY;
    float best = -inf;
    uint32_t index = 0;
    bool bad = false;
    for (uint32_t k = 0; k < n; k++) {
        bad |= !(x[k] < inf);
        if (x[k] > best) {
            best = x[k];
            index = k;
        }
    }
    *finite = !bad && best > -inf;
    return *finite ? index : 0;
}

static float logsumexp(const float *x, uint32_t n) {
    float m = -INFINITY, l = 0.0f;
    for (uint32_t k0 = 0; k0 < n; k0 += LSE_CHUNK) {
        uint32_t count = n - k0 < LSE_CHUNK ? n - k0 : LSE_CHUNK;
        float top = -INFINITY, lane[16] = {0};
        for (uint32_t k = 0; k < count; k++) top = vf_max(x[k0 + k], top);
        if (!(top > -INFINITY)) continue;
        for (uint32_t k = 0; k < count; k++) lane[k % 16] = lane[k % 16] + vm_exp(x[k0 + k] - top);
        float both = vf_max(top, m);
        l = (l * vm_exp(m - both)) + (ref_sum16(lane) * vm_exp(top - both));
        m = both;
    }
    return m + vm_log(l);
}

const cpu_row_kernels cpu_ref_row = {
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
