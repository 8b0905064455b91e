/* The walk over headers and index. jansson parses (strict, no duplicates, bounded depth); the tree is dropped once its
 * tensors have been copied out. */
#include "file/safetensors.h"

#include "base/arena.h"
#include "base/buf.h"
#include "base/json.h"
#include "base/map.h"
#include "base/mem.h"
#include "file/map.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

struct file_safetensors {
    char *path;
    base_arena names;
    file_map *parts;
    const char **part_paths; /* in `names` */
    uint32_t n_parts;
    file_safetensors_tensor *tensors;
    uint32_t n_tensors, cap_tensors;
    base_map map; /* name -> index */
};

static const struct {
    const char *name;
    uint32_t bits;
} types[] = {{"F64", 64},    {"F32", 32},    {"F16", 16},    {"BF16", 16},   {"I64", 64},        {"I32", 32},
             {"I16", 16},    {"I8", 8},      {"U64", 64},    {"U32", 32},    {"U16", 16},        {"U8", 8},
             {"BOOL", 8},    {"C64", 64},    {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
             {"F8_E8M0", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};

void file_safetensors_close(file_safetensors *s) {
    if (!s) return;
    base_map_clear(&s->map);
    base_free(s->tensors);
    for (uint32_t i = 0; i < s->n_parts; i++) file_map_close(&s->parts[i]);
    base_free(s->parts);
    base_free(s->part_paths);
    base_arena_clear(&s->names);
    base_free(s->path);
    base_free(s);
}

void file_safetensors_forget(const file_safetensors *s) {
    for (uint32_t i = 0; i < s->n_parts; i++) file_map_forget(&s->parts[i]);
}

const char *file_safetensors_path(const file_safetensors *s) { return s->path; }
uint32_t file_safetensors_n_parts(const file_safetensors *s) { return s->n_parts; }
const char *file_safetensors_part(const file_safetensors *s, uint32_t index, uint64_t *bytes) {
    *bytes = s->parts[index].size;
    return s->part_paths[index];
}
uint32_t file_safetensors_n_tensors(const file_safetensors *s) { return s->n_tensors; }

size_t file_safetensors_bytes(const file_safetensors *s) {
    size_t n = 0;
    for (uint32_t i = 0; i < s->n_parts; i++) n += s->parts[i].size;
    return n;
}

const file_safetensors_tensor *file_safetensors_tensor_at(const file_safetensors *s, uint32_t index) {
    return &s->tensors[index];
}

uint32_t file_safetensors_find(const file_safetensors *s, const char *name) {
    return base_map_find(&s->map, name, strlen(name)); /* BASE_MAP_NONE is UINT32_MAX */
}

static fl_status check_name(const char *name, fl_err *err) {
    size_t n = strlen(name);
    bool plain = n >= 1 && n <= FILE_SAFETENSORS_NAME_MAX;
    for (size_t i = 0; plain && i < n; i++) plain = (unsigned char)name[i] >= 0x20 && name[i] != 0x7f;
    if (plain) return FL_OK;
    return fl_fail(err, FL_EFORMAT, "a tensor's name has %zu bytes or control characters; wanted 1 to %d plain ones", n,
                   FILE_SAFETENSORS_NAME_MAX);
}

/* ---- one tensor ---- */

static fl_status read_type(file_safetensors_tensor *t, const json_t *v, fl_err *err) {
    const char *name = json_string_value(v);
    if (!name) return fl_fail(err, FL_EFORMAT, "tensor %s: dtype is missing or no string", t->name);
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, name) == 0) {
            t->type = types[i].name;
            t->bits = types[i].bits;
            return FL_OK;
        }
    return fl_fail(err, FL_EUNSUPPORTED, "tensor %s: dtype %.20s is not known", t->name, name);
}

