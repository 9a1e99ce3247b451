/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <zebra.h>

#include "linklist.h"
#include "monotime.h"
#include "thread.h"
#include "workqueue.h"

#include "bgpd/bgpd.h"
#include "bgpd/bgp_fsm.h"
#include "bgpd/bgp_packet.h"

#include "common/bgp/bgp_eor.h"
#include "common/bgp/bgp_host.h"

#define CHECK_MS 50
#define SETTLE_S 5
#define LIMIT_MS (30 * 1000) /* for peers that do not come */

static struct host_event *check_event;
static unsigned long deadline_ms;

static bool has_nothing_to_come(struct peer *peer)
{
	afi_t afi;
	safi_t safi;

	if (!CHECK_FLAG(peer->flags, PEER_FLAG_CONFIG_NODE))
		return true;
	if (!peer_established(peer))
		return false;
	/* Not parsed yet. */
	if (peer->ibuf && peer->ibuf->count)
		return false;
	if (!CHECK_FLAG(peer->cap, PEER_CAP_RESTART_RCV))
		return true;
	/*
	 * It may be waiting for our End-of-RIB as we are for its; but bgpd says that it is
	 * restarting for two minutes, however long it has had all its routes.
	 */
	if (CHECK_FLAG(peer->cap, PEER_CAP_GRACEFUL_RESTART_R_BIT_RCV) &&
		monotime(NULL) - peer->uptime >= SETTLE_S)
		return true;
	FOREACH_AFI_SAFI (afi, safi) {
		if (peer->afc_nego[afi][safi] &&
			!CHECK_FLAG(peer->af_sflags[afi][safi], PEER_STATUS_EOR_RECEIVED))
			return false;
	}
	return true;
}

static bool is_all_in(struct bgp *bgp)
{
	struct listnode *node;
	struct peer *peer;
	bool any = false;

	for (ALL_LIST_ELEMENTS_RO(bgp->peer, node, peer)) {
		if (!has_nothing_to_come(peer))
			return false;
		any = true;
	}
	/* What has come must also have been compared, and handed to the update groups. */
	return any && (!bgp->process_queue || work_queue_empty(bgp->process_queue));
}

static void release(struct bgp *bgp)
{
	struct listnode *node;
	struct peer *peer;

	UNSET_FLAG(bgp->flags, BGP_FLAG_GR_DISABLE_EOR);
	for (ALL_LIST_ELEMENTS_RO(bgp->peer, node, peer)) {
		if (peer_established(peer))
			thread_add_event(bm->master, bgp_generate_updgrp_packets, peer, 0,
				&peer->t_generate_updgrp_packets);
	}
}

static void check(void *ctx)
{
	struct bgp *bgp = bgp_get_default();

	(void)ctx;
	if (bgp && (is_all_in(bgp) || host_now_ms() >= deadline_ms)) {
		release(bgp);
		return;
	}
	host_event_after(check_event, CHECK_MS);
}

void bgp_eor_hold(void)
{
	struct bgp *bgp = bgp_get_default();

	if (!bgp)
		return;
	if (!check_event)
		check_event = host_event_new(check, NULL);
	SET_FLAG(bgp->flags, BGP_FLAG_GR_DISABLE_EOR);
	deadline_ms = host_now_ms() + LIMIT_MS;
	host_event_after(check_event, CHECK_MS);
}
