/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What a protector (fleet_protect.c) does all its work with: what it shows, what it hears of the
 * two hostds, and what it stores.
 */

#include "controller/fleet_protect.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "controller/answer.h"
#include "controller/fleet_internal.h"
#include "controller/hostd_client.h"

int64_t protector_realtime_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- what is heard --------------------------------------------------------------------------- */

void fleet_protector_alarm(struct protector *p)
{
	if (p->alarm_us == 0)
		p->alarm_us = fleet_now_us();
}

void protector_hear_primary(struct protector *p, const cJSON *status)
{
	enum protect_primary before = p->facts.primary;
	p->facts.primary = protect_primary_parse(answer_text(status, "state"));
	p->primary_serial++;
	p->unheard_since_ms = 0;
	p->facts.guest = GUEST_UNKNOWN;
	snprintf(p->primary_reason, sizeof(p->primary_reason), "%s", answer_text(status, "reason"));
	cJSON *copy = cJSON_Duplicate(status, true);
	if (copy != NULL) {
		cJSON_Delete(p->figures);
		p->figures = copy;
		p->figures_ms = fleet_now_ms();
	}
	if (p->facts.primary != before &&
		(p->facts.primary == PRIMARY_DEAD || p->facts.primary == PRIMARY_SILENT))
		fleet_protector_alarm(p);
}

static void hear_standby_locked(struct protector *p, const cJSON *status)
{
	bool silent = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(status, "silent"));
	enum protect_standby state = protect_standby_parse(answer_text(status, "state"));
	if (answer_number(status, "epoch") > 0)
		p->epoch_at_ms = fleet_now_ms() - (int64_t)answer_number(status, "epoch_age_ms");
	/* It hears nothing of the primary: what that one's hostd said before is worth nothing. */
	bool trouble = silent || state == STANDBY_LOST;
	bool worse = trouble && !(p->facts.silent || p->facts.standby == STANDBY_LOST);
	p->facts.silent = silent;
	p->facts.standby = state;
	if (worse) {
		fleet_protector_alarm(p);
		p->ask_again = true;
	}
}

static void on_hostd_changed(void *ctx, const cJSON *status)
{
	struct protector_side *side = ctx;
	struct protector *p = side->protector;
	pthread_mutex_lock(&p->lock);
	if (status == NULL && side->is_standby) {
		p->facts.standby = STANDBY_UNKNOWN;
		p->facts.interrupted = true;
	} else if (status == NULL) {
		/* Its last word stays good if it was one. */
		if (p->facts.primary == PRIMARY_PROTECTED || p->facts.primary == PRIMARY_SYNCING) {
			p->facts.primary = PRIMARY_UNKNOWN;
			fleet_protector_alarm(p);
		}
	} else if (strcasecmp(answer_text(status, "uuid"), p->uuid) == 0) {
		const char *role = answer_text(status, "role");
		if (!side->is_standby && strcmp(role, "primary") == 0)
			protector_hear_primary(p, status);
		else if (side->is_standby && strcmp(role, "destination") == 0)
			hear_standby_locked(p, status);
		else
			goto out; /* another's */
	} else {
		goto out;
	}
	p->kicked = true;
	pthread_cond_signal(&p->news);
out:
	pthread_mutex_unlock(&p->lock);
}

/* ---- what is shown --------------------------------------------------------------------------- */

void protector_show(struct protector *p, enum protector_shown shown, const char *fmt, ...)
{
	char reason[sizeof(p->reason)];
	va_list args;
	va_start(args, fmt);
	vsnprintf(reason, sizeof(reason), fmt, args);
	va_end(args);
	pthread_mutex_lock(&p->lock);
	if (p->shown != shown || p->since_ms == 0)
		p->since_ms = protector_realtime_ms();
	p->shown = shown;
	snprintf(p->reason, sizeof(p->reason), "%s", reason);
	pthread_mutex_unlock(&p->lock);
}

enum protector_shown protector_get_shown(struct protector *p)
{
	pthread_mutex_lock(&p->lock);
	enum protector_shown shown = p->shown;
	pthread_mutex_unlock(&p->lock);
	return shown;
}

void protector_set_stage(struct protector *p, enum fleet_protect_stage stage)
{
	pthread_mutex_lock(&p->lock);
	p->stage = stage;
	pthread_mutex_unlock(&p->lock);
}

