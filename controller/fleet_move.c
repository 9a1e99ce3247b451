/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Moving a PVM to another server, make before break (DESIGN 5). The order of things, and who runs
 * when somebody dies, is in hostd/source.h and docs/protocols.md; here both are driven, together
 * with the phases of the edge switch (fabric_rules.h).
 *
 * What is stored is coarse (enum move_state), for a commit to disk takes longer than the source may
 * stand still. Whoever takes up a move in MOVE_SWITCHING asks servers and hostds how far it went.
 */

#include "controller/fleet_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "controller/hostd_client.h"

#define HOSTD_MS 5000
#define ALIVE_MS 3000   /* a hostd that answers later than that isn't to be relied on now */
#define FREEZE_MS 20000 /* its last passes included; the VM stands still for much less */
#define ACTIVATE_MS 20000
#define COPY_POLL_MS 100
#define COPY_STALLED_MS 60000 /* without progress */
#define PROBE_MS 1000
#define FORWARDS_MS 15000  /* until the destination has to show that it forwards */
#define FLOW_CACHE_US 4000 /* until the switch follows its rules, a generous guess */
#define MUTE_MS 60000
#define SETTLE_MS 300       /* without a packet for the source: the switch gives it none any more */
#define IDLE_LIMIT_MS 15000 /* for that */
#define SWITCH_BACK_MS 60000

static int64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* ---- hostds ------------------------------------------------------------------------------- */

static cJSON *uuid_params(const struct fleet_move *move)
{
	cJSON *params = cJSON_CreateObject();
	cJSON_AddStringToObject(params, "uuid", move->uuid);
	return params;
}

