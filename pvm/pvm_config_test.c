/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "pvm/pvm_config.h"

/* The example of docs/protocols.md. */
static const char EXAMPLE[] =
	"{\"config_id\":\"7\",\"hostname\":\"green-a1\",\"asn\":65000,\"router_id\":\"100.64.1."
	"10\","
	"\"interfaces\":{\"cust\":{\"addresses\":[\"192.168.1.1/30\",\"fd00:a1::1/"
	"64\"],\"mtu\":1500},"
	"\"core\":{\"addresses\":[\"100.64.1.10/24\",\"192.0.2.2/30\"],\"mtu\":1600,"
	"\"mac\":\"02:ed:00:00:00:01\"}},"
	"\"ce\":[{\"address\":\"192.168.1.2\",\"remote_asn\":65101,\"families\":[\"ipv4\"],"
	"\"max_prefixes\":1000},{\"address\":\"fd00:a1::2\",\"remote_asn\":65101}],"
	"\"cvm\":{\"address\":\"100.64.1.1\",\"local_address\":\"100.64.1.10\"},"
	"\"vpn\":{\"rd\":\"65000:1\",\"import_rts\":[\"65000:100\",\"65000:101\"],"
	"\"export_rts\":[\"65000:100\"],\"label\":1001,\"next_hop\":\"10.0.0.1\"},"
	"\"tunnels\":[{\"prefix\":\"10.0.0.0/24\",\"via\":\"192.0.2.1\",\"labels\":[16000]},"
	"{\"prefix\":\"10.0.0.2/32\",\"via\":\"192.0.2.1\",\"labels\":[16002,17]},"
	"{\"prefix\":\"10.0.0.1/32\",\"via\":\"192.0.2.1\",\"labels\":[]}]}";

static int read_text(const char *text, struct pvm_config *config, struct jsonrpc_error *err)
{
	cJSON *json = cJSON_Parse(text);
	int result;

	assert_non_null(json);
	result = pvm_config_read(json, config, err);
	cJSON_Delete(json);
	return result;
}

static bool has_line(const struct cfg *cfg, const char *context, const char *text)
{
	for (size_t i = 0; i < cfg->n; i++)
		if (!strcmp(cfg->lines[i].context, context) && !strcmp(cfg->lines[i].text, text))
			return true;
	return false;
}

static void test_the_example_is_understood(void **state)
{
	struct pvm_config config;
	struct jsonrpc_error err;

	(void)state;
	assert_int_equal(read_text(EXAMPLE, &config, &err), 0);
	assert_int_equal(config.n_ces, 2);
	assert_true(config.ces[0].ipv4 && !config.ces[0].ipv6);
	assert_true(!config.ces[1].ipv4 && config.ces[1].ipv6); /* by its address */
	assert_int_equal(config.ces[0].max_prefixes, 1000);
	assert_int_equal(config.ces[1].max_prefixes, 100000);
	assert_int_equal(config.ces[0].hold_s, 30);
	assert_true(config.redistribute_connected);
	assert_int_equal(config.graceful_restart_s, 120);
	assert_int_equal(config.label, 1001);
	assert_int_equal(config.import_rts.n, 2);
	assert_false(config.interfaces[0].has_mac); /* the NIC's own */
	assert_true(config.interfaces[1].has_mac);
	assert_memory_equal(config.interfaces[1].mac.bytes, "\x02\xed\x00\x00\x00\x01", 6);
	pvm_config_free(&config);
}

static void test_it_is_rendered_for_bgpd(void **state)
{
	struct pvm_config config;
	struct jsonrpc_error err;
	struct cfg cfg = {0};

	(void)state;
	assert_int_equal(read_text(EXAMPLE, &config, &err), 0);
	pvm_config_render(&config, &cfg);
	assert_false(cfg.failed);
	assert_true(has_line(&cfg, "router bgp 65000", "neighbor 192.168.1.2 remote-as 65101"));
	assert_true(has_line(&cfg, "router bgp 65000\naddress-family ipv6 unicast",
		"neighbor fd00:a1::2 activate"));
	assert_false(has_line(&cfg, "router bgp 65000\naddress-family ipv6 unicast",
		"neighbor 192.168.1.2 activate"));
	assert_true(has_line(&cfg, "router bgp 65000\naddress-family ipv4 unicast",
		"rt vpn import 65000:100 65000:101"));
	assert_true(has_line(&cfg, "router bgp 65000\naddress-family ipv6 unicast",
		"nexthop vpn export ::ffff:10.0.0.1"));
	assert_true(has_line(&cfg, "", "ip prefix-list OWN seq 2 permit 192.0.2.0/30 le 32"));
	cfg_free(&cfg);
	pvm_config_free(&config);
}

