/* The reader proper: one forward walk with a cursor that never leaves the file.
 *
 * Every count is compared with the bytes left before memory is asked for (an entry has
 * a smallest size), so a small file cannot ask for much. Nothing recurses: arrays of
 * arrays are refused. Tensors must lie in the order of their records, which is how
 * every writer lays them out; that makes the overlap check one comparison. */
#include "file/gguf.h"

#include "base/arena.h"
#include "base/assert.h"
#include "base/map.h"
#include "base/mem.h"
#include "file/gguf_int.h"

#include <stdio.h>
#include <string.h>

enum {
    VALUE_BYTES_MIN = 8 + 1 + 4 + 1,          /* key length, one letter, type, one byte */
    TENSOR_BYTES_MIN = 8 + 1 + 4 + 8 + 4 + 8, /* name length, one letter, n_dims, one dim, type, offset */
    ALIGNMENT_DEFAULT = 32,
    ALIGNMENT_MIN = 8,
};

/* The walk over one part. */
typedef struct {
    const uint8_t *data;
    size_t size, at;
    file_gguf *g;
    uint32_t first_tensor; /* of this part, in g->tensors */
    uint32_t n_tensors, n_values;
    uint64_t alignment;
    bool keep_values; /* the first part's metadata are the model's */
    split_info split;
} walk;

const char *file_gguf_type_name(file_gguf_type type) {
    static const char *const names[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                        "bool", "string", "array", "u64", "i64", "f64"};
    return (unsigned)type < sizeof names / sizeof *names ? names[type] : "?";
}

/* Bytes of a fixed-size type, 0 for strings, arrays and unknown ones. */
static size_t type_bytes(uint32_t type) {
    static const uint8_t bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < sizeof bytes ? bytes[type] : 0;
}

static FL_CHECKED fl_status take(walk *w, size_t n, const uint8_t **out, const char *what, fl_err *err) {
    *out = w->data + w->at;
    if (n > w->size - w->at)
        return fl_fail(err, FL_EFORMAT,
                       "%.128s needs %zu bytes at offset %zu, but the file has %zu: truncated or damaged", what, n,
                       w->at, w->size);
    w->at += n;
    return FL_OK;
}

static FL_CHECKED fl_status take_u32(walk *w, uint32_t *out, const char *what, fl_err *err) {
    const uint8_t *p;
    fl_status st = take(w, sizeof *out, &p, what, err);
    if (st == FL_OK) memcpy(out, p, sizeof *out);
    return st;
}

static FL_CHECKED fl_status take_u64(walk *w, uint64_t *out, const char *what, fl_err *err) {
    const uint8_t *p;
    fl_status st = take(w, sizeof *out, &p, what, err);
    if (st == FL_OK) memcpy(out, p, sizeof *out);
    return st;
}

static FL_CHECKED fl_status take_string(walk *w, size_t max, file_string *out, const char *what, fl_err *err) {
    uint64_t len;
    fl_status st = take_u64(w, &len, what, err);
    if (st != FL_OK) return st;
    if (len > max)
        return fl_fail(err, FL_EFORMAT, "%s at offset %zu is %llu bytes long, at most %zu are allowed", what,
                       w->at - sizeof len, (unsigned long long)len, max);
    const uint8_t *p;
    st = take(w, (size_t)len, &p, what, err);
    if (st == FL_OK) *out = (file_string){(const char *)p, (size_t)len};
    return st;
}

/* A key or tensor name: printable, so that it can stand in errors and listings, copied to gain its NUL. */
static FL_CHECKED fl_status take_name(walk *w, size_t max, const char **out, const char *what, fl_err *err) {
    file_string s;
    fl_status st = take_string(w, max, &s, what, err);
    if (st != FL_OK) return st;
    if (s.len == 0) return fl_fail(err, FL_EFORMAT, "%s at offset %zu is empty", what, w->at);
    for (size_t i = 0; i < s.len; i++)
        if ((unsigned char)s.data[i] < ' ' || s.data[i] == 127)
            return fl_fail(err, FL_EFORMAT, "%s at offset %zu holds a control character (%d)", what, w->at - s.len,
                           s.data[i]);
    *out = base_arena_strndup(&w->g->names, s.data, s.len);
    return *out ? FL_OK : fl_fail(err, FL_ENOMEM, "%s of %zu bytes", what, s.len);
}

