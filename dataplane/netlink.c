/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/netlink.h"

#include <stdlib.h>
#include <string.h>
#include <linux/if.h>
#include <linux/if_addr.h>
#include <netlink/cache.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>

#include "common/log.h"

struct netlink {
	struct nl_cache_mngr *manager;
	struct nl_cache *links, *addrs;
	bool changed;
};

static void on_change(struct nl_cache *cache, struct nl_object *object, int action, void *ctx)
{
	struct netlink *netlink = ctx;

	(void)cache;
	(void)object;
	(void)action;
	netlink->changed = true;
}

static int open_manager(struct netlink *netlink)
{
	int error = nl_cache_mngr_alloc(NULL, NETLINK_ROUTE, 0, &netlink->manager);

	if (error < 0)
		netlink->manager = NULL;
	else
		error = nl_cache_mngr_add(
			netlink->manager, "route/link", on_change, netlink, &netlink->links);
	if (error >= 0)
		error = nl_cache_mngr_add(
			netlink->manager, "route/addr", on_change, netlink, &netlink->addrs);
	if (error < 0)
		log_error("can't follow interfaces by rtnetlink: %s", nl_geterror(error));
	return error;
}

struct netlink *netlink_create(void)
{
	struct netlink *netlink = calloc(1, sizeof(*netlink));

	if (netlink && open_manager(netlink) < 0) {
		netlink_destroy(netlink);
		return NULL;
	}
	return netlink;
}

void netlink_destroy(struct netlink *netlink)
{
	if (!netlink)
		return;
	if (netlink->manager)
		nl_cache_mngr_free(netlink->manager);
	free(netlink);
}

int netlink_fd(const struct netlink *netlink)
{
	return nl_cache_mngr_get_fd(netlink->manager);
}

bool netlink_run(struct netlink *netlink)
{
	struct nl_cache_mngr *old = netlink->manager;
	int error;

	netlink->changed = false;
	error = nl_cache_mngr_data_ready(netlink->manager);
	if (error >= 0 || error == -NLE_AGAIN)
		return netlink->changed;
	/* Messages were lost: only the whole state tells what we missed. */
	log_warn("rtnetlink lost messages (%s), reading all interfaces again", nl_geterror(error));
	if (open_manager(netlink) < 0) {
		if (netlink->manager && netlink->manager != old)
			nl_cache_mngr_free(netlink->manager);
		netlink->manager = old;
		return false;
	}
	nl_cache_mngr_free(old);
	return true;
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

	memset(iface, 0, sizeof(*iface));
	if (!link)
		return;
	iface->ifindex = (uint32_t)rtnl_link_get_ifindex(link);
	iface->up = rtnl_link_get_flags(link) & IFF_UP;
	iface->mtu = (uint16_t)(rtnl_link_get_mtu(link) > UINT16_MAX ? UINT16_MAX
								     : rtnl_link_get_mtu(link));
	rtnl_link_put(link);
	nl_cache_foreach(netlink->addrs, collect_addr, &collect);
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
