/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer: any frames on any port, in both modes, leave the engine whole and no buffer lost. The
 * input is a row of frames: port and mode in one byte, length in two, then the bytes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <arpa/inet.h>
#include <rte_eal.h>
#include <rte_mbuf.h>

#include "dataplane/engine.h"
#include "dataplane/fib.h"
#include "dataplane/neighbor.h"
#include "dataplane/rehearsal.h"
#include "dataplane/routes.h"

#define POOL_SIZE 1023u

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Groups are referred to from memory that the leak checker doesn't search. */
int __lsan_is_turned_off(void);
int __lsan_is_turned_off(void)
{
	return 1;
}

static struct engine engine;
static struct ifaces ifaces = {
	.n = 2,
	.ports = {{.ifindex = 2, .up = true, .mtu = 1500}, {.ifindex = 3, .up = true, .mtu = 1280}},
};

static void add_address(struct iface *iface, int family, const char *text, uint8_t len)
{
	struct iface_addr *addr = &iface->addrs[iface->n_addrs++];

	addr->family = (uint8_t)family;
	addr->len = len;
	if (inet_pton(family, text, &addr->addr) != 1)
		abort();
}

static void add_route(struct routes *routes, int family, const char *dst, uint8_t len,
	int via_family, const char *via, uint8_t n_labels)
{
	struct fib_route route = {.family = (uint8_t)family, .prefix_len = len, .n_nexthops = 2};

	if (inet_pton(family, dst, &route.dst) != 1)
		abort();
	for (unsigned i = 0; i < 2; i++) {
		struct fib_nexthop *hop = &route.nexthops[i];

		hop->family = (uint8_t)via_family;
		hop->weight = (uint16_t)(i + 1);
		hop->n_labels = n_labels;
		hop->labels[0] = 16002;
		hop->labels[1] = 1001;
		if (inet_pton(via_family, via, &hop->gateway) != 1)
			abort();
	}
	if (routes_apply(routes, FIB_ADD, &route) != 0)
		abort();
}

static void add_label(struct routes *routes, uint32_t label, enum fib_action action)
{
	struct fib_route route = {
		.family = AF_MPLS, .prefix_len = 20, .dst.label = label, .action = action};

	if (action == FIB_FORWARD) {
		route.n_nexthops = 1;
		route.nexthops[0] = (struct fib_nexthop){.family = AF_INET, .weight = 1};
		inet_pton(AF_INET, "192.0.2.1", &route.nexthops[0].gateway);
	}
	if (routes_apply(routes, FIB_ADD, &route) != 0)
		abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static char *args[] = {(char *)"fuzz", (char *)"-l", (char *)"0", (char *)"-m",
		(char *)"32", (char *)"--no-huge", (char *)"--no-shconf", (char *)"--no-pci",
		(char *)"--no-telemetry", (char *)"--log-level=*:error", NULL};
	struct routes *routes;

	(void)argc;
	(void)argv;
	setenv("RUNTIME_DIRECTORY", "/tmp", 1);
	if (rte_eal_init(10, args) < 0)
		abort();
	engine.pool = rte_pktmbuf_pool_create(
		"fuzz", POOL_SIZE, 0, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	engine.domain = fib_domain_create(1);
	routes = routes_create(&engine);
	if (!engine.pool || !routes)
		abort();
	engine.n_ports = 2;
	for (unsigned i = 0; i < 2; i++)
		ifaces.ports[i].mac =
			(struct rte_ether_addr){{0x02, 0xed, 0, 0, 0, (uint8_t)(1 + i)}};
	engine.ports[0].customer = true;
	engine.ports[1].mpls = true;
	add_address(&ifaces.ports[0], AF_INET, "192.168.1.1", 30);
	add_address(&ifaces.ports[0], AF_INET6, "fd00:a1::1", 64);
	add_address(&ifaces.ports[0], AF_INET6, "fe80::1", 64);
	add_address(&ifaces.ports[1], AF_INET, "192.0.2.2", 30);
	add_address(&ifaces.ports[1], AF_INET6, "fd00:c0::2", 64);
	engine.ifaces = &ifaces;
	add_route(routes, AF_INET, "0.0.0.0", 0, AF_INET, "192.0.2.1", 2);
	add_route(routes, AF_INET, "10.0.0.0", 8, AF_INET6, "fd00:c0::1", 0);
	add_route(routes, AF_INET6, "::", 0, AF_INET, "192.0.2.1", 1);
	add_route(routes, AF_INET6, "fd00:1::", 32, AF_INET6, "fd00:a1::2", 0);
	add_label(routes, 16, FIB_POP);
	add_label(routes, 17, FIB_FORWARD);
	return 0;
}

static void empty_queues(void)
{
	for (unsigned i = 0; i < engine.n_ports; i++) {
		struct port *port = &engine.ports[i];

		rte_pktmbuf_free_bulk(port->tx, port->n_tx);
		rte_pktmbuf_free_bulk(port->punt, port->n_punt);
		port->n_tx = port->n_punt = 0;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct rehearsal rehearsal = {.looks = 1};

	engine.neighbors = neighbors_create();
	if (!engine.neighbors)
		abort();
	for (unsigned i = 0; i < 2; i++)
		memset(&engine.ports[i].counters, 0, sizeof(engine.ports[i].counters));
	while (size >= 3) {
		size_t n = data[1] | (data[2] & 7u) << 8;
		struct rte_mbuf *m;
		void *room;

		n = RTE_MIN(n, size - 3);
		engine.vpn = data[0] & 2;
		engine_begin(&engine, engine.now_ms + (data[0] >> 2) * 100u);
		m = rte_pktmbuf_alloc(engine.pool);
		if (!m)
			abort();
		room = rte_pktmbuf_append(m, (uint16_t)n);
		if (!room)
			abort();
		memcpy(room, data + 3, n);
		/* What an earlier packet in this buffer, or a driver, may have left there. */
		m->hash.usr = UINT32_MAX;
		rehearsal_input(&rehearsal, &engine, data[0] & 1, m);
		engine_tick(&engine);
		rehearsal_tick(&rehearsal);
		empty_queues();
		rehearsal_run(&rehearsal, &engine);
		data += 3 + n;
		size -= 3 + n;
	}
	neighbors_destroy(engine.neighbors);
	if (rte_mempool_avail_count(engine.pool) != POOL_SIZE)
		abort();
	return 0;
}
