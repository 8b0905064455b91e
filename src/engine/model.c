/* fl_model: an opened file and what text needs of it. A file may lack parts (a vocabulary without weights, weights without
 * a tokenizer, a template we cannot read): then only what needs the part fails, with the reason found at open. */
#include "engine/engine_int.h"

#include "base/mem.h"
#include "model/shape.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

const char *fl_version(void) { return FL_VERSION; }
void fl_free(void *p) { base_free(p); }

/* What a GGUF file says of itself; folders say it in a README, for people. */
static char *copy_string(const fl_model *m, const char *key) {
    const file_gguf *f = m->source ? model_source_gguf(m->source) : NULL;
    file_string s = {"", 0};
    const file_gguf_value *v = f ? file_gguf_find(f, key) : NULL;
    if (v && v->type == FILE_GGUF_STRING && file_gguf_get_string(f, key, &s, NULL) != FL_OK) s = (file_string){"", 0};
    return base_strndup(s.data, s.len);
}

/* "Q4_1, F32, Q8_0": types of the tensors, those with the most elements first. */
static char *list_types(const model_source *from) {
    enum { TYPES_MAX = 64 };
    const char *names[TYPES_MAX];
    size_t n_types = 0;
    int64_t count[TYPES_MAX] = {0};
    for (uint32_t i = 0; from && i < model_source_n_tensors(from); i++) {
        model_tensor t;
        size_t k = 0;
        model_source_tensor_at(from, i, &t);
        while (k < n_types && strcmp(names[k], t.type_name) != 0) k++;
        if (k == TYPES_MAX) continue;
        if (k == n_types) names[n_types++] = t.type_name;
        count[k] += t.n_elems;
    }
    base_buf b = {0};
    base_buf_puts(&b, "");
    for (;;) {
        size_t best = 0;
        for (size_t k = 1; k < n_types; k++)
            if (count[k] > count[best]) best = k;
        if (count[best] == 0) break;
        base_buf_printf(&b, "%s%s", b.len ? ", " : "", names[best]);
        count[best] = 0;
    }
    char *s = base_buf_take(&b);
    base_buf_clear(&b);
    return s;
}

/* What kind of tokenizer, as a GGUF file's metadata say; of a folder its file says it. */
static void name_tok(fl_model *m) {
    const file_gguf *f = m->source ? model_source_gguf(m->source) : NULL;
    file_string kind = {"", 0}, pre = {"", 0};
    if (!m->tok || !f || file_gguf_get_string(f, "tokenizer.ggml.model", &kind, NULL) != FL_OK) return;
    if (!file_gguf_find(f, "tokenizer.ggml.pre") ||
        file_gguf_get_string(f, "tokenizer.ggml.pre", &pre, NULL) != FL_OK || kind.data[0] == 'l')
        pre.len = 0; /* SentencePiece has no splitter */
    (void)snprintf(m->tok_kind, sizeof m->tok_kind, "%.*s%s%.*s", (int)(kind.len < 63 ? kind.len : 63), kind.data,
                   pre.len ? ", " : "", (int)(pre.len < 63 ? pre.len : 63), pre.data);
}

static uint32_t count_special(const tok *t) {
    uint32_t n = 0;
    for (uint32_t id = 0; t && id < tok_n_vocab(t); id++) n += tok_is_special(t, id);
    return n;
}

void engine_add_stop(fl_model *m, uint32_t id) {
    for (uint32_t i = 0; i < m->n_stop; i++)
        if (m->stop[i] == id) return;
    if (m->n_stop < ENGINE_STOP_MAX) m->stop[m->n_stop++] = id;
}

/* Stop tokens: the file's eos, eot and eom, and the control tokens known to end a turn. */
static void find_stops(fl_model *m) {
    static const char *const keys[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                       "tokenizer.ggml.eom_token_id"};
    uint32_t id, n = m->tok ? tok_n_vocab(m->tok) : 0;
    const file_gguf *f = m->source ? model_source_gguf(m->source) : NULL;
    for (size_t i = 0; f && i < sizeof keys / sizeof keys[0]; i++)
        if (file_gguf_find(f, keys[i]) && file_gguf_get_u32(f, keys[i], &id, NULL) == FL_OK) engine_add_stop(m, id);
    for (id = 0; id < n; id++)
        if (tok_is_stop(m->tok, id)) engine_add_stop(m, id);
}

