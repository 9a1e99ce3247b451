/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_STORE_H
#define EDGEPLEX_STORE_H

/*
 * Desired state, kept in SQLite (write-ahead log, synchronous=FULL): when store_commit() has
 * returned 0, what was written survives a crash and a power cut.
 *
 * One connection behind one recursive mutex. Any thread may call; every call is short (it never
 * waits for anything but the disk). Changes are made between store_begin() and
 * store_commit()/store_rollback() on one thread. Functions return 0 or a positive errno: ENOENT no
 * such object, EEXIST a unique value is taken, EBUSY referred to by others, ENOSPC a range is
 * exhausted, EIO the database failed (store_error_text()).
 */

#include <stddef.h>
#include <stdint.h>

#include "controller/model.h"
#include "controller/why.h"

struct store;

/* Opens or creates the database at `path` and migrates it. EIO or EPROTO (newer than we know). */
int store_open(const char *path, struct store **store, struct why *why);
void store_close(struct store *store); /* accepts NULL */

int store_begin(struct store *store);
/* Ends what store_begin() began. When it fails nothing was changed. */
int store_commit(struct store *store);
void store_rollback(struct store *store);
/* Grows whenever an object is written; not by operations and events. Doesn't wait. */
uint64_t store_generation(const struct store *store);
/* What SQLite said last; valid while in a transaction. */
const char *store_error_text(struct store *store);

/* ---- objects: insert sets the id; lists are sorted by name and the caller free()s them ------ */

int store_site_insert(struct store *store, struct site *site);
int store_site_update(struct store *store, const struct site *site);
int store_site_delete(struct store *store, int64_t id);
int store_site_get(struct store *store, const char *name, struct site *site);
int store_site_list(struct store *store, struct site **sites, size_t *n);

int store_server_insert(struct store *store, struct server *server);
int store_server_update(struct store *store, const struct server *server);
int store_server_set_drained(struct store *store, int64_t id, bool drained);
int store_server_delete(struct store *store, int64_t id);
int store_server_get(struct store *store, const char *name, struct server *server);
int store_server_list(struct store *store, struct server **servers, size_t *n);

int store_customer_insert(struct store *store, struct customer *customer);
int store_customer_delete(struct store *store, int64_t id);
int store_customer_get(struct store *store, const char *name, struct customer *customer);
int store_customer_list(struct store *store, struct customer **customers, size_t *n);

int store_port_insert(struct store *store, struct port *port);
/* Writes all but the names: also state, flags, server and what was allocated. */
int store_port_update(struct store *store, const struct port *port);
int store_port_delete(struct store *store, int64_t id);
int store_port_get(struct store *store, const char *name, struct port *port);
int store_port_list(struct store *store, struct port **ports, size_t *n);

/* What became of a port's PVM, for the operator; the newest STORE_HISTORY_KEPT of each port. */
#define STORE_HISTORY_KEPT 100

struct history {
	int64_t time_ms;
	char what[24]; /* "moved", "started again", "taken over", "placed anew" */
	char server[MODEL_NAME_SIZE];
	char detail[160];
};

int store_history_add(struct store *store, int64_t port_id, const char *what, const char *server,
	const char *detail);
/* Newest first. */
int store_history_list(struct store *store, int64_t port_id, struct history **history, size_t *n);

/*
 * What an object ("port/green-a", "cvm/a", "standby/a") was placed on a server by; the newest for
 * each of both. `server_id` 0: wherever it was placed last. `*why` is JSON, and the caller's;
 * ENOENT.
 */
int store_placement_put(
	struct store *store, const char *object, int64_t server_id, const char *why);
int store_placement_get(
	struct store *store, const char *object, int64_t server_id, int64_t *time_ms, char **why);
int store_placement_rename(struct store *store, const char *from, const char *to);
int store_placement_forget(struct store *store, const char *object);

int store_cvm_insert(struct store *store, const struct cvm *cvm);
int store_cvm_update(struct store *store, const struct cvm *cvm);
int store_cvm_delete(struct store *store, int64_t site_id);
int store_cvm_get(struct store *store, const char *site, struct cvm *cvm);
int store_cvm_list(struct store *store, struct cvm **cvms, size_t *n);

/*
 * The protection of a site's CVM; ENOENT: it isn't asked for. `put` inserts or replaces, all but
 * `past`, which stays when the protection is ended.
 */
int store_protection_get(struct store *store, const char *site, struct protection *protection);
int store_protection_list(struct store *store, struct protection **protections, size_t *n);
int store_protection_put(struct store *store, const struct protection *protection);
int store_protection_delete(struct store *store, int64_t site_id);
/* Of a CVM, protected or not; all 0 if there was none. Forgotten with the CVM. */
int store_failovers_get(struct store *store, int64_t site_id, struct failovers *past);
int store_failovers_put(struct store *store, int64_t site_id, const struct failovers *past);

/*
 * A copy of a CVM that nobody may speak with any more, fenced at the switch, to be destroyed as
 * soon as its server can be reached: a primary whose standby took over, or a standby that isn't
 * needed. At most one for each CVM and server; it is forgotten with either.
 */
