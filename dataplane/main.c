/* SPDX-License-Identifier: GPL-2.0-or-later */
/* edgeplex-fwd: the forwarder of one customer port. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <rte_eal.h>
#include <rte_ethdev.h>

#include "common/jsonrpc.h"
#include "common/log.h"
#include "dataplane/fib.h"
#include "dataplane/forwarder.h"
#include "dataplane/fpm.h"
#include "dataplane/neighbor.h"
#include "dataplane/netlink.h"
#include "dataplane/port.h"
#include "dataplane/routes.h"
#include "dataplane/rpc.h"
#include "dataplane/tap.h"
#include "dataplane/worker.h"

static const char usage[] =
	"Usage: edgeplex-fwd --pci [OPTION]...\n"
	"       edgeplex-fwd --port NAME=DEVICE --port NAME=DEVICE [OPTION]...\n"
	"Forwards IPv4, IPv6 and MPLS between two ports.\n"
	"\n"
	"  --pci              the two NICs bound to vfio-pci, in PCI order: cust, core\n"
	"  --port NAME=DEVICE a kernel device (veth, tap); NAME is the name of its TAP\n"
	"  --vpn              the core port's addresses and subnets can't be reached from\n"
	"                     the port cust, and only labelled packets are forwarded from\n"
	"                     the core port (--pci implies it)\n"
	"  --run-dir DIR      where fwd.sock and fpm.sock are (default /run/edgeplex)\n"
	"  --stale-ms N       after which time routes that a new peer of the FIB socket\n"
	"                     didn't repeat are removed (default 120000)\n"
	"  --log-level LEVEL  error, warn, info or debug (default info)\n"
	"  --help             show this\n"
	"\n"
	"MPLS is accepted on every port but \"cust\". Addresses (MAC and IP), MTU and state of a\n"
	"port are those of its TAP: set them with ip(8) or a routing daemon.\n";

struct options {
	bool pci, vpn;
	unsigned n_ports;
	struct port_spec ports[MAX_PORTS];
	const char *run_dir;
	uint64_t stale_ms;
};

struct program {
	struct forwarder fwd;
	struct netlink *netlink;
	struct fpm *fpm;
	struct jsonrpc_server *server;
	struct rpc rpc;
	/* Snapshots of interfaces that the fast path may still be using. */
	struct ifaces *retired;
	uint64_t retired_ticket;
	bool refresh_again;
	bool link_in_doubt; /* it is to be looked at again soon */
	bool environment;   /* DPDK's has started */
};

uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* ---- command line ------------------------------------------------------------------------ */

static int parse_port(const char *text, struct options *options)
{
	const char *equals = strchr(text, '=');
	struct port_spec *spec = &options->ports[options->n_ports];

	if (options->n_ports == MAX_PORTS) {
		fprintf(stderr, "edgeplex-fwd: more than %d ports\n", MAX_PORTS);
		return -1;
	}
	if (!equals || equals == text || equals - text >= IFNAMSIZ || !equals[1] ||
		strlen(equals + 1) >= IFNAMSIZ || strchr(text, '/') || strchr(text, ',')) {
		fprintf(stderr,
			"edgeplex-fwd: --port %s: write NAME=DEVICE, each at most %d "
			"characters\n",
			text, IFNAMSIZ - 1);
		return -1;
	}
	snprintf(spec->name, sizeof(spec->name), "%.*s", (int)(equals - text), text);
	snprintf(spec->device, sizeof(spec->device), "%s", equals + 1);
	if (strcmp(spec->name, spec->device) == 0) {
		fprintf(stderr, "edgeplex-fwd: --port %s: the TAP can't have the device's name\n",
			text);
		return -1;
	}
	if (options->n_ports == 1 && strcmp(spec->name, options->ports[0].name) == 0) {
		fprintf(stderr, "edgeplex-fwd: two ports named %s\n", spec->name);
		return -1;
	}
	if (if_nametoindex(spec->device) == 0) {
		fprintf(stderr, "edgeplex-fwd: --port %s: there is no device %s\n", text,
			spec->device);
		return -1;
	}
	options->n_ports++;
	return 0;
}

