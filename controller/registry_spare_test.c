/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Spares and take-overs on a real database: who owns which VLAN at any moment, and what is void. */

#include "controller/registry.h"
#include "controller/registry_fixture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct fixture {
	struct fixture_db db;
	struct store *store;
	int64_t left, right, third;
	struct site site;
};

/* `ctx`: a server that isn't connected. */
static bool reachable(void *ctx, int64_t server_id)
{
	return ctx == NULL || *(const int64_t *)ctx != server_id;
}

static int64_t add_server(struct fixture *f, const char *name, uint32_t memory_mib)
{
	struct problem problem = {0};
	struct server server = fixture_server(name, "a");
	server.memory_mib = memory_mib;
	assert_int_equal(registry_server_create(f->store, &server, false, &problem), 0);
	return server.id;
}

/* Site a with three servers, a CVM on the first, and port green-a, active, beside it. */
static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct problem problem = {0};
	struct operation op = {.verb = "create", .object = "cvm/a"};
	struct customer green = {.name = "green"};
	struct port port =
		fixture_port("green-a", "green", "a", "cust1", "192.168.1.1/30", "192.168.1.2");
	f->store = fixture_db_open(&f->db);
	f->site = fixture_site("a", 1);
	assert_int_equal(registry_site_create(f->store, &f->site, false, &problem), 0);
	f->left = add_server(f, "left", 4096);
	f->right = add_server(f, "right", 2048);
	f->third = add_server(f, "third", 3072);
	assert_int_equal(registry_cvm_create(f->store, "a", &op, reachable, NULL, &problem), 0);
	assert_int_equal(registry_customer_create(f->store, &green, &problem), 0);
	snprintf(port.wanted_server, sizeof(port.wanted_server), "left");
	port.graceful_restart_s = 7;
	op = (struct operation){.verb = "create", .object = "port/green-a"};
	assert_int_equal(
		registry_port_create(f->store, &port, &op, reachable, NULL, false, &problem), 0);
	port.in_cvm = port.in_fabric = true;
	fixture_port_up(f->store, &port, &op);
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

static struct port get_port(struct fixture *f)
{
	struct port port;
	assert_int_equal(store_port_get(f->store, "green-a", &port), 0);
	return port;
}

static struct spare add_spare(struct fixture *f)
{
	struct spare spare;
	struct problem problem = {0};
	assert_int_equal(
		registry_spare_create(f->store, "a", reachable, NULL, &spare, &problem), 0);
	return spare;
}

static size_t count_voids(struct fixture *f)
{
	struct void_pvm *voids;
	size_t n;
	assert_int_equal(store_void_pvm_list(f->store, &voids, &n), 0);
	free(voids);
	return n;
}

static uint32_t count_vlans(struct fixture *f)
{
	uint32_t n;
	assert_int_equal(store_alloc_count(f->store, f->site.id, ALLOC_VLAN, f->site.vlans, &n), 0);
	return n;
}

static struct lost_pvm lost(const struct port *port)
{
	return (struct lost_pvm){port->name, port->uuid, port->server_id, "its VM died"};
}

static void test_spares_are_spread(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct spare found;
	/* The left server carries the CVM and the PVM, the third is bigger than the right one. */
	assert_int_equal(add_spare(f).server_id, f->third);
	assert_int_equal(add_spare(f).server_id, f->right);
	struct spare last = add_spare(f);
	assert_int_equal(last.server_id, f->left);
	assert_int_equal(count_vlans(f), 10);
	assert_int_equal(store_spare_get(f->store, last.id, &found), 0);
	assert_memory_equal(&found, &last, sizeof(found));
	assert_int_equal(found.memory_kib, MODEL_PVM_MEMORY_KIB);

	/* No VLAN is left; nothing remains of the attempt. */
	assert_int_equal(
		registry_spare_create(f->store, "a", reachable, NULL, &found, &problem), -1);
	assert_int_equal(problem.status, 409);
	assert_int_equal(count_vlans(f), 10);
	/* A server that carries one isn't deleted. */
	problem = (struct problem){0};
	assert_int_equal(registry_server_delete(f->store, "right", &problem), -1);
	assert_int_equal(problem.status, 409);
}

static void test_a_spare_goes_where_it_can(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct spare spare;
	assert_int_equal(
		registry_spare_create(f->store, "a", reachable, &f->left, &spare, &problem), 0);
	assert_int_equal(spare.server_id, f->third);
	assert_int_equal(store_server_set_drained(f->store, f->right, true), 0);
	assert_int_equal(
		registry_spare_create(f->store, "a", reachable, &f->left, &spare, &problem), 0);
	assert_int_equal(spare.server_id, f->third);
	assert_int_equal(store_server_set_drained(f->store, f->third, true), 0);
	assert_int_equal(
		registry_spare_create(f->store, "a", reachable, &f->left, &spare, &problem), -1);
	assert_int_equal(problem.status, 503);
	problem = (struct problem){0};
	assert_int_equal(
		registry_spare_create(f->store, "x", reachable, NULL, &spare, &problem), -1);
	assert_int_equal(problem.status, 404);
}

