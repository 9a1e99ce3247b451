/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Protection of CVMs (DESIGN 6): each one that is to be protected has a thread here, its protector,
 * which makes a standby, hears how the two do, and has the standby take over. What to do with what
 * it hears is decided in protect_decide.c; how checkpoints are made is hostd's (hostd/guardian.h).
 *
 * What is stored (enum protection_state) says what may be where, so that whoever comes after a
 * crash knows: a server is stored before a standby is started there, and the take-over before the
 * switch is told. From PROTECTION_TAKEOVER on the switch listens to the standby's trunk only, and
 * goes on to do so through any crash of ours.
 *
 * A copy that isn't needed any more is *void*: stored as such in the moment in which it becomes so,
 * and destroyed by the reaper, a thread of the fleet, as soon as its server can be reached.
 *
 * Locks: protector->lock comes after fleet->lock, and is never held over a call that blocks.
 * Callbacks of hostd_client take it alone.
 */

#include "controller/fleet_protect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "controller/answer.h"
#include "controller/fleet_internal.h"
#include "controller/protect_decide.h"

/* ---- who is told of news --------------------------------------------------------------------- */

void fleet_protect_kick(struct fleet *fleet)
{
	for (struct protector *p = fleet->protectors; p != NULL; p = p->next) {
		pthread_mutex_lock(&p->lock);
		p->kicked = true;
		pthread_cond_signal(&p->news);
		pthread_mutex_unlock(&p->lock);
	}
}

void fleet_protect_ports(struct fleet *fleet, const char *site)
{
	pthread_mutex_lock(&fleet->lock);
	for (struct protector *p = fleet->protectors; p != NULL; p = p->next) {
		if (strcmp(p->site, site) != 0)
			continue;
		pthread_mutex_lock(&p->lock);
		p->ports_us = fleet_now_us();
		p->kicked = true;
		pthread_cond_signal(&p->news);
		pthread_mutex_unlock(&p->lock);
	}
	pthread_mutex_unlock(&fleet->lock);
}

bool fleet_protect_is_noisy(struct fleet *fleet, const char *uuid)
{
	bool noisy = false;
	for (struct protector *p = fleet->protectors; p != NULL; p = p->next) {
		pthread_mutex_lock(&p->lock);
		noisy |= p->noisy && strcmp(p->uuid, uuid) == 0;
		pthread_mutex_unlock(&p->lock);
	}
	return noisy;
}

/* ---- watching -------------------------------------------------------------------------------- */

/* Is the primary's word that of the moment? Upon an alarm it is asked again and again. */
static void refresh_facts(struct protector *p)
{
	bool due = fleet_now_ms() - p->asked_ms >= PROTECT_ALARM_MS;
	pthread_mutex_lock(&p->lock);
	enum protect_primary primary = p->facts.primary;
	due |= p->ask_again;
	p->ask_again = false;
	bool trouble = p->facts.silent || p->facts.standby == STANDBY_LOST ||
		       p->facts.standby == STANDBY_ENDED || p->facts.standby == STANDBY_ABSENT;
	bool hidden = primary == PRIMARY_REFUSED || primary == PRIMARY_HANGS;
	if (due && (hidden || (trouble && (primary == PRIMARY_PROTECTED ||
						  primary == PRIMARY_SYNCING)))) {
		p->facts.primary = PRIMARY_UNKNOWN;
		p->facts.guest = GUEST_UNKNOWN;
	}
	if (due && p->facts.standby == STANDBY_UNREACHABLE)
		p->facts.standby = STANDBY_UNKNOWN;
	if (primary == PRIMARY_PROTECTED && p->facts.standby == STANDBY_HOLDING &&
		!p->facts.silent && !p->asked)
		p->alarm_us = 0;
	pthread_mutex_unlock(&p->lock);
}

