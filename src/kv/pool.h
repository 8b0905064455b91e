/* kv/pool.h - the pages of one cache group: who holds them, and which can be found by what they hold.
 *
 * A page is in one of three states:
 *     free    nobody holds it, its content means nothing
 *     held    by `refs` sequences; with a name its content is complete and others may hold it, too
 *     cached  nobody holds it, its name still tells what it holds; oldest released first, it is taken when
 *             no page is free
 * A name is a kv_key; no two pages of a pool have the same.
 *
 * Memory: all at open. Threads: one.
 */
#ifndef KV_POOL_H
#define KV_POOL_H

#include "kv/key.h"

enum { KV_NONE = 0xffffffff };

typedef struct {
    kv_key key;
    uint32_t refs;
    uint32_t next;         /* in its bucket, while named */
    uint32_t older, newer; /* while cached */
    bool named;
} kv_page;

typedef struct {
    uint32_t n_pages, n_free, n_cached, n_buckets; /* n_buckets: a power of two */
    kv_page *pages;
    uint32_t *free;    /* stack of n_free page numbers */
    uint32_t *buckets; /* first named page of each */
    uint32_t oldest, newest;
} kv_pool;

/* shuffle_seed not 0: pages are given out in a random order. False: no memory; kv_pool_close() in any case. */
bool kv_pool_open(kv_pool *p, uint32_t n_pages, uint64_t shuffle_seed);
void kv_pool_close(kv_pool *p);

static inline uint32_t kv_pool_room(const kv_pool *p) { return p->n_free + p->n_cached; }

/* A page without a name, held once; there must be room. */
uint32_t kv_pool_take(kv_pool *p);
void kv_pool_hold(kv_pool *p, uint32_t page);
void kv_pool_drop(kv_pool *p, uint32_t page);

/* Names a held page; nothing happens when another page has the name, or this one has one. */
void kv_pool_name(kv_pool *p, uint32_t page, kv_key key);
uint32_t kv_pool_find(const kv_pool *p, kv_key key); /* KV_NONE: no page has this name */
/* Takes all names away; cached pages become free. */
void kv_pool_forget(kv_pool *p);

void kv_pool_check(const kv_pool *p);

#endif
