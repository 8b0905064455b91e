#include "cmd/line.h"

#include "base/buf.h"
#include "base/mem.h"
#include "cmd/signal.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <locale.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>
#include <wchar.h>

/* The part of libedit's interface (histedit.h) that is used here; its numbers never change. */
enum { EL_PROMPT = 0, EL_EDITOR = 2, EL_BIND = 4, EL_SETTY = 8, EL_ADDFN = 9, EL_HIST = 10, EL_PREP_TERM = 16 };
enum { CC_NORM = 0, CC_EOF = 2, CC_REFRESH = 4, CC_ERROR = 6 };
enum { H_SETSIZE = 1, H_ENTER = 10, H_LOAD = 17, H_SAVE = 18, H_SETUNIQUE = 20 };

typedef struct {
    const char *buffer, *cursor, *lastchar;
} line_info;

typedef struct {
    int number;
    const char *text;
} history_event;

typedef struct {
    void *(*el_init)(const char *program, FILE *in, FILE *out, FILE *errors);
    void (*el_end)(void *el);
    const char *(*el_gets)(void *el, int *count);
    int (*el_set)(void *el, int what, ...);
    int (*el_source)(void *el, const char *file);
    void (*el_resize)(void *el);
    const line_info *(*el_line)(void *el);
    int (*el_insertstr)(void *el, const char *text);
    int (*el_winsertstr)(void *el, const wchar_t *text);
    int (*el_wgetc)(void *el, wchar_t *c);
    void *(*history_init)(void);
    void (*history_end)(void *history);
    int (*history)(void *history, history_event *event, int what, ...);
} libedit;

struct cmd_line {
    const char *const *words;
    base_buf plain; /* the line without libedit */
    void *library;  /* NULL: plain lines */
    libedit f;
    void *el, *history;
    FILE *out; /* stderr's terminal, buffered */
    const char *prompt;
    bool interrupted, was_typing; /* Ctrl-C; with something on the line */
    char *file;                   /* of the history, or NULL */
    struct termios as_it_was;     /* the terminal before editing */
};

enum { HISTORY_ENTRIES = 1000, LINE_BYTES_MAX = 16 << 20, PASTE_MAX = 4 << 20 };

/* libedit's callbacks get nothing but its own handle. One terminal, one process: the line being edited. */
static cmd_line *editing;

static char *prompt_of(void *el) {
    (void)el;
    return (char *)(uintptr_t)editing->prompt; /* libedit's type lacks the const; it only reads */
}

/* Ctrl-C: libedit sees the end of the input, cmd_line_read() tells the two apart. */
static unsigned char on_interrupt(void *el, int c) {
    (void)c;
    const line_info *line = editing->f.el_line(el);
    editing->interrupted = true;
    editing->was_typing = line->lastchar > line->buffer;
    return CC_EOF;
}

/* The paste up to ESC [ 201 ~. Carriage returns are the newlines of a paste; other control characters are dropped. */
static unsigned char on_paste(void *el, int key) {
    (void)key;
    static const wchar_t end[] = L"\033[201~";
    const size_t n_end = sizeof end / sizeof *end - 1;
    base_buf text = {0};
    size_t n = 0, matched = 0;
    wchar_t c;
    while (matched < n_end && n < PASTE_MAX && editing->f.el_wgetc(el, &c) == 1) {
        matched = c == end[matched] ? matched + 1 : c == end[0];
        if (matched > 0) continue;
        if (c == L'\r') c = L'\n';
        if ((c < 0x20 && c != L'\n' && c != L'\t') || c == 0x7f) continue;
        n += base_buf_append(&text, &c, sizeof c);
    }
    c = 0;
    while (n > 0 && ((const wchar_t *)(const void *)text.data)[n - 1] == L'\n') n--; /* Enter is the user's to press */
    text.len = n * sizeof c;
    bool ok = n == 0 || (base_buf_append(&text, &c, sizeof c) &&
                         editing->f.el_winsertstr(el, (const wchar_t *)(const void *)text.data) == 0);
    base_buf_clear(&text);
    return ok ? CC_REFRESH : CC_ERROR;
}

