/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/status.h"

#include <stdlib.h>
#include <string.h>

#include "controller/cli/exit.h"
#include "controller/cli/json.h"
#include "controller/cli/mem.h"
#include "controller/cli/resource.h"
#include "controller/cli/text.h"

/* What the screen is made of, as fetched. */
static const struct part {
	const char *name, *path;
} parts[] = {{"health", "/v1/health"}, {"sites", "/v1/sites"}, {"servers", "/v1/servers"},
	{"cvms", "/v1/cvms"}, {"ports", "/v1/ports"}, {"pvms", "/v1/pvms"}};

/* The object of `list` whose `key` is `value`; NULL if there is none. */
static const cJSON *find(const cJSON *list, const char *key, const char *value)
{
	const cJSON *item;

	cJSON_ArrayForEach (item, json_at(list, "items")) {
		const char *is = json_string(item, key);

		if (is && value && strcmp(is, value) == 0)
			return item;
	}
	return NULL;
}

/* The first neighbour of that role; NULL if there is none. */
static const cJSON *find_neighbor(const cJSON *bgp, const char *role)
{
	const cJSON *neighbor;

	cJSON_ArrayForEach (neighbor, bgp) {
		const char *is = json_string(neighbor, "role");

		if (is && strcmp(is, role) == 0)
			return neighbor;
	}
	return NULL;
}

static void cell_session(struct table *table, const cJSON *neighbor)
{
	const char *state = json_string(neighbor, "state");
	double uptime = json_number(neighbor, "uptime_ms", -1);
	char duration[32], *text;

	if (!state) {
		table_cell(table, NULL, PAINT_NONE);
		return;
	}
	text = uptime >= 0 ? mem_printf("%s %s", state, text_duration(uptime, duration))
			   : mem_strdup(state);
	table_cell(table, text, term_paint_of_state(state));
	free(text);
}

static void write_sites(struct cli *cli, const cJSON *all)
{
	static const struct table_column columns[] = {TABLE_LEFT("SITE"), TABLE_LEFT("PE"),
		TABLE_RIGHT("SERVERS"), TABLE_LEFT("CVM ON"), TABLE_LEFT("CVM"),
		TABLE_LEFT("CORE SESSION"), TABLE_RIGHT("PORTS")};
	struct table *table = table_new(
		cli->out, columns, sizeof(columns) / sizeof(columns[0]), 0, cli->out_colour);
	const cJSON *site, *item;

	cJSON_ArrayForEach (site, json_at(all, "sites/items")) {
		const char *name = json_string(site, "name");
		const cJSON *cvm = find(json_at(all, "cvms"), "name", name);
		int n_servers = 0, n_ports = 0;

		cJSON_ArrayForEach (item, json_at(all, "servers/items")) {
			const char *is = json_string(item, "site");

			n_servers += is && name && strcmp(is, name) == 0;
		}
		cJSON_ArrayForEach (item, json_at(all, "ports/items")) {
			const char *is = json_string(item, "site");

			n_ports += is && name && strcmp(is, name) == 0;
		}
		table_cell(table, name, PAINT_NONE);
		table_cell(table, json_string(site, "pe_address"), PAINT_NONE);
		table_cellf(table, "%d", n_servers);
		table_cell(table, json_string(cvm, "server"), PAINT_NONE);
		resource_cell_state(table, json_at(cvm, "state"));
		cell_session(table, find_neighbor(json_at(cvm, "bgp"), "core"));
		table_cellf(table, "%d", n_ports);
		table_end_row(table);
	}
	table_free(table);
}

/* "ipv4 10000, ipv6 20": routes accepted from the customer. */
static void cell_received(struct table *table, const cJSON *bgp)
{
	static const char *const families[] = {"ipv4", "ipv6"};
	struct mem_stream stream;
	const cJSON *neighbor;
	char *text;

	mem_stream_open(&stream);
	for (size_t i = 0; i < 2; i++) {
		double n = 0;
		bool any = false;

		cJSON_ArrayForEach (neighbor, bgp) {
			const char *role = json_string(neighbor, "role");
			const cJSON *family = json_at(json_at(neighbor, "families"), families[i]);

			if (role && strcmp(role, "ce") == 0 && family) {
				any = true;
				n += json_number(family, "accepted", 0);
			}
		}
		if (any)
			fprintf(stream.file, "%s%s %.0f", ftell(stream.file) ? ", " : "",
				families[i], n);
	}
	text = mem_text(&stream);
	table_cell(table, text, PAINT_NONE);
	free(text);
}

static void cell_fib(struct table *table, const cJSON *pvm)
{
	const cJSON *fib = json_at(pvm, "fwd/fib");
	bool complete = json_true(fib, "complete");
	char *text;

	if (!fib) {
		table_cell(table, NULL, PAINT_NONE);
		return;
	}
	text = mem_printf("%.0f + %.0f%s", json_number(fib, "ipv4", 0), json_number(fib, "ipv6", 0),
		complete ? "" : " incomplete");
	table_cell(table, text, complete ? PAINT_NONE : PAINT_BUSY);
	free(text);
}

