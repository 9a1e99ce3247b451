/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/nexthop.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "dataplane/fib.h"
#include "dataplane/iface.h"

#define BUCKETS 4096u /* power of two */
#define SLOTS_BYTES ((NH_GROUP_MAX + 1ul) * sizeof(struct nh_group *))

struct retired_group {
	uint64_t ticket;
	struct nh_group *group;
	struct retired_group *next;
};

struct nh_table {
	struct fib_domain *domain;
	struct nh_group **slots; /* by number; address space only, pages are taken when used */
	uint32_t top;            /* numbers below have been used */
	uint32_t *free_ids;
	size_t n_free, free_size;
	uint32_t buckets[BUCKETS];
	struct retired_group *first_retired, **last_retired;
};

struct nh_table *nh_table_create(struct fib_domain *domain)
{
	struct nh_table *table = calloc(1, sizeof(*table));

	if (!table)
		return NULL;
	table->slots = mmap(NULL, SLOTS_BYTES, PROT_READ | PROT_WRITE,
		// cppcheck-suppress invalidFunctionArg ; no file behind anonymous memory
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (table->slots == MAP_FAILED) {
		free(table);
		return NULL;
	}
	table->domain = domain;
	table->top = 1;
	table->last_retired = &table->first_retired;
	return table;
}

void nh_table_destroy(struct nh_table *table)
{
	struct retired_group *r, *next;

	if (!table)
		return;
	for (uint32_t id = 1; id < table->top; id++)
		free(table->slots[id]);
	for (r = table->first_retired; r; r = next) {
		next = r->next;
		free(r);
	}
	munmap(table->slots, SLOTS_BYTES);
	free(table->free_ids);
	free(table);
}

/* FNV-1a */
static uint32_t hash_bytes(uint32_t hash, const void *data, size_t n)
{
	const uint8_t *bytes = data;

	for (size_t i = 0; i < n; i++)
		hash = (hash ^ bytes[i]) * 16777619u;
	return hash;
}

static bool same_hop(const struct fib_nexthop *a, const struct fib_nexthop *b)
{
	size_t size = a->family == AF_INET ? 4 : a->family == AF_INET6 ? 16 : 0;

	return a->ifindex == b->ifindex && a->family == b->family && a->weight == b->weight &&
	       a->n_labels == b->n_labels &&
	       memcmp(a->labels, b->labels, a->n_labels * sizeof(a->labels[0])) == 0 &&
	       memcmp(&a->gateway, &b->gateway, size) == 0;
}

static uint32_t hash_route(const struct fib_route *route)
{
	uint32_t hash = 2166136261u;

	hash = hash_bytes(hash, &route->action, sizeof(route->action));
	hash = hash_bytes(hash, &route->protocol, sizeof(route->protocol));
	for (unsigned i = 0; i < route->n_nexthops; i++) {
		const struct fib_nexthop *hop = &route->nexthops[i];

		hash = hash_bytes(hash, &hop->ifindex, sizeof(hop->ifindex));
		hash = hash_bytes(hash, &hop->gateway,
			hop->family == AF_INET    ? 4
			: hop->family == AF_INET6 ? 16
						  : 0);
		hash = hash_bytes(hash, hop->labels, hop->n_labels * sizeof(hop->labels[0]));
	}
	return hash;
}

static bool same_group(const struct nh_group *group, const struct fib_route *route)
{
	if (group->action != route->action || group->protocol != route->protocol ||
		group->n != route->n_nexthops)
		return false;
	for (unsigned i = 0; i < group->n; i++) {
		if (!same_hop(&group->nexthops[i].hop, &route->nexthops[i]))
			return false;
	}
	return true;
}

static void resolve(struct nh_group *group, const struct ifaces *ifaces)
{
	for (unsigned i = 0; i < group->n; i++) {
		struct nh *nh = &group->nexthops[i];

		atomic_store(&nh->port, (int8_t)ifaces_port_of(ifaces, nh->hop.ifindex,
						nh->hop.family, &nh->hop.gateway));
	}
}

/* Numbers and memory of groups that the reader can't be looking at any more. */
static void reclaim(struct nh_table *table)
{
	struct retired_group *r;

	while ((r = table->first_retired) && fib_domain_passed(table->domain, r->ticket)) {
		/* Room for the number was made when the group was retired. */
		table->free_ids[table->n_free++] = r->group->id;
		table->slots[r->group->id] = NULL;
		free(r->group);
		table->first_retired = r->next;
		if (!r->next)
			table->last_retired = &table->first_retired;
		free(r);
	}
}

static uint32_t take_id(struct nh_table *table)
{
	reclaim(table);
	if (table->n_free > 0)
		return table->free_ids[--table->n_free];
	return table->top <= NH_GROUP_MAX ? table->top++ : 0;
}

uint32_t nh_group_get(
	struct nh_table *table, const struct fib_route *route, const struct ifaces *ifaces)
{
	uint32_t hash = hash_route(route);
	uint32_t *bucket = &table->buckets[hash & (BUCKETS - 1)];
	struct nh_group *group;
	uint32_t id;

	for (id = *bucket; id != 0; id = table->slots[id]->next) {
		group = table->slots[id];
		if (group->hash == hash && same_group(group, route)) {
			group->refs++;
			return id;
		}
	}
	group = calloc(1, sizeof(*group) + route->n_nexthops * sizeof(group->nexthops[0]));
	id = group ? take_id(table) : 0;
	if (id == 0) {
		free(group);
		return 0;
	}
	group->id = id;
	group->refs = 1;
	group->hash = hash;
	group->next = *bucket;
	group->action = (uint8_t)route->action;
	group->protocol = route->protocol;
	group->n = route->n_nexthops;
	for (unsigned i = 0; i < group->n; i++)
		group->nexthops[i].hop = route->nexthops[i];
	resolve(group, ifaces);
	/* Published to the reader by the release store of the route that leads to it. */
	table->slots[id] = group;
	*bucket = id;
	return id;
}

/* A freed number needs a place in free_ids; without one the group stays until later. */
static bool reserve_free_id(struct nh_table *table)
{
	size_t size = table->free_size ? table->free_size : 64;
	uint32_t *ids;

	while (size < table->top)
		size *= 2;
	if (size == table->free_size)
		return true;
	ids = realloc(table->free_ids, size * sizeof(*ids));
	if (!ids)
		return false;
	table->free_ids = ids;
	table->free_size = size;
	return true;
}

void nh_group_put(struct nh_table *table, uint32_t id)
{
	struct nh_group *group = table->slots[id];
	struct retired_group *r;
	uint32_t *link;

	assert(group->refs > 0);
	if (--group->refs > 0)
		return;
	r = reserve_free_id(table) ? malloc(sizeof(*r)) : NULL;
	if (!r)
		return; /* out of memory: it stays in its chain and may be taken again */
	link = &table->buckets[group->hash & (BUCKETS - 1)];
	while (*link != id)
		link = &table->slots[*link]->next;
	*link = group->next;
	*r = (struct retired_group){.ticket = fib_domain_ticket(table->domain), .group = group};
	*table->last_retired = r;
	table->last_retired = &r->next;
	reclaim(table);
}

const struct nh_group *nh_group_at(const struct nh_table *table, uint32_t id)
{
	return table->slots[id];
}

void nh_table_resolve(struct nh_table *table, const struct ifaces *ifaces)
{
	for (uint32_t id = 1; id < table->top; id++) {
		if (table->slots[id])
			resolve(table->slots[id], ifaces);
	}
}
