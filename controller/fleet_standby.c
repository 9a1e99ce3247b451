/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * How a protector (fleet_protect.c) makes a standby: a server for it, a VM that waits there, and
 * epochs that follow each other.
 */

#include "controller/fleet_protect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "controller/answer.h"
#include "controller/explain.h"
#include "controller/fleet_internal.h"
#include "controller/hostd_client.h"
#include "controller/registry.h"

struct placing_view {
	struct protector *p;
	struct server *servers;
	size_t n;
};

/* Could a standby that takes over there be heard? */
static bool is_usable(void *ctx, int64_t server_id)
{
	const struct placing_view *view = ctx;
	if (!fleet_server_connected(view->p->fleet, server_id))
		return false;
	for (size_t i = 0; i < view->n; i++) {
		if (view->servers[i].id != server_id)
			continue;
		struct link_view link =
			protector_trunk_link(view->p->fleet_site, view->servers[i].trunk);
		return !link.known || link.up;
	}
	return false;
}

/* Chooses a server and stores it. */
static int place_standby(struct protector *p, struct problem *problem)
{
	struct placing_view view = {.p = p};
	if (store_server_list(p->fleet->store, &view.servers, &view.n) != 0)
		return problem_set(problem, 500, "internal", "the database can't be used");
	int rc = registry_standby_place(
		p->fleet->store, p->site, p->avoid_id, is_usable, &view, &p->row, problem);
	if (rc != 0 && p->avoid_id != 0) { /* better there than nowhere */
		*problem = (struct problem){0};
		rc = registry_standby_place(
			p->fleet->store, p->site, 0, is_usable, &view, &p->row, problem);
	}
	free(view.servers);
	if (rc == 0) {
		char object[48];
		snprintf(object, sizeof(object), "standby/%s", p->site);
		explain_warn(p->fleet->store, p->fleet, object);
	}
	p->avoid_id = 0;
	snprintf(p->placed_for, sizeof(p->placed_for), "%s", p->row.wanted_server);
	return rc;
}

/* Tells a hostd to forget what it knows of this VM on one side, whatever that is. */
static void forget(struct protector *p, const struct protector_side *side, const char *method,
	const char *role, int timeout_ms)
{
	struct jsonrpc_error err = {0};
	cJSON *params = protector_params(p);
	if (role != NULL)
		cJSON_AddStringToObject(params, "role", role);
	if (protector_ask(p, side, method, params, timeout_ms, NULL, &err) != 0 &&
		err.code != JSONRPC_NOT_FOUND)
		log_info("%s wasn't carried out object=%s why=\"%s\"", method, p->object,
			err.message);
}

/* From here on epochs follow each other. 0, or -1 with `err`. */
static int begin_epochs(struct protector *p, struct jsonrpc_error *err)
{
	cJSON *info = NULL, *prepared = NULL, *status = NULL;
	char path[300];
	/* The monitor of a VM that was once a standby itself has to be free. */
	while (p->finish_ms > fleet_now_ms() && fleet_pause(p->fleet, 50))
		;
	forget(p, &p->primary_side, "move.finish", "destination", PROTECT_HOSTD_MS);
	forget(p, &p->standby_side, "move.finish", "destination", PROTECT_HOSTD_MS);
	fleet_qmp_path(p->fleet, p->cvm.uuid, path);
	if (protector_ask(p, &p->standby_side, "hostd.info", NULL, PROTECT_HOSTD_MS, &info, err) !=
		0)
		return -1;
	cJSON *params = protector_params(p);
	cJSON_AddStringToObject(params, "qmp_path", path);
	cJSON_AddNumberToObject(params, "silence_ms", PROTECT_SILENCE_MS);
	int rc = protector_ask(
		p, &p->standby_side, "receive.prepare", params, PROTECT_HOSTD_MS, &prepared, err);
	if (rc == 0 && protector_set_state(p, PROTECTION_SYNCING) != 0)
		rc = jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "the database can't be used");
	if (rc == 0) {
		params = protector_params(p);
		cJSON_AddStringToObject(params, "qmp_path", path);
		cJSON_AddNumberToObject(params, "interval_ms", p->row.interval_ms);
		cJSON_AddNumberToObject(params, "timeout_ms", p->row.timeout_ms);
		cJSON *to = cJSON_AddObjectToObject(params, "to");
		cJSON_AddStringToObject(to, "address", answer_text(info, "listen"));
		cJSON_AddStringToObject(to, "ticket", answer_text(prepared, "ticket"));
		rc = protector_ask(p, &p->primary_side, "protect.start", params,
			3 * PROTECT_HOSTD_MS, &status, err);
	}
	if (rc == 0) {
		pthread_mutex_lock(&p->lock);
		protector_hear_primary(p, status);
		p->facts.standby = STANDBY_RECEIVING;
		p->facts.interrupted = false;
		pthread_mutex_unlock(&p->lock);
	}
	cJSON_Delete(info);
	cJSON_Delete(prepared);
	cJSON_Delete(status);
	return rc;
}

