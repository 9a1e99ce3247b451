/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "controller/cli/mem.h"
#include "controller/cli/show.h"
#include "controller/cli/table.h"

static const struct table_column columns[] = {
	TABLE_LEFT("NAME"), TABLE_RIGHT("ASN"), TABLE_LEFT("TEXT")};

static void add(struct table *table, const char *name, unsigned asn, const char *text)
{
	table_cell(table, name, PAINT_NONE);
	table_cellf(table, "%u", asn);
	table_cell(table, text, PAINT_NONE);
	table_end_row(table);
}

static void test_columns_line_up(void **state)
{
	struct mem_stream stream;
	struct table *table;
	char *text;

	(void)state;
	mem_stream_open(&stream);
	table = table_new(stream.file, columns, 3, 2, false);
	add(table, "a", 65000, "x");
	add(table, "Zürich", 7, "longer text");
	table_free(table);
	text = mem_text(&stream);
	assert_string_equal(text, "  NAME      ASN  TEXT\n"
				  "  a       65000  x\n"
				  "  Zürich      7  longer text\n");
	free(text);
}

static void test_missing_cells(void **state)
{
	struct mem_stream stream;
	struct table *table;
	char *text;

	(void)state;
	mem_stream_open(&stream);
	table = table_new(stream.file, columns, 3, 0, false);
	table_cell(table, "", PAINT_GOOD);
	table_end_row(table);
	table_cell(table, "b", PAINT_NONE); /* the row is ended by table_free() */
	table_free(table);
	text = mem_text(&stream);
	assert_string_equal(text, "NAME  ASN  TEXT\n"
				  "-       -  -\n"
				  "b       -  -\n");
	free(text);
}

static void test_a_cell_cannot_leave_its_row(void **state)
{
	struct mem_stream stream;
	struct table *table;
	char *text;

	(void)state;
	mem_stream_open(&stream);
	table = table_new(stream.file, columns, 3, 0, false);
	add(table, "a\n\033[1Ab", 1, "x");
	table_free(table);
	text = mem_text(&stream);
	assert_string_equal(text, "NAME         ASN  TEXT\n"
				  "a\\n\\x1b[1Ab    1  x\n");
	free(text);
}

static void test_pages_keep_widths_and_titles_come_once(void **state)
{
	struct mem_stream stream;
	struct table *table;
	char *text;

	(void)state;
	mem_stream_open(&stream);
	table = table_new(stream.file, columns, 3, 0, false);
	add(table, "abcdef", 1, "x");
	table_flush(table);
	add(table, "b", 2, "y");
	table_free(table);
	text = mem_text(&stream);
	assert_string_equal(text, "NAME    ASN  TEXT\n"
				  "abcdef    1  x\n"
				  "b         2  y\n");
	free(text);
}

static void test_colours_take_no_width(void **state)
{
	struct mem_stream stream;
	struct table *table;
	char *text;

	(void)state;
	mem_stream_open(&stream);
	table = table_new(stream.file, columns, 3, 0, true);
	table_cell(table, "up", PAINT_GOOD);
	table_cellf(table, "%d", 1);
	table_end_row(table);
	table_free(table);
	text = mem_text(&stream);
	assert_string_equal(text, "\033[1mNAME\033[0m  \033[1mASN\033[0m  \033[1mTEXT\033[0m\n"
				  "\033[32mup\033[0m      1  -\n");
	free(text);
}

static void test_objects_are_shown_whatever_they_hold(void **state)
{
	cJSON *object =
		cJSON_Parse("{\"name\":\"a\",\"uptime_ms\":4200,\"vlan\":null,"
			    "\"rr\":[\"10.0.0.1\",\"10.0.0.2\"],"
			    "\"core\":{\"mtu\":1600},\"bgp\":[{\"address\":\"x\",\"asn\":1},"
			    "{\"address\":\"yy\",\"up\":true}],\"empty\":[]}");
	struct mem_stream stream;
	char *text;

	(void)state;
	mem_stream_open(&stream);
	show_object(stream.file, object, false);
	text = mem_text(&stream);
	assert_string_equal(text, "name    a\n"
				  "uptime  4.2 s\n"
				  "vlan    -\n"
				  "rr      10.0.0.1, 10.0.0.2\n"
				  "core:\n"
				  "  mtu  1600\n"
				  "bgp:\n"
				  "  address  asn  up\n"
				  "  x          1  -\n"
				  "  yy         -  yes\n"
				  "empty   -\n");
	free(text);
	cJSON_Delete(object);
}

static void test_objects_in_rows_get_tables_of_their_own(void **state)
{
	cJSON *object = cJSON_Parse("{\"bgp\":[{\"address\":\"x\",\"families\":{"
				    "\"ipv4\":{\"sent\":1},\"ipv6\":{\"sent\":22}}},"
				    "{\"address\":\"y\"},{\"name\":\"z\",\"drops\":{\"mtu\":3}}]}");
	struct mem_stream stream;
	char *text;

	(void)state;
	mem_stream_open(&stream);
	show_object(stream.file, object, false);
	text = mem_text(&stream);
	assert_string_equal(text, "bgp:\n"
				  "  address  name\n"
				  "  x        -\n"
				  "  y        -\n"
				  "  -        z\n"
				  "  families:\n"
				  "    of  what  sent\n"
				  "    x   ipv4     1\n"
				  "    x   ipv6    22\n"
				  "  drops:\n"
				  "    of  what  value\n"
				  "    z   mtu       3\n");
	free(text);
	cJSON_Delete(object);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_columns_line_up),
		cmocka_unit_test(test_missing_cells),
		cmocka_unit_test(test_a_cell_cannot_leave_its_row),
		cmocka_unit_test(test_pages_keep_widths_and_titles_come_once),
		cmocka_unit_test(test_colours_take_no_width),
		cmocka_unit_test(test_objects_are_shown_whatever_they_hold),
		cmocka_unit_test(test_objects_in_rows_get_tables_of_their_own),
	};

	setlocale(LC_CTYPE, "C.UTF-8");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
