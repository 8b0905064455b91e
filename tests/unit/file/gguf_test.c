#include "file/gguf.h"
#include "file/gguf_write.h"

#include "base/mem.h"
#include "test.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- building files ------------------------------------------------------------------- */

static const float row[64] = {1.0f, 2.0f, -3.0f};

static void write_small(file_gguf_writer *w) {
    static const file_string tokens[] = {{"<s>", 3}, {"", 0}, {"a\0b", 3}};
    static const uint32_t heads[] = {3, 1};
    static const float scores[] = {0.5f, -1.0f, 0.0f};
    static const uint8_t flags[] = {1, 0};
    file_gguf_write_string(w, "general.architecture", "llama");
    file_gguf_write_u32(w, "llama.block_count", 2);
    file_gguf_write_f32(w, "llama.eps", 1e-5f);
    file_gguf_write_bool(w, "tokenizer.add_bos", true);
    file_gguf_write_strings(w, "tokenizer.tokens", tokens, 3);
    file_gguf_write_array(w, "llama.heads", FILE_GGUF_U32, heads, 2);
    file_gguf_write_array(w, "tokenizer.scores", FILE_GGUF_F32, scores, 3);
    file_gguf_write_array(w, "llama.sliding", FILE_GGUF_BOOL, flags, 2);
    file_gguf_write_tensor(w, "norm", DTYPE_F32, 1, (int64_t[]){5}, row);
    file_gguf_write_tensor(w, "matrix", DTYPE_F16, 2, (int64_t[]){4, 3}, row);
}

static base_buf small_file(void) {
    file_gguf_writer w = {0};
    base_buf b = {0};
    fl_err err;
    write_small(&w);
    CHECKF(file_gguf_write_to_buf(&w, &b, &err) == FL_OK, "%s", err.msg);
    file_gguf_writer_clear(&w);
    return b;
}

/* A file by hand, for what the writer would not write. */
static void u32(base_buf *b, uint32_t v) { base_buf_append(b, &v, 4); }
static void u64(base_buf *b, uint64_t v) { base_buf_append(b, &v, 8); }
static void str(base_buf *b, const char *s) {
    u64(b, strlen(s));
    base_buf_puts(b, s);
}
static void header(base_buf *b, uint32_t version, uint64_t n_tensors, uint64_t n_values) {
    base_buf_clear(b);
    base_buf_puts(b, "GGUF");
    u32(b, version);
    u64(b, n_tensors);
    u64(b, n_values);
}
static void tensor(base_buf *b, const char *name, uint32_t type, uint64_t dim, uint64_t offset) {
    str(b, name);
    u32(b, 1);
    u64(b, dim);
    u32(b, type);
    u64(b, offset);
}
static void pad(base_buf *b, size_t data) {
    while (b->len % 32) base_buf_putc(b, 0);
    for (size_t i = 0; i < data; i++) base_buf_putc(b, 7);
}

/* Opens bytes that lie at the end of a block of their own, so that a sanitizer sees any read beyond. */
static fl_status open_bytes(const void *data, size_t size, file_gguf **g, void **copy, fl_err *err) {
    *copy = aligned_alloc(64, (size + 127) / 64 * 64);
    size_t shift = (64 - size % 64) % 64;
    char *at = (char *)*copy + shift;
    memcpy(at, data, size);
    return file_gguf_open_memory(g, at, size, "test.gguf", err);
}

static void expect(const base_buf *b, fl_status want, const char *text) {
    file_gguf *g;
    void *copy;
    fl_err err = {0};
    fl_status st = open_bytes(b->data, b->len, &g, &copy, &err);
    CHECKF(st == want, "%s: %s, wanted %s", text, fl_status_name(st), fl_status_name(want));
    CHECKF((st == FL_OK) == (g != NULL), "%s: object and status disagree", text);
    if (st != FL_OK) {
        CHECKF(strstr(err.msg, text) != NULL, "\"%s\" does not say \"%s\"", err.msg, text);
        CHECKF(strstr(err.msg, "test.gguf: ") == err.msg, "\"%s\" does not begin with the path", err.msg);
    }
    file_gguf_close(g);
    free(copy);
}

