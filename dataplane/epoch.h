/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_EPOCH_H
#define EDGEPLEX_DATAPLANE_EPOCH_H

/*
 * Quiescent-state reclamation between one writer thread (control) and one reader thread (fast
 * path): what the writer unlinked may be freed once the reader has passed a point where it holds
 * no reference. The reader never waits; a sleeping reader is offline and holds nothing up.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct epoch {
	_Atomic uint64_t now;
	_Atomic uint64_t reader; /* newest epoch the reader has seen; 0: it is offline */
};

#define EPOCH_INITIALIZER             \
	{                             \
		.now = 1, .reader = 0 \
	}

/* Reader: "I hold no reference now". Also brings an offline reader online. */
static inline void epoch_quiescent(struct epoch *epoch)
{
	atomic_store(&epoch->reader, atomic_load(&epoch->now));
	atomic_thread_fence(memory_order_seq_cst);
}

/* Reader: "I hold no reference until the next epoch_quiescent()". */
static inline void epoch_offline(struct epoch *epoch)
{
	atomic_store(&epoch->reader, 0);
}

/* Writer: call after unlinking; what was unlinked may be freed when epoch_passed(stamp). */
static inline uint64_t epoch_stamp(struct epoch *epoch)
{
	return atomic_fetch_add(&epoch->now, 1) + 1;
}

/* Writer. */
static inline bool epoch_passed(struct epoch *epoch, uint64_t stamp)
{
	uint64_t reader;

	atomic_thread_fence(memory_order_seq_cst);
	reader = atomic_load(&epoch->reader);
	return reader == 0 || reader >= stamp;
}

#endif
