/* flambeau pull, list, rm - models by name; and MODEL names of the other commands, pulled when missing. */
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
#include <time.h>
#include <unistd.h>

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

int cmd_rm(const cmd_options *o, fl_err *err) {
    hub *h;
    fl_status st = hub_open(&h, NULL, err);
    if (st == FL_OK) st = hub_remove(h, o->args[0], err);
    hub_close(h);
    return cmd_exit(st);
}

/* ---- list ----- */

typedef struct {
    const char *name;
    const hub_model *known; /* NULL: not of the catalogue */
    const hub_entry *local; /* NULL: not downloaded */
    uint64_t bytes;
    char dtype[32]; /* "" when the file was not looked at */
    uint32_t context;
} listed;

static void look_inside(listed *l) {
    fl_model *m;
    fl_err ignored;
    if (*l->local->file == '\0') snprintf(l->dtype, sizeof l->dtype, "folder");
    if (*l->local->file == '\0' || fl_model_open(&m, l->local->path, &ignored) != FL_OK) return;
    fl_model_info info;
    fl_model_info_init(&info);
    fl_model_get_info(m, &info);
    snprintf(l->dtype, sizeof l->dtype, "%.*s", (int)strcspn(info.weight_types, ","), info.weight_types);
    l->context = info.context_length;
    fl_model_close(m);
}

/* Weights, and a fifth more for the cache and what is computed, in the machine's memory. */
static const char *fits(uint64_t bytes) {
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    return pages > 0 && page > 0 && bytes + bytes / 5 < (uint64_t)pages * (uint64_t)page ? "yes" : "no";
}

static const char *revision(const listed *l) {
    return l->known ? l->known->parts[0].version : l->local ? l->local->revision : NULL;
}

static void row_json(base_buf *b, const listed *l) {
    cmd_json_open(b, '{');
    cmd_json_key(b, "name");
    cmd_json_string(b, l->name);
    cmd_json_key(b, "revision");
    cmd_json_string(b, revision(l));
    cmd_json_key(b, "dtype");
    cmd_json_string(b, *l->dtype ? l->dtype : NULL);
    cmd_json_key(b, "size");
    cmd_json_count(b, l->bytes);
    cmd_json_key(b, "context");
    if (l->context)
        cmd_json_count(b, l->context);
    else
        cmd_json_string(b, NULL);
    cmd_json_key(b, "used");
    if (l->local)
        cmd_json_count(b, (uint64_t)l->local->used_s);
    else
        cmd_json_string(b, NULL);
    cmd_json_key(b, "fits");
    cmd_json_string(b, fits(l->bytes));
    cmd_json_key(b, "licence");
    cmd_json_string(b, l->known ? l->known->licence : NULL);
    cmd_json_key(b, "path");
    cmd_json_string(b, l->local ? l->local->path : NULL);
    cmd_json_close(b, '}');
}

static void row_text(base_buf *b, const listed *l, int width) {
    char size[16], used[32] = "not here", context[16] = "-";
    struct tm day;
    time_t when = l->local ? (time_t)l->local->used_s : 0;
    cmd_term_size(l->bytes, size);
    if (l->local && localtime_r(&when, &day)) strftime(used, sizeof used, "%Y-%m-%d", &day);
    if (l->context) snprintf(context, sizeof context, "%u", l->context);
    base_buf_printf(b, "%-*s %-9.8s %-7s %8s %8s  %-10s %s\n", width, l->name, revision(l) ? revision(l) : "-",
                    *l->dtype ? l->dtype : "-", size, context, used, fits(l->bytes));
}

static void print_row(base_buf *b, bool json, int width, listed l) {
    if (l.local) look_inside(&l);
    if (json)
        row_json(b, &l);
    else
        row_text(b, &l, width);
}

static void print_list(base_buf *b, const hub *h, const hub_listing *local, bool json) {
    size_t n;
    const hub_model *known = hub_catalogue(h, &n);
    int width = 20; /* of the names */
    for (size_t i = 0; i < local->n; i++) {
        size_t len = strlen(local->entries[i].name);
        if (len < 200 && (int)len > width) width = (int)len;
    }
    if (json)
        cmd_json_open(b, '[');
    else
        base_buf_printf(b, "%-*s %-9s %-7s %8s %8s  %-10s %s\n", width, "NAME", "REVISION", "DTYPE", "SIZE", "CONTEXT",
                        "USED", "FITS");
    for (size_t i = 0; i < local->n; i++) {
        const hub_entry *e = &local->entries[i];
        print_row(b, json, width,
                  (listed){.name = e->name, .known = hub_catalogue_find(h, e->name), .local = e, .bytes = e->bytes});
    }
    for (size_t i = 0; i < n; i++) {
        bool here = false;
        for (size_t k = 0; k < local->n; k++) here = here || strcmp(local->entries[k].name, known[i].name) == 0;
        if (!here)
            print_row(b, json, width, (listed){.name = known[i].name, .known = &known[i], .bytes = known[i].bytes});
    }
    if (json) base_buf_puts(b, "]\n");
}

int cmd_list(const cmd_options *o, fl_err *err) {
    hub *h;
    hub_listing local;
    fl_status st = hub_open(&h, NULL, err);
    if (st == FL_OK) st = hub_list(h, &local, err);
    if (st == FL_OK) {
        base_buf b = {0};
        print_list(&b, h, &local, o->json);
        hub_listing_clear(&local);
        st = cmd_out_flush(&b, err);
        base_buf_clear(&b);
    }
    hub_close(h);
    return cmd_exit(st);
}
