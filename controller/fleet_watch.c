/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Watching servers: each has a thread, its watcher, which asks its hostd again and again, looks at
 * its trunk, has libvirt asked when hostd is silent, and has heal_decide.c say what to think of it.
 * VMs of a server that is lost are replaced by fleet_heal.c.
 */

#include "controller/fleet_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "controller/heal.h"
#include "controller/hostd_client.h"

bool fleet_server_is_well(void *ctx, int64_t server_id)
{
	struct fleet *fleet = ctx;
	struct fleet_server *server = fleet_server_ref(fleet, server_id);
	if (server == NULL)
		return false;
	pthread_mutex_lock(&fleet->lock);
	bool well = server->health == HEAL_SERVER_WELL;
	pthread_mutex_unlock(&fleet->lock);
	well = well && hv_alive(server->hv);
	fleet_server_unref(fleet, server);
	return well;
}

int fleet_server_heard(
	struct fleet *fleet, struct fleet_server *server, const struct port *port, uint64_t *count)
{
	struct server stored;
	struct why why = {""};
	int err = fleet_server_load(fleet, server->id, &stored);
	if (err != 0)
		return err;
	struct fleet_site *site = fleet_site_ref(fleet, stored.site_id);
	if (site == NULL)
		return ENOENT;
	uint64_t cookie = port != NULL ? fabric_cookie(FABRIC_OWNER_PORT, (uint32_t)port->id) : 0;
	err = fabric_heard(site->fabric, cookie, stored.trunk, HEAL_COUNTERS_MS, count, &why);
	fleet_site_unref(fleet, site);
	return err;
}

/* What a watcher knows that nobody else does. */
struct watch {
	struct fleet_server *server;
	struct server stored;
	struct hostd_client *client;
	char target[MODEL_HOSTD_SIZE];
	int64_t begun_ms, hostd_ms, libvirt_ms, trunk_down_ms; /* monotonic */
	int64_t ask_ms; /* monotonic: hostd isn't asked again before */
	bool heard_ever;
	bool counting, counted, forwards;
	uint64_t count;
	int64_t count_ms, well_ms;
};

static void ask_hostd(struct watch *watch)
{
	struct jsonrpc_error err = {0};
	if (strcmp(watch->target, watch->stored.hostd) != 0 || watch->client == NULL) {
		hostd_client_close(watch->client);
		watch->client = NULL;
		snprintf(watch->target, sizeof(watch->target), "%s", watch->stored.hostd);
		if (watch->target[0] != '\0')
			watch->client = hostd_client_open(watch->target, NULL, NULL, NULL);
	}
	if (watch->client == NULL)
		return;
	int timeout = watch->trunk_down_ms != 0 ? HEAL_TRUNK_ANSWER_MS : HEAL_KEEPALIVE_ANSWER_MS;
	int64_t begun = fleet_now_ms();
	if (begun < watch->ask_ms)
		return;
	int rc = hostd_client_call(watch->client, "hostd.alive", NULL, timeout, NULL, &err);
	int64_t now = fleet_now_ms();
	watch->ask_ms = now + HEAL_KEEPALIVE_MS;
	/* A refused method is an answer; and a question that we asked late proves nothing. */
	if (rc == 0 || err.code != JSONRPC_UNAVAILABLE) {
		watch->hostd_ms = now;
		watch->heard_ever = true;
	} else if (now - begun > timeout + HEAL_LATE_MS) {
		watch->hostd_ms += now - begun;
	}
}

/* Is the trunk down, and are not all of the site's? */
static void look_at_trunk(struct watch *watch, struct heal_server_facts *facts)
{
	struct fleet *fleet = watch->server->fleet;
	struct fabric_port_state *ports = NULL;
	struct server *servers = NULL;
	size_t n = 0, n_servers = 0, trunks_up = 0;
	bool down = false;
	struct fleet_site *site = fleet_site_ref(fleet, watch->stored.site_id);
	if (site != NULL && fabric_ports(site->fabric, &ports, &n, NULL) == 0 &&
		store_server_list(fleet->store, &servers, &n_servers) == 0) {
		for (size_t i = 0; i < n; i++) {
			for (size_t j = 0; j < n_servers; j++)
				trunks_up += servers[j].site_id == watch->stored.site_id &&
					     strcmp(servers[j].trunk, ports[i].name) == 0 &&
					     ports[i].link;
			if (strcmp(ports[i].name, watch->stored.trunk) == 0)
				down = !ports[i].link;
		}
	}
	facts->trunk_known = trunks_up > 0;
	if (!down || !facts->trunk_known)
		watch->trunk_down_ms = 0;
	else if (watch->trunk_down_ms == 0)
		watch->trunk_down_ms = fleet_now_ms();
	if (watch->trunk_down_ms != 0)
		facts->trunk_down_ms = fleet_now_ms() - watch->trunk_down_ms + 1;
	if (site != NULL)
		fleet_site_unref(fleet, site);
	free(ports);
	free(servers);
}

