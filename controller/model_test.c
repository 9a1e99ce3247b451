/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/model.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define SITE                                                                                    \
	"{\"name\":\"a\",\"asn\":65000,\"pe_address\":\"10.0.0.1\",\"core\":{\"switch_port\":"  \
	"\"core\",\"address\":\"192.0.2.2/30\",\"gateway\":\"192.0.2.1\",\"route_reflectors\":" \
	"[\"10.0.0.100\"]},\"transport_label\":16001,\"switch\":\"unix:/run/edge.mgmt\"}"
#define PORT                                                                                     \
	"{\"name\":\"green-a\",\"customer\":\"green\",\"site\":\"a\",\"switch_port\":\"cust1\"," \
	"\"addresses\":[\"192.168.1.1/30\",\"fd00:a1::1/64\"],\"ce\":[{\"address\":"             \
	"\"192.168.1.2\",\"asn\":65101},{\"address\":\"fd00:a1::2\",\"asn\":65101}]}"

static cJSON *parse(const char *text)
{
	cJSON *json = cJSON_Parse(text);
	assert_non_null(json);
	return json;
}

static int index_of(const char *part)
{
	char *end;
	long index = strtol(part, &end, 10);
	assert_true(end != part && *end == '\0' && index >= 0 && index < 100);
	return (int)index;
}

/* `base` with the value at a path like "core/mtu" or "ce/0/asn" replaced (NULL: removed). */
static cJSON *with(const char *base, const char *path, const char *value)
{
	cJSON *root = parse(base), *at = root;
	char copy[64];
	snprintf(copy, sizeof(copy), "%s", path);
	char *save = NULL, *part = strtok_r(copy, "/", &save), *next;
	for (; (next = strtok_r(NULL, "/", &save)) != NULL; part = next)
		at = cJSON_IsArray(at) ? cJSON_GetArrayItem(at, index_of(part))
				       : cJSON_GetObjectItemCaseSensitive(at, part);
	assert_non_null(at);
	if (cJSON_IsArray(at))
		assert_true(cJSON_ReplaceItemInArray(at, index_of(part), parse(value)));
	else
		cJSON_DeleteItemFromObjectCaseSensitive(at, part);
	if (value != NULL && cJSON_IsObject(at))
		cJSON_AddItemToObject(at, part, parse(value));
	return root;
}

/* The field that a problem must name first. */
static void expect_field(const struct problem *problem, int rc, const char *path)
{
	char field[64];
	snprintf(field, sizeof(field), "/%s", path);
	assert_int_equal(rc, -1);
	assert_int_equal(problem->status, 422);
	assert_true(problem->n_errors >= 1);
	assert_string_equal(problem->errors[0].field, field);
	assert_true(strlen(problem->errors[0].fix) > 0);
}

static void site_with(const char *path, const char *value)
{
	struct problem problem = {0};
	struct site site;
	cJSON *json = with(SITE, path, value);
	int rc = model_site_read(json, &site, &problem);
	cJSON_Delete(json);
	expect_field(&problem, rc, path);
}

static void port_with(const char *path, const char *value)
{
	struct problem problem = {0};
	struct port port;
	cJSON *json = with(PORT, path, value);
	int rc = model_port_read(json, &port, &problem);
	cJSON_Delete(json);
	expect_field(&problem, rc, path);
}

static void test_site_defaults(void **state)
{
	(void)state;
	struct problem problem = {0};
	struct site site;
	cJSON *json = parse(SITE);
	assert_int_equal(model_site_read(json, &site, &problem), 0);
	cJSON_Delete(json);
	assert_int_equal(site.core_mtu, 1600);
	assert_int_equal(site.labels.first, 1000);
	assert_int_equal(site.labels.last, 1999);
	assert_int_equal(site.vlans.first, 100);
	assert_int_equal(site.vlans.last, 3999);
	assert_int_equal(site.inside.family, 0);
	assert_int_not_equal(site.pvm_memory_kib % MODEL_MEMORY_STEP_KIB, 0);
	assert_int_not_equal(site.cvm_memory_kib % MODEL_MEMORY_STEP_KIB, 0);
}

