/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "hostd/bytes.h"
#include "hostd/delta.h"

#define N_PAGES 1000

struct fixture {
	struct delta_encoder *encoder;
	struct delta_decoder *decoder;
	uint8_t *now, *before; /* N_PAGES each */
	uint8_t *got;          /* what was decoded, on top of `before` */
	size_t n_got, bytes;
	unsigned seed;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->encoder = delta_encoder_create();
	f->decoder = delta_decoder_create();
	f->now = calloc(N_PAGES, PAGE_BYTES);
	f->before = calloc(N_PAGES, PAGE_BYTES);
	f->got = calloc(N_PAGES, PAGE_BYTES);
	f->seed = 7;
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	delta_encoder_destroy(f->encoder);
	delta_decoder_destroy(f->decoder);
	free(f->now);
	free(f->before);
	free(f->got);
	free(f);
	return 0;
}

static int take_page(void *ctx, size_t page, const uint8_t *content)
{
	struct fixture *f = ctx;

	assert_true(page < N_PAGES);
	if (content != NULL)
		memcpy(f->got + page * PAGE_BYTES, content, PAGE_BYTES);
	else
		memset(f->got + page * PAGE_BYTES, 0, PAGE_BYTES);
	f->n_got++;
	return 0;
}

static void pass_batch(struct fixture *f)
{
	const uint8_t *batch;
	size_t n = delta_take(f->encoder, &batch);

	f->bytes += n;
	assert_true(n <= DELTA_MAX_BATCH);
	if (n > 0)
		assert_int_equal(
			delta_decode(f->decoder, batch, n, f->before, N_PAGES, take_page, f), 0);
}

/* Sends all pages of `now`; `known`: the receiver has `before`. Returns the pages unchanged. */
static size_t pass_all(struct fixture *f, bool known)
{
	size_t unchanged = 0;

	f->n_got = f->bytes = 0;
	memcpy(f->got, f->before, (size_t)N_PAGES * PAGE_BYTES);
	for (size_t p = 0; p < N_PAGES; p++) {
		const uint8_t *now = f->now + p * PAGE_BYTES;
		const uint8_t *before = known ? f->before + p * PAGE_BYTES : NULL;
		enum delta_added added = delta_add(f->encoder, p, now, before);

		if (added == DELTA_FULL) {
			pass_batch(f);
			added = delta_add(f->encoder, p, now, before);
		}
		assert_int_not_equal(added, DELTA_FULL);
		unchanged += added == DELTA_UNCHANGED;
	}
	pass_batch(f);
	assert_int_equal(f->n_got + unchanged, N_PAGES);
	assert_memory_equal(f->got, f->now, (size_t)N_PAGES * PAGE_BYTES);
	return unchanged;
}

static void fill_random(struct fixture *f, size_t page)
{
	for (size_t i = 0; i < PAGE_BYTES; i++)
		f->now[page * PAGE_BYTES + i] = (uint8_t)rand_r(&f->seed);
}

static void test_zero_memory_takes_next_to_nothing(void **state)
{
	struct fixture *f = *state;

	pass_all(f, false);
	assert_in_range(f->bytes, 1, 32);
}

static void test_random_memory_is_stored(void **state)
{
	struct fixture *f = *state;

	for (size_t p = 0; p < N_PAGES; p++)
		fill_random(f, p);
	pass_all(f, false);
	assert_in_range(f->bytes, N_PAGES * PAGE_BYTES, N_PAGES * (PAGE_BYTES + 16));
}

static void test_small_changes_take_little(void **state)
{
	struct fixture *f = *state;

	for (size_t p = 0; p < N_PAGES; p++)
		fill_random(f, p);
	memcpy(f->before, f->now, (size_t)N_PAGES * PAGE_BYTES);
	for (size_t p = 0; p < N_PAGES; p += 10)
		f->now[p * PAGE_BYTES + p] ^= 0x55;
	assert_int_equal(pass_all(f, true), N_PAGES - N_PAGES / 10);
	assert_in_range(f->bytes, 1, N_PAGES / 10 * 64);
}

static void test_mixed_memory(void **state)
{
	struct fixture *f = *state;

	for (int round = 0; round < 20; round++) {
		memcpy(f->before, f->now, (size_t)N_PAGES * PAGE_BYTES);
		for (int i = 0; i < 300; i++) {
			size_t page = (size_t)rand_r(&f->seed) % N_PAGES;

			if (i % 3 == 0)
				memset(f->now + page * PAGE_BYTES, 0, PAGE_BYTES);
			else if (i % 3 == 1)
				fill_random(f, page);
			else
				f->now[page * PAGE_BYTES + (size_t)i] ^= 1;
		}
		pass_all(f, true);
		pass_all(f, false);
	}
}

