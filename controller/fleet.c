/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/fleet_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"

#define KEEPER_INTERVAL_MS 2000
#define START_RETRY_MS 5000
#define SWEEP_INTERVAL_MS 10000

int64_t fleet_now_ms(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int64_t fleet_now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

struct timespec fleet_deadline_in(unsigned ms)
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

void fleet_cond_init(pthread_cond_t *cond)
{
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(cond, &attr);
	pthread_condattr_destroy(&attr);
}

bool fleet_pause(struct fleet *fleet, unsigned ms)
{
	struct timespec until = fleet_deadline_in(ms);
	int err = 0;
	pthread_mutex_lock(&fleet->lock);
	while (!fleet->stopping && err == 0)
		err = pthread_cond_timedwait(&fleet->stop_cond, &fleet->lock, &until);
	bool go_on = !fleet->stopping;
	pthread_mutex_unlock(&fleet->lock);
	return go_on;
}

bool fleet_is_stopping(struct fleet *fleet)
{
	pthread_mutex_lock(&fleet->lock);
	bool stopping = fleet->stopping;
	pthread_mutex_unlock(&fleet->lock);
	return stopping;
}

int fleet_interrupted(struct problem *problem)
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
		pthread_cond_broadcast(&fleet->server_cond);
		for (struct fleet_server *server = fleet->servers; server != NULL;
			server = server->next)
			pthread_cond_signal(&server->wake);
	}
	pthread_mutex_unlock(&fleet->lock);
	return NULL;
}

bool fleet_event_wait(struct fleet *fleet, uint64_t *seen, unsigned ms)
{
	struct timespec until = fleet_deadline_in(ms);
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

/* NULL `object`: all VMs. */
static void kick_some_locked(struct fleet *fleet, const char *object)
{
	for (struct fleet_site *site = fleet->sites; site != NULL; site = site->next) {
		site->kicked = true;
		pthread_cond_signal(&site->wake);
	}
	for (struct fleet_vm *vm = fleet->vms; vm != NULL; vm = vm->next) {
		if (object != NULL && strcmp(vm->object, object) != 0)
			continue;
		vm->kicked = true;
		pthread_cond_signal(&vm->wake);
	}
	fleet_protect_kick(fleet);
	fleet_pool_kick(fleet);
}

static void kick_locked(struct fleet *fleet)
{
	kick_some_locked(fleet, NULL);
}

void fleet_kick_object(struct fleet *fleet, const char *object)
{
	pthread_mutex_lock(&fleet->lock);
	kick_some_locked(fleet, object);
	pthread_mutex_unlock(&fleet->lock);
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
	case FABRIC_EVENT_WHOLE:
		fleet_event(
			site->fleet, "info", object, "the edge switch has all its rules: %s", text);
		break;
	case FABRIC_EVENT_PORTS:
		log_debug("ports of the switch changed site=%s detail=\"%s\"", site->name, text);
		fleet_protect_ports(site->fleet, site->name);
		pthread_mutex_lock(&site->fleet->lock);
		for (struct fleet_server *s = site->fleet->servers; s != NULL; s = s->next) {
			s->watch_woken = true;
			pthread_cond_signal(&s->watch_wake);
		}
		pthread_mutex_unlock(&site->fleet->lock);
		/* No VM has to be looked at: when a trunk falls all of them are busy. */
		fleet_kick_object(site->fleet, "");
		return;
	}
	fleet_kick(site->fleet);
}

static void *keeper_main(void *arg);

static void site_free(struct fleet_site *site)
{
	fabric_close(site->fabric);
	fleet_switch_state_free(site->state);
	pthread_mutex_destroy(&site->switch_lock);
	pthread_mutex_destroy(&site->turn);
	pthread_cond_destroy(&site->wake);
	free(site);
}

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
	pthread_mutex_init(&fs->turn, NULL);
	fleet_cond_init(&fs->wake);
	fs->state = fleet_switch_state_new();
	if (fs->state == NULL)
		problem_set(problem, 500, "internal", "no memory");
	else if (fabric_open(fs->name, site->switch_target, on_fabric_event, fs, &fs->fabric,
			 &why) != 0)
		problem_field(problem, "/switch", "write it like unix:/run/openvswitch/edge.mgmt",
			"%s", why.text);
	if (problem->status != 0) {
		site_free(fs);
		return NULL;
	}
	return fs;
}

