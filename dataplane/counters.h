/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_COUNTERS_H
#define EDGEPLEX_DATAPLANE_COUNTERS_H

#include <stdint.h>

/* Why a packet was dropped: name (as fwd.status shows it) and meaning. Every drop has one. */
#define DROP_REASONS(X)                                                                  \
	X(admin_down, "the port's TAP is down")                                          \
	X(not_for_us, "destination MAC address is not ours")                             \
	X(unknown_ethertype, "neither IPv4, IPv6, ARP nor MPLS")                         \
	X(malformed, "header too short, wrong version, length or checksum")              \
	X(martian_source, "source address that no packet may have")                      \
	X(martian_destination, "destination address that must not be forwarded")         \
	X(spoofed_source, "source address is our own")                                   \
	X(multicast, "multicast is not forwarded")                                       \
	X(broadcast, "broadcast is not forwarded")                                       \
	X(source_route, "IPv4 source route option")                                      \
	X(ttl_expired, "TTL or hop limit ran out")                                       \
	X(no_route, "no route to the destination")                                       \
	X(unresolved_route, "the route's gateways lie in no port's subnet")              \
	X(blackhole, "a blackhole route")                                                \
	X(unreachable_route, "an unreachable route")                                     \
	X(not_forwarding, "unlabelled packets are not forwarded from this port")         \
	X(too_big, "larger than the MTU and may not be fragmented")                      \
	X(neighbor_failed, "the next hop doesn't answer ARP or neighbour solicitations") \
	X(neighbor_queue_full, "too many packets wait for one neighbour")                \
	X(neighbor_table_full, "no room for another neighbour")                          \
	X(no_source_address, "the port has no address to ask or answer with")            \
	X(arp_invalid, "ARP that is malformed or not of the port's subnet")              \
	X(nd_invalid, "neighbour discovery that RFC 4861 tells to drop")                 \
	X(nd_redirect, "ICMP redirect")                                                  \
	X(mpls_not_allowed, "MPLS on a port that must not have it")                      \
	X(mpls_unknown_label, "no route for the label")                                  \
	X(mpls_not_bottom, "more labels below one that says: look at the IP packet")     \
	X(mpls_malformed, "label stack too short, or not IP below it")                   \
	X(icmp_rate_limited, "an ICMP error not sent: too many")                         \
	X(no_buffer, "no packet buffer free")                                            \
	X(mute, "only what is forwarded may go out now (fwd.mute)")                      \
	X(tx_full, "the port's transmit queue was full")                                 \
	X(tap_full, "the kernel didn't take the packet from the TAP")

enum drop_reason {
#define X(name, text) DROP_##name,
	DROP_REASONS(X)
#undef X
		DROP_N
};

/* Written by the fast path only; read by the control thread, each word by itself. */
struct port_counters {
	uint64_t rx_packets, rx_bytes, tx_packets, tx_bytes;
	uint64_t rx_empty; /* how often the device had given all that it had */
	uint64_t punted, from_tap, icmp_errors, echo_replies, fragments;
	uint64_t drops[DROP_N];
};

#endif
