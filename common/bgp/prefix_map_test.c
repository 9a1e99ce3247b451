/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <arpa/inet.h>
#include <cmocka.h>

#include "common/bgp/prefix_map.h"

#define N 20000

static struct ep_prefix prefix_of(unsigned i)
{
	struct ep_prefix p = {.family = AF_INET, .len = 24 + i % 9};

	p.addr.v4.s_addr = htonl(0x0a000000 + (i / 9 << 8));
	return p;
}

static void test_add_find_remove(void **state)
{
	static struct prefix_entry entries[N];
	struct prefix_map map = {0};
	struct ep_prefix p = prefix_of(0);

	(void)state;
	assert_null(prefix_map_find(&map, &p));
	for (unsigned i = 0; i < N; i++) {
		entries[i].prefix = prefix_of(i);
		assert_int_equal(prefix_map_add(&map, &entries[i]), 0);
	}
	assert_int_equal(map.n, N);
	for (unsigned i = 0; i < N; i += 2)
		prefix_map_remove(&map, &entries[i]);
	for (unsigned i = 0; i < N; i++) {
		p = prefix_of(i);
		assert_ptr_equal(prefix_map_find(&map, &p), i % 2 ? &entries[i] : NULL);
	}
	prefix_map_clear(&map);
}

static void test_same_bits_in_another_family_or_length_are_others(void **state)
{
	struct prefix_entry v4 = {.prefix = {.family = AF_INET, .len = 0}};
	struct prefix_entry v6 = {.prefix = {.family = AF_INET6, .len = 0}};
	struct prefix_entry longer = {.prefix = {.family = AF_INET, .len = 8}};
	struct prefix_map map = {0};

	(void)state;
	assert_int_equal(prefix_map_add(&map, &v4), 0);
	assert_int_equal(prefix_map_add(&map, &v6), 0);
	assert_int_equal(prefix_map_add(&map, &longer), 0);
	assert_ptr_equal(prefix_map_find(&map, &v4.prefix), &v4);
	assert_ptr_equal(prefix_map_find(&map, &v6.prefix), &v6);
	assert_ptr_equal(prefix_map_find(&map, &longer.prefix), &longer);
	prefix_map_clear(&map);
}

static void remove_and_free(void *ctx, struct prefix_entry *entry)
{
	prefix_map_remove(ctx, entry);
	free(entry);
}

static void test_each_may_remove(void **state)
{
	struct prefix_map map = {0};

	(void)state;
	for (unsigned i = 0; i < N; i++) {
		struct prefix_entry *entry = calloc(1, sizeof(*entry));

		assert_non_null(entry);
		entry->prefix = prefix_of(i);
		assert_int_equal(prefix_map_add(&map, entry), 0);
	}
	prefix_map_each(&map, remove_and_free, &map);
	assert_int_equal(map.n, 0);
	prefix_map_clear(&map);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_add_find_remove),
		cmocka_unit_test(test_same_bits_in_another_family_or_length_are_others),
		cmocka_unit_test(test_each_may_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
