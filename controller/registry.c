/* SPDX-License-Identifier: GPL-2.0-or-later */

/* What the registry's files share: transactions, looking objects up, operations, allocations. */

#include "controller/registry_internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

int registry_database_failed(struct store *store, struct problem *problem)
{
	return problem_set(problem, 500, "internal",
		"the database can't be used (%s): check disk space and permissions of the state "
		"directory",
		store_error_text(store));
}

int registry_begin(struct store *store, struct problem *problem)
{
	return store_begin(store) == 0 ? 0 : registry_database_failed(store, problem);
}

int registry_end(struct store *store, bool dry_run, struct problem *problem)
{
	if (problem->status != 0 || dry_run) {
		store_rollback(store);
		return problem->status != 0 ? -1 : 0;
	}
	return store_commit(store) == 0 ? 0 : registry_database_failed(store, problem);
}

int registry_finish(struct store *store, struct problem *problem)
{
	return registry_end(store, false, problem);
}

#define FIND(what, getter)                                                                   \
	int registry_find_##what(struct store *store, const char *name, struct what *object, \
		struct problem *problem)                                                     \
	{                                                                                    \
		int err = getter(store, name, object);                                       \
		if (err == ENOENT)                                                           \
			return problem_set(problem, 404, "not-found",                        \
				"there is no " #what " %.40s: \"edgeplex " #what             \
				" list\" shows those there are",                             \
				name);                                                       \
		return err == 0 ? 0 : registry_database_failed(store, problem);              \
	}

FIND(site, store_site_get)
FIND(server, store_server_get)
FIND(customer, store_customer_get)
FIND(port, store_port_get)
FIND(cvm, store_cvm_get)

int registry_exists(struct problem *problem, const char *what, const char *name)
{
	return problem_set(problem, 409, "exists",
		"there is a %s %s already: choose another name, or change that one", what, name);
}

int registry_referred_site(
	struct store *store, const char *name, struct site *site, struct problem *problem)
{
	int err = store_site_get(store, name, site);
	if (err == ENOENT)
		return problem_field(problem, "/site",
			"create the site first; \"edgeplex site list\" shows those there are",
			"there is no site %s", name);
	return err == 0 ? 0 : registry_database_failed(store, problem);
}

/* ---- operations --------------------------------------------------------------------------- */

int registry_check_idle(struct store *store, const char *object, struct problem *problem)
{
	int64_t id;
	int err = store_operation_of(store, object, &id);
	if (err == ENOENT)
		return 0;
	if (err != 0)
		return registry_database_failed(store, problem);
	return problem_set(problem, 409, "in-use",
		"operation %lld works on %s: wait for its end (edgeplex operation show %lld)",
		(long long)id, object, (long long)id);
}

int registry_add_operation(struct store *store, struct operation *op, struct problem *problem)
{
	return store_operation_insert(store, op) == 0 ? 0
						      : registry_database_failed(store, problem);
}

void registry_step_done(struct operation *op, const char *name, const char *fmt, ...)
{
	for (size_t i = 0; i < op->n_steps; i++) {
		struct operation_step *step = &op->steps[i];
		if (strcmp(step->name, name) != 0)
			continue;
		va_list args;
		va_start(args, fmt);
		vsnprintf(step->detail, sizeof(step->detail), fmt, args);
		va_end(args);
		step->state = STEP_SUCCEEDED;
		step->started_ms = step->took_ms = 0;
	}
}

int registry_check_movable(const char *what, enum port_state state, bool started,
	const struct second_copy *move, const char *server, const char *wanted,
	struct problem *problem)
{
	if (state != PORT_ACTIVE || !started)
		return problem_set(problem, 409, "not-ready",
			"%s is half made or half deleted: delete it, then create it again", what);
	if (move->state != MOVE_NONE)
		return problem_set(problem, 409, "not-ready",
			"the copy of %s that an earlier move left on server %s isn't ended yet: "
			"that happens by itself as soon as that server answers",
			what, move->server);
	if (strcmp(server, wanted) == 0)
		return problem_field(problem, "/server",
			"name another server of the site, or leave it out",
			"%s is on server %s already", what, wanted);
	return 0;
}

/* ---- what ports and CVMs are given --------------------------------------------------------- */

int registry_new_uuid(char uuid[MODEL_UUID_SIZE], struct problem *problem)
{
	unsigned char b[16];
	if (getrandom(b, sizeof(b), 0) != (ssize_t)sizeof(b))
		return problem_set(problem, 500, "internal", "the kernel gave no random numbers");
	b[6] = (b[6] & 0x0f) | 0x40; /* version 4, variant 1 (RFC 9562, section 5.4) */
	b[8] = (b[8] & 0x3f) | 0x80;
	snprintf(uuid, MODEL_UUID_SIZE,
		"%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
		b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
		b[15]);
	return 0;
}

int registry_allocate(struct store *store, const struct site *site, enum alloc_kind kind,
	struct range range, const char *owner, uint32_t *value, struct problem *problem)
{
	static const char *const what[] = {
		[ALLOC_LABEL] = "label: raise the site's \"labels\"",
		[ALLOC_VLAN] = "VLAN: raise the site's \"vlans\"",
		[ALLOC_INSIDE] = "inside address: the site is full",
		[ALLOC_RD] = "route distinguisher",
	};
	int64_t scope = kind == ALLOC_RD ? 0 : site->id;
	int err = store_alloc_lowest(store, scope, kind, range, owner, value);
	if (err == ENOSPC)
		return problem_set(problem, 409, "exhausted",
			"site %s has no free %s (all of %u-%u are taken), or delete ports that are "
			"not needed",
			site->name, what[kind], range.first, range.last);
	return err == 0 ? 0 : registry_database_failed(store, problem);
}

int registry_allocate_vlan(struct store *store, const struct site *site, const char *owner,
	uint32_t *vlan, struct problem *problem)
{
	return registry_allocate(store, site, ALLOC_VLAN, site->vlans, owner, vlan, problem);
}

int registry_allocate_mac(
	struct store *store, struct ep_mac mac, const char *owner, struct problem *problem)
{
	int64_t value = 0;
	for (size_t i = 0; i < sizeof(mac.bytes); i++)
		value = value << 8 | mac.bytes[i];
	int err = store_alloc_exact(store, 0, ALLOC_MAC, value, owner);
	return err == 0 ? 0 : registry_database_failed(store, problem);
}

struct ep_prefix registry_inside_host(const struct site *site, uint32_t host)
{
	struct ep_prefix addr = site->inside;
	addr.len = 32;
	addr.addr.v4.s_addr = htonl(ntohl(site->inside.addr.v4.s_addr) + host);
	return addr;
}
