/* The template engine against recorded answers of the reference library, and against its budgets. */
#include "test.h"

#include "base/mem.h"
#include "tok/jinja.h"
#include "tok/utf8.h"
#include "unit/tok/vocab.h"

static const jinja_clock noon = {2026, 1, 31, 12, 0, 0};

/* Folder of the reference outputs of whole templates, which are not part of the repository. */
static const char *templates_dir(void) {
    const char *dir = getenv("FLAMBEAU_TEST_TEMPLATES");
    return dir ? dir : "../shared/golden/templates";
}

static fl_status render(const char *text, size_t n, const json_t *context, jinja_output *out, fl_err *err) {
    jinja *j;
    *out = (jinja_output){0};
    fl_status st = jinja_open(&j, text, n, err);
    if (st == FL_OK) st = jinja_render(j, context, &noon, out, err);
    jinja_close(j);
    return st;
}

static const char *string_of(const json_t *o, const char *key) { return json_string_value(json_object_get(o, key)); }

/* Checks a rendering against the recorded outcome. NULL when it agrees, else what is wrong with it. */
static const char *judge(const json_t *c, fl_status st, const jinja_output *out, const fl_err *err) {
    const json_t *want = json_object_get(c, "expected"), *error = json_object_get(c, "error");
    if (want) {
        if (st != FL_OK) return err->msg;
        size_t n = json_string_length(want);
        const char *got = out->text.data ? out->text.data : "";
        return out->text.len == n && memcmp(got, json_string_value(want), n) == 0 ? NULL : got;
    }
    const json_t *mutable = json_object_get(error, "mutable");
    if (st == FL_OK) {
        bool same = mutable && out->text.len == json_string_length(mutable) &&
                    memcmp(out->text.data, json_string_value(mutable), out->text.len) == 0;
        return same ? NULL : "no error";
    }
    if (strcmp(string_of(error, "kind"), "raised") == 0 && !strstr(err->msg, string_of(error, "text"))) return err->msg;
    return NULL;
}

/* Cases of constructs that no chat template needs and this engine refuses, with what it says. */
static const struct {
    int i;
    const char *why;
} refused[] = {
    {134, "recursive loops"},
    {179, "this method of str"},
    {189, "this method of str"},
    {191, "this method of str"},
    {192, "this method of str"},
    {231, "filter named"},
    {232, "filter named"},
    {233, "filter named"},
    {235, "filter named"},
    {242, "names are not supported"},
    {245, "filter named"},
    {246, "filter named"},
    {285, "not supported"},
    {299, "undefined"},
    {307, "format:"},
};

TEST(engine) {
    json_t *all = json_load_file("tests/golden/tok/engine.json", JSON_ALLOW_NUL, NULL);
    const json_t *c;
    size_t i, passed = 0, n_refused = 0;
    CHECK(all != NULL);
    json_array_foreach(json_object_get(all, "cases"), i, c) {
        jinja_output out;
        fl_err err = {.msg = ""};
        const json_t *text = json_object_get(c, "template");
        fl_status st =
            render(json_string_value(text), json_string_length(text), json_object_get(c, "context"), &out, &err);
        const char *wrong = judge(c, st, &out, &err), *why = NULL;
        int index = (int)json_integer_value(json_object_get(c, "i"));
        for (size_t k = 0; k < sizeof refused / sizeof *refused; k++)
            if (refused[k].i == index) why = refused[k].why;
        if (why && st != FL_OK && strstr(err.msg, why))
            n_refused++;
        else if (wrong)
            test_fail(__FILE__, __LINE__, "case %d: %s -> %s", index, json_string_value(text), wrong);
        else
            passed++;
        jinja_output_clear(&out);
    }
    printf("  engine: %zu of %zu passed, %zu refused\n", passed, i, n_refused);
    json_decref(all);
}

