/* model/block.h - the pieces families are made of. */
#ifndef MODEL_BLOCK_H
#define MODEL_BLOCK_H

#include "model/model.h"

/* The state of building: the first error is kept, later calls do nothing harmful. */
typedef struct {
    graph *g;
    const model_config *c;
    const model_source *s;
    uint32_t max_len;
    compute compute; /* AUTO or forced */
    fl_status status;
    fl_err *err;
    uint8_t *used;          /* [tensors of the source] in the graph */
    uint32_t rope, sliding; /* RoPE variants of full and sliding layers, see model_ropes() */
} model_builder;

struct model_family {
    const char *gguf, *hf; /* general.architecture, model_type; NULL: the container has no such family */
    bool adjacent;         /* GGUF's converter has permuted the rows of Wq and Wk: RoPE turns neighbouring pairs */
    const model_name *names;
    /* What is the family's own; c has been filled with what all share. */
    fl_status (*configure)(model_config *c, const model_source *s, fl_err *err);
    void (*build)(model_builder *b);
};

extern const model_family model_llama, model_mistral, model_qwen2, model_qwen3, model_phi3, model_granite,
    model_smollm3, model_gemma2, model_gemma3, model_olmo2, model_mixtral, model_qwen3_moe, model_gpt_oss, model_llama4,
    model_deepseek_v2, model_deepseek_v3;

/* Configuring. Window, and which layers slide. Where the source does not list them (layer_types) it is layer l when
 * l >= first and l + 1 is no multiple of the period (0: no period). */
FL_CHECKED fl_status model_read_layers(model_config *c, const model_source *s, uint32_t first, uint32_t period,
                                       fl_err *err);
/* Number, width and use of experts; all layers get them. */
FL_CHECKED fl_status model_read_experts(model_config *c, const model_source *s, fl_err *err);
/* no_rope_layers says 1 where a layer does turn; without the list every fourth one does not. */
FL_CHECKED fl_status model_read_no_rope(model_config *c, const model_source *s, fl_err *err);
/* A feature that the family's folders may ask for and that is not built: refused when the key is there and not false. */
FL_CHECKED fl_status model_refuse(const model_source *s, const char *hf, fl_err *err);

/* Weight "blk.LAYER.NAME.weight" (layer < 0: "NAME.weight") of shape [n, k]; FL_EFORMAT in b when it is not there. */
uint32_t model_weight(model_builder *b, int layer, const char *name, uint32_t n, uint32_t k, unsigned use);
/* Rows first .. first + n of the same weight of n_all rows: a part of a fused one, as it lies. */
uint32_t model_weight_rows(model_builder *b, int layer, const char *name, uint32_t n_all, uint32_t first, uint32_t n,
                           uint32_t k);
/* A vector of k values of any suffix. */
uint32_t model_vector(model_builder *b, int layer, const char *name, const char *suffix, uint32_t k);
/* A stack [n_stack, n, k], as it lies. */
uint32_t model_stack(model_builder *b, int layer, const char *name, uint32_t n_stack, uint32_t n, uint32_t k);
/* A tensor of a layer, marked as used, its shape and type unchecked; false: b has failed. table: NULL: the family's. */
bool model_take(model_builder *b, const model_name *table, int layer, const char *name, const char *suffix,
                model_tensor *t);
/* For a source without tensors: the one that a weight [n_stack, n, k] would be. name is borrowed. */
void model_make_up(const model_builder *b, const char *name, uint32_t n_stack, uint32_t n, uint32_t k, bool vector,
                   model_tensor *t);
/* Whether stacks lie as they are used, or would: folders keep them in other ways. */
static inline bool model_has_stacks(const model_builder *b) {
    return model_source_gguf(b->s) || model_source_shape(b->s);
}
/* A weight like `like`, whose name, compute type and copy of the layout are made here. */
uint32_t model_add_stack(model_builder *b, int layer, const char *name, const graph_weight *like);
compute model_compute_of(const model_builder *b, const dtype_info *type);
bool model_has(const model_builder *b, int layer, const char *name, const char *suffix);

/* h = embedding of the step's tokens, scaled. */
graph_value model_embedding(model_builder *b);
graph_value model_norm(model_builder *b, int layer, const char *name, graph_value x, uint32_t width);
/* What attention adds to the stream, from the normed input: q, k, v (with biases, and QK norms if the model has them: per
 * head, or over all heads where the weight is that wide), RoPE, cache, attention, output product. */
graph_value model_attention(model_builder *b, int layer, graph_value x);
/* Router, experts, weighted sum, shared expert, as c->experts says. */
graph_value model_ffn_experts(model_builder *b, int layer, graph_value x);
/* The experts of a layer that has them, else down(act(gate(x)) * up(x)); without ffn_gate its rows stand before those of up in ffn_up. */
graph_value model_ffn(model_builder *b, int layer, graph_value x);
/* h + residual_scale * x. */
graph_value model_residual(model_builder *b, int layer, const char *label, graph_value h, graph_value x);
/* All of a model of the usual shape: embedding; norm, attention, norm, feed-forward part of each layer; head. */
void model_build_decoder(model_builder *b);
/* Wanted rows, final norm, head, sampling. */
void model_head(model_builder *b, graph_value h);

/* Fills rope and sliding from the configuration. */
void model_ropes(model_builder *b);

#endif
