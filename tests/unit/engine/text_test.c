/* Folders with a tokenizer and no weights: the n-th allocation fails, and what their files say. */
#include "test.h"

#include "base/mem.h"
#include "flambeau.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const names[] = {"tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                                    "generation_config.json", "chat_template.jinja"};

static void put(const char *folder, const char *name, const void *bytes, size_t n) {
    char path[600];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(bytes, 1, n, f) == n);
    if (f) fclose(f);
}

static void put_text(const char *folder, const char *name, const char *text) { put(folder, name, text, strlen(text)); }

/* Every allocation of opening, tokenizing and closing fails once. */
TEST(folder_allocation_failures) {
    static char bytes[1 << 16];
    char folder[] = "/tmp/text_test_XXXXXX", path[600];
    FILE *f = fopen("tests/golden/tok/own/uni-rules/tokenizer.model", "rb");
    CHECK(f && mkdtemp(folder));
    if (!f) return;
    put(folder, "tokenizer.model", bytes, fread(bytes, 1, sizeof bytes, f));
    fclose(f);
    put_text(folder, "tokenizer_config.json", "{\"add_bos_token\":true,\"chat_template\":\"x\"}");
    put_text(folder, "special_tokens_map.json", "{\"bos_token\":\"<s>\"}");
    put_text(folder, "generation_config.json", "{\"eos_token_id\":[2,9,99999999,-1]}");
    put_text(folder, "chat_template.jinja", "hello");
    for (uint64_t k = 0;; k++) {
        fl_err err = {0};
        fl_model *m = NULL;
        uint32_t *ids = NULL;
        size_t n = 0, before = base_mem_bytes();
        base_mem_fail_at(k); /* 0: none fails */
        fl_status st = fl_model_open(&m, folder, &err);
        if (st == FL_OK) st = fl_tokenize(m, "Hello world", 11, FL_TOKENIZE_ADD_SPECIAL, &ids, &n, &err);
        bool failed = base_mem_failed();
        base_mem_fail_at(0);
        CHECKF(st == FL_OK || (failed && st == FL_ENOMEM), "allocation %d: %s", (int)k, err.msg);
        if (st == FL_OK) {
            fl_model_info info;
            fl_model_info_init(&info);
            fl_model_get_info(m, &info);
            CHECK(n > 1 && ids[0] == 1);
            CHECK(info.has_chat_template && info.n_stop == 2 && info.stop[0] + info.stop[1] == 11);
            fl_free(ids);
        }
        fl_model_close(m);
        CHECK(base_mem_bytes() == before);
        if (k && !failed) break;
        CHECK(k < 2000);
    }
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        (void)unlink(path);
    }
    CHECK(rmdir(folder) == 0);
}
