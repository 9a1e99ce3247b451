/* SPDX-License-Identifier: GPL-2.0-or-later */

/*
 * Sessions' connections.
 *
 * When both sides connect at once, one connection wins (RFC 4271 section 6.8). bgpd loses some of
 * the winners: the session comes up, falls, and comes up again a second later. Three corrections:
 *
 * - bgpd keeps the incoming connection in a second peer structure and, should that one win, moves
 * it into the configured one as it becomes Established. Events that wait there for the connection
 *   that lost (its Stop after our Cease, its "TCP connection open") would end the one that won.
 *
 * - A peer that does graceful restart and connects anew has restarted: the session that we believe
 *   in is closed (RFC 4724 section 4.2). But the new connection may also be the one that lost, and
 *   has waited in the kernel to be accepted. BIRD 2 concludes the same from our connection.
 *
 * - So none is begun while the peer's is being opened.
 */

#include <zebra.h>

#include <netinet/tcp.h>
#include <sys/socket.h>

#include "monotime.h"
#include "thread.h"

#include "bgpd/bgpd.h"
#include "bgpd/bgp_fsm.h"
#include "bgpd/bgp_network.h"

/* A connection isn't accepted as late as that; a machine that lost its power takes longer. */
#define JUST_UP_S 5

int __real_bgp_getsockname(struct peer *peer);
int __wrap_bgp_getsockname(struct peer *peer);
int __real_bgp_connect(struct peer *peer);
int __wrap_bgp_connect(struct peer *peer);
int __real_bgp_event_update(struct peer *peer, enum bgp_fsm_events event);
int __wrap_bgp_event_update(struct peer *peer, enum bgp_fsm_events event);

/*
 * bgpd gathers what it writes itself. The kernel would hold an update back besides, until all that
 * was sent before is acknowledged (Nagle's algorithm), which takes an interval more where the
 * output of a protected VM is held for its checkpoints.
 */
static void send_at_once(int fd)
{
	int on = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		zlog_warn("can't set TCP_NODELAY on a session: %s; updates may be late",
			strerror(errno));
}

/*
 * Called where a connection opens, and in peer_xfer_conn() when the peer has taken over state and
 * socket of the winner: only there is a configured peer in OpenConfirm.
 */
int __wrap_bgp_getsockname(struct peer *peer)
{
	if (peer->status == OpenConfirm && CHECK_FLAG(peer->flags, PEER_FLAG_CONFIG_NODE))
		BGP_EVENT_FLUSH(peer);
	send_at_once(peer->fd);
	return __real_bgp_getsockname(peer);
}

/* "Failed": it is tried again when the connect timer expires, unless the session is up by then. */
int __wrap_bgp_connect(struct peer *peer)
{
	const struct peer *incoming = peer->doppelganger;

	if (incoming && (incoming->status == OpenSent || incoming->status == OpenConfirm))
		return connect_error;
	return __real_bgp_connect(peer);
}

/* Has its other end neither closed nor reset the connection? */
static bool is_open(struct peer *peer)
{
	char byte;
	ssize_t n = recv(peer->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);

	return n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
}

/* Of those in bgp_fsm.o's own file none comes here: it is bgp_accept() that closes sessions so. */
int __wrap_bgp_event_update(struct peer *peer, enum bgp_fsm_events event)
{
	if (event == TCP_connection_closed && peer_established(peer) && peer->doppelganger &&
		monotime(NULL) - peer->uptime <= JUST_UP_S && is_open(peer)) {
		UNSET_FLAG(peer->sflags, PEER_STATUS_NSF_WAIT);
		peer->last_reset = 0;
		return FSM_PEER_NOOP;
	}
	return __real_bgp_event_update(peer, event);
}
