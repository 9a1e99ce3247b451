/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FLEET_PROTECT_H
#define EDGEPLEX_FLEET_PROTECT_H

#include <pthread.h>

#include "controller/fleet_internal.h"
#include "controller/protect_decide.h"

/*
 * How long the protection of CVMs waits for whom, and why.
 *
 * The budget: half a second from the death of a process to a speaking standby, and a second from
 * that of a server. A server that falls silent is noticed after SILENCE_MS, and found out about in
 * ASK_GUEST_MS, for hostd and guest are asked at once; that is less than the second after which its
 * hostd, should it live on, lets its VM speak without the standby. What then remains is for switch
 * and activation.
 */

/*
 * Without a word from the primary's hostd, which speaks every 100 ms, the standby's says so. Less
 * would make a false alarm of every breath that a busy machine takes.
 */
#define PROTECT_SILENCE_MS 300
/* For the primary's hostd to say how it is, upon an alarm; it is a question of memory only. */
#define PROTECT_ASK_PRIMARY_MS 200
/* For the guest itself, where hostd says nothing: the longest stop of an epoch, several times. */
#define PROTECT_ASK_GUEST_MS 250
/*
 * For the primary's hostd once more, when the fence stands: has it let its VM go meanwhile? One
 * that hangs can't have.
 */
#define PROTECT_CHECK_MS 100
/* How often all this is asked again while an alarm lasts. */
#define PROTECT_ALARM_MS 250
/* For the switch to confirm the fence; then it is asked again. */
#define PROTECT_FENCE_MS 2000
/* For standby.activate: hostd's own limits for QEMU, together. It takes tens of milliseconds. */
#define PROTECT_ACTIVATE_MS 15000
/* For a standby's hostd that doesn't answer while it should activate, perhaps just restarted. */
#define PROTECT_ACTIVATE_AGAIN_MS 10000
/* For hostd to do something that is not urgent. */
#define PROTECT_HOSTD_MS 5000
/* Beyond the protection's own time-out, for protect.stop to let everything go. */
#define PROTECT_STOP_MS 6000
/* After a take-over, for the old primary's hostd to read that its VM is superseded. */
#define PROTECT_TAKEN_MS 1500
/* Until the next attempt at a standby, after one failed. */
#define PROTECT_RETRY_MS 3000
/* Until a hostd that hangs is told of; short breaks happen. */
#define PROTECT_HANGS_MS 2000
/* Until another reason for the same lack of protection is worth an event. */
#define PROTECT_TELL_AGAIN_MS 60000
/* How often everything is looked at without any news. */
#define PROTECT_LOOK_MS 2000
/* The progress of the first copy, and how long there may be none. */
#define PROTECT_COPY_POLL_MS 200
#define PROTECT_COPY_STALLED_MS 60000
/* After a start of edgeplexd: a guest's channel that isn't open yet proves nothing. */
#define PROTECT_CHANNEL_MS 5000
/* For hostd to answer who just wants to see figures. */
#define PROTECT_REFRESH_MS 300
/* For a protection to be ended, and a void copy that is in the way of an operation. */
#define PROTECT_END_MS 60000
/* Between attempts to destroy void copies. */
#define PROTECT_REAP_MS 2000

/* What the operator is shown. */
enum protector_shown {
	SHOWN_STARTING,
	SHOWN_SYNCING,
	SHOWN_PROTECTED,
	SHOWN_UNPROTECTED,
	SHOWN_TAKEOVER
};

/* A connection to the hostd of one of the two servers. */
struct protector_side {
	struct protector *protector;
	bool is_standby;
	struct hostd_client *client; /* NULL: none. The thread's */
	struct fleet_server *server; /* a reference; NULL: none. The thread's */
	char trunk[MODEL_IFNAME_SIZE];
};

/* What sees to the protection of one CVM, in a thread of its own. */
struct protector {
	struct protector *next; /* under fleet->lock */
	struct fleet *fleet;
	char site[MODEL_NAME_SIZE], object[48];
	pthread_t thread;

	/* Of the thread alone. */
	struct fleet_site *fleet_site; /* a reference */
	struct protection row;         /* as it was stored when it was last looked at */
	struct cvm cvm;
	struct protector_side primary_side, standby_side;
	char placed_for[MODEL_NAME_SIZE]; /* what was wanted when the standby was placed */
	int64_t begun_ms, retry_ms, finish_ms, asked_ms;
	int64_t avoid_id; /* a server where it just failed */
	int64_t copy_since_ms;
	double copy_bytes;
	char told[256];   /* what the newest event gave as the reason */
	int64_t told_ms;  /* when; 0: the next reason is told at once */
	int64_t hangs_ms; /* since when the primary's hostd doesn't answer, but its guest */

