/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include <linux/rtnetlink.h>

#include "common/fib_msg.h"

static struct fib_route route4(const char *addr, uint8_t len)
{
	struct fib_route route = {.family = AF_INET, .prefix_len = len, .protocol = RTPROT_BGP};

	assert_int_equal(inet_pton(AF_INET, addr, &route.dst.v4), 1);
	return route;
}

static struct fib_route route6(const char *addr, uint8_t len)
{
	struct fib_route route = {.family = AF_INET6, .prefix_len = len, .protocol = RTPROT_BGP};

	assert_int_equal(inet_pton(AF_INET6, addr, &route.dst.v6), 1);
	return route;
}

static struct fib_route route_mpls(uint32_t label)
{
	struct fib_route route = {.family = AF_MPLS, .prefix_len = 20, .dst.label = label};

	return route;
}

static struct fib_nexthop *add_nexthop(
	struct fib_route *route, uint32_t ifindex, int family, const char *gateway)
{
	struct fib_nexthop *nh = &route->nexthops[route->n_nexthops++];

	nh->ifindex = ifindex;
	nh->family = (uint8_t)family;
	nh->weight = 1;
	if (gateway)
		assert_int_equal(inet_pton(family, gateway, &nh->gateway), 1);
	return nh;
}

static void check_round_trip(enum fib_msg_op op, const struct fib_route *route)
{
	char buf[FIB_MSG_MAX];
	struct fib_route got;
	enum fib_msg_op got_op;
	const char *why = "unset";
	int n = fib_msg_encode(op, route, buf, sizeof(buf));

	assert_true(n > 0);
	assert_int_equal(fib_msg_frame_len(buf, 3), 0);
	assert_int_equal(fib_msg_frame_len(buf, 4), n);
	assert_int_equal(fib_msg_frame_len(buf, (size_t)n), n);
	memset(&got, 0xaa, sizeof(got));
	assert_int_equal(fib_msg_decode(buf, (size_t)n, &got_op, &got, &why), 0);
	assert_null(why);
	assert_int_equal(got_op, op);
	if (op == FIB_END)
		return;
	if (op == FIB_DELETE) {
		assert_int_equal(got.family, route->family);
		assert_int_equal(got.prefix_len, route->prefix_len);
		assert_memory_equal(&got.dst, &route->dst, sizeof(got.dst));
		return;
	}
	assert_memory_equal(&got, route, sizeof(got));
	/* One byte less room than needed is an error, not an overrun. */
	assert_int_equal(fib_msg_encode(op, route, buf, (size_t)n - 1), -1);
	assert_int_equal(errno, ENOBUFS);
}

static void test_single_nexthop(void **state)
{
	struct fib_route v4 = route4("10.1.0.0", 16), v6 = route6("fd00:1::", 32);
	struct fib_route def = route4("0.0.0.0", 0), host = route6("fd00::1", 128);

	(void)state;
	add_nexthop(&v4, 7, AF_INET, "192.0.2.1");
	check_round_trip(FIB_ADD, &v4);
	check_round_trip(FIB_DELETE, &v4);
	add_nexthop(&v6, 0, AF_INET6, "fd00::1");
	check_round_trip(FIB_ADD, &v6);
	check_round_trip(FIB_DELETE, &v6);
	add_nexthop(&def, 3, AF_UNSPEC, NULL);
	check_round_trip(FIB_ADD, &def);
	add_nexthop(&host, 3, AF_INET6, "fe80::1");
	check_round_trip(FIB_ADD, &host);
}

static void test_gateway_of_other_family(void **state)
{
	struct fib_route v4 = route4("10.1.0.0", 16), v6 = route6("fd00:1::", 32);

	(void)state;
	add_nexthop(&v4, 7, AF_INET6, "fe80::1");
	check_round_trip(FIB_ADD, &v4);
	add_nexthop(&v6, 7, AF_INET, "192.0.2.1");
	check_round_trip(FIB_ADD, &v6);
}

