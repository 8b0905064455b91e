/* Opening and closing GGUF files, and finding the parts of split ones.
 *
 * Part i of n is named PREFIX-%05d-of-%05d.gguf, counted from 1; its split.no counts from 0.
 * The name of the first part therefore has to fit its own split.count, and the names of
 * the others follow from it: nothing from inside a file becomes part of a path. */
#include "base/buf.h"
#include "base/mem.h"
#include "file/gguf.h"
#include "file/gguf_int.h"

#include <stdio.h>
#include <string.h>

enum { SUFFIX_BYTES = sizeof "-00001-of-00001.gguf" - 1 };

void file_gguf_forget(const file_gguf *g) {
    for (uint32_t i = 0; i < g->n_parts; i++) file_map_forget(&g->parts[i]);
}

void file_gguf_close(file_gguf *g) {
    if (!g) return;
    base_map_clear(&g->tensor_map);
    base_map_clear(&g->value_map);
    base_free(g->tensors);
    base_free(g->values);
    base_arena_clear(&g->names);
    for (uint32_t i = 0; i < g->n_parts; i++) file_map_close(&g->parts[i]);
    base_free(g->parts);
    base_free(g->path);
    base_free(g);
}

static FL_CHECKED fl_status check_first_name(const char *path, const split_info *s, fl_err *err) {
    char want[48];
    if (s->index >= s->count || s->count > FILE_GGUF_PARTS_MAX)
        return fl_fail(err, FL_EFORMAT, "is part %llu of %llu, wanted at most %d parts",
                       (unsigned long long)s->index + 1, (unsigned long long)s->count, FILE_GGUF_PARTS_MAX);
    snprintf(want, sizeof want, "-%05u-of-%05u.gguf", 1u, (unsigned)s->count);
    if (s->index > 0)
        return fl_fail(err, FL_EINVAL, "is part %u of %u of a split model; open the first part, the file ending in %s",
                       (unsigned)s->index + 1, (unsigned)s->count, want);
    size_t len = strlen(path);
    if (len < SUFFIX_BYTES || strcmp(path + len - SUFFIX_BYTES, want) != 0)
        return fl_fail(err, FL_EFORMAT, "is the first of %u parts, so its name must end in %s", (unsigned)s->count,
                       want);
    return FL_OK;
}

static FL_CHECKED fl_status read_sibling(file_gguf *g, uint32_t index, const split_info *first, fl_err *err) {
    split_info s;
    base_buf path = {0};
    unsigned count = (unsigned)first->count;
    int prefix = (int)(strlen(g->path) - SUFFIX_BYTES);
    if (!base_buf_printf(&path, "%.*s-%05u-of-%05u.gguf", prefix, g->path, index + 1, count)) {
        base_buf_clear(&path);
        return fl_fail(err, FL_ENOMEM, "the path of part %u", index + 1);
    }
    file_map *m = &g->parts[index];
    g->part_paths[index] = base_arena_strndup(&g->names, path.data, path.len);
    fl_status st = g->part_paths[index] ? FL_OK : fl_fail(err, FL_ENOMEM, "its path");
    if (st == FL_OK) st = file_map_open(m, path.data, err);
    if (st == FL_OK) st = file_gguf_read_part(g, m, &s, err);
    if (st == FL_OK && (s.index != index || s.count != first->count))
        st = fl_fail(err, FL_EFORMAT, "says it is part %llu of %llu", (unsigned long long)s.index + 1,
                     (unsigned long long)s.count);
    if (st != FL_OK) fl_wrap(err, st, "part %u of %u, %s", index + 1, count, path.data);
    base_buf_clear(&path);
    return st;
}

static FL_CHECKED fl_status read_siblings(file_gguf *g, const split_info *first, fl_err *err) {
    fl_status st = check_first_name(g->path, first, err);
    if (st != FL_OK) return st;
    file_map *parts = base_calloc((size_t)first->count, sizeof *parts);
    if (!parts) return fl_fail(err, FL_ENOMEM, "%llu parts", (unsigned long long)first->count);
    parts[0] = g->parts[0];
    base_free(g->parts);
    g->parts = parts;
    g->n_parts = (uint32_t)first->count; /* parts not opened yet are empty maps */
    g->part_paths = base_arena_calloc(&g->names, g->n_parts, sizeof *g->part_paths);
    if (!g->part_paths) return fl_fail(err, FL_ENOMEM, "%u parts", g->n_parts);
    g->part_paths[0] = g->path;
    for (uint32_t i = 1; i < g->n_parts; i++) {
        st = read_sibling(g, i, first, err);
        if (st != FL_OK) return st;
    }
    if (first->n_tensors && first->n_tensors != g->n_tensors)
        return fl_fail(err, FL_EFORMAT, "the %u parts hold %u tensors, split.tensors.count says %llu", g->n_parts,
                       g->n_tensors, (unsigned long long)first->n_tensors);
    return FL_OK;
}

/* Takes over m, also on failure. */
static FL_CHECKED fl_status open_map(file_gguf **out, file_map m, const char *path, bool alone, fl_err *err) {
    split_info split = {0};
    fl_status st;
    file_gguf *g = base_calloc(1, sizeof *g);
    *out = NULL;
    if (g) g->parts = base_calloc(1, sizeof *g->parts);
    if (!g || !g->parts) {
        file_map_close(&m);
        file_gguf_close(g);
        return fl_fail(err, FL_ENOMEM, "%s: cannot allocate the file's record", path);
    }
    g->parts[0] = m;
    g->n_parts = 1;
    g->path = base_strdup(path);
    if (!g->path || !base_map_init(&g->tensor_map, 16))
        st = fl_fail(err, FL_ENOMEM, "cannot allocate the path");
    else
        st = file_gguf_read_part(g, &g->parts[0], &split, err);
    if (st == FL_OK && split.count > 1) {
        if (alone)
            st = fl_fail(err, FL_EUNSUPPORTED, "is part of a split model, which can only be opened by path");
        else
            st = read_siblings(g, &split, err);
    }
    if (st != FL_OK) {
        file_gguf_close(g);
        return fl_wrap(err, st, "%s", path);
    }
    *out = g;
    return FL_OK;
}

fl_status file_gguf_open(file_gguf **out, const char *path, fl_err *err) {
    file_map m;
    *out = NULL;
    fl_status st = file_map_open(&m, path, err);
    if (st != FL_OK) return fl_wrap(err, st, "%s", path);
    return open_map(out, m, path, false, err);
}

fl_status file_gguf_open_memory(file_gguf **out, const void *data, size_t size, const char *name, fl_err *err) {
    return open_map(out, file_map_memory(data, size), name, true, err);
}
