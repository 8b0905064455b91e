/* Llama and the families that are Llama with something more or less: pre-norm, grouped queries, SwiGLU.
 *     llama    2 and 3, SmolLM2; as GGUF also Mistral
 *     mistral  sliding window in all layers of the first version
 *     qwen2    biases on q, k and v
 *     qwen3    norms on the heads of q and k
 *     phi3     q, k, v in one matrix, gate and up in one; longrope
 *     granite  four multipliers
 *     smollm3  layers without RoPE
 * The converter to GGUF has permuted the rows of Wq and Wk of some (`adjacent`), so that RoPE turns neighbouring pairs.
 * Source: huggingface/transformers modeling_*.py, ggml-org/llama.cpp conversion/. */
#include "model/block.h"

static fl_status configure_llama(model_config *c, const model_source *s, fl_err *err) {
    uint32_t n_experts; /* GGUF's llama is Mixtral, too */
    fl_status st = model_get_u32_or(s, "expert_count", NULL, 0, &n_experts, err);
    if (st != FL_OK || n_experts == 0) return st;
    c->experts.routing.renormalise = true;
    return model_read_experts(c, s, err);
}

static fl_status configure_mistral(model_config *c, const model_source *s, fl_err *err) {
    return model_read_layers(c, s, 0, 0, err);
}

/* The window holds from a layer on, and only if it is switched on. */
static fl_status read_qwen_layers(model_config *c, const model_source *s, fl_err *err) {
    bool on;
    uint32_t first;
    fl_status st = model_get_bool_or(s, NULL, "use_sliding_window", false, &on, err);
    if (st == FL_OK) st = model_get_u32_or(s, NULL, "max_window_layers", 28, &first, err);
    return st == FL_OK ? model_read_layers(c, s, on ? first : c->n_layers, 0, err) : st;
}

static fl_status configure_qwen2(model_config *c, const model_source *s, fl_err *err) {
    c->qkv_bias = true;
    c->output_bias = false;
    return read_qwen_layers(c, s, err);
}

static fl_status configure_qwen3(model_config *c, const model_source *s, fl_err *err) {
    c->qk_norm = true;
    return read_qwen_layers(c, s, err);
}

static fl_status configure_phi3(model_config *c, const model_source *s, fl_err *err) {
    return model_read_layers(c, s, 0, 0, err);
}

static fl_status configure_granite(model_config *c, const model_source *s, fl_err *err) {
    double embed, residual, logits, attn;
    fl_status st = model_get_f64_or(s, "embedding_scale", "embedding_multiplier", 1, &embed, err);
    if (st == FL_OK) st = model_get_f64_or(s, "residual_scale", "residual_multiplier", 1, &residual, err);
    if (st == FL_OK) st = model_get_f64_or(s, "logit_scale", "logits_scaling", 1, &logits, err);
    if (st == FL_OK)
        st = model_get_f64_or(s, "attention.scale", "attention_multiplier", (double)c->attn_scale, &attn, err);
    if (st != FL_OK) return st;
    if (!(logits > 0) || !(attn > 0))
        return fl_fail(err, FL_EFORMAT, "multipliers of %g for attention and %g for logits do not work", attn, logits);
    c->embed_scale = (float)embed;
    c->residual_scale = (float)residual;
    c->logit_scale = (float)(1 / logits);
    c->attn_scale = (float)attn;
    return FL_OK;
}

fl_status model_read_no_rope(model_config *c, const model_source *s, fl_err *err) {
    double turns[MODEL_LAYERS_MAX];
    uint32_t n, period;
    fl_status st = model_list_size(s, "no_rope_layers", &n, err);
    if (st == FL_OK) st = model_get_u32_or(s, NULL, "no_rope_layer_interval", 4, &period, err);
    if (st == FL_OK && n) st = model_list_f64(s, "no_rope_layers", c->n_layers, turns, err);
    if (st != FL_OK) return st;
    for (uint32_t i = 0; i < c->n_layers; i++)
        c->layers[i].no_rope = n ? turns[i] == 0 : period && (i + 1) % period == 0;
    return FL_OK;
}

static fl_status configure_smollm3(model_config *c, const model_source *s, fl_err *err) {
    bool on;
    fl_status st = model_read_no_rope(c, s, err);
    if (st == FL_OK) st = model_get_bool_or(s, NULL, "use_sliding_window", false, &on, err);
    return st == FL_OK ? model_read_layers(c, s, on ? 0 : c->n_layers, 0, err) : st;
}

void model_build_decoder(model_builder *b) {
    graph_value h = model_embedding(b);
    for (int l = 0; l < (int)b->c->n_layers; l++) {
        graph_value o = model_attention(b, l, model_norm(b, l, "attn_norm", h, b->c->d_model));
        h = model_residual(b, l, "attn_residual", h, o);
        graph_value f = model_ffn(b, l, model_norm(b, l, "ffn_norm", h, b->c->d_model));
        h = model_residual(b, l, "ffn_residual", h, f);
    }
    model_head(b, h);
}

static const model_name phi3_names[] = {
    {"attn_qkv", "self_attn.qkv_proj"}, {"ffn_up", "mlp.gate_up_proj"}, {NULL, NULL}};

const model_family model_llama = {"llama", "llama", true, NULL, configure_llama, model_build_decoder};
const model_family model_mistral = {NULL, "mistral", false, NULL, configure_mistral, model_build_decoder};
const model_family model_qwen2 = {"qwen2", "qwen2", false, NULL, configure_qwen2, model_build_decoder};
const model_family model_qwen3 = {"qwen3", "qwen3", false, NULL, configure_qwen3, model_build_decoder};
const model_family model_phi3 = {"phi3", "phi3", false, phi3_names, configure_phi3, model_build_decoder};
const model_family model_granite = {"granite", "granite", true, NULL, configure_granite, model_build_decoder};
const model_family model_smollm3 = {"smollm3", "smollm3", true, NULL, configure_smollm3, model_build_decoder};
