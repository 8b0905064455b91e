#include "model/source.h"

#include "base/buf.h"
#include "base/json.h"
#include "base/mem.h"
#include "file/map.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct model_source {
    file_gguf *gguf;
    file_safetensors *folder;
    json_t *config;
    const json_t *text;      /* config's text_config, or config */
    char arch[64];           /* of GGUF: what its keys begin with */
    const char *stem, *head; /* what precedes "layers" and "lm_head" in a folder's names */
    const dtype_info *shape; /* of made-up weights, instead of a container */
};

enum { CONFIG_BYTES_MAX = 64 << 20, NAME_BYTES = 256 };

/* ---- opening ---- */

bool model_source_is_folder(const char *path) {
    static const char *const names[] = {"model.safetensors", "model.safetensors.index.json"};
    bool found = false;
    for (int i = 0; i < 2 && !found; i++) {
        struct stat at;
        base_buf b = {0};
        found = base_buf_printf(&b, "%s/%s", path, names[i]) && stat(b.data, &at) == 0;
        base_buf_clear(&b);
    }
    return found;
}

void model_source_close(model_source *s) {
    if (!s) return;
    file_gguf_close(s->gguf);
    file_safetensors_close(s->folder);
    json_decref(s->config);
    base_free(s);
}

void model_source_forget(const model_source *s) {
    if (s->gguf)
        file_gguf_forget(s->gguf);
    else if (s->folder)
        file_safetensors_forget(s->folder);
}

const file_gguf *model_source_gguf(const model_source *s) { return s->gguf; }

const dtype_info *model_source_shape(const model_source *s) { return s->shape; }

const char *model_source_path(const model_source *s) {
    if (s->shape) return "random weights";
    return s->gguf ? file_gguf_path(s->gguf) : file_safetensors_path(s->folder);
}

size_t model_source_bytes(const model_source *s) {
    if (s->shape) return 0;
    return s->gguf ? file_gguf_bytes(s->gguf) : file_safetensors_bytes(s->folder);
}

uint32_t model_source_n_parts(const model_source *s) {
    if (s->shape) return 0;
    return s->gguf ? file_gguf_n_parts(s->gguf) : file_safetensors_n_parts(s->folder);
}

const char *model_source_part(const model_source *s, uint32_t index, uint64_t *bytes) {
    return s->gguf ? file_gguf_part(s->gguf, index, bytes) : file_safetensors_part(s->folder, index, bytes);
}

static fl_status parse_config(model_source *s, const char *text, size_t n, fl_err *err) {
    fl_status st = base_json_read(&s->config, text, n, "config.json", 0, err);
    const json_t *inner = json_object_get(s->config, "text_config");
    s->text = json_is_object(inner) ? inner : s->config;
    return st;
}

static fl_status read_config(model_source *s, const char *folder, fl_err *err) {
    base_buf path = {0};
    file_map m = {0};
    fl_status st = base_buf_printf(&path, "%s/config.json", folder) ? FL_OK : fl_fail(err, FL_ENOMEM, "no memory");
    if (st == FL_OK) {
        st = file_map_open(&m, path.data, err);
        if (st != FL_OK) fl_wrap(err, st, "config.json");
    }
    if (st == FL_OK)
        st = m.size <= CONFIG_BYTES_MAX ? parse_config(s, (const char *)m.data, m.size, err)
                                        : fl_fail(err, FL_EFORMAT, "config.json: has %zu bytes", m.size);
    file_map_close(&m);
    base_buf_clear(&path);
    return st;
}

/* The first prefix under which the folder has an embedding. Wrappers for images put names of their own in front. */
static void find_stem(model_source *s) {
    static const char *const stems[][2] = {
        {"model.", ""}, {"language_model.model.", "language_model."}, {"model.language_model.", ""}, {"", ""}};
    for (int i = 0; i < 4; i++) {
        char name[NAME_BYTES];
        (void)snprintf(name, sizeof name, "%sembed_tokens.weight", stems[i][0]);
        s->stem = stems[i][0];
        s->head = stems[i][1];
        if (file_safetensors_find(s->folder, name) != UINT32_MAX) return;
    }
    s->stem = stems[0][0];
    s->head = stems[0][1];
}

