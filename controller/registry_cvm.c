/* SPDX-License-Identifier: GPL-2.0-or-later */

/* CVMs, and their protection. */

#include "controller/registry_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CVM_HOST 1 /* of the inside network */

int registry_cvm_create(struct store *store, const char *name, struct operation *op,
	registry_reachable_fn reachable, void *ctx, struct problem *problem)
{
	struct site site;
	struct cvm cvm = {.state = PORT_CREATING};
	char owner[48];
	snprintf(owner, sizeof(owner), "cvm/%s", name);
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_referred_site(store, name, &site, problem) != 0)
		goto out;
	struct cvm present;
	if (store_cvm_get(store, name, &present) == 0) {
		problem_set(problem, 409, "exists", "site %s has its CVM already", name);
		goto out;
	}
	cvm.site_id = site.id;
	cvm.inside = registry_inside_host(&site, CVM_HOST);
	if (registry_new_uuid(cvm.uuid, problem) != 0 ||
		registry_allocate_vlan(store, &site, owner, &cvm.vlan_core, problem) != 0 ||
		registry_allocate_vlan(store, &site, owner, &cvm.vlan_inside, problem) != 0 ||
		registry_allocate_mac(store, model_pe_mac(site.id), owner, problem) != 0 ||
		registry_allocate_mac(store, model_inside_mac(site.id), owner, problem) != 0)
		goto out;
	const struct placing placing = {
		.object = owner, .need_kib = site.cvm_memory_kib, .wanted = ""};
	if (registry_place(store, &site, &placing, reachable, ctx, &cvm.server_id, cvm.server,
		    problem) != 0)
		goto out;
	if (store_cvm_insert(store, &cvm) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	registry_step_done(op, "allocate", "VLANs %u and %u", cvm.vlan_core, cvm.vlan_inside);
	registry_step_done(op, "place", "server %s", cvm.server);
	registry_add_operation(store, op, problem);
out:
	return registry_finish(store, problem);
}

int registry_cvm_delete(
	struct store *store, const char *name, struct operation *op, struct problem *problem)
{
	struct cvm cvm;
	struct port *ports = NULL;
	size_t n = 0;
	char object[48];
	snprintf(object, sizeof(object), "cvm/%.30s", name);
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_cvm(store, name, &cvm, problem) != 0 ||
		registry_check_idle(store, object, problem) != 0)
		goto out;
	if (store_port_list(store, &ports, &n) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		if (ports[i].site_id == cvm.site_id)
			problem_set(problem, 409, "in-use",
				"the CVM of site %s serves port %s: delete the site's ports first",
				name, ports[i].name);
	}
	cvm.state = PORT_DELETING;
	if (problem->status == 0 && store_cvm_update(store, &cvm) != 0)
		registry_database_failed(store, problem);
	if (problem->status == 0)
		registry_add_operation(store, op, problem);
out:
	free(ports);
	return registry_finish(store, problem);
}

/* While a standby takes over nobody can say where the CVM is. */
static int check_not_failing_over(struct store *store, const char *name, struct problem *problem)
{
	struct protection protection;
	int err = store_protection_get(store, name, &protection);
	if (err == ENOENT || (err == 0 && protection.state != PROTECTION_TAKEOVER))
		return 0;
	if (err != 0)
		return registry_database_failed(store, problem);
	return problem_set(problem, 409, "in-use",
		"the standby of the CVM of site %s is just taking over: wait until \"edgeplex cvm "
		"show %s\" says protected",
		name, name);
}

int registry_cvm_move(struct store *store, const char *name, const char *wanted,
	struct operation *op, registry_reachable_fn reachable, void *ctx, struct problem *problem)
{
	struct site site;
	struct cvm cvm;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_cvm(store, name, &cvm, problem) != 0 ||
		registry_check_idle(store, op->object, problem) != 0 ||
		registry_check_movable(op->object, cvm.state, cvm.started, &cvm.move, cvm.server,
			wanted, problem) != 0 ||
		registry_referred_site(store, name, &site, problem) != 0 ||
		check_not_failing_over(store, name, problem) != 0)
		goto out;
	/* Its standby, which the move ends first, may be just there. */
	const struct placing placing = {.object = op->object,
		.need_kib = site.cvm_memory_kib,
		.wanted = wanted,
		.but = {cvm.server_id},
		.but_why = "it is there now",
		.but_standby = true};
	if (registry_place(store, &site, &placing, reachable, ctx, &cvm.move.server_id,
		    cvm.move.server, problem) != 0)
		goto out;
	cvm.move.state = MOVE_COPYING;
	if (store_cvm_update(store, &cvm) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	registry_step_done(op, "place", "from server %s to server %s", cvm.server, cvm.move.server);
	registry_add_operation(store, op, problem);
out:
	return registry_finish(store, problem);
}

