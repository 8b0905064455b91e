/* flambeau show - what a model is, from its header alone. */
#include "cmd/cmd_int.h"
#include "cmd/json.h"
#include "cmd/model.h"
#include "cmd/out.h"
#include "cmd/term.h"

static void as_json(const fl_model_info *i, base_buf *b) {
    const struct {
        const char *name, *value;
    } texts[] = {{"architecture", i->architecture},
                 {"name", i->name},
                 {"license", i->license},
                 {"tokenizer", i->tokenizer},
                 {"weight_types", i->weight_types}};
    const struct {
        const char *name;
        uint64_t value;
    } counts[] = {{"parameters", i->n_params}, {"file_bytes", i->file_bytes},
                  {"vocab", i->n_vocab},       {"layers", i->n_layers},
                  {"d_model", i->d_model},     {"heads", i->n_heads},
                  {"kv_heads", i->n_kv_heads}, {"head_dim", i->head_dim},
                  {"d_ff", i->d_ff},           {"context_length", i->context_length}};
    cmd_json_open(b, '{');
    for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
        cmd_json_key(b, texts[k].name);
        cmd_json_string(b, texts[k].value);
    }
    for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
        cmd_json_key(b, counts[k].name);
        cmd_json_count(b, counts[k].value);
    }
    cmd_json_key(b, "chat_template");
    cmd_json_bool(b, i->has_chat_template);
    cmd_json_key(b, "add_bos");
    cmd_json_bool(b, i->add_bos);
    cmd_json_key(b, "stop_ids");
    cmd_json_ids(b, i->stop, i->n_stop);
    cmd_json_close(b, '}');
    base_buf_putc(b, '\n');
}

static void as_text(const fl_model_info *i, base_buf *b) {
    char size[16];
    cmd_term_size(i->file_bytes, size);
    base_buf_printf(b, "%-16s %s\n", "name", *i->name ? i->name : "-");
    base_buf_printf(b, "%-16s %s\n", "architecture", i->architecture);
    base_buf_printf(b, "%-16s %.1f M\n", "parameters", (double)i->n_params / 1e6);
    base_buf_printf(b, "%-16s %s (%s)\n", "file", size, i->weight_types);
    base_buf_printf(b, "%-16s %u\n", "layers", i->n_layers);
    base_buf_printf(b, "%-16s %u, feed-forward %u\n", "hidden", i->d_model, i->d_ff);
    base_buf_printf(b, "%-16s %u, key-value %u, of %u\n", "heads", i->n_heads, i->n_kv_heads, i->head_dim);
    base_buf_printf(b, "%-16s %u (%s)\n", "vocabulary", i->n_vocab, *i->tokenizer ? i->tokenizer : "no tokenizer");
    base_buf_printf(b, "%-16s %u\n", "context", i->context_length);
    base_buf_printf(b, "%-16s %s\n", "chat template", i->has_chat_template ? "yes" : "no");
    base_buf_printf(b, "%-16s %s\n", "licence", *i->license ? i->license : "-");
}

int cmd_show(const cmd_options *o, fl_err *err) {
    fl_model *m;
    fl_status st = cmd_model_open(&m, o->args[0], err);
    if (st == FL_OK) {
        fl_model_info info;
        fl_model_info_init(&info);
        fl_model_get_info(m, &info);
        base_buf b = {0};
        if (o->json)
            as_json(&info, &b);
        else
            as_text(&info, &b);
        st = cmd_out_flush(&b, err);
        base_buf_clear(&b);
    }
    fl_model_close(m);
    return cmd_exit(st);
}
