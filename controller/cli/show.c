/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/show.h"

#include <stdlib.h>
#include <string.h>

#include "controller/cli/json.h"
#include "controller/cli/mem.h"
#include "controller/cli/table.h"
#include "controller/cli/text.h"

#define INDENT 2
#define MAX_DEPTH 6      /* deeper values are shown on one line */
#define MAX_COLUMNS 16   /* of a table; further fields are left out */
#define MAX_SPAN_MS 1e11 /* three years; larger values are points in time */

static bool is_span(const cJSON *value)
{
	size_t len = value->string ? strlen(value->string) : 0;

	return cJSON_IsNumber(value) && len > 3 && value->valuedouble < MAX_SPAN_MS &&
	       strcmp(value->string + len - 3, "_ms") == 0;
}

/* The field's name for people, safe: "uptime_ms" as "uptime". free() it. */
static char *title_of(const cJSON *value)
{
	char *title = text_safe(value->string ? value->string : "");

	if (is_span(value))
		title[strlen(title) - 3] = '\0';
	for (char *c = title; *c; c++) {
		if (*c == '_')
			*c = ' ';
	}
	return title;
}

/* The value on one line, not safe. free() it. */
static char *text_of(const cJSON *value)
{
	char duration[32];

	if (value && is_span(value))
		return mem_strdup(text_duration(value->valuedouble, duration));
	return json_text(value);
}

static enum paint paint_of(const cJSON *value, bool colour)
{
	if (!colour || !value || !value->string || !cJSON_IsString(value))
		return PAINT_NONE;
	if (strcmp(value->string, "state") != 0 && strcmp(value->string, "status") != 0 &&
		strcmp(value->string, "severity") != 0)
		return PAINT_NONE;
	return term_paint_of_state(value->valuestring);
}

static bool is_list_of_objects(const cJSON *value)
{
	return cJSON_IsArray(value) && value->child && cJSON_IsObject(value->child);
}

static bool is_block(const cJSON *value, int depth)
{
	return depth < MAX_DEPTH &&
	       ((cJSON_IsObject(value) && value->child) || is_list_of_objects(value));
}

/* An object inside a row: it becomes a table of its own behind that of the rows. */
static bool is_inner(const cJSON *value)
{
	return cJSON_IsObject(value) && value->child;
}

/* One column for each name that some row has a plain value for, in order of first appearance. */
static size_t collect_columns(const cJSON *rows, const cJSON *columns[MAX_COLUMNS])
{
	const cJSON *row, *field;
	size_t n = 0, i;

	cJSON_ArrayForEach (row, rows) {
		cJSON_ArrayForEach (field, row) {
			for (i = 0; i < n && strcmp(columns[i]->string, field->string) != 0; i++)
				;
			if (i == n && n < MAX_COLUMNS && !is_inner(field))
				columns[n++] = field;
		}
	}
	return n;
}

static void show_plain(FILE *out, const cJSON *rows, size_t indent, bool colour)
{
	const cJSON *columns[MAX_COLUMNS], *row;
	struct table_column heads[MAX_COLUMNS];
	char *titles[MAX_COLUMNS];
	size_t n = collect_columns(rows, columns);
	struct table *table;

	if (n == 0)
		return;
	for (size_t i = 0; i < n; i++) {
		titles[i] = title_of(columns[i]);
		heads[i] = (struct table_column){titles[i], cJSON_IsNumber(columns[i])};
	}
	table = table_new(out, heads, n, indent, colour);
	cJSON_ArrayForEach (row, rows) {
		for (size_t i = 0; i < n; i++) {
			const cJSON *value =
				cJSON_GetObjectItemCaseSensitive(row, columns[i]->string);
			char *text = text_of(value);

			table_cell(table, text, paint_of(value, colour));
			free(text);
		}
		table_end_row(table);
	}
	table_free(table);
	for (size_t i = 0; i < n; i++)
		free(titles[i]);
}

/* What tells a row from the others. */
static const char *identity_of(const cJSON *row)
{
	const char *identity = json_string(row, "name");

	if (!identity)
		identity = json_string(row, "address");
	return identity ? identity : "";
}

