/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/placement.h"

#include <string.h>

static uint64_t left_kib(const struct placement_server *server)
{
	return server->used_kib < server->memory_kib ? server->memory_kib - server->used_kib : 0;
}

static int choose_wanted(const struct placement_server *servers, size_t n, uint64_t need_kib,
	const char *wanted, const char *site, struct problem *problem)
{
	for (size_t i = 0; i < n; i++) {
		if (strcmp(servers[i].name, wanted) != 0)
			continue;
		if (servers[i].drained)
			return problem_set(problem, 409, "out-of-service",
				"server %s is drained: put it into service again with \"edgeplex "
				"server undrain %s\", or name another one",
				wanted, wanted);
		if (!servers[i].reachable)
			return problem_set(problem, 503, "server-unreachable",
				"server %s is not connected: check libvirtd there, or leave out "
				"\"server\"",
				wanted);
		if (left_kib(&servers[i]) < need_kib)
			return problem_set(problem, 409, "exhausted",
				"server %s has %llu MiB left of its memory_mib, and the VM needs "
				"%llu: "
				"raise memory_mib, or leave out \"server\"",
				wanted, (unsigned long long)left_kib(&servers[i]) / 1024,
				(unsigned long long)(need_kib + 1023) / 1024);
		return (int)i;
	}
	return problem_field(problem, "/server", "name a server of this site, or leave it out",
		"site %s has no server %s", site, wanted);
}

int placement_choose(const struct placement_server *servers, size_t n, uint64_t need_kib,
	const char *wanted, const char *site, struct problem *problem)
{
	if (wanted[0] != '\0')
		return choose_wanted(servers, n, need_kib, wanted, site, problem);
	if (n == 0)
		return problem_set(problem, 409, "not-ready",
			"site %s has no server: make one with \"edgeplex server create\"", site);

	int best = -1;
	bool any_reachable = false, any_in_service = false;
	for (size_t i = 0; i < n; i++) {
		any_in_service |= !servers[i].drained;
		any_reachable |= servers[i].reachable && !servers[i].drained;
		if (!servers[i].reachable || servers[i].drained || left_kib(&servers[i]) < need_kib)
			continue;
		if (best < 0 || left_kib(&servers[i]) > left_kib(&servers[best]))
			best = (int)i;
	}
	if (best >= 0)
		return best;
	if (!any_in_service)
		return problem_set(problem, 409, "out-of-service",
			"all other servers of site %s are drained: put one into service again with "
			"\"edgeplex server undrain\", or add one",
			site);
	if (!any_reachable)
		return problem_set(problem, 503, "server-unreachable",
			"no server of site %s that is in service is connected: check libvirtd on "
			"them (edgeplex "
			"server "
			"list shows their URIs)",
			site);
	return problem_set(problem, 409, "exhausted",
		"no server of site %s has %llu MiB left: add a server, or raise a server's "
		"memory_mib",
		site, (unsigned long long)(need_kib + 1023) / 1024);
}