/* ---- what a good file gives ------------------------------------------------------------ */

static void check_small(const file_gguf *g) {
    fl_err err;
    uint32_t n, heads[2];
    uint64_t n64;
    float eps;
    bool bos;
    file_string s;
    CHECK(file_gguf_n_values(g) == 8 && file_gguf_n_tensors(g) == 2 && file_gguf_version(g) == 3);
    CHECK(file_gguf_get_string(g, "general.architecture", &s, &err) == FL_OK && s.len == 5 &&
          memcmp(s.data, "llama", 5) == 0);
    CHECK(file_gguf_get_u32(g, "llama.block_count", &n, &err) == FL_OK && n == 2);
    CHECK(file_gguf_get_u64(g, "llama.block_count", &n64, &err) == FL_OK && n64 == 2);
    CHECK(file_gguf_get_f32(g, "llama.eps", &eps, &err) == FL_OK && eps == 1e-5f);
    CHECK(file_gguf_get_bool(g, "tokenizer.add_bos", &bos, &err) == FL_OK && bos);
    CHECK(file_gguf_get_u32_each(g, "llama.heads", 2, heads, &err) == FL_OK && heads[0] == 3 && heads[1] == 1);
    CHECK(file_gguf_get_u32_each(g, "llama.block_count", 2, heads, &err) == FL_OK && heads[0] == 2 && heads[1] == 2);
    CHECK(file_gguf_get_u32_each(g, "llama.sliding", 2, heads, &err) == FL_OK && heads[0] == 1 && heads[1] == 0);
    CHECK(file_gguf_get_u32_or(g, "llama.none", 9, &n, &err) == FL_OK && n == 9);
    CHECK(file_gguf_get_f32_or(g, "llama.none", 0.5f, &eps, &err) == FL_OK && eps == 0.5f);
    CHECK(file_gguf_get_bool_or(g, "llama.none", true, &bos, &err) == FL_OK && bos);

    const file_gguf_value *v;
    CHECK(file_gguf_get_floats(g, "tokenizer.scores", &v, &err) == FL_OK && v->count == 3);
    CHECK(file_gguf_float_at(v, 0) == 0.5 && file_gguf_float_at(v, 1) == -1.0);
    CHECK(file_gguf_get_strings(g, "tokenizer.tokens", &v, &err) == FL_OK && v->count == 3);
    file_gguf_strings it = file_gguf_strings_begin(v);
    CHECK(file_gguf_strings_next(&it, &s) && s.len == 3 && memcmp(s.data, "<s>", 3) == 0);
    CHECK(file_gguf_strings_next(&it, &s) && s.len == 0);
    CHECK(file_gguf_strings_next(&it, &s) && s.len == 3 && memcmp(s.data, "a\0b", 3) == 0);
    CHECK(!file_gguf_strings_next(&it, &s));

    const file_gguf_tensor *t = file_gguf_tensor_find(g, "matrix");
    CHECK(t == file_gguf_tensor_at(g, 1) && strcmp(t->name, "matrix") == 0 && t->type == DTYPE_F16);
    CHECK(t->n_dims == 2 && t->dims[0] == 4 && t->dims[1] == 3 && t->dims[2] == 1 && t->n_elems == 12);
    CHECK(t->bytes == 24 && memcmp(t->data, row, 24) == 0);
    t = file_gguf_tensor_find(g, "norm");
    CHECK(t && t->bytes == 20 && memcmp(t->data, row, 20) == 0);
    CHECK(file_gguf_tensor_find(g, "none") == NULL && file_gguf_find(g, "none") == NULL);
}

