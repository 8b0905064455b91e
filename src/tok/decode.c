/* The decoder of a pipeline. A token prints what the steps make of its text; byte tokens <0xNN> are held in the stream
 * until their run ends, because a run prints as text only if all of it is valid UTF-8, else as U+FFFD for each byte.
 * Source: huggingface/tokenizers, tokenizers/src/decoders.
 */
#include "tok/pipe.h"

#include "base/mem.h"
#include "tok/utf8.h"

#include <string.h>

#define REPLACEMENT "\xef\xbf\xbd"

static int hex(char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
}

int tok_byte_name(tok_text x) {
    if (x.n != 6 || memcmp(x.bytes, "<0x", 3) != 0 || x.bytes[5] != '>') return -1;
    int hi = hex(x.bytes[3]), lo = hex(x.bytes[4]);
    return hi < 0 || lo < 0 ? -1 : 16 * hi + lo;
}

int tok_pipe_byte(const tok_pipe *p, uint32_t id) {
    bool fallback = false;
    for (uint32_t i = 0; i < p->n_decs; i++) fallback = fallback || p->decs[i].kind == TOK_DEC_FALLBACK;
    return fallback ? tok_byte_name(tok_table_get(&p->shown, id)) : -1;
}

bool tok_dec_replace(base_buf *b, size_t begin, const char *from, size_t n_from, const char *to, size_t n_to) {
    if (!n_from || b->len == begin || !memmem(b->data + begin, b->len - begin, from, n_from)) return true;
    base_buf made = {0};
    bool ok = true;
    size_t i = begin;
    while (ok && i < b->len) {
        const char *hit = memmem(b->data + i, b->len - i, from, n_from);
        size_t run = hit ? (size_t)(hit - b->data) - i : b->len - i;
        ok = base_buf_append(&made, b->data + i, run) && (!hit || base_buf_append(&made, to, n_to));
        i += run + (hit ? n_from : 0);
    }
    b->len = begin;
    ok = ok && base_buf_append(b, made.data, made.len);
    base_buf_clear(&made);
    return ok;
}

static void strip(const tok_dec *d, base_buf *b, size_t begin) {
    size_t n = b->len - begin, cut = 0;
    uint32_t k = 0;
    char *s = b->data + begin;
    while (k++ < d->start && n - cut >= d->n_from && memcmp(s + cut, d->from, d->n_from) == 0) cut += d->n_from;
    size_t end = n;
    k = 0;
    while (k++ < d->stop && end >= d->n_from && memcmp(s + end - d->n_from, d->from, d->n_from) == 0) end -= d->n_from;
    if (end < cut) end = cut; /* all of it is content: cut from both sides */
    memmove(s, s + cut, end - cut);
    b->len = begin + end - cut;
}

