/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_PVM_H
#define EDGEPLEX_CLI_PVM_H

/* The verbs of `edgeplex pvm` beyond list and show; see struct verb. */

#include "controller/cli/cli.h"

int pvm_run_rib(struct cli *cli, const struct args *args);
int pvm_run_fib(struct cli *cli, const struct args *args);
int pvm_run_processes(struct cli *cli, const struct args *args);
int pvm_run_signal(struct cli *cli, const struct args *args);

#endif
