#include "cmd/model.h"

#include "cmd/input.h"
#include "cmd/pull.h"

#include "base/mem.h"
#include "hub/hub.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What is a path, or looks like one, is a path. ORG/NAME is a repository, but not DIRECTORY/FILE.gguf. */
static bool is_path(const char *name) {
    size_t n = strlen(name);
    bool gguf = n > 5 && strcmp(name + n - 5, ".gguf") == 0;
    if (access(name, F_OK) == 0) return true;
    if (hub_repo_valid(name)) return gguf && !strchr(name, ':');
    return strchr(name, '/') || gguf;
}

fl_status cmd_model_path(char **path, const char *name, fl_err *err) {
    *path = NULL;
    if (*name == '\0')
        return fl_fail(err, FL_EIO, "MODEL is empty; wanted a .gguf file or a name from 'flambeau list'");
    if (!is_path(name)) return cmd_pull_find(name, path, err);
    *path = base_strdup(name);
    return *path ? FL_OK : fl_fail(err, FL_ENOMEM, "no memory for a path");
}

fl_status cmd_model_open(fl_model **out, const char *name, fl_err *err) {
    *out = NULL;
    char *path;
    fl_status st = cmd_model_path(&path, name, err);
    if (st == FL_OK) st = fl_model_open(out, path, err);
    base_free(path);
    return st;
}

fl_status cmd_model_open_chat(fl_model **out, const cmd_options *o, fl_err *err) {
    base_buf source = {0};
    *out = NULL;
    fl_status st = o->chat_template ? cmd_input_read(o->chat_template, &source, err) : FL_OK;
    if (st == FL_OK) st = cmd_model_open(out, o->args[0], err);
    if (st == FL_OK && o->chat_template) {
        st = fl_model_set_chat_template(*out, source.data ? source.data : "", source.len, err);
        if (st != FL_OK) {
            fl_model_close(*out);
            *out = NULL;
        }
    }
    base_buf_clear(&source);
    return st;
}

void cmd_model_engine_options(const cmd_options *o, fl_engine_options *options) {
    fl_engine_options_init(options);
    options->device = o->device;
    options->cpu_isa = o->cpu_isa;
    options->compute = o->compute;
    options->kv_cache_dtype = o->kv_cache_dtype;
    options->n_threads = o->threads;
    options->max_model_len = o->max_model_len;
    options->opt_level = o->enforce_eager ? 0 : o->opt_level;
}

fl_status cmd_model_engine(fl_engine **out, const fl_model *m, const fl_engine_options *options, bool print_plan,
                           fl_err *err) {
    fl_status st = fl_engine_open(out, m, options, err);
    if (st != FL_OK || !print_plan) return st;
    char *text;
    st = fl_engine_print_plan(*out, &text, err);
    if (st != FL_OK) {
        fl_engine_close(*out);
        *out = NULL;
        return st;
    }
    fputs(text, stderr);
    fl_free(text);
    return FL_OK;
}

fl_status cmd_model_tokenize(const fl_model *m, const char *text, size_t n, bool no_bos, uint32_t **ids, size_t *n_ids,
                             fl_err *err) {
    fl_status st = fl_tokenize(m, text, n, no_bos ? 0 : FL_TOKENIZE_ADD_SPECIAL, ids, n_ids, err);
    if (st != FL_OK || *n_ids > 0) return st;
    fl_free(*ids);
    *ids = NULL;
    return fl_fail(err, FL_EINVAL, "wanted a text of at least one token, found none");
}
