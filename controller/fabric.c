/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <config.h>

#include "controller/fabric.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include <openvswitch/ofp-bundle.h>
#include <openvswitch/ofp-connection.h>
#include <openvswitch/ofp-errors.h>
#include <openvswitch/ofp-flow.h>
#include <openvswitch/ofp-msgs.h>
#include <openvswitch/ofp-port.h>
#include <openvswitch/ofp-switch.h>
#include <openvswitch/ofp-util.h>
#include <openvswitch/poll-loop.h>
#include <openvswitch/rconn.h>
#include <openvswitch/vconn.h>
#include <openvswitch/vlog.h>

#include "byte-order.h"
#include "flow.h"
#include "latch.h"
#include "timeval.h"
#include "util.h"

#include "common/log.h"
#include "controller/fabric_flows.h"

#define VERSIONS ((1u << OFP14_VERSION) | (1u << OFP15_VERSION))
#define PROBE_S 5 /* silent for this long: ask; for as long again: lost */
#define MAX_BACKOFF_S 8
#define ANSWER_MS 10000 /* a switch that doesn't answer a request within this is lost */
#define RETRY_MS 5000   /* after the switch refused */
#define AUDIT_MS 60000
#define QUIET_MS 5000 /* after a fabric_change() no audit delays the next one */
#define CLOSE_CHECK_MS 500

struct counter_query {
	struct counter_query *next;
	uint64_t cookie;            /* 0 with a port: of any owner */
	char port[FABRIC_PORT_LEN]; /* "": wherever it came in */
	uint64_t packets, bytes;
	int error;
	bool done;
	bool abandoned; /* its caller has gone: free it */
};

/* A message of the bundle that is under way. */
struct sent {
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
	struct sent *sent;
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

/* ---- small things ------------------------------------------------------------------------- */

static void library_init(void)
{
	/* Its messages have no place in our log; what matters is in `why` and in events. */
	vlog_set_levels(NULL, VLF_ANY_DESTINATION, VLL_OFF);
}

__attribute__((format(printf, 3, 4))) static void tell(
	struct fabric *f, enum fabric_event_type type, const char *fmt, ...)
{
	char detail[640];
	va_list args;

	if (!f->on_event)
		return;
	va_start(args, fmt);
	vsnprintf(detail, sizeof(detail), fmt, args);
	va_end(args);
	f->on_event(f->ctx, type, detail);
}

static struct timespec deadline_after(int timeout_ms)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	t.tv_sec += timeout_ms / 1000;
	t.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	return t;
}

static int why_unreachable(struct fabric *f, struct why *why)
{
	return why_set(why, EHOSTUNREACH,
		"edge switch of site %s at %s is not connected (%s): check that it runs and that "
		"its "
		"bridge allows OpenFlow 1.4 or 1.5",
		f->name, f->target,
		f->last_error ? ovs_retval_to_string(f->last_error) : "no answer yet");
}

/* ---- requests and answers (thread) -------------------------------------------------------- */

static ovs_be32 message_xid(const struct ofpbuf *message)
{
	return ((const struct ofp_header *)message->data)->xid;
}

static enum ofptype message_type(const struct ofpbuf *message)
{
	enum ofptype type;

	return ofptype_decode(&type, message->data) ? OFPTYPE_HELLO : type;
}

static void note_refusal(struct fabric *f, const struct ofpbuf *message)
{
	struct ofpbuf payload;
	enum ofperr error = ofperr_decode_msg(message->data, &payload);
	const char *text = "a message";

	if (error)
		ofpbuf_uninit(&payload);
	if (f->refusal[0])
		return;
	for (size_t i = 0; i < f->n_sent; i++)
		if (f->sent[i].xid == message_xid(message))
			text = f->sent[i].text;
	snprintf(f->refusal, sizeof(f->refusal), "%s: %s",
		error ? ofperr_to_string(error) : "unknown error", text);
}

/* Takes a message that nobody waits for. */
static void handle_unasked(struct fabric *f, struct ofpbuf *message)
{
	switch (message_type(message)) {
	case OFPTYPE_ECHO_REQUEST:
		rconn_send(f->rconn, ofputil_encode_echo_reply(message->data), NULL);
		break;
	case OFPTYPE_PORT_STATUS:
		f->ports_stale = true;
		break;
	case OFPTYPE_ERROR:
		note_refusal(f, message);
		break;
	default:
		break;
	}
	ofpbuf_delete(message);
}