TEST(round_trip_in_memory) {
    base_buf b = small_file();
    file_gguf *g;
    fl_err err;
    char *copy = aligned_alloc(64, (b.len + 63) / 64 * 64);
    memcpy(copy, b.data, b.len);
    CHECKF(file_gguf_open_memory(&g, copy, b.len, "small", &err) == FL_OK, "%s", err.msg);
    if (g) {
        check_small(g);
        CHECK((uintptr_t)file_gguf_tensor_at(g, 0)->data % 32 == 0 && file_gguf_bytes(g) == b.len);
    }
    file_gguf_close(g);
    memcpy(copy + 4, &(uint32_t){2}, 4); /* version 2 has the same layout */
    CHECK(file_gguf_open_memory(&g, copy, b.len, "small", &err) == FL_OK && file_gguf_version(g) == 2);
    file_gguf_close(g);
    free(copy);
    base_buf_clear(&b);
}

static char *temp_path(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "build/gguf_test.%d.%s", (int)getpid(), name);
    return path;
}

TEST(round_trip_through_a_file) {
    char path[256];
    file_gguf_writer w = {0};
    file_gguf *g;
    fl_err err;
    write_small(&w);
    strcpy(path, temp_path("small.gguf"));
    CHECKF(file_gguf_write_to_path(&w, path, &err) == FL_OK, "%s", err.msg);
    CHECKF(file_gguf_open(&g, path, &err) == FL_OK, "%s", err.msg);
    if (g) check_small(g);
    file_gguf_close(g);
    CHECK(file_gguf_write_to_path(&w, "build/no/such/folder/x.gguf", &err) == FL_EIO);
    unlink(path);
    file_gguf_writer_clear(&w);
}

TEST(wrong_metadata_types_are_named) {
    base_buf b = small_file();
    file_gguf *g;
    void *copy;
    fl_err err = {0};
    uint32_t n, heads[3];
    float f;
    bool t;
    file_string s;
    const file_gguf_value *v;
    CHECK(open_bytes(b.data, b.len, &g, &copy, &err) == FL_OK);
    CHECK(file_gguf_get_u32(g, "llama.none", &n, &err) == FL_EFORMAT);
    CHECKF(strcmp(err.msg, "test.gguf: the metadata key llama.none is missing") == 0, "%s", err.msg);
    CHECK(file_gguf_get_u32(g, "llama.eps", &n, &err) == FL_EFORMAT);
    CHECKF(strcmp(err.msg, "test.gguf: llama.eps is f32, wanted an integer") == 0, "%s", err.msg);
    CHECK(file_gguf_get_u32_or(g, "llama.eps", 1, &n, &err) == FL_EFORMAT);
    CHECK(file_gguf_get_f32(g, "llama.block_count", &f, &err) == FL_EFORMAT);
    CHECK(file_gguf_get_bool(g, "llama.block_count", &t, &err) == FL_EFORMAT);
    CHECK(file_gguf_get_string(g, "tokenizer.tokens", &s, &err) == FL_EFORMAT);
    CHECKF(strcmp(err.msg, "test.gguf: tokenizer.tokens is an array of string, wanted a string") == 0, "%s", err.msg);
    CHECK(file_gguf_get_ints(g, "tokenizer.scores", &v, &err) == FL_EFORMAT);
    CHECK(file_gguf_get_floats(g, "llama.heads", &v, &err) == FL_EFORMAT);
    CHECK(file_gguf_get_strings(g, "general.architecture", &v, &err) == FL_EFORMAT);
    CHECK(file_gguf_get_u32_each(g, "llama.heads", 3, heads, &err) == FL_EFORMAT);
    CHECKF(strcmp(err.msg, "test.gguf: llama.heads has 2 values, wanted one or 3") == 0, "%s", err.msg);
    file_gguf_close(g);
    free(copy);
    base_buf_clear(&b);
}

