/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The servers: references to them, what is known of each, and VMs there that nobody knows.
 *
 * A server whose connection stands but that doesn't answer holds up every call to it until
 * keepalive gives it up, some 15 s. So only its own keeper, a thread, asks for what is shown of it;
 * whoever wants to show it waits for the keeper for a moment, and then shows what is known.
 */

#include "controller/fleet_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "controller/hostd_client.h"

#define AUDIT_INTERVAL_MS 10000
#define HOSTD_INFO_MS 1000
#define REFRESH_MS 1500 /* for all servers that are to be shown to answer */
#define STALE_MS 1400   /* a server that was asked so long ago, and hasn't answered, is silent */

/* fleet->lock is held. */
static void note_vm(struct fleet_server *server, const struct hv_vm *seen)
{
	struct fleet_vm *vm = fleet_vm_find(server->fleet, seen->uuid);
	if (vm != NULL && vm->server == server && seen->state >= HV_VM_STOPPING)
		fleet_heart_process(vm, HEAL_PROCESS_GONE);
}

/*
 * A VM's keeper is woken, and no other: to ask all guests at once takes tens of milliseconds of all
 * processors, and a move makes several events. Who looks after standbys and spares may want to
 * know, too.
 */
static void vm_changed(struct fleet_server *server, const char *uuid)
{
	struct fleet *fleet = server->fleet;
	pthread_mutex_lock(&fleet->lock);
	for (struct fleet_vm *vm = fleet->vms; vm != NULL; vm = vm->next) {
		if (vm->server != server || strcmp(vm->uuid, uuid) != 0)
			continue;
		vm->kicked = true;
		pthread_cond_signal(&vm->wake);
	}
	fleet_protect_kick(fleet);
	fleet_pool_kick(fleet);
	pthread_mutex_unlock(&fleet->lock);
}

static void on_hv_event(void *ctx, const struct hv_event *event)
{
	struct fleet_server *server = ctx;
	char object[48];
	bool noisy;
	snprintf(object, sizeof(object), "server/%s", server->name);
	switch (event->type) {
	case HV_EVENT_CONNECTED:
		fleet_event(server->fleet, "info", object, "the server is connected");
		break;
	case HV_EVENT_DISCONNECTED:
		fleet_event(server->fleet, "error", object,
			"the server is not connected: %s; check its libvirtd and the way to it",
			event->detail ? event->detail : "");
		break;
	case HV_EVENT_VM:
		log_debug("a VM changed server=%s uuid=%s state=%d", server->name, event->vm.uuid,
			(int)event->vm.state);
		pthread_mutex_lock(&server->fleet->lock);
		noisy = event->vm.state <= HV_VM_PAUSED &&
			fleet_protect_is_noisy(server->fleet, event->vm.uuid);
		note_vm(server, &event->vm);
		pthread_mutex_unlock(&server->fleet->lock);
		if (!noisy)
			vm_changed(server, event->vm.uuid);
		return;
	}
	fleet_kick(server->fleet);
}

int fleet_server_load(struct fleet *fleet, int64_t server_id, struct server *server)
{
	struct server *servers;
	size_t n;
	int err = store_server_list(fleet->store, &servers, &n);
	if (err != 0)
		return err;
	err = ENOENT;
	for (size_t i = 0; i < n; i++) {
		if (servers[i].id == server_id) {
			*server = servers[i];
			err = 0;
		}
	}
	free(servers);
	return err;
}

/* ---- what is known of a server -------------------------------------------------------------- */

/* Asks a hostd what it is. Returns its hostd.info, the caller's; or NULL with `why`. */
static cJSON *ask_hostd(const char *target, struct why *why)
{
	struct jsonrpc_error err = {0};
	cJSON *info = NULL;
	struct hostd_client *client = hostd_client_open(target, NULL, NULL, why);
	if (client == NULL)
		return NULL;
	if (hostd_client_call(client, "hostd.info", NULL, HOSTD_INFO_MS, &info, &err) != 0)
		why_set(why, EHOSTUNREACH, "%s", err.message);
	hostd_client_close(client);
	return info;
}

int fleet_hostd_check(const char *target, struct problem *problem)
{
	struct why why = {""};
	cJSON *info = ask_hostd(target, &why);
	if (info == NULL)
		return problem_set(problem, 503, "hostd-unreachable", "%s", why.text);
	cJSON_Delete(info);
	return 0;
}

static void copy_text(char *to, size_t size, const cJSON *from, const char *field)
{
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(from, field));
	snprintf(to, size, "%s", text != NULL ? text : "");
}

