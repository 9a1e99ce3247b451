/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What each resource of the API does. One table of routes, at the end, is the whole of it. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "controller/api_internal.h"
#include "controller/explain.h"
#include "controller/registry.h"

#define LIST_LIMIT 1000
#define WAIT_MS_MAX 60000
#define GUEST_QUERY_MS 10000
#define EVENT_HEARTBEAT_MS 15000 /* well within the API's limit for idle connections */
#define EVENT_BATCH 100
#define EVENT_BLOCK 4096

static void database_failed(struct api_request *request)
{
	problem_set(&request->problem, 500, "internal",
		"the database can't be used: check disk space and permissions of the state "
		"directory");
}

static void created(struct api_request *request, const char *resource, const char *name)
{
	request->status = 201;
	snprintf(request->location, sizeof(request->location), "/v1/%s/%s", resource, name);
}

static void accepted(struct api_request *request, const struct operation *op)
{
	request->status = 202;
	snprintf(request->location, sizeof(request->location), "/v1/operations/%lld",
		(long long)op->id);
	request->answer = engine_operation_json(op);
}

/* `items` (taken) as a list's answer. */
static void answer_list(struct api_request *request, cJSON *items)
{
	request->answer = cJSON_CreateObject();
	cJSON_AddItemToObject(request->answer, "items", items);
}

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

static void sites_list(struct api_request *request)
{
	struct site *sites;
	size_t n;
	if (store_site_list(request->api->store, &sites, &n) != 0) {
		database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, site_json(request, &sites[i]));
	free(sites);
	answer_list(request, items);
}

static void site_create(struct api_request *request)
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
	created(request, "sites", site.name);
	request->answer = site_json(request, &site);
}

static void site_show(struct api_request *request)
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

static void site_change(struct api_request *request)
{
	struct api *api = request->api;
	struct site site;
	if (registry_site_change(
		    api->store, request->name, patch_site, request, &site, &request->problem) != 0)
		return;
	fleet_kick(api->fleet);
	request->answer = site_json(request, &site);
}

static void spares_list(struct api_request *request)
{
	answer_list(request, fleet_spares_json(request->api->fleet, NULL));
}

static void site_delete(struct api_request *request)
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

static void site_risks(struct api_request *request)
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

static void servers_list(struct api_request *request)
{
	struct server *servers;
	size_t n;
	if (store_server_list(request->api->store, &servers, &n) != 0) {
		database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	fleet_servers_refresh(request->api->fleet, 0);
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, describe_server(request, &servers[i]));
	free(servers);
	answer_list(request, items);
}

static void server_create(struct api_request *request)
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
	created(request, "servers", server.name);
	request->answer = server_json(request, &server);
}

static void server_show(struct api_request *request)
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

static void server_change(struct api_request *request)
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

static void server_drain(struct api_request *request)
{
	struct operation op;
	if (engine_server_drain(request->api->engine, request->name, &op, &request->problem) == 0)
		accepted(request, &op);
}

static void server_undrain(struct api_request *request)
{
	struct api *api = request->api;
	if (registry_server_undrain(api->store, request->name, &request->problem) != 0)
		return;
	fleet_event(api->fleet, "info", "server", "server %s is in service again", request->name);
	server_show(request);
}

static void server_delete(struct api_request *request)
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

static void customers_list(struct api_request *request)
{
	struct customer *customers;
	size_t n;
	if (store_customer_list(request->api->store, &customers, &n) != 0) {
		database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, model_customer_json(&customers[i]));
	free(customers);
	answer_list(request, items);
}

static void customer_create(struct api_request *request)
{
	struct customer customer;
	if (model_customer_read(request->body, &customer, &request->problem) != 0 ||
		registry_customer_create(request->api->store, &customer, &request->problem) != 0)
		return;
	created(request, "customers", customer.name);
	request->answer = model_customer_json(&customer);
}

static void customer_show(struct api_request *request)
{
	struct customer customer;
	if (registry_find_customer(
		    request->api->store, request->name, &customer, &request->problem) == 0)
		request->answer = model_customer_json(&customer);
}

static void customer_change(struct api_request *request)
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

static void customer_delete(struct api_request *request)
{
	registry_customer_delete(request->api->store, request->name, &request->problem);
}

/* ---- ports -------------------------------------------------------------------------------- */

const char *api_port_status(const struct port *port, const struct fleet_vm_view *view)
{
	if (port->state != PORT_ACTIVE)
		return model_port_state_name(port->state);
	if (view->serves)
		return "up";
	return view->state == FLEET_VM_RUNNING ? "degraded" : "down";
}