/* Every integer width, with its extremes. */
TEST(integers_of_all_widths) {
    static const struct {
        uint32_t type, bytes;
        uint64_t bits;
        bool fits;
        uint32_t value;
    } cases[] = {
        {FILE_GGUF_U8, 1, 0xff, true, 255},         {FILE_GGUF_I8, 1, 0xff, false, 0},
        {FILE_GGUF_I8, 1, 0x7f, true, 127},         {FILE_GGUF_U16, 2, 0xffff, true, 65535},
        {FILE_GGUF_I16, 2, 0x8000, false, 0},       {FILE_GGUF_I16, 2, 12, true, 12},
        {FILE_GGUF_U32, 4, 0xffffffff, true, ~0u},  {FILE_GGUF_I32, 4, 0xffffffff, false, 0},
        {FILE_GGUF_I32, 4, 77, true, 77},           {FILE_GGUF_U64, 8, UINT64_MAX, false, 0},
        {FILE_GGUF_U64, 8, 0x100000000, false, 0},  {FILE_GGUF_U64, 8, 5, true, 5},
        {FILE_GGUF_I64, 8, (uint64_t)-1, false, 0}, {FILE_GGUF_I64, 8, 0xffffffff, true, ~0u},
        {FILE_GGUF_BOOL, 1, 1, false, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        base_buf b = {0};
        file_gguf *g;
        void *copy;
        fl_err err;
        uint32_t n = 0;
        header(&b, 3, 0, 1);
        str(&b, "k");
        u32(&b, cases[i].type);
        base_buf_append(&b, &cases[i].bits, cases[i].bytes);
        CHECK(open_bytes(b.data, b.len, &g, &copy, &err) == FL_OK);
        fl_status st = file_gguf_get_u32(g, "k", &n, &err);
        CHECKF((st == FL_OK) == cases[i].fits && (st != FL_OK || n == cases[i].value), "case %zu: %u", i, n);
        file_gguf_close(g);
        free(copy);
        base_buf_clear(&b);
    }
}

/* ---- bad files ------------------------------------------------------------------------- */

TEST(truncation_at_every_byte) {
    base_buf b = small_file();
    size_t needed = b.len - (32 - 24); /* without the padding behind the last tensor */
    for (size_t n = 0; n < needed; n++) {
        file_gguf *g;
        void *copy;
        fl_err err;
        CHECKF(open_bytes(b.data, n, &g, &copy, &err) != FL_OK, "%zu of %zu bytes open", n, b.len);
        CHECK(g == NULL);
        free(copy);
    }
    base_buf_clear(&b);
}

/* Reads everything an open file offers. */
static uint64_t walk(const file_gguf *g) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < file_gguf_n_values(g); i++) {
        const file_gguf_value *v = file_gguf_value_at(g, i);
        sum += strlen(v->key) + v->count;
        if (v->elem == FILE_GGUF_STRING) {
            file_gguf_strings it = file_gguf_strings_begin(v);
            for (file_string s; file_gguf_strings_next(&it, &s);)
                for (size_t c = 0; c < s.len; c++) sum += (unsigned char)s.data[c];
        } else
            for (size_t c = 0; c < v->bytes; c++) sum += v->data[c];
    }
    for (uint32_t i = 0; i < file_gguf_n_tensors(g); i++) {
        const file_gguf_tensor *t = file_gguf_tensor_at(g, i);
        for (size_t c = 0; c < t->bytes; c++) sum += t->data[c];
    }
    return sum;
}

TEST(bit_flips) {
    base_buf b = small_file();
    uint64_t seed = 1, sum = 0;
    int opened = 0;
    for (int i = 0; i < 20000; i++) {
        base_buf c = {0};
        base_buf_append(&c, b.data, b.len);
        for (uint32_t k = test_random_below(&seed, 3) + 1; k; k--)
            c.data[test_random_below(&seed, (uint32_t)b.len)] ^= (char)(1u << test_random_below(&seed, 8));
        file_gguf *g;
        void *copy;
        fl_err err;
        if (open_bytes(c.data, c.len, &g, &copy, &err) == FL_OK) {
            opened++;
            sum += walk(g);
        }
        file_gguf_close(g);
        free(copy);
        base_buf_clear(&c);
    }
    CHECKF(opened > 1000 && sum, "%d opened", opened); /* flips in values and data do no harm */
    base_buf_clear(&b);
}

