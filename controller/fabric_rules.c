/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/fabric_rules.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/*
 * Frames of VMs and of the core are decided in the first table, since their rules name one source
 * each. Those of customers pass a second one that all customer ports share: it holds the MAC
 * addresses that are ours, which would otherwise be repeated for every customer port. MPLS between
 * two ports of one customer is looked up by (customer, label), so its rules grow with the ports and
 * not with their pairs.
 */
enum table {
	TABLE_INGRESS = 0,
	TABLE_CUSTOMER_SOURCE = 1,
	TABLE_CUSTOMER_FRAME = 2,
	TABLE_LABEL = 3,
	N_TABLES,
};

enum priority {
	PRIORITY_MISS = 0,
	PRIORITY_DENY_REST = 50, /* of what no rule allows */
	PRIORITY_ALLOW = 100,
	PRIORITY_ALLOW_MORE_EXACT = 150,
	PRIORITY_DENY = 200,
};

#define MIN_LABEL 16u /* RFC 3032 2.1: 0..15 are reserved */
#define MAX_LABEL 0xfffffu
#define MAX_VLAN 4094
#define MATCH_VLAN_LEN 24

#define UNICAST_SOURCE "dl_src=00:00:00:00:00:00/01:00:00:00:00:00"
#define TO_BROADCAST "dl_dst=ff:ff:ff:ff:ff:ff"
#define TO_IPV6_MULTICAST "dl_dst=33:33:00:00:00:00/ff:ff:00:00:00:00" /* RFC 2464 7 */

/* ---- making rules ------------------------------------------------------------------------- */

struct builder {
	struct fabric_rules *rules;
	int error; /* the first one; what follows is skipped */
};

/* A rule without its match; members as in struct fabric_rule. */
struct head {
	uint64_t cookie;
	enum table table;
	enum priority priority;
	const char *in_port;
	bool untag;
	const char *edit;
	enum table goto_table;
	const struct fabric_output *outputs;
	size_t n_outputs;
};

static bool rules_reserve(struct fabric_rules *rules)
{
	size_t size = rules->size ? rules->size * 2 : 64;
	struct fabric_rule *more;

	if (rules->n < rules->size)
		return true;
	more = reallocarray(rules->rules, size, sizeof(*more));
	if (!more)
		return false;
	rules->rules = more;
	rules->size = size;
	return true;
}

__attribute__((format(printf, 3, 4))) static void add(
	struct builder *b, struct head head, const char *match, ...)
{
	struct fabric_output *outputs = NULL;
	struct fabric_rule *rule;
	va_list args;
	int n;

	if (b->error)
		return;
	if (head.n_outputs) {
		outputs = calloc(head.n_outputs, sizeof(*outputs));
		if (!outputs) {
			b->error = ENOMEM;
			return;
		}
		memcpy(outputs, head.outputs, head.n_outputs * sizeof(*outputs));
	}
	if (!rules_reserve(b->rules)) {
		free(outputs);
		b->error = ENOMEM;
		return;
	}

	rule = &b->rules->rules[b->rules->n++];
	*rule = (struct fabric_rule){
		.cookie = head.cookie,
		.table = head.table,
		.priority = head.priority,
		.untag = head.untag,
		.goto_table = head.goto_table,
		.outputs = outputs,
		.n_outputs = head.n_outputs,
	};
	if (head.in_port)
		snprintf(rule->in_port, sizeof(rule->in_port), "%s", head.in_port);
	if (head.edit)
		snprintf(rule->edit, sizeof(rule->edit), "%s", head.edit);
	va_start(args, match);
	n = vsnprintf(rule->match, sizeof(rule->match), match, args);
	va_end(args);
	if (n < 0 || (size_t)n >= sizeof(rule->match))
		b->error = EOVERFLOW;
}

static struct fabric_output output_to(const char *port, uint16_t vlan)
{
	struct fabric_output output = {.vlan = vlan};

	snprintf(output.port, sizeof(output.port), "%s", port);
	return output;
}

/* A customer's frames are untagged (vlan 0) or carry just this tag. */
static const char *match_customer_vlan(const struct fabric_port *port, char buf[MATCH_VLAN_LEN])
{
	if (port->vlan == 0)
		snprintf(buf, MATCH_VLAN_LEN, "vlan_tci=0");
	else
		snprintf(buf, MATCH_VLAN_LEN, "dl_vlan=%u", port->vlan);
	return buf;
}

struct texts {
	char pe_mac[EP_MAC_STRLEN];
	char inside_mac[EP_MAC_STRLEN];
	char pe_address[EP_PREFIX_STRLEN];
	char core_address[EP_PREFIX_STRLEN];
	char gateway[EP_PREFIX_STRLEN];
	char cvm_inside[EP_PREFIX_STRLEN];
};

/* ---- a PVM that is being moved ------------------------------------------------------------- */

