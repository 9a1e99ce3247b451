/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Making the switch's table what the rules say. The fabric's thread only. */

#include <config.h>

#include "controller/fabric_internal.h"

#include <errno.h>
#include <string.h>

#include <openvswitch/ofp-flow.h>
#include <openvswitch/ofp-msgs.h>
#include <openvswitch/ofp-util.h>

#include "timeval.h"
#include "util.h"

#include "controller/fabric_flows.h"

#define RETRY_MS 5000 /* after the switch refused */
#define AUDIT_MS 60000
#define QUIET_MS 5000 /* after a fabric_change() no audit delays the next one */

void fabric_forget_confirmed(struct fabric *f)
{
	fabric_rules_free(f->confirmed);
	f->confirmed = NULL;
}

static int flows_part(void *ctx, struct fabric *f, struct ofpbuf *answer)
{
	(void)f;
	if (fabric_message_type(answer) != OFPTYPE_FLOW_STATS_REPLY)
		return EPROTO;
	return flow_set_add_reply(ctx, answer);
}

static int read_flows(struct fabric *f, struct flow_set *have)
{
	struct ofputil_flow_stats_request request = {
		.out_port = OFPP_ANY,
		.out_group = OFPG_ANY,
		.table_id = OFPTT_ALL,
	};

	match_init_catchall(&request.match);
	return fabric_transact(f, ofputil_encode_flow_stats_request(&request, fabric_protocol(f)),
		flows_part, have);
}

/* Rules as flows of this switch. */
struct translation {
	struct flow_set flows;
	size_t left_out;     /* rules that need a port which isn't there */
	const char *missing; /* one such port */
};

static int translate(
	struct fabric *f, struct translation *t, const struct fabric_rule *rule, struct why *why)
{
	const char *port;
	int error = flow_set_add_rule(&t->flows, rule, &f->map, fabric_protocol(f), &port, why);

	if (error != ENODEV)
		return error;
	t->missing = port;
	t->left_out++;
	return 0;
}

static int why_missing(struct fabric *f, const char *port, struct why *why)
{
	char names[300];

	fabric_list_ports(f, names, sizeof(names));
	return why_set(why, ENODEV,
		"edge switch of site %s has no port %s; it has: %s. Add the port to its bridge or "
		"correct the name",
		f->name, port, names);
}

/* Sends what turns `have` into `want`. */
static int send_difference(struct fabric *f, const struct flow_set *have,
	const struct flow_set *want, struct fabric_result *result, struct why *why)
{
	struct fabric_bundle bundle = {.fabric = f};
	struct flow_diff diff;
	int error;

	flow_set_diff(have, want, fabric_protocol(f), fabric_bundle_put, &bundle, &diff);
	result->added = diff.added;
	result->modified = diff.modified;
	result->deleted = diff.deleted;
	result->unchanged = diff.unchanged;
	error = bundle.n ? fabric_bundle_commit(&bundle, why) : 0;
	fabric_bundle_destroy(&bundle);
	return error;
}

static void note_confirmed(struct fabric *f, const struct fabric_result *result)
{
	f->outdated = f->confirmed;
	f->confirmed = fabric_rules_ref(f->rules);
	f->confirmed_flows = result->added + result->modified + result->unchanged;
	f->confirmed_left_out = result->left_out;
}

/*
 * Makes the table what the rules say. Returns 0, ENODEV (all but what needs missing ports), EPROTO
 * or EINVAL (nothing changed), or an error of the connection.
 */
static int reconcile(struct fabric *f, struct fabric_result *result, struct why *why)
{
	struct translation want = {0};
	struct flow_set have;
	int error = 0;

	*result = (struct fabric_result){0};
	fabric_forget_confirmed(f);
	flow_set_init(&have);
	flow_set_init(&want.flows);
	for (size_t i = 0; i < f->rules->n && !error; i++)
		error = translate(f, &want, &f->rules->rules[i], why);
	result->left_out = want.left_out;
	if (!error) {
		error = read_flows(f, &have);
		if (error == EPROTO)
			why_set(why, error, "edge switch of site %s can't show its flows: %s",
				f->name, f->refusal);
	}
	if (!error)
		error = send_difference(f, &have, &want.flows, result, why);
	if (!error)
		note_confirmed(f, result);
	if (!error && want.missing)
		error = why_missing(f, want.missing, why);
	flow_set_destroy(&want.flows);
	flow_set_destroy(&have);
	return error;
}

struct change {
	struct fabric *fabric;
	struct translation before, after;
	struct why *why;
	int error;
};

static void change_rule(void *ctx, const struct fabric_rule *rule, bool is_after)
{
	struct change *change = ctx;

	if (!change->error)
		change->error = translate(change->fabric,
			is_after ? &change->after : &change->before, rule, change->why);
}