TEST(magic_and_version) {
    base_buf b = {0};
    base_buf_puts(&b, "PK\3\4 not a model");
    expect(&b, FL_EFORMAT, "it starts with 50 4b 03 04");
    header(&b, 1, 0, 0);
    expect(&b, FL_EUNSUPPORTED, "is GGUF version 1; versions 2 and 3 are read");
    header(&b, 4, 0, 0);
    expect(&b, FL_EUNSUPPORTED, "is GGUF version 4");
    header(&b, 0x03000000, 0, 0);
    expect(&b, FL_EUNSUPPORTED, "big-endian");
    header(&b, 3, 0, 0);
    expect(&b, FL_OK, "an empty model is a valid file");
    base_buf_clear(&b);
}

TEST(counts_beyond_the_file) {
    base_buf b = {0};
    header(&b, 3, 1ull << 60, 0);
    expect(&b, FL_EFORMAT, "announces 1152921504606846976 tensors");
    header(&b, 3, 0, 1ull << 60);
    expect(&b, FL_EFORMAT, "announces 1152921504606846976 metadata values");
    header(&b, 3, UINT64_MAX, UINT64_MAX);
    expect(&b, FL_EFORMAT, "announces");
    header(&b, 3, 0, 1);
    str(&b, "k");
    u32(&b, FILE_GGUF_ARRAY);
    u32(&b, FILE_GGUF_U64);
    u64(&b, 1ull << 61); /* times 8 overflows */
    expect(&b, FL_EFORMAT, "k needs");
    header(&b, 3, 0, 1);
    str(&b, "k");
    u32(&b, FILE_GGUF_ARRAY);
    u32(&b, FILE_GGUF_STRING);
    u64(&b, 1ull << 60);
    expect(&b, FL_EFORMAT, "k, string 0: a string needs");
    base_buf_clear(&b);
}

TEST(bad_strings_and_values) {
    base_buf b = {0};
    header(&b, 3, 0, 1);
    u64(&b, 1ull << 40);
    base_buf_puts(&b, "0123456789");
    expect(&b, FL_EFORMAT, "a metadata key at offset 24 is 1099511627776 bytes long");
    header(&b, 3, 0, 1);
    str(&b, "k");
    u32(&b, FILE_GGUF_STRING);
    u64(&b, 1ull << 40);
    expect(&b, FL_EFORMAT, "is 1099511627776 bytes long");
    header(&b, 3, 0, 1);
    str(&b, "");
    u32(&b, FILE_GGUF_U8);
    u32(&b, 0);
    expect(&b, FL_EFORMAT, "a metadata key at offset 32 is empty");
    header(&b, 3, 0, 1);
    str(&b, "a\x1b[2J");
    u32(&b, FILE_GGUF_U8);
    u32(&b, 0);
    expect(&b, FL_EFORMAT, "control character (27)");
    header(&b, 3, 0, 1);
    str(&b, "k");
    u32(&b, 13);
    u32(&b, 0);
    expect(&b, FL_EFORMAT, "k has the unknown value type 13");
    header(&b, 3, 0, 1);
    str(&b, "k");
    u32(&b, FILE_GGUF_BOOL);
    base_buf_putc(&b, 2);
    expect(&b, FL_EFORMAT, "k is a boolean of 2");
    header(&b, 3, 0, 1);
    str(&b, "k");
    u32(&b, FILE_GGUF_ARRAY);
    u32(&b, FILE_GGUF_ARRAY);
    u64(&b, 1);
    expect(&b, FL_EUNSUPPORTED, "k is an array of arrays");
    header(&b, 3, 0, 2);
    for (int i = 0; i < 2; i++) {
        str(&b, "twice");
        u32(&b, FILE_GGUF_U8);
        base_buf_putc(&b, 1);
    }
    expect(&b, FL_EFORMAT, "the metadata key twice appears twice");
    base_buf_clear(&b);
}

static void alignment_file(base_buf *b, uint32_t alignment) {
    header(b, 3, 1, 1);
    str(b, "general.alignment");
    u32(b, FILE_GGUF_U32);
    u32(b, alignment);
    tensor(b, "t", DTYPE_F32, 2, 0);
    while (b->len % (alignment ? alignment : 1)) base_buf_putc(b, 0);
    base_buf_append(b, "12345678", 8);
}

