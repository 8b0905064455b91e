/* Llama with experts in place of its feed-forward part:
 *     mixtral    softmax over all experts, the chosen weights renormalised (as GGUF: llama with expert_count)
 *     qwen3_moe  the same over narrow experts, norms on the heads of q and k; some layers may have no experts
 * Source: huggingface/transformers modeling_mixtral.py, modeling_qwen3_moe.py; ggml-org/llama.cpp conversion/. */
#include "model/block.h"

static fl_status configure_mixtral(model_config *c, const model_source *s, fl_err *err) {
    fl_status st = model_read_experts(c, s, err);
    c->experts.routing.renormalise = true;
    return st == FL_OK ? model_read_layers(c, s, 0, 0, err) : st;
}

/* Layers in mlp_only_layers have no experts, nor those between every decoder_sparse_step-th one; in a GGUF file, those
 * without a router. */
static fl_status read_dense_layers(model_config *c, const model_source *s, fl_err *err) {
    double dense[MODEL_LAYERS_MAX];
    uint32_t step, n;
    fl_status st = model_get_u32_or(s, NULL, "decoder_sparse_step", 1, &step, err);
    if (st == FL_OK) st = model_list_size(s, "mlp_only_layers", &n, err);
    if (st == FL_OK && (step == 0 || n > c->n_layers))
        st = fl_fail(err, FL_EFORMAT, "config.json: decoder_sparse_step %u or %u mlp_only_layers do not work", step, n);
    if (st == FL_OK && n) st = model_list_f64(s, "mlp_only_layers", n, dense, err);
    if (st != FL_OK) return st;
    for (uint32_t i = 0; i < c->n_layers; i++)
        c->layers[i].experts = model_source_gguf(s)
                                   ? model_source_find(s, NULL, (int)i, "ffn_gate_inp", "weight") != UINT32_MAX
                                   : (i + 1) % step == 0;
    for (uint32_t i = 0; i < n; i++)
        if (dense[i] >= 0 && dense[i] < c->n_layers) c->layers[(uint32_t)dense[i]].experts = false;
    return FL_OK;
}

static fl_status configure_qwen3_moe(model_config *c, const model_source *s, fl_err *err) {
    bool slides;
    c->qk_norm = true;
    fl_status st = model_read_experts(c, s, err);
    if (st == FL_OK) st = read_dense_layers(c, s, err);
    /* GGUF's reader renormalises always; a folder says whether. */
    c->experts.routing.renormalise = true;
    if (st == FL_OK && !model_source_gguf(s))
        st = model_get_bool_or(s, NULL, "norm_topk_prob", false, &c->experts.routing.renormalise, err);
    if (st == FL_OK) st = model_get_bool_or(s, NULL, "use_sliding_window", false, &slides, err);
    if (st == FL_OK && slides) st = fl_fail(err, FL_EUNSUPPORTED, "config.json: use_sliding_window is not supported");
    return st;
}

static const model_name mixtral_names[] = {{"ffn_gate_inp", "block_sparse_moe.gate"},
                                           {"ffn_gate_exps", "block_sparse_moe.experts.*.w1"},
                                           {"ffn_up_exps", "block_sparse_moe.experts.*.w3"},
                                           {"ffn_down_exps", "block_sparse_moe.experts.*.w2"},
                                           {NULL, NULL}};
static const model_name qwen3_moe_names[] = {{"ffn_gate_inp", "mlp.gate"},
                                             {"ffn_gate_exps", "mlp.experts.*.gate_proj"},
                                             {"ffn_up_exps", "mlp.experts.*.up_proj"},
                                             {"ffn_down_exps", "mlp.experts.*.down_proj"},
                                             {NULL, NULL}};

const model_family model_mixtral = {NULL, "mixtral", false, mixtral_names, configure_mixtral, model_build_decoder};
const model_family model_qwen3_moe = {"qwen3moe",      "qwen3_moe",         false,
                                      qwen3_moe_names, configure_qwen3_moe, model_build_decoder};
