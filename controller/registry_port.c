/* SPDX-License-Identifier: GPL-2.0-or-later */

/* Ports, and what each is given. */

#include "controller/registry_internal.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_PVM_HOST 10 /* of the inside network; lower numbers are for the site's own use */

static void check_mtu(const struct port *port, const struct site *site, struct problem *problem)
{
	char fix[64];
	if (port->mtu + MODEL_LABELS_BYTES <= site->core_mtu)
		return;
	snprintf(fix, sizeof(fix), "choose at most %u", site->core_mtu - MODEL_LABELS_BYTES);
	problem_field(problem, "/mtu", fix,
		"%u and two labels don't fit the core link's MTU of %u at site %s", port->mtu,
		site->core_mtu, site->name);
}

/* The customer's link must not hide what the PVM itself needs to reach. */
static void check_link_against_site(
	const struct port *port, const struct site *site, struct problem *problem)
{
	for (size_t i = 0; i < port->n_addresses; i++) {
		char field[32];
		snprintf(field, sizeof(field), "/addresses/%zu", i);
		const struct ep_prefix *link = &port->addresses[i];
		if (ep_prefix_overlaps(link, &site->inside) ||
			ep_prefix_overlaps(link, &site->core_address))
			problem_field(problem, field, "choose another subnet",
				"overlaps the inside network or the core link of site %s",
				site->name);
	}
	for (size_t i = 0; i < port->n_ce; i++) {
		char field[32];
		snprintf(field, sizeof(field), "/ce/%zu/asn", i);
		if (port->ce[i].asn == site->asn)
			problem_field(problem, field, "give the customer's own AS number",
				"%u is the AS of site %s, and a customer speaks eBGP",
				port->ce[i].asn, site->name);
	}
}

static void check_links_against_port(
	const struct port *port, const struct port *other, struct problem *problem)
{
	for (size_t i = 0; i < port->n_addresses; i++) {
		for (size_t j = 0; j < other->n_addresses; j++) {
			if (!ep_prefix_overlaps(&port->addresses[i], &other->addresses[j]))
				continue;
			char field[32], text[EP_PREFIX_STRLEN];
			snprintf(field, sizeof(field), "/addresses/%zu", i);
			problem_field(problem, field,
				"choose a subnet that no other port of this customer uses",
				"port addresses overlap: %s is in use by port %s",
				ep_prefix_format(&other->addresses[j], text), other->name);
		}
	}
}

static void check_port_against(
	const struct port *port, const struct port *other, struct problem *problem)
{
	if (port->customer_id == other->customer_id)
		check_links_against_port(port, other, problem);
	if (port->site_id != other->site_id || strcmp(port->switch_port, other->switch_port) != 0 ||
		port->vlan != other->vlan)
		return;
	if (port->vlan == 0)
		problem_field(problem, "/switch_port",
			"choose another port of the switch, or a VLAN",
			"untagged frames of %s are in use by port %s", port->switch_port,
			other->name);
	else
		problem_field(problem, "/vlan", "choose another VLAN or another port of the switch",
			"VLAN %u of %s is in use by port %s", port->vlan, port->switch_port,
			other->name);
}

static void check_port(struct store *store, const struct port *port, const struct site *site,
	struct problem *problem)
{
	struct port *ports = NULL;
	struct server *servers = NULL;
	size_t n = 0, n_servers = 0;
	if (store_port_list(store, &ports, &n) != 0 ||
		store_server_list(store, &servers, &n_servers) != 0)
		registry_database_failed(store, problem);
	check_link_against_site(port, site, problem);
	for (size_t i = 0; i < n; i++) {
		if (ports[i].id != port->id)
			check_port_against(port, &ports[i], problem);
	}
	if (strcmp(port->switch_port, site->core_port) == 0)
		problem_field(problem, "/switch_port",
			"name the port that the customer is plugged in",
			"%s is the core port of site %s", port->switch_port, site->name);
	for (size_t i = 0; i < n_servers; i++) {
		if (servers[i].site_id == site->id &&
			strcmp(servers[i].trunk, port->switch_port) == 0)
			problem_field(problem, "/switch_port",
				"name the port that the customer is plugged in",
				"%s is the trunk of server %s", port->switch_port, servers[i].name);
	}
	free(ports);
	free(servers);
}

