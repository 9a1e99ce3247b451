/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FABRIC_INTERNAL_H
#define EDGEPLEX_FABRIC_INTERNAL_H

/*
 * What the fabric's files share; include <config.h> first. Each fabric has one thread
 * (fabric_session.c), which alone speaks with the switch; others leave what they want under the
 * mutex, wake it, and wait for `changed`. "Thread" below: only that one may call it.
 */

#include <pthread.h>
#include <stdatomic.h>

#include <openvswitch/ofp-msgs.h>
#include <openvswitch/ofp-port.h>
#include <openvswitch/ofpbuf.h>
#include <openvswitch/rconn.h>

#include "latch.h"

#include "controller/fabric.h"

struct counter_query; /* fabric_counters.c */

/* A message of the bundle that is under way. */
struct fabric_sent {
	ovs_be32 xid;
	char *text;
};

struct fabric {
	char *name, *target;
	fabric_event_fn on_event;
	void *ctx;
	pthread_t thread;
	struct latch wake;
	atomic_bool closing;

	/* Only the thread's. */
	struct rconn *rconn;
	unsigned int seqno; /* of the connection that `session` is about */
	bool session;       /* connected, and set up */
	bool whole;         /* it had all rules once since then */
	long long since;    /* ms; of the connection */
	struct ofputil_port_map map;
	bool ports_stale;           /* a port changed: read them again */
	struct fabric_rules *rules; /* wanted; NULL until the first fabric_apply() */
	uint64_t rules_generation;
	bool check_due; /* compare the table at the next occasion */
	bool quick;     /* it is enough to compare with `confirmed` */
	/* Rules that the switch has confirmed, for the ports in `map`; NULL: not known. */
	struct fabric_rules *confirmed;
	size_t confirmed_flows, confirmed_left_out;
	struct fabric_rules *outdated; /* freed when nobody waits: there may be thousands */
	long long retry_at, audit_at;  /* ms, time_msec() */
	char reported[256];            /* the error that was told last */
	struct fabric_sent *sent;
	size_t n_sent, size_sent;
	char refusal[384]; /* first error message of the bundle that is under way */
	uint32_t bundle_id;

	/* Everybody's, under the mutex. */
	pthread_mutex_t mutex;
	pthread_cond_t changed;
	bool connected;
	int last_error; /* of the newest attempt to connect */
	struct fabric_port_state *ports;
	size_t n_ports;
	struct fabric_rules *pending; /* not yet taken by the thread */
	bool pending_quick;
	uint64_t generation;      /* of the newest fabric_apply() */
	uint64_t done_generation; /* the newest one that is finished, as follows */
	int done_error;
	struct why done_why;
	struct fabric_result done_result;
	struct counter_query *queries;
};

/* ---- fabric.c ----------------------------------------------------------------------------- */

__attribute__((format(printf, 3, 4))) void fabric_tell(
	struct fabric *f, enum fabric_event_type type, const char *fmt, ...);
/* For conditions, which know CLOCK_MONOTONIC. */
struct timespec fabric_deadline_after(int timeout_ms);
/* Under the mutex. EHOSTUNREACH. */
int fabric_why_unreachable(struct fabric *f, struct why *why);

/* ---- fabric_session.c ---------------------------------------------------------------------- */

/* The thread; its argument is the fabric. */
void *fabric_run(void *arg);
/* "core, cust1, trunk-left". The mutex is held, or it is the thread that asks. */
void fabric_list_ports(const struct fabric *f, char *buf, size_t size);

/* ---- fabric_request.c (thread) -------------------------------------------------------------- */

ovs_be32 fabric_message_xid(const struct ofpbuf *message);
enum ofptype fabric_message_type(const struct ofpbuf *message);
enum ofp_version fabric_version(const struct fabric *f);
enum ofputil_protocol fabric_protocol(const struct fabric *f);
/* Is the connection still the one that was set up? */
bool fabric_session_holds(const struct fabric *f);
/* Takes a message that nobody waits for. */
void fabric_handle_unasked(struct fabric *f, struct ofpbuf *message);

/*
 * Sends a request (taken) and gives every part of its answer to `part`, which doesn't keep it; its
 * errors end it. Or EPROTO (the switch refused, `refusal` tells), EHOSTUNREACH, ETIMEDOUT,
 * ECANCELED (we are being closed).
 */
int fabric_transact(struct fabric *f, struct ofpbuf *request,
	int (*part)(void *ctx, struct fabric *f, struct ofpbuf *answer), void *ctx);

/* Changes that the switch makes together. Begin with zeroes and the fabric. */
struct fabric_bundle {
	struct fabric *fabric;
	struct ofpbuf **messages;
	size_t n, size;
};

/* `ctx` is the bundle; takes the message. `text` tells of it if it is refused. */
void fabric_bundle_put(void *ctx, struct ofpbuf *flow_mod, const char *text);
/* All or nothing: OpenFlow 1.4 6.8. Errors as fabric_transact(). */
int fabric_bundle_commit(struct fabric_bundle *bundle, struct why *why);
void fabric_bundle_destroy(struct fabric_bundle *bundle);
void fabric_forget_sent(struct fabric *f);

/* ---- fabric_reconcile.c (thread) ------------------------------------------------------------ */

/* Takes what was left to be done, and does what is due. */
void fabric_reconcile(struct fabric *f);
/* The table may not be any more what the switch confirmed. */
void fabric_forget_confirmed(struct fabric *f);

/* ---- fabric_counters.c (thread) ------------------------------------------------------------- */

void fabric_run_queries(struct fabric *f);

#endif
