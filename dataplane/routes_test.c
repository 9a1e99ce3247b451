/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <cmocka.h>

#include "dataplane/engine.h"
#include "dataplane/fib.h"
#include "dataplane/nexthop.h"
#include "dataplane/routes.h"

struct fixture {
	struct engine engine;
	struct ifaces ifaces;
	struct fib_reader *reader;
	struct routes *routes;
};

static void add_address(struct iface *iface, int family, const char *text, uint8_t len)
{
	struct iface_addr *addr = &iface->addrs[iface->n_addrs++];

	addr->family = (uint8_t)family;
	addr->len = len;
	assert_int_equal(inet_pton(family, text, &addr->addr), 1);
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->ifaces.n = 2;
	f->ifaces.ports[0] = (struct iface){.ifindex = 10, .up = true, .mtu = 1500};
	f->ifaces.ports[1] = (struct iface){.ifindex = 11, .up = true, .mtu = 1500};
	add_address(&f->ifaces.ports[0], AF_INET, "192.168.1.1", 30);
	add_address(&f->ifaces.ports[1], AF_INET, "192.0.2.2", 30);
	add_address(&f->ifaces.ports[1], AF_INET6, "fd00:c0::2", 64);
	f->engine.domain = fib_domain_create(1);
	f->engine.ifaces = &f->ifaces;
	f->engine.now_ifaces = &f->ifaces;
	f->engine.n_ports = 2;
	f->reader = fib_reader_register(f->engine.domain);
	f->routes = routes_create(&f->engine);
	assert_non_null(f->routes);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;

	routes_destroy(f->routes);
	fib_reader_unregister(f->reader);
	fib_domain_destroy(f->engine.domain);
	free(f);
	return 0;
}

static struct fib_route make(const char *text, uint8_t len, const char *via, uint32_t ifindex)
{
	int family = strchr(text, ':') ? AF_INET6 : AF_INET;
	struct fib_route route = {.family = (uint8_t)family, .prefix_len = len, .n_nexthops = 1};
	struct fib_nexthop *hop = &route.nexthops[0];

	assert_int_equal(inet_pton(family, text, &route.dst), 1);
	hop->weight = 1;
	hop->ifindex = ifindex;
	if (via) {
		hop->family = strchr(via, ':') ? AF_INET6 : AF_INET;
		assert_int_equal(inet_pton(hop->family, via, &hop->gateway), 1);
	}
	return route;
}

static void apply(struct fixture *f, enum fib_msg_op op, struct fib_route route)
{
	assert_int_equal(routes_apply(f->routes, op, &route), 0);
}

static int port_of(struct fixture *f, const char *text, uint8_t len)
{
	struct fib_route key = make(text, len, NULL, 0);
	struct route_view view;

	assert_true(routes_get(f->routes, &key, &view));
	return view.ports[0];
}

static void test_gateways_find_their_port(void **state)
{
	struct fixture *f = *state;

	apply(f, FIB_ADD, make("10.1.0.0", 16, "192.168.1.2", 0));
	apply(f, FIB_ADD, make("10.2.0.0", 16, "192.0.2.1", 0));
	apply(f, FIB_ADD, make("10.3.0.0", 16, "fd00:c0::1", 0));
	apply(f, FIB_ADD, make("10.4.0.0", 16, "203.0.113.1", 0));
	apply(f, FIB_ADD, make("10.5.0.0", 16, "192.0.2.1", 10));
	apply(f, FIB_ADD, make("10.6.0.0", 16, "fe80::1", 0));
	apply(f, FIB_ADD, make("10.7.0.0", 16, "fe80::1", 11));
	apply(f, FIB_ADD, make("10.8.0.0", 16, NULL, 10));
	apply(f, FIB_ADD, make("10.9.0.0", 16, NULL, 99));
	assert_int_equal(port_of(f, "10.1.0.0", 16), 0);
	assert_int_equal(port_of(f, "10.2.0.0", 16), 1);
	assert_int_equal(port_of(f, "10.3.0.0", 16), 1);
	assert_int_equal(port_of(f, "10.4.0.0", 16), -1);
	assert_int_equal(port_of(f, "10.5.0.0", 16), -1); /* the gateway is on the other port */
	assert_int_equal(port_of(f, "10.6.0.0", 16), -1); /* link-local, but on which link? */
	assert_int_equal(port_of(f, "10.7.0.0", 16), 1);
	assert_int_equal(port_of(f, "10.8.0.0", 16), 0);
	assert_int_equal(port_of(f, "10.9.0.0", 16), -1);

	add_address(&f->ifaces.ports[0], AF_INET, "203.0.113.2", 24);
	routes_resolve(f->routes);
	assert_int_equal(port_of(f, "10.4.0.0", 16), 0);
	f->ifaces.ports[0].n_addrs = 0;
	routes_resolve(f->routes);
	assert_int_equal(port_of(f, "10.1.0.0", 16), -1);
}

static uint32_t group_of(struct fixture *f, const char *addr)
{
	uint32_t key;

	assert_int_equal(inet_pton(AF_INET, addr, &key), 1);
	return ROUTE_GROUP(fib_lookup(f->engine.fib4, &key));
}

static void test_routes_share_groups(void **state)
{
	struct fixture *f = *state;
	struct fib_route other = make("10.2.0.0", 16, "192.0.2.1", 0);

	apply(f, FIB_ADD, make("10.0.0.0", 16, "192.0.2.1", 0));
	apply(f, FIB_ADD, make("10.1.0.0", 16, "192.0.2.1", 0));
	assert_int_equal(group_of(f, "10.0.0.1"), group_of(f, "10.1.0.1"));
	other.nexthops[0].n_labels = 1;
	apply(f, FIB_ADD, other);
	assert_int_not_equal(group_of(f, "10.0.0.1"), group_of(f, "10.2.0.1"));
	other.protocol++;
	apply(f, FIB_ADD, other);
	assert_int_not_equal(group_of(f, "10.0.0.1"), group_of(f, "10.2.0.1"));
}

