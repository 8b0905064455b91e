#include "cmd/modules.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool is_number(const char *s, size_t n) { return n > 0 && strspn(s, "0123456789") >= n; }

void cmd_modules_name(char out[96], const char *tensor) {
    const char *at = tensor, *from = tensor;
    size_t used = 0;
    for (size_t n = strcspn(at, "."); at[n]; n = strcspn(at, ".")) { /* after the first number, the layer's */
        if (is_number(at, n)) {
            from = at + n + 1;
            break;
        }
        at += n + 1;
    }
    for (;;) {
        size_t n = strcspn(from, ".");
        bool last = from[n] == '\0';
        if (last && used > 0 && strcmp(from, "weight") == 0) break;
        const char *part = is_number(from, n) ? "*" : from;
        int k =
            snprintf(out + used, 96 - used, "%s%.*s", used ? "." : "", part == from ? (int)(n < 96 ? n : 95) : 1, part);
        used += (size_t)k;
        if (used >= 95 || last) break;
        from += n + 1;
    }
    if (used == 0) snprintf(out, 96, "-");
}

static void add_type(cmd_module *m, const fl_tensor_info *t) {
    uint32_t i = 0;
    while (i < m->n_types && strcmp(m->types[i].type, t->type) != 0) i++;
    if (i == CMD_TYPES_MAX) i--; /* more types than exist */
    if (i == m->n_types) m->types[m->n_types++] = (cmd_type_share){.type = t->type};
    cmd_type_share *s = &m->types[i];
    s->n_tensors++;
    s->n_elems += t->n_elems;
    s->n_bytes += t->n_bytes;
    m->n_tensors++;
    m->n_elems += t->n_elems;
    m->n_bytes += t->n_bytes;
}

static int by_size(const void *a, const void *b) {
    uint64_t x = ((const cmd_type_share *)a)->n_elems, y = ((const cmd_type_share *)b)->n_elems;
    return (x < y) - (x > y);
}

static cmd_module *module_of(cmd_modules *m, const char *name) {
    for (uint32_t i = 0; i < m->n; i++)
        if (strcmp(m->modules[i].name, name) == 0) return &m->modules[i];
    bool full = m->n == CMD_MODULES_MAX;
    cmd_module *out = &m->modules[full ? m->n - 1 : m->n++];
    snprintf(out->name, sizeof out->name, "%s", full ? "others" : name);
    return out;
}

fl_status cmd_modules_open(cmd_modules **out, const fl_model *m, fl_err *err) {
    cmd_modules *all = base_calloc(1, sizeof *all);
    *out = all;
    if (!all) return fl_fail(err, FL_ENOMEM, "no memory for a list of modules");
    fl_tensor_info t = {.size = sizeof t};
    for (uint32_t i = 0; fl_model_get_tensor(m, i, &t); i++) {
        char name[96];
        cmd_modules_name(name, t.name);
        add_type(module_of(all, name), &t);
        add_type(&all->all, &t);
    }
    qsort(all->all.types, all->all.n_types, sizeof *all->all.types, by_size);
    for (uint32_t i = 0; i < all->n; i++)
        qsort(all->modules[i].types, all->modules[i].n_types, sizeof *all->modules[i].types, by_size);
    return FL_OK;
}
