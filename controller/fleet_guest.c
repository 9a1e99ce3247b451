/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The fleet's conversation with its guests: configuration, status, health. */

#include "controller/fleet_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "controller/guest_config.h"
#include "controller/health.h"

#define GUEST_CONFIGURE_MS 20000
#define WITHDRAW_MS 10000 /* a guest that hangs is ended without */
#define WITHDRAW_POLL_MS 50

/* Takes `daemon` and `fwd`. */
void fleet_vm_seen(struct fleet *fleet, struct fleet_vm *vm, enum fleet_vm_state state,
	cJSON *daemon, cJSON *fwd, const char *missing)
{
	pthread_mutex_lock(&fleet->lock);
	cJSON *old_daemon = vm->daemon, *old_fwd = vm->fwd;
	bool served = vm->serves;
	vm->state = state;
	vm->daemon = daemon;
	vm->fwd = fwd;
	vm->serves = missing == NULL;
	snprintf(vm->missing, sizeof(vm->missing), "%s", missing ? missing : "");
	const cJSON *uptime = cJSON_GetObjectItemCaseSensitive(daemon, "uptime_ms");
	vm->uptime_ms = cJSON_IsNumber(uptime) ? (int64_t)uptime->valuedouble : -1;
	/* Of one that was replaced nobody wants to hear. */
	bool serves = vm->serves, leaving = vm->leaving || vm->removed;
	pthread_mutex_unlock(&fleet->lock);
	cJSON_Delete(old_daemon);
	cJSON_Delete(old_fwd);
	if (served && !serves && !leaving)
		fleet_event(fleet, "warning", vm->object, "service is impaired: %s", missing);
	else if (!served && serves)
		fleet_event(fleet, "info", vm->object, "gives service");
}

static const char *method_of(const struct fleet_vm *vm, const char *verb, char buf[32])
{
	snprintf(buf, 32, "%s.%s", vm->is_cvm ? "cvm" : "pvm", verb);
	return buf;
}

static cJSON *desired_config(struct fleet *fleet, const struct target *target)
{
	cJSON *config = NULL;
	size_t n = 0;
	if (target->is_cvm) {
		struct port *ports = NULL;
		if (store_port_list(fleet->store, &ports, &n) == 0)
			config = guest_config_cvm(&target->cvm, &target->site, ports, n);
		free(ports);
		return config;
	}
	struct site *sites = NULL;
	if (store_site_list(fleet->store, &sites, &n) == 0)
		config = guest_config_pvm(&target->port, &target->site, &target->cvm, sites, n);
	free(sites);
	return config;
}

/* Has the guest, by its own word, the configuration `id`? */
static bool has_config(const cJSON *status, const char *id)
{
	const cJSON *present = cJSON_GetObjectItemCaseSensitive(status, "config_id");
	return cJSON_IsString(present) && strcmp(present->valuestring, id) == 0;
}

/* One attempt. Returns 0, or -1 with `err`. vm->life is held. */
static int configure_within(struct fleet *fleet, struct fleet_vm *vm, const struct target *target,
	const cJSON *status, int timeout_ms, struct jsonrpc_error *err)
{
	char method[32], id[GUEST_CONFIG_ID_SIZE];
	cJSON *config = desired_config(fleet, target);
	if (config == NULL)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "no memory, or no database");
	guest_config_id(config, id);
	int rc = 0;
	if (!has_config(status, id)) {
		rc = guest_call(vm->guest, method_of(vm, "configure", method), config, timeout_ms,
			NULL, err);
		if (rc == 0)
			log_info("configured object=%s config_id=%s", vm->object, id);
	}
	cJSON_Delete(config);
	return rc;
}

int fleet_configure_locked(struct fleet *fleet, struct fleet_vm *vm, const struct target *target,
	const cJSON *status, struct jsonrpc_error *err)
{
	return configure_within(fleet, vm, target, status, GUEST_CONFIGURE_MS, err);
}

/* What an error answer of a guest means to whoever asked. */
static int guest_problem(
	const struct fleet_vm *vm, const struct jsonrpc_error *err, struct problem *problem)
{
	if (err->code == JSONRPC_UNAVAILABLE)
		return problem_set(problem, 503, "guest-unreachable",
			"the VM of %s doesn't answer: %s; it is started again by itself if it is "
			"gone",
			vm->object, err->message);
	if (err->code == JSONRPC_NOT_FOUND)
		return problem_set(problem, 404, "not-found", "%s: %s", vm->object, err->message);
	if (err->code == JSONRPC_INVALID_PARAMS)
		return problem_field(problem, err->field, "see the detail", "%s", err->message);
	return problem_set(problem, 500, "internal", "the VM of %s answered: %s (%d)", vm->object,
		err->message, err->code);
}

/*
 * A reference to the object's VM, with vm->life held; NULL with `problem`. `target` is as it is
 * then: others may have changed it, or moved the VM, while we waited for our turn.
 */
