/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef EDGEPLEX_DATAPLANE_TAP_H
#define EDGEPLEX_DATAPLANE_TAP_H

/* The persistent TAP that stands for a port in the kernel. */

#include <stdbool.h>
#include <stdint.h>

/*
 * Opens TAP `name`, making it if needed; it outlives the process, with its addresses. Returns a
 * non-blocking descriptor, or -1 with errno; logs why.
 */
int tap_attach(const char *name);

/* Shows link state to the kernel. Returns 0 or errno. */
int tap_set_carrier(int fd, bool up);

#endif
