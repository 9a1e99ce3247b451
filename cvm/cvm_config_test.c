/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cvm/cvm_config.h"

/* The example of docs/protocols.md, with one more PVM. */
static const char EXAMPLE[] =
	"{\"config_id\":\"12\",\"hostname\":\"cvm-a\",\"asn\":65000,\"router_id\":\"10.0.0.1\","
	"\"interfaces\":{\"core\":{\"addresses\":[\"192.0.2.2/30\"],\"mtu\":1600},"
	"\"inside\":{\"addresses\":[\"100.64.1.1/24\"],\"mtu\":1600},"
	"\"lo\":{\"addresses\":[\"10.0.0.1/32\"]}},"
	"\"routes\":[{\"prefix\":\"10.0.0.100/32\",\"via\":\"192.0.2.1\"}],"
	"\"core\":[{\"address\":\"10.0.0.100\",\"local_address\":\"10.0.0.1\",\"remote_asn\":65000}"
	"],"
	"\"pvms\":[{\"name\":\"green-a1\",\"address\":\"100.64.1.10\",\"import_rts\":[\"65000:"
	"100\"],"
	"\"export_rts\":[\"65000:100\"]},{\"name\":\"red-a1\",\"address\":\"100.64.1.11\","
	"\"import_rts\":[\"65000:200\"],\"export_rts\":[\"65000:200\"]}]}";

static int read_text(const char *text, struct cvm_config *config, struct jsonrpc_error *err)
{
	cJSON *json = cJSON_Parse(text);
	int result;

	assert_non_null(json);
	result = cvm_config_read(json, config, err);
	cJSON_Delete(json);
	return result;
}

static void test_the_example_is_understood(void **state)
{
	static struct cvm_config config;
	struct jsonrpc_error err;
	struct ep_prefix a;
	struct cfg cfg = {0};
	bool found = false;

	(void)state;
	assert_int_equal(read_text(EXAMPLE, &config, &err), 0);
	assert_int_equal(config.n_pvms, 2);
	assert_int_equal(ep_addr_parse("100.64.1.11", &a), 0);
	assert_string_equal(cvm_config_pvm(&config, &a)->name, "red-a1");
	cvm_config_render(&config, &cfg);
	assert_false(cfg.failed);
	for (size_t i = 0; i < cfg.n; i++)
		found |= !strcmp(cfg.lines[i].text,
				 "neighbor 100.64.1.11 route-map PVM-red-a1-OUT out") &&
			 !strcmp(cfg.lines[i].context, "router bgp 65000\naddress-family ipv6 vpn");
	assert_true(found);
	cfg_free(&cfg);
	cvm_config_free(&config);
}

static void expect_mistake(const char *from, const char *to, const char *field)
{
	static struct cvm_config config;
	struct jsonrpc_error err;
	const char *at = strstr(EXAMPLE, from);
	char *text;

	assert_non_null(at);
	assert_true(asprintf(&text, "%.*s%s%s", (int)(at - EXAMPLE), EXAMPLE, to,
			    at + strlen(from)) > 0);
	assert_int_equal(read_text(text, &config, &err), -1);
	assert_int_equal(err.code, JSONRPC_INVALID_PARAMS);
	assert_string_equal(err.field, field);
	free(text);
}

static void test_mistakes_are_named(void **state)
{
	(void)state;
	expect_mistake("\"router_id\":\"10.0.0.1\"", "\"router_id\":\"0.0.0.0\"", "/router_id");
	expect_mistake("\"inside\":{", "\"outside\":{", "/interfaces/outside");
	expect_mistake("10.0.0.100/32", "10.0.0.100/24", "/routes/0/prefix");
	expect_mistake("\"via\":\"192.0.2.1\"", "\"via\":\"192.0.3.1\"", "/routes/0/via");
	expect_mistake("\"via\":\"192.0.2.1\"", "\"via\":\"fd00::1\"", "/routes/0/via");
	expect_mistake("\"remote_asn\":65000", "\"remote_asn\":65001", "/core/0/remote_asn");
	expect_mistake("\"local_address\":\"10.0.0.1\"", "\"local_address\":\"10.0.0.9\"",
		"/core/0/local_address");
	expect_mistake("\"name\":\"red-a1\"", "\"name\":\"green-a1\"", "/pvms/1/name");
	expect_mistake("\"name\":\"red-a1\"", "\"name\":\"Red\"", "/pvms/1/name");
	expect_mistake("100.64.1.11", "100.64.1.10", "/pvms/1/address");
	expect_mistake("100.64.1.11", "100.64.2.11", "/pvms/1/address");
	expect_mistake("100.64.1.11", "100.64.1.1", "/pvms/1/address");
	expect_mistake("\"export_rts\":[\"65000:200\"]", "\"export_rts\":[]", "/pvms/1/export_rts");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_the_example_is_understood),
		cmocka_unit_test(test_mistakes_are_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