static struct fleet_vm *lock_vm(
	struct fleet *fleet, const char *object, struct target *target, struct problem *problem)
{
	for (;;) {
		struct fleet_vm *vm = fleet_started_vm_ref(fleet, object, target, problem);
		if (vm == NULL)
			return NULL;
		pthread_mutex_lock(&vm->life);
		if (fleet_target_load(fleet, object, target) != 0)
			fleet_gone(problem, object);
		else if (target->server_id == vm->server->id && strcmp(target->uuid, vm->uuid) == 0)
			return vm;
		pthread_mutex_unlock(&vm->life);
		fleet_vm_unref(fleet, vm);
		if (problem->status != 0)
			return NULL;
	}
}

static bool is_replaced(struct fleet *fleet, const struct fleet_vm *vm)
{
	pthread_mutex_lock(&fleet->lock);
	bool replaced = vm->removed;
	pthread_mutex_unlock(&fleet->lock);
	return replaced;
}

int fleet_vm_configure(struct fleet *fleet, const char *object, struct problem *problem)
{
	struct target target;
	char method[32];
	int64_t until = fleet_now_ms() + FLEET_GUEST_BOOT_MS;
	if (fleet_target_load(fleet, object, &target) != 0)
		return fleet_gone(problem, object);
	while (!target.started && fleet_now_ms() < until) {
		if (!fleet_pause(fleet, FLEET_RETRY_MS))
			return fleet_interrupted(problem);
		if (fleet_target_load(fleet, object, &target) != 0)
			return fleet_gone(problem, object);
	}
	struct fleet_vm *vm = lock_vm(fleet, object, &target, problem);
	if (vm == NULL)
		return -1;
	while (problem->status == 0) {
		struct jsonrpc_error err = {0};
		cJSON *status = NULL;
		int rc = guest_call(vm->guest, method_of(vm, "status", method), NULL,
			FLEET_GUEST_STATUS_MS, &status, &err);
		if (rc == 0)
			rc = fleet_configure_locked(fleet, vm, &target, status, &err);
		cJSON_Delete(status);
		if (rc == 0)
			break;
		if (is_replaced(fleet, vm)) {
			/* A standby took over: it is the one to be configured. */
			pthread_mutex_unlock(&vm->life);
			fleet_vm_unref(fleet, vm);
			vm = lock_vm(fleet, object, &target, problem);
			if (vm == NULL)
				return -1;
			continue;
		}
		if (err.code != JSONRPC_UNAVAILABLE)
			problem_set(problem, 500, "configuration-refused",
				"the VM of %s refused its configuration: %s%s%s", object,
				err.message, err.field[0] ? " at " : "", err.field);
		else if (fleet_now_ms() >= until)
			guest_problem(vm, &err, problem);
		else if (!fleet_pause(fleet, FLEET_RETRY_MS))
			fleet_interrupted(problem);
	}
	pthread_mutex_unlock(&vm->life);
	fleet_vm_unref(fleet, vm);
	return problem->status != 0 ? -1 : 0;
}

/* Has the guest no neighbours any more, and do those that it had know? */
static bool has_withdrawn(const cJSON *status)
{
	const cJSON *closing = cJSON_GetObjectItemCaseSensitive(status, "closing");
	const cJSON *neighbors = cJSON_GetObjectItemCaseSensitive(status, "neighbors");
	return cJSON_IsArray(neighbors) && cJSON_GetArraySize(neighbors) == 0 &&
	       !(cJSON_IsNumber(closing) && closing->valuedouble > 0);
}

bool fleet_vm_withdraw(struct fleet *fleet, const char *object)
{
	struct target target;
	struct problem problem = {0};
	struct jsonrpc_error err = {0};
	char method[32];
	bool withdrawn = false;
	if (fleet_target_load(fleet, object, &target) != 0)
		return false;
	struct fleet_vm *vm = fleet_started_vm_ref(fleet, object, &target, &problem);
	if (vm == NULL)
		return false;
	pthread_mutex_lock(&fleet->lock);
	vm->leaving = true;
	pthread_mutex_unlock(&fleet->lock);
	pthread_mutex_lock(&vm->life);
	int64_t until = fleet_now_ms() + WITHDRAW_MS, left;
	while ((left = until - fleet_now_ms()) > 0) {
		cJSON *status = NULL;
		int rc = guest_call(
			vm->guest, method_of(vm, "status", method), NULL, (int)left, &status, &err);
		left = until - fleet_now_ms();
		if (rc == 0 && left > 0)
			rc = configure_within(fleet, vm, &target, status, (int)left, &err);
		withdrawn = rc == 0 && has_withdrawn(status);
		cJSON_Delete(status);
		if (withdrawn || (rc != 0 && err.code != JSONRPC_UNAVAILABLE) ||
			!fleet_pause(fleet, WITHDRAW_POLL_MS))
			break;
	}
	pthread_mutex_unlock(&vm->life);
	fleet_vm_unref(fleet, vm);
	return withdrawn;
}

