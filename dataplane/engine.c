/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/engine.h"

#include <string.h>
#include <rte_byteorder.h>
#include <rte_mpls.h>

#include "dataplane/fib.h"
#include "dataplane/neighbor.h"
#include "dataplane/nexthop.h"

void engine_begin(struct engine *engine, uint64_t now_ms)
{
	engine->now_ms = now_ms;
	engine->now_ifaces = atomic_load_explicit(&engine->ifaces, memory_order_acquire);
}

void engine_tick(struct engine *engine)
{
	neighbors_tick(engine);
}

/* ---- frames out -------------------------------------------------------------------------- */

void engine_drop(struct engine *engine, unsigned port, struct rte_mbuf *m, enum drop_reason why)
{
	engine->ports[port].counters.drops[why]++;
	rte_pktmbuf_free(m);
}

void engine_send(struct engine *engine, unsigned port, struct rte_mbuf *m)
{
	struct port *p = &engine->ports[port];

	if (!engine_iface(engine, port)->up) {
		engine_drop(engine, port, m, DROP_admin_down);
		return;
	}
	if (p->n_tx == ENGINE_QUEUE) {
		engine_drop(engine, port, m, DROP_tx_full);
		return;
	}
	p->tx[p->n_tx++] = m;
}

void engine_punt(struct engine *engine, unsigned port, struct rte_mbuf *m)
{
	struct port *p = &engine->ports[port];

	if (p->n_punt == ENGINE_QUEUE) {
		engine_drop(engine, port, m, DROP_tap_full);
		return;
	}
	p->punt[p->n_punt++] = m;
}

static struct rte_ether_hdr *push_ethernet(struct rte_mbuf *m, const struct rte_ether_addr *dst,
	const struct rte_ether_addr *src, uint16_t ethertype)
{
	struct rte_ether_hdr *eth =
		(struct rte_ether_hdr *)rte_pktmbuf_prepend(m, sizeof(struct rte_ether_hdr));

	if (eth) {
		eth->dst_addr = *dst;
		eth->src_addr = *src;
		eth->ether_type = rte_cpu_to_be_16(ethertype);
	}
	return eth;
}

void engine_send_to(struct engine *engine, unsigned port, const struct rte_ether_addr *dst,
	uint16_t ethertype, struct rte_mbuf *m)
{
	if (push_ethernet(m, dst, &engine_iface(engine, port)->mac, ethertype))
		engine_send(engine, port, m);
	else
		engine_drop(engine, port, m, DROP_no_buffer);
}

unsigned engine_home_port(const struct engine *engine, const struct packet *pkt)
{
	if (!pkt->from_mpls)
		return pkt->in_port;
	for (unsigned i = 0; i < engine->n_ports; i++) {
		if (engine->ports[i].customer)
			return i;
	}
	return pkt->in_port;
}

void engine_punt_packet(struct engine *engine, struct packet *pkt, uint16_t ethertype)
{
	unsigned port = engine_home_port(engine, pkt);
	const struct rte_ether_addr *mac = &engine_iface(engine, port)->mac;
	struct rte_ether_hdr *eth;

	if (pkt->from_mpls) {
		/* The kernel must not take it for one that it sent itself. */
		struct rte_ether_addr from = {{0x02, 0, 0, 0, 0, 1}};

		if (!push_ethernet(pkt->m, mac, &from, ethertype)) {
			engine_drop(engine, port, pkt->m, DROP_no_buffer);
			return;
		}
	} else {
		/* Its own header still stands in front of the packet. */
		eth = (struct rte_ether_hdr *)rte_pktmbuf_prepend(pkt->m, sizeof(*eth));
		if (!eth) {
			engine_drop(engine, port, pkt->m, DROP_no_buffer);
			return;
		}
	}
	engine_punt(engine, port, pkt->m);
}

struct rte_mbuf *engine_alloc(struct engine *engine, unsigned port)
{
	struct rte_mbuf *m = rte_pktmbuf_alloc(engine->pool);

	if (!m)
		engine->ports[port].counters.drops[DROP_no_buffer]++;
	else
		m->hash.usr = 0;
	return m;
}

void engine_output(struct engine *engine, const struct target *target, uint16_t ethertype,
	uint8_t ttl, struct rte_mbuf *m)
{
	for (unsigned i = target->n_labels; i-- > 0;) {
		uint32_t *entry = (uint32_t *)rte_pktmbuf_prepend(m, sizeof(*entry));
		bool bottom = ethertype != RTE_ETHER_TYPE_MPLS;

		if (!entry) {
			engine_drop(engine, target->port, m, DROP_no_buffer);
			return;
		}
		*entry = rte_cpu_to_be_32(target->labels[i] << 12 | (uint32_t)bottom << 8 | ttl);
		ethertype = RTE_ETHER_TYPE_MPLS;
	}
	neighbor_output(engine, target->port, target->family, target->gateway, ethertype, m);
}

/* ---- frames in --------------------------------------------------------------------------- */

static uint8_t domain_of(const struct engine *engine, unsigned port)
{
	return (uint8_t)(engine->vpn ? 1u << port : (1u << engine->n_ports) - 1);
}

