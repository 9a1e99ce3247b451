/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FLEET_INTERNAL_H
#define EDGEPLEX_FLEET_INTERNAL_H

/*
 * What the fleet's files share.
 *
 * Locks, in the order in which they may be taken:
 *   site->turn     one VM of a site at a time stands still to be moved
 *   vm->life       a VM's life cycle and configuration: held while something is done to it
 *   site->switch_lock  one fabric_apply() at a time, and in the order of the facts
 *   fleet->lock    lists, reference counts, what was last seen; never held over a blocking call
 * The store's own mutex may be taken under any of them but fleet->lock.
 *
 * Callbacks of the hypervisor, guest and fabric modules take fleet->lock only.
 */

#include <pthread.h>

#include "controller/fabric.h"
#include "controller/fleet.h"
#include "controller/guest.h"
#include "controller/heal_decide.h"
#include "controller/hypervisor.h"

#define FLEET_SWITCH_CONNECT_MS 5000
/* A server's first connection probes its QEMU: up to 10 s. */
#define FLEET_SERVER_CONNECT_MS 20000
#define FLEET_GUEST_BOOT_MS 120000 /* several VMs at once without KVM */
#define FLEET_GUEST_STATUS_MS 4000
#define FLEET_RETRY_MS 250

struct fleet_site {
	struct fleet_site *next;
	struct fleet *fleet;
	unsigned refs;
	int64_t id;
	char name[MODEL_NAME_SIZE];
	struct fabric *fabric;
	pthread_mutex_t switch_lock;
	uint64_t applied;    /* hash of the rules in force; 0: not known. Under switch_lock */
	uint64_t confirmed;  /* the store's generation that the switch has. Under switch_lock */
	bool switch_trouble; /* an event told so. Under switch_lock */
	struct switch_state *state; /* fleet_switch.c's. Under switch_lock */
	pthread_mutex_t turn;       /* held while a VM of the site stands still */
	pthread_t keeper;
	bool has_keeper, removed, kicked;
	pthread_cond_t wake; /* with fleet->lock */
};

/* What was last seen of a server. */
struct server_view {
	bool answers; /* libvirt; then `info` is known */
	struct hv_server_info info;
	bool hostd_answers;
	char hostd_version[64], hostd_listen[128];
};

struct fleet_server {
	struct fleet_server *next;
	struct fleet *fleet;
	unsigned refs;
	int64_t id, site_id;
	char name[MODEL_NAME_SIZE];
	struct hv *hv;
	/* VMs of ours that the store doesn't know. Under fleet->lock. */
	struct hv_vm *orphans;
	size_t n_orphans;
	pthread_t keeper; /* asks for what is shown of it */
	bool has_keeper, removed;
	pthread_cond_t wake; /* with fleet->lock */
	/* Of fleet->servers_asked; under fleet->lock. */
	uint64_t asked, answered;
	int64_t unanswered_ms; /* monotonic: if they differ, since when */
	struct server_view view;

	pthread_t watcher; /* fleet_heal.c's: says how it is */
	bool has_watcher, watch_woken;
	pthread_cond_t watch_wake; /* with fleet->lock */
	enum heal_server health;   /* under fleet->lock */
	int64_t sick_ms;           /* monotonic: since when it isn't well */
	int64_t guest_heard_ms;    /* monotonic: when one of its guests last answered */
	unsigned at_once;          /* heal_at_once() of it; 0: not known yet. Under fleet->lock */
};

