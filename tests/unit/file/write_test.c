/* The writers: every kind of metadata and every type of tensor, read back by our readers and, where they are installed, by
 * the formats' own Python packages (python3, or $FLAMBEAU_TEST_PYTHON). */
#include "base/mem.h"
#include "base/sha256.h"
#include "file/gguf.h"
#include "file/gguf_write.h"
#include "file/safetensors.h"
#include "file/safetensors_write.h"
#include "test.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { ROWS = 3, ROW = 512, DATA_BYTES = ROWS * ROW * 8 };

static unsigned char data[DATA_BYTES];

static void fill(void) {
    for (size_t i = 0; i < sizeof data; i++) data[i] = (unsigned char)(i * 37 + 11 + i / 251);
}

static char *temp_path(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "build/write_test.%d.%s", (int)getpid(), name);
    return path;
}

static void put_hash(base_buf *b, const void *bytes, size_t n) {
    char hex[BASE_SHA256_HEX_BYTES];
    base_sha256 sha;
    base_sha256_begin(&sha);
    base_sha256_add(&sha, bytes, n);
    base_sha256_end(&sha, hex);
    base_buf_printf(b, "%s\n", hex);
}

/* What the Python script prints; NULL when it cannot run here. The caller frees it. */
static char *python(const char *arguments) {
    char command[600];
    const char *program = getenv("FLAMBEAU_TEST_PYTHON");
    base_buf b = {0};
    snprintf(command, sizeof command, "%s -B tests/unit/file/read_back.py %s 2>/dev/null",
             program ? program : "python3", arguments);
    FILE *f = popen(command, "r");
    for (int c = f ? fgetc(f) : EOF; c != EOF; c = fgetc(f)) base_buf_putc(&b, (char)c);
    int code = f ? pclose(f) : -1;
    if (!WIFEXITED(code) || WEXITSTATUS(code) == 3 || WEXITSTATUS(code) == 127) {
        base_buf_clear(&b);
        return NULL;
    }
    CHECKF(WEXITSTATUS(code) == 0, "%s ended with %d", command, WEXITSTATUS(code));
    base_buf_puts(&b, "");
    return base_buf_take(&b);
}

static const struct {
    const char *name, *value; /* as the script prints them */
    file_gguf_type type;
    uint64_t bits;
} numbers[] = {{"n.b", "BOOL 1", FILE_GGUF_BOOL, 1},
               {"n.f32", "FLOAT32 1.5", FILE_GGUF_F32, 0x3fc00000},
               {"n.f64", "FLOAT64 -2.5", FILE_GGUF_F64, 0xc004000000000000},
               {"n.i16", "INT16 -2", FILE_GGUF_I16, 0xfffe},
               {"n.i32", "INT32 -3", FILE_GGUF_I32, 0xfffffffd},
               {"n.i64", "INT64 -4", FILE_GGUF_I64, 0xfffffffffffffffc},
               {"n.i8", "INT8 -1", FILE_GGUF_I8, 0xff},
               {"n.u16", "UINT16 65535", FILE_GGUF_U16, 65535},
               {"n.u32", "UINT32 7", FILE_GGUF_U32, 7},
               {"n.u64", "UINT64 12", FILE_GGUF_U64, 12},
               {"n.u8", "UINT8 255", FILE_GGUF_U8, 255}};
enum { N_NUMBERS = sizeof numbers / sizeof *numbers };

/* Every kind of value, and a tensor of every type that `types` names ("" or NULL: all). wanted: as the script says it. */
static void write_everything(file_gguf_writer *w, const char *types, base_buf *wanted) {
    size_t n;
    const dtype_info *all = dtype_all(&n);
    file_string texts[] = {{"one", 3}, {"", 0}, {"three", 5}};
    file_gguf_write_array(w, "a.f", FILE_GGUF_F32, (const float[]){0.5f, -1}, 2);
    file_gguf_write_array(w, "a.i", FILE_GGUF_I64, (const int64_t[]){3, -4, 5}, 3);
    file_gguf_write_strings(w, "a.s", texts, 3);
    base_buf_puts(wanted, "a.f ARRAY FLOAT32 0.5 -1\na.i ARRAY INT64 3 -4 5\na.s ARRAY STRING one  three\n");
    file_gguf_write_string(w, "general.architecture", "none");
    base_buf_puts(wanted, "general.architecture STRING none\n");
    for (size_t i = 0; i < N_NUMBERS; i++) {
        file_gguf_write_number(w, numbers[i].name, numbers[i].type, &numbers[i].bits);
        base_buf_printf(wanted, "%s %s\n", numbers[i].name, numbers[i].value);
    }
    for (size_t i = 0; i < n; i++) { /* their names need a fixed width to sort like the script */
        char name[32], word[40];
        snprintf(word, sizeof word, " %s ", all[i].name);
        if (types && !strstr(types, word)) continue;
        size_t bytes = ROWS * dtype_row_bytes(all[i].type, ROW);
        snprintf(name, sizeof name, "t.%03zu", i);
        file_gguf_write_tensor(w, name, all[i].type, 2, (const int64_t[]){ROW, ROWS}, data);
        base_buf_printf(wanted, "%s %s %d %d ", name, all[i].name, ROW, ROWS);
        put_hash(wanted, data, bytes);
    }
}

