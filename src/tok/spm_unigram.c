/* SentencePiece's Unigram model: the cut of a text into pieces whose scores have the greatest sum, by Viterbi over byte
 * positions; O(n times the longest piece). Where no piece covers exactly the character at hand, the unknown token may,
 * for the lowest score of normal pieces minus 10. Unused pieces are passed over; user-defined ones count 0, which wins but
 * against a longer normal piece. (Library 0.2.1 let them always win.) A path is changed only for a
 * strictly greater sum, in single precision: rounding decides between cuts whose scores are equal, as in the library.
 * Source: google/sentencepiece, src/unigram_model.cc, EncodeOptimized; what 0.2.3 answers.
 */
#include "tok/tok_int.h"

#include "base/mem.h"
#include "tok/utf8.h"

#include <float.h>

/* How the best cut of text[0 .. i) ends. */
typedef struct {
    float score;
    uint32_t start, id; /* start TOK_NONE: not reached */
} node;

fl_status tok_spm_unigram_open(tok *t, fl_err *err) {
    if (t->unk == TOK_NONE) return fl_fail(err, FL_EFORMAT, "the Unigram model has no unknown token");
    float low = FLT_MAX;
    for (uint32_t i = 0; i < t->n_vocab; i++)
        if (t->types[i] == TOK_NORMAL && t->scores[i] < low) low = t->scores[i];
    t->unk_score = low - 10.0f;
    if (tok_match_init(&t->trie, t->pieces, t->types, 1u << TOK_NORMAL | 1u << TOK_USER_DEFINED)) return FL_OK;
    return fl_fail(err, FL_ENOMEM, "vocabulary of %u tokens", t->n_vocab);
}

static void improve(node *to, float score, size_t start, uint32_t id) {
    if (to->start == TOK_NONE || score > to->score) *to = (node){score, (uint32_t)start, id};
}

static void find_path(const tok *t, const char *text, size_t n, node *path) {
    for (size_t i = 0; i <= n; i++) path[i] = (node){0, TOK_NONE, 0};
    for (size_t i = 0, step; i < n; i += step) {
        bool single = false;
        step = (size_t)tok_utf8_char((const uint8_t *)text + i, n - i);
        tok_match_walk w = {.p = text + i, .n = n - i};
        uint32_t id;
        size_t len;
        while (tok_match_next(&t->trie, &w, &id, &len)) {
            float score = t->types[id] == TOK_USER_DEFINED ? 0.0f : t->scores[id];
            improve(&path[i + len], score + path[i].score, i, id);
            single = single || len == step;
        }
        if (!single) improve(&path[i + step], t->unk_score + path[i].score, i, t->unk);
    }
}

bool tok_spm_unigram(const tok_merge *m, size_t n, tok_ids *out) {
    const tok *t = m->t;
    node *path = base_malloc((n + 1) * sizeof *path);
    if (!path) return false;
    find_path(t, m->text, n, path);
    /* The starts lead backwards; turned round they become the end of the piece behind. */
    uint32_t behind = (uint32_t)n;
    for (uint32_t at = (uint32_t)n; at > 0;) {
        uint32_t start = path[at].start;
        path[at].start = behind;
        behind = at;
        at = start;
    }
    bool ok = true;
    for (uint32_t begin = 0, end = behind; ok && begin < n;) {
        uint32_t id = path[end].id;
        ok = tok_spm_put(m, id == t->unk ? TOK_NONE : id, begin, end - begin, out);
        begin = end;
        if (end < n) end = path[end].start;
    }
    base_free(path);
    return ok;
}
