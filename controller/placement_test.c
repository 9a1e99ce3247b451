/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/placement.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#define TEST(fn) cmocka_unit_test(fn)
#define GIB (UINT64_C(1) << 20)

static struct risks risks_of(const char *text)
{
	struct risks risks = {.n = 0};
	char copy[256], *save = NULL;
	snprintf(copy, sizeof(copy), "%s", text);
	for (char *name = strtok_r(copy, " ", &save); name; name = strtok_r(NULL, " ", &save))
		snprintf(risks.name[risks.n++], MODEL_RISK_SIZE, "%s", name);
	return risks;
}

/* Four servers: two racks, each with a feed of its own; the fourth is of no known rack. */
struct site_of_four {
	struct risks risks[4];
	struct placement_server servers[4];
	struct placement_other others[8];
	struct placement_request request;
};

static struct site_of_four *make(struct site_of_four *s)
{
	static const char *const names[] = {"one", "two", "three", "four"};
	static const char *const racks[] = {"rack=1 feed=a", "rack=1 feed=b", "rack=2 feed=b", ""};
	memset(s, 0, sizeof(*s));
	for (size_t i = 0; i < 4; i++) {
		s->risks[i] = risks_of(racks[i]);
		s->servers[i] = (struct placement_server){.id = (int64_t)i + 1,
			.name = names[i],
			.reachable = true,
			.memory_kib = 4 * GIB,
			.risks = &s->risks[i]};
	}
	s->request = (struct placement_request){
		.need_kib = GIB / 4, .wanted = "", .site = "a", .others = s->others};
	return s;
}

static void keep_from(
	struct site_of_four *s, enum placement_kind kind, int64_t server_id, const char *name)
{
	struct placement_other *other = &s->others[s->request.n_others++];
	other->kind = kind;
	other->server_id = server_id;
	snprintf(other->name, sizeof(other->name), "%s", name);
}

static const char *choose(struct site_of_four *s, struct problem *problem)
{
	struct problem ignored = {0};
	int i = placement_choose(s->servers, 4, &s->request, problem != NULL ? problem : &ignored);
	return i < 0 ? "" : s->servers[i].name;
}

static void test_load_decides_among_equals(void **state)
{
	struct site_of_four s;
	(void)state;
	/* Without known risks: the first of equals, then the emptiest by share, not by bytes. */
	make(&s);
	for (size_t i = 0; i < 4; i++)
		s.risks[i].n = 0;
	assert_string_equal(choose(&s, NULL), "one");
	s.servers[0].used_kib = s.servers[1].used_kib = s.servers[2].used_kib = GIB;
	s.servers[3].used_kib = GIB + GIB / 2;
	assert_string_equal(choose(&s, NULL), "one");
	s.servers[3].memory_kib = 8 * GIB;
	assert_string_equal(choose(&s, NULL), "four");
}

static void test_a_loaded_rack_is_left_alone(void **state)
{
	struct site_of_four s;
	(void)state;
	make(&s)->servers[0].used_kib = GIB;
	s.servers[3].used_kib = 2 * GIB;
	/* "two" is as empty as "three", but its rack isn't. */
	assert_string_equal(choose(&s, NULL), "three");
	s.servers[2].used_kib = 3 * GIB;
	assert_string_equal(choose(&s, NULL), "one");
}

static void test_what_cannot_be_is_never_chosen(void **state)
{
	struct site_of_four s;
	struct problem problem = {0};
	(void)state;
	make(&s)->servers[0].drained = true;
	s.servers[1].reachable = false;
	s.servers[2].used_kib = s.servers[2].memory_kib - GIB / 4 + 1;
	assert_string_equal(choose(&s, NULL), "four");
	s.servers[2].used_kib--; /* it just fits, but the other is emptier */
	assert_string_equal(choose(&s, NULL), "four");
	s.servers[3].barred = "it is there now";
	assert_string_equal(choose(&s, NULL), "three");
	s.servers[2].used_kib++;
	assert_string_equal(choose(&s, &problem), "");
	assert_int_equal(problem.status, 409);
	assert_string_equal(problem.type, "exhausted");
}

