/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/placement.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define PER_MILLE 1000

static uint64_t left_kib(const struct placement_server *server)
{
	return server->used_kib < server->memory_kib ? server->memory_kib - server->used_kib : 0;
}

static bool has_risk(const struct placement_server *server, const char *name)
{
	for (size_t i = 0; server->risks != NULL && i < server->risks->n; i++) {
		if (strcmp(server->risks->name[i], name) == 0)
			return true;
	}
	return false;
}

static unsigned n_shared(const struct placement_server *a, const struct placement_server *b)
{
	unsigned n = 0;
	for (size_t i = 0; a->risks != NULL && i < a->risks->n; i++)
		n += has_risk(b, a->risks->name[i]);
	return n;
}

static const struct placement_server *find(
	const struct placement_server *servers, size_t n, int64_t id)
{
	for (size_t i = 0; i < n; i++) {
		if (servers[i].id == id)
			return &servers[i];
	}
	return NULL;
}

/* ---- judging ------------------------------------------------------------------------------ */

static enum placement_bar bar_of(const struct placement_server *server, uint64_t need_kib)
{
	if (server->barred != NULL)
		return PLACEMENT_BARRED;
	if (server->drained)
		return PLACEMENT_DRAINED;
	if (!server->reachable)
		return PLACEMENT_UNREACHABLE;
	return left_kib(server) < need_kib ? PLACEMENT_FULL : PLACEMENT_POSSIBLE;
}

static unsigned per_mille(uint64_t part, uint64_t whole)
{
	return whole == 0 ? PER_MILLE : (unsigned)(part * PER_MILLE / whole);
}

/* How full all servers with this risk are together. */
static unsigned load_of_risk(
	const struct placement_server *servers, size_t n, const char *risk, uint64_t need_kib)
{
	uint64_t used = need_kib, memory = 0;
	for (size_t i = 0; i < n; i++) {
		if (!has_risk(&servers[i], risk))
			continue;
		used += servers[i].used_kib;
		memory += servers[i].memory_kib;
	}
	return per_mille(used, memory);
}

/* A server without known risks is a group by itself. */
static unsigned load_of_groups(const struct placement_server *servers, size_t n,
	const struct placement_server *at, unsigned own_load, uint64_t need_kib)
{
	unsigned most = 0;
	if (at->risks == NULL || at->risks->n == 0)
		return own_load;
	for (size_t i = 0; i < at->risks->n; i++) {
		unsigned load = load_of_risk(servers, n, at->risks->name[i], need_kib);
		if (load > most)
			most = load;
	}
	return most;
}

static void count_others(const struct placement_server *servers, size_t n,
	const struct placement_request *request, const struct placement_server *at,
	struct placement_verdict *verdict)
{
	unsigned n_spares = 0, least_shared = 0;
	bool apart = false;
	for (size_t i = 0; i < request->n_others; i++) {
		const struct placement_other *other = &request->others[i];
		const struct placement_server *there = find(servers, n, other->server_id);
		if (there == NULL)
			continue;
		unsigned shared = there == at ? 0 : n_shared(at, there);
		if (other->kind == PLACEMENT_SPARE) {
			n_spares++;
			if (there != at && (!apart || shared < least_shared))
				least_shared = shared;
			apart |= there != at;
		} else if (there == at) {
			verdict->same[other->kind]++;
		} else if (other->kind != PLACEMENT_VOID) {
			verdict->shared[other->kind] += shared;
		}
	}
	verdict->same[PLACEMENT_SPARE] = n_spares > 0 && !apart;
	verdict->shared[PLACEMENT_SPARE] = least_shared;
}

static struct placement_verdict judge(const struct placement_server *servers, size_t n,
	const struct placement_request *request, const struct placement_server *at)
{
	struct placement_verdict verdict = {
		.bar = bar_of(at, request->need_kib),
		.load = per_mille(at->used_kib + request->need_kib, at->memory_kib),
		.left_kib = left_kib(at),
	};
	verdict.group_load = load_of_groups(servers, n, at, verdict.load, request->need_kib);
	count_others(servers, n, request, at, &verdict);
	return verdict;
}

void placement_judge(const struct placement_server *servers, size_t n,
	const struct placement_request *request, struct placement_verdict *verdicts)
{
	for (size_t i = 0; i < n; i++)
		verdicts[i] = judge(servers, n, request, &servers[i]);
}

