/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Sites. */

#include "controller/registry_internal.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define DEFAULT_INSIDE_BASE 0x64400000u /* 100.64.0.0/10 (RFC 6598): shared address space */
#define DEFAULT_INSIDE_COUNT 16384      /* of /24s in it */

/* The lowest /24 of 100.64.0.0/10, from 100.64.1.0 on, that no site uses. */
static int choose_inside(
	struct site *site, const struct site *sites, size_t n, struct problem *problem)
{
	for (uint32_t k = 1; k < DEFAULT_INSIDE_COUNT; k++) {
		struct ep_prefix candidate = {.family = AF_INET, .len = 24};
		candidate.addr.v4.s_addr = htonl(DEFAULT_INSIDE_BASE + (k << 8));
		bool taken = ep_prefix_overlaps(&candidate, &site->core_address) ||
			     ep_prefix_contains(&candidate, &site->pe_address);
		for (size_t i = 0; i < n && !taken; i++)
			taken = ep_prefix_overlaps(&candidate, &sites[i].inside) ||
				ep_prefix_overlaps(&candidate, &sites[i].core_address) ||
				ep_prefix_contains(&candidate, &sites[i].pe_address);
		if (!taken) {
			site->inside = candidate;
			return 0;
		}
	}
	return problem_set(problem, 409, "exhausted",
		"no /24 of 100.64.0.0/10 is free for the site's inside network: give \"inside\"");
}

static void check_site_against(
	const struct site *site, const struct site *other, struct problem *problem)
{
	if (ep_prefix_equal(&site->pe_address, &other->pe_address))
		problem_field(problem, "/pe_address", "give every PE its own address",
			"is the address of site %s", other->name);
	if (site->transport_label == other->transport_label &&
		site->transport_label != MODEL_LABEL_IMPLICIT_NULL)
		problem_field(problem, "/transport_label", "give every PE its own transport label",
			"%u is the label of site %s", site->transport_label, other->name);
	if (strcmp(site->switch_target, other->switch_target) == 0)
		problem_field(problem, "/switch", "give every site its own edge switch",
			"is the switch of site %s", other->name);
	/* A PVM's router ID is its inside address, and BGP drops routes that seem to be one's own.
	 */
	if (site->inside.family != 0 && ep_prefix_overlaps(&site->inside, &other->inside))
		problem_field(problem, "/inside", "choose another network, or leave it out",
			"overlaps that of site %s", other->name);
	if (ep_prefix_equal(&site->core_address, &other->core_address))
		problem_field(problem, "/core/address", "give the address of this site's link",
			"is the core link address of site %s", other->name);
}

int registry_site_create(
	struct store *store, struct site *site, bool dry_run, struct problem *problem)
{
	struct site *sites = NULL;
	size_t n = 0;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (store_site_list(store, &sites, &n) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		if (strcmp(site->name, sites[i].name) == 0) {
			registry_exists(problem, "site", site->name);
			goto out;
		}
	}
	for (size_t i = 0; i < n; i++)
		check_site_against(site, &sites[i], problem);
	if (problem->status != 0)
		goto out;
	if (site->inside.family == 0 && choose_inside(site, sites, n, problem) != 0)
		goto out;
	if (store_site_insert(store, site) != 0)
		registry_database_failed(store, problem);
out:
	free(sites);
	return registry_end(store, dry_run, problem);
}

/* Labels or VLANs that are in use must stay within the range. */
static void check_range_change(struct store *store, int64_t scope, enum alloc_kind kind,
	const char *field, struct range range, struct problem *problem)
{
	uint32_t all = 0, within = 0;
	struct range any = {0, UINT32_MAX};
	if (store_alloc_count(store, scope, kind, any, &all) != 0 ||
		store_alloc_count(store, scope, kind, range, &within) != 0)
		registry_database_failed(store, problem);
	else if (all != within)
		problem_field(problem, field, "choose a range that holds those in use",
			"%u values in use lie outside %u-%u", all - within, range.first,
			range.last);
}

int registry_site_change(struct store *store, const char *name, registry_site_edit edit, void *ctx,
	struct site *site, struct problem *problem)
{
	struct site *sites = NULL;
	size_t n = 0;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_site(store, name, site, problem) != 0 || edit(ctx, site, problem) != 0)
		goto out;
	if (store_site_list(store, &sites, &n) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		if (sites[i].id != site->id)
			check_site_against(site, &sites[i], problem);
	}
	check_range_change(store, site->id, ALLOC_LABEL, "/labels", site->labels, problem);
	check_range_change(store, site->id, ALLOC_VLAN, "/vlans", site->vlans, problem);
	if (problem->status == 0 && store_site_update(store, site) != 0)
		registry_database_failed(store, problem);
out:
	free(sites);
	return registry_finish(store, problem);
}

int registry_site_delete(struct store *store, const char *name, struct problem *problem)
{
	struct site site;
	struct server *servers = NULL;
	struct port *ports = NULL;
	struct cvm cvm;
	size_t n_servers = 0, n_ports = 0;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_site(store, name, &site, problem) != 0)
		goto out;
	if (store_port_list(store, &ports, &n_ports) != 0 ||
		store_server_list(store, &servers, &n_servers) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n_ports; i++) {
		if (ports[i].site_id == site.id)
			problem_set(problem, 409, "in-use",
				"site %s has port %s: delete its ports first", name, ports[i].name);
	}
	if (store_cvm_get(store, name, &cvm) == 0)
		problem_set(problem, 409, "in-use",
			"site %s has a CVM: delete it first (edgeplex cvm delete %s)", name, name);
	for (size_t i = 0; i < n_servers; i++) {
		if (servers[i].site_id == site.id)
			problem_set(problem, 409, "in-use",
				"site %s has server %s: delete its servers first", name,
				servers[i].name);
	}
	if (problem->status == 0 && store_site_delete(store, site.id) != 0)
		registry_database_failed(store, problem);
out:
	free(ports);
	free(servers);
	return registry_finish(store, problem);
}
