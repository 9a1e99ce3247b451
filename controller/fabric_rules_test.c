/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "controller/fabric_rules.h"

/*
 * What frames the rules let through is tested on a real switch (tests/controller/test_fabric.py).
 * Here: the computation itself.
 */

static struct ep_mac mac(const char *text)
{
	struct ep_mac mac;

	assert_int_equal(ep_mac_parse(text, &mac), 0);
	return mac;
}

static struct ep_prefix addr(const char *text)
{
	struct ep_prefix prefix;

	if (strchr(text, '/'))
		assert_int_equal(ep_prefix_parse(text, true, &prefix, NULL), 0);
	else
		assert_int_equal(ep_addr_parse(text, &prefix), 0);
	return prefix;
}

enum { PORTS = 3 };

struct sample {
	struct ep_prefix addresses[PORTS][2];
	struct fabric_port ports[PORTS];
	struct fabric_site site;
};

static void sample_port(struct sample *s, unsigned i)
{
	struct fabric_port *port = &s->ports[i];
	char text[32];

	s->addresses[i][0] = addr("192.168.1.1/30");
	s->addresses[i][1] = addr("fd00:a1::1/64");
	*port = (struct fabric_port){
		.id = 10 + i,
		.customer = 1 + i % 2,
		.addresses = s->addresses[i],
		.n_addresses = 2,
		.trunk = "trunk",
		.cust_vlan = (uint16_t)(200 + 2 * i),
		.core_vlan = (uint16_t)(201 + 2 * i),
		.label = 1000 + i,
	};
	snprintf(port->switch_port, sizeof(port->switch_port), "cust%u", i);
	snprintf(text, sizeof(text), "02:ed:00:00:02:%02x", i);
	port->mac = mac(text);
	snprintf(text, sizeof(text), "100.64.1.%u", 10 + i);
	port->inside_address = addr(text);
}

static void sample_init(struct sample *s)
{
	memset(s, 0, sizeof(*s));
	s->site = (struct fabric_site){
		.id = 1,
		.core_port = "core",
		.pe_mac = mac("02:ed:00:00:00:01"),
		.pe_address = addr("10.0.0.1"),
		.core_address = addr("192.0.2.2/30"),
		.gateway = addr("192.0.2.1"),
		.transport_label = 16001,
		.cvm = {.present = true,
			.trunk = "trunk",
			.core_vlan = 100,
			.inside_vlan = 101,
			.inside_mac = mac("02:ed:00:00:01:01"),
			.inside_address = addr("100.64.1.1")},
		.ports = s->ports,
		.n_ports = PORTS,
	};
	for (unsigned i = 0; i < PORTS; i++)
		sample_port(s, i);
}

static size_t count_cookie(const struct fabric_rules *rules, uint64_t cookie)
{
	size_t n = 0;

	for (size_t i = 0; i < rules->n; i++)
		n += rules->rules[i].cookie == cookie;
	return n;
}

static bool same_rule(const struct fabric_rule *a, const struct fabric_rule *b)
{
	return a->cookie == b->cookie && a->table == b->table && a->priority == b->priority &&
	       strcmp(a->in_port, b->in_port) == 0 && strcmp(a->match, b->match) == 0;
}

static bool has_rule(const struct fabric_rules *rules, const struct fabric_rule *rule)
{
	for (size_t i = 0; i < rules->n; i++)
		if (same_rule(&rules->rules[i], rule))
			return true;
	return false;
}

/* ------------------------------------------------------------------------------------------ */

static void test_every_rule_has_an_owner(void **state)
{
	struct fabric_rules *rules;
	struct sample s;
	size_t n;

	(void)state;
	sample_init(&s);
	assert_int_equal(fabric_rules_compute(&s.site, &rules, NULL), 0);
	n = count_cookie(rules, fabric_cookie(FABRIC_OWNER_SITE, 1));
	assert_true(n > 0);
	for (unsigned i = 0; i < PORTS; i++) {
		size_t own = count_cookie(rules, fabric_cookie(FABRIC_OWNER_PORT, 10 + i));

		assert_true(own > 10);
		n += own;
	}
	assert_int_equal(n, rules->n);
	fabric_rules_free(rules);
}

static void unique_matches(const struct fabric_rules *rules)
{
	for (size_t i = 0; i < rules->n; i++)
		for (size_t j = 0; j < i; j++)
			assert_false(
				rules->rules[i].table == rules->rules[j].table &&
				rules->rules[i].priority == rules->rules[j].priority &&
				strcmp(rules->rules[i].in_port, rules->rules[j].in_port) == 0 &&
				strcmp(rules->rules[i].match, rules->rules[j].match) == 0);
}

static void test_matches_are_unique(void **state)
{
	struct fabric_rules *rules;
	struct sample s;

	(void)state;
	sample_init(&s);
	assert_int_equal(fabric_rules_compute(&s.site, &rules, NULL), 0);
	unique_matches(rules);
	fabric_rules_free(rules);
}

