/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Healing: VMs whose process, guest or server fails are replaced (DESIGN 7).
 *
 * Every VM has a thread here, its heart, which asks the guest again and again whether it is alive,
 * hears what its channel and its server's libvirt tell, and does what heal_decide.c makes of it. It
 * never waits for its server, so eight VMs of a server that died are replaced at once. What to
 * think of servers is fleet_watch.c's.
 *
 * A take-over is one transaction of the store, then the switch, then the spare: from the commit on
 * the rules that the switch is to have name nothing of the VM that was. The switch has confirmed
 * that before the spare hears of any address. If edgeplexd ends in between, the VM's keeper
 * configures it after the next start, again behind the switch's word.
 */

#include "controller/fleet_internal.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/log.h"
#include "controller/explain.h"
#include "controller/guest_config.h"
#include "controller/heal.h"
#include "controller/hostd_client.h"
#include "controller/registry.h"

static int64_t now_us(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* ---- what is heard of a VM (fleet->lock is held) --------------------------------------------- */

void fleet_heart_wake(struct fleet_vm *vm)
{
	vm->heart.woken = true;
	pthread_cond_signal(&vm->heart.wake);
}

static void note_sick(struct heart *heart)
{
	if (heart->sick_us == 0)
		heart->sick_us = now_us();
}

void fleet_heart_process(struct fleet_vm *vm, enum heal_process process)
{
	struct heart *heart = &vm->heart;
	if (process == HEAL_PROCESS_GONE) {
		note_sick(heart);
		vm->spare_ready = false;
	}
	if (heart->process != process && process != HEAL_PROCESS_RUNS)
		fleet_heart_wake(vm);
	heart->process = process;
}

static void on_hang_up(void *ctx)
{
	struct fleet_vm *vm = ctx;
	pthread_mutex_lock(&vm->fleet->lock);
	note_sick(&vm->heart);
	vm->heart.hung_up = true;
	vm->heart.hung_up_ms = fleet_now_ms();
	if (vm->heart.process == HEAL_PROCESS_RUNS)
		vm->heart.process = HEAL_PROCESS_UNKNOWN;
	vm->spare_ready = false;
	fleet_heart_wake(vm);
	pthread_mutex_unlock(&vm->fleet->lock);
}

static void note_well(struct fleet_vm *vm)
{
	struct heart *heart = &vm->heart;
	heart->hung_up = false;
	heart->unanswered = 0;
	heart->counting = heart->counted = false;
	heart->booted = true;
	heart->process = HEAL_PROCESS_RUNS;
	vm->server->guest_heard_ms = fleet_now_ms();
	if (heart->fwd_stuck_ms == 0 && heart->daemon_stuck_ms == 0)
		heart->sick_us = 0;
}

/* Does a part of guest.alive's answer ("fwd") say that it stands still? One without it doesn't. */
static bool stands_still(const cJSON *answer, const char *part)
{
	const cJSON *ok = cJSON_GetObjectItemCaseSensitive(
		cJSON_GetObjectItemCaseSensitive(answer, part), "ok");
	return cJSON_IsFalse(ok);
}

static void note_part(int64_t *stuck_ms, bool *kicked, bool *was_ok, bool stuck)
{
	if (!stuck) {
		*stuck_ms = 0;
		*kicked = false;
		*was_ok = true;
	} else if (*stuck_ms == 0 && *was_ok) {
		*stuck_ms = fleet_now_ms();
	}
}

static void note_answer(struct fleet_vm *vm, const cJSON *answer)
{
	struct heart *heart = &vm->heart;
	bool fwd = stands_still(answer, "fwd"), daemon = stands_still(answer, "pvm");
	note_part(&heart->fwd_stuck_ms, &heart->kicked_fwd, &heart->fwd_was_ok, fwd);
	note_part(&heart->daemon_stuck_ms, &heart->kicked_daemon, &heart->daemon_was_ok, daemon);
	if (heart->fwd_stuck_ms != 0 || heart->daemon_stuck_ms != 0)
		note_sick(heart);
	note_well(vm);
	if (vm->spare_id != 0) {
		bool ready = !fwd && !daemon;
		if (ready && !vm->spare_ready) {
			vm->state = FLEET_VM_RUNNING;
			log_info("a spare is ready object=%s server=%s", vm->object,
				vm->server->name);
			fleet_pool_kick(vm->fleet);
			for (struct fleet_vm *other = vm->fleet->vms; other != NULL;
				other = other->next) {
				if (other->heart.sick_us != 0)
					fleet_heart_wake(other);
			}
		}
		vm->spare_ready = ready;
	}
}

static void ask_alive(struct fleet_vm *vm)
{
	struct fleet *fleet = vm->fleet;
	struct jsonrpc_error err = {0};
	cJSON *answer = NULL;
	int64_t begun = fleet_now_ms();
	int rc = guest_call(vm->guest, "guest.alive", NULL, HEAL_ANSWER_MS, &answer, &err);
	int64_t took = fleet_now_ms() - begun;
	pthread_mutex_lock(&fleet->lock);
	if (rc == 0)
		note_answer(vm, answer);
	else if (err.code != JSONRPC_UNAVAILABLE)
		note_well(vm); /* an image that doesn't know the question answers it by that */
	else if (took >= HEAL_ANSWER_MS && took < HEAL_ANSWER_MS + HEAL_LATE_MS &&
		 vm->heart.booted && hv_alive(vm->server->hv)) {
		note_sick(&vm->heart);
		vm->heart.unanswered++;
		if (vm->heart.unanswered > 1)
			vm->spare_ready = false;
	}
	pthread_mutex_unlock(&fleet->lock);
	cJSON_Delete(answer);
}

/* ---- asking others about it ------------------------------------------------------------------ */

/* Its server's hostd: is there a QEMU? */
static void peek(struct fleet_vm *vm)
{
	struct fleet *fleet = vm->fleet;
	struct server stored;
	struct jsonrpc_error err = {0};
	cJSON *result = NULL;
	char path[300];
	if (fleet_server_load(fleet, vm->server->id, &stored) != 0 || stored.hostd[0] == '\0')
		return;
	struct hostd_client *client = hostd_client_open(stored.hostd, NULL, NULL, NULL);
	if (client == NULL)
		return;
	fleet_qmp_path(fleet, vm->uuid, path);
	cJSON *params = cJSON_CreateObject();
	cJSON_AddStringToObject(params, "qmp_path", path);
	int rc = hostd_client_call(client, "hostd.alive", params, HEAL_PEEK_MS, &result, &err);
	const cJSON *ended = cJSON_GetObjectItemCaseSensitive(result, "vm_ended");
	pthread_mutex_lock(&fleet->lock);
	/* One that it doesn't answer for was started without the socket, perhaps. */
	if (rc == 0 && cJSON_IsBool(ended) && vm->heart.hung_up)
		vm->heart.process = cJSON_IsTrue(ended) ? HEAL_PROCESS_GONE : HEAL_PROCESS_RUNS;
	pthread_mutex_unlock(&fleet->lock);
	cJSON_Delete(params);
	cJSON_Delete(result);
	hostd_client_close(client);
}

/* Compares what the switch hears of it with what it had heard when it had just fallen silent. */
static void count(struct fleet_vm *vm, const struct port *port)
{
	struct heart *heart = &vm->heart;
	uint64_t now;
	if (fleet_server_heard(vm->fleet, vm->server, port, &now) != 0)
		return;
	if (!heart->counting) {
		heart->counting = true;
		heart->count = now;
		heart->counted_ms = fleet_now_ms();
	} else if (fleet_now_ms() - heart->counted_ms >= HEAL_COUNTED_MS) {
		heart->forwards = now != heart->count;
		heart->counted = true;
		if (heart->forwards) { /* and from now on? */
			heart->count = now;
			heart->counted_ms = fleet_now_ms();
		}
	}
}

/* ---- taking over ----------------------------------------------------------------------------- */

/* Its switch follows the store before anything else happens. False: edgeplexd is being stopped. */
static bool fence(struct fleet *fleet, int64_t site_id, const char *object)
{
	struct why why = {""};
	struct fleet_site *site = fleet_site_ref(fleet, site_id);
	bool told = false, go_on = true;
	if (site == NULL)
		return false;
	while (fleet_switch_now(fleet, site, HEAL_FENCE_MS, &why) != 0 && go_on) {
		if (!told)
			fleet_event(fleet, "error", object,
				"the edge switch doesn't confirm a take-over, which waits: %s",
				why.text);
		told = true;
		go_on = fleet_pause(fleet, FLEET_RETRY_MS);
	}
	fleet_site_unref(fleet, site);
	return go_on;
}

static unsigned at_once(struct fleet_server *server)
{
	struct hv_server_info info;
	pthread_mutex_lock(&server->fleet->lock);
	unsigned n = server->at_once;
	pthread_mutex_unlock(&server->fleet->lock);
	if (n != 0)
		return n;
	if (hv_server_info(server->hv, &info, NULL) != 0)
		return heal_at_once(0, true);
	n = heal_at_once(info.cpus, info.accel != HV_ACCEL_KVM);
	pthread_mutex_lock(&server->fleet->lock);
	server->at_once = n;
	pthread_mutex_unlock(&server->fleet->lock);
	return n;
}

/* Waits for the turn of a spare, whose predecessor is fenced already. */
static void await_turn(struct fleet_vm *spare)
{
	struct fleet *fleet = spare->fleet;
	const unsigned limit = at_once(spare->server);
	const int64_t until = fleet_now_ms() + HEAL_TURNS_MS;
	bool mine = false, go_on = true;
	while (!mine && go_on) {
		const int64_t now = fleet_now_ms();
		unsigned others = 0;
		pthread_mutex_lock(&fleet->lock);
		for (const struct fleet_vm *vm = fleet->vms; vm != NULL; vm = vm->next)
			others += vm->server == spare->server && vm->heart.turn_until_ms > now;
		mine = others < limit || now >= until;
		if (mine)
			spare->heart.turn_until_ms = now + HEAL_TURN_MS;
		pthread_mutex_unlock(&fleet->lock);
		go_on = mine || fleet_pause(fleet, HEAL_TURN_LOOK_MS);
	}
}

/* A spare stands in for the VM. False: there is none, or it may not. */
static bool take_over(struct fleet_vm *vm, enum heal_cause cause, const struct target *target)
{
	struct fleet *fleet = vm->fleet;
	struct take_over story = {.cause = cause, .warm = true, .noticed_us = now_us()};
	struct problem problem = {0};
	struct jsonrpc_error err = {0};
	struct port port;
	struct target as_it_is;
	char object[48], name[MODEL_SPARE_NAME_SIZE];
	bool server_lost = cause == HEAL_CAUSE_SERVER || cause == HEAL_CAUSE_CUT;
	snprintf(object, sizeof(object), "%s", vm->object);
	struct fleet_vm *spare = fleet_spare_take(fleet, &target->port, target->site.pvm_memory_kib,
		server_lost ? vm->server->id : 0);
	if (spare == NULL)
		return false;
	struct lost_pvm lost = {
		target->port.name, vm->uuid, vm->server->id, heal_cause_text(cause)};
	model_spare_name(spare->spare_id, name);
	pthread_mutex_lock(&fleet->lock);
	story.sick_us = vm->heart.sick_us != 0 ? vm->heart.sick_us : vm->server->sick_ms * 1000;
	pthread_mutex_unlock(&fleet->lock);
	if (registry_port_adopt(fleet->store, &lost, spare->spare_id, &port, &problem) != 0) {
		log_info("no take-over object=%s why=\"%s\"", object, problem.detail);
		pthread_mutex_unlock(&spare->life);
		fleet_vm_unref(fleet, spare);
		return false;
	}
	story.chosen_us = now_us();
	snprintf(story.way, sizeof(story.way), "taken over by %s on server %s", name, port.server);
	fleet_vm_adopt(fleet, vm, spare);
	bool configured = false;
	if (fence(fleet, port.site_id, object)) {
		story.fenced_us = now_us();
		await_turn(spare);
		configured = fleet_target_load(fleet, object, &as_it_is) == 0 &&
			     fleet_configure_locked(fleet, spare, &as_it_is, NULL, &err) == 0;
		story.configured_us = now_us();
		if (!configured)
			log_warn("a spare doesn't take its configuration yet object=%s why=\"%s\"",
				object, err.message);
	}
	pthread_mutex_lock(&fleet->lock);
	spare->heart.story = story;
	spare->heart.turn_until_ms = fleet_now_ms() + HEAL_TURN_SERVES_MS;
	spare->taking_over = false;
	fleet_heart_wake(spare);
	fleet_pool_kick(fleet);
	pthread_mutex_unlock(&fleet->lock);
	pthread_mutex_unlock(&spare->life);
	fleet_vm_unref(fleet, spare);
	fleet_reaper_kick(fleet);
	/* Nothing changed for others, and who takes over has better to do than to answer. */
	if (!configured)
		fleet_kick_object(fleet, object);
	explain_warn_port(fleet->store, fleet, port.name, fleet_server_is_well, fleet);
	return true;
}

/* A VM on another server stands in for it, from nothing. */
static bool place_anew(struct fleet_vm *vm, enum heal_cause cause, const struct target *target)
{
	struct fleet *fleet = vm->fleet;
	struct take_over story = {.cause = cause, .noticed_us = now_us()};
	struct problem problem = {0};
	struct target as_it_is;
	char object[48];
	snprintf(object, sizeof(object), "%s", vm->object);
	pthread_mutex_lock(&fleet->lock);
	story.sick_us = vm->server->sick_ms * 1000;
	/* From the commit on the store names a VM of which everybody else would make an entry. */
	vm->placing = true;
	pthread_mutex_unlock(&fleet->lock);
	int rc;
	if (target->is_cvm) {
		struct cvm cvm;
		rc = registry_cvm_reseat(fleet->store, target->cvm.site, vm->server->id,
			fleet_server_is_well, fleet, &cvm, &problem);
	} else {
		struct port port;
		struct lost_pvm lost = {
			target->port.name, vm->uuid, vm->server->id, heal_cause_text(cause)};
		rc = registry_port_reseat(
			fleet->store, &lost, 0, fleet_server_is_well, fleet, &port, &problem);
	}
	if (rc != 0) {
		if (!vm->trouble && problem.status != 404 && strcmp(problem.type, "not-ready") != 0)
			fleet_event(fleet, "error", object, "it can't be placed anew: %s",
				problem.detail);
		vm->trouble = problem.status != 404;
		pthread_mutex_lock(&fleet->lock);
		vm->placing = false;
		pthread_mutex_unlock(&fleet->lock);
		return false;
	}
	story.chosen_us = now_us();
	bool there = fleet_target_load(fleet, object, &as_it_is) == 0;
	if (there)
		snprintf(story.way, sizeof(story.way), "placed anew on server %s",
			target->is_cvm ? as_it_is.cvm.server : as_it_is.port.server);
	/* The entry goes before there is another one: a CVM's has the same UUID. */
	fleet_vm_dismiss(fleet, vm);
	if (!there)
		return true;
	/* It boots meanwhile; it isn't configured before the switch has confirmed. */
	struct fleet_vm *fresh = fleet_vm_ref_placed(fleet, object, &as_it_is, &story, &problem);
	if (fresh != NULL)
		fleet_vm_unref(fleet, fresh);
	fleet_event(fleet, "warning", object, "%s: %s", heal_cause_text(cause), story.way);
	explain_warn(fleet->store, fleet, object);
	fence(fleet, as_it_is.site.id, object);
	fleet_reaper_kick(fleet);
	fleet_kick(fleet);
	return true;
}

/* Its keeper may start it where it is; what hangs there is ended first. */
static void start_here(struct fleet_vm *vm, enum heal_cause cause)
{
	struct fleet *fleet = vm->fleet;
	struct why why = {""};
	if (cause == HEAL_CAUSE_HANGS || cause == HEAL_CAUSE_STUCK) {
		fleet_event(fleet, "warning", vm->object,
			"%s, and there is no spare: it is started again on server %s",
			heal_cause_text(cause), vm->server->name);
		if (hv_vm_destroy(vm->server->hv, vm->uuid, &why) != 0) {
			log_warn("a VM that hangs can't be ended object=%s why=\"%s\"", vm->object,
				why.text);
			return;
		}
	}
	pthread_mutex_lock(&fleet->lock);
	vm->heart.start_here = true;
	if (vm->heart.story.cause == HEAL_CAUSE_NONE) {
		vm->heart.story = (struct take_over){.cause = cause,
			.sick_us = vm->heart.sick_us,
			.noticed_us = now_us(),
			.chosen_us = now_us()};
		snprintf(vm->heart.story.way, sizeof(vm->heart.story.way),
			"started again on server %s", vm->server->name);
	}
	vm->kicked = true;
	pthread_cond_signal(&vm->wake);
	pthread_mutex_unlock(&fleet->lock);
}

static void end_program(struct fleet_vm *vm, const char *program, bool *kicked)
{
	struct jsonrpc_error err = {0};
	cJSON *params = cJSON_CreateObject();
	cJSON_AddStringToObject(params, "process", program);
	cJSON_AddStringToObject(params, "signal", "KILL");
	bool done = guest_call(vm->guest, "guest.signal", params, HEAL_ANSWER_MS, NULL, &err) == 0;
	if (done)
		fleet_event(vm->fleet, "warning", vm->object,
			"%s in its VM stood still: it is started again", program);
	cJSON_Delete(params);
	pthread_mutex_lock(&vm->fleet->lock);
	*kicked = done;
	pthread_mutex_unlock(&vm->fleet->lock);
}

/* ---- until it gives service --------------------------------------------------------------------
 */

/* Tells of a take-over whose VM gives service, or doesn't in time. */
static void tell_story(struct fleet_vm *vm, bool serves)
{
	struct fleet *fleet = vm->fleet;
	char stages[160] = "";
	pthread_mutex_lock(&fleet->lock);
	struct take_over story = vm->heart.story;
	vm->heart.story.cause = HEAL_CAUSE_NONE;
	vm->heart.turn_until_ms = 0;
	int64_t begun = story.sick_us != 0 ? story.sick_us : story.noticed_us, now = now_us();
	if (serves) {
		struct heal_count *count = &fleet->heals[story.cause][story.warm];
		count->n++;
		count->seconds += (double)(now - begun) / 1e6;
	}
	fleet_pool_kick(fleet); /* which rested meanwhile */
	pthread_mutex_unlock(&fleet->lock);
	if (story.warm)
		snprintf(stages, sizeof(stages),
			"noticed after %.1f ms, chosen %.1f, switch confirmed %.1f, configured "
			"%.1f, ",
			(double)(story.noticed_us - begun) / 1e3,
			(double)(story.chosen_us - begun) / 1e3,
			(double)(story.fenced_us - begun) / 1e3,
			(double)(story.configured_us - begun) / 1e3);
	if (serves)
		fleet_event(fleet, "warning", vm->object, "%s: %s, %sserving after %.1f ms",
			heal_cause_text(story.cause), story.way, stages,
			(double)(now - begun) / 1e3);
	else
		fleet_event(fleet, "error", vm->object,
			"%s: %s, but it gives no service after %d s: %s",
			heal_cause_text(story.cause), story.way, HEAL_SERVING_MS / 1000,
			vm->missing);
}

/* A look at a VM that was just replaced. */
static void follow_story(struct fleet_vm *vm)
{
	char missing[512];
	bool serves = false;
	pthread_mutex_lock(&vm->fleet->lock);
	int64_t since_us = vm->heart.story.noticed_us;
	bool there = vm->heart.booted && vm->heart.process != HEAL_PROCESS_GONE;
	pthread_mutex_unlock(&vm->fleet->lock);
	if (there)
		serves = fleet_look_briefly(vm->fleet, vm, missing, sizeof(missing));
	else if (guest_connected(vm->guest))
		ask_alive(vm);
	if (serves || now_us() - since_us > INT64_C(1000) * HEAL_SERVING_MS)
		tell_story(vm, serves);
}

/* ---- the heart ------------------------------------------------------------------------------- */

static struct heal_vm_facts get_facts(struct fleet_vm *vm, const struct target *target)
{
	struct fleet *fleet = vm->fleet;
	struct heart *heart = &vm->heart;
	int64_t now = fleet_now_ms();
	pthread_mutex_lock(&fleet->lock);
	struct heal_vm_facts facts = {
		.is_cvm = vm->is_cvm,
		.server = vm->server->health,
		.process = heart->process,
		.hung_up = heart->hung_up,
		.hung_up_ms = now - heart->hung_up_ms,
		.booted = heart->booted,
		.unanswered = heart->unanswered,
		.counted = heart->counted,
		.forwards = heart->forwards,
		.fwd_stuck_ms = heart->fwd_stuck_ms != 0 ? now - heart->fwd_stuck_ms + 1 : 0,
		.daemon_stuck_ms =
			heart->daemon_stuck_ms != 0 ? now - heart->daemon_stuck_ms + 1 : 0,
		.kicked_fwd = heart->kicked_fwd,
		.kicked_daemon = heart->kicked_daemon,
	};
	pthread_mutex_unlock(&fleet->lock);
	facts.switch_connected = fleet_site_connected(fleet, target->site.id);
	bool lost = facts.server == HEAL_SERVER_DEAD || facts.server == HEAL_SERVER_CUT;
	if (!vm->is_cvm)
		facts.spare = fleet_spare_there(fleet, target->site.id, target->site.pvm_memory_kib,
			lost ? vm->server->id : 0);
	return facts;
}

/* Does it, and says whether something is still to be done. */
static bool act(struct fleet_vm *vm, const struct target *target)
{
	enum heal_cause cause;
	struct heal_vm_facts facts = get_facts(vm, target);
	enum heal_action action = heal_decide_vm(&facts, &cause);
	bool done = true;
	switch (action) {
	case HEAL_NOTHING:
		return true;
	case HEAL_PEEK:
		/* A libvirt that is away takes all channels along. */
		if (!hv_alive(vm->server->hv))
			return true;
		peek(vm);
		pthread_mutex_lock(&vm->fleet->lock);
		done = vm->heart.process != HEAL_PROCESS_GONE;
		pthread_mutex_unlock(&vm->fleet->lock);
		return done;
	case HEAL_COUNT:
		count(vm, &target->port);
		return true;
	case HEAL_END_FWD:
		end_program(vm, "edgeplex-fwd", &vm->heart.kicked_fwd);
		return true;
	case HEAL_END_DAEMON:
		end_program(vm, "pvmd", &vm->heart.kicked_daemon);
		return true;
	case HEAL_TAKE_OVER:
		done = take_over(vm, cause, target);
		break;
	case HEAL_PLACE_ANEW:
		done = place_anew(vm, cause, target);
		break;
	case HEAL_START_HERE:
		start_here(vm, cause);
		break;
	}
	pthread_mutex_lock(&vm->fleet->lock);
	vm->heart.retry_ms = done ? 0 : fleet_now_ms() + HEAL_RETRY_MS;
	if (action == HEAL_START_HERE)
		vm->heart.retry_ms = fleet_now_ms() + 10 * HEAL_RETRY_MS;
	pthread_mutex_unlock(&vm->fleet->lock);
	return true;
}

/* Is this the VM of its object, and nobody else's business just now? */
static bool is_mine(struct fleet_vm *vm, struct target *target)
{
	char object[sizeof(vm->object)];
	pthread_mutex_lock(&vm->fleet->lock);
	bool listed = !vm->removed;
	memcpy(object, vm->object, sizeof(object));
	pthread_mutex_unlock(&vm->fleet->lock);
	return listed && fleet_target_load(vm->fleet, object, target) == 0 && target->started &&
	       strcmp(target->uuid, vm->uuid) == 0 && target->server_id == vm->server->id &&
	       !target->is_spare &&
	       (target->move.state == MOVE_NONE || target->move.state == MOVE_LEAVING) &&
	       (target->is_cvm ? target->cvm.state : target->port.state) == PORT_ACTIVE;
}

static void beat(struct fleet_vm *vm)
{
	struct fleet *fleet = vm->fleet;
	struct target target;
	pthread_mutex_lock(&fleet->lock);
	bool sick = vm->heart.sick_us != 0 || vm->server->health == HEAL_SERVER_DEAD ||
		    vm->server->health == HEAL_SERVER_CUT;
	bool wait = fleet_now_ms() < vm->heart.retry_ms;
	pthread_mutex_unlock(&fleet->lock);
	while (sick && !wait && is_mine(vm, &target) && !act(vm, &target))
		;
}

/* One whose channel doesn't open is asked in vain, and that counts, unless it is libvirt's fault.
 */
static bool is_to_be_asked(struct fleet_vm *vm)
{
	bool connected = guest_connected(vm->guest);
	pthread_mutex_lock(&vm->fleet->lock);
	bool booted = vm->heart.booted && vm->heart.process != HEAL_PROCESS_GONE;
	/* While its server is asked about the process, nobody waits for the channel. */
	bool peeking = vm->heart.hung_up && fleet_now_ms() - vm->heart.hung_up_ms < HEAL_HUNG_UP_MS;
	pthread_mutex_unlock(&vm->fleet->lock);
	return !vm->is_cvm && (connected || (booted && !peeking && hv_alive(vm->server->hv)));
}

static void *heart_main(void *arg)
{
	struct fleet_vm *vm = arg;
	struct fleet *fleet = vm->fleet;
	struct heart *heart = &vm->heart;
	int64_t ask_ms = 0;
	pthread_mutex_lock(&fleet->lock);
	while (!fleet->stopping && !vm->removed) {
		heart->woken = false;
		bool story = heart->story.cause != HEAL_CAUSE_NONE;
		pthread_mutex_unlock(&fleet->lock);
		/* First: what it was woken for doesn't wait for a guest that is gone. */
		beat(vm);
		if (story)
			follow_story(vm);
		else if (is_to_be_asked(vm) && fleet_now_ms() >= ask_ms) {
			ask_ms = fleet_now_ms() + HEAL_ALIVE_MS;
			ask_alive(vm);
			beat(vm);
		}
		pthread_mutex_lock(&fleet->lock);
		int64_t wait_ms = ask_ms - fleet_now_ms();
		if (wait_ms < 1 || wait_ms > HEAL_ALIVE_MS)
			wait_ms = HEAL_ALIVE_MS;
		bool peeking =
			heart->hung_up && fleet_now_ms() - heart->hung_up_ms < HEAL_HUNG_UP_MS;
		if (peeking && heart->process != HEAL_PROCESS_GONE)
			wait_ms = HEAL_PEEK_AGAIN_MS;
		else if (heart->story.cause != HEAL_CAUSE_NONE)
			wait_ms = HEAL_LOOK_MS;
		else if ((heart->sick_us != 0 || !heart->booted) && wait_ms > HEAL_KEEPALIVE_MS)
			wait_ms = HEAL_KEEPALIVE_MS;
		struct timespec until = fleet_deadline_in((unsigned)wait_ms);
		int err = 0;
		while (!fleet->stopping && !vm->removed && !heart->woken && err == 0)
			err = pthread_cond_timedwait(&heart->wake, &fleet->lock, &until);
	}
	pthread_mutex_unlock(&fleet->lock);
	return NULL;
}

void fleet_heart_start(struct fleet_vm *vm)
{
	guest_on_hang_up(vm->guest, on_hang_up, vm);
	vm->heart.has_thread = pthread_create(&vm->heart.thread, NULL, heart_main, vm) == 0;
	if (!vm->heart.has_thread)
		log_error("no thread could be started to look after a VM, restart edgeplexd "
			  "object=%s",
			vm->object);
}

void fleet_heart_end(struct fleet_vm *vm)
{
	if (vm->heart.has_thread)
		pthread_join(vm->heart.thread, NULL);
	vm->heart.has_thread = false;
}

bool fleet_heart_leaves(struct fleet_vm *vm, const struct target *target)
{
	struct fleet *fleet = vm->fleet;
	if (target->is_cvm || target->is_spare || target->port.state != PORT_ACTIVE)
		return true;
	pthread_mutex_lock(&fleet->lock);
	bool leaves = vm->heart.start_here || !vm->heart.has_thread;
	if (!leaves)
		fleet_heart_process(vm, HEAL_PROCESS_GONE);
	pthread_mutex_unlock(&fleet->lock);
	return leaves;
}

void fleet_heart_restarted(struct fleet_vm *vm)
{
	struct heart *heart = &vm->heart;
	pthread_mutex_lock(&vm->fleet->lock);
	heart->start_here = heart->booted = heart->hung_up = false;
	heart->unanswered = 0;
	heart->fwd_stuck_ms = heart->daemon_stuck_ms = heart->sick_us = 0;
	heart->kicked_fwd = heart->kicked_daemon = false;
	heart->fwd_was_ok = heart->daemon_was_ok = false;
	heart->process = HEAL_PROCESS_UNKNOWN;
	heart->retry_ms = 0;
	vm->spare_ready = false;
	pthread_mutex_unlock(&vm->fleet->lock);
}

/* ---- what is shown -----------------------------------------------------------------------------
 */

bool fleet_heal_count(struct fleet *fleet, size_t i, struct fleet_heal_count *count)
{
	if (i >= 2 * (HEAL_CAUSES - 1))
		return false;
	enum heal_cause cause = (enum heal_cause)(i / 2 + 1);
	pthread_mutex_lock(&fleet->lock);
	*count = (struct fleet_heal_count){.cause = heal_cause_name(cause),
		.way = i % 2 == 0 ? "cold" : "spare",
		.n = fleet->heals[cause][i % 2].n,
		.seconds = fleet->heals[cause][i % 2].seconds};
	pthread_mutex_unlock(&fleet->lock);
	return true;
}
