/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_PROBE_FLOW_STATS_H
#define EDGEPLEX_PROBE_FLOW_STATS_H

/*
 * What happened to a flow of probes within a window of time, from the records of its receiver. A
 * probe belongs to the window in which it was due; a gap to the window in which it begins. Pure.
 */

#include <stddef.h>
#include <stdint.h>

#include "testbed/probe/record.h"

#define FLOW_MAX_GAPS 64

/* Nothing arrived for a while. */
struct flow_gap {
	uint64_t at_ns;       /* when the last probe before it was received */
	uint64_t gap_ns;      /* until the next one was */
	uint64_t sent_gap_ns; /* what lay between these two when they were sent */
	uint64_t seq;         /* of the last probe before it */
};

/* Of a sorted row: the value that q of all are at most (nearest rank). 0 when there is none. */
struct flow_quantiles {
	uint64_t p50, p99, p999, max;
};

struct flow_stats {
	uint64_t expected;   /* due in the window, and not after the newest that was received */
	uint64_t received;   /* of these, each counted once */
	uint64_t lost;       /* expected - received */
	uint64_t duplicated; /* arrivals of a probe that had arrived already */
	uint64_t reordered;  /* first arrivals behind a later probe's (RFC 4737, 3.3) */
	uint64_t first_seq, last_seq; /* of those received, lowest and highest */
	struct flow_quantiles gap_ns, delay_ns;
	uint64_t sent_gap_max_ns; /* between two sendings in a row: the sender's own doing */
	struct flow_gap gaps[FLOW_MAX_GAPS]; /* the largest, largest first */
	size_t n_gaps;
};

/*
 * Looks at the records of `flow` among `n` in the order of arrival; window [from_ns, until_ns), and
 * at most `n_gaps` (<= FLOW_MAX_GAPS) gaps are told. Returns 0, or ENOMEM.
 */
int flow_stats_compute(const struct probe_record *records, size_t n, uint32_t flow,
	uint64_t from_ns, uint64_t until_ns, size_t n_gaps, struct flow_stats *stats);

#endif
