/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "image/supervisor.h"

#define LIMIT_S 30

/* ---- waiting for what a supervisor does ---------------------------------------------------- */

static cJSON *process(const struct supervisor *sv, const char *name)
{
	cJSON *list = supervisor_list(sv), *item, *found = NULL;

	cJSON_ArrayForEach (item, list) {
		const cJSON *key = cJSON_GetObjectItem(item, "name");

		if (strcmp(key->valuestring, name) == 0)
			found = cJSON_Duplicate(item, true);
	}
	cJSON_Delete(list);
	assert_non_null(found);
	return found;
}

static double field(const struct supervisor *sv, const char *name, const char *key)
{
	cJSON *item = process(sv, name);
	const cJSON *value = cJSON_GetObjectItem(item, key);
	double number = cJSON_IsBool(value) ? cJSON_IsTrue(value) : value->valuedouble;

	cJSON_Delete(item);
	return number;
}

/* How many of the program's kept lines hold `text`. */
static unsigned lines_with(const struct supervisor *sv, const char *name, const char *text)
{
	cJSON *log = supervisor_log(sv, name, SUPERVISOR_LOG_LINES), *line;
	unsigned n = 0;

	cJSON_ArrayForEach (line, log) {
		n += strstr(line->valuestring, text) != NULL;
	}
	cJSON_Delete(log);
	return n;
}

static void step(struct supervisor *sv, time_t deadline)
{
	struct pollfd p = {.fd = supervisor_fd(sv), .events = POLLIN};

	if (time(NULL) > deadline)
		fail_msg("not within %d s", LIMIT_S);
	poll(&p, 1, 1000);
	supervisor_run(sv);
}

#define RUN_UNTIL(sv, condition)                        \
	do {                                            \
		time_t deadline = time(NULL) + LIMIT_S; \
		while (!(condition))                    \
			step(sv, deadline);             \
	} while (0)

static struct supervisor *create(void)
{
	struct supervisor *sv = supervisor_create(NULL, NULL);

	assert_non_null(sv);
	return sv;
}

/* ---- tests --------------------------------------------------------------------------------- */

static void starts_again_what_ends(void **state)
{
	static char *const argv[] = {"/bin/sh", "-c", "echo begin; exit 3", NULL};
	struct supervisor *sv = create();

	(void)state;
	assert_int_equal(supervisor_add(sv, "short", argv, 0), 0);
	RUN_UNTIL(sv, lines_with(sv, "short", "begin") >= 4);
	assert_true(field(sv, "short", "restarts") >= 3);
	/* At once, then later and later. */
	assert_int_equal(lines_with(sv, "short", "status=3"), field(sv, "short", "restarts"));
	assert_int_equal(lines_with(sv, "short", "restart_in_ms=0"), 1);
	assert_int_equal(lines_with(sv, "short", "restart_in_ms=100"), 1);
	assert_int_equal(lines_with(sv, "short", "restart_in_ms=200"), 1);
	supervisor_destroy(sv);
}

static void starts_again_what_is_killed(void **state)
{
	static char *const argv[] = {"/bin/sh", "-c", "echo up; exec sleep 1000", NULL};
	struct supervisor *sv = create();
	pid_t first;

	(void)state;
	assert_int_equal(supervisor_add(sv, "long", argv, 0), 0);
	RUN_UNTIL(sv, lines_with(sv, "long", "up") == 1);
	first = (pid_t)field(sv, "long", "pid");
	assert_int_equal(supervisor_signal(sv, "long", SIGKILL), 0);
	RUN_UNTIL(sv, lines_with(sv, "long", "up") == 2);
	assert_int_equal(field(sv, "long", "restarts"), 1);
	assert_true(field(sv, "long", "running") != 0);
	assert_int_not_equal(field(sv, "long", "pid"), first);
	assert_int_equal(lines_with(sv, "long", "signal=9"), 1);
	supervisor_destroy(sv);
}

static void names_what_is_not_there(void **state)
{
	static char *const argv[] = {"/does/not/exist", NULL};
	struct supervisor *sv = create();

	(void)state;
	assert_int_equal(supervisor_signal(sv, "nobody", SIGKILL), ENOENT);
	assert_null(supervisor_log(sv, "nobody", 10));
	assert_int_equal(errno, ENOENT);
	assert_int_equal(supervisor_add(sv, "absent", argv, 0), 0);
	RUN_UNTIL(sv, lines_with(sv, "absent", "status=127") >= 2);
	assert_true(lines_with(sv, "absent", "can't be executed") >= 2);
	/* It waits for its next start: nothing is there to be signalled. */
	assert_int_equal(supervisor_signal(sv, "absent", SIGKILL), ESRCH);
	assert_true(field(sv, "absent", "running") == 0);
	supervisor_destroy(sv);
}

