/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FIB_MSG_H
#define EDGEPLEX_FIB_MSG_H

/*
 * FIB messages: rtnetlink route messages (rtnetlink(7)) in the frames of FRR's Forwarding Plane
 * Manager (header of 4 bytes: version 1, type 1 = netlink, length in network order, header
 * included). pvmd speaks this to edgeplex-fwd over a Unix socket; FRR's zebra (`-M dplane_fpm_nl`)
 * speaks it too. Built and parsed with libnl. Safe to use from several threads.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <netinet/in.h>

#define FIB_MAX_NEXTHOPS 64
#define FIB_MAX_LABELS 4
#define FIB_MSG_MAX 16384 /* bytes of one frame, header included */
/* An MPLS route out of "lo" means: pop, look the packet up again. */
#define FIB_MPLS_POP_IFINDEX 1

enum fib_msg_op {
	FIB_ADD, /* adds or replaces */
	FIB_DELETE,
	FIB_END, /* the whole table has been sent: what was not repeated is stale (NLMSG_DONE) */
	FIB_IGNORED, /* a well-formed message of a kind that we have no use for */
};

enum fib_action {
	FIB_FORWARD,     /* to one of the next hops */
	FIB_BLACKHOLE,   /* drop silently */
	FIB_UNREACHABLE, /* drop, tell the sender by ICMP */
	FIB_POP,         /* MPLS only: pop the label and look up what is below it */
};

struct fib_nexthop {
	uint32_t ifindex; /* of the port's TAP; 0: any port whose subnet holds the gateway */
	uint8_t family;   /* of the gateway: AF_INET, AF_INET6; AF_UNSPEC: on link */
	union {
		struct in_addr v4;
		struct in6_addr v6;
	} gateway;
	uint8_t n_labels;                /* labels to push */
	uint32_t labels[FIB_MAX_LABELS]; /* 20-bit values, outermost first */
	uint16_t weight;                 /* 1..256 */
};

struct fib_route {
	uint8_t family;     /* AF_INET, AF_INET6 or AF_MPLS */
	uint8_t prefix_len; /* bits; 20 for AF_MPLS */
	union {
		struct in_addr v4;
		struct in6_addr v6;
		uint32_t label; /* AF_MPLS: incoming label, host order */
	} dst;
	enum fib_action action;
	uint8_t protocol; /* RTPROT_* */
	uint8_t n_nexthops;
	struct fib_nexthop nexthops[FIB_MAX_NEXTHOPS];
};

/*
 * Writes one frame to `buf` (`size` bytes). `route` is not read for FIB_END.
 * Returns its length, or -1 with errno: ENOBUFS (doesn't fit), EINVAL (not a valid route), ENOMEM.
 */
int fib_msg_encode(enum fib_msg_op op, const struct fib_route *route, void *buf, size_t size);

/*
 * Length of the frame that begins at `data`, of which `n` bytes are there; 0 if more bytes are
 * needed to tell; -1 with errno EBADMSG if this can't be a frame (drop the connection).
 */
int fib_msg_frame_len(const void *data, size_t n);

/*
 * Reads one whole frame of `n` bytes. Returns 0, or -1 with errno EBADMSG and `why` (may be NULL)
 * set to a static text.
 */
int fib_msg_decode(
	const void *data, size_t n, enum fib_msg_op *op, struct fib_route *route, const char **why);

#endif