static struct range inside_hosts(const struct site *site)
{
	return (struct range){FIRST_PVM_HOST, (1u << (32 - site->inside.len)) - 2};
}

static int give_port(
	struct store *store, struct port *port, const struct site *site, struct problem *problem)
{
	char owner[48];
	uint32_t host;
	snprintf(owner, sizeof(owner), "port/%s", port->name);
	if (registry_new_uuid(port->uuid, problem) != 0 ||
		registry_allocate(store, site, ALLOC_LABEL, site->labels, owner, &port->label,
			problem) != 0 ||
		registry_allocate_vlan(store, site, owner, &port->vlan_cust, problem) != 0 ||
		registry_allocate_vlan(store, site, owner, &port->vlan_core, problem) != 0 ||
		registry_allocate(store, site, ALLOC_INSIDE, inside_hosts(site), owner, &host,
			problem) != 0 ||
		registry_allocate(store, site, ALLOC_RD, (struct range){1, REGISTRY_RD_MAX}, owner,
			&port->rd_number, problem) != 0)
		return -1;
	port->inside = registry_inside_host(site, host);
	return registry_allocate_mac(store, model_port_mac(port->id), owner, problem);
}

static int check_new_port(
	struct store *store, struct port *port, struct site *site, struct problem *problem)
{
	struct port present;
	struct customer customer;
	struct cvm cvm;
	if (store_port_get(store, port->name, &present) == 0)
		return registry_exists(problem, "port", port->name);
	int err = store_customer_get(store, port->customer, &customer);
	if (err == ENOENT)
		problem_field(problem, "/customer",
			"create the customer first; \"edgeplex customer list\" shows those there "
			"are",
			"there is no customer %s", port->customer);
	else if (err != 0)
		return registry_database_failed(store, problem);
	if (registry_referred_site(store, port->site, site, problem) != 0 || problem->status != 0)
		return -1;
	port->customer_id = customer.id;
	port->vpn_id = customer.vpn_id;
	port->site_id = site->id;
	check_mtu(port, site, problem);
	check_port(store, port, site, problem);
	if (problem->status != 0)
		return -1;
	err = store_cvm_get(store, site->name, &cvm);
	if (err == ENOENT || (err == 0 && cvm.state == PORT_DELETING))
		return problem_set(problem, 409, "not-ready",
			"site %s has no CVM: make it with \"edgeplex cvm create %s\"", site->name,
			site->name);
	return err == 0 ? 0 : registry_database_failed(store, problem);
}

