/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FABRIC_RULES_H
#define EDGEPLEX_FABRIC_RULES_H

/*
 * What the edge switch of a site should do, computed from plain facts about the site: the table
 * "Rules of the edge switch" in docs/protocols.md, and nothing else. Pure: no I/O, no library, any
 * thread. Ports are named, not numbered: numbers change when a switch restarts.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/prefix.h"
#include "controller/why.h"

#define FABRIC_PORT_LEN 16 /* name of a switch's port, NUL included (OpenFlow's limit) */

/* The ControlVM of a site, on the switch. */
struct fabric_cvm {
	bool present; /* false: no CVM placed yet, and the other members are not read */
	char trunk[FABRIC_PORT_LEN];
	/* Where it speaks from while it moves, its frames waiting at `trunk`; "": there, too. */
	char out_trunk[FABRIC_PORT_LEN];
	uint16_t core_vlan, inside_vlan;
	struct ep_mac inside_mac;
	struct ep_prefix inside_address; /* full length */
};

/*
 * How far a PVM's move to another server is: which of its two copies, on `trunk` (the source) and
 * on `to_trunk` (the destination), hears and says what. *Control* is what its control plane hears
 * and says: ARP, neighbour discovery (ICMPv6 133 to 137), BGP and BFD with its addresses on the
 * customer link, everything between it and the CVM, requests for the gateway. *Data* is all the
 * rest. What a copy may not say is dropped. Each phase follows from the one before it.
 */
enum fabric_phase {
	FABRIC_AT_SOURCE,      /* all at the source, as without a move */
	FABRIC_CONTROL_IN,     /* control to the destination, and from the source */
	FABRIC_CONTROL_MOVED,  /* control to and from the destination */
	FABRIC_DATA_MOVED,     /* data to the destination, and from both, too */
	FABRIC_AT_DESTINATION, /* all at the destination, as if it had always been there */
};

/* A customer port and its PVM, on the switch. */
struct fabric_port {
	uint32_t id;       /* of the port's object: goes into cookies */
	uint32_t customer; /* of the customer's object: ports of one customer reach each other */
	char switch_port[FABRIC_PORT_LEN];
	uint16_t vlan; /* of the customer's frames on switch_port; 0: untagged */
	bool has_ce_mac;
	struct ep_mac ce_mac;              /* only this source is let in, if has_ce_mac */
	const struct ep_prefix *addresses; /* of the PVM on the customer link, with host bits */
	size_t n_addresses;
	struct ep_mac mac; /* of the PVM's `cust` NIC */
	char trunk[FABRIC_PORT_LEN];
	uint16_t cust_vlan, core_vlan;
	struct ep_prefix inside_address; /* full length */
	uint32_t label;                  /* VPN label */
	enum fabric_phase phase;         /* FABRIC_AT_SOURCE if it isn't being moved */
	char to_trunk[FABRIC_PORT_LEN];  /* same VLANs there; "": it isn't being moved */
};

struct fabric_site {
	uint32_t id; /* of the site's object: goes into cookies */
	char core_port[FABRIC_PORT_LEN];
	struct ep_mac pe_mac;
	struct ep_prefix pe_address;   /* full length */
	struct ep_prefix core_address; /* with host bits */
	struct ep_prefix gateway;      /* full length */
	uint32_t transport_label;      /* leads the core to this site; below 16: none does */
	struct fabric_cvm cvm;
	const struct fabric_port *ports; /* only those that have a PVM */
	size_t n_ports;
};

/* Who wants a rule. */
enum fabric_owner {
	FABRIC_OWNER_SITE = 1,
	FABRIC_OWNER_PORT = 2,
};

#define FABRIC_COOKIE_PREFIX 0xed9eull /* the upper 16 bits of every cookie of ours */

static inline uint64_t fabric_cookie(enum fabric_owner owner, uint32_t id)
{
	return FABRIC_COOKIE_PREFIX << 48 | (uint64_t)owner << 32 | id;
}

/* Where a copy of the frame goes. */
struct fabric_output {
	char port[FABRIC_PORT_LEN];
	uint16_t vlan; /* tag it carries there; 0: none */
};

#define FABRIC_MATCH_LEN 256
#define FABRIC_EDIT_LEN 128
#define FABRIC_DROP 0 /* for goto_table: no table */

/* One OpenFlow rule. A rule without outputs and goto_table drops. */
struct fabric_rule {
	uint64_t cookie;
	uint8_t table;
	uint16_t priority;
	char in_port[FABRIC_PORT_LEN]; /* "": any */
	char match[FABRIC_MATCH_LEN];  /* the rest of the match, as in ovs-fields(7) */
	bool untag;                    /* the frame comes tagged: take the tag off first */
	char edit[FABRIC_EDIT_LEN];    /* actions on it before it goes out, as in ovs-actions(7) */
	uint8_t goto_table;            /* continue there; FABRIC_DROP: don't */
	struct fabric_output *outputs;
	size_t n_outputs;
};

struct fabric_rules {
	struct fabric_rule *rules;
	size_t n, size;
	_Atomic unsigned int more_owners; /* besides the first: fabric_rules_ref() */
};

/*
 * Computes all rules of a site. Returns 0, ENOMEM, or EINVAL with `why` when the facts contradict
 * one another (two NICs on one trunk with one VLAN, a label or a customer port twice, a MAC that is
 * not unicast, ...); `*rules` is NULL then.
 */
int fabric_rules_compute(
	const struct fabric_site *site, struct fabric_rules **rules, struct why *why);

/* One owner more, who frees them, too; from then on nobody changes them. */
struct fabric_rules *fabric_rules_ref(const struct fabric_rules *rules);

/* The last owner's frees them. Accepts NULL. */
void fabric_rules_free(struct fabric_rules *rules);

/* Called for a rule that differs: one of `before`, or else of `after`. */
typedef void (*fabric_rules_diff_fn)(void *ctx, const struct fabric_rule *rule, bool is_after);

/*
 * Names the rules of `before` that are not, just so, in `after`, and the reverse. Quick, since both
 * list their rules in one order: where they don't, it may name a rule that is in both, from both.
 */
void fabric_rules_diff(const struct fabric_rules *before, const struct fabric_rules *after,
	fabric_rules_diff_fn differs, void *ctx);

#endif
