/* Unigram: the cut of a word into pieces whose scores have the greatest sum, by Viterbi over byte positions; O(n times
 * the longest piece). Where no piece covers exactly the character at hand, the unknown token may, for the lowest score
 * of all minus 10. A path is changed only for a strictly greater sum, in double precision.
 * Source: huggingface/tokenizers, models/unigram/model.rs.
 */
#include "tok/pipe.h"

#include "base/mem.h"
#include "tok/utf8.h"

#include <string.h>

/* How the best cut of word[0 .. i) ends. */
typedef struct tok_path {
    double score;
    uint32_t start, id; /* start TOK_NONE: not reached */
} node;

static void improve(node *to, double score, size_t start, uint32_t id) {
    if (to->start == TOK_NONE || score > to->score) *to = (node){score, (uint32_t)start, id};
}

static void find_path(const tok_pipe *p, const char *word, size_t n, node *path) {
    for (size_t i = 0; i <= n; i++) path[i] = (node){0, TOK_NONE, 0};
    for (size_t i = 0, step; i < n; i += step) {
        bool single = false;
        step = (size_t)tok_utf8_char((const uint8_t *)word + i, n - i);
        tok_match_walk w = {.p = word + i, .n = n - i};
        uint32_t id;
        size_t len;
        while (tok_match_next(&p->trie, &w, &id, &len)) {
            improve(&path[i + len], path[i].score + p->scores[id], i, id);
            single = single || len == step;
        }
        if (!single) improve(&path[i + step], path[i].score + p->unk_score, i, p->unk);
    }
}

/* The ids of a stretch that no piece covers, or of a piece. */
static bool put(const tok_pipe *p, const char *s, size_t n, uint32_t id, tok_ids *out) {
    if (id == p->unk) {
        uint32_t whole = tok_map_find(&p->map, &p->names, s, n);
        if (whole != TOK_NONE) id = whole;
    }
    if (id == p->unk && p->byte_fallback) {
        int done = tok_pipe_bytes(p, s, n, out);
        if (done) return done > 0;
    }
    return tok_ids_push(out, id);
}

fl_status tok_unigram_encode(tok_pipe_run *r, const char *word, size_t n, tok_ids *out, fl_err *err) {
    const tok_pipe *p = r->t->pipe;
    if (n + 1 > r->path_cap) {
        base_free(r->path);
        r->path = base_malloc((n + 1) * sizeof *r->path);
        r->path_cap = r->path ? n + 1 : 0;
        if (!r->path) return fl_fail(err, FL_ENOMEM, "pieces of %zu bytes", n);
    }
    node *path = r->path;
    find_path(p, word, n, path);
    /* The starts lead backwards; turned round they become the end of the piece behind. */
    uint32_t behind = (uint32_t)n;
    for (uint32_t at = (uint32_t)n; at > 0;) {
        uint32_t start = path[at].start;
        path[at].start = behind;
        behind = at;
        at = start;
    }
    bool ok = true;
    uint32_t begin = 0, end = behind;
    while (ok && begin < n) {
        uint32_t id = path[end].id, last = end;
        /* Unknown characters in a row are one token. */
        while (id == p->unk && last < n && path[path[last].start].id == p->unk) last = path[last].start;
        ok = put(p, word + begin, last - begin, id, out);
        if (ok && out->n && out->ids[out->n - 1] == TOK_NONE)
            return fl_fail(err, FL_EINVAL, "no piece begins at byte %u of \"%.*s\", and the model has no unknown token",
                           begin, n < 60 ? (int)n : 60, word);
        begin = last;
        end = last < n ? path[last].start : last;
    }
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "ids of %zu bytes", n);
}
