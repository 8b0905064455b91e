#include "file/safetensors.h"

#include "base/buf.h"
#include "base/mem.h"
#include "test.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- building files ---- */

static void put_length(base_buf *b, uint64_t n) { base_buf_append(b, &n, 8); }

/* A file of this header and so many bytes of data 0, 1, 2, ... */
static base_buf make(const char *header, size_t n_data) {
    base_buf b = {0};
    put_length(&b, strlen(header));
    base_buf_puts(&b, header);
    for (size_t i = 0; i < n_data; i++) base_buf_putc(&b, (char)i);
    return b;
}

static fl_status open_header(const char *header, size_t n_data, file_safetensors **s, fl_err *err, base_buf *keep) {
    *keep = make(header, n_data);
    return file_safetensors_open_memory(s, keep->data, keep->len, "x.safetensors", err);
}

/* Opening must fail with this code and a text that has the file's name and all words (given as one text each). */
static void refused(fl_status code, const char *header, size_t n_data, const char *word) {
    file_safetensors *s;
    fl_err err;
    base_buf b;
    fl_status st = open_header(header, n_data, &s, &err, &b);
    CHECKF(st == code && !s, "%s: %d", header, st);
    if (st != FL_OK)
        CHECKF(strstr(err.msg, word) && strstr(err.msg, "x.safetensors"), "%s: \"%s\" not in \"%s\"", header, word,
               err.msg);
    file_safetensors_close(s);
    base_buf_clear(&b);
}

#define T(dtype, shape, begin, end)                                                                                    \
    "{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

TEST(reads_what_is_there) {
    file_safetensors *s;
    fl_err err;
    base_buf b;
    fl_status st = open_header(
        "{\"__metadata__\":{\"format\":\"pt\"},\"b\":" T("BF16", "[2,3]", 4, 16) ",\"a\":" T(
            "F32", "[]", 0, 4) ",\"empty\":" T("I64", "[3,0]", 16, 16) ",\"four\":" T("F4", "[4]", 16, 18) "}  ",
        18, &s, &err, &b);
    CHECKF(st == FL_OK, "%s", err.msg);
    if (st == FL_OK) {
        CHECK(file_safetensors_n_tensors(s) == 4 && file_safetensors_n_parts(s) == 1);
        const file_safetensors_tensor *t = file_safetensors_tensor_at(s, file_safetensors_find(s, "b"));
        CHECK(strcmp(t->type, "BF16") == 0 && t->bits == 16 && t->n_dims == 2 && t->dims[0] == 2 && t->dims[1] == 3);
        CHECK(t->dims[2] == 1 && t->n_elems == 6 && t->bytes == 12 && t->data[0] == 4 && t->data[11] == 15);
        t = file_safetensors_tensor_at(s, file_safetensors_find(s, "a"));
        CHECK(t->n_dims == 0 && t->n_elems == 1 && t->data[0] == 0);
        CHECK(file_safetensors_tensor_at(s, file_safetensors_find(s, "empty"))->n_elems == 0);
        CHECK(file_safetensors_tensor_at(s, file_safetensors_find(s, "four"))->bytes == 2);
        CHECK(file_safetensors_find(s, "c") == UINT32_MAX);
        CHECK(strcmp(file_safetensors_path(s), "x.safetensors") == 0 && file_safetensors_bytes(s) == b.len);
    }
    file_safetensors_close(s);
    base_buf_clear(&b);
}

