/* Groups and places of random graphs and of the model families.
 *
 * verify_plan() states what plan.h promises without looking at how plan.c gets there: every op
 * stands in one group, in the place that its kind allows; what a group reads was stored by an
 * earlier one or is computed inside it before; what is stored together does not overlap. */
#include "base/mem.h"
#include "graph/plan.h"
#include "model/model.h"
#include "test.h"
#include "unit/engine/tiny.h"
#include "unit/graph/random.h"

#include <stdio.h>
#include <string.h>

static const graph_ranges ranges = {48, 4, 6};

/* ---- what a plan must be ---- */

typedef struct {
    const graph_plan *p;
    bool done[2000]; /* values that earlier groups, or earlier ops of this group, have computed */
    uint32_t group[2000];
    const char *wrong;
} verifier;

static void computed(verifier *v, uint32_t group, graph_value x, bool reads_inside) {
    const graph_node *n = &v->p->g->nodes[x];
    if (v->done[x]) v->wrong = "computed twice";
    if (v->p->group_of[x] != group) v->wrong = "group_of says another group";
    for (int i = 0; i < op_get(n->op)->n_inputs; i++) {
        graph_value in = n->in[i];
        bool here = v->done[in] && v->group[in] == group;
        if (!v->done[in])
            v->wrong = "an input is not computed yet";
        else if (!here && v->p->g->nodes[in].cols && !v->p->stored[in])
            v->wrong = "an input of another group was not stored";
        else if (here && !reads_inside)
            v->wrong = "reads inside its group what it must not";
    }
    v->done[x] = true;
    v->group[x] = group;
}

static void verify_group(verifier *v, uint32_t i) {
    const graph_plan *p = v->p;
    const graph_group *g = &p->groups[i];
    const bool products = g->main == OP_MATMUL || g->main == OP_EXPERT_MATMUL;
    if (g->n_main == 0 || (g->n_main > 1 && !products)) v->wrong = "a wrong number of mains";
    for (uint32_t k = 0; k < g->n_pre; k++) {
        if (op_get(p->g->nodes[g->pre[k]].op)->kind == OP_KIND_MAIN) v->wrong = "a main op as prologue";
        if (p->g->nodes[g->pre[k]].rows != g->rows) v->wrong = "a prologue over other rows";
        if ((g->main == OP_KV_WRITE || g->main == OP_ATTENTION) && p->stored[g->pre[k]])
            v->wrong = "a part of a head is needed elsewhere";
        computed(v, i, g->pre[k], true);
    }
    for (uint32_t k = 0; k < g->n_main; k++) {
        const graph_node *n = &p->g->nodes[g->mains[k]];
        if (n->op != g->main || n->rows != g->rows) v->wrong = "mains differ";
        if (products && (n->in[0] != p->g->nodes[g->mains[0]].in[0] ||
                         (g->main == OP_EXPERT_MATMUL && n->in[1] != p->g->nodes[g->mains[0]].in[1]) ||
                         p->g->weights[n->weight].compute != p->g->weights[p->g->nodes[g->mains[0]].weight].compute))
            v->wrong = "merged products of different inputs";
        computed(v, i, g->mains[k], g->n_pre > 0);
    }
    graph_value tail[GROUP_MAIN_MAX];
    memcpy(tail, g->mains, sizeof tail);
    for (uint32_t k = 0; k < g->n_post; k++) {
        const graph_node *n = &p->g->nodes[g->post[k]];
        uint32_t m = g->post_main[k];
        bool pair = g->paired && k == 0, two = op_get(n->op)->n_inputs == 2;
        if (op_get(n->op)->kind != OP_KIND_ELEM || m >= g->n_main) v->wrong = "no element-wise op as epilogue";
        if (pair && (n->in[0] != tail[0] || n->in[1] != tail[1])) v->wrong = "a pair of other values";
        if (!pair && n->in[0] != tail[m] && !(two && n->in[1] == tail[m])) v->wrong = "an epilogue of another main";
        for (int in = 0; in < (two ? 2 : 1); in++)
            if (!pair && n->in[in] != tail[m] && (v->done[n->in[in]] && v->group[n->in[in]] == i))
                v->wrong = "an epilogue reads another tile";
        if (p->stored[tail[m]] || (pair && p->stored[tail[1]])) v->wrong = "an intermediate of the epilogue is stored";
        computed(v, i, g->post[k], true);
        tail[m] = g->post[k];
    }
}

