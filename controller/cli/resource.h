/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_RESOURCE_H
#define EDGEPLEX_CLI_RESOURCE_H

/* The verbs that every kind of objects has: list, show, create, delete. One thread. */

#include <stdbool.h>
#include <cjson/cJSON.h>

#include "controller/cli/cli.h"
#include "controller/cli/table.h"

/* A column of `list`. */
struct resource_column {
	struct table_column head;
	const char *path; /* of the value in the object (json.h) */
	/* Sets the cell; NULL: the value as text. `value` is NULL if the object lacks it. */
	void (*cell)(struct table *table, const cJSON *value);
};

/* Cells. */
void resource_cell_state(struct table *table, const cJSON *value);
void resource_cell_duration(struct table *table, const cJSON *value);
void resource_cell_share(struct table *table, const cJSON *value);     /* 0..1 as per cent */
void resource_cell_connected(struct table *table, const cJSON *value); /* a boolean */
void resource_cell_mib(struct table *table, const cJSON *value);
void resource_cell_ce(struct table *table, const cJSON *value);
void resource_cell_bgp(struct table *table, const cJSON *value); /* sessions up of all */

/* Writes the list of objects `items` as the table of `resource`. */
void resource_write_table(
	struct cli *cli, const struct resource *resource, const cJSON *items, size_t indent);

/*
 * Sends `body` by `method`, and tells of the outcome: what was done at once ("site a created"), or,
 * if edgeplexd started an operation, what became of it; with --no-wait only its number. `done` is
 * such as "created". Returns an exit code.
 */
int resource_change(struct cli *cli, const char *method, const char *path, const cJSON *body,
	const char *name, const char *done);

/* Verbs; see struct verb. `set` changes those fields that are given. */
int resource_run_list(struct cli *cli, const struct args *args);
int resource_run_show(struct cli *cli, const struct args *args);
int resource_run_create(struct cli *cli, const struct args *args);
int resource_run_set(struct cli *cli, const struct args *args);
int resource_run_delete(struct cli *cli, const struct args *args);
int resource_run_drain(struct cli *cli, const struct args *args);
int resource_run_undrain(struct cli *cli, const struct args *args);

#endif