void fleet_site_unref(struct fleet *fleet, struct fleet_site *site)
{
	pthread_mutex_lock(&fleet->lock);
	bool last = --site->refs == 0;
	pthread_mutex_unlock(&fleet->lock);
	if (last)
		site_free(site);
}

struct fleet_site *fleet_site_ref(struct fleet *fleet, int64_t id)
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

void fleet_switch_unreachable(struct problem *problem, const struct why *why)
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
	if (fabric_wait_connected(opened->fabric, FLEET_SWITCH_CONNECT_MS, &why) != 0)
		fleet_switch_unreachable(problem, &why);
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
	fleet_protect_remove(fleet, site->name);
	fleet_site_unref(fleet, site);
}

void fleet_site_remove(struct fleet *fleet, int64_t site_id)
{
	struct fleet_site *site = fleet_site_ref(fleet, site_id);
	if (site == NULL)
		return;
	site_retire(fleet, site);
	fleet_site_unref(fleet, site);
}

bool fleet_site_connected(struct fleet *fleet, int64_t site_id)
{
	struct fleet_site *site = fleet_site_ref(fleet, site_id);
	if (site == NULL)
		return false;
	bool connected = fabric_connected(site->fabric);
	fleet_site_unref(fleet, site);
	return connected;
}

int fleet_site_check_port(struct fleet *fleet, const struct site *site, const char *port,
	const char *field, struct problem *problem)
{
	struct why why = {""};
	struct fleet_site *fs = fleet_site_ref(fleet, site->id);
	if (fs == NULL)
		return problem_set(problem, 404, "not-found", "there is no site %s", site->name);
	int err = fabric_check_port(fs->fabric, port, &why);
	fleet_site_unref(fleet, fs);
	if (err == ENOENT)
		return problem_field(
			problem, field, "name a port that the edge switch has", "%s", why.text);
	if (err != 0) {
		fleet_switch_unreachable(problem, &why);
		return -1;
	}
	return 0;
}

/* ---- VMs ---------------------------------------------------------------------------------- */

static bool is_cvm_object(const char *object)
{
	return strncmp(object, "cvm/", 4) == 0;
}

/* ENOENT when the object, or something that it needs, isn't in the store. */
int fleet_target_load(struct fleet *fleet, const char *object, struct target *target)
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
		target->move = target->cvm.move;
		struct protection protection;
		if (err == 0 && store_protection_get(fleet->store, name, &protection) == 0)
			target->protection = protection.state;
		return err != 0 ? err
				: store_site_get(fleet->store, target->cvm.site, &target->site);
	}
	target->is_spare = strncmp(object, "spare/", 6) == 0;
	if (target->is_spare) {
		err = store_spare_get(fleet->store, strtoll(name, NULL, 10), &target->spare);
		target->uuid = target->spare.uuid;
		target->server_id = target->spare.server_id;
		target->started = true;
		return err != 0 ? err
				: store_site_get(fleet->store, target->spare.site, &target->site);
	}
	err = store_port_get(fleet->store, name, &target->port);
	if (err == 0)
		err = store_site_get(fleet->store, target->port.site, &target->site);
	if (err == 0)
		err = store_cvm_get(fleet->store, target->port.site, &target->cvm);
	target->uuid = target->port.uuid;
	target->server_id = target->port.server_id;
	target->started = target->port.started;
	target->move = target->port.move;
	return err;
}

int fleet_gone(struct problem *problem, const char *object)
{
	return problem_set(problem, 404, "not-found", "%s doesn't exist (any more)", object);
}

static void *vm_keeper_main(void *arg);

/* Its keeper holds no reference, so it never gets here itself. */
static void vm_free(struct fleet *fleet, struct fleet_vm *vm)
{
	if (vm->has_keeper)
		pthread_join(vm->keeper, NULL);
	fleet_heart_end(vm);
	guest_close(vm->guest);
	fleet_server_unref(fleet, vm->server);
	pthread_cond_destroy(&vm->wake);
	pthread_cond_destroy(&vm->heart.wake);
	pthread_mutex_destroy(&vm->life);
	cJSON_Delete(vm->daemon);
	cJSON_Delete(vm->fwd);
	free(vm);
}

void fleet_vm_unref(struct fleet *fleet, struct fleet_vm *vm)
{
	pthread_mutex_lock(&fleet->lock);
	bool last = --vm->refs == 0;
	pthread_mutex_unlock(&fleet->lock);
	if (last)
		vm_free(fleet, vm);
}

