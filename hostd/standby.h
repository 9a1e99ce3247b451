/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_STANDBY_H
#define EDGEPLEX_HOSTD_STANDBY_H

/*
 * The destination of a copy: a QEMU that was started with `-incoming defer` and waits, its memory
 * file and its staged epochs (epoch.h).
 *
 *   WAITING -> RECEIVING -> HOLDING -> ACTIVE
 *   HOLDING -> LOST: the connection is gone; what is held may only be activated as fenced
 *      any -> ENDED: void
 *
 * standby_activate() loads the device state, asks the source for leave (source.h), and only then
 * lets the VM run. Where the controller has made sure that the source can't speak any more, it
 * says `fenced`, and nobody is asked.
 *
 * The functions block, for bounded times, and may be called from any thread.
 */

#include <cjson/cJSON.h>

#include "common/jsonrpc.h"
#include "hostd/link.h"

struct standby;

struct standby_config {
	uint8_t uuid[16];
	const char *qmp_path;
	const char *ram_path; /* NULL: QEMU is asked */
	const char *run_dir;
	uint64_t limit; /* bytes for staging one epoch */
	int silence_ms; /* of the source, after which `silent` is told; 0: never */
	/* Called from the standby's thread upon each change; takes `status`. */
	void (*changed)(void *ctx, cJSON *status);
	void *ctx;
};

/* Opens memory and QEMU, and draws a ticket. Returns 0, or -1 with `err`. */
int standby_prepare(
	const struct standby_config *config, struct standby **standby, struct jsonrpc_error *err);

/*
 * Finds again what a hostd that died was holding for this VM (LOST). Only `uuid`, `run_dir`,
 * `limit`, `changed` and `ctx` of `config` count. Returns 0, or -1: there is nothing.
 */
int standby_reopen(const struct standby_config *config, struct standby **standby);

/*
 * Takes a connection whose first frame was HELLO. Returns 0, then the link is the standby's; or
 * EACCES (ticket), EINVAL (memory of another size), EBUSY, with `why` for the other side.
 */
int standby_attach(
	struct standby *standby, struct link *link, const struct frame *hello, char why[256]);

/* Lets the VM run from the last whole epoch. May be repeated. */
int standby_activate(struct standby *standby, bool fenced, struct jsonrpc_error *err);

/*
 * The same for the standby of a protected VM whose primary can't speak any more: nobody is asked,
 * but the primary's hostd is told, if it can be.
 */
int standby_take_over(struct standby *standby, struct jsonrpc_error *err);

/* Voids the copy; stops the VM if it was activated. May be repeated. */
int standby_abort(struct standby *standby, struct jsonrpc_error *err);

/* As docs/protocols.md has it; with the ticket if `ticket`. The caller's. */
cJSON *standby_status(struct standby *standby, bool ticket);

/* Has it come to its end, or is it ACTIVE without a connection, so that it may be replaced? */
bool standby_ended(struct standby *standby);

/* Ends its thread. What is held stays on disk unless `remove`. Accepts NULL. */
void standby_destroy(struct standby *standby, bool remove);

#endif
