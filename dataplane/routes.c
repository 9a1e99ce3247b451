/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/routes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "dataplane/engine.h"
#include "dataplane/lpm.h"
#include "dataplane/nexthop.h"

#define LABELS_BYTES ((LABEL_MAX + 1ul) * sizeof(uint32_t))

struct routes {
	struct engine *engine;
	uint32_t max_label; /* labels above have never been used */
	size_t n_labels;
	size_t n_stale;
};

struct routes *routes_create(struct engine *engine)
{
	struct routes *routes = calloc(1, sizeof(*routes));

	if (!routes)
		return NULL;
	routes->engine = engine;
	engine->fib4 = lpm_create(32, engine->epoch);
	engine->fib6 = lpm_create(128, engine->epoch);
	engine->groups = nh_table_create(engine->epoch);
	/* Sparse: only the pages of labels in use are ever taken. */
	engine->labels = mmap(NULL, LABELS_BYTES, PROT_READ | PROT_WRITE,
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
	lpm_destroy(engine->fib4);
	lpm_destroy(engine->fib6);
	nh_table_destroy(engine->groups);
	if (engine->labels)
		munmap((void *)engine->labels, LABELS_BYTES);
	engine->fib4 = engine->fib6 = NULL;
	engine->groups = NULL;
	engine->labels = NULL;
	free(routes);
}

static struct lpm *table_of(struct routes *routes, uint8_t family)
{
	return family == AF_INET ? routes->engine->fib4 : routes->engine->fib6;
}

static const struct ifaces *ifaces_of(struct routes *routes)
{
	return atomic_load(&routes->engine->ifaces);
}

/* A value left its table. */
static void release(struct routes *routes, uint32_t value)
{
	if (value == 0)
		return;
	if (value & ROUTE_STALE)
		routes->n_stale--;
	nh_group_put(routes->engine->groups, value & ~ROUTE_STALE);
}

static int add(struct routes *routes, const struct fib_route *route)
{
	uint32_t value = nh_group_get(routes->engine->groups, route, ifaces_of(routes));
	uint32_t old = 0;
	int error = 0;

	if (value == 0)
		return ENOMEM;
	if (route->family == AF_MPLS) {
		old = atomic_exchange(&routes->engine->labels[route->dst.label], value);
		routes->n_labels += old == 0;
		if (route->dst.label >= routes->max_label)
			routes->max_label = route->dst.label + 1;
	} else {
		error = lpm_insert(table_of(routes, route->family), &route->dst, route->prefix_len,
			value, &old);
	}
	release(routes, error ? value : old);
	return error;
}

static int delete (struct routes *routes, const struct fib_route *route)
{
	uint32_t old = 0;
	int error = 0;

	if (route->family == AF_MPLS) {
		old = atomic_exchange(&routes->engine->labels[route->dst.label], 0);
		routes->n_labels -= old != 0;
	} else {
		error = lpm_delete(
			table_of(routes, route->family), &route->dst, route->prefix_len, &old);
	}
	release(routes, old);
	return error;
}

int routes_apply(struct routes *routes, enum fib_msg_op op, const struct fib_route *route)
{
	return op == FIB_ADD ? add(routes, route) : op == FIB_DELETE ? delete (routes, route) : 0;
}

/* ---- stale routes ------------------------------------------------------------------------ */

static bool mark_visitor(void *ctx, const uint8_t *addr, unsigned len, uint32_t *value)
{
	struct routes *routes = ctx;

	(void)addr;
	(void)len;
	routes->n_stale += !(*value & ROUTE_STALE);
	*value |= ROUTE_STALE;
	return true;
}

void routes_mark_stale(struct routes *routes)
{
	struct engine *engine = routes->engine;

	lpm_walk(engine->fib4, NULL, 0, mark_visitor, routes);
	lpm_walk(engine->fib6, NULL, 0, mark_visitor, routes);
	for (uint32_t label = 0; label < routes->max_label; label++) {
		uint32_t value = engine->labels[label];

		if (value != 0 && mark_visitor(routes, NULL, 0, &value))
			atomic_store(&engine->labels[label], value);
	}
}

#define SWEEP_BATCH 256

struct batch {
	uint8_t addrs[SWEEP_BATCH][16];
	unsigned lens[SWEEP_BATCH];
	unsigned n;
};

static bool stale_visitor(void *ctx, const uint8_t *addr, unsigned len, uint32_t *value)
{
	struct batch *batch = ctx;

	if (!(*value & ROUTE_STALE))
		return true;
	memcpy(batch->addrs[batch->n], addr, sizeof(batch->addrs[0]));
	batch->lens[batch->n] = len;
	return ++batch->n < SWEEP_BATCH;
}

/* The walk must not change the table, so it collects a batch; then it goes on behind it. */
static size_t sweep_table(struct routes *routes, struct lpm *table)
{
	struct batch batch;
	uint8_t last[16];
	unsigned last_len = 0;
	size_t n = 0;

	do {
		batch.n = 0;
		lpm_walk(table, n == 0 ? NULL : last, last_len, stale_visitor, &batch);
		for (unsigned i = 0; i < batch.n; i++) {
			uint32_t old;

			if (lpm_delete(table, batch.addrs[i], batch.lens[i], &old) != 0)
				return n;
			release(routes, old);
		}
		if (batch.n > 0) {
			memcpy(last, batch.addrs[batch.n - 1], sizeof(last));
			last_len = batch.lens[batch.n - 1];
		}
		n += batch.n;
	} while (batch.n == SWEEP_BATCH);
	return n;
}

size_t routes_sweep(struct routes *routes)
{
	struct engine *engine = routes->engine;
	size_t n = sweep_table(routes, engine->fib4) + sweep_table(routes, engine->fib6);

	for (uint32_t label = 0; label < routes->max_label; label++) {
		if (!(engine->labels[label] & ROUTE_STALE))
			continue;
		release(routes, atomic_exchange(&engine->labels[label], 0));
		routes->n_labels--;
		n++;
	}
	return n;
}

void routes_resolve(struct routes *routes)
{
	nh_table_resolve(routes->engine->groups, ifaces_of(routes));
}

/* ---- views ------------------------------------------------------------------------------- */

struct routes_count routes_count(const struct routes *routes)
{
	struct routes_count count = {
		.ipv4 = lpm_count(routes->engine->fib4),
		.ipv6 = lpm_count(routes->engine->fib6),
		.mpls = routes->n_labels,
		.stale = routes->n_stale,
	};
	size_t used, taken;

