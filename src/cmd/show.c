/* flambeau show - what a model is, and what it takes to run it, from its header alone. */
#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/features.h"
#include "cmd/json.h"
#include "cmd/memory.h"
#include "cmd/model.h"
#include "cmd/modules.h"
#include "cmd/out.h"
#include "cmd/term.h"

#include <string.h>

enum { THOUSAND = 1000 };

typedef struct {
    const fl_model *model;
    fl_model_info info;
    cmd_modules *modules;
    cmd_features features;
    fl_model_needs thousand, context; /* of one request of 1,000 positions, of the whole context */
    bool runs;
    fl_err why_not;
} facts;

static fl_status find_facts(facts *f, const fl_model *m, fl_err *err) {
    *f = (facts){.model = m};
    fl_model_info_init(&f->info);
    fl_model_get_info(m, &f->info);
    fl_model_needs_init(&f->thousand);
    fl_model_needs_init(&f->context);
    cmd_features_find(m, &f->features);
    fl_status st = fl_model_get_needs(m, THOUSAND, &f->thousand, &f->why_not);
    if (st == FL_OK) st = fl_model_get_needs(m, f->info.context_length, &f->context, &f->why_not);
    f->runs = st == FL_OK;
    if (st == FL_ENOMEM) return fl_fail(err, st, "%s", f->why_not.msg);
    return cmd_modules_open(&f->modules, m, err);
}

static double bits(uint64_t n_bytes, uint64_t n_elems) { return n_elems ? 8.0 * (double)n_bytes / (double)n_elems : 0; }

/* ---- JSON ---- */

static void key_count(base_buf *b, const char *key, uint64_t v) {
    cmd_json_key(b, key);
    cmd_json_count(b, v);
}

static void key_string(base_buf *b, const char *key, const char *s) {
    cmd_json_key(b, key);
    cmd_json_string(b, s);
}

static void key_bool(base_buf *b, const char *key, bool v) {
    cmd_json_key(b, key);
    cmd_json_bool(b, v);
}

static void json_sizes(base_buf *b, const fl_model_info *i) {
    key_string(b, "architecture", i->architecture);
    key_string(b, "name", i->name);
    key_string(b, "license", i->license);
    key_string(b, "tokenizer", i->tokenizer);
    key_string(b, "weight_types", i->weight_types);
    key_count(b, "parameters", i->n_params);
    key_count(b, "file_bytes", i->file_bytes);
    key_count(b, "vocab", i->n_vocab);
    key_count(b, "layers", i->n_layers);
    key_count(b, "d_model", i->d_model);
    key_count(b, "heads", i->n_heads);
    key_count(b, "kv_heads", i->n_kv_heads);
    key_count(b, "head_dim", i->head_dim);
    key_count(b, "d_ff", i->d_ff);
    key_count(b, "context_length", i->context_length);
    key_count(b, "tensors", i->n_tensors);
}

static void json_share(base_buf *b, const cmd_module *m) {
    key_count(b, "tensors", m->n_tensors);
    key_count(b, "parameters", m->n_elems);
    key_count(b, "bytes", m->n_bytes);
    cmd_json_key(b, "bits_per_weight");
    cmd_json_ms(b, bits(m->n_bytes, m->n_elems));
    cmd_json_key(b, "types");
    cmd_json_open(b, '{');
    for (uint32_t i = 0; i < m->n_types; i++) {
        cmd_json_key(b, m->types[i].type);
        cmd_json_open(b, '{');
        key_count(b, "tensors", m->types[i].n_tensors);
        key_count(b, "parameters", m->types[i].n_elems);
        key_count(b, "bytes", m->types[i].n_bytes);
        cmd_json_close(b, '}');
    }
    cmd_json_close(b, '}');
}

