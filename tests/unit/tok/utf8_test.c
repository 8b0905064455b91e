/* UTF-8: every code point there and back, and the classes of invalid bytes. */
#include "test.h"

#include "tok/utf8.h"

#include <string.h>

TEST(every_code_point) {
    for (uint32_t cp = 0; cp <= 0x10ffff; cp++) {
        uint8_t bytes[4];
        int n = tok_utf8_put(bytes, cp), len;
        bool surrogate = cp >= 0xd800 && cp <= 0xdfff;
        if (tok_utf8_char(bytes, (size_t)n) != (surrogate ? TOK_UTF8_INVALID : n))
            test_fail(__FILE__, __LINE__, "U+%04X", cp);
        if (surrogate) continue;
        if (tok_utf8_get(bytes, &len) != cp || len != n) test_fail(__FILE__, __LINE__, "U+%04X reads differently", cp);
        for (int k = 1; k < n; k++)
            if (tok_utf8_char(bytes, (size_t)k) != TOK_UTF8_PARTIAL)
                test_fail(__FILE__, __LINE__, "U+%04X cut at %d", cp, k);
    }
}

TEST(invalid) {
    static const struct {
        const char *text;
        size_t at;
    } cases[] = {{"\x80", 0},
                 {"a\xc0\xaf", 1},
                 {"\xc1\xbf", 0},
                 {"\xe0\x80\x80", 0},
                 {"ab\xf0\x80\x80\x80", 2},
                 {"\xf5\x80\x80", 0},
                 {"\xed\xa0\x80", 0},
                 {"\xe4\xbd", 0},
                 {"abcdefgh\xff", 8},
                 {"abcdefghi\xe4\xbd\xa0\xe4", 12},
                 {"\xfe", 0},
                 {"\xf4\x90\x80\x80", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECKF(tok_utf8_check(cases[i].text, strlen(cases[i].text)) == cases[i].at, "case %zu", i);
    CHECK(tok_utf8_check("", 0) == 0);
    CHECK(tok_utf8_check("a\0b", 3) == 3);
    CHECK(tok_utf8_count("a\xe4\xbd\xa0z", 5) == 3);
}