static int parse_options(int argc, char **argv, struct options *options)
{
	enum { PCI = 256, PORT, VPN, RUN_DIR, STALE_MS, LOG_LEVEL, HELP };
	static const struct option names[] = {
		{"pci", no_argument, NULL, PCI},
		{"port", required_argument, NULL, PORT},
		{"vpn", no_argument, NULL, VPN},
		{"run-dir", required_argument, NULL, RUN_DIR},
		{"stale-ms", required_argument, NULL, STALE_MS},
		{"log-level", required_argument, NULL, LOG_LEVEL},
		{"help", no_argument, NULL, HELP},
		{0},
	};
	enum log_level level;
	char *end;
	int c;

	*options = (struct options){.run_dir = "/run/edgeplex", .stale_ms = 120000};
	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		switch (c) {
		case PCI:
			options->pci = options->vpn = true;
			break;
		case PORT:
			if (parse_port(optarg, options) < 0)
				return -1;
			break;
		case VPN:
			options->vpn = true;
			break;
		case RUN_DIR:
			options->run_dir = optarg;
			break;
		case STALE_MS:
			errno = 0;
			options->stale_ms = strtoul(optarg, &end, 10);
			if (errno || end == optarg || *end || *optarg == '-' ||
				options->stale_ms > 86400000) {
				fprintf(stderr,
					"edgeplex-fwd: --stale-ms %s: write a number up to "
					"86400000\n",
					optarg);
				return -1;
			}
			break;
		case LOG_LEVEL:
			if (log_level_parse(optarg, &level) != 0) {
				fprintf(stderr,
					"edgeplex-fwd: --log-level %s: write error, warn, info or "
					"debug\n",
					optarg);
				return -1;
			}
			log_set_level(level);
			break;
		case HELP:
			fputs(usage, stdout);
			exit(0);
		default:
			fputs("edgeplex-fwd: try --help\n", stderr);
			return -1;
		}
	}
	if (optind < argc) {
		fprintf(stderr, "edgeplex-fwd: unexpected argument %s; try --help\n", argv[optind]);
		return -1;
	}
	if (options->pci ? options->n_ports > 0 : options->n_ports != MAX_PORTS) {
		fputs("edgeplex-fwd: give either --pci or two times --port NAME=DEVICE\n", stderr);
		return -1;
	}
	return 0;
}

/* ---- interfaces -------------------------------------------------------------------------- */

/*
 * A virtio NIC says that it is down while DPDK announces where it is, which it does ten times in
 * the half second after a move: it stops the device for that. Had the kernel's interface lost its
 * carrier each time, the customer's BGP sessions would be gone.
 */
#define LINK_DOWN_MS 200 /* before it is believed */

static bool nic_link(struct program *program, struct port_device *device)
{
	struct rte_eth_link link;
	uint64_t now = now_ms();

	if (rte_eth_link_get_nowait(device->id, &link) == 0 && link.link_status) {
		device->down_ms = 0;
		return true;
	}
	if (!device->link)
		return false;
	if (device->down_ms == 0)
		device->down_ms = now;
	if (now - device->down_ms >= LINK_DOWN_MS)
		return false;
	program->link_in_doubt = true;
	return true;
}

static bool port_link(struct program *program, unsigned i)
{
	struct port_device *device = &program->fwd.devices[i];

	if (device->host_device[0])
		return netlink_carrier(program->netlink, device->host_device);
	return nic_link(program, device);
}

static void show_link(struct program *program)
{
	program->link_in_doubt = false;
	for (unsigned i = 0; i < program->fwd.engine.n_ports; i++) {
		struct port_device *device = &program->fwd.devices[i];
		bool link = port_link(program, i);

		/* A device that was down may have lost this. Each time is cheap. */
		if (link == device->link || tap_set_carrier(device->tap_fd, link) != 0)
			continue;
		device->link = link;
		log_info("link is %s port=%s", link ? "up" : "down",
			program->fwd.engine.ports[i].name);
	}
}

/*
 * Publishes a new snapshot of the TAPs' state if it differs. Only one old snapshot can be waiting
 * for the fast path; with two changes in a row the second one waits for the next round.
 */
static void refresh_ifaces(struct program *program)
{
	struct engine *engine = &program->fwd.engine;
	const struct ifaces *old = atomic_load(&engine->ifaces);
	struct ifaces *new;

	show_link(program);
	if (program->retired) {
		if (!fib_domain_passed(engine->domain, program->retired_ticket)) {
			program->refresh_again = true;
			return;
		}
		free(program->retired);
		program->retired = NULL;
	}
	program->refresh_again = false;
	new = calloc(1, sizeof(*new));
	if (!new) {
		program->refresh_again = true;
		return;
	}
	new->n = engine->n_ports;
	for (unsigned i = 0; i < engine->n_ports; i++) {
		netlink_iface(program->netlink, engine->ports[i].name, &new->ports[i]);
		/* An interface that was made anew needs its carrier again. */
		if (old && old->ports[i].up != new->ports[i].up &&new->ports[i].up)
			tap_set_carrier(
				program->fwd.devices[i].tap_fd, program->fwd.devices[i].link);
		port_set_mac(&program->fwd, i, &new->ports[i].mac);
	}
	/* Both began as zeroes, padding included: a difference is one of content. */
	// NOLINTNEXTLINE(bugprone-suspicious-memory-comparison)
	if (old && memcmp(old, new, sizeof(*new)) == 0) {
		free(new);
		return;
	}
	atomic_store(&engine->ifaces, new);
	if (old) {
		program->retired = (struct ifaces *)old;
		program->retired_ticket = fib_domain_ticket(engine->domain);
	}
	if (program->fwd.routes)
		routes_resolve(program->fwd.routes);
}

/* ---- life -------------------------------------------------------------------------------- */