static cJSON *port_json(
	struct api_request *request, const struct port *port, const struct site *site)
{
	struct fleet_vm_view view;
	fleet_vm_view(request->api->fleet, port->uuid, &view);
	cJSON *json = model_port_json(port, site, true);
	cJSON_AddStringToObject(json, "status", api_port_status(port, &view));
	cJSON_AddStringToObject(json, "status_detail", view.serves ? "" : view.missing);
	fleet_vm_view_free(&view);
	return json;
}

static const struct site *site_of(const struct site *sites, size_t n, int64_t id)
{
	for (size_t i = 0; i < n; i++) {
		if (sites[i].id == id)
			return &sites[i];
	}
	return NULL;
}

static void ports_list(struct api_request *request)
{
	struct port *ports = NULL;
	struct site *sites = NULL;
	size_t n = 0, n_sites = 0;
	if (store_port_list(request->api->store, &ports, &n) != 0 ||
		store_site_list(request->api->store, &sites, &n_sites) != 0) {
		free(ports);
		database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++) {
		const struct site *site = site_of(sites, n_sites, ports[i].site_id);
		if (site != NULL)
			cJSON_AddItemToArray(items, port_json(request, &ports[i], site));
	}
	free(ports);
	free(sites);
	answer_list(request, items);
}

/* `wait_s` of the query. Returns false with the problem set. */
static bool read_wait(struct api_request *request, uint32_t *wait_s)
{
	int64_t value =
		api_query_number(request, "wait_s", ENGINE_WAIT_MAX_S, ENGINE_WAIT_DEFAULT_S);
	*wait_s = (uint32_t)value;
	return value >= 0;
}

static void port_create(struct api_request *request)
{
	struct port port;
	struct operation op;
	uint32_t wait_s;
	if (read_wait(request, &wait_s) &&
		model_port_read(request->body, &port, &request->problem) == 0 &&
		engine_port_create(request->api->engine, &port, wait_s, &op, &request->problem) ==
			0)
		accepted(request, &op);
}

static void port_show(struct api_request *request)
{
	struct port port;
	struct site site;
	if (registry_find_port(request->api->store, request->name, &port, &request->problem) == 0 &&
		registry_find_site(request->api->store, port.site, &site, &request->problem) == 0)
		request->answer = port_json(request, &port, &site);
}

static void port_change(struct api_request *request)
{
	static const char *const mutable[] = {
		"addresses", "ce", "ce_mac", "graceful_restart_s", NULL};
	struct api *api = request->api;
	struct port port, wanted;
	struct site site;
	struct operation op;
	uint32_t wait_s;
	if (!read_wait(request, &wait_s) ||
		registry_find_port(api->store, request->name, &port, &request->problem) != 0 ||
		registry_find_site(api->store, port.site, &site, &request->problem) != 0)
		return;
	cJSON *present = model_port_json(&port, &site, false);
	cJSON *patched = model_patch(present, request->body, mutable, &request->problem);
	cJSON_Delete(present);
	if (patched == NULL)
		return;
	if (model_port_read(patched, &wanted, &request->problem) == 0) {
		if (engine_port_change(api->engine, &wanted, wait_s, &op, &request->problem) == 0)
			accepted(request, &op);
	}
	cJSON_Delete(patched);
}

static void port_delete(struct api_request *request)
{
	struct operation op;
	if (engine_port_delete(request->api->engine, request->name, &op, &request->problem) == 0)
		accepted(request, &op);
}

/* ---- PVMs --------------------------------------------------------------------------------- */

static const char *vm_state(enum port_state desired, const struct fleet_vm_view *view)
{
	if (desired == PORT_ACTIVE && view->state == FLEET_VM_RUNNING)
		return view->serves ? "up" : "degraded";
	if (desired == PORT_ACTIVE && view->state == FLEET_VM_ABSENT)
		return "down";
	return desired == PORT_ACTIVE ? fleet_vm_state_name(view->state)
				      : model_port_state_name(desired);
}

static void add_vm(cJSON *json, struct fleet_vm_view *view, const char *uuid)
{
	if (view->uptime_ms >= 0)
		cJSON_AddNumberToObject(json, "uptime_ms", (double)view->uptime_ms);
	else
		cJSON_AddNullToObject(json, "uptime_ms");
	cJSON_AddStringToObject(json, "detail", view->serves ? "" : view->missing);
	cJSON *vm = cJSON_AddObjectToObject(json, "vm");
	cJSON_AddStringToObject(vm, "uuid", uuid);
	cJSON_AddStringToObject(vm, "state", fleet_vm_state_name(view->state));
	cJSON_AddNumberToObject(vm, "memory_kib", (double)view->memory_kib);
	cJSON_AddNumberToObject(vm, "rss_kib", (double)view->rss_kib);
	cJSON_AddNumberToObject(vm, "cpu_ms", (double)view->cpu_ms);
	cJSON *bgp = cJSON_DetachItemFromObjectCaseSensitive(view->daemon, "neighbors");
	cJSON_AddItemToObject(json, "bgp", bgp != NULL ? bgp : cJSON_CreateArray());
}