/* The variables of a case, as the reference had them. */
static json_t *variables(const json_t *c, const json_t *conversations) {
    const json_t *talk = json_object_get(conversations, string_of(c, "conversation"));
    json_t *tools = json_object_get(talk, "tools");
    json_t *v = json_pack("{s:O, s:O, s:n, s:O, s:O, s:O}", "messages", json_object_get(talk, "messages"), "tools",
                          tools ? tools : json_null(), "documents", "add_generation_prompt",
                          json_object_get(c, "add_generation_prompt"), "bos_token", json_object_get(c, "bos_token"),
                          "eos_token", json_object_get(c, "eos_token"));
    if (v) json_object_update(v, json_object_get(c, "kwargs"));
    return v;
}

static jinja *open_template(const char *name, fl_err *err) {
    char path[512];
    size_t n;
    jinja *j = NULL;
    snprintf(path, sizeof path, "%s/jinja/%s.jinja", templates_dir(), name);
    char *text = test_read_file(path, &n);
    CHECKF(text != NULL, "%s", path);
    if (text) CHECKF(jinja_open(&j, text, n, err) == FL_OK, "%s: %s", name, err->msg);
    free(text);
    return j;
}

static json_t *load_templates(const char *file) {
    char path[512];
    snprintf(path, sizeof path, "%s/%s", templates_dir(), file);
    return json_load_file(path, JSON_ALLOW_NUL, NULL);
}

/* The literal ranges are rising, disjoint, inside the text, and begin and end at characters. */
static bool ranges_hold(const jinja_output *out) {
    size_t at = 0;
    for (size_t i = 0; i < out->n_literal; i++) {
        const tok_range x = out->literal[i];
        if (x.begin >= x.end || (i ? x.begin <= at : x.begin < at) || x.end > out->text.len) return false;
        if (tok_utf8_check(out->text.data + x.begin, x.end - x.begin) != x.end - x.begin) return false;
        at = x.end;
    }
    return true;
}

TEST(templates) {
    json_t *all = load_templates("cases.json");
    if (!all) SKIP("the recorded templates are not there");
    const json_t *c;
    size_t i, passed = 0, n_templates = 0, n_whole = 0;
    char name[128] = "";
    bool whole = false;
    jinja *j = NULL;
    fl_err err;
    json_array_foreach(json_object_get(all, "cases"), i, c) {
        if (strcmp(name, string_of(c, "template")) != 0) {
            jinja_close(j);
            n_whole += whole;
            n_templates++;
            snprintf(name, sizeof name, "%s", string_of(c, "template"));
            j = open_template(name, &err);
            whole = j != NULL;
        }
        json_t *v = variables(c, json_object_get(all, "conversations"));
        jinja_output out = {0};
        fl_status st = j ? jinja_render(j, v, &noon, &out, &err) : FL_EINVAL;
        const char *wrong = judge(c, st, &out, &err);
        if (wrong) test_fail(__FILE__, __LINE__, "%s %s -> %.300s", name, string_of(c, "conversation"), wrong);
        CHECK(ranges_hold(&out));
        whole = whole && !wrong;
        passed += !wrong;
        jinja_output_clear(&out);
        json_decref(v);
    }
    jinja_close(j);
    n_whole += whole;
    printf("  templates: %zu of %zu cases passed, %zu of %zu templates in all their cases\n", passed, i, n_whole,
           n_templates);
    json_decref(all);
}

