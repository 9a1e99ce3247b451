/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/engine.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "controller/explain.h"
#include "controller/registry.h"

#define WORKERS 12 /* eight moves at once, and others */
#define DRAINERS 2 /* they wait for what workers do, so they are none */
#define POLL_MS 300

struct engine {
	struct store *store;
	struct fleet *fleet;
	pthread_t workers[WORKERS + DRAINERS];
	size_t n_workers;
	pthread_mutex_t lock;
	pthread_cond_t work;    /* a job came, or the end */
	pthread_cond_t changed; /* an operation went on */
	bool stopping;
	struct job_queue {
		struct job {
			struct job *next;
			int64_t id;
		} * first, **tail;
	} jobs, drains;
};

/* One operation, being done. */
struct run {
	struct engine *engine;
	struct operation op;
	struct operation_step *step; /* the one being done or undone */
	const char *name;            /* of the object, without its kind */
	char (*tried)[48];           /* a drain's VMs whose moves were begun */
	size_t n_tried;
};

typedef int (*step_fn)(struct run *run, struct problem *problem);

struct step_kind {
	const char *name;
	step_fn run;
	step_fn undo; /* NULL: nothing to undo */
	bool soft;    /* its failure ends the operation, but nothing is undone */
};

static int64_t realtime_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int64_t monotonic_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int database_failed(struct problem *problem)
{
	return problem_set(problem, 500, "internal",
		"the database can't be used: check disk space and permissions of the state "
		"directory");
}

static void save(struct run *run)
{
	struct engine *engine = run->engine;
	if (store_operation_update(engine->store, &run->op) != 0)
		log_error("an operation's progress could not be stored, check the disk id=%lld",
			(long long)run->op.id);
	pthread_mutex_lock(&engine->lock);
	pthread_cond_broadcast(&engine->changed);
	pthread_mutex_unlock(&engine->lock);
}

/* ---- steps of ports ----------------------------------------------------------------------- */

static int load_port(struct run *run, struct port *port, struct problem *problem)
{
	return registry_find_port(run->engine->store, run->name, port, problem);
}

/*
 * Changes flags of the port's row: what else was done to it meanwhile stays (a spare may have taken
 * over its VM). `*port` becomes what is stored.
 */
static int set_port(struct run *run, void (*set)(struct port *port, bool value), bool value,
	struct port *port, struct problem *problem)
{
	struct store *store = run->engine->store;
	if (store_begin(store) != 0)
		return database_failed(problem);
	int rc = load_port(run, port, problem);
	if (rc == 0) {
		set(port, value);
		if (store_port_update(store, port) != 0)
			rc = database_failed(problem);
	}
	if (rc != 0) {
		store_rollback(store);
		return -1;
	}
	return store_commit(store) == 0 ? 0 : database_failed(problem);
}

static void set_started(struct port *port, bool value)
{
	port->started = value;
}

static void set_in_cvm(struct port *port, bool value)
{
	port->in_cvm = value;
}

static void set_in_fabric(struct port *port, bool value)
{
	port->in_fabric = value;
}

static void set_active(struct port *port, bool value)
{
	(void)value;
	port->state = PORT_ACTIVE;
}

/* Allocation and placement were done in the transaction that stored the port. */
static int step_done(struct run *run, struct problem *problem)
{
	(void)run;
	(void)problem;
	return 0;
}

static int port_forget(struct run *run, struct problem *problem)
{
	struct port port;
	int err = store_port_get(run->engine->store, run->name, &port);
	if (err == ENOENT)
		return 0; /* forgotten before a crash */
	if (err == 0)
		err = registry_port_remove(run->engine->store, &port);
	return err == 0 ? 0 : database_failed(problem);
}

static int port_start(struct run *run, struct problem *problem)
{
	struct port port;
	if (set_port(run, set_started, true, &port, problem) != 0)
		return -1;
	snprintf(run->step->detail, sizeof(run->step->detail), "on server %s", port.server);
	return fleet_vm_start(run->engine->fleet, run->op.object, problem);
}

static int port_stop(struct run *run, struct problem *problem)
{
	struct port port;
	if (set_port(run, set_started, false, &port, problem) != 0)
		return -1;
	return fleet_vm_stop(run->engine->fleet, run->op.object, problem);
}

static int vm_configure(struct run *run, struct problem *problem)
{
	return fleet_vm_configure(run->engine->fleet, run->op.object, problem);
}

/* Never fails: a VM that hangs is to be deleted as well. */
static int vm_withdraw(struct run *run, struct problem *problem)
{
	if (fleet_vm_withdraw(run->engine->fleet, run->op.object))
		return 0;
	if (!fleet_pause(run->engine->fleet, 0))
		return problem_set(problem, 503, "interrupted", "edgeplexd is being stopped");
	snprintf(run->step->detail, sizeof(run->step->detail),
		"its VM doesn't answer, so its BGP peers may keep its routes until their timers "
		"end");
	return 0;
}

static int configure_its_cvm(struct run *run, const struct port *port, struct problem *problem)
{
	char cvm[48];
	snprintf(cvm, sizeof(cvm), "cvm/%s", port->site);
	return fleet_vm_configure(run->engine->fleet, cvm, problem);
}