/* Takes `params`; NULL: only the UUID. `*result` (may be NULL) becomes the caller's. 0 or -1. */
static int ask(struct fleet_move *move, struct hostd_client *client, const char *method,
	cJSON *params, int timeout_ms, cJSON **result, struct jsonrpc_error *err)
{
	if (params == NULL)
		params = uuid_params(move);
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

/* The source runs, and the destination doesn't: the one that may stand in the way comes first. */
static void abort_copy(struct fleet_move *move)
{
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

static double number(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
	return cJSON_IsNumber(item) ? item->valuedouble : 0;
}

static const char *text(const cJSON *object, const char *name)
{
	const char *value = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
	return value != NULL ? value : "";
}

static void note_figures(struct fleet_move *move, const cJSON *status)
{
	const cJSON *freeze = cJSON_GetObjectItemCaseSensitive(status, "freeze_us");
	move->bytes = number(status, "bytes");
	move->passes = number(status, "passes");
	move->stopped_pages = number(status, "last_pages");
	move->paused_us = number(freeze, "paused");
	move->source_died = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(status, "vm_ended"));
	snprintf(move->reason, sizeof(move->reason), "%s", text(status, "reason"));
}

/* What a hostd says of its side of the move; "": it knows of none, or doesn't answer. */
static void side_state(
	struct fleet_move *move, struct hostd_client *client, const char *role, char state[16])
{
	struct jsonrpc_error err = {0};
	cJSON *result = NULL;
	const cJSON *copy;
	state[0] = '\0';
	if (ask(move, client, "move.status", NULL, HOSTD_MS, &result, &err) != 0)
		return;
	cJSON_ArrayForEach (copy, cJSON_GetObjectItemCaseSensitive(result, "copies")) {
		if (strcmp(text(copy, "role"), role) != 0)
			continue;
		snprintf(state, 16, "%.15s", text(copy, "state"));
		if (strcmp(role, "source") == 0)
			note_figures(move, copy);
		else
			snprintf(move->reason, sizeof(move->reason), "%s", text(copy, "reason"));
	}
	cJSON_Delete(result);
}

/* ---- the list of moves --------------------------------------------------------------------- */

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

static void move_end(struct fleet *fleet, struct fleet_move *move)
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

/*
 * The object's move, which is made from the store if this process doesn't know it yet. Only the
 * thread of the operation calls it.
 */
static struct fleet_move *move_get(
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

/* The row of a port or of a CVM, as far as a move changes it. */
struct row {
	bool is_cvm;
	struct port port;
	struct cvm cvm;
	int64_t *server_id;
	struct second_copy *move;
};

static int row_load(struct fleet *fleet, const char *object, struct row *row)
{
	const char *name = strchr(object, '/') + 1;
	row->is_cvm = strncmp(object, "cvm/", 4) == 0;
	row->server_id = row->is_cvm ? &row->cvm.server_id : &row->port.server_id;
	row->move = row->is_cvm ? &row->cvm.move : &row->port.move;
	return row->is_cvm ? store_cvm_get(fleet->store, name, &row->cvm)
			   : store_port_get(fleet->store, name, &row->port);
}

static int row_save(struct fleet *fleet, const struct row *row)
{
	return row->is_cvm ? store_cvm_update(fleet->store, &row->cvm)
			   : store_port_update(fleet->store, &row->port);
}

/* Stores how far the move is. Errno. */
static int store_state(struct fleet *fleet, const char *object, enum move_state state)
{
	struct row row;
	int err = store_begin(fleet->store);
	if (err != 0)
		return err;
	err = row_load(fleet, object, &row);
	if (err == 0) {
		row.move->state = state;
		if (state == MOVE_NONE)
			row.move->server_id = 0;
		err = row_save(fleet, &row);
	}
	if (err == 0)
		return store_commit(fleet->store);
	store_rollback(fleet->store);
	return err;
}

static int database_failed(struct problem *problem)
{
	return problem_set(problem, 500, "internal",
		"the database can't be used: check disk space and permissions of the state "
		"directory");
}

/* ---- the copy ------------------------------------------------------------------------------ */

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
	if (ask(move, move->at_to, "hostd.info", NULL, HOSTD_MS, &info, &err) != 0)
		return hostd_problem(move->to, "tell its address", &err, problem);
	snprintf(address, 128, "%s", text(info, "listen"));
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
	cJSON *params = uuid_params(move);
	cJSON_AddStringToObject(params, "qmp_path", path);
	if (ask(move, move->at_to, "receive.prepare", params, HOSTD_MS, &status, &err) != 0)
		return hostd_problem(move->to, "prepare for the copy", &err, problem);
	params = uuid_params(move);
	cJSON_AddStringToObject(params, "qmp_path", path);
	cJSON *to = cJSON_AddObjectToObject(params, "to");
	cJSON_AddStringToObject(to, "address", address);
	cJSON_AddStringToObject(to, "ticket", text(status, "ticket"));
	cJSON_Delete(status);
	if (ask(move, move->at_from, "move.start", params, HOSTD_MS, NULL, &err) != 0)
		return hostd_problem(move->from, "begin the copy", &err, problem);
	return 0;
}

/* A copy runs only where QEMU and its accelerator are the source's. */
static int check_equal(struct fleet_move *move, struct problem *problem)
{
	struct hv_server_info from, to;
	struct why why = {""};
	int err = hv_wait_connected(move->to->hv, FLEET_SERVER_CONNECT_MS, &why);
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
		return database_failed(problem);
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
	abort_copy(move); /* of an attempt that a crash interrupted */
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
	side_state(move, move->at_to, "destination", at_to);
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
		side_state(move, move->at_from, "source", state);
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

/* ---- does the destination forward? --------------------------------------------------------- */

struct forwarder_view {
	double uptime_ms, rx, tx; /* frames of the core port */
	double received;          /* of all ports */
	double emptied[2];        /* how often each port had nothing left to take */
	bool links, complete, sleeping;
};

static bool view_forwarder(struct guest *guest, struct forwarder_view *view)
{
	struct jsonrpc_error err = {0};
	cJSON *status = NULL;
	const cJSON *port;
	int n = 0;
	if (guest_call(guest, "fwd.status", NULL, PROBE_MS, &status, &err) != 0)
		return false;
	*view = (struct forwarder_view){.uptime_ms = number(status, "uptime_ms"), .links = true};
	view->sleeping = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(status, "sleeping"));
	cJSON_ArrayForEach (port, cJSON_GetObjectItemCaseSensitive(status, "ports")) {
		const cJSON *counters = cJSON_GetObjectItemCaseSensitive(port, "counters");
		view->links &= cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(port, "link"));
		if (n < 2)
			view->emptied[n] = number(counters, "rx_empty");
		n++;
		view->received += number(counters, "rx_packets");
		if (strcmp(text(port, "name"), "core") == 0) {
			view->rx = number(counters, "rx_packets");
			view->tx = number(counters, "tx_packets");
		}
	}
	view->links &= n == 2;
	view->complete = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(
		cJSON_GetObjectItemCaseSensitive(status, "fib"), "complete"));
	cJSON_Delete(status);
	return true;
}

