/* SPDX-License-Identifier: GPL-2.0-or-later */
/* pvmd: the routing of one customer port. */

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/rtnetlink.h>

#include "common/bgp/bgp_eor.h"
#include "common/bgp/bgp_host.h"
#include "common/bgp/bgp_if.h"
#include "common/bgp/bgp_nht.h"
#include "common/bgp/bgp_paths.h"
#include "common/bgp/bgp_redist.h"
#include "common/bgp/service.h"
#include "common/log.h"
#include "pvm/fib_feed.h"
#include "pvm/pvm_config.h"

/* A restarted pvmd has this long to learn the routes anew before the forwarder drops the rest. */
#define WHOLE_DEADLINE_MS (120 * 1000)
#define SETTLE_MS 5000 /* for neighbours that don't send End-of-RIB */
#define WHOLE_CHECK_MS 100

static struct pvm_config config; /* in force */
static bool configured;
static struct cfg running;
static struct fib_feed *feed;
static unsigned long configured_ms;
static struct host_event *whole_event;

/* ---- next hops ------------------------------------------------------------------------------- */

static const struct kernel_interface *gateway_interface(const struct pvm_tunnel *tunnel)
{
	return tunnel ? bgp_if_connected(&tunnel->via) : NULL;
}

static bool is_cvm(const struct ep_prefix *address)
{
	return config.has_cvm && ep_prefix_equal(address, &config.cvm_address);
}

static struct nht_answer resolve_next_hop(
	void *ctx, const struct ep_prefix *address, bool connected)
{
	struct nht_answer answer = {0};
	const struct kernel_interface *cust = bgp_if_find("cust");
	const struct kernel_interface *out = bgp_if_connected(address);

	(void)ctx;
	if (address->family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&address->addr.v6))
		out = cust;
	/*
	 * On the core link only the CVM, for its session: a CE may name any address there, and its
	 * routes would be told to the VPN while the forwarder can't use them.
	 */
	if (out && out->up && (out == cust || is_cvm(address))) {
		answer.reachable = true;
		answer.ifindex = out->index;
		return answer;
	}
	out = gateway_interface(pvm_config_tunnel(&config, address));
	if (out && !connected) {
		answer.reachable = answer.labelled = true;
		answer.ifindex = out->index;
	} else if (config.has_vpn && ep_prefix_equal(address, &config.next_hop)) {
		/* The next hop of what we export: the PE, that is to say us. */
		answer.reachable = true;
	}
	return answer;
}

/* ---- routes for the forwarder ---------------------------------------------------------------- */

static bool add_tunnel_nexthop(const struct best_path *path, struct fib_route *route)
{
	const struct pvm_tunnel *tunnel = pvm_config_tunnel(&config, &path->next_hop);
	const struct kernel_interface *out = gateway_interface(tunnel);
	struct fib_nexthop *nh = &route->nexthops[route->n_nexthops];

	if (!out || !path->has_label)
		return false;
	nh->ifindex = out->index;
	nh->family = AF_INET;
	nh->gateway.v4 = tunnel->via.addr.v4;
	for (size_t i = 0; i < tunnel->n_labels; i++)
		nh->labels[nh->n_labels++] = tunnel->labels[i];
	nh->labels[nh->n_labels++] = path->label;
	nh->weight = 1;
	return true;
}

static bool add_gateway_nexthop(const struct best_path *path, struct fib_route *route)
{
	const struct kernel_interface *out = bgp_if_connected(&path->next_hop);
	const struct kernel_interface *cust = bgp_if_find("cust");
	struct fib_nexthop *nh = &route->nexthops[route->n_nexthops];

	nh->ifindex = out ? out->index : path->ifindex;
	/* A CE that names a next hop on the core link would send packets there, without a label. */
	if (!cust || nh->ifindex != cust->index)
		return false;
	nh->family = path->next_hop.family;
	if (nh->family == AF_INET)
		nh->gateway.v4 = path->next_hop.addr.v4;
	else
		nh->gateway.v6 = path->next_hop.addr.v6;
	nh->weight = 1;
	return true;
}

static bool resolve_route(void *ctx, const struct ep_prefix *key, struct fib_route *route)
{
	struct best_path paths[BGP_MAX_BEST_PATHS];
	struct ep_prefix own;
	size_t n;

	(void)ctx;
	route->protocol = RTPROT_BGP;
	if (key->family == AF_MPLS) {
		own = fib_feed_label_key(config.label);
		route->action = FIB_POP;
		return configured && config.has_vpn && !memcmp(own.addr.bytes, key->addr.bytes, 4);
	}
	route->action = FIB_FORWARD;
	n = bgp_paths_best(key, paths, BGP_MAX_BEST_PATHS);
	for (size_t i = 0; i < n && route->n_nexthops < FIB_MAX_NEXTHOPS; i++) {
		bool usable = paths[i].imported ? add_tunnel_nexthop(&paths[i], route)
						: add_gateway_nexthop(&paths[i], route);

		if (usable)
			route->n_nexthops++;
		else
			memset(&route->nexthops[route->n_nexthops], 0, sizeof(*route->nexthops));
	}
	return route->n_nexthops > 0;
}

static void on_path_changed(void *ctx, const struct ep_prefix *prefix)
{
	(void)ctx;
	fib_feed_touch(feed, prefix);
}

