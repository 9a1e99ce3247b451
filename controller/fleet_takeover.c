/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * How a standby takes over (fleet_protect.c, DESIGN 6): stored first, then the switch fences the
 * primary, then the standby runs. From PROTECTION_TAKEOVER on the switch listens to the standby's
 * trunk only, through any crash of ours. And what is done when there is no standby that could.
 */

#include "controller/fleet_protect.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"
#include "controller/answer.h"
#include "controller/fleet_internal.h"
#include "controller/hostd_client.h"

/* Whoever speaks with the CVM finds it where the store says that it is. */
static void follow_store(struct protector *p)
{
	struct fleet_vm *vm = protector_ref_vm(p);
	struct fleet_server *server = fleet_server_ref(p->fleet, p->cvm.server_id);
	bool replaced = false;
	if (vm != NULL && server != NULL && vm->server != server) {
		struct guest *guest = guest_open(server->hv, p->cvm.uuid, NULL, NULL);
		replaced = guest != NULL && fleet_vm_replace(p->fleet, vm, server, guest) == 0;
		if (!replaced) {
			guest_close(guest);
			log_error("no memory to follow a CVM to server %s, restart edgeplexd "
				  "object=%s",
				server->name, p->object);
		}
	}
	if (replaced)
		fleet_vm_retire(p->fleet, vm);
	else if (vm != NULL)
		fleet_vm_unref(p->fleet, vm);
	if (server != NULL)
		fleet_server_unref(p->fleet, server);
}

struct fresh_start {
	bool elsewhere; /* where the standby was */
};

static void edit_fresh_start(void *ctx, struct protection *row, struct cvm *cvm)
{
	const struct fresh_start *start = ctx;
	if (start->elsewhere && row->standby_id != 0)
		cvm->server_id = row->standby_id;
	row->state = PROTECTION_NONE;
	row->standby_id = 0;
}

void protector_start_anew(struct protector *p, const char *reason)
{
	struct fleet_server *own = fleet_server_ref(p->fleet, p->cvm.server_id);
	struct fleet_server *other = fleet_server_ref(p->fleet, p->row.standby_id);
	struct fresh_start start = {.elsewhere = false};
	int64_t own_id = p->cvm.server_id, standby_id = p->row.standby_id;
	/* What waits there, or hangs here, is in the way of the fresh one. */
	bool here = own != NULL && hv_vm_destroy(own->hv, p->cvm.uuid, NULL) == 0;
	if (!here && other != NULL)
		start.elsewhere = hv_vm_destroy(other->hv, p->cvm.uuid, NULL) == 0;
	if (own != NULL)
		fleet_server_unref(p->fleet, own);
	if (other != NULL)
		fleet_server_unref(p->fleet, other);
	if (protector_change(p, edit_fresh_start, &start, start.elsewhere ? own_id : standby_id) !=
		0)
		return;
	protector_disconnect(p);
	protector_set_stage(p, FLEET_PROTECT_NONE);
	follow_store(p);
	p->retry_ms = fleet_now_ms() + PROTECT_RETRY_MS;
	protector_show_unprotected(
		p, "the CVM is started anew on server %s: %.150s", p->cvm.server, reason);
	fleet_reaper_kick(p->fleet);
	fleet_kick(p->fleet);
}

struct takeover {
	enum failover_why why;
	int64_t noticed_us, stored_us, fenced_us, running_us;
	int64_t epoch_age_ms;
	double loaded_us, epoch;
	bool resumed; /* after a restart of edgeplexd */
	bool active;  /* the standby runs already: there is no way back */
	bool refused; /* somebody else was faster */
};

static void edit_begin_takeover(void *ctx, struct protection *row, struct cvm *cvm)
{
	struct takeover *take = ctx;
	take->refused = (row->state != PROTECTION_SYNCING && row->state != PROTECTION_WHOLE) ||
			cvm->move.state != MOVE_NONE || cvm->state != PORT_ACTIVE;
	if (take->refused)
		return;
	row->state = PROTECTION_TAKEOVER;
	row->takeover = (struct takeover_begun){protector_realtime_ms(), take->why};
}

