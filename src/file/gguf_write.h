/* file/gguf_write.h - writes GGUF version 3 files.
 *
 * Calls collect metadata and tensor records in memory; the bytes are laid out at the
 * end, tensor data straight from the caller's memory. A failed call (no memory, a tensor
 * whose rows are not whole blocks) is remembered and reported by the ending call, so
 * calls need no check each. Duplicate keys and names are not noticed here: the reader refuses them.
 *
 * Threads: one at a time.
 * Memory:  zero-initialise (`file_gguf_writer w = {0}`), end with file_gguf_writer_clear().
 *          Keys, names and values are copied; tensor data are borrowed until the ending call.
 */
#ifndef FILE_GGUF_WRITE_H
#define FILE_GGUF_WRITE_H

#include "base/buf.h"
#include "file/gguf.h"

typedef struct {
    const void *data;
    size_t bytes;
} file_gguf_blob;

typedef struct {
    base_buf values, records, blobs; /* encoded metadata; encoded tensor records; file_gguf_blob each */
    uint64_t n_values, n_tensors;
    uint64_t data_bytes; /* where the next tensor goes */
    fl_status failed;    /* of the first call that failed */
} file_gguf_writer;

/* A number or boolean of any type of a fixed size, which lies at v. */
void file_gguf_write_number(file_gguf_writer *w, const char *key, file_gguf_type type, const void *v);
void file_gguf_write_u32(file_gguf_writer *w, const char *key, uint32_t v);
void file_gguf_write_f32(file_gguf_writer *w, const char *key, float v);
void file_gguf_write_bool(file_gguf_writer *w, const char *key, bool v);
void file_gguf_write_string(file_gguf_writer *w, const char *key, const char *s);
void file_gguf_write_strings(file_gguf_writer *w, const char *key, const file_string s[], uint64_t n);
/* n elements of a fixed-size type, laid end to end in data. */
void file_gguf_write_array(file_gguf_writer *w, const char *key, file_gguf_type elem, const void *data, uint64_t n);

/* dims[0] is the row; n_dims 1 to 4. data hold the rows in that type. */
void file_gguf_write_tensor(file_gguf_writer *w, const char *name, dtype type, uint32_t n_dims, const int64_t dims[],
                            const void *data);

/* Ending calls; each may be used once or more. _to_buf appends the whole file to out;
 * _to_path writes PATH.part and renames it, so that PATH is never half-written.
 * Errors: the first failure of the calls before; FL_ENOMEM; FL_EIO (the partial file is removed). */
FL_CHECKED fl_status file_gguf_write_to_buf(const file_gguf_writer *w, base_buf *out, fl_err *err);
FL_CHECKED fl_status file_gguf_write_to_path(const file_gguf_writer *w, const char *path, fl_err *err);

void file_gguf_writer_clear(file_gguf_writer *w);

#endif
