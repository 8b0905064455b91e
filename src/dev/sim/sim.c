#include "dev/sim/sim.h"

#include "base/assert.h"
#include "base/fault.h"
#include "base/mem.h"
#include "base/thread.h"
#include "dev/cpu/cpu.h"

#include <sys/mman.h>

enum { QUEUE_MAX = 8, SPANS_MAX = 64, PAGE = 4096 };

typedef struct {
    dev_program *program;
    const step_tables *tables;
    step_outputs *outputs;
    bool failed;
} job;

typedef struct {
    dev base;
    dev *cpu;        /* does the arithmetic */
    base_mutex lock; /* guards what follows */
    base_cond changed;
    job queue[QUEUE_MAX]; /* job of ticket t: queue[t % QUEUE_MAX] */
    dev_ticket enqueued, done;
    bool quit;
    pthread_t thread;
    struct {
        void *fault;
        dev_span real;
    } spans[SPANS_MAX];
} sim_dev;

static fl_status refuse(const char *call, fl_err *err) {
    return fl_fail(err, FL_EDEVICE, "the sim device was told to fail: %s", call);
}

#define SIM_FAULT(call)                                                                                                \
    do {                                                                                                               \
        if (base_fault_hit(BASE_FAULT_DEVICE)) return refuse(call, err);                                               \
    } while (0)

static void *run_queue(void *arg) {
    sim_dev *d = arg;
    base_mutex_lock(&d->lock);
    for (;;) {
        while (d->done == d->enqueued && !d->quit) base_cond_wait(&d->changed, &d->lock, -1);
        if (d->done == d->enqueued) break;
        job *j = &d->queue[(d->done + 1) % QUEUE_MAX];
        base_mutex_unlock(&d->lock);
        dev_ticket ticket;
        j->failed = base_fault_hit(BASE_FAULT_DEVICE) ||
                    d->cpu->vt->run(d->cpu, j->program, j->tables, j->outputs, &ticket, NULL) != FL_OK;
        base_mutex_lock(&d->lock);
        d->done++;
        base_cond_wake(&d->changed);
    }
    base_mutex_unlock(&d->lock);
    return NULL;
}

static void sim_close(dev *dd) {
    sim_dev *d = (sim_dev *)dd;
    if (!d) return;
    base_mutex_lock(&d->lock);
    d->quit = true;
    base_cond_wake(&d->changed);
    base_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
    base_cond_clear(&d->changed);
    base_mutex_clear(&d->lock);
    d->cpu->vt->close(d->cpu);
    base_free(d);
}

static fl_status sim_open(dev **out, const dev_options *o, fl_err *err) {
    *out = NULL;
    SIM_FAULT("open");
    sim_dev *d = base_calloc(1, sizeof *d);
    if (!d) return fl_fail(err, FL_ENOMEM, "the sim device: no memory");
    d->base.vt = &dev_sim;
    fl_status st = dev_cpu.open(&d->cpu, o, err);
    if (st != FL_OK) {
        base_free(d);
        return st;
    }
    base_mutex_init(&d->lock, BASE_RANK_DEVICE);
    base_cond_init(&d->changed);
    if (pthread_create(&d->thread, NULL, run_queue, d) != 0) {
        base_cond_clear(&d->changed);
        base_mutex_clear(&d->lock);
        d->cpu->vt->close(d->cpu);
        base_free(d);
        return fl_fail(err, FL_EIO, "the system refuses a thread for the sim device");
    }
    *out = &d->base;
    return FL_OK;
}

static void sim_describe(const dev *dd, const char **isa, uint32_t *n_threads) {
    const sim_dev *d = (const sim_dev *)dd;
    d->cpu->vt->describe(d->cpu, isa, n_threads);
}

