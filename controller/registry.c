/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/registry_internal.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#define FIRST_PVM_HOST 10 /* of the inside network; lower numbers are for the site's own use */
#define CVM_HOST 1
#define DEFAULT_INSIDE_BASE 0x64400000u /* 100.64.0.0/10 (RFC 6598): shared address space */
#define DEFAULT_INSIDE_COUNT 16384      /* of /24s in it */
#define RD_MAX 65535 /* an RD of a four-byte AS has 16 bits for it (RFC 4364, section 4.2) */
#define FIRST_VPN_ID 100

static int database_failed(struct store *store, struct problem *problem)
{
	return problem_set(problem, 500, "internal",
		"the database can't be used (%s): check disk space and permissions of the state "
		"directory",
		store_error_text(store));
}

static int begin(struct store *store, struct problem *problem)
{
	return store_begin(store) == 0 ? 0 : database_failed(store, problem);
}

/* Ends a transaction: keeps it if there is no problem. */
static int finish(struct store *store, bool dry_run, struct problem *problem)
{
	if (problem->status != 0 || dry_run) {
		store_rollback(store);
		return problem->status != 0 ? -1 : 0;
	}
	return store_commit(store) == 0 ? 0 : database_failed(store, problem);
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
		return err == 0 ? 0 : database_failed(store, problem);                       \
	}

FIND(site, store_site_get)
FIND(server, store_server_get)
FIND(customer, store_customer_get)
FIND(port, store_port_get)
FIND(cvm, store_cvm_get)

static int exists(struct problem *problem, const char *what, const char *name)
{
	return problem_set(problem, 409, "exists",
		"there is a %s %s already: choose another name, or change that one", what, name);
}

/* ---- sites -------------------------------------------------------------------------------- */

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
	if (begin(store, problem) != 0)
		return -1;
	if (store_site_list(store, &sites, &n) != 0) {
		database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		if (strcmp(site->name, sites[i].name) == 0) {
			exists(problem, "site", site->name);
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
		database_failed(store, problem);
out:
	free(sites);
	return finish(store, dry_run, problem);
}

/* Labels or VLANs that are in use must stay within the range. */
static void check_range_change(struct store *store, int64_t scope, enum alloc_kind kind,
	const char *field, struct range range, struct problem *problem)
{
	uint32_t all = 0, within = 0;
	struct range any = {0, UINT32_MAX};
	if (store_alloc_count(store, scope, kind, any, &all) != 0 ||
		store_alloc_count(store, scope, kind, range, &within) != 0)
		database_failed(store, problem);
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
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_site(store, name, site, problem) != 0 || edit(ctx, site, problem) != 0)
		goto out;
	if (store_site_list(store, &sites, &n) != 0) {
		database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		if (sites[i].id != site->id)
			check_site_against(site, &sites[i], problem);
	}
	check_range_change(store, site->id, ALLOC_LABEL, "/labels", site->labels, problem);
	check_range_change(store, site->id, ALLOC_VLAN, "/vlans", site->vlans, problem);
	if (problem->status == 0 && store_site_update(store, site) != 0)
		database_failed(store, problem);
out:
	free(sites);
	return finish(store, false, problem);
}

int registry_site_delete(struct store *store, const char *name, struct problem *problem)
{
	struct site site;
	struct server *servers = NULL;
	struct port *ports = NULL;
	struct cvm cvm;
	size_t n_servers = 0, n_ports = 0;
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_site(store, name, &site, problem) != 0)
		goto out;
	if (store_port_list(store, &ports, &n_ports) != 0 ||
		store_server_list(store, &servers, &n_servers) != 0) {
		database_failed(store, problem);
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
		database_failed(store, problem);
out:
	free(ports);
	free(servers);
	return finish(store, false, problem);
}

/* ---- servers ------------------------------------------------------------------------------ */

