/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/heal_decide.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "controller/heal.h"

/* A server that answers all its questions. */
static struct heal_server_facts well(void)
{
	return (struct heal_server_facts){
		.has_hostd = true, .heard = true, .hostd_silent_ms = 10, .trunk_known = true};
}

/* ... and one of which nothing is heard, since long ago. */
static struct heal_server_facts silent(void)
{
	struct heal_server_facts facts = well();
	facts.hostd_silent_ms = facts.silent_ms = HEAL_SILENT_MS;
	facts.libvirt_silent = facts.counted = true;
	return facts;
}

static void test_a_server_that_answers(void **state)
{
	(void)state;
	struct heal_server_facts facts = well();
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_WELL);
	facts.libvirt_silent = true; /* libvirtd is restarted */
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_WELL);
	facts.silent_ms = 60000; /* an idle one without guests */
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_WELL);
	facts = well();
	facts.hostd_silent_ms = 60000; /* hostd is restarted, or has died */
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_WELL);
}

static void test_a_silent_server(void **state)
{
	(void)state;
	struct heal_server_facts facts = silent();
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_DEAD);
	facts.silent_ms--;
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_DOUBTED);
	facts = silent();
	facts.libvirt_silent = false;
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_DOUBTED);
	facts = silent();
	facts.counted = false; /* the switch was not asked, or isn't connected */
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_DOUBTED);
	facts = silent();
	facts.forwards = true; /* only our way to it is broken */
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_HIDDEN);
	facts.silent_ms = 3600000;
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_HIDDEN);
}

static void test_a_server_that_was_never_heard(void **state)
{
	(void)state;
	struct heal_server_facts facts = silent();
	facts.heard = false;
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_DOUBTED);
	facts.silent_ms = facts.hostd_silent_ms = HEAL_START_MS;
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_DEAD);
}

static void test_a_server_without_hostd(void **state)
{
	(void)state;
	struct heal_server_facts facts = silent();
	facts.has_hostd = false;
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_DEAD);
	facts.libvirt_silent = false; /* nobody asks it often */
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_WELL);
}

static void test_a_trunk_without_carrier(void **state)
{
	(void)state;
	struct heal_server_facts facts = well();
	facts.trunk_down_ms = 1;
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_WELL);
	facts.trunk_down_ms = HEAL_TRUNK_MS;
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_CUT);
	facts.trunk_known = false; /* all of the site's at once */
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_WELL);

	/* With a silent hostd it is another matter. */
	facts = well();
	facts.trunk_down_ms = 1;
	facts.hostd_silent_ms = HEAL_TRUNK_SILENT_MS;
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_DEAD);
	facts.heard = false;
	assert_int_not_equal(heal_decide_server(&facts), HEAL_SERVER_DEAD);
	facts = silent();
	facts.has_hostd = false;
	facts.trunk_down_ms = HEAL_TRUNK_MS;
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_DEAD);
}

/* A VM that runs, beside spares. */
static struct heal_vm_facts alive(void)
{
	return (struct heal_vm_facts){.process = HEAL_PROCESS_RUNS,
		.booted = true,
		.spare = HEAL_SPARE_READY,
		.switch_connected = true};
}

static void expect(
	const struct heal_vm_facts *facts, enum heal_action action, enum heal_cause cause)
{
	enum heal_cause found;
	assert_int_equal(heal_decide_vm(facts, &found), action);
	assert_int_equal(found, cause);
}

static void test_when_a_server_is_judged_again(void **state)
{
	(void)state;
	struct heal_server_facts facts = well();
	facts.hostd_silent_ms = HEAL_TRUNK_SILENT_MS - 1;
	assert_int_equal(heal_server_again_ms(&facts), HEAL_KEEPALIVE_MS);
	facts.trunk_down_ms = 1; /* no sooner and no later than it is dead */
	assert_int_equal(heal_server_again_ms(&facts), 1);
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_WELL);
	facts.hostd_silent_ms += heal_server_again_ms(&facts);
	assert_int_equal(heal_decide_server(&facts), HEAL_SERVER_DEAD);
	assert_int_equal(heal_server_again_ms(&facts), HEAL_KEEPALIVE_MS);
	facts.hostd_silent_ms = 1; /* it has answered since */
	assert_int_equal(heal_server_again_ms(&facts), HEAL_KEEPALIVE_MS);
	facts.hostd_silent_ms = HEAL_TRUNK_SILENT_MS - 1;
	facts.trunk_known = false; /* all trunks are down, or the switch isn't there */
	assert_int_equal(heal_server_again_ms(&facts), HEAL_KEEPALIVE_MS);
}