/* Another port changes only its own rules, and the one that lists all PVMs. */
static void test_a_port_more_leaves_the_others(void **state)
{
	struct fabric_rules *less, *more;
	struct sample s;
	size_t n = 0;

	(void)state;
	sample_init(&s);
	assert_int_equal(fabric_rules_compute(&s.site, &more, NULL), 0);
	s.site.n_ports--;
	assert_int_equal(fabric_rules_compute(&s.site, &less, NULL), 0);
	for (size_t i = 0; i < less->n; i++)
		assert_true(has_rule(more, &less->rules[i]));
	n = count_cookie(more, fabric_cookie(FABRIC_OWNER_PORT, 10 + PORTS - 1));
	assert_int_equal(more->n, less->n + n);
	fabric_rules_free(less);
	fabric_rules_free(more);
}

static void test_every_table_ends_in_a_decision(void **state)
{
	struct fabric_rules *rules;
	bool missed[256] = {false}, used[256] = {[0] = true};
	struct sample s;

	(void)state;
	sample_init(&s);
	assert_int_equal(fabric_rules_compute(&s.site, &rules, NULL), 0);
	for (size_t i = 0; i < rules->n; i++) {
		const struct fabric_rule *rule = &rules->rules[i];

		used[rule->table] = true;
		used[rule->goto_table] = true;
		if (rule->priority == 0 && !rule->match[0] && !rule->in_port[0])
			missed[rule->table] = true;
		assert_true(rule->goto_table == FABRIC_DROP || rule->goto_table > rule->table);
	}
	assert_memory_equal(missed, used, sizeof(used));
	fabric_rules_free(rules);
}

static const struct fabric_rule *find_match(const struct fabric_rules *rules, const char *match)
{
	for (size_t i = 0; i < rules->n; i++)
		if (strcmp(rules->rules[i].match, match) == 0)
			return &rules->rules[i];
	return NULL;
}

static void drops_label(const struct fabric_rules *rules, const char *match)
{
	const struct fabric_rule *rule = find_match(rules, match);

	assert_non_null(rule);
	assert_true(rule->priority > 0);
	assert_int_equal(rule->n_outputs, 0);
	assert_int_equal(rule->goto_table, FABRIC_DROP);
}

static void test_labels_that_lead_back(void **state)
{
	struct fabric_rules *rules;
	struct sample s;

	(void)state;
	sample_init(&s);
	assert_int_equal(fabric_rules_compute(&s.site, &rules, NULL), 0);
	drops_label(rules, "mpls,mpls_label=16001");
	drops_label(rules, "mpls,mpls_label=0");
	drops_label(rules, "mpls,mpls_label=15");
	fabric_rules_free(rules);

	s.site.transport_label = 3; /* adjacent: no label leads here */
	assert_int_equal(fabric_rules_compute(&s.site, &rules, NULL), 0);
	assert_null(find_match(rules, "mpls,mpls_label=16001"));
	drops_label(rules, "mpls,mpls_label=3");
	fabric_rules_free(rules);
}

static void test_empty_site(void **state)
{
	struct fabric_rules *rules;
	struct sample s;

	(void)state;
	sample_init(&s);
	s.site.n_ports = 0;
	s.site.cvm.present = false;
	memset(&s.site.cvm, 0, sizeof(s.site.cvm));
	assert_int_equal(fabric_rules_compute(&s.site, &rules, NULL), 0);
	for (size_t i = 0; i < rules->n; i++)
		assert_true(rules->rules[i].table != 0 || rules->rules[i].n_outputs == 0);
	fabric_rules_free(rules);
}

/* ---- a PVM that is being moved ------------------------------------------------------------- */

enum { MOVED = 1, MOVED_ID = 10 + MOVED, CUST_VLAN = 202, CORE_VLAN = 203 };
static const enum fabric_phase phases[] = {FABRIC_AT_SOURCE, FABRIC_CONTROL_IN,
	FABRIC_CONTROL_MOVED, FABRIC_DATA_MOVED, FABRIC_AT_DESTINATION};

static void move_to(struct sample *s, const char *trunk, enum fabric_phase phase)
{
	snprintf(s->ports[MOVED].to_trunk, FABRIC_PORT_LEN, "%s", trunk);
	s->ports[MOVED].phase = phase;
}

static struct fabric_rules *rules_in(enum fabric_phase phase)
{
	struct fabric_rules *rules;
	struct sample s;

	sample_init(&s);
	move_to(&s, "dest", phase);
	assert_int_equal(fabric_rules_compute(&s.site, &rules, NULL), 0);
	return rules;
}

static bool identical(const struct fabric_rule *a, const struct fabric_rule *b)
{
	return same_rule(a, b) && a->untag == b->untag && a->goto_table == b->goto_table &&
	       strcmp(a->edit, b->edit) == 0 && a->n_outputs == b->n_outputs &&
	       (a->n_outputs == 0 ||
		       memcmp(a->outputs, b->outputs, a->n_outputs * sizeof(a->outputs[0])) == 0);
}

