/* SPDX-License-Identifier: GPL-2.0-or-later */
/* ICMP and ICMPv6: echo replies and errors (RFC 792, 1812 section 4.3.2.7, 4443). */
#include "dataplane/engine.h"

#include <string.h>
#include <netinet/icmp6.h>
#include <netinet/in.h>
#include <netinet/ip_icmp.h>

#include "dataplane/ip.h"

#define ICMP_BURST 100       /* errors in a row per port */
#define ICMP_PER_SECOND 100  /* errors per port */
#define ICMP4_ERROR_MAX 576  /* bytes of an error, RFC 1812 */
#define ICMP6_ERROR_MAX 1280 /* RFC 4443: the minimum MTU */
#define OUR_TTL 64

static bool may_send_error(struct engine *engine, unsigned port)
{
	struct port *p = &engine->ports[port];
	uint64_t tokens = (engine->now_ms - p->icmp_refill_ms) * ICMP_PER_SECOND / 1000;

	if (tokens > 0 || p->icmp_refill_ms == 0) {
		if (p->icmp_refill_ms == 0)
			tokens = ICMP_BURST;
		p->icmp_tokens = (uint32_t)RTE_MIN(p->icmp_tokens + tokens, (uint64_t)ICMP_BURST);
		p->icmp_refill_ms = engine->now_ms;
	}
	if (p->icmp_tokens == 0) {
		p->counters.drops[DROP_icmp_rate_limited]++;
		return false;
	}
	p->icmp_tokens--;
	return true;
}

/* ---- IPv4 -------------------------------------------------------------------------------- */

void icmp4_echo(struct engine *engine, struct packet *pkt)
{
	struct rte_mbuf *m = pkt->m;
	struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod(m, struct rte_ipv4_hdr *);
	struct icmphdr *icmp = (struct icmphdr *)((char *)ip + rte_ipv4_hdr_len(ip));
	uint16_t icmp_len = (uint16_t)(m->data_len - rte_ipv4_hdr_len(ip));
	uint32_t src = ip->src_addr;

	if (rte_raw_cksum(icmp, icmp_len) != 0xffff) {
		engine_drop(engine, pkt->in_port, m, DROP_malformed);
		return;
	}
	icmp->type = ICMP_ECHOREPLY;
	icmp->checksum = 0;
	icmp->checksum = (uint16_t)~rte_raw_cksum(icmp, icmp_len);
	ip->src_addr = ip->dst_addr;
	ip->dst_addr = src;
	ip->time_to_live = OUR_TTL;
	ip->packet_id = rte_cpu_to_be_16(engine->ip_id++);
	ip->fragment_offset = 0;
	ip4_set_checksum(ip);
	engine->ports[pkt->in_port].counters.echo_replies++;
	ip4_output(engine, pkt->in_port, pkt->domain, m);
}

/* RFC 1812, 4.3.2.7: no error about an error, a fragment but the first, a group or nobody. */
static bool may_complain4(const struct packet *pkt)
{
	const struct rte_mbuf *m = pkt->m;
	const struct rte_ipv4_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv4_hdr *);
	uint32_t src = rte_be_to_cpu_32(ip->src_addr), dst = rte_be_to_cpu_32(ip->dst_addr);
	uint8_t header_len = rte_ipv4_hdr_len(ip);

	if (!pkt->l2_unicast && !pkt->from_mpls)
		return false;
	if (src >> 24 == 0 || src >> 24 == 127 || src >> 28 >= 0xe || dst >> 28 >= 0xe)
		return false;
	if (ip->fragment_offset & rte_cpu_to_be_16(0x1fff))
		return false;
	if (ip->next_proto_id == IPPROTO_ICMP) {
		if (m->data_len < header_len + 1u)
			return false;
		switch (*((const uint8_t *)ip + header_len)) {
		case ICMP_ECHO:
		case ICMP_ECHOREPLY:
		case ICMP_TIMESTAMP:
		case ICMP_TIMESTAMPREPLY:
		case ICMP_INFO_REQUEST:
		case ICMP_INFO_REPLY:
		case ICMP_ADDRESS:
		case ICMP_ADDRESSREPLY:
			return true;
		default:
			return false;
		}
	}
	return true;
}