static int port_join_cvm(struct run *run, struct problem *problem)
{
	struct port port;
	if (set_port(run, set_in_cvm, true, &port, problem) != 0)
		return -1;
	return configure_its_cvm(run, &port, problem);
}

/* Never fails because of the CVM: its keeper tells it as soon as it answers. */
static int port_leave_cvm(struct run *run, struct problem *problem)
{
	struct port port;
	struct problem unreachable = {0};
	if (set_port(run, set_in_cvm, false, &port, problem) != 0)
		return -1;
	if (!fleet_cvm_answers(run->engine->fleet, port.site) ||
		configure_its_cvm(run, &port, &unreachable) != 0)
		snprintf(run->step->detail, sizeof(run->step->detail),
			"the CVM doesn't answer now and will be told when it does");
	return 0;
}

static int sync_switch(struct run *run, const char *site, struct problem *problem)
{
	return fleet_sync_switch(
		run->engine->fleet, site, run->step->detail, sizeof(run->step->detail), problem);
}

static int port_on_switch(struct run *run, bool on, struct problem *problem)
{
	struct port port;
	struct site site;
	if (load_port(run, &port, problem) != 0)
		return -1;
	/* It may have gone since the request; that others' ports have isn't this one's concern. */
	if (on && (registry_find_site(run->engine->store, port.site, &site, problem) != 0 ||
			  fleet_site_check_port(run->engine->fleet, &site, port.switch_port,
				  "/switch_port", problem) != 0))
		return -1;
	if (set_port(run, set_in_fabric, on, &port, problem) != 0)
		return -1;
	return sync_switch(run, port.site, problem);
}

static int port_connect(struct run *run, struct problem *problem)
{
	return port_on_switch(run, true, problem);
}

static int port_fence(struct run *run, struct problem *problem)
{
	return port_on_switch(run, false, problem);
}

/* What a former run of edgeplexd waited counts, as far as the clock can be believed. */
static int64_t wait_left_ms(const struct run *run)
{
	int64_t all = run->op.wait_s * INT64_C(1000);
	int64_t waited = realtime_ms() - run->op.created_ms - run->step->started_ms;
	if (waited < 0)
		return all;
	return waited < all ? all - waited : 0;
}

static int wait_for_service(
	struct run *run, const char *problem_type, const char *kept, struct problem *problem)
{
	struct engine *engine = run->engine;
	int64_t until = monotonic_ms() + wait_left_ms(run);
	char missing[512] = "", told[sizeof(run->step->detail)];
	while (!fleet_vm_serves(engine->fleet, run->op.object, missing, sizeof(missing))) {
		snprintf(told, sizeof(told), "%.*s", (int)sizeof(told) - 1, missing);
		if (strcmp(told, run->step->detail) != 0) {
			snprintf(run->step->detail, sizeof(run->step->detail), "%s", told);
			save(run);
		}
		if (monotonic_ms() >= until)
			return problem_set(problem, 504, problem_type, "after %u s: %s. %s",
				run->op.wait_s, missing, kept);
		if (!fleet_pause(engine->fleet, POLL_MS))
			return problem_set(
				problem, 503, "interrupted", "edgeplexd is being stopped");
	}
	run->step->detail[0] = '\0';
	return 0;
}

static int port_wait(struct run *run, struct problem *problem)
{
	struct port port;
	if (set_port(run, set_active, true, &port, problem) != 0)
		return -1;
	return wait_for_service(run, "no-routes",
		"The port stays provisioned and comes up by itself when that is mended", problem);
}

/* ---- steps of moves ----------------------------------------------------------------------- */

static bool is_cvm(const struct run *run)
{
	return strncmp(run->op.object, "cvm/", 4) == 0;
}

static int move_prepare(struct run *run, struct problem *problem)
{
	/* Its standby ends first; a new one is made after the move. */
	if (is_cvm(run) && fleet_protect_suspend(run->engine->fleet, run->op.object, problem) != 0)
		return -1;
	return fleet_move_prepare(run->engine->fleet, run->op.object, problem);
}

static void note_progress(void *ctx, const char *text)
{
	struct run *run = ctx;
	if (strcmp(run->step->detail, text) == 0)
		return;
	snprintf(run->step->detail, sizeof(run->step->detail), "%s", text);
	save(run);
}

static int move_copy(struct run *run, struct problem *problem)
{
	return fleet_move_copy(run->engine->fleet, run->op.object, note_progress, run, problem);
}

static int move_switch(struct run *run, struct problem *problem)
{
	return fleet_move_switch(run->engine->fleet, run->op.object, run->step->detail,
		sizeof(run->step->detail), problem);
}

static int move_settle(struct run *run, struct problem *problem)
{
	return fleet_move_settle(run->engine->fleet, run->op.object, problem);
}

static int move_end(struct run *run, struct problem *problem)
{
	return fleet_move_end(run->engine->fleet, run->op.object, problem);
}

static int move_undo(struct run *run, struct problem *problem)
{
	return fleet_move_undo(run->engine->fleet, run->op.object, problem);
}

/* ---- steps of servers --------------------------------------------------------------------- */