static fl_status open_gguf(model_source *s, const char *path, fl_err *err) {
    file_string arch = {"", 0};
    fl_status st = file_gguf_open(&s->gguf, path, err);
    const file_gguf_value *v = st == FL_OK ? file_gguf_find(s->gguf, "general.architecture") : NULL;
    /* A vocabulary without weights may lack it: model_configure() says so. */
    if (v && v->type == FILE_GGUF_STRING) st = file_gguf_get_string(s->gguf, "general.architecture", &arch, err);
    (void)snprintf(s->arch, sizeof s->arch, "%.*s", (int)(arch.len < 63 ? arch.len : 63), arch.data);
    return st;
}

fl_status model_source_open(model_source **out, const char *path, fl_err *err) {
    struct stat at;
    *out = NULL;
    model_source *s = base_calloc(1, sizeof *s);
    if (!s) return fl_fail(err, FL_ENOMEM, "%s: no memory", path);
    fl_status st;
    if (stat(path, &at) != 0 || !S_ISDIR(at.st_mode))
        st = open_gguf(s, path, err);
    else {
        st = file_safetensors_open(&s->folder, path, err);
        if (st == FL_OK) {
            find_stem(s);
            st = read_config(s, path, err);
            if (st != FL_OK) fl_wrap(err, st, "%s", path);
        }
    }
    if (st != FL_OK) {
        model_source_close(s);
        return st;
    }
    *out = s;
    return FL_OK;
}

fl_status model_source_open_parts(model_source **out, file_safetensors *weights, const char *config, size_t n_config,
                                  fl_err *err) {
    *out = NULL;
    model_source *s = base_calloc(1, sizeof *s);
    if (!s) {
        file_safetensors_close(weights);
        return fl_fail(err, FL_ENOMEM, "a model: no memory");
    }
    s->folder = weights;
    find_stem(s);
    fl_status st = parse_config(s, config, n_config, err);
    if (st != FL_OK) {
        model_source_close(s);
        return st;
    }
    *out = s;
    return FL_OK;
}

fl_status model_source_open_shape(model_source **out, const char *config, const dtype_info *type, fl_err *err) {
    *out = NULL;
    model_source *s = base_calloc(1, sizeof *s);
    if (!s) return fl_fail(err, FL_ENOMEM, "a model: no memory");
    s->shape = type;
    fl_status st = parse_config(s, config, strlen(config), err);
    if (st != FL_OK) {
        model_source_close(s);
        return st;
    }
    *out = s;
    return FL_OK;
}

/* ---- tensors ---- */

static const model_name standard[] = {
    {"token_embd", "embed_tokens"},      {"output_norm", "norm"},
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},       {NULL, NULL},
};

static const char *find_name(const model_name *table, const char *name) {
    for (; table && table->gguf; table++)
        if (strcmp(table->gguf, name) == 0) return table->hf;
    return NULL;
}

uint32_t model_source_n_tensors(const model_source *s) {
    if (s->shape) return 0;
    return s->gguf ? file_gguf_n_tensors(s->gguf) : file_safetensors_n_tensors(s->folder);
}

static const dtype_info *type_by_name(const char *name) {
    static const struct {
        const char *name;
        dtype type;
    } known[] = {{"F32", DTYPE_F32}, {"F16", DTYPE_F16}, {"BF16", DTYPE_BF16}};
    for (int i = 0; i < 3; i++)
        if (strcmp(known[i].name, name) == 0) return dtype_find(known[i].type);
    return NULL;
}

void model_source_tensor_at(const model_source *s, uint32_t index, model_tensor *out) {
    if (s->gguf) {
        const file_gguf_tensor *t = file_gguf_tensor_at(s->gguf, index);
        *out = (model_tensor){
            t->name, dtype_find(t->type)->name, dtype_find(t->type), t->n_dims, {0}, t->n_elems, t->data, t->bytes};
        for (uint32_t i = 0; i < FILE_SAFETENSORS_DIMS_MAX; i++) out->dims[i] = i < FILE_GGUF_DIMS_MAX ? t->dims[i] : 1;
        return;
    }
    const file_safetensors_tensor *t = file_safetensors_tensor_at(s->folder, index);
    *out = (model_tensor){t->name, t->type, type_by_name(t->type), t->n_dims, {0}, t->n_elems, t->data, t->bytes};
    for (uint32_t i = 0; i < FILE_SAFETENSORS_DIMS_MAX; i++)
        out->dims[i] = i < t->n_dims ? t->dims[t->n_dims - 1 - i] : 1;
}

static uint32_t find_gguf(const model_source *s, int layer, const char *name, const char *suffix) {
    char full[NAME_BYTES];
    if (layer < 0)
        (void)snprintf(full, sizeof full, "%s.%s", name, suffix);
    else
        (void)snprintf(full, sizeof full, "blk.%d.%s.%s", layer, name, suffix);
    const file_gguf_tensor *t = file_gguf_tensor_find(s->gguf, full);
    return t ? (uint32_t)(t - file_gguf_tensor_at(s->gguf, 0)) : UINT32_MAX;
}

