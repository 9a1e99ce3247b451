/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/routes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/log.h"
#include "dataplane/engine.h"
#include "dataplane/fib.h"
#include "dataplane/nexthop.h"

#define LABELS_BYTES ((LABEL_MAX + 1ul) * sizeof(uint32_t))

struct routes {
	struct engine *engine;
	uint32_t max_label; /* labels above have never been used */
	size_t n_labels;
	size_t n_fresh;      /* routes of this generation */
	uint32_t generation; /* 0 or 1: changes with each peer of the FIB socket */
};

struct routes *routes_create(struct engine *engine)
{
	struct fib_config config = {.domain = engine->domain};
	struct routes *routes = calloc(1, sizeof(*routes));

	if (!routes)
		return NULL;
	routes->engine = engine;
	engine->fib4 = fib_create(AF_INET, &config);
	engine->fib6 = fib_create(AF_INET6, &config);
	engine->groups = nh_table_create(engine->domain);
	/* Sparse: only the pages of labels in use are ever taken. */
	engine->labels = mmap(NULL, LABELS_BYTES, PROT_READ | PROT_WRITE,
		// cppcheck-suppress invalidFunctionArg ; no file behind anonymous memory
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (engine->labels == MAP_FAILED)
		engine->labels = NULL;
	if (!engine->fib4 || !engine->fib6 || !engine->groups || !engine->labels) {
		routes_destroy(routes);
		return NULL;
	}
	return routes;
}

void routes_destroy(struct routes *routes)
{
	struct engine *engine;

	if (!routes)
		return;
	engine = routes->engine;
	fib_destroy(engine->fib4);
	fib_destroy(engine->fib6);
	nh_table_destroy(engine->groups);
	if (engine->labels)
		munmap((void *)engine->labels, LABELS_BYTES);
	engine->fib4 = engine->fib6 = NULL;
	engine->groups = NULL;
	engine->labels = NULL;
	free(routes);
}

static struct fib *table_of(const struct routes *routes, uint8_t family)
{
	return family == AF_INET ? routes->engine->fib4 : routes->engine->fib6;
}

static const struct ifaces *ifaces_of(struct routes *routes)
{
	return atomic_load(&routes->engine->ifaces);
}

static size_t total(const struct routes *routes)
{
	return fib_count(routes->engine->fib4) + fib_count(routes->engine->fib6) + routes->n_labels;
}

static bool is_stale(const struct routes *routes, uint32_t value)
{
	return ROUTE_GENERATION(value) != routes->generation;
}

/* A value left its table. */
static void release(struct routes *routes, uint32_t value)
{
	if (value == FIB_NO_ROUTE || value == 0)
		return;
	routes->n_fresh -= !is_stale(routes, value);
	nh_group_put(routes->engine->groups, ROUTE_GROUP(value));
}

static void set_label(struct routes *routes, uint32_t label, uint32_t value)
{
	uint32_t old = atomic_exchange(&routes->engine->labels[label], value);

	routes->n_labels += (size_t)(value != 0) - (old != 0);
	if (label >= routes->max_label)
		routes->max_label = label + 1;
	release(routes, old);
}

static int add(struct routes *routes, const struct fib_route *route)
{
	uint32_t group = nh_group_get(routes->engine->groups, route, ifaces_of(routes));
	uint32_t value = ROUTE_VALUE(group, route->prefix_len, routes->generation);
	uint32_t old = FIB_NO_ROUTE;
	int error = 0;

	if (group == 0)
		return ENOMEM;
	routes->n_fresh++;
	if (route->family == AF_MPLS)
		set_label(routes, route->dst.label, value);
	else
		error = fib_insert(table_of(routes, route->family), &route->dst, route->prefix_len,
			value, &old);
	release(routes, error ? value : old);
	return error;
}

static int delete (struct routes *routes, const struct fib_route *route)
{
	uint32_t old = FIB_NO_ROUTE;
	int error;

	if (route->family == AF_MPLS) {
		set_label(routes, route->dst.label, 0);
		return 0;
	}
	error = fib_remove(table_of(routes, route->family), &route->dst, route->prefix_len, &old);
	if (error == 0)
		release(routes, old);
	return error == ENOENT ? 0 : error;
}

int routes_apply(struct routes *routes, enum fib_msg_op op, const struct fib_route *route)
{
	return op == FIB_ADD ? add(routes, route) : op == FIB_DELETE ? delete (routes, route) : 0;
}

/* ---- stale routes ------------------------------------------------------------------------ */

#define BATCH 256

/* A walk must not change the table: it collects stale routes, which are dealt with behind it. */
struct batch {
	const struct routes *routes;
	uint8_t addrs[BATCH][16];
	unsigned lens[BATCH];
	uint32_t values[BATCH];
	unsigned n;
	size_t addr_size;
};

static bool collect_stale(void *ctx, const uint8_t *addr, unsigned len, uint32_t value)
{
	struct batch *batch = ctx;

	if (!is_stale(batch->routes, value))
		return true;
	memcpy(batch->addrs[batch->n], addr, batch->addr_size);
	batch->lens[batch->n] = len;
	batch->values[batch->n] = value;
	return ++batch->n < BATCH;
}

/* Removes one stale route from its table, or gives it to the other generation. */
static bool deal_with(
	struct routes *routes, struct fib *table, const struct batch *batch, unsigned i, bool sweep)
{
	uint32_t old, value = batch->values[i];

