/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/cli.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "controller/cli/exit.h"
#include "controller/cli/json.h"
#include "controller/cli/mem.h"
#include "controller/cli/term.h"
#include "controller/cli/text.h"

static void write_error(struct cli *cli, const char *text, const char *fix)
{
	enum paint paint = cli->err_colour ? PAINT_BAD : PAINT_NONE;

	fprintf(cli->err, "%serror:%s ", term_on(paint), term_off(paint));
	text_write_safe(cli->err, text);
	fputc('\n', cli->err);
	if (fix) {
		fputs("  fix: ", cli->err);
		text_write_safe(cli->err, fix);
		fputc('\n', cli->err);
	}
}

void cli_error(struct cli *cli, const char *fix, const char *fmt, ...)
{
	char *text;
	va_list args;

	va_start(args, fmt);
	if (vasprintf(&text, fmt, args) < 0)
		text = NULL;
	va_end(args);
	write_error(cli, mem_check(text), fix);
	free(text);
}

static void write_field(struct cli *cli, const cJSON *error, const char *told)
{
	const char *field = json_string(error, "field"), *detail = json_string(error, "detail");
	const char *fix = json_string(error, "fix");
	char *origin = field ? args_origin(cli->args, field) : NULL;

	if (field) {
		fputs("  field: ", cli->err);
		text_write_safe(cli->err, *field ? field : "(the whole request)");
		if (origin)
			fprintf(cli->err, " (%s)", origin);
		/* The first field's detail is mostly the problem's detail, too. */
		if (detail && *detail && !strstr(told, detail)) {
			fputs(": ", cli->err);
			text_write_safe(cli->err, detail);
		}
		fputc('\n', cli->err);
	}
	if (fix && *fix) {
		fputs("  fix: ", cli->err);
		text_write_safe(cli->err, fix);
		fputc('\n', cli->err);
	}
	free(origin);
}

void cli_write_problem(struct cli *cli, const cJSON *problem)
{
	const char *detail = json_string(problem, "detail"), *fix = json_string(problem, "fix");
	const cJSON *error;

	if (!detail)
		detail = json_string(problem, "title");
	if (!detail)
		detail = "edgeplexd gave no reason";
	write_error(cli, detail, fix);
	cJSON_ArrayForEach (error, json_at(problem, "errors"))
		write_field(cli, error, detail);
}

int cli_tell_unreachable(struct cli *cli, const struct client_answer *answer)
{
	write_error(cli, answer->why, answer->fix);
	return CLI_UNREACHABLE;
}

int cli_tell_refusal(struct cli *cli, struct client_answer *answer)
{
	if (json_string(answer->body, "detail") || json_string(answer->body, "title")) {
		cli_write_problem(cli, answer->body);
		if (cli->json)
			json_write(cli->out, answer->body);
	} else {
		cli_error(cli, "check that it is edgeplexd that listens there, and read its log",
			"%s answers HTTP status %d without a reason", client_socket(cli->client),
			answer->status);
	}
	cJSON_Delete(answer->body);
	answer->body = NULL;
	return CLI_REFUSED;
}

int cli_send(struct cli *cli, const char *method, const char *path, const cJSON *body, int *status,
	cJSON **json)
{
	struct client_answer answer;

	*json = NULL;
	if (client_request(cli->client, method, path, body, CLI_TIMEOUT_MS, NULL, &answer) !=
		CLIENT_ANSWERED)
		return cli_tell_unreachable(cli, &answer);
	if (answer.status < 200 || answer.status > 299)
		return cli_tell_refusal(cli, &answer);
	if (status)
		*status = answer.status;
	*json = answer.body;
	return CLI_OK;
}

int cli_get(struct cli *cli, const char *path, cJSON **json)
{
	int code = cli_send(cli, "GET", path, NULL, NULL, json);

	if (code == CLI_OK && !*json) {
		cli_error(cli, "check that it is edgeplexd that listens there, and read its log",
			"the answer of %s to %s is not JSON", client_socket(cli->client), path);
		return CLI_UNREACHABLE;
	}
	return code;
}

char *cli_object_path(const struct cli *cli, const char *name)
{
	char *escaped = client_escape(name);
	char *path = mem_printf("%s/%s", cli->args->noun->resource->path, escaped);

	free(escaped);
	return path;
}