/* What the operator changed about a protection that goes on. Returns whether it has to end. */
static bool apply_changes(struct protector *p)
{
	struct server standby;
	struct jsonrpc_error err = {0};
	pthread_mutex_lock(&p->lock);
	bool known = p->figures != NULL && p->facts.primary == PRIMARY_PROTECTED;
	double interval = answer_number(p->figures, "interval_ms"),
	       timeout = answer_number(p->figures, "timeout_ms");
	pthread_mutex_unlock(&p->lock);
	if (fleet_server_load(p->fleet, p->row.standby_id, &standby) == 0 && standby.drained) {
		protector_show_unprotected(p, "server %s is drained", standby.name);
		return true;
	}
	if (p->row.wanted_server[0] != '\0' && strcmp(p->row.wanted_server, p->placed_for) != 0 &&
		strcmp(p->row.wanted_server, p->row.standby) != 0 &&
		strcmp(p->row.wanted_server, p->cvm.server) != 0) {
		protector_show_unprotected(
			p, "the standby is moved to server %s", p->row.wanted_server);
		return true;
	}
	snprintf(p->placed_for, sizeof(p->placed_for), "%s", p->row.wanted_server);
	if (known && (uint32_t)timeout != p->row.timeout_ms) {
		protector_show_unprotected(p, "its time-out is changed");
		return true;
	}
	if (known && (uint32_t)interval != p->row.interval_ms) {
		cJSON *params = protector_params(p);
		cJSON_AddNumberToObject(params, "interval_ms", p->row.interval_ms);
		if (protector_ask(p, &p->primary_side, "protect.set", params, PROTECT_HOSTD_MS,
			    NULL, &err) == 0)
			protector_ask_primary(p, PROTECT_ASK_PRIMARY_MS);
	}
	return false;
}

static void note_whole(struct protector *p)
{
	if (p->row.state != PROTECTION_WHOLE && protector_set_state(p, PROTECTION_WHOLE) != 0)
		return;
	if (protector_get_shown(p) == SHOWN_PROTECTED)
		return;
	protector_show(p, SHOWN_PROTECTED, "%s", "");
	protector_set_stage(p, FLEET_PROTECT_WHOLE);
	/* An earlier edgeplexd told it. */
	if (strcmp(p->told, "protected") == 0)
		return;
	fleet_event(p->fleet, "info", p->object, "protected %sby a standby on server %s",
		p->told[0] != '\0' ? "again " : "", p->row.standby);
	snprintf(p->told, sizeof(p->told), "protected");
}

/*
 * Its hostd hangs and it lives: hostd may hold what it says, or even have stopped it. Nobody can do
 * anything about that but the operator.
 */
static void note_hanging(struct protector *p, const struct protect_facts *facts)
{
	if (facts->primary != PRIMARY_HANGS || facts->guest != GUEST_ANSWERS)
		p->hangs_ms = 0;
	else if (p->hangs_ms == 0)
		p->hangs_ms = fleet_now_ms();
	else if (fleet_now_ms() - p->hangs_ms >= PROTECT_HANGS_MS)
		protector_show_unprotected(p,
			"edgeplex-hostd of server %s doesn't answer, and may hold back what the "
			"CVM "
			"says: restart it there",
			p->cvm.server);
}

/* The first copy: tells how far it is. Returns false when it doesn't get on. */
static bool watch_copy(struct protector *p)
{
	protector_ask_primary(p, PROTECT_HOSTD_MS);
	pthread_mutex_lock(&p->lock);
	double bytes = answer_number(p->figures, "bytes");
	pthread_mutex_unlock(&p->lock);
	if (bytes != p->copy_bytes)
		p->copy_since_ms = fleet_now_ms();
	p->copy_bytes = bytes;
	return fleet_now_ms() - p->copy_since_ms < PROTECT_COPY_STALLED_MS;
}

