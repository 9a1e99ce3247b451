/* SPDX-License-Identifier: GPL-2.0-or-later */
/* IPv6: checks, local delivery, forwarding (RFC 8200, 4291). */
#include "dataplane/engine.h"

#include <string.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>

#include "dataplane/ip.h"
#include "dataplane/neighbor.h"

static const struct in6_addr *in6(const uint8_t *addr)
{
	return (const struct in6_addr *)addr;
}

static uint32_t flow_hash(const struct rte_mbuf *m)
{
	const struct rte_ipv6_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv6_hdr *);
	uint32_t hash = ip->proto, words[8];

	memcpy(words, ip->src_addr, sizeof(words));
	for (unsigned i = 0; i < 8; i++)
		hash = flow_mix(hash, words[i]);
	return flow_mix(hash, flow_ports(ip->proto, m, sizeof(*ip)));
}

static bool martian_source(const struct in6_addr *a)
{
	return IN6_IS_ADDR_MULTICAST(a) || IN6_IS_ADDR_LOOPBACK(a) || IN6_IS_ADDR_V4MAPPED(a);
}

static bool martian_destination(const struct in6_addr *a)
{
	return IN6_IS_ADDR_LOOPBACK(a) || IN6_IS_ADDR_UNSPECIFIED(a) || IN6_IS_ADDR_V4MAPPED(a);
}

static void refuse(struct engine *engine, struct packet *pkt, uint8_t code, enum drop_reason why)
{
	icmp6_error(engine, pkt, ICMP6_DST_UNREACH, code, 0);
	engine_drop(engine, pkt->in_port, pkt->m, why);
}

/* To an address of ours, or multicast on the link. */
static void local(struct engine *engine, struct packet *pkt)
{
	struct rte_mbuf *m = pkt->m;
	const struct rte_ipv6_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv6_hdr *);
	bool multicast = IN6_IS_ADDR_MULTICAST(in6(ip->dst_addr));

	if (ip->proto == IPPROTO_ICMPV6) {
		const struct icmp6_hdr *icmp = (const struct icmp6_hdr *)(ip + 1);

		if (m->data_len < sizeof(*ip) + sizeof(*icmp) || !icmp6_checksum_ok(ip)) {
			engine_drop(engine, pkt->in_port, m, DROP_malformed);
			return;
		}
		if (icmp->icmp6_type == ICMP6_ECHO_REQUEST && icmp->icmp6_code == 0) {
			icmp6_echo(engine, pkt);
			return;
		}
		if (icmp->icmp6_type == ND_REDIRECT) {
			engine_drop(engine, pkt->in_port, m, DROP_nd_redirect);
			return;
		}
		if (nd_input(engine, pkt))
			return;
	}
	if (multicast && pkt->from_mpls) {
		engine_drop(engine, pkt->in_port, m, DROP_multicast);
		return;
	}
	engine_punt_packet(engine, pkt, RTE_ETHER_TYPE_IPV6);
}

static void route(struct engine *engine, struct packet *pkt)
{
	struct rte_mbuf *m = pkt->m;
	struct rte_ipv6_hdr *ip = rte_pktmbuf_mtod(m, struct rte_ipv6_hdr *);
	struct target target;
	enum verdict verdict =
		engine_route(engine, pkt->domain, AF_INET6, ip->dst_addr, flow_hash(m), &target);
	uint16_t room;

	if (verdict == VERDICT_LOCAL) {
		local(engine, pkt);
		return;
	}
	if (!pkt->forwardable) {
		engine_drop(engine, pkt->in_port, m, DROP_not_forwarding);
		return;
	}
	if (IN6_IS_ADDR_UNSPECIFIED(in6(ip->src_addr))) {
		engine_drop(engine, pkt->in_port, m, DROP_martian_source);
		return;
	}
	if (IN6_IS_ADDR_LINKLOCAL(in6(ip->src_addr))) {
		refuse(engine, pkt, ICMP6_DST_UNREACH_BEYONDSCOPE, DROP_martian_source);
		return;
	}
	if (ip->hop_limits <= 1) {
		icmp6_error(engine, pkt, ICMP6_TIME_EXCEEDED, ICMP6_TIME_EXCEED_TRANSIT, 0);
		engine_drop(engine, pkt->in_port, m, DROP_ttl_expired);
		return;
	}
	switch (verdict) {
	case VERDICT_FORWARD:
		break;
	case VERDICT_BLACKHOLE:
		engine_drop(engine, pkt->in_port, m, DROP_blackhole);
		return;
	case VERDICT_UNREACHABLE:
		refuse(engine, pkt, ICMP6_DST_UNREACH_ADMIN, DROP_unreachable_route);
		return;
	case VERDICT_UNRESOLVED:
		refuse(engine, pkt, ICMP6_DST_UNREACH_NOROUTE, DROP_unresolved_route);
		return;
	default:
		refuse(engine, pkt, ICMP6_DST_UNREACH_NOROUTE, DROP_no_route);
		return;
	}
	room = engine_iface(engine, target.port)->mtu;
	room = (uint16_t)(room - RTE_MIN(room, 4u * target.n_labels));
	if (m->data_len > room) {
		icmp6_error(engine, pkt, ICMP6_PACKET_TOO_BIG, 0, room);
		engine_drop(engine, pkt->in_port, m, DROP_too_big);
		return;
	}
	ip->hop_limits--;
	engine_output(engine, &target, RTE_ETHER_TYPE_IPV6, ip->hop_limits, m);
}