void engine_input(struct engine *engine, unsigned port, struct rte_mbuf *m)
{
	struct port *p = &engine->ports[port];
	const struct rte_ether_hdr *eth;
	struct rte_ether_addr from;
	struct packet pkt = {
		.m = m,
		.in_port = (uint8_t)port,
		.domain = domain_of(engine, port),
		.forwardable = !engine->vpn || p->customer,
	};
	uint16_t ethertype;

	p->counters.rx_packets++;
	p->counters.rx_bytes += m->pkt_len;
	if (!engine_iface(engine, port)->up) {
		engine_drop(engine, port, m, DROP_admin_down);
		return;
	}
	if (m->nb_segs != 1 || m->data_len < sizeof(*eth)) {
		engine_drop(engine, port, m, DROP_malformed);
		return;
	}
	eth = rte_pktmbuf_mtod(m, const struct rte_ether_hdr *);
	pkt.l2_unicast = rte_is_same_ether_addr(&eth->dst_addr, &engine_iface(engine, port)->mac);
	if (!pkt.l2_unicast && !rte_is_multicast_ether_addr(&eth->dst_addr)) {
		engine_drop(engine, port, m, DROP_not_for_us);
		return;
	}
	from = eth->src_addr;
	ethertype = rte_be_to_cpu_16(eth->ether_type);
	m->port = (uint16_t)port;
	/* Of an earlier packet in this buffer; a frame whose label is swapped is never looked into.
	 */
	m->hash.usr = 0;
	rte_pktmbuf_adj(m, sizeof(*eth));
	switch (ethertype) {
	case RTE_ETHER_TYPE_IPV4:
		ip4_input(engine, &pkt);
		break;
	case RTE_ETHER_TYPE_IPV6:
		ip6_input(engine, &pkt);
		break;
	case RTE_ETHER_TYPE_MPLS:
		mpls_input(engine, &pkt);
		break;
	case RTE_ETHER_TYPE_ARP:
		arp_input(engine, &pkt, &from);
		break;
	default:
		engine_drop(engine, port, m, DROP_unknown_ethertype);
	}
}

/* ---- routes ------------------------------------------------------------------------------ */

static const struct nh *choose(const struct nh_group *group, uint32_t flow_hash)
{
	uint32_t total = 0, pick;

	if (group->n == 1)
		return group->nexthops[0].port >= 0 ? &group->nexthops[0] : NULL;
	for (unsigned i = 0; i < group->n; i++) {
		if (group->nexthops[i].port >= 0)
			total += group->nexthops[i].hop.weight;
	}
	if (total == 0)
		return NULL;
	pick = flow_hash % total;
	for (unsigned i = 0; i < group->n; i++) {
		const struct nh *nh = &group->nexthops[i];

		if (nh->port < 0)
			continue;
		if (pick < nh->hop.weight)
			return nh;
		pick -= nh->hop.weight;
	}
	/* The control thread resolved a next hop while we looked. */
	return NULL;
}

enum verdict engine_follow(struct engine *engine, uint32_t value, uint8_t family, const void *dst,
	uint32_t flow_hash, struct target *target)
{
	const struct nh_group *group = nh_group_at(engine->groups, ROUTE_GROUP(value));
	const struct nh *nh;
	int port;

	switch (group->action) {
	case FIB_BLACKHOLE:
		return VERDICT_BLACKHOLE;
	case FIB_UNREACHABLE:
		return VERDICT_UNREACHABLE;
	default:
		break;
	}
	nh = choose(group, flow_hash);
	port = nh ? nh->port : NH_UNRESOLVED;
	if (port < 0)
		return VERDICT_UNRESOLVED;
	target->port = (unsigned)port;
	target->n_labels = nh->hop.n_labels;
	target->labels = nh->hop.labels;
	if (nh->hop.family == AF_UNSPEC) {
		target->family = family;
		target->gateway = dst;
	} else {
		target->family = nh->hop.family;
		target->gateway = &nh->hop.gateway;
	}
	return VERDICT_FORWARD;
}

static bool is_subnet_broadcast(const struct iface_addr *a, const void *dst)
{
	uint32_t addr, host;

	if (a->family != AF_INET || a->len >= 31)
		return false;
	memcpy(&addr, dst, sizeof(addr));
	host = a->len == 0 ? ~0u : (1u << (32 - a->len)) - 1;
	addr = rte_be_to_cpu_32(addr) & host;
	return addr == host || addr == 0;
}

enum verdict engine_route(struct engine *engine, uint8_t domain, uint8_t family, const void *dst,
	uint32_t flow_hash, struct target *target)
{
	const struct iface_addr *connected = NULL;
	unsigned connected_port = 0;
	bool has_fib = !engine->vpn;
	uint32_t value = FIB_NO_ROUTE;
	enum verdict verdict;

	for (unsigned i = 0; i < engine->n_ports; i++) {
		const struct iface *iface = engine_iface(engine, i);
		const struct iface_addr *a;

		if (!(domain >> i & 1))
			continue;
		has_fib |= engine->ports[i].customer;
		if (iface_owns(iface, family, dst)) {
			target->port = i;
			return VERDICT_LOCAL;
		}
		a = iface_subnet(iface, family, dst);
		if (a && (!connected || a->len > connected->len)) {
			connected = a;
			connected_port = i;
		}
	}
	if (has_fib)
		value = fib_lookup(family == AF_INET ? engine->fib4 : engine->fib6, dst);
	if (connected && (value == FIB_NO_ROUTE || connected->len >= ROUTE_LEN(value))) {
		if (is_subnet_broadcast(connected, dst))
			return VERDICT_BROADCAST;
		*target = (struct target){
			.port = connected_port,
			.family = family,
			.gateway = dst,
		};
		return VERDICT_FORWARD;
	}
	if (value == FIB_NO_ROUTE)
		return VERDICT_NO_ROUTE;
	verdict = engine_follow(engine, value, family, dst, flow_hash, target);
	/* A customer's packets go to the core in its VPN, or not at all. */
	if (verdict == VERDICT_FORWARD && engine->vpn && target->n_labels == 0 &&
		!engine->ports[target->port].customer)
		return VERDICT_UNRESOLVED;
	return verdict;
}
