/* SPDX-License-Identifier: GPL-2.0-or-later */

#include "testbed/probe/record.h"

#include <endian.h>
#include <string.h>

void probe_write(struct probe_packet *packet, uint32_t flow, uint32_t interval_ns, uint64_t seq,
	uint64_t due_ns, uint64_t sent_ns)
{
	*packet = (struct probe_packet){
		.magic = htobe32(PROBE_MAGIC),
		.flow = htobe32(flow),
		.interval_ns = htobe32(interval_ns),
		.seq = htobe64(seq),
		.due_ns = htobe64(due_ns),
		.sent_ns = htobe64(sent_ns),
	};
}

bool probe_read(const void *payload, size_t n, uint64_t received_ns, struct probe_record *record)
{
	struct probe_packet packet;

	if (n < sizeof(packet))
		return false;
	memcpy(&packet, payload, sizeof(packet));
	*record = (struct probe_record){
		.flow = be32toh(packet.flow),
		.interval_ns = be32toh(packet.interval_ns),
		.seq = be64toh(packet.seq),
		.due_ns = be64toh(packet.due_ns),
		.sent_ns = be64toh(packet.sent_ns),
		.received_ns = received_ns,
	};
	/* A flow's beginning, due - seq * interval, is computed from these. */
	return be32toh(packet.magic) == PROBE_MAGIC && record->interval_ns > 0 &&
	       record->seq <= record->due_ns / record->interval_ns;
}
