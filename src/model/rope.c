#include "model/rope.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const double two_pi = 6.283185307179586;

/* ---- frequencies ---- */

static double mscale_of(double factor, double a) { return factor > 1 ? 0.1 * a * log(factor) + 1 : 1; }

static double llama3(const model_rope *r, double f) {
    double wave = two_pi / f, l = r->original;
    if (wave < l / r->high_freq) return f;
    if (wave > l / r->low_freq) return f / r->factor;
    double width = r->high_freq - r->low_freq, t = width == 0 ? 0 : (l / wave - r->low_freq) / width;
    return (1 - t) * f / r->factor + t * f;
}

/* The pair that turns r times over the trained length, as a real number. */
static double pair_of_turns(const model_rope *r, double turns) {
    return r->d * log(r->original / (turns * two_pi)) / (2 * log(r->base));
}

static double yarn(const model_rope *r, double f, uint32_t i) {
    double low = pair_of_turns(r, r->beta_fast), high = pair_of_turns(r, r->beta_slow);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, (double)r->d - 1);
    if (low == high) high += 0.001;
    double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    return f / r->factor * ramp + f * (1 - ramp);
}

static double scale_of(const model_rope *r) {
    if (r->kind != MODEL_ROPE_YARN && r->kind != MODEL_ROPE_LONGROPE) return 1;
    if (r->attention_factor > 0) return r->attention_factor;
    if (r->kind == MODEL_ROPE_LONGROPE) return r->factor > 1 ? sqrt(1 + log(r->factor) / log(r->original)) : 1;
    if (r->mscale > 0 && r->mscale_all_dim > 0)
        return mscale_of(r->factor, r->mscale) / mscale_of(r->factor, r->mscale_all_dim);
    return mscale_of(r->factor, 1);
}

void model_rope_compute(const model_rope *r, uint32_t max_len, float inv_freq[], float *scale) {
    double base = r->base, n = max_len;
    if (r->kind == MODEL_ROPE_DYNAMIC && max_len > r->original)
        base *= pow(r->factor * n / r->original - (r->factor - 1), r->d / (r->d - 2.0));
    for (uint32_t i = 0; i < r->d / 2; i++) {
        double f = pow(base, -2.0 * i / r->d), g = f;
        if (r->kind == MODEL_ROPE_LINEAR) g = f / r->factor;
        if (r->kind == MODEL_ROPE_LLAMA3) g = llama3(r, f);
        if (r->kind == MODEL_ROPE_YARN) g = yarn(r, f, i);
        if (r->kind == MODEL_ROPE_LONGROPE) g = f / (max_len > r->original ? r->long_factor[i] : r->short_factor[i]);
        if (r->kind == MODEL_ROPE_DIVISORS) g = f / r->short_factor[i];
        inv_freq[i] = (float)g;
    }
    *scale = (float)scale_of(r);
}

/* ---- reading ---- */

static fl_status check(const model_rope *r, uint32_t d_head, fl_err *err) {
    if (r->d < 2 || r->d % 2 || r->d > d_head || r->d / 2 > MODEL_ROPE_PAIRS_MAX || !(r->base > 0) ||
        (r->kind == MODEL_ROPE_DYNAMIC && r->d < 4))
        return fl_fail(err, FL_EFORMAT, "RoPE of width %u in heads of %u, base %g, does not work", r->d, d_head,
                       r->base);
    bool scaled = r->kind != MODEL_ROPE_NONE && r->kind != MODEL_ROPE_DIVISORS;
    if (scaled && (!(r->factor > 0) || r->factor > 1e6 || r->original < 2 || !(r->attention_factor >= 0)))
        return fl_fail(err, FL_EFORMAT, "RoPE scaled by %g from %u positions, attention factor %g, does not work",
                       r->factor, r->original, r->attention_factor);
    if (r->kind == MODEL_ROPE_LLAMA3 && !(r->low_freq > 0 && r->high_freq >= r->low_freq))
        return fl_fail(err, FL_EFORMAT, "RoPE with low_freq_factor %g and high_freq_factor %g does not work",
                       r->low_freq, r->high_freq);
    if (r->kind == MODEL_ROPE_YARN && !(r->beta_slow > 0 && r->beta_fast >= r->beta_slow && r->base > 1))
        return fl_fail(err, FL_EFORMAT, "RoPE with beta_fast %g and beta_slow %g, base %g, does not work", r->beta_fast,
                       r->beta_slow, r->base);
    for (uint32_t i = 0; i < r->d / 2 && r->kind >= MODEL_ROPE_LONGROPE; i++)
        if (!(r->short_factor[i] > 0) || (r->kind == MODEL_ROPE_LONGROPE && !(r->long_factor[i] > 0)))
            return fl_fail(err, FL_EFORMAT, "RoPE with a divisor %g or %g at pair %u does not work", r->short_factor[i],
                           r->long_factor[i], i);
    return FL_OK;
}