static void all_identical(const struct fabric_rules *a, const struct fabric_rules *b)
{
	assert_int_equal(a->n, b->n);
	for (size_t i = 0; i < a->n; i++)
		assert_true(identical(&a->rules[i], &b->rules[i]));
}

static void test_before_and_after_a_move(void **state)
{
	struct fabric_rules *at_rest, *moving;
	struct sample s;

	(void)state;
	sample_init(&s);
	assert_int_equal(fabric_rules_compute(&s.site, &at_rest, NULL), 0);
	moving = rules_in(FABRIC_AT_SOURCE);
	all_identical(at_rest, moving);
	fabric_rules_free(at_rest);
	fabric_rules_free(moving);

	snprintf(s.ports[MOVED].trunk, FABRIC_PORT_LEN, "dest");
	assert_int_equal(fabric_rules_compute(&s.site, &at_rest, NULL), 0);
	moving = rules_in(FABRIC_AT_DESTINATION);
	all_identical(at_rest, moving);
	fabric_rules_free(at_rest);
	fabric_rules_free(moving);
}

#define GATEWAY_ANSWER \
	"vlan_tci=0,dl_dst=02:ed:00:00:00:01,arp,arp_op=2,arp_spa=192.0.2.1,arp_tpa=192.0.2.2"

/* Whatever else is there stays byte for byte what it was, so its counters and traffic go on. */
static void test_a_move_leaves_the_others(void **state)
{
	struct fabric_rules *before = rules_in(FABRIC_AT_SOURCE);

	(void)state;
	for (size_t p = 1; p < sizeof(phases) / sizeof(phases[0]); p++) {
		struct fabric_rules *after = rules_in(phases[p]);
		const uint64_t own = fabric_cookie(FABRIC_OWNER_PORT, MOVED_ID);
		size_t i = 0, j = 0, compared = 0;

		for (;; i++, j++, compared++) {
			while (i < before->n && before->rules[i].cookie == own)
				i++;
			while (j < after->n && after->rules[j].cookie == own)
				j++;
			if (i == before->n || j == after->n)
				break;
			if (strcmp(before->rules[i].match, GATEWAY_ANSWER) == 0)
				assert_true(same_rule(&before->rules[i], &after->rules[j]));
			else
				assert_true(identical(&before->rules[i], &after->rules[j]));
		}
		assert_true(i == before->n && j == after->n);
		assert_true(compared > 50);
		fabric_rules_free(after);
	}
	fabric_rules_free(before);
}

/* The rule with this in_port ("": any) and match. */
static const struct fabric_rule *find_from(
	const struct fabric_rules *rules, const char *in_port, const char *match)
{
	for (size_t i = 0; i < rules->n; i++)
		if (strcmp(rules->rules[i].in_port, in_port) == 0 &&
			strcmp(rules->rules[i].match, match) == 0)
			return &rules->rules[i];
	return NULL;
}

static void goes_to(const struct fabric_rule *rule, const char *port, uint16_t vlan)
{
	assert_non_null(rule);
	assert_int_equal(rule->n_outputs, 1);
	assert_string_equal(rule->outputs[0].port, port);
	assert_int_equal(rule->outputs[0].vlan, vlan);
}

/* Frames of one kind, from either trunk: let through from those of `copies`, from no other. */
static void says(const struct fabric_rules *rules, const char *copies, const char *match,
	const char *port, uint16_t vlan)
{
	static const char *const trunks[] = {"trunk", "dest"};

	for (int i = 0; i < 2; i++) {
		const struct fabric_rule *rule = find_from(rules, trunks[i], match);

		if (!strchr(copies, "SD"[i])) {
			assert_null(rule);
			continue;
		}
		assert_non_null(rule);
		assert_int_equal(rule->priority, 100);
		if (port)
			goes_to(rule, port, vlan);
		else
			assert_int_equal(rule->goto_table, 3);
	}
}

struct expectation {
	const char *control_in, *control_out, *data_in, *data_out;
};

static const struct expectation expectations[] = {
	[FABRIC_AT_SOURCE] = {"S", "S", "S", "S"},
	[FABRIC_CONTROL_IN] = {"D", "S", "S", "S"},
	[FABRIC_CONTROL_MOVED] = {"D", "D", "S", "S"},
	[FABRIC_DATA_MOVED] = {"D", "D", "D", "SD"},
	[FABRIC_AT_DESTINATION] = {"D", "D", "D", "D"},
};

static const char *trunk_of(const char *copy)
{
	return copy[0] == 'S' ? "trunk" : "dest";
}

#define PVM "dl_vlan=202,dl_src=02:ed:00:00:02:01"
#define PVM_CORE "dl_vlan=203,dl_src=02:ed:00:00:00:01"
#define CVM_INSIDE "dl_vlan=101,dl_src=02:ed:00:00:01:01"
#define FROM_CUSTOMER "vlan_tci=0"
#define TO_PVM "dl_dst=02:ed:00:00:02:01"

