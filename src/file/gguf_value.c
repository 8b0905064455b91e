/* Typed lookups of GGUF metadata. Integers are widened to 64 bits first and then
 * checked against what the caller can hold, because writers differ in the widths they choose. */
#include "file/gguf.h"

#include "base/assert.h"
#include "file/gguf_int.h"

#include <string.h>

static bool is_int(file_gguf_type t) { return t != FILE_GGUF_F32 && t < FILE_GGUF_BOOL; }
static bool is_wide_int(file_gguf_type t) { return is_int(t) || t == FILE_GGUF_U64 || t == FILE_GGUF_I64; }
static bool is_int_or_bool(file_gguf_type t) { return is_wide_int(t) || t == FILE_GGUF_BOOL; }
static bool is_float(file_gguf_type t) { return t == FILE_GGUF_F32 || t == FILE_GGUF_F64; }

static fl_status wrong_type(const file_gguf_value *v, const char *wanted, fl_err *err) {
    return fl_fail(err, FL_EFORMAT, "%.128s is %s%s, wanted %s", v->key,
                   v->type == FILE_GGUF_ARRAY ? "an array of " : "", file_gguf_type_name(v->elem), wanted);
}

static FL_CHECKED fl_status get(const file_gguf *g, const char *key, const file_gguf_value **out, fl_err *err) {
    *out = file_gguf_find(g, key);
    return *out ? FL_OK : fl_fail(err, FL_EFORMAT, "%s: the metadata key %s is missing", g->path, key);
}

static uint64_t load(const uint8_t *p, size_t bytes) {
    uint64_t v = 0;
    memcpy(&v, p, bytes);
    return v;
}

int64_t file_gguf_int_at(const file_gguf_value *v, uint64_t i) {
    fl_assert(i < v->count && is_int_or_bool(v->elem));
    switch (v->elem) {
        case FILE_GGUF_U8:
        case FILE_GGUF_BOOL: return v->data[i];
        case FILE_GGUF_I8: return (int8_t)v->data[i];
        case FILE_GGUF_U16: return (int64_t)load(v->data + 2 * i, 2);
        case FILE_GGUF_I16: return (int16_t)load(v->data + 2 * i, 2);
        case FILE_GGUF_U32: return (int64_t)load(v->data + 4 * i, 4);
        case FILE_GGUF_I32: return (int32_t)load(v->data + 4 * i, 4);
        case FILE_GGUF_I64: return (int64_t)load(v->data + 8 * i, 8);
        case FILE_GGUF_U64: {
            uint64_t u = load(v->data + 8 * i, 8);
            return u > INT64_MAX ? INT64_MAX : (int64_t)u;
        }
        default: return 0;
    }
}

double file_gguf_float_at(const file_gguf_value *v, uint64_t i) {
    fl_assert(i < v->count && is_float(v->elem));
    if (v->elem == FILE_GGUF_F32) {
        float f;
        memcpy(&f, v->data + 4 * i, 4);
        return (double)f;
    }
    double d;
    memcpy(&d, v->data + 8 * i, 8);
    return d;
}

fl_status file_gguf_value_u64(const file_gguf_value *v, uint64_t *out, fl_err *err) {
    if (v->type == FILE_GGUF_ARRAY || !is_wide_int(v->elem)) return wrong_type(v, "an integer", err);
    if (v->elem == FILE_GGUF_U64) {
        *out = load(v->data, 8);
        return FL_OK;
    }
    int64_t i = file_gguf_int_at(v, 0);
    if (i < 0) return fl_fail(err, FL_EFORMAT, "%.128s is %lld, wanted 0 or more", v->key, (long long)i);
    *out = (uint64_t)i;
    return FL_OK;
}

fl_status file_gguf_get_u64(const file_gguf *g, const char *key, uint64_t *out, fl_err *err) {
    const file_gguf_value *v;
    fl_status st = get(g, key, &v, err);
    if (st != FL_OK) return st;
    st = file_gguf_value_u64(v, out, err);
    return st == FL_OK ? FL_OK : fl_wrap(err, st, "%s", g->path);
}

fl_status file_gguf_get_u32(const file_gguf *g, const char *key, uint32_t *out, fl_err *err) {
    uint64_t v;
    fl_status st = file_gguf_get_u64(g, key, &v, err);
    if (st != FL_OK) return st;
    if (v > UINT32_MAX)
        return fl_fail(err, FL_EFORMAT, "%s: %s is %llu, wanted at most %u", g->path, key, (unsigned long long)v,
                       UINT32_MAX);
    *out = (uint32_t)v;
    return FL_OK;
}

fl_status file_gguf_get_f32(const file_gguf *g, const char *key, float *out, fl_err *err) {
    const file_gguf_value *v;
    fl_status st = get(g, key, &v, err);
    if (st != FL_OK) return st;
    if (v->type == FILE_GGUF_ARRAY || !is_float(v->elem)) {
        st = wrong_type(v, "a number (f32)", err);
        return fl_wrap(err, st, "%s", g->path);
    }
    double d = file_gguf_float_at(v, 0);
    if (!__builtin_isfinite((float)d)) return fl_fail(err, FL_EFORMAT, "%s: %s is not finite", g->path, key);
    *out = (float)d;
    return FL_OK;
}

