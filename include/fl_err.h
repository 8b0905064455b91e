/* fl_err.h - how every fallible function in this code base reports failure.
 *
 * A function that can fail returns fl_status and takes an fl_err as its last
 * argument. The function that first notices the trouble calls fl_fail(), which
 * is the only place an error is born (break there in gdb). Each caller that
 * knows something the callee did not (which file, which layer) adds it with
 * fl_wrap(). Only main(), the HTTP layer and tests print the result.
 *
 * An fl_err lives on the caller's stack: no allocation, no globals, no errno.
 * err may be NULL when the caller does not want the words.
 * Bugs are not errors: a broken invariant is fl_assert(), which stops the process.
 */
#ifndef FL_ERR_H
#define FL_ERR_H

typedef enum {
    FL_OK = 0,
    FL_EINVAL,       /* the caller's argument or configuration is wrong */
    FL_ENOMEM,       /* a budget or pool is exhausted; retrying later may work */
    FL_EIO,          /* the operating system refused: file, socket, mmap */
    FL_EFORMAT,      /* bytes from outside do not follow their format */
    FL_EUNSUPPORTED, /* valid, but nothing here implements it */
    FL_EDEVICE,      /* an accelerator call failed; the device may be lost */
    FL_EPEER,        /* another rank failed, left, or stopped answering */
    FL_ECANCELED,    /* the client or the operator asked us to stop */
} fl_status;

typedef struct {
    fl_status code;
    const char *file; /* where the error was born */
    int line;
    char msg[480]; /* "outer: inner: cause", one line, no full stop */
} fl_err;

#define FL_CHECKED      __attribute__((warn_unused_result))
#define FL_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Records a new error and returns code, so that `return fl_fail(...)` reads well. */
#define fl_fail(err, code, ...) fl_fail_at((err), (code), __FILE__, __LINE__, __VA_ARGS__)

fl_status fl_fail_at(fl_err *err, fl_status code, const char *file, int line, const char *fmt, ...) FL_PRINTF(5, 6);

/* Puts "context: " before the message of a failure in flight. Returns its code. */
fl_status fl_wrap(fl_err *err, fl_status code, const char *fmt, ...) FL_PRINTF(3, 4);

const char *fl_status_name(fl_status code);

#endif
