/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/risks.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define TEST(fn) cmocka_unit_test(fn)

static struct server server(int64_t id, const char *name, const char *first, const char *second)
{
	struct server server = {.id = id};
	snprintf(server.name, sizeof(server.name), "%s", name);
	if (first != NULL)
		snprintf(server.risks.name[server.risks.n++], MODEL_RISK_SIZE, "%s", first);
	if (second != NULL)
		snprintf(server.risks.name[server.risks.n++], MODEL_RISK_SIZE, "%s", second);
	return server;
}

/* The report as one line: each finding's kind, parts and what they share. The caller's. */
static cJSON *report(const struct server *servers, size_t n, const struct risk_part *parts,
	size_t n_parts, char text[1024])
{
	cJSON *json = risks_report(servers, n, parts, n_parts);
	const cJSON *finding, *item;
	size_t len = 0;
	static const char *const lists[] = {"parts", "shared"};
	text[0] = '\0';
	cJSON_ArrayForEach (finding, cJSON_GetObjectItemCaseSensitive(json, "findings")) {
		len += (size_t)snprintf(text + len, 1024 - len, "%s%s:", len > 0 ? "; " : "",
			cJSON_GetObjectItemCaseSensitive(finding, "kind")->valuestring);
		for (size_t i = 0; i < 2; i++) {
			cJSON_ArrayForEach (
				item, cJSON_GetObjectItemCaseSensitive(finding, lists[i]))
				len += (size_t)snprintf(
					text + len, 1024 - len, " %s", item->valuestring);
			len += (size_t)snprintf(text + len, 1024 - len, "%s", i == 0 ? " |" : "");
		}
		assert_true(len < 1024);
	}
	return json;
}

static void expect(const struct server *servers, size_t n, const struct risk_part *parts,
	size_t n_parts, const char *expected)
{
	char text[1024];
	cJSON_Delete(report(servers, n, parts, n_parts, text));
	assert_string_equal(text, expected);
}

static void test_two_servers_apart_are_well(void **state)
{
	const struct server servers[] = {
		server(1, "left", "rack=1", NULL), server(2, "right", "rack=2", NULL)};
	const struct risk_part parts[] = {{RISK_PART_CVM, "cvm/a", 1, ""},
		{RISK_PART_STANDBY, "standby/a", 2, ""}, {RISK_PART_PVM, "port/g1", 1, "green"},
		{RISK_PART_PVM, "port/g2", 2, "green"}, {RISK_PART_PVM, "port/r1", 2, "red"},
		{RISK_PART_SPARE, "spare/1", 1, ""}, {RISK_PART_SPARE, "spare/2", 2, ""}};
	(void)state;
	expect(servers, 2, parts, 7, "");
	expect(servers, 2, NULL, 0, "");
	expect(servers, 0, NULL, 0, "");
}

static void test_what_shares_a_rack(void **state)
{
	const struct server servers[] = {server(1, "left", "rack=1", "feed=a"),
		server(2, "right", "rack=1", "feed=b"), server(3, "third", "rack=2", "feed=b")};
	const struct risk_part parts[] = {{RISK_PART_CVM, "cvm/a", 1, ""},
		{RISK_PART_STANDBY, "standby/a", 2, ""}, {RISK_PART_PVM, "port/g1", 2, "green"},
		{RISK_PART_PVM, "port/g2", 3, "green"}, {RISK_PART_PVM, "port/r1", 3, "red"},
		{RISK_PART_SPARE, "spare/1", 2, ""}, {RISK_PART_SPARE, "spare/2", 3, ""}};
	(void)state;
	expect(servers, 3, parts, 7,
		"cvm-standby: cvm/a standby/a | rack=1; customer: port/g1 port/g2 | feed=b; "
		"spares: port/g1 spare/1 spare/2 | server right; "
		"spares: port/g2 spare/1 spare/2 | feed=b; "
		"spares: port/r1 spare/1 spare/2 | feed=b; pool: spare/1 spare/2 | feed=b");
}

static void test_what_is_on_one_server(void **state)
{
	const struct server servers[] = {
		server(1, "left", NULL, NULL), server(2, "right", NULL, NULL)};
	const struct risk_part parts[] = {{RISK_PART_PVM, "port/g1", 1, "green"},
		{RISK_PART_PVM, "port/g2", 1, "green"}, {RISK_PART_SPARE, "spare/1", 2, ""},
		{RISK_PART_SPARE, "spare/2", 2, ""},
		{RISK_PART_SPARE, "spare/9", 77, ""}}; /* of a server that is gone */
	char text[1024];
	(void)state;
	cJSON *json = report(servers, 2, parts, 5, text);
	assert_string_equal(text, "customer: port/g1 port/g2 | server left; "
				  "pool: spare/1 spare/2 spare/9 | server right");
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, "unknown")), 2);
	cJSON_Delete(json);
}

static void test_servers_themselves(void **state)
{
	const struct server one[] = {server(1, "left", NULL, NULL)};
	const struct server same[] = {
		server(1, "left", "zone=z", "rack=1"), server(2, "right", "rack=2", "zone=z")};
	char text[1024];
	(void)state;
	expect(one, 1, NULL, 0, "single-server: server left | server left");
	cJSON *json = report(same, 2, NULL, 0, text);
	assert_string_equal(text, "servers: server left server right | zone=z");
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, "groups")), 3);
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItemCaseSensitive(json, "unknown")), 0);
	cJSON_Delete(json);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_two_servers_apart_are_well),
		TEST(test_what_shares_a_rack),
		TEST(test_what_is_on_one_server),
		TEST(test_servers_themselves),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