	/* Of all, under the lock. */
	pthread_mutex_t lock;
	pthread_cond_t news; /* for the thread */
	bool removed, kicked;
	bool ask_again; /* what the primary's hostd said isn't to be relied on any more */
	char uuid[MODEL_UUID_SIZE];
	bool noisy;                 /* epochs go on, or may */
	struct protect_facts facts; /* but ages and trunks, which are looked up when needed */
	bool guest_asked;           /* a thread is at it */
	uint64_t guest_serial;      /* its answer is of no use if this has changed */
	char primary_reason[256];
	uint64_t primary_serial; /* grows with each word on it */
	int64_t epoch_at_ms;     /* when the standby's last whole epoch came; 0: none */
	int64_t alarm_us;        /* since when something is wrong; 0: nothing is */
	int64_t ports_us;        /* when the switch's ports changed last */
	int64_t unheard_since_ms;
	cJSON *figures; /* the newest status of the primary */
	int64_t figures_ms;
	enum protector_shown shown;
	char reason[256];
	int64_t since_ms;   /* real time */
	uint64_t looked_at; /* the store's generation that the last complete pass saw */
	enum fleet_protect_stage stage;
	unsigned failures; /* of attempts to have a standby */
	char failure[256];
	bool asked;
	char ask_failure[256];
};

/* The site's; NULL: there is none. fleet->lock is held. */
struct protector *fleet_protector_find(struct fleet *fleet, const char *site);

/* Is there a carrier on a trunk of the switch? */
struct link_view {
	bool known, up;
};

/* A change of a protection and its CVM; it refuses by leaving the state as it is. */
typedef void (*protection_edit)(void *ctx, struct protection *row, struct cvm *cvm);

/* ---- fleet_protector.c: called by the protector's thread, but for the first two ------------- */

/* Something is wrong since now, if nothing was before. The lock is held. */
void fleet_protector_alarm(struct protector *p);
/* A status of the primary. The lock is held. */
void protector_hear_primary(struct protector *p, const cJSON *status);
int64_t protector_realtime_ms(void);

void protector_show(struct protector *p, enum protector_shown shown, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
enum protector_shown protector_get_shown(struct protector *p);
void protector_set_stage(struct protector *p, enum fleet_protect_stage stage);
/*
 * Shows that there is no protection, and tells why: when it is lost, and then now and again if
 * there is another reason. Attempts that fail in turn, each for a reason of its own, aren't news.
 */
void protector_show_unprotected(struct protector *p, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* {"uuid": the CVM's}, for the caller to delete. */
cJSON *protector_params(const struct protector *p);
/* Takes `params`; NULL: only the UUID. `*result` (may be NULL) becomes the caller's. 0 or -1. */
int protector_ask(struct protector *p, const struct protector_side *side, const char *method,
	cJSON *params, int timeout_ms, cJSON **result, struct jsonrpc_error *err);
/* Connects to both hostds, those of the store, unless that was done. 0, or -1 with `why`. */
int protector_connect(struct protector *p, struct why *why);
/* Forgets both servers and all that was heard of them. */
void protector_disconnect(struct protector *p);
/* These ask for p->facts: the primary's hostd, the standby's, the guest (answers come as news). */
void protector_ask_primary(struct protector *p, int timeout_ms);
void protector_ask_standby(struct protector *p, int timeout_ms);
void protector_ask_guest(struct protector *p);
/* A reference to the CVM's entry; NULL: there is none. */
struct fleet_vm *protector_ref_vm(struct protector *p);
/* Has the site's switch a carrier on this trunk? Doesn't block. */
struct link_view protector_trunk_link(struct fleet_site *site, const char *trunk);
/* All that is known now, ages and trunks too. */
struct protect_facts protector_facts(struct protector *p);

/* Reads what is wanted and how far it is. ENOENT: the CVM isn't to be protected. */
int protector_load(struct protector *p);
/*
 * Changes protection and CVM in one transaction. `void_at`: a server where a copy has become void;
 * 0: none. Errno; then nothing was stored.
 */
int protector_change(struct protector *p, protection_edit edit, void *ctx, int64_t void_at);
int protector_set_state(struct protector *p, enum protection_state state);
/* There is no standby any more: what is left of it is void. False: it couldn't be stored. */
bool protector_drop_standby(struct protector *p);
/*
 * Ends the protection in good order: the primary is let go before its standby is ended, so it never
 * waits for an acknowledgement that won't come.
 */
void protector_end_standby(struct protector *p);
/* An attempt at a standby has failed. */
void protector_attempt_failed(struct protector *p, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* ---- fleet_standby.c ---------------------------------------------------------------------- */

/* Chooses a server, starts the standby there, and has epochs begin; or tells why not. */
void protector_make_standby(struct protector *p);

/* ---- fleet_takeover.c --------------------------------------------------------------------- */

/* The standby takes over, if nobody was faster and the primary doesn't go on without it. */
void protector_take_over(struct protector *p, enum failover_why why);
/* One that an earlier edgeplexd began. */
void protector_resume_takeover(struct protector *p);
/*
 * No copy is of any use: the CVM's keeper starts it afresh, on its own server if that can be
 * reached, else where its standby was.
 */
void protector_start_anew(struct protector *p, const char *reason);

#endif
