#include "model/block.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static void tensor_name(char out[128], int layer, const char *name, const char *suffix) {
    if (layer < 0)
        (void)snprintf(out, 128, "%s.%s", name, suffix);
    else
        (void)snprintf(out, 128, "blk.%d.%s.%s", layer, name, suffix);
}

bool model_has(const model_builder *b, int layer, const char *name, const char *suffix) {
    char full[128];
    tensor_name(full, layer, name, suffix);
    return file_gguf_tensor_find(b->f, full) != NULL;
}

static compute compute_of(const model_builder *b, dtype type) {
    if (b->compute != COMPUTE_AUTO) return b->compute;
    if (dtype_find(type)->quantized) return COMPUTE_Q8;
    return type == DTYPE_F32 ? COMPUTE_F32 : COMPUTE_BF16;
}

static uint32_t named_weight(model_builder *b, const char *name, uint32_t n, uint32_t k, unsigned use) {
    if (b->status != FL_OK) return 0;
    const file_gguf_tensor *t = file_gguf_tensor_find(b->f, name);
    if (!t) {
        b->status = fl_fail(b->err, FL_EFORMAT, "tensor %s is missing", name);
        return 0;
    }
    if (t->dims[0] != k || t->dims[1] != n || t->dims[2] != 1 || t->dims[3] != 1) {
        b->status = fl_fail(b->err, FL_EFORMAT, "tensor %s has shape [%lld, %lld], the configuration asks for [%u, %u]",
                            name, (long long)t->dims[1], (long long)t->dims[0], n, k);
        return 0;
    }
    return graph_add_weight(b->g, &(graph_weight){.name = name,
                                                  .type = t->type,
                                                  .compute = compute_of(b, t->type),
                                                  .n = n,
                                                  .k = k,
                                                  .uses = use,
                                                  .data = t->data});
}

uint32_t model_weight(model_builder *b, int layer, const char *name, uint32_t n, uint32_t k, unsigned use) {
    char full[128];
    tensor_name(full, layer, name, "weight");
    return named_weight(b, full, n, k, use);
}

uint32_t model_rope(model_builder *b, double base, float linear, bool half, bool use_freqs) {
    float inv_freq[512], divisor[512];
    uint32_t d = b->c->rope_d;
    const file_gguf_tensor *t = use_freqs ? file_gguf_tensor_find(b->f, "rope_freqs.weight") : NULL;
    if (t && (t->type != DTYPE_F32 || t->n_elems != d / 2)) {
        b->status =
            fl_fail(b->err, FL_EFORMAT, "tensor rope_freqs.weight has %lld values of type %s, %u of F32 are wanted",
                    (long long)t->n_elems, dtype_find(t->type)->name, d / 2);
        return 0;
    }
    for (uint32_t i = 0; i < d / 2; i++) {
        divisor[i] = 1;
        if (t) memcpy(&divisor[i], t->data + 4 * i, 4);
        inv_freq[i] = (float)(pow(base, -2.0 * i / d) / ((double)linear * (double)divisor[i]));
    }
    return graph_add_rope(b->g, &(graph_rope){d, half, inv_freq});
}

/* A factor of the whole tensor, which the file keeps beside it (NAME.scale, one F32): it multiplies what the tensor gives. */
static graph_value scaled(model_builder *b, int layer, const char *name, graph_value y) {
    char full[128];
    float factor;
    tensor_name(full, layer, name, "scale");
    const file_gguf_tensor *t = b->status == FL_OK ? file_gguf_tensor_find(b->f, full) : NULL;
    if (!t) return y;
    if (t->type != DTYPE_F32 || t->n_elems != 1) {
        b->status = fl_fail(b->err, FL_EFORMAT, "tensor %s has %lld values of type %s, one of F32 is wanted", full,
                            (long long)t->n_elems, dtype_find(t->type)->name);
        return y;
    }
    memcpy(&factor, t->data, sizeof factor);
    return graph_unary(b->g, OP_SCALE, y, factor, graph_label(b->g, layer, "tensor_scale"));
}