/* What is known of a VM's life, under fleet->lock; fleet_heal.c's. */
struct heart {
	pthread_t thread;
	bool has_thread, woken;
	pthread_cond_t wake; /* with fleet->lock */
	enum heal_process process;
	bool hung_up, booted, kicked_fwd, kicked_daemon;
	bool fwd_was_ok, daemon_was_ok; /* since it booted: one that begins doesn't stand still */
	bool start_here;                /* its keeper may start it, for nobody stands in for it */
	unsigned unanswered;
	int64_t hung_up_ms, sick_us; /* monotonic: since when anything is wrong; 0: nothing */
	int64_t fwd_stuck_ms, daemon_stuck_ms; /* monotonic; 0: not */
	int64_t retry_ms;                      /* no attempt before */
	int64_t turn_until_ms;                 /* monotonic: it takes over now (heal.h) */
	/* What the switch had heard of it when it fell silent. Of its thread alone. */
	bool counting, counted, forwards;
	uint64_t count;
	int64_t counted_ms;
	/* A take-over of which it is told when the VM gives service. */
	struct take_over {
		enum heal_cause cause; /* HEAL_CAUSE_NONE: none */
		char way[96];          /* "taken over by spare-7 on server b" */
		bool warm;
		int64_t sick_us, noticed_us, chosen_us, fenced_us, configured_us;
	} story;
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
	int64_t spare_id; /* 0: it is none. Under life and fleet->lock */
	bool spare_ready; /* under fleet->lock */
	bool taking_over; /* it is being told to stand in for another. Under fleet->lock */
	int64_t made_ms;  /* monotonic */
	struct heart heart;
	struct fleet_server *server; /* a reference */
	struct guest *guest;
	pthread_mutex_t life;
	int64_t start_after_ms; /* monotonic: don't try again to start it before. Under life */
	bool trouble;           /* an event told that it can't be started or configured */
	bool ran;               /* its process was seen, or was started. Under life */
	bool fresh;             /* was placed anew, and never started before. Under fleet->lock */
	bool placing;           /* another one is being placed for it. Under fleet->lock */
	bool leaving;           /* its sessions are ended on purpose. Under fleet->lock */

	/* What was last seen; under fleet->lock. */
	enum fleet_vm_state state;
	bool serves;
	char missing[512];
	int64_t uptime_ms;
	cJSON *daemon, *fwd;
	struct hv_vm_stats stats;
};

/*
 * A move that is under way. Made again from the store after a restart. Its members belong to the
 * thread of its operation, but for what the lock guards.
 */
struct fleet_move {
	struct fleet_move *next; /* under fleet->lock */
	char object[48], uuid[MODEL_UUID_SIZE];
	bool is_cvm;
	int64_t port_id;         /* if !is_cvm */
	struct fleet_site *site; /* references */
	struct fleet_server *from, *to;
	enum fabric_phase phase; /* written by fleet_phase_set(); under fleet->lock */
	struct guest *to_guest;  /* the destination's; NULL: not opened */
	struct hostd_client *at_from, *at_to;
	bool activated; /* the destination may have run */
	int64_t begun_ms;
	/* Of hostd's last word on the source. */
	double bytes, passes, paused_us, stopped_pages;
	bool source_died;
	int64_t stopped_at_us; /* monotonic */
	char reason[256];
};

struct protector; /* fleet_protect.c's */

struct pending_event {
	struct pending_event *next;
	char severity[8], object[48], text[512];
};

struct fleet {
	struct store *store;
	char image_dir[480], kernel[512], initrd[512], console_dir[256];
	char run_dir[FLEET_RUN_DIR_MAX + 1], preload[512];
	pthread_mutex_t lock;
	pthread_cond_t stop_cond;
	bool stopping;
	struct fleet_site *sites;
	struct fleet_server *servers;
	uint64_t servers_asked;     /* how often all or one of them were to be looked at */
	pthread_cond_t server_cond; /* one has answered */
	struct fleet_vm *vms;
	struct fleet_move *moves;
	uint64_t moves_serial; /* grows whenever a move begins, ends, or changes its phase */

	int64_t started_ms; /* monotonic */
	struct heal_count {
		uint64_t n;
		double seconds;  /* of all together, until service */
	} heals[HEAL_CAUSES][2]; /* cold, warm; under lock */
	pthread_t pool;          /* fleet_spare.c's: keeps as many spares as there should be */
	bool has_pool, pool_kicked;
	pthread_cond_t pool_cond; /* with lock */

