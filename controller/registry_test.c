/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The registry on a real database: what is refused, that nothing remains of it, what is given. */

#include "controller/registry.h"
#include "controller/registry_fixture.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

struct fixture {
	struct fixture_db db;
	struct store *store;
	pthread_t other; /* changes something as well */
};

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	if (f == NULL)
		return -1;
	f->store = fixture_db_open(&f->db);
	*state = f;
	return 0;
}

static int tear_down(void **state)
{
	struct fixture *f = *state;
	fixture_db_close(&f->db);
	free(f);
	return 0;
}

static struct operation make_operation(const char *object)
{
	struct operation op = {.n_steps = 2, .steps = {{.name = "allocate"}, {.name = "place"}}};
	snprintf(op.verb, sizeof(op.verb), "create");
	snprintf(op.object, sizeof(op.object), "%s", object);
	return op;
}

static bool reachable(void *ctx, int64_t server_id)
{
	(void)server_id;
	return ctx == NULL;
}

static int create_port(struct fixture *f, struct port *port, struct problem *problem)
{
	char object[48];
	snprintf(object, sizeof(object), "port/%s", port->name);
	struct operation op = make_operation(object);
	*problem = (struct problem){0};
	return registry_port_create(f->store, port, &op, reachable, NULL, false, problem);
}

/* Two sites with a server and a CVM each, customers green and red. */
static void populate(struct fixture *f)
{
	struct problem problem = {0};
	static const char *const names[] = {"a", "b"};
	for (unsigned i = 0; i < 2; i++) {
		char name[32];
		struct site site = fixture_site(names[i], i + 1);
		assert_int_equal(registry_site_create(f->store, &site, false, &problem), 0);
		snprintf(name, sizeof(name), "%s-left", names[i]);
		struct server server = fixture_server(name, names[i]);
		assert_int_equal(registry_server_create(f->store, &server, false, &problem), 0);
		snprintf(name, sizeof(name), "cvm/%s", names[i]);
		struct operation op = make_operation(name);
		assert_int_equal(
			registry_cvm_create(f->store, names[i], &op, reachable, NULL, &problem), 0);
	}
	struct customer green = {.name = "green"}, red = {.name = "red"};
	assert_int_equal(registry_customer_create(f->store, &green, &problem), 0);
	assert_int_equal(registry_customer_create(f->store, &red, &problem), 0);
	assert_int_equal(green.vpn_id, 100);
	assert_int_equal(red.vpn_id, 101);
}

static void expect(const struct problem *problem, int rc, int status, const char *field)
{
	assert_int_equal(rc, -1);
	assert_int_equal(problem->status, status);
	if (field == NULL)
		return;
	assert_true(problem->n_errors >= 1);
	assert_string_equal(problem->errors[0].field, field);
}

static size_t count_ports(struct fixture *f)
{
	struct port *ports;
	size_t n;
	assert_int_equal(store_port_list(f->store, &ports, &n), 0);
	free(ports);
	return n;
}

static void test_sites_differ(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	populate(f);
	struct site a, b;
	assert_int_equal(store_site_get(f->store, "a", &a), 0);
	assert_int_equal(store_site_get(f->store, "b", &b), 0);
	assert_false(ep_prefix_overlaps(&a.inside, &b.inside));
	assert_int_equal(a.n_rr, 1);

	struct site same = fixture_site("a", 3);
	expect(&problem, registry_site_create(f->store, &same, false, &problem), 409, NULL);
	problem = (struct problem){0};
	struct site address = fixture_site("c", 3);
	address.pe_address = a.pe_address;
	expect(&problem, registry_site_create(f->store, &address, false, &problem), 422,
		"/pe_address");
	problem = (struct problem){0};
	struct site label = fixture_site("c", 3);
	label.transport_label = a.transport_label;
	expect(&problem, registry_site_create(f->store, &label, false, &problem), 422,
		"/transport_label");
	problem = (struct problem){0};
	struct site inside = fixture_site("c", 3);
	inside.inside = b.inside;
	expect(&problem, registry_site_create(f->store, &inside, false, &problem), 422, "/inside");
}

static void test_dry_run_keeps_nothing(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct site site = fixture_site("a", 1), found;
	assert_int_equal(registry_site_create(f->store, &site, true, &problem), 0);
	assert_int_equal(store_site_get(f->store, "a", &found), ENOENT);
}

static void test_port_is_given_everything(void **state)
{
	struct fixture *f = *state;
	struct problem problem;
	populate(f);
	struct port port =
		fixture_port("green-a", "green", "a", "cust1", "192.168.1.1/30", "192.168.1.2");
	assert_int_equal(create_port(f, &port, &problem), 0);
	struct port stored;
	assert_int_equal(store_port_get(f->store, "green-a", &stored), 0);
	assert_memory_equal(&stored.addresses, &port.addresses, sizeof(port.addresses));
	assert_int_equal(stored.label, 1000);
	assert_int_equal(stored.vlan_cust, 102); /* the CVM has 100 and 101 */
	assert_int_equal(stored.vlan_core, 103);
	assert_int_equal(stored.rd_number, 1);
	assert_int_equal(stored.vpn_id, 100);
	assert_int_equal(strlen(stored.uuid), 36);
	assert_string_equal(stored.server, "a-left");
	char text[EP_PREFIX_STRLEN];
	assert_string_equal(ep_addr_format(&stored.inside, text), "100.64.1.10");

	/* Labels are a site's own, route distinguishers are not. */
	struct port other =
		fixture_port("green-b", "green", "b", "cust1", "192.168.2.1/30", "192.168.2.2");
	assert_int_equal(create_port(f, &other, &problem), 0);
	assert_int_equal(other.label, 1000);
	assert_int_equal(other.rd_number, 2);
}

