/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/vm.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <linux/rtnetlink.h>

#include "controller/cli/exit.h"
#include "controller/cli/json.h"
#include "controller/cli/mem.h"
#include "controller/cli/pages.h"
#include "controller/cli/resource.h"
#include "controller/cli/text.h"

/* "/v1/pvms/NAME/PART". free() it. */
static char *part_path(const struct cli *cli, const struct args *args, const char *part)
{
	char *object = cli_object_path(cli, args->arguments[0]);
	char *path = mem_printf("%s/%s", object, part);

	free(object);
	return path;
}

static bool is_cvm(const struct args *args)
{
	return strcmp(args->noun->name, "cvm") == 0;
}

/* The family that was asked for, or that of `address` (may be NULL), or IPv4. */
static const char *family_of(const struct args *args, const char *address)
{
	const char *family = args_value(args, "family");
	bool v6 = address && strchr(address, ':');

	if (family)
		return family;
	if (is_cvm(args))
		return v6 ? "vpnv6" : "vpnv4";
	return v6 ? "ipv6" : "ipv4";
}

static void cell_value(struct table *table, const cJSON *object, const char *path)
{
	char *text = json_text(json_at(object, path));

	table_cell(table, text, PAINT_NONE);
	free(text);
}

/* AS paths and label stacks are read with blanks between the numbers. */
static void cell_numbers(struct table *table, const cJSON *object, const char *path)
{
	char *text = json_text(json_at(object, path)), *to = text;

	for (const char *from = text; *from; from++) {
		if (*from != ',')
			*to++ = *from;
	}
	*to = '\0';
	table_cell(table, text, PAINT_NONE);
	free(text);
}

/* ---- RIB ----------------------------------------------------------------------------------- */

static const struct table_column rib_columns[] = {TABLE_LEFT(""), TABLE_LEFT("PREFIX"),
	TABLE_LEFT("NEXT HOP"), TABLE_LEFT("FROM"), TABLE_LEFT("AS PATH"), TABLE_LEFT("ORIGIN"),
	TABLE_RIGHT("PREF"), TABLE_RIGHT("MED"), TABLE_RIGHT("LABEL")};
static const struct table_column vpn_columns[] = {TABLE_LEFT(""), TABLE_LEFT("RD"),
	TABLE_LEFT("PREFIX"), TABLE_LEFT("NEXT HOP"), TABLE_LEFT("FROM"), TABLE_LEFT("AS PATH"),
	TABLE_LEFT("ORIGIN"), TABLE_RIGHT("PREF"), TABLE_RIGHT("MED"), TABLE_RIGHT("LABEL")};

static void cell_path_flags(struct table *table, const cJSON *path)
{
	char flags[8];
	bool best = json_true(path, "best"), multipath = json_true(path, "multipath");
	bool invalid = json_at(path, "valid") && !json_true(path, "valid");

	snprintf(flags, sizeof(flags), "%s%s%s%s", invalid ? "x" : "", best ? ">" : "",
		multipath ? "=" : "", json_true(path, "imported") ? "v" : "");
	table_cell(table, *flags ? flags : " ", invalid ? PAINT_BAD : PAINT_NONE);
}

static void write_path(struct table *table, const cJSON *route, const cJSON *path, bool vpn)
{
	cell_path_flags(table, path);
	if (vpn)
		cell_value(table, route, "rd");
	cell_value(table, route, "prefix");
	cell_value(table, path, "next_hop");
	cell_value(table, path, "from");
	cell_numbers(table, path, "as_path");
	cell_value(table, path, "origin");
	cell_value(table, path, "local_pref");
	cell_value(table, path, "med");
	cell_value(table, path, "label");
	table_end_row(table);
}

static void write_paths(struct table *table, const cJSON *route)
{
	const cJSON *path;

	cJSON_ArrayForEach (path, json_at(route, "paths"))
		write_path(table, route, path, false);
}

static void write_vpn_paths(struct table *table, const cJSON *route)
{
	const cJSON *path;

	cJSON_ArrayForEach (path, json_at(route, "paths"))
		write_path(table, route, path, true);
}

