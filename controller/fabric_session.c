/* SPDX-License-Identifier: GPL-2.0-or-later */

/* The fabric's thread: the connection to the switch, its ports, and what is due on it. */

#include <config.h>

#include "controller/fabric_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <openvswitch/ofp-connection.h>
#include <openvswitch/ofp-msgs.h>
#include <openvswitch/ofp-switch.h>
#include <openvswitch/ofp-util.h>
#include <openvswitch/poll-loop.h>

#include "flow.h"
#include "timeval.h"
#include "util.h"

#include "common/log.h"

#define VERSIONS ((1u << OFP14_VERSION) | (1u << OFP15_VERSION))
#define PROBE_S 5 /* silent for this long: ask; for as long again: lost */
#define MAX_BACKOFF_S 8

/* ---- ports -------------------------------------------------------------------------------- */

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
	while ((retval = ofputil_pull_phy_port(fabric_version(f), answer, &port)) == 0) {
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
	error = fabric_transact(f,
		ofputil_encode_port_desc_stats_request(fabric_version(f), OFPP_ANY), ports_part,
		&list);
	if (error) {
		free(list.ports);
		return error;
	}
	if (list.n)
		qsort(list.ports, list.n, sizeof(list.ports[0]), compare_ports);
	if (!ports_are(f, &list)) {
		fabric_forget_confirmed(f);
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

void fabric_list_ports(const struct fabric *f, char *buf, size_t size)
{
	size_t len = 0;

	snprintf(buf, size, "none");
	for (size_t i = 0; i < f->n_ports && len < size; i++)
		len += (size_t)snprintf(
			buf + len, size - len, "%s%s", i ? ", " : "", f->ports[i].name);
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
	rconn_send(f->rconn, ofputil_encode_set_config(&config, fabric_version(f)), NULL);
	rconn_send(f->rconn,
		ofputil_encode_set_async_config(&async,
			1u << OAM_PACKET_IN | 1u << OAM_PORT_STATUS | 1u << OAM_FLOW_REMOVED,
			fabric_version(f)),
		NULL);
}

static void begin_session(struct fabric *f)
{
	f->seqno = rconn_get_connection_seqno(f->rconn);
	f->whole = false;
	f->since = time_msec();
	fabric_forget_confirmed(f);
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
	fabric_tell(f, FABRIC_EVENT_CONNECTED, "edge switch of site %s connected", f->name);
}

static void end_session(struct fabric *f)
{
	f->session = false;
	set_connected(f, false);
	log_warn("edge switch lost site=%s target=%s why=\"%s\"", f->name, f->target,
		ovs_retval_to_string(rconn_get_last_error(f->rconn)));
	fabric_tell(f, FABRIC_EVENT_DISCONNECTED, "edge switch of site %s at %s lost: %s", f->name,
		f->target, ovs_retval_to_string(rconn_get_last_error(f->rconn)));
}

static void run_session(struct fabric *f)
{
	struct ofpbuf *message;

	while ((message = rconn_recv(f->rconn)))
		fabric_handle_unasked(f, message);
	if (f->ports_stale && fabric_session_holds(f) && !read_ports(f))
		fabric_tell(f, FABRIC_EVENT_PORTS, "ports of the edge switch of site %s changed",
			f->name);
	if (fabric_session_holds(f))
		fabric_reconcile(f);
	if (fabric_session_holds(f))
		fabric_run_queries(f);
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

void *fabric_run(void *arg)
{
	struct fabric *f = arg;

	f->rconn = rconn_create(PROBE_S, MAX_BACKOFF_S, 0, VERSIONS);
	rconn_connect(f->rconn, f->target, f->name);
	while (!atomic_load(&f->closing)) {
		latch_poll(&f->wake);
		rconn_run(f->rconn);
		if (f->session && !fabric_session_holds(f))
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
