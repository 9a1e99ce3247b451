/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/port.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>

#include "common/log.h"
#include "dataplane/packet_socket.h"
#include "dataplane/tap.h"

#define RING_SIZE 256u
/* Rings, bursts, packets that wait for neighbours, and the cache, for two ports. */
#define POOL_SIZE 2047u
#define POOL_CACHE 64u
/* What DPDK takes at the start. Of hugepages it may take more later, of ordinary memory not. */
#define HUGEPAGES_MIB 8
#define ORDINARY_MIB 16

/* ---- environment ------------------------------------------------------------------------- */

/* The number in a file of sysfs, or 0. */
static long read_number(const char *path)
{
	FILE *file = fopen(path, "re");
	char text[32] = "";

	if (!file)
		return 0;
	if (!fgets(text, sizeof(text), file))
		text[0] = '\0';
	fclose(file);
	return strtol(text, NULL, 10);
}

static bool have_hugepages(void)
{
	return read_number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages") * 2 >=
	       HUGEPAGES_MIB;
}

int ports_start_environment(bool pci, const char *run_dir)
{
	char lcore[16], memory[16];
	char *args[24];
	cpu_set_t before;
	bool hugepages = pci && have_hugepages();
	unsigned first_cpu = 0;
	int n_args = 0, got;

	if (sched_getaffinity(0, sizeof(before), &before) < 0) {
		log_error("can't read the CPU affinity: %s", strerror(errno));
		return -1;
	}
	while (first_cpu < CPU_SETSIZE - 1 && !CPU_ISSET(first_cpu, &before))
		first_cpu++;
	snprintf(lcore, sizeof(lcore), "%u", first_cpu);
	snprintf(memory, sizeof(memory), "%d", hugepages ? HUGEPAGES_MIB : ORDINARY_MIB);
	/* Where DPDK makes its own directory. */
	setenv("RUNTIME_DIRECTORY", run_dir, 1);
	args[n_args++] = (char *)"edgeplex-fwd";
	args[n_args++] = (char *)"-l";
	args[n_args++] = lcore;
	args[n_args++] = (char *)"-m";
	args[n_args++] = memory;
	args[n_args++] = (char *)"--no-telemetry";
	args[n_args++] = (char *)"--log-level=*:error";
	if (hugepages) {
		args[n_args++] = (char *)"--in-memory";
	} else {
		args[n_args++] = (char *)"--no-huge";
		args[n_args++] = (char *)"--no-shconf";
	}
	if (!pci)
		args[n_args++] = (char *)"--no-pci";
	args[n_args] = NULL;
	got = rte_eal_init(n_args, args);
	/* DPDK pins its main thread; ours is only the control thread. */
	sched_setaffinity(0, sizeof(before), &before);
	if (got >= 0)
		return 0;
	log_error("DPDK doesn't start: %s; %s", rte_strerror(rte_errno),
		pci ? "are the NICs bound to vfio-pci, and is /dev/vfio there?"
		    : "do we run as root?");
	return -1;
}

/* ---- devices ----------------------------------------------------------------------------- */

static int configure_nic(struct forwarder *fwd, uint16_t id, bool interrupts)
{
	struct rte_eth_conf conf = {.intr_conf.rxq = interrupts};
	uint16_t n_rx = RING_SIZE, n_tx = RING_SIZE;
	int error = rte_eth_dev_configure(id, 1, 1, &conf);

	if (error == 0)
		error = rte_eth_dev_adjust_nb_rx_tx_desc(id, &n_rx, &n_tx);
	if (error == 0)
		error = rte_eth_rx_queue_setup(id, 0, n_rx, SOCKET_ID_ANY, NULL, fwd->engine.pool);
	if (error == 0)
		error = rte_eth_tx_queue_setup(id, 0, n_tx, SOCKET_ID_ANY, NULL);
	if (error == 0)
		error = rte_eth_dev_start(id);
	return error;
}

static int open_nic(struct forwarder *fwd, struct port_device *device, struct rte_ether_addr *mac)
{
	int error = configure_nic(fwd, device->id, true);

	device->interrupts = error == 0;
	if (error != 0)
		error = configure_nic(fwd, device->id, false);
	if (error == 0)
		error = rte_eth_macaddr_get(device->id, mac);
	if (error != 0) {
		log_error("can't start a NIC: %s", rte_strerror(-error));
		return -1;
	}
	/* Groups of neighbour discovery come and go with addresses: take all, sort in software. */
	if (rte_eth_promiscuous_enable(device->id) != 0)
		rte_eth_allmulticast_enable(device->id);
	return 0;
}

static int open_port(
	struct forwarder *fwd, unsigned index, uint16_t id, const struct port_spec *spec)
{
	struct port_device *device = &fwd->devices[index];
	struct port *port = &fwd->engine.ports[index];

