/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <zebra.h>

#include "mpls.h"

#include "bgpd/bgpd.h"
#include "bgpd/bgp_attr.h"
#include "bgpd/bgp_label.h"
#include "bgpd/bgp_mpath.h"
#include "bgpd/bgp_mplsvpn.h"
#include "bgpd/bgp_route.h"
#include "bgpd/bgp_table.h"
#include "bgpd/bgp_zebra.h"

#include "common/bgp/bgp_convert.h"
#include "common/bgp/bgp_next_hop.h"
#include "common/bgp/bgp_paths.h"

static void (*changed_fn)(void *ctx, const struct ep_prefix *prefix);
static void *changed_ctx;

/*
 * No hook of bgpd tells what it selected. These functions do, which bgp_process_main_one() calls
 * after each selection to have zebra informed; the linker puts ours in their places (--wrap).
 */
void __wrap_bgp_zebra_announce(struct bgp_dest *dest, const struct prefix *p,
	struct bgp_path_info *info, struct bgp *bgp, afi_t afi, safi_t safi);
void __wrap_bgp_zebra_withdraw(
	const struct prefix *p, struct bgp_path_info *info, struct bgp *bgp, safi_t safi);
void __wrap_bgp_zebra_announce_table(struct bgp *bgp, afi_t afi, safi_t safi);
void __wrap_bgp_zebra_withdraw_table_all_subtypes(struct bgp *bgp, afi_t afi, safi_t safi);

static void tell(const struct prefix *p, safi_t safi)
{
	struct ep_prefix prefix;

	if (safi != SAFI_UNICAST || !changed_fn || (p->family != AF_INET && p->family != AF_INET6))
		return;
	prefix = ep_prefix_from_frr(p);
	changed_fn(changed_ctx, &prefix);
}

void __wrap_bgp_zebra_announce(struct bgp_dest *dest, const struct prefix *p,
	struct bgp_path_info *info, struct bgp *bgp, afi_t afi, safi_t safi)
{
	tell(p, safi);
}

void __wrap_bgp_zebra_withdraw(
	const struct prefix *p, struct bgp_path_info *info, struct bgp *bgp, safi_t safi)
{
	tell(p, safi);
}

static void tell_table(struct bgp *bgp, afi_t afi, safi_t safi)
{
	struct bgp_dest *dest;

	if (safi != SAFI_UNICAST || !bgp->rib[afi][safi])
		return;
	for (dest = bgp_table_top(bgp->rib[afi][safi]); dest; dest = bgp_route_next(dest))
		if (bgp_dest_get_bgp_path_info(dest))
			tell(bgp_dest_get_prefix(dest), safi);
}

void __wrap_bgp_zebra_announce_table(struct bgp *bgp, afi_t afi, safi_t safi)
{
	tell_table(bgp, afi, safi);
}

void __wrap_bgp_zebra_withdraw_table_all_subtypes(struct bgp *bgp, afi_t afi, safi_t safi)
{
	tell_table(bgp, afi, safi);
}

void bgp_paths_listen(void (*changed)(void *ctx, const struct ep_prefix *prefix), void *ctx)
{
	changed_fn = changed;
	changed_ctx = ctx;
}

size_t bgp_paths_best(const struct ep_prefix *prefix, struct best_path *paths, size_t max)
{
	struct bgp *bgp = bgp_get_default();
	struct prefix p = frr_prefix_from_ep(prefix);
	struct bgp_table *table = bgp ? bgp->rib[family2afi(p.family)][SAFI_UNICAST] : NULL;
	struct bgp_dest *dest = table ? bgp_node_lookup(table, &p) : NULL;
	struct bgp_path_info *pi;
	size_t n = 0;

	if (!dest)
		return 0;
	for (pi = bgp_dest_get_bgp_path_info(dest); pi; pi = pi->next)
		if (CHECK_FLAG(pi->flags, BGP_PATH_SELECTED))
			break;
	if (pi && (pi->type != ZEBRA_ROUTE_BGP ||
			  (pi->sub_type != BGP_ROUTE_NORMAL && pi->sub_type != BGP_ROUTE_IMPORTED)))
		pi = NULL;
	for (; pi && n < max; pi = bgp_path_info_mpath_next(pi)) {
		struct best_path *path = &paths[n++];
		ifindex_t ifindex;
		struct prefix nh = bgp_next_hop(&p, pi, &ifindex);

		memset(path, 0, sizeof(*path));
		path->next_hop = ep_prefix_from_frr(&nh);
		path->ifindex = ifindex;
		path->imported = pi->sub_type == BGP_ROUTE_IMPORTED;
		if (pi->extra && pi->extra->num_labels &&
			bgp_is_valid_label(&pi->extra->label[0])) {
			path->has_label = true;
			path->label = decode_label(&pi->extra->label[0]);
		}
	}
	bgp_dest_unlock_node(dest);
	return n;
}