/* What is known of the moves of a drain. */
struct drain_count {
	size_t there, moving; /* VMs on the server, and what is just being moved away or ended */
	char reason[400];     /* why one can't be moved; "": none such */
};

static void note_reason(struct drain_count *count, const char *object, const char *reason)
{
	if (count->reason[0] == '\0')
		snprintf(count->reason, sizeof(count->reason), "%s: %.350s", object, reason);
}

/* Has this drain tried to move it? It has from now on. */
static bool was_tried(struct run *run, const char *object)
{
	for (size_t i = 0; i < run->n_tried; i++) {
		if (strcmp(run->tried[i], object) == 0)
			return true;
	}
	char(*more)[48] = realloc(run->tried, (run->n_tried + 1) * sizeof(*more));
	if (more == NULL)
		return false;
	run->tried = more;
	snprintf(run->tried[run->n_tried++], sizeof(*more), "%s", object);
	return false;
}

/* Begins the move of a VM unless something works on it. */
static void drain_vm(struct run *run, const char *kind, const char *name, struct drain_count *count)
{
	struct operation op = {.id = 0};
	struct problem problem = {0};
	int64_t id;
	char object[48];
	bool is_cvm = strcmp(kind, "cvm") == 0;
	snprintf(object, sizeof(object), "%s/%.30s", kind, name);
	count->there++;
	if (store_operation_of(run->engine->store, object, &id) == 0) {
		count->moving++;
		return;
	}
	if (was_tried(run, object))
		note_reason(count, object, "its move failed; see its newest operation");
	else if ((is_cvm ? engine_cvm_migrate : engine_port_migrate)(
			 run->engine, name, "", &op, &problem) == 0)
		count->moving++;
	else
		note_reason(count, object, problem.detail);
}

/* Looks at all VMs once, and begins what can be begun. */
static int drain_once(struct run *run, int64_t server_id, struct drain_count *count)
{
	struct port *ports = NULL;
	struct cvm *cvms = NULL;
	struct spare *spares = NULL;
	struct void_pvm *voids = NULL;
	struct void_copy *copies = NULL;
	size_t n_ports = 0, n_cvms = 0, n_spares = 0, n_voids = 0, n_copies = 0;
	bool connected = fleet_server_connected(run->engine->fleet, server_id);
	int err = store_port_list(run->engine->store, &ports, &n_ports);
	if (err == 0)
		err = store_cvm_list(run->engine->store, &cvms, &n_cvms);
	if (err == 0)
		err = store_spare_list(run->engine->store, &spares, &n_spares);
	if (err == 0)
		err = store_void_pvm_list(run->engine->store, &voids, &n_voids);
	if (err == 0)
		err = store_void_list(run->engine->store, &copies, &n_copies);
	/* The pool sees that the server is drained, and has others elsewhere. */
	for (size_t i = 0; i < n_spares && err == 0; i++)
		count->moving += spares[i].server_id == server_id;
	/* What is left of others is ended there as soon as it can be: not now if nobody answers. */
	for (size_t i = 0; i < n_voids && err == 0; i++)
		count->moving += voids[i].server_id == server_id && connected;
	for (size_t i = 0; i < n_copies && err == 0; i++)
		count->moving += copies[i].server_id == server_id && connected;
	/* What has an old copy here is just being moved away. */
	for (size_t i = 0; i < n_ports && err == 0; i++) {
		if (ports[i].server_id == server_id)
			drain_vm(run, "port", ports[i].name, count);
		count->moving += ports[i].move.server_id == server_id;
	}
	for (size_t i = 0; i < n_cvms && err == 0; i++) {
		struct protection protection = {.state = PROTECTION_NONE};
		store_protection_get(run->engine->store, cvms[i].site, &protection);
		/* Where it is can be said only when its standby has taken over. */
		if (cvms[i].server_id == server_id && protection.state == PROTECTION_TAKEOVER)
			count->moving++;
		else if (cvms[i].server_id == server_id)
			drain_vm(run, "cvm", cvms[i].site, count);
		count->moving += cvms[i].move.server_id == server_id;
		/* Its protector sees that the server is drained, and takes the standby away. */
		count->moving += protection.standby_id == server_id;
	}
	free(ports);
	free(cvms);
	free(spares);
	free(voids);
	free(copies);
	return err;
}

static int drain_vms(struct run *run, struct problem *problem)
{
	struct server server;
	for (;;) {
		struct drain_count count = {0};
		if (registry_find_server(run->engine->store, run->name, &server, problem) != 0)
			return -1;
		if (drain_once(run, server.id, &count) != 0)
			return database_failed(problem);
		snprintf(run->step->detail, sizeof(run->step->detail), "%zu to move", count.there);
		save(run);
		if (count.moving == 0 && count.there == 0)
			return 0;
		if (count.moving == 0)
			return problem_set(problem, 409, "not-drained",
				"%zu VMs stay on server %s. %s. The server takes no new ones; "
				"drain it "
				"again when that is mended, or \"edgeplex server undrain %s\"",
				count.there, run->name, count.reason, run->name);
		if (!fleet_pause(run->engine->fleet, POLL_MS))
			return problem_set(
				problem, 503, "interrupted", "edgeplexd is being stopped");
	}
}