/* An object that a request refers to: an unknown one is a wrong field, not a wrong URL. */
static int referred_site(
	struct store *store, const char *name, struct site *site, struct problem *problem)
{
	int err = store_site_get(store, name, site);
	if (err == ENOENT)
		return problem_field(problem, "/site",
			"create the site first; \"edgeplex site list\" shows those there are",
			"there is no site %s", name);
	return err == 0 ? 0 : database_failed(store, problem);
}

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
		database_failed(store, problem);
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
	if (begin(store, problem) != 0)
		return -1;
	if (store_server_list(store, &servers, &n) != 0) {
		database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		if (strcmp(server->name, servers[i].name) == 0) {
			exists(problem, "server", server->name);
			goto out;
		}
	}
	if (referred_site(store, server->site, &site, problem) != 0)
		goto out;
	server->site_id = site.id;
	for (size_t i = 0; i < n; i++)
		check_server_against(server, &servers[i], problem);
	check_trunk(store, &site, server->trunk, problem);
	if (problem->status == 0 && store_server_insert(store, server) != 0)
		database_failed(store, problem);
out:
	free(servers);
	return finish(store, dry_run, problem);
}

int registry_server_change(struct store *store, const char *name, registry_server_edit edit,
	void *ctx, struct server *server, struct problem *problem)
{
	struct server *servers = NULL;
	size_t n = 0;
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_server(store, name, server, problem) != 0 ||
		edit(ctx, server, problem) != 0)
		goto out;
	if (store_server_list(store, &servers, &n) != 0)
		database_failed(store, problem);
	for (size_t i = 0; i < n; i++) {
		if (servers[i].id != server->id)
			check_server_against(server, &servers[i], problem);
	}
	if (problem->status == 0 && store_server_update(store, server) != 0)
		database_failed(store, problem);
out:
	free(servers);
	return finish(store, false, problem);
}

int registry_server_delete(struct store *store, const char *name, struct problem *problem)
{
	struct server server;
	struct port *ports = NULL;
	struct cvm *cvms = NULL;
	struct protection *protections = NULL;
	struct spare *spares = NULL;
	size_t n_ports = 0, n_cvms = 0, n_protections = 0, n_spares = 0;
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_server(store, name, &server, problem) != 0)
		goto out;
	if (store_port_list(store, &ports, &n_ports) != 0 ||
		store_cvm_list(store, &cvms, &n_cvms) != 0 ||
		store_protection_list(store, &protections, &n_protections) != 0 ||
		store_spare_list(store, &spares, &n_spares) != 0) {
		database_failed(store, problem);
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
		database_failed(store, problem);
out:
	free(ports);
	free(cvms);
	free(protections);
	free(spares);
	return finish(store, false, problem);
}

/* ---- customers ---------------------------------------------------------------------------- */

static int choose_vpn_id(
	struct customer *customer, const struct customer *others, size_t n, struct problem *problem)
{
	for (uint32_t id = FIRST_VPN_ID; id <= RD_MAX; id++) {
		bool taken = false;
		for (size_t i = 0; i < n && !taken; i++)
			taken = others[i].vpn_id == id;
		if (!taken) {
			customer->vpn_id = id;
			return 0;
		}
	}
	return problem_set(problem, 409, "exhausted",
		"every VPN ID from %u to %u is taken: delete customers that have left",
		FIRST_VPN_ID, RD_MAX);
}

int registry_customer_create(
	struct store *store, struct customer *customer, struct problem *problem)
{
	struct customer *others = NULL;
	size_t n = 0;
	if (begin(store, problem) != 0)
		return -1;
	if (store_customer_list(store, &others, &n) != 0) {
		database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		if (strcmp(customer->name, others[i].name) == 0) {
			exists(problem, "customer", customer->name);
			goto out;
		}
	}
	for (size_t i = 0; i < n; i++) {
		if (customer->vpn_id == others[i].vpn_id)
			problem_field(problem, "/vpn_id", "choose another, or leave it out",
				"%u is the VPN of customer %s", customer->vpn_id, others[i].name);
	}
	if (problem->status != 0)
		goto out;
	if (customer->vpn_id == 0 && choose_vpn_id(customer, others, n, problem) != 0)
		goto out;
	if (store_customer_insert(store, customer) != 0)
		database_failed(store, problem);
out:
	free(others);
	return finish(store, false, problem);
}

int registry_customer_delete(struct store *store, const char *name, struct problem *problem)
{
	struct customer customer;
	struct port *ports = NULL;
	size_t n = 0;
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_customer(store, name, &customer, problem) != 0)
		goto out;
	if (store_port_list(store, &ports, &n) != 0) {
		database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		if (ports[i].customer_id == customer.id)
			problem_set(problem, 409, "in-use",
				"customer %s has port %s: delete its ports first", name,
				ports[i].name);
	}
	if (problem->status == 0 && store_customer_delete(store, customer.id) != 0)
		database_failed(store, problem);
