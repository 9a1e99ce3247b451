/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <zebra.h>

#include "if.h"
#include "linklist.h"
#include "vrf.h"
#include "zclient.h"

#include "bgpd/bgpd.h"
#include "bgpd/bgp_nexthop.h"

#include "common/bgp/bgp_convert.h"
#include "common/bgp/bgp_host.h"
#include "common/bgp/bgp_if.h"
#undef log_debug
#include "common/log.h"

static struct kernel_net *net;
static struct host_event *net_event, *apply_event;
static void (*changed_fn)(void *ctx);
static void *changed_ctx;

static struct kernel_wish *wishes;
static size_t n_wishes;
static struct kernel_route *routes;
static size_t n_routes;

/* What bgpd has been told. */
static struct kernel_interface known[KERNEL_MAX_INTERFACES];
static size_t n_known;

/* ---- telling bgpd ---------------------------------------------------------------------------- */

static const struct kernel_interface *find(
	const struct kernel_interface *all, size_t n, const char *name)
{
	for (size_t i = 0; i < n; i++)
		if (!strcmp(all[i].name, name))
			return &all[i];
	return NULL;
}

static bool holds(const struct kernel_interface *i, const struct ep_prefix *address)
{
	for (size_t k = 0; i && k < i->n_addresses; k++)
		if (ep_prefix_equal(&i->addresses[k], address))
			return true;
	return false;
}

static struct connected *connected_of(struct interface *ifp, const struct prefix *p)
{
	struct connected *c;
	struct listnode *node;

	for (ALL_LIST_ELEMENTS_RO(ifp->connected, node, c))
		if (prefix_same(c->address, p))
			return c;
	return NULL;
}

/*
 * bgpd must not hear of a loopback's addresses as its own: in a CVM the PE's address is there,
 * which is the next hop of every PVM's routes, and bgpd would drop those as its own. It does look
 * the interface up by the session's local address, so the address has to be in libfrr's list.
 */
static bool is_own(const struct kernel_interface *i)
{
	return i->up && !i->loopback;
}

static void tell_addresses(struct interface *ifp, const struct kernel_interface *old,
	const struct kernel_interface *now)
{
	struct bgp *bgp = bgp_get_default();
	bool was_own = old && is_own(old), stays_own = was_own && now && is_own(now);

	for (size_t k = 0; old && k < old->n_addresses; k++) {
		struct prefix p = frr_prefix_from_ep(&old->addresses[k]);
		struct connected *c;

		if (holds(now, &old->addresses[k]))
			continue;
		c = connected_of(ifp, &p);
		if (!c)
			continue;
		if (stays_own && bgp)
			bgp_connected_delete(bgp, c);
		listnode_delete(ifp->connected, c);
		connected_free(&c);
	}
	for (size_t k = 0; now && k < now->n_addresses; k++) {
		struct prefix p = frr_prefix_from_ep(&now->addresses[k]);
		struct connected *c;

		if (holds(old, &now->addresses[k]))
			continue;
		c = connected_add_by_prefix(ifp, &p, NULL);
		SET_FLAG(c->conf, ZEBRA_IFC_REAL);
		if (stays_own && bgp)
			bgp_connected_add(bgp, c);
	}
}

static void tell_interface(const struct kernel_interface *old, const struct kernel_interface *now)
{
	const struct kernel_interface *any = now ? now : old;
	struct interface *ifp;

	assert(any);
	ifp = if_get_by_name(any->name, VRF_DEFAULT, VRF_DEFAULT_NAME);
	if (now && ifp->ifindex != (ifindex_t)now->index)
		if_set_index(ifp, now->index);
	if (old && is_own(old) && !(now && is_own(now))) {
		ifp->flags &= ~(uint64_t)(IFF_UP | IFF_RUNNING);
		if_down_via_zapi(ifp);
	}
	if (now) {
		SET_FLAG(ifp->status, ZEBRA_INTERFACE_ACTIVE);
		SET_FLAG(ifp->status, ZEBRA_INTERFACE_LINKDETECTION);
		ifp->mtu = ifp->mtu6 = now->mtu;
		ifp->ll_type = now->loopback ? ZEBRA_LLT_LOOPBACK : ZEBRA_LLT_ETHER;
		ifp->hw_addr_len = sizeof(now->mac);
		memcpy(ifp->hw_addr, &now->mac, sizeof(now->mac));
		ifp->flags = now->up ? IFF_UP | IFF_RUNNING : 0;
		ifp->flags |= now->loopback ? IFF_LOOPBACK : IFF_BROADCAST | IFF_MULTICAST;
		if (!old)
			if_new_via_zapi(ifp);
	}
	tell_addresses(ifp, old, now);
	if (now && is_own(now) && !(old && is_own(old)))
		if_up_via_zapi(ifp);
	if (!now)
		if_destroy_via_zapi(ifp);
	if (!old || !now || old->up != now->up)
		log_info("interface %s name=%s",
			!now      ? "gone"
			: now->up ? "up"
				  : "down",
			any->name);
}

static bool same_interface(const struct kernel_interface *a, const struct kernel_interface *b)
{
	if (a->index != b->index || a->mtu != b->mtu || a->up != b->up ||
		memcmp(&a->mac, &b->mac, sizeof(a->mac)) != 0 || a->n_addresses != b->n_addresses)
		return false;
	for (size_t k = 0; k < a->n_addresses; k++)
		if (!holds(b, &a->addresses[k]))
			return false;
	return true;
}