static void edit_end_takeover(void *ctx, struct protection *row, struct cvm *cvm)
{
	const struct takeover *take = ctx;
	struct failover last = {.time_ms = row->takeover.time_ms,
		.why = row->takeover.why,
		.fenced_us = take->fenced_us - take->noticed_us,
		.running_us = take->running_us - take->noticed_us};
	snprintf(last.from, sizeof(last.from), "%s", cvm->server);
	snprintf(last.to, sizeof(last.to), "%s", row->standby);
	snprintf(last.detail, sizeof(last.detail),
		"stored after %.1f ms, fenced after %.1f, running after %.1f (loaded in %.1f); "
		"epoch %.0f, %lld ms old%s",
		(double)(take->stored_us - take->noticed_us) / 1000, (double)last.fenced_us / 1000,
		(double)last.running_us / 1000, take->loaded_us / 1000, take->epoch,
		(long long)take->epoch_age_ms,
		take->resumed ? "; edgeplexd was restarted meanwhile" : "");
	row->past.count++;
	row->past.last = last;
	cvm->server_id = row->standby_id;
	row->state = PROTECTION_NONE;
	row->standby_id = 0;
}

/* A take-over that isn't one: the primary speaks, alone. */
static void go_back(struct protector *p, const char *reason)
{
	struct why why = {""};
	if (!protector_drop_standby(p))
		return;
	if (fleet_switch_now(p->fleet, p->fleet_site, PROTECT_FENCE_MS, &why) != 0)
		log_warn(
			"the edge switch doesn't follow object=%s why=\"%s\"", p->object, why.text);
	p->retry_ms = 0;
	protector_show_unprotected(p, "%s", reason);
}

/*
 * The switch listens to the standby's trunk only. It must have confirmed that, unless nobody is
 * left who could speak. False: not now, or the primary has gone on meanwhile.
 */
static bool fence(struct protector *p, struct takeover *take)
{
	struct why why = {""};
	bool is_dead = take->why == FAILOVER_PRIMARY_DEAD;
	for (bool complained = false;; complained = true) {
		if (is_dead && !fabric_connected(p->fleet_site->fabric))
			break;
		if (fleet_switch_now(p->fleet, p->fleet_site, PROTECT_FENCE_MS, &why) == 0 ||
			is_dead)
			break;
		if (!complained)
			fleet_event(p->fleet, "error", p->object,
				"its standby can't take over before the edge switch confirms that "
				"the primary is fenced: %s",
				why.text);
		protector_ask_primary(p, PROTECT_ASK_PRIMARY_MS);
		struct protect_facts facts = protector_facts(p);
		if (facts.primary == PRIMARY_DEAD)
			is_dead = true;
		if (!take->active &&
			(take->why == FAILOVER_ASKED || !protect_may_activate(&facts, take->why))) {
			go_back(p, "the edge switch didn't confirm that the primary was fenced");
			return false;
		}
		if (!fleet_pause(p->fleet, PROTECT_ALARM_MS))
			return false;
	}
	take->fenced_us = fleet_now_us();
	return true;
}

/* A hostd that was restarted knows nothing of what it activated. */
static bool standby_runs(struct protector *p)
{
	struct hv_vm vm;
	struct fleet_server *server = p->standby_side.server;
	return server != NULL &&
	       hv_wait_connected(server->hv, FLEET_SERVER_CONNECT_MS, NULL) == 0 &&
	       hv_vm_get(server->hv, p->cvm.uuid, &vm, NULL) == 0 && vm.state == HV_VM_RUNNING;
}

/* 0: it runs. -1 with `why`: it can't; EINTR: edgeplexd is being stopped. */
static int activate(struct protector *p, struct takeover *take, char why[200])
{
	int64_t until = fleet_now_ms() + PROTECT_ACTIVATE_AGAIN_MS;
	for (;;) {
		struct jsonrpc_error err = {0};
		cJSON *status = NULL, *params = protector_params(p);
		cJSON_AddTrueToObject(params, "fenced");
		if (protector_ask(p, &p->standby_side, "standby.activate", params,
			    PROTECT_ACTIVATE_MS, &status, &err) == 0) {
			take->running_us = fleet_now_us();
			take->epoch = answer_number(status, "epoch");
			take->epoch_age_ms = (int64_t)answer_number(status, "epoch_age_ms");
			take->loaded_us = answer_number(
				cJSON_GetObjectItemCaseSensitive(status, "activate_us"), "loaded");
			cJSON_Delete(status);
			return 0;
		}
		take->running_us = fleet_now_us();
		snprintf(why, 200, "its standby on server %s can't be activated: %.120s",
			p->row.standby, err.message);
		bool away = err.code == JSONRPC_UNAVAILABLE;
		if ((!away || fleet_now_ms() >= until))
			return standby_runs(p) ? 0 : -1;
		if (!fleet_pause(p->fleet, PROTECT_ALARM_MS))
			return EINTR;
	}
}

