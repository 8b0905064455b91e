#include "kv/cache.h"

#include "base/assert.h"
#include "base/mem.h"

typedef struct {
    uint32_t first_page[KV_GROUPS_MAX], n_pages[KV_GROUPS_MAX];
    bool taken;
} seq_state;

struct kv_cache {
    uint32_t n_groups, n_seqs, table_len;
    kv_kind kind[KV_GROUPS_MAX];
    kv_pool pool[KV_GROUPS_MAX];
    seq_state *seqs;
    uint32_t *tables; /* [n_seqs][n_groups][table_len] */
    uint32_t *counts; /* of the largest pool; for kv_cache_check() */
};

static uint32_t *table_of(const kv_cache *c, uint32_t seq, uint32_t group) {
    return c->tables + ((size_t)seq * c->n_groups + group) * c->table_len;
}

static uint32_t pages_of(uint32_t n_positions) {
    return n_positions / KV_PAGE_TOKENS + (n_positions % KV_PAGE_TOKENS != 0);
}

fl_status kv_cache_open(kv_cache **out, const kv_options *o, fl_err *err) {
    *out = NULL;
    fl_assert(o->n_groups <= KV_GROUPS_MAX && o->n_seqs > 0);
    kv_cache *c = base_calloc(1, sizeof *c);
    if (!c) return fl_fail(err, FL_ENOMEM, "the cache's tables: no memory");
    c->n_groups = o->n_groups;
    c->n_seqs = o->n_seqs;
    c->table_len = pages_of(o->positions_max);
    c->seqs = base_calloc(o->n_seqs, sizeof *c->seqs);
    c->tables = base_calloc((size_t)o->n_seqs * o->n_groups, c->table_len * sizeof *c->tables);
    bool ok = c->seqs && c->tables;
    uint32_t largest = 0;
    for (uint32_t g = 0; ok && g < o->n_groups; g++) {
        c->kind[g] = o->kind[g];
        ok = kv_pool_open(&c->pool[g], o->n_pages[g], o->shuffle_seed);
        if (o->n_pages[g] > largest) largest = o->n_pages[g];
    }
    c->counts = ok ? base_calloc(largest, sizeof *c->counts) : NULL;
    if (!c->counts) {
        kv_cache_close(c);
        return fl_fail(err, FL_ENOMEM, "the cache's tables for %u requests of %u positions: no memory", o->n_seqs,
                       o->positions_max);
    }
    *out = c;
    return FL_OK;
}

void kv_cache_close(kv_cache *c) {
    if (!c) return;
    for (uint32_t g = 0; g < c->n_groups; g++) kv_pool_close(&c->pool[g]);
    base_free(c->counts);
    base_free(c->tables);
    base_free(c->seqs);
    base_free(c);
}

uint32_t kv_first_visible(kv_kind kind, uint32_t position) {
    if (kind.window && kind.chunked) return position - position % kind.window;
    return kind.window && position >= kind.window ? position - kind.window + 1 : 0;
}

uint32_t kv_pages_needed(kv_kind kind, uint32_t n_positions, uint32_t step) {
    uint32_t all = pages_of(n_positions);
    /* What is seen and a step side by side, and a page that both ends may cut. */
    uint64_t some = ((uint64_t)kind.window + step + KV_PAGE_TOKENS - 1) / KV_PAGE_TOKENS + 1;
    return kind.window && some < all ? (uint32_t)some : all;
}

uint32_t kv_cache_take_seq(kv_cache *c) {
    uint32_t seq = 0;
    while (seq < c->n_seqs && c->seqs[seq].taken) seq++;
    if (seq == c->n_seqs) return KV_NONE;
    c->seqs[seq] = (seq_state){.taken = true};
    return seq;
}

void kv_cache_drop_seq(kv_cache *c, uint32_t seq) {
    fl_assert(seq < c->n_seqs && c->seqs[seq].taken);
    seq_state *s = &c->seqs[seq];
    for (uint32_t g = 0; g < c->n_groups; g++)
        while (s->n_pages[g] > s->first_page[g]) kv_pool_drop(&c->pool[g], table_of(c, seq, g)[--s->n_pages[g]]);
    s->taken = false;
}

/* The first page that the query after n_pages pages sees. */
static uint32_t first_page_seen(kv_kind kind, uint32_t n_pages) {
    return kv_first_visible(kind, n_pages * KV_PAGE_TOKENS) / KV_PAGE_TOKENS;
}

/* The longest hit of one group not beyond `most` pages. Without page j, no hit that ends after j and sees j is
 * possible; and whatever ends between j and a hit that sees j sees it, too. */
static uint32_t longest_hit(const kv_cache *c, uint32_t group, const kv_key *keys, uint32_t most) {
    const kv_pool *p = &c->pool[group];
    if (!c->kind[group].window) {
        uint32_t n = 0;
        while (n < most && kv_pool_find(p, keys[n]) != KV_NONE) n++;
        return n;
    }
    for (uint32_t end = most, at = most; at > first_page_seen(c->kind[group], end);)
        if (kv_pool_find(p, keys[--at]) == KV_NONE) most = end = at;
    return most;
}