static void json_modules(base_buf *b, const cmd_modules *m) {
    cmd_json_key(b, "weights");
    cmd_json_open(b, '{');
    json_share(b, &m->all);
    cmd_json_close(b, '}');
    cmd_json_key(b, "modules");
    cmd_json_open(b, '[');
    for (uint32_t i = 0; i < m->n; i++) {
        cmd_json_open(b, '{');
        key_string(b, "module", m->modules[i].name);
        json_share(b, &m->modules[i]);
        cmd_json_close(b, '}');
    }
    cmd_json_close(b, ']');
}

static void json_token(base_buf *b, const facts *f, const char *key, uint32_t id) {
    size_t n;
    const char *piece = id == UINT32_MAX ? NULL : fl_token_piece(f->model, id, &n);
    cmd_json_key(b, key);
    if (!piece) {
        cmd_json_string(b, NULL);
        return;
    }
    cmd_json_open(b, '{');
    key_count(b, "id", id);
    cmd_json_key(b, "text");
    cmd_json_text(b, piece, n);
    cmd_json_close(b, '}');
}

static void json_text(base_buf *b, const facts *f) {
    const fl_model_info *i = &f->info;
    key_bool(b, "chat_template", i->has_chat_template);
    key_bool(b, "add_bos", i->add_bos);
    cmd_json_key(b, "stop_ids");
    cmd_json_ids(b, i->stop, i->n_stop);
    key_count(b, "special_tokens", i->n_special);
    json_token(b, f, "bos", i->bos_id);
    json_token(b, f, "eos", i->eos_id);
    json_token(b, f, "unknown", i->unk_id);
    json_token(b, f, "padding", i->pad_id);
    cmd_json_key(b, "template");
    if (*f->features.why) {
        cmd_json_string(b, NULL);
        return;
    }
    cmd_json_open(b, '{');
    key_bool(b, "system", f->features.system);
    key_bool(b, "tools", f->features.tools);
    key_bool(b, "tool_calls", f->features.calls);
    key_bool(b, "reasoning", f->features.reasoning);
    cmd_json_close(b, '}');
}

static void json_needs(base_buf *b, const facts *f) {
    key_bool(b, "runs", f->runs);
    key_string(b, "why_not", f->runs ? NULL : f->why_not.msg);
    cmd_json_key(b, "needs");
    if (!f->runs) {
        cmd_json_string(b, NULL);
        return;
    }
    cmd_json_open(b, '{');
    key_string(b, "profile", f->context.profile);
    key_string(b, "kv_cache_dtype", f->context.kv_cache_dtype);
    key_count(b, "weight_bytes", f->context.weight_bytes);
    key_count(b, "cache_bytes_1000", f->thousand.cache_bytes);
    key_count(b, "cache_bytes_context", f->context.cache_bytes);
    key_count(b, "memory_bytes", cmd_memory_usable());
    cmd_json_close(b, '}');
    cmd_json_key(b, "layer_windows"); /* 0: sees everything */
    cmd_json_ids(b, f->context.layer_window, f->context.n_layers);
}

static void as_json(const facts *f, base_buf *b) {
    cmd_json_open(b, '{');
    json_sizes(b, &f->info);
    json_modules(b, f->modules);
    json_text(b, f);
    json_needs(b, f);
    cmd_json_key(b, "files");
    cmd_json_open(b, '[');
    uint64_t bytes;
    for (uint32_t i = 0; i < f->info.n_files; i++) {
        const char *path = fl_model_get_file(f->model, i, &bytes);
        cmd_json_open(b, '{');
        key_string(b, "path", path);
        key_count(b, "bytes", bytes);
        cmd_json_close(b, '}');
    }
    cmd_json_close(b, ']');
    cmd_json_close(b, '}');
    base_buf_putc(b, '\n');
}

/* ---- text ---- */

/* What a file says may hold anything: control characters are shown, not obeyed. */
static void put_line(base_buf *b, const char *name, const char *value) {
    base_buf_printf(b, "%-16s ", name);
    cmd_out_escape(b, *value ? value : "-", *value ? strlen(value) : 1);
    base_buf_putc(b, '\n');
}

