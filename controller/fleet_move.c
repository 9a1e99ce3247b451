/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Moving a PVM to another server, make before break (DESIGN 5). The order of things, and who runs
 * when somebody dies, is in hostd/source.h and docs/protocols.md; here both are driven, together
 * with the phases of the edge switch (fabric_rules.h).
 *
 * What is stored is coarse (enum move_state), for a commit to disk takes longer than the source may
 * stand still. Whoever takes up a move in MOVE_SWITCHING asks servers and hostds how far it went.
 */

#include "controller/fleet_move.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "controller/answer.h"
#include "controller/hostd_client.h"

#define COPY_POLL_MS 100
#define COPY_STALLED_MS 60000 /* without progress */

/* ---- hostds ---------------------------------------------------------------------------------- */

cJSON *move_params(const struct fleet_move *move)
{
	cJSON *params = cJSON_CreateObject();
	cJSON_AddStringToObject(params, "uuid", move->uuid);
	return params;
}

int move_ask(struct fleet_move *move, struct hostd_client *client, const char *method,
	cJSON *params, int timeout_ms, cJSON **result, struct jsonrpc_error *err)
{
	if (params == NULL)
		params = move_params(move);
	int rc = hostd_client_call(client, method, params, timeout_ms, result, err);
	cJSON_Delete(params);
	return rc;
}

/* move.abort or move.finish, when it doesn't matter what comes of it. */
static void tell(const char *object, const char *uuid, struct hostd_client *client,
	const char *method, const char *role)
{
	struct jsonrpc_error err = {0};
	cJSON *params = cJSON_CreateObject();
	cJSON_AddStringToObject(params, "uuid", uuid);
	cJSON_AddStringToObject(params, "role", role);
	if (hostd_client_call(client, method, params, HOSTD_MS, NULL, &err) != 0)
		log_info("%s wasn't carried out object=%s why=\"%s\"", method, object, err.message);
	cJSON_Delete(params);
}

void move_abort_copy(struct fleet_move *move)
{
	/* The one that may stand in the way comes first. */
	if (move->activated)
		tell(move->object, move->uuid, move->at_to, "move.abort", "destination");
	tell(move->object, move->uuid, move->at_from, "move.abort", "source");
	if (!move->activated)
		tell(move->object, move->uuid, move->at_to, "move.abort", "destination");
}

static int hostd_problem(const struct fleet_server *server, const char *what,
	const struct jsonrpc_error *err, struct problem *problem)
{
	if (err->code == JSONRPC_UNAVAILABLE)
		return problem_set(problem, 503, "hostd-unreachable",
			"edgeplex-hostd of server %s can't %s: %s; check that it runs",
			server->name, what, err->message);
	return problem_set(problem, 500, "copy-failed", "edgeplex-hostd of server %s can't %s: %s",
		server->name, what, err->message);
}

void move_note_figures(struct fleet_move *move, const cJSON *status)
{
	const cJSON *freeze = cJSON_GetObjectItemCaseSensitive(status, "freeze_us");
	move->bytes = answer_number(status, "bytes");
	move->passes = answer_number(status, "passes");
	move->stopped_pages = answer_number(status, "last_pages");
	move->paused_us = answer_number(freeze, "paused");
	move->source_died = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(status, "vm_ended"));
	snprintf(move->reason, sizeof(move->reason), "%s", answer_text(status, "reason"));
}

void move_side_state(
	struct fleet_move *move, struct hostd_client *client, const char *role, char state[16])
{
	struct jsonrpc_error err = {0};
	cJSON *result = NULL;
	const cJSON *copy;
	state[0] = '\0';
	if (move_ask(move, client, "move.status", NULL, HOSTD_MS, &result, &err) != 0)
		return;
	cJSON_ArrayForEach (copy, cJSON_GetObjectItemCaseSensitive(result, "copies")) {
		if (strcmp(answer_text(copy, "role"), role) != 0)
			continue;
		snprintf(state, 16, "%.15s", answer_text(copy, "state"));
		if (strcmp(role, "source") == 0)
			move_note_figures(move, copy);
		else
			snprintf(move->reason, sizeof(move->reason), "%s",
				answer_text(copy, "reason"));
	}
	cJSON_Delete(result);
}

