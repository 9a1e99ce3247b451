/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What operations and the API want of CVMs' protection (fleet.h). They look at what is stored and
 * at what the protectors show, and wake them; nothing is done here.
 */

#include "controller/fleet_protect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "controller/answer.h"
#include "controller/hostd_client.h"

static const char *const shown_names[] = {
	"starting", "syncing", "protected", "unprotected", "failing-over"};

static const char *site_of(const char *object)
{
	return strchr(object, '/') + 1;
}

/* Calls `look` for the site's protector, with its lock held; NULL if there is none. */
typedef bool (*look_fn)(struct protector *p, void *ctx);
static bool with_protector(struct fleet *fleet, const char *site, look_fn look, void *ctx)
{
	pthread_mutex_lock(&fleet->lock);
	struct protector *p = fleet_protector_find(fleet, site);
	bool result;
	if (p != NULL)
		pthread_mutex_lock(&p->lock);
	result = look(p, ctx);
	if (p != NULL)
		pthread_mutex_unlock(&p->lock);
	pthread_mutex_unlock(&fleet->lock);
	return result;
}

struct await {
	enum fleet_protect_stage wanted, stage;
	uint64_t generation;
	bool begun, done, failed;
	unsigned failures;
	char text[256];
};

static bool look_at_stage(struct protector *p, void *ctx)
{
	struct await *await = ctx;
	if (p == NULL || p->looked_at < await->generation)
		return false;
	if (!await->begun)
		await->failures = p->failures;
	await->begun = true;
	await->stage = p->stage;
	await->done = p->stage >= await->wanted;
	await->failed = !await->done && p->failures != await->failures;
	if (await->failed)
		snprintf(await->text, sizeof(await->text), "%s", p->failure);
	else if (p->stage >= FLEET_PROTECT_COPYING)
		snprintf(await->text, sizeof(await->text), "%.1f MB in pass %.0f",
			answer_number(p->figures, "bytes") / 1e6,
			answer_number(p->figures, "passes"));
	else
		snprintf(await->text, sizeof(await->text), "%.200s", p->reason);
	return true;
}

int fleet_protect_await(struct fleet *fleet, const char *object, enum fleet_protect_stage stage,
	fleet_progress_fn progress, void *ctx, struct problem *problem)
{
	struct await await = {.wanted = stage, .generation = store_generation(fleet->store)};
	struct protection row;
	fleet_protect_ensure(fleet, site_of(object));
	fleet_kick(fleet);
	for (;;) {
		if (store_protection_get(fleet->store, site_of(object), &row) == ENOENT)
			return fleet_gone(problem, object);
		with_protector(fleet, site_of(object), look_at_stage, &await);
		if (await.text[0] != '\0')
			progress(ctx, await.text);
		if (await.done)
			return 0;
		if (await.failed)
			return problem_set(problem, 503, "not-protected",
				"%s. It is tried again and again by itself, until \"edgeplex cvm "
				"unprotect %s\"",
				await.text, site_of(object));
		if (!fleet_pause(fleet, 50))
			return fleet_interrupted(problem);
	}
}

static bool set_asked(struct protector *p, void *ctx)
{
	(void)ctx;
	if (p == NULL)
		return false;
	p->asked = true;
	p->ask_failure[0] = '\0';
	fleet_protector_alarm(p);
	p->kicked = true;
	pthread_cond_signal(&p->news);
	return true;
}

static bool get_ask_failure(struct protector *p, void *ctx)
{
	if (p == NULL || p->ask_failure[0] == '\0' || p->asked)
		return false;
	snprintf(ctx, sizeof(p->ask_failure), "%s", p->ask_failure);
	return true;
}

int fleet_protect_failover(struct fleet *fleet, const char *object, int64_t since_ms, char *detail,
	size_t size, struct problem *problem)
{
	const char *site = site_of(object);
	struct protection row;
	char failure[256];
	bool asked = false;
	for (;;) {
		if (store_protection_get(fleet->store, site, &row) != 0)
			return problem_set(problem, 409, "not-protected",
				"the CVM of site %s isn't protected any more", site);
		const struct failover *last = &row.past.last;
		if (row.state != PROTECTION_TAKEOVER && last->time_ms >= since_ms) {
			snprintf(detail, size, "from server %s to server %s: %.200s", last->from,
				last->to, last->detail);
			return 0;
		}
		if (asked && with_protector(fleet, site, get_ask_failure, failure))
			return problem_set(problem, 409, "not-protected", "%s", failure);
		if (!asked)
			asked = with_protector(fleet, site, set_asked, NULL);
		if (!fleet_pause(fleet, 20))
			return fleet_interrupted(problem);
	}
}