out:
	free(ports);
	return finish(store, false, problem);
}

/* ---- what ports and CVMs are given --------------------------------------------------------- */

static int new_uuid(char uuid[MODEL_UUID_SIZE], struct problem *problem)
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

static int allocate(struct store *store, const struct site *site, enum alloc_kind kind,
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
	return err == 0 ? 0 : database_failed(store, problem);
}

static int allocate_mac(
	struct store *store, struct ep_mac mac, const char *owner, struct problem *problem)
{
	int64_t value = 0;
	for (size_t i = 0; i < sizeof(mac.bytes); i++)
		value = value << 8 | mac.bytes[i];
	int err = store_alloc_exact(store, 0, ALLOC_MAC, value, owner);
	return err == 0 ? 0 : database_failed(store, problem);
}

static struct ep_prefix inside_host(const struct site *site, uint32_t host)
{
	struct ep_prefix addr = site->inside;
	addr.len = 32;
	addr.addr.v4.s_addr = htonl(ntohl(site->inside.addr.v4.s_addr) + host);
	return addr;
}

static struct range inside_hosts(const struct site *site)
{
	return (struct range){FIRST_PVM_HOST, (1u << (32 - site->inside.len)) - 2};
}

static bool is_at(const struct server *server, const struct site *site)
{
	return server->site_id == site->id;
}

/* ---- ports -------------------------------------------------------------------------------- */

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
		database_failed(store, problem);
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

/* One operation at a time may work on an object. */
static int check_idle(struct store *store, const char *object, struct problem *problem)
{
	int64_t id;
	int err = store_operation_of(store, object, &id);
	if (err == ENOENT)
		return 0;
	if (err != 0)
		return database_failed(store, problem);
	return problem_set(problem, 409, "in-use",
		"operation %lld works on %s: wait for its end (edgeplex operation show %lld)",
		(long long)id, object, (long long)id);
}

static int add_operation(struct store *store, struct operation *op, struct problem *problem)
{
	return store_operation_insert(store, op) == 0 ? 0 : database_failed(store, problem);
}

/* This step of the operation was done here, in the same transaction. */
__attribute__((format(printf, 3, 4))) static void done_already(
	struct operation *op, const char *name, const char *fmt, ...)
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

static int give_port(
	struct store *store, struct port *port, const struct site *site, struct problem *problem)
{
	char owner[48];
	uint32_t host;
	snprintf(owner, sizeof(owner), "port/%s", port->name);
	if (new_uuid(port->uuid, problem) != 0 ||
		allocate(store, site, ALLOC_LABEL, site->labels, owner, &port->label, problem) !=
			0 ||
		allocate(store, site, ALLOC_VLAN, site->vlans, owner, &port->vlan_cust, problem) !=
			0 ||
		allocate(store, site, ALLOC_VLAN, site->vlans, owner, &port->vlan_core, problem) !=
			0 ||
		allocate(store, site, ALLOC_INSIDE, inside_hosts(site), owner, &host, problem) !=
			0 ||
		allocate(store, site, ALLOC_RD, (struct range){1, RD_MAX}, owner, &port->rd_number,
			problem) != 0)
		return -1;
	port->inside = inside_host(site, host);
	return allocate_mac(store, model_port_mac(port->id), owner, problem);
}

static int check_new_port(
	struct store *store, struct port *port, struct site *site, struct problem *problem)
{
	struct port present;
	struct customer customer;
	struct cvm cvm;
	if (store_port_get(store, port->name, &present) == 0)
		return exists(problem, "port", port->name);
	int err = store_customer_get(store, port->customer, &customer);
	if (err == ENOENT)
		problem_field(problem, "/customer",
			"create the customer first; \"edgeplex customer list\" shows those there "
			"are",
			"there is no customer %s", port->customer);
	else if (err != 0)
		return database_failed(store, problem);
	if (referred_site(store, port->site, site, problem) != 0 || problem->status != 0)
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
	return err == 0 ? 0 : database_failed(store, problem);
}

