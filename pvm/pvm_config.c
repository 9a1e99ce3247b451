/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pvm/pvm_config.h"

#define LABEL_MIN 16
#define LABEL_MAX 1048575
#define DEFAULT_MAX_PREFIXES 100000
#define DEFAULT_RESTART_S 120
#define COALESCE_MS 10
#define MAX_RESTART_S 4095 /* RFC 4724 section 3: 12 bits */

static const char *const interface_names[] = {"cust", "core", "lo", NULL};

/* ---- reading --------------------------------------------------------------------------------- */

static void read_macs(struct conf_reader *r, const cJSON *json, struct pvm_config *config)
{
	const cJSON *interfaces = cJSON_GetObjectItemCaseSensitive(json, "interfaces");
	size_t mark = conf_enter(r, "interfaces");

	for (size_t i = 0; i < config->n_interfaces; i++) {
		struct kernel_wish *wish = &config->interfaces[i];
		const cJSON *item = cJSON_GetObjectItemCaseSensitive(interfaces, wish->name);
		size_t inner = conf_enter(r, wish->name);

		wish->has_mac = conf_mac(r, item, "mac", &wish->mac);
		if (wish->has_mac && !strcmp(wish->name, "lo"))
			conf_mistake(r, "mac", "is not for a loopback: leave it out");
		conf_leave(r, inner);
	}
	conf_leave(r, mark);
}

static void read_families(struct conf_reader *r, const cJSON *json, struct pvm_ce *ce)
{
	const cJSON *given = cJSON_GetObjectItemCaseSensitive(json, "families");
	const cJSON *array = conf_array(r, json, "families", false, 2), *item;
	size_t mark = conf_enter(r, "families"), i = 0;

	if (!given || cJSON_IsNull(given)) {
		ce->ipv4 = ce->address.family == AF_INET;
		ce->ipv6 = !ce->ipv4;
	}
	cJSON_ArrayForEach (item, array) {
		size_t inner = conf_enter_index(r, i++);

		if (cJSON_IsString(item) && !strcmp(item->valuestring, "ipv4"))
			ce->ipv4 = true;
		else if (cJSON_IsString(item) && !strcmp(item->valuestring, "ipv6"))
			ce->ipv6 = true;
		else
			conf_mistake(r, "", "must be \"ipv4\" or \"ipv6\"");
		conf_leave(r, inner);
	}
	if (!ce->ipv4 && !ce->ipv6)
		conf_mistake(r, "", "is empty: name at least one of \"ipv4\" and \"ipv6\"");
	conf_leave(r, mark);
}

static bool in_subnet_of(const struct kernel_wish *wish, const struct ep_prefix *address)
{
	for (size_t i = 0; wish && i < wish->n_addresses; i++) {
		struct ep_prefix subnet = wish->addresses[i];

		ep_prefix_mask(&subnet);
		if (ep_prefix_contains(&subnet, address))
			return true;
	}
	return false;
}

static bool is_address_of(const struct kernel_wish *wish, const struct ep_prefix *address)
{
	for (size_t i = 0; wish && i < wish->n_addresses; i++)
		if (wish->addresses[i].family == address->family &&
			!memcmp(&wish->addresses[i].addr, &address->addr,
				address->family == AF_INET ? 4 : 16))
			return true;
	return false;
}

static void read_ce(struct conf_reader *r, const cJSON *json, const struct pvm_config *config,
	struct pvm_ce *ce)
{
	const struct kernel_wish *cust = pvm_config_interface(config, "cust");

	ce->max_prefixes = DEFAULT_MAX_PREFIXES;
	ce->keepalive_s = 10;
	ce->hold_s = 30;
	conf_address(r, json, "address", true, 0, &ce->address);
	conf_number(r, json, "remote_asn", true, 1, UINT32_MAX, &ce->remote_asn);
	read_families(r, json, ce);
	conf_number(r, json, "max_prefixes", false, 1, UINT32_MAX, &ce->max_prefixes);
	conf_number(r, json, "keepalive_s", false, 1, 21845, &ce->keepalive_s);
	conf_number(r, json, "hold_s", false, 3, 65535, &ce->hold_s);
	conf_bool(r, json, "as_override", &ce->as_override);
	conf_number(r, json, "allowas_in", false, 0, 10, &ce->allowas_in);
	if (conf_failed(r))
		return;
	/* RFC 4271 section 4.4. */
	if (ce->keepalive_s * 3 > ce->hold_s)
		conf_mistake(
			r, "keepalive_s", "must be at most a third of hold_s (%u)", ce->hold_s);
	if (ce->remote_asn == config->asn)
		conf_mistake(r, "remote_asn",
			"must differ from our asn (%u): CEs speak external BGP", config->asn);
	if (!in_subnet_of(cust, &ce->address))
		conf_mistake(r, "address", "is in no subnet of interface cust: give one that is");
	if (is_address_of(cust, &ce->address))
		conf_mistake(r, "address", "is our own address on cust: give the CE's");
	for (size_t i = 0; i < config->n_ces; i++)
		if (ep_prefix_equal(&config->ces[i].address, &ce->address))
			conf_mistake(r, "address", "is there twice: remove one");
}

