/* Cutting text into words with the patterns that GGUF names in tokenizer.ggml.pre.
 *
 * A splitter is a list of patterns; each cuts the pieces of the one before ("isolated": the
 * matches and the text between them are pieces). Each piece is matched as a subject of its
 * own, because look-ahead must see its end as the end of the text.
 *
 * The patterns run on PCRE2, compiled ahead (JIT where the system allows it). White space is
 * spelled out: PCRE2's \s also has U+180E, which the reference engine has not. Text is
 * checked to be UTF-8 once before, and PCRE2 told not to check again: it would look at the
 * whole rest of the text at every match. All patterns are our own, none comes from a file.
 */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "tok/tok_int.h"

#include "base/mem.h"

#include <pcre2.h>
#include <string.h>

/* White space, to stand inside a class. */
#define W "\\t-\\r \\x85\\xA0\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"

#define PATTERN_DIGIT "\\p{N}"
#define PATTERN_GPT2  "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| ?[^" W "\\p{L}\\p{N}]+|[" W "]+(?![^" W "])|[" W "]+"

enum { STAGES_MAX = 6, JIT_STACK_BYTES = 1 << 20 };

static const struct {
    const char *name;
    const char *stages[STAGES_MAX];
} families[] = {
    {"gpt-2", {PATTERN_GPT2}},
    {"olmo", {PATTERN_GPT2}},
    {"mpt", {PATTERN_GPT2}},
    {"phi-2", {PATTERN_GPT2}},
    {"smollm", {PATTERN_DIGIT, PATTERN_GPT2}},
    {"starcoder", {PATTERN_DIGIT, PATTERN_GPT2}},
    {"refact", {PATTERN_DIGIT, PATTERN_GPT2}},
    {"command-r", {PATTERN_DIGIT, PATTERN_GPT2}},
};

enum { N_FAMILIES = sizeof families / sizeof *families };

const char *tok_split_names(void) { return "gpt-2, olmo, mpt, phi-2, smollm, starcoder, refact, command-r"; }

struct tok_split {
    pcre2_general_context *memory;
    pcre2_code *stages[STAGES_MAX];
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
    for (uint32_t i = 0; i < s->n_stages; i++) pcre2_code_free(s->stages[i]);
    pcre2_general_context_free(s->memory);
    base_free(s);
}

static fl_status compile(tok_split *s, const char *pattern, fl_err *err) {
    int code;
    PCRE2_SIZE at;
    pcre2_compile_context *context = pcre2_compile_context_create(s->memory);
    if (!context) return fl_fail(err, FL_ENOMEM, "pattern of the splitter");
    pcre2_code *c = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK, &code, &at, context);
    pcre2_compile_context_free(context);
    if (!c) return fl_fail(err, FL_ENOMEM, "pattern of the splitter: error %d at %zu", code, at);
    s->stages[s->n_stages++] = c;
    /* Where the system gives no executable memory the interpreter does the same, slower. */
    (void)pcre2_jit_compile(c, PCRE2_JIT_COMPLETE);
    return FL_OK;
}

fl_status tok_split_open(tok_split **out, const char *name, fl_err *err) {
    *out = NULL;
    int k = 0;
    while (k < N_FAMILIES && strcmp(families[k].name, name) != 0) k++;
    if (k == N_FAMILIES)
        return fl_fail(err, FL_EUNSUPPORTED, "splitter \"%.100s\" is not known; known are %s", name, tok_split_names());
    fl_status st = FL_OK;
    tok_split *s = base_calloc(1, sizeof *s);
    if (!s) return fl_fail(err, FL_ENOMEM, "splitter");
    s->memory = pcre2_general_context_create(pcre_malloc, pcre_free, NULL);
    if (!s->memory) {
        st = fl_fail(err, FL_ENOMEM, "splitter");
        goto fail;
    }
    for (int i = 0; i < STAGES_MAX && families[k].stages[i]; i++) {
        st = compile(s, families[k].stages[i], err);
        if (st != FL_OK) goto fail;
    }
    *out = s;
    return FL_OK;

fail:
    tok_split_close(s);
    return st;
}

struct tok_words {
    const tok_split *split;
    pcre2_match_data *match;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
    struct ends {
        uint32_t *at;
        size_t n, cap;
    } ends[2]; /* the pieces of the stage before, and of this one */
};

void tok_words_close(tok_words *w) {
    if (!w) return;
    base_free(w->ends[0].at);
    base_free(w->ends[1].at);
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

static bool push(struct ends *e, size_t at) {
    if (e->n == e->cap) {
        size_t cap = e->cap ? 2 * e->cap : 64;
        uint32_t *p = base_realloc(e->at, cap * sizeof *p);
        if (!p) return false;
        e->at = p;
        e->cap = cap;
    }
    e->at[e->n++] = (uint32_t)at;
    return true;
}

/* Cuts one piece text[begin .. end). */
static fl_status cut_piece(tok_words *w, const pcre2_code *code, const char *text, size_t begin, size_t end,
                           struct ends *out, fl_err *err) {
    PCRE2_SPTR subject = (PCRE2_SPTR)text + begin;
    size_t n = end - begin, at = 0, cut = 0;
    while (at < n) {
        int rc = pcre2_match(code, subject, n, at, PCRE2_NO_UTF_CHECK | PCRE2_NOTEMPTY, w->match, w->context);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) return fl_fail(err, FL_ENOMEM, "the splitter gave up at byte %zu: error %d", begin + at, rc);
        const PCRE2_SIZE *range = pcre2_get_ovector_pointer(w->match);
        if (range[0] > cut && !push(out, begin + range[0])) return fl_fail(err, FL_ENOMEM, "words");
        if (!push(out, begin + range[1])) return fl_fail(err, FL_ENOMEM, "words");
        at = cut = range[1];
    }
    if (cut < n && !push(out, end)) return fl_fail(err, FL_ENOMEM, "words");
    return FL_OK;
}

fl_status tok_words_cut(tok_words *w, const char *text, size_t n, const uint32_t **ends, size_t *n_words, fl_err *err) {
    struct ends *from = &w->ends[0], *to = &w->ends[1];
    from->n = 0;
    if (n && !push(from, n)) return fl_fail(err, FL_ENOMEM, "words");
    for (uint32_t k = 0; k < w->split->n_stages; k++) {
        size_t begin = 0;
        to->n = 0;
        for (size_t i = 0; i < from->n; begin = from->at[i++]) {
            fl_status st = cut_piece(w, w->split->stages[k], text, begin, from->at[i], to, err);
            if (st != FL_OK) return st;
        }
        struct ends *swap = from;
        from = to;
        to = swap;
    }
    *ends = from->at;
    *n_words = from->n;
    return FL_OK;
}
