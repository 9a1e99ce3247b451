/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_PAGES_H
#define EDGEPLEX_CLI_PAGES_H

/*
 * Lists that may be very long: fetched page by page, written as they come, so that
 * neither memory nor the first line depends on their length. One thread.
 */

#include <cjson/cJSON.h>

#include "controller/cli/cli.h"
#include "controller/cli/table.h"

struct pages {
	const char *path, *query; /* of the request; the query without '?', or "" */
	const char *after;        /* where to begin; NULL: at the beginning */
	const char *cursor;       /* the parameter that gets it; NULL: "after" */
	const char *list;         /* field that holds the objects of a page */
	const char
		*key; /* field of an object that goes into "after"; NULL: "next" of the page does */
	const struct table_column *columns;
	size_t n_columns;
	void (*write)(struct table *table, const cJSON *object); /* its rows */
	const char *none;   /* said instead of an empty table */
	const char *legend; /* a line under the table, or NULL */
};

/*
 * Writes all objects (at most as many as --limit says), for people or, with `json`, as one object
 * {LIST:[…]} and, if --limit left some out, "next". Returns an exit code.
 */
int pages_write(struct cli *cli, const struct pages *pages);

#endif