/* Has its keeper ask libvirt. */
static void look_at_libvirt(struct watch *watch, struct heal_server_facts *facts)
{
	struct fleet_server *server = watch->server;
	struct fleet *fleet = server->fleet;
	int64_t now = fleet_now_ms();
	if (!hv_alive(server->hv)) {
		facts->libvirt_silent = true;
		return;
	}
	watch->heard_ever = true;
	bool suspect = facts->hostd_silent_ms >= HEAL_TRUNK_SILENT_MS;
	pthread_mutex_lock(&fleet->lock);
	if (server->answered != server->asked) {
		facts->libvirt_silent = now - server->unanswered_ms >= HEAL_LIBVIRT_MS;
	} else {
		if (server->view.answers && server->unanswered_ms > watch->libvirt_ms)
			watch->libvirt_ms = server->unanswered_ms;
		if (suspect && now - watch->libvirt_ms >= HEAL_LIBVIRT_MS) {
			server->asked = ++fleet->servers_asked;
			server->unanswered_ms = now;
			pthread_cond_signal(&server->wake);
		}
	}
	pthread_mutex_unlock(&fleet->lock);
}

static void count_trunk(struct watch *watch, struct heal_server_facts *facts)
{
	uint64_t now;
	if (facts->silent_ms < HEAL_COUNTED_MS) {
		watch->counting = watch->counted = false;
		return;
	}
	if (fleet_server_heard(watch->server->fleet, watch->server, NULL, &now) == 0) {
		if (!watch->counting) {
			watch->counting = true;
			watch->count = now;
			watch->count_ms = fleet_now_ms();
		} else if (now != watch->count) {
			watch->forwards = watch->counted = true;
			watch->count = now;
			watch->count_ms = fleet_now_ms();
		} else if (fleet_now_ms() - watch->count_ms >= HEAL_COUNTED_MS) {
			watch->forwards = false;
			watch->counted = true;
		}
	}
	facts->counted = watch->counted;
	facts->forwards = watch->forwards;
}

static struct heal_server_facts look(struct watch *watch)
{
	struct fleet_server *server = watch->server;
	struct heal_server_facts facts = {.has_hostd = watch->client != NULL};
	look_at_trunk(watch, &facts); /* it may have fallen just now, and that is why we look */
	ask_hostd(watch);
	facts.has_hostd = watch->client != NULL;
	int64_t now = fleet_now_ms(), last = watch->begun_ms;
	facts.hostd_silent_ms = now - watch->hostd_ms;
	look_at_libvirt(watch, &facts);
	look_at_trunk(watch, &facts);
	pthread_mutex_lock(&server->fleet->lock);
	int64_t guest_ms = server->guest_heard_ms;
	pthread_mutex_unlock(&server->fleet->lock);
	if (watch->hostd_ms > last)
		last = watch->hostd_ms;
	if (watch->libvirt_ms > last)
		last = watch->libvirt_ms;
	if (guest_ms > last)
		last = guest_ms;
	facts.heard = watch->heard_ever;
	facts.silent_ms = fleet_now_ms() - last;
	if (facts.silent_ms >= HEAL_DOUBT_MS)
		count_trunk(watch, &facts);
	return facts;
}

static void tell_health(struct watch *watch, enum heal_server health, enum heal_server before)
{
	static const char *const texts[] = {
		[HEAL_SERVER_HIDDEN] =
			"its VMs forward, but it doesn't answer: check the management network",
		[HEAL_SERVER_CUT] = "the server's trunk has no carrier: its VMs are replaced",
		[HEAL_SERVER_DEAD] = "the server is dead: its VMs are fenced and replaced",
	};
	char object[48];
	snprintf(object, sizeof(object), "server/%s", watch->server->name);
	if (health >= HEAL_SERVER_HIDDEN)
		fleet_event(watch->server->fleet, "error", object, "%s", texts[health]);
	else if (health == HEAL_SERVER_WELL && before >= HEAL_SERVER_HIDDEN)
		fleet_event(watch->server->fleet, "info", object, "the server is well again");
}

