/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What the API does with ports. */

#include <stdlib.h>

#include "controller/api_internal.h"
#include "controller/registry.h"

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

void api_ports_list(struct api_request *request)
{
	struct port *ports = NULL;
	struct site *sites = NULL;
	size_t n = 0, n_sites = 0;
	if (store_port_list(request->api->store, &ports, &n) != 0 ||
		store_site_list(request->api->store, &sites, &n_sites) != 0) {
		free(ports);
		api_database_failed(request);
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
	api_answer_list(request, items);
}

void api_port_create(struct api_request *request)
{
	struct port port;
	struct operation op;
	uint32_t wait_s;
	if (api_read_wait(request, &wait_s) &&
		model_port_read(request->body, &port, &request->problem) == 0 &&
		engine_port_create(request->api->engine, &port, wait_s, &op, &request->problem) ==
			0)
		api_accepted(request, &op);
}

void api_port_show(struct api_request *request)
{
	struct port port;
	struct site site;
	if (registry_find_port(request->api->store, request->name, &port, &request->problem) == 0 &&
		registry_find_site(request->api->store, port.site, &site, &request->problem) == 0)
		request->answer = port_json(request, &port, &site);
}

void api_port_change(struct api_request *request)
{
	static const char *const mutable[] = {
		"addresses", "ce", "ce_mac", "graceful_restart_s", NULL};
	struct api *api = request->api;
	struct port port, wanted;
	struct site site;
	struct operation op;
	uint32_t wait_s;
	if (!api_read_wait(request, &wait_s) ||
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
			api_accepted(request, &op);
	}
	cJSON_Delete(patched);
}

void api_port_delete(struct api_request *request)
{
	struct operation op;
	if (engine_port_delete(request->api->engine, request->name, &op, &request->problem) == 0)
		api_accepted(request, &op);
}
