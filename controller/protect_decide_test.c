/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Every combination that matters of what two hostds, a guest and a switch may say. */

#include "controller/protect_decide.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

/* What both hostds say; what isn't given is as of a CVM that is well (fill()). */
#define SAY(p, s, ...)                                                      \
	{                                                                   \
		.primary = PRIMARY_##p, .standby = STANDBY_##s, __VA_ARGS__ \
	}

struct row {
	const char *what;
	struct protect_facts facts;
	enum protect_action action;
	enum failover_why why;
};

#define LOST FAILOVER_SERVER_LOST

static const struct row rows[] = {
	{"all is well", SAY(PROTECTED, HOLDING, ), PROTECT_WAIT, FAILOVER_NONE},
	{"nothing is known yet", SAY(UNKNOWN, HOLDING, ), PROTECT_ASK_PRIMARY, 0},
	{"of the standby neither", SAY(PROTECTED, UNKNOWN, ), PROTECT_ASK_STANDBY, 0},
	{"the first copy", SAY(SYNCING, RECEIVING, ), PROTECT_WAIT, 0},

	/* The primary's own hostd says that it is dead. */
	{"dead", SAY(DEAD, HOLDING, ), PROTECT_TAKE_OVER, FAILOVER_PRIMARY_DEAD},
	{"dead, its hostd after it", SAY(DEAD, LOST, ), PROTECT_TAKE_OVER, FAILOVER_PRIMARY_DEAD},
	/* Nobody went on, so the age of the copy doesn't matter. */
	{"dead, and noticed late", SAY(DEAD, HOLDING, .epoch_age_ms = 60000, .interrupted = true),
		PROTECT_TAKE_OVER, FAILOVER_PRIMARY_DEAD},
	{"dead, the standby is to be asked", SAY(DEAD, UNKNOWN, ), PROTECT_ASK_STANDBY, 0},
	{"dead before the first epoch", SAY(DEAD, RECEIVING, ), PROTECT_START_ANEW, 0},
	{"dead, and so is the standby", SAY(DEAD, ENDED, ), PROTECT_START_ANEW, 0},
	{"dead, and the standby's server is away", SAY(DEAD, UNREACHABLE, ), PROTECT_START_ANEW, 0},
	{"dead, and the standby's hostd knows nothing", SAY(DEAD, ABSENT, ), PROTECT_START_ANEW, 0},

	/* It doesn't answer its hostd. */
	{"silent", SAY(SILENT, HOLDING, ), PROTECT_TAKE_OVER, FAILOVER_PRIMARY_SILENT},
	{"silent for long: still, nothing of it was let go",
		SAY(SILENT, HOLDING, .epoch_age_ms = 60000), PROTECT_TAKE_OVER,
		FAILOVER_PRIMARY_SILENT},
	{"silent, without a copy: it may wake up", SAY(SILENT, ENDED, ), PROTECT_WAIT, 0},
	{"silent, the standby is to be asked", SAY(SILENT, UNKNOWN, ), PROTECT_ASK_STANDBY, 0},

	/* It goes on without its standby: never activate that. */
	{"unprotected", SAY(UNPROTECTED, HOLDING, ), PROTECT_BEGIN_ANEW, 0},
	{"unprotected, however good the copy looks, and whatever is asked",
		SAY(UNPROTECTED, HOLDING, .asked = true, .trunk_down = true, .epoch_age_ms = 1),
		PROTECT_BEGIN_ANEW, 0},
	{"unprotected, and the standby is lost", SAY(UNPROTECTED, LOST, ), PROTECT_BEGIN_ANEW, 0},
	{"its hostd was restarted", SAY(FREE, HOLDING, ), PROTECT_BEGIN_ANEW, 0},
	{"its hostd was restarted, its trunk is down", SAY(FREE, HOLDING, .trunk_down = true),
		PROTECT_BEGIN_ANEW, 0},

	/* The standby runs already. */
	{"superseded", SAY(SUPERSEDED, ACTIVE, ), PROTECT_TAKE_OVER, FAILOVER_PRIMARY_SILENT},
	{"superseded, the standby is to be asked", SAY(SUPERSEDED, UNKNOWN, ), PROTECT_ASK_STANDBY,
		0},

	/* The standby hears nothing, but the primary's hostd says that all is well. */
	{"a silent link", SAY(PROTECTED, HOLDING, .silent = true), PROTECT_WAIT, 0},
	{"a lost link", SAY(PROTECTED, LOST, ), PROTECT_WAIT, 0},
	{"a void standby: its hostd will notice", SAY(PROTECTED, ENDED, ), PROTECT_WAIT, 0},
	{"a standby's server that is away", SAY(PROTECTED, UNREACHABLE, ), PROTECT_WAIT, 0},

	/* Its hostd is gone: the guest is asked. */
	{"no hostd", SAY(REFUSED, HOLDING, ), PROTECT_ASK_GUEST, 0},
	{"no hostd, the guest lives: it was let go", SAY(REFUSED, HOLDING, .guest = GUEST_ANSWERS),
		PROTECT_BEGIN_ANEW, 0},
	{"no hostd, the guest is slow: it was let go", SAY(REFUSED, HOLDING, .guest = GUEST_SLOW),
		PROTECT_BEGIN_ANEW, 0},
	{"no hostd, no guest", SAY(REFUSED, HOLDING, .guest = GUEST_GONE), PROTECT_TAKE_OVER, LOST},
	{"the same, and the link is lost", SAY(REFUSED, LOST, .guest = GUEST_GONE),
		PROTECT_TAKE_OVER, LOST},
	{"nobody, for whom the standby is still to be asked",
		SAY(REFUSED, UNKNOWN, .guest = GUEST_GONE), PROTECT_ASK_STANDBY, 0},

	/* Its hostd doesn't answer. */
	{"hostd hangs", SAY(HANGS, HOLDING, .silent = true), PROTECT_ASK_GUEST, 0},
	{"hostd hangs, the guest lives: hostd's word counts, when it comes",
		SAY(HANGS, HOLDING, .silent = true, .guest = GUEST_ANSWERS, .unheard_ms = 60000),
		PROTECT_WAIT, 0},
	{"a silent server",
		SAY(HANGS, HOLDING, .silent = true, .guest = GUEST_SLOW, .epoch_age_ms = 850),
		PROTECT_TAKE_OVER, LOST},
	{"a silent server, libvirt noticed",
		SAY(HANGS, HOLDING, .silent = true, .guest = GUEST_GONE), PROTECT_TAKE_OVER, LOST},

	/* Who was silent for too long may have gone on without its standby. */
	{"at the limit", SAY(HANGS, HOLDING, .guest = GUEST_SLOW, .epoch_age_ms = 1000),
		PROTECT_TAKE_OVER, LOST},
	{"beyond it: perhaps all are just slow",
		SAY(HANGS, HOLDING, .guest = GUEST_SLOW, .epoch_age_ms = 1001, .unheard_ms = 900),
		PROTECT_WAIT, 0},
	{"beyond it, and nobody comes back",
		SAY(HANGS, HOLDING, .guest = GUEST_SLOW, .epoch_age_ms = 6000,
			.unheard_ms = PROTECT_LOST_MS),
		PROTECT_START_ANEW, 0},
	{"a server that is long gone",
		SAY(REFUSED, LOST, .guest = GUEST_GONE, .epoch_age_ms = 9000,
			.unheard_ms = PROTECT_LOST_MS),
		PROTECT_START_ANEW, 0},
	{"a longer interval may make an older copy",
		SAY(REFUSED, HOLDING, .guest = GUEST_GONE, .interval_ms = 1000,
			.epoch_age_ms = 1400),
		PROTECT_TAKE_OVER, LOST},
	{"but not that old",
		SAY(REFUSED, HOLDING, .guest = GUEST_GONE, .interval_ms = 1000,
			.epoch_age_ms = 1600),
		PROTECT_WAIT, 0},
	/* Its primary saw the link end, and went on, whatever age the copy has. */
	{"the standby's hostd was away meanwhile",
		SAY(REFUSED, HOLDING, .guest = GUEST_GONE, .interrupted = true), PROTECT_WAIT, 0},
	{"no copy at all",
		SAY(REFUSED, RECEIVING, .guest = GUEST_GONE, .unheard_ms = PROTECT_LOST_MS),
		PROTECT_START_ANEW, 0},
	{"a take-over that got no further", /* whatever its age */
		SAY(REFUSED, ACTIVE, .guest = GUEST_GONE, .epoch_age_ms = 60000), PROTECT_TAKE_OVER,
		LOST},
	{"nobody answers at all: it may be due to us",
		SAY(HANGS, UNREACHABLE, .guest = GUEST_GONE, .unheard_ms = 600000), PROTECT_WAIT,
		0},

	/* The switch sees the primary's server go. */
	{"trunk down", SAY(PROTECTED, HOLDING, .trunk_down = true), PROTECT_TAKE_OVER,
		FAILOVER_TRUNK_DOWN},
	{"trunk down, the link too", SAY(PROTECTED, HOLDING, .trunk_down = true, .silent = true),
		PROTECT_TAKE_OVER, FAILOVER_TRUNK_DOWN},
	{"both trunks down",
		SAY(PROTECTED, HOLDING, .trunk_down = true, .standby_trunk_down = true),
		PROTECT_WAIT, 0},
	{"trunk down, nothing whole", SAY(SYNCING, RECEIVING, .trunk_down = true), PROTECT_WAIT, 0},
	{"trunk down, no standby", SAY(PROTECTED, ENDED, .trunk_down = true), PROTECT_WAIT, 0},
	{"trunk down, hostd is to be asked", SAY(UNKNOWN, HOLDING, .trunk_down = true),
		PROTECT_ASK_PRIMARY, 0},
	{"the standby's trunk is down", SAY(PROTECTED, HOLDING, .standby_trunk_down = true),
		PROTECT_WAIT, 0},

	/* The operator asks. */
	{"asked", SAY(PROTECTED, HOLDING, .asked = true), PROTECT_TAKE_OVER, FAILOVER_ASKED},
	{"asked in vain: not whole", SAY(SYNCING, HOLDING, .asked = true), PROTECT_WAIT, 0},
	{"asked in vain: no standby",
		SAY(PROTECTED, HOLDING, .asked = true, .standby_trunk_down = true), PROTECT_WAIT,
		0},
	{"asked, but it died", SAY(DEAD, HOLDING, .asked = true), PROTECT_TAKE_OVER,
		FAILOVER_PRIMARY_DEAD},
};

