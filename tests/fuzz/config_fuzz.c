/* Any bytes as the config.json of a folder: configuring and building end with a graph or an error. The weights are those of
 * two tiny checkpoints, one of each norm style. Run in the repository root; see gguf_fuzz.c. */
#include "model/model.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void try_on(const char *weights, const uint8_t *data, size_t size) {
    file_safetensors *w;
    model_source *s;
    graph *g;
    static model_config c;
    if (file_safetensors_open(&w, weights, NULL) != FL_OK) abort();
    if (model_source_open_parts(&s, w, (const char *)data, size, NULL) != FL_OK) return;
    if (model_configure(&c, s, NULL) == FL_OK && model_build(&g, &c, s, c.context_length, COMPUTE_AUTO, NULL) == FL_OK)
        graph_close(g);
    model_source_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    try_on("tests/golden/tiny/llama", data, size);
    try_on("tests/golden/tiny/gemma2", data, size);
    return 0;
}
