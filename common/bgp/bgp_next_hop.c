/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <zebra.h>

#include "bgpd/bgpd.h"
#include "bgpd/bgp_aspath.h"
#include "bgpd/bgp_attr.h"
#include "bgpd/bgp_route.h"

#include "common/bgp/bgp_next_hop.h"

static bool has_link_local(const struct attr *attr)
{
	return attr->mp_nexthop_len == BGP_ATTR_NHLEN_IPV6_GLOBAL_AND_LL ||
	       attr->mp_nexthop_len == BGP_ATTR_NHLEN_VPNV6_GLOBAL_AND_LL;
}

/* RFC 2545 section 3: a global address, and on a shared link a link-local one too. */
static struct in6_addr pick_ipv6(const struct bgp_path_info *pi)
{
	const struct attr *attr = pi->attr;
	const union sockunion *remote = pi->peer ? pi->peer->su_remote : NULL;

	if (!has_link_local(attr) || attr->mp_nexthop_prefer_global)
		return attr->mp_nexthop_global;
	if (IN6_IS_ADDR_UNSPECIFIED(&attr->mp_nexthop_global) && remote &&
		remote->sa.sa_family == AF_INET6)
		return remote->sin6.sin6_addr;
	return attr->mp_nexthop_local;
}

struct prefix bgp_next_hop(const struct bgp_path_info *pi, ifindex_t *ifindex)
{
	const struct attr *attr = pi->attr;
	struct prefix nh = {.family = AF_INET, .prefixlen = 32};
	ifindex_t where = 0;

	if (!BGP_ATTR_MP_NEXTHOP_LEN_IP6(attr)) {
		nh.u.prefix4 = attr->mp_nexthop_len == BGP_ATTR_NHLEN_VPNV4
				       ? attr->mp_nexthop_global_in
				       : attr->nexthop;
	} else {
		struct in6_addr a = pick_ipv6(pi);

		if (IS_MAPPED_IPV6(&a)) {
			ipv4_mapped_ipv6_to_ipv4(&a, &nh.u.prefix4);
		} else {
			nh.family = AF_INET6;
			nh.prefixlen = 128;
			nh.u.prefix6 = a;
		}
		if (IN6_IS_ADDR_LINKLOCAL(&a)) {
			where = attr->nh_lla_ifindex ? attr->nh_lla_ifindex : attr->nh_ifindex;
			if (!where && pi->peer && pi->peer->nexthop.ifp)
				where = pi->peer->nexthop.ifp->ifindex;
		}
	}
	if (ifindex)
		*ifindex = where;
	return nh;
}

static bool is_usable_import(const struct bgp_path_info *pi)
{
	return pi->type == ZEBRA_ROUTE_BGP && pi->sub_type == BGP_ROUTE_IMPORTED &&
	       CHECK_FLAG(pi->flags, BGP_PATH_VALID) && !CHECK_FLAG(pi->flags, BGP_PATH_REMOVED) &&
	       pi->extra && pi->extra->num_labels;
}

bool bgp_is_label_sibling(const struct bgp_path_info *best, const struct bgp_path_info *pi)
{
	const struct attr *a = best->attr, *b = pi->attr;
	struct prefix a_hop, b_hop;

	if (best == pi || !is_usable_import(best) || !is_usable_import(pi) ||
		best->extra->label[0] == pi->extra->label[0])
		return false;
	a_hop = bgp_next_hop(best, NULL);
	b_hop = bgp_next_hop(pi, NULL);
	/* The steps of best path selection before the tie breakers (RFC 4271 section 9.1.2.2). */
	return prefix_same(&a_hop, &b_hop) && a->weight == b->weight &&
	       a->local_pref == b->local_pref && a->origin == b->origin && a->med == b->med &&
	       aspath_count_hops(a->aspath) == aspath_count_hops(b->aspath) &&
	       BGP_CLUSTER_LIST_LENGTH(a) == BGP_CLUSTER_LIST_LENGTH(b);
}