static FL_CHECKED fl_status take_elements(walk *w, file_gguf_value *v, fl_err *err) {
    size_t bytes = type_bytes(v->elem), start = w->at, total;
    v->data = w->data + w->at;
    if (v->elem == FILE_GGUF_STRING) {
        file_string s;
        for (uint64_t i = 0; i < v->count; i++) { /* each takes 8 bytes: bounded by the file */
            fl_status st = take_string(w, FILE_GGUF_STRING_MAX, &s, "a string", err);
            if (st != FL_OK) return fl_wrap(err, st, "%.64s, string %llu", v->key, (unsigned long long)i);
        }
        v->bytes = w->at - start;
        return FL_OK;
    }
    if (__builtin_mul_overflow((size_t)v->count, bytes, &total)) total = SIZE_MAX;
    fl_status st = take(w, total, &v->data, v->key, err);
    if (st != FL_OK) return st;
    v->bytes = total;
    for (uint64_t i = 0; v->elem == FILE_GGUF_BOOL && i < v->count; i++)
        if (v->data[i] > 1)
            return fl_fail(err, FL_EFORMAT, "%.64s is a boolean of %d, wanted 0 or 1", v->key, v->data[i]);
    return FL_OK;
}

static FL_CHECKED fl_status take_value(walk *w, file_gguf_value *v, fl_err *err) {
    uint32_t type, elem;
    *v = (file_gguf_value){.count = 1};
    fl_status st = take_name(w, FILE_GGUF_KEY_MAX, &v->key, "a metadata key", err);
    if (st != FL_OK) return st;
    st = take_u32(w, &type, v->key, err);
    if (st != FL_OK) return st;
    elem = type;
    if (type == FILE_GGUF_ARRAY) {
        st = take_u32(w, &elem, v->key, err);
        if (st != FL_OK) return st;
        st = take_u64(w, &v->count, v->key, err);
        if (st != FL_OK) return st;
        if (elem == FILE_GGUF_ARRAY)
            return fl_fail(err, FL_EUNSUPPORTED, "%.64s is an array of arrays, which is not supported", v->key);
    }
    if (elem > FILE_GGUF_F64) return fl_fail(err, FL_EFORMAT, "%.64s has the unknown value type %u", v->key, elem);
    v->type = (file_gguf_type)type;
    v->elem = (file_gguf_type)elem;
    return take_elements(w, v, err);
}

/* Metadata that steer the reading itself, in every part. */
static FL_CHECKED fl_status apply_value(walk *w, const file_gguf_value *v, fl_err *err) {
    uint64_t *out = NULL;
    if (strcmp(v->key, "general.alignment") == 0)
        out = &w->alignment;
    else if (strcmp(v->key, "split.no") == 0)
        out = &w->split.index;
    else if (strcmp(v->key, "split.count") == 0)
        out = &w->split.count;
    else if (strcmp(v->key, "split.tensors.count") == 0)
        out = &w->split.n_tensors;
    if (!out) return FL_OK;
    fl_status st = file_gguf_value_u64(v, out, err);
    if (st != FL_OK) return st;
    bool power = w->alignment && (w->alignment & (w->alignment - 1)) == 0;
    if (!power || w->alignment < ALIGNMENT_MIN || w->alignment > FILE_GGUF_ALIGNMENT_MAX)
        return fl_fail(err, FL_EFORMAT, "general.alignment is %llu, wanted a power of two from %d to %d",
                       (unsigned long long)w->alignment, ALIGNMENT_MIN, FILE_GGUF_ALIGNMENT_MAX);
    return FL_OK;
}

