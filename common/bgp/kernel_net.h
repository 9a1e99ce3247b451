/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_KERNEL_NET_H
#define EDGEPLEX_KERNEL_NET_H

/*
 * The kernel's interfaces, addresses and routes by rtnetlink: what is there, and making it what is
 * wished. Use from one thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <net/if.h>

#include "common/prefix.h"

#define KERNEL_MAX_ADDRESSES 32 /* per interface; more are not looked at */
#define KERNEL_MAX_INTERFACES 64

struct kernel_interface {
	char name[IFNAMSIZ];
	unsigned index;
	unsigned mtu; /* bytes */
	bool up;      /* administratively, and with carrier */
	bool loopback;
	struct ep_mac mac;
	bool has_own_mac; /* the forwarder tells its NIC's own address in the interface's alias */
	struct ep_mac own_mac;
	size_t n_addresses;
	struct ep_prefix addresses[KERNEL_MAX_ADDRESSES]; /* host bits set; link-local ones too */
};

struct kernel_net;

/* Opens a view that follows the kernel. NULL with errno set. */
struct kernel_net *kernel_net_open(void);
void kernel_net_close(struct kernel_net *net); /* accepts NULL */

/* Polls readable when the kernel has told something; then call kernel_net_run(). */
int kernel_net_fd(const struct kernel_net *net);

/* Reads what the kernel told. Returns whether anything changed. Doesn't block. */
bool kernel_net_run(struct kernel_net *net);

/*
 * Writes the interfaces as they are to `interfaces` (at most `max`), in the order of their indices.
 * Returns their number.
 */
size_t kernel_net_interfaces(
	struct kernel_net *net, struct kernel_interface *interfaces, size_t max);

/* What an interface is to be like. */
struct kernel_wish {
	char name[IFNAMSIZ];
	unsigned mtu; /* bytes; 0: leave it */
	bool has_mac; /* else the NIC's own */
	struct ep_mac mac;
	size_t n_addresses;
	struct ep_prefix addresses[KERNEL_MAX_ADDRESSES];
};

/*
 * Makes the interface so: up, with these addresses and no other ones but link-local (and, on a
 * loopback, 127.0.0.0/8 and ::1), its MTU, its MAC address (and the link-local address that is made
 * from it; of neighbours, those that can be told at once are). IPv6 addresses skip duplicate
 * address detection: another copy of the same VM may use the same address for a moment. Where IPv6
 * is wanted and the kernel made no link-local address, one is made from the MAC. What is right
 * already isn't touched. Returns 0; ENODEV if there is no such interface (yet); another errno of
 * the first failure, with everything else done nevertheless. Failures are logged.
 */
int kernel_net_apply(struct kernel_net *net, const struct kernel_wish *wish);

/*
 * How many TCP connections to or from this port were closed here, and their peers haven't
 * acknowledged the end of what we sent.
 */
unsigned kernel_net_closing(unsigned port);

struct kernel_route {
	struct ep_prefix prefix;
	struct ep_prefix via; /* an address */
};

/*
 * Adds (or replaces) and removes a route of ours in the main table. Returns 0 or errno: removing
 * what isn't there is no error.
 */
int kernel_net_route_add(struct kernel_net *net, const struct kernel_route *route);
int kernel_net_route_remove(struct kernel_net *net, const struct kernel_route *route);

#endif
