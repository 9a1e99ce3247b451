/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <netinet/tcp.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <netlink/cache.h>
#include <netlink/netlink.h>
#include <netlink/route/addr.h>
#include <netlink/route/link.h>
#include <netlink/route/nexthop.h>
#include <netlink/route/route.h>

#include "common/bgp/kernel_net.h"
#include "common/log.h"

struct kernel_net {
	struct nl_sock *requests;
	struct nl_cache_mngr *manager;
	struct nl_cache *links, *addresses; /* the manager's */
	bool changed;
};

static int errno_of(int nl_error)
{
	switch (-nl_error) {
	case NLE_SUCCESS:
		return 0;
	case NLE_EXIST:
		return EEXIST;
	case NLE_OBJ_NOTFOUND:
		return ESRCH;
	case NLE_NODEV:
		return ENODEV;
	case NLE_NOADDR:
		return EADDRNOTAVAIL;
	case NLE_PERM:
		return EPERM;
	case NLE_NOMEM:
		return ENOMEM;
	case NLE_BUSY:
		return EBUSY;
	default:
		return EINVAL;
	}
}

static void on_change(struct nl_cache *cache, struct nl_object *object, int action, void *arg)
{
	(void)action;
	(void)cache;
	(void)object;
	((struct kernel_net *)arg)->changed = true;
}

struct kernel_net *kernel_net_open(void)
{
	struct kernel_net *net = calloc(1, sizeof(*net));
	int error;

	if (!net)
		return NULL;
	net->requests = nl_socket_alloc();
	if (!net->requests) {
		free(net);
		errno = ENOMEM;
		return NULL;
	}
	error = nl_connect(net->requests, NETLINK_ROUTE);
	if (!error)
		error = nl_cache_mngr_alloc(NULL, NETLINK_ROUTE, NL_AUTO_PROVIDE, &net->manager);
	if (!error)
		error = nl_cache_mngr_add(net->manager, "route/link", on_change, net, &net->links);
	if (!error)
		error = nl_cache_mngr_add(
			net->manager, "route/addr", on_change, net, &net->addresses);
	if (error) {
		kernel_net_close(net);
		errno = errno_of(error);
		return NULL;
	}
	return net;
}

void kernel_net_close(struct kernel_net *net)
{
	if (!net)
		return;
	if (net->manager)
		nl_cache_mngr_free(net->manager);
	nl_socket_free(net->requests);
	free(net);
}

int kernel_net_fd(const struct kernel_net *net)
{
	return nl_cache_mngr_get_fd(net->manager);
}

bool kernel_net_run(struct kernel_net *net)
{
	int n = nl_cache_mngr_data_ready(net->manager);
	bool changed;

	/* Messages were lost (too many at once): read everything anew. */
	if (n < 0 && n != -NLE_AGAIN) {
		struct nl_sock *sock = net->requests;

		log_warn("reading the kernel's interfaces anew after: %s", nl_geterror(n));
		nl_cache_refill(sock, net->links);
		nl_cache_refill(sock, net->addresses);
		net->changed = true;
	}
	changed = net->changed;
	net->changed = false;
	return changed;
}

static bool address_of(struct nl_addr *from, struct ep_prefix *to)
{
	unsigned n = from ? nl_addr_get_len(from) : 0;

	memset(to, 0, sizeof(*to));
	if (!from || (n != 4 && n != 16))
		return false;
	to->family = n == 4 ? AF_INET : AF_INET6;
	to->len = nl_addr_get_prefixlen(from);
	memcpy(to->addr.bytes, nl_addr_get_binary_addr(from), n);
	return true;
}

/* The alias "nic ADDRESS" that edgeplex-fwd sets (docs/protocols.md). */
static bool own_mac_of(struct rtnl_link *link, struct ep_mac *mac)
{
	const char *alias = rtnl_link_get_ifalias(link);

	return alias && !strncmp(alias, "nic ", 4) && !ep_mac_parse(alias + 4, mac);
}

static int by_index(const void *a, const void *b)
{
	const struct kernel_interface *x = a, *y = b;

	return x->index < y->index ? -1 : x->index > y->index;
}

size_t kernel_net_interfaces(
	struct kernel_net *net, struct kernel_interface *interfaces, size_t max)
{
	size_t n = 0;

