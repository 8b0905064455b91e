/* DeepSeek V2 and V3 (as GGUF both are deepseek2): attention over a latent, and experts behind the first dense layers.
 *
 * Multi-head latent attention in its absorbed form: the cache holds one row [latent, rope part] per token, which every
 * head shares; a head's query without RoPE is taken into the latent's space by W_uk, and what attention gives is taken
 * out of it by W_uv. The published kv_b_proj holds, for each head, d_nope rows of W_uk (transposed) and d_v of W_uv;
 * GGUF has them apart and turned as they are used.
 *     V2  softmax; groups of experts by their best; weights are not renormalised
 *     V3  sigmoid, a bias for choosing, groups by the sum of their two best, weights renormalised
 * Source: huggingface/transformers modeling_deepseek_v2.py, _v3.py; ggml-org/llama.cpp conversion/. */
#include "model/block.h"

#include "graph/weight.h"

#include <math.h>
#include <string.h>

static fl_status read_mla(model_config *c, const model_source *s, fl_err *err) {
    model_mla *m = &c->mla;
    const bool gguf = model_source_gguf(s) != NULL;
    uint32_t d_k = 0;
    fl_status st = model_get_u32_or(s, "attention.q_lora_rank", "q_lora_rank", 0, &m->q_lora, err);
    if (st == FL_OK) st = model_get_u32(s, "attention.kv_lora_rank", "kv_lora_rank", &m->kv_lora, err);
    if (st == FL_OK) st = model_get_u32(s, "rope.dimension_count", "qk_rope_head_dim", &m->d_rope, err);
    if (st == FL_OK) st = model_get_u32(s, "attention.value_length_mla", "v_head_dim", &c->d_v, err);
    if (st == FL_OK) st = model_get_u32(s, "attention.key_length_mla", "qk_nope_head_dim", &d_k, err);
    if (st != FL_OK) return st;
    m->d_nope = gguf ? d_k - m->d_rope : d_k;
    if (m->kv_lora == 0 || m->kv_lora > 512 || m->d_rope == 0 || m->d_rope > 64 || d_k > 512 || m->d_nope == 0 ||
        m->d_nope > 512 || c->d_v == 0 || c->d_v > 512 || m->q_lora > 1 << 20)
        return fl_fail(err, FL_EFORMAT,
                       "attention over a latent of %u, heads of %u and %u with RoPE, values of %u, does not work",
                       m->kv_lora, m->d_nope, m->d_rope, c->d_v);
    /* Some small files name a rank that they do not use. */
    if (gguf && model_source_find(s, NULL, 0, "attn_q", "weight") != UINT32_MAX) m->q_lora = 0;
    c->d_k = m->d_nope + m->d_rope;
    c->n_kv_heads = c->n_heads;
    return FL_OK;
}

/* YaRN's factor m for all dimensions multiplies q and k here, so its square the scale; GGUF has 0.1 times its weight. */
static fl_status read_scale(model_config *c, const model_source *s, fl_err *err) {
    double all = 0;
    fl_status st = model_rope_read(&c->rope, s, NULL, c->mla.d_rope, c->context_length, err);
    if (st == FL_OK) st = model_get_f64_or(s, "rope.scaling.yarn_log_multiplier", NULL, 0, &all, err);
    if (st != FL_OK) return st;
    double m = 1;
    if (c->rope.kind == MODEL_ROPE_YARN && model_source_gguf(s)) {
        c->rope.attention_factor = 1; /* the two factors of cos and sin cancel in every published model */
        m = 1 + all * log(c->rope.factor);
    } else if (c->rope.kind == MODEL_ROPE_YARN && c->rope.factor > 1) {
        m = 1 + 0.1 * c->rope.mscale_all_dim * log(c->rope.factor);
    }
    c->attn_scale = (float)(m * m / sqrt((double)c->d_k));
    c->rope_sliding = c->rope;
    return FL_OK;
}

static fl_status read_scoring(model_config *c, const model_source *s, bool v3, fl_err *err) {
    graph_routing *r = &c->experts.routing;
    char name[64];
    uint32_t gating;
    fl_status st = model_get_text(s, NULL, "scoring_func", name, err);
    if (st == FL_OK) st = model_get_u32_or(s, "expert_gating_func", NULL, 1, &gating, err);
    if (st != FL_OK) return st;
    bool sigmoid = model_source_gguf(s) ? gating == 2 : *name ? strcmp(name, "sigmoid") == 0 : v3;
    if ((*name && !sigmoid && strcmp(name, "softmax") != 0) || (gating != 1 && gating != 2))
        return fl_fail(err, FL_EUNSUPPORTED, "experts scored by %s (%u): softmax and sigmoid are supported", name,
                       gating);
    r->score = sigmoid ? GRAPH_SCORE_SIGMOID : GRAPH_SCORE_SOFTMAX;
    r->group_by_two = sigmoid;
    c->experts.choice_bias = v3;
    return FL_OK;
}