/* Is the connection still the one that was set up? */
static bool session_holds(const struct fabric *f)
{
	return rconn_is_connected(f->rconn) && rconn_get_connection_seqno(f->rconn) == f->seqno;
}

/*
 * Waits for the next message with this xid. Returns 0 with `*answer` to be deleted, or EPROTO for
 * an error message, EHOSTUNREACH, ETIMEDOUT, ECANCELED (we are being closed).
 */
static int await_answer(struct fabric *f, ovs_be32 xid, struct ofpbuf **answer)
{
	long long deadline = time_msec() + ANSWER_MS;

	for (;;) {
		struct ofpbuf *message;

		rconn_run(f->rconn);
		if (!session_holds(f))
			return EHOSTUNREACH;
		while ((message = rconn_recv(f->rconn))) {
			enum ofptype type = message_type(message);

			if (message_xid(message) != xid || type == OFPTYPE_ECHO_REQUEST) {
				handle_unasked(f, message);
			} else if (type == OFPTYPE_ERROR) {
				handle_unasked(f, message);
				return EPROTO;
			} else {
				*answer = message;
				return 0;
			}
		}
		if (atomic_load(&f->closing))
			return ECANCELED;
		if (time_msec() >= deadline) {
			rconn_reconnect(f->rconn);
			return ETIMEDOUT;
		}
		rconn_run_wait(f->rconn);
		rconn_recv_wait(f->rconn);
		poll_timer_wait_until(MIN(deadline, time_msec() + CLOSE_CHECK_MS));
		poll_block();
	}
}

/* Sends a request and gives every part of its answer to `part`, which doesn't keep it. */
static int transact(struct fabric *f, struct ofpbuf *request,
	int (*part)(void *ctx, struct fabric *f, struct ofpbuf *answer), void *ctx)
{
	ovs_be32 xid = message_xid(request);
	bool more = true;
	int error = 0;

	f->refusal[0] = '\0';
	rconn_send(f->rconn, request, NULL);
	while (more && !error) {
		struct ofpbuf *answer;

		error = await_answer(f, xid, &answer);
		if (error)
			break;
		more = ofpmsg_is_stat_reply(answer->data) && ofpmp_more(answer->data);
		error = part ? part(ctx, f, answer) : 0;
		ofpbuf_delete(answer);
	}
	return error;
}

static enum ofp_version version(const struct fabric *f)
{
	return rconn_get_version(f->rconn);
}

static enum ofputil_protocol protocol(const struct fabric *f)
{
	return ofputil_protocol_from_ofp_version(version(f));
}

/* ---- ports (thread) ----------------------------------------------------------------------- */

struct port_list {
	struct fabric_port_state *ports;
	size_t n, size;
};

static int ports_part(void *ctx, struct fabric *f, struct ofpbuf *answer)
{
	struct port_list *list = ctx;
	struct ofputil_phy_port port;
	enum ofptype type;
	int retval;

	if (ofptype_pull(&type, answer) || type != OFPTYPE_PORT_DESC_STATS_REPLY)
		return EPROTO;
	while ((retval = ofputil_pull_phy_port(version(f), answer, &port)) == 0) {
		struct fabric_port_state *state;

		if (list->n == list->size)
			list->ports = x2nrealloc(list->ports, &list->size, sizeof(*list->ports));
		state = &list->ports[list->n++];
		*state = (struct fabric_port_state){
			.number = (OVS_FORCE uint16_t)port.port_no,
			.link = !(port.state & OFPUTIL_PS_LINK_DOWN),
		};
		ovs_strlcpy(state->name, port.name, sizeof(state->name));
	}
	return retval == EOF ? 0 : EPROTO;
}

static int compare_ports(const void *a, const void *b)
{
	return strcmp(((const struct fabric_port_state *)a)->name,
		((const struct fabric_port_state *)b)->name);
}

static void forget_confirmed(struct fabric *f)
{
	fabric_rules_free(f->confirmed);
	f->confirmed = NULL;
}