	*device = (struct port_device){.id = id, .socket_fd = -1, .tap_fd = -1};
	snprintf(port->name, sizeof(port->name), "%s", spec->name);
	snprintf(device->host_device, sizeof(device->host_device), "%s", spec->device);
	port->customer = strcmp(spec->name, "cust") == 0;
	port->mpls = !port->customer;
	if (spec->device[0])
		device->socket_fd = packet_socket_open(spec->device, &device->own_mac);
	else if (open_nic(fwd, device, &device->own_mac) < 0)
		return -1;
	if (spec->device[0] && device->socket_fd < 0)
		return -1;
	device->mac = device->own_mac;
	fwd->engine.n_ports++;
	log_info("port=%s own_mac=" RTE_ETHER_ADDR_PRT_FMT " device=%s interrupts=%s", port->name,
		RTE_ETHER_ADDR_BYTES(&device->own_mac), spec->device[0] ? spec->device : "pci",
		device->interrupts || device->socket_fd >= 0 ? "yes" : "no");
	return 0;
}

static int compare_names(const void *a, const void *b)
{
	char x[RTE_ETH_NAME_MAX_LEN] = "", y[RTE_ETH_NAME_MAX_LEN] = "";

	rte_eth_dev_get_name_by_port(*(const uint16_t *)a, x);
	rte_eth_dev_get_name_by_port(*(const uint16_t *)b, y);
	return strcmp(x, y);
}

/* The NICs, by PCI address. */
static int find_nics(uint16_t ids[MAX_PORTS])
{
	uint16_t all[RTE_MAX_ETHPORTS];
	unsigned n = 0;
	uint16_t id;

	RTE_ETH_FOREACH_DEV(id)
	all[n++] = id;
	if (n < MAX_PORTS) {
		log_error("found %u NICs, need %d; bind both to vfio-pci", n, MAX_PORTS);
		return -1;
	}
	qsort(all, n, sizeof(all[0]), compare_names);
	memcpy(ids, all, MAX_PORTS * sizeof(ids[0]));
	return 0;
}

int ports_open(struct forwarder *fwd, bool pci, const struct port_spec *specs)
{
	static const struct port_spec by_pci[MAX_PORTS] = {{.name = "cust"}, {.name = "core"}};
	uint16_t ids[MAX_PORTS] = {0};

	if (pci && find_nics(ids) < 0)
		return -1;
	fwd->engine.pool = rte_pktmbuf_pool_create(
		"packets", POOL_SIZE, POOL_CACHE, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	if (!fwd->engine.pool) {
		log_error("no memory for packet buffers: %s; give the machine %d MiB of hugepages",
			rte_strerror(rte_errno), HUGEPAGES_MIB);
		return -1;
	}
	for (unsigned i = 0; i < MAX_PORTS; i++) {
		if (open_port(fwd, i, ids[i], pci ? &by_pci[i] : &specs[i]) < 0)
			return -1;
	}
	/* Last: a new TAP has a random MAC address until it is told the NIC's. */
	for (unsigned i = 0; i < MAX_PORTS; i++) {
		fwd->devices[i].tap_fd = tap_attach(fwd->engine.ports[i].name);
		if (fwd->devices[i].tap_fd < 0)
			return -1;
	}
	return 0;
}

void port_set_mac(struct forwarder *fwd, unsigned port, const struct rte_ether_addr *mac)
{
	struct port_device *device = &fwd->devices[port];
	struct rte_ether_addr wanted = *mac;
	int error = 0;

	if (rte_is_same_ether_addr(&device->mac, mac) || !rte_is_valid_assigned_ether_addr(mac))
		return;
	device->mac = *mac;
	if (device->socket_fd < 0)
		error = rte_eth_dev_default_mac_addr_set(device->id, &wanted);
	if (error != 0)
		log_warn("can't set the NIC's MAC address port=%s: %s",
			fwd->engine.ports[port].name, rte_strerror(-error));
	log_info("port=%s mac=" RTE_ETHER_ADDR_PRT_FMT, fwd->engine.ports[port].name,
		RTE_ETHER_ADDR_BYTES(mac));
}

void ports_close(struct forwarder *fwd)
{
	for (unsigned i = 0; i < fwd->engine.n_ports; i++) {
		struct port_device *device = &fwd->devices[i];

		if (device->tap_fd >= 0)
			close(device->tap_fd);
		if (device->socket_fd >= 0) {
			close(device->socket_fd);
		} else {
			rte_eth_dev_stop(device->id);
			rte_eth_dev_close(device->id);
		}
	}
}

unsigned port_receive(struct forwarder *fwd, unsigned port, struct rte_mbuf **frames, unsigned n)
{
	const struct port_device *device = &fwd->devices[port];

	if (device->socket_fd >= 0)
		return packet_socket_receive(device->socket_fd, fwd->engine.pool, frames, n);
	return rte_eth_rx_burst(device->id, 0, frames, (uint16_t)n);
}

unsigned port_send(struct forwarder *fwd, unsigned port, struct rte_mbuf **frames, unsigned n)
{
	const struct port_device *device = &fwd->devices[port];

	if (device->socket_fd >= 0)
		return packet_socket_send(device->socket_fd, frames, n);
	return rte_eth_tx_burst(device->id, 0, frames, (uint16_t)n);
}