static fl_status find_kind(model_rope *r, const char *name, fl_err *err) {
    static const struct {
        const char *name;
        model_rope_kind kind;
    } kinds[] = {{"", MODEL_ROPE_NONE},         {"none", MODEL_ROPE_NONE},         {"default", MODEL_ROPE_NONE},
                 {"linear", MODEL_ROPE_LINEAR}, {"llama3", MODEL_ROPE_LLAMA3},     {"dynamic", MODEL_ROPE_DYNAMIC},
                 {"yarn", MODEL_ROPE_YARN},     {"longrope", MODEL_ROPE_LONGROPE}, {"su", MODEL_ROPE_LONGROPE}};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        if (strcmp(kinds[i].name, name) == 0) {
            r->kind = kinds[i].kind;
            return FL_OK;
        }
    return fl_fail(err, FL_EUNSUPPORTED,
                   "RoPE scaling %s is not supported; none, linear, dynamic, llama3, yarn and longrope are", name);
}

/* A value of the parameters' object, else of the object beside it, else of config.json itself. */
typedef struct {
    const model_source *s;
    const char *at; /* "rope_parameters" */
    char key[128];
} rope_object;

static const char *member(rope_object *o, const char *name) {
    (void)snprintf(o->key, sizeof o->key, "%s.%s", o->at, name);
    return model_source_has(o->s, NULL, o->key) ? o->key : name;
}

static fl_status read_f64(rope_object *o, const char *name, double fallback, double *out, fl_err *err) {
    return model_get_f64_or(o->s, NULL, member(o, name), fallback, out, err);
}

/* Only what the object itself says: "factor" and the like mean nothing at the top of config.json. */
static fl_status read_own(rope_object *o, const char *name, double fallback, double *out, fl_err *err) {
    (void)snprintf(o->key, sizeof o->key, "%s.%s", o->at, name);
    return model_get_f64_or(o->s, NULL, o->key, fallback, out, err);
}

static fl_status read_factors(model_rope *r, rope_object *o, fl_err *err) {
    if (model_source_has(o->s, NULL, "rope_scaling.short_mscale") ||
        model_source_has(o->s, NULL, "rope_parameters.short_mscale"))
        return fl_fail(err, FL_EUNSUPPORTED, "config.json: RoPE with short_mscale and long_mscale is not supported");
    fl_status st = model_list_f64(o->s, member(o, "short_factor"), r->d / 2, r->short_factor, err);
    return st == FL_OK ? model_list_f64(o->s, member(o, "long_factor"), r->d / 2, r->long_factor, err) : st;
}

static fl_status read_numbers(model_rope *r, rope_object *o, uint32_t context, fl_err *err) {
    bool llama = r->kind == MODEL_ROPE_LLAMA3;
    fl_status st =
        model_get_u32_or(o->s, NULL, member(o, "original_max_position_embeddings"), context, &r->original, err);
    /* Of longrope the two lengths say the factor if nothing else does. */
    double lengths = r->original ? (double)context / r->original : 0;
    if (st == FL_OK) st = read_own(o, "factor", r->kind == MODEL_ROPE_LONGROPE ? lengths : 0, &r->factor, err);
    if (st == FL_OK) st = read_own(o, "low_freq_factor", llama ? 0 : 1, &r->low_freq, err);
    if (st == FL_OK) st = read_own(o, "high_freq_factor", llama ? 0 : 1, &r->high_freq, err);
    if (st == FL_OK) st = read_own(o, "beta_fast", 32, &r->beta_fast, err);
    if (st == FL_OK) st = read_own(o, "beta_slow", 1, &r->beta_slow, err);
    if (st == FL_OK) st = read_own(o, "mscale", 0, &r->mscale, err);
    if (st == FL_OK) st = read_own(o, "mscale_all_dim", 0, &r->mscale_all_dim, err);
    if (st == FL_OK) st = read_own(o, "attention_factor", 0, &r->attention_factor, err);
    (void)snprintf(o->key, sizeof o->key, "%s.truncate", o->at);
    if (st == FL_OK) st = model_get_bool_or(o->s, NULL, o->key, true, &r->truncate, err);
    if (st == FL_OK && r->kind == MODEL_ROPE_LONGROPE) st = read_factors(r, o, err);
    return st;
}