/* ---- the list of moves ----------------------------------------------------------------------- */

static void move_free(struct fleet *fleet, struct fleet_move *move)
{
	guest_close(move->to_guest);
	hostd_client_close(move->at_from);
	hostd_client_close(move->at_to);
	if (move->site != NULL)
		fleet_site_unref(fleet, move->site);
	if (move->from != NULL)
		fleet_server_unref(fleet, move->from);
	if (move->to != NULL)
		fleet_server_unref(fleet, move->to);
	free(move);
}

void move_end(struct fleet *fleet, struct fleet_move *move)
{
	pthread_mutex_lock(&fleet->lock);
	for (struct fleet_move **at = &fleet->moves; *at != NULL; at = &(*at)->next) {
		if (*at == move) {
			*at = move->next;
			fleet->moves_serial++;
			break;
		}
	}
	pthread_mutex_unlock(&fleet->lock);
	move_free(fleet, move);
}

void fleet_moves_free(struct fleet *fleet)
{
	while (fleet->moves != NULL)
		move_end(fleet, fleet->moves);
}

static struct hostd_client *open_hostd(
	struct fleet *fleet, const struct fleet_server *server, struct problem *problem)
{
	struct why why = {""};
	struct server stored;
	if (fleet_server_load(fleet, server->id, &stored) != 0) {
		problem_set(problem, 503, "server-unreachable", "server %s isn't known any more",
			server->name);
		return NULL;
	}
	if (stored.hostd[0] == '\0') {
		problem_set(problem, 409, "not-movable",
			"server %s has no edgeplex-hostd: start one there, then \"edgeplex server "
			"set %s --hostd unix:PATH\"",
			server->name, server->name);
		return NULL;
	}
	struct hostd_client *client = hostd_client_open(stored.hostd, NULL, NULL, &why);
	if (client == NULL)
		problem_set(problem, 500, "internal", "%s", why.text);
	return client;
}

static struct fleet_move *move_new(struct fleet *fleet, const char *object,
	const struct target *target, struct problem *problem)
{
	struct fleet_move *move = calloc(1, sizeof(*move));
	if (move == NULL) {
		problem_set(problem, 500, "internal", "no memory");
		return NULL;
	}
	snprintf(move->object, sizeof(move->object), "%s", object);
	snprintf(move->uuid, sizeof(move->uuid), "%s", target->uuid);
	move->is_cvm = target->is_cvm;
	move->port_id = target->port.id;
	move->begun_ms = fleet_now_ms();
	move->phase =
		target->move.state == MOVE_SWITCHING ? FABRIC_CONTROL_MOVED : FABRIC_AT_SOURCE;
	move->site = fleet_site_ref(fleet, target->site.id);
	move->from = fleet_server_ref(fleet, target->server_id);
	move->to = fleet_server_ref(fleet, target->move.server_id);
	if (move->site == NULL || move->from == NULL || move->to == NULL)
		problem_set(problem, 503, "server-unreachable",
			"a server of %s isn't known: check the event list", object);
	else if ((move->at_from = open_hostd(fleet, move->from, problem)) != NULL)
		move->at_to = open_hostd(fleet, move->to, problem);
	if (problem->status == 0)
		return move;
	move_free(fleet, move);
	return NULL;
}

struct fleet_move *move_get(
	struct fleet *fleet, const char *object, struct target *target, struct problem *problem)
{
	if (fleet_target_load(fleet, object, target) != 0) {
		fleet_gone(problem, object);
		return NULL;
	}
	pthread_mutex_lock(&fleet->lock);
	struct fleet_move *move = fleet->moves;
	while (move != NULL && strcmp(move->object, object) != 0)
		move = move->next;
	pthread_mutex_unlock(&fleet->lock);
	if (move != NULL)
		return move;
	move = move_new(fleet, object, target, problem);
	if (move == NULL)
		return NULL;
	pthread_mutex_lock(&fleet->lock);
	move->next = fleet->moves;
	fleet->moves = move;
	fleet->moves_serial++;
	pthread_mutex_unlock(&fleet->lock);
	return move;
}

