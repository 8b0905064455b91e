/* tok/jinja.h - chat templates: the part of Jinja2 that model repositories use.
 *
 * Semantics are those of the environment that computed the templates' reference outputs:
 * trim_blocks and lstrip_blocks on, loop controls, the `generation` block, Python's printing of
 * values, tojson as json.dumps(ensure_ascii=False). Lists may be appended to. Values are only
 * null, bool, int, float, string, list, dict, and callables of the template; a template reaches
 * nothing else of the process. include, import, extends and recursive loops are refused.
 *
 * A template that came with a model is not trusted: rendering has budgets for operations,
 * output, memory and depth (below), and the clock is an argument.
 *
 * Every string remembers which of its bytes came from the caller's values. The output says which
 * bytes the template itself wrote, so that only there text of control tokens becomes those
 * tokens (tok_encode_ranges()). Trusted like the template: the variables bos_token, eos_token,
 * pad_token and unk_token.
 *
 * Threads: a jinja is frozen once open; any number of threads may render it.
 */
#ifndef TOK_JINJA_H
#define TOK_JINJA_H

#include "base/buf.h"
#include "fl_err.h"
#include "tok/tok.h"

#include <jansson.h>
#include <stddef.h>

typedef struct jinja jinja;

enum {
    JINJA_TEMPLATE_MAX = 1 << 20,  /* bytes of a template */
    JINJA_OUTPUT_MAX = 16 << 20,   /* bytes of the output, and of any string */
    JINJA_FUEL = 10 * 1000 * 1000, /* operations of one rendering */
    JINJA_MEMORY_MAX = 256 << 20,  /* bytes of all values of one rendering */
    JINJA_DEPTH_MAX = 64,          /* nested blocks, brackets, and calls of macros */
    JINJA_NESTING_MAX = 200,       /* nested lists and dicts of a value */
    JINJA_RANGE_MAX = 100000,      /* numbers of one range() */
};

/* Local time for strftime_now(). */
typedef struct {
    int year, month, day, hour, minute, second; /* 2026, 1..12, 1..31, ... */
} jinja_clock;

typedef struct {
    base_buf text;
    tok_range *literal; /* owned: the bytes the template wrote, rising and disjoint */
    size_t n_literal;
} jinja_output;

/* Parses a template (bytes; one newline at the end is dropped). The caller owns *out: jinja_close().
 * Errors: FL_EINVAL with the line, for text that is no template, names unknown filters or tests, or uses what
 * this engine refuses; FL_ENOMEM. */
FL_CHECKED fl_status jinja_open(jinja **out, const char *text, size_t n, fl_err *err);
void jinja_close(jinja *j);

/* Renders with the members of the object context as variables. *out is overwritten; end it with
 * jinja_output_clear(), also after a failure. clock NULL: strftime_now() fails.
 * Errors: FL_EINVAL with the line, for what the template raised or cannot do with these values; FL_ENOMEM for
 * memory and for the budgets above. */
FL_CHECKED fl_status jinja_render(const jinja *j, const json_t *context, const jinja_clock *clock, jinja_output *out,
                                  fl_err *err);
void jinja_output_clear(jinja_output *out);

#endif