uint32_t model_source_find(const model_source *s, const model_name *extra, int layer, const char *name,
                           const char *suffix) {
    if (s->shape) return UINT32_MAX;
    if (s->gguf) return find_gguf(s, layer, name, suffix);
    char full[NAME_BYTES];
    const char *hf = find_name(extra, name);
    if (!hf) hf = find_name(standard, name);
    if (strcmp(name, "output") == 0)
        (void)snprintf(full, sizeof full, "%slm_head.%s", s->head, suffix);
    else if (!hf)
        return UINT32_MAX;
    else if (layer < 0)
        (void)snprintf(full, sizeof full, "%s%s.%s", s->stem, hf, suffix);
    else
        (void)snprintf(full, sizeof full, "%slayers.%d.%s.%s", s->stem, layer, hf, suffix);
    size_t n = strlen(full); /* an empty suffix: the name is whole */
    if (n && full[n - 1] == '.') full[n - 1] = '\0';
    return file_safetensors_find(s->folder, full);
}

int model_source_layer_of(const model_source *s, uint32_t index) {
    model_tensor t;
    model_source_tensor_at(s, index, &t);
    const char *stem = s->gguf ? "" : s->stem, *layers = s->gguf ? "blk." : "layers.";
    if (!s->gguf && strncmp(t.name, s->head, strlen(s->head)) == 0 &&
        strncmp(t.name + strlen(s->head), "lm_head.", 8) == 0)
        return -1;
    if (strncmp(t.name, stem, strlen(stem)) != 0) return -2;
    const char *rest = t.name + strlen(stem);
    if (strncmp(rest, layers, strlen(layers)) != 0) return -1;
    long n = strtol(rest + strlen(layers), NULL, 10);
    return n >= 0 && n < 1 << 20 ? (int)n : -1;
}

/* ---- values ---- */

/* GGUF's full key, or NULL where the container is a folder or has no such key. */
static const char *gguf_key(const model_source *s, const char *name, char out[NAME_BYTES]) {
    if (!s->gguf || !name) return NULL;
    (void)snprintf(out, NAME_BYTES, "%s.%s", s->arch, name);
    return out;
}

/* Follows a dotted key from an object. */
static const json_t *walk(const json_t *from, const char *key) {
    while (from) {
        size_t n = strcspn(key, ".");
        from = json_object_getn(from, key, n);
        if (key[n] == '\0') break;
        key += n + 1;
    }
    return json_is_null(from) ? NULL : from;
}

static const json_t *find_json(const model_source *s, const char *key) {
    if (s->gguf || !key) return NULL;
    const json_t *v = walk(s->text, key);
    return v || s->text == s->config ? v : walk(s->config, key);
}

bool model_source_has(const model_source *s, const char *gguf, const char *hf) {
    char k[NAME_BYTES];
    if (s->gguf) return gguf && file_gguf_find(s->gguf, gguf_key(s, gguf, k));
    return find_json(s, hf) != NULL;
}

static fl_status missing(const model_source *s, const char *gguf, const char *hf, fl_err *err) {
    if (s->gguf) return fl_fail(err, FL_EFORMAT, "%s.%s is missing", s->arch, gguf ? gguf : hf);
    return fl_fail(err, FL_EFORMAT, "config.json: %s is missing", hf ? hf : gguf);
}

static fl_status wrong(const char *key, const char *wanted, const json_t *found, fl_err *err) {
    char text[80];
    return fl_fail(err, FL_EFORMAT, "config.json: %s: %s is wanted, %s was found", key, wanted,
                   base_json_describe(found, text));
}

fl_status model_get_u32(const model_source *s, const char *gguf, const char *hf, uint32_t *out, fl_err *err) {
    char k[NAME_BYTES];
    if (!model_source_has(s, gguf, hf)) return missing(s, gguf, hf, err);
    if (s->gguf) return file_gguf_get_u32(s->gguf, gguf_key(s, gguf, k), out, err);
    const json_t *v = find_json(s, hf);
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > UINT32_MAX)
        return wrong(hf, "an integer from 0 to 4294967295", v, err);
    *out = (uint32_t)json_integer_value(v);
    return FL_OK;
}

