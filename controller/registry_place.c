/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Placement as the store sees it: which servers there are, what is on them, and what a VM must not
 * fail together with. placement.c decides; what it decided by is kept with the object.
 */

#include "controller/registry_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int registry_inventory_read(struct store *store, struct registry_inventory *all)
{
	int err = store_server_list(store, &all->servers, &all->n_servers);
	if (err == 0)
		err = store_port_list(store, &all->ports, &all->n_ports);
	if (err == 0)
		err = store_cvm_list(store, &all->cvms, &all->n_cvms);
	if (err == 0)
		err = store_protection_list(store, &all->protections, &all->n_protections);
	if (err == 0)
		err = store_spare_list(store, &all->spares, &all->n_spares);
	if (err == 0)
		err = store_void_list(store, &all->voids, &all->n_voids);
	if (err == 0)
		err = store_void_pvm_list(store, &all->pvm_voids, &all->n_pvm_voids);
	return err;
}

void registry_inventory_free(struct registry_inventory *all)
{
	free(all->servers);
	free(all->ports);
	free(all->cvms);
	free(all->protections);
	free(all->spares);
	free(all->voids);
	free(all->pvm_voids);
}

/* Is `object` the `kind` of this name? */
static bool is_object(const char *object, const char *kind, const char *name)
{
	size_t len = strlen(kind);
	return strncmp(object, kind, len) == 0 && object[len] == '/' &&
	       strcmp(object + len + 1, name) == 0;
}

static bool is_spare(const char *object, int64_t id)
{
	char name[24];
	snprintf(name, sizeof(name), "%lld", (long long)id);
	return is_object(object, "spare", name);
}

/* Where a VM is, or will be when what moves it has ended. */
static int64_t place_of(int64_t server_id, const struct second_copy *move)
{
	return move->state == MOVE_COPYING || move->state == MOVE_SWITCHING ? move->server_id
									    : server_id;
}

/*
 * What the other VMs that are placed on the server need together. Void copies don't count: they go
 * before anything comes.
 */
static uint64_t used_kib(const struct registry_inventory *all, const struct site *site,
	const struct placing *placing, int64_t server_id)
{
	uint64_t used = 0;
	const char *object = placing->object;
	for (size_t i = 0; i < all->n_ports; i++) {
		const struct port *port = &all->ports[i];
		if ((port->server_id == server_id || port->move.server_id == server_id) &&
			!is_object(object, "port", port->name))
			used += site->pvm_memory_kib;
	}
	for (size_t i = 0; i < all->n_cvms; i++) {
		const struct cvm *cvm = &all->cvms[i];
		if ((cvm->server_id == server_id || cvm->move.server_id == server_id) &&
			!is_object(object, "cvm", cvm->site))
			used += site->cvm_memory_kib;
	}
	for (size_t i = 0; i < all->n_protections && !placing->but_standby; i++) {
		if (all->protections[i].standby_id == server_id &&
			!is_object(object, "standby", all->protections[i].site))
			used += site->cvm_memory_kib;
	}
	for (size_t i = 0; i < all->n_spares; i++) {
		if (all->spares[i].server_id == server_id && !is_spare(object, all->spares[i].id))
			used += all->spares[i].memory_kib;
	}
	return used;
}

/* ---- what to keep away from ---------------------------------------------------------------- */

__attribute__((format(printf, 4, 5))) static void add_other(struct registry_scene *scene,
	enum placement_kind kind, int64_t server_id, const char *fmt, ...)
{
	va_list args;
	if (server_id == 0)
		return;
	struct placement_other *other = &scene->others[scene->n_others++];
	other->kind = kind;
	other->server_id = server_id;
	va_start(args, fmt);
	vsnprintf(other->name, sizeof(other->name), fmt, args);
	va_end(args);
}

