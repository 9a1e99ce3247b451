/* SPDX-License-Identifier: GPL-2.0-or-later */
/* IPv4: checks, local delivery, forwarding, fragmentation (RFC 791, 1812, 1122). */
#include "dataplane/engine.h"

#include <string.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>

#include "dataplane/ip.h"

#define IP4_DF 0x4000
#define IP4_MF 0x2000
#define IP4_OFFSET 0x1fff
#define IP4_MAX_PAYLOAD ((IP4_OFFSET + 1) * 8u)

static bool is_multicast(uint32_t addr)
{
	return addr >> 28 == 0xe;
}

static bool martian_source(uint32_t addr)
{
	return addr >> 24 == 0 || addr >> 24 == 127 || addr >> 28 >= 0xe;
}

/* Not unicast that may be forwarded: "this network", loopback, class E. */
static bool martian_destination(uint32_t addr)
{
	return addr >> 24 == 0 || addr >> 24 == 127 || (addr >> 28 == 0xf && addr != ~0u);
}

static bool is_link_local(uint32_t addr)
{
	return addr >> 16 == 0xa9fe;
}

static uint32_t flow_hash(const struct rte_mbuf *m)
{
	const struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv4_hdr *);
	uint32_t hash = flow_mix(flow_mix(ip->src_addr, ip->dst_addr), ip->next_proto_id);

	if (ip->fragment_offset & rte_cpu_to_be_16(IP4_MF | IP4_OFFSET))
		return hash;
	return flow_mix(hash, flow_ports(ip->next_proto_id, m, rte_ipv4_hdr_len(ip)));
}

/* Loose and strict source routes must not steer packets past the FIB. */
static bool has_source_route(const struct rte_ipv4_hdr *ip)
{
	const uint8_t *option = (const uint8_t *)(ip + 1);
	unsigned left = rte_ipv4_hdr_len(ip) - (unsigned)sizeof(*ip);

	while (left > 0 && option[0] != 0) {
		unsigned size;

		if (option[0] == 1) {
			size = 1;
		} else {
			if (option[0] == IPOPT_LSRR || option[0] == IPOPT_SSRR)
				return true;
			if (left < 2 || option[1] < 2 || option[1] > left)
				return false;
			size = option[1];
		}
		option += size;
		left -= size;
	}
	return false;
}

/* One fragment: a copy of the header and `n` bytes of payload from `offset`. */
static struct rte_mbuf *make_fragment(struct engine *engine, unsigned port,
	const struct rte_mbuf *from, uint32_t offset, uint32_t n, bool last)
{
	const struct rte_ipv4_hdr *old = rte_pktmbuf_mtod(from, const struct rte_ipv4_hdr *);
	uint8_t header_len = rte_ipv4_hdr_len(old);
	uint16_t field = rte_be_to_cpu_16(old->fragment_offset);
	struct rte_mbuf *m = engine_alloc(engine, port);
	struct rte_ipv4_hdr *ip;

	if (!m)
		return NULL;
	ip = (struct rte_ipv4_hdr *)rte_pktmbuf_append(m, (uint16_t)(header_len + n));
	if (!ip) {
		engine_drop(engine, port, m, DROP_no_buffer);
		return NULL;
	}
	memcpy(ip, old, header_len);
	memcpy((char *)ip + header_len, (const char *)old + header_len + offset, n);
	/* Options stay in every fragment: those that mustn't be copied are rare enough. */
	field = (uint16_t)((field & ~IP4_OFFSET) | ((field & IP4_OFFSET) + offset / 8));
	if (!last)
		field |= IP4_MF;
	ip->fragment_offset = rte_cpu_to_be_16(field);
	ip->total_length = rte_cpu_to_be_16((uint16_t)(header_len + n));
	ip4_set_checksum(ip);
	m->port = from->port;
	m->hash.usr = from->hash.usr;
	return m;
}