TEST(bad_headers) {
    static const struct {
        fl_status code;
        const char *header;
        size_t n_data;
        const char *word;
    } cases[] = {
        {FL_EFORMAT, "", 0, "does not begin"},
        {FL_EFORMAT, "[]", 0, "does not begin"},
        {FL_EFORMAT, " {}", 0, "does not begin"},
        {FL_EFORMAT, "{", 0, "no valid JSON"},
        {FL_EFORMAT, "{} x", 0, "no valid JSON"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[1]", 0, 4) ",}", 4, "no valid JSON"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[1]", 0, 4) ",\"a\":" T("F32", "[1]", 0, 4) "}", 4, "duplicate"},
        {FL_EFORMAT, "{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
         "duplicate"},
        {FL_EFORMAT, "{\"a\":3}", 0, "tensor a"},
        {FL_EFORMAT, "{\"\":" T("F32", "[1]", 0, 4) "}", 4, "name"},
        {FL_EFORMAT, "{\"a\\nb\":" T("F32", "[1]", 0, 4) "}", 4, "control characters"},
        {FL_EFORMAT, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "data_offsets"},
        {FL_EFORMAT, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"more\":1}}", 4,
         "is no object of"},
        {FL_EFORMAT, "{\"a\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "dtype"},
        {FL_EUNSUPPORTED, "{\"a\":" T("F33", "[1]", 0, 4) "}", 4, "F33"},
        {FL_EFORMAT, "{\"a\":" T("F32", "3", 0, 4) "}", 4, "shape"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[-1]", 0, 4) "}", 4, "shape"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[1.0]", 0, 4) "}", 4, "shape"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[1,1,1,1,1,1,1,1,1]", 0, 4) "}", 4, "up to 8"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[4294967296,4294967296,2]", 0, 4) "}", 4, "63 bits"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[4611686018427387904]", 0, 4) "}", 4, "do not make"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[18446744073709551616]", 0, 4) "}", 4, "JSON"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[2]", 0, 4) "}", 4, "2 elements of F32"},
        {FL_EFORMAT, "{\"a\":" T("F4", "[3]", 0, 1) "}", 1, "3 elements of F4"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[1]", 4, 0) "}", 4, "do not lie"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[1]", -4, 0) "}", 4, "do not lie"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[2]", 0, 8) "}", 4, "do not lie"},
        {FL_EFORMAT, "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0]}}", 4, "pair"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 2, 6) "}", 6,
         "tensor b: begins at byte 2"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 0, 4) "}", 4, "begins at byte 0"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[1]", 0, 4) ",\"b\":" T("F32", "[1]", 8, 12) "}", 12,
         "tensor b: begins at byte 8"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[1]", 1, 5) "}", 5, "begins at byte 1"},
        {FL_EFORMAT, "{\"a\":" T("F32", "[1]", 0, 4) "}", 5, "1 bytes before"},
        {FL_EFORMAT, "{\"__metadata__\":[]}", 0, "__metadata__"},
        {FL_EFORMAT, "{\"__metadata__\":{\"a\":1}}", 0, "is no string"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        refused(cases[i].code, cases[i].header, cases[i].n_data, cases[i].word);
}

TEST(bad_lengths) {
    static const uint64_t lengths[] = {3, 100, 100000001, UINT64_MAX, UINT64_MAX - 7, (uint64_t)1 << 63};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        file_safetensors *s;
        fl_err err;
        base_buf b = {0};
        put_length(&b, lengths[i]);
        base_buf_puts(&b, "{}");
        CHECK(file_safetensors_open_memory(&s, b.data, b.len, "x", &err) == FL_EFORMAT && !s);
        CHECKF(strstr(err.msg, "header"), "%s", err.msg);
        for (size_t n = 0; n < 8; n++) CHECK(file_safetensors_open_memory(&s, b.data, n, "x", &err) == FL_EFORMAT);
        base_buf_clear(&b);
    }
}

TEST(deep_nesting_is_refused) {
    base_buf b = {0};
    base_buf_puts(&b, "{\"a\":");
    for (int i = 0; i < 100000; i++) base_buf_putc(&b, '[');
    refused(FL_EFORMAT, b.data, 0, "depth");
    base_buf_clear(&b);
}

/* ---- folders ---- */

static char folder[64];

static void put(const char *name, const void *data, size_t n) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(data, 1, n, f) == n);
    if (f) CHECK(fclose(f) == 0);
}

static void put_file(const char *name, const char *header, size_t n_data) {
    base_buf b = make(header, n_data);
    put(name, b.data, b.len);
    base_buf_clear(&b);
}

static void put_index(const char *json) { put("model.safetensors.index.json", json, strlen(json)); }

static void begin(void) {
    strcpy(folder, "/tmp/flambeau-st-XXXXXX");
    CHECK(mkdtemp(folder) != NULL);
    put_file("a.safetensors", "{\"x\":" T("F32", "[1]", 0, 4) "}", 4);
    put_file("b.safetensors", "{\"y\":" T("F16", "[2]", 0, 4) ",\"z\":" T("F16", "[1]", 4, 6) "}", 6);
}

static void end(void) {
    char command[128];
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK(system(command) == 0);
}

#define INDEX(map) "{\"metadata\":{},\"weight_map\":{" map "}}"
#define GOOD_INDEX INDEX("\"x\":\"a.safetensors\",\"y\":\"b.safetensors\",\"z\":\"b.safetensors\"")

