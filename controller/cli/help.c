/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/help.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "controller/cli/exit.h"
#include "controller/cli/mem.h"
#include "controller/cli/table.h"

#define COLUMNS 88         /* of a line of running text */
#define EXAMPLE_COLUMNS 66 /* of an example, so that it fits in the man page */

static const char intro[] =
	"The operators' tool of EdgePlex: a client of edgeplexd, the controller of virtual "
	"provider-edge routers. What takes time is an operation: the command waits for it and "
	"shows "
	"its progress; interrupted, the operation goes on.";

static const struct {
	int code;
	const char *text;
} exits[] = {
	{CLI_OK, "done"},
	{CLI_FAILED, "the operation was started and has failed"},
	{CLI_USAGE, "the command line is wrong; nothing was asked of edgeplexd"},
	{CLI_REFUSED, "edgeplexd refused the request; nothing was changed"},
	{CLI_UNREACHABLE, "edgeplexd doesn't answer"},
	{CLI_INTERRUPTED, "interrupted while waiting; the operation goes on"},
};

#define N_EXITS (sizeof(exits) / sizeof(exits[0]))

/* ---- pieces for both ----------------------------------------------------------------------- */

/* "--site SITE", "[--vlan N]", "--address ADDRESS/LENGTH..." */
static void write_option_synopsis(FILE *out, const struct option *option)
{
	fprintf(out, "%s--%s%s%s%s%s", option->required ? "" : "[", option->name,
		option->value ? " " : "", option->value ? option->value : "",
		option->required ? "" : "]", option->repeats ? "..." : "");
}

static void write_arguments(FILE *out, const struct verb *verb)
{
	for (size_t i = 0; i < command_count_arguments(verb); i++) {
		const struct argument *argument = &verb->arguments[i];

		fprintf(out, argument->optional ? " [%s]" : " %s", argument->name);
	}
}

/* "edgeplex NOUN VERB ARGUMENTS" */
static char *name_of(const struct noun *noun, const struct verb *verb)
{
	struct mem_stream stream;

	mem_stream_open(&stream);
	fprintf(stream.file, "edgeplex %s%s%s", noun->name, *verb->name ? " " : "", verb->name);
	write_arguments(stream.file, verb);
	return mem_text(&stream);
}

static bool is_hidden(const struct noun *noun)
{
	return noun->verbs->hidden;
}

/* The example as a shell takes it, folded before its options. free() it. */
static char *example_of(const struct verb *verb)
{
	struct mem_stream stream;
	size_t column = 0;

	mem_stream_open(&stream);
	fputs("edgeplex", stream.file);
	for (const char *part = verb->example; *part;) {
		const char *next = strstr(part, " --");
		size_t len = next ? (size_t)(next - part) : strlen(part);

		if (column > 0 && column + len > EXAMPLE_COLUMNS) {
			fputs(" \\\n     ", stream.file);
			column = 0;
		}
		fprintf(stream.file, " %.*s", (int)len, part);
		column += len + 1;
		part = next ? next + 1 : part + len;
	}
	return mem_text(&stream);
}

/* ---- --help -------------------------------------------------------------------------------- */

/* Running text, folded; lines but the first are indented. `column`: where the first begins. */
static void write_folded(FILE *out, const char *text, size_t column, size_t indent)
{
	while (*text) {
		size_t len = strcspn(text, " ");

		if (column + len > COLUMNS && column > indent) {
			fprintf(out, "\n%*s", (int)indent, "");
			column = indent;
		}
		fwrite(text, 1, len, out);
		column += len;
		text += len;
		if (*text == ' ') {
			text++;
			if (column + 1 + strcspn(text, " ") <= COLUMNS) {
				fputc(' ', out);
				column++;
			} else {
				fprintf(out, "\n%*s", (int)indent, "");
				column = indent;
			}
		}
	}
	fputc('\n', out);
}

/* "  left   text" with the text folded in its column. */
static void write_item(FILE *out, const char *left, size_t width, const char *text)
{
	size_t len = strlen(left);

	if (len > width) {
		fprintf(out, "  %s\n%*s", left, (int)width + 4, "");
	} else {
		fprintf(out, "  %-*s  ", (int)width, left);
	}
	write_folded(out, text, width + 4, width + 4);
}

