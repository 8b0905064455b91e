#include "fl_err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

fl_status fl_fail_at(fl_err *err, fl_status code, const char *file, int line, const char *fmt, ...) {
    if (!err) return code;
    err->code = code;
    err->file = file;
    err->line = line;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    return code;
}

fl_status fl_wrap(fl_err *err, fl_status code, const char *fmt, ...) {
    if (!err) return code;
    char inner[sizeof err->msg];
    memcpy(inner, err->msg, sizeof inner);
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    size_t used = n < 0 ? 0 : (size_t)n;
    size_t room = used < sizeof err->msg ? sizeof err->msg - used : 0;
    if (room < sizeof ": ") return code; /* no room: keep the outer context, drop the inner */
    size_t keep = strlen(inner);
    if (keep > room - sizeof ": ") keep = room - sizeof ": ";
    memcpy(err->msg + used, ": ", 2);
    memcpy(err->msg + used + 2, inner, keep);
    err->msg[used + 2 + keep] = '\0';
    return code;
}

const char *fl_status_name(fl_status code) {
    switch (code) {
        case FL_OK: return "ok";
        case FL_EINVAL: return "invalid";
        case FL_ENOMEM: return "out of memory";
        case FL_EIO: return "i/o";
        case FL_EFORMAT: return "bad format";
        case FL_EUNSUPPORTED: return "unsupported";
        case FL_EDEVICE: return "device";
        case FL_EPEER: return "peer";
        case FL_ECANCELED: return "canceled";
    }
    return "?";
}