static void read_ces(struct conf_reader *r, const cJSON *json, struct pvm_config *config)
{
	const cJSON *array = conf_array(r, json, "ce", false, PVM_MAX_CES), *item;
	size_t mark = conf_enter(r, "ce");

	cJSON_ArrayForEach (item, array) {
		size_t inner = conf_enter_index(r, config->n_ces);

		if (!cJSON_IsObject(item))
			conf_mistake(r, "", "must be an object");
		if (conf_failed(r))
			break;
		read_ce(r, item, config, &config->ces[config->n_ces]);
		conf_leave(r, inner);
		config->n_ces++;
	}
	conf_leave(r, mark);
}

static void read_cvm(struct conf_reader *r, const cJSON *json, struct pvm_config *config)
{
	const cJSON *cvm = conf_object(r, json, "cvm", false);
	size_t mark;

	if (!cvm)
		return;
	config->has_cvm = true;
	mark = conf_enter(r, "cvm");
	conf_address(r, cvm, "address", true, AF_INET, &config->cvm_address);
	conf_address(r, cvm, "local_address", true, AF_INET, &config->cvm_local_address);
	if (!conf_failed(r) &&
		!is_address_of(pvm_config_interface(config, "core"), &config->cvm_local_address))
		conf_mistake(r, "local_address", "must be an address of interface core");
	if (!conf_failed(r) && ep_prefix_equal(&config->cvm_address, &config->cvm_local_address))
		conf_mistake(r, "address", "is our own address: give the CVM's");
	conf_leave(r, mark);
}

static void read_vpn(struct conf_reader *r, const cJSON *json, struct pvm_config *config)
{
	const cJSON *vpn = conf_object(r, json, "vpn", false);
	size_t mark;

	if (!vpn) {
		if (config->has_cvm)
			conf_mistake(r, "vpn", "is missing: a PVM with a cvm needs its vpn");
		return;
	}
	config->has_vpn = true;
	mark = conf_enter(r, "vpn");
	conf_rd(r, vpn, "rd", config->rd);
	conf_rts(r, vpn, "import_rts", &config->import_rts);
	conf_rts(r, vpn, "export_rts", &config->export_rts);
	if (!conf_failed(r) && !config->export_rts.n)
		conf_mistake(r, "export_rts", "is empty: name at least one route target");
	if (!conf_failed(r) && !config->import_rts.n)
		conf_mistake(r, "import_rts", "is empty: name at least one route target");
	conf_number(r, vpn, "label", true, LABEL_MIN, LABEL_MAX, &config->label);
	conf_address(r, vpn, "next_hop", true, AF_INET, &config->next_hop);
	conf_leave(r, mark);
}

static void read_tunnel(struct conf_reader *r, const cJSON *json, const struct pvm_config *config,
	struct pvm_tunnel *tunnel)
{
	const cJSON *labels, *item;
	size_t mark;

	conf_prefix(r, json, "prefix", AF_INET, &tunnel->prefix);
	conf_address(r, json, "via", true, AF_INET, &tunnel->via);
	if (!conf_failed(r) && !in_subnet_of(pvm_config_interface(config, "core"), &tunnel->via))
		conf_mistake(r, "via", "is in no subnet of interface core: give one that is");
	for (size_t i = 0; !conf_failed(r) && i < config->n_tunnels; i++)
		if (ep_prefix_equal(&config->tunnels[i].prefix, &tunnel->prefix))
			conf_mistake(r, "prefix", "is there twice: remove one");
	labels = conf_array(r, json, "labels", false, PVM_MAX_TRANSPORT_LABELS);
	mark = conf_enter(r, "labels");
	cJSON_ArrayForEach (item, labels) {
		size_t inner = conf_enter_index(r, tunnel->n_labels);

		if (!cJSON_IsNumber(item) || item->valuedouble < LABEL_MIN ||
			item->valuedouble > LABEL_MAX ||
			item->valuedouble != (double)(uint32_t)item->valuedouble)
			conf_mistake(r, "", "must be a label from %d to %d", LABEL_MIN, LABEL_MAX);
		else
			tunnel->labels[tunnel->n_labels++] = item->valuedouble;
		conf_leave(r, inner);
		if (conf_failed(r))
			break;
	}
	conf_leave(r, mark);
}