/* Had it taken all that had come in when it was first looked at, by the second time? */
static bool is_through(const struct forwarder_view *first, const struct forwarder_view *second)
{
	return second->sleeping ||
	       (second->emptied[0] > first->emptied[0] && second->emptied[1] > first->emptied[1]);
}

/*
 * Does somebody near answer the guest's kernel? The CVM answers a PVM, whose packets then crossed
 * its forwarder twice; the core's gateway answers a CVM.
 */
static bool probe(struct guest *guest, const struct target *target)
{
	struct jsonrpc_error err = {0};
	char address[EP_PREFIX_STRLEN];
	const struct ep_prefix *near =
		target->is_cvm ? &target->site.core_gateway : &target->cvm.inside;
	cJSON *params = cJSON_CreateObject();
	cJSON_AddStringToObject(params, "address", ep_addr_format(near, address));
	cJSON_AddNumberToObject(params, "timeout_ms", PROBE_MS / 2);
	int rc = guest_call(guest, "guest.probe", params, PROBE_MS, NULL, &err);
	cJSON_Delete(params);
	return rc == 0;
}

/*
 * Has the guest shown that it forwards? Its forwarder answers twice, with time and the counters
 * gone on in between, both links are up, and, unless the source too got none before (then the CVM
 * is the reason), an answer of the CVM came back through it.
 */
static bool shows_forwarding(
	struct guest *guest, const struct target *target, bool answered_before, char why[160])
{
	struct forwarder_view first, second;
	if (!view_forwarder(guest, &first)) {
		snprintf(why, 160, "its forwarder doesn't answer");
		return false;
	}
	bool answered = probe(guest, target);
	if (!view_forwarder(guest, &second)) {
		snprintf(why, 160, "its forwarder doesn't answer any more");
		return false;
	}
	if (!second.links)
		snprintf(why, 160, "a link of it is down");
	else if (second.uptime_ms <= first.uptime_ms)
		snprintf(why, 160, "its forwarder stands still");
	else if (!is_through(&first, &second))
		/* Packets that the source has, too: they mustn't be heard of again from here. */
		snprintf(why, 160, "it isn't through with what had come in when it was copied");
	else if (answered_before && !answered)
		snprintf(why, 160, "it gets no answer from the CVM");
	else if (answered && (second.rx <= first.rx || second.tx <= first.tx))
		snprintf(why, 160, "its forwarder's counters stand still");
	else
		return true;
	return false;
}

static bool shows_routing(
	struct guest *guest, const struct target *target, bool answered_before, char why[160])
{
	struct jsonrpc_error err = {0};
	if (guest_call(guest, "cvm.status", NULL, PROBE_MS, NULL, &err) != 0)
		snprintf(why, 160, "its cvmd doesn't answer: %.100s", err.message);
	else if (answered_before && !probe(guest, target))
		snprintf(why, 160, "it gets no answer from the core's gateway");
	else
		return true;
	return false;
}

/*
 * The guest's forwarder stops, or begins again, to speak for itself. The switch's rules say the
 * same, but its flow cache follows them late when it is busy, and two copies that speak in one TCP
 * session would tear it. Bounded in time, should nobody be there to end it. 0 or -1 with `err`.
 */
static int set_mute(struct guest *guest, bool mute, struct jsonrpc_error *err)
{
	cJSON *params = cJSON_CreateObject();
	cJSON_AddNumberToObject(params, "ms", mute ? MUTE_MS : 0);
	int rc = guest_call(guest, "fwd.mute", params, FLEET_GUEST_STATUS_MS, NULL, err);
	cJSON_Delete(params);
	return rc;
}