fl_status file_gguf_get_bool(const file_gguf *g, const char *key, bool *out, fl_err *err) {
    const file_gguf_value *v;
    fl_status st = get(g, key, &v, err);
    if (st != FL_OK) return st;
    if (v->type != FILE_GGUF_BOOL) {
        st = wrong_type(v, "bool", err);
        return fl_wrap(err, st, "%s", g->path);
    }
    *out = v->data[0] != 0;
    return FL_OK;
}

fl_status file_gguf_get_string(const file_gguf *g, const char *key, file_string *out, fl_err *err) {
    const file_gguf_value *v;
    fl_status st = get(g, key, &v, err);
    if (st != FL_OK) return st;
    if (v->type != FILE_GGUF_STRING) {
        st = wrong_type(v, "a string", err);
        return fl_wrap(err, st, "%s", g->path);
    }
    file_gguf_strings it = file_gguf_strings_begin(v);
    (void)file_gguf_strings_next(&it, out);
    return FL_OK;
}

fl_status file_gguf_get_u32_or(const file_gguf *g, const char *key, uint32_t fallback, uint32_t *out, fl_err *err) {
    *out = fallback;
    return file_gguf_find(g, key) ? file_gguf_get_u32(g, key, out, err) : FL_OK;
}

fl_status file_gguf_get_f32_or(const file_gguf *g, const char *key, float fallback, float *out, fl_err *err) {
    *out = fallback;
    return file_gguf_find(g, key) ? file_gguf_get_f32(g, key, out, err) : FL_OK;
}

fl_status file_gguf_get_bool_or(const file_gguf *g, const char *key, bool fallback, bool *out, fl_err *err) {
    *out = fallback;
    return file_gguf_find(g, key) ? file_gguf_get_bool(g, key, out, err) : FL_OK;
}

fl_status file_gguf_get_u32_each(const file_gguf *g, const char *key, uint32_t n, uint32_t out[], fl_err *err) {
    const file_gguf_value *v;
    fl_status st = get(g, key, &v, err);
    if (st != FL_OK) return st;
    if (v->type != FILE_GGUF_ARRAY) {
        uint32_t all = 0;
        st = file_gguf_get_u32(g, key, &all, err);
        for (uint32_t i = 0; st == FL_OK && i < n; i++) out[i] = all;
        return st;
    }
    st = file_gguf_get_ints(g, key, &v, err);
    if (st != FL_OK) return st;
    if (v->count != n)
        return fl_fail(err, FL_EFORMAT, "%s: %s has %llu values, wanted one or %u", g->path, key,
                       (unsigned long long)v->count, n);
    for (uint32_t i = 0; i < n; i++) {
        int64_t x = file_gguf_int_at(v, i);
        if (x < 0 || x > UINT32_MAX)
            return fl_fail(err, FL_EFORMAT, "%s: %s[%u] is %lld, wanted 0 to %u", g->path, key, i, (long long)x,
                           UINT32_MAX);
        out[i] = (uint32_t)x;
    }
    return FL_OK;
}

static FL_CHECKED fl_status get_array(const file_gguf *g, const char *key, bool (*accepts)(file_gguf_type),
                                      const char *wanted, const file_gguf_value **out, fl_err *err) {
    fl_status st = get(g, key, out, err);
    if (st != FL_OK) return st;
    if ((*out)->type == FILE_GGUF_ARRAY && accepts((*out)->elem)) return FL_OK;
    st = wrong_type(*out, wanted, err);
    return fl_wrap(err, st, "%s", g->path);
}

static bool is_string(file_gguf_type t) { return t == FILE_GGUF_STRING; }

fl_status file_gguf_get_ints(const file_gguf *g, const char *key, const file_gguf_value **out, fl_err *err) {
    return get_array(g, key, is_int_or_bool, "an array of integers", out, err);
}

fl_status file_gguf_get_floats(const file_gguf *g, const char *key, const file_gguf_value **out, fl_err *err) {
    return get_array(g, key, is_float, "an array of f32", out, err);
}

fl_status file_gguf_get_strings(const file_gguf *g, const char *key, const file_gguf_value **out, fl_err *err) {
    return get_array(g, key, is_string, "an array of strings", out, err);
}

file_gguf_strings file_gguf_strings_begin(const file_gguf_value *v) {
    fl_assert(v->elem == FILE_GGUF_STRING);
    return (file_gguf_strings){v->data, v->count};
}

bool file_gguf_strings_next(file_gguf_strings *it, file_string *out) {
    if (it->left == 0) return false;
    uint64_t len = load(it->at, 8); /* checked when the file was opened */
    *out = (file_string){(const char *)it->at + 8, (size_t)len};
    it->at += 8 + len;
    it->left--;
    return true;
}