int registry_port_create(struct store *store, struct port *port, struct operation *op,
	registry_reachable_fn reachable, void *ctx, bool dry_run, struct problem *problem)
{
	struct site site = {0};
	if (begin(store, problem) != 0)
		return -1;
	port->state = PORT_CREATING;
	if (check_new_port(store, port, &site, problem) != 0)
		goto out;
	assert(site.id != 0);
	if (store_port_insert(store, port) != 0) {
		database_failed(store, problem);
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
		database_failed(store, problem);
		goto out;
	}
	char inside[EP_PREFIX_STRLEN];
	done_already(op, "allocate", "label %u, VLANs %u and %u, inside address %s", port->label,
		port->vlan_cust, port->vlan_core, ep_addr_format(&port->inside, inside));
	done_already(op, "place", "server %s", port->server);
	add_operation(store, op, problem);
out:
	return finish(store, dry_run, problem);
}

static int check_port_idle(struct store *store, const struct port *port, struct problem *problem)
{
	char object[48];
	snprintf(object, sizeof(object), "port/%s", port->name);
	return check_idle(store, object, problem);
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
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_port(store, wanted->name, &port, problem) != 0 ||
		check_port_idle(store, &port, problem) != 0 ||
		referred_site(store, port.site, &site, problem) != 0)
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
		database_failed(store, problem);
	else
		add_operation(store, op, problem);
out:
	return finish(store, false, problem);
}

int registry_port_delete(
	struct store *store, const char *name, struct operation *op, struct problem *problem)
{
	struct port port;
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_port(store, name, &port, problem) != 0 ||
		check_port_idle(store, &port, problem) != 0)
		goto out;
	port.state = PORT_DELETING;
	if (store_port_update(store, &port) != 0)
		database_failed(store, problem);
	else
		add_operation(store, op, problem);
out:
	return finish(store, false, problem);
}

/* What stands in the way of moving a VM to the server `wanted` ("": any). */
static int check_movable(const char *what, enum port_state state, bool started,
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

int registry_port_move(struct store *store, const char *name, const char *wanted,
	struct operation *op, registry_reachable_fn reachable, void *ctx, struct problem *problem)
{
	struct site site;
	struct port port;
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_port(store, name, &port, problem) != 0 ||
		check_port_idle(store, &port, problem) != 0 ||
		check_movable(op->object, port.state, port.started, &port.move, port.server, wanted,
			problem) != 0 ||
		referred_site(store, port.site, &site, problem) != 0)
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
		database_failed(store, problem);
		goto out;
	}
	done_already(op, "place", "from server %s to server %s", port.server, port.move.server);
	add_operation(store, op, problem);
out:
	return finish(store, false, problem);
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

/* ---- taking servers out of service --------------------------------------------------------- */

static int set_drained(struct store *store, const char *name, bool drained, struct operation *op,
	struct problem *problem)
{
	struct server server;
	char object[48];
	snprintf(object, sizeof(object), "server/%.30s", name);
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_server(store, name, &server, problem) != 0 ||
		check_idle(store, object, problem) != 0)
		goto out;
	if (store_server_set_drained(store, server.id, drained) != 0)
		database_failed(store, problem);
	else if (op != NULL)
		add_operation(store, op, problem);
out:
	return finish(store, false, problem);
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

/* ---- CVMs --------------------------------------------------------------------------------- */

int registry_cvm_create(struct store *store, const char *name, struct operation *op,
	registry_reachable_fn reachable, void *ctx, struct problem *problem)
{
	struct site site;
	struct cvm cvm = {.state = PORT_CREATING};
	char owner[48];
	snprintf(owner, sizeof(owner), "cvm/%s", name);
	if (begin(store, problem) != 0)
		return -1;
	if (referred_site(store, name, &site, problem) != 0)
		goto out;
	struct cvm present;
	if (store_cvm_get(store, name, &present) == 0) {
		problem_set(problem, 409, "exists", "site %s has its CVM already", name);
		goto out;
	}
	cvm.site_id = site.id;
	cvm.inside = inside_host(&site, CVM_HOST);
	if (new_uuid(cvm.uuid, problem) != 0 ||
		allocate(store, &site, ALLOC_VLAN, site.vlans, owner, &cvm.vlan_core, problem) !=
			0 ||
		allocate(store, &site, ALLOC_VLAN, site.vlans, owner, &cvm.vlan_inside, problem) !=
			0 ||
		allocate_mac(store, model_pe_mac(site.id), owner, problem) != 0 ||
		allocate_mac(store, model_inside_mac(site.id), owner, problem) != 0)
		goto out;
	const struct placing placing = {
		.object = owner, .need_kib = site.cvm_memory_kib, .wanted = ""};
	if (registry_place(store, &site, &placing, reachable, ctx, &cvm.server_id, cvm.server,
		    problem) != 0)
		goto out;
	if (store_cvm_insert(store, &cvm) != 0) {
		database_failed(store, problem);
		goto out;
	}
	done_already(op, "allocate", "VLANs %u and %u", cvm.vlan_core, cvm.vlan_inside);
	done_already(op, "place", "server %s", cvm.server);
	add_operation(store, op, problem);
out:
	return finish(store, false, problem);
}