/* Trunks of the copies that hear and say what. */
struct copies {
	const char *control_in, *control_out, *data_in;
	const char *data_out[2];
	size_t n_data_out;
	const char *alive[2]; /* those that may run */
	size_t n_alive;
};

static struct copies copies_of(const struct fabric_port *port)
{
	const char *const s = port->trunk, *const d = port->to_trunk;

	switch (port->phase) {
	case FABRIC_CONTROL_IN:
		return (struct copies){d, s, s, {s}, 1, {s, d}, 2};
	case FABRIC_CONTROL_MOVED:
		return (struct copies){d, d, s, {s}, 1, {s, d}, 2};
	case FABRIC_DATA_MOVED:
		return (struct copies){d, d, d, {s, d}, 2, {s, d}, 2};
	case FABRIC_AT_DESTINATION:
		return (struct copies){d, d, d, {d}, 1, {d}, 1};
	case FABRIC_AT_SOURCE:
		break;
	}
	return (struct copies){s, s, s, {s}, 1, {s}, 1};
}

/*
 * The PVM's control plane on the customer link, without ARP: one rule for each kind of frame, in
 * the direction in which its address is the `end` ("src" or "dst"). `ip` and `ipv6` lead the
 * matches of the two.
 */
static void add_control(struct builder *b, const struct fabric_port *port, struct head head,
	const char *end, const char *ip, const char *ipv6)
{
	/* BGP, whoever opened the session; BFD, its echo (RFC 5881), BFD over hops (RFC 5883). */
	static const struct {
		const char *protocol, *port;
	} kinds[] = {
		{"tcp", "tp_src=179"},
		{"tcp", "tp_dst=179"},
		{"udp", "tp_dst=3784"},
		{"udp", "tp_dst=3785"},
		{"udp", "tp_dst=4784"},
	};
	char address[EP_PREFIX_STRLEN];

	for (size_t i = 0; i < port->n_addresses; i++) {
		const bool v4 = port->addresses[i].family == AF_INET;

		ep_addr_format(&port->addresses[i], address);
		for (size_t k = 0; k < sizeof(kinds) / sizeof(kinds[0]); k++)
			add(b, head, "%s,%s%s,%s,%s_%s=%s", v4 ? ip : ipv6, kinds[k].protocol,
				v4 ? "" : "6", kinds[k].port, v4 ? "nw" : "ipv6", end, address);
	}
	for (int type = 133; type <= 137; type++) /* neighbour discovery: RFC 4861 4 */
		add(b, head, "%s,icmp6,icmp_type=%d", ipv6, type);
}

/* ---- a customer port ---------------------------------------------------------------------- */

/* What a customer must not say about the addresses of its own PVM. */
static void deny_impersonation(
	struct builder *b, const struct fabric_port *port, struct head deny, const char *vlan)
{
	char address[EP_PREFIX_STRLEN];

	for (size_t i = 0; i < port->n_addresses; i++) {
		ep_addr_format(&port->addresses[i], address);
		if (port->addresses[i].family == AF_INET)
			add(b, deny, "%s,arp,arp_spa=%s", vlan, address);
		else
			add(b, deny, "%s,icmp6,icmp_type=136,icmp_code=0,nd_target=%s", vlan,
				address);
	}
	/* Router advertisements and redirects: the PVM is the router of this link. */
	add(b, deny, "%s,icmp6,icmp_type=134", vlan);
	add(b, deny, "%s,icmp6,icmp_type=137", vlan);
}

static void allow_customer_arp(struct builder *b, const struct fabric_port *port, struct head allow,
	const char *vlan, const char *mac)
{
	char subnet_text[EP_PREFIX_STRLEN], ce_mac[EP_MAC_STRLEN], sha[EP_MAC_STRLEN + 16] = "";

	if (port->has_ce_mac)
		snprintf(sha, sizeof(sha), ",arp_sha=%s", ep_mac_format(&port->ce_mac, ce_mac));
	for (size_t i = 0; i < port->n_addresses; i++) {
		struct ep_prefix subnet = port->addresses[i];

		if (subnet.family != AF_INET)
			continue;
		ep_prefix_mask(&subnet);
		ep_prefix_format(&subnet, subnet_text);
		add(b, allow, "%s,arp,dl_dst=%s,arp_spa=%s%s", vlan, mac, subnet_text, sha);
		add(b, allow, "%s,arp," TO_BROADCAST ",arp_spa=%s%s", vlan, subnet_text, sha);
	}
}