static void write_options(FILE *out, const char *title, const struct option *options)
{
	if (!options)
		return;
	fprintf(out, "\n%s:\n", title);
	for (const struct option *o = options; o->name; o++) {
		char *left = mem_printf(
			"--%s%s%s", o->name, o->value ? " " : "", o->value ? o->value : "");
		char *text = mem_printf("%s%s%s%s%s%s", o->help, o->choices ? " (one of: " : "",
			o->choices ? o->choices : "", o->choices ? ")" : "",
			o->required ? "; required" : "", o->repeats ? "; may be repeated" : "");

		write_item(out, left, 28, text);
		free(left);
		free(text);
	}
}

static void write_exits(FILE *out)
{
	fputs("\nExit codes:\n", out);
	for (size_t i = 0; i < N_EXITS; i++)
		fprintf(out, "  %-3d  %s\n", exits[i].code, exits[i].text);
}

static void write_verb_help(FILE *out, const struct noun *noun, const struct verb *verb)
{
	char *name = name_of(noun, verb);
	size_t column = strlen(name) + 7;
	struct mem_stream line;
	char *text;

	mem_stream_open(&line);
	fputs(name, line.file);
	for (const struct option *o = verb->options; o && o->name; o++) {
		fputc(' ', line.file);
		write_option_synopsis(line.file, o);
	}
	text = mem_text(&line);
	fputs("Usage: ", out);
	write_folded(out, text, column - strlen(name), 8);
	free(text);
	fputc('\n', out);
	text = mem_printf("%c%s.%s%s", toupper((unsigned char)verb->summary[0]), verb->summary + 1,
		verb->details ? " " : "", verb->details ? verb->details : "");
	write_folded(out, text, 0, 0);
	free(text);
	if (command_count_arguments(verb) > 0)
		fputs("\nArguments:\n", out);
	for (size_t i = 0; i < command_count_arguments(verb); i++) {
		const struct argument *a = &verb->arguments[i];

		text = mem_printf("%s%s%s%s", a->help, a->choices ? " (one of: " : "",
			a->choices ? a->choices : "", a->choices ? ")" : "");
		write_item(out, a->name, 28, text);
		free(text);
	}
	write_options(out, "Options", verb->options);
	write_options(out, "Options of every command", command_global_options);
	if (verb->example) {
		text = example_of(verb);
		fprintf(out, "\nExample:\n  %s\n", text);
		free(text);
	}
	write_exits(out);
	free(name);
}

static void write_noun_help(FILE *out, const struct noun *noun)
{
	fprintf(out, "Usage: edgeplex %s VERB\n\n%c%s.\n\nVerbs:\n", noun->name,
		toupper((unsigned char)noun->summary[0]), noun->summary + 1);
	for (const struct verb *verb = noun->verbs; verb->name; verb++) {
		struct mem_stream left;
		char *text;

		if (verb->hidden)
			continue;
		mem_stream_open(&left);
		fputs(verb->name, left.file);
		write_arguments(left.file, verb);
		text = mem_text(&left);
		write_item(out, text, 28, verb->summary);
		free(text);
	}
	fprintf(out, "\nMore about one: edgeplex %s VERB --help\n", noun->name);
}

static void write_overview(FILE *out)
{
	fputs("Usage: edgeplex COMMAND [VERB] [ARGUMENTS] [OPTIONS]\n\n", out);
	write_folded(out, intro, 0, 0);
	fputs("\nCommands:\n", out);
	for (const struct noun *noun = command_nouns; noun->name; noun++) {
		struct mem_stream verbs;
		char *text;

		if (is_hidden(noun))
			continue;
		mem_stream_open(&verbs);
		fputs(noun->summary, verbs.file);
		for (const struct verb *verb = noun->verbs; verb->name; verb++) {
			if (*verb->name && !verb->hidden)
				fprintf(verbs.file, "%s%s", verb == noun->verbs ? " (" : ", ",
					verb->name);
		}
		fputs(*noun->verbs->name ? ")" : "", verbs.file);
		text = mem_text(&verbs);
		write_item(out, noun->name, 10, text);
		free(text);
	}
	write_options(out, "Options of every command", command_global_options);
	write_exits(out);
	fputs("\nMore about one: edgeplex COMMAND [VERB] --help, man edgeplex\n", out);
}

void help_write(FILE *out, const struct noun *noun, const struct verb *verb)
{
	if (verb)
		write_verb_help(out, noun, verb);
	else if (noun)
		write_noun_help(out, noun);
	else
		write_overview(out);
}

