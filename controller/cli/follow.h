/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_FOLLOW_H
#define EDGEPLEX_CLI_FOLLOW_H

/* Waiting for an operation. One thread; SIGINT and SIGTERM are held meanwhile. */

#include <cjson/cJSON.h>

#include "controller/cli/cli.h"

/*
 * Follows `operation` (taken) with progress on `err` until it ended, and tells how it ended; with
 * `json` the whole operation goes to `out`. An edgeplexd that is restarted meanwhile is awaited.
 * SIGINT and SIGTERM end the waiting, not the operation. Returns CLI_OK, CLI_FAILED, CLI_REFUSED,
 * CLI_UNREACHABLE or CLI_INTERRUPTED.
 */
int follow_operation(struct cli *cli, cJSON *operation);

#endif