static fl_status read_folder(model_rope *r, const model_source *s, const char *at, uint32_t d_head, uint32_t context,
                             fl_err *err) {
    rope_object o = {.s = s, .at = at};
    if (!at) o.at = model_source_has(s, NULL, "rope_parameters") ? "rope_parameters" : "rope_scaling";
    char kind[64];
    double part, d;
    fl_status st = read_f64(&o, "rope_theta", 10000, &r->base, err);
    if (st == FL_OK) st = read_f64(&o, "partial_rotary_factor", 1, &part, err);
    if (st != FL_OK) return st;
    d = part * d_head;
    if (!(part > 0) || part > 1)
        return fl_fail(err, FL_EFORMAT,
                       "config.json: partial_rotary_factor: more than 0 and up to 1 is wanted, %g was found", part);
    r->d = (uint32_t)d;
    (void)snprintf(o.key, sizeof o.key, "%s.rope_type", o.at);
    if (!model_source_has(s, NULL, o.key)) (void)snprintf(o.key, sizeof o.key, "%s.type", o.at);
    st = model_get_text(s, NULL, o.key, kind, err);
    if (st == FL_OK) st = find_kind(r, kind, err);
    return st == FL_OK && r->kind != MODEL_ROPE_NONE ? read_numbers(r, &o, context, err) : st;
}

/* A tensor of d/2 fp32 divisors; *found false when the file has none. */
static fl_status read_divisors(const model_source *s, const char *name, uint32_t n, double out[], bool *found,
                               fl_err *err) {
    uint32_t i = model_source_find(s, NULL, -1, name, "weight");
    *found = i != UINT32_MAX;
    if (!*found) return FL_OK;
    model_tensor t;
    model_source_tensor_at(s, i, &t);
    if (strcmp(t.type_name, "F32") != 0 || t.n_elems != n)
        return fl_fail(err, FL_EFORMAT, "tensor %s has %lld values of type %s, %u of F32 are wanted", t.name,
                       (long long)t.n_elems, t.type_name, n);
    for (uint32_t k = 0; k < n; k++) {
        float f;
        memcpy(&f, t.data + 4 * k, 4);
        out[k] = (double)f;
    }
    return FL_OK;
}

static fl_status read_gguf(model_rope *r, const model_source *s, uint32_t d_head, uint32_t context, fl_err *err) {
    char kind[64];
    bool divisors = false, longs = false, shorts = false;
    double factor, attn;
    fl_status st = model_get_f64_or(s, "rope.freq_base", NULL, 10000, &r->base, err);
    if (st == FL_OK) st = model_get_u32_or(s, "rope.dimension_count", NULL, d_head, &r->d, err);
    if (st == FL_OK) st = model_get_text(s, "rope.scaling.type", NULL, kind, err);
    if (st == FL_OK) st = find_kind(r, kind, err);
    if (st == FL_OK) st = model_get_f64_or(s, "rope.scaling.factor", NULL, 1, &factor, err);
    if (st == FL_OK) st = model_get_u32_or(s, "rope.scaling.original_context_length", NULL, context, &r->original, err);
    if (st == FL_OK) st = model_get_f64_or(s, "rope.scaling.attn_factor", NULL, 0, &attn, err);
    if (st == FL_OK) st = model_get_f64_or(s, "rope.scaling.yarn_beta_fast", NULL, 32, &r->beta_fast, err);
    if (st == FL_OK) st = model_get_f64_or(s, "rope.scaling.yarn_beta_slow", NULL, 1, &r->beta_slow, err);
    if (st != FL_OK || r->d < 2 || r->d > 2 * MODEL_ROPE_PAIRS_MAX) return st;
    uint32_t n = r->d / 2;
    r->factor = factor;
    r->truncate = true;
    st = read_divisors(s, "rope_freqs", n, r->short_factor, &divisors, err);
    if (st == FL_OK && !divisors) st = read_divisors(s, "rope_factors_short", n, r->short_factor, &shorts, err);
    if (st == FL_OK && !divisors) st = read_divisors(s, "rope_factors_long", n, r->long_factor, &longs, err);
    if (st != FL_OK) return st;
    if (longs != shorts || (r->kind == MODEL_ROPE_LONGROPE && !longs))
        return fl_fail(err, FL_EFORMAT, "tensors rope_factors_long and rope_factors_short are not both there");
    if (divisors && r->kind == MODEL_ROPE_NONE) r->kind = MODEL_ROPE_DIVISORS;
    if (divisors && r->kind != MODEL_ROPE_DIVISORS)
        return fl_fail(err, FL_EUNSUPPORTED, "RoPE scaling %s together with the tensor rope_freqs is not supported",
                       kind);
    if (longs) r->kind = MODEL_ROPE_LONGROPE;
    /* The file's factor multiplies what yarn computes, and is longrope's whole one. */
    r->attention_factor = attn > 0 && r->kind == MODEL_ROPE_YARN ? attn * mscale_of(factor, 1) : attn;
    return FL_OK;
}

fl_status model_rope_read(model_rope *r, const model_source *s, const char *at, uint32_t d_head, uint32_t context,
                          fl_err *err) {
    *r = (model_rope){.factor = 1, .original = context, .low_freq = 1, .high_freq = 1, .beta_fast = 32, .beta_slow = 1};
    fl_status st =
        model_source_gguf(s) ? read_gguf(r, s, d_head, context, err) : read_folder(r, s, at, d_head, context, err);
    return st == FL_OK ? check(r, d_head, err) : st;
}