/* ---- man page ------------------------------------------------------------------------------ */

/* Text for troff: nothing in it is taken for a request or an escape. */
static void roff(FILE *out, const char *text)
{
	if (*text == '.' || *text == '\'')
		fputs("\\&", out);
	for (; *text; text++) {
		if (*text == '\\')
			fputs("\\e", out);
		else if (*text == '-')
			fputs("\\-", out);
		else
			fputc(*text, out);
	}
}

static void roff_line(FILE *out, const char *macro, const char *text)
{
	fprintf(out, "%s ", macro);
	roff(out, text);
	fputc('\n', out);
}

static void roff_item(FILE *out, const char *name, const char *value, const char *help,
	const char *choices, bool required, bool repeats)
{
	fputs(".TP\n\\fB", out);
	roff(out, name);
	fputs("\\fR", out);
	if (value) {
		fputs(" \\fI", out);
		roff(out, value);
		fputs("\\fR", out);
	}
	fputc('\n', out);
	roff(out, help);
	if (choices) {
		fputs(" (one of: ", out);
		roff(out, choices);
		fputs(")", out);
	}
	fputs(required ? "; required" : "", out);
	fputs(repeats ? "; may be repeated" : "", out);
	fputs(".\n", out);
}

static void roff_options(FILE *out, const struct option *options)
{
	for (; options && options->name; options++) {
		char *name = mem_printf("--%s", options->name);

		roff_item(out, name, options->value, options->help, options->choices,
			options->required, options->repeats);
		free(name);
	}
}

static void roff_verb(FILE *out, const struct noun *noun, const struct verb *verb)
{
	char *name = name_of(noun, verb);

	roff_line(out, ".SS", name + strlen("edgeplex "));
	fputc(toupper((unsigned char)verb->summary[0]), out);
	roff(out, verb->summary + 1);
	fputs(".\n", out);
	if (verb->details) {
		roff(out, verb->details);
		fputc('\n', out);
	}
	for (size_t i = 0; i < command_count_arguments(verb); i++) {
		const struct argument *a = &verb->arguments[i];

		roff_item(out, a->name, NULL, a->help, a->choices, false, false);
	}
	roff_options(out, verb->options);
	if (verb->example) {
		char *text = example_of(verb);

		fputs(".PP\nExample:\n.PP\n.nf\n", out);
		roff(out, text);
		fputs("\n.fi\n", out);
		free(text);
	}
	free(name);
}

int help_run_man(struct cli *cli, const struct args *args)
{
	FILE *out = cli->out;

	(void)args;
	fprintf(out, ".TH EDGEPLEX 1 \"\" \"EdgePlex %s\" \"EdgePlex\"\n", EDGEPLEX_VERSION);
	fputs(".SH NAME\nedgeplex \\- operate EdgePlex, a virtual provider\\-edge router\n"
	      ".SH SYNOPSIS\n.B edgeplex\n.I COMMAND\n.RI [ VERB ]\n.RI [ ARGUMENTS ]\n"
	      ".RI [ OPTIONS ]\n.SH DESCRIPTION\n",
		out);
	roff(out, intro);
	fputs("\n.SH COMMANDS\n", out);
	for (const struct noun *noun = command_nouns; noun->name; noun++) {
		for (const struct verb *verb = noun->verbs; verb->name; verb++) {
			if (!verb->hidden)
				roff_verb(out, noun, verb);
		}
	}
	fputs(".SH OPTIONS OF EVERY COMMAND\n", out);
	roff_options(out, command_global_options);
	fputs(".SH EXIT STATUS\n", out);
	for (size_t i = 0; i < N_EXITS; i++) {
		char *code = mem_printf("%d", exits[i].code);

		roff_item(out, code, NULL, exits[i].text, NULL, false, false);
		free(code);
	}
	fputs(".SH ENVIRONMENT\n", out);
	roff_item(out, "EDGEPLEX_SOCKET", NULL, "path of edgeplexd's socket", NULL, false, false);
	roff_item(out, "NO_COLOR", NULL, "if set and not empty: no colours", NULL, false, false);
	fputs(".SH FILES\n", out);
	roff_item(out, CLIENT_DEFAULT_SOCKET, NULL,
		"edgeplexd's socket; who may open it may do everything", NULL, false, false);
	return CLI_OK;
}