void protector_show_unprotected(struct protector *p, const char *fmt, ...)
{
	char reason[sizeof(p->told)];
	va_list args;
	va_start(args, fmt);
	vsnprintf(reason, sizeof(reason), fmt, args);
	va_end(args);
	bool lost = protector_get_shown(p) == SHOWN_PROTECTED;
	protector_show(p, SHOWN_UNPROTECTED, "%s", reason);
	bool recently = p->told_ms != 0 && fleet_now_ms() - p->told_ms < PROTECT_TELL_AGAIN_MS;
	if (!lost && (recently || strcmp(p->told, reason) == 0))
		return;
	snprintf(p->told, sizeof(p->told), "%s", reason);
	p->told_ms = fleet_now_ms();
	fleet_event(p->fleet, "warning", p->object, "unprotected: %s", reason);
}

/* ---- the two hostds -------------------------------------------------------------------------- */

cJSON *protector_params(const struct protector *p)
{
	cJSON *params = cJSON_CreateObject();
	cJSON_AddStringToObject(params, "uuid", p->cvm.uuid);
	return params;
}

int protector_ask(struct protector *p, const struct protector_side *side, const char *method,
	cJSON *params, int timeout_ms, cJSON **result, struct jsonrpc_error *err)
{
	if (params == NULL)
		params = protector_params(p);
	int rc = side->client == NULL
			 ? jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "", "not connected")
			 : hostd_client_call(side->client, method, params, timeout_ms, result, err);
	cJSON_Delete(params);
	return rc;
}

static void side_close(struct protector *p, struct protector_side *side)
{
	hostd_client_close(side->client);
	side->client = NULL;
	if (side->server != NULL)
		fleet_server_unref(p->fleet, side->server);
	side->server = NULL;
}

/* Connects to the server's hostd, unless that was done. 0, or -1 with `why`. */
static int side_open(
	struct protector *p, struct protector_side *side, int64_t server_id, struct why *why)
{
	struct server stored;
	if (side->server != NULL && side->server->id == server_id)
		return 0;
	side_close(p, side);
	side->server = fleet_server_ref(p->fleet, server_id);
	if (side->server == NULL || fleet_server_load(p->fleet, server_id, &stored) != 0) {
		side_close(p, side);
		why_set(why, ENOENT, "its server isn't known any more");
		return -1;
	}
	snprintf(side->trunk, sizeof(side->trunk), "%s", stored.trunk);
	if (stored.hostd[0] == '\0')
		why_set(why, ENOENT, "server %s has no edgeplex-hostd", stored.name);
	else
		side->client = hostd_client_open(stored.hostd, on_hostd_changed, side, why);
	if (side->client != NULL)
		return 0;
	side_close(p, side);
	return -1;
}

int protector_connect(struct protector *p, struct why *why)
{
	if (side_open(p, &p->primary_side, p->cvm.server_id, why) != 0 ||
		side_open(p, &p->standby_side, p->row.standby_id, why) != 0)
		return -1;
	return 0;
}

void protector_disconnect(struct protector *p)
{
	side_close(p, &p->primary_side);
	side_close(p, &p->standby_side);
	pthread_mutex_lock(&p->lock);
	p->facts = (struct protect_facts){.primary = PRIMARY_UNKNOWN};
	p->guest_serial++;
	p->epoch_at_ms = p->alarm_us = p->unheard_since_ms = 0;
	cJSON_Delete(p->figures);
	p->figures = NULL;
	pthread_mutex_unlock(&p->lock);
}

void protector_ask_primary(struct protector *p, int timeout_ms)
{
	struct jsonrpc_error err = {0};
	cJSON *status = NULL;
	pthread_mutex_lock(&p->lock);
	uint64_t serial = p->primary_serial;
	pthread_mutex_unlock(&p->lock);
	int64_t begun_ms = fleet_now_ms();
	int rc = protector_ask(
		p, &p->primary_side, "protect.status", NULL, timeout_ms, &status, &err);
	bool late = fleet_now_ms() - begun_ms >= timeout_ms;
	pthread_mutex_lock(&p->lock);
	/* What it told of itself meanwhile is newer. */
	if (rc == 0 && serial == p->primary_serial) {
		protector_hear_primary(p, status);
	} else if (rc != 0 && serial == p->primary_serial) {
		p->facts.primary = err.code != JSONRPC_UNAVAILABLE ? PRIMARY_FREE
				   : late                          ? PRIMARY_HANGS
								   : PRIMARY_REFUSED;
		if (err.code == JSONRPC_UNAVAILABLE)
			fleet_protector_alarm(p);
	}
	pthread_mutex_unlock(&p->lock);
	cJSON_Delete(status);
	p->asked_ms = fleet_now_ms();
}