static void test_the_longest_tunnel_is_taken(void **state)
{
	struct pvm_config config;
	struct jsonrpc_error err;
	struct ep_prefix a;

	(void)state;
	assert_int_equal(read_text(EXAMPLE, &config, &err), 0);
	assert_int_equal(ep_addr_parse("10.0.0.2", &a), 0);
	assert_int_equal(pvm_config_tunnel(&config, &a)->labels[1], 17);
	assert_int_equal(ep_addr_parse("10.0.0.9", &a), 0);
	assert_int_equal(pvm_config_tunnel(&config, &a)->labels[0], 16000);
	assert_int_equal(ep_addr_parse("10.0.0.1", &a), 0);
	assert_int_equal(pvm_config_tunnel(&config, &a)->n_labels, 0);
	assert_int_equal(ep_addr_parse("10.0.1.1", &a), 0);
	assert_null(pvm_config_tunnel(&config, &a));
	assert_int_equal(ep_addr_parse("fd00::1", &a), 0);
	assert_null(pvm_config_tunnel(&config, &a));
	pvm_config_free(&config);
}

/* Replaces the first `from` of the example by `to`. */
static void expect_mistake(const char *from, const char *to, const char *field)
{
	struct pvm_config config;
	struct jsonrpc_error err;
	const char *at = strstr(EXAMPLE, from);
	char *text;

	assert_non_null(at);
	assert_true(asprintf(&text, "%.*s%s%s", (int)(at - EXAMPLE), EXAMPLE, to,
			    at + strlen(from)) > 0);
	assert_int_equal(read_text(text, &config, &err), -1);
	assert_int_equal(err.code, JSONRPC_INVALID_PARAMS);
	assert_string_equal(err.field, field);
	assert_true(strlen(err.message) > 10);
	free(text);
}

static void test_mistakes_are_named(void **state)
{
	(void)state;
	expect_mistake("\"asn\":65000", "\"asn\":-1", "/asn");
	expect_mistake("\"asn\":65000", "\"asn\":65000.5", "/asn");
	expect_mistake("\"asn\":65000,", "", "/asn");
	expect_mistake("green-a1", "green\\na1", "/hostname");
	expect_mistake("green-a1", "-green", "/hostname");
	expect_mistake("192.168.1.1/30", "192.168.1.1/33", "/interfaces/cust/addresses/0");
	expect_mistake("192.0.2.2/30", "100.64.1.10/24", "/interfaces/core/addresses/1");
	expect_mistake("\"cust\":{", "\"cuts\":{", "/interfaces/cuts");
	expect_mistake("\"mtu\":1500", "\"mtu\":1200", "/interfaces/cust/mtu");
	expect_mistake("02:ed:00:00:00:01", "03:ed:00:00:00:01", "/interfaces/core/mac");
	expect_mistake("02:ed:00:00:00:01", "00:00:00:00:00:00", "/interfaces/core/mac");
	expect_mistake("02:ed:00:00:00:01", "02:ed:00:00:00", "/interfaces/core/mac");
	expect_mistake("\"02:ed:00:00:00:01\"", "2", "/interfaces/core/mac");
	expect_mistake("\"core\":{", "\"lo\":{", "/interfaces/lo/mac");
	expect_mistake("\"asn\":65000", "\"asn\":65000,\"graceful_restart_s\":4096",
		"/graceful_restart_s");
	expect_mistake("\"192.168.1.2\"", "\"192.168.1.9\"", "/ce/0/address");
	expect_mistake("\"remote_asn\":65101", "\"remote_asn\":65000", "/ce/0/remote_asn");
	expect_mistake("\"local_address\":\"100.64.1.10\"", "\"local_address\":\"100.64.1.11\"",
		"/cvm/local_address");
	expect_mistake("\"vpn\":", "\"nvp\":", "/vpn");
	expect_mistake("\"65000:101\"", "\"65000:100\"", "/vpn/import_rts/1");
	expect_mistake("\"rd\":\"65000:1\"", "\"rd\":\"65536:65536\"", "/vpn/rd");
	expect_mistake("\"rd\":\"65000:1\"", "\"rd\":\"10.0.0.1:65536\"", "/vpn/rd");
	expect_mistake("\"label\":1001", "\"label\":3", "/vpn/label");
	expect_mistake("[16002,17]", "[16002,1048576]", "/tunnels/1/labels/1");
	expect_mistake("10.0.0.2/32", "10.0.0.1/32", "/tunnels/2/prefix");
	expect_mistake("10.0.0.0/24", "10.0.0.1/24", "/tunnels/0/prefix");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_example_is_understood),
		cmocka_unit_test(test_it_is_rendered_for_bgpd),
		cmocka_unit_test(test_the_longest_tunnel_is_taken),
		cmocka_unit_test(test_mistakes_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
