/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_NETLINK_H
#define EDGEPLEX_DATAPLANE_NETLINK_H

/* Follows links and addresses by rtnetlink. Control thread only. */

#include <stdbool.h>

#include "dataplane/iface.h"

struct netlink;

/* Returns NULL when rtnetlink can't be reached; logs why. */
struct netlink *netlink_create(void);
/* Accepts NULL. */
void netlink_destroy(struct netlink *netlink);

/* Polls readable when netlink_run() has something to do. */
int netlink_fd(const struct netlink *netlink);

/*
 * Reads the state of all interfaces anew. Returns whether that went well; logs why not. Call again
 * then: what netlink_iface() says is old.
 */
bool netlink_run(struct netlink *netlink);

/* The present state of interface `name`. ifindex is 0 when there is none. */
void netlink_iface(struct netlink *netlink, const char *name, struct iface *iface);

/*
 * Tells in the alias of interface `name` that its NIC's own MAC address is `own` ("nic ADDRESS").
 * An interface that has no such alias is new, and gets that address; another one keeps what it has.
 * Returns whether that went well; logs why not.
 */
bool netlink_tell_own_mac(
	struct netlink *netlink, const char *name, const struct rte_ether_addr *own);

/* Has interface `name` carrier? */
bool netlink_carrier(struct netlink *netlink, const char *name);

#endif