static void test_customers_may_overlap_each_other(void **state)
{
	struct fixture *f = *state;
	struct problem problem;
	populate(f);
	struct port green =
		fixture_port("green-a", "green", "a", "cust1", "192.168.1.1/30", "192.168.1.2");
	struct port red =
		fixture_port("red-a", "red", "a", "cust2", "192.168.1.1/30", "192.168.1.2");
	struct port again =
		fixture_port("green-a2", "green", "a", "cust3", "192.168.1.1/24", "192.168.1.2");
	assert_int_equal(create_port(f, &green, &problem), 0);
	assert_int_equal(create_port(f, &red, &problem), 0);
	expect(&problem, create_port(f, &again, &problem), 422, "/addresses/0");
	assert_non_null(strstr(problem.errors[0].detail, "green-a"));
	assert_int_equal(count_ports(f), 2);
}

static void test_ports_are_checked(void **state)
{
	struct fixture *f = *state;
	struct problem problem;
	populate(f);
	struct port first =
		fixture_port("green-a", "green", "a", "cust1", "192.168.1.1/30", "192.168.1.2");
	assert_int_equal(create_port(f, &first, &problem), 0);

	struct port port = fixture_port("p", "blue", "a", "cust2", "10.9.0.1/30", "10.9.0.2");
	expect(&problem, create_port(f, &port, &problem), 422, "/customer");
	port = fixture_port("p", "red", "a", "cust2", "10.9.0.1/30", "10.9.0.2");
	port.mtu = 1593;
	expect(&problem, create_port(f, &port, &problem), 422, "/mtu");
	assert_string_equal(problem.errors[0].fix, "choose at most 1592");
	port = fixture_port("p", "red", "x", "cust2", "10.9.0.1/30", "10.9.0.2");
	expect(&problem, create_port(f, &port, &problem), 422, "/site");
	port = fixture_port("green-a", "red", "a", "cust2", "10.9.0.1/30", "10.9.0.2");
	expect(&problem, create_port(f, &port, &problem), 409, NULL);
	port = fixture_port("p", "red", "a", "cust1", "10.9.0.1/30", "10.9.0.2");
	expect(&problem, create_port(f, &port, &problem), 422, "/switch_port");
	port = fixture_port("p", "red", "a", "core", "10.9.0.1/30", "10.9.0.2");
	expect(&problem, create_port(f, &port, &problem), 422, "/switch_port");
	port = fixture_port("p", "red", "a", "t-a-left", "10.9.0.1/30", "10.9.0.2");
	expect(&problem, create_port(f, &port, &problem), 422, "/switch_port");
	port = fixture_port("p", "red", "a", "cust2", "100.64.1.1/30", "100.64.1.2");
	expect(&problem, create_port(f, &port, &problem), 422, "/addresses/0");
	port = fixture_port("p", "red", "a", "cust2", "10.9.0.1/30", "10.9.0.2");
	port.ce[0].asn = 65000;
	expect(&problem, create_port(f, &port, &problem), 422, "/ce/0/asn");
	port = fixture_port("p", "red", "a", "cust2", "10.9.0.1/30", "10.9.0.2");
	snprintf(port.wanted_server, sizeof(port.wanted_server), "b-left");
	expect(&problem, create_port(f, &port, &problem), 422, "/server");

	/* The same port of the switch with another VLAN is another customer's. */
	port = fixture_port("p", "red", "a", "cust1", "10.9.0.1/30", "10.9.0.2");
	port.vlan = 7;
	assert_int_equal(create_port(f, &port, &problem), 0);
	port = fixture_port("q", "red", "a", "cust1", "10.9.1.1/30", "10.9.1.2");
	port.vlan = 7;
	expect(&problem, create_port(f, &port, &problem), 422, "/vlan");
	assert_int_equal(count_ports(f), 2);
}

static void test_labels_run_out_and_come_back(void **state)
{
	struct fixture *f = *state;
	struct problem problem;
	populate(f);
	struct port one = fixture_port("one", "green", "a", "c1", "10.9.1.1/30", "10.9.1.2");
	struct port two = fixture_port("two", "green", "a", "c2", "10.9.2.1/30", "10.9.2.2");
	struct port three = fixture_port("three", "green", "a", "c3", "10.9.3.1/30", "10.9.3.2");
	assert_int_equal(create_port(f, &one, &problem), 0);
	assert_int_equal(create_port(f, &two, &problem), 0);
	expect(&problem, create_port(f, &three, &problem), 409, NULL);
	assert_string_equal(problem.type, "exhausted");
	assert_non_null(strstr(problem.detail, "labels"));
	assert_int_equal(count_ports(f), 2);

	assert_int_equal(registry_port_remove(f->store, &one), 0);
	assert_int_equal(create_port(f, &three, &problem), 0);
	assert_int_equal(three.label, 1000);
	assert_int_equal(three.rd_number, 1);
}

