/* Any bytes as a chat template and its variables (JSON, after the first NUL): rendering ends with a text or an error,
 * within its budgets. */
#include "flambeau.h"

#include <stdint.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const char variables[] =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"h\\u00e9 <|x|>\"},{\"role\":\"assistant\",\"content\":\"a\"}],"
        "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"n\":[1,2.5,null,true]}}}]}";
    char context[4096];
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    size_t n_source = nul ? (size_t)(nul - data) : size, n_context = nul ? size - n_source - 1 : 0;
    if (n_context >= sizeof context) return 0;
    if (n_context) memcpy(context, nul + 1, n_context);
    context[n_context] = '\0';
    char *text;
    size_t n;
    if (fl_template_render_source((const char *)data, n_source, n_context ? context : variables, "2026-01-31T12:00:00",
                                  &text, &n, NULL) == FL_OK)
        fl_free(text);
    return 0;
}
