/* model/model.h - from an opened file to the graph of its step.
 *
 * A family (llama.c, gemma3.c) is one file: it reads its configuration from the
 * metadata and calls the shared blocks (block.h). Adding a family: that file, and one
 * line in the table of model.c.
 *
 * Source of the formulas: docs/models.md; the GGUF conventions are those of
 * ggml-org/llama.cpp conversion/.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "file/gguf.h"
#include "graph/graph.h"

enum {
    MODEL_LAYERS_MAX = 512,
    MODEL_CONTEXT_MAX = 1 << 24, /* positions are exact in fp32 */
};

/* Sizes and constants that all families share; what a file does not say is the family's default. */
typedef struct {
    char arch[32];
    uint32_t n_layers, d_model, n_heads, n_kv_heads, d_k, d_v, d_ff, n_vocab;
    uint32_t context_length;
    float eps;
    float attn_scale;                  /* multiplies q.k */
    float embed_scale;                 /* 1: none */
    float attn_softcap, final_softcap; /* 0: none */
    uint32_t window;                   /* of sliding layers, 0: none */
    uint32_t window_period;            /* layer l is full when (l + 1) % period == 0; 0: all full */
    uint32_t rope_d;
    double rope_base, rope_base_local;
    float rope_linear; /* positions of full layers are divided by it */
    bool tied_head;    /* no output.weight: the embedding is the head */
} model_config;

/* Reads and checks the configuration. Errors: FL_EUNSUPPORTED for an architecture (named, with those that are known) or a
 * variant of it; FL_EFORMAT for missing, contradicting or absurd values. */
FL_CHECKED fl_status model_configure(model_config *c, const file_gguf *f, fl_err *err);

/* Builds the step. c: COMPUTE_AUTO, or what all products compute in. The caller owns *out: graph_close(). f must outlive it.
 * Errors: FL_EFORMAT for a tensor that is missing or has another shape than the configuration asks for; FL_ENOMEM. */
FL_CHECKED fl_status model_build(graph **out, const model_config *m, const file_gguf *f, compute c, fl_err *err);

/* The attention profile of a built graph: f32 when all its products are, else q8 or bf16; with its name. */
compute model_profile(const graph *g);
const char *model_profile_name(compute c);

#endif
