/* SentencePiece: vocabularies of both models, and BPE. The vocabulary writes blanks as U+2581 and the library turns blanks of the
 * text into that sign; here both become blanks instead, which is the same and shorter.
 *
 * A text begins as characters; user-defined tokens are whole symbols that do not merge. Two
 * neighbours merge when their joint text is a piece, the highest score first, leftmost among
 * equals. A character that is no piece becomes the tokens of its bytes, or else the unknown
 * token (one for a run of them). Unused pieces serve as steps to longer ones and are taken apart
 * again at the end, the way the last pair seen for them was joined.
 *
 * The Unigram model shares vocabulary and text rules (spm_unigram.c, spm_text.c).
 *
 * No merge reaches over a blank that follows a byte which no piece has before a blank, so that
 * the text is cut there and each part merged by itself: the same result with small heaps.
 * Source: google/sentencepiece, src/bpe_model.cc.
 */
#include "tok/tok_int.h"

#include "base/mem.h"
#include "tok/pipe.h"
#include "tok/utf8.h"

#include <math.h>
#include <string.h>

size_t tok_spm_blanks(const char *text, size_t n, char *out) {
    size_t k = 0, i = 0;
    while (i < n) {
        const char *sign = memchr(text + i, 0xe2, n - i); /* the first byte of U+2581 */
        size_t run = sign ? (size_t)(sign - text) - i : n - i;
        memcpy(out + k, text + i, run);
        k += run;
        i += run;
        if (!sign) break;
        bool blank = i + 3 <= n && memcmp(text + i, "\xe2\x96\x81", 3) == 0;
        out[k++] = blank ? ' ' : text[i];
        i += blank ? 3 : 1;
    }
    return k;
}

/* The byte of a token text "<0x41>", or -1. */
static int byte_of(tok_text x) {
    static const char digits[] = "0123456789ABCDEF";
    if (x.n != 6 || memcmp(x.bytes, "<0x", 3) != 0 || x.bytes[5] != '>') return -1;
    const char *hi = memchr(digits, x.bytes[3], 16), *lo = memchr(digits, x.bytes[4], 16);
    return hi && lo ? (int)(hi - digits) * 16 + (int)(lo - digits) : -1;
}

/* Adds token i to the table: its bytes as they are printed. */
static fl_status add_token(tok *t, uint32_t i, tok_text x, fl_err *err) {
    char *at = tok_table_next(&t->table);
    size_t n = x.n;
    if (t->types[i] == TOK_BYTE) {
        int b = byte_of(x);
        if (b < 0) return fl_fail(err, FL_EFORMAT, "token %u is of the byte type but is not written <0xNN>", i);
        t->byte_id[b] = i;
        at[0] = (char)b;
        n = 1;
    } else if (t->types[i] == TOK_CONTROL || t->types[i] == TOK_UNKNOWN) {
        if (x.n) memcpy(at, x.bytes, x.n);
    } else {
        n = tok_spm_blanks(x.bytes, x.n, at);
    }
    tok_table_end(&t->table, n);
    if (t->types[i] == TOK_NORMAL || t->types[i] == TOK_USER_DEFINED || t->types[i] == TOK_UNUSED) {
        if (n > t->piece_bytes_max) t->piece_bytes_max = (uint32_t)n;
        if (t->types[i] == TOK_UNUSED) t->has_unused = true;
        for (const char *b = at; n > 1 && (b = memchr(b + 1, ' ', (size_t)(at + n - b) - 1)) != NULL;)
            t->before_blank[(uint8_t)b[-1]] = true;
    }
    return FL_OK;
}

/* The rules of text. */
static fl_status read_rules(tok *t, const tok_source *src, fl_err *err) {
    static const tok_text unknown = {" \xe2\x81\x87 ", 5};
    const tok_text *unk = src->unk_text.bytes ? &src->unk_text : &unknown;
    t->blank_behind = src->blank_behind;
    t->squeeze_blanks = src->squeeze_blanks;
    t->literal_blanks = src->literal_blanks;
    t->unk_text = base_strndup(unk->bytes, unk->n);
    if (!t->unk_text) return fl_fail(err, FL_ENOMEM, "vocabulary");
    return src->charsmap.n ? tok_charsmap_open(&t->charsmap, src->charsmap.bytes, src->charsmap.n, err) : FL_OK;
}

