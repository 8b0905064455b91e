/* gpt-oss: Llama with sinks in attention, every other layer sliding, biases everywhere, and experts whose gate and up
 * are interleaved, clamped and stored as MXFP4 (or in a plain type with k in front).
 * The router's weights are a softmax over the chosen logits.
 * Source: huggingface/transformers modeling_gpt_oss.py; ggml-org/llama.cpp conversion/ for GGUF. */
#include "model/block.h"

static fl_status configure(model_config *c, const model_source *s, fl_err *err) {
    double alpha, limit;
    fl_status st = model_read_experts(c, s, err);
    c->experts.routing.score = GRAPH_SCORE_CHOSEN;
    c->experts.biased = c->experts.interleaved = c->sinks = c->qkv_bias = c->output_bias = true;
    if (st == FL_OK) st = model_get_f64_or(s, NULL, "swiglu_alpha", 1.702, &alpha, err);
    if (st == FL_OK) st = model_get_f64_or(s, NULL, "swiglu_limit", 7, &limit, err);
    if (st == FL_OK && !(limit > 0)) st = fl_fail(err, FL_EFORMAT, "config.json: swiglu_limit %g does not work", limit);
    if (st != FL_OK) return st;
    c->experts.act_alpha = (float)alpha;
    c->experts.act_limit = (float)limit;
    if (model_source_gguf(s)) c->rope.truncate = c->rope_sliding.truncate = false; /* no key says it */
    return model_read_layers(c, s, 0, 2, err);
}

/* GGUF calls the norm before the experts by its place, not by its use. */
static void build(model_builder *b) {
    const char *norm = model_source_gguf(b->s) ? "post_attention_norm" : "ffn_norm";
    graph_value h = model_embedding(b);
    for (int l = 0; l < (int)b->c->n_layers; l++) {
        graph_value o = model_attention(b, l, model_norm(b, l, "attn_norm", h, b->c->d_model));
        h = model_residual(b, l, "attn_residual", h, o);
        graph_value f = model_ffn(b, l, model_norm(b, l, norm, h, b->c->d_model));
        h = model_residual(b, l, "ffn_residual", h, f);
    }
    model_head(b, h);
}

static const model_name names[] = {{"attn_sinks", "self_attn.sinks"},
                                   {"ffn_gate_inp", "mlp.router"},
                                   {"ffn_gate_up_exps", "mlp.experts.gate_up_proj"},
                                   {"ffn_gate_up_exps_bias", "mlp.experts.gate_up_proj_bias"},
                                   {"ffn_gate_up_exps_blocks", "mlp.experts.gate_up_proj_blocks"},
                                   {"ffn_gate_up_exps_scales", "mlp.experts.gate_up_proj_scales"},
                                   {"ffn_down_exps", "mlp.experts.down_proj"},
                                   {"ffn_down_exps_bias", "mlp.experts.down_proj_bias"},
                                   {"ffn_down_exps_blocks", "mlp.experts.down_proj_blocks"},
                                   {"ffn_down_exps_scales", "mlp.experts.down_proj_scales"},
                                   {NULL, NULL}};

const model_family model_gpt_oss = {"gpt-oss", "gpt_oss", false, names, configure, build};