static void test_labels_and_multipath(void **state)
{
	struct fib_route route = route4("10.1.0.0", 16);
	struct fib_nexthop *nh;

	(void)state;
	nh = add_nexthop(&route, 0, AF_INET, "192.0.2.1");
	nh->n_labels = 2;
	nh->labels[0] = 16002;
	nh->labels[1] = 1001;
	check_round_trip(FIB_ADD, &route);
	nh = add_nexthop(&route, 4, AF_INET6, "fd00::2");
	nh->weight = 256;
	nh->n_labels = FIB_MAX_LABELS;
	for (unsigned i = 0; i < FIB_MAX_LABELS; i++)
		nh->labels[i] = (1u << 20) - 1 - i;
	add_nexthop(&route, 4, AF_UNSPEC, NULL);
	check_round_trip(FIB_ADD, &route);
	while (route.n_nexthops < FIB_MAX_NEXTHOPS) {
		nh = add_nexthop(&route, 5, AF_INET6, "fd00::2");
		nh->n_labels = FIB_MAX_LABELS;
	}
	check_round_trip(FIB_ADD, &route);
}

static void test_mpls(void **state)
{
	struct fib_route pop = route_mpls(1001), swap = route_mpls((1u << 20) - 1);
	struct fib_nexthop *nh;

	(void)state;
	pop.action = FIB_POP;
	check_round_trip(FIB_ADD, &pop);
	check_round_trip(FIB_DELETE, &pop);
	nh = add_nexthop(&swap, 2, AF_INET, "192.0.2.1");
	check_round_trip(FIB_ADD, &swap);
	nh->n_labels = 1;
	nh->labels[0] = 17;
	check_round_trip(FIB_ADD, &swap);
}

static void test_other_actions_and_end(void **state)
{
	struct fib_route route = route4("10.0.0.0", 8);

	(void)state;
	route.action = FIB_BLACKHOLE;
	check_round_trip(FIB_ADD, &route);
	route.action = FIB_UNREACHABLE;
	check_round_trip(FIB_ADD, &route);
	check_round_trip(FIB_END, NULL);
}

static void check_invalid(const struct fib_route *route)
{
	char buf[FIB_MSG_MAX];

	errno = 0;
	assert_int_equal(fib_msg_encode(FIB_ADD, route, buf, sizeof(buf)), -1);
	assert_int_equal(errno, EINVAL);
}

static void test_invalid_routes_are_refused(void **state)
{
	struct fib_route good = route4("10.0.0.0", 8), bad;

	(void)state;
	add_nexthop(&good, 1, AF_INET, "192.0.2.1");
	bad = good, bad.prefix_len = 33, check_invalid(&bad);
	bad = good, bad.family = AF_UNIX, check_invalid(&bad);
	bad = good, bad.n_nexthops = 0, check_invalid(&bad);
	bad = good, bad.n_nexthops = FIB_MAX_NEXTHOPS + 1, check_invalid(&bad);
	bad = good, bad.action = FIB_POP, check_invalid(&bad);
	bad = good, bad.nexthops[0].weight = 0, check_invalid(&bad);
	bad = good, bad.nexthops[0].n_labels = FIB_MAX_LABELS + 1, check_invalid(&bad);
	bad = good, bad.nexthops[0].n_labels = 1, bad.nexthops[0].labels[0] = 1u << 20;
	check_invalid(&bad);
	bad = good, bad.nexthops[0].family = AF_UNSPEC, bad.nexthops[0].ifindex = 0;
	check_invalid(&bad);
}

/* Concatenates the netlink messages of two frames into one frame, as FRR does for an update. */
static size_t join(char *out, const char *a, int na, const char *b, int nb)
{
	uint16_t length = htobe16((uint16_t)(na + nb - 4));

	memcpy(out, a, (size_t)na);
	memcpy(out + na, b + 4, (size_t)nb - 4);
	memcpy(out + 2, &length, sizeof(length));
	return (size_t)(na + nb - 4);
}

