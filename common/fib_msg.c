/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "common/fib_msg.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <linux/lwtunnel.h>
#include <linux/mpls_iptunnel.h>
#include <linux/rtnetlink.h>
#include <netlink/attr.h>
#include <netlink/msg.h>

#define FPM_VERSION 1
#define FPM_TYPE_NETLINK 1

struct fpm_header {
	uint8_t version;
	uint8_t type;
	uint16_t length; /* network order, header included */
};
static_assert(sizeof(struct fpm_header) == 4, "FPM header is 4 bytes on the wire");

#define MPLS_LABEL_MAX ((1u << 20) - 1)
#define MPLS_PREFIX_LEN 20

/* One label stack entry of RFC 3032, in network order. */
static uint32_t label_entry(uint32_t label, bool bottom)
{
	return htobe32(label << 12 | (bottom ? 1u << 8 : 0));
}

static size_t family_addr_len(uint8_t family)
{
	return family == AF_INET ? 4 : family == AF_INET6 ? 16 : 0;
}

static uint8_t family_bits(uint8_t family)
{
	return family == AF_INET ? 32 : family == AF_INET6 ? 128 : MPLS_PREFIX_LEN;
}

/* ---- encode ------------------------------------------------------------------------------ */

static bool labels_valid(const struct fib_nexthop *nh)
{
	if (nh->n_labels > FIB_MAX_LABELS)
		return false;
	for (unsigned i = 0; i < nh->n_labels; i++) {
		if (nh->labels[i] > MPLS_LABEL_MAX)
			return false;
	}
	return true;
}

static bool nexthop_valid(const struct fib_nexthop *nh)
{
	if (nh->family != AF_UNSPEC && family_addr_len(nh->family) == 0)
		return false;
	if (nh->family == AF_UNSPEC && nh->ifindex == 0)
		return false;
	if (nh->ifindex > INT_MAX || nh->weight < 1 || nh->weight > 256)
		return false;
	return labels_valid(nh);
}

static bool route_valid(const struct fib_route *route, enum fib_msg_op op)
{
	switch (route->family) {
	case AF_INET:
	case AF_INET6:
		if (route->prefix_len > family_bits(route->family))
			return false;
		break;
	case AF_MPLS:
		if (route->prefix_len != MPLS_PREFIX_LEN || route->dst.label > MPLS_LABEL_MAX)
			return false;
		break;
	default:
		return false;
	}
	if (op == FIB_DELETE)
		return true;
	switch (route->action) {
	case FIB_BLACKHOLE:
	case FIB_UNREACHABLE:
		return route->n_nexthops == 0;
	case FIB_POP:
		return route->family == AF_MPLS && route->n_nexthops == 0;
	case FIB_FORWARD:
		break;
	default:
		return false;
	}
	if (route->n_nexthops < 1 || route->n_nexthops > FIB_MAX_NEXTHOPS)
		return false;
	for (unsigned i = 0; i < route->n_nexthops; i++) {
		if (!nexthop_valid(&route->nexthops[i]))
			return false;
	}
	return true;
}

static int put_labels(struct nl_msg *msg, uint8_t route_family, const struct fib_nexthop *nh)
{
	uint32_t stack[FIB_MAX_LABELS];
	struct nlattr *encap;
	size_t size = nh->n_labels * sizeof(stack[0]);

	if (nh->n_labels == 0)
		return 0;
	for (unsigned i = 0; i < nh->n_labels; i++)
		stack[i] = label_entry(nh->labels[i], i + 1u == nh->n_labels);
	if (route_family == AF_MPLS)
		return nla_put(msg, RTA_NEWDST, size, stack);
	if (nla_put_u16(msg, RTA_ENCAP_TYPE, LWTUNNEL_ENCAP_MPLS) < 0)
		return -1;
	encap = nla_nest_start(msg, RTA_ENCAP);
	if (!encap || nla_put(msg, MPLS_IPTUNNEL_DST, size, stack) < 0)
		return -1;
	nla_nest_end(msg, encap);
	return 0;
}