static void test_why_none_is_possible(void **state)
{
	struct site_of_four s;
	struct problem drained = {0}, away = {0}, barred = {0}, none = {0};
	(void)state;
	make(&s);
	for (size_t i = 0; i < 4; i++)
		s.servers[i].drained = true;
	choose(&s, &drained);
	assert_string_equal(drained.type, "out-of-service");
	s.servers[2] = (struct placement_server){.name = "three", .risks = &s.risks[2]};
	choose(&s, &away);
	assert_int_equal(away.status, 503);
	for (size_t i = 0; i < 4; i++)
		s.servers[i].barred = "it is there now";
	choose(&s, &barred);
	assert_string_equal(barred.type, "not-ready");
	assert_int_equal(placement_choose(s.servers, 0, &s.request, &none), -1);
	assert_string_equal(none.type, "not-ready");
}

static void test_the_one_that_is_wanted(void **state)
{
	struct site_of_four s;
	struct problem problem = {0}, unknown = {0}, barred = {0};
	(void)state;
	make(&s)->request.wanted = "two";
	s.servers[1].used_kib = 3 * GIB;
	keep_from(&s, PLACEMENT_CUSTOMER, 2, "port/green-b");
	assert_string_equal(choose(&s, NULL), "two");
	s.servers[1].used_kib = 4 * GIB;
	assert_string_equal(choose(&s, &problem), "");
	assert_string_equal(problem.type, "exhausted");
	s.servers[1].barred = "the CVM itself is there";
	choose(&s, &barred);
	assert_string_equal(barred.errors[0].field, "/server");
	s.request.wanted = "five";
	choose(&s, &unknown);
	assert_string_equal(unknown.errors[0].field, "/server");
}

static void test_apart_from_the_same_server_first_then_from_the_same_rack(void **state)
{
	struct site_of_four s;
	(void)state;
	make(&s);
	keep_from(&s, PLACEMENT_CUSTOMER, 1, "port/green-b");
	s.servers[2].used_kib = s.servers[3].used_kib = 3 * GIB; /* load comes last */
	s.servers[2].used_kib += GIB / 2;
	assert_string_equal(choose(&s, NULL), "four");
	s.servers[3].drained = true;
	assert_string_equal(choose(&s, NULL), "three");
	s.servers[2].drained = true; /* the same rack is better than the same server */
	assert_string_equal(choose(&s, NULL), "two");
	s.servers[1].drained = true;
	assert_string_equal(choose(&s, NULL), "one");
}

static void test_fewer_shared_risks_are_better(void **state)
{
	struct site_of_four s;
	(void)state;
	make(&s);
	keep_from(&s, PLACEMENT_STANDBY, 1, "its standby");
	s.servers[0].drained = s.servers[3].drained = true;
	s.risks[2] = risks_of("rack=1 feed=a");
	assert_string_equal(choose(&s, NULL), "two");
}

static void test_the_graver_rule_wins(void **state)
{
	struct site_of_four s;
	(void)state;
	make(&s);
	s.servers[1].drained = s.servers[3].drained = true;
	keep_from(&s, PLACEMENT_CUSTOMER, 1, "port/green-b");
	assert_string_equal(choose(&s, NULL), "three");
	keep_from(&s, PLACEMENT_STANDBY, 3, "its standby");
	assert_string_equal(choose(&s, NULL), "one");
	/* However many of the lesser kind there are. */
	for (int i = 0; i < 5; i++)
		keep_from(&s, PLACEMENT_CUSTOMER, 1, "port/green-c");
	assert_string_equal(choose(&s, NULL), "one");
}

static void test_one_spare_apart_is_enough(void **state)
{
	struct site_of_four s;
	struct placement_verdict verdicts[4];
	(void)state;
	make(&s);
	keep_from(&s, PLACEMENT_SPARE, 1, "spare/1");
	assert_string_equal(choose(&s, NULL), "three");
	placement_judge(s.servers, 4, &s.request, verdicts);
	assert_int_equal(verdicts[0].same[PLACEMENT_SPARE], 1);
	assert_int_equal(verdicts[1].shared[PLACEMENT_SPARE], 1);
	keep_from(&s, PLACEMENT_SPARE, 3, "spare/2");
	placement_judge(s.servers, 4, &s.request, verdicts);
	assert_int_equal(verdicts[0].same[PLACEMENT_SPARE], 0);
	assert_int_equal(verdicts[0].shared[PLACEMENT_SPARE], 0);
	assert_int_equal(verdicts[1].shared[PLACEMENT_SPARE], 1); /* its rack, or its feed */
	assert_string_equal(choose(&s, NULL), "one");
	s.others[1].server_id = 99; /* another site's */
	assert_string_equal(choose(&s, NULL), "three");
}