/* Do the ports have the same names and numbers as those of the list? Only the thread asks. */
static bool ports_are(const struct fabric *f, const struct port_list *list)
{
	if (f->n_ports != list->n)
		return false;
	for (size_t i = 0; i < list->n; i++)
		if (f->ports[i].number != list->ports[i].number ||
			strcmp(f->ports[i].name, list->ports[i].name) != 0)
			return false;
	return true;
}

/* Rules that were confirmed stay so unless a port came, went, or got another number. */
static int read_ports(struct fabric *f)
{
	struct port_list list = {0};
	int error;

	f->ports_stale = false;
	error = transact(
		f, ofputil_encode_port_desc_stats_request(version(f), OFPP_ANY), ports_part, &list);
	if (error) {
		free(list.ports);
		return error;
	}
	if (list.n)
		qsort(list.ports, list.n, sizeof(list.ports[0]), compare_ports);
	if (!ports_are(f, &list)) {
		forget_confirmed(f);
		f->check_due = true;
	}
	ofputil_port_map_destroy(&f->map);
	ofputil_port_map_init(&f->map);
	for (size_t i = 0; i < list.n; i++)
		ofputil_port_map_put(&f->map, u16_to_ofp(list.ports[i].number), list.ports[i].name);

	pthread_mutex_lock(&f->mutex);
	free(f->ports);
	f->ports = list.ports;
	f->n_ports = list.n;
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mutex);
	return 0;
}

/* "core, cust1, trunk-left". The mutex is held, or it is the thread that asks. */
static void list_ports(const struct fabric *f, char *buf, size_t size)
{
	size_t len = 0;

	snprintf(buf, size, "none");
	for (size_t i = 0; i < f->n_ports && len < size; i++)
		len += (size_t)snprintf(
			buf + len, size - len, "%s%s", i ? ", " : "", f->ports[i].name);
}

/* ---- reconciliation (thread) -------------------------------------------------------------- */

static int flows_part(void *ctx, struct fabric *f, struct ofpbuf *answer)
{
	(void)f;
	if (message_type(answer) != OFPTYPE_FLOW_STATS_REPLY)
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
	return transact(
		f, ofputil_encode_flow_stats_request(&request, protocol(f)), flows_part, have);
}

static struct ofpbuf *bundle_control(struct fabric *f, uint16_t type)
{
	struct ofputil_bundle_ctrl_msg control = {
		.bundle_id = f->bundle_id,
		.type = type,
		.flags = OFPBF_ATOMIC | OFPBF_ORDERED,
	};

	return ofputil_encode_bundle_ctrl_request(version(f), &control);
}

struct bundle {
	struct fabric *fabric;
	struct ofpbuf **messages;
	size_t n, size;
};

static void bundle_put(void *ctx, struct ofpbuf *flow_mod, const char *text)
{
	struct bundle *bundle = ctx;
	struct fabric *f = bundle->fabric;

	if (bundle->n == bundle->size)
		bundle->messages =
			x2nrealloc(bundle->messages, &bundle->size, sizeof(struct ofpbuf *));
	bundle->messages[bundle->n++] = flow_mod;
	if (f->n_sent == f->size_sent)
		f->sent = x2nrealloc(f->sent, &f->size_sent, sizeof(f->sent[0]));
	f->sent[f->n_sent++] = (struct sent){.xid = message_xid(flow_mod), .text = xstrdup(text)};
}

static void forget_sent(struct fabric *f)
{
	for (size_t i = 0; i < f->n_sent; i++)
		free(f->sent[i].text);
	f->n_sent = 0;
}

static void bundle_destroy(struct bundle *bundle)
{
	for (size_t i = 0; i < bundle->n; i++)
		ofpbuf_delete(bundle->messages[i]);
	free(bundle->messages);
	forget_sent(bundle->fabric);
}