static int put_gateway(struct nl_msg *msg, uint8_t route_family, const struct fib_nexthop *nh)
{
	uint8_t via[sizeof(uint16_t) + sizeof(struct in6_addr)];
	uint16_t family = nh->family;
	size_t len = family_addr_len(nh->family);

	if (len == 0)
		return 0;
	if (nh->family == route_family)
		return nla_put(msg, RTA_GATEWAY, len, &nh->gateway);
	memcpy(via, &family, sizeof(family));
	memcpy(via + sizeof(family), &nh->gateway, len);
	return nla_put(msg, RTA_VIA, sizeof(family) + len, via);
}

static int put_nexthop(struct nl_msg *msg, uint8_t route_family, const struct fib_nexthop *nh)
{
	return put_labels(msg, route_family, nh) < 0 || put_gateway(msg, route_family, nh) < 0 ? -1
											       : 0;
}

static int put_multipath(struct nl_msg *msg, const struct fib_route *route)
{
	struct nlattr *nest = nla_nest_start(msg, RTA_MULTIPATH);

	if (!nest)
		return -1;
	for (unsigned i = 0; i < route->n_nexthops; i++) {
		const struct fib_nexthop *nh = &route->nexthops[i];
		struct rtnexthop *rtnh = nlmsg_reserve(msg, sizeof(*rtnh), NLMSG_ALIGNTO);

		if (!rtnh)
			return -1;
		memset(rtnh, 0, sizeof(*rtnh));
		rtnh->rtnh_ifindex = (int)nh->ifindex;
		rtnh->rtnh_hops = (uint8_t)(nh->weight - 1);
		if (put_nexthop(msg, route->family, nh) < 0)
			return -1;
		rtnh->rtnh_len = (uint16_t)((char *)nlmsg_tail(nlmsg_hdr(msg)) - (char *)rtnh);
	}
	nla_nest_end(msg, nest);
	return 0;
}

static int put_route(struct nl_msg *msg, enum fib_msg_op op, const struct fib_route *route)
{
	static const uint8_t types[] = {
		[FIB_FORWARD] = RTN_UNICAST,
		[FIB_BLACKHOLE] = RTN_BLACKHOLE,
		[FIB_UNREACHABLE] = RTN_UNREACHABLE,
		[FIB_POP] = RTN_UNICAST,
	};
	struct rtmsg rtm = {
		.rtm_family = route->family,
		.rtm_dst_len = route->prefix_len,
		.rtm_table = RT_TABLE_MAIN,
		.rtm_protocol = route->protocol,
		.rtm_scope = RT_SCOPE_UNIVERSE,
		.rtm_type = op == FIB_DELETE ? RTN_UNSPEC : types[route->action],
	};
	uint32_t label;

	if (nlmsg_append(msg, &rtm, sizeof(rtm), NLMSG_ALIGNTO) < 0)
		return -1;
	if (route->family == AF_MPLS) {
		label = label_entry(route->dst.label, true);
		if (nla_put(msg, RTA_DST, sizeof(label), &label) < 0)
			return -1;
	} else if (nla_put(msg, RTA_DST, family_addr_len(route->family), &route->dst) < 0) {
		return -1;
	}
	if (op == FIB_DELETE)
		return 0;
	if (route->action == FIB_POP)
		return nla_put_u32(msg, RTA_OIF, FIB_MPLS_POP_IFINDEX);
	if (route->action != FIB_FORWARD)
		return 0;
	if (route->n_nexthops > 1 || route->nexthops[0].weight > 1)
		return put_multipath(msg, route);
	if (route->nexthops[0].ifindex != 0 &&
		nla_put_u32(msg, RTA_OIF, route->nexthops[0].ifindex) < 0)
		return -1;
	return put_nexthop(msg, route->family, &route->nexthops[0]);
}

