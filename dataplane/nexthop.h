/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_NEXTHOP_H
#define EDGEPLEX_DATAPLANE_NEXTHOP_H

/*
 * What a route does: an action and its next hops. Routes that do the same share one group, known
 * by a number (1..NH_GROUP_MAX). Groups don't change while they exist, apart from the port of each
 * next hop, which follows the interfaces' addresses.
 *
 * nh_group_at() may be called by readers of `domain` that are online; everything else is for the
 * writer.
 */

#include <stdatomic.h>
#include <stdint.h>

#include "common/fib_msg.h"

#define NH_GROUP_MAX ((1u << 23) - 1)
#define NH_UNRESOLVED (-1)

struct fib_domain;
struct ifaces;
struct nh_table;

struct nh {
	_Atomic int8_t port; /* where its gateway is, or NH_UNRESOLVED */
	struct fib_nexthop hop;
};

struct nh_group {
	uint32_t id;
	uint32_t refs;
	uint32_t hash;
	uint32_t next;  /* in its hash chain */
	uint8_t action; /* enum fib_action */
	uint8_t protocol;
	uint8_t n;
	struct nh nexthops[];
};

/* Returns NULL when memory ran out. */
struct nh_table *nh_table_create(struct fib_domain *domain);
/* Accepts NULL. */
void nh_table_destroy(struct nh_table *table);

/*
 * Takes a reference on the group that does what `route` says, making it if needed; next hops are
 * resolved by `ifaces`. Returns its number, or 0 when memory or numbers ran out.
 */
uint32_t nh_group_get(
	struct nh_table *table, const struct fib_route *route, const struct ifaces *ifaces);

/* Gives one reference back. No new route may lead to the group when the last one has gone. */
void nh_group_put(struct nh_table *table, uint32_t id);

/* The group of a number that came from a route. */
const struct nh_group *nh_group_at(const struct nh_table *table, uint32_t id);

/* Finds every next hop's port again. */
void nh_table_resolve(struct nh_table *table, const struct ifaces *ifaces);

#endif