/* ---- steps of CVMs ------------------------------------------------------------------------ */

static int load_cvm(struct run *run, struct cvm *cvm, struct problem *problem)
{
	return registry_find_cvm(run->engine->store, run->name, cvm, problem);
}

static int save_cvm(struct run *run, const struct cvm *cvm, struct problem *problem)
{
	return store_cvm_update(run->engine->store, cvm) == 0 ? 0 : database_failed(problem);
}

static int cvm_forget(struct run *run, struct problem *problem)
{
	struct cvm cvm;
	int err = store_cvm_get(run->engine->store, run->name, &cvm);
	if (err == ENOENT)
		return 0;
	if (err == 0)
		err = registry_cvm_remove(run->engine->store, &cvm);
	return err == 0 ? 0 : database_failed(problem);
}

static int cvm_start(struct run *run, struct problem *problem)
{
	struct cvm cvm;
	if (load_cvm(run, &cvm, problem) != 0)
		return -1;
	cvm.started = true;
	if (save_cvm(run, &cvm, problem) != 0)
		return -1;
	snprintf(run->step->detail, sizeof(run->step->detail), "on server %s", cvm.server);
	return fleet_vm_start(run->engine->fleet, run->op.object, problem);
}

static int cvm_stop(struct run *run, struct problem *problem)
{
	struct cvm cvm;
	if (load_cvm(run, &cvm, problem) != 0)
		return -1;
	cvm.started = false;
	if (save_cvm(run, &cvm, problem) != 0)
		return -1;
	return fleet_vm_stop(run->engine->fleet, run->op.object, problem);
}

static int cvm_on_switch(struct run *run, bool on, struct problem *problem)
{
	struct cvm cvm;
	if (load_cvm(run, &cvm, problem) != 0)
		return -1;
	cvm.in_fabric = on;
	if (save_cvm(run, &cvm, problem) != 0)
		return -1;
	return sync_switch(run, run->name, problem);
}

static int cvm_connect(struct run *run, struct problem *problem)
{
	return cvm_on_switch(run, true, problem);
}

static int cvm_fence(struct run *run, struct problem *problem)
{
	return cvm_on_switch(run, false, problem);
}

/* ---- steps of protection ------------------------------------------------------------------ */

static int protect_standby(struct run *run, struct problem *problem)
{
	return fleet_protect_await(run->engine->fleet, run->op.object, FLEET_PROTECT_STARTED,
		note_progress, run, problem);
}

static int protect_copy(struct run *run, struct problem *problem)
{
	return fleet_protect_await(run->engine->fleet, run->op.object, FLEET_PROTECT_WHOLE,
		note_progress, run, problem);
}

static int protect_protect(struct run *run, struct problem *problem)
{
	struct protection protection;
	if (fleet_protect_await(run->engine->fleet, run->op.object, FLEET_PROTECT_WHOLE,
		    note_progress, run, problem) != 0)
		return -1;
	if (store_protection_get(run->engine->store, run->name, &protection) == 0)
		snprintf(run->step->detail, sizeof(run->step->detail),
			"by a standby on server %s, an epoch every %u ms", protection.standby,
			protection.interval_ms);
	return 0;
}

static int protect_end(struct run *run, struct problem *problem)
{
	return fleet_protect_end(run->engine->fleet, run->op.object, false, problem);
}

static int protect_failover(struct run *run, struct problem *problem)
{
	return fleet_protect_failover(run->engine->fleet, run->op.object, run->op.created_ms,
		run->step->detail, sizeof(run->step->detail), problem);
}

/* What the CVM says last isn't to wait for a standby, and none may take over then. */
static int cvm_withdraw(struct run *run, struct problem *problem)
{
	if (fleet_protect_end(run->engine->fleet, run->op.object, true, problem) != 0)
		return -1;
	return vm_withdraw(run, problem);
}

static int cvm_wait(struct run *run, struct problem *problem)
{
	struct cvm cvm;
	if (load_cvm(run, &cvm, problem) != 0)
		return -1;
	cvm.state = PORT_ACTIVE;
	if (save_cvm(run, &cvm, problem) != 0)
		return -1;
	return wait_for_service(run, "no-core",
		"The CVM stays provisioned and connects by itself when that is mended", problem);
}

/* ---- kinds of operations ------------------------------------------------------------------ */

/* `allocate` comes first and is undone last: it owns the object's row and all it was given. */
static const struct step_kind port_create_steps[] = {
	{"allocate", step_done, port_forget, false},
	{"place", step_done, NULL, false},
	{"start-vm", port_start, port_stop, false},
	{"configure-pvm", vm_configure, NULL, false},
	{"configure-cvm", port_join_cvm, port_leave_cvm, false},
	{"program-switch", port_connect, port_fence, false},
	{"wait-for-routes", port_wait, NULL, true},
	{0},
};

static const struct step_kind port_change_steps[] = {
	{"configure-pvm", vm_configure, NULL, true},
	{"program-switch", port_connect, NULL, true},
	{"wait-for-routes", port_wait, NULL, true},
	{0},
};