	if (!sweep)
		return fib_insert(table, batch->addrs[i], batch->lens[i],
			       ROUTE_VALUE(ROUTE_GROUP(value), batch->lens[i], routes->generation),
			       &old) == 0;
	if (fib_remove(table, batch->addrs[i], batch->lens[i], &old) != 0)
		return false;
	release(routes, old);
	return true;
}

static size_t each_stale(struct routes *routes, uint8_t family, bool sweep)
{
	struct batch batch = {.routes = routes, .addr_size = family == AF_INET ? 4 : 16};
	struct fib *table = table_of(routes, family);
	uint8_t last[16];
	unsigned last_len = 0;
	size_t n = 0;

	do {
		batch.n = 0;
		fib_walk(table, n == 0 ? NULL : last, last_len, collect_stale, &batch);
		for (unsigned i = 0; i < batch.n; i++) {
			if (!deal_with(routes, table, &batch, i, sweep)) {
				log_error("no memory to clean the FIB up; give the machine more");
				return n;
			}
		}
		if (batch.n > 0) {
			memcpy(last, batch.addrs[batch.n - 1], sizeof(last));
			last_len = batch.lens[batch.n - 1];
		}
		n += batch.n;
	} while (batch.n == BATCH);
	return n;
}

static size_t each_stale_label(struct routes *routes, bool sweep)
{
	size_t n = 0;

	for (uint32_t label = 0; label < routes->max_label; label++) {
		uint32_t value = routes->engine->labels[label];

		if (value == 0 || !is_stale(routes, value))
			continue;
		n++;
		if (sweep)
			set_label(routes, label, 0);
		else
			atomic_store(&routes->engine->labels[label],
				ROUTE_VALUE(
					ROUTE_GROUP(value), ROUTE_LEN(value), routes->generation));
	}
	return n;
}

static size_t each_stale_route(struct routes *routes, bool sweep)
{
	if (routes->n_fresh == total(routes))
		return 0;
	return each_stale(routes, AF_INET, sweep) + each_stale(routes, AF_INET6, sweep) +
	       each_stale_label(routes, sweep);
}

void routes_mark_stale(struct routes *routes)
{
	/*
	 * What is stale already must be of the generation that ends now, else the next one would
	 * take it for its own. That is rare: the last peer left before it had sent all.
	 */
	each_stale_route(routes, false);
	routes->generation ^= 1;
	routes->n_fresh = 0;
}

size_t routes_sweep(struct routes *routes)
{
	return each_stale_route(routes, true);
}

void routes_resolve(struct routes *routes)
{
	nh_table_resolve(routes->engine->groups, ifaces_of(routes));
}

/* ---- views ------------------------------------------------------------------------------- */

struct routes_count routes_count(const struct routes *routes)
{
	const struct engine *engine = routes->engine;