/* The first kind in which two counts differ; PLACEMENT_KINDS: none. */
static enum placement_kind first_difference(const unsigned *a, const unsigned *b)
{
	for (unsigned kind = 0; kind < PLACEMENT_KINDS; kind++) {
		if (a[kind] != b[kind])
			return (enum placement_kind)kind;
	}
	return PLACEMENT_KINDS;
}

static int compare_counts(const unsigned *a, const unsigned *b)
{
	enum placement_kind kind = first_difference(a, b);
	if (kind == PLACEMENT_KINDS)
		return 0;
	return a[kind] < b[kind] ? -1 : 1;
}

int placement_compare(const struct placement_verdict *a, const struct placement_verdict *b)
{
	int order = compare_counts(a->same, b->same);
	if (order == 0)
		order = compare_counts(a->shared, b->shared);
	if (order == 0)
		order = (a->group_load > b->group_load) - (a->group_load < b->group_load);
	if (order == 0)
		order = (a->load > b->load) - (a->load < b->load);
	if (order == 0)
		order = (a->left_kib < b->left_kib) - (a->left_kib > b->left_kib);
	return order;
}

int placement_best(const struct placement_verdict *verdicts, size_t n)
{
	int best = -1;
	for (size_t i = 0; i < n; i++) {
		if (verdicts[i].bar == PLACEMENT_POSSIBLE &&
			(best < 0 || placement_compare(&verdicts[i], &verdicts[best]) < 0))
			best = (int)i;
	}
	return best;
}

/* ---- choosing ----------------------------------------------------------------------------- */

static int choose_wanted(const struct placement_server *servers, size_t n,
	const struct placement_request *request, struct problem *problem)
{
	const char *wanted = request->wanted;
	for (size_t i = 0; i < n; i++) {
		if (strcmp(servers[i].name, wanted) != 0)
			continue;
		switch (bar_of(&servers[i], request->need_kib)) {
		case PLACEMENT_BARRED:
			return problem_field(problem, "/server",
				"name another server of the site, or leave it out",
				"%s can't have "
				"it: %s",
				wanted, servers[i].barred);
		case PLACEMENT_DRAINED:
			return problem_set(problem, 409, "out-of-service",
				"server %s is drained: put it into service again with \"edgeplex "
				"server undrain %s\", or name another one",
				wanted, wanted);
		case PLACEMENT_UNREACHABLE:
			return problem_set(problem, 503, "server-unreachable",
				"server %s is not connected: check libvirtd there, or leave out "
				"\"server\"",
				wanted);
		case PLACEMENT_FULL:
			return problem_set(problem, 409, "exhausted",
				"server %s has %llu MiB left of its memory_mib, and the VM needs "
				"%llu: raise memory_mib, or leave out \"server\"",
				wanted, (unsigned long long)left_kib(&servers[i]) / 1024,
				(unsigned long long)(request->need_kib + 1023) / 1024);
		case PLACEMENT_POSSIBLE:
			return (int)i;
		}
	}
	return problem_field(problem, "/server", "name a server of this site, or leave it out",
		"site %s has no server %s", request->site, wanted);
}

/* Why none is possible. */
static int none_possible(const struct placement_server *servers, size_t n,
	const struct placement_request *request, struct problem *problem)
{
	bool may_go = false, in_service = false, reachable = false;
	for (size_t i = 0; i < n; i++) {
		bool here = servers[i].barred == NULL;
		may_go |= here;
		in_service |= here && !servers[i].drained;
		reachable |= here && !servers[i].drained && servers[i].reachable;
	}
	if (n == 0)
		return problem_set(problem, 409, "not-ready",
			"site %s has no server: make one with \"edgeplex server create\"",
			request->site);
	if (!may_go)
		return problem_set(problem, 409, "not-ready",
			"site %s has no other server that could have it (%s: %s): add one with "
			"\"edgeplex server create\"",
			request->site, servers[0].name, servers[0].barred);
	if (!in_service)
		return problem_set(problem, 409, "out-of-service",
			"all other servers of site %s are drained: put one into service again with "
			"\"edgeplex server undrain\", or add one",
			request->site);
	if (!reachable)
		return problem_set(problem, 503, "server-unreachable",
			"no server of site %s that is in service is connected: check libvirtd on "
			"them (edgeplex server list shows their URIs)",
			request->site);
	return problem_set(problem, 409, "exhausted",
		"no server of site %s has %llu MiB left: add a server, or raise a server's "
		"memory_mib",
		request->site, (unsigned long long)(request->need_kib + 1023) / 1024);
}