static fl_status sim_alloc(dev *dd, size_t bytes, dev_span *out, fl_err *err) {
    sim_dev *d = (sim_dev *)dd;
    SIM_FAULT("alloc");
    int i = 0;
    while (i < SPANS_MAX && d->spans[i].fault) i++;
    if (i == SPANS_MAX)
        return fl_fail(err, FL_ENOMEM, "the sim device has %d spans of memory, all are in use", SPANS_MAX);
    fl_status st = d->cpu->vt->alloc(d->cpu, bytes, &d->spans[i].real, err);
    if (st != FL_OK) return st;
    void *fault = mmap(NULL, bytes + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (fault == MAP_FAILED) {
        d->cpu->vt->release(d->cpu, d->spans[i].real);
        return fl_fail(err, FL_ENOMEM, "%zu bytes of address space: none left", bytes);
    }
    d->spans[i].fault = fault;
    *out = (dev_span){(uintptr_t)fault, bytes};
    return FL_OK;
}

static int find_span(const sim_dev *d, dev_span span) {
    for (int i = 0; i < SPANS_MAX; i++)
        if (d->spans[i].fault && (uintptr_t)d->spans[i].fault == span.handle) return i;
    fl_assert(0 && "a span of this device");
    return 0;
}

static void sim_release(dev *dd, dev_span span) {
    sim_dev *d = (sim_dev *)dd;
    int i = find_span(d, span);
    fl_assert(munmap(d->spans[i].fault, span.bytes + PAGE) == 0);
    d->cpu->vt->release(d->cpu, d->spans[i].real);
    d->spans[i].fault = NULL;
}

static fl_status sim_weight_open(dev *dd, const dev_weight_desc *desc, dev_weight **out, fl_err *err) {
    *out = NULL;
    SIM_FAULT("weight_open");
    return dev_cpu.weight_open(((sim_dev *)dd)->cpu, desc, out, err);
}

static fl_status sim_weight_write(dev *dd, dev_weight *w, uint32_t row, uint32_t n_rows, const void *rows,
                                  fl_err *err) {
    SIM_FAULT("weight_write");
    return dev_cpu.weight_write(((sim_dev *)dd)->cpu, w, row, n_rows, rows, err);
}

/* An accelerator cannot use a host mapping: adopting is writing. */
static fl_status sim_weight_adopt(dev *dd, dev_weight *w, const void *rows, fl_err *err) {
    SIM_FAULT("weight_adopt");
    return dev_cpu.weight_adopt(((sim_dev *)dd)->cpu, w, rows, err);
}

static void sim_weight_close(dev *dd, dev_weight *w) { dev_cpu.weight_close(((sim_dev *)dd)->cpu, w); }

static size_t sim_weight_bytes(const dev_weight *w) { return dev_cpu.weight_bytes(w); }

static size_t sim_kv_page_bytes(const dev *dd, const graph_kv_group *kv) {
    return dev_cpu.kv_page_bytes(((const sim_dev *)dd)->cpu, kv);
}

/* A program of the CPU, with the spans it was compiled for. */
typedef struct {
    dev_program *program;
    dev_span kv[GRAPH_GROUPS_MAX];
} sim_program;

static fl_status sim_compile(dev *dd, graph_plan *plan, dev_weight *const *weights, const dev_span *kv,
                             dev_program **out, fl_err *err) {
    sim_dev *d = (sim_dev *)dd;
    *out = NULL;
    SIM_FAULT("compile");
    sim_program *p = base_calloc(1, sizeof *p);
    if (!p) return fl_fail(err, FL_ENOMEM, "a program: no memory");
    for (uint32_t i = 0; i < plan->g->n_kv; i++) p->kv[i] = d->spans[find_span(d, kv[i])].real;
    fl_status st = dev_cpu.compile(d->cpu, plan, weights, p->kv, &p->program, err);
    if (st != FL_OK) {
        base_free(p);
        return st;
    }
    *out = (dev_program *)p;
    return FL_OK;
}

static void sim_program_close(dev *dd, dev_program *pp) {
    sim_program *p = (sim_program *)pp;
    if (!p) return;
    dev_cpu.program_close(((sim_dev *)dd)->cpu, p->program);
    base_free(p);
}

static size_t sim_program_bytes(const dev_program *p) {
    return dev_cpu.program_bytes(((const sim_program *)p)->program);
}

static bool sim_program_print(const dev_program *p, base_buf *out) {
    return dev_cpu.program_print(((const sim_program *)p)->program, out);
}

static fl_status sim_run(dev *dd, dev_program *p, const step_tables *tables, step_outputs *outputs, dev_ticket *out,
                         fl_err *err) {
    sim_dev *d = (sim_dev *)dd;
    SIM_FAULT("run");
    base_mutex_lock(&d->lock);
    fl_assert(d->enqueued - d->done < QUEUE_MAX);
    *out = ++d->enqueued;
    d->queue[*out % QUEUE_MAX] = (job){((sim_program *)p)->program, tables, outputs, false};
    base_cond_wake(&d->changed);
    base_mutex_unlock(&d->lock);
    return FL_OK;
}

static fl_status sim_wait(dev *dd, dev_ticket ticket, fl_err *err) {
    sim_dev *d = (sim_dev *)dd;
    base_mutex_lock(&d->lock);
    fl_assert(ticket <= d->enqueued && d->enqueued - ticket < QUEUE_MAX);
    while (d->done < ticket) base_cond_wait(&d->changed, &d->lock, -1);
    bool failed = d->queue[ticket % QUEUE_MAX].failed;
    base_mutex_unlock(&d->lock);
    return failed ? refuse("a run", err) : FL_OK;
}

const dev_vtable dev_sim = {
    .name = "sim",
    .open = sim_open,
    .close = sim_close,
    .describe = sim_describe,
    .steps_in_flight = 3,
    .alloc = sim_alloc,
    .release = sim_release,
    .weight_open = sim_weight_open,
    .weight_write = sim_weight_write,
    .weight_adopt = sim_weight_adopt,
    .weight_close = sim_weight_close,
    .weight_bytes = sim_weight_bytes,
    .kv_page_bytes = sim_kv_page_bytes,
    .compile = sim_compile,
    .program_close = sim_program_close,
    .program_bytes = sim_program_bytes,
    .program_print = sim_program_print,
    .run = sim_run,
    .wait = sim_wait,
};