static void test_vlans_run_out(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct site site = fixture_site("a", 1);
	site.vlans = (struct range){100, 102};
	assert_int_equal(registry_site_create(f->store, &site, false, &problem), 0);
	struct server server = fixture_server("a-left", "a");
	assert_int_equal(registry_server_create(f->store, &server, false, &problem), 0);
	struct operation op = make_operation("cvm/a");
	assert_int_equal(registry_cvm_create(f->store, "a", &op, reachable, NULL, &problem), 0);
	struct customer green = {.name = "green"};
	assert_int_equal(registry_customer_create(f->store, &green, &problem), 0);
	struct port port = fixture_port("p", "green", "a", "c1", "10.9.1.1/30", "10.9.1.2");
	expect(&problem, create_port(f, &port, &problem), 409, NULL);
	assert_non_null(strstr(problem.detail, "vlans"));

	/* Neither the label nor the first VLAN was kept. */
	uint32_t n;
	assert_int_equal(store_alloc_count(
				 f->store, site.id, ALLOC_LABEL, (struct range){0, UINT32_MAX}, &n),
		0);
	assert_int_equal(n, 0);
	assert_int_equal(
		store_alloc_count(f->store, site.id, ALLOC_VLAN, (struct range){0, UINT32_MAX}, &n),
		0);
	assert_int_equal(n, 2);
}

static void test_unreachable_servers_are_not_chosen(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	populate(f);
	struct port port = fixture_port("p", "green", "a", "c1", "10.9.1.1/30", "10.9.1.2");
	struct operation op = make_operation("port/p");
	expect(&problem, registry_port_create(f->store, &port, &op, reachable, f, false, &problem),
		503, NULL);
	assert_string_equal(problem.type, "server-unreachable");
	assert_int_equal(count_ports(f), 0);
}

