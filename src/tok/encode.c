/* Encoding: cuts added tokens out of the text and gives what is between to the kind's merges.
 *
 * Byte-level vocabularies look for control and user-defined tokens in one pass, leftmost and
 * longest, as the reference does; a control token that may not be made still covers its text,
 * so that a user-defined token inside it is not found either. Where such a match reaches into
 * text that may make control tokens, only its first byte is passed over: text of a user must
 * not be able to hide the tokens of the template behind it.
 */
#include "tok/tok_int.h"

#include "base/mem.h"
#include "tok/pipe.h"
#include "tok/utf8.h"

bool tok_ids_push(tok_ids *a, uint32_t id) {
    if (a->n == a->cap) {
        size_t cap = a->cap ? 2 * a->cap : 64;
        uint32_t *ids = base_realloc(a->ids, cap * sizeof *ids);
        if (!ids) return false;
        a->ids = ids;
        a->cap = cap;
    }
    a->ids[a->n++] = id;
    return true;
}

void tok_ids_clear(tok_ids *a) {
    base_free(a->ids);
    *a = (tok_ids){0};
}

/* One call's state: scratch, and where we are in the ranges. */
typedef struct {
    const tok *t;
    const char *text;
    size_t n;
    const tok_range *ranges; /* control tokens are made here only */
    size_t n_ranges, range;  /* range: the first that does not end before the place in the text */
    tok_merge merge;
    tok_words *words;
    base_buf scratch;
    tok_ids *out;
} encoder;

/* Whether [begin, end) lies in the ranges (2), touches one (1), or not (0). begin never falls. */
static int in_ranges(encoder *e, size_t begin, size_t end) {
    while (e->range < e->n_ranges && e->ranges[e->range].end <= begin) e->range++;
    if (e->range == e->n_ranges || e->ranges[e->range].begin >= end) return 0;
    if (e->ranges[e->range].begin > begin) return 1;
    size_t covered = e->ranges[e->range].end;
    for (size_t i = e->range + 1; covered < end && i < e->n_ranges && e->ranges[i].begin == covered; i++)
        covered = e->ranges[i].end;
    return covered >= end ? 2 : 1;
}

static fl_status put_text(encoder *e, size_t begin, size_t end, fl_err *err) {
    if (begin == end) return FL_OK;
    return e->t->spm ? tok_spm_encode(&e->merge, &e->scratch, e->text + begin, end - begin, e->out, err)
                     : tok_bpe_encode(&e->merge, e->words, &e->scratch, e->text + begin, end - begin, e->out, err);
}

static fl_status put_all(encoder *e, fl_err *err) {
    const tok *t = e->t;
    size_t from = 0, at = 0;
    bool look = t->added.n && (e->n_ranges || !t->spm);
    while (look && at < e->n) {
        size_t len = 0;
        uint32_t id = tok_match_at(&t->added, e->text + at, e->n - at, &len);
        if (id == TOK_NONE) {
            at++;
            continue;
        }
        if (tok_is_special(t, id)) {
            int inside = in_ranges(e, at, at + len);
            if (inside != 2) {
                at += inside == 0 && !t->spm ? len : 1;
                continue;
            }
        }
        fl_status st = put_text(e, from, at, err);
        if (st != FL_OK) return st;
        if (!tok_ids_push(e->out, id)) return fl_fail(err, FL_ENOMEM, "ids of %zu bytes", e->n);
        at += len;
        from = at;
    }
    return put_text(e, from, e->n, err);
}

static fl_status encode_pipe(const tok *t, const char *text, size_t n, const tok_range *ranges, size_t n_ranges,
                             bool special, tok_ids *out, fl_err *err) {
    const tok_pipe *p = t->pipe;
    tok_merge merge = {.t = t};
    tok_pipe_run r = {.t = t, .merge = &merge};
    size_t before = out->n;
    bool ok = true;
    fl_status st = tok_words_open(&r.words, t->split, err);
    for (size_t i = 0; ok && special && i < p->before.n; i++) ok = tok_ids_push(out, p->before.ids[i]);
    if (st == FL_OK && !tok_cache_init(&merge.cache, n)) st = fl_fail(err, FL_ENOMEM, "words");
    if (st == FL_OK) st = tok_pipe_text(&r, text, n, ranges, n_ranges, out, err);
    for (size_t i = 0; ok && special && i < p->after.n; i++) ok = tok_ids_push(out, p->after.ids[i]);
    if (!ok && st == FL_OK) st = fl_fail(err, FL_ENOMEM, "ids");
    if (st != FL_OK) out->n = before;
    tok_pipe_run_clear(&r);
    tok_merge_clear(&merge);
    return st;
}

fl_status tok_encode_ranges(const tok *t, const char *text, size_t n, const tok_range *ranges, size_t n_ranges,
                            unsigned flags, tok_ids *out, fl_err *err) {
    if (n > TOK_TEXT_MAX) return fl_fail(err, FL_EINVAL, "text of %zu bytes; at most %d are possible", n, TOK_TEXT_MAX);
    size_t bad = tok_utf8_check(text, n);
    if (bad < n) return fl_fail(err, FL_EINVAL, "text is not valid UTF-8 at byte %zu", bad);
    encoder e = {.t = t, .text = text, .n = n, .ranges = ranges, .n_ranges = n_ranges, .merge = {.t = t}, .out = out};
    size_t before = out->n;
    bool special = flags & TOK_ADD_SPECIAL;
    fl_status st = FL_OK;
    if (t->pipe) return encode_pipe(t, text, n, ranges, n_ranges, special, out, err);
    if (!t->spm) st = tok_words_open(&e.words, t->split, err);
    if (st == FL_OK && special && t->add_bos && !tok_ids_push(out, t->bos)) st = fl_fail(err, FL_ENOMEM, "ids");
    if (st == FL_OK) st = put_all(&e, err);
    if (st == FL_OK && special && t->add_eos && !tok_ids_push(out, t->eos)) st = fl_fail(err, FL_ENOMEM, "ids");
    if (st != FL_OK) out->n = before;
    tok_words_close(e.words);
    tok_merge_clear(&e.merge);
    base_buf_clear(&e.scratch);
    return st;
}

fl_status tok_encode(const tok *t, const char *text, size_t n, unsigned flags, tok_ids *out, fl_err *err) {
    const tok_range all = {0, n};
    return tok_encode_ranges(t, text, n, &all, flags & TOK_PARSE_SPECIAL ? 1 : 0, flags, out, err);
}
