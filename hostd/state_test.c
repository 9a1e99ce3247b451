/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What one history encodes the other decodes, epoch after epoch; and what no honest sender says. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "hostd/bytes.h"
#include "hostd/state.h"

#define BYTES (3 * STATE_PART + 1000)

struct fixture {
	struct state_history *sender, *receiver;
	uint8_t *state, *got;
	unsigned seed;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	f->sender = state_create();
	f->receiver = state_create();
	f->state = malloc(BYTES);
	f->got = malloc(BYTES);
	f->seed = 5;
	for (size_t i = 0; i < BYTES; i++)
		f->state[i] = (uint8_t)rand_r(&f->seed);
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	state_destroy(f->sender);
	state_destroy(f->receiver);
	free(f->state);
	free(f->got);
	free(f);
	return 0;
}

/* Sends the first `n` bytes; returns the bytes on the wire. */
static size_t pass_on(struct fixture *f, size_t n)
{
	size_t wire = 0;

	memset(f->got, 0xaa, BYTES);
	for (size_t at = 0; at < n; at += STATE_PART) {
		size_t part = n - at < STATE_PART ? n - at : STATE_PART, got_n = 0;
		const uint8_t *payload, *got;
		size_t length = state_encode(f->sender, at, f->state + at, part, &payload);

		assert_in_range(length, 9, STATE_MAX_PAYLOAD);
		assert_int_equal(state_decode(f->receiver, at, payload, length, &got, &got_n), 0);
		assert_int_equal(got_n, part);
		memcpy(f->got + at, got, part);
		wire += length;
	}
	assert_memory_equal(f->got, f->state, n);
	return wire;
}

static void test_small_changes_are_small(void **state)
{
	struct fixture *f = *state;

	assert_in_range(pass_on(f, BYTES), BYTES, BYTES + 100); /* noise doesn't compress */
	for (int epoch = 0; epoch < 5; epoch++) {
		for (int i = 0; i < 40; i++)
			f->state[(size_t)rand_r(&f->seed) % BYTES] ^= 0x55;
		assert_in_range(pass_on(f, BYTES), 1, BYTES / 100);
	}
}

static void test_another_length(void **state)
{
	struct fixture *f = *state;

	pass_on(f, 1000);
	pass_on(f, BYTES);
	pass_on(f, STATE_PART);
	f->state[2 * STATE_PART]++;
	pass_on(f, BYTES - 1);
	pass_on(f, BYTES);
}

static void test_refused(void **state)
{
	struct fixture *f = *state;
	uint8_t payload[64] = {0};
	const uint8_t *part;
	size_t n;

#define REFUSED(offset, length) \
	assert_int_equal(state_decode(f->receiver, offset, payload, length, &part, &n), EBADMSG)
	REFUSED(0, 0);
	REFUSED(0, 8);
	REFUSED(0, 9); /* no bytes */
	put_be32(payload, 2);
	REFUSED(0, 9); /* stored, but not all is there */
	REFUSED(0, 11);
	assert_int_equal(state_decode(f->receiver, 0, payload, 10, &part, &n), 0);
	put_be32(payload, STATE_PART + 1);
	put_be32(payload + 4, 1);
	REFUSED(0, 9);
	put_be32(payload, 100);
	put_be32(payload + 4, 56);
	memset(payload + 8, 0xff, 56);
	REFUSED(0, 64); /* not LZ4 */
	put_be32(payload + 4, 0xffffffff);
	REFUSED(0, 64);
	put_be32(payload, 2);
	put_be32(payload + 4, 0);
	REFUSED(STATE_MAX - 1, 10);
	REFUSED(SIZE_MAX, 10);
#undef REFUSED
	assert_int_equal(state_encode(f->sender, STATE_MAX - 1, payload, 2, &part), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_small_changes_are_small, setup, teardown),
		cmocka_unit_test_setup_teardown(test_another_length, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
