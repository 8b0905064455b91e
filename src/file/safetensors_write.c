/* The layout: 8 bytes of header length, the header (JSON, blanks to 64 bytes), the data of each tensor. */
#include "file/safetensors_write.h"

#include "file/save.h"

#include <string.h>

enum { ALIGNMENT = 64, DIMS_MAX = 8, NAME_MAX_BYTES = 255, WIDEST = 8 };

typedef struct {
    const char *name, *type;
    const void *data;
    size_t bytes;
    uint32_t width; /* bytes of an element */
    uint32_t n_dims;
    int64_t dims[DIMS_MAX];
} record;

static const struct {
    const char *name;
    uint32_t bytes;
} types[] = {{"F64", 8},  {"I64", 8},     {"U64", 8},     {"F32", 4},         {"I32", 4},         {"U32", 4},
             {"F16", 2},  {"BF16", 2},    {"I16", 2},     {"U16", 2},         {"I8", 1},          {"U8", 1},
             {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E4M3FNUZ", 1}, {"F8_E5M2FNUZ", 1}, {"F8_E8M0", 1}};

static void note(file_safetensors_writer *w, bool ok, fl_status code) {
    if (!ok && w->failed == FL_OK) w->failed = code;
}

static bool put_string(base_buf *b, const char *s) {
    (void)base_buf_putc(b, '"');
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c < ' ')
            (void)base_buf_printf(b, "\\u%04x", c);
        else if (c == '"' || c == '\\')
            (void)base_buf_printf(b, "\\%c", c);
        else
            (void)base_buf_putc(b, *s);
    }
    return base_buf_putc(b, '"');
}

void file_safetensors_write_text(file_safetensors_writer *w, const char *key, const char *value) {
    if (w->texts.len) (void)base_buf_putc(&w->texts, ',');
    (void)put_string(&w->texts, key);
    (void)base_buf_putc(&w->texts, ':');
    note(w, put_string(&w->texts, value), FL_ENOMEM);
}

static bool name_valid(const char *name) {
    size_t n = strnlen(name, NAME_MAX_BYTES + 1);
    if (n == 0 || n > NAME_MAX_BYTES || strcmp(name, "__metadata__") == 0) return false;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 0x7f) return false;
    return true;
}

void file_safetensors_write_tensor(file_safetensors_writer *w, const char *name, const char *type, uint32_t n_dims,
                                   const int64_t dims[], const void *data) {
    record r = {.data = data, .n_dims = n_dims};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, type) == 0) {
            r.type = types[i].name;
            r.width = types[i].bytes;
        }
    bool ok = r.type && n_dims <= DIMS_MAX && name_valid(name);
    r.bytes = r.width;
    for (uint32_t i = 0; ok && i < n_dims; i++) {
        r.dims[i] = dims[i];
        ok = dims[i] >= 0 && !__builtin_mul_overflow(r.bytes, (size_t)dims[i], &r.bytes) && r.bytes <= INT64_MAX;
    }
    note(w, ok, FL_EINVAL);
    if (!ok) return;
    r.name = base_arena_strndup(&w->names, name, strlen(name));
    note(w, r.name && base_buf_append(&w->tensors, &r, sizeof r), FL_ENOMEM);
    w->n_tensors++;
}

static record record_at(const file_safetensors_writer *w, uint64_t i) {
    record r;
    memcpy(&r, w->tensors.data + i * sizeof r, sizeof r);
    return r;
}

/* Calls visit for every tensor in the order of the file; false as soon as one call gives false. */
static bool each(const file_safetensors_writer *w, bool (*visit)(void *user, const record *r), void *user) {
    for (uint32_t width = WIDEST; width > 0; width /= 2)
        for (uint64_t i = 0; i < w->n_tensors; i++) {
            record r = record_at(w, i);
            if (r.width == width && !visit(user, &r)) return false;
        }
    return true;
}

typedef struct {
    base_buf *out;
    uint64_t at; /* in the data */
    bool first;
} header;

static bool put_record(void *user, const record *r) {
    header *h = user;
    if (!h->first) (void)base_buf_putc(h->out, ',');
    h->first = false;
    (void)put_string(h->out, r->name);
    (void)base_buf_printf(h->out, ":{\"dtype\":\"%s\",\"shape\":[", r->type);
    for (uint32_t i = 0; i < r->n_dims; i++)
        (void)base_buf_printf(h->out, "%s%lld", i ? "," : "", (long long)r->dims[i]);
    uint64_t begin = h->at;
    if (__builtin_add_overflow(h->at, r->bytes, &h->at)) return false;
    return base_buf_printf(h->out, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)begin,
                           (unsigned long long)h->at);
}

static FL_CHECKED fl_status build_header(const file_safetensors_writer *w, base_buf *out, fl_err *err) {
    if (w->failed == FL_EINVAL)
        return fl_fail(err, FL_EINVAL, "a tensor's name, type or shape cannot be written as safetensors");
    size_t start = out->len;
    uint64_t n = 0;
    header h = {.out = out, .first = true};
    bool ok = w->failed == FL_OK && base_buf_append(out, &n, sizeof n) && base_buf_putc(out, '{');
    if (ok && w->texts.len) {
        ok = base_buf_puts(out, "\"__metadata__\":{") && base_buf_append(out, w->texts.data, w->texts.len) &&
             base_buf_putc(out, '}');
        h.first = false;
    }
    ok = ok && each(w, put_record, &h) && base_buf_putc(out, '}');
    while (ok && (out->len - start) % ALIGNMENT != 0) ok = base_buf_putc(out, ' ');
    if (!ok) return fl_fail(err, FL_ENOMEM, "the header of a safetensors file");
    n = out->len - start - sizeof n;
    memcpy(out->data + start, &n, sizeof n);
    return FL_OK;
}

static bool append_data(void *user, const record *r) { return base_buf_append(user, r->data, r->bytes); }

fl_status file_safetensors_write_to_buf(const file_safetensors_writer *w, base_buf *out, fl_err *err) {
    fl_status st = build_header(w, out, err);
    if (st == FL_OK && !each(w, append_data, out)) st = fl_fail(err, FL_ENOMEM, "the data of a safetensors file");
    return st;
}

typedef struct {
    const file_safetensors_writer *w;
    const base_buf *header;
} whole;

static bool write_data(void *user, const record *r) { return fwrite(r->data, 1, r->bytes, user) == r->bytes; }

static bool write_all(const void *user, FILE *f) {
    const whole *x = user;
    return fwrite(x->header->data, 1, x->header->len, f) == x->header->len && each(x->w, write_data, f);
}

fl_status file_safetensors_write_to_path(const file_safetensors_writer *w, const char *path, fl_err *err) {
    base_buf head = {0};
    fl_status st = build_header(w, &head, err);
    if (st == FL_OK) st = file_save(path, write_all, &(whole){w, &head}, err);
    base_buf_clear(&head);
    return st;
}

void file_safetensors_writer_clear(file_safetensors_writer *w) {
    base_buf_clear(&w->texts);
    base_buf_clear(&w->tensors);
    base_arena_clear(&w->names);
    *w = (file_safetensors_writer){0};
}