static void open_template(fl_model *m, const file_gguf *f) {
    file_string s;
    if (!file_gguf_find(f, "tokenizer.chat_template")) {
        m->template_status =
            fl_fail(&m->template_err, FL_EUNSUPPORTED, "the model has no chat template; use the text as it is (--raw)");
        return;
    }
    m->template_status = file_gguf_get_string(f, "tokenizer.chat_template", &s, &m->template_err);
    if (m->template_status == FL_OK)
        m->template_status = jinja_open(&m->chat_template, s.data, s.len, &m->template_err);
    if (m->template_status != FL_OK) fl_wrap(&m->template_err, m->template_status, "the model's chat template");
}

static fl_status open_parts(fl_model *m, const char *path, fl_err *err) {
    bool text = engine_is_text(path), weights = !text || model_source_is_folder(path);
    fl_status st = weights ? model_source_open(&m->source, path, err) : FL_OK;
    if (st == FL_OK && weights) m->config_status = model_configure(&m->config, m->source, &m->config_err);
    if (st != FL_OK || text) return st == FL_OK ? engine_open_text(m, path, weights, err) : st;
    m->tok_status = engine_open_tok(&m->tok, model_source_gguf(m->source), &m->tok_err);
    open_template(m, model_source_gguf(m->source));
    return FL_OK;
}

fl_status fl_model_open(fl_model **out, const char *path, fl_err *err) {
    *out = NULL;
    fl_model *m = base_calloc(1, sizeof *m);
    if (!m) return fl_fail(err, FL_ENOMEM, "a model: no memory");
    fl_status st = open_parts(m, path, err);
    if (st != FL_OK) goto fail;
    find_stops(m);
    name_tok(m);
    m->name = copy_string(m, "general.name");
    m->license = copy_string(m, "general.license");
    m->types = list_types(m->source);
    for (uint32_t i = 0; m->source && i < model_source_n_tensors(m->source); i++) {
        model_tensor t;
        model_source_tensor_at(m->source, i, &t);
        m->n_params += (uint64_t)t.n_elems;
    }
    if (!m->name || !m->license || !m->types || m->config_status == FL_ENOMEM || m->tok_status == FL_ENOMEM ||
        m->template_status == FL_ENOMEM) {
        st = fl_fail(err, FL_ENOMEM, "%s: no memory", path);
        goto fail;
    }
    *out = m;
    return FL_OK;

fail:
    fl_model_close(m);
    return st;
}

static fl_status open_shape(fl_model *m, const char *shape, const char *quant, fl_err *err) {
    const dtype_info *type = model_shape_type(quant ? quant : "bf16");
    const char *config = strchr(shape, '{') ? shape : model_shape_find(shape);
    if (!type)
        return fl_fail(err, FL_EINVAL,
                       "random weights of type %.20s: wanted f32, f16, bf16, q8_0, q4_0, q4_k, q6_k or mxfp4", quant);
    if (!config) return fl_fail(err, FL_EINVAL, "shape %.60s is not known; there are %s", shape, model_shape_names());
    fl_status st = model_source_open_shape(&m->source, config, type, err);
    if (st == FL_OK) st = model_configure(&m->config, m->source, err);
    if (st != FL_OK) return st;
    m->tok_status = fl_fail(&m->tok_err, FL_EUNSUPPORTED, "random weights have no tokenizer");
    m->template_status = fl_fail(&m->template_err, FL_EUNSUPPORTED, "random weights have no chat template");
    m->name = base_strdup(config == shape ? "" : shape);
    m->license = base_strdup("");
    m->types = base_strdup(type->name);
    return m->name && m->license && m->types ? FL_OK : fl_fail(err, FL_ENOMEM, "a model: no memory");
}

fl_status fl_model_open_shape(fl_model **out, const char *shape, const char *quant, fl_err *err) {
    *out = NULL;
    fl_model *m = base_calloc(1, sizeof *m);
    if (!m) return fl_fail(err, FL_ENOMEM, "a model: no memory");
    fl_status st = open_shape(m, shape, quant, err);
    if (st != FL_OK) {
        fl_model_close(m);
        return st;
    }
    *out = m;
    return FL_OK;
}

void fl_model_close(fl_model *m) {
    if (!m) return;
    jinja_close(m->chat_template);
    jinja_close(m->tool_template);
    tok_close(m->tok);
    model_source_close(m->source);
    base_free(m->name);
    base_free(m->license);
    base_free(m->types);
    base_free(m);
}

void fl_model_info_init(fl_model_info *info) { *info = (fl_model_info){.size = sizeof *info}; }