	struct protector *protectors;
	pthread_t reaper; /* destroys void copies, and frees VMs' entries that were replaced */
	bool has_reaper, reaper_kicked;
	pthread_cond_t reaper_cond;
	int64_t reap_failed;                  /* the server of which it complained last; its own */
	int64_t reaping_site, reaping_server; /* whose copy it works on; 0: none */
	pthread_cond_t reaped;
	struct fleet_vm *retired;

	pthread_t sweeper; /* forgets VMs that the store doesn't have any more */
	bool has_sweeper;
	pthread_t scribe; /* writes events to the store */
	bool has_scribe;
	pthread_cond_t event_cond;
	struct pending_event *events, **events_tail;
	uint64_t events_stored; /* since the start, plus one */
	pthread_cond_t stored_cond;
};

/* All that is to be known to start and configure a VM, as the store has it now. */
struct target {
	bool is_cvm, is_spare;
	struct spare spare; /* if is_spare */
	struct port port;   /* if neither */
	struct cvm cvm;     /* the VM itself, or the CVM of the port's site */
	struct site site;
	const char *uuid;
	int64_t server_id;
	bool started;
	struct second_copy move;
	enum protection_state protection; /* of a CVM */
	unsigned layout;                  /* that a copy has to have; 0: any */
};

/* ---- fleet.c ------------------------------------------------------------------------------ */

int64_t fleet_now_ms(void); /* monotonic */
int64_t fleet_now_us(void);
struct timespec fleet_deadline_in(unsigned ms);
void fleet_cond_init(pthread_cond_t *cond); /* of the monotonic clock */
bool fleet_is_stopping(struct fleet *fleet);
int fleet_interrupted(struct problem *problem); /* sets it; -1 */

void fleet_switch_unreachable(struct problem *problem, const struct why *why); /* sets it */

/* References: NULL if there is none. */
struct fleet_site *fleet_site_ref(struct fleet *fleet, int64_t id);
void fleet_site_unref(struct fleet *fleet, struct fleet_site *site);
struct fleet_server *fleet_server_ref(struct fleet *fleet, int64_t id);
void fleet_server_unref(struct fleet *fleet, struct fleet_server *server);

/* ENOENT when the object, or something that it needs, isn't in the store. */
int fleet_target_load(struct fleet *fleet, const char *object, struct target *target);
int fleet_gone(struct problem *problem, const char *object); /* sets it; -1 */

/* A reference to the VM's entry, which is made if there is none; NULL with `problem`. */
struct fleet_vm *fleet_vm_ref(struct fleet *fleet, const char *object, const struct target *target,
	struct problem *problem);
/* The same of one that was placed for a VM that was lost, and never started; its keeper does that.
 */
struct fleet_vm *fleet_vm_ref_placed(struct fleet *fleet, const char *object,
	const struct target *target, const struct take_over *story, struct problem *problem);
/* The same for a VM that should run; there is none for one that shouldn't. */
struct fleet_vm *fleet_started_vm_ref(struct fleet *fleet, const char *object,
	const struct target *target, struct problem *problem);
void fleet_vm_unref(struct fleet *fleet, struct fleet_vm *vm);
struct fleet_vm *fleet_vm_find(struct fleet *fleet, const char *uuid); /* fleet->lock is held */

/*
 * Starts the object's VM on a server, which need not be its own; `incoming`: as the destination of
 * a copy. Errno.
 */
int fleet_start_on(struct fleet *fleet, struct fleet_server *server, const char *object,
	const struct target *target, bool incoming, struct why *why);

/*
 * The VM of `old`, a listed entry, is now on `server`, and `guest` (taken) speaks with it. The
 * caller holds a reference to it, and old->life, unless the store says already that its VM is
 * elsewhere. ENOMEM: nothing was changed.
 */
int fleet_vm_replace(struct fleet *fleet, struct fleet_vm *old, struct fleet_server *server,
	struct guest *guest);