static void test_site_fields(void **state)
{
	(void)state;
	static const char *const wrong[][2] = {
		{"name", "\"A\""},
		{"name", "\"\""},
		{"name", "\"a_b\""},
		{"name", "\"1a\""},
		{"name", "\"abcdefghijklmnopqrstuvwxyzabcde\""},
		{"name", "7"},
		{"name", NULL},
		{"asn", "0"},
		{"asn", "1.5"},
		{"asn", "4294967295"},
		{"asn", "\"65000\""},
		{"pe_address", "\"10.0.0.256\""},
		{"pe_address", "\"10.0.0.1/32\""},
		{"pe_address", "\"fd00::1\""},
		{"pe_address", "\"127.0.0.1\""},
		{"pe_address", "\"224.0.0.1\""},
		{"pe_address", "\"192.0.2.1\""},
		{"core", "7"},
		{"core/switch_port", "\"a b\""},
		{"core/switch_port", "\"abcdefghijklmnop\""},
		{"core/address", "\"192.0.2.2\""},
		{"core/address", "\"192.0.2.3/30\""},
		{"core/address", "\"192.0.2.0/30\""},
		{"core/address", "\"192.0.2.2/33\""},
		{"core/gateway", "\"192.0.2.5\""},
		{"core/gateway", "\"192.0.2.2\""},
		{"core/gateway", "\"192.0.2.3\""},
		{"core/route_reflectors", "[]"},
		{"core/route_reflectors/0", "\"x\""},
		{"core/mtu", "1287"},
		{"core/mtu", "2001"},
		{"core/unknown", "1"},
		{"transport_label", "15"},
		{"transport_label", "1048576"},
		{"switch", "\"/run/edge.mgmt\""},
		{"inside", "\"100.64.1.1/24\""},
		{"inside", "\"100.64.0.0/8\""},
		{"inside", "\"192.0.0.0/16\""},
		{"labels", "\"10-20\""},
		{"labels", "\"2000-1000\""},
		{"labels", "\"x\""},
		{"vlans", "\"0-10\""},
		{"vlans", "\"100-4095\""},
		{"pvm_memory_kib", "262144"},
		{"cvm_memory_kib", "1"},
		{"misspelt", "1"},
	};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		site_with(wrong[i][0], wrong[i][1]);
}

static void test_port_fields(void **state)
{
	(void)state;
	static const char *const wrong[][2] = {
		{"customer", "\"Green\""},
		{"site", NULL},
		{"switch_port", "\"\""},
		{"vlan", "4095"},
		{"vlan", "-1"},
		{"addresses", "[]"},
		{"addresses", "\"192.168.1.1/30\""},
		{"addresses/0", "\"192.168.1.1\""},
		{"addresses/0", "\"192.168.1.1/31/2\""},
		{"addresses/0", "\"192.168.1.3/30\""},
		{"addresses/0", "\"192.168.1.1/32\""},
		{"addresses/1", "\"192.168.1.2/30\""},
		{"addresses/1", "\"fe80::1/64\""},
		{"mtu", "2001"},
		{"ce", "[]"},
		{"ce/0/address", "\"192.168.1.1\""},
		{"ce/0/address", "\"192.168.1.3\""},
		{"ce/0/address", "\"192.168.2.2\""},
		{"ce/1/address", "\"fd00:a1::1\""},
		{"ce/1/address", "\"192.168.1.2\""},
		{"ce/0/asn", "0"},
		{"ce/0/misspelt", "0"},
		{"ce_mac", "\"52:54:00:00:00\""},
		{"ce_mac", "\"01:00:5e:00:00:01\""},
		{"ce_mac", "\"02:ed:02:00:00:01\""},
		{"server", "\"A\""},
		{"misspelt", "1"},
	};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		port_with(wrong[i][0], wrong[i][1]);
}

