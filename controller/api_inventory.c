/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What the API does with sites, servers and customers. */

#include <stdlib.h>
#include <string.h>

#include "controller/api_internal.h"
#include "controller/explain.h"
#include "controller/registry.h"

/* ---- sites -------------------------------------------------------------------------------- */

/* How its spares are: {ready, starting, on: [server]}. */
static void add_pool(struct api_request *request, const struct site *site, cJSON *json)
{
	cJSON *pool = cJSON_AddObjectToObject(json, "spare_pool");
	cJSON *spares = fleet_spares_json(request->api->fleet, site->name);
	cJSON *servers = cJSON_CreateArray();
	const cJSON *spare;
	int ready = 0, all = cJSON_GetArraySize(spares);
	cJSON_ArrayForEach (spare, spares) {
		const char *state =
			cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(spare, "state"));
		const char *server =
			cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(spare, "server"));
		bool is_ready = state != NULL && strcmp(state, "ready") == 0;
		ready += is_ready;
		if (is_ready && server != NULL)
			cJSON_AddItemToArray(servers, cJSON_CreateString(server));
	}
	cJSON_AddNumberToObject(pool, "wanted", site->spares);
	cJSON_AddNumberToObject(pool, "ready", ready);
	cJSON_AddNumberToObject(pool, "not_ready", all - ready);
	cJSON_AddItemToObject(pool, "servers", servers);
	cJSON_Delete(spares);
}

static cJSON *site_json(struct api_request *request, const struct site *site)
{
	cJSON *json = model_site_json(site);
	cJSON_AddBoolToObject(
		json, "switch_connected", fleet_site_connected(request->api->fleet, site->id));
	add_pool(request, site, json);
	return json;
}

void api_sites_list(struct api_request *request)
{
	struct site *sites;
	size_t n;
	if (store_site_list(request->api->store, &sites, &n) != 0) {
		api_database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, site_json(request, &sites[i]));
	free(sites);
	api_answer_list(request, items);
}

void api_site_create(struct api_request *request)
{
	struct api *api = request->api;
	struct site site, trial;
	struct fleet_site *opened;
	if (model_site_read(request->body, &site, &request->problem) != 0)
		return;
	trial = site;
	if (registry_site_create(api->store, &trial, true, &request->problem) != 0 ||
		fleet_site_open(api->fleet, &site, &opened, &request->problem) != 0)
		return;
	if (registry_site_create(api->store, &site, false, &request->problem) != 0) {
		fleet_site_drop(api->fleet, opened);
		return;
	}
	fleet_site_keep(api->fleet, opened, &site);
	fleet_event(api->fleet, "info", "site", "site %s was created", site.name);
	api_created(request, "sites", site.name);
	request->answer = site_json(request, &site);
}

void api_site_show(struct api_request *request)
{
	struct site site;
	if (registry_find_site(request->api->store, request->name, &site, &request->problem) == 0)
		request->answer = site_json(request, &site);
}

/* Merges the request into the site; its id stays. */
static int patch_site(void *ctx, struct site *site, struct problem *problem)
{
	static const char *const mutable[] = {"core/route_reflectors", "transport_label", "labels",
		"vlans", "pvm_memory_kib", "cvm_memory_kib", "spares", NULL};
	const struct api_request *request = ctx;
	struct site changed;
	cJSON *present = model_site_json(site);
	cJSON *patched = model_patch(present, request->body, mutable, problem);
	cJSON_Delete(present);
	if (patched != NULL && model_site_read(patched, &changed, problem) == 0) {
		changed.id = site->id;
		*site = changed;
	}
	cJSON_Delete(patched);
	return problem->status != 0 ? -1 : 0;
}

void api_site_change(struct api_request *request)
{
	struct api *api = request->api;
	struct site site;
	if (registry_site_change(
		    api->store, request->name, patch_site, request, &site, &request->problem) != 0)
		return;
	fleet_kick(api->fleet);
	request->answer = site_json(request, &site);
}

void api_spares_list(struct api_request *request)
{
	api_answer_list(request, fleet_spares_json(request->api->fleet, NULL));
}

void api_site_delete(struct api_request *request)
{
	struct api *api = request->api;
	struct site site;
	if (registry_find_site(api->store, request->name, &site, &request->problem) != 0 ||
		registry_site_delete(api->store, request->name, &request->problem) != 0)
		return;
	fleet_site_remove(api->fleet, site.id);
	fleet_kick(api->fleet);
	fleet_event(api->fleet, "info", "site", "site %s was deleted", site.name);
}

void api_site_risks(struct api_request *request)
{
	request->answer = explain_risks(request->api->store, request->name, &request->problem);
}

/* ---- servers ------------------------------------------------------------------------------ */

static cJSON *describe_server(struct api_request *request, const struct server *server)
{
	cJSON *json = model_server_json(server);
	cJSON_AddBoolToObject(json, "drained", server->drained);
	fleet_server_describe(request->api->fleet, server, json);
	cJSON_AddStringToObject(
		json, "health", fleet_server_health(request->api->fleet, server->id));
	return json;
}

static cJSON *server_json(struct api_request *request, const struct server *server)
{
	fleet_servers_refresh(request->api->fleet, server->id);
	return describe_server(request, server);
}