int vm_run_rib(struct cli *cli, const struct args *args)
{
	const char *prefix = args->n_arguments > 1 ? args->arguments[1] : NULL;
	char *path = part_path(cli, args, "rib");
	char *escaped = client_escape(prefix ? prefix : "");
	char *query = mem_printf(
		"family=%s%s%s", family_of(args, prefix), prefix ? "&prefix=" : "", escaped);
	const struct pages pages = {.path = path,
		.query = query,
		.list = "routes",
		.columns = is_cvm(args) ? vpn_columns : rib_columns,
		.n_columns = is_cvm(args) ? sizeof(vpn_columns) / sizeof(vpn_columns[0])
					  : sizeof(rib_columns) / sizeof(rib_columns[0]),
		.write = is_cvm(args) ? write_vpn_paths : write_paths,
		.none = "There is no such route.",
		.legend = "> best  = multipath  v from another site by the VPN  x not valid"};
	int code = pages_write(cli, &pages);

	free(query);
	free(escaped);
	free(path);
	return code;
}

/* Who gave the forwarder a route (RTPROT_*, rtnetlink(7)), by name where there is one. */
static void cell_protocol(struct table *table, const cJSON *route)
{
	switch ((int)json_number(route, "protocol", -1)) {
	case RTPROT_KERNEL:
		table_cell(table, "kernel", PAINT_NONE);
		break;
	case RTPROT_STATIC:
		table_cell(table, "static", PAINT_NONE);
		break;
	case RTPROT_ZEBRA:
		table_cell(table, "zebra", PAINT_NONE);
		break;
	case RTPROT_BGP:
		table_cell(table, "bgp", PAINT_NONE);
		break;
	default:
		cell_value(table, route, "protocol");
		break;
	}
}

/* ---- FIB ----------------------------------------------------------------------------------- */

static const struct table_column fib_columns[] = {TABLE_LEFT(""), TABLE_LEFT("PREFIX"),
	TABLE_LEFT("ACTION"), TABLE_LEFT("VIA"), TABLE_LEFT("PORT"), TABLE_LEFT("LABELS"),
	TABLE_RIGHT("WEIGHT"), TABLE_LEFT("FROM")};

static void write_fib_row(struct table *table, const cJSON *route, const cJSON *nexthop)
{
	bool unresolved = json_at(nexthop, "resolved") && !json_true(nexthop, "resolved");
	char flags[4];

	snprintf(flags, sizeof(flags), "%s%s", json_true(route, "stale") ? "s" : "",
		unresolved ? "!" : "");
	table_cell(table, *flags ? flags : " ", unresolved ? PAINT_BAD : PAINT_NONE);
	cell_value(table, route, "prefix");
	cell_value(table, route, "action");
	cell_value(table, nexthop, "via");
	cell_value(table, nexthop, "port");
	cell_numbers(table, nexthop, "labels");
	cell_value(table, nexthop, "weight");
	cell_protocol(table, route);
	table_end_row(table);
}

static void write_nexthops(struct table *table, const cJSON *route)
{
	const cJSON *nexthop, *nexthops = json_at(route, "nexthops");

	if (!nexthops || !nexthops->child) {
		write_fib_row(table, route, NULL);
		return;
	}
	cJSON_ArrayForEach (nexthop, nexthops)
		write_fib_row(table, route, nexthop);
}

int vm_run_fib(struct cli *cli, const struct args *args)
{
	const char *lookup = args_value(args, "lookup");
	char *path = part_path(cli, args, "fib");
	char *escaped = client_escape(lookup ? lookup : "");
	char *query = mem_printf(
		"family=%s%s%s", family_of(args, lookup), lookup ? "&lookup=" : "", escaped);
	const struct pages pages = {.path = path,
		.query = query,
		.list = "routes",
		.columns = fib_columns,
		.n_columns = sizeof(fib_columns) / sizeof(fib_columns[0]),
		.write = write_nexthops,
		.none = lookup ? "No route leads there." : "The table is empty.",
		.legend =
			"s stale: not repeated yet since pvmd restarted  ! its gateway lies in no "
			"subnet of the port"};
	int code = pages_write(cli, &pages);

	free(query);
	free(escaped);
	free(path);
	return code;
}

/* ---- processes ----------------------------------------------------------------------------- */