static void add_customer_to_pvm(struct builder *b, const struct fabric_port *port)
{
	const struct copies copies = copies_of(port);
	const struct fabric_output to_control = output_to(copies.control_in, port->cust_vlan);
	const struct fabric_output to_data = output_to(copies.data_in, port->cust_vlan);
	struct head head = {
		.cookie = fabric_cookie(FABRIC_OWNER_PORT, port->id),
		.in_port = port->switch_port,
		.priority = PRIORITY_ALLOW,
	};
	struct head ingress = head, deny = head, allow = head, control;
	char vlan[MATCH_VLAN_LEN], mac[EP_MAC_STRLEN], ce_mac[EP_MAC_STRLEN];

	match_customer_vlan(port, vlan);
	ep_mac_format(&port->mac, mac);

	ingress.table = TABLE_INGRESS;
	ingress.goto_table = TABLE_CUSTOMER_SOURCE;
	if (port->has_ce_mac)
		add(b, ingress, "%s,dl_src=%s", vlan, ep_mac_format(&port->ce_mac, ce_mac));
	else
		add(b, ingress, "%s," UNICAST_SOURCE, vlan);

	deny.table = TABLE_CUSTOMER_FRAME;
	deny.priority = PRIORITY_DENY;
	deny_impersonation(b, port, deny, vlan);

	allow.table = TABLE_CUSTOMER_FRAME;
	allow.untag = port->vlan != 0;
	allow.outputs = &to_data;
	allow.n_outputs = 1;
	control = allow;
	control.outputs = &to_control;
	allow_customer_arp(b, port, control, vlan, mac);
	add(b, allow, "%s,ip,dl_dst=%s", vlan, mac);
	add(b, allow, "%s,ip," TO_BROADCAST, vlan);
	add(b, allow, "%s,ipv6,dl_dst=%s", vlan, mac);
	add(b, allow, "%s,ipv6," TO_IPV6_MULTICAST, vlan);

	if (copies.control_in != copies.data_in) {
		char ip[128], ipv6[128];

		control.priority = PRIORITY_ALLOW_MORE_EXACT;
		snprintf(ip, sizeof(ip), "%s,dl_dst=%s", vlan, mac);
		add_control(b, port, control, "dst", ip, ip);
		snprintf(ip, sizeof(ip), "%s," TO_BROADCAST, vlan);
		snprintf(ipv6, sizeof(ipv6), "%s," TO_IPV6_MULTICAST, vlan);
		add_control(b, port, control, "dst", ip, ipv6);
	}
}

static void add_pvm_to_customer(struct builder *b, const struct fabric_port *port)
{
	const struct copies copies = copies_of(port);
	const struct fabric_output to_customer = output_to(port->switch_port, port->vlan);
	char mac[EP_MAC_STRLEN], from[64];
	struct head allow = {
		.cookie = fabric_cookie(FABRIC_OWNER_PORT, port->id),
		.table = TABLE_INGRESS,
		.priority = PRIORITY_ALLOW,
		.in_port = copies.control_out,
		.untag = true,
		.outputs = &to_customer,
		.n_outputs = 1,
	};
	bool says_data = false; /* the copy that says control */

	snprintf(from, sizeof(from), "dl_vlan=%u,dl_src=%s", port->cust_vlan,
		ep_mac_format(&port->mac, mac));
	add(b, allow, "%s,arp", from);
	for (size_t i = 0; i < copies.n_data_out; i++) {
		allow.in_port = copies.data_out[i];
		add(b, allow, "%s,ip", from);
		add(b, allow, "%s,ipv6", from);
		if (copies.data_out[i] == copies.control_out) {
			says_data = true;
		} else {
			const struct head deny = {
				.cookie = allow.cookie,
				.table = TABLE_INGRESS,
				.priority = PRIORITY_DENY,
				.in_port = copies.data_out[i],
			};

			add_control(b, port, deny, "src", from, from);
		}
	}
	if (!says_data) {
		allow.in_port = copies.control_out;
		add_control(b, port, allow, "src", from, from);
	}
}

/* ---- the core side of a PVM --------------------------------------------------------------- */

static void add_pvm_labels(struct builder *b, const struct fabric_site *site,
	const struct texts *texts, const struct fabric_port *port)
{
	const struct copies copies = copies_of(port);
	const struct fabric_output to_pvm = output_to(copies.data_in, port->core_vlan);
	const uint64_t cookie = fabric_cookie(FABRIC_OWNER_PORT, port->id);
	char customer[FABRIC_EDIT_LEN], turn_round[FABRIC_EDIT_LEN];

	snprintf(customer, sizeof(customer), "set_field:%u->metadata", port->customer);
	for (size_t i = 0; i < copies.n_data_out; i++) {
		add(b,
			(struct head){.cookie = cookie,
				.table = TABLE_INGRESS,
				.priority = PRIORITY_ALLOW,
				.in_port = copies.data_out[i],
				.untag = true,
				.edit = customer,
				.goto_table = TABLE_LABEL},
			"dl_vlan=%u,dl_src=%s,mpls", port->core_vlan, texts->pe_mac);
		/* Its own label would come back to it. */
		add(b,
			(struct head){.cookie = cookie,
				.table = TABLE_INGRESS,
				.priority = PRIORITY_DENY,
				.in_port = copies.data_out[i]},
			"dl_vlan=%u,mpls,mpls_label=%u,mpls_bos=1", port->core_vlan, port->label);
	}

	/*
	 * From another port of this customer: it arrives as if the gateway had sent it. With its
	 * own source, the PE's MAC, the bridge of its server would learn that MAC on the trunk.
	 * Without an ingress port it may leave by the trunk that it came in on.
	 */
	snprintf(turn_round, sizeof(turn_round),
		"move:NXM_OF_ETH_DST[]->NXM_OF_ETH_SRC[],set_field:%s->eth_dst,load:0xffff->NXM_OF_"
		"IN_PORT[]",
		texts->pe_mac);
	add(b,
		(struct head){.cookie = cookie,
			.table = TABLE_LABEL,
			.priority = PRIORITY_ALLOW,
			.edit = turn_round,
			.outputs = &to_pvm,
			.n_outputs = 1},
		"metadata=%u,mpls,mpls_label=%u,mpls_bos=1", port->customer, port->label);

	add(b,
		(struct head){.cookie = cookie,
			.table = TABLE_INGRESS,
			.priority = PRIORITY_ALLOW,
			.in_port = site->core_port,
			.outputs = &to_pvm,
			.n_outputs = 1},
		"vlan_tci=0,dl_dst=%s,mpls,mpls_label=%u,mpls_bos=1", texts->pe_mac, port->label);
}

