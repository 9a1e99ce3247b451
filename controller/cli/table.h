/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_TABLE_H
#define EDGEPLEX_CLI_TABLE_H

/*
 * Aligned tables for people. Cells may hold anything: they are made safe for the terminal. Use a
 * table from one thread at a time.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include "controller/cli/term.h"

struct table;

struct table_column {
	const char *title;
	bool right; /* numbers: aligned to the right */
};

#define TABLE_LEFT(title)    \
	{                    \
		title, false \
	}
#define TABLE_RIGHT(title)  \
	{                   \
		title, true \
	}

/*
 * `columns` (n, at least 1) must outlive the table. `indent` blanks precede every line. Free it
 * with table_free().
 */
struct table *table_new(
	FILE *out, const struct table_column *columns, size_t n, size_t indent, bool colour);

/* Sets the next cell of the row; NULL or "" shows "-". */
void table_cell(struct table *table, const char *text, enum paint paint);
__attribute__((format(printf, 2, 3))) void table_cellf(struct table *table, const char *fmt, ...);

/* Ends the row; cells that were not set show "-". */
void table_end_row(struct table *table);

/*
 * Writes the rows collected so far, the first time under a line of titles. Columns keep their
 * widths from one flush to the next, so that pages of a long list line up as far as they can.
 */
void table_flush(struct table *table);

/* Flushes, frees. Accepts NULL. */
void table_free(struct table *table);

#endif
