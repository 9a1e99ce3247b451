/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "testbed/probe/flow_stats.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct arrival {
	uint64_t seq;
	size_t index; /* among the arrivals */
};

/* Room for what is computed of up to n records. */
struct work {
	struct arrival *arrivals;
	bool *late; /* by index: a later probe had arrived before */
	uint64_t *gaps, *delays, *sent;
};

static void work_free(struct work *work)
{
	free(work->arrivals);
	free(work->late);
	free(work->gaps);
	free(work->delays);
	free(work->sent);
}

static int work_alloc(struct work *work, size_t n)
{
	n = n ? n : 1;
	*work = (struct work){
		.arrivals = calloc(n, sizeof(*work->arrivals)),
		.late = calloc(n, sizeof(*work->late)),
		.gaps = calloc(n, sizeof(*work->gaps)),
		.delays = calloc(n, sizeof(*work->delays)),
		.sent = calloc(n, sizeof(*work->sent)),
	};
	if (work->arrivals && work->late && work->gaps && work->delays && work->sent)
		return 0;
	work_free(work);
	return ENOMEM;
}

static int compare_numbers(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static int compare_arrivals(const void *a, const void *b)
{
	const struct arrival *x = a, *y = b;

	if (x->seq != y->seq)
		return x->seq < y->seq ? -1 : 1;
	return (x->index > y->index) - (x->index < y->index);
}

/* Sorts `values`. */
static struct flow_quantiles quantiles(uint64_t *values, size_t n)
{
	if (n == 0)
		return (struct flow_quantiles){0};
	qsort(values, n, sizeof(*values), compare_numbers);
	return (struct flow_quantiles){
		.p50 = values[(n + 1) / 2 - 1],
		.p99 = values[(n * 99 + 99) / 100 - 1],
		.p999 = values[(n * 999 + 999) / 1000 - 1],
		.max = values[n - 1],
	};
}

static void keep_gap(struct flow_stats *stats, size_t limit, struct flow_gap gap)
{
	size_t place = stats->n_gaps;

	while (place > 0 && stats->gaps[place - 1].gap_ns < gap.gap_ns)
		place--;
	if (place >= limit)
		return;
	if (stats->n_gaps < limit)
		stats->n_gaps++;
	memmove(&stats->gaps[place + 1], &stats->gaps[place],
		(stats->n_gaps - place - 1) * sizeof(gap));
	stats->gaps[place] = gap;
}

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

/* Gaps between arrivals, whatever arrived. */
static void find_gaps(const struct probe_record *records, size_t n, uint32_t flow, uint64_t from_ns,
	uint64_t until_ns, size_t limit, struct work *work, struct flow_stats *stats)
{
	const struct probe_record *last = NULL;
	size_t n_gaps = 0;

	for (size_t i = 0; i < n; i++) {
		const struct probe_record *record = &records[i];

		if (record->flow != flow)
			continue;
		if (last && last->received_ns >= from_ns && last->received_ns < until_ns) {
			/* Stamps of a clock that was set back don't make a gap. */
			uint64_t gap = record->received_ns > last->received_ns
					       ? record->received_ns - last->received_ns
					       : 0;

			work->gaps[n_gaps++] = gap;
			keep_gap(stats, limit,
				(struct flow_gap){last->received_ns, gap,
					distance(record->sent_ns, last->sent_ns), last->seq});
		}
		last = record;
	}
	stats->gap_ns = quantiles(work->gaps, n_gaps);
}

/* How many sequence numbers of the flow were due in the window, up to `newest`. */
static uint64_t count_due(
	const struct probe_record *any, uint64_t from_ns, uint64_t until_ns, uint64_t newest)
{
	const uint64_t interval = any->interval_ns, start = any->due_ns - any->seq * interval;
	uint64_t first = 0, end = 0;

	if (from_ns > start)
		first = (from_ns - start + interval - 1) / interval;
	if (until_ns > start)
		end = (until_ns - start - 1) / interval + 1;
	if (end > newest)
		end = newest + 1;
	return end > first ? end - first : 0;
}

int flow_stats_compute(const struct probe_record *records, size_t n, uint32_t flow,
	uint64_t from_ns, uint64_t until_ns, size_t n_gaps, struct flow_stats *stats)
{
	const struct probe_record *any = NULL;
	uint64_t newest = 0, highest = 0;
	size_t arrived = 0;
	struct work work;

	assert(n_gaps <= FLOW_MAX_GAPS);
	*stats = (struct flow_stats){0};
	if (work_alloc(&work, n) != 0)
		return ENOMEM;

	for (size_t i = 0; i < n; i++) {
		const struct probe_record *record = &records[i];

		if (record->flow != flow)
			continue;
		any = record;
		if (record->seq > newest)
			newest = record->seq;
		if (record->due_ns < from_ns || record->due_ns >= until_ns)
			continue;
		work.arrivals[arrived] = (struct arrival){record->seq, arrived};
		work.sent[arrived] = record->sent_ns;
		work.delays[arrived] = record->received_ns > record->sent_ns
					       ? record->received_ns - record->sent_ns
					       : 0;
		arrived++;
	}
	if (any) {
		stats->expected = count_due(any, from_ns, until_ns, newest);
		find_gaps(records, n, flow, from_ns, until_ns, n_gaps, &work, stats);
	}

	/* In the order of arrival, so before they are sorted. */
	for (size_t i = 0; i < arrived; i++) {
		if (i > 0 && work.arrivals[i].seq < highest)
			work.late[i] = true;
		else
			highest = work.arrivals[i].seq;
	}
	qsort(work.arrivals, arrived, sizeof(*work.arrivals), compare_arrivals);
	for (size_t i = 0; i < arrived; i++) {
		if (i > 0 && work.arrivals[i].seq == work.arrivals[i - 1].seq)
			stats->duplicated++;
		else if (work.late[work.arrivals[i].index])
			stats->reordered++;
	}
	stats->received = arrived - stats->duplicated;
	/* A probe that a foreign sender made up can lie outside the flow's numbers. */
	stats->lost = stats->expected > stats->received ? stats->expected - stats->received : 0;
	if (arrived) {
		stats->first_seq = work.arrivals[0].seq;
		stats->last_seq = work.arrivals[arrived - 1].seq;
	}

	qsort(work.sent, arrived, sizeof(*work.sent), compare_numbers);
	for (size_t i = 1; i < arrived; i++)
		if (work.sent[i] - work.sent[i - 1] > stats->sent_gap_max_ns)
			stats->sent_gap_max_ns = work.sent[i] - work.sent[i - 1];
	stats->delay_ns = quantiles(work.delays, arrived);
	work_free(&work);
	return 0;
}