static void test_a_field_given_twice(void **state)
{
	(void)state;
	struct problem problem = {0};
	struct customer customer;
	cJSON *json = parse("{\"name\":\"green\",\"vpn_id\":1,\"vpn_id\":2}");
	int rc = model_customer_read(json, &customer, &problem);
	cJSON_Delete(json);
	expect_field(&problem, rc, "vpn_id");
}

static void test_all_wrong_fields_are_named(void **state)
{
	(void)state;
	struct problem problem = {0};
	struct server server;
	cJSON *json = parse("{\"name\":\"X\",\"site\":\"a\",\"uri\":\"nowhere\",\"bridge\":\"\"}");
	assert_int_equal(model_server_read(json, &server, &problem), -1);
	cJSON_Delete(json);
	assert_int_equal(problem.n_errors, 4);
	assert_string_equal(problem.errors[0].field, "/name");
	assert_string_equal(problem.errors[1].field, "/uri");
	assert_string_equal(problem.errors[2].field, "/bridge");
	assert_string_equal(problem.errors[3].field, "/trunk");
}

#define SERVER(hostd)                                                                   \
	"{\"name\":\"l\",\"site\":\"a\",\"uri\":\"qemu:///system\",\"bridge\":\"br0\"," \
	"\"trunk\":\"t\"" hostd "}"

static void test_a_server_may_have_a_hostd(void **state)
{
	static const char *const wrong[] = {SERVER(",\"hostd\":\"/run/hostd.sock\""),
		SERVER(",\"hostd\":\"unix:\""), SERVER(",\"hostd\":\"unix:/\""),
		SERVER(",\"hostd\":\"unix:/a b\""), SERVER(",\"hostd\":\"\"")};
	struct problem problem = {0};
	struct server server, again;

	(void)state;
	cJSON *json = parse(SERVER(",\"hostd\":\"unix:/run/edgeplex/hostd.sock\""));
	assert_int_equal(model_server_read(json, &server, &problem), 0);
	assert_string_equal(server.hostd, "unix:/run/edgeplex/hostd.sock");
	cJSON_Delete(json);
	json = model_server_json(&server);
	assert_int_equal(model_server_read(json, &again, &problem), 0);
	assert_string_equal(again.hostd, server.hostd);
	cJSON_Delete(json);
	json = parse(SERVER(",\"hostd\":null"));
	assert_int_equal(model_server_read(json, &server, &problem), 0);
	assert_string_equal(server.hostd, "");
	cJSON_Delete(json);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct problem refused = {0};
		json = parse(wrong[i]);
		assert_int_equal(model_server_read(json, &server, &refused), -1);
		assert_string_equal(refused.errors[0].field, "/hostd");
		cJSON_Delete(json);
	}
}

static void test_a_server_has_risks_of_any_name(void **state)
{
	static const struct {
		const char *json, *field;
	} wrong[] = {
		{SERVER(",\"risks\":\"rack=r1\""), "/risks"},
		{SERVER(",\"risks\":[\"rack=r1\",7]"), "/risks/1"},
		{SERVER(",\"risks\":[\"\"]"), "/risks/0"},
		{SERVER(",\"risks\":[\"rack r1\"]"), "/risks/0"},
		{SERVER(",\"risks\":[\"a,b\"]"), "/risks/0"},
		{SERVER(",\"risks\":[\"a\\nb\"]"), "/risks/0"},
		{SERVER(",\"risks\":[\"none\"]"), "/risks/0"},
		{SERVER(",\"risks\":[\"zone=z2\",\"zone=z2\"]"), "/risks/1"},
		{SERVER(",\"risks\":["
			"\"0123456789012345678901234567890123456789012345678901234567890"
			"123\"]"),
			"/risks/0"},
	};
	struct problem problem = {0};
	struct server server, again;

	(void)state;
	cJSON *json = parse(SERVER(",\"risks\":[\"rack=r1\",\"power=a\",\"the-old-hall\"]"));
	assert_int_equal(model_server_read(json, &server, &problem), 0);
	assert_int_equal(server.risks.n, 3);
	assert_string_equal(server.risks.name[2], "the-old-hall");
	cJSON_Delete(json);
	json = model_server_json(&server);
	assert_int_equal(model_server_read(json, &again, &problem), 0);
	assert_memory_equal(&again.risks, &server.risks, sizeof(server.risks));
	cJSON_Delete(json);
	json = parse(SERVER(",\"risks\":null"));
	assert_int_equal(model_server_read(json, &server, &problem), 0);
	assert_int_equal(server.risks.n, 0);
	cJSON_Delete(json);
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		struct problem refused = {0};
		json = parse(wrong[i].json);
		assert_int_equal(model_server_read(json, &server, &refused), -1);
		assert_string_equal(refused.errors[0].field, wrong[i].field);
		cJSON_Delete(json);
	}
}

