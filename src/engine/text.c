/* What text needs of a lone tokenizer.json, tokenizer.model, tekken.json or rank file, or of a folder. Without weights beside
 * it text can be turned into ids and back, and the template rendered; an engine cannot be opened, and says why.
 *
 * Of a folder: the tokenizer (the first there is in the order of files below); tokenizer_config.json, and for tokens that
 * it does not name special_tokens_map.json; the template of chat_template.jinja or else of tokenizer_config.json, and the
 * one called tool_use of either, for when there are tools; the ids of config.json and generation_config.json that end an answer. */
#include "engine/engine_int.h"

#include "base/json.h"
#include "base/mem.h"
#include "file/map.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool is_folder(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

static bool ends_with(const char *path, const char *end) {
    size_t n = strlen(path), k = strlen(end);
    return n >= k && strcmp(path + n - k, end) == 0;
}

bool engine_is_text(const char *path) {
    return is_folder(path) || ends_with(path, ".json") || ends_with(path, ".model") || ends_with(path, ".tiktoken");
}

/* Opens a file of the folder. A file that is not there is not an error: *map stays empty. */
static fl_status open_in(file_map *map, const char *folder, const char *name, fl_err *err) {
    struct stat s;
    base_buf path = {0};
    *map = (file_map){0};
    fl_status st = FL_OK;
    if (!base_buf_printf(&path, "%s/%s", folder, name)) st = fl_fail(err, FL_ENOMEM, "%s: no memory", folder);
    if (st == FL_OK && stat(path.data, &s) == 0) {
        st = file_map_open(map, path.data, err);
        if (st != FL_OK) fl_wrap(err, st, "%s", path.data);
    }
    base_buf_clear(&path);
    return st;
}

enum {
    TOKENIZER,
    SENTENCEPIECE,
    TEKKEN,
    RANKS,
    CONFIG,
    SPECIAL,
    MODEL_CONFIG,
    GENERATION,
    TEMPLATE,
    TOOL_TEMPLATE,
    N_FILES,
};

enum { N_RANKS = 4 };

static const char *const file_names[N_FILES] = {"tokenizer.json",        "tokenizer.model",
                                                "tekken.json",           NULL,
                                                "tokenizer_config.json", "special_tokens_map.json",
                                                "config.json",           "generation_config.json",
                                                "chat_template.jinja",   "additional_chat_templates/tool_use.jinja"};
static const char *const rank_names[N_RANKS] = {"tiktoken.model", "qwen.tiktoken", "cl100k_base.tiktoken",
                                                "o200k_base.tiktoken"};

typedef struct {
    file_map at[N_FILES];
    const char *rank_name;
    json_t *config; /* with the tokens of special_tokens_map.json; NULL: none */
    base_buf text;  /* of config */
} files;

/* The template called name of tokenizer_config.json; "default" may be the only one, a string. */
static const json_t *find_template(const json_t *config, const char *name, bool only) {
    const json_t *v = json_object_get(config, "chat_template"), *item;
    size_t i;
    json_array_foreach(v, i, item) {
        const char *s = json_string_value(json_object_get(item, "name"));
        if (s && strcmp(s, name) == 0) return json_object_get(item, "template");
    }
    return only ? v : NULL;
}

/* Opens a template; FL_EUNSUPPORTED when there is none. */
static fl_status open_one(jinja **out, const file_map *file, const json_t *v, const char *what, fl_err *err) {
    fl_status st;
    if (file->data)
        st = jinja_open(out, (const char *)file->data, file->size, err);
    else if (json_is_string(v))
        st = jinja_open(out, json_string_value(v), json_string_length(v), err);
    else
        return fl_fail(err, FL_EUNSUPPORTED, "the model has no chat template; use the text as it is (--raw)");
    return st == FL_OK ? st : fl_wrap(err, st, "the model's %s", what);
}

static void open_templates(fl_model *m, const files *f) {
    const json_t *tool = find_template(f->config, "tool_use", false);
    m->template_status = open_one(&m->chat_template, &f->at[TEMPLATE], find_template(f->config, "default", true),
                                  "chat template", &m->template_err);
    if (m->template_status != FL_OK || (!tool && !f->at[TOOL_TEMPLATE].data)) return;
    m->template_status =
        open_one(&m->tool_template, &f->at[TOOL_TEMPLATE], tool, "chat template for tools", &m->template_err);
    if (m->template_status == FL_OK) return;
    jinja_close(m->chat_template);
    m->chat_template = NULL;
}

