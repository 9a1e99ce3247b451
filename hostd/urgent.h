/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_URGENT_H
#define EDGEPLEX_HOSTD_URGENT_H

/*
 * While a VM stands still nothing on its server is more urgent than the calling thread and QEMU's:
 * its main one, that which saves device state, and the vCPUs', which have to leave the guest before
 * anything else can begin. Real-time priority (SCHED_RR), for some milliseconds; without the
 * privilege it is done without. docs/notes/protect.md has what it brings.
 *
 * A thread of QEMU's that has a real-time policy already, as by <vcpusched>, keeps it; but SCHED_RR
 * with the priority below is taken for ours, and ends with the stop.
 */

#include <sys/types.h>

#define URGENT_PRIORITY 3

/* Of all threads that `qemu` has now (they pass it on to those they start), and of the caller. */
void urgent_begin(pid_t qemu);

/* Back to ordinary priority. May be called without a begin. */
void urgent_end(pid_t qemu);

/* The same for one side only. */
void urgent_end_self(void);
void urgent_end_qemu(pid_t qemu);

#endif
