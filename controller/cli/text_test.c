/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <cjson/cJSON.h>

#include "controller/cli/json.h"
#include "controller/cli/mem.h"
#include "controller/cli/text.h"

static void assert_safe(const char *text, const char *expected)
{
	char *safe = text_safe(text);

	assert_string_equal(safe, expected);
	free(safe);
}

static void test_plain_text_stays(void **state)
{
	(void)state;
	assert_safe("", "");
	assert_safe("green-a: 10.1.0.0/16 \\ \"ok\"", "green-a: 10.1.0.0/16 \\ \"ok\"");
	assert_safe("Zürich 東京 ✓", "Zürich 東京 ✓");
}

static void test_control_characters_are_shown(void **state)
{
	(void)state;
	assert_safe("a\nb\tc\rd", "a\\nb\\tc\\rd");
	assert_safe("\033[2J\033]0;owned\a", "\\x1b[2J\\x1b]0;owned\\x07");
	assert_safe("\x7f", "\\x7f");
	assert_safe("\xc2\x9b"
		    "31m",
		"\\x9b31m"); /* a CSI in one character */
}

static void test_invisible_and_turning_characters_are_shown(void **state)
{
	(void)state;
	assert_safe("a\u202eb", "a\\u{202e}b"); /* right-to-left override */
	assert_safe("a\u200bb", "a\\u{200b}b"); /* zero-width space */
	assert_safe("a\u2066b\ufeff", "a\\u{2066}b\\u{feff}");
	assert_safe("a\u2028b", "a\\u{2028}b");  /* line separator */
	assert_safe("\U000e0041", "\\u{e0041}"); /* tag */
}

static void test_invalid_utf8_is_shown(void **state)
{
	(void)state;
	assert_safe("a\xff", "a\\xff");
	assert_safe("\xc3", "\\xc3");                   /* cut off */
	assert_safe("\xc0\xaf", "\\xc0\\xaf");          /* too long a form of '/' */
	assert_safe("\xed\xa0\x80", "\\xed\\xa0\\x80"); /* a surrogate */
	assert_safe("\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80");
}

static void test_width_and_fit(void **state)
{
	(void)state;
	assert_int_equal(text_width("abc"), 3);
	assert_int_equal(text_width("Zürich"), 6);
	assert_int_equal(text_width("東京"), 4);
	assert_int_equal(text_fit("abc", 2), 2);
	assert_int_equal(text_fit("abc", 9), 3);
	assert_int_equal(text_fit("東京", 3), 3); /* not half a character */
	assert_int_equal(text_fit("東京", 4), 6);
}

/* Printed JSON must not hold anything that moves a cursor, and must still be the same value. */
static void test_json_is_harmless_and_the_same(void **state)
{
	static const char hostile[] = "\033[2J\x7f\xc2\x9b\u202e\U000e0041 ü \"\\";
	cJSON *object = cJSON_CreateObject(), *again;
	struct mem_stream stream;
	char *text;

	(void)state;
	cJSON_AddStringToObject(object, hostile, hostile);
	mem_stream_open(&stream);
	json_write(stream.file, object);
	text = mem_text(&stream);
	for (const char *at = text; *at;) {
		uint32_t c;
		size_t len = text_decode(at, &c);

		assert_true(len > 0);
		assert_true(c == '\n' || c == '\t' || (c >= 0x20 && c < 0x7f) || c == 0xfc);
		at += len;
	}
	again = cJSON_Parse(text);
	assert_true(cJSON_Compare(object, again, true));
	cJSON_Delete(again);
	free(text);
	cJSON_Delete(object);
}

static void test_invalid_utf8_in_json_stays_json(void **state)
{
	struct mem_stream stream;
	char *text;

	(void)state;
	mem_stream_open(&stream);
	text_write_json(stream.file, "\"a\xff\"");
	text = mem_text(&stream);
	assert_string_equal(text, "\"a\\ufffd\"");
	free(text);
}

static void test_durations(void **state)
{
	static const struct {
		double ms;
		const char *text;
	} cases[] = {{0, "0 ms"}, {450, "450 ms"}, {4200, "4.2 s"}, {200000, "3m 20s"},
		{7500000, "2h 5m"}, {273600000, "3d 4h"}, {-1, "?"}, {1e300, "?"},
		{(double)__builtin_nan(""), "?"}};
	char buf[32];

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_string_equal(text_duration(cases[i].ms, buf), cases[i].text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain_text_stays),
		cmocka_unit_test(test_control_characters_are_shown),
		cmocka_unit_test(test_invisible_and_turning_characters_are_shown),
		cmocka_unit_test(test_invalid_utf8_is_shown),
		cmocka_unit_test(test_width_and_fit),
		cmocka_unit_test(test_json_is_harmless_and_the_same),
		cmocka_unit_test(test_invalid_utf8_in_json_stays_json),
		cmocka_unit_test(test_durations),
	};

	setlocale(LC_CTYPE, "C.UTF-8");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
