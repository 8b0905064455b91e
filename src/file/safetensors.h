/* file/safetensors.h - reads safetensors: one file, or the folder of a model with one file or several and an index.
 *
 * A file is 8 bytes of header length, a JSON header {name: {dtype, shape, data_offsets}} and the data. Opening maps it and
 * checks every byte of the header; tensor data is never touched. What an open one guarantees:
 *   - the header is strict JSON of known keys without duplicates; names are 1 to 255 bytes without control characters;
 *   - shapes are up to 8 lengths >= 0 whose product fits, and say exactly as many bytes as the offsets;
 *   - the data of a file's tensors fill it without gap or overlap, up to its last byte;
 *   - tensors of a folder are those of its index, each in the file that the index names, and no file lies elsewhere.
 * Alignment is not the format's promise: old writers did not pad headers. Whoever computes with a tensor looks at `data`.
 * The types are all of the format's; which of them weights may have is for the user of the file to say.
 *
 * Threads: an open file is read-only and may be read from any thread.
 * Memory:  everything returned is borrowed until file_safetensors_close().
 * Source:  huggingface/safetensors, README.md and safetensors/src/tensor.rs.
 */
#ifndef FILE_SAFETENSORS_H
#define FILE_SAFETENSORS_H

#include "fl_err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct file_safetensors file_safetensors;

enum {
    FILE_SAFETENSORS_DIMS_MAX = 8,
    FILE_SAFETENSORS_NAME_MAX = 255,
    FILE_SAFETENSORS_COUNT_MAX = 1 << 20,        /* tensors of one model */
    FILE_SAFETENSORS_PARTS_MAX = 1024,           /* files of one model */
    FILE_SAFETENSORS_HEADER_MAX = 100 * 1000000, /* bytes; the format's own limit */
};

typedef struct {
    const char *name;
    const char *type; /* as the format calls it: "BF16" */
    uint32_t bits;    /* of an element */
    uint32_t n_dims;
    int64_t dims[FILE_SAFETENSORS_DIMS_MAX]; /* the last one is contiguous; unused ones are 1 */
    int64_t n_elems;                         /* product of dims */
    const uint8_t *data;
    size_t bytes;
} file_safetensors_tensor;

/* Opens a file, or a folder by its model.safetensors, else its model.safetensors.index.json. The caller owns *out.
 * Errors (all name the path): FL_EIO, FL_EFORMAT, FL_EUNSUPPORTED (a type the format does not define), FL_ENOMEM. */
FL_CHECKED fl_status file_safetensors_open(file_safetensors **out, const char *path, fl_err *err);

/* One file from bytes in memory, which must outlive *out; name appears in errors. */
FL_CHECKED fl_status file_safetensors_open_memory(file_safetensors **out, const void *data, size_t size,
                                                  const char *name, fl_err *err);
void file_safetensors_close(file_safetensors *s);

/* As file_gguf_forget(): the pages need not stay in this process's memory. */
void file_safetensors_forget(const file_safetensors *s);

const char *file_safetensors_path(const file_safetensors *s);
size_t file_safetensors_bytes(const file_safetensors *s); /* of all files */
uint32_t file_safetensors_n_parts(const file_safetensors *s);
const char *file_safetensors_part(const file_safetensors *s, uint32_t index, uint64_t *bytes); /* path and size */

/* Tensors in the order of the header(s); index below the count. */
uint32_t file_safetensors_n_tensors(const file_safetensors *s);
const file_safetensors_tensor *file_safetensors_tensor_at(const file_safetensors *s, uint32_t index);
/* The index of a name, UINT32_MAX: not there. */
uint32_t file_safetensors_find(const file_safetensors *s, const char *name);

#endif