static void begin_anew(struct protector *p)
{
	char reason[300];
	pthread_mutex_lock(&p->lock);
	enum protect_primary primary = p->facts.primary;
	if (primary == PRIMARY_UNPROTECTED)
		snprintf(reason, sizeof(reason), "the standby on server %s failed (%.200s)",
			p->row.standby, p->primary_reason);
	else
		snprintf(reason, sizeof(reason), "edgeplex-hostd of server %s %s", p->cvm.server,
			primary == PRIMARY_FREE ? "was restarted" : "doesn't run");
	bool first = p->shown == SHOWN_SYNCING;
	pthread_mutex_unlock(&p->lock);
	protector_end_standby(p);
	if (first)
		protector_attempt_failed(p, "%.250s", reason);
	else
		protector_show_unprotected(p, "%.250s", reason);
	p->retry_ms = first ? p->retry_ms : 0;
}

/* Asks, decides and acts until there is nothing to do. Returns for how long. */
static unsigned watch(struct protector *p)
{
	struct why unknown = {""};
	enum failover_why why;
	if (protector_connect(p, &unknown) != 0) {
		protector_end_standby(p);
		protector_attempt_failed(p, "%.200s", unknown.text);
		return 0;
	}
	if (apply_changes(p)) {
		protector_end_standby(p);
		p->retry_ms = 0;
		return 0;
	}
	if (p->row.state == PROTECTION_SYNCING && protector_get_shown(p) == SHOWN_SYNCING &&
		!watch_copy(p)) {
		protector_end_standby(p);
		protector_attempt_failed(p,
			"the copy made no progress for %d s: check the network between "
			"the servers",
			PROTECT_COPY_STALLED_MS / 1000);
		return 0;
	}
	refresh_facts(p);
	for (unsigned asked = 0; !fleet_is_stopping(p->fleet); asked++) {
		struct protect_facts facts = protector_facts(p);
		enum protect_action action = protect_decide(&facts, &why);
		if (facts.trunk_down || facts.asked) {
			pthread_mutex_lock(&p->lock);
			bool just_seen = facts.trunk_down &&
					 fleet_now_us() - p->ports_us < PROTECT_LOOK_MS * 1000;
			if (p->alarm_us == 0)
				p->alarm_us = just_seen ? p->ports_us : fleet_now_us();
			pthread_mutex_unlock(&p->lock);
		}
		bool asks = action == PROTECT_ASK_PRIMARY || action == PROTECT_ASK_STANDBY ||
			    action == PROTECT_ASK_GUEST;
		if (asks && asked >= 4) /* of those who come and go */
			return PROTECT_ALARM_MS;
		switch (action) {
		case PROTECT_ASK_PRIMARY:
			/* At once: a copy gets too old while one is asked after the other. */
			if (facts.silent || facts.standby == STANDBY_LOST)
				protector_ask_guest(p);
			protector_ask_primary(p, PROTECT_ASK_PRIMARY_MS);
			continue;
		case PROTECT_ASK_STANDBY:
			protector_ask_standby(p, PROTECT_ASK_PRIMARY_MS);
			continue;
		case PROTECT_ASK_GUEST:
			protector_ask_guest(p);
			return PROTECT_ALARM_MS;
		case PROTECT_TAKE_OVER:
			protector_take_over(p, why);
			return 0;
		case PROTECT_BEGIN_ANEW:
			begin_anew(p);
			return 0;
		case PROTECT_START_ANEW:
			protector_start_anew(
				p, facts.primary == PRIMARY_DEAD
					   ? "its VM died, and no standby was ready"
					   : "its server is lost, and no standby was ready");
			return 0;
		case PROTECT_WAIT:
			break;
		}
		note_hanging(p, &facts);
		if (facts.primary == PRIMARY_PROTECTED)
			note_whole(p);
		if (facts.asked) {
			pthread_mutex_lock(&p->lock);
			p->asked = false;
			snprintf(p->ask_failure, sizeof(p->ask_failure), "%s",
				facts.standby_trunk_down
					? "the switch has no carrier towards its standby's server"
					: "its standby can't take over now");
			pthread_mutex_unlock(&p->lock);
		}
		bool trouble = facts.primary != PRIMARY_PROTECTED ||
			       facts.standby != STANDBY_HOLDING || facts.silent;
		return p->row.state == PROTECTION_SYNCING ? PROTECT_COPY_POLL_MS
		       : trouble                          ? PROTECT_ALARM_MS
							  : PROTECT_LOOK_MS;
	}
	return 0;
}