static void add_move(cJSON *json, const struct second_copy *move)
{
	if (move->state == MOVE_NONE)
		return;
	cJSON *object = cJSON_AddObjectToObject(json, "move");
	cJSON_AddStringToObject(object, "state", model_move_state_name(move->state));
	cJSON_AddStringToObject(object, "other_server", move->server);
}

static cJSON *pvm_json(struct api_request *request, const struct port *port)
{
	struct fleet_vm_view view;
	fleet_vm_view(request->api->fleet, port->uuid, &view);
	cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "name", port->name);
	cJSON_AddStringToObject(json, "port", port->name);
	cJSON_AddStringToObject(json, "server", port->server);
	add_move(json, &port->move);
	cJSON_AddStringToObject(json, "state", vm_state(port->state, &view));
	add_vm(json, &view, port->uuid);
	cJSON *rib = cJSON_DetachItemFromObjectCaseSensitive(view.daemon, "rib");
	cJSON_AddItemToObject(json, "rib", rib != NULL ? rib : cJSON_CreateNull());
	cJSON_AddItemToObject(json, "fwd", view.fwd != NULL ? view.fwd : cJSON_CreateNull());
	view.fwd = NULL;
	fleet_vm_view_free(&view);
	return json;
}

static void pvms_list(struct api_request *request)
{
	struct port *ports;
	size_t n;
	if (store_port_list(request->api->store, &ports, &n) != 0) {
		database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, pvm_json(request, &ports[i]));
	free(ports);
	answer_list(request, items);
}

static void add_history(struct api_request *request, const struct port *port)
{
	struct history *history = NULL;
	size_t n = 0;
	cJSON *list = cJSON_AddArrayToObject(request->answer, "history");
	if (store_history_list(request->api->store, port->id, &history, &n) != 0)
		return;
	for (size_t i = 0; i < n; i++) {
		cJSON *item = cJSON_CreateObject();
		model_add_time(item, "time", history[i].time_ms);
		cJSON_AddStringToObject(item, "what", history[i].what);
		cJSON_AddStringToObject(item, "server", history[i].server);
		cJSON_AddStringToObject(item, "detail", history[i].detail);
		cJSON_AddItemToArray(list, item);
	}
	free(history);
}

static bool is_reachable(void *ctx, int64_t server_id)
{
	return fleet_server_connected(ctx, server_id);
}

static void pvm_placement(struct api_request *request)
{
	request->answer = explain_port(request->api->store, request->name, is_reachable,
		request->api->fleet, &request->problem);
}

static void cvm_placement(struct api_request *request)
{
	request->answer = explain_cvm(request->api->store, request->name, is_reachable,
		request->api->fleet, &request->problem);
}

/* Adds `rules_not_met` from the object's explanation (taken), if there is one. */
static void add_unmet(struct api_request *request, cJSON *explanation)
{
	if (explanation != NULL)
		cJSON_AddItemToObject(request->answer, "rules_not_met", explain_unmet(explanation));
	cJSON_Delete(explanation);
}

static void pvm_show(struct api_request *request)
{
	struct problem gone = {0};
	struct port port;
	char object[48], missing[512];
	if (registry_find_port(request->api->store, request->name, &port, &request->problem) != 0)
		return;
	snprintf(object, sizeof(object), "port/%s", port.name);
	if (port.started)
		fleet_vm_serves(request->api->fleet, object, missing, sizeof(missing));
	request->answer = pvm_json(request, &port);
	add_unmet(request, explain_port(request->api->store, port.name, is_reachable,
				   request->api->fleet, &gone));
	add_history(request, &port);
}

/* Is there a {name} of this kind? If not, a problem is set. */
static bool is_known(struct api_request *request, const char *kind)
{
	struct port port;
	struct cvm cvm;
	struct store *store = request->api->store;
	if (strcmp(kind, "port") == 0)
		return registry_find_port(store, request->name, &port, &request->problem) == 0;
	return registry_find_cvm(store, request->name, &cvm, &request->problem) == 0;
}

/* Calls a method of the guest of `kind`/{name} and answers with its result. */
static void ask_guest(
	struct api_request *request, const char *kind, const char *method, const cJSON *params)
{
	char object[48];
	if (!is_known(request, kind))
		return;
	snprintf(object, sizeof(object), "%s/%.30s", kind, request->name);
	fleet_vm_call(request->api->fleet, object, method, params, GUEST_QUERY_MS, &request->answer,
		&request->problem);
}

