/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_GUARDIAN_H
#define EDGEPLEX_HOSTD_GUARDIAN_H

/*
 * The primary's side of protection: an endless row of epochs. Each interval the VM stands still
 * for some milliseconds, while its changed pages are copied to a buffer here and its device state
 * to a file; it goes on, and both are sent. What it sends to the network is held (hold.h) until the
 * standby has acknowledged the epoch in which it was sent.
 *
 *   SYNCING -> PROTECTED -> UNPROTECTED: runs, holds nothing; the standby's copy is void, or stale
 *                 |   ^---- PRIMARY_SILENT: QEMU doesn't answer. The copy stays good
 *                 |-------> PRIMARY_DEAD: QEMU is gone. The copy stays good
 *                 `-------> SUPERSEDED: the standby runs; this VM stands still and says nothing
 *
 * **The primary comes before its protection.** Whatever happens to the standby, the link or its
 * hostd, the VM is stopped for no longer than `timeout_ms`, an epoch that isn't acknowledged within
 * `timeout_ms` ends the protection, and then everything held goes out. When hostd itself dies, its
 * guard does the same (freeze.h). To be protected again it is started again, with a new copy.
 *
 * **Who runs** is the controller's to say: a standby never gets leave from here (FRAME_DENY), only
 * standby.activate with `fenced` lets it run. It then says so, and a primary that was only believed
 * dead stands still for good, and what it held is never sent. That is besides the fence at the
 * switch, not instead.
 *
 * The functions block, for bounded times, and may be called from any thread.
 */

#include <cjson/cJSON.h>

#include "common/jsonrpc.h"
#include "hostd/dirty.h"
#include "hostd/link.h"

struct guardian;

struct guardian_config {
	uint8_t uuid[16];
	const char *qmp_path;
	const char *ram_path; /* NULL: QEMU is asked */
	const char *address;  /* of the other hostd */
	uint8_t ticket[32];   /* of its receive.prepare */
	enum dirty_engine engine;
	int interval_ms;  /* from stop to stop */
	int timeout_ms;   /* for an epoch, from the stop to the acknowledgement */
	bool hold_output; /* false: no failover will keep a TCP session */
	const char *run_dir;
	const struct link_keys *keys; /* live longer than the guardian */
	/* Called upon each change, and every second while PROTECTED; takes `status`. */
	void (*changed)(void *ctx, cJSON *status);
	void *ctx;
};

/* Connects to QEMU and the other hostd, then begins to copy. Returns 0, or -1 with `err`. */
int guardian_start(const struct guardian_config *config, struct guardian **guardian,
	struct jsonrpc_error *err);

/* From the next epoch on. Statistics begin anew. */
void guardian_set_interval(struct guardian *guardian, int interval_ms);

/* Ends the protection: the VM runs, what was held goes out, the copy is void. */
int guardian_stop(struct guardian *guardian, struct jsonrpc_error *err);

/* Everything that is known, as docs/protocols.md has it. The caller's. */
cJSON *guardian_status(struct guardian *guardian);

/* UNPROTECTED, PRIMARY_DEAD or SUPERSEDED, so that a new one may begin? */
bool guardian_ended(struct guardian *guardian);

/* As guardian_destroy(), but only begins to; doesn't wait. */
void guardian_quit(struct guardian *guardian);

/* Ends the protection and its threads. Accepts NULL. */
void guardian_destroy(struct guardian *guardian);

#endif