struct fleet_vm *fleet_vm_find(struct fleet *fleet, const char *uuid)
{
	for (struct fleet_vm *vm = fleet->vms; vm != NULL; vm = vm->next) {
		if (strcmp(vm->uuid, uuid) == 0)
			return vm;
	}
	return NULL;
}

/* The VM stands in for one that was lost, and was never started. fleet->lock is held. */
static void note_placed(struct fleet_vm *vm, const struct take_over *story)
{
	if (story == NULL)
		return;
	vm->heart.story = *story;
	vm->heart.start_here = true;
	vm->fresh = true;
}

/* A reference to the VM's entry, which is made if there is none. `story`: of a placement, or NULL.
 */
static struct fleet_vm *ref_or_make(struct fleet *fleet, const char *object,
	const struct target *target, const struct take_over *story, struct problem *problem)
{
	pthread_mutex_lock(&fleet->lock);
	struct fleet_vm *vm = fleet_vm_find(fleet, target->uuid);
	if (vm != NULL) {
		vm->refs++;
		note_placed(vm, story);
	}
	pthread_mutex_unlock(&fleet->lock);
	if (vm != NULL)
		return vm;

	struct fleet_server *server = fleet_server_ref(fleet, target->server_id);
	if (server == NULL) {
		problem_set(problem, 503, "server-unreachable",
			"the server of %s isn't known: check the event list", object);
		return NULL;
	}
	struct fleet_vm *made = calloc(1, sizeof(*made));
	struct guest *guest = made ? guest_open(server->hv, target->uuid, NULL, NULL) : NULL;
	if (guest == NULL) {
		free(made);
		fleet_server_unref(fleet, server);
		problem_set(problem, 500, "internal", "no memory");
		return NULL;
	}
	made->fleet = fleet;
	made->refs = 2; /* the list's and the caller's */
	made->server = server;
	made->guest = guest;
	made->is_cvm = target->is_cvm;
	made->spare_id = target->is_spare ? target->spare.id : 0;
	made->made_ms = fleet_now_ms();
	made->uptime_ms = -1;
	made->state = FLEET_VM_UNKNOWN;
	snprintf(made->object, sizeof(made->object), "%s", object);
	snprintf(made->uuid, sizeof(made->uuid), "%s", target->uuid);
	pthread_mutex_init(&made->life, NULL);
	fleet_cond_init(&made->wake);
	fleet_cond_init(&made->heart.wake);
	note_placed(made, story);

	pthread_mutex_lock(&fleet->lock);
	vm = fleet_vm_find(fleet, target->uuid);
	if (vm != NULL) {
		vm->refs++; /* somebody was faster */
		note_placed(vm, story);
	} else {
		made->next = fleet->vms;
		fleet->vms = made;
		made->has_keeper = pthread_create(&made->keeper, NULL, vm_keeper_main, made) == 0;
		if (!made->has_keeper)
			log_error("no thread could be started for the VM, restart edgeplexd "
				  "object=%s",
				object);
		fleet_heart_start(made);
	}
	pthread_mutex_unlock(&fleet->lock);
	if (vm == NULL)
		return made;
	vm_free(fleet, made);
	return vm;
}

struct fleet_vm *fleet_vm_ref(struct fleet *fleet, const char *object, const struct target *target,
	struct problem *problem)
{
	return ref_or_make(fleet, object, target, NULL, problem);
}

struct fleet_vm *fleet_vm_ref_placed(struct fleet *fleet, const char *object,
	const struct target *target, const struct take_over *story, struct problem *problem)
{
	return ref_or_make(fleet, object, target, story, problem);
}

/* The same for a VM that should run; there is none for one that shouldn't. */
struct fleet_vm *fleet_started_vm_ref(struct fleet *fleet, const char *object,
	const struct target *target, struct problem *problem)
{
	if (target->started)
		return fleet_vm_ref(fleet, object, target, problem);
	problem_set(problem, 503, "guest-unreachable",
		"the VM of %s isn't started: wait until its operation has ended", object);
	return NULL;
}

/* Its threads end. fleet->lock is held. */
static void set_removed(struct fleet_vm *vm)
{
	vm->removed = true;
	pthread_cond_signal(&vm->wake);
	pthread_cond_signal(&vm->heart.wake);
}