/* The query's parameters of a table, as the guest's methods take them. NULL: a problem is set. */
static cJSON *table_query(struct api_request *request, const char *family_default)
{
	const char *family = api_query(request, "family");
	const char *after = api_query(request, "after");
	int64_t limit = api_query_number(request, "limit", LIST_LIMIT, 0);
	if (limit < 0)
		return NULL;
	cJSON *params = cJSON_CreateObject();
	cJSON_AddStringToObject(params, "family", family != NULL ? family : family_default);
	static const char *const texts[] = {"prefix", "lookup"};
	for (size_t i = 0; i < 2; i++) {
		const char *value = api_query(request, texts[i]);
		if (value != NULL)
			cJSON_AddStringToObject(params, texts[i], value);
	}
	if (after != NULL) {
		/* A guest's cursor may be an object: then it comes back as its text. */
		cJSON *cursor = after[0] == '{' ? cJSON_Parse(after) : NULL;
		cJSON_AddItemToObject(
			params, "after", cursor != NULL ? cursor : cJSON_CreateString(after));
	}
	if (limit > 0)
		cJSON_AddNumberToObject(params, "limit", (double)limit);
	return params;
}

static void query_table(struct api_request *request, const char *kind, const char *method,
	const char *family_default)
{
	cJSON *params = table_query(request, family_default);
	if (params != NULL)
		ask_guest(request, kind, method, params);
	cJSON_Delete(params);
}

static void pvm_rib(struct api_request *request)
{
	query_table(request, "port", "pvm.routes", "ipv4");
}

static void pvm_fib(struct api_request *request)
{
	query_table(request, "port", "fwd.fib", "ipv4");
}

static void pvm_neighbors(struct api_request *request)
{
	ask_guest(request, "port", "fwd.neighbors", NULL);
	if (cJSON_IsArray(request->answer))
		answer_list(request, request->answer);
}

static void list_processes(struct api_request *request, const char *kind)
{
	ask_guest(request, kind, "guest.processes", NULL);
	if (request->problem.status == 0)
		answer_list(request, request->answer);
}

static void pvm_processes(struct api_request *request)
{
	list_processes(request, "port");
}

static void cvm_processes(struct api_request *request)
{
	list_processes(request, "cvm");
}

static void send_signal(struct api_request *request, const char *kind)
{
	const cJSON *process = cJSON_GetObjectItemCaseSensitive(request->body, "process");
	const cJSON *signal = cJSON_GetObjectItemCaseSensitive(request->body, "signal");
	const cJSON *item;
	char object[48];
	if (!is_known(request, kind))
		return;
	if (!cJSON_IsString(process))
		problem_field(&request->problem, "/process", "name a process of the VM",
			"is missing, or not a string");
	if (!cJSON_IsString(signal))
		problem_field(&request->problem, "/signal", "give TERM, KILL, STOP or CONT",
			"is missing, or not a string");
	cJSON_ArrayForEach (item, request->body) {
		char field[64];
		snprintf(field, sizeof(field), "/%.60s", item->string ? item->string : "");
		if (item != process && item != signal)
			problem_field(&request->problem, field,
				"check its spelling, or leave it out", "no such field exists");
	}
	if (request->problem.status != 0)
		return;
	ask_guest(request, kind, "guest.signal", request->body);
	if (request->problem.status != 0)
		return;
	snprintf(object, sizeof(object), "%s/%.30s", kind, request->name);
	fleet_event(request->api->fleet, "warning", object, "operator sent %s to %s",
		signal->valuestring, process->valuestring);
}

static void pvm_signal(struct api_request *request)
{
	send_signal(request, "port");
}

static void cvm_signal(struct api_request *request)
{
	send_signal(request, "cvm");
}

/* The body {"server": NAME}, which may be absent; "" if it is. NULL: a problem is set. */
static const char *read_destination(struct api_request *request)
{
	const char *server = "";
	const cJSON *item;
	if (request->body != NULL && !cJSON_IsObject(request->body)) {
		problem_set(&request->problem, 422, "invalid-field",
			"the body must be an object like {\"server\": \"a-right\"}");
		return NULL;
	}
	cJSON_ArrayForEach (item, request->body) {
		char field[64];
		snprintf(field, sizeof(field), "/%.60s", item->string ? item->string : "");
		if (strcmp(field, "/server") != 0)
			problem_field(&request->problem, field,
				"check its spelling, or leave it out", "no such field exists");
		else if (!cJSON_IsString(item) || !model_name_valid(item->valuestring))
			problem_field(&request->problem, field,
				"name a server of the site, or leave it out",
				"is not the name of a server");
		else
			server = item->valuestring;
	}
	return request->problem.status == 0 ? server : NULL;
}

static void pvm_migrate(struct api_request *request)
{
	struct operation op;
	const char *server = read_destination(request);
	if (server != NULL && engine_port_migrate(request->api->engine, request->name, server, &op,
				      &request->problem) == 0)
		accepted(request, &op);
}