static void test_a_server_has_no_more_risks_than_fit(void **state)
{
	struct problem problem = {0};
	struct server server;

	(void)state;
	cJSON *json = parse(SERVER(""));
	cJSON *list = cJSON_AddArrayToObject(json, "risks");
	for (int i = 0; i < MODEL_MAX_RISKS; i++) {
		char name[16];
		snprintf(name, sizeof(name), "r%d", i);
		cJSON_AddItemToArray(list, cJSON_CreateString(name));
	}
	assert_int_equal(model_server_read(json, &server, &problem), 0);
	assert_int_equal(server.risks.n, MODEL_MAX_RISKS);
	cJSON_AddItemToArray(list, cJSON_CreateString("one-more"));
	assert_int_equal(model_server_read(json, &server, &problem), -1);
	assert_string_equal(problem.errors[0].field, "/risks");
	cJSON_Delete(json);
}

static void test_json_reads_back(void **state)
{
	(void)state;
	struct problem problem = {0};
	struct port port, again;
	struct site site = {.asn = 65000};
	cJSON *json = parse(PORT);
	assert_int_equal(model_port_read(json, &port, &problem), 0);
	cJSON *shown = model_port_json(&port, &site, false);
	assert_int_equal(model_port_read(shown, &again, &problem), 0);
	assert_memory_equal(&port, &again, sizeof(port));
	cJSON_Delete(json);
	cJSON_Delete(shown);
}

static void test_patch(void **state)
{
	(void)state;
	static const char *const mutable[] = {"core/mtu", "labels", NULL};
	struct problem problem = {0};
	struct site site;
	cJSON *json = parse(SITE);
	assert_int_equal(model_site_read(json, &site, &problem), 0);
	cJSON_Delete(json);
	cJSON *present = model_site_json(&site);

	cJSON *change = parse("{\"core\":{\"mtu\":1900,\"gateway\":\"192.0.2.1\"},\"asn\":65000,"
			      "\"labels\":\"16-99\"}");
	cJSON *patched = model_patch(present, change, mutable, &problem);
	assert_non_null(patched);
	assert_int_equal(model_site_read(patched, &site, &problem), 0);
	assert_int_equal(site.core_mtu, 1900);
	assert_int_equal(site.labels.first, 16);
	cJSON_Delete(change);
	cJSON_Delete(patched);

	change = parse("{\"core\":{\"gateway\":\"192.0.2.9\"}}");
	assert_null(model_patch(present, change, mutable, &problem));
	assert_string_equal(problem.errors[0].field, "/core/gateway");
	cJSON_Delete(change);

	problem = (struct problem){0};
	change = parse("{\"labels\":\"16-99\",\"core\":{\"mtu\":1900,\"mtu\":1800},"
		       "\"labels\":\"16-98\"}");
	assert_null(model_patch(present, change, mutable, &problem));
	assert_int_equal(problem.n_errors, 2);
	assert_string_equal(problem.errors[0].field, "/core/mtu");
	assert_string_equal(problem.errors[1].field, "/labels");
	cJSON_Delete(change);

	problem = (struct problem){0};
	change = parse("[]");
	assert_null(model_patch(present, change, mutable, &problem));
	assert_int_equal(problem.status, 422);
	cJSON_Delete(change);
	cJSON_Delete(present);
}

