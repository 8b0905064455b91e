/* The stages of a pipeline around its model: added tokens in raw text, normalisers, added tokens in normalised text.
 *
 * Added tokens are found leftmost and longest. One that may not be made (a control token in text of a user, a
 * single word beside a letter) still covers its text, as in the reference; where such a match reaches into text that
 * may make control tokens only its first byte is passed over. In normalised text places of the raw text are lost: there
 * a control token is made only if the whole stretch between two raw added tokens may make one.
 * Source: huggingface/tokenizers, tokenizers/src/tokenizer/added_vocabulary.rs.
 */
#include "tok/pipe.h"

#include "tok/utf8.h"

typedef struct {
    size_t begin, end;
    uint32_t id;
} hit;

/* Whether [begin, end) lies in the ranges (2), touches one (1), or not (0). */
static int in_ranges(const tok_range *ranges, size_t n, size_t begin, size_t end) {
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (ranges[mid].end <= begin)
            lo = mid + 1;
        else
            hi = mid;
    }
    if (lo == n || ranges[lo].begin >= end) return 0;
    if (ranges[lo].begin > begin) return 1;
    size_t covered = ranges[lo].end;
    for (size_t i = lo + 1; covered < end && i < n && ranges[i].begin == covered; i++) covered = ranges[i].end;
    return covered >= end ? 2 : 1;
}

static size_t last_char(const char *text, size_t end, uint32_t *cp) {
    size_t at = end - 1;
    int len;
    while (((uint8_t)text[at] & 0xc0) == 0x80) at--;
    *cp = tok_utf8_get((const uint8_t *)text + at, &len);
    return at;
}

static bool is_single_word(const char *text, size_t n, size_t begin, size_t end) {
    uint32_t cp;
    int len;
    if (begin && (last_char(text, begin, &cp), tok_is_word(cp))) return false;
    return end == n || !tok_is_word(tok_utf8_get((const uint8_t *)text + end, &len));
}

/* The next added token at or behind from. */
static bool find(const tok *t, const tok_added *a, const char *text, size_t n, size_t from, const tok_range *ranges,
                 size_t n_ranges, hit *h) {
    size_t at = from;
    while (a->match.n && at < n) {
        size_t len = 0;
        uint32_t k = tok_match_at(&a->match, text + at, n - at, &len);
        if (k == TOK_NONE) {
            at++;
            continue;
        }
        int inside = tok_is_special(t, a->ids[k]) ? in_ranges(ranges, n_ranges, at, at + len) : 2;
        if (inside == 2 && a->flags[k] & TOK_ADDED_WORD && !is_single_word(text, n, at, at + len)) inside = 0;
        if (inside != 2) {
            at += inside ? 1 : len;
            continue;
        }
        *h = (hit){at, at + len, a->ids[k]};
        uint32_t cp;
        int c;
        for (size_t b; a->flags[k] & TOK_ADDED_LSTRIP && h->begin > from; h->begin = b) {
            b = last_char(text, h->begin, &cp);
            if (!tok_is_white(cp)) break;
        }
        while (a->flags[k] & TOK_ADDED_RSTRIP && h->end < n &&
               tok_is_white(tok_utf8_get((const uint8_t *)text + h->end, &c)))
            h->end += (size_t)c;
        return true;
    }
    return false;
}

/* One stretch between raw added tokens. */
static fl_status put_stretch(tok_pipe_run *r, const char *text, size_t n, bool at_start, bool special, tok_ids *out,
                             fl_err *err) {
    const tok *t = r->t;
    tok_text s;
    fl_status st = tok_pipe_normalize(r, text, n, &s, err);
    const tok_range all = {0, s.n};
    size_t from = 0;
    hit h;
    while (st == FL_OK && from < s.n) {
        bool found = find(t, &t->pipe->normal, s.bytes, s.n, from, &all, special, &h);
        if (!found) h = (hit){s.n, s.n, TOK_NONE};
        if (h.begin > from) st = tok_pipe_encode(r, s.bytes + from, h.begin - from, at_start && from == 0, out, err);
        if (st == FL_OK && found && !tok_ids_push(out, h.id)) st = fl_fail(err, FL_ENOMEM, "ids");
        from = h.end;
    }
    return st;
}

fl_status tok_pipe_text(tok_pipe_run *r, const char *text, size_t n, const tok_range *ranges, size_t n_ranges,
                        tok_ids *out, fl_err *err) {
    const tok *t = r->t;
    size_t from = 0;
    fl_status st = FL_OK;
    hit h;
    while (st == FL_OK && from < n) {
        bool found = find(t, &t->pipe->raw, text, n, from, ranges, n_ranges, &h);
        if (!found) h = (hit){n, n, TOK_NONE};
        if (h.begin > from) {
            bool special = in_ranges(ranges, n_ranges, from, h.begin) == 2;
            st = put_stretch(r, text + from, h.begin - from, from == 0, special, out, err);
        }
        if (st == FL_OK && found && !tok_ids_push(out, h.id)) st = fl_fail(err, FL_ENOMEM, "ids");
        from = h.end;
    }
    return st;
}
