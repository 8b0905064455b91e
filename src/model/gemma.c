/* Gemma 3 (text) as GGUF `gemma3`: four norms a layer (1 is already added to their weights),
 * norms on q and k, scaled embedding, GeGLU; five sliding layers to one full layer, with RoPE
 * bases of their own. Source: google/gemma-3, huggingface/transformers modeling_gemma3.py. */
#include "model/block.h"

#include <math.h>

static fl_status configure(model_config *c, const file_gguf *f, fl_err *err) {
    float local;
    fl_status st = file_gguf_get_f32_or(f, "gemma3.rope.freq_base_swa", 10000.0f, &local, err);
    if (st == FL_OK) st = file_gguf_get_u32_or(f, "gemma3.attention.sliding_window_pattern", 6, &c->window_period, err);
    if (st == FL_OK) st = file_gguf_get_u32(f, "gemma3.attention.sliding_window", &c->window, err);
    if (st != FL_OK) return st;
    c->rope_base_local = local;
    c->embed_scale = sqrtf((float)c->d_model);
    /* query_pre_attn_scalar: the head width, but for the 27B model (62 layers), which the file does not say. */
    c->attn_scale =
        c->n_layers == 62 ? 1.0f / sqrtf((float)c->d_model / (float)c->n_heads) : 1.0f / sqrtf((float)c->d_k);
    return FL_OK;
}

static void build(model_builder *b) {
    const model_config *c = b->c;
    uint32_t rope_full = model_rope(b, c->rope_base, c->rope_linear, true, false);
    uint32_t rope_local = model_rope(b, c->rope_base_local, 1, true, false);
    graph_value h = model_embedding(b);
    for (int l = 0; l < (int)c->n_layers; l++) {
        bool full = c->window_period == 0 || ((uint32_t)l + 1) % c->window_period == 0;
        graph_value x = model_norm(b, l, "attn_norm", h, c->d_model);
        graph_value o = model_attention(b, l, x, full ? rope_full : rope_local, full ? 0 : c->window);
        o = model_norm(b, l, "post_attention_norm", o, c->d_model);
        h = graph_binary(b->g, OP_ADD, h, o, graph_label(b->g, l, "attn_residual"));
        graph_value f = model_ffn(b, l, model_norm(b, l, "ffn_norm", h, c->d_model), OP_GELU_TANH_MUL);
        f = model_norm(b, l, "post_ffw_norm", f, c->d_model);
        h = graph_binary(b->g, OP_ADD, h, f, graph_label(b->g, l, "ffn_residual"));
    }
    model_head(b, h);
}

const model_family model_gemma3 = {"gemma3", configure, build};
