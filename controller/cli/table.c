/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/table.h"

#include <assert.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "controller/cli/mem.h"
#include "controller/cli/text.h"

#define GAP 2 /* blanks between columns */

struct cell {
	char *text; /* safe */
	enum paint paint;
};

struct table {
	FILE *out;
	const struct table_column *columns;
	size_t n_columns, indent;
	bool colour, titles_written;
	size_t *widths;
	struct cell *cells; /* row by row */
	size_t n_cells, room;
};

struct table *table_new(
	FILE *out, const struct table_column *columns, size_t n, size_t indent, bool colour)
{
	struct table *table = mem_alloc(sizeof(*table));

	assert(n > 0);
	*table = (struct table){
		.out = out, .columns = columns, .n_columns = n, .indent = indent, .colour = colour};
	table->widths = mem_alloc(n * sizeof(*table->widths));
	for (size_t i = 0; i < n; i++)
		table->widths[i] = text_width(columns[i].title);
	return table;
}

void table_cell(struct table *table, const char *text, enum paint paint)
{
	size_t column = table->n_cells % table->n_columns, width;
	struct cell *cell;

	if (table->n_cells == table->room) {
		table->room = table->room ? 2 * table->room : 64;
		table->cells = mem_grow(table->cells, table->room * sizeof(*table->cells));
	}
	cell = &table->cells[table->n_cells++];
	cell->text = text && *text ? text_safe(text) : mem_strdup("-");
	cell->paint = text && *text ? paint : PAINT_NONE;
	width = text_width(cell->text);
	if (width > table->widths[column])
		table->widths[column] = width;
}

void table_cellf(struct table *table, const char *fmt, ...)
{
	char *text;
	va_list args;

	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0)
		text = NULL;
	va_end(args);
	table_cell(table, mem_check(text), PAINT_NONE);
	free(text);
}

void table_end_row(struct table *table)
{
	while (table->n_cells % table->n_columns != 0)
		table_cell(table, NULL, PAINT_NONE);
}

static void write_blanks(FILE *out, size_t n)
{
	while (n-- > 0)
		fputc(' ', out);
}

static void write_cell(struct table *table, size_t column, const char *text, enum paint paint)
{
	size_t width = text_width(text), pad = 0;
	bool last = column + 1 == table->n_columns;

	if (!table->colour)
		paint = PAINT_NONE;
	if (width < table->widths[column])
		pad = table->widths[column] - width;
	if (table->columns[column].right)
		write_blanks(table->out, pad);
	fprintf(table->out, "%s%s%s", term_on(paint), text, term_off(paint));
	if (!last)
		write_blanks(table->out, GAP + (table->columns[column].right ? 0 : pad));
}

void table_flush(struct table *table)
{
	if (!table->titles_written) {
		write_blanks(table->out, table->indent);
		for (size_t i = 0; i < table->n_columns; i++)
			write_cell(table, i, table->columns[i].title, PAINT_TITLE);
		fputc('\n', table->out);
		table->titles_written = true;
	}
	for (size_t i = 0; i < table->n_cells; i++) {
		if (i % table->n_columns == 0)
			write_blanks(table->out, table->indent);
		write_cell(
			table, i % table->n_columns, table->cells[i].text, table->cells[i].paint);
		if (i % table->n_columns == table->n_columns - 1)
			fputc('\n', table->out);
		free(table->cells[i].text);
	}
	table->n_cells = 0;
}

void table_free(struct table *table)
{
	if (!table)
		return;
	table_end_row(table);
	table_flush(table);
	free(table->cells);
	free(table->widths);
	free(table);
}
