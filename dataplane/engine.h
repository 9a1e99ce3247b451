/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_ENGINE_H
#define EDGEPLEX_DATAPLANE_ENGINE_H

/*
 * The fast path: what happens to a frame between a port's receive queue and another one's transmit
 * queue. It knows nothing of drivers, threads or sockets: frames go in by engine_input(), and come
 * out in the ports' `tx` and `punt` arrays, which the caller empties. One thread only.
 *
 * Domains. A packet sees the addresses and subnets of the ports in its domain. By default all
 * ports are one domain, and the forwarder is a plain router. In VPN mode each port is one of its
 * own: what customers send can't reach the core port's subnets and addresses (they may use the same
 * addresses themselves), packets without a label are not forwarded from the core port, and what
 * a label delivered belongs to the customer's domain.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <net/if.h>
#include <rte_ether.h>
#include <rte_mbuf.h>

#include "dataplane/counters.h"
#include "dataplane/iface.h"

#define ENGINE_BURST 32
/* Frames that one burst can make at most wait in these; what doesn't fit is dropped, counted. */
#define ENGINE_QUEUE 256

#define LABEL_MAX ((1u << 20) - 1)

/*
 * A route's value: its group's number, the length of its prefix, and the generation in which the
 * peer of the FIB socket last sent it. Never 0.
 */
#define ROUTE_GROUP(value) ((value) & ((1u << 23) - 1))
#define ROUTE_LEN(value) ((value) >> 23 & 0xff)
#define ROUTE_GENERATION(value) ((value) >> 31)
#define ROUTE_VALUE(group, len, generation) \
	((group) | (uint32_t)(len) << 23 | (uint32_t)(generation) << 31)

struct fib;
struct fib_domain;
struct neighbors;
struct nh_table;

struct port {
	char name[IFNAMSIZ];
	bool mpls; /* labelled frames are accepted */
	bool customer;
	struct rte_mbuf *tx[ENGINE_QUEUE];
	struct rte_mbuf *punt[ENGINE_QUEUE];
	unsigned n_tx, n_punt;
	struct port_counters counters;
	uint32_t icmp_tokens;    /* ICMP errors that may be sent now */
	uint64_t icmp_refill_ms; /* when tokens were last added */
};

struct engine {
	struct rte_mempool *pool;
	struct fib_domain *domain;
	struct fib *fib4, *fib6;
	_Atomic uint32_t *labels; /* routes by label: LABEL_MAX + 1 values */
	struct nh_table *groups;
	_Atomic(const struct ifaces *) ifaces; /* set by the control thread */
	const struct ifaces *now_ifaces;       /* the snapshot in use for this burst */
	struct neighbors *neighbors;
	unsigned n_ports;
	struct port ports[MAX_PORTS];
	bool vpn;
	uint64_t now_ms; /* CLOCK_MONOTONIC, set by engine_begin() */
	/*
	 * Until then (same clock) only what is forwarded goes out: nothing that the kernel sends,
	 * no ARP, no neighbour discovery. Set by the control thread.
	 */
	_Atomic uint64_t mute_until_ms;
	bool rehearsing; /* what comes in now is a copy, and nothing of it may be heard of
			    (rehearsal.h) */
	uint16_t ip_id;
};

/* A packet on its way; `m` begins with its network header. */
struct packet {
	struct rte_mbuf *m;
	uint8_t in_port;
	uint8_t domain;   /* bit per port whose addresses it sees */
	bool from_mpls;   /* a label delivered it */
	bool forwardable; /* else it may only be for us */
	bool l2_unicast;  /* the frame was for our MAC address alone */
};

/* Takes the newest snapshot of interfaces; call before a burst, when the reader is online. */
void engine_begin(struct engine *engine, uint64_t now_ms);

/* A frame from the wire. Takes `m`. */
void engine_input(struct engine *engine, unsigned port, struct rte_mbuf *m);

/* Work that time brings; call about once a second. */
void engine_tick(struct engine *engine);

/* ---- what the fast path's files use from each other --------------------------------------- */

