/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_BGP_NEXT_HOP_H
#define EDGEPLEX_BGP_NEXT_HOP_H

/* Only for the files in common/bgp/ that include FRR's headers (this one after them). */

#include <zebra.h>

#include "if.h"
#include "prefix.h"

struct bgp_path_info;

/*
 * The next hop of a path, an address, as bgpd would have given it to zebra: IPv4-mapped IPv6
 * addresses as IPv4. `ifindex` (may be NULL): where a link-local one is; else 0.
 */
struct prefix bgp_next_hop(const struct bgp_path_info *pi, ifindex_t *ifindex);

/*
 * Is `pi` as good as `best`, imported from the VPN with the same next hop, but another label? Those
 * are ports of one customer at one site. bgpd shares load over next hops only.
 */
bool bgp_is_label_sibling(const struct bgp_path_info *best, const struct bgp_path_info *pi);

#endif
