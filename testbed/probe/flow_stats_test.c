/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "testbed/probe/flow_stats.h"

#define MS 1000000ull
#define START (1000000 * MS)
#define DELAY (2 * MS)
#define FOREVER UINT64_MAX
#define N 1000

struct fixture {
	struct probe_record records[2 * N];
	size_t n;
	struct flow_stats stats;
};

static int setup(void **state)
{
	*state = calloc(1, sizeof(struct fixture));
	return *state == NULL;
}

static int teardown(void **state)
{
	free(*state);
	return 0;
}

static void arrive_at(struct fixture *f, uint32_t flow, uint64_t seq, uint64_t received_ns)
{
	f->records[f->n++] = (struct probe_record){
		.flow = flow,
		.interval_ns = MS,
		.seq = seq,
		.due_ns = START + seq * MS,
		.sent_ns = START + seq * MS,
		.received_ns = received_ns,
	};
}

static void arrive(struct fixture *f, uint64_t seq)
{
	arrive_at(f, 1, seq, START + seq * MS + DELAY);
}

static struct flow_stats *compute(struct fixture *f, uint64_t from, uint64_t until)
{
	assert_int_equal(flow_stats_compute(f->records, f->n, 1, from, until, 4, &f->stats), 0);
	return &f->stats;
}

static void perfect_flow(void **state)
{
	struct fixture *f = *state;
	struct flow_stats *stats;

	for (uint64_t seq = 0; seq < N; seq++)
		arrive(f, seq);
	stats = compute(f, 0, FOREVER);
	assert_int_equal(stats->expected, N);
	assert_int_equal(stats->received, N);
	assert_int_equal(stats->lost + stats->duplicated + stats->reordered, 0);
	assert_int_equal(stats->gap_ns.p50, MS);
	assert_int_equal(stats->gap_ns.max, MS);
	assert_int_equal(stats->delay_ns.p99, DELAY);
	assert_int_equal(stats->sent_gap_max_ns, MS);
	assert_int_equal(stats->first_seq, 0);
	assert_int_equal(stats->last_seq, N - 1);
}

static void loss_makes_a_gap(void **state)
{
	struct fixture *f = *state;
	struct flow_stats *stats;

	for (uint64_t seq = 0; seq < 100; seq++)
		if (seq < 40 || seq >= 47)
			arrive(f, seq);
	stats = compute(f, 0, FOREVER);
	assert_int_equal(stats->expected, 100);
	assert_int_equal(stats->lost, 7);
	assert_int_equal(stats->gap_ns.max, 8 * MS);
	assert_int_equal(stats->n_gaps, 4);
	assert_int_equal(stats->gaps[0].gap_ns, 8 * MS);
	assert_int_equal(stats->gaps[0].seq, 39);
	assert_int_equal(stats->gaps[0].at_ns, START + 39 * MS + DELAY);
	assert_int_equal(stats->gaps[0].sent_gap_ns, 8 * MS);
	assert_int_equal(stats->gaps[1].gap_ns, MS);
}

/* Held back and then handed over at once: nothing is lost, the gap is there all the same. */
static void delay_makes_a_gap(void **state)
{
	struct fixture *f = *state;
	struct flow_stats *stats;

	for (uint64_t seq = 0; seq < 100; seq++) {
		uint64_t at = START + seq * MS + DELAY;

		if (seq >= 50 && seq < 60)
			at = START + 60 * MS + DELAY;
		arrive_at(f, 1, seq, at);
	}
	stats = compute(f, 0, FOREVER);
	assert_int_equal(stats->lost, 0);
	assert_int_equal(stats->gaps[0].gap_ns, 11 * MS);
	assert_int_equal(stats->gaps[0].sent_gap_ns, MS);
	assert_int_equal(stats->delay_ns.max, 10 * MS + DELAY);
}