/* The texts as the file has them, and what the pieces are looked for in. */
static bool open_pieces(tok *t, const tok_source *src) {
    t->pieces = t->literal_blanks ? &t->spelled : &t->table;
    if (!t->literal_blanks && !t->squeeze_blanks && !t->charsmap) return true;
    if (!tok_table_init(&t->spelled, src->n_vocab, t->table.cap)) return false;
    for (uint32_t i = 0; i < src->n_vocab; i++) {
        if (src->texts[i].n) memcpy(tok_table_next(&t->spelled), src->texts[i].bytes, src->texts[i].n);
        tok_table_end(&t->spelled, src->texts[i].n);
    }
    return tok_match_init(&t->user_spelled, &t->spelled, t->types, 1u << TOK_USER_DEFINED);
}

fl_status tok_spm_open(tok *t, const tok_source *src, fl_err *err) {
    if (src->n_scores != src->n_vocab)
        return fl_fail(err, FL_EFORMAT, "%u tokens but %u scores", src->n_vocab, src->n_scores);
    if (t->unk != TOK_NONE) t->types[t->unk] = TOK_UNKNOWN;
    fl_status st = read_rules(t, src, err);
    if (st != FL_OK) return st;
    t->scores = base_malloc(src->n_vocab * sizeof *t->scores);
    if (!t->scores || !open_pieces(t, src)) return fl_fail(err, FL_ENOMEM, "vocabulary of %u tokens", src->n_vocab);
    for (uint32_t i = 0; i < src->n_vocab; i++) {
        if (isnan(src->scores[i])) return fl_fail(err, FL_EFORMAT, "the score of token %u is not a number", i);
        t->scores[i] = src->scores[i] + 0.0f; /* makes -0 equal to 0 */
        st = add_token(t, i, src->texts[i], err);
        if (st != FL_OK) return st;
    }
    t->words_alone = !t->has_unused;
    for (int b = 0; b < 256; b++) t->words_alone = t->words_alone && t->byte_id[b] != TOK_NONE;
    if (!tok_match_init(&t->user, t->pieces, t->types, 1u << TOK_USER_DEFINED))
        return fl_fail(err, FL_ENOMEM, "user-defined tokens");
    if (t->unigram) return tok_spm_unigram_open(t, err);
    if (!tok_map_init(&t->map, src->n_vocab)) return fl_fail(err, FL_ENOMEM, "vocabulary of %u tokens", src->n_vocab);
    tok_map_fill(&t->map, t->pieces, t->types, 1u << TOK_NORMAL | 1u << TOK_USER_DEFINED | 1u << TOK_UNUSED);
    return FL_OK;
}

/* Unsigned numbers in the opposite order of the floats: the highest score comes first. */
static uint32_t falling(float score) {
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits >> 31 ? bits : ~(bits | 0x80000000u);
}

static bool find_pair(tok_merge *m, const tok_symbol *a, const tok_symbol *b, uint32_t *priority, uint32_t *id) {
    const tok *t = m->t;
    uint32_t len = a->len + b->len;
    if (len > t->piece_bytes_max) return false;
    uint32_t found = tok_map_find(&t->map, t->pieces, m->text + a->start, len);
    if (found == TOK_NONE) return false;
    if (m->unused_left && t->types[found] == TOK_UNUSED) m->unused_left[found] = a->len;
    *priority = falling(t->scores[found]);
    *id = found;
    return true;
}

bool tok_spm_put(const tok_merge *m, uint32_t id, uint32_t start, uint32_t len, tok_ids *out) {
    const tok *t = m->t;
    if (id != TOK_NONE) return tok_ids_push(out, id);
    bool whole = true;
    for (uint32_t i = 0; i < len; i++) whole = whole && t->byte_id[(uint8_t)m->text[start + i]] != TOK_NONE;
    if (whole) {
        for (uint32_t i = 0; i < len; i++)
            if (!tok_ids_push(out, t->byte_id[(uint8_t)m->text[start + i]])) return false;
        return true;
    }
    if (t->unk == TOK_NONE || (out->n > m->before && out->ids[out->n - 1] == t->unk)) return true;
    return tok_ids_push(out, t->unk);
}