int fib_msg_encode(enum fib_msg_op op, const struct fib_route *route, void *buf, size_t size)
{
	/* Room for one next hop's rtnexthop, gateway and labels, each with its header and padding.
	 */
	const size_t nexthop_room = 96;
	struct fpm_header header = {.version = FPM_VERSION, .type = FPM_TYPE_NETLINK};
	struct nl_msg *msg;
	size_t room = 256;
	size_t length;
	int type;

	switch (op) {
	case FIB_ADD:
	case FIB_DELETE:
		if (!route || !route_valid(route, op)) {
			errno = EINVAL;
			return -1;
		}
		room += op == FIB_ADD ? route->n_nexthops * nexthop_room : 0;
		type = op == FIB_ADD ? RTM_NEWROUTE : RTM_DELROUTE;
		break;
	case FIB_END:
		type = NLMSG_DONE;
		break;
	default:
		errno = EINVAL;
		return -1;
	}
	msg = nlmsg_alloc_size(room);
	if (!msg || !nlmsg_put(msg, 0, 0, type, 0,
			    op == FIB_ADD ? NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE
					  : NLM_F_REQUEST)) {
		nlmsg_free(msg);
		errno = ENOMEM;
		return -1;
	}
	if (op != FIB_END && put_route(msg, op, route) < 0) {
		nlmsg_free(msg);
		errno = ENOBUFS;
		return -1;
	}
	length = sizeof(header) + NLMSG_ALIGN(nlmsg_hdr(msg)->nlmsg_len);
	if (length > size || length > FIB_MSG_MAX) {
		nlmsg_free(msg);
		errno = ENOBUFS;
		return -1;
	}
	header.length = htobe16((uint16_t)length);
	memcpy(buf, &header, sizeof(header));
	memcpy((char *)buf + sizeof(header), nlmsg_hdr(msg), length - sizeof(header));
	nlmsg_free(msg);
	return (int)length;
}

/* ---- decode ------------------------------------------------------------------------------ */

int fib_msg_frame_len(const void *data, size_t n)
{
	struct fpm_header header;
	unsigned length;

	if (n < sizeof(header))
		return 0;
	memcpy(&header, data, sizeof(header));
	length = be16toh(header.length);
	if (header.version != FPM_VERSION || header.type != FPM_TYPE_NETLINK ||
		length < sizeof(header) + NLMSG_HDRLEN || length > FIB_MSG_MAX) {
		errno = EBADMSG;
		return -1;
	}
	return (int)length;
}

/* Reads a whole label stack: entries up to the one with the bottom bit, and nothing behind it. */
static const char *read_labels(const struct nlattr *attr, uint32_t *labels, uint8_t *n_labels)
{
	size_t n = (size_t)nla_len(attr) / sizeof(uint32_t);

	if (nla_len(attr) % (int)sizeof(uint32_t) != 0 || n == 0)
		return "length of a label stack is not a multiple of 4";
	if (n > FIB_MAX_LABELS)
		return "more labels than we can push";
	for (size_t i = 0; i < n; i++) {
		uint32_t entry;

		memcpy(&entry, (const char *)nla_data(attr) + i * sizeof(entry), sizeof(entry));
		entry = be32toh(entry);
		if (!!(entry & 1u << 8) != (i + 1 == n))
			return "bottom-of-stack bit is not on the last label";
		labels[i] = entry >> 12;
	}
	*n_labels = (uint8_t)n;
	return NULL;
}

static const char *read_gateway(const struct nlattr *attr, uint8_t family, struct fib_nexthop *nh)
{
	if (family_addr_len(family) == 0)
		return "gateway of an unknown family";
	if ((size_t)nla_len(attr) != family_addr_len(family))
		return "gateway of a wrong length";
	nh->family = family;
	memcpy(&nh->gateway, nla_data(attr), family_addr_len(family));
	return NULL;
}

static const char *read_via(const struct nlattr *attr, struct fib_nexthop *nh)
{
	uint16_t family;

	if (nla_len(attr) < (int)sizeof(family))
		return "RTA_VIA is too short";
	memcpy(&family, nla_data(attr), sizeof(family));
	if ((family != AF_INET && family != AF_INET6) ||
		(size_t)nla_len(attr) != sizeof(family) + family_addr_len((uint8_t)family))
		return "RTA_VIA is neither an IPv4 nor an IPv6 address";
	nh->family = (uint8_t)family;
	memcpy(&nh->gateway, (const char *)nla_data(attr) + sizeof(family),
		family_addr_len(nh->family));
	return NULL;
}

