/* What text needs of a lone tokenizer.json, tokenizer.model or tekken.json, or of a folder: tokenizer, chat template, stop
 * tokens. Without weights beside it text can be turned into ids and back, and the template rendered; an engine cannot be
 * opened, and says why. */
#include "engine/engine_int.h"

#include "base/json.h"
#include "base/mem.h"
#include "file/map.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { FILES = 7 };

static bool is_folder(const char *path) {
    struct stat s;
    return stat(path, &s) == 0 && S_ISDIR(s.st_mode);
}

static bool ends_with(const char *path, const char *end) {
    size_t n = strlen(path), k = strlen(end);
    return n >= k && strcmp(path + n - k, end) == 0;
}

bool engine_is_text(const char *path) {
    return is_folder(path) || ends_with(path, ".json") || ends_with(path, ".model");
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

/* chat_template of tokenizer_config.json: a string, or a list of which "default" is taken. */
static const json_t *find_template(const json_t *config) {
    const json_t *v = json_object_get(config, "chat_template"), *item;
    size_t i;
    json_array_foreach(v, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && strcmp(name, "default") == 0) return json_object_get(item, "template");
    }
    return v;
}

static void open_template(fl_model *m, const json_t *config, const file_map *file) {
    const json_t *v = find_template(config);
    fl_err *err = &m->template_err;
    if (file->data)
        m->template_status = jinja_open(&m->chat_template, (const char *)file->data, file->size, err);
    else if (json_is_string(v))
        m->template_status = jinja_open(&m->chat_template, json_string_value(v), json_string_length(v), err);
    else
        m->template_status =
            fl_fail(err, FL_EUNSUPPORTED, "the model has no chat template; use the text as it is (--raw)");
    if (m->template_status != FL_OK && m->template_status != FL_EUNSUPPORTED)
        fl_wrap(err, m->template_status, "the model's chat template");
}

static bool flag(const json_t *config, const char *key, bool otherwise) {
    const json_t *v = json_object_get(config, key);
    return json_is_boolean(v) ? json_is_true(v) : otherwise;
}

static fl_status open_tok(fl_model *m, const file_map files[FILES], const json_t *config) {
    const file_map *json = &files[0], *spm = &files[1], *tekken = &files[4];
    const char *kind = json->data     ? "tokenizer.json"
                       : tekken->data ? "tekken.json"
                       : spm->data    ? "tokenizer.model"
                                      : "";
    (void)snprintf(m->tok_kind, sizeof m->tok_kind, "%s", kind);
    if (json->data)
        return tok_open_json(&m->tok, (const char *)json->data, json->size, (const char *)files[2].data, files[2].size,
                             &m->tok_err);
    if (!spm->data && !tekken->data)
        return fl_fail(&m->tok_err, FL_EUNSUPPORTED, "the folder has no tokenizer; give token ids");
    if (tekken->data) return tok_open_tekken(&m->tok, (const char *)tekken->data, tekken->size, &m->tok_err);
    return tok_open_sentencepiece(&m->tok, spm->data, spm->size, flag(config, "add_bos_token", true),
                                  flag(config, "add_eos_token", false), &m->tok_err);
}

/* Of a folder all files are wanted, a lone file stands alone. */
static fl_status open_files(const char *path, bool weights, file_map files[FILES], fl_err *err) {
    static const char *const names[FILES] = {"tokenizer.json",        "tokenizer.model", "tokenizer_config.json",
                                             "chat_template.jinja",   "tekken.json",     "config.json",
                                             "generation_config.json"};
    fl_status st = FL_OK;
    if (!is_folder(path)) {
        st = file_map_open(&files[ends_with(path, "tekken.json") ? 4 : ends_with(path, ".model")], path, err);
        return st == FL_OK ? st : fl_wrap(err, st, "%s", path);
    }
    for (int i = 0; i < FILES && st == FL_OK; i++) st = open_in(&files[i], path, names[i], err);
    if (st == FL_OK && !weights && !files[0].data && !files[1].data && !files[4].data)
        st = fl_fail(err, FL_EIO, "%s: is a folder without tokenizer.json, tokenizer.model or tekken.json", path);
    return st;
}

/* A file of the folder as JSON; NULL when it is not there. */
static fl_status parse(json_t **out, const file_map *file, const char *folder, const char *name, fl_err *err) {
    *out = NULL;
    fl_status st = file->data ? base_json_read(out, file->data, file->size, name, JSON_ALLOW_NUL, err) : FL_OK;
    return st == FL_OK ? FL_OK : fl_wrap(err, st, "%s", folder);
}

/* eos_token_id is an id or a list of them. */
static fl_status read_stops(fl_model *m, const file_map *file, const char *folder, const char *name, fl_err *err) {
    json_t *root;
    fl_status st = parse(&root, file, folder, name, err);
    const json_t *v = json_object_get(root, "eos_token_id");
    size_t n = json_is_array(v) ? json_array_size(v) : v && !json_is_null(v);
    for (size_t i = 0; i < n && st == FL_OK; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        if (json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) < UINT32_MAX)
            engine_add_stop(m, (uint32_t)json_integer_value(id));
        else
            st = fl_fail(err, FL_EFORMAT, "%s/%s: eos_token_id: a token id or a list of them is wanted", folder, name);
    }
    json_decref(root);
    return st;
}

fl_status engine_open_text(fl_model *m, const char *path, bool weights, fl_err *err) {
    file_map files[FILES] = {0};
    json_t *config = NULL;
    fl_status st = open_files(path, weights, files, err);
    if (st == FL_OK) st = parse(&config, &files[2], path, "tokenizer_config.json", err);
    if (st == FL_OK) {
        if (!weights)
            m->config_status = fl_fail(&m->config_err, FL_EUNSUPPORTED, "%s has a tokenizer but no weights", path);
        m->tok_status = open_tok(m, files, config);
        open_template(m, config, &files[3]);
    }
    if (st == FL_OK) st = read_stops(m, &files[5], path, "config.json", err);
    if (st == FL_OK) st = read_stops(m, &files[6], path, "generation_config.json", err);
    for (int i = 0; i < FILES; i++) file_map_close(&files[i]);
    json_decref(config);
    return st;
}
