/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/explain.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/registry_internal.h"
#include "controller/risks.h"

static void add_string_or_null(cJSON *json, const char *name, const char *text)
{
	if (text != NULL && text[0] != '\0')
		cJSON_AddStringToObject(json, name, text);
	else
		cJSON_AddNullToObject(json, name);
}

/* ---- one VM ------------------------------------------------------------------------------- */

/* Where a VM is. */
struct seat {
	int64_t server_id;
	const char *server, *wanted; /* `wanted` "": the controller chose */
};

/* What it was placed there by; null when that isn't known. */
static cJSON *placed_json(struct store *store, const char *object, int64_t server_id)
{
	int64_t time_ms;
	char *text;
	if (store_placement_get(store, object, server_id, &time_ms, &text) != 0)
		return cJSON_CreateNull();
	cJSON *why = cJSON_Parse(text);
	free(text);
	if (!cJSON_IsObject(why)) {
		cJSON_Delete(why);
		return cJSON_CreateNull();
	}
	cJSON *placed = cJSON_CreateObject();
	model_add_time(placed, "time", time_ms);
	static const char *const lists[] = {"reasons", "not_met"};
	for (size_t i = 0; i < 2; i++) {
		cJSON *list = cJSON_DetachItemFromObjectCaseSensitive(why, lists[i]);
		cJSON_AddItemToObject(placed, lists[i], list != NULL ? list : cJSON_CreateArray());
	}
	cJSON_Delete(why);
	return placed;
}

static cJSON *server_json(const struct registry_scene *scene,
	const struct placement_verdict *verdicts, size_t at, bool here, cJSON *not_met)
{
	const struct placement_server *server = &scene->choice[at];
	cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "name", server->name);
	cJSON_AddBoolToObject(json, "here", here);
	cJSON_AddBoolToObject(json, "possible", verdicts[at].bar == PLACEMENT_POSSIBLE);
	if (verdicts[at].bar == PLACEMENT_POSSIBLE) {
		size_t rank = 1;
		for (size_t i = 0; i < scene->n; i++)
			rank += i != at && verdicts[i].bar == PLACEMENT_POSSIBLE &&
				placement_compare(&verdicts[i], &verdicts[at]) < 0;
		cJSON_AddNumberToObject(json, "rank", (double)rank);
	} else {
		cJSON_AddNullToObject(json, "rank");
	}
	cJSON_AddNumberToObject(json, "memory_use", verdicts[at].load / 1000.0);
	cJSON_AddNumberToObject(json, "risk_memory_use", verdicts[at].group_load / 1000.0);
	cJSON *risks = cJSON_AddArrayToObject(json, "risks");
	for (size_t i = 0; i < server->risks->n; i++)
		cJSON_AddItemToArray(risks, cJSON_CreateString(server->risks->name[i]));
	cJSON *for_it = cJSON_AddArrayToObject(json, "for");
	registry_scene_tell(
		scene, at, for_it, cJSON_AddArrayToObject(json, "against"), here ? not_met : NULL);
	return json;
}

/* Does the one meet the rules better? Load doesn't count: nobody moves a VM for some per cent. */
static bool is_better(const struct placement_verdict *a, const struct placement_verdict *b)
{
	struct placement_verdict x = *a, y = *b;
	x.load = y.load = x.group_load = y.group_load = 0;
	x.left_kib = y.left_kib = 0;
	return placement_compare(&x, &y) < 0;
}

static cJSON *scene_json(struct store *store, const struct registry_scene *scene,
	const char *object, const struct seat *seat)
{
	struct placement_verdict *verdicts = calloc(scene->n + 1, sizeof(*verdicts));
	cJSON *json = cJSON_CreateObject();
	if (verdicts == NULL) {
		cJSON_Delete(json);
		return NULL;
	}
	placement_judge(scene->choice, scene->n, &scene->request, verdicts);
	cJSON_AddStringToObject(json, "object", object);
	cJSON_AddStringToObject(json, "server", seat->server);
	add_string_or_null(json, "wanted", seat->wanted);
	cJSON_AddItemToObject(json, "placed", placed_json(store, object, seat->server_id));
	cJSON *not_met = cJSON_AddArrayToObject(json, "not_met");
	cJSON *servers = cJSON_CreateArray();
	int best = placement_best(verdicts, scene->n), here = -1;
	for (size_t i = 0; i < scene->n; i++) {
		if (scene->choice[i].id == seat->server_id)
			here = (int)i;
		cJSON_AddItemToArray(
			servers, server_json(scene, verdicts, i, here == (int)i, not_met));
	}
	bool better = best >= 0 && here >= 0 && not_met->child != NULL &&
		      is_better(&verdicts[best], &verdicts[here]);
	add_string_or_null(json, "better", better ? scene->choice[best].name : NULL);
	cJSON_AddItemToObject(json, "servers", servers);
	free(verdicts);
	return json;
}