/* All or nothing: OpenFlow 1.4 6.8. */
static int bundle_commit(struct bundle *bundle, struct why *why)
{
	struct fabric *f = bundle->fabric;
	ovs_be32 opened, committed;
	struct ofpbuf *message, *answer;
	int error;

	f->bundle_id++;
	f->refusal[0] = '\0';
	message = bundle_control(f, OFPBCT_OPEN_REQUEST);
	opened = message_xid(message);
	rconn_send(f->rconn, message, NULL);
	for (size_t i = 0; i < bundle->n; i++) {
		struct ofputil_bundle_add_msg add = {
			.bundle_id = f->bundle_id,
			.flags = OFPBF_ATOMIC | OFPBF_ORDERED,
			.msg = bundle->messages[i]->data,
		};

		rconn_send(f->rconn, ofputil_encode_bundle_add(version(f), &add), NULL);
	}
	message = bundle_control(f, OFPBCT_COMMIT_REQUEST);
	committed = message_xid(message);
	rconn_send(f->rconn, message, NULL);

	/* Even if it can't be opened the rest is answered, and nothing may be left of that. */
	error = await_answer(f, opened, &answer);
	if (!error)
		ofpbuf_delete(answer);
	if (!error || error == EPROTO)
		error = await_answer(f, committed, &answer);
	if (!error)
		ofpbuf_delete(answer);
	if (!error && f->refusal[0])
		error = EPROTO;
	if (!error)
		error = transact(f, ofputil_encode_barrier_request(version(f)), NULL, NULL);
	if (error == EPROTO)
		why_set(why, error, "edge switch of site %s refused a rule: %s", f->name,
			f->refusal);
	return error;
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
	int error = flow_set_add_rule(&t->flows, rule, &f->map, protocol(f), &port, why);

	if (error != ENODEV)
		return error;
	t->missing = port;
	t->left_out++;
	return 0;
}

static int why_missing(struct fabric *f, const char *port, struct why *why)
{
	char names[300];

	list_ports(f, names, sizeof(names));
	return why_set(why, ENODEV,
		"edge switch of site %s has no port %s; it has: %s. Add the port to its bridge or "
		"correct the name",
		f->name, port, names);
}

/* Sends what turns `have` into `want`. */
static int send_difference(struct fabric *f, const struct flow_set *have,
	const struct flow_set *want, struct fabric_result *result, struct why *why)
{
	struct bundle bundle = {.fabric = f};
	struct flow_diff diff;
	int error;

	flow_set_diff(have, want, protocol(f), bundle_put, &bundle, &diff);
	result->added = diff.added;
	result->modified = diff.modified;
	result->deleted = diff.deleted;
	result->unchanged = diff.unchanged;
	error = bundle.n ? bundle_commit(&bundle, why) : 0;
	bundle_destroy(&bundle);
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
	forget_confirmed(f);
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
		tell(f, FABRIC_EVENT_ERROR, "%s", text);
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

static void run_reconciliation(struct fabric *f)
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
		tell(f, FABRIC_EVENT_WHOLE,
			"%zu rules, %zu of them added, %lld ms after it connected",
			result.unchanged + result.modified + result.added, result.added,
			time_msec() - f->since);
	}
	if ((!error || error == ENODEV) && !asked &&
		result.added + result.modified + result.deleted > 0)
		tell(f, FABRIC_EVENT_RECONCILED,
			"edge switch of site %s put right: %zu rules added, %zu changed, %zu "
			"removed",
			f->name, result.added, result.modified, result.deleted);
	report(f, error ? why.text : "");
}

/* ---- counters (thread) -------------------------------------------------------------------- */

static int counters_part(void *ctx, struct fabric *f, struct ofpbuf *answer)
{
	struct ofputil_aggregate_stats stats;
	struct counter_query *query = ctx;

	(void)f;
	if (message_type(answer) != OFPTYPE_AGGREGATE_STATS_REPLY ||
		ofputil_decode_aggregate_stats_reply(&stats, answer->data))
		return EPROTO;
	query->packets = stats.packet_count;
	query->bytes = stats.byte_count;
	return 0;
}