/* Completes a word at the start of the line as far as all words that begin like it agree. */
static unsigned char on_tab(void *el, int key) {
    (void)key;
    const line_info *line = editing->f.el_line(el);
    size_t typed = (size_t)(line->cursor - line->buffer), common = 0;
    const char *first = NULL;
    for (const char *const *w = editing->words; *w && typed > 0; w++) {
        if (strncmp(*w, line->buffer, typed) != 0) continue;
        if (!first) {
            first = *w;
            common = strlen(first);
        }
        size_t same = 0;
        while (same < common && first[same] == (*w)[same]) same++;
        common = same;
    }
    if (!first || common <= typed) return CC_ERROR;
    char more[64];
    snprintf(more, sizeof more, "%.*s", (int)(common - typed), first + typed);
    return editing->f.el_insertstr(el, more) == 0 ? CC_REFRESH : CC_ERROR;
}

/* ---- the history file ----- */

/* Makes every folder of a path's beginning, for the owner alone. */
static void make_folders(char *path) {
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
}

/* The path of the history, which exists then with mode 0600; NULL if it cannot be had. The caller owns it. */
static char *history_file(void) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    bool has_state = state && state[0] == '/';
    if (!has_state && !(home && home[0] == '/')) return NULL;
    base_buf path = {0};
    base_buf_printf(&path, "%s%s/flambeau/history", has_state ? state : home, has_state ? "" : "/.local/state");
    char *file = base_buf_take(&path);
    if (!file) return NULL;
    make_folders(file);
    int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    struct stat info;
    bool ok = fd >= 0 && fstat(fd, &info) == 0 && S_ISREG(info.st_mode) && fchmod(fd, 0600) == 0;
    if (fd >= 0) close(fd);
    if (ok) return file;
    base_free(file);
    return NULL;
}

static void open_history(cmd_line *l) {
    history_event event;
    l->history = l->f.history_init();
    if (!l->history) return;
    l->f.history(l->history, &event, H_SETSIZE, (int)HISTORY_ENTRIES);
    l->f.history(l->history, &event, H_SETUNIQUE, 1);
    l->f.el_set(l->el, EL_HIST, l->f.history, l->history);
    l->file = history_file();
    if (l->file) l->f.history(l->history, &event, H_LOAD, l->file);
}

void cmd_line_remember(cmd_line *l, const char *text) {
    if (!l->history || *text == '\0') return;
    history_event event;
    l->f.history(l->history, &event, H_ENTER, text);
    if (l->file) l->f.history(l->history, &event, H_SAVE, l->file);
}

/* ---- opening ----- */

/* Fills f from the library; false if a name is missing. */
static bool find_functions(void *library, libedit *f) {
    const struct {
        const char *name;
        void *slot;
    } wanted[] = {{"el_init", &f->el_init},
                  {"el_end", &f->el_end},
                  {"el_gets", &f->el_gets},
                  {"el_set", &f->el_set},
                  {"el_source", &f->el_source},
                  {"el_resize", &f->el_resize},
                  {"el_line", &f->el_line},
                  {"el_insertstr", &f->el_insertstr},
                  {"el_winsertstr", &f->el_winsertstr},
                  {"el_wgetc", &f->el_wgetc},
                  {"history_init", &f->history_init},
                  {"history_end", &f->history_end},
                  {"history", &f->history}};
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *at = dlsym(library, wanted[i].name);
        if (!at) return false;
        memcpy(wanted[i].slot, &at, sizeof at); /* POSIX: functions and data have pointers of one kind */
    }
    return true;
}

/* It stays loaded: the terminal descriptions below it are cached in statics that unloading would lose. */
void *cmd_line_library(const char **name) {
    static const char *const names[] = {"libedit.so.2", "libedit.so.0"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        if (!library) continue;
        *name = names[i];
        return library;
    }
    return NULL;
}

static bool can_edit(void) {
    const char *kind = getenv("TERM");
    return isatty(STDIN_FILENO) && isatty(STDERR_FILENO) && kind && *kind && strcmp(kind, "dumb") != 0;
}

