/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/resource.h"

#include <stdlib.h>
#include <string.h>

#include "controller/cli/exit.h"
#include "controller/cli/follow.h"
#include "controller/cli/json.h"
#include "controller/cli/mem.h"
#include "controller/cli/show.h"
#include "controller/cli/text.h"

#define HTTP_ACCEPTED 202
#define MAX_COLUMNS 16

/* ---- cells --------------------------------------------------------------------------------- */

static void cell_text(struct table *table, const cJSON *value)
{
	char *text = json_text(value);

	table_cell(table, text, PAINT_NONE);
	free(text);
}

/* A state is a word, or an object that has one. */
void resource_cell_state(struct table *table, const cJSON *value)
{
	const char *state = cJSON_GetStringValue(value);

	if (!state)
		state = json_string(value, "state");
	if (state)
		table_cell(table, state, term_paint_of_state(state));
	else
		cell_text(table, value);
}

void resource_cell_duration(struct table *table, const cJSON *value)
{
	char text[32];

	table_cell(table, cJSON_IsNumber(value) ? text_duration(value->valuedouble, text) : NULL,
		PAINT_NONE);
}

void resource_cell_share(struct table *table, const cJSON *value)
{
	if (cJSON_IsNumber(value))
		table_cellf(table, "%.0f %%", value->valuedouble * 100);
	else
		table_cell(table, NULL, PAINT_NONE);
}

void resource_cell_connected(struct table *table, const cJSON *value)
{
	if (!cJSON_IsBool(value))
		table_cell(table, NULL, PAINT_NONE);
	else if (cJSON_IsTrue(value))
		table_cell(table, "connected", PAINT_GOOD);
	else
		table_cell(table, "unreachable", PAINT_BAD);
}

void resource_cell_mib(struct table *table, const cJSON *value)
{
	if (cJSON_IsNumber(value))
		table_cellf(table, "%.0f MiB", value->valuedouble);
	else
		table_cell(table, NULL, PAINT_NONE);
}

void resource_cell_ce(struct table *table, const cJSON *value)
{
	struct mem_stream stream;
	const cJSON *ce;
	char *text;

	mem_stream_open(&stream);
	cJSON_ArrayForEach (ce, value) {
		const char *address = json_string(ce, "address");

		fprintf(stream.file, "%s%s AS%.0f", ce == value->child ? "" : ", ",
			address ? address : "?", json_number(ce, "asn", 0));
	}
	text = mem_text(&stream);
	table_cell(table, text, PAINT_NONE);
	free(text);
}

void resource_cell_bgp(struct table *table, const cJSON *value)
{
	int n = 0, n_up = 0;
	const cJSON *neighbor;
	char *text;

	cJSON_ArrayForEach (neighbor, value) {
		const char *state = json_string(neighbor, "state");

		n++;
		n_up += state && strcmp(state, "Established") == 0;
	}
	text = mem_printf("%d/%d up", n_up, n);
	table_cell(table, n ? text : NULL, n_up == n ? PAINT_GOOD : PAINT_BAD);
	free(text);
}

void resource_write_table(
	struct cli *cli, const struct resource *resource, const cJSON *items, size_t indent)
{
	struct table_column heads[MAX_COLUMNS];
	struct table *table;
	const cJSON *item;
	size_t n = 0;

	for (; n < MAX_COLUMNS && resource->columns[n].path; n++)
		heads[n] = resource->columns[n].head;
	table = table_new(cli->out, heads, n, indent, cli->out_colour);
	cJSON_ArrayForEach (item, items) {
		for (size_t i = 0; i < n; i++) {
			const struct resource_column *column = &resource->columns[i];
			const cJSON *value = json_at(item, column->path);

			(column->cell ? column->cell : cell_text)(table, value);
		}
		table_end_row(table);
	}
	table_free(table);
}

/* ---- verbs --------------------------------------------------------------------------------- */

