/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Placement from the store's facts to its explanation. */

#include "controller/explain.h"
#include "controller/registry_fixture.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, set_up, tear_down)

struct fixture {
	struct fixture_db db;
	struct store *store;
	unsigned n_ports;
};

static bool reachable(void *ctx, int64_t server_id)
{
	(void)ctx;
	(void)server_id;
	return true;
}

static void add_server(struct fixture *f, const char *name, const char *rack)
{
	struct server server = fixture_server(name, "a");
	struct problem problem = {0};
	snprintf(server.hostd, sizeof(server.hostd), "unix:/run/%s", name);
	if (rack[0] != '\0')
		snprintf(server.risks.name[server.risks.n++], MODEL_RISK_SIZE, "%s", rack);
	assert_int_equal(registry_server_create(f->store, &server, false, &problem), 0);
}

static int set_risk(void *ctx, struct server *server, struct problem *problem)
{
	(void)problem;
	server->risks.n = 1;
	snprintf(server->risks.name[0], MODEL_RISK_SIZE, "%s", (const char *)ctx);
	return 0;
}

static void change_rack(struct fixture *f, const char *name, char *rack)
{
	struct server server;
	struct problem problem = {0};
	assert_int_equal(
		registry_server_change(f->store, name, set_risk, rack, &server, &problem), 0);
}

/* Makes a port that is active, and returns its server's name. */
static struct port add_port(
	struct fixture *f, const char *name, const char *customer, const char *wanted)
{
	char switch_port[16], address[32], ce[32];
	struct operation op = {.verb = "create"};
	struct problem problem = {0};
	unsigned n = ++f->n_ports;
	snprintf(switch_port, sizeof(switch_port), "cust%u", n);
	snprintf(address, sizeof(address), "192.168.%u.1/30", n);
	snprintf(ce, sizeof(ce), "192.168.%u.2", n);
	struct port port = fixture_port(name, customer, "a", switch_port, address, ce);
	snprintf(port.wanted_server, sizeof(port.wanted_server), "%s", wanted);
	snprintf(op.object, sizeof(op.object), "port/%.30s", name);
	assert_int_equal(
		registry_port_create(f->store, &port, &op, reachable, NULL, false, &problem), 0);
	fixture_port_up(f->store, &port, &op);
	return port;
}

static int set_up(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct problem problem = {0};
	struct operation op = {.verb = "create", .object = "cvm/a"};
	struct customer green = {.name = "green"}, red = {.name = "red"};
	struct site site = fixture_site("a", 1);
	site.labels = (struct range){1000, 1099};
	site.vlans = (struct range){100, 199};
	f->store = fixture_db_open(&f->db);
	assert_int_equal(registry_site_create(f->store, &site, false, &problem), 0);
	add_server(f, "left", "rack=1");
	add_server(f, "right", "rack=1");
	add_server(f, "third", "rack=2");
	assert_int_equal(registry_cvm_create(f->store, "a", &op, reachable, NULL, &problem), 0);
	op.state = OPERATION_SUCCEEDED;
	assert_int_equal(store_operation_update(f->store, &op), 0);
	assert_int_equal(registry_customer_create(f->store, &green, &problem), 0);
	assert_int_equal(registry_customer_create(f->store, &red, &problem), 0);
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

static cJSON *explained(struct fixture *f, const char *name)
{
	struct problem problem = {0};
	cJSON *json = explain_port(f->store, name, reachable, NULL, &problem);
	assert_non_null(json);
	return json;
}

static const char *text_of(const cJSON *json, const char *name)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(json, name));
	return text != NULL ? text : "";
}

static int count_of(const cJSON *json, const char *name)
{
	return cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, name));
}

static void test_ports_of_a_customer_are_apart(void **state)
{
	struct fixture *f = *state;
	add_port(f, "green-1", "green", "left");
	/* "right" is as empty, but in the same rack. */
	assert_string_equal(add_port(f, "green-2", "green", "").server, "third");
	assert_string_equal(add_port(f, "green-3", "green", "").server, "right");
	cJSON *json = explained(f, "green-2");
	assert_string_equal(text_of(json, "server"), "third");
	assert_int_equal(count_of(json, "not_met"), 0);
	const cJSON *placed = cJSON_GetObjectItemCaseSensitive(json, "placed");
	assert_true(count_of(placed, "reasons") >= 3);
	assert_int_equal(count_of(placed, "not_met"), 0);
	assert_int_equal(count_of(json, "servers"), 3);
	cJSON_Delete(json);
	/* The third shares its rack with the first. */
	json = explained(f, "green-3");
	assert_int_equal(count_of(json, "not_met"), 1);
	assert_int_equal(count_of(cJSON_GetObjectItemCaseSensitive(json, "placed"), "not_met"), 1);
	assert_string_equal(text_of(json, "better"), "");
	cJSON_Delete(json);
}