	return (struct routes_count){
		.ipv4 = fib_count(engine->fib4),
		.ipv6 = fib_count(engine->fib6),
		.mpls = routes->n_labels,
		.stale = total(routes) - routes->n_fresh,
		.memory = fib_memory(engine->fib4) + fib_memory(engine->fib6),
	};
}

static void fill_view(struct routes *routes, uint32_t value, struct route_view *out)
{
	const struct nh_group *group = nh_group_at(routes->engine->groups, ROUTE_GROUP(value));

	out->stale = is_stale(routes, value);
	out->route.action = group->action;
	out->route.protocol = group->protocol;
	out->route.n_nexthops = group->n;
	for (unsigned i = 0; i < group->n; i++) {
		out->route.nexthops[i] = group->nexthops[i].hop;
		out->ports[i] = group->nexthops[i].port;
	}
}

struct list {
	struct routes *routes;
	struct route_view *out;
	size_t n, max;
	uint8_t family;
};

static bool list_visitor(void *ctx, const uint8_t *addr, unsigned len, uint32_t value)
{
	struct list *list = ctx;
	struct route_view *view = &list->out[list->n];

	memset(view, 0, sizeof(*view));
	view->route.family = list->family;
	view->route.prefix_len = (uint8_t)len;
	memcpy(&view->route.dst, addr, list->family == AF_INET ? 4 : 16);
	fill_view(list->routes, value, view);
	return ++list->n < list->max;
}

size_t routes_list(struct routes *routes, uint8_t family, const struct fib_route *after,
	struct route_view *out, size_t max)
{
	struct list list = {.routes = routes, .out = out, .max = max, .family = family};

	if (max == 0)
		return 0;
	if (family != AF_MPLS) {
		fib_walk(table_of(routes, family), after ? &after->dst : NULL,
			after ? after->prefix_len : 0, list_visitor, &list);
		return list.n;
	}
	for (uint32_t label = after ? after->dst.label + 1 : 0;
		label < routes->max_label && list.n < max; label++) {
		uint32_t value = routes->engine->labels[label];
		struct route_view *view = &out[list.n];

		if (value == 0)
			continue;
		memset(view, 0, sizeof(*view));
		view->route.family = AF_MPLS;
		view->route.prefix_len = 20;
		view->route.dst.label = label;
		fill_view(routes, value, view);
		list.n++;
	}
	return list.n;
}

/* The value of exactly this key, or 0. */
static uint32_t get_value(const struct routes *routes, const struct fib_route *key)
{
	uint32_t value;

	if (key->family == AF_MPLS)
		return routes->engine->labels[key->dst.label];
	if (fib_get(table_of(routes, key->family), &key->dst, key->prefix_len, &value) != 0)
		return 0;
	return value;
}

bool routes_get(struct routes *routes, const struct fib_route *key, struct route_view *out)
{
	uint32_t value = get_value(routes, key);

	if (value == 0)
		return false;
	memset(out, 0, sizeof(*out));
	out->route.family = key->family;
	out->route.prefix_len = key->prefix_len;
	out->route.dst = key->dst;
	fill_view(routes, value, out);
	return true;
}

bool routes_match(struct routes *routes, const struct fib_route *key, struct route_view *out)
{
	struct fib_route found = *key;
	uint8_t *bytes = (uint8_t *)&found.dst;
	unsigned size = key->family == AF_INET ? 4 : 16;
	uint32_t value;

	if (key->family == AF_MPLS)
		return routes_get(routes, key, out);
	value = fib_lookup(table_of(routes, key->family), &key->dst);
	if (value == FIB_NO_ROUTE)
		return false;
	found.prefix_len = ROUTE_LEN(value);
	for (unsigned i = 0; i < size; i++) {
		unsigned keep = found.prefix_len > 8 * i ? found.prefix_len - 8 * i : 0;

		if (keep < 8)
			bytes[i] &= (uint8_t)(0xff00 >> keep);
	}
	return routes_get(routes, &found, out);
}