/* Waits until the destination has shown that it does its work. False with `why`. */
static bool await_work(
	struct fleet_move *move, const struct target *target, bool answered_before, char why[160])
{
	int64_t until = fleet_now_ms() + FORWARDS_MS;
	struct hv_vm vm;
	bool speaks = target->is_cvm; /* the copy is as mute as its source was made */
	do {
		struct jsonrpc_error err = {0};
		speaks = speaks || set_mute(move->to_guest, false, &err) == 0;
		if (!speaks)
			snprintf(why, 160, "its forwarder doesn't answer: %.100s", err.message);
		else if (target->is_cvm
				 ? shows_routing(move->to_guest, target, answered_before, why)
				 : shows_forwarding(move->to_guest, target, answered_before, why))
			return true;
		/* No need to wait for one that is gone. */
		if (hv_vm_get(move->to->hv, move->uuid, &vm, NULL) == ENOENT) {
			snprintf(why, 160, "its VM is gone");
			return false;
		}
	} while (fleet_now_ms() < until);
	return false;
}

/* ---- the switch-over ------------------------------------------------------------------------ */

/*
 * Dead, or on a server that neither libvirt nor hostd speaks for any more. hostd, which has a
 * connection to QEMU, knows before libvirt.
 */
static bool source_is_gone(struct fleet_move *move)
{
	struct jsonrpc_error err_hostd = {0};
	struct hv_vm vm;
	char state[16];
	side_state(move, move->at_from, "source", state);
	if (state[0] != '\0' && move->source_died)
		return true;
	int err = hv_vm_get(move->from->hv, move->uuid, &vm, NULL);
	if (err == EHOSTUNREACH)
		return ask(move, move->at_from, "hostd.info", NULL, HOSTD_MS, NULL, &err_hostd) !=
		       0;
	return err == ENOENT || (err == 0 && vm.state == HV_VM_STOPPING);
}

/* Where the time went in which the VM stood still; microseconds since it was stopped. */
static void log_times(const struct fleet_move *move, const cJSON *status)
{
	const cJSON *t = cJSON_GetObjectItemCaseSensitive(status, "freeze_us");
	log_info("a VM stood still object=%s stopped=%.0f pages=%.0f state=%.0f sent=%.0f "
		 "acknowledged=%.0f resumed=%.0f last_pages=%.0f",
		move->object, number(t, "stop"), number(t, "pages"), number(t, "state"),
		number(t, "send"), number(t, "acknowledged"), number(t, "paused"),
		move->stopped_pages);
}

/*
 * Moves the control plane to the destination, then stops the source, which goes on by itself as
 * soon as all of it is taken: it forwards, and is not heard otherwise. (A CVM's source forwards
 * nothing and stays stopped.) What the source says in the moments between is lost at the switch; it
 * is TCP, and the destination says it again. 0: the destination has all of it and may be activated.
 * -1 with `failure`.
 */
static int fence_and_freeze(struct fleet *fleet, struct fleet_move *move, char failure[256])
{
	struct jsonrpc_error err = {0};
	struct why why = {""};
	cJSON *status = NULL, *params = uuid_params(move);
	cJSON_AddNumberToObject(params, "timeout_ms", FREEZE_MS - HOSTD_MS);
	cJSON_AddBoolToObject(params, "fenced", !move->is_cvm);
	if (fleet_phase_set(fleet, move, FABRIC_CONTROL_MOVED, &why) != 0) {
		cJSON_Delete(params);
		snprintf(failure, 256, "%.255s", why.text);
		return -1;
	}
	/* The switch's answer runs ahead of its flow cache (docs/notes/fabric.md). */
	nanosleep(&(struct timespec){.tv_nsec = FLOW_CACHE_US * 1000L}, NULL);
	move->stopped_at_us = now_us();
	if (ask(move, move->at_from, "move.freeze", params, FREEZE_MS, &status, &err) != 0) {
		snprintf(failure, 256, "%.255s", err.message);
		return -1;
	}
	note_figures(move, status);
	log_times(move, status);
	cJSON_Delete(status);
	return 0;
}

