/* Models over characters: BPE whose symbols are characters, WordLevel and WordPiece. Their pieces are spelled in the file as they
 * are looked up here. Source: huggingface/tokenizers, models/bpe/model.rs and models/wordpiece/mod.rs.
 */
#include "tok/pipe.h"

#include "base/mem.h"
#include "tok/utf8.h"

#include <stdio.h>
#include <string.h>

#define SIGN "\xe2\x96\x81" /* U+2581 */

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

static bool put_id(const tok_merge *m, const tok_symbol *s, tok_ids *out) {
    (void)m;
    return tok_ids_push(out, s->id);
}

static bool have_bytes(const tok *t, const char *s, size_t n) {
    bool all = true;
    for (size_t i = 0; i < n; i++) all = all && t->byte_id[(uint8_t)s[i]] != TOK_NONE;
    return all;
}

/* Whether the character that begins s has no token and no bytes; *len gets its length. */
static bool is_unknown(const tok *t, const char *s, size_t n, size_t *len) {
    const tok_pipe *p = t->pipe;
    *len = (size_t)tok_utf8_char((const uint8_t *)s, n);
    return tok_map_find(&p->map, &p->names, s, *len) == TOK_NONE && !(p->byte_fallback && have_bytes(t, s, *len));
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

/* Pushes the symbols of a word. A pending unknown token waits behind byte tokens, as in the reference. */
static size_t push_word(tok_merge *m, const char *word, size_t at, size_t n) {
    tok_pipe_run *r = m->run;
    const tok_pipe *p = r->t->pipe;
    bool pending = false;
    uint32_t place = 0; /* lengths only tell symbols apart: each takes one */
    for (size_t len; at < n; at += len) {
        len = (size_t)tok_utf8_char((const uint8_t *)word + at, n - at);
        uint32_t id;
        if (!find_char(r, word + at, len, at == 0, at + len == n, &id)) break;
        if (id != TOK_NONE) {
            if (pending) tok_merge_push(m, p->unk, place++, 1, false);
            pending = false;
            tok_merge_push(m, id, place++, 1, false);
            continue;
        }
        bool bytes = p->byte_fallback && have_bytes(r->t, word + at, len);
        for (size_t k = 0; bytes && k < len; k++)
            tok_merge_push(m, r->t->byte_id[(uint8_t)word[at + k]], place++, 1, false);
        if (bytes || p->unk == TOK_NONE) continue;
        if (pending && !p->fuse_unk) tok_merge_push(m, p->unk, place++, 1, false);
        pending = true;
    }
    if (pending) tok_merge_push(m, p->unk, place, 1, false);
    return n;
}

/* The same where symbols follow from the text at their place alone (p->plain). */
static size_t push_chars(tok_merge *m, const char *text, size_t at, size_t n) {
    const tok *t = m->t;
    const tok_pipe *p = t->pipe;
    while (at < n && !tok_merge_full(m)) {
        size_t len = (size_t)tok_utf8_char((const uint8_t *)text + at, n - at), end = at + len;
        uint32_t id = tok_map_find(&p->map, &p->names, text + at, len);
        if (id == TOK_NONE && p->byte_fallback && have_bytes(t, text + at, len)) {
            for (; at < end; at++) tok_merge_push(m, t->byte_id[(uint8_t)text[at]], (uint32_t)at, 1, false);
            continue;
        }
        if (id == TOK_NONE) {
            id = p->unk;
            while (p->fuse_unk && end < n && is_unknown(t, text + end, n - end, &len)) end += len;
        }
        if (id != TOK_NONE) tok_merge_push(m, id, (uint32_t)at, (uint32_t)(end - at), false);
        at = end;
    }
    return at;
}

static const tok_merge_kind whole_words = {push_word, find_pair, put_id, true};
static const tok_merge_kind plain = {push_chars, find_pair, put_id, false};

void tok_chars_prepare(tok *t) {
    tok_pipe *p = t->pipe;
    bool all = true;
    for (int b = 0; b < 256; b++) {
        char name[8];
        (void)snprintf(name, sizeof name, "<0x%02X>", b);
        t->byte_id[b] = tok_map_find(&p->map, &p->names, name, 6);
        all = all && t->byte_id[b] != TOK_NONE;
    }
    p->plain = !p->prefix && !p->suffix && (all || !p->byte_fallback || p->unk == TOK_NONE);
    p->cuts = p->plain && !t->whole_first && tok_map_find(&p->map, &p->names, SIGN, 3) != TOK_NONE;
    for (uint32_t i = 0; i < t->n_vocab; i++) {
        tok_text x = tok_table_get(&p->names, i);
        if (!p->known[i]) continue;
        for (size_t k = 1; k + 3 <= x.n; k++)
            if (memcmp(x.bytes + k, SIGN, 3) == 0) p->before_sign[(uint8_t)x.bytes[k - 1]] = true;
    }
}

static size_t part_end(const tok_pipe *p, const char *word, size_t begin, size_t n) {
    const char *sign;
    if (!p->cuts) return n;
    for (size_t i = begin + 1; i < n; i = (size_t)(sign - word) + 1) {
        sign = memchr(word + i, SIGN[0], n - i);
        if (!sign) break;
        if (n - (size_t)(sign - word) >= 3 && memcmp(sign, SIGN, 3) == 0 && !p->before_sign[(uint8_t)sign[-1]])
            return (size_t)(sign - word);
    }
    return n;
}

static bool encode_part(tok_pipe_run *r, const char *part, size_t n, tok_ids *out) {
    tok_merge *m = r->merge;
    bool found;
    tok_cache_entry *e = tok_cache_find(&m->cache, part, n, &found);
    if (found) return tok_cache_take(e, out);
    size_t before = out->n;
    m->run = r;
    if (!tok_merge_text(m, r->t->pipe->plain ? &plain : &whole_words, part, n, out) || r->word.failed) return false;
    if (e) tok_cache_put(e, part, n, out->ids + before, out->n - before);
    return true;
}

fl_status tok_chars_encode(tok_pipe_run *r, const char *word, size_t n, tok_ids *out, fl_err *err) {
    const tok_pipe *p = r->t->pipe;
    if (r->t->whole_first) {
        uint32_t id = tok_map_find(&p->map, &p->names, word, n);
        if (id != TOK_NONE) return tok_ids_push(out, id) ? FL_OK : fl_fail(err, FL_ENOMEM, "ids");
    }
    for (size_t begin = 0, end; begin < n; begin = end) {
        end = part_end(p, word, begin, n);
        if (!encode_part(r, word + begin, end - begin, out)) return fl_fail(err, FL_ENOMEM, "ids of %zu bytes", n);
    }
    return FL_OK;
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
