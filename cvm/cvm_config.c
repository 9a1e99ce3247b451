/* SPDX-License-Identifier: GPL-2.0-or-later */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cvm/cvm_config.h"

#define RESTART_TIME_S 120
#define COALESCE_MS 10

static const char *const interface_names[] = {"core", "inside", "lo", NULL};

/* ---- reading --------------------------------------------------------------------------------- */

static bool is_own_address(const struct cvm_config *config, const struct ep_prefix *address)
{
	for (size_t i = 0; i < config->n_interfaces; i++)
		for (size_t k = 0; k < config->interfaces[i].n_addresses; k++) {
			struct ep_prefix own = config->interfaces[i].addresses[k];

			own.len = own.family == AF_INET ? 32 : 128;
			if (ep_prefix_equal(&own, address))
				return true;
		}
	return false;
}

static bool is_connected(const struct kernel_wish *wish, const struct ep_prefix *address)
{
	for (size_t k = 0; wish && k < wish->n_addresses; k++) {
		struct ep_prefix subnet = wish->addresses[k];

		ep_prefix_mask(&subnet);
		if (ep_prefix_contains(&subnet, address))
			return true;
	}
	return false;
}

static void read_route(struct conf_reader *r, const cJSON *json, const struct cvm_config *config,
	struct kernel_route *route)
{
	conf_prefix(r, json, "prefix", 0, &route->prefix);
	if (conf_failed(r))
		return;
	conf_address(r, json, "via", true, route->prefix.family, &route->via);
	if (conf_failed(r))
		return;
	if (!is_connected(cvm_config_interface(config, "core"), &route->via) &&
		!is_connected(cvm_config_interface(config, "inside"), &route->via))
		conf_mistake(r, "via", "is in no subnet of core or inside: give one that is");
	for (size_t i = 0; i < config->n_routes; i++)
		if (ep_prefix_equal(&config->routes[i].prefix, &route->prefix))
			conf_mistake(r, "prefix", "is there twice: remove one");
}

static void read_routes(struct conf_reader *r, const cJSON *json, struct cvm_config *config)
{
	const cJSON *array = conf_array(r, json, "routes", false, CVM_MAX_ROUTES), *item;
	size_t mark = conf_enter(r, "routes");

	cJSON_ArrayForEach (item, array) {
		size_t inner = conf_enter_index(r, config->n_routes);

		if (!cJSON_IsObject(item))
			conf_mistake(r, "", "must be an object");
		if (conf_failed(r))
			break;
		read_route(r, item, config, &config->routes[config->n_routes]);
		conf_leave(r, inner);
		config->n_routes++;
	}
	conf_leave(r, mark);
}

static void read_core(struct conf_reader *r, const cJSON *json, const struct cvm_config *config,
	struct cvm_core *core)
{
	uint32_t asn = config->asn;

	core->keepalive_s = 10;
	core->hold_s = 30;
	conf_address(r, json, "address", true, 0, &core->address);
	conf_address(r, json, "local_address", true, core->address.family, &core->local_address);
	conf_number(r, json, "remote_asn", false, 1, UINT32_MAX, &asn);
	conf_number(r, json, "keepalive_s", false, 1, 21845, &core->keepalive_s);
	conf_number(r, json, "hold_s", false, 3, 65535, &core->hold_s);
	if (conf_failed(r))
		return;
	if (asn != config->asn)
		conf_mistake(r, "remote_asn", "must be our asn (%u): the core speaks internal BGP",
			config->asn);
	/* RFC 4271 section 4.4. */
	if (core->keepalive_s * 3 > core->hold_s)
		conf_mistake(
			r, "keepalive_s", "must be at most a third of hold_s (%u)", core->hold_s);
	if (!is_own_address(config, &core->local_address))
		conf_mistake(r, "local_address", "must be an address of one of our interfaces");
	if (is_own_address(config, &core->address))
		conf_mistake(r, "address", "is our own address: give the route reflector's");
	for (size_t i = 0; i < config->n_cores; i++)
		if (ep_prefix_equal(&config->cores[i].address, &core->address))
			conf_mistake(r, "address", "is there twice: remove one");
}

