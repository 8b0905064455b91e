#include "model/model.h"

#include "model/block.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const model_family *const families[] = {&model_llama,   &model_mistral, &model_qwen2,       &model_qwen3,
                                               &model_phi3,    &model_granite, &model_smollm3,     &model_gemma2,
                                               &model_gemma3,  &model_olmo2,   &model_mixtral,     &model_qwen3_moe,
                                               &model_gpt_oss, &model_llama4,  &model_deepseek_v2, &model_deepseek_v3};
enum { N_FAMILIES = sizeof families / sizeof families[0] };

/* ---- which family ---- */

static const char *name_of(const model_family *f, bool gguf) { return gguf ? f->gguf : f->hf; }

static const model_family *find_family(const char *arch, bool gguf) {
    for (size_t i = 0; i < N_FAMILIES; i++)
        if (name_of(families[i], gguf) && strcmp(name_of(families[i], gguf), arch) == 0) return families[i];
    return NULL;
}

/* Letters that two names have in common from their beginning: what is nearest is named first. */
static size_t common(const char *a, const char *b) {
    size_t n = 0;
    while (a[n] && a[n] == b[n]) n++;
    return n;
}

static fl_status unknown_arch(const char *arch, bool gguf, fl_err *err) {
    char known[256] = "";
    size_t best = 0;
    const char *nearest = NULL;
    for (size_t i = 0; i < N_FAMILIES; i++) {
        const char *name = name_of(families[i], gguf);
        if (!name) continue;
        (void)snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", *known ? ", " : "", name);
        if (common(arch, name) > best && common(arch, name) >= 3) {
            best = common(arch, name);
            nearest = name;
        }
    }
    return fl_fail(err, FL_EUNSUPPORTED, "%s %s is not known%s%s; supported are %s",
                   gguf ? "architecture" : "model_type", arch, nearest ? "; nearest to it is " : "",
                   nearest ? nearest : "", known);
}

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), k = strlen(end);
    return n >= k && strcmp(text + n - k, end) == 0;
}

/* A classifier or an embedding model has the layers of a family and another head. */
static fl_status check_task(const model_source *s, fl_err *err) {
    uint32_t n;
    const char *name;
    fl_status st = model_list_size(s, "architectures", &n, err);
    if (st != FL_OK || n == 0) return st;
    st = model_list_text(s, "architectures", 0, &name, err);
    if (st == FL_OK && !ends_with(name, "ForCausalLM") && !ends_with(name, "ForConditionalGeneration"))
        st = fl_fail(err, FL_EUNSUPPORTED, "config.json: architecture %.60s does not generate text", name);
    return st;
}

static fl_status read_family(model_config *c, const model_source *s, fl_err *err) {
    const file_gguf *g = model_source_gguf(s);
    fl_status st;
    if (g) {
        file_string arch;
        st = file_gguf_get_string(g, "general.architecture", &arch, err);
        if (st != FL_OK) return st;
        (void)snprintf(c->arch, sizeof c->arch, "%.*s", (int)(arch.len < 63 ? arch.len : 63), arch.data);
    } else {
        st = model_get_text(s, NULL, "model_type", c->arch, err);
        if (st == FL_OK && !*c->arch) st = fl_fail(err, FL_EFORMAT, "config.json: model_type is missing");
    }
    if (st != FL_OK) return st;
    c->family = find_family(c->arch, g != NULL);
    if (!c->family) return unknown_arch(c->arch, g != NULL, err);
    return g ? FL_OK : check_task(s, err);
}

/* ---- what all share ---- */

fl_status model_refuse(const model_source *s, const char *hf, fl_err *err) {
    bool on = true;
    if (!model_source_has(s, NULL, hf)) return FL_OK;
    if (model_get_bool_or(s, NULL, hf, true, &on, NULL) == FL_OK && !on) return FL_OK;
    return fl_fail(err, FL_EUNSUPPORTED, "config.json: %s is not supported", hf);
}

