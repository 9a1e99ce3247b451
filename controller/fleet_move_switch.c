/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The middle of a move (fleet_move.c): the customer is switched over to the destination, which has
 * to show that it forwards; and what is done when something fails meanwhile.
 */

#include "controller/fleet_move.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "controller/answer.h"
#include "controller/hostd_client.h"

#define ALIVE_MS 3000   /* a hostd that answers later than that isn't to be relied on now */
#define FREEZE_MS 20000 /* its last passes included; the VM stands still for much less */
#define ACTIVATE_MS 20000
#define PROBE_MS 1000
#define FORWARDS_MS 15000  /* until the destination has to show that it forwards */
#define FLOW_CACHE_US 4000 /* until the switch follows its rules, a generous guess */
#define MUTE_MS 60000
#define SETTLE_MS 300       /* without a packet for the source: the switch gives it none any more */
#define IDLE_LIMIT_MS 15000 /* for that */
#define SWITCH_BACK_MS 60000

/* ---- does the destination forward? ----------------------------------------------------------- */

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
	*view = (struct forwarder_view){
		.uptime_ms = answer_number(status, "uptime_ms"), .links = true};
	view->sleeping = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(status, "sleeping"));
	cJSON_ArrayForEach (port, cJSON_GetObjectItemCaseSensitive(status, "ports")) {
		const cJSON *counters = cJSON_GetObjectItemCaseSensitive(port, "counters");
		view->links &= cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(port, "link"));
		if (n < 2)
			view->emptied[n] = answer_number(counters, "rx_empty");
		n++;
		view->received += answer_number(counters, "rx_packets");
		if (strcmp(answer_text(port, "name"), "core") == 0) {
			view->rx = answer_number(counters, "rx_packets");
			view->tx = answer_number(counters, "tx_packets");
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

/* ---- the switch-over ------------------------------------------------------------------------- */

/*
 * Dead, or on a server that neither libvirt nor hostd speaks for any more. hostd, which has a
 * connection to QEMU, knows before libvirt.
 */
static bool source_is_gone(struct fleet_move *move)
{
	struct jsonrpc_error err_hostd = {0};
	struct hv_vm vm;
	char state[16];
	move_side_state(move, move->at_from, "source", state);
	if (state[0] != '\0' && move->source_died)
		return true;
	int err = hv_vm_get(move->from->hv, move->uuid, &vm, NULL);
	if (err == EHOSTUNREACH)
		return move_ask(move, move->at_from, "hostd.info", NULL, HOSTD_MS, NULL,
			       &err_hostd) != 0;
	return err == ENOENT || (err == 0 && vm.state == HV_VM_STOPPING);
}

/* Where the time went in which the VM stood still; microseconds since it was stopped. */
static void log_times(const struct fleet_move *move, const cJSON *status)
{
	const cJSON *t = cJSON_GetObjectItemCaseSensitive(status, "freeze_us");
	log_info("a VM stood still object=%s stopped=%.0f pages=%.0f state=%.0f sent=%.0f "
		 "acknowledged=%.0f resumed=%.0f last_pages=%.0f",
		move->object, answer_number(t, "stop"), answer_number(t, "pages"),
		answer_number(t, "state"), answer_number(t, "send"),
		answer_number(t, "acknowledged"), answer_number(t, "paused"), move->stopped_pages);
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
	cJSON *status = NULL, *params = move_params(move);
	cJSON_AddNumberToObject(params, "timeout_ms", FREEZE_MS - HOSTD_MS);
	cJSON_AddBoolToObject(params, "fenced", !move->is_cvm);
	if (fleet_phase_set(fleet, move, FABRIC_CONTROL_MOVED, &why) != 0) {
		cJSON_Delete(params);
		snprintf(failure, 256, "%.255s", why.text);
		return -1;
	}
	/* The switch's answer runs ahead of its flow cache (docs/notes/fabric.md). */
	nanosleep(&(struct timespec){.tv_nsec = FLOW_CACHE_US * 1000L}, NULL);
	move->stopped_at_us = fleet_now_us();
	if (move_ask(move, move->at_from, "move.freeze", params, FREEZE_MS, &status, &err) != 0) {
		snprintf(failure, 256, "%.255s", err.message);
		return -1;
	}
	move_note_figures(move, status);
	log_times(move, status);
	cJSON_Delete(status);
	return 0;
}

bool move_insist_on_phase(struct fleet *fleet, struct fleet_move *move, enum fabric_phase phase)
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
	struct move_row row;
	char detail[160];
	double took_s = (double)(fleet_now_ms() - move->begun_ms) / 1000;
	int err = store_begin(fleet->store);
	if (err != 0)
		return move_database_failed(problem);
	err = move_row_load(fleet, move->object, &row);
	if (err == 0) {
		row.move->state = MOVE_LEAVING;
		row.move->server_id = move->from->id;
		*row.server_id = move->to->id;
		err = move_row_save(fleet, &row);
	}
	snprintf(detail, sizeof(detail),
		"from %s; stood still %.1f ms; %.1f MB copied; %.1f s in all%s", move->from->name,
		move->paused_us / 1000, move->bytes / 1e6, took_s, remark);
	if (err == 0 && !row.is_cvm)
		err = store_history_add(fleet->store, row.port.id, "moved", move->to->name, detail);
	if (err != 0) {
		store_rollback(fleet->store);
		return move_database_failed(problem);
	}
	if (store_commit(fleet->store) != 0)
		return move_database_failed(problem);
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
	cJSON *params = move_params(move);
	move_insist_on_phase(fleet, move, FABRIC_AT_DESTINATION);
	cJSON_AddTrueToObject(params, "fenced");
	if (move_ask(move, move->at_to, "move.activate", params, ACTIVATE_MS, NULL, &err) == 0) {
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
	move_side_state(move, move->at_to, "destination", state);
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
		move_abort_copy(move);
	move_insist_on_phase(fleet, move, FABRIC_AT_SOURCE);
	if (move->activated)
		move_abort_copy(move);
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
	move_side_state(move, move->at_to, "destination", state);
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
		if (move_ask(move, sides[i].client, "move.status", NULL, ALIVE_MS, NULL, &err) == 0)
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
	int rc = move_ask(move, move->at_to, "move.activate", NULL, ACTIVATE_MS, NULL, &err);
	move->activated = rc == 0 || may_have_run(move);
	if (rc != 0) {
		snprintf(
			failure, 256, "the destination couldn't be activated: %.200s", err.message);
		return -1;
	}
	if (move->is_cvm)
		move->paused_us = (double)(fleet_now_us() - move->stopped_at_us);
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
	if (!move_insist_on_phase(fleet, move, FABRIC_DATA_MOVED) && fleet_is_stopping(fleet)) {
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
	move_side_state(move, move->at_to, "destination", at_to);
	/* A hostd that was restarted knows nothing of what it activated. */
	move->activated = strcmp(at_to, "active") == 0 ||
			  (hv_wait_connected(move->to->hv, FLEET_SERVER_CONNECT_MS, NULL) == 0 &&
				  hv_vm_get(move->to->hv, move->uuid, &vm, NULL) == 0 &&
				  vm.state == HV_VM_RUNNING);
	snprintf(failure, 256, "edgeplexd was interrupted before the destination ran");
	if (!move->activated)
		return -1;
	move_side_state(move, move->at_from, "source", at_from);
	if (strcmp(at_from, "frozen") == 0 && !move->is_cvm)
		move_ask(move, move->at_from, "move.resume_source", NULL, HOSTD_MS, NULL, &err);
	move->to_guest = guest_open(move->to->hv, move->uuid, NULL, NULL);
	if (move->to_guest == NULL)
		return -1;
	if (!await_work(move, target, false, missing)) {
		snprintf(failure, 256, "the destination didn't show that it works: %s", missing);
		return -1;
	}
	/* A switch that is away gets the phase when it comes back, whoever is asked then. */
	if (!move_insist_on_phase(fleet, move, FABRIC_DATA_MOVED) && fleet_is_stopping(fleet)) {
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
	} else if (move_store_state(fleet, object, MOVE_SWITCHING) != 0) {
		rc = move_database_failed(problem);
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

/* ---- when the source is idle ----------------------------------------------------------------- */

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
