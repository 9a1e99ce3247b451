/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_ENGINE_H
#define EDGEPLEX_ENGINE_H

/*
 * Operations: changes that take time, step by step. A step is recorded before it begins and when it
 * ends, and is idempotent; so after a crash the operation goes on with the step that it was at. If
 * a step of a creation fails, the steps before it are undone in reverse and the object is gone; a
 * failure of the last one, the wait for service, leaves the object as it is and says what is
 * missing.
 *
 * Operations run on a few threads of the engine; those on different objects run side by side.
 * Functions may be called from any thread.
 */

#include "controller/fleet.h"
#include "controller/store.h"

#define ENGINE_WAIT_DEFAULT_S 120
#define ENGINE_WAIT_MAX_S 3600

struct engine;

/* Takes up what a former run left unfinished. NULL with errno. */
struct engine *engine_start(struct store *store, struct fleet *fleet);
/* Makes waiting functions return soon; what is being done goes on after the next start. */
void engine_shutdown(struct engine *engine);
/* Waits for its threads and frees it. Call fleet_shutdown() first: it hurries them. */
void engine_stop(struct engine *engine);

/*
 * Begin an operation; `port` becomes what the operation will make. They block while switch and
 * server are asked. Return 0 with `*op` stored, or -1 with `problem` and nothing changed.
 */
int engine_port_create(struct engine *engine, struct port *port, uint32_t wait_s,
	struct operation *op, struct problem *problem);
int engine_port_change(struct engine *engine, const struct port *port, uint32_t wait_s,
	struct operation *op, struct problem *problem);
int engine_port_delete(
	struct engine *engine, const char *name, struct operation *op, struct problem *problem);
/* Moves the port's PVM to the server `server`, or, if "", to the one that placement chooses. */
int engine_port_migrate(struct engine *engine, const char *name, const char *server,
	struct operation *op, struct problem *problem);
int engine_cvm_migrate(struct engine *engine, const char *site, const char *server,
	struct operation *op, struct problem *problem);
/* Protects the CVM by a standby, or changes how; ends that; has the standby take over now. */
int engine_cvm_protect(struct engine *engine, const char *site,
	const struct protection_request *request, struct operation *op, struct problem *problem);
int engine_cvm_unprotect(
	struct engine *engine, const char *site, struct operation *op, struct problem *problem);
int engine_cvm_failover(
	struct engine *engine, const char *site, struct operation *op, struct problem *problem);
/* Takes a server out of service and moves its VMs away, several at once. */
int engine_server_drain(
	struct engine *engine, const char *name, struct operation *op, struct problem *problem);
int engine_cvm_create(struct engine *engine, const char *site, uint32_t wait_s,
	struct operation *op, struct problem *problem);
int engine_cvm_delete(
	struct engine *engine, const char *site, struct operation *op, struct problem *problem);

/*
 * Reads an operation; waits up to `wait_ms` until more than `since_step` of its steps have begun
 * (pass the number known) or it has ended. ENOENT.
 */
int engine_operation_wait(struct engine *engine, int64_t id, unsigned wait_ms, size_t since_step,
	struct operation *op);

/* The operation as the API shows it; the caller's. */
cJSON *engine_operation_json(const struct operation *op);
const char *engine_operation_state_name(enum operation_state state);

#endif
