/* flambeau list, rm - the models known and downloaded, and the end of one. */
#include "base/mem.h"
#include "cmd/cmd_int.h"
#include "cmd/json.h"
#include "cmd/memory.h"
#include "cmd/out.h"
#include "cmd/term.h"
#include "hub/hub.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { FIT_POSITIONS = 4096 }; /* of the request that a model must have room for */

typedef struct {
    const char *name;
    const hub_model *known; /* NULL: not of the catalogue */
    const hub_entry *local; /* NULL: not downloaded */
    uint64_t bytes;
    char family[33], dtype[32]; /* "" when the file was not looked at */
    uint32_t context;
    char why_not[200]; /* "" if it fits */
} listed;

static void need(listed *l, uint64_t bytes, uint64_t memory) {
    char wanted[16], here[16];
    if (bytes <= memory) return;
    cmd_term_size(bytes, wanted);
    cmd_term_size(memory, here);
    snprintf(l->why_not, sizeof l->why_not, "needs %s, has %s", wanted, here);
}

/* A model that is here says itself what it needs; of another its size is known, and a fifth more is for the cache. */
static void look_inside(listed *l, uint64_t memory) {
    fl_model *m = NULL;
    fl_err err;
    if (!l->local) need(l, l->bytes + l->bytes / 5, memory);
    if (!l->local) return;
    if (*l->local->file == '\0') snprintf(l->dtype, sizeof l->dtype, "folder");
    if (fl_model_open(&m, l->local->path, &err) != FL_OK) {
        snprintf(l->why_not, sizeof l->why_not, "%.199s", err.msg);
        return;
    }
    fl_model_info info;
    fl_model_needs needs;
    fl_model_info_init(&info);
    fl_model_needs_init(&needs);
    fl_model_get_info(m, &info);
    if (*info.weight_types)
        snprintf(l->dtype, sizeof l->dtype, "%.*s", (int)strcspn(info.weight_types, ","), info.weight_types);
    snprintf(l->family, sizeof l->family, "%.32s", info.architecture);
    l->context = info.context_length;
    uint32_t positions = info.context_length < FIT_POSITIONS ? info.context_length : FIT_POSITIONS;
    if (fl_model_get_needs(m, positions, &needs, &err) != FL_OK)
        snprintf(l->why_not, sizeof l->why_not, "%.199s", err.msg);
    else
        need(l, needs.weight_bytes + needs.cache_bytes, memory);
    fl_model_close(m);
}

static const char *revision(const listed *l) {
    return l->known ? l->known->parts[0].version : l->local ? l->local->revision : NULL;
}

static void key_string(base_buf *b, const char *key, const char *s) {
    cmd_json_key(b, key);
    cmd_json_string(b, s);
}

static void row_json(base_buf *b, const listed *l) {
    cmd_json_open(b, '{');
    key_string(b, "name", l->name);
    key_string(b, "revision", revision(l));
    key_string(b, "family", *l->family ? l->family : NULL);
    key_string(b, "dtype", *l->dtype ? l->dtype : NULL);
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
    key_string(b, "fits", *l->why_not ? "no" : "yes");
    key_string(b, "why_not", *l->why_not ? l->why_not : NULL);
    key_string(b, "licence", l->known ? l->known->licence : NULL);
    key_string(b, "path", l->local ? l->local->path : NULL);
    cmd_json_close(b, '}');
}

static void put_row(base_buf *b, const int width[2], const char *const column[8]) {
    base_buf_printf(b, "%-*s %-8.8s %-*s %-7s %8s %8s  %-10s %s\n", width[0], column[0], column[1], width[1], column[2],
                    column[3], column[4], column[5], column[6], column[7]);
}

static void row_text(base_buf *b, const listed *l, const int width[2]) {
    char size[16], used[32] = "not here", context[16] = "-", fits[210] = "yes";
    struct tm day;
    time_t when = l->local ? (time_t)l->local->used_s : 0;
    cmd_term_size(l->bytes, size);
    if (l->local && localtime_r(&when, &day)) strftime(used, sizeof used, "%Y-%m-%d", &day);
    if (l->context) snprintf(context, sizeof context, "%u", l->context);
    if (*l->why_not) snprintf(fits, sizeof fits, "no: %s", l->why_not);
    const char *version = revision(l);
    put_row(b, width,
            (const char *const[]){l->name, version ? version : "-", *l->family ? l->family : "-",
                                  *l->dtype ? l->dtype : "-", size, context, used, fits});
}

static void widen(int *width, const char *text) {
    size_t n = strlen(text);
    if (n < 200 && (int)n > *width) *width = (int)n;
}

static void print_row(base_buf *b, bool json, uint64_t memory, const int width[2], listed l) {
    look_inside(&l, memory);
    if (json)
        row_json(b, &l);
    else
        row_text(b, &l, width);
}

static void print_list(base_buf *b, const hub *h, const hub_listing *local, bool json) {
    static const char *const head[] = {"NAME", "REVISION", "FAMILY", "DTYPE", "SIZE", "CONTEXT", "USED", "FITS"};
    size_t n;
    const hub_model *known = hub_catalogue(h, &n);
    int width[2] = {18, 8}; /* of the names, of the families */
    uint64_t memory = cmd_memory_usable();
    for (size_t i = 0; i < local->n; i++) widen(&width[0], local->entries[i].name);
    for (size_t i = 0; i < n; i++) widen(&width[0], known[i].name);
    if (json)
        cmd_json_open(b, '[');
    else
        put_row(b, width, head);
    for (size_t i = 0; i < local->n; i++) {
        const hub_entry *e = &local->entries[i];
        print_row(b, json, memory, width,
                  (listed){.name = e->name, .known = hub_catalogue_find(h, e->name), .local = e, .bytes = e->bytes});
    }
    for (size_t i = 0; i < n; i++) {
        bool here = false;
        for (size_t k = 0; k < local->n; k++) here = here || strcmp(local->entries[k].name, known[i].name) == 0;
        if (!here)
            print_row(b, json, memory, width,
                      (listed){.name = known[i].name, .known = &known[i], .bytes = known[i].bytes});
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

/* ---- rm ---- */

/* Asks on the terminal; without one the command is its own answer. */
static FL_CHECKED fl_status ask(const char *name, const char *path, uint64_t bytes, fl_err *err) {
    char size[16], answer[16] = "";
    cmd_term_size(bytes, size);
    fprintf(stderr, "remove %s, %s in %s? [y/N] ", name, size, path);
    fflush(stderr);
    if (fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y')) return FL_OK;
    return fl_fail(err, FL_EINVAL, "%s stays: not answered with y (--yes does not ask)", name);
}

int cmd_rm(const cmd_options *o, fl_err *err) {
    const char *name = o->args[0];
    hub *h;
    char *path = NULL, size[16];
    uint64_t bytes = 0;
    fl_status st = hub_open(&h, NULL, err);
    if (st == FL_OK) st = hub_removable(h, name, &path, &bytes, err);
    if (st == FL_OK && !o->yes && isatty(STDIN_FILENO)) st = ask(name, path, bytes, err);
    if (st == FL_OK) st = hub_remove(h, name, err);
    if (st == FL_OK) {
        cmd_term_size(bytes, size);
        fprintf(stderr, "%s removed, %s free again\n", name, size);
    }
    base_free(path);
    hub_close(h);
    return cmd_exit(st);
}