/* Reads the metadata of one part; later parts' values are checked and dropped, duplicates included. */
static FL_CHECKED fl_status read_values(walk *w, fl_err *err) {
    file_gguf *g = w->g;
    base_map seen = {0}, *map = w->keep_values ? &g->value_map : &seen;
    if (!base_map_init(map, w->n_values)) return fl_fail(err, FL_ENOMEM, "%u metadata keys", w->n_values);
    fl_status st = FL_OK;
    if (w->keep_values) {
        g->values = base_calloc(w->n_values, sizeof *g->values);
        if (!g->values) st = fl_fail(err, FL_ENOMEM, "%u metadata values", w->n_values);
    }
    for (uint32_t i = 0; st == FL_OK && i < w->n_values; i++) {
        file_gguf_value v;
        uint32_t found;
        st = take_value(w, &v, err);
        if (st != FL_OK) break;
        if (!base_map_insert(map, v.key, strlen(v.key), i, &found))
            st = fl_fail(err, FL_ENOMEM, "metadata keys");
        else if (found != i)
            st = fl_fail(err, FL_EFORMAT, "the metadata key %.128s appears twice", v.key);
        else
            st = apply_value(w, &v, err);
        if (st == FL_OK && w->keep_values) g->values[g->n_values++] = v;
    }
    base_map_clear(&seen);
    return st;
}

static FL_CHECKED fl_status set_type(file_gguf_tensor *t, uint32_t id, fl_err *err) {
    const dtype_info *info = dtype_find(id);
    if (info) {
        t->type = info->type;
        return FL_OK;
    }
    char list[256] = ""; /* all names fit */
    size_t n, used = 0;
    const dtype_info *all = dtype_all(&n);
    for (size_t i = 0; i < n && used < sizeof list; i++)
        used += (size_t)snprintf(list + used, sizeof list - used, " %s", all[i].name);
    const char *name = dtype_name_of_id(id);
    if (name) return fl_fail(err, FL_EUNSUPPORTED, "tensor %s has type %s; supported are%s", t->name, name, list);
    return fl_fail(err, FL_EFORMAT, "tensor %s has the unknown type %u; supported are%s", t->name, id, list);
}

static FL_CHECKED fl_status take_dims(walk *w, file_gguf_tensor *t, fl_err *err) {
    fl_status st = take_u32(w, &t->n_dims, t->name, err);
    if (st != FL_OK) return st;
    if (t->n_dims < 1 || t->n_dims > FILE_GGUF_DIMS_MAX)
        return fl_fail(err, FL_EFORMAT, "tensor %s has %u dimensions, wanted 1 to %d", t->name, t->n_dims,
                       FILE_GGUF_DIMS_MAX);
    t->n_elems = 1;
    for (uint32_t i = 0; i < FILE_GGUF_DIMS_MAX; i++) {
        uint64_t dim = 1;
        if (i < t->n_dims) st = take_u64(w, &dim, t->name, err);
        if (st != FL_OK) return st;
        if (dim < 1 || dim > INT64_MAX)
            return fl_fail(err, FL_EFORMAT, "tensor %s has %llu as dimension %u", t->name, (unsigned long long)dim, i);
        t->dims[i] = (int64_t)dim;
        if (__builtin_mul_overflow(t->n_elems, t->dims[i], &t->n_elems))
            return fl_fail(err, FL_EFORMAT, "tensor %s has more elements than 63 bits can count", t->name);
    }
    return FL_OK;
}