static int read_protection(
	const char *text, struct protection_request *request, struct problem *problem)
{
	cJSON *json = parse(text);
	*problem = (struct problem){0};
	int rc = model_protection_read(json, request, problem);
	cJSON_Delete(json);
	return rc;
}

static void test_protection_fields(void **state)
{
	(void)state;
	struct protection_request r;
	struct problem problem = {0};
	static const struct {
		const char *text, *field;
	} wrong[] = {
		{"{\"interval_ms\":24}", "interval_ms"},
		{"{\"interval_ms\":10001}", "interval_ms"},
		{"{\"interval_ms\":100.5}", "interval_ms"},
		{"{\"interval_ms\":\"100ms\"}", "interval_ms"},
		{"{\"timeout_ms\":99}", "timeout_ms"},
		{"{\"standby\":\"A\"}", "standby"},
		{"{\"standby\":5}", "standby"},
		{"{\"server\":\"a\"}", "server"},
	};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		int rc = read_protection(wrong[i].text, &r, &problem);
		expect_field(&problem, rc, wrong[i].field);
	}
	assert_int_equal(model_protection_read(NULL, &r, &problem), 0);
	assert_false(r.has_standby);
	assert_int_equal(r.interval_ms, 0);
	assert_int_equal(read_protection("{}", &r, &problem), 0);
	assert_false(r.has_standby);
	assert_int_equal(read_protection("{\"standby\":null}", &r, &problem), 0);
	assert_true(r.has_standby);
	assert_string_equal(r.standby, "");
	assert_int_equal(
		read_protection("{\"standby\":\"a-right\",\"interval_ms\":25,\"timeout_ms\":10000}",
			&r, &problem),
		0);
	assert_string_equal(r.standby, "a-right");
	assert_int_equal(r.interval_ms, 25);
	assert_int_equal(r.timeout_ms, 10000);
}

static void test_macs_differ(void **state)
{
	(void)state;
	struct ep_mac macs[] = {model_pe_mac(1), model_pe_mac(2), model_inside_mac(1),
		model_port_mac(1), model_port_mac(257), model_port_mac(65537)};
	size_t n = sizeof(macs) / sizeof(macs[0]);
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(macs[i].bytes[0] & 3, 2); /* local and unicast */
		for (size_t j = 0; j < i; j++)
			assert_memory_not_equal(&macs[i], &macs[j], sizeof(macs[i]));
	}
}

static void test_range(void **state)
{
	(void)state;
	struct range range;
	assert_int_equal(model_range_parse("5", &range), 0);
	assert_int_equal(range.last, 5);
	static const char *const wrong[] = {"", "-", "1-", "-1", "1-2-3", "a", "5-4", " 1", "1 - 2",
		"99999999999", "1-99999999999999999999999"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		assert_int_equal(model_range_parse(wrong[i], &range), EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_site_defaults),
		cmocka_unit_test(test_site_fields),
		cmocka_unit_test(test_port_fields),
		cmocka_unit_test(test_a_field_given_twice),
		cmocka_unit_test(test_all_wrong_fields_are_named),
		cmocka_unit_test(test_a_server_may_have_a_hostd),
		cmocka_unit_test(test_a_server_has_risks_of_any_name),
		cmocka_unit_test(test_a_server_has_no_more_risks_than_fit),
		cmocka_unit_test(test_json_reads_back),
		cmocka_unit_test(test_patch),
		cmocka_unit_test(test_protection_fields),
		cmocka_unit_test(test_macs_differ),
		cmocka_unit_test(test_range),
	};
	return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