static struct protect_facts fill(struct protect_facts facts)
{
	facts.timeout_ms = 1000;
	if (facts.interval_ms == 0)
		facts.interval_ms = 100;
	if (facts.epoch_age_ms == 0)
		facts.epoch_age_ms = 90;
	return facts;
}

static void test_table(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		enum failover_why why = FAILOVER_ASKED;
		const struct protect_facts facts = fill(rows[i].facts);
		enum protect_action action = protect_decide(&facts, &why);
		if (action != rows[i].action || why != rows[i].why)
			fail_msg("%s: action %d, why %d; wanted %d, %d", rows[i].what, (int)action,
				(int)why, (int)rows[i].action, (int)rows[i].why);
	}
}

/* Calls `check` for all combinations of what others say. */
static void for_all(void (*check)(const struct protect_facts *facts))
{
	for (unsigned bits = 0; bits < 64; bits++) {
		for (int primary = PRIMARY_UNKNOWN; primary <= PRIMARY_SUPERSEDED; primary++) {
			for (int standby = STANDBY_UNKNOWN; standby <= STANDBY_ENDED; standby++) {
				for (int guest = GUEST_UNKNOWN; guest <= GUEST_GONE; guest++) {
					const struct protect_facts facts = {
						.primary = (enum protect_primary)primary,
						.standby = (enum protect_standby)standby,
						.guest = (enum protect_guest)guest,
						.silent = bits & 1,
						.interrupted = bits & 2,
						.trunk_down = bits & 4,
						.standby_trunk_down = bits & 8,
						.asked = bits & 16,
						.epoch_age_ms = bits & 32 ? 5000 : 100,
						.unheard_ms = PROTECT_LOST_MS,
						.interval_ms = 100,
						.timeout_ms = 1000,
					};
					check(&facts);
				}
			}
		}
	}
}

