/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_HELP_H
#define EDGEPLEX_CLI_HELP_H

/* What the table of commands says to people: --help and the man page. Thread-safe. */

#include <stdio.h>

#include "controller/cli/cli.h"

/* Help for a verb; for a noun if `verb` is NULL; for everything if `noun` is NULL, too. */
void help_write(FILE *out, const struct noun *noun, const struct verb *verb);

/* `edgeplex __man`: the man page edgeplex(1), in man(7)'s macros. */
int help_run_man(struct cli *cli, const struct args *args);

#endif
