#include "kv/pool.h"

#include "base/assert.h"
#include "base/mem.h"

static uint64_t next_random(uint64_t *s) {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

bool kv_pool_open(kv_pool *p, uint32_t n_pages, uint64_t shuffle_seed) {
    *p = (kv_pool){.n_pages = n_pages, .n_free = n_pages, .n_buckets = 1, .oldest = KV_NONE, .newest = KV_NONE};
    while (p->n_buckets < n_pages) p->n_buckets *= 2;
    p->pages = base_calloc(n_pages, sizeof *p->pages);
    p->free = base_calloc(n_pages, sizeof *p->free);
    p->buckets = base_calloc(p->n_buckets, sizeof *p->buckets);
    if (!p->pages || !p->free || !p->buckets) return false;
    for (uint32_t i = 0; i < p->n_buckets; i++) p->buckets[i] = KV_NONE;
    for (uint32_t i = 0; i < n_pages; i++) p->free[i] = n_pages - 1 - i;
    for (uint32_t i = n_pages; shuffle_seed && i > 1; i--) {
        uint32_t j = (uint32_t)(next_random(&shuffle_seed) % i), t = p->free[j];
        p->free[j] = p->free[i - 1];
        p->free[i - 1] = t;
    }
    return true;
}

void kv_pool_close(kv_pool *p) {
    base_free(p->pages);
    base_free(p->free);
    base_free(p->buckets);
}

static uint32_t *bucket_of(const kv_pool *p, kv_key key) { return &p->buckets[key.a & (p->n_buckets - 1)]; }

static void unname(kv_pool *p, uint32_t page) {
    uint32_t *at = bucket_of(p, p->pages[page].key);
    while (*at != page) at = &p->pages[*at].next;
    *at = p->pages[page].next;
    p->pages[page].named = false;
}

/* Out of the list of cached pages. */
static void unlink_cached(kv_pool *p, uint32_t page) {
    kv_page *g = &p->pages[page];
    *(g->older == KV_NONE ? &p->oldest : &p->pages[g->older].newer) = g->newer;
    *(g->newer == KV_NONE ? &p->newest : &p->pages[g->newer].older) = g->older;
    p->n_cached--;
}

static void link_newest(kv_pool *p, uint32_t page) {
    p->pages[page].older = p->newest;
    p->pages[page].newer = KV_NONE;
    *(p->newest == KV_NONE ? &p->oldest : &p->pages[p->newest].newer) = page;
    p->newest = page;
    p->n_cached++;
}

uint32_t kv_pool_take(kv_pool *p) {
    fl_assert(kv_pool_room(p) > 0);
    uint32_t page = p->oldest;
    if (p->n_free) {
        page = p->free[--p->n_free];
    } else {
        unlink_cached(p, page);
        unname(p, page);
    }
    p->pages[page].refs = 1;
    return page;
}

void kv_pool_hold(kv_pool *p, uint32_t page) {
    fl_assert(page < p->n_pages && (p->pages[page].refs > 0 || p->pages[page].named));
    if (p->pages[page].refs++ == 0) unlink_cached(p, page);
}

void kv_pool_drop(kv_pool *p, uint32_t page) {
    fl_assert(page < p->n_pages && p->pages[page].refs > 0);
    if (--p->pages[page].refs > 0) return;
    if (p->pages[page].named)
        link_newest(p, page);
    else
        p->free[p->n_free++] = page;
}

uint32_t kv_pool_find(const kv_pool *p, kv_key key) {
    uint32_t page = *bucket_of(p, key);
    while (page != KV_NONE && !kv_key_equal(p->pages[page].key, key)) page = p->pages[page].next;
    return page;
}

void kv_pool_name(kv_pool *p, uint32_t page, kv_key key) {
    kv_page *g = &p->pages[page];
    fl_assert(page < p->n_pages && g->refs > 0);
    if (g->named || kv_pool_find(p, key) != KV_NONE) return;
    uint32_t *bucket = bucket_of(p, key);
    g->key = key;
    g->named = true;
    g->next = *bucket;
    *bucket = page;
}

void kv_pool_forget(kv_pool *p) {
    while (p->oldest != KV_NONE) {
        uint32_t page = p->oldest;
        unlink_cached(p, page);
        p->free[p->n_free++] = page;
    }
    for (uint32_t i = 0; i < p->n_pages; i++) p->pages[i].named = false;
    for (uint32_t i = 0; i < p->n_buckets; i++) p->buckets[i] = KV_NONE;
}

void kv_pool_check(const kv_pool *p) {
    uint32_t n_held = 0, n_cached = 0, n_named = 0, n_found = 0;
    for (uint32_t i = 0; i < p->n_pages; i++) {
        n_held += p->pages[i].refs > 0;
        n_named += p->pages[i].named;
    }
    for (uint32_t i = p->oldest, before = KV_NONE; i != KV_NONE; before = i, i = p->pages[i].newer, n_cached++) {
        fl_assert(p->pages[i].refs == 0 && p->pages[i].named && p->pages[i].older == before);
        fl_assert(p->pages[i].newer != KV_NONE || p->newest == i);
    }
    for (uint32_t i = 0; i < p->n_free; i++)
        fl_assert(p->free[i] < p->n_pages && p->pages[p->free[i]].refs == 0 && !p->pages[p->free[i]].named);
    for (uint32_t b = 0; b < p->n_buckets; b++)
        for (uint32_t i = p->buckets[b]; i != KV_NONE; i = p->pages[i].next, n_found++)
            fl_assert(p->pages[i].named && kv_pool_find(p, p->pages[i].key) == i);
    fl_assert(n_cached == p->n_cached && n_found == n_named);
    fl_assert(n_held + p->n_free + p->n_cached == p->n_pages);
}