static const char *cvm_speaks_from(const struct fabric_site *site)
{
	return site->cvm.out_trunk[0] ? site->cvm.out_trunk : site->cvm.trunk;
}

/* The PVM's iBGP session with the CVM, and what it takes to find and to ping each other. */
static void add_pvm_inside(struct builder *b, const struct fabric_site *site,
	const struct texts *texts, const struct fabric_port *port)
{
	const struct fabric_output to_cvm = output_to(site->cvm.trunk, site->cvm.inside_vlan);
	const struct copies copies = copies_of(port);
	const struct fabric_output to_pvm = output_to(copies.control_in, port->core_vlan);
	char own[EP_PREFIX_STRLEN];
	struct head out = {
		.cookie = fabric_cookie(FABRIC_OWNER_PORT, port->id),
		.table = TABLE_INGRESS,
		.priority = PRIORITY_ALLOW,
		.in_port = copies.control_out,
		.untag = true,
		.outputs = &to_cvm,
		.n_outputs = 1,
	};
	struct head back = out;
	struct {
		struct head head;
		uint16_t vlan;
		const char *mac, *source, *destination;
	} ways[2];

	ep_addr_format(&port->inside_address, own);
	back.in_port = cvm_speaks_from(site);
	back.outputs = &to_pvm;
	ways[0] = (typeof(ways[0])){out, port->core_vlan, texts->pe_mac, own, texts->cvm_inside};
	ways[1] = (typeof(ways[0])){
		back, site->cvm.inside_vlan, texts->inside_mac, texts->cvm_inside, own};

	for (int i = 0; i < 2; i++) {
		char from[64];

		snprintf(from, sizeof(from), "dl_vlan=%u,dl_src=%s", ways[i].vlan, ways[i].mac);
		add(b, ways[i].head, "%s,arp,arp_sha=%s,arp_spa=%s,arp_tpa=%s", from, ways[i].mac,
			ways[i].source, ways[i].destination);
		add(b, ways[i].head, "%s,tcp,nw_src=%s,nw_dst=%s,tp_dst=179", from, ways[i].source,
			ways[i].destination);
		add(b, ways[i].head, "%s,tcp,nw_src=%s,nw_dst=%s,tp_src=179", from, ways[i].source,
			ways[i].destination);
		add(b, ways[i].head, "%s,icmp,nw_src=%s,nw_dst=%s", from, ways[i].source,
			ways[i].destination);
	}
}

static void add_pvm_gateway_arp(struct builder *b, const struct fabric_site *site,
	const struct texts *texts, const struct fabric_port *port)
{
	const struct fabric_output to_core = output_to(site->core_port, 0);

	add(b,
		(struct head){.cookie = fabric_cookie(FABRIC_OWNER_PORT, port->id),
			.table = TABLE_INGRESS,
			.priority = PRIORITY_ALLOW,
			.in_port = copies_of(port).control_out,
			.untag = true,
			.outputs = &to_core,
			.n_outputs = 1},
		"dl_vlan=%u,dl_src=%s,arp,arp_op=1,arp_sha=%s,arp_spa=%s,arp_tpa=%s",
		port->core_vlan, texts->pe_mac, texts->pe_mac, texts->core_address, texts->gateway);
}

/* ---- the site ----------------------------------------------------------------------------- */

/*
 * Below the label that leads to this very site, a PVM could give another customer's: the core would
 * take off the first and bring the frame back as if that customer's other sites had sent it. The
 * reserved labels go as well: the core may take off an explicit null (RFC 4182) and find that same
 * label below.
 */
static void add_label_denials(struct builder *b, const struct fabric_site *site)
{
	const struct head deny = {
		.cookie = fabric_cookie(FABRIC_OWNER_SITE, site->id),
		.table = TABLE_LABEL,
		.priority = PRIORITY_DENY_REST,
	};

	for (uint32_t label = 0; label < MIN_LABEL; label++)
		add(b, deny, "mpls,mpls_label=%u", label);
	if (site->transport_label >= MIN_LABEL)
		add(b, deny, "mpls,mpls_label=%u", site->transport_label);
}