static void cvm_migrate(struct api_request *request)
{
	struct operation op;
	const char *server = read_destination(request);
	if (server != NULL && engine_cvm_migrate(request->api->engine, request->name, server, &op,
				      &request->problem) == 0)
		accepted(request, &op);
}

/* ---- CVMs --------------------------------------------------------------------------------- */

static cJSON *cvm_json(struct api_request *request, const struct cvm *cvm, bool fresh)
{
	struct fleet_vm_view view;
	fleet_vm_view(request->api->fleet, cvm->uuid, &view);
	cJSON *json = model_cvm_json(cvm);
	add_move(json, &cvm->move);
	cJSON_AddStringToObject(json, "state", vm_state(cvm->state, &view));
	add_vm(json, &view, cvm->uuid);
	fleet_vm_view_free(&view);
	cJSON_AddItemToObject(
		json, "protection", fleet_protect_json(request->api->fleet, cvm, fresh));
	return json;
}

static void cvms_list(struct api_request *request)
{
	struct cvm *cvms;
	size_t n;
	if (store_cvm_list(request->api->store, &cvms, &n) != 0) {
		database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, cvm_json(request, &cvms[i], false));
	free(cvms);
	answer_list(request, items);
}

static void cvm_create(struct api_request *request)
{
	char site[MODEL_NAME_SIZE];
	struct operation op;
	uint32_t wait_s;
	if (read_wait(request, &wait_s) &&
		model_cvm_read(request->body, site, &request->problem) == 0 &&
		engine_cvm_create(request->api->engine, site, wait_s, &op, &request->problem) == 0)
		accepted(request, &op);
}

static void cvm_show(struct api_request *request)
{
	struct cvm cvm;
	struct protection protection;
	struct problem gone = {0};
	char object[48], missing[512];
	if (registry_find_cvm(request->api->store, request->name, &cvm, &request->problem) != 0)
		return;
	snprintf(object, sizeof(object), "cvm/%s", cvm.site);
	/*
	 * Where a protected CVM is, and whether it fails over, can be seen at once: what its keeper
	 * saw last has to do, lest a primary that hangs holds that up.
	 */
	if (cvm.started &&
		store_protection_get(request->api->store, cvm.site, &protection) == ENOENT)
		fleet_vm_serves(request->api->fleet, object, missing, sizeof(missing));
	request->answer = cvm_json(request, &cvm, true);
	add_unmet(request, explain_cvm(request->api->store, cvm.site, is_reachable,
				   request->api->fleet, &gone));
}

static void cvm_protect(struct api_request *request)
{
	struct protection_request wanted;
	struct operation op;
	if (model_protection_read(request->body, &wanted, &request->problem) == 0 &&
		engine_cvm_protect(
			request->api->engine, request->name, &wanted, &op, &request->problem) == 0)
		accepted(request, &op);
}

static void cvm_unprotect(struct api_request *request)
{
	struct operation op;
	if (engine_cvm_unprotect(request->api->engine, request->name, &op, &request->problem) == 0)
		accepted(request, &op);
}

static void cvm_failover(struct api_request *request)
{
	struct operation op;
	if (engine_cvm_failover(request->api->engine, request->name, &op, &request->problem) == 0)
		accepted(request, &op);
}

static void cvm_delete(struct api_request *request)
{
	struct operation op;
	if (engine_cvm_delete(request->api->engine, request->name, &op, &request->problem) == 0)
		accepted(request, &op);
}

static void cvm_rib(struct api_request *request)
{
	query_table(request, "cvm", "cvm.routes", "vpnv4");
}

/* ---- operations, events ------------------------------------------------------------------- */

static void operations_list(struct api_request *request)
{
	struct operation *ops;
	size_t n;
	int64_t before = api_query_number(request, "before", INT64_MAX, 0);
	int64_t limit = api_query_number(request, "limit", LIST_LIMIT, 100);
	if (before < 0 || limit < 0)
		return;
	if (store_operation_list(request->api->store, before, (size_t)limit, &ops, &n) != 0) {
		database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, engine_operation_json(&ops[i]));
	free(ops);
	answer_list(request, items);
}

static void operation_show(struct api_request *request)
{
	struct operation op;
	int64_t wait_ms = api_query_number(request, "wait_ms", WAIT_MS_MAX, 0);
	int64_t since = api_query_number(request, "since_step", OPERATION_MAX_STEPS, 0);
	char *end;
	long long id = strtoll(request->name, &end, 10);
	if (wait_ms < 0 || since < 0)
		return;
	if (*end != '\0' || id <= 0 ||
		engine_operation_wait(
			request->api->engine, id, (unsigned)wait_ms, (size_t)since, &op) != 0)
		problem_set(&request->problem, 404, "not-found",
			"there is no operation %s: \"edgeplex operation list\" shows those there "
			"are",
			request->name);
	else
		request->answer = engine_operation_json(&op);
}

