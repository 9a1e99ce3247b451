/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What a restarted peer doesn't repeat (RFC 4724, section 4.2) must go with all that came of it.
 * bgpd 8.4.4 takes such a VPN route from the VPN table, but leaves what was imported from it in the
 * unicast table, for ever: bgp_clear_stale_route() looks for imported routes in the VPN table,
 * where there are none. So they are taken back here, before it.
 */

#include <zebra.h>

#include "bgpd/bgpd.h"
#include "bgpd/bgp_attr.h"
#include "bgpd/bgp_mplsvpn.h"
#include "bgpd/bgp_route.h"
#include "bgpd/bgp_table.h"

void __real_bgp_clear_stale_route(struct peer *peer, afi_t afi, safi_t safi);
void __wrap_bgp_clear_stale_route(struct peer *peer, afi_t afi, safi_t safi);

static void unimport(struct bgp_dest *dest, struct peer *peer)
{
	for (struct bgp_path_info *path = bgp_dest_get_bgp_path_info(dest); path;
		path = path->next) {
		if (path->peer == peer && CHECK_FLAG(path->flags, BGP_PATH_STALE))
			vpn_leak_to_vrf_withdraw(peer->bgp, path);
	}
}

void __wrap_bgp_clear_stale_route(struct peer *peer, afi_t afi, safi_t safi)
{
	if (safi == SAFI_MPLS_VPN && peer->bgp->inst_type == BGP_INSTANCE_TYPE_DEFAULT) {
		struct bgp_dest *rd, *dest;

		for (rd = bgp_table_top(peer->bgp->rib[afi][safi]); rd; rd = bgp_route_next(rd)) {
			struct bgp_table *table = bgp_dest_get_bgp_table_info(rd);

			if (!table)
				continue;
			for (dest = bgp_table_top(table); dest; dest = bgp_route_next(dest))
				unimport(dest, peer);
		}
	}
	__real_bgp_clear_stale_route(peer, afi, safi);
}
