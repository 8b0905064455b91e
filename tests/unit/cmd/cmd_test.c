/* The parts of the program that work without a model: numbers, names, JSON, hexadecimal, ids. */
#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/input.h"
#include "cmd/json.h"
#include "cmd/memory.h"
#include "cmd/modules.h"
#include "cmd/out.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

TEST(numbers) {
    static const struct {
        const char *text;
        double value;
    } good[] = {{"0", 0},      {"12", 12},      {"1k", 1000},        {"25.6k", 25600},
                {"1K", 1024},  {"2M", 2097152}, {"1.5m", 1500000.0}, {"1g", 1e9},
                {"1e3", 1000}, {"-4", -4},      {".5", 0.5}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        double v = 0;
        CHECKF(cmd_options_number(good[i].text, &v) && fabs(v - good[i].value) < 1e-6, "%s gave %g", good[i].text, v);
    }
    static const char *const bad[] = {"", "x", "1kk", "1 k", "nan", "inf", "0x10", "k", "1e999", "--1", " 1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        double v;
        CHECKF(!cmd_options_number(bad[i], &v), "'%s' was taken", bad[i]);
    }
}

TEST(nearest_names) {
    static const char *const names[] = {"temperature", "top-k", "top-p", "seed", NULL};
    CHECK(strcmp(cmd_options_nearest("temprature", names), "temperature") == 0);
    CHECK(strcmp(cmd_options_nearest("temp", names), "temperature") == 0);
    CHECK(strcmp(cmd_options_nearest("top_k", names), "top-k") == 0);
    CHECK(cmd_options_nearest("zzzzzzzz", names) == NULL);
    CHECK(cmd_options_nearest("", names) == NULL);
    CHECK(cmd_options_nearest("a name that is much longer than any option could be", names) == NULL);
}

static const cmd_command run_command = {
    .name = "run", .bit = CMD_RUN, .arguments = "MODEL [PROMPT]", .n_args_min = 1, .n_args_max = 2};

TEST(a_command_line) {
    char *argv[] = {"m", "-n", "1k", "--temperature=0.5", "-t2", "--stop", "a", "--stop=b", "--json", "--", "--hello"};
    cmd_options o;
    fl_err err;
    CHECKF(cmd_options_parse(&o, &run_command, sizeof argv / sizeof *argv, argv, &err) == FL_OK, "%s", err.msg);
    CHECK(o.n_args == 2 && strcmp(o.args[1], "--hello") == 0);
    CHECK(o.max_tokens == 1000 && o.temperature == 0.5f && o.threads == 2 && o.json);
    CHECK(o.n_stop == 2 && strcmp(o.stop[1], "b") == 0);
    CHECK(isnan(o.top_p) && o.top_k == UINT32_MAX && o.opt_level == -1 && !o.has_seed);
}

TEST(help_wins_over_mistakes_after_it) {
    char *argv[] = {"--help", "--nonsense"};
    cmd_options o;
    fl_err err;
    CHECK(cmd_options_parse(&o, &run_command, 2, argv, &err) == FL_OK && o.help);
}

TEST(json) {
    base_buf b = {0};
    cmd_json_open(&b, '{');
    cmd_json_key(&b, "a");
    cmd_json_ids(&b, (const uint32_t[]){1, 2, 4294967295u}, 3);
    cmd_json_key(&b, "b");
    cmd_json_text(&b, "\"\\\n\x01\xff\xed\xa0\x80\xc3\xa9\0z", 12);
    cmd_json_key(&b, "c");
    cmd_json_open(&b, '[');
    cmd_json_float(&b, 0.1f);
    cmd_json_float(&b, NAN);
    cmd_json_string(&b, NULL);
    cmd_json_bool(&b, true);
    cmd_json_ms(&b, 1.23456);
    cmd_json_close(&b, ']');
    cmd_json_close(&b, '}');
    const char *wanted =
        "{\"a\":[1,2,4294967295],\"b\":\"\\\"\\\\\\n\\u0001\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
        "\xc3\xa9\\u0000z\",\"c\":[0.100000001,null,null,true,1.235]}";
    CHECKF(b.data && strcmp(b.data, wanted) == 0, "%s", b.data);
    base_buf_clear(&b);
}

TEST(utf8) {
    size_t at = 99;
    CHECK(cmd_json_is_utf8("a\xc3\xa9\xf0\x9f\x99\x82", 7, &at) && at == 99);
    CHECK(!cmd_json_is_utf8("ab\xc3", 3, &at) && at == 2);
    CHECK(!cmd_json_is_utf8("\xc0\x80", 2, &at) && at == 0);
    CHECK(!cmd_json_is_utf8("\xf4\x90\x80\x80", 4, NULL));
}

TEST(ids) {
    static const char *const same[] = {"1,2,300", "[1, 2, 300]", " 1\n2 300 "};
    for (size_t i = 0; i < 3; i++) {
        uint32_t *ids;
        size_t n;
        fl_err err;
        CHECKF(cmd_input_ids(same[i], &ids, &n, &err) == FL_OK && n == 3 && ids[2] == 300, "%s", same[i]);
        base_free(ids);
    }
    static const char *const bad[] = {"1;2", "-1", "4294967296", "99999999999999999999999", "1.5", "x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uint32_t *ids;
        size_t n;
        CHECKF(cmd_input_ids(bad[i], &ids, &n, NULL) == FL_EINVAL && !ids, "%s", bad[i]);
    }
}

