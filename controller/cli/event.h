/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_EVENT_H
#define EDGEPLEX_CLI_EVENT_H

/* `edgeplex event list`; see struct verb. */

#include "controller/cli/cli.h"

int event_run_list(struct cli *cli, const struct args *args);

#endif