/* The list lets go of it. Returns whether its reference is the caller's now. */
static bool unlist(struct fleet *fleet, struct fleet_vm *vm)
{
	bool listed = false;
	pthread_mutex_lock(&fleet->lock);
	for (struct fleet_vm **at = &fleet->vms; *at != NULL; at = &(*at)->next) {
		if (*at == vm) {
			*at = vm->next;
			set_removed(vm);
			listed = true;
			break;
		}
	}
	pthread_mutex_unlock(&fleet->lock);
	return listed;
}

/* The VM doesn't exist any more. */
static void vm_forget(struct fleet *fleet, struct fleet_vm *vm)
{
	if (unlist(fleet, vm))
		fleet_vm_unref(fleet, vm);
}

void fleet_vm_dismiss(struct fleet *fleet, struct fleet_vm *vm)
{
	if (unlist(fleet, vm))
		fleet_vm_retire(fleet, vm);
}

void fleet_vm_adopt(struct fleet *fleet, struct fleet_vm *old, struct fleet_vm *spare)
{
	pthread_mutex_lock(&fleet->lock);
	memcpy(spare->object, old->object, sizeof(spare->object));
	spare->spare_id = 0;
	spare->spare_ready = false;
	spare->taking_over = true;
	spare->ran = true;
	spare->serves = old->serves;
	snprintf(spare->missing, sizeof(spare->missing), "it has just taken over");
	pthread_mutex_unlock(&fleet->lock);
	fleet_vm_dismiss(fleet, old);
}

int fleet_vm_replace(
	struct fleet *fleet, struct fleet_vm *old, struct fleet_server *server, struct guest *guest)
{
	struct fleet_vm *vm = calloc(1, sizeof(*vm));
	if (vm == NULL)
		return ENOMEM;
	vm->fleet = fleet;
	vm->refs = 1; /* the list's */
	vm->guest = guest;
	vm->is_cvm = old->is_cvm;
	vm->ran = true;
	snprintf(vm->object, sizeof(vm->object), "%s", old->object);
	snprintf(vm->uuid, sizeof(vm->uuid), "%s", old->uuid);
	pthread_mutex_init(&vm->life, NULL);
	fleet_cond_init(&vm->wake);
	fleet_cond_init(&vm->heart.wake);
	vm->made_ms = fleet_now_ms();

	pthread_mutex_lock(&fleet->lock);
	server->refs++;
	vm->server = server;
	vm->state = old->state;
	vm->serves = old->serves;
	memcpy(vm->missing, old->missing, sizeof(vm->missing));
	vm->uptime_ms = old->uptime_ms;
	vm->daemon = cJSON_Duplicate(old->daemon, true);
	vm->fwd = cJSON_Duplicate(old->fwd, true);
	for (struct fleet_vm **at = &fleet->vms; *at != NULL; at = &(*at)->next) {
		if (*at == old) {
			vm->next = old->next;
			*at = vm;
			break;
		}
	}
	set_removed(old);
	vm->has_keeper = pthread_create(&vm->keeper, NULL, vm_keeper_main, vm) == 0;
	if (!vm->has_keeper)
		log_error("no thread could be started for the VM, restart edgeplexd object=%s",
			vm->object);
	fleet_heart_start(vm);
	pthread_mutex_unlock(&fleet->lock);
	fleet_vm_unref(fleet, old); /* the list's */
	return 0;
}

static bool row_is_gone(struct fleet *fleet, const struct fleet_vm *vm)
{
	struct target target;
	int err = fleet_target_load(fleet, vm->object, &target);
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
		fleet_vm_unref(fleet, all[i]);
	}
	free(all);
}

