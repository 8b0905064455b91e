#include "base/json.h"
#include "base/mem.h"
#include "file/safetensors_write.h"
#include "model/model.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A folder of no tensors and this configuration. */
static model_source *open_config(const char *config) {
    static const char empty[] = "\2\0\0\0\0\0\0\0{}";
    file_safetensors *w;
    model_source *s;
    fl_err err;
    CHECK(file_safetensors_open_memory(&w, empty, 10, "x", &err) == FL_OK);
    CHECKF(model_source_open_parts(&s, w, config, strlen(config), &err) == FL_OK, "%s: %s", config, err.msg);
    return s;
}

/* Recorded in fp32: base^x with x rounded costs ln(base) 2^-24 = 7e-7, the blends a few roundings more. */
static void check_rope(const json_t *c) {
    char *config = json_dumps(json_object_get(c, "config"), 0);
    const char *name = json_string_value(json_object_get(c, "name"));
    model_source *s = open_config(config);
    model_rope r;
    fl_err err;
    CHECKF(model_rope_read(&r, s, NULL, 24, 512, &err) == FL_OK, "%s: %s", name, err.msg);
    float inv_freq[MODEL_ROPE_PAIRS_MAX], scale;
    model_rope_compute(&r, (uint32_t)json_integer_value(json_object_get(c, "max_len")), inv_freq, &scale);
    const json_t *want = json_object_get(c, "inv_freq");
    CHECK(r.d == 24 && json_array_size(want) == 12);
    for (size_t i = 0; i < 12; i++) {
        double w = json_number_value(json_array_get(want, i));
        CHECKF(fabs((double)inv_freq[i] - w) <= 4e-6 * w, "%s: pair %zu: %.9g, recorded %.9g", name, i,
               (double)inv_freq[i], w);
    }
    double w = json_number_value(json_object_get(c, "scale"));
    CHECKF(fabs((double)scale - w) < 1e-7 * w, "%s: scale %.9g, recorded %.9g", name, (double)scale, w);
    model_source_close(s);
    (free)(config); /* jansson took it from the C library */
}

TEST(rope_frequencies_match_recorded_ones) {
    size_t n, i;
    fl_err err;
    json_t *root, *c;
    char *text = test_read_file("tests/golden/rope/rope.json", &n);
    CHECK(text != NULL);
    if (!text) return;
    CHECKF(base_json_read(&root, text, n, "rope.json", 0, &err) == FL_OK, "%s", err.msg);
    const json_t *cases = json_object_get(root, "cases");
    CHECK(json_array_size(cases) == 10);
    json_array_foreach((json_t *)cases, i, c) check_rope(c);
    json_decref(root);
    free(text);
}

TEST(keys_are_found_where_they_may_stand) {
    model_source *s = open_config("{\"a\":1,\"b\":null,\"deep\":{\"er\":{\"x\":2.5}},\"list\":[1,2.5],"
                                  "\"text_config\":{\"a\":3,\"t\":\"word\"},\"flag\":true}");
    uint32_t u;
    double f, list[2];
    bool flag;
    char text[64];
    fl_err err;
    CHECK(model_get_u32(s, "x", "a", &u, &err) == FL_OK && u == 3); /* the text's part comes first */
    CHECK(!model_source_has(s, "b", "b") && model_source_has(s, NULL, "deep.er.x") &&
          !model_source_has(s, NULL, "deep.no.x"));
    CHECK(model_get_u32(s, NULL, "b", &u, &err) == FL_EFORMAT && strstr(err.msg, "config.json: b is missing"));
    CHECK(model_get_u32_or(s, NULL, "b", 7, &u, &err) == FL_OK && u == 7);
    CHECK(model_get_f64(s, NULL, "deep.er.x", &f, &err) == FL_OK && f == 2.5);
    CHECK(model_get_f64(s, NULL, "a", &f, &err) == FL_OK && f == 3);
    CHECK(model_get_u32(s, NULL, "deep.er.x", &u, &err) == FL_EFORMAT && strstr(err.msg, "2.5 was found"));
    CHECK(model_get_bool_or(s, NULL, "flag", false, &flag, &err) == FL_OK && flag);
    CHECK(model_get_text(s, NULL, "t", text, &err) == FL_OK && strcmp(text, "word") == 0);
    CHECK(model_list_f64(s, "list", 2, list, &err) == FL_OK && list[0] == 1 && list[1] == 2.5);
    CHECK(model_list_f64(s, "list", 3, list, &err) == FL_EFORMAT && strstr(err.msg, "it has 2"));
    model_source_close(s);
}

static fl_status open_and_build(const char *folder, fl_err *err) {
    static model_config c;
    model_source *s;
    graph *g;
    fl_status st = model_source_open(&s, folder, err);
    if (st != FL_OK) return st;
    st = model_configure(&c, s, err);
    if (st == FL_OK) st = model_build(&g, &c, s, c.context_length, COMPUTE_AUTO, err);
    if (st == FL_OK) graph_close(g);
    model_source_close(s);
    return st;
}

