/* Any bytes as a GGUF file: opening ends with an object or an error, and everything
 * that an open file offers can be read. Build: clang -fsanitize=fuzzer,address,undefined
 * with the library made by CC=clang SAN=address,undefined. Run it in the repository root. */
#include "file/gguf.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sink;

static void read_all(const file_gguf *g) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < file_gguf_n_values(g); i++) {
        const file_gguf_value *v = file_gguf_value_at(g, i);
        uint32_t n;
        float f;
        sum += file_gguf_find(g, v->key) == v;
        sum += (uint64_t)file_gguf_get_u32(g, v->key, &n, NULL) + (uint64_t)file_gguf_get_f32(g, v->key, &f, NULL);
        if (v->elem == FILE_GGUF_STRING) {
            file_gguf_strings it = file_gguf_strings_begin(v);
            for (file_string s; file_gguf_strings_next(&it, &s);)
                for (size_t c = 0; c < s.len; c++) sum += (unsigned char)s.data[c];
        } else if (v->elem == FILE_GGUF_F32 || v->elem == FILE_GGUF_F64) {
            for (uint64_t k = 0; k < v->count; k++) sum += file_gguf_float_at(v, k) > 0;
        } else {
            for (uint64_t k = 0; k < v->count; k++) sum += (uint64_t)file_gguf_int_at(v, k);
        }
    }
    for (uint32_t i = 0; i < file_gguf_n_tensors(g); i++) {
        const file_gguf_tensor *t = file_gguf_tensor_at(g, i);
        sum += file_gguf_tensor_find(g, t->name) == t;
        for (size_t c = 0; c < t->bytes; c++) sum += t->data[c];
    }
    sink = sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    file_gguf *g;
    size_t room = (size + 63) / 64 * 64;
    uint8_t *block = aligned_alloc(64, room ? room : 64);
    if (!block) return 0;
    uint8_t *at = block + (room - size) / 8 * 8; /* near the end, so that reads beyond are seen */
    if (size) memcpy(at, data, size);
    if (file_gguf_open_memory(&g, at, size, "fuzz", NULL) == FL_OK) read_all(g);
    file_gguf_close(g);
    free(block);
    return 0;
}
