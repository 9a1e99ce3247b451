/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * The pools of spares: as many booted, unconfigured VMs at each site as the operator wants.
 *
 * A spare is stored before its VM is started, and void, in the store, before that is destroyed; so
 * whatever is interrupted is gone on with. Its entry in the fleet is a VM's like any other: a
 * keeper starts it, a heart says whether it lives. One thread, the pool's, looks at what is stored
 * and at what the hearts say, and adds and takes away. It never waits for a server.
 */

#include "controller/fleet_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "controller/explain.h"
#include "controller/heal.h"
#include "controller/registry.h"

/* What is known of a spare. */
struct known {
	struct spare spare;
	bool ready, there; /* there: it has an entry */
	int64_t age_ms;    /* of the entry */
	bool lost;         /* its server is dead, drained or not known */
};

/* What the pool's thread remembers of a site. */
struct pool {
	int64_t site_id;
	int64_t retry_ms;
	int64_t replacing_ms; /* monotonic: since when VMs of the site are being replaced; 0: none
				 is */
	bool told;            /* that a spare can't be made */
};

static void object_of(const struct spare *spare, char object[48])
{
	snprintf(object, 48, "spare/%lld", (long long)spare->id);
}

/* ---- what is there ------------------------------------------------------------------------ */

static bool is_lost(struct fleet *fleet, const struct server *servers, size_t n, int64_t id)
{
	bool lost = true;
	for (size_t i = 0; i < n; i++) {
		if (servers[i].id == id)
			lost = servers[i].drained;
	}
	pthread_mutex_lock(&fleet->lock);
	for (const struct fleet_server *s = fleet->servers; s != NULL; s = s->next)
		lost |= s->id == id && s->health == HEAL_SERVER_DEAD;
	pthread_mutex_unlock(&fleet->lock);
	return lost;
}

/* The site's spares, the caller's. Errno. */
static int look(struct fleet *fleet, const struct site *site, struct known **known, size_t *n)
{
	struct spare *spares = NULL;
	struct server *servers = NULL;
	size_t n_spares = 0, n_servers = 0;
	*known = NULL;
	*n = 0;
	int err = store_spare_list(fleet->store, &spares, &n_spares);
	if (err == 0)
		err = store_server_list(fleet->store, &servers, &n_servers);
	if (err == 0)
		*known = calloc(n_spares + 1, sizeof(**known));
	if (err == 0 && *known == NULL)
		err = ENOMEM;
	for (size_t i = 0; i < n_spares && err == 0; i++) {
		if (spares[i].site_id != site->id)
			continue;
		struct known *one = &(*known)[(*n)++];
		one->spare = spares[i];
		one->lost = is_lost(fleet, servers, n_servers, spares[i].server_id);
		pthread_mutex_lock(&fleet->lock);
		const struct fleet_vm *vm = fleet_vm_find(fleet, spares[i].uuid);
		if (vm != NULL) {
			one->there = true;
			one->ready = vm->spare_ready;
			one->age_ms = fleet_now_ms() - vm->made_ms;
		}
		pthread_mutex_unlock(&fleet->lock);
	}
	free(spares);
	free(servers);
	return err;
}

/* Can it be used now? fleet->lock is held. */
static bool is_usable(const struct fleet_vm *vm, int64_t but)
{
	return vm->spare_id != 0 && vm->spare_ready && !vm->removed && vm->server->id != but &&
	       vm->server->health == HEAL_SERVER_WELL;
}

enum heal_spare fleet_spare_there(
	struct fleet *fleet, int64_t site_id, uint32_t memory_kib, int64_t but)
{
	struct spare *spares = NULL;
	size_t n = 0;
	enum heal_spare found = HEAL_SPARE_NONE;
	bool early = fleet_now_ms() - fleet->started_ms < HEAL_START_SPARES_MS;
	if (store_spare_list(fleet->store, &spares, &n) != 0)
		return HEAL_SPARE_NONE;
	pthread_mutex_lock(&fleet->lock);
	for (size_t i = 0; i < n && found != HEAL_SPARE_READY; i++) {
		if (spares[i].site_id != site_id || spares[i].memory_kib != memory_kib)
			continue;
		const struct fleet_vm *vm = fleet_vm_find(fleet, spares[i].uuid);
		if (vm != NULL && is_usable(vm, but))
			found = HEAL_SPARE_READY;
		else if (early && (vm == NULL || !vm->spare_ready))
			found = HEAL_SPARE_MAYBE;
	}
	pthread_mutex_unlock(&fleet->lock);
	free(spares);
	return found;
}

