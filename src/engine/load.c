/* Opening an engine: options, device, weights, cache, program. Everything a step will need
 * is allocated here. */
#include "engine/engine_int.h"

#include "base/assert.h"
#include "base/mem.h"
#include "dev/cpu/cpu.h"
#include "dev/sim/sim.h"
#include "graph/weight.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const dev_vtable *const back_ends[] = {&dev_cpu, &dev_sim};

static fl_status find_back_end(const char *name, const dev_vtable **out, fl_err *err) {
    char known[64] = "";
    for (size_t i = 0; i < sizeof back_ends / sizeof back_ends[0]; i++) {
        if (strcmp(name, back_ends[i]->name) == 0) {
            *out = back_ends[i];
            return FL_OK;
        }
        (void)snprintf(known + strlen(known), sizeof known - strlen(known), "%s%s", i ? ", " : "", back_ends[i]->name);
    }
    return fl_fail(err, FL_EUNSUPPORTED, "device %s is not known; there are %s", name, known);
}

static fl_status parse_compute(const char *name, compute *out, fl_err *err) {
    static const compute all[] = {COMPUTE_AUTO, COMPUTE_Q8, COMPUTE_BF16, COMPUTE_F32};
    for (int i = 0; i < 4; i++)
        if (strcmp(name, model_profile_name(all[i])) == 0) {
            *out = all[i];
            return FL_OK;
        }
    return fl_fail(err, FL_EINVAL, "compute %s is not known; there are auto, q8, bf16, f32", name);
}

/* The cache type follows the profile: fp32 where attention computes in fp32, else bf16. */
static fl_status choose_cache_type(fl_engine *e, const char *name, fl_err *err) {
    e->kv_f32 = e->profile == COMPUTE_F32;
    if (strcmp(name, "auto") == 0 || strcmp(name, e->kv_f32 ? "f32" : "bf16") == 0) return FL_OK;
    if (strcmp(name, "q8") == 0)
        return fl_fail(err, FL_EUNSUPPORTED, "cache type q8 is not supported; there are auto, bf16, f32");
    if (strcmp(name, "bf16") == 0 || strcmp(name, "f32") == 0)
        return fl_fail(err, FL_EUNSUPPORTED, "cache type %s does not go with the %s profile, which uses %s", name,
                       model_profile_name(e->profile), e->kv_f32 ? "f32" : "bf16");
    return fl_fail(err, FL_EINVAL, "cache type %s is not known; there are auto, bf16, f32", name);
}

static fl_status choose_limits(fl_engine *e, const fl_engine_options *o, fl_err *err) {
    uint32_t context = e->model->config.context_length;
    e->max_len = o->max_model_len ? o->max_model_len : context;
    if (e->max_len > context)
        return fl_fail(err, FL_EINVAL, "%u positions a request were asked for, the model has %u", e->max_len, context);
    e->max_seqs = o->max_num_seqs ? o->max_num_seqs : 8;
    e->max_tokens = o->max_num_batched_tokens ? o->max_num_batched_tokens : ENGINE_STEP_TOKENS;
    if (e->max_seqs > ENGINE_SEQS_MAX)
        return fl_fail(err, FL_EINVAL, "%u requests at once were asked for, at most %d are possible", e->max_seqs,
                       ENGINE_SEQS_MAX);
    if (e->max_tokens > 1 << 16)
        return fl_fail(err, FL_EINVAL, "%u tokens a step were asked for, at most %d are possible", e->max_tokens,
                       1 << 16);
    if (e->max_tokens < e->max_seqs) e->max_tokens = e->max_seqs;
    e->max_rows = o->max_logit_rows ? o->max_logit_rows : e->max_seqs;
    if (e->max_rows > e->max_tokens) e->max_rows = e->max_tokens;
    e->prefix_caching = !o->no_prefix_caching;
    e->n_slots = o->steps_in_flight ? o->steps_in_flight : e->vt->steps_in_flight;
    if (e->n_slots > ENGINE_SLOTS_MAX)
        return fl_fail(err, FL_EINVAL, "%u steps in flight were asked for, at most %d are possible", e->n_slots,
                       ENGINE_SLOTS_MAX);
    return FL_OK;
}

enum { PIECE_BYTES = 4 << 20 };

