/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_PROTECT_DECIDE_H
#define EDGEPLEX_PROTECT_DECIDE_H

/*
 * What is to be done about a CVM that has a standby, given what is known of both. Pure;
 * thread-safe. fleet_protect.c gathers the facts, and does what is decided here.
 *
 * Two rules come before everything else. **No two speak**: a standby is activated only when the
 * primary is fenced at the switch (that is the take-over's business). **Nobody forgets**: a standby
 * is activated only if it knows all that peers have been told, that is, unless its primary has gone
 * on without it.
 */

#include <stdbool.h>
#include <stdint.h>

#include "controller/model.h"

/* What the hostd of the primary's server says of it (docs/protocols.md, protect.status). */
enum protect_primary {
	PRIMARY_UNKNOWN,     /* to be asked */
	PRIMARY_REFUSED,     /* nobody serves that hostd's socket: the process isn't there */
	PRIMARY_HANGS,       /* it didn't answer in time */
	PRIMARY_FREE,        /* a hostd that was restarted; its guard has let go of the primary */
	PRIMARY_SYNCING,     /* nothing is whole yet */
	PRIMARY_PROTECTED,   /* epochs follow each other */
	PRIMARY_UNPROTECTED, /* runs, and speaks without the standby */
	PRIMARY_SILENT,      /* QEMU doesn't answer; nothing of what it said since was let go */
	PRIMARY_DEAD,        /* QEMU is gone, as its own hostd saw */
	PRIMARY_SUPERSEDED,  /* stands still, since the standby runs */
};

/* The same of the standby (move.status). */
enum protect_standby {
	STANDBY_UNKNOWN,     /* to be asked */
	STANDBY_UNREACHABLE, /* hostd doesn't answer */
	STANDBY_ABSENT,      /* hostd knows of none */
	STANDBY_RECEIVING,   /* or waiting: nothing whole yet */
	STANDBY_HOLDING,     /* a whole epoch, and the next are coming */
	STANDBY_LOST,        /* a whole epoch; the connection to the primary's hostd is gone */
	STANDBY_ACTIVE,
	STANDBY_ENDED, /* the copy is void */
};

/* What the primary's guest itself says, through its server's libvirt. */
enum protect_guest {
	GUEST_UNKNOWN, /* to be asked */
	GUEST_ANSWERS,
	GUEST_SLOW, /* no answer in time, but its channel is open: there is a QEMU, as far as
		       libvirt knows */
	GUEST_GONE, /* the channel is closed */
};

/* Only if nobody answers for so long is a CVM started afresh elsewhere. */
#define PROTECT_LOST_MS 5000

struct protect_facts {
	enum protect_primary primary;
	enum protect_standby standby;
	bool silent;          /* the standby hears nothing from the primary's hostd */
	bool interrupted;     /* the standby's hostd wasn't there for a while: the link was cut */
	int64_t epoch_age_ms; /* of the standby's last whole epoch */
	enum protect_guest guest;
	int64_t unheard_ms; /* since when neither hostd nor guest answered for the primary */
	bool trunk_down;    /* the switch has no carrier towards the primary's server */
	bool standby_trunk_down;
	bool asked; /* the operator wants the standby to take over */
	int interval_ms, timeout_ms;
};

enum protect_action {
	PROTECT_WAIT,        /* nothing to do until something changes */
	PROTECT_ASK_PRIMARY, /* its hostd */
	PROTECT_ASK_STANDBY,
	PROTECT_ASK_GUEST,
	PROTECT_TAKE_OVER,  /* fence the primary, activate the standby; `why` says why */
	PROTECT_BEGIN_ANEW, /* the primary runs unprotected: a new standby */
	PROTECT_START_ANEW, /* the primary is lost, and no copy is of use: start the CVM afresh */
};

enum protect_action protect_decide(const struct protect_facts *facts, enum failover_why *why);

/* The same after the fence, before the standby is activated: may it still be? */
bool protect_may_activate(const struct protect_facts *facts, enum failover_why why);

/* States as hostd writes them; an unknown one is PRIMARY_UNKNOWN, STANDBY_UNKNOWN. */
enum protect_primary protect_primary_parse(const char *state);
enum protect_standby protect_standby_parse(const char *state);

#endif
