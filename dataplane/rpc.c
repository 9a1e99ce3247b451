/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/rpc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <arpa/inet.h>

#include "common/prefix.h"
#include "dataplane/fpm.h"
#include "dataplane/neighbor.h"
#include "dataplane/routes.h"
#include "dataplane/worker.h"

#define MAX_MUTE_MS 60000
#ifndef EDGEPLEX_VERSION
#define EDGEPLEX_VERSION "0.1"
#endif

#define PAGE_MAX 1000
#define PAGE_DEFAULT 100

/* ---- fwd.status -------------------------------------------------------------------------- */

static cJSON *counters_json(const struct port_counters *c)
{
	cJSON *out = cJSON_CreateObject();
	uint64_t dropped = 0, tx_dropped = c->drops[DROP_tx_full];

	for (unsigned i = 0; i < DROP_N; i++)
		dropped += c->drops[i];
	cJSON_AddNumberToObject(out, "rx_packets", (double)c->rx_packets);
	cJSON_AddNumberToObject(out, "rx_bytes", (double)c->rx_bytes);
	cJSON_AddNumberToObject(out, "rx_empty", (double)c->rx_empty);
	cJSON_AddNumberToObject(out, "tx_packets", (double)c->tx_packets);
	cJSON_AddNumberToObject(out, "tx_bytes", (double)c->tx_bytes);
	cJSON_AddNumberToObject(out, "rx_dropped", (double)(dropped - tx_dropped));
	cJSON_AddNumberToObject(out, "tx_dropped", (double)tx_dropped);
	cJSON_AddNumberToObject(out, "punted", (double)c->punted);
	cJSON_AddNumberToObject(out, "from_tap", (double)c->from_tap);
	cJSON_AddNumberToObject(out, "icmp_errors", (double)c->icmp_errors);
	cJSON_AddNumberToObject(out, "echo_replies", (double)c->echo_replies);
	cJSON_AddNumberToObject(out, "fragments", (double)c->fragments);
	return out;
}

static cJSON *drops_json(const struct port_counters *c)
{
	static const char *const names[] = {
#define X(name, text) #name,
		DROP_REASONS(X)
#undef X
	};
	cJSON *out = cJSON_CreateObject();

	for (unsigned i = 0; i < DROP_N; i++) {
		if (c->drops[i] > 0)
			cJSON_AddNumberToObject(out, names[i], (double)c->drops[i]);
	}
	return out;
}

static cJSON *addresses_json(const struct iface *iface)
{
	cJSON *out = cJSON_CreateArray();

	for (unsigned i = 0; i < iface->n_addrs; i++) {
		struct ep_prefix prefix = {
			.family = iface->addrs[i].family, .len = iface->addrs[i].len};
		char text[EP_PREFIX_STRLEN];

		memcpy(prefix.addr.bytes, iface->addrs[i].addr.bytes, sizeof(prefix.addr.bytes));
		cJSON_AddItemToArray(out, cJSON_CreateString(ep_prefix_format(&prefix, text)));
	}
	return out;
}

static cJSON *port_json(const struct rpc *rpc, unsigned i)
{
	const struct port *port = &rpc->fwd->engine.ports[i];
	const struct iface *iface = &atomic_load(&rpc->fwd->engine.ifaces)->ports[i];
	cJSON *out = cJSON_CreateObject();
	struct ep_mac mac;
	char text[EP_MAC_STRLEN];

	memcpy(mac.bytes, iface->mac.addr_bytes, sizeof(mac.bytes));
	cJSON_AddStringToObject(out, "name", port->name);
	cJSON_AddStringToObject(out, "mac", ep_mac_format(&mac, text));
	cJSON_AddNumberToObject(out, "mtu", iface->mtu);
	cJSON_AddBoolToObject(out, "link", rpc->fwd->devices[i].link);
	cJSON_AddBoolToObject(out, "up", iface->up);
	cJSON_AddItemToObject(out, "addresses", addresses_json(iface));
	cJSON_AddItemToObject(out, "counters", counters_json(&port->counters));
	cJSON_AddItemToObject(out, "drops", drops_json(&port->counters));
	return out;
}

