/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_BGP_SERVICE_H
#define EDGEPLEX_BGP_SERVICE_H

/*
 * What pvmd and cvmd have in common: command line, run directory, JSON-RPC socket with the methods
 * PREFIX.configure, .config, .status and .routes, and the configuration kept over a restart.
 */

#include <stdbool.h>
#include <cjson/cJSON.h>

#include "common/bgp/bgp_show.h"
#include "common/bgp/kernel_net.h"
#include "common/jsonrpc.h"

struct service {
	const char *program; /* "pvmd": RUN_DIR/pvmd.sock, RUN_DIR/pvmd.json */
	const char *prefix;  /* "pvm" */
	const char *about;   /* one line for --help */
	bool vpn;            /* families of PREFIX.routes */

	/* After bgpd is up, before any configuration. `run_dir` stays the service's. */
	void (*start)(const char *run_dir);
	/* Makes `config` the one in force, or changes nothing and fills `err` (returns -1). */
	int (*configure)(const cJSON *config, struct jsonrpc_error *err);
	/* Adds the program's own members to the status. */
	void (*status)(cJSON *status);
	bgp_namer namer;
};

/* `interfaces` of the status: those of the configuration as they are now. The caller's. */
cJSON *service_interfaces(const struct kernel_wish *wishes, size_t n);

/* Does everything; never returns. Call from main(). */
__attribute__((noreturn)) void service_main(const struct service *service, int argc, char **argv);

#endif
