/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_SOURCE_H
#define EDGEPLEX_HOSTD_SOURCE_H

/*
 * The source's side of a move: copies a running VM's memory to another hostd, freezes the VM, and
 * lets it go on.
 *
 *   COPYING -> READY -> STOPPED -> FROZEN -> BOTH -> (finish)
 *                          |__________________^  fenced
 *      any of these -> ENDED: the copy is void and the source runs
 *
 * **When a stopped source runs again.** Stopping a customer's VM is a loan; it ends in one of
 * these ways, whoever dies:
 * - source_resume(): the controller has fenced the source at the switch, and says so. The copy
 *   stays good; the destination may be activated before or after.
 * - source_abort(), a failure while freezing, the loss of the connection to the destination, or
 *   `silence_ms` without a call of the controller about this VM: the source resumes by itself and
 *   the copy is void. From that decision on it denies the destination's leave.
 * - hostd dies: freeze.h.
 * - Not by itself any more once it has *granted* the destination leave to run. The leave is asked
 *   and given over the connection, is recorded before it is sent, and is decided by the same
 *   thread that would resume the source: so either the destination has leave or the source
 *   resumes by itself, never both. Should the destination then be unable to run, it says so, and
 *   the source resumes. Should the connection be lost with the leave, it is for the controller to
 *   say who runs (source_resume(), or activation as fenced).
 *
 * The functions block, for bounded times, and may be called from any thread.
 */

#include <cjson/cJSON.h>

#include "common/jsonrpc.h"
#include "hostd/dirty.h"
#include "hostd/link.h"

struct source;

struct source_config {
	uint8_t uuid[16];
	const char *qmp_path;
	const char *ram_path; /* NULL: QEMU is asked */
	const char *address;  /* of the other hostd */
	uint8_t ticket[32];   /* of its receive.prepare */
	enum dirty_engine engine;
	int silence_ms; /* how long it may stay stopped without a word of the controller */
	const char *run_dir;
	const struct link_keys *keys; /* live longer than the source */
	/* Called from the source's thread upon each change; takes `status`. */
	void (*changed)(void *ctx, cJSON *status);
	void *ctx;
};

/* Connects to QEMU and the other hostd, then begins to copy. Returns 0, or -1 with `err`. */
int source_start(
	const struct source_config *config, struct source **source, struct jsonrpc_error *err);

/*
 * Stops the VM; when this returns the destination has all of it. Waits for the first passes to be
 * done, up to `timeout_ms` in all; the VM itself is stopped for less than 5 s, or resumed.
 * `fenced`: the controller has fenced the source at the switch already; it goes on as soon as all
 * of it is taken, before the destination has it.
 */
int source_freeze(struct source *source, bool fenced, int timeout_ms, struct jsonrpc_error *err);

/*
 * The source goes on, beside the destination: as soon as all of it is taken, if it was just
 * stopped. Returns when the destination has all of it, too.
 */
int source_resume(struct source *source, struct jsonrpc_error *err);

/* The source goes on, the copy is void; a destination that was activated is stopped. */
int source_abort(struct source *source, struct jsonrpc_error *err);

/* A word of the controller. */
void source_touch(struct source *source);

/* Everything that is known, as docs/protocols.md has it. The caller's. */
cJSON *source_status(struct source *source);

/* Has it come to its end (ENDED), so that a new one may begin? */
bool source_ended(struct source *source);

/* As source_destroy(), but only begins to; doesn't wait. */
void source_quit(struct source *source);

/*
 * Ends its thread; aborts unless the state is BOTH or leave was granted. `forget`: a VM that stands
 * still because leave was granted is about to be ended, so no record of it is kept. Accepts NULL.
 */
void source_destroy(struct source *source, bool forget);

#endif