static cJSON *status(const struct rpc *rpc)
{
	struct routes_count count = routes_count(rpc->fwd->routes);
	cJSON *out = cJSON_CreateObject(), *ports, *fib;

	cJSON_AddStringToObject(out, "version", EDGEPLEX_VERSION);
	cJSON_AddNumberToObject(out, "uptime_ms", (double)(now_ms() - rpc->fwd->start_ms));
	ports = cJSON_AddArrayToObject(out, "ports");
	for (unsigned i = 0; i < rpc->fwd->engine.n_ports; i++)
		cJSON_AddItemToArray(ports, port_json(rpc, i));
	fib = cJSON_AddObjectToObject(out, "fib");
	cJSON_AddNumberToObject(fib, "ipv4", (double)count.ipv4);
	cJSON_AddNumberToObject(fib, "ipv6", (double)count.ipv6);
	cJSON_AddNumberToObject(fib, "mpls", (double)count.mpls);
	cJSON_AddNumberToObject(fib, "stale", (double)count.stale);
	cJSON_AddNumberToObject(fib, "memory_bytes", (double)count.memory);
	cJSON_AddBoolToObject(fib, "connected", fpm_connected(rpc->fpm));
	cJSON_AddBoolToObject(fib, "complete", fpm_complete(rpc->fpm));
	cJSON_AddBoolToObject(out, "sleeping", atomic_load(&rpc->fwd->sleeping));
	cJSON_AddNumberToObject(out, "rehearsed", atomic_load(&rpc->fwd->rehearsed));
	return out;
}

/* ---- fwd.fib ----------------------------------------------------------------------------- */

static const char *action_name(enum fib_action action)
{
	switch (action) {
	case FIB_FORWARD:
		return "forward";
	case FIB_BLACKHOLE:
		return "blackhole";
	case FIB_UNREACHABLE:
		return "unreachable";
	case FIB_POP:
		return "pop";
	}
	return "unknown";
}

static void key_text(const struct fib_route *route, char text[EP_PREFIX_STRLEN])
{
	struct ep_prefix prefix = {.family = route->family, .len = route->prefix_len};

	if (route->family == AF_MPLS) {
		snprintf(text, EP_PREFIX_STRLEN, "%u", route->dst.label);
		return;
	}
	memcpy(prefix.addr.bytes, &route->dst, route->family == AF_INET ? 4 : 16);
	ep_prefix_format(&prefix, text);
}

static cJSON *nexthop_json(const struct rpc *rpc, const struct fib_nexthop *hop, int port)
{
	cJSON *out = cJSON_CreateObject(), *labels;
	char text[INET6_ADDRSTRLEN];

	if (port >= 0)
		cJSON_AddStringToObject(out, "port", rpc->fwd->engine.ports[port].name);
	else
		cJSON_AddNullToObject(out, "port");
	if (hop->family != AF_UNSPEC)
		cJSON_AddStringToObject(
			out, "via", inet_ntop(hop->family, &hop->gateway, text, sizeof(text)));
	else
		cJSON_AddNullToObject(out, "via");
	labels = cJSON_AddArrayToObject(out, "labels");
	for (unsigned i = 0; i < hop->n_labels; i++)
		cJSON_AddItemToArray(labels, cJSON_CreateNumber(hop->labels[i]));
	cJSON_AddNumberToObject(out, "weight", hop->weight);
	cJSON_AddBoolToObject(out, "resolved", port >= 0);
	return out;
}

static cJSON *route_json(const struct rpc *rpc, const struct route_view *view)
{
	const struct fib_route *route = &view->route;
	cJSON *out = cJSON_CreateObject(), *nexthops;
	char text[EP_PREFIX_STRLEN];

	key_text(route, text);
	cJSON_AddStringToObject(out, "prefix", text);
	cJSON_AddNumberToObject(out, "protocol", route->protocol);
	cJSON_AddStringToObject(out, "action", action_name(route->action));
	cJSON_AddBoolToObject(out, "stale", view->stale);
	nexthops = cJSON_AddArrayToObject(out, "nexthops");
	for (unsigned i = 0; i < route->n_nexthops; i++)
		cJSON_AddItemToArray(
			nexthops, nexthop_json(rpc, &route->nexthops[i], view->ports[i]));
	return out;
}

static int parse_key(const char *field, const char *text, uint8_t family, bool address,
	struct fib_route *key, struct jsonrpc_error *err)
{
	const char *why = "write an address of this family";
	struct ep_prefix prefix;
	unsigned long label;
	char *end;

	memset(key, 0, sizeof(*key));
	key->family = family;
	if (family == AF_MPLS) {
		label = strtoul(text, &end, 10);
		if (end == text || *end || label > LABEL_MAX)
			return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, field,
				"%s is not a label (0-1048575)", text);
		key->prefix_len = 20;
		key->dst.label = (uint32_t)label;
		return 0;
	}
	if ((address ? ep_addr_parse(text, &prefix)
		     : ep_prefix_parse(text, false, &prefix, &why)) != 0 ||
		prefix.family != family)
		return jsonrpc_fail(
			err, JSONRPC_INVALID_PARAMS, field, "%s is wrong: %s", text, why);
	key->prefix_len = prefix.len;
	memcpy(&key->dst, prefix.addr.bytes, family == AF_INET ? 4 : 16);
	return 0;
}

