/* file/safetensors_write.h - writes safetensors files, as file/safetensors.h reads them.
 *
 * Calls collect records in memory; the bytes are laid out at the end, tensor data straight from the caller's memory.
 * The format allows no gaps between tensors, so they are laid in the order of their element sizes, the widest first, and
 * the data begin on 64 bytes: every element lies at a multiple of its own size. A failed call is remembered and
 * reported by the ending call. Duplicate names are not noticed here: the reader refuses them.
 *
 * Threads: one at a time.
 * Memory:  zero-initialise (`file_safetensors_writer w = {0}`), end with file_safetensors_writer_clear().
 *          Names and texts are copied (UTF-8, for which the caller answers); data are borrowed until the ending call.
 * Source:  huggingface/safetensors, README.md.
 */
#ifndef FILE_SAFETENSORS_WRITE_H
#define FILE_SAFETENSORS_WRITE_H

#include "base/arena.h"
#include "base/buf.h"
#include "fl_err.h"

#include <stdint.h>

typedef struct {
    base_buf texts;   /* members of __metadata__, encoded */
    base_buf tensors; /* records of the .c file */
    base_arena names;
    uint64_t n_tensors;
    fl_status failed; /* of the first call that failed */
} file_safetensors_writer;

/* An entry of __metadata__, such as "format", "pt". */
void file_safetensors_write_text(file_safetensors_writer *w, const char *key, const char *value);

/* type: the format's name of one of whole bytes ("F32", "BF16", "F8_E4M3", "I8", "U8", "BOOL" ...). dims: up to 8, the last
 * one contiguous, each >= 0; none for a scalar. Refused (FL_EINVAL): another type, a shape that overflows, a name
 * that is empty, longer than 255 bytes, has control characters or is "__metadata__". */
void file_safetensors_write_tensor(file_safetensors_writer *w, const char *name, const char *type, uint32_t n_dims,
                                   const int64_t dims[], const void *data);

/* Ending calls; each may be used once or more. _to_buf appends the whole file to out; _to_path as file_save().
 * Errors: the first failure of the calls before; FL_ENOMEM; FL_EIO. */
FL_CHECKED fl_status file_safetensors_write_to_buf(const file_safetensors_writer *w, base_buf *out, fl_err *err);
FL_CHECKED fl_status file_safetensors_write_to_path(const file_safetensors_writer *w, const char *path, fl_err *err);

void file_safetensors_writer_clear(file_safetensors_writer *w);

#endif
