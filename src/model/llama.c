/* Llama 2 and 3, SmolLM2, Mistral: pre-norm, grouped queries, SwiGLU. In GGUF both are `llama`, whose converter has permuted
 * the rows of Wq and Wk, so that RoPE turns neighbouring pairs; Llama 3's frequency scaling comes as the tensor rope_freqs. */
#include "model/block.h"

static fl_status configure_llama(model_config *c, const model_source *s, fl_err *err) {
    uint32_t n_experts;
    (void)c;
    fl_status st = model_get_u32_or(s, "expert_count", NULL, 0, &n_experts, err);
    if (st == FL_OK && n_experts > 0)
        st = fl_fail(err, FL_EUNSUPPORTED, "llama with %u experts: mixtures of experts are not supported", n_experts);
    return st;
}

static bool all_slide(const model_config *c, uint32_t layer) {
    (void)c;
    (void)layer;
    return true;
}

static fl_status configure_mistral(model_config *c, const model_source *s, fl_err *err) {
    return model_read_layers(c, s, all_slide, err);
}

static void build(model_builder *b) {
    graph_value h = model_embedding(b);
    for (int l = 0; l < (int)b->c->n_layers; l++) {
        graph_value o = model_attention(b, l, model_norm(b, l, "attn_norm", h, b->c->d_model));
        h = model_residual(b, l, "attn_residual", h, o);
        graph_value f = model_ffn(b, l, model_norm(b, l, "ffn_norm", h, b->c->d_model));
        h = model_residual(b, l, "ffn_residual", h, f);
    }
    model_head(b, h);
}

const model_family model_llama = {"llama", "llama", true, NULL, configure_llama, build};
const model_family model_mistral = {NULL, "mistral", false, NULL, configure_mistral, build};
