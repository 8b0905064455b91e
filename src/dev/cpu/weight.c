/* Weights of the CPU back end. A product's weight is packed into the layout of the best
 * kernel set that has one for its type; an embedding stays as it lies in the file; a
 * vector becomes fp32. One tensor may be all of these at once (a tied embedding). */
#include "dev/cpu/cpu_int.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

enum {
    PACK_ROWS = 64, /* unit in which packing is shared out to the team; a multiple of CPU_TILE_ROWS */
    SLAB_BYTES = 32 << 20,
};

/* Packed weights lie one behind the other, in the order of the step, in slabs of huge pages: fewer page faults while
 * loading, fewer misses of the translation cache while streaming. They live as long as the device. */
typedef struct cpu_slab {
    struct cpu_slab *next;
    size_t used, cap;
    _Alignas(64) uint8_t data[];
} cpu_slab;

static uint8_t *slab_alloc(cpu_dev *d, size_t bytes) {
    bytes = (bytes + 63) & ~(size_t)63;
    cpu_slab *s = d->slabs;
    if (!s || bytes > s->cap - s->used) {
        size_t cap = bytes > SLAB_BYTES ? bytes : SLAB_BYTES;
        s = base_alloc_aligned(sizeof *s + cap);
        if (!s) return NULL;
        s->cap = cap;
        s->next = d->slabs;
        d->slabs = s;
    }
    s->used += bytes;
    return s->data + s->used - bytes;
}

void cpu_weight_free_slabs(cpu_dev *d) {
    while (d->slabs) {
        cpu_slab *next = d->slabs->next;
        base_free(d->slabs);
        d->slabs = next;
    }
}

static fl_status open_packed(cpu_dev *d, dev_weight *w, fl_err *err) {
    for (uint32_t i = 0; i < d->n_sets; i++) {
        const cpu_matmul_kernels *k = cpu_kernels_matmul(d->sets[i], w->desc.compute);
        const size_t bytes = k->tile_bytes(w->desc.type, w->desc.compute, w->desc.k);
        if (bytes == 0) continue;
        w->set = d->sets[i];
        w->packed = (cpu_weight){.type = w->desc.type,
                                 .compute = w->desc.compute,
                                 .n = w->desc.n,
                                 .k = w->desc.k,
                                 .n_tiles = (w->desc.n + CPU_TILE_ROWS - 1) / CPU_TILE_ROWS,
                                 .tile_bytes = bytes};
        w->slice_bytes = (w->packed.n_tiles * bytes + 63) & ~(size_t)63;
        w->packed.data = slab_alloc(d, cpu_weight_slices(w) * w->slice_bytes);
        if (!w->packed.data)
            return fl_fail(err, FL_ENOMEM, "weight %s needs %zu bytes; no memory", w->desc.name,
                           cpu_weight_slices(w) * w->slice_bytes);
        return FL_OK;
    }
    return fl_fail(err, FL_EUNSUPPORTED, "weight %s: no kernel computes products of %s weights in this profile",
                   w->desc.name, dtype_find(w->desc.type)->name);
}

fl_status cpu_weight_open(dev *dd, const dev_weight_desc *desc, dev_weight **out, fl_err *err) {
    cpu_dev *d = (cpu_dev *)dd;
    *out = NULL;
    dev_weight *w = base_calloc(1, sizeof *w);
    if (!w) return fl_fail(err, FL_ENOMEM, "weight %s: no memory", desc->name);
    fl_status st = FL_OK;
    w->desc = *desc;
    w->name = base_strdup(desc->name);
    w->desc.name = w->name ? w->name : "";
    w->row_bytes = dtype_row_bytes(desc->type, desc->k);
    w->file_row_bytes = dtype_row_bytes(desc->type, desc->k_file);
    w->file_offset = desc->k_first ? dtype_row_bytes(desc->type, desc->k_first) : 0;
    if (!w->name)
        st = fl_fail(err, FL_ENOMEM, "weight %s: no memory", desc->name);
    else if (!w->row_bytes || !w->file_row_bytes || (desc->k_first && !w->file_offset) ||
             desc->k_first + desc->k > desc->k_file)
        st = fl_fail(err, FL_EFORMAT, "weight %s: a row of %u values is not whole blocks of %s", desc->name, desc->k,
                     dtype_find(desc->type)->name);
    if (st == FL_OK && desc->uses & GRAPH_USE_MATMUL) st = open_packed(d, w, err);
    if (st == FL_OK && desc->uses & GRAPH_USE_VECTOR) {
        w->vector = base_calloc((size_t)desc->n * desc->k, sizeof *w->vector);
        if (!w->vector) st = fl_fail(err, FL_ENOMEM, "weight %s: no memory", desc->name);
    }
    if (st != FL_OK) {
        cpu_weight_close(dd, w);
        return st;
    }
    *out = w;
    return FL_OK;
}

void cpu_weight_close(dev *d, dev_weight *w) {
    (void)d;
    if (!w) return;
    base_free(w->vector);
    base_free(w->own_rows);
    base_free(w->name);
    base_free(w);
}

