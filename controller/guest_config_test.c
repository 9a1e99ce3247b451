/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The documents of docs/protocols.md, word for word but for the config_id. */

#include "controller/guest_config.h"
#include "controller/registry_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct site site_a(void)
{
	return (struct site){
		.id = 1,
		.name = "a",
		.asn = 65000,
		.pe_address = fixture_addr("10.0.0.1"),
		.core_address = fixture_prefix("192.0.2.2/30"),
		.core_gateway = fixture_addr("192.0.2.1"),
		.n_rr = 1,
		.rr = {fixture_addr("10.0.0.100")},
		.core_mtu = 1600,
		.transport_label = 16001,
		.inside = fixture_prefix("100.64.1.0/24"),
	};
}

static struct site site_b(void)
{
	struct site site = site_a();
	site.id = 2;
	site.name[0] = 'b';
	site.pe_address = fixture_addr("10.0.0.2");
	site.transport_label = 16002;
	return site;
}

static struct port green(void)
{
	return (struct port){
		.id = 1,
		.name = "green-a1",
		.graceful_restart_s = 60,
		.site_id = 1,
		.n_addresses = 2,
		.addresses = {fixture_prefix("192.168.1.1/30"), fixture_prefix("fd00:a1::1/64")},
		.mtu = 1500,
		.n_ce = 2,
		.ce = {{fixture_addr("192.168.1.2"), 65101, 100000},
			{fixture_addr("fd00:a1::2"), 65101, 0}},
		.vpn_id = 100,
		.label = 1001,
		.rd_number = 1,
		.inside = fixture_addr("100.64.1.10"),
		.in_cvm = true,
	};
}

static void expect_document(cJSON *config, const char *text)
{
	char id[GUEST_CONFIG_ID_SIZE];
	guest_config_id(config, id);
	assert_int_equal(strlen(id), 16);
	cJSON_DeleteItemFromObjectCaseSensitive(config, "config_id");
	cJSON *expected = cJSON_Parse(text);
	assert_non_null(expected);
	if (!cJSON_Compare(config, expected, true)) {
		char *shown = cJSON_Print(config);
		fail_msg("not as expected: %s", shown);
	}
	cJSON_Delete(expected);
	cJSON_Delete(config);
}

static void test_pvm(void **state)
{
	(void)state;
	struct site sites[] = {site_b(), site_a()};
	struct cvm cvm = {.inside = fixture_addr("100.64.1.1")};
	struct port port = green();
	expect_document(guest_config_pvm(&port, &sites[1], &cvm, sites, 2),
		"{\"hostname\":\"green-a1\",\"asn\":65000,\"router_id\":\"100.64.1.10\","
		"\"interfaces\":{\"cust\":{\"addresses\":[\"192.168.1.1/30\",\"fd00:a1::1/64\"],"
		"\"mtu\":1500,\"mac\":\"02:ed:02:00:00:01\"},\"core\":{\"addresses\":["
		"\"100.64.1.10/24\",\"192.0.2.2/30\"],\"mtu\":1600,\"mac\":"
		"\"02:ed:00:00:00:01\"}},\"ce\":[{\"address\":\"192.168.1.2\",\"remote_asn\":65101,"
		"\"families\":[\"ipv4\"],\"max_prefixes\":100000},{\"address\":\"fd00:a1::2\","
		"\"remote_asn\":65101,\"families\":[\"ipv6\"]}],\"cvm\":{\"address\":"
		"\"100.64.1.1\",\"local_address\":\"100.64.1.10\"},\"vpn\":{\"rd\":\"65000:1\","
		"\"import_rts\":[\"65000:100\"],\"export_rts\":[\"65000:100\"],\"label\":1001,"
		"\"next_hop\":\"10.0.0.1\"},\"graceful_restart_s\":60,\"tunnels\":[{\"prefix\":"
		"\"10.0.0.2/32\",\"via\":"
		"\"192.0.2.1\",\"labels\":[16002]},{\"prefix\":\"10.0.0.1/32\",\"via\":"
		"\"192.0.2.1\",\"labels\":[]}]}");
}

