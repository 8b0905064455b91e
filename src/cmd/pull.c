/* flambeau pull - models by name; and MODEL names of the other commands, pulled when missing. */
#include "cmd/pull.h"

#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/json.h"
#include "cmd/out.h"
#include "cmd/signal.h"
#include "cmd/term.h"
#include "hub/hub.h"

#include <stdio.h>
#include <string.h>

static void on_progress(void *user, const hub_progress *p) {
    bool *waiting = user;
    if (p->phase == HUB_WAITING) {
        if (!*waiting) fprintf(stderr, "another process is pulling this model; waiting for it\n");
        *waiting = true;
        return;
    }
    static const char *const labels[] = {
        [HUB_DOWNLOADING] = "downloading", [HUB_UNPACKING] = "unpacking", [HUB_VERIFYING] = "verifying"};
    cmd_term_progress(labels[p->phase], p->done, p->total);
}

static void on_plan(void *user, const hub_plan *p) {
    char size[16];
    (void)user;
    cmd_term_size(p->bytes, size);
    fprintf(stderr, "%s  %s  %s, into %s\n", p->name, p->what, size, p->cache);
}

static bool on_cancelled(void *user) {
    (void)user;
    return cmd_signal_caught() != 0;
}

/* Says what is fetched, fetches it, with a bar; *path as of hub_pull. */
static fl_status fetch(const hub *h, const char *name, char **path, fl_err *err) {
    const hub_model *m = hub_catalogue_find(h, name);
    char size[16];
    if (m && !hub_offline()) {
        cmd_term_size(m->bytes, size);
        fprintf(stderr, "%s  %s  %s  %s, into %s\n", m->name, m->file, size, m->licence, hub_cache(h));
    }
    bool waiting = false;
    hub_watch watch = {.plan = on_plan, .progress = on_progress, .cancelled = on_cancelled, .user = &waiting};
    cmd_signal_hold(true);
    fl_status st = hub_pull(h, name, &watch, path, err);
    cmd_term_clear();
    cmd_signal_hold(false);
    if (st == FL_OK && cmd_signal_caught()) { /* too late to stop it; the model stays, the command ends */
        base_free(*path);
        *path = NULL;
        st = fl_fail(err, FL_ECANCELED, "pulling %s was stopped", name);
    }
    return st;
}

fl_status cmd_pull_find(const char *name, char **path, fl_err *err) {
    *path = NULL;
    hub *h;
    fl_status st = hub_open(&h, NULL, err);
    if (st != FL_OK) return st;
    st = hub_find(h, name, path, err);
    if (st == FL_OK && !*path) st = fetch(h, name, path, err);
    hub_close(h);
    return st == FL_OK ? FL_OK : fl_wrap(err, st, "cannot open model %.60s", name);
}

int cmd_pull(const cmd_options *o, fl_err *err) {
    hub *h;
    char *path = NULL;
    fl_status st = hub_open(&h, NULL, err);
    /* A branch of a repository may have moved on: the hub is asked each time. */
    if (st == FL_OK && !hub_is_remote(o->args[0])) st = hub_find(h, o->args[0], &path, err);
    if (st == FL_OK && !path) st = fetch(h, o->args[0], &path, err);
    if (st == FL_OK) {
        base_buf b = {0};
        if (o->json) {
            cmd_json_open(&b, '{');
            cmd_json_key(&b, "name");
            cmd_json_string(&b, o->args[0]);
            cmd_json_key(&b, "path");
            cmd_json_string(&b, path);
            cmd_json_close(&b, '}');
        } else {
            base_buf_puts(&b, path);
        }
        base_buf_putc(&b, '\n');
        st = cmd_out_flush(&b, err);
        base_buf_clear(&b);
    }
    base_free(path);
    hub_close(h);
    return cmd_exit(st);
}