TEST(gguf_of_every_kind) {
    file_gguf_writer w = {0};
    base_buf wanted = {0};
    file_gguf *g;
    fl_err err;
    size_t n;
    const dtype_info *all = dtype_all(&n);
    fill();
    write_everything(&w, NULL, &wanted);
    const char *path = temp_path("all.gguf");
    CHECKF(file_gguf_write_to_path(&w, path, &err) == FL_OK, "%s", err.msg);
    CHECKF(file_gguf_open(&g, path, &err) == FL_OK, "%s", err.msg);
    CHECK(g && file_gguf_n_tensors(g) == n);
    for (size_t i = 0; g && i < N_NUMBERS; i++) {
        const file_gguf_value *v = file_gguf_find(g, numbers[i].name);
        CHECKF(v && v->type == numbers[i].type && v->bytes <= 8 && memcmp(v->data, &numbers[i].bits, v->bytes) == 0,
               "%s", numbers[i].name);
    }
    for (uint32_t i = 0; g && i < file_gguf_n_tensors(g); i++) {
        const file_gguf_tensor *t = file_gguf_tensor_at(g, i);
        CHECKF(t->type == all[i].type && t->dims[0] == ROW && t->dims[1] == ROWS &&
                   t->bytes == ROWS * dtype_row_bytes(t->type, ROW) && memcmp(t->data, data, t->bytes) == 0,
               "%s", all[i].name);
    }
    file_gguf_close(g);
    (void)unlink(path);
    file_gguf_writer_clear(&w);
    base_buf_clear(&wanted);
}

TEST(gguf_refuses_numbers_without_a_size) {
    file_gguf_writer w = {0};
    base_buf b = {0};
    fl_err err;
    file_gguf_write_number(&w, "x", FILE_GGUF_STRING, "x");
    CHECK(file_gguf_write_to_buf(&w, &b, &err) == FL_EINVAL);
    file_gguf_writer_clear(&w);
    base_buf_clear(&b);
}

TEST(the_gguf_package_reads_it) {
    char *types = python("types"), padded[4000], arguments[300];
    if (!types) SKIP("the Python packages gguf and safetensors are not installed");
    file_gguf_writer w = {0};
    base_buf wanted = {0};
    fl_err err;
    fill();
    snprintf(padded, sizeof padded, " %.*s ", (int)strcspn(types, "\n"), types);
    write_everything(&w, padded, &wanted);
    const char *path = temp_path("package.gguf");
    CHECKF(file_gguf_write_to_path(&w, path, &err) == FL_OK, "%s", err.msg);
    snprintf(arguments, sizeof arguments, "gguf %s", path);
    char *found = python(arguments);
    CHECKF(found && strcmp(found, wanted.data) == 0, "wanted\n%s\nfound\n%s", wanted.data, found);
    (void)unlink(path);
    base_free(found);
    base_free(types);
    base_buf_clear(&wanted);
    file_gguf_writer_clear(&w);
}

/* ---- safetensors ----------------------------------------------------------------------- */

static const struct {
    const char *name, *type;
    uint32_t width, n_dims;
    int64_t dims[4];
} tensors[] = {{"a byte", "U8", 1, 1, {3}},          {"b \"quoted\\\"", "BF16", 2, 2, {3, 5}},
               {"c.scalar", "F32", 4, 0, {0}},       {"d.empty", "I8", 1, 2, {0, 7}},
               {"e.double", "F64", 8, 3, {2, 1, 3}}, {"f.half", "F16", 2, 1, {1}},
               {"g.bool", "BOOL", 1, 1, {2}},        {"h.fp8", "F8_E4M3", 1, 4, {1, 2, 1, 5}},
               {"i.long", "I64", 8, 1, {2}},         {"j.\xc3\xa9", "I32", 4, 1, {9}}};