static cJSON *explain(struct store *store, const struct site *site, const struct placing *placing,
	const struct seat *seat, registry_reachable_fn reachable, void *ctx,
	struct problem *problem)
{
	struct registry_scene scene;
	if (registry_scene_load(store, site, placing, reachable, ctx, &scene) != 0) {
		registry_database_failed(store, problem);
		return NULL;
	}
	cJSON *json = scene_json(store, &scene, placing->object, seat);
	registry_scene_free(&scene);
	if (json == NULL)
		problem_set(problem, 500, "internal", "no memory");
	return json;
}

cJSON *explain_port(struct store *store, const char *name, registry_reachable_fn reachable,
	void *ctx, struct problem *problem)
{
	struct port port;
	struct site site;
	char object[48];
	cJSON *json = NULL;
	snprintf(object, sizeof(object), "port/%.30s", name);
	if (registry_begin(store, problem) != 0)
		return NULL;
	if (registry_find_port(store, name, &port, problem) == 0 &&
		registry_find_site(store, port.site, &site, problem) == 0) {
		const struct placing placing = {
			.object = object, .need_kib = site.pvm_memory_kib, .wanted = ""};
		const struct seat seat = {port.server_id, port.server, port.wanted_server};
		json = explain(store, &site, &placing, &seat, reachable, ctx, problem);
	}
	registry_finish(store, problem);
	return json;
}

/* Adds the standby's explanation, or null. */
static void add_standby(struct store *store, const struct site *site, const struct cvm *cvm,
	registry_reachable_fn reachable, void *ctx, cJSON *json, struct problem *problem)
{
	struct protection protection;
	char object[48];
	cJSON *standby = NULL;
	snprintf(object, sizeof(object), "standby/%s", site->name);
	if (store_protection_get(store, site->name, &protection) == 0 &&
		protection.standby_id != 0) {
		const struct placing placing = {.object = object,
			.need_kib = site->cvm_memory_kib,
			.wanted = "",
			.but = {cvm->server_id},
			.but_why = "the CVM itself is there",
			.with_hostd = true};
		const struct seat seat = {
			protection.standby_id, protection.standby, protection.wanted_server};
		standby = explain(store, site, &placing, &seat, reachable, ctx, problem);
	}
	cJSON_AddItemToObject(json, "standby", standby != NULL ? standby : cJSON_CreateNull());
}

cJSON *explain_cvm(struct store *store, const char *name, registry_reachable_fn reachable,
	void *ctx, struct problem *problem)
{
	struct cvm cvm;
	struct site site;
	char object[48];
	cJSON *json = NULL;
	snprintf(object, sizeof(object), "cvm/%.30s", name);
	if (registry_begin(store, problem) != 0)
		return NULL;
	if (registry_find_cvm(store, name, &cvm, problem) == 0 &&
		registry_find_site(store, name, &site, problem) == 0) {
		const struct placing placing = {
			.object = object, .need_kib = site.cvm_memory_kib, .wanted = ""};
		const struct seat seat = {cvm.server_id, cvm.server, ""};
		json = explain(store, &site, &placing, &seat, reachable, ctx, problem);
		if (json != NULL)
			add_standby(store, &site, &cvm, reachable, ctx, json, problem);
	}
	registry_finish(store, problem);
	return json;
}

cJSON *explain_unmet(const cJSON *explanation)
{
	cJSON *list =
		cJSON_Duplicate(cJSON_GetObjectItemCaseSensitive(explanation, "not_met"), true);
	return list != NULL ? list : cJSON_CreateArray();
}

