/* The layout: header, metadata, records, padding, then each tensor padded to ALIGNMENT. */
#include "file/gguf_write.h"

#include "file/save.h"

#include <string.h>

enum { ALIGNMENT = 32 };

static const char zeros[ALIGNMENT];

/* Bytes of a value of each type; 0: it has no fixed size. */
static const uint8_t type_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static size_t padding(uint64_t at) { return (size_t)(-at & (ALIGNMENT - 1)); }

static void note(file_gguf_writer *w, bool ok, fl_status code) {
    if (!ok && w->failed == FL_OK) w->failed = code;
}

static bool put_u32(base_buf *b, uint32_t v) { return base_buf_append(b, &v, sizeof v); }
static bool put_u64(base_buf *b, uint64_t v) { return base_buf_append(b, &v, sizeof v); }
static bool put_string(base_buf *b, const char *s, size_t n) { return put_u64(b, n) && base_buf_append(b, s, n); }

static void begin_value(file_gguf_writer *w, const char *key, file_gguf_type type) {
    note(w, put_string(&w->values, key, strlen(key)) && put_u32(&w->values, type), FL_ENOMEM);
    w->n_values++;
}

void file_gguf_write_number(file_gguf_writer *w, const char *key, file_gguf_type type, const void *v) {
    begin_value(w, key, type);
    note(w, type_bytes[type] != 0, FL_EINVAL);
    note(w, base_buf_append(&w->values, v, type_bytes[type]), FL_ENOMEM);
}

void file_gguf_write_u32(file_gguf_writer *w, const char *key, uint32_t v) {
    file_gguf_write_number(w, key, FILE_GGUF_U32, &v);
}

void file_gguf_write_f32(file_gguf_writer *w, const char *key, float v) {
    file_gguf_write_number(w, key, FILE_GGUF_F32, &v);
}

void file_gguf_write_bool(file_gguf_writer *w, const char *key, bool v) {
    begin_value(w, key, FILE_GGUF_BOOL);
    note(w, base_buf_putc(&w->values, v ? 1 : 0), FL_ENOMEM);
}

void file_gguf_write_string(file_gguf_writer *w, const char *key, const char *s) {
    begin_value(w, key, FILE_GGUF_STRING);
    note(w, put_string(&w->values, s, strlen(s)), FL_ENOMEM);
}

void file_gguf_write_strings(file_gguf_writer *w, const char *key, const file_string s[], uint64_t n) {
    begin_value(w, key, FILE_GGUF_ARRAY);
    note(w, put_u32(&w->values, FILE_GGUF_STRING) && put_u64(&w->values, n), FL_ENOMEM);
    for (uint64_t i = 0; i < n; i++) note(w, put_string(&w->values, s[i].data, s[i].len), FL_ENOMEM);
}

void file_gguf_write_array(file_gguf_writer *w, const char *key, file_gguf_type elem, const void *data, uint64_t n) {
    begin_value(w, key, FILE_GGUF_ARRAY);
    note(w, type_bytes[elem] != 0, FL_EINVAL);
    note(w, put_u32(&w->values, elem) && put_u64(&w->values, n), FL_ENOMEM);
    note(w, base_buf_append(&w->values, data, (size_t)n * type_bytes[elem]), FL_ENOMEM);
}

void file_gguf_write_tensor(file_gguf_writer *w, const char *name, dtype type, uint32_t n_dims, const int64_t dims[],
                            const void *data) {
    size_t bytes = dtype_row_bytes(type, dims[0]);
    bool ok = put_string(&w->records, name, strlen(name)) && put_u32(&w->records, n_dims);
    for (uint32_t i = 0; i < n_dims; i++) {
        ok = ok && put_u64(&w->records, (uint64_t)dims[i]);
        if (i > 0 && (dims[i] < 1 || __builtin_mul_overflow(bytes, (size_t)dims[i], &bytes))) bytes = 0;
    }
    note(w, bytes != 0 && n_dims >= 1 && n_dims <= FILE_GGUF_DIMS_MAX, FL_EINVAL);
    file_gguf_blob blob = {data, bytes};
    ok = ok && put_u32(&w->records, type) && put_u64(&w->records, w->data_bytes);
    note(w, ok && base_buf_append(&w->blobs, &blob, sizeof blob), FL_ENOMEM);
    w->n_tensors++;
    w->data_bytes += bytes + padding(bytes);
}

static FL_CHECKED fl_status build_header(const file_gguf_writer *w, base_buf *out, fl_err *err) {
    if (w->failed == FL_EINVAL) return fl_fail(err, FL_EINVAL, "a tensor's shape or an array's type cannot be written");
    size_t start = out->len;
    bool ok = w->failed == FL_OK && base_buf_append(out, "GGUF", 4) && put_u32(out, 3) && put_u64(out, w->n_tensors) &&
              put_u64(out, w->n_values);
    /* Data of empty buffers is NULL, which append takes with no bytes. */
    ok = ok && base_buf_append(out, w->values.data, w->values.len);
    ok = ok && base_buf_append(out, w->records.data, w->records.len);
    ok = ok && base_buf_append(out, zeros, padding(out->len - start));
    return ok ? FL_OK : fl_fail(err, FL_ENOMEM, "the header of a GGUF file");
}

static file_gguf_blob blob_at(const file_gguf_writer *w, uint64_t i) {
    file_gguf_blob b;
    memcpy(&b, w->blobs.data + i * sizeof b, sizeof b);
    return b;
}

fl_status file_gguf_write_to_buf(const file_gguf_writer *w, base_buf *out, fl_err *err) {
    fl_status st = build_header(w, out, err);
    for (uint64_t i = 0; st == FL_OK && i < w->n_tensors; i++) {
        file_gguf_blob b = blob_at(w, i);
        if (!base_buf_append(out, b.data, b.bytes) || !base_buf_append(out, zeros, padding(b.bytes)))
            st = fl_fail(err, FL_ENOMEM, "tensor %llu of a GGUF file", (unsigned long long)i);
    }
    return st;
}

typedef struct {
    const file_gguf_writer *w;
    const base_buf *header;
} whole;

static bool write_all(const void *user, FILE *f) {
    const whole *x = user;
    bool ok = fwrite(x->header->data, 1, x->header->len, f) == x->header->len;
    for (uint64_t i = 0; ok && i < x->w->n_tensors; i++) {
        file_gguf_blob b = blob_at(x->w, i);
        size_t pad = padding(b.bytes);
        ok = fwrite(b.data, 1, b.bytes, f) == b.bytes && fwrite(zeros, 1, pad, f) == pad;
    }
    return ok;
}

fl_status file_gguf_write_to_path(const file_gguf_writer *w, const char *path, fl_err *err) {
    base_buf header = {0};
    fl_status st = build_header(w, &header, err);
    if (st == FL_OK) st = file_save(path, write_all, &(whole){w, &header}, err);
    base_buf_clear(&header);
    return st;
}

void file_gguf_writer_clear(file_gguf_writer *w) {
    base_buf_clear(&w->values);
    base_buf_clear(&w->records);
    base_buf_clear(&w->blobs);
    *w = (file_gguf_writer){0};
}
