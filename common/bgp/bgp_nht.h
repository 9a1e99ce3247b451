/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_BGP_NHT_H
#define EDGEPLEX_BGP_NHT_H

/* Next-hop tracking: bgpd asks whether an address can be reached, the program answers. */

#include <stdbool.h>
#include <stdint.h>

#include "common/prefix.h"

struct nht_answer {
	bool reachable;
	bool labelled;    /* by a label-switched path: a VPN route may use it */
	unsigned ifindex; /* out of this interface; 0 if that is nobody's business */
};

/*
 * Tells how `address` (a full-length prefix) is reached; `connected`: only a connected subnet will
 * do. Cheap: called for every address at every bgp_nht_refresh().
 */
typedef struct nht_answer (*nht_resolver)(
	void *ctx, const struct ep_prefix *address, bool connected);

/* Call once, after bgp_host_init() and before the first configuration. */
void bgp_nht_init(nht_resolver resolver, void *ctx);

/* Something that the resolver looks at has changed: asks again for every tracked address, soon. */
void bgp_nht_refresh(void);

#endif