static const struct step_kind port_delete_steps[] = {
	{"withdraw", vm_withdraw, NULL, true},
	{"fence", port_fence, NULL, true},
	{"leave-cvm", port_leave_cvm, NULL, true},
	{"stop-vm", port_stop, NULL, true},
	{"release", port_forget, NULL, true},
	{0},
};

static const struct step_kind vm_migrate_steps[] = {
	{"place", step_done, move_undo, false},
	{"start-copy", move_prepare, NULL, false},
	{"copy-memory", move_copy, NULL, false},
	{"switch-over", move_switch, NULL, false},
	{"settle", move_settle, NULL, true},
	{"end-source", move_end, NULL, true},
	{0},
};

static const struct step_kind cvm_create_steps[] = {
	{"allocate", step_done, cvm_forget, false},
	{"place", step_done, NULL, false},
	{"start-vm", cvm_start, cvm_stop, false},
	{"configure-cvm", vm_configure, NULL, false},
	{"program-switch", cvm_connect, cvm_fence, false},
	{"wait-for-core", cvm_wait, NULL, true},
	{0},
};

static const struct step_kind cvm_protect_steps[] = {
	{"standby", protect_standby, NULL, true},
	{"copy", protect_copy, NULL, true},
	{"protect", protect_protect, NULL, true},
	{0},
};

static const struct step_kind cvm_unprotect_steps[] = {
	{"unprotect", protect_end, NULL, true},
	{0},
};

static const struct step_kind cvm_failover_steps[] = {
	{"take-over", protect_failover, NULL, true},
	{0},
};

static const struct step_kind cvm_delete_steps[] = {
	{"withdraw", cvm_withdraw, NULL, true},
	{"fence", cvm_fence, NULL, true},
	{"stop-vm", cvm_stop, NULL, true},
	{"release", cvm_forget, NULL, true},
	{0},
};

static const struct step_kind server_drain_steps[] = {
	{"take-out-of-service", step_done, NULL, true},
	{"move-vms", drain_vms, NULL, true},
	{0},
};

static const struct {
	const char *verb, *prefix;
	const struct step_kind *steps;
} kinds[] = {
	{"create", "port/", port_create_steps},
	{"change", "port/", port_change_steps},
	{"delete", "port/", port_delete_steps},
	{"migrate", "port/", vm_migrate_steps},
	{"migrate", "cvm/", vm_migrate_steps},
	{"create", "cvm/", cvm_create_steps},
	{"delete", "cvm/", cvm_delete_steps},
	{"protect", "cvm/", cvm_protect_steps},
	{"unprotect", "cvm/", cvm_unprotect_steps},
	{"failover", "cvm/", cvm_failover_steps},
	{"drain", "server/", server_drain_steps},
};

static const struct step_kind *steps_of(const struct operation *op)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(kinds[i].verb, op->verb) == 0 &&
			strncmp(kinds[i].prefix, op->object, strlen(kinds[i].prefix)) == 0)
			return kinds[i].steps;
	}
	return NULL;
}

/* ---- running ------------------------------------------------------------------------------ */

/* Did the step fail only because edgeplexd ends? It is done again after the next start. */
static bool is_interrupted(struct run *run, const struct problem *problem)
{
	return strcmp(problem->type, "interrupted") == 0 || !fleet_pause(run->engine->fleet, 0);
}

static void finish(struct run *run, enum operation_state state)
{
	struct operation *op = &run->op;
	op->state = state;
	op->finished_ms = realtime_ms();
	save(run);
	if (state == OPERATION_SUCCEEDED)
		fleet_event(run->engine->fleet, "info", op->object, "%s succeeded in %.1f s",
			op->verb, (double)(op->finished_ms - op->created_ms) / 1000);
	else
		fleet_event(run->engine->fleet, "error", op->object, "%s failed: %s", op->verb,
			op->error.detail);
	/* Whoever was moved is still what others know. */
	if (strcmp(op->verb, "migrate") == 0)
		fleet_kick_object(run->engine->fleet, op->object);
	else
		fleet_kick(run->engine->fleet);
}

/* Appends to the operation's error. */
static void add_to_error(struct operation *op, const char *text)
{
	size_t len = strlen(op->error.detail);
	snprintf(op->error.detail + len, sizeof(op->error.detail) - len, "%s", text);
}

/* Takes back what was done, last step first. Returns false if it is to go on after a restart. */
static bool undo(struct run *run, const struct step_kind *steps)
{
	struct operation *op = &run->op;
	for (size_t i = op->n_steps; i-- > 0;) {
		struct problem problem = {0};
		struct operation_step *step = &op->steps[i];
		if (step->state == STEP_PENDING || step->state == STEP_UNDONE)
			continue;
		run->step = step;
		if (steps[i].undo != NULL && steps[i].undo(run, &problem) != 0) {
			if (is_interrupted(run, &problem))
				return false;
			if (problem.status == 404)
				continue; /* it was gone before a crash */
			char text[400];
			snprintf(text, sizeof(text),
				". Taking back step %s failed too: %.200s. Delete %.40s when that "
				"is "
				"mended",
				step->name, problem.detail, op->object);
			add_to_error(op, text);
			finish(run, OPERATION_FAILED);
			return true;
		}
		if (step->state != STEP_FAILED)
			step->state = STEP_UNDONE;
		save(run);
	}
	add_to_error(op, ". Everything was taken back");
	finish(run, OPERATION_FAILED);
	return true;
}