static fl_status read_sizes(model_config *c, const model_source *s, fl_err *err) {
    double eps;
    fl_status st = model_get_u32(s, "block_count", "num_hidden_layers", &c->n_layers, err);
    if (st == FL_OK) st = model_get_u32(s, "embedding_length", "hidden_size", &c->d_model, err);
    if (st == FL_OK) st = model_get_u32(s, "feed_forward_length", "intermediate_size", &c->d_ff, err);
    if (st == FL_OK) st = model_get_u32(s, "attention.head_count", "num_attention_heads", &c->n_heads, err);
    if (st == FL_OK)
        st = model_get_u32_or(s, "attention.head_count_kv", "num_key_value_heads", c->n_heads, &c->n_kv_heads, err);
    if (st == FL_OK) st = model_get_u32(s, "context_length", "max_position_embeddings", &c->context_length, err);
    if (st == FL_OK) st = model_get_f64(s, "attention.layer_norm_rms_epsilon", "rms_norm_eps", &eps, err);
    if (st != FL_OK) return st;
    c->eps = (float)eps;
    if (c->n_layers == 0 || c->n_layers > MODEL_LAYERS_MAX || c->d_model == 0 || c->d_model > 1 << 20 || c->d_ff == 0 ||
        c->d_ff > 1 << 22 || c->n_heads == 0 || c->n_heads > 4096 || c->n_kv_heads == 0 || c->n_heads % c->n_kv_heads ||
        c->context_length == 0 || c->context_length > MODEL_CONTEXT_MAX || !(c->eps >= 0))
        return fl_fail(
            err, FL_EFORMAT,
            "sizes do not make a model: %u layers of %u, feed-forward %u, %u heads on %u KV heads, context %u",
            c->n_layers, c->d_model, c->d_ff, c->n_heads, c->n_kv_heads, c->context_length);
    uint32_t d_head = c->d_model / c->n_heads;
    st = model_get_u32_or(s, "attention.key_length", "head_dim", d_head, &c->d_k, err);
    if (st == FL_OK) st = model_get_u32_or(s, "attention.value_length", NULL, c->d_k, &c->d_v, err);
    if (st != FL_OK) return st;
    if (c->d_k == 0 || c->d_k > 576 || c->d_k % 2 || c->d_v == 0 || c->d_v > 576)
        return fl_fail(err, FL_EUNSUPPORTED, "heads of width %u and %u: even widths up to 576 are supported", c->d_k,
                       c->d_v);
    c->attn_scale = 1.0f / sqrtf((float)c->d_k);
    return FL_OK;
}

/* The embedding says how many tokens there are; what else counts them must agree. */
static fl_status read_vocabulary(model_config *c, const model_source *s, fl_err *err) {
    if (model_source_shape(s)) {
        fl_status st = model_get_u32(s, NULL, "vocab_size", &c->n_vocab, err);
        if (st == FL_OK && (c->n_vocab == 0 || c->n_vocab > 1 << 24))
            st = fl_fail(err, FL_EFORMAT, "config.json: a vocabulary of %u tokens", c->n_vocab);
        return st == FL_OK ? model_get_bool_or(s, NULL, "tie_word_embeddings", true, &c->tied_head, err) : st;
    }
    model_tensor t;
    uint32_t n, i = model_source_find(s, c->family->names, -1, "token_embd", "weight");
    if (i == UINT32_MAX) return fl_fail(err, FL_EFORMAT, "tensor token_embd.weight is missing");
    model_source_tensor_at(s, i, &t);
    if (t.dims[1] < 1 || t.dims[1] > 1 << 24)
        return fl_fail(err, FL_EFORMAT, "an embedding of %lld tokens", (long long)t.dims[1]);
    c->n_vocab = (uint32_t)t.dims[1];
    const file_gguf *g = model_source_gguf(s);
    const file_gguf_value *tokens = g ? file_gguf_find(g, "tokenizer.ggml.tokens") : NULL;
    if (tokens && tokens->count != c->n_vocab)
        return fl_fail(err, FL_EFORMAT, "the vocabulary has %llu tokens, the embedding %u rows",
                       (unsigned long long)tokens->count, c->n_vocab);
    fl_status st = model_get_u32_or(s, NULL, "vocab_size", c->n_vocab, &n, err);
    if (st == FL_OK && n != c->n_vocab)
        return fl_fail(err, FL_EFORMAT, "config.json: vocab_size is %u, the embedding has %u rows", n, c->n_vocab);
    bool head = model_source_find(s, c->family->names, -1, "output", "weight") != UINT32_MAX;
    if (st == FL_OK) st = model_get_bool_or(s, NULL, "tie_word_embeddings", !head, &c->tied_head, err);
    return st;
}