/* *offset gets the place of the data behind the header. */
static FL_CHECKED fl_status take_tensor(walk *w, file_gguf_tensor *t, uint64_t *offset, fl_err *err) {
    uint32_t id;
    *t = (file_gguf_tensor){0};
    fl_status st = take_name(w, FILE_GGUF_NAME_MAX, &t->name, "a tensor name", err);
    if (st != FL_OK) return st;
    st = take_dims(w, t, err);
    if (st != FL_OK) return st;
    st = take_u32(w, &id, t->name, err);
    if (st != FL_OK) return st;
    st = set_type(t, id, err);
    if (st != FL_OK) return st;
    size_t row = dtype_row_bytes(t->type, t->dims[0]);
    if (row == 0)
        return fl_fail(err, FL_EFORMAT, "tensor %s has rows of %lld, not whole blocks of %s (%u)", t->name,
                       (long long)t->dims[0], dtype_find(id)->name, dtype_find(id)->block_elems);
    if (__builtin_mul_overflow(row, (size_t)(t->n_elems / t->dims[0]), &t->bytes))
        return fl_fail(err, FL_EFORMAT, "tensor %s has more bytes than 64 bits can count", t->name);
    return take_u64(w, offset, t->name, err);
}

/* Turns offsets into pointers; the data begin at the next multiple of the alignment. */
static FL_CHECKED fl_status place_tensors(walk *w, const uint64_t offsets[], fl_err *err) {
    size_t base = (w->at + (size_t)w->alignment - 1) & ~(size_t)(w->alignment - 1), end = 0;
    for (uint32_t i = 0; i < w->n_tensors; i++) {
        file_gguf_tensor *t = &w->g->tensors[w->first_tensor + i];
        uint64_t at = offsets[i], stop;
        if (at % w->alignment != 0)
            return fl_fail(err, FL_EFORMAT, "tensor %s starts at %llu, not a multiple of the alignment %llu", t->name,
                           (unsigned long long)at, (unsigned long long)w->alignment);
        if (at < end)
            return fl_fail(err, FL_EFORMAT, "tensor %s starts at %llu, before the end of the previous one at %zu",
                           t->name, (unsigned long long)at, end);
        if (__builtin_add_overflow(at, t->bytes, &stop) || base > w->size || stop > w->size - base)
            return fl_fail(err, FL_EFORMAT,
                           "tensor %s needs %zu bytes at offset %llu of the data, but the file has %zu bytes, %zu of "
                           "them header: the file is incomplete or damaged",
                           t->name, t->bytes, (unsigned long long)at, w->size, base);
        t->data = w->data + base + at;
        end = (size_t)stop;
    }
    return FL_OK;
}

static FL_CHECKED fl_status read_tensors(walk *w, fl_err *err) {
    file_gguf *g = w->g;
    uint64_t *offsets = base_calloc(w->n_tensors, sizeof *offsets);
    /* Twice the bytes for a moment: parts are few, and records are small beside the data. */
    file_gguf_tensor *grown = base_realloc(g->tensors, (w->first_tensor + (size_t)w->n_tensors) * sizeof *grown);
    fl_status st = offsets && grown ? FL_OK : fl_fail(err, FL_ENOMEM, "%u tensor records", w->n_tensors);
    if (grown) g->tensors = grown;
    for (uint32_t i = 0; st == FL_OK && i < w->n_tensors; i++) {
        file_gguf_tensor *t = &g->tensors[g->n_tensors];
        uint32_t found, index = g->n_tensors;
        st = take_tensor(w, t, &offsets[i], err);
        if (st != FL_OK) break;
        if (!base_map_insert(&g->tensor_map, t->name, strlen(t->name), index, &found))
            st = fl_fail(err, FL_ENOMEM, "tensor names");
        else if (found != index)
            st = fl_fail(err, FL_EFORMAT, "the tensor %s appears twice", t->name);
        else
            g->n_tensors++;
    }
    if (st == FL_OK) st = place_tensors(w, offsets, err);
    base_free(offsets);
    return st;
}

static FL_CHECKED fl_status check_version(file_gguf *g, uint32_t version, fl_err *err) {
    if (version == 2 || version == 3) {
        g->version = version;
        return FL_OK;
    }
    uint32_t swapped = __builtin_bswap32(version);
    if (swapped >= 1 && swapped <= 3)
        return fl_fail(err, FL_EUNSUPPORTED, "is a big-endian GGUF file; only little-endian ones are read");
    return fl_fail(err, FL_EUNSUPPORTED, "is GGUF version %u; versions 2 and 3 are read", version);
}

