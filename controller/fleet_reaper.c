/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The reaper: one thread of the fleet, which destroys copies of CVMs that have become void, as soon
 * as their servers can be reached, and frees VMs' entries that were replaced. Both may take long: a
 * server or a guest that hangs is waited for.
 */

#include "controller/fleet_internal.h"

#include <stdlib.h>

#include "common/log.h"
#include "controller/fleet_protect.h"
#include "controller/heal.h"
#include "controller/hostd_client.h"
#include "controller/registry.h"

static bool is_void(struct fleet *fleet, const struct void_copy *copy)
{
	struct void_copy *voids = NULL;
	size_t n = 0;
	bool found = false;
	if (store_void_list(fleet->store, &voids, &n) != 0)
		return false;
	for (size_t i = 0; i < n; i++)
		found |= voids[i].site_id == copy->site_id && voids[i].server_id == copy->server_id;
	free(voids);
	return found;
}

void fleet_monitor_forget(struct fleet *fleet, int64_t server_id, const char *uuid)
{
	struct server stored;
	struct jsonrpc_error err = {0};
	char path[300];
	if (fleet_server_load(fleet, server_id, &stored) != 0 || stored.hostd[0] == '\0')
		return;
	struct hostd_client *client = hostd_client_open(stored.hostd, NULL, NULL, NULL);
	cJSON *params = cJSON_CreateObject();
	fleet_qmp_path(fleet, uuid, path);
	cJSON_AddStringToObject(params, "qmp_path", path);
	if (client != NULL && hostd_client_call(client, "monitor.forget", params, PROTECT_REAP_MS,
				      NULL, &err) != 0)
		log_warn("the monitor socket of a VM that was ended may be left server=%s "
			 "path=%s why=\"%s\"",
			stored.name, path, err.message);
	cJSON_Delete(params);
	hostd_client_close(client);
}

/* What that server's hostd knows of the VM is of no use any more. */
static void forget_copy(struct fleet *fleet, int64_t server_id, const char *uuid)
{
	static const char *const methods[] = {"protect.stop", "move.finish"};
	struct server stored;
	struct jsonrpc_error err = {0};
	if (fleet_server_load(fleet, server_id, &stored) != 0 || stored.hostd[0] == '\0')
		return;
	struct hostd_client *client = hostd_client_open(stored.hostd, NULL, NULL, NULL);
	cJSON *params = cJSON_CreateObject();
	cJSON_AddStringToObject(params, "uuid", uuid);
	for (size_t i = 0; i < 2 && client != NULL; i++)
		hostd_client_call(client, methods[i], params, PROTECT_REAP_MS, NULL, &err);
	cJSON_Delete(params);
	hostd_client_close(client);
	fleet_monitor_forget(fleet, server_id, uuid);
}

static void reap(struct fleet *fleet, const struct void_copy *copy)
{
	struct why why = {""};
	struct fleet_server *server = fleet_server_ref(fleet, copy->server_id);
	pthread_mutex_lock(&fleet->lock);
	fleet->reaping_site = copy->site_id;
	fleet->reaping_server = copy->server_id;
	pthread_mutex_unlock(&fleet->lock);
	/* Asked again, now that no standby is started there before we are through. */
	if (server != NULL && hv_alive(server->hv) && is_void(fleet, copy)) {
		if (hv_vm_destroy(server->hv, copy->uuid, &why) == 0) {
			fleet->reap_failed = 0;
			forget_copy(fleet, copy->server_id, copy->uuid);
			store_void_remove(fleet->store, copy->site_id, copy->server_id);
			log_info("a void copy was ended object=cvm/%s server=%s", copy->site,
				copy->server);
		} else if (fleet->reap_failed != copy->server_id) {
			fleet->reap_failed = copy->server_id;
			log_warn("a void copy can't be ended yet object=cvm/%s server=%s "
				 "why=\"%s\"",
				copy->site, copy->server, why.text);
		}
	}
	pthread_mutex_lock(&fleet->lock);
	fleet->reaping_site = fleet->reaping_server = 0;
	pthread_cond_broadcast(&fleet->reaped);
	pthread_mutex_unlock(&fleet->lock);
	if (server != NULL)
		fleet_server_unref(fleet, server);
}

/* Has somebody still to do with a VM of this UUID there? */
static bool is_in_use(struct fleet *fleet, const struct void_pvm *copy)
{
	pthread_mutex_lock(&fleet->lock);
	const struct fleet_vm *vm = fleet_vm_find(fleet, copy->uuid);
	bool used = vm != NULL && vm->server->id == copy->server_id;
	pthread_mutex_unlock(&fleet->lock);
	return used;
}

