/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_REGISTRY_INTERNAL_H
#define EDGEPLEX_REGISTRY_INTERNAL_H

/* What the registry's files share. Called within a transaction, but for the first. */

#include "controller/placement.h"
#include "controller/registry.h"

/* An RD of a four-byte AS has 16 bits for it (RFC 4364, section 4.2). */
#define REGISTRY_RD_MAX 65535

/* ---- registry.c: functions that return int set `problem` when they return -1, else 0 -------- */

int registry_begin(struct store *store, struct problem *problem); /* a transaction */
/* Ends it: keeps it if there is no problem. */
int registry_finish(struct store *store, struct problem *problem);
/* The same, but with `dry_run` nothing is kept. */
int registry_end(struct store *store, bool dry_run, struct problem *problem);
int registry_database_failed(struct store *store, struct problem *problem);       /* -1 */
int registry_exists(struct problem *problem, const char *what, const char *name); /* -1 */

/* The site that a request refers to: an unknown one is a wrong field, not a wrong URL. */
int registry_referred_site(
	struct store *store, const char *name, struct site *site, struct problem *problem);

/* One operation at a time may work on an object. */
int registry_check_idle(struct store *store, const char *object, struct problem *problem);
/* What stands in the way of moving a VM to the server `wanted` ("": any). */
int registry_check_movable(const char *what, enum port_state state, bool started,
	const struct second_copy *move, const char *server, const char *wanted,
	struct problem *problem);
int registry_add_operation(struct store *store, struct operation *op, struct problem *problem);
/* This step of the operation was done here, in the same transaction. */
__attribute__((format(printf, 3, 4))) void registry_step_done(
	struct operation *op, const char *name, const char *fmt, ...);

int registry_new_uuid(char uuid[MODEL_UUID_SIZE], struct problem *problem);
/* The lowest free value of `range`, for `owner` ("port/green-a"). */
int registry_allocate(struct store *store, const struct site *site, enum alloc_kind kind,
	struct range range, const char *owner, uint32_t *value, struct problem *problem);
int registry_allocate_vlan(struct store *store, const struct site *site, const char *owner,
	uint32_t *vlan, struct problem *problem);
int registry_allocate_mac(
	struct store *store, struct ep_mac mac, const char *owner, struct problem *problem);
/* The address of the inside network with this host number. */
struct ep_prefix registry_inside_host(const struct site *site, uint32_t host);

/* ---- registry_spare.c ---------------------------------------------------------------------- */

/* Forgets what is void on a server that goes. 0 or -1. */
int registry_forget_voids(struct store *store, int64_t server_id, struct problem *problem);

/* ---- registry_place.c ---------------------------------------------------------------------- */

/* What is to be placed. */
struct placing {
	/* "port/green-a", "cvm/a", "standby/a", "spare/7": what its rules are depends on it. */
	const char *object;
	uint64_t need_kib;
	const char *wanted;  /* server; "": any */
	int64_t but[2];      /* servers where it must not go; 0: none */
	const char *but_why; /* of the first: "it is there now" */
	bool failed;      /* but[0] is where it failed: others with its risks aren't good either */
	bool but_standby; /* takes the place of the site's standby */
	bool with_hostd;  /* only where there is one */
	const int64_t *only; /* only on these servers; NULL: on any */
	size_t n_only;
};

/* All servers, and all that is or may be on them. Begin with zeroes; freed whatever is returned. */
struct registry_inventory {
	struct server *servers;
	struct port *ports;
	struct cvm *cvms;
	struct protection *protections;
	struct spare *spares;
	struct void_copy *voids;
	struct void_pvm *pvm_voids;
	size_t n_servers, n_ports, n_cvms, n_protections, n_spares, n_voids, n_pvm_voids;
};

int registry_inventory_read(struct store *store, struct registry_inventory *all); /* errno */
void registry_inventory_free(struct registry_inventory *all);

/* A placement's question, as the store has it now. */
struct registry_scene {
	struct server *servers;
	struct placement_server *choice; /* the site's servers, sorted by name */
	size_t n;
	struct placement_other *others;
	size_t n_others;
	struct placement_request request;
};

/* Errno. `placing` must live as long as the scene; free it with registry_scene_free(). */
int registry_scene_load(struct store *store, const struct site *site, const struct placing *placing,
	registry_reachable_fn reachable, void *ctx, struct registry_scene *scene);
void registry_scene_free(struct registry_scene *scene);

/*
 * Adds what speaks for and against the scene's server `at`, as texts, to lists; NULL: not wanted.
 * Rules that aren't met speak against it, too.
 */
void registry_scene_tell(const struct registry_scene *scene, size_t at, cJSON *for_it,
	cJSON *against, cJSON *not_met);

/* Chooses a server, and keeps what it was chosen by. 0, or -1 with `problem`. */
int registry_place(struct store *store, const struct site *site, const struct placing *placing,
	registry_reachable_fn reachable, void *ctx, int64_t *server_id,
	char server[MODEL_NAME_SIZE], struct problem *problem);

#endif