static void test_what_changes_afterwards_is_told(void **state)
{
	struct fixture *f = *state;
	char rack[] = "rack=1";
	struct problem problem = {0};
	add_port(f, "green-1", "green", "left");
	add_port(f, "green-2", "green", "");
	change_rack(f, "third", rack);
	cJSON *json = explained(f, "green-2");
	assert_int_equal(count_of(json, "not_met"), 1);
	assert_int_equal(count_of(cJSON_GetObjectItemCaseSensitive(json, "placed"), "not_met"), 0);
	cJSON_Delete(json);
	char other[] = "rack=2";
	change_rack(f, "right", other);
	json = explained(f, "green-2");
	assert_string_equal(text_of(json, "better"), "right");
	cJSON_Delete(json);

	json = explain_risks(f->store, "a", &problem);
	assert_string_equal(text_of(json, "site"), "a");
	const cJSON *finding = cJSON_GetObjectItemCaseSensitive(json, "findings")->child;
	assert_string_equal(text_of(finding, "kind"), "customer");
	assert_null(finding->next);
	cJSON_Delete(json);
	assert_null(explain_risks(f->store, "nowhere", &problem));
	assert_int_equal(problem.status, 404);
}

static void test_a_move_keeps_ports_apart(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct operation op = {.verb = "migrate", .object = "port/red-1"};
	add_port(f, "red-1", "red", "left");
	add_port(f, "red-2", "red", "right");
	for (int i = 0; i < 4; i++) {
		char name[16];
		snprintf(name, sizeof(name), "green-%d", i);
		add_port(f, name, "green", "third"); /* the fullest by far */
	}
	assert_int_equal(
		registry_port_move(f->store, "red-1", "", &op, reachable, NULL, &problem), 0);
	struct port port;
	assert_int_equal(store_port_get(f->store, "red-1", &port), 0);
	assert_string_equal(port.move.server, "third");
	/* What moves away counts where it is going to. */
	cJSON *json = explained(f, "red-2");
	assert_int_equal(count_of(json, "not_met"), 0);
	cJSON_Delete(json);
}

static void test_a_standby_is_apart_from_its_cvm(void **state)
{
	struct fixture *f = *state;
	struct problem problem = {0};
	struct operation op = {.verb = "protect", .object = "cvm/a"};
	struct protection_request request = {.has_standby = false};
	struct protection protection;
	struct cvm cvm;
	assert_int_equal(store_cvm_get(f->store, "a", &cvm), 0);
	cvm.state = PORT_ACTIVE;
	cvm.started = true;
	const char *expected = strcmp(cvm.server, "third") == 0 ? "left" : "third";
	assert_int_equal(store_cvm_update(f->store, &cvm), 0);
	assert_int_equal(
		registry_cvm_protect(f->store, "a", &request, &op, reachable, NULL, &problem), 0);
	assert_int_equal(
		registry_standby_place(f->store, "a", 0, reachable, NULL, &protection, &problem),
		0);
	assert_string_equal(protection.standby, expected);
	cJSON *json = explain_cvm(f->store, "a", reachable, NULL, &problem);
	const cJSON *standby = cJSON_GetObjectItemCaseSensitive(json, "standby");
	assert_string_equal(text_of(standby, "server"), expected);
	assert_int_equal(count_of(json, "not_met"), 0);
	assert_int_equal(count_of(standby, "not_met"), 0);
	cJSON_Delete(json);
}

static void test_reasons_go_with_their_object(void **state)
{
	struct fixture *f = *state;
	struct port port = add_port(f, "green-1", "green", "");
	int64_t time_ms;
	char *why;
	assert_int_equal(
		store_placement_get(f->store, "port/green-1", port.server_id, &time_ms, &why), 0);
	free(why);
	assert_int_equal(registry_port_remove(f->store, &port), 0);
	assert_int_equal(store_placement_get(f->store, "port/green-1", 0, &time_ms, &why), ENOENT);
	struct problem problem = {0};
	assert_null(explain_port(f->store, "green-1", reachable, NULL, &problem));
	assert_int_equal(problem.status, 404);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_ports_of_a_customer_are_apart),
		TEST(test_what_changes_afterwards_is_told),
		TEST(test_a_move_keeps_ports_apart),
		TEST(test_a_standby_is_apart_from_its_cvm),
		TEST(test_reasons_go_with_their_object),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