static void put_count(base_buf *b, uint64_t n) {
    if (n >= 1000000000)
        base_buf_printf(b, "%.2f G", (double)n / 1e9);
    else
        base_buf_printf(b, "%.1f M", (double)n / 1e6);
}

static void text_sizes(base_buf *b, const facts *f) {
    const fl_model_info *i = &f->info;
    char size[16];
    put_line(b, "name", i->name);
    put_line(b, "architecture", i->architecture);
    put_line(b, "licence", i->license);
    if (i->n_tensors) {
        cmd_term_size(i->file_bytes, size);
        base_buf_printf(b, "%-16s ", "parameters");
        put_count(b, i->n_params);
        base_buf_printf(b, ", %.2f bits each\n%-16s %s", bits(f->modules->all.n_bytes, i->n_params), "file", size);
        if (i->n_files > 1) base_buf_printf(b, " in %u parts", i->n_files);
        base_buf_printf(b, " (%s)\n", i->weight_types);
    }
    if (i->n_layers) {
        base_buf_printf(b, "%-16s %u\n", "layers", i->n_layers);
        base_buf_printf(b, "%-16s %u, feed-forward %u\n", "hidden", i->d_model, i->d_ff);
        base_buf_printf(b, "%-16s %u, key-value %u, of %u\n", "heads", i->n_heads, i->n_kv_heads, i->head_dim);
        base_buf_printf(b, "%-16s %u\n", "context", i->context_length);
    }
}

/* "2 see everything (layers 5 11), 10 see 512 positions (the rest)" */
static void text_attention(base_buf *b, const fl_model_needs *n) {
    uint32_t full = 0, shown = 0, window = 0;
    for (uint32_t i = 0; i < n->n_layers; i++) {
        full += n->layer_window[i] == 0;
        if (n->layer_window[i]) window = n->layer_window[i];
    }
    base_buf_printf(b, "%-16s ", "attention");
    if (full == n->n_layers) {
        base_buf_puts(b, "every layer sees everything\n");
        return;
    }
    if (full == 0) {
        base_buf_printf(b, "every layer sees %u positions\n", window);
        return;
    }
    base_buf_printf(b, "%u layers see everything (", full);
    for (uint32_t i = 0; i < n->n_layers && shown < 12; i++)
        if (n->layer_window[i] == 0) base_buf_printf(b, "%s%u", shown++ ? " " : "", i);
    base_buf_printf(b, "%s), %u see %u positions\n", full > shown ? " .." : "", n->n_layers - full, window);
}

static void text_token(base_buf *b, const facts *f, const char *what, uint32_t id) {
    size_t n;
    const char *piece = id == UINT32_MAX ? NULL : fl_token_piece(f->model, id, &n);
    if (!piece) return;
    base_buf_printf(b, ", %s %u ", what, id);
    cmd_out_escape(b, piece, n);
}

static void text_template(base_buf *b, const facts *f) {
    const fl_model_info *i = &f->info;
    base_buf_printf(b, "%-16s %u", "vocabulary", i->n_vocab);
    if (i->has_tokenizer && i->n_tok_vocab != i->n_vocab) base_buf_printf(b, ", %u of them named", i->n_tok_vocab);
    base_buf_printf(b, "\n%-16s ", "tokenizer");
    if (i->has_tokenizer) {
        cmd_out_escape(b, i->tokenizer, strlen(i->tokenizer));
        text_token(b, f, "starts with", i->add_bos ? i->bos_id : UINT32_MAX);
        text_token(b, f, "ends with", i->eos_id);
        base_buf_printf(b, ", %u special tokens\n", i->n_special);
    } else {
        base_buf_puts(b, "none: give token ids\n");
    }
    const cmd_features *t = &f->features;
    base_buf_printf(b, "%-16s ", "chat template");
    if (*t->why) {
        cmd_out_escape(b, t->why, strlen(t->why));
        base_buf_putc(b, '\n');
        return;
    }
    base_buf_printf(b, "system %s, tools %s, tool calls %s, reasoning %s\n", t->system ? "yes" : "no",
                    t->tools ? "yes" : "no", t->calls ? "yes" : "no", t->reasoning ? "yes" : "no");
}

