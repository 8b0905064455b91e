/* The handler uses only what is allowed there: atomics, unlink, tcsetattr, write, _exit, and fl_request_cancel, which promises it. */
#include "cmd/signal.h"

#include <signal.h>
#include <stdatomic.h>
#include <unistd.h>

static _Atomic(fl_request *) watched[CMD_SIGNAL_REQUESTS_MAX];
static _Atomic(const char *) unfinished_file;
static _Atomic(const struct termios *) terminal;
static atomic_bool hold;
static atomic_int caught;

static void on_signal(int number) {
    bool wait = atomic_load(&hold);
    for (int i = 0; i < CMD_SIGNAL_REQUESTS_MAX; i++) wait = wait || atomic_load(&watched[i]);
    int none = 0;
    if (!wait || !atomic_compare_exchange_strong(&caught, &none, number)) {
        const char *path = atomic_load(&unfinished_file);
        if (path) unlink(path);
        const struct termios *t = atomic_load(&terminal);
        if (t) tcsetattr(STDIN_FILENO, TCSANOW, t);
        if (t && write(STDERR_FILENO, "\033[?2004l\n", 9) < 0) _exit(128 + number);
        _exit(128 + number);
    }
    for (int i = 0; i < CMD_SIGNAL_REQUESTS_MAX; i++) {
        fl_request *r = atomic_load(&watched[i]);
        if (r) fl_request_cancel(r);
    }
}

void cmd_signal_init(void) {
    struct sigaction ignore = {.sa_handler = SIG_IGN}, act = {.sa_handler = on_signal};
    sigemptyset(&ignore.sa_mask);
    sigemptyset(&act.sa_mask);
    sigaddset(&act.sa_mask, SIGINT);
    sigaddset(&act.sa_mask, SIGTERM);
    sigaction(SIGPIPE, &ignore, NULL);
    sigaction(SIGXFSZ, &ignore, NULL); /* a file that may not grow is an error of write() */
    sigaction(SIGTERM, &act, NULL);
    /* A shell starts background jobs with SIGINT ignored; then it stays so. */
    struct sigaction before;
    if (sigaction(SIGINT, NULL, &before) == 0 && before.sa_handler != SIG_IGN) sigaction(SIGINT, &act, NULL);
}

void cmd_signal_watch(fl_request *r) {
    for (int i = 0; i < CMD_SIGNAL_REQUESTS_MAX; i++) {
        fl_request *none = NULL;
        if (atomic_compare_exchange_strong(&watched[i], &none, r)) break;
    }
    if (atomic_load(&caught)) fl_request_cancel(r);
}

void cmd_signal_forget(fl_request *r) {
    for (int i = 0; i < CMD_SIGNAL_REQUESTS_MAX; i++) {
        fl_request *expected = r;
        if (r && atomic_compare_exchange_strong(&watched[i], &expected, NULL)) break;
    }
}

void cmd_signal_hold(bool on) { atomic_store(&hold, on); }
int cmd_signal_caught(void) { return atomic_load(&caught); }
void cmd_signal_clear(void) { atomic_store(&caught, 0); }
void cmd_signal_remove(const char *path) { atomic_store(&unfinished_file, path); }
void cmd_signal_restore(const struct termios *t) { atomic_store(&terminal, t); }
