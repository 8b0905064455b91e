/* Llama 2 and 3, SmolLM2, Mistral as GGUF `llama`: pre-norm, grouped queries, SwiGLU. The
 * converter has permuted the rows of Wq and Wk, so RoPE turns neighbouring pairs; Llama 3's
 * frequency scaling comes as the tensor rope_freqs. */
#include "model/block.h"

static fl_status configure(model_config *c, const file_gguf *f, fl_err *err) {
    (void)c;
    uint32_t n_experts;
    fl_status st = file_gguf_get_u32_or(f, "llama.expert_count", 0, &n_experts, err);
    if (st != FL_OK) return st;
    if (n_experts > 0)
        return fl_fail(err, FL_EUNSUPPORTED, "llama with %u experts: mixtures of experts are not supported", n_experts);
    return FL_OK;
}

static void build(model_builder *b) {
    uint32_t rope = model_rope(b, b->c->rope_base, b->c->rope_linear, false, true);
    graph_value h = model_embedding(b);
    for (int l = 0; l < (int)b->c->n_layers; l++) {
        graph_value o = model_attention(b, l, model_norm(b, l, "attn_norm", h, b->c->d_model), rope, 0);
        h = graph_binary(b->g, OP_ADD, h, o, graph_label(b->g, l, "attn_residual"));
        graph_value f = model_ffn(b, l, model_norm(b, l, "ffn_norm", h, b->c->d_model), OP_SILU_MUL);
        h = graph_binary(b->g, OP_ADD, h, f, graph_label(b->g, l, "ffn_residual"));
    }
    model_head(b, h);
}

const model_family model_llama = {"llama", configure, build};
