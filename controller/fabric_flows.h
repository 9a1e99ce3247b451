/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_FABRIC_FLOWS_H
#define EDGEPLEX_FABRIC_FLOWS_H

/*
 * Rules as libopenvswitch knows them: a set of flows, made from our rules or read from a switch,
 * and the difference of two sets. For fabric_reconcile.c only; include <config.h> first. A set
 * belongs to one thread. libopenvswitch ends the process when memory runs out.
 */

#include <stdbool.h>
#include <stddef.h>

#include <openvswitch/hmap.h>
#include <openvswitch/match.h>
#include <openvswitch/ofp-actions.h>
#include <openvswitch/ofp-port.h>
#include <openvswitch/ofp-protocol.h>
#include <openvswitch/ofpbuf.h>

#include "controller/fabric_rules.h"
#include "controller/why.h"

struct flow_entry {
	struct hmap_node node;
	struct match match;
	uint8_t table;
	uint16_t priority;
	ovs_be64 cookie;
	bool foreign; /* has time-outs or flags that we never set */
	struct ofpact *actions;
	size_t actions_len;
};

struct flow_set {
	struct hmap flows; /* of struct flow_entry, by table, priority and match */
};

void flow_set_init(struct flow_set *set);
void flow_set_destroy(struct flow_set *set);

/*
 * Adds a rule in the form in which a switch that speaks `protocol` will show it. `ports` gives the
 * numbers of ports. Returns 0; ENODEV when a port that it needs is not there (`*missing` names it;
 * valid as long as the rule); EINVAL with `why` when the rule can't be expressed.
 *
 * A missing port among several outputs is left out of the rule, which is then added; the answer is
 * ENODEV too.
 */
int flow_set_add_rule(struct flow_set *set, const struct fabric_rule *rule,
	const struct ofputil_port_map *ports, enum ofputil_protocol protocol, const char **missing,
	struct why *why);

/* Adds the flows of one flow stats reply. Returns 0, or EPROTO when it is malformed. */
int flow_set_add_reply(struct flow_set *set, struct ofpbuf *reply);

struct flow_diff {
	size_t added, modified, deleted, unchanged;
};

/*
 * Called for each message that turns `have` into `want`; takes `flow_mod`. `text` describes the
 * flow and is valid during the call.
 */
typedef void (*flow_diff_fn)(void *ctx, struct ofpbuf *flow_mod, const char *text);

void flow_set_diff(const struct flow_set *have, const struct flow_set *want,
	enum ofputil_protocol protocol, flow_diff_fn emit, void *ctx, struct flow_diff *diff);

#endif