static void add_cvm_core(
	struct builder *b, const struct fabric_site *site, const struct texts *texts)
{
	const struct fabric_output to_core = output_to(site->core_port, 0);
	const struct fabric_output to_cvm = output_to(site->cvm.trunk, site->cvm.core_vlan);
	const uint16_t vlan = site->cvm.core_vlan;
	struct head out = {
		.cookie = fabric_cookie(FABRIC_OWNER_SITE, site->id),
		.table = TABLE_INGRESS,
		.priority = PRIORITY_ALLOW,
		.in_port = cvm_speaks_from(site),
		.untag = true,
		.outputs = &to_core,
		.n_outputs = 1,
	};
	struct head in = out;

	add(b, out, "dl_vlan=%u,dl_src=%s,arp,arp_sha=%s,arp_spa=%s", vlan, texts->pe_mac,
		texts->pe_mac, texts->core_address);
	add(b, out, "dl_vlan=%u,dl_src=%s,ip,nw_src=%s", vlan, texts->pe_mac, texts->core_address);
	add(b, out, "dl_vlan=%u,dl_src=%s,ip,nw_src=%s", vlan, texts->pe_mac, texts->pe_address);

	in.in_port = site->core_port;
	in.untag = false;
	in.outputs = &to_cvm;
	add(b, in, "vlan_tci=0,arp,arp_tpa=%s", texts->core_address);
	add(b, in, "vlan_tci=0,dl_dst=%s,ip,nw_dst=%s", texts->pe_mac, texts->core_address);
	add(b, in, "vlan_tci=0,dl_dst=%s,ip,nw_dst=%s", texts->pe_mac, texts->pe_address);
}

/* Whoever asked for the gateway, all have the same addresses: all get the answer. */
static void add_gateway_answer(
	struct builder *b, const struct fabric_site *site, const struct texts *texts)
{
	struct fabric_output *outputs = calloc(2 * site->n_ports + 1, sizeof(*outputs));
	size_t n = 0;

	if (!outputs) {
		b->error = ENOMEM;
		return;
	}
	if (site->cvm.present)
		outputs[n++] = output_to(site->cvm.trunk, site->cvm.core_vlan);
	for (size_t i = 0; i < site->n_ports; i++) {
		const struct copies copies = copies_of(&site->ports[i]);

		for (size_t c = 0; c < copies.n_alive; c++)
			outputs[n++] = output_to(copies.alive[c], site->ports[i].core_vlan);
	}
	if (n)
		add(b,
			(struct head){.cookie = fabric_cookie(FABRIC_OWNER_SITE, site->id),
				.table = TABLE_INGRESS,
				.priority = PRIORITY_ALLOW_MORE_EXACT,
				.in_port = site->core_port,
				.outputs = outputs,
				.n_outputs = n},
			"vlan_tci=0,dl_dst=%s,arp,arp_op=2,arp_spa=%s,arp_tpa=%s", texts->pe_mac,
			texts->gateway, texts->core_address);
	free(outputs);
}

static void add_site(struct builder *b, const struct fabric_site *site, const struct texts *texts)
{
	const uint64_t cookie = fabric_cookie(FABRIC_OWNER_SITE, site->id);
	const struct fabric_output to_core = output_to(site->core_port, 0);

	for (int table = 0; table < N_TABLES; table++) {
		struct head miss = {.cookie = cookie, .table = table, .priority = PRIORITY_MISS};

		if (table == TABLE_CUSTOMER_SOURCE)
			miss.goto_table = TABLE_CUSTOMER_FRAME;
		if (table == TABLE_LABEL) { /* no port of this customer here has this label */
			miss.outputs = &to_core;
			miss.n_outputs = 1;
		}
		add(b, miss, "%s", "");
	}

	/* A frame of ours that comes back from the core: a loop. */
	add(b,
		(struct head){.cookie = cookie,
			.table = TABLE_INGRESS,
			.priority = PRIORITY_DENY,
			.in_port = site->core_port},
		"dl_src=%s", texts->pe_mac);
	add_label_denials(b, site);
	add_gateway_answer(b, site, texts);
	if (site->cvm.present)
		add_cvm_core(b, site, texts);
}

static void add_own_mac(struct builder *b, uint64_t cookie, const struct ep_mac *mac)
{
	char text[EP_MAC_STRLEN];

	add(b,
		(struct head){.cookie = cookie,
			.table = TABLE_CUSTOMER_SOURCE,
			.priority = PRIORITY_DENY},
		"dl_src=%s", ep_mac_format(mac, text));
}