static void keeps_the_newest_lines_only(void **state)
{
	static char *const argv[] = {"/bin/sh", "-c",
		/* The last line and the unfinished one come in one write: who sees one has both. */
		"i=0; while [ $i -lt 699 ]; do echo line$i.; i=$((i+1)); done; "
		"printf 'line699.\\na\\001b'; exec sleep 1000",
		NULL};
	static char *const wide[] = {"/bin/sh", "-c",
		"head -c 3000 /dev/zero | tr '\\0' x; echo; exec sleep 1000", NULL};
	struct supervisor *sv = create();
	cJSON *log;

	(void)state;
	assert_int_equal(supervisor_add(sv, "chatty", argv, 0), 0);
	RUN_UNTIL(sv, lines_with(sv, "chatty", "line699.") == 1);
	log = supervisor_log(sv, "chatty", 100000);
	assert_int_equal(cJSON_GetArraySize(log), SUPERVISOR_LOG_LINES);
	assert_string_equal(cJSON_GetArrayItem(log, 0)->valuestring, "line200.");
	cJSON_Delete(log);
	log = supervisor_log(sv, "chatty", 2);
	assert_int_equal(cJSON_GetArraySize(log), 2);
	assert_string_equal(cJSON_GetArrayItem(log, 0)->valuestring, "line698.");
	cJSON_Delete(log);
	/* A line without its end is kept when the program ends. */
	assert_int_equal(lines_with(sv, "chatty", "a?b"), 0);
	assert_int_equal(supervisor_signal(sv, "chatty", SIGTERM), 0);
	RUN_UNTIL(sv, lines_with(sv, "chatty", "a?b") == 1);
	assert_int_equal(supervisor_add(sv, "wide", wide, 0), 0);
	RUN_UNTIL(sv, lines_with(sv, "wide", "x") == 3);
	supervisor_destroy(sv);
}

static void ends_all_when_destroyed(void **state)
{
	static char *const argv[] = {
		"/bin/sh", "-c", "trap '' TERM; echo up; exec sleep 1000", NULL};
	struct supervisor *sv = create();
	pid_t pid;

	(void)state;
	assert_int_equal(supervisor_add(sv, "stubborn", argv, 0), 0);
	RUN_UNTIL(sv, lines_with(sv, "stubborn", "up") == 1);
	pid = (pid_t)field(sv, "stubborn", "pid");
	supervisor_destroy(sv);
	assert_int_equal(kill(pid, 0), -1);
	supervisor_destroy(NULL);
}

static void kills_what_gives_no_sign_of_life(void **state)
{
	static char *const argv[] = {"/bin/sh", "-c", "echo begin; exec sleep 1000", NULL};
	struct supervisor *sv = create();

	(void)state;
	assert_int_equal(supervisor_expect_beats(sv, "silent", 20), ENOENT);
	assert_int_equal(supervisor_beat(sv, "silent"), ENOENT);
	assert_int_equal(supervisor_add(sv, "silent", argv, 0), 0);
	assert_int_equal(supervisor_add(sv, "free", argv, 0), 0);
	assert_int_equal(supervisor_expect_beats(sv, "silent", 20), 0);
	RUN_UNTIL(sv, lines_with(sv, "silent", "begin") == 1);
	/* Stopped, it can't end by itself; the other one is not expected to say anything. */
	assert_int_equal(supervisor_signal(sv, "silent", SIGSTOP), 0);
	assert_int_equal(supervisor_beat(sv, "silent"), 0);
	assert_int_equal(supervisor_beat(sv, "free"), 0);
	RUN_UNTIL(sv, lines_with(sv, "silent", "begin") == 2);
	assert_int_equal(lines_with(sv, "silent", "no sign of life for 60 ms: it is killed"), 1);
	assert_int_equal(lines_with(sv, "silent", "signal=9"), 1);
	assert_int_equal(field(sv, "free", "restarts"), 0);
	supervisor_destroy(sv);
}

/* Who was away himself for longer than all of them takes together. */
static void blames_nobody_for_its_own_absence(void **state)
{
	static char *const argv[] = {"/bin/sh", "-c", "echo up; exec sleep 1000", NULL};
	struct supervisor *sv = create();

	(void)state;
	assert_int_equal(supervisor_add(sv, "well", argv, 0), 0);
	assert_int_equal(supervisor_expect_beats(sv, "well", 100), 0);
	RUN_UNTIL(sv, lines_with(sv, "well", "up") == 1);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(supervisor_beat(sv, "well"), 0);
		poll(NULL, 0, 100 * (SUPERVISOR_MISSED + 2));
		supervisor_run(sv);
	}
	assert_int_equal(field(sv, "well", "restarts"), 0);
	assert_int_equal(lines_with(sv, "well", "no sign of life"), 0);
	supervisor_destroy(sv);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(starts_again_what_ends),
		cmocka_unit_test(starts_again_what_is_killed),
		cmocka_unit_test(names_what_is_not_there),
		cmocka_unit_test(keeps_the_newest_lines_only),
		cmocka_unit_test(ends_all_when_destroyed),
		cmocka_unit_test(kills_what_gives_no_sign_of_life),
		cmocka_unit_test(blames_nobody_for_its_own_absence),
	};

	return cmocka_run_group_tests_name("supervisor", tests, NULL, NULL);
}
