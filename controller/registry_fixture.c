/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/registry_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

static struct store *open_store(struct fixture_db *db)
{
	struct why why = {""};
	if (store_open(db->path, &db->store, &why) != 0)
		fail_msg("%s", why.text);
	return db->store;
}

struct store *fixture_db_open(struct fixture_db *db)
{
	snprintf(db->dir, sizeof(db->dir), "/tmp/edgeplex-registry-test.XXXXXX");
	assert_non_null(mkdtemp(db->dir));
	snprintf(db->path, sizeof(db->path), "%s/edgeplex.db", db->dir);
	return open_store(db);
}

struct store *fixture_db_reopen(struct fixture_db *db)
{
	store_close(db->store);
	return open_store(db);
}

void fixture_db_close(struct fixture_db *db)
{
	static const char *const suffixes[] = {"", "-wal", "-shm"};
	store_close(db->store);
	for (size_t i = 0; i < 3; i++) {
		char path[128];
		snprintf(path, sizeof(path), "%s%s", db->path, suffixes[i]);
		unlink(path);
	}
	rmdir(db->dir);
}

struct ep_prefix fixture_addr(const char *text)
{
	struct ep_prefix addr;
	assert_int_equal(ep_addr_parse(text, &addr), 0);
	return addr;
}

struct ep_prefix fixture_prefix(const char *text)
{
	struct ep_prefix prefix;
	assert_int_equal(ep_prefix_parse(text, true, &prefix, NULL), 0);
	return prefix;
}

struct site fixture_site(const char *name, unsigned n)
{
	char text[32];
	struct site site = {
		.asn = 65000,
		.core_mtu = 1600,
		.n_rr = 1,
		.rr = {fixture_addr("10.0.0.100")},
		.transport_label = 16000 + n,
		.labels = {1000, 1001},
		.vlans = {100, 109},
		.pvm_memory_kib = MODEL_PVM_MEMORY_KIB,
		.cvm_memory_kib = MODEL_CVM_MEMORY_KIB,
	};
	snprintf(site.name, sizeof(site.name), "%s", name);
	snprintf(site.core_port, sizeof(site.core_port), "core");
	snprintf(site.switch_target, sizeof(site.switch_target), "unix:/run/%s", name);
	snprintf(text, sizeof(text), "10.0.0.%u", n);
	site.pe_address = fixture_addr(text);
	snprintf(text, sizeof(text), "192.0.2.%u/30", n * 4 + 2);
	site.core_address = fixture_prefix(text);
	snprintf(text, sizeof(text), "192.0.2.%u", n * 4 + 1);
	site.core_gateway = fixture_addr(text);
	return site;
}

struct server fixture_server(const char *name, const char *site)
{
	struct server server = {.memory_mib = 4096};
	snprintf(server.name, sizeof(server.name), "%s", name);
	snprintf(server.site, sizeof(server.site), "%s", site);
	snprintf(server.uri, sizeof(server.uri), "qemu:///%s", name);
	snprintf(server.bridge, sizeof(server.bridge), "br0");
	snprintf(server.trunk, sizeof(server.trunk), "t-%s", name);
	return server;
}

struct port fixture_port(const char *name, const char *customer, const char *site,
	const char *switch_port, const char *address, const char *ce)
{
	struct port port = {
		.mtu = 1500,
		.n_addresses = 1,
		.addresses = {fixture_prefix(address)},
		.n_ce = 1,
		.ce = {{.address = fixture_addr(ce), .asn = 65101}},
	};
	snprintf(port.name, sizeof(port.name), "%s", name);
	snprintf(port.customer, sizeof(port.customer), "%s", customer);
	snprintf(port.site, sizeof(port.site), "%s", site);
	snprintf(port.switch_port, sizeof(port.switch_port), "%s", switch_port);
	return port;
}

void fixture_port_up(struct store *store, struct port *port, struct operation *op)
{
	op->state = OPERATION_SUCCEEDED;
	assert_int_equal(store_operation_update(store, op), 0);
	port->state = PORT_ACTIVE;
	port->started = true;
	assert_int_equal(store_port_update(store, port), 0);
}