static void test_delete_and_add_is_replace(void **state)
{
	struct fib_route route = route4("10.0.0.0", 8), other = route4("11.0.0.0", 8), got;
	char del[256], add[256], both[512];
	enum fib_msg_op op;
	const char *why;
	int n_del, n_add;

	(void)state;
	add_nexthop(&route, 1, AF_INET, "192.0.2.1");
	n_del = fib_msg_encode(FIB_DELETE, &route, del, sizeof(del));
	n_add = fib_msg_encode(FIB_ADD, &route, add, sizeof(add));
	assert_int_equal(
		fib_msg_decode(both, join(both, del, n_del, add, n_add), &op, &got, &why), 0);
	assert_int_equal(op, FIB_ADD);
	assert_memory_equal(&got, &route, sizeof(got));

	n_del = fib_msg_encode(FIB_DELETE, &other, del, sizeof(del));
	assert_int_equal(
		fib_msg_decode(both, join(both, del, n_del, add, n_add), &op, &got, &why), -1);
	assert_int_equal(errno, EBADMSG);
	assert_non_null(why);
}

static void test_foreign_frames(void **state)
{
	static const uint8_t bad_headers[][4] = {
		{2, 1, 0, 20}, {1, 2, 0, 20}, {1, 1, 0, 4}, {1, 1, 0, 19}, {1, 1, 0xff, 0xff}};
	struct {
		uint8_t fpm[4];
		uint8_t nlh[16];
	} frame = {{1, 1, 0, 20}, {0}};
	struct nlmsghdr nlh = {.nlmsg_len = 16, .nlmsg_type = RTM_NEWNEIGH};
	struct fib_route got;
	enum fib_msg_op op;
	const char *why;

	(void)state;
	for (unsigned i = 0; i < sizeof(bad_headers) / sizeof(bad_headers[0]); i++)
		assert_int_equal(fib_msg_frame_len(bad_headers[i], 4), -1);
	memcpy(frame.nlh, &nlh, sizeof(nlh));
	assert_int_equal(fib_msg_decode(&frame, sizeof(frame), &op, &got, &why), 0);
	assert_int_equal(op, FIB_IGNORED);
	nlh.nlmsg_len = 17;
	memcpy(frame.nlh, &nlh, sizeof(nlh));
	assert_int_equal(fib_msg_decode(&frame, sizeof(frame), &op, &got, &why), -1);
	assert_int_equal(fib_msg_decode(&frame, sizeof(frame) - 1, &op, &got, &why), -1);
}

/* Whatever a mutated frame decodes to must be a route that we would encode ourselves. */
static void test_mutated_frames(void **state)
{
	struct fib_route route = route4("10.1.0.0", 16);
	char good[FIB_MSG_MAX], bad[FIB_MSG_MAX], again[FIB_MSG_MAX];
	struct fib_nexthop *nh;
	unsigned seed = 1, accepted = 0, refused = 0;
	int n;

	(void)state;
	nh = add_nexthop(&route, 3, AF_INET, "192.0.2.1");
	nh->n_labels = 2;
	add_nexthop(&route, 3, AF_INET6, "fd00::1");
	n = fib_msg_encode(FIB_ADD, &route, good, sizeof(good));
	assert_true(n > 0);
	for (unsigned i = 0; i < 50000; i++) {
		struct fib_route got;
		enum fib_msg_op op;

		memcpy(bad, good, (size_t)n);
		for (unsigned k = 0; k <= i % 3; k++)
			bad[4 + rand_r(&seed) % (n - 4)] = (char)rand_r(&seed);
		if (fib_msg_decode(bad, (size_t)n, &op, &got, NULL) < 0) {
			refused++;
			continue;
		}
		accepted++;
		if (op == FIB_ADD)
			assert_true(fib_msg_encode(op, &got, again, sizeof(again)) > 0);
	}
	assert_true(accepted > 0 && refused > 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_single_nexthop),
		cmocka_unit_test(test_gateway_of_other_family),
		cmocka_unit_test(test_labels_and_multipath),
		cmocka_unit_test(test_mpls),
		cmocka_unit_test(test_other_actions_and_end),
		cmocka_unit_test(test_invalid_routes_are_refused),
		cmocka_unit_test(test_delete_and_add_is_replace),
		cmocka_unit_test(test_foreign_frames),
		cmocka_unit_test(test_mutated_frames),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