void api_servers_list(struct api_request *request)
{
	struct server *servers;
	size_t n;
	if (store_server_list(request->api->store, &servers, &n) != 0) {
		api_database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	fleet_servers_refresh(request->api->fleet, 0);
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, describe_server(request, &servers[i]));
	free(servers);
	api_answer_list(request, items);
}

void api_server_create(struct api_request *request)
{
	struct api *api = request->api;
	struct server server, trial;
	struct site site;
	struct fleet_server *opened;
	if (model_server_read(request->body, &server, &request->problem) != 0)
		return;
	trial = server;
	if (registry_server_create(api->store, &trial, true, &request->problem) != 0 ||
		registry_find_site(api->store, server.site, &site, &request->problem) != 0 ||
		fleet_site_check_port(
			api->fleet, &site, server.trunk, "/trunk", &request->problem) != 0 ||
		(server.hostd[0] != '\0' &&
			fleet_hostd_check(server.hostd, &request->problem) != 0) ||
		fleet_server_open(api->fleet, &server, &opened, &request->problem) != 0)
		return;
	if (registry_server_create(api->store, &server, false, &request->problem) != 0) {
		fleet_server_drop(api->fleet, opened);
		return;
	}
	fleet_server_keep(api->fleet, opened, &server);
	fleet_event(api->fleet, "info", "server", "server %s was created", server.name);
	api_created(request, "servers", server.name);
	request->answer = server_json(request, &server);
}

void api_server_show(struct api_request *request)
{
	struct server server;
	if (registry_find_server(request->api->store, request->name, &server, &request->problem) ==
		0)
		request->answer = server_json(request, &server);
}

static int patch_server(void *ctx, struct server *server, struct problem *problem)
{
	static const char *const mutable[] = {"memory_mib", "hostd", "risks", NULL};
	const struct api_request *request = ctx;
	struct server changed;
	cJSON *present = model_server_json(server);
	cJSON *patched = model_patch(present, request->body, mutable, problem);
	cJSON_Delete(present);
	if (patched != NULL && model_server_read(patched, &changed, problem) == 0) {
		changed.id = server->id;
		changed.site_id = server->site_id;
		changed.drained = server->drained;
		*server = changed;
	}
	cJSON_Delete(patched);
	return problem->status != 0 ? -1 : 0;
}

void api_server_change(struct api_request *request)
{
	struct api *api = request->api;
	struct server server, wanted;
	if (registry_find_server(api->store, request->name, &server, &request->problem) != 0)
		return;
	/* Asking a hostd takes time: before, and not in, the transaction. */
	wanted = server;
	if (patch_server(request, &wanted, &request->problem) != 0)
		return;
	if (wanted.hostd[0] != '\0' && strcmp(wanted.hostd, server.hostd) != 0)
		fleet_hostd_check(wanted.hostd, &request->problem);
	if (request->problem.status == 0 &&
		registry_server_change(api->store, request->name, patch_server, request, &server,
			&request->problem) == 0)
		request->answer = server_json(request, &server);
}

void api_server_drain(struct api_request *request)
{
	struct operation op;
	if (engine_server_drain(request->api->engine, request->name, &op, &request->problem) == 0)
		api_accepted(request, &op);
}

void api_server_undrain(struct api_request *request)
{
	struct api *api = request->api;
	if (registry_server_undrain(api->store, request->name, &request->problem) != 0)
		return;
	fleet_event(api->fleet, "info", "server", "server %s is in service again", request->name);
	api_server_show(request);
}

void api_server_delete(struct api_request *request)
{
	struct api *api = request->api;
	struct server server;
	if (registry_find_server(api->store, request->name, &server, &request->problem) != 0 ||
		registry_server_delete(api->store, request->name, &request->problem) != 0)
		return;
	fleet_server_remove(api->fleet, server.id);
	fleet_event(api->fleet, "info", "server", "server %s was deleted", server.name);
}

/* ---- customers ---------------------------------------------------------------------------- */

void api_customers_list(struct api_request *request)
{
	struct customer *customers;
	size_t n;
	if (store_customer_list(request->api->store, &customers, &n) != 0) {
		api_database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, model_customer_json(&customers[i]));
	free(customers);
	api_answer_list(request, items);
}

void api_customer_create(struct api_request *request)
{
	struct customer customer;
	if (model_customer_read(request->body, &customer, &request->problem) != 0 ||
		registry_customer_create(request->api->store, &customer, &request->problem) != 0)
		return;
	api_created(request, "customers", customer.name);
	request->answer = model_customer_json(&customer);
}

void api_customer_show(struct api_request *request)
{
	struct customer customer;
	if (registry_find_customer(
		    request->api->store, request->name, &customer, &request->problem) == 0)
		request->answer = model_customer_json(&customer);
}

void api_customer_change(struct api_request *request)
{
	static const char *const mutable[] = {NULL};
	struct customer customer;
	if (registry_find_customer(
		    request->api->store, request->name, &customer, &request->problem) != 0)
		return;
	cJSON *present = model_customer_json(&customer);
	cJSON *patched = model_patch(present, request->body, mutable, &request->problem);
	cJSON_Delete(present);
	if (patched != NULL && model_customer_read(patched, &customer, &request->problem) == 0)
		request->answer = model_customer_json(&customer);
	cJSON_Delete(patched);
}

void api_customer_delete(struct api_request *request)
{
	registry_customer_delete(request->api->store, request->name, &request->problem);
}