int registry_cvm_remove(struct store *store, const struct cvm *cvm)
{
	char owner[48];
	snprintf(owner, sizeof(owner), "cvm/%s", cvm->site);
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_alloc_release(store, owner);
	if (err == 0)
		err = store_placement_forget(store, owner);
	snprintf(owner, sizeof(owner), "standby/%s", cvm->site);
	if (err == 0)
		err = store_placement_forget(store, owner);
	if (err == 0)
		err = store_cvm_delete(store, cvm->site_id);
	if (err != 0 && err != ENOENT) {
		store_rollback(store);
		return err;
	}
	return store_commit(store);
}

/* ---- protection of CVMs ------------------------------------------------------------------- */

/* The CVM and its protection, which may be idle for an operation. */
static int find_protection(struct store *store, const char *name, const struct operation *op,
	struct cvm *cvm, struct protection *protection, struct problem *problem)
{
	if (registry_find_cvm(store, name, cvm, problem) != 0 ||
		registry_check_idle(store, op->object, problem) != 0)
		return -1;
	int err = store_protection_get(store, name, protection);
	if (err == ENOENT)
		return problem_set(problem, 409, "not-protected",
			"the CVM of site %s isn't protected: \"edgeplex cvm protect %s\"", name,
			name);
	return err == 0 ? 0 : registry_database_failed(store, problem);
}

static void take_request(struct protection *protection, const struct protection_request *request)
{
	if (request->has_standby)
		snprintf(protection->wanted_server, sizeof(protection->wanted_server), "%s",
			request->standby);
	if (request->interval_ms != 0)
		protection->interval_ms = request->interval_ms;
	if (request->timeout_ms != 0)
		protection->timeout_ms = request->timeout_ms;
}

/* Could the CVM be protected, and by a standby on the server `wanted` ("": any)? */
static int check_protectable(struct store *store, const struct cvm *cvm, const char *wanted,
	registry_reachable_fn reachable, void *ctx, struct problem *problem)
{
	struct site site;
	struct server server;
	int64_t id;
	char chosen[MODEL_NAME_SIZE], object[48];
	if (registry_referred_site(store, cvm->site, &site, problem) != 0 ||
		registry_find_server(store, cvm->server, &server, problem) != 0)
		return -1;
	if (server.hostd[0] == '\0')
		return problem_set(problem, 409, "not-protectable",
			"server %s, where the CVM of site %s is, has no edgeplex-hostd: start one "
			"there, then \"edgeplex server set %s --hostd unix:PATH\", and restart the "
			"CVM",
			server.name, cvm->site, server.name);
	if (strcmp(wanted, cvm->server) == 0)
		return problem_field(problem, "/standby",
			"name another server of the site, or leave it out",
			"the CVM itself is on server %s", wanted);
	int err = wanted[0] == '\0' ? 0 : store_server_get(store, wanted, &server);
	if (err == ENOENT || (err == 0 && server.site_id != site.id))
		return problem_field(problem, "/standby",
			"name another server of this site, or leave it out",
			"site %s has no server %s", cvm->site, wanted);
	if (err != 0)
		return registry_database_failed(store, problem);
	if (server.hostd[0] == '\0')
		return problem_set(problem, 409, "not-protectable",
			"server %s has no edgeplex-hostd: start one there, then \"edgeplex server "
			"set %s --hostd unix:PATH\"",
			wanted, wanted);
	snprintf(object, sizeof(object), "standby/%s", cvm->site);
	const struct placing placing = {.object = object,
		.need_kib = site.cvm_memory_kib,
		.wanted = wanted,
		.but = {cvm->server_id},
		.but_why = "the CVM itself is there",
		.but_standby = true,
		.with_hostd = true};
	return registry_place(store, &site, &placing, reachable, ctx, &id, chosen, problem);
}

