/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_STATUS_H
#define EDGEPLEX_CLI_STATUS_H

/* `edgeplex status`, `edgeplex version`; see struct verb. */

#include "controller/cli/cli.h"

int status_run(struct cli *cli, const struct args *args);
int version_run(struct cli *cli, const struct args *args);

/* "edgeplex VERSION" with a newline. */
void version_write(FILE *out);

#endif
