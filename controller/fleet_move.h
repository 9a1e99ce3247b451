/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FLEET_MOVE_H
#define EDGEPLEX_FLEET_MOVE_H

/* Between fleet_move.c and fleet_move_switch.c; all of it is the thread's that moves the object. */

#include "controller/fleet_internal.h"

#define HOSTD_MS 5000 /* for a hostd to do something that is not urgent */

/* The row of a port or of a CVM, as far as a move changes it. */
struct move_row {
	bool is_cvm;
	struct port port;
	struct cvm cvm;
	int64_t *server_id;
	struct second_copy *move;
};

/* ENOENT: there is none. */
int move_row_load(struct fleet *fleet, const char *object, struct move_row *row);
int move_row_save(struct fleet *fleet, const struct move_row *row);
/* Stores how far the move is. Errno. */
int move_store_state(struct fleet *fleet, const char *object, enum move_state state);
int move_database_failed(struct problem *problem); /* sets it; -1 */

/*
 * The object's move, which is made from the store if this process doesn't know it yet. NULL with
 * `problem`.
 */
struct fleet_move *move_get(
	struct fleet *fleet, const char *object, struct target *target, struct problem *problem);
/* Forgets it. */
void move_end(struct fleet *fleet, struct fleet_move *move);

/* {"uuid": the VM's}, for the caller to delete. */
cJSON *move_params(const struct fleet_move *move);
/* Takes `params`; NULL: only the UUID. `*result` (may be NULL) becomes the caller's. 0 or -1. */
int move_ask(struct fleet_move *move, struct hostd_client *client, const char *method,
	cJSON *params, int timeout_ms, cJSON **result, struct jsonrpc_error *err);
/* Both hostds forget the copy. The source runs, and the destination doesn't. */
void move_abort_copy(struct fleet_move *move);
/* What a hostd said of the source goes into the move. */
void move_note_figures(struct fleet_move *move, const cJSON *status);
/* What a hostd says of its side of the move; "": it knows of none, or doesn't answer. */
void move_side_state(
	struct fleet_move *move, struct hostd_client *client, const char *role, char state[16]);

/* ---- fleet_move_switch.c ------------------------------------------------------------------ */

/* The switch must follow: both copies run, and only one can say what it wants. False: it didn't. */
bool move_insist_on_phase(struct fleet *fleet, struct fleet_move *move, enum fabric_phase phase);

#endif