struct void_copy {
	int64_t site_id, server_id;
	char site[MODEL_NAME_SIZE], server[MODEL_NAME_SIZE], uuid[MODEL_UUID_SIZE];
};

int store_void_add(struct store *store, int64_t site_id, int64_t server_id);    /* or is there */
int store_void_remove(struct store *store, int64_t site_id, int64_t server_id); /* or isn't */
int store_void_list(struct store *store, struct void_copy **voids, size_t *n);

/* Spares, sorted by id. */
int store_spare_insert(struct store *store, struct spare *spare);
int store_spare_get(struct store *store, int64_t id, struct spare *spare);
int store_spare_list(struct store *store, struct spare **spares, size_t *n);
int store_spare_delete(struct store *store, int64_t id);

/*
 * A PVM's VM that nobody may speak with any more: that of a port which another VM has taken over,
 * or a spare that isn't wanted. It is to be destroyed as soon as its server can be reached, and its
 * VLANs (allocations of its owner, "void/UUID") are nobody's until then. Forgotten with its server.
 */
struct void_pvm {
	char uuid[MODEL_UUID_SIZE];
	int64_t server_id;
	char server[MODEL_NAME_SIZE];
	char object[48]; /* whose it was: "port/green-a", "spare/7" */
};

int store_void_pvm_add(
	struct store *store, const char *uuid, int64_t server_id, const char *object);
int store_void_pvm_remove(struct store *store, const char *uuid, int64_t server_id); /* or isn't */
int store_void_pvm_list(struct store *store, struct void_pvm **voids, size_t *n);

/* ---- allocations: a value of a kind is given once per scope, kept until its owner lets go ---- */

enum alloc_kind { ALLOC_LABEL, ALLOC_VLAN, ALLOC_INSIDE, ALLOC_MAC, ALLOC_RD };

/* The lowest free value of `range`; `scope` is a site's id, or 0 for all sites. ENOSPC. */
int store_alloc_lowest(struct store *store, int64_t scope, enum alloc_kind kind, struct range range,
	const char *owner, uint32_t *value);
int store_alloc_exact(
	struct store *store, int64_t scope, enum alloc_kind kind, int64_t value, const char *owner);
/* Gives a value that is taken to another owner. ENOENT: it isn't. */
int store_alloc_give(
	struct store *store, int64_t scope, enum alloc_kind kind, int64_t value, const char *owner);
/* Everything that `owner` ("port/green-a") has. */
int store_alloc_release(struct store *store, const char *owner);
/* How many values of `range` are taken. */
int store_alloc_count(
	struct store *store, int64_t scope, enum alloc_kind kind, struct range range, uint32_t *n);

/* ---- operations --------------------------------------------------------------------------- */

#define OPERATION_MAX_STEPS 8

enum operation_state { OPERATION_RUNNING, OPERATION_SUCCEEDED, OPERATION_FAILED };
enum step_state { STEP_PENDING, STEP_RUNNING, STEP_SUCCEEDED, STEP_FAILED, STEP_UNDONE };

struct operation {
	int64_t id;
	char verb[16];   /* create, change, delete */
	char object[48]; /* "port/green-a" */
	enum operation_state state;
	bool undoing; /* a step failed; what was done is being taken back */
	uint32_t wait_s;
	int64_t created_ms, finished_ms; /* since the epoch; 0: not yet */
	struct problem error;            /* status 0: none */
	size_t n_steps;
	struct operation_step {
		char name[24];
		enum step_state state;
		int64_t started_ms, took_ms; /* since the operation's creation; -1: not yet */
		char detail[256];
	} steps[OPERATION_MAX_STEPS];
};

/* Older ones are forgotten once they have ended. */
#define STORE_OPERATIONS_KEPT 5000

int store_operation_insert(struct store *store, struct operation *op);
/* Writes state, error and all steps. */
int store_operation_update(struct store *store, const struct operation *op);
int store_operation_get(struct store *store, int64_t id, struct operation *op);
/* Newest first, at most `limit`; `before` 0: from the newest. */
int store_operation_list(
	struct store *store, int64_t before, size_t limit, struct operation **ops, size_t *n);
/* Ids of those that run, oldest first. */
int store_operation_unfinished(struct store *store, int64_t **ids, size_t *n);
/* The running operation on `object`, or ENOENT. */
int store_operation_of(struct store *store, const char *object, int64_t *id);

/* ---- events ------------------------------------------------------------------------------- */

#define STORE_EVENTS_KEPT 10000

struct event {
	int64_t id, time_ms;
	char severity[8]; /* info, warning, error */
	char object[48];
	char text[512];
};

int store_event_add(
	struct store *store, const char *severity, const char *object, const char *text);
/* Oldest first, those with an id above `after`. */
int store_event_list(
	struct store *store, int64_t after, size_t limit, struct event **events, size_t *n);
/* Newest first, those above `after` and below `before` (0: from the newest). */
int store_event_newest(struct store *store, int64_t after, int64_t before, size_t limit,
	struct event **events, size_t *n);

#endif