static void add_own_macs(struct builder *b, const struct fabric_site *site)
{
	const uint64_t cookie = fabric_cookie(FABRIC_OWNER_SITE, site->id);

	add_own_mac(b, cookie, &site->pe_mac);
	if (site->cvm.present)
		add_own_mac(b, cookie, &site->cvm.inside_mac);
	for (size_t i = 0; i < site->n_ports; i++)
		add_own_mac(b, fabric_cookie(FABRIC_OWNER_PORT, site->ports[i].id),
			&site->ports[i].mac);
}

/* ---- checks ------------------------------------------------------------------------------- */

static bool mac_is_unicast(const struct ep_mac *mac)
{
	static const struct ep_mac zero;

	return !(mac->bytes[0] & 1) && memcmp(mac, &zero, sizeof(zero)) != 0;
}

static int check_port_name(const char *name, const char *what, struct why *why)
{
	size_t len = strnlen(name, FABRIC_PORT_LEN);

	if (len == 0 || len == FABRIC_PORT_LEN)
		return why_set(why, EINVAL, "%s: a switch port's name has 1 to %d characters", what,
			FABRIC_PORT_LEN - 1);
	for (size_t i = 0; i < len; i++)
		if (!isalnum((unsigned char)name[i]) && !strchr("_-.:@+", name[i]))
			return why_set(why, EINVAL,
				"%s: a switch port's name consists of letters, digits and _-.:@+, "
				"not \"%s\"",
				what, name);
	return 0;
}

static int check_mac(const struct ep_mac *mac, const char *what, struct why *why)
{
	char text[EP_MAC_STRLEN];

	if (mac_is_unicast(mac))
		return 0;
	return why_set(
		why, EINVAL, "%s %s is not a unicast MAC address", what, ep_mac_format(mac, text));
}

static int check_vlan(uint16_t vlan, const char *what, struct why *why)
{
	if (vlan >= 1 && vlan <= MAX_VLAN)
		return 0;
	return why_set(why, EINVAL, "%s %u is not in 1..%d", what, vlan, MAX_VLAN);
}

static int check_ipv4(const struct ep_prefix *address, const char *what, struct why *why)
{
	if (address->family == AF_INET)
		return 0;
	return why_set(why, EINVAL, "%s is not an IPv4 address", what);
}

static int check_site_alone(const struct fabric_site *site, struct why *why)
{
	int error;

	if ((error = check_port_name(site->core_port, "core port", why)) ||
		(error = check_mac(&site->pe_mac, "PE MAC", why)) ||
		(error = check_ipv4(&site->pe_address, "PE address", why)) ||
		(error = check_ipv4(&site->core_address, "core link address", why)) ||
		(error = check_ipv4(&site->gateway, "core gateway", why)))
		return error;
	if (site->transport_label > MAX_LABEL)
		return why_set(why, EINVAL, "transport label %u is not in 0..%u",
			site->transport_label, MAX_LABEL);
	if (!site->cvm.present)
		return 0;
	if ((error = check_port_name(site->cvm.trunk, "trunk of the CVM", why)) ||
		(error = check_port_name(cvm_speaks_from(site), "second trunk of the CVM", why)) ||
		(error = check_vlan(site->cvm.core_vlan, "VLAN of the CVM's core NIC", why)) ||
		(error = check_vlan(site->cvm.inside_vlan, "VLAN of the CVM's inside NIC", why)) ||
		(error = check_mac(&site->cvm.inside_mac, "inside MAC of the CVM", why)))
		return error;
	return check_ipv4(&site->cvm.inside_address, "inside address of the CVM", why);
}

static int check_move(const struct fabric_port *port, struct why *why)
{
	if ((unsigned int)port->phase > FABRIC_AT_DESTINATION)
		return why_set(why, EINVAL, "phase %d of a move is not in 0..%d", port->phase,
			FABRIC_AT_DESTINATION);
	if (!port->to_trunk[0])
		return port->phase == FABRIC_AT_SOURCE
			       ? 0
			       : why_set(why, EINVAL,
					 "the PVM at customer port %s is being moved to no trunk",
					 port->switch_port);
	if (strncmp(port->to_trunk, port->trunk, FABRIC_PORT_LEN) == 0)
		return why_set(why, EINVAL,
			"the PVM at customer port %s is being moved from trunk %s to itself",
			port->switch_port, port->trunk);
	return check_port_name(port->to_trunk, "trunk that a PVM is moved to", why);
}