/*
 * Is a copy of the site's CVM left that is to be destroyed (`reachable`: on a server that is
 * connected)? On which server?
 */
static bool has_voids(
	struct fleet *fleet, const char *site, bool reachable, char server[MODEL_NAME_SIZE])
{
	struct void_copy *voids = NULL;
	size_t n = 0;
	bool found = false;
	if (store_void_list(fleet->store, &voids, &n) != 0)
		return true;
	for (size_t i = 0; i < n; i++) {
		if (strcmp(voids[i].site, site) != 0 ||
			(reachable && !fleet_server_connected(fleet, voids[i].server_id)))
			continue;
		found = true;
		snprintf(server, MODEL_NAME_SIZE, "%s", voids[i].server);
	}
	free(voids);
	return found;
}

/*
 * Is what the site's standby was still to be ended where its CVM is moved to? The reaper would take
 * the one for the other: both are the same VM.
 */
static bool is_in_the_way(struct fleet *fleet, const char *site)
{
	struct cvm cvm;
	struct void_copy *voids = NULL;
	size_t n = 0;
	bool found = false;
	if (store_cvm_get(fleet->store, site, &cvm) != 0 ||
		store_void_list(fleet->store, &voids, &n) != 0)
		return true;
	for (size_t i = 0; i < n; i++)
		found |=
			voids[i].site_id == cvm.site_id && voids[i].server_id == cvm.move.server_id;
	free(voids);
	return found;
}

int fleet_protect_suspend(struct fleet *fleet, const char *object, struct problem *problem)
{
	struct protection row;
	int64_t until = fleet_now_ms() + PROTECT_END_MS;
	fleet_kick(fleet);
	for (;;) {
		int err = store_protection_get(fleet->store, site_of(object), &row);
		bool ended = err == ENOENT || (err == 0 && row.state == PROTECTION_NONE);
		if (ended && !is_in_the_way(fleet, site_of(object)))
			return 0;
		if (fleet_now_ms() >= until && ended)
			return problem_set(problem, 503, "server-unreachable",
				"a former copy of %s on the server it is to be moved to can't be "
				"ended: check that server's libvirtd",
				object);
		if (fleet_now_ms() >= until)
			return problem_set(problem, 503, "still-protected",
				"the protection of %s doesn't end: see \"edgeplex cvm show %s\"",
				object, site_of(object));
		if (!fleet_pause(fleet, 50))
			return fleet_interrupted(problem);
	}
}

int fleet_protect_end(struct fleet *fleet, const char *object, bool voids, struct problem *problem)
{
	const char *site = site_of(object);
	struct protection row;
	char server[MODEL_NAME_SIZE] = "?";
	int64_t until = fleet_now_ms() + PROTECT_END_MS;
	if (store_begin(fleet->store) != 0)
		return problem_set(problem, 500, "internal", "the database can't be used");
	int err = store_protection_get(fleet->store, site, &row);
	row.ending = true;
	if (err == 0)
		err = store_protection_put(fleet->store, &row);
	if (err == 0)
		store_commit(fleet->store);
	else
		store_rollback(fleet->store);
	fleet_protect_ensure(fleet, site);
	fleet_kick(fleet);
	fleet_reaper_kick(fleet);
	for (;;) {
		bool gone = store_protection_get(fleet->store, site, &row) == ENOENT;
		if (gone && !has_voids(fleet, site, !voids, server))
			return 0;
		if (fleet_now_ms() >= until && !gone)
			return problem_set(problem, 503, "still-protected",
				"the protection of %s doesn't end: see \"edgeplex cvm show %s\"",
				object, site);
		if (fleet_now_ms() >= until && !voids)
			return 0; /* the reaper stays at it */
		if (fleet_now_ms() >= until)
			return problem_set(problem, 503, "server-unreachable",
				"a copy of %s on server %s can't be ended: check that server's "
				"libvirtd, then delete again",
				object, server);
		if (!fleet_pause(fleet, 50))
			return fleet_interrupted(problem);
	}
}

static bool look_whether_protected(struct protector *p, void *ctx)
{
	(void)ctx;
	return p != NULL && p->shown == SHOWN_PROTECTED;
}

bool fleet_protected_now(struct fleet *fleet, const char *site)
{
	return with_protector(fleet, site, look_whether_protected, NULL);
}