/* Rows that do not lie in the file as one block are put together a piece at a time. */
static fl_status load_laid_out(fl_engine *e, const graph_weight *w, dev_weight *to, fl_err *err) {
    const size_t row_bytes = dtype_row_bytes(w->type, w->k), fits = PIECE_BYTES / row_bytes;
    const uint32_t all = graph_weight_rows(w), piece = fits == 0 ? 1 : fits < all ? (uint32_t)fits : all;
    void *rows = base_alloc_aligned(piece * row_bytes);
    fl_status st = rows ? FL_OK : fl_fail(err, FL_ENOMEM, "weight %s: no memory", w->name);
    for (uint32_t row = 0, n; row < all && st == FL_OK; row += n) {
        n = all - row < piece ? all - row : piece;
        graph_weight_read(w, row, n, rows);
        st = e->vt->weight_write(e->dev, to, row, n, rows, err);
    }
    base_free(rows);
    return st;
}

/* What the products of one token read. */
static uint64_t token_bytes(const fl_engine *e) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < e->g->n_nodes; i++) {
        const graph_node *n = &e->g->nodes[i];
        if (n->op != OP_MATMUL && n->op != OP_HEAD_MATMUL && n->op != OP_EXPERT_MATMUL) continue;
        const graph_weight *w = &e->g->weights[n->weight];
        uint64_t all = e->vt->weight_bytes(e->weights[n->weight]);
        /* Rows of an embedding that were written, and so are kept beside the packed ones. */
        if (w->uses & GRAPH_USE_EMBED && w->layout) all -= (uint64_t)w->n * dtype_row_bytes(w->type, w->k);
        bytes += n->op == OP_EXPERT_MATMUL ? all / w->n_stack * e->g->top_k : all;
    }
    return bytes;
}

static fl_status load_weights(fl_engine *e, fl_err *err) {
    const graph *g = e->g;
    e->weights = base_calloc(g->n_weights + 1, sizeof *e->weights);
    if (!e->weights) return fl_fail(err, FL_ENOMEM, "weights: no memory");
    for (uint32_t i = 0; i < g->n_weights; i++) {
        const graph_weight *w = &g->weights[i];
        dev_weight_desc d = {.name = w->name,
                             .type = w->type,
                             .compute = w->compute,
                             .uses = w->uses,
                             .n = w->n,
                             .k = w->k,
                             .n_stack = w->n_stack,
                             .k_file = w->k};
        fl_status st = e->vt->weight_open(e->dev, &d, &e->weights[i], err);
        if (st == FL_OK)
            st = w->layout ? load_laid_out(e, w, e->weights[i], err)
                           : e->vt->weight_adopt(e->dev, e->weights[i], w->data, err);
        if (st != FL_OK) return fl_wrap(err, st, "loading weights");
        e->weight_bytes += e->vt->weight_bytes(e->weights[i]);
    }
    e->token_bytes = token_bytes(e);
    model_source_forget(
        e->model->source); /* packed copies are used from here on: the file's pages need not stay resident */
    return FL_OK;
}

kv_kind engine_kv_kind(const fl_engine *e, uint32_t group) {
    return (kv_kind){e->g->kv[group].window, e->g->kv[group].chunked};
}

uint32_t engine_span(const fl_engine *e) { return sched_span(e->max_tokens, e->n_slots); }

/* Cache room for n_tokens positions: as many full-length requests side by side, and what is left for one more. */
static uint64_t group_pages(const fl_engine *e, uint32_t group, uint64_t n_tokens) {
    kv_kind kind = engine_kv_kind(e, group);
    uint64_t full = n_tokens / e->max_len, pages = full * kv_pages_needed(kind, e->max_len, engine_span(e));
    pages += kv_pages_needed(kind, (uint32_t)(n_tokens % e->max_len), engine_span(e));
    /* Many short requests must find sliding pages as well as full ones. */
    uint64_t all = (n_tokens + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS + e->max_seqs;
    uint64_t each = (uint64_t)e->max_seqs * kv_pages_needed(kind, e->max_len, engine_span(e));
    uint64_t want = kind.window ? each : pages + e->max_seqs;
    return want < all ? want : all;
}

static uint64_t cache_bytes(const fl_engine *e, uint64_t n_tokens) {
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < e->g->n_kv; i++)
        bytes += group_pages(e, i, n_tokens) * e->vt->kv_page_bytes(e->dev, &e->g->kv[i]);
    return bytes;
}