/* Asks libvirt and hostd. Blocks for as long as they hang. */
static void look(struct fleet_server *server, struct server_view *view)
{
	struct server stored;
	*view = (struct server_view){.answers = hv_alive(server->hv)};
	if (view->answers)
		view->answers = hv_server_info(server->hv, &view->info, NULL) == 0;
	if (fleet_server_load(server->fleet, server->id, &stored) != 0 || stored.hostd[0] == '\0')
		return;
	cJSON *info = ask_hostd(stored.hostd, NULL);
	view->hostd_answers = info != NULL;
	copy_text(view->hostd_version, sizeof(view->hostd_version), info, "version");
	copy_text(view->hostd_listen, sizeof(view->hostd_listen), info, "listen");
	cJSON_Delete(info);
}

/* Should a VM of this UUID be on this server? Also if the store can't be read. */
static bool belongs_there(struct fleet *fleet, const struct fleet_server *server, const char *uuid)
{
	struct port *ports = NULL;
	struct cvm *cvms = NULL;
	struct protection protection;
	struct void_copy *voids = NULL;
	struct spare *spares = NULL;
	struct void_pvm *void_pvms = NULL;
	size_t n_ports = 0, n_cvms = 0, n_voids = 0, n_spares = 0, n_void_pvms = 0;
	bool found = store_spare_list(fleet->store, &spares, &n_spares) != 0 ||
		     store_port_list(fleet->store, &ports, &n_ports) != 0 ||
		     store_cvm_list(fleet->store, &cvms, &n_cvms) != 0 ||
		     store_void_list(fleet->store, &voids, &n_voids) != 0 ||
		     store_void_pvm_list(fleet->store, &void_pvms, &n_void_pvms) != 0;
	for (size_t i = 0; i < n_spares; i++)
		found |= spares[i].server_id == server->id && strcmp(spares[i].uuid, uuid) == 0;
	for (size_t i = 0; i < n_void_pvms; i++)
		found |= void_pvms[i].server_id == server->id &&
			 strcmp(void_pvms[i].uuid, uuid) == 0;
	for (size_t i = 0; i < n_ports; i++)
		found |= (ports[i].server_id == server->id ||
				 ports[i].move.server_id == server->id) &&
			 strcmp(ports[i].uuid, uuid) == 0;
	for (size_t i = 0; i < n_cvms; i++)
		found |= (cvms[i].server_id == server->id || cvms[i].move.server_id == server->id ||
				 (store_protection_get(fleet->store, cvms[i].site, &protection) ==
						 0 &&
					 protection.standby_id == server->id)) &&
			 strcmp(cvms[i].uuid, uuid) == 0;
	for (size_t i = 0; i < n_voids; i++)
		found |= voids[i].server_id == server->id && strcmp(voids[i].uuid, uuid) == 0;
	free(ports);
	free(cvms);
	free(voids);
	free(spares);
	free(void_pvms);
	return found;
}

static bool was_orphan(const struct fleet_server *server, const char *uuid)
{
	for (size_t i = 0; i < server->n_orphans; i++) {
		if (strcmp(server->orphans[i].uuid, uuid) == 0)
			return true;
	}
	return false;
}

/*
 * Tells of VMs that carry our metadata but that the store doesn't know: its database was lost, or
 * is an old one. They are left alone, for they may well serve customers. A VM is stored before it
 * is started and ended before it is forgotten, so one that exists after the store was asked is
 * really unknown.
 */
static void audit(struct fleet *fleet, struct fleet_server *server)
{
	struct hv_vm *vms = NULL, seen;
	size_t n = 0, kept = 0;
	char object[48];
	if (!hv_alive(server->hv) || hv_vm_list(server->hv, &vms, &n, NULL) != 0)
		return;
	snprintf(object, sizeof(object), "server/%s", server->name);
	for (size_t i = 0; i < n; i++) {
		if (belongs_there(fleet, server, vms[i].uuid) ||
			hv_vm_get(server->hv, vms[i].uuid, &seen, NULL) != 0)
			continue;
		/* Only this thread writes the list. */
		if (!was_orphan(server, vms[i].uuid))
			fleet_event(fleet, "warning", object,
				"VM %s (%s) runs there but is not in the database: it is left "
				"alone; restore the database, or end it with virsh destroy %s",
				vms[i].name, vms[i].owner, vms[i].name);
		vms[kept++] = vms[i];
	}
	pthread_mutex_lock(&fleet->lock);
	struct hv_vm *before = server->orphans;
	server->orphans = vms;
	server->n_orphans = kept;
	pthread_mutex_unlock(&fleet->lock);
	free(before);
}