static int64_t now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static cJSON *event_json(const struct event *event)
{
	cJSON *json = cJSON_CreateObject();
	cJSON_AddNumberToObject(json, "id", (double)event->id);
	model_add_time(json, "time", event->time_ms);
	cJSON_AddStringToObject(json, "severity", event->severity);
	cJSON_AddStringToObject(json, "object", event->object);
	cJSON_AddStringToObject(json, "text", event->text);
	return json;
}

/* A connection that server-sent events go out of. */
struct event_stream {
	struct api *api;
	int64_t after; /* the last event that was sent */
	uint64_t seen; /* of fleet_event_wait() */
	char *text;    /* NULL, or what is being sent */
	size_t len, sent;
};

/* The next events after those that were sent, as text; a comment if there are none for long. */
static bool fill_stream(struct event_stream *stream)
{
	struct event *events = NULL;
	size_t n = 0;
	if (!fleet_event_wait(stream->api->fleet, &stream->seen, EVENT_HEARTBEAT_MS) ||
		store_event_list(stream->api->store, stream->after, EVENT_BATCH, &events, &n) != 0)
		return false;
	if (n == EVENT_BATCH)
		stream->seen = 0; /* there may be more already */
	FILE *out = open_memstream(&stream->text, &stream->len);
	for (size_t i = 0; i < n && out != NULL; i++) {
		cJSON *json = event_json(&events[i]);
		char *line = cJSON_PrintUnformatted(json);
		fprintf(out, "id: %lld\ndata: %s\n\n", (long long)events[i].id,
			line != NULL ? line : "{}");
		cJSON_free(line);
		cJSON_Delete(json);
		stream->after = events[i].id;
	}
	if (n == 0 && out != NULL)
		fputs(":\n\n", out);
	free(events);
	stream->sent = 0;
	return out != NULL && fclose(out) == 0;
}

/* On the connection's own thread, which may wait. */
static ssize_t read_stream(void *ctx, uint64_t pos, char *buf, size_t max)
{
	struct event_stream *stream = ctx;
	(void)pos;
	if (stream->text == NULL && !fill_stream(stream))
		return MHD_CONTENT_READER_END_OF_STREAM;
	size_t n = stream->len - stream->sent;
	if (n > max)
		n = max;
	memcpy(buf, stream->text + stream->sent, n);
	stream->sent += n;
	if (stream->sent == stream->len) {
		free(stream->text);
		stream->text = NULL;
	}
	return (ssize_t)n;
}

static void free_stream(void *ctx)
{
	struct event_stream *stream = ctx;
	free(stream->text);
	free(stream);
}

static void stream_events(struct api_request *request, int64_t after)
{
	struct event_stream *stream = calloc(1, sizeof(*stream));
	if (stream != NULL) {
		stream->api = request->api;
		stream->after = after;
		request->stream = MHD_create_response_from_callback(
			MHD_SIZE_UNKNOWN, EVENT_BLOCK, read_stream, stream, free_stream);
	}
	if (request->stream == NULL) {
		free(stream);
		problem_set(&request->problem, 500, "internal", "no memory");
		return;
	}
	MHD_add_response_header(request->stream, "Content-Type", "text/event-stream");
	MHD_add_response_header(request->stream, "Cache-Control", "no-store");
}

/* Where a stream goes on that broke: the header wins, as browsers send it (HTML, 9.2.4). */
static int64_t stream_begin(struct api_request *request, int64_t after)
{
	const char *last =
		MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "Last-Event-ID");
	if (last == NULL)
		return after;
	char *end;
	errno = 0;
	long long id = strtoll(last, &end, 10);
	return *last < '0' || *last > '9' || *end != '\0' || errno != 0 ? after : id;
}

/* As store_event_list(), but waits up to `wait_ms` until there is one. Errno. */
static int await_events(struct api *api, int64_t after, size_t limit, unsigned wait_ms,
	struct event **events, size_t *n)
{
	uint64_t seen = 0;
	int64_t until = now_ms() + wait_ms, left = wait_ms;
	fleet_event_wait(api->fleet, &seen, 0);
	for (;;) {
		int err = store_event_list(api->store, after, limit, events, n);
		if (err != 0 || *n > 0 || left <= 0)
			return err;
		free(*events);
		*events = NULL;
		left = fleet_event_wait(api->fleet, &seen, (unsigned)left) ? until - now_ms() : 0;
	}
}

