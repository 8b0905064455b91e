/* base/map.h - a hash map from byte strings to 32-bit numbers, for names and vocabularies.
 *
 * Open addressing, linear probing, at most half full. Keys are borrowed: the
 * bytes must outlive the map. The hash is seeded per map, so that a hostile file
 * cannot prepare collisions.
 */
#ifndef BASE_MAP_H
#define BASE_MAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct base_map_slot base_map_slot;

typedef struct {
    base_map_slot *slots; /* owned */
    uint32_t n_slots;     /* a power of two, or 0 */
    uint32_t count;
    uint64_t seed;
} base_map;

enum { BASE_MAP_NONE = 0xffffffff };

/* Makes room for n_keys; later inserts up to there do not allocate. False without memory. */
bool base_map_init(base_map *m, uint32_t n_keys);
void base_map_clear(base_map *m);

/* Adds key -> value unless the key is there; *found gets the value that holds now (found may be
 * NULL). value must not be BASE_MAP_NONE. False without memory. */
bool base_map_insert(base_map *m, const char *key, size_t len, uint32_t value, uint32_t *found);

/* The value of the key, or BASE_MAP_NONE. */
uint32_t base_map_find(const base_map *m, const char *key, size_t len);

/* The hash used above: 64 bits of n bytes under a seed. */
uint64_t base_hash(uint64_t seed, const void *bytes, size_t n);

#endif