static const char *find_missing_port(struct fabric *f)
{
	for (size_t i = 0; i < f->rules->n; i++) {
		const struct fabric_rule *rule = &f->rules->rules[i];

		if (rule->in_port[0] &&
			ofputil_port_map_get_number(&f->map, rule->in_port) == OFPP_NONE)
			return rule->in_port;
		for (size_t j = 0; j < rule->n_outputs; j++)
			if (ofputil_port_map_get_number(&f->map, rule->outputs[j].port) ==
				OFPP_NONE)
				return rule->outputs[j].port;
	}
	return NULL;
}

/*
 * As reconcile(), from what the switch confirmed last. Only rules that differ are translated: that
 * is what takes most of the time.
 */
static int change(struct fabric *f, struct fabric_result *result, struct why *why)
{
	struct change change = {.fabric = f, .why = why};
	size_t flows;
	int error;

	*result = (struct fabric_result){0};
	flow_set_init(&change.before.flows);
	flow_set_init(&change.after.flows);
	fabric_rules_diff(f->confirmed, f->rules, change_rule, &change);
	error = change.error;
	if (!error)
		error = send_difference(f, &change.before.flows, &change.after.flows, result, why);
	flow_set_destroy(&change.before.flows);
	flow_set_destroy(&change.after.flows);
	if (error)
		return error;

	flows = f->confirmed_flows + result->added - result->deleted;
	result->unchanged = flows - result->added - result->modified;
	result->left_out = f->confirmed_left_out + change.after.left_out - change.before.left_out;
	note_confirmed(f, result);
	return result->left_out ? why_missing(f, find_missing_port(f), why) : 0;
}

static bool connection_error(int error)
{
	return error == EHOSTUNREACH || error == ETIMEDOUT || error == ECANCELED;
}

/* Tells each new error once. */
static void report(struct fabric *f, const char *text)
{
	if (strncmp(f->reported, text, sizeof(f->reported) - 1) == 0)
		return;
	snprintf(f->reported, sizeof(f->reported), "%s", text);
	if (text[0])
		fabric_tell(f, FABRIC_EVENT_ERROR, "%s", text);
}

static void take_pending(struct fabric *f)
{
	pthread_mutex_lock(&f->mutex);
	if (f->pending) {
		fabric_rules_free(f->rules);
		f->rules = f->pending;
		f->pending = NULL;
		f->rules_generation = f->generation;
		f->quick = f->pending_quick && !f->check_due;
		f->check_due = true;
		f->retry_at = 0;
	}
	pthread_mutex_unlock(&f->mutex);
}

static int put_right(struct fabric *f, struct fabric_result *result, struct why *why)
{
	int error;

	if (f->quick && f->confirmed) {
		f->quick = false;
		error = change(f, result, why);
		if (!error || error == ENODEV || connection_error(error)) {
			f->audit_at = MAX(f->audit_at, time_msec() + QUIET_MS);
			return error;
		}
	}
	f->quick = false;
	error = reconcile(f, result, why);
	f->audit_at = time_msec() + AUDIT_MS;
	return error;
}

void fabric_reconcile(struct fabric *f)
{
	struct fabric_result result;
	struct why why = {""};
	bool asked;
	int error;

	take_pending(f);
	if (!f->rules)
		return;
	if (time_msec() >= f->audit_at)
		f->check_due = true;
	if (!f->check_due || time_msec() < f->retry_at)
		return;

	error = put_right(f, &result, &why);
	if (connection_error(error))
		return; /* still due */
	f->check_due = error && error != ENODEV;
	f->retry_at = f->check_due ? time_msec() + RETRY_MS : 0;

	pthread_mutex_lock(&f->mutex);
	asked = f->done_generation != f->rules_generation;
	f->done_generation = f->rules_generation;
	f->done_error = error;
	f->done_why = why;
	f->done_result = result;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mutex);
	fabric_rules_free(f->outdated);
	f->outdated = NULL;

	if (!error && !f->whole) {
		f->whole = true;
		fabric_tell(f, FABRIC_EVENT_WHOLE,
			"%zu rules, %zu of them added, %lld ms after it connected",
			result.unchanged + result.modified + result.added, result.added,
			time_msec() - f->since);
	}
	if ((!error || error == ENODEV) && !asked &&
		result.added + result.modified + result.deleted > 0)
		fabric_tell(f, FABRIC_EVENT_RECONCILED,
			"edge switch of site %s put right: %zu rules added, %zu changed, %zu "
			"removed",
			f->name, result.added, result.modified, result.deleted);
	report(f, error ? why.text : "");
}