static FL_CHECKED fl_status take_count(walk *w, size_t entry_bytes, uint32_t *out, const char *what, fl_err *err) {
    uint64_t n;
    fl_status st = take_u64(w, &n, what, err);
    if (st != FL_OK) return st;
    if (n > FILE_GGUF_COUNT_MAX || n > (w->size - w->at) / entry_bytes)
        return fl_fail(err, FL_EFORMAT,
                       "the header announces %llu %s, but the file has %zu bytes and at most %d are read",
                       (unsigned long long)n, what, w->size, FILE_GGUF_COUNT_MAX);
    *out = (uint32_t)n;
    return FL_OK;
}

fl_status file_gguf_read_part(file_gguf *g, const file_map *m, split_info *split, fl_err *err) {
    walk w = {.data = m->data,
              .size = m->size,
              .g = g,
              .alignment = ALIGNMENT_DEFAULT,
              .first_tensor = g->n_tensors,
              .keep_values = g->values == NULL};
    const uint8_t *magic;
    uint32_t version;
    fl_status st = take(&w, 4, &magic, "the magic", err);
    if (st != FL_OK) return st;
    if (memcmp(magic, "GGUF", 4) != 0)
        return fl_fail(err, FL_EFORMAT, "is not a GGUF file: it starts with %02x %02x %02x %02x, wanted \"GGUF\"",
                       magic[0], magic[1], magic[2], magic[3]);
    st = take_u32(&w, &version, "the version", err);
    if (st != FL_OK) return st;
    st = check_version(g, version, err);
    if (st != FL_OK) return st;
    st = take_count(&w, TENSOR_BYTES_MIN, &w.n_tensors, "tensors", err);
    if (st != FL_OK) return st;
    st = take_count(&w, VALUE_BYTES_MIN, &w.n_values, "metadata values", err);
    if (st != FL_OK) return st;
    st = read_values(&w, err);
    if (st != FL_OK) return st;
    st = read_tensors(&w, err);
    *split = w.split;
    return st;
}

uint32_t file_gguf_version(const file_gguf *g) { return g->version; }
const char *file_gguf_path(const file_gguf *g) { return g->path; }
uint32_t file_gguf_n_parts(const file_gguf *g) { return g->n_parts; }

const char *file_gguf_part(const file_gguf *g, uint32_t index, uint64_t *bytes) {
    *bytes = g->parts[index].size;
    return g->part_paths ? g->part_paths[index] : g->path;
}
uint32_t file_gguf_n_tensors(const file_gguf *g) { return g->n_tensors; }
uint32_t file_gguf_n_values(const file_gguf *g) { return g->n_values; }

size_t file_gguf_bytes(const file_gguf *g) {
    size_t bytes = 0;
    for (uint32_t i = 0; i < g->n_parts; i++) bytes += g->parts[i].size;
    return bytes;
}

const file_gguf_tensor *file_gguf_tensor_at(const file_gguf *g, uint32_t index) {
    fl_assert(index < g->n_tensors);
    return &g->tensors[index];
}

const file_gguf_value *file_gguf_value_at(const file_gguf *g, uint32_t index) {
    fl_assert(index < g->n_values);
    return &g->values[index];
}

const file_gguf_tensor *file_gguf_tensor_find(const file_gguf *g, const char *name) {
    uint32_t i = base_map_find(&g->tensor_map, name, strlen(name));
    return i == BASE_MAP_NONE ? NULL : &g->tensors[i];
}

const file_gguf_value *file_gguf_find(const file_gguf *g, const char *key) {
    uint32_t i = base_map_find(&g->value_map, key, strlen(key));
    return i == BASE_MAP_NONE ? NULL : &g->values[i];
}
