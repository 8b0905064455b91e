/* Text of a template to tokens.
 *
 * White space: a newline after a block or comment goes away (trim_blocks), and so do blanks from
 * the beginning of a line to a block or comment (lstrip_blocks); `-` takes all white space on
 * its side, `+` switches either rule off. `}}` does not end a print while a brace is open.
 */
#include "tok/jinja_int.h"

#include "tok/utf8.h"

#include <stdio.h>
#include <string.h>

typedef struct {
    base_arena *arena;
    char *s; /* the text with newlines made \n */
    size_t n, at;
    uint32_t line;
    bool line_start; /* the text before `at` ended a line */
    jinja_token *tokens;
    size_t n_tokens, cap;
    fl_err *err;
} lexer;

static fl_status fail(const lexer *x, const char *what) {
    return fl_fail(x->err, FL_EINVAL, "line %u: %s", x->line, what);
}

static fl_status push(lexer *x, jinja_token_type type, int op, const char *p, size_t n) {
    if (x->n_tokens == x->cap) {
        size_t cap = x->cap ? 2 * x->cap : 256;
        jinja_token *t = base_arena_calloc(x->arena, cap, sizeof *t);
        if (!t) return fl_fail(x->err, FL_ENOMEM, "tokens of a template");
        if (x->n_tokens) memcpy(t, x->tokens, x->n_tokens * sizeof *t);
        x->tokens = t;
        x->cap = cap;
    }
    x->tokens[x->n_tokens++] = (jinja_token){type, op, x->line, p, n};
    return FL_OK;
}

/* Length of the white space at offset i. */
static size_t space_at(const lexer *x, size_t i) {
    if (i >= x->n) return 0;
    int len;
    return jinja_is_space(tok_utf8_get((const uint8_t *)x->s + i, &len)) ? (size_t)len : 0;
}

static void advance(lexer *x, size_t to) {
    for (; x->at < to; x->at++) x->line += x->s[x->at] == '\n';
}

static void skip_space(lexer *x) {
    for (size_t len; (len = space_at(x, x->at)) > 0;) advance(x, x->at + len);
}

/* End of s[begin .. end) without white space behind. */
static size_t trim_end(const lexer *x, size_t begin, size_t end) {
    while (end > begin) {
        size_t i = end - 1;
        while (i > begin && ((uint8_t)x->s[i] & 0xc0) == 0x80) i--;
        if (!space_at(x, i)) break;
        end = i;
    }
    return end;
}

static bool is_at(const lexer *x, size_t i, const char *what) {
    size_t n = strlen(what);
    return x->n - i >= n && memcmp(x->s + i, what, n) == 0;
}

/* The end of data that a block or comment follows: sign is the character behind its opening. */
static size_t data_end(const lexer *x, size_t begin, size_t end, char sign, bool print) {
    if (sign == '-') return trim_end(x, begin, end);
    if (sign == '+' || print) return end;
    size_t line = end;
    while (line > begin && x->s[line - 1] != '\n') line--;
    if (line == begin && !x->line_start) return end;
    return trim_end(x, line, end);
}

/* Moves past a closing `%}` or `#}` at `at` (with its sign, if any) and the white space it takes. */
static void close_block(lexer *x) {
    char sign = x->s[x->at];
    advance(x, x->at + (sign == '-' || sign == '+' ? 3 : 2));
    x->line_start = false;
    if (sign == '-')
        skip_space(x);
    else if (sign != '+' && x->at < x->n && x->s[x->at] == '\n')
        advance(x, x->at + 1);
    x->line_start = x->at > 0 && x->s[x->at - 1] == '\n';
}

static bool closes(const lexer *x, size_t i, const char *end) {
    if (i < x->n && (x->s[i] == '-' || x->s[i] == '+')) return is_at(x, i + 1, end);
    return is_at(x, i, end);
}

/* `{% raw %}` ... `{% endraw %}`; x->at is behind the opening's sign. False when this is no raw block. */
static bool lex_raw(lexer *x, fl_status *st) {
    size_t i = x->at;
    for (size_t len; (len = space_at(x, i)) > 0;) i += len;
    if (!is_at(x, i, "raw")) return false;
    i += 3;
    for (size_t len; (len = space_at(x, i)) > 0;) i += len;
    bool minus = is_at(x, i, "-%}");
    if (!minus && !is_at(x, i, "%}")) return false;
    advance(x, i + (minus ? 3 : 2));
    if (minus) skip_space(x);
    x->line_start = x->s[x->at - 1] == '\n';
    size_t begin = x->at;
    for (i = begin; i + 2 < x->n; i++) {
        if (!is_at(x, i, "{%")) continue;
        size_t j = i + 2;
        char sign = x->s[j];
        if (sign == '-' || sign == '+') j++;
        for (size_t len; (len = space_at(x, j)) > 0;) j += len;
        if (!is_at(x, j, "endraw")) continue;
        j += 6;
        for (size_t len; (len = space_at(x, j)) > 0;) j += len;
        if (!closes(x, j, "%}")) continue;
        size_t end = data_end(x, begin, i, sign, false);
        *st = end > begin ? push(x, TOKEN_DATA, 0, x->s + begin, end - begin) : FL_OK;
        advance(x, j);
        close_block(x);
        return true;
    }
    *st = fail(x, "raw block without endraw");
    return true;
}

