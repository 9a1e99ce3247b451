/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Locks, in the order in which they may be taken:
 *   vm->life       a VM's life cycle and configuration: held while something is done to it
 *   site->switch_lock  one fabric_apply() at a time, and in the order of the facts
 *   fleet->lock    lists, reference counts, what was last seen; never held over a blocking call
 * The store's own mutex may be taken under any of them but fleet->lock.
 *
 * Callbacks of the hypervisor, guest and fabric modules take fleet->lock only.
 */

#include "controller/fleet.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "controller/fabric.h"
#include "controller/guest.h"
#include "controller/guest_config.h"
#include "controller/health.h"
#include "controller/hypervisor.h"

#define KEEPER_INTERVAL_MS 2000
#define SWITCH_CONNECT_MS 5000
#define SERVER_CONNECT_MS 20000 /* a server's first connection probes its QEMU: up to 10 s */
#define SWITCH_APPLY_MS 10000
#define GUEST_BOOT_MS 120000 /* several VMs at once without KVM */
#define GUEST_STATUS_MS 4000
#define GUEST_CONFIGURE_MS 20000
#define RETRY_MS 250
#define START_RETRY_MS 5000
#define AUDIT_INTERVAL_MS 10000
#define NO_HASH 0

struct fleet_site {
	struct fleet_site *next;
	struct fleet *fleet;
	unsigned refs;
	int64_t id;
	char name[MODEL_NAME_SIZE];
	struct fabric *fabric;
	pthread_mutex_t switch_lock;
	uint64_t applied;    /* hash of the rules in force; NO_HASH: not known. Under switch_lock */
	bool switch_trouble; /* an event told so. Under switch_lock */
	pthread_t keeper;
	bool has_keeper, removed, kicked;
	pthread_cond_t wake; /* with fleet->lock */
};

struct fleet_server {
	struct fleet_server *next;
	struct fleet *fleet;
	unsigned refs;
	int64_t id;
	char name[MODEL_NAME_SIZE];
	struct hv *hv;
	/* VMs of ours that the store doesn't know. Under fleet->lock. */
	struct hv_vm *orphans;
	size_t n_orphans;
};

struct fleet_vm {
	struct fleet_vm *next;
	struct fleet *fleet;
	unsigned refs;
	pthread_t keeper; /* of its own: a guest that hangs holds up nobody else */
	bool has_keeper, removed, kicked;
	pthread_cond_t wake; /* with fleet->lock */
	char object[48];
	char uuid[MODEL_UUID_SIZE];
	bool is_cvm;
	struct fleet_server *server; /* a reference */
	struct guest *guest;
	pthread_mutex_t life;
	int64_t start_after_ms; /* monotonic: don't try again to start it before. Under life */
	bool trouble;           /* an event told that it can't be started or configured */

	/* What was last seen; under fleet->lock. */
	enum fleet_vm_state state;
	bool serves;
	char missing[512];
	int64_t uptime_ms;
	cJSON *daemon, *fwd;
	struct hv_vm_stats stats;
};

struct pending_event {
	struct pending_event *next;
	char severity[8], object[48], text[512];
};

struct fleet {
	struct store *store;
	char image_dir[480], kernel[512], initrd[512], console_dir[256];
	pthread_mutex_t lock;
	pthread_cond_t stop_cond;
	bool stopping;
	struct fleet_site *sites;
	struct fleet_server *servers;
	struct fleet_vm *vms;

	pthread_t auditor; /* looks for VMs that the store doesn't know */
	bool has_auditor;
	pthread_t scribe; /* writes events to the store */
	bool has_scribe;
	pthread_cond_t event_cond;
	struct pending_event *events, **events_tail;
	uint64_t events_stored; /* since the start, plus one */
	pthread_cond_t stored_cond;
};

/* All that is to be known to start and configure a VM, as the store has it now. */
struct target {
	bool is_cvm;
	struct port port; /* if !is_cvm */
	struct cvm cvm;   /* the VM itself, or the CVM of the port's site */
	struct site site;
	const char *uuid;
	int64_t server_id;
	bool started;
};

static int64_t monotonic_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static struct timespec deadline_in(unsigned ms)
{
	struct timespec at;
	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += ms / 1000;
	at.tv_nsec += (long)(ms % 1000) * 1000000;
	if (at.tv_nsec >= 1000000000) {
		at.tv_sec++;
		at.tv_nsec -= 1000000000;
	}
	return at;
}

static void cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

bool fleet_pause(struct fleet *fleet, unsigned ms)
{
	struct timespec until = deadline_in(ms);
	int err = 0;
	pthread_mutex_lock(&fleet->lock);
	while (!fleet->stopping && err == 0)
		err = pthread_cond_timedwait(&fleet->stop_cond, &fleet->lock, &until);
	bool go_on = !fleet->stopping;
	pthread_mutex_unlock(&fleet->lock);
	return go_on;
}

static bool is_stopping(struct fleet *fleet)
{
	pthread_mutex_lock(&fleet->lock);
	bool stopping = fleet->stopping;
	pthread_mutex_unlock(&fleet->lock);
	return stopping;
}

static int interrupted(struct problem *problem)
{
	return problem_set(problem, 503, "interrupted",
		"edgeplexd is being stopped; it goes on when it is started again");
}

/* ---- events ------------------------------------------------------------------------------- */

void fleet_event(
	struct fleet *fleet, const char *severity, const char *object, const char *fmt, ...)
{
	struct pending_event *event = calloc(1, sizeof(*event));
	if (event == NULL)
		return;
	snprintf(event->severity, sizeof(event->severity), "%s", severity);
	snprintf(event->object, sizeof(event->object), "%s", object);
	va_list args;
	va_start(args, fmt);
	vsnprintf(event->text, sizeof(event->text), fmt, args);
	va_end(args);
	if (strcmp(severity, "error") == 0)
		log_error("%s object=%s", event->text, object);
	else if (strcmp(severity, "warning") == 0)
		log_warn("%s object=%s", event->text, object);
	else
		log_info("%s object=%s", event->text, object);
	pthread_mutex_lock(&fleet->lock);
	*fleet->events_tail = event;
	fleet->events_tail = &event->next;
	pthread_cond_signal(&fleet->event_cond);
	pthread_mutex_unlock(&fleet->lock);
}

static void *scribe_main(void *arg)
{
	struct fleet *fleet = arg;
	pthread_mutex_lock(&fleet->lock);
	while (!fleet->stopping || fleet->events != NULL) {
		struct pending_event *event = fleet->events;
		if (event == NULL) {
			pthread_cond_wait(&fleet->event_cond, &fleet->lock);
			continue;
		}
		fleet->events = event->next;
		if (fleet->events == NULL)
			fleet->events_tail = &fleet->events;
		pthread_mutex_unlock(&fleet->lock);
		store_event_add(fleet->store, event->severity, event->object, event->text);
		free(event);
		pthread_mutex_lock(&fleet->lock);
		fleet->events_stored++;
		pthread_cond_broadcast(&fleet->stored_cond);
	}
	pthread_mutex_unlock(&fleet->lock);
	return NULL;
}

