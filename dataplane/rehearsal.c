/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/rehearsal.h"

#include <assert.h>
#include <string.h>
#include <rte_byteorder.h>
#include <rte_ether.h>
#include <rte_mpls.h>

/* Few enough not to be felt when none of the frames is forwarded. */
#define LOOKS_PER_TICK 16
/* An emulator links what it has translated when it runs a second time. */
#define TIMES 2

void rehearsal_tick(struct rehearsal *rehearsal)
{
	rehearsal->looks = LOOKS_PER_TICK;
}

/* ---- keeping ----------------------------------------------------------------------------- */

static enum rehearsal_kind kind_of(const struct rehearsal_sample *sample)
{
	const struct rte_ether_hdr *eth = (const struct rte_ether_hdr *)sample->frame;
	size_t at = sizeof(*eth);

	switch (rte_be_to_cpu_16(eth->ether_type)) {
	case RTE_ETHER_TYPE_IPV4:
		return REHEARSAL_IPV4;
	case RTE_ETHER_TYPE_IPV6:
		return REHEARSAL_IPV6;
	case RTE_ETHER_TYPE_MPLS:
		break;
	default:
		return REHEARSAL_KINDS;
	}
	while (at + sizeof(struct rte_mpls_hdr) < sample->length) {
		const struct rte_mpls_hdr *label =
			(const struct rte_mpls_hdr *)(sample->frame + at);

		at += sizeof(*label);
		if (label->bs)
			return sample->frame[at] >> 4 == 6 ? REHEARSAL_MPLS_IPV6
							   : REHEARSAL_MPLS_IPV4;
	}
	return REHEARSAL_KINDS;
}

/* What waits to leave by other ports than `port`; answers go back where the question came from. */
static unsigned passing(const struct engine *engine, unsigned port)
{
	unsigned total = 0;

	for (unsigned i = 0; i < engine->n_ports; i++)
		total += i != port ? engine->ports[i].n_tx : 0;
	return total;
}

void rehearsal_input(
	struct rehearsal *rehearsal, struct engine *engine, unsigned port, struct rte_mbuf *m)
{
	struct rehearsal_sample sample;
	unsigned before;
	enum rehearsal_kind kind;

	if (rehearsal->looks == 0 || m->nb_segs != 1 ||
		m->data_len < sizeof(struct rte_ether_hdr) || m->data_len > REHEARSAL_FRAME) {
		engine_input(engine, port, m);
		return;
	}
	rehearsal->looks--;
	/* The engine changes the frame. */
	sample.length = m->data_len;
	memcpy(sample.frame, rte_pktmbuf_mtod(m, const void *), m->data_len);
	before = passing(engine, port);
	engine_input(engine, port, m);
	if (passing(engine, port) == before)
		return;
	kind = kind_of(&sample);
	if (kind != REHEARSAL_KINDS)
		rehearsal->samples[port][kind] = sample;
}

/* ---- rehearsing -------------------------------------------------------------------------- */

/* Returns how many frames it made. */
static unsigned forward(struct engine *engine, unsigned port, const struct rehearsal_sample *sample)
{
	struct rte_mbuf *m = engine_alloc(engine, port);
	void *room = m ? rte_pktmbuf_append(m, sample->length) : NULL;
	unsigned made = 0;

	if (!room) {
		rte_pktmbuf_free(m);
		return 0;
	}
	memcpy(room, sample->frame, sample->length);
	engine_input(engine, port, m);
	for (unsigned i = 0; i < engine->n_ports; i++) {
		struct port *out = &engine->ports[i];

		made += out->n_tx;
		rte_pktmbuf_free_bulk(out->tx, out->n_tx);
		rte_pktmbuf_free_bulk(out->punt, out->n_punt);
		out->n_tx = out->n_punt = 0;
	}
	return made;
}

unsigned rehearsal_run(const struct rehearsal *rehearsal, struct engine *engine)
{
	struct port_counters counters[MAX_PORTS] = {0};
	unsigned made = 0;

	for (unsigned i = 0; i < engine->n_ports; i++) {
		assert(engine->ports[i].n_tx == 0 && engine->ports[i].n_punt == 0);
		counters[i] = engine->ports[i].counters;
	}
	engine->rehearsing = true;
	for (unsigned time = 0; time < TIMES; time++) {
		for (unsigned i = 0; i < engine->n_ports; i++) {
			for (unsigned kind = 0; kind < REHEARSAL_KINDS; kind++) {
				if (rehearsal->samples[i][kind].length > 0)
					made += forward(engine, i, &rehearsal->samples[i][kind]);
			}
		}
	}
	engine->rehearsing = false;
	for (unsigned i = 0; i < engine->n_ports; i++)
		engine->ports[i].counters = counters[i];
	return made;
}