static fl_status read_shape(file_safetensors_tensor *t, const json_t *v, fl_err *err) {
    size_t n = json_array_size(v);
    if (!json_is_array(v) || n > FILE_SAFETENSORS_DIMS_MAX)
        return fl_fail(err, FL_EFORMAT, "tensor %s: shape is no list of up to %d lengths", t->name,
                       FILE_SAFETENSORS_DIMS_MAX);
    t->n_dims = (uint32_t)n;
    t->n_elems = 1;
    for (size_t i = 0; i < FILE_SAFETENSORS_DIMS_MAX; i++) {
        const json_t *d = json_array_get(v, i);
        t->dims[i] = i < n ? json_integer_value(d) : 1;
        if (i < n && (!json_is_integer(d) || t->dims[i] < 0))
            return fl_fail(err, FL_EFORMAT, "tensor %s: length %zu of its shape is no integer >= 0", t->name, i);
        if (__builtin_mul_overflow(t->n_elems, t->dims[i], &t->n_elems))
            return fl_fail(err, FL_EFORMAT, "tensor %s: its shape has more elements than fit in 63 bits", t->name);
    }
    return FL_OK;
}

/* data_offsets against the shape and the room in the file; t->data becomes an address in m. */
static fl_status read_place(file_safetensors_tensor *t, const json_t *v, const file_map *m, size_t header,
                            fl_err *err) {
    const json_t *a = json_array_get(v, 0), *b = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_integer(a) || !json_is_integer(b))
        return fl_fail(err, FL_EFORMAT, "tensor %s: data_offsets are no pair of integers", t->name);
    int64_t begin = json_integer_value(a), end = json_integer_value(b), bits, room = (int64_t)(m->size - header);
    if (begin < 0 || end < begin || end > room)
        return fl_fail(err, FL_EFORMAT, "tensor %s: data_offsets %lld to %lld do not lie in the %lld bytes of data",
                       t->name, (long long)begin, (long long)end, (long long)room);
    if (__builtin_mul_overflow(t->n_elems, (int64_t)t->bits, &bits) || bits % 8 || bits / 8 != end - begin)
        return fl_fail(err, FL_EFORMAT, "tensor %s: %lld elements of %s do not make the %lld bytes it has", t->name,
                       (long long)t->n_elems, t->type, (long long)(end - begin));
    t->data = m->data + header + begin;
    t->bytes = (size_t)(end - begin);
    return FL_OK;
}

static fl_status add_tensor(file_safetensors *s, const char *name, const json_t *v, const file_map *m, size_t header,
                            fl_err *err) {
    fl_status st = check_name(name, err);
    if (st != FL_OK) return st;
    if (s->n_tensors == s->cap_tensors) {
        uint32_t cap = s->cap_tensors ? 2 * s->cap_tensors : 64;
        void *p = cap <= FILE_SAFETENSORS_COUNT_MAX ? base_realloc(s->tensors, cap * sizeof *s->tensors) : NULL;
        if (!p) return fl_fail(err, FL_ENOMEM, "%u tensors: no memory for more", s->n_tensors);
        s->tensors = p;
        s->cap_tensors = cap;
    }
    file_safetensors_tensor *t = &s->tensors[s->n_tensors];
    *t = (file_safetensors_tensor){.name = base_arena_strndup(&s->names, name, strlen(name))};
    if (!t->name) return fl_fail(err, FL_ENOMEM, "tensor names: no memory");
    if (json_object_size(v) != 3)
        return fl_fail(err, FL_EFORMAT, "tensor %s: is no object of dtype, shape and data_offsets", name);
    st = read_type(t, json_object_get(v, "dtype"), err);
    if (st == FL_OK) st = read_shape(t, json_object_get(v, "shape"), err);
    if (st == FL_OK) st = read_place(t, json_object_get(v, "data_offsets"), m, header, err);
    if (st == FL_OK) s->n_tensors++;
    return st;
}

/* ---- one file ---- */

static fl_status check_metadata(const json_t *v, fl_err *err) {
    const char *key;
    json_t *text;
    if (!json_is_object(v)) return fl_fail(err, FL_EFORMAT, "__metadata__ is no object");
    json_object_foreach((json_t *)v, key, text) {
        if (!json_is_string(text)) return fl_fail(err, FL_EFORMAT, "__metadata__: %.60s is no string", key);
    }
    return FL_OK;
}

