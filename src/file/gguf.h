/* file/gguf.h - reads GGUF model files (versions 2 and 3, little-endian, whole or split).
 *
 * Opening maps the file, walks the header once and checks every byte of it; tensor
 * data is never touched. After that, metadata are looked up by key and tensors by
 * name in hash maps, and values, arrays and tensor data point into the mapping.
 * Only keys and names are copied (they gain a NUL). What an open file guarantees:
 *   - keys and tensor names are unique, non-empty and free of control characters;
 *   - every string and array lies inside the file, booleans are 0 or 1;
 *   - a tensor has 1 to 4 dimensions >= 1 of a supported type, rows of whole blocks;
 *   - tensor data lie inside the file at multiples of the alignment, ascending and disjoint.
 * The cost is one pass over the header: arrays of strings are walked to find their end,
 * 2 ms for 262,144 tokens and their scores. No table of string offsets is kept: whoever needs
 * random access walks once with file_gguf_strings() and keeps what it needs.
 *
 * A split model is opened by its first part (NAME-00001-of-00003.gguf); the others are
 * found beside it. Metadata come from the first part, tensors from all.
 *
 * Threads: an open file is read-only and may be read from any thread.
 * Memory:  everything returned is borrowed until file_gguf_close().
 * Source:  the GGUF specification, ggml-org/ggml docs/gguf.md.
 */
#ifndef FILE_GGUF_H
#define FILE_GGUF_H

#include "fl_err.h"
#include "tensor/dtype.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct file_gguf file_gguf;

enum {
    FILE_GGUF_DIMS_MAX = 4,
    FILE_GGUF_STRING_MAX = 1 << 20, /* bytes of one string */
    FILE_GGUF_NAME_MAX = 255,       /* bytes of a tensor name */
    FILE_GGUF_KEY_MAX = 65535,      /* bytes of a metadata key */
    FILE_GGUF_COUNT_MAX = 1 << 20,  /* keys, and tensors, of one file */
    FILE_GGUF_ALIGNMENT_MAX = 1 << 16,
    FILE_GGUF_PARTS_MAX = 1024,
};

/* The format's value types; the numbers are the format's. */
typedef enum {
    FILE_GGUF_U8,
    FILE_GGUF_I8,
    FILE_GGUF_U16,
    FILE_GGUF_I16,
    FILE_GGUF_U32,
    FILE_GGUF_I32,
    FILE_GGUF_F32,
    FILE_GGUF_BOOL,
    FILE_GGUF_STRING,
    FILE_GGUF_ARRAY,
    FILE_GGUF_U64,
    FILE_GGUF_I64,
    FILE_GGUF_F64,
} file_gguf_type;

/* Bytes that live in the file, without a NUL. */
typedef struct {
    const char *data;
    size_t len;
} file_string;

/* One metadata entry. The data are unaligned and little-endian; read them with the functions below. */
typedef struct {
    const char *key;
    file_gguf_type type; /* FILE_GGUF_ARRAY for arrays */
    file_gguf_type elem; /* type of the elements; of the value itself unless it is an array */
    uint64_t count;      /* elements; 1 unless it is an array */
    const uint8_t *data; /* first element; strings carry their length in 8 bytes before them */
    size_t bytes;
} file_gguf_value;

typedef struct {
    const char *name;
    dtype type;
    uint32_t n_dims;
    int64_t dims[FILE_GGUF_DIMS_MAX]; /* dims[0] is the contiguous one (the row); unused ones are 1 */
    int64_t n_elems;                  /* product of dims */
    const uint8_t *data;              /* aligned to at least 8 bytes */
    size_t bytes;
} file_gguf_tensor;

/* Opens a file, and its siblings if it is the first part of a split model. The caller owns *out.
 * Errors (all name the path): FL_EIO, FL_EFORMAT, FL_EUNSUPPORTED (version, tensor type), FL_ENOMEM. */
FL_CHECKED fl_status file_gguf_open(file_gguf **out, const char *path, fl_err *err);

/* The same from bytes in memory, on a 64-byte boundary, which must outlive *out; name appears in
 * errors. Split models are refused. */
FL_CHECKED fl_status file_gguf_open_memory(file_gguf **out, const void *data, size_t size, const char *name,
                                           fl_err *err);

void file_gguf_close(file_gguf *g);

