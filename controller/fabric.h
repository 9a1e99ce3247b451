/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FABRIC_H
#define EDGEPLEX_FABRIC_H

/*
 * One edge switch, programmed by OpenFlow 1.4 or 1.5.
 *
 * The switch's whole flow table belongs to us. `fabric_apply()` says what it should be; from then
 * on the object keeps it so: after every connection and whenever a port comes or goes it compares
 * the table with the rules and sends the difference as one atomic, ordered bundle. What is right is
 * not touched, so its counters and its traffic go on. Until the first fabric_apply() a switch's
 * table is left as it is: a controller that starts doesn't interrupt anybody.
 *
 * Every object has a thread of its own, the only one that speaks to its switch. Functions may be
 * called from any thread, several at a time. They return 0 or a positive errno and then fill `why`
 * (may be NULL).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "controller/fabric_rules.h"
#include "controller/why.h"

struct fabric;

enum fabric_event_type {
	FABRIC_EVENT_CONNECTED,
	FABRIC_EVENT_DISCONNECTED,
	FABRIC_EVENT_RECONCILED, /* the table was found wrong and was put right, without being asked
				  */
	FABRIC_EVENT_ERROR,      /* the table couldn't be put right; it is tried again every 5 s */
	FABRIC_EVENT_PORTS,      /* a port came, went, or changed its link */
	FABRIC_EVENT_WHOLE, /* for the first time since it is connected the switch has all rules */
};

/* Called on the object's thread: must not block and must not call fabric_*(). */
typedef void (*fabric_event_fn)(void *ctx, enum fabric_event_type type, const char *detail);

/*
 * Starts to connect to `target` ("unix:PATH" or "tcp:ADDRESS:PORT") and returns at once; it goes on
 * trying, every 8 s at the latest. A switch that is silent for 10 s counts as lost. `name` is the
 * site's, for messages. `on_event` may be NULL. EINVAL: not such a target.
 */
int fabric_open(const char *name, const char *target, fabric_event_fn on_event, void *ctx,
	struct fabric **fabric, struct why *why);

/* Waits until connected and its ports are known; ETIMEDOUT with what the newest attempt ran into.
 */
int fabric_wait_connected(struct fabric *fabric, int timeout_ms, struct why *why);

/* Doesn't block. */
bool fabric_connected(struct fabric *fabric);

/* Ends the thread (within a second). The switch keeps its rules. Accepts NULL. */
void fabric_close(struct fabric *fabric);

struct fabric_port_state {
	char name[FABRIC_PORT_LEN];
	uint32_t number;
	bool link; /* carrier */
};

/* The switch's ports as it last told, by name; free(*ports). EHOSTUNREACH: not connected. */
int fabric_ports(
	struct fabric *fabric, struct fabric_port_state **ports, size_t *n, struct why *why);

/*
 * ENOENT when the switch has no port of that name: `why` names those that it has. EHOSTUNREACH: not
 * connected. Doesn't block.
 */
int fabric_check_port(struct fabric *fabric, const char *port, struct why *why);

/* What an apply did. */
struct fabric_result {
	size_t added, modified, deleted, unchanged; /* rules */
	size_t left_out; /* rules that name a port which the switch doesn't have */
};

/*
 * Makes `rules` (which nobody changes from now on; the caller may free them) the switch's whole
 * table, now and after every reconnection. Returns 0 when the switch has confirmed them (bundle
 * committed, barrier passed), within `timeout_ms`.
 *
 * ENODEV: some rule names a port that the switch doesn't have; `why` names it and those that exist;
 * all the other rules are in force, and these follow when the port appears. ETIMEDOUT,
 * EHOSTUNREACH: the switch is not connected or didn't confirm; the rules stay wanted and are
 * applied when it is back. EPROTO: the switch refused a rule; `why` says which; its table is as it
 * was (the bundle is atomic). `result` may be NULL; it is filled for 0 and ENODEV.
 */
int fabric_apply(struct fabric *fabric, const struct fabric_rules *rules, int timeout_ms,
	struct fabric_result *result, struct why *why);

/*
 * As fabric_apply(), for the moments of a PVM's move in which it stands still: sends what differs
 * from the rules that the switch confirmed last, as one bundle, without reading the switch's table
 * first. When that isn't known (a new connection, a port that came or went, an error before) it
 * does what fabric_apply() does. A table that somebody else changed meanwhile is found and put
 * right by the next audit, within 60 s.
 */
int fabric_change(struct fabric *fabric, const struct fabric_rules *rules, int timeout_ms,
	struct fabric_result *result, struct why *why);

/*
 * Frames and bytes that the rules of one owner matched so far (fabric_cookie()).
 * ETIMEDOUT, EHOSTUNREACH.
 */
int fabric_counters(struct fabric *fabric, uint64_t cookie, int timeout_ms, uint64_t *packets,
	uint64_t *bytes, struct why *why);

/*
 * The same, only of rules for what comes in by the port of this name (the trunk of a server: what
 * its VMs say); `cookie` 0: of all owners. ENODEV: there is no such port. What the switch hears now
 * it may count up to a second later.
 */
int fabric_heard(struct fabric *fabric, uint64_t cookie, const char *port, int timeout_ms,
	uint64_t *packets, struct why *why);

#endif