static void fragment(
	struct engine *engine, const struct target *target, uint16_t mtu, struct rte_mbuf *m)
{
	const struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv4_hdr *);
	uint32_t header_len = rte_ipv4_hdr_len(ip);
	uint32_t payload = m->data_len - header_len;
	uint32_t room;

	if (mtu < header_len + 8) {
		engine_drop(engine, target->port, m, DROP_too_big);
		return;
	}
	/* A fragment already, of a packet that would end beyond what an offset can say. */
	if ((rte_be_to_cpu_16(ip->fragment_offset) & IP4_OFFSET) * 8u + payload > IP4_MAX_PAYLOAD) {
		engine_drop(engine, target->port, m, DROP_malformed);
		return;
	}
	room = (mtu - header_len) & ~7u;
	for (uint32_t offset = 0; offset < payload; offset += room) {
		uint32_t n = RTE_MIN(room, payload - offset);
		struct rte_mbuf *part =
			make_fragment(engine, target->port, m, offset, n, offset + n == payload);

		if (!part)
			break;
		engine->ports[target->port].counters.fragments++;
		engine_output(engine, target, RTE_ETHER_TYPE_IPV4, ip->time_to_live, part);
	}
	rte_pktmbuf_free(m);
}

static void forward(struct engine *engine, struct packet *pkt, const struct target *target)
{
	struct rte_mbuf *m = pkt->m;
	struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod(m, struct rte_ipv4_hdr *);
	uint16_t mtu = engine_iface(engine, target->port)->mtu;
	uint16_t room = (uint16_t)(mtu - RTE_MIN(mtu, 4u * target->n_labels));

	if (m->data_len > room) {
		if (ip->fragment_offset & rte_cpu_to_be_16(IP4_DF)) {
			icmp4_error(engine, pkt, ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, room);
			engine_drop(engine, pkt->in_port, m, DROP_too_big);
			return;
		}
		ip4_set_ttl(ip, (uint8_t)(ip->time_to_live - 1));
		fragment(engine, target, room, m);
		return;
	}
	ip4_set_ttl(ip, (uint8_t)(ip->time_to_live - 1));
	engine_output(engine, target, RTE_ETHER_TYPE_IPV4, ip->time_to_live, m);
}

static void refuse(struct engine *engine, struct packet *pkt, uint8_t code, enum drop_reason why)
{
	icmp4_error(engine, pkt, ICMP_DEST_UNREACH, code, 0);
	engine_drop(engine, pkt->in_port, pkt->m, why);
}

static void local(struct engine *engine, struct packet *pkt)
{
	struct rte_mbuf *m = pkt->m;
	const struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv4_hdr *);
	uint8_t header_len = rte_ipv4_hdr_len(ip);

	if (ip->next_proto_id == IPPROTO_ICMP &&
		!(ip->fragment_offset & rte_cpu_to_be_16(IP4_MF | IP4_OFFSET)) &&
		m->data_len >= header_len + 8u) {
		const uint8_t *icmp = (const uint8_t *)ip + header_len;

		if (icmp[0] == ICMP_ECHO && icmp[1] == 0) {
			icmp4_echo(engine, pkt);
			return;
		}
		if (icmp[0] == ICMP_REDIRECT) {
			engine_drop(engine, pkt->in_port, m, DROP_nd_redirect);
			return;
		}
	}
	engine_punt_packet(engine, pkt, RTE_ETHER_TYPE_IPV4);
}

static void route(struct engine *engine, struct packet *pkt)
{
	struct rte_mbuf *m = pkt->m;
	const struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv4_hdr *);
	struct target target;
	enum verdict verdict =
		engine_route(engine, pkt->domain, AF_INET, &ip->dst_addr, flow_hash(m), &target);

	if (verdict == VERDICT_LOCAL) {
		local(engine, pkt);
		return;
	}
	if (verdict == VERDICT_BROADCAST) {
		engine_drop(engine, pkt->in_port, m, DROP_broadcast);
		return;
	}
	if (!pkt->forwardable) {
		engine_drop(engine, pkt->in_port, m, DROP_not_forwarding);
		return;
	}
	if (is_link_local(rte_be_to_cpu_32(ip->src_addr)) ||
		is_link_local(rte_be_to_cpu_32(ip->dst_addr))) {
		engine_drop(engine, pkt->in_port, m, DROP_martian_destination);
		return;
	}
	if (ip->time_to_live <= 1) {
		icmp4_error(engine, pkt, ICMP_TIME_EXCEEDED, ICMP_EXC_TTL, 0);
		engine_drop(engine, pkt->in_port, m, DROP_ttl_expired);
		return;
	}
	switch (verdict) {
	case VERDICT_FORWARD:
		forward(engine, pkt, &target);
		break;
	case VERDICT_BLACKHOLE:
		engine_drop(engine, pkt->in_port, m, DROP_blackhole);
		break;
	case VERDICT_UNREACHABLE:
		refuse(engine, pkt, ICMP_HOST_UNREACH, DROP_unreachable_route);
		break;
	case VERDICT_UNRESOLVED:
		refuse(engine, pkt, ICMP_NET_UNREACH, DROP_unresolved_route);
		break;
	default:
		refuse(engine, pkt, ICMP_NET_UNREACH, DROP_no_route);
	}
}