int resource_run_list(struct cli *cli, const struct args *args)
{
	const struct resource *resource = args->noun->resource;
	cJSON *json;
	int n, code = cli_get(cli, resource->path, &json);

	if (code != CLI_OK)
		return code;
	if (cli->json) {
		json_write(cli->out, json);
	} else {
		const cJSON *items = json_array(json, "items", &n);

		if (n > 0)
			resource_write_table(cli, resource, items, 0);
		else
			fprintf(cli->out, "There are no %s.\n", strrchr(resource->path, '/') + 1);
	}
	cJSON_Delete(json);
	return CLI_OK;
}

int resource_run_show(struct cli *cli, const struct args *args)
{
	char *path = cli_object_path(cli, args->arguments[0]);
	cJSON *json;
	int code = cli_get(cli, path, &json);

	free(path);
	if (code != CLI_OK)
		return code;
	if (cli->json)
		json_write(cli->out, json);
	else
		show_object(cli->out, json, cli->out_colour);
	cJSON_Delete(json);
	return CLI_OK;
}

int resource_change(struct cli *cli, const char *method, const char *path, const cJSON *body,
	const char *name, const char *done)
{
	const struct option *option = command_find_option(cli->args->verb->options, "timeout");
	/* It may as well be a field of the body. */
	const char *timeout = option && !option->field ? args_value(cli->args, "timeout") : NULL;
	char *escaped, *full;
	cJSON *answer;
	int status = 0, code;

	if (args_flag(cli->args, "wait") && args_flag(cli->args, "no-wait")) {
		cli_error(
			cli, "leave one of them out", "--wait and --no-wait contradict each other");
		return CLI_USAGE;
	}
	escaped = client_escape(timeout ? timeout : "");
	full = mem_printf("%s%s%s", path, timeout ? "?wait_s=" : "", escaped);
	code = cli_send(cli, method, full, body, &status, &answer);
	free(full);
	free(escaped);
	if (code != CLI_OK)
		return code;
	if (status == HTTP_ACCEPTED && !args_flag(cli->args, "no-wait"))
		return follow_operation(cli, answer);
	if (cli->json) {
		if (answer)
			json_write(cli->out, answer);
	} else if (status == HTTP_ACCEPTED) {
		fprintf(cli->out, "%.0f\n", json_number(answer, "id", 0));
	} else {
		fprintf(cli->out, "%s ", cli->args->noun->name);
		text_write_safe(cli->out, name);
		fprintf(cli->out, " %s\n", done);
	}
	cJSON_Delete(answer);
	return CLI_OK;
}

int resource_run_create(struct cli *cli, const struct args *args)
{
	cJSON *body = args_body(args);
	int code = resource_change(
		cli, "POST", args->noun->resource->path, body, args->arguments[0], "created");

	cJSON_Delete(body);
	return code;
}

int resource_run_set(struct cli *cli, const struct args *args)
{
	char *path = cli_object_path(cli, args->arguments[0]);
	cJSON *body = args_body(args);
	int code = CLI_USAGE;

	if (body->child)
		code = resource_change(cli, "PATCH", path, body, args->arguments[0], "changed");
	else
		cli_error(
			cli, "see --help for what can be changed", "no option says what to change");
	cJSON_Delete(body);
	free(path);
	return code;
}

int resource_run_delete(struct cli *cli, const struct args *args)
{
	char *path = cli_object_path(cli, args->arguments[0]);
	int code = resource_change(cli, "DELETE", path, NULL, args->arguments[0], "deleted");

	free(path);
	return code;
}

static int run_action(
	struct cli *cli, const struct args *args, const char *action, const char *done)
{
	char *object = cli_object_path(cli, args->arguments[0]);
	char *path = mem_printf("%s/%s", object, action);
	int code = resource_change(cli, "POST", path, NULL, args->arguments[0], done);

	free(path);
	free(object);
	return code;
}

int resource_run_drain(struct cli *cli, const struct args *args)
{
	return run_action(cli, args, "drain", "is drained");
}

int resource_run_undrain(struct cli *cli, const struct args *args)
{
	return run_action(cli, args, "undrain", "is in service again");
}