int placement_choose(const struct placement_server *servers, size_t n,
	const struct placement_request *request, struct problem *problem)
{
	struct placement_verdict best_verdict = {0};
	int best = -1;
	if (request->wanted[0] != '\0')
		return choose_wanted(servers, n, request, problem);
	for (size_t i = 0; i < n; i++) {
		struct placement_verdict verdict = judge(servers, n, request, &servers[i]);
		if (verdict.bar != PLACEMENT_POSSIBLE ||
			(best >= 0 && placement_compare(&verdict, &best_verdict) >= 0))
			continue;
		best = (int)i;
		best_verdict = verdict;
	}
	return best >= 0 ? best : none_possible(servers, n, request, problem);
}

/* ---- telling why -------------------------------------------------------------------------- */

__attribute__((format(printf, 4, 5))) static void say(
	placement_tell_fn tell, void *ctx, enum placement_say say, const char *fmt, ...)
{
	char text[512];
	va_list args;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	tell(ctx, say, text);
}

/* "rack=r1, power=a"; what doesn't fit is left out. */
static const char *list_shared(
	const struct placement_server *a, const struct placement_server *b, char *text, size_t size)
{
	size_t len = 0;
	text[0] = '\0';
	for (size_t i = 0; a->risks != NULL && i < a->risks->n && len < size; i++) {
		if (has_risk(b, a->risks->name[i]))
			len += (size_t)snprintf(text + len, size - len, "%s%s", len > 0 ? ", " : "",
				a->risks->name[i]);
	}
	return text;
}

/* What the other is to it. */
static const char *relation(enum placement_kind kind)
{
	static const char *const names[PLACEMENT_KINDS] = {
		[PLACEMENT_STANDBY] = "of two of which one goes on when the other fails",
		[PLACEMENT_FAILED] = "where it failed",
		[PLACEMENT_SPARE] = "which would stand in for it",
		[PLACEMENT_POOL] = "of the same pool",
		[PLACEMENT_STOOD_FOR] = "for which it would stand in",
		[PLACEMENT_CUSTOMER] = "of the same customer",
		[PLACEMENT_VOID] = "which isn't ended yet",
	};
	return names[kind];
}

/* The others only count: a pool's spare can't be apart from every PVM of the site. */
static bool is_rule(enum placement_kind kind)
{
	return kind == PLACEMENT_STANDBY || kind == PLACEMENT_SPARE || kind == PLACEMENT_POOL ||
	       kind == PLACEMENT_CUSTOMER;
}

/* A rule about the spares isn't broken by each of them, only by all together. */
static void tell_spares(const struct placement_server *servers, size_t n,
	const struct placement_request *request, const struct placement_server *at,
	const struct placement_verdict *verdict, placement_tell_fn tell, void *ctx)
{
	size_t n_spares = 0;
	for (size_t i = 0; i < request->n_others; i++)
		n_spares += request->others[i].kind == PLACEMENT_SPARE &&
			    find(servers, n, request->others[i].server_id) != NULL;
	if (n_spares == 0)
		return;
	if (verdict->same[PLACEMENT_SPARE] > 0)
		say(tell, ctx, PLACEMENT_UNMET,
			"every spare that could stand in for it is on %s, too", at->name);
	else if (verdict->shared[PLACEMENT_SPARE] > 0)
		say(tell, ctx, PLACEMENT_UNMET,
			"every spare on another server shares a risk with %s", at->name);
	else
		say(tell, ctx, PLACEMENT_FOR, "a spare could stand in for it that fails apart");
}

static void tell_others(const struct placement_server *servers, size_t n,
	const struct placement_request *request, const struct placement_server *at,
	placement_tell_fn tell, void *ctx)
{
	char risks[256];
	for (size_t i = 0; i < request->n_others; i++) {
		const struct placement_other *other = &request->others[i];
		const struct placement_server *there = find(servers, n, other->server_id);
		enum placement_say against =
			is_rule(other->kind) ? PLACEMENT_UNMET : PLACEMENT_AGAINST;
		if (there == NULL || other->kind == PLACEMENT_SPARE)
			continue;
		if (there == at)
			say(tell, ctx, against, "%s is on the same server (%s)", other->name,
				relation(other->kind));
		else if (other->kind == PLACEMENT_VOID)
			continue;
		else if (list_shared(at, there, risks, sizeof(risks))[0] != '\0')
			say(tell, ctx, against, "%s, on %s, shares %s (%s)", other->name,
				there->name, risks, relation(other->kind));
		else
			say(tell, ctx, PLACEMENT_FOR, "apart from %s, on %s", other->name,
				there->name);
	}
}

