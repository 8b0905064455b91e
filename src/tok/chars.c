/* Models over characters: BPE whose symbols are characters, WordLevel and WordPiece. Their pieces are spelled in the file as they
 * are looked up here. Source: huggingface/tokenizers, models/bpe/model.rs and models/wordpiece/mod.rs.
 */
#include "tok/pipe.h"

#include "base/mem.h"
#include "tok/utf8.h"

#include <stdio.h>
#include <string.h>

int tok_pipe_bytes(const tok_pipe *p, const char *s, size_t n, tok_ids *out) {
    size_t before = out->n;
    for (size_t i = 0; i < n; i++) {
        char name[8];
        (void)snprintf(name, sizeof name, "<0x%02X>", (uint8_t)s[i]);
        uint32_t id = tok_map_find(&p->map, &p->names, name, 6);
        if (id == TOK_NONE) {
            out->n = before;
            return 0;
        }
        if (!tok_ids_push(out, id)) return -1;
    }
    return 1;
}

static bool find_pair(tok_merge *m, const tok_symbol *a, const tok_symbol *b, uint32_t *priority, uint32_t *id) {
    return tok_bpe_find(&m->t->bpe, a->id, b->id, priority, id);
}

/* The piece of a character: with the prefix behind the first, with the suffix on the last. */
static bool find_char(tok_pipe_run *r, const char *s, size_t n, bool first, bool last, uint32_t *id) {
    const tok_pipe *p = r->t->pipe;
    base_buf *b = &r->word;
    if ((first || !p->prefix) && (!last || !p->suffix)) {
        *id = tok_map_find(&p->map, &p->names, s, n);
        return true;
    }
    b->len = 0;
    if (!first && p->prefix) base_buf_puts(b, p->prefix);
    base_buf_append(b, s, n);
    if (last && p->suffix) base_buf_puts(b, p->suffix);
    *id = b->failed ? TOK_NONE : tok_map_find(&p->map, &p->names, b->data, b->len);
    return !b->failed;
}

/* Puts the symbols of a word. A pending unknown token waits behind byte tokens, as in the reference. */
static bool put_symbols(tok_pipe_run *r, const char *word, size_t n, tok_ids *bytes) {
    const tok_pipe *p = r->t->pipe;
    bool pending = false;
    uint32_t at = 0; /* lengths only tell symbols apart: each takes one */
    for (size_t i = 0, len; i < n; i += len) {
        len = (size_t)tok_utf8_char((const uint8_t *)word + i, n - i);
        uint32_t id;
        if (!find_char(r, word + i, len, i == 0, i + len == n, &id)) return false;
        if (id != TOK_NONE) {
            if (pending) tok_merge_push(r->merge, p->unk, at++, 1, false);
            pending = false;
            tok_merge_push(r->merge, id, at++, 1, false);
            continue;
        }
        bytes->n = 0;
        int done = p->byte_fallback ? tok_pipe_bytes(p, word + i, len, bytes) : 0;
        if (done < 0) return false;
        for (size_t k = 0; k < bytes->n; k++) tok_merge_push(r->merge, bytes->ids[k], at++, 1, false);
        if (done || p->unk == TOK_NONE) continue;
        if (pending && !p->fuse_unk) tok_merge_push(r->merge, p->unk, at++, 1, false);
        pending = true;
    }
    if (pending) tok_merge_push(r->merge, p->unk, at, 1, false);
    return true;
}

fl_status tok_chars_encode(tok_pipe_run *r, const char *word, size_t n, tok_ids *out, fl_err *err) {
    const tok *t = r->t;
    const tok_pipe *p = t->pipe;
    tok_merge *m = r->merge;
    tok_ids bytes = {0};
    if (t->whole_first) {
        uint32_t id = tok_map_find(&p->map, &p->names, word, n);
        if (id != TOK_NONE) return tok_ids_push(out, id) ? FL_OK : fl_fail(err, FL_ENOMEM, "ids");
    }
    bool ok = tok_merge_reserve(m, n + 1) && put_symbols(r, word, n, &bytes) && tok_merge_run(m, find_pair);
    for (uint32_t i = 0; ok && i < m->n_symbols; i++)
        if (m->symbols[i].len) ok = tok_ids_push(out, m->symbols[i].id);
    tok_ids_clear(&bytes);
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "ids of %zu bytes", n);
}

fl_status tok_wordlevel_encode(tok_pipe_run *r, const char *word, size_t n, tok_ids *out, fl_err *err) {
    const tok_pipe *p = r->t->pipe;
    uint32_t id = tok_map_find(&p->map, &p->names, word, n);
    if (id == TOK_NONE) id = p->unk;
    if (id == TOK_NONE)
        return fl_fail(err, FL_EINVAL, "the word \"%.*s\" is not in the vocabulary, which has no unknown token",
                       n < 60 ? (int)n : 60, word);
    return tok_ids_push(out, id) ? FL_OK : fl_fail(err, FL_ENOMEM, "ids of %zu bytes", n);
}

fl_status tok_wordpiece_encode(tok_pipe_run *r, const char *word, size_t n, tok_ids *out, fl_err *err) {
    const tok_pipe *p = r->t->pipe;
    size_t before = out->n, n_prefix = p->prefix ? strlen(p->prefix) : 0;
    bool ok = true;
    size_t at = 0;
    if (tok_utf8_count(word, n) > p->word_chars_max) goto unknown;
    while (ok && at < n) {
        size_t len = 0, skip = at ? n_prefix : 0;
        r->word.len = 0;
        ok = (!skip || base_buf_append(&r->word, p->prefix, skip)) && base_buf_append(&r->word, word + at, n - at);
        if (!ok) break;
        uint32_t id = tok_match_at(&p->trie, r->word.data, r->word.len, &len);
        if (id == TOK_NONE || len <= skip) goto unknown;
        ok = tok_ids_push(out, id);
        at += len - skip;
    }
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "ids of %zu bytes", n);

unknown:
    out->n = before;
    return tok_ids_push(out, p->unk) ? FL_OK : fl_fail(err, FL_ENOMEM, "ids of %zu bytes", n);
}
