/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <cjson/cJSON.h>

#include "image/alive.h"

static const char *const names[] = {"fwd", "pvm"};
static char said[4096];

static void say(void *ctx, const char *line, size_t n)
{
	size_t used = strlen(said);

	(void)ctx;
	assert_true(used + n < sizeof(said));
	memcpy(said + used, line, n);
	said[used + n] = '\0';
}

static int set_up(void **state)
{
	said[0] = '\0';
	*state = alive_create(names, 2, say, NULL);
	return *state == NULL;
}

static int tear_down(void **state)
{
	alive_destroy(*state);
	return 0;
}

/* The `n`th answer says this of a program; `why` NULL: it is ok. */
static void expect(unsigned n, double id, const char *program, const char *why)
{
	const char *line = said;
	const cJSON *one;
	cJSON *message;

	while (n-- > 0)
		line = strchr(line, '\n') + 1;
	message = cJSON_ParseWithLength(line, strcspn(line, "\n"));
	assert_non_null(message);
	assert_true(cJSON_GetNumberValue(cJSON_GetObjectItem(message, "id")) == id);
	one = cJSON_GetObjectItem(cJSON_GetObjectItem(message, "result"), program);
	assert_int_equal(cJSON_IsTrue(cJSON_GetObjectItem(one, "ok")), why == NULL);
	if (why == NULL)
		assert_null(cJSON_GetObjectItem(one, "why"));
	else
		assert_string_equal(cJSON_GetStringValue(cJSON_GetObjectItem(one, "why")), why);
	cJSON_Delete(message);
}

static void test_one_question_serves_all_who_wait(void **state)
{
	struct alive *a = *state;

	assert_int_equal(alive_next_ms(a), INT64_MAX);
	assert_true(alive_begin(a, "1", 1000));
	assert_true(alive_must_ask(a, 0) && alive_must_ask(a, 1));
	assert_false(alive_must_ask(a, 2));
	alive_asked(a, 0, 11, 1000);
	alive_asked(a, 1, 12, 1000);
	assert_true(alive_begin(a, "2", 1100));
	assert_false(alive_must_ask(a, 0) || alive_must_ask(a, 1));
	assert_false(alive_is_asked(a, 0, 12));
	assert_true(alive_is_asked(a, 1, 12));
	assert_int_equal(alive_next_ms(a), 1250);
	alive_told(a, 1, NULL);
	assert_string_equal(said, "");
	alive_told(a, 0, "stood still");
	expect(0, 1, "fwd", "stood still");
	expect(0, 1, "pvm", NULL);
	expect(1, 2, "fwd", "stood still");
	expect(1, 2, "pvm", NULL);
	assert_int_equal(alive_next_ms(a), INT64_MAX);
	assert_true(alive_must_ask(a, 0) && alive_must_ask(a, 1));
}

static void test_who_does_not_answer_is_answered_for(void **state)
{
	struct alive *a = *state;

	assert_true(alive_begin(a, "1", 1000));
	alive_asked(a, 0, 11, 1000);
	alive_told(a, 1, NULL);
	alive_run(a, 1249);
	assert_string_equal(said, "");
	alive_run(a, 1250);
	expect(0, 1, "fwd", "no answer for 250 ms");
	expect(0, 1, "pvm", NULL);
	/* It still owes that answer: it isn't asked again, and the time counts from there. */
	assert_true(alive_begin(a, "2", 1500));
	assert_false(alive_must_ask(a, 0));
	alive_told(a, 1, "is not running in this VM");
	alive_run(a, 1751);
	expect(1, 2, "fwd", "no answer for 751 ms");
	expect(1, 2, "pvm", "is not running in this VM");
	/* When it answers at last, it is alive to whom waits then. */
	assert_true(alive_begin(a, "3", 2000));
	alive_told(a, 1, NULL);
	assert_true(alive_is_asked(a, 0, 11));
	alive_told(a, 0, NULL);
	expect(2, 3, "fwd", NULL);
}

static void test_who_could_not_be_asked_has_been_silent_since_the_request(void **state)
{
	struct alive *a = *state;

	assert_true(alive_begin(a, "1", 1000));
	alive_told(a, 1, NULL);
	alive_run(a, 1300);
	expect(0, 1, "fwd", "no answer for 300 ms");
}

static void test_there_is_a_limit_and_a_new_asker_begins_anew(void **state)
{
	struct alive *a = *state;

	for (unsigned i = 0; i < ALIVE_WAITING; i++)
		assert_true(alive_begin(a, "1", 1000));
	assert_false(alive_begin(a, "1", 1000));
	alive_forget(a);
	assert_int_equal(alive_next_ms(a), INT64_MAX);
	assert_true(alive_begin(a, "7", 1000));
	alive_told(a, 0, NULL);
	alive_told(a, 1, NULL);
	expect(0, 7, "fwd", NULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		TEST(test_one_question_serves_all_who_wait),
		TEST(test_who_does_not_answer_is_answered_for),
		TEST(test_who_could_not_be_asked_has_been_silent_since_the_request),
		TEST(test_there_is_a_limit_and_a_new_asker_begins_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