static int hex(char c) {
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* n hexadecimal digits; false when there are fewer. */
static bool hex_digits(const char *p, const char *end, int n, uint32_t *out) {
    *out = 0;
    if (end - p < n) return false;
    for (int i = 0; i < n; i++) {
        if (hex(p[i]) < 0) return false;
        *out = *out << 4 | (uint32_t)hex(p[i]);
    }
    return true;
}

/* Decodes the escape behind a backslash at p; the code point and the end, or NULL when it stays as written. */
static const char *escape(const char *p, const char *end, uint32_t *cp) {
    static const char from[] = "ntr\\'\"abfv", to[] = "\n\t\r\\'\"\a\b\f\v";
    const char *simple = *p ? strchr(from, *p) : NULL;
    if (simple) {
        *cp = (uint32_t)to[simple - from];
        return p + 1;
    }
    if (*p >= '0' && *p <= '7') {
        *cp = 0;
        for (int i = 0; i < 3 && p < end && *p >= '0' && *p <= '7'; i++) *cp = *cp * 8 + (uint32_t)(*p++ - '0');
        return p;
    }
    int digits = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0;
    if (!digits || !hex_digits(p + 1, end, digits, cp)) return NULL;
    p += 1 + digits;
    uint32_t low;
    if (*cp >= 0xd800 && *cp < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u' &&
        hex_digits(p + 2, end, 4, &low) && low >= 0xdc00 && low < 0xe000) {
        *cp = 0x10000 + ((*cp - 0xd800) << 10) + (low - 0xdc00);
        p += 6;
    }
    if (*cp > 0x10ffff || (*cp >= 0xd800 && *cp < 0xe000)) *cp = 0xfffd;
    return p;
}

static fl_status lex_string(lexer *x) {
    char quote = x->s[x->at];
    size_t begin = x->at + 1, end = begin;
    while (end < x->n && x->s[end] != quote) end += x->s[end] == '\\' ? 2 : 1;
    if (end >= x->n) return fail(x, "string without an end");
    char *out = base_arena_alloc(x->arena, end - begin + 1);
    if (!out) return fl_fail(x->err, FL_ENOMEM, "string of a template");
    size_t n = 0;
    for (const char *p = x->s + begin, *stop = x->s + end; p < stop;) {
        uint32_t cp;
        const char *next;
        if (p[0] != '\\') {
            out[n++] = *p++;
        } else if (p[1] == '\n') {
            p += 2;
        } else if ((next = escape(p + 1, stop, &cp)) != NULL) {
            uint8_t bytes[4];
            int len = tok_utf8_put(bytes, cp);
            for (int i = 0; i < len; i++) out[n++] = (char)bytes[i]; /* an escape is never shorter than its character */
            p = next;
        } else {
            out[n++] = *p++;
        }
    }
    fl_status st = push(x, TOKEN_STRING, 0, out, n);
    advance(x, end + 1);
    return st;
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }
static bool is_name(char c) { return is_digit(c) || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '_' || (c & 0x80); }

static size_t digits_end(const lexer *x, size_t i) {
    while (i < x->n && (is_digit(x->s[i]) || (x->s[i] == '_' && i + 1 < x->n && is_digit(x->s[i + 1])))) i++;
    return i;
}

static fl_status lex_number(lexer *x) {
    size_t begin = x->at, i = begin;
    bool is_float = false;
    if (x->s[i] == '0' && i + 1 < x->n && strchr("xXbBoO", x->s[i + 1])) {
        i += 2;
        while (i < x->n && (hex(x->s[i]) >= 0 || x->s[i] == '_')) i++;
    } else {
        i = digits_end(x, i);
        bool after_dot = begin > 0 && x->s[begin - 1] == '.';
        if (!after_dot && i + 1 < x->n && x->s[i] == '.' && is_digit(x->s[i + 1])) {
            i = digits_end(x, i + 1);
            is_float = true;
        }
        if (!after_dot && i < x->n && (x->s[i] | 32) == 'e') {
            size_t e = i + 1;
            if (e < x->n && (x->s[e] == '+' || x->s[e] == '-')) e++;
            if (e < x->n && is_digit(x->s[e])) {
                i = digits_end(x, e);
                is_float = true;
            }
        }
    }
    fl_status st = push(x, is_float ? TOKEN_FLOAT : TOKEN_INT, 0, x->s + begin, i - begin);
    advance(x, i);
    return st;
}

static fl_status lex_operator(lexer *x, char *braces, size_t *n_braces) {
    static const char *const two[] = {"//", "**", "==", "!=", "<=", ">="};
    char c = x->s[x->at];
    for (size_t k = 0; k < sizeof two / sizeof *two; k++)
        if (is_at(x, x->at, two[k])) {
            fl_status st = push(x, TOKEN_OP, JINJA_OP2(two[k][0], two[k][1]), x->s + x->at, 2);
            advance(x, x->at + 2);
            return st;
        }
    if (!c || !strchr("+-*/%~<>=.:|,;()[]{}", c)) return fail(x, "unexpected character");
    if (strchr("([{", c)) {
        if (*n_braces == JINJA_DEPTH_MAX) return fail(x, "brackets are nested too deep");
        braces[(*n_braces)++] = c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (strchr(")]}", c)) {
        if (!*n_braces || braces[*n_braces - 1] != c) return fail(x, "a bracket closes that was not opened");
        (*n_braces)--;
    }
    fl_status st = push(x, TOKEN_OP, c, x->s + x->at, 1);
    advance(x, x->at + 1);
    return st;
}

/* Tokens up to and with the closing of a print or block. */
static fl_status lex_code(lexer *x, bool print) {
    char braces[JINJA_DEPTH_MAX];
    size_t n_braces = 0;
    fl_status st = FL_OK;
    while (st == FL_OK) {
        skip_space(x);
        if (x->at >= x->n) return fail(x, print ? "{{ without }}" : "{% without %}");
        char c = x->s[x->at];
        if (!n_braces && print && (is_at(x, x->at, "}}") || is_at(x, x->at, "-}}"))) {
            st = push(x, TOKEN_PRINT_END, 0, "}}", 2);
            advance(x, x->at + (c == '-' ? 3 : 2));
            if (c == '-') skip_space(x);
            x->line_start = x->s[x->at - 1] == '\n';
            return st;
        }
        if (!n_braces && !print && closes(x, x->at, "%}")) {
            st = push(x, TOKEN_BLOCK_END, 0, "%}", 2);
            close_block(x);
            return st;
        }
        if (is_digit(c)) {
            st = lex_number(x);
        } else if (c == '"' || c == '\'') {
            st = lex_string(x);
        } else if (is_name(c)) {
            size_t end = x->at;
            while (end < x->n && is_name(x->s[end])) end++;
            st = push(x, TOKEN_NAME, 0, x->s + x->at, end - x->at);
            advance(x, end);
        } else {
            st = lex_operator(x, braces, &n_braces);
        }
    }
    return st;
}

static fl_status lex_comment(lexer *x) {
    for (size_t i = x->at; i + 1 < x->n; i++)
        if (is_at(x, i, "#}")) {
            /* The sign belongs to the closing unless it is the sign of the opening. */
            if (i > x->at && (x->s[i - 1] == '-' || x->s[i - 1] == '+')) i--;
            advance(x, i);
            close_block(x);
            return FL_OK;
        }
    return fail(x, "comment without an end");
}

static fl_status lex_all(lexer *x) {
    fl_status st = FL_OK;
    while (st == FL_OK && x->at < x->n) {
        size_t begin = x->at, i = begin;
        while (i < x->n && !(x->s[i] == '{' && i + 1 < x->n && strchr("{%#", x->s[i + 1]) && x->s[i + 1])) i++;
        if (i >= x->n) return push(x, TOKEN_DATA, 0, x->s + begin, x->n - begin);
        char kind = x->s[i + 1], sign = i + 2 < x->n ? x->s[i + 2] : '\0';
        size_t end = data_end(x, begin, i, sign, kind == '{');
        if (end > begin) st = push(x, TOKEN_DATA, 0, x->s + begin, end - begin);
        if (st != FL_OK) return st;
        advance(x, i + 2);
        if (sign == '-' || (sign == '+' && kind != '{')) advance(x, x->at + 1);
        if (kind == '#') {
            st = lex_comment(x);
        } else if (kind == '{') {
            st = push(x, TOKEN_PRINT, 0, "{{", 2);
            if (st == FL_OK) st = lex_code(x, true);
        } else if (!lex_raw(x, &st)) {
            st = push(x, TOKEN_BLOCK, 0, "{%", 2);
            if (st == FL_OK) st = lex_code(x, false);
        }
    }
    return st;
}

fl_status jinja_lex(base_arena *arena, const char *text, size_t n, jinja_token **tokens, size_t *n_tokens,
                    fl_err *err) {
    lexer x = {.arena = arena, .line = 1, .line_start = true, .err = err};
    size_t bad = tok_utf8_check(text, n);
    if (bad < n) return fl_fail(err, FL_EINVAL, "template is not valid UTF-8 at byte %zu", bad);
    x.s = base_arena_alloc(arena, n + 1);
    if (!x.s) return fl_fail(err, FL_ENOMEM, "template of %zu bytes", n);
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\r')
            x.s[x.n++] = '\n';
        else if (!(text[i] == '\n' && i && text[i - 1] == '\r'))
            x.s[x.n++] = text[i];
    }
    if (x.n && x.s[x.n - 1] == '\n') x.n--;
    fl_status st = lex_all(&x);
    if (st == FL_OK) st = push(&x, TOKEN_EOF, 0, "", 0);
    *tokens = x.tokens;
    *n_tokens = x.n_tokens;
    return st;
}