static void run_queries(struct fabric *f)
{
	for (;;) {
		struct ofputil_flow_stats_request request = {
			.aggregate = true,
			.cookie_mask = OVS_BE64_MAX,
			.out_port = OFPP_ANY,
			.out_group = OFPG_ANY,
			.table_id = OFPTT_ALL,
		};
		struct counter_query *query;
		int error;

		pthread_mutex_lock(&f->mutex);
		query = f->queries;
		if (query)
			f->queries = query->next;
		pthread_mutex_unlock(&f->mutex);
		if (!query)
			return;

		request.cookie = htonll(query->cookie);
		match_init_catchall(&request.match);
		error = 0;
		if (query->port[0]) {
			ofp_port_t number;

			if (query->cookie == 0)
				request.cookie_mask = 0;
			if (ofputil_port_from_string(query->port, &f->map, &number))
				match_set_in_port(&request.match, number);
			else
				error = ENODEV;
		}
		if (!error)
			error = transact(f,
				ofputil_encode_flow_stats_request(&request, protocol(f)),
				counters_part, query);

		pthread_mutex_lock(&f->mutex);
		query->error = error;
		query->done = true;
		if (query->abandoned)
			free(query);
		pthread_cond_broadcast(&f->changed);
		pthread_mutex_unlock(&f->mutex);
		if (error && error != ENODEV)
			return;
	}
}

/* ---- the thread --------------------------------------------------------------------------- */

static void set_connected(struct fabric *f, bool connected)
{
	pthread_mutex_lock(&f->mutex);
	f->connected = connected;
	f->last_error = rconn_get_last_error(f->rconn);
	pthread_cond_broadcast(&f->changed);
	pthread_mutex_unlock(&f->mutex);
}

/*
 * A switch tells a controller that connected to it about its ports only when asked to (by a miss
 * length that is not 0), and then would send packets as well.
 */
static void ask_for_port_changes(struct fabric *f)
{
	const struct ofputil_switch_config config = {
		.frag = OFPUTIL_FRAG_NORMAL,
		.miss_send_len = OFP_DEFAULT_MISS_SEND_LEN,
	};
	struct ofputil_async_cfg async = OFPUTIL_ASYNC_CFG_INIT;

	async.primary[OAM_PORT_STATUS] = OFPPR_BITS;
	async.secondary[OAM_PORT_STATUS] = OFPPR_BITS;
	rconn_send(f->rconn, ofputil_encode_set_config(&config, version(f)), NULL);
	rconn_send(f->rconn,
		ofputil_encode_set_async_config(&async,
			1u << OAM_PACKET_IN | 1u << OAM_PORT_STATUS | 1u << OAM_FLOW_REMOVED,
			version(f)),
		NULL);
}

static void begin_session(struct fabric *f)
{
	f->seqno = rconn_get_connection_seqno(f->rconn);
	f->whole = false;
	f->since = time_msec();
	forget_confirmed(f);
	f->check_due = true;
	f->retry_at = 0;
	ask_for_port_changes(f);
	if (read_ports(f)) {
		rconn_reconnect(f->rconn);
		return;
	}
	f->session = true;
	set_connected(f, true);
	log_info("edge switch connected site=%s target=%s ports=%zu", f->name, f->target,
		f->n_ports);
	tell(f, FABRIC_EVENT_CONNECTED, "edge switch of site %s connected", f->name);
}

static void end_session(struct fabric *f)
{
	f->session = false;
	set_connected(f, false);
	log_warn("edge switch lost site=%s target=%s why=\"%s\"", f->name, f->target,
		ovs_retval_to_string(rconn_get_last_error(f->rconn)));
	tell(f, FABRIC_EVENT_DISCONNECTED, "edge switch of site %s at %s lost: %s", f->name,
		f->target, ovs_retval_to_string(rconn_get_last_error(f->rconn)));
}

static void run_session(struct fabric *f)
{
	struct ofpbuf *message;

	while ((message = rconn_recv(f->rconn)))
		handle_unasked(f, message);
	if (f->ports_stale && session_holds(f) && !read_ports(f))
		tell(f, FABRIC_EVENT_PORTS, "ports of the edge switch of site %s changed", f->name);
	if (session_holds(f))
		run_reconciliation(f);
	if (session_holds(f))
		run_queries(f);
}

static void wait_for_something(struct fabric *f)
{
	rconn_run_wait(f->rconn);
	rconn_recv_wait(f->rconn);
	latch_wait(&f->wake);
	if (f->session && f->rules) {
		long long until = f->audit_at;

		if (f->check_due && f->retry_at)
			until = MIN(until, f->retry_at);
		poll_timer_wait_until(until);
		if (f->ports_stale)
			poll_immediate_wake();
	}
	poll_block();
}