/* Room asked for, or for max_seqs requests of full length, cut to a third of the machine's memory but not below one. */
static fl_status open_cache(fl_engine *e, const fl_engine_options *o, fl_err *err) {
    uint64_t want = o->kv_cache_tokens ? o->kv_cache_tokens : (uint64_t)e->max_len * e->max_seqs;
    if (want > (uint64_t)1 << 40)
        return fl_fail(err, FL_EINVAL, "a cache of %llu positions is too large", (unsigned long long)want);
    uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) / 3;
    if (!o->kv_cache_tokens)
        while (want > e->max_len && cache_bytes(e, want) > memory) want -= e->max_len;
    if (cache_bytes(e, want) > memory * 3)
        return fl_fail(
            err, FL_ENOMEM,
            "a cache of %llu positions needs %llu MB, the machine has %llu MB; use a smaller --max-model-len",
            (unsigned long long)want, (unsigned long long)(cache_bytes(e, want) >> 20),
            (unsigned long long)(memory * 3 >> 20));
    kv_options k = {.n_groups = e->g->n_kv,
                    .n_seqs = e->max_seqs,
                    .positions_max = e->max_len,
                    .shuffle_seed = o->page_shuffle_seed};
    for (uint32_t i = 0; i < e->g->n_kv; i++) {
        uint64_t pages = group_pages(e, i, want), bytes = pages * e->vt->kv_page_bytes(e->dev, &e->g->kv[i]);
        if (pages > UINT32_MAX / KV_PAGE_TOKENS)
            return fl_fail(err, FL_EINVAL, "a cache of %llu positions is too large", (unsigned long long)want);
        k.kind[i] = engine_kv_kind(e, i);
        k.n_pages[i] = e->kv_pages[i] = (uint32_t)pages;
        fl_status st = e->vt->alloc(e->dev, bytes, &e->kv_span[i], err);
        if (st != FL_OK) return fl_wrap(err, st, "the cache");
        e->kv_bytes += bytes;
    }
    return kv_cache_open(&e->kv, &k, err);
}

static fl_status open_slot(fl_engine *e, engine_slot *s, fl_err *err) {
    s->step.pieces = base_calloc(e->max_seqs, sizeof *s->step.pieces);
    s->token = base_calloc(e->max_tokens, sizeof *s->token);
    s->position = base_calloc(e->max_tokens, sizeof *s->position);
    s->token_seq = base_calloc(e->max_tokens, sizeof *s->token_seq);
    s->seq_begin = base_calloc(e->max_seqs + 1, sizeof *s->seq_begin);
    s->row_token = base_calloc(e->max_rows, sizeof *s->row_token);
    s->draw = base_calloc(e->max_rows, sizeof *s->draw);
    s->outputs.rows = base_calloc(e->max_rows, sizeof *s->outputs.rows);
    s->outputs.seq_bad = base_calloc(e->max_seqs, 1);
    bool ok = s->step.pieces && s->token && s->position && s->token_seq && s->seq_begin && s->row_token && s->draw &&
              s->outputs.rows && s->outputs.seq_bad;
    for (uint32_t g = 0; g < e->g->n_kv; g++) {
        s->pages[g] = base_calloc(e->max_seqs, sizeof *s->pages[g]);
        s->tables.pages[g] = s->pages[g];
        ok = ok && s->pages[g];
    }
    if (!ok) return fl_fail(err, FL_ENOMEM, "tables for steps of %u tokens: no memory", e->max_tokens);
    s->tables.token = s->token;
    s->tables.position = s->position;
    s->tables.token_seq = s->token_seq;
    s->tables.seq_begin = s->seq_begin;
    s->tables.row_token = s->row_token;
    s->tables.draw = s->draw;
    return FL_OK;
}

static void close_slot(engine_slot *s) {
    base_free(s->step.pieces);
    base_free(s->token);
    base_free(s->position);
    base_free(s->token_seq);
    base_free(s->seq_begin);
    base_free(s->row_token);
    base_free(s->draw);
    base_free(s->outputs.rows);
    base_free(s->outputs.seq_bad);
    base_free(s->logits);
    for (uint32_t g = 0; g < GRAPH_GROUPS_MAX; g++) base_free(s->pages[g]);
}

