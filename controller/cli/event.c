/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/event.h"

#include <stdlib.h>

#include "controller/cli/exit.h"
#include "controller/cli/json.h"
#include "controller/cli/mem.h"
#include "controller/cli/pages.h"
#include "controller/cli/resource.h"
#include "controller/cli/text.h"

#define FOLLOW_POLL_MS 20000

static const struct table_column columns[] = {TABLE_RIGHT("ID"), TABLE_LEFT("TIME"),
	TABLE_LEFT("SEVERITY"), TABLE_LEFT("OBJECT"), TABLE_LEFT("TEXT")};

static void write_event(struct table *table, const cJSON *event)
{
	char *id = json_text(json_at(event, "id"));

	table_cell(table, id, PAINT_NONE);
	table_cell(table, json_string(event, "time"), PAINT_NONE);
	resource_cell_state(table, json_at(event, "severity"));
	table_cell(table, json_string(event, "object"), PAINT_NONE);
	table_cell(table, json_string(event, "text"), PAINT_NONE);
	table_end_row(table);
	free(id);
}

/* Writes what came, and moves `*last` to its newest. */
static void write_followed(struct cli *cli, struct table *table, const cJSON *page, double *last)
{
	const cJSON *event;

	cJSON_ArrayForEach (event, json_at(page, "items")) {
		*last = json_number(event, "id", *last);
		if (cli->json) {
			char *text = mem_check(cJSON_PrintUnformatted(event));

			text_write_json(cli->out, text);
			fputc('\n', cli->out);
			cJSON_free(text);
		} else {
			write_event(table, event);
		}
	}
	if (table)
		table_flush(table);
	fflush(cli->out);
}

/* The newest event's number, or -1 with `*code`. */
static double newest(struct cli *cli, int *code)
{
	cJSON *page;
	double id;

	*code = cli_get(cli, "/v1/events?before=0&limit=1", &page);
	if (*code != CLI_OK)
		return -1;
	id = json_number(cJSON_GetArrayItem(json_at(page, "items"), 0), "id", 0);
	cJSON_Delete(page);
	return id;
}

/* Until edgeplexd goes away, or the operator does. */
static int follow_events(struct cli *cli, const char *after)
{
	int code = CLI_OK;
	double last = after ? strtod(after, NULL) : newest(cli, &code);
	struct table *table =
		cli->json ? NULL
			  : table_new(cli->out, columns, sizeof(columns) / sizeof(columns[0]), 0,
				    cli->out_colour);

	while (code == CLI_OK && !ferror(cli->out)) {
		char *path = mem_printf("/v1/events?after=%.0f&wait_ms=%d", last, FOLLOW_POLL_MS);
		cJSON *page;

		code = cli_get(cli, path, &page);
		free(path);
		if (code != CLI_OK)
			break;
		write_followed(cli, table, page, &last);
		cJSON_Delete(page);
	}
	table_free(table);
	return code;
}

int event_run_list(struct cli *cli, const struct args *args)
{
	const char *after = args_value(args, "after");
	char *query;
	int code;

	if (args_flag(args, "follow"))
		return follow_events(cli, after);
	query = after ? mem_printf("after=%s", after) : mem_strdup("");
	const struct pages pages = {.path = args->noun->resource->path,
		.query = query,
		.after = "0",
		.cursor = "before",
		.list = "items",
		.key = args->noun->resource->key,
		.columns = columns,
		.n_columns = sizeof(columns) / sizeof(columns[0]),
		.write = write_event,
		.none = "There are no events."};

	code = pages_write(cli, &pages);
	free(query);
	return code;
}