int registry_cvm_delete(
	struct store *store, const char *name, struct operation *op, struct problem *problem)
{
	struct cvm cvm;
	struct port *ports = NULL;
	size_t n = 0;
	char object[48];
	snprintf(object, sizeof(object), "cvm/%.30s", name);
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_cvm(store, name, &cvm, problem) != 0 ||
		check_idle(store, object, problem) != 0)
		goto out;
	if (store_port_list(store, &ports, &n) != 0) {
		database_failed(store, problem);
		goto out;
	}
	for (size_t i = 0; i < n; i++) {
		if (ports[i].site_id == cvm.site_id)
			problem_set(problem, 409, "in-use",
				"the CVM of site %s serves port %s: delete the site's ports first",
				name, ports[i].name);
	}
	cvm.state = PORT_DELETING;
	if (problem->status == 0 && store_cvm_update(store, &cvm) != 0)
		database_failed(store, problem);
	if (problem->status == 0)
		add_operation(store, op, problem);
out:
	free(ports);
	return finish(store, false, problem);
}

/* While a standby takes over nobody can say where the CVM is. */
static int check_not_failing_over(struct store *store, const char *name, struct problem *problem)
{
	struct protection protection;
	int err = store_protection_get(store, name, &protection);
	if (err == ENOENT || (err == 0 && protection.state != PROTECTION_TAKEOVER))
		return 0;
	if (err != 0)
		return database_failed(store, problem);
	return problem_set(problem, 409, "in-use",
		"the standby of the CVM of site %s is just taking over: wait until \"edgeplex cvm "
		"show %s\" says protected",
		name, name);
}

int registry_cvm_move(struct store *store, const char *name, const char *wanted,
	struct operation *op, registry_reachable_fn reachable, void *ctx, struct problem *problem)
{
	struct site site;
	struct cvm cvm;
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_cvm(store, name, &cvm, problem) != 0 ||
		check_idle(store, op->object, problem) != 0 ||
		check_movable(op->object, cvm.state, cvm.started, &cvm.move, cvm.server, wanted,
			problem) != 0 ||
		referred_site(store, name, &site, problem) != 0 ||
		check_not_failing_over(store, name, problem) != 0)
		goto out;
	/* Its standby, which the move ends first, may be just there. */
	const struct placing placing = {.object = op->object,
		.need_kib = site.cvm_memory_kib,
		.wanted = wanted,
		.but = {cvm.server_id},
		.but_why = "it is there now",
		.but_standby = true};
	if (registry_place(store, &site, &placing, reachable, ctx, &cvm.move.server_id,
		    cvm.move.server, problem) != 0)
		goto out;
	cvm.move.state = MOVE_COPYING;
	if (store_cvm_update(store, &cvm) != 0) {
		database_failed(store, problem);
		goto out;
	}
	done_already(op, "place", "from server %s to server %s", cvm.server, cvm.move.server);
	add_operation(store, op, problem);
out:
	return finish(store, false, problem);
}

/* ---- protection of CVMs ------------------------------------------------------------------- */

/* The CVM and its protection, which may be idle for an operation. */
static int find_protection(struct store *store, const char *name, const struct operation *op,
	struct cvm *cvm, struct protection *protection, struct problem *problem)
{
	if (registry_find_cvm(store, name, cvm, problem) != 0 ||
		check_idle(store, op->object, problem) != 0)
		return -1;
	int err = store_protection_get(store, name, protection);
	if (err == ENOENT)
		return problem_set(problem, 409, "not-protected",
			"the CVM of site %s isn't protected: \"edgeplex cvm protect %s\"", name,
			name);
	return err == 0 ? 0 : database_failed(store, problem);
}