/* The switch must follow: both copies run, and only one can say what it wants. False: it didn't. */
static bool insist_on_phase(struct fleet *fleet, struct fleet_move *move, enum fabric_phase phase)
{
	struct why why = {""};
	int64_t until = fleet_now_ms() + SWITCH_BACK_MS;
	while (fleet_phase_set(fleet, move, phase, &why) != 0) {
		log_warn("the edge switch doesn't follow a move object=%s why=\"%s\"", move->object,
			why.text);
		if (fleet_now_ms() >= until || !fleet_pause(fleet, FLEET_RETRY_MS))
			return false;
	}
	return true;
}

/*
 * The destination is the VM now: in the store, at the switch, and for whoever speaks with it.
 * vm->life is held. 0, or -1 with `problem`: to be done again after a restart.
 */
static int commit(struct fleet *fleet, struct fleet_move *move, struct fleet_vm *vm,
	const char *remark, struct problem *problem)
{
	struct row row;
	char detail[160];
	double took_s = (double)(fleet_now_ms() - move->begun_ms) / 1000;
	int err = store_begin(fleet->store);
	if (err != 0)
		return database_failed(problem);
	err = row_load(fleet, move->object, &row);
	if (err == 0) {
		row.move->state = MOVE_LEAVING;
		row.move->server_id = move->from->id;
		*row.server_id = move->to->id;
		err = row_save(fleet, &row);
	}
	snprintf(detail, sizeof(detail),
		"from %s; stood still %.1f ms; %.1f MB copied; %.1f s in all%s", move->from->name,
		move->paused_us / 1000, move->bytes / 1e6, took_s, remark);
	if (err == 0 && !row.is_cvm)
		err = store_history_add(fleet->store, row.port.id, "moved", move->to->name, detail);
	if (err != 0) {
		store_rollback(fleet->store);
		return database_failed(problem);
	}
	if (store_commit(fleet->store) != 0)
		return database_failed(problem);
	if (move->to_guest == NULL)
		move->to_guest = guest_open(move->to->hv, move->uuid, NULL, NULL);
	if (move->to_guest == NULL || fleet_vm_replace(fleet, vm, move->to, move->to_guest) != 0)
		return problem_set(problem, 500, "internal", "no memory: restart edgeplexd");
	move->to_guest = NULL;
	fleet_event(fleet, "info", move->object, "moved to server %s: %s", move->to->name, detail);
	return 0;
}

/*
 * The guest on a server, which runs, speaks for itself again. After a start of edgeplexd it may not
 * be connected yet, and is waited for while it is there; at worst its mute runs out.
 */
static void unmute(struct fleet_move *move, struct fleet_server *server, struct guest *guest)
{
	struct jsonrpc_error err = {0};
	struct hv_vm vm;
	int64_t until = fleet_now_ms() + FORWARDS_MS;
	while (!move->is_cvm && guest != NULL && set_mute(guest, false, &err) != 0 &&
		fleet_now_ms() < until && hv_vm_get(server->hv, move->uuid, &vm, NULL) != ENOENT)
		guest_wait_ready(guest, PROBE_MS, NULL);
}

/*
 * The source is dead, the destination has all of it: fenced first, it takes over. 0, or -1 with
 * `why` when the destination can't.
 */
static int go_forward_without_source(struct fleet *fleet, struct fleet_move *move, char why[256])
{
	struct jsonrpc_error err = {0};
	cJSON *params = uuid_params(move);
	insist_on_phase(fleet, move, FABRIC_AT_DESTINATION);
	cJSON_AddTrueToObject(params, "fenced");
	if (ask(move, move->at_to, "move.activate", params, ACTIVATE_MS, NULL, &err) == 0) {
		if (move->to_guest == NULL)
			move->to_guest = guest_open(move->to->hv, move->uuid, NULL, NULL);
		unmute(move, move->to, move->to_guest);
		return 0;
	}
	snprintf(why, 256, "the destination couldn't be activated: %.200s", err.message);
	return -1;
}

/* Has the destination all of the VM, whatever became of the source? */
static bool destination_is_whole(struct fleet_move *move)
{
	char state[16];
	side_state(move, move->at_to, "destination", state);
	return strcmp(state, "holding") == 0 || strcmp(state, "lost") == 0 ||
	       strcmp(state, "active") == 0;
}

