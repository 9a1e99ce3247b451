/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_CONTROL_H
#define EDGEPLEX_HOSTD_CONTROL_H

/*
 * hostd's control socket: JSON-RPC as in common/jsonrpc.h, but each client has a thread, so that a
 * method that takes its time (a freeze) keeps no other client waiting. Functions may be called
 * from any thread.
 */

#include "common/jsonrpc.h"

struct control;

/* `handler` is called from many threads at once. Returns NULL when resources ran out. */
struct control *control_create(jsonrpc_handler handler, void *ctx);

/* Listens on a Unix stream socket with mode 0600, replacing a stale one. Returns 0 or errno. */
int control_listen(struct control *control, const char *path);

/* A descriptor that polls readable when control_accept() has something to do. */
int control_fd(const struct control *control);
void control_accept(struct control *control);

/*
 * Sends a notification to every client, soon. A client that doesn't read misses the older ones.
 * `params` stays the caller's.
 */
void control_notify(struct control *control, const char *method, const cJSON *params);

/* Removes the socket's file, waits until the methods that run are done, closes all clients. */
void control_stop(struct control *control);

/* To be called when nobody uses it any more. Accepts NULL. */
void control_destroy(struct control *control);

#endif