/* Tells by an event of rules that aren't met, if there are any. */
static void warn(struct fleet *fleet, const char *object, const cJSON *not_met)
{
	char all[400] = "", cvm[48];
	size_t len = 0;
	const cJSON *item;
	bool standby = strncmp(object, "standby/", 8) == 0;
	cJSON_ArrayForEach (item, not_met) {
		if (cJSON_IsString(item) && len < sizeof(all))
			len += (size_t)snprintf(all + len, sizeof(all) - len, "%s%s",
				len > 0 ? "; " : "", item->valuestring);
	}
	snprintf(cvm, sizeof(cvm), "cvm/%.30s", standby ? object + 8 : "");
	if (len > 0)
		fleet_event(fleet, "warning", standby ? cvm : object,
			"%s where rules of placement aren't met: %s",
			standby ? "its standby is placed" : "it is placed", all);
}

void explain_warn(struct store *store, struct fleet *fleet, const char *object)
{
	int64_t time_ms;
	char *text;
	if (store_placement_get(store, object, 0, &time_ms, &text) != 0)
		return;
	cJSON *why = cJSON_Parse(text);
	warn(fleet, object, cJSON_GetObjectItemCaseSensitive(why, "not_met"));
	cJSON_Delete(why);
	free(text);
}

void explain_warn_port(struct store *store, struct fleet *fleet, const char *name,
	registry_reachable_fn reachable, void *ctx)
{
	struct problem problem = {0};
	char object[48];
	cJSON *json = explain_port(store, name, reachable, ctx, &problem);
	snprintf(object, sizeof(object), "port/%.30s", name);
	warn(fleet, object, cJSON_GetObjectItemCaseSensitive(json, "not_met"));
	cJSON_Delete(json);
}

/* ---- a site's risks ----------------------------------------------------------------------- */

static void add_part(struct risk_part *parts, size_t *n, enum risk_part_kind kind,
	int64_t server_id, const char *customer, const char *prefix, const char *name)
{
	struct risk_part *part = &parts[*n];
	if (server_id == 0)
		return;
	++*n;
	*part = (struct risk_part){.kind = kind, .server_id = server_id, .customer = customer};
	snprintf(part->name, sizeof(part->name), "%s/%.30s", prefix, name);
}

static cJSON *report_site(const struct registry_inventory *all, const struct site *site)
{
	size_t most = all->n_ports + all->n_cvms + all->n_protections + all->n_spares, n = 0,
	       n_servers = 0;
	struct risk_part *parts = calloc(most + 1, sizeof(*parts));
	if (parts == NULL)
		return NULL;
	for (size_t i = 0; i < all->n_servers; i++) {
		/* The site's own to the front. */
		if (all->servers[i].site_id == site->id)
			all->servers[n_servers++] = all->servers[i];
	}
	for (size_t i = 0; i < all->n_cvms; i++) {
		if (all->cvms[i].site_id == site->id)
			add_part(parts, &n, RISK_PART_CVM, all->cvms[i].server_id, "", "cvm",
				site->name);
	}
	for (size_t i = 0; i < all->n_protections; i++) {
		if (all->protections[i].site_id == site->id)
			add_part(parts, &n, RISK_PART_STANDBY, all->protections[i].standby_id, "",
				"standby", site->name);
	}
	for (size_t i = 0; i < all->n_ports; i++) {
		if (all->ports[i].site_id == site->id)
			add_part(parts, &n, RISK_PART_PVM, all->ports[i].server_id,
				all->ports[i].customer, "port", all->ports[i].name);
	}
	for (size_t i = 0; i < all->n_spares; i++) {
		char id[24];
		snprintf(id, sizeof(id), "%lld", (long long)all->spares[i].id);
		if (all->spares[i].site_id == site->id)
			add_part(parts, &n, RISK_PART_SPARE, all->spares[i].server_id, "", "spare",
				id);
	}
	cJSON *report = risks_report(all->servers, n_servers, parts, n);
	free(parts);
	return report;
}

cJSON *explain_risks(struct store *store, const char *name, struct problem *problem)
{
	struct registry_inventory all = {0};
	struct site site;
	cJSON *json = NULL;
	if (registry_begin(store, problem) != 0)
		return NULL;
	if (registry_find_site(store, name, &site, problem) == 0) {
		if (registry_inventory_read(store, &all) != 0)
			registry_database_failed(store, problem);
		else
			json = report_site(&all, &site);
		registry_inventory_free(&all);
	}
	registry_finish(store, problem);
	if (json != NULL)
		cJSON_AddStringToObject(json, "site", name);
	return json;
}