	for (struct nl_object *o = nl_cache_get_first(net->links); o && n < max;
		o = nl_cache_get_next(o)) {
		struct rtnl_link *link = (struct rtnl_link *)o;
		struct kernel_interface *i = &interfaces[n];
		struct nl_addr *mac = rtnl_link_get_addr(link);
		unsigned flags = rtnl_link_get_flags(link);

		if (rtnl_link_get_family(link) != AF_UNSPEC || !rtnl_link_get_name(link))
			continue;
		memset(i, 0, sizeof(*i));
		snprintf(i->name, sizeof(i->name), "%s", rtnl_link_get_name(link));
		i->index = rtnl_link_get_ifindex(link);
		i->mtu = rtnl_link_get_mtu(link);
		i->loopback = flags & IFF_LOOPBACK;
		i->up = (flags & IFF_UP) && (flags & IFF_RUNNING);
		if (mac && nl_addr_get_len(mac) == sizeof(i->mac))
			memcpy(&i->mac, nl_addr_get_binary_addr(mac), sizeof(i->mac));
		i->has_own_mac = own_mac_of(link, &i->own_mac);
		n++;
	}
	qsort(interfaces, n, sizeof(*interfaces), by_index);
	for (struct nl_object *o = nl_cache_get_first(net->addresses); o;
		o = nl_cache_get_next(o)) {
		struct rtnl_addr *addr = (struct rtnl_addr *)o;
		struct ep_prefix prefix;

		if (!address_of(rtnl_addr_get_local(addr), &prefix))
			continue;
		prefix.len = rtnl_addr_get_prefixlen(addr);
		for (size_t i = 0; i < n; i++)
			if (interfaces[i].index == (unsigned)rtnl_addr_get_ifindex(addr) &&
				interfaces[i].n_addresses < KERNEL_MAX_ADDRESSES)
				interfaces[i].addresses[interfaces[i].n_addresses++] = prefix;
	}
	return n;
}

static int log_failure(int error, const char *what, const char *name, const char *object)
{
	log_warn("can't %s interface=%s object=%s error=\"%s\"", what, name, object,
		nl_geterror(error));
	return errno_of(error);
}

static bool is_link_local(const struct ep_prefix *p)
{
	return p->family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&p->addr.v6);
}

static bool is_ours_to_remove(const struct ep_prefix *p, bool loopback)
{
	if (is_link_local(p))
		return false;
	if (!loopback)
		return true;
	return p->family == AF_INET ? p->addr.bytes[0] != 127 : !IN6_IS_ADDR_LOOPBACK(&p->addr.v6);
}

static int change_address(struct kernel_net *net, const struct kernel_interface *i,
	const struct ep_prefix *p, bool add)
{
	struct nl_addr *local = nl_addr_build(p->family, &p->addr, p->family == AF_INET ? 4 : 16);
	struct rtnl_addr *addr = rtnl_addr_alloc();
	char text[EP_PREFIX_STRLEN];
	int error = -NLE_NOMEM;

	if (local && addr) {
		nl_addr_set_prefixlen(local, p->len);
		rtnl_addr_set_ifindex(addr, i->index);
		error = rtnl_addr_set_local(addr, local);
		rtnl_addr_set_prefixlen(addr, p->len);
		if (is_link_local(p))
			rtnl_addr_set_scope(addr, RT_SCOPE_LINK);
		if (p->family == AF_INET6)
			rtnl_addr_set_flags(addr, IFA_F_NODAD);
		if (!error)
			error = add ? rtnl_addr_add(
					      net->requests, addr, NLM_F_REPLACE | NLM_F_CREATE)
				    : rtnl_addr_delete(net->requests, addr, 0);
	}
	if (addr)
		rtnl_addr_put(addr);
	if (local)
		nl_addr_put(local);
	if (!error || (!add && error == -NLE_NOADDR))
		return 0;
	return log_failure(
		error, add ? "add address" : "remove address", i->name, ep_prefix_format(p, text));
}

static bool has_address(const struct ep_prefix *addresses, size_t n, const struct ep_prefix *p)
{
	for (size_t i = 0; i < n; i++)
		if (ep_prefix_equal(&addresses[i], p))
			return true;
	return false;
}

static void set_sysctl(const char *family, const char *name, const char *key, const char *value)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/%s/conf/%s/%s", family, name, key);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return; /* no such family: adding an address will tell */
	if (write(fd, value, strlen(value)) < 0)
		log_warn("can't set %s to %s: %s", path, value, strerror(errno));
	close(fd);
}

