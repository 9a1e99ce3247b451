/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_PORT_H
#define EDGEPLEX_DATAPLANE_PORT_H

/* Ports: DPDK's environment and the devices under it. */

#include <stdbool.h>

#include "dataplane/forwarder.h"

/* What the command line says. */
struct port_spec {
	char name[IFNAMSIZ];
	char device[IFNAMSIZ];
};

/*
 * Starts DPDK's environment: with `pci` for the NICs bound to vfio-pci, else for `specs`, kernel
 * devices that are reached by packet sockets. DPDK keeps its files in `run_dir`. Leaves the calling
 * thread's CPU affinity as it was. Returns 0, or -1; logs why.
 */
int ports_start_environment(
	bool pci, const struct port_spec *specs, unsigned n, const char *run_dir);

/*
 * Opens the devices and their TAPs, and makes the packet pool. With `pci` the first NIC is `cust`,
 * the second `core`. Returns 0, or -1; logs why.
 */
int ports_open(struct forwarder *fwd, bool pci, const struct port_spec *specs, unsigned n);

/* Stops and closes devices. TAPs stay, without carrier. */
void ports_close(struct forwarder *fwd);

#endif