/* The best of the candidates (of n servers, each with a usable spare). 0: any. */
static int64_t choose(
	struct fleet *fleet, const char *port, int64_t but, const int64_t *servers, size_t n)
{
	return n > 1 ? registry_spare_choose(
			       fleet->store, port, but, servers, n, fleet_server_is_well, fleet)
		     : 0;
}

struct fleet_vm *fleet_spare_take(
	struct fleet *fleet, const struct port *port, uint32_t memory_kib, int64_t but)
{
	struct spare *spares = NULL;
	struct fleet_vm *found = NULL;
	int64_t servers[MODEL_MAX_SPARES], best;
	size_t n = 0, n_servers = 0;
	if (store_spare_list(fleet->store, &spares, &n) != 0)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		if (spares[i].site_id != port->site_id || spares[i].memory_kib != memory_kib)
			spares[i].uuid[0] = '\0';
		pthread_mutex_lock(&fleet->lock);
		const struct fleet_vm *vm = fleet_vm_find(fleet, spares[i].uuid);
		if (vm != NULL && is_usable(vm, but) && n_servers < MODEL_MAX_SPARES)
			servers[n_servers++] = spares[i].server_id;
		pthread_mutex_unlock(&fleet->lock);
	}
	best = choose(fleet, port->name, but, servers, n_servers);
	/* Those of the best server first, then any. */
	for (size_t i = 0; i < 2 * n && found == NULL; i++) {
		if (i < n && spares[i].server_id != best)
			continue;
		pthread_mutex_lock(&fleet->lock);
		struct fleet_vm *vm = fleet_vm_find(fleet, spares[i % n].uuid);
		/* Whoever holds its life is done in milliseconds, or it isn't one to rely on. */
		if (vm != NULL && is_usable(vm, but) && pthread_mutex_trylock(&vm->life) == 0) {
			vm->refs++;
			found = vm;
		}
		pthread_mutex_unlock(&fleet->lock);
	}
	free(spares);
	return found;
}

/* ---- more and fewer ------------------------------------------------------------------------ */

static void ensure_entry(struct fleet *fleet, const struct spare *spare)
{
	struct target target;
	struct problem problem = {0};
	char object[48];
	object_of(spare, object);
	if (fleet_target_load(fleet, object, &target) != 0)
		return; /* taken just now */
	struct fleet_vm *vm = fleet_vm_ref(fleet, object, &target, &problem);
	if (vm != NULL)
		fleet_vm_unref(fleet, vm);
}

static void discard(
	struct fleet *fleet, const struct site *site, const struct known *one, const char *why)
{
	struct problem problem = {0};
	char object[48], name[MODEL_SPARE_NAME_SIZE];
	pthread_mutex_lock(&fleet->lock);
	struct fleet_vm *vm = fleet_vm_find(fleet, one->spare.uuid);
	if (vm != NULL)
		vm->refs++;
	pthread_mutex_unlock(&fleet->lock);
	if (registry_spare_discard(fleet->store, one->spare.id, &problem) == 0) {
		snprintf(object, sizeof(object), "site/%.30s", site->name);
		fleet_event(fleet, "info", object, "%s on server %s is given up: %s",
			model_spare_name(one->spare.id, name), one->spare.server, why);
		if (vm != NULL)
			fleet_vm_dismiss(fleet, vm);
		fleet_reaper_kick(fleet);
	}
	if (vm != NULL)
		fleet_vm_unref(fleet, vm);
}

/* Returns whether it can be tried again at once. */
static void add(struct fleet *fleet, const struct site *site, struct pool *pool)
{
	struct spare spare;
	struct problem problem = {0};
	char object[48], name[MODEL_SPARE_NAME_SIZE];
	snprintf(object, sizeof(object), "site/%.30s", site->name);
	if (registry_spare_create(
		    fleet->store, site->name, fleet_server_is_well, fleet, &spare, &problem) != 0) {
		pool->retry_ms = fleet_now_ms() + HEAL_POOL_RETRY_MS;
		if (!pool->told)
			fleet_event(fleet, "warning", object, "no spare can be made: %s",
				problem.detail);
		pool->told = true;
		return;
	}
	pool->told = false;
	log_info("a spare is made site=%s name=%s server=%s", site->name,
		model_spare_name(spare.id, name), spare.server);
	snprintf(object, sizeof(object), "spare/%lld", (long long)spare.id);
	explain_warn(fleet->store, fleet, object);
	ensure_entry(fleet, &spare);
}