static int by_place(const void *a, const void *b) {
    const file_safetensors_tensor *x = *(file_safetensors_tensor *const *)a, *y = *(file_safetensors_tensor *const *)b;
    if (x->data != y->data) return x->data < y->data ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

/* The tensors from `first` on fill the bytes from data to the end of m. */
static fl_status check_cover(const file_safetensors *s, uint32_t first, const uint8_t *data, const file_map *m,
                             fl_err *err) {
    uint32_t n = s->n_tensors - first;
    const file_safetensors_tensor **sorted = base_calloc(n + 1, sizeof *sorted);
    if (!sorted) return fl_fail(err, FL_ENOMEM, "%u tensors: no memory", n);
    for (uint32_t i = 0; i < n; i++) sorted[i] = &s->tensors[first + i];
    qsort(sorted, n, sizeof *sorted, by_place);
    fl_status st = FL_OK;
    const uint8_t *at = data;
    for (uint32_t i = 0; i < n && st == FL_OK; i++) {
        if (sorted[i]->data != at)
            st = fl_fail(err, FL_EFORMAT, "tensor %s: begins at byte %zu of the data, the one before it ends at %zu",
                         sorted[i]->name, (size_t)(sorted[i]->data - data), (size_t)(at - data));
        at = sorted[i]->data + sorted[i]->bytes;
    }
    if (st == FL_OK && at != m->data + m->size)
        st = fl_fail(err, FL_EFORMAT, "the tensors end %zu bytes before the file does",
                     (size_t)(m->data + m->size - at));
    base_free(sorted);
    return st;
}

static fl_status read_part(file_safetensors *s, const file_map *m, fl_err *err) {
    uint64_t n = 0;
    if (m->size < 8) return fl_fail(err, FL_EFORMAT, "has %zu bytes, a header's length takes 8", m->size);
    for (int i = 7; i >= 0; i--) n = n << 8 | m->data[i];
    if (n > FILE_SAFETENSORS_HEADER_MAX || n > m->size - 8)
        return fl_fail(err, FL_EFORMAT, "the header is said to have %llu bytes, the file has %zu more (at most %d)",
                       (unsigned long long)n, m->size - 8, FILE_SAFETENSORS_HEADER_MAX);
    if (n == 0 || m->data[8] != '{') return fl_fail(err, FL_EFORMAT, "the header does not begin with {");
    json_t *root, *v;
    const char *name;
    uint32_t first = s->n_tensors;
    fl_status st = base_json_read(&root, m->data + 8, (size_t)n, "the header", 0, err);
    if (st != FL_OK) return st;
    json_object_foreach(root, name, v) {
        st = strcmp(name, "__metadata__") == 0 ? check_metadata(v, err) : add_tensor(s, name, v, m, (size_t)n + 8, err);
        if (st != FL_OK) break;
    }
    json_decref(root);
    return st == FL_OK ? check_cover(s, first, m->data + 8 + n, m, err) : st;
}

/* Names of all files together. */
static fl_status map_names(file_safetensors *s, fl_err *err) {
    if (!base_map_init(&s->map, s->n_tensors + 1)) return fl_fail(err, FL_ENOMEM, "tensor names: no memory");
    for (uint32_t i = 0; i < s->n_tensors; i++) {
        uint32_t found;
        const char *name = s->tensors[i].name;
        if (!base_map_insert(&s->map, name, strlen(name), i, &found))
            return fl_fail(err, FL_ENOMEM, "tensor names: no memory");
        if (found != i) return fl_fail(err, FL_EFORMAT, "tensor %s: is in two files", name);
    }
    return FL_OK;
}

/* ---- a folder ---- */

/* A file of the folder, by a plain name that cannot lead out of it. */
static fl_status check_file_name(const char *name, fl_err *err) {
    size_t n = strlen(name);
    static const char end[] = ".safetensors";
    if (n < sizeof end || n > 255 || name[0] == '.' || strchr(name, '/') || strchr(name, '\\') ||
        strcmp(name + n - (sizeof end - 1), end) != 0)
        return fl_fail(err, FL_EFORMAT, "the index names \"%.80s\"; wanted a plain file name ending in %s", name, end);
    return FL_OK;
}

/* Gives each file that weight_map names a number, in the order of their first tensors: files holds the names (borrowed). */
static fl_status list_files(const json_t *weights, base_map *files, const char ***names, fl_err *err) {
    const char *tensor;
    json_t *v;
    uint32_t n = 0, found;
    *names = base_calloc(FILE_SAFETENSORS_PARTS_MAX, sizeof **names);
    if (!*names || !base_map_init(files, FILE_SAFETENSORS_PARTS_MAX))
        return fl_fail(err, FL_ENOMEM, "the index: no memory");
    json_object_foreach((json_t *)weights, tensor, v) {
        const char *file = json_string_value(v);
        if (!file) return fl_fail(err, FL_EFORMAT, "weight_map: the file of tensor %.80s is no string", tensor);
        fl_status st = check_file_name(file, err);
        if (st != FL_OK) return st;
        if (base_map_find(files, file, strlen(file)) != BASE_MAP_NONE) continue;
        if (n == FILE_SAFETENSORS_PARTS_MAX)
            return fl_fail(err, FL_EFORMAT, "the index names more than %d files", FILE_SAFETENSORS_PARTS_MAX);
        if (!base_map_insert(files, file, strlen(file), n, &found))
            return fl_fail(err, FL_ENOMEM, "the index: no memory");
        (*names)[n++] = file;
    }
    return n ? FL_OK : fl_fail(err, FL_EFORMAT, "the index names no file");
}

static fl_status alloc_parts(file_safetensors *s, uint32_t n, fl_err *err) {
    s->parts = base_calloc(n, sizeof *s->parts);
    s->part_paths = base_calloc(n, sizeof *s->part_paths);
    return s->parts && s->part_paths ? FL_OK : fl_fail(err, FL_ENOMEM, "%u files: no memory", n);
}

/* Takes m over and reads its header. */
static fl_status add_part(file_safetensors *s, file_map m, const char *path, fl_err *err) {
    file_map *part = &s->parts[s->n_parts];
    *part = m;
    s->part_paths[s->n_parts++] = base_arena_strndup(&s->names, path, strlen(path));
    if (!s->part_paths[s->n_parts - 1]) return fl_fail(err, FL_ENOMEM, "a path: no memory");
    return read_part(s, part, err);
}

/* Opens file i of the index and checks that its tensors are those that the index puts there. */
static fl_status open_part(file_safetensors *s, const json_t *weights, const char *name, fl_err *err) {
    base_buf path = {0};
    uint32_t first = s->n_tensors;
    file_map m;
    fl_status st =
        base_buf_printf(&path, "%s/%s", s->path, name) ? FL_OK : fl_fail(err, FL_ENOMEM, "a path: no memory");
    if (st == FL_OK) st = file_map_open(&m, path.data, err);
    if (st == FL_OK) st = add_part(s, m, path.data, err);
    base_buf_clear(&path);
    for (uint32_t i = first; st == FL_OK && i < s->n_tensors; i++) {
        const char *file = json_string_value(json_object_get(weights, s->tensors[i].name));
        if (!file || strcmp(file, name) != 0)
            st = fl_fail(err, FL_EFORMAT, "tensor %s: is here, the index says %.80s", s->tensors[i].name,
                         file ? file : "nothing about it");
    }
    return st == FL_OK ? FL_OK : fl_wrap(err, st, "%s", name);
}

static fl_status open_parts(file_safetensors *s, const json_t *weights, fl_err *err) {
    base_map files = {0};
    const char **names = NULL, *tensor;
    json_t *v;
    fl_status st = list_files(weights, &files, &names, err);
    if (st == FL_OK) st = alloc_parts(s, files.count, err);
    for (uint32_t i = 0; st == FL_OK && i < files.count; i++) st = open_part(s, weights, names[i], err);
    if (st == FL_OK) st = map_names(s, err);
    if (st == FL_OK) json_object_foreach((json_t *)weights, tensor, v) {
            if (file_safetensors_find(s, tensor) != BASE_MAP_NONE) continue;
            st = fl_fail(err, FL_EFORMAT, "tensor %.80s: the index says it is in %.80s, it is not", tensor,
                         json_string_value(v));
            break;
        }
    base_map_clear(&files);
    base_free(names);
    return st;
}

static fl_status open_index(file_safetensors *s, const char *path, fl_err *err) {
    file_map m;
    json_t *root = NULL;
    fl_status st = file_map_open(&m, path, err);
    if (st != FL_OK) return fl_wrap(err, st, "model.safetensors.index.json");
    st = m.size <= FILE_SAFETENSORS_HEADER_MAX
             ? base_json_read(&root, m.data, m.size, "the index", 0, err)
             : fl_fail(err, FL_EFORMAT, "the index has %zu bytes, at most %d", m.size, FILE_SAFETENSORS_HEADER_MAX);
    file_map_close(&m);
    const json_t *weights = json_object_get(root, "weight_map");
    if (st == FL_OK && !json_is_object(weights)) st = fl_fail(err, FL_EFORMAT, "weight_map is missing or no object");
    if (st != FL_OK) fl_wrap(err, st, "model.safetensors.index.json");
    if (st == FL_OK) st = open_parts(s, weights, err);
    json_decref(root);
    return st;
}

/* ---- opening ---- */

static fl_status open_one(file_safetensors *s, file_map m, const char *path, fl_err *err) {
    fl_status st = alloc_parts(s, 1, err);
    if (st != FL_OK)
        file_map_close(&m);
    else
        st = add_part(s, m, path, err);
    return st == FL_OK ? map_names(s, err) : st;
}

static fl_status open_path(file_safetensors *s, const char *path, fl_err *err) {
    file_map m;
    fl_status st = file_map_open(&m, path, err);
    return st == FL_OK ? open_one(s, m, path, err) : st;
}

static fl_status open_folder(file_safetensors *s, fl_err *err) {
    struct stat at;
    base_buf one = {0}, index = {0};
    fl_status st;
    if (!base_buf_printf(&one, "%s/model.safetensors", s->path) ||
        !base_buf_printf(&index, "%s/model.safetensors.index.json", s->path))
        st = fl_fail(err, FL_ENOMEM, "a path: no memory");
    else if (stat(one.data, &at) != 0 && stat(index.data, &at) == 0)
        st = open_index(s, index.data, err);
    else {
        st = open_path(s, one.data, err);
        if (st != FL_OK) fl_wrap(err, st, "model.safetensors");
    }
    base_buf_clear(&one);
    base_buf_clear(&index);
    return st;
}

static fl_status begin(file_safetensors **out, const char *path, fl_err *err) {
    *out = base_calloc(1, sizeof **out);
    if (*out) (*out)->path = base_strdup(path);
    if (*out && (*out)->path) return FL_OK;
    file_safetensors_close(*out);
    *out = NULL;
    return fl_fail(err, FL_ENOMEM, "%s: no memory", path);
}

static fl_status finish(file_safetensors **out, fl_status st, fl_err *err) {
    if (st == FL_OK) return FL_OK;
    fl_wrap(err, st, "%s", (*out)->path);
    file_safetensors_close(*out);
    *out = NULL;
    return st;
}

fl_status file_safetensors_open(file_safetensors **out, const char *path, fl_err *err) {
    struct stat at;
    fl_status st = begin(out, path, err);
    if (st != FL_OK) return st;
    bool folder = stat(path, &at) == 0 && S_ISDIR(at.st_mode);
    return finish(out, folder ? open_folder(*out, err) : open_path(*out, path, err), err);
}

fl_status file_safetensors_open_memory(file_safetensors **out, const void *data, size_t size, const char *name,
                                       fl_err *err) {
    fl_status st = begin(out, name, err);
    return st == FL_OK ? finish(out, open_one(*out, file_map_memory(data, size), name, err), err) : st;
}