static void bind_keys(cmd_line *l) {
    l->f.el_set(l->el, EL_PROMPT, prompt_of);
    l->f.el_set(l->el, EL_EDITOR, "emacs");
    l->f.el_set(l->el, EL_ADDFN, "flambeau-interrupt", "discard the line", on_interrupt);
    l->f.el_set(l->el, EL_ADDFN, "flambeau-paste", "take a paste", on_paste);
    l->f.el_set(l->el, EL_ADDFN, "flambeau-complete", "complete a command", on_tab);
    l->f.el_set(l->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    l->f.el_source(l->el, NULL);
    /* After the user's file: these keep the promises of the header. */
    l->f.el_set(l->el, EL_BIND, "^C", "flambeau-interrupt", NULL);
    l->f.el_set(l->el, EL_BIND, "\\e[200~", "flambeau-paste", NULL);
    l->f.el_set(l->el, EL_BIND, "^I", "flambeau-complete", NULL);
    l->f.el_set(l->el, EL_SETTY, "-d", "-isig", NULL); /* keys, not signals, while editing */
}

/* Leaves l->library NULL when there is nothing to edit with. */
static void open_editor(cmd_line *l) {
    const char *name;
    if (!can_edit() || tcgetattr(STDIN_FILENO, &l->as_it_was) != 0) return;
    l->library = cmd_line_library(&name);
    if (!l->library) return;
    if (!setlocale(LC_CTYPE, "") || MB_CUR_MAX == 1) (void)setlocale(LC_CTYPE, "C.UTF-8");
    int fd = dup(STDERR_FILENO);
    l->out = fd >= 0 ? fdopen(fd, "w") : NULL;
    if (fd >= 0 && !l->out) close(fd);
    if (l->out && find_functions(l->library, &l->f)) l->el = l->f.el_init("flambeau", stdin, l->out, l->out);
    if (l->el) {
        open_history(l);
        bind_keys(l);
        return;
    }
    if (l->out) fclose(l->out);
    l->out = NULL;
    l->library = NULL;
}

fl_status cmd_line_open(cmd_line **out, const char *const *words, fl_err *err) {
    *out = base_calloc(1, sizeof **out);
    if (!*out) return fl_fail(err, FL_ENOMEM, "no memory for a line");
    (*out)->words = words;
    open_editor(*out);
    return FL_OK;
}

void cmd_line_close(cmd_line *l) {
    if (!l) return;
    if (l->history) l->f.history_end(l->history);
    if (l->el) l->f.el_end(l->el);
    if (l->out) fclose(l->out);
    base_buf_clear(&l->plain);
    base_free(l->file);
    base_free(l);
}

/* ---- reading ----- */

static fl_status too_long(fl_err *err) {
    return fl_fail(err, FL_EINVAL, "wanted a line of at most %d MiB, found a longer one", LINE_BYTES_MAX >> 20);
}

static fl_status read_plain(cmd_line *l, const char *prompt, cmd_line_kind *kind, fl_err *err) {
    char block[4096];
    bool over = false;
    base_buf_clear(&l->plain);
    if (isatty(STDIN_FILENO)) fputs(prompt, stderr);
    *kind = CMD_LINE_END;
    while (fgets(block, sizeof block, stdin)) {
        size_t n = strlen(block);
        bool whole = n > 0 && block[n - 1] == '\n';
        *kind = CMD_LINE_TEXT;
        over = over || l->plain.len + n > LINE_BYTES_MAX; /* the rest of such a line is read, and dropped */
        if (!over && !base_buf_append(&l->plain, block, n - whole))
            return fl_fail(err, FL_ENOMEM, "no memory for a line");
        if (whole) break;
    }
    return over ? too_long(err) : FL_OK;
}

static fl_status read_edited(cmd_line *l, const char *prompt, cmd_line_kind *kind, const char **text, size_t *n,
                             fl_err *err) {
    int count = 0;
    editing = l;
    l->prompt = prompt;
    l->interrupted = false;
    l->f.el_resize(l->el);
    cmd_signal_restore(&l->as_it_was);
    l->f.el_set(l->el, EL_PREP_TERM, 1); /* before the prompt is seen: keys typed at its sight are keys, not signals */
    fputs("\033[?2004h", l->out);        /* bracketed paste */
    fflush(l->out);
    *text = l->f.el_gets(l->el, &count);
    fputs(l->interrupted ? "\033[?2004l^C\r\n" : "\033[?2004l", l->out);
    fflush(l->out);
    cmd_signal_restore(NULL);
    editing = NULL;
    *n = *text && count > 0 ? (size_t)count : 0;
    *kind = l->interrupted ? (l->was_typing ? CMD_LINE_TEXT : CMD_LINE_STOP) : *text ? CMD_LINE_TEXT : CMD_LINE_END;
    if (l->interrupted || !*text) {
        *text = "";
        *n = 0;
    }
    if (*n > 0 && (*text)[*n - 1] == '\n') --*n;
    return *n > LINE_BYTES_MAX ? too_long(err) : FL_OK;
}

fl_status cmd_line_read(cmd_line *l, const char *prompt, cmd_line_kind *kind, const char **text, size_t *n,
                        fl_err *err) {
    if (l->el) return read_edited(l, prompt, kind, text, n, err);
    fl_status st = read_plain(l, prompt, kind, err);
    *text = l->plain.data ? l->plain.data : "";
    *n = l->plain.len;
    return st;
}