void ip6_input(struct engine *engine, struct packet *pkt)
{
	struct rte_mbuf *m = pkt->m;
	const struct rte_ipv6_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv6_hdr *);
	const struct in6_addr *src, *dst;
	uint32_t length;

	if (m->data_len < sizeof(*ip) || rte_be_to_cpu_32(ip->vtc_flow) >> 28 != 6) {
		engine_drop(engine, pkt->in_port, m, DROP_malformed);
		return;
	}
	length = (uint32_t)sizeof(*ip) + rte_be_to_cpu_16(ip->payload_len);
	if (length > m->data_len) {
		engine_drop(engine, pkt->in_port, m, DROP_malformed);
		return;
	}
	rte_pktmbuf_trim(m, (uint16_t)(m->data_len - length));
	m->hash.usr = MARK_FOREIGN | (pkt->from_mpls ? MARK_FROM_MPLS : 0) |
		      (uint32_t)pkt->domain << MARK_DOMAIN_SHIFT;
	src = in6(ip->src_addr);
	dst = in6(ip->dst_addr);
	if (martian_source(src)) {
		engine_drop(engine, pkt->in_port, m, DROP_martian_source);
		return;
	}
	for (unsigned i = 0; i < engine->n_ports; i++) {
		if (pkt->domain >> i & 1 &&
			iface_owns(engine_iface(engine, i), AF_INET6, ip->src_addr)) {
			engine_drop(engine, pkt->in_port, m, DROP_spoofed_source);
			return;
		}
	}
	if (martian_destination(dst)) {
		engine_drop(engine, pkt->in_port, m, DROP_martian_destination);
		return;
	}
	if (IN6_IS_ADDR_MULTICAST(dst)) {
		/* Only link scope can be for us; nothing is forwarded. */
		if (IN6_IS_ADDR_MC_LINKLOCAL(dst) && !pkt->from_mpls)
			local(engine, pkt);
		else
			engine_drop(engine, pkt->in_port, m, DROP_multicast);
		return;
	}
	if (!pkt->l2_unicast && !pkt->from_mpls) {
		engine_drop(engine, pkt->in_port, m, DROP_multicast);
		return;
	}
	if (IN6_IS_ADDR_LINKLOCAL(dst)) {
		if (!pkt->from_mpls &&
			iface_owns(engine_iface(engine, pkt->in_port), AF_INET6, ip->dst_addr))
			local(engine, pkt);
		else
			engine_drop(engine, pkt->in_port, m, DROP_martian_destination);
		return;
	}
	route(engine, pkt);
}

void ip6_output(struct engine *engine, unsigned port, uint8_t domain, struct rte_mbuf *m)
{
	const struct rte_ipv6_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv6_hdr *);
	struct target target;

	m->hash.usr = 0;
	if (IN6_IS_ADDR_LINKLOCAL(in6(ip->dst_addr))) {
		neighbor_output(engine, port, AF_INET6, ip->dst_addr, RTE_ETHER_TYPE_IPV6, m);
		return;
	}
	if (engine_route(engine, domain, AF_INET6, ip->dst_addr, flow_hash(m), &target) !=
			VERDICT_FORWARD ||
		m->data_len + 4u * target.n_labels > engine_iface(engine, target.port)->mtu) {
		engine_drop(engine, port, m, DROP_no_route);
		return;
	}
	engine_output(engine, &target, RTE_ETHER_TYPE_IPV6, ip->hop_limits, m);
}