static void read_cores(struct conf_reader *r, const cJSON *json, struct cvm_config *config)
{
	const cJSON *array = conf_array(r, json, "core", false, CVM_MAX_CORES), *item;
	size_t mark = conf_enter(r, "core");

	cJSON_ArrayForEach (item, array) {
		size_t inner = conf_enter_index(r, config->n_cores);

		if (!cJSON_IsObject(item))
			conf_mistake(r, "", "must be an object");
		if (conf_failed(r))
			break;
		read_core(r, item, config, &config->cores[config->n_cores]);
		conf_leave(r, inner);
		config->n_cores++;
	}
	conf_leave(r, mark);
}

static bool is_name(const char *name)
{
	if (*name < 'a' || *name > 'z')
		return false;
	for (; *name; name++)
		if (!strchr("abcdefghijklmnopqrstuvwxyz0123456789-", *name))
			return false;
	return true;
}

static void read_pvm(struct conf_reader *r, const cJSON *json, const struct cvm_config *config,
	struct cvm_pvm *pvm)
{
	conf_word(r, json, "name", true, pvm->name, sizeof(pvm->name));
	if (!conf_failed(r) && !is_name(pvm->name))
		conf_mistake(r, "name", "must be a-z, 0-9 and -, beginning with a letter");
	conf_address(r, json, "address", true, AF_INET, &pvm->address);
	conf_rts(r, json, "import_rts", &pvm->import_rts);
	conf_rts(r, json, "export_rts", &pvm->export_rts);
	if (conf_failed(r))
		return;
	if (!pvm->import_rts.n)
		conf_mistake(r, "import_rts", "is empty: name at least one route target");
	if (!pvm->export_rts.n)
		conf_mistake(r, "export_rts", "is empty: name at least one route target");
	if (!is_connected(cvm_config_interface(config, "inside"), &pvm->address))
		conf_mistake(r, "address", "is in no subnet of interface inside: give one that is");
	if (is_own_address(config, &pvm->address))
		conf_mistake(r, "address", "is our own address: give the PVM's");
	for (size_t i = 0; i < config->n_pvms; i++) {
		if (!strcmp(config->pvms[i].name, pvm->name))
			conf_mistake(r, "name", "is there twice: remove one");
		if (ep_prefix_equal(&config->pvms[i].address, &pvm->address))
			conf_mistake(r, "address", "is %s's as well: give each PVM its own",
				config->pvms[i].name);
	}
	for (size_t i = 0; i < config->n_cores; i++)
		if (ep_prefix_equal(&config->cores[i].address, &pvm->address))
			conf_mistake(r, "address", "is a core neighbour's as well");
}