static const char *read_encap(struct nlattr *type, struct nlattr *encap, struct fib_nexthop *nh)
{
	struct nlattr *attrs[MPLS_IPTUNNEL_MAX + 1];

	if (!type && !encap)
		return NULL;
	if (!type || !encap || nla_len(type) != sizeof(uint16_t))
		return "RTA_ENCAP and RTA_ENCAP_TYPE don't come together";
	if (nla_get_u16(type) != LWTUNNEL_ENCAP_MPLS)
		return "an encapsulation other than MPLS is not supported";
	if (nla_parse_nested(attrs, MPLS_IPTUNNEL_MAX, encap, NULL) < 0 ||
		!attrs[MPLS_IPTUNNEL_DST])
		return "RTA_ENCAP holds no label stack";
	return read_labels(attrs[MPLS_IPTUNNEL_DST], nh->labels, &nh->n_labels);
}

/* What describes one next hop, in the message itself or in one part of RTA_MULTIPATH. */
static const char *read_nexthop(
	struct nlattr *const attrs[], uint8_t route_family, struct fib_nexthop *nh)
{
	const char *why = NULL;

	if (attrs[RTA_GATEWAY] && attrs[RTA_VIA])
		return "both RTA_GATEWAY and RTA_VIA";
	if (attrs[RTA_GATEWAY])
		why = read_gateway(attrs[RTA_GATEWAY], route_family, nh);
	else if (attrs[RTA_VIA])
		why = read_via(attrs[RTA_VIA], nh);
	if (why)
		return why;
	if (route_family == AF_MPLS)
		return attrs[RTA_NEWDST] ? read_labels(attrs[RTA_NEWDST], nh->labels, &nh->n_labels)
					 : NULL;
	return read_encap(attrs[RTA_ENCAP_TYPE], attrs[RTA_ENCAP], nh);
}

static const char *read_multipath(const struct nlattr *attr, struct fib_route *route)
{
	const char *data = nla_data(attr);
	size_t left = (size_t)nla_len(attr);

	while (left >= sizeof(struct rtnexthop)) {
		struct nlattr *attrs[RTA_MAX + 1];
		struct fib_nexthop *nh;
		struct rtnexthop rtnh;
		const char *why;
		size_t step;

		memcpy(&rtnh, data, sizeof(rtnh));
		if (rtnh.rtnh_len < sizeof(rtnh) || rtnh.rtnh_len > left)
			return "a next hop of RTA_MULTIPATH has a wrong length";
		if (rtnh.rtnh_ifindex < 0)
			return "negative interface index";
		if (route->n_nexthops == FIB_MAX_NEXTHOPS)
			return "more next hops than we can hold";
		if (nla_parse(attrs, RTA_MAX, (struct nlattr *)(data + sizeof(rtnh)),
			    rtnh.rtnh_len - (int)sizeof(rtnh), NULL) < 0)
			return "a next hop of RTA_MULTIPATH can't be parsed";
		nh = &route->nexthops[route->n_nexthops];
		nh->ifindex = (uint32_t)rtnh.rtnh_ifindex;
		nh->weight = (uint16_t)(rtnh.rtnh_hops + 1);
		why = read_nexthop(attrs, route->family, nh);
		if (why)
			return why;
		route->n_nexthops++;
		step = RTNH_ALIGN(rtnh.rtnh_len);
		if (step >= left)
			return NULL;
		data += step;
		left -= step;
	}
	return left == 0 ? NULL : "bytes left over in RTA_MULTIPATH";
}

