/* Decoding, one token at a time. A stream keeps at most three bytes: the beginning of a character
 * whose end may come with the next token. The kinds differ in what becomes of bytes that turn
 * out to be no character:
 *   byte-level     all tokens are one stream of bytes; U+FFFD per maximal prefix of a character
 *   SentencePiece  only byte tokens make such bytes, any other token ends their run; U+FFFD
 *                  per byte. (A byte that follows a broken prefix could continue no character
 *                  either, so that both are one loop with two ways of giving up.)
 */
#include "tok/tok_int.h"

#include "tok/pipe.h"
#include "tok/utf8.h"

#define REPLACEMENT "\xef\xbf\xbd"

void tok_stream_init(tok_stream *s, const tok *t, unsigned flags) { *s = (tok_stream){.t = t, .flags = flags}; }

void tok_stream_clear(tok_stream *s) { base_buf_clear(&s->run); }

/* Gives up the pending bytes. */
static bool replace_pending(tok_stream *s, base_buf *out) {
    unsigned n = s->n_pending ? s->t->spm ? s->n_pending : 1 : 0;
    s->n_pending = 0;
    for (unsigned i = 0; i < n; i++)
        if (!base_buf_puts(out, REPLACEMENT)) return false;
    return true;
}

static bool put_byte(tok_stream *s, uint8_t byte, base_buf *out) {
    for (;;) {
        s->pending[s->n_pending++] = byte;
        int len = tok_utf8_char(s->pending, s->n_pending);
        if (len == TOK_UTF8_PARTIAL) return true;
        if (len > 0) {
            bool ok = base_buf_append(out, s->pending, (size_t)len);
            s->n_pending = 0;
            return ok;
        }
        if (s->n_pending == 1) return replace_pending(s, out);
        s->n_pending--; /* the byte does not continue what is pending: it is looked at again by itself */
        if (!replace_pending(s, out)) return false;
    }
}

static bool put_bytes(tok_stream *s, tok_text x, base_buf *out) {
    size_t i = 0;
    while (i < x.n) {
        size_t run = i;
        if (!s->n_pending)
            while (run < x.n && !(x.bytes[run] & 0x80)) run++;
        if (run > i && !base_buf_append(out, x.bytes + i, run - i)) return false;
        i = run;
        if (i < x.n && !put_byte(s, (uint8_t)x.bytes[i++], out)) return false;
    }
    return true;
}

static bool put_spm(tok_stream *s, uint32_t id, base_buf *out) {
    const tok *t = s->t;
    tok_text x = tok_piece(t, id);
    if (t->types[id] == TOK_BYTE) return put_bytes(s, x, out);
    if (s->n_pending) s->started = true;
    if (!replace_pending(s, out)) return false;
    if (t->types[id] == TOK_CONTROL) return true;
    if (t->types[id] == TOK_UNKNOWN) return base_buf_puts(out, t->unk_text);
    bool blank = x.n && x.bytes[0] == ' ' && (!t->literal_blanks || tok_table_get(&t->spelled, id).bytes[0] != ' ');
    if ((t->add_space_prefix || t->squeeze_blanks) && !s->started && blank) {
        s->started = !t->squeeze_blanks;
        x.bytes++;
        x.n--;
    }
    return put_bytes(s, x, out) && replace_pending(s, out);
}

bool tok_put_lossy(const tok *t, tok_text x, base_buf *out) {
    tok_stream s;
    tok_stream_init(&s, t, 0);
    return put_bytes(&s, x, out) && replace_pending(&s, out);
}

fl_status tok_stream_push(tok_stream *s, uint32_t id, base_buf *out, fl_err *err) {
    const tok *t = s->t;
    if (id >= t->n_vocab) return fl_fail(err, FL_EINVAL, "token %u is beyond the vocabulary of %u", id, t->n_vocab);
    if ((s->flags & TOK_SKIP_SPECIAL) && t->types[id] == TOK_CONTROL && !t->spm) return FL_OK;
    if ((s->flags & TOK_SKIP_SPECIAL) && (s->flags & TOK_RAW) && tok_is_special(t, id)) return FL_OK;
    if (t->pipe && !t->pipe->dec_bytes)
        return tok_pipe_push(s, id, out) ? FL_OK : fl_fail(err, FL_ENOMEM, "text of a token");
    tok_text x = tok_piece(t, id);
    size_t before = out->len;
    bool ok = s->flags & TOK_RAW ? base_buf_append(out, x.bytes, x.n)
              : t->spm           ? put_spm(s, id, out)
                                 : put_bytes(s, x, out);
    if (out->len > before) s->started = true;
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "text of a token");
}

fl_status tok_stream_finish(tok_stream *s, base_buf *out, fl_err *err) {
    const tok_pipe *p = s->t->pipe;
    fl_status st = FL_OK;
    if (p && p->dec_whole)
        st = tok_pipe_list(s, out, err);
    else if (!replace_pending(s, out) || (p && !tok_pipe_finish(s, out)))
        st = fl_fail(err, FL_ENOMEM, "text of a token");
    tok_stream_clear(s);
    tok_stream_init(s, s->t, s->flags);
    return st;
}

fl_status tok_decode(const tok *t, const uint32_t *ids, size_t n, unsigned flags, base_buf *out, fl_err *err) {
    tok_stream s;
    fl_status st = FL_OK;
    tok_stream_init(&s, t, flags);
    for (size_t i = 0; i < n && st == FL_OK; i++) st = tok_stream_push(&s, ids[i], out, err);
    if (st == FL_OK) return tok_stream_finish(&s, out, err);
    tok_stream_clear(&s);
    return st;
}