static int change_link(struct kernel_net *net, const struct kernel_interface *i, unsigned mtu,
	const struct ep_mac *mac)
{
	/* Not the cache's object: comparing a veth's kind with none crashes libnl 3.7. */
	struct rtnl_link *which = rtnl_link_alloc(), *change = rtnl_link_alloc();
	struct nl_addr *address = mac ? nl_addr_build(AF_LLC, mac, sizeof(*mac)) : NULL;
	int error = -NLE_NOMEM, result = 0;

	if (which && change && (address || !mac)) {
		rtnl_link_set_ifindex(which, i->index);
		if (mtu)
			rtnl_link_set_mtu(change, mtu);
		if (address)
			rtnl_link_set_addr(change, address);
		rtnl_link_set_flags(change, IFF_UP);
		error = rtnl_link_change(net->requests, which, change, 0);
	}
	if (error)
		result = log_failure(error, "set MAC address, MTU and state", i->name, "up");
	if (address)
		nl_addr_put(address);
	if (which)
		rtnl_link_put(which);
	if (change)
		rtnl_link_put(change);
	return result;
}

/* RFC 4291, appendix A: the interface identifier from the MAC address. */
static struct ep_prefix link_local_of(const struct ep_mac *mac)
{
	struct ep_prefix p = {.family = AF_INET6, .len = 64};

	p.addr.bytes[0] = 0xfe;
	p.addr.bytes[1] = 0x80;
	memcpy(&p.addr.bytes[8], mac->bytes, 3);
	p.addr.bytes[8] ^= 0x02;
	p.addr.bytes[11] = 0xff;
	p.addr.bytes[12] = 0xfe;
	memcpy(&p.addr.bytes[13], mac->bytes + 3, 3);
	return p;
}

static bool is_from_mac(const struct ep_prefix *p)
{
	return p->addr.bytes[11] == 0xff && p->addr.bytes[12] == 0xfe;
}

static bool wants_link_local(const struct kernel_interface *i, const struct kernel_wish *wish)
{
	bool wanted = false;

	for (size_t n = 0; n < wish->n_addresses; n++)
		wanted |= wish->addresses[n].family == AF_INET6;
	return wanted && !i->loopback;
}

static bool has_other_link_local(const struct kernel_interface *i)
{
	for (size_t n = 0; n < i->n_addresses; n++)
		if (is_link_local(&i->addresses[n]) && !is_from_mac(&i->addresses[n]))
			return true;
	return false;
}

static bool same_mac(const struct ep_mac *a, const struct ep_mac *b)
{
	return !memcmp(a->bytes, b->bytes, sizeof(a->bytes));
}

/* The MAC address that the interface is to get, or NULL if it has the right one. */
static const struct ep_mac *new_mac(
	const struct kernel_interface *i, const struct kernel_wish *wish)
{
	const struct ep_mac *wanted = wish->has_mac    ? &wish->mac
				      : i->has_own_mac ? &i->own_mac
						       : NULL;

	return wanted && !i->loopback && !same_mac(wanted, &i->mac) ? wanted : NULL;
}

/*
 * The kernel keeps a link-local address that it made from a former MAC address: ours, or the random
 * one of a TAP that isn't set up yet. Those are removed. Returns 0 or the errno of a failure.
 */
static int forget_link_locals(
	struct kernel_net *net, const struct kernel_interface *i, const struct ep_prefix *right)
{
	int result = 0;

	for (size_t k = 0; k < i->n_addresses; k++) {
		const struct ep_prefix *p = &i->addresses[k];
		int error = 0;

		if (is_link_local(p) && is_from_mac(p) && !ep_prefix_equal(p, right))
			error = change_address(net, i, p, false);
		result = result ? result : error;
	}
	return result;
}

