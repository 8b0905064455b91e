#include "cmd/term.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

/* One terminal, one process: the state of the bar is the terminal's. */
static struct {
    double main_ms, main_cpu_ms;
    bool drawn;
    double drawn_ms;  /* when the bar was drawn last */
    double window_ms; /* start of the window over which the rate is taken */
    uint64_t window_done;
    double rate; /* bytes a second */
    char label[64];
} term;

static double clock_ms(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

double cmd_term_now_ms(void) { return clock_ms(CLOCK_BOOTTIME); }

void cmd_term_init(void) {
    term.main_ms = cmd_term_now_ms();
    term.main_cpu_ms = clock_ms(CLOCK_PROCESS_CPUTIME_ID);
}

double cmd_term_since_start_ms(void) {
    double start = term.main_ms - term.main_cpu_ms; /* the latest it can have been */
    char stat[1024];
    FILE *f = fopen("/proc/self/stat", "r");
    size_t n = f ? fread(stat, 1, sizeof stat - 1, f) : 0;
    if (f) fclose(f);
    stat[n] = '\0';
    const char *s = strrchr(stat, ')'); /* the name in field 2 may hold anything; 22 is the start time */
    for (int field = 2; s && field < 22; field++) {
        s = strchr(s, ' ');
        if (s) s++;
    }
    long ticks = sysconf(_SC_CLK_TCK);
    if (s && ticks > 0) {
        double tick_ms = 1e3 / (double)ticks, latest = (strtod(s, NULL) + 1) * tick_ms;
        if (latest < start) start = latest;
    }
    return cmd_term_now_ms() - start;
}

bool cmd_term_is_fancy(void) {
    const char *no_color = getenv("NO_COLOR"), *kind = getenv("TERM");
    return isatty(STDERR_FILENO) && !(no_color && *no_color) && !(kind && strcmp(kind, "dumb") == 0);
}

const char *cmd_term_dim(void) { return cmd_term_is_fancy() ? "\033[2m" : ""; }
const char *cmd_term_plain(void) { return cmd_term_is_fancy() ? "\033[0m" : ""; }

void cmd_term_size(uint64_t bytes, char text[16]) {
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};
    double v = (double)bytes;
    size_t u = 0;
    while (v >= 999.5 && u + 1 < sizeof units / sizeof *units) {
        v /= 1e3;
        u++;
    }
    snprintf(text, 16, u > 0 && v < 9.95 ? "%.1f %s" : "%.0f %s", v, units[u]);
}

static unsigned width(void) {
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col >= 20 ? size.ws_col : 80;
}

/* cells of a bar filled to done of total, in eighths of a character */
static void bar(char *text, unsigned cells, uint64_t done, uint64_t total) {
    static const char *const parts[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
    unsigned eighths = total ? (unsigned)((double)done / (double)total * cells * 8) : 0;
    char *s = text;
    for (unsigned i = 0; i < cells; i++) {
        unsigned left = eighths > i * 8 ? eighths - i * 8 : 0;
        s = stpcpy(s, left >= 8 ? "█" : left ? parts[left] : " ");
    }
}

static void draw(const char *label, uint64_t done, uint64_t total) {
    enum { CELLS_MAX = 40, FIXED = 48 };
    char cells[CELLS_MAX * 4 + 1] = "", have[16], all[16], rate[16];
    unsigned columns = width(), n_label = (unsigned)strlen(label);
    unsigned room = columns > n_label + FIXED ? columns - n_label - FIXED : 0;
    bar(cells, room > CELLS_MAX ? CELLS_MAX : room, done, total);
    cmd_term_size(done, have);
    cmd_term_size(total, all);
    cmd_term_size((uint64_t)term.rate, rate);
    fprintf(stderr, "\r\033[K%s  %s  %3.0f%%  %s / %s  %s/s", label, cells,
            total ? 100.0 * (double)done / (double)total : 0.0, have, all, rate);
    if (term.rate >= 1 && total >= done) {
        unsigned left = (unsigned)((double)(total - done) / term.rate);
        fprintf(stderr, "  %u:%02u", left / 60, left % 60);
    }
    fflush(stderr);
    term.drawn = true;
}

void cmd_term_progress(const char *label, uint64_t done, uint64_t total) {
    double now = cmd_term_now_ms();
    bool first = strncmp(term.label, label, sizeof term.label - 1) != 0;
    if (first) {
        snprintf(term.label, sizeof term.label, "%s", label);
        term.window_ms = now;
        term.window_done = done;
        term.rate = 0;
        if (!cmd_term_is_fancy()) {
            char size[16];
            cmd_term_size(total, size);
            fprintf(stderr, "%s: %s\n", label, size);
        }
    }
    if (now - term.window_ms >= 500) {
        uint64_t fetched = done > term.window_done ? done - term.window_done : 0;
        double rate = (double)fetched / (now - term.window_ms) * 1e3;
        term.rate = term.rate > 0 ? term.rate + (rate - term.rate) * 0.1 : rate; /* over about the last 10 s */
        term.window_ms = now;
        term.window_done = done;
    }
    bool end = total && done >= total;
    if (!cmd_term_is_fancy() || (!first && !end && now - term.drawn_ms < 100)) return;
    term.drawn_ms = now;
    draw(label, done, total);
}

void cmd_term_clear(void) {
    if (term.drawn) fputs("\r\033[K", stderr);
    term.drawn = false;
}

uint64_t cmd_term_rss_peak(void) {
    struct rusage use;
    return getrusage(RUSAGE_SELF, &use) == 0 ? (uint64_t)use.ru_maxrss * 1024 : 0;
}