/* Does one step. Returns 0, -1 with the operation's error, or EINTR: go on after a restart. */
static int do_step(struct run *run, const struct step_kind *kind)
{
	struct operation *op = &run->op;
	struct problem problem = {0};
	int64_t begun = realtime_ms();
	if (run->step->state != STEP_RUNNING) {
		run->step->state = STEP_RUNNING;
		run->step->started_ms = begun - op->created_ms;
		save(run);
	}
	int rc = kind->run(run, &problem);
	if (rc != 0 && is_interrupted(run, &problem))
		return EINTR;
	run->step->took_ms = realtime_ms() - op->created_ms - run->step->started_ms;
	run->step->state = rc == 0 ? STEP_SUCCEEDED : STEP_FAILED;
	if (rc != 0) {
		op->error = problem;
		snprintf(run->step->detail, sizeof(run->step->detail), "%.*s",
			(int)sizeof(run->step->detail) - 1, problem.detail);
		op->undoing = !kind->soft;
	}
	save(run);
	return rc;
}

static void run_operation(struct run *run)
{
	run->name = strchr(run->op.object, '/') + 1;
	const struct step_kind *steps = steps_of(&run->op);
	if (steps == NULL) {
		problem_set(
			&run->op.error, 500, "internal", "this edgeplexd knows no such operation");
		finish(run, OPERATION_FAILED);
		return;
	}
	for (size_t i = 0; i < run->op.n_steps && !run->op.undoing; i++) {
		run->step = &run->op.steps[i];
		if (run->step->state == STEP_SUCCEEDED)
			continue;
		int rc = do_step(run, &steps[i]);
		if (rc == EINTR)
			return;
		if (rc != 0 && steps[i].soft) {
			finish(run, OPERATION_FAILED);
			return;
		}
	}
	if (run->op.undoing)
		undo(run, steps);
	else
		finish(run, OPERATION_SUCCEEDED);
}

static void run_jobs(struct engine *engine, struct job_queue *queue)
{
	pthread_mutex_lock(&engine->lock);
	while (!engine->stopping) {
		struct job *job = queue->first;
		struct run run = {.engine = engine};
		if (job == NULL) {
			pthread_cond_wait(&engine->work, &engine->lock);
			continue;
		}
		queue->first = job->next;
		if (queue->first == NULL)
			queue->tail = &queue->first;
		pthread_mutex_unlock(&engine->lock);
		if (store_operation_get(engine->store, job->id, &run.op) == 0)
			run_operation(&run);
		free(run.tried);
		free(job);
		pthread_mutex_lock(&engine->lock);
	}
	pthread_mutex_unlock(&engine->lock);
}

static void *worker_main(void *arg)
{
	struct engine *engine = arg;
	run_jobs(engine, &engine->jobs);
	return NULL;
}

static void *drainer_main(void *arg)
{
	struct engine *engine = arg;
	run_jobs(engine, &engine->drains);
	return NULL;
}

/* If memory runs out the operation stays in the store, and is taken up at the next start. */
static void enqueue(struct engine *engine, int64_t id, bool drain)
{
	struct job_queue *queue = drain ? &engine->drains : &engine->jobs;
	struct job *job = calloc(1, sizeof(*job));
	if (job == NULL) {
		log_error("no memory to begin an operation, restart edgeplexd id=%lld",
			(long long)id);
		return;
	}
	job->id = id;
	pthread_mutex_lock(&engine->lock);
	*queue->tail = job;
	queue->tail = &job->next;
	pthread_cond_broadcast(&engine->work);
	pthread_mutex_unlock(&engine->lock);
}

struct engine *engine_start(struct store *store, struct fleet *fleet)
{
	int64_t *ids = NULL;
	size_t n = 0;
	struct engine *engine = calloc(1, sizeof(*engine));
	if (engine == NULL)
		return NULL;
	engine->store = store;
	engine->fleet = fleet;
	engine->jobs.tail = &engine->jobs.first;
	engine->drains.tail = &engine->drains.first;
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_mutex_init(&engine->lock, NULL);
	pthread_cond_init(&engine->work, NULL);
	pthread_cond_init(&engine->changed, &attr);
	pthread_condattr_destroy(&attr);

	int err = store_operation_unfinished(store, &ids, &n);
	for (size_t i = 0; i < n && err == 0; i++) {
		log_info("taking up an unfinished operation id=%lld", (long long)ids[i]);
		struct operation op;
		if (store_operation_get(store, ids[i], &op) == 0)
			enqueue(engine, ids[i], strcmp(op.verb, "drain") == 0);
	}
	free(ids);
	while (err == 0 && engine->n_workers < WORKERS + DRAINERS) {
		err = pthread_create(&engine->workers[engine->n_workers], NULL,
			engine->n_workers < WORKERS ? worker_main : drainer_main, engine);
		if (err == 0)
			engine->n_workers++;
	}
	if (err != 0) {
		engine_stop(engine);
		errno = err;
		return NULL;
	}
	return engine;
}

