/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/pages.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "controller/cli/exit.h"
#include "controller/cli/json.h"
#include "controller/cli/mem.h"
#include "controller/cli/text.h"

#define PAGE 1000 /* objects; the most that the API gives at once */

struct writer {
	struct cli *cli;
	const struct pages *pages;
	struct table *table; /* for people; NULL until there is an object */
	bool begun;          /* a first page has come */
	unsigned long n;     /* objects written */
};

/* What goes into "after" for the page behind this one; NULL at the end. free() it. */
static char *next_of(const struct pages *pages, const cJSON *page)
{
	int n;
	const cJSON *list = json_array(page, pages->list, &n);
	const cJSON *next = pages->key ? json_at(cJSON_GetArrayItem(list, n - 1), pages->key)
				       : json_at(page, "next");
	char *text, *copy;

	if (!next || (cJSON_IsString(next) && !*next->valuestring))
		return NULL;
	if (cJSON_IsString(next))
		return mem_strdup(next->valuestring);
	text = mem_check(cJSON_PrintUnformatted(next));
	copy = mem_strdup(text);
	cJSON_free(text);
	return copy;
}

static void write_json_object(struct writer *writer, const cJSON *object)
{
	char *text = mem_check(cJSON_PrintUnformatted(object));

	fputs(writer->n ? ",\n  " : "\n  ", writer->cli->out);
	text_write_json(writer->cli->out, text);
	cJSON_free(text);
}

static void write_row(struct writer *writer, const cJSON *object)
{
	const struct pages *pages = writer->pages;

	if (!writer->table)
		writer->table = table_new(writer->cli->out, pages->columns, pages->n_columns, 0,
			writer->cli->out_colour);
	pages->write(writer->table, object);
}

static void write_page(struct writer *writer, const cJSON *page)
{
	bool json = writer->cli->json;
	const cJSON *object;

	if (!writer->begun && json)
		fprintf(writer->cli->out, "{\"%s\": [", writer->pages->list);
	writer->begun = true;
	cJSON_ArrayForEach (object, json_at(page, writer->pages->list)) {
		(json ? write_json_object : write_row)(writer, object);
		writer->n++;
	}
	if (writer->table)
		table_flush(writer->table);
}

/* `next`: where what was left out begins; NULL if nothing was. */
static void write_end(struct writer *writer, const char *next)
{
	FILE *out = writer->cli->out;
	cJSON *value;
	char *text;

	if (!writer->cli->json) {
		const char *line = writer->table ? writer->pages->legend : writer->pages->none;

		if (line)
			fprintf(out, "%s\n", line);
		return;
	}
	fputs("\n]", out);
	if (next) {
		value = mem_check(cJSON_CreateString(next));
		text = mem_check(cJSON_PrintUnformatted(value));
		fputs(", \"next\": ", out);
		text_write_json(out, text);
		cJSON_free(text);
		cJSON_Delete(value);
	}
	fputs("}\n", out);
}

static int get_page(struct cli *cli, const struct pages *pages, const char *after,
	unsigned long limit, cJSON **page)
{
	char *escaped = client_escape(after ? after : "");
	const char *cursor = pages->cursor ? pages->cursor : "after";
	char *path = mem_printf("%s?%s%slimit=%lu%s%s%s%s", pages->path, pages->query,
		*pages->query ? "&" : "", limit, after ? "&" : "", after ? cursor : "",
		after ? "=" : "", escaped);
	int code = cli_get(cli, path, page);

	free(path);
	free(escaped);
	return code;
}

static int write_all(struct writer *writer, unsigned long limit, char **after)
{
	do {
		unsigned long left = limit - writer->n;
		cJSON *page;
		char *next;
		int code = get_page(
			writer->cli, writer->pages, *after, left < PAGE ? left : PAGE, &page);

		if (code != CLI_OK)
			return code;
		write_page(writer, page);
		next = next_of(writer->pages, page);
		cJSON_Delete(page);
		if (next && *after && strcmp(next, *after) == 0) {
			free(next);
			cli_error(writer->cli, "restart edgeplexd, and report it",
				"edgeplexd gives the same page again and again");
			return CLI_REFUSED;
		}
		free(*after);
		*after = next;
	} while (*after && writer->n < limit);
	return CLI_OK;
}

int pages_write(struct cli *cli, const struct pages *pages)
{
	struct writer writer = {.cli = cli, .pages = pages};
	const char *text = args_value(cli->args, "limit");
	unsigned long limit = text ? strtoul(text, NULL, 10) : ~0ul;
	char *after = pages->after ? mem_strdup(pages->after) : NULL;
	int code;

	if (limit == 0) {
		cli_error(cli, "give a whole number from 1", "--limit 0 would show nothing");
		return CLI_USAGE;
	}
	code = write_all(&writer, limit, &after);
	if (writer.begun)
		write_end(&writer, after);
	table_free(writer.table);
	free(after);
	return code;
}