void fleet_failovers_json(cJSON *json, const struct failovers *past)
{
	const struct failover *last = &past->last;
	cJSON_AddNumberToObject(json, "failovers", past->count);
	/* What an edgeplexd before this one forgot, when a take-over was broken off, is null. */
	if (past->count == 0 || last->running_us <= 0) {
		cJSON_AddNullToObject(json, "last_failover");
		return;
	}
	cJSON *item = cJSON_AddObjectToObject(json, "last_failover");
	model_add_time(item, "time", last->time_ms);
	cJSON_AddStringToObject(item, "from", last->from);
	cJSON_AddStringToObject(item, "to", last->to);
	cJSON_AddStringToObject(item, "why", model_failover_why_name(last->why));
	cJSON_AddNumberToObject(item, "noticed_to_running_us", (double)last->running_us);
	cJSON_AddNumberToObject(item, "fenced_us", (double)last->fenced_us);
	cJSON_AddStringToObject(item, "detail", last->detail);
}

/* The newest word of the primary's hostd. */
static void add_figures(cJSON *json, const cJSON *figures, int64_t age_ms)
{
	static const char *const names[] = {"epoch", "epoch_age_ms", "epochs", "bytes_per_s",
		"pages_per_epoch", "bytes_per_epoch", "pause_us", "commit_us", "redone", "engine",
		"cpu_us", "memory_pages"};
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		cJSON *copy =
			cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(figures, names[i]), true);
		if (copy != NULL && strcmp(names[i], "epoch_age_ms") == 0)
			cJSON_SetNumberHelper(copy, copy->valuedouble + (double)age_ms);
		cJSON_AddItemToObject(json, names[i], copy != NULL ? copy : cJSON_CreateNull());
	}
}

struct view {
	cJSON *json;
	const struct protection *row;
	const cJSON *figures; /* of this moment; NULL: those that were told last */
};

static bool describe(struct protector *p, void *ctx)
{
	struct view *view = ctx;
	const struct protection *row = view->row;
	cJSON *json = view->json;
	enum protector_shown shown = p != NULL ? p->shown : SHOWN_STARTING;
	cJSON_AddStringToObject(json, "state", shown_names[shown]);
	cJSON_AddStringToObject(json, "reason", p != NULL ? p->reason : "");
	model_add_time(json, "since",
		p != NULL && p->since_ms != 0 ? p->since_ms : protector_realtime_ms());
	if (row->standby_id != 0)
		cJSON_AddStringToObject(json, "standby", row->standby);
	else
		cJSON_AddNullToObject(json, "standby");
	cJSON_AddStringToObject(json, "wanted_standby", row->wanted_server);
	cJSON_AddNumberToObject(json, "interval_ms", row->interval_ms);
	cJSON_AddNumberToObject(json, "timeout_ms", row->timeout_ms);
	if (view->figures != NULL || p == NULL)
		add_figures(json, view->figures, 0);
	else
		add_figures(json, p->figures, fleet_now_ms() - p->figures_ms);
	fleet_failovers_json(json, &row->past);
	return true;
}

/* Asked on a connection of its own, so nothing that matters waits for it. NULL: no answer. */
static cJSON *ask_figures(struct fleet *fleet, const struct cvm *cvm)
{
	struct server server;
	struct jsonrpc_error err = {0};
	cJSON *figures = NULL;
	if (fleet_server_load(fleet, cvm->server_id, &server) != 0 || server.hostd[0] == '\0')
		return NULL;
	struct hostd_client *client = hostd_client_open(server.hostd, NULL, NULL, NULL);
	if (client == NULL)
		return NULL;
	cJSON *params = cJSON_CreateObject();
	cJSON_AddStringToObject(params, "uuid", cvm->uuid);
	hostd_client_call(client, "protect.status", params, PROTECT_REFRESH_MS, &figures, &err);
	cJSON_Delete(params);
	hostd_client_close(client);
	return figures;
}

cJSON *fleet_protect_json(struct fleet *fleet, const struct cvm *cvm, bool fresh)
{
	struct protection row;
	if (store_protection_get(fleet->store, cvm->site, &row) != 0)
		return cJSON_CreateNull();
	cJSON *figures = NULL;
	if (fresh && fleet_protected_now(fleet, cvm->site))
		figures = ask_figures(fleet, cvm);
	struct view view = {.json = cJSON_CreateObject(), .row = &row, .figures = figures};
	with_protector(fleet, cvm->site, describe, &view);
	cJSON_Delete(figures);
	return view.json;
}
