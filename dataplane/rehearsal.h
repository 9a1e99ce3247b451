/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_REHEARSAL_H
#define EDGEPLEX_DATAPLANE_REHEARSAL_H

/*
 * A VM that was copied to another server has the forwarder's code and tables in its memory, but the
 * processor there has met neither: caches are cold, pages aren't mapped, and an emulator has to
 * translate every instruction. The first packets would wait for all of that. So some packets are
 * kept that were forwarded, and the copy forwards these once more, to nobody, before it is given
 * packets.
 *
 * All of it belongs to the fast path's thread.
 */

#include <stdint.h>
#include <rte_mbuf.h>

#include "dataplane/engine.h"

/* Larger frames aren't kept: all of a kind take the same way. */
#define REHEARSAL_FRAME 256

enum rehearsal_kind {
	REHEARSAL_IPV4,
	REHEARSAL_IPV6,
	REHEARSAL_MPLS_IPV4,
	REHEARSAL_MPLS_IPV6,
	REHEARSAL_KINDS,
};

struct rehearsal_sample {
	uint16_t length; /* 0: there is none */
	uint8_t frame[REHEARSAL_FRAME];
};

struct rehearsal {
	struct rehearsal_sample samples[MAX_PORTS][REHEARSAL_KINDS];
	unsigned looks; /* at so many more frames, until the next tick */
};

/* Some time has passed: samples may be renewed. */
void rehearsal_tick(struct rehearsal *rehearsal);

/* Does engine_input(), and keeps a copy of a frame that was forwarded, now and then. Takes `m`. */
void rehearsal_input(
	struct rehearsal *rehearsal, struct engine *engine, unsigned port, struct rte_mbuf *m);

/*
 * Forwards what was kept, to nobody; counters and queues are afterwards as they were. To be called
 * between bursts, when the ports' queues are empty. Returns how many packets went through.
 */
unsigned rehearsal_run(const struct rehearsal *rehearsal, struct engine *engine);

#endif
