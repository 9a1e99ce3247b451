/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/heal_decide.h"

#include "controller/heal.h"

/* ---- servers ------------------------------------------------------------------------------ */

/* Silence alone: who knows whether it isn't only our way to it that is broken. */
static enum heal_server only_silent(const struct heal_server_facts *facts)
{
	int64_t limit = facts->heard ? HEAL_SILENT_MS : HEAL_START_MS;
	if (facts->silent_ms < limit || !facts->libvirt_silent)
		return HEAL_SERVER_DOUBTED;
	if (!facts->counted)
		return HEAL_SERVER_DOUBTED;
	return facts->forwards ? HEAL_SERVER_HIDDEN : HEAL_SERVER_DEAD;
}

enum heal_server heal_decide_server(const struct heal_server_facts *facts)
{
	bool down = facts->trunk_known && facts->trunk_down_ms > 0;
	/* Without a hostd nobody there is asked often enough to be missed so soon. */
	if (down && facts->has_hostd && facts->hostd_silent_ms >= HEAL_TRUNK_SILENT_MS &&
		facts->heard)
		return HEAL_SERVER_DEAD;
	if (down && facts->trunk_down_ms >= HEAL_TRUNK_MS)
		return facts->silent_ms >= HEAL_SILENT_MS && facts->libvirt_silent
			       ? HEAL_SERVER_DEAD
			       : HEAL_SERVER_CUT;
	if (facts->has_hostd && facts->hostd_silent_ms < HEAL_DOUBT_MS)
		return HEAL_SERVER_WELL;
	if (facts->silent_ms < HEAL_DOUBT_MS)
		return HEAL_SERVER_WELL;
	/* Without a hostd only what is said now and then is heard: that libvirt is connected
	 * counts. */
	if (!facts->has_hostd && !facts->libvirt_silent)
		return HEAL_SERVER_WELL;
	return only_silent(facts);
}

unsigned heal_server_again_ms(const struct heal_server_facts *facts)
{
	int64_t left = HEAL_TRUNK_SILENT_MS - facts->hostd_silent_ms;
	bool down = facts->trunk_known && facts->trunk_down_ms > 0;
	return down && left > 0 && left < HEAL_KEEPALIVE_MS ? (unsigned)left : HEAL_KEEPALIVE_MS;
}

/* ---- VMs ---------------------------------------------------------------------------------- */

static enum heal_action replace(const struct heal_vm_facts *facts, enum heal_action otherwise)
{
	if (!facts->switch_connected)
		return HEAL_NOTHING;
	if (facts->is_cvm)
		return otherwise;
	if (facts->spare == HEAL_SPARE_READY)
		return HEAL_TAKE_OVER;
	return facts->spare == HEAL_SPARE_MAYBE ? HEAL_NOTHING : otherwise;
}

static enum heal_action is_gone(const struct heal_vm_facts *facts)
{
	/* Nobody else may speak with its VLANs there: it can be started again without the switch.
	 */
	if (!facts->switch_connected && !facts->is_cvm)
		return HEAL_START_HERE;
	return facts->is_cvm ? HEAL_NOTHING : replace(facts, HEAL_START_HERE);
}

static enum heal_action hangs(const struct heal_vm_facts *facts)
{
	if (!facts->counted)
		return HEAL_COUNT;
	if (facts->forwards)
		return HEAL_NOTHING;
	enum heal_action action = replace(facts, HEAL_START_HERE);
	return action == HEAL_START_HERE && facts->unanswered < HEAL_UNANSWERED_COLD ? HEAL_NOTHING
										     : action;
}

/* One of its programs stands still for `ms`, and was ended for that already if `kicked`. */
static enum heal_action stuck(const struct heal_vm_facts *facts, int64_t ms, int64_t limit_ms,
	bool kicked, enum heal_action end)
{
	if (!kicked)
		return ms >= limit_ms ? end : HEAL_NOTHING;
	/* A machine that is starved looks like that, too, and would be so all the more by a boot.
	 */
	return ms >= limit_ms + HEAL_PROGRAM_AGAIN_MS ? replace(facts, HEAL_NOTHING) : HEAL_NOTHING;
}

enum heal_action heal_decide_vm(const struct heal_vm_facts *facts, enum heal_cause *cause)
{
	*cause = HEAL_CAUSE_NONE;
	switch (facts->server) {
	case HEAL_SERVER_DEAD:
	case HEAL_SERVER_CUT:
		*cause = facts->server == HEAL_SERVER_DEAD ? HEAL_CAUSE_SERVER : HEAL_CAUSE_CUT;
		return replace(facts, HEAL_PLACE_ANEW);
	case HEAL_SERVER_DOUBTED:
	case HEAL_SERVER_HIDDEN:
		/* What its server says of it counts all the same. */
		if (facts->process != HEAL_PROCESS_GONE)
			return HEAL_NOTHING;
		break;
	case HEAL_SERVER_WELL:
		break;
	}
	if (facts->process == HEAL_PROCESS_GONE) {
		*cause = HEAL_CAUSE_DIED;
		return is_gone(facts);
	}
	if (facts->is_cvm)
		return HEAL_NOTHING;
	if (facts->hung_up && facts->hung_up_ms < HEAL_HUNG_UP_MS)
		return HEAL_PEEK;
	if (facts->hung_up && facts->process == HEAL_PROCESS_UNKNOWN) {
		*cause = HEAL_CAUSE_DIED;
		return replace(facts, HEAL_START_HERE);
	}
	if (facts->booted && facts->unanswered >= HEAL_UNANSWERED) {
		*cause = HEAL_CAUSE_HANGS;
		return hangs(facts);
	}
	enum heal_action action = HEAL_NOTHING;
	if (facts->fwd_stuck_ms > 0)
		action = stuck(facts, facts->fwd_stuck_ms, HEAL_PROGRAM_MS, facts->kicked_fwd,
			HEAL_END_FWD);
	if (action == HEAL_NOTHING && facts->daemon_stuck_ms > 0)
		action = stuck(facts, facts->daemon_stuck_ms, HEAL_DAEMON_MS, facts->kicked_daemon,
			HEAL_END_DAEMON);
	if (action != HEAL_NOTHING)
		*cause = HEAL_CAUSE_STUCK;
	return action;
}

unsigned heal_at_once(unsigned processors, bool emulated)
{
	/* An emulated processor has the emulator's threads to wait for, too. */
	unsigned n = emulated ? processors / 2 : processors;
	return n > 0 ? n : 1;
}

/* ---- pools of spares ---------------------------------------------------------------------- */

bool heal_pool_rests(const struct heal_pool_facts *facts)
{
	return facts->replacing && facts->replacing_ms < HEAL_POOL_RESTS_MS;
}

unsigned heal_pool_begin(const struct heal_pool_facts *facts)
{
	if (heal_pool_rests(facts) || facts->kept >= facts->wanted ||
		facts->booting >= HEAL_POOL_BOOTING)
		return 0;
	unsigned more = facts->wanted - facts->kept, room = HEAL_POOL_BOOTING - facts->booting;
	return more < room ? more : room;
}

/* ---- names -------------------------------------------------------------------------------- */

const char *heal_cause_name(enum heal_cause cause)
{
	static const char *const names[] = {
		"", "died", "hangs", "stuck", "server-dead", "trunk-down"};
	return names[cause];
}

const char *heal_cause_text(enum heal_cause cause)
{
	static const char *const texts[] = {"", "its VM died", "its VM didn't answer any more",
		"a program in its VM stood still", "the server died",
		"the server's trunk had no carrier"};
	return texts[cause];
}