	lpm_memory(routes->engine->fib4, &used, &taken);
	count.memory += used;
	lpm_memory(routes->engine->fib6, &used, &taken);
	count.memory += used;
	return count;
}

static void fill_view(struct routes *routes, uint32_t value, struct route_view *out)
{
	const struct nh_group *group = nh_group_at(routes->engine->groups, value & ~ROUTE_STALE);

	out->stale = value & ROUTE_STALE;
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

static bool list_visitor(void *ctx, const uint8_t *addr, unsigned len, uint32_t *value)
{
	struct list *list = ctx;
	struct route_view *view = &list->out[list->n];

	memset(view, 0, sizeof(*view));
	view->route.family = list->family;
	view->route.prefix_len = (uint8_t)len;
	memcpy(&view->route.dst, addr, list->family == AF_INET ? 4 : 16);
	fill_view(list->routes, *value, view);
	return ++list->n < list->max;
}

size_t routes_list(struct routes *routes, uint8_t family, const struct fib_route *after,
	struct route_view *out, size_t max)
{
	struct list list = {.routes = routes, .out = out, .max = max, .family = family};

	if (max == 0)
		return 0;
	if (family != AF_MPLS) {
		lpm_walk(table_of(routes, family), after ? &after->dst : NULL,
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

bool routes_get(struct routes *routes, const struct fib_route *key, struct route_view *out)
{
	uint32_t value = key->family == AF_MPLS ? routes->engine->labels[key->dst.label]
						: lpm_get(table_of(routes, key->family), &key->dst,
							  key->prefix_len);

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
	unsigned len, size = key->family == AF_INET ? 4 : 16;

	if (key->family == AF_MPLS)
		return routes_get(routes, key, out);
	if (lpm_lookup(table_of(routes, key->family), &key->dst, &len) == 0)
		return false;
	for (unsigned i = 0; i < size; i++) {
		unsigned keep = len > 8 * i ? len - 8 * i : 0;

		if (keep < 8)
			bytes[i] &= (uint8_t)(0xff00 >> keep);
	}
	found.prefix_len = (uint8_t)len;
	return routes_get(routes, &found, out);
}