static bool on_layer_0(const model_config *c, const model_source *s, const char *name) {
    return model_source_find(s, c->family->names, 0, name, "bias") != UINT32_MAX;
}

/* A folder says which biases it has, a GGUF file shows them. */
static fl_status read_biases(model_config *c, const model_source *s, fl_err *err) {
    bool gguf = model_source_gguf(s) != NULL;
    fl_status st = model_get_bool_or(s, NULL, "attention_bias", gguf && on_layer_0(c, s, "attn_q"), &c->qkv_bias, err);
    c->output_bias = gguf ? on_layer_0(c, s, "attn_output") : c->qkv_bias;
    if (st == FL_OK)
        st = model_get_bool_or(s, NULL, "mlp_bias", gguf && on_layer_0(c, s, "ffn_down"), &c->ffn_bias, err);
    return st;
}

static fl_status read_activation(model_config *c, const model_source *s, fl_err *err) {
    char name[64];
    const char *key = model_source_has(s, NULL, "hidden_activation") ? "hidden_activation" : "hidden_act";
    fl_status st = model_get_text(s, NULL, key, name, err);
    if (st != FL_OK) return st;
    c->act = OP_SILU_MUL;
    if (strcmp(name, "gelu_pytorch_tanh") == 0)
        c->act = OP_GELU_TANH_MUL;
    else if (*name && strcmp(name, "silu") != 0 && strcmp(name, "swish") != 0)
        return fl_fail(err, FL_EUNSUPPORTED, "config.json: %s %s is not supported; silu and gelu_pytorch_tanh are", key,
                       name);
    return FL_OK;
}

fl_status model_read_layers(model_config *c, const model_source *s, uint32_t first, uint32_t period, fl_err *err) {
    uint32_t n;
    bool any = false;
    fl_status st = model_get_u32_or(s, "attention.sliding_window", "sliding_window", 0, &c->window, err);
    if (st == FL_OK) st = model_list_size(s, "layer_types", &n, err);
    if (st == FL_OK && n && n != c->n_layers)
        return fl_fail(err, FL_EFORMAT, "config.json: layer_types: %u are wanted, it has %u", c->n_layers, n);
    for (uint32_t i = 0; i < c->n_layers && st == FL_OK; i++) {
        const char *type = NULL;
        if (n) st = model_list_text(s, "layer_types", i, &type, err);
        if (st != FL_OK) return st;
        if (type && strcmp(type, "full_attention") != 0 && strcmp(type, "sliding_attention") != 0)
            return fl_fail(err, FL_EUNSUPPORTED, "config.json: layer_types: %.40s is not supported", type);
        bool slides = c->window && i >= first && (period == 0 || (i + 1) % period != 0);
        c->layers[i].sliding = type ? *type == 's' : slides;
        any = any || c->layers[i].sliding;
    }
    if (st == FL_OK && any && c->window == 0)
        st = fl_fail(err, FL_EFORMAT, "config.json: sliding_window is missing or 0, and layers slide");
    return st;
}

