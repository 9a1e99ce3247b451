/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/explain.h"

#include <stdlib.h>
#include <string.h>

#include "controller/cli/exit.h"
#include "controller/cli/json.h"
#include "controller/cli/mem.h"
#include "controller/cli/table.h"
#include "controller/cli/term.h"
#include "controller/cli/text.h"

/* Gets "…/NAME/PART". An exit code; CLI_OK: `*json` is the caller's. */
static int get_part(struct cli *cli, const char *part, cJSON **json)
{
	char *object = cli_object_path(cli, cli->args->arguments[0]);
	char *path = mem_printf("%s/%s", object, part);
	int code = cli_get(cli, path, json);

	free(path);
	free(object);
	return code;
}

static const char *text_at(const cJSON *json, const char *path)
{
	const char *text = json_string(json, path);

	return text ? text : "";
}

/* One line for each text of the list, with a mark before it. */
static void write_lines(struct cli *cli, const cJSON *list, const char *mark, enum paint paint)
{
	const cJSON *item;

	if (!cli->out_colour)
		paint = PAINT_NONE;
	cJSON_ArrayForEach (item, list) {
		const char *text = cJSON_GetStringValue(item);

		fprintf(cli->out, "%s%s", term_on(paint), mark);
		text_write_safe(cli->out, text ? text : "");
		fprintf(cli->out, "%s\n", term_off(paint));
	}
}

/* "rack=r1, power=a" of a list, safe. free() it. */
static char *joined(const cJSON *list)
{
	struct mem_stream stream;
	const cJSON *item;

	mem_stream_open(&stream);
	cJSON_ArrayForEach (item, list) {
		fputs(item == list->child ? "" : ", ", stream.file);
		text_write_safe(
			stream.file, cJSON_IsString(item) ? cJSON_GetStringValue(item) : "");
	}
	return mem_text(&stream);
}

/* ---- one VM -------------------------------------------------------------------------------- */

static void write_server(struct cli *cli, const cJSON *server)
{
	char *risks = joined(json_at(server, "risks"));

	fputs("  ", cli->out);
	text_write_safe(cli->out, text_at(server, "name"));
	if (json_true(server, "here"))
		fputs(", where it is", cli->out);
	if (json_true(server, "possible"))
		fprintf(cli->out, ", choice %.0f now", json_number(server, "rank", 0));
	else
		fputs(", not possible now", cli->out);
	fprintf(cli->out, "; with it %.1f %% of its memory %s in use; risks: %s\n",
		json_number(server, "memory_use", 0) * 100,
		json_true(server, "here") ? "is" : "would be", *risks ? risks : "unknown");
	free(risks);
	write_lines(cli, json_at(server, "for"), "    + ", PAINT_GOOD);
	write_lines(cli, json_at(server, "against"), "    - ", PAINT_BAD);
}

static void write_explanation(struct cli *cli, const cJSON *json)
{
	const cJSON *placed = json_at(json, "placed"), *not_met = json_at(json, "not_met"), *server;
	const char *better = json_string(json, "better");

	text_write_safe(cli->out, text_at(json, "object"));
	fputs(" is on server ", cli->out);
	text_write_safe(cli->out, text_at(json, "server"));
	if (cJSON_IsObject(placed)) {
		fputs(", placed there ", cli->out);
		text_write_safe(cli->out, text_at(placed, "time"));
		fputs(" because:\n", cli->out);
		write_lines(cli, json_at(placed, "reasons"), "  ", PAINT_NONE);
		if (json_at(placed, "not_met") && json_at(placed, "not_met")->child)
			fputs("although:\n", cli->out);
		write_lines(cli, json_at(placed, "not_met"), "  ", PAINT_NONE);
	} else {
		fputs("; why it was placed there isn't known any more.\n", cli->out);
	}
	if (not_met && not_met->child)
		fputs("Rules that are not met now:\n", cli->out);
	else
		fputs("All rules are met now.\n", cli->out);
	write_lines(cli, not_met, "  ! ", PAINT_BAD);
	if (better) {
		fputs("Server ", cli->out);
		text_write_safe(cli->out, better);
		fputs(" would meet them better.\n", cli->out);
	}
	fputs("Servers of the site now:\n", cli->out);
	cJSON_ArrayForEach (server, json_at(json, "servers"))
		write_server(cli, server);
}

int explain_run_vm(struct cli *cli, const struct args *args)
{
	const cJSON *standby;
	cJSON *json;
	int code = get_part(cli, "placement", &json);

	(void)args;
	if (code != CLI_OK)
		return code;
	if (cli->json) {
		json_write(cli->out, json);
	} else {
		write_explanation(cli, json);
		standby = json_at(json, "standby");
		if (cJSON_IsObject(standby)) {
			fputc('\n', cli->out);
			write_explanation(cli, standby);
		}
	}
	cJSON_Delete(json);
	return CLI_OK;
}

/* ---- a site -------------------------------------------------------------------------------- */

static void write_groups(struct cli *cli, const cJSON *groups)
{
	static const struct table_column columns[] = {TABLE_LEFT("RISK"), TABLE_LEFT("SERVERS")};
	struct table *table = table_new(cli->out, columns, 2, 0, cli->out_colour);
	const cJSON *group;

	cJSON_ArrayForEach (group, groups) {
		char *servers = joined(json_at(group, "servers"));

		table_cell(table, text_at(group, "name"), PAINT_NONE);
		table_cell(table, servers, PAINT_NONE);
		table_end_row(table);
		free(servers);
	}
	table_free(table);
}

static void write_risks(struct cli *cli, const cJSON *json)
{
	const cJSON *groups = json_at(json, "groups"), *findings = json_at(json, "findings");
	const cJSON *unknown = json_at(json, "unknown"), *finding;
	enum paint paint = cli->out_colour ? PAINT_BAD : PAINT_NONE;

	if (groups && groups->child)
		write_groups(cli, groups);
	cJSON_ArrayForEach (finding, findings) {
		fprintf(cli->out, "%s! ", term_on(paint));
		text_write_safe(cli->out, text_at(finding, "text"));
		fprintf(cli->out, "%s\n", term_off(paint));
	}
	if (!findings || !findings->child)
		fputs("Nothing redundant is known to fail together.\n", cli->out);
	if (unknown && unknown->child) {
		char *servers = joined(unknown);

		fprintf(cli->out,
			"Unknown: what %s shares with others; say it by \"edgeplex server set NAME "
			"--risk rack=…\".\n",
			servers);
		free(servers);
	}
}

int explain_run_risks(struct cli *cli, const struct args *args)
{
	cJSON *json;
	int code = get_part(cli, "risks", &json);

	(void)args;
	if (code != CLI_OK)
		return code;
	if (cli->json)
		json_write(cli->out, json);
	else
		write_risks(cli, json);
	cJSON_Delete(json);
	return CLI_OK;
}
