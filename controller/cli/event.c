/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/event.h"

#include <stdlib.h>

#include "controller/cli/json.h"
#include "controller/cli/pages.h"
#include "controller/cli/resource.h"

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

int event_run_list(struct cli *cli, const struct args *args)
{
	const struct pages pages = {.path = args->noun->resource->path,
		.query = "",
		.after = args_value(args, "after"),
		.list = "items",
		.key = args->noun->resource->key,
		.columns = columns,
		.n_columns = sizeof(columns) / sizeof(columns[0]),
		.write = write_event,
		.none = "There are no events."};

	return pages_write(cli, &pages);
}