/* Last group that reads x, at least its own. */
static uint32_t last_reader(const graph_plan *p, graph_value x) {
    uint32_t last = p->group_of[x];
    for (graph_value u = 0; u < p->g->n_nodes; u++)
        for (int i = 0; i < op_get(p->g->nodes[u].op)->n_inputs; i++)
            if (p->g->nodes[u].in[i] == x && p->group_of[u] != GRAPH_NONE && p->group_of[u] > last)
                last = p->group_of[u];
    return last;
}

static size_t rows_of(const graph_plan *p, graph_value x) {
    const size_t t = p->ranges.tokens;
    const graph_rows rows = p->g->nodes[x].rows;
    return rows == GRAPH_ROWS_T ? t : rows == GRAPH_ROWS_TK ? t * p->g->top_k : p->ranges.rows;
}

static const char *verify_places(const graph_plan *p) {
    const graph *g = p->g;
    uint32_t last[2000];
    for (graph_value a = 0; a < g->n_nodes; a++) last[a] = p->stored[a] ? last_reader(p, a) : 0;
    for (graph_value a = 0; a < g->n_nodes; a++) {
        if (!p->stored[a]) continue;
        size_t bytes = rows_of(p, a) * g->nodes[a].cols * sizeof(float);
        if (p->group_of[a] == GRAPH_NONE || p->offset[a] % 64 || p->offset[a] + bytes > p->arena_bytes)
            return "a place outside the arena";
        for (graph_value b = 0; b < a; b++) {
            if (!p->stored[b] || last[a] < p->group_of[b] || last[b] < p->group_of[a]) continue;
            if (p->offset[a] < p->offset[b] + rows_of(p, b) * g->nodes[b].cols * sizeof(float) &&
                p->offset[b] < p->offset[a] + bytes)
                return "two places overlap while both are needed";
        }
    }
    return NULL;
}

static const char *verify_plan(const graph_plan *p) {
    static verifier v;
    memset(&v, 0, sizeof v);
    v.p = p;
    for (uint32_t i = 0; i < p->n_groups; i++) verify_group(&v, i);
    for (graph_value x = 0; x < p->g->n_nodes; x++) {
        const graph_node *n = &p->g->nodes[x];
        if (!v.done[x] && (n->n_users == 0) && op_get(n->op)->kind == OP_KIND_MAIN) v.wrong = "a main op is left out";
        /* The result of an op that stores into memory needs a place, read or not. */
        bool read = false;
        for (graph_value u = 0; u < p->g->n_nodes; u++)
            for (int i = 0; i < op_get(p->g->nodes[u].op)->n_inputs; i++)
                read |= v.done[u] && p->g->nodes[u].in[i] == x;
        if (v.done[x] && !read && n->cols && !p->stored[x]) v.wrong = "a result without a place";
    }
    return v.wrong ? v.wrong : verify_places(p);
}

static void check_levels(const graph *g, uint64_t seed) {
    for (int level = 0; level <= 2; level++) {
        graph_plan *p;
        CHECK(graph_plan_open(&p, g, ranges, level, NULL) == FL_OK);
        const char *wrong = verify_plan(p);
        CHECKF(!wrong, "%s (seed %llu, level %d)", wrong, (unsigned long long)seed, level);
        graph_plan_check(p);
        if (level == 0) CHECK(p->n_groups == g->n_nodes);
        for (uint32_t i = 0; i < p->n_groups && level == 2; i++) {
            const graph_group *x = &p->groups[i];
            uint32_t n = (uint32_t)x->n_pre + x->n_main + x->n_post, before = p->n_groups;
            if (n == 1) continue;
            CHECK(graph_plan_split(p, i, NULL) == FL_OK && p->n_groups == before + n - 1);
            wrong = verify_plan(p);
            CHECKF(!wrong, "%s after a split (seed %llu, group %u)", wrong, (unsigned long long)seed, i);
        }
        graph_plan_check(p);
        graph_plan_close(p);
    }
}