graph_value model_embedding(model_builder *b) {
    uint32_t w = model_weight(b, -1, "token_embd", b->c->n_vocab, b->c->d_model, GRAPH_USE_EMBED);
    graph_value h = scaled(b, -1, "token_embd", graph_embed(b->g, w, graph_label(b->g, -1, "embed")));
    return b->c->embed_scale == 1
               ? h
               : graph_unary(b->g, OP_SCALE, h, b->c->embed_scale, graph_label(b->g, -1, "embed_scale"));
}

graph_value model_norm(model_builder *b, int layer, const char *name, graph_value x, uint32_t width) {
    uint32_t w = model_weight(b, layer, name, 1, width, GRAPH_USE_VECTOR);
    return graph_rmsnorm(b->g, x, w, width, b->c->eps, graph_label(b->g, layer, name));
}

static graph_value product(model_builder *b, int layer, const char *name, graph_value x, uint32_t n, uint32_t k) {
    uint32_t w = model_weight(b, layer, name, n, k, GRAPH_USE_MATMUL);
    return scaled(b, layer, name, graph_matmul(b->g, x, w, graph_label(b->g, layer, name)));
}

static graph_value with_bias(model_builder *b, int layer, const char *name, graph_value x, uint32_t n) {
    if (!model_has(b, layer, name, "bias")) return x;
    char full[128];
    tensor_name(full, layer, name, "bias");
    return graph_bias(b->g, x, named_weight(b, full, 1, n, GRAPH_USE_VECTOR), graph_label(b->g, layer, "bias"));
}

graph_value model_attention(model_builder *b, int layer, graph_value x, uint32_t rope, uint32_t window) {
    const model_config *c = b->c;
    graph *g = b->g;
    uint32_t nq = c->n_heads * c->d_k, nk = c->n_kv_heads * c->d_k, nv = c->n_kv_heads * c->d_v,
             no = c->n_heads * c->d_v;
    graph_value q = product(b, layer, "attn_q", x, nq, c->d_model);
    graph_value k = product(b, layer, "attn_k", x, nk, c->d_model);
    graph_value v = product(b, layer, "attn_v", x, nv, c->d_model);
    q = with_bias(b, layer, "attn_q", q, nq);
    k = with_bias(b, layer, "attn_k", k, nk);
    v = with_bias(b, layer, "attn_v", v, nv);
    if (model_has(b, layer, "attn_q_norm", "weight")) q = model_norm(b, layer, "attn_q_norm", q, c->d_k);
    if (model_has(b, layer, "attn_k_norm", "weight")) k = model_norm(b, layer, "attn_k_norm", k, c->d_k);
    q = graph_rope_heads(g, q, rope, c->d_k, graph_label(g, layer, "rope_q"));
    k = graph_rope_heads(g, k, rope, c->d_k, graph_label(g, layer, "rope_k"));
    uint32_t kv = graph_add_kv_layer(
        g, &(graph_kv_group){.window = window, .n_kv_heads = c->n_kv_heads, .d_k = c->d_k, .d_v = c->d_v});
    graph_value written = graph_kv_write(g, k, v, kv, graph_label(g, layer, "kv_write"));
    graph_value o = graph_attention(g, q, written, c->attn_scale, c->attn_softcap, graph_label(g, layer, "attention"));
    return with_bias(b, layer, "attn_output", product(b, layer, "attn_output", o, c->d_model, no), c->d_model);
}

graph_value model_ffn(model_builder *b, int layer, graph_value x, op act) {
    const model_config *c = b->c;
    graph_value gate = product(b, layer, "ffn_gate", x, c->d_ff, c->d_model);
    graph_value up = product(b, layer, "ffn_up", x, c->d_ff, c->d_model);
    graph_value y = graph_binary(b->g, act, gate, up, graph_label(b->g, layer, "ffn_act"));
    return product(b, layer, "ffn_down", y, c->d_model, c->d_ff);
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
    if (c->final_softcap != 0)
        x = graph_unary(b->g, OP_SOFTCAP, x, c->final_softcap, graph_label(b->g, -1, "final_softcap"));
    graph_sample(b->g, x, graph_label(b->g, -1, "sample"));
}