/* Fetches an optional text parameter; -1 when it is of another type. */
static int text_param(const cJSON *params, const char *name, const char *field, const char **text,
	struct jsonrpc_error *err)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(params, name);

	*text = NULL;
	if (!item || cJSON_IsNull(item))
		return 0;
	if (!cJSON_IsString(item))
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, field, "%s must be text", name);
	*text = item->valuestring;
	return 0;
}

static int list_page(const struct rpc *rpc, uint8_t family, const struct fib_route *after,
	unsigned limit, cJSON *out, cJSON *routes, struct jsonrpc_error *err)
{
	/* One more than asked for tells whether there is a next page. */
	struct route_view *views = calloc(limit + 1, sizeof(*views));
	char text[EP_PREFIX_STRLEN];
	size_t n;

	if (!views)
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
	n = routes_list(rpc->fwd->routes, family, after, views, limit + 1);
	for (size_t i = 0; i < n && i < limit; i++)
		cJSON_AddItemToArray(routes, route_json(rpc, &views[i]));
	if (n > limit) {
		key_text(&views[limit - 1].route, text);
		cJSON_AddStringToObject(out, "next", text);
	}
	free(views);
	return 0;
}

static int fill_fib(
	const struct rpc *rpc, const cJSON *params, cJSON *out, struct jsonrpc_error *err)
{
	const cJSON *limit_item = cJSON_GetObjectItemCaseSensitive(params, "limit");
	cJSON *routes = cJSON_AddArrayToObject(out, "routes");
	const char *family_text, *prefix, *lookup, *after;
	unsigned limit = PAGE_DEFAULT;
	struct route_view view;
	struct fib_route key;
	uint8_t family;

	if (text_param(params, "family", "/family", &family_text, err) < 0 ||
		text_param(params, "prefix", "/prefix", &prefix, err) < 0 ||
		text_param(params, "lookup", "/lookup", &lookup, err) < 0 ||
		text_param(params, "after", "/after", &after, err) < 0)
		return -1;
	if (family_text && strcmp(family_text, "ipv4") == 0)
		family = AF_INET;
	else if (family_text && strcmp(family_text, "ipv6") == 0)
		family = AF_INET6;
	else if (family_text && strcmp(family_text, "mpls") == 0)
		family = AF_MPLS;
	else
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/family",
			"family must be ipv4, ipv6 or mpls");
	if (limit_item) {
		if (!cJSON_IsNumber(limit_item) || limit_item->valuedouble < 1 ||
			limit_item->valuedouble > PAGE_MAX)
			return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/limit",
				"limit must be a number from 1 to %d", PAGE_MAX);
		limit = (unsigned)limit_item->valuedouble;
	}
	if (prefix || lookup) {
		bool found;

		if (parse_key(prefix ? "/prefix" : "/lookup", prefix ? prefix : lookup, family,
			    !prefix, &key, err) < 0)
			return -1;
		found = prefix ? routes_get(rpc->fwd->routes, &key, &view)
			       : routes_match(rpc->fwd->routes, &key, &view);
		if (found)
			cJSON_AddItemToArray(routes, route_json(rpc, &view));
		return 0;
	}
	if (after && parse_key("/after", after, family, false, &key, err) < 0)
		return -1;
	return list_page(rpc, family, after ? &key : NULL, limit, out, routes, err);
}

/* ---- fwd.neighbors ----------------------------------------------------------------------- */

static cJSON *neighbors(const struct rpc *rpc, struct jsonrpc_error *err)
{
	struct neighbors *table = rpc->fwd->engine.neighbors;
	size_t max = neighbors_snapshot(table, NULL, 0) + 16, n;
	struct neighbor_info *infos = calloc(max, sizeof(*infos));
	cJSON *out;

	if (!infos) {
		jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "", "out of memory");
		return NULL;
	}
	n = neighbors_snapshot(table, infos, max);
	out = cJSON_CreateArray();
	for (size_t i = 0; i < n && i < max; i++) {
		cJSON *item = cJSON_CreateObject();
		char addr[INET6_ADDRSTRLEN], mac_text[EP_MAC_STRLEN];
		struct ep_mac mac;

		memcpy(mac.bytes, infos[i].mac.addr_bytes, sizeof(mac.bytes));
		cJSON_AddStringToObject(item, "port", rpc->fwd->engine.ports[infos[i].port].name);
		cJSON_AddStringToObject(item, "address",
			inet_ntop(infos[i].family, infos[i].addr, addr, sizeof(addr)));
		if (infos[i].state == NEIGHBOR_INCOMPLETE)
			cJSON_AddNullToObject(item, "mac");
		else
			cJSON_AddStringToObject(item, "mac", ep_mac_format(&mac, mac_text));
		cJSON_AddStringToObject(item, "state", neighbor_state_name(infos[i].state));
		cJSON_AddItemToArray(out, item);
	}
	free(infos);
	return out;
}

