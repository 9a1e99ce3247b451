/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_API_H
#define EDGEPLEX_API_H

/*
 * The REST API (docs/api.md), HTTP/1.1 on a Unix socket. Every connection has a thread of its own,
 * so that a slow request holds nobody.
 */

#include "controller/engine.h"
#include "controller/fleet.h"
#include "controller/store.h"
#include "controller/why.h"

#define API_VERSION "0.1.0"
#define API_BODY_MAX (256u << 10) /* bytes of a request's body */

struct api;

/*
 * Serves on `socket_path` (mode 0660), replacing a stale socket. EADDRINUSE: somebody answers there
 * already. Other errnos come with `why`.
 */
int api_start(const char *socket_path, struct store *store, struct fleet *fleet,
	struct engine *engine, struct api **api, struct why *why);

/* Ends when the requests that are being served have been answered. Accepts NULL. */
void api_stop(struct api *api);

#endif
