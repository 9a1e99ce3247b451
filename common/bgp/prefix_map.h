/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_PREFIX_MAP_H
#define EDGEPLEX_PREFIX_MAP_H

/*
 * A hash of prefixes, for entries that embed `struct prefix_entry` as their first member.
 * Not thread-safe.
 */

#include <stddef.h>
#include <stdint.h>

#include "common/prefix.h"

struct prefix_entry {
	struct prefix_entry *next; /* in its bucket */
	uint32_t hash;
	struct ep_prefix prefix; /* bits beyond its family's address are zero */
};

struct prefix_map {
	struct prefix_entry **buckets;
	size_t n_buckets; /* a power of two, or 0 */
	size_t n;
};

/* The entry, or NULL. */
struct prefix_entry *prefix_map_find(const struct prefix_map *map, const struct ep_prefix *prefix);

/* Adds an entry whose `prefix` is set and isn't in the map. Returns 0 or ENOMEM. */
int prefix_map_add(struct prefix_map *map, struct prefix_entry *entry);

void prefix_map_remove(struct prefix_map *map, struct prefix_entry *entry);

/* Calls `fn` for every entry. It may remove (and free) the entry that it was called for. */
void prefix_map_each(
	struct prefix_map *map, void (*fn)(void *ctx, struct prefix_entry *entry), void *ctx);

/* Frees the table itself, not the entries. */
void prefix_map_clear(struct prefix_map *map);

#endif