enum { N_TENSORS = sizeof tensors / sizeof *tensors };

static size_t bytes_of(size_t i) {
    size_t n = tensors[i].width;
    for (uint32_t k = 0; k < tensors[i].n_dims; k++) n *= (size_t)tensors[i].dims[k];
    return n;
}

static void write_tensors(file_safetensors_writer *w) {
    memset(data, 1, 64); /* booleans are 0 or 1 */
    file_safetensors_write_text(w, "format", "pt");
    file_safetensors_write_text(w, "odd", "a\"b\\c\nd");
    for (size_t i = 0; i < N_TENSORS; i++)
        file_safetensors_write_tensor(w, tensors[i].name, tensors[i].type, tensors[i].n_dims, tensors[i].dims,
                                      data + (i == 6 ? 0 : i * 64));
}

TEST(safetensors_layout) {
    file_safetensors_writer w = {0};
    base_buf b = {0};
    fl_err err;
    uint64_t n = 0, covered = 0;
    fill();
    write_tensors(&w);
    CHECKF(file_safetensors_write_to_buf(&w, &b, &err) == FL_OK, "%s", err.msg);
    memcpy(&n, b.data, 8);
    CHECK((n + 8) % 64 == 0 && n + 8 <= b.len && b.data[8] == '{');
    json_t *head = json_loadb(b.data + 8, n, JSON_REJECT_DUPLICATES, NULL);
    CHECK(json_object_size(head) == N_TENSORS + 1);
    const json_t *texts = json_object_get(head, "__metadata__");
    CHECK(json_object_size(texts) == 2 && strcmp(json_string_value(json_object_get(texts, "odd")), "a\"b\\c\nd") == 0);
    for (size_t i = 0; i < N_TENSORS; i++) {
        const json_t *t = json_object_get(head, tensors[i].name), *shape = json_object_get(t, "shape"),
                     *span = json_object_get(t, "data_offsets");
        uint64_t begin = (uint64_t)json_integer_value(json_array_get(span, 0)),
                 end = (uint64_t)json_integer_value(json_array_get(span, 1));
        CHECKF(t && strcmp(json_string_value(json_object_get(t, "dtype")), tensors[i].type) == 0, "%s",
               tensors[i].name);
        CHECK(json_array_size(shape) == tensors[i].n_dims && end - begin == bytes_of(i));
        for (uint32_t k = 0; k < tensors[i].n_dims; k++)
            CHECK(json_integer_value(json_array_get(shape, k)) == tensors[i].dims[k]);
        CHECKF((n + 8 + begin) % tensors[i].width == 0, "%s lies at %llu", tensors[i].name, (unsigned long long)begin);
        CHECK(n + 8 + end <= b.len && memcmp(b.data + n + 8 + begin, data + (i == 6 ? 0 : i * 64), end - begin) == 0);
        covered += end - begin;
    }
    CHECK(n + 8 + covered == b.len); /* and so, being apart, without a gap */
    json_decref(head);
    base_buf_clear(&b);
    file_safetensors_writer_clear(&w);
}

TEST(safetensors_are_read_back) {
    file_safetensors_writer w = {0};
    base_buf b = {0};
    file_safetensors *s = NULL;
    fl_err err;
    fill();
    write_tensors(&w);
    CHECKF(file_safetensors_write_to_buf(&w, &b, &err) == FL_OK, "%s", err.msg);
    CHECKF(file_safetensors_open_memory(&s, b.data, b.len, "written", &err) == FL_OK, "%s", err.msg);
    CHECK(s && file_safetensors_n_tensors(s) == N_TENSORS);
    for (size_t i = 0; s && i < N_TENSORS; i++) {
        uint32_t at = file_safetensors_find(s, tensors[i].name);
        CHECKF(at != UINT32_MAX, "%s is lost", tensors[i].name);
        if (at == UINT32_MAX) continue;
        const file_safetensors_tensor *t = file_safetensors_tensor_at(s, at);
        CHECKF(strcmp(t->type, tensors[i].type) == 0 && t->n_dims == tensors[i].n_dims && t->bytes == bytes_of(i) &&
                   memcmp(t->dims, tensors[i].dims, t->n_dims * sizeof *t->dims) == 0 &&
                   memcmp(t->data, data + (i == 6 ? 0 : i * 64), t->bytes) == 0,
               "%s", t->name);
    }
    file_safetensors_close(s);
    base_buf_clear(&b);
    file_safetensors_writer_clear(&w);
}

