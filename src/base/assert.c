#include "base/assert.h"

#include <stdio.h>
#include <stdlib.h>

_Noreturn void base_assert_fail(const char *condition, const char *file, int line) {
    fprintf(stderr, "flambeau: internal error: %s does not hold (%s:%d)\n", condition, file, line);
    abort();
}
