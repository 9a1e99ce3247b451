/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_BGP_PATHS_H
#define EDGEPLEX_BGP_PATHS_H

/* Best paths of bgpd's unicast tables, as zebra would get them. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/prefix.h"

#define BGP_MAX_BEST_PATHS 64

struct best_path {
	struct ep_prefix next_hop; /* an address */
	unsigned ifindex;          /* where a link-local next hop is; else 0 */
	bool imported;             /* from the VPN */
	bool has_label;
	uint32_t label; /* 20 bits */
};

/*
 * `changed` is called for every prefix whose best paths may have changed, whenever that happens
 * (often: it should only take a note). Call once, after bgp_host_init().
 */
void bgp_paths_listen(void (*changed)(void *ctx, const struct ep_prefix *prefix), void *ctx);

/*
 * The paths by which `prefix` is to be forwarded, the best first: at most `max` of them. Returns
 * their number; 0: there is no route, or it isn't one to forward by (one of our own subnets).
 */
size_t bgp_paths_best(const struct ep_prefix *prefix, struct best_path *paths, size_t max);

#endif
