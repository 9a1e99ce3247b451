/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_BGP_SHOW_H
#define EDGEPLEX_BGP_SHOW_H

/* bgpd's state as JSON, and what the programs decide by. */

#include <stdbool.h>
#include <stddef.h>
#include <cjson/cJSON.h>

#include "common/jsonrpc.h"

/*
 * Names a neighbour: `role` ("ce", ...) and, if it has one, `name`. Both stay the callee's.
 * Neighbours for which it returns false are not shown.
 */
typedef bool (*bgp_namer)(void *ctx, const char *address, const char **role, const char **name);

/* `neighbors` of the status. The caller's; NULL when memory ran out. */
cJSON *bgp_show_neighbors(bgp_namer namer, void *ctx);

/*
 * `{FAMILY: number of prefixes, ...}` for "ipv4", "ipv6" (or, `vpn`, "vpnv4", "vpnv6"). A big
 * table's figure may be five seconds old.
 */
cJSON *bgp_show_rib(bool vpn);

/*
 * Serves `*.routes` for the families of the program. `params` as the contract has them. Looks at a
 * bounded number of prefixes per call, so a page can be shorter than its limit, even empty.
 * Returns 0, or -1 with `err` filled.
 */
int bgp_show_routes(const cJSON *params, bool vpn, cJSON **result, struct jsonrpc_error *err);

/*
 * Has every configured neighbour sent its whole table (End-of-RIB in each family in use; a
 * neighbour that can't tell: `settle_ms` after it came up), and has bgpd digested it? False without
 * neighbours.
 */
bool bgp_show_converged(unsigned settle_ms);

#endif
