/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_CLI_H
#define EDGEPLEX_CLI_CLI_H

/*
 * What every verb works with: the client, where output goes and how, and requests whose failure is
 * told to the operator in one way. One thread.
 */

#include <stdbool.h>
#include <stdio.h>
#include <cjson/cJSON.h>

#include "controller/cli/args.h"
#include "controller/cli/client.h"

struct cli {
	struct client *client;
	const struct args *args;
	FILE *out, *err;
	bool json; /* programs read the output */
	bool out_colour, err_colour;
};

#define CLI_TIMEOUT_MS 60000 /* for an answer: creating a server connects to its libvirt */

/*
 * Requests. Return CLI_OK with the answer's body in `*json` (the caller's; NULL if it has none), or
 * CLI_REFUSED or CLI_UNREACHABLE after telling why. `status` (may be NULL) gets HTTP's.
 */
int cli_get(struct cli *cli, const char *path, cJSON **json);
int cli_send(struct cli *cli, const char *method, const char *path, const cJSON *body, int *status,
	cJSON **json);

/* Tells of an answer that is no success, and frees its body. Returns the exit code. */
int cli_tell_refusal(struct cli *cli, struct client_answer *answer);

/* Tells that edgeplexd doesn't answer. Returns the exit code. */
int cli_tell_unreachable(struct cli *cli, const struct client_answer *answer);

/* Writes problem details (RFC 9457): what is wrong, in which fields, and what to do. */
void cli_write_problem(struct cli *cli, const cJSON *problem);

/* "error: …" and, if `fix` isn't NULL, "  fix: …", on `err`. The texts may hold anything. */
void cli_error(struct cli *cli, const char *fix, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* "/v1/ports/NAME" for the resource of the command's noun. free() it. */
char *cli_object_path(const struct cli *cli, const char *name);

#endif
