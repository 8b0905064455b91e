#include "cmd/features.h"

#include <stdio.h>
#include <string.h>

#define USER "{\"role\":\"user\",\"content\":\"question-7\"}"
#define TOOLS                                                                                                          \
    "\"tools\":[{\"type\":\"function\",\"function\":{\"name\":\"probe_tool\",\"description\":\"d\",\"parameters\":"    \
    "{\"type\":\"object\",\"properties\":{\"x\":{\"type\":\"string\",\"description\":\"d\"}},\"required\":[\"x\"]}}}]"

static const char *const NOW = "2026-01-31T12:00:00";

/* The template's output, or NULL when it refuses. The caller frees it. */
static char *render(const fl_model *m, const char *context, fl_err *err) {
    char *text;
    size_t n;
    return fl_template_render(m, context, NOW, &text, &n, NULL, NULL, err) == FL_OK ? text : NULL;
}

static bool shows(const fl_model *m, const char *context, const char *word) {
    fl_err ignored;
    char *text = render(m, context, &ignored);
    bool found = text && strstr(text, word);
    fl_free(text);
    return found;
}

static bool differ(const fl_model *m, const char *one, const char *other) {
    fl_err ignored;
    char *a = render(m, one, &ignored), *b = render(m, other, &ignored);
    bool differs = a && b && strcmp(a, b) != 0;
    fl_free(a);
    fl_free(b);
    return differs;
}

static bool has_reasoning(const fl_model *m) {
    return differ(m, "{\"messages\":[" USER "],\"enable_thinking\":true}",
                  "{\"messages\":[" USER "],\"enable_thinking\":false}") ||
           differ(m, "{\"messages\":[" USER "],\"thinking\":true}", "{\"messages\":[" USER "],\"thinking\":false}") ||
           differ(m, "{\"messages\":[" USER "],\"reasoning_effort\":\"high\"}",
                  "{\"messages\":[" USER "],\"reasoning_effort\":\"low\"}") ||
           shows(m, "{\"messages\":[" USER "]}", "<think>") ||
           shows(m,
                 "{\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":\"answer\",\"reasoning_content\":"
                 "\"thought-7\"}],\"add_generation_prompt\":false}",
                 "thought-7");
}

void cmd_features_find(const fl_model *m, cmd_features *out) {
    fl_err err;
    *out = (cmd_features){.why = ""};
    char *plain = render(m, "{\"messages\":[" USER "]}", &err);
    if (!plain) {
        snprintf(out->why, sizeof out->why, "%.199s", err.msg);
        return;
    }
    fl_free(plain);
    out->system = shows(m, "{\"messages\":[{\"role\":\"system\",\"content\":\"system-7\"}," USER "]}", "system-7");
    out->tools = shows(m, "{\"messages\":[" USER "]," TOOLS "}", "probe_tool");
    out->calls = shows(m,
                       "{\"messages\":[" USER ",{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":"
                       "\"call00007\",\"type\":\"function\",\"function\":{\"name\":\"probe_call\",\"arguments\":"
                       "{\"x\":\"1\"}}}]},{\"role\":\"tool\",\"tool_call_id\":\"call00007\",\"name\":\"probe_call\","
                       "\"content\":\"result-7\"}]," TOOLS "}",
                       "probe_call");
    out->reasoning = has_reasoning(m);
}
