/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/netlink.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <netlink/cache.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>

#include "common/log.h"
#include "common/prefix.h"

#define ALIAS_PREFIX "nic " /* pvmd reads it (common/bgp/kernel_net.c) */

struct netlink {
	struct nl_sock *events; /* only tells that something changed */
	struct nl_sock *query;
	struct nl_cache *links, *addrs;
};

static int open_sockets(struct netlink *netlink)
{
	int error;

	netlink->events = nl_socket_alloc();
	netlink->query = nl_socket_alloc();
	if (!netlink->events || !netlink->query)
		return -NLE_NOMEM;
	nl_socket_disable_seq_check(netlink->events);
	error = nl_connect(netlink->events, NETLINK_ROUTE);
	if (error == 0)
		error = nl_socket_add_memberships(netlink->events, RTNLGRP_LINK,
			RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_NONE);
	if (error == 0)
		error = nl_socket_set_nonblocking(netlink->events);
	if (error == 0)
		error = nl_connect(netlink->query, NETLINK_ROUTE);
	if (error == 0)
		error = rtnl_link_alloc_cache(netlink->query, AF_UNSPEC, &netlink->links);
	if (error == 0)
		error = rtnl_addr_alloc_cache(netlink->query, &netlink->addrs);
	return error;
}

struct netlink *netlink_create(void)
{
	struct netlink *netlink = calloc(1, sizeof(*netlink));
	int error = netlink ? open_sockets(netlink) : -NLE_NOMEM;

	if (error == 0)
		return netlink;
	log_error("can't follow interfaces by rtnetlink: %s", nl_geterror(error));
	netlink_destroy(netlink);
	return NULL;
}

void netlink_destroy(struct netlink *netlink)
{
	if (!netlink)
		return;
	if (netlink->links)
		nl_cache_free(netlink->links);
	if (netlink->addrs)
		nl_cache_free(netlink->addrs);
	nl_socket_free(netlink->events);
	nl_socket_free(netlink->query);
	free(netlink);
}

int netlink_fd(const struct netlink *netlink)
{
	return nl_socket_get_fd(netlink->events);
}

bool netlink_run(struct netlink *netlink)
{
	char buf[16384];
	ssize_t n;
	int error;

	/*
	 * What a message says doesn't matter, nor whether some were lost (ENOBUFS): the present
	 * state is read anew. Events are rare and interfaces few.
	 */
	do {
		n = recv(netlink_fd(netlink), buf, sizeof(buf), MSG_DONTWAIT);
	} while (n > 0 || (n < 0 && (errno == ENOBUFS || errno == EINTR)));
	error = nl_cache_refill(netlink->query, netlink->links);
	if (error == 0)
		error = nl_cache_refill(netlink->query, netlink->addrs);
	if (error != 0)
		log_error("can't read interfaces by rtnetlink: %s", nl_geterror(error));
	return error == 0;
}

struct collect {
	struct iface *iface;
};

static void collect_addr(struct nl_object *object, void *ctx)
{
	struct rtnl_addr *addr = (struct rtnl_addr *)object;
	struct iface *iface = ((struct collect *)ctx)->iface;
	struct nl_addr *local = rtnl_addr_get_local(addr);
	struct iface_addr *out;
	size_t size;
	int family = rtnl_addr_get_family(addr);

	if ((uint32_t)rtnl_addr_get_ifindex(addr) != iface->ifindex || !local ||
		(family != AF_INET && family != AF_INET6))
		return;
	/* Not ours to use before duplicate detection has passed (RFC 4862, 5.4). */
	if (rtnl_addr_get_flags(addr) & (IFA_F_TENTATIVE | IFA_F_DADFAILED))
		return;
	size = family == AF_INET ? 4 : 16;
	if (nl_addr_get_len(local) != size)
		return;
	if (iface->n_addrs == IFACE_MAX_ADDRS) {
		log_warn("ignoring addresses beyond the first %d of ifindex=%u", IFACE_MAX_ADDRS,
			iface->ifindex);
		return;
	}
	out = &iface->addrs[iface->n_addrs++];
	out->family = (uint8_t)family;
	out->len = (uint8_t)rtnl_addr_get_prefixlen(addr);
	memcpy(out->addr.bytes, nl_addr_get_binary_addr(local), size);
}

void netlink_iface(struct netlink *netlink, const char *name, struct iface *iface)
{
	struct rtnl_link *link = rtnl_link_get_by_name(netlink->links, name);
	struct collect collect = {.iface = iface};
	const struct nl_addr *mac;

	memset(iface, 0, sizeof(*iface));
	if (!link)
		return;
	iface->ifindex = (uint32_t)rtnl_link_get_ifindex(link);
	iface->up = rtnl_link_get_flags(link) & IFF_UP;
	iface->mtu = (uint16_t)(rtnl_link_get_mtu(link) > UINT16_MAX ? UINT16_MAX
								     : rtnl_link_get_mtu(link));
	mac = rtnl_link_get_addr(link);
	if (mac && nl_addr_get_len(mac) == sizeof(iface->mac))
		memcpy(&iface->mac, nl_addr_get_binary_addr(mac), sizeof(iface->mac));
	rtnl_link_put(link);
	nl_cache_foreach(netlink->addrs, collect_addr, &collect);
}

static int change_link(
	struct netlink *netlink, int ifindex, const char *alias, const struct rte_ether_addr *mac)
{
	/* Not the cache's object: comparing one kind of link with none crashes libnl 3.7. */
	struct rtnl_link *which = rtnl_link_alloc(), *change = rtnl_link_alloc();
	struct nl_addr *addr = mac ? nl_addr_build(AF_LLC, mac, sizeof(*mac)) : NULL;
	int error = -NLE_NOMEM;

	if (which && change && (addr || !mac)) {
		rtnl_link_set_ifindex(which, ifindex);
		rtnl_link_set_ifalias(change, alias);
		if (addr)
			rtnl_link_set_addr(change, addr);
		error = rtnl_link_change(netlink->query, which, change, 0);
	}
	if (addr)
		nl_addr_put(addr);
	if (which)
		rtnl_link_put(which);
	if (change)
		rtnl_link_put(change);
	return error;
}

bool netlink_tell_own_mac(
	struct netlink *netlink, const char *name, const struct rte_ether_addr *own)
{
	struct rtnl_link *link = rtnl_link_get_by_name(netlink->links, name);
	const char *present = link ? rtnl_link_get_ifalias(link) : NULL;
	bool is_new = !present || strncmp(present, ALIAS_PREFIX, strlen(ALIAS_PREFIX)) != 0;
	int error = -NLE_OBJ_NOTFOUND;
	struct ep_mac mac;
	char alias[sizeof(ALIAS_PREFIX) + EP_MAC_STRLEN], text[EP_MAC_STRLEN];

	memcpy(mac.bytes, own->addr_bytes, sizeof(mac.bytes));
	snprintf(alias, sizeof(alias), ALIAS_PREFIX "%s", ep_mac_format(&mac, text));
	if (link)
		error = change_link(
			netlink, rtnl_link_get_ifindex(link), alias, is_new ? own : NULL);
	if (error != 0)
		log_error("can't set MAC address and alias of TAP interface=%s: %s", name,
			nl_geterror(error));
	if (link)
		rtnl_link_put(link);
	return error == 0;
}

bool netlink_carrier(struct netlink *netlink, const char *name)
{
	struct rtnl_link *link = rtnl_link_get_by_name(netlink->links, name);
	bool carrier;

	if (!link)
		return false;
	carrier = rtnl_link_get_flags(link) & IFF_LOWER_UP;
	rtnl_link_put(link);
	return carrier;
}