TEST(a_folder) {
    file_safetensors *s;
    fl_err err;
    begin();
    put_index(GOOD_INDEX);
    CHECKF(file_safetensors_open(&s, folder, &err) == FL_OK, "%s", err.msg);
    if (s) {
        CHECK(file_safetensors_n_parts(s) == 2 && file_safetensors_n_tensors(s) == 3);
        CHECK(file_safetensors_tensor_at(s, file_safetensors_find(s, "z"))->data[0] == 4);
        file_safetensors_forget(s);
        CHECK(file_safetensors_tensor_at(s, file_safetensors_find(s, "z"))->data[1] == 5);
    }
    file_safetensors_close(s);
    /* A single file wins over the index. */
    put_file("model.safetensors", "{}", 0);
    CHECK(file_safetensors_open(&s, folder, &err) == FL_OK && file_safetensors_n_tensors(s) == 0);
    file_safetensors_close(s);
    end();
}

TEST(bad_folders) {
    static const struct {
        fl_status code;
        const char *index, *word;
    } cases[] = {
        {FL_EFORMAT, "[]", "no JSON object"},
        {FL_EFORMAT, "{}", "weight_map"},
        {FL_EFORMAT, "{\"weight_map\":3}", "weight_map"},
        {FL_EFORMAT, INDEX(""), "no file"},
        {FL_EFORMAT, INDEX("\"x\":3"), "tensor x"},
        {FL_EIO, INDEX("\"x\":\"a.safetensors\",\"y\":\"gone.safetensors\""), "gone.safetensors"},
        {FL_EFORMAT, INDEX("\"x\":\"../a.safetensors\""), "plain file name"},
        {FL_EFORMAT, INDEX("\"x\":\"..\""), "plain file name"},
        {FL_EFORMAT, INDEX("\"x\":\"/etc/a.safetensors\""), "plain file name"},
        {FL_EFORMAT, INDEX("\"x\":\"sub\\\\a.safetensors\""), "plain file name"},
        {FL_EFORMAT, INDEX("\"x\":\".a.safetensors\""), "plain file name"},
        {FL_EFORMAT, INDEX("\"x\":\"a.bin\""), "plain file name"},
        {FL_EFORMAT, INDEX("\"x\":\"a.safetensors\",\"y\":\"b.safetensors\""),
         "tensor z: is here, the index says nothing"},
        {FL_EFORMAT, INDEX("\"x\":\"b.safetensors\",\"y\":\"b.safetensors\",\"z\":\"b.safetensors\""), "tensor x"},
        {FL_EFORMAT, INDEX("\"x\":\"a.safetensors\",\"y\":\"a.safetensors\",\"z\":\"b.safetensors\""),
         "tensor y: is here, the index says a.safetensors"},
        {FL_EFORMAT, INDEX("\"x\":\"a.safetensors\",\"w\":\"a.safetensors\""), "tensor w"},
        {FL_EFORMAT, INDEX("\"x\":\"a.safetensors\",\"x\":\"b.safetensors\""), "duplicate"},
    };
    begin();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        file_safetensors *s;
        fl_err err;
        put_index(cases[i].index);
        fl_status st = file_safetensors_open(&s, folder, &err);
        CHECKF(st == cases[i].code && !s, "%s: %d", cases[i].index, st);
        if (st != FL_OK)
            CHECKF(strstr(err.msg, cases[i].word) && strstr(err.msg, folder), "%s: \"%s\"", cases[i].index, err.msg);
        file_safetensors_close(s);
    }
    end();
    file_safetensors *s;
    CHECK(file_safetensors_open(&s, "/tmp/flambeau-no-such-folder", NULL) == FL_EIO && !s);
    CHECK(file_safetensors_open(&s, "/tmp", NULL) == FL_EIO && !s);
}

TEST(every_allocation_may_fail) {
    json_set_alloc_funcs(base_malloc, base_free); /* as the program does */
    begin();
    put_index(GOOD_INDEX);
    size_t held = base_mem_bytes();
    int failures = 0;
    for (uint64_t n = 1; n < 10000; n++) {
        file_safetensors *s;
        fl_err err;
        base_mem_fail_at(n);
        fl_status st = file_safetensors_open(&s, folder, &err);
        bool hit = base_mem_failed();
        base_mem_fail_at(0);
        CHECKF(hit ? st == FL_ENOMEM && !s : st == FL_OK, "allocation %llu: %s", (unsigned long long)n, err.msg);
        file_safetensors_close(s);
        CHECKF(base_mem_bytes() == held, "allocation %llu leaks", (unsigned long long)n);
        if (!hit) break;
        failures++;
    }
    CHECKF(failures >= 30, "%d failures", failures);
    end();
}