static void test_who_hears_what(void **state)
{
	(void)state;
	for (size_t p = 0; p < sizeof(phases) / sizeof(phases[0]); p++) {
		const struct expectation *e = &expectations[phases[p]];
		const char *control = trunk_of(e->control_in), *data = trunk_of(e->data_in);
		struct fabric_rules *rules = rules_in(phases[p]);

		goes_to(find_from(rules, "cust1",
				FROM_CUSTOMER ",arp," TO_PVM ",arp_spa=192.168.1.0/30"),
			control, CUST_VLAN);
		goes_to(find_from(rules, "cust1", FROM_CUSTOMER ",ip," TO_PVM), data, CUST_VLAN);
		goes_to(find_from(rules, "cust1", FROM_CUSTOMER ",ipv6," TO_PVM), data, CUST_VLAN);
		goes_to(find_from(rules, "core",
				"vlan_tci=0,dl_dst=02:ed:00:00:00:01,mpls,mpls_label=1001,"
				"mpls_bos=1"),
			data, CORE_VLAN);
		goes_to(find_from(rules, "", "metadata=2,mpls,mpls_label=1001,mpls_bos=1"), data,
			CORE_VLAN);
		goes_to(find_from(rules, "trunk",
				CVM_INSIDE ",tcp,nw_src=100.64.1.1,nw_dst=100.64.1.11,tp_src=179"),
			control, CORE_VLAN);
		fabric_rules_free(rules);
	}
}

static void test_who_says_what(void **state)
{
	(void)state;
	for (size_t p = 0; p < sizeof(phases) / sizeof(phases[0]); p++) {
		const struct expectation *e = &expectations[phases[p]];
		struct fabric_rules *rules = rules_in(phases[p]);

		says(rules, e->control_out, PVM ",arp", "cust1", 0);
		says(rules, e->data_out, PVM ",ip", "cust1", 0);
		says(rules, e->data_out, PVM ",ipv6", "cust1", 0);
		says(rules, e->data_out, PVM_CORE ",mpls", NULL, 0);
		says(rules, e->control_out,
			PVM_CORE ",arp,arp_op=1,arp_sha=02:ed:00:00:00:01,arp_spa=192.0.2.2,"
				 "arp_tpa=192.0.2.1",
			"core", 0);
		says(rules, e->control_out,
			PVM_CORE ",tcp,nw_src=100.64.1.11,nw_dst=100.64.1.1,tp_dst=179", "trunk",
			101);
		says(rules, e->control_out, PVM_CORE ",icmp,nw_src=100.64.1.11,nw_dst=100.64.1.1",
			"trunk", 101);
		fabric_rules_free(rules);
	}
}

/* Kinds of control frames: what follows the rest of the match. %s: src or dst. */
static const char *const control_kinds[] = {
	"tcp,tp_src=179,nw_%s=192.168.1.1",
	"tcp,tp_dst=179,nw_%s=192.168.1.1",
	"udp,tp_dst=3784,nw_%s=192.168.1.1",
	"udp,tp_dst=3785,nw_%s=192.168.1.1",
	"udp,tp_dst=4784,nw_%s=192.168.1.1",
	"tcp6,tp_src=179,ipv6_%s=fd00:a1::1",
	"tcp6,tp_dst=179,ipv6_%s=fd00:a1::1",
	"udp6,tp_dst=3784,ipv6_%s=fd00:a1::1",
	"udp6,tp_dst=3785,ipv6_%s=fd00:a1::1",
	"udp6,tp_dst=4784,ipv6_%s=fd00:a1::1",
	"icmp6,icmp_type=133",
	"icmp6,icmp_type=134",
	"icmp6,icmp_type=135",
	"icmp6,icmp_type=136",
	"icmp6,icmp_type=137",
};

/* Control apart from data: above what lets the rest through, below what customers must not say. */
static void test_control_apart(void **state)
{
	(void)state;
	for (size_t p = 0; p < sizeof(phases) / sizeof(phases[0]); p++) {
		const enum fabric_phase phase = phases[p];
		struct fabric_rules *rules = rules_in(phase);

		for (size_t k = 0; k < sizeof(control_kinds) / sizeof(control_kinds[0]); k++) {
			const struct fabric_rule *rule;
			char kind[64], match[128];

			snprintf(kind, sizeof(kind), control_kinds[k], "dst");
			snprintf(match, sizeof(match), FROM_CUSTOMER "," TO_PVM ",%s", kind);
			rule = find_from(rules, "cust1", match);
			if (phase == FABRIC_CONTROL_IN || phase == FABRIC_CONTROL_MOVED) {
				goes_to(rule, "dest", CUST_VLAN);
				assert_int_equal(rule->priority, 150);
			} else {
				assert_null(rule);
			}

			snprintf(kind, sizeof(kind), control_kinds[k], "src");
			snprintf(match, sizeof(match), PVM ",%s", kind);
			rule = find_from(rules, "trunk", match);
			if (phase == FABRIC_CONTROL_MOVED || phase == FABRIC_DATA_MOVED) {
				assert_non_null(rule);
				assert_int_equal(rule->priority, 200);
				assert_int_equal(rule->n_outputs, 0);
				assert_int_equal(rule->goto_table, FABRIC_DROP);
			} else {
				assert_null(rule);
			}
			rule = find_from(rules, "dest", match);
			if (phase == FABRIC_CONTROL_MOVED)
				goes_to(rule, "cust1", 0);
			else
				assert_null(rule);
		}
		fabric_rules_free(rules);
	}
}