static void *keeper_main(void *arg)
{
	struct fleet_server *server = arg;
	struct fleet *fleet = server->fleet;
	int64_t audit_ms = 0;
	bool go_on = true;
	while (go_on) {
		struct server_view view;
		pthread_mutex_lock(&fleet->lock);
		uint64_t asked = server->asked;
		pthread_mutex_unlock(&fleet->lock);
		look(server, &view);
		pthread_mutex_lock(&fleet->lock);
		server->view = view;
		server->answered = asked;
		server->unanswered_ms = fleet_now_ms();
		pthread_cond_broadcast(&fleet->server_cond);
		pthread_mutex_unlock(&fleet->lock);
		if (fleet_now_ms() >= audit_ms) {
			audit(fleet, server);
			audit_ms = fleet_now_ms() + AUDIT_INTERVAL_MS;
		}
		struct timespec until = fleet_deadline_in(AUDIT_INTERVAL_MS);
		int err = 0;
		pthread_mutex_lock(&fleet->lock);
		while (!fleet->stopping && !server->removed && server->asked == asked && err == 0)
			err = pthread_cond_timedwait(&server->wake, &fleet->lock, &until);
		go_on = !fleet->stopping && !server->removed;
		pthread_mutex_unlock(&fleet->lock);
	}
	return NULL;
}

static bool all_answered(const struct fleet *fleet, int64_t server_id, uint64_t asked)
{
	for (const struct fleet_server *s = fleet->servers; s != NULL; s = s->next) {
		if ((server_id == 0 || s->id == server_id) && s->has_keeper && s->answered < asked)
			return false;
	}
	return true;
}

void fleet_servers_refresh(struct fleet *fleet, int64_t server_id)
{
	struct timespec until = fleet_deadline_in(REFRESH_MS);
	int err = 0;
	pthread_mutex_lock(&fleet->lock);
	uint64_t asked = ++fleet->servers_asked;
	for (struct fleet_server *s = fleet->servers; s != NULL; s = s->next) {
		if (server_id != 0 && s->id != server_id)
			continue;
		if (s->answered == s->asked)
			s->unanswered_ms = fleet_now_ms();
		s->asked = asked;
		pthread_cond_signal(&s->wake);
	}
	while (!fleet->stopping && !all_answered(fleet, server_id, asked) && err == 0)
		err = pthread_cond_timedwait(&fleet->server_cond, &fleet->lock, &until);
	pthread_mutex_unlock(&fleet->lock);
}

static void describe_machine(const struct hv_server_info *info, cJSON *json)
{
	cJSON_AddStringToObject(json, "hostname", info->hostname);
	cJSON_AddNumberToObject(json, "cpus", info->cpus);
	cJSON_AddNumberToObject(json, "machine_memory_mib", (double)(info->memory_kib / 1024));
	cJSON_AddNumberToObject(json, "memory_free_mib", (double)(info->memory_free_kib / 1024));
	cJSON_AddStringToObject(json, "accel", info->accel == HV_ACCEL_KVM ? "kvm" : "tcg");
}

void fleet_server_describe(struct fleet *fleet, const struct server *row, cJSON *json)
{
	struct server_view view = {.answers = false};
	cJSON *orphans = cJSON_CreateArray();
	pthread_mutex_lock(&fleet->lock);
	struct fleet_server *server = fleet->servers;
	while (server != NULL && server->id != row->id)
		server = server->next;
	/* What it said before it fell silent isn't so any more. */
	if (server != NULL && (server->answered == server->asked ||
				      fleet_now_ms() - server->unanswered_ms < STALE_MS))
		view = server->view;
	for (size_t i = 0; server != NULL && i < server->n_orphans; i++) {
		cJSON *item = cJSON_CreateObject();
		cJSON_AddStringToObject(item, "name", server->orphans[i].name);
		cJSON_AddStringToObject(item, "uuid", server->orphans[i].uuid);
		cJSON_AddStringToObject(item, "owner", server->orphans[i].owner);
		cJSON_AddItemToArray(orphans, item);
	}
	pthread_mutex_unlock(&fleet->lock);
	cJSON_AddStringToObject(json, "status", view.answers ? "connected" : "unreachable");
	if (view.answers)
		describe_machine(&view.info, json);
	if (row->hostd[0] != '\0')
		cJSON_AddStringToObject(
			json, "hostd_status", view.hostd_answers ? "connected" : "unreachable");
	if (view.hostd_answers) {
		cJSON_AddStringToObject(json, "hostd_version", view.hostd_version);
		cJSON_AddStringToObject(json, "hostd_listen", view.hostd_listen);
	}
	cJSON_AddItemToObject(json, "unknown_vms", orphans);
}