static void events_list(struct api_request *request)
{
	struct event *events;
	size_t n;
	const char *accept =
		MHD_lookup_connection_value(request->connection, MHD_HEADER_KIND, "Accept");
	bool newest = api_query(request, "before") != NULL;
	int64_t after = api_query_number(request, "after", INT64_MAX, 0);
	int64_t before = api_query_number(request, "before", INT64_MAX, 0);
	int64_t limit = api_query_number(request, "limit", LIST_LIMIT, LIST_LIMIT);
	int64_t wait_ms = api_query_number(request, "wait_ms", WAIT_MS_MAX, 0);
	if (after < 0 || before < 0 || limit < 0 || wait_ms < 0)
		return;
	if (accept != NULL && strstr(accept, "text/event-stream") != NULL) {
		stream_events(request, stream_begin(request, after));
		return;
	}
	int err = newest ? store_event_newest(
				   request->api->store, after, before, (size_t)limit, &events, &n)
			 : await_events(request->api, after, (size_t)limit, (unsigned)wait_ms,
				   &events, &n);
	if (err != 0) {
		database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, event_json(&events[i]));
	free(events);
	answer_list(request, items);
}

static void health(struct api_request *request)
{
	struct site *sites = NULL;
	size_t n = 0;
	bool database = store_site_list(request->api->store, &sites, &n) == 0;
	free(sites);
	request->answer = cJSON_CreateObject();
	cJSON_AddStringToObject(request->answer, "status", database ? "ok" : "database failed");
	cJSON_AddStringToObject(request->answer, "version", API_VERSION);
	cJSON_AddNumberToObject(
		request->answer, "uptime_ms", (double)(now_ms() - request->api->started_ms));
}

/* ---- the table ---------------------------------------------------------------------------- */

static const struct api_parameter wait_parameters[] = {
	{"wait_s", "how long the operation waits for service, in seconds (default 120)"},
	{0},
};
static const struct api_parameter table_parameters[] = {
	{"family", "ipv4, ipv6, mpls, vpnv4 or vpnv6, as far as the table has it"},
	{"prefix", "only this prefix"},
	{"lookup", "the longest match of this address (fib)"},
	{"after", "\"next\" of the page before"},
	{"limit", "routes of a page, at most 1000"},
	{0},
};
static const struct api_parameter operation_parameters[] = {
	{"wait_ms", "wait up to this long for news"},
	{"since_step", "how many of its steps had begun when it was last seen"},
	{0},
};
static const struct api_parameter operations_parameters[] = {
	{"before", "only operations with a lower id"},
	{"limit", "at most so many, newest first (default 100)"},
	{0},
};
static const struct api_parameter events_parameters[] = {
	{"after", "only events with a higher id"},
	{"before", "only events with a lower id (0: any), newest first"},
	{"limit", "at most so many; oldest first without \"before\""},
	{"wait_ms", "wait up to this long for one (not with \"before\")"},
	{0},
};