static void add_copy(cJSON *row, const cJSON *value)
{
	cJSON_AddItemToObject(row, value->string, mem_check(cJSON_Duplicate(value, true)));
}

/*
 * The rows of the inner table `name`: one for each plain value ("cust | rx_packets | 7"), or one
 * for each object in it ("192.168.1.2 | ipv4 | received 1 | …"). The caller's.
 */
static cJSON *inner_rows(const cJSON *rows, const char *name)
{
	cJSON *inner = mem_check(cJSON_CreateArray());
	const cJSON *row, *value, *field;

	cJSON_ArrayForEach (row, rows) {
		cJSON_ArrayForEach (value, cJSON_GetObjectItemCaseSensitive(row, name)) {
			cJSON *one = mem_check(cJSON_CreateObject());

			cJSON_AddStringToObject(one, "of", identity_of(row));
			cJSON_AddStringToObject(one, "what", value->string);
			if (is_inner(value)) {
				cJSON_ArrayForEach (field, value)
					add_copy(one, field);
			} else {
				cJSON_AddItemToObject(
					one, "value", mem_check(cJSON_Duplicate(value, true)));
			}
			cJSON_AddItemToArray(inner, one);
		}
	}
	return inner;
}

static void show_inner(FILE *out, const cJSON *rows, const cJSON *field, size_t indent, bool colour)
{
	cJSON *inner = inner_rows(rows, field->string);
	char *title = title_of(field);

	fprintf(out, "%*s%s:\n", (int)indent, "", title);
	show_plain(out, inner, indent + INDENT, colour);
	free(title);
	cJSON_Delete(inner);
}

/* Has a row before `row` an inner object of that name? */
static bool was_shown(const cJSON *rows, const cJSON *row, const char *name)
{
	for (const cJSON *before = rows->child; before != row; before = before->next) {
		if (is_inner(cJSON_GetObjectItemCaseSensitive(before, name)))
			return true;
	}
	return false;
}

static void show_rows(FILE *out, const cJSON *rows, size_t indent, bool colour)
{
	const cJSON *row, *field;

	show_plain(out, rows, indent, colour);
	cJSON_ArrayForEach (row, rows) {
		cJSON_ArrayForEach (field, row) {
			if (is_inner(field) && !was_shown(rows, row, field->string))
				show_inner(out, rows, field, indent, colour);
		}
	}
}

static void show_line(FILE *out, const cJSON *value, const char *title, size_t pad, bool colour)
{
	char *text = text_of(value);
	enum paint paint = paint_of(value, colour);

	fprintf(out, "%s%*s  %s", title, (int)pad, "", term_on(paint));
	text_write_safe(out, *text ? text : "-");
	fprintf(out, "%s\n", term_off(paint));
	free(text);
}

static size_t widest_title(const cJSON *object, int depth)
{
	const cJSON *value;
	size_t widest = 0;

	cJSON_ArrayForEach (value, object) {
		char *title = title_of(value);
		size_t width = text_width(title);

		if (!is_block(value, depth) && width > widest)
			widest = width;
		free(title);
	}
	return widest;
}

static void show_fields(FILE *out, const cJSON *object, size_t indent, int depth, bool colour)
{
	size_t widest = widest_title(object, depth);
	const cJSON *value;

	cJSON_ArrayForEach (value, object) {
		char *title = title_of(value);

		fprintf(out, "%*s", (int)indent, "");
		if (!is_block(value, depth)) {
			show_line(out, value, title, widest - text_width(title), colour);
		} else {
			fprintf(out, "%s:\n", title);
			if (cJSON_IsObject(value))
				show_fields(out, value, indent + INDENT, depth + 1, colour);
			else
				show_rows(out, value, indent + INDENT, colour);
		}
		free(title);
	}
}

void show_object(FILE *out, const cJSON *object, bool colour)
{
	if (is_list_of_objects(object))
		show_rows(out, object, 0, colour);
	else
		show_fields(out, object, 0, 0, colour);
}
