/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/bgp/prefix_map.h"

#define MIN_BUCKETS 64

/* FNV-1a with a final mix: prefixes differ in few bits. */
static uint32_t hash_of(const struct ep_prefix *prefix)
{
	size_t n = prefix->family == AF_INET6 ? 16 : 4;
	uint32_t hash = 2166136261u;

	hash = (hash ^ prefix->family) * 16777619u;
	hash = (hash ^ prefix->len) * 16777619u;
	for (size_t i = 0; i < n; i++)
		hash = (hash ^ prefix->addr.bytes[i]) * 16777619u;
	hash ^= hash >> 15;
	hash *= 0x85ebca6bu;
	return hash ^ hash >> 13;
}

static bool same(const struct ep_prefix *a, const struct ep_prefix *b)
{
	return a->family == b->family && a->len == b->len &&
	       !memcmp(&a->addr, &b->addr, a->family == AF_INET6 ? 16 : 4);
}

static int resize(struct prefix_map *map, size_t n_buckets)
{
	struct prefix_entry **buckets = calloc(n_buckets, sizeof(struct prefix_entry *));

	if (!buckets)
		return ENOMEM;
	for (size_t i = 0; i < map->n_buckets; i++) {
		struct prefix_entry *entry = map->buckets[i], *next;

		for (; entry; entry = next) {
			struct prefix_entry **head = &buckets[entry->hash & (n_buckets - 1)];

			next = entry->next;
			entry->next = *head;
			*head = entry;
		}
	}
	free(map->buckets);
	map->buckets = buckets;
	map->n_buckets = n_buckets;
	return 0;
}

struct prefix_entry *prefix_map_find(const struct prefix_map *map, const struct ep_prefix *prefix)
{
	uint32_t hash = hash_of(prefix);

	if (!map->n_buckets)
		return NULL;
	for (struct prefix_entry *entry = map->buckets[hash & (map->n_buckets - 1)]; entry;
		entry = entry->next)
		if (entry->hash == hash && same(&entry->prefix, prefix))
			return entry;
	return NULL;
}

int prefix_map_add(struct prefix_map *map, struct prefix_entry *entry)
{
	struct prefix_entry **head;

	/* A table that can't grow gets slower, not wrong. */
	if (map->n >= map->n_buckets &&
		resize(map, map->n_buckets ? map->n_buckets * 2 : MIN_BUCKETS) && !map->n_buckets)
		return ENOMEM;
	entry->hash = hash_of(&entry->prefix);
	head = &map->buckets[entry->hash & (map->n_buckets - 1)];
	entry->next = *head;
	*head = entry;
	map->n++;
	return 0;
}

void prefix_map_remove(struct prefix_map *map, struct prefix_entry *entry)
{
	struct prefix_entry **at = &map->buckets[entry->hash & (map->n_buckets - 1)];

	while (*at != entry)
		at = &(*at)->next;
	*at = entry->next;
	map->n--;
	if (map->n_buckets > MIN_BUCKETS && map->n < map->n_buckets / 8)
		resize(map, map->n_buckets / 2);
}

void prefix_map_each(
	struct prefix_map *map, void (*fn)(void *ctx, struct prefix_entry *entry), void *ctx)
{
	size_t n = 0, n_entries = map->n;
	struct prefix_entry **all = malloc((n_entries + 1) * sizeof(struct prefix_entry *));

	/* Over a copy: removing an entry may resize the table. */
	if (!all)
		abort();
	for (size_t i = 0; i < map->n_buckets; i++)
		for (struct prefix_entry *entry = map->buckets[i]; entry; entry = entry->next)
			all[n++] = entry;
	for (size_t i = 0; i < n; i++)
		fn(ctx, all[i]);
	free(all);
}

void prefix_map_clear(struct prefix_map *map)
{
	free(map->buckets);
	memset(map, 0, sizeof(*map));
}