TEST(alignment_must_be_a_power_of_two) {
    base_buf b = {0};
    static const uint32_t bad[] = {0, 1, 4, 24, 33, 1 << 17};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        alignment_file(&b, bad[i]);
        expect(&b, FL_EFORMAT, "wanted a power of two from 8 to 65536");
    }
    static const uint32_t good[] = {8, 16, 64, 4096};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        alignment_file(&b, good[i]);
        expect(&b, FL_OK, "a good alignment");
    }
    base_buf_clear(&b);
}

TEST(bad_tensor_records) {
    base_buf b = {0};
    header(&b, 3, 1, 0);
    tensor(&b, "t", 15, 256, 0);
    pad(&b, 4096);
    expect(&b, FL_EUNSUPPORTED,
           "tensor t has type Q8_K; supported are F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K");
    header(&b, 3, 1, 0);
    tensor(&b, "t", 77, 256, 0);
    pad(&b, 4096);
    expect(&b, FL_EFORMAT, "tensor t has the unknown type 77");
    header(&b, 3, 1, 0);
    tensor(&b, "t", DTYPE_F32, 0, 0);
    pad(&b, 64);
    expect(&b, FL_EFORMAT, "tensor t has 0 as dimension 0");
    header(&b, 3, 1, 0);
    tensor(&b, "t", DTYPE_F32, UINT64_MAX, 0);
    pad(&b, 64);
    expect(&b, FL_EFORMAT, "as dimension 0");
    header(&b, 3, 1, 0);
    tensor(&b, "t", DTYPE_Q4_K, 255, 0);
    pad(&b, 4096);
    expect(&b, FL_EFORMAT, "tensor t has rows of 255, not whole blocks of Q4_K (256)");
    header(&b, 3, 1, 0);
    tensor(&b, "t", DTYPE_F32, 1ull << 62, 0);
    pad(&b, 64);
    expect(&b, FL_EFORMAT, "not whole blocks"); /* the bytes overflow */
    static const uint32_t bad_dims[] = {0, 5, UINT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        header(&b, 3, 1, 0);
        str(&b, "t");
        u32(&b, bad_dims[i]);
        for (int d = 0; d < 5; d++) u64(&b, 1);
        pad(&b, 64);
        expect(&b, FL_EFORMAT, "dimensions, wanted 1 to 4");
    }
    header(&b, 3, 1, 0);
    str(&b, "t");
    u32(&b, 4);
    for (int d = 0; d < 4; d++) u64(&b, 1ull << 16);
    u32(&b, DTYPE_F32);
    u64(&b, 0);
    pad(&b, 64);
    expect(&b, FL_EFORMAT, "more elements than 63 bits");
    header(&b, 3, 1, 0);
    str(&b, "t");
    u32(&b, 2);
    u64(&b, 1);
    u64(&b, INT64_MAX);
    u32(&b, DTYPE_F32);
    u64(&b, 0);
    pad(&b, 64);
    expect(&b, FL_EFORMAT, "more bytes than 64 bits");
    base_buf_clear(&b);
}

static void two_tensors(base_buf *b, uint64_t first, uint64_t second, size_t data) {
    header(b, 3, 2, 0);
    tensor(b, "a", DTYPE_F32, 16, first);
    tensor(b, "b", DTYPE_F32, 16, second);
    pad(b, data);
}

