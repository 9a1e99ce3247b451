// SPDX-License-Identifier: GPL-2.0-or-later
#include "dataplane/fib_oracle.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS 65536u

struct oracle {
	unsigned int addr_len;
	size_t count;
	size_t of_len[129]; /* entries of each length */
	struct oracle_entry *buckets[BUCKETS];
};

static void *must(void *p)
{
	if (!p)
		abort();
	return p;
}

struct oracle *oracle_create(unsigned int addr_len)
{
	struct oracle *oracle = must(calloc(1, sizeof(*oracle)));

	oracle->addr_len = addr_len;
	return oracle;
}

void oracle_destroy(struct oracle *oracle)
{
	for (unsigned int i = 0; i < BUCKETS; i++) {
		while (oracle->buckets[i]) {
			struct oracle_entry *next = oracle->buckets[i]->next;
			free(oracle->buckets[i]);
			oracle->buckets[i] = next;
		}
	}
	free(oracle);
}

void oracle_mask(uint8_t to[16], const void *from, unsigned int addr_len, unsigned int len)
{
	const uint8_t *bytes = from;

	memset(to, 0, 16);
	for (unsigned int bit = 0; bit < len && bit < addr_len; bit++)
		to[bit / 8] |= bytes[bit / 8] & (0x80 >> bit % 8);
}

static struct oracle_entry **find(const struct oracle *oracle, const void *addr, unsigned int len)
{
	uint8_t masked[16];
	uint32_t hash = len * 2654435761u;

	oracle_mask(masked, addr, oracle->addr_len, len);
	for (int i = 0; i < 16; i++)
		hash = (hash ^ masked[i]) * 16777619u;
	struct oracle_entry *const *link = &oracle->buckets[(hash ^ hash >> 16) % BUCKETS];
	while (*link && ((*link)->len != len || memcmp((*link)->addr, masked, 16) != 0))
		link = &(*link)->next;
	return (struct oracle_entry **)link;
}

void oracle_insert(
	struct oracle *oracle, const void *addr, unsigned int len, uint32_t id, uint32_t *old)
{
	struct oracle_entry **link = find(oracle, addr, len);

	if (*link) {
		*old = (*link)->id;
		(*link)->id = id;
		return;
	}
	*old = FIB_NO_ROUTE;
	struct oracle_entry *entry = must(calloc(1, sizeof(*entry)));
	oracle_mask(entry->addr, addr, oracle->addr_len, len);
	entry->len = len;
	entry->id = id;
	*link = entry;
	oracle->count++;
	oracle->of_len[len]++;
}

int oracle_remove(struct oracle *oracle, const void *addr, unsigned int len, uint32_t *old)
{
	struct oracle_entry **link = find(oracle, addr, len);
	struct oracle_entry *entry = *link;

	if (!entry)
		return ENOENT;
	*old = entry->id;
	*link = entry->next;
	free(entry);
	oracle->count--;
	oracle->of_len[len]--;
	return 0;
}

int oracle_get(const struct oracle *oracle, const void *addr, unsigned int len, uint32_t *id)
{
	const struct oracle_entry *entry = *find(oracle, addr, len);

	if (!entry)
		return ENOENT;
	*id = entry->id;
	return 0;
}

uint32_t oracle_lookup(const struct oracle *oracle, const void *addr)
{
	for (unsigned int i = 0; i <= oracle->addr_len; i++) {
		unsigned int len = oracle->addr_len - i;
		uint32_t id;
		if (oracle->of_len[len] > 0 && oracle_get(oracle, addr, len, &id) == 0)
			return id;
	}
	return FIB_NO_ROUTE;
}

size_t oracle_count(const struct oracle *oracle)
{
	return oracle->count;
}

static int compare(const void *a, const void *b)
{
	const struct oracle_entry *x = a, *y = b;
	int order = memcmp(x->addr, y->addr, 16);

	return order ? order : (int)x->len - (int)y->len;
}

struct oracle_entry *oracle_sorted(const struct oracle *oracle)
{
	struct oracle_entry *all = must(calloc(oracle->count + 1, sizeof(*all)));
	size_t n = 0;

	for (unsigned int i = 0; i < BUCKETS; i++)
		for (const struct oracle_entry *e = oracle->buckets[i]; e; e = e->next)
			all[n++] = *e;
	qsort(all, n, sizeof(*all), compare);
	return all;
}