static void read_tunnels(struct conf_reader *r, const cJSON *json, struct pvm_config *config)
{
	const cJSON *array = conf_array(r, json, "tunnels", false, PVM_MAX_TUNNELS), *item;
	size_t mark = conf_enter(r, "tunnels");

	config->tunnels = calloc(cJSON_GetArraySize(array) + 1, sizeof(*config->tunnels));
	if (!config->tunnels) {
		jsonrpc_fail(r->err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
		return;
	}
	cJSON_ArrayForEach (item, array) {
		size_t inner = conf_enter_index(r, config->n_tunnels);

		if (!cJSON_IsObject(item))
			conf_mistake(r, "", "must be an object");
		if (conf_failed(r))
			break;
		read_tunnel(r, item, config, &config->tunnels[config->n_tunnels]);
		conf_leave(r, inner);
		config->n_tunnels++;
	}
	conf_leave(r, mark);
}

int pvm_config_read(const cJSON *json, struct pvm_config *config, struct jsonrpc_error *err)
{
	struct conf_reader reader = {.err = err}, *r = &reader;

	memset(config, 0, sizeof(*config));
	memset(err, 0, sizeof(*err));
	config->redistribute_connected = true;
	config->graceful_restart_s = DEFAULT_RESTART_S;
	if (!cJSON_IsObject(json)) {
		conf_mistake(r, "", "the configuration must be an object");
		return -1;
	}
	conf_word(r, json, "config_id", true, config->config_id, sizeof(config->config_id));
	conf_hostname(r, json, "hostname", config->hostname);
	conf_number(r, json, "asn", true, 1, UINT32_MAX, &config->asn);
	conf_address(r, json, "router_id", true, AF_INET, &config->router_id);
	config->n_interfaces = conf_interfaces(r, json, interface_names, config->interfaces, 3);
	read_macs(r, json, config);
	read_ces(r, json, config);
	read_cvm(r, json, config);
	read_vpn(r, json, config);
	conf_number(r, json, "graceful_restart_s", false, 0, MAX_RESTART_S,
		&config->graceful_restart_s);
	conf_bool(r, json, "redistribute_connected", &config->redistribute_connected);
	read_tunnels(r, json, config);
	if (!conf_failed(r))
		return 0;
	pvm_config_free(config);
	return -1;
}

void pvm_config_free(struct pvm_config *config)
{
	free(config->tunnels);
	memset(config, 0, sizeof(*config));
}

/* ---- looking up ------------------------------------------------------------------------------ */

const struct pvm_tunnel *pvm_config_tunnel(
	const struct pvm_config *config, const struct ep_prefix *next_hop)
{
	const struct pvm_tunnel *best = NULL;

	for (size_t i = 0; i < config->n_tunnels; i++)
		if (ep_prefix_contains(&config->tunnels[i].prefix, next_hop) &&
			(!best || config->tunnels[i].prefix.len > best->prefix.len))
			best = &config->tunnels[i];
	return best;
}

const struct kernel_wish *pvm_config_interface(const struct pvm_config *config, const char *name)
{
	for (size_t i = 0; i < config->n_interfaces; i++)
		if (!strcmp(config->interfaces[i].name, name))
			return &config->interfaces[i];
	return NULL;
}

/* ---- rendering ------------------------------------------------------------------------------- */

/*
 * What a CE must not announce: the links that this PVM itself uses towards the core. Everything
 * else is the customer's own address space, even if it looks like ours.
 */
static void render_filter(const struct pvm_config *config, struct cfg *cfg)
{
	const struct kernel_wish *core = pvm_config_interface(config, "core");
	const char *head, *context;
	char text[EP_PREFIX_STRLEN];
	bool v4 = false, v6 = false;

	for (size_t i = 0; core && i < core->n_addresses; i++) {
		struct ep_prefix p = core->addresses[i];
		bool is_v4 = p.family == AF_INET;

		ep_prefix_mask(&p);
		cfg_add(cfg, "", NULL, NULL, "%s prefix-list OWN seq %zu permit %s%s",
			is_v4 ? "ip" : "ipv6", i + 1, ep_prefix_format(&p, text),
			p.len == (is_v4 ? 32 : 128) ? ""
			: is_v4                     ? " le 32"
						    : " le 128");
		v4 |= is_v4;
		v6 |= !is_v4;
	}
	if (v4) {
		context = head = "route-map CE-IN deny 10";
		cfg_add(cfg, "", NULL, NULL, "%s", head);
		cfg_add(cfg, context, NULL, NULL, "match ip address prefix-list OWN");
	}
	if (v6) {
		context = head = "route-map CE-IN deny 20";
		cfg_add(cfg, "", NULL, NULL, "%s", head);
		cfg_add(cfg, context, NULL, NULL, "match ipv6 address prefix-list OWN");
	}
	context = head = "route-map CE-IN permit 30";
	cfg_add(cfg, "", NULL, NULL, "%s", head);
	/* The forwarder resolves gateways in the subnets of its ports. */
	cfg_add(cfg, context, NULL, NULL, "set ipv6 next-hop prefer-global");
	/* Or a customer could choose the VPNs that its routes go to (RFC 4364 section 4.3.1). */
	cfg_add(cfg, context, NULL, NULL, "set extcommunity none");
}

static void render_ce(const struct pvm_ce *ce, bool graceful, const char *router, struct cfg *cfg)
{
	char a[EP_PREFIX_STRLEN], head[128], undo[128], family[128];

	ep_addr_format(&ce->address, a);
	snprintf(head, sizeof(head), "neighbor %s remote-as %u", a, ce->remote_asn);
	snprintf(undo, sizeof(undo), "no neighbor %s", a);
	cfg_add(cfg, router, NULL, undo, "%s", head);
#define CE_LINE(context, setting, fmt, ...)                                              \
	do {                                                                             \
		snprintf(undo, sizeof(undo), "no neighbor %s " setting, a);              \
		cfg_add(cfg, context, head, undo, "neighbor %s " fmt, a, ##__VA_ARGS__); \
	} while (0)
	CE_LINE(router, "timers", "timers %u %u", ce->keepalive_s, ce->hold_s);
	CE_LINE(router, "timers connect", "timers connect 5");
	CE_LINE(router, "enforce-first-as", "enforce-first-as");
	/* BIRD keeps routes by the long-lived kind, which bgpd offers along with the helper's part.
	 */
	if (!graceful)
		CE_LINE(router, "graceful-restart-disable", "graceful-restart-disable");
	for (int v6 = 0; v6 < 2; v6++) {
		if (!(v6 ? ce->ipv6 : ce->ipv4))
			continue;
		snprintf(family, sizeof(family), "%s\naddress-family %s unicast", router,
			v6 ? "ipv6" : "ipv4");
		CE_LINE(family, "route-map CE-IN in", "route-map CE-IN in");
		/* Route targets are the provider's business. */
		snprintf(undo, sizeof(undo), "neighbor %s send-community extended", a);
		cfg_add(cfg, family, head, undo, "no neighbor %s send-community extended", a);
		/* Over the limit: hold the session down, try again after five minutes. */
		CE_LINE(family, "maximum-prefix", "maximum-prefix %u 80 restart 5",
			ce->max_prefixes);
		if (ce->as_override)
			CE_LINE(family, "as-override", "as-override");
		if (ce->allowas_in)
			CE_LINE(family, "allowas-in", "allowas-in %u", ce->allowas_in);
		CE_LINE(family, "activate", "activate");
	}
#undef CE_LINE
}

static void render_cvm(const struct pvm_config *config, const char *router, struct cfg *cfg)
{
	char a[EP_PREFIX_STRLEN], local[EP_PREFIX_STRLEN], head[128], undo[128], family[128];

	ep_addr_format(&config->cvm_address, a);
	ep_addr_format(&config->cvm_local_address, local);
	snprintf(head, sizeof(head), "neighbor %s remote-as %u", a, config->asn);
	snprintf(undo, sizeof(undo), "no neighbor %s", a);
	cfg_add(cfg, router, NULL, undo, "%s", head);
	snprintf(undo, sizeof(undo), "no neighbor %s update-source", a);
	cfg_add(cfg, router, head, undo, "neighbor %s update-source %s", a, local);
	snprintf(undo, sizeof(undo), "no neighbor %s timers", a);
	cfg_add(cfg, router, head, undo, "neighbor %s timers 3 9", a);
	snprintf(undo, sizeof(undo), "no neighbor %s timers connect", a);
	cfg_add(cfg, router, head, undo, "neighbor %s timers connect 2", a);
	for (int v6 = 0; v6 < 2; v6++) {
		snprintf(
			family, sizeof(family), "%s\naddress-family ipv%d vpn", router, v6 ? 6 : 4);
		snprintf(undo, sizeof(undo), "no neighbor %s activate", a);
		cfg_add(cfg, family, head, undo, "neighbor %s activate", a);
	}
}

static void join_rts(const struct conf_rts *rts, char *text, size_t size)
{
	size_t n = 0;

	text[0] = '\0';
	for (size_t i = 0; i < rts->n && n < size; i++)
		n += snprintf(text + n, size - n, "%s%s", i ? " " : "", rts->rt[i]);
}

static void render_vpn(const struct pvm_config *config, const char *router, struct cfg *cfg)
{
	char rts[CONF_MAX_RTS * CONF_RT_STRLEN], family[128], next_hop[EP_PREFIX_STRLEN];

	for (int v6 = 0; v6 < 2; v6++) {
		snprintf(family, sizeof(family), "%s\naddress-family %s unicast", router,
			v6 ? "ipv6" : "ipv4");
		cfg_add(cfg, family, NULL, "no maximum-paths", "maximum-paths 16");
		cfg_add(cfg, family, NULL, "no maximum-paths ibgp", "maximum-paths ibgp 16");
		if (!config->has_vpn)
			continue;
		cfg_add(cfg, family, NULL, "no rd vpn export", "rd vpn export %s", config->rd);
		cfg_add(cfg, family, NULL, "no label vpn export", "label vpn export %u",
			config->label);
		/* RFC 4659 section 3.2.1.2: IPv6 over an IPv4 core. */
		cfg_add(cfg, family, NULL, "no nexthop vpn export", "nexthop vpn export %s%s",
			v6 ? "::ffff:" : "", ep_addr_format(&config->next_hop, next_hop));
		join_rts(&config->import_rts, rts, sizeof(rts));
		cfg_add(cfg, family, NULL, "no rt vpn import", "rt vpn import %s", rts);
		join_rts(&config->export_rts, rts, sizeof(rts));
		cfg_add(cfg, family, NULL, "no rt vpn export", "rt vpn export %s", rts);
		cfg_add(cfg, family, NULL, NULL, "export vpn");
		cfg_add(cfg, family, NULL, NULL, "import vpn");
	}
}

void pvm_config_render(const struct pvm_config *config, struct cfg *cfg)
{
	char router[64], id[EP_PREFIX_STRLEN];

	snprintf(router, sizeof(router), "router bgp %u", config->asn);
	cfg_add(cfg, "", NULL, "no hostname", "hostname %s", config->hostname);
	render_filter(config, cfg);
	cfg_add(cfg, "", NULL, NULL, "%s", router);
	cfg_add(cfg, router, NULL, "no bgp router-id", "bgp router-id %s",
		ep_addr_format(&config->router_id, id));
	cfg_add(cfg, router, NULL, "bgp ebgp-requires-policy", "no bgp ebgp-requires-policy");
	cfg_add(cfg, router, NULL, "bgp default ipv4-unicast", "no bgp default ipv4-unicast");
	cfg_add(cfg, router, NULL, NULL, "bgp log-neighbor-changes");
	/* bgpd waits a second for peers whose routes could be packed together. */
	cfg_add(cfg, router, NULL, "no coalesce-time", "coalesce-time %d", COALESCE_MS);
	/* Else bgpd forgets routes, and that a label has changed: see docs/notes/routing.md. */
	cfg_add(cfg, router, NULL, "bgp suppress-duplicates", "no bgp suppress-duplicates");
	/*
	 * Without, we keep the CVM's routes when it restarts, but tell it of no family whose routes
	 * it may keep.
	 */
	if (config->graceful_restart_s) {
		cfg_add(cfg, router, NULL, "no bgp graceful-restart", "bgp graceful-restart");
		cfg_add(cfg, router, NULL, NULL, "bgp graceful-restart preserve-fw-state");
		cfg_add(cfg, router, NULL, "no bgp graceful-restart restart-time",
			"bgp graceful-restart restart-time %u", config->graceful_restart_s);
	}
	/* bgp_eor.h is for that. */
	cfg_add(cfg, router, NULL, "no bgp graceful-restart select-defer-time",
		"bgp graceful-restart select-defer-time 0");
	cfg_add(cfg, router, NULL, NULL, "bgp bestpath as-path multipath-relax");
	render_vpn(config, router, cfg);
	for (size_t i = 0; i < config->n_ces; i++)
		render_ce(&config->ces[i], config->graceful_restart_s > 0, router, cfg);
	if (config->has_cvm)
		render_cvm(config, router, cfg);
}