void engine_shutdown(struct engine *engine)
{
	pthread_mutex_lock(&engine->lock);
	engine->stopping = true;
	pthread_cond_broadcast(&engine->work);
	pthread_cond_broadcast(&engine->changed);
	pthread_mutex_unlock(&engine->lock);
}

static void free_jobs(struct job_queue *queue)
{
	while (queue->first != NULL) {
		struct job *next = queue->first->next;
		free(queue->first);
		queue->first = next;
	}
}

void engine_stop(struct engine *engine)
{
	if (engine == NULL)
		return;
	engine_shutdown(engine);
	for (size_t i = 0; i < engine->n_workers; i++)
		pthread_join(engine->workers[i], NULL);
	free_jobs(&engine->jobs);
	free_jobs(&engine->drains);
	pthread_mutex_destroy(&engine->lock);
	pthread_cond_destroy(&engine->work);
	pthread_cond_destroy(&engine->changed);
	free(engine);
}

/* ---- beginning operations ----------------------------------------------------------------- */

static void new_operation(
	struct operation *op, const char *verb, const char *kind, const char *name, uint32_t wait_s)
{
	*op = (struct operation){
		.state = OPERATION_RUNNING,
		.wait_s = wait_s,
		.created_ms = realtime_ms(),
	};
	snprintf(op->verb, sizeof(op->verb), "%s", verb);
	snprintf(op->object, sizeof(op->object), "%s/%.30s", kind, name);
	for (const struct step_kind *step = steps_of(op); step->name != NULL; step++) {
		struct operation_step *stored = &op->steps[op->n_steps++];
		snprintf(stored->name, sizeof(stored->name), "%s", step->name);
		stored->started_ms = stored->took_ms = -1;
	}
}

static bool server_reachable(void *ctx, int64_t server_id)
{
	return fleet_server_connected(ctx, server_id);
}

int engine_port_create(struct engine *engine, struct port *port, uint32_t wait_s,
	struct operation *op, struct problem *problem)
{
	struct site site;
	new_operation(op, "create", "port", port->name, wait_s);
	/* First with nothing kept: only what could be created at all is worth asking the switch. */
	struct port trial = *port;
	struct operation trial_op = *op;
	if (registry_port_create(engine->store, &trial, &trial_op, server_reachable, engine->fleet,
		    true, problem) != 0 ||
		registry_find_site(engine->store, port->site, &site, problem) != 0 ||
		fleet_site_check_port(
			engine->fleet, &site, port->switch_port, "/switch_port", problem) != 0 ||
		registry_port_create(engine->store, port, op, server_reachable, engine->fleet,
			false, problem) != 0)
		return -1;
	explain_warn(engine->store, engine->fleet, op->object);
	enqueue(engine, op->id, false);
	return 0;
}

int engine_port_change(struct engine *engine, const struct port *port, uint32_t wait_s,
	struct operation *op, struct problem *problem)
{
	new_operation(op, "change", "port", port->name, wait_s);
	if (registry_port_change(engine->store, port, op, problem) != 0)
		return -1;
	enqueue(engine, op->id, false);
	return 0;
}

int engine_port_delete(
	struct engine *engine, const char *name, struct operation *op, struct problem *problem)
{
	new_operation(op, "delete", "port", name, 0);
	if (registry_port_delete(engine->store, name, op, problem) != 0)
		return -1;
	enqueue(engine, op->id, false);
	return 0;
}

int engine_port_migrate(struct engine *engine, const char *name, const char *server,
	struct operation *op, struct problem *problem)
{
	new_operation(op, "migrate", "port", name, 0);
	if (registry_port_move(
		    engine->store, name, server, op, server_reachable, engine->fleet, problem) != 0)
		return -1;
	explain_warn(engine->store, engine->fleet, op->object);
	enqueue(engine, op->id, false);
	return 0;
}

int engine_cvm_migrate(struct engine *engine, const char *site, const char *server,
	struct operation *op, struct problem *problem)
{
	new_operation(op, "migrate", "cvm", site, 0);
	if (registry_cvm_move(
		    engine->store, site, server, op, server_reachable, engine->fleet, problem) != 0)
		return -1;
	explain_warn(engine->store, engine->fleet, op->object);
	enqueue(engine, op->id, false);
	return 0;
}

int engine_cvm_protect(struct engine *engine, const char *site,
	const struct protection_request *request, struct operation *op, struct problem *problem)
{
	new_operation(op, "protect", "cvm", site, 0);
	if (registry_cvm_protect(engine->store, site, request, op, server_reachable, engine->fleet,
		    problem) != 0)
		return -1;
	enqueue(engine, op->id, false);
	return 0;
}

int engine_cvm_unprotect(
	struct engine *engine, const char *site, struct operation *op, struct problem *problem)
{
	new_operation(op, "unprotect", "cvm", site, 0);
	if (registry_cvm_unprotect(engine->store, site, op, problem) != 0)
		return -1;
	enqueue(engine, op->id, false);
	return 0;
}

