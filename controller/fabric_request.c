/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Requests to the switch and its answers: one at a time, or bundles. The fabric's thread only. */

#include <config.h>

#include "controller/fabric_internal.h"

#include <errno.h>
#include <stdlib.h>

#include <openvswitch/ofp-bundle.h>
#include <openvswitch/ofp-errors.h>
#include <openvswitch/ofp-msgs.h>
#include <openvswitch/ofp-switch.h>
#include <openvswitch/ofp-util.h>
#include <openvswitch/poll-loop.h>

#include "timeval.h"
#include "util.h"

#define ANSWER_MS 10000 /* a switch that doesn't answer a request within this is lost */
#define CLOSE_CHECK_MS 500

ovs_be32 fabric_message_xid(const struct ofpbuf *message)
{
	return ((const struct ofp_header *)message->data)->xid;
}

enum ofptype fabric_message_type(const struct ofpbuf *message)
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
		if (f->sent[i].xid == fabric_message_xid(message))
			text = f->sent[i].text;
	snprintf(f->refusal, sizeof(f->refusal), "%s: %s",
		error ? ofperr_to_string(error) : "unknown error", text);
}

void fabric_handle_unasked(struct fabric *f, struct ofpbuf *message)
{
	switch (fabric_message_type(message)) {
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

bool fabric_session_holds(const struct fabric *f)
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
		if (!fabric_session_holds(f))
			return EHOSTUNREACH;
		while ((message = rconn_recv(f->rconn))) {
			enum ofptype type = fabric_message_type(message);

			if (fabric_message_xid(message) != xid || type == OFPTYPE_ECHO_REQUEST) {
				fabric_handle_unasked(f, message);
			} else if (type == OFPTYPE_ERROR) {
				fabric_handle_unasked(f, message);
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

int fabric_transact(struct fabric *f, struct ofpbuf *request,
	int (*part)(void *ctx, struct fabric *f, struct ofpbuf *answer), void *ctx)
{
	ovs_be32 xid = fabric_message_xid(request);
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

enum ofp_version fabric_version(const struct fabric *f)
{
	return rconn_get_version(f->rconn);
}

enum ofputil_protocol fabric_protocol(const struct fabric *f)
{
	return ofputil_protocol_from_ofp_version(fabric_version(f));
}

/* ---- bundles ------------------------------------------------------------------------------- */

static struct ofpbuf *bundle_control(struct fabric *f, uint16_t type)
{
	struct ofputil_bundle_ctrl_msg control = {
		.bundle_id = f->bundle_id,
		.type = type,
		.flags = OFPBF_ATOMIC | OFPBF_ORDERED,
	};

	return ofputil_encode_bundle_ctrl_request(fabric_version(f), &control);
}

void fabric_bundle_put(void *ctx, struct ofpbuf *flow_mod, const char *text)
{
	struct fabric_bundle *bundle = ctx;
	struct fabric *f = bundle->fabric;

	if (bundle->n == bundle->size)
		bundle->messages =
			x2nrealloc(bundle->messages, &bundle->size, sizeof(struct ofpbuf *));
	bundle->messages[bundle->n++] = flow_mod;
	if (f->n_sent == f->size_sent)
		f->sent = x2nrealloc(f->sent, &f->size_sent, sizeof(f->sent[0]));
	f->sent[f->n_sent++] =
		(struct fabric_sent){.xid = fabric_message_xid(flow_mod), .text = xstrdup(text)};
}

void fabric_forget_sent(struct fabric *f)
{
	for (size_t i = 0; i < f->n_sent; i++)
		free(f->sent[i].text);
	f->n_sent = 0;
}

void fabric_bundle_destroy(struct fabric_bundle *bundle)
{
	for (size_t i = 0; i < bundle->n; i++)
		ofpbuf_delete(bundle->messages[i]);
	free(bundle->messages);
	fabric_forget_sent(bundle->fabric);
}

int fabric_bundle_commit(struct fabric_bundle *bundle, struct why *why)
{
	struct fabric *f = bundle->fabric;
	ovs_be32 opened, committed;
	struct ofpbuf *message, *answer;
	int error;

	f->bundle_id++;
	f->refusal[0] = '\0';
	message = bundle_control(f, OFPBCT_OPEN_REQUEST);
	opened = fabric_message_xid(message);
	rconn_send(f->rconn, message, NULL);
	for (size_t i = 0; i < bundle->n; i++) {
		struct ofputil_bundle_add_msg add = {
			.bundle_id = f->bundle_id,
			.flags = OFPBF_ATOMIC | OFPBF_ORDERED,
			.msg = bundle->messages[i]->data,
		};

		rconn_send(f->rconn, ofputil_encode_bundle_add(fabric_version(f), &add), NULL);
	}
	message = bundle_control(f, OFPBCT_COMMIT_REQUEST);
	committed = fabric_message_xid(message);
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
		error = fabric_transact(
			f, ofputil_encode_barrier_request(fabric_version(f)), NULL, NULL);
	if (error == EPROTO)
		why_set(why, error, "edge switch of site %s refused a rule: %s", f->name,
			f->refusal);
	return error;
}