TEST(tensor_data_inside_the_file_and_apart) {
    base_buf b = {0};
    two_tensors(&b, 0, 64, 128);
    expect(&b, FL_OK, "side by side");
    two_tensors(&b, 0, 96, 160);
    expect(&b, FL_OK, "a gap");
    two_tensors(&b, 0, 64, 127);
    expect(&b, FL_EFORMAT, "tensor b needs 64 bytes at offset 64");
    two_tensors(&b, 0, 32, 128);
    expect(&b, FL_EFORMAT, "tensor b starts at 32, before the end of the previous one at 64");
    two_tensors(&b, 0, 0, 128);
    expect(&b, FL_EFORMAT, "before the end");
    two_tensors(&b, 64, 0, 128);
    expect(&b, FL_EFORMAT, "before the end");
    two_tensors(&b, 0, 65, 256);
    expect(&b, FL_EFORMAT, "not a multiple of the alignment 32");
    two_tensors(&b, 0, 1ull << 40, 256);
    expect(&b, FL_EFORMAT, "incomplete or damaged");
    two_tensors(&b, 0, UINT64_MAX - 31, 256);
    expect(&b, FL_EFORMAT, "incomplete or damaged");
    header(&b, 3, 2, 0);
    tensor(&b, "same", DTYPE_F32, 8, 0);
    tensor(&b, "same", DTYPE_F32, 8, 32);
    pad(&b, 64);
    expect(&b, FL_EFORMAT, "the tensor same appears twice");
    base_buf_clear(&b);
}

TEST(paths_that_are_no_files) {
    file_gguf *g;
    fl_err err;
    CHECK(file_gguf_open(&g, "build/no-such-file.gguf", &err) == FL_EIO && !g);
    CHECKF(strcmp(err.msg, "build/no-such-file.gguf: cannot be opened: No such file or directory") == 0, "%s", err.msg);
    CHECK(file_gguf_open(&g, "build", &err) == FL_EIO && !g);
    CHECKF(strcmp(err.msg, "build: is a folder, wanted a file") == 0, "%s", err.msg);
    CHECK(file_gguf_open(&g, "/dev/null", &err) == FL_EIO && !g);
    char *path = temp_path("empty.gguf");
    fclose(fopen(path, "w"));
    CHECK(file_gguf_open(&g, path, &err) == FL_EFORMAT && strstr(err.msg, "the file is empty"));
    if (geteuid() != 0) {
        chmod(path, 0);
        CHECK(file_gguf_open(&g, path, &err) == FL_EIO && strstr(err.msg, "Permission denied"));
    }
    unlink(path);
    path = temp_path("pipe.gguf");
    CHECK(mkfifo(path, 0600) == 0);
    CHECK(file_gguf_open(&g, path, &err) == FL_EIO && strstr(err.msg, "is not a regular file")); /* and does not hang */
    unlink(path);
}

/* ---- split models ---------------------------------------------------------------------- */

static void write_part(const char *base, unsigned index, unsigned count, unsigned says, const char *tensor_name) {
    char path[300];
    file_gguf_writer w = {0};
    fl_err err;
    if (index == 0) file_gguf_write_string(&w, "general.architecture", "llama");
    file_gguf_write_u32(&w, "split.no", says);
    file_gguf_write_u32(&w, "split.count", count);
    file_gguf_write_u32(&w, "split.tensors.count", count);
    file_gguf_write_tensor(&w, tensor_name, DTYPE_F32, 1, (int64_t[]){4}, row + index);
    snprintf(path, sizeof path, "%s-%05u-of-%05u.gguf", base, index + 1, count);
    CHECK(file_gguf_write_to_path(&w, path, &err) == FL_OK);
    file_gguf_writer_clear(&w);
}

static void expect_split(const char *base, unsigned part, unsigned count, fl_status want, const char *text) {
    char path[300];
    file_gguf *g;
    fl_err err = {0};
    snprintf(path, sizeof path, "%s-%05u-of-%05u.gguf", base, part, count);
    fl_status st = file_gguf_open(&g, path, &err);
    CHECKF(st == want && (st == FL_OK || strstr(err.msg, text)), "%s (%s), wanted %s", err.msg, fl_status_name(st),
           text);
    if (g) {
        CHECK(file_gguf_n_tensors(g) == 3 && file_gguf_n_parts(g) == 3 && file_gguf_n_values(g) == 4);
        const file_gguf_tensor *t = file_gguf_tensor_find(g, "c");
        CHECK(t && memcmp(t->data, row + 2, 16) == 0);
        CHECK(file_gguf_find(g, "general.architecture") != NULL);
    }
    file_gguf_close(g);
}