void icmp4_error(
	struct engine *engine, const struct packet *pkt, uint8_t type, uint8_t code, uint32_t info)
{
	const struct rte_ipv4_hdr *old = rte_pktmbuf_mtod(pkt->m, const struct rte_ipv4_hdr *);
	unsigned port = engine_home_port(engine, pkt);
	const struct iface_addr *from =
		iface_source(engine_iface(engine, port), AF_INET, &old->src_addr);
	uint16_t quoted = (uint16_t)RTE_MIN(
		pkt->m->data_len, ICMP4_ERROR_MAX - sizeof(*old) - sizeof(struct icmphdr));
	uint16_t length = (uint16_t)(sizeof(*old) + sizeof(struct icmphdr) + quoted);
	struct icmphdr *icmp;
	struct rte_ipv4_hdr *ip;
	struct rte_mbuf *m;

	if (!may_complain4(pkt))
		return;
	if (!from) {
		engine->ports[port].counters.drops[DROP_no_source_address]++;
		return;
	}
	if (!may_send_error(engine, port))
		return;
	m = engine_alloc(engine, port);
	if (!m)
		return;
	ip = (struct rte_ipv4_hdr *)rte_pktmbuf_append(m, length);
	if (!ip) {
		engine_drop(engine, port, m, DROP_no_buffer);
		return;
	}
	*ip = (struct rte_ipv4_hdr){
		.version_ihl = RTE_IPV4_VHL_DEF,
		.type_of_service = 0xc0, /* internetwork control, RFC 1812 section 4.3.2.5 */
		.total_length = rte_cpu_to_be_16(length),
		.packet_id = rte_cpu_to_be_16(engine->ip_id++),
		.time_to_live = OUR_TTL,
		.next_proto_id = IPPROTO_ICMP,
		.src_addr = from->addr.v4.s_addr,
		.dst_addr = old->src_addr,
	};
	ip4_set_checksum(ip);
	icmp = (struct icmphdr *)(ip + 1);
	memset(icmp, 0, sizeof(*icmp));
	icmp->type = type;
	icmp->code = code;
	icmp->un.frag.mtu = rte_cpu_to_be_16((uint16_t)info);
	memcpy(icmp + 1, old, quoted);
	icmp->checksum = (uint16_t)~rte_raw_cksum(icmp, sizeof(*icmp) + quoted);
	engine->ports[port].counters.icmp_errors++;
	ip4_output(engine, port, pkt->domain, m);
}

/* ---- IPv6 -------------------------------------------------------------------------------- */

void icmp6_echo(struct engine *engine, struct packet *pkt)
{
	struct rte_mbuf *m = pkt->m;
	struct rte_ipv6_hdr *ip = rte_pktmbuf_mtod(m, struct rte_ipv6_hdr *);
	struct icmp6_hdr *icmp = (struct icmp6_hdr *)(ip + 1);
	struct in6_addr src;

	memcpy(&src, ip->src_addr, sizeof(src));
	if (IN6_IS_ADDR_UNSPECIFIED(&src)) {
		engine_drop(engine, pkt->in_port, m, DROP_martian_source);
		return;
	}
	if (IN6_IS_ADDR_MULTICAST((const struct in6_addr *)ip->dst_addr)) {
		const struct iface_addr *from =
			iface_source(engine_iface(engine, pkt->in_port), AF_INET6, &src);

		if (!from) {
			engine_drop(engine, pkt->in_port, m, DROP_no_source_address);
			return;
		}
		memcpy(ip->src_addr, &from->addr, sizeof(ip->src_addr));
	} else {
		memcpy(ip->src_addr, ip->dst_addr, sizeof(ip->src_addr));
	}
	memcpy(ip->dst_addr, &src, sizeof(src));
	ip->vtc_flow = rte_cpu_to_be_32(6u << 28);
	ip->hop_limits = OUR_TTL;
	icmp->icmp6_type = ICMP6_ECHO_REPLY;
	icmp->icmp6_cksum = 0;
	icmp->icmp6_cksum = rte_ipv6_udptcp_cksum(ip, icmp);
	engine->ports[pkt->in_port].counters.echo_replies++;
	ip6_output(engine, pkt->in_port, pkt->domain, m);
}

