/* OLMo 2: no norms before attention and feed-forward part, but after them; norms over the whole width of q and k.
 * Source: huggingface/transformers modeling_olmo2.py. */
#include "model/block.h"

static const model_name names[] = {
    {"post_attention_norm", "post_attention_layernorm"}, {"post_ffw_norm", "post_feedforward_layernorm"}, {NULL, NULL}};

static fl_status configure(model_config *c, const model_source *s, fl_err *err) {
    c->qk_norm = true;
    if (model_source_has(s, "attention.sliding_window", NULL)) /* OLMo 3 under OLMo 2's name */
        return fl_fail(err, FL_EUNSUPPORTED, "olmo2 with a sliding window is not supported");
    return FL_OK;
}

static void build(model_builder *b) {
    graph_value h = model_embedding(b);
    for (int l = 0; l < (int)b->c->n_layers; l++) {
        graph_value o = model_norm(b, l, "post_attention_norm", model_attention(b, l, h), b->c->d_model);
        h = model_residual(b, l, "attn_residual", h, o);
        graph_value f = model_norm(b, l, "post_ffw_norm", model_ffn(b, l, h), b->c->d_model);
        h = model_residual(b, l, "ffn_residual", h, f);
    }
    model_head(b, h);
}

const model_family model_olmo2 = {"olmo2", "olmo2", false, names, configure, build};