static int check_port_alone(const struct fabric_port *port, struct why *why)
{
	int error;

	if ((error = check_port_name(port->switch_port, "customer port", why)) ||
		(error = check_port_name(port->trunk, "trunk", why)) ||
		(error = check_vlan(port->cust_vlan, "VLAN of a PVM's cust NIC", why)) ||
		(error = check_vlan(port->core_vlan, "VLAN of a PVM's core NIC", why)) ||
		(error = check_mac(&port->mac, "MAC of a PVM", why)) ||
		(error = check_move(port, why)) ||
		(error = check_ipv4(&port->inside_address, "inside address of a PVM", why)))
		return error;
	if (port->has_ce_mac && (error = check_mac(&port->ce_mac, "CE MAC", why)))
		return error;
	if (port->vlan > MAX_VLAN)
		return why_set(why, EINVAL,
			"customer VLAN %u on port %s is not in 1..%d (0: untagged)", port->vlan,
			port->switch_port, MAX_VLAN);
	if (port->label < MIN_LABEL || port->label > MAX_LABEL)
		return why_set(why, EINVAL, "VPN label %u is not in %u..%u", port->label, MIN_LABEL,
			MAX_LABEL);
	for (size_t i = 0; i < port->n_addresses; i++)
		if (port->addresses[i].family != AF_INET && port->addresses[i].family != AF_INET6)
			return why_set(why, EINVAL, "an address of customer port %s is none",
				port->switch_port);
	return 0;
}

/* What may be there once only: a text that names it; and what a switch port is used for. */
struct claim {
	char text[96];
	const char *role; /* NULL: may not be claimed again; else: not for another role */
};

struct claims {
	struct claim *claims;
	size_t n;
};

__attribute__((format(printf, 3, 4))) static void claim(
	struct claims *claims, const char *role, const char *fmt, ...)
{
	struct claim *c = &claims->claims[claims->n++];
	va_list args;

	c->role = role;
	va_start(args, fmt);
	vsnprintf(c->text, sizeof(c->text), fmt, args);
	va_end(args);
}

static int claim_compare(const void *a, const void *b)
{
	return strcmp(((const struct claim *)a)->text, ((const struct claim *)b)->text);
}

static int check_claims(struct claims *claims, struct why *why)
{
	qsort(claims->claims, claims->n, sizeof(claims->claims[0]), claim_compare);
	for (size_t i = 1; i < claims->n; i++) {
		const struct claim *a = &claims->claims[i - 1], *b = &claims->claims[i];

		if (strcmp(a->text, b->text) != 0)
			continue;
		if (!b->role)
			return why_set(why, EINVAL, "%s is used twice at this site", b->text);
		if (strcmp(a->role, b->role) != 0)
			return why_set(why, EINVAL, "%s can't be both %s and %s", b->text, a->role,
				b->role);
	}
	return 0;
}

#define CLAIMS_OF_SITE 11
#define CLAIMS_OF_PORT 11

static int check_together(const struct fabric_site *site, struct why *why)
{
	static const char trunk[] = "a trunk", customer[] = "a customer port", core[] = "the core";
	struct claims claims = {0};
	char text[EP_PREFIX_STRLEN];
	int error;

	claims.claims =
		calloc(CLAIMS_OF_SITE + CLAIMS_OF_PORT * site->n_ports, sizeof(struct claim));
	if (!claims.claims)
		return why_set(why, ENOMEM, "out of memory");
	claim(&claims, core, "switch port %s", site->core_port);
	claim(&claims, NULL, "MAC %s", ep_mac_format(&site->pe_mac, text));
	if (site->cvm.present) {
		const struct fabric_cvm *cvm = &site->cvm;

		claim(&claims, trunk, "switch port %s", cvm->trunk);
		claim(&claims, NULL, "VLAN %u on trunk %s", cvm->core_vlan, cvm->trunk);
		claim(&claims, NULL, "VLAN %u on trunk %s", cvm->inside_vlan, cvm->trunk);
		if (strcmp(cvm_speaks_from(site), cvm->trunk) != 0) {
			claim(&claims, trunk, "switch port %s", cvm->out_trunk);
			claim(&claims, NULL, "VLAN %u on trunk %s", cvm->core_vlan, cvm->out_trunk);
			claim(&claims, NULL, "VLAN %u on trunk %s", cvm->inside_vlan,
				cvm->out_trunk);
		}
		claim(&claims, NULL, "MAC %s", ep_mac_format(&cvm->inside_mac, text));
		claim(&claims, NULL, "inside address %s",
			ep_addr_format(&cvm->inside_address, text));
	}
	for (size_t i = 0; i < site->n_ports; i++) {
		const struct fabric_port *p = &site->ports[i];

		claim(&claims, trunk, "switch port %s", p->trunk);
		claim(&claims, customer, "switch port %s", p->switch_port);
		claim(&claims, NULL, "customer VLAN %u on switch port %s", p->vlan, p->switch_port);
		claim(&claims, NULL, "VLAN %u on trunk %s", p->cust_vlan, p->trunk);
		claim(&claims, NULL, "VLAN %u on trunk %s", p->core_vlan, p->trunk);
		claim(&claims, NULL, "MAC %s", ep_mac_format(&p->mac, text));
		claim(&claims, NULL, "inside address %s", ep_addr_format(&p->inside_address, text));
		claim(&claims, NULL, "VPN label %u", p->label);
		if (p->to_trunk[0]) {
			claim(&claims, trunk, "switch port %s", p->to_trunk);
			claim(&claims, NULL, "VLAN %u on trunk %s", p->cust_vlan, p->to_trunk);
			claim(&claims, NULL, "VLAN %u on trunk %s", p->core_vlan, p->to_trunk);
		}
	}
	error = check_claims(&claims, why);
	free(claims.claims);
	return error;
}