/*
 * Back to the source alone. The destination is fenced before the source may speak again; if it
 * never ran there is nothing to fence, and the source, which may stand still, goes on before a
 * switch that doesn't answer is waited for. Once the destination has spoken for it, the source's
 * BGP sessions are out of step: pvmd begins anew and its peers keep the routes (graceful restart),
 * where it would else stall until hold times expire.
 */
static void go_back(struct fleet *fleet, struct fleet_move *move, struct fleet_vm *vm)
{
	if (!move->activated)
		abort_copy(move);
	insist_on_phase(fleet, move, FABRIC_AT_SOURCE);
	if (move->activated)
		abort_copy(move);
	unmute(move, move->from, vm->guest);
	if (move->activated && !source_is_gone(move)) {
		struct jsonrpc_error err = {0};
		cJSON *params = cJSON_CreateObject();
		cJSON_AddStringToObject(params, "process", move->is_cvm ? "cvmd" : "pvmd");
		cJSON_AddStringToObject(params, "signal", "KILL");
		if (guest_call(vm->guest, "guest.signal", params, FLEET_GUEST_STATUS_MS, NULL,
			    &err) != 0)
			fleet_event(fleet, "warning", move->object,
				"its BGP sessions may stall until their hold time: pvmd can't be "
				"restarted: %s",
				err.message);
		cJSON_Delete(params);
	}
	move->activated = false;
}

/*
 * Something failed between the first phase and the last: whoever can serve the customer does.
 * 0: the destination does, to be committed. -1 with `problem`: the source does, or will.
 */
static int decide(struct fleet *fleet, struct fleet_move *move, struct fleet_vm *vm,
	const char *failure, char remark[160], struct problem *problem)
{
	char why[256];
	bool gone = source_is_gone(move);
	if (gone && destination_is_whole(move) &&
		go_forward_without_source(fleet, move, why) == 0) {
		snprintf(remark, 160, "; the source died meanwhile");
		fleet_event(fleet, "warning", move->object,
			"its VM on server %s died while it was moved; the copy on server %s took "
			"over",
			move->from->name, move->to->name);
		return 0;
	}
	go_back(fleet, move, vm);
	if (gone)
		return problem_set(problem, 500, "move-failed",
			"the VM on server %s died before all of it was on server %s (%s). It is "
			"started anew on server %s",
			move->from->name, move->to->name, failure, move->from->name);
	return problem_set(problem, 500, "move-failed",
		"the move from server %s to server %s failed: %s. The PVM stays on server %s",
		move->from->name, move->to->name, failure, move->from->name);
}

/* After an activation that failed: unless hostd denies it. */
static bool may_have_run(struct fleet_move *move)
{
	char state[16];
	side_state(move, move->at_to, "destination", state);
	return strcmp(state, "holding") != 0 && strcmp(state, "lost") != 0 &&
	       strcmp(state, "ended") != 0;
}

/*
 * Do both hostds answer, and have their sides of the copy? Asked before anything of the service is
 * touched: one that hangs would be noticed only when the control plane is on its way already.
 */
static bool hostds_are_ready(struct fleet_move *move, char failure[256])
{
	const struct {
		struct hostd_client *client;
		const struct fleet_server *server;
	} sides[] = {
		{move->at_from, move->from},
		{move->at_to, move->to},
	};
	for (size_t i = 0; i < sizeof(sides) / sizeof(sides[0]); i++) {
		struct jsonrpc_error err = {0};
		if (ask(move, sides[i].client, "move.status", NULL, ALIVE_MS, NULL, &err) == 0)
			continue;
		snprintf(failure, 256, "edgeplex-hostd of server %s doesn't answer: %.160s",
			sides[i].server->name, err.message);
		return false;
	}
	return true;
}

