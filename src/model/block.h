/* model/block.h - the pieces families are made of. */
#ifndef MODEL_BLOCK_H
#define MODEL_BLOCK_H

#include "model/model.h"

/* The state of building: the first error is kept, later calls do nothing harmful. */
typedef struct {
    graph *g;
    const model_config *c;
    const file_gguf *f;
    compute compute; /* AUTO or forced */
    fl_status status;
    fl_err *err;
    uint32_t rope, rope_local;
} model_builder;

typedef struct {
    const char *arch;
    fl_status (*configure)(model_config *c, const file_gguf *f, fl_err *err);
    void (*build)(model_builder *b);
} model_family;

extern const model_family model_llama, model_gemma3;

/* Weight "blk.LAYER.NAME.weight" (layer < 0: "NAME.weight") of shape [n, k]; FL_EFORMAT in b when it is not there. */
uint32_t model_weight(model_builder *b, int layer, const char *name, uint32_t n, uint32_t k, unsigned use);
bool model_has(const model_builder *b, int layer, const char *name, const char *suffix);

/* h = embedding of the step's tokens, scaled. */
graph_value model_embedding(model_builder *b);
graph_value model_norm(model_builder *b, int layer, const char *name, graph_value x, uint32_t width);
/* What attention adds to the stream, from the normed input: q, k, v (with biases and QK norms if the file has them), RoPE,
 * cache, attention, output product. half: pairing of RoPE. */
graph_value model_attention(model_builder *b, int layer, graph_value x, uint32_t rope, uint32_t window);
/* down(act(gate(x)) * up(x)). */
graph_value model_ffn(model_builder *b, int layer, graph_value x, op act);
/* Wanted rows, final norm, head, sampling. */
void model_head(model_builder *b, graph_value h);

/* A RoPE variant: base ^ (-2i/d), divided by `linear`, and by the file's rope_freqs when use_freqs. */
uint32_t model_rope(model_builder *b, double base, float linear, bool half, bool use_freqs);

#endif
