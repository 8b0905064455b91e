#include "model/block.h"

#include "graph/weight.h"
#include "tensor/dtype.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 160 };

static uint32_t find(const model_builder *b, int layer, const char *name, const char *suffix) {
    return model_source_find(b->s, b->c->family->names, layer, name, suffix);
}

bool model_has(const model_builder *b, int layer, const char *name, const char *suffix) {
    return find(b, layer, name, suffix) != UINT32_MAX;
}

compute model_compute_of(const model_builder *b, const dtype_info *type) {
    if (b->compute != COMPUTE_AUTO) return b->compute;
    if (type->quantized) return COMPUTE_Q8;
    return type->type == DTYPE_F32 ? COMPUTE_F32 : COMPUTE_BF16;
}

void model_make_up(const model_builder *b, const char *name, uint32_t n_stack, uint32_t n, uint32_t k, bool vector,
                   model_tensor *t) {
    const dtype_info *type = model_source_shape(b->s);
    if (k % type->block_elems) type = dtype_find(k % 32 ? DTYPE_BF16 : DTYPE_Q8_0);
    if (vector) type = dtype_find(DTYPE_F32);
    *t = (model_tensor){.name = name,
                        .type_name = type->name,
                        .type = type,
                        .n_dims = 3,
                        .dims = {k, n, n_stack},
                        .n_elems = (int64_t)n_stack * n * k};
}

/* The tensor, checked against [n, k]; its canonical name for messages and the graph in `full`. */
static bool take(model_builder *b, int layer, const char *name, const char *suffix, uint32_t n, uint32_t k,
                 model_tensor *t, char full[NAME_BYTES]) {
    if (b->status != FL_OK) return false;
    uint32_t i = find(b, layer, name, suffix);
    if (layer < 0)
        (void)snprintf(full, NAME_BYTES, "%s.%s", name, suffix);
    else
        (void)snprintf(full, NAME_BYTES, "blk.%d.%s.%s", layer, name, suffix);
    if (model_source_shape(b->s)) {
        model_make_up(b, full, 1, n, k, n == 1, t);
        return true;
    }
    if (i == UINT32_MAX) {
        b->status = fl_fail(b->err, FL_EFORMAT, "tensor %s is missing", full);
        return false;
    }
    model_source_tensor_at(b->s, i, t);
    b->used[i] = 1;
    if (t->dims[0] != k || t->dims[1] != n || t->n_elems != (int64_t)n * k)
        b->status = fl_fail(b->err, FL_EFORMAT, "tensor %s has shape [%lld, %lld], the configuration asks for [%u, %u]",
                            t->name, (long long)t->dims[1], (long long)t->dims[0], n, k);
    else if (!t->type)
        b->status =
            fl_fail(b->err, FL_EUNSUPPORTED, "tensor %s is %s, which is not computed with", t->name, t->type_name);
    return b->status == FL_OK;
}

static uint32_t named_weight(model_builder *b, int layer, const char *name, const char *suffix, uint32_t n, uint32_t k,
                             unsigned use) {
    model_tensor t;
    char full[NAME_BYTES];
    if (!take(b, layer, name, suffix, n, k, &t, full)) return 0;
    return graph_add_weight(b->g, &(graph_weight){.name = full,
                                                  .type = t.type->type,
                                                  .compute = model_compute_of(b, t.type),
                                                  .n = n,
                                                  .k = k,
                                                  .uses = use,
                                                  .data = t.data,
                                                  .layout = t.data ? NULL : &graph_layout_random});
}

uint32_t model_weight(model_builder *b, int layer, const char *name, uint32_t n, uint32_t k, unsigned use) {
    return named_weight(b, layer, name, "weight", n, k, use);
}

uint32_t model_vector(model_builder *b, int layer, const char *name, const char *suffix, uint32_t k) {
    return named_weight(b, layer, name, suffix, 1, k, GRAPH_USE_VECTOR);
}