/* `silent_ms`: for how long nobody there has said anything. */
static void set_health(struct watch *watch, enum heal_server health, int64_t silent_ms)
{
	struct fleet_server *server = watch->server;
	struct fleet *fleet = server->fleet;
	pthread_mutex_lock(&fleet->lock);
	enum heal_server before = server->health;
	pthread_mutex_unlock(&fleet->lock);
	/* Whoever was given up is well again only when it has been for a while, and to libvirt,
	 * too. */
	bool was_lost = before == HEAL_SERVER_DEAD || before == HEAL_SERVER_CUT;
	if (health != HEAL_SERVER_WELL || !hv_alive(server->hv))
		watch->well_ms = 0;
	else if (watch->well_ms == 0)
		watch->well_ms = fleet_now_ms();
	if (was_lost && health < HEAL_SERVER_CUT &&
		(watch->well_ms == 0 || fleet_now_ms() - watch->well_ms < HEAL_BACK_MS))
		return;
	if (health == before)
		return;
	pthread_mutex_lock(&fleet->lock);
	server->health = health;
	if (before == HEAL_SERVER_WELL)
		server->sick_ms = watch->trunk_down_ms != 0 ? watch->trunk_down_ms
							    : fleet_now_ms() - silent_ms;
	bool news = health != HEAL_SERVER_DOUBTED;
	for (struct fleet_vm *vm = fleet->vms; vm != NULL && news; vm = vm->next) {
		if (vm->server == server)
			fleet_heart_wake(vm);
	}
	if (news)
		fleet_pool_kick(fleet);
	pthread_mutex_unlock(&fleet->lock);
	if (!(before == HEAL_SERVER_DOUBTED && health == HEAL_SERVER_WELL))
		tell_health(watch, health, before);
	if (news && health == HEAL_SERVER_WELL)
		fleet_reaper_kick(fleet);
}

static void *watcher_main(void *arg)
{
	struct watch watch = {.server = arg};
	struct fleet_server *server = arg;
	struct fleet *fleet = server->fleet;
	int64_t begun = fleet_now_ms();
	watch.begun_ms = watch.hostd_ms = begun;
	bool go_on = true;
	while (go_on) {
		unsigned wait_ms = HEAL_KEEPALIVE_MS;
		if (fleet_server_load(fleet, server->id, &watch.stored) == 0) {
			struct heal_server_facts facts = look(&watch);
			set_health(&watch, heal_decide_server(&facts), facts.silent_ms);
			wait_ms = heal_server_again_ms(&facts);
		}
		struct timespec until = fleet_deadline_in(wait_ms);
		int err = 0;
		pthread_mutex_lock(&fleet->lock);
		while (!fleet->stopping && !server->removed && !server->watch_woken && err == 0)
			err = pthread_cond_timedwait(&server->watch_wake, &fleet->lock, &until);
		if (server->watch_woken)
			watch.ask_ms = 0;
		server->watch_woken = false;
		go_on = !fleet->stopping && !server->removed;
		pthread_mutex_unlock(&fleet->lock);
	}
	hostd_client_close(watch.client);
	return NULL;
}

void fleet_watcher_start(struct fleet_server *server)
{
	server->has_watcher = pthread_create(&server->watcher, NULL, watcher_main, server) == 0;
	if (!server->has_watcher)
		log_error("no thread could be started to watch a server, restart edgeplexd "
			  "server=%s",
			server->name);
}

void fleet_watcher_end(struct fleet_server *server)
{
	if (server->has_watcher)
		pthread_join(server->watcher, NULL);
	server->has_watcher = false;
}

const char *fleet_server_health(struct fleet *fleet, int64_t server_id)
{
	static const char *const names[] = {"well", "well", "hidden", "trunk-down", "dead"};
	enum heal_server health = HEAL_SERVER_WELL;
	pthread_mutex_lock(&fleet->lock);
	for (const struct fleet_server *s = fleet->servers; s != NULL; s = s->next) {
		if (s->id == server_id)
			health = s->health;
	}
	pthread_mutex_unlock(&fleet->lock);
	return names[health];
}
