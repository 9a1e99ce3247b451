/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/protect_decide.h"

#include <stddef.h>
#include <string.h>

/* Has the standby's hostd a whole epoch, which can be activated? */
static bool has_copy(const struct protect_facts *facts)
{
	return facts->standby == STANDBY_HOLDING || facts->standby == STANDBY_LOST ||
	       facts->standby == STANDBY_ACTIVE;
}

/*
 * A primary of which nothing is known went on without its standby when an epoch wasn't acknowledged
 * within timeout_ms of its stop, or when the link was cut for it to see. The next epoch after the
 * last whole one was begun an interval later. Half a time-out is left for the acknowledgement of
 * the last one, since its age counts from there.
 */
static bool is_fresh(const struct protect_facts *facts)
{
	int64_t limit = facts->interval_ms + facts->timeout_ms / 2;
	if (limit < facts->timeout_ms)
		limit = facts->timeout_ms;
	return !facts->interrupted && facts->epoch_age_ms <= limit;
}

static enum protect_action take_over(enum failover_why reason, enum failover_why *why)
{
	*why = reason;
	return PROTECT_TAKE_OVER;
}

/* The primary's hostd says that it is over for the primary. */
static enum protect_action primary_is_lost(
	const struct protect_facts *facts, enum failover_why reason, enum failover_why *why)
{
	if (has_copy(facts))
		return take_over(reason, why);
	return facts->standby == STANDBY_UNKNOWN ? PROTECT_ASK_STANDBY : PROTECT_START_ANEW;
}

/* Its hostd doesn't speak for the primary. */
static enum protect_action primary_is_hidden(
	const struct protect_facts *facts, enum failover_why *why)
{
	bool refused = facts->primary == PRIMARY_REFUSED;
	if (facts->guest == GUEST_UNKNOWN)
		return PROTECT_ASK_GUEST;
	/* hostd died and QEMU didn't: the guard has let go of what was held, and the VM goes on. */
	if (refused && facts->guest != GUEST_GONE)
		return PROTECT_BEGIN_ANEW;
	/* A hostd that hangs may have stopped or held it, and may go on: its word counts. */
	if (facts->guest == GUEST_ANSWERS)
		return PROTECT_WAIT;
	if (facts->standby == STANDBY_UNKNOWN)
		return PROTECT_ASK_STANDBY;
	/* Nobody at all answers: that may well be due to us. */
	if (facts->standby == STANDBY_UNREACHABLE)
		return PROTECT_WAIT;
	if (facts->standby == STANDBY_ACTIVE || (has_copy(facts) && is_fresh(facts)))
		return take_over(FAILOVER_SERVER_LOST, why);
	return facts->unheard_ms < PROTECT_LOST_MS ? PROTECT_WAIT : PROTECT_START_ANEW;
}

/* Its hostd says that the primary is well. */
static enum protect_action primary_is_well(
	const struct protect_facts *facts, enum failover_why *why)
{
	bool could = facts->primary == PRIMARY_PROTECTED && has_copy(facts) &&
		     !facts->standby_trunk_down;
	if (could && facts->trunk_down)
		return take_over(FAILOVER_TRUNK_DOWN, why);
	if (could && facts->asked)
		return take_over(FAILOVER_ASKED, why);
	return facts->standby == STANDBY_UNKNOWN ? PROTECT_ASK_STANDBY : PROTECT_WAIT;
}

enum protect_action protect_decide(const struct protect_facts *facts, enum failover_why *why)
{
	*why = FAILOVER_NONE;
	switch (facts->primary) {
	case PRIMARY_UNKNOWN:
		return PROTECT_ASK_PRIMARY;
	case PRIMARY_DEAD:
		return primary_is_lost(facts, FAILOVER_PRIMARY_DEAD, why);
	case PRIMARY_SUPERSEDED:
		return primary_is_lost(facts, FAILOVER_PRIMARY_SILENT, why);
	case PRIMARY_SILENT:
		/* Without a copy it is better to hope that it wakes up. */
		if (has_copy(facts))
			return take_over(FAILOVER_PRIMARY_SILENT, why);
		return facts->standby == STANDBY_UNKNOWN ? PROTECT_ASK_STANDBY : PROTECT_WAIT;
	case PRIMARY_FREE:
	case PRIMARY_UNPROTECTED:
		return PROTECT_BEGIN_ANEW;
	case PRIMARY_REFUSED:
	case PRIMARY_HANGS:
		return primary_is_hidden(facts, why);
	case PRIMARY_SYNCING:
	case PRIMARY_PROTECTED:
		break;
	}
	return primary_is_well(facts, why);
}

bool protect_may_activate(const struct protect_facts *facts, enum failover_why why)
{
	if (why == FAILOVER_PRIMARY_DEAD)
		return true;
	return facts->primary != PRIMARY_UNPROTECTED && facts->primary != PRIMARY_FREE;
}

/* The index of `name` in `names`; -1 if it isn't there. */
static int find(const char *const *names, size_t n, const char *name)
{
	for (size_t i = 0; name != NULL && i < n; i++) {
		if (names[i] != NULL && strcmp(names[i], name) == 0)
			return (int)i;
	}
	return -1;
}

enum protect_primary protect_primary_parse(const char *state)
{
	static const char *const names[] = {
		[PRIMARY_SYNCING] = "syncing",
		[PRIMARY_PROTECTED] = "protected",
		[PRIMARY_UNPROTECTED] = "unprotected",
		[PRIMARY_SILENT] = "primary-silent",
		[PRIMARY_DEAD] = "primary-dead",
		[PRIMARY_SUPERSEDED] = "superseded",
	};
	int i = find(names, sizeof(names) / sizeof(names[0]), state);
	return i < 0 ? PRIMARY_UNKNOWN : (enum protect_primary)i;
}

enum protect_standby protect_standby_parse(const char *state)
{
	static const char *const names[] = {
		[STANDBY_RECEIVING] = "receiving",
		[STANDBY_HOLDING] = "holding",
		[STANDBY_LOST] = "lost",
		[STANDBY_ACTIVE] = "active",
		[STANDBY_ENDED] = "ended",
	};
	if (state != NULL && strcmp(state, "waiting") == 0)
		return STANDBY_RECEIVING;
	int i = find(names, sizeof(names) / sizeof(names[0]), state);
	return i < 0 ? STANDBY_UNKNOWN : (enum protect_standby)i;
}