static fl_status read_softcaps(model_config *c, const model_source *s, fl_err *err) {
    double attn, final;
    fl_status st = model_get_f64_or(s, "attn_logit_softcapping", "attn_logit_softcapping", 0, &attn, err);
    if (st == FL_OK) st = model_get_f64_or(s, "final_logit_softcapping", "final_logit_softcapping", 0, &final, err);
    if (st != FL_OK) return st;
    if (!(attn >= 0) || !(final >= 0)) return fl_fail(err, FL_EFORMAT, "soft-caps %g and %g do not work", attn, final);
    c->attn_softcap = (float)attn;
    c->final_softcap = (float) final;
    return FL_OK;
}

/* gpt-oss publishes its experts in MXFP4, which the family reads by itself. */
static fl_status check_unsupported(const model_config *c, const model_source *s, fl_err *err) {
    static const char *const keys[] = {"quantization_config", "dual_chunk_attention_config", "llama_4_scaling",
                                       "use_bidirectional_attention"};
    fl_status st = FL_OK;
    char method[64] = "";
    if (c->family == &model_gpt_oss) st = model_get_text(s, NULL, "quantization_config.quant_method", method, err);
    const size_t first = strcmp(method, "mxfp4") == 0;
    for (size_t i = first; i < sizeof keys / sizeof keys[0] && st == FL_OK; i++) st = model_refuse(s, keys[i], err);
    return st;
}

fl_status model_configure(model_config *c, const model_source *s, fl_err *err) {
    *c = (model_config){.embed_scale = 1, .residual_scale = 1, .logit_scale = 1};
    fl_status st = read_family(c, s, err);
    if (st == FL_OK) st = check_unsupported(c, s, err);
    if (st == FL_OK) st = read_sizes(c, s, err);
    if (st == FL_OK) st = model_rope_read(&c->rope, s, NULL, c->d_k, c->context_length, err);
    if (st == FL_OK) st = read_vocabulary(c, s, err);
    if (st == FL_OK) st = read_biases(c, s, err);
    if (st == FL_OK) st = read_activation(c, s, err);
    if (st == FL_OK) st = read_softcaps(c, s, err);
    if (st != FL_OK) return st;
    c->rope_sliding = c->rope;
    c->rope_half = !model_source_gguf(s) || !c->family->adjacent;
    return c->family->configure(c, s, err);
}

/* ---- building ---- */

/* A tensor of a layer that nothing has read would be a part of the model that is not computed. */
static fl_status check_all_used(const model_builder *b) {
    bool gguf = model_source_gguf(b->s) != NULL;
    for (uint32_t i = 0; i < model_source_n_tensors(b->s); i++) {
        int layer = b->used[i] ? -2 : model_source_layer_of(b->s, i);
        if (layer == -2 || layer >= (int)b->c->n_layers || (layer == -1 && gguf)) continue;
        model_tensor t;
        model_source_tensor_at(b->s, i, &t);
        if (strstr(t.name, "rotary_emb.inv_freq")) continue; /* a table that old writers kept */
        if (b->c->tied_head && layer == -1 && ends_with(t.name, "lm_head.weight")) continue;
        return fl_fail(b->err, FL_EUNSUPPORTED, "tensor %s is not one that %s models have", t.name, b->c->arch);
    }
    return FL_OK;
}

enum { NODES_PER_LAYER = 40, WEIGHTS_PER_LAYER = 24, EXTRA = 16 };

fl_status model_build(graph **out, const model_config *m, const model_source *s, uint32_t max_len, compute c,
                      fl_err *err) {
    *out = NULL;
    graph *g;
    fl_status st = graph_open(&g, m->n_layers * NODES_PER_LAYER + EXTRA, m->n_layers * WEIGHTS_PER_LAYER + EXTRA, err);
    if (st != FL_OK) return st;
    model_builder b = {.g = g, .c = m, .s = s, .max_len = max_len, .compute = c, .err = err};
    b.used = base_arena_calloc(&g->arena, model_source_n_tensors(s) + 1, 1);
    if (b.used) {
        model_ropes(&b);
        m->family->build(&b);
        st = b.status != FL_OK ? b.status : graph_failed(g, err);
        if (st == FL_OK) st = check_all_used(&b);
    } else
        st = fl_fail(err, FL_ENOMEM, "a graph: no memory");
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
