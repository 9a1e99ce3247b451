/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HEAL_DECIDE_H
#define EDGEPLEX_HEAL_DECIDE_H

/*
 * What is to be done about a server or a VM, given what is known of it. Pure; thread-safe.
 * fleet_heal.c gathers the facts, and does what is decided here; time limits are heal.h's.
 */

#include <stdbool.h>
#include <stdint.h>

/* ---- servers ------------------------------------------------------------------------------ */

enum heal_server {
	HEAL_SERVER_WELL,
	HEAL_SERVER_DOUBTED, /* ask libvirt and the switch, too, and wait */
	HEAL_SERVER_HIDDEN,  /* nobody there answers us, but its VMs forward: only told of */
	HEAL_SERVER_CUT,     /* well, but its trunk has no carrier: its VMs can't be reached */
	HEAL_SERVER_DEAD,
};

struct heal_server_facts {
	bool has_hostd;
	bool heard;        /* hostd or libvirt has ever answered this edgeplexd */
	int64_t silent_ms; /* since anybody there has said anything: hostd, libvirt, a guest */
	int64_t hostd_silent_ms;
	bool libvirt_silent; /* not connected, or was asked and doesn't answer */
	bool trunk_known;    /* the switch is connected, and not all trunks are down at once */
	int64_t trunk_down_ms;
	bool counted;  /* the switch told what it heard of this server since it fell silent */
	bool forwards; /* ... and it was something */
};

enum heal_server heal_decide_server(const struct heal_server_facts *facts);
/* In how many milliseconds to decide again: sooner than with hostd's next question, perhaps. */
unsigned heal_server_again_ms(const struct heal_server_facts *facts);

/* ---- VMs ---------------------------------------------------------------------------------- */

enum heal_process {
	HEAL_PROCESS_UNKNOWN,
	HEAL_PROCESS_RUNS,
	HEAL_PROCESS_GONE, /* there is no QEMU, as its server says */
};

enum heal_spare {
	HEAL_SPARE_NONE,
	HEAL_SPARE_MAYBE, /* there are some that weren't heard yet, since edgeplexd has just begun
			   */
	HEAL_SPARE_READY,
};

enum heal_cause {
	HEAL_CAUSE_NONE,
	HEAL_CAUSE_DIED,
	HEAL_CAUSE_HANGS,  /* the whole guest */
	HEAL_CAUSE_STUCK,  /* a program in it, again and again */
	HEAL_CAUSE_SERVER, /* it is dead */
	HEAL_CAUSE_CUT,    /* its trunk has no carrier */
	HEAL_CAUSES,
};

struct heal_vm_facts {
	bool is_cvm;
	enum heal_server server;
	enum heal_process process;
	bool hung_up; /* its channel closed, and is still */
	int64_t hung_up_ms;
	bool booted;                           /* it has answered since it was started */
	unsigned unanswered;                   /* questions in a row */
	bool counted, forwards;                /* as of a server */
	int64_t fwd_stuck_ms, daemon_stuck_ms; /* it says that they stand still; 0: they don't */
	bool kicked_fwd, kicked_daemon;        /* they were ended for that */
	enum heal_spare spare;
	bool switch_connected; /* without it nobody can be fenced */
};

enum heal_action {
	HEAL_NOTHING,
	HEAL_PEEK,       /* ask hostd whether there is a QEMU */
	HEAL_COUNT,      /* ask the switch what it hears of it */
	HEAL_END_FWD,    /* have the forwarder in it started again */
	HEAL_END_DAEMON, /* the same for pvmd */
	HEAL_TAKE_OVER,  /* a spare becomes its VM */
	HEAL_START_HERE, /* on its own server, anew; what hangs is ended before */
	HEAL_PLACE_ANEW, /* on another server, from nothing */
};

enum heal_action heal_decide_vm(const struct heal_vm_facts *facts, enum heal_cause *cause);

/* How many spares take over at a time on a server of so many processors (0: not known). */
unsigned heal_at_once(unsigned processors, bool emulated);

/* ---- pools of spares ---------------------------------------------------------------------- */

struct heal_pool_facts {
	unsigned wanted, kept; /* spares of the site */
	unsigned booting;      /* of those that are kept */
	/* VMs of the site are being replaced, or their successors don't serve yet. */
	bool replacing;
	int64_t replacing_ms; /* for how long that has been so without a break */
};

/* Is the pool left as it is for now? */
bool heal_pool_rests(const struct heal_pool_facts *facts);
/* How many spares are begun now. */
unsigned heal_pool_begin(const struct heal_pool_facts *facts);

/* ---- names -------------------------------------------------------------------------------- */

/* "died", "hangs"…, as metrics name it; and for people: "its VM died". */
const char *heal_cause_name(enum heal_cause cause);
const char *heal_cause_text(enum heal_cause cause);

#endif
