/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * MPLS (RFC 3032). TTLs follow the uniform model (RFC 3443): a pushed label takes the packet's TTL,
 * a popped one gives it back where it is lower.
 */
#include "dataplane/engine.h"

#include <rte_ip.h>

#include "common/fib_msg.h"
#include "dataplane/ip.h"
#include "dataplane/nexthop.h"

/* The packet below the last label; its TTL becomes that of the label. */
static void input_payload(struct engine *engine, struct packet *pkt, uint8_t ttl)
{
	struct rte_mbuf *m = pkt->m;
	uint8_t *bytes = rte_pktmbuf_mtod(m, uint8_t *);

	pkt->from_mpls = true;
	pkt->forwardable = true;
	pkt->domain = (uint8_t)(engine->vpn ? 1u << engine_home_port(engine, pkt)
					    : (1u << engine->n_ports) - 1);
	if (m->data_len >= sizeof(struct rte_ipv4_hdr) && bytes[0] >> 4 == 4) {
		struct rte_ipv4_hdr *ip = (struct rte_ipv4_hdr *)bytes;

		if (ttl < ip->time_to_live)
			ip4_set_ttl(ip, ttl);
		ip4_input(engine, pkt);
	} else if (m->data_len >= sizeof(struct rte_ipv6_hdr) && bytes[0] >> 4 == 6) {
		struct rte_ipv6_hdr *ip = (struct rte_ipv6_hdr *)bytes;

		if (ttl < ip->hop_limits)
			ip->hop_limits = ttl;
		ip6_input(engine, pkt);
	} else {
		engine_drop(engine, pkt->in_port, m, DROP_mpls_malformed);
	}
}

/* Swaps the top label for the target's, or removes it (penultimate hop). */
static void switch_label(struct engine *engine, struct packet *pkt, uint32_t value, uint32_t entry)
{
	struct rte_mbuf *m = pkt->m;
	bool bottom = entry >> 8 & 1;
	uint8_t ttl = (uint8_t)entry;
	uint16_t ethertype = RTE_ETHER_TYPE_MPLS;
	struct target target;
	const uint8_t *bytes;

	if (ttl <= 1) {
		engine_drop(engine, pkt->in_port, m, DROP_ttl_expired);
		return;
	}
	switch (engine_follow(engine, value, AF_UNSPEC, NULL, entry >> 12, &target)) {
	case VERDICT_FORWARD:
		break;
	case VERDICT_BLACKHOLE:
		engine_drop(engine, pkt->in_port, m, DROP_blackhole);
		return;
	case VERDICT_UNREACHABLE:
		engine_drop(engine, pkt->in_port, m, DROP_unreachable_route);
		return;
	default:
		engine_drop(engine, pkt->in_port, m, DROP_unresolved_route);
		return;
	}
	if (!target.gateway) {
		engine_drop(engine, pkt->in_port, m, DROP_unresolved_route);
		return;
	}
	rte_pktmbuf_adj(m, sizeof(entry));
	if (bottom) {
		bytes = rte_pktmbuf_mtod(m, const uint8_t *);
		if (m->data_len < sizeof(struct rte_ipv4_hdr)) {
			engine_drop(engine, pkt->in_port, m, DROP_mpls_malformed);
			return;
		}
		ethertype = bytes[0] >> 4 == 4 ? RTE_ETHER_TYPE_IPV4 : RTE_ETHER_TYPE_IPV6;
	}
	if (m->data_len + 4u * target.n_labels > engine_iface(engine, target.port)->mtu) {
		engine_drop(engine, pkt->in_port, m, DROP_too_big);
		return;
	}
	engine_output(engine, &target, ethertype, (uint8_t)(ttl - 1), m);
}

void mpls_input(struct engine *engine, struct packet *pkt)
{
	struct rte_mbuf *m = pkt->m;
	uint32_t entry, value;

	if (!engine->ports[pkt->in_port].mpls) {
		engine_drop(engine, pkt->in_port, m, DROP_mpls_not_allowed);
		return;
	}
	if (!pkt->l2_unicast) {
		engine_drop(engine, pkt->in_port, m, DROP_not_for_us);
		return;
	}
	if (m->data_len < sizeof(entry)) {
		engine_drop(engine, pkt->in_port, m, DROP_mpls_malformed);
		return;
	}
	entry = rte_be_to_cpu_32(*rte_pktmbuf_mtod(m, const unaligned_uint32_t *));
	value = atomic_load_explicit(&engine->labels[entry >> 12], memory_order_acquire);
	if (value == 0) {
		engine_drop(engine, pkt->in_port, m, DROP_mpls_unknown_label);
		return;
	}
	if (nh_group_at(engine->groups, ROUTE_GROUP(value))->action != FIB_POP) {
		switch_label(engine, pkt, value, entry);
		return;
	}
	if (!(entry >> 8 & 1)) {
		engine_drop(engine, pkt->in_port, m, DROP_mpls_not_bottom);
		return;
	}
	rte_pktmbuf_adj(m, sizeof(entry));
	input_payload(engine, pkt, (uint8_t)entry);
}
