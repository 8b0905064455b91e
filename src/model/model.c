#include "model/model.h"

#include "model/block.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const model_family *const families[] = {&model_llama, &model_gemma3};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

static const model_family *find_family(const char *arch) {
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (strcmp(families[i]->arch, arch) == 0) return families[i];
    return NULL;
}

static fl_status unknown_arch(const char *arch, fl_err *err) {
    char known[128] = "";
    for (size_t i = 0; i < N_FAMILIES; i++)
        (void)snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", families[i]->arch);
    return fl_fail(err, FL_EUNSUPPORTED, "architecture %s is not known; supported are %s", arch, known);
}

static const char *key(char out[96], const model_config *c, const char *name) {
    (void)snprintf(out, 96, "%s.%s", c->arch, name);
    return out;
}

static fl_status read_sizes(model_config *c, const file_gguf *f, fl_err *err) {
    char k[96];
    fl_status st = file_gguf_get_u32(f, key(k, c, "block_count"), &c->n_layers, err);
    if (st == FL_OK) st = file_gguf_get_u32(f, key(k, c, "embedding_length"), &c->d_model, err);
    if (st == FL_OK) st = file_gguf_get_u32(f, key(k, c, "feed_forward_length"), &c->d_ff, err);
    if (st == FL_OK) st = file_gguf_get_u32(f, key(k, c, "attention.head_count"), &c->n_heads, err);
    if (st == FL_OK)
        st = file_gguf_get_u32_or(f, key(k, c, "attention.head_count_kv"), c->n_heads, &c->n_kv_heads, err);
    if (st == FL_OK) st = file_gguf_get_u32(f, key(k, c, "context_length"), &c->context_length, err);
    if (st == FL_OK) st = file_gguf_get_f32(f, key(k, c, "attention.layer_norm_rms_epsilon"), &c->eps, err);
    if (st != FL_OK) return st;
    if (c->n_layers == 0 || c->n_layers > MODEL_LAYERS_MAX || c->d_model == 0 || c->d_model > 1 << 20 || c->d_ff == 0 ||
        c->d_ff > 1 << 22 || c->n_heads == 0 || c->n_heads > 4096 || c->n_kv_heads == 0 || c->n_heads % c->n_kv_heads ||
        c->context_length == 0 || c->context_length > MODEL_CONTEXT_MAX || !(c->eps >= 0))
        return fl_fail(
            err, FL_EFORMAT,
            "sizes do not make a model: %u layers of %u, feed-forward %u, %u heads on %u KV heads, context %u",
            c->n_layers, c->d_model, c->d_ff, c->n_heads, c->n_kv_heads, c->context_length);
    uint32_t d_head = c->d_model / c->n_heads;
    st = file_gguf_get_u32_or(f, key(k, c, "attention.key_length"), d_head, &c->d_k, err);
    if (st == FL_OK) st = file_gguf_get_u32_or(f, key(k, c, "attention.value_length"), c->d_k, &c->d_v, err);
    if (st != FL_OK) return st;
    if (c->d_k == 0 || c->d_k > 512 || c->d_k % 8 || c->d_v == 0 || c->d_v > 512 || c->d_v % 8)
        return fl_fail(err, FL_EUNSUPPORTED, "heads of width %u and %u: multiples of 8 up to 512 are supported", c->d_k,
                       c->d_v);
    return FL_OK;
}

static fl_status read_rope(model_config *c, const file_gguf *f, fl_err *err) {
    char k[96];
    float base, factor;
    fl_status st = file_gguf_get_f32_or(f, key(k, c, "rope.freq_base"), 10000.0f, &base, err);
    if (st == FL_OK) st = file_gguf_get_u32_or(f, key(k, c, "rope.dimension_count"), c->d_k, &c->rope_d, err);
    if (st == FL_OK) st = file_gguf_get_f32_or(f, key(k, c, "rope.scaling.factor"), 1.0f, &factor, err);
    if (st != FL_OK) return st;
    if (c->rope_d == 0 || c->rope_d % 2 || c->rope_d > c->d_k || !(base > 0) || !(factor > 0))
        return fl_fail(err, FL_EFORMAT, "RoPE of width %u in heads of %u, base %g, factor %g does not work", c->rope_d,
                       c->d_k, (double)base, (double)factor);
    c->rope_base = c->rope_base_local = base;
    c->rope_linear = 1;
    if (!file_gguf_find(f, key(k, c, "rope.scaling.type"))) return FL_OK;
    file_string type;
    st = file_gguf_get_string(f, k, &type, err);
    if (st != FL_OK) return st;
    if (type.len == 6 && memcmp(type.data, "linear", 6) == 0)
        c->rope_linear = factor;
    else if (type.len != 4 || memcmp(type.data, "none", 4) != 0)
        return fl_fail(err, FL_EUNSUPPORTED, "RoPE scaling %.*s is not supported; none and linear are",
                       (int)(type.len < 40 ? type.len : 40), type.data);
    return FL_OK;
}