bool fleet_event_wait(struct fleet *fleet, uint64_t *seen, unsigned ms)
{
	struct timespec until = deadline_in(ms);
	int err = 0;
	pthread_mutex_lock(&fleet->lock);
	while (!fleet->stopping && fleet->events_stored == *seen && err == 0)
		err = pthread_cond_timedwait(&fleet->stored_cond, &fleet->lock, &until);
	*seen = fleet->events_stored;
	bool go_on = !fleet->stopping;
	pthread_mutex_unlock(&fleet->lock);
	return go_on;
}

/* ---- sites -------------------------------------------------------------------------------- */

static void kick_locked(struct fleet *fleet)
{
	for (struct fleet_site *site = fleet->sites; site != NULL; site = site->next) {
		site->kicked = true;
		pthread_cond_signal(&site->wake);
	}
	for (struct fleet_vm *vm = fleet->vms; vm != NULL; vm = vm->next) {
		vm->kicked = true;
		pthread_cond_signal(&vm->wake);
	}
}

void fleet_kick(struct fleet *fleet)
{
	pthread_mutex_lock(&fleet->lock);
	kick_locked(fleet);
	pthread_mutex_unlock(&fleet->lock);
}

static void on_fabric_event(void *ctx, enum fabric_event_type type, const char *detail)
{
	struct fleet_site *site = ctx;
	char object[48];
	snprintf(object, sizeof(object), "site/%s", site->name);
	const char *text = detail ? detail : "";
	switch (type) {
	case FABRIC_EVENT_CONNECTED:
		fleet_event(site->fleet, "info", object, "the edge switch is connected");
		break;
	case FABRIC_EVENT_DISCONNECTED:
		fleet_event(site->fleet, "error", object,
			"the edge switch is not connected: %s; check ovs-vswitchd and the switch's "
			"controller socket",
			text);
		break;
	case FABRIC_EVENT_RECONCILED:
		fleet_event(site->fleet, "warning", object,
			"the edge switch's rules were not as they should be and were put right: %s",
			text);
		break;
	case FABRIC_EVENT_ERROR:
		fleet_event(site->fleet, "error", object,
			"the edge switch's rules can't be put right: %s", text);
		break;
	case FABRIC_EVENT_PORTS:
		log_debug("ports of the switch changed site=%s detail=\"%s\"", site->name, text);
		break;
	}
	fleet_kick(site->fleet);
}

static void *keeper_main(void *arg);

static struct fleet_site *site_new(
	struct fleet *fleet, const struct site *site, struct problem *problem)
{
	struct why why = {""};
	struct fleet_site *fs = calloc(1, sizeof(*fs));
	if (fs == NULL) {
		problem_set(problem, 500, "internal", "no memory");
		return NULL;
	}
	fs->fleet = fleet;
	fs->refs = 1;
	fs->id = site->id;
	snprintf(fs->name, sizeof(fs->name), "%s", site->name);
	pthread_mutex_init(&fs->switch_lock, NULL);
	cond_init(&fs->wake);
	if (fabric_open(fs->name, site->switch_target, on_fabric_event, fs, &fs->fabric, &why) !=
		0) {
		problem_field(problem, "/switch", "write it like unix:/run/openvswitch/edge.mgmt",
			"%s", why.text);
		pthread_mutex_destroy(&fs->switch_lock);
		pthread_cond_destroy(&fs->wake);
		free(fs);
		return NULL;
	}
	return fs;
}

static void site_free(struct fleet_site *site)
{
	fabric_close(site->fabric);
	pthread_mutex_destroy(&site->switch_lock);
	pthread_cond_destroy(&site->wake);
	free(site);
}

static void site_unref(struct fleet *fleet, struct fleet_site *site)
{
	pthread_mutex_lock(&fleet->lock);
	bool last = --site->refs == 0;
	pthread_mutex_unlock(&fleet->lock);
	if (last)
		site_free(site);
}

static struct fleet_site *site_ref(struct fleet *fleet, int64_t id)
{
	pthread_mutex_lock(&fleet->lock);
	struct fleet_site *site = fleet->sites;
	while (site != NULL && site->id != id)
		site = site->next;
	if (site != NULL)
		site->refs++;
	pthread_mutex_unlock(&fleet->lock);
	return site;
}

static void switch_unreachable(struct problem *problem, const struct why *why)
{
	problem_set(problem, 503, "switch-unreachable", "%s", why->text);
}

int fleet_site_open(struct fleet *fleet, const struct site *site, struct fleet_site **out,
	struct problem *problem)
{
	struct why why = {""};
	struct fleet_site *opened = site_new(fleet, site, problem);
	if (opened == NULL)
		return -1;
	if (fabric_wait_connected(opened->fabric, SWITCH_CONNECT_MS, &why) != 0)
		switch_unreachable(problem, &why);
	else if (fabric_check_port(opened->fabric, site->core_port, &why) == ENOENT)
		problem_field(problem, "/core/switch_port",
			"name the switch's port that leads to the core", "%s", why.text);
	if (problem->status != 0) {
		site_free(opened);
		return -1;
	}
	*out = opened;
	return 0;
}

void fleet_site_drop(struct fleet *fleet, struct fleet_site *opened)
{
	(void)fleet;
	site_free(opened);
}

void fleet_site_keep(struct fleet *fleet, struct fleet_site *opened, const struct site *site)
{
	pthread_mutex_lock(&fleet->lock);
	opened->id = site->id;
	opened->next = fleet->sites;
	fleet->sites = opened;
	opened->has_keeper = pthread_create(&opened->keeper, NULL, keeper_main, opened) == 0;
	if (!opened->has_keeper)
		log_error("no thread could be started for the site, restart edgeplexd site=%s",
			site->name);
	kick_locked(fleet);
	pthread_mutex_unlock(&fleet->lock);
}

/* Takes the site from the list, if it is there; its keeper ends. */
static void site_retire(struct fleet *fleet, struct fleet_site *site)
{
	bool listed = false;
	pthread_mutex_lock(&fleet->lock);
	for (struct fleet_site **at = &fleet->sites; *at != NULL; at = &(*at)->next) {
		if (*at == site) {
			*at = site->next;
			listed = true;
			break;
		}
	}
	site->removed = true;
	pthread_cond_signal(&site->wake);
	pthread_mutex_unlock(&fleet->lock);
	if (!listed)
		return; /* somebody else has retired it */
	if (site->has_keeper)
		pthread_join(site->keeper, NULL);
	site_unref(fleet, site);
}

void fleet_site_remove(struct fleet *fleet, int64_t site_id)
{
	struct fleet_site *site = site_ref(fleet, site_id);
	if (site == NULL)
		return;
	site_retire(fleet, site);
	site_unref(fleet, site);
}

bool fleet_site_connected(struct fleet *fleet, int64_t site_id)
{
	struct fleet_site *site = site_ref(fleet, site_id);
	if (site == NULL)
		return false;
	bool connected = fabric_connected(site->fabric);
	site_unref(fleet, site);
	return connected;
}