TEST(safetensors_refuses) {
    static const struct {
        const char *name, *type;
        int64_t dims[2];
    } wrong[] = {{"", "F32", {1, 1}},        {"__metadata__", "F32", {1, 1}}, {"a\nb", "F32", {1, 1}},
                 {"a", "F31", {1, 1}},       {"a", "F32", {-1, 1}},           {"a", "F32", {INT64_MAX, 2}},
                 {"a", "U8", {INT64_MAX, 3}}};
    for (size_t i = 0; i <= sizeof wrong / sizeof *wrong; i++) {
        file_safetensors_writer w = {0};
        base_buf b = {0};
        fl_err err;
        char longest[300];
        memset(longest, 'x', 256);
        longest[256] = '\0';
        if (i < sizeof wrong / sizeof *wrong)
            file_safetensors_write_tensor(&w, wrong[i].name, wrong[i].type, 2, wrong[i].dims, data);
        else
            file_safetensors_write_tensor(&w, longest, "F32", 0, NULL, data);
        CHECKF(file_safetensors_write_to_buf(&w, &b, &err) == FL_EINVAL, "%zu was written", i);
        CHECK(file_safetensors_write_to_path(&w, "build/x.safetensors", &err) == FL_EINVAL);
        file_safetensors_writer_clear(&w);
        base_buf_clear(&b);
    }
    file_safetensors_writer w = {0};
    fl_err err;
    CHECK(file_safetensors_write_to_path(&w, "build/no/such/folder/x", &err) == FL_EIO);
    file_safetensors_writer_clear(&w);
}

TEST(the_safetensors_package_reads_it) {
    char arguments[300];
    file_safetensors_writer w = {0};
    base_buf wanted = {0};
    fl_err err;
    fill();
    write_tensors(&w);
    const char *path = temp_path("package.safetensors");
    CHECKF(file_safetensors_write_to_path(&w, path, &err) == FL_OK, "%s", err.msg);
    snprintf(arguments, sizeof arguments, "safetensors %s", path);
    char *found = python(arguments);
    (void)unlink(path);
    file_safetensors_writer_clear(&w);
    if (!found) SKIP("the Python packages gguf and safetensors are not installed");
    base_buf_puts(&wanted, "metadata format pt\nmetadata odd a\"b\\c\nd\n");
    for (size_t i = 0; i < N_TENSORS; i++) {
        base_buf_printf(&wanted, "%s %s ", tensors[i].name, tensors[i].type);
        for (uint32_t k = 0; k < tensors[i].n_dims; k++) base_buf_printf(&wanted, "%d ", (int)tensors[i].dims[k]);
        put_hash(&wanted, data + (i == 6 ? 0 : i * 64), bytes_of(i));
    }
    CHECKF(strcmp(found, wanted.data) == 0, "wanted\n%s\nfound\n%s", wanted.data, found);
    base_free(found);
    base_buf_clear(&wanted);
}

TEST(every_allocation_of_the_writer_may_fail) {
    size_t held = base_mem_bytes();
    uint64_t n = 1;
    for (;; n++) {
        file_safetensors_writer w = {0};
        base_buf b = {0};
        fl_err err;
        base_mem_fail_at(n);
        write_tensors(&w);
        fl_status st = file_safetensors_write_to_buf(&w, &b, &err);
        if (st == FL_OK) st = file_safetensors_write_to_path(&w, temp_path("mem.safetensors"), &err);
        bool hit = base_mem_failed();
        base_mem_fail_at(0);
        CHECKF(st == (hit ? FL_ENOMEM : FL_OK), "allocation %llu: %s", (unsigned long long)n, err.msg);
        file_safetensors_writer_clear(&w);
        base_buf_clear(&b);
        CHECK(base_mem_bytes() == held);
        if (!hit) break;
    }
    CHECK(n > 4);
    (void)unlink(temp_path("mem.safetensors"));
}
