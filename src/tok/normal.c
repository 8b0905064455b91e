/* The normalisers of a pipeline, one after the other over two buffers. Sources: huggingface/tokenizers,
 * tokenizers/src/normalizers. Characters are classified by utf8proc's tables (Unicode 15).
 */
#include "tok/pipe.h"

#include "tok/utf8.h"

#include <string.h>
#include <utf8proc.h>

bool tok_is_white(uint32_t cp) {
    if (cp < 0x80) return cp == ' ' || (cp >= '\t' && cp <= '\r');
    return cp == 0x85 || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a) || cp == 0x2028 || cp == 0x2029 ||
           cp == 0x202f || cp == 0x205f || cp == 0x3000;
}

/* Letters and other alphabetic characters, marks, decimal digits, connectors, joiners. */
bool tok_is_word(uint32_t cp) {
    switch (utf8proc_category((int32_t)cp)) {
        case UTF8PROC_CATEGORY_LU:
        case UTF8PROC_CATEGORY_LL:
        case UTF8PROC_CATEGORY_LT:
        case UTF8PROC_CATEGORY_LM:
        case UTF8PROC_CATEGORY_LO:
        case UTF8PROC_CATEGORY_MN:
        case UTF8PROC_CATEGORY_MC:
        case UTF8PROC_CATEGORY_ME:
        case UTF8PROC_CATEGORY_ND:
        case UTF8PROC_CATEGORY_NL:
        case UTF8PROC_CATEGORY_PC: return true;
        default:
            return (cp >= 0x24b6 && cp <= 0x24e9) || (cp >= 0x1f130 && cp <= 0x1f149) ||
                   (cp >= 0x1f150 && cp <= 0x1f169) || (cp >= 0x1f170 && cp <= 0x1f189) || cp == 0x200c || cp == 0x200d;
    }
}

static bool is_ideograph(uint32_t cp) {
    return (cp >= 0x4e00 && cp <= 0x9fff) || (cp >= 0x3400 && cp <= 0x4dbf) || (cp >= 0x20000 && cp <= 0x2a6df) ||
           (cp >= 0x2a700 && cp <= 0x2b73f) || (cp >= 0x2b740 && cp <= 0x2b81f) || (cp >= 0x2b920 && cp <= 0x2ceaf) ||
           (cp >= 0xf900 && cp <= 0xfaff) || (cp >= 0x2f800 && cp <= 0x2fa1f);
}

/* Dropped by clean_text: NUL, U+FFFD, and categories Cc, Cf, Co except tab and newlines. */
static bool is_dropped(uint32_t cp) {
    if (cp == '\t' || cp == '\n' || cp == '\r') return false;
    if (cp == 0 || cp == 0xfffd) return true;
    utf8proc_category_t c = utf8proc_category((int32_t)cp);
    return c == UTF8PROC_CATEGORY_CC || c == UTF8PROC_CATEGORY_CF || c == UTF8PROC_CATEGORY_CO;
}

static bool is_mark(uint32_t cp, bool nonspacing) {
    utf8proc_category_t c = utf8proc_category((int32_t)cp);
    return c == UTF8PROC_CATEGORY_MN || (!nonspacing && (c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_ME));
}

/* Appends what the step makes of one character, whose bytes are s. */
static bool put_char(const tok_norm *step, uint32_t cp, tok_text s, base_buf *out) {
    uint8_t lower[4];
    switch (step->kind) {
        case TOK_NORM_LOWER:
            if (cp == 0x130) return base_buf_puts(out, "i\xcc\x87"); /* the one that becomes two */
            return base_buf_append(out, lower, (size_t)tok_utf8_put(lower, (uint32_t)utf8proc_tolower((int32_t)cp)));
        case TOK_NORM_UNMARK:
            if (is_mark(cp, step->left)) return true;
            break;
        case TOK_NORM_CLEAN:
            if (is_dropped(cp)) return true;
            if (tok_is_white(cp)) return base_buf_putc(out, ' ');
            break;
        case TOK_NORM_NMT:
            if ((cp >= 1 && cp <= 8) || cp == 0xb || (cp >= 0xe && cp <= 0x1f) || cp == 0x7f || cp == 0x8f ||
                cp == 0x9f)
                return true;
            if (cp == '\t' || cp == '\n' || cp == '\f' || cp == '\r' || cp == 0x1680 ||
                (cp >= 0x200b && cp <= 0x200f) || cp == 0x2028 || cp == 0x2029 || cp == 0x2581 || cp == 0xfeff ||
                cp == 0xfffd)
                return base_buf_putc(out, ' ');
            break;
        case TOK_NORM_CHINESE:
            if (is_ideograph(cp))
                return base_buf_putc(out, ' ') && base_buf_append(out, s.bytes, s.n) && base_buf_putc(out, ' ');
            break;
        default: break;
    }
    return base_buf_append(out, s.bytes, s.n);
}