const struct api_route api_routes[] = {
	{"GET", "/v1/sites", sites_list, "List the sites", NULL, 200, NULL, NULL},
	{"POST", "/v1/sites", site_create, "Create a site; connects to its edge switch", "Site",
		201, "Site", NULL},
	{"GET", "/v1/sites/{name}", site_show, "Show a site", NULL, 200, "Site", NULL},
	{"PATCH", "/v1/sites/{name}", site_change, "Change a site", "Patch", 200, "Site", NULL},
	{"DELETE", "/v1/sites/{name}", site_delete, "Delete a site that nothing uses", NULL, 200,
		NULL, NULL},

	{"GET", "/v1/sites/{name}/risks", site_risks,
		"What would fail together at a site though it should not", NULL, 200, NULL, NULL},

	{"GET", "/v1/spares", spares_list, "List the spares: booted VMs for PVMs that die", NULL,
		200, NULL, NULL},

	{"GET", "/v1/servers", servers_list, "List the servers", NULL, 200, NULL, NULL},
	{"POST", "/v1/servers", server_create, "Create a server; connects to its libvirt", "Server",
		201, "Server", NULL},
	{"GET", "/v1/servers/{name}", server_show, "Show a server", NULL, 200, "Server", NULL},
	{"PATCH", "/v1/servers/{name}", server_change, "Change a server", "Patch", 200, "Server",
		NULL},
	{"POST", "/v1/servers/{name}/drain", server_drain,
		"Take a server out of service and move its VMs away", NULL, 202, "Operation", NULL},
	{"POST", "/v1/servers/{name}/undrain", server_undrain, "Put a server into service again",
		NULL, 200, "Server", NULL},
	{"DELETE", "/v1/servers/{name}", server_delete, "Delete a server without VMs", NULL, 200,
		NULL, NULL},

	{"GET", "/v1/customers", customers_list, "List the customers", NULL, 200, NULL, NULL},
	{"POST", "/v1/customers", customer_create, "Create a customer", "Customer", 201, "Customer",
		NULL},
	{"GET", "/v1/customers/{name}", customer_show, "Show a customer", NULL, 200, "Customer",
		NULL},
	{"PATCH", "/v1/customers/{name}", customer_change,
		"Change a customer (nothing of it can be changed yet)", "Patch", 200, "Customer",
		NULL},
	{"DELETE", "/v1/customers/{name}", customer_delete, "Delete a customer without ports", NULL,
		200, NULL, NULL},

	{"GET", "/v1/ports", ports_list, "List the ports", NULL, 200, NULL, NULL},
	{"POST", "/v1/ports", port_create, "Create a port and its PVM", "Port", 202, "Operation",
		wait_parameters},
	{"GET", "/v1/ports/{name}", port_show, "Show a port", NULL, 200, "Port", NULL},
	{"PATCH", "/v1/ports/{name}", port_change, "Change a port while it runs", "Patch", 202,
		"Operation", wait_parameters},
	{"DELETE", "/v1/ports/{name}", port_delete, "Delete a port and its PVM", NULL, 202,
		"Operation", NULL},

	{"GET", "/v1/pvms", pvms_list, "List the PVMs", NULL, 200, NULL, NULL},
	{"GET", "/v1/pvms/{name}", pvm_show, "Show a PVM", NULL, 200, NULL, NULL},
	{"GET", "/v1/pvms/{name}/rib", pvm_rib, "Routes of a PVM", NULL, 200, NULL,
		table_parameters},
	{"GET", "/v1/pvms/{name}/fib", pvm_fib, "Forwarding table of a PVM", NULL, 200, NULL,
		table_parameters},
	{"GET", "/v1/pvms/{name}/neighbors", pvm_neighbors, "ARP and ND entries of a PVM", NULL,
		200, NULL, NULL},
	{"GET", "/v1/pvms/{name}/processes", pvm_processes, "Processes of a PVM", NULL, 200, NULL,
		NULL},
	{"GET", "/v1/pvms/{name}/placement", pvm_placement, "Why a PVM is where it is", NULL, 200,
		NULL, NULL},
	{"POST", "/v1/pvms/{name}/migrate", pvm_migrate,
		"Move a PVM to another server of its site, make before break", "?Migrate", 202,
		"Operation", NULL},
	{"POST", "/v1/pvms/{name}/signal", pvm_signal, "Send a signal to a process of a PVM",
		"Signal", 200, NULL, NULL},

	{"GET", "/v1/cvms", cvms_list, "List the CVMs", NULL, 200, NULL, NULL},
	{"POST", "/v1/cvms", cvm_create, "Create a site's CVM", "Cvm", 202, "Operation",
		wait_parameters},
	{"GET", "/v1/cvms/{name}", cvm_show, "Show a CVM", NULL, 200, NULL, NULL},
	{"DELETE", "/v1/cvms/{name}", cvm_delete, "Delete the CVM of a site without ports", NULL,
		202, "Operation", NULL},
	{"GET", "/v1/cvms/{name}/rib", cvm_rib, "Routes of a CVM", NULL, 200, NULL,
		table_parameters},
	{"GET", "/v1/cvms/{name}/processes", cvm_processes, "Processes of a CVM", NULL, 200, NULL,
		NULL},
	{"GET", "/v1/cvms/{name}/placement", cvm_placement,
		"Why a CVM and its standby are where they are", NULL, 200, NULL, NULL},
	{"POST", "/v1/cvms/{name}/migrate", cvm_migrate,
		"Move a CVM to another server of its site while it speaks", "?Migrate", 202,
		"Operation", NULL},
	{"POST", "/v1/cvms/{name}/protect", cvm_protect,
		"Protect a CVM by a standby on another server, or change how", "?Protect", 202,
		"Operation", NULL},
	{"POST", "/v1/cvms/{name}/unprotect", cvm_unprotect, "End the protection of a CVM", NULL,
		202, "Operation", NULL},
	{"POST", "/v1/cvms/{name}/failover", cvm_failover,
		"Have the standby of a CVM take over now", NULL, 202, "Operation", NULL},
	{"POST", "/v1/cvms/{name}/signal", cvm_signal, "Send a signal to a process of a CVM",
		"Signal", 200, NULL, NULL},

	{"GET", "/v1/operations", operations_list, "List the operations, newest first", NULL, 200,
		NULL, operations_parameters},
	{"GET", "/v1/operations/{id}", operation_show, "Show an operation, or wait for its news",
		NULL, 200, "Operation", operation_parameters},
	{"GET", "/v1/events", events_list,
		"List the events; with Accept: text/event-stream, follow them", NULL, 200, NULL,
		events_parameters},
	{"GET", "/v1/openapi.json", api_openapi, "This document", NULL, 200, NULL, NULL},
	{"GET", "/v1/health", health, "Is the controller well?", NULL, 200, NULL, NULL},
	{"GET", "/metrics", api_metrics, "Prometheus metrics", NULL, 200, NULL, NULL},
};

const size_t api_n_routes = sizeof(api_routes) / sizeof(api_routes[0]);
