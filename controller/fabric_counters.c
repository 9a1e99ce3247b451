/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Counters of the switch: who wants them asks the fabric's thread, and waits for it. */

#include <config.h>

#include "controller/fabric_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openvswitch/ofp-flow.h>
#include <openvswitch/ofp-msgs.h>
#include <openvswitch/ofp-util.h>

#include "byte-order.h"

struct counter_query {
	struct counter_query *next;
	uint64_t cookie;            /* 0 with a port: of any owner */
	char port[FABRIC_PORT_LEN]; /* "": wherever it came in */
	uint64_t packets, bytes;
	int error;
	bool done;
	bool abandoned; /* its caller has gone: free it */
};

/* ---- the thread --------------------------------------------------------------------------- */

static int counters_part(void *ctx, struct fabric *f, struct ofpbuf *answer)
{
	struct ofputil_aggregate_stats stats;
	struct counter_query *query = ctx;

	(void)f;
	if (fabric_message_type(answer) != OFPTYPE_AGGREGATE_STATS_REPLY ||
		ofputil_decode_aggregate_stats_reply(&stats, answer->data))
		return EPROTO;
	query->packets = stats.packet_count;
	query->bytes = stats.byte_count;
	return 0;
}

void fabric_run_queries(struct fabric *f)
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
			error = fabric_transact(f,
				ofputil_encode_flow_stats_request(&request, fabric_protocol(f)),
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

/* ---- interface ---------------------------------------------------------------------------- */

static int ask_counters(struct fabric *f, uint64_t cookie, const char *port, int timeout_ms,
	uint64_t *packets, uint64_t *bytes, struct why *why)
{
	struct timespec deadline = fabric_deadline_after(timeout_ms);
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
		error = fabric_why_unreachable(f, why);
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
