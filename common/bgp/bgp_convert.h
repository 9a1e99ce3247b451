/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_BGP_CONVERT_H
#define EDGEPLEX_BGP_CONVERT_H

/* FRR's types and ours. Only for the files in common/bgp/ that include FRR's headers. */

#include <zebra.h>

#include "prefix.h"

#include "common/prefix.h"

static inline struct ep_prefix ep_prefix_from_frr(const struct prefix *p)
{
	struct ep_prefix out = {.family = p->family, .len = p->prefixlen};

	memcpy(&out.addr, &p->u.prefix, p->family == AF_INET6 ? 16 : 4);
	return out;
}

static inline struct prefix frr_prefix_from_ep(const struct ep_prefix *p)
{
	struct prefix out = {.family = p->family, .prefixlen = p->len};

	memcpy(&out.u.prefix, &p->addr, p->family == AF_INET6 ? 16 : 4);
	return out;
}

#endif