/* A VM that another one stands in for, or a spare that isn't wanted. */
static void reap_pvm(struct fleet *fleet, const struct void_pvm *copy)
{
	struct why why = {""};
	struct fleet_server *server = fleet_server_ref(fleet, copy->server_id);
	if (server == NULL)
		return;
	pthread_mutex_lock(&fleet->lock);
	bool dead = server->health == HEAL_SERVER_DEAD;
	pthread_mutex_unlock(&fleet->lock);
	/* A server that is just dying would hold up everybody else's. */
	if (!dead && hv_alive(server->hv) && !is_in_use(fleet, copy)) {
		if (hv_vm_destroy(server->hv, copy->uuid, &why) == 0) {
			forget_copy(fleet, copy->server_id, copy->uuid);
			registry_void_pvm_end(fleet->store, copy->uuid, copy->server_id);
			log_info("a void VM was ended object=%s server=%s uuid=%s", copy->object,
				copy->server, copy->uuid);
		} else {
			log_warn("a void VM can't be ended yet object=%s server=%s why=\"%s\"",
				copy->object, copy->server, why.text);
		}
	}
	fleet_server_unref(fleet, server);
}

static void reap_pvms(struct fleet *fleet)
{
	struct void_pvm *voids = NULL;
	size_t n = 0;
	if (store_void_pvm_list(fleet->store, &voids, &n) != 0)
		return;
	for (size_t i = 0; i < n && !fleet_is_stopping(fleet); i++)
		reap_pvm(fleet, &voids[i]);
	free(voids);
}

static void free_retired(struct fleet *fleet)
{
	pthread_mutex_lock(&fleet->lock);
	struct fleet_vm *vm = fleet->retired;
	fleet->retired = NULL;
	pthread_mutex_unlock(&fleet->lock);
	while (vm != NULL) {
		struct fleet_vm *next = vm->next;
		fleet_vm_unref(fleet, vm);
		vm = next;
	}
}

static void *reaper_main(void *arg)
{
	struct fleet *fleet = arg;
	bool go_on = true;
	while (go_on) {
		struct void_copy *voids = NULL;
		size_t n = 0;
		store_void_list(fleet->store, &voids, &n);
		for (size_t i = 0; i < n && !fleet_is_stopping(fleet); i++)
			reap(fleet, &voids[i]);
		free(voids);
		reap_pvms(fleet);
		free_retired(fleet);
		struct timespec until = fleet_deadline_in(PROTECT_REAP_MS);
		int err = 0;
		pthread_mutex_lock(&fleet->lock);
		while (!fleet->stopping && !fleet->reaper_kicked && err == 0)
			err = pthread_cond_timedwait(&fleet->reaper_cond, &fleet->lock, &until);
		fleet->reaper_kicked = false;
		go_on = !fleet->stopping;
		pthread_mutex_unlock(&fleet->lock);
	}
	return NULL;
}

void fleet_reaper_kick(struct fleet *fleet)
{
	pthread_mutex_lock(&fleet->lock);
	fleet->reaper_kicked = true;
	pthread_cond_signal(&fleet->reaper_cond);
	pthread_mutex_unlock(&fleet->lock);
}

void fleet_vm_retire(struct fleet *fleet, struct fleet_vm *vm)
{
	pthread_mutex_lock(&fleet->lock);
	vm->next = fleet->retired;
	fleet->retired = vm;
	fleet->reaper_kicked = true;
	pthread_cond_signal(&fleet->reaper_cond);
	pthread_mutex_unlock(&fleet->lock);
}

bool fleet_reaper_await(struct fleet *fleet, int64_t site_id, int64_t server_id)
{
	pthread_mutex_lock(&fleet->lock);
	while (!fleet->stopping && fleet->reaping_site == site_id &&
		fleet->reaping_server == server_id)
		pthread_cond_wait(&fleet->reaped, &fleet->lock);
	bool go_on = !fleet->stopping;
	pthread_mutex_unlock(&fleet->lock);
	return go_on;
}

int fleet_reaper_start(struct fleet *fleet)
{
	int err = pthread_create(&fleet->reaper, NULL, reaper_main, fleet);
	fleet->has_reaper = err == 0;
	return err;
}

void fleet_reaper_end(struct fleet *fleet)
{
	if (fleet->has_reaper)
		pthread_join(fleet->reaper, NULL);
	fleet->has_reaper = false;
	free_retired(fleet);
}