static fl_status compile(fl_engine *e, int opt_level, fl_err *err) {
    double t0 = base_now();
    graph_ranges r = {e->max_tokens, e->max_seqs, e->max_rows};
    fl_status st = graph_plan_open(&e->plan, e->g, r, opt_level, err);
    if (st == FL_OK) st = e->vt->compile(e->dev, e->plan, e->weights, e->kv_span, &e->program, err);
    e->compile_ms = 1e3 * (base_now() - t0);
    return st == FL_OK ? FL_OK : fl_wrap(err, st, "compiling the step");
}

/* The depth at which attention takes as long as the rest of a token: multiplications of weights over those of a key, which
 * cost about four times as much (docs/PERF.md, kernels). Only how a step is filled depends on it. */
static uint32_t depth_unit(const graph *g) {
    uint64_t weights = 0, key = 0;
    for (uint32_t i = 0; i < g->n_nodes; i++) {
        const graph_node *n = &g->nodes[i];
        if (n->op == OP_MATMUL && n->rows == GRAPH_ROWS_T)
            weights += (uint64_t)g->weights[n->weight].n * g->weights[n->weight].k;
        if (n->op == OP_ATTENTION && g->kv[n->kv_group].window == 0) key += n->cols + g->nodes[n->in[0]].cols;
    }
    uint64_t depth = key ? weights / (4 * key) : 0;
    return depth > UINT32_MAX ? UINT32_MAX : depth < 64 ? 64 : (uint32_t)depth;
}

fl_status engine_load(fl_engine *e, const fl_engine_options *o, fl_err *err) {
    double t0 = base_now();
    compute c = COMPUTE_AUTO;
    fl_status st = e->model->config_status;
    if (st != FL_OK) {
        if (err) *err = e->model->config_err;
        return st;
    }
    st = find_back_end(o->device ? o->device : "cpu", &e->vt, err);
    if (st == FL_OK) st = parse_compute(o->compute ? o->compute : "auto", &c, err);
    if (st == FL_OK) st = choose_limits(e, o, err);
    if (st == FL_OK) st = model_build(&e->g, &e->model->config, e->model->source, e->max_len, c, err);
    if (st != FL_OK) return st;
    e->profile = model_profile(e->g);
    st = choose_cache_type(e, o->kv_cache_dtype ? o->kv_cache_dtype : "auto", err);
    dev_options d = {.isa = o->cpu_isa, .n_threads = o->n_threads, .kv_f32 = e->kv_f32};
    if (st == FL_OK) st = e->vt->open(&e->dev, &d, err);
    if (st == FL_OK) st = load_weights(e, err);
    if (st == FL_OK) st = open_cache(e, o, err);
    if (st == FL_OK) st = compile(e, o->opt_level < 0 ? 2 : o->opt_level, err);
    sched_options s = {.max_seqs = e->max_seqs,
                       .max_tokens = e->max_tokens,
                       .max_rows = e->max_rows,
                       .max_units = e->max_tokens,
                       .depth_unit = depth_unit(e->g),
                       .max_requests = ENGINE_REQUESTS_MAX,
                       .max_in_flight = e->n_slots,
                       .kv = e->kv};
    if (st == FL_OK) st = sched_open(&e->sched, &s, err);
    for (uint32_t i = 0; i < e->n_slots && st == FL_OK; i++) st = open_slot(e, &e->slots[i], err);
    e->load_ms = 1e3 * (base_now() - t0);
    return st;
}

void engine_unload(fl_engine *e) {
    for (uint32_t i = 0; i < ENGINE_SLOTS_MAX; i++) close_slot(&e->slots[i]);
    sched_close(e->sched);
    if (e->dev) {
        e->vt->program_close(e->dev, e->program);
        for (uint32_t i = 0; i < GRAPH_GROUPS_MAX; i++)
            if (e->kv_span[i].handle) e->vt->release(e->dev, e->kv_span[i]);
        for (uint32_t i = 0; e->weights && i < e->g->n_weights; i++) e->vt->weight_close(e->dev, e->weights[i]);
        e->vt->close(e->dev);
    }
    kv_cache_close(e->kv);
    base_free(e->weights);
    graph_plan_close(e->plan);
    graph_close(e->g);
}