uint32_t model_weight_rows(model_builder *b, int layer, const char *name, uint32_t n_all, uint32_t first, uint32_t n,
                           uint32_t k) {
    model_tensor t;
    char full[NAME_BYTES], part[NAME_BYTES + 32];
    if (!take(b, layer, name, "weight", n_all, k, &t, full)) return 0;
    (void)snprintf(part, sizeof part, "%s[%u:%u]", full, first, first + n);
    return graph_add_weight(b->g, &(graph_weight){.name = part,
                                                  .type = t.type->type,
                                                  .compute = model_compute_of(b, t.type),
                                                  .n = n,
                                                  .k = k,
                                                  .uses = GRAPH_USE_MATMUL,
                                                  .data = t.data + first * (t.bytes / n_all)});
}

static uint32_t add_rope(model_builder *b, const model_rope *r) {
    float inv_freq[MODEL_ROPE_PAIRS_MAX], scale;
    model_rope_compute(r, b->max_len, inv_freq, &scale);
    return graph_add_rope(b->g,
                          &(graph_rope){.d = r->d, .half = b->c->rope_half, .scale = scale, .inv_freq = inv_freq});
}

void model_ropes(model_builder *b) {
    b->rope = add_rope(b, &b->c->rope);
    b->sliding = add_rope(b, &b->c->rope_sliding);
}

/* A factor of the whole tensor, which the file keeps beside it (NAME.scale, one F32): it multiplies what the tensor gives. */
static graph_value scaled(model_builder *b, int layer, const char *name, graph_value y) {
    model_tensor t;
    float factor;
    uint32_t i = b->status == FL_OK ? find(b, layer, name, "scale") : UINT32_MAX;
    if (i == UINT32_MAX) return y;
    model_source_tensor_at(b->s, i, &t);
    b->used[i] = 1;
    if (!t.type || t.type->type != DTYPE_F32 || t.n_elems != 1) {
        b->status = fl_fail(b->err, FL_EFORMAT, "tensor %s has %lld values of type %s, one of F32 is wanted", t.name,
                            (long long)t.n_elems, t.type_name);
        return y;
    }
    memcpy(&factor, t.data, sizeof factor);
    return graph_unary(b->g, OP_SCALE, y, factor, graph_label(b->g, layer, "tensor_scale"));
}

graph_value model_embedding(model_builder *b) {
    uint32_t w = model_weight(b, -1, "token_embd", b->c->n_vocab, b->c->d_model, GRAPH_USE_EMBED);
    graph_value h = scaled(b, -1, "token_embd", graph_embed(b->g, w, graph_label(b->g, -1, "embed")));
    return b->c->embed_scale == 1
               ? h
               : graph_unary(b->g, OP_SCALE, h, b->c->embed_scale, graph_label(b->g, -1, "embed_scale"));
}

/* A norm's weight with norm_offset added, in the graph's memory. */
static uint32_t offset_weight(model_builder *b, int layer, const char *name, uint32_t width) {
    model_tensor t;
    char full[NAME_BYTES];
    if (!take(b, layer, name, "weight", 1, width, &t, full)) return 0;
    float *w = base_arena_calloc(&b->g->arena, width, sizeof *w);
    if (!w) {
        b->g->no_memory = true;
        return 0;
    }
    t.type->decode(t.data, w, width);
    for (uint32_t i = 0; i < width; i++) w[i] += b->c->norm_offset;
    return graph_add_weight(b->g, &(graph_weight){.name = full,
                                                  .type = DTYPE_F32,
                                                  .compute = COMPUTE_F32,
                                                  .n = 1,
                                                  .k = width,
                                                  .uses = GRAPH_USE_VECTOR,
                                                  .data = w});
}

graph_value model_norm(model_builder *b, int layer, const char *name, graph_value x, uint32_t width) {
    uint32_t w = b->c->norm_offset != 0 && !model_source_shape(b->s)
                     ? offset_weight(b, layer, name, width)
                     : model_weight(b, layer, name, 1, width, GRAPH_USE_VECTOR);
    return graph_rmsnorm(b->g, x, w, width, b->c->eps, graph_label(b->g, layer, name));
}

