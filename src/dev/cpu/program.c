/* Compiling: each group is bound to the first row of the table, with the best kernel set,
 * that takes it; a group that none takes is split into single ops. Running: the groups in
 * order on the team, a barrier after each. All memory is taken here, none while running. */
#include "dev/cpu/cpu_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

const cpu_row *const cpu_rows[] = {&cpu_row_embed,  &cpu_row_matmul,  &cpu_row_kv_write, &cpu_row_attention,
                                   &cpu_row_sample, &cpu_row_experts, &cpu_row_heads,    &cpu_row_chain};

static op key_of(const graph_group *g) { return op_get(g->main)->kind == OP_KIND_MAIN ? g->main : OP_COUNT; }

static void note_refusal(cpu_group *g, const char *isa, const char *why) {
    size_t used = strlen(g->why);
    (void)snprintf(g->why + used, sizeof g->why - used, "%s%s: %s", used ? "; " : "", isa, why);
}

/* Finds a row for the group: kernel sets best first. False when none takes it. */
static bool bind(cpu_dev *d, cpu_group *g) {
    g->why[0] = '\0';
    for (uint32_t set = 0; set < d->n_sets; set++)
        for (size_t r = 0; r < sizeof cpu_rows / sizeof cpu_rows[0]; r++) {
            if (cpu_rows[r]->main != key_of(g->g)) continue;
            g->set = d->sets[set];
            g->row = cpu_rows[r];
            const char *why = g->row->refuses(g);
            if (!why) return true;
            note_refusal(g, g->set->isa, why);
        }
    return false;
}

static void describe_group(const dev_program *p, cpu_group *g, const graph_group *group, dev_weight *const *weights,
                           const dev_span *kv) {
    *g = (cpu_group){.plan = p->plan, .g = group, .weights = weights, .kv = kv, .kv_f32 = p->d->kv_f32};
    for (uint32_t i = 0; i < group->n_pre; i++)
        if (cpu_node(g, group->pre[i])->cols > g->pre_cols) g->pre_cols = cpu_node(g, group->pre[i])->cols;
    g->pre_cols = (g->pre_cols + 15) & ~15u;
    for (uint32_t i = 0; i < p->plan->g->n_kv; i++)
        g->page_bytes[i] = dev_cpu.kv_page_bytes(&p->d->base, &p->plan->g->kv[i]);
}

static fl_status bind_all(dev_program *p, dev_weight *const *weights, const dev_span *kv, fl_err *err) {
    for (uint32_t i = 0; i < p->plan->n_groups; i++) {
        const graph_group *group = &p->plan->groups[i];
        cpu_group *g = &p->groups[i];
        describe_group(p, g, group, weights, kv);
        if (bind(p->d, g)) continue;
        if (group->n_pre + group->n_main + group->n_post == 1)
            return fl_fail(err, FL_EUNSUPPORTED, "op %s (%s): no row of the CPU takes it: %s",
                           op_get(group->main)->name, cpu_node(g, group->mains[0])->label, g->why);
        fl_status st = graph_plan_split(p->plan, i, err);
        if (st != FL_OK) return st;
        describe_group(p, g, &p->plan->groups[i], weights, kv);
        i--;
    }
    p->n_groups = p->plan->n_groups;
    return FL_OK;
}

/* Room for the RoPE tables of one step, and for the scratch of the most demanding group. */
static fl_status take_memory(dev_program *p, fl_err *err) {
    const graph *g = p->plan->g;
    size_t rope = 0;
    for (uint32_t i = 0; i < g->n_ropes; i++) {
        p->rope_offset[i] = rope;
        rope += (size_t)p->plan->ranges.tokens * (g->ropes[i].d / 2);
    }
    for (uint32_t i = 0; i < p->n_groups; i++) {
        size_t scratch = p->groups[i].row->scratch(&p->groups[i]);
        size_t shared = p->groups[i].row->shared ? p->groups[i].row->shared(&p->groups[i]) : 0;
        if (scratch > p->scratch_bytes) p->scratch_bytes = scratch;
        if (shared > p->shared_bytes) p->shared_bytes = shared;
    }
    p->scratch_bytes = (p->scratch_bytes + 127) & ~(size_t)63; /* threads do not share cache lines */
    p->arena = base_alloc_aligned(p->plan->arena_bytes);
    p->shared = base_alloc_aligned(p->shared_bytes);
    p->scratch = base_alloc_aligned(p->scratch_bytes * cpu_pool_threads(p->d->pool));
    p->cos = base_alloc_aligned(rope * sizeof *p->cos);
    p->sin = base_alloc_aligned(rope * sizeof *p->sin);
    p->drawn = base_calloc(p->plan->ranges.rows, sizeof *p->drawn);
    if (!p->arena || !p->shared || !p->scratch || !p->cos || !p->sin || !p->drawn)
        return fl_fail(err, FL_ENOMEM,
                       "a step of %u tokens needs %zu bytes; no memory (use a smaller --max-num-batched-tokens)",
                       p->plan->ranges.tokens, cpu_program_size(p));
    return FL_OK;
}

fl_status cpu_program_compile(dev *d, graph_plan *plan, dev_weight *const *weights, const dev_span *kv,
                              dev_program **out, fl_err *err) {
    *out = NULL;
    dev_program *p = base_calloc(1, sizeof *p);
    if (!p) return fl_fail(err, FL_ENOMEM, "a program: no memory");
    p->d = (cpu_dev *)d;
    p->plan = plan;
    p->best = p->d->sets[0];
    p->groups = base_calloc(plan->g->n_nodes, sizeof *p->groups); /* splitting never gives more groups than ops */
    fl_status st = p->groups ? bind_all(p, weights, kv, err) : fl_fail(err, FL_ENOMEM, "a program: no memory");
    if (st == FL_OK) st = take_memory(p, err);
    if (st != FL_OK) {
        cpu_program_close(d, p);
        return st;
    }
    *out = p;
    return FL_OK;
}

