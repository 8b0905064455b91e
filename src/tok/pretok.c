/* Pre-tokenizers and model over one piece of normalised text. Stages of patterns cut in place; the two components that
 * change text (Metaspace, and ByteLevel's leading blank) write it anew, so that most files copy nothing.
 * Source: huggingface/tokenizers, pre_tokenizers/metaspace.rs and byte_level.rs.
 */
#include "tok/pipe.h"

#include "base/mem.h"
#include "tok/utf8.h"

#include <string.h>

void tok_pipe_run_clear(tok_pipe_run *r) {
    tok_words_close(r->words);
    base_buf_clear(&r->text[0]);
    base_buf_clear(&r->text[1]);
    base_buf_clear(&r->made[0]);
    base_buf_clear(&r->made[1]);
    base_buf_clear(&r->word);
    tok_pieces_clear(&r->pieces);
    base_free(r->path);
}

/* Appends one piece with sign for every blank, and in front of it where wanted and not there. */
static bool put_piece(const char *s, size_t n, const char *sign, bool prepend, base_buf *out) {
    size_t n_sign = strlen(sign);
    bool there = n && (s[0] == ' ' || (n >= n_sign && memcmp(s, sign, n_sign) == 0));
    if (prepend && !there && !base_buf_append(out, sign, n_sign)) return false;
    if (n_sign == 1 && sign[0] == ' ') return base_buf_append(out, s, n);
    for (size_t i = 0; i < n;) {
        const char *blank = memchr(s + i, ' ', n - i);
        size_t run = blank ? (size_t)(blank - s) - i : n - i;
        if (!base_buf_append(out, s + i, run)) return false;
        i += run;
        if (blank && !base_buf_append(out, sign, n_sign)) return false;
        i += blank != NULL;
    }
    return true;
}

bool tok_put_level(const tok *t, const char *s, size_t n, base_buf *out) {
    uint16_t chars[256];
    for (uint32_t cp = 0; cp < sizeof t->level / sizeof *t->level; cp++)
        if (t->level[cp] < 256) chars[t->level[cp]] = (uint16_t)cp;
    if (!base_buf_reserve(out, 2 * n)) return false;
    for (size_t i = 0; i < n; i++)
        out->len += (size_t)tok_utf8_put((uint8_t *)out->data + out->len, chars[(uint8_t)s[i]]);
    return true;
}

/* Writes all pieces anew into the buffer that does not hold text. */
static bool rewrite(tok_pipe_run *r, const tok_pre *s, bool at_start, const char **text, const tok_pieces *pieces) {
    base_buf *to = &r->made[*text == r->made[0].data];
    tok_pieces made = {0};
    bool ok = base_buf_reserve(to, 1);
    to->len = 0;
    for (size_t i = 0; ok && i < pieces->n; i++) {
        const tok_piece_range *p = &pieces->at[i];
        size_t begin = to->len;
        bool prepend =
            s->prepend == TOK_PREPEND_ALWAYS || (s->prepend == TOK_PREPEND_FIRST && at_start && p->begin == 0);
        ok = (s->kind == TOK_PRE_LEVEL ? tok_put_level(r->t, *text + p->begin, p->end - p->begin, to)
                                       : put_piece(*text + p->begin, p->end - p->begin, s->sign, prepend, to)) &&
             to->len < UINT32_MAX && tok_pieces_push(&made, begin, to->len);
    }
    tok_pieces_clear(&r->pieces);
    r->pieces = made;
    *text = to->data;
    return ok;
}

static fl_status encode_word(tok_pipe_run *r, const char *word, size_t n, tok_ids *out, fl_err *err) {
    switch (r->t->pipe->model) {
        case TOK_MODEL_CHARS: return tok_chars_encode(r, word, n, out, err);
        case TOK_MODEL_UNIGRAM: return tok_unigram_encode(r, word, n, out, err);
        case TOK_MODEL_WORDLEVEL: return tok_wordlevel_encode(r, word, n, out, err);
        case TOK_MODEL_WORDPIECE: return tok_wordpiece_encode(r, word, n, out, err);
        case TOK_MODEL_BYTES: break;
    }
    return tok_bpe_word(r->merge, word, n, out) ? FL_OK : fl_fail(err, FL_ENOMEM, "ids of %zu bytes", n);
}

fl_status tok_pipe_encode(tok_pipe_run *r, const char *text, size_t n, bool at_start, tok_ids *out, fl_err *err) {
    const tok_pipe *p = r->t->pipe;
    const tok_pieces *pieces = &r->pieces;
    fl_status st = FL_OK;
    r->pieces.n = 0;
    if (!tok_pieces_push(&r->pieces, 0, n)) return fl_fail(err, FL_ENOMEM, "words");
    for (uint32_t i = 0; i < p->n_pres && st == FL_OK; i++) {
        const tok_pre *s = &p->pres[i];
        if (s->kind == TOK_PRE_SPLIT) {
            st = tok_words_cut(r->words, s->first, s->end, text, pieces, &pieces, err);
        } else {
            if (!rewrite(r, s, at_start, &text, pieces)) return fl_fail(err, FL_ENOMEM, "words");
            pieces = &r->pieces;
        }
    }
    for (size_t i = 0; st == FL_OK && i < pieces->n; i++)
        st = encode_word(r, text + pieces->at[i].begin, pieces->at[i].end - pieces->at[i].begin, out, err);
    return st;
}