static void check_whole(void *ctx)
{
	bool late = host_now_ms() - configured_ms >= WHOLE_DEADLINE_MS;

	(void)ctx;
	if (late || bgp_show_converged(SETTLE_MS)) {
		if (late)
			log_warn("not every neighbour sent its routes in %d s; going on without",
				WHOLE_DEADLINE_MS / 1000);
		fib_feed_whole(feed);
		return;
	}
	host_event_after(whole_event, WHOLE_CHECK_MS);
}

/* ---- configuration --------------------------------------------------------------------------- */

/* The customer link's subnets, while it is up: the VPN's other sites can reach the CE's address. */
static void originate_connected(void)
{
	const struct kernel_interface *cust = bgp_if_find("cust");
	const struct kernel_wish *wish = pvm_config_interface(&config, "cust");
	struct ep_prefix subnets[KERNEL_MAX_ADDRESSES];
	size_t n = 0;

	for (size_t i = 0; configured && config.redistribute_connected && cust && cust->up &&
			   wish && i < wish->n_addresses;
		i++) {
		subnets[n] = wish->addresses[i];
		ep_prefix_mask(&subnets[n]);
		n++;
	}
	bgp_redist_set(subnets, n);
}

static void on_interfaces_changed(void *ctx)
{
	(void)ctx;
	bgp_nht_refresh();
	if (!feed)
		return;
	fib_feed_touch_all(feed);
	if (configured)
		originate_connected();
}

static bool creates_instance(const struct pvm_config *next)
{
	return !configured || next->asn != config.asn;
}

static int configure(const cJSON *json, struct jsonrpc_error *err)
{
	struct pvm_config next;
	struct cfg wanted = {0};
	struct ep_prefix old_label;
	char why[200];
	bool had_label, creates, restarts_anew;

	if (pvm_config_read(json, &next, err))
		return -1;
	pvm_config_render(&next, &wanted);
	creates = creates_instance(&next);
	if (creates)
		bgp_redist_set(NULL, 0);
	if (cfg_change(&running, &wanted, cfg_execute_in_bgpd, NULL, why, sizeof(why))) {
		pvm_config_free(&next);
		if (creates) {
			bgp_if_tell_instance();
			originate_connected();
		}
		return jsonrpc_fail(err, JSONRPC_INTERNAL_ERROR, "",
			"%s; the former configuration is in force again", why);
	}
	restarts_anew = !creates && next.graceful_restart_s != config.graceful_restart_s;
	had_label = configured && config.has_vpn;
	old_label = fib_feed_label_key(config.label);
	pvm_config_free(&config);
	config = next;
	if (!configured) {
		configured_ms = host_now_ms();
		host_event_after(whole_event, WHOLE_CHECK_MS);
	}
	configured = true;
	if (creates) {
		bgp_host_tune_instance();
		bgp_eor_hold();
		bgp_if_tell_instance();
	}
	bgp_if_configure(config.interfaces, config.n_interfaces);
	originate_connected();
	bgp_nht_refresh();
	if (had_label)
		fib_feed_touch(feed, &old_label);
	if (config.has_vpn) {
		struct ep_prefix label = fib_feed_label_key(config.label);

		fib_feed_touch(feed, &label);
	}
	fib_feed_touch_all(feed);
	bgp_host_start_sessions();
	if (restarts_anew)
		bgp_host_begin_sessions_anew();
	log_info("configured config_id=%s hostname=%s ces=%zu tunnels=%zu", config.config_id,
		config.hostname, config.n_ces, config.n_tunnels);
	return 0;
}

/* ---- status ---------------------------------------------------------------------------------- */

static bool name_neighbor(void *ctx, const char *address, const char **role, const char **name)
{
	struct ep_prefix a;

	(void)ctx;
	(void)name;
	if (ep_addr_parse(address, &a))
		return false;
	*role = config.has_cvm && ep_prefix_equal(&a, &config.cvm_address) ? "cvm" : "ce";
	return true;
}

static void add_status(cJSON *status)
{
	struct fib_feed_state state = fib_feed_state(feed);
	cJSON *fib = cJSON_AddObjectToObject(status, "fib");

	cJSON_AddBoolToObject(fib, "connected", state.connected);
	cJSON_AddBoolToObject(fib, "complete", state.complete);
	cJSON_AddNumberToObject(fib, "routes", state.routes);
	cJSON_AddNumberToObject(fib, "waiting", state.waiting);
	cJSON_AddItemToObject(
		status, "interfaces", service_interfaces(config.interfaces, config.n_interfaces));
}

/* ---- start ----------------------------------------------------------------------------------- */

static void start(const char *run_dir)
{
	char *path;
	int error;

	bgp_nht_init(resolve_next_hop, NULL);
	error = bgp_ifs_init(on_interfaces_changed, NULL);
	if (error) {
		log_error("can't follow the kernel's interfaces: %s", strerror(error));
		exit(1);
	}
	if (asprintf(&path, "%s/fpm.sock", run_dir) < 0)
		abort();
	feed = fib_feed_create(path, resolve_route, NULL);
	if (!feed) {
		log_error("can't use the forwarder's socket %s: the path is too long", path);
		exit(1);
	}
	free(path);
	bgp_paths_listen(on_path_changed, NULL);
	whole_event = host_event_new(check_whole, NULL);
}

int main(int argc, char **argv)
{
	static const struct service service = {
		.program = "pvmd",
		.prefix = "pvm",
		.about = "The routing of one customer port: BGP to the CEs and to the CVM, routes "
			 "to "
			 "the forwarder.",
		.start = start,
		.configure = configure,
		.status = add_status,
		.namer = name_neighbor,
	};

	service_main(&service, argc, argv);
}
