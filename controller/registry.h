/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_REGISTRY_H
#define EDGEPLEX_REGISTRY_H

/*
 * Objects in relation to each other: what a new, changed or deleted object must agree with, and
 * what it is given (labels, VLANs, addresses, route distinguishers). Every function is one
 * transaction: it does everything, or nothing and returns -1 with `problem`. Only the database is
 * touched. Any thread.
 */

#include "controller/model.h"
#include "controller/store.h"

/* Chooses `inside` if it is open. With `dry_run` nothing is kept: only the checks are made. */
int registry_site_create(
	struct store *store, struct site *site, bool dry_run, struct problem *problem);
/*
 * Makes the object of this name what `edit` makes of it, in one transaction: nobody else's change
 * is lost. `edit` must not block; it returns 0, or -1 with `problem`. The outcome is also written
 * to `*changed`.
 */
typedef int (*registry_site_edit)(void *ctx, struct site *site, struct problem *problem);
int registry_site_change(struct store *store, const char *name, registry_site_edit edit, void *ctx,
	struct site *changed, struct problem *problem);
int registry_site_delete(struct store *store, const char *name, struct problem *problem);

int registry_server_create(
	struct store *store, struct server *server, bool dry_run, struct problem *problem);
/* As registry_site_change(). */
typedef int (*registry_server_edit)(void *ctx, struct server *server, struct problem *problem);
int registry_server_change(struct store *store, const char *name, registry_server_edit edit,
	void *ctx, struct server *changed, struct problem *problem);
int registry_server_delete(struct store *store, const char *name, struct problem *problem);

/* Takes it out of service (no VM is placed there any more) and stores the operation. */
int registry_server_drain(
	struct store *store, const char *name, struct operation *op, struct problem *problem);
int registry_server_undrain(struct store *store, const char *name, struct problem *problem);

/* Chooses `vpn_id` if it is open. */
int registry_customer_create(
	struct store *store, struct customer *customer, struct problem *problem);
int registry_customer_delete(struct store *store, const char *name, struct problem *problem);

/* Tells placement which servers can be used. Called inside the transaction: must not block. */
typedef bool (*registry_reachable_fn)(void *ctx, int64_t server_id);

/*
 * Stores a port (state PORT_CREATING) with all that it is given, its server, and the operation that
 * will make it; `op` comes with its steps.
 */
int registry_port_create(struct store *store, struct port *port, struct operation *op,
	registry_reachable_fn reachable, void *ctx, bool dry_run, struct problem *problem);
/*
 * Takes addresses, CEs and the CE's MAC of the port of this name from `wanted`, and nothing else:
 * an operation may have gone on since it was read. Only an active port can be changed.
 */
int registry_port_change(struct store *store, const struct port *wanted, struct operation *op,
	struct problem *problem);
int registry_port_delete(
	struct store *store, const char *name, struct operation *op, struct problem *problem);
/*
 * Places a second copy of the port's PVM, on the server `wanted` if not empty, and stores it
 * (MOVE_COPYING) with the operation that will make it the only one.
 */
int registry_port_move(struct store *store, const char *name, const char *wanted,
	struct operation *op, registry_reachable_fn reachable, void *ctx, struct problem *problem);
/* The end of a port: row and allocations. */
int registry_port_remove(struct store *store, const struct port *port);

int registry_cvm_create(struct store *store, const char *site, struct operation *op,
	registry_reachable_fn reachable, void *ctx, struct problem *problem);
int registry_cvm_move(struct store *store, const char *site, const char *wanted,
	struct operation *op, registry_reachable_fn reachable, void *ctx, struct problem *problem);
int registry_cvm_delete(
	struct store *store, const char *site, struct operation *op, struct problem *problem);

/*
 * Asks for the CVM's protection, or changes what was asked for: what `request` doesn't say stays as
 * it is. Refused if no server could have a standby now.
 */
