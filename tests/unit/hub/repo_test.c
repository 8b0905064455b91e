#include "hub/blob.h"
#include "hub/repo.h"

#include "base/mem.h"
#include "test.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define COMMIT "0123456789abcdef0123456789abcdef01234567"

TEST(names) {
    hub_repo r;
    CHECK(hub_repo_parse(&r, "Org-1/my.Model_2", NULL) == FL_OK);
    CHECK(strcmp(r.org, "Org-1") == 0 && strcmp(r.name, "my.Model_2") == 0);
    CHECK(strcmp(r.revision, "main") == 0 && strcmp(r.choice, "") == 0);
    CHECK(hub_repo_parse(&r, "a/b@refs/pr/1:Q4_K_M", NULL) == FL_OK);
    CHECK(strcmp(r.revision, "refs/pr/1") == 0 && strcmp(r.choice, "Q4_K_M") == 0);
    CHECK(hub_repo_parse(&r, "a/b:sub/x.gguf", NULL) == FL_OK && strcmp(r.choice, "sub/x.gguf") == 0);
    static const char *const wrong[] = {"",       "a",      "a/",       "/a",        "a/b/c",   "../b",     "a/..",
                                        "a/b--c", "a/b..c", "a/-b",     "a/b.",      "a/b@",    "a/b@../x", "a/b@x y",
                                        "a/b@/x", "a/b:",   "a/b:../x", "a/b:/etc",  "a b/c",   "a/b\n",    "a/b@x\x01",
                                        "a\\b/c", "a/b?x",  "a/b#x",    "a/b@x@@//", "./model", "a/b:x//y", "~/x"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECKF(hub_repo_parse(&r, wrong[i], NULL) == FL_EINVAL, "'%s' was taken", wrong[i]);
    char longest[700] = "a/b:";
    memset(longest + 4, 'x', 600);
    CHECK(!hub_repo_valid(longest));
    memset(longest, 'a', 200);
    CHECK(!hub_repo_valid(longest));
}

TEST(paths_and_hashes) {
    CHECK(hub_repo_path_valid("a/b.gguf") && hub_repo_path_valid("..a/b..") && hub_repo_path_valid("\xc3\xa9"));
    static const char *const wrong[] = {"",     "/a",   "a/",    "a//b", ".",    "..",
                                        "a/..", "../a", "a/./b", "a\\b", "a\nb", "\x7f"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECKF(!hub_repo_path_valid(wrong[i]), "'%s' was taken", wrong[i]);
    CHECK(hub_repo_oid_valid(COMMIT) && hub_repo_oid_valid(COMMIT "0123456789abcdef01234567"));
    CHECK(!hub_repo_oid_valid("") && !hub_repo_oid_valid("0123") && !hub_repo_oid_valid(COMMIT "0"));
    CHECK(!hub_repo_oid_valid("0123456789ABCDEF0123456789abcdef01234567"));
}

TEST(urls) {
    static const char *const right[] = {"https://host",         "https://h-1.example.org:8443/x?y#z",
                                        "http://127.0.0.1:1/x", "http://localhost/",
                                        "http://[::1]:80/",     "HTTPS://HOST/",
                                        "https://[fe80::1]/"};
    static const char *const wrong[] = {"",
                                        "host",
                                        "ftp://127.0.0.1/",
                                        "file:///etc/passwd",
                                        "https://",
                                        "https:///x",
                                        "https://a b/",
                                        "https://user@host/",
                                        "https://user:x@host/",
                                        "https://host:/",
                                        "https://host:123456/",
                                        "https://host\\@other/",
                                        "https://host/\n",
                                        "https://host/\x80",
                                        "http://host/",
                                        "http://10.0.0.1/",
                                        "http://127.0.0.1.example.org/",
                                        "http://127.1@example.org/",
                                        "http://localhost.example.org/",
                                        "http://[::2]/",
                                        "https://[::1/",
                                        "https://[]/"};
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) CHECKF(hub_net_url_valid(right[i]), "'%s'", right[i]);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) CHECKF(!hub_net_url_valid(wrong[i]), "'%s'", wrong[i]);
}

/* The names that are chosen, joined by blanks, or the status. */
static const char *chosen(const char *const *paths, const char *choice) {
    static char text[600];
    hub_files f = {0};
    const hub_file *first;
    fl_status st = FL_OK;
    for (; *paths && st == FL_OK; paths++) st = hub_files_add(&f, (hub_file){.path = *paths}, NULL);
    if (st == FL_OK) st = hub_files_choose(&f, choice, &first, NULL);
    snprintf(text, sizeof text, "%s", st == FL_OK ? "" : fl_status_name(st));
    for (size_t i = 0; st == FL_OK && i < f.n; i++)
        if (f.files[i].wanted) snprintf(text + strlen(text), sizeof text - strlen(text), " %s", f.files[i].path);
    hub_files_clear(&f);
    return text;
}

#define CHOSEN(choice, want, ...)                                                                                      \
    do {                                                                                                               \
        static const char *const paths[] = {__VA_ARGS__, NULL};                                                        \
        const char *got = chosen(paths, choice);                                                                       \
        CHECKF(strcmp(got, want) == 0, "wanted '%s', found '%s'", want, got);                                          \
    } while (0)