static void test_a_vm_that_is_well(void **state)
{
	(void)state;
	struct heal_vm_facts facts = alive();
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_NONE);
	facts.unanswered = HEAL_UNANSWERED - 1;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_NONE);
	facts = alive();
	facts.booted = false; /* it boots as long as it likes */
	facts.unanswered = 1000;
	facts.process = HEAL_PROCESS_UNKNOWN;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_NONE);
}

static void test_a_vm_that_died(void **state)
{
	(void)state;
	struct heal_vm_facts facts = alive();
	facts.process = HEAL_PROCESS_GONE;
	expect(&facts, HEAL_TAKE_OVER, HEAL_CAUSE_DIED);
	facts.spare = HEAL_SPARE_MAYBE;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_DIED);
	facts.spare = HEAL_SPARE_NONE;
	expect(&facts, HEAL_START_HERE, HEAL_CAUSE_DIED);
	facts = alive();
	facts.process = HEAL_PROCESS_GONE;
	facts.switch_connected = false;
	expect(&facts, HEAL_START_HERE, HEAL_CAUSE_DIED);
	/* Its server's word counts, whatever is thought of the server. */
	facts = alive();
	facts.process = HEAL_PROCESS_GONE;
	facts.server = HEAL_SERVER_DOUBTED;
	expect(&facts, HEAL_TAKE_OVER, HEAL_CAUSE_DIED);
	/* A CVM is its keeper's, or its protector's. */
	facts.is_cvm = true;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_DIED);
}

static void test_a_channel_that_closed(void **state)
{
	(void)state;
	struct heal_vm_facts facts = alive();
	facts.hung_up = true;
	facts.process = HEAL_PROCESS_UNKNOWN;
	expect(&facts, HEAL_PEEK, HEAL_CAUSE_NONE);
	facts.process = HEAL_PROCESS_RUNS; /* it may be dying just now */
	expect(&facts, HEAL_PEEK, HEAL_CAUSE_NONE);
	facts.hung_up_ms = HEAL_HUNG_UP_MS;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_NONE);
	facts.process = HEAL_PROCESS_UNKNOWN; /* nobody can say */
	expect(&facts, HEAL_TAKE_OVER, HEAL_CAUSE_DIED);
	facts.server = HEAL_SERVER_DOUBTED;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_NONE);
}

static void test_a_guest_that_hangs(void **state)
{
	(void)state;
	struct heal_vm_facts facts = alive();
	facts.unanswered = HEAL_UNANSWERED;
	expect(&facts, HEAL_COUNT, HEAL_CAUSE_HANGS);
	facts.counted = facts.forwards = true;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_HANGS);
	facts.forwards = false;
	expect(&facts, HEAL_TAKE_OVER, HEAL_CAUSE_HANGS);
	facts.spare = HEAL_SPARE_NONE;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_HANGS);
	facts.unanswered = HEAL_UNANSWERED_COLD;
	expect(&facts, HEAL_START_HERE, HEAL_CAUSE_HANGS);
	facts.server = HEAL_SERVER_DOUBTED;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_NONE);
	facts.server = HEAL_SERVER_WELL;
	facts.switch_connected = false; /* nobody can be fenced */
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_HANGS);
}

static void test_a_program_that_stands_still(void **state)
{
	(void)state;
	struct heal_vm_facts facts = alive();
	facts.fwd_stuck_ms = HEAL_PROGRAM_MS - 1;
	facts.daemon_stuck_ms = HEAL_DAEMON_MS - 1;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_NONE);
	facts.daemon_stuck_ms++;
	expect(&facts, HEAL_END_DAEMON, HEAL_CAUSE_STUCK);
	facts.fwd_stuck_ms++;
	expect(&facts, HEAL_END_FWD, HEAL_CAUSE_STUCK);
	facts.kicked_fwd = facts.kicked_daemon = true;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_NONE);
	facts.fwd_stuck_ms = HEAL_PROGRAM_MS + HEAL_PROGRAM_AGAIN_MS;
	expect(&facts, HEAL_TAKE_OVER, HEAL_CAUSE_STUCK);
	facts.spare = HEAL_SPARE_NONE;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_NONE);
}