/* ---- the thread ------------------------------------------------------------------------------ */

/* What stands in the way of a protection that is asked for; "": nothing. */
static const char *obstacle(const struct protector *p)
{
	if (p->row.ending)
		return "it isn't wanted any more";
	if (p->cvm.state != PORT_ACTIVE || !p->cvm.started)
		return "the CVM is being made or deleted";
	if (p->cvm.move.state != MOVE_NONE)
		return "the CVM is being moved";
	return "";
}

/* Without a standby. Returns for how long there is nothing to do. */
static unsigned attend_alone(struct protector *p)
{
	const char *in_the_way = obstacle(p);
	int64_t left = p->retry_ms - fleet_now_ms();
	if (p->row.ending) {
		store_protection_delete(p->fleet->store, p->row.site_id);
		p->told[0] = '\0';
		return PROTECT_LOOK_MS;
	}
	if (in_the_way[0] != '\0') {
		protector_show_unprotected(p, "%s", in_the_way);
		p->retry_ms = 0;
		return PROTECT_LOOK_MS;
	}
	if (left > 0)
		return left < PROTECT_LOOK_MS ? (unsigned)left : PROTECT_LOOK_MS;
	protector_make_standby(p);
	return p->row.state >= PROTECTION_SYNCING ? 0 : PROTECT_LOOK_MS;
}

/* One look at everything. Returns for how long there is nothing to do. */
static unsigned attend(struct protector *p)
{
	if (protector_load(p) != 0) {
		protector_disconnect(p);
		pthread_mutex_lock(&p->lock);
		p->noisy = false;
		p->shown = SHOWN_STARTING;
		p->since_ms = 0;
		pthread_mutex_unlock(&p->lock);
		return PROTECT_LOOK_MS;
	}
	if (p->fleet_site == NULL)
		p->fleet_site = fleet_site_ref(p->fleet, p->row.site_id);
	if (p->fleet_site == NULL)
		return PROTECT_LOOK_MS;
	switch (p->row.state) {
	case PROTECTION_NONE:
		return attend_alone(p);
	case PROTECTION_STARTING: /* an earlier edgeplexd's */
		protector_drop_standby(p);
		return 0;
	case PROTECTION_TAKEOVER:
		protector_resume_takeover(p);
		return 0;
	case PROTECTION_SYNCING:
	case PROTECTION_WHOLE:
		break;
	}
	if (obstacle(p)[0] == '\0')
		return watch(p);
	struct why why = {""};
	protector_connect(p, &why);
	char reason[100];
	snprintf(reason, sizeof(reason), "%s", obstacle(p));
	bool ending = p->row.ending;
	protector_end_standby(p);
	if (!ending)
		protector_show_unprotected(p, "%s", reason);
	return 0;
}

/* Waits until there is something to do. False: the protector is to end. */
static bool await_news(struct protector *p, unsigned ms)
{
	struct timespec until = fleet_deadline_in(ms);
	int err = 0;
	pthread_mutex_lock(&p->lock);
	while (!p->kicked && !p->removed && err == 0)
		err = pthread_cond_timedwait(&p->news, &p->lock, &until);
	p->kicked = false;
	bool go_on = !p->removed;
	pthread_mutex_unlock(&p->lock);
	return go_on && !fleet_is_stopping(p->fleet);
}