int engine_cvm_failover(
	struct engine *engine, const char *site, struct operation *op, struct problem *problem)
{
	struct cvm cvm;
	new_operation(op, "failover", "cvm", site, 0);
	if (registry_find_cvm(engine->store, site, &cvm, problem) != 0)
		return -1;
	/* The store doesn't know of the trouble of this moment. */
	if (!fleet_protected_now(engine->fleet, site))
		return problem_set(problem, 409, "not-protected",
			"the CVM of site %s has no standby that could take over now: see "
			"\"edgeplex cvm show %s\"",
			site, site);
	if (registry_cvm_failover(engine->store, site, op, problem) != 0)
		return -1;
	enqueue(engine, op->id, false);
	return 0;
}

int engine_server_drain(
	struct engine *engine, const char *name, struct operation *op, struct problem *problem)
{
	new_operation(op, "drain", "server", name, 0);
	if (registry_server_drain(engine->store, name, op, problem) != 0)
		return -1;
	enqueue(engine, op->id, true);
	return 0;
}

int engine_cvm_create(struct engine *engine, const char *site, uint32_t wait_s,
	struct operation *op, struct problem *problem)
{
	new_operation(op, "create", "cvm", site, wait_s);
	if (registry_cvm_create(
		    engine->store, site, op, server_reachable, engine->fleet, problem) != 0)
		return -1;
	explain_warn(engine->store, engine->fleet, op->object);
	enqueue(engine, op->id, false);
	return 0;
}

int engine_cvm_delete(
	struct engine *engine, const char *site, struct operation *op, struct problem *problem)
{
	new_operation(op, "delete", "cvm", site, 0);
	if (registry_cvm_delete(engine->store, site, op, problem) != 0)
		return -1;
	enqueue(engine, op->id, false);
	return 0;
}

/* ---- looking ------------------------------------------------------------------------------ */

static size_t steps_begun(const struct operation *op)
{
	size_t n = 0;
	for (size_t i = 0; i < op->n_steps; i++)
		n += op->steps[i].state != STEP_PENDING;
	return n;
}

int engine_operation_wait(struct engine *engine, int64_t id, unsigned wait_ms, size_t since_step,
	struct operation *op)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += wait_ms / 1000;
	until.tv_nsec += (long)(wait_ms % 1000) * 1000000;
	if (until.tv_nsec >= 1000000000) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000;
	}
	for (;;) {
		/*
		 * The store is read under the lock, so that no change is missed; that's the only
		 * place where this lock is held over it, and the store never takes this lock.
		 */
		pthread_mutex_lock(&engine->lock);
		int err = store_operation_get(engine->store, id, op);
		bool news = err != 0 || op->state != OPERATION_RUNNING ||
			    steps_begun(op) > since_step || engine->stopping;
		if (!news && wait_ms > 0)
			news = pthread_cond_timedwait(&engine->changed, &engine->lock, &until) ==
			       ETIMEDOUT;
		else
			news = true;
		pthread_mutex_unlock(&engine->lock);
		if (news)
			return err;
	}
}

const char *engine_operation_state_name(enum operation_state state)
{
	static const char *const names[] = {"running", "succeeded", "failed"};
	return names[state];
}

static const char *step_state_name(enum step_state state)
{
	static const char *const names[] = {"pending", "running", "succeeded", "failed", "undone"};
	return names[state];
}

cJSON *engine_operation_json(const struct operation *op)
{
	size_t done = 0;
	const char *current = "";
	cJSON *json = cJSON_CreateObject();
	cJSON *steps = cJSON_CreateArray();
	for (size_t i = 0; i < op->n_steps; i++) {
		const struct operation_step *step = &op->steps[i];
		done += step->state == STEP_SUCCEEDED;
		if (step->state == STEP_RUNNING || step->state == STEP_FAILED)
			current = step->name;
		cJSON *item = cJSON_CreateObject();
		cJSON_AddStringToObject(item, "name", step->name);
		cJSON_AddStringToObject(item, "state", step_state_name(step->state));
		if (step->started_ms >= 0)
			cJSON_AddNumberToObject(item, "started_ms", (double)step->started_ms);
		if (step->took_ms >= 0)
			cJSON_AddNumberToObject(item, "took_ms", (double)step->took_ms);
		cJSON_AddStringToObject(item, "detail", step->detail);
		cJSON_AddItemToArray(steps, item);
	}
	cJSON_AddNumberToObject(json, "id", (double)op->id);
	cJSON_AddStringToObject(json, "verb", op->verb);
	cJSON_AddStringToObject(json, "object", op->object);
	cJSON_AddStringToObject(json, "state", engine_operation_state_name(op->state));
	cJSON_AddStringToObject(json, "step", current);
	cJSON_AddItemToObject(json, "steps", steps);
	cJSON_AddNumberToObject(
		json, "progress", op->n_steps == 0 ? 1 : (double)done / (double)op->n_steps);
	if (op->error.status != 0)
		cJSON_AddItemToObject(json, "error", problem_to_json(&op->error));
	else
		cJSON_AddNullToObject(json, "error");
	model_add_time(json, "created", op->created_ms);
	if (op->finished_ms != 0)
		model_add_time(json, "finished", op->finished_ms);
	else
		cJSON_AddNullToObject(json, "finished");
	return json;
}