/* ---- fwd.mute ---------------------------------------------------------------------------- */

#define REHEARSAL_MS 500 /* after which nobody waits for it any more */

/* The fast path gets used to where it runs now, before it is given packets. */
static void rehearse(struct forwarder *fwd)
{
	static const struct timespec ms = {.tv_nsec = 1000000};
	unsigned asked = atomic_fetch_add(&fwd->rehearsals_asked, 1) + 1;

	worker_wake(fwd);
	for (unsigned i = 0; i < REHEARSAL_MS && atomic_load_explicit(&fwd->rehearsals_done,
							 memory_order_acquire) != asked;
		i++)
		nanosleep(&ms, NULL);
}

static int mute(
	const struct rpc *rpc, const cJSON *params, cJSON **result, struct jsonrpc_error *err)
{
	const cJSON *ms = cJSON_GetObjectItemCaseSensitive(params, "ms");
	struct timespec now;
	uint64_t until = 0;

	if (!cJSON_IsNumber(ms) || !(ms->valuedouble >= 0 && ms->valuedouble <= MAX_MUTE_MS))
		return jsonrpc_fail(err, JSONRPC_INVALID_PARAMS, "/ms",
			"must be a number of 0 to %d", MAX_MUTE_MS);
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (ms->valuedouble > 0)
		until = (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000 +
			(uint64_t)ms->valuedouble;
	if (until == 0)
		rehearse(rpc->fwd);
	atomic_store_explicit(&rpc->fwd->engine.mute_until_ms, until, memory_order_relaxed);
	*result = cJSON_CreateObject();
	return 0;
}

/* ---- fwd.alive --------------------------------------------------------------------------- */

#define STILL_MS 200 /* the fast path is allowed, after it was woken */
#define GRACE_MS 50  /* and this, in case that we ourselves didn't get the processor meanwhile */

static bool has_turned(const struct rpc *rpc)
{
	return atomic_load_explicit(&rpc->fwd->turns, memory_order_relaxed) != rpc->woken_turns;
}

/* Waits for the fast path only when something is wrong with it. */
static int alive(struct rpc *rpc, cJSON **result, struct jsonrpc_error *err)
{
	static const struct timespec ms = {.tv_nsec = 1000000};
	uint64_t now = now_ms();

	if (rpc->woken_ms != 0 && now - rpc->woken_ms >= STILL_MS) {
		for (unsigned i = 0; i < GRACE_MS && !has_turned(rpc); i++)
			nanosleep(&ms, NULL);
		if (!has_turned(rpc))
			return jsonrpc_fail(err, JSONRPC_UNAVAILABLE, "",
				"the fast path has stood still for %llu ms",
				(unsigned long long)(now_ms() - rpc->woken_ms));
	}
	if (rpc->woken_ms == 0 || has_turned(rpc)) {
		rpc->woken_ms = now;
		rpc->woken_turns = atomic_load_explicit(&rpc->fwd->turns, memory_order_relaxed);
		worker_wake(rpc->fwd);
	}
	*result = cJSON_CreateObject();
	return 0;
}

int rpc_handle(void *ctx, const char *method, const cJSON *params, cJSON **result,
	struct jsonrpc_error *err)
{
	struct rpc *rpc = ctx;

	if (strcmp(method, "fwd.alive") == 0)
		return alive(rpc, result, err);
	if (strcmp(method, "fwd.status") == 0) {
		*result = status(rpc);
		return 0;
	}
	if (strcmp(method, "fwd.neighbors") == 0) {
		*result = neighbors(rpc, err);
		return *result ? 0 : -1;
	}
	if (strcmp(method, "fwd.fib") == 0) {
		cJSON *out = cJSON_CreateObject();

		if (fill_fib(rpc, params, out, err) < 0) {
			cJSON_Delete(out);
			return -1;
		}
		*result = out;
		return 0;
	}
	if (strcmp(method, "fwd.mute") == 0)
		return mute(rpc, params, result, err);
	return jsonrpc_fail(
		err, JSONRPC_METHOD_NOT_FOUND, "", "edgeplex-fwd has no method %s", method);
}
