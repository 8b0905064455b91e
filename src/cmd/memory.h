/* cmd/memory.h - how much memory this process may use: the machine's, and the limits of its control groups. */
#ifndef CMD_MEMORY_H
#define CMD_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    uint64_t total, available; /* bytes; available 0: unknown */
    uint64_t limit;            /* the least of its control groups' limits; 0: none */
    uint64_t limit_used;       /* of that group */
    char group[256];           /* the folder of that group, "" without a limit */
} cmd_memory;

/* proc and cgroup: the roots to look under, NULL: /proc and /sys/fs/cgroup (tests have their own). */
void cmd_memory_read(cmd_memory *m, const char *proc, const char *cgroup);

/* What a model may take at most: the total, or the limit if that is less. */
uint64_t cmd_memory_usable(void);

/* The first line of a file that begins with key, after its colon; or the first line for a NULL key. False if none. */
bool cmd_memory_file_line(const char *path, const char *key, char *text, uint32_t size);

#endif
