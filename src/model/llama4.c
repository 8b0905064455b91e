/* Llama 4 (text): three of four layers have RoPE, norms without weights behind it and attention within chunks of
 * positions; the fourth has neither, sees everything, and scales q by the position. One expert per token, chosen by the
 * logit, whose sigmoid multiplies the expert's input, and one shared expert.
 * Pairs of RoPE are neighbours in both containers.
 * Source: huggingface/transformers modeling_llama4.py; ggml-org/llama.cpp src/models/llama4.cpp for GGUF's constants. */
#include "model/block.h"

/* Which layers have experts: those listed, or every interleave_moe_layer_step-th one. */
static fl_status read_moe_layers(model_config *c, const model_source *s, fl_err *err) {
    double listed[MODEL_LAYERS_MAX];
    uint32_t n, step;
    fl_status st = model_list_size(s, "moe_layers", &n, err);
    if (st == FL_OK) st = model_get_u32_or(s, "interleave_moe_layer_step", "interleave_moe_layer_step", 1, &step, err);
    if (st == FL_OK && n > c->n_layers) st = fl_fail(err, FL_EFORMAT, "config.json: %u moe_layers are too many", n);
    if (st == FL_OK && n) st = model_list_f64(s, "moe_layers", n, listed, err);
    if (st != FL_OK) return st;
    for (uint32_t i = 0; i < c->n_layers; i++) c->layers[i].experts = n == 0 && step && (i + 1) % step == 0;
    for (uint32_t i = 0; i < n; i++)
        if (listed[i] >= 0 && listed[i] < c->n_layers) c->layers[(uint32_t)listed[i]].experts = true;
    return FL_OK;
}

/* Published configurations say true, or a number. */
static fl_status read_tuning(const model_source *s, bool *on, fl_err *err) {
    uint32_t n;
    if (model_get_bool_or(s, NULL, "attn_temperature_tuning", true, on, NULL) == FL_OK) return FL_OK;
    fl_status st = model_get_u32_or(s, NULL, "attn_temperature_tuning", 1, &n, err);
    *on = st == FL_OK && n != 0;
    return st;
}

static fl_status read_attention(model_config *c, const model_source *s, fl_err *err) {
    double scale;
    bool tuned, gguf = model_source_gguf(s) != NULL;
    fl_status st = model_read_no_rope(c, s, err);
    if (st == FL_OK) st = model_get_u32_or(s, NULL, "attention_chunk_size", 8192, &c->window, err);
    /* GGUF files do not say it: the large one, with 128 experts, has no norms. */
    if (st == FL_OK)
        st = model_get_bool_or(s, NULL, "use_qk_norm", gguf && c->experts.routing.n_experts != 128, &c->qk_norm_after,
                               err);
    if (st == FL_OK) st = read_tuning(s, &tuned, err);
    if (st == FL_OK) st = model_get_f64_or(s, "attention.temperature_scale", "attn_scale", 0.1, &scale, err);
    if (st == FL_OK)
        st = model_get_u32_or(s, "attention.temperature_length", "floor_scale", 8192, &c->pos_scale_every, err);
    if (st != FL_OK) return st;
    if (c->window == 0 || c->pos_scale_every == 0)
        return fl_fail(err, FL_EFORMAT, "chunks of %u positions, scaled every %u, do not work", c->window,
                       c->pos_scale_every);
    c->chunked = true;
    c->pos_scale = tuned ? (float)scale : 0;
    for (uint32_t i = 0; i < c->n_layers; i++) c->layers[i].sliding = !c->layers[i].no_rope;
    return FL_OK;
}

static fl_status configure(model_config *c, const model_source *s, fl_err *err) {
    fl_status st = model_read_experts(c, s, err);
    if (st == FL_OK && !model_source_gguf(s)) { /* intermediate_size is the experts' */
        c->experts.d_ff = c->d_ff;
        st = model_get_u32_or(s, NULL, "intermediate_size_mlp", c->d_ff, &c->d_ff, err);
    }
    if (st == FL_OK) st = read_moe_layers(c, s, err);
    if (st == FL_OK) st = read_attention(c, s, err);
    if (st != FL_OK) return st;
    if (c->d_ff == 0 || c->d_ff > 1 << 22)
        return fl_fail(err, FL_EFORMAT, "config.json: intermediate_size_mlp %u does not work", c->d_ff);
    c->experts.routing.score = GRAPH_SCORE_SIGMOID;
    c->experts.weigh_input = true;
    c->experts.d_ff_shared = c->experts.d_ff;
    c->rope_half = false;
    return FL_OK;
}

static const model_name names[] = {{"ffn_gate", "feed_forward.gate_proj"},
                                   {"ffn_up", "feed_forward.up_proj"},
                                   {"ffn_down", "feed_forward.down_proj"},
                                   {"ffn_gate_inp", "feed_forward.router"},
                                   {"ffn_gate_up_exps", "feed_forward.experts.gate_up_proj"},
                                   {"ffn_down_exps", "feed_forward.experts.down_proj"},
                                   {"ffn_gate_shexp", "feed_forward.shared_expert.gate_proj"},
                                   {"ffn_up_shexp", "feed_forward.shared_expert.up_proj"},
                                   {"ffn_down_shexp", "feed_forward.shared_expert.down_proj"},
                                   {NULL, NULL}};

const model_family model_llama4 = {"llama4", "llama4_text", true, names, configure, model_build_decoder};