void cpu_program_close(dev *d, dev_program *p) {
    (void)d;
    if (!p) return;
    base_free(p->drawn);
    base_free(p->sin);
    base_free(p->cos);
    base_free(p->scratch);
    base_free(p->shared);
    base_free(p->arena);
    base_free(p->groups);
    base_free(p);
}

size_t cpu_program_size(const dev_program *p) {
    size_t rope = 0;
    for (uint32_t i = 0; i < p->plan->g->n_ropes; i++)
        rope += (size_t)p->plan->ranges.tokens * (p->plan->g->ropes[i].d / 2);
    return p->plan->arena_bytes + p->shared_bytes + p->scratch_bytes * cpu_pool_threads(p->d->pool) +
           2 * rope * sizeof(float);
}

bool cpu_program_print(const dev_program *p, base_buf *out) {
    for (uint32_t i = 0; i < p->n_groups; i++) {
        const cpu_group *g = &p->groups[i];
        const graph_node *main = cpu_node(g, g->g->mains[0]);
        base_buf_printf(out, "%4u  %-22s %s.%-10s ", i, main->label, g->set->isa, g->row->name);
        graph_plan_print_group(p->plan, i, out);
        for (uint32_t m = 0; m < g->g->n_main; m++) {
            uint32_t weight = cpu_node(g, g->g->mains[m])->weight;
            if (weight == GRAPH_NONE || !(g->weights[weight]->desc.uses & GRAPH_USE_MATMUL)) continue;
            if (g->g->main == OP_EMBED) continue;
            const dev_weight_desc *w = &g->weights[weight]->desc;
            base_buf_printf(out, "%s%s[", m ? " " : "  ", dtype_find(w->type)->name);
            if (w->n_stack) base_buf_printf(out, "%u,", w->n_stack);
            base_buf_printf(out, "%u,%u]", w->n, w->k);
        }
        if (!base_buf_printf(out, "%s%s\n", g->why[0] ? "  refused " : "", g->why)) return false;
    }
    return true;
}

static void fill_ropes(const cpu_step *s, uint32_t thread, uint32_t n_threads) {
    const graph *g = s->p->plan->g;
    uint32_t begin, end;
    cpu_pool_part(s->t->n_tokens, thread, n_threads, &begin, &end);
    for (uint32_t r = 0; r < g->n_ropes; r++)
        for (uint32_t t = begin; t < end; t++) {
            size_t at = s->p->rope_offset[r] + (size_t)t * (g->ropes[r].d / 2);
            s->p->best->row->rope_table(s->p->cos + at, s->p->sin + at, s->t->position[t], g->ropes[r].inv_freq,
                                        g->ropes[r].d / 2);
            float m = g->ropes[r].scale;
            for (uint32_t i = 0; m != 1 && i < g->ropes[r].d / 2; i++) {
                s->p->cos[at + i] *= m;
                s->p->sin[at + i] *= m;
            }
        }
}

static void run_part(void *arg, uint32_t thread, uint32_t n_threads) {
    const cpu_step *s = arg;
    fill_ropes(s, thread, n_threads); /* read after the first group's barrier: an embedding needs no RoPE */
    for (uint32_t i = 0; i < s->p->n_groups; i++) {
        const cpu_group *g = &s->p->groups[i];
        g->row->launch(g, s, thread, n_threads);
        cpu_pool_barrier(s->p->d->pool);
    }
}

void cpu_program_run(dev_program *p, const step_tables *tables, step_outputs *outputs) {
    cpu_step s = {p, tables, outputs};
    memset(outputs->seq_bad, 0, tables->n_seqs);
    cpu_pool_run(p->d->pool, run_part, &s);
}

static const char *sample_refuses(const cpu_group *g) {
    (void)g;
    return NULL;
}

static size_t sample_scratch(const cpu_group *g) { return sample_scratch_bytes(g->plan->g->n_vocab); }

/* Logit rows are dealt to the threads in turn. A row with a number that is not finite fails its sequence. */
static void sample_launch(const cpu_group *g, const cpu_step *s, uint32_t thread, uint32_t n_threads) {
    const uint32_t n_vocab = g->plan->g->n_vocab;
    const graph_value logits = cpu_node(g, g->g->mains[0])->in[0];
    const sample_row_math math = {g->set->row->argmax, g->set->row->logsumexp, g->set->row->exp_sub};
    for (uint32_t r = thread; r < s->t->n_rows; r += n_threads) {
        float *row = cpu_value_row(g, s, logits, r);
        if (s->out->logits) memcpy(s->out->logits + (size_t)r * n_vocab, row, n_vocab * sizeof *row);
        sample_row(&s->t->draw[r], &math, row, n_vocab, cpu_scratch(s, thread), &s->out->rows[r]);
        s->p->drawn[r] = s->out->rows[r].bad ? 0 : s->out->rows[r].token;
        if (s->out->rows[r].bad) cpu_mark_bad(s, GRAPH_ROWS_R, r);
    }
}

const cpu_row cpu_row_sample = {"sample", OP_SAMPLE, sample_refuses, sample_scratch, NULL, sample_launch};
