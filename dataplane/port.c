/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dataplane/port.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <sys/socket.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>

#include "common/log.h"
#include "dataplane/tap.h"

#define RING_SIZE 256u
/* Rings, bursts, packets that wait for neighbours, and the cache, for two ports. */
#define POOL_SIZE 2047u
#define POOL_CACHE 64u
#define ENVIRONMENT_MIB 16

/* ---- environment ------------------------------------------------------------------------- */

static long read_number(const char *path)
{
	FILE *file = fopen(path, "re");
	long n = 0;

	if (!file)
		return 0;
	if (fscanf(file, "%ld", &n) != 1)
		n = 0;
	fclose(file);
	return n;
}

static bool have_hugepages(void)
{
	return read_number("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages") * 2 >=
	       ENVIRONMENT_MIB;
}

int ports_start_environment(
	bool pci, const struct port_spec *specs, unsigned n, const char *run_dir)
{
	char lcore[16], memory[16], devices[MAX_PORTS][96];
	char *args[24];
	cpu_set_t before;
	unsigned first_cpu = 0;
	int n_args = 0, got;

	if (sched_getaffinity(0, sizeof(before), &before) < 0) {
		log_error("can't read the CPU affinity: %s", strerror(errno));
		return -1;
	}
	while (first_cpu < CPU_SETSIZE - 1 && !CPU_ISSET(first_cpu, &before))
		first_cpu++;
	snprintf(lcore, sizeof(lcore), "%u", first_cpu);
	snprintf(memory, sizeof(memory), "%d", ENVIRONMENT_MIB);
	/* Where DPDK makes its own directory. */
	setenv("RUNTIME_DIRECTORY", run_dir, 1);
	args[n_args++] = (char *)"edgeplex-fwd";
	args[n_args++] = (char *)"-l";
	args[n_args++] = lcore;
	args[n_args++] = (char *)"-m";
	args[n_args++] = memory;
	args[n_args++] = (char *)"--no-telemetry";
	args[n_args++] = (char *)"--log-level=*:error";
	if (pci && have_hugepages()) {
		args[n_args++] = (char *)"--in-memory";
	} else {
		args[n_args++] = (char *)"--no-huge";
		args[n_args++] = (char *)"--no-shconf";
	}
	if (!pci)
		args[n_args++] = (char *)"--no-pci";
	for (unsigned i = 0; i < n; i++) {
		snprintf(devices[i], sizeof(devices[i]),
			"--vdev=net_af_packet%u,iface=%s,framecnt=%u,qdisc_bypass=0", i,
			specs[i].device, RING_SIZE);
		args[n_args++] = devices[i];
	}
	args[n_args] = NULL;
	got = rte_eal_init(n_args, args);
	/* DPDK pins its main thread; ours is only the control thread. */
	sched_setaffinity(0, sizeof(before), &before);
	if (got >= 0)
		return 0;
	log_error("DPDK doesn't start: %s; %s", rte_strerror(rte_errno),
		pci ? "are the NICs bound to vfio-pci, and is /dev/vfio there?"
		    : "are the devices there, and do we run as root?");
	return -1;
}

/* ---- kernel devices ---------------------------------------------------------------------- */

static int write_sysctl(const char *family, const char *device, const char *key, const char *value)
{
	char path[128];
	ssize_t n;
	int fd;

	snprintf(path, sizeof(path), "/proc/sys/net/%s/conf/%s/%s", family, device, key);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : errno; /* no such protocol in this kernel */
	n = write(fd, value, strlen(value));
	close(fd);
	return n < 0 ? EIO : 0;
}

/*
 * A packet socket only copies what a device receives: the kernel must not answer too. The address
 * belongs to the TAP, so with the strict reverse path filter nothing comes in by the device.
 */
static void silence_kernel(const char *device)
{
	if (write_sysctl("ipv4", device, "arp_ignore", "8") ||
		write_sysctl("ipv4", device, "rp_filter", "1") ||
		write_sysctl("ipv6", device, "disable_ipv6", "1"))
		log_warn("can't keep the kernel from answering on device=%s, frames may be "
			 "answered twice",
			device);
}

/* The packet socket that the driver opened for a device: poll() tells when frames wait in it. */
static int find_packet_socket(const char *device)
{
	unsigned ifindex = if_nametoindex(device);
	DIR *dir = opendir("/proc/self/fd");
	const struct dirent *entry;
	int found = -1;

	while (dir && (entry = readdir(dir))) {
		struct sockaddr_ll addr = {0};
		socklen_t size = sizeof(addr);
		int fd = atoi(entry->d_name);

		if (entry->d_name[0] != '.' &&
			getsockname(fd, (struct sockaddr *)&addr, &size) == 0 &&
			addr.sll_family == AF_PACKET && (unsigned)addr.sll_ifindex == ifindex)
			found = fd;
	}
	if (dir)
		closedir(dir);
	return found;
}