fl_status model_get_f64(const model_source *s, const char *gguf, const char *hf, double *out, fl_err *err) {
    char k[NAME_BYTES];
    if (!model_source_has(s, gguf, hf)) return missing(s, gguf, hf, err);
    if (s->gguf) {
        float f;
        fl_status st = file_gguf_get_f32(s->gguf, gguf_key(s, gguf, k), &f, err);
        if (st == FL_OK && !isfinite(f)) st = fl_fail(err, FL_EFORMAT, "%s is not finite", k);
        if (st == FL_OK) *out = (double)f;
        return st;
    }
    const json_t *v = find_json(s, hf);
    if (!json_is_number(v)) return wrong(hf, "a number", v, err);
    *out = json_number_value(v);
    return FL_OK;
}

fl_status model_get_u32_or(const model_source *s, const char *gguf, const char *hf, uint32_t fallback, uint32_t *out,
                           fl_err *err) {
    if (model_source_has(s, gguf, hf)) return model_get_u32(s, gguf, hf, out, err);
    *out = fallback;
    return FL_OK;
}

fl_status model_get_f64_or(const model_source *s, const char *gguf, const char *hf, double fallback, double *out,
                           fl_err *err) {
    if (model_source_has(s, gguf, hf)) return model_get_f64(s, gguf, hf, out, err);
    *out = fallback;
    return FL_OK;
}

fl_status model_get_bool_or(const model_source *s, const char *gguf, const char *hf, bool fallback, bool *out,
                            fl_err *err) {
    char k[NAME_BYTES];
    *out = fallback;
    if (!model_source_has(s, gguf, hf)) return FL_OK;
    if (s->gguf) return file_gguf_get_bool_or(s->gguf, gguf_key(s, gguf, k), fallback, out, err);
    const json_t *v = find_json(s, hf);
    if (!json_is_boolean(v)) return wrong(hf, "true or false", v, err);
    *out = json_is_true(v);
    return FL_OK;
}

fl_status model_get_text(const model_source *s, const char *gguf, const char *hf, char out[64], fl_err *err) {
    char k[NAME_BYTES];
    *out = '\0';
    if (!model_source_has(s, gguf, hf)) return FL_OK;
    if (s->gguf) {
        file_string t;
        fl_status st = file_gguf_get_string(s->gguf, gguf_key(s, gguf, k), &t, err);
        if (st == FL_OK) (void)snprintf(out, 64, "%.*s", (int)(t.len < 63 ? t.len : 63), t.data);
        return st;
    }
    const json_t *v = find_json(s, hf);
    if (!json_is_string(v)) return wrong(hf, "a text", v, err);
    (void)snprintf(out, 64, "%.63s", json_string_value(v));
    return FL_OK;
}

fl_status model_list_size(const model_source *s, const char *hf, uint32_t *n, fl_err *err) {
    const json_t *v = find_json(s, hf);
    *n = 0;
    if (!v) return FL_OK;
    if (!json_is_array(v) || json_array_size(v) > 1 << 20) return wrong(hf, "a list", v, err);
    *n = (uint32_t)json_array_size(v);
    return FL_OK;
}

static fl_status element(const model_source *s, const char *hf, uint32_t i, const json_t **out, fl_err *err) {
    const json_t *v = find_json(s, hf);
    if (!v) return missing(s, NULL, hf, err);
    *out = json_array_get(v, i);
    return *out ? FL_OK : fl_fail(err, FL_EFORMAT, "config.json: %s: has no element %u", hf, i);
}

fl_status model_list_f64(const model_source *s, const char *hf, uint32_t n, double out[], fl_err *err) {
    uint32_t size;
    const json_t *v;
    fl_status st = model_list_size(s, hf, &size, err);
    if (st == FL_OK && size != n)
        st = fl_fail(err, FL_EFORMAT, "config.json: %s: a list of %u numbers is wanted, it has %u", hf, n, size);
    for (uint32_t i = 0; i < n && st == FL_OK; i++) {
        st = element(s, hf, i, &v, err);
        if (st == FL_OK && !json_is_number(v)) st = wrong(hf, "a list of numbers", find_json(s, hf), err);
        if (st == FL_OK) out[i] = json_number_value(v);
    }
    return st;
}

fl_status model_list_text(const model_source *s, const char *hf, uint32_t i, const char **out, fl_err *err) {
    const json_t *v;
    fl_status st = element(s, hf, i, &v, err);
    if (st == FL_OK && !json_is_string(v)) st = wrong(hf, "a list of texts", find_json(s, hf), err);
    if (st == FL_OK) *out = json_string_value(v);
    return st;
}
