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

static void test_matches_are_unique(void **state)
{
	struct fabric_rules *rules;
	struct sample s;

	(void)state;
	sample_init(&s);
	assert_int_equal(fabric_rules_compute(&s.site, &rules, NULL), 0);
	for (size_t i = 0; i < rules->n; i++)
		for (size_t j = 0; j < i; j++)
			assert_false(
				rules->rules[i].table == rules->rules[j].table &&
				rules->rules[i].priority == rules->rules[j].priority &&
				strcmp(rules->rules[i].in_port, rules->rules[j].in_port) == 0 &&
				strcmp(rules->rules[i].match, rules->rules[j].match) == 0);
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
		cmocka_unit_test(test_contradictions),
		cmocka_unit_test(test_vlans_are_per_trunk),
	};

	return cmocka_run_group_tests_name("fabric_rules", tests, NULL, NULL);
}