void ip4_input(struct engine *engine, struct packet *pkt)
{
	struct rte_mbuf *m = pkt->m;
	const struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv4_hdr *);
	uint32_t src, dst;
	uint16_t length;

	if (m->data_len < sizeof(*ip) || ip->version != 4 || rte_ipv4_hdr_len(ip) < sizeof(*ip)) {
		engine_drop(engine, pkt->in_port, m, DROP_malformed);
		return;
	}
	length = rte_be_to_cpu_16(ip->total_length);
	if (length < rte_ipv4_hdr_len(ip) || length > m->data_len ||
		rte_raw_cksum(ip, rte_ipv4_hdr_len(ip)) != 0xffff) {
		engine_drop(engine, pkt->in_port, m, DROP_malformed);
		return;
	}
	rte_pktmbuf_trim(m, (uint16_t)(m->data_len - length));
	m->hash.usr = MARK_FOREIGN | (pkt->from_mpls ? MARK_FROM_MPLS : 0) |
		      (uint32_t)pkt->domain << MARK_DOMAIN_SHIFT;
	src = rte_be_to_cpu_32(ip->src_addr);
	dst = rte_be_to_cpu_32(ip->dst_addr);
	if (martian_source(src)) {
		engine_drop(engine, pkt->in_port, m, DROP_martian_source);
		return;
	}
	for (unsigned i = 0; i < engine->n_ports; i++) {
		if (pkt->domain >> i & 1 &&
			iface_owns(engine_iface(engine, i), AF_INET, &ip->src_addr)) {
			engine_drop(engine, pkt->in_port, m, DROP_spoofed_source);
			return;
		}
	}
	if (is_multicast(dst)) {
		/* 224.0.0.0/24 never leaves a link; whether anybody listens is the kernel's call.
		 */
		if (dst >> 8 == 0xe00000 && !pkt->from_mpls)
			engine_punt_packet(engine, pkt, RTE_ETHER_TYPE_IPV4);
		else
			engine_drop(engine, pkt->in_port, m, DROP_multicast);
		return;
	}
	/* RFC 1812, 5.3.4: what came to everybody by link is not forwarded. */
	if (dst == ~0u || (!pkt->l2_unicast && !pkt->from_mpls)) {
		engine_drop(engine, pkt->in_port, m, DROP_broadcast);
		return;
	}
	if (martian_destination(dst)) {
		engine_drop(engine, pkt->in_port, m, DROP_martian_destination);
		return;
	}
	if (rte_ipv4_hdr_len(ip) > sizeof(*ip) && has_source_route(ip)) {
		engine_drop(engine, pkt->in_port, m, DROP_source_route);
		return;
	}
	route(engine, pkt);
}

void ip4_output(struct engine *engine, unsigned port, uint8_t domain, struct rte_mbuf *m)
{
	const struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv4_hdr *);
	struct target target;
	uint16_t mtu, room;

	m->hash.usr = 0;
	if (engine_route(engine, domain, AF_INET, &ip->dst_addr, flow_hash(m), &target) !=
		VERDICT_FORWARD) {
		engine_drop(engine, port, m, DROP_no_route);
		return;
	}
	mtu = engine_iface(engine, target.port)->mtu;
	room = (uint16_t)(mtu - RTE_MIN(mtu, 4u * target.n_labels));
	if (m->data_len > room)
		fragment(engine, &target, room, m);
	else
		engine_output(engine, &target, RTE_ETHER_TYPE_IPV4, ip->time_to_live, m);
}