static void *protector_main(void *arg)
{
	struct protector *p = arg;
	unsigned ms = 0;
	while (await_news(p, ms)) {
		uint64_t generation = store_generation(p->fleet->store);
		ms = attend(p);
		pthread_mutex_lock(&p->lock);
		p->looked_at = generation;
		bool idle = p->shown != SHOWN_PROTECTED && p->shown != SHOWN_TAKEOVER;
		if (p->asked && idle) {
			p->asked = false;
			snprintf(p->ask_failure, sizeof(p->ask_failure),
				"it isn't protected: %.200s", p->reason);
		}
		pthread_mutex_unlock(&p->lock);
	}
	protector_disconnect(p);
	if (p->fleet_site != NULL)
		fleet_site_unref(p->fleet, p->fleet_site);
	p->fleet_site = NULL;
	return NULL;
}

struct protector *fleet_protector_find(struct fleet *fleet, const char *site)
{
	struct protector *p = fleet->protectors;
	while (p != NULL && strcmp(p->site, site) != 0)
		p = p->next;
	return p;
}

static void protector_free(struct protector *p)
{
	pthread_mutex_destroy(&p->lock);
	pthread_cond_destroy(&p->news);
	cJSON_Delete(p->figures);
	free(p);
}

void fleet_protect_ensure(struct fleet *fleet, const char *site)
{
	struct protection row;
	pthread_mutex_lock(&fleet->lock);
	bool there = fleet_protector_find(fleet, site) != NULL;
	pthread_mutex_unlock(&fleet->lock);
	if (there || store_protection_get(fleet->store, site, &row) != 0)
		return;
	struct protector *p = calloc(1, sizeof(*p));
	if (p == NULL)
		return;
	p->fleet = fleet;
	p->begun_ms = fleet_now_ms();
	p->kicked = true;
	p->primary_side = (struct protector_side){.protector = p};
	p->standby_side = (struct protector_side){.protector = p, .is_standby = true};
	snprintf(p->site, sizeof(p->site), "%s", site);
	snprintf(p->object, sizeof(p->object), "cvm/%s", site);
	snprintf(p->placed_for, sizeof(p->placed_for), "%s", row.wanted_server);
	/* An earlier edgeplexd told that it was protected; or, later, why it isn't any more. */
	if (row.state == PROTECTION_WHOLE)
		snprintf(p->told, sizeof(p->told), "protected");
	else if (row.past.count > 0)
		snprintf(p->told, sizeof(p->told), "restarted");
	pthread_mutex_init(&p->lock, NULL);
	fleet_cond_init(&p->news);
	pthread_mutex_lock(&fleet->lock);
	bool start = fleet_protector_find(fleet, site) == NULL && !fleet->stopping;
	if (start && pthread_create(&p->thread, NULL, protector_main, p) == 0) {
		p->next = fleet->protectors;
		fleet->protectors = p;
	} else {
		if (start)
			log_error("no thread could be started to protect a CVM, restart edgeplexd "
				  "object=%s",
				p->object);
		start = false;
	}
	pthread_mutex_unlock(&fleet->lock);
	if (!start)
		protector_free(p);
}

/* Takes it from the list, unless it isn't there. NULL `site`: any. */
static struct protector *unlist(struct fleet *fleet, const char *site)
{
	struct protector *found = NULL;
	pthread_mutex_lock(&fleet->lock);
	for (struct protector **at = &fleet->protectors; *at != NULL; at = &(*at)->next) {
		if (site == NULL || strcmp((*at)->site, site) == 0) {
			found = *at;
			*at = found->next;
			break;
		}
	}
	pthread_mutex_unlock(&fleet->lock);
	return found;
}

static void protector_end(struct protector *p)
{
	pthread_mutex_lock(&p->lock);
	p->removed = true;
	pthread_cond_signal(&p->news);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	pthread_mutex_lock(&p->lock);
	while (p->guest_asked)
		pthread_cond_wait(&p->news, &p->lock);
	pthread_mutex_unlock(&p->lock);
	protector_free(p);
}

void fleet_protect_remove(struct fleet *fleet, const char *site)
{
	struct protector *p = unlist(fleet, site);
	if (p != NULL)
		protector_end(p);
}

void fleet_protect_free(struct fleet *fleet)
{
	struct protector *p;
	while ((p = unlist(fleet, NULL)) != NULL)
		protector_end(p);
}