static void test_a_spare_that_is_discarded(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct spare spare = add_spare(f);
	assert_int_equal(registry_spare_discard(f->store, spare.id, &problem), 0);
	assert_int_equal(store_spare_get(f->store, spare.id, &spare), ENOENT);
	assert_int_equal(count_voids(f), 1);
	assert_int_equal(count_vlans(f), 6); /* it may still run */
	assert_int_equal(registry_spare_discard(f->store, spare.id, &problem), -1);
	assert_int_equal(problem.status, 404);

	assert_int_equal(registry_void_pvm_end(f->store, spare.uuid, spare.server_id), 0);
	assert_int_equal(count_voids(f), 0);
	assert_int_equal(count_vlans(f), 4);
	assert_int_equal(registry_void_pvm_end(f->store, spare.uuid, spare.server_id), 0);
}

static void test_a_spare_takes_over(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct history *history;
	struct void_pvm *voids;
	size_t n;
	struct spare spare = add_spare(f);
	add_spare(f);
	struct port before = get_port(f), after, stored;
	struct lost_pvm dead = lost(&before);
	assert_int_equal(registry_port_adopt(f->store, &dead, spare.id, &after, &problem), 0);
	stored = get_port(f);
	assert_memory_equal(&stored, &after, sizeof(stored));
	assert_string_equal(after.uuid, spare.uuid);
	assert_string_equal(after.server, "third");
	assert_int_equal(after.server_id, spare.server_id);
	assert_int_equal(after.vlan_cust, spare.vlan_cust);
	assert_int_equal(after.vlan_core, spare.vlan_core);
	assert_int_equal(after.label, before.label);
	assert_int_equal(after.rd_number, before.rd_number);
	assert_int_equal(after.graceful_restart_s, 7);
	assert_int_equal(store_spare_get(f->store, spare.id, &spare), ENOENT);

	assert_int_equal(store_history_list(f->store, before.id, &history, &n), 0);
	assert_int_equal(n, 1);
	assert_string_equal(history[0].what, "taken over");
	assert_string_equal(history[0].server, "third");
	assert_string_equal(history[0].detail, "by spare-1; on server left its VM died");
	free(history);
	assert_int_equal(store_void_pvm_list(f->store, &voids, &n), 0);
	assert_int_equal(n, 1);
	assert_string_equal(voids[0].uuid, before.uuid);
	assert_string_equal(voids[0].server, "left");
	assert_string_equal(voids[0].object, "port/green-a");
	free(voids);

	/* The second time it isn't what was lost. */
	assert_int_equal(registry_port_adopt(f->store, &dead, 1, &after, &problem), -1);
	assert_int_equal(problem.status, 409);
	/* What the port had is nobody's until its old VM is surely gone. */
	assert_int_equal(count_vlans(f), 8);
	assert_int_equal(registry_void_pvm_end(f->store, before.uuid, f->left), 0);
	assert_int_equal(count_vlans(f), 6);
	/* With the port goes what it has now. */
	assert_int_equal(registry_port_remove(f->store, &stored), 0);
	assert_int_equal(count_vlans(f), 4);
}

static void test_no_spare_takes_over_twice(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct port before = get_port(f), after;
	struct lost_pvm dead = lost(&before);
	assert_int_equal(registry_port_adopt(f->store, &dead, 5, &after, &problem), -1);
	assert_int_equal(problem.status, 409);
	after = get_port(f);
	assert_memory_equal(&after, &before, sizeof(after));
	assert_int_equal(count_voids(f), 0);
}

static void test_operations_come_first(void **state)
{
	struct fixture *f = *state;
	static const struct {
		const char *verb;
		bool may;
	} cases[] = {{"delete", false}, {"migrate", false}, {"change", true}};
	for (size_t i = 0; i < 3; i++) {
		struct problem problem = {0};
		struct operation op = {.object = "port/green-a"};
		struct spare spare = add_spare(f);
		struct port before = get_port(f), after;
		struct lost_pvm dead = lost(&before);
		snprintf(op.verb, sizeof(op.verb), "%s", cases[i].verb);
		assert_int_equal(store_operation_insert(f->store, &op), 0);
		int rc = registry_port_adopt(f->store, &dead, spare.id, &after, &problem);
		assert_int_equal(rc, cases[i].may ? 0 : -1);
		op.state = OPERATION_SUCCEEDED;
		assert_int_equal(store_operation_update(f->store, &op), 0);
	}
}

