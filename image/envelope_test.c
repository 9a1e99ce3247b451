/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>
#include <cjson/cJSON.h>

#include "image/envelope.h"

static void expect(const char *line, const char *method, const char *id)
{
	struct envelope env;

	if (envelope_scan(line, strlen(line), &env) != 0)
		fail_msg("refused: %s", line);
	if (method == NULL) {
		assert_null(env.method);
	} else {
		assert_int_equal(env.method_len, strlen(method));
		assert_memory_equal(env.method, method, env.method_len);
	}
	if (id == NULL) {
		assert_null(env.id);
	} else {
		assert_int_equal(env.id_len, strlen(id));
		assert_memory_equal(env.id, id, env.id_len);
	}
}

static void finds_method_and_id(void **state)
{
	(void)state;
	expect("{\"id\":17,\"method\":\"pvm.status\"}", "pvm.status", "17");
	expect(" { \"method\" : \"a\" , \"id\" : \"x\\\"y\" , \"params\" : {} } ", "a",
		"\"x\\\"y\"");
	expect("{\"id\":null,\"error\":{\"code\":-1}}", NULL, "null");
	expect("{\"method\":\"n\"}", "n", NULL);
	expect("{}", NULL, NULL);
	expect("{\"id\":-1.5e+3}", NULL, "-1.5e+3");
}

static void looks_at_the_outermost_object_only(void **state)
{
	(void)state;
	expect("{\"params\":{\"id\":1,\"method\":\"x\"},\"id\":2}", NULL, "2");
	expect("{\"params\":[{\"id\":1}]}", NULL, NULL);
	expect("{\"s\":\"\\\"id\\\":3\",\"id\":4,\"id\":5}", NULL, "4");
}

static void refuses_what_is_not_json_rpc(void **state)
{
	static const char *const lines[] = {"", " ", "[]", "1", "\"x\"", "{", "}", "{\"id\"}",
		"{\"id\":}", "{\"id\":1,}", "{\"id\":1}}", "{\"id\":1} x", "{id:1}", "{\"id\":01}",
		"{\"id\":1.}", "{\"id\":.5}", "{\"id\":1e}", "{\"id\":+1}", "{\"id\":nul}",
		"{\"id\":true}", "{\"id\":[1]}", "{\"id\":{}}", "{\"method\":1}", "{\"a\":\"\\x\"}",
		"{\"a\":\"\\u12g4\"}", "{\"a\":\"\\ud800\"}", "{\"a\":\"\\udc00\"}",
		"{\"a\":\"\\ud800\\u0041\"}", "{\"a\":\"", "{\"a\":\"\\", "{\"a\":\"\\u12",
		"{\"a\":[1,]}", "{\"a\":[1 2]}", "{\"a\":\"\t\"}",
		"{\"a\":1234567890123456789012345678901234567890123456789012345678901234567890}"};

	(void)state;
	for (unsigned i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
		struct envelope env;

		if (envelope_scan(lines[i], strlen(lines[i]), &env) != EBADMSG)
			fail_msg("accepted: %s", lines[i]);
	}
}

static void bounds_the_depth(void **state)
{
	char line[4 * ENVELOPE_MAX_DEPTH];
	struct envelope env;

	(void)state;
	for (unsigned depth = 1; depth < ENVELOPE_MAX_DEPTH + 8; depth++) {
		size_t n = (size_t)snprintf(line, sizeof(line), "{\"a\":");

		/* The outermost object is a level of its own. */
		memset(line + n, '[', depth - 1);
		n += depth - 1;
		line[n++] = '1';
		memset(line + n, ']', depth - 1);
		n += depth - 1;
		line[n++] = '}';
		assert_int_equal(
			envelope_scan(line, n, &env), depth < ENVELOPE_MAX_DEPTH ? 0 : EBADMSG);
	}
}

static void never_reads_beyond_the_end(void **state)
{
	static const char line[] =
		"{\"id\":\"\\ud83d\\ude00\",\"x\":[true,{\"y\":-1.5e-3}],\"n\":null}";
	struct envelope env;

	(void)state;
	/* Sanitized builds see a read beyond; every prefix must be refused. */
	for (size_t n = 0; n < sizeof(line) - 1; n++) {
		char *copy = test_malloc(n + 1);

		memcpy(copy, line, n);
		assert_int_equal(envelope_scan(copy, n, &env), EBADMSG);
		test_free(copy);
	}
	assert_int_equal(envelope_scan(line, sizeof(line) - 1, &env), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(finds_method_and_id),
		cmocka_unit_test(looks_at_the_outermost_object_only),
		cmocka_unit_test(refuses_what_is_not_json_rpc),
		cmocka_unit_test(bounds_the_depth),
		cmocka_unit_test(never_reads_beyond_the_end),
	};

	return cmocka_run_group_tests_name("envelope", tests, NULL, NULL);
}