static void duplicates_and_late_ones_are_told_apart(void **state)
{
	static const uint64_t order[] = {0, 1, 1, 3, 2, 4, 2, 6, 5, 5};
	struct fixture *f = *state;
	struct flow_stats *stats;

	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++)
		arrive_at(f, 1, order[i], START + i * MS);
	stats = compute(f, 0, FOREVER);
	assert_int_equal(stats->expected, 7);
	assert_int_equal(stats->received, 7);
	assert_int_equal(stats->lost, 0);
	assert_int_equal(stats->duplicated, 3);
	assert_int_equal(stats->reordered, 2);
}

static void window_counts_what_was_due_in_it(void **state)
{
	struct fixture *f = *state;
	struct flow_stats *stats;

	for (uint64_t seq = 0; seq < 300; seq++)
		if ((seq < 95 || seq >= 105) && seq != 250)
			arrive(f, seq);
	stats = compute(f, START + 100 * MS, START + 200 * MS);
	assert_int_equal(stats->expected, 100);
	assert_int_equal(stats->lost, 5);
	/* That gap began before the window. */
	assert_int_equal(stats->gap_ns.max, MS);
	stats = compute(f, START, START + 100 * MS);
	assert_int_equal(stats->expected, 100);
	assert_int_equal(stats->lost, 5);
	assert_int_equal(stats->gap_ns.max, 11 * MS);
	stats = compute(f, START + 200 * MS, START + 5000 * MS);
	assert_int_equal(stats->expected, 100);
	assert_int_equal(stats->lost, 1);
	/* The whole window without a single arrival. */
	stats = compute(f, START + 96 * MS, START + 100 * MS);
	assert_int_equal(stats->expected, 4);
	assert_int_equal(stats->lost, 4);
}

static void other_flows_dont_count(void **state)
{
	struct fixture *f = *state;
	struct flow_stats *stats;

	for (uint64_t seq = 0; seq < 50; seq++) {
		arrive(f, seq);
		arrive_at(f, 2, seq, START + seq * MS);
	}
	stats = compute(f, 0, FOREVER);
	assert_int_equal(stats->expected, 50);
	assert_int_equal(stats->duplicated, 0);
	assert_int_equal(stats->gap_ns.p50, MS);
	assert_int_equal(flow_stats_compute(f->records, f->n, 9, 0, FOREVER, 4, stats), 0);
	assert_int_equal(stats->expected, 0);
	assert_int_equal(stats->n_gaps, 0);
}

static void packets_are_checked(void **state)
{
	struct probe_packet packet;
	struct probe_record record;

	(void)state;
	probe_write(&packet, 7, MS, 12, START + 12 * MS, START + 13 * MS);
	assert_true(probe_read(&packet, sizeof(packet), START + 20 * MS, &record));
	assert_int_equal(record.flow, 7);
	assert_int_equal(record.interval_ns, MS);
	assert_int_equal(record.seq, 12);
	assert_int_equal(record.due_ns, START + 12 * MS);
	assert_int_equal(record.sent_ns, START + 13 * MS);
	assert_int_equal(record.received_ns, START + 20 * MS);
	assert_false(probe_read(&packet, sizeof(packet) - 1, 0, &record));
	packet.magic++;
	assert_false(probe_read(&packet, sizeof(packet), 0, &record));
	/* No interval, and a number so high that the flow would have begun before all time. */
	probe_write(&packet, 7, 0, 12, START, START);
	assert_false(probe_read(&packet, sizeof(packet), 0, &record));
	probe_write(&packet, 7, MS, UINT64_MAX, START, START);
	assert_false(probe_read(&packet, sizeof(packet), 0, &record));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(perfect_flow, setup, teardown),
		cmocka_unit_test_setup_teardown(loss_makes_a_gap, setup, teardown),
		cmocka_unit_test_setup_teardown(delay_makes_a_gap, setup, teardown),
		cmocka_unit_test_setup_teardown(
			duplicates_and_late_ones_are_told_apart, setup, teardown),
		cmocka_unit_test_setup_teardown(window_counts_what_was_due_in_it, setup, teardown),
		cmocka_unit_test_setup_teardown(other_flows_dont_count, setup, teardown),
		cmocka_unit_test(packets_are_checked),
	};

	return cmocka_run_group_tests_name("probe/flow_stats", tests, NULL, NULL);
}
