/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_ARGS_H
#define EDGEPLEX_CLI_ARGS_H

/*
 * A command line, read by the table in command.h. Options may stand anywhere behind the program's
 * name (those of a verb behind their verb), as "--name value" or "--name=value"; "--" ends them.
 * Names are not abbreviated: an abbreviation in a script would break with the next option that we
 * add. Thread-safe.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <cjson/cJSON.h>

#include "controller/cli/command.h"

struct args {
	const struct noun *noun; /* NULL only with `help` or `version` */
	const struct verb *verb; /* NULL only with `help` or `version` */
	const char *arguments[COMMAND_MAX_ARGUMENTS];
	size_t n_arguments;
	struct args_value {
		const struct option *option;
		const char *value; /* "" for a flag */
	} * values;
	size_t n_values;
	char **rest; /* of a verb that takes the rest */
	size_t n_rest;
	bool help, version, json, no_colour;
	const char *socket; /* NULL: not given */
};

/*
 * Reads `argv` (argv[0] is the program). Returns CLI_OK, or CLI_USAGE after it told on `err` what
 * is wrong and which right thing is nearest. `args` refers to `argv`; free it with args_free() in
 * either case.
 */
int args_parse(int argc, char **argv, struct args *args, FILE *err);
void args_free(struct args *args);

/* The value of an option; NULL if it wasn't given. The last one, if it was given repeatedly. */
const char *args_value(const struct args *args, const char *option);
bool args_flag(const struct args *args, const char *option);

/* The request's body: all values that have a field. The caller's. */
cJSON *args_body(const struct args *args);

/*
 * What on the command line a field of the request (JSON pointer: "/ce/0/asn") came from: "--ce" or
 * "NAME"; NULL if nothing did.
 */
char *args_origin(const struct args *args, const char *pointer);

/*
 * The one of `names` (n) that is most like `name`, or NULL if none is: mistyped, transposed or
 * missing letters, or a beginning of it.
 */
const char *args_nearest(const char *name, const char *const *names, size_t n);

#endif
