/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * What the API says about itself: the OpenAPI document, from the table of routes, metrics, and
 * whether all is well.
 */

#include <ctype.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/api_internal.h"

/* ---- OpenAPI ------------------------------------------------------------------------------ */

/* JSON Schemas of what is sent and answered; docs/api.md explains the fields. */
static const char schemas_text[] =
	"{\"Site\":{\"type\":\"object\",\"required\":[\"name\",\"asn\",\"pe_address\",\"core\","
	"\"transport_label\",\"switch\"],\"properties\":{\"name\":{\"$ref\":"
	"\"#/components/schemas/Name\"},\"asn\":{\"type\":\"integer\"},\"pe_address\":{\"type\":"
	"\"string\"},\"core\":{\"type\":\"object\",\"required\":[\"switch_port\",\"address\","
	"\"gateway\",\"route_reflectors\"],\"properties\":{\"switch_port\":{\"type\":\"string\"},"
	"\"address\":{\"type\":\"string\"},\"gateway\":{\"type\":\"string\"},"
	"\"route_reflectors\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},\"mtu\":{"
	"\"type\":\"integer\",\"default\":1600}}},\"transport_label\":{\"type\":\"integer\"},"
	"\"switch\":{\"type\":\"string\"},\"inside\":{\"type\":\"string\"},\"labels\":{\"type\":"
	"\"string\",\"default\":\"1000-1999\"},\"vlans\":{\"type\":\"string\",\"default\":"
	"\"100-3999\"},\"pvm_memory_kib\":{\"type\":\"integer\"},\"cvm_memory_kib\":{\"type\":"
	"\"integer\"},\"spares\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":16,"
	"\"default\":0}}},"
	"\"Server\":{\"type\":\"object\",\"required\":[\"name\",\"site\",\"uri\",\"bridge\","
	"\"trunk\"],\"properties\":{\"name\":{\"$ref\":\"#/components/schemas/Name\"},\"site\":{"
	"\"type\":\"string\"},\"uri\":{\"type\":\"string\"},\"bridge\":{\"type\":\"string\"},"
	"\"trunk\":{\"type\":\"string\"},\"hostd\":{\"type\":[\"string\",\"null\"]},"
	"\"memory_mib\":{\"type\":\"integer\",\"default\":4096},\"risks\":{\"type\":\"array\","
	"\"items\":{\"type\":\"string\"},\"maxItems\":32,\"default\":[]}}},"
	"\"Customer\":{\"type\":\"object\",\"required\":[\"name\"],\"properties\":{\"name\":{"
	"\"$ref\":\"#/components/schemas/Name\"},\"vpn_id\":{\"type\":\"integer\"}}},"
	"\"Port\":{\"type\":\"object\",\"required\":[\"name\",\"customer\",\"site\","
	"\"switch_port\",\"addresses\",\"ce\"],\"properties\":{\"name\":{\"$ref\":"
	"\"#/components/schemas/Name\"},\"customer\":{\"type\":\"string\"},\"site\":{\"type\":"
	"\"string\"},\"switch_port\":{\"type\":\"string\"},\"vlan\":{\"type\":\"integer\","
	"\"default\":0},\"addresses\":{\"type\":\"array\",\"items\":{\"type\":\"string\"}},"
	"\"mtu\":{\"type\":\"integer\",\"default\":1500},\"ce\":{\"type\":\"array\",\"items\":{"
	"\"type\":\"object\",\"required\":[\"address\",\"asn\"],\"properties\":{\"address\":{"
	"\"type\":\"string\"},\"asn\":{\"type\":\"integer\"},\"max_prefixes\":{\"type\":"
	"\"integer\"}}}},\"ce_mac\":{\"type\":[\"string\",\"null\"]},\"server\":{\"type\":["
	"\"string\",\"null\"]},\"graceful_restart_s\":{\"type\":\"integer\",\"minimum\":0,"
	"\"maximum\":4095,\"default\":120}}},"
	"\"Cvm\":{\"type\":\"object\",\"required\":[\"site\"],\"properties\":{\"site\":{\"type\":"
	"\"string\"}}},"
	"\"Signal\":{\"type\":\"object\",\"required\":[\"process\",\"signal\"],\"properties\":{"
	"\"process\":{\"type\":\"string\"},\"signal\":{\"enum\":[\"TERM\",\"KILL\",\"STOP\","
	"\"CONT\"]}}},"
	"\"Migrate\":{\"type\":\"object\",\"properties\":{\"server\":{\"type\":\"string\","
	"\"description\":\"where to; else the controller chooses\"}}},"
	"\"Protect\":{\"type\":\"object\",\"properties\":{\"standby\":{\"type\":[\"string\","
	"\"null\"],\"description\":\"server of the standby; else the controller chooses\"},"
	"\"interval_ms\":{\"type\":\"integer\",\"minimum\":25,\"maximum\":10000,\"default\":100},"
	"\"timeout_ms\":{\"type\":\"integer\",\"minimum\":100,\"maximum\":10000,"
	"\"default\":1000}}},"
	"\"Patch\":{\"type\":\"object\",\"description\":\"the fields to change (RFC 7396)\"},"
	"\"Name\":{\"type\":\"string\",\"pattern\":\"^[a-z][a-z0-9-]{0,29}$\"},"
	"\"Operation\":{\"type\":\"object\",\"properties\":{\"id\":{\"type\":\"integer\"},"
	"\"verb\":{\"type\":\"string\"},\"object\":{\"type\":\"string\"},\"state\":{\"enum\":["
	"\"running\",\"succeeded\",\"failed\"]},\"step\":{\"type\":\"string\"},\"steps\":{"
	"\"type\":\"array\"},\"progress\":{\"type\":\"number\"},\"error\":{\"oneOf\":[{\"$ref\":"
	"\"#/components/schemas/Problem\"},{\"type\":\"null\"}]}}},"
	"\"Problem\":{\"type\":\"object\",\"properties\":{\"type\":{\"type\":\"string\"},"
	"\"title\":{\"type\":\"string\"},\"status\":{\"type\":\"integer\"},\"detail\":{\"type\":"
	"\"string\"},\"errors\":{\"type\":\"array\",\"items\":{\"type\":\"object\",\"properties\":"
	"{\"field\":{\"type\":\"string\"},\"detail\":{\"type\":\"string\"},\"fix\":{\"type\":"
	"\"string\"}}}}}}}";