TEST(every_allocation_may_fail) {
    json_set_alloc_funcs(base_malloc, base_free); /* as the program does */
    size_t held = base_mem_bytes();
    uint64_t n = 1;
    for (; n < 10000; n++) {
        fl_err err;
        base_mem_fail_at(n);
        fl_status st = open_and_build("tests/golden/tiny/gemma2", &err);
        bool hit = base_mem_failed();
        base_mem_fail_at(0);
        CHECKF(hit ? st == FL_ENOMEM : st == FL_OK, "allocation %llu: %s", (unsigned long long)n, err.msg);
        CHECKF(base_mem_bytes() == held, "allocation %llu leaks", (unsigned long long)n);
        if (!hit) break;
    }
    CHECKF(n > 100 && n < 10000, "%llu allocations", (unsigned long long)n);
}

/* The folder's model with one tensor more, of n values; how many SCALE nodes its graph has. */
static fl_status build_with(const char *folder, const char *name, int64_t n, uint32_t *n_scales, fl_err *err) {
    static model_config c;
    static const float values[2] = {0.5f, 2};
    file_safetensors *from, *with;
    file_safetensors_writer w = {0};
    base_buf b = {0};
    char path[128];
    size_t n_config;
    model_source *s;
    graph *g;
    *n_scales = 0;
    (void)snprintf(path, sizeof path, "%s/config.json", folder);
    char *config = test_read_file(path, &n_config);
    fl_status st = file_safetensors_open(&from, folder, err);
    CHECK(st == FL_OK && config);
    for (uint32_t i = 0; i < file_safetensors_n_tensors(from); i++) {
        const file_safetensors_tensor *t = file_safetensors_tensor_at(from, i);
        file_safetensors_write_tensor(&w, t->name, t->type, t->n_dims, t->dims, t->data);
    }
    if (name) file_safetensors_write_tensor(&w, name, "F32", 1, &n, values);
    st = file_safetensors_write_to_buf(&w, &b, err);
    if (st == FL_OK) st = file_safetensors_open_memory(&with, b.data, b.len, folder, err);
    CHECKF(st == FL_OK && model_source_open_parts(&s, with, config, n_config, err) == FL_OK, "%s", err->msg);
    st = model_configure(&c, s, err);
    if (st == FL_OK) st = model_build(&g, &c, s, c.context_length, COMPUTE_AUTO, err);
    for (uint32_t i = 0; st == FL_OK && i < g->n_nodes; i++) *n_scales += g->nodes[i].op == OP_SCALE;
    if (st == FL_OK) graph_close(g);
    model_source_close(s);
    file_safetensors_close(from);
    file_safetensors_writer_clear(&w);
    base_buf_clear(&b);
    free(config);
    return st;
}

/* A factor is applied wherever its tensor is used, or refused by name: none is ignored. */
TEST(factors_of_whole_tensors) {
    static const struct {
        const char *folder, *name;
        int64_t n;
        uint32_t more; /* SCALE nodes; 0: refused */
    } cases[] = {
        {"tests/golden/tiny/llama", "model.layers.1.self_attn.q_proj.scale", 1, 1},
        {"tests/golden/tiny/llama", "lm_head.scale", 1, 1},
        {"tests/golden/tiny/gemma3", "model.embed_tokens.scale", 1, 2}, /* it is the head too */
        {"tests/golden/tiny/phi3", "model.layers.0.self_attn.qkv_proj.scale", 1, 3},
        {"tests/golden/tiny/phi3", "model.layers.0.mlp.gate_up_proj.scale", 1, 2},
        {"tests/golden/tiny/llama", "model.layers.1.self_attn.q_proj.scale", 2, 0},
        {"tests/golden/tiny/llama", "model.layers.1.input_layernorm.scale", 1, 0},
        {"tests/golden/tiny/deepseek-v3", "model.layers.1.mlp.shared_experts.up_proj.scale", 1, 0},
        {"tests/golden/tiny/deepseek-v3", "model.layers.1.mlp.experts.0.up_proj.scale", 1, 0},
        {"tests/golden/tiny/deepseek-v3", "model.layers.1.self_attn.kv_b_proj.scale", 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint32_t before, after;
        fl_err err = {0};
        CHECKF(build_with(cases[i].folder, NULL, 0, &before, &err) == FL_OK, "%s", err.msg);
        fl_status st = build_with(cases[i].folder, cases[i].name, cases[i].n, &after, &err);
        if (cases[i].more)
            CHECKF(st == FL_OK && after == before + cases[i].more, "%s: %u, then %u; %s", cases[i].name, before, after,
                   err.msg);
        else
            CHECKF(st == (cases[i].n == 1 ? FL_EUNSUPPORTED : FL_EFORMAT) && strstr(err.msg, cases[i].name), "%s: %s",
                   cases[i].name, err.msg);
    }
}