bool tok_dec_cleanup(base_buf *b, size_t begin) {
    static const char *const rules[][2] = {{" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
                                           {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
                                           {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (!tok_dec_replace(b, begin, rules[i][0], strlen(rules[i][0]), rules[i][1], strlen(rules[i][1])))
            return false;
    return true;
}

bool tok_dec_step(const tok_dec *d, bool first, base_buf *b, size_t begin) {
    switch (d->kind) {
        case TOK_DEC_REPLACE:
            return d->stage != TOK_NONE || tok_dec_replace(b, begin, d->from, d->n_from, d->to, d->n_to);
        case TOK_DEC_STRIP: strip(d, b, begin); return true;
        case TOK_DEC_METASPACE: return tok_dec_replace(b, begin, d->from, d->n_from, " ", first && d->prepends ? 0 : 1);
        case TOK_DEC_WORDPIECE:
            if (!first && b->len - begin >= d->n_from && memcmp(b->data + begin, d->from, d->n_from) == 0) {
                memmove(b->data + begin, b->data + begin + d->n_from, b->len - begin - d->n_from);
                b->len -= d->n_from;
            } else if (!first) {
                if (!base_buf_putc(b, ' ')) return false;
                memmove(b->data + begin + 1, b->data + begin, b->len - begin - 1);
                b->data[begin] = ' ';
            }
            return !d->cleanup || tok_dec_cleanup(b, begin);
        case TOK_DEC_BLANKS:
            if (first) return true;
            if (!base_buf_putc(b, ' ')) return false;
            memmove(b->data + begin + 1, b->data + begin, b->len - begin - 1);
            b->data[begin] = ' ';
            return true;
        case TOK_DEC_SUFFIX: return tok_dec_replace(b, begin, d->from, d->n_from, " ", 1);
        case TOK_DEC_CTC:
            return tok_dec_replace(b, begin, d->from, d->n_from, "", 0) &&
                   (!d->cleanup || (tok_dec_cleanup(b, begin) && tok_dec_replace(b, begin, d->to, d->n_to, " ", 1)));
        case TOK_DEC_FALLBACK:
        case TOK_DEC_FUSE:
        case TOK_DEC_LEVEL: return true;
    }
    return true;
}

bool tok_pipe_piece(const tok_pipe *p, uint32_t id, bool first, base_buf *out) {
    int byte = tok_pipe_byte(p, id);
    if (byte >= 0) return base_buf_putc(out, (char)byte);
    tok_text x = tok_table_get(&p->shown, id);
    size_t begin = out->len;
    if (!base_buf_append(out, x.bytes, x.n)) return false;
    for (uint32_t i = 0; i < p->n_decs; i++)
        if (!tok_dec_step(&p->decs[i], first, out, begin)) return false;
    return true;
}

/* Takes what the whole text's Strip drops off the text from begin on. */
static void strip_whole(tok_stream *s, base_buf *out, size_t begin) {
    const tok_pipe *p = s->t->pipe;
    size_t n = strlen(p->strip), cut = 0;
    if (s->stripped == p->strip_max || out->len == begin) return;
    while (s->stripped < p->strip_max && out->len - begin - cut >= n &&
           memcmp(out->data + begin + cut, p->strip, n) == 0) {
        cut += n;
        s->stripped++;
    }
    if (out->len > begin + cut) s->stripped = p->strip_max;
    memmove(out->data + begin, out->data + begin + cut, out->len - begin - cut);
    out->len -= cut;
}

/* Prints the run of byte tokens, as one token if it is text. */
static bool put_run(tok_stream *s, base_buf *out) {
    const tok_pipe *p = s->t->pipe;
    base_buf *run = &s->run;
    if (!run->len) return true;
    bool text = tok_utf8_check(run->data, run->len) == run->len, ok = true;
    size_t n = text ? 1 : run->len;
    for (size_t k = 0; ok && k < n; k++) {
        size_t begin = out->len;
        bool behind = false;
        ok = text ? base_buf_append(out, run->data, run->len) : base_buf_puts(out, REPLACEMENT);
        for (uint32_t i = 0; ok && i < p->n_decs; i++) {
            if (behind) ok = tok_dec_step(&p->decs[i], !s->started, out, begin);
            behind = behind || p->decs[i].kind == TOK_DEC_FALLBACK;
        }
        s->started = true;
        if (ok) strip_whole(s, out, begin);
    }
    run->len = 0;
    return ok;
}

bool tok_pipe_push(tok_stream *s, uint32_t id, base_buf *out) {
    const tok_pipe *p = s->t->pipe;
    if (p->dec_whole) return base_buf_append(&s->run, &id, sizeof id);
    int byte = tok_pipe_byte(p, id);
    if (byte >= 0) return base_buf_putc(&s->run, (char)byte);
    if (!put_run(s, out)) return false;
    size_t begin = out->len;
    if (!tok_pipe_piece(p, id, !s->started, out)) return false;
    s->started = true;
    strip_whole(s, out, begin);
    return true;
}

bool tok_pipe_finish(tok_stream *s, base_buf *out) { return put_run(s, out); }