/* Is the primary there to be protected? */
static bool primary_runs(struct protector *p, char why[160])
{
	struct hv_vm vm;
	struct fleet_server *server = fleet_server_ref(p->fleet, p->cvm.server_id);
	int err = server == NULL ? ENOENT : hv_vm_get(server->hv, p->cvm.uuid, &vm, NULL);
	if (server != NULL)
		fleet_server_unref(p->fleet, server);
	if (err == EHOSTUNREACH)
		snprintf(why, 160, "server %s is not connected", p->cvm.server);
	else
		snprintf(why, 160, "the CVM doesn't run on server %s", p->cvm.server);
	return err == 0 && vm.state == HV_VM_RUNNING;
}

void protector_make_standby(struct protector *p)
{
	struct target target;
	struct problem problem = {0};
	struct jsonrpc_error err = {0};
	struct why why = {""};
	char reason[160];
	if (!primary_runs(p, reason)) {
		protector_attempt_failed(p, "%s", reason);
		return;
	}
	if (place_standby(p, &problem) != 0) {
		protector_attempt_failed(p, "no server for a standby: %.200s",
			problem.status == 503 ? "no other server of the site that is in service is "
						"connected and has a trunk with a carrier"
					      : problem.detail);
		return;
	}
	char name[MODEL_NAME_SIZE];
	int64_t server_id = p->row.standby_id;
	snprintf(name, sizeof(name), "%s", p->row.standby);
	if (protector_get_shown(p) != SHOWN_UNPROTECTED)
		protector_show(p, SHOWN_STARTING, "a standby is started on server %s", name);
	if (!fleet_reaper_await(p->fleet, p->row.site_id, p->row.standby_id))
		return;
	if (fleet_target_load(p->fleet, p->object, &target) != 0)
		return;
	if (protector_connect(p, &why) != 0) {
		protector_drop_standby(p);
		protector_attempt_failed(p, "%.200s", why.text);
		return;
	}
	if (fleet_start_copy(p->fleet, p->object, &target, p->primary_side.server,
		    p->standby_side.server, &problem) != 0) {
		protector_drop_standby(p);
		p->avoid_id = server_id;
		protector_attempt_failed(
			p, "no standby on server %s: %.200s", name, problem.detail);
		return;
	}
	protector_set_stage(p, FLEET_PROTECT_STARTED);
	if (begin_epochs(p, &err) != 0) {
		protector_end_standby(p);
		p->avoid_id = server_id;
		protector_attempt_failed(
			p, "protection by server %s can't begin: %.200s", name, err.message);
		return;
	}
	p->copy_since_ms = fleet_now_ms();
	p->copy_bytes = -1;
	protector_set_stage(p, FLEET_PROTECT_COPYING);
	protector_show(p, SHOWN_SYNCING, "memory is copied to server %s", name);
}