/* The embedding says how many tokens there are; a vocabulary in the file must agree. */
static fl_status read_vocabulary(model_config *c, const file_gguf *f, fl_err *err) {
    char k[96];
    const file_gguf_tensor *embd = file_gguf_tensor_find(f, "token_embd.weight");
    if (!embd) return fl_fail(err, FL_EFORMAT, "tensor token_embd.weight is missing");
    if (embd->dims[1] > 1 << 24)
        return fl_fail(err, FL_EFORMAT, "an embedding of %lld tokens", (long long)embd->dims[1]);
    c->n_vocab = (uint32_t)embd->dims[1];
    const file_gguf_value *tokens = file_gguf_find(f, "tokenizer.ggml.tokens");
    if (tokens && tokens->count != c->n_vocab)
        return fl_fail(err, FL_EFORMAT, "the vocabulary has %llu tokens, the embedding %u rows",
                       (unsigned long long)tokens->count, c->n_vocab);
    c->tied_head = !file_gguf_tensor_find(f, "output.weight");
    fl_status st = file_gguf_get_f32_or(f, key(k, c, "final_logit_softcapping"), 0, &c->final_softcap, err);
    if (st == FL_OK) st = file_gguf_get_f32_or(f, key(k, c, "attn_logit_softcapping"), 0, &c->attn_softcap, err);
    return st;
}

fl_status model_configure(model_config *c, const file_gguf *f, fl_err *err) {
    *c = (model_config){.embed_scale = 1};
    file_string arch;
    fl_status st = file_gguf_get_string(f, "general.architecture", &arch, err);
    if (st != FL_OK) return st;
    (void)snprintf(c->arch, sizeof c->arch, "%.*s", (int)(arch.len < sizeof c->arch ? arch.len : sizeof c->arch - 1),
                   arch.data);
    const model_family *family = find_family(c->arch);
    if (!family) return unknown_arch(c->arch, err);
    st = read_sizes(c, f, err);
    if (st == FL_OK) st = read_rope(c, f, err);
    if (st == FL_OK) st = read_vocabulary(c, f, err);
    if (st != FL_OK) return st;
    c->attn_scale = 1.0f / sqrtf((float)c->d_k);
    return family->configure(c, f, err);
}

enum { NODES_PER_LAYER = 32, WEIGHTS_PER_LAYER = 24, EXTRA = 16 };

fl_status model_build(graph **out, const model_config *m, const file_gguf *f, compute c, fl_err *err) {
    *out = NULL;
    graph *g;
    fl_status st = graph_open(&g, m->n_layers * NODES_PER_LAYER + EXTRA, m->n_layers * WEIGHTS_PER_LAYER + EXTRA, err);
    if (st != FL_OK) return st;
    model_builder b = {.g = g, .c = m, .f = f, .compute = c, .err = err};
    find_family(m->arch)->build(&b);
    st = b.status != FL_OK ? b.status : graph_failed(g, err);
    if (st != FL_OK) {
        graph_close(g);
        return st;
    }
    *out = g;
    return FL_OK;
}

compute model_profile(const graph *g) {
    compute profile = COMPUTE_F32;
    for (uint32_t i = 0; i < g->n_weights; i++) {
        if (!(g->weights[i].uses & GRAPH_USE_MATMUL)) continue;
        if (g->weights[i].compute == COMPUTE_Q8 || g->weights[i].compute == COMPUTE_Q12) return COMPUTE_Q8;
        if (g->weights[i].compute == COMPUTE_BF16) profile = COMPUTE_BF16;
    }
    return profile;
}

const char *model_profile_name(compute c) {
    return c == COMPUTE_Q8 ? "q8" : c == COMPUTE_BF16 ? "bf16" : c == COMPUTE_F32 ? "f32" : "auto";
}
