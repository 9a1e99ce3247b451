/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_IP_H
#define EDGEPLEX_DATAPLANE_IP_H

/* Small things about IP headers that several files of the fast path need. */

#include <stdbool.h>
#include <stdint.h>
#include <netinet/in.h>
#include <rte_byteorder.h>
#include <rte_ip.h>
#include <rte_mbuf.h>

/* An 8-bit field that shares its 16-bit word with another one changes: RFC 1624, equation 3. */
static inline void ip4_set_ttl(struct rte_ipv4_hdr *ip, uint8_t ttl)
{
	uint32_t sum = (uint16_t)~rte_be_to_cpu_16(ip->hdr_checksum);

	sum += (uint16_t) ~((uint32_t)ip->time_to_live << 8) + ((uint32_t)ttl << 8);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->time_to_live = ttl;
	ip->hdr_checksum = rte_cpu_to_be_16((uint16_t)~sum);
}

/* Fills the header's checksum. */
static inline void ip4_set_checksum(struct rte_ipv4_hdr *ip)
{
	ip->hdr_checksum = 0;
	ip->hdr_checksum = rte_ipv4_cksum(ip);
}

/* Is the checksum of an ICMPv6 message behind a header without extensions right? */
static inline bool icmp6_checksum_ok(const struct rte_ipv6_hdr *ip)
{
	uint32_t sum = rte_ipv6_phdr_cksum(ip, 0);

	sum += rte_raw_cksum(ip + 1, rte_be_to_cpu_16(ip->payload_len));
	return (uint16_t)((sum & 0xffff) + (sum >> 16)) == 0xffff;
}

/*
 * What a packet needs to be blamed on later, when it has waited in vain for a neighbour: kept in
 * the mbuf's `port` and `hash.usr`. A packet that we made has 0 there: nobody is told.
 */
#define MARK_FOREIGN 1u
#define MARK_FROM_MPLS 2u
#define MARK_DOMAIN_SHIFT 8

/* Flow identity for ECMP; both directions of a flow may differ. */
static inline uint32_t flow_mix(uint32_t hash, uint32_t value)
{
	hash = (hash ^ value) * 0x9e3779b1u;
	return hash ^ hash >> 15;
}

/* Ports of TCP, UDP, SCTP, DCCP and UDP-Lite lie in the first 4 bytes. */
static inline uint32_t flow_ports(uint8_t protocol, const struct rte_mbuf *m, uint32_t offset)
{
	switch (protocol) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
	case IPPROTO_DCCP:
	case IPPROTO_UDPLITE:
		if (m->data_len >= offset + 4)
			return *rte_pktmbuf_mtod_offset(m, const unaligned_uint32_t *, offset);
		return 0;
	default:
		return 0;
	}
}

#endif
