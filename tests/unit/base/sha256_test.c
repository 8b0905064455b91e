#include "base/sha256.h"

#include "test.h"

#include <stdlib.h>
#include <string.h>

static void check(const void *data, size_t n, const char *want) {
    char hex[BASE_SHA256_HEX_BYTES];
    base_sha256 s;
    base_sha256_begin(&s);
    base_sha256_add(&s, data, n);
    base_sha256_end(&s, hex);
    CHECKF(strcmp(hex, want) == 0, "%zu bytes: %s, wanted %s", n, hex, want);
}

/* The messages of FIPS 180-4's examples. */
TEST(standard_vectors) {
    check("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const char *two = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    check(two, 56, "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    char *million = malloc(1000000);
    memset(million, 'a', 1000000);
    check(million, 1000000, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    free(million);
}

/* Any cut gives the digest of the whole, for every length around the block size. */
TEST(pieces_equal_the_whole) {
    uint8_t data[200];
    uint64_t seed = 7;
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)test_random_below(&seed, 256);
    for (size_t n = 0; n <= sizeof data; n++) {
        char whole[BASE_SHA256_HEX_BYTES], pieces[BASE_SHA256_HEX_BYTES];
        base_sha256 s;
        base_sha256_begin(&s);
        base_sha256_add(&s, data, n);
        base_sha256_end(&s, whole);
        base_sha256_begin(&s);
        for (size_t at = 0; at < n;) {
            size_t step = 1 + test_random_below(&seed, 70);
            if (step > n - at) step = n - at;
            base_sha256_add(&s, data + at, step);
            at += step;
        }
        base_sha256_end(&s, pieces);
        CHECKF(strcmp(whole, pieces) == 0, "%zu bytes", n);
    }
}