static bool runs_alone(const struct protect_facts *facts)
{
	return facts->primary == PRIMARY_UNPROTECTED || facts->primary == PRIMARY_FREE;
}

/* What must hold whatever is said. */
static void check_rules(const struct protect_facts *facts)
{
	enum failover_why why;
	enum protect_action action = protect_decide(facts, &why);
	bool copy = facts->standby == STANDBY_HOLDING || facts->standby == STANDBY_LOST ||
		    facts->standby == STANDBY_ACTIVE;
	bool hidden = facts->primary == PRIMARY_REFUSED || facts->primary == PRIMARY_HANGS;
	assert_true((action == PROTECT_TAKE_OVER) == (why != FAILOVER_NONE));
	if (action == PROTECT_TAKE_OVER) {
		assert_true(copy);
		assert_false(runs_alone(facts));
		assert_true(protect_may_activate(facts, why));
		/* Its age doesn't matter only where the primary is known not to have gone on. */
		if (hidden && facts->standby != STANDBY_ACTIVE)
			assert_true(
				facts->epoch_age_ms <= facts->timeout_ms && !facts->interrupted);
		if (hidden)
			assert_true(facts->guest == GUEST_GONE || facts->guest == GUEST_SLOW);
	}
	/* A CVM that may run somewhere isn't started afresh elsewhere. */
	if (action == PROTECT_START_ANEW)
		assert_true(facts->primary == PRIMARY_DEAD ||
			    facts->primary == PRIMARY_SUPERSEDED ||
			    (hidden && facts->guest >= GUEST_SLOW));
	if (action == PROTECT_BEGIN_ANEW)
		assert_true(runs_alone(facts) || facts->primary == PRIMARY_REFUSED);
	/* Nobody is asked who has answered. */
	if (action == PROTECT_ASK_PRIMARY)
		assert_int_equal(facts->primary, PRIMARY_UNKNOWN);
	if (action == PROTECT_ASK_STANDBY)
		assert_int_equal(facts->standby, STANDBY_UNKNOWN);
	if (action == PROTECT_ASK_GUEST)
		assert_int_equal(facts->guest, GUEST_UNKNOWN);
}