static inline const struct iface *engine_iface(const struct engine *engine, unsigned port)
{
	return &engine->now_ifaces->ports[port];
}

static inline bool engine_is_mute(const struct engine *engine)
{
	return engine->now_ms < atomic_load_explicit(&engine->mute_until_ms, memory_order_relaxed);
}

/* Counts, and frees `m`. */
void engine_drop(struct engine *engine, unsigned port, struct rte_mbuf *m, enum drop_reason why);

/* Queues a frame to the wire or to the kernel. Takes `m`. */
void engine_send(struct engine *engine, unsigned port, struct rte_mbuf *m);
void engine_punt(struct engine *engine, unsigned port, struct rte_mbuf *m);

/* Puts an Ethernet header in front and queues. Takes `m`. */
void engine_send_to(struct engine *engine, unsigned port, const struct rte_ether_addr *dst,
	uint16_t ethertype, struct rte_mbuf *m);

/* Gives a packet to the kernel by its port's TAP (a labelled one by the customer's). */
void engine_punt_packet(struct engine *engine, struct packet *pkt, uint16_t ethertype);

/* The port that answers for a packet: where it came in, or the customer's when labelled. */
unsigned engine_home_port(const struct engine *engine, const struct packet *pkt);

/* An empty buffer, or NULL (counted on `port`). */
struct rte_mbuf *engine_alloc(struct engine *engine, unsigned port);

void ip4_input(struct engine *engine, struct packet *pkt);
void ip6_input(struct engine *engine, struct packet *pkt);
void mpls_input(struct engine *engine, struct packet *pkt);
void arp_input(struct engine *engine, struct packet *pkt, const struct rte_ether_addr *from);
/* Neighbour discovery in a valid ICMPv6 packet; tells whether the packet was taken. */
bool nd_input(struct engine *engine, struct packet *pkt);

/* Routes and sends an IPv4 or IPv6 packet that we made. Takes `m`. */
void ip4_output(struct engine *engine, unsigned port, uint8_t domain, struct rte_mbuf *m);
void ip6_output(struct engine *engine, unsigned port, uint8_t domain, struct rte_mbuf *m);

/* Echo requests to us are turned round. Takes the packet. */
void icmp4_echo(struct engine *engine, struct packet *pkt);
void icmp6_echo(struct engine *engine, struct packet *pkt);

/*
 * Sends an ICMP error about a packet, unless the rules forbid it; the packet stays the caller's
 * and must not have been changed. `info`: the MTU, or 0.
 */
void icmp4_error(
	struct engine *engine, const struct packet *pkt, uint8_t type, uint8_t code, uint32_t info);
void icmp6_error(
	struct engine *engine, const struct packet *pkt, uint8_t type, uint8_t code, uint32_t info);

/* Where a packet goes. */
enum verdict {
	VERDICT_LOCAL,     /* to an address of ours */
	VERDICT_BROADCAST, /* to a subnet's broadcast address */
	VERDICT_FORWARD,
	VERDICT_NO_ROUTE,
	VERDICT_UNRESOLVED,
	VERDICT_BLACKHOLE,
	VERDICT_UNREACHABLE,
};

struct target {
	unsigned port;
	uint8_t family; /* of the gateway */
	uint8_t n_labels;
	const uint32_t *labels;
	const void *gateway;
};

/* Looks `dst` up. For VERDICT_LOCAL only `target->port` is set. */
enum verdict engine_route(struct engine *engine, uint8_t domain, uint8_t family, const void *dst,
	uint32_t flow_hash, struct target *target);

/* The same for a route's value. `dst` is the gateway of an on-link next hop. */
enum verdict engine_follow(struct engine *engine, uint32_t value, uint8_t family, const void *dst,
	uint32_t flow_hash, struct target *target);

/* Pushes the target's labels and sends to its gateway. `pkt` tells whom to blame. Takes `m`. */
void engine_output(struct engine *engine, const struct target *target, uint16_t ethertype,
	uint8_t ttl, struct rte_mbuf *m);

#endif
