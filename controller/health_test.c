/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/health.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define NEIGHBOR(role, address, state)                  \
	"{\"role\":\"" role "\",\"address\":\"" address \
	"\",\"remote_asn\":65101,\"state\":\"" state "\",\"last_error\":\"\"}"
#define FIB(connected, complete) \
	"\"fib\":{\"connected\":" connected ",\"complete\":" complete ",\"routes\":1}"
#define GOOD                                                                          \
	"{\"neighbors\":[" NEIGHBOR("ce", "192.168.1.2", "Established") "," NEIGHBOR( \
		"cvm", "100.64.1.1", "Established") "]," FIB("true", "true") "}"

static bool pvm(const char *status, const char *fwd, char missing[512])
{
	cJSON *a = status ? cJSON_Parse(status) : NULL, *b = fwd ? cJSON_Parse(fwd) : NULL;
	bool serves = health_pvm(a, b, missing, 512);
	cJSON_Delete(a);
	cJSON_Delete(b);
	return serves;
}

static void test_pvm(void **state)
{
	(void)state;
	char missing[512];
	static const char complete[] = "{\"fib\":{\"complete\":true}}";
	assert_true(pvm(GOOD, complete, missing));
	assert_string_equal(missing, "");

	assert_false(pvm(GOOD, "{\"fib\":{\"complete\":false}}", missing));
	assert_non_null(strstr(missing, "FIB"));
	assert_false(pvm(GOOD, NULL, missing));
	assert_false(pvm(NULL, complete, missing));
	assert_false(pvm("7", complete, missing));
	assert_false(pvm("{\"neighbors\":[" NEIGHBOR("ce", "192.168.1.2", "Active") "," NEIGHBOR(
				 "cvm", "100.64.1.1", "Established") "]," FIB("true", "true") "}",
		complete, missing));
	assert_non_null(strstr(missing, "192.168.1.2"));
	assert_non_null(strstr(missing, "Active"));
	assert_false(pvm("{\"neighbors\":[" NEIGHBOR("ce", "192.168.1.2", "Established") "]," FIB(
				 "true", "true") "}",
		complete, missing));
	assert_non_null(strstr(missing, "CVM"));
	assert_false(pvm("{\"neighbors\":[]," FIB("false", "false") "}", complete, missing));
	assert_non_null(strstr(missing, "forwarder"));
}

static void test_what_pvmd_alone_says(void **state)
{
	(void)state;
	char missing[512];
	cJSON *status = cJSON_Parse(GOOD);
	assert_true(health_pvm_routes(status, missing, sizeof(missing)));
	assert_false(health_pvm(status, NULL, missing, sizeof(missing)));
	cJSON_Delete(status);
	status =
		cJSON_Parse("{\"neighbors\":[" NEIGHBOR("ce", "192.168.1.2", "Active") "," NEIGHBOR(
			"cvm", "100.64.1.1", "Established") "]," FIB("true", "true") "}");
	assert_false(health_pvm_routes(status, missing, sizeof(missing)));
	assert_non_null(strstr(missing, "192.168.1.2"));
	cJSON_Delete(status);
	assert_false(health_pvm_routes(NULL, missing, sizeof(missing)));
}

static void test_cvm(void **state)
{
	(void)state;
	char missing[512];
	cJSON *status =
		cJSON_Parse("{\"neighbors\":[" NEIGHBOR("core", "10.0.0.100", "Established") "]}");
	assert_true(health_cvm(status, missing, sizeof(missing)));
	cJSON_Delete(status);
	status = cJSON_Parse("{\"neighbors\":[" NEIGHBOR("core", "10.0.0.100", "Idle") "]}");
	assert_false(health_cvm(status, missing, sizeof(missing)));
	assert_non_null(strstr(missing, "10.0.0.100"));
	cJSON_Delete(status);
	assert_false(health_cvm(NULL, missing, sizeof(missing)));
}

/* Whatever the buffer's size, the text ends within it. */
static void test_long_text_is_cut(void **state)
{
	(void)state;
	cJSON *status = cJSON_Parse("{\"neighbors\":[" NEIGHBOR(
		"ce", "192.168.1.2", "Active") "," NEIGHBOR("ce", "192.168.1.6", "Active") "]}");
	for (size_t size = 1; size < 300; size++) {
		char *missing = malloc(size);
		assert_false(health_pvm(status, NULL, missing, size));
		assert_true(strlen(missing) < size);
		free(missing);
	}
	cJSON_Delete(status);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pvm),
		cmocka_unit_test(test_what_pvmd_alone_says),
		cmocka_unit_test(test_cvm),
		cmocka_unit_test(test_long_text_is_cut),
	};
	return cmocka_run_group_tests_name("health", tests, NULL, NULL);
}
