/* tok/doc.c: what is read from JSON, what is refused and where. tests/fuzz/json_fuzz.c compares with another reader. */
#include "base/mem.h"
#include "test.h"
#include "tok/doc.h"

#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_text(const tok_node *v, const char *s, size_t n) {
    tok_text x = tok_node_text(v);
    return x.bytes && x.n == n && memcmp(x.bytes, s, n) == 0 && x.bytes[n] == '\0';
}

TEST(values) {
    const char *json = " {\"a\" : [1,-2 , 0,-0,9223372036854775807,-9223372036854775808],\n"
                       "\"b\":{\"x\":null,\"y\":true,\"z\":false,\"\":{}},\t\"c\":[1.5,-2e3,0.25E-2,1e+2,[]],"
                       "\"s\":[\"\",\"plain\",\"\\\"\\\\\\/\\b\\f\\n\\r\\t\",\"\\u0041\\u00e9\\u20AC\\ud83D\\uDE00\","
                       "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\x7f\",\"a\\u0000b\"]}\r\n";
    static const int64_t ints[] = {1, -2, 0, 0, INT64_MAX, INT64_MIN};
    static const double reals[] = {1.5, -2000, 0.0025, 100};
    tok_doc d;
    fl_err err;
    CHECK(tok_doc_open(&d, "text", json, strlen(json), &err) == FL_OK);
    const tok_node *root = d.nodes, *a = tok_node_get(root, "a"), *b = tok_node_get(root, "b"),
                   *c = tok_node_get(root, "c"), *s = tok_node_get(root, "s");
    CHECK(tok_node_is(root, TOK_NODE_OBJECT) && root->n == 4 && root->as.inside == d.n_nodes - 1);
    CHECK(tok_node_count(a) == 6 && tok_node_count(c) == 5 && tok_node_count(s) == 6 && tok_node_count(b) == 0);
    uint32_t i = 0;
    for (const tok_node *v = tok_node_first(a); v; v = tok_node_next(a, v), i++)
        CHECKF(tok_node_is(v, TOK_NODE_INT) && tok_node_int(v) == ints[i], "integer %u", i);
    CHECK(i == 6);
    for (i = 0; i < 4; i++)
        CHECKF(tok_node_is(tok_node_at(c, i), TOK_NODE_REAL) && tok_node_number(tok_node_at(c, i)) == reals[i],
               "real %u", i);
    CHECK(tok_node_is(tok_node_at(c, 4), TOK_NODE_LIST) && !tok_node_first(tok_node_at(c, 4)) && !tok_node_at(c, 5));
    CHECK(tok_node_is(tok_node_get(b, "x"), TOK_NODE_NULL) && tok_node_is(tok_node_get(b, "y"), TOK_NODE_TRUE));
    CHECK(tok_node_is(tok_node_get(b, "z"), TOK_NODE_FALSE) && tok_node_is(tok_node_get(b, ""), TOK_NODE_OBJECT));
    CHECK(!tok_node_first_key(tok_node_get(b, "")) && !tok_node_get(b, "w") && !tok_node_get(a, "x"));
    CHECK(is_text(tok_node_at(s, 0), "", 0) && is_text(tok_node_at(s, 1), "plain", 5));
    CHECK(is_text(tok_node_at(s, 2), "\"\\/\b\f\n\r\t", 8));
    CHECK(is_text(tok_node_at(s, 3), "A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 10));
    CHECK(is_text(tok_node_at(s, 4), "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\x7f", 10));
    CHECK(is_text(tok_node_at(s, 5), "a\0b", 3));
    tok_doc_clear(&d);
}

static void refuse(const char *json, size_t n, const char *words) {
    tok_doc d;
    fl_err err;
    size_t before = base_mem_bytes();
    char *exact = malloc(n ? n : 1); /* so that a byte read beyond the end is seen by a sanitizer */
    if (!exact) return;
    memcpy(exact, json, n);
    fl_status st = tok_doc_open(&d, "text", exact, n, &err);
    CHECKF(st == FL_EFORMAT && strncmp(err.msg, "text: ", 6) == 0 && strstr(err.msg, words),
           "%.60s: wanted \"%s\", got \"%s\"", json, words, st ? err.msg : "nothing");
    tok_doc_clear(&d);
    CHECK(base_mem_bytes() == before);
    free(exact);
}

TEST(refused) {
    static const struct {
        const char *json, *words;
    } cases[] = {
        {"", "no JSON object (line 1, column 1)"},
        {" 1", "no JSON object (line 1, column 2)"},
        {"[]", "no JSON object"},
        {"\xef\xbb\xbf{}", "no JSON object"},
        {"{", "ends too early (line 1, column 2)"},
        {"{\n \"a\":1\n", "ends too early (line 3, column 1)"},
        {"{]", "a key is missing"},
        {"{\"a\":1,}", "a key is missing (line 1, column 8)"},
        {"{,\"a\":1}", "a key is missing"},
        {"{\"a\" 1}", "a colon is missing"},
        {"{\"a\":}", "a value is missing"},
        {"{\"a\":[1,]}", "a value is missing"},
        {"{\"a\":[1 2]}", "a comma is missing"},
        {"{\"a\":[1}", "a comma is missing"},
        {"{\"a\":[}", "a value is missing"},
        {"{\"a\":1} {}", "something follows"},
        {"{\"a\":nul}", "a value is missing"},
        {"{\"a\":truefalse}", "a comma is missing"},
        {"{\"a\":01}", "a comma is missing"},
        {"{\"a\":+1}", "a value is missing"},
        {"{\"a\":.5}", "a value is missing"},
        {"{\"a\":-}", "a minus without digits"},
        {"{\"a\":1.}", "without digits behind its point"},
        {"{\"a\":1e}", "without digits in its exponent"},
        {"{\"a\":1e+}", "without digits in its exponent"},
        {"{\"a\":1e999}", "too large (line 1, column 6)"},
        {"{\"a\":9223372036854775808}", "beyond 64 bits"},
        {"{\"a\":-9223372036854775809}", "beyond 64 bits"},
        {"{\"a\":99999999999999999999999}", "beyond 64 bits"},
        {"{\"a\":'b'}", "a value is missing"},
        {"{\"a\":\"b", "a string does not end (line 1, column 6)"},
        {"{\"a\":\"b\\", "ends too early"},
        {"{\"a\":\"\\x\"}", "an escape that is not known"},
        {"{\"a\":\"\\u12g4\"}", "not followed by a character"},
        {"{\"a\":\"\\u12", "not followed by a character"},
        {"{\"a\":\"\\ud800\"}", "not followed by a character"},
        {"{\"a\":\"\\ud800\\u0041\"}", "not followed by a character"},
        {"{\"a\":\"\\ud800\\ud8", "not followed by a character"},
        {"{\"a\":\"\\udc00\"}", "not followed by a character"},
        {"{\"a\":\"\t\"}", "a control character in a string (line 1, column 7)"},
        {"{\"a\":\"\xc3\"}", "not UTF-8 (line 1, column 7)"},
        {"{\"a\":\"\xc0\x80\"}", "not UTF-8"},
        {"{\"a\":\"\xed\xa0\x80\"}", "not UTF-8"},
        {"{\"a\":\"\xf4\x90\x80\x80\"}", "not UTF-8"},
        {"{\"a\\u0000\":1}", "NUL in a key"},
        {"{\"a\":1,\"b\":2,\"\\u0061\":3}", "the key \"a\" twice"},
        {"{\"k\":{\"1\":0,\"2\":0,\"3\":0,\"4\":0,\"5\":0,\"6\":0,\"7\":0,\"8\":0,\"9\":0,\"4\":0}}",
         "the key \"4\" twice"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        refuse(cases[i].json, strlen(cases[i].json), cases[i].words);
    refuse("{\"a\":\0}", 7, "a value is missing");
    refuse("{\"a\":\"\0\"}", 9, "a control character");
    refuse("{\"a\":\"\\\0\"}", 10, "an escape that is not known");
}

TEST(depth) {
    enum { N = TOK_DOC_DEPTH };
    static char json[8 * N];
    for (int extra = 0; extra < 2; extra++) {
        int n = sprintf(json, "{\"a\":");
        for (int i = 0; i < N - 1 + extra; i++) json[n++] = '[';
        for (int i = 0; i < N - 1 + extra; i++) json[n++] = ']';
        json[n++] = '}';
        if (extra) {
            refuse(json, (size_t)n, "depth");
            continue;
        }
        tok_doc d;
        CHECK(tok_doc_open(&d, "text", json, (size_t)n, NULL) == FL_OK && d.n_nodes == N + 1);
        tok_doc_clear(&d);
    }
}

/* Many keys: all found, an equal one refused wherever it stands. */
TEST(many_keys) {
    enum { N = 5000 };
    static char json[N * 20];
    for (int twice = 0; twice < N; twice += 617) {
        size_t n = (size_t)sprintf(json, "{\"o\":{");
        for (int i = 0; i < N; i++) n += (size_t)sprintf(json + n, "\"k%d\":[%d],", i, i);
        size_t ok = n;
        n += (size_t)sprintf(json + n, "\"k%d\":0}}", twice);
        refuse(json, n, "twice");
        n = ok + (size_t)sprintf(json + ok, "\"k\":0}}");
        tok_doc d;
        CHECK(tok_doc_open(&d, "text", json, n, NULL) == FL_OK);
        char key[16];
        (void)sprintf(key, "k%d", twice);
        CHECK(tok_node_int(tok_node_at(tok_node_get(tok_node_get(d.nodes, "o"), key), 0)) == twice);
        tok_doc_clear(&d);
    }
}

/* A program may have set a locale that writes numbers with a comma. */
TEST(decimal_comma) {
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8")) SKIP("no locale with a decimal comma");
    tok_doc d;
    CHECK(tok_doc_open(&d, "text", "{\"a\":1.5}", 9, NULL) == FL_OK);
    CHECK(tok_node_number(tok_node_get(d.nodes, "a")) == 1.5);
    tok_doc_clear(&d);
    (void)setlocale(LC_NUMERIC, "C");
}

TEST(allocation_failures) {
    const char *json =
        "{\"a\":1,\"b\":2,\"c\":3,\"d\":4,\"e\":5,\"f\":6,\"g\":7,\"h\":8,\"i\":9,\"j\":[1,2,3,4,5,6,7,8,9,0]}";
    for (uint64_t k = 1;; k++) {
        tok_doc d;
        fl_err err;
        size_t before = base_mem_bytes();
        base_mem_fail_at(k);
        fl_status st = tok_doc_open(&d, "text", json, strlen(json), &err);
        bool failed = base_mem_failed();
        base_mem_fail_at(0);
        CHECK(failed ? st == FL_ENOMEM : st == FL_OK);
        tok_doc_clear(&d);
        CHECK(base_mem_bytes() == before);
        if (!failed) break;
    }
}
