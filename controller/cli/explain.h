/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_EXPLAIN_H
#define EDGEPLEX_CLI_EXPLAIN_H

/* Why VMs are where they are, and what would fail together; see struct verb. */

#include "controller/cli/cli.h"

int explain_run_vm(struct cli *cli, const struct args *args);    /* of PVMs and CVMs */
int explain_run_risks(struct cli *cli, const struct args *args); /* of a site */

#endif