size_t cpu_weight_size(const dev_weight *w) {
    return (size_t)cpu_weight_slices(w) * w->packed.n_tiles * w->packed.tile_bytes +
           (w->vector ? (size_t)w->desc.n * w->desc.k * sizeof(float) : 0) +
           (w->own_rows ? w->desc.n * w->row_bytes : 0);
}

typedef struct {
    dev_weight *w;
    uint32_t row, n_rows;
    const uint8_t *rows;
} pack_job;

/* Units are PACK_ROWS rows of one slice (fewer at its end): whole tiles, packed by one thread each. Rows come with the
 * file's stride when columns are cut out. */
static uint32_t unit_of(const dev_weight *w, uint32_t row) {
    uint32_t per_slice = (w->desc.n + PACK_ROWS - 1) / PACK_ROWS;
    return row / w->desc.n * per_slice + row % w->desc.n / PACK_ROWS;
}

static void pack_unit(const pack_job *j, uint32_t unit) {
    dev_weight *w = j->w;
    uint32_t per_slice = (w->desc.n + PACK_ROWS - 1) / PACK_ROWS, slice = unit / per_slice;
    uint32_t first = slice * w->desc.n, lo = first + unit % per_slice * PACK_ROWS,
             hi = lo + PACK_ROWS < first + w->desc.n ? lo + PACK_ROWS : first + w->desc.n;
    if (lo < j->row) lo = j->row;
    if (hi > j->row + j->n_rows) hi = j->row + j->n_rows;
    cpu_weight packed = cpu_weight_slice(w, slice);
    const uint8_t *from = j->rows + (size_t)(lo - j->row) * w->file_row_bytes + w->file_offset;
    if (w->row_bytes == w->file_row_bytes) {
        cpu_kernels_matmul(w->set, packed.compute)->weight_pack(&packed, lo - first, hi - lo, from);
        return;
    }
    for (uint32_t r = lo; r < hi; r++, from += w->file_row_bytes)
        cpu_kernels_matmul(w->set, packed.compute)->weight_pack(&packed, r - first, 1, from);
}

static void pack_part(void *arg, uint32_t thread, uint32_t n_threads) {
    const pack_job *j = arg;
    uint32_t first = unit_of(j->w, j->row), last = unit_of(j->w, j->row + j->n_rows - 1) + 1, begin, end;
    cpu_pool_part(last - first, thread, n_threads, &begin, &end);
    for (uint32_t u = first + begin; u < first + end; u++) pack_unit(j, u);
}

static void write_vector(dev_weight *w, uint32_t row, uint32_t n_rows, const uint8_t *rows) {
    const dtype_info *t = dtype_find(w->desc.type);
    for (uint32_t r = 0; r < n_rows; r++)
        t->decode(rows + r * w->file_row_bytes + w->file_offset, w->vector + (size_t)(row + r) * w->desc.k, w->desc.k);
}

/* An adopted embedding is copied before its first change: the mapping is not ours to write. */
static fl_status write_rows(dev_weight *w, uint32_t row, uint32_t n_rows, const uint8_t *rows, fl_err *err) {
    if (!w->own_rows) {
        w->own_rows = base_alloc_aligned(w->desc.n * w->row_bytes);
        if (!w->own_rows) return fl_fail(err, FL_ENOMEM, "weight %s: no memory", w->desc.name);
        if (w->rows) memcpy(w->own_rows, w->rows, w->desc.n * w->row_bytes);
        w->rows = w->own_rows;
    }
    for (uint32_t r = 0; r < n_rows; r++)
        memcpy(w->own_rows + (size_t)(row + r) * w->row_bytes, rows + r * w->file_row_bytes + w->file_offset,
               w->row_bytes);
    return FL_OK;
}

static fl_status write_weight(cpu_dev *d, dev_weight *w, uint32_t row, uint32_t n_rows, const void *rows, bool adopt,
                              fl_err *err) {
    const uint32_t all = w->desc.n * cpu_weight_slices(w);
    if (n_rows > all || row > all - n_rows)
        return fl_fail(err, FL_EINVAL, "weight %s has %u rows; rows %u to %u were given", w->desc.name, all, row,
                       row + n_rows);
    if (n_rows == 0) return FL_OK;
    if (w->desc.uses & GRAPH_USE_EMBED) {
        if (adopt && w->row_bytes == w->file_row_bytes) {
            base_free(w->own_rows); /* rows written before are replaced, and a later write copies again */
            w->own_rows = NULL;
            w->rows = rows;
        } else {
            fl_status st = write_rows(w, row, n_rows, rows, err);
            if (st != FL_OK) return st;
        }
    }
    if (w->vector) write_vector(w, row, n_rows, rows);
    if (w->packed.data) cpu_pool_run(d->pool, pack_part, &(pack_job){w, row, n_rows, rows});
    return FL_OK;
}

fl_status cpu_weight_write(dev *d, dev_weight *w, uint32_t row, uint32_t n_rows, const void *rows, fl_err *err) {
    return write_weight((cpu_dev *)d, w, row, n_rows, rows, false, err);
}

fl_status cpu_weight_adopt(dev *d, dev_weight *w, const void *rows, fl_err *err) {
    return write_weight((cpu_dev *)d, w, 0, w->desc.n * cpu_weight_slices(w), rows, true, err);
}
