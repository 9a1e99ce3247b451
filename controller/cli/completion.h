/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_COMPLETION_H
#define EDGEPLEX_CLI_COMPLETION_H

/* Completion of command lines in bash; see struct verb. One thread. */

#include "controller/cli/cli.h"

/* `edgeplex completion bash`: the function to load into bash. It asks `edgeplex __complete`. */
int completion_run_bash(struct cli *cli, const struct args *args);

/*
 * `edgeplex __complete INDEX WORD...`: what WORD number INDEX may become, one candidate per line.
 * WORDs are those of bash (COMP_WORDS), which takes '=' and ':' for words of their own. Silent
 * about every failure.
 */
int completion_run(struct cli *cli, const struct args *args);

#endif