static cJSON *content_of(const char *media, const char *schema)
{
	char ref[64];
	cJSON *content = cJSON_CreateObject();
	cJSON *json = cJSON_AddObjectToObject(cJSON_AddObjectToObject(content, media), "schema");
	if (schema == NULL) {
		cJSON_AddStringToObject(json, "type", "object");
	} else {
		snprintf(ref, sizeof(ref), "#/components/schemas/%s", schema);
		cJSON_AddStringToObject(json, "$ref", ref);
	}
	return content;
}

static void add_parameter(cJSON *list, const char *name, const char *in, const char *description)
{
	cJSON *parameter = cJSON_CreateObject();
	cJSON_AddStringToObject(parameter, "name", name);
	cJSON_AddStringToObject(parameter, "in", in);
	if (strcmp(in, "path") == 0)
		cJSON_AddBoolToObject(parameter, "required", true);
	if (description != NULL)
		cJSON_AddStringToObject(parameter, "description", description);
	cJSON_AddStringToObject(cJSON_AddObjectToObject(parameter, "schema"), "type", "string");
	cJSON_AddItemToArray(list, parameter);
}

static cJSON *route_json(const struct api_route *route)
{
	char status[16];
	cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "summary", route->summary);
	cJSON *parameters = cJSON_AddArrayToObject(json, "parameters");
	if (strstr(route->path, "{name}") != NULL)
		add_parameter(parameters, "name", "path", NULL);
	if (strstr(route->path, "{id}") != NULL)
		add_parameter(parameters, "id", "path", NULL);
	for (const struct api_parameter *p = route->parameters; p != NULL && p->name != NULL; p++)
		add_parameter(parameters, p->name, "query", p->description);
	if (route->body != NULL) {
		cJSON *body = cJSON_AddObjectToObject(json, "requestBody");
		bool required = route->body[0] != '?';
		cJSON_AddBoolToObject(body, "required", required);
		cJSON_AddItemToObject(body, "content",
			content_of("application/json", route->body + (required ? 0 : 1)));
	}
	cJSON *responses = cJSON_AddObjectToObject(json, "responses");
	snprintf(status, sizeof(status), "%d", route->status);
	cJSON *success = cJSON_AddObjectToObject(responses, status);
	cJSON_AddStringToObject(success, "description", "done, or begun");
	const char *media =
		strcmp(route->path, "/metrics") == 0 ? "text/plain" : "application/json";
	cJSON_AddItemToObject(success, "content", content_of(media, route->returns));
	cJSON *failure = cJSON_AddObjectToObject(responses, "default");
	cJSON_AddStringToObject(failure, "description", "a problem (RFC 9457)");
	cJSON_AddItemToObject(
		failure, "content", content_of("application/problem+json", "Problem"));
	return json;
}