int move_row_load(struct fleet *fleet, const char *object, struct move_row *row)
{
	const char *name = strchr(object, '/') + 1;
	row->is_cvm = strncmp(object, "cvm/", 4) == 0;
	row->server_id = row->is_cvm ? &row->cvm.server_id : &row->port.server_id;
	row->move = row->is_cvm ? &row->cvm.move : &row->port.move;
	return row->is_cvm ? store_cvm_get(fleet->store, name, &row->cvm)
			   : store_port_get(fleet->store, name, &row->port);
}

int move_row_save(struct fleet *fleet, const struct move_row *row)
{
	return row->is_cvm ? store_cvm_update(fleet->store, &row->cvm)
			   : store_port_update(fleet->store, &row->port);
}

int move_store_state(struct fleet *fleet, const char *object, enum move_state state)
{
	struct move_row row;
	int err = store_begin(fleet->store);
	if (err != 0)
		return err;
	err = move_row_load(fleet, object, &row);
	if (err == 0) {
		row.move->state = state;
		if (state == MOVE_NONE)
			row.move->server_id = 0;
		err = move_row_save(fleet, &row);
	}
	if (err == 0)
		return store_commit(fleet->store);
	store_rollback(fleet->store);
	return err;
}

int move_database_failed(struct problem *problem)
{
	return problem_set(problem, 500, "internal",
		"the database can't be used: check disk space and permissions of the state "
		"directory");
}

/* ---- the copy -------------------------------------------------------------------------------- */

static void qmp_path(const struct fleet *fleet, const struct fleet_move *move, char path[300])
{
	fleet_qmp_path(fleet, move->uuid, path);
}

int fleet_start_copy(struct fleet *fleet, const char *object, const struct target *target,
	struct fleet_server *from, struct fleet_server *to, struct problem *problem)
{
	struct why why = {""};
	struct hv_vm source = {.memory_kib = 0};
	struct target same = *target;
	int err = hv_wait_connected(to->hv, FLEET_SERVER_CONNECT_MS, &why);
	/* The site's setting may have been changed since the source was started. */
	if (hv_vm_get(from->hv, target->uuid, &source, NULL) == 0 && source.memory_kib != 0)
		same.site.pvm_memory_kib = same.site.cvm_memory_kib = source.memory_kib;
	same.layout = source.layout;
	if (err == 0)
		err = hv_vm_destroy(to->hv, target->uuid, &why);
	if (err == 0)
		err = fleet_start_on(fleet, to, object, &same, true, &why);
	if (err == EHOSTUNREACH || err == ETIMEDOUT)
		return problem_set(problem, 503, "server-unreachable",
			"server %s can't start the copy of %s: %s; check its libvirtd", to->name,
			object, why.text);
	if (err != 0)
		return problem_set(problem, 500, "vm-failed",
			"server %s can't start the copy of %s: %s", to->name, object, why.text);
	return 0;
}

/* Where other hostds reach the destination's. */
static int ask_address(struct fleet_move *move, char address[128], struct problem *problem)
{
	struct jsonrpc_error err = {0};
	cJSON *info = NULL;
	if (move_ask(move, move->at_to, "hostd.info", NULL, HOSTD_MS, &info, &err) != 0)
		return hostd_problem(move->to, "tell its address", &err, problem);
	snprintf(address, 128, "%s", answer_text(info, "listen"));
	cJSON_Delete(info);
	return 0;
}

