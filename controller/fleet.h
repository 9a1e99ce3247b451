/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FLEET_H
#define EDGEPLEX_FLEET_H

/*
 * The real things: edge switches, servers and VMs, and making them be what the store says.
 *
 * Each site's switch and each VM has a thread, its keeper: every 2 s, and whenever it is kicked, it
 * compares what should be with what is, and mends the difference: rules of the switch, VMs that
 * should run but don't, configurations that aren't the newest. A VM or a server that hangs holds up
 * its own keeper only. Operations call the same functions to have something done
 * now and to hear how it went. So whatever is interrupted is mended by whoever comes next.
 *
 * Objects are named as in the API: "port/green-a" is a port's PVM, "cvm/a" a site's CVM. Functions
 * may be called from any thread. Those that take a `struct problem` block, up to the time limits
 * given, and return 0 or -1 with `problem`.
 */

#include <stdbool.h>
#include <stdint.h>
#include <cjson/cJSON.h>

#include "controller/model.h"
#include "controller/store.h"

struct fleet;
struct fleet_site;
struct fleet_server;

#define FLEET_RUN_DIR_MAX 60 /* a monitor socket's path has more, and is limited */

struct fleet_options {
	const char *image_dir;   /* holds vmlinuz and initramfs.img, on every server */
	const char *console_dir; /* on every server; NULL: consoles are not kept */
	/* For VMs on servers with a hostd; both on every such server. */
	const char *run_dir; /* holds qmp/ for monitor sockets and ram/, a tmpfs; at most
				FLEET_RUN_DIR_MAX bytes */
	const char *preload; /* libedgeplex-wp.so */
};

/* Opens switches, servers and VMs that the store knows, and starts the keepers. NULL with errno. */
struct fleet *fleet_start(struct store *store, const struct fleet_options *options);

/* Makes waiting functions return soon. Nothing real is stopped. */
void fleet_shutdown(struct fleet *fleet);
/* Call after fleet_shutdown(), when no other thread uses it any more. Accepts NULL. */
void fleet_free(struct fleet *fleet);

/* Lets everybody look again at once: desired state was changed. Doesn't block. */
void fleet_kick(struct fleet *fleet);
/* The same, but of VMs only the object's is looked at: what changed is no concern of others. */
void fleet_kick_object(struct fleet *fleet, const char *object);

/* Waits for `ms`; returns false at once when the fleet shuts down. */
bool fleet_pause(struct fleet *fleet, unsigned ms);

/*
 * A site that isn't stored yet: connects to its switch and checks its core port. Then either
 * fleet_site_keep() once it is stored (with its id set), or fleet_site_drop().
 */
int fleet_site_open(struct fleet *fleet, const struct site *site, struct fleet_site **out,
	struct problem *problem);
void fleet_site_keep(struct fleet *fleet, struct fleet_site *opened, const struct site *site);
void fleet_site_drop(struct fleet *fleet, struct fleet_site *opened);
void fleet_site_remove(struct fleet *fleet, int64_t site_id);
/* Is the switch connected now? Doesn't block. */
bool fleet_site_connected(struct fleet *fleet, int64_t site_id);
/* Has the site's switch a port of this name? `field` is that of the request. */
int fleet_site_check_port(struct fleet *fleet, const struct site *site, const char *port,
	const char *field, struct problem *problem);

/* The same for a server. */
int fleet_server_open(struct fleet *fleet, const struct server *server, struct fleet_server **out,
	struct problem *problem);
void fleet_server_keep(
	struct fleet *fleet, struct fleet_server *opened, const struct server *server);
void fleet_server_drop(struct fleet *fleet, struct fleet_server *opened);
void fleet_server_remove(struct fleet *fleet, int64_t server_id);
bool fleet_server_connected(struct fleet *fleet, int64_t server_id);
/*
 * Has a server, or all of them (0), looked at afresh, and waits for it, up to 1.5 s. One that
 * doesn't answer by then counts as unreachable until it does.
 */
void fleet_servers_refresh(struct fleet *fleet, int64_t server_id);
/*
 * Adds what was last seen of the machine ("status", "cpus", "memory_free_mib"…) and of its hostd
 * ("hostd_status"…). Doesn't block.
 */
void fleet_server_describe(struct fleet *fleet, const struct server *server, cJSON *json);
/* Does a hostd answer there? */
int fleet_hostd_check(const char *target, struct problem *problem);

/*
 * Makes the site's switch serve what the store says. Rules that name a port which the switch lacks
 * are left out (`detail` counts them) until it has it.
 */
int fleet_sync_switch(
	struct fleet *fleet, const char *site, char *detail, size_t size, struct problem *problem);

/* Starts the object's VM if it doesn't run, and waits until its guest has booted. */
int fleet_vm_start(struct fleet *fleet, const char *object, struct problem *problem);
/* Gives the object's guest its configuration, unless it has it. */
int fleet_vm_configure(struct fleet *fleet, const char *object, struct problem *problem);
/* Has the site's CVM answered when it was last asked? Doesn't block. */
bool fleet_cvm_answers(struct fleet *fleet, const char *site);
/*
 * Has the guest of an object that is being deleted end its BGP sessions for good, so that its peers
 * forget its routes at once instead of keeping them for its return (RFC 4724). Returns whether they
 * know; false after 10 s at the latest, and when the fleet shuts down.
 */
bool fleet_vm_withdraw(struct fleet *fleet, const char *object);
/* Ends the object's VM, wherever it stands. */
int fleet_vm_stop(struct fleet *fleet, const char *object, struct problem *problem);

/*
 * Asks the guest afresh, and says whether the object gives service (health.h).
 * Returns true, or false with `missing`.
 */
bool fleet_vm_serves(struct fleet *fleet, const char *object, char *missing, size_t size);

