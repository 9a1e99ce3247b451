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
 * Starts DPDK's environment, with `pci` for the NICs bound to vfio-pci. DPDK keeps its files in
 * `run_dir`. Leaves the calling thread's CPU affinity as it was. Returns 0, or -1; logs why.
 */
int ports_start_environment(bool pci, const char *run_dir);

/*
 * Makes the packet pool, opens the devices and their TAPs: with `pci` the first NIC is `cust`, the
 * second `core`, else as MAX_PORTS `specs` say. Returns 0, or -1; logs why.
 */
int ports_open(struct forwarder *fwd, bool pci, const struct port_spec *specs);

/*
 * Has the NIC of a port receive at `mac`, if it doesn't yet. All ports are promiscuous, so one that
 * can't be told (logged) works nevertheless. Control thread.
 */
void port_set_mac(struct forwarder *fwd, unsigned port, const struct rte_ether_addr *mac);

/* Stops and closes devices. TAPs stay, without carrier. */
void ports_close(struct forwarder *fwd);

/* Receives up to `n` frames, which become the caller's. Returns how many. Fast path. */
unsigned port_receive(struct forwarder *fwd, unsigned port, struct rte_mbuf **frames, unsigned n);

/* Sends frames; returns how many were taken: the rest stay the caller's. Fast path. */
unsigned port_send(struct forwarder *fwd, unsigned port, struct rte_mbuf **frames, unsigned n);

#endif