static void rules_of_port(struct registry_scene *scene, const struct registry_inventory *all,
	const struct site *site, const char *object)
{
	const struct port *self = NULL;
	for (size_t i = 0; i < all->n_ports && self == NULL; i++) {
		if (is_object(object, "port", all->ports[i].name))
			self = &all->ports[i];
	}
	for (size_t i = 0; i < all->n_ports && self != NULL; i++) {
		const struct port *port = &all->ports[i];
		if (port != self && port->site_id == site->id &&
			port->customer_id == self->customer_id)
			add_other(scene, PLACEMENT_CUSTOMER, place_of(port->server_id, &port->move),
				"port/%s", port->name);
	}
	for (size_t i = 0; i < all->n_spares; i++) {
		if (all->spares[i].site_id == site->id)
			add_other(scene, PLACEMENT_SPARE, all->spares[i].server_id, "spare/%lld",
				(long long)all->spares[i].id);
	}
	for (size_t i = 0; i < all->n_pvm_voids; i++) {
		if (strcmp(all->pvm_voids[i].object, object) == 0)
			add_other(scene, PLACEMENT_VOID, all->pvm_voids[i].server_id,
				"a former copy of it");
	}
}

static void rules_of_spare(struct registry_scene *scene, const struct registry_inventory *all,
	const struct site *site, const char *object)
{
	for (size_t i = 0; i < all->n_spares; i++) {
		if (all->spares[i].site_id == site->id && !is_spare(object, all->spares[i].id))
			add_other(scene, PLACEMENT_POOL, all->spares[i].server_id, "spare/%lld",
				(long long)all->spares[i].id);
	}
	for (size_t i = 0; i < all->n_ports; i++) {
		if (all->ports[i].site_id == site->id)
			add_other(scene, PLACEMENT_STOOD_FOR,
				place_of(all->ports[i].server_id, &all->ports[i].move), "port/%s",
				all->ports[i].name);
	}
}

static void rules_of_cvm(struct registry_scene *scene, const struct registry_inventory *all,
	const struct site *site, const struct placing *placing)
{
	bool standby = strncmp(placing->object, "standby/", 8) == 0;
	for (size_t i = 0; i < all->n_protections && !standby && !placing->but_standby; i++) {
		if (all->protections[i].site_id == site->id)
			add_other(scene, PLACEMENT_STANDBY, all->protections[i].standby_id,
				"its standby");
	}
	for (size_t i = 0; i < all->n_cvms && standby; i++) {
		if (all->cvms[i].site_id == site->id)
			add_other(scene, PLACEMENT_STANDBY,
				place_of(all->cvms[i].server_id, &all->cvms[i].move), "cvm/%s",
				site->name);
	}
	for (size_t i = 0; i < all->n_voids; i++) {
		if (all->voids[i].site_id == site->id)
			add_other(scene, PLACEMENT_VOID, all->voids[i].server_id,
				"a former copy of it");
	}
}

static int gather_rules(struct registry_scene *scene, const struct registry_inventory *all,
	const struct site *site, const struct placing *placing)
{
	size_t most = 2 + all->n_ports + all->n_spares + all->n_pvm_voids + all->n_voids +
		      all->n_protections + all->n_cvms;
	scene->others = calloc(most, sizeof(*scene->others));
	if (scene->others == NULL)
		return ENOMEM;
	if (placing->failed)
		add_other(scene, PLACEMENT_FAILED, placing->but[0], "what failed");
	if (strncmp(placing->object, "port/", 5) == 0)
		rules_of_port(scene, all, site, placing->object);
	else if (strncmp(placing->object, "spare/", 6) == 0)
		rules_of_spare(scene, all, site, placing->object);
	else
		rules_of_cvm(scene, all, site, placing);
	assert(scene->n_others <= most);
	return 0;
}

/* ---- scenes ------------------------------------------------------------------------------- */

static bool is_listed(const int64_t *ids, size_t n, int64_t id)
{
	for (size_t i = 0; i < n; i++) {
		if (ids[i] == id)
			return true;
	}
	return false;
}

static const char *why_barred(const struct placing *placing, const struct server *server)
{
	if (server->id == placing->but[0])
		return placing->failed ? "it failed there" : placing->but_why;
	if (server->id == placing->but[1])
		return placing->failed ? "it doesn't answer" : "it failed there";
	if (placing->with_hostd && server->hostd[0] == '\0')
		return "it has no edgeplex-hostd";
	if (placing->only != NULL && !is_listed(placing->only, placing->n_only, server->id))
		return "it has no spare";
	return NULL;
}