bool fleet_cvm_answers(struct fleet *fleet, const char *site)
{
	char object[48];
	bool answers = false;
	snprintf(object, sizeof(object), "cvm/%.30s", site);
	pthread_mutex_lock(&fleet->lock);
	for (struct fleet_vm *vm = fleet->vms; vm != NULL; vm = vm->next) {
		if (strcmp(vm->object, object) == 0)
			answers |= vm->state == FLEET_VM_RUNNING && guest_connected(vm->guest);
	}
	pthread_mutex_unlock(&fleet->lock);
	return answers;
}

/* Asks for everything that tells how the VM does, and remembers it. Returns pvm.status or NULL. */
bool fleet_look(struct fleet *fleet, struct fleet_vm *vm, char *missing, size_t size)
{
	char method[32];
	struct jsonrpc_error err = {0};
	struct hv_vm_stats stats = {0};
	cJSON *daemon = NULL, *fwd = NULL;
	int rc = guest_call(vm->guest, method_of(vm, "status", method), NULL, FLEET_GUEST_STATUS_MS,
		&daemon, &err);
	if (rc == 0 && !vm->is_cvm)
		guest_call(vm->guest, "fwd.status", NULL, FLEET_GUEST_STATUS_MS, &fwd, &err);
	bool serves = vm->is_cvm ? health_cvm(daemon, missing, size)
				 : health_pvm(daemon, fwd, missing, size);
	if (hv_vm_stats(vm->server->hv, vm->uuid, &stats, NULL) == 0) {
		pthread_mutex_lock(&fleet->lock);
		vm->stats = stats;
		pthread_mutex_unlock(&fleet->lock);
	}
	fleet_vm_seen(fleet, vm, rc == 0 ? FLEET_VM_RUNNING : FLEET_VM_STARTING, daemon, fwd,
		serves ? NULL : missing);
	return serves;
}

bool fleet_look_briefly(struct fleet *fleet, struct fleet_vm *vm, char *missing, size_t size)
{
	struct jsonrpc_error err = {0};
	cJSON *daemon = NULL;
	int rc = vm->is_cvm ? 0
			    : guest_call(vm->guest, "pvm.status", NULL, FLEET_GUEST_STATUS_MS,
				      &daemon, &err);
	if (vm->is_cvm || health_pvm_routes(daemon, missing, size)) {
		cJSON_Delete(daemon);
		return fleet_look(fleet, vm, missing, size);
	}
	fleet_vm_seen(
		fleet, vm, rc == 0 ? FLEET_VM_RUNNING : FLEET_VM_STARTING, daemon, NULL, missing);
	return false;
}

bool fleet_vm_serves(struct fleet *fleet, const char *object, char *missing, size_t size)
{
	struct target target;
	struct problem problem = {0};
	if (fleet_target_load(fleet, object, &target) != 0) {
		snprintf(missing, size, "%s doesn't exist any more", object);
		return false;
	}
	struct fleet_vm *vm = fleet_started_vm_ref(fleet, object, &target, &problem);
	if (vm == NULL) {
		snprintf(missing, size, "%s", problem.detail);
		return false;
	}
	bool serves = fleet_look(fleet, vm, missing, size);
	fleet_vm_unref(fleet, vm);
	return serves;
}

int fleet_vm_call(struct fleet *fleet, const char *object, const char *method, const cJSON *params,
	int timeout_ms, cJSON **result, struct problem *problem)
{
	struct target target;
	struct jsonrpc_error err = {0};
	if (fleet_target_load(fleet, object, &target) != 0)
		return fleet_gone(problem, object);
	struct fleet_vm *vm = fleet_started_vm_ref(fleet, object, &target, problem);
	if (vm == NULL)
		return -1;
	int rc = guest_call(vm->guest, method, params, timeout_ms, result, &err);
	if (rc != 0)
		guest_problem(vm, &err, problem);
	fleet_vm_unref(fleet, vm);
	return rc;
}

const char *fleet_vm_state_name(enum fleet_vm_state state)
{
	static const char *const names[] = {"absent", "starting", "running", "unknown"};
	return names[state];
}

void fleet_vm_view(struct fleet *fleet, const char *uuid, struct fleet_vm_view *view)
{
	*view = (struct fleet_vm_view){.state = FLEET_VM_ABSENT, .uptime_ms = -1};
	snprintf(view->missing, sizeof(view->missing), "its VM doesn't run");
	pthread_mutex_lock(&fleet->lock);
	const struct fleet_vm *vm = fleet_vm_find(fleet, uuid);
	if (vm != NULL) {
		view->state = vm->state;
		view->serves = vm->serves;
		view->uptime_ms = vm->uptime_ms;
		snprintf(view->missing, sizeof(view->missing), "%s", vm->missing);
		view->daemon = cJSON_Duplicate(vm->daemon, true);
		view->fwd = cJSON_Duplicate(vm->fwd, true);
		view->cpu_ms = vm->stats.cpu_ms;
		view->rss_kib = vm->stats.rss_kib;
		view->memory_kib = vm->stats.memory_kib;
	}
	pthread_mutex_unlock(&fleet->lock);
}

void fleet_vm_view_free(struct fleet_vm_view *view)
{
	cJSON_Delete(view->daemon);
	cJSON_Delete(view->fwd);
	view->daemon = view->fwd = NULL;
}
