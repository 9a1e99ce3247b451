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
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "controller/fleet_internal.h"
#include "controller/hostd_client.h"
#include "controller/protect_decide.h"
#include "controller/registry.h"

static int64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int64_t realtime_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static double number(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
	return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

static const char *text(const cJSON *object, const char *name)
{
	const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
	return value != NULL ? value : "";
}

/* ---- what is heard ------------------------------------------------------------------------- */

void fleet_protector_alarm(struct protector *p)
{
	if (p->alarm_us == 0)
		p->alarm_us = now_us();
}

/* A status of the primary. The lock is held. */
static void hear_primary_locked(struct protector *p, const cJSON *status)
{
	enum protect_primary before = p->facts.primary;
	p->facts.primary = protect_primary_parse(text(status, "state"));
	p->primary_serial++;
	p->unheard_since_ms = 0;
	p->facts.guest = GUEST_UNKNOWN;
	snprintf(p->primary_reason, sizeof(p->primary_reason), "%s", text(status, "reason"));
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
	enum protect_standby state = protect_standby_parse(text(status, "state"));
	if (number(status, "epoch") > 0)
		p->epoch_at_ms = fleet_now_ms() - (int64_t)number(status, "epoch_age_ms");
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
	} else if (strcasecmp(text(status, "uuid"), p->uuid) == 0) {
		const char *role = text(status, "role");
		if (!side->is_standby && strcmp(role, "primary") == 0)
			hear_primary_locked(p, status);
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
		p->ports_us = now_us();
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

/* ---- what is shown ------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) static void show(
	struct protector *p, enum protector_shown shown, const char *fmt, ...)
{
	char reason[sizeof(p->reason)];
	va_list args;
	va_start(args, fmt);
	vsnprintf(reason, sizeof(reason), fmt, args);
	va_end(args);
	pthread_mutex_lock(&p->lock);
	if (p->shown != shown || p->since_ms == 0)
		p->since_ms = realtime_ms();
	p->shown = shown;
	snprintf(p->reason, sizeof(p->reason), "%s", reason);
	pthread_mutex_unlock(&p->lock);
}

static enum protector_shown get_shown(struct protector *p)
{
	pthread_mutex_lock(&p->lock);
	enum protector_shown shown = p->shown;
	pthread_mutex_unlock(&p->lock);
	return shown;
}

static void set_stage(struct protector *p, enum fleet_protect_stage stage)
{
	pthread_mutex_lock(&p->lock);
	p->stage = stage;
	pthread_mutex_unlock(&p->lock);
}

/*
 * Shows that there is no protection, and tells why: when it is lost, and then now and again if
 * there is another reason. Attempts that fail in turn, each for a reason of its own, aren't news.
 */
__attribute__((format(printf, 2, 3))) static void show_unprotected(
	struct protector *p, const char *fmt, ...)
{
	char reason[sizeof(p->told)];
	va_list args;
	va_start(args, fmt);
	vsnprintf(reason, sizeof(reason), fmt, args);
	va_end(args);
	bool lost = get_shown(p) == SHOWN_PROTECTED;
	show(p, SHOWN_UNPROTECTED, "%s", reason);
	bool recently = p->told_ms != 0 && fleet_now_ms() - p->told_ms < PROTECT_TELL_AGAIN_MS;
	if (!lost && (recently || strcmp(p->told, reason) == 0))
		return;
	snprintf(p->told, sizeof(p->told), "%s", reason);
	p->told_ms = fleet_now_ms();
	fleet_event(p->fleet, "warning", p->object, "unprotected: %s", reason);
}

/* ---- the two hostds ------------------------------------------------------------------------ */

static cJSON *uuid_params(const struct protector *p)
{
	cJSON *params = cJSON_CreateObject();
	cJSON_AddStringToObject(params, "uuid", p->cvm.uuid);
	return params;
}

/* Takes `params`; NULL: only the UUID. `*result` (may be NULL) becomes the caller's. 0 or -1. */
static int ask(struct protector *p, const struct protector_side *side, const char *method,
	cJSON *params, int timeout_ms, cJSON **result, struct jsonrpc_error *err)
{
	if (params == NULL)
		params = uuid_params(p);
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

/* Both: those of the store. */
static int sides_open(struct protector *p, struct why *why)
{
	if (side_open(p, &p->primary_side, p->cvm.server_id, why) != 0 ||
		side_open(p, &p->standby_side, p->row.standby_id, why) != 0)
		return -1;
	return 0;
}

/* Forgets both servers and all that was heard of them. */
static void sides_close(struct protector *p)
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

static void ask_primary(struct protector *p, int timeout_ms)
{
	struct jsonrpc_error err = {0};
	cJSON *status = NULL;
	pthread_mutex_lock(&p->lock);
	uint64_t serial = p->primary_serial;
	pthread_mutex_unlock(&p->lock);
	int64_t begun_ms = fleet_now_ms();
	int rc = ask(p, &p->primary_side, "protect.status", NULL, timeout_ms, &status, &err);
	bool late = fleet_now_ms() - begun_ms >= timeout_ms;
	pthread_mutex_lock(&p->lock);
	/* What it told of itself meanwhile is newer. */
	if (rc == 0 && serial == p->primary_serial) {
		hear_primary_locked(p, status);
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

static void ask_standby(struct protector *p, int timeout_ms)
{
	struct jsonrpc_error err = {0};
	cJSON *result = NULL;
	const cJSON *copy, *found = NULL;
	int rc = ask(p, &p->standby_side, "move.status", NULL, timeout_ms, &result, &err);
	cJSON_ArrayForEach (copy, cJSON_GetObjectItemCaseSensitive(result, "copies")) {
		if (strcmp(text(copy, "role"), "destination") == 0)
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

/* A reference to the CVM's entry; NULL: there is none. */
static struct fleet_vm *ref_vm(struct protector *p)
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

/* Begins to ask; the answer comes as news. */
static void ask_guest(struct protector *p)
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
	ask_standby(p, PROTECT_ASK_PRIMARY_MS);
}

/* ---- the store ----------------------------------------------------------------------------- */

/* Reads what is wanted and how far it is. ENOENT: the CVM isn't to be protected. */
static int load(struct protector *p)
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

typedef void (*row_edit)(void *ctx, struct protection *row, struct cvm *cvm);

/*
 * Changes protection and CVM in one transaction, in which `edit` may refuse by leaving the state as
 * it is. `void_at`: a server where a copy has become void; 0: none. Errno; then nothing was stored.
 */
static int change(struct protector *p, row_edit edit, void *ctx, int64_t void_at)
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
		edit(ctx, &row, &cvm);
		err = store_protection_put(store, &row);
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
		load(p);
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

static int set_state(struct protector *p, enum protection_state state)
{
	return change(p, edit_state, &state, 0);
}

/* There is no standby any more: what is left of it is void. False: it couldn't be stored. */
static bool drop_standby(struct protector *p)
{
	enum protection_state none = PROTECTION_NONE;
	if (change(p, edit_state, &none, p->row.standby_id) != 0)
		return false;
	sides_close(p);
	set_stage(p, FLEET_PROTECT_NONE);
	fleet_reaper_kick(p->fleet);
	fleet_kick(p->fleet);
	return true;
}

/*
 * Ends the protection in good order: the primary is let go before its standby is ended, so it never
 * waits for an acknowledgement that won't come.
 */
static void end_protection(struct protector *p)
{
	struct jsonrpc_error err = {0};
	if (p->row.state >= PROTECTION_SYNCING && p->primary_side.client != NULL &&
		ask(p, &p->primary_side, "protect.stop", NULL,
			(int)p->row.timeout_ms + PROTECT_STOP_MS, NULL, &err) != 0 &&
		err.code != JSONRPC_NOT_FOUND)
		log_info("protect.stop wasn't carried out object=%s why=\"%s\"", p->object,
			err.message);
	drop_standby(p);
}

/* An attempt at a standby has failed. */
__attribute__((format(printf, 2, 3))) static void attempt_failed(
	struct protector *p, const char *fmt, ...)
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
	show_unprotected(p, "%s", reason);
}

/* ---- making a standby ---------------------------------------------------------------------- */

struct link_view {
	bool known, up;
};

/* Has the site's switch a carrier on this trunk? Doesn't block. */
static struct link_view trunk_link(struct fleet_site *site, const char *trunk)
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

struct placing_view {
	struct protector *p;
	struct server *servers;
	size_t n;
};

/* Could a standby that takes over there be heard? */
static bool is_usable(void *ctx, int64_t server_id)
{
	const struct placing_view *view = ctx;
	if (!fleet_server_connected(view->p->fleet, server_id))
		return false;
	for (size_t i = 0; i < view->n; i++) {
		if (view->servers[i].id != server_id)
			continue;
		struct link_view link = trunk_link(view->p->fleet_site, view->servers[i].trunk);
		return !link.known || link.up;
	}
	return false;
}

/* Chooses a server and stores it. */
static int place_standby(struct protector *p, struct problem *problem)
{
	struct placing_view view = {.p = p};
	if (store_server_list(p->fleet->store, &view.servers, &view.n) != 0)
		return problem_set(problem, 500, "internal", "the database can't be used");
	int rc = registry_standby_place(
		p->fleet->store, p->site, p->avoid_id, is_usable, &view, &p->row, problem);
	if (rc != 0 && p->avoid_id != 0) { /* better there than nowhere */
		*problem = (struct problem){0};
		rc = registry_standby_place(
			p->fleet->store, p->site, 0, is_usable, &view, &p->row, problem);
	}
	free(view.servers);
	p->avoid_id = 0;
	snprintf(p->placed_for, sizeof(p->placed_for), "%s", p->row.wanted_server);
	return rc;
}

/* Tells a hostd to forget what it knows of this VM on one side, whatever that is. */
static void forget(struct protector *p, const struct protector_side *side, const char *method,
	const char *role, int timeout_ms)
{
	struct jsonrpc_error err = {0};
	cJSON *params = uuid_params(p);
	if (role != NULL)
		cJSON_AddStringToObject(params, "role", role);
	if (ask(p, side, method, params, timeout_ms, NULL, &err) != 0 &&
		err.code != JSONRPC_NOT_FOUND)
		log_info("%s wasn't carried out object=%s why=\"%s\"", method, p->object,
			err.message);
}

/* From here on epochs follow each other. 0, or -1 with `err`. */
static int begin_epochs(struct protector *p, struct jsonrpc_error *err)
{
	cJSON *info = NULL, *prepared = NULL, *status = NULL;
	char path[300];
	/* The monitor of a VM that was once a standby itself has to be free. */
	while (p->finish_ms > fleet_now_ms() && fleet_pause(p->fleet, 50))
		;
	forget(p, &p->primary_side, "move.finish", "destination", PROTECT_HOSTD_MS);
	forget(p, &p->standby_side, "move.finish", "destination", PROTECT_HOSTD_MS);
	fleet_qmp_path(p->fleet, p->cvm.uuid, path);
	if (ask(p, &p->standby_side, "hostd.info", NULL, PROTECT_HOSTD_MS, &info, err) != 0)
		return -1;
	cJSON *params = uuid_params(p);
	cJSON_AddStringToObject(params, "qmp_path", path);
	cJSON_AddNumberToObject(params, "silence_ms", PROTECT_SILENCE_MS);
	int rc = ask(
		p, &p->standby_side, "receive.prepare", params, PROTECT_HOSTD_MS, &prepared, err);
	if (rc == 0 && set_state(p, PROTECTION_SYNCING) != 0)
		rc = jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "the database can't be used");
	if (rc == 0) {
		params = uuid_params(p);
		cJSON_AddStringToObject(params, "qmp_path", path);
		cJSON_AddNumberToObject(params, "interval_ms", p->row.interval_ms);
		cJSON_AddNumberToObject(params, "timeout_ms", p->row.timeout_ms);
		cJSON *to = cJSON_AddObjectToObject(params, "to");
		cJSON_AddStringToObject(to, "address", text(info, "listen"));
		cJSON_AddStringToObject(to, "ticket", text(prepared, "ticket"));
		rc = ask(p, &p->primary_side, "protect.start", params, 3 * PROTECT_HOSTD_MS,
			&status, err);
	}
	if (rc == 0) {
		pthread_mutex_lock(&p->lock);
		hear_primary_locked(p, status);
		p->facts.standby = STANDBY_RECEIVING;
		p->facts.interrupted = false;
		pthread_mutex_unlock(&p->lock);
	}
	cJSON_Delete(info);
	cJSON_Delete(prepared);
	cJSON_Delete(status);
	return rc;
}

/* Is the primary there to be protected? */
static bool primary_runs(struct protector *p, char why[160])
{
	struct hv_vm vm;
	struct fleet_server *server = fleet_server_ref(p->fleet, p->cvm.server_id);
	int err = server == NULL ? ENOENT : hv_vm_get(server->hv, p->cvm.uuid, &vm, NULL);
	if (server != NULL)
		fleet_server_unref(p->fleet, server);
	if (err == EHOSTUNREACH)
		snprintf(why, 160, "server %s is not connected", p->cvm.server);
	else
		snprintf(why, 160, "the CVM doesn't run on server %s", p->cvm.server);
	return err == 0 && vm.state == HV_VM_RUNNING;
}

static void make_standby(struct protector *p)
{
	struct target target;
	struct problem problem = {0};
	struct jsonrpc_error err = {0};
	struct why why = {""};
	char reason[160];
	if (!primary_runs(p, reason)) {
		attempt_failed(p, "%s", reason);
		return;
	}
	if (place_standby(p, &problem) != 0) {
		attempt_failed(p, "no server for a standby: %.200s",
			problem.status == 503 ? "no other server of the site that is in service is "
						"connected and has a trunk with a carrier"
					      : problem.detail);
		return;
	}
	char name[MODEL_NAME_SIZE];
	int64_t server_id = p->row.standby_id;
	snprintf(name, sizeof(name), "%s", p->row.standby);
	if (get_shown(p) != SHOWN_UNPROTECTED)
		show(p, SHOWN_STARTING, "a standby is started on server %s", name);
	if (!fleet_reaper_await(p->fleet, p->row.site_id, p->row.standby_id))
		return;
	if (fleet_target_load(p->fleet, p->object, &target) != 0)
		return;
	if (sides_open(p, &why) != 0) {
		drop_standby(p);
		attempt_failed(p, "%.200s", why.text);
		return;
	}
	if (fleet_start_copy(p->fleet, p->object, &target, p->primary_side.server,
		    p->standby_side.server, &problem) != 0) {
		drop_standby(p);
		p->avoid_id = server_id;
		attempt_failed(p, "no standby on server %s: %.200s", name, problem.detail);
		return;
	}
	set_stage(p, FLEET_PROTECT_STARTED);
	if (begin_epochs(p, &err) != 0) {
		end_protection(p);
		p->avoid_id = server_id;
		attempt_failed(p, "protection by server %s can't begin: %.200s", name, err.message);
		return;
	}
	p->copy_since_ms = fleet_now_ms();
	p->copy_bytes = -1;
	set_stage(p, FLEET_PROTECT_COPYING);
	show(p, SHOWN_SYNCING, "memory is copied to server %s", name);
}

/* ---- taking over --------------------------------------------------------------------------- */

/* Whoever speaks with the CVM finds it where the store says that it is. */
static void follow_store(struct protector *p)
{
	struct fleet_vm *vm = ref_vm(p);
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

/*
 * No copy is of any use: the CVM's keeper starts it afresh, on its own server if that can be
 * reached, else where its standby was.
 */
static void start_anew(struct protector *p, const char *reason)
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
	if (change(p, edit_fresh_start, &start, start.elsewhere ? own_id : standby_id) != 0)
		return;
	sides_close(p);
	set_stage(p, FLEET_PROTECT_NONE);
	follow_store(p);
	p->retry_ms = fleet_now_ms() + PROTECT_RETRY_MS;
	show_unprotected(p, "the CVM is started anew on server %s: %.150s", p->cvm.server, reason);
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
	row->last = (struct failover){.time_ms = realtime_ms(), .why = take->why};
	snprintf(row->last.from, sizeof(row->last.from), "%s", cvm->server);
	snprintf(row->last.to, sizeof(row->last.to), "%s", row->standby);
}

static void edit_end_takeover(void *ctx, struct protection *row, struct cvm *cvm)
{
	const struct takeover *take = ctx;
	cvm->server_id = row->standby_id;
	row->state = PROTECTION_NONE;
	row->standby_id = 0;
	row->failovers++;
	row->last.fenced_us = take->fenced_us - take->noticed_us;
	row->last.running_us = take->running_us - take->noticed_us;
	snprintf(row->last.detail, sizeof(row->last.detail),
		"stored after %.1f ms, fenced after %.1f, running after %.1f (loaded in %.1f); "
		"epoch %.0f, %lld ms old%s",
		(double)(take->stored_us - take->noticed_us) / 1000,
		(double)row->last.fenced_us / 1000, (double)row->last.running_us / 1000,
		take->loaded_us / 1000, take->epoch, (long long)take->epoch_age_ms,
		take->resumed ? "; edgeplexd was restarted meanwhile" : "");
}

/* A take-over that isn't one: the primary speaks, alone. */
static void go_back(struct protector *p, const char *reason)
{
	struct why why = {""};
	if (!drop_standby(p))
		return;
	if (fleet_switch_now(p->fleet, p->fleet_site, PROTECT_FENCE_MS, &why) != 0)
		log_warn(
			"the edge switch doesn't follow object=%s why=\"%s\"", p->object, why.text);
	p->retry_ms = 0;
	show_unprotected(p, "%s", reason);
}

static struct protect_facts get_facts(struct protector *p)
{
	pthread_mutex_lock(&p->lock);
	struct protect_facts facts = p->facts;
	facts.epoch_age_ms = fleet_now_ms() - p->epoch_at_ms;
	facts.unheard_ms = p->unheard_since_ms == 0 ? 0 : fleet_now_ms() - p->unheard_since_ms;
	facts.asked = p->asked;
	pthread_mutex_unlock(&p->lock);
	facts.interval_ms = (int)p->row.interval_ms;
	facts.timeout_ms = (int)p->row.timeout_ms;
	struct link_view link = trunk_link(p->fleet_site, p->primary_side.trunk);
	facts.trunk_down = link.known && !link.up;
	link = trunk_link(p->fleet_site, p->standby_side.trunk);
	facts.standby_trunk_down = link.known && !link.up;
	return facts;
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
		ask_primary(p, PROTECT_ASK_PRIMARY_MS);
		struct protect_facts facts = get_facts(p);
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
	take->fenced_us = now_us();
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
		cJSON *status = NULL, *params = uuid_params(p);
		cJSON_AddTrueToObject(params, "fenced");
		if (ask(p, &p->standby_side, "standby.activate", params, PROTECT_ACTIVATE_MS,
			    &status, &err) == 0) {
			take->running_us = now_us();
			take->epoch = number(status, "epoch");
			take->epoch_age_ms = (int64_t)number(status, "epoch_age_ms");
			take->loaded_us = number(
				cJSON_GetObjectItemCaseSensitive(status, "activate_us"), "loaded");
			cJSON_Delete(status);
			return 0;
		}
		take->running_us = now_us();
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
	while (change(p, edit_end_takeover, &done, from_id) != 0) {
		if (!fleet_pause(p->fleet, PROTECT_ALARM_MS))
			return; /* it is found active after the restart */
	}
	/* A server that failed just now is the last choice. */
	p->avoid_id = take->why == FAILOVER_ASKED ? 0 : from_id;
	/* The link to the old primary's hostd, which is to hear of it, is the hostd's own. */
	p->finish_ms = fleet_now_ms() + PROTECT_TAKEN_MS;
	sides_close(p);
	pthread_mutex_lock(&p->lock);
	p->asked = false;
	pthread_mutex_unlock(&p->lock);
	set_stage(p, FLEET_PROTECT_NONE);
	follow_store(p);
	show(p, SHOWN_STARTING, "a new standby is made after the failover");
	snprintf(p->told, sizeof(p->told), "failed over");
	p->told_ms = 0;
	fleet_event(p->fleet, "warning", p->object,
		"failed over from server %s to server %s: %s, %.0f ms (%s)", from, p->cvm.server,
		model_failover_why_name(take->why), (double)p->row.last.running_us / 1000,
		p->row.last.detail);
	p->retry_ms = 0;
	fleet_reaper_kick(p->fleet);
	fleet_kick(p->fleet);
}

/* Is the primary well after all, as its hostd says? */
static bool primary_lives(struct protector *p)
{
	ask_primary(p, PROTECT_ASK_PRIMARY_MS);
	enum protect_primary primary = get_facts(p).primary;
	return primary == PRIMARY_SYNCING || primary == PRIMARY_PROTECTED ||
	       primary == PRIMARY_UNPROTECTED || primary == PRIMARY_FREE;
}

/* From the stored decision to a standby that speaks. */
static void go_on_taking_over(struct protector *p, struct takeover *take)
{
	char why[200] = "";
	show(p, SHOWN_TAKEOVER, "%s", model_failover_why_name(take->why));
	if (take->resumed) {
		ask_standby(p, PROTECT_HOSTD_MS);
		take->active = get_facts(p).standby == STANDBY_ACTIVE || standby_runs(p);
	}
	if (!fence(p, take))
		return;
	if (!take->active && (take->resumed || (take->why != FAILOVER_PRIMARY_DEAD &&
						       take->why != FAILOVER_SERVER_LOST))) {
		struct protect_facts facts;
		ask_primary(p, PROTECT_CHECK_MS);
		facts = get_facts(p);
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
		start_anew(p, why);
}

static void take_over(struct protector *p, enum failover_why why)
{
	struct takeover take = {.why = why};
	pthread_mutex_lock(&p->lock);
	take.noticed_us = p->alarm_us != 0 ? p->alarm_us : now_us();
	pthread_mutex_unlock(&p->lock);
	if (change(p, edit_begin_takeover, &take, 0) != 0 || take.refused)
		return;
	take.stored_us = now_us();
	log_info("a standby takes over object=%s why=%s from=%s to=%s", p->object,
		model_failover_why_name(why), p->row.last.from, p->row.last.to);
	go_on_taking_over(p, &take);
}

/* One that an earlier edgeplexd began. */
static void resume_takeover(struct protector *p)
{
	struct takeover take = {.why = p->row.last.why, .resumed = true};
	struct why why = {""};
	take.noticed_us = take.stored_us = now_us();
	if (sides_open(p, &why) != 0) {
		start_anew(p, why.text);
		return;
	}
	go_on_taking_over(p, &take);
}

/* ---- watching ------------------------------------------------------------------------------ */

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
	double interval = number(p->figures, "interval_ms"),
	       timeout = number(p->figures, "timeout_ms");
	pthread_mutex_unlock(&p->lock);
	if (fleet_server_load(p->fleet, p->row.standby_id, &standby) == 0 && standby.drained) {
		show_unprotected(p, "server %s is drained", standby.name);
		return true;
	}
	if (p->row.wanted_server[0] != '\0' && strcmp(p->row.wanted_server, p->placed_for) != 0 &&
		strcmp(p->row.wanted_server, p->row.standby) != 0 &&
		strcmp(p->row.wanted_server, p->cvm.server) != 0) {
		show_unprotected(p, "the standby is moved to server %s", p->row.wanted_server);
		return true;
	}
	snprintf(p->placed_for, sizeof(p->placed_for), "%s", p->row.wanted_server);
	if (known && (uint32_t)timeout != p->row.timeout_ms) {
		show_unprotected(p, "its time-out is changed");
		return true;
	}
	if (known && (uint32_t)interval != p->row.interval_ms) {
		cJSON *params = uuid_params(p);
		cJSON_AddNumberToObject(params, "interval_ms", p->row.interval_ms);
		if (ask(p, &p->primary_side, "protect.set", params, PROTECT_HOSTD_MS, NULL, &err) ==
			0)
			ask_primary(p, PROTECT_ASK_PRIMARY_MS);
	}
	return false;
}

static void note_whole(struct protector *p)
{
	if (p->row.state != PROTECTION_WHOLE && set_state(p, PROTECTION_WHOLE) != 0)
		return;
	if (get_shown(p) == SHOWN_PROTECTED)
		return;
	show(p, SHOWN_PROTECTED, "%s", "");
	set_stage(p, FLEET_PROTECT_WHOLE);
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
		show_unprotected(p,
			"edgeplex-hostd of server %s doesn't answer, and may hold back what the "
			"CVM "
			"says: restart it there",
			p->cvm.server);
}

/* The first copy: tells how far it is. Returns false when it doesn't get on. */
static bool watch_copy(struct protector *p)
{
	ask_primary(p, PROTECT_HOSTD_MS);
	pthread_mutex_lock(&p->lock);
	double bytes = number(p->figures, "bytes");
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
	end_protection(p);
	if (first)
		attempt_failed(p, "%.250s", reason);
	else
		show_unprotected(p, "%.250s", reason);
	p->retry_ms = first ? p->retry_ms : 0;
}

/* Asks, decides and acts until there is nothing to do. Returns for how long. */
static unsigned watch(struct protector *p)
{
	struct why unknown = {""};
	enum failover_why why;
	if (sides_open(p, &unknown) != 0) {
		end_protection(p);
		attempt_failed(p, "%.200s", unknown.text);
		return 0;
	}
	if (apply_changes(p)) {
		end_protection(p);
		p->retry_ms = 0;
		return 0;
	}
	if (p->row.state == PROTECTION_SYNCING && get_shown(p) == SHOWN_SYNCING && !watch_copy(p)) {
		end_protection(p);
		attempt_failed(p,
			"the copy made no progress for %d s: check the network between "
			"the servers",
			PROTECT_COPY_STALLED_MS / 1000);
		return 0;
	}
	refresh_facts(p);
	for (unsigned asked = 0; !fleet_is_stopping(p->fleet); asked++) {
		struct protect_facts facts = get_facts(p);
		enum protect_action action = protect_decide(&facts, &why);
		if (facts.trunk_down || facts.asked) {
			pthread_mutex_lock(&p->lock);
			bool just_seen =
				facts.trunk_down && now_us() - p->ports_us < PROTECT_LOOK_MS * 1000;
			if (p->alarm_us == 0)
				p->alarm_us = just_seen ? p->ports_us : now_us();
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
				ask_guest(p);
			ask_primary(p, PROTECT_ASK_PRIMARY_MS);
			continue;
		case PROTECT_ASK_STANDBY:
			ask_standby(p, PROTECT_ASK_PRIMARY_MS);
			continue;
		case PROTECT_ASK_GUEST:
			ask_guest(p);
			return PROTECT_ALARM_MS;
		case PROTECT_TAKE_OVER:
			take_over(p, why);
			return 0;
		case PROTECT_BEGIN_ANEW:
			begin_anew(p);
			return 0;
		case PROTECT_START_ANEW:
			start_anew(p, facts.primary == PRIMARY_DEAD
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

/* ---- the thread ---------------------------------------------------------------------------- */

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
		show_unprotected(p, "%s", in_the_way);
		p->retry_ms = 0;
		return PROTECT_LOOK_MS;
	}
	if (left > 0)
		return left < PROTECT_LOOK_MS ? (unsigned)left : PROTECT_LOOK_MS;
	make_standby(p);
	return p->row.state >= PROTECTION_SYNCING ? 0 : PROTECT_LOOK_MS;
}

/* One look at everything. Returns for how long there is nothing to do. */
static unsigned attend(struct protector *p)
{
	if (load(p) != 0) {
		sides_close(p);
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
		drop_standby(p);
		return 0;
	case PROTECTION_TAKEOVER:
		resume_takeover(p);
		return 0;
	case PROTECTION_SYNCING:
	case PROTECTION_WHOLE:
		break;
	}
	if (obstacle(p)[0] == '\0')
		return watch(p);
	struct why why = {""};
	sides_open(p, &why);
	char reason[100];
	snprintf(reason, sizeof(reason), "%s", obstacle(p));
	bool ending = p->row.ending;
	end_protection(p);
	if (!ending)
		show_unprotected(p, "%s", reason);
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
	sides_close(p);
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
	else if (row.failovers > 0)
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