/* From either trunk nothing but what the moved PVM may say there; from the new one nothing yet. */
static void test_trunks_during_a_move(void **state)
{
	(void)state;
	for (size_t p = 0; p < sizeof(phases) / sizeof(phases[0]); p++) {
		struct fabric_rules *rules = rules_in(phases[p]);
		size_t from_dest = 0, from_source = 0;

		for (size_t i = 0; i < rules->n; i++) {
			const struct fabric_rule *rule = &rules->rules[i];
			const bool own = strncmp(rule->match, "dl_vlan=202,", 12) == 0 ||
					 strncmp(rule->match, "dl_vlan=203,", 12) == 0;

			if (strcmp(rule->in_port, "dest") == 0) {
				assert_true(own);
				assert_int_equal(
					rule->cookie, fabric_cookie(FABRIC_OWNER_PORT, MOVED_ID));
				from_dest++;
			} else if (strcmp(rule->in_port, "trunk") == 0) {
				from_source += own;
			}
		}
		assert_int_equal(from_dest > 0, phases[p] >= FABRIC_CONTROL_MOVED);
		assert_int_equal(from_source > 0, phases[p] <= FABRIC_DATA_MOVED);
		fabric_rules_free(rules);
	}
}

static bool of_cvm(uint16_t vlan)
{
	return vlan == 100 || vlan == 101;
}

static bool from_cvm(const struct fabric_rule *rule)
{
	return strncmp(rule->match, "dl_vlan=100,", 12) == 0 ||
	       strncmp(rule->match, "dl_vlan=101,", 12) == 0;
}

/* Where the CVM hears and where it speaks, each "S", "D", or "SD" should the rules disagree. */
static void cvm_places(const char *trunk, const char *out_trunk, char in[3], char out[3])
{
	struct fabric_rules *rules;
	bool heard[2] = {false}, said[2] = {false};
	struct sample s;

	sample_init(&s);
	snprintf(s.site.cvm.trunk, sizeof(s.site.cvm.trunk), "%s", trunk);
	snprintf(s.site.cvm.out_trunk, sizeof(s.site.cvm.out_trunk), "%s", out_trunk);
	assert_int_equal(fabric_rules_compute(&s.site, &rules, NULL), 0);
	for (size_t r = 0; r < rules->n; r++) {
		const struct fabric_rule *rule = &rules->rules[r];

		if (from_cvm(rule))
			said[strcmp(rule->in_port, "trunk") != 0] = true;
		for (size_t i = 0; i < rule->n_outputs; i++) {
			if (of_cvm(rule->outputs[i].vlan))
				heard[strcmp(rule->outputs[i].port, "trunk") != 0] = true;
		}
	}
	snprintf(in, 3, "%s%s", heard[0] ? "S" : "", heard[1] ? "D" : "");
	snprintf(out, 3, "%s%s", said[0] ? "S" : "", said[1] ? "D" : "");
	fabric_rules_free(rules);
}