static bool flag(const json_t *config, const char *key, bool otherwise) {
    const json_t *v = json_object_get(config, key);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

static fl_status open_tok(fl_model *m, const files *f) {
    const file_map *json = &f->at[TOKENIZER], *spm = &f->at[SENTENCEPIECE], *tekken = &f->at[TEKKEN];
    const file_map *ranks = &f->at[RANKS];
    const char *config = f->config ? f->text.data : NULL, *name = f->rank_name;
    const char *kind = json->data     ? file_names[TOKENIZER]
                       : tekken->data ? file_names[TEKKEN]
                       : spm->data    ? file_names[SENTENCEPIECE]
                       : ranks->data  ? name
                                      : "";
    (void)snprintf(m->tok_kind, sizeof m->tok_kind, "%.100s", kind);
    if (json->data)
        return tok_open_json(&m->tok, (const char *)json->data, json->size, config, f->text.len, &m->tok_err);
    if (!spm->data && !tekken->data && !ranks->data)
        return fl_fail(&m->tok_err, FL_EUNSUPPORTED, "the folder has no tokenizer; give token ids");
    if (tekken->data) return tok_open_tekken(&m->tok, (const char *)tekken->data, tekken->size, &m->tok_err);
    /* A tokenizer.model may be a rank file: a SentencePiece model begins with a field of its own. */
    if (spm->data && spm->size && spm->data[0] > ' ') {
        ranks = spm;
        name = file_names[SENTENCEPIECE];
    } else if (spm->data) {
        return tok_open_sentencepiece(&m->tok, spm->data, spm->size, flag(f->config, "add_bos_token", true),
                                      flag(f->config, "add_eos_token", false), &m->tok_err);
    }
    return tok_open_tiktoken(&m->tok, (const char *)ranks->data, ranks->size, name, config, f->text.len, &m->tok_err);
}

/* Of a folder all files are wanted, a lone file stands alone. */
static fl_status open_files(const char *path, bool weights, files *f, fl_err *err) {
    fl_status st = FL_OK;
    if (!is_folder(path)) {
        const char *slash = strrchr(path, '/');
        f->rank_name = slash ? slash + 1 : path;
        int k = ends_with(path, "tekken.json")                                      ? TEKKEN
                : ends_with(path, ".tiktoken") || ends_with(path, "tiktoken.model") ? RANKS
                : ends_with(path, ".model")                                         ? SENTENCEPIECE
                                                                                    : TOKENIZER;
        st = file_map_open(&f->at[k], path, err);
        return st == FL_OK ? st : fl_wrap(err, st, "%s", path);
    }
    for (int i = 0; i < N_FILES && st == FL_OK; i++)
        if (i != RANKS) st = open_in(&f->at[i], path, file_names[i], err);
    for (int i = 0; i < N_RANKS && st == FL_OK && !f->at[RANKS].data; i++) {
        f->rank_name = rank_names[i];
        st = open_in(&f->at[RANKS], path, rank_names[i], err);
    }
    bool any = f->at[TOKENIZER].data || f->at[SENTENCEPIECE].data || f->at[TEKKEN].data || f->at[RANKS].data;
    if (st == FL_OK && !weights && !any)
        st = fl_fail(err, FL_EIO, "%s: is a folder without tokenizer.json, tokenizer.model, tekken.json or a rank file",
                     path);
    return st;
}

/* A JSON object of the folder; NULL where there is no such file. */
static fl_status read_object(const char *path, const files *f, int i, json_t **out, fl_err *err) {
    *out = NULL;
    if (!f->at[i].data) return FL_OK;
    fl_status st = base_json_read(out, f->at[i].data, f->at[i].size, file_names[i], JSON_ALLOW_NUL, err);
    return st == FL_OK ? FL_OK : fl_wrap(err, st, "%s", path);
}

static int put_json(const char *s, size_t n, void *b) { return base_buf_append(b, s, n) ? 0 : -1; }

static fl_status read_config(const char *path, files *f, fl_err *err) {
    static const char *const keys[] = {"bos_token", "eos_token", "unk_token", "pad_token"};
    json_t *map = NULL;
    fl_status st = read_object(path, f, CONFIG, &f->config, err);
    if (st == FL_OK) st = read_object(path, f, SPECIAL, &map, err);
    bool ok = true;
    if (st == FL_OK && map && !f->config) ok = (f->config = json_object()) != NULL;
    for (size_t i = 0; st == FL_OK && ok && i < sizeof keys / sizeof *keys; i++) {
        json_t *v = json_object_get(map, keys[i]);
        if (v && !json_object_get(f->config, keys[i])) ok = json_object_set(f->config, keys[i], v) == 0;
    }
    if (st == FL_OK && ok && f->config) ok = json_dump_callback(f->config, put_json, &f->text, JSON_COMPACT) == 0;
    json_decref(map);
    return st != FL_OK || ok ? st : fl_fail(err, FL_ENOMEM, "%s: no memory", path);
}

/* eos_token_id is an id or a list of them; those outside of the vocabulary can never be drawn. */
static fl_status read_stops(fl_model *m, const char *path, const files *f, int file, fl_err *err) {
    json_t *o;
    fl_status st = read_object(path, f, file, &o, err);
    const json_t *v = json_object_get(o, "eos_token_id");
    size_t n = json_is_array(v) ? json_array_size(v) : v && !json_is_null(v);
    const json_int_t n_ids = m->tok ? tok_n_vocab(m->tok) : UINT32_MAX;
    for (size_t i = 0; st == FL_OK && i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(id))
            st = fl_fail(err, FL_EFORMAT, "%s/%s: eos_token_id: a token id or a list of them is wanted", path,
                         file_names[file]);
        else if (json_integer_value(id) >= 0 && json_integer_value(id) < n_ids)
            engine_add_stop(m, (uint32_t)json_integer_value(id));
    }
    json_decref(o);
    return st;
}

fl_status engine_open_text(fl_model *m, const char *path, bool weights, fl_err *err) {
    files f = {0};
    fl_status st = open_files(path, weights, &f, err);
    if (st == FL_OK) st = read_config(path, &f, err);
    if (st == FL_OK) {
        if (!weights)
            m->config_status = fl_fail(&m->config_err, FL_EUNSUPPORTED, "%s has a tokenizer but no weights", path);
        m->tok_status = open_tok(m, &f);
        open_templates(m, &f);
        st = read_stops(m, path, &f, MODEL_CONFIG, err);
    }
    if (st == FL_OK) st = read_stops(m, path, &f, GENERATION, err);
    for (int i = 0; i < N_FILES; i++) file_map_close(&f.at[i]);
    json_decref(f.config);
    base_buf_clear(&f.text);
    return st;
}
