/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>

#include "hostd/pauses.h"

static void test_none(void **state)
{
	struct pauses *pauses = calloc(1, sizeof(*pauses));
	struct pauses_summary s;

	(void)state;
	pauses_summarize(pauses, &s);
	assert_int_equal(s.epochs, 0);
	assert_int_equal(s.pause_max_us, 0);
	free(pauses);
}

static void add(struct pauses *pauses, int64_t at, int64_t pause)
{
	struct epoch_cost cost = {.at_us = at,
		.pause_us = pause,
		.commit_us = 2 * pause,
		.stop_us = 1,
		.copy_us = 2,
		.state_us = 3,
		.resume_us = 4,
		.pages = 10,
		.bytes = 1000,
		.state_bytes = 200};

	pauses_add(pauses, &cost);
}

static void test_figures(void **state)
{
	struct pauses *pauses = calloc(1, sizeof(*pauses));
	struct pauses_summary s;

	(void)state;
	add(pauses, 0, 7);
	pauses_summarize(pauses, &s);
	assert_int_equal(s.pause_p99_us, 7);
	assert_true(s.bytes_per_s == 0);
	for (int i = 1; i < 100; i++)
		add(pauses, i * 100000, 100 - i);
	pauses_summarize(pauses, &s);
	assert_int_equal(s.epochs, 100);
	assert_int_equal(s.pause_max_us, 99);
	assert_int_equal(s.pause_p99_us, 98);
	assert_int_equal(s.pause_mean_us, (4950 + 7) / 100);
	assert_int_equal(s.commit_max_us, 198);
	assert_true(s.pages_mean == 10);
	assert_true(s.bytes_per_s == 10000);
	assert_true(s.state_bytes_mean == 200);
	assert_int_equal(s.stop_mean_us, 1);
	assert_int_equal(s.copy_mean_us, 2);
	assert_int_equal(s.state_mean_us, 3);
	assert_int_equal(s.resume_mean_us, 4);
	free(pauses);
}

static void test_old_ones_are_forgotten(void **state)
{
	struct pauses *pauses = calloc(1, sizeof(*pauses));
	struct pauses_summary s;

	(void)state;
	add(pauses, 0, 1000000);
	for (int i = 1; i <= PAUSES_KEPT; i++)
		add(pauses, i * 25000, 5);
	pauses_summarize(pauses, &s);
	assert_int_equal(s.epochs, PAUSES_KEPT);
	assert_int_equal(s.pause_max_us, 5);
	assert_true(s.bytes_per_s == 40000);
	free(pauses);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_none),
		cmocka_unit_test(test_figures),
		cmocka_unit_test(test_old_ones_are_forgotten),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
