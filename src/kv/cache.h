/* kv/cache.h - which cache pages belong to which sequence.
 *
 * Layers whose keys stay visible equally long form a cache group (full layers, sliding
 * layers). A page holds 32 positions of one sequence for all layers of one group; to
 * this module it is a number. Each sequence has one page table per group: entry p is
 * the page of positions 32 p to 32 p + 31.
 *
 * Invariants (kv_cache_check()): each page of a group is free or in exactly one table; a
 * table holds pages for [first_page, n_pages) and nothing else counts; no sequence holds more
 * pages than were set aside for it, and no more are set aside than there are.
 *
 * Pages that a sliding group no longer sees are given back early. Their numbers stay in
 * the table: a step that was launched before may still read them, and steps run in the
 * order of their launch, so the next owner writes only after it.
 *
 * Threads: none; the engine's thread owns it. Memory: all at open; later calls allocate nothing.
 * Source:  paging after Kwon et al., "PagedAttention", SOSP 2023.
 */
#ifndef KV_CACHE_H
#define KV_CACHE_H

#include "fl_err.h"

#include <stdbool.h>
#include <stdint.h>

enum { KV_PAGE_TOKENS = 32, KV_GROUPS_MAX = 8, KV_NONE = 0xffffffff };

typedef struct kv_cache kv_cache;

typedef struct {
    uint32_t n_groups;
    uint32_t window[KV_GROUPS_MAX]; /* 0: all earlier positions are visible */
    uint32_t n_pages[KV_GROUPS_MAX];
    uint32_t n_seqs;        /* sequences at once */
    uint32_t positions_max; /* of one sequence */
    uint64_t shuffle_seed;  /* not 0: pages are given out in a random order */
} kv_options;

/* The caller owns *out: kv_cache_close(). Errors: FL_ENOMEM. */
FL_CHECKED fl_status kv_cache_open(kv_cache **out, const kv_options *o, fl_err *err);
void kv_cache_close(kv_cache *c);

/* Pages that a sequence of n positions needs in a group, when at most `step` positions are added at once. */
uint32_t kv_cache_pages_needed(uint32_t window, uint32_t n_positions, uint32_t step);

/* A sequence without pages, [0, n_seqs), for which pages for n_positions are set aside in every group; KV_NONE when all
 * sequences are taken or the pages are promised to others. */
uint32_t kv_cache_take_seq(kv_cache *c, uint32_t n_positions, uint32_t step);
void kv_cache_drop_seq(kv_cache *c, uint32_t seq);

/* Makes room for positions [0, n), n within what was set aside. */
void kv_cache_extend(kv_cache *c, uint32_t seq, uint32_t n);
/* Says that the next query of the sequence stands at `position`: sliding groups give back what it cannot see. */
void kv_cache_slide(kv_cache *c, uint32_t seq, uint32_t position);

const uint32_t *kv_cache_table(const kv_cache *c, uint32_t seq, uint32_t group);
uint32_t kv_cache_free_pages(const kv_cache *c, uint32_t group);
void kv_cache_check(const kv_cache *c);

#endif