int fleet_site_check_port(struct fleet *fleet, const struct site *site, const char *port,
	const char *field, struct problem *problem)
{
	struct why why = {""};
	struct fleet_site *fs = site_ref(fleet, site->id);
	if (fs == NULL)
		return problem_set(problem, 404, "not-found", "there is no site %s", site->name);
	int err = fabric_check_port(fs->fabric, port, &why);
	site_unref(fleet, fs);
	if (err == ENOENT)
		return problem_field(
			problem, field, "name a port that the edge switch has", "%s", why.text);
	if (err != 0) {
		switch_unreachable(problem, &why);
		return -1;
	}
	return 0;
}

/* ---- servers ------------------------------------------------------------------------------ */

static void on_hv_event(void *ctx, const struct hv_event *event)
{
	struct fleet_server *server = ctx;
	char object[48];
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
		break;
	}
	fleet_kick(server->fleet);
}

static struct fleet_server *server_new(struct fleet *fleet, const struct server *server)
{
	struct fleet_server *fs = calloc(1, sizeof(*fs));
	if (fs == NULL)
		return NULL;
	fs->fleet = fleet;
	fs->refs = 1;
	fs->id = server->id;
	snprintf(fs->name, sizeof(fs->name), "%s", server->name);
	fs->hv = hv_open(fs->name, server->uri, on_hv_event, fs);
	if (fs->hv == NULL) {
		free(fs);
		return NULL;
	}
	return fs;
}

static void server_free(struct fleet_server *server)
{
	hv_close(server->hv);
	free(server->orphans);
	free(server);
}

static void server_unref(struct fleet *fleet, struct fleet_server *server)
{
	pthread_mutex_lock(&fleet->lock);
	bool last = --server->refs == 0;
	pthread_mutex_unlock(&fleet->lock);
	if (last)
		server_free(server);
}

static struct fleet_server *server_ref(struct fleet *fleet, int64_t id)
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
	struct fleet_server *opened = server_new(fleet, server);
	if (opened == NULL)
		return problem_set(problem, 500, "internal", "no memory");
	if (hv_wait_connected(opened->hv, SERVER_CONNECT_MS, &why) != 0) {
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
	pthread_mutex_lock(&fleet->lock);
	opened->id = server->id;
	opened->next = fleet->servers;
	fleet->servers = opened;
	kick_locked(fleet);
	pthread_mutex_unlock(&fleet->lock);
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
		server_unref(fleet, found);
}

bool fleet_server_connected(struct fleet *fleet, int64_t server_id)
{
	struct fleet_server *server = server_ref(fleet, server_id);
	if (server == NULL)
		return false;
	bool connected = hv_alive(server->hv);
	server_unref(fleet, server);
	return connected;
}

void fleet_server_describe(struct fleet *fleet, int64_t server_id, cJSON *json)
{
	struct hv_server_info info;
	struct fleet_server *server = server_ref(fleet, server_id);
	bool connected = server != NULL && hv_alive(server->hv);
	cJSON_AddStringToObject(json, "status", connected ? "connected" : "unreachable");
	if (connected && hv_server_info(server->hv, &info, NULL) == 0) {
		cJSON_AddStringToObject(json, "hostname", info.hostname);
		cJSON_AddNumberToObject(json, "cpus", info.cpus);
		cJSON_AddNumberToObject(
			json, "machine_memory_mib", (double)(info.memory_kib / 1024));
		cJSON_AddNumberToObject(
			json, "memory_free_mib", (double)(info.memory_free_kib / 1024));
		cJSON_AddStringToObject(json, "accel", info.accel == HV_ACCEL_KVM ? "kvm" : "tcg");
	}
	cJSON *orphans = cJSON_AddArrayToObject(json, "unknown_vms");
	if (server == NULL)
		return;
	pthread_mutex_lock(&fleet->lock);
	for (size_t i = 0; i < server->n_orphans; i++) {
		cJSON *item = cJSON_CreateObject();
		cJSON_AddStringToObject(item, "name", server->orphans[i].name);
		cJSON_AddStringToObject(item, "uuid", server->orphans[i].uuid);
		cJSON_AddStringToObject(item, "owner", server->orphans[i].owner);
		cJSON_AddItemToArray(orphans, item);
	}
	pthread_mutex_unlock(&fleet->lock);
	server_unref(fleet, server);
}

/* ---- VMs that nobody knows ----------------------------------------------------------------- */

