/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CLI_EXIT_H
#define EDGEPLEX_CLI_EXIT_H

/* Exit codes of `edgeplex`: scripts rely on them, so they never change their meaning. */
enum cli_exit {
	CLI_OK = 0,
	CLI_FAILED = 1,        /* the operation that was started has failed */
	CLI_USAGE = 2,         /* the command line is wrong; nothing was asked of edgeplexd */
	CLI_REFUSED = 3,       /* edgeplexd refused the request; nothing was changed */
	CLI_UNREACHABLE = 4,   /* edgeplexd doesn't answer */
	CLI_INTERRUPTED = 130, /* interrupted while waiting; the operation goes on */
};

#endif