void placement_tell(const struct placement_server *servers, size_t n,
	const struct placement_request *request, size_t i, placement_tell_fn tell, void *ctx)
{
	assert(i < n);
	const struct placement_server *at = &servers[i];
	struct placement_verdict verdict = judge(servers, n, request, at);
	unsigned long long left = verdict.left_kib / 1024, need = (request->need_kib + 1023) / 1024;

	switch (verdict.bar) {
	case PLACEMENT_BARRED:
		say(tell, ctx, PLACEMENT_AGAINST, "%s", at->barred);
		break;
	case PLACEMENT_DRAINED:
		say(tell, ctx, PLACEMENT_AGAINST, "it is drained");
		break;
	case PLACEMENT_UNREACHABLE:
		say(tell, ctx, PLACEMENT_AGAINST, "it is not connected");
		break;
	case PLACEMENT_FULL:
		say(tell, ctx, PLACEMENT_AGAINST, "it has %llu MiB left, and %llu are needed", left,
			need);
		break;
	case PLACEMENT_POSSIBLE:
		say(tell, ctx, PLACEMENT_FOR, "it has %llu MiB left, and %llu are needed", left,
			need);
		break;
	}
	tell_others(servers, n, request, at, tell, ctx);
	tell_spares(servers, n, request, at, &verdict, tell, ctx);
}

/* The first of the others because of which `bad` is a worse place than `good`. */
static bool name_worse(const struct placement_server *servers, size_t n,
	const struct placement_request *request, const struct placement_server *bad, bool same,
	enum placement_kind kind, char *text, size_t size)
{
	char risks[256];
	for (size_t i = 0; i < request->n_others; i++) {
		const struct placement_other *other = &request->others[i];
		const struct placement_server *there = find(servers, n, other->server_id);
		if (there == NULL || other->kind != kind || (there == bad) != same)
			continue;
		if (same) {
			snprintf(text, size, "%s is on %s (%s)", other->name, bad->name,
				relation(kind));
			return true;
		}
		if (list_shared(bad, there, risks, sizeof(risks))[0] == '\0')
			continue;
		snprintf(text, size, "%s would share %s with %s, on %s (%s)", bad->name, risks,
			other->name, there->name, relation(kind));
		return true;
	}
	return false;
}

void placement_why_not(const struct placement_server *servers, size_t n,
	const struct placement_request *request, size_t at, size_t other, char *text, size_t size)
{
	assert(at < n && other < n);
	const struct placement_server *bad = &servers[other];
	struct placement_verdict good = judge(servers, n, request, &servers[at]),
				 worse = judge(servers, n, request, bad);
	static const char *const bars[] = {[PLACEMENT_DRAINED] = "is drained",
		[PLACEMENT_UNREACHABLE] = "is not connected",
		[PLACEMENT_FULL] = "has too little memory left"};

	if (worse.bar == PLACEMENT_BARRED) {
		snprintf(text, size, "%s: %s", bad->name, bad->barred);
		return;
	}
	if (worse.bar != PLACEMENT_POSSIBLE) {
		snprintf(text, size, "%s %s", bad->name, bars[worse.bar]);
		return;
	}
	if (placement_compare(&good, &worse) > 0) {
		snprintf(text, size, "%s would be better, but the operator asked for %s", bad->name,
			servers[at].name);
		return;
	}
	enum placement_kind kind = first_difference(good.same, worse.same);
	bool same = kind != PLACEMENT_KINDS;
	if (!same)
		kind = first_difference(good.shared, worse.shared);
	if (kind != PLACEMENT_KINDS && name_worse(servers, n, request, bad, same, kind, text, size))
		return;
	if (good.group_load != worse.group_load)
		snprintf(text, size,
			"what shares a risk with %s would have %.1f %% of its memory in use, with "
			"%s %.1f %%",
			bad->name, worse.group_load / 10.0, servers[at].name,
			good.group_load / 10.0);
	else if (good.load != worse.load)
		snprintf(text, size, "%s would have %.1f %% of its memory in use, %s %.1f %%",
			bad->name, worse.load / 10.0, servers[at].name, good.load / 10.0);
	else if (good.left_kib != worse.left_kib)
		snprintf(text, size, "%s has less memory left", bad->name);
	else
		snprintf(text, size, "%s is as good, and comes later in the list", bad->name);
}