void api_openapi(struct api_request *request)
{
	cJSON *json = cJSON_CreateObject();
	cJSON_AddStringToObject(json, "openapi", "3.1.0");
	cJSON *info = cJSON_AddObjectToObject(json, "info");
	cJSON_AddStringToObject(info, "title", "EdgePlex controller");
	cJSON_AddStringToObject(info, "version", API_VERSION);
	cJSON *paths = cJSON_AddObjectToObject(json, "paths");
	for (size_t i = 0; i < api_n_routes; i++) {
		const struct api_route *route = &api_routes[i];
		char method[8] = "";
		for (size_t j = 0; j + 1 < sizeof(method) && route->method[j] != '\0'; j++)
			method[j] = (char)tolower((unsigned char)route->method[j]);
		cJSON *path = cJSON_GetObjectItemCaseSensitive(paths, route->path);
		if (path == NULL)
			path = cJSON_AddObjectToObject(paths, route->path);
		cJSON_AddItemToObject(path, method, route_json(route));
	}
	cJSON_AddItemToObject(
		cJSON_AddObjectToObject(json, "components"), "schemas", cJSON_Parse(schemas_text));
	request->answer = json;
}

/* ---- metrics ------------------------------------------------------------------------------ */

static void family(FILE *out, const char *name, const char *type, const char *help)
{
	fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static double number_of(const cJSON *json, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(json, name);
	return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

static void write_requests(FILE *out, struct api *api)
{
	static const char *const outcomes[] = {"ok", "refused", "failed"};
	family(out, "edgeplex_api_requests_total", "counter", "API requests answered, by outcome.");
	for (size_t i = 0; i < API_COUNTERS; i++)
		fprintf(out, "edgeplex_api_requests_total{outcome=\"%s\"} %" PRIu64 "\n",
			outcomes[i], (uint64_t)api->requests[i]);
}

static void write_operations(FILE *out, struct api *api)
{
	uint64_t counts[3] = {0};
	struct operation *ops;
	size_t n;
	if (store_operation_list(api->store, 0, 1000, &ops, &n) != 0)
		return;
	for (size_t i = 0; i < n; i++)
		counts[ops[i].state]++;
	free(ops);
	family(out, "edgeplex_operations", "gauge", "The newest 1000 operations, by state.");
	for (int i = 0; i < 3; i++)
		fprintf(out, "edgeplex_operations{state=\"%s\"} %" PRIu64 "\n",
			engine_operation_state_name((enum operation_state)i), counts[i]);
}

static void write_sites(FILE *out, struct api *api)
{
	struct site *sites;
	struct server *servers;
	size_t n;
	if (store_site_list(api->store, &sites, &n) == 0) {
		family(out, "edgeplex_switch_connected", "gauge",
			"Is the site's edge switch connected?");
		for (size_t i = 0; i < n; i++)
			fprintf(out, "edgeplex_switch_connected{site=\"%s\"} %d\n", sites[i].name,
				fleet_site_connected(api->fleet, sites[i].id));
		free(sites);
	}
	if (store_server_list(api->store, &servers, &n) == 0) {
		family(out, "edgeplex_server_connected", "gauge", "Is the server connected?");
		for (size_t i = 0; i < n; i++)
			fprintf(out, "edgeplex_server_connected{server=\"%s\",site=\"%s\"} %d\n",
				servers[i].name, servers[i].site,
				fleet_server_connected(api->fleet, servers[i].id));
		free(servers);
	}
}

/* One port's figures, kept until all families have been written. */
struct port_figures {
	const struct port *port;
	struct fleet_vm_view view;
};

/* One family of per-port counters, from the forwarder's own. */
static void write_counter(
	FILE *out, const struct port_figures *figures, size_t n, const char *field)
{
	char name[64];
	snprintf(name, sizeof(name), "edgeplex_pvm_%s_total", field);
	family(out, name, "counter", "Counter of the PVM's forwarder, by its interface.");
	for (size_t i = 0; i < n; i++) {
		const cJSON *port;
		cJSON_ArrayForEach (
			port, cJSON_GetObjectItemCaseSensitive(figures[i].view.fwd, "ports")) {
			const cJSON *interface = cJSON_GetObjectItemCaseSensitive(port, "name");
			const cJSON *counters = cJSON_GetObjectItemCaseSensitive(port, "counters");
			bool clean = cJSON_IsString(interface) &&
				     strpbrk(interface->valuestring, "\"\\\n") == NULL;
			if (clean)
				fprintf(out, "%s{pvm=\"%s\",interface=\"%.15s\"} %.0f\n", name,
					figures[i].port->name, interface->valuestring,
					number_of(counters, field));
		}
	}
}

static void write_ports(FILE *out, struct api *api)
{
	static const char *const states[] = {"up", "degraded", "down", "creating", "deleting"};
	static const char *const counters[] = {
		"rx_packets", "rx_bytes", "tx_packets", "tx_bytes", "rx_dropped", "tx_dropped"};
	struct port *ports;
	size_t n;
	if (store_port_list(api->store, &ports, &n) != 0)
		return;
	struct port_figures *figures = calloc(n + 1, sizeof(*figures));
	for (size_t i = 0; i < n && figures != NULL; i++) {
		figures[i].port = &ports[i];
		fleet_vm_view(api->fleet, ports[i].uuid, &figures[i].view);
	}
	if (figures == NULL) {
		free(ports);
		return;
	}
	family(out, "edgeplex_ports", "gauge", "Customer ports, by status.");
	for (size_t s = 0; s < sizeof(states) / sizeof(states[0]); s++) {
		size_t count = 0;
		for (size_t i = 0; i < n; i++)
			count += strcmp(states[s], api_port_status(&ports[i], &figures[i].view)) ==
				 0;
		fprintf(out, "edgeplex_ports{status=\"%s\"} %zu\n", states[s], count);
	}
	family(out, "edgeplex_port_up", "gauge", "Does the port carry routes?");
	for (size_t i = 0; i < n; i++)
		fprintf(out, "edgeplex_port_up{port=\"%s\",customer=\"%s\",site=\"%s\"} %d\n",
			ports[i].name, ports[i].customer, ports[i].site, figures[i].view.serves);
	family(out, "edgeplex_pvm_memory_bytes", "gauge", "Resident memory of the PVM's process.");
	for (size_t i = 0; i < n; i++)
		fprintf(out, "edgeplex_pvm_memory_bytes{pvm=\"%s\"} %" PRIu64 "\n", ports[i].name,
			figures[i].view.rss_kib * 1024);
	family(out, "edgeplex_pvm_cpu_seconds_total", "counter", "Processor time of the PVM.");
	for (size_t i = 0; i < n; i++)
		fprintf(out, "edgeplex_pvm_cpu_seconds_total{pvm=\"%s\"} %.3f\n", ports[i].name,
			(double)figures[i].view.cpu_ms / 1000);
	for (size_t c = 0; c < sizeof(counters) / sizeof(counters[0]); c++)
		write_counter(out, figures, n, counters[c]);
	for (size_t i = 0; i < n; i++)
		fleet_vm_view_free(&figures[i].view);
	free(figures);
	free(ports);
}

/* One family of the protections' figures: `field` of the object `part` (NULL: of all) in `unit`. */
static void write_figure(FILE *out, const cJSON *all, const char *name, const char *type,
	const char *help, const char *part, const char *field, double unit)
{
	const cJSON *one;
	family(out, name, type, help);
	cJSON_ArrayForEach (one, all) {
		const cJSON *from =
			part != NULL ? cJSON_GetObjectItemCaseSensitive(one, part) : one;
		const cJSON *value = cJSON_GetObjectItemCaseSensitive(from, field);
		if (cJSON_IsNumber(value))
			fprintf(out, "%s{site=\"%s\"} %.9g\n", name, one->string,
				value->valuedouble * unit);
	}
}

/* Of CVMs that are to be protected; how often a standby took over, of all. */
static void write_protections(FILE *out, struct api *api)
{
	struct cvm *cvms;
	size_t n;
	const cJSON *one;
	if (store_cvm_list(api->store, &cvms, &n) != 0)
		return;
	cJSON *all = cJSON_CreateObject(), *pasts = cJSON_CreateObject();
	for (size_t i = 0; i < n; i++) {
		struct failovers past;
		if (store_failovers_get(api->store, cvms[i].site_id, &past) == 0)
			fleet_failovers_json(cJSON_AddObjectToObject(pasts, cvms[i].site), &past);
		cJSON *protection = fleet_protect_json(api->fleet, &cvms[i], false);
		if (cJSON_IsObject(protection))
			cJSON_AddItemToObject(all, cvms[i].site, protection);
		else
			cJSON_Delete(protection);
	}
	free(cvms);
	family(out, "edgeplex_cvm_protected", "gauge",
		"Could the CVM's standby take over? Only of CVMs that are to be protected.");
	cJSON_ArrayForEach (one, all) {
		const char *state =
			cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(one, "state"));
		fprintf(out, "edgeplex_cvm_protected{site=\"%s\"} %d\n", one->string,
			state != NULL && strcmp(state, "protected") == 0);
	}
	write_figure(out, pasts, "edgeplex_cvm_failovers_total", "counter",
		"How often a standby took over.", NULL, "failovers", 1);
	write_figure(out, all, "edgeplex_cvm_epoch_age_seconds", "gauge",
		"Age of the last whole epoch, as last told.", NULL, "epoch_age_ms", 1e-3);
	write_figure(out, all, "edgeplex_cvm_epoch_bytes_per_second", "gauge",
		"What protection sends to the standby's server.", NULL, "bytes_per_s", 1);
	write_figure(out, all, "edgeplex_cvm_epoch_pause_p99_seconds", "gauge",
		"How long the CVM stands still for an epoch.", "pause_us", "p99", 1e-6);
	cJSON_Delete(all);
	cJSON_Delete(pasts);
}

static void write_spares(FILE *out, struct api *api)
{
	struct site *sites;
	struct fleet_heal_count heal;
	size_t n;
	if (store_site_list(api->store, &sites, &n) == 0) {
		family(out, "edgeplex_spares_wanted", "gauge",
			"How many spares a site is to have.");
		for (size_t i = 0; i < n; i++)
			fprintf(out, "edgeplex_spares_wanted{site=\"%s\"} %u\n", sites[i].name,
				sites[i].spares);
		family(out, "edgeplex_spares_ready", "gauge", "Spares that could take over now.");
		for (size_t i = 0; i < n; i++) {
			cJSON *spares = fleet_spares_json(api->fleet, sites[i].name);
			const cJSON *one;
			int ready = 0;
			cJSON_ArrayForEach (one, spares) {
				const char *state = cJSON_GetStringValue(
					cJSON_GetObjectItemCaseSensitive(one, "state"));
				ready += state != NULL && strcmp(state, "ready") == 0;
			}
			fprintf(out, "edgeplex_spares_ready{site=\"%s\"} %d\n", sites[i].name,
				ready);
			cJSON_Delete(spares);
		}
		free(sites);
	}
	family(out, "edgeplex_heals_total", "counter",
		"VMs that were replaced and give service again, by cause and way.");
	for (size_t i = 0; fleet_heal_count(api->fleet, i, &heal); i++)
		fprintf(out, "edgeplex_heals_total{cause=\"%s\",way=\"%s\"} %" PRIu64 "\n",
			heal.cause, heal.way, heal.n);
	family(out, "edgeplex_heal_seconds_total", "counter",
		"How long these took together, from the failure to service.");
	for (size_t i = 0; fleet_heal_count(api->fleet, i, &heal); i++)
		fprintf(out, "edgeplex_heal_seconds_total{cause=\"%s\",way=\"%s\"} %.3f\n",
			heal.cause, heal.way, heal.seconds);
}

void api_metrics(struct api_request *request)
{
	size_t size;
	FILE *out = open_memstream(&request->text, &size);
	if (out == NULL) {
		problem_set(&request->problem, 500, "internal", "no memory");
		return;
	}
	write_requests(out, request->api);
	write_operations(out, request->api);
	write_sites(out, request->api);
	write_ports(out, request->api);
	write_protections(out, request->api);
	write_spares(out, request->api);
	fclose(out);
}

/* ---- health -------------------------------------------------------------------------------- */

void api_health(struct api_request *request)
{
	struct site *sites = NULL;
	size_t n = 0;
	bool database = store_site_list(request->api->store, &sites, &n) == 0;
	free(sites);
	request->answer = cJSON_CreateObject();
	cJSON_AddStringToObject(request->answer, "status", database ? "ok" : "database failed");
	cJSON_AddStringToObject(request->answer, "version", API_VERSION);
	cJSON_AddNumberToObject(
		request->answer, "uptime_ms", (double)(api_now_ms() - request->api->started_ms));
}