/* Text of users makes no control tokens. */
TEST(chat_tokens) {
    json_t *all = load_templates("chat_tokens.json"), *cases = load_templates("cases.json");
    const char *dir = getenv("FLAMBEAU_TEST_VOCAB");
    char path[512];
    vocab v;
    snprintf(path, sizeof path, "%s/smollm2.gguf.vocab.json", dir ? dir : "");
    if (!all || !cases || !dir || !vocab_load(&v, path)) {
        json_decref(all);
        json_decref(cases);
        SKIP("the recorded chats or FLAMBEAU_TEST_VOCAB are not there");
    }
    fl_err err;
    tok *t;
    CHECK(tok_open(&t, &v.source, &err) == FL_OK);
    vocab_free(&v);
    jinja *j = open_template("gguf-SmolLM2-135M-Instruct", &err);
    const json_t *c;
    size_t i, n = 0;
    json_array_foreach(json_object_get(all, "cases"), i, c) {
        if (strcmp(string_of(c, "tokenizer"), "smollm2.gguf") != 0) continue;
        json_t *o = json_deep_copy(c);
        json_object_set_new(o, "bos_token", json_string("<|im_start|>"));
        json_object_set_new(o, "eos_token", json_string("<|im_end|>"));
        json_t *context = variables(o, json_object_get(cases, "conversations"));
        jinja_output out;
        tok_ids ids = {0};
        CHECK(jinja_render(j, context, &noon, &out, &err) == FL_OK);
        CHECK(tok_encode_ranges(t, out.text.data, out.text.len, out.literal, out.n_literal, 0, &ids, &err) == FL_OK);
        const json_t *want = json_object_get(c, "ids");
        bool same = ids.n == json_array_size(want);
        for (size_t k = 0; same && k < ids.n; k++)
            same = ids.ids[k] == (uint32_t)json_integer_value(json_array_get(want, k));
        CHECKF(same, "conversation %s", string_of(c, "conversation"));
        n++;
        tok_ids_clear(&ids);
        jinja_output_clear(&out);
        json_decref(context);
        json_decref(o);
    }
    CHECK(n > 20);
    jinja_close(j);
    tok_close(t);
    json_decref(all);
    json_decref(cases);
}

/* Which bytes come from the caller: digits stand for their ranges in the output. */
TEST(origins) {
    static const struct {
        const char *text, *literal; /* literal: output with the caller's bytes as dots */
    } cases[] = {
        {"a{{ u }}b", "a...b"},
        {"{{ 'x' + u + 'y' }}", "x...y"},
        {"{{ bos_token ~ u }}", "<s>..."},
        {"{{ u[1:] }}{{ u | upper }}", "....."},
        {"{{ ('x' ~ u ~ 'y')[1:] | trim }}", "...y"},
        {"{{ ('-' ~ u) | replace('-', '+') }}", "+..."},
        {"{{ u | replace('b', '|') }}", ".|."},
        {"{{ [u, 'k'] | join(',') }}", "...,k"},
        {"{{ [u] }}", "['...']"},
        {"{{ {'k': u} | tojson }}", "{\"k\": \"...\"}"},
        {"{{ 'p%sq' | format(u) }}", "p...q"},
        {"{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(u) }}", "<...>"},
        {"{% set s %}[{{ u }}]{% endset %}{{ s }}", "[...]"},
        {"{{ (u ~ '|' ~ u).split('|')[1] }}", "..."},
        {"{% filter upper %}x{{ u }}{% endfilter %}", "X..."},
        {"{{ messages[0].content ~ messages[0].role }}", "......"},
    };
    json_t *context = json_pack("{s:s, s:s, s:[{s:s, s:s}]}", "u", "abc", "bos_token", "<s>", "messages", "role", "usr",
                                "content", "hey");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        jinja_output out;
        fl_err err = {.msg = ""};
        CHECKF(render(cases[i].text, strlen(cases[i].text), context, &out, &err) == FL_OK, "%s", err.msg);
        char *shown = calloc(out.text.len + 1, 1);
        if (!shown) abort();
        memset(shown, '.', out.text.len);
        for (size_t k = 0; k < out.n_literal; k++)
            memcpy(shown + out.literal[k].begin, out.text.data + out.literal[k].begin,
                   out.literal[k].end - out.literal[k].begin);
        CHECKF(strcmp(shown, cases[i].literal) == 0, "%s: \"%s\"", cases[i].text, shown);
        free(shown);
        jinja_output_clear(&out);
    }
    json_decref(context);
}