static void test_group_numbers_wait_for_the_reader(void **state)
{
	struct fixture *f = *state;
	uint32_t first, second;

	apply(f, FIB_ADD, make("10.0.0.0", 16, "192.0.2.1", 0));
	first = group_of(f, "10.0.0.1");
	fib_reader_online(f->reader);
	apply(f, FIB_ADD, make("10.0.0.0", 16, "192.168.1.2", 0));
	second = group_of(f, "10.0.0.1");
	assert_int_not_equal(first, second);
	assert_non_null(nh_group_at(f->engine.groups, first));
	apply(f, FIB_ADD, make("10.1.0.0", 16, "203.0.113.1", 0));
	assert_int_not_equal(group_of(f, "10.1.0.1"), first);
	fib_reader_offline(f->reader);
	/* Nobody looks any more: the number goes to the next one who needs one. */
	apply(f, FIB_ADD, make("10.2.0.0", 16, "203.0.113.2", 0));
	assert_int_equal(group_of(f, "10.2.0.1"), first);
}

static size_t stale(struct fixture *f)
{
	return routes_count(f->routes).stale;
}

static void test_generations(void **state)
{
	struct fixture *f = *state;
	struct fib_route label = {
		.family = AF_MPLS, .prefix_len = 20, .dst.label = 7, .action = FIB_POP};

	for (unsigned peer = 0; peer < 5; peer++) {
		routes_mark_stale(f->routes);
		apply(f, FIB_ADD, make("10.0.0.0", 16, "192.0.2.1", 0));
		apply(f, FIB_ADD, make("10.0.0.0", 16, "192.0.2.1", 0));
		apply(f, FIB_ADD, make("fd00::", 16, "fd00:c0::1", 0));
		assert_int_equal(routes_apply(f->routes, FIB_ADD, &label), 0);
		assert_int_equal(stale(f), 0);
		assert_int_equal(routes_sweep(f->routes), 0);
	}
	assert_int_equal(routes_count(f->routes).mpls, 1);
	routes_mark_stale(f->routes);
	assert_int_equal(stale(f), 3);
	/* A second peer before the first has swept: what was stale stays stale. */
	apply(f, FIB_ADD, make("10.0.0.0", 16, "192.0.2.1", 0));
	assert_int_equal(stale(f), 2);
	routes_mark_stale(f->routes);
	assert_int_equal(stale(f), 3);
	routes_mark_stale(f->routes);
	assert_int_equal(stale(f), 3);
	apply(f, FIB_DELETE, make("fd00::", 16, NULL, 0));
	apply(f, FIB_DELETE, make("fd00::", 16, NULL, 0));
	assert_int_equal(stale(f), 2);
	apply(f, FIB_ADD, make("10.0.0.0", 16, "192.168.1.2", 0));
	assert_int_equal(routes_sweep(f->routes), 1);
	assert_int_equal(routes_count(f->routes).ipv4, 1);
	assert_int_equal(routes_count(f->routes).mpls, 0);
	assert_int_equal(stale(f), 0);
}

static void test_many_are_swept(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 3000; i++) {
		struct fib_route route = make("10.0.0.0", 32, "192.0.2.1", 0);

		route.dst.v4.s_addr = htonl(0x0a000000 + i);
		assert_int_equal(routes_apply(f->routes, FIB_ADD, &route), 0);
	}
	routes_mark_stale(f->routes);
	for (unsigned i = 0; i < 3000; i += 3) {
		struct fib_route route = make("10.0.0.0", 32, "192.0.2.1", 0);

		route.dst.v4.s_addr = htonl(0x0a000000 + i);
		assert_int_equal(routes_apply(f->routes, FIB_ADD, &route), 0);
	}
	assert_int_equal(routes_sweep(f->routes), 2000);
	assert_int_equal(routes_count(f->routes).ipv4, 1000);
	assert_int_equal(stale(f), 0);
}

static void test_source_addresses(void **state)
{
	struct fixture *f = *state;
	struct iface *iface = &f->ifaces.ports[1];
	struct in_addr near, far;
	struct in6_addr six;

	inet_pton(AF_INET, "192.0.2.1", &near);
	inet_pton(AF_INET, "8.8.8.8", &far);
	inet_pton(AF_INET6, "2001:db8::1", &six);
	add_address(iface, AF_INET, "8.8.8.1", 24);
	assert_int_equal(iface_source(iface, AF_INET, &near)->len, 30);
	assert_int_equal(iface_source(iface, AF_INET, &far)->len, 24);
	assert_true(iface_owns(iface, AF_INET, &iface->addrs[0].addr));
	assert_false(iface_owns(iface, AF_INET, &near));
	/* A link-local address is no source for what is far. */
	iface->n_addrs = 0;
	add_address(iface, AF_INET6, "fe80::1", 64);
	assert_null(iface_source(iface, AF_INET6, &six));
	assert_true(addr_same_prefix("\x80", "\xff", 1) && !addr_same_prefix("\x80", "\xff", 2));
	assert_true(addr_same_prefix("x", "y", 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_gateways_find_their_port, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_routes_share_groups, set_up, tear_down),
		cmocka_unit_test_setup_teardown(
			test_group_numbers_wait_for_the_reader, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_generations, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_many_are_swept, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_source_addresses, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