TEST(random_graphs) {
    size_t bytes = base_mem_bytes();
    for (uint64_t seed = 1; seed <= 200; seed++) {
        graph *g = random_graph(seed);
        check_levels(g, seed);
        graph_close(g);
    }
    CHECK(base_mem_bytes() == bytes);
}

/* ---- families ---- */

static void family_plan(const tiny_model *m, graph **g, graph_plan **p, model_config *c, model_source **f) {
    char path[TINY_PATH_MAX];
    fl_err err;
    tiny_write(m, path);
    CHECKF(model_source_open(f, path, &err) == FL_OK, "%s", err.msg);
    (void)remove(path);
    CHECKF(model_configure(c, *f, &err) == FL_OK, "%s", err.msg);
    CHECKF(model_build(g, c, *f, c->context_length, COMPUTE_AUTO, &err) == FL_OK, "%s", err.msg);
    CHECK(graph_plan_open(p, *g, ranges, 2, &err) == FL_OK);
}

static void check_family(const tiny_model *m, const char *const *want, uint32_t n_want) {
    graph *g;
    graph_plan *p;
    model_config c;
    model_source *f;
    family_plan(m, &g, &p, &c, &f);
    CHECK(verify_plan(p) == NULL);
    for (uint32_t i = 0; i < p->n_groups && i < n_want; i++) {
        base_buf b = {0};
        CHECK(graph_plan_print_group(p, i, &b));
        CHECKF(strcmp(b.data, want[i]) == 0, "group %u is \"%s\", not \"%s\"", i, b.data, want[i]);
        base_buf_clear(&b);
    }
    check_levels(g, 0);
    graph_plan_close(p);
    graph_close(g);
    model_source_close(f);
}

TEST(llama_groups) {
    static const char *const want[] = {
        "embed*",        "rmsnorm > matmul* matmul* matmul*",   "rope > kv_write", "rope > attention*",
        "matmul > add*", "rmsnorm > matmul matmul > silu_mul*", "matmul > add*",   "rmsnorm > matmul* matmul* matmul*"};
    check_family(&(tiny_model){.arch = "llama"}, want, sizeof want / sizeof want[0]);
    static const char *const biased[] = {"embed*", "rmsnorm > matmul matmul matmul > bias* bias* bias*",
                                         "rope > kv_write"};
    check_family(&(tiny_model){.arch = "llama", .biases = true}, biased, 3);
}

TEST(gemma3_groups) {
    static const char *const want[] = {"embed > scale*",
                                       "rmsnorm > matmul* matmul* matmul*",
                                       "rmsnorm rope > kv_write",
                                       "rmsnorm rope > attention*",
                                       "matmul*",
                                       "rmsnorm add* rmsnorm > matmul matmul > gelu_tanh_mul*",
                                       "matmul*",
                                       "rmsnorm add* rmsnorm > matmul* matmul* matmul*"};
    check_family(&(tiny_model){.arch = "gemma3", .window = 40}, want, sizeof want / sizeof want[0]);
}

/* Products of one input in different compute types do not share converted activations. */
TEST(mixed_types_do_not_merge) {
    tiny_model m = {.arch = "llama", .types = {DTYPE_Q8_0, DTYPE_F32, DTYPE_F16}, .n_types = 3};
    static const char *const want[] = {"embed*", "rmsnorm* > matmul*", "matmul*", "matmul*"};
    check_family(&m, want, 4);
}

/* ---- mistakes ---- */

static graph *small_graph(graph_value *t, graph_value *r, uint32_t w[3]) {
    graph *g;
    static const float freqs[8] = {1};
    CHECK(graph_open(&g, 40, 20, NULL) == FL_OK);
    w[0] = graph_add_weight(g, &(graph_weight){.name = "embed", .n = 10, .k = 16});
    w[1] = graph_add_weight(g, &(graph_weight){.name = "square", .n = 16, .k = 16});
    w[2] = graph_add_weight(g, &(graph_weight){.name = "vector", .n = 1, .k = 8});
    (void)graph_add_rope(g, &(graph_rope){.d = 16, .half = true, .scale = 1, .inv_freq = freqs});
    *t = graph_embed(g, w[0], "t");
    *r = graph_rows_wanted(g, *t, "r");
    CHECK(graph_failed(g, NULL) == FL_OK);
    return g;
}