static void text_needs(base_buf *b, const facts *f) {
    char weights[16], thousand[16], context[16], usable[16];
    uint64_t memory = cmd_memory_usable(), least = f->context.weight_bytes + f->thousand.cache_bytes;
    base_buf_printf(b, "%-16s ", "runs");
    if (!f->runs) {
        base_buf_puts(b, "no: ");
        cmd_out_escape(b, f->why_not.msg, strlen(f->why_not.msg));
        base_buf_putc(b, '\n');
        return;
    }
    cmd_term_size(memory, usable);
    if (least > memory)
        base_buf_printf(b, "not here: this machine has %s for it\n", usable);
    else
        base_buf_printf(b, "yes, in profile %s\n", f->context.profile);
    cmd_term_size(f->context.weight_bytes, weights);
    cmd_term_size(f->thousand.cache_bytes, thousand);
    cmd_term_size(f->context.cache_bytes, context);
    base_buf_printf(b, "%-16s weights %s, cache %s for 1,000 tokens, %s for all; has %s\n", "memory", weights, thousand,
                    context, usable);
}

static void text_modules(base_buf *b, const cmd_modules *m) {
    if (m->n == 0) return;
    int width = 6;
    for (uint32_t i = 0; i < m->n; i++)
        if ((int)strlen(m->modules[i].name) > width) width = (int)strlen(m->modules[i].name);
    base_buf_printf(b, "\n%-*s %8s %8s %6s  %s\n", width, "MODULE", "TENSORS", "SIZE", "BITS", "TYPES");
    for (uint32_t i = 0; i < m->n; i++) {
        const cmd_module *x = &m->modules[i];
        char size[16];
        cmd_term_size(x->n_bytes, size);
        base_buf_printf(b, "%-*s %8u %8s %6.2f  ", width, x->name, x->n_tensors, size, bits(x->n_bytes, x->n_elems));
        for (uint32_t k = 0; k < x->n_types; k++) {
            base_buf_printf(b, "%s%s", k ? ", " : "", x->types[k].type);
            if (x->n_types > 1) base_buf_printf(b, " %u", x->types[k].n_tensors);
        }
        base_buf_putc(b, '\n');
    }
}

static void as_text(const facts *f, base_buf *b) {
    text_sizes(b, f);
    if (f->runs) text_attention(b, &f->context);
    text_template(b, f);
    text_needs(b, f);
    text_modules(b, f->modules);
    if (f->info.n_files > 1) base_buf_puts(b, "\nFILES\n");
    for (uint32_t i = 0; f->info.n_files > 1 && i < f->info.n_files; i++) {
        char size[16];
        uint64_t bytes;
        const char *path = fl_model_get_file(f->model, i, &bytes);
        cmd_term_size(bytes, size);
        base_buf_printf(b, "%8s  ", size);
        cmd_out_escape(b, path, strlen(path));
        base_buf_putc(b, '\n');
    }
}

int cmd_show(const cmd_options *o, fl_err *err) {
    fl_model *m;
    fl_status st = cmd_model_open(&m, o->args[0], err);
    if (st == FL_OK) {
        facts f;
        base_buf b = {0};
        st = find_facts(&f, m, err);
        if (st == FL_OK) {
            if (o->json)
                as_json(&f, &b);
            else
                as_text(&f, &b);
            st = cmd_out_flush(&b, err);
        }
        base_buf_clear(&b);
        base_free(f.modules);
    }
    fl_model_close(m);
    return cmd_exit(st);
}