static void take_request(struct protection *protection, const struct protection_request *request)
{
	if (request->has_standby)
		snprintf(protection->wanted_server, sizeof(protection->wanted_server), "%s",
			request->standby);
	if (request->interval_ms != 0)
		protection->interval_ms = request->interval_ms;
	if (request->timeout_ms != 0)
		protection->timeout_ms = request->timeout_ms;
}

/* Could the CVM be protected, and by a standby on the server `wanted` ("": any)? */
static int check_protectable(struct store *store, const struct cvm *cvm, const char *wanted,
	registry_reachable_fn reachable, void *ctx, struct problem *problem)
{
	struct site site;
	struct server server;
	int64_t id;
	char chosen[MODEL_NAME_SIZE], object[48];
	if (referred_site(store, cvm->site, &site, problem) != 0 ||
		registry_find_server(store, cvm->server, &server, problem) != 0)
		return -1;
	if (server.hostd[0] == '\0')
		return problem_set(problem, 409, "not-protectable",
			"server %s, where the CVM of site %s is, has no edgeplex-hostd: start one "
			"there, then \"edgeplex server set %s --hostd unix:PATH\", and restart the "
			"CVM",
			server.name, cvm->site, server.name);
	if (strcmp(wanted, cvm->server) == 0)
		return problem_field(problem, "/standby",
			"name another server of the site, or leave it out",
			"the CVM itself is on server %s", wanted);
	int err = wanted[0] == '\0' ? 0 : store_server_get(store, wanted, &server);
	if (err == ENOENT || (err == 0 && !is_at(&server, &site)))
		return problem_field(problem, "/standby",
			"name another server of this site, or leave it out",
			"site %s has no server %s", cvm->site, wanted);
	if (err != 0)
		return database_failed(store, problem);
	if (server.hostd[0] == '\0')
		return problem_set(problem, 409, "not-protectable",
			"server %s has no edgeplex-hostd: start one there, then \"edgeplex server "
			"set %s --hostd unix:PATH\"",
			wanted, wanted);
	snprintf(object, sizeof(object), "standby/%s", cvm->site);
	const struct placing placing = {.object = object,
		.need_kib = site.cvm_memory_kib,
		.wanted = wanted,
		.but = {cvm->server_id},
		.but_why = "the CVM itself is there",
		.but_standby = true,
		.with_hostd = true};
	return registry_place(store, &site, &placing, reachable, ctx, &id, chosen, problem);
}

int registry_cvm_protect(struct store *store, const char *name,
	const struct protection_request *request, struct operation *op,
	registry_reachable_fn reachable, void *ctx, struct problem *problem)
{
	struct cvm cvm;
	struct protection protection = {
		.interval_ms = MODEL_INTERVAL_MS, .timeout_ms = MODEL_TIMEOUT_MS};
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_cvm(store, name, &cvm, problem) != 0 ||
		check_idle(store, op->object, problem) != 0 ||
		check_movable(op->object, cvm.state, cvm.started, &cvm.move, cvm.server, "",
			problem) != 0 ||
		check_not_failing_over(store, name, problem) != 0)
		goto out;
	int err = store_protection_get(store, name, &protection);
	if (err != 0 && err != ENOENT) {
		database_failed(store, problem);
		goto out;
	}
	protection.site_id = cvm.site_id;
	protection.ending = false;
	take_request(&protection, request);
	/* A standby that is there and may stay needs no place. */
	bool stays = protection.standby_id != 0 &&
		     (protection.wanted_server[0] == '\0' ||
			     strcmp(protection.wanted_server, protection.standby) == 0);
	/* What was wanted earlier may have become the CVM's own server. */
	const char *wanted = request->has_standby ? request->standby : "";
	if (!stays && check_protectable(store, &cvm, wanted, reachable, ctx, problem) != 0)
		goto out;
	if (store_protection_put(store, &protection) != 0)
		database_failed(store, problem);
	else
		add_operation(store, op, problem);
out:
	return finish(store, false, problem);
}