void fl_model_get_info(const fl_model *m, fl_model_info *info) {
    const model_config *c = &m->config;
    fl_model_info all = {.size = info->size,
                         .architecture = c->arch,
                         .name = m->name,
                         .license = m->license,
                         .tokenizer = m->tok_kind,
                         .weight_types = m->types,
                         .n_params = m->n_params,
                         .file_bytes = m->source ? model_source_bytes(m->source) : 0,
                         .n_vocab = c->n_vocab ? c->n_vocab
                                    : m->tok   ? tok_n_vocab(m->tok)
                                               : 0,
                         .n_layers = c->n_layers,
                         .d_model = c->d_model,
                         .n_heads = c->n_heads,
                         .n_kv_heads = c->n_kv_heads,
                         .head_dim = c->d_k,
                         .d_ff = c->d_ff,
                         .context_length = c->context_length,
                         .has_tokenizer = m->tok != NULL,
                         .has_chat_template = m->chat_template != NULL,
                         .add_bos = m->tok && tok_adds_bos(m->tok),
                         .n_stop = m->n_stop,
                         .n_tok_vocab = m->tok ? tok_n_vocab(m->tok) : 0,
                         .n_special = count_special(m->tok),
                         .bos_id = m->tok ? tok_bos(m->tok) : TOK_NONE,
                         .eos_id = m->tok ? tok_eos(m->tok) : TOK_NONE,
                         .unk_id = m->tok ? tok_unk(m->tok) : TOK_NONE,
                         .pad_id = m->tok ? tok_pad(m->tok) : TOK_NONE,
                         .n_tensors = m->source ? model_source_n_tensors(m->source) : 0,
                         .n_files = m->source ? model_source_n_parts(m->source) : 0};
    memcpy(all.stop, m->stop, sizeof all.stop);
    memcpy(info, &all, info->size < sizeof all ? info->size : sizeof all);
}

/* ---- text ---- */

static fl_status need_tok(const fl_model *m, fl_err *err) {
    if (m->tok) return FL_OK;
    if (err) *err = m->tok_err;
    return m->tok_status;
}

fl_status fl_tokenize(const fl_model *m, const char *text, size_t n_bytes, unsigned flags, uint32_t **ids,
                      size_t *n_ids, fl_err *err) {
    *ids = NULL;
    *n_ids = 0;
    fl_status st = need_tok(m, err);
    if (st != FL_OK) return st;
    tok_ids a = {0};
    unsigned f = (flags & FL_TOKENIZE_ADD_SPECIAL ? TOK_ADD_SPECIAL : 0) |
                 (flags & FL_TOKENIZE_PARSE_SPECIAL ? TOK_PARSE_SPECIAL : 0);
    st = tok_encode(m->tok, text, n_bytes, f, &a, err);
    if (st != FL_OK) {
        tok_ids_clear(&a);
        return st;
    }
    *ids = a.ids;
    *n_ids = a.n;
    return FL_OK;
}

fl_status fl_detokenize(const fl_model *m, const uint32_t *ids, size_t n_ids, unsigned flags, char **bytes,
                        size_t *n_bytes, fl_err *err) {
    *bytes = NULL;
    *n_bytes = 0;
    fl_status st = need_tok(m, err);
    if (st != FL_OK) return st;
    base_buf b = {0};
    st =
        tok_decode(m->tok, ids, n_ids, TOK_RAW | (flags & FL_DETOKENIZE_SKIP_SPECIAL ? TOK_SKIP_SPECIAL : 0u), &b, err);
    if (st == FL_OK) {
        *n_bytes = b.len;
        *bytes = base_buf_take(&b);
        if (!*bytes) st = fl_fail(err, FL_ENOMEM, "a text: no memory");
    }
    base_buf_clear(&b);
    return st;
}

const char *fl_token_piece(const fl_model *m, uint32_t id, size_t *n_bytes) {
    *n_bytes = 0;
    if (!m->tok || id >= tok_n_vocab(m->tok)) return NULL;
    tok_text t = tok_piece(m->tok, id);
    *n_bytes = t.n;
    return t.bytes ? t.bytes : "";
}

static fl_status read_clock(const char *now, jinja_clock *c, fl_err *err) {
    if (!now) {
        time_t t = time(NULL);
        struct tm local;
        localtime_r(&t, &local);
        *c = (jinja_clock){local.tm_year + 1900, local.tm_mon + 1, local.tm_mday,
                           local.tm_hour,        local.tm_min,     local.tm_sec};
        return FL_OK;
    }
    char rest;
    int n =
        sscanf(now, "%4d-%2d-%2dT%2d:%2d:%2d%c", &c->year, &c->month, &c->day, &c->hour, &c->minute, &c->second, &rest);
    if (n != 6 || c->month < 1 || c->month > 12 || c->day < 1 || c->day > 31 || c->hour < 0 || c->hour > 23 ||
        c->minute < 0 || c->minute > 59 || c->second < 0 || c->second > 60)
        return fl_fail(err, FL_EINVAL, "a time like 2026-01-31T12:00:00 is wanted, \"%.40s\" was given", now);
    return FL_OK;
}

