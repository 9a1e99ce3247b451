/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Spares, and what becomes of a PVM whose VM is lost.
 *
 * The VM of a port is known by its UUID, its server and its VLANs. A take-over exchanges all of
 * them in one transaction, so that after it the edge switch's rules have nothing left to do with
 * the VM that was: it is fenced by the rules of its successor.
 */

#include "controller/registry_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static void object_of(int64_t spare_id, char object[48])
{
	snprintf(object, 48, "spare/%lld", (long long)spare_id);
}

static void void_owner(const char *uuid, char owner[48])
{
	snprintf(owner, 48, "void/%s", uuid);
}

static int64_t realtime_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- spares ------------------------------------------------------------------------------- */

int registry_spare_create(struct store *store, const char *name, registry_reachable_fn reachable,
	void *ctx, struct spare *spare, struct problem *problem)
{
	struct site site;
	char owner[48];
	*spare = (struct spare){.id = 0};
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_site(store, name, &site, problem) != 0)
		goto out;
	spare->site_id = site.id;
	spare->memory_kib = site.pvm_memory_kib;
	spare->created_ms = realtime_ms();
	snprintf(spare->site, sizeof(spare->site), "%s", site.name);
	const struct placing placing = {
		.object = "spare/new", .need_kib = spare->memory_kib, .wanted = ""};
	if (registry_place(store, &site, &placing, reachable, ctx, &spare->server_id, spare->server,
		    problem) != 0 ||
		registry_new_uuid(spare->uuid, problem) != 0)
		goto out;
	void_owner(spare->uuid, owner); /* until its id is known */
	if (registry_allocate_vlan(store, &site, owner, &spare->vlan_cust, problem) != 0 ||
		registry_allocate_vlan(store, &site, owner, &spare->vlan_core, problem) != 0)
		goto out;
	int err = store_spare_insert(store, spare);
	object_of(spare->id, owner);
	if (err == 0)
		err = store_alloc_give(store, site.id, ALLOC_VLAN, spare->vlan_cust, owner);
	if (err == 0)
		err = store_alloc_give(store, site.id, ALLOC_VLAN, spare->vlan_core, owner);
	if (err == 0)
		err = store_placement_rename(store, placing.object, owner);
	if (err != 0)
		registry_database_failed(store, problem);
out:
	return registry_finish(store, problem);
}

int64_t registry_spare_choose(struct store *store, const char *name, int64_t failed,
	const int64_t *servers, size_t n, registry_reachable_fn reachable, void *ctx)
{
	struct port port;
	struct site site;
	struct problem problem = {0};
	int64_t chosen = 0;
	char server[MODEL_NAME_SIZE], object[48];
	snprintf(object, sizeof(object), "port/%.30s", name);
	/* Its memory is used already: by the spare. */
	const struct placing placing = {.object = object,
		.wanted = "",
		.but = {failed},
		.failed = failed != 0,
		.but_why = "",
		.only = servers,
		.n_only = n};
	if (registry_begin(store, &problem) != 0)
		return 0;
	if (registry_find_port(store, name, &port, &problem) == 0 &&
		registry_find_site(store, port.site, &site, &problem) == 0)
		registry_place(store, &site, &placing, reachable, ctx, &chosen, server, &problem);
	return registry_finish(store, &problem) == 0 ? chosen : 0;
}

bool registry_spare_is_crowded(
	struct store *store, const struct spare *spare, registry_reachable_fn reachable, void *ctx)
{
	struct site site;
	struct registry_scene scene;
	char object[48];
	bool crowded = false;
	object_of(spare->id, object);
	const struct placing placing = {
		.object = object, .need_kib = spare->memory_kib, .wanted = "", .but_why = ""};
	if (store_site_get(store, spare->site, &site) != 0 ||
		registry_scene_load(store, &site, &placing, reachable, ctx, &scene) != 0)
		return false;
	struct placement_verdict *verdicts = calloc(scene.n + 1, sizeof(*verdicts));
	if (verdicts != NULL) {
		unsigned here = 0;
		placement_judge(scene.choice, scene.n, &scene.request, verdicts);
		int best = placement_best(verdicts, scene.n);
		for (size_t i = 0; i < scene.n; i++) {
			if (scene.choice[i].id == spare->server_id)
				here = verdicts[i].same[PLACEMENT_POOL];
		}
		crowded = best >= 0 && verdicts[best].same[PLACEMENT_POOL] < here;
	}
	free(verdicts);
	registry_scene_free(&scene);
	return crowded;
}

