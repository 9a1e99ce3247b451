/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_STATE_H
#define EDGEPLEX_HOSTD_STATE_H

/*
 * Device state as it goes over the wire: in parts, each the difference (exclusive or) from what
 * the epoch before had in the same place, compressed by LZ4. Most of QEMU's device state never
 * changes (firmware, option ROMs, registers that nobody writes), so some kilobytes remain of nearly
 * a megabyte. docs/protocols.md ("Between hostds") has the format.
 *
 * Sender and receiver each have a history, which must have seen the same parts. An object is to be
 * used from one thread at a time.
 */

#include <stddef.h>
#include <stdint.h>

#define STATE_PART (256u << 10) /* bytes of device state in one frame, at most */
#define STATE_MAX (64u << 20)   /* of one epoch */
#define STATE_MAX_PAYLOAD (8 + STATE_PART)

struct state_history;

/* Returns NULL when memory ran out. */
struct state_history *state_create(void);

/* Accepts NULL. */
void state_destroy(struct state_history *history);

/*
 * Encodes the `n` bytes (1 to STATE_PART) of device state that begin at `offset`. Returns the
 * payload's length and sets `*payload` (the object's own, good until the next call); 0 when memory
 * ran out or the state is longer than STATE_MAX.
 */
size_t state_encode(struct state_history *history, size_t offset, const uint8_t *part, size_t n,
	const uint8_t **payload);

/*
 * Reads a payload of `length` bytes from anyone. Returns 0 with `*part` (the object's own, good
 * until the next call) and `*n`, EBADMSG (it is none, or beyond STATE_MAX), or ENOMEM.
 */
int state_decode(struct state_history *history, size_t offset, const uint8_t *payload,
	size_t length, const uint8_t **part, size_t *n);

#endif