static void test_a_cvm_moves(void **state)
{
	static const struct {
		const char *trunk, *out_trunk, *in, *out;
	} cases[] = {
		{"trunk", "", "S", "S"},
		{"trunk", "trunk", "S", "S"},
		{"trunk2", "trunk", "D", "S"},
		{"trunk2", "", "D", "D"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char in[3], out[3];

		cvm_places(cases[i].trunk, cases[i].out_trunk, in, out);
		assert_string_equal(in, cases[i].in);
		assert_string_equal(out, cases[i].out);
	}
}

/* Nobody else may use the place that it leaves, as long as it speaks from there. */
static void test_a_moving_cvm_keeps_both_places(void **state)
{
	struct fabric_rules *rules;
	struct sample s;
	struct why why;

	(void)state;
	sample_init(&s);
	snprintf(s.site.cvm.trunk, sizeof(s.site.cvm.trunk), "trunk2");
	s.ports[0].core_vlan = 100;
	assert_int_equal(fabric_rules_compute(&s.site, &rules, &why), 0);
	fabric_rules_free(rules);
	snprintf(s.site.cvm.out_trunk, sizeof(s.site.cvm.out_trunk), "trunk");
	assert_int_equal(fabric_rules_compute(&s.site, &rules, &why), EINVAL);
	assert_non_null(strstr(why.text, "VLAN 100 on trunk trunk"));
}

static void test_gateway_answers_during_a_move(void **state)
{
	static const char *const expected[] = {[FABRIC_AT_SOURCE] = "S",
		[FABRIC_CONTROL_IN] = "SD",
		[FABRIC_CONTROL_MOVED] = "SD",
		[FABRIC_DATA_MOVED] = "SD",
		[FABRIC_AT_DESTINATION] = "D"};

	(void)state;
	for (size_t p = 0; p < sizeof(phases) / sizeof(phases[0]); p++) {
		struct fabric_rules *rules = rules_in(phases[p]);
		const struct fabric_rule *rule = find_from(rules, "core", GATEWAY_ANSWER);
		char got[8] = "";
		size_t others = 0, n = 0;

		assert_non_null(rule);
		for (size_t i = 0; i < rule->n_outputs; i++) {
			if (rule->outputs[i].vlan == CORE_VLAN) {
				assert_true(n < sizeof(got) - 1);
				got[n++] = strcmp(rule->outputs[i].port, "trunk") ? 'D' : 'S';
			} else
				others++;
		}
		assert_string_equal(got, expected[phases[p]]);
		assert_int_equal(others, PORTS); /* the CVM, and PVMs that stay */
		fabric_rules_free(rules);
	}
}

static void test_matches_are_unique_during_a_move(void **state)
{
	(void)state;
	for (size_t p = 0; p < sizeof(phases) / sizeof(phases[0]); p++) {
		struct fabric_rules *rules = rules_in(phases[p]);

		unique_matches(rules);
		fabric_rules_free(rules);
	}
}

/* ---- the difference of two sets ------------------------------------------------------------ */

struct patch {
	const struct fabric_rules *before, *after;
	bool *gone, *come;
	size_t n;
};

static void note_difference(void *ctx, const struct fabric_rule *rule, bool is_after)
{
	struct patch *patch = ctx;
	size_t i = (size_t)(rule - (is_after ? patch->after : patch->before)->rules);

	assert_true(i < (is_after ? patch->after : patch->before)->n);
	assert_false((is_after ? patch->come : patch->gone)[i]); /* once */
	(is_after ? patch->come : patch->gone)[i] = true;
	patch->n++;
}

static bool has_identical(const struct fabric_rules *rules, const struct fabric_rule *rule)
{
	for (size_t i = 0; i < rules->n; i++)
		if (identical(&rules->rules[i], rule))
			return true;
	return false;
}

/* What isn't named is in both; returns how many are named. */
static size_t check_difference(const struct fabric_rules *before, const struct fabric_rules *after)
{
	struct patch patch = {.before = before, .after = after};
	size_t kept_before = 0, kept_after = 0;

	patch.gone = calloc(before->n, sizeof(bool));
	patch.come = calloc(after->n, sizeof(bool));
	assert_true(patch.gone && patch.come);
	fabric_rules_diff(before, after, note_difference, &patch);
	for (size_t i = 0; i < before->n; i++) {
		kept_before += !patch.gone[i];
		if (!patch.gone[i])
			assert_true(has_identical(after, &before->rules[i]));
	}
	for (size_t i = 0; i < after->n; i++) {
		kept_after += !patch.come[i];
		if (!patch.come[i])
			assert_true(has_identical(before, &after->rules[i]));
	}
	assert_int_equal(kept_before, kept_after);
	free(patch.gone);
	free(patch.come);
	return patch.n;
}

static size_t exact_difference(const struct fabric_rules *a, const struct fabric_rules *b)
{
	size_t n = 0;

	for (size_t i = 0; i < a->n; i++)
		n += !has_identical(b, &a->rules[i]);
	for (size_t i = 0; i < b->n; i++)
		n += !has_identical(a, &b->rules[i]);
	return n;
}

/* From any phase to any other just what differs. */
static void test_difference_of_phases(void **state)
{
	(void)state;
	for (size_t p = 0; p < sizeof(phases) / sizeof(phases[0]); p++)
		for (size_t q = 0; q < sizeof(phases) / sizeof(phases[0]); q++) {
			struct fabric_rules *before = rules_in(phases[p]);
			struct fabric_rules *after = rules_in(phases[q]);
			size_t n = check_difference(before, after);

			assert_int_equal(n, exact_difference(before, after));
			assert_int_equal(n == 0, p == q);
			fabric_rules_free(before);
			fabric_rules_free(after);
		}
}

static void test_difference_of_sites(void **state)
{
	struct fabric_rules *full = rules_in(FABRIC_CONTROL_MOVED), *other;
	struct fabric_port first;
	struct sample s;

	(void)state;
	sample_init(&s);
	first = s.ports[0];
	s.ports[0] = s.ports[PORTS - 1]; /* another order, and one port less */
	s.site.n_ports--;
	assert_int_equal(fabric_rules_compute(&s.site, &other, NULL), 0);
	check_difference(full, other);
	check_difference(other, full);
	fabric_rules_free(other);

	s.ports[0] = first;
	s.site.n_ports = 0;
	s.site.cvm.present = false;
	assert_int_equal(fabric_rules_compute(&s.site, &other, NULL), 0);
	check_difference(full, other);
	check_difference(other, full);
	fabric_rules_free(other);
	fabric_rules_free(full);
}

static void test_owners(void **state)
{
	struct fabric_rules *rules = rules_in(FABRIC_AT_SOURCE);
	struct fabric_rules *other = fabric_rules_ref(rules);

	(void)state;
	fabric_rules_free(rules);
	assert_true(other->n > 0);
	assert_true(other->rules[0].cookie != 0);
	fabric_rules_free(other);
	fabric_rules_free(NULL);
}

/* Applies a change to a good site and expects EINVAL with some words. */
static void refuse(void (*change)(struct sample *s), const char *words)
{
	struct fabric_rules *rules = (void *)1;
	struct why why = {""};
	struct sample s;

	sample_init(&s);
	change(&s);
	assert_int_equal(fabric_rules_compute(&s.site, &rules, &why), EINVAL);
	assert_null(rules);
	if (!strstr(why.text, words))
		fail_msg("\"%s\" doesn't say \"%s\"", why.text, words);
}

static void same_label(struct sample *s)
{
	s->ports[1].label = s->ports[0].label;
}

static void reserved_label(struct sample *s)
{
	s->ports[0].label = 15;
}

static void big_label(struct sample *s)
{
	s->ports[0].label = 1 << 20;
}

static void same_vlan(struct sample *s)
{
	s->ports[1].core_vlan = s->ports[2].cust_vlan;
}

static void vlan_of_cvm(struct sample *s)
{
	s->ports[1].core_vlan = 101;
}

static void vlan_zero(struct sample *s)
{
	s->ports[1].cust_vlan = 0;
}

static void same_customer_port(struct sample *s)
{
	snprintf(s->ports[1].switch_port, FABRIC_PORT_LEN, "cust0");
}

static void customer_on_trunk(struct sample *s)
{
	snprintf(s->ports[1].switch_port, FABRIC_PORT_LEN, "trunk");
}

static void customer_on_core(struct sample *s)
{
	snprintf(s->ports[1].switch_port, FABRIC_PORT_LEN, "core");
}

static void port_name_with_action(struct sample *s)
{
	snprintf(s->ports[1].switch_port, FABRIC_PORT_LEN, "a,actions=drop");
}

static void port_name_unterminated(struct sample *s)
{
	memset(s->ports[1].trunk, 'x', FABRIC_PORT_LEN);
}

static void port_without_name(struct sample *s)
{
	s->ports[2].trunk[0] = '\0';
}

static void multicast_mac(struct sample *s)
{
	s->ports[0].mac.bytes[0] |= 1;
}

static void zero_pe_mac(struct sample *s)
{
	memset(&s->site.pe_mac, 0, sizeof(s->site.pe_mac));
}

static void same_mac(struct sample *s)
{
	s->ports[0].mac = s->site.pe_mac;
}

static void multicast_ce(struct sample *s)
{
	s->ports[0].has_ce_mac = true;
	s->ports[0].ce_mac = mac("33:33:00:00:00:01");
}

static void ipv6_gateway(struct sample *s)
{
	s->site.gateway = addr("2001:db8::1");
}

static void same_inside(struct sample *s)
{
	s->ports[0].inside_address = s->site.cvm.inside_address;
}

static void move_to_itself(struct sample *s)
{
	move_to(s, "trunk", FABRIC_AT_SOURCE);
}

static void move_to_nowhere(struct sample *s)
{
	move_to(s, "", FABRIC_CONTROL_IN);
}

static void move_without_phase(struct sample *s)
{
	move_to(s, "dest", (enum fabric_phase)5);
}

static void move_with_action(struct sample *s)
{
	move_to(s, "a,actions=drop", FABRIC_CONTROL_IN);
}

static void move_unterminated(struct sample *s)
{
	memset(s->ports[MOVED].to_trunk, 'x', FABRIC_PORT_LEN);
}

static void move_to_customer(struct sample *s)
{
	move_to(s, "cust2", FABRIC_AT_SOURCE);
}

static void move_to_core(struct sample *s)
{
	move_to(s, "core", FABRIC_DATA_MOVED);
}

static void move_onto_vlan(struct sample *s)
{
	move_to(s, "dest", FABRIC_AT_SOURCE);
	snprintf(s->ports[2].trunk, FABRIC_PORT_LEN, "dest");
	s->ports[2].core_vlan = CUST_VLAN;
}

static void move_onto_vlan_of_another_move(struct sample *s)
{
	move_to(s, "dest", FABRIC_AT_DESTINATION);
	snprintf(s->ports[2].trunk, FABRIC_PORT_LEN, "third");
	snprintf(s->ports[2].to_trunk, FABRIC_PORT_LEN, "dest");
	s->ports[2].cust_vlan = CORE_VLAN;
}

static void move_onto_vlan_of_cvm(struct sample *s)
{
	move_to(s, "dest", FABRIC_CONTROL_MOVED);
	snprintf(s->site.cvm.trunk, FABRIC_PORT_LEN, "dest");
	s->site.cvm.inside_vlan = CUST_VLAN;
}

/* Until it is over, the place that it comes from is taken, too. */
static void old_vlan_of_a_move(struct sample *s)
{
	move_to(s, "dest", FABRIC_AT_DESTINATION);
	s->ports[2].core_vlan = CUST_VLAN;
}

static void test_contradictory_moves(void **state)
{
	(void)state;
	refuse(move_to_itself, "from trunk trunk to itself");
	refuse(move_to_nowhere, "moved to no trunk");
	refuse(move_without_phase, "phase 5");
	refuse(move_with_action, "letters");
	refuse(move_unterminated, "1 to 15 characters");
	refuse(move_to_customer, "switch port cust2 can't be both");
	refuse(move_to_core, "switch port core can't be both");
	refuse(move_onto_vlan, "VLAN 202 on trunk dest is used twice");
	refuse(move_onto_vlan_of_another_move, "VLAN 203 on trunk dest is used twice");
	refuse(move_onto_vlan_of_cvm, "VLAN 202 on trunk dest is used twice");
	refuse(old_vlan_of_a_move, "VLAN 202 on trunk trunk is used twice");
}

static void test_contradictions(void **state)
{
	(void)state;
	refuse(same_label, "VPN label 1000 is used twice");
	refuse(reserved_label, "VPN label 15 is not in 16..1048575");
	refuse(big_label, "VPN label 1048576");
	refuse(same_vlan, "VLAN 204 on trunk trunk");
	refuse(vlan_of_cvm, "VLAN 101 on trunk trunk");
	refuse(vlan_zero, "VLAN of a PVM's cust NIC 0");
	refuse(same_customer_port, "customer VLAN 0 on switch port cust0");
	refuse(customer_on_trunk, "switch port trunk");
	refuse(customer_on_core, "switch port core");
	refuse(port_name_with_action, "letters");
	refuse(port_name_unterminated, "1 to 15 characters");
	refuse(port_without_name, "1 to 15 characters");
	refuse(multicast_mac, "not a unicast");
	refuse(zero_pe_mac, "PE MAC 00:00:00:00:00:00");
	refuse(same_mac, "MAC 02:ed:00:00:00:01 is used twice");
	refuse(multicast_ce, "CE MAC 33:33:00:00:00:01");
	refuse(ipv6_gateway, "core gateway is not an IPv4 address");
	refuse(same_inside, "inside address 100.64.1.1");
}

/* Two servers may use the same VLANs: the trunk tells them apart. */
static void test_vlans_are_per_trunk(void **state)
{
	struct fabric_rules *rules;
	struct sample s;

	(void)state;
	sample_init(&s);
	snprintf(s.ports[1].trunk, FABRIC_PORT_LEN, "other");
	s.ports[1].cust_vlan = s.ports[0].cust_vlan;
	s.ports[1].core_vlan = s.ports[0].core_vlan;
	assert_int_equal(fabric_rules_compute(&s.site, &rules, NULL), 0);
	fabric_rules_free(rules);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_rule_has_an_owner),
		cmocka_unit_test(test_matches_are_unique),
		cmocka_unit_test(test_a_port_more_leaves_the_others),
		cmocka_unit_test(test_every_table_ends_in_a_decision),
		cmocka_unit_test(test_labels_that_lead_back),
		cmocka_unit_test(test_empty_site),
		cmocka_unit_test(test_before_and_after_a_move),
		cmocka_unit_test(test_a_move_leaves_the_others),
		cmocka_unit_test(test_who_hears_what),
		cmocka_unit_test(test_who_says_what),
		cmocka_unit_test(test_control_apart),
		cmocka_unit_test(test_trunks_during_a_move),
		cmocka_unit_test(test_a_cvm_moves),
		cmocka_unit_test(test_a_moving_cvm_keeps_both_places),
		cmocka_unit_test(test_gateway_answers_during_a_move),
		cmocka_unit_test(test_matches_are_unique_during_a_move),
		cmocka_unit_test(test_difference_of_phases),
		cmocka_unit_test(test_difference_of_sites),
		cmocka_unit_test(test_owners),
		cmocka_unit_test(test_contradictions),
		cmocka_unit_test(test_contradictory_moves),
		cmocka_unit_test(test_vlans_are_per_trunk),
	};

	return cmocka_run_group_tests_name("fabric_rules", tests, NULL, NULL);
}
