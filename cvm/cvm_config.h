/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_CVM_CONFIG_H
#define EDGEPLEX_CVM_CONFIG_H

/* A CVM's configuration (docs/protocols.md, `cvm.configure`): read, checked, and put as bgpd's. */

#include <stdint.h>
#include <cjson/cJSON.h>

#include "common/bgp/bgp_cfg.h"
#include "common/bgp/conf_json.h"
#include "common/bgp/kernel_net.h"
#include "common/jsonrpc.h"
#include "common/prefix.h"

#define CVM_MAX_CORES 8
#define CVM_MAX_PVMS 4096
#define CVM_MAX_ROUTES 256
#define CVM_NAME_STRLEN 32

struct cvm_core {
	struct ep_prefix address, local_address;
	uint32_t keepalive_s, hold_s;
};

struct cvm_pvm {
	char name[CVM_NAME_STRLEN];
	struct ep_prefix address;
	struct conf_rts import_rts, export_rts;
};

struct cvm_config {
	char config_id[CONF_NAME_STRLEN];
	char hostname[CONF_NAME_STRLEN];
	uint32_t asn;
	struct ep_prefix router_id;
	size_t n_interfaces;
	struct kernel_wish interfaces[3];
	size_t n_routes;
	struct kernel_route routes[CVM_MAX_ROUTES];
	size_t n_cores;
	struct cvm_core cores[CVM_MAX_CORES];
	size_t n_pvms;
	struct cvm_pvm *pvms; /* allocated */
};

/*
 * Reads and checks the whole. Returns 0, then cvm_config_free() it; or -1 with the first mistake in
 * `err`.
 */
int cvm_config_read(const cJSON *json, struct cvm_config *config, struct jsonrpc_error *err);
void cvm_config_free(struct cvm_config *config);

/* The lines of bgpd's configuration that say the same; a lack of memory is kept in `cfg`. */
void cvm_config_render(const struct cvm_config *config, struct cfg *cfg);

/* The PVM with this address, or NULL. */
const struct cvm_pvm *cvm_config_pvm(
	const struct cvm_config *config, const struct ep_prefix *address);

/* The interface `name` of the configuration, or NULL. */
const struct kernel_wish *cvm_config_interface(const struct cvm_config *config, const char *name);

#endif