/* ---- references ------------------------------------------------------------------------------ */

struct fleet_server *fleet_server_new(struct fleet *fleet, const struct server *server)
{
	struct fleet_server *fs = calloc(1, sizeof(*fs));
	if (fs == NULL)
		return NULL;
	fs->fleet = fleet;
	fs->refs = 1;
	fleet_cond_init(&fs->wake);
	fleet_cond_init(&fs->watch_wake);
	fs->id = server->id;
	fs->site_id = server->site_id;
	snprintf(fs->name, sizeof(fs->name), "%s", server->name);
	fs->hv = hv_open(fs->name, server->uri, on_hv_event, fs);
	if (fs->hv == NULL) {
		pthread_cond_destroy(&fs->wake);
		pthread_cond_destroy(&fs->watch_wake);
		free(fs);
		return NULL;
	}
	return fs;
}

/* Its keeper holds no reference, so it never gets here itself. */
static void server_free(struct fleet_server *server)
{
	pthread_mutex_lock(&server->fleet->lock);
	server->removed = true;
	pthread_cond_signal(&server->wake);
	pthread_cond_signal(&server->watch_wake);
	pthread_mutex_unlock(&server->fleet->lock);
	if (server->has_keeper)
		pthread_join(server->keeper, NULL);
	fleet_watcher_end(server);
	hv_close(server->hv);
	pthread_cond_destroy(&server->wake);
	pthread_cond_destroy(&server->watch_wake);
	free(server->orphans);
	free(server);
}

void fleet_server_unref(struct fleet *fleet, struct fleet_server *server)
{
	pthread_mutex_lock(&fleet->lock);
	bool last = --server->refs == 0;
	pthread_mutex_unlock(&fleet->lock);
	if (last)
		server_free(server);
}

struct fleet_server *fleet_server_ref(struct fleet *fleet, int64_t id)
{
	pthread_mutex_lock(&fleet->lock);
	struct fleet_server *server = fleet->servers;
	while (server != NULL && server->id != id)
		server = server->next;
	if (server != NULL)
		server->refs++;
	pthread_mutex_unlock(&fleet->lock);
	return server;
}

int fleet_server_open(struct fleet *fleet, const struct server *server, struct fleet_server **out,
	struct problem *problem)
{
	struct why why = {""};
	struct fleet_server *opened = fleet_server_new(fleet, server);
	if (opened == NULL)
		return problem_set(problem, 500, "internal", "no memory");
	if (hv_wait_connected(opened->hv, FLEET_SERVER_CONNECT_MS, &why) != 0) {
		server_free(opened);
		return problem_set(problem, 503, "server-unreachable", "%s", why.text);
	}
	*out = opened;
	return 0;
}

void fleet_server_drop(struct fleet *fleet, struct fleet_server *opened)
{
	(void)fleet;
	server_free(opened);
}

void fleet_server_keep(
	struct fleet *fleet, struct fleet_server *opened, const struct server *server)
{
	opened->id = server->id;
	opened->site_id = server->site_id;
	opened->has_keeper = pthread_create(&opened->keeper, NULL, keeper_main, opened) == 0;
	if (!opened->has_keeper)
		log_error("no thread could be started to look after a server, restart edgeplexd "
			  "server=%s",
			opened->name);
	fleet_watcher_start(opened);
	pthread_mutex_lock(&fleet->lock);
	opened->next = fleet->servers;
	fleet->servers = opened;
	pthread_mutex_unlock(&fleet->lock);
	fleet_kick(fleet);
}

void fleet_server_remove(struct fleet *fleet, int64_t server_id)
{
	struct fleet_server *found = NULL;
	pthread_mutex_lock(&fleet->lock);
	for (struct fleet_server **at = &fleet->servers; *at != NULL; at = &(*at)->next) {
		if ((*at)->id == server_id) {
			found = *at;
			*at = found->next;
			break;
		}
	}
	pthread_mutex_unlock(&fleet->lock);
	if (found != NULL)
		fleet_server_unref(fleet, found);
}

bool fleet_server_connected(struct fleet *fleet, int64_t server_id)
{
	struct fleet_server *server = fleet_server_ref(fleet, server_id);
	if (server == NULL)
		return false;
	bool connected = hv_alive(server->hv);
	fleet_server_unref(fleet, server);
	return connected;
}
