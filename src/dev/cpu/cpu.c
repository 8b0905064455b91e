#include "dev/cpu/cpu.h"

#include "base/mem.h"
#include "dev/cpu/cpu_int.h"

#include <string.h>

/* The sets from `isa` on (NULL: from the best) that this CPU has; errors name what it does have. */
static fl_status choose_sets(cpu_dev *d, const char *isa, fl_err *err) {
    uint32_t n;
    const cpu_kernels *const *all = cpu_kernels_all(&n);
    char names[128] = "";
    for (uint32_t i = 0; i < n; i++) {
        bool wanted = !isa || strcmp(isa, all[i]->isa) == 0;
        if (wanted && all[i]->supported()) {
            d->sets = all + i;
            d->n_sets = n - i;
            return FL_OK;
        }
        if (wanted && isa) return fl_fail(err, FL_EUNSUPPORTED, "instruction set %s: this CPU does not have it", isa);
        strncat(names, i ? ", " : "", sizeof names - strlen(names) - 1);
        strncat(names, all[i]->isa, sizeof names - strlen(names) - 1);
    }
    return fl_fail(err, FL_EINVAL, "instruction set %s is not known; there are %s", isa, names);
}

static fl_status cpu_open(dev **out, const dev_options *o, fl_err *err) {
    *out = NULL;
    cpu_dev *d = base_calloc(1, sizeof *d);
    if (!d) return fl_fail(err, FL_ENOMEM, "the CPU: no memory");
    d->base.vt = &dev_cpu;
    d->kv_f32 = o->kv_f32;
    fl_status st = choose_sets(d, o->isa, err);
    if (st == FL_OK) st = cpu_pool_open(&d->pool, o->n_threads, err);
    if (st != FL_OK) {
        base_free(d);
        return st;
    }
    *out = &d->base;
    return FL_OK;
}

static void cpu_close(dev *dd) {
    cpu_dev *d = (cpu_dev *)dd;
    if (!d) return;
    cpu_pool_close(d->pool);
    cpu_weight_free_slabs(d);
    base_free(d);
}

static void cpu_describe(const dev *dd, const char **isa, uint32_t *n_threads) {
    const cpu_dev *d = (const cpu_dev *)dd;
    *isa = d->sets[0]->isa;
    *n_threads = cpu_pool_threads(d->pool);
}

static fl_status cpu_alloc(dev *d, size_t bytes, dev_span *out, fl_err *err) {
    (void)d;
    void *p = base_alloc_aligned(bytes);
    if (!p) return fl_fail(err, FL_ENOMEM, "%zu bytes: no memory", bytes);
    *out = (dev_span){(uintptr_t)p, bytes};
    return FL_OK;
}

static void cpu_release(dev *d, dev_span span) {
    (void)d;
    base_free((void *)(uintptr_t)span.handle);
}

/* Every usable set must agree on the cache layout of its own kernels only: the first one writes and reads it. */
static size_t cpu_kv_page_bytes(const dev *dd, const graph_kv_group *kv) {
    const cpu_dev *d = (const cpu_dev *)dd;
    return (size_t)kv->n_layers * kv->n_kv_heads *
           d->sets[0]->attn->kv_bytes(cpu_head_width(kv->d_k), cpu_head_width(kv->d_v), d->kv_f32);
}

static fl_status cpu_run(dev *dd, dev_program *p, const step_tables *tables, step_outputs *outputs, dev_ticket *out,
                         fl_err *err) {
    (void)err;
    cpu_program_run(p, tables, outputs);
    *out = ++((cpu_dev *)dd)->ticket;
    return FL_OK;
}

static fl_status cpu_wait(dev *d, dev_ticket ticket, fl_err *err) {
    (void)d, (void)ticket, (void)err;
    return FL_OK;
}

const dev_vtable dev_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .describe = cpu_describe,
    .steps_in_flight = 1,
    .alloc = cpu_alloc,
    .release = cpu_release,
    .weight_open = cpu_weight_open,
    .weight_write = cpu_weight_write,
    .weight_adopt = cpu_weight_adopt,
    .weight_close = cpu_weight_close,
    .weight_bytes = cpu_weight_size,
    .kv_page_bytes = cpu_kv_page_bytes,
    .compile = cpu_program_compile,
    .program_close = cpu_program_close,
    .program_bytes = cpu_program_size,
    .program_print = cpu_program_print,
    .run = cpu_run,
    .wait = cpu_wait,
};