void protector_ask_standby(struct protector *p, int timeout_ms)
{
	struct jsonrpc_error err = {0};
	cJSON *result = NULL;
	const cJSON *copy, *found = NULL;
	int rc = protector_ask(p, &p->standby_side, "move.status", NULL, timeout_ms, &result, &err);
	cJSON_ArrayForEach (copy, cJSON_GetObjectItemCaseSensitive(result, "copies")) {
		if (strcmp(answer_text(copy, "role"), "destination") == 0)
			found = copy;
	}
	pthread_mutex_lock(&p->lock);
	if (found != NULL)
		hear_standby_locked(p, found);
	else
		p->facts.standby = rc == 0 || err.code != JSONRPC_UNAVAILABLE ? STANDBY_ABSENT
									      : STANDBY_UNREACHABLE;
	pthread_mutex_unlock(&p->lock);
	cJSON_Delete(result);
}

struct fleet_vm *protector_ref_vm(struct protector *p)
{
	pthread_mutex_lock(&p->fleet->lock);
	struct fleet_vm *vm = fleet_vm_find(p->fleet, p->cvm.uuid);
	if (vm != NULL)
		vm->refs++;
	pthread_mutex_unlock(&p->fleet->lock);
	return vm;
}

/* In a thread of its own: a guest that is gone takes its time, and there may be news meanwhile. */
static void *asker_main(void *arg)
{
	struct protector *p = arg;
	struct fleet *fleet = p->fleet;
	struct jsonrpc_error err = {0};
	enum protect_guest guest = GUEST_GONE;
	char uuid[MODEL_UUID_SIZE];
	pthread_mutex_lock(&p->lock);
	snprintf(uuid, sizeof(uuid), "%s", p->uuid);
	uint64_t serial = p->guest_serial;
	pthread_mutex_unlock(&p->lock);
	pthread_mutex_lock(&fleet->lock);
	struct fleet_vm *vm = fleet_vm_find(fleet, uuid);
	if (vm != NULL)
		vm->refs++;
	pthread_mutex_unlock(&fleet->lock);
	if (vm != NULL &&
		guest_call(vm->guest, "guest.info", NULL, PROTECT_ASK_GUEST_MS, NULL, &err) == 0)
		guest = GUEST_ANSWERS;
	else if (vm != NULL && guest_connected(vm->guest))
		guest = GUEST_SLOW;
	else if (fleet_now_ms() - p->begun_ms < PROTECT_CHANNEL_MS)
		guest = GUEST_UNKNOWN;
	pthread_mutex_lock(&p->lock);
	if (serial == p->guest_serial) {
		p->facts.guest = guest;
		if (guest == GUEST_ANSWERS)
			p->unheard_since_ms = 0;
		else if (p->unheard_since_ms == 0)
			p->unheard_since_ms = fleet_now_ms();
	}
	p->kicked = true;
	pthread_cond_broadcast(&p->news);
	pthread_mutex_unlock(&p->lock);
	if (vm != NULL)
		fleet_vm_unref(fleet, vm);
	pthread_mutex_lock(&p->lock);
	p->guest_asked = false; /* from now on `p` may be freed */
	pthread_cond_broadcast(&p->news);
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

void protector_ask_guest(struct protector *p)
{
	pthread_t asker;
	pthread_mutex_lock(&p->lock);
	bool asked = p->guest_asked;
	if (!asked && pthread_create(&asker, NULL, asker_main, p) == 0) {
		p->guest_asked = true;
		pthread_detach(asker);
	}
	pthread_mutex_unlock(&p->lock);
	/* How old its last whole epoch is, the standby's hostd tells only when it is asked. */
	protector_ask_standby(p, PROTECT_ASK_PRIMARY_MS);
}

struct link_view protector_trunk_link(struct fleet_site *site, const char *trunk)
{
	struct fabric_port_state *ports = NULL;
	struct link_view view = {.known = false};
	size_t n = 0;
	if (site == NULL || fabric_ports(site->fabric, &ports, &n, NULL) != 0)
		return view;
	view.known = n > 0;
	for (size_t i = 0; i < n; i++) {
		if (strcmp(ports[i].name, trunk) == 0)
			view.up = ports[i].link;
	}
	free(ports);
	return view;
}

struct protect_facts protector_facts(struct protector *p)
{
	pthread_mutex_lock(&p->lock);
	struct protect_facts facts = p->facts;
	facts.epoch_age_ms = fleet_now_ms() - p->epoch_at_ms;
	facts.unheard_ms = p->unheard_since_ms == 0 ? 0 : fleet_now_ms() - p->unheard_since_ms;
	facts.asked = p->asked;
	pthread_mutex_unlock(&p->lock);
	facts.interval_ms = (int)p->row.interval_ms;
	facts.timeout_ms = (int)p->row.timeout_ms;
	struct link_view link = protector_trunk_link(p->fleet_site, p->primary_side.trunk);
	facts.trunk_down = link.known && !link.up;
	link = protector_trunk_link(p->fleet_site, p->standby_side.trunk);
	facts.standby_trunk_down = link.known && !link.up;
	return facts;
}

/* ---- the store ------------------------------------------------------------------------------- */

int protector_load(struct protector *p)
{
	struct protection row;
	struct cvm cvm;
	int err = store_protection_get(p->fleet->store, p->site, &row);
	if (err == 0)
		err = store_cvm_get(p->fleet->store, p->site, &cvm);
	if (err != 0)
		return err;
	p->row = row;
	p->cvm = cvm;
	pthread_mutex_lock(&p->lock);
	snprintf(p->uuid, sizeof(p->uuid), "%s", cvm.uuid);
	p->noisy = row.state >= PROTECTION_SYNCING;
	pthread_mutex_unlock(&p->lock);
	return 0;
}

typedef void (*protection_edit)(void *ctx, struct protection *row, struct cvm *cvm);

int protector_change(struct protector *p, protection_edit edit, void *ctx, int64_t void_at)
{
	struct store *store = p->fleet->store;
	struct protection row;
	struct cvm cvm;
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_protection_get(store, p->site, &row);
	if (err == 0)
		err = store_cvm_get(store, p->site, &cvm);
	if (err == 0) {
		uint32_t past = row.past.count;
		edit(ctx, &row, &cvm);
		err = store_protection_put(store, &row);
		if (err == 0 && row.past.count != past)
			err = store_failovers_put(store, row.site_id, &row.past);
	}
	if (err == 0)
		err = store_cvm_update(store, &cvm);
	if (err == 0 && void_at != 0 && void_at != cvm.server_id)
		err = store_void_add(store, cvm.site_id, void_at);
	if (err != 0) {
		store_rollback(store);
	} else {
		err = store_commit(store);
	}
	if (err == 0)
		protector_load(p);
	else
		log_error("a protection's progress can't be stored, check the disk object=%s",
			p->object);
	return err;
}

static void edit_state(void *ctx, struct protection *row, struct cvm *cvm)
{
	(void)cvm;
	row->state = *(enum protection_state *)ctx;
	if (row->state == PROTECTION_NONE)
		row->standby_id = 0;
}

int protector_set_state(struct protector *p, enum protection_state state)
{
	return protector_change(p, edit_state, &state, 0);
}

bool protector_drop_standby(struct protector *p)
{
	enum protection_state none = PROTECTION_NONE;
	if (protector_change(p, edit_state, &none, p->row.standby_id) != 0)
		return false;
	protector_disconnect(p);
	protector_set_stage(p, FLEET_PROTECT_NONE);
	fleet_reaper_kick(p->fleet);
	fleet_kick(p->fleet);
	return true;
}

void protector_end_standby(struct protector *p)
{
	struct jsonrpc_error err = {0};
	if (p->row.state >= PROTECTION_SYNCING && p->primary_side.client != NULL &&
		protector_ask(p, &p->primary_side, "protect.stop", NULL,
			(int)p->row.timeout_ms + PROTECT_STOP_MS, NULL, &err) != 0 &&
		err.code != JSONRPC_NOT_FOUND)
		log_info("protect.stop wasn't carried out object=%s why=\"%s\"", p->object,
			err.message);
	protector_drop_standby(p);
}

void protector_attempt_failed(struct protector *p, const char *fmt, ...)
{
	char reason[sizeof(p->failure)];
	va_list args;
	va_start(args, fmt);
	vsnprintf(reason, sizeof(reason), fmt, args);
	va_end(args);
	pthread_mutex_lock(&p->lock);
	p->failures++;
	snprintf(p->failure, sizeof(p->failure), "%s", reason);
	pthread_mutex_unlock(&p->lock);
	p->retry_ms = fleet_now_ms() + PROTECT_RETRY_MS;
	protector_show_unprotected(p, "%s", reason);
}
