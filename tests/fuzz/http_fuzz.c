/* Any bytes as the head of a request, as a server finds it: up to the first empty line. What is taken has one meaning. */
#include "serve/head.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static http_head h;
    const char *why = NULL;
    if (size > HEAD_BYTES_MAX) return 0;
    char *bytes = malloc(size + 1); /* its own block: a read beyond it is seen */
    if (!bytes) return 0;
    memcpy(bytes, data, size);
    int status = http_head_read(&h, bytes, size, &why);
    if (!why || (status != 0 && (status < 400 || status > 499))) __builtin_trap();
    if (status == 0) {
        uint32_t n_hosts = 0;
        for (uint32_t i = 0; i < h.n_fields; i++) {
            n_hosts += strcasecmp(h.fields[i].name, "host") == 0;
            if (strcasecmp(h.fields[i].name, "transfer-encoding") == 0 || strpbrk(h.fields[i].name, " \t:") ||
                strpbrk(h.fields[i].value, "\r\n"))
                __builtin_trap();
        }
        if (n_hosts != 1 || h.path[0] != '/' || !http_head_find(&h, "host")) __builtin_trap();
    }
    free(bytes);
    return 0;
}