static bool set_default(json_t *context, const char *key, json_t *value) {
    if (!value) return false;
    if (!json_object_get(context, key)) return json_object_set_new(context, key, value) == 0;
    json_decref(value);
    return true;
}

static json_t *token_text(const fl_model *m, uint32_t id) {
    tok_text t = m && m->tok && id != TOK_NONE ? tok_piece(m->tok, id) : (tok_text){"", 0};
    return json_stringn(t.bytes ? t.bytes : "", t.n);
}

/* The template's variables: the caller's, and what it leaves out. */
static fl_status read_context(const fl_model *m, const char *json, json_t **out, fl_err *err) {
    json_error_t e;
    json_t *c = json_loads(json, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
    if (!c)
        return fl_fail(err, FL_EINVAL, "the template's variables are no valid JSON: %s (line %d, column %d)", e.text,
                       e.line, e.column);
    if (!json_is_object(c)) {
        json_decref(c);
        return fl_fail(err, FL_EINVAL, "a JSON object with \"messages\" is wanted");
    }
    bool ok = set_default(c, "add_generation_prompt", json_true()) && set_default(c, "tools", json_null()) &&
              set_default(c, "documents", json_null());
    if (ok && m)
        ok = set_default(c, "bos_token", token_text(m, m->tok ? tok_bos(m->tok) : TOK_NONE)) &&
             set_default(c, "eos_token", token_text(m, m->tok ? tok_eos(m->tok) : TOK_NONE));
    if (!ok) {
        json_decref(c);
        return fl_fail(err, FL_ENOMEM, "the template's variables: no memory");
    }
    *out = c;
    return FL_OK;
}

static fl_status render(const fl_model *m, const jinja *j, const char *context_json, const char *now, jinja_output *out,
                        fl_err *err) {
    jinja_clock clock;
    json_t *context = NULL;
    fl_status st = read_clock(now, &clock, err);
    if (st == FL_OK) st = read_context(m, context_json, &context, err);
    if (st != FL_OK) return st;
    if (m && m->tool_template && json_array_size(json_object_get(context, "tools"))) j = m->tool_template;
    st = jinja_render(j, context, &clock, out, err);
    json_decref(context);
    return st;
}

fl_status fl_template_render(const fl_model *m, const char *context_json, const char *now, char **text, size_t *n_bytes,
                             uint32_t **ids, size_t *n_ids, fl_err *err) {
    *text = NULL;
    *n_bytes = 0;
    if (ids) *ids = NULL;
    if (n_ids) *n_ids = 0;
    if (!m->chat_template) {
        if (err) *err = m->template_err;
        return m->template_status;
    }
    jinja_output out = {0};
    tok_ids a = {0};
    fl_status st = render(m, m->chat_template, context_json, now, &out, err);
    if (st == FL_OK && ids) st = need_tok(m, err);
    if (st == FL_OK && ids)
        st = tok_encode_ranges(m->tok, out.text.data ? out.text.data : "", out.text.len, out.literal, out.n_literal, 0,
                               &a, err);
    if (st == FL_OK) {
        *n_bytes = out.text.len;
        *text = base_buf_take(&out.text);
        if (!*text) st = fl_fail(err, FL_ENOMEM, "a rendered template: no memory");
    }
    jinja_output_clear(&out);
    if (st != FL_OK) {
        tok_ids_clear(&a);
        return st;
    }
    if (ids) *ids = a.ids;
    if (n_ids) *n_ids = a.n;
    return FL_OK;
}

fl_status fl_model_set_chat_template(fl_model *m, const char *source, size_t n_source, fl_err *err) {
    jinja *j;
    fl_status st = jinja_open(&j, source, n_source, err);
    if (st != FL_OK) return fl_wrap(err, st, "the chat template given");
    jinja_close(m->chat_template);
    jinja_close(m->tool_template);
    m->tool_template = NULL;
    m->chat_template = j;
    m->template_status = FL_OK;
    return FL_OK;
}

fl_status fl_template_render_source(const char *source, size_t n_source, const char *context_json, const char *now,
                                    char **text, size_t *n_bytes, fl_err *err) {
    *text = NULL;
    *n_bytes = 0;
    jinja *j;
    fl_status st = jinja_open(&j, source, n_source, err);
    if (st != FL_OK) return st;
    jinja_output out = {0};
    st = render(NULL, j, context_json, now, &out, err);
    if (st == FL_OK) {
        *n_bytes = out.text.len;
        *text = base_buf_take(&out.text);
        if (!*text) st = fl_fail(err, FL_ENOMEM, "a rendered template: no memory");
    }
    jinja_output_clear(&out);
    jinja_close(j);
    return st;
}