/* The VM is void; the VLANs that it had are nobody's. */
static int make_void(struct store *store, const char *object, const char *uuid, int64_t server_id,
	int64_t site_id, const uint32_t vlans[2])
{
	char owner[48];
	void_owner(uuid, owner);
	int err = store_void_pvm_add(store, uuid, server_id, object);
	for (size_t i = 0; i < 2 && err == 0; i++)
		err = store_alloc_give(store, site_id, ALLOC_VLAN, vlans[i], owner);
	return err;
}

int registry_spare_discard(struct store *store, int64_t id, struct problem *problem)
{
	struct spare spare;
	char object[48];
	object_of(id, object);
	if (registry_begin(store, problem) != 0)
		return -1;
	int err = store_spare_get(store, id, &spare);
	if (err == 0) {
		const uint32_t vlans[2] = {spare.vlan_cust, spare.vlan_core};
		err = make_void(store, object, spare.uuid, spare.server_id, spare.site_id, vlans);
	}
	if (err == 0)
		err = store_spare_delete(store, id);
	if (err == 0)
		err = store_placement_forget(store, object);
	if (err == ENOENT)
		problem_set(problem, 404, "not-found", "there is no spare %lld (any more)",
			(long long)id);
	else if (err != 0)
		registry_database_failed(store, problem);
	return registry_finish(store, problem);
}

int registry_void_pvm_end(struct store *store, const char *uuid, int64_t server_id)
{
	struct void_pvm *voids = NULL;
	size_t n = 0;
	char owner[48];
	bool others = false;
	void_owner(uuid, owner);
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_void_pvm_remove(store, uuid, server_id);
	if (err == 0)
		err = store_void_pvm_list(store, &voids, &n);
	for (size_t i = 0; i < n; i++)
		others |= strcmp(voids[i].uuid, uuid) == 0;
	free(voids);
	if (err == 0 && !others)
		err = store_alloc_release(store, owner);
	if (err == 0)
		return store_commit(store);
	store_rollback(store);
	return err;
}

int registry_forget_voids(struct store *store, int64_t server_id, struct problem *problem)
{
	struct void_pvm *voids = NULL;
	size_t n = 0;
	int err = store_void_pvm_list(store, &voids, &n);
	for (size_t i = 0; i < n && err == 0; i++) {
		if (voids[i].server_id == server_id)
			err = registry_void_pvm_end(store, voids[i].uuid, server_id);
	}
	free(voids);
	return err == 0 ? 0 : registry_database_failed(store, problem);
}

/* ---- PVMs that are lost ------------------------------------------------------------------- */

static int changed_meanwhile(struct problem *problem, const char *what)
{
	return problem_set(problem, 409, "not-ready", "something else was done to %s", what);
}

/* May something new stand in for it, or does an operation see to it? Sets `object`. */
static int find_lost(struct store *store, const struct lost_pvm *lost, struct port *port,
	char object[48], struct problem *problem)
{
	struct operation op;
	int64_t id;
	snprintf(object, 48, "port/%.30s", lost->port);
	if (registry_find_port(store, lost->port, port, problem) != 0)
		return -1;
	if (port->state != PORT_ACTIVE || !port->started || strcmp(port->uuid, lost->uuid) != 0 ||
		port->server_id != lost->server_id || port->move.state == MOVE_COPYING ||
		port->move.state == MOVE_SWITCHING)
		return changed_meanwhile(problem, object);
	/* One that waits for the port's service may go on to do so. */
	int err = store_operation_of(store, object, &id);
	if (err == 0)
		err = store_operation_get(store, id, &op);
	if (err == 0 && strcmp(op.verb, "create") != 0 && strcmp(op.verb, "change") != 0)
		return changed_meanwhile(problem, object);
	return err == 0 || err == ENOENT ? 0 : registry_database_failed(store, problem);
}

/* All that the port's VM was becomes void. */
static int let_go(struct store *store, const char *object, struct port *port)
{
	const uint32_t vlans[2] = {port->vlan_cust, port->vlan_core};
	int err = make_void(store, object, port->uuid, port->server_id, port->site_id, vlans);
	if (err == 0 && port->move.state == MOVE_LEAVING)
		err = store_void_pvm_add(store, port->uuid, port->move.server_id, object);
	port->move = (struct second_copy){.state = MOVE_NONE};
	return err;
}

static int keep(struct store *store, const struct port *port, const char *what, const char *detail)
{
	int err = store_port_update(store, port);
	return err != 0 ? err : store_history_add(store, port->id, what, port->server, detail);
}