static int begin_copy(struct fleet *fleet, struct fleet_move *move, struct problem *problem)
{
	struct jsonrpc_error err = {0};
	char address[128], path[300];
	cJSON *status = NULL;
	if (ask_address(move, address, problem) != 0)
		return -1;
	qmp_path(fleet, move, path);
	cJSON *params = move_params(move);
	cJSON_AddStringToObject(params, "qmp_path", path);
	if (move_ask(move, move->at_to, "receive.prepare", params, HOSTD_MS, &status, &err) != 0)
		return hostd_problem(move->to, "prepare for the copy", &err, problem);
	params = move_params(move);
	cJSON_AddStringToObject(params, "qmp_path", path);
	cJSON *to = cJSON_AddObjectToObject(params, "to");
	cJSON_AddStringToObject(to, "address", address);
	cJSON_AddStringToObject(to, "ticket", answer_text(status, "ticket"));
	cJSON_Delete(status);
	if (move_ask(move, move->at_from, "move.start", params, HOSTD_MS, NULL, &err) != 0)
		return hostd_problem(move->from, "begin the copy", &err, problem);
	return 0;
}

/* A copy runs only where QEMU and its accelerator are the source's. */
static int check_equal(struct fleet_move *move, struct problem *problem)
{
	struct hv_server_info from, to;
	struct why why = {""};
	/* After a start of edgeplexd neither may be there yet. */
	int err = hv_wait_connected(move->from->hv, FLEET_SERVER_CONNECT_MS, &why);
	if (err == 0)
		err = hv_wait_connected(move->to->hv, FLEET_SERVER_CONNECT_MS, &why);
	if (err == 0)
		err = hv_server_info(move->from->hv, &from, &why);
	if (err == 0)
		err = hv_server_info(move->to->hv, &to, &why);
	if (err != 0)
		return problem_set(problem, 503, "server-unreachable",
			"what servers %s and %s can run isn't known: %s; check their libvirtds",
			move->from->name, move->to->name, why.text);
	if (hv_can_copy(&from, &to, &why))
		return 0;
	return problem_set(problem, 409, "not-movable",
		"a running VM can't be copied from server %s to server %s: %s", move->from->name,
		move->to->name, why.text);
}

int fleet_move_prepare(struct fleet *fleet, const char *object, struct problem *problem)
{
	struct target target;
	struct why why = {""};
	struct server to;
	struct fleet_move *move = move_get(fleet, object, &target, problem);
	if (move == NULL)
		return -1;
	if (fleet_server_load(fleet, move->to->id, &to) != 0)
		return move_database_failed(problem);
	/* After a start of edgeplexd it may not be there yet. */
	int err = fabric_wait_connected(move->site->fabric, FLEET_SWITCH_CONNECT_MS, &why);
	if (err == 0)
		err = fabric_check_port(move->site->fabric, to.trunk, &why);
	if (err == ENOENT)
		return problem_set(problem, 409, "not-ready",
			"the trunk of server %s isn't there: %s", move->to->name, why.text);
	if (err != 0) {
		fleet_switch_unreachable(problem, &why);
		return -1;
	}
	move_abort_copy(move); /* of an attempt that a crash interrupted */
	if (check_equal(move, problem) != 0 ||
		fleet_start_copy(fleet, object, &target, move->from, move->to, problem) != 0)
		return -1;
	return begin_copy(fleet, move, problem);
}

/* Tells why: each side knows only its own half when the other just closes the connection. */
static int copy_ended(struct fleet_move *move, const char *state, struct problem *problem)
{
	char why[200] = "edgeplex-hostd of the first was restarted, or doesn't answer";
	char at_to[16];
	if (strcmp(state, "ended") == 0)
		snprintf(why, sizeof(why), "%.199s", move->reason);
	move_side_state(move, move->at_to, "destination", at_to);
	bool more = strcmp(at_to, "ended") == 0 && strstr(why, move->reason) == NULL;
	return problem_set(problem, 500, "copy-failed",
		"the copy from server %s to server %s ended: %s%s%s. Begin the move again when "
		"that is mended",
		move->from->name, move->to->name, why, more ? "; at the second: " : "",
		more ? move->reason : "");
}