static bool put_chars(const tok_norm *step, const char *text, size_t n, base_buf *out) {
    for (size_t i = 0; i < n;) {
        int len;
        uint32_t cp = tok_utf8_get((const uint8_t *)text + i, &len);
        if (!put_char(step, cp, (tok_text){text + i, (size_t)len}, out)) return false;
        i += (size_t)len;
    }
    return true;
}

static bool put_stripped(const tok_norm *s, const char *text, size_t n, base_buf *out) {
    size_t begin = 0, end = n;
    int len;
    while (s->left && begin < end && tok_is_white(tok_utf8_get((const uint8_t *)text + begin, &len)))
        begin += (size_t)len;
    while (s->right && begin < end) {
        size_t last = end - 1;
        while (((uint8_t)text[last] & 0xc0) == 0x80) last--;
        if (!tok_is_white(tok_utf8_get((const uint8_t *)text + last, &len))) break;
        end = last;
    }
    return base_buf_append(out, text + begin, end - begin);
}

static bool put_replaced(const tok_norm *s, const char *text, size_t n, base_buf *out) {
    size_t i = 0;
    while (i < n) {
        const char *hit = s->n_from ? memmem(text + i, n - i, s->from, s->n_from) : NULL;
        size_t run = hit ? (size_t)(hit - text) - i : n - i;
        if (!base_buf_append(out, text + i, run)) return false;
        i += run;
        if (!hit) break;
        if (!base_buf_append(out, s->to, s->n_to)) return false;
        i += s->n_from;
    }
    return true;
}

fl_status tok_replace_matches(tok_words *w, uint32_t stage, const char *text, size_t n, tok_text to, base_buf *out,
                              fl_err *err) {
    size_t at = 0, done = 0, touched = SIZE_MAX, range[2];
    bool ok = true;
    while (ok && at <= n) {
        bool found;
        fl_status st = tok_words_search(w, stage, text, n, at, range, &found, err);
        if (st != FL_OK) return st;
        if (!found) break;
        if (range[0] == range[1] && range[0] == touched) { /* no empty match touches the match before */
            if (at >= n) break;
            at += (size_t)tok_utf8_char((const uint8_t *)text + at, n - at);
            continue;
        }
        ok = base_buf_append(out, text + done, range[0] - done) && base_buf_append(out, to.bytes, to.n) &&
             out->len <= TOK_TEXT_MAX;
        at = done = touched = range[1];
    }
    if (ok && done < n) ok = base_buf_append(out, text + done, n - done);
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "normalised text");
}

static fl_status run_step(tok_pipe_run *r, const tok_norm *s, const char *text, size_t n, base_buf *out, fl_err *err) {
    bool ok = true;
    switch (s->kind) {
        case TOK_NORM_FORM: ok = tok_normalize(s->form, text, n, out); break;
        case TOK_NORM_STRIP: ok = put_stripped(s, text, n, out); break;
        case TOK_NORM_REPLACE:
            if (s->stage != TOK_NONE)
                return tok_replace_matches(r->words, s->stage, text, n, (tok_text){s->to, s->n_to}, out, err);
            ok = put_replaced(s, text, n, out);
            break;
        case TOK_NORM_PREPEND:
            ok = !n || (base_buf_append(out, s->to, s->n_to) && base_buf_append(out, text, n));
            break;
        case TOK_NORM_LEVEL: ok = tok_put_level(r->t, text, n, out); break;
        case TOK_NORM_CHARSMAP: ok = tok_charsmap_clusters(s->map, text, n, out); break;
        default: ok = put_chars(s, text, n, out); break;
    }
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "normalised text");
}

fl_status tok_pipe_normalize(tok_pipe_run *r, const char *text, size_t n, tok_text *out, fl_err *err) {
    const tok_pipe *p = r->t->pipe;
    for (uint32_t i = 0; i < p->n_norms; i++) {
        base_buf *to = &r->text[text == r->text[0].data];
        to->len = 0;
        if (!base_buf_reserve(to, n + 1)) return fl_fail(err, FL_ENOMEM, "normalised text");
        fl_status st = run_step(r, &p->norms[i], text, n, to, err);
        if (st != FL_OK) return st;
        text = to->data;
        n = to->len;
        if (n > TOK_TEXT_MAX) return fl_fail(err, FL_EINVAL, "text of %zu bytes after the normalisers", n);
    }
    *out = (tok_text){text, n};
    return FL_OK;
}
