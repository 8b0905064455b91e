#include "base/sha1.h"

#include "test.h"

#include <string.h>

static void check(const void *data, size_t n, size_t piece, const char *want) {
    char hex[BASE_SHA1_HEX_BYTES];
    base_sha1 s;
    base_sha1_begin(&s);
    for (size_t at = 0; at < n; at += piece)
        base_sha1_add(&s, (const char *)data + at, n - at < piece ? n - at : piece);
    base_sha1_end(&s, hex);
    CHECKF(strcmp(hex, want) == 0, "%zu bytes in pieces of %zu: %s", n, piece, hex);
}

/* The examples of FIPS 180 and the lengths around a block, the latter by Python's hashlib. */
TEST(known_digests) {
    char a[1000];
    memset(a, 'a', sizeof a);
    check("", 0, 1, "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    check("abc", 3, 3, "a9993e364706816aba3e25717850c26c9cd0d89d");
    check("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56, 7,
          "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
    check(a, 55, 55, "c1c8bbdc22796e28c0e15163d20899b65621d65a");
    check(a, 56, 10, "c2db330f6083854c99d4b5bfb6e8f29f201be699");
    check(a, 63, 63, "03f09f5b158a7a8cdad920bddc29b81c18a551f5");
    check(a, 64, 64, "0098ba824b5c16427bd7a1122a5a442a25ec644d");
    check(a, 65, 3, "11655326c708d70319be2610e8a57d9a5b959d3b");
    check(a, 119, 50, "ee971065aaa017e0632a8ca6c77bb3bf8b1dfc56");
    check(a, 120, 120, "f34c1488385346a55709ba056ddd08280dd4c6d6");
    check(a, 1000, 128, "291e9a6c66994949b57ba5e650361e98fc36b1ba");
}
