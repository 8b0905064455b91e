#include "tok/utf8.h"

#include <string.h>

int tok_utf8_char(const uint8_t *p, size_t n) {
    uint8_t a = p[0], lo = 0x80, hi = 0xbf;
    int len;
    if (a < 0x80) return 1;
    if (a >= 0xc2 && a <= 0xdf) {
        len = 2;
    } else if (a >= 0xe0 && a <= 0xef) {
        len = 3;
        if (a == 0xe0) lo = 0xa0; /* shorter forms exist below */
        if (a == 0xed) hi = 0x9f; /* surrogates above */
    } else if (a >= 0xf0 && a <= 0xf4) {
        len = 4;
        if (a == 0xf0) lo = 0x90;
        if (a == 0xf4) hi = 0x8f;
    } else {
        return TOK_UTF8_INVALID;
    }
    for (int i = 1; i < len; i++) {
        if ((size_t)i == n) return TOK_UTF8_PARTIAL;
        if (p[i] < lo || p[i] > hi) return TOK_UTF8_INVALID;
        lo = 0x80;
        hi = 0xbf;
    }
    return len;
}

size_t tok_utf8_check(const char *s, size_t n) {
    const uint8_t *p = (const uint8_t *)s;
    size_t i = 0;
    while (i < n) {
        uint64_t w;
        if (i + 8 <= n) { /* eight ASCII bytes at a time */
            memcpy(&w, p + i, 8);
            if (!(w & 0x8080808080808080u)) {
                i += 8;
                continue;
            }
        }
        int len = tok_utf8_char(p + i, n - i);
        if (len <= 0) return i;
        i += (size_t)len;
    }
    return n;
}

uint32_t tok_utf8_get(const uint8_t *p, int *len) {
    if (p[0] < 0x80) {
        *len = 1;
        return p[0];
    }
    int n = p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
    uint32_t cp = p[0] & (0x7fu >> n);
    for (int i = 1; i < n; i++) cp = cp << 6 | (p[i] & 0x3fu);
    *len = n;
    return cp;
}

int tok_utf8_put(uint8_t out[4], uint32_t cp) {
    if (cp < 0x80) {
        out[0] = (uint8_t)cp;
        return 1;
    }
    int n = cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
    for (int i = n - 1; i > 0; i--) {
        out[i] = (uint8_t)(0x80 | (cp & 0x3f));
        cp >>= 6;
    }
    out[0] = (uint8_t)((0xf00u >> n) | cp);
    return n;
}

size_t tok_utf8_count(const char *s, size_t n) {
    size_t count = 0;
    for (size_t i = 0; i < n; i++) count += ((uint8_t)s[i] & 0xc0) != 0x80;
    return count;
}
