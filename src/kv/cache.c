#include "kv/cache.h"

#include "base/assert.h"
#include "base/mem.h"

#include <string.h>

typedef struct {
    uint32_t *free; /* stack of free pages */
    uint32_t n_free, n_pages, window;
    uint32_t n_promised; /* pages set aside for sequences, taken or not */
} page_pool;

typedef struct {
    uint32_t first_page[KV_GROUPS_MAX], n_pages[KV_GROUPS_MAX], promised[KV_GROUPS_MAX];
    bool taken;
} seq_state;

struct kv_cache {
    uint32_t n_groups, n_seqs, table_len;
    page_pool pool[KV_GROUPS_MAX];
    seq_state *seqs;
    uint32_t *tables; /* [n_seqs][n_groups][table_len] */
};

static uint32_t *table_of(const kv_cache *c, uint32_t seq, uint32_t group) {
    return c->tables + ((size_t)seq * c->n_groups + group) * c->table_len;
}

static uint64_t next_random(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static bool open_pool(page_pool *p, const kv_options *o, uint32_t group) {
    p->n_pages = p->n_free = o->n_pages[group];
    p->window = o->window[group];
    p->free = base_calloc(p->n_pages, sizeof *p->free);
    if (!p->free) return false;
    for (uint32_t i = 0; i < p->n_pages; i++) p->free[i] = p->n_pages - 1 - i;
    uint64_t s = o->shuffle_seed;
    for (uint32_t i = p->n_pages; s && i > 1; i--) {
        uint32_t j = (uint32_t)(next_random(&s) % i), t = p->free[j];
        p->free[j] = p->free[i - 1];
        p->free[i - 1] = t;
    }
    return true;
}

fl_status kv_cache_open(kv_cache **out, const kv_options *o, fl_err *err) {
    *out = NULL;
    fl_assert(o->n_groups <= KV_GROUPS_MAX && o->n_seqs > 0);
    kv_cache *c = base_calloc(1, sizeof *c);
    if (!c) return fl_fail(err, FL_ENOMEM, "the cache's tables: no memory");
    c->n_groups = o->n_groups;
    c->n_seqs = o->n_seqs;
    c->table_len = (o->positions_max + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    c->seqs = base_calloc(o->n_seqs, sizeof *c->seqs);
    c->tables = base_calloc((size_t)o->n_seqs * o->n_groups, c->table_len * sizeof *c->tables);
    bool ok = c->seqs && c->tables;
    for (uint32_t g = 0; ok && g < o->n_groups; g++) ok = open_pool(&c->pool[g], o, g);
    if (!ok) {
        kv_cache_close(c);
        return fl_fail(err, FL_ENOMEM, "the cache's tables for %u requests of %u positions: no memory", o->n_seqs,
                       o->positions_max);
    }
    *out = c;
    return FL_OK;
}

void kv_cache_close(kv_cache *c) {
    if (!c) return;
    for (uint32_t g = 0; g < c->n_groups; g++) base_free(c->pool[g].free);
    base_free(c->tables);
    base_free(c->seqs);
    base_free(c);
}

uint32_t kv_cache_pages_needed(uint32_t window, uint32_t n_positions, uint32_t step) {
    uint64_t all = ((uint64_t)n_positions + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    /* A window and a step side by side, and a page that both ends may cut. */
    uint64_t some = ((uint64_t)window + step + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS + 1;
    return (uint32_t)(window && some < all ? some : all);
}

uint32_t kv_cache_take_seq(kv_cache *c, uint32_t n_positions, uint32_t step) {
    uint32_t seq = 0;
    while (seq < c->n_seqs && c->seqs[seq].taken) seq++;
    if (seq == c->n_seqs) return KV_NONE;
    seq_state s = {.taken = true};
    for (uint32_t g = 0; g < c->n_groups; g++) {
        s.promised[g] = kv_cache_pages_needed(c->pool[g].window, n_positions, step);
        if (s.promised[g] > c->pool[g].n_pages - c->pool[g].n_promised) return KV_NONE;
    }
    for (uint32_t g = 0; g < c->n_groups; g++) c->pool[g].n_promised += s.promised[g];
    c->seqs[seq] = s;
    return seq;
}

static void give_back(kv_cache *c, uint32_t seq, uint32_t group, uint32_t until) {
    seq_state *s = &c->seqs[seq];
    page_pool *p = &c->pool[group];
    for (; s->first_page[group] < until && s->first_page[group] < s->n_pages[group]; s->first_page[group]++)
        p->free[p->n_free++] = table_of(c, seq, group)[s->first_page[group]];
}

void kv_cache_drop_seq(kv_cache *c, uint32_t seq) {
    fl_assert(seq < c->n_seqs && c->seqs[seq].taken);
    for (uint32_t g = 0; g < c->n_groups; g++) {
        give_back(c, seq, g, UINT32_MAX);
        c->pool[g].n_promised -= c->seqs[seq].promised[g];
    }
    c->seqs[seq].taken = false;
}

void kv_cache_extend(kv_cache *c, uint32_t seq, uint32_t n) {
    seq_state *s = &c->seqs[seq];
    uint32_t want = (n + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS;
    fl_assert(s->taken && want <= c->table_len);
    for (uint32_t g = 0; g < c->n_groups; g++)
        while (s->n_pages[g] < want) {
            fl_assert(s->n_pages[g] - s->first_page[g] < s->promised[g] && c->pool[g].n_free > 0);
            table_of(c, seq, g)[s->n_pages[g]++] = c->pool[g].free[--c->pool[g].n_free];
        }
}

void kv_cache_slide(kv_cache *c, uint32_t seq, uint32_t position) {
    fl_assert(c->seqs[seq].taken);
    for (uint32_t g = 0; g < c->n_groups; g++) {
        uint32_t w = c->pool[g].window;
        if (w && position + 1 > w) give_back(c, seq, g, (position + 1 - w) / KV_PAGE_TOKENS);
    }
}

const uint32_t *kv_cache_table(const kv_cache *c, uint32_t seq, uint32_t group) { return table_of(c, seq, group); }
uint32_t kv_cache_free_pages(const kv_cache *c, uint32_t group) { return c->pool[group].n_free; }

void kv_cache_check(const kv_cache *c) {
    for (uint32_t g = 0; g < c->n_groups; g++) {
        const page_pool *p = &c->pool[g];
        uint64_t held = 0, promised = 0,
                 sum = 0; /* count and sum of page numbers prove a partition together with the bounds */
        for (uint32_t i = 0; i < p->n_free; i++) sum += p->free[i];
        for (uint32_t s = 0; s < c->n_seqs; s++) {
            const seq_state *q = &c->seqs[s];
            if (!q->taken) continue;
            fl_assert(q->first_page[g] <= q->n_pages[g] && q->n_pages[g] <= c->table_len);
            fl_assert(q->n_pages[g] - q->first_page[g] <= q->promised[g]);
            promised += q->promised[g];
            for (uint32_t i = q->first_page[g]; i < q->n_pages[g]; i++, held++) {
                fl_assert(table_of(c, s, g)[i] < p->n_pages);
                sum += table_of(c, s, g)[i];
            }
        }
        fl_assert(held + p->n_free == p->n_pages);
        fl_assert(promised == p->n_promised && promised <= p->n_pages);
        fl_assert(sum == (uint64_t)p->n_pages * (p->n_pages - (p->n_pages > 0)) / 2);
    }
}
