/* What can be said of a model from its header: its tensors and files, and what running it would take. The last is asked
 * of the graph of its step, built as for an engine and thrown away, so that "it runs" and "it needs" cannot differ from
 * what an engine does. No weight is read. */
#include "engine/engine_int.h"

#include "graph/weight.h"

#include <string.h>

bool fl_model_get_tensor(const fl_model *m, uint32_t index, fl_tensor_info *info) {
    model_tensor t;
    if (!m->source || index >= model_source_n_tensors(m->source)) return false;
    model_source_tensor_at(m->source, index, &t);
    fl_tensor_info all = {
        .size = info->size, .name = t.name, .type = t.type_name, .n_elems = (uint64_t)t.n_elems, .n_bytes = t.bytes};
    memcpy(info, &all, info->size < sizeof all ? info->size : sizeof all);
    return true;
}

const char *fl_model_get_file(const fl_model *m, uint32_t index, uint64_t *bytes) {
    *bytes = 0;
    if (!m->source || index >= model_source_n_parts(m->source)) return NULL;
    return model_source_part(m->source, index, bytes);
}

void fl_model_needs_init(fl_model_needs *needs) { *needs = (fl_model_needs){.size = sizeof *needs}; }

static void read_graph(const graph *g, uint32_t n_positions, fl_model_needs *out) {
    bool f32 = model_profile(g) == COMPUTE_F32;
    out->profile = model_profile_name(model_profile(g));
    out->kv_cache_dtype = f32 ? "f32" : "bf16";
    for (uint32_t i = 0; i < g->n_weights; i++) {
        const graph_weight *w = &g->weights[i];
        bool vector = w->uses & GRAPH_USE_VECTOR;
        out->weight_bytes +=
            (uint64_t)graph_weight_rows(w) * (vector ? w->k * sizeof(float) : dtype_row_bytes(w->type, w->k));
    }
    for (uint32_t i = 0; i < g->n_kv; i++) {
        const graph_kv_group *kv = &g->kv[i];
        uint64_t pages =
            kv_pages_needed((kv_kind){kv->window, kv->chunked}, n_positions, sched_span(ENGINE_STEP_TOKENS, 1));
        uint64_t position = (uint64_t)kv->n_layers * kv->n_kv_heads * (kv->d_k + kv->d_v) * (f32 ? 4 : 2);
        out->cache_bytes += pages * KV_PAGE_TOKENS * position;
    }
    for (uint32_t i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op == OP_ATTENTION && out->n_layers < FL_LAYERS_MAX)
            out->layer_window[out->n_layers++] = g->kv[g->nodes[i].kv_group].window;
}

fl_status fl_model_get_needs(const fl_model *m, uint32_t n_positions, fl_model_needs *needs, fl_err *err) {
    fl_model_needs all = {.size = needs->size, .profile = "", .kv_cache_dtype = ""};
    graph *g = NULL;
    fl_status st = m->config_status;
    if (st != FL_OK && err) *err = m->config_err;
    if (st == FL_OK) st = model_build(&g, &m->config, m->source, n_positions, COMPUTE_AUTO, err);
    if (st == FL_OK) read_graph(g, n_positions, &all);
    graph_close(g);
    memcpy(needs, &all, needs->size < sizeof all ? needs->size : sizeof all);
    return st;
}