static void test_cvm(void **state)
{
	(void)state;
	struct site site = site_a();
	struct cvm cvm = {.inside = fixture_addr("100.64.1.1")};
	struct port ports[] = {green(), green(), green()};
	ports[1].site_id = 2;    /* another site's */
	ports[2].in_cvm = false; /* being made */
	expect_document(guest_config_cvm(&cvm, &site, ports, 3),
		"{\"hostname\":\"cvm-a\",\"asn\":65000,\"router_id\":\"10.0.0.1\","
		"\"interfaces\":{\"core\":{\"addresses\":[\"192.0.2.2/30\"],\"mtu\":1600},"
		"\"inside\":{\"addresses\":[\"100.64.1.1/24\"],\"mtu\":1600},\"lo\":{"
		"\"addresses\":[\"10.0.0.1/32\"]}},\"routes\":[{\"prefix\":\"10.0.0.100/32\","
		"\"via\":\"192.0.2.1\"}],\"core\":[{\"address\":\"10.0.0.100\",\"local_address\":"
		"\"10.0.0.1\",\"remote_asn\":65000}],\"pvms\":[{\"name\":\"green-a1\","
		"\"address\":\"100.64.1.10\",\"import_rts\":[\"65000:100\"],\"export_rts\":["
		"\"65000:100\"]}]}");
}

/* Only the neighbours go: the link, and the way to the route reflector, carry their farewell. */
static void test_what_is_being_deleted_has_no_neighbors(void **state)
{
	(void)state;
	struct site site = site_a();
	struct cvm cvm = {.inside = fixture_addr("100.64.1.1")};
	struct port port = green();
	static const char *const documents[] = {"ce", "cvm", "core"};
	for (size_t i = 0; i < 3; i++) {
		cJSON *kept[2];
		for (int deleting = 0; deleting < 2; deleting++) {
			port.state = cvm.state = deleting ? PORT_DELETING : PORT_ACTIVE;
			cJSON *config = i < 2 ? guest_config_pvm(&port, &site, &cvm, &site, 1)
					      : guest_config_cvm(&cvm, &site, NULL, 0);
			const cJSON *neighbors =
				cJSON_GetObjectItemCaseSensitive(config, documents[i]);
			assert_int_equal(cJSON_GetArraySize(neighbors) == 0, deleting);
			cJSON_DeleteItemFromObjectCaseSensitive(config, "config_id");
			for (size_t k = 0; k < 3; k++)
				cJSON_DeleteItemFromObjectCaseSensitive(config, documents[k]);
			kept[deleting] = config;
		}
		assert_true(cJSON_Compare(kept[0], kept[1], true));
		assert_true(cJSON_GetArraySize(kept[0]) > 4);
		cJSON_Delete(kept[0]);
		cJSON_Delete(kept[1]);
	}
}

static void test_adjacent_pe_has_no_label(void **state)
{
	(void)state;
	struct site sites[] = {site_b(), site_a()};
	struct cvm cvm = {.inside = fixture_addr("100.64.1.1")};
	struct port port = green();
	sites[0].transport_label = MODEL_LABEL_IMPLICIT_NULL;
	cJSON *config = guest_config_pvm(&port, &sites[1], &cvm, sites, 2);
	const cJSON *tunnel =
		cJSON_GetArrayItem(cJSON_GetObjectItemCaseSensitive(config, "tunnels"), 0);
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(tunnel, "labels")), 0);
	cJSON_Delete(config);
}

static void test_id_follows_content(void **state)
{
	(void)state;
	char one[GUEST_CONFIG_ID_SIZE], two[GUEST_CONFIG_ID_SIZE], three[GUEST_CONFIG_ID_SIZE];
	struct site site = site_a();
	struct cvm cvm = {.inside = fixture_addr("100.64.1.1")};
	struct port port = green();
	cJSON *config = guest_config_pvm(&port, &site, &cvm, &site, 1);
	guest_config_id(config, one);
	cJSON_Delete(config);
	config = guest_config_pvm(&port, &site, &cvm, &site, 1);
	guest_config_id(config, two);
	cJSON_Delete(config);
	port.ce[0].asn++;
	config = guest_config_pvm(&port, &site, &cvm, &site, 1);
	guest_config_id(config, three);
	cJSON_Delete(config);
	assert_string_equal(one, two);
	assert_string_not_equal(one, three);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pvm),
		cmocka_unit_test(test_cvm),
		cmocka_unit_test(test_what_is_being_deleted_has_no_neighbors),
		cmocka_unit_test(test_adjacent_pe_has_no_label),
		cmocka_unit_test(test_id_follows_content),
	};
	return cmocka_run_group_tests_name("guest_config", tests, NULL, NULL);
}