/* The phases, from the source alone up to data at the destination. 0 or -1 with `why`. */
static int switch_over(struct fleet *fleet, struct fleet_move *move, struct fleet_vm *vm,
	const struct target *target, char failure[256])
{
	struct why why = {""};
	struct jsonrpc_error err = {0};
	char missing[160];
	bool answered_before = probe(vm->guest, target);
	if (!hostds_are_ready(move, failure))
		return -1;
	if (fleet_phase_set(fleet, move, FABRIC_CONTROL_IN, &why) != 0) {
		snprintf(failure, 256, "%.255s", why.text);
		return -1;
	}
	fleet_phase_prepare(fleet, move, FABRIC_CONTROL_MOVED);
	if (!move->is_cvm && set_mute(vm->guest, true, &err) != 0) {
		snprintf(
			failure, 256, "the source's forwarder doesn't answer: %.200s", err.message);
		return -1;
	}
	if (fence_and_freeze(fleet, move, failure) != 0)
		return -1;
	int rc = ask(move, move->at_to, "move.activate", NULL, ACTIVATE_MS, NULL, &err);
	move->activated = rc == 0 || may_have_run(move);
	if (rc != 0) {
		snprintf(
			failure, 256, "the destination couldn't be activated: %.200s", err.message);
		return -1;
	}
	if (move->is_cvm)
		move->paused_us = (double)(now_us() - move->stopped_at_us);
	fleet_phase_prepare(fleet, move, FABRIC_DATA_MOVED);
	move->to_guest = guest_open(move->to->hv, move->uuid, NULL, NULL);
	if (move->to_guest == NULL) {
		snprintf(failure, 256, "no memory");
		return -1;
	}
	if (!await_work(move, target, answered_before, missing)) {
		snprintf(failure, 256, "the destination didn't show that it works: %s", missing);
		return -1;
	}
	/* A switch that is away gets the phase when it comes back, whoever is asked then. */
	if (!insist_on_phase(fleet, move, FABRIC_DATA_MOVED) && fleet_is_stopping(fleet)) {
		snprintf(failure, 256, "edgeplexd is being stopped");
		return -1;
	}
	return 0;
}

/*
 * A switch-over that a crash of edgeplexd interrupted. The source is not ended before the store
 * says so: it runs, will resume by itself, or died. 0: the destination runs and forwards.
 */
static int take_up(struct fleet *fleet, struct fleet_move *move, const struct target *target,
	char failure[256])
{
	struct jsonrpc_error err = {0};
	char at_from[16], at_to[16], missing[160];
	struct hv_vm vm;
	side_state(move, move->at_to, "destination", at_to);
	/* A hostd that was restarted knows nothing of what it activated. */
	move->activated = strcmp(at_to, "active") == 0 ||
			  (hv_wait_connected(move->to->hv, FLEET_SERVER_CONNECT_MS, NULL) == 0 &&
				  hv_vm_get(move->to->hv, move->uuid, &vm, NULL) == 0 &&
				  vm.state == HV_VM_RUNNING);
	snprintf(failure, 256, "edgeplexd was interrupted before the destination ran");
	if (!move->activated)
		return -1;
	side_state(move, move->at_from, "source", at_from);
	if (strcmp(at_from, "frozen") == 0 && !move->is_cvm)
		ask(move, move->at_from, "move.resume_source", NULL, HOSTD_MS, NULL, &err);
	move->to_guest = guest_open(move->to->hv, move->uuid, NULL, NULL);
	if (move->to_guest == NULL)
		return -1;
	if (!await_work(move, target, false, missing)) {
		snprintf(failure, 256, "the destination didn't show that it works: %s", missing);
		return -1;
	}
	/* A switch that is away gets the phase when it comes back, whoever is asked then. */
	if (!insist_on_phase(fleet, move, FABRIC_DATA_MOVED) && fleet_is_stopping(fleet)) {
		snprintf(failure, 256, "edgeplexd is being stopped");
		return -1;
	}
	return 0;
}

