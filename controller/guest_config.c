/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "controller/guest_config.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void add_address(cJSON *json, const char *name, const struct ep_prefix *addr)
{
	char text[EP_PREFIX_STRLEN];
	cJSON_AddStringToObject(json, name, ep_addr_format(addr, text));
}

static void append_prefix(cJSON *list, const struct ep_prefix *prefix)
{
	char text[EP_PREFIX_STRLEN];
	cJSON_AddItemToArray(list, cJSON_CreateString(ep_prefix_format(prefix, text)));
}

static cJSON *add_interface(cJSON *interfaces, const char *name, uint32_t mtu)
{
	cJSON *interface = cJSON_AddObjectToObject(interfaces, name);
	cJSON *addresses = cJSON_AddArrayToObject(interface, "addresses");
	if (mtu != 0)
		cJSON_AddNumberToObject(interface, "mtu", mtu);
	return addresses;
}

/* A PVM that was a spare has other MAC addresses of its own. */
static void add_mac(cJSON *interfaces, const char *name, struct ep_mac mac)
{
	char text[EP_MAC_STRLEN];
	cJSON *interface = cJSON_GetObjectItemCaseSensitive(interfaces, name);
	cJSON_AddStringToObject(interface, "mac", ep_mac_format(&mac, text));
}

/* "inside" with the inside network's length. */
static struct ep_prefix on_inside(const struct ep_prefix *addr, const struct site *site)
{
	struct ep_prefix prefix = *addr;
	prefix.len = site->inside.len;
	return prefix;
}

static void add_rts(cJSON *json, const struct site *site, uint32_t vpn_id)
{
	char rt[32];
	snprintf(rt, sizeof(rt), "%u:%u", site->asn, vpn_id);
	cJSON_AddItemToArray(cJSON_AddArrayToObject(json, "import_rts"), cJSON_CreateString(rt));
	cJSON_AddItemToArray(cJSON_AddArrayToObject(json, "export_rts"), cJSON_CreateString(rt));
}

/* Names the document by its content (FNV-1a, 64 bits). */
static cJSON *seal(cJSON *config)
{
	char id[GUEST_CONFIG_ID_SIZE];
	uint64_t hash = UINT64_C(0xcbf29ce484222325);
	char *text = cJSON_PrintUnformatted(config);
	if (text == NULL) {
		cJSON_Delete(config);
		return NULL;
	}
	for (const char *c = text; *c != '\0'; c++)
		hash = (hash ^ (unsigned char)*c) * UINT64_C(0x100000001b3);
	free(text);
	snprintf(id, sizeof(id), "%016" PRIx64, hash);
	cJSON_AddStringToObject(config, "config_id", id);
	return config;
}

void guest_config_id(const cJSON *config, char id[GUEST_CONFIG_ID_SIZE])
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(config, "config_id");
	snprintf(id, GUEST_CONFIG_ID_SIZE, "%s", cJSON_IsString(item) ? item->valuestring : "");
}

/* None while the port is being deleted: its sessions end. */
static void add_ces(cJSON *config, const struct port *port)
{
	cJSON *list = cJSON_AddArrayToObject(config, "ce");
	if (port->state == PORT_DELETING)
		return;
	for (size_t i = 0; i < port->n_ce; i++) {
		const struct ce *ce = &port->ce[i];
		cJSON *json = cJSON_CreateObject();
		add_address(json, "address", &ce->address);
		cJSON_AddNumberToObject(json, "remote_asn", ce->asn);
		cJSON *families = cJSON_AddArrayToObject(json, "families");
		cJSON_AddItemToArray(families,
			cJSON_CreateString(ce->address.family == AF_INET ? "ipv4" : "ipv6"));
		if (ce->max_prefixes != 0)
			cJSON_AddNumberToObject(json, "max_prefixes", ce->max_prefixes);
		cJSON_AddItemToArray(list, json);
	}
}

static void add_tunnel(cJSON *tunnels, const struct site *own, const struct site *remote)
{
	cJSON *tunnel = cJSON_CreateObject();
	char text[EP_PREFIX_STRLEN];
	cJSON_AddStringToObject(tunnel, "prefix", ep_prefix_format(&remote->pe_address, text));
	add_address(tunnel, "via", &own->core_gateway);
	cJSON *labels = cJSON_AddArrayToObject(tunnel, "labels");
	/* The site's own frames are turned round by its edge switch, which wants one label only. */
	if (remote->id != own->id && remote->transport_label != MODEL_LABEL_IMPLICIT_NULL)
		cJSON_AddItemToArray(labels, cJSON_CreateNumber(remote->transport_label));
	cJSON_AddItemToArray(tunnels, tunnel);
}

