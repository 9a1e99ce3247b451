/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Servers: what they are, and taking them out of service. */

#include "controller/registry_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check_server_against(
	const struct server *server, const struct server *other, struct problem *problem)
{
	if (strcmp(server->uri, other->uri) == 0)
		problem_field(problem, "/uri", "give every server its own libvirt",
			"is the URI of server %s", other->name);
	if (server->hostd[0] != '\0' && strcmp(server->hostd, other->hostd) == 0)
		problem_field(problem, "/hostd", "give every server its own hostd",
			"is the hostd of server %s", other->name);
	if (server->site_id == other->site_id && strcmp(server->trunk, other->trunk) == 0)
		problem_field(problem, "/trunk", "give every server its own trunk port",
			"%s is the trunk of server %s", server->trunk, other->name);
}

/* A trunk can be neither the core port nor a customer's. */
static void check_trunk(
	struct store *store, const struct site *site, const char *trunk, struct problem *problem)
{
	struct port *ports = NULL;
	size_t n = 0;
	if (strcmp(site->core_port, trunk) == 0)
		problem_field(problem, "/trunk", "name the switch's port that leads to this server",
			"%s is the core port of site %s", trunk, site->name);
	if (store_port_list(store, &ports, &n) != 0)
		registry_database_failed(store, problem);
	for (size_t i = 0; i < n; i++) {
		if (ports[i].site_id == site->id && strcmp(ports[i].switch_port, trunk) == 0)
			problem_field(problem, "/trunk",
				"name the switch's port that leads to this server",
				"%s is the customer port %s", trunk, ports[i].name);
	}
	free(ports);
}

int registry_server_create(
	struct store *store, struct server *server, bool dry_run, struct problem *problem)
{
	struct server *servers = NULL;
	struct site site;
	size_t n = 0;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (store_server_list(store, &servers, &n) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		if (strcmp(server->name, servers[i].name) == 0) {
			registry_exists(problem, "server", server->name);
			goto out;
		}
	}
	if (registry_referred_site(store, server->site, &site, problem) != 0)
		goto out;
	server->site_id = site.id;
	for (size_t i = 0; i < n; i++)
		check_server_against(server, &servers[i], problem);
	check_trunk(store, &site, server->trunk, problem);
	if (problem->status == 0 && store_server_insert(store, server) != 0)
		registry_database_failed(store, problem);
out:
	free(servers);
	return registry_end(store, dry_run, problem);
}

int registry_server_change(struct store *store, const char *name, registry_server_edit edit,
	void *ctx, struct server *server, struct problem *problem)
{
	struct server *servers = NULL;
	size_t n = 0;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_server(store, name, server, problem) != 0 ||
		edit(ctx, server, problem) != 0)
		goto out;
	if (store_server_list(store, &servers, &n) != 0)
		registry_database_failed(store, problem);
	for (size_t i = 0; i < n; i++) {
		if (servers[i].id != server->id)
			check_server_against(server, &servers[i], problem);
	}
	if (problem->status == 0 && store_server_update(store, server) != 0)
		registry_database_failed(store, problem);
out:
	free(servers);
	return registry_finish(store, problem);
}

int registry_server_delete(struct store *store, const char *name, struct problem *problem)
{
	struct server server;
	struct port *ports = NULL;
	struct cvm *cvms = NULL;
	struct protection *protections = NULL;
	struct spare *spares = NULL;
	size_t n_ports = 0, n_cvms = 0, n_protections = 0, n_spares = 0;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_server(store, name, &server, problem) != 0)
		goto out;
	if (store_port_list(store, &ports, &n_ports) != 0 ||
		store_cvm_list(store, &cvms, &n_cvms) != 0 ||
		store_protection_list(store, &protections, &n_protections) != 0 ||
		store_spare_list(store, &spares, &n_spares) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n_spares; i++) {
		if (spares[i].server_id == server.id)
			problem_set(problem, 409, "in-use",
				"server %s carries a spare of site %s: drain it first (edgeplex "
				"server drain %s), or have fewer (edgeplex site set %s --spares N)",
				name, spares[i].site, name, spares[i].site);
	}
	for (size_t i = 0; i < n_ports; i++) {
		if (ports[i].server_id == server.id || ports[i].move.server_id == server.id)
			problem_set(problem, 409, "in-use",
				"server %s carries the PVM of port %s: move it away (edgeplex "
				"server "
				"drain %s), or delete that port first",
				name, ports[i].name, name);
	}
	for (size_t i = 0; i < n_cvms; i++) {
		if (cvms[i].server_id == server.id || cvms[i].move.server_id == server.id)
			problem_set(problem, 409, "in-use",
				"server %s carries the CVM of site %s: delete that first", name,
				cvms[i].site);
	}
	for (size_t i = 0; i < n_protections; i++) {
		if (protections[i].standby_id == server.id)
			problem_set(problem, 409, "in-use",
				"server %s carries the standby of the CVM of site %s: move it away "
				"(edgeplex server drain %s), or \"edgeplex cvm unprotect %s\" "
				"first",
				name, protections[i].site, name, protections[i].site);
	}
	if (problem->status == 0)
		registry_forget_voids(store, server.id, problem);
	if (problem->status == 0 && store_server_delete(store, server.id) != 0)
		registry_database_failed(store, problem);
out:
	free(ports);
	free(cvms);
	free(protections);
	free(spares);
	return registry_finish(store, problem);
}

/* ---- taking servers out of service --------------------------------------------------------- */

static int set_drained(struct store *store, const char *name, bool drained, struct operation *op,
	struct problem *problem)
{
	struct server server;
	char object[48];
	snprintf(object, sizeof(object), "server/%.30s", name);
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_server(store, name, &server, problem) != 0 ||
		registry_check_idle(store, object, problem) != 0)
		goto out;
	if (store_server_set_drained(store, server.id, drained) != 0)
		registry_database_failed(store, problem);
	else if (op != NULL)
		registry_add_operation(store, op, problem);
out:
	return registry_finish(store, problem);
}

int registry_server_drain(
	struct store *store, const char *name, struct operation *op, struct problem *problem)
{
	return set_drained(store, name, true, op, problem);
}

int registry_server_undrain(struct store *store, const char *name, struct problem *problem)
{
	return set_drained(store, name, false, NULL, problem);
}
