/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_VM_H
#define EDGEPLEX_CLI_VM_H

/* What is inside a VM: the verbs of `edgeplex pvm` and `edgeplex cvm` beyond the common ones; see
 * struct verb. */

#include "controller/cli/cli.h"

int vm_run_rib(struct cli *cli, const struct args *args);
int vm_run_fib(struct cli *cli, const struct args *args);
int vm_run_processes(struct cli *cli, const struct args *args);
int vm_run_neighbors(struct cli *cli, const struct args *args);
int vm_run_migrate(struct cli *cli, const struct args *args);
int vm_run_protect(struct cli *cli, const struct args *args);
int vm_run_unprotect(struct cli *cli, const struct args *args);
int vm_run_failover(struct cli *cli, const struct args *args);
int vm_run_signal(struct cli *cli, const struct args *args);

#endif
