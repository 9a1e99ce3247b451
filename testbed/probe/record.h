/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_PROBE_RECORD_H
#define EDGEPLEX_PROBE_RECORD_H

/*
 * What a probe says on the wire, and what its receiver keeps of it. Times are nanoseconds since the
 * epoch (CLOCK_REALTIME); sender and receiver share the machine's clock.
 */

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROBE_MAGIC 0x45505042u /* "EPPB" */
#define PROBE_MIN_BYTES 40
#define PROBE_MAX_BYTES 9000

/* The beginning of a probe's payload, big-endian; the rest is padding. */
struct probe_packet {
	uint32_t magic;
	uint32_t flow;
	uint32_t interval_ns; /* between two probes of the flow */
	uint32_t reserved;
	uint64_t seq;     /* from 0 */
	uint64_t due_ns;  /* when it should have been sent: start of the flow + seq * interval */
	uint64_t sent_ns; /* when it was handed to the kernel */
};
static_assert(sizeof(struct probe_packet) == PROBE_MIN_BYTES, "goes over the wire");

/* One received probe; a receiver's file is a row of these in the order of arrival. */
struct probe_record {
	uint32_t flow;
	uint32_t interval_ns;
	uint64_t seq;
	uint64_t due_ns;
	uint64_t sent_ns;
	uint64_t received_ns; /* when the receiver's kernel got it */
};
static_assert(sizeof(struct probe_record) == 40, "goes to a file");

/* Writes a packet's payload. */
void probe_write(struct probe_packet *packet, uint32_t flow, uint32_t interval_ns, uint64_t seq,
	uint64_t due_ns, uint64_t sent_ns);

/* Reads a payload of `n` bytes that came from anywhere. Returns whether it is a probe. */
bool probe_read(const void *payload, size_t n, uint64_t received_ns, struct probe_record *record);

#endif
