/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_ROUTES_H
#define EDGEPLEX_DATAPLANE_ROUTES_H

/*
 * The routes that the FIB socket brought, in the tables that the fast path reads. Remembers which
 * ones are stale: not repeated since the present peer connected. Control thread only.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/fib_msg.h"

struct engine;
struct routes;

struct routes_count {
	size_t ipv4, ipv6, mpls;
	size_t stale;  /* of all of them */
	size_t memory; /* bytes of the tables in use */
};

/* Makes the tables of `engine`. Returns NULL when memory ran out. */
struct routes *routes_create(struct engine *engine);
/* Frees the tables; the fast path must have ended. Accepts NULL. */
void routes_destroy(struct routes *routes);

/* Adds, replaces or removes a route. Returns 0 or ENOMEM (then nothing changed). */
int routes_apply(struct routes *routes, enum fib_msg_op op, const struct fib_route *route);

/* All routes become stale; they go on forwarding. */
void routes_mark_stale(struct routes *routes);

/* Removes the stale routes. Returns how many. */
size_t routes_sweep(struct routes *routes);

/* Next hops are found again after addresses changed. */
void routes_resolve(struct routes *routes);

struct routes_count routes_count(const struct routes *routes);

/* A route as it is shown. */
struct route_view {
	struct fib_route route;
	bool stale;
	int8_t ports[FIB_MAX_NEXTHOPS]; /* of each next hop; -1: not resolved */
};

/*
 * Fills up to `max` routes of `family` behind `after` (NULL: from the start), in order of address
 * and length (AF_MPLS: label). Returns how many.
 */
size_t routes_list(struct routes *routes, uint8_t family, const struct fib_route *after,
	struct route_view *out, size_t max);

/* Exactly this prefix or label, or the longest match of its address. Returns whether it's there. */
bool routes_get(struct routes *routes, const struct fib_route *key, struct route_view *out);
bool routes_match(struct routes *routes, const struct fib_route *key, struct route_view *out);

#endif