int registry_scene_load(struct store *store, const struct site *site, const struct placing *placing,
	registry_reachable_fn reachable, void *ctx, struct registry_scene *scene)
{
	struct registry_inventory all = {0};
	*scene = (struct registry_scene){.n = 0};
	int err = registry_inventory_read(store, &all);
	if (err != 0)
		goto out;
	scene->choice = calloc(all.n_servers + 1, sizeof(*scene->choice));
	if (scene->choice == NULL) {
		err = ENOMEM;
		goto out;
	}
	for (size_t i = 0; i < all.n_servers; i++) {
		const struct server *server = &all.servers[i];
		if (server->site_id != site->id)
			continue;
		scene->choice[scene->n++] = (struct placement_server){
			.id = server->id,
			.name = server->name,
			.barred = why_barred(placing, server),
			.reachable = reachable(ctx, server->id),
			.drained = server->drained,
			.memory_kib = (uint64_t)server->memory_mib * 1024,
			.used_kib = used_kib(&all, site, placing, server->id),
			.risks = &server->risks,
		};
	}
	err = gather_rules(scene, &all, site, placing);
	scene->request = (struct placement_request){
		.need_kib = placing->need_kib,
		.wanted = placing->wanted,
		.site = site->name,
		.others = scene->others,
		.n_others = scene->n_others,
	};
	scene->servers = all.servers; /* `choice` refers to them */
	all.servers = NULL;
out:
	registry_inventory_free(&all);
	if (err != 0)
		registry_scene_free(scene);
	return err;
}

void registry_scene_free(struct registry_scene *scene)
{
	free(scene->servers);
	free(scene->choice);
	free(scene->others);
	*scene = (struct registry_scene){.n = 0};
}

/* ---- placing ------------------------------------------------------------------------------ */

static void add_text(cJSON *list, const char *text)
{
	if (list != NULL)
		cJSON_AddItemToArray(list, cJSON_CreateString(text));
}

/* Collects what is told; NULL: not wanted. */
struct told {
	cJSON *for_it, *against, *not_met;
};

static void take_told(void *ctx, enum placement_say say, const char *text)
{
	struct told *told = ctx;
	add_text(say == PLACEMENT_FOR ? told->for_it : told->against, text);
	if (say == PLACEMENT_UNMET)
		add_text(told->not_met, text);
}

void registry_scene_tell(const struct registry_scene *scene, size_t at, cJSON *for_it,
	cJSON *against, cJSON *not_met)
{
	struct told told = {for_it, against, not_met};
	placement_tell(scene->choice, scene->n, &scene->request, at, take_told, &told);
}

/* Keeps what the choice was made by. The store's errno. */
static int keep_reasons(struct store *store, const struct registry_scene *scene,
	const struct placing *placing, size_t at)
{
	char text[512];
	cJSON *why = cJSON_CreateObject();
	cJSON *reasons = cJSON_AddArrayToObject(why, "reasons");
	if (placing->wanted[0] != '\0')
		add_text(reasons, "the operator asked for this server");
	registry_scene_tell(scene, at, reasons, NULL, cJSON_AddArrayToObject(why, "not_met"));
	for (size_t i = 0; i < scene->n; i++) {
		if (i == at)
			continue;
		placement_why_not(
			scene->choice, scene->n, &scene->request, at, i, text, sizeof(text));
		add_text(reasons, text);
	}
	char *printed = cJSON_PrintUnformatted(why);
	int err = printed == NULL ? ENOMEM
				  : store_placement_put(
					    store, placing->object, scene->choice[at].id, printed);
	cJSON_free(printed);
	cJSON_Delete(why);
	return err;
}

int registry_place(struct store *store, const struct site *site, const struct placing *placing,
	registry_reachable_fn reachable, void *ctx, int64_t *server_id,
	char server[MODEL_NAME_SIZE], struct problem *problem)
{
	struct registry_scene scene;
	if (registry_scene_load(store, site, placing, reachable, ctx, &scene) != 0)
		return registry_database_failed(store, problem);
	int chosen = placement_choose(scene.choice, scene.n, &scene.request, problem);
	if (chosen >= 0 && keep_reasons(store, &scene, placing, (size_t)chosen) != 0) {
		registry_database_failed(store, problem);
		chosen = -1;
	}
	if (chosen >= 0) {
		*server_id = scene.choice[chosen].id;
		snprintf(server, MODEL_NAME_SIZE, "%s", scene.choice[chosen].name);
	}
	registry_scene_free(&scene);
	return chosen >= 0 ? 0 : -1;
}
