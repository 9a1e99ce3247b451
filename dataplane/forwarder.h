/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_FORWARDER_H
#define EDGEPLEX_DATAPLANE_FORWARDER_H

/* What the forwarder's control thread has: the engine, and what feeds it. */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <netinet/in.h>

#include "common/fib_msg.h"
#include "dataplane/engine.h"

/* One port's devices: the NIC (by DPDK, or the kernel's) and the TAP that stands for it in the
 * kernel. */
struct port_device {
	uint16_t id;     /* of the DPDK device, when there is no socket */
	bool interrupts; /* its receive queue can wake us */
	int socket_fd;   /* packet socket of a kernel device, or -1 */
	int tap_fd;
	struct rte_ether_addr own_mac; /* the NIC's own */
	struct rte_ether_addr mac;     /* what the NIC was last told to receive at */
	bool link;                     /* as last shown to the kernel; control thread */
	uint64_t down_ms;              /* since when a NIC by PCI says otherwise; 0: it doesn't */
	char host_device[IFNAMSIZ];    /* "" when the NIC is ours by PCI */
};

struct routes;

struct forwarder {
	struct engine engine;
	struct fib_domain *domain;
	struct port_device devices[MAX_PORTS];
	struct routes *routes;
	uint64_t start_ms;
	_Atomic bool stop;
	_Atomic bool sleeping;
	int wake_fd; /* eventfd that wakes the fast path: to stop, or to show that it is alive */
	_Atomic uint64_t turns; /* of the fast path's loop */
	/* Rehearsals (rehearsal.h), counted by the control thread, and done by the fast path. */
	_Atomic unsigned rehearsals_asked, rehearsals_done;
	_Atomic unsigned rehearsed; /* packets that went through in the last one */
};

/* CLOCK_MONOTONIC in milliseconds. */
uint64_t now_ms(void);

#endif