int registry_cvm_protect(struct store *store, const char *name,
	const struct protection_request *request, struct operation *op,
	registry_reachable_fn reachable, void *ctx, struct problem *problem)
{
	struct cvm cvm;
	struct protection protection = {
		.interval_ms = MODEL_INTERVAL_MS, .timeout_ms = MODEL_TIMEOUT_MS};
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_cvm(store, name, &cvm, problem) != 0 ||
		registry_check_idle(store, op->object, problem) != 0 ||
		registry_check_movable(op->object, cvm.state, cvm.started, &cvm.move, cvm.server,
			"", problem) != 0 ||
		check_not_failing_over(store, name, problem) != 0)
		goto out;
	int err = store_protection_get(store, name, &protection);
	if (err != 0 && err != ENOENT) {
		registry_database_failed(store, problem);
		goto out;
	}
	protection.site_id = cvm.site_id;
	protection.ending = false;
	take_request(&protection, request);
	/* A standby that is there and may stay needs no place. */
	bool stays = protection.standby_id != 0 &&
		     (protection.wanted_server[0] == '\0' ||
			     strcmp(protection.wanted_server, protection.standby) == 0);
	/* What was wanted earlier may have become the CVM's own server. */
	const char *wanted = request->has_standby ? request->standby : "";
	if (!stays && check_protectable(store, &cvm, wanted, reachable, ctx, problem) != 0)
		goto out;
	if (store_protection_put(store, &protection) != 0)
		registry_database_failed(store, problem);
	else
		registry_add_operation(store, op, problem);
out:
	return registry_finish(store, problem);
}

int registry_cvm_unprotect(
	struct store *store, const char *name, struct operation *op, struct problem *problem)
{
	struct cvm cvm;
	struct protection protection;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (find_protection(store, name, op, &cvm, &protection, problem) == 0) {
		protection.ending = true;
		if (store_protection_put(store, &protection) != 0)
			registry_database_failed(store, problem);
		else
			registry_add_operation(store, op, problem);
	}
	return registry_finish(store, problem);
}

int registry_cvm_failover(
	struct store *store, const char *name, struct operation *op, struct problem *problem)
{
	struct cvm cvm;
	struct protection protection;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (find_protection(store, name, op, &cvm, &protection, problem) == 0) {
		if (protection.state != PROTECTION_WHOLE || protection.ending)
			problem_set(problem, 409, "not-protected",
				"the CVM of site %s has no standby that could take over now: wait "
				"until \"edgeplex cvm show %s\" says protected",
				name, name);
		else
			registry_add_operation(store, op, problem);
	}
	return registry_finish(store, problem);
}

int registry_standby_place(struct store *store, const char *name, int64_t avoid,
	registry_reachable_fn reachable, void *ctx, struct protection *protection,
	struct problem *problem)
{
	struct site site;
	struct cvm cvm;
	struct problem unwanted = {0};
	char object[48];
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_cvm(store, name, &cvm, problem) != 0 ||
		registry_find_site(store, name, &site, problem) != 0)
		goto out;
	if (store_protection_get(store, name, protection) != 0 || protection->ending ||
		protection->state != PROTECTION_NONE || cvm.move.state != MOVE_NONE ||
		cvm.state != PORT_ACTIVE) {
		problem_set(problem, 409, "not-ready", "something else is done to the CVM");
		goto out;
	}
	snprintf(object, sizeof(object), "standby/%s", name);
	struct placing placing = {.object = object,
		.need_kib = site.cvm_memory_kib,
		.wanted = protection->wanted_server,
		.but = {cvm.server_id, avoid},
		.but_why = "the CVM itself is there",
		.with_hostd = true};
	int rc = -1;
	if (placing.wanted[0] != '\0')
		rc = registry_place(store, &site, &placing, reachable, ctx, &protection->standby_id,
			protection->standby, &unwanted);
	placing.wanted = "";
	if (rc != 0)
		rc = registry_place(store, &site, &placing, reachable, ctx, &protection->standby_id,
			protection->standby, problem);
	protection->state = PROTECTION_STARTING;
	if (rc == 0 && (store_protection_put(store, protection) != 0 ||
			       store_void_remove(store, cvm.site_id, protection->standby_id) != 0))
		registry_database_failed(store, problem);
out:
	return registry_finish(store, problem);
}
