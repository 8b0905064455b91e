/* model/model.h - from an opened model to the graph of its step.
 *
 * A family (llama.c, gemma.c) is one file: it reads what is its own from the source
 * (source.h: GGUF file or folder) and calls the shared blocks (block.h). Adding a family:
 * that file, and one line in the table of model.c.
 *
 * Source of the formulas: docs/models.md; the GGUF conventions are those of
 * ggml-org/llama.cpp conversion/, those of folders huggingface/transformers.
 */
#ifndef MODEL_MODEL_H
#define MODEL_MODEL_H

#include "graph/graph.h"
#include "model/rope.h"
#include "model/source.h"

enum {
    MODEL_LAYERS_MAX = 512,
    MODEL_CONTEXT_MAX = 1 << 24, /* positions are exact in fp32 */
};

typedef struct model_family model_family;

/* What differs between the layers of one model. */
typedef struct {
    bool sliding; /* keys with q - k < window are visible; RoPE is rope_sliding */
    bool no_rope;
    bool experts; /* the feed-forward part is a mixture of experts */
} model_layer;

/* The mixture of experts of a layer. */
typedef struct {
    graph_routing routing;      /* n_experts 0: the model has none */
    uint32_t d_ff, d_ff_shared; /* of one expert, and of the one that every token meets (0: none) */
    bool biased;                /* router and experts have biases */
    bool choice_bias;           /* the router has a bias for choosing only */
    bool weigh_input;           /* a route's weight multiplies the expert's input */
    bool interleaved;           /* folders: gate and up are every other output of one tensor */
    float act_alpha, act_limit; /* limit not 0: clamped SwiGLU */
} model_experts;

/* Multi-head latent attention. */
typedef struct {
    uint32_t q_lora, kv_lora; /* widths of the latents; q_lora 0: q comes from x itself */
    uint32_t d_nope, d_rope;  /* columns of a query head without and with RoPE */
} model_mla;

/* Sizes and constants that all families share; what a file does not say is the family's default. */
typedef struct {
    char arch[64]; /* as the container calls it: general.architecture, or model_type */
    const model_family *family;
    uint32_t n_layers, d_model, n_heads, n_kv_heads, d_k, d_v, d_ff, n_vocab;
    uint32_t context_length;
    float eps;
    float norm_offset;                 /* added to the weights of norms: 1 for Gemma in folders */
    float attn_scale;                  /* multiplies q.k */
    float embed_scale, residual_scale; /* 1: none */
    float logit_scale;                 /* multiplies the logits; 1: none */
    float attn_softcap, final_softcap; /* 0: none */
    op act;                            /* of the feed-forward part: *_MUL */
    bool qkv_bias, output_bias, ffn_bias;
    bool qk_norm;    /* norms on q and k must be there */
    uint32_t window; /* of sliding layers, 0: none slides */
    model_rope rope, rope_sliding;
    bool rope_half;     /* pairs (i, i + d/2), else (2i, 2i+1) */
    bool tied_head;     /* the embedding is the head */
    bool chunked;       /* sliding layers see their own window of positions only */
    bool sinks;         /* attention has a learned sink per head */
    bool qk_norm_after; /* norms without weights on the heads of q and k, behind RoPE */
    float pos_scale; /* layers without RoPE multiply q by 1 + pos_scale * log1p(floor((pos + 1) / pos_scale_every)) */
    uint32_t pos_scale_every;
    model_experts experts;
    model_mla mla;
    model_layer layers[MODEL_LAYERS_MAX];
} model_config;

/* Reads and checks the configuration. Errors: FL_EUNSUPPORTED for an architecture (named, with those that are known) or a
 * variant of it; FL_EFORMAT for missing, contradicting or absurd values. */
FL_CHECKED fl_status model_configure(model_config *c, const model_source *s, fl_err *err);

/* Builds the step. max_len: positions that a request may have, at most (RoPE scaling may depend on it). c: COMPUTE_AUTO, or
 * what all products compute in. The caller owns *out: graph_close(). s must outlive it.
 * Errors: FL_EFORMAT for a tensor that is missing or has another shape than the configuration asks for; FL_EUNSUPPORTED for
 * one of a type that weights may not have, or that the family does not use; FL_ENOMEM. */
FL_CHECKED fl_status model_build(graph **out, const model_config *m, const model_source *s, uint32_t max_len, compute c,
                                 fl_err *err);

/* The attention profile of a built graph: f32 when all its products are, else q8 or bf16; with its name. */
compute model_profile(const graph *g);
const char *model_profile_name(compute c);

#endif