int kernel_net_apply(struct kernel_net *net, const struct kernel_wish *wish)
{
	static struct kernel_interface all[KERNEL_MAX_INTERFACES];
	size_t n = kernel_net_interfaces(net, all, KERNEL_MAX_INTERFACES);
	const struct kernel_interface *i = NULL;
	const struct ep_mac *mac;
	struct rtnl_link *link;
	struct ep_prefix link_local;
	bool admin_up;
	int error, result = 0;

	for (size_t k = 0; k < n; k++)
		if (!strcmp(all[k].name, wish->name))
			i = &all[k];
	if (!i)
		return ENODEV;
	link = rtnl_link_get(net->links, i->index);
	admin_up = link && (rtnl_link_get_flags(link) & IFF_UP);
	if (link)
		rtnl_link_put(link);
	if (!i->loopback) {
		set_sysctl("ipv6", i->name, "accept_dad", "0");
		set_sysctl("ipv6", i->name, "dad_transmits", "0");
		set_sysctl("ipv6", i->name, "accept_ra", "0");
		/* Neighbours are told when the MAC address changes. */
		set_sysctl("ipv4", i->name, "arp_notify", "1");
		set_sysctl("ipv6", i->name, "ndisc_notify", "1");
	}
	mac = new_mac(i, wish);
	link_local = link_local_of(mac ? mac : &i->mac);
	if (!admin_up || mac || (wish->mtu && wish->mtu != i->mtu)) {
		error = change_link(net, i, wish->mtu == i->mtu ? 0 : wish->mtu, mac);
		result = result ? result : error;
	}
	for (size_t k = 0; k < i->n_addresses; k++) {
		const struct ep_prefix *p = &i->addresses[k];

		if (!is_ours_to_remove(p, i->loopback) ||
			has_address(wish->addresses, wish->n_addresses, p))
			continue;
		error = change_address(net, i, p, false);
		result = result ? result : error;
	}
	for (size_t k = 0; k < wish->n_addresses; k++) {
		const struct ep_prefix *p = &wish->addresses[k];

		if (has_address(i->addresses, i->n_addresses, p))
			continue;
		error = change_address(net, i, p, true);
		result = result ? result : error;
	}
	if (!i->loopback) {
		error = forget_link_locals(net, i, &link_local);
		result = result ? result : error;
	}
	if (wants_link_local(i, wish) && !has_other_link_local(i) &&
		!has_address(i->addresses, i->n_addresses, &link_local)) {
		error = change_address(net, i, &link_local, true);
		result = result ? result : error;
	}
	return result;
}

/* A line of /proc/net/tcp: number, local ADDRESS:PORT, remote ADDRESS:PORT, state; hexadecimal. */
static bool is_closing(char *line, unsigned port)
{
	char *fields[4], *rest = line;
	unsigned long state;
	bool is_ours = false;

	for (size_t i = 0; i < 4; i++) {
		fields[i] = strtok_r(rest, " ", &rest);
		if (!fields[i])
			return false;
	}
	for (size_t i = 1; i <= 2; i++) {
		const char *colon = strchr(fields[i], ':');

		is_ours |= colon && strtoul(colon + 1, NULL, 16) == port;
	}
	state = strtoul(fields[3], NULL, 16);
	return is_ours && (state == TCP_FIN_WAIT1 || state == TCP_CLOSING || state == TCP_LAST_ACK);
}

static unsigned count_closing(const char *path, unsigned port)
{
	FILE *file = fopen(path, "re");
	char line[512];
	unsigned n = 0;

	while (file && fgets(line, sizeof(line), file))
		n += is_closing(line, port);
	if (file)
		fclose(file);
	return n;
}

unsigned kernel_net_closing(unsigned port)
{
	return count_closing("/proc/net/tcp", port) + count_closing("/proc/net/tcp6", port);
}

static int change_route(struct kernel_net *net, const struct kernel_route *r, bool add)
{
	size_t size = r->prefix.family == AF_INET ? 4 : 16;
	struct nl_addr *dst = nl_addr_build(r->prefix.family, &r->prefix.addr, size);
	struct nl_addr *via = nl_addr_build(r->via.family, &r->via.addr, size);
	struct rtnl_route *route = rtnl_route_alloc();
	struct rtnl_nexthop *nh = rtnl_route_nh_alloc();
	int error = -NLE_NOMEM;

	if (dst && via && route && nh) {
		nl_addr_set_prefixlen(dst, r->prefix.len);
		rtnl_route_set_family(route, r->prefix.family);
		rtnl_route_set_table(route, RT_TABLE_MAIN);
		rtnl_route_set_protocol(route, RTPROT_STATIC);
		rtnl_route_set_scope(route, RT_SCOPE_UNIVERSE);
		rtnl_route_set_dst(route, dst);
		rtnl_route_nh_set_gateway(nh, via);
		rtnl_route_add_nexthop(route, nh);
		nh = NULL; /* the route's now */
		error = add ? rtnl_route_add(net->requests, route, NLM_F_REPLACE | NLM_F_CREATE)
			    : rtnl_route_delete(net->requests, route, 0);
	}
	if (nh)
		rtnl_route_nh_free(nh);
	if (route)
		rtnl_route_put(route);
	if (dst)
		nl_addr_put(dst);
	if (via)
		nl_addr_put(via);
	return errno_of(error);
}

int kernel_net_route_add(struct kernel_net *net, const struct kernel_route *route)
{
	return change_route(net, route, true);
}

int kernel_net_route_remove(struct kernel_net *net, const struct kernel_route *route)
{
	int error = change_route(net, route, false);

	return error == ESRCH || error == ENODEV ? 0 : error;
}
