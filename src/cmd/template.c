/* flambeau template - renders a chat template exactly, nothing added. */
#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/input.h"
#include "cmd/json.h"
#include "cmd/model.h"
#include "cmd/out.h"

#include <jansson.h>
#include <string.h>

static json_t *parse(const char *what, const char *text, size_t n, fl_err *err) {
    json_error_t error;
    json_t *v = json_loadb(text, n, JSON_ALLOW_NUL | JSON_DECODE_ANY, &error);
    if (!v)
        (void)fl_fail(err, FL_EINVAL, "%s is no JSON: line %d column %d: %s", what, error.line, error.column,
                      error.text);
    return v;
}

/* NULL with err set if the file cannot be read or is no JSON. */
static json_t *load(const char *path, fl_err *err) {
    base_buf b = {0};
    json_t *v = cmd_input_read(path, &b, err) == FL_OK ? parse(path, b.data ? b.data : "", b.len, err) : NULL;
    base_buf_clear(&b);
    return v;
}

/* Adds what the file holds to the context: an object's members, or a list under the name given. */
static fl_status add_file(json_t *context, const char *path, const char *name, fl_err *err) {
    json_t *v = load(path, err);
    if (!v) return FL_EINVAL;
    int failed = json_is_object(v)  ? json_object_update(context, v)
                 : json_is_array(v) ? json_object_set(context, name, v)
                                    : 1;
    fl_status st =
        failed ? fl_fail(err, FL_EINVAL, "%s wants a JSON list or object, found something else", path) : FL_OK;
    json_decref(v);
    return st;
}

static fl_status add_kwargs(json_t *context, const char *text, fl_err *err) {
    json_t *v = parse("--kwargs", text, strlen(text), err);
    if (!v) return FL_EINVAL;
    fl_status st = json_object_update(context, v) == 0
                       ? FL_OK
                       : fl_fail(err, FL_EINVAL, "--kwargs wants a JSON object, found something else");
    json_decref(v);
    return st;
}

/* The JSON text of the template's variables; *text is the caller's (free). */
static fl_status context_json(const cmd_options *o, char **text, fl_err *err) {
    json_t *context = json_object();
    if (!context) return fl_fail(err, FL_ENOMEM, "no memory for the messages");
    fl_status st = FL_OK;
    if (o->messages) st = add_file(context, o->messages, "messages", err);
    if (st == FL_OK && o->tools) st = add_file(context, o->tools, "tools", err);
    if (st == FL_OK && o->kwargs) st = add_kwargs(context, o->kwargs, err);
    if (st == FL_OK && o->no_generation_prompt)
        (void)json_object_set_new(context, "add_generation_prompt", json_false());
    if (st == FL_OK) {
        *text = json_dumps(context, JSON_COMPACT | JSON_REAL_PRECISION(17));
        if (!*text) st = fl_fail(err, FL_ENOMEM, "no memory for the messages");
    }
    json_decref(context);
    return st;
}

static fl_status print(const cmd_options *o, const char *text, size_t n, const uint32_t *ids, size_t n_ids,
                       fl_err *err) {
    if (!o->json) return cmd_out_write(text, n, false, err);
    base_buf b = {0};
    cmd_json_open(&b, '{');
    cmd_json_key(&b, "text");
    cmd_json_text(&b, text, n);
    if (ids) {
        cmd_json_key(&b, "tokens");
        cmd_json_ids(&b, ids, n_ids);
    }
    cmd_json_close(&b, '}');
    base_buf_putc(&b, '\n');
    fl_status st = cmd_out_flush(&b, err);
    base_buf_clear(&b);
    return st;
}

static fl_status render_file(const cmd_options *o, const char *context, fl_err *err) {
    base_buf source = {0};
    char *text = NULL;
    size_t n = 0;
    fl_status st = cmd_input_read(o->args[0], &source, err);
    if (st == FL_OK)
        st = fl_template_render_source(source.data ? source.data : "", source.len, context, o->now, &text, &n, err);
    if (st == FL_OK) {
        st = print(o, text, n, NULL, 0, err);
        fl_free(text);
    }
    base_buf_clear(&source);
    return st;
}

static fl_status render_model(const cmd_options *o, const char *context, fl_err *err) {
    fl_model *m;
    char *text = NULL;
    uint32_t *ids = NULL;
    size_t n = 0, n_ids = 0;
    fl_status st = cmd_model_open_chat(&m, o, err);
    if (st == FL_OK)
        st = fl_template_render(m, context, o->now, &text, &n, o->json ? &ids : NULL, o->json ? &n_ids : NULL, err);
    if (st == FL_OK) {
        st = print(o, text, n, ids, n_ids, err);
        fl_free(text);
        fl_free(ids);
    }
    fl_model_close(m);
    return st;
}

int cmd_template(const cmd_options *o, fl_err *err) {
    const char *name = o->args[0];
    size_t n = strlen(name);
    bool is_file = n > 6 && strcmp(name + n - 6, ".jinja") == 0;
    if (!is_file && !o->messages) return cmd_usage(err, "template wants --messages FILE, found none");
    if (is_file && o->chat_template) return cmd_usage(err, "--chat-template needs a model, %.60s is a template", name);
    json_set_alloc_funcs(base_malloc, base_free);
    char *context = NULL;
    fl_status st = context_json(o, &context, err);
    if (st == FL_OK) st = is_file ? render_file(o, context, err) : render_model(o, context, err);
    base_free(context);
    return cmd_exit(st);
}
