/* file/map.h - a file's bytes, read-only and in place.
 *
 * The mapping is shared with the page cache: opening costs no copy, and two
 * processes that serve one model hold its weights once. A file that another
 * process shortens while it is mapped ends this process with SIGBUS; models are
 * replaced by renaming a complete file over the old one, never in place (hub/ does so).
 *
 * Threads: the bytes may be read from any thread until file_map_close().
 * Memory:  allocates nothing.
 */
#ifndef FILE_MAP_H
#define FILE_MAP_H

#include "fl_err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
    const uint8_t *data; /* page-aligned if mapped */
    size_t size;
    bool mapped; /* ended by file_map_close(); otherwise the bytes are the caller's */
} file_map;

/* Maps a regular, non-empty file. On failure *out is empty.
 * Errors: FL_EIO (cannot be opened, is a folder, or is no file), FL_EFORMAT (empty). The texts carry no path. */
FL_CHECKED fl_status file_map_open(file_map *out, const char *path, fl_err *err);

/* A view of the caller's bytes, which must outlive it. */
file_map file_map_memory(const void *data, size_t size);

/* The pages may leave this process's memory; touching them brings them back. */
void file_map_forget(const file_map *m);

/* Accepts empty and already closed maps. */
void file_map_close(file_map *m);

#endif
