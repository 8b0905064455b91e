/* The feed-forward part of a layer with experts: router, stacks, weighted sum, shared expert.
 *
 * GGUF keeps each projection of all experts as one stack [E, n, k]. Folders do one of
 *     a tensor per expert           the family's table has a '*' where the expert's number stands
 *     stacks with k in front        gate and up in one tensor [E, k, 2 n], halves or every other column; down [E, k, n]
 *     MXFP4 codes and scales        gate and up in one tensor [E, 2 n, k], every other row; down [E, n, k]
 * and graph/weight.h puts the stack together while it is loaded. */
#include "model/block.h"

#include "graph/weight.h"

#include <stdio.h>
#include <string.h>

enum { NAME_BYTES = 160 };

typedef enum { GATE, UP, DOWN } projection;

static const char *const names[] = {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"};

/* ---- configuration ---- */

static const char *either(const model_source *s, const char *a, const char *b) {
    return model_source_has(s, NULL, a) ? a : b;
}

fl_status model_read_experts(model_config *c, const model_source *s, fl_err *err) {
    model_experts *e = &c->experts;
    const char *n = either(s, "num_local_experts", either(s, "n_routed_experts", "num_experts"));
    fl_status st = model_get_u32(s, "expert_count", n, &e->routing.n_experts, err);
    if (st == FL_OK)
        st = model_get_u32(s, "expert_used_count", either(s, "num_experts_per_tok", "experts_per_token"),
                           &e->routing.top_k, err);
    if (st == FL_OK)
        st = model_get_u32_or(s, "expert_feed_forward_length", "moe_intermediate_size", c->d_ff, &e->d_ff, err);
    if (st != FL_OK) return st;
    if (e->routing.n_experts == 0 || e->routing.n_experts > GRAPH_EXPERTS_MAX || e->routing.top_k == 0 ||
        e->routing.top_k > GRAPH_TOP_K_MAX || e->routing.top_k > e->routing.n_experts || e->d_ff == 0 ||
        e->d_ff > 1 << 22 || (uint64_t)e->routing.n_experts * e->d_ff > INT32_MAX)
        return fl_fail(err, FL_EFORMAT, "%u experts of %u, %u of them used, do not make a model", e->routing.n_experts,
                       e->d_ff, e->routing.top_k);
    e->routing.scale = 1;
    for (uint32_t i = 0; i < c->n_layers; i++) c->layers[i].experts = true;
    return FL_OK;
}

/* ---- weights ---- */

static const char *folder_name(const model_builder *b, const char *name) {
    for (const model_name *n = b->c->family->names; n && n->gguf; n++)
        if (strcmp(n->gguf, name) == 0) return n->hf;
    return NULL;
}

bool model_take(model_builder *b, const model_name *table, int layer, const char *name, const char *suffix,
                model_tensor *t) {
    if (b->status != FL_OK) return false;
    uint32_t i = model_source_find(b->s, table ? table : b->c->family->names, layer, name, suffix);
    if (i == UINT32_MAX) {
        b->status = fl_fail(b->err, FL_EFORMAT, "tensor %s of layer %d is missing", name, layer);
        return false;
    }
    model_source_tensor_at(b->s, i, t);
    b->used[i] = 1;
    return true;
}

/* Whether the tensor has these dimensions, the contiguous one first. */
static bool has_dims(model_builder *b, const model_tensor *t, uint32_t d0, uint32_t d1, uint32_t d2) {
    if (t->dims[0] == d0 && t->dims[1] == d1 && t->dims[2] == d2 && t->n_elems == (int64_t)d0 * d1 * d2) return true;
    b->status =
        fl_fail(b->err, FL_EFORMAT, "tensor %s has shape [%lld, %lld, %lld], the configuration asks for [%u, %u, %u]",
                t->name, (long long)t->dims[2], (long long)t->dims[1], (long long)t->dims[0], d2, d1, d0);
    return false;
}

static bool has_type(model_builder *b, const model_tensor *t, bool plain) {
    if (t->type && t->type->type != DTYPE_NVFP4 && (!plain || t->type->block_elems == 1)) return true;
    b->status =
        fl_fail(b->err, FL_EUNSUPPORTED, "tensor %s is %s, which is not computed with here", t->name, t->type_name);
    return false;
}

uint32_t model_add_stack(model_builder *b, int layer, const char *name, const graph_weight *like) {
    char full[NAME_BYTES];
    (void)snprintf(full, sizeof full, "blk.%d.%s.%s", layer, name, like->uses & GRAPH_USE_VECTOR ? "bias" : "weight");
    graph_weight w = *like;
    w.name = full;
    if (w.layout) {
        graph_layout *copy = base_arena_calloc(&b->g->arena, 1, sizeof *copy);
        if (!copy) {
            b->g->no_memory = true;
            return 0;
        }
        *copy = *w.layout;
        w.layout = copy;
    }
    if (w.uses & GRAPH_USE_MATMUL) w.compute = model_compute_of(b, dtype_find(w.type));
    return graph_add_weight(b->g, &w);
}

uint32_t model_stack(model_builder *b, int layer, const char *name, uint32_t n_stack, uint32_t n, uint32_t k) {
    model_tensor t;
    if (model_source_shape(b->s))
        model_make_up(b, name, n_stack, n, k, false, &t);
    else if (!model_take(b, NULL, layer, name, "weight", &t) || !has_dims(b, &t, k, n, n_stack) ||
             !has_type(b, &t, false))
        return 0;
    return model_add_stack(b, layer, name,
                           &(graph_weight){.type = t.type->type,
                                           .n = n,
                                           .k = k,
                                           .n_stack = n_stack,
                                           .uses = GRAPH_USE_MATMUL,
                                           .data = t.data,
                                           .layout = t.data ? NULL : &graph_layout_random});
}

/* A tensor per expert; `pattern` names them. */
static uint32_t gathered_stack(model_builder *b, int layer, const char *name, const char *pattern, uint32_t n,
                               uint32_t k) {
    const uint32_t n_stack = b->c->experts.routing.n_experts;
    const char *star = strchr(pattern, '*');
    const uint8_t **parts = base_arena_calloc(&b->g->arena, n_stack, sizeof *parts);
    dtype type = DTYPE_F32;
    if (!parts) b->g->no_memory = true;
    if (!parts) return 0;
    for (uint32_t i = 0; i < n_stack; i++) {
        char own[NAME_BYTES];
        model_tensor t;
        (void)snprintf(own, sizeof own, "%.*s%u%s", (int)(star - pattern), pattern, i, star + 1);
        const model_name table[] = {{name, own}, {NULL, NULL}};
        if (!model_take(b, table, layer, name, "weight", &t) || !has_dims(b, &t, k, n, 1) || !has_type(b, &t, false))
            return 0;
        if (i && t.type->type != type)
            b->status = fl_fail(b->err, FL_EUNSUPPORTED, "tensor %s is %s, those of other experts are %s", t.name,
                                t.type_name, dtype_find(type)->name);
        type = t.type->type;
        parts[i] = t.data;
    }
    return model_add_stack(b, layer, name,
                           &(graph_weight){.type = type,
                                           .n = n,
                                           .k = k,
                                           .n_stack = n_stack,
                                           .uses = GRAPH_USE_MATMUL,
                                           .layout = &(graph_layout){.kind = GRAPH_LAYOUT_PARTS, .parts = parts}});
}

/* Where the outputs of a projection begin among those of its tensor, and how far apart they are. */
static void place(const model_builder *b, projection p, uint32_t n, uint64_t *first, uint64_t *step) {
    const bool mixed = b->c->experts.interleaved;
    *step = p != DOWN && mixed ? 2 : 1;
    *first = p != UP ? 0 : mixed ? 1 : n;
}

/* [E, k, n] or [E, k, 2 n]. */
static uint32_t turned_stack(model_builder *b, int layer, projection p, uint32_t n, uint32_t k) {
    const uint32_t n_stack = b->c->experts.routing.n_experts, all = p == DOWN ? n : 2 * n;
    model_tensor t;
    if (!model_take(b, NULL, layer, p == DOWN ? "ffn_down_exps" : "ffn_gate_up_exps", "", &t) ||
        !has_dims(b, &t, all, k, n_stack) || !has_type(b, &t, true))
        return 0;
    graph_layout l = {.kind = GRAPH_LAYOUT_STRIDES, .slice = (uint64_t)k * all, .col = all};
    place(b, p, n, &l.first, &l.row);
    return model_add_stack(b, layer, names[p],
                           &(graph_weight){.type = t.type->type,
                                           .n = n,
                                           .k = k,
                                           .n_stack = n_stack,
                                           .uses = GRAPH_USE_MATMUL,
                                           .data = t.data,
                                           .layout = &l});
}

/* Codes [E, n or 2 n, k / 32, 16] and scales [E, n or 2 n, k / 32]. */
static uint32_t mxfp4_stack(model_builder *b, int layer, projection p, uint32_t n, uint32_t k) {
    const uint32_t n_stack = b->c->experts.routing.n_experts, all = p == DOWN ? n : 2 * n;
    model_tensor codes, scales;
    if (!model_take(b, NULL, layer, p == DOWN ? "ffn_down_exps_blocks" : "ffn_gate_up_exps_blocks", "", &codes) ||
        !model_take(b, NULL, layer, p == DOWN ? "ffn_down_exps_scales" : "ffn_gate_up_exps_scales", "", &scales) ||
        !has_dims(b, &scales, k / 32, all, n_stack))
        return 0;
    if (k % 32 || codes.dims[0] != 16 || codes.n_elems != scales.n_elems * 16 || strcmp(codes.type_name, "U8") != 0 ||
        strcmp(scales.type_name, "U8") != 0) {
        b->status = fl_fail(b->err, FL_EFORMAT, "tensor %s is not codes of %u values in blocks of 32", codes.name, k);
        return 0;
    }
    graph_layout l = {.kind = GRAPH_LAYOUT_MXFP4, .slice = all, .scales = scales.data};
    place(b, p, n, &l.first, &l.row);
    return model_add_stack(b, layer, names[p],
                           &(graph_weight){.type = DTYPE_MXFP4,
                                           .n = n,
                                           .k = k,
                                           .n_stack = n_stack,
                                           .uses = GRAPH_USE_MATMUL,
                                           .data = codes.data,
                                           .layout = &l});
}

static uint32_t expert_stack(model_builder *b, int layer, projection p) {
    const model_config *c = b->c;
    const uint32_t n = p == DOWN ? c->d_model : c->experts.d_ff, k = p == DOWN ? c->experts.d_ff : c->d_model;
    const char *pattern = folder_name(b, names[p]);
    if (model_has_stacks(b)) return model_stack(b, layer, names[p], c->experts.routing.n_experts, n, k);
    if (pattern && strchr(pattern, '*')) return gathered_stack(b, layer, names[p], pattern, n, k);
    bool packed = model_source_find(b->s, c->family->names, layer, "ffn_gate_up_exps_blocks", "") != UINT32_MAX;
    return packed ? mxfp4_stack(b, layer, p, n, k) : turned_stack(b, layer, p, n, k);
}

/* Biases [E, n], in folders gate and up together. */
static uint32_t expert_biases(model_builder *b, int layer, projection p) {
    const uint32_t n_experts = b->c->experts.routing.n_experts, n = p == DOWN ? b->c->d_model : b->c->experts.d_ff;
    const bool gguf = model_has_stacks(b);
    const uint32_t all = gguf || p == DOWN ? n : 2 * n;
    const char *folder = p == DOWN ? "ffn_down_exps_bias" : "ffn_gate_up_exps_bias";
    model_tensor t;
    if (model_source_shape(b->s))
        model_make_up(b, names[p], 1, n_experts, n, true, &t);
    else if (!model_take(b, NULL, layer, gguf ? names[p] : folder, gguf ? "bias" : "", &t) ||
             !has_dims(b, &t, all, n_experts, 1) || !has_type(b, &t, true))
        return 0;
    graph_layout l = {.kind = t.data ? GRAPH_LAYOUT_STRIDES : GRAPH_LAYOUT_RANDOM, .row = all, .col = 1};
    if (!gguf) place(b, p, n, &l.first, &l.col);
    return model_add_stack(b, layer, names[p],
                           &(graph_weight){.type = t.type->type,
                                           .compute = COMPUTE_F32,
                                           .n = n_experts,
                                           .k = n,
                                           .uses = GRAPH_USE_VECTOR,
                                           .data = t.data,
                                           .layout = &l});
}

/* ---- the part ---- */

static graph_value expert_product(model_builder *b, int layer, projection p, graph_value x, graph_value routes) {
    graph_value y = graph_expert_matmul(b->g, x, routes, expert_stack(b, layer, p), graph_label(b->g, layer, names[p]));
    if (!b->c->experts.biased || b->status != FL_OK) return y;
    return graph_expert_bias(b->g, y, routes, expert_biases(b, layer, p), graph_label(b->g, layer, "expert_bias"));
}

/* The router computes in fp32 whatever its type. */
static graph_value route(model_builder *b, int layer, graph_value x) {
    const model_experts *e = &b->c->experts;
    uint32_t w = model_weight(b, layer, "ffn_gate_inp", e->routing.n_experts, b->c->d_model, GRAPH_USE_MATMUL);
    if (b->status != FL_OK) return 0;
    b->g->weights[w].compute = COMPUTE_F32;
    graph_value z = graph_matmul(b->g, x, w, graph_label(b->g, layer, "router"));
    if (e->biased)
        z = graph_bias(b->g, z, model_vector(b, layer, "ffn_gate_inp", "bias", e->routing.n_experts),
                       graph_label(b->g, layer, "router_bias"));
    const char *suffix = model_source_gguf(b->s) ? "bias" : "";
    uint32_t bias = GRAPH_NONE;
    if (e->choice_bias || model_has(b, layer, "exp_probs_b", suffix))
        bias = model_vector(b, layer, "exp_probs_b", suffix, e->routing.n_experts);
    return b->status == FL_OK ? graph_route(b->g, z, &e->routing, bias, graph_label(b->g, layer, "route")) : 0;
}

static graph_value shared_expert(model_builder *b, int layer, graph_value x) {
    const uint32_t n = b->c->experts.d_ff_shared, d = b->c->d_model;
    graph_value gate = graph_matmul(b->g, x, model_weight(b, layer, "ffn_gate_shexp", n, d, GRAPH_USE_MATMUL),
                                    graph_label(b->g, layer, "shared_gate"));
    graph_value up = graph_matmul(b->g, x, model_weight(b, layer, "ffn_up_shexp", n, d, GRAPH_USE_MATMUL),
                                  graph_label(b->g, layer, "shared_up"));
    graph_value y = graph_binary(b->g, b->c->act, gate, up, graph_label(b->g, layer, "shared_act"));
    return graph_matmul(b->g, y, model_weight(b, layer, "ffn_down_shexp", d, n, GRAPH_USE_MATMUL),
                        graph_label(b->g, layer, "shared_down"));
}

graph_value model_ffn_experts(model_builder *b, int layer, graph_value x) {
    const model_experts *e = &b->c->experts;
    graph *g = b->g;
    graph_value routes = route(b, layer, x), in = x;
    if (e->weigh_input) in = graph_expert_scale(g, x, routes, graph_label(g, layer, "expert_scale"));
    graph_value gate = expert_product(b, layer, GATE, in, routes), up = expert_product(b, layer, UP, in, routes);
    if (b->status != FL_OK) return 0;
    const char *label = graph_label(g, layer, "expert_act");
    graph_value y = e->act_limit != 0 ? graph_swiglu_clamp(g, gate, up, e->act_alpha, e->act_limit, label)
                                      : graph_binary(g, b->c->act, gate, up, label);
    y = expert_product(b, layer, DOWN, y, routes);
    y = graph_expert_sum(g, y, routes, e->weigh_input, graph_label(g, layer, "expert_sum"));
    if (e->d_ff_shared == 0 || b->status != FL_OK) return y;
    return graph_binary(g, OP_ADD, y, shared_expert(b, layer, x), graph_label(g, layer, "shared_sum"));
}
