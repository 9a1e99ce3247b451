/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_PLACEMENT_H
#define EDGEPLEX_PLACEMENT_H

/* Which server a VM goes to. Pure; thread-safe. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "controller/problem.h"

struct placement_server {
	const char *name;
	bool reachable;
	bool drained;        /* out of service */
	uint64_t memory_kib; /* that VMs may use together */
	uint64_t used_kib;   /* by VMs that are placed there, running or not */
};

/*
 * Chooses among a site's servers for a VM of `need_kib`: `wanted` if not empty, else the reachable
 * one in service with the most memory left (the first of equals). Returns its index, or -1 with
 * `problem` (409 exhausted, 409 out-of-service, 503 server-unreachable, 422 on /server). `site` is
 * for messages.
 */
int placement_choose(const struct placement_server *servers, size_t n, uint64_t need_kib,
	const char *wanted, const char *site, struct problem *problem);

#endif