/* A VM may not be placed on a server by memory that others may have. */
static void test_unknown_use_of_servers_is_no_free_memory(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct site site = fixture_site("a", 1);
	assert_int_equal(registry_site_create(f->store, &site, false, &problem), 0);
	struct server server = fixture_server("a-left", "a");
	assert_int_equal(registry_server_create(f->store, &server, false, &problem), 0);
	sqlite3 *db;
	assert_int_equal(sqlite3_open(f->db.path, &db), SQLITE_OK);
	assert_int_equal(
		sqlite3_exec(db, "ALTER TABLE ports RENAME TO lost", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	struct operation op = make_operation("cvm/a");
	expect(&problem, registry_cvm_create(f->store, "a", &op, reachable, NULL, &problem), 500,
		NULL);
	struct cvm cvm;
	assert_int_equal(store_cvm_get(f->store, "a", &cvm), ENOENT);
}

static int set_labels(void *ctx, struct site *site, struct problem *problem)
{
	(void)problem;
	site->labels = *(const struct range *)ctx;
	return 0;
}

static int set_vlans(void *ctx, struct site *site, struct problem *problem)
{
	(void)problem;
	site->vlans = *(const struct range *)ctx;
	return 0;
}

static void *change_vlans(void *ctx)
{
	struct fixture *f = ctx;
	struct problem problem = {0};
	struct range vlans = {100, 3000};
	struct site site;
	registry_site_change(f->store, "a", set_vlans, &vlans, &site, &problem);
	return NULL;
}

/* Somebody else comes when this change has read the site and not written it yet: it has to wait. */
static int set_labels_interrupted(void *ctx, struct site *site, struct problem *problem)
{
	struct fixture *f = ctx;
	struct range labels = {1000, 5000};
	struct timespec until;
	assert_int_equal(pthread_create(&f->other, NULL, change_vlans, f), 0);
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec++;
	assert_int_equal(pthread_timedjoin_np(f->other, NULL, &until), ETIMEDOUT);
	return set_labels(&labels, site, problem);
}

static void test_no_change_is_lost(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct site site;
	populate(f);
	assert_int_equal(
		registry_site_change(f->store, "a", set_labels_interrupted, f, &site, &problem), 0);
	assert_int_equal(pthread_join(f->other, NULL), 0);
	assert_int_equal(store_site_get(f->store, "a", &site), 0);
	assert_int_equal(site.labels.last, 5000);
	assert_int_equal(site.vlans.last, 3000);
}

static void test_what_is_used_stays(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct operation op = make_operation("cvm/a");
	populate(f);
	struct port port = fixture_port("p", "green", "a", "c1", "10.9.1.1/30", "10.9.1.2");
	assert_int_equal(create_port(f, &port, &problem), 0);

	expect(&problem, registry_customer_delete(f->store, "green", &problem), 409, NULL);
	assert_non_null(strstr(problem.detail, "port p"));
	problem = (struct problem){0};
	expect(&problem, registry_site_delete(f->store, "a", &problem), 409, NULL);
	problem = (struct problem){0};
	expect(&problem, registry_server_delete(f->store, "a-left", &problem), 409, NULL);
	problem = (struct problem){0};
	expect(&problem, registry_cvm_delete(f->store, "a", &op, &problem), 409, NULL);
	problem = (struct problem){0};
	struct site site;
	struct range elsewhere = {2000, 2001};
	expect(&problem,
		registry_site_change(f->store, "a", set_labels, &elsewhere, &site, &problem), 422,
		"/labels");
	problem = (struct problem){0};
	expect(&problem, registry_customer_delete(f->store, "nobody", &problem), 404, NULL);
	problem = (struct problem){0};
	assert_int_equal(registry_customer_delete(f->store, "red", &problem), 0);
}

static void test_one_operation_at_a_time(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	populate(f);
	struct port port = fixture_port("p", "green", "a", "c1", "10.9.1.1/30", "10.9.1.2");
	assert_int_equal(create_port(f, &port, &problem), 0);
	struct operation op = make_operation("port/p");
	snprintf(op.verb, sizeof(op.verb), "delete");
	expect(&problem, registry_port_delete(f->store, "p", &op, &problem), 409, NULL);

	int64_t id;
	assert_int_equal(store_operation_of(f->store, "port/p", &id), 0);
	struct operation running;
	assert_int_equal(store_operation_get(f->store, id, &running), 0);
	assert_int_equal(running.steps[0].state, STEP_SUCCEEDED);
	running.state = OPERATION_SUCCEEDED;
	assert_int_equal(store_operation_update(f->store, &running), 0);
	problem = (struct problem){0};
	assert_int_equal(registry_port_delete(f->store, "p", &op, &problem), 0);
	assert_int_equal(store_port_get(f->store, "p", &port), 0);
	assert_int_equal(port.state, PORT_DELETING);
}

/* A caller read the port while an operation worked on it; what that one noted must stay. */
static void test_change_touches_only_what_may_change(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	populate(f);
	struct port port = fixture_port("p", "green", "a", "c1", "10.9.1.1/30", "10.9.1.2");
	assert_int_equal(create_port(f, &port, &problem), 0);
	int64_t id;
	struct operation running;
	assert_int_equal(store_operation_of(f->store, "port/p", &id), 0);
	assert_int_equal(store_operation_get(f->store, id, &running), 0);
	running.state = OPERATION_FAILED;
	assert_int_equal(store_operation_update(f->store, &running), 0);

	struct port stale, now;
	assert_int_equal(store_port_get(f->store, "p", &stale), 0);
	stale.ce[0].asn = 65199;
	struct operation op = make_operation("port/p");
	expect(&problem, registry_port_change(f->store, &stale, &op, &problem), 409, NULL);

	assert_int_equal(store_port_get(f->store, "p", &now), 0);
	now.state = PORT_ACTIVE;
	now.started = now.in_cvm = now.in_fabric = true;
	assert_int_equal(store_port_update(f->store, &now), 0);
	problem = (struct problem){0};
	assert_int_equal(registry_port_change(f->store, &stale, &op, &problem), 0);
	assert_int_equal(store_port_get(f->store, "p", &now), 0);
	assert_int_equal(now.state, PORT_ACTIVE);
	assert_true(now.started && now.in_cvm && now.in_fabric);
	assert_int_equal(now.ce[0].asn, 65199);
}

static void test_everything_survives_reopening(void **state)
{
	struct fixture *f = *state;
	struct problem problem;
	populate(f);
	struct port port = fixture_port("p", "green", "a", "c1", "10.9.1.1/30", "10.9.1.2");
	port.has_ce_mac = true;
	assert_int_equal(ep_mac_parse("52:54:00:00:00:01", &port.ce_mac), 0);
	assert_int_equal(create_port(f, &port, &problem), 0);
	struct port before, after;
	assert_int_equal(store_port_get(f->store, "p", &before), 0);
	f->store = fixture_db_reopen(&f->db);
	assert_int_equal(store_port_get(f->store, "p", &after), 0);
	assert_memory_equal(&before, &after, sizeof(before));
	assert_true(after.has_ce_mac);
	int64_t *ids;
	size_t n;
	assert_int_equal(store_operation_unfinished(f->store, &ids, &n), 0);
	assert_int_equal(n, 3);
	free(ids);
}

static void test_double_allocation_is_impossible(void **state)
{
	struct fixture *f = *state;
	assert_int_equal(store_alloc_exact(f->store, 1, ALLOC_LABEL, 1000, "x"), 0);
	assert_int_equal(store_alloc_exact(f->store, 1, ALLOC_LABEL, 1000, "y"), EEXIST);
	assert_int_equal(store_alloc_exact(f->store, 2, ALLOC_LABEL, 1000, "y"), 0);
	uint32_t value;
	struct range range = {999, 1001};
	assert_int_equal(store_alloc_lowest(f->store, 1, ALLOC_LABEL, range, "z", &value), 0);
	assert_int_equal(value, 999);
	assert_int_equal(store_alloc_lowest(f->store, 1, ALLOC_LABEL, range, "z", &value), 0);
	assert_int_equal(value, 1001);
	assert_int_equal(store_alloc_lowest(f->store, 1, ALLOC_LABEL, range, "z", &value), ENOSPC);
	assert_int_equal(store_alloc_release(f->store, "x"), 0);
	assert_int_equal(store_alloc_lowest(f->store, 1, ALLOC_LABEL, range, "z", &value), 0);
	assert_int_equal(value, 1000);
}

static void test_events_are_limited(void **state)
{
	struct fixture *f = *state;
	struct event *events;
	size_t n;
	assert_int_equal(store_event_add(f->store, "info", "site/a", "one"), 0);
	assert_int_equal(store_event_add(f->store, "error", "site/a", "two"), 0);
	assert_int_equal(store_event_list(f->store, 1, 10, &events, &n), 0);
	assert_int_equal(n, 1);
	assert_string_equal(events[0].text, "two");
	free(events);
}

/* What still runs is kept, however old it is. */
static void test_operations_are_limited(void **state)
{
	struct fixture *f = *state;
	struct operation running = make_operation("port/old"), ended, op, seen;
	assert_int_equal(store_begin(f->store), 0);
	assert_int_equal(store_operation_insert(f->store, &running), 0);
	op = make_operation("port/p");
	op.state = OPERATION_SUCCEEDED;
	assert_int_equal(store_operation_insert(f->store, &op), 0);
	ended = op;
	for (unsigned i = 1; i < STORE_OPERATIONS_KEPT; i++)
		assert_int_equal(store_operation_insert(f->store, &op), 0);
	assert_int_equal(store_operation_get(f->store, ended.id, &seen), 0);
	assert_int_equal(store_operation_insert(f->store, &op), 0);
	assert_int_equal(store_operation_get(f->store, ended.id, &seen), ENOENT);
	assert_int_equal(store_operation_get(f->store, ended.id + 1, &seen), 0);
	assert_int_equal(store_operation_get(f->store, running.id, &seen), 0);
	assert_int_equal(seen.n_steps, 2);
	assert_int_equal(store_commit(f->store), 0);
}

/* ---- protection ---------------------------------------------------------------------------- */

/* The CVM of site a runs on a-left; a-right and a-third could have its standby. */
static void populate_for_protection(struct fixture *f)
{
	static const char *const more[] = {"a-right", "a-third"};
	struct problem problem = {0};
	struct server *servers;
	struct cvm cvm;
	size_t n;
	int64_t op;
	populate(f);
	for (size_t i = 0; i < 2; i++) {
		struct server server = fixture_server(more[i], "a");
		snprintf(server.hostd, sizeof(server.hostd), "unix:/%s", more[i]);
		assert_int_equal(registry_server_create(f->store, &server, false, &problem), 0);
	}
	assert_int_equal(store_server_list(f->store, &servers, &n), 0);
	for (size_t i = 0; i < n; i++) {
		snprintf(servers[i].hostd, sizeof(servers[i].hostd), "unix:/%s", servers[i].name);
		assert_int_equal(store_server_update(f->store, &servers[i]), 0);
	}
	free(servers);
	assert_int_equal(store_cvm_get(f->store, "a", &cvm), 0);
	cvm.state = PORT_ACTIVE;
	cvm.started = true;
	assert_int_equal(store_cvm_update(f->store, &cvm), 0);
	assert_int_equal(store_operation_of(f->store, "cvm/a", &op), 0);
	struct operation done;
	assert_int_equal(store_operation_get(f->store, op, &done), 0);
	done.state = OPERATION_SUCCEEDED;
	assert_int_equal(store_operation_update(f->store, &done), 0);
}

static void end_operation(struct fixture *f, struct operation *op)
{
	op->state = OPERATION_SUCCEEDED;
	assert_int_equal(store_operation_update(f->store, op), 0);
}

static int protect(
	struct fixture *f, const struct protection_request *request, struct problem *problem)
{
	struct operation op = make_operation("cvm/a");
	*problem = (struct problem){0};
	int rc = registry_cvm_protect(f->store, "a", request, &op, reachable, NULL, problem);
	if (rc == 0)
		end_operation(f, &op);
	return rc;
}

static struct protection get_protection(struct fixture *f)
{
	struct protection protection;
	assert_int_equal(store_protection_get(f->store, "a", &protection), 0);
	return protection;
}

static void set_protection(
	struct fixture *f, enum protection_state state, const char *standby_or_null)
{
	struct protection protection = get_protection(f);
	struct server server = {.id = 0};
	if (standby_or_null != NULL)
		assert_int_equal(store_server_get(f->store, standby_or_null, &server), 0);
	protection.state = state;
	protection.standby_id = server.id;
	assert_int_equal(store_protection_put(f->store, &protection), 0);
}

static void test_what_is_asked_for_is_kept(void **state)
{
	struct fixture *f = *state;
	struct problem problem;
	populate_for_protection(f);
	assert_int_equal(protect(f, &(struct protection_request){0}, &problem), 0);
	struct protection p = get_protection(f);
	assert_int_equal(p.interval_ms, 100);
	assert_int_equal(p.timeout_ms, 1000);
	assert_int_equal(p.state, PROTECTION_NONE);
	assert_int_equal(p.standby_id, 0);
	assert_string_equal(p.wanted_server, "");

	/* What isn't said stays. */
	assert_int_equal(protect(f, &(struct protection_request){.interval_ms = 25}, &problem), 0);
	struct protection_request third = {.has_standby = true, .standby = "a-third"};
	assert_int_equal(protect(f, &third, &problem), 0);
	p = get_protection(f);
	assert_int_equal(p.interval_ms, 25);
	assert_string_equal(p.wanted_server, "a-third");
	assert_int_equal(
		protect(f, &(struct protection_request){.has_standby = true}, &problem), 0);
	assert_string_equal(get_protection(f).wanted_server, "");

	/* All of it survives. */
	p.takeover = (struct takeover_begun){.time_ms = 9, .why = FAILOVER_ASKED};
	p.ending = true;
	p.state = PROTECTION_TAKEOVER;
	struct server server;
	assert_int_equal(store_server_get(f->store, "a-third", &server), 0);
	p.standby_id = server.id;
	snprintf(p.standby, sizeof(p.standby), "a-third");
	assert_int_equal(store_protection_put(f->store, &p), 0);
	f->store = fixture_db_reopen(&f->db);
	struct protection stored = get_protection(f);
	assert_string_equal(stored.standby, "a-third");
	assert_int_equal(stored.state, PROTECTION_TAKEOVER);
	assert_true(stored.ending);
	assert_int_equal(stored.takeover.time_ms, 9);
	assert_int_equal(stored.takeover.why, FAILOVER_ASKED);
	assert_int_equal(stored.past.count, 0);
}

static void expect_past(const struct failovers *past)
{
	assert_int_equal(past->count, 3);
	assert_int_equal(past->last.time_ms, 7);
	assert_int_equal(past->last.why, FAILOVER_TRUNK_DOWN);
	assert_string_equal(past->last.from, "a-left");
	assert_string_equal(past->last.to, "a-third");
	assert_int_equal(past->last.fenced_us, 5);
	assert_int_equal(past->last.running_us, 6);
	assert_string_equal(past->last.detail, "how it went");
}

/* Whatever is done to the protection, the operator can see when the CVM failed over, and how. */
static void test_failovers_outlive_the_protection(void **state)
{
	struct fixture *f = *state;
	struct problem problem;
	struct cvm cvm;
	struct failovers past;
	populate_for_protection(f);
	assert_int_equal(store_cvm_get(f->store, "a", &cvm), 0);
	assert_int_equal(store_failovers_get(f->store, cvm.site_id, &past), 0);
	assert_int_equal(past.count, 0);
	assert_int_equal(protect(f, &(struct protection_request){0}, &problem), 0);
	past = (struct failovers){.count = 3,
		.last = {.time_ms = 7,
			.why = FAILOVER_TRUNK_DOWN,
			.from = "a-left",
			.to = "a-third",
			.fenced_us = 5,
			.running_us = 6,
			.detail = "how it went"}};
	assert_int_equal(store_failovers_put(f->store, cvm.site_id, &past), 0);
	f->store = fixture_db_reopen(&f->db);
	struct protection p = get_protection(f);
	expect_past(&p.past);

	/* A take-over that is broken off. */
	p.takeover = (struct takeover_begun){.time_ms = 9, .why = FAILOVER_ASKED};
	assert_int_equal(store_protection_put(f->store, &p), 0);
	p = get_protection(f);
	expect_past(&p.past);

	/* The end of the protection, and a new one. */
	assert_int_equal(store_protection_delete(f->store, cvm.site_id), 0);
	assert_int_equal(store_failovers_get(f->store, cvm.site_id, &past), 0);
	expect_past(&past);
	assert_int_equal(protect(f, &(struct protection_request){0}, &problem), 0);
	p = get_protection(f);
	expect_past(&p.past);

	/* The next CVM of the site has no past. */
	assert_int_equal(store_protection_delete(f->store, cvm.site_id), 0);
	assert_int_equal(registry_cvm_remove(f->store, &cvm), 0);
	assert_int_equal(store_failovers_get(f->store, cvm.site_id, &past), 0);
	assert_int_equal(past.count, 0);
}

static void test_what_cannot_be_protected(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct server server;
	struct protection found;
	struct operation op = make_operation("cvm/b");
	populate_for_protection(f);
	struct protection_request request = {.has_standby = true, .standby = "a-left"};
	expect(&problem, protect(f, &request, &problem), 422, "/standby"); /* is there itself */
	snprintf(request.standby, sizeof(request.standby), "nobody");
	expect(&problem, protect(f, &request, &problem), 422, "/standby");
	snprintf(request.standby, sizeof(request.standby), "b-left");
	expect(&problem, protect(f, &request, &problem), 422, "/standby");
	assert_int_equal(store_server_get(f->store, "a-third", &server), 0);
	server.hostd[0] = '\0';
	assert_int_equal(store_server_update(f->store, &server), 0);
	snprintf(request.standby, sizeof(request.standby), "a-third");
	expect(&problem, protect(f, &request, &problem), 409, NULL);
	assert_string_equal(problem.type, "not-protectable");
	/* The primary's server needs one, too. */
	assert_int_equal(store_server_get(f->store, "a-left", &server), 0);
	server.hostd[0] = '\0';
	assert_int_equal(store_server_update(f->store, &server), 0);
	request.has_standby = false;
	expect(&problem, protect(f, &request, &problem), 409, NULL);
	assert_non_null(strstr(problem.detail, "a-left"));
	assert_int_equal(store_protection_get(f->store, "a", &found), ENOENT);

	/* The CVM of site b isn't made yet, and nobody protects it. */
	problem = (struct problem){0};
	expect(&problem,
		registry_cvm_protect(f->store, "b", &request, &op, reachable, NULL, &problem), 409,
		NULL);
	op = make_operation("cvm/a");
	problem = (struct problem){0};
	expect(&problem, registry_cvm_unprotect(f->store, "a", &op, &problem), 409, NULL);
	assert_string_equal(problem.type, "not-protected");
	problem = (struct problem){0};
	expect(&problem, registry_cvm_failover(f->store, "a", &op, &problem), 409, NULL);
}

static int place_standby(
	struct fixture *f, int64_t avoid, struct protection *protection, struct problem *problem)
{
	*problem = (struct problem){0};
	return registry_standby_place(f->store, "a", avoid, reachable, NULL, protection, problem);
}

static void test_where_a_standby_goes(void **state)
{
	struct fixture *f = *state;
	struct problem problem;
	struct protection p;
	struct server right, third;
	populate_for_protection(f);
	assert_int_equal(store_server_get(f->store, "a-right", &right), 0);
	assert_int_equal(store_server_get(f->store, "a-third", &third), 0);
	struct protection_request request = {.has_standby = true, .standby = "a-third"};
	assert_int_equal(protect(f, &request, &problem), 0);
	assert_int_equal(place_standby(f, 0, &p, &problem), 0);
	assert_string_equal(p.standby, "a-third");
	p = get_protection(f);
	assert_int_equal(p.state, PROTECTION_STARTING);
	assert_int_equal(p.standby_id, third.id);
	/* There is one already. */
	expect(&problem, place_standby(f, 0, &p, &problem), 409, NULL);

	/* The wanted one is out of service: another has to do. */
	set_protection(f, PROTECTION_NONE, NULL);
	assert_int_equal(store_server_set_drained(f->store, third.id, true), 0);
	assert_int_equal(place_standby(f, 0, &p, &problem), 0);
	assert_string_equal(p.standby, "a-right");
	/* None is left. */
	set_protection(f, PROTECTION_NONE, NULL);
	expect(&problem, place_standby(f, right.id, &p, &problem), 409, NULL);
	assert_int_equal(get_protection(f).state, PROTECTION_NONE);
	/* Not without a hostd. */
	right.hostd[0] = '\0';
	assert_int_equal(store_server_update(f->store, &right), 0);
	expect(&problem, place_standby(f, 0, &p, &problem), 409, NULL);
	/* Nor for one that isn't wanted any more, or is moved. */
	assert_int_equal(store_server_set_drained(f->store, third.id, false), 0);
	p = get_protection(f);
	p.ending = true;
	assert_int_equal(store_protection_put(f->store, &p), 0);
	expect(&problem, place_standby(f, 0, &p, &problem), 409, NULL);
}

static void test_a_standby_needs_memory(void **state)
{
	struct fixture *f = *state;
	struct problem problem;
	struct protection p;
	struct server right, third;
	populate_for_protection(f);
	assert_int_equal(store_server_get(f->store, "a-right", &right), 0);
	assert_int_equal(store_server_get(f->store, "a-third", &third), 0);
	right.memory_mib = 300; /* one CVM */
	third.memory_mib = 256; /* none */
	assert_int_equal(store_server_update(f->store, &right), 0);
	assert_int_equal(store_server_update(f->store, &third), 0);
	assert_int_equal(protect(f, &(struct protection_request){0}, &problem), 0);
	assert_int_equal(place_standby(f, 0, &p, &problem), 0);
	assert_string_equal(p.standby, "a-right");
	/* Now nothing else fits there, */
	struct port port =
		fixture_port("green-a", "green", "a", "cust1", "192.168.1.1/30", "192.168.1.2");
	snprintf(port.wanted_server, sizeof(port.wanted_server), "a-right");
	assert_int_equal(create_port(f, &port, &problem), -1);
	assert_string_equal(problem.type, "exhausted");
	/* but the CVM itself, which takes its standby's place. */
	set_protection(f, PROTECTION_WHOLE, "a-right");
	struct operation op = make_operation("cvm/a");
	problem = (struct problem){0};
	assert_int_equal(
		registry_cvm_move(f->store, "a", "a-right", &op, reachable, NULL, &problem), 0);
}

static void test_nothing_gets_between_a_takeover(void **state)
{
	struct fixture *f = *state;
	struct problem problem;
	struct operation op = make_operation("cvm/a");
	populate_for_protection(f);
	assert_int_equal(protect(f, &(struct protection_request){0}, &problem), 0);
	set_protection(f, PROTECTION_SYNCING, "a-right");
	problem = (struct problem){0};
	expect(&problem, registry_cvm_failover(f->store, "a", &op, &problem), 409, NULL);
	set_protection(f, PROTECTION_TAKEOVER, "a-right");
	problem = (struct problem){0};
	expect(&problem, registry_cvm_move(f->store, "a", "", &op, reachable, NULL, &problem), 409,
		NULL);
	expect(&problem, protect(f, &(struct protection_request){0}, &problem), 409, NULL);
	problem = (struct problem){0};
	expect(&problem, registry_server_delete(f->store, "a-right", &problem), 409, NULL);
	assert_non_null(strstr(problem.detail, "unprotect a"));
	set_protection(f, PROTECTION_WHOLE, "a-right");
	problem = (struct problem){0};
	assert_int_equal(registry_cvm_failover(f->store, "a", &op, &problem), 0);
	/* One thing at a time. */
	struct operation other = make_operation("cvm/a");
	expect(&problem, registry_cvm_unprotect(f->store, "a", &other, &problem), 409, NULL);
	end_operation(f, &op);
	problem = (struct problem){0};
	assert_int_equal(registry_cvm_unprotect(f->store, "a", &other, &problem), 0);
	assert_true(get_protection(f).ending);
}

static void test_void_copies(void **state)
{
	struct fixture *f = *state;
	struct problem problem;
	struct void_copy *voids;
	struct server right, third;
	struct cvm cvm;
	struct protection p;
	size_t n;
	populate_for_protection(f);
	assert_int_equal(store_server_get(f->store, "a-right", &right), 0);
	assert_int_equal(store_server_get(f->store, "a-third", &third), 0);
	assert_int_equal(store_cvm_get(f->store, "a", &cvm), 0);
	assert_int_equal(protect(f, &(struct protection_request){0}, &problem), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(store_void_add(f->store, cvm.site_id, right.id), 0);
		assert_int_equal(store_void_add(f->store, cvm.site_id, third.id), 0);
	}
	assert_int_equal(store_void_list(f->store, &voids, &n), 0);
	assert_int_equal(n, 2);
	assert_string_equal(voids[0].server, "a-right");
	assert_string_equal(voids[0].site, "a");
	assert_string_equal(voids[0].uuid, cvm.uuid);
	free(voids);
	/* Where a new one is placed it isn't void. */
	assert_int_equal(place_standby(f, right.id, &p, &problem), 0);
	assert_string_equal(p.standby, "a-third");
	assert_int_equal(store_void_list(f->store, &voids, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(voids[0].server_id, right.id);
	free(voids);
	/* A server that is taken away takes it along. */
	problem = (struct problem){0};
	assert_int_equal(registry_server_delete(f->store, "a-right", &problem), 0);
	assert_int_equal(store_void_list(f->store, &voids, &n), 0);
	assert_int_equal(n, 0);
	free(voids);
	assert_int_equal(store_void_remove(f->store, cvm.site_id, right.id), 0);
	/* With the CVM goes everything. */
	assert_int_equal(registry_cvm_remove(f->store, &cvm), 0);
	assert_int_equal(store_protection_get(f->store, "a", &p), ENOENT);
}

static void test_not_a_database(void **state)
{
	struct fixture *f = *state;
	struct store *store;
	struct why why = {""};
	assert_int_not_equal(store_open("/dev/null/x", &store, &why), 0);
	assert_true(strlen(why.text) > 0);
	char path[128];
	snprintf(path, sizeof(path), "%s/garbage", f->db.dir);
	FILE *file = fopen(path, "w");
	assert_non_null(file);
	for (int i = 0; i < 1000; i++)
		fputs("this is no database\n", file);
	fclose(file);
	assert_int_not_equal(store_open(path, &store, &why), 0);
	unlink(path);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_sites_differ),
		TEST(test_dry_run_keeps_nothing),
		TEST(test_port_is_given_everything),
		TEST(test_customers_may_overlap_each_other),
		TEST(test_ports_are_checked),
		TEST(test_labels_run_out_and_come_back),
		TEST(test_vlans_run_out),
		TEST(test_unreachable_servers_are_not_chosen),
		TEST(test_unknown_use_of_servers_is_no_free_memory),
		TEST(test_no_change_is_lost),
		TEST(test_what_is_used_stays),
		TEST(test_one_operation_at_a_time),
		TEST(test_change_touches_only_what_may_change),
		TEST(test_everything_survives_reopening),
		TEST(test_double_allocation_is_impossible),
		TEST(test_events_are_limited),
		TEST(test_operations_are_limited),
		TEST(test_what_is_asked_for_is_kept),
		TEST(test_failovers_outlive_the_protection),
		TEST(test_what_cannot_be_protected),
		TEST(test_where_a_standby_goes),
		TEST(test_a_standby_needs_memory),
		TEST(test_nothing_gets_between_a_takeover),
		TEST(test_void_copies),
		TEST(test_not_a_database),
	};
	return cmocka_run_group_tests_name("registry", tests, NULL, NULL);
}