static void test_rules(void **state)
{
	(void)state;
	for_all(check_rules);
}

static void test_after_the_fence(void **state)
{
	(void)state;
	struct protect_facts facts = SAY(PROTECTED, HOLDING, );
	assert_true(protect_may_activate(&facts, FAILOVER_ASKED));
	facts.primary = PRIMARY_REFUSED;
	assert_true(protect_may_activate(&facts, FAILOVER_TRUNK_DOWN));
	facts.primary = PRIMARY_UNPROTECTED;
	assert_false(protect_may_activate(&facts, FAILOVER_TRUNK_DOWN));
	facts.primary = PRIMARY_FREE;
	assert_false(protect_may_activate(&facts, FAILOVER_PRIMARY_SILENT));
	/* Dead is dead. */
	assert_true(protect_may_activate(&facts, FAILOVER_PRIMARY_DEAD));
}

static void test_words_of_hostd(void **state)
{
	(void)state;
	assert_int_equal(protect_primary_parse("primary-dead"), PRIMARY_DEAD);
	assert_int_equal(protect_primary_parse("superseded"), PRIMARY_SUPERSEDED);
	assert_int_equal(protect_primary_parse("protected"), PRIMARY_PROTECTED);
	assert_int_equal(protect_primary_parse("well"), PRIMARY_UNKNOWN);
	assert_int_equal(protect_primary_parse(NULL), PRIMARY_UNKNOWN);
	assert_int_equal(protect_standby_parse("waiting"), STANDBY_RECEIVING);
	assert_int_equal(protect_standby_parse("receiving"), STANDBY_RECEIVING);
	assert_int_equal(protect_standby_parse("lost"), STANDBY_LOST);
	assert_int_equal(protect_standby_parse(""), STANDBY_UNKNOWN);
	assert_int_equal(protect_standby_parse(NULL), STANDBY_UNKNOWN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_rules),
		cmocka_unit_test(test_after_the_fence),
		cmocka_unit_test(test_words_of_hostd),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
