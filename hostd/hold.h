/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_HOLD_H
#define EDGEPLEX_HOSTD_HOLD_H

/*
 * Output commit: what a protected VM sends is held in QEMU until the standby has the epoch in which
 * it was sent. Two filter-buffers on each NIC, in a row; both are made by QMP, the VM's definition
 * needs nothing:
 *
 *   guest -> gate -> hold -> the server's bridge
 *
 * - Between two stops the gate is open (off) and frames gather in `hold`.
 * - hold_cut(), while the VM is stopped, shuts the gate: `hold` has exactly the frames of the epoch
 *   that ends, and those of the next gather before the gate. One command for each NIC.
 * - hold_release(), when the standby has acknowledged, while the VM runs: `hold` lets its frames
 * go, takes those before the gate, and the gate opens.
 * - hold_join() instead: there was no epoch after all; its frames wait for the next one.
 *
 * Frames stay in order throughout. QEMU keeps at most 10,000 in each buffer and drops what is more.
 * docs/notes/protect.md has the measurements.
 *
 * Functions return 0 or errno as in qmp.h.
 */

#include "hostd/qmp.h"

#define HOLD_MAX_NICS 16

struct hold;

/*
 * Finds the VM's NICs and makes their buffers, open; removes what an earlier hostd left. With
 * `really` false nothing is ever held.
 */
int hold_create(struct qmp *qmp, bool really, int timeout_ms, struct hold **hold);

/* Frees the object only: QEMU keeps what it has. Accepts NULL. */
void hold_destroy(struct hold *hold);

size_t hold_n_nics(const struct hold *hold);

/* From now on frames are held. */
int hold_begin(struct hold *hold, int timeout_ms);

/* The calls that shut the gates, for a batch with the stop: up to HOLD_MAX_NICS. Returns how many.
 */
size_t hold_cut(struct hold *hold, struct qmp_call *calls);

int hold_release(struct hold *hold, int timeout_ms);
int hold_join(struct hold *hold, int timeout_ms);

/* Lets everything go, in order, and removes the buffers. */
int hold_end(struct hold *hold, int timeout_ms);

/* The same on a QEMU of which nothing is known but its monitor; it may have no buffers. */
int hold_recover(struct qmp *qmp, int timeout_ms);

#endif
