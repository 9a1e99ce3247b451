/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "hostd/pauses.h"

#include <stdlib.h>
#include <string.h>

void pauses_add(struct pauses *pauses, const struct epoch_cost *cost)
{
	pauses->kept[pauses->n++ % PAUSES_KEPT] = *cost;
}

static int compare(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

/* Sorts `values`. */
static void summarize(int64_t *values, size_t n, int64_t *mean, int64_t *p99, int64_t *max)
{
	int64_t sum = 0;

	qsort(values, n, sizeof(*values), compare);
	for (size_t i = 0; i < n; i++)
		sum += values[i];
	*mean = sum / (int64_t)n;
	*p99 = values[(n * 99 + 99) / 100 - 1];
	*max = values[n - 1];
}

void pauses_summarize(const struct pauses *pauses, struct pauses_summary *s)
{
	int64_t values[PAUSES_KEPT];
	size_t n = pauses->n < PAUSES_KEPT ? (size_t)pauses->n : PAUSES_KEPT;
	uint64_t pages = 0, bytes = 0, state_bytes = 0;
	const struct epoch_cost *first, *last;

	memset(s, 0, sizeof(*s));
	s->epochs = n;
	if (n == 0)
		return;
	for (size_t i = 0; i < n; i++) {
		values[i] = pauses->kept[i].pause_us;
		pages += pauses->kept[i].pages;
		bytes += pauses->kept[i].bytes;
		state_bytes += pauses->kept[i].state_bytes;
		s->stop_mean_us += pauses->kept[i].stop_us;
		s->copy_mean_us += pauses->kept[i].copy_us;
		s->state_mean_us += pauses->kept[i].state_us;
		s->resume_mean_us += pauses->kept[i].resume_us;
	}
	s->stop_mean_us /= (int64_t)n;
	s->copy_mean_us /= (int64_t)n;
	s->state_mean_us /= (int64_t)n;
	s->resume_mean_us /= (int64_t)n;
	summarize(values, n, &s->pause_mean_us, &s->pause_p99_us, &s->pause_max_us);
	for (size_t i = 0; i < n; i++)
		values[i] = pauses->kept[i].commit_us;
	summarize(values, n, &s->commit_mean_us, &s->commit_p99_us, &s->commit_max_us);
	s->pages_mean = (double)pages / (double)n;
	s->bytes_mean = (double)bytes / (double)n;
	s->state_bytes_mean = (double)state_bytes / (double)n;
	/* The first one's bytes belong to the time before it. */
	first = &pauses->kept[(pauses->n - n) % PAUSES_KEPT];
	last = &pauses->kept[(pauses->n - 1) % PAUSES_KEPT];
	if (last->at_us > first->at_us)
		s->bytes_per_s =
			(double)(bytes - first->bytes) * 1e6 / (double)(last->at_us - first->at_us);
}