cJSON *guest_config_pvm(const struct port *port, const struct site *site, const struct cvm *cvm,
	const struct site *sites, size_t n_sites)
{
	char rd[32];
	struct ep_prefix inside = on_inside(&port->inside, site);
	cJSON *config = cJSON_CreateObject();
	cJSON_AddStringToObject(config, "hostname", port->name);
	cJSON_AddNumberToObject(config, "asn", site->asn);
	add_address(config, "router_id", &port->inside);

	cJSON *interfaces = cJSON_AddObjectToObject(config, "interfaces");
	cJSON *cust = add_interface(interfaces, "cust", port->mtu);
	for (size_t i = 0; i < port->n_addresses; i++)
		append_prefix(cust, &port->addresses[i]);
	add_mac(interfaces, "cust", model_port_mac(port->id));
	cJSON *core = add_interface(interfaces, "core", site->core_mtu);
	add_mac(interfaces, "core", model_pe_mac(site->id));
	append_prefix(core, &inside);
	append_prefix(core, &site->core_address);

	add_ces(config, port);
	if (port->state != PORT_DELETING) {
		cJSON *neighbor = cJSON_AddObjectToObject(config, "cvm");
		add_address(neighbor, "address", &cvm->inside);
		add_address(neighbor, "local_address", &port->inside);
	}

	cJSON *vpn = cJSON_AddObjectToObject(config, "vpn");
	snprintf(rd, sizeof(rd), "%u:%u", site->asn, port->rd_number);
	cJSON_AddStringToObject(vpn, "rd", rd);
	add_rts(vpn, site, port->vpn_id);
	cJSON_AddNumberToObject(vpn, "label", port->label);
	add_address(vpn, "next_hop", &site->pe_address);

	cJSON_AddNumberToObject(config, "graceful_restart_s", port->graceful_restart_s);
	cJSON *tunnels = cJSON_AddArrayToObject(config, "tunnels");
	for (size_t i = 0; i < n_sites; i++)
		add_tunnel(tunnels, site, &sites[i]);
	return seal(config);
}

/* No neighbours while the CVM is being deleted; the routes there are kept for the last word. */
static void add_core_neighbors(cJSON *config, const struct cvm *cvm, const struct site *site)
{
	cJSON *routes = cJSON_AddArrayToObject(config, "routes");
	cJSON *core = cJSON_AddArrayToObject(config, "core");
	for (size_t i = 0; i < site->n_rr; i++) {
		const struct ep_prefix *rr = &site->rr[i];
		if (cvm->state != PORT_DELETING) {
			cJSON *neighbor = cJSON_CreateObject();
			add_address(neighbor, "address", rr);
			add_address(neighbor, "local_address", &site->pe_address);
			cJSON_AddNumberToObject(neighbor, "remote_asn", site->asn);
			cJSON_AddItemToArray(core, neighbor);
		}
		if (ep_prefix_contains(&site->core_address, rr))
			continue; /* on the link itself */
		char text[EP_PREFIX_STRLEN];
		cJSON *route = cJSON_CreateObject();
		cJSON_AddStringToObject(route, "prefix", ep_prefix_format(rr, text));
		add_address(route, "via", &site->core_gateway);
		cJSON_AddItemToArray(routes, route);
	}
}

cJSON *guest_config_cvm(
	const struct cvm *cvm, const struct site *site, const struct port *ports, size_t n_ports)
{
	char name[MODEL_NAME_SIZE + 4];
	struct ep_prefix inside = on_inside(&cvm->inside, site);
	cJSON *config = cJSON_CreateObject();
	snprintf(name, sizeof(name), "cvm-%s", site->name);
	cJSON_AddStringToObject(config, "hostname", name);
	cJSON_AddNumberToObject(config, "asn", site->asn);
	add_address(config, "router_id", &site->pe_address);

	cJSON *interfaces = cJSON_AddObjectToObject(config, "interfaces");
	append_prefix(add_interface(interfaces, "core", site->core_mtu), &site->core_address);
	append_prefix(add_interface(interfaces, "inside", site->core_mtu), &inside);
	append_prefix(add_interface(interfaces, "lo", 0), &site->pe_address);

	add_core_neighbors(config, cvm, site);
	cJSON *pvms = cJSON_AddArrayToObject(config, "pvms");
	for (size_t i = 0; i < n_ports; i++) {
		if (ports[i].site_id != site->id || !ports[i].in_cvm)
			continue;
		cJSON *pvm = cJSON_CreateObject();
		cJSON_AddStringToObject(pvm, "name", ports[i].name);
		add_address(pvm, "address", &ports[i].inside);
		add_rts(pvm, site, ports[i].vpn_id);
		cJSON_AddItemToArray(pvms, pvm);
	}
	return seal(config);
}