/*
 * The VM of `spare` is that of `old`'s object from now on, as the store says already. The caller
 * holds spare->life. `old`, a listed entry, ends, and is given to the reaper.
 */
void fleet_vm_adopt(struct fleet *fleet, struct fleet_vm *old, struct fleet_vm *spare);
/* The list lets go of a VM that isn't there any more, or is another one's; gives it to the reaper.
 */
void fleet_vm_dismiss(struct fleet *fleet, struct fleet_vm *vm);

/* Where the VM's second monitor socket is, on its server. */
void fleet_qmp_path(const struct fleet *fleet, const char *uuid, char path[300]);

/* ---- fleet_server.c ----------------------------------------------------------------------- */

/* Connects; not in the list yet, see fleet_server_keep(). NULL: no memory. */
struct fleet_server *fleet_server_new(struct fleet *fleet, const struct server *server);
/* The server as it is stored. Errno. */
int fleet_server_load(struct fleet *fleet, int64_t server_id, struct server *server);

/* ---- fleet_guest.c ------------------------------------------------------------------------ */

/* Gives the guest its configuration unless `status` tells that it has it. vm->life is held. */
int fleet_configure_locked(struct fleet *fleet, struct fleet_vm *vm, const struct target *target,
	const cJSON *status, struct jsonrpc_error *err);
/* Asks for everything that tells how the VM does, and remembers it. Does it give service? */
bool fleet_look(struct fleet *fleet, struct fleet_vm *vm, char *missing, size_t size);
/* The same of one that was just replaced: asks only enough to know that it doesn't serve yet. */
bool fleet_look_briefly(struct fleet *fleet, struct fleet_vm *vm, char *missing, size_t size);
/* Notes what was seen. Takes `daemon` and `fwd`; `missing` NULL: it gives service. */
void fleet_vm_seen(struct fleet *fleet, struct fleet_vm *vm, enum fleet_vm_state state,
	cJSON *daemon, cJSON *fwd, const char *missing);

/* ---- fleet_switch.c ----------------------------------------------------------------------- */

struct switch_state *fleet_switch_state_new(void); /* NULL: no memory */
void fleet_switch_state_free(struct switch_state *state);

/*
 * Brings the switch to the phase of a move and waits, up to 2 s, until it has confirmed. Whatever
 * is returned, from now on that is the phase which the switch is to have. Errno.
 */
int fleet_phase_set(
	struct fleet *fleet, struct fleet_move *move, enum fabric_phase phase, struct why *why);
/* Computes ahead what fleet_phase_set() will want, if nothing changes meanwhile. */
void fleet_phase_prepare(struct fleet *fleet, struct fleet_move *move, enum fabric_phase phase);

/* Waits, for some seconds, until the switch has confirmed all that it is to have now. Errno. */
int fleet_switch_confirm(struct fleet *fleet, int64_t site_id, struct why *why);

/* Puts the site's switch right if it is connected. */
void fleet_keep_switch(struct fleet *fleet, struct fleet_site *site);

/*
 * Has the site's switch do at once what the store says, and waits up to `timeout_ms` until it has
 * confirmed; that is so already if somebody's change went out after the caller's was stored. Errno;
 * ports that it lacks are no reason.
 */
int fleet_switch_now(struct fleet *fleet, struct fleet_site *site, int timeout_ms, struct why *why);

/* ---- fleet_protect.c ---------------------------------------------------------------------- */

/* Sees to it that the site's CVM, if it is to be protected, has its thread. */
void fleet_protect_ensure(struct fleet *fleet, const char *site);
/* Something changed; fleet->lock is held. */
void fleet_protect_kick(struct fleet *fleet);
/* Ports of the site's switch changed. Doesn't block; called by a switch's callback. */
void fleet_protect_ports(struct fleet *fleet, const char *site);
/* Is the VM of this UUID stopped and resumed all the time? fleet->lock is held. */
bool fleet_protect_is_noisy(struct fleet *fleet, const char *uuid);
/* Ends the thread of a site that is removed. */
void fleet_protect_remove(struct fleet *fleet, const char *site);
/* After fleet_shutdown(). */
void fleet_protect_free(struct fleet *fleet);

