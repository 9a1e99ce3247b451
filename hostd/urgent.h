/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_HOSTD_URGENT_H
#define EDGEPLEX_HOSTD_URGENT_H

/*
 * While a VM stands still nothing on its server is more urgent than the calling thread and QEMU's
 * main one (which passes it on to the one that saves device state): some milliseconds. Without the
 * privilege it is done without.
 */

#include <errno.h>
#include <sched.h>
#include <string.h>

#include "common/log.h"

static inline void urgent_begin(pid_t qemu)
{
	const struct sched_param param = {.sched_priority = 1};

	if (sched_setscheduler(qemu, SCHED_RR, &param) < 0 ||
		sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &param) < 0)
		log_debug("no real-time priority for a stop: %s", strerror(errno));
}

static inline void urgent_end(pid_t qemu)
{
	const struct sched_param param = {.sched_priority = 0};

	sched_setscheduler(qemu, SCHED_OTHER, &param);
	sched_setscheduler(0, SCHED_OTHER, &param);
}

#endif
