/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "dataplane/epoch.h"
#include "dataplane/lpm.h"

#define MAX_ROUTES 600

/* The oracle: a list of prefixes, searched from end to end. */
struct oracle {
	unsigned bits, n;
	struct {
		uint8_t addr[16];
		unsigned len;
		uint32_t value;
	} routes[MAX_ROUTES];
};

static void mask(uint8_t *addr, unsigned bits, unsigned len)
{
	for (unsigned i = len; i < bits; i++)
		addr[i / 8] &= (uint8_t) ~(0x80 >> i % 8);
}

static bool matches(const uint8_t *addr, const uint8_t *prefix, unsigned len)
{
	for (unsigned i = 0; i < len; i++) {
		if ((addr[i / 8] ^ prefix[i / 8]) & 0x80 >> i % 8)
			return false;
	}
	return true;
}

static int oracle_find(const struct oracle *o, const uint8_t *addr, unsigned len)
{
	for (unsigned i = 0; i < o->n; i++) {
		if (o->routes[i].len == len && matches(addr, o->routes[i].addr, len))
			return (int)i;
	}
	return -1;
}

static uint32_t oracle_lookup(const struct oracle *o, const uint8_t *addr, unsigned *len)
{
	uint32_t value = 0;

	*len = 0;
	for (unsigned i = 0; i < o->n; i++) {
		if (o->routes[i].len >= *len &&
			matches(addr, o->routes[i].addr, o->routes[i].len)) {
			*len = o->routes[i].len;
			value = o->routes[i].value;
		}
	}
	return value;
}

/* Addresses close to each other, so that prefixes nest; lengths at both ends are frequent. */
static void random_prefix(unsigned bits, unsigned *seed, uint8_t *addr, unsigned *len)
{
	for (unsigned i = 0; i < 16; i++)
		addr[i] = rand_r(seed) % 4 ? 0 : (uint8_t)(0x80 | rand_r(seed));
	switch (rand_r(seed) % 8) {
	case 0:
		*len = bits;
		break;
	case 1:
		*len = (unsigned)rand_r(seed) % 3;
		break;
	default:
		*len = (unsigned)rand_r(seed) % (bits + 1);
	}
}

struct visited {
	struct lpm *lpm;
	const struct oracle *oracle;
	uint8_t addr[16];
	unsigned len, n, stop_at;
};

static bool check_visit(void *ctx, const uint8_t *addr, unsigned len, uint32_t *value)
{
	struct visited *v = ctx;
	unsigned size = v->oracle->bits / 8;
	int i = oracle_find(v->oracle, addr, len);

	assert_true(i >= 0);
	assert_int_equal(*value, v->oracle->routes[i].value);
	if (v->n > 0) {
		int order = memcmp(v->addr, addr, size);

		assert_true(order < 0 || (order == 0 && v->len < len));
	}
	memcpy(v->addr, addr, size);
	v->len = len;
	return ++v->n != v->stop_at;
}

/* Every page boundary must give the same list as one walk. */
static void check_walk(struct lpm *lpm, const struct oracle *oracle)
{
	struct visited all = {.lpm = lpm, .oracle = oracle}, paged = all;

	lpm_walk(lpm, NULL, 0, check_visit, &all);
	assert_int_equal(all.n, oracle->n);
	for (unsigned before = ~0u; paged.n != before;) {
		before = paged.n;
		paged.stop_at = paged.n + 7;
		lpm_walk(lpm, before ? paged.addr : NULL, paged.len, check_visit, &paged);
	}
	assert_int_equal(paged.n, oracle->n);
}