static fl_status read_routing(model_config *c, const model_source *s, bool v3, fl_err *err) {
    graph_routing *r = &c->experts.routing;
    double scale;
    char method[64];
    fl_status st = read_scoring(c, s, v3, err);
    if (st == FL_OK) st = model_get_u32_or(s, "expert_group_count", "n_group", 1, &r->n_groups, err);
    if (st == FL_OK) st = model_get_u32_or(s, "expert_group_used_count", "topk_group", 1, &r->n_groups_used, err);
    if (st == FL_OK) st = model_get_f64_or(s, "expert_weights_scale", "routed_scaling_factor", 1, &scale, err);
    if (st == FL_OK) st = model_get_bool_or(s, "expert_weights_norm", "norm_topk_prob", v3, &r->renormalise, err);
    if (st == FL_OK) st = model_get_text(s, NULL, "topk_method", method, err);
    if (st != FL_OK) return st;
    if (strcmp(method, "greedy") == 0) r->n_groups = 1;
    r->scale = scale == 0 ? 1 : (float)scale;
    return FL_OK;
}

/* Layers with experts begin behind the first dense ones; the layers that predict further tokens are not built. */
static fl_status read_layers(model_config *c, const model_source *s, fl_err *err) {
    uint32_t dense, every, next = 0, n_shared;
    fl_status st = model_get_u32_or(s, "leading_dense_block_count", "first_k_dense_replace", 0, &dense, err);
    if (st == FL_OK) st = model_get_u32_or(s, NULL, "moe_layer_freq", 1, &every, err);
    if (st == FL_OK) st = model_get_u32_or(s, "nextn_predict_layers", NULL, 0, &next, err);
    if (st == FL_OK) st = model_get_u32_or(s, "expert_shared_count", "n_shared_experts", 0, &n_shared, err);
    if (st != FL_OK) return st;
    if (every == 0 || next >= c->n_layers || n_shared > 64)
        return fl_fail(err, FL_EFORMAT, "experts every %u layers, %u shared, %u layers of %u ahead, do not work", every,
                       n_shared, next, c->n_layers);
    c->n_layers -= next;
    c->experts.d_ff_shared = n_shared * c->experts.d_ff;
    for (uint32_t i = 0; i < c->n_layers; i++) c->layers[i].experts = i >= dense && i % every == 0;
    return FL_OK;
}

static fl_status configure(model_config *c, const model_source *s, bool v3, fl_err *err) {
    fl_status st = model_refuse(s, "attention_bias", err);
    if (st == FL_OK) st = model_read_experts(c, s, err);
    if (st == FL_OK) st = read_layers(c, s, err);
    if (st == FL_OK) st = read_routing(c, s, v3, err);
    if (st == FL_OK) st = read_mla(c, s, err);
    if (st == FL_OK) st = read_scale(c, s, err);
    bool adjacent = true;
    if (st == FL_OK) st = model_get_bool_or(s, NULL, "rope_interleave", true, &adjacent, err);
    c->rope_half = !adjacent;
    return st;
}

static fl_status configure_v2(model_config *c, const model_source *s, fl_err *err) {
    return configure(c, s, false, err);
}

static fl_status configure_v3(model_config *c, const model_source *s, fl_err *err) {
    return configure(c, s, true, err);
}

/* Of each head, W_uk [kv_lora, d_nope] or W_uv [d_v, kv_lora]. */
static uint32_t head_weights(model_builder *b, int layer, bool values) {
    const model_config *c = b->c;
    const uint32_t r = c->mla.kv_lora, d = c->mla.d_nope + c->d_v;
    const uint32_t n = values ? c->d_v : r, k = values ? r : c->mla.d_nope;
    const char *name = values ? "attn_v_b" : "attn_k_b";
    if (model_has_stacks(b)) return model_stack(b, layer, name, c->n_heads, n, k);
    model_tensor t;
    if (!model_take(b, NULL, layer, "attn_kv_b", "weight", &t)) return 0;
    if (t.dims[0] != r || t.dims[1] != (int64_t)c->n_heads * d || t.n_elems != (int64_t)c->n_heads * d * r || !t.type ||
        t.type->block_elems != 1) {
        b->status = fl_fail(b->err, FL_EFORMAT, "tensor %s of %s has another shape or type than [%u, %u] plain numbers",
                            t.name, t.type_name, c->n_heads * d, r);
        return 0;
    }
    graph_layout l = {.kind = GRAPH_LAYOUT_STRIDES, .slice = (uint64_t)d * r, .row = 1, .col = r};
    if (values) l.first = (uint64_t)c->mla.d_nope * r, l.row = r, l.col = 1;
    return model_add_stack(b, layer, name,
                           &(graph_weight){.type = t.type->type,
                                           .n = n,
                                           .k = k,
                                           .n_stack = c->n_heads,
                                           .uses = GRAPH_USE_MATMUL,
                                           .data = t.data,
                                           .layout = &l});
}

