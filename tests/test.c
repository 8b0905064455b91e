#include "test.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TESTS_MAX = 512 };
static struct {
    const char *name;
    void (*run)(void);
} tests[TESTS_MAX];
static int n_tests, n_failures;
static const char *skipped;

void test_add(const char *name, void (*run)(void)) {
    if (n_tests == TESTS_MAX) abort();
    tests[n_tests].name = name;
    tests[n_tests++].run = run;
}

void test_fail(const char *file, int line, const char *fmt, ...) {
    n_failures++;
    if (n_failures > 20) return;
    va_list ap;
    va_start(ap, fmt);
    fprintf(stdout, "  %s:%d: ", file, line);
    vfprintf(stdout, fmt, ap);
    fputc('\n', stdout);
    va_end(ap);
}

void test_skip(const char *why) { skipped = why; }

char *test_read_file(const char *path, size_t *size) {
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    char *data = n < 0 ? NULL : malloc((size_t)n + 1);
    if (data && fread(data, 1, (size_t)n, f) != (size_t)n) {
        free(data);
        data = NULL;
    }
    fclose(f);
    if (!data) return NULL;
    data[n] = '\0';
    if (size) *size = (size_t)n;
    return data;
}

static uint64_t next(uint64_t *state) {
    *state += 0x9e3779b97f4a7c15u;
    uint64_t z = *state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

float test_random_float(uint64_t *state) { return (float)(int32_t)(next(state) >> 32) * 0x1p-31f; }
uint32_t test_random_below(uint64_t *state, uint32_t n) { return (uint32_t)((next(state) >> 32) * n >> 32); }

/* An argument runs only the tests whose name contains it. */
int main(int argc, char **argv) {
    int passed = 0, failed = 0, n_skipped = 0;
    for (int i = 0; i < n_tests; i++) {
        if (argc > 1 && !strstr(tests[i].name, argv[1])) continue;
        n_failures = 0;
        skipped = NULL;
        tests[i].run();
        if (n_failures)
            printf("FAILED %s (%d)\n", tests[i].name, n_failures);
        else if (skipped)
            printf("skipped %s: %s\n", tests[i].name, skipped);
        n_failures ? failed++ : skipped ? n_skipped++ : passed++;
        fflush(stdout);
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, n_skipped);
    return failed != 0;
}