int registry_port_adopt(struct store *store, const struct lost_pvm *lost, int64_t spare_id,
	struct port *port, struct problem *problem)
{
	struct spare spare;
	char object[48], spare_object[48], name[MODEL_SPARE_NAME_SIZE], detail[160];
	model_spare_name(spare_id, name);
	if (registry_begin(store, problem) != 0)
		return -1;
	if (find_lost(store, lost, port, object, problem) != 0)
		goto out;
	int err = store_spare_get(store, spare_id, &spare);
	if (err == ENOENT || (err == 0 && spare.site_id != port->site_id)) {
		changed_meanwhile(problem, name);
		goto out;
	}
	snprintf(detail, sizeof(detail), "by %s; on server %s %s", name, port->server, lost->why);
	if (err == 0)
		err = let_go(store, object, port);
	if (err == 0)
		err = store_spare_delete(store, spare_id);
	object_of(spare_id, spare_object);
	if (err == 0)
		err = store_placement_forget(store, spare_object);
	snprintf(port->uuid, sizeof(port->uuid), "%s", spare.uuid);
	port->server_id = spare.server_id;
	snprintf(port->server, sizeof(port->server), "%s", spare.server);
	port->vlan_cust = spare.vlan_cust;
	port->vlan_core = spare.vlan_core;
	if (err == 0)
		err = store_alloc_give(store, port->site_id, ALLOC_VLAN, port->vlan_cust, object);
	if (err == 0)
		err = store_alloc_give(store, port->site_id, ALLOC_VLAN, port->vlan_core, object);
	if (err == 0)
		err = store_placement_put(store, object, port->server_id,
			"{\"reasons\":[\"a spare that took over was here\"],\"not_met\":[]}");
	if (err == 0)
		err = keep(store, port, "taken over", detail);
	if (err != 0)
		registry_database_failed(store, problem);
out:
	return registry_finish(store, problem);
}

int registry_port_reseat(struct store *store, const struct lost_pvm *lost, int64_t but,
	registry_reachable_fn reachable, void *ctx, struct port *port, struct problem *problem)
{
	struct site site;
	char object[48], server[MODEL_NAME_SIZE], detail[160];
	int64_t server_id;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (find_lost(store, lost, port, object, problem) != 0 ||
		registry_find_site(store, port->site, &site, problem) != 0)
		goto out;
	const struct placing placing = {.object = object,
		.need_kib = site.pvm_memory_kib,
		.wanted = "",
		.but = {lost->server_id, but},
		.failed = true};
	if (registry_place(store, &site, &placing, reachable, ctx, &server_id, server, problem) !=
		0)
		goto out;
	snprintf(detail, sizeof(detail), "on server %s %s", port->server, lost->why);
	int err = let_go(store, object, port);
	if (err == 0 && (registry_new_uuid(port->uuid, problem) != 0 ||
				registry_allocate_vlan(
					store, &site, object, &port->vlan_cust, problem) != 0 ||
				registry_allocate_vlan(
					store, &site, object, &port->vlan_core, problem) != 0))
		goto out;
	port->server_id = server_id;
	snprintf(port->server, sizeof(port->server), "%s", server);
	if (err == 0)
		err = keep(store, port, "placed anew", detail);
	if (err != 0)
		registry_database_failed(store, problem);
out:
	return registry_finish(store, problem);
}

/* ---- CVMs that are lost ------------------------------------------------------------------- */

/* A server of the site where a void copy of its CVM still is; 0: none. */
static int find_void(struct store *store, int64_t site_id, int64_t *server_id)
{
	struct void_copy *voids = NULL;
	size_t n = 0;
	*server_id = 0;
	int err = store_void_list(store, &voids, &n);
	for (size_t i = 0; i < n; i++) {
		if (voids[i].site_id == site_id)
			*server_id = voids[i].server_id;
	}
	free(voids);
	return err;
}

int registry_cvm_reseat(struct store *store, const char *name, int64_t server_id,
	registry_reachable_fn reachable, void *ctx, struct cvm *cvm, struct problem *problem)
{
	struct site site;
	struct protection protection;
	char object[48];
	int64_t id;
	struct placing placing = {
		.object = object, .wanted = "", .but = {server_id}, .failed = true};
	snprintf(object, sizeof(object), "cvm/%.30s", name);
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_cvm(store, name, cvm, problem) != 0 ||
		registry_find_site(store, name, &site, problem) != 0)
		goto out;
	if (cvm->state != PORT_ACTIVE || !cvm->started || cvm->server_id != server_id ||
		cvm->move.state != MOVE_NONE ||
		store_protection_get(store, name, &protection) != ENOENT ||
		store_operation_of(store, object, &id) != ENOENT) {
		changed_meanwhile(problem, object);
		goto out;
	}
	if (find_void(store, site.id, &placing.but[1]) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	placing.need_kib = site.cvm_memory_kib;
	if (registry_place(store, &site, &placing, reachable, ctx, &cvm->server_id, cvm->server,
		    problem) != 0)
		goto out;
	if (store_cvm_update(store, cvm) != 0 || store_void_add(store, site.id, server_id) != 0)
		registry_database_failed(store, problem);
out:
	return registry_finish(store, problem);
}