static int set_up(struct program *program, const struct options *options)
{
	struct forwarder *fwd = &program->fwd;
	char path[256];

	if (mkdir(options->run_dir, 0755) < 0 && errno != EEXIST) {
		log_error("can't make directory %s: %s; choose another one with --run-dir",
			options->run_dir, strerror(errno));
		return -1;
	}
	fwd->start_ms = now_ms();
	fwd->domain = fib_domain_create(1);
	if (!fwd->domain) {
		log_error("no memory for the tables; give the machine more");
		return -1;
	}
	fwd->engine.domain = fwd->domain;
	fwd->engine.vpn = options->vpn;
	if (ports_start_environment(options->pci, options->run_dir) < 0)
		return -1;
	program->environment = true;
	if (ports_open(fwd, options->pci, options->ports) < 0)
		return -1;
	program->netlink = netlink_create();
	if (!program->netlink)
		return -1;
	for (unsigned i = 0; i < fwd->engine.n_ports; i++)
		if (!netlink_tell_own_mac(
			    program->netlink, fwd->engine.ports[i].name, &fwd->devices[i].own_mac))
			return -1;
	if (!netlink_run(program->netlink))
		return -1;
	refresh_ifaces(program);
	fwd->engine.neighbors = neighbors_create();
	fwd->routes = routes_create(&fwd->engine);
	if (!fwd->engine.neighbors || !fwd->routes || !atomic_load(&fwd->engine.ifaces)) {
		log_error("no memory for the tables; give the machine more");
		return -1;
	}
	snprintf(path, sizeof(path), "%s/fpm.sock", options->run_dir);
	program->fpm = fpm_create(path, fwd->routes, options->stale_ms);
	if (!program->fpm)
		return -1;
	program->rpc = (struct rpc){.fwd = fwd, .fpm = program->fpm};
	program->server = jsonrpc_server_create(rpc_handle, &program->rpc);
	snprintf(path, sizeof(path), "%s/fwd.sock", options->run_dir);
	errno = program->server ? jsonrpc_server_listen_unix(program->server, path) : ENOMEM;
	if (errno) {
		log_error("can't listen on path=%s: %s", path, strerror(errno));
		return -1;
	}
	return 0;
}

static void watch(int epoll_fd, int fd)
{
	struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};

	if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		log_error("can't watch descriptor %d: %s", fd, strerror(errno));
}

/* Serves sockets and rtnetlink until a signal says to end. */
static void control_loop(struct program *program, int signal_fd)
{
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	int netlink = netlink_fd(program->netlink);
	uint64_t next_link_ms = 0;

	watch(epoll_fd, signal_fd);
	watch(epoll_fd, netlink);
	watch(epoll_fd, fpm_fd(program->fpm));
	watch(epoll_fd, jsonrpc_server_fd(program->server));
	for (;;) {
		struct epoll_event events[8];
		/* NICs by PCI don't tell when their link changes: they are asked once a second. */
		bool soon = program->refresh_again || program->link_in_doubt;
		int timeout = soon ? 10 : program->fwd.devices[0].host_device[0] ? -1 : 1000;
		int n = epoll_wait(epoll_fd, events, 8, timeout);

		for (int i = 0; i < n; i++) {
			int fd = events[i].data.fd;

			if (fd == signal_fd) {
				close(epoll_fd);
				return;
			}
			if (fd == netlink) {
				netlink_run(program->netlink);
				program->refresh_again = true;
			} else if (fd == fpm_fd(program->fpm)) {
				fpm_run(program->fpm);
			} else {
				jsonrpc_server_run(program->server);
			}
		}
		if (program->refresh_again)
			refresh_ifaces(program);
		if (program->link_in_doubt || (timeout == 1000 && now_ms() >= next_link_ms)) {
			show_link(program);
			next_link_ms = now_ms() + 1000;
		}
	}
}

int main(int argc, char **argv)
{
	static struct program program;
	struct options options;
	pthread_t thread;
	sigset_t signals;
	int signal_fd, error, code = 1;

	log_init("edgeplex-fwd");
	if (parse_options(argc, argv, &options) < 0)
		return 2;
	/* Blocked before any thread begins: only signal_fd sees them. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signal_fd < 0) {
		log_error("can't take signals: %s", strerror(errno));
		return 1;
	}
	if (set_up(&program, &options) == 0) {
		error = worker_start(&program.fwd, &thread);
		if (error == 0) {
			log_info("forwarding ports=%u run_dir=%s", program.fwd.engine.n_ports,
				options.run_dir);
			control_loop(&program, signal_fd);
			worker_stop(&program.fwd, thread);
			code = 0;
		} else {
			log_error("can't start the fast path: %s", strerror(error));
		}
	}
	jsonrpc_server_destroy(program.server);
	fpm_destroy(program.fpm);
	netlink_destroy(program.netlink);
	ports_close(&program.fwd);
	neighbors_destroy(program.fwd.engine.neighbors);
	routes_destroy(program.fwd.routes);
	free(program.retired);
	free((void *)atomic_load(&program.fwd.engine.ifaces));
	fib_domain_destroy(program.fwd.domain);
	if (program.environment)
		rte_eal_cleanup();
	return code;
}