static void *run(void *arg)
{
	struct fabric *f = arg;

	f->rconn = rconn_create(PROBE_S, MAX_BACKOFF_S, 0, VERSIONS);
	rconn_connect(f->rconn, f->target, f->name);
	while (!atomic_load(&f->closing)) {
		latch_poll(&f->wake);
		rconn_run(f->rconn);
		if (f->session && !session_holds(f))
			end_session(f);
		if (!f->session && rconn_is_connected(f->rconn))
			begin_session(f);
		else if (!f->session)
			set_connected(f, false);
		if (f->session)
			run_session(f);
		if (!atomic_load(&f->closing))
			wait_for_something(f);
	}
	rconn_destroy(f->rconn);
	return NULL;
}

/* ---- interface ---------------------------------------------------------------------------- */

static bool target_valid(const char *target)
{
	return (strncmp(target, "unix:", 5) == 0 && target[5] == '/') ||
	       (strncmp(target, "tcp:", 4) == 0 && target[4] != '\0');
}

static void fabric_free(struct fabric *f)
{
	fabric_rules_free(f->rules);
	fabric_rules_free(f->pending);
	fabric_rules_free(f->confirmed);
	ofputil_port_map_destroy(&f->map);
	latch_destroy(&f->wake);
	pthread_mutex_destroy(&f->mutex);
	pthread_cond_destroy(&f->changed);
	forget_sent(f);
	free(f->sent);
	free(f->ports);
	free(f->name);
	free(f->target);
	free(f);
}

/* Signals are the main thread's business. */
static int start_thread(struct fabric *f)
{
	sigset_t all, before;
	int error;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(&f->thread, NULL, run, f);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return error;
}

int fabric_open(const char *name, const char *target, fabric_event_fn on_event, void *ctx,
	struct fabric **fabric, struct why *why)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_condattr_t attr;
	struct fabric *f;
	int error;

	*fabric = NULL;
	if (!target_valid(target) || vconn_verify_name(target))
		return why_set(why, EINVAL,
			"\"%s\" is not an OpenFlow target: write unix:/PATH/TO/BRIDGE.mgmt or "
			"tcp:ADDRESS:PORT",
			target);
	pthread_once(&once, library_init);
	f = calloc(1, sizeof(*f));
	if (!f)
		return why_set(why, ENOMEM, "out of memory");
	f->name = xstrdup(name);
	f->target = xstrdup(target);
	f->on_event = on_event;
	f->ctx = ctx;
	latch_init(&f->wake);
	ofputil_port_map_init(&f->map);
	pthread_mutex_init(&f->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&f->changed, &attr);
	pthread_condattr_destroy(&attr);
	error = start_thread(f);
	if (error) {
		fabric_free(f);
		return why_set(why, error,
			"can't start a thread for the edge switch of site %s: %s", name,
			strerror(error));
	}
	*fabric = f;
	return 0;
}

void fabric_close(struct fabric *f)
{
	if (!f)
		return;
	atomic_store(&f->closing, true);
	latch_set(&f->wake);
	pthread_join(f->thread, NULL);
	fabric_free(f);
}

int fabric_wait_connected(struct fabric *f, int timeout_ms, struct why *why)
{
	struct timespec deadline = deadline_after(timeout_ms);
	int error = 0;

	pthread_mutex_lock(&f->mutex);
	while (!f->connected && error != ETIMEDOUT)
		error = pthread_cond_timedwait(&f->changed, &f->mutex, &deadline);
	error = f->connected ? 0 : ETIMEDOUT;
	if (error)
		why_unreachable(f, why);
	pthread_mutex_unlock(&f->mutex);
	return error;
}

bool fabric_connected(struct fabric *f)
{
	bool connected;

	pthread_mutex_lock(&f->mutex);
	connected = f->connected;
	pthread_mutex_unlock(&f->mutex);
	return connected;
}

int fabric_ports(struct fabric *f, struct fabric_port_state **ports, size_t *n, struct why *why)
{
	int error = 0;

	*ports = NULL;
	*n = 0;
	pthread_mutex_lock(&f->mutex);
	if (!f->connected) {
		error = why_unreachable(f, why);
	} else if (f->n_ports) {
		*ports = xmemdup(f->ports, f->n_ports * sizeof(f->ports[0]));
		*n = f->n_ports;
	}
	pthread_mutex_unlock(&f->mutex);
	return error;
}

