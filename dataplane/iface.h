/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_IFACE_H
#define EDGEPLEX_DATAPLANE_IFACE_H

/* What the kernel says about the ports' TAPs: a snapshot that doesn't change once published. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <netinet/in.h>
#include <rte_ether.h>

#define MAX_PORTS 2
#define IFACE_MAX_ADDRS 64

struct iface_addr {
	uint8_t family; /* AF_INET or AF_INET6 */
	uint8_t len;    /* of its subnet, in bits */
	union {
		struct in_addr v4;
		struct in6_addr v6;
		uint8_t bytes[16];
	} addr;
};

struct iface {
	uint32_t ifindex; /* 0: there is no TAP */
	bool up;
	uint16_t mtu;
	struct rte_ether_addr mac; /* what frames for us are sent to, and ours come from */
	uint8_t n_addrs;
	struct iface_addr addrs[IFACE_MAX_ADDRS];
};

struct ifaces {
	unsigned n;
	struct iface ports[MAX_PORTS];
};

/* Do the first `len` bits of two addresses agree? */
bool addr_same_prefix(const void *a, const void *b, unsigned len);

/* The address with the longest subnet that holds `addr` (network order), or NULL. */
const struct iface_addr *iface_subnet(const struct iface *iface, uint8_t family, const void *addr);

/* Is `addr` one of the interface's own? */
bool iface_owns(const struct iface *iface, uint8_t family, const void *addr);

/*
 * The address to speak to `to` with: one of the subnet that holds it, else the first one of wide
 * enough scope, else NULL.
 */
const struct iface_addr *iface_source(const struct iface *iface, uint8_t family, const void *to);

/* The port whose subnet holds a gateway (link-local ones need `ifindex`), or -1. */
int ifaces_port_of(
	const struct ifaces *ifaces, uint32_t ifindex, uint8_t family, const void *gateway);

#endif
