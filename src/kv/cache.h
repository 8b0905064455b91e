/* kv/cache.h - which cache pages belong to which sequence, and which prefixes are there already.
 *
 * Layers whose keys stay visible equally long form a cache group: full layers, sliding or chunked ones. A page
 * holds 32 positions of one sequence for all layers of one group; to this module it is a number. Each sequence has one
 * page table per group: entry p is the page of positions 32 p to 32 p + 31.
 *
 * Prefix caching. A full page whose content is known to be right is named by a chained hash of all tokens up to its
 * end (kv/key.h). A sequence that begins with the same tokens holds the same pages; nobody writes them again. What a
 * hit needs depends on the group: full layers need every page from the start, sliding and chunked ones those that the
 * next query sees. So the second turn of a chat finds its first one in every kind of layer. Pages that nobody holds keep their
 * names until they are needed, those released longest ago first; of one sequence the deepest first.
 *
 * Invariants (kv_cache_check()): a page's count of holders is the number of table entries that name it; a
 * table counts for [first_page, n_pages); the pools' own (kv/pool.h).
 *
 * Pages that a group no longer sees are given back early. Their numbers stay in the table: a step that was
 * launched before may still read them, and steps run in the order of their launch, so the next owner writes only
 * after it. The same makes it safe to drop a sequence whose steps are still in flight.
 *
 * Threads: none; the engine's thread owns it. Memory: all at open; later calls allocate nothing.
 * Source:  paging after Kwon et al., "PagedAttention", SOSP 2023; hits of mixed kinds after vLLM's hybrid cache manager.
 */
#ifndef KV_CACHE_H
#define KV_CACHE_H

#include "fl_err.h"
#include "kv/key.h"
#include "kv/pool.h"

enum { KV_GROUPS_MAX = 8 };

typedef struct kv_cache kv_cache;

/* What a query at position q sees: with window 0 all keys; with a window W those with q - k < W, or if `chunked` those of
 * the same W positions, k / W = q / W. */
typedef struct {
    uint32_t window;
    bool chunked;
} kv_kind;

typedef struct {
    uint32_t n_groups;
    kv_kind kind[KV_GROUPS_MAX];
    uint32_t n_pages[KV_GROUPS_MAX];
    uint32_t n_seqs;        /* sequences at once */
    uint32_t positions_max; /* of one sequence */
    uint64_t shuffle_seed;  /* not 0: pages are given out in a random order */
} kv_options;

/* The caller owns *out: kv_cache_close(). Errors: FL_ENOMEM. */
FL_CHECKED fl_status kv_cache_open(kv_cache **out, const kv_options *o, fl_err *err);
void kv_cache_close(kv_cache *c);

/* The first key that a query at `position` sees. */
uint32_t kv_first_visible(kv_kind kind, uint32_t position);
/* Most pages that a sequence of n positions holds at once, when at most `step` positions are added at a time. */
uint32_t kv_pages_needed(kv_kind kind, uint32_t n_positions, uint32_t step);

/* A sequence without pages, [0, n_seqs); KV_NONE when all are taken. */
uint32_t kv_cache_take_seq(kv_cache *c);
void kv_cache_drop_seq(kv_cache *c, uint32_t seq);

/* Holds the longest cached prefix of the pages named keys[0..n_keys) for a sequence without pages. The number of positions
 * that need not be computed, a multiple of 32. */
uint32_t kv_cache_match(kv_cache *c, uint32_t seq, const kv_key *keys, uint32_t n_keys);

/* Pages that the sequence still needs in a group to come to hold n positions, at most `step` added at a time. */
uint32_t kv_cache_lacks(const kv_cache *c, uint32_t seq, uint32_t group, uint32_t n, uint32_t step);
/* The most positions, at most n, that the sequence can be extended to now. */
uint32_t kv_cache_reach(const kv_cache *c, uint32_t seq, uint32_t n);
/* Makes room for positions [0, n), n within kv_cache_reach(). */
void kv_cache_extend(kv_cache *c, uint32_t seq, uint32_t n);
/* Says that the next query of the sequence stands at `position`: groups give back what it cannot see. */
void kv_cache_slide(kv_cache *c, uint32_t seq, uint32_t position);

/* Page `index` of the sequence is complete and right: others may find it by this name. */
void kv_cache_name(kv_cache *c, uint32_t seq, uint32_t index, kv_key key);
/* No page is found any more: the weights have changed. */
void kv_cache_forget(kv_cache *c);

const uint32_t *kv_cache_table(const kv_cache *c, uint32_t seq, uint32_t group);
uint32_t kv_cache_n_groups(const kv_cache *c);
/* Pages that nobody holds, cached ones included. */
uint32_t kv_cache_room(const kv_cache *c, uint32_t group);
uint32_t kv_cache_cached(const kv_cache *c, uint32_t group);
void kv_cache_check(const kv_cache *c);

#endif