static graph_value product(model_builder *b, int layer, const char *name, graph_value x, uint32_t n, uint32_t k) {
    return graph_matmul(b->g, x, model_weight(b, layer, name, n, k, GRAPH_USE_MATMUL), graph_label(b->g, layer, name));
}

static graph_value queries(model_builder *b, int layer, graph_value x, uint32_t rope) {
    const model_config *c = b->c;
    const uint32_t n = c->n_heads * c->d_k, rank = c->mla.q_lora;
    graph_value q;
    if (rank == 0) {
        q = product(b, layer, "attn_q", x, n, c->d_model);
    } else {
        q = product(b, layer, "attn_q_a", x, rank, c->d_model);
        q = product(b, layer, "attn_q_b", model_norm(b, layer, "attn_q_a_norm", q, rank), n, rank);
    }
    q = graph_rope_heads(b->g, q, rope, c->d_k, graph_label(b->g, layer, "rope_q"));
    uint32_t w = head_weights(b, layer, false);
    return b->status == FL_OK ? graph_head_matmul(b->g, q, w, c->d_k, graph_label(b->g, layer, "absorb")) : 0;
}

static graph_value attention(model_builder *b, int layer, graph_value x, const uint32_t ropes[2]) {
    const model_config *c = b->c;
    const uint32_t r = c->mla.kv_lora, width = r + c->mla.d_rope;
    graph *g = b->g;
    graph_value q = queries(b, layer, x, ropes[0]);
    graph_value k = product(b, layer, "attn_kv_a_mqa", x, width, c->d_model);
    k = graph_rmsnorm_first(g, k, model_vector(b, layer, "attn_kv_a_norm", "weight", r), width, c->eps,
                            graph_label(g, layer, "attn_kv_a_norm"));
    k = graph_rope_heads(g, k, ropes[1], width, graph_label(g, layer, "rope_k"));
    if (b->status != FL_OK) return 0;
    const graph_kv_group kv = {.n_kv_heads = 1, .d_k = width, .d_v = r, .v_in_k = true};
    graph_value written = graph_kv_write(g, k, k, graph_add_kv_layer(g, &kv), graph_label(g, layer, "kv_write"));
    graph_value o = graph_attention(g, q, written, c->attn_scale, 0, graph_label(g, layer, "attention"));
    uint32_t w = head_weights(b, layer, true);
    if (b->status != FL_OK) return 0;
    o = graph_head_matmul(g, o, w, r, graph_label(g, layer, "expand"));
    return product(b, layer, "attn_output", o, c->d_model, c->n_heads * c->d_v);
}

static void build(model_builder *b) {
    const model_config *c = b->c;
    const uint32_t first[2] = {c->mla.d_nope,
                               c->mla.kv_lora}; /* where the rotary part of a head of q and of k begins */
    uint32_t ropes[2];
    for (int i = 0; i < 2; i++) {
        graph_rope r = b->g->ropes[b->rope];
        r.first = first[i];
        ropes[i] = graph_add_rope(b->g, &r);
    }
    graph_value h = model_embedding(b);
    for (int l = 0; l < (int)c->n_layers && b->status == FL_OK; l++) {
        graph_value o = attention(b, l, model_norm(b, l, "attn_norm", h, c->d_model), ropes);
        h = model_residual(b, l, "attn_residual", h, o);
        graph_value f = model_ffn(b, l, model_norm(b, l, "ffn_norm", h, c->d_model));
        h = model_residual(b, l, "ffn_residual", h, f);
    }
    model_head(b, h);
}

static const model_name names[] = {{"attn_q_a", "self_attn.q_a_proj"},
                                   {"attn_q_a_norm", "self_attn.q_a_layernorm"},
                                   {"attn_q_b", "self_attn.q_b_proj"},
                                   {"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa"},
                                   {"attn_kv_a_norm", "self_attn.kv_a_layernorm"},
                                   {"attn_kv_b", "self_attn.kv_b_proj"},
                                   {"ffn_gate_inp", "mlp.gate"},
                                   {"exp_probs_b", "mlp.gate.e_score_correction_bias"},
                                   {"ffn_gate_exps", "mlp.experts.*.gate_proj"},
                                   {"ffn_up_exps", "mlp.experts.*.up_proj"},
                                   {"ffn_down_exps", "mlp.experts.*.down_proj"},
                                   {"ffn_gate_shexp", "mlp.shared_experts.gate_proj"},
                                   {"ffn_up_shexp", "mlp.shared_experts.up_proj"},
                                   {"ffn_down_shexp", "mlp.shared_experts.down_proj"},
                                   {NULL, NULL}};

const model_family model_deepseek_v2 = {"deepseek2", "deepseek_v2", false, names, configure_v2, build};
const model_family model_deepseek_v3 = {NULL, "deepseek_v3", false, names, configure_v3, build};