/* How many spares are on the server of `one`. */
static size_t count_beside(const struct known *known, size_t n, const struct known *one)
{
	size_t count = 0;
	for (size_t i = 0; i < n; i++)
		count += known[i].spare.id != 0 && known[i].spare.server_id == one->spare.server_id;
	return count;
}

/* The one to go first: one that isn't ready, of these one that has most beside it, the newest. */
static struct known *least_useful(struct known *known, size_t n)
{
	struct known *worst = NULL;
	size_t most = 0;
	for (size_t i = n; i-- > 0;) {
		struct known *one = &known[i];
		if (one->spare.id == 0)
			continue;
		size_t beside = count_beside(known, n, one);
		if (worst == NULL || (worst->ready && !one->ready) ||
			(worst->ready == one->ready && beside > most)) {
			worst = one;
			most = beside;
		}
	}
	return worst;
}

/* Is it to be replaced, or does it stand in for one that was, and not serve yet? fleet->lock is
 * held.
 */
static bool is_replacing(const struct fleet_vm *vm)
{
	enum heal_server server = vm->server->health;
	return vm->spare_id == 0 &&
	       (vm->taking_over || vm->heart.story.cause != HEAL_CAUSE_NONE ||
		       vm->heart.process == HEAL_PROCESS_GONE || server == HEAL_SERVER_DEAD ||
		       server == HEAL_SERVER_CUT);
}

/* Notes whether VMs of the site are being replaced, and since when. */
static void look_for_replacing(struct fleet *fleet, const struct site *site, struct pool *pool,
	struct heal_pool_facts *facts)
{
	pthread_mutex_lock(&fleet->lock);
	for (const struct fleet_vm *vm = fleet->vms; vm != NULL && !facts->replacing; vm = vm->next)
		facts->replacing = vm->server->site_id == site->id && is_replacing(vm);
	pthread_mutex_unlock(&fleet->lock);
	if (!facts->replacing)
		pool->replacing_ms = 0;
	else if (pool->replacing_ms == 0)
		pool->replacing_ms = fleet_now_ms();
	else
		facts->replacing_ms = fleet_now_ms() - pool->replacing_ms;
}

static void keep_pool(struct fleet *fleet, const struct site *site, struct pool *pool)
{
	struct known *known;
	size_t n, kept = 0, booting = 0;
	struct heal_pool_facts facts = {.wanted = site->spares};
	if (look(fleet, site, &known, &n) != 0)
		return;
	/* Afterwards: of a server whose death was seen above, the VMs are seen to be replaced here.
	 */
	look_for_replacing(fleet, site, pool, &facts);
	for (size_t i = 0; i < n && heal_pool_rests(&facts); i++) {
		/* After a start of edgeplexd those that are there have still to be heard. */
		if (!known[i].there && !known[i].lost)
			ensure_entry(fleet, &known[i].spare);
	}
	if (heal_pool_rests(&facts)) {
		free(known);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		struct known *one = &known[i];
		const char *why = one->lost ? "its server is dead or out of service"
				  : one->spare.memory_kib != site->pvm_memory_kib
					  ? "PVMs of this site have another size now"
				  : one->there && !one->ready && one->age_ms > HEAL_POOL_BOOT_MS
					  ? "it doesn't become ready"
					  : NULL;
		if (why != NULL) {
			discard(fleet, site, one, why);
			one->spare.id = one->spare.server_id = 0;
			continue;
		}
		if (!one->there)
			ensure_entry(fleet, &one->spare);
		kept++;
		booting += !one->ready;
	}
	while (kept > site->spares) {
		struct known *one = least_useful(known, n);
		discard(fleet, site, one, "fewer are wanted");
		booting -= !one->ready;
		one->spare.id = one->spare.server_id = 0;
		kept--;
	}
	struct known *most = booting == 0 && kept == site->spares ? least_useful(known, n) : NULL;
	if (most != NULL && registry_spare_is_crowded(
				    fleet->store, &most->spare, fleet_server_is_well, fleet)) {
		discard(fleet, site, most, "another server has none");
		kept--;
	}
	free(known);
	facts.kept = (unsigned)kept;
	facts.booting = (unsigned)booting;
	for (unsigned more = heal_pool_begin(&facts); more > 0 && fleet_now_ms() >= pool->retry_ms;
		more--)
		add(fleet, site, pool);
}