/* RFC 4443, 2.4 (e). Packet too big may be about multicast, but we don't forward that. */
static bool may_complain6(const struct packet *pkt)
{
	const struct rte_mbuf *m = pkt->m;
	const struct rte_ipv6_hdr *ip = rte_pktmbuf_mtod(m, const struct rte_ipv6_hdr *);
	const struct in6_addr *src = (const struct in6_addr *)ip->src_addr;
	const uint8_t *payload = (const uint8_t *)(ip + 1);
	unsigned left = m->data_len - (unsigned)sizeof(*ip);
	uint8_t next = ip->proto;

	if (!pkt->l2_unicast && !pkt->from_mpls)
		return false;
	if (IN6_IS_ADDR_UNSPECIFIED(src) || IN6_IS_ADDR_MULTICAST(src) ||
		IN6_IS_ADDR_MULTICAST((const struct in6_addr *)ip->dst_addr))
		return false;
	/* An ICMPv6 error may hide behind extension headers. */
	for (unsigned i = 0; i < 8; i++) {
		unsigned size;

		if (next == IPPROTO_ICMPV6)
			return left >= 1 && payload[0] & 0x80;
		if (next == IPPROTO_FRAGMENT) {
			if (left < 8 || (payload[2] << 8 | (payload[3] & 0xf8)) != 0)
				return false;
			size = 8;
		} else if (next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING ||
			   next == IPPROTO_DSTOPTS) {
			if (left < 8)
				return false;
			size = 8u + payload[1] * 8u;
		} else {
			return true;
		}
		if (size > left)
			return false;
		next = payload[0];
		payload += size;
		left -= size;
	}
	return false;
}

void icmp6_error(
	struct engine *engine, const struct packet *pkt, uint8_t type, uint8_t code, uint32_t info)
{
	const struct rte_ipv6_hdr *old = rte_pktmbuf_mtod(pkt->m, const struct rte_ipv6_hdr *);
	unsigned port = engine_home_port(engine, pkt);
	const struct iface_addr *from =
		iface_source(engine_iface(engine, port), AF_INET6, old->src_addr);
	uint16_t quoted = (uint16_t)RTE_MIN(
		pkt->m->data_len, ICMP6_ERROR_MAX - sizeof(*old) - sizeof(struct icmp6_hdr));
	uint16_t payload = (uint16_t)(sizeof(struct icmp6_hdr) + quoted);
	struct icmp6_hdr *icmp;
	struct rte_ipv6_hdr *ip;
	struct rte_mbuf *m;

	if (!may_complain6(pkt))
		return;
	if (!from) {
		engine->ports[port].counters.drops[DROP_no_source_address]++;
		return;
	}
	if (!may_send_error(engine, port))
		return;
	m = engine_alloc(engine, port);
	if (!m)
		return;
	ip = (struct rte_ipv6_hdr *)rte_pktmbuf_append(m, (uint16_t)(sizeof(*ip) + payload));
	if (!ip) {
		engine_drop(engine, port, m, DROP_no_buffer);
		return;
	}
	ip->vtc_flow = rte_cpu_to_be_32(6u << 28);
	ip->payload_len = rte_cpu_to_be_16(payload);
	ip->proto = IPPROTO_ICMPV6;
	ip->hop_limits = OUR_TTL;
	memcpy(ip->src_addr, &from->addr, sizeof(ip->src_addr));
	memcpy(ip->dst_addr, old->src_addr, sizeof(ip->dst_addr));
	icmp = (struct icmp6_hdr *)(ip + 1);
	memset(icmp, 0, sizeof(*icmp));
	icmp->icmp6_type = type;
	icmp->icmp6_code = code;
	icmp->icmp6_dataun.icmp6_un_data32[0] = rte_cpu_to_be_32(info);
	memcpy(icmp + 1, old, quoted);
	icmp->icmp6_cksum = rte_ipv6_udptcp_cksum(ip, icmp);
	engine->ports[port].counters.icmp_errors++;
	ip6_output(engine, port, pkt->domain, m);
}
