/* SPDX-License-Identifier: GPL-2.0-or-later */
/* cvmd: speaks for the whole PE towards the core, and relays VPN routes to and from the PVMs. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/bgp/bgp_eor.h"
#include "common/bgp/bgp_host.h"
#include "common/bgp/bgp_if.h"
#include "common/bgp/bgp_nht.h"
#include "common/bgp/service.h"
#include "common/log.h"
#include "cvm/cvm_config.h"

static struct cvm_config config; /* in force */
static bool configured;
static struct cfg running;

/* ---- next hops ------------------------------------------------------------------------------- */

static bool is_on_loopback(const struct ep_prefix *address)
{
	const struct kernel_wish *lo = cvm_config_interface(&config, "lo");

	for (size_t i = 0; lo && i < lo->n_addresses; i++) {
		struct ep_prefix own = lo->addresses[i];

		own.len = own.family == AF_INET ? 32 : 128;
		if (ep_prefix_equal(&own, address))
			return true;
	}
	return false;
}

/*
 * The CVM forwards no packets: that a remote PE can be reached, the PVMs' tunnels have to know. It
 * passes routes on while the core link is up.
 */
static struct nht_answer resolve_next_hop(
	void *ctx, const struct ep_prefix *address, bool connected)
{
	const struct kernel_interface *out = bgp_if_connected(address);

	(void)ctx;
	if (is_on_loopback(address))
		return (struct nht_answer){.reachable = true};
	if (!out && !connected)
		out = bgp_if_find("core");
	if (!out || !out->up)
		return (struct nht_answer){0};
	return (struct nht_answer){.reachable = true, .ifindex = out->index};
}

static void on_interfaces_changed(void *ctx)
{
	(void)ctx;
	bgp_nht_refresh();
}

/* ---- configuration --------------------------------------------------------------------------- */

static int configure(const cJSON *json, struct jsonrpc_error *err)
{
	struct cvm_config next;
	struct cfg wanted = {0};
	char why[200];
	bool creates;

	if (cvm_config_read(json, &next, err))
		return -1;
	cvm_config_render(&next, &wanted);
	creates = !configured || next.asn != config.asn;
	if (cfg_change(&running, &wanted, cfg_execute_in_bgpd, NULL, why, sizeof(why))) {
		cvm_config_free(&next);
		if (creates)
			bgp_if_tell_instance();
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "",
			"%s; the former configuration is in force again", why);
	}
	cvm_config_free(&config);
	config = next;
	configured = true;
	if (creates) {
		bgp_host_tune_instance();
		bgp_eor_hold();
		bgp_if_tell_instance();
	}
	bgp_if_configure(config.interfaces, config.n_interfaces);
	bgp_if_configure_routes(config.routes, config.n_routes);
	bgp_nht_refresh();
	bgp_host_start_sessions();
	log_info("configured config_id=%s hostname=%s core=%zu pvms=%zu", config.config_id,
		config.hostname, config.n_cores, config.n_pvms);
	return 0;
}

/* ---- status ---------------------------------------------------------------------------------- */

static bool name_neighbor(void *ctx, const char *address, const char **role, const char **name)
{
	const struct cvm_pvm *pvm;
	struct ep_prefix a;

	(void)ctx;
	if (ep_addr_parse(address, &a))
		return false;
	pvm = cvm_config_pvm(&config, &a);
	*role = pvm ? "pvm" : "core";
	*name = pvm ? pvm->name : NULL;
	return true;
}

static void add_status(cJSON *status)
{
	cJSON_AddItemToObject(
		status, "interfaces", service_interfaces(config.interfaces, config.n_interfaces));
}

/* ---- start ----------------------------------------------------------------------------------- */

static void start(const char *run_dir)
{
	int error;

	(void)run_dir;
	bgp_nht_init(resolve_next_hop, NULL);
	error = bgp_ifs_init(on_interfaces_changed, NULL);
	if (error) {
		log_error("can't follow the kernel's interfaces: %s", strerror(error));
		exit(1);
	}
}

int main(int argc, char **argv)
{
	static const struct service service = {
		.program = "cvmd",
		.prefix = "cvm",
		.about = "The PE's one BGP speaker towards the core, between it and the PVMs.",
		.vpn = true,
		.start = start,
		.configure = configure,
		.status = add_status,
		.namer = name_neighbor,
	};

	service_main(&service, argc, argv);
}