int registry_cvm_unprotect(
	struct store *store, const char *name, struct operation *op, struct problem *problem)
{
	struct cvm cvm;
	struct protection protection;
	if (begin(store, problem) != 0)
		return -1;
	if (find_protection(store, name, op, &cvm, &protection, problem) == 0) {
		protection.ending = true;
		if (store_protection_put(store, &protection) != 0)
			database_failed(store, problem);
		else
			add_operation(store, op, problem);
	}
	return finish(store, false, problem);
}

int registry_cvm_failover(
	struct store *store, const char *name, struct operation *op, struct problem *problem)
{
	struct cvm cvm;
	struct protection protection;
	if (begin(store, problem) != 0)
		return -1;
	if (find_protection(store, name, op, &cvm, &protection, problem) == 0) {
		if (protection.state != PROTECTION_WHOLE || protection.ending)
			problem_set(problem, 409, "not-protected",
				"the CVM of site %s has no standby that could take over now: wait "
				"until \"edgeplex cvm show %s\" says protected",
				name, name);
		else
			add_operation(store, op, problem);
	}
	return finish(store, false, problem);
}

int registry_standby_place(struct store *store, const char *name, int64_t avoid,
	registry_reachable_fn reachable, void *ctx, struct protection *protection,
	struct problem *problem)
{
	struct site site;
	struct cvm cvm;
	struct problem unwanted = {0};
	char object[48];
	if (begin(store, problem) != 0)
		return -1;
	if (registry_find_cvm(store, name, &cvm, problem) != 0 ||
		registry_find_site(store, name, &site, problem) != 0)
		goto out;
	if (store_protection_get(store, name, protection) != 0 || protection->ending ||
		protection->state != PROTECTION_NONE || cvm.move.state != MOVE_NONE ||
		cvm.state != PORT_ACTIVE) {
		problem_set(problem, 409, "not-ready", "something else is done to the CVM");
		goto out;
	}
	snprintf(object, sizeof(object), "standby/%s", name);
	struct placing placing = {.object = object,
		.need_kib = site.cvm_memory_kib,
		.wanted = protection->wanted_server,
		.but = {cvm.server_id, avoid},
		.but_why = "the CVM itself is there",
		.with_hostd = true};
	int rc = -1;
	if (placing.wanted[0] != '\0')
		rc = registry_place(store, &site, &placing, reachable, ctx, &protection->standby_id,
			protection->standby, &unwanted);
	placing.wanted = "";
	if (rc != 0)
		rc = registry_place(store, &site, &placing, reachable, ctx, &protection->standby_id,
			protection->standby, problem);
	protection->state = PROTECTION_STARTING;
	if (rc == 0 && (store_protection_put(store, protection) != 0 ||
			       store_void_remove(store, cvm.site_id, protection->standby_id) != 0))
		database_failed(store, problem);
out:
	return finish(store, false, problem);
}

int registry_cvm_remove(struct store *store, const struct cvm *cvm)
{
	char owner[48];
	snprintf(owner, sizeof(owner), "cvm/%s", cvm->site);
	int err = store_begin(store);
	if (err != 0)
		return err;
	err = store_alloc_release(store, owner);
	if (err == 0)
		err = store_placement_forget(store, owner);
	snprintf(owner, sizeof(owner), "standby/%s", cvm->site);
	if (err == 0)
		err = store_placement_forget(store, owner);
	if (err == 0)
		err = store_cvm_delete(store, cvm->site_id);
	if (err != 0 && err != ENOENT) {
		store_rollback(store);
		return err;
	}
	return store_commit(store);
}

/* ---- for the registry's other files -------------------------------------------------------- */

int registry_begin(struct store *store, struct problem *problem)
{
	return begin(store, problem);
}

int registry_finish(struct store *store, struct problem *problem)
{
	return finish(store, false, problem);
}

int registry_database_failed(struct store *store, struct problem *problem)
{
	return database_failed(store, problem);
}

int registry_new_uuid(char uuid[MODEL_UUID_SIZE], struct problem *problem)
{
	return new_uuid(uuid, problem);
}

int registry_allocate_vlan(struct store *store, const struct site *site, const char *owner,
	uint32_t *vlan, struct problem *problem)
{
	return allocate(store, site, ALLOC_VLAN, site->vlans, owner, vlan, problem);
}