static void write_ports(struct cli *cli, const cJSON *all)
{
	static const struct table_column columns[] = {TABLE_LEFT("PORT"), TABLE_LEFT("CUSTOMER"),
		TABLE_LEFT("SITE"), TABLE_LEFT("SERVER"), TABLE_LEFT("STATUS"), TABLE_LEFT("BGP"),
		TABLE_LEFT("ROUTES FROM CE"), TABLE_RIGHT("FIB 4+6")};
	struct table *table = table_new(
		cli->out, columns, sizeof(columns) / sizeof(columns[0]), 0, cli->out_colour);
	const cJSON *port;

	cJSON_ArrayForEach (port, json_at(all, "ports/items")) {
		const char *name = json_string(port, "name");
		const cJSON *pvm = find(json_at(all, "pvms"), "name", name);

		table_cell(table, name, PAINT_NONE);
		table_cell(table, json_string(port, "customer"), PAINT_NONE);
		table_cell(table, json_string(port, "site"), PAINT_NONE);
		table_cell(table, json_string(port, "server"), PAINT_NONE);
		resource_cell_state(table, json_at(port, "status"));
		resource_cell_bgp(table, json_at(pvm, "bgp"));
		cell_received(table, json_at(pvm, "bgp"));
		cell_fib(table, pvm);
		table_end_row(table);
	}
	table_free(table);
}

/* What isn't well, one line each: what is missing, and what to check. */
static void write_details(struct cli *cli, const cJSON *list, const char *kind, const char *field)
{
	const cJSON *item;

	cJSON_ArrayForEach (item, json_at(list, "items")) {
		const char *name = json_string(item, "name"), *detail = json_string(item, field);

		if (!detail || !*detail)
			continue;
		fprintf(cli->out, "\n%s ", kind);
		text_write_safe(cli->out, name ? name : "?");
		fputs(": ", cli->out);
		text_write_safe(cli->out, detail);
		fputc('\n', cli->out);
	}
}

/* VMs that edgeplexd didn't start, or has forgotten. */
static void write_unknown_vms(struct cli *cli, const cJSON *servers)
{
	const cJSON *server, *vm;

	cJSON_ArrayForEach (server, json_at(servers, "items")) {
		cJSON_ArrayForEach (vm, json_at(server, "unknown_vms")) {
			const char *on = json_string(server, "name");
			const char *name = json_string(vm, "name"),
				   *owner = json_string(vm, "owner");

			fputs("\nserver ", cli->out);
			text_write_safe(cli->out, on ? on : "?");
			fputs(": VM ", cli->out);
			text_write_safe(cli->out, name ? name : "?");
			fputs(" (", cli->out);
			text_write_safe(cli->out, owner ? owner : "?");
			fputs(") runs there but is not in the database; it is left alone\n",
				cli->out);
		}
	}
}

static void write_screen(struct cli *cli, const cJSON *all)
{
	const char *status = json_string(all, "health/status");
	const char *version = json_string(all, "health/version");
	int n_sites, n_ports;
	char duration[32];

	json_array(all, "sites/items", &n_sites);
	json_array(all, "ports/items", &n_ports);
	fputs("edgeplexd ", cli->out);
	text_write_safe(cli->out, version ? version : "");
	fputs(": ", cli->out);
	text_write_safe(cli->out, status ? status : "unknown");
	fprintf(cli->out, ", up %s\n\n",
		text_duration(json_number(all, "health/uptime_ms", -1), duration));
	if (n_sites == 0) {
		fputs("There are no sites; make one: edgeplex site create --help\n", cli->out);
		return;
	}
	write_sites(cli, all);
	fputc('\n', cli->out);
	if (n_ports > 0)
		write_ports(cli, all);
	else
		fputs("There are no ports; make one: edgeplex port create --help\n", cli->out);
	write_details(cli, json_at(all, "cvms"), "cvm", "detail");
	write_details(cli, json_at(all, "ports"), "port", "status_detail");
	write_unknown_vms(cli, json_at(all, "servers"));
}

int status_run(struct cli *cli, const struct args *args)
{
	cJSON *all = mem_check(cJSON_CreateObject());
	int code = CLI_OK;

	(void)args;
	for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]) && code == CLI_OK; i++) {
		cJSON *part;

		code = cli_get(cli, parts[i].path, &part);
		if (code == CLI_OK)
			json_put(all, parts[i].name, part);
	}
	if (code == CLI_OK && cli->json)
		json_write(cli->out, all);
	else if (code == CLI_OK)
		write_screen(cli, all);
	cJSON_Delete(all);
	return code;
}

void version_write(FILE *out)
{
	fprintf(out, "edgeplex %s\n", EDGEPLEX_VERSION);
}

int version_run(struct cli *cli, const struct args *args)
{
	cJSON *health;
	int code;

	(void)args;
	if (!cli->json)
		version_write(cli->out);
	code = cli_get(cli, "/v1/health", &health);
	if (code != CLI_OK)
		return code;
	if (cli->json) {
		cJSON *both = mem_check(cJSON_CreateObject());

		json_put(both, "edgeplex", cJSON_CreateString(EDGEPLEX_VERSION));
		json_put(both, "edgeplexd", health);
		json_write(cli->out, both);
		cJSON_Delete(both);
		return CLI_OK;
	}
	fputs("edgeplexd ", cli->out);
	text_write_safe(cli->out,
		json_string(health, "version") ? json_string(health, "version") : "unknown");
	fputc('\n', cli->out);
	cJSON_Delete(health);
	return CLI_OK;
}