int fleet_move_copy(struct fleet *fleet, const char *object, fleet_progress_fn progress, void *ctx,
	struct problem *problem)
{
	struct target target;
	char state[16], told[160];
	double bytes = -1;
	int64_t since = fleet_now_ms();
	struct fleet_move *move = move_get(fleet, object, &target, problem);
	if (move == NULL)
		return -1;
	for (;;) {
		move_side_state(move, move->at_from, "source", state);
		snprintf(told, sizeof(told), "%.1f MB in pass %.0f", move->bytes / 1e6,
			move->passes);
		progress(ctx, told);
		if (strcmp(state, "ready") == 0)
			return 0;
		if (strcmp(state, "copying") != 0)
			return copy_ended(move, state, problem);
		if (move->bytes != bytes)
			since = fleet_now_ms();
		bytes = move->bytes;
		if (fleet_now_ms() - since > COPY_STALLED_MS)
			return problem_set(problem, 504, "copy-failed",
				"the copy from server %s to server %s made no progress for %d s: "
				"check the network between them",
				move->from->name, move->to->name, COPY_STALLED_MS / 1000);
		if (!fleet_pause(fleet, COPY_POLL_MS))
			return fleet_interrupted(problem);
	}
}

/* ---- the end --------------------------------------------------------------------------------- */

/*
 * The hostd of a server forgets what it knows of the object's move. `stays`: the VM is there to
 * stay, so it goes on if it was the source; else it is ended.
 */
static void forget_copies(struct fleet *fleet, const char *object, const struct target *target,
	int64_t server_id, bool stays)
{
	struct problem problem = {0};
	struct fleet_server *server = fleet_server_ref(fleet, server_id);
	struct hostd_client *hostd = server != NULL ? open_hostd(fleet, server, &problem) : NULL;
	if (hostd != NULL) {
		tell(object, target->uuid, hostd, stays ? "move.abort" : "move.finish", "source");
		tell(object, target->uuid, hostd, "move.finish", "destination");
	}
	hostd_client_close(hostd);
	if (server != NULL)
		fleet_server_unref(fleet, server);
}

int fleet_move_end(struct fleet *fleet, const char *object, struct problem *problem)
{
	struct target target;
	struct why why = {""};
	if (fleet_target_load(fleet, object, &target) != 0)
		return fleet_gone(problem, object);
	if (target.move.state == MOVE_NONE)
		return 0;
	/* While the switch may lead anything to the other copy, that is not for us to end. */
	if (fleet_switch_confirm(fleet, target.site.id, &why) != 0)
		return problem_set(problem, 503, "switch-unreachable",
			"the edge switch of site %s doesn't confirm that the copy of %s on server "
			"%s is fenced: %s; the copy is ended as soon as it does",
			target.site.name, object, target.move.server, why.text);
	forget_copies(fleet, object, &target, target.server_id, true);
	forget_copies(fleet, object, &target, target.move.server_id, false);
	struct fleet_server *server = fleet_server_ref(fleet, target.move.server_id);
	int err = server == NULL ? 0 : hv_vm_destroy(server->hv, target.uuid, &why);
	if (server != NULL)
		fleet_server_unref(fleet, server);
	if (err != 0)
		return problem_set(problem, 503, "server-unreachable",
			"the copy of %s on server %s can't be ended: %s; it is fenced at the edge "
			"switch, and is ended as soon as that server answers",
			object, target.move.server, why.text);
	return move_store_state(fleet, object, MOVE_NONE) == 0 ? 0 : move_database_failed(problem);
}

int fleet_move_undo(struct fleet *fleet, const char *object, struct problem *problem)
{
	struct target target;
	struct problem unknown = {0}, left = {0};
	if (fleet_target_load(fleet, object, &target) != 0)
		return fleet_gone(problem, object);
	if (target.move.state == MOVE_NONE)
		return 0;
	struct fleet_move *move = move_get(fleet, object, &target, &unknown);
	if (move != NULL && move->phase != FABRIC_AT_SOURCE)
		move_insist_on_phase(fleet, move, FABRIC_AT_SOURCE);
	if (move != NULL)
		move_abort_copy(move);
	/* From here on the second copy is void, also if it can't be ended now. */
	if (move_store_state(fleet, object, MOVE_LEAVING) != 0)
		return move_database_failed(problem);
	if (move != NULL)
		move_end(fleet, move);
	if (fleet_move_end(fleet, object, &left) != 0)
		fleet_event(fleet, "warning", object, "%s", left.detail);
	return 0;
}
