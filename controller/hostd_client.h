/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_CLIENT_H
#define EDGEPLEX_HOSTD_CLIENT_H

/*
 * A connection to one server's edgeplex-hostd (docs/protocols.md).
 *
 * hostd serves the calls of a connection one after the other, so whoever drives several moves opens
 * an object for each. Every call ends in time. A connection that broke is opened again by the next
 * call; so is one that a call timed out on, since hostd may still be at that call.
 *
 * Functions may be called from any thread, several at a time, but hostd_client_close() only when no
 * call is under way.
 */

#include <cjson/cJSON.h>

#include "common/jsonrpc.h"
#include "controller/why.h"

struct hostd_client;

/*
 * Called on the object's own thread with the params of each hostd.changed (the caller's), and with
 * NULL when the connection is lost: changes may have been missed then. Must not block and must not
 * call hostd_client_*().
 */
typedef void (*hostd_changed_fn)(void *ctx, const cJSON *status);

/* Is `target` "unix:/PATH", of a length that a socket can have? Otherwise EINVAL with `why`. */
int hostd_client_check_target(const char *target, struct why *why);

/*
 * Doesn't connect yet: the first call does. `changed` may be NULL. Returns NULL with `why` when the
 * target is wrong or resources ran out.
 */
struct hostd_client *hostd_client_open(
	const char *target, hostd_changed_fn changed, void *ctx, struct why *why);

/*
 * Calls `method`; `params` (may be NULL) stays the caller's, `*result` (`result` may be NULL)
 * becomes the caller's. Returns 0, or -1 with `err`: an error answer as it came, or code
 * JSONRPC_UNAVAILABLE when hostd can't be reached, ended, or didn't answer within `timeout_ms`.
 */
int hostd_client_call(struct hostd_client *client, const char *method, const cJSON *params,
	int timeout_ms, cJSON **result, struct jsonrpc_error *err);

/*
 * The same in two halves, so that one thread can call several hostds at once. After a begin that
 * returned 0 comes exactly one finish with its `*id`; `timeout_ms` counts from there.
 */
int hostd_client_begin(struct hostd_client *client, const char *method, const cJSON *params,
	unsigned long *id, struct jsonrpc_error *err);
int hostd_client_finish(struct hostd_client *client, unsigned long id, int timeout_ms,
	cJSON **result, struct jsonrpc_error *err);

/* After it returns no callback runs any more. Accepts NULL. */
void hostd_client_close(struct hostd_client *client);

#endif