/* The standby is the CVM now. */
static void finish_takeover(struct protector *p, struct takeover *take)
{
	struct takeover done = *take;
	char from[MODEL_NAME_SIZE];
	int64_t from_id = p->cvm.server_id;
	snprintf(from, sizeof(from), "%s", p->cvm.server);
	while (protector_change(p, edit_end_takeover, &done, from_id) != 0) {
		if (!fleet_pause(p->fleet, PROTECT_ALARM_MS))
			return; /* it is found active after the restart */
	}
	/* A server that failed just now is the last choice. */
	p->avoid_id = take->why == FAILOVER_ASKED ? 0 : from_id;
	/* The link to the old primary's hostd, which is to hear of it, is the hostd's own. */
	p->finish_ms = fleet_now_ms() + PROTECT_TAKEN_MS;
	protector_disconnect(p);
	pthread_mutex_lock(&p->lock);
	p->asked = false;
	pthread_mutex_unlock(&p->lock);
	protector_set_stage(p, FLEET_PROTECT_NONE);
	follow_store(p);
	protector_show(p, SHOWN_STARTING, "a new standby is made after the failover");
	snprintf(p->told, sizeof(p->told), "failed over");
	p->told_ms = 0;
	fleet_event(p->fleet, "warning", p->object,
		"failed over from server %s to server %s: %s, %.0f ms (%s)", from, p->cvm.server,
		model_failover_why_name(take->why), (double)p->row.past.last.running_us / 1000,
		p->row.past.last.detail);
	p->retry_ms = 0;
	fleet_reaper_kick(p->fleet);
	fleet_kick(p->fleet);
}

/* Is the primary well after all, as its hostd says? */
static bool primary_lives(struct protector *p)
{
	protector_ask_primary(p, PROTECT_ASK_PRIMARY_MS);
	enum protect_primary primary = protector_facts(p).primary;
	return primary == PRIMARY_SYNCING || primary == PRIMARY_PROTECTED ||
	       primary == PRIMARY_UNPROTECTED || primary == PRIMARY_FREE;
}

/* From the stored decision to a standby that speaks. */
static void go_on_taking_over(struct protector *p, struct takeover *take)
{
	char why[200] = "";
	protector_show(p, SHOWN_TAKEOVER, "%s", model_failover_why_name(take->why));
	if (take->resumed) {
		protector_ask_standby(p, PROTECT_HOSTD_MS);
		take->active = protector_facts(p).standby == STANDBY_ACTIVE || standby_runs(p);
	}
	if (!fence(p, take))
		return;
	if (!take->active && (take->resumed || (take->why != FAILOVER_PRIMARY_DEAD &&
						       take->why != FAILOVER_SERVER_LOST))) {
		struct protect_facts facts;
		protector_ask_primary(p, PROTECT_CHECK_MS);
		facts = protector_facts(p);
		if (!protect_may_activate(&facts, take->why)) {
			go_back(p, "the primary went on without its standby");
			return;
		}
	}
	int rc = activate(p, take, why);
	if (rc == 0)
		finish_takeover(p, take);
	else if (rc == -1 && take->why != FAILOVER_PRIMARY_DEAD && primary_lives(p))
		go_back(p, why);
	else if (rc == -1)
		protector_start_anew(p, why);
}

void protector_take_over(struct protector *p, enum failover_why why)
{
	struct takeover take = {.why = why};
	pthread_mutex_lock(&p->lock);
	take.noticed_us = p->alarm_us != 0 ? p->alarm_us : fleet_now_us();
	pthread_mutex_unlock(&p->lock);
	if (protector_change(p, edit_begin_takeover, &take, 0) != 0 || take.refused)
		return;
	take.stored_us = fleet_now_us();
	log_info("a standby takes over object=%s why=%s from=%s to=%s", p->object,
		model_failover_why_name(why), p->cvm.server, p->row.standby);
	go_on_taking_over(p, &take);
}

void protector_resume_takeover(struct protector *p)
{
	struct takeover take = {.why = p->row.takeover.why, .resumed = true};
	struct why why = {""};
	take.noticed_us = take.stored_us = fleet_now_us();
	if (protector_connect(p, &why) != 0) {
		protector_start_anew(p, why.text);
		return;
	}
	go_on_taking_over(p, &take);
}
