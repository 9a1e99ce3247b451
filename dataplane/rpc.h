/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_RPC_H
#define EDGEPLEX_DATAPLANE_RPC_H

/* The methods fwd.* of docs/protocols.md. */

#include "common/jsonrpc.h"
#include "dataplane/forwarder.h"

struct fpm;

struct rpc {
	struct forwarder *fwd;
	struct fpm *fpm;
	/* The fast path was woken when it had turned its loop so often; 0 ms: it has since. */
	uint64_t woken_ms, woken_turns;
};

/* A jsonrpc_handler; `ctx` is a struct rpc. Control thread only. */
int rpc_handle(void *ctx, const char *method, const cJSON *params, cJSON **result,
	struct jsonrpc_error *err);

#endif