static void read_pvms(struct conf_reader *r, const cJSON *json, struct cvm_config *config)
{
	const cJSON *array = conf_array(r, json, "pvms", false, CVM_MAX_PVMS), *item;
	size_t mark = conf_enter(r, "pvms");

	config->pvms = calloc(cJSON_GetArraySize(array) + 1, sizeof(*config->pvms));
	if (!config->pvms) {
		jsonrpc_fail(r->err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
		return;
	}
	cJSON_ArrayForEach (item, array) {
		size_t inner = conf_enter_index(r, config->n_pvms);

		if (!cJSON_IsObject(item))
			conf_mistake(r, "", "must be an object");
		if (conf_failed(r))
			break;
		read_pvm(r, item, config, &config->pvms[config->n_pvms]);
		conf_leave(r, inner);
		config->n_pvms++;
	}
	conf_leave(r, mark);
}

int cvm_config_read(const cJSON *json, struct cvm_config *config, struct jsonrpc_error *err)
{
	struct conf_reader reader = {.err = err}, *r = &reader;

	memset(config, 0, sizeof(*config));
	memset(err, 0, sizeof(*err));
	if (!cJSON_IsObject(json)) {
		conf_mistake(r, "", "the configuration must be an object");
		return -1;
	}
	conf_word(r, json, "config_id", true, config->config_id, sizeof(config->config_id));
	conf_hostname(r, json, "hostname", config->hostname);
	conf_number(r, json, "asn", true, 1, UINT32_MAX, &config->asn);
	conf_address(r, json, "router_id", true, AF_INET, &config->router_id);
	config->n_interfaces = conf_interfaces(r, json, interface_names, config->interfaces, 3);
	read_routes(r, json, config);
	read_cores(r, json, config);
	read_pvms(r, json, config);
	if (!conf_failed(r))
		return 0;
	cvm_config_free(config);
	return -1;
}

void cvm_config_free(struct cvm_config *config)
{
	free(config->pvms);
	memset(config, 0, sizeof(*config));
}

/* ---- looking up ------------------------------------------------------------------------------ */

const struct cvm_pvm *cvm_config_pvm(
	const struct cvm_config *config, const struct ep_prefix *address)
{
	for (size_t i = 0; i < config->n_pvms; i++)
		if (ep_prefix_equal(&config->pvms[i].address, address))
			return &config->pvms[i];
	return NULL;
}

const struct kernel_wish *cvm_config_interface(const struct cvm_config *config, const char *name)
{
	for (size_t i = 0; i < config->n_interfaces; i++)
		if (!strcmp(config->interfaces[i].name, name))
			return &config->interfaces[i];
	return NULL;
}

/* ---- rendering ------------------------------------------------------------------------------- */

static void render_rts(
	const struct conf_rts *rts, const char *pvm, const char *direction, struct cfg *cfg)
{
	for (size_t i = 0; i < rts->n; i++)
		cfg_add(cfg, "", NULL, NULL,
			"bgp extcommunity-list standard PVM-%s-%s permit rt %s", pvm, direction,
			rts->rt[i]);
}

/* What a PVM may tell (its own RTs) and is told (those that it imports). */
static void render_filters(
	const struct cvm_config *config, const struct cvm_pvm *pvm, struct cfg *cfg)
{
	char context[96], id[EP_PREFIX_STRLEN];

	render_rts(&pvm->export_rts, pvm->name, "IN", cfg);
	render_rts(&pvm->import_rts, pvm->name, "OUT", cfg);
	snprintf(context, sizeof(context), "route-map PVM-%s-IN permit 10", pvm->name);
	cfg_add(cfg, "", NULL, NULL, "%s", context);
	cfg_add(cfg, context, NULL, "no match extcommunity", "match extcommunity PVM-%s-IN",
		pvm->name);
	/*
	 * The core sees one router. It also keeps PVMs of different sites apart, which may have the
	 * same router ID: by RFC 4456 each would drop the other's routes as its own.
	 */
	cfg_add(cfg, context, NULL, "no set originator-id", "set originator-id %s",
		ep_addr_format(&config->router_id, id));
	snprintf(context, sizeof(context), "route-map PVM-%s-OUT permit 10", pvm->name);
	cfg_add(cfg, "", NULL, NULL, "%s", context);
	cfg_add(cfg, context, NULL, "no match extcommunity", "match extcommunity PVM-%s-OUT",
		pvm->name);
}

struct neighbor {
	const char *router;
	char address[EP_PREFIX_STRLEN];
	char head[96];
};

static void begin_neighbor(struct neighbor *n, const char *router, const struct ep_prefix *address,
	uint32_t asn, struct cfg *cfg)
{
	char undo[96];

	n->router = router;
	ep_addr_format(address, n->address);
	snprintf(n->head, sizeof(n->head), "neighbor %s remote-as %u", n->address, asn);
	snprintf(undo, sizeof(undo), "no neighbor %s", n->address);
	cfg_add(cfg, router, NULL, undo, "%s", n->head);
}

/* `value` follows `setting`; the undo takes back the setting whatever its value. */
static void neighbor_line(const struct neighbor *n, const char *family, const char *setting,
	const char *value, struct cfg *cfg)
{
	char context[128], undo[160];

	snprintf(context, sizeof(context), "%s%s%s", n->router, family ? "\naddress-family " : "",
		family ? family : "");
	snprintf(undo, sizeof(undo), "no neighbor %s %s", n->address, setting);
	cfg_add(cfg, context, n->head, undo, "neighbor %s %s%s%s", n->address, setting,
		*value ? " " : "", value);
}

static void render_pvm(const struct cvm_config *config, const struct cvm_pvm *pvm,
	const char *router, struct cfg *cfg)
{
	static const char *const families[] = {"ipv4 vpn", "ipv6 vpn"};
	struct neighbor n;
	char map[96];

	begin_neighbor(&n, router, &pvm->address, config->asn, cfg);
	neighbor_line(&n, NULL, "timers", "3 9", cfg);
	neighbor_line(&n, NULL, "timers connect", "2", cfg);
	/* A PVM in a group of its own: only then is it never sent its own routes. */
	neighbor_line(&n, NULL, "solo", "", cfg);
	for (size_t i = 0; i < 2; i++) {
		neighbor_line(&n, families[i], "route-reflector-client", "", cfg);
		snprintf(map, sizeof(map), "route-map PVM-%s-IN in", pvm->name);
		neighbor_line(&n, families[i], map, "", cfg);
		snprintf(map, sizeof(map), "route-map PVM-%s-OUT out", pvm->name);
		neighbor_line(&n, families[i], map, "", cfg);
		neighbor_line(&n, families[i], "activate", "", cfg);
	}
}

static void render_core(const struct cvm_config *config, const struct cvm_core *core,
	const char *router, struct cfg *cfg)
{
	struct neighbor n;
	char text[EP_PREFIX_STRLEN];

	begin_neighbor(&n, router, &core->address, config->asn, cfg);
	neighbor_line(&n, NULL, "update-source", ep_addr_format(&core->local_address, text), cfg);
	snprintf(text, sizeof(text), "%u %u", core->keepalive_s, core->hold_s);
	neighbor_line(&n, NULL, "timers", text, cfg);
	neighbor_line(&n, NULL, "timers connect", "2", cfg);
	neighbor_line(&n, "ipv4 vpn", "activate", "", cfg);
	neighbor_line(&n, "ipv6 vpn", "activate", "", cfg);
}

void cvm_config_render(const struct cvm_config *config, struct cfg *cfg)
{
	char router[64], id[EP_PREFIX_STRLEN];

	snprintf(router, sizeof(router), "router bgp %u", config->asn);
	cfg_add(cfg, "", NULL, "no hostname", "hostname %s", config->hostname);
	cfg_add(cfg, "", NULL, "no bgp route-map delay-timer", "bgp route-map delay-timer 1");
	for (size_t i = 0; i < config->n_pvms; i++)
		render_filters(config, &config->pvms[i], cfg);
	cfg_add(cfg, "", NULL, NULL, "%s", router);
	cfg_add(cfg, router, NULL, "no bgp router-id", "bgp router-id %s",
		ep_addr_format(&config->router_id, id));
	cfg_add(cfg, router, NULL, "bgp default ipv4-unicast", "no bgp default ipv4-unicast");
	cfg_add(cfg, router, NULL, NULL, "bgp log-neighbor-changes");
	/* bgpd waits a second for peers whose routes could be packed together. */
	cfg_add(cfg, router, NULL, "no coalesce-time", "coalesce-time %d", COALESCE_MS);
	/* Else bgpd forgets routes, and that a label has changed: see docs/notes/routing.md. */
	cfg_add(cfg, router, NULL, "bgp suppress-duplicates", "no bgp suppress-duplicates");
	cfg_add(cfg, router, NULL, "no bgp graceful-restart", "bgp graceful-restart");
	cfg_add(cfg, router, NULL, NULL, "bgp graceful-restart preserve-fw-state");
	cfg_add(cfg, router, NULL, "no bgp graceful-restart restart-time",
		"bgp graceful-restart restart-time %d", RESTART_TIME_S);
	/* bgp_eor.h is for that. */
	cfg_add(cfg, router, NULL, "no bgp graceful-restart select-defer-time",
		"bgp graceful-restart select-defer-time 0");
	for (size_t i = 0; i < config->n_cores; i++)
		render_core(config, &config->cores[i], router, cfg);
	for (size_t i = 0; i < config->n_pvms; i++)
		render_pvm(config, &config->pvms[i], router, cfg);
}
