/* Control groups of version 2 keep a limit in memory.max of every folder from the process's own up to the root; version 1
 * keeps memory.limit_in_bytes below memory/, where a number beyond any machine means none. Inside a container the path in
 * /proc/self/cgroup may not exist under the root seen there: then the walk begins at the nearest folder that does. */
#include "cmd/memory.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool cmd_memory_file_line(const char *path, const char *key, char *text, uint32_t size) {
    char line[8192];
    bool found = false;
    FILE *f = fopen(path, "r");
    while (f && !found && fgets(line, sizeof line, f)) {
        if (key && strncmp(line, key, strlen(key)) != 0) continue;
        const char *start = key ? strchr(line, ':') : line;
        if (!start) continue;
        start += strspn(start, ": \t");
        snprintf(text, size, "%.*s", (int)strcspn(start, "\n"), start);
        found = true;
    }
    if (f) fclose(f);
    return found;
}

static uint64_t number_in(const char *folder, const char *name) {
    char path[600], text[64];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    if (!cmd_memory_file_line(path, NULL, text, sizeof text) || *text < '0' || *text > '9') return 0;
    return strtoull(text, NULL, 10);
}

/* Takes the least limit on the way from root/below up to root. */
static void walk(cmd_memory *m, const char *root, const char *below, const char *max, const char *used) {
    char folder[512];
    if (snprintf(folder, sizeof folder, "%s%s", root, below) >= (int)sizeof folder) return;
    for (;;) {
        uint64_t limit = number_in(folder, max);
        if (limit > 0 && limit < m->total && (m->limit == 0 || limit < m->limit)) {
            m->limit = limit;
            m->limit_used = number_in(folder, used);
            snprintf(m->group, sizeof m->group, "%.255s", folder);
        }
        char *slash = strrchr(folder, '/');
        if (!slash || strlen(folder) <= strlen(root)) return;
        *slash = '\0';
    }
}

void cmd_memory_read(cmd_memory *m, const char *proc, const char *cgroup) {
    char path[600], text[512], below[512];
    if (!proc) proc = "/proc";
    if (!cgroup) cgroup = "/sys/fs/cgroup";
    *m = (cmd_memory){.total = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE)};
    snprintf(path, sizeof path, "%s/meminfo", proc);
    if (cmd_memory_file_line(path, "MemAvailable", text, sizeof text)) m->available = strtoull(text, NULL, 10) * 1024;
    snprintf(path, sizeof path, "%s/self/cgroup", proc);
    if (cmd_memory_file_line(path, "0:", text, sizeof text)) /* "0::/user.slice": the colons are taken with the key */
        walk(m, cgroup, text[0] == '/' && text[1] ? text : "", "memory.max", "memory.current");
    FILE *f = fopen(path, "r");
    char line[512];
    while (f && fgets(line, sizeof line, f)) { /* version 1: "7:memory:/docker/x" */
        char *at = strstr(line, ":memory:/");
        if (!at) continue;
        at[strcspn(at, "\n")] = '\0';
        snprintf(below, sizeof below, "/memory%s", at[9] ? at + 8 : "");
        walk(m, cgroup, below, "memory.limit_in_bytes", "memory.usage_in_bytes");
    }
    if (f) fclose(f);
}

uint64_t cmd_memory_usable(void) {
    cmd_memory m;
    cmd_memory_read(&m, NULL, NULL);
    return m.limit ? m.limit : m.total;
}