TEST(mistakes_are_reported) {
    for (int what = 0; what < 16; what++) {
        graph_value t, r;
        uint32_t w[3];
        graph *g = small_graph(&t, &r, w);
        uint32_t kv = graph_add_kv_layer(g, &(graph_kv_group){.n_kv_heads = 2, .d_k = 8, .d_v = 8});
        graph_value written = graph_kv_write(g, t, t, kv, "kv"),
                    wide = graph_matmul(g, t, graph_add_weight(g, &(graph_weight){.name = "wide", .n = 24, .k = 16}),
                                        "wide");
        CHECK(graph_failed(g, NULL) == FL_OK);
        switch (what) {
            case 0: graph_rmsnorm(g, t, w[1], 8, 0, ""); break;
            case 1: graph_rmsnorm(g, t, w[2], 16, 0, ""); break;
            case 2: graph_rmsnorm(g, t, w[2], 0, 0, ""); break;
            case 3: graph_matmul(g, t, w[2], ""); break;
            case 4: graph_bias(g, t, w[2], ""); break;
            case 5: graph_binary(g, OP_ADD, t, r, ""); break;
            case 6: graph_binary(g, OP_ADD, t, wide, ""); break;
            case 7: graph_rope_heads(g, t, 0, 8, ""); break;
            case 8: graph_rope_heads(g, t, 0, 0, ""); break;
            case 9: graph_kv_write(g, wide, t, kv, ""); break;
            case 10: graph_attention(g, t, t, 1, 0, ""); break;
            case 11: graph_attention(g, wide, written, 1, 0, ""); break;
            case 12: graph_rope_heads(g, r, 0, 16, ""); break; /* rows have no place in the step's RoPE tables */
            case 13: graph_kv_write(g, r, r, kv, ""); break;
            case 14: graph_attention(g, r, written, 1, 0, ""); break;
            default: graph_sample(g, t, ""); break;
        }
        fl_err err = {0};
        CHECKF(graph_failed(g, &err) == FL_EFORMAT && err.msg[0], "mistake %d", what);
        CHECK(graph_rmsnorm(g, t, w[2], 8, 0, "later calls do no harm") == 0);
        CHECK(graph_failed(g, &err) == FL_EFORMAT);
        graph_close(g);
    }
}

TEST(full_lists_are_out_of_memory) {
    graph *g;
    CHECK(graph_open(&g, 2, 1, NULL) == FL_OK);
    uint32_t w = graph_add_weight(g, &(graph_weight){.name = "w", .n = 8, .k = 8, .uses = GRAPH_USE_EMBED});
    CHECK(graph_add_weight(g, &(graph_weight){.name = "w", .n = 8, .k = 8, .uses = GRAPH_USE_MATMUL}) == w);
    CHECK(g->n_weights == 1 && g->weights[w].uses == (GRAPH_USE_EMBED | GRAPH_USE_MATMUL));
    graph_value x = graph_embed(g, w, "");
    x = graph_matmul(g, x, w, "");
    CHECK(graph_failed(g, NULL) == FL_OK);
    graph_matmul(g, x, w, "one too many");
    CHECK(graph_failed(g, NULL) == FL_ENOMEM);
    graph_close(g);
}

TEST(each_failing_allocation) {
    size_t bytes = base_mem_bytes();
    graph *g = random_graph(5);
    for (uint64_t n = 1;; n++) {
        graph_plan *p;
        base_mem_fail_at(n);
        fl_status st = graph_plan_open(&p, g, ranges, 2, NULL);
        bool failed = base_mem_failed();
        base_mem_fail_at(0);
        CHECK(failed ? st == FL_ENOMEM && !p : st == FL_OK);
        graph_plan_close(p);
        if (!failed) break;
    }
    graph_close(g);
    CHECK(base_mem_bytes() == bytes);
}