int registry_cvm_protect(struct store *store, const char *site,
	const struct protection_request *request, struct operation *op,
	registry_reachable_fn reachable, void *ctx, struct problem *problem);
int registry_cvm_unprotect(
	struct store *store, const char *site, struct operation *op, struct problem *problem);
/* `op` is to have the standby take over; 409 not-protected unless it could. */
int registry_cvm_failover(
	struct store *store, const char *site, struct operation *op, struct problem *problem);
/*
 * Chooses where the standby of a CVM that has none goes, and stores it (PROTECTION_STARTING): to
 * the server that is wanted, if it can, else to any other that has a hostd but `avoid` (0: none).
 * `*protection` becomes what is stored.
 */
int registry_standby_place(struct store *store, const char *site, int64_t avoid,
	registry_reachable_fn reachable, void *ctx, struct protection *protection,
	struct problem *problem);
int registry_cvm_remove(struct store *store, const struct cvm *cvm);

/*
 * Spares (registry_spare.c).
 *
 * Stores one more spare of the site, with all that it is given, on a reachable server in service
 * that has memory left: one with the fewest spares, of these the one with most memory left.
 */
int registry_spare_create(struct store *store, const char *site, registry_reachable_fn reachable,
	void *ctx, struct spare *spare, struct problem *problem);
/*
 * Which of these servers, each of which has a spare that is ready, is the best place for the port's
 * PVM now, and keeps why; `failed`: not there, nor where the same risks are (0: anywhere). 0: none.
 */
int64_t registry_spare_choose(struct store *store, const char *port, int64_t failed,
	const int64_t *servers, size_t n, registry_reachable_fn reachable, void *ctx);
/* Would it be less crowded by the pool's others elsewhere? */
bool registry_spare_is_crowded(
	struct store *store, const struct spare *spare, registry_reachable_fn reachable, void *ctx);
/* It is void from now on. 404: it is gone already. */
int registry_spare_discard(struct store *store, int64_t id, struct problem *problem);

/* A PVM that another VM is to stand in for: as it was when that was decided. */
struct lost_pvm {
	const char *port, *uuid;
	int64_t server_id;
	const char *why; /* for its history: "its VM died" */
};

/*
 * The spare becomes the port's VM; the one that it had is void, and so is a copy that a move left.
 * `*port` becomes what is stored. 409: the port isn't (any more) as `lost` says, an operation moves
 * or deletes it, or the spare is gone.
 */
int registry_port_adopt(struct store *store, const struct lost_pvm *lost, int64_t spare_id,
	struct port *port, struct problem *problem);
/* The same with a VM that isn't there yet: to be started on any other server but `but`. */
int registry_port_reseat(struct store *store, const struct lost_pvm *lost, int64_t but,
	registry_reachable_fn reachable, void *ctx, struct port *port, struct problem *problem);
/*
 * A CVM whose server is lost, and that isn't to be protected, is to be started on another one; its
 * copy there is void. 409: it isn't as is said here, or something else is done to it.
 */
int registry_cvm_reseat(struct store *store, const char *site, int64_t server_id,
	registry_reachable_fn reachable, void *ctx, struct cvm *cvm, struct problem *problem);
/* A void copy doesn't exist any more: its VLANs may be given out again. 0 or the store's errno. */
int registry_void_pvm_end(struct store *store, const char *uuid, int64_t server_id);

/* Objects by name, or a problem 404. */
int registry_find_site(
	struct store *store, const char *name, struct site *site, struct problem *problem);
int registry_find_server(
	struct store *store, const char *name, struct server *server, struct problem *problem);
int registry_find_customer(
	struct store *store, const char *name, struct customer *customer, struct problem *problem);
int registry_find_port(
	struct store *store, const char *name, struct port *port, struct problem *problem);
int registry_find_cvm(
	struct store *store, const char *site, struct cvm *cvm, struct problem *problem);

#endif