static void *sweeper_main(void *arg)
{
	struct fleet *fleet = arg;
	do
		sweep_vms(fleet);
	while (fleet_pause(fleet, SWEEP_INTERVAL_MS));
	return NULL;
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

void fleet_qmp_path(const struct fleet *fleet, const char *uuid, char path[300])
{
	snprintf(path, 300, "%s/qmp/%s.sock", fleet->run_dir, uuid);
}

int fleet_start_on(struct fleet *fleet, struct fleet_server *server, const char *object,
	const struct target *target, bool incoming, struct why *why)
{
	char cmdline[1024], console[384], qmp[300], ram[FLEET_RUN_DIR_MAX + 8];
	char spare_name[MODEL_SPARE_NAME_SIZE];
	struct server stored;
	const char *name = strchr(object, '/') + 1;
	struct hv_vm_spec spec = {
		.role = target->is_cvm ? "cvm" : "pvm",
		.owner = object,
		.memory_kib =
			target->is_cvm ? target->site.cvm_memory_kib : target->site.pvm_memory_kib,
		.kernel = fleet->kernel,
		.initrd = fleet->initrd,
		.cmdline = cmdline,
		.viommu = !target->is_cvm,
		.incoming = incoming,
		.layout = target->layout,
	};
	int err = fleet_server_load(fleet, server->id, &stored);
	if (err != 0)
		return why_set(why, err, "its server isn't in the store");
	snprintf(spec.name, sizeof(spec.name), "%s-%s", spec.role, name);
	if (target->is_spare) {
		/* As long as it is one; a VM keeps its name when it becomes a port's. */
		name = model_spare_name(target->spare.id, spare_name);
		snprintf(spec.name, sizeof(spec.name), "%s", name);
		spec.memory_kib = target->spare.memory_kib;
	}
	snprintf(spec.uuid, sizeof(spec.uuid), "%s", target->uuid);
	err = read_cmdline(fleet, spec.role, name, cmdline, sizeof(cmdline), why);
	if (err != 0)
		return err;
	if (fleet->console_dir[0] != '\0') {
		snprintf(console, sizeof(console), "%s/%s.log", fleet->console_dir, spec.name);
		spec.console_log = console;
	}
	if (stored.hostd[0] != '\0') {
		fleet_qmp_path(fleet, spec.uuid, qmp);
		spec.qmp_path = qmp;
		snprintf(ram, sizeof(ram), "%s/ram", fleet->run_dir);
		spec.ram_dir = ram;
		spec.preload = fleet->preload;
	}
	if (target->is_cvm) {
		add_nic(&spec, stored.bridge, model_pe_mac(target->site.id), target->cvm.vlan_core,
			target->site.core_mtu);
		add_nic(&spec, stored.bridge, model_inside_mac(target->site.id),
			target->cvm.vlan_inside, target->site.core_mtu);
	} else if (target->is_spare) {
		add_nic(&spec, stored.bridge, model_spare_mac(target->spare.id, false),
			target->spare.vlan_cust, target->site.core_mtu);
		add_nic(&spec, stored.bridge, model_spare_mac(target->spare.id, true),
			target->spare.vlan_core, target->site.core_mtu);
	} else {
		add_nic(&spec, stored.bridge, model_port_mac(target->port.id),
			target->port.vlan_cust, target->port.mtu);
		add_nic(&spec, stored.bridge, model_pe_mac(target->site.id), target->port.vlan_core,
			target->site.core_mtu);
	}
	return hv_vm_start(server->hv, &spec, why);
}

/* Starts the VM if it doesn't run. vm->life is held. */
static int start_locked(
	struct fleet *fleet, struct fleet_vm *vm, const struct target *target, struct why *why)
{
	return fleet_start_on(fleet, vm->server, vm->object, target, false, why);
}

/* After a start of edgeplexd the connection may not be there yet. Errno. */
static int wait_server(struct fleet *fleet, struct fleet_vm *vm, struct why *why)
{
	int64_t until = fleet_now_ms() + FLEET_SERVER_CONNECT_MS;
	int err;
	while ((err = hv_wait_connected(vm->server->hv, FLEET_RETRY_MS, why)) == ETIMEDOUT &&
		fleet_now_ms() < until && !fleet_is_stopping(fleet))
		;
	return err;
}

/* Waits until the guest has booted. Errno. */
static int wait_guest(struct fleet *fleet, struct fleet_vm *vm, struct why *why)
{
	int64_t until = fleet_now_ms() + FLEET_GUEST_BOOT_MS;
	int err;
	while ((err = guest_wait_ready(vm->guest, 1000, why)) == ETIMEDOUT &&
		fleet_now_ms() < until && !fleet_is_stopping(fleet))
		;
	return err;
}

int fleet_vm_start(struct fleet *fleet, const char *object, struct problem *problem)
{
	struct target target;
	struct why why = {""};
	if (fleet_target_load(fleet, object, &target) != 0)
		return fleet_gone(problem, object);
	struct fleet_vm *vm = fleet_vm_ref(fleet, object, &target, problem);
	if (vm == NULL)
		return -1;
	pthread_mutex_lock(&vm->life);
	int err = wait_server(fleet, vm, &why);
	if (err == 0)
		err = start_locked(fleet, vm, &target, &why);
	vm->ran = vm->ran || err == 0;
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
			object, vm->server->name, FLEET_GUEST_BOOT_MS / 1000, why.text);
	fleet_vm_unref(fleet, vm);
	return problem->status != 0 ? -1 : 0;
}