/* Templates that would run for ever, or fill the memory or the stack, end with an error. */
TEST(budgets) {
    static const struct {
        const char *text, *words;
        fl_status status;
    } cases[] = {
        {"{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "operations", FL_ENOMEM},
        {"{% for a in range(100001) %}{% endfor %}", "100000", FL_ENOMEM},
        {"{{ 'x' * 100000000 }}", "too long", FL_ENOMEM},
        {"{{ [1] * 100000000 }}", "too long", FL_ENOMEM},
        {"{% for a in range(20) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxx' * 100000 }}{% endfor %}", "longer than", FL_ENOMEM},
        {"{% set n = namespace(s='xxxxxxxx') %}{% for a in range(50) %}{% set n.s = n.s + n.s %}{% endfor %}",
         "longer than", FL_ENOMEM},
        {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "line 1", FL_ENOMEM},
        {"{% set l = [] %}{% for i in range(9) %}{% set _ = l.append(l) %}{% endfor %}{{ l }}", "", FL_ENOMEM},
        {"{% set l = [] %}{% set _ = l.append(l) %}{{ l | tojson }}", "deep", FL_ENOMEM},
        {"{% set l = [1] %}{% for x in l %}{% set _ = l.append(x) %}{% endfor %}{{ l | length }}", NULL, FL_OK},
        {"\n\n{{ raise_exception('no ' ~ 'way') }}", "line 3: no way", FL_EINVAL},
        {"{% set a = ('x' * 1000) * 9000 %}{% set b = ('x' * 1000) * 4000 %}{{ ('y' ~ a).rfind(b ~ 'z') }}",
         "operations", FL_ENOMEM},
        {"{% set a = ('x' * 1000) * 9000 %}{{ a.strip(a) }}", "operations", FL_ENOMEM},
        {"{% set a = ('x' * 1000) * 9000 %}{% set b = a ~ '' %}{% for i in range(99999) %}{{ a == b }}{{ a | length "
         "}}{% "
         "endfor %}",
         "operations", FL_ENOMEM},
        {"{{ 9223372036854775807 + 1 }}", "64 bits", FL_EINVAL},
        {"{{ 10 ** 40 }}", "64 bits", FL_EINVAL},
        {"{{ strftime_now(1) }}", "format", FL_EINVAL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        jinja_output out;
        fl_err err = {.msg = ""};
        size_t before = base_mem_bytes();
        fl_status st = render(cases[i].text, strlen(cases[i].text), NULL, &out, &err);
        CHECKF(st == cases[i].status && (!cases[i].words || strstr(err.msg, cases[i].words)), "%s: %s %s",
               cases[i].text, fl_status_name(st), err.msg);
        jinja_output_clear(&out);
        CHECK(base_mem_bytes() == before);
    }
}

/* Long chains and deep nesting, which must not use up the stack. */
TEST(depth) {
    static const struct {
        const char *open, *middle, *close;
    } cases[] = {{"(", "1", ")"},           {"[", "", "]"},    {"-", "1", ""},     {"not ", "1", ""},
                 {"1 if 1 else ", "1", ""}, {"1 + ", "1", ""}, {"x.y[", "0", "]"}, {"", "1", "|string"},
                 {"", "x", ".y"},           {"{1:", "1", "}"}, {"1 ~ ", "1", ""},  {"1 and ", "1", ""}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        base_buf text = {0};
        jinja_output out;
        fl_err err;
        base_buf_puts(&text, "{{ ");
        for (int k = 0; k < 20000; k++) base_buf_puts(&text, cases[i].open);
        base_buf_puts(&text, cases[i].middle);
        for (int k = 0; k < 20000; k++) base_buf_puts(&text, cases[i].close);
        base_buf_puts(&text, " }}");
        fl_status st = render(text.data, text.len, NULL, &out, &err);
        CHECK(st == FL_EINVAL || st == FL_ENOMEM || i == 10);
        jinja_output_clear(&out);
        base_buf_clear(&text);
    }
    base_buf text = {0};
    jinja_output out;
    fl_err err;
    for (int k = 0; k < 5000; k++) base_buf_puts(&text, "{% if 1 %}");
    CHECK(render(text.data, text.len, NULL, &out, &err) == FL_EINVAL);
    jinja_output_clear(&out);
    base_buf_clear(&text);
    json_t *deep = json_array();
    for (int k = 0; k < 1000; k++) {
        json_t *outer = json_array();
        json_array_append_new(outer, deep);
        deep = outer;
    }
    json_t *context = json_pack("{s:o}", "x", deep);
    CHECK(render("{{ x }}", 7, context, &out, &err) == FL_EINVAL);
    jinja_output_clear(&out);
    json_decref(context);
}

static const char rich[] =
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{{ caller() }}{% endmacro %}{% set ns = namespace(x=[1]) %}"
    "{% for k, v in d.items() if v %}{{ loop.index }}{{ k ~ v }}{% set ns.x = ns.x + [k] %}{% else %}-{% endfor %}"
    "{% call m(u[::-1]) %}x{% endcall %}{{ d | dictsort | tojson(indent=2) }}{{ u.split('b') | map('upper') | join }}"
    "{% filter trim %} {{ strftime_now('%Y') }} {% endfilter %}{{ '%d' % 3 }}{{ {'a': [1.5, none]} }}";

/* Any part of a template, and any byte changed, gives a result or an error. */
TEST(damaged_templates) {
    json_t *context = json_pack("{s:s, s:{s:i, s:s}}", "u", "abc", "d", "z", 1, "y", "q");
    uint64_t seed = 7;
    for (size_t i = 0; i < 4000; i++) {
        char text[sizeof rich];
        memcpy(text, rich, sizeof rich);
        size_t n = sizeof rich - 1;
        jinja_output out;
        fl_err err;
        if (i < n)
            n = i;
        else
            for (int k = 0; k < 3; k++)
                text[test_random_below(&seed, (uint32_t)n)] =
                    "{}%#-+|.,:()[]'\"ax1 \n~*/<=!\\\x80"[test_random_below(&seed, 30)];
        fl_status st = render(text, n, context, &out, &err);
        CHECK(st == FL_OK || st == FL_EINVAL || st == FL_EUNSUPPORTED || st == FL_ENOMEM);
        jinja_output_clear(&out);
    }
    json_decref(context);
}

TEST(allocation_failures) {
    json_t *context = json_pack("{s:s, s:{s:i, s:s}}", "u", "abc", "d", "z", 1, "y", "q");
    base_buf big = {0}; /* more than one chunk of an arena */
    for (int k = 0; k < 300; k++) base_buf_puts(&big, rich);
    for (uint64_t n = 1;; n++) {
        jinja_output out;
        fl_err err = {.msg = ""};
        size_t before = base_mem_bytes();
        base_mem_fail_at(n);
        fl_status st = render(big.data, big.len, context, &out, &err);
        bool failed = base_mem_failed();
        base_mem_fail_at(0);
        CHECKF(st == (failed ? FL_ENOMEM : FL_OK), "allocation %d: %s", (int)n, err.msg);
        jinja_output_clear(&out);
        CHECK(base_mem_bytes() == before);
        if (!failed) break;
        CHECK(n < 10000);
    }
    base_buf_clear(&big);
    json_decref(context);
}

TEST(bad_templates) {
    static const struct {
        const char *text, *words;
    } cases[] = {{"a\n{{ 1 | nosuch }}", "line 2: no filter named \"nosuch\""},
                 {"{{ 1 is nosuch }}", "no test named"},
                 {"{% include 'x' %}", "unknown tag \"include\""},
                 {"{% for x in y recursive %}{% endfor %}", "recursive"},
                 {"{% if a %}", "ends before"},
                 {"{{ 'a }}", "without an end"},
                 {"{# a", "without an end"},
                 {"\xff", "UTF-8 at byte 0"},
                 {"{{ a", "{{ without }}"},
                 {"{% break %}", "outside of a loop"},
                 {"{{ (1] }}", "bracket"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        jinja_output out;
        fl_err err = {.msg = ""};
        CHECK(render(cases[i].text, strlen(cases[i].text), NULL, &out, &err) == FL_EINVAL);
        CHECKF(strstr(err.msg, cases[i].words) != NULL, "%s: %s", cases[i].text, err.msg);
        jinja_output_clear(&out);
    }
    jinja_output out;
    fl_err err;
    json_t *list = json_array();
    CHECK(render("x", 1, list, &out, &err) == FL_EINVAL);
    jinja_output_clear(&out);
    json_decref(list);
}