static void test_what_a_move_left_is_void_too(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct spare spare = add_spare(f);
	struct port before = get_port(f), after;
	struct lost_pvm dead = lost(&before);
	before.move.server_id = f->right;
	before.move.state = MOVE_SWITCHING;
	assert_int_equal(store_port_update(f->store, &before), 0);
	assert_int_equal(registry_port_adopt(f->store, &dead, spare.id, &after, &problem), -1);
	before.move.state = MOVE_LEAVING;
	assert_int_equal(store_port_update(f->store, &before), 0);
	problem = (struct problem){0};
	assert_int_equal(registry_port_adopt(f->store, &dead, spare.id, &after, &problem), 0);
	assert_int_equal(after.move.state, MOVE_NONE);
	assert_int_equal(count_voids(f), 2);
	/* Either copy may still use the VLANs. */
	assert_int_equal(registry_void_pvm_end(f->store, before.uuid, f->right), 0);
	assert_int_equal(count_vlans(f), 6);
	assert_int_equal(registry_void_pvm_end(f->store, before.uuid, f->left), 0);
	assert_int_equal(count_vlans(f), 4);
}

static void test_placed_anew(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct port before = get_port(f), after;
	struct lost_pvm dead = lost(&before);
	assert_int_equal(
		registry_port_reseat(f->store, &dead, f->third, reachable, NULL, &after, &problem),
		0);
	assert_int_equal(after.server_id, f->right);
	assert_string_not_equal(after.uuid, before.uuid);
	assert_int_not_equal(after.vlan_cust, before.vlan_cust);
	assert_int_equal(count_voids(f), 1);
	assert_int_equal(count_vlans(f), 6);
	struct port stored = get_port(f);
	assert_memory_equal(&stored, &after, sizeof(stored));

	/* Nowhere else to go: it stays as it is. */
	before = get_port(f);
	dead = lost(&before);
	assert_int_equal(store_server_set_drained(f->store, f->left, true), 0);
	assert_int_equal(
		registry_port_reseat(f->store, &dead, f->third, reachable, NULL, &after, &problem),
		-1);
	after = get_port(f);
	assert_memory_equal(&after, &before, sizeof(after));
}

static void test_a_server_that_is_taken_away(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct spare spare = add_spare(f);
	add_spare(f);
	assert_int_equal(registry_spare_discard(f->store, spare.id, &problem), 0);
	assert_int_equal(count_vlans(f), 8);
	assert_int_equal(registry_server_delete(f->store, "third", &problem), 0);
	assert_int_equal(count_voids(f), 0);
	assert_int_equal(count_vlans(f), 6);
}

static void test_a_cvm_is_placed_anew(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct cvm cvm;
	struct void_copy *voids;
	size_t n;
	int64_t id;
	assert_int_equal(store_cvm_get(f->store, "a", &cvm), 0);
	cvm.state = PORT_ACTIVE;
	cvm.started = true;
	assert_int_equal(store_cvm_update(f->store, &cvm), 0);
	/* Its creation isn't through. */
	assert_int_equal(
		registry_cvm_reseat(f->store, "a", cvm.server_id, reachable, NULL, &cvm, &problem),
		-1);
	assert_int_equal(store_operation_of(f->store, "cvm/a", &id), 0);
	struct operation op;
	assert_int_equal(store_operation_get(f->store, id, &op), 0);
	op.state = OPERATION_SUCCEEDED;
	assert_int_equal(store_operation_update(f->store, &op), 0);
	problem = (struct problem){0};
	assert_int_equal(
		registry_cvm_reseat(f->store, "a", f->left, reachable, NULL, &cvm, &problem), 0);
	assert_string_equal(cvm.server, "third");
	assert_int_equal(store_void_list(f->store, &voids, &n), 0);
	assert_int_equal(n, 1);
	assert_int_equal(voids[0].server_id, f->left);
	free(voids);
	/* Not where its void copy may still be. */
	assert_int_equal(
		registry_cvm_reseat(f->store, "a", f->third, reachable, NULL, &cvm, &problem), 0);
	assert_string_equal(cvm.server, "right");
	/* One that is to be protected is its protector's. */
	struct protection protection = {.site_id = cvm.site_id};
	assert_int_equal(store_protection_put(f->store, &protection), 0);
	assert_int_equal(
		registry_cvm_reseat(f->store, "a", f->right, reachable, NULL, &cvm, &problem), -1);
	assert_int_equal(problem.status, 409);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_spares_are_spread),
		TEST(test_a_spare_goes_where_it_can),
		TEST(test_a_spare_that_is_discarded),
		TEST(test_a_spare_takes_over),
		TEST(test_no_spare_takes_over_twice),
		TEST(test_operations_come_first),
		TEST(test_what_a_move_left_is_void_too),
		TEST(test_placed_anew),
		TEST(test_a_server_that_is_taken_away),
		TEST(test_a_cvm_is_placed_anew),
	};
	return cmocka_run_group_tests_name("registry_spare", tests, NULL, NULL);
}