static struct pool *pool_of(struct pool **pools, size_t *n, int64_t site_id)
{
	for (size_t i = 0; i < *n; i++) {
		if ((*pools)[i].site_id == site_id)
			return &(*pools)[i];
	}
	struct pool *more = realloc(*pools, (*n + 1) * sizeof(*more));
	if (more == NULL)
		return NULL;
	*pools = more;
	more[*n] = (struct pool){.site_id = site_id};
	return &more[(*n)++];
}

static void *pool_main(void *arg)
{
	struct fleet *fleet = arg;
	struct pool *pools = NULL;
	size_t n_pools = 0;
	bool go_on = true;
	while (go_on) {
		struct site *sites = NULL;
		size_t n = 0;
		store_site_list(fleet->store, &sites, &n);
		for (size_t i = 0; i < n && !fleet_is_stopping(fleet); i++) {
			struct pool *pool = pool_of(&pools, &n_pools, sites[i].id);
			if (pool != NULL)
				keep_pool(fleet, &sites[i], pool);
		}
		free(sites);
		struct timespec until = fleet_deadline_in(HEAL_POOL_MS);
		int err = 0;
		pthread_mutex_lock(&fleet->lock);
		while (!fleet->stopping && !fleet->pool_kicked && err == 0)
			err = pthread_cond_timedwait(&fleet->pool_cond, &fleet->lock, &until);
		fleet->pool_kicked = false;
		go_on = !fleet->stopping;
		pthread_mutex_unlock(&fleet->lock);
	}
	free(pools);
	return NULL;
}

void fleet_pool_kick(struct fleet *fleet)
{
	fleet->pool_kicked = true;
	pthread_cond_signal(&fleet->pool_cond);
}

int fleet_pool_start(struct fleet *fleet)
{
	int err = pthread_create(&fleet->pool, NULL, pool_main, fleet);
	fleet->has_pool = err == 0;
	return err;
}

void fleet_pool_end(struct fleet *fleet)
{
	if (fleet->has_pool)
		pthread_join(fleet->pool, NULL);
	fleet->has_pool = false;
}

/* ---- what is shown ------------------------------------------------------------------------- */

cJSON *fleet_spares_json(struct fleet *fleet, const char *site)
{
	struct spare *spares = NULL;
	size_t n = 0;
	cJSON *list = cJSON_CreateArray();
	if (store_spare_list(fleet->store, &spares, &n) != 0)
		return list;
	for (size_t i = 0; i < n; i++) {
		char name[MODEL_SPARE_NAME_SIZE];
		struct fleet_vm_view view;
		bool ready = false;
		if (site != NULL && strcmp(spares[i].site, site) != 0)
			continue;
		fleet_vm_view(fleet, spares[i].uuid, &view);
		pthread_mutex_lock(&fleet->lock);
		const struct fleet_vm *vm = fleet_vm_find(fleet, spares[i].uuid);
		if (vm != NULL)
			ready = is_usable(vm, 0);
		pthread_mutex_unlock(&fleet->lock);
		cJSON *one = cJSON_CreateObject();
		cJSON_AddStringToObject(one, "name", model_spare_name(spares[i].id, name));
		cJSON_AddStringToObject(one, "site", spares[i].site);
		cJSON_AddStringToObject(one, "server", spares[i].server);
		cJSON_AddStringToObject(one, "state",
			ready                            ? "ready"
			: view.state == FLEET_VM_RUNNING ? "unusable"
			: view.state == FLEET_VM_UNKNOWN ? "unknown"
							 : "starting");
		model_add_time(one, "created", spares[i].created_ms);
		cJSON *vm_json = cJSON_AddObjectToObject(one, "vm");
		cJSON_AddStringToObject(vm_json, "uuid", spares[i].uuid);
		cJSON_AddNumberToObject(vm_json, "memory_kib", spares[i].memory_kib);
		cJSON_AddNumberToObject(vm_json, "rss_kib", (double)view.rss_kib);
		cJSON_AddNumberToObject(vm_json, "cpu_ms", (double)view.cpu_ms);
		fleet_vm_view_free(&view);
		cJSON_AddItemToArray(list, one);
	}
	free(spares);
	return list;
}