static void check_against_oracle(unsigned bits, unsigned seed, bool reader_online)
{
	struct epoch epoch = EPOCH_INITIALIZER;
	struct lpm *lpm = lpm_create(bits, &epoch);
	struct oracle *oracle = calloc(1, sizeof(*oracle));
	size_t used, taken;
	uint32_t old;

	assert_non_null(lpm);
	oracle->bits = bits;
	for (unsigned step = 0; step < 20000; step++) {
		uint8_t addr[16];
		unsigned len, want_len, got_len;
		uint32_t want;
		int i;

		if (reader_online && step % 100 == 0)
			epoch_quiescent(&epoch);
		random_prefix(bits, &seed, addr, &len);
		i = oracle_find(oracle, addr, len);
		if (rand_r(&seed) % 2 && oracle->n > 0) {
			if (rand_r(&seed) % 4) {
				i = (int)((unsigned)rand_r(&seed) % oracle->n);
				memcpy(addr, oracle->routes[i].addr, sizeof(addr));
				len = oracle->routes[i].len;
			}
			assert_int_equal(lpm_delete(lpm, addr, len, &old), 0);
			assert_int_equal(old, i < 0 ? 0 : oracle->routes[i].value);
			if (i >= 0)
				oracle->routes[i] = oracle->routes[--oracle->n];
		} else if (i >= 0 || oracle->n < MAX_ROUTES) {
			assert_int_equal(lpm_insert(lpm, addr, len, step + 1, &old), 0);
			assert_int_equal(old, i < 0 ? 0 : oracle->routes[i].value);
			if (i < 0)
				i = (int)oracle->n++;
			mask(addr, bits, len);
			memcpy(oracle->routes[i].addr, addr, sizeof(addr));
			oracle->routes[i].len = len;
			oracle->routes[i].value = step + 1;
			assert_int_equal(lpm_get(lpm, addr, len), step + 1);
		}
		assert_int_equal(lpm_count(lpm), oracle->n);
		random_prefix(bits, &seed, addr, &len);
		want = oracle_lookup(oracle, addr, &want_len);
		assert_int_equal(lpm_lookup(lpm, addr, &got_len), want);
		if (want != 0)
			assert_int_equal(got_len, want_len);
		if (step % 2000 == 0)
			check_walk(lpm, oracle);
	}
	while (oracle->n > 0) {
		oracle->n--;
		assert_int_equal(lpm_delete(lpm, oracle->routes[oracle->n].addr,
					 oracle->routes[oracle->n].len, &old),
			0);
		assert_int_equal(old, oracle->routes[oracle->n].value);
	}
	epoch_offline(&epoch);
	assert_int_equal(lpm_delete(lpm, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 1, &old), 0);
	lpm_memory(lpm, &used, &taken);
	assert_int_equal(used, 0);
	lpm_destroy(lpm);
	free(oracle);
}

static void test_ipv4_oracle(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 4; seed++)
		check_against_oracle(32, seed, seed % 2);
}

static void test_ipv6_oracle(void **state)
{
	(void)state;
	for (unsigned seed = 1; seed <= 4; seed++)
		check_against_oracle(128, seed, seed % 2);
}

static void test_nodes_wait_for_the_reader(void **state)
{
	struct epoch epoch = EPOCH_INITIALIZER;
	struct lpm *lpm = lpm_create(32, &epoch);
	uint8_t a[4] = {10, 0, 0, 0}, b[4] = {10, 0, 0, 1};
	size_t before, during, after, taken;
	uint32_t old;

	(void)state;
	assert_int_equal(lpm_insert(lpm, a, 32, 1, &old), 0);
	lpm_memory(lpm, &before, &taken);
	epoch_quiescent(&epoch);
	assert_int_equal(lpm_insert(lpm, b, 32, 2, &old), 0);
	assert_int_equal(lpm_delete(lpm, b, 32, &old), 0);
	assert_int_equal(lpm_insert(lpm, a, 32, 1, &old), 0);
	lpm_memory(lpm, &during, &taken);
	assert_true(during > before);
	epoch_quiescent(&epoch);
	assert_int_equal(lpm_insert(lpm, a, 32, 1, &old), 0);
	lpm_memory(lpm, &after, &taken);
	assert_int_equal(after, before);
	lpm_destroy(lpm);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ipv4_oracle),
		cmocka_unit_test(test_ipv6_oracle),
		cmocka_unit_test(test_nodes_wait_for_the_reader),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