static int count_page(void *ctx, size_t page, const uint8_t *content)
{
	(void)page;
	(void)content;
	++*(size_t *)ctx;
	return 0;
}

static int refuse_page(void *ctx, size_t page, const uint8_t *content)
{
	(void)ctx;
	(void)content;
	return page == 1 ? ENOSPC : 0;
}

static void test_what_the_callback_says_is_returned(void **state)
{
	struct fixture *f = *state;
	const uint8_t *batch;
	size_t n;

	for (size_t p = 0; p < 3; p++)
		delta_add(f->encoder, p, f->now, NULL);
	n = delta_take(f->encoder, &batch);
	assert_int_equal(
		delta_decode(f->decoder, batch, n, f->before, N_PAGES, refuse_page, NULL), ENOSPC);
}

/* A batch cut anywhere, or for a machine with fewer pages, is refused. */
static void test_damaged_batches(void **state)
{
	struct fixture *f = *state;
	const uint8_t *batch;
	size_t n, count = 0;

	fill_random(f, 500);
	f->now[501 * PAGE_BYTES] = 1;
	for (size_t p = 499; p < 504; p++)
		assert_int_equal(
			delta_add(f->encoder, p, f->now + p * PAGE_BYTES, NULL), DELTA_ADDED);
	n = delta_take(f->encoder, &batch);
	for (size_t cut = 0; cut < n; cut++)
		assert_int_equal(delta_decode(f->decoder, batch, cut, f->before, N_PAGES,
					 count_page, &count),
			EBADMSG);
	assert_int_equal(count, 0);
	assert_int_equal(
		delta_decode(f->decoder, batch, n, f->before, 503, count_page, &count), EBADMSG);
	count = 0;
	assert_int_equal(delta_decode(f->decoder, batch, n, f->before, 504, count_page, &count), 0);
	assert_int_equal(count, 5);
}

/* Records as nobody sends them: header of 8 bytes, then the given record, stored. */
static int decode_record(struct fixture *f, uint32_t page, uint32_t kind_and_count, size_t body)
{
	uint8_t batch[8 + 8 + PAGE_BYTES] = {0};
	size_t count = 0;

	put_be32(batch, (uint32_t)(8 + body));
	put_be32(batch + 8, page);
	put_be32(batch + 12, kind_and_count);
	return delta_decode(f->decoder, batch, 16 + body, f->before, N_PAGES, count_page, &count);
}

static void test_hostile_records(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(decode_record(f, 0, 1, 0), 0);
	assert_int_equal(decode_record(f, N_PAGES - 1, 1, 0), 0);
	assert_int_equal(decode_record(f, N_PAGES, 1, 0), EBADMSG);
	assert_int_equal(decode_record(f, N_PAGES - 1, 2, 0), EBADMSG);
	assert_int_equal(decode_record(f, 0xffffffff, 1, 0), EBADMSG);
	assert_int_equal(decode_record(f, 0, 0xffffff, 0), EBADMSG);
	assert_int_equal(decode_record(f, 0, 0, 0), EBADMSG);
	assert_int_equal(decode_record(f, 0, 1 << 24 | 1, PAGE_BYTES), 0);
	assert_int_equal(decode_record(f, 0, 1 << 24 | 2, PAGE_BYTES), EBADMSG);
	assert_int_equal(decode_record(f, 0, 2 << 24 | 1, PAGE_BYTES), 0);
	assert_int_equal(decode_record(f, 0, 2 << 24 | 1, PAGE_BYTES - 1), EBADMSG);
	assert_int_equal(decode_record(f, 0, 3 << 24 | 1, PAGE_BYTES), EBADMSG);
	assert_int_equal(decode_record(f, 0, 1, 4), EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_zero_memory_takes_next_to_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_random_memory_is_stored, setup, teardown),
		cmocka_unit_test_setup_teardown(test_small_changes_take_little, setup, teardown),
		cmocka_unit_test_setup_teardown(test_mixed_memory, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_what_the_callback_says_is_returned, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_batches, setup, teardown),
		cmocka_unit_test_setup_teardown(test_hostile_records, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