/* Takes an unused piece apart. Every part is shorter than the whole, so that the stack holds at most as many
 * parts as the piece has bytes. */
static bool put_unused(const tok_merge *m, uint32_t start, uint32_t len, tok_ids *out) {
    const tok *t = m->t;
    tok_ids rest = {0}; /* pairs: start, length */
    bool ok = tok_ids_push(&rest, start) && tok_ids_push(&rest, len);
    while (ok && rest.n) {
        rest.n -= 2;
        start = rest.ids[rest.n];
        len = rest.ids[rest.n + 1];
        uint32_t id = tok_map_find(&t->map, t->pieces, m->text + start, len);
        uint32_t left = id != TOK_NONE && t->types[id] == TOK_UNUSED ? m->unused_left[id] : 0;
        if (left)
            ok = tok_ids_push(&rest, start + left) && tok_ids_push(&rest, len - left) && tok_ids_push(&rest, start) &&
                 tok_ids_push(&rest, left);
        else
            ok = tok_spm_put(m, id, start, len, out);
    }
    tok_ids_clear(&rest);
    return ok;
}

static bool put_token(const tok_merge *m, const tok_symbol *s, tok_ids *out) {
    const tok *t = m->t;
    uint32_t id = s->id;
    if (id == TOK_NONE) id = tok_map_find(&t->map, t->pieces, m->text + s->start, s->len);
    return m->unused_left && id != TOK_NONE && t->types[id] == TOK_UNUSED ? put_unused(m, s->start, s->len, out)
                                                                          : tok_spm_put(m, id, s->start, s->len, out);
}

static size_t segment_end(const tok *t, const char *text, size_t begin, size_t n) {
    for (size_t i = begin + 1; i < n; i++)
        if (text[i] == ' ' && !t->before_blank[(uint8_t)text[i - 1]]) return i;
    return n;
}

static size_t push_chars(tok_merge *m, const char *text, size_t at, size_t n) {
    while (at < n && !tok_merge_full(m)) {
        size_t len = 0;
        uint32_t id = tok_match_at(&m->t->user, text + at, n - at, &len);
        if (id == TOK_NONE) len = (size_t)tok_utf8_char((const uint8_t *)text + at, n - at);
        tok_merge_push(m, id, (uint32_t)at, (uint32_t)len, id != TOK_NONE);
        at += len;
    }
    return at;
}

/* How unused pieces come apart depends on all merges that were looked up: such texts are merged whole. */
static const tok_merge_kind by_score = {push_chars, find_pair, put_token, false};
static const tok_merge_kind by_score_whole = {push_chars, find_pair, put_token, true};

static bool encode_segment(tok_merge *m, const char *s, size_t n, tok_ids *out) {
    bool found = false;
    tok_cache_entry *e = m->t->words_alone ? tok_cache_find(&m->cache, s, n, &found) : NULL;
    if (found) return tok_cache_take(e, out);
    size_t before = out->n;
    if (!tok_merge_text(m, m->t->has_unused ? &by_score_whole : &by_score, s, n, out)) return false;
    if (e) tok_cache_put(e, s, n, out->ids + before, out->n - before);
    return true;
}

fl_status tok_spm_encode(tok_merge *m, base_buf *scratch, const char *text, size_t n, tok_ids *out, fl_err *err) {
    const tok *t = m->t;
    if (!n) return FL_OK;
    m->before = out->n;
    if (!tok_spm_text(t, text, n, scratch)) goto no_memory;
    m->text = scratch->data;
    if (t->unigram) {
        if (!tok_spm_unigram(m, scratch->len, out)) goto no_memory;
        return FL_OK;
    }
    if (t->has_unused && !m->unused_left) {
        m->unused_left = base_calloc(t->n_vocab, sizeof *m->unused_left);
        if (!m->unused_left) goto no_memory;
    }
    if (!tok_cache_init(&m->cache, scratch->len)) goto no_memory;
    for (size_t begin = 0, end; begin < scratch->len; begin = end) {
        end = segment_end(t, scratch->data, begin, scratch->len);
        if (!encode_segment(m, scratch->data + begin, end - begin, out)) goto no_memory;
    }
    return FL_OK;

no_memory:
    out->n = m->before;
    return fl_fail(err, FL_ENOMEM, "ids of %zu bytes", n);
}