static void test_a_server_that_is_lost(void **state)
{
	(void)state;
	struct heal_vm_facts facts = alive();
	facts.server = HEAL_SERVER_DEAD;
	expect(&facts, HEAL_TAKE_OVER, HEAL_CAUSE_SERVER);
	facts.server = HEAL_SERVER_CUT;
	expect(&facts, HEAL_TAKE_OVER, HEAL_CAUSE_CUT);
	facts.spare = HEAL_SPARE_NONE;
	expect(&facts, HEAL_PLACE_ANEW, HEAL_CAUSE_CUT);
	facts.is_cvm = true;
	facts.server = HEAL_SERVER_DEAD;
	expect(&facts, HEAL_PLACE_ANEW, HEAL_CAUSE_SERVER);
	facts.switch_connected = false;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_SERVER);
	facts = alive();
	facts.server = HEAL_SERVER_HIDDEN; /* it forwards */
	facts.unanswered = 1000;
	expect(&facts, HEAL_NOTHING, HEAL_CAUSE_NONE);
}

static void test_a_pool_with_too_few(void **state)
{
	(void)state;
	struct heal_pool_facts facts = {.wanted = 8, .kept = 8};
	assert_int_equal(heal_pool_begin(&facts), 0);
	facts.kept = 7;
	assert_int_equal(heal_pool_begin(&facts), 1);
	facts.kept = 0; /* not all at once */
	assert_int_equal(heal_pool_begin(&facts), HEAL_POOL_BOOTING);
	facts.kept = facts.booting = HEAL_POOL_BOOTING - 1;
	assert_int_equal(heal_pool_begin(&facts), 1);
	facts.kept = facts.booting = HEAL_POOL_BOOTING;
	assert_int_equal(heal_pool_begin(&facts), 0);
	facts.booting = HEAL_POOL_BOOTING + 1; /* as the operator wanted more than there were */
	assert_int_equal(heal_pool_begin(&facts), 0);
	facts = (struct heal_pool_facts){.wanted = 2, .kept = 3};
	assert_int_equal(heal_pool_begin(&facts), 0);
}

static void test_a_pool_while_spares_take_over(void **state)
{
	(void)state;
	struct heal_pool_facts facts = {.wanted = 8, .kept = 1, .replacing = true};
	assert_true(heal_pool_rests(&facts));
	assert_int_equal(heal_pool_begin(&facts), 0);
	facts.replacing_ms = HEAL_POOL_RESTS_MS - 1;
	assert_int_equal(heal_pool_begin(&facts), 0);
	facts.replacing_ms = HEAL_POOL_RESTS_MS; /* one of them doesn't come to serve */
	assert_false(heal_pool_rests(&facts));
	assert_int_equal(heal_pool_begin(&facts), HEAL_POOL_BOOTING);
	facts.replacing = false;
	facts.replacing_ms = 0; /* all serve */
	assert_false(heal_pool_rests(&facts));
	assert_int_equal(heal_pool_begin(&facts), HEAL_POOL_BOOTING);
}

static void test_how_many_take_over_at_a_time(void **state)
{
	(void)state;
	assert_int_equal(heal_at_once(0, false), 1);
	assert_int_equal(heal_at_once(1, true), 1);
	assert_int_equal(heal_at_once(2, true), 1);
	assert_int_equal(heal_at_once(2, false), 2);
	assert_int_equal(heal_at_once(64, false), 64);
}

static void test_every_cause_has_a_name(void **state)
{
	(void)state;
	for (int cause = HEAL_CAUSE_NONE + 1; cause < HEAL_CAUSES; cause++) {
		assert_true(strlen(heal_cause_name((enum heal_cause)cause)) > 0);
		assert_true(strlen(heal_cause_text((enum heal_cause)cause)) > 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_server_that_answers),
		cmocka_unit_test(test_a_silent_server),
		cmocka_unit_test(test_a_server_that_was_never_heard),
		cmocka_unit_test(test_a_server_without_hostd),
		cmocka_unit_test(test_a_trunk_without_carrier),
		cmocka_unit_test(test_when_a_server_is_judged_again),
		cmocka_unit_test(test_a_vm_that_is_well),
		cmocka_unit_test(test_a_vm_that_died),
		cmocka_unit_test(test_a_channel_that_closed),
		cmocka_unit_test(test_a_guest_that_hangs),
		cmocka_unit_test(test_a_program_that_stands_still),
		cmocka_unit_test(test_a_server_that_is_lost),
		cmocka_unit_test(test_a_pool_with_too_few),
		cmocka_unit_test(test_a_pool_while_spares_take_over),
		cmocka_unit_test(test_how_many_take_over_at_a_time),
		cmocka_unit_test(test_every_cause_has_a_name),
	};
	return cmocka_run_group_tests_name("heal_decide", tests, NULL, NULL);
}
