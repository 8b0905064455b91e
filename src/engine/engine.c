#include "flambeau.h"

#include "base/assert.h"
#include "base/mem.h"
#include "engine/engine_int.h"
#include "graph/weight.h"

#include <string.h>

void fl_engine_options_init(fl_engine_options *o) { *o = (fl_engine_options){.size = sizeof *o, .opt_level = -1}; }

fl_status fl_engine_open(fl_engine **out, const fl_model *m, const fl_engine_options *options, fl_err *err) {
    *out = NULL;
    fl_engine_options o;
    fl_engine_options_init(&o);
    if (options) memcpy(&o, options, options->size < sizeof o ? options->size : sizeof o);
    fl_engine *e = base_calloc(1, sizeof *e);
    if (!e) return fl_fail(err, FL_ENOMEM, "an engine: no memory");
    e->model = m;
    e->arrived_end = &e->arrived;
    base_mutex_init(&e->step_lock, BASE_RANK_STEP);
    base_mutex_init(&e->queue_lock, BASE_RANK_QUEUE);
    base_cond_init(&e->queue_cond);
    fl_status st = engine_load(e, &o, err);
    if (st != FL_OK) {
        fl_engine_close(e);
        return m->source ? fl_wrap(err, st, "cannot run %s", model_source_path(m->source)) : st;
    }
    *out = e;
    return FL_OK;
}

void fl_engine_close(fl_engine *e) {
    if (!e) return;
    fl_engine_stop(e);
    base_mutex_lock(&e->step_lock);
    if (e->sched) engine_drain(e);
    base_mutex_unlock(&e->step_lock);
    fl_assert(e->n_requests == 0);
    engine_unload(e);
    base_cond_clear(&e->queue_cond);
    base_mutex_clear(&e->queue_lock);
    base_mutex_clear(&e->step_lock);
    base_free(e);
}

void fl_engine_info_init(fl_engine_info *info) { *info = (fl_engine_info){.size = sizeof *info}; }

void fl_engine_get_info(fl_engine *e, fl_engine_info *info) {
    fl_engine_info all = {.size = info->size,
                          .device = e->vt->name,
                          .profile = model_profile_name(e->profile),
                          .kv_cache_dtype = e->kv_f32 ? "f32" : "bf16",
                          .max_model_len = e->max_len,
                          .max_num_seqs = e->max_seqs,
                          .max_num_batched_tokens = e->max_tokens,
                          .steps_in_flight = e->n_slots,
                          .weight_bytes = e->weight_bytes,
                          .kv_bytes = e->kv_bytes,
                          .activation_bytes = e->vt->program_bytes(e->program),
                          .load_ms = e->load_ms,
                          .compile_ms = e->compile_ms,
                          .n_steps = atomic_load(&e->n_steps),
                          .n_prompt_tokens = atomic_load(&e->n_prompt_tokens),
                          .n_output_tokens = atomic_load(&e->n_output_tokens),
                          .n_step_allocations = atomic_load(&e->n_step_allocations),
                          .token_bytes = e->token_bytes};
    e->vt->describe(e->dev, &all.cpu_isa, &all.n_threads);
    for (uint32_t i = 0; i < e->g->n_kv; i++)
        if (e->g->kv[i].window == 0 || e->g->n_kv == 1) all.kv_cache_tokens = (uint64_t)e->kv_pages[i] * KV_PAGE_TOKENS;
    memcpy(info, &all, info->size < sizeof all ? info->size : sizeof all);
}

fl_status fl_engine_print_plan(const fl_engine *e, char **text, fl_err *err) {
    base_buf b = {0};
    *text = NULL;
    if (e->vt->program_print(e->program, &b)) *text = base_buf_take(&b);
    base_buf_clear(&b);
    return *text ? FL_OK : fl_fail(err, FL_ENOMEM, "the plan: no memory");
}

static bool is_threaded(fl_engine *e) {
    base_mutex_lock(&e->queue_lock);
    bool threaded = e->threaded;
    base_mutex_unlock(&e->queue_lock);
    return threaded;
}

fl_status fl_engine_step(fl_engine *e, bool *busy, fl_err *err) {
    *busy = false;
    if (is_threaded(e))
        return fl_fail(err, FL_EINVAL, "the engine runs its steps in a thread of its own (fl_engine_start)");
    engine_lock_for_step(e);
    fl_status st = engine_step(e, busy, err);
    base_mutex_unlock(&e->step_lock);
    return st;
}

/* A failed step has failed its requests; the thread goes on with the others. */
static void *run_steps(void *arg) {
    fl_engine *e = arg;
    for (;;) {
        bool busy;
        engine_lock_for_step(e);
        fl_status st = engine_step(e, &busy, NULL);
        (void)st;
        base_mutex_unlock(&e->step_lock);
        base_mutex_lock(&e->queue_lock);
        while (!busy && !e->arrived && !e->quit) base_cond_wait(&e->queue_cond, &e->queue_lock, -1);
        bool quit = e->quit;
        base_mutex_unlock(&e->queue_lock);
        if (quit) return NULL;
    }
}

fl_status fl_engine_start(fl_engine *e, fl_err *err) {
    base_mutex_lock(&e->queue_lock);
    fl_status st = FL_OK;
    if (!e->threaded) {
        e->quit = false;
        if (pthread_create(&e->thread, NULL, run_steps, e) == 0)
            e->threaded = true;
        else
            st = fl_fail(err, FL_EIO, "the system refuses a thread for the engine");
    }
    base_mutex_unlock(&e->queue_lock);
    return st;
}

void fl_engine_stop(fl_engine *e) {
    base_mutex_lock(&e->queue_lock);
    bool threaded = e->threaded;
    e->quit = true;
    base_cond_wake(&e->queue_cond);
    base_mutex_unlock(&e->queue_lock);
    if (!threaded) return;
    pthread_join(e->thread, NULL);
    base_mutex_lock(&e->queue_lock);
    e->threaded = false;
    base_mutex_unlock(&e->queue_lock);
}

fl_status fl_engine_write_weight(fl_engine *e, const char *name, uint64_t row, uint64_t n_rows, const void *rows,
                                 size_t n_bytes, fl_err *err) {
    uint32_t i = 0;
    while (i < e->g->n_weights && strcmp(e->g->weights[i].name, name) != 0) i++;
    if (i == e->g->n_weights) return fl_fail(err, FL_EINVAL, "the model has no weight %s", name);
    const graph_weight *w = &e->g->weights[i];
    size_t row_bytes = dtype_row_bytes(w->type, w->k), want;
    const uint32_t all = graph_weight_rows(w);
    if (n_rows > all || row > all - n_rows)
        return fl_fail(err, FL_EINVAL, "weight %s has %u rows; rows %llu to %llu were given", name, all,
                       (unsigned long long)row, (unsigned long long)(row + n_rows));
    if (__builtin_mul_overflow(row_bytes, (size_t)n_rows, &want) || want != n_bytes)
        return fl_fail(err, FL_EINVAL, "weight %s: %llu rows of %s are %zu bytes, %zu were given", name,
                       (unsigned long long)n_rows, dtype_find(w->type)->name, row_bytes * (size_t)n_rows, n_bytes);
    engine_lock_between_steps(e);
    engine_drain(e);
    fl_status st = e->vt->weight_write(e->dev, e->weights[i], (uint32_t)row, (uint32_t)n_rows, rows, err);
    base_mutex_unlock(&e->step_lock);
    return st;
}