int fleet_move_switch(
	struct fleet *fleet, const char *object, char *detail, size_t size, struct problem *problem)
{
	struct target target;
	char failure[256] = "", remark[160] = "";
	struct fleet_move *move = move_get(fleet, object, &target, problem);
	if (move == NULL)
		return -1;
	if (target.move.state == MOVE_LEAVING)
		return 0; /* committed before a crash */
	struct fleet_vm *vm = fleet_started_vm_ref(fleet, object, &target, problem);
	if (vm == NULL)
		return -1;
	pthread_mutex_lock(&move->site->turn);
	pthread_mutex_lock(&vm->life);
	int rc;
	if (target.move.state == MOVE_SWITCHING) {
		rc = take_up(fleet, move, &target, failure);
	} else if (store_state(fleet, object, MOVE_SWITCHING) != 0) {
		rc = database_failed(problem);
		snprintf(failure, sizeof(failure), "the database can't be used");
	} else {
		rc = switch_over(fleet, move, vm, &target, failure);
	}
	/* Where both run, that can wait for the next start, and nobody is cut off meanwhile. */
	if (rc != 0 && move->activated && fleet_is_stopping(fleet))
		fleet_interrupted(problem);
	else if (rc != 0)
		rc = decide(fleet, move, vm, failure, remark, problem);
	if (rc == 0)
		rc = commit(fleet, move, vm, remark, problem);
	pthread_mutex_unlock(&vm->life);
	pthread_mutex_unlock(&move->site->turn);
	fleet_vm_unref(fleet, vm);
	if (rc == 0)
		snprintf(detail, size, "stood still %.1f ms%s", move->paused_us / 1000, remark);
	return rc;
}

/* ---- the end -------------------------------------------------------------------------------- */

/*
 * Waits until the source is given no packets any more: the switch's flow cache follows its rules
 * late when it is busy, and what reaches a fenced source is lost. False: edgeplexd is being
 * stopped.
 */
static bool await_idle_source(struct fleet *fleet, struct fleet_move *move)
{
	int64_t until = fleet_now_ms() + IDLE_LIMIT_MS, heard_ms = fleet_now_ms();
	struct forwarder_view view = {0};
	struct hv_vm vm;
	double received = -1;
	struct guest *guest = guest_open(move->from->hv, move->uuid, NULL, NULL);
	while (guest != NULL && fleet_now_ms() - heard_ms < SETTLE_MS && fleet_now_ms() < until &&
		hv_vm_get(move->from->hv, move->uuid, &vm, NULL) != ENOENT) {
		if (!fleet_pause(fleet, SETTLE_MS / 6)) {
			guest_close(guest);
			return false;
		}
		if (view_forwarder(guest, &view) && view.received == received)
			continue;
		received = view.received;
		heard_ms = fleet_now_ms();
	}
	guest_close(guest);
	if (fleet_now_ms() >= until)
		fleet_event(fleet, "warning", move->object,
			"the old copy on server %s was still given packets %d s after the move; "
			"it is fenced now",
			move->from->name, IDLE_LIMIT_MS / 1000);
	return true;
}

int fleet_move_settle(struct fleet *fleet, const char *object, struct problem *problem)
{
	struct target target;
	struct fleet_move *move = NULL;
	struct why why = {""};
	pthread_mutex_lock(&fleet->lock);
	for (move = fleet->moves; move != NULL && strcmp(move->object, object) != 0;)
		move = move->next;
	pthread_mutex_unlock(&fleet->lock);
	/* Nobody remembers the phases after a restart: the store's word is the last one then. */
	if (move == NULL || fleet_target_load(fleet, object, &target) != 0)
		return 0;
	if (!move->is_cvm && !await_idle_source(fleet, move))
		return fleet_interrupted(problem);
	/* What it doesn't confirm now it does before the source is ended. */
	if (fleet_phase_set(fleet, move, FABRIC_AT_DESTINATION, &why) != 0)
		log_warn("the edge switch doesn't follow a move object=%s why=\"%s\"", object,
			why.text);
	move_end(fleet, move);
	return 0;
}

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
	return store_state(fleet, object, MOVE_NONE) == 0 ? 0 : database_failed(problem);
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
		insist_on_phase(fleet, move, FABRIC_AT_SOURCE);
	if (move != NULL)
		abort_copy(move);
	/* From here on the second copy is void, also if it can't be ended now. */
	if (store_state(fleet, object, MOVE_LEAVING) != 0)
		return database_failed(problem);
	if (move != NULL)
		move_end(fleet, move);
	if (fleet_move_end(fleet, object, &left) != 0)
		fleet_event(fleet, "warning", object, "%s", left.detail);
	return 0;
}