static void test_the_rack_of_what_failed(void **state)
{
	struct site_of_four s;
	(void)state;
	make(&s)->servers[0].barred = "it failed there";
	keep_from(&s, PLACEMENT_FAILED, 1, "what failed");
	s.servers[2].used_kib = s.servers[3].used_kib = 3 * GIB;
	assert_string_equal(choose(&s, NULL), "three");
}

static void test_a_void_copy_matters_where_it_is_only(void **state)
{
	struct site_of_four s;
	(void)state;
	keep_from(make(&s), PLACEMENT_VOID, 1, "a former copy of it");
	assert_string_equal(choose(&s, NULL), "two");
}

/* ---- what is told ------------------------------------------------------------------------- */

struct heard {
	size_t n_for, n_against, n_unmet;
	char all[2048];
};

static void hear(void *ctx, enum placement_say say, const char *text)
{
	struct heard *heard = ctx;
	size_t len = strlen(heard->all);
	heard->n_for += say == PLACEMENT_FOR;
	heard->n_against += say == PLACEMENT_AGAINST;
	heard->n_unmet += say == PLACEMENT_UNMET;
	snprintf(heard->all + len, sizeof(heard->all) - len, "%s\n", text);
}

static struct heard told_of(const struct site_of_four *s, size_t at)
{
	struct heard heard = {.n_for = 0};
	placement_tell(s->servers, 4, &s->request, at, hear, &heard);
	return heard;
}

static void test_what_is_told(void **state)
{
	struct site_of_four s;
	(void)state;
	make(&s);
	keep_from(&s, PLACEMENT_CUSTOMER, 1, "port/green-b");
	keep_from(&s, PLACEMENT_SPARE, 2, "spare/1");
	keep_from(&s, PLACEMENT_VOID, 3, "a former copy of it");
	struct heard one = told_of(&s, 0), two = told_of(&s, 1), three = told_of(&s, 2),
		     four = told_of(&s, 3);
	assert_int_equal(one.n_unmet, 2); /* the customer's other port, and the spare's rack */
	assert_non_null(strstr(one.all, "port/green-b is on the same server"));
	assert_non_null(strstr(one.all, "every spare on another server shares a risk"));
	assert_int_equal(two.n_unmet, 2);
	assert_non_null(strstr(two.all, "port/green-b, on one, shares rack=1 "));
	assert_non_null(strstr(two.all, "every spare that could stand in for it is on two"));
	assert_int_equal(three.n_against, 1);
	assert_int_equal(three.n_unmet, 1); /* the spare's feed */
	assert_int_equal(four.n_unmet, 0);
	assert_int_equal(four.n_for, 3);
	s.servers[3].reachable = false;
	assert_non_null(strstr(told_of(&s, 3).all, "not connected"));
}

static void test_why_not_another(void **state)
{
	struct site_of_four s;
	char text[256];
	(void)state;
	make(&s);
	keep_from(&s, PLACEMENT_CUSTOMER, 1, "port/green-b");
	placement_why_not(s.servers, 4, &s.request, 3, 0, text, sizeof(text));
	assert_string_equal(text, "port/green-b is on one (of the same customer)");
	placement_why_not(s.servers, 4, &s.request, 3, 1, text, sizeof(text));
	assert_non_null(strstr(text, "two would share rack=1 with port/green-b, on one"));
	s.servers[2].used_kib = GIB;
	placement_why_not(s.servers, 4, &s.request, 3, 2, text, sizeof(text));
	assert_non_null(strstr(text, "three would have"));
	placement_why_not(s.servers, 4, &s.request, 0, 3, text, sizeof(text));
	assert_non_null(strstr(text, "four would be better"));
	s.servers[2].drained = true;
	placement_why_not(s.servers, 4, &s.request, 3, 2, text, sizeof(text));
	assert_string_equal(text, "three is drained");
	s.servers[2].barred = "it has no spare";
	placement_why_not(s.servers, 4, &s.request, 3, 2, text, sizeof(text));
	assert_string_equal(text, "three: it has no spare");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_load_decides_among_equals),
		TEST(test_a_loaded_rack_is_left_alone),
		TEST(test_what_cannot_be_is_never_chosen),
		TEST(test_why_none_is_possible),
		TEST(test_the_one_that_is_wanted),
		TEST(test_apart_from_the_same_server_first_then_from_the_same_rack),
		TEST(test_fewer_shared_risks_are_better),
		TEST(test_the_graver_rule_wins),
		TEST(test_one_spare_apart_is_enough),
		TEST(test_the_rack_of_what_failed),
		TEST(test_a_void_copy_matters_where_it_is_only),
		TEST(test_what_is_told),
		TEST(test_why_not_another),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
