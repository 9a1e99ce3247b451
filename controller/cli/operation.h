/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_OPERATION_H
#define EDGEPLEX_CLI_OPERATION_H

/* `edgeplex operation wait`; see struct verb. */

#include "controller/cli/cli.h"

int operation_run_wait(struct cli *cli, const struct args *args);

#endif
