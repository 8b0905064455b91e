/* Any bytes as a safetensors file: opening ends with an object or an error, and every tensor's bytes can be read. Build and
 * run: see gguf_fuzz.c. */
#include "file/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    file_safetensors *s;
    uint8_t *copy = malloc(size + 1); /* the heap's end, so that reads beyond are seen */
    if (!copy) return 0;
    if (size) memcpy(copy, data, size);
    uint64_t sum = 0;
    if (file_safetensors_open_memory(&s, copy, size, "fuzz", NULL) == FL_OK) {
        for (uint32_t i = 0; i < file_safetensors_n_tensors(s); i++) {
            const file_safetensors_tensor *t = file_safetensors_tensor_at(s, i);
            if (file_safetensors_find(s, t->name) != i) abort();
            for (size_t c = 0; c < t->bytes; c++) sum += t->data[c];
        }
    }
    sink = sum;
    file_safetensors_close(s);
    free(copy);
    return 0;
}