/* ---- devices ----------------------------------------------------------------------------- */

static int configure(struct forwarder *fwd, uint16_t id, bool interrupts)
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

static int open_port(
	struct forwarder *fwd, unsigned index, uint16_t id, const struct port_spec *spec)
{
	struct port_device *device = &fwd->devices[index];
	struct port *port = &fwd->engine.ports[index];
	int error;

	*device = (struct port_device){.id = id, .wake_fd = -1, .tap_fd = -1};
	snprintf(port->name, sizeof(port->name), "%s", spec->name);
	snprintf(device->host_device, sizeof(device->host_device), "%s", spec->device);
	port->customer = strcmp(spec->name, "cust") == 0;
	port->mpls = !port->customer;
	if (spec->device[0])
		silence_kernel(spec->device);
	/* Drivers of kernel devices have none, and complain when asked. */
	device->interrupts = !spec->device[0];
	error = configure(fwd, id, device->interrupts);
	if (error != 0 && device->interrupts) {
		device->interrupts = false;
		error = configure(fwd, id, false);
	}
	if (error == 0)
		error = rte_eth_macaddr_get(id, &port->mac);
	if (error != 0) {
		log_error("can't start port=%s: %s", spec->name, rte_strerror(-error));
		return -1;
	}
	/* Groups of neighbour discovery come and go with addresses: take all, sort in software. */
	if (rte_eth_promiscuous_enable(id) != 0)
		rte_eth_allmulticast_enable(id);
	if (!device->interrupts && spec->device[0])
		device->wake_fd = find_packet_socket(spec->device);
	device->tap_fd = tap_attach(spec->name, &port->mac);
	if (device->tap_fd < 0)
		return -1;
	log_info("port=%s mac=" RTE_ETHER_ADDR_PRT_FMT " device=%s interrupts=%s", port->name,
		RTE_ETHER_ADDR_BYTES(&port->mac), spec->device[0] ? spec->device : "pci",
		device->interrupts ? "yes" : "no");
	fwd->engine.n_ports++;
	return 0;
}

static int compare_names(const void *a, const void *b)
{
	char x[RTE_ETH_NAME_MAX_LEN] = "", y[RTE_ETH_NAME_MAX_LEN] = "";

	rte_eth_dev_get_name_by_port(*(const uint16_t *)a, x);
	rte_eth_dev_get_name_by_port(*(const uint16_t *)b, y);
	return strcmp(x, y);
}

int ports_open(struct forwarder *fwd, bool pci, const struct port_spec *specs, unsigned n)
{
	static const struct port_spec by_pci[MAX_PORTS] = {{.name = "cust"}, {.name = "core"}};
	uint16_t ids[RTE_MAX_ETHPORTS], id;
	unsigned n_ids = 0;

	RTE_ETH_FOREACH_DEV(id)
	ids[n_ids++] = id;
	/* Names are PCI addresses or net_af_packetN: both sort in the order that we mean. */
	qsort(ids, n_ids, sizeof(ids[0]), compare_names);
	if (pci) {
		specs = by_pci;
		n = MAX_PORTS;
	}
	if (n_ids < n) {
		log_error("found %u network devices, need %u%s", n_ids, n,
			pci ? "; bind both NICs to vfio-pci" : "");
		return -1;
	}
	fwd->engine.pool = rte_pktmbuf_pool_create(
		"packets", POOL_SIZE, POOL_CACHE, 0, RTE_MBUF_DEFAULT_BUF_SIZE, SOCKET_ID_ANY);
	if (!fwd->engine.pool) {
		log_error("no memory for packet buffers: %s; give DPDK %d MiB",
			rte_strerror(rte_errno), ENVIRONMENT_MIB);
		return -1;
	}
	for (unsigned i = 0; i < n; i++) {
		if (open_port(fwd, i, ids[i], &specs[i]) < 0)
			return -1;
	}
	return 0;
}

void ports_close(struct forwarder *fwd)
{
	for (unsigned i = 0; i < fwd->engine.n_ports; i++) {
		close(fwd->devices[i].tap_fd);
		rte_eth_dev_stop(fwd->devices[i].id);
		rte_eth_dev_close(fwd->devices[i].id);
	}
}