TEST(choices) {
    const char *invalid = fl_status_name(FL_EINVAL), *format = fl_status_name(FL_EFORMAT);
    CHOSEN("", " m.gguf", "README.md", "m.gguf", "mmproj-m.gguf");
    CHOSEN("", invalid, "m-Q8_0.gguf", "m-Q4_0.gguf");
    CHOSEN("q8_0", " m-Q8_0.gguf", "m-Q8_0.gguf", "m-Q4_0.gguf");
    CHOSEN("Q4_K", invalid, "m-Q4_K_M.gguf", "m-Q4_K_S.gguf");
    CHOSEN("F16", " m-F16.gguf", "m-BF16.gguf", "m-F16.gguf");
    CHOSEN("m-Q4_K_M.gguf", " m-Q4_K_M.gguf", "m-Q4_K_M.gguf", "x-m-Q4_K_M.gguf");
    CHOSEN("", " m-00001-of-00002.gguf m-00002-of-00002.gguf", "m-00001-of-00002.gguf", "m-00002-of-00002.gguf",
           "n-00002-of-00002.gguf");
    CHOSEN("", format, "m-00001-of-00003.gguf", "m-00002-of-00003.gguf");
    CHOSEN("", format, "README.md", "pytorch_model.bin");
    CHOSEN("", " config.json model.safetensors", "config.json", "model.safetensors", "consolidated.safetensors",
           "m.gguf", "x/config.json");
    CHOSEN("m", " m.gguf", "config.json", "model.safetensors", "m.gguf");
}

static void write_file(const char *path, const char *text) {
    FILE *f = fopen(path, "wb");
    CHECK(f && fputs(text, f) >= 0);
    if (f) fclose(f);
}

/* A cache with one repository of two models, one of them cut loose from its blob. */
static void make_cache(char root[300]) {
    char path[600];
    snprintf(root, 300, "%s/flambeau-repo-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
    CHECK(mkdtemp(root) != NULL);
    static const char *const folders[] = {"/models--a--b",
                                          "/models--a--b/blobs",
                                          "/models--a--b/refs",
                                          "/models--a--b/snapshots",
                                          "/models--a--b/snapshots/" COMMIT,
                                          "/models--broken",
                                          "/models--a--..",
                                          "/datasets--a--b"};
    for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
        snprintf(path, sizeof path, "%s%s", root, folders[i]);
        CHECK(mkdir(path, 0777) == 0);
    }
    snprintf(path, sizeof path, "%s/models--a--b/refs/main", root);
    write_file(path, COMMIT);
    snprintf(path, sizeof path, "%s/models--a--b/refs/bad", root);
    write_file(path, "../../../etc");
    snprintf(path, sizeof path, "%s/models--a--b/blobs/" COMMIT, root);
    write_file(path, "GGUF");
    snprintf(path, sizeof path, "%s/models--a--b/snapshots/" COMMIT "/m.gguf", root);
    CHECK(symlink("../../blobs/" COMMIT, path) == 0);
    snprintf(path, sizeof path, "%s/models--a--b/snapshots/" COMMIT "/gone.gguf", root);
    CHECK(symlink("../../blobs/gone", path) == 0);
    setenv("HF_HUB_CACHE", root, 1);
}

TEST(a_cache_is_read) {
    char root[300], *path;
    fl_err err;
    hub *h;
    hub_listing l;
    make_cache(root);
    hub_options opt = {.cache = "/nonexistent"};
    CHECK(hub_open(&h, &opt, &err) == FL_OK);
    CHECK(hub_find(h, "a/b", &path, &err) == FL_OK && path && strstr(path, "/" COMMIT "/m.gguf"));
    base_free(path);
    CHECK(hub_find(h, "a/b@" COMMIT ":m.gguf", &path, &err) == FL_OK && path);
    base_free(path);
    static const char *const absent[] = {"a/b:gone.gguf", "a/b@bad", "a/b@none", "a/c",
                                         "a/b@ffffffffffffffffffffffffffffffffffffffff"};
    for (size_t i = 0; i < sizeof absent / sizeof *absent; i++)
        CHECKF(hub_find(h, absent[i], &path, &err) == FL_OK && !path, "%s", absent[i]);
    CHECK(hub_list(h, &l, &err) == FL_OK && l.n == 1);
    CHECK(strcmp(l.entries[0].name, "a/b") == 0 && l.entries[0].bytes == 4 &&
          strcmp(l.entries[0].revision, COMMIT) == 0);
    hub_listing_clear(&l);
    CHECK(hub_remove(h, "a/c", &err) == FL_EINVAL && hub_remove(h, "a/b@main", &err) == FL_EINVAL);
    CHECK(hub_remove(h, "a/b", &err) == FL_OK);
    CHECK(hub_find(h, "a/b", &path, &err) == FL_OK && !path);
    hub_close(h);
    CHECK(hub_tree_remove(root, NULL) == FL_OK);
}

TEST(every_allocation_may_fail) {
    char root[300];
    make_cache(root);
    size_t before = base_mem_bytes();
    bool done = false;
    for (uint64_t n = 1; !done && n < 1000; n++) {
        hub *h = NULL;
        hub_listing l = {0};
        char *path = NULL;
        fl_err err;
        hub_options opt = {.cache = "/nonexistent"};
        base_mem_fail_at(n);
        fl_status st = hub_open(&h, &opt, &err);
        if (st == FL_OK) st = hub_find(h, "a/b:m.gguf", &path, &err);
        if (st == FL_OK) st = hub_list(h, &l, &err);
        done = !base_mem_failed();
        base_mem_fail_at(0);
        CHECKF(st == (done ? FL_OK : FL_ENOMEM), "allocation %llu: %s", (unsigned long long)n, fl_status_name(st));
        base_free(path);
        hub_listing_clear(&l);
        hub_close(h);
        CHECK(base_mem_bytes() == before);
    }
    CHECK(done);
    CHECK(hub_tree_remove(root, NULL) == FL_OK);
}