static const char *read_single(struct nlattr *const attrs[], struct fib_route *route)
{
	struct fib_nexthop *nh = &route->nexthops[0];

	nh->weight = 1;
	if (attrs[RTA_OIF]) {
		if (nla_len(attrs[RTA_OIF]) != sizeof(uint32_t))
			return "RTA_OIF of a wrong length";
		nh->ifindex = nla_get_u32(attrs[RTA_OIF]);
		if (nh->ifindex > INT_MAX)
			return "negative interface index";
	}
	route->n_nexthops = 1;
	return read_nexthop(attrs, route->family, nh);
}

/* Clears the bits beyond the prefix, so that equal prefixes are equal bytes. */
static void mask_dst(struct fib_route *route)
{
	uint8_t *bytes = (uint8_t *)&route->dst;

	for (unsigned i = 0; i < family_addr_len(route->family); i++) {
		int keep = (int)route->prefix_len - (int)(8 * i);

		if (keep <= 0)
			bytes[i] = 0;
		else if (keep < 8)
			bytes[i] &= (uint8_t)(0xff << (8 - keep));
	}
}

static const char *read_dst(const struct nlattr *attr, struct fib_route *route)
{
	uint32_t label;
	uint8_t n;

	if (route->prefix_len > family_bits(route->family))
		return "prefix longer than an address of its family";
	if (route->family == AF_MPLS) {
		if (!attr || nla_len(attr) != sizeof(label) || route->prefix_len != MPLS_PREFIX_LEN)
			return "an MPLS route needs one incoming label";
		if (read_labels(attr, &label, &n))
			return "incoming label is not the bottom of its stack";
		route->dst.label = label;
		return NULL;
	}
	if (!attr)
		return route->prefix_len == 0 ? NULL : "RTA_DST is missing";
	if ((size_t)nla_len(attr) != family_addr_len(route->family))
		return "RTA_DST of a wrong length";
	memcpy(&route->dst, nla_data(attr), family_addr_len(route->family));
	mask_dst(route);
	return NULL;
}

static const char *read_forward(
	struct nlattr *const attrs[], enum fib_msg_op *op, struct fib_route *route)
{
	const char *why;

	if (attrs[RTA_NH_ID])
		return "route by next-hop group: configure zebra with 'no fpm use-next-hop-groups'";
	why = attrs[RTA_MULTIPATH] ? read_multipath(attrs[RTA_MULTIPATH], route)
				   : read_single(attrs, route);
	if (why)
		return why;
	/* FRR sends a route of which no next hop is active with an empty RTA_MULTIPATH. */
	if (route->n_nexthops == 0) {
		*op = FIB_IGNORED;
		return NULL;
	}
	if (route->family == AF_MPLS && route->n_nexthops == 1 &&
		route->nexthops[0].ifindex == FIB_MPLS_POP_IFINDEX &&
		route->nexthops[0].family == AF_UNSPEC && route->nexthops[0].n_labels == 0) {
		route->action = FIB_POP;
		memset(&route->nexthops[0], 0, sizeof(route->nexthops[0]));
		route->n_nexthops = 0;
		return NULL;
	}
	route->action = FIB_FORWARD;
	for (unsigned i = 0; i < route->n_nexthops; i++) {
		if (route->nexthops[i].family == AF_UNSPEC && route->nexthops[i].ifindex == 0)
			return "a next hop with neither gateway nor interface";
	}
	return NULL;
}

