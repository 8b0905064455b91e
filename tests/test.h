/* tests/test.h - the test harness: one program per *_test.c file.
 *
 * TEST(name) { ... } registers a test; CHECK* record a failure and go on;
 * SKIP("why") leaves the test. A program prints a line per failed or skipped test
 * and closes with `N passed, N failed, N skipped`, which ./test.sh adds up.
 * Files named relative to the repository are opened from its root (tests run there).
 */
#ifndef TEST_H
#define TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void test_add(const char *name, void (*run)(void));
void test_fail(const char *file, int line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void test_skip(const char *why);

#define TEST(name)                                                                                                     \
    static void test_##name(void);                                                                                     \
    __attribute__((constructor)) static void add_##name(void) { test_add(#name, test_##name); }                        \
    static void test_##name(void)

#define CHECK(c)       ((c) ? (void)0 : test_fail(__FILE__, __LINE__, "%s", #c))
#define CHECKF(c, ...) ((c) ? (void)0 : test_fail(__FILE__, __LINE__, __VA_ARGS__))
#define SKIP(why)                                                                                                      \
    do {                                                                                                               \
        test_skip(why);                                                                                                \
        return;                                                                                                        \
    } while (0)

/* The whole file, NUL-terminated, freed with free(); NULL when it cannot be read. */
char *test_read_file(const char *path, size_t *size);

/* Deterministic numbers for test data: uniform in [-1, 1), and below n. */
float test_random_float(uint64_t *state);
uint32_t test_random_below(uint64_t *state, uint32_t n);

#endif