int fleet_vm_stop(struct fleet *fleet, const char *object, struct problem *problem)
{
	struct target target;
	struct why why = {""};
	if (fleet_target_load(fleet, object, &target) != 0)
		return fleet_gone(problem, object);
	struct fleet_vm *vm = fleet_vm_ref(fleet, object, &target, problem);
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
	else if (target.move.state != MOVE_NONE)
		err = fleet_move_end(fleet, object, problem);
	if (err == 0) {
		fleet_monitor_forget(fleet, vm->server->id, vm->uuid);
		vm_forget(fleet, vm);
	}
	fleet_vm_unref(fleet, vm);
	return err != 0 ? -1 : 0;
}

/* ---- keepers ------------------------------------------------------------------------------ */

static void tell_trouble(
	struct fleet *fleet, struct fleet_vm *vm, const char *what, const char *why)
{
	if (!vm->trouble)
		fleet_event(fleet, "error", vm->object, "%s: %s", what, why);
	vm->trouble = true;
}

/*
 * Has it a standby, or nearly? Then it stands still for a moment again and again, and whether it is
 * started anew when it has died is for its protector to say.
 */
static bool has_standby(const struct target *target)
{
	return target->protection == PROTECTION_SYNCING || target->protection == PROTECTION_WHOLE;
}

/* Is it still, by the store's word, the VM of its object? */
static bool is_current(struct fleet *fleet, const struct fleet_vm *vm)
{
	struct target target;
	int err = fleet_target_load(fleet, vm->object, &target);
	return err == 0 ? target.server_id == vm->server->id && strcmp(target.uuid, vm->uuid) == 0
			: err != ENOENT;
}

/*
 * Is it to be started again, and not for the first time? That is so of one that edgeplexd has not
 * seen run since its own start, too, unless the VM is only being created, or was placed anew.
 */
static bool has_run(struct fleet *fleet, const struct fleet_vm *vm, const struct target *target)
{
	bool active = (target->is_cvm ? target->cvm.state : target->port.state) == PORT_ACTIVE;
	pthread_mutex_lock(&fleet->lock);
	bool fresh = vm->fresh;
	pthread_mutex_unlock(&fleet->lock);
	return vm->ran || (active && !fresh);
}

/* Tells that a VM, which isn't a spare, is started again. */
static void tell_again(struct fleet *fleet, const struct fleet_vm *vm, const struct target *target)
{
	fleet_event(fleet, "warning", vm->object,
		"its VM is gone from server %s: starting it again", vm->server->name);
	if (!target->is_cvm)
		store_history_add(fleet->store, target->port.id, "started again", vm->server->name,
			"its VM was gone");
}

/* Sees to it that the VM runs. Returns whether it does. vm->life is held. */
static bool keep_running(struct fleet *fleet, struct fleet_vm *vm, const struct target *target)
{
	struct hv_vm seen;
	struct why why = {""};
	if (!hv_alive(vm->server->hv)) {
		fleet_vm_seen(
			fleet, vm, FLEET_VM_UNKNOWN, NULL, NULL, "its server is not connected");
		return false;
	}
	int err = hv_vm_get(vm->server->hv, vm->uuid, &seen, &why);
	if (err == 0 && (seen.state == HV_VM_RUNNING ||
				(seen.state == HV_VM_PAUSED && has_standby(target)))) {
		vm->ran = true;
		return true;
	}
	if (err == 0) {
		fleet_vm_seen(fleet, vm, FLEET_VM_UNKNOWN, NULL, NULL,
			seen.state == HV_VM_PAUSED ? "its VM is paused: resume it with virsh"
						   : "its VM is ending");
		return false;
	}
	if (err != ENOENT)
		return false;
	fleet_vm_seen(fleet, vm, FLEET_VM_ABSENT, NULL, NULL, "its VM doesn't run");
	if (fleet_now_ms() < vm->start_after_ms || has_standby(target) ||
		!fleet_heart_leaves(vm, target))
		return false;
	if (!target->is_spare && has_run(fleet, vm, target))
		tell_again(fleet, vm, target);
	err = start_locked(fleet, vm, target, &why);
	if (err != 0) {
		vm->start_after_ms = fleet_now_ms() + START_RETRY_MS;
		tell_trouble(fleet, vm, "its VM can't be started", why.text);
		return false;
	}
	vm->trouble = false;
	vm->ran = true;
	fleet_heart_restarted(vm);
	if (is_current(fleet, vm))
		return true;
	/* Something else stands in for it since, and its void copy may have been ended already. */
	hv_vm_destroy(vm->server->hv, vm->uuid, NULL);
	return false;
}