/* Calls a method of the object's guest. An error answer becomes a problem. */
int fleet_vm_call(struct fleet *fleet, const char *object, const char *method, const cJSON *params,
	int timeout_ms, cJSON **result, struct problem *problem);

/*
 * The steps of moving a port's PVM to the server that the store has for it (struct port,
 * move_server), in this order; each may be repeated after a crash.
 *
 * prepare: the destination's VM waits for its state, and the copy has begun.
 * copy: waits until little is left to copy. `progress` is told how far it is.
 * switch: the destination takes over; when this returns 0 it is the VM, in the store too; after -1
 *   the source is, or, if it died, nobody is yet.
 * settle: the source is fenced off.
 * end: the void copy is ended, wherever it is, and forgotten. Serves at any time that there is one.
 * undo: of what prepare and copy did.
 */
typedef void (*fleet_progress_fn)(void *ctx, const char *text);
int fleet_move_prepare(struct fleet *fleet, const char *object, struct problem *problem);
int fleet_move_copy(struct fleet *fleet, const char *object, fleet_progress_fn progress, void *ctx,
	struct problem *problem);
int fleet_move_switch(struct fleet *fleet, const char *object, char *detail, size_t size,
	struct problem *problem);
int fleet_move_settle(struct fleet *fleet, const char *object, struct problem *problem);
int fleet_move_end(struct fleet *fleet, const char *object, struct problem *problem);
int fleet_move_undo(struct fleet *fleet, const char *object, struct problem *problem);

/*
 * Protection of CVMs by standbys. What is asked for is in the store (struct protection); a thread
 * for each protected CVM makes it so, and has the standby take over when the CVM dies
 * (fleet_protect.c). Operations wait for it here; `object` is "cvm/a".
 */

/* How far it is, in this order. */
enum fleet_protect_stage {
	FLEET_PROTECT_NONE,
	FLEET_PROTECT_STARTED, /* the standby's VM waits */
	FLEET_PROTECT_COPYING,
	FLEET_PROTECT_WHOLE, /* protected */
};

/*
 * Waits until the protection, as it is stored now, has come to `stage`, or an attempt at it failed.
 */
int fleet_protect_await(struct fleet *fleet, const char *object, enum fleet_protect_stage stage,
	fleet_progress_fn progress, void *ctx, struct problem *problem);
/*
 * Has the standby take over. Does nothing if one did, because it was asked to, since `since_ms`
 * (real time): so it may be repeated after a crash. `detail` gets how it went.
 */
int fleet_protect_failover(struct fleet *fleet, const char *object, int64_t since_ms, char *detail,
	size_t size, struct problem *problem);
/* Waits until a CVM has no standby, and nothing is left of one where it is to be moved to. */
int fleet_protect_suspend(struct fleet *fleet, const char *object, struct problem *problem);
/*
 * Ends the protection for good, and waits for copies of the CVM elsewhere to be ended; without
 * `voids` not for those on servers that don't answer.
 */
int fleet_protect_end(struct fleet *fleet, const char *object, bool voids, struct problem *problem);
/* Could the standby of the site's CVM take over now? Doesn't block. */
bool fleet_protected_now(struct fleet *fleet, const char *site);
/*
 * "protection" of the CVM as the API shows it, the caller's; null if it isn't asked for. `fresh`:
 * asks hostd for its figures, for up to PROTECT_REFRESH_MS.
 */
cJSON *fleet_protect_json(struct fleet *fleet, const struct cvm *cvm, bool fresh);
/* Adds "failovers" and "last_failover" (null: none yet), which outlive the protection. */
void fleet_failovers_json(cJSON *json, const struct failovers *past);

/* "well", "hidden" (nobody there answers, but its VMs forward), "trunk-down", "dead". */
const char *fleet_server_health(struct fleet *fleet, int64_t server_id);

/* The spares of a site, or (NULL) all, as the API shows them; the caller's. */
cJSON *fleet_spares_json(struct fleet *fleet, const char *site);

/* VMs that were replaced since edgeplexd started, by cause and way. False: there is no such `i`. */
struct fleet_heal_count {
	const char *cause, *way;
	uint64_t n;
	double seconds; /* of all together, from the failure to service */
};
bool fleet_heal_count(struct fleet *fleet, size_t i, struct fleet_heal_count *count);

enum fleet_vm_state { FLEET_VM_ABSENT, FLEET_VM_STARTING, FLEET_VM_RUNNING, FLEET_VM_UNKNOWN };

struct fleet_vm_view {
	enum fleet_vm_state state;
	bool serves;
	char missing[512];   /* why not, if !serves */
	int64_t uptime_ms;   /* of the guest; -1 unknown */
	cJSON *daemon, *fwd; /* newest pvm.status or cvm.status, fwd.status; NULL: none */
	uint64_t cpu_ms, rss_kib;
	uint64_t memory_kib;
};

/* What was last seen of the VM; doesn't block. Free with fleet_vm_view_free(). */
void fleet_vm_view(struct fleet *fleet, const char *uuid, struct fleet_vm_view *view);
void fleet_vm_view_free(struct fleet_vm_view *view);
const char *fleet_vm_state_name(enum fleet_vm_state state);

/* Notes an event for the operator; written by a thread of the fleet. Doesn't block. */
__attribute__((format(printf, 4, 5))) void fleet_event(
	struct fleet *fleet, const char *severity, const char *object, const char *fmt, ...);

/*
 * Waits up to `ms` until more events are stored than when `*seen` was last set by this function (0:
 * returns at once), and sets it. Returns false at once when the fleet shuts down.
 */
bool fleet_event_wait(struct fleet *fleet, uint64_t *seen, unsigned ms);

#endif
