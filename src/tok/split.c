/* Cutting text into words with patterns.
 *
 * A splitter is a list of stages; each cuts the pieces of the one before. A stage finds the
 * matches of its pattern (or, inverted, the text between them) and does with them what its
 * behaviour says; the usual one, "isolated", makes pieces of the matches and of what is between.
 * Each piece is matched as a subject of its own, because look-ahead must see its end as the end
 * of the text. Empty matches cut, as in the reference: one is taken unless it touches the match
 * before, then the search goes on behind the next character.
 *
 * The patterns run on PCRE2, compiled ahead (JIT where the system allows it). Text is checked to
 * be UTF-8 once before, and PCRE2 told not to check again: it would look at the whole rest of
 * the text at every match. A pattern that backtracks beyond PCRE2's limit fails the call.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tok/tok_int.h"

#include "base/mem.h"
#include "tok/utf8.h"

#include <pcre2.h>
#include <string.h>

enum { JIT_STACK_BYTES = 1 << 20 };

typedef struct {
    pcre2_code *code;
    tok_behaviour behaviour;
    bool invert;
} stage;

struct tok_split {
    pcre2_general_context *memory;
    stage stages[TOK_STAGES_MAX];
    uint32_t n_stages;
};

static void *pcre_malloc(size_t bytes, void *unused) {
    (void)unused;
    return base_malloc(bytes);
}

static void pcre_free(void *p, void *unused) {
    (void)unused;
    base_free(p);
}

void tok_split_close(tok_split *s) {
    if (!s) return;
    for (uint32_t i = 0; i < s->n_stages; i++) pcre2_code_free(s->stages[i].code);
    pcre2_general_context_free(s->memory);
    base_free(s);
}

static fl_status compile(tok_split *s, const tok_stage *from, fl_err *err) {
    int code;
    PCRE2_SIZE at;
    PCRE2_UCHAR text[120] = {0};
    pcre2_compile_context *context = pcre2_compile_context_create(s->memory);
    if (!context) return fl_fail(err, FL_ENOMEM, "pattern of the splitter");
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)from->pattern, PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &code, &at, context);
    pcre2_compile_context_free(context);
    if (!c && code == PCRE2_ERROR_HEAP_FAILED) return fl_fail(err, FL_ENOMEM, "pattern of the splitter");
    if (!c) {
        (void)pcre2_get_error_message(code, text, sizeof text);
        return fl_fail(err, FL_EFORMAT, "the pattern of the splitter does not compile: %s at byte %zu of \"%.100s\"",
                       (const char *)text, at, from->pattern);
    }
    s->stages[s->n_stages++] = (stage){c, from->behaviour, from->invert};
    /* Where the system gives no executable memory the interpreter does the same, slower. */
    (void)pcre2_jit_compile(c, PCRE2_JIT_COMPLETE);
    return FL_OK;
}

fl_status tok_split_open(tok_split **out, const tok_stage *stages, uint32_t n, fl_err *err) {
    *out = NULL;
    fl_status st = FL_OK;
    if (n > TOK_STAGES_MAX)
        return fl_fail(err, FL_EUNSUPPORTED, "a splitter of %u stages; at most %d are possible", n, TOK_STAGES_MAX);
    tok_split *s = base_calloc(1, sizeof *s);
    if (!s) return fl_fail(err, FL_ENOMEM, "splitter");
    s->memory = pcre2_general_context_create(pcre_malloc, pcre_free, NULL);
    if (!s->memory) st = fl_fail(err, FL_ENOMEM, "splitter");
    for (uint32_t i = 0; i < n && st == FL_OK; i++) st = compile(s, &stages[i], err);
    if (st != FL_OK) {
        tok_split_close(s);
        return st;
    }
    *out = s;
    return FL_OK;
}

struct tok_words {
    const tok_split *split;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    tok_pieces pieces[2]; /* of the stage before, and of this one */
};

void tok_pieces_clear(tok_pieces *p) {
    base_free(p->at);
    *p = (tok_pieces){0};
}

bool tok_pieces_push(tok_pieces *p, size_t begin, size_t end) {
    if (p->n == p->cap) {
        size_t cap = p->cap ? 2 * p->cap : 64;
        tok_piece_range *at = base_realloc(p->at, cap * sizeof *at);
        if (!at) return false;
        p->at = at;
        p->cap = cap;
    }
    p->at[p->n++] = (tok_piece_range){(uint32_t)begin, (uint32_t)end};
    return true;
}

void tok_words_close(tok_words *w) {
    if (!w) return;
    tok_pieces_clear(&w->pieces[0]);
    tok_pieces_clear(&w->pieces[1]);
    pcre2_match_data_free(w->match);
    pcre2_match_context_free(w->context);
    pcre2_jit_stack_free(w->stack);
    base_free(w);
}