static void keep_configured(struct fleet *fleet, struct fleet_vm *vm, const struct target *target)
{
	struct jsonrpc_error err = {0};
	struct why why = {""};
	pthread_mutex_lock(&fleet->lock);
	cJSON *status = cJSON_Duplicate(vm->daemon, true);
	pthread_mutex_unlock(&fleet->lock);
	if (status == NULL)
		return; /* not booted yet */
	/* One that doesn't speak yet doesn't begin to while the switch may listen to another. */
	if (!target->is_cvm && target->port.state == PORT_ACTIVE &&
		!cJSON_IsString(cJSON_GetObjectItemCaseSensitive(status, "config_id")) &&
		fleet_switch_confirm(fleet, target->site.id, &why) != 0) {
		tell_trouble(fleet, vm, "its VM waits for the edge switch", why.text);
		cJSON_Delete(status);
		return;
	}
	if (fleet_configure_locked(fleet, vm, target, status, &err) == 0)
		vm->trouble = false;
	else if (err.code != JSONRPC_UNAVAILABLE)
		tell_trouble(fleet, vm, "its VM refuses its configuration", err.message);
	cJSON_Delete(status);
}

/* Ends what a move has left of its VM, unless that is just being done. */
static void keep_single(struct fleet *fleet, struct fleet_vm *vm, const struct target *target)
{
	struct problem problem = {0};
	int64_t id;
	if (target->move.state == MOVE_LEAVING &&
		store_operation_of(fleet->store, vm->object, &id) == ENOENT)
		fleet_move_end(fleet, vm->object, &problem);
}

static void keep_vm(struct fleet *fleet, struct fleet_vm *vm)
{
	struct target target;
	char missing[512];
	/* Busy: somebody is just doing something to it, and will see how it does. */
	if (pthread_mutex_trylock(&vm->life) != 0)
		return;
	/* Which copy of a VM is to run, in the middle of a move, is for its operation to say. */
	if (fleet_target_load(fleet, vm->object, &target) == 0 && target.started &&
		strcmp(target.uuid, vm->uuid) == 0 && target.server_id == vm->server->id &&
		target.move.state != MOVE_SWITCHING && target.protection != PROTECTION_TAKEOVER) {
		bool runs = keep_running(fleet, vm, &target);
		if (runs && !target.is_spare) {
			fleet_look(fleet, vm, missing, sizeof(missing));
			keep_configured(fleet, vm, &target);
		}
		if (!target.is_spare)
			keep_single(fleet, vm, &target);
	}
	pthread_mutex_unlock(&vm->life);
}

/*
 * How long a keeper waits. Not the same for all: what wakes all of them once would else have them
 * ask their guests, on the same few processors, all at once for ever.
 */
static unsigned keeper_interval_ms(const struct fleet_vm *vm)
{
	unsigned hash = 0;
	for (const char *c = vm->uuid; *c != '\0'; c++)
		hash = hash * 31 + (unsigned char)*c;
	return KEEPER_INTERVAL_MS + hash % (KEEPER_INTERVAL_MS / 4);
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
		struct timespec until = fleet_deadline_in(keeper_interval_ms(vm));
		int err = 0;
		while (!fleet->stopping && !vm->removed && !vm->kicked && err == 0)
			err = pthread_cond_timedwait(&vm->wake, &fleet->lock, &until);
	}
	pthread_mutex_unlock(&fleet->lock);
	return NULL;
}

/* Is a VM for this object being placed? Its entry is made by whoever does that. */
static bool is_being_placed(struct fleet *fleet, const char *object)
{
	bool is = false;
	pthread_mutex_lock(&fleet->lock);
	for (const struct fleet_vm *vm = fleet->vms; vm != NULL && !is; vm = vm->next)
		is = vm->placing && strcmp(vm->object, object) == 0;
	pthread_mutex_unlock(&fleet->lock);
	return is;
}