TEST(split_models) {
    char base[256], path[300], moved[300];
    strcpy(base, temp_path("split"));
    write_part(base, 0, 3, 0, "a");
    write_part(base, 1, 3, 1, "b");
    write_part(base, 2, 3, 2, "c");
    expect_split(base, 1, 3, FL_OK, "");
    expect_split(base, 2, 3, FL_EINVAL,
                 "is part 2 of 3 of a split model; open the first part, the file ending in -00001-of-00003.gguf");
    write_part(base, 1, 3, 2, "b");
    expect_split(base, 1, 3, FL_EFORMAT, "-00002-of-00003.gguf: says it is part 3 of 3");
    write_part(base, 1, 3, 1, "a");
    expect_split(base, 1, 3, FL_EFORMAT, "the tensor a appears twice");
    snprintf(path, sizeof path, "%s-00002-of-00003.gguf", base);
    unlink(path);
    expect_split(base, 1, 3, FL_EIO, "-00002-of-00003.gguf: cannot be opened");
    snprintf(path, sizeof path, "%s-00001-of-00003.gguf", base);
    snprintf(moved, sizeof moved, "%s.gguf", base);
    rename(path, moved);
    file_gguf *g;
    fl_err err;
    CHECK(file_gguf_open(&g, moved, &err) == FL_EFORMAT &&
          strstr(err.msg, "its name must end in -00001-of-00003.gguf"));
    size_t n;
    char *bytes = test_read_file(moved, &n);
    void *copy;
    CHECK(open_bytes(bytes, n, &g, &copy, &err) == FL_EUNSUPPORTED);
    free(bytes);
    free(copy);
    unlink(moved);
    snprintf(path, sizeof path, "%s-00003-of-00003.gguf", base);
    unlink(path);
}

TEST(writer_refuses_what_cannot_be_read) {
    file_gguf_writer w = {0};
    base_buf b = {0};
    fl_err err;
    file_gguf_write_tensor(&w, "t", DTYPE_Q4_0, 1, (int64_t[]){31}, row);
    CHECK(file_gguf_write_to_buf(&w, &b, &err) == FL_EINVAL);
    file_gguf_writer_clear(&w);
    base_buf_clear(&b);
}

/* ---- memory ---------------------------------------------------------------------------- */

TEST(every_allocation_may_fail) {
    char base[256], path[300];
    strcpy(base, temp_path("mem"));
    write_part(base, 0, 3, 0, "a");
    write_part(base, 1, 3, 1, "b");
    write_part(base, 2, 3, 2, "c");
    snprintf(path, sizeof path, "%s-00001-of-00003.gguf", base);
    size_t held = base_mem_bytes();
    int failures = 0;
    for (uint64_t n = 1;; n++) {
        file_gguf *g;
        fl_err err;
        base_mem_fail_at(n);
        fl_status st = file_gguf_open(&g, path, &err);
        bool hit = base_mem_failed();
        base_mem_fail_at(0);
        CHECKF(hit ? st == FL_ENOMEM && !g : st == FL_OK, "allocation %llu: %s", (unsigned long long)n, err.msg);
        file_gguf_close(g);
        CHECKF(base_mem_bytes() == held, "allocation %llu leaks", (unsigned long long)n);
        if (!hit) break;
        failures++;
    }
    CHECKF(failures >= 15, "%d failures", failures);
    for (unsigned i = 1; i <= 3; i++) {
        snprintf(path, sizeof path, "%s-%05u-of-00003.gguf", base, i);
        unlink(path);
    }
}

TEST(every_allocation_of_the_writer_may_fail) {
    size_t held = base_mem_bytes();
    for (uint64_t n = 1;; n++) {
        file_gguf_writer w = {0};
        base_buf b = {0};
        fl_err err;
        base_mem_fail_at(n);
        write_small(&w);
        fl_status st = file_gguf_write_to_buf(&w, &b, &err);
        bool hit = base_mem_failed();
        base_mem_fail_at(0);
        CHECK(st == (hit ? FL_ENOMEM : FL_OK));
        file_gguf_writer_clear(&w);
        base_buf_clear(&b);
        CHECK(base_mem_bytes() == held);
        if (!hit) break;
    }
}
