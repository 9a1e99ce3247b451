/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "controller/cli/operation.h"

#include <stdlib.h>

#include "controller/cli/exit.h"
#include "controller/cli/follow.h"

int operation_run_wait(struct cli *cli, const struct args *args)
{
	char *path = cli_object_path(cli, args->arguments[0]);
	cJSON *operation;
	int code = cli_get(cli, path, &operation);

	free(path);
	return code == CLI_OK ? follow_operation(cli, operation) : code;
}
