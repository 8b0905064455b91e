/* model/rope.h - the frequencies of rotary position embeddings, every way models scale them.
 *
 * A head's pair i of d/2 turns by pos * g_i, and both cos and sin are multiplied by m. With f_i = base^(-2i/d), s = factor,
 * L = original (the length trained on), n = the engine's --max-model-len:
 *     none       g = f                                             m = 1
 *     linear     g = f / s                                         m = 1
 *     dynamic    n > L: f of base * (s n / L - (s - 1))^(d/(d-2))  m = 1
 *     llama3     wavelength 2 pi / f below L/high: f; above L/low: f / s; between: a blend   m = 1
 *     yarn       blend of f / s and f by a ramp over i             m = 0.1 ln s + 1, or as given
 *     longrope   f / short_factor (n <= L) or f / long_factor      m = sqrt(1 + ln(s) / ln(L)) for s > 1, or as given
 *     divisors   f / short_factor                                  m = 1     (GGUF's rope_freqs)
 * What depends on n is fixed when the engine is opened: a choice per request would make cached keys inconsistent.
 *
 * Computed in double and rounded once; docs/numerics.md says how the angle follows.
 * Source: huggingface/transformers modeling_rope_utils.py; ggml-org/llama.cpp for the GGUF keys.
 */
#ifndef MODEL_ROPE_H
#define MODEL_ROPE_H

#include "model/source.h"

enum { MODEL_ROPE_PAIRS_MAX = 256 };

typedef enum {
    MODEL_ROPE_NONE,
    MODEL_ROPE_LINEAR,
    MODEL_ROPE_DYNAMIC,
    MODEL_ROPE_LLAMA3,
    MODEL_ROPE_YARN,
    MODEL_ROPE_LONGROPE,
    MODEL_ROPE_DIVISORS,
} model_rope_kind;

typedef struct {
    model_rope_kind kind;
    uint32_t d; /* columns of a head that turn: the first ones */
    double base, factor;
    uint32_t original;
    double low_freq, high_freq;    /* llama3 */
    double beta_fast, beta_slow;   /* yarn */
    bool truncate;                 /*   the ramp's ends are whole numbers */
    double mscale, mscale_all_dim; /*   0: not given */
    double attention_factor;       /* yarn, longrope: m as given; 0: by the formula */
    double short_factor[MODEL_ROPE_PAIRS_MAX], long_factor[MODEL_ROPE_PAIRS_MAX];
} model_rope;

/* Reads rope_parameters, rope_scaling and rope_theta of a folder, or the rope.* keys and tensors of a GGUF file. at: the
 * object of a folder that holds the parameters ("rope_parameters", "rope_parameters.full_attention"), NULL: the usual one.
 * d_head: the width of a head; context: max_position_embeddings, trained length where none is given.
 * Errors: FL_EFORMAT for missing and absurd values, FL_EUNSUPPORTED for a kind that is not listed above. */
FL_CHECKED fl_status model_rope_read(model_rope *r, const model_source *s, const char *at, uint32_t d_head,
                                     uint32_t context, fl_err *err);

/* inv_freq [d / 2], *scale: m. max_len: positions a request may have. */
void model_rope_compute(const model_rope *r, uint32_t max_len, float inv_freq[], float *scale);

#endif