static graph_value product(model_builder *b, int layer, const char *name, graph_value x, uint32_t n, uint32_t k) {
    uint32_t w = model_weight(b, layer, name, n, k, GRAPH_USE_MATMUL);
    return scaled(b, layer, name, graph_matmul(b->g, x, w, graph_label(b->g, layer, name)));
}

static graph_value with_bias(model_builder *b, int layer, const char *name, graph_value x, uint32_t n, bool wanted) {
    if (!wanted) return x;
    return graph_bias(b->g, x, named_weight(b, layer, name, "bias", 1, n, GRAPH_USE_VECTOR),
                      graph_label(b->g, layer, "bias"));
}

/* One of several products whose matrices lie in one tensor, row after row. */
static graph_value part_product(model_builder *b, int layer, const char *name, const char *label, graph_value x,
                                uint32_t n_all, uint32_t *first, uint32_t n, uint32_t k) {
    uint32_t w = model_weight_rows(b, layer, name, n_all, *first, n, k);
    *first += n;
    return scaled(b, layer, name, graph_matmul(b->g, x, w, graph_label(b->g, layer, label)));
}

static void project(model_builder *b, int layer, graph_value x, graph_value out[3]) {
    const model_config *c = b->c;
    static const char *const names[] = {"attn_q", "attn_k", "attn_v"};
    uint32_t n[] = {c->n_heads * c->d_k, c->n_kv_heads * c->d_k, c->n_kv_heads * c->d_v}, at = 0;
    bool fused = model_has(b, layer, "attn_qkv", "weight");
    for (int i = 0; i < 3; i++)
        out[i] = fused ? part_product(b, layer, "attn_qkv", names[i], x, n[0] + n[1] + n[2], &at, n[i], c->d_model)
                       : product(b, layer, names[i], x, n[i], c->d_model);
    for (int i = 0; i < 3; i++) out[i] = with_bias(b, layer, names[i], out[i], n[i], c->qkv_bias);
}

/* Norm on q or k: per head, or over all heads together where the weight is that wide. */
static graph_value head_norm(model_builder *b, int layer, const char *name, graph_value x, uint32_t n) {
    uint32_t i = find(b, layer, name, "weight");
    if (i == UINT32_MAX && !b->c->qk_norm) return x;
    model_tensor t = {0};
    if (i != UINT32_MAX) model_source_tensor_at(b->s, i, &t);
    return model_norm(b, layer, name, x, t.n_elems == n ? n : b->c->d_k);
}

graph_value model_attention(model_builder *b, int layer, graph_value x) {
    const model_config *c = b->c;
    const model_layer *l = &c->layers[layer];
    graph *g = b->g;
    graph_value qkv[3];
    project(b, layer, x, qkv);
    graph_value q = head_norm(b, layer, "attn_q_norm", qkv[0], c->n_heads * c->d_k);
    graph_value k = head_norm(b, layer, "attn_k_norm", qkv[1], c->n_kv_heads * c->d_k);
    if (!l->no_rope) {
        uint32_t rope = l->sliding ? b->sliding : b->rope;
        q = graph_rope_heads(g, q, rope, c->d_k, graph_label(g, layer, "rope_q"));
        k = graph_rope_heads(g, k, rope, c->d_k, graph_label(g, layer, "rope_k"));
    }
    if (c->qk_norm_after && !l->no_rope) {
        q = graph_rmsnorm(g, q, GRAPH_NONE, c->d_k, c->eps, graph_label(g, layer, "q_norm"));
        k = graph_rmsnorm(g, k, GRAPH_NONE, c->d_k, c->eps, graph_label(g, layer, "k_norm"));
    }
    if (c->pos_scale != 0 && l->no_rope)
        q = graph_pos_scale(g, q, c->pos_scale, 1, c->pos_scale_every, graph_label(g, layer, "pos_scale"));
    uint32_t kv = graph_add_kv_layer(g, &(graph_kv_group){.window = l->sliding ? c->window : 0,
                                                          .chunked = l->sliding && c->chunked,
                                                          .n_kv_heads = c->n_kv_heads,
                                                          .d_k = c->d_k,
                                                          .d_v = c->d_v});
    graph_value written = graph_kv_write(g, k, qkv[2], kv, graph_label(g, layer, "kv_write"));
    graph_value o = graph_attention(g, q, written, c->attn_scale, c->attn_softcap, graph_label(g, layer, "attention"));
    if (c->sinks) {
        const char *suffix = model_source_gguf(b->s) ? "weight" : "";
        graph_attention_sinks(g, o, model_vector(b, layer, "attn_sinks", suffix, c->n_heads));
    }
    o = product(b, layer, "attn_output", o, c->d_model, c->n_heads * c->d_v);
    return with_bias(b, layer, "attn_output", o, c->d_model, c->output_bias);
}

