/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_PVM_CONFIG_H
#define EDGEPLEX_PVM_CONFIG_H

/* A PVM's configuration (docs/protocols.md, `pvm.configure`): read, checked, and put as bgpd's. */

#include <stdbool.h>
#include <stdint.h>
#include <cjson/cJSON.h>

#include "common/bgp/bgp_cfg.h"
#include "common/bgp/conf_json.h"
#include "common/bgp/kernel_net.h"
#include "common/jsonrpc.h"
#include "common/prefix.h"

#define PVM_MAX_CES 64
#define PVM_MAX_TUNNELS 1024
#define PVM_MAX_TRANSPORT_LABELS 3 /* the VPN label comes on top */

struct pvm_ce {
	struct ep_prefix address;
	uint32_t remote_asn;
	bool ipv4, ipv6; /* families */
	uint32_t max_prefixes;
	uint32_t keepalive_s, hold_s;
	bool as_override;
	uint32_t allowas_in; /* how often our ASN may be in the path; 0: never */
};

struct pvm_tunnel {
	struct ep_prefix prefix; /* IPv4 */
	struct ep_prefix via;
	size_t n_labels;
	uint32_t labels[PVM_MAX_TRANSPORT_LABELS]; /* outermost first */
};

struct pvm_config {
	char config_id[CONF_NAME_STRLEN];
	char hostname[CONF_NAME_STRLEN];
	uint32_t asn;
	struct ep_prefix router_id;
	size_t n_interfaces;
	struct kernel_wish interfaces[3];
	size_t n_ces;
	struct pvm_ce ces[PVM_MAX_CES];
	bool has_cvm;
	struct ep_prefix cvm_address, cvm_local_address;
	bool has_vpn;
	char rd[CONF_RT_STRLEN];
	struct conf_rts import_rts, export_rts;
	uint32_t label;
	struct ep_prefix next_hop;
	bool redistribute_connected;
	uint32_t graceful_restart_s; /* peers keep our routes so long; 0: they don't */
	size_t n_tunnels;
	struct pvm_tunnel *tunnels; /* allocated */
};

/*
 * Reads and checks the whole. Returns 0, then pvm_config_free() it; or -1 with the first mistake in
 * `err`.
 */
int pvm_config_read(const cJSON *json, struct pvm_config *config, struct jsonrpc_error *err);
void pvm_config_free(struct pvm_config *config);

/* The lines of bgpd's configuration that say the same; a lack of memory is kept in `cfg`. */
void pvm_config_render(const struct pvm_config *config, struct cfg *cfg);

/* The tunnel that leads to `next_hop` (an address): the longest match; NULL if there is none. */
const struct pvm_tunnel *pvm_config_tunnel(
	const struct pvm_config *config, const struct ep_prefix *next_hop);

/* The interface `name` of the configuration, or NULL. */
const struct kernel_wish *pvm_config_interface(const struct pvm_config *config, const char *name);

#endif