fl_status tok_words_open(tok_words **out, const tok_split *s, fl_err *err) {
    *out = NULL;
    tok_words *w = base_calloc(1, sizeof *w);
    if (!w) return fl_fail(err, FL_ENOMEM, "scratch of the splitter");
    w->split = s;
    w->match = pcre2_match_data_create(1, s->memory);
    w->context = pcre2_match_context_create(s->memory);
    w->stack = pcre2_jit_stack_create(32 * 1024, JIT_STACK_BYTES, s->memory);
    if (!w->match || !w->context || !w->stack) {
        tok_words_close(w);
        return fl_fail(err, FL_ENOMEM, "scratch of the splitter");
    }
    pcre2_jit_stack_assign(w->context, NULL, w->stack);
    *out = w;
    return FL_OK;
}

/* Puts text[begin .. end), a match or what is between two, the way the behaviour wants it. first: no piece before it
 * comes from the same subject. was: whether the one before was a match. */
static bool put(tok_pieces *out, tok_behaviour how, bool is_match, bool was, bool first, size_t begin, size_t end) {
    bool join = !first && (how == TOK_CONTIGUOUS      ? is_match == was
                           : how == TOK_WITH_PREVIOUS ? is_match && !was
                           : how == TOK_WITH_NEXT     ? !is_match && was
                                                      : false);
    if (how == TOK_REMOVED && is_match) return true;
    if (!join) return tok_pieces_push(out, begin, end);
    out->at[out->n - 1].end = (uint32_t)end;
    return true;
}

/* Cuts one piece text[begin .. end). */
static fl_status cut_piece(tok_words *w, const stage *s, const char *text, size_t begin, size_t end, tok_pieces *out,
                           fl_err *err) {
    PCRE2_SPTR subject = (PCRE2_SPTR)text + begin;
    size_t n = end - begin, at = 0, cut = 0, touched = SIZE_MAX;
    bool was = false, first = true, ok = true;
    while (ok && at <= n) {
        int rc = pcre2_match(s->code, subject, n, at, PCRE2_NO_UTF_CHECK, w->match, w->context);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc == PCRE2_ERROR_NOMEMORY) return fl_fail(err, FL_ENOMEM, "words");
        if (rc < 0)
            return fl_fail(err, FL_EUNSUPPORTED, "the pattern of the splitter gave up at byte %zu: error %d",
                           begin + at, rc);
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(w->match);
        size_t from = range[0], to = range[1];
        if (from == to && from == touched) {
            if (at >= n) break;
            at += (size_t)tok_utf8_char(subject + at, n - at);
            continue;
        }
        if (from > cut) {
            ok = put(out, s->behaviour, s->invert, was, first, begin + cut, begin + from);
            was = s->invert;
            first = false;
        }
        if (ok) ok = put(out, s->behaviour, !s->invert, was, first, begin + from, begin + to);
        was = !s->invert;
        first = false;
        at = cut = touched = to;
    }
    if (ok && cut < n) ok = put(out, s->behaviour, s->invert, was, first, begin + cut, end);
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "words");
}

/* Empty pieces carry the marks of empty matches while a stage runs; then they are dropped. */
static void drop_empty(tok_pieces *p) {
    size_t k = 0;
    for (size_t i = 0; i < p->n; i++)
        if (p->at[i].begin < p->at[i].end) p->at[k++] = p->at[i];
    p->n = k;
}

fl_status tok_words_cut(tok_words *w, uint32_t first, uint32_t end, const char *text, const tok_pieces *given,
                        const tok_pieces **out, fl_err *err) {
    const tok_pieces *from = given;
    for (uint32_t k = first; k < end; k++) {
        tok_pieces *to = &w->pieces[from == &w->pieces[0]];
        to->n = 0;
        for (size_t i = 0; i < from->n; i++) {
            fl_status st = cut_piece(w, &w->split->stages[k], text, from->at[i].begin, from->at[i].end, to, err);
            if (st != FL_OK) return st;
        }
        drop_empty(to);
        from = to;
    }
    *out = from;
    return FL_OK;
}

fl_status tok_words_search(tok_words *w, uint32_t k, const char *text, size_t n, size_t at, size_t range[2],
                           bool *found, fl_err *err) {
    int rc = pcre2_match(w->split->stages[k].code, (PCRE2_SPTR)text, n, at, PCRE2_NO_UTF_CHECK, w->match, w->context);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMEMORY) return fl_fail(err, FL_ENOMEM, "words");
    if (rc < 0 && rc != PCRE2_ERROR_NOMATCH)
        return fl_fail(err, FL_EUNSUPPORTED, "a pattern gave up at byte %zu: error %d", at, rc);
    for (int i = 0; *found && i < 2; i++) range[i] = pcre2_get_ovector_pointer(w->match)[i];
    return FL_OK;
}