TEST(hexadecimal) {
    base_buf b = {0};
    base_buf_puts(&b, "68 65\n6C");
    CHECK(cmd_input_unhex(&b, NULL) == FL_OK && b.len == 3 && memcmp(b.data, "hel", 3) == 0);
    base_buf_puts(&b, "6");
    CHECK(cmd_input_unhex(&b, NULL) == FL_EINVAL);
    base_buf_clear(&b);
    cmd_input_hex(&b, "\x00\xff", 2);
    CHECK(strcmp(b.data, "00ff") == 0);
    base_buf_clear(&b);
}

TEST(lines) {
    base_buf b = {0};
    base_buf_puts(&b, "a\n\nbc");
    size_t at = 0, n = 0, count = 0;
    const char *line = "";
    while (cmd_input_line(&b, &at, &line, &n)) count++;
    CHECK(count == 3 && n == 2 && memcmp(line, "bc", 2) == 0);
    base_buf_clear(&b);
}

TEST(what_a_model_writes_is_shown) {
    static const char text[] = "a\033[2Jb\tc\nd\r\x7f\xc2\x9b\xc3\xa9\0\xc2";
    base_buf b = {0};
    cmd_out_escape(&b, text, sizeof text - 1);
    CHECKF(b.data && strcmp(b.data, "a\\x1b[2Jb\tc\nd\\x0d\\x7f\\x9b\xc3\xa9\\x00\xc2") == 0, "%s", b.data);
    base_buf_clear(&b);
}

TEST(settings_of_a_chat) {
    static const cmd_command chat = {.name = "chat", .bit = CMD_CHAT, .arguments = "MODEL", .n_args_max = 1};
    cmd_options o;
    fl_err err;
    CHECK(cmd_options_parse(&o, &chat, 0, NULL, &err) == FL_OK);
    CHECK(cmd_options_change(&o, "temperature", "0.25", &err) == FL_OK && o.temperature == 0.25f);
    CHECK(cmd_options_change(&o, "seed", "7", &err) == FL_OK && o.has_seed && o.seed == 7);
    CHECK(cmd_options_change(&o, "temperature", "-1", &err) == FL_EINVAL && o.temperature == 0.25f);
    CHECK(cmd_options_change(&o, "threads", "2", &err) == FL_EINVAL && strstr(err.msg, "no setting"));
    CHECK(cmd_options_change(&o, "temprature", "2", &err) == FL_EINVAL && strstr(err.msg, "did you mean temperature"));
}

TEST(modules) {
    static const char *const names[][2] = {{"blk.0.attn_q.weight", "attn_q"},
                                           {"blk.31.attn_q.bias", "attn_q.bias"},
                                           {"token_embd.weight", "token_embd"},
                                           {"output.weight", "output"},
                                           {"model.layers.12.self_attn.q_proj.weight", "self_attn.q_proj"},
                                           {"model.layers.3.mlp.experts.77.up_proj.weight", "mlp.experts.*.up_proj"},
                                           {"weight", "weight"},
                                           {"blk.1", "blk.*"},
                                           {"blk.1.", "-"},
                                           {"a..b", "a..b"},
                                           {"", "-"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char out[96];
        cmd_modules_name(out, names[i][0]);
        CHECKF(strcmp(out, names[i][1]) == 0, "%s gave %s", names[i][0], out);
    }
    char name[300], out[96];
    memset(name, 'x', sizeof name - 1);
    name[sizeof name - 1] = '\0';
    cmd_modules_name(out, name);
    CHECK(strlen(out) == 95);
    for (int i = 0; i < 299; i += 2) name[i] = '.';
    cmd_modules_name(out, name);
    CHECK(strlen(out) <= 95);
}

static void put_file(const char *folder, const char *name, const char *text) {
    char path[400];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
        *at = '\0';
        (void)mkdir(path, 0777);
        *at = '/';
    }
    FILE *f = fopen(path, "w");
    CHECK(f && fputs(text, f) >= 0);
    if (f) fclose(f);
}

/* The limits of control groups of both versions: the least on the way up counts. */
TEST(memory_limits) {
    char folder[] = "/tmp/flambeau-cmd-XXXXXX", proc[300], group[300], command[300];
    CHECK(mkdtemp(folder) != NULL);
    snprintf(proc, sizeof proc, "%s/proc", folder);
    snprintf(group, sizeof group, "%s/cgroup", folder);
    cmd_memory m;
    cmd_memory_read(&m, proc, group);
    CHECK(m.total > 0 && m.available == 0 && m.limit == 0);
    put_file(proc, "meminfo", "MemTotal: 9 kB\nMemAvailable:     2048 kB\n");
    put_file(proc, "self/cgroup", "0::/a.slice/b.scope\n");
    put_file(group, "a.slice/memory.max", "30000000\n");
    put_file(group, "a.slice/memory.current", "1000\n");
    put_file(group, "a.slice/b.scope/memory.max", "max\n");
    cmd_memory_read(&m, proc, group);
    CHECKF(m.available == 2048 * 1024 && m.limit == 30000000 && m.limit_used == 1000, "%llu",
           (unsigned long long)m.limit);
    CHECK(strstr(m.group, "/a.slice") && !strstr(m.group, "b.scope"));
    put_file(group, "a.slice/b.scope/memory.max", "20000000\n");
    cmd_memory_read(&m, proc, group);
    CHECK(m.limit == 20000000);
    put_file(proc, "self/cgroup", "9:name=systemd:/\n4:memory:/docker/x\n0::/\n");
    put_file(group, "memory/memory.limit_in_bytes", "9223372036854771712\n");
    cmd_memory_read(&m, proc, group);
    CHECK(m.limit == 0);
    put_file(group, "memory/docker/memory.limit_in_bytes", "10000000\n");
    cmd_memory_read(&m, proc, group);
    CHECK(m.limit == 10000000);
    snprintf(command, sizeof command, "rm -r %s", folder);
    CHECK(system(command) == 0);
}
