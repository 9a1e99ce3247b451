/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_NEIGHBOR_H
#define EDGEPLEX_DATAPLANE_NEIGHBOR_H

/*
 * Neighbours on the ports' links, by ARP (RFC 826) and neighbour discovery (RFC 4861). The table
 * belongs to the fast path; only neighbors_snapshot() may be called from another thread.
 */

#include <stddef.h>
#include <stdint.h>
#include <rte_ether.h>
#include <rte_mbuf.h>

struct engine;
struct neighbors;

enum neighbor_state {
	NEIGHBOR_FREE,
	NEIGHBOR_INCOMPLETE, /* asked; packets wait for the answer */
	NEIGHBOR_REACHABLE,
	NEIGHBOR_STALE, /* usable; will be probed when used */
	NEIGHBOR_DELAY, /* used since it became stale */
	NEIGHBOR_PROBE, /* usable; unicast probes are on their way */
};

struct neighbor_info {
	unsigned port;
	uint8_t family;
	uint8_t addr[16];
	struct rte_ether_addr mac;
	enum neighbor_state state;
};

/* Returns NULL when memory ran out. */
struct neighbors *neighbors_create(void);
/* Frees waiting packets too. Accepts NULL. */
void neighbors_destroy(struct neighbors *neighbors);

const char *neighbor_state_name(enum neighbor_state state);

/*
 * Sends a packet (network or label header first) to a neighbour, or lets it wait for its address.
 * Takes `m`.
 */
void neighbor_output(struct engine *engine, unsigned port, uint8_t family, const void *addr,
	uint16_t ethertype, struct rte_mbuf *m);

/*
 * Heard from a neighbour. `solicited`: it answered us, so it is reachable. `create`: it wants
 * something from us, so remember it. `override` (RFC 4861): take a new MAC address.
 */
void neighbor_heard(struct engine *engine, unsigned port, uint8_t family, const void *addr,
	const struct rte_ether_addr *mac, bool solicited, bool override, bool create);

/* Retransmissions and aging; once a second. */
void neighbors_tick(struct engine *engine);

/* Copies up to `max` entries; returns how many there are. Any thread. */
size_t neighbors_snapshot(struct neighbors *neighbors, struct neighbor_info *out, size_t max);

#endif
