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
	/* The pause, in a row: until the VM stands still; the changed pages are copied, while QEMU
	 * saves its state; that is waited for, and pages are looked for again; the VM goes on. */
	int64_t stop_us, copy_us, state_us, resume_us;
	uint64_t pages, bytes;
	uint64_t state_bytes; /* what of `bytes` was device state */
};

struct pauses {
	struct epoch_cost kept[PAUSES_KEPT];
	uint64_t n; /* ever added */
};

struct pauses_summary {
	size_t epochs; /* that it is about */
	int64_t pause_mean_us, pause_p99_us, pause_max_us;
	int64_t commit_mean_us, commit_p99_us, commit_max_us;
	int64_t stop_mean_us, copy_mean_us, state_mean_us, resume_mean_us;
	double pages_mean, bytes_mean, state_bytes_mean, bytes_per_s;
};

void pauses_add(struct pauses *pauses, const struct epoch_cost *cost);

/* The p99 of n is the smallest value that at least 99 % of them don't exceed. */
void pauses_summarize(const struct pauses *pauses, struct pauses_summary *summary);

#endif