uint32_t kv_cache_match(kv_cache *c, uint32_t seq, const kv_key *keys, uint32_t n_keys) {
    seq_state *s = &c->seqs[seq];
    uint32_t n = n_keys, before;
    fl_assert(s->taken && n_keys <= c->table_len);
    do {
        before = n;
        for (uint32_t g = 0; g < c->n_groups; g++) n = longest_hit(c, g, keys, n);
    } while (n < before);
    for (uint32_t g = 0; g < c->n_groups; g++) {
        fl_assert(s->n_pages[g] == 0);
        s->first_page[g] = first_page_seen(c->kind[g], n);
        s->n_pages[g] = n;
        for (uint32_t i = s->first_page[g]; i < n; i++) {
            uint32_t page = kv_pool_find(&c->pool[g], keys[i]);
            kv_pool_hold(&c->pool[g], page);
            table_of(c, seq, g)[i] = page;
        }
    }
    return n * KV_PAGE_TOKENS;
}

uint32_t kv_cache_lacks(const kv_cache *c, uint32_t seq, uint32_t group, uint32_t n, uint32_t step) {
    const seq_state *s = &c->seqs[seq];
    uint32_t need = kv_pages_needed(c->kind[group], n, step), held = s->n_pages[group] - s->first_page[group];
    return need > held ? need - held : 0;
}

uint32_t kv_cache_reach(const kv_cache *c, uint32_t seq, uint32_t n) {
    for (uint32_t g = 0; g < c->n_groups; g++) {
        uint64_t reach = ((uint64_t)c->seqs[seq].n_pages[g] + kv_pool_room(&c->pool[g])) * KV_PAGE_TOKENS;
        if (reach < n) n = (uint32_t)reach;
    }
    return n;
}

void kv_cache_extend(kv_cache *c, uint32_t seq, uint32_t n) {
    seq_state *s = &c->seqs[seq];
    uint32_t want = pages_of(n);
    fl_assert(s->taken && want <= c->table_len);
    for (uint32_t g = 0; g < c->n_groups; g++)
        while (s->n_pages[g] < want) table_of(c, seq, g)[s->n_pages[g]++] = kv_pool_take(&c->pool[g]);
}

void kv_cache_slide(kv_cache *c, uint32_t seq, uint32_t position) {
    seq_state *s = &c->seqs[seq];
    fl_assert(s->taken);
    for (uint32_t g = 0; g < c->n_groups; g++) {
        uint32_t first = kv_first_visible(c->kind[g], position) / KV_PAGE_TOKENS;
        while (s->first_page[g] < first && s->first_page[g] < s->n_pages[g])
            kv_pool_drop(&c->pool[g], table_of(c, seq, g)[s->first_page[g]++]);
    }
}

void kv_cache_name(kv_cache *c, uint32_t seq, uint32_t index, kv_key key) {
    const seq_state *s = &c->seqs[seq];
    fl_assert(s->taken);
    for (uint32_t g = 0; g < c->n_groups; g++)
        if (index >= s->first_page[g] && index < s->n_pages[g])
            kv_pool_name(&c->pool[g], table_of(c, seq, g)[index], key);
}

void kv_cache_forget(kv_cache *c) {
    for (uint32_t g = 0; g < c->n_groups; g++) kv_pool_forget(&c->pool[g]);
}

const uint32_t *kv_cache_table(const kv_cache *c, uint32_t seq, uint32_t group) { return table_of(c, seq, group); }
uint32_t kv_cache_n_groups(const kv_cache *c) { return c->n_groups; }
uint32_t kv_cache_room(const kv_cache *c, uint32_t group) { return kv_pool_room(&c->pool[group]); }
uint32_t kv_cache_cached(const kv_cache *c, uint32_t group) { return c->pool[group].n_cached; }

void kv_cache_check(const kv_cache *c) {
    for (uint32_t g = 0; g < c->n_groups; g++) {
        const kv_pool *p = &c->pool[g];
        kv_pool_check(p);
        for (uint32_t i = 0; i < p->n_pages; i++) c->counts[i] = 0;
        for (uint32_t s = 0; s < c->n_seqs; s++) {
            const seq_state *q = &c->seqs[s];
            if (!q->taken) continue;
            fl_assert(q->first_page[g] <= q->n_pages[g] && q->n_pages[g] <= c->table_len);
            for (uint32_t i = q->first_page[g]; i < q->n_pages[g]; i++) {
                fl_assert(table_of(c, s, g)[i] < p->n_pages);
                c->counts[table_of(c, s, g)[i]]++;
            }
        }
        for (uint32_t i = 0; i < p->n_pages; i++) fl_assert(c->counts[i] == p->pages[i].refs);
    }
}
