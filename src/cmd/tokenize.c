/* flambeau tokenize, flambeau detokenize - text to ids and back. */
#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/input.h"
#include "cmd/json.h"
#include "cmd/model.h"
#include "cmd/out.h"

#include <string.h>

/* Puts the argument after MODEL, or all of stdin, into b. */
static fl_status read_argument(const cmd_options *o, base_buf *b, fl_err *err) {
    if (o->n_args < 2) return cmd_input_read("-", b, err);
    return base_buf_puts(b, o->args[1]) ? FL_OK : fl_fail(err, FL_ENOMEM, "no memory for the text");
}

/* Runs each on every line of stdin (--lines), or on the one text. line_at counts from 1, 0: not by lines. */
typedef fl_status each_fn(const cmd_options *o, const fl_model *m, const char *text, size_t n, fl_err *err);

static fl_status for_each(const cmd_options *o, const fl_model *m, each_fn *each, fl_err *err) {
    base_buf b = {0};
    fl_status st = read_argument(o, &b, err);
    if (st == FL_OK && !o->lines) st = each(o, m, b.data ? b.data : "", b.len, err);
    size_t at = 0, n, number = 0;
    const char *line;
    while (st == FL_OK && o->lines && cmd_input_line(&b, &at, &line, &n)) {
        number++;
        st = each(o, m, line, n, err);
        if (st != FL_OK && err->msg[0]) (void)fl_wrap(err, st, "line %zu", number);
    }
    base_buf_clear(&b);
    return st;
}

static int command(const cmd_options *o, each_fn *each, fl_err *err) {
    if (o->lines && o->n_args > 1) return cmd_usage(err, "--lines reads stdin; found '%.40s' as well", o->args[1]);
    fl_model *m;
    fl_status st = cmd_model_open(&m, o->args[0], err);
    if (st == FL_OK) st = for_each(o, m, each, err);
    fl_model_close(m);
    return cmd_exit(st);
}

static void print_pieces(base_buf *b, const fl_model *m, const uint32_t *ids, size_t n_ids) {
    cmd_json_open(b, '{');
    cmd_json_key(b, "ids");
    cmd_json_ids(b, ids, n_ids);
    cmd_json_key(b, "pieces");
    cmd_json_open(b, '[');
    for (size_t i = 0; i < n_ids; i++) {
        size_t n = 0;
        const char *piece = fl_token_piece(m, ids[i], &n);
        cmd_json_text(b, piece ? piece : "", n);
    }
    cmd_json_close(b, ']');
    cmd_json_close(b, '}');
}

/* Ids with commas between: a printf() for each takes longer than finding it. */
static void put_ids(base_buf *b, const uint32_t *ids, size_t n) {
    enum { DIGITS = 10 };
    if (!base_buf_reserve(b, n * (DIGITS + 1))) return;
    for (size_t i = 0; i < n; i++) {
        char digits[DIGITS];
        uint32_t k = DIGITS, rest = ids[i];
        do digits[--k] = (char)('0' + rest % 10);
        while (rest /= 10);
        if (i) b->data[b->len++] = ',';
        memcpy(b->data + b->len, digits + k, DIGITS - k);
        b->len += DIGITS - k;
    }
}

static fl_status tokenize(const cmd_options *o, const fl_model *m, const char *text, size_t n, fl_err *err) {
    base_buf bytes = {0}, out = {0};
    uint32_t *ids = NULL;
    size_t n_ids = 0;
    fl_status st = FL_OK;
    if (o->hex) {
        if (!base_buf_append(&bytes, text, n)) st = fl_fail(err, FL_ENOMEM, "no memory for the text");
        if (st == FL_OK) st = cmd_input_unhex(&bytes, err);
        text = bytes.data ? bytes.data : "";
        n = bytes.len;
    }
    unsigned flags = (o->no_bos ? 0 : FL_TOKENIZE_ADD_SPECIAL) | (o->parse_special ? FL_TOKENIZE_PARSE_SPECIAL : 0);
    if (st == FL_OK) st = fl_tokenize(m, text, n, flags, &ids, &n_ids, err);
    if (st != FL_OK) ids = NULL;
    if (st == FL_OK) {
        if (o->json || o->lines)
            print_pieces(&out, m, ids, n_ids);
        else
            put_ids(&out, ids, n_ids);
        base_buf_putc(&out, '\n');
        st = cmd_out_flush(&out, err);
    }
    fl_free(ids);
    base_buf_clear(&bytes);
    base_buf_clear(&out);
    return st;
}

static fl_status detokenize(const cmd_options *o, const fl_model *m, const char *text, size_t n, fl_err *err) {
    base_buf out = {0};
    uint32_t *ids = NULL;
    char *line = base_strndup(text, n), *bytes = NULL;
    size_t n_ids = 0, n_bytes = 0;
    fl_status st = line ? cmd_input_ids(line, &ids, &n_ids, err) : fl_fail(err, FL_ENOMEM, "no memory for the ids");
    if (st == FL_OK)
        st = fl_detokenize(m, ids, n_ids, o->skip_special ? FL_DETOKENIZE_SKIP_SPECIAL : 0, &bytes, &n_bytes, err);
    if (st != FL_OK) bytes = NULL;
    if (st == FL_OK) {
        if (o->json) {
            cmd_json_open(&out, '{');
            cmd_json_key(&out, "text");
            cmd_json_text(&out, bytes, n_bytes);
            cmd_json_close(&out, '}');
        } else if (o->hex) {
            cmd_input_hex(&out, bytes, n_bytes);
        } else {
            base_buf_append(&out, bytes, n_bytes);
        }
        if (o->json || o->lines) base_buf_putc(&out, '\n');
        st = cmd_out_flush(&out, err);
    }
    base_free(line);
    base_free(ids);
    fl_free(bytes);
    base_buf_clear(&out);
    return st;
}

int cmd_tokenize(const cmd_options *o, fl_err *err) { return command(o, tokenize, err); }
int cmd_detokenize(const cmd_options *o, fl_err *err) { return command(o, detokenize, err); }
