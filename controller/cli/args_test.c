/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <locale.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "controller/cli/args.h"
#include "controller/cli/exit.h"
#include "controller/cli/mem.h"

#define MAX_WORDS 40

/* A command line that was read: what came of it, and what was said about it. */
struct line {
	char *text, *words[MAX_WORDS];
	struct args args;
	int code;
	char *said;
};

static void read_line(struct line *line, const char *text)
{
	struct mem_stream err;
	char *rest;
	int n = 1;

	*line = (struct line){.text = mem_strdup(text)};
	line->words[0] = (char *)"edgeplex";
	for (char *word = strtok_r(line->text, " ", &rest); word;
		word = strtok_r(NULL, " ", &rest)) {
		assert_true(n + 1 < MAX_WORDS);
		line->words[n++] = word;
	}
	mem_stream_open(&err);
	line->code = args_parse(n, line->words, &line->args, err.file);
	line->said = mem_text(&err);
}

static void free_line(struct line *line)
{
	args_free(&line->args);
	free(line->said);
	free(line->text);
}

/* The line is refused with a text that holds `said`. */
static void assert_refused(const char *text, const char *said)
{
	struct line line;

	read_line(&line, text);
	assert_int_equal(line.code, CLI_USAGE);
	if (!strstr(line.said, said))
		fail_msg("\"%s\" is not in: %s", said, line.said);
	assert_non_null(strstr(line.said, "\n  fix: see edgeplex"));
	free_line(&line);
}

static void assert_body(const char *text, const char *expected)
{
	struct line line;
	cJSON *body;
	char *printed;

	read_line(&line, text);
	assert_string_equal(line.said, "");
	assert_int_equal(line.code, CLI_OK);
	body = args_body(&line.args);
	printed = cJSON_PrintUnformatted(body);
	assert_string_equal(printed, expected);
	cJSON_free(printed);
	cJSON_Delete(body);
	free_line(&line);
}

static void test_global_options_stand_anywhere(void **state)
{
	static const char *const lines[] = {"--json --socket /s port show green-a",
		"port --json show --socket=/s green-a", "port show green-a --socket /s --json"};

	(void)state;
	for (size_t i = 0; i < 3; i++) {
		struct line line;

		read_line(&line, lines[i]);
		assert_int_equal(line.code, CLI_OK);
		assert_string_equal(line.args.noun->name, "port");
		assert_string_equal(line.args.verb->name, "show");
		assert_string_equal(line.args.arguments[0], "green-a");
		assert_string_equal(line.args.socket, "/s");
		assert_true(line.args.json);
		free_line(&line);
	}
}

static void test_bodies(void **state)
{
	(void)state;
	assert_body("site create a --asn 65000 --pe-address 10.0.0.1 --core-port core "
		    "--core-address 192.0.2.2/30 --core-gateway 192.0.2.1 --rr 10.0.0.100 "
		    "--rr 10.0.0.101 --transport-label 16001 --switch unix:/edge --core-mtu 1600",
		"{\"name\":\"a\",\"asn\":65000,\"pe_address\":\"10.0.0.1\",\"core\":{"
		"\"switch_port\":\"core\",\"address\":\"192.0.2.2/30\",\"gateway\":\"192.0.2.1\","
		"\"route_reflectors\":[\"10.0.0.100\",\"10.0.0.101\"],\"mtu\":1600},"
		"\"transport_label\":16001,\"switch\":\"unix:/edge\"}");
	assert_body("port create p --customer green --site a --switch-port cust1 --address "
		    "192.168.1.1/30 --address fd00:a1::1/64 --ce 192.168.1.2,65101 "
		    "--ce fd00:a1::2,4200000000,5000 --no-wait",
		"{\"name\":\"p\",\"customer\":\"green\",\"site\":\"a\",\"switch_port\":\"cust1\","
		"\"addresses\":[\"192.168.1.1/30\",\"fd00:a1::1/64\"],\"ce\":["
		"{\"address\":\"192.168.1.2\",\"asn\":65101},"
		"{\"address\":\"fd00:a1::2\",\"asn\":4200000000,\"max_prefixes\":5000}]}");
	assert_body("server set s --hostd none", "{\"hostd\":null}");
	assert_body("server set s --hostd unix:/a --memory-mib 512",
		"{\"hostd\":\"unix:/a\",\"memory_mib\":512}");
	assert_body("server set s --risk rack=r1 --risk power=a",
		"{\"risks\":[\"rack=r1\",\"power=a\"]}");
	assert_body("server set s --risk none", "{\"risks\":[]}");
	assert_body("port set p --ce-mac none --timeout 5", "{\"ce_mac\":null}");
	assert_body("port set p --ce-mac 52:54:00:00:00:01", "{\"ce_mac\":\"52:54:00:00:00:01\"}");
	assert_body("customer create green", "{\"name\":\"green\"}");
	assert_body("cvm create a", "{\"site\":\"a\"}");
	assert_body("cvm protect a", "{}");
	assert_body("cvm protect a --standby a-right --interval 100ms --timeout 2s",
		"{\"standby\":\"a-right\",\"interval_ms\":100,\"timeout_ms\":2000}");
	assert_body("cvm protect a --standby none --interval 50",
		"{\"standby\":null,\"interval_ms\":50}");
	assert_body("pvm signal p pvmd KILL", "{\"process\":\"pvmd\",\"signal\":\"KILL\"}");
}

static void test_times(void **state)
{
	(void)state;
	static const char *const wrong[] = {"", "ms", "1m", "-5", "1.5s", "100msec"};
	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		char line[64];
		snprintf(line, sizeof(line), "cvm protect a --interval=%s", wrong[i]);
		assert_refused(line, "is not a time like 100ms or 2s");
	}
}