static const char *read_route(struct nlmsghdr *nlh, enum fib_msg_op *op, struct fib_route *route)
{
	struct nlattr *attrs[RTA_MAX + 1];
	struct rtmsg rtm;
	uint32_t table;
	const char *why;

	if (nlh->nlmsg_len < NLMSG_LENGTH(sizeof(rtm)))
		return "route message is too short";
	memcpy(&rtm, NLMSG_DATA(nlh), sizeof(rtm));
	if (nlmsg_parse(nlh, sizeof(rtm), attrs, RTA_MAX, NULL) < 0)
		return "attributes of a route can't be parsed";
	table = rtm.rtm_table;
	if (attrs[RTA_TABLE]) {
		if (nla_len(attrs[RTA_TABLE]) != sizeof(table))
			return "RTA_TABLE of a wrong length";
		table = nla_get_u32(attrs[RTA_TABLE]);
	}
	*op = FIB_IGNORED;
	if (table != RT_TABLE_MAIN && table != RT_TABLE_UNSPEC)
		return NULL;
	if (rtm.rtm_family != AF_INET && rtm.rtm_family != AF_INET6 && rtm.rtm_family != AF_MPLS)
		return NULL;
	/* Source-specific routes must not be taken for ordinary ones. */
	if (rtm.rtm_src_len != 0)
		return NULL;
	memset(route, 0, sizeof(*route));
	route->family = rtm.rtm_family;
	route->prefix_len = rtm.rtm_dst_len;
	route->protocol = rtm.rtm_protocol;
	why = read_dst(attrs[RTA_DST], route);
	if (why)
		return why;
	if (nlh->nlmsg_type == RTM_DELROUTE) {
		*op = FIB_DELETE;
		return NULL;
	}
	*op = FIB_ADD;
	switch (rtm.rtm_type) {
	case RTN_UNICAST:
		return read_forward(attrs, op, route);
	case RTN_BLACKHOLE:
		route->action = FIB_BLACKHOLE;
		return NULL;
	case RTN_UNREACHABLE:
	case RTN_PROHIBIT:
		route->action = FIB_UNREACHABLE;
		return NULL;
	default: /* local, broadcast, multicast: the forwarder knows its own addresses */
		*op = FIB_IGNORED;
		return NULL;
	}
}

static bool same_destination(const struct fib_route *a, const struct fib_route *b)
{
	if (a->family != b->family || a->prefix_len != b->prefix_len)
		return false;
	if (a->family == AF_MPLS)
		return a->dst.label == b->dst.label;
	return memcmp(&a->dst, &b->dst, family_addr_len(a->family)) == 0;
}

static const char *read_message(struct nlmsghdr *nlh, enum fib_msg_op *op, struct fib_route *route)
{
	switch (nlh->nlmsg_type) {
	case NLMSG_DONE:
		*op = FIB_END;
		return NULL;
	case RTM_NEWROUTE:
	case RTM_DELROUTE:
		return read_route(nlh, op, route);
	default:
		*op = FIB_IGNORED;
		return NULL;
	}
}

/*
 * FRR sends an update as a deletion and an addition of the same prefix in one frame. Taken
 * together they replace the route without a gap, so the last one that means something counts.
 */
static const char *read_frame(
	struct nlmsghdr *nlh, int left, enum fib_msg_op *op, struct fib_route *route)
{
	struct fib_route next;
	bool first = true;

	*op = FIB_IGNORED;
	for (; nlmsg_ok(nlh, left); nlh = nlmsg_next(nlh, &left)) {
		enum fib_msg_op next_op;
		const char *why = read_message(nlh, &next_op, first ? route : &next);

		if (why)
			return why;
		if (next_op == FIB_IGNORED)
			continue;
		if (!first) {
			if (*op == FIB_END || next_op == FIB_END || !same_destination(route, &next))
				return "one frame changes more than one route";
			*route = next;
		}
		*op = next_op;
		first = false;
	}
	return left == 0 ? NULL : "a netlink message doesn't end with its frame";
}

int fib_msg_decode(
	const void *data, size_t n, enum fib_msg_op *op, struct fib_route *route, const char **why)
{
	/* Frames follow each other without padding in a stream; netlink wants alignment. */
	_Alignas(struct nlmsghdr) char copy[FIB_MSG_MAX];
	const char *reason;
	size_t payload;

	if (n < sizeof(struct fpm_header) || fib_msg_frame_len(data, n) != (int)n) {
		reason = "not one whole FPM frame";
	} else {
		payload = n - sizeof(struct fpm_header);
		memcpy(copy, (const char *)data + sizeof(struct fpm_header), payload);
		reason = read_frame((struct nlmsghdr *)copy, (int)payload, op, route);
	}
	if (why)
		*why = reason;
	if (!reason)
		return 0;
	errno = EBADMSG;
	return -1;
}