/* Tells bgpd the difference between what it knows and what is. */
static void sync_bgpd(void)
{
	static struct kernel_interface now[KERNEL_MAX_INTERFACES];
	size_t n = kernel_net_interfaces(net, now, KERNEL_MAX_INTERFACES);
	bool changed = false;

	for (size_t i = 0; i < n_known; i++) {
		const struct kernel_interface *same = find(now, n, known[i].name);

		/* A new interface of an old name is another one: its index is a new one. */
		if (same && same->index == known[i].index)
			continue;
		tell_interface(&known[i], NULL);
		known[i].name[0] = '\0';
		changed = true;
	}
	for (size_t i = 0; i < n; i++) {
		const struct kernel_interface *old = find(known, n_known, now[i].name);

		if (old && same_interface(old, &now[i]))
			continue;
		tell_interface(old, &now[i]);
		changed = true;
	}
	memcpy(known, now, n * sizeof(*now));
	n_known = n;
	if (changed && changed_fn)
		changed_fn(changed_ctx);
}

/* ---- making it so ---------------------------------------------------------------------------- */

static void apply_all(void *ctx)
{
	char text[EP_PREFIX_STRLEN];

	(void)ctx;
	for (size_t i = 0; i < n_wishes; i++)
		kernel_net_apply(net, &wishes[i]);
	for (size_t i = 0; i < n_routes; i++) {
		int error = kernel_net_route_add(net, &routes[i]);

		/* Its gateway's interface may not be up yet; it is tried again with each change. */
		if (error)
			log_debug("can't add route prefix=%s: %s",
				ep_prefix_format(&routes[i].prefix, text), strerror(error));
	}
}

static void on_net(void *ctx)
{
	(void)ctx;
	if (kernel_net_run(net)) {
		sync_bgpd();
		host_event_soon(apply_event);
	}
	host_event_on_read(net_event, kernel_net_fd(net));
}

int bgp_ifs_init(void (*changed)(void *ctx), void *ctx)
{
	changed_fn = changed;
	changed_ctx = ctx;
	net = kernel_net_open();
	if (!net)
		return errno;
	net_event = host_event_new(on_net, NULL);
	apply_event = host_event_new(apply_all, NULL);
	sync_bgpd();
	host_event_on_read(net_event, kernel_net_fd(net));
	return 0;
}

void bgp_if_configure(const struct kernel_wish *wished, size_t n)
{
	struct kernel_wish *copy = calloc(n + 1, sizeof(*copy));

	if (!copy)
		abort();
	for (size_t i = 0; i < n; i++)
		copy[i] = wished[i];
	for (size_t i = 0; i < n_wishes; i++) {
		struct kernel_wish bare = {0};
		bool gone = true;

		for (size_t k = 0; k < n; k++)
			gone &= strcmp(wished[k].name, wishes[i].name) != 0;
		if (!gone)
			continue;
		memcpy(bare.name, wishes[i].name, sizeof(bare.name));
		kernel_net_apply(net, &bare);
	}
	free(wishes);
	wishes = copy;
	n_wishes = n;
	apply_all(NULL);
}

static bool same_route(const struct kernel_route *a, const struct kernel_route *b)
{
	return ep_prefix_equal(&a->prefix, &b->prefix) && ep_prefix_equal(&a->via, &b->via);
}

void bgp_if_configure_routes(const struct kernel_route *wished, size_t n)
{
	struct kernel_route *copy = calloc(n + 1, sizeof(*copy));

	if (!copy)
		abort();
	for (size_t i = 0; i < n; i++)
		copy[i] = wished[i];
	for (size_t i = 0; i < n_routes; i++) {
		bool gone = true;

		for (size_t k = 0; k < n; k++)
			gone &= !same_route(&wished[k], &routes[i]);
		if (gone)
			kernel_net_route_remove(net, &routes[i]);
	}
	free(routes);
	routes = copy;
	n_routes = n;
	apply_all(NULL);
}

void bgp_if_tell_instance(void)
{
	struct bgp *bgp = bgp_get_default();

	for (size_t i = 0; bgp && i < n_known; i++) {
		struct interface *ifp;
		struct connected *c;
		struct listnode *node, *next;

		if (!is_own(&known[i]))
			continue;
		ifp = if_get_by_name(known[i].name, VRF_DEFAULT, VRF_DEFAULT_NAME);
		for (ALL_LIST_ELEMENTS(ifp->connected, node, next, c))
			bgp_connected_add(bgp, c);
	}
}

size_t bgp_if_all(const struct kernel_interface **interfaces)
{
	*interfaces = known;
	return n_known;
}

const struct kernel_interface *bgp_if_find(const char *name)
{
	return find(known, n_known, name);
}

const struct kernel_interface *bgp_if_connected(const struct ep_prefix *address)
{
	const struct kernel_interface *best = NULL;
	uint8_t best_len = 0;

	for (size_t i = 0; i < n_known; i++)
		for (size_t k = 0; known[i].up && k < known[i].n_addresses; k++) {
			struct ep_prefix subnet = known[i].addresses[k];

			if (subnet.family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&subnet.addr.v6))
				continue;
			ep_prefix_mask(&subnet);
			if (!ep_prefix_contains(&subnet, address))
				continue;
			if (best && subnet.len <= best_len)
				continue;
			best = &known[i];
			best_len = subnet.len;
		}
	return best;
}