/* Tells the system that the file's pages need not stay in this process's memory: whoever has copied the weights calls it.
 * They come back from the page cache when touched again. */
void file_gguf_forget(const file_gguf *g);

const char *file_gguf_path(const file_gguf *g);
uint32_t file_gguf_version(const file_gguf *g);
size_t file_gguf_bytes(const file_gguf *g);                                      /* of all parts */
uint32_t file_gguf_n_parts(const file_gguf *g);                                  /* 1 unless split */
const char *file_gguf_part(const file_gguf *g, uint32_t index, uint64_t *bytes); /* path and size of a part */

/* Tensors in file order; index below the count. */
uint32_t file_gguf_n_tensors(const file_gguf *g);
const file_gguf_tensor *file_gguf_tensor_at(const file_gguf *g, uint32_t index);
const file_gguf_tensor *file_gguf_tensor_find(const file_gguf *g, const char *name); /* NULL: not there */

/* Metadata in file order; index below the count. */
uint32_t file_gguf_n_values(const file_gguf *g);
const file_gguf_value *file_gguf_value_at(const file_gguf *g, uint32_t index);
const file_gguf_value *file_gguf_find(const file_gguf *g, const char *key); /* NULL: not there */

/* Typed lookups. Any integer type is accepted where an integer is wanted if the value fits, F32 and F64
 * where a number with a fraction is wanted. Errors: FL_EFORMAT when the key is missing, has another type
 * or does not fit; the text names the file, the key, what was wanted and found.
 * The _or forms give the fallback when the key is missing, and still refuse a wrong type. */
FL_CHECKED fl_status file_gguf_get_u32(const file_gguf *g, const char *key, uint32_t *out, fl_err *err);
FL_CHECKED fl_status file_gguf_get_u64(const file_gguf *g, const char *key, uint64_t *out, fl_err *err);
FL_CHECKED fl_status file_gguf_get_f32(const file_gguf *g, const char *key, float *out, fl_err *err);
FL_CHECKED fl_status file_gguf_get_bool(const file_gguf *g, const char *key, bool *out, fl_err *err);
FL_CHECKED fl_status file_gguf_get_string(const file_gguf *g, const char *key, file_string *out, fl_err *err);
FL_CHECKED fl_status file_gguf_get_u32_or(const file_gguf *g, const char *key, uint32_t fallback, uint32_t *out,
                                          fl_err *err);
FL_CHECKED fl_status file_gguf_get_f32_or(const file_gguf *g, const char *key, float fallback, float *out, fl_err *err);
FL_CHECKED fl_status file_gguf_get_bool_or(const file_gguf *g, const char *key, bool fallback, bool *out, fl_err *err);

/* A value per layer: an array of exactly n integers, or one integer that holds for all. */
FL_CHECKED fl_status file_gguf_get_u32_each(const file_gguf *g, const char *key, uint32_t n, uint32_t out[],
                                            fl_err *err);

/* Arrays. The element type must match: _ints takes every integer type and booleans, _floats F32 and F64. */
FL_CHECKED fl_status file_gguf_get_ints(const file_gguf *g, const char *key, const file_gguf_value **out, fl_err *err);
FL_CHECKED fl_status file_gguf_get_floats(const file_gguf *g, const char *key, const file_gguf_value **out,
                                          fl_err *err);
FL_CHECKED fl_status file_gguf_get_strings(const file_gguf *g, const char *key, const file_gguf_value **out,
                                           fl_err *err);

/* Element i < v->count of an array of integers or booleans (a U64 beyond INT64_MAX gives INT64_MAX), of floats. */
int64_t file_gguf_int_at(const file_gguf_value *v, uint64_t i);
double file_gguf_float_at(const file_gguf_value *v, uint64_t i);

/* Walks an array of strings in order:
 *     file_gguf_strings it = file_gguf_strings_begin(v);
 *     for (file_string s; file_gguf_strings_next(&it, &s);) ... */
typedef struct {
    const uint8_t *at;
    uint64_t left;
} file_gguf_strings;

file_gguf_strings file_gguf_strings_begin(const file_gguf_value *v);
bool file_gguf_strings_next(file_gguf_strings *it, file_string *out);

const char *file_gguf_type_name(file_gguf_type type); /* "u32" */

#endif
