/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "common/prefix.h"

static struct ep_prefix parse(const char *text)
{
	struct ep_prefix prefix;

	assert_int_equal(ep_prefix_parse(text, true, &prefix, NULL), 0);
	return prefix;
}

static void test_round_trip(void **state)
{
	static const char *const texts[] = {
		"0.0.0.0/0", "10.1.0.0/16", "192.168.1.1/30", "::/0", "fd00:a1::1/64", "::1/128"};
	char buf[EP_PREFIX_STRLEN];

	(void)state;
	for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct ep_prefix prefix = parse(texts[i]);

		assert_string_equal(ep_prefix_format(&prefix, buf), texts[i]);
	}
}

static void test_bad_prefixes(void **state)
{
	static const char *const texts[] = {"", "/", "10.0.0.0", "10.0.0.0/", "10.0.0.0/33",
		"10.0.0/8", "10.0.0.0/08", "10.0.0.0/-1", "10.0.0.0/8 ", " 10.0.0.0/8", "::/129",
		"g::/8", "10.0.0.0/999999999999", "10.1.0.0/8",
		"0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000/64"};
	struct ep_prefix prefix;

	(void)state;
	for (unsigned i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		const char *why = NULL;

		assert_int_equal(ep_prefix_parse(texts[i], false, &prefix, &why), EINVAL);
		assert_non_null(why);
	}
}

static void test_contains(void **state)
{
	struct ep_prefix all = parse("0.0.0.0/0"), ten = parse("10.0.0.0/8");
	struct ep_prefix sub = parse("10.128.0.0/9"), other = parse("11.0.0.0/9");
	struct ep_prefix six = parse("::/0");

	(void)state;
	assert_true(ep_prefix_contains(&all, &ten));
	assert_true(ep_prefix_contains(&ten, &sub));
	assert_true(ep_prefix_contains(&ten, &ten));
	assert_false(ep_prefix_contains(&sub, &ten));
	assert_false(ep_prefix_contains(&ten, &other));
	assert_false(ep_prefix_contains(&six, &ten));
	assert_true(ep_prefix_overlaps(&sub, &ten));
	assert_false(ep_prefix_overlaps(&sub, &other));
}

static void test_mask(void **state)
{
	struct ep_prefix prefix = parse("192.168.1.1/30");
	struct ep_prefix six = parse("fd00:a1:ffff::1/33");
	char buf[EP_PREFIX_STRLEN];

	(void)state;
	ep_prefix_mask(&prefix);
	assert_string_equal(ep_prefix_format(&prefix, buf), "192.168.1.0/30");
	ep_prefix_mask(&six);
	assert_string_equal(ep_prefix_format(&six, buf), "fd00:a1:8000::/33");
}

static void test_mac(void **state)
{
	static const char *const bad[] = {"", "02:ed:00:00:00", "02:ed:00:00:00:0",
		"02-ed-00-00-00-01", "02:ed:00:00:00:0g", "02:ed:00:00:00:001"};
	struct ep_mac mac;
	char buf[EP_MAC_STRLEN];

	(void)state;
	assert_int_equal(ep_mac_parse("02:ED:00:00:aF:01", &mac), 0);
	assert_string_equal(ep_mac_format(&mac, buf), "02:ed:00:00:af:01");
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(ep_mac_parse(bad[i], &mac), EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_bad_prefixes),
		cmocka_unit_test(test_contains),
		cmocka_unit_test(test_mask),
		cmocka_unit_test(test_mac),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
