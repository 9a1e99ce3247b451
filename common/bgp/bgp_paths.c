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
#include "common/bgp/bgp_host.h"
#include "common/bgp/bgp_next_hop.h"
#include "common/bgp/bgp_paths.h"
#include "common/bgp/prefix_map.h"

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
	(void)dest;
	(void)afi;
	(void)bgp;
	(void)info;
	tell(p, safi);
}

void __wrap_bgp_zebra_withdraw(
	const struct prefix *p, struct bgp_path_info *info, struct bgp *bgp, safi_t safi)
{
	(void)bgp;
	(void)info;
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

/*
 * Where the selected path stays the same, bgpd tells nothing; but one more path with the same next
 * hop and another label is news to us. Its prefix waits here until bgpd has made its selection.
 */
#define LATE_MS 20

static struct prefix_map late;
static struct host_event *late_event;

static void tell_late(void *ctx, struct prefix_entry *entry)
{
	struct bgp *bgp = bgp_get_default();
	struct prefix p = frr_prefix_from_ep(&entry->prefix);
	afi_t afi = family2afi(p.family);
	struct bgp_dest *dest = bgp ? bgp_node_lookup(bgp->rib[afi][SAFI_UNICAST], &p) : NULL;
	bool pending = dest && CHECK_FLAG(dest->flags, BGP_NODE_PROCESS_SCHEDULED);

	(void)ctx;
	if (dest)
		bgp_dest_unlock_node(dest);
	if (pending)
		return;
	prefix_map_remove(&late, entry);
	tell(&p, SAFI_UNICAST);
	free(entry);
}

static void on_late(void *ctx)
{
	(void)ctx;
	prefix_map_each(&late, tell_late, NULL);
	if (late.n)
		host_event_after(late_event, LATE_MS);
}

static size_t count_imported(struct bgp_dest *dest)
{
	struct bgp_path_info *pi;
	size_t n = 0;

	for (pi = bgp_dest_get_bgp_path_info(dest); pi; pi = pi->next)
		n += pi->sub_type == BGP_ROUTE_IMPORTED;
	return n;
}

void __real_bgp_process(struct bgp *bgp, struct bgp_dest *dest, afi_t afi, safi_t safi);
void __wrap_bgp_process(struct bgp *bgp, struct bgp_dest *dest, afi_t afi, safi_t safi);

void __wrap_bgp_process(struct bgp *bgp, struct bgp_dest *dest, afi_t afi, safi_t safi)
{
	struct ep_prefix prefix = ep_prefix_from_frr(bgp_dest_get_prefix(dest));
	struct prefix_entry *entry;

	if (safi == SAFI_UNICAST && changed_fn && count_imported(dest) > 1 &&
		!prefix_map_find(&late, &prefix)) {
		entry = calloc(1, sizeof(*entry));
		if (!entry)
			abort();
		entry->prefix = prefix;
		if (prefix_map_add(&late, entry))
			abort();
		host_event_after(late_event, LATE_MS);
	}
	__real_bgp_process(bgp, dest, afi, safi);
}

/*
 * bgpd takes back what it imported from another instance only. Here the one instance imports from
 * itself, and what its route targets no longer cover has to go as well.
 */
void __wrap_vpn_leak_to_vrf_withdraw_all(struct bgp *to_bgp, afi_t afi);

void __wrap_vpn_leak_to_vrf_withdraw_all(struct bgp *to_bgp, afi_t afi)
{
	struct bgp_dest *dest;
	struct bgp_path_info *pi;

	for (dest = bgp_table_top(to_bgp->rib[afi][SAFI_UNICAST]); dest;
		dest = bgp_route_next(dest))
		for (pi = bgp_dest_get_bgp_path_info(dest); pi; pi = pi->next) {
			if (pi->sub_type != BGP_ROUTE_IMPORTED ||
				CHECK_FLAG(pi->flags, BGP_PATH_REMOVED))
				continue;
			bgp_aggregate_decrement(
				to_bgp, bgp_dest_get_prefix(dest), pi, afi, SAFI_UNICAST);
			bgp_path_info_delete(dest, pi);
			bgp_process(to_bgp, dest, afi, SAFI_UNICAST);
		}
}

void bgp_paths_listen(void (*changed)(void *ctx, const struct ep_prefix *prefix), void *ctx)
{
	changed_fn = changed;
	changed_ctx = ctx;
	late_event = host_event_new(on_late, NULL);
}

static void describe(struct bgp_path_info *pi, struct best_path *path)
{
	ifindex_t ifindex;
	struct prefix nh = bgp_next_hop(pi, &ifindex);

	memset(path, 0, sizeof(*path));
	path->next_hop = ep_prefix_from_frr(&nh);
	path->ifindex = ifindex;
	path->imported = pi->sub_type == BGP_ROUTE_IMPORTED;
	if (pi->extra && pi->extra->num_labels && bgp_is_valid_label(&pi->extra->label[0])) {
		path->has_label = true;
		path->label = decode_label(&pi->extra->label[0]);
	}
}

size_t bgp_paths_best(const struct ep_prefix *prefix, struct best_path *paths, size_t max)
{
	struct bgp *bgp = bgp_get_default();
	struct prefix p = frr_prefix_from_ep(prefix);
	struct bgp_table *table = bgp ? bgp->rib[family2afi(p.family)][SAFI_UNICAST] : NULL;
	struct bgp_dest *dest = table ? bgp_node_lookup(table, &p) : NULL;
	struct bgp_path_info *pi, *best;
	size_t n = 0;

	if (!dest)
		return 0;
	for (pi = bgp_dest_get_bgp_path_info(dest); pi; pi = pi->next)
		if (CHECK_FLAG(pi->flags, BGP_PATH_SELECTED))
			break;
	if (pi && (pi->type != ZEBRA_ROUTE_BGP ||
			  (pi->sub_type != BGP_ROUTE_NORMAL && pi->sub_type != BGP_ROUTE_IMPORTED)))
		pi = NULL;
	best = pi;
	for (; pi && n < max; pi = bgp_path_info_mpath_next(pi))
		describe(pi, &paths[n++]);
	for (pi = bgp_dest_get_bgp_path_info(dest); best && pi && n < max; pi = pi->next)
		if (!CHECK_FLAG(pi->flags, BGP_PATH_MULTIPATH) && bgp_is_label_sibling(best, pi))
			describe(pi, &paths[n++]);
	bgp_dest_unlock_node(dest);
	return n;
}