static void cell_running(struct table *table, const cJSON *value)
{
	if (!cJSON_IsBool(value))
		table_cell(table, NULL, PAINT_NONE);
	else if (cJSON_IsTrue(value))
		table_cell(table, "running", PAINT_GOOD);
	else
		table_cell(table, "down", PAINT_BAD);
}

static void cell_kib(struct table *table, const cJSON *value)
{
	if (cJSON_IsNumber(value))
		table_cellf(table, "%.1f MiB", value->valuedouble / 1024);
	else
		table_cell(table, NULL, PAINT_NONE);
}

static const struct resource_column process_columns[] = {{TABLE_LEFT("PROCESS"), "name", NULL},
	{TABLE_RIGHT("PID"), "pid", NULL}, {TABLE_LEFT("STATE"), "running", cell_running},
	{TABLE_RIGHT("RESTARTS"), "restarts", NULL},
	{TABLE_RIGHT("UP"), "started_ms_ago", resource_cell_duration},
	{TABLE_RIGHT("CPU"), "cpu_ms", resource_cell_duration},
	{TABLE_RIGHT("MEMORY"), "rss_kib", cell_kib}, {{NULL, false}, NULL, NULL}};

/* Shows the list "/v1/.../NAME/PART". */
static int show_part(
	struct cli *cli, const char *part, const struct resource_column *columns, const char *none)
{
	const struct resource resource = {part, "name", columns};
	char *path = part_path(cli, cli->args, part);
	cJSON *json;
	int n, code = cli_get(cli, path, &json);

	free(path);
	if (code != CLI_OK)
		return code;
	if (cli->json)
		json_write(cli->out, json);
	else if (json_array(json, "items", &n) && n > 0)
		resource_write_table(cli, &resource, json_at(json, "items"), 0);
	else
		fprintf(cli->out, "%s\n", none);
	cJSON_Delete(json);
	return CLI_OK;
}

int vm_run_processes(struct cli *cli, const struct args *args)
{
	(void)args;
	return show_part(cli, "processes", process_columns, "There are no processes.");
}

static const struct resource_column neighbor_columns[] = {{TABLE_LEFT("PORT"), "port", NULL},
	{TABLE_LEFT("ADDRESS"), "address", NULL}, {TABLE_LEFT("MAC"), "mac", NULL},
	{TABLE_LEFT("STATE"), "state", NULL}, {{NULL, false}, NULL, NULL}};

int vm_run_neighbors(struct cli *cli, const struct args *args)
{
	(void)args;
	return show_part(cli, "neighbors", neighbor_columns, "There are no neighbours.");
}

/* Begins the operation "/v1/.../NAME/ACTION", with what the options say. */
static int run_action(
	struct cli *cli, const struct args *args, const char *action, const char *done)
{
	char *path = part_path(cli, args, action);
	cJSON *body = args_body(args);
	int code = resource_change(cli, "POST", path, body, args->arguments[0], done);

	cJSON_Delete(body);
	free(path);
	return code;
}

int vm_run_migrate(struct cli *cli, const struct args *args)
{
	return run_action(cli, args, "migrate", "is moved");
}

int vm_run_protect(struct cli *cli, const struct args *args)
{
	return run_action(cli, args, "protect", "is protected");
}

int vm_run_unprotect(struct cli *cli, const struct args *args)
{
	return run_action(cli, args, "unprotect", "isn't protected any more");
}

int vm_run_failover(struct cli *cli, const struct args *args)
{
	return run_action(cli, args, "failover", "has failed over");
}

int vm_run_signal(struct cli *cli, const struct args *args)
{
	char *path = part_path(cli, args, "signal");
	cJSON *body = args_body(args), *answer;
	int code = cli_send(cli, "POST", path, body, NULL, &answer);

	cJSON_Delete(body);
	free(path);
	if (code != CLI_OK)
		return code;
	if (cli->json && answer) {
		json_write(cli->out, answer);
	} else if (!cli->json) {
		fprintf(cli->out, "%s sent to ", args->arguments[2]);
		text_write_safe(cli->out, args->arguments[1]);
		fprintf(cli->out, " of %s ", args->noun->name);
		text_write_safe(cli->out, args->arguments[0]);
		fputc('\n', cli->out);
	}
	cJSON_Delete(answer);
	return CLI_OK;
}
