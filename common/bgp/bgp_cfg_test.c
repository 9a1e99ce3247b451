/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "common/bgp/bgp_cfg.h"
#include "common/log.h"

/* Plays bgpd: notes the commands, refuses those that contain `refuse`. */
struct recorder {
	char log[4096];
	const char *refuse;
};

static int record(void *ctx, const char *context, const char *command, char *why, size_t why_size)
{
	struct recorder *r = ctx;
	size_t n = strlen(r->log);

	if (r->refuse && strstr(command, r->refuse)) {
		snprintf(why, why_size, "refused \"%s\"", command);
		return -1;
	}
	snprintf(r->log + n, sizeof(r->log) - n, "%s%s%s;", context, *context ? "/" : "", command);
	return 0;
}

static void neighbor(struct cfg *cfg, const char *address, int timers)
{
	char head[64], undo[64];

	snprintf(head, sizeof(head), "neighbor %s remote-as 1", address);
	snprintf(undo, sizeof(undo), "no neighbor %s", address);
	cfg_add(cfg, "router bgp 1", NULL, undo, "%s", head);
	snprintf(undo, sizeof(undo), "no neighbor %s timers", address);
	cfg_add(cfg, "router bgp 1", head, undo, "neighbor %s timers %d", address, timers);
	snprintf(undo, sizeof(undo), "no neighbor %s activate", address);
	cfg_add(cfg, "router bgp 1\nfamily", head, undo, "neighbor %s activate", address);
}

static void router(struct cfg *cfg)
{
	cfg_add(cfg, "", NULL, NULL, "router bgp 1");
}

static void expect_change(
	struct cfg *running, struct cfg *wanted, struct recorder *r, const char *commands)
{
	char why[100];

	r->log[0] = '\0';
	assert_int_equal(cfg_change(running, wanted, record, r, why, sizeof(why)), 0);
	assert_string_equal(r->log, commands);
	assert_int_equal(wanted->n, 0);
}

static void test_everything_is_entered_in_order(void **state)
{
	struct cfg running = {0}, wanted = {0};
	struct recorder r = {0};

	(void)state;
	router(&wanted);
	neighbor(&wanted, "A", 3);
	expect_change(&running, &wanted, &r,
		"router bgp 1;router bgp 1/neighbor A remote-as 1;router bgp 1/neighbor A timers 3;"
		"router bgp 1\nfamily/neighbor A activate;");
	assert_int_equal(running.n, 4);
	cfg_free(&running);
}

static void test_what_is_the_same_is_not_touched(void **state)
{
	struct cfg running = {0}, wanted = {0};
	struct recorder r = {0};
	char why[100];

	(void)state;
	router(&wanted);
	neighbor(&wanted, "A", 3);
	neighbor(&wanted, "B", 3);
	assert_int_equal(cfg_change(&running, &wanted, record, &r, why, sizeof(why)), 0);
	router(&wanted);
	neighbor(&wanted, "A", 3);
	neighbor(&wanted, "B", 3);
	expect_change(&running, &wanted, &r, "");
	/* A value is overwritten, not taken back first. */
	router(&wanted);
	neighbor(&wanted, "A", 9);
	neighbor(&wanted, "B", 3);
	expect_change(&running, &wanted, &r, "router bgp 1/neighbor A timers 9;");
	/* Order doesn't matter. */
	router(&wanted);
	neighbor(&wanted, "B", 3);
	neighbor(&wanted, "A", 9);
	expect_change(&running, &wanted, &r, "");
	cfg_free(&running);
}

static void test_a_line_takes_its_belongings_along(void **state)
{
	struct cfg running = {0}, wanted = {0};
	struct recorder r = {0};
	char why[100];

	(void)state;
	router(&wanted);
	neighbor(&wanted, "A", 3);
	neighbor(&wanted, "B", 3);
	assert_int_equal(cfg_change(&running, &wanted, record, &r, why, sizeof(why)), 0);
	router(&wanted);
	neighbor(&wanted, "B", 3);
	expect_change(&running, &wanted, &r, "router bgp 1/no neighbor A;");
	assert_int_equal(running.n, 4);
	/* And when it comes again, so do they. */
	router(&wanted);
	neighbor(&wanted, "A", 3);
	neighbor(&wanted, "B", 3);
	expect_change(&running, &wanted, &r,
		"router bgp 1/neighbor A remote-as 1;router bgp 1/neighbor A timers 3;"
		"router bgp 1\nfamily/neighbor A activate;");
	/* The context itself goes, with everything in it. */
	expect_change(&running, &wanted, &r, "no router bgp 1;");
	assert_int_equal(running.n, 0);
	cfg_free(&running);
}

static void test_contexts_are_told_apart(void **state)
{
	struct cfg running = {0}, wanted = {0};
	struct recorder r = {0};
	char why[100];

	(void)state;
	/* "router bgp 1" is the beginning of "router bgp 11", but not its context. */
	cfg_add(&wanted, "", NULL, NULL, "router bgp 1");
	cfg_add(&wanted, "", NULL, NULL, "router bgp 11");
	cfg_add(&wanted, "router bgp 11", NULL, NULL, "x");
	cfg_add(&wanted, "router bgp 1", NULL, NULL, "x");
	assert_int_equal(cfg_change(&running, &wanted, record, &r, why, sizeof(why)), 0);
	cfg_add(&wanted, "", NULL, NULL, "router bgp 11");
	cfg_add(&wanted, "router bgp 11", NULL, NULL, "x");
	expect_change(&running, &wanted, &r, "no router bgp 1;");
	assert_int_equal(running.n, 2);
	cfg_free(&running);
}

static void test_a_refusal_takes_everything_back(void **state)
{
	struct cfg running = {0}, wanted = {0};
	struct recorder r = {0};
	char why[100];

	(void)state;
	router(&wanted);
	neighbor(&wanted, "A", 3);
	neighbor(&wanted, "B", 3);
	assert_int_equal(cfg_change(&running, &wanted, record, &r, why, sizeof(why)), 0);
	router(&wanted);
	neighbor(&wanted, "A", 5);
	neighbor(&wanted, "C", 3);
	r.log[0] = '\0';
	r.refuse = "neighbor C activate";
	assert_int_equal(cfg_change(&running, &wanted, record, &r, why, sizeof(why)), -1);
	assert_string_equal(why, "refused \"neighbor C activate\"");
	assert_string_equal(r.log,
		"router bgp 1/no neighbor B;router bgp 1/neighbor A timers 5;"
		"router bgp 1/neighbor C remote-as 1;router bgp 1/neighbor C timers 3;"
		"router bgp 1/no neighbor C;router bgp 1/neighbor A timers 3;"
		"router bgp 1/neighbor B remote-as 1;router bgp 1/neighbor B timers 3;"
		"router bgp 1\nfamily/neighbor B activate;");
	assert_int_equal(running.n, 7);
	r.refuse = NULL;
	router(&wanted);
	neighbor(&wanted, "A", 3);
	neighbor(&wanted, "B", 3);
	expect_change(&running, &wanted, &r, "");
	cfg_free(&running);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_everything_is_entered_in_order),
		cmocka_unit_test(test_what_is_the_same_is_not_touched),
		cmocka_unit_test(test_a_line_takes_its_belongings_along),
		cmocka_unit_test(test_contexts_are_told_apart),
		cmocka_unit_test(test_a_refusal_takes_everything_back),
	};

	log_init("bgp_cfg_test");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
