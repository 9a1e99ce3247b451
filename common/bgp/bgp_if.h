/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_BGP_IF_H
#define EDGEPLEX_BGP_IF_H

/*
 * The kernel's interfaces: configures them as wished, follows them, and tells bgpd, which hears of
 * interfaces from zebra otherwise.
 */

#include <stdbool.h>
#include <stddef.h>

#include "common/bgp/kernel_net.h"

/*
 * Starts to follow the kernel. `changed` is called after each change that bgpd has been told.
 * Returns 0 or errno.
 */
int bgp_ifs_init(void (*changed)(void *ctx), void *ctx);

/*
 * From now on the interfaces of `wishes` shall be like this; one that isn't there yet is configured
 * when it appears, and every one again when somebody else changed it. The array is copied. An
 * interface that is no longer wished for loses the addresses that it was wished to have.
 */
void bgp_if_configure(const struct kernel_wish *wishes, size_t n);

/* From now on these routes shall be there (and none that was wished for earlier). Copied. */
void bgp_if_configure_routes(const struct kernel_route *routes, size_t n);

/* Call after bgpd's instance was created: it has to be told about all addresses. */
void bgp_if_tell_instance(void);

/* As the kernel has them now; valid until the loop comes round. Returns their number. */
size_t bgp_if_all(const struct kernel_interface **interfaces);

/* By name; NULL if there is none. */
const struct kernel_interface *bgp_if_find(const char *name);

/*
 * The interface that is up and has a subnet which holds `address`; NULL if there is none. IPv6
 * link-local addresses are held by no interface.
 */
const struct kernel_interface *bgp_if_connected(const struct ep_prefix *address);

#endif