/* ffn_up of twice the height, with no ffn_gate beside it. */
static bool fused_ffn(const model_builder *b, int layer) {
    uint32_t up = find(b, layer, "ffn_up", "weight");
    model_tensor t;
    if (up == UINT32_MAX || model_has(b, layer, "ffn_gate", "weight")) return false;
    model_source_tensor_at(b->s, up, &t);
    return t.dims[1] == 2 * (int64_t)b->c->d_ff;
}

graph_value model_ffn(model_builder *b, int layer, graph_value x) {
    const model_config *c = b->c;
    if (c->layers[layer].experts) return model_ffn_experts(b, layer, x);
    uint32_t at = 0;
    graph_value gate, up;
    if (!fused_ffn(b, layer)) {
        gate = with_bias(b, layer, "ffn_gate", product(b, layer, "ffn_gate", x, c->d_ff, c->d_model), c->d_ff,
                         c->ffn_bias);
        up = with_bias(b, layer, "ffn_up", product(b, layer, "ffn_up", x, c->d_ff, c->d_model), c->d_ff, c->ffn_bias);
    } else {
        gate = part_product(b, layer, "ffn_up", "ffn_gate", x, 2 * c->d_ff, &at, c->d_ff, c->d_model);
        up = part_product(b, layer, "ffn_up", "ffn_up", x, 2 * c->d_ff, &at, c->d_ff, c->d_model);
    }
    graph_value y = graph_binary(b->g, c->act, gate, up, graph_label(b->g, layer, "ffn_act"));
    y = product(b, layer, "ffn_down", y, c->d_model, c->d_ff);
    return with_bias(b, layer, "ffn_down", y, c->d_model, c->ffn_bias);
}

graph_value model_residual(model_builder *b, int layer, const char *label, graph_value h, graph_value x) {
    if (b->c->residual_scale != 1)
        x = graph_unary(b->g, OP_SCALE, x, b->c->residual_scale, graph_label(b->g, layer, "residual_scale"));
    return graph_binary(b->g, OP_ADD, h, x, graph_label(b->g, layer, label));
}

/* Rounding the head's input goes straight into the logits: with 12 bits instead of 8 the divergence from fp32 falls by
 * a third (docs/PERF.md). Q8_0 is the type whose kernels do it at no cost. */
static void fine_head(model_builder *b, uint32_t head) {
    graph_weight *w = &b->g->weights[head];
    if (b->status == FL_OK && w->type == DTYPE_Q8_0 && w->compute == COMPUTE_Q8) w->compute = COMPUTE_Q12;
}

void model_head(model_builder *b, graph_value h) {
    const model_config *c = b->c;
    graph_value x = graph_rows_wanted(b->g, h, graph_label(b->g, -1, "rows"));
    x = model_norm(b, -1, "output_norm", x, c->d_model);
    const char *name = c->tied_head ? "token_embd" : "output";
    uint32_t head = model_weight(b, -1, name, c->n_vocab, c->d_model, GRAPH_USE_MATMUL);
    fine_head(b, head);
    x = scaled(b, -1, name, graph_matmul(b->g, x, head, graph_label(b->g, -1, "head")));
    if (c->logit_scale != 1) x = graph_unary(b->g, OP_SCALE, x, c->logit_scale, graph_label(b->g, -1, "logit_scale"));
    if (c->final_softcap != 0)
        x = graph_unary(b->g, OP_SOFTCAP, x, c->final_softcap, graph_label(b->g, -1, "final_softcap"));
    graph_sample(b->g, x, graph_label(b->g, -1, "sample"));
}
