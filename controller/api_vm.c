/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What the API does with PVMs and CVMs, and asks of them. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/api_internal.h"
#include "controller/explain.h"
#include "controller/registry.h"

#define GUEST_QUERY_MS 10000

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

static bool is_reachable(void *ctx, int64_t server_id)
{
	return fleet_server_connected(ctx, server_id);
}

/* Adds `rules_not_met` from the object's explanation (taken), if there is one. */
static void add_unmet(struct api_request *request, cJSON *explanation)
{
	if (explanation != NULL)
		cJSON_AddItemToObject(request->answer, "rules_not_met", explain_unmet(explanation));
	cJSON_Delete(explanation);
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
	int64_t limit = api_query_number(request, "limit", API_LIST_LIMIT, 0);
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

static void list_processes(struct api_request *request, const char *kind)
{
	ask_guest(request, kind, "guest.processes", NULL);
	if (request->problem.status == 0)
		api_answer_list(request, request->answer);
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

/* ---- PVMs ----------------------------------------------------------------------------------- */

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

void api_pvms_list(struct api_request *request)
{
	struct port *ports;
	size_t n;
	if (store_port_list(request->api->store, &ports, &n) != 0) {
		api_database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, pvm_json(request, &ports[i]));
	free(ports);
	api_answer_list(request, items);
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

void api_pvm_show(struct api_request *request)
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

void api_pvm_placement(struct api_request *request)
{
	request->answer = explain_port(request->api->store, request->name, is_reachable,
		request->api->fleet, &request->problem);
}

void api_pvm_rib(struct api_request *request)
{
	query_table(request, "port", "pvm.routes", "ipv4");
}

void api_pvm_fib(struct api_request *request)
{
	query_table(request, "port", "fwd.fib", "ipv4");
}

void api_pvm_neighbors(struct api_request *request)
{
	ask_guest(request, "port", "fwd.neighbors", NULL);
	if (cJSON_IsArray(request->answer))
		api_answer_list(request, request->answer);
}

void api_pvm_processes(struct api_request *request)
{
	list_processes(request, "port");
}

void api_pvm_signal(struct api_request *request)
{
	send_signal(request, "port");
}

void api_pvm_migrate(struct api_request *request)
{
	struct operation op;
	const char *server = read_destination(request);
	if (server != NULL && engine_port_migrate(request->api->engine, request->name, server, &op,
				      &request->problem) == 0)
		api_accepted(request, &op);
}

/* ---- CVMs ----------------------------------------------------------------------------------- */

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
	struct failovers past;
	if (store_failovers_get(request->api->store, cvm->site_id, &past) == 0)
		fleet_failovers_json(json, &past);
	return json;
}

void api_cvms_list(struct api_request *request)
{
	struct cvm *cvms;
	size_t n;
	if (store_cvm_list(request->api->store, &cvms, &n) != 0) {
		api_database_failed(request);
		return;
	}
	cJSON *items = cJSON_CreateArray();
	for (size_t i = 0; i < n; i++)
		cJSON_AddItemToArray(items, cvm_json(request, &cvms[i], false));
	free(cvms);
	api_answer_list(request, items);
}

void api_cvm_create(struct api_request *request)
{
	char site[MODEL_NAME_SIZE];
	struct operation op;
	uint32_t wait_s;
	if (api_read_wait(request, &wait_s) &&
		model_cvm_read(request->body, site, &request->problem) == 0 &&
		engine_cvm_create(request->api->engine, site, wait_s, &op, &request->problem) == 0)
		api_accepted(request, &op);
}

void api_cvm_show(struct api_request *request)
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

void api_cvm_protect(struct api_request *request)
{
	struct protection_request wanted;
	struct operation op;
	if (model_protection_read(request->body, &wanted, &request->problem) == 0 &&
		engine_cvm_protect(
			request->api->engine, request->name, &wanted, &op, &request->problem) == 0)
		api_accepted(request, &op);
}

void api_cvm_unprotect(struct api_request *request)
{
	struct operation op;
	if (engine_cvm_unprotect(request->api->engine, request->name, &op, &request->problem) == 0)
		api_accepted(request, &op);
}

void api_cvm_failover(struct api_request *request)
{
	struct operation op;
	if (engine_cvm_failover(request->api->engine, request->name, &op, &request->problem) == 0)
		api_accepted(request, &op);
}

void api_cvm_delete(struct api_request *request)
{
	struct operation op;
	if (engine_cvm_delete(request->api->engine, request->name, &op, &request->problem) == 0)
		api_accepted(request, &op);
}

void api_cvm_rib(struct api_request *request)
{
	query_table(request, "cvm", "cvm.routes", "vpnv4");
}

void api_cvm_placement(struct api_request *request)
{
	request->answer = explain_cvm(request->api->store, request->name, is_reachable,
		request->api->fleet, &request->problem);
}

void api_cvm_processes(struct api_request *request)
{
	list_processes(request, "cvm");
}

void api_cvm_signal(struct api_request *request)
{
	send_signal(request, "cvm");
}

void api_cvm_migrate(struct api_request *request)
{
	struct operation op;
	const char *server = read_destination(request);
	if (server != NULL && engine_cvm_migrate(request->api->engine, request->name, server, &op,
				      &request->problem) == 0)
		api_accepted(request, &op);
}
