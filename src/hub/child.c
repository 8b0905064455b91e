/* A child process that is waited for, watched and, if need be, ended.
 *
 * The child leads a process group of its own: Ctrl-C at the terminal reaches only this
 * program, which then decides, and ending the group also ends what the child started.
 * PR_SET_PDEATHSIG covers the case that this program is killed outright. Between fork and
 * exec nothing runs that could take a lock or allocate; arguments and environment are prepared before.
 * There is no shell anywhere. */
#include "base/mem.h"
#include "hub/hub_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { OUTPUT_MAX = 8192, TICK_MS = 100, GRACE_TICKS = 20 };

extern char **environ;

/* The environment with TMPDIR replaced; the strings are borrowed, the array is the caller's. */
static char **with_tmpdir(char *tmpdir) {
    size_t n = 0;
    while (environ[n]) n++;
    char **env = base_calloc(n + 2, sizeof *env);
    if (!env) return NULL;
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        if (strncmp(environ[i], "TMPDIR=", 7) != 0) env[k++] = environ[i];
    env[k] = tmpdir;
    return env;
}

/* Runs in the child. report gets errno if the program cannot be started. */
_Noreturn static void become(char *const argv[], char *const env[], const char *dir, int out, int report,
                             pid_t parent) {
    sigset_t none;
    (void)sigemptyset(&none);
    (void)sigprocmask(SIG_SETMASK, &none, NULL);
    (void)signal(SIGPIPE, SIG_DFL);
    (void)signal(SIGINT, SIG_DFL);
    (void)signal(SIGTERM, SIG_DFL);
    (void)setpgid(0, 0);
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    int in = open("/dev/null", O_RDONLY);
    if (getppid() == parent && in >= 0 && dup2(in, 0) >= 0 && dup2(out, 1) >= 0 && dup2(out, 2) >= 0 && chdir(dir) == 0)
        (void)execvpe(argv[0], argv, env);
    int why = errno;
    (void)!write(report, &why, sizeof why);
    _exit(127);
}

/* Reads what is there; keeps the last OUTPUT_MAX bytes or so. False at the end of the stream. */
static bool drain(int fd, base_buf *output) {
    char chunk[4096];
    ssize_t n = read(fd, chunk, sizeof chunk);
    if (n < 0) return errno == EINTR || errno == EAGAIN;
    if (n == 0) return false;
    if (output->len + (size_t)n > 2 * OUTPUT_MAX) {
        memmove(output->data, output->data + output->len - OUTPUT_MAX, OUTPUT_MAX);
        output->len = OUTPUT_MAX;
    }
    (void)base_buf_append(output, chunk, (size_t)n); /* without memory the words are lost, nothing else */
    return true;
}

static void sleep_tick(void) {
    struct timespec t = {0, TICK_MS * 1000000L};
    (void)nanosleep(&t, NULL);
}

/* Asks the group to end, then insists. The child is reaped. */
static void end_group(pid_t pid) {
    (void)kill(-pid, SIGTERM);
    for (int i = 0; i < GRACE_TICKS; i++) {
        if (waitpid(pid, NULL, WNOHANG) != 0) {
            (void)kill(-pid, SIGKILL); /* what the child left behind */
            return;
        }
        sleep_tick();
    }
    (void)kill(-pid, SIGKILL);
    while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) continue;
}

/* True when the child has ended by itself, false when tick wanted it ended. Reads until the child is
 * gone, not until the pipe closes: a stray grandchild could keep that open for ever. */
static bool watch(pid_t pid, int out, bool (*tick)(void *), void *user, base_buf *output, int *status) {
    bool open_ = true;
    for (;;) {
        struct pollfd p = {.fd = open_ ? out : -1, .events = POLLIN};
        int n = poll(&p, 1, TICK_MS);
        if (n > 0) open_ = drain(out, output);
        pid_t r = waitpid(pid, status, WNOHANG);
        if (r == pid) break;
        if (r < 0 && errno != EINTR) return true;
        if (tick && !tick(user)) {
            end_group(pid);
            return false;
        }
    }
    while (open_) {
        struct pollfd p = {.fd = out, .events = POLLIN};
        if (poll(&p, 1, 0) <= 0) break;
        open_ = drain(out, output);
    }
    return true;
}

static FL_CHECKED fl_status start(char *const argv[], char *const env[], const char *dir, int out, pid_t *pid,
                                  fl_err *err) {
    int report[2], why = 0;
    pid_t self = getpid();
    if (pipe2(report, O_CLOEXEC) != 0) return fl_fail(err, FL_EIO, "no pipe: %s", strerror(errno));
    *pid = fork();
    if (*pid == 0) become(argv, env, dir, out, report[1], self);
    int fork_errno = errno;
    (void)close(report[1]);
    ssize_t n = 0;
    if (*pid > 0) {
        do n = read(report[0], &why, sizeof why); /* nothing comes when exec closes the pipe */
        while (n < 0 && errno == EINTR);
    }
    (void)close(report[0]);
    if (*pid < 0) return fl_fail(err, FL_EIO, "no child process: %s", strerror(fork_errno));
    if (n <= 0) return FL_OK;
    while (waitpid(*pid, NULL, 0) < 0 && errno == EINTR) continue;
    if (why == ENOENT) return fl_fail(err, FL_EIO, "%s was not found", argv[0]);
    return fl_fail(err, FL_EIO, "%s cannot be started: %s", argv[0], strerror(why));
}

fl_status hub_child_run(char *const argv[], const char *dir, bool (*tick)(void *user), void *user, base_buf *output,
                        int *exit_code, fl_err *err) {
    int out[2] = {-1, -1}, status = 0;
    pid_t pid = -1;
    base_buf tmpdir = {0};
    char **env = NULL;
    fl_status st;
    *exit_code = -1;
    if (!base_buf_printf(&tmpdir, "TMPDIR=%s", dir) || !base_buf_reserve(output, 2 * OUTPUT_MAX) ||
        !(env = with_tmpdir(tmpdir.data))) {
        st = fl_fail(err, FL_ENOMEM, "starting %s", argv[0]);
        goto end;
    }
    if (pipe2(out, O_CLOEXEC) != 0) {
        st = fl_fail(err, FL_EIO, "no pipe: %s", strerror(errno));
        goto end;
    }
    st = start(argv, env, dir, out[1], &pid, err);
    (void)close(out[1]);
    if (st == FL_OK && !watch(pid, out[0], tick, user, output, &status)) st = fl_fail(err, FL_ECANCELED, "interrupted");
    (void)close(out[0]);
    if (st == FL_OK) *exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
end:
    base_free(env);
    base_buf_clear(&tmpdir);
    return st;
}
