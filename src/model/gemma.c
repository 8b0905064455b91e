/* Gemma 2 and 3 (text): four norms a layer (1 is added to their weights: by the converter in GGUF, here in folders), scaled
 * embedding, GeGLU, sliding layers between full ones.
 *     2  every other layer slides, the first one does; soft-caps on scores and logits
 *     3  five of six layers slide, with a RoPE base of their own; norms on the heads of q and k
 * Source: google/gemma-3, huggingface/transformers modeling_gemma2.py, modeling_gemma3.py. */
#include "model/block.h"

#include <math.h>

static const model_name names[] = {{"post_attention_norm", "post_attention_layernorm"},
                                   {"ffn_norm", "pre_feedforward_layernorm"},
                                   {"post_ffw_norm", "post_feedforward_layernorm"},
                                   {NULL, NULL}};

/* query_pre_attn_scalar: a GGUF file does not say it. It is the head's width, but for the 27B models, known by their layers. */
static fl_status read_common(model_config *c, const model_source *s, uint32_t layers_27b, fl_err *err) {
    bool big = model_source_gguf(s) && c->n_layers == layers_27b;
    double scalar;
    fl_status st = model_get_f64_or(s, NULL, "query_pre_attn_scalar", big ? (double)c->d_model / c->n_heads : c->d_k,
                                    &scalar, err);
    if (st == FL_OK && !(scalar > 0))
        st =
            fl_fail(err, FL_EFORMAT, "config.json: query_pre_attn_scalar: more than 0 is wanted, %g was found", scalar);
    if (st != FL_OK) return st;
    c->attn_scale = 1.0f / sqrtf((float)scalar);
    c->embed_scale = sqrtf((float)c->d_model);
    c->norm_offset = model_source_gguf(s) ? 0 : 1;
    c->act = OP_GELU_TANH_MUL;
    return FL_OK;
}

static fl_status configure_gemma2(model_config *c, const model_source *s, fl_err *err) {
    fl_status st = read_common(c, s, 46, err);
    return st == FL_OK ? model_read_layers(c, s, 0, 2, err) : st;
}

/* Full layers scale their positions, sliding ones never do. */
static fl_status read_ropes(model_config *c, const model_source *s, fl_err *err) {
    static const char full[] = "rope_parameters.full_attention", local[] = "rope_parameters.sliding_attention";
    model_rope *r = &c->rope_sliding;
    if (model_source_has(s, NULL, full) || model_source_has(s, NULL, local)) {
        fl_status st = model_rope_read(&c->rope, s, full, c->d_k, c->context_length, err);
        return st == FL_OK ? model_rope_read(r, s, local, c->d_k, c->context_length, err) : st;
    }
    *r = (model_rope){.kind = MODEL_ROPE_NONE, .d = c->rope.d, .factor = 1};
    fl_status st = model_get_f64_or(s, "rope.freq_base_swa", "rope_local_base_freq", 10000, &r->base, err);
    if (st == FL_OK && !(r->base > 0)) st = fl_fail(err, FL_EFORMAT, "RoPE of base %g does not work", r->base);
    return st;
}

static fl_status configure_gemma3(model_config *c, const model_source *s, fl_err *err) {
    uint32_t period;
    fl_status st = read_common(c, s, 62, err);
    c->qk_norm = true;
    if (st == FL_OK)
        st = model_get_u32_or(s, "attention.sliding_window_pattern", "sliding_window_pattern", 6, &period, err);
    if (st == FL_OK) st = model_read_layers(c, s, 0, period, err);
    if (st == FL_OK) st = read_ropes(c, s, err);
    return st;
}

static void build(model_builder *b) {
    graph_value h = model_embedding(b);
    for (int l = 0; l < (int)b->c->n_layers; l++) {
        graph_value o = model_attention(b, l, model_norm(b, l, "attn_norm", h, b->c->d_model));
        o = model_norm(b, l, "post_attention_norm", o, b->c->d_model);
        h = model_residual(b, l, "attn_residual", h, o);
        graph_value f = model_ffn(b, l, model_norm(b, l, "ffn_norm", h, b->c->d_model));
        f = model_norm(b, l, "post_ffw_norm", f, b->c->d_model);
        h = model_residual(b, l, "ffn_residual", h, f);
    }
    model_head(b, h);
}

const model_family model_gemma2 = {"gemma2", "gemma2", false, names, configure_gemma2, build};
const model_family model_gemma3 = {"gemma3", "gemma3_text", false, names, configure_gemma3, build};
