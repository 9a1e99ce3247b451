/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <zebra.h>

#include "bgpd/bgpd.h"
#include "bgpd/bgp_route.h"
#include "bgpd/bgp_zebra.h"

#include "common/bgp/bgp_convert.h"
#include "common/bgp/bgp_redist.h"

static struct ep_prefix *originated;
static size_t n_originated;

static bool is_among(const struct ep_prefix *prefixes, size_t n, const struct ep_prefix *p)
{
	for (size_t i = 0; i < n; i++)
		if (ep_prefix_equal(&prefixes[i], p))
			return true;
	return false;
}

void bgp_redist_set(const struct ep_prefix *prefixes, size_t n)
{
	struct bgp *bgp = bgp_get_default();
	struct ep_prefix *copy = calloc(n + 1, sizeof(*copy));

	if (!copy)
		abort();
	for (size_t i = 0; i < n; i++)
		copy[i] = prefixes[i];
	for (size_t i = 0; bgp && i < n_originated; i++) {
		struct prefix p = frr_prefix_from_ep(&originated[i]);

		if (!is_among(prefixes, n, &originated[i]))
			bgp_redistribute_delete(bgp, &p, ZEBRA_ROUTE_CONNECT, 0);
	}
	for (size_t i = 0; bgp && i < n; i++) {
		struct prefix p = frr_prefix_from_ep(&prefixes[i]);
		union g_addr none = {0};
		afi_t afi = family2afi(p.family);

		if (!bgp_redist_lookup(bgp, afi, ZEBRA_ROUTE_CONNECT, 0))
			bgp_redist_add(bgp, afi, ZEBRA_ROUTE_CONNECT, 0);
		bgp_redistribute_add(bgp, &p, &none, 0, NEXTHOP_TYPE_IFINDEX, 0, BLACKHOLE_UNSPEC,
			0, ZEBRA_ROUTE_CONNECT, 0, 0);
	}
	free(originated);
	originated = copy;
	n_originated = n;
}
