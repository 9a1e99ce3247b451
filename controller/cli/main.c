/* SPDX-License-Identifier: GPL-2.0-or-later */

/* edgeplex: the operators' command line. */

#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "controller/cli/cli.h"
#include "controller/cli/exit.h"
#include "controller/cli/help.h"
#include "controller/cli/status.h"
#include "controller/cli/term.h"

static const char *choose_socket(const struct args *args)
{
	const char *socket = args->socket;

	if (!socket)
		socket = getenv("EDGEPLEX_SOCKET");
	return socket && *socket ? socket : CLIENT_DEFAULT_SOCKET;
}

static int run(const struct args *args)
{
	struct cli cli = {.client = client_new(choose_socket(args)),
		.args = args,
		.out = stdout,
		.err = stderr,
		.json = args->json,
		.out_colour = !args->no_colour && term_has_colour(stdout),
		.err_colour = !args->no_colour && term_has_colour(stderr)};
	int code;

	if (!cli.client) {
		cli_error(&cli, "check that libcurl.so.4 is whole", "libcurl can't be used");
		return CLI_FAILED;
	}
	code = args->verb->run(&cli, args);
	client_free(cli.client);
	return code;
}

/* What couldn't be written (a full disk) must not pass for success. */
static int end(int code)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return code;
	fprintf(stderr, "error: the output can't be written: %s\n", strerror(errno));
	return code == CLI_OK ? CLI_FAILED : code;
}

int main(int argc, char **argv)
{
	struct args args;
	int code = CLI_OK;

	setlocale(LC_CTYPE, "C.UTF-8"); /* text.h; the wording doesn't depend on it */
	if (argc < 2) {
		help_write(stderr, NULL, NULL);
		return CLI_USAGE;
	}
	code = args_parse(argc, argv, &args, stderr);
	if (code == CLI_OK) {
		if (args.help)
			help_write(stdout, args.noun, args.verb);
		else if (args.version)
			version_write(stdout);
		else
			code = run(&args);
	}
	args_free(&args);
	return end(code);
}