/* Sees to it that a VM that should run has an entry, and with it a keeper. */
static void ensure_kept(struct fleet *fleet, const char *object)
{
	struct target target;
	struct problem problem = {0};
	if (is_being_placed(fleet, object) || fleet_target_load(fleet, object, &target) != 0 ||
		!target.started)
		return;
	struct fleet_vm *vm = fleet_vm_ref(fleet, object, &target, &problem);
	if (vm == NULL)
		return;
	/* Deleted just now: the entry was forgotten before we made it anew. */
	if (fleet_target_load(fleet, object, &target) != 0 || !target.started ||
		strcmp(target.uuid, vm->uuid) != 0)
		vm_forget(fleet, vm);
	fleet_vm_unref(fleet, vm);
}

static void keep_site(struct fleet *fleet, struct fleet_site *site)
{
	struct port *ports = NULL;
	size_t n = 0;
	char object[48];
	fleet_keep_switch(fleet, site);
	snprintf(object, sizeof(object), "cvm/%s", site->name);
	ensure_kept(fleet, object);
	fleet_protect_ensure(fleet, site->name);
	if (store_port_list(fleet->store, &ports, &n) != 0)
		return;
	for (size_t i = 0; i < n && !fleet_is_stopping(fleet); i++) {
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
		struct timespec until = fleet_deadline_in(KEEPER_INTERVAL_MS);
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
		struct fleet_server *server = fleet_server_new(fleet, &servers[i]);
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
	fleet->started_ms = fleet_now_ms();
	fleet->events_tail = &fleet->events;
	fleet->events_stored = 1;
	snprintf(fleet->image_dir, sizeof(fleet->image_dir), "%s", options->image_dir);
	snprintf(fleet->kernel, sizeof(fleet->kernel), "%s/vmlinuz", fleet->image_dir);
	snprintf(fleet->initrd, sizeof(fleet->initrd), "%s/initramfs.img", fleet->image_dir);
	snprintf(fleet->run_dir, sizeof(fleet->run_dir), "%s", options->run_dir);
	snprintf(fleet->preload, sizeof(fleet->preload), "%s", options->preload);
	if (options->console_dir != NULL)
		snprintf(
			fleet->console_dir, sizeof(fleet->console_dir), "%s", options->console_dir);
	pthread_mutex_init(&fleet->lock, NULL);
	fleet_cond_init(&fleet->stop_cond);
	fleet_cond_init(&fleet->event_cond);
	fleet_cond_init(&fleet->stored_cond);
	fleet_cond_init(&fleet->server_cond);
	fleet_cond_init(&fleet->reaper_cond);
	fleet_cond_init(&fleet->reaped);
	fleet_cond_init(&fleet->pool_cond);
	int err = pthread_create(&fleet->scribe, NULL, scribe_main, fleet);
	fleet->has_scribe = err == 0;
	if (err == 0)
		err = open_stored(fleet);
	if (err == 0) {
		err = pthread_create(&fleet->sweeper, NULL, sweeper_main, fleet);
		fleet->has_sweeper = err == 0;
	}
	if (err == 0)
		err = fleet_reaper_start(fleet);
	if (err == 0)
		err = fleet_pool_start(fleet);
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
	pthread_cond_broadcast(&fleet->server_cond);
	for (struct fleet_server *server = fleet->servers; server != NULL; server = server->next) {
		pthread_cond_signal(&server->wake);
		pthread_cond_signal(&server->watch_wake);
	}
	for (struct fleet_vm *vm = fleet->vms; vm != NULL; vm = vm->next)
		fleet_heart_wake(vm);
	pthread_cond_broadcast(&fleet->reaper_cond);
	pthread_cond_broadcast(&fleet->reaped);
	kick_locked(fleet);
	pthread_mutex_unlock(&fleet->lock);
}

void fleet_free(struct fleet *fleet)
{
	if (fleet == NULL)
		return;
	if (fleet->has_sweeper)
		pthread_join(fleet->sweeper, NULL);
	fleet_pool_end(fleet);
	fleet_protect_free(fleet);
	fleet_reaper_end(fleet);
	fleet_moves_free(fleet);
	while (fleet->sites != NULL)
		site_retire(fleet, fleet->sites);
	while (fleet->vms != NULL)
		vm_forget(fleet, fleet->vms);
	fleet_reaper_end(fleet); /* what a heart has replaced at the last moment */
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
	pthread_cond_destroy(&fleet->reaper_cond);
	pthread_cond_destroy(&fleet->reaped);
	pthread_cond_destroy(&fleet->pool_cond);
	free(fleet);
}
