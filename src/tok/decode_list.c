/* Decoders that look at more than one token: behind Fuse, patterns, BPEDecoder, CTC, ByteLevel among others. They run the
 * way the reference does it, each step over the list of all tokens. The stream has kept the ids.
 * Source: huggingface/tokenizers, tokenizers/src/decoders.
 */
#include "tok/pipe.h"

#include "tok/utf8.h"

#include <string.h>

/* Tokens: text.data[at[i].begin .. at[i].end). */
typedef struct {
    base_buf text;
    tok_pieces at;
} list;

static void clear(list *l) {
    base_buf_clear(&l->text);
    tok_pieces_clear(&l->at);
}

static bool end_token(list *l, size_t begin) {
    return l->text.len < UINT32_MAX && tok_pieces_push(&l->at, begin, l->text.len);
}

static tok_text token(const list *l, size_t i) {
    return (tok_text){l->text.data + l->at.at[i].begin, l->at.at[i].end - l->at.at[i].begin};
}

/* The text of all tokens becomes one; level: the bytes it stands for. */
static bool fuse(const tok *t, const list *from, bool level, list *to) {
    base_buf bytes = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < from->at.n; i++) {
        tok_text x = token(from, i);
        base_buf *b = level ? &bytes : &to->text;
        ok = base_buf_reserve(b, x.n + 1);
        if (ok && level) b->len += tok_bpe_bytes(t, x, b->data + b->len);
        if (ok && !level) ok = base_buf_append(b, x.bytes, x.n);
    }
    ok = ok && (!level || tok_put_lossy(t, (tok_text){bytes.data, bytes.len}, &to->text)) && end_token(to, 0);
    base_buf_clear(&bytes);
    return ok;
}

/* Ends the run of byte tokens. */
static bool end_run(base_buf *run, list *to) {
    size_t n = run->len, begin = to->text.len;
    bool text = tok_utf8_check(run->data, n) == n, ok = true;
    run->len = 0;
    if (!n) return true;
    if (text) return base_buf_append(&to->text, run->data, n) && end_token(to, begin);
    for (size_t i = 0; ok && i < n; i++) {
        begin = to->text.len;
        ok = base_buf_puts(&to->text, "\xef\xbf\xbd") && end_token(to, begin);
    }
    return ok;
}

static bool fall_back(const list *from, list *to) {
    base_buf run = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < from->at.n; i++) {
        tok_text x = token(from, i);
        int byte = tok_byte_name(x);
        size_t begin = to->text.len;
        if (byte >= 0)
            ok = base_buf_putc(&run, (char)byte);
        else
            ok = end_run(&run, to) && (begin = to->text.len, base_buf_append(&to->text, x.bytes, x.n)) &&
                 end_token(to, begin);
    }
    ok = ok && end_run(&run, to);
    base_buf_clear(&run);
    return ok;
}

static fl_status each(tok_words *w, const tok_dec *d, const list *from, list *to, fl_err *err) {
    bool ok = true;
    for (size_t i = 0; ok && i < from->at.n; i++) {
        tok_text x = token(from, i), last = i ? token(from, i - 1) : (tok_text){"", 0};
        size_t begin = to->text.len;
        bool again = i && x.n == last.n && (!x.n || memcmp(x.bytes, last.bytes, x.n) == 0);
        if (d->kind == TOK_DEC_CTC && again) continue;
        if (d->stage != TOK_NONE) {
            fl_status st = tok_replace_matches(w, d->stage, x.bytes, x.n, (tok_text){d->to, d->n_to}, &to->text, err);
            if (st != FL_OK) return st;
        } else {
            ok = base_buf_append(&to->text, x.bytes, x.n);
            if (ok && d->kind == TOK_DEC_SUFFIX && i + 1 == from->at.n)
                ok = tok_dec_replace(&to->text, begin, d->from, d->n_from, "", 0);
            else if (ok)
                ok = tok_dec_step(d, i == 0, &to->text, begin);
        }
        if (d->kind == TOK_DEC_CTC && to->text.len == begin) continue;
        ok = ok && end_token(to, begin);
    }
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "text of the tokens");
}

static fl_status run_step(const tok *t, tok_words *w, const tok_dec *d, const list *from, list *to, fl_err *err) {
    bool ok;
    switch (d->kind) {
        case TOK_DEC_FUSE: ok = fuse(t, from, false, to); break;
        case TOK_DEC_LEVEL: ok = fuse(t, from, true, to); break;
        case TOK_DEC_FALLBACK: ok = fall_back(from, to); break;
        default: return each(w, d, from, to, err);
    }
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "text of the tokens");
}

fl_status tok_pipe_list(tok_stream *s, base_buf *out, fl_err *err) {
    const tok *t = s->t;
    const tok_pipe *p = t->pipe;
    list lists[2] = {0};
    tok_words *w;
    size_t n = s->run.len / sizeof(uint32_t);
    fl_status st = tok_words_open(&w, t->split, err);
    for (size_t i = 0; st == FL_OK && i < n; i++) {
        uint32_t id;
        memcpy(&id, s->run.data + i * sizeof id, sizeof id);
        tok_text x = tok_table_get(&p->shown, id);
        size_t begin = lists[0].text.len;
        if (!base_buf_append(&lists[0].text, x.bytes, x.n) || !end_token(&lists[0], begin))
            st = fl_fail(err, FL_ENOMEM, "text of the tokens");
    }
    list *from = &lists[0], *to = &lists[1];
    for (uint32_t i = 0; st == FL_OK && n && i < p->n_decs; i++) {
        to->text.len = to->at.n = 0;
        if (!base_buf_reserve(&to->text, 1)) st = fl_fail(err, FL_ENOMEM, "text of the tokens");
        if (st == FL_OK) st = run_step(t, w, &p->decs[i], from, to, err);
        list *swap = from;
        from = to;
        to = swap;
    }
    if (st == FL_OK && !base_buf_append(out, from->text.data, from->text.len))
        st = fl_fail(err, FL_ENOMEM, "text of the tokens");
    tok_words_close(w);
    clear(&lists[0]);
    clear(&lists[1]);
    return st;
}
