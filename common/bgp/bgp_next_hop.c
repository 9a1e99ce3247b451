/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <zebra.h>

#include "bgpd/bgpd.h"
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

struct prefix bgp_next_hop(
	const struct prefix *p, const struct bgp_path_info *pi, ifindex_t *ifindex)
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
