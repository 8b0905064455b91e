/* model/source.h - where a model comes from: a GGUF file, or a folder as Hugging Face publishes it (config.json and
 * safetensors). Families see one thing: tensors by GGUF's names, and configuration values by the two names they have.
 *
 * Tensors. A name is GGUF's: "attn_q" of layer 3, suffix "weight", is blk.3.attn_q.weight. For a folder a table turns it
 * into model.layers.3.self_attn.q_proj.weight; what a family calls differently stands in its own table (model_name).
 * What comes before "layers" (model., language_model.model., ...) is found once, by the embedding. Shapes read as in GGUF:
 * dims[0] is the contiguous length, so an [out, in] matrix is {in, out} and a stack of experts {in, out, E}.
 *
 * Values. Each getter takes GGUF's key without the architecture ("block_count") and config.json's ("num_hidden_layers");
 * NULL where a container has none: the value then counts as missing. A config.json key may lead into objects
 * ("rope_parameters.rope_theta"); it is looked up in text_config first, then at the top; null counts as missing.
 * Errors: FL_EFORMAT naming file, key, what was wanted and found. The _or forms give the fallback when the key is missing,
 * and still refuse a wrong type.
 *
 * Threads: read-only once open. Memory: everything returned is borrowed until model_source_close().
 */
#ifndef MODEL_SOURCE_H
#define MODEL_SOURCE_H

#include "file/gguf.h"
#include "file/safetensors.h"

typedef struct model_source model_source;

typedef struct {
    const char *name;       /* in the container */
    const char *type_name;  /* "BF16" */
    const dtype_info *type; /* NULL: weights of this type are not supported */
    uint32_t n_dims;
    int64_t dims[FILE_SAFETENSORS_DIMS_MAX]; /* unused ones are 1 */
    int64_t n_elems;
    const uint8_t *data;
    size_t bytes;
} model_tensor;

/* A tensor's GGUF name and what a folder calls it; the last one of a table is {NULL, NULL}. */
typedef struct {
    const char *gguf, *hf;
} model_name;

/* A folder with a config.json, or a GGUF file. The caller owns *out. Errors name the path: FL_EIO, FL_EFORMAT,
 * FL_EUNSUPPORTED, FL_ENOMEM. */
FL_CHECKED fl_status model_source_open(model_source **out, const char *path, fl_err *err);
/* From parts that are open already, which it takes over (also on failure): tests and fuzzing. config is JSON. */
FL_CHECKED fl_status model_source_open_parts(model_source **out, file_safetensors *weights, const char *config,
                                             size_t n_config, fl_err *err);
/* A configuration without tensors, for weights that are made up: what a family asks for is there, of this type where its
 * rows are whole blocks of it. config is JSON. Errors: FL_EFORMAT, FL_ENOMEM. */
FL_CHECKED fl_status model_source_open_shape(model_source **out, const char *config, const dtype_info *type,
                                             fl_err *err);
const dtype_info *model_source_shape(const model_source *s); /* NULL: it has tensors */
/* Whether a folder holds weights: model.safetensors, or an index of several. */
bool model_source_is_folder(const char *path);
void model_source_close(model_source *s);
void model_source_forget(const model_source *s); /* file_gguf_forget(), file_safetensors_forget() */

const char *model_source_path(const model_source *s);
size_t model_source_bytes(const model_source *s);
uint32_t model_source_n_parts(const model_source *s);                                  /* files with weights */
const char *model_source_part(const model_source *s, uint32_t index, uint64_t *bytes); /* path and size of one */
const file_gguf *model_source_gguf(const model_source *s);                             /* NULL: a folder */

uint32_t model_source_n_tensors(const model_source *s);
void model_source_tensor_at(const model_source *s, uint32_t index, model_tensor *out);
/* layer < 0: a tensor of the whole model. extra: the family's table, or NULL. The index for _tensor_at, UINT32_MAX: none. */
uint32_t model_source_find(const model_source *s, const model_name *extra, int layer, const char *name,
                           const char *suffix);
/* The number of the layer that a tensor belongs to; -1: to none, -2: not to the text model at all. */
int model_source_layer_of(const model_source *s, uint32_t index);

bool model_source_has(const model_source *s, const char *gguf, const char *hf);
FL_CHECKED fl_status model_get_u32(const model_source *s, const char *gguf, const char *hf, uint32_t *out, fl_err *err);
FL_CHECKED fl_status model_get_f64(const model_source *s, const char *gguf, const char *hf, double *out, fl_err *err);
FL_CHECKED fl_status model_get_u32_or(const model_source *s, const char *gguf, const char *hf, uint32_t fallback,
                                      uint32_t *out, fl_err *err);
FL_CHECKED fl_status model_get_f64_or(const model_source *s, const char *gguf, const char *hf, double fallback,
                                      double *out, fl_err *err);
FL_CHECKED fl_status model_get_bool_or(const model_source *s, const char *gguf, const char *hf, bool fallback,
                                       bool *out, fl_err *err);
/* *out = "" when the key is missing; longer texts are cut. */
FL_CHECKED fl_status model_get_text(const model_source *s, const char *gguf, const char *hf, char out[64], fl_err *err);

/* Lists of config.json. The size, 0 when missing. Exactly n values are wanted. */
FL_CHECKED fl_status model_list_size(const model_source *s, const char *hf, uint32_t *n, fl_err *err);
FL_CHECKED fl_status model_list_f64(const model_source *s, const char *hf, uint32_t n, double out[], fl_err *err);
FL_CHECKED fl_status model_list_text(const model_source *s, const char *hf, uint32_t i, const char **out, fl_err *err);

#endif
