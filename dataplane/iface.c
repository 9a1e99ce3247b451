/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/iface.h"

#include <string.h>

bool addr_same_prefix(const void *a, const void *b, unsigned len)
{
	const uint8_t *x = a, *y = b;
	unsigned bytes = len / 8, rest = len % 8;

	if (memcmp(x, y, bytes) != 0)
		return false;
	return rest == 0 || ((x[bytes] ^ y[bytes]) >> (8 - rest)) == 0;
}

const struct iface_addr *iface_subnet(const struct iface *iface, uint8_t family, const void *addr)
{
	const struct iface_addr *best = NULL;

	for (unsigned i = 0; i < iface->n_addrs; i++) {
		const struct iface_addr *a = &iface->addrs[i];

		if (a->family == family && (!best || a->len > best->len) &&
			addr_same_prefix(a->addr.bytes, addr, a->len))
			best = a;
	}
	return best;
}

bool iface_owns(const struct iface *iface, uint8_t family, const void *addr)
{
	size_t size = family == AF_INET ? 4 : 16;

	for (unsigned i = 0; i < iface->n_addrs; i++) {
		if (iface->addrs[i].family == family &&
			memcmp(iface->addrs[i].addr.bytes, addr, size) == 0)
			return true;
	}
	return false;
}

static bool is_link_local(const struct iface_addr *a)
{
	return a->family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&a->addr.v6);
}

const struct iface_addr *iface_source(const struct iface *iface, uint8_t family, const void *to)
{
	const struct iface_addr *a = iface_subnet(iface, family, to);

	if (a)
		return a;
	for (unsigned i = 0; i < iface->n_addrs; i++) {
		if (iface->addrs[i].family == family && !is_link_local(&iface->addrs[i]))
			return &iface->addrs[i];
	}
	return NULL;
}

int ifaces_port_of(
	const struct ifaces *ifaces, uint32_t ifindex, uint8_t family, const void *gateway)
{
	bool link_local =
		family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL((const struct in6_addr *)gateway);

	for (unsigned i = 0; i < ifaces->n; i++) {
		const struct iface *iface = &ifaces->ports[i];

		if (iface->ifindex == 0 || (ifindex != 0 && iface->ifindex != ifindex))
			continue;
		if (family == AF_UNSPEC || link_local) {
			if (ifindex != 0)
				return (int)i;
		} else if (iface_subnet(iface, family, gateway)) {
			return (int)i;
		}
	}
	return -1;
}