int fabric_check_port(struct fabric *f, const char *port, struct why *why)
{
	int error = ENOENT;

	pthread_mutex_lock(&f->mutex);
	if (!f->connected) {
		error = why_unreachable(f, why);
	} else {
		for (size_t i = 0; i < f->n_ports; i++)
			if (strcmp(f->ports[i].name, port) == 0)
				error = 0;
	}
	if (error == ENOENT) {
		char names[300];

		list_ports(f, names, sizeof(names));
		why_set(why, error, "edge switch of site %s has no port %s; it has: %s", f->name,
			port, names);
	}
	pthread_mutex_unlock(&f->mutex);
	return error;
}

static int want_rules(struct fabric *f, const struct fabric_rules *rules, bool quick,
	int timeout_ms, struct fabric_result *result, struct why *why)
{
	struct timespec deadline = deadline_after(timeout_ms);
	uint64_t generation;
	int error = 0;

	pthread_mutex_lock(&f->mutex);
	/* Whoever waits for a full comparison gets it. */
	f->pending_quick = quick && (!f->pending || f->pending_quick);
	fabric_rules_free(f->pending);
	f->pending = fabric_rules_ref(rules);
	generation = ++f->generation;
	latch_set(&f->wake);
	while (f->done_generation < generation && error != ETIMEDOUT)
		error = pthread_cond_timedwait(&f->changed, &f->mutex, &deadline);
	if (f->done_generation >= generation) {
		error = f->done_error;
		if (error)
			why_set(why, error, "%s", f->done_why.text);
		if (result)
			*result = f->done_result;
	} else if (!f->connected) {
		error = why_unreachable(f, why);
	} else {
		error = why_set(why, ETIMEDOUT,
			"edge switch of site %s didn't confirm its rules within %d ms; they are "
			"tried again",
			f->name, timeout_ms);
	}
	pthread_mutex_unlock(&f->mutex);
	return error;
}

int fabric_apply(struct fabric *f, const struct fabric_rules *rules, int timeout_ms,
	struct fabric_result *result, struct why *why)
{
	return want_rules(f, rules, false, timeout_ms, result, why);
}

int fabric_change(struct fabric *f, const struct fabric_rules *rules, int timeout_ms,
	struct fabric_result *result, struct why *why)
{
	return want_rules(f, rules, true, timeout_ms, result, why);
}

static int ask_counters(struct fabric *f, uint64_t cookie, const char *port, int timeout_ms,
	uint64_t *packets, uint64_t *bytes, struct why *why)
{
	struct timespec deadline = deadline_after(timeout_ms);
	struct counter_query *query = calloc(1, sizeof(*query));
	int error = 0;

	if (!query)
		return why_set(why, ENOMEM, "out of memory");
	query->cookie = cookie;
	snprintf(query->port, sizeof(query->port), "%s", port);
	pthread_mutex_lock(&f->mutex);
	query->next = f->queries;
	f->queries = query;
	latch_set(&f->wake);
	while (!query->done && error != ETIMEDOUT)
		error = pthread_cond_timedwait(&f->changed, &f->mutex, &deadline);
	if (query->done) {
		error = query->error;
		*packets = query->packets;
		*bytes = query->bytes;
		free(query);
	} else {
		struct counter_query **link = &f->queries;

		error = ETIMEDOUT;
		while (*link && *link != query)
			link = &(*link)->next;
		if (*link) { /* the thread hasn't taken it */
			*link = query->next;
			free(query);
		} else {
			query->abandoned = true;
		}
	}
	if (error && !f->connected)
		error = why_unreachable(f, why);
	else if (error)
		why_set(why, error, "edge switch of site %s didn't tell its counters: %s", f->name,
			strerror(error));
	pthread_mutex_unlock(&f->mutex);
	return error;
}

int fabric_counters(struct fabric *f, uint64_t cookie, int timeout_ms, uint64_t *packets,
	uint64_t *bytes, struct why *why)
{
	return ask_counters(f, cookie, "", timeout_ms, packets, bytes, why);
}

int fabric_heard(struct fabric *f, uint64_t cookie, const char *port, int timeout_ms,
	uint64_t *packets, struct why *why)
{
	uint64_t bytes;

	return ask_counters(f, cookie, port, timeout_ms, packets, &bytes, why);
}