static int check(const struct fabric_site *site, struct why *why)
{
	int error = check_site_alone(site, why);

	for (size_t i = 0; !error && i < site->n_ports; i++)
		error = check_port_alone(&site->ports[i], why);
	return error ? error : check_together(site, why);
}

/* ---- interface ---------------------------------------------------------------------------- */

int fabric_rules_compute(
	const struct fabric_site *site, struct fabric_rules **rules, struct why *why)
{
	struct builder b = {0};
	struct texts texts = {0};
	int error = check(site, why);

	*rules = NULL;
	if (error)
		return error;
	ep_mac_format(&site->pe_mac, texts.pe_mac);
	ep_addr_format(&site->pe_address, texts.pe_address);
	ep_addr_format(&site->core_address, texts.core_address);
	ep_addr_format(&site->gateway, texts.gateway);
	if (site->cvm.present) {
		ep_mac_format(&site->cvm.inside_mac, texts.inside_mac);
		ep_addr_format(&site->cvm.inside_address, texts.cvm_inside);
	}

	b.rules = calloc(1, sizeof(*b.rules));
	if (!b.rules)
		return why_set(why, ENOMEM, "out of memory");
	add_site(&b, site, &texts);
	add_own_macs(&b, site);
	for (size_t i = 0; i < site->n_ports; i++) {
		const struct fabric_port *port = &site->ports[i];

		add_customer_to_pvm(&b, port);
		add_pvm_to_customer(&b, port);
		add_pvm_labels(&b, site, &texts, port);
		add_pvm_gateway_arp(&b, site, &texts, port);
		if (site->cvm.present)
			add_pvm_inside(&b, site, &texts, port);
	}
	if (b.error) {
		fabric_rules_free(b.rules);
		return why_set(why, b.error, "can't write the switch rules of this site: %s",
			strerror(b.error));
	}
	*rules = b.rules;
	return 0;
}

struct fabric_rules *fabric_rules_ref(const struct fabric_rules *rules)
{
	struct fabric_rules *shared = (struct fabric_rules *)rules;

	atomic_fetch_add(&shared->more_owners, 1);
	return shared;
}

void fabric_rules_free(struct fabric_rules *rules)
{
	if (!rules || atomic_fetch_sub(&rules->more_owners, 1) != 0)
		return;
	for (size_t i = 0; i < rules->n; i++)
		free(rules->rules[i].outputs);
	free(rules->rules);
	free(rules);
}

/* ---- difference ---------------------------------------------------------------------------- */

static bool same_match(const struct fabric_rule *a, const struct fabric_rule *b)
{
	return a->priority == b->priority && a->table == b->table &&
	       strcmp(a->match, b->match) == 0 && strcmp(a->in_port, b->in_port) == 0;
}

static bool same_rule(const struct fabric_rule *a, const struct fabric_rule *b)
{
	if (a->cookie != b->cookie || a->n_outputs != b->n_outputs || !same_match(a, b) ||
		a->untag != b->untag || a->goto_table != b->goto_table ||
		strcmp(a->edit, b->edit) != 0)
		return false;
	for (size_t i = 0; i < a->n_outputs; i++)
		if (a->outputs[i].vlan != b->outputs[i].vlan ||
			strcmp(a->outputs[i].port, b->outputs[i].port) != 0)
			return false;
	return true;
}

/* Where in `rules`, from `i` on and as long as they have this owner, is one with this match? */
static bool find_of_owner(const struct fabric_rule *rules, size_t i, size_t end,
	const struct fabric_rule *like, size_t *found)
{
	for (; i < end && rules[i].cookie == like->cookie; i++)
		if (same_match(&rules[i], like)) {
			*found = i;
			return true;
		}
	return false;
}

void fabric_rules_diff(const struct fabric_rules *before, const struct fabric_rules *after,
	fabric_rules_diff_fn differs, void *ctx)
{
	const struct fabric_rule *a = before->rules, *b = after->rules;
	size_t i = 0, j = 0, a_end = before->n, b_end = after->n, found;

	while (a_end && b_end && same_rule(&a[a_end - 1], &b[b_end - 1])) {
		a_end--;
		b_end--;
	}
	while (i < a_end && j < b_end) {
		if (same_match(&a[i], &b[j])) {
			if (!same_rule(&a[i], &b[j])) {
				differs(ctx, &a[i], false);
				differs(ctx, &b[j], true);
			}
			i++;
			j++;
		} else if (find_of_owner(b, j, b_end, &a[i], &found)) {
			while (j < found)
				differs(ctx, &b[j++], true);
		} else {
			differs(ctx, &a[i++], false);
		}
	}
	while (i < a_end)
		differs(ctx, &a[i++], false);
	while (j < b_end)
		differs(ctx, &b[j++], true);
}