static void test_unknown_words_name_the_nearest(void **state)
{
	(void)state;
	assert_refused("prot list", "unknown command \"prot\"; did you mean \"port\"?");
	assert_refused("sites list", "did you mean \"site\"?");
	assert_refused("cust list", "did you mean \"customer\"?");
	assert_refused("port crate", "unknown verb \"crate\"; did you mean \"create\"?");
	assert_refused("port xyzzy", "there is list, show, create, set, delete");
	assert_refused("port create p --adress x", "did you mean \"--address\"?");
	assert_refused("port create p --customre=x", "did you mean \"--customer\"?");
	assert_refused("port list --jsn", "did you mean \"--json\"?");
	assert_refused("port list -x", "options begin with two dashes");
	assert_refused("__man2", "unknown command");
}

static void test_a_hostile_word_is_made_visible(void **state)
{
	(void)state;
	assert_refused("\033[2J", "\"\\x1b[2J\"");
	assert_refused("port \033[2J", "\"\\x1b[2J\"");
	assert_refused("port list \033[2J", "\"\\x1b[2J\"");
	assert_refused("port list --\033[2J", "\"--\\x1b[2J\"");
}

static void test_incomplete_lines(void **state)
{
	(void)state;
	assert_refused("", "a command is missing");
	assert_refused("port", "a verb is missing: list, show, create, set, delete");
	assert_refused("port show", "missing: NAME");
	assert_refused("customer create", "missing: NAME");
	assert_refused("server create l --site a --uri u", "--bridge BRIDGE, --trunk PORT");
	assert_refused("port show --socket", "--socket lacks its value");
	assert_refused("port show a --socket --json", "--socket lacks its value");
}

static void test_superfluous_and_wrong_values(void **state)
{
	(void)state;
	assert_refused("port show a b", "\"b\" is one argument too many");
	assert_refused("status now", "one argument too many");
	assert_refused("port list --json=yes", "--json takes no value");
	assert_refused("customer create g --vpn-id 1 --vpn-id 2", "--vpn-id is given twice");
	assert_refused("pvm fib p --family ipv5", "is not one of: ipv4 ipv6 mpls");
	assert_refused("pvm signal p pvmd HUP", "is not one of: TERM KILL STOP CONT");
}

static void test_malformed_numbers(void **state)
{
	(void)state;
	assert_refused("customer create g --vpn-id x", "\"x\" is not a whole number");
	assert_refused("customer create g --vpn-id -1", "is not a whole number");
	assert_refused("customer create g --vpn-id 1.5", "is not a whole number");
	assert_refused("customer create g --vpn-id 12345678901", "is not a whole number");
	assert_refused("customer create g --vpn-id=", "is not a whole number");
	assert_refused("pvm rib p --limit many", "is not a whole number");
}

static void test_malformed_ce(void **state)
{
	static const char *const values[] = {
		"10.0.0.1", ",1", "10.0.0.1,", "10.0.0.1,x", "10.0.0.1,1,", "10.0.0.1,1,2,3", ","};

	(void)state;
	for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
		char *text = mem_printf("port set p --ce %s", values[i]);

		assert_refused(text, "is not ADDRESS,ASN[,MAX-PREFIXES]");
		free(text);
	}
}

static void assert_origin(const struct args *args, const char *pointer, const char *expected)
{
	char *origin = args_origin(args, pointer);

	if (expected)
		assert_string_equal(origin, expected);
	else
		assert_null(origin);
	free(origin);
}

static void test_fields_lead_back_to_options(void **state)
{
	struct line line;

	(void)state;
	read_line(
		&line, "port create p --customer g --site a --switch-port c --address x --ce y,1");
	assert_int_equal(line.code, CLI_OK);
	assert_origin(&line.args, "/name", "NAME");
	assert_origin(&line.args, "/addresses/0", "--address");
	assert_origin(&line.args, "/ce/1/asn", "--ce");
	assert_origin(&line.args, "/ce_mac", "--ce-mac");
	assert_origin(&line.args, "/nothing", NULL);
	assert_origin(&line.args, "", NULL);
	free_line(&line);
}

static void test_help_needs_nothing_else(void **state)
{
	static const char *const lines[] = {"--help", "-h", "help", "port --help",
		"help port create", "port create --help", "port create p --help --site"};

	(void)state;
	for (size_t i = 0; i + 1 < sizeof(lines) / sizeof(lines[0]); i++) {
		struct line line;

		read_line(&line, lines[i]);
		assert_int_equal(line.code, CLI_OK);
		assert_true(line.args.help);
		free_line(&line);
	}
	assert_refused("port create p --help --site", "--site lacks its value");
}

static void test_two_dashes_end_options(void **state)
{
	struct line line;

	(void)state;
	read_line(&line, "port show -- --json");
	assert_int_equal(line.code, CLI_OK);
	assert_false(line.args.json);
	assert_string_equal(line.args.arguments[0], "--json");
	free_line(&line);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_global_options_stand_anywhere),
		cmocka_unit_test(test_bodies),
		cmocka_unit_test(test_times),
		cmocka_unit_test(test_unknown_words_name_the_nearest),
		cmocka_unit_test(test_a_hostile_word_is_made_visible),
		cmocka_unit_test(test_incomplete_lines),
		cmocka_unit_test(test_superfluous_and_wrong_values),
		cmocka_unit_test(test_malformed_numbers),
		cmocka_unit_test(test_malformed_ce),
		cmocka_unit_test(test_fields_lead_back_to_options),
		cmocka_unit_test(test_help_needs_nothing_else),
		cmocka_unit_test(test_two_dashes_end_options),
	};

	setlocale(LC_CTYPE, "C.UTF-8");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
