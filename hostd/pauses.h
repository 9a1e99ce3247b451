/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_PAUSES_H
#define EDGEPLEX_HOSTD_PAUSES_H

/*
 * What the latest epochs of a protected VM cost: kept for PAUSES_KEPT of them. Pure functions; the
 * object is the caller's, and zeros are an empty one.
 */

#include <stddef.h>
#include <stdint.h>

#define PAUSES_KEPT 1024

struct epoch_cost {
	int64_t at_us;     /* when it was acknowledged */
	int64_t pause_us;  /* how long the VM stood still */
	int64_t commit_us; /* from the stop to the acknowledgement */
	uint64_t pages, bytes;
};

struct pauses {
	struct epoch_cost kept[PAUSES_KEPT];
	uint64_t n; /* ever added */
};

struct pauses_summary {
	size_t epochs; /* that it is about */
	int64_t pause_mean_us, pause_p99_us, pause_max_us;
	int64_t commit_mean_us, commit_p99_us, commit_max_us;
	double pages_mean, bytes_mean, bytes_per_s;
};

void pauses_add(struct pauses *pauses, const struct epoch_cost *cost);

/* The p99 of n is the smallest value that at least 99 % of them don't exceed. */
void pauses_summarize(const struct pauses *pauses, struct pauses_summary *summary);

#endif
