/* file/gguf_int.h - what gguf.c (the walk), gguf_open.c (parts) and gguf_value.c (lookups) share. */
#ifndef FILE_GGUF_INT_H
#define FILE_GGUF_INT_H

#include "base/arena.h"
#include "base/map.h"
#include "file/gguf.h"
#include "file/map.h"

struct file_gguf {
    char *path;
    uint32_t version;
    file_map *parts;
    uint32_t n_parts;
    const char **part_paths; /* [n_parts] in the arena; NULL unless split */
    base_arena names;        /* keys and tensor names */
    file_gguf_value *values;
    uint32_t n_values;
    base_map value_map; /* key -> index */
    file_gguf_tensor *tensors;
    uint32_t n_tensors;
    base_map tensor_map; /* name -> index */
};

/* The split.* keys of one part; count 0: not split. */
typedef struct {
    uint64_t index, count, n_tensors;
} split_info;

/* Reads one part's header into g: metadata of the first part read, tensors of every one. */
FL_CHECKED fl_status file_gguf_read_part(file_gguf *g, const file_map *m, split_info *split, fl_err *err);

/* The value as a non-negative integer. The text names the key, not the file. */
FL_CHECKED fl_status file_gguf_value_u64(const file_gguf_value *v, uint64_t *out, fl_err *err);

#endif
