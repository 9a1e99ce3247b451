/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_PACKET_SOCKET_H
#define EDGEPLEX_DATAPLANE_PACKET_SOCKET_H

/*
 * A kernel network device (veth, tap, NIC) as a port, by a packet socket. DPDK's own driver for it
 * lets the kernel put IP fragments together, which a router must not see, and has no descriptor to
 * wait for; this one has. Offloads of the device must be off.
 */

#include <stdint.h>
#include <rte_ether.h>
#include <rte_mbuf.h>

/*
 * Opens `device` in promiscuous mode, keeps the kernel from answering on it, and reads its MAC
 * address. Returns a non-blocking descriptor, or -1; logs why.
 */
int packet_socket_open(const char *device, struct rte_ether_addr *mac);

/* Receives up to `n` frames (at most 32) in buffers of `pool`. Returns how many. */
unsigned packet_socket_receive(
	int fd, struct rte_mempool *pool, struct rte_mbuf **frames, unsigned n);

/* Sends frames; returns how many were taken (and freed). */
unsigned packet_socket_send(int fd, struct rte_mbuf **frames, unsigned n);

#endif