int registry_port_create(struct store *store, struct port *port, struct operation *op,
	registry_reachable_fn reachable, void *ctx, bool dry_run, struct problem *problem)
{
	struct site site = {0};
	if (registry_begin(store, problem) != 0)
		return -1;
	port->state = PORT_CREATING;
	if (check_new_port(store, port, &site, problem) != 0)
		goto out;
	assert(site.id != 0);
	if (store_port_insert(store, port) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	if (give_port(store, port, &site, problem) != 0)
		goto out;
	char object[48];
	snprintf(object, sizeof(object), "port/%s", port->name);
	const struct placing placing = {
		.object = object, .need_kib = site.pvm_memory_kib, .wanted = port->wanted_server};
	if (registry_place(store, &site, &placing, reachable, ctx, &port->server_id, port->server,
		    problem) != 0)
		goto out;
	if (store_port_update(store, port) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	char inside[EP_PREFIX_STRLEN];
	registry_step_done(op, "allocate", "label %u, VLANs %u and %u, inside address %s",
		port->label, port->vlan_cust, port->vlan_core,
		ep_addr_format(&port->inside, inside));
	registry_step_done(op, "place", "server %s", port->server);
	registry_add_operation(store, op, problem);
out:
	return registry_end(store, dry_run, problem);
}

static int check_port_idle(struct store *store, const struct port *port, struct problem *problem)
{
	char object[48];
	snprintf(object, sizeof(object), "port/%s", port->name);
	return registry_check_idle(store, object, problem);
}

/* What a change may touch comes from `wanted`, everything else stays as it is now. */
static void take_changes(struct port *port, const struct port *wanted)
{
	port->n_addresses = wanted->n_addresses;
	memcpy(port->addresses, wanted->addresses, sizeof(port->addresses));
	port->n_ce = wanted->n_ce;
	memcpy(port->ce, wanted->ce, sizeof(port->ce));
	port->has_ce_mac = wanted->has_ce_mac;
	port->ce_mac = wanted->ce_mac;
	port->graceful_restart_s = wanted->graceful_restart_s;
}

int registry_port_change(struct store *store, const struct port *wanted, struct operation *op,
	struct problem *problem)
{
	struct site site;
	struct port port;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_port(store, wanted->name, &port, problem) != 0 ||
		check_port_idle(store, &port, problem) != 0 ||
		registry_referred_site(store, port.site, &site, problem) != 0)
		goto out;
	if (port.state != PORT_ACTIVE) {
		problem_set(problem, 409, "not-ready",
			"port %s is half made or half deleted: delete it, then create it again",
			port.name);
		goto out;
	}
	take_changes(&port, wanted);
	check_port(store, &port, &site, problem);
	if (problem->status != 0)
		goto out;
	if (store_port_update(store, &port) != 0)
		registry_database_failed(store, problem);
	else
		registry_add_operation(store, op, problem);
out:
	return registry_finish(store, problem);
}

int registry_port_delete(
	struct store *store, const char *name, struct operation *op, struct problem *problem)
{
	struct port port;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_port(store, name, &port, problem) != 0 ||
		check_port_idle(store, &port, problem) != 0)
		goto out;
	port.state = PORT_DELETING;
	if (store_port_update(store, &port) != 0)
		registry_database_failed(store, problem);
	else
		registry_add_operation(store, op, problem);
out:
	return registry_finish(store, problem);
}

int registry_port_move(struct store *store, const char *name, const char *wanted,
	struct operation *op, registry_reachable_fn reachable, void *ctx, struct problem *problem)
{
	struct site site;
	struct port port;
	if (registry_begin(store, problem) != 0)
		return -1;
	if (registry_find_port(store, name, &port, problem) != 0 ||
		check_port_idle(store, &port, problem) != 0 ||
		registry_check_movable(op->object, port.state, port.started, &port.move,
			port.server, wanted, problem) != 0 ||
		registry_referred_site(store, port.site, &site, problem) != 0)
		goto out;
	const struct placing placing = {.object = op->object,
		.need_kib = site.pvm_memory_kib,
		.wanted = wanted,
		.but = {port.server_id},
		.but_why = "it is there now"};
	if (registry_place(store, &site, &placing, reachable, ctx, &port.move.server_id,
		    port.move.server, problem) != 0)
		goto out;
	port.move.state = MOVE_COPYING;
	if (store_port_update(store, &port) != 0) {
		registry_database_failed(store, problem);
		goto out;
	}
	registry_step_done(
		op, "place", "from server %s to server %s", port.server, port.move.server);
	registry_add_operation(store, op, problem);
out:
	return registry_finish(store, problem);
}

int registry_port_remove(struct store *store, const struct port *port)
{
	char owner[48];
	snprintf(owner, sizeof(owner), "port/%s", port->name);
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_alloc_release(store, owner);
	if (err == 0)
		err = store_placement_forget(store, owner);
	if (err == 0)
		err = store_port_delete(store, port->id);
	if (err != 0 && err != ENOENT) {
		store_rollback(store);
		return err;
	}
	return store_commit(store);
}