/* Should a VM of this UUID be on this server? Also if the store can't be read. */
static bool belongs_there(struct fleet *fleet, const struct fleet_server *server, const char *uuid)
{
	struct port *ports = NULL;
	struct cvm *cvms = NULL;
	size_t n_ports = 0, n_cvms = 0;
	bool found = store_port_list(fleet->store, &ports, &n_ports) != 0 ||
		     store_cvm_list(fleet->store, &cvms, &n_cvms) != 0;
	for (size_t i = 0; i < n_ports; i++)
		found |= ports[i].server_id == server->id && strcmp(ports[i].uuid, uuid) == 0;
	for (size_t i = 0; i < n_cvms; i++)
		found |= cvms[i].server_id == server->id && strcmp(cvms[i].uuid, uuid) == 0;
	free(ports);
	free(cvms);
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

/* ---- VMs ---------------------------------------------------------------------------------- */

static bool is_cvm_object(const char *object)
{
	return strncmp(object, "cvm/", 4) == 0;
}

/* ENOENT when the object, or something that it needs, isn't in the store. */
static int target_load(struct fleet *fleet, const char *object, struct target *target)
{
	const char *name = strchr(object, '/');
	memset(target, 0, sizeof(*target));
	if (name == NULL)
		return ENOENT;
	name++;
	int err;
	target->is_cvm = is_cvm_object(object);
	if (target->is_cvm) {
		err = store_cvm_get(fleet->store, name, &target->cvm);
		target->uuid = target->cvm.uuid;
		target->server_id = target->cvm.server_id;
		target->started = target->cvm.started;
		return err != 0 ? err
				: store_site_get(fleet->store, target->cvm.site, &target->site);
	}
	err = store_port_get(fleet->store, name, &target->port);
	if (err == 0)
		err = store_site_get(fleet->store, target->port.site, &target->site);
	if (err == 0)
		err = store_cvm_get(fleet->store, target->port.site, &target->cvm);
	target->uuid = target->port.uuid;
	target->server_id = target->port.server_id;
	target->started = target->port.started;
	return err;
}

static int gone(struct problem *problem, const char *object)
{
	return problem_set(problem, 404, "not-found", "%s doesn't exist (any more)", object);
}

static void *vm_keeper_main(void *arg);

/* Its keeper holds no reference, so it never gets here itself. */
static void vm_free(struct fleet *fleet, struct fleet_vm *vm)
{
	if (vm->has_keeper)
		pthread_join(vm->keeper, NULL);
	guest_close(vm->guest);
	server_unref(fleet, vm->server);
	pthread_cond_destroy(&vm->wake);
	pthread_mutex_destroy(&vm->life);
	cJSON_Delete(vm->daemon);
	cJSON_Delete(vm->fwd);
	free(vm);
}

static void vm_unref(struct fleet *fleet, struct fleet_vm *vm)
{
	pthread_mutex_lock(&fleet->lock);
	bool last = --vm->refs == 0;
	pthread_mutex_unlock(&fleet->lock);
	if (last)
		vm_free(fleet, vm);
}

static struct fleet_vm *vm_find(struct fleet *fleet, const char *uuid)
{
	for (struct fleet_vm *vm = fleet->vms; vm != NULL; vm = vm->next) {
		if (strcmp(vm->uuid, uuid) == 0)
			return vm;
	}
	return NULL;
}

/* A reference to the VM's entry, which is made if there is none. */
static struct fleet_vm *vm_ref(struct fleet *fleet, const char *object, const struct target *target,
	struct problem *problem)
{
	pthread_mutex_lock(&fleet->lock);
	struct fleet_vm *vm = vm_find(fleet, target->uuid);
	if (vm != NULL)
		vm->refs++;
	pthread_mutex_unlock(&fleet->lock);
	if (vm != NULL)
		return vm;

	struct fleet_server *server = server_ref(fleet, target->server_id);
	if (server == NULL) {
		problem_set(problem, 503, "server-unreachable",
			"the server of %s isn't known: check the event list", object);
		return NULL;
	}
	struct fleet_vm *made = calloc(1, sizeof(*made));
	struct guest *guest = made ? guest_open(server->hv, target->uuid, NULL, NULL) : NULL;
	if (guest == NULL) {
		free(made);
		server_unref(fleet, server);
		problem_set(problem, 500, "internal", "no memory");
		return NULL;
	}
	made->fleet = fleet;
	made->refs = 2; /* the list's and the caller's */
	made->server = server;
	made->guest = guest;
	made->is_cvm = target->is_cvm;
	made->uptime_ms = -1;
	made->state = FLEET_VM_UNKNOWN;
	snprintf(made->object, sizeof(made->object), "%s", object);
	snprintf(made->uuid, sizeof(made->uuid), "%s", target->uuid);
	pthread_mutex_init(&made->life, NULL);
	cond_init(&made->wake);

	pthread_mutex_lock(&fleet->lock);
	vm = vm_find(fleet, target->uuid);
	if (vm != NULL) {
		vm->refs++; /* somebody was faster */
	} else {
		made->next = fleet->vms;
		fleet->vms = made;
		made->has_keeper = pthread_create(&made->keeper, NULL, vm_keeper_main, made) == 0;
		if (!made->has_keeper)
			log_error("no thread could be started for the VM, restart edgeplexd "
				  "object=%s",
				object);
	}
	pthread_mutex_unlock(&fleet->lock);
	if (vm == NULL)
		return made;
	vm_free(fleet, made);
	return vm;
}

/* The same for a VM that should run; there is none for one that shouldn't. */
static struct fleet_vm *started_vm_ref(struct fleet *fleet, const char *object,
	const struct target *target, struct problem *problem)
{
	if (target->started)
		return vm_ref(fleet, object, target, problem);
	problem_set(problem, 503, "guest-unreachable",
		"the VM of %s isn't started: wait until its operation has ended", object);
	return NULL;
}

/* The list lets go of it: the VM doesn't exist any more. */
static void vm_forget(struct fleet *fleet, struct fleet_vm *vm)
{
	bool listed = false;
	pthread_mutex_lock(&fleet->lock);
	for (struct fleet_vm **at = &fleet->vms; *at != NULL; at = &(*at)->next) {
		if (*at == vm) {
			*at = vm->next;
			vm->removed = true;
			pthread_cond_signal(&vm->wake);
			listed = true;
			break;
		}
	}
	pthread_mutex_unlock(&fleet->lock);
	if (listed)
		vm_unref(fleet, vm);
}

static bool row_is_gone(struct fleet *fleet, const struct fleet_vm *vm)
{
	struct target target;
	int err = target_load(fleet, vm->object, &target);
	return err == ENOENT || (err == 0 && strcmp(target.uuid, vm->uuid) != 0);
}

/* Lets go of entries whose row is gone: made by somebody who read it just before it went. */
static void sweep_vms(struct fleet *fleet)
{
	size_t n = 0;
	pthread_mutex_lock(&fleet->lock);
	for (struct fleet_vm *vm = fleet->vms; vm != NULL; vm = vm->next)
		n++;
	struct fleet_vm **all = calloc(n + 1, sizeof(*all));
	n = 0;
	for (struct fleet_vm *vm = fleet->vms; vm != NULL && all != NULL; vm = vm->next) {
		vm->refs++;
		all[n++] = vm;
	}
	pthread_mutex_unlock(&fleet->lock);
	for (size_t i = 0; i < n; i++) {
		if (row_is_gone(fleet, all[i]))
			vm_forget(fleet, all[i]);
		vm_unref(fleet, all[i]);
	}
	free(all);
}

static void *auditor_main(void *arg)
{
	struct fleet *fleet = arg;
	do {
		struct server *servers = NULL;
		size_t n = 0;
		sweep_vms(fleet);
		if (store_server_list(fleet->store, &servers, &n) != 0)
			continue;
		for (size_t i = 0; i < n && !is_stopping(fleet); i++) {
			struct fleet_server *server = server_ref(fleet, servers[i].id);
			if (server == NULL)
				continue;
			audit(fleet, server);
			server_unref(fleet, server);
		}
		free(servers);
	} while (fleet_pause(fleet, AUDIT_INTERVAL_MS));
	return NULL;
}

/* Takes `daemon` and `fwd`. */
static void vm_seen(struct fleet *fleet, struct fleet_vm *vm, enum fleet_vm_state state,
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
	bool serves = vm->serves;
	pthread_mutex_unlock(&fleet->lock);
	cJSON_Delete(old_daemon);
	cJSON_Delete(old_fwd);
	if (served && !serves)
		fleet_event(fleet, "warning", vm->object, "service is impaired: %s", missing);
	else if (!served && serves)
		fleet_event(fleet, "info", vm->object, "gives service");
}

static void add_nic(
	struct hv_vm_spec *spec, const char *bridge, struct ep_mac mac, uint32_t vlan, uint32_t mtu)
{
	struct hv_nic *nic = &spec->nics[spec->n_nics++];
	nic->mac = mac;
	nic->vlan = (uint16_t)vlan;
	nic->mtu = (uint16_t)mtu;
	snprintf(nic->bridge, sizeof(nic->bridge), "%s", bridge);
}

static int find_bridge(struct fleet *fleet, int64_t server_id, char bridge[MODEL_IFNAME_SIZE])
{
	struct server *servers;
	size_t n;
	int err = store_server_list(fleet->store, &servers, &n);
	if (err != 0)
		return err;
	err = ENOENT;
	for (size_t i = 0; i < n; i++) {
		if (servers[i].id == server_id) {
			snprintf(bridge, MODEL_IFNAME_SIZE, "%s", servers[i].bridge);
			err = 0;
		}
	}
	free(servers);
	return err;
}

/* The image's kernel command line for the role, with the VM's name. Errno. */
static int read_cmdline(struct fleet *fleet, const char *role, const char *name, char *buf,
	size_t size, struct why *why)
{
	char path[512];
	snprintf(path, sizeof(path), "%s/cmdline.%s", fleet->image_dir, role);
	FILE *file = fopen(path, "re");
	if (file == NULL)
		return why_set(
			why, ENOENT, "%s can't be read (%s): check --image", path, strerror(errno));
	bool read = fgets(buf, (int)size, file) != NULL;
	fclose(file);
	if (!read)
		return why_set(why, ENOENT, "%s is empty: make the image again", path);
	size_t len = strcspn(buf, "\n");
	int n = snprintf(buf + len, size - len, " edgeplex.name=%s", name);
	if (n < 0 || (size_t)n >= size - len)
		return why_set(why, EINVAL, "%s is too long", path);
	return 0;
}

/* Starts the VM if it doesn't run. vm->life is held. */
static int start_locked(
	struct fleet *fleet, struct fleet_vm *vm, const struct target *target, struct why *why)
{
	char cmdline[1024], console[384], bridge[MODEL_IFNAME_SIZE];
	const char *name = strchr(vm->object, '/') + 1;
	struct hv_vm_spec spec = {
		.role = target->is_cvm ? "cvm" : "pvm",
		.owner = vm->object,
		.memory_kib =
			target->is_cvm ? target->site.cvm_memory_kib : target->site.pvm_memory_kib,
		.kernel = fleet->kernel,
		.initrd = fleet->initrd,
		.cmdline = cmdline,
		.viommu = !target->is_cvm,
	};
	int err = find_bridge(fleet, target->server_id, bridge);
	if (err != 0)
		return why_set(why, err, "its server isn't in the store");
	snprintf(spec.name, sizeof(spec.name), "%s-%s", spec.role, name);
	snprintf(spec.uuid, sizeof(spec.uuid), "%s", target->uuid);
	err = read_cmdline(fleet, spec.role, name, cmdline, sizeof(cmdline), why);
	if (err != 0)
		return err;
	if (fleet->console_dir[0] != '\0') {
		snprintf(console, sizeof(console), "%s/%s.log", fleet->console_dir, spec.name);
		spec.console_log = console;
	}
	if (target->is_cvm) {
		add_nic(&spec, bridge, model_pe_mac(target->site.id), target->cvm.vlan_core,
			target->site.core_mtu);
		add_nic(&spec, bridge, model_inside_mac(target->site.id), target->cvm.vlan_inside,
			target->site.core_mtu);
	} else {
		add_nic(&spec, bridge, model_port_mac(target->port.id), target->port.vlan_cust,
			target->port.mtu);
		add_nic(&spec, bridge, model_pe_mac(target->site.id), target->port.vlan_core,
			target->site.core_mtu);
	}
	return hv_vm_start(vm->server->hv, &spec, why);
}

/* After a start of edgeplexd the connection may not be there yet. Errno. */
static int wait_server(struct fleet *fleet, struct fleet_vm *vm, struct why *why)
{
	int64_t until = monotonic_ms() + SERVER_CONNECT_MS;
	int err;
	while ((err = hv_wait_connected(vm->server->hv, RETRY_MS, why)) == ETIMEDOUT &&
		monotonic_ms() < until && !is_stopping(fleet))
		;
	return err;
}

/* Waits until the guest has booted. Errno. */
static int wait_guest(struct fleet *fleet, struct fleet_vm *vm, struct why *why)
{
	int64_t until = monotonic_ms() + GUEST_BOOT_MS;
	int err;
	while ((err = guest_wait_ready(vm->guest, 1000, why)) == ETIMEDOUT &&
		monotonic_ms() < until && !is_stopping(fleet))
		;
	return err;
}

int fleet_vm_start(struct fleet *fleet, const char *object, struct problem *problem)
{
	struct target target;
	struct why why = {""};
	if (target_load(fleet, object, &target) != 0)
		return gone(problem, object);
	struct fleet_vm *vm = vm_ref(fleet, object, &target, problem);
	if (vm == NULL)
		return -1;
	pthread_mutex_lock(&vm->life);
	int err = wait_server(fleet, vm, &why);
	if (err == 0)
		err = start_locked(fleet, vm, &target, &why);
	pthread_mutex_unlock(&vm->life);
	if (err == EHOSTUNREACH || err == ETIMEDOUT)
		problem_set(problem, 503, "server-unreachable",
			"server %s can't start the VM of %s: %s; check its libvirtd",
			vm->server->name, object, why.text);
	else if (err != 0)
		problem_set(problem, 500, "vm-failed", "server %s can't start the VM of %s: %s",
			vm->server->name, object, why.text);
	if (err == 0 && wait_guest(fleet, vm, &why) != 0)
		problem_set(problem, 503, "guest-unreachable",
			"the VM of %s runs on server %s but its guest didn't answer within %d s: "
			"%s; "
			"check that the server isn't overloaded and the image is right",
			object, vm->server->name, GUEST_BOOT_MS / 1000, why.text);
	vm_unref(fleet, vm);
	return problem->status != 0 ? -1 : 0;
}

int fleet_vm_stop(struct fleet *fleet, const char *object, struct problem *problem)
{
	struct target target;
	struct why why = {""};
	if (target_load(fleet, object, &target) != 0)
		return gone(problem, object);
	struct fleet_vm *vm = vm_ref(fleet, object, &target, problem);
	if (vm == NULL)
		return -1;
	pthread_mutex_lock(&vm->life);
	int err = wait_server(fleet, vm, &why);
	if (err == 0)
		err = hv_vm_destroy(vm->server->hv, vm->uuid, &why);
	pthread_mutex_unlock(&vm->life);
	if (err != 0)
		problem_set(problem, 503, "server-unreachable",
			"server %s can't end the VM of %s: %s; check its libvirtd, then delete "
			"again",
			vm->server->name, object, why.text);
	else
		vm_forget(fleet, vm);
	vm_unref(fleet, vm);
	return err != 0 ? -1 : 0;
}

/* ---- guests ------------------------------------------------------------------------------- */

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
static int configure_locked(struct fleet *fleet, struct fleet_vm *vm, const struct target *target,
	const cJSON *status, struct jsonrpc_error *err)
{
	char method[32], id[GUEST_CONFIG_ID_SIZE];
	cJSON *config = desired_config(fleet, target);
	if (config == NULL)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "no memory, or no database");
	guest_config_id(config, id);
	int rc = 0;
	if (!has_config(status, id)) {
		rc = guest_call(vm->guest, method_of(vm, "configure", method), config,
			GUEST_CONFIGURE_MS, NULL, err);
		if (rc == 0)
			log_info("configured object=%s config_id=%s", vm->object, id);
	}
	cJSON_Delete(config);
	return rc;
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

int fleet_vm_configure(struct fleet *fleet, const char *object, struct problem *problem)
{
	struct target target;
	char method[32];
	int64_t until = monotonic_ms() + GUEST_BOOT_MS;
	if (target_load(fleet, object, &target) != 0)
		return gone(problem, object);
	while (!target.started && monotonic_ms() < until) {
		if (!fleet_pause(fleet, RETRY_MS))
			return interrupted(problem);
		if (target_load(fleet, object, &target) != 0)
			return gone(problem, object);
	}
	struct fleet_vm *vm = started_vm_ref(fleet, object, &target, problem);
	if (vm == NULL)
		return -1;
	pthread_mutex_lock(&vm->life);
	/* Others may have changed what this guest should have while we waited for our turn. */
	if (target_load(fleet, object, &target) != 0)
		gone(problem, object);
	while (problem->status == 0) {
		struct jsonrpc_error err = {0};
		cJSON *status = NULL;
		int rc = guest_call(vm->guest, method_of(vm, "status", method), NULL,
			GUEST_STATUS_MS, &status, &err);
		if (rc == 0)
			rc = configure_locked(fleet, vm, &target, status, &err);
		cJSON_Delete(status);
		if (rc == 0)
			break;
		if (err.code != JSONRPC_UNAVAILABLE)
			problem_set(problem, 500, "configuration-refused",
				"the VM of %s refused its configuration: %s%s%s", object,
				err.message, err.field[0] ? " at " : "", err.field);
		else if (monotonic_ms() >= until)
			guest_problem(vm, &err, problem);
		else if (!fleet_pause(fleet, RETRY_MS))
			interrupted(problem);
	}
	pthread_mutex_unlock(&vm->life);
	vm_unref(fleet, vm);
	return problem->status != 0 ? -1 : 0;
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
static bool look(struct fleet *fleet, struct fleet_vm *vm, char *missing, size_t size)
{
	char method[32];
	struct jsonrpc_error err = {0};
	struct hv_vm_stats stats = {0};
	cJSON *daemon = NULL, *fwd = NULL;
	int rc = guest_call(
		vm->guest, method_of(vm, "status", method), NULL, GUEST_STATUS_MS, &daemon, &err);
	if (rc == 0 && !vm->is_cvm)
		guest_call(vm->guest, "fwd.status", NULL, GUEST_STATUS_MS, &fwd, &err);
	bool serves = vm->is_cvm ? health_cvm(daemon, missing, size)
				 : health_pvm(daemon, fwd, missing, size);
	if (hv_vm_stats(vm->server->hv, vm->uuid, &stats, NULL) == 0) {
		pthread_mutex_lock(&fleet->lock);
		vm->stats = stats;
		pthread_mutex_unlock(&fleet->lock);
	}
	vm_seen(fleet, vm, rc == 0 ? FLEET_VM_RUNNING : FLEET_VM_STARTING, daemon, fwd,
		serves ? NULL : missing);
	return serves;
}

bool fleet_vm_serves(struct fleet *fleet, const char *object, char *missing, size_t size)
{
	struct target target;
	struct problem problem = {0};
	if (target_load(fleet, object, &target) != 0) {
		snprintf(missing, size, "%s doesn't exist any more", object);
		return false;
	}
	struct fleet_vm *vm = started_vm_ref(fleet, object, &target, &problem);
	if (vm == NULL) {
		snprintf(missing, size, "%s", problem.detail);
		return false;
	}
	bool serves = look(fleet, vm, missing, size);
	vm_unref(fleet, vm);
	return serves;
}

int fleet_vm_call(struct fleet *fleet, const char *object, const char *method, const cJSON *params,
	int timeout_ms, cJSON **result, struct problem *problem)
{
	struct target target;
	struct jsonrpc_error err = {0};
	if (target_load(fleet, object, &target) != 0)
		return gone(problem, object);
	struct fleet_vm *vm = started_vm_ref(fleet, object, &target, problem);
	if (vm == NULL)
		return -1;
	int rc = guest_call(vm->guest, method, params, timeout_ms, result, &err);
	if (rc != 0)
		guest_problem(vm, &err, problem);
	vm_unref(fleet, vm);
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
	const struct fleet_vm *vm = vm_find(fleet, uuid);
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

/* ---- the switch --------------------------------------------------------------------------- */

struct site_facts {
	struct fabric_site site;
	struct fabric_port *fabric_ports;
	struct port *ports; /* own the addresses that fabric_ports refer to */
	struct server *servers;
	size_t n_ports, n_servers;
};

static void facts_free(struct site_facts *facts)
{
	free(facts->fabric_ports);
	free(facts->ports);
	free(facts->servers);
}

static const char *trunk_of(const struct site_facts *facts, int64_t server_id)
{
	for (size_t i = 0; i < facts->n_servers; i++) {
		if (facts->servers[i].id == server_id)
			return facts->servers[i].trunk;
	}
	return NULL;
}

static void add_fabric_port(struct site_facts *facts, const struct port *port)
{
	const char *trunk = trunk_of(facts, port->server_id);
	if (trunk == NULL)
		return;
	struct fabric_port *fp = &facts->fabric_ports[facts->site.n_ports++];
	*fp = (struct fabric_port){
		.id = (uint32_t)port->id,
		.customer = (uint32_t)port->customer_id,
		.vlan = (uint16_t)port->vlan,
		.has_ce_mac = port->has_ce_mac,
		.ce_mac = port->ce_mac,
		.addresses = port->addresses,
		.n_addresses = port->n_addresses,
		.mac = model_port_mac(port->id),
		.cust_vlan = (uint16_t)port->vlan_cust,
		.core_vlan = (uint16_t)port->vlan_core,
		.inside_address = port->inside,
		.label = port->label,
	};
	snprintf(fp->switch_port, sizeof(fp->switch_port), "%s", port->switch_port);
	snprintf(fp->trunk, sizeof(fp->trunk), "%s", trunk);
}

/* Errno. The facts are to be freed in any case. */
static int facts_load(struct fleet *fleet, const char *name, struct site_facts *facts)
{
	struct site site;
	struct cvm cvm;
	memset(facts, 0, sizeof(*facts));
	int err = store_begin(fleet->store); /* all facts of one moment */
	if (err != 0)
		return err;
	err = store_site_get(fleet->store, name, &site);
	if (err == 0)
		err = store_port_list(fleet->store, &facts->ports, &facts->n_ports);
	if (err == 0)
		err = store_server_list(fleet->store, &facts->servers, &facts->n_servers);
	int no_cvm = err == 0 ? store_cvm_get(fleet->store, name, &cvm) : ENOENT;
	store_rollback(fleet->store);
	if (err != 0)
		return err;
	facts->fabric_ports = calloc(facts->n_ports + 1, sizeof(*facts->fabric_ports));
	if (facts->fabric_ports == NULL)
		return ENOMEM;

	facts->site = (struct fabric_site){
		.id = (uint32_t)site.id,
		.pe_mac = model_pe_mac(site.id),
		.pe_address = site.pe_address,
		.core_address = site.core_address,
		.gateway = site.core_gateway,
		.transport_label = site.transport_label,
		.ports = facts->fabric_ports,
	};
	snprintf(facts->site.core_port, sizeof(facts->site.core_port), "%s", site.core_port);
	const char *trunk = no_cvm == 0 && cvm.in_fabric ? trunk_of(facts, cvm.server_id) : NULL;
	if (trunk != NULL) {
		facts->site.cvm = (struct fabric_cvm){
			.present = true,
			.core_vlan = (uint16_t)cvm.vlan_core,
			.inside_vlan = (uint16_t)cvm.vlan_inside,
			.inside_mac = model_inside_mac(site.id),
			.inside_address = cvm.inside,
		};
		snprintf(facts->site.cvm.trunk, sizeof(facts->site.cvm.trunk), "%s", trunk);
	}
	for (size_t i = 0; i < facts->n_ports; i++) {
		if (facts->ports[i].site_id == site.id && facts->ports[i].in_fabric)
			add_fabric_port(facts, &facts->ports[i]);
	}
	return 0;
}

static uint64_t hash_bytes(uint64_t hash, const void *data, size_t n)
{
	const unsigned char *byte = data;
	for (size_t i = 0; i < n; i++)
		hash = (hash ^ byte[i]) * UINT64_C(0x100000001b3);
	return hash;
}

static uint64_t hash_rules(const struct fabric_rules *rules)
{
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	for (size_t i = 0; i < rules->n; i++) {
		const struct fabric_rule *rule = &rules->rules[i];
		hash = hash_bytes(hash, &rule->cookie, sizeof(rule->cookie));
		hash = hash_bytes(hash, &rule->table, sizeof(rule->table));
		hash = hash_bytes(hash, &rule->priority, sizeof(rule->priority));
		hash = hash_bytes(hash, rule->in_port, strlen(rule->in_port) + 1);
		hash = hash_bytes(hash, rule->match, strlen(rule->match) + 1);
		hash = hash_bytes(hash, &rule->untag, sizeof(rule->untag));
		hash = hash_bytes(hash, rule->edit, strlen(rule->edit) + 1);
		hash = hash_bytes(hash, &rule->goto_table, sizeof(rule->goto_table));
		for (size_t j = 0; j < rule->n_outputs; j++) {
			const struct fabric_output *out = &rule->outputs[j];
			hash = hash_bytes(hash, out->port, strlen(out->port) + 1);
			hash = hash_bytes(hash, &out->vlan, sizeof(out->vlan));
		}
	}
	return hash == NO_HASH ? 1 : hash;
}

/* `always`: apply also what was applied before. Errno; site->switch_lock is held. */
static int sync_switch_locked(struct fleet *fleet, struct fleet_site *site, bool always,
	struct fabric_result *result, struct why *why)
{
	struct site_facts facts;
	struct fabric_rules *rules = NULL;
	int err = facts_load(fleet, site->name, &facts);
	if (err != 0)
		why_set(why, err, "the site's desired state can't be read");
	else
		err = fabric_rules_compute(&facts.site, &rules, why);
	facts_free(&facts);
	if (err != 0)
		return err;
	uint64_t hash = hash_rules(rules);
	if (always || hash != site->applied) {
		err = fabric_apply(site->fabric, rules, SWITCH_APPLY_MS, result, why);
		site->applied = err == 0 ? hash : NO_HASH;
	}
	fabric_rules_free(rules);
	return err;
}

int fleet_sync_switch(
	struct fleet *fleet, const char *name, char *detail, size_t size, struct problem *problem)
{
	struct site site;
	struct why why = {""};
	struct fabric_result result = {0};
	if (store_site_get(fleet->store, name, &site) != 0)
		return problem_set(problem, 404, "not-found", "there is no site %s", name);
	struct fleet_site *fs = site_ref(fleet, site.id);
	if (fs == NULL)
		return problem_set(problem, 404, "not-found", "there is no site %s", name);
	pthread_mutex_lock(&fs->switch_lock);
	int err = fabric_wait_connected(fs->fabric, SWITCH_CONNECT_MS, &why);
	if (err == 0)
		err = sync_switch_locked(fleet, fs, true, &result, &why);
	pthread_mutex_unlock(&fs->switch_lock);
	site_unref(fleet, fs);

	/* A port that somebody else's rules need isn't there: no reason to fail. An event told. */
	if (err == ENODEV)
		err = 0;
	if (err == ETIMEDOUT || err == EHOSTUNREACH)
		switch_unreachable(problem, &why);
	else if (err != 0)
		problem_set(problem, 500, "switch-refused",
			"the edge switch of site %s can't be programmed: %s", name, why.text);
	int n = snprintf(detail, size, "%zu rules added, %zu changed, %zu removed, %zu untouched",
		result.added, result.modified, result.deleted, result.unchanged);
	if (result.left_out > 0 && n > 0 && (size_t)n < size)
		snprintf(detail + n, size - (size_t)n,
			", %zu left out until the switch has their port", result.left_out);
	return err != 0 ? -1 : 0;
}

/* ---- keepers ------------------------------------------------------------------------------ */

static void keep_switch(struct fleet *fleet, struct fleet_site *site)
{
	struct why why = {""};
	struct fabric_result result;
	char object[48];
	if (!fabric_connected(site->fabric))
		return;
	pthread_mutex_lock(&site->switch_lock);
	int err = sync_switch_locked(fleet, site, false, &result, &why);
	bool tell = err != 0 && err != ENOENT && !site->switch_trouble;
	site->switch_trouble = err != 0;
	pthread_mutex_unlock(&site->switch_lock);
	snprintf(object, sizeof(object), "site/%s", site->name);
	if (tell)
		fleet_event(fleet, "error", object, "the edge switch can't be programmed: %s",
			why.text);
}

static void tell_trouble(
	struct fleet *fleet, struct fleet_vm *vm, const char *what, const char *why)
{
	if (!vm->trouble)
		fleet_event(fleet, "error", vm->object, "%s: %s", what, why);
	vm->trouble = true;
}

/* Sees to it that the VM runs. Returns whether it does. vm->life is held. */
static bool keep_running(struct fleet *fleet, struct fleet_vm *vm, const struct target *target)
{
	struct hv_vm seen;
	struct why why = {""};
	if (!hv_alive(vm->server->hv)) {
		vm_seen(fleet, vm, FLEET_VM_UNKNOWN, NULL, NULL, "its server is not connected");
		return false;
	}
	int err = hv_vm_get(vm->server->hv, vm->uuid, &seen, &why);
	if (err == 0 && seen.state == HV_VM_RUNNING)
		return true;
	if (err == 0) {
		vm_seen(fleet, vm, FLEET_VM_UNKNOWN, NULL, NULL,
			seen.state == HV_VM_PAUSED ? "its VM is paused: resume it with virsh"
						   : "its VM is ending");
		return false;
	}
	if (err != ENOENT)
		return false;
	vm_seen(fleet, vm, FLEET_VM_ABSENT, NULL, NULL, "its VM doesn't run");
	if (monotonic_ms() < vm->start_after_ms)
		return false;
	fleet_event(fleet, "warning", vm->object,
		"its VM is gone from server %s: starting it again", vm->server->name);
	err = start_locked(fleet, vm, target, &why);
	if (err != 0) {
		vm->start_after_ms = monotonic_ms() + START_RETRY_MS;
		tell_trouble(fleet, vm, "its VM can't be started", why.text);
		return false;
	}
	vm->trouble = false;
	return true;
}

static void keep_configured(struct fleet *fleet, struct fleet_vm *vm, const struct target *target)
{
	struct jsonrpc_error err = {0};
	pthread_mutex_lock(&fleet->lock);
	cJSON *status = cJSON_Duplicate(vm->daemon, true);
	pthread_mutex_unlock(&fleet->lock);
	if (status == NULL)
		return; /* not booted yet */
	if (configure_locked(fleet, vm, target, status, &err) == 0)
		vm->trouble = false;
	else if (err.code != JSONRPC_UNAVAILABLE)
		tell_trouble(fleet, vm, "its VM refuses its configuration", err.message);
	cJSON_Delete(status);
}

static void keep_vm(struct fleet *fleet, struct fleet_vm *vm)
{
	struct target target;
	char missing[512];
	/* Busy: somebody is just doing something to it, and will see how it does. */
	if (pthread_mutex_trylock(&vm->life) != 0)
		return;
	if (target_load(fleet, vm->object, &target) == 0 && target.started &&
		strcmp(target.uuid, vm->uuid) == 0 && keep_running(fleet, vm, &target)) {
		look(fleet, vm, missing, sizeof(missing));
		keep_configured(fleet, vm, &target);
	}
	pthread_mutex_unlock(&vm->life);
}

static void *vm_keeper_main(void *arg)
{
	struct fleet_vm *vm = arg;
	struct fleet *fleet = vm->fleet;
	pthread_mutex_lock(&fleet->lock);
	while (!fleet->stopping && !vm->removed) {
		vm->kicked = false;
		pthread_mutex_unlock(&fleet->lock);
		keep_vm(fleet, vm);
		pthread_mutex_lock(&fleet->lock);
		struct timespec until = deadline_in(KEEPER_INTERVAL_MS);
		int err = 0;
		while (!fleet->stopping && !vm->removed && !vm->kicked && err == 0)
			err = pthread_cond_timedwait(&vm->wake, &fleet->lock, &until);
	}
	pthread_mutex_unlock(&fleet->lock);
	return NULL;
}

/* Sees to it that a VM that should run has an entry, and with it a keeper. */
static void ensure_kept(struct fleet *fleet, const char *object)
{
	struct target target;
	struct problem problem = {0};
	if (target_load(fleet, object, &target) != 0 || !target.started)
		return;
	struct fleet_vm *vm = vm_ref(fleet, object, &target, &problem);
	if (vm == NULL)
		return;
	/* Deleted just now: the entry was forgotten before we made it anew. */
	if (target_load(fleet, object, &target) != 0 || !target.started ||
		strcmp(target.uuid, vm->uuid) != 0)
		vm_forget(fleet, vm);
	vm_unref(fleet, vm);
}

static void keep_site(struct fleet *fleet, struct fleet_site *site)
{
	struct port *ports = NULL;
	size_t n = 0;
	char object[48];
	keep_switch(fleet, site);
	snprintf(object, sizeof(object), "cvm/%s", site->name);
	ensure_kept(fleet, object);
	if (store_port_list(fleet->store, &ports, &n) != 0)
		return;
	for (size_t i = 0; i < n && !is_stopping(fleet); i++) {
		snprintf(object, sizeof(object), "port/%s", ports[i].name);
		if (ports[i].site_id == site->id)
			ensure_kept(fleet, object);
	}
	free(ports);
}

static void *keeper_main(void *arg)
{
	struct fleet_site *site = arg;
	struct fleet *fleet = site->fleet;
	pthread_mutex_lock(&fleet->lock);
	while (!fleet->stopping && !site->removed) {
		site->kicked = false;
		pthread_mutex_unlock(&fleet->lock);
		keep_site(fleet, site);
		pthread_mutex_lock(&fleet->lock);
		struct timespec until = deadline_in(KEEPER_INTERVAL_MS);
		int err = 0;
		while (!fleet->stopping && !site->removed && !site->kicked && err == 0)
			err = pthread_cond_timedwait(&site->wake, &fleet->lock, &until);
	}
	pthread_mutex_unlock(&fleet->lock);
	return NULL;
}

/* ---- beginning and end -------------------------------------------------------------------- */

static int open_stored(struct fleet *fleet)
{
	struct server *servers = NULL;
	struct site *sites = NULL;
	size_t n_servers = 0, n_sites = 0;
	struct problem problem = {0};
	int err = store_server_list(fleet->store, &servers, &n_servers);
	if (err == 0)
		err = store_site_list(fleet->store, &sites, &n_sites);
	for (size_t i = 0; i < n_servers && err == 0; i++) {
		struct fleet_server *server = server_new(fleet, &servers[i]);
		if (server == NULL)
			err = ENOMEM;
		else
			fleet_server_keep(fleet, server, &servers[i]);
	}
	for (size_t i = 0; i < n_sites && err == 0; i++) {
		struct fleet_site *site = site_new(fleet, &sites[i], &problem);
		if (site == NULL)
			err = ENOMEM;
		else
			fleet_site_keep(fleet, site, &sites[i]);
	}
	free(servers);
	free(sites);
	return err;
}

struct fleet *fleet_start(struct store *store, const struct fleet_options *options)
{
	struct fleet *fleet = calloc(1, sizeof(*fleet));
	if (fleet == NULL)
		return NULL;
	fleet->store = store;
	fleet->events_tail = &fleet->events;
	fleet->events_stored = 1;
	snprintf(fleet->image_dir, sizeof(fleet->image_dir), "%s", options->image_dir);
	snprintf(fleet->kernel, sizeof(fleet->kernel), "%s/vmlinuz", fleet->image_dir);
	snprintf(fleet->initrd, sizeof(fleet->initrd), "%s/initramfs.img", fleet->image_dir);
	if (options->console_dir != NULL)
		snprintf(
			fleet->console_dir, sizeof(fleet->console_dir), "%s", options->console_dir);
	pthread_mutex_init(&fleet->lock, NULL);
	cond_init(&fleet->stop_cond);
	cond_init(&fleet->event_cond);
	cond_init(&fleet->stored_cond);
	int err = pthread_create(&fleet->scribe, NULL, scribe_main, fleet);
	fleet->has_scribe = err == 0;
	if (err == 0)
		err = open_stored(fleet);
	if (err == 0) {
		err = pthread_create(&fleet->auditor, NULL, auditor_main, fleet);
		fleet->has_auditor = err == 0;
	}
	if (err != 0) {
		fleet_shutdown(fleet);
		fleet_free(fleet);
		errno = err;
		return NULL;
	}
	return fleet;
}

void fleet_shutdown(struct fleet *fleet)
{
	pthread_mutex_lock(&fleet->lock);
	fleet->stopping = true;
	pthread_cond_broadcast(&fleet->stop_cond);
	pthread_cond_broadcast(&fleet->stored_cond);
	kick_locked(fleet);
	pthread_mutex_unlock(&fleet->lock);
}

void fleet_free(struct fleet *fleet)
{
	if (fleet == NULL)
		return;
	if (fleet->has_auditor)
		pthread_join(fleet->auditor, NULL);
	while (fleet->sites != NULL)
		site_retire(fleet, fleet->sites);
	while (fleet->vms != NULL)
		vm_forget(fleet, fleet->vms);
	while (fleet->servers != NULL)
		fleet_server_remove(fleet, fleet->servers->id);
	if (fleet->has_scribe) {
		pthread_mutex_lock(&fleet->lock);
		pthread_cond_signal(&fleet->event_cond);
		pthread_mutex_unlock(&fleet->lock);
		pthread_join(fleet->scribe, NULL);
	}
	for (struct pending_event *event = fleet->events; event != NULL;) {
		struct pending_event *next = event->next;
		free(event);
		event = next;
	}
	pthread_mutex_destroy(&fleet->lock);
	pthread_cond_destroy(&fleet->stop_cond);
	pthread_cond_destroy(&fleet->event_cond);
	pthread_cond_destroy(&fleet->stored_cond);
	free(fleet);
}