/* ---- fleet_heal.c ------------------------------------------------------------------------- */

/* The VM's own thread; it may be called for an entry that isn't listed yet. */
void fleet_heart_start(struct fleet_vm *vm);
void fleet_heart_end(struct fleet_vm *vm); /* when it is removed, or the fleet shut down */
/* Something is new with it; fleet->lock is held. */
void fleet_heart_wake(struct fleet_vm *vm);
/* Its server says of the VM's process; fleet->lock is held. */
void fleet_heart_process(struct fleet_vm *vm, enum heal_process process);
/* May its keeper start this VM, which doesn't run? If not, its heart is told. */
bool fleet_heart_leaves(struct fleet_vm *vm, const struct target *target);
/* It was started anew. */
void fleet_heart_restarted(struct fleet_vm *vm);

/* ---- fleet_watch.c ------------------------------------------------------------------------ */

void fleet_watcher_start(struct fleet_server *server);
void fleet_watcher_end(struct fleet_server *server); /* when it is removed */
/* May something be placed on that server? `fleet` is the context: a registry_reachable_fn. */
bool fleet_server_is_well(void *fleet, int64_t server_id);
/* What the switch has heard on a server's trunk: of a port's VM, or (NULL) of all. Errno. */
int fleet_server_heard(
	struct fleet *fleet, struct fleet_server *server, const struct port *port, uint64_t *count);

/* ---- fleet_spare.c ------------------------------------------------------------------------ */

int fleet_pool_start(struct fleet *fleet); /* errno */
void fleet_pool_end(struct fleet *fleet);  /* after fleet_shutdown() */
/* Something is new; fleet->lock is held. */
void fleet_pool_kick(struct fleet *fleet);
/*
 * The site's spare that is best for a VM that isn't to be on the server `but`, with its life held
 * and a reference; NULL: there is none that is ready now.
 */
struct fleet_vm *fleet_spare_take(
	struct fleet *fleet, const struct port *port, uint32_t memory_kib, int64_t but);
/* Is there one? */
enum heal_spare fleet_spare_there(
	struct fleet *fleet, int64_t site_id, uint32_t memory_kib, int64_t but);

/* ---- fleet_reaper.c ----------------------------------------------------------------------- */

int fleet_reaper_start(struct fleet *fleet); /* errno */
/* After fleet_shutdown(), when nobody retires VMs any more. */
void fleet_reaper_end(struct fleet *fleet);
/* There are new void copies. */
void fleet_reaper_kick(struct fleet *fleet);
/*
 * Waits until it doesn't work on that server's copy of the site's CVM; it doesn't begin to, unless
 * that is void. False: the fleet is shut down.
 */
bool fleet_reaper_await(struct fleet *fleet, int64_t site_id, int64_t server_id);
/*
 * Has the server's hostd remove the monitor socket of a VM that won't be started there again: QEMU
 * leaves it when it is killed. Blocks for up to PROTECT_REAP_MS.
 */
void fleet_monitor_forget(struct fleet *fleet, int64_t server_id, const char *uuid);
/* Takes a reference to an entry that was replaced, and gives it up when nobody waits. */
void fleet_vm_retire(struct fleet *fleet, struct fleet_vm *vm);

/* ---- fleet_move.c ------------------------------------------------------------------------- */

/*
 * Starts a VM on `to` that waits for the state of the object's VM on `from`, with exactly its
 * memory, in place of any that is there.
 */
int fleet_start_copy(struct fleet *fleet, const char *object, const struct target *target,
	struct fleet_server *from, struct fleet_server *to, struct problem *problem);

/* When nobody moves anything any more. */
void fleet_moves_free(struct fleet *fleet);

#endif
